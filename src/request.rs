//! One request, as its handler sees it.

use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use socket2::Socket;

use crate::address::Address;
use crate::datagram::{Datagram, Packet};
use crate::reader::Reader;
use crate::writer::Writer;

/// One request: a connection, or a datagram.
///
/// It reads, buffered, what the peer has sent, and writes what the peer gets; [`Reader`] and
/// [`Writer`] say how. [`split`](Self::split) gives both at once:
///
/// ```
/// use fastsocketserver::Request;
/// use std::io::{self, BufRead, Write};
///
/// fn upper(request: &mut Request) -> io::Result<()> {
///     let (reader, writer) = request.split();
///     for line in reader.lines() {
///         writeln!(writer, "{}", line?.to_uppercase())?;
///     }
///     Ok(())
/// }
/// ```
///
/// For anything else there is the socket itself, by its descriptor. With the crate `socket2`, this
/// limits how long each read waits:
///
/// ```
/// use fastsocketserver::Request;
/// use socket2::SockRef;
/// use std::io;
/// use std::time::Duration;
///
/// fn be_impatient(request: &mut Request) -> io::Result<()> {
///     SockRef::from(&*request).set_read_timeout(Some(Duration::from_secs(10)))
/// }
/// ```
///
/// The connection is shut down and closed when it has been handled.
#[derive(Debug)]
pub struct Request {
    peer: Option<Address>,
    is_truncated: bool,
    socket: Shared,
    reader: Reader,
    writer: Writer,
}

/// The socket that a request came by.
#[derive(Debug)]
enum Shared {
    Stream(Arc<Socket>),
    Datagram(Datagram),
}

impl Request {
    pub(crate) fn stream(socket: Socket, peer: Address) -> Self {
        let socket = Arc::new(socket);
        Self {
            peer: Some(peer),
            is_truncated: false,
            reader: Reader::stream(Arc::clone(&socket)),
            writer: Writer::stream(Arc::clone(&socket)),
            socket: Shared::Stream(socket),
        }
    }

    pub(crate) fn datagram(socket: Datagram, packet: Packet) -> Self {
        Self {
            peer: packet.peer,
            is_truncated: packet.truncated,
            reader: Reader::datagram(packet.data),
            writer: Writer::datagram(),
            socket: Shared::Datagram(socket),
        }
    }

    /// Who sent the request; `None` where a datagram's sender has no address.
    #[must_use]
    pub fn peer(&self) -> Option<&Address> {
        self.peer.as_ref()
    }

    /// The whole datagram, also what has been read of it; `None` for a connection.
    #[must_use]
    pub fn packet(&self) -> Option<&[u8]> {
        self.reader.packet()
    }

    /// Whether the datagram was longer than [`packet`](Self::packet) is, and the rest is lost.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// The reading and the writing side.
    pub fn split(&mut self) -> (&mut Reader, &mut Writer) {
        (&mut self.reader, &mut self.writer)
    }

    /// The connection; `None` for a datagram.
    pub(crate) fn connection(&self) -> Option<&Arc<Socket>> {
        match &self.socket {
            Shared::Stream(socket) => Some(socket),
            Shared::Datagram(_) => None,
        }
    }

    /// What was written for a datagram, and whom to send it to; `None` where there is nothing to send,
    /// or nobody.
    pub(crate) fn reply(&self) -> Option<(&[u8], &Address)> {
        self.writer.reply().zip(self.peer.as_ref())
    }

    /// Sends a datagram's reply, if there is one.
    pub(crate) fn send_reply(&self) -> io::Result<()> {
        match (&self.socket, self.reply()) {
            (Shared::Datagram(socket), Some((reply, peer))) => socket.send_to(reply, peer),
            _ => Ok(()),
        }
    }

    /// Says goodbye; the connection closes when the last who knows it has dropped it.
    pub(crate) fn close(&mut self) {
        self.writer.close();
    }
}

impl Read for Request {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        self.reader.read(target)
    }
}

impl BufRead for Request {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.reader.consume(amount);
    }
}

impl Write for Request {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.writer.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl AsFd for Request {
    /// The connection's socket, or the one that all datagrams of the server share.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Shared::Stream(socket) => socket.as_fd(),
            Shared::Datagram(socket) => socket.as_fd(),
        }
    }
}

impl AsRawFd for Request {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
