//! The interpreter lock and the interpreter's end.
#![allow(unsafe_code)]

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

use super::error::Raised;

/// Calls `callable` with positional arguments.
///
/// All Python code that this module runs is run through here. Before 3.14, a daemon thread that wants
/// the lock while the interpreter ends is ended by `pthread_exit`, which unwinds its stack; Rust
/// frames on it would abort the process ([CPython 87135], [rust-lang 135929]). Such a thread is left
/// to hang instead, as it is from 3.14 on.
///
/// [CPython 87135]: https://github.com/python/cpython/issues/87135
/// [rust-lang 135929]: https://github.com/rust-lang/rust/issues/135929
pub(super) fn call<'py, A>(callable: &Bound<'py, PyAny>, args: A) -> PyResult<Bound<'py, PyAny>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
{
    let py = callable.py();
    let args = args.into_pyobject(py).map_err(Into::into)?;
    // pyo3-ffi declares the function as one that never unwinds. A second declaration that may would
    // not do: link-time optimisation makes one of the two, and takes the landing pad away. So it is
    // called through a pointer whose target the optimiser does not see.
    let call = std::hint::black_box(ffi::PyObject_Call as *const ());
    // SAFETY: the same signature, but for the unwinding.
    let call = unsafe { std::mem::transmute::<*const (), Call>(call) };
    // SAFETY: attached, `callable` and `args` live until after the call, `args` is a tuple. The
    // result is a new reference, or null with an exception set.
    unsafe {
        let result = unless_unwound(|| call(callable.as_ptr(), args.as_ptr(), ptr::null_mut()));
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// Runs `run`, which calls Python; a thread whose stack is unwound in it hangs here instead.
///
/// Nothing may be on `run`'s own frame that a forced unwind would have to drop.
pub(super) fn unless_unwound<T>(run: impl FnOnce() -> T) -> T {
    let guard = HangOnUnwind;
    let outcome = run();
    guard.disarm();
    outcome
}

/// The function that imports a module, to be called: what it imports runs code of the module's.
pub(super) fn import_module(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("importlib")?.getattr("import_module")
}

/// Calls a method with positional arguments.
pub(super) fn call_method<'py, A>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    args: A,
) -> PyResult<Bound<'py, PyAny>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
{
    call(&object.getattr(name)?, args)
}

type Call = unsafe extern "C-unwind" fn(
    callable: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject;

// From CPython's headers; pyo3-ffi leaves them out.
unsafe extern "C" {
    static mut PyMethod_Type: ffi::PyTypeObject;
    fn PyMethod_Function(method: *mut ffi::PyObject) -> *mut ffi::PyObject;
    fn PyMethod_Self(method: *mut ffi::PyObject) -> *mut ffi::PyObject;
    // Not documented, but what extension modules of all kinds are built on.
    fn _PyType_Lookup(
        class: *mut ffi::PyTypeObject,
        name: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
}

struct HangOnUnwind;

impl HangOnUnwind {
    #[allow(clippy::mem_forget, reason = "the guard's drop is what must not happen")]
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for HangOnUnwind {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

/// Whether `attribute`, got from `object`, is the method that `function` is for it.
pub(super) fn is_method(
    attribute: &Bound<'_, PyAny>,
    object: &Bound<'_, PyAny>,
    function: &Bound<'_, PyAny>,
) -> bool {
    // SAFETY: attached, and both accessors take an object that was found to be a method; they
    // borrow from it.
    unsafe {
        ffi::Py_IS_TYPE(attribute.as_ptr(), &raw mut PyMethod_Type) != 0
            && PyMethod_Self(attribute.as_ptr()) == object.as_ptr()
            && PyMethod_Function(attribute.as_ptr()) == function.as_ptr()
    }
}

/// What `object`'s class has under `name`, if that alone decides what `object.name` is: to be
/// compared, not to be used. Null otherwise.
///
/// This takes a quarter of the time of getting the attribute, which makes a method of it.
pub(super) fn class_attribute(
    object: &Bound<'_, PyAny>,
    name: &Bound<'_, PyString>,
) -> *const ffi::PyObject {
    // SAFETY: attached, and the pointers are those of live objects. The dictionary is a new
    // reference, or null with an exception set; the attribute is borrowed from the class.
    unsafe {
        let class = ffi::Py_TYPE(object.as_ptr());
        let generic = ffi::PyObject_GenericGetAttr as *const ();
        if (*class).tp_getattro.is_none_or(|getattr| getattr as *const () != generic) {
            return ptr::null();
        }
        let namespace = ffi::PyObject_GenericGetDict(object.as_ptr(), ptr::null_mut());
        if namespace.is_null() {
            ffi::PyErr_Clear();
            return ptr::null();
        }
        let hidden = ffi::PyDict_Contains(namespace, name.as_ptr());
        ffi::Py_DECREF(namespace);
        if hidden == 0 { _PyType_Lookup(class, name.as_ptr()) } else { ptr::null() }
    }
}

/// An attribute that most objects have from their class, where it is `None`; `None` for that, and for
/// a server of a class that is none of the package's.
pub(super) fn setting<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if class_attribute(object, name) == object.py().None().as_ptr().cast_const() {
        return Ok(None);
    }
    Ok(object.getattr_opt(name)?.filter(|value| !value.is_none()))
}

/// What `class` has under `name`, itself or from a base: to be compared, not to be used.
pub(super) fn type_attribute(
    class: &Bound<'_, PyType>,
    name: &Bound<'_, PyString>,
) -> *const ffi::PyObject {
    // SAFETY: attached, and both live. The attribute is borrowed from the class.
    unsafe { _PyType_Lookup(class.as_type_ptr(), name.as_ptr()) }
}

/// Runs `wait` without the lock; `None` when a signal ended it, after Python's handlers have run.
///
/// # Errors
///
/// What a signal's handler raises (`KeyboardInterrupt`), and what `wait` returns.
pub(super) fn wait_detached<T: Send>(
    py: Python<'_>,
    wait: impl FnOnce() -> io::Result<T> + Send,
) -> Result<Option<T>, Raised> {
    let outcome = py.detach(wait);
    unless_interrupted(py, outcome)
}

/// Like [`wait_detached`], for the many threads of requests: of those that want the lock back, one at
/// a time asks for it.
///
/// Each thread that waits for the lock wakes every 5 ms, to ask the one that runs to let go. With 64
/// of them that came to 35 context switches for each request, measured.
pub(super) fn wait_in_turn<T: Send>(
    py: Python<'_>,
    wait: impl FnOnce() -> io::Result<T> + Send,
) -> Result<Option<T>, Raised> {
    let (outcome, turn) = py.detach(|| (wait(), Turn::take()));
    drop(turn);
    unless_interrupted(py, outcome)
}

/// What a wait has brought; `None` when a signal ended it, after Python's handlers have run.
fn unless_interrupted<T>(py: Python<'_>, outcome: io::Result<T>) -> Result<Option<T>, Raised> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            py.check_signals()?;
            Ok(None)
        }
        outcome => Ok(Some(outcome?)),
    }
}

/// The right to ask for the lock; to be dropped as soon as it is held.
#[derive(Debug)]
pub(super) struct Turn(
    #[allow(dead_code, reason = "dropping it is what counts")] Option<MutexGuard<'static, ()>>,
);

// SAFETY: `detach` moves it from one function to another on the same thread.
unsafe impl Send for Turn {}

impl Turn {
    /// Waits for the others. To be called without the lock.
    pub(super) fn take() -> Self {
        if !IN_TURN.load(Ordering::Relaxed) {
            return Self(None);
        }
        // SAFETY: it points to `FIRST_QUEUE`, or to one that is never freed.
        let queue: &'static Mutex<()> = unsafe { &*QUEUE.load(Ordering::Relaxed) };
        // Most waits for the lock last for one request. Who sleeps through it must be woken, which
        // wakes the next, and so on: such a convoy never dissolves, and it took as long as the
        // requests themselves, measured.
        for _ in 0..YIELDS {
            match queue.try_lock() {
                Ok(turn) => return Self(Some(turn)),
                Err(TryLockError::Poisoned(turn)) => return Self(Some(turn.into_inner())),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
        Self(Some(queue.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// How often a thread lets others run before it sleeps until it is its turn.
const YIELDS: u32 = 2;

static FIRST_QUEUE: Mutex<()> = Mutex::new(());

/// The threads that want the lock back. In a forked child it is another one: this one may be held by
/// a thread that the child does not have.
static QUEUE: AtomicPtr<Mutex<()>> = AtomicPtr::new((&raw const FIRST_QUEUE).cast_mut());

/// Has threads wait for each other anew, in a forked child.
pub(super) fn forget_turns() {
    QUEUE.store(Box::leak(Box::default()), Ordering::Relaxed);
}

/// Whether threads queue at all.
static IN_TURN: AtomicBool = AtomicBool::new(true);

/// Ends queueing, when the interpreter begins to end: a thread that hangs then, for it must not take
/// the lock any more, may hang in its turn.
pub(super) fn stop_queueing() {
    IN_TURN.store(false, Ordering::Relaxed);
}

/// Finds out whether the interpreter runs with its lock; for the module's initialisation.
pub(super) fn look_for_lock(py: Python<'_>) -> PyResult<()> {
    // New in 3.13: before that, there is one.
    if let Some(is_enabled) = py.import("sys")?.getattr_opt("_is_gil_enabled")? {
        IN_TURN.store(call(&is_enabled, ())?.is_truthy()?, Ordering::Relaxed);
    }
    Ok(())
}

/// A timeout as Python gives it: seconds, below zero meaning zero.
///
/// # Errors
///
/// `ValueError` for NaN and `OverflowError` for infinity, as the `selectors` module raises.
pub(super) fn duration(seconds: f64) -> PyResult<Duration> {
    if seconds.is_nan() {
        return Err(PyValueError::new_err("cannot convert float NaN to integer"));
    }
    if seconds.is_infinite() && seconds > 0.0 {
        return Err(PyOverflowError::new_err("cannot convert float infinity to integer"));
    }
    Ok(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}
