//! Buffers between a stream and who reads it by lines or writes it in pieces.
//!
//! Neither knows descriptors or how to wait: the caller passes in how to receive or send, which
//! returns `None` where that would block and blocking is not wanted. Neither holds memory while it
//! is empty: an idle connection costs none.

use std::mem::MaybeUninit;

use memchr::memchr;

use crate::sys::Room;

/// Bytes that have been received and not been read yet.
///
/// Each method takes `receive`, which puts bytes from the stream into a [`Room`] and returns how many,
/// 0 at the end of the stream, or `None` if none have come yet. What was received before an
/// error stays here.
///
/// ```
/// use fastsocketserver::{ReadBuffer, Room};
///
/// let mut stream: &[u8] = b"one\ntwo\n";
/// let mut receive = |room: &mut Room<'_>| {
///     let length = room.put(stream);
///     stream = &stream[length..];
///     Ok::<_, std::io::Error>(Some(length))
/// };
/// let mut buffer = ReadBuffer::new(8192);
/// for line in [&b"one\n"[..], b"two\n", b""] {
///     assert_eq!(buffer.read_line(None, &mut receive, <[u8]>::to_vec)?, line);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct ReadBuffer {
    bytes: Vec<u8>,
    /// Where the unread ones begin.
    start: usize,
    size: usize,
}

/// Received bytes go here first. Most of the time they are one whole line, and are handed over from
/// here: then nothing is allocated.
const ON_STACK: usize = 8192;

impl ReadBuffer {
    /// A buffer that receives at most `size` bytes ahead; 0 counts as 1.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, size: size.max(1) }
    }

    /// The bytes that have been received and not been read.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Reads one line, its `\n` included, and has `deliver` make of it what is returned.
    ///
    /// It is shorter at the end of the stream, where nothing has come yet, and after `limit` bytes.
    ///
    /// # Errors
    ///
    /// What `receive` returns.
    // The frame of a caller who waits between two calls shall not have the room in it.
    #[inline(never)]
    pub fn read_line<T, E>(
        &mut self,
        limit: Option<usize>,
        mut receive: impl FnMut(&mut Room<'_>) -> Result<Option<usize>, E>,
        deliver: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, E> {
        let limit = limit.unwrap_or(usize::MAX);
        let mut searched = 0;
        loop {
            if let Some(length) = line_length(self.unread(), searched, limit) {
                return Ok(self.deliver(length, deliver));
            }
            searched = self.unread().len();
            let mut on_stack = [MaybeUninit::uninit(); ON_STACK];
            let mut on_heap = Vec::new();
            let mut room = room(&mut on_stack, &mut on_heap, self.size);
            let Some(1..) = receive(&mut room)? else {
                return Ok(self.deliver(searched, deliver));
            };
            let received = room.filled();
            if searched == 0 {
                if let Some(length) = line_length(received, 0, limit) {
                    let delivered = deliver(&received[..length]);
                    self.append(&received[length..]);
                    return Ok(delivered);
                }
            }
            self.append(received);
        }
    }

    /// Reads into `target` until it is full; returns how many bytes that were.
    ///
    /// They are fewer at the end of the stream; `None` where none at all have come yet.
    ///
    /// # Errors
    ///
    /// What `receive` returns; what came before it is unread again.
    pub fn read<E>(
        &mut self,
        target: &mut Room<'_>,
        receive: impl FnMut(&mut Room<'_>) -> Result<Option<usize>, E>,
    ) -> Result<Option<usize>, E> {
        let outcome = self.read_on(target, receive);
        if outcome.is_err() {
            self.put_back(target.filled());
        }
        outcome
    }

    /// Like [`read`](Self::read), but what came before an error stays in `target`: called again with
    /// the same, it goes on.
    ///
    /// # Errors
    ///
    /// What `receive` returns.
    pub fn read_on<E>(
        &mut self,
        target: &mut Room<'_>,
        mut receive: impl FnMut(&mut Room<'_>) -> Result<Option<usize>, E>,
    ) -> Result<Option<usize>, E> {
        self.take(target);
        while target.left() > 0 {
            let received = if target.left() >= self.size {
                receive(target)?
            } else {
                let received = self.fill(&mut receive)?;
                self.take(target);
                received
            };
            match received {
                Some(1..) => {}
                None if target.filled().is_empty() => return Ok(None),
                _ => break,
            }
        }
        Ok(Some(target.filled().len()))
    }

    /// Reads to the end of the stream, or as far as bytes have come, and has `deliver` make of them
    /// what is returned; `None` where none at all have come yet.
    ///
    /// # Errors
    ///
    /// What `receive` returns.
    pub fn read_to_end<T, E>(
        &mut self,
        mut receive: impl FnMut(&mut Room<'_>) -> Result<Option<usize>, E>,
        deliver: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, E> {
        loop {
            match self.fill(&mut receive)? {
                Some(0) => break,
                Some(_) => {}
                None if self.unread().is_empty() => return Ok(None),
                None => break,
            }
        }
        let length = self.unread().len();
        Ok(Some(self.deliver(length, deliver)))
    }

    /// Makes sure that something is unread, if that takes no more than receiving once; says whether
    /// it does: `Some(0)` means the end of the stream, `None` that nothing has come yet.
    ///
    /// # Errors
    ///
    /// What `receive` returns.
    pub fn peek<E>(
        &mut self,
        mut receive: impl FnMut(&mut Room<'_>) -> Result<Option<usize>, E>,
    ) -> Result<Option<usize>, E> {
        if self.unread().is_empty() {
            self.fill(&mut receive)
        } else {
            Ok(Some(self.unread().len()))
        }
    }

    /// Moves unread bytes into `target`, as many as there are and as it takes.
    pub fn take(&mut self, target: &mut Room<'_>) -> usize {
        let length = target.put(self.unread());
        self.consume(length);
        length
    }

    /// Makes `bytes`, which have been read, the first unread ones again.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.bytes.splice(..self.start, bytes.iter().copied());
        self.start = 0;
    }

    /// Receives once, behind what is unread.
    #[inline(never)]
    fn fill<E>(
        &mut self,
        receive: &mut impl FnMut(&mut Room<'_>) -> Result<Option<usize>, E>,
    ) -> Result<Option<usize>, E> {
        let mut on_stack = [MaybeUninit::uninit(); ON_STACK];
        let mut on_heap = Vec::new();
        // A long stream is received in long pieces, as it would be into a file of that length.
        let wanted = self.size.max(self.unread().len().min(1 << 20));
        let mut room = room(&mut on_stack, &mut on_heap, wanted);
        let received = receive(&mut room)?;
        self.append(room.filled());
        Ok(received)
    }

    fn append(&mut self, received: &[u8]) {
        if received.is_empty() {
            return;
        }
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(received);
    }

    /// Delivers the first `length` unread bytes, which are read then.
    fn deliver<T>(&mut self, length: usize, deliver: impl FnOnce(&[u8]) -> T) -> T {
        let delivered = deliver(&self.unread()[..length]);
        self.consume(length);
        delivered
    }

    /// Forgets the first `length` unread bytes, or all that there are.
    pub fn consume(&mut self, length: usize) {
        self.start += length.min(self.unread().len());
        if self.start == self.bytes.len() {
            *self = Self::new(self.size);
        }
    }
}

/// Where to receive `wanted` bytes.
fn room<'a>(
    on_stack: &'a mut [MaybeUninit<u8>],
    on_heap: &'a mut Vec<MaybeUninit<u8>>,
    wanted: usize,
) -> Room<'a> {
    if wanted <= on_stack.len() {
        return Room::new(&mut on_stack[..wanted]);
    }
    on_heap.resize(wanted, MaybeUninit::uninit());
    Room::new(on_heap)
}

/// How long the line is that `bytes` begins with, if they hold all of it; the first `searched` bytes
/// are known to have no `\n`.
fn line_length(bytes: &[u8], searched: usize, limit: usize) -> Option<usize> {
    let end = bytes.len().min(limit);
    let found = memchr(b'\n', &bytes[searched.min(end)..end]).map(|at| searched + at + 1);
    found.or((end == limit).then_some(limit))
}

/// Bytes that have been written and not been sent yet.
///
/// Each method takes `send`, which sends a part of a slice and returns how many bytes that were, or
/// `None` if there is no room for any yet. What could not be sent stays here.
///
/// ```
/// use fastsocketserver::WriteBuffer;
///
/// let mut sent = Vec::new();
/// let mut send = |data: &[u8]| {
///     sent.extend_from_slice(data);
///     Ok::<_, std::io::Error>(Some(data.len()))
/// };
/// let mut buffer = WriteBuffer::new(8192);
/// buffer.write(b"one ", &mut send)?;
/// buffer.write(b"two", &mut send)?;
/// assert!(buffer.flush(&mut send)?);
/// assert_eq!(sent, b"one two");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct WriteBuffer {
    bytes: Vec<u8>,
    size: usize,
    /// A write that is shorter than this is held back.
    direct: usize,
}

impl WriteBuffer {
    /// A buffer that holds back at most `size` bytes.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self { bytes: Vec::new(), size, direct: size.saturating_add(1) }
    }

    /// Sends a write that is as long as the buffer at once, instead of holding it back.
    #[must_use]
    pub fn sending_whole_buffers(self) -> Self {
        Self { direct: self.size, ..self }
    }

    /// Writes `data`; sends what does not fit. Returns how many bytes were taken, which are fewer
    /// only where there is no room for more.
    ///
    /// # Errors
    ///
    /// What `send` returns.
    pub fn write<E>(
        &mut self,
        data: &[u8],
        mut send: impl FnMut(&[u8]) -> Result<Option<usize>, E>,
    ) -> Result<usize, E> {
        if data.len() < self.direct && self.bytes.len() + data.len() <= self.size {
            self.bytes.extend_from_slice(data);
            return Ok(data.len());
        }
        let mut taken = 0;
        if self.flush(&mut send)? {
            while taken < data.len() && data.len() - taken >= self.direct {
                match send(&data[taken..])? {
                    Some(length) => taken += length,
                    None => break,
                }
            }
        }
        let room = self.size.saturating_sub(self.bytes.len());
        let kept = room.min(data.len() - taken);
        self.bytes.extend_from_slice(&data[taken..taken + kept]);
        Ok(taken + kept)
    }

    /// Whether nothing waits to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets what waits to be sent.
    pub fn clear(&mut self) {
        self.bytes = Vec::new();
    }

    /// Sends what is here; says whether all of it went.
    ///
    /// # Errors
    ///
    /// What `send` returns.
    pub fn flush<E>(
        &mut self,
        mut send: impl FnMut(&[u8]) -> Result<Option<usize>, E>,
    ) -> Result<bool, E> {
        let mut gone = 0;
        let mut outcome = Ok(Some(0));
        while let Ok(Some(length)) = outcome {
            gone += length;
            if gone == self.bytes.len() {
                break;
            }
            outcome = send(&self.bytes[gone..]);
        }
        if gone == self.bytes.len() {
            self.clear();
        } else {
            self.bytes.drain(..gone);
        }
        Ok(outcome?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// A stream of `data`, all of which is there at once.
    fn stream(mut data: &[u8]) -> impl FnMut(&mut Room<'_>) -> Result<Option<usize>, Infallible> {
        move |room| {
            let length = room.put(data);
            data = &data[length..];
            Ok(Some(length))
        }
    }

    #[test]
    fn a_line_that_comes_alone_needs_no_memory() {
        let mut buffer = ReadBuffer::new(ON_STACK);
        assert_eq!(buffer.read_line(None, stream(b"line\n"), <[u8]>::len), Ok(5));
        assert_eq!(buffer.bytes.capacity(), 0);
    }

    #[test]
    fn an_empty_read_buffer_has_given_its_memory_back() {
        let mut buffer = ReadBuffer::new(ON_STACK);
        assert_eq!(buffer.read_line(None, stream(b"a\nb\n"), <[u8]>::len), Ok(2));
        assert!(buffer.bytes.capacity() > 0);
        assert_eq!(buffer.read_line(None, stream(b""), <[u8]>::len), Ok(2));
        assert_eq!(buffer.bytes.capacity(), 0);
        assert_eq!(buffer.read_to_end(stream(&vec![0; 100_000]), <[u8]>::len), Ok(Some(100_000)));
        assert_eq!(buffer.bytes.capacity(), 0);
        buffer.put_back(b"ab");
        assert_eq!(buffer.take(&mut Room::over(&mut [0; 2])), 2);
        assert_eq!(buffer.bytes.capacity(), 0);
    }

    #[test]
    fn an_empty_write_buffer_has_given_its_memory_back() {
        let send = |bytes: &[u8]| Ok::<_, Infallible>(Some(bytes.len()));
        let mut buffer = WriteBuffer::new(8);
        assert_eq!(buffer.write(b"abc", send), Ok(3));
        assert!(buffer.bytes.capacity() > 0);
        assert_eq!(buffer.flush(send), Ok(true));
        assert_eq!(buffer.bytes.capacity(), 0);
    }
}
