//! Until when requests may wait for their clients.
//!
//! They are kept by descriptor: so they hold for whatever reads or writes it, `rfile`, the socket's
//! own methods or a TLS layer, on whichever thread or greenlet. Most servers have none, and then
//! asking costs a load.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::intern;
use pyo3::prelude::*;

use super::interpreter::duration;
use super::socket;
use crate::wait::Direction;

/// What one request must keep to.
#[derive(Debug, Default)]
struct Limits {
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

/// Keeps a request to its deadlines until it is dropped.
#[derive(Debug)]
pub(super) struct Limited(RawFd);

/// Has the waits of a request of `server` end in time; `None` where they need not.
///
/// # Errors
///
/// `ValueError` and `TypeError` for what is no number of seconds.
pub(super) fn begin(
    server: &Bound<'_, PyAny>,
    request: &Bound<'_, PyAny>,
) -> PyResult<Option<Limited>> {
    let py = server.py();
    let end = seconds(server.getattr_opt(intern!(py, "request_deadline"))?)?;
    let idle = seconds(server.getattr_opt(intern!(py, "idle_timeout"))?)?;
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
    limited.insert(fd, Limits { end, idle, ..Limits::default() });
    COUNT.store(limited.len(), Ordering::Relaxed);
    Ok(Some(Limited(fd)))
}

impl Drop for Limited {
    fn drop(&mut self) {
        forget(self.0);
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
    let Limits { end, idle, line, is_stuck } = limited.get(&fd)?;
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

fn set_line(fd: Option<RawFd>, since: Option<Instant>) {
    let Some(fd) = fd else { return };
    if let Some(limits) = limited().get_mut(&fd) {
        limits.line = since;
    }
}

/// A number of seconds as an attribute gives it.
pub(super) fn seconds(attribute: Option<Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    match attribute.filter(|attribute| !attribute.is_none()) {
        Some(attribute) => duration(attribute.extract()?).map(Some),
        None => Ok(None),
    }
}

/// Whether any request has a deadline.
pub(super) fn is_any() -> bool {
    COUNT.load(Ordering::Relaxed) > 0
}

fn limited() -> MutexGuard<'static, BTreeMap<RawFd, Limits>> {
    LIMITED.lock().unwrap_or_else(PoisonError::into_inner)
}
