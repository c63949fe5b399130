//! Until when requests may wait for their clients.
//!
//! They are kept by descriptor: so they hold for whatever reads or writes it, `rfile`, the socket's
//! own methods or a TLS layer, on whichever thread or greenlet. Most servers have none, and then
//! asking costs a load.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::limits;
use super::socket;
use crate::wait::Direction;

/// What one request must keep to.
#[derive(Debug, Default)]
struct Limits {
    /// What no other request has.
    number: u64,
    /// When the whole request must be over.
    end: Option<Instant>,
    /// How long one wait for the client may be.
    idle: Option<Duration>,
    /// Since when a line is being read.
    line: Option<Instant>,
    /// A write has come to its end: what follows would not fit to what has been sent.
    is_stuck: bool,
}

static LIMITED: Mutex<BTreeMap<RawFd, Limits>> = Mutex::new(BTreeMap::new());

/// How many there are.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The number of the last one.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Keeps a request to its deadlines until it is dropped.
#[derive(Debug)]
pub(super) struct Limited {
    fd: RawFd,
    number: u64,
}

/// Has the waits of a request of `server` end in time; `None` where they need not.
pub(super) fn begin(
    server: &Bound<'_, PyAny>,
    request: &Bound<'_, PyAny>,
) -> PyResult<Option<Limited>> {
    let (end, idle) = (limits::request_deadline(server)?, limits::idle_timeout(server)?);
    if end.is_none() && idle.is_none() {
        return Ok(None);
    }
    let Some(fd) = socket::descriptor(request) else { return Ok(None) };
    let mut limited = limited();
    if limited.contains_key(&fd) {
        // A hook has called the one that it has overridden.
        return Ok(None);
    }
    let end = end.and_then(|end| Instant::now().checked_add(end));
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    limited.insert(fd, Limits { number, end, idle, ..Limits::default() });
    COUNT.store(limited.len(), Ordering::Relaxed);
    Ok(Some(Limited { fd, number }))
}

impl Drop for Limited {
    fn drop(&mut self) {
        let mut limited = limited();
        // The handler may have closed its connection, and another request may have its descriptor.
        if limited.get(&self.fd).is_some_and(|limits| limits.number == self.number) {
            limited.remove(&self.fd);
        }
        COUNT.store(limited.len(), Ordering::Relaxed);
    }
}

/// Says that `fd` is somebody else's from now on, or nobody's.
pub(super) fn forget(fd: RawFd) {
    let mut limited = limited();
    limited.remove(&fd);
    COUNT.store(limited.len(), Ordering::Relaxed);
}

/// Until when one may wait, from now on, for `fd` to become what `direction` says.
pub(super) fn next(fd: RawFd, direction: Direction) -> Option<Instant> {
    if !is_any() {
        return None;
    }
    let limited = limited();
    let Limits { end, idle, line, is_stuck, .. } = limited.get(&fd)?;
    let now = Instant::now();
    let since = match direction {
        Direction::Readable => line.unwrap_or(now),
        Direction::Writable if *is_stuck => return Some(now),
        Direction::Writable => now,
    };
    let idle = idle.and_then(|idle| since.checked_add(idle));
    end.iter().copied().chain(idle).min()
}

/// Whether the whole request must be over by now: a client that never lets one wait is no exception.
pub(super) fn is_over(fd: RawFd) -> bool {
    let end = limited().get(&fd).and_then(|limits| limits.end);
    end.is_some_and(|end| end <= Instant::now())
}

/// Says that `fd` could not be written to in time.
pub(super) fn note_stuck(fd: RawFd) {
    if is_any() {
        if let Some(limits) = limited().get_mut(&fd) {
            limits.is_stuck = true;
        }
    }
}

/// One line's time, as a client that sends it byte by byte must not have it anew for each.
#[derive(Debug)]
pub(super) struct LineTime(Option<RawFd>);

/// Begins to count a line's time; `fd` is asked for only where that matters.
pub(super) fn line(fd: impl FnOnce() -> PyResult<RawFd>) -> LineTime {
    if !is_any() {
        return LineTime(None);
    }
    let fd = fd().ok();
    set_line(fd, Some(Instant::now()));
    LineTime(fd)
}

impl Drop for LineTime {
    fn drop(&mut self) {
        set_line(self.0, None);
    }
}

/// Begins to count a line's time, for a file that Python reads it by; until `end_line`.
#[pyfunction]
pub(super) fn begin_line(fd: RawFd) {
    if is_any() {
        set_line(Some(fd), Some(Instant::now()));
    }
}

/// Ends what `begin_line` has begun.
#[pyfunction]
pub(super) fn end_line(fd: RawFd) {
    if is_any() {
        set_line(Some(fd), None);
    }
}

fn set_line(fd: Option<RawFd>, since: Option<Instant>) {
    let Some(fd) = fd else { return };
    if let Some(limits) = limited().get_mut(&fd) {
        limits.line = since;
    }
}

/// Whether any request has a deadline.
pub(super) fn is_any() -> bool {
    COUNT.load(Ordering::Relaxed) > 0
}

fn limited() -> MutexGuard<'static, BTreeMap<RawFd, Limits>> {
    LIMITED.lock().unwrap_or_else(PoisonError::into_inner)
}
