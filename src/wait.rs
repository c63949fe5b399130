//! How one who must wait for one descriptor does so.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::sys;

/// Waits for one descriptor outside the poll loop.
///
/// A request handler that would block asks its wait, and so does a server that handles one request
/// without a loop. [`Blocking`] stops the calling thread; another implementation may run something
/// else meanwhile.
pub trait Wait {
    /// What ends a wait that can go wrong in other ways than the system's.
    type Error: From<io::Error>;

    /// Waits until `fd` can be read, or until `timeout` has passed; `None` waits without limit.
    /// Returns whether it can be read.
    ///
    /// # Errors
    ///
    /// `Interrupted` when a signal arrived; otherwise what the system reports.
    fn readable(&self, fd: RawFd, timeout: Option<Duration>) -> Result<bool, Self::Error>;

    /// Waits until `fd` can be written; otherwise as [`readable`](Self::readable).
    ///
    /// # Errors
    ///
    /// As [`readable`](Self::readable).
    fn writable(&self, fd: RawFd, timeout: Option<Duration>) -> Result<bool, Self::Error>;

    /// Waits until `fd` is what `direction` says.
    ///
    /// # Errors
    ///
    /// As [`readable`](Self::readable).
    fn wait(
        &self,
        fd: RawFd,
        direction: Direction,
        timeout: Option<Duration>,
    ) -> Result<bool, Self::Error> {
        match direction {
            Direction::Readable => self.readable(fd, timeout),
            Direction::Writable => self.writable(fd, timeout),
        }
    }
}

/// What one waits for a descriptor to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// There is something to receive, or nothing will come any more.
    Readable,
    /// There is room to send.
    Writable,
}

/// Waits in `poll(2)`, on the calling thread.
///
/// ```
/// use fastsocketserver::{Blocking, Wait};
/// use std::os::fd::AsRawFd;
/// use std::time::Duration;
///
/// let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
/// assert!(Blocking.writable(socket.as_raw_fd(), None)?);
/// assert!(!Blocking.readable(socket.as_raw_fd(), Some(Duration::ZERO))?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Blocking;

impl Wait for Blocking {
    type Error = io::Error;

    fn readable(&self, fd: RawFd, timeout: Option<Duration>) -> io::Result<bool> {
        sys::wait_readable(fd, timeout)
    }

    fn writable(&self, fd: RawFd, timeout: Option<Duration>) -> io::Result<bool> {
        sys::wait_writable(fd, timeout)
    }
}
