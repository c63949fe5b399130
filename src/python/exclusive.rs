//! One user at a time, who may wait and run Python code meanwhile.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::in_table::{self, Parking, Place};

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
    borrower: Option<Borrower>,
    /// How many threads wait for it; waking nobody would still be a system call.
    waiting: usize,
    /// Where requests in greenlets wait for it.
    parked: Vec<Arc<Parking>>,
}

/// Who has the value: a thread, or one of the requests that share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Borrower(ThreadId, Option<Place>);

impl Borrower {
    /// Whether `other` cannot go on before this one does.
    fn stops(self, other: Self) -> bool {
        self.0 == other.0 && (self.1 == other.1 || self.1.is_none())
    }
}

/// The value, until this is dropped.
#[derive(Debug)]
pub(super) struct Lent<'a, T> {
    owner: &'a Exclusive<T>,
    value: Option<T>,
}

impl<T: Send> Exclusive<T> {
    pub(super) fn new(value: T) -> Self {
        let state = Mutex::new(State {
            value: Some(value),
            borrower: None,
            waiting: 0,
            parked: Vec::new(),
        });
        Self { state, returned: Condvar::new() }
    }

    /// Waits until no other thread or request has the value, and takes it for one call.
    ///
    /// # Errors
    ///
    /// `RuntimeError` when the caller has it, or keeps the one from going on that does: a signal's
    /// handler interrupted the call. `GreenletExit` where the request is to end.
    pub(super) fn borrow(&self, py: Python<'_>) -> PyResult<Lent<'_, T>> {
        let caller = Borrower(thread::current().id(), in_table::place());
        loop {
            let mut state = self.state();
            if let Some(value) = state.value.take() {
                state.borrower = Some(caller);
                return Ok(Lent { owner: self, value: Some(value) });
            }
            if state.borrower.is_some_and(|borrower| caller.stops(borrower)) {
                return Err(PyRuntimeError::new_err("reentrant call"));
            }
            if let Some(parking) = Parking::open().map(Arc::new) {
                state.parked.push(Arc::clone(&parking));
                drop(state);
                parking.wait(py)?;
                continue;
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
        let parked = mem::take(&mut state.parked);
        drop(state);
        if is_wanted {
            self.owner.returned.notify_one();
        }
        // All of them: one whose wait has been ended does not take it.
        for parking in parked {
            parking.leave();
        }
    }
}
