//! Cached request threads that Python knows as threads of their own.
//!
//! ```text
//! start                   on the serving thread: a `Thread` is made, and is in `_limbo` as one that is
//!                         about to start
//!   run                   on a cached thread: it is in `_active` from here on
//!     process_request_thread
//!     excepthook          for what that raises
//!   forget                locals, contexts: nothing reaches the next request
//! ```

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::error::Handling;
use super::hooks::Hooks;
use super::interpreter::{self, Turn, call, call_method};
use super::ledger::{Ledger, State, Ticket};
use super::thread_state;
use super::threading::{End, Identity, Threading};
use crate::sys;
use crate::thread_cache::{HandOverError, ThreadCache, Worker};

/// The cached threads of one server.
#[derive(Debug, Default)]
pub(super) struct RequestThreads {
    cache: Mutex<Option<Own>>,
}

#[derive(Debug)]
struct Own {
    cache: Arc<ThreadCache<Job>>,
    /// Requests that no thread could be started for.
    stalled: VecDeque<Job>,
    ended: Ended,
    /// A forked child inherits the cache, but none of its threads.
    generation: u32,
}

/// All caches that there are.
static CACHES: Mutex<Vec<Weak<ThreadCache<Job>>>> = Mutex::new(Vec::new());

/// Set when the interpreter begins to end: it waits for threads of its own kind only.
static ENDING: AtomicBool = AtomicBool::new(false);

/// One request, for a thread that has yet to take it.
#[derive(Debug)]
struct Job {
    thread: Py<PyAny>,
    ticket: Ticket,
    end: End,
    process: Process,
    request: Py<PyAny>,
    client_address: Py<PyAny>,
    signals: sys::SignalMask,
    /// What the thread's context begins with, where threads inherit theirs.
    context: Option<Py<PyAny>>,
    /// Where the thread is to be put at its end, if the server's list has it.
    ended: Option<Ended>,
}

/// Threads that have ended, and that a server's list of threads may still hold.
type Ended = Arc<Mutex<Vec<Py<PyAny>>>>;

impl RequestThreads {
    /// Has `server.process_request_thread(request, client_address)` run in a thread.
    ///
    /// `false` where only a new `threading.Thread` will do. Where no thread can be started, the request
    /// waits for [`start_stalled`](Self::start_stalled), as do those that come after it.
    pub(super) fn start(
        &self,
        server: &Bound<'_, PyAny>,
        request: &Bound<'_, PyAny>,
        client_address: &Bound<'_, PyAny>,
        ledger: &Arc<Ledger>,
    ) -> PyResult<bool> {
        let py = server.py();
        if ENDING.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(threading) = Threading::get(py)? else { return Ok(false) };
        let (process, target) = Process::of(server)?;
        let daemon = server.getattr(intern!(py, "daemon_threads"))?;
        let (thread, end) = threading.new_thread(target.as_deref(), &daemon)?;
        let (cache, ended) = self.cache();
        let is_listed = list(server, &thread, &daemon, threading, &ended)?;
        let ticket = ledger.claim(request, client_address);
        ticket.set_state(State::Queued);
        let job = Job {
            ticket,
            end,
            process,
            request: request.clone().unbind(),
            client_address: client_address.clone().unbind(),
            signals: sys::SignalMask::current(),
            context: threading.inherited_context(py)?,
            ended: is_listed.then_some(ended),
            thread: thread.clone().unbind(),
        };
        let stack_size = threading.stack_size(py)?;
        // Outside of the lock: a job that is dropped may run a finalizer.
        if let Some(job) = self.stall_behind_others(job) {
            if let Err(HandOverError { job, .. }) = cache.hand_over(job, stack_size) {
                self.stall(job);
            }
        }
        Ok(true)
    }

    /// Tries again to start threads for the requests that wait for one; says how many still do.
    pub(super) fn start_stalled(&self, py: Python<'_>) -> PyResult<usize> {
        let Some(threading) = Threading::known(py) else { return Ok(0) };
        while let Some(job) = self.pop_stalled() {
            let (cache, _) = self.cache();
            if let Err(HandOverError { job, .. }) = cache.hand_over(job, threading.stack_size(py)?)
            {
                if let Some(own) = &mut *self.own() {
                    own.stalled.push_front(job);
                    return Ok(own.stalled.len());
                }
            }
        }
        Ok(0)
    }

    /// Ends the requests that still wait for a thread when nobody will try again.
    pub(super) fn give_up(&self, server: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = server.py();
        while let Some(job) = self.pop_stalled() {
            let Job { thread, end, request, client_address, ticket, .. } = job;
            if let Some(threading) = Threading::known(py) {
                threading.forget(thread.bind(py));
            }
            ticket.fail();
            let error = PyRuntimeError::new_err("can't start new thread");
            let hooks = Hooks::new(server);
            let ended = hooks.give_up(error, request.bind(py), client_address.bind(py));
            end.tell(py);
            ended?;
        }
        Ok(())
    }

    /// How many requests wait for a thread that could not be started.
    pub(super) fn count_stalled(&self) -> usize {
        self.own().as_ref().map_or(0, |own| own.stalled.len())
    }

    /// How many threads wait for a request.
    pub(super) fn count_idle(&self) -> usize {
        self.present_cache().map_or(0, |cache| cache.idle())
    }

    /// Has `job` wait if others do; returns it if not.
    fn stall_behind_others(&self, job: Job) -> Option<Job> {
        match &mut *self.own() {
            Some(own) if !own.stalled.is_empty() => {
                own.stalled.push_back(job);
                None
            }
            _ => Some(job),
        }
    }

    fn stall(&self, job: Job) {
        if let Some(own) = &mut *self.own() {
            own.stalled.push_back(job);
        }
    }

    fn pop_stalled(&self) -> Option<Job> {
        self.own().as_mut()?.stalled.pop_front()
    }

    /// Lets the threads begin that were started, as `Thread.start` does: who handles requests one by
    /// one finds them running. A loop does without, for it waits in any case.
    pub(super) fn let_begin(&self, py: Python<'_>) {
        /// Enough for a thread to get a processor; it begins later if not.
        const YIELDS: u32 = 100;
        let Some(cache) = self.present_cache() else { return };
        py.detach(|| {
            (0..YIELDS).take_while(|_| cache.has_queued()).for_each(|_| std::thread::yield_now());
        });
    }

    /// Ends the threads that have no request, and waits until they are gone.
    pub(super) fn close(&self, py: Python<'_>) {
        if let Some(cache) = self.present_cache() {
            py.detach(|| cache.retire_idle());
        }
    }

    /// The cache, if this process has one already.
    fn present_cache(&self) -> Option<Arc<ThreadCache<Job>>> {
        let own = self.own();
        let own = own.as_ref().filter(|own| own.generation == sys::generation());
        own.map(|own| Arc::clone(&own.cache))
    }

    fn cache(&self) -> (Arc<ThreadCache<Job>>, Ended) {
        let mut own = self.own();
        own.take_if(|own| own.generation != sys::generation());
        let own = own.get_or_insert_with(|| {
            let cache = Arc::new(ThreadCache::new(run_jobs));
            let mut caches = caches();
            caches.retain(|cache| cache.strong_count() > 0);
            caches.push(Arc::downgrade(&cache));
            Own {
                cache,
                stalled: VecDeque::new(),
                ended: Ended::default(),
                generation: sys::generation(),
            }
        });
        (Arc::clone(&own.cache), Arc::clone(&own.ended))
    }

    fn own(&self) -> MutexGuard<'_, Option<Own>> {
        lock(&self.cache)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.generation != sys::generation() {
            // Their threads never were, and their connections are the parent's.
            #[allow(clippy::mem_forget, reason = "finalizers would close what is not ours")]
            std::mem::forget(std::mem::take(&mut self.stalled));
            // Its lock may be held by a thread that this process does not have.
            #[allow(clippy::mem_forget, reason = "dropping the last one would take that lock")]
            std::mem::forget(Arc::clone(&self.cache));
        }
    }
}

/// Says that this process was forked, and has none of the threads that there were.
#[pyfunction]
pub(super) fn forget_threads() {
    interpreter::forget_turns();
    caches().clear();
}

fn caches() -> MutexGuard<'static, Vec<Weak<ThreadCache<Job>>>> {
    lock(&CACHES)
}

/// Ends the threads that have no request, of all servers, and waits until they are gone.
#[pyfunction]
pub(super) fn retire_idle_threads(py: Python<'_>) {
    let all: Vec<_> = caches().iter().filter_map(Weak::upgrade).collect();
    py.detach(|| all.iter().for_each(|cache| cache.retire_idle()));
}

/// Has each request from now on run in a new `threading.Thread`.
#[pyfunction]
pub(super) fn stop_caching_threads() {
    ENDING.store(true, Ordering::Relaxed);
    interpreter::stop_queueing();
}

/// Appends `thread` to what `server_close()` waits for; says whether it is in the package's own list
/// now. From there those are taken first that have ended, as its `append` does by asking each.
fn list(
    server: &Bound<'_, PyAny>,
    thread: &Bound<'_, PyAny>,
    daemon: &Bound<'_, PyAny>,
    threading: &Threading,
    ended: &Ended,
) -> PyResult<bool> {
    let py = server.py();
    let name = intern!(py, "_threads");
    let own_class = threading.threads_class.bind(py);
    let mut threads = server.getattr(name)?;
    if !threads.get_type().is(own_class)
        && server.getattr(intern!(py, "block_on_close"))?.is_truthy()?
    {
        // The first request makes it; a program may have put something else there.
        let namespace = server.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
        if !namespace.contains(name)? {
            let own = call(own_class, ())?;
            call_method(&namespace, intern!(py, "setdefault"), (name, own))?;
            threads = server.getattr(name)?;
        }
    }
    let list = match threads.cast::<PyList>() {
        Ok(list) if list.get_type().is(own_class) => list,
        _ => {
            call_method(&threads, intern!(py, "append"), (thread,))?;
            return Ok(false);
        }
    };
    let ended = std::mem::take(&mut *lock(ended));
    for thread in ended {
        if let Some(at) = list.iter().position(|listed| listed.is(&thread)) {
            list.del_item(at)?;
        }
    }
    let is_listed = !daemon.is_truthy()?;
    if is_listed {
        list.append(thread)?;
    }
    Ok(is_listed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What runs in the thread.
#[derive(Debug)]
enum Process {
    /// `ThreadingMixIn.process_request_thread` of this server.
    Own(Py<PyAny>),
    /// What a program has put in its place.
    Other(Py<PyAny>),
}

impl Process {
    /// As it is for `server` now, and its name.
    fn of(server: &Bound<'_, PyAny>) -> PyResult<(Self, Option<Cow<'static, str>>)> {
        let Some(process) = Hooks::new(server).process_request_thread()? else {
            let name = Some("process_request_thread".into());
            return Ok((Self::Own(server.clone().unbind()), name));
        };
        let name = match process.getattr_opt("__name__")? {
            Some(name) => Some(name.str()?.to_string().into()),
            None => None,
        };
        Ok((Self::Other(process.unbind()), name))
    }

    fn run(self, py: Python<'_>, request: Py<PyAny>, client_address: Py<PyAny>) -> PyResult<()> {
        match self {
            Self::Own(server) => {
                let (request, client_address) = (request.bind(py), client_address.bind(py));
                Hooks::new(server.bind(py)).process_to_the_end(request, client_address)
            }
            Self::Other(process) => call(process.bind(py), (request, client_address)).map(drop),
        }
    }
}

/// What a cached thread runs.
fn run_jobs(worker: &Worker<Job>) {
    sys::SignalMask::all().set();
    if thread_state::is_reusable() {
        run_jobs_in_one_state(worker);
    } else {
        run_jobs_in_new_states(worker);
    }
}

/// Where a thread state can be emptied, it serves one request after the other: making one takes 11 µs
/// from 3.11 on, measured.
fn run_jobs_in_one_state(worker: &Worker<Job>) {
    let turn = Turn::take();
    Python::try_attach(|py| {
        drop(turn);
        let Ok(identity) = Identity::new(py) else { return };
        loop {
            while let Some(job) = worker.take() {
                if !job.run(py, worker, &identity) {
                    return;
                }
            }
            let woken = py.detach(|| {
                sys::SignalMask::all().set();
                worker.wait().then(Turn::take)
            });
            if woken.is_none() {
                return;
            }
        }
    });
}

fn run_jobs_in_new_states(worker: &Worker<Job>) {
    loop {
        loop {
            let turn = Turn::take();
            let ran = Python::try_attach(|py| {
                drop(turn);
                let Some(job) = worker.take() else { return false };
                match Identity::new(py) {
                    Ok(identity) => job.run(py, worker, &identity),
                    Err(_) => false,
                }
            });
            if ran != Some(true) {
                break;
            }
        }
        sys::SignalMask::all().set();
        if !worker.wait() {
            return;
        }
    }
}

impl Job {
    /// Handles the request; says whether the thread's state can serve another.
    fn run(self, py: Python<'_>, worker: &Worker<Self>, identity: &Identity) -> bool {
        let generation = sys::generation();
        let Self { thread, end, process, request, client_address, signals, context, ended, ticket } =
            self;
        let thread = thread.bind(py);
        let Some(threading) = Threading::known(py) else { return false };
        signals.set();
        ticket.set_state(State::Handling);
        let scope = thread_state::Scope::enter(py, context);
        if let Err(error) = threading.begin(thread, identity) {
            error.write_unraisable(py, Some(thread));
        }
        if let Err(error) = process.run(py, request, client_address) {
            ticket.fail();
            let _handling = Handling::begin(py, &error);
            let reported = call_method(thread, intern!(py, "_invoke_excepthook"), (thread,));
            if let Err(error) = reported {
                error.write_unraisable(py, Some(thread));
            }
        }
        if generation != sys::generation() {
            // The handler has forked and returned in the child, whose last thread this is.
            sys::exit(0);
        }
        let clean = scope.leave(py);
        threading.end(thread, identity);
        if let Some(ended) = ended {
            lock(&ended).push(thread.clone().unbind());
        }
        worker.finished();
        // Before anybody is told: what the server's counters say is then as if the thread was gone.
        drop(ticket);
        end.tell(py);
        clean
    }
}
