//! Datagram sockets: bind, receive, reply.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use socket2::{Socket, Type};

use crate::address::Address;
use crate::batch::Batch;
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
        let mut batch = self.batch(1);
        self.receive_batch(&mut batch)?;
        batch.pop().ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// An empty batch of up to `capacity` datagrams, for [`receive_batch`](Self::receive_batch).
    ///
    /// Its packets are as long as this socket's options allow; see [`Batch::new`].
    #[must_use]
    pub fn batch(&self, capacity: usize) -> Batch {
        Batch::new(capacity, self.max_packet_size)
    }

    /// Takes as many datagrams as are waiting and fit into `batch`, without waiting.
    ///
    /// They come in the order in which they have arrived, and each once. While any of an earlier call
    /// are left in `batch`, nothing is received.
    ///
    /// ```
    /// use fastsocketserver::{Datagram, ListenOptions};
    ///
    /// let socket = Datagram::bind(&"127.0.0.1:0".parse()?, &ListenOptions::default())?;
    /// let client = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// for word in ["one", "two"] {
    ///     client.send_to(word.as_bytes(), socket.local_addr()?.to_string())?;
    /// }
    /// let mut batch = socket.batch(16);
    /// socket.receive_batch(&mut batch)?;
    /// while let Some(packet) = batch.pop() {
    ///     println!("{:?} from {:?}", packet.data, packet.peer);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `WouldBlock` when none is waiting; otherwise what `recvmmsg(2)` reports. Whatever was received
    /// before an error is received first, and the next call returns the error.
    pub fn receive_batch(&self, batch: &mut Batch) -> io::Result<()> {
        batch.fill(self.socket.as_fd(), batch.capacity())
    }

    /// Sends one datagram to `peer`, waiting for room in the socket's buffer.
    ///
    /// # Errors
    ///
    /// `EMSGSIZE` for too many bytes, and whatever else `sendto(2)` reports.
    pub fn send_to(&self, data: &[u8], peer: &Address) -> io::Result<()> {
        let peer = peer.to_sockaddr()?;
        while let Err(error) = self.socket.send_to(data, &peer) {
            self.unless_temporary(error)?;
        }
        Ok(())
    }

    /// Sends `messages`, each to the address beside it, in order and by as few calls as possible;
    /// waits for room in the socket's buffer.
    ///
    /// Calls `failed` for each that cannot be sent, with its index and the error that
    /// [`send_to`](Self::send_to) would return. The others are sent all the same.
    ///
    /// ```
    /// use fastsocketserver::{Datagram, ListenOptions};
    ///
    /// let socket = Datagram::bind(&"127.0.0.1:0".parse()?, &ListenOptions::default())?;
    /// let client = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// let peer = client.local_addr()?.into();
    /// let mut failures = Vec::new();
    /// let too_long = [0; 1 << 16];
    /// let messages = [(&b"one"[..], &peer), (&too_long, &peer), (b"two", &peer)];
    /// socket.send_batch(&messages, |index, _| failures.push(index));
    /// assert_eq!(failures, [1]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_batch(
        &self,
        messages: &[(&[u8], &Address)],
        mut failed: impl FnMut(usize, io::Error),
    ) {
        let mut unsent = Vec::with_capacity(messages.len());
        for (index, (data, peer)) in messages.iter().enumerate() {
            match peer.to_sockaddr() {
                Ok(peer) => unsent.push((index, *data, peer)),
                Err(error) => failed(index, error),
            }
        }
        let mut unsent = &unsent[..];
        while let [(index, ..), others @ ..] = unsent {
            let next = unsent.iter().map(|(_, data, peer)| (*data, peer));
            match sys::send_messages(self.socket.as_fd(), next) {
                Ok(sent) => unsent = &unsent[sent..],
                Err(error) => {
                    if let Err(error) = self.unless_temporary(error) {
                        failed(*index, error);
                        unsent = others;
                    }
                }
            }
        }
    }

    /// Returns `error` of sending, unless the same may be sent now: waits for room if that was wanted.
    fn unless_temporary(&self, error: io::Error) -> io::Result<()> {
        let outcome = match error.kind() {
            io::ErrorKind::WouldBlock => {
                sys::wait_writable(self.socket.as_raw_fd(), None).map(drop)
            }
            _ => Err(error),
        };
        outcome.or_else(|error| match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            _ => Err(error),
        })
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
