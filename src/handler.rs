//! What a Rust program implements to handle requests.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use socket2::Socket;

use crate::address::Address;
use crate::datagram::{Datagram, Packet};

/// Handles requests, one call each, blocking as it likes.
///
/// A plain closure is a handler too:
///
/// ```
/// use fastsocketserver::{Handler, Request};
/// use std::io::Write;
///
/// fn assert_handler(_: impl Handler) {}
/// assert_handler(|request: &mut Request| request.write_all(b"hello\n"));
/// ```
///
/// Which thread calls, and how many at once, is the dispatch's affair: hence `Send` and `Sync`.
pub trait Handler: Send + Sync + 'static {
    /// Whether to handle `request`; one that is refused is closed. Default: yes.
    ///
    /// Called on the loop's thread, before the dispatch.
    fn verify(&self, request: &Request) -> bool {
        let _ = request;
        true
    }

    /// Handles `request`. Its connection is shut down and closed afterwards.
    ///
    /// # Errors
    ///
    /// Whatever went wrong with this request; it goes to [`error`](Self::error) and ends nothing
    /// else.
    fn handle(&self, request: &mut Request) -> io::Result<()>;

    /// Told of an error that [`handle`](Self::handle) returned. Default: nothing happens.
    fn error(&self, request: &Request, error: &io::Error) {
        let _ = (request, error);
    }
}

impl<F> Handler for F
where
    F: Fn(&mut Request) -> io::Result<()> + Send + Sync + 'static,
{
    fn handle(&self, request: &mut Request) -> io::Result<()> {
        self(request)
    }
}

/// One request: a connection, or a datagram.
///
/// It reads and writes: a connection's bytes, or the datagram's; what is written for a datagram is
/// collected and leaves as one reply, if it is not empty, when the handler has returned, or the last
/// one of a [batch](crate::Builder::batch_size) has.
#[derive(Debug)]
pub struct Request {
    peer: Option<Address>,
    transport: Transport,
}

#[derive(Debug)]
enum Transport {
    Stream(Socket),
    Datagram { socket: Datagram, data: Vec<u8>, read: usize, reply: Vec<u8> },
}

impl Request {
    pub(crate) fn stream(socket: Socket, peer: Address) -> Self {
        Self { peer: Some(peer), transport: Transport::Stream(socket) }
    }

    pub(crate) fn datagram(socket: Datagram, packet: Packet) -> Self {
        let Packet { data, peer, .. } = packet;
        Self { peer, transport: Transport::Datagram { socket, data, read: 0, reply: Vec::new() } }
    }

    /// Who sent the request; `None` where a datagram's sender has no address.
    #[must_use]
    pub fn peer(&self) -> Option<&Address> {
        self.peer.as_ref()
    }

    /// The whole datagram, also what has been read of it; `None` for a connection.
    #[must_use]
    pub fn packet(&self) -> Option<&[u8]> {
        match &self.transport {
            Transport::Stream(_) => None,
            Transport::Datagram { data, .. } => Some(data),
        }
    }

    /// What was written for a datagram, and whom to send it to; `None` where there is nothing to send,
    /// or nobody.
    pub(crate) fn reply(&self) -> Option<(&[u8], &Address)> {
        match (&self.transport, &self.peer) {
            (Transport::Datagram { reply, .. }, Some(peer)) if !reply.is_empty() => {
                Some((reply, peer))
            }
            _ => None,
        }
    }

    /// Sends what is left to send and says goodbye; the connection closes on drop.
    pub(crate) fn finish(&self) -> io::Result<()> {
        match &self.transport {
            Transport::Stream(socket) => {
                // A peer that is gone already is not the handler's error.
                let _ = socket.shutdown(std::net::Shutdown::Write);
                Ok(())
            }
            Transport::Datagram { socket, .. } => {
                self.reply().map_or(Ok(()), |(reply, peer)| socket.send_to(reply, peer))
            }
        }
    }
}

impl io::Read for Request {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.transport {
            Transport::Stream(socket) => io::Read::read(socket, buffer),
            Transport::Datagram { data, read, .. } => {
                let length = io::Read::read(&mut &data[*read..], buffer)?;
                *read += length;
                Ok(length)
            }
        }
    }
}

impl io::Write for Request {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.transport {
            Transport::Stream(socket) => io::Write::write(socket, data),
            Transport::Datagram { reply, .. } => reply.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRawFd for Request {
    /// The connection's descriptor, or the one that all datagrams of the server share.
    fn as_raw_fd(&self) -> RawFd {
        match &self.transport {
            Transport::Stream(socket) => socket.as_raw_fd(),
            Transport::Datagram { socket, .. } => socket.as_raw_fd(),
        }
    }
}
