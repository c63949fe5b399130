//! `ReadBuffer` and `WriteBuffer`: lines, limits, ends and errors, on a stream made of memory.

use std::collections::VecDeque;

use fastsocketserver::{ReadBuffer, Room, WriteBuffer};

/// What goes wrong with a stream here.
#[derive(Debug, PartialEq)]
struct Broken;

/// What happens to one receiving.
enum Event {
    Data(Vec<u8>),
    NotYet,
    Fails,
}
use Event::{Fails, NotYet};

fn data(bytes: impl AsRef<[u8]>) -> Event {
    Event::Data(bytes.as_ref().to_vec())
}

/// A stream of events; it has ended when there are no more.
struct Stream {
    events: VecDeque<Event>,
    /// How large each slice was that was to be filled.
    asked: Vec<usize>,
}

impl Stream {
    fn new(events: impl IntoIterator<Item = Event>) -> Self {
        Self { events: events.into_iter().collect(), asked: Vec::new() }
    }

    fn receive(&mut self, room: &mut Room<'_>) -> Result<Option<usize>, Broken> {
        self.asked.push(room.left());
        match self.events.pop_front() {
            Some(Event::Data(mut bytes)) => {
                let length = room.put(&bytes);
                if length < bytes.len() {
                    self.events.push_front(Event::Data(bytes.split_off(length)));
                }
                Ok(Some(length))
            }
            Some(NotYet) => Ok(None),
            Some(Fails) => Err(Broken),
            None => Ok(Some(0)),
        }
    }

    fn left(&self) -> usize {
        let length = |event: &Event| if let Event::Data(bytes) = event { bytes.len() } else { 0 };
        self.events.iter().map(length).sum()
    }

    fn line(&mut self, buffer: &mut ReadBuffer, limit: Option<usize>) -> Result<Vec<u8>, Broken> {
        buffer.read_line(limit, |room| self.receive(room), <[u8]>::to_vec)
    }

    /// Reads `length` bytes, or what there is of them.
    fn read(&mut self, buffer: &mut ReadBuffer, length: usize) -> Result<Option<Vec<u8>>, Broken> {
        let mut target = vec![0; length];
        let read = buffer.read(&mut Room::over(&mut target), |room| self.receive(room))?;
        Ok(read.map(|length| target[..length].to_vec()))
    }

    fn read_to_end(&mut self, buffer: &mut ReadBuffer) -> Result<Option<Vec<u8>>, Broken> {
        buffer.read_to_end(|room| self.receive(room), <[u8]>::to_vec)
    }
}

#[test]
fn lines_are_found_wherever_the_stream_is_split() {
    let text = b"one\n\ntwo and a half\r\nthree\0\nlast";
    let lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
    for size in [1, 2, 3, 5, 64] {
        for piece in 1..=text.len() {
            let mut stream = Stream::new(text.chunks(piece).map(data));
            let mut buffer = ReadBuffer::new(size);
            for line in &lines {
                assert_eq!(stream.line(&mut buffer, None).as_deref(), Ok(*line));
            }
            assert_eq!(stream.line(&mut buffer, None).as_deref(), Ok(&b""[..]));
        }
    }
}

#[test]
fn one_line_is_received_at_once_and_not_waited_beyond() {
    let mut stream = Stream::new([data("line\n"), Fails]);
    let mut buffer = ReadBuffer::new(100);
    assert_eq!(stream.line(&mut buffer, None).as_deref(), Ok(&b"line\n"[..]));
    assert_eq!(stream.asked, [100]);
}

#[test]
fn lines_that_came_together_are_received_once() {
    let mut stream = Stream::new([data("a\nb\nc"), data("d\ne")]);
    let mut buffer = ReadBuffer::new(100);
    for line in ["a\n", "b\n", "cd\n"] {
        assert_eq!(stream.line(&mut buffer, None).as_deref(), Ok(line.as_bytes()));
    }
    assert_eq!(stream.asked, [100, 100]);
    assert_eq!(buffer.unread(), b"e");
}

#[test]
fn a_limit_cuts_a_line_and_leaves_the_rest() {
    for (limit, lines) in [
        (1, &["a", "b", "\n", "c"][..]),
        (2, &["ab", "\n", "cd", "\n"]),
        (3, &["ab\n", "cd\n"]),
        (4, &["ab\n", "cd\n"]),
    ] {
        for pieces in [&["ab\ncd\n"][..], &["a", "b\nc", "d\n"], &["ab", "\n", "cd", "\n"]] {
            let mut stream = Stream::new(pieces.iter().map(data));
            let mut buffer = ReadBuffer::new(100);
            for line in lines {
                assert_eq!(stream.line(&mut buffer, Some(limit)).as_deref(), Ok(line.as_bytes()));
            }
        }
    }
}

#[test]
fn a_limit_of_zero_receives_nothing() {
    let mut stream = Stream::new([data("ab\n")]);
    let mut buffer = ReadBuffer::new(100);
    assert_eq!(stream.line(&mut buffer, Some(0)).as_deref(), Ok(&b""[..]));
    assert!(stream.asked.is_empty());
}

#[test]
fn a_line_that_has_not_come_yet_is_what_there_is_of_it() {
    let mut stream = Stream::new([NotYet, data("ab"), NotYet, data("c"), data("d\n")]);
    let mut buffer = ReadBuffer::new(100);
    for line in ["", "ab", "cd\n"] {
        assert_eq!(stream.line(&mut buffer, None).as_deref(), Ok(line.as_bytes()));
    }
}

#[test]
fn a_long_line_is_received_by_the_size_of_the_buffer() {
    let mut line = vec![b'x'; 70_000];
    line.push(b'\n');
    for size in [1000, 8192, 30_000, 100_000] {
        let mut stream = Stream::new([data(&line), data("rest")]);
        let mut buffer = ReadBuffer::new(size);
        assert_eq!(stream.line(&mut buffer, None).as_deref(), Ok(&line[..]));
        assert!(stream.asked.iter().all(|&asked| asked == size), "{:?}", stream.asked);
        assert_eq!(stream.read(&mut buffer, 4), Ok(Some(b"rest".to_vec())));
    }
}

#[test]
fn an_error_in_the_middle_keeps_what_was_received() {
    type Reading = fn(&mut Stream, &mut ReadBuffer) -> Result<Option<Vec<u8>>, Broken>;
    let readings: [Reading; 5] = [
        |stream, buffer| stream.line(buffer, None).map(Some),
        |stream, buffer| stream.line(buffer, Some(100)).map(Some),
        |stream, buffer| stream.read(buffer, 9),
        |stream, buffer| stream.read(buffer, 1000),
        Stream::read_to_end,
    ];
    for reading in readings {
        for size in [1, 2, 16, 100] {
            let mut stream = Stream::new([data("a\nbc"), data("de"), Fails, data("fg\n")]);
            let mut buffer = ReadBuffer::new(size);
            assert_eq!(stream.line(&mut buffer, None).as_deref(), Ok(&b"a\n"[..]));
            assert_eq!(reading(&mut stream, &mut buffer), Err(Broken));
            assert_eq!(buffer.unread(), b"bcde");
            assert_eq!(stream.line(&mut buffer, None).as_deref(), Ok(&b"bcdefg\n"[..]));
        }
    }
}

#[test]
fn a_read_goes_on_from_the_buffer_to_the_stream() {
    let mut stream = Stream::new([data("line\nbo"), data("dy of 12"), data("xrest")]);
    let mut buffer = ReadBuffer::new(100);
    assert_eq!(stream.line(&mut buffer, None).as_deref(), Ok(&b"line\n"[..]));
    assert_eq!(stream.read(&mut buffer, 11), Ok(Some(b"body of 12x".to_vec())));
    assert_eq!(buffer.unread(), b"rest");
    assert_eq!(stream.read(&mut buffer, 5), Ok(Some(b"rest".to_vec())));
    assert_eq!(stream.read(&mut buffer, 5), Ok(Some(Vec::new())));
}

#[test]
fn a_read_of_a_buffer_or_more_is_received_in_place() {
    let mut stream = Stream::new([data([1; 50])]);
    let mut buffer = ReadBuffer::new(16);
    assert_eq!(stream.read(&mut buffer, 40), Ok(Some(vec![1; 40])));
    assert_eq!((stream.asked.as_slice(), stream.left()), (&[40][..], 10));
    assert_eq!(stream.read(&mut buffer, 3), Ok(Some(vec![1; 3])));
    assert_eq!((stream.asked.as_slice(), stream.left()), (&[40, 16][..], 0));
    assert_eq!(buffer.unread(), [1; 7]);
}

#[test]
fn a_read_of_nothing_receives_nothing() {
    let mut stream = Stream::new([data("ab")]);
    let mut buffer = ReadBuffer::new(16);
    assert_eq!(stream.read(&mut buffer, 0), Ok(Some(Vec::new())));
    assert!(stream.asked.is_empty());
}

#[test]
fn a_read_that_would_block_has_what_came_before() {
    for size in [1, 16] {
        let mut stream = Stream::new([NotYet, data("abc"), NotYet, data("d")]);
        let mut buffer = ReadBuffer::new(size);
        assert_eq!(stream.read(&mut buffer, 9), Ok(None));
        assert_eq!(stream.read(&mut buffer, 9), Ok(Some(b"abc".to_vec())));
        assert_eq!(stream.read(&mut buffer, 9), Ok(Some(b"d".to_vec())));
    }
}

#[test]
fn all_of_the_stream_is_read_to_its_end() {
    let text: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for size in [1000, 8192, 65536] {
        let mut stream = Stream::new(text.chunks(7777).map(data));
        let mut buffer = ReadBuffer::new(size);
        assert_eq!(stream.read(&mut buffer, 10), Ok(Some(text[..10].to_vec())));
        assert_eq!(stream.read_to_end(&mut buffer), Ok(Some(text[10..].to_vec())));
        assert_eq!(stream.read_to_end(&mut buffer), Ok(Some(Vec::new())));
    }
}

#[test]
fn reading_to_the_end_stops_where_it_would_block() {
    let mut stream = Stream::new([NotYet, data("ab"), data("c"), NotYet, data("d")]);
    let mut buffer = ReadBuffer::new(16);
    assert_eq!(stream.read_to_end(&mut buffer), Ok(None));
    assert_eq!(stream.read_to_end(&mut buffer), Ok(Some(b"abc".to_vec())));
    assert_eq!(stream.read_to_end(&mut buffer), Ok(Some(b"d".to_vec())));
}

#[test]
fn a_peek_takes_nothing_and_receives_only_for_an_empty_buffer() {
    let mut stream = Stream::new([NotYet, data("ab"), data("c"), Fails]);
    let mut buffer = ReadBuffer::new(16);
    assert_eq!(buffer.peek(|room| stream.receive(room)), Ok(None));
    assert_eq!(buffer.peek(|room| stream.receive(room)), Ok(Some(2)));
    assert_eq!(buffer.peek(|room| stream.receive(room)), Ok(Some(2)));
    let mut target = [0; 5];
    assert_eq!(buffer.take(&mut Room::over(&mut target[..1])), 1);
    assert_eq!(buffer.unread(), b"b");
    assert_eq!(buffer.take(&mut Room::over(&mut target)), 1);
    assert_eq!(buffer.take(&mut Room::over(&mut target)), 0);
    assert_eq!(buffer.peek(|room| stream.receive(room)), Ok(Some(1)));
    assert_eq!(buffer.take(&mut Room::over(&mut target)), 1);
    assert_eq!(buffer.peek(|room| stream.receive(room)), Err(Broken));
    assert_eq!(buffer.peek(|room| stream.receive(room)), Ok(Some(0)));
}

#[test]
fn what_is_put_back_is_read_again_before_the_rest() {
    let mut stream = Stream::new([data("a\nb\nc")]);
    let mut buffer = ReadBuffer::new(16);
    buffer.put_back(b"0\n");
    for line in ["0\n", "a\n", "b\n"] {
        assert_eq!(stream.line(&mut buffer, None).as_deref(), Ok(line.as_bytes()));
    }
    buffer.put_back(b"a\nb\n");
    assert_eq!(buffer.unread(), b"a\nb\nc");
    assert_eq!(stream.line(&mut buffer, None).as_deref(), Ok(&b"a\n"[..]));
}

#[test]
fn a_buffer_of_size_zero_receives_byte_by_byte() {
    let mut stream = Stream::new([data("ab\ncd")]);
    let mut buffer = ReadBuffer::new(0);
    assert_eq!(stream.line(&mut buffer, None).as_deref(), Ok(&b"ab\n"[..]));
    assert_eq!(stream.left(), 2);
}

/// A stream that takes as much as each of `takes` says, then all.
struct Sink {
    takes: VecDeque<Result<Option<usize>, Broken>>,
    sent: Vec<Vec<u8>>,
}

impl Sink {
    fn new(takes: impl IntoIterator<Item = Result<Option<usize>, Broken>>) -> Self {
        Self { takes: takes.into_iter().collect(), sent: Vec::new() }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<Option<usize>, Broken> {
        let length = match self.takes.pop_front() {
            Some(Ok(Some(length))) => length.min(bytes.len()),
            Some(end) => return end,
            None => bytes.len(),
        };
        self.sent.push(bytes[..length].to_vec());
        Ok(Some(length))
    }

    fn write(
        &mut self,
        buffer: &mut WriteBuffer,
        bytes: impl AsRef<[u8]>,
    ) -> Result<usize, Broken> {
        buffer.write(bytes.as_ref(), |bytes| self.send(bytes))
    }

    fn flush(&mut self, buffer: &mut WriteBuffer) -> Result<bool, Broken> {
        buffer.flush(|bytes| self.send(bytes))
    }

    fn all(&self) -> Vec<u8> {
        self.sent.concat()
    }
}

#[test]
fn writes_are_held_back_until_one_does_not_fit() {
    let mut sink = Sink::new([]);
    let mut buffer = WriteBuffer::new(8);
    assert_eq!(sink.write(&mut buffer, "abcde"), Ok(5));
    assert_eq!(sink.write(&mut buffer, "fgh"), Ok(3));
    assert!(sink.sent.is_empty());
    assert_eq!(sink.write(&mut buffer, "ij"), Ok(2));
    assert_eq!(sink.sent, [b"abcdefgh"]);
    assert_eq!(sink.flush(&mut buffer), Ok(true));
    assert_eq!(sink.sent, [&b"abcdefgh"[..], b"ij"]);
    assert!(buffer.is_empty());
}

#[test]
fn a_write_larger_than_the_buffer_is_sent_from_where_it_is() {
    let mut sink = Sink::new([Ok(Some(3)), Ok(Some(1)), Ok(Some(10))]);
    let mut buffer = WriteBuffer::new(8);
    assert_eq!(sink.write(&mut buffer, "abcd"), Ok(4));
    assert_eq!(sink.write(&mut buffer, "0123456789ABCDEF"), Ok(16));
    assert_eq!(sink.sent, [&b"abc"[..], b"d", b"0123456789"]);
    assert_eq!(sink.flush(&mut buffer), Ok(true));
    assert_eq!(sink.all(), b"abcd0123456789ABCDEF");
}

#[test]
fn a_write_as_long_as_the_buffer_is_held_back_or_not() {
    for (mut buffer, first) in
        [(WriteBuffer::new(4), 2), (WriteBuffer::new(4).sending_whole_buffers(), 6)]
    {
        let mut sink = Sink::new([]);
        assert_eq!(sink.write(&mut buffer, "ab"), Ok(2));
        assert_eq!(sink.write(&mut buffer, "0123"), Ok(4));
        assert_eq!(sink.all().len(), first);
        assert_eq!(sink.flush(&mut buffer), Ok(true));
        assert_eq!(sink.all(), b"ab0123");
    }
}

#[test]
fn a_write_of_nothing_sends_nothing() {
    for size in [0, 4] {
        let mut sink = Sink::new([Err(Broken)]);
        let mut buffer = WriteBuffer::new(size).sending_whole_buffers();
        assert_eq!(sink.write(&mut buffer, ""), Ok(0));
        assert!(sink.sent.is_empty());
    }
}

#[test]
fn a_flush_goes_on_after_a_part() {
    let mut sink = Sink::new([Ok(Some(1)), Ok(Some(2)), Ok(Some(1))]);
    let mut buffer = WriteBuffer::new(8);
    assert_eq!(sink.write(&mut buffer, "abcd"), Ok(4));
    assert_eq!(sink.flush(&mut buffer), Ok(true));
    assert_eq!(sink.sent, [&b"a"[..], b"bc", b"d"]);
}

#[test]
fn a_flush_of_nothing_sends_nothing() {
    let mut sink = Sink::new([Err(Broken)]);
    assert_eq!(sink.flush(&mut WriteBuffer::new(8)), Ok(true));
}

#[test]
fn a_flush_that_fails_keeps_what_was_not_sent() {
    for (end, outcome) in [(Ok(None), Ok(false)), (Err(Broken), Err(Broken))] {
        let mut sink = Sink::new([Ok(Some(3)), end]);
        let mut buffer = WriteBuffer::new(8);
        assert_eq!(sink.write(&mut buffer, "abcdef"), Ok(6));
        assert_eq!(sink.flush(&mut buffer), outcome);
        assert!(!buffer.is_empty());
        assert_eq!(sink.all(), b"abc");
        assert_eq!(sink.flush(&mut buffer), Ok(true));
        assert_eq!(sink.all(), b"abcdef");
    }
}

#[test]
fn a_write_without_room_takes_what_the_buffer_holds() {
    let mut sink = Sink::new([Ok(Some(2)), Ok(None)]);
    let mut buffer = WriteBuffer::new(8);
    assert_eq!(sink.write(&mut buffer, "abcdef"), Ok(6));
    assert_eq!(sink.write(&mut buffer, "0123456789"), Ok(4));
    assert_eq!(sink.flush(&mut buffer), Ok(true));
    assert_eq!(sink.all(), b"abcdef0123");
}

#[test]
fn a_large_write_without_room_is_taken_as_far_as_it_goes() {
    let mut sink = Sink::new([Ok(Some(5)), Ok(None)]);
    let mut buffer = WriteBuffer::new(4);
    assert_eq!(sink.write(&mut buffer, "0123456789ABCDEF"), Ok(9));
    assert_eq!(sink.flush(&mut buffer), Ok(true));
    assert_eq!(sink.all(), b"012345678");
}

#[test]
fn an_error_of_a_write_leaves_what_was_held() {
    let mut sink = Sink::new([Err(Broken)]);
    let mut buffer = WriteBuffer::new(8);
    assert_eq!(sink.write(&mut buffer, "abcdef"), Ok(6));
    assert_eq!(sink.write(&mut buffer, "0123"), Err(Broken));
    assert_eq!(sink.flush(&mut buffer), Ok(true));
    assert_eq!(sink.all(), b"abcdef");
}

#[test]
fn what_is_cleared_is_never_sent() {
    let mut sink = Sink::new([]);
    let mut buffer = WriteBuffer::new(8);
    assert_eq!(sink.write(&mut buffer, "abc"), Ok(3));
    buffer.clear();
    assert!(buffer.is_empty());
    assert_eq!(sink.flush(&mut buffer), Ok(true));
    assert!(sink.sent.is_empty());
}
