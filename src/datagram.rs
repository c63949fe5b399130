//! Datagram sockets: bind, receive, reply.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use socket2::{Socket, Type};

use crate::address::Address;
use crate::listener::{local_addr, open};
use crate::options::ListenOptions;
use crate::sys;

/// A bound datagram socket, non-blocking; clones share it.
#[derive(Clone, Debug)]
pub struct Datagram {
    socket: Arc<Socket>,
    max_packet_size: usize,
}

/// One datagram as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its bytes, at most as many as were asked for.
    pub data: Vec<u8>,
    /// Whether the datagram was longer, and the rest is lost.
    pub truncated: bool,
    /// Who sent it; `None` for a sender without an address (an unbound Unix socket).
    pub peer: Option<Address>,
}

impl Datagram {
    /// Opens a socket and binds it to `address`, as [`Listener::bind`](crate::Listener::bind) does.
    ///
    /// # Errors
    ///
    /// What `socket(2)` and `bind(2)` report; nothing stays open.
    pub fn bind(address: &Address, options: &ListenOptions) -> io::Result<Self> {
        let socket = Arc::new(open(address, Type::DGRAM, options)?);
        Ok(Self { socket, max_packet_size: options.max_packet_size })
    }

    /// Takes over a datagram socket, such as a `std::net::UdpSocket` or a `UnixDatagram`. Its mode,
    /// blocking or not, stays as it is.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for another kind of socket, `ENOTSOCK` for what is no socket.
    pub fn adopt(socket: impl Into<OwnedFd>, max_packet_size: usize) -> io::Result<Self> {
        let socket = Socket::from(socket.into());
        if socket.r#type()? != Type::DGRAM {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no datagram socket"));
        }
        Ok(Self { socket: Arc::new(socket), max_packet_size })
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    ///
    /// What `getsockname(2)` reports.
    pub fn local_addr(&self) -> io::Result<Address> {
        local_addr(&self.socket)
    }

    /// Takes the next datagram, without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when none is waiting; otherwise what `recvfrom(2)` reports.
    pub fn receive(&self) -> io::Result<Packet> {
        receive(self.socket.as_fd(), &mut vec![0; self.max_packet_size])
    }

    /// Sends one datagram to `peer`, waiting for room in the socket's buffer.
    ///
    /// # Errors
    ///
    /// `EMSGSIZE` for too many bytes, and whatever else `sendto(2)` reports.
    pub fn send_to(&self, data: &[u8], peer: &Address) -> io::Result<()> {
        let peer = peer.to_sockaddr()?;
        loop {
            match self.socket.send_to(data, &peer) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sys::wait_writable(self.socket.as_raw_fd(), None)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Datagram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Datagram {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Receives one datagram from `socket` without waiting, whatever its mode, by way of `buffer`.
///
/// At most as many bytes as `buffer` has are taken; the rest of a longer datagram is lost, and
/// [`Packet::truncated`] says so.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Packet> {
    let (length, truncated, peer) = receive_into(socket, buffer)?;
    Ok(Packet { data: buffer[..length].to_vec(), truncated, peer })
}

/// As [`receive`]: how many bytes are in `buffer` now, whether there were more, and the sender.
pub(crate) fn receive_into(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, bool, Option<Address>)> {
    let (length, truncated, address) = sys::receive_from(socket, buffer)?;
    // An unbound Unix socket has an address of length 0, which has no family.
    let peer = if address.len() == 0 { None } else { Address::from_sockaddr(&address) };
    Ok((length, truncated, peer))
}
