//! What can go wrong with a server as a whole.

use std::fmt;
use std::io;

use crate::address::{Address, AddressError};

/// Why a server could not be opened, or could not go on.
///
/// Errors of one request are not here: they go to [`Handler::error`](crate::Handler::error).
///
/// ```
/// use fastsocketserver::{Error, Request, Server};
///
/// let bind = |address: &str| Server::builder(|_: &mut Request| Ok(())).bind(&address.parse()?);
/// let first = bind("127.0.0.1:0")?;
/// let second = bind(&first.local_addr()?.to_string()).expect_err("in use");
/// assert!(matches!(second, Error::Bind { .. }));
/// assert_eq!(std::io::Error::from(second).kind(), std::io::ErrorKind::AddrInUse);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A text is not an address.
    Address(AddressError),
    /// No socket could be opened on this address.
    Bind {
        /// The address that was asked for.
        address: Address,
        /// What `socket(2)`, `bind(2)` or `listen(2)` reported.
        source: io::Error,
    },
    /// A socket that was handed in cannot be served.
    Adopt(io::Error),
    /// What the system says about a socket could not be read.
    Inspect(io::Error),
    /// The loop cannot wait any more.
    Wait(io::Error),
    /// No request could be taken, outside of a loop that would try again.
    Take(io::Error),
}

impl Error {
    /// What the system reported; `None` for an error that did not come from it.
    #[must_use]
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Address(_) => None,
            Self::Bind { source, .. }
            | Self::Adopt(source)
            | Self::Inspect(source)
            | Self::Wait(source)
            | Self::Take(source) => Some(source),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(error) => error.fmt(f),
            Self::Bind { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::Adopt(source) => write!(f, "cannot serve this socket: {source}"),
            Self::Inspect(source) => write!(f, "cannot read the state of a socket: {source}"),
            Self::Wait(source) => write!(f, "cannot wait for requests: {source}"),
            Self::Take(source) => write!(f, "cannot take a request: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Address(error) => Some(error),
            _ => self.io().map(|error| error as _),
        }
    }
}

impl From<AddressError> for Error {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}

impl From<Error> for io::Error {
    /// The system's own error, with its errno, where there is one.
    fn from(error: Error) -> Self {
        match error {
            Error::Address(error) => Self::new(io::ErrorKind::InvalidInput, error),
            Error::Bind { source, .. }
            | Error::Adopt(source)
            | Error::Inspect(source)
            | Error::Wait(source)
            | Error::Take(source) => source,
        }
    }
}
