//! What is answered to a request.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use socket2::Socket;

use crate::sys::{self, Flow};

/// Writes the answer to a [`Request`](crate::Request).
///
/// What is written to a connection is sent at once: wrap it in a [`BufWriter`](std::io::BufWriter)
/// to write in small pieces. What is written for a datagram is collected, and leaves as one reply when
/// the handler has returned without an error, or the last one of a
/// [batch](crate::Builder::batch_size) has, if it is not empty.
///
/// ```
/// use fastsocketserver::Request;
/// use std::io::{self, BufWriter, Write};
///
/// fn count(request: &mut Request) -> io::Result<()> {
///     let (_, writer) = request.split();
///     let mut writer = BufWriter::new(writer);
///     for number in 1..=1000 {
///         writeln!(writer, "{number}")?;
///     }
///     writer.flush()
/// }
/// # fastsocketserver::Server::builder(count);
/// ```
#[derive(Debug)]
pub struct Writer {
    to: To,
}

#[derive(Debug)]
enum To {
    Stream(Arc<Socket>),
    Datagram { reply: Vec<u8> },
}

impl Writer {
    pub(crate) fn stream(socket: Arc<Socket>) -> Self {
        Self { to: To::Stream(socket) }
    }

    pub(crate) fn datagram() -> Self {
        Self { to: To::Datagram { reply: Vec::new() } }
    }

    /// What was written for a datagram, if anything was.
    pub(crate) fn reply(&self) -> Option<&[u8]> {
        match &self.to {
            To::Datagram { reply } if !reply.is_empty() => Some(reply),
            _ => None,
        }
    }

    /// Says goodbye.
    pub(crate) fn close(&mut self) {
        if let To::Stream(socket) = &self.to {
            // A peer that is gone already is not the handler's error.
            let _ = socket.shutdown(std::net::Shutdown::Write);
        }
    }
}

impl Write for Writer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.to {
            To::Stream(socket) => sys::send(socket.as_raw_fd(), data, Flow::Wait),
            To::Datagram { reply } => reply.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
