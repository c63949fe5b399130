//! Waiting in a request's greenlet: the other requests of its table run meanwhile.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::deadlines;
use super::error::Raised;
use super::interpreter::{duration, wait_detached};
use super::table::{Table, forget_closing, in_current};
use super::waits::{RequestId, WaitId};
use crate::wait::{Blocking, Direction, Wait};

/// The table of the request that the caller belongs to, if it runs in one's greenlet.
pub(super) fn current() -> Option<InTable> {
    in_current(|table, request| InTable { table: Arc::clone(table), request })
}

/// Whether the caller runs in a request's greenlet.
pub(super) fn is_current() -> bool {
    in_current(|_, _| ()).is_some()
}

/// Which request the caller belongs to, if it runs in one's greenlet.
pub(super) fn place() -> Option<Place> {
    in_current(|table, request| Place { table: Arc::as_ptr(table).addr(), request })
}

/// Tells one request from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    table: usize,
    request: RequestId,
}

/// A request's greenlet, which waits by letting the others run.
#[derive(Clone, Debug)]
pub(super) struct InTable {
    table: Arc<Table>,
    request: RequestId,
}

impl InTable {
    /// Which report for `fd` was the last; `None` before the first, and where it said that no more
    /// will come.
    pub(super) fn last_report(&self, fd: RawFd) -> Option<u64> {
        self.table.last_report(fd)
    }

    /// Lets the others run until `deadline`; for good without one.
    ///
    /// # Errors
    ///
    /// `GreenletExit` where the request is to end.
    pub(super) fn sleep(&self, py: Python<'_>, deadline: Option<Instant>) -> Result<(), Raised> {
        self.table.park(py, self.request, None, deadline, None).map(drop)
    }

    /// Lets the others run if this request has had its turn.
    ///
    /// # Errors
    ///
    /// `GreenletExit` where the request is to end.
    pub(super) fn take_turns(&self, py: Python<'_>) -> Result<(), Raised> {
        if self.table.is_turn_over() { self.sleep(py, Some(Instant::now())) } else { Ok(()) }
    }

    fn wait(
        &self,
        py: Python<'_>,
        fd: RawFd,
        direction: Direction,
        timeout: Option<Duration>,
    ) -> Result<bool, Raised> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.table.park(py, self.request, Some((fd, direction)), deadline, None)
    }
}

/// Waits by letting the other requests of the table run.
///
/// Its errors are those of the system, and `GreenletExit` where the request is to end.
#[allow(missing_debug_implementations, reason = "the token of the attached thread has none")]
pub(super) struct Switching<'a, 'py>(pub(super) &'a InTable, pub(super) Python<'py>);

impl Wait for Switching<'_, '_> {
    type Error = Raised;

    fn readable(&self, fd: RawFd, timeout: Option<Duration>) -> Result<bool, Raised> {
        self.0.wait(self.1, fd, Direction::Readable, timeout)
    }

    fn writable(&self, fd: RawFd, timeout: Option<Duration>) -> Result<bool, Raised> {
        self.0.wait(self.1, fd, Direction::Writable, timeout)
    }
}

/// A place to wait until somebody, on any thread, says that it is over.
#[pyclass(frozen, module = "fastsocketserver._core")]
#[derive(Debug)]
pub(super) struct Parking {
    at: InTable,
    wait: WaitId,
    is_over: AtomicBool,
}

impl Parking {
    /// One for the calling greenlet; `None` outside the table.
    pub(super) fn open() -> Option<Self> {
        let at = current()?;
        let wait = at.table.new_wait();
        Some(Self { at, wait, is_over: AtomicBool::new(false) })
    }
}

#[pymethods]
impl Parking {
    /// Lets other requests run until `leave()` has been called.
    pub(super) fn wait(&self, py: Python<'_>) -> PyResult<()> {
        while !self.is_over.load(Ordering::Acquire) {
            self.at.table.park(py, self.at.request, None, None, Some(self.wait))?;
        }
        Ok(())
    }

    /// Ends the wait, or the next.
    pub(super) fn leave(&self) {
        self.is_over.store(true, Ordering::Release);
        self.at.table.end_wait(self.wait);
    }
}

/// Lets other requests run for `seconds`; `False` outside the table.
#[pyfunction]
pub(super) fn sleep(py: Python<'_>, seconds: f64) -> PyResult<bool> {
    let Some(table) = current() else { return Ok(false) };
    table.sleep(py, Instant::now().checked_add(duration(seconds)?))?;
    Ok(true)
}

/// Waits until the descriptor can be read, or written to, or `timeout` seconds have passed; says
/// whether it can. In a table other requests run meanwhile. The time that the request has is kept to.
#[pyfunction]
pub(super) fn wait_ready(
    py: Python<'_>,
    fd: RawFd,
    writable: bool,
    timeout: Option<f64>,
) -> PyResult<bool> {
    let direction = if writable { Direction::Writable } else { Direction::Readable };
    let timeout = timeout.map(duration).transpose()?;
    let own = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let deadline = own.into_iter().chain(deadlines::next(fd, direction)).min();
    let table = current();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let Some(table) = &table else {
            if let Some(ready) = wait_detached(py, || Blocking.wait(fd, direction, left))? {
                return Ok(ready);
            }
            continue;
        };
        // The table is told of changes only, and others may have left something there.
        if wait_detached(py, || Blocking.wait(fd, direction, Some(Duration::ZERO)))? == Some(true) {
            return Ok(true);
        }
        if !Switching(table, py).wait(fd, direction, left)? {
            return Ok(false);
        }
    }
}

/// Says that `fd` is somebody else's now.
#[pyfunction]
pub(super) fn forget_descriptor(fd: RawFd) {
    forget_closing(fd);
}

/// Says that `fd` is about to be closed.
#[pyfunction]
pub(super) fn forget_closed(fd: RawFd) {
    forget_closing(fd);
    if deadlines::is_any() {
        deadlines::forget(fd);
    }
}

/// Whether the caller runs in a request's greenlet.
#[pyfunction]
pub(super) fn is_in_table() -> bool {
    is_current()
}

/// A place for the calling greenlet to wait at; `None` outside the table.
#[pyfunction]
pub(super) fn open_parking() -> Option<Parking> {
    Parking::open()
}
