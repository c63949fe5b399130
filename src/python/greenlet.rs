//! The `greenlet` package's C interface.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use super::data_stack;
use super::interpreter::unless_unwound;

/// Functions of `greenlet`, found in the table that its module exports.
///
/// The table, which `greenlet.h` describes, has grown since 0.4 and never changed.
#[derive(Debug)]
pub(super) struct Greenlets {
    new: New,
    current: Current,
    switch: Switch,
    set_parent: SetParent,
    exit: Py<PyAny>,
}

type New = unsafe extern "C-unwind" fn(
    run: *mut ffi::PyObject,
    parent: *mut ffi::PyObject,
) -> *mut ffi::PyObject;
type Current = unsafe extern "C-unwind" fn() -> *mut ffi::PyObject;
type Switch = unsafe extern "C-unwind" fn(
    greenlet: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject;
type SetParent =
    unsafe extern "C-unwind" fn(greenlet: *mut ffi::PyObject, parent: *mut ffi::PyObject) -> c_int;

/// Makes sure that the package `greenlet` is there.
#[pyfunction]
pub(super) fn check_greenlets(py: Python<'_>) -> PyResult<()> {
    Greenlets::get(py).map(drop)
}

/// Places in the table.
const EXIT: usize = 2;
const NEW: usize = 3;
const CURRENT: usize = 4;
const SWITCH: usize = 6;
const SET_PARENT: usize = 7;

impl Greenlets {
    /// The package's functions.
    ///
    /// # Errors
    ///
    /// `ImportError` that names what to install, where the package is missing.
    pub(super) fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static GREENLETS: PyOnceLock<Greenlets> = PyOnceLock::new();
        GREENLETS.get_or_try_init(py, || Self::find(py))
    }

    fn find(py: Python<'_>) -> PyResult<Self> {
        data_stack::keep_chunks(py);
        if let Err(error) = py.import("greenlet") {
            if !error.is_instance_of::<PyImportError>(py) {
                return Err(error);
            }
            let missing = PyImportError::new_err(
                "greenlet servers need the package greenlet: pip install 'fastsocketserver[greenlet]'",
            );
            missing.set_cause(py, Some(error));
            return Err(missing);
        }
        // SAFETY: attached; the name is a C string. Null comes with an exception set.
        let table = unsafe { ffi::PyCapsule_Import(c"greenlet._C_API".as_ptr(), 0) };
        if table.is_null() {
            return Err(PyErr::fetch(py));
        }
        let entry = |place: usize| -> *const c_void {
            // SAFETY: the module owns the table for good, and it is longer than any place here.
            unsafe { *table.cast::<*const c_void>().add(place) }
        };
        // SAFETY: `greenlet.h` gives the entries these types; where they may run Python code, they
        // may also unwind, as `interpreter::call` says. `exit` is a borrowed reference.
        unsafe {
            Ok(Self {
                new: std::mem::transmute::<*const c_void, New>(entry(NEW)),
                current: std::mem::transmute::<*const c_void, Current>(entry(CURRENT)),
                switch: std::mem::transmute::<*const c_void, Switch>(entry(SWITCH)),
                set_parent: std::mem::transmute::<*const c_void, SetParent>(entry(SET_PARENT)),
                exit: Bound::from_borrowed_ptr(py, entry(EXIT).cast_mut().cast()).unbind(),
            })
        }
    }

    /// A greenlet that will call `run`, and goes back to `parent` when that has returned.
    pub(super) fn make<'py>(
        &self,
        run: &Bound<'py, PyAny>,
        parent: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: attached, both live, and `parent` is a greenlet. A new reference, or null with an
        // exception set.
        unsafe {
            let greenlet = (self.new)(run.as_ptr(), parent.as_ptr());
            Bound::from_owned_ptr_or_err(run.py(), greenlet)
        }
    }

    /// The greenlet that the caller runs in.
    pub(super) fn current<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: attached. A new reference, or null with an exception set.
        unsafe { Bound::from_owned_ptr_or_err(py, (self.current)()) }
    }

    /// Goes on in `greenlet`, begins it with `args` if it is new, and returns when something
    /// switches back here.
    ///
    /// No lock, borrow or pointer to this stack may be held by who calls this that others use
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// What ended `greenlet`, if this is its parent.
    pub(super) fn switch<'py>(
        &self,
        greenlet: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
    ) -> PyResult<()> {
        let py = greenlet.py();
        let result = unless_unwound(|| {
            // SAFETY: attached, `greenlet` is one, and both live until the call returns: the
            // references stand on this stack, which is put back before it does. A new reference, or
            // null with an exception set.
            unsafe { (self.switch)(greenlet.as_ptr(), args.as_ptr(), ptr::null_mut()) }
        });
        // SAFETY: as above.
        unsafe { Bound::from_owned_ptr_or_err(py, result) }.map(drop)
    }

    /// Has `greenlet` go back to `parent` at its end.
    pub(super) fn set_parent(
        &self,
        greenlet: &Bound<'_, PyAny>,
        parent: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        // SAFETY: attached, both are greenlets and live. -1 comes with an exception set.
        match unsafe { (self.set_parent)(greenlet.as_ptr(), parent.as_ptr()) } {
            -1 => Err(PyErr::fetch(greenlet.py())),
            _ => Ok(()),
        }
    }

    /// What a greenlet raises that is to end: `greenlet.GreenletExit`.
    pub(super) fn exit(&self, py: Python<'_>) -> PyErr {
        match super::interpreter::call(self.exit.bind(py), ()) {
            Ok(exit) => PyErr::from_value(exit),
            Err(error) => error,
        }
    }
}
