//! Addresses of servers and clients.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use socket2::{Domain, SockAddr};

/// Where a server listens, or where a request came from.
///
/// Its text form is what [`FromStr`] reads: `127.0.0.1:80`, `[::1]:80`, `unix:/run/x.sock`, and
/// `unix:@name` for a name in Linux's abstract namespace.
///
/// ```
/// use fastsocketserver::Address;
///
/// let address: Address = "[::1]:9999".parse()?;
/// assert_eq!(address.to_string(), "[::1]:9999");
/// # Ok::<(), fastsocketserver::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 address and port.
    Inet(SocketAddrV4),
    /// IPv6 address, port, flow information and scope.
    Inet6(SocketAddrV6),
    /// A Unix socket in the file system.
    UnixPath(PathBuf),
    /// A Unix socket in Linux's abstract namespace: the bytes of its name, without the leading NUL.
    UnixAbstract(Vec<u8>),
    /// A Unix socket that was never bound: what most clients have.
    UnixUnnamed,
}

/// Why a text is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError(String);

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "not an address: {:?} (use IP:PORT, [V6]:PORT, unix:PATH or unix:@NAME; names of hosts are \
             not looked up)",
            self.0
        )
    }
}

impl std::error::Error for AddressError {}

impl Address {
    /// The address family to open a socket with.
    pub(crate) fn domain(&self) -> Domain {
        match self {
            Self::Inet(_) => Domain::IPV4,
            Self::Inet6(_) => Domain::IPV6,
            Self::UnixPath(_) | Self::UnixAbstract(_) | Self::UnixUnnamed => Domain::UNIX,
        }
    }

    /// The form in which the kernel takes this address.
    ///
    /// # Errors
    ///
    /// A Unix path that is too long, or a NUL in it.
    pub(crate) fn to_sockaddr(&self) -> io::Result<SockAddr> {
        match self {
            Self::Inet(address) => Ok((*address).into()),
            Self::Inet6(address) => Ok((*address).into()),
            Self::UnixPath(path) => SockAddr::unix(path),
            Self::UnixAbstract(name) => {
                let mut path = vec![0];
                path.extend_from_slice(name);
                SockAddr::unix(Path::new(&OsString::from_vec(path)))
            }
            Self::UnixUnnamed => SockAddr::unix(""),
        }
    }

    /// Reads an address that the kernel has filled in; `None` for other families, and where the
    /// kernel gave none.
    pub(crate) fn from_sockaddr(address: &SockAddr) -> Option<Self> {
        if let Some(address) = address.as_socket() {
            return Some(address.into());
        }
        if !address.is_unix() {
            return None;
        }
        Some(if let Some(path) = address.as_pathname() {
            Self::UnixPath(path.to_path_buf())
        } else if let Some(name) = address.as_abstract_namespace() {
            Self::UnixAbstract(name.to_vec())
        } else {
            Self::UnixUnnamed
        })
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self::Inet(address),
            SocketAddr::V6(address) => Self::Inet6(address),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads a numeric address; no name is looked up. [`ToSocketAddrs`](std::net::ToSocketAddrs)
    /// does that, and `Address::from` takes what it finds.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address = match text.strip_prefix("unix:") {
            Some("" | "@") => None,
            Some(path) => Some(match path.strip_prefix('@') {
                Some(name) => Self::UnixAbstract(name.as_bytes().to_vec()),
                None => Self::UnixPath(path.into()),
            }),
            None => text.parse::<SocketAddr>().ok().map(Self::from),
        };
        address.ok_or_else(|| AddressError(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Inet6(address) => address.fmt(f),
            Self::UnixPath(path) => write!(f, "unix:{}", path.display()),
            Self::UnixAbstract(name) => {
                write!(f, "unix:@{}", Path::new(OsStr::from_bytes(name)).display())
            }
            Self::UnixUnnamed => f.write_str("unix:"),
        }
    }
}
