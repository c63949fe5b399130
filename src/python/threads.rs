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

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyDict, PyList, PySet, PyString, PyType};

use super::error::Handling;
use super::interpreter::{self, Turn, call, call_method};
use super::thread_state;
use crate::sys;
use crate::thread_cache::{ThreadCache, Worker};

/// The cached threads of one server.
#[derive(Debug, Default)]
pub(super) struct RequestThreads {
    cache: Mutex<Option<Own>>,
}

#[derive(Debug)]
struct Own {
    cache: Arc<ThreadCache<Job>>,
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
    end: End,
    /// `server.process_request_thread`.
    process: Py<PyAny>,
    request: Py<PyAny>,
    client_address: Py<PyAny>,
    is_daemon: bool,
    signals: sys::SignalMask,
    /// What the thread's context begins with, where threads inherit theirs.
    context: Option<Py<PyAny>>,
    ended: Ended,
}

/// How `threading` learns of a thread's end.
#[derive(Debug)]
enum End {
    /// Up to 3.12: a lock that is released.
    Lock(Py<PyAny>),
    /// From 3.13 on.
    Handle(Py<RequestHandle>),
}

/// Threads that have ended, and that a server's list of threads may still hold.
type Ended = Arc<Mutex<Vec<Py<PyAny>>>>;

impl RequestThreads {
    /// Has `server.process_request_thread(request, client_address)` run in a thread.
    ///
    /// `false` where only a new `threading.Thread` will do.
    ///
    /// # Errors
    ///
    /// `RuntimeError` when no thread can be started.
    pub(super) fn start(
        &self,
        server: &Bound<'_, PyAny>,
        request: &Bound<'_, PyAny>,
        client_address: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let py = server.py();
        let Some(interpreter) = Interpreter::get(py)? else { return Ok(false) };
        let process = server.getattr(intern!(py, "process_request_thread"))?;
        let daemon = server.getattr(intern!(py, "daemon_threads"))?;
        let is_daemon = daemon.is_truthy()?;
        let (thread, end) = interpreter.new_thread(&process, &daemon)?;
        let (cache, ended) = self.cache();
        list(&threads_of(server, interpreter)?, &thread, is_daemon, interpreter, &ended)?;
        let job = Job {
            end,
            process: process.unbind(),
            request: request.clone().unbind(),
            client_address: client_address.clone().unbind(),
            is_daemon,
            signals: sys::SignalMask::current(),
            context: interpreter.inherited_context(py)?,
            ended,
            thread: thread.clone().unbind(),
        };
        interpreter.limbo.bind(py).set_item(&thread, &thread)?;
        if !is_daemon {
            interpreter.running.bind(py).add(&thread)?;
        }
        let stack_size = call(interpreter.stack_size.bind(py), ())?.extract::<usize>()?;
        let stack_size = if stack_size == 0 { sys::default_stack_size() } else { stack_size };
        if cache.hand_over(job, stack_size).is_err() {
            interpreter.limbo.bind(py).del_item(&thread)?;
            interpreter.running.bind(py).discard(&thread)?;
            return Err(PyRuntimeError::new_err("can't start new thread"));
        }
        Ok(true)
    }

    /// Ends the threads that have no request, and waits until they are gone.
    pub(super) fn close(&self, py: Python<'_>) {
        let own = self.own();
        let cache = own.as_ref().filter(|own| own.generation == sys::generation());
        let cache = cache.map(|own| Arc::clone(&own.cache));
        drop(own);
        if let Some(cache) = cache {
            py.detach(|| cache.retire_idle());
        }
    }

    fn cache(&self) -> (Arc<ThreadCache<Job>>, Ended) {
        let mut own = self.own();
        own.take_if(|own| own.generation != sys::generation());
        let own = own.get_or_insert_with(|| {
            let cache = Arc::new(ThreadCache::new(run_jobs));
            let mut caches = caches();
            caches.retain(|cache| cache.strong_count() > 0);
            caches.push(Arc::downgrade(&cache));
            Own { cache, ended: Ended::default(), generation: sys::generation() }
        });
        (Arc::clone(&own.cache), Arc::clone(&own.ended))
    }

    fn own(&self) -> MutexGuard<'_, Option<Own>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.generation != sys::generation() {
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
    CACHES.lock().unwrap_or_else(PoisonError::into_inner)
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
}

/// Appends `thread` to what `server_close()` waits for.
///
/// From the package's own list those are taken first that have ended, as its `append` does by asking
/// each.
fn list(
    threads: &Bound<'_, PyAny>,
    thread: &Bound<'_, PyAny>,
    is_daemon: bool,
    interpreter: &Interpreter,
    ended: &Ended,
) -> PyResult<()> {
    let py = threads.py();
    let list = match threads.cast::<PyList>() {
        Ok(list) if list.get_type().is(interpreter.threads_class.bind(py)) => list,
        _ => return call_method(threads, intern!(py, "append"), (thread,)).map(drop),
    };
    let ended = std::mem::take(&mut *ended.lock().unwrap_or_else(PoisonError::into_inner));
    for thread in ended {
        if let Some(at) = list.iter().position(|listed| listed.is(&thread)) {
            list.del_item(at)?;
        }
    }
    if is_daemon { Ok(()) } else { list.append(thread) }
}

/// The list that `server_close()` waits for, made by the first request that needs it.
fn threads_of<'py>(
    server: &Bound<'py, PyAny>,
    interpreter: &Interpreter,
) -> PyResult<Bound<'py, PyAny>> {
    let py = server.py();
    let name = intern!(py, "_threads");
    if server.getattr(intern!(py, "block_on_close"))?.is_truthy()? {
        let namespace = server.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
        if !namespace.contains(name)? {
            let threads = call(interpreter.threads_class.bind(py), ())?;
            call_method(&namespace, intern!(py, "setdefault"), (name, threads))?;
        }
    }
    server.getattr(name)
}

static INTERPRETER: PyOnceLock<Option<Interpreter>> = PyOnceLock::new();

/// What of `threading` and of the package a request thread needs.
#[derive(Debug)]
struct Interpreter {
    threading: Py<PyDict>,
    /// Names of `threading` and what they must stand for. A program, a debugger or a library that
    /// makes threads cooperative replaces some of them, and then wants each thread to pass there.
    originals: Vec<(Py<PyString>, Py<PyAny>)>,
    thread_class: Py<PyType>,
    /// The same for methods of `Thread`.
    methods: Vec<(Py<PyString>, Py<PyAny>)>,
    trace_hooks: [Py<PyString>; 2],
    thread_new: Py<PyAny>,
    /// The attributes of a thread that has been started.
    attributes: Py<PyDict>,
    /// The attribute by which a thread's end is known.
    end: Py<PyString>,
    ends_with_lock: bool,
    allocate_lock: Py<PyAny>,
    threads_class: Py<PyAny>,
    running: Py<PySet>,
    active: Py<PyDict>,
    limbo: Py<PyDict>,
    new_name: Py<PyAny>,
    stack_size: Py<PyAny>,
    get_ident: Py<PyAny>,
    get_native_id: Py<PyAny>,
    copy_context: Option<Py<PyAny>>,
    /// Whether the system is told each thread's name, as from 3.14 on.
    names_threads: bool,
}

impl Interpreter {
    /// `None` where `threading` is not as it was made.
    fn get(py: Python<'_>) -> PyResult<Option<&Self>> {
        if ENDING.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match INTERPRETER.get_or_try_init(py, || Self::look(py))? {
            Some(interpreter) if interpreter.is_original(py)? => Ok(Some(interpreter)),
            _ => Ok(None),
        }
    }

    /// What [`get`](Self::get) has found once.
    fn known(py: Python<'_>) -> Option<&Self> {
        INTERPRETER.get(py)?.as_ref()
    }

    fn look(py: Python<'_>) -> PyResult<Option<Self>> {
        let threading = py.import("threading")?;
        let thread_class = threading.getattr("Thread")?.cast_into::<PyType>()?;
        let file = threading.getattr("__file__")?;
        let mut methods = Vec::new();
        for name in ["__init__", "start", "run", "_bootstrap", "_bootstrap_inner", "join"] {
            let method = thread_class.getattr(name)?;
            let Ok(code) = method.getattr("__code__") else { return Ok(None) };
            if !code.getattr("co_filename")?.eq(&file)? {
                return Ok(None);
            }
            methods.push((PyString::intern(py, name).unbind(), method.unbind()));
        }
        let get_ident = threading.getattr("get_ident")?;
        if !get_ident.is(&py.import("_thread")?.getattr("get_ident")?) {
            return Ok(None);
        }
        let namespace = threading.dict();
        let mut originals = Vec::new();
        for name in ["Thread", "get_ident", "current_thread", "_active", "_limbo"] {
            let original = namespace.as_any().get_item(name)?;
            originals.push((PyString::intern(py, name).unbind(), original.unbind()));
        }
        let attributes = started_attributes(&thread_class)?;
        let ends = ["_tstate_lock", "_handle", "_os_thread_handle"];
        let mut known = Vec::new();
        for end in ends {
            if attributes.contains(end)? {
                known.push(end);
            }
        }
        let [end] = known[..] else { return Ok(None) };
        let module = py.import("fastsocketserver._request_thread")?;
        call(&module.getattr("prepare")?, ())?;
        thread_state::find_out(py);
        let flags = py.import("sys")?.getattr("flags")?;
        let inherits = match flags.getattr_opt("thread_inherit_context")? {
            Some(flag) => flag.is_truthy()?,
            None => false,
        };
        let copy_context = py.import("contextvars")?.getattr("copy_context")?.unbind();
        Ok(Some(Self {
            originals,
            names_threads: thread_class.hasattr("_set_os_name")?,
            methods,
            trace_hooks: ["_trace_hook", "_profile_hook"]
                .map(|name| PyString::intern(py, name).unbind()),
            thread_new: thread_class.getattr("__new__")?.unbind(),
            attributes: attributes.unbind(),
            end: PyString::intern(py, end).unbind(),
            ends_with_lock: end == "_tstate_lock",
            allocate_lock: py.import("_thread")?.getattr("allocate_lock")?.unbind(),
            running: module.getattr("running")?.cast_into::<PySet>()?.unbind(),
            threads_class: py.import("fastsocketserver._mixins")?.getattr("_Threads")?.unbind(),
            active: threading.getattr("_active")?.cast_into::<PyDict>()?.unbind(),
            limbo: threading.getattr("_limbo")?.cast_into::<PyDict>()?.unbind(),
            new_name: threading.getattr("_newname")?.unbind(),
            stack_size: threading.getattr("stack_size")?.unbind(),
            get_ident: get_ident.unbind(),
            get_native_id: threading.getattr("get_native_id")?.unbind(),
            copy_context: inherits.then_some(copy_context),
            threading: namespace.unbind(),
            thread_class: thread_class.unbind(),
        }))
    }

    fn is_original(&self, py: Python<'_>) -> PyResult<bool> {
        let threading = self.threading.bind(py);
        for (name, original) in &self.originals {
            if !threading.get_item(name)?.is_some_and(|now| now.is(original)) {
                return Ok(false);
            }
        }
        let thread_class = self.thread_class.bind(py);
        for (name, original) in &self.methods {
            if !thread_class.getattr(name.bind(py))?.is(original) {
                return Ok(false);
            }
        }
        for name in &self.trace_hooks {
            if !threading.get_item(name)?.is_none_or(|hook| hook.is_none()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A thread named as `threading` names those whose target is `process`.
    fn new_thread<'py>(
        &self,
        process: &Bound<'py, PyAny>,
        daemon: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyAny>, End)> {
        let py = process.py();
        let target = process.getattr_opt(intern!(py, "__name__"))?;
        let template = match &target {
            Some(name) if name.eq(intern!(py, "process_request_thread"))? => {
                intern!(py, "Thread-%d (process_request_thread)").clone()
            }
            Some(name) => {
                let name = name.str()?.to_string().replace('%', "%%");
                PyString::new(py, &format!("Thread-%d ({name})"))
            }
            None => intern!(py, "Thread-%d").clone(),
        };
        let name = call(self.new_name.bind(py), (template,))?;
        let thread = call(self.thread_new.bind(py), (self.thread_class.bind(py),))?;
        let attributes = thread.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
        attributes.update(self.attributes.bind(py).as_mapping())?;
        attributes.set_item(intern!(py, "_name"), name)?;
        attributes.set_item(intern!(py, "_daemonic"), daemon)?;
        let end = if self.ends_with_lock {
            let lock = call(self.allocate_lock.bind(py), ())?;
            call_method(&lock, intern!(py, "acquire"), ())?;
            attributes.set_item(self.end.bind(py), &lock)?;
            End::Lock(lock.unbind())
        } else {
            let handle = Bound::new(py, RequestHandle::default())?;
            attributes.set_item(self.end.bind(py), &handle)?;
            End::Handle(handle.unbind())
        };
        Ok((thread, end))
    }

    fn inherited_context(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let copy = self.copy_context.as_ref().map(|copy_context| call(copy_context.bind(py), ()));
        Ok(copy.transpose()?.map(Bound::unbind))
    }
}

/// What `Thread.__init__` and `Thread.start` leave in a thread's `__dict__`.
fn started_attributes<'py>(thread_class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyDict>> {
    let py = thread_class.py();
    // With a name of its own: `threading` counts those that have none.
    let named = [("name", "request")].into_py_dict(py)?;
    let thread = thread_class.call((), Some(&named))?;
    let attributes = thread.getattr("__dict__")?.cast_into::<PyDict>()?.copy()?;
    let started = attributes.as_any().get_item("_started")?;
    call_method(&started, intern!(py, "set"), ())?;
    Ok(attributes)
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

/// The numbers by which Python and the kernel know the calling thread.
#[derive(Debug)]
struct Identity {
    ident: Py<PyAny>,
    native_id: Py<PyAny>,
}

impl Identity {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let Some(interpreter) = Interpreter::known(py) else {
            return Err(PyRuntimeError::new_err("no request was started"));
        };
        Ok(Self {
            ident: call(interpreter.get_ident.bind(py), ())?.unbind(),
            native_id: call(interpreter.get_native_id.bind(py), ())?.unbind(),
        })
    }
}

impl Job {
    /// Handles the request; says whether the thread's state can serve another.
    fn run(self, py: Python<'_>, worker: &Worker<Self>, identity: &Identity) -> bool {
        let generation = sys::generation();
        let Self { thread, end, process, request, client_address, is_daemon, .. } = self;
        let (signals, context, ended) = (self.signals, self.context, self.ended);
        let thread = thread.bind(py);
        signals.set();
        let scope = thread_state::Scope::enter(py, context);
        if let Err(error) = register(thread, identity) {
            error.write_unraisable(py, Some(thread));
        }
        if let Err(error) = call(process.bind(py), (request, client_address)) {
            let _handling = Handling::begin(py, &error);
            let reported = thread
                .getattr(intern!(py, "_invoke_excepthook"))
                .and_then(|invoke| call(&invoke, (thread,)));
            if let Err(error) = reported {
                error.write_unraisable(py, Some(thread));
            }
        }
        drop(process);
        if generation != sys::generation() {
            // The handler has forked and returned in the child, whose last thread this is.
            sys::exit(0);
        }
        let clean = scope.leave(py);
        if let Some(interpreter) = Interpreter::known(py) {
            // A program may have taken it out.
            let _ = interpreter.active.bind(py).del_item(&identity.ident);
            if !is_daemon {
                let _ = interpreter.running.bind(py).discard(thread);
                ended.lock().unwrap_or_else(PoisonError::into_inner).push(thread.clone().unbind());
            }
        }
        worker.finished();
        end.tell(py);
        clean
    }
}

/// Makes `thread` the current one, as `threading` sees it.
fn register(thread: &Bound<'_, PyAny>, identity: &Identity) -> PyResult<()> {
    let py = thread.py();
    let Some(interpreter) = Interpreter::known(py) else { return Ok(()) };
    thread.setattr(intern!(py, "_ident"), &identity.ident)?;
    thread.setattr(intern!(py, "_native_id"), &identity.native_id)?;
    interpreter.active.bind(py).set_item(&identity.ident, thread)?;
    interpreter.limbo.bind(py).del_item(thread)?;
    if !interpreter.ends_with_lock {
        let handle = thread.getattr(interpreter.end.bind(py))?.cast_into::<RequestHandle>()?;
        handle.get().ident.store(identity.ident.extract(py)?, Ordering::Relaxed);
    }
    if interpreter.names_threads {
        call_method(thread, intern!(py, "_set_os_name"), ())?;
    }
    Ok(())
}

impl End {
    /// Says that the thread has ended.
    fn tell(&self, py: Python<'_>) {
        match self {
            // Released already, where a program did that.
            Self::Lock(lock) => drop(call_method(lock.bind(py), intern!(py, "release"), ())),
            Self::Handle(handle) => handle.get().finish(py),
        }
    }
}

/// What `threading` knows a thread's end by from 3.13 on.
#[pyclass(frozen, module = "fastsocketserver._core")]
#[derive(Debug, Default)]
pub(super) struct RequestHandle {
    done: AtomicBool,
    ident: AtomicU64,
    /// A lock for each who waits, which is released at the end: waiting for one of Python's locks is
    /// ended by signals.
    waiters: Mutex<Vec<Py<PyAny>>>,
}

#[pymethods]
impl RequestHandle {
    /// The thread's number, 0 before it has one.
    #[getter]
    fn ident(&self) -> u64 {
        self.ident.load(Ordering::Relaxed)
    }

    /// Whether the request is over.
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Waits until the request is over, or for `timeout` seconds.
    #[pyo3(signature = (timeout=None))]
    fn join(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        if self.is_done() {
            return Ok(());
        }
        let lock = call(&py.import("_thread")?.getattr("allocate_lock")?, ())?;
        let acquire = lock.getattr("acquire")?;
        call(&acquire, ())?;
        {
            let mut waiters = self.waiters();
            if self.is_done() {
                return Ok(());
            }
            waiters.push(lock.unbind());
        }
        call(&acquire, (true, timeout.map_or(-1.0, |timeout| timeout.max(0.0)))).map(drop)
    }

    /// Says that the request is over, or that this process does not have it.
    #[pyo3(name = "_set_done")]
    fn finish(&self, py: Python<'_>) {
        self.done.store(true, Ordering::Release);
        let waiters = std::mem::take(&mut *self.waiters());
        for waiter in waiters {
            // After a timeout the one who has waited holds it no more; releasing it harms nobody.
            let _ = call_method(waiter.bind(py), intern!(py, "release"), ());
        }
    }
}

impl RequestHandle {
    fn waiters(&self) -> MutexGuard<'_, Vec<Py<PyAny>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
