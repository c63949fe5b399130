//! How `accept` and `recvfrom` fail, sorted by what a server can do about it.

use std::io;

use crate::sys;

/// Why no request could be taken from a listener.
///
/// `accept(2)` reports three unlike things through one errno: that the queue is empty, that the
/// connection at its head has died (the next may be well), and that this process has no room. Only
/// the last gets better by waiting, and only there does trying again at once burn a core: a listener
/// stays readable while its queue is not empty.
///
/// ```
/// use fastsocketserver::AcceptFailure;
/// use std::io::{Error, ErrorKind};
///
/// assert_eq!(AcceptFailure::of(&ErrorKind::WouldBlock.into()), AcceptFailure::Empty);
/// // EMFILE
/// assert_eq!(AcceptFailure::of(&Error::from_raw_os_error(24)), AcceptFailure::Capacity);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptFailure {
    /// Nothing is waiting.
    Empty,
    /// One connection is gone, or the call was interrupted; the next may be well.
    Peer,
    /// No descriptors, buffers or memory are left, in this process or in the system.
    Capacity,
    /// The listener itself cannot accept.
    Fatal,
}

impl AcceptFailure {
    /// Sorts `error`, which `accept`, `recvfrom` or something in their place reported.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            _ if error.kind() == io::ErrorKind::WouldBlock => Self::Empty,
            // Not from the system: a TLS layer's failed handshake, for one.
            None => Self::Peer,
            Some(errno) if sys::PEER_ERRNOS.contains(&errno) => Self::Peer,
            Some(errno) if sys::CAPACITY_ERRNOS.contains(&errno) => Self::Capacity,
            Some(_) => Self::Fatal,
        }
    }
}
