//! The memory of Python's bytes and of what has the buffer protocol.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::{ptr, slice};

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::type_object::PyTypeInfo;
use pyo3::types::PyBytes;

use super::error::Raised;
use super::in_table;
use crate::sys::Room;

/// The memory of an object, which cannot be resized or freed while this lives.
pub(super) struct View<'py> {
    view: Box<ffi::Py_buffer>,
    _attached: Python<'py>,
}

impl<'py> View<'py> {
    /// The bytes of `object`, to be read.
    pub(super) fn of(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        Self::new(object, ffi::PyBUF_SIMPLE)
    }

    /// The bytes of `object`, to be written by `function`, which the error names.
    pub(super) fn writable(object: &Bound<'py, PyAny>, function: &str) -> PyResult<Self> {
        Self::new(object, ffi::PyBUF_WRITABLE).map_err(|_| {
            let class =
                object.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
            PyTypeError::new_err(format!(
                "{function} argument must be read-write bytes-like object, not {class}"
            ))
        })
    }

    fn new(object: &Bound<'py, PyAny>, flags: c_int) -> PyResult<Self> {
        let py = object.py();
        let mut view = Box::new(MaybeUninit::<ffi::Py_buffer>::uninit());
        // SAFETY: attached; the call fills the view, or fails with an exception set.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), flags) } < 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: it did not fail.
        Ok(Self { view: unsafe { view.assume_init() }, _attached: py })
    }

    /// The bytes themselves.
    ///
    /// Python code may write to them meanwhile, as it may in the standard library's calls: what is
    /// sent or received then is that code's own affair.
    pub(super) fn bytes(&self) -> &[u8] {
        let (start, length) = self.parts();
        // SAFETY: the object keeps this memory until the view is released.
        unsafe { slice::from_raw_parts(start, length) }
    }

    /// The bytes of a view that is `writable`.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let (start, length) = self.parts();
        // SAFETY: as above, and the object has granted to write there.
        unsafe { slice::from_raw_parts_mut(start, length) }
    }

    fn parts(&self) -> (*mut u8, usize) {
        let length = usize::try_from(self.view.len).unwrap_or_default();
        // An empty buffer may have no memory at all.
        let start = if length == 0 { ptr::dangling_mut() } else { self.view.buf.cast() };
        (start, length)
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        // SAFETY: attached, and the view was filled by PyObject_GetBuffer.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.view) };
    }
}

// From CPython's bytesobject.h, which pyo3-ffi leaves out.
unsafe extern "C" {
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, length: ffi::Py_ssize_t) -> c_int;
}

/// Bytes of at most `size`, which `fill` writes and counts; `None` where it says so.
pub(super) fn filled(
    py: Python<'_>,
    size: usize,
    fill: impl FnOnce(&mut Room<'_>) -> Result<Option<usize>, Raised>,
) -> Result<Option<Bound<'_, PyBytes>>, Raised> {
    const ON_STACK: usize = 8192;
    // A request in the table takes its part of the stack along when it waits.
    if size <= ON_STACK && !in_table::is_current() {
        let mut on_stack = [MaybeUninit::uninit(); ON_STACK];
        let mut room = Room::new(&mut on_stack[..size]);
        let filled = fill(&mut room)?;
        return Ok(filled.map(|_| PyBytes::new(py, room.filled())));
    }
    let capacity = ffi::Py_ssize_t::try_from(size).unwrap_or(ffi::Py_ssize_t::MAX);
    // SAFETY: attached; a new reference to bytes whose content is ours to write, or null with an
    // exception set.
    let mut bytes = unsafe { ffi::PyBytes_FromStringAndSize(ptr::null(), capacity) };
    if bytes.is_null() {
        return Err(PyErr::fetch(py).into());
    }
    // SAFETY: `bytes` has memory for `size` bytes, and nobody else knows of it.
    let memory = unsafe { slice::from_raw_parts_mut(ffi::PyBytes_AsString(bytes).cast(), size) };
    let mut room = Room::new(memory);
    let outcome = fill(&mut room);
    let length = ffi::Py_ssize_t::try_from(room.filled().len()).unwrap_or_default();
    // SAFETY: attached, and this is the only reference. The call replaces it, or frees it, sets it to
    // null and sets an exception.
    let bytes = unsafe {
        if _PyBytes_Resize(&raw mut bytes, length) < 0 {
            return Err(PyErr::fetch(py).into());
        }
        Bound::from_owned_ptr(py, bytes).cast_into_unchecked::<PyBytes>()
    };
    Ok(outcome?.map(|_| bytes))
}

/// A size where `None` is allowed too, as an argument.
///
/// # Errors
///
/// `TypeError` for what is neither, `OverflowError` for what no memory could hold.
pub(super) fn optional_size(argument: &Bound<'_, PyAny>) -> PyResult<Option<isize>> {
    if argument.is_none() {
        return Ok(None);
    }
    // SAFETY: attached.
    if unsafe { ffi::PyIndex_Check(argument.as_ptr()) } == 0 {
        let class = argument.get_type().name()?;
        let message = format!("argument should be integer or None, not '{class}'");
        return Err(PyTypeError::new_err(message));
    }
    // SAFETY: attached; -1 is also what an exception is reported by.
    let size = unsafe {
        ffi::PyNumber_AsSsize_t(
            argument.as_ptr(),
            PyOverflowError::type_object_raw(argument.py()).cast(),
        )
    };
    if size == -1 { PyErr::take(argument.py()).map_or(Ok(Some(-1)), Err) } else { Ok(Some(size)) }
}

/// A size, as an argument.
///
/// # Errors
///
/// `TypeError` for what is no integer, `OverflowError` for what no memory could hold.
pub(super) fn size(argument: &Bound<'_, PyAny>) -> PyResult<isize> {
    // SAFETY: attached; the first call gives a new reference, or null with an exception set, and
    // for the second, -1 is also what an exception is reported by.
    let size = unsafe {
        let number = ffi::PyNumber_Index(argument.as_ptr());
        let number = Bound::from_owned_ptr_or_err(argument.py(), number)?;
        ffi::PyLong_AsSsize_t(number.as_ptr())
    };
    if size == -1 { PyErr::take(argument.py()).map_or(Ok(-1), Err) } else { Ok(size) }
}
