//! What a server's attributes allow: how many requests at once, and for how long.
//!
//! `None`, infinity and what is not above zero are no limit. What is no number is the program's own,
//! which happens to have the name: it is told of, and left alone.

use std::time::Duration;

use pyo3::exceptions::PyOverflowError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyString};

use super::engine::Engine;
use super::hooks::is_handshake_due;
use super::interpreter::{call_method, setting};
use crate::control::Limits;
use crate::event_loop::shorter;

/// Seconds that a handshake has where the program says nothing of it.
const HANDSHAKE: f64 = 10.0;

/// What `max_threads` and `max_connections` are now.
pub(super) fn of(server: &Bound<'_, PyAny>) -> PyResult<Limits> {
    let py = server.py();
    Ok(Limits {
        active: count(server, intern!(py, "max_threads"))?,
        open: count(server, intern!(py, "max_connections"))?,
    })
}

/// How many connections one client may have.
pub(super) fn per_client(server: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    count(server, intern!(server.py(), "max_connections_per_client"))
}

/// How long a client may be silent.
pub(super) fn idle_timeout(server: &Bound<'_, PyAny>) -> PyResult<Option<Duration>> {
    Ok(number(server, intern!(server.py(), "idle_timeout"), None)?.map(seconds))
}

/// How long a whole request may take.
pub(super) fn request_deadline(server: &Bound<'_, PyAny>) -> PyResult<Option<Duration>> {
    Ok(number(server, intern!(server.py(), "request_deadline"), None)?.map(seconds))
}

/// How many seconds a TLS handshake may take.
pub(super) fn handshake_timeout(server: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
    number(server, intern!(server.py(), "handshake_timeout"), Some(HANDSHAKE))
}

/// How long the client of `request` may wait before it says anything.
pub(super) fn silence(
    server: &Bound<'_, PyAny>,
    request: &Bound<'_, PyAny>,
) -> PyResult<Option<Duration>> {
    let handshake =
        if is_handshake_due(request)? { handshake_timeout(server)?.map(seconds) } else { None };
    Ok(shorter(shorter(idle_timeout(server)?, request_deadline(server)?), handshake))
}

fn count(server: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> PyResult<Option<usize>> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "above zero, and a number that is too large becomes the largest"
    )]
    let count = |limit: f64| (limit as usize).max(1);
    Ok(number(server, name, None)?.map(count))
}

fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number).unwrap_or(Duration::MAX)
}

fn to_float(number: &Bound<'_, PyAny>) -> PyResult<f64> {
    if number.is_exact_instance_of::<PyInt>() || number.is_exact_instance_of::<PyFloat>() {
        return number.extract();
    }
    call_method(number, intern!(number.py(), "__float__"), ())?.extract()
}

/// A limit, above zero; `otherwise` where the attribute is no number.
///
/// # Errors
///
/// What the program raises where it computes the attribute.
fn number(
    server: &Bound<'_, PyAny>,
    name: &Bound<'_, PyString>,
    otherwise: Option<f64>,
) -> PyResult<Option<f64>> {
    let Some(attribute) = setting(server, name)? else { return Ok(None) };
    match to_float(&attribute) {
        Ok(limit) => Ok(Some(limit).filter(|limit| *limit > 0.0 && limit.is_finite())),
        // An integer that is too large for it.
        Err(error) if error.is_instance_of::<PyOverflowError>(server.py()) => Ok(None),
        Err(_) => {
            let class = attribute.get_type().name()?;
            let message = format!("{name} is of type {class}, not a number, and is ignored");
            Engine::of(server)?.get().report_once(server.py(), &message);
            Ok(otherwise)
        }
    }
}
