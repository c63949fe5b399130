//! The table of unfinished requests: each runs in a greenlet on the thread of the loop.
//!
//! ```text
//! begin                   a request has come: its greenlet is made
//! go_on                   on the loop's greenlet, the hub: with each that can go on
//!   run_request           in the request's greenlet, to its end or until the kernel says "not yet"
//!     park                what it waits for is noted; back to the hub
//! select                  the hub waits for the listener, and for all that any request waits for
//! note                    whose wait is over; they go on
//! ```
//!
//! The descriptors are registered with the loop's own poll object, once each, edge-triggered: a wait
//! costs no system call. Nobody but the table's own thread switches to its greenlets.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyTuple};

use super::engine::{Engine, RETRY_INTERVAL};
use super::error::Raised;
use super::greenlet::Greenlets;
use super::hooks::Hooks;
use super::intake::Intake;
use super::interpreter::{call, wait_detached};
use super::ledger::Ticket;
use super::waits::{HubId, Outcome, RequestId, WaitId, Waiting, Waits, Who};
use crate::event_loop::{Occurrence, Selector, shorter};
use crate::sys;
use crate::wait::Direction;
use crate::waker::Waker;

/// The unfinished requests of one server on one thread.
#[derive(Debug)]
pub(super) struct Table {
    thread: ThreadId,
    /// The thread's number as Python knows it.
    number: u64,
    /// A forked child inherits the table, and carries on with no more than the request that forked.
    generation: u32,
    waker: Arc<Waker>,
    state: Mutex<State>,
    /// Waits that something else than a descriptor or a timer has ended; other threads may add to it.
    woken: Mutex<Vec<WaitId>>,
    /// Told when nobody goes on with the requests any more.
    idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The greenlets that drive the table, innermost last: requests' greenlets switch there.
    hubs: Vec<Hub>,
    last_hub: HubId,
    waits: Waits,
    /// Requests that have yet to begin, and what their greenlets are called with.
    new: VecDeque<(Who, Py<PyTuple>)>,
    /// The unfinished requests, and the charge of those that are known to be requests.
    requests: BTreeMap<RequestId, Option<Ticket>>,
    last_request: RequestId,
    /// Requests up to this one are to end: their waits raise `GreenletExit`.
    ended: RequestId,
    /// Since when a request has had the thread.
    running: Option<Instant>,
    /// How often that request has found what it wanted without a wait.
    finds: u32,
}

#[derive(Debug)]
struct Hub {
    id: HubId,
    greenlet: Py<PyAny>,
}

thread_local! {
    /// The request whose greenlet runs on this thread now.
    static CURRENT: RefCell<Option<(Arc<Table>, RequestId)>> = const { RefCell::new(None) };
    /// The tables that this thread drives.
    static DRIVEN: RefCell<Vec<Arc<Table>>> = const { RefCell::new(Vec::new()) };
}

/// What `look` sees in the request that the caller belongs to, if it runs in one's greenlet.
pub(super) fn in_current<T>(look: impl FnOnce(&Arc<Table>, RequestId) -> T) -> Option<T> {
    CURRENT.with_borrow(|current| {
        let (table, request) = current.as_ref()?;
        // A forked child waits as everybody does: the poll object is its parent's.
        table.is_own().then(|| look(table, *request))
    })
}

/// Whether this thread drives a table.
pub(super) fn is_driven_here() -> bool {
    DRIVEN.with_borrow(|driven| !driven.is_empty())
}

/// Has the tables of this thread forget `fd`, which is about to be closed.
pub(super) fn forget_closing(fd: RawFd) {
    DRIVEN.with_borrow(|driven| driven.iter().for_each(|table| table.forget(fd, true)));
}

/// Has the tables of this thread forget whatever had the number of `fd`, which is new.
pub(super) fn forget_former(fd: RawFd) {
    DRIVEN.with_borrow(|driven| driven.iter().for_each(|table| table.forget(fd, false)));
}

impl Table {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self {
            thread: thread::current().id(),
            number: sys::thread_number(),
            generation: sys::generation(),
            waker,
            state: Mutex::default(),
            woken: Mutex::default(),
            idle: Condvar::new(),
        }
    }

    /// Whether the calling thread, in this process, may switch to its greenlets.
    pub(super) fn is_here(&self) -> bool {
        self.is_own() && self.thread == thread::current().id()
    }

    /// Whether it was made in this process.
    pub(super) fn is_own(&self) -> bool {
        self.generation == sys::generation()
    }

    /// Makes the calling greenlet the hub, until the returned value is dropped.
    pub(super) fn drive(self: &Arc<Self>, py: Python<'_>) -> PyResult<Driving> {
        let hub = Greenlets::get(py)?.current(py)?;
        let mut state = self.state();
        state.last_hub += 1;
        let id = state.last_hub;
        state.hubs.push(Hub { id, greenlet: hub.unbind() });
        drop(state);
        DRIVEN.with_borrow_mut(|driven| driven.push(Arc::clone(self)));
        Ok(Driving(Arc::clone(self)))
    }

    /// Has `server` handle `request` in a greenlet of its own, when the hub goes on.
    pub(super) fn begin(
        &self,
        server: &Bound<'_, PyAny>,
        request: &Bound<'_, PyAny>,
        client_address: &Bound<'_, PyAny>,
        ticket: Ticket,
    ) -> PyResult<()> {
        static RUN: PyOnceLock<Py<PyCFunction>> = PyOnceLock::new();
        let py = server.py();
        let run =
            RUN.get_or_try_init(py, || wrap_pyfunction!(run_request, py).map(Bound::unbind))?;
        let args = PyTuple::new(py, [server, request, client_address])?;
        self.begin_with(run.bind(py), args, Some(ticket))
    }

    /// Has `server` take a request, which may wait, in a greenlet of its own.
    pub(super) fn begin_taking(&self, server: &Bound<'_, PyAny>) -> PyResult<()> {
        static RUN: PyOnceLock<Py<PyCFunction>> = PyOnceLock::new();
        let py = server.py();
        let run =
            RUN.get_or_try_init(py, || wrap_pyfunction!(take_request, py).map(Bound::unbind))?;
        self.begin_with(run.bind(py), PyTuple::new(py, [server])?, None)
    }

    fn begin_with(
        &self,
        run: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        ticket: Option<Ticket>,
    ) -> PyResult<()> {
        let py = run.py();
        let (hub, hub_greenlet) = self.hub(py)?;
        let greenlet = Greenlets::get(py)?.make(run, &hub_greenlet)?.unbind();
        let mut state = self.state();
        state.last_request += 1;
        let request = state.last_request;
        state.requests.insert(request, ticket);
        state.new.push_back((Who { greenlet, request, hub }, args.unbind()));
        Ok(())
    }

    /// The greenlet that drives the table; that of the caller where none does.
    fn hub<'py>(&self, py: Python<'py>) -> PyResult<(HubId, Bound<'py, PyAny>)> {
        match self.state().hubs.last() {
            Some(hub) => Ok((hub.id, hub.greenlet.bind(py).clone())),
            None => Ok((0, Greenlets::get(py)?.current(py)?)),
        }
    }

    /// Whether a loop goes on with the requests.
    pub(super) fn is_driven(&self) -> bool {
        !self.state().hubs.is_empty()
    }

    /// Whether a loop goes on with it, or requests are left.
    pub(super) fn is_busy(&self) -> bool {
        let state = self.state();
        !(state.hubs.is_empty() && state.requests.is_empty())
    }

    /// The number of the last request that has begun.
    pub(super) fn last_request(&self) -> RequestId {
        self.state().last_request
    }

    /// How long the hub may wait.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let state = self.state();
        let is_busy = !state.new.is_empty() || state.waits.count_over() > 0;
        if is_busy || !lock(&self.woken).is_empty() {
            return Some(Duration::ZERO);
        }
        let deadline = state.waits.first_deadline();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        shorter(left, (!state.waits.is_attached()).then_some(RETRY_INTERVAL))
    }

    /// Has `selector` watch what the requests wait for; to be called before each wait.
    pub(super) fn attach(&self, selector: &Selector) {
        self.state().waits.attach(selector);
    }

    /// Notes whose wait is over, by what `selector` has reported and by the time.
    pub(super) fn note(&self, occurrences: impl Iterator<Item = Occurrence>) {
        let woken = mem::take(&mut *lock(&self.woken));
        let waits = &mut self.state().waits;
        for occurrence in occurrences {
            waits.occurred(occurrence);
        }
        for wait in woken {
            waits.end(wait, Outcome::Ready);
        }
        waits.end_overdue();
    }

    /// Ends the wait of this number, also if it has yet to begin; from any thread.
    pub(super) fn end_wait(&self, wait: WaitId) {
        lock(&self.woken).push(wait);
        // The hub is waiting, unless this is its own thread.
        if !self.is_here() {
            let _ = self.waker.wake();
        }
    }

    /// A number for a wait that others are to end.
    pub(super) fn new_wait(&self) -> WaitId {
        self.state().waits.new_id()
    }

    /// See [`Waits::last_report`].
    pub(super) fn last_report(&self, fd: RawFd) -> Option<u64> {
        self.state().waits.last_report(fd)
    }

    /// Goes on with the requests whose wait is over. To be called by the hub.
    ///
    /// # Errors
    ///
    /// What a request raises that is no `Exception`. The others are gone on with the next time.
    pub(super) fn go_on(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        // What comes meanwhile is for the next round, after a look at the descriptors.
        let state = self.state();
        let (over, new) = (state.waits.count_over(), state.new.len());
        drop(state);
        for _ in 0..over {
            let Some(who) = self.state().waits.pop_over() else { break };
            self.switch_to(py, who, &PyTuple::empty(py))?;
        }
        for _ in 0..new {
            let Some((who, args)) = self.state().new.pop_front() else { break };
            self.switch_to(py, who, args.bind(py))?;
        }
        Ok(())
    }

    /// Goes on with requests until none of those after `former` is unfinished.
    ///
    /// # Errors
    ///
    /// As [`go_on`](Self::go_on), and what a signal's handler raises.
    pub(super) fn finish(
        self: &Arc<Self>,
        py: Python<'_>,
        former: RequestId,
    ) -> Result<(), Raised> {
        let _driving = self.drive(py)?;
        let mut selector = Selector::attached_to(&self.waker)?;
        while self.state().requests.range(former + 1..).next().is_some() {
            self.attach(&selector.0);
            let timeout = self.timeout();
            wait_detached(py, || selector.0.select(timeout))?;
            py.check_signals()?;
            self.note(selector.0.occurrences());
            self.go_on(py)?;
        }
        Ok(())
    }

    /// Has all requests that there are end: each wait of theirs raises `GreenletExit` from now on.
    pub(super) fn end_all(&self) {
        let mut state = self.state();
        state.ended = state.last_request;
        state.waits.end_all(Outcome::Ended);
        drop(state);
        // The hub may be waiting, on another thread.
        let _ = self.waker.wake();
    }

    /// Waits until no thread goes on with requests of this server, which `is_busy` tells.
    ///
    /// # Errors
    ///
    /// What a signal's handler raises.
    pub(super) fn wait_idle(
        &self,
        py: Python<'_>,
        is_busy: impl Fn() -> bool + Send + Sync,
    ) -> PyResult<()> {
        /// How long a signal's handler may have to wait.
        const PATIENCE: Duration = Duration::from_millis(100);
        while is_busy() {
            py.detach(|| {
                let waited = self.idle.wait_timeout_while(self.state(), PATIENCE, |_| is_busy());
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            });
            py.check_signals()?;
        }
        Ok(())
    }

    /// Tells those who wait that nobody goes on with the requests any more.
    pub(super) fn tell_idle(&self) {
        let _state = self.state();
        self.idle.notify_all();
    }

    /// For how long a request has had the thread without a wait: the thread's number as Python
    /// knows it, and seconds.
    pub(super) fn held(&self) -> Option<(u64, f64)> {
        self.state().running.map(|since| (self.number, since.elapsed().as_secs_f64()))
    }

    /// Whether the request that runs shall let the others run, though it need not wait.
    pub(super) fn is_turn_over(&self) -> bool {
        /// A client that always has something to say, or room, would keep all others waiting.
        const MOST_FINDS: u32 = 64;
        let mut state = self.state();
        state.finds += 1;
        state.finds > MOST_FINDS
    }

    fn switch_to(
        self: &Arc<Self>,
        py: Python<'_>,
        who: Who,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        let Who { greenlet, request, hub: parent } = who;
        let greenlet = greenlet.into_bound(py);
        let mut state = self.state();
        let hub = state.hubs.last().filter(|hub| hub.id != parent);
        let hub = hub.map(|hub| hub.greenlet.bind(py).clone());
        let former_since = state.running.replace(Instant::now());
        state.finds = 0;
        drop(state);
        let greenlets = Greenlets::get(py)?;
        if let Some(hub) = hub {
            // It has begun, or waited, when another was the hub.
            greenlets.set_parent(&greenlet, &hub)?;
        }
        let former = CURRENT.replace(Some((Arc::clone(self), request)));
        let outcome = greenlets.switch(&greenlet, args);
        CURRENT.set(former);
        self.state().running = former_since;
        outcome
    }

    /// Waits, on the calling greenlet, until `deadline`, or until what it waits for is there.
    ///
    /// While it waits, its frames are copied to the heap: those from here to the request's first are
    /// short on purpose.
    pub(super) fn park(
        &self,
        py: Python<'_>,
        request: RequestId,
        for_what: Option<(RawFd, Direction)>,
        deadline: Option<Instant>,
        wait: Option<WaitId>,
    ) -> Result<bool, Raised> {
        let wait = self.begin_wait(py, request, for_what, deadline, wait)?;
        loop {
            let switched = self.switch_to_hub(py);
            // Nothing has come of it where a program has switched here by itself.
            if let Some(outcome) = self.finish_wait(py, wait, switched) {
                return outcome;
            }
        }
    }

    #[inline(never)]
    fn begin_wait(
        &self,
        py: Python<'_>,
        request: RequestId,
        for_what: Option<(RawFd, Direction)>,
        deadline: Option<Instant>,
        wait: Option<WaitId>,
    ) -> Result<WaitId, Raised> {
        let greenlets = Greenlets::get(py)?;
        let greenlet = greenlets.current(py)?.unbind();
        let mut state = self.state();
        if request <= state.ended {
            drop(state);
            return Err(greenlets.exit(py).into());
        }
        let hub = state.hubs.last().map_or(0, |hub| hub.id);
        let who = Some(Who { greenlet, request, hub });
        let waiting = Waiting { who, for_what, deadline, outcome: None };
        Ok(state.waits.begin(wait, waiting)?)
    }

    fn switch_to_hub(&self, py: Python<'_>) -> PyResult<()> {
        let (_, hub) = self.hub(py)?;
        Greenlets::get(py)?.switch(&hub, &PyTuple::empty(py))
    }

    #[inline(never)]
    fn finish_wait(
        &self,
        py: Python<'_>,
        wait: WaitId,
        switched: PyResult<()>,
    ) -> Option<Result<bool, Raised>> {
        let waiting = self.state().waits.finish(wait, switched.is_err())?;
        Some(match (switched, waiting.outcome) {
            (Err(error), _) => Err(error.into()),
            (Ok(()), Some(Outcome::TimedOut)) => Ok(false),
            (Ok(()), Some(Outcome::Ended)) => Greenlets::get(py)
                .and_then(|greenlets| Err(greenlets.exit(py)))
                .map_err(Raised::from),
            (Ok(()), Some(Outcome::Ready) | None) => Ok(true),
        })
    }

    fn finished(&self, request: RequestId, has_raised: bool) {
        let ticket = self.state().requests.remove(&request).flatten();
        if let Some(ticket) = ticket.filter(|_| has_raised) {
            ticket.fail();
        }
    }

    fn forget(&self, fd: RawFd, is_closing: bool) {
        if !self.is_own() {
            return;
        }
        self.state().waits.forget(fd, is_closing);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if !self.is_own() {
            // Greenlets that are freed run to their end, with connections that are the parent's.
            #[allow(clippy::mem_forget, reason = "they must never be freed in this process")]
            mem::forget(mem::take(&mut *self.state()));
        }
    }
}

/// Keeps the hub what it is.
#[derive(Debug)]
pub(super) struct Driving(Arc<Table>);

impl Drop for Driving {
    fn drop(&mut self) {
        DRIVEN.with_borrow_mut(|driven| driven.retain(|table| !Arc::ptr_eq(table, &self.0)));
        let mut state = self.0.state();
        let hub = state.hubs.pop();
        state.waits.detach();
        drop(state);
        drop(hub);
    }
}

/// What a request's greenlet runs.
#[pyfunction]
pub(super) fn run_request(
    server: &Bound<'_, PyAny>,
    request: &Bound<'_, PyAny>,
    client_address: &Bound<'_, PyAny>,
) -> PyResult<()> {
    in_request(|| Hooks::new(server).process_in_greenlet(request, client_address))
}

/// What a greenlet runs that takes a request where that may have to wait.
#[pyfunction]
pub(super) fn take_request(server: &Bound<'_, PyAny>) -> PyResult<()> {
    in_request(|| {
        let mut intake = Intake::new(server);
        match intake.hooks().handle_request_noblock()? {
            Some(handle_request) => drop(call(&handle_request, ())?),
            None => Engine::of(server)?.get().note(intake.take_by_asking()?),
        }
        Ok(())
    })
}

fn in_request(run: impl FnOnce() -> PyResult<()>) -> PyResult<()> {
    let generation = sys::generation();
    let outcome = run();
    end_request(generation, outcome)
}

#[inline(never)]
fn end_request(generation: u32, outcome: PyResult<()>) -> PyResult<()> {
    let (table, request) = CURRENT.with_borrow(Clone::clone).expect("begun by a table");
    if generation != sys::generation() {
        if outcome.is_ok() {
            // The handler has forked and returned in the child, which has this request alone.
            sys::exit(0);
        }
        return outcome;
    }
    table.finished(request, outcome.is_err());
    outcome
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
