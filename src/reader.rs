//! What a request has sent.

use std::io::{self, BufRead, Read};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use socket2::Socket;

use crate::stream::ReadBuffer;
use crate::sys::{self, Flow, Room};

/// How many bytes are received ahead at most.
const BUFFER_SIZE: usize = 8192;

/// Reads what a [`Request`](crate::Request) has sent: a connection's bytes as they come, or one
/// datagram's.
///
/// It is buffered, so that reading by lines takes one system call for as many as have come. While its
/// buffer is empty it holds no memory.
///
/// A line that is longer than it may be is noticed so:
///
/// ```
/// use fastsocketserver::Request;
/// use std::io::{self, BufRead, Read, Write};
///
/// fn short_lines(request: &mut Request) -> io::Result<()> {
///     let (reader, writer) = request.split();
///     let mut line = String::new();
///     reader.take(1000).read_line(&mut line)?;
///     if !line.ends_with('\n') {
///         return Err(io::ErrorKind::InvalidData.into());
///     }
///     writer.write_all(line.as_bytes())
/// }
/// # fastsocketserver::Server::builder(short_lines);
/// ```
#[derive(Debug)]
pub struct Reader {
    from: From,
}

#[derive(Debug)]
enum From {
    Stream { socket: Arc<Socket>, buffer: ReadBuffer },
    Datagram { data: Vec<u8>, read: usize },
}

impl Reader {
    pub(crate) fn stream(socket: Arc<Socket>) -> Self {
        Self { from: From::Stream { socket, buffer: ReadBuffer::new(BUFFER_SIZE) } }
    }

    pub(crate) fn datagram(data: Vec<u8>) -> Self {
        Self { from: From::Datagram { data, read: 0 } }
    }

    /// The whole datagram, also what has been read of it.
    pub(crate) fn packet(&self) -> Option<&[u8]> {
        match &self.from {
            From::Stream { .. } => None,
            From::Datagram { data, .. } => Some(data),
        }
    }
}

fn receive(socket: &Socket, room: &mut Room<'_>) -> io::Result<Option<usize>> {
    sys::receive(socket.as_raw_fd(), room, Flow::Wait).map(Some)
}

impl Read for Reader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        match &mut self.from {
            From::Stream { socket, buffer } => {
                let mut target = Room::over(target);
                if buffer.unread().is_empty() && target.left() >= BUFFER_SIZE {
                    return sys::receive(socket.as_raw_fd(), &mut target, Flow::Wait);
                }
                if target.left() > 0 {
                    buffer.peek(|room| receive(socket, room))?;
                }
                Ok(buffer.take(&mut target))
            }
            From::Datagram { data, read } => {
                let length = (&data[*read..]).read(target)?;
                *read += length;
                Ok(length)
            }
        }
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match &mut self.from {
            From::Stream { socket, buffer } => {
                buffer.peek(|room| receive(socket, room))?;
                Ok(buffer.unread())
            }
            From::Datagram { data, read } => Ok(&data[*read..]),
        }
    }

    fn consume(&mut self, amount: usize) {
        match &mut self.from {
            From::Stream { buffer, .. } => buffer.consume(amount),
            From::Datagram { data, read } => *read = (*read + amount).min(data.len()),
        }
    }
}
