//! How many requests a server may have at once, as its attributes say.

use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;

use super::deadlines;
use crate::control::Limits;

/// What `max_threads` and `max_connections` are now.
///
/// # Errors
///
/// `TypeError` for what is no number, and `ValueError` for one with which nothing could be served.
pub(super) fn of(server: &Bound<'_, PyAny>) -> PyResult<Limits> {
    let py = server.py();
    let active = server.getattr_opt(intern!(py, "max_threads"))?;
    let open = server.getattr_opt(intern!(py, "max_connections"))?;
    Ok(Limits { active: count(active, "max_threads")?, open: count(open, "max_connections")? })
}

/// A limit as an attribute gives it: `None` for no limit.
///
/// # Errors
///
/// As [`of`].
pub(super) fn count(attribute: Option<Bound<'_, PyAny>>, name: &str) -> PyResult<Option<usize>> {
    let Some(attribute) = attribute.filter(|attribute| !attribute.is_none()) else {
        return Ok(None);
    };
    match attribute.extract::<i64>()? {
        count @ 1.. => Ok(Some(usize::try_from(count).unwrap_or(usize::MAX))),
        count => Err(PyValueError::new_err(format!("{name} must be None or at least 1: {count}"))),
    }
}

/// How long a client may be silent.
///
/// # Errors
///
/// As [`of`].
pub(super) fn idle_timeout(server: &Bound<'_, PyAny>) -> PyResult<Option<Duration>> {
    deadlines::seconds(server.getattr_opt(intern!(server.py(), "idle_timeout"))?)
}
