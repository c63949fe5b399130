//! What stands for a thread of the operating system in a `threading.Thread`, from 3.13 on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::intern;
use pyo3::prelude::*;

use super::interpreter::{call, call_method};

/// What `threading` knows a thread's end by from 3.13 on.
#[pyclass(frozen, module = "fastsocketserver._core")]
#[derive(Debug, Default)]
pub(super) struct RequestHandle {
    done: AtomicBool,
    ident: AtomicU64,
    /// A lock for each who waits, which is released at the end: waiting for one of Python's locks is
    /// ended by signals.
    waiters: Mutex<Vec<Py<PyAny>>>,
}

#[pymethods]
impl RequestHandle {
    /// The thread's number, 0 before it has one.
    #[getter]
    fn ident(&self) -> u64 {
        self.ident.load(Ordering::Relaxed)
    }

    /// Whether the request is over.
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Waits until the request is over, or for `timeout` seconds.
    #[pyo3(signature = (timeout=None))]
    fn join(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        if self.is_done() {
            return Ok(());
        }
        let lock = call(&py.import("_thread")?.getattr("allocate_lock")?, ())?;
        let acquire = lock.getattr("acquire")?;
        call(&acquire, ())?;
        {
            let mut waiters = self.waiters();
            if self.is_done() {
                return Ok(());
            }
            waiters.push(lock.unbind());
        }
        call(&acquire, (true, timeout.map_or(-1.0, |timeout| timeout.max(0.0)))).map(drop)
    }

    /// Says that the request is over, or that this process does not have it.
    #[pyo3(name = "_set_done")]
    pub(super) fn finish(&self, py: Python<'_>) {
        self.done.store(true, Ordering::Release);
        let waiters = std::mem::take(&mut *self.waiters());
        for waiter in waiters {
            // After a timeout the one who has waited holds it no more; releasing it harms nobody.
            let _ = call_method(waiter.bind(py), intern!(py, "release"), ());
        }
    }
}

impl RequestHandle {
    /// Notes the thread's number.
    pub(super) fn set_ident(&self, ident: u64) {
        self.ident.store(ident, Ordering::Relaxed);
    }

    fn waiters(&self) -> MutexGuard<'_, Vec<Py<PyAny>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
