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
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyTuple};

use super::engine::Engine;
use super::error::Raised;
use super::greenlet::Greenlets;
use super::hooks::Hooks;
use super::intake::Intake;
use super::interpreter::{call, duration, wait_detached};
use crate::event_loop::{Occurrence, Selector};
use crate::sys;
use crate::wait::{Blocking, Direction, Wait};
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
    registry: Option<(u64, Registry)>,
    /// By descriptor.
    watches: Vec<Watch>,
    waits: HashMap<WaitId, Waiting>,
    timers: BTreeSet<(Instant, WaitId)>,
    next: VecDeque<Next>,
    /// The unfinished requests.
    requests: BTreeSet<RequestId>,
    last_request: RequestId,
    last_wait: WaitId,
    /// Counts what the poll object has reported.
    occurrences: u64,
    /// Requests up to this one are to end: their waits raise `GreenletExit`.
    ended: RequestId,
    /// Since when a request has had the thread.
    running: Option<Instant>,
}

type RequestId = u64;
type WaitId = u64;
type HubId = u64;

#[derive(Debug)]
struct Hub {
    id: HubId,
    greenlet: Py<PyAny>,
}

/// One descriptor, as the poll object knows it.
#[derive(Debug, Default)]
struct Watch {
    interests: Option<Interest>,
    readers: Vec<WaitId>,
    writers: Vec<WaitId>,
    /// The last report for it, by number, and whether that said that no more will come.
    reported: u64,
    is_read_closed: bool,
}

#[derive(Debug)]
struct Waiting {
    /// Taken when the wait is over.
    greenlet: Option<Py<PyAny>>,
    request: RequestId,
    /// Where the greenlet goes back to at its end.
    hub: HubId,
    for_what: Option<(RawFd, Direction)>,
    deadline: Option<Instant>,
    outcome: Option<Outcome>,
}

/// How a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ready,
    TimedOut,
    /// The request is to end.
    Ended,
}

/// What the hub does next.
#[derive(Debug)]
struct Next {
    greenlet: Py<PyAny>,
    /// What a greenlet begins with; `None` where it goes on.
    args: Option<Py<PyTuple>>,
    request: RequestId,
    /// Where the greenlet goes back to at its end.
    hub: HubId,
}

thread_local! {
    /// The request whose greenlet runs on this thread now.
    static CURRENT: RefCell<Option<(Arc<Table>, RequestId)>> = const { RefCell::new(None) };
    /// The tables that this thread drives.
    static DRIVEN: RefCell<Vec<Arc<Table>>> = const { RefCell::new(Vec::new()) };
}

/// What `look` sees in the request that the caller belongs to, if it runs in one's greenlet.
fn in_current<T>(look: impl FnOnce(&Arc<Table>, RequestId) -> T) -> Option<T> {
    CURRENT.with_borrow(|current| {
        let (table, request) = current.as_ref()?;
        // A forked child waits as everybody does: the poll object is its parent's.
        table.is_own().then(|| look(table, *request))
    })
}

/// The table of the request that the caller belongs to, if it runs in one's greenlet.
pub(super) fn current() -> Option<InTable> {
    in_current(|table, request| InTable { table: Arc::clone(table), request })
}

/// Whether the caller runs in a request's greenlet.
pub(super) fn is_current() -> bool {
    in_current(|_, _| ()).is_some()
}

/// Which request the caller belongs to, if it runs in one's greenlet.
pub(super) fn place() -> Option<Place> {
    in_current(|table, request| Place { table: Arc::as_ptr(table).addr(), request })
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
    ) -> PyResult<()> {
        static RUN: PyOnceLock<Py<PyCFunction>> = PyOnceLock::new();
        let py = server.py();
        let run =
            RUN.get_or_try_init(py, || wrap_pyfunction!(run_request, py).map(Bound::unbind))?;
        self.begin_with(run.bind(py), PyTuple::new(py, [server, request, client_address])?)
    }

    /// Has `server` take a request, which may wait, in a greenlet of its own.
    pub(super) fn begin_taking(&self, server: &Bound<'_, PyAny>) -> PyResult<()> {
        static RUN: PyOnceLock<Py<PyCFunction>> = PyOnceLock::new();
        let py = server.py();
        let run =
            RUN.get_or_try_init(py, || wrap_pyfunction!(take_request, py).map(Bound::unbind))?;
        self.begin_with(run.bind(py), PyTuple::new(py, [server])?)
    }

    fn begin_with(&self, run: &Bound<'_, PyAny>, args: Bound<'_, PyTuple>) -> PyResult<()> {
        let py = run.py();
        let (hub, hub_greenlet) = self.hub(py)?;
        let greenlet = Greenlets::get(py)?.make(run, &hub_greenlet)?.unbind();
        let mut state = self.state();
        state.last_request += 1;
        let request = state.last_request;
        state.requests.insert(request);
        state.next.push_back(Next { greenlet, args: Some(args.unbind()), request, hub });
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

    /// The number of the last request that has begun.
    pub(super) fn last_request(&self) -> RequestId {
        self.state().last_request
    }

    /// How long the hub may wait.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let state = self.state();
        if !(state.next.is_empty() && lock(&self.woken).is_empty()) {
            return Some(Duration::ZERO);
        }
        let (first, _) = state.timers.first()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    /// Has `selector` watch what the requests wait for.
    pub(super) fn attach(&self, selector: &Selector) -> io::Result<()> {
        let mut state = self.state();
        if state.registry.as_ref().is_some_and(|(id, _)| *id == selector.id()) {
            return Ok(());
        }
        state.registry = Some((selector.id(), selector.registry()?));
        for watch in &mut state.watches {
            watch.interests = None;
        }
        for fd in 0..state.watches.len() {
            let Watch { readers, writers, .. } = &state.watches[fd];
            let (reads, writes) = (!readers.is_empty(), !writers.is_empty());
            let fd = RawFd::try_from(fd).expect("a descriptor's number");
            for (waits, direction) in [(reads, Direction::Readable), (writes, Direction::Writable)]
            {
                // One that cannot be watched is gone; who waits for it is told.
                if waits && state.watch(fd, direction).is_err() {
                    state.end_waits_for(fd, direction);
                }
            }
        }
        Ok(())
    }

    /// Notes whose wait is over, by what `selector` has reported and by the time.
    pub(super) fn note(&self, occurrences: impl Iterator<Item = Occurrence>) {
        let woken = mem::take(&mut *lock(&self.woken));
        let mut state = self.state();
        for occurrence in occurrences {
            state.occurred(occurrence);
        }
        for wait in woken {
            state.end_wait(wait, Outcome::Ready);
        }
        if state.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(&(deadline, wait)) = state.timers.first() {
            if deadline > now {
                break;
            }
            state.end_wait(wait, Outcome::TimedOut);
        }
    }

    /// Goes on with the requests whose wait is over. To be called by the hub.
    ///
    /// # Errors
    ///
    /// What a request raises that is no `Exception`. The others are gone on with the next time.
    pub(super) fn go_on(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        // Those that are over meanwhile are for the next round, after a look at the descriptors.
        let due = self.state().next.len();
        for _ in 0..due {
            let Some(next) = self.state().next.pop_front() else { break };
            self.switch_to(py, next)?;
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
            self.attach(&selector.0)?;
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
        let waits: Vec<_> = state.waits.keys().copied().collect();
        for wait in waits {
            state.end_wait(wait, Outcome::Ended);
        }
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

    fn switch_to(self: &Arc<Self>, py: Python<'_>, next: Next) -> PyResult<()> {
        let Next { greenlet, args, request, hub: parent } = next;
        let greenlet = greenlet.into_bound(py);
        let args = args.map_or_else(|| PyTuple::empty(py), |args| args.into_bound(py));
        let mut state = self.state();
        let hub = state.hubs.last().filter(|hub| hub.id != parent);
        let hub = hub.map(|hub| hub.greenlet.bind(py).clone());
        let former_since = state.running.replace(Instant::now());
        drop(state);
        let greenlets = Greenlets::get(py)?;
        if let Some(hub) = hub {
            // It has begun, or waited, when another was the hub.
            greenlets.set_parent(&greenlet, &hub)?;
        }
        let former = CURRENT.replace(Some((Arc::clone(self), request)));
        let outcome = greenlets.switch(&greenlet, &args);
        CURRENT.set(former);
        self.state().running = former_since;
        outcome
    }

    /// Waits, on the calling greenlet, until `deadline`, or until what it waits for is there.
    ///
    /// While it waits, its frames are copied to the heap: those from here to the request's first are
    /// short on purpose.
    fn park(
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
        let greenlet = Some(greenlets.current(py)?.unbind());
        let mut state = self.state();
        if request <= state.ended {
            drop(state);
            return Err(greenlets.exit(py).into());
        }
        if let Some((fd, direction)) = for_what {
            state.watch(fd, direction)?;
        }
        let wait = wait.unwrap_or_else(|| state.new_wait());
        if let Some((fd, direction)) = for_what {
            state.watches[index(fd)].waits(direction).push(wait);
        }
        if let Some(deadline) = deadline {
            state.timers.insert((deadline, wait));
        }
        let hub = state.hubs.last().map_or(0, |hub| hub.id);
        let waiting = Waiting { greenlet, request, hub, for_what, deadline, outcome: None };
        state.waits.insert(wait, waiting);
        Ok(wait)
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
        let mut state = self.state();
        let mut waiting = state.waits.remove(&wait)?;
        if waiting.outcome.is_none() && switched.is_ok() {
            state.waits.insert(wait, waiting);
            return None;
        }
        let State { timers, watches, .. } = &mut *state;
        waiting.leave_lists(wait, timers, watches);
        drop(state);
        Some(match (switched, waiting.outcome) {
            (Err(error), _) => Err(error.into()),
            (Ok(()), Some(Outcome::TimedOut)) => Ok(false),
            (Ok(()), Some(Outcome::Ended)) => Greenlets::get(py)
                .and_then(|greenlets| Err(greenlets.exit(py)))
                .map_err(Raised::from),
            (Ok(()), Some(Outcome::Ready) | None) => Ok(true),
        })
    }

    fn finished(&self, request: RequestId) {
        self.state().requests.remove(&request);
    }

    fn forget(&self, fd: RawFd, is_closing: bool) {
        if !self.is_own() {
            return;
        }
        let mut state = self.state();
        let State { watches, registry, .. } = &mut *state;
        let Some(watch) = watches.get_mut(index(fd)) else { return };
        if watch.interests.take().is_some() && is_closing {
            if let Some((_, registry)) = registry {
                // The kernel forgets it by itself, but not where a child has it open too.
                let _ = registry.deregister(&mut SourceFd(&fd));
            }
        }
        watch.reported = 0;
        for direction in [Direction::Readable, Direction::Writable] {
            state.end_waits_for(fd, direction);
        }
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

impl State {
    fn new_wait(&mut self) -> WaitId {
        self.last_wait += 1;
        self.last_wait
    }

    /// Makes sure that the poll object reports when `fd` becomes what is waited for.
    fn watch(&mut self, fd: RawFd, direction: Direction) -> io::Result<()> {
        let place = index(fd);
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        if self.watches.len() <= place {
            self.watches.resize_with(place + 1, Watch::default);
        }
        let Some((_, registry)) = &self.registry else { return Ok(()) };
        let watch = &mut self.watches[place];
        let wanted = match direction {
            // Every new descriptor is writable, which nobody wants to be told.
            Direction::Readable => Interest::READABLE,
            Direction::Writable => Interest::READABLE | Interest::WRITABLE,
        };
        let (source, token) = (&mut SourceFd(&fd), Occurrence::token(fd));
        match watch.interests {
            Some(interests) if interests.is_writable() || interests == wanted => return Ok(()),
            Some(_) => registry.reregister(source, token, wanted)?,
            None => match registry.register(source, token, wanted) {
                // A former descriptor of this number lives on elsewhere.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    registry.reregister(source, token, wanted)?;
                }
                outcome => outcome?,
            },
        }
        watch.interests = Some(wanted);
        Ok(())
    }

    fn occurred(&mut self, occurrence: Occurrence) {
        self.occurrences += 1;
        let number = self.occurrences;
        let Some(watch) = self.watches.get_mut(index(occurrence.fd)) else { return };
        watch.reported = number;
        watch.is_read_closed = occurrence.is_read_closed;
        if occurrence.is_readable {
            self.end_waits_for(occurrence.fd, Direction::Readable);
        }
        if occurrence.is_writable {
            self.end_waits_for(occurrence.fd, Direction::Writable);
        }
    }

    fn end_waits_for(&mut self, fd: RawFd, direction: Direction) {
        while let Some(wait) = self.watches[index(fd)].waits(direction).pop() {
            self.end_wait(wait, Outcome::Ready);
        }
    }

    fn end_wait(&mut self, wait: WaitId, outcome: Outcome) {
        let Some(waiting) = self.waits.get_mut(&wait) else { return };
        waiting.leave_lists(wait, &mut self.timers, &mut self.watches);
        if let Some(greenlet) = waiting.greenlet.take() {
            waiting.outcome = Some(outcome);
            let (request, hub) = (waiting.request, waiting.hub);
            self.next.push_back(Next { greenlet, args: None, request, hub });
        }
    }
}

impl Waiting {
    /// Takes the wait out of the lists by which its end would be noticed.
    fn leave_lists(
        &mut self,
        wait: WaitId,
        timers: &mut BTreeSet<(Instant, WaitId)>,
        watches: &mut [Watch],
    ) {
        if let Some(deadline) = self.deadline.take() {
            timers.remove(&(deadline, wait));
        }
        if let Some((fd, direction)) = self.for_what.take() {
            watches[index(fd)].waits(direction).retain(|other| *other != wait);
        }
    }
}

impl Watch {
    fn waits(&mut self, direction: Direction) -> &mut Vec<WaitId> {
        match direction {
            Direction::Readable => &mut self.readers,
            Direction::Writable => &mut self.writers,
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
        state.registry = None;
        drop(state);
        drop(hub);
    }
}

/// Tells one request from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    table: usize,
    request: RequestId,
}

/// A request's greenlet, which waits by letting the others run.
#[derive(Clone, Debug)]
pub(super) struct InTable {
    table: Arc<Table>,
    request: RequestId,
}

impl InTable {
    /// Which report for `fd` was the last; `None` before the first, and where it said that no more
    /// will come.
    pub(super) fn last_report(&self, fd: RawFd) -> Option<u64> {
        let state = self.table.state();
        let watch = state.watches.get(usize::try_from(fd).ok()?)?;
        (watch.interests.is_some() && watch.reported > 0 && !watch.is_read_closed)
            .then_some(watch.reported)
    }

    /// Lets the others run until `deadline`; for good without one.
    ///
    /// # Errors
    ///
    /// `GreenletExit` where the request is to end.
    pub(super) fn sleep(&self, py: Python<'_>, deadline: Option<Instant>) -> Result<(), Raised> {
        self.table.park(py, self.request, None, deadline, None).map(drop)
    }

    fn wait(
        &self,
        py: Python<'_>,
        fd: RawFd,
        direction: Direction,
        timeout: Option<Duration>,
    ) -> Result<bool, Raised> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.table.park(py, self.request, Some((fd, direction)), deadline, None)
    }
}

/// Waits by letting the other requests of the table run.
///
/// Its errors are those of the system, and `GreenletExit` where the request is to end.
#[allow(missing_debug_implementations, reason = "the token of the attached thread has none")]
pub(super) struct Switching<'a, 'py>(pub(super) &'a InTable, pub(super) Python<'py>);

impl Wait for Switching<'_, '_> {
    type Error = Raised;

    fn readable(&self, fd: RawFd, timeout: Option<Duration>) -> Result<bool, Raised> {
        self.0.wait(self.1, fd, Direction::Readable, timeout)
    }

    fn writable(&self, fd: RawFd, timeout: Option<Duration>) -> Result<bool, Raised> {
        self.0.wait(self.1, fd, Direction::Writable, timeout)
    }
}

/// A place to wait until somebody, on any thread, says that it is over.
#[pyclass(frozen, module = "fastsocketserver._core")]
#[derive(Debug)]
pub(super) struct Parking {
    at: InTable,
    wait: WaitId,
    is_over: AtomicBool,
}

impl Parking {
    /// One for the calling greenlet; `None` outside the table.
    pub(super) fn open() -> Option<Self> {
        let at = current()?;
        let wait = at.table.state().new_wait();
        Some(Self { at, wait, is_over: AtomicBool::new(false) })
    }
}

#[pymethods]
impl Parking {
    /// Lets other requests run until `leave()` has been called.
    pub(super) fn wait(&self, py: Python<'_>) -> PyResult<()> {
        while !self.is_over.load(Ordering::Acquire) {
            self.at.table.park(py, self.at.request, None, None, Some(self.wait))?;
        }
        Ok(())
    }

    /// Ends the wait, or the next.
    pub(super) fn leave(&self) {
        self.is_over.store(true, Ordering::Release);
        lock(&self.at.table.woken).push(self.wait);
        // The hub is waiting, unless this is its own thread.
        if !self.at.table.is_here() {
            let _ = self.at.table.waker.wake();
        }
    }
}

/// Lets other requests run for `seconds`; `False` outside the table.
#[pyfunction]
pub(super) fn sleep(py: Python<'_>, seconds: f64) -> PyResult<bool> {
    let Some(table) = current() else { return Ok(false) };
    table.sleep(py, Instant::now().checked_add(duration(seconds)?))?;
    Ok(true)
}

/// Waits until the descriptor can be read, or written to, or `timeout` seconds have passed; says
/// whether it can. In a table other requests run meanwhile.
#[pyfunction]
pub(super) fn wait_ready(
    py: Python<'_>,
    fd: RawFd,
    writable: bool,
    timeout: Option<f64>,
) -> PyResult<bool> {
    let direction = if writable { Direction::Writable } else { Direction::Readable };
    let timeout = timeout.map(duration).transpose()?;
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let table = current();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let Some(table) = &table else {
            if let Some(ready) = wait_detached(py, || Blocking.wait(fd, direction, left))? {
                return Ok(ready);
            }
            continue;
        };
        // The table is told of changes only, and others may have left something there.
        if wait_detached(py, || Blocking.wait(fd, direction, Some(Duration::ZERO)))? == Some(true) {
            return Ok(true);
        }
        if !Switching(table, py).wait(fd, direction, left)? {
            return Ok(false);
        }
    }
}

/// Says that `fd` is somebody else's now.
#[pyfunction]
pub(super) fn forget_descriptor(fd: RawFd) {
    forget_closing(fd);
}

/// Whether the caller runs in a request's greenlet.
#[pyfunction]
pub(super) fn is_in_table() -> bool {
    is_current()
}

/// A place for the calling greenlet to wait at; `None` outside the table.
#[pyfunction]
pub(super) fn open_parking() -> Option<Parking> {
    Parking::open()
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
        let intake = Intake::new(server);
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
    table.finished(request);
    outcome
}

fn index(fd: RawFd) -> usize {
    usize::try_from(fd).unwrap_or(usize::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
