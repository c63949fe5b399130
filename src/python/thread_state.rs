//! What a thread state keeps of the code that has run in it, and how it forgets.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

use super::data_stack;
use super::interpreter::call;

/// Whether values of `threading.local` are in the thread state's dictionary, which can be cleared.
/// From 3.13 on they go with the thread state alone.
static REUSABLE: AtomicBool = AtomicBool::new(false);

/// Looks which interpreter this is; before the first thread is started.
pub(super) fn find_out(py: Python<'_>) {
    REUSABLE.store(py.version_info() < (3, 13), Ordering::Relaxed);
    if !is_reusable() {
        data_stack::keep_chunks(py);
    }
}

/// Whether one thread state can serve one request after the other.
pub(super) fn is_reusable() -> bool {
    REUSABLE.load(Ordering::Relaxed)
}

/// One request's stay in a thread state.
pub(super) struct Scope {
    /// Null when there was no memory for it.
    context: *mut ffi::PyObject,
}

impl Scope {
    /// Begins in `context`, or in a new one.
    pub(super) fn enter(py: Python<'_>, context: Option<Py<PyAny>>) -> Self {
        let context = match context {
            Some(context) => context.into_ptr(),
            // SAFETY: attached; a new reference, or null with an exception set.
            None => unsafe { ffi::PyContext_New() },
        };
        // SAFETY: attached, and it is a context that nobody has entered.
        if context.is_null() || unsafe { ffi::PyContext_Enter(context) } < 0 {
            drop(PyErr::take(py));
        }
        Self { context }
    }

    /// Ends it; says whether nothing is left of it.
    pub(super) fn leave(self, py: Python<'_>) -> bool {
        if self.context.is_null() {
            return false;
        }
        // SAFETY: attached. It fails, with an exception set, if the code has not left a context that
        // it entered. The reference is ours, and is given up.
        let left = unsafe {
            let left = ffi::PyContext_Exit(self.context) == 0;
            ffi::Py_DECREF(self.context);
            left
        };
        if !left {
            drop(PyErr::take(py));
        }
        left && is_reusable() && forget(py)
    }
}

/// Forgets what code has left in the thread state; `false` if something cannot be forgotten.
fn forget(py: Python<'_>) -> bool {
    // What goes may run code that leaves something again.
    for _ in 0..2 {
        // SAFETY: attached; a borrowed reference to the dictionary, or null if there is none.
        let values = unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PyThreadState_GetDict()) };
        let Some(values) = values.and_then(|values| values.cast_into::<PyDict>().ok()) else {
            return false;
        };
        if !values.keys().iter().all(|key| is_local(&key)) {
            return false;
        }
        values.clear();
    }
    Hooks::get(py).is_ok_and(|hooks| hooks.are_unset(py).unwrap_or(false))
}

/// Whether a thread state's value is one of `threading.local`. Who else keeps one there may also have
/// noted elsewhere that it does, as `asyncio` has for the running loop: it may go with the thread
/// state alone.
fn is_local(key: &Bound<'_, PyAny>) -> bool {
    key.cast::<PyString>()
        .is_ok_and(|key| key.to_str().is_ok_and(|key| key.starts_with("thread.local.")))
}

/// The functions of `sys` that tell what a thread has hooked into the interpreter for itself.
struct Hooks {
    trace: [Py<PyAny>; 2],
    generators: Py<PyAny>,
    coroutines: Py<PyAny>,
}

impl Hooks {
    fn get(py: Python<'_>) -> PyResult<&Self> {
        static HOOKS: PyOnceLock<Hooks> = PyOnceLock::new();
        HOOKS.get_or_try_init(py, || {
            let sys = py.import("sys")?;
            Ok(Self {
                trace: [sys.getattr("gettrace")?.unbind(), sys.getattr("getprofile")?.unbind()],
                generators: sys.getattr("get_asyncgen_hooks")?.unbind(),
                coroutines: sys.getattr("get_coroutine_origin_tracking_depth")?.unbind(),
            })
        })
    }

    fn are_unset(&self, py: Python<'_>) -> PyResult<bool> {
        for function in &self.trace {
            if !call(function.bind(py), ())?.is_none() {
                return Ok(false);
            }
        }
        let (first, last): (Bound<'_, PyAny>, Bound<'_, PyAny>) =
            call(self.generators.bind(py), ())?.extract()?;
        let depth = call(self.coroutines.bind(py), ())?.extract::<i32>()?;
        Ok(first.is_none() && last.is_none() && depth == 0)
    }
}
