//! Running another program in this interpreter, in the way that the interpreter runs its own.
//!
//! What a program raises is printed here, before it reaches the frames of whoever called:
//! `sys.excepthook` and `sys.last_traceback` see the program's frames alone, as they do when it is
//! run directly.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::error::Raised;

/// Calls `callable`; false, and the exception printed, when it raises. `SystemExit` ends the process.
#[pyfunction]
pub(super) fn call_program(callable: &Bound<'_, PyAny>, args: &Bound<'_, PyTuple>) -> bool {
    let Err(error) = callable.call1(args) else {
        return true;
    };
    error.restore(callable.py());
    // SAFETY: an exception is set, as it must be.
    unsafe { ffi::PyErr_Print() };
    false
}

/// Runs a file, source or compiled, in the module `__main__`; false, and the exception printed, when
/// it raises. `SystemExit` ends the process.
#[pyfunction]
pub(super) fn run_file(_py: Python<'_>, path: PathBuf) -> PyResult<bool> {
    let name = CString::new(path.into_os_string().into_vec())?;
    // SAFETY: both arguments are strings that end with a null.
    let file = unsafe { libc::fopen(name.as_ptr(), c"rb".as_ptr()) };
    if file.is_null() {
        return Err(Raised::from(io::Error::last_os_error()).into());
    }
    // SAFETY: the file is open, and closed by the callee (the 1); the name outlives the call; no
    // compiler flags are wanted.
    let status =
        unsafe { ffi::PyRun_AnyFileExFlags(file.cast(), name.as_ptr(), 1, std::ptr::null_mut()) };
    Ok(status == 0)
}
