//! Errors on their way to Python, and the exception that Python code is handling.
#![allow(unsafe_code)]

use std::io;
use std::ptr;

use pyo3::exceptions::{PyBaseException, PyOSError, PyTimeoutError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use super::interpreter::call;

/// What went wrong, on its way to Python.
///
/// An error of the system becomes an exception, which costs microseconds and calls Python, only where
/// it is raised: an empty listener is none. An exception stands in a box, so that the frames of those
/// who pass it on are short: they are copied for each wait in a greenlet.
#[derive(Debug)]
pub(super) enum Raised {
    Python(Box<PyErr>),
    System(io::Error),
}

impl From<PyErr> for Raised {
    fn from(error: PyErr) -> Self {
        Self::Python(Box::new(error))
    }
}

impl From<io::Error> for Raised {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Raised> for PyErr {
    /// A system's error is `OSError(errno, os.strerror(errno))`, which picks the subclass that belongs
    /// to the errno; the conversion of `pyo3` loses the errno.
    fn from(raised: Raised) -> Self {
        let error = match raised {
            Raised::Python(error) => return *error,
            Raised::System(error) => error,
        };
        let Some(errno) = error.raw_os_error() else { return error.into() };
        Python::attach(|py| {
            let strerror = py.import("os").and_then(|os| os.getattr("strerror"));
            match strerror.and_then(|strerror| call(&strerror, (errno,))) {
                Ok(text) => PyOSError::new_err((errno, text.unbind())),
                Err(raised) => raised,
            }
        })
    }
}

/// A `TimeoutError` of a request's own connection: `quiet_disconnects` must tell it from those of
/// other connections that the handler has.
#[pyfunction]
pub(super) fn client_timeout<'py>(
    py: Python<'py>,
    message: &str,
) -> PyResult<Bound<'py, PyBaseException>> {
    let error = PyTimeoutError::new_err(message.to_owned()).into_value(py).into_bound(py);
    error.setattr(intern!(py, "_is_clients"), true)?;
    Ok(error)
}

/// The errno of an `OSError`, as an [`io::Error`] that sorts the same way.
pub(super) fn io_error(py: Python<'_>, error: &PyErr) -> io::Error {
    let errno = error.value(py).getattr("errno").and_then(|errno| errno.extract::<i32>());
    errno.map_or_else(|_| io::ErrorKind::Other.into(), io::Error::from_raw_os_error)
}

/// Makes an exception the one that is being handled, until this value is dropped.
///
/// Code called meanwhile sees what an `except` block's code sees: `sys.exc_info()`, and a bare
/// `raise` raises it again.
pub(super) struct Handling<'py> {
    _attached: Python<'py>,
    former: [*mut ffi::PyObject; 3],
}

impl<'py> Handling<'py> {
    pub(super) fn begin(py: Python<'py>, error: &PyErr) -> Self {
        let value = error.clone_ref(py).into_value(py).into_bound(py).into_any();
        let class = value.get_type().into_any();
        let traceback = error.traceback(py).map_or(ptr::null_mut(), |tb| tb.into_any().into_ptr());
        let [mut former_type, mut former_value, mut former_traceback] = [ptr::null_mut(); 3];
        // SAFETY: attached. The first call gives new references to what was handled before (or
        // null), which `drop` hands back; the second takes over the three references.
        unsafe {
            ffi::PyErr_GetExcInfo(
                &raw mut former_type,
                &raw mut former_value,
                &raw mut former_traceback,
            );
            ffi::PyErr_SetExcInfo(class.into_ptr(), value.into_ptr(), traceback);
        }
        Self { _attached: py, former: [former_type, former_value, former_traceback] }
    }
}

impl Drop for Handling<'_> {
    fn drop(&mut self) {
        let [class, value, traceback] = self.former;
        // SAFETY: attached, and the references are ours since `begin`; the call takes them over.
        unsafe { ffi::PyErr_SetExcInfo(class, value, traceback) };
    }
}
