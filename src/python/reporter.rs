//! Telling of trouble in one line, and not too often.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyImportError, PyMemoryError, PyOSError};
use pyo3::prelude::*;

use super::interpreter::{call, import_module};

/// Writes to the logger `fastsocketserver`: of each kind of trouble a line in ten seconds at most.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    /// When a kind was told of last, and how often it has come since.
    told: Mutex<HashMap<String, (Instant, u64)>>,
}

const INTERVAL: Duration = Duration::from_secs(10);

impl Reporter {
    /// Logs `message`, unless something of its kind has been logged just now. Says whether that is
    /// dealt with; otherwise it is to be reported again, for logging may fail for the same want.
    ///
    /// `logging` is imported only here: it would make each fork of a forking server dearer (by 8 %,
    /// measured), and most servers never need it.
    pub(super) fn report(&self, py: Python<'_>, kind: &str, message: &str) -> bool {
        self.report_after(INTERVAL, py, kind, message)
    }

    /// Logs `message`, unless it has been logged; otherwise as [`report`](Self::report).
    pub(super) fn report_once(&self, py: Python<'_>, message: &str) -> bool {
        self.report_after(Duration::MAX, py, message, message)
    }

    fn report_after(&self, interval: Duration, py: Python<'_>, kind: &str, message: &str) -> bool {
        let Some(kept_back) = self.begin(kind, interval) else { return true };
        let Err(raised) = log(py, message, kept_back) else { return true };
        let is_want = raised.is_instance_of::<PyOSError>(py)
            || raised.is_instance_of::<PyImportError>(py)
            || raised.is_instance_of::<PyMemoryError>(py);
        if is_want {
            self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(kind);
        } else {
            raised.write_unraisable(py, None);
        }
        !is_want
    }

    /// How often the kind has been kept back, if it is to be told of now.
    fn begin(&self, kind: &str, interval: Duration) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match told.get_mut(kind) {
            Some((last, kept_back)) if now.duration_since(*last) < interval => {
                *kept_back += 1;
                None
            }
            _ => Some(told.insert(kind.to_owned(), (now, 0)).map_or(0, |(_, kept_back)| kept_back)),
        }
    }
}

fn log(py: Python<'_>, message: &str, kept_back: u64) -> PyResult<()> {
    let get_logger = call(&import_module(py)?, ("logging",))?.getattr("getLogger")?;
    let warning = call(&get_logger, ("fastsocketserver",))?.getattr("warning")?;
    let again = if kept_back > 0 { format!(" ({kept_back} more times)") } else { String::new() };
    call(&warning, ("%s%s", message, again)).map(drop)
}
