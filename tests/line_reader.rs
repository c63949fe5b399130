//! `ReadBuffer` against `std::io::BufRead`, on streams that come in pieces of any size.

use std::io::{BufRead, Cursor, Read};

use fastsocketserver::{ReadBuffer, Room};
use proptest::collection::vec;
use proptest::prelude::*;

/// One call of a reader, with its argument.
#[derive(Clone, Debug)]
enum Call {
    Line(Option<usize>),
    Read(usize),
    Peek,
    /// Takes so many of the unread bytes, and puts them back.
    PutBack(usize),
    ToEnd,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => prop::option::of(0..40_usize).prop_map(Call::Line),
        2 => (0..40_usize).prop_map(Call::Read),
        1 => Just(Call::Peek),
        1 => (0..40_usize).prop_map(Call::PutBack),
        1 => Just(Call::ToEnd),
    ]
}

/// Bytes among which line ends are as frequent as anything else.
fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(b'\n'), Just(b'a'), any::<u8>()], 0..300)
}

proptest! {
    #[test]
    fn every_call_reads_what_std_reads(
        text in text(),
        pieces in vec(1..20_usize, 1..40),
        size in 0..70_usize,
        calls in vec(call(), 0..40),
    ) {
        let mut expected = Cursor::new(&text[..]);
        let mut rest = &text[..];
        let mut pieces = pieces.iter().cycle();
        // What comes at once: never more than the next piece, or than there is room for.
        let mut receive = |room: &mut Room<'_>| -> Result<Option<usize>, ()> {
            let length = rest.len().min(*pieces.next().expect("endless"));
            let length = room.put(&rest[..length]);
            rest = &rest[length..];
            Ok(Some(length))
        };
        let mut buffer = ReadBuffer::new(size);
        for call in calls {
            let mut wanted = Vec::new();
            match call {
                Call::Line(limit) => {
                    let limit = limit.map_or(u64::MAX, |limit| limit as u64);
                    expected.by_ref().take(limit).read_until(b'\n', &mut wanted).expect("memory");
                    let limit = usize::try_from(limit).ok();
                    let line = buffer.read_line(limit, &mut receive, <[u8]>::to_vec);
                    prop_assert_eq!(line, Ok(wanted));
                }
                Call::Read(length) => {
                    expected.by_ref().take(length as u64).read_to_end(&mut wanted).expect("memory");
                    let mut target = vec![0; length];
                    let read = buffer.read(&mut Room::over(&mut target), &mut receive);
                    prop_assert_eq!(read, Ok(Some(wanted.len())));
                    prop_assert_eq!(&target[..wanted.len()], wanted);
                }
                Call::Peek => {
                    let is_end = expected.fill_buf().expect("memory").is_empty();
                    prop_assert_eq!(buffer.peek(&mut receive) == Ok(Some(0)), is_end);
                    prop_assert!(expected.fill_buf().expect("memory").starts_with(buffer.unread()));
                }
                Call::PutBack(length) => {
                    let mut target = vec![0; length];
                    let length = buffer.take(&mut Room::over(&mut target));
                    buffer.put_back(&target[..length]);
                }
                Call::ToEnd => {
                    expected.read_to_end(&mut wanted).expect("memory");
                    let rest = buffer.read_to_end(&mut receive, <[u8]>::to_vec);
                    prop_assert_eq!(rest, Ok(Some(wanted)));
                }
            }
        }
    }
}
