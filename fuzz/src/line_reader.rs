use std::io::{BufRead, Cursor, Read};

use fastsocketserver::{ReadBuffer, Room};

/// Reads a stream that comes in pieces, and compares with `std`. The first bytes of `input` say how:
/// the size of the buffer, of the pieces, and the limit of a line; the others are the stream.
///
/// # Panics
///
/// Where what is read differs.
pub fn line_reader(input: &[u8]) {
    let [size, piece, limit, stream @ ..] = input else { return };
    let (piece, limit) = (usize::from(*piece).max(1), usize::from(*limit).max(1));
    let mut rest = stream;
    let mut receive = |room: &mut Room<'_>| -> Result<Option<usize>, ()> {
        let length = room.put(&rest[..rest.len().min(piece)]);
        rest = &rest[length..];
        Ok(Some(length))
    };
    let mut buffer = ReadBuffer::new(usize::from(*size));
    let mut expected = Cursor::new(stream);
    for turn in 0.. {
        let (mut line, mut wanted) = (Vec::new(), Vec::new());
        if turn % 3 == 2 {
            let mut target = vec![0; limit];
            let length = buffer.read(&mut Room::over(&mut target), &mut receive);
            line.extend_from_slice(&target[..length.expect("no error").expect("a stream")]);
            expected.by_ref().take(limit as u64).read_to_end(&mut wanted).expect("memory");
        } else {
            let read = buffer.read_line(Some(limit), &mut receive, <[u8]>::to_vec);
            line = read.expect("no error");
            let mut expected = expected.by_ref().take(limit as u64);
            expected.read_until(b'\n', &mut wanted).expect("memory");
        }
        assert_eq!(line, wanted);
        if line.is_empty() {
            break;
        }
    }
}
