//! Stream listeners: bind, listen, accept.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use socket2::{SockRef, Socket, Type};

use crate::address::Address;
use crate::options::ListenOptions;
use crate::sys;

/// A bound and listening stream socket, non-blocking.
///
/// ```
/// use fastsocketserver::{Address, ListenOptions, Listener};
/// use std::io::ErrorKind;
///
/// let listener = Listener::bind(&"127.0.0.1:0".parse()?, &ListenOptions::default())?;
/// assert!(matches!(listener.local_addr()?, Address::Inet(_)));
/// let error = listener.accept().expect_err("nobody has connected");
/// assert_eq!(error.kind(), ErrorKind::WouldBlock);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

impl Listener {
    /// Opens a socket, binds it to `address` and listens.
    ///
    /// The order is `SO_REUSEADDR`, `SO_REUSEPORT`, `IPV6_V6ONLY`, `bind`, `listen`. Port 0 lets the kernel choose:
    /// ask [`local_addr`](Self::local_addr).
    ///
    /// # Errors
    ///
    /// What `socket(2)`, `bind(2)` and `listen(2)` report; nothing stays open.
    pub fn bind(address: &Address, options: &ListenOptions) -> io::Result<Self> {
        let socket = open(address, Type::STREAM, options)?;
        socket.listen(options.backlog)?;
        Ok(Self { socket })
    }

    /// Takes over a socket that listens already, such as a `std::net::TcpListener`, one that a parent
    /// process has handed down, or a `UnixListener`. Its mode, blocking or not, stays as it is.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a socket that does not listen, `ENOTSOCK` for what is no socket.
    pub fn adopt(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let socket = Socket::from(socket.into());
        if !sys::is_listening(socket.as_fd())? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
        }
        Ok(Self { socket })
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    ///
    /// What `getsockname(2)` reports.
    pub fn local_addr(&self) -> io::Result<Address> {
        local_addr(&self.socket)
    }

    /// Takes the next connection, without waiting; the new socket blocks.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when none is waiting; see [`AcceptFailure`](crate::AcceptFailure) for the
    /// others.
    pub fn accept(&self) -> io::Result<(Socket, Address)> {
        let (socket, address) = accept(self.socket.as_fd())?;
        Ok((socket, address.unwrap_or(Address::UnixUnnamed)))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Accepts from `listener` without waiting, whatever its mode, which is the same afterwards.
///
/// The new socket blocks and is not inherited by other programs; the address is `None` for families
/// that [`Address`] does not know.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(Socket, Option<Address>)> {
    let (socket, address) = {
        let _guard = sys::Nonblocking::enter(listener)?;
        SockRef::from(&listener).accept()?
    };
    // BSD and macOS hand the listener's mode on to the new socket; Linux does not.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    socket.set_nonblocking(false)?;
    Ok((socket, Address::from_sockaddr(&address)))
}

/// Opens a non-blocking socket of the address's family and binds it.
pub(crate) fn open(address: &Address, kind: Type, options: &ListenOptions) -> io::Result<Socket> {
    let domain = address.domain();
    let socket = Socket::new(domain, kind, None)?;
    socket.set_nonblocking(true)?;
    if options.reuse_address {
        socket.set_reuse_address(true)?;
    }
    if options.reuse_port && domain != socket2::Domain::UNIX {
        socket.set_reuse_port(true)?;
    }
    if let (socket2::Domain::IPV6, Some(dual_stack)) = (domain, options.dual_stack) {
        socket.set_only_v6(!dual_stack)?;
    }
    socket.bind(&address.to_sockaddr()?)?;
    Ok(socket)
}

/// The address that `socket` is bound to.
pub(crate) fn local_addr(socket: &Socket) -> io::Result<Address> {
    let address = socket.local_addr()?;
    Address::from_sockaddr(&address).ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
}
