//! The object that a server holds privately, and the loop's Python service.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::error::Raised;
use super::hooks::{self, Hooks};
use super::intake::Intake;
use super::interpreter::{call, call_method, duration, import_module, wait_detached};
use super::ledger::{self, Ledger, Line};
use super::limits;
use super::reporter::Reporter;
use super::socket::{self, is_open};
use super::table::Table;
use super::threads::RequestThreads;
use crate::control::Limits;
use crate::event_loop::{self, Admission, Progress, Readiness, Selector, Service, Source, shorter};
use crate::sys;
use crate::wait::{Blocking, Wait};
use crate::waker::Waker;

/// Where a server has its engine. Programs have an `_engine` of their own.
const ENGINE: &str = "_core_engine";

/// What of a server must outlive one call: the way to wake its loop.
///
/// It holds no reference to the server, which holds it: both go without the cycle collector.
#[pyclass(frozen, module = "fastsocketserver._core")]
#[derive(Debug, Default)]
pub(super) struct Engine {
    waker: Arc<Waker>,
    /// The requests that are not over; a forked child makes its own.
    ledger: Mutex<Option<Arc<Ledger>>>,
    /// What is told of trouble, and how often.
    reporter: Reporter,
    /// Why the last call of `handle_request_noblock` found no request, if that calls for a pause. An
    /// overridden `_handle_request_noblock` has no way to say so to the loop that called it.
    trouble: Mutex<Option<io::Error>>,
    /// Threads that requests have run in, and others will.
    threads: RequestThreads,
    /// Unfinished requests that run in greenlets: a table for each thread that has served.
    tables: Mutex<Vec<Arc<Table>>>,
    /// How many threads go on with such requests until they are finished.
    finishing: AtomicUsize,
    /// The threads that are inside `serve_forever`, each with the process that it is one of.
    serving: Mutex<Vec<(ThreadId, u32)>>,
    /// Whether the requests that are left when a loop ends have time to end by themselves.
    draining: AtomicBool,
}

#[pymethods]
impl Engine {
    /// The engine of `server`, made when first needed: a server need not have run `__init__`.
    #[staticmethod]
    pub(super) fn of<'py>(server: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        let py = server.py();
        let name = intern!(py, ENGINE);
        if let Some(engine) = Self::present(server)? {
            return Ok(engine);
        }
        let namespace = server.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
        // setdefault is atomic: two threads get the same one.
        let engine = Bound::new(py, Self::default())?;
        Ok(call_method(&namespace, intern!(py, "setdefault"), (name, engine))?.cast_into()?)
    }

    /// Runs the loop for `server` until `_BaseServer__shutdown_request` is true or it is closed.
    ///
    /// `select`, if not `None`, waits in place of the core: `select(timeout)` returns something true
    /// when the server is readable.
    #[pyo3(signature = (server, poll_interval, select))]
    fn serve(
        &self,
        server: &Bound<'_, PyAny>,
        poll_interval: Option<f64>,
        select: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = server.py();
        let poll_interval = poll_interval.map(duration).transpose()?;
        self.take_trouble();
        let table = if hooks::has_table(server)? { Some(self.table()) } else { None };
        let _driving = table.as_ref().map(|table| table.drive(py)).transpose()?;
        let intake = match &table {
            None if select.is_none() => Intake::new(server).with_parked(),
            table => Intake::new(server).with_table(table.clone()),
        };
        let mut serving = Serving {
            engine: self,
            intake,
            limits: Limits::default(),
            has_waited: true,
            // Requests in greenlets wait by way of the loop's own selector.
            select: select.filter(|_| table.is_none()),
            table,
            watched: None,
            is_closed: false,
            woken: false,
            batch: 0,
        };
        let outcome = event_loop::run(&mut serving, &self.waker, poll_interval);
        let left = serving.leave();
        outcome?;
        Ok(left?)
    }

    /// Handles one request that is known to be there, as `BaseServer._handle_request_noblock` does.
    fn handle_request_noblock(&self, server: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = server.py();
        let table = if hooks::has_table(server)? { Some(self.table()) } else { None };
        let former = table.as_ref().map_or(0, |table| table.last_request());
        self.await_admission(server, None)?;
        self.note(Intake::new(server).handle_request_noblock()?);
        match table {
            // The request has yet to begin; a loop, where there is one, will go on with it.
            Some(table) if !table.is_driven() => table.finish(py, former)?,
            Some(_) => {}
            None => self.let_begin(py)?,
        }
        Ok(())
    }

    /// Says that the handler of `request` has raised.
    fn note_failure(&self, request: &Bound<'_, PyAny>) {
        self.ledger().fail(request);
    }

    /// Says that a child process handles `request`, until `child_ended`.
    fn follow_child(
        &self,
        request: &Bound<'_, PyAny>,
        client_address: &Bound<'_, PyAny>,
        pid: i32,
    ) {
        let ledger = self.ledger();
        ledger.follow(pid, ledger.claim(request, client_address));
    }

    /// Says that a child has ended, and whether its request has failed.
    fn child_ended(&self, pid: i32, has_failed: bool) {
        self.ledger().child_ended(pid, has_failed);
    }

    /// Takes no requests until `resume`.
    fn pause(&self) {
        self.ledger().control().state().paused = true;
    }

    /// Takes requests again.
    fn resume(&self) {
        self.ledger().control().state().paused = false;
        self.wake();
    }

    /// How many requests are not over.
    fn count_open(&self, py: Python<'_>) -> usize {
        self.ledger().count_open(py)
    }

    /// Waits until a request is over, or `seconds` are.
    fn wait_for_end(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        let deadline = Instant::now().checked_add(duration(seconds)?.min(PATIENCE));
        let ledger = self.ledger();
        py.detach(|| {
            let before = ledger.control().state().open();
            ledger.control().wait(deadline, |state| state.open() < before);
        });
        py.check_signals()
    }

    /// Has each handler see the end of its connection; says how many requests there are. Those in
    /// greenlets end at their next wait.
    fn end_requests(&self, py: Python<'_>) -> usize {
        let count = self.ledger().end_all(py);
        self.own_tables().iter().for_each(|table| table.end_all());
        count
    }

    /// What the server has done so far: see `Stats` of the package.
    fn stats(&self, server: &Bound<'_, PyAny>) -> PyResult<StatsRow> {
        let (py, ledger) = (server.py(), self.ledger());
        let listener = server.getattr_opt(intern!(py, "socket"))?;
        let dropped = listener.as_ref().map_or(0, socket::dropped_packets);
        let fd = listener.as_ref().and_then(socket::descriptor);
        let queue_age = ledger.closed_for().filter(|_| fd.is_some_and(is_readable));
        let stats = ledger.stats(py);
        Ok((
            (stats.accepted, stats.received, stats.truncated, dropped),
            (stats.active, stats.parked, stats.finished, stats.failed, stats.refused),
            stats.accept_errors,
            self.threads.count_idle(),
            queue_age.unwrap_or_default().as_secs_f64(),
        ))
    }

    /// The requests that are not over: see `Connection` of the package.
    fn connections(&self, py: Python<'_>) -> Vec<Line> {
        self.ledger().lines(py)
    }

    /// Logs `message` unless something of its kind has been logged just now; `kind` tells kinds apart.
    /// Says whether that is dealt with.
    fn report(&self, py: Python<'_>, kind: &str, message: &str) -> bool {
        self.reporter.report(py, kind, message)
    }

    /// Says that the calling thread will finish the requests that it begins, before `leave_table`.
    fn enter_table(&self) {
        self.finishing.fetch_add(1, Ordering::Relaxed);
    }

    /// Finishes what requests the calling thread has begun in greenlets; with `end`, their waits
    /// raise `GreenletExit`.
    fn finish_requests(&self, py: Python<'_>, end: bool) -> PyResult<()> {
        let here = self.own_tables().into_iter().find(|table| table.is_here());
        let Some(table) = here else { return Ok(()) };
        if end {
            table.end_all();
        }
        if !table.is_driven() {
            table.finish(py, 0)?;
        }
        Ok(())
    }

    /// Says that the calling thread goes on with no requests any more.
    fn leave_table(&self) {
        self.finishing.fetch_sub(1, Ordering::Relaxed);
        self.own_tables().iter().for_each(|table| table.tell_idle());
        // A thread that ends does not come back for its table.
        self.tables().retain(|table| !table.is_here() || table.is_busy());
    }

    /// Waits until no request is unfinished in a greenlet, wherever it runs, and the threads that have
    /// finished them are about to leave `serve_forever`; otherwise as `finish_requests`.
    fn close_requests(&self, py: Python<'_>, end: bool) -> PyResult<()> {
        self.finish_requests(py, end)?;
        for table in self.own_tables().into_iter().filter(|table| !table.is_here()) {
            if end {
                table.end_all();
            }
            table.wait_idle(py, || self.finishing.load(Ordering::Relaxed) > 0)?;
        }
        Ok(())
    }

    /// Seconds for which a request has kept the others of its thread waiting, and that thread.
    fn held(&self) -> Vec<(u64, f64)> {
        let tables = self.own_tables();
        tables.iter().filter_map(|table| table.held()).collect()
    }

    /// Ends the wait of every loop that runs for this server.
    fn wake(&self) {
        // Without it the loop notices when its poll interval is over.
        let _ = self.waker.wake();
    }

    /// Ends the threads that no request runs in, and waits until they are gone.
    fn close_threads(&self, py: Python<'_>) {
        self.threads.close(py);
    }

    /// Says that the calling thread is inside `serve_forever`.
    fn enter_loop(&self) {
        self.serving().push((thread::current().id(), sys::generation()));
    }

    /// Says that it is about to leave it.
    fn leave_loop(&self) {
        let mut serving = self.serving();
        let here = thread::current().id();
        if let Some(place) = serving.iter().rposition(|(thread, _)| *thread == here) {
            serving.remove(place);
        }
    }

    /// Waits until another request may be taken; false after `timeout` seconds.
    #[pyo3(name = "await_admission")]
    fn wait_for_admission(
        &self,
        server: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<bool> {
        self.await_admission(server, timeout.map(duration).transpose()?.and_then(later))
    }

    /// Whether the calling thread is inside `serve_forever`.
    fn is_serving_thread(&self) -> bool {
        self.serving().iter().any(|(thread, _)| *thread == thread::current().id())
    }

    /// Whether any thread of this process is.
    fn is_serving(&self) -> bool {
        self.serving().iter().any(|(_, generation)| *generation == sys::generation())
    }

    #[getter]
    fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    #[setter]
    fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }
}

impl Engine {
    /// The engine of `server`, if it has one already.
    fn present<'py>(server: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, Self>>> {
        let py = server.py();
        let namespace = server.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
        let engine = namespace.get_item(intern!(py, ENGINE))?;
        Ok(engine.map(Bound::cast_into).transpose()?)
    }

    /// The ledger of this process, made when first needed.
    pub(super) fn ledger(&self) -> Arc<Ledger> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inherited) = ledger.take_if(|ledger| !ledger.is_own()) {
            // Its connections are the parent's: nothing of it may be closed here.
            #[allow(clippy::mem_forget, reason = "finalizers would close what is not ours")]
            std::mem::forget(inherited);
        }
        let own = ledger.get_or_insert_with(|| Arc::new(Ledger::new(Arc::clone(&self.waker))));
        Arc::clone(own)
    }

    /// Has `server` handle a request in a cached thread; `false` where only a new one will do.
    pub(super) fn begin_in_thread(
        server: &Bound<'_, PyAny>,
        request: &Bound<'_, PyAny>,
        client_address: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let engine = Self::of(server)?;
        let engine = engine.get();
        engine.threads.start(server, request, client_address, &engine.ledger())
    }

    /// Has `server` handle a request in a greenlet.
    pub(super) fn begin_in_greenlet(
        server: &Bound<'_, PyAny>,
        request: &Bound<'_, PyAny>,
        client_address: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        socket::make_cooperative(request)?;
        let engine = Self::of(server)?;
        let ticket = engine.get().ledger().claim(request, client_address);
        engine.get().table().begin(server, request, client_address, ticket)
    }

    /// Waits until another request may be taken; `false` after `deadline`.
    pub(super) fn await_admission(
        &self,
        server: &Bound<'_, PyAny>,
        deadline: Option<Instant>,
    ) -> PyResult<bool> {
        let py = server.py();
        // Without a loop, no request in a greenlet goes on while this waits for one to end.
        let has_table = hooks::has_table(server)?;
        loop {
            let limits = if has_table { Limits::default() } else { limits::of(server)? };
            if self.admits(server, limits)? {
                return Ok(true);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            // Nobody else looks after them meanwhile.
            call_method(server, intern!(py, "_core_collect_ended"), ())?;
            self.wait_for_end(
                py,
                shorter(left, Some(RETRY_INTERVAL)).unwrap_or_default().as_secs_f64(),
            )?;
        }
    }

    /// Whether another request may be taken; first of all those are begun that wait for a thread.
    fn admits(&self, server: &Bound<'_, PyAny>, limits: Limits) -> PyResult<bool> {
        let (py, ledger) = (server.py(), self.ledger());
        if self.start_stalled(py)? > 0 {
            ledger.note_closed();
            return Ok(false);
        }
        Ok(ledger.admits(py, limits))
    }

    /// Logs `message`, once.
    pub(super) fn report_once(&self, py: Python<'_>, message: &str) {
        self.reporter.report_once(py, message);
    }

    /// Begins the requests that wait for a thread that could not be started; says how many still do.
    fn start_stalled(&self, py: Python<'_>) -> PyResult<usize> {
        if self.threads.count_stalled() == 0 {
            return Ok(0);
        }
        let stalled = self.threads.start_stalled(py)?;
        if stalled > 0 {
            self.report(
                py,
                "threads",
                "cannot start a thread for a request; trying again until it works",
            );
        }
        Ok(stalled)
    }

    /// Lets the threads begin that were started, and those that could not be.
    fn let_begin(&self, py: Python<'_>) -> PyResult<()> {
        self.threads.let_begin(py);
        while self.start_stalled(py)? > 0 {
            self.wait_for_end(py, RETRY_INTERVAL.as_secs_f64())?;
        }
        Ok(())
    }

    /// Notes whether taking a request has gone so that the loop should pause.
    pub(super) fn note(&self, progress: Progress) {
        *self.trouble() = match progress {
            Progress::Failed(error) => Some(error),
            _ => None,
        };
    }

    /// The calling thread's table, made when first needed.
    fn table(&self) -> Arc<Table> {
        let mut tables = self.tables();
        tables.retain(|table| table.is_own());
        if let Some(table) = tables.iter().find(|table| table.is_here()) {
            return Arc::clone(table);
        }
        let table = Arc::new(Table::new(Arc::clone(&self.waker)));
        tables.push(Arc::clone(&table));
        table
    }

    /// The tables of this process.
    fn own_tables(&self) -> Vec<Arc<Table>> {
        self.tables().iter().filter(|table| table.is_own()).cloned().collect()
    }

    fn serving(&self) -> MutexGuard<'_, Vec<(ThreadId, u32)>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables(&self) -> MutexGuard<'_, Vec<Arc<Table>>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Option<io::Error>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_trouble(&self) -> Option<io::Error> {
        self.trouble().take()
    }
}

/// Has `server.process_request_thread(request, client_address)` run in a cached thread; `False` where
/// only a new `threading.Thread` will do.
#[pyfunction]
#[pyo3(signature = (server, request, client_address))]
pub(super) fn start_request_thread(
    server: &Bound<'_, PyAny>,
    request: &Bound<'_, PyAny>,
    client_address: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    let is_started = Engine::begin_in_thread(server, request, client_address)?;
    let engine = Engine::of(server)?;
    // A loop of this server's goes on with those that have to wait.
    if engine.get().waker.is_current_thread() {
        engine.get().threads.let_begin(server.py());
    } else {
        engine.get().let_begin(server.py())?;
    }
    Ok(is_started)
}

/// Has a request handled in a greenlet of the calling thread, when its loop goes on.
#[pyfunction]
#[pyo3(signature = (server, request, client_address))]
pub(super) fn start_request_greenlet(
    server: &Bound<'_, PyAny>,
    request: &Bound<'_, PyAny>,
    client_address: &Bound<'_, PyAny>,
) -> PyResult<()> {
    Engine::begin_in_greenlet(server, request, client_address)
}

/// Says that the client of a request is about to see its end, and may come again.
#[pyfunction]
#[pyo3(signature = (server, request))]
pub(super) fn forget_client(server: &Bound<'_, PyAny>, request: &Bound<'_, PyAny>) -> PyResult<()> {
    if ledger::counts_clients() {
        if let Some(engine) = Engine::present(server)? {
            engine.get().ledger().forget_client(request);
        }
    }
    Ok(())
}

/// Waits until `server.fileno()` is readable; `False` after `timeout` seconds.
#[pyfunction]
#[pyo3(signature = (server, timeout))]
pub(super) fn wait_readable(server: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<bool> {
    let (fileno, _) = Hooks::new(server).fileno()?;
    let mut fd = valid_descriptor(&fileno, server)?;
    let timeout = timeout.map(duration).transpose()?;
    let deadline = timeout.and_then(later);
    // A server that has no engine yet has no request.
    if let Some(engine) = Engine::present(server)? {
        let engine = engine.get();
        if !engine.await_admission(server, Some(Instant::now()))? {
            if !engine.await_admission(server, deadline)? {
                return Ok(false);
            }
            // It may have been closed meanwhile.
            fd = valid_descriptor(&Hooks::new(server).fileno()?.0, server)?;
        }
    }
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if let Some(readable) =
            wait_detached(server.py(), || Blocking.readable(fd, left.or(timeout)))?
        {
            return Ok(readable);
        }
    }
}

/// What `selectors` makes of a file object's `fileno()`.
fn valid_descriptor(fileno: &Bound<'_, PyAny>, server: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    match fileno.extract::<RawFd>() {
        Ok(fd) if fd >= 0 => Ok(fd),
        Ok(fd) => Err(PyValueError::new_err(format!("Invalid file descriptor: {fd}"))),
        Err(_) => Err(PyValueError::new_err(format!("Invalid file object: {}", server.repr()?))),
    }
}

/// When `timeout` will be over; `None` if that cannot be told.
fn later(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// Whether `fd` can be read at this moment.
fn is_readable(fd: RawFd) -> bool {
    matches!(Blocking.readable(fd, Some(Duration::ZERO)), Ok(true))
}

/// What `stats` returns, in pieces: counts of taken requests, of what has become of them, errors,
/// threads, seconds.
type StatsRow =
    ((u64, u64, u64, u32), (usize, usize, u64, u64, u64), BTreeMap<i32, u64>, usize, f64);

/// How long to wait before a thread that could not be started is tried again, or a poll object that
/// could not be reached, and before a request is looked at whose end nobody tells.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// How long a signal's handler may have to wait.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long the end of a loop waits for threads that cannot be started.
const LAST_TRIES: Duration = Duration::from_secs(1);

/// One run of the loop for a Python server.
struct Serving<'py> {
    engine: &'py Engine,
    intake: Intake<'py>,
    /// As they were when last asked for.
    limits: Limits,
    has_waited: bool,
    select: Option<Bound<'py, PyAny>>,
    /// The unfinished requests, if they run in greenlets.
    table: Option<Arc<Table>>,
    /// What `source` has answered last.
    watched: Option<Watched<'py>>,
    /// Whether no request may be taken just now.
    is_closed: bool,
    /// Whether somebody has woken the loop since `source` was asked.
    woken: bool,
    /// Requests taken since the last wait.
    batch: u32,
}

/// How many requests are taken before other threads get a chance to run: those of the requests that
/// were taken. A wait that finds the listener readable costs about 1 µs.
const LARGEST_BATCH: u32 = 16;

struct Watched<'py> {
    source: Source,
    /// The server's socket, kept alive so that no other object can have its identity; `None` where
    /// `fileno` is overridden.
    socket: Option<Bound<'py, PyAny>>,
}

impl<'py> Serving<'py> {
    fn server(&self) -> &Bound<'py, PyAny> {
        self.intake.hooks().server()
    }

    fn py(&self) -> Python<'py> {
        self.server().py()
    }

    /// Deals with what has been taken and not been begun, when the loop has ended.
    fn leave(&mut self) -> Result<(), Raised> {
        let (py, threads) = (self.py(), &self.engine.threads);
        let left = self.intake.leave_parked();
        let end = Instant::now() + LAST_TRIES;
        while threads.count_stalled() > 0 && threads.start_stalled(py)? > 0 {
            if Instant::now() >= end {
                threads.give_up(self.server())?;
                break;
            }
            self.engine.wait_for_end(py, RETRY_INTERVAL.as_secs_f64())?;
        }
        Ok(left?)
    }

    /// Whether connections wait in the kernel's queue.
    fn is_waited_for(&self) -> bool {
        self.watched.as_ref().is_some_and(|watched| is_readable(watched.source.fd))
    }
}

impl Service for Serving<'_> {
    type Error = Raised;

    fn stopping(&mut self) -> Result<bool, Raised> {
        let py = self.py();
        py.check_signals()?;
        let requested = self.server().getattr(intern!(py, "_BaseServer__shutdown_request"))?;
        Ok(requested.is_truthy()?)
    }

    fn source(&mut self) -> Result<Option<Source>, Raised> {
        if let Some(Watched { source, socket: None }) = &self.watched {
            // An overridden fileno() is the program's to call: again only when something has changed.
            if !std::mem::take(&mut self.woken) && is_open(source.fd) {
                return Ok(Some(*source));
            }
        }
        let (fileno, socket) = self.intake.hooks().fileno()?;
        let first = self.watched.is_none();
        let fd = match valid_descriptor(&fileno, self.server()) {
            Ok(fd) => fd,
            Err(error) if first => return Err(error.into()),
            // Closed while serving: that is its end.
            Err(_) => return Ok(None),
        };
        let identity = socket.as_ref().map_or(0, |socket| socket.as_ptr() as usize);
        let source = Source { fd, identity };
        self.watched = Some(Watched { source, socket });
        Ok(Some(source))
    }

    fn admission(&mut self) -> Result<Admission, Raised> {
        let ledger = self.engine.ledger();
        // Once for each wait is often enough to notice that a program has changed them.
        if std::mem::take(&mut self.has_waited) {
            self.limits = limits::of(self.server())?;
        }
        let limit = self.limits.active.unwrap_or(usize::MAX);
        self.intake.go_on_with_parked(|| ledger.control().state().active() < limit)?;
        if self.engine.admits(self.server(), self.limits)? {
            self.is_closed = false;
            return Ok(Admission::Open);
        }
        // Who has sent nothing must not stop those who have.
        let is_full = |ledger: &Ledger| {
            let state = ledger.control().state();
            !state.paused
                && state.active() < limit
                && self.limits.open.is_some_and(|limit| state.open() >= limit)
        };
        if is_full(&ledger) && self.is_waited_for() && self.intake.give_up_oldest()? {
            return self.admission();
        }
        self.is_closed = true;
        // Only a poll object can be woken.
        let is_told =
            self.select.is_none() && self.engine.threads.count_stalled() == 0 && ledger.tells();
        Ok(if is_told { Admission::Closed } else { Admission::ClosedFor(RETRY_INTERVAL) })
    }

    fn select(
        &mut self,
        selector: &mut Selector,
        timeout: Option<Duration>,
    ) -> Result<Readiness, Raised> {
        let py = self.py();
        self.batch = 0;
        self.has_waited = true;
        let readiness = if let Some(select) = &self.select {
            let timeout = timeout.map(|timeout| timeout.as_secs_f64());
            if self.is_closed {
                // It would return at once, for the listener is readable.
                let sleep = call(&import_module(py)?, ("time",))?.getattr("sleep")?;
                call(&sleep, (timeout.unwrap_or_default(),))?;
                return Ok(Readiness::default());
            }
            let listener = call(select, (timeout,))?.is_truthy()?;
            Readiness { listener, woken: false }
        } else if let Some(table) = &self.table {
            table.attach(selector);
            let timeout = shorter(timeout, table.timeout());
            let readiness = wait_detached(py, || selector.select(timeout))?.unwrap_or_default();
            table.note(selector.occurrences());
            table.go_on(py)?;
            readiness
        } else {
            let mut timeout = timeout;
            if let Some(parked) = self.intake.parked() {
                timeout = shorter(timeout, parked.attach(selector));
            }
            let readiness = wait_detached(py, || selector.select(timeout))?.unwrap_or_default();
            if let Some(parked) = self.intake.parked() {
                parked.note(selector.occurrences());
            }
            readiness
        };
        self.woken |= readiness.woken;
        Ok(readiness)
    }

    fn pause(&mut self, duration: Duration) -> Result<(), Raised> {
        wait_detached(self.py(), || {
            std::thread::sleep(duration);
            Ok(())
        })?;
        Ok(())
    }

    fn ready(&mut self, certain: bool) -> Result<Progress, Raised> {
        if self.select.is_none() {
            let active = self.engine.ledger().control().state().active();
            let most = self.limits.active.map_or(usize::MAX, |limit| limit.saturating_sub(active));
            if let Some(progress) = self.intake.take_batch(most.max(1))? {
                return Ok(progress);
            }
        }
        let progress = self.intake.take(certain)?;
        if let Some(table) = &self.table {
            // Who speaks first is to be heard at once.
            table.go_on(self.py())?;
        }
        match progress {
            Progress::Unknown if certain => {
                Ok(self.engine.take_trouble().map_or(Progress::Unknown, Progress::Failed))
            }
            Progress::More => {
                self.batch += 1;
                // A selector of the program's own is asked before each request.
                let is_last = self.select.is_some() || self.batch >= LARGEST_BATCH;
                Ok(if is_last { Progress::Enough } else { Progress::More })
            }
            progress => Ok(progress),
        }
    }

    fn waited(&mut self) -> Result<(), Raised> {
        Ok(self.intake.hooks().service_actions()?)
    }

    fn troubled(&mut self, error: &io::Error) -> bool {
        let py = self.py();
        let message = format!("cannot take requests: {error}; trying again until it works");
        self.engine.report(py, "requests", &message)
    }
}
