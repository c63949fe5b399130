//! One user at a time, who may wait and run Python code meanwhile.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// Lends a value to one call at a time. No lock is held while it is lent.
#[derive(Debug)]
pub(super) struct Exclusive<T> {
    state: Mutex<State<T>>,
    returned: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// `None` while it is lent.
    value: Option<T>,
    borrower: Option<ThreadId>,
    /// How many threads wait for it; waking nobody would still be a system call.
    waiting: usize,
}

/// The value, until this is dropped.
#[derive(Debug)]
pub(super) struct Lent<'a, T> {
    owner: &'a Exclusive<T>,
    value: Option<T>,
}

impl<T: Send> Exclusive<T> {
    pub(super) fn new(value: T) -> Self {
        let state = Mutex::new(State { value: Some(value), borrower: None, waiting: 0 });
        Self { state, returned: Condvar::new() }
    }

    /// Waits until no other thread has the value, and takes it for one call.
    ///
    /// # Errors
    ///
    /// `RuntimeError` when this thread has it: a signal's handler interrupted the call that does.
    pub(super) fn borrow(&self, py: Python<'_>) -> PyResult<Lent<'_, T>> {
        loop {
            let mut state = self.state();
            if let Some(value) = state.value.take() {
                state.borrower = Some(thread::current().id());
                return Ok(Lent { owner: self, value: Some(value) });
            }
            if state.borrower == Some(thread::current().id()) {
                return Err(PyRuntimeError::new_err("reentrant call"));
            }
            drop(state);
            py.detach(|| {
                let mut state = self.state();
                state.waiting += 1;
                let lent = |state: &mut State<T>| state.value.is_none();
                let waited = self.returned.wait_while(state, lent);
                waited.unwrap_or_else(PoisonError::into_inner).waiting -= 1;
            });
        }
    }

    /// The value, where nobody else can have it.
    pub(super) fn get_mut(&mut self) -> Option<&mut T> {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner).value.as_mut()
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> std::ops::Deref for Lent<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("taken by drop alone")
    }
}

impl<T> std::ops::DerefMut for Lent<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("taken by drop alone")
    }
}

impl<T> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        let mut state = self.owner.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.value = self.value.take();
        state.borrower = None;
        let is_wanted = state.waiting > 0;
        drop(state);
        if is_wanted {
            self.owner.returned.notify_one();
        }
    }
}
