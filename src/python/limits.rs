//! How many requests a server may have at once, as its attributes say.

use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;

use super::deadlines;
use super::hooks::is_handshake_due;
use super::interpreter::setting;
use crate::control::Limits;
use crate::event_loop::shorter;

/// What `max_threads` and `max_connections` are now.
///
/// # Errors
///
/// `TypeError` for what is no number, and `ValueError` for one with which nothing could be served.
pub(super) fn of(server: &Bound<'_, PyAny>) -> PyResult<Limits> {
    let py = server.py();
    let active = setting(server, intern!(py, "max_threads"))?;
    let open = setting(server, intern!(py, "max_connections"))?;
    Ok(Limits { active: count(active, "max_threads")?, open: count(open, "max_connections")? })
}

/// A limit as an attribute gives it: `None` for no limit.
///
/// # Errors
///
/// As [`of`].
pub(super) fn count(attribute: Option<Bound<'_, PyAny>>, name: &str) -> PyResult<Option<usize>> {
    let Some(attribute) = attribute else { return Ok(None) };
    match attribute.extract::<i64>()? {
        count @ 1.. => Ok(Some(usize::try_from(count).unwrap_or(usize::MAX))),
        count => Err(PyValueError::new_err(format!("{name} must be None or at least 1: {count}"))),
    }
}

/// How long the client of `request` may wait before it says anything.
///
/// # Errors
///
/// As [`of`].
pub(super) fn silence(
    server: &Bound<'_, PyAny>,
    request: &Bound<'_, PyAny>,
) -> PyResult<Option<Duration>> {
    let py = server.py();
    let seconds = |name| deadlines::seconds(setting(server, name)?);
    let idle = seconds(intern!(py, "idle_timeout"))?;
    let whole = seconds(intern!(py, "request_deadline"))?;
    let handshake =
        if is_handshake_due(request)? { seconds(intern!(py, "handshake_timeout"))? } else { None };
    Ok(shorter(shorter(idle, whole), handshake))
}
