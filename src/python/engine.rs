//! The object that a server holds privately, and the loop's Python service.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::error::Raised;
use super::hooks::{self, Hooks};
use super::intake::Intake;
use super::interpreter::{call, call_method, duration, wait_detached};
use super::socket::{self, is_open};
use super::table::Table;
use super::threads::RequestThreads;
use crate::event_loop::{self, Progress, Readiness, Selector, Service, Source, shorter};
use crate::wait::{Blocking, Wait};
use crate::waker::Waker;

/// What of a server must outlive one call: the way to wake its loop.
///
/// It holds no reference to the server, which holds it: both go without the cycle collector.
#[pyclass(frozen, module = "fastsocketserver._core")]
#[derive(Debug, Default)]
pub(super) struct Engine {
    waker: Arc<Waker>,
    /// Why the last call of `handle_request_noblock` found no request, if that calls for a pause. An
    /// overridden `_handle_request_noblock` has no way to say so to the loop that called it.
    trouble: Mutex<Option<io::Error>>,
    /// Threads that requests have run in, and others will.
    threads: RequestThreads,
    /// Unfinished requests that run in greenlets: a table for each thread that has served.
    tables: Mutex<Vec<Arc<Table>>>,
    /// How many threads go on with such requests until they are finished.
    finishing: AtomicUsize,
}

#[pymethods]
impl Engine {
    #[new]
    fn new() -> Self {
        Self::default()
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
        let mut serving = Serving {
            engine: self,
            intake: Intake::new(server).with_table(table.clone()),
            // Requests in greenlets wait by way of the loop's own selector.
            select: select.filter(|_| table.is_none()),
            table,
            watched: None,
            woken: false,
            batch: 0,
        };
        Ok(event_loop::run(&mut serving, &self.waker, poll_interval)?)
    }

    /// Handles one request that is known to be there, as `BaseServer._handle_request_noblock` does.
    fn handle_request_noblock(&self, server: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = server.py();
        let table = if hooks::has_table(server)? { Some(self.table()) } else { None };
        let former = table.as_ref().map_or(0, |table| table.last_request());
        self.note(Intake::new(server).handle_request_noblock()?);
        match table {
            // The request has yet to begin; a loop, where there is one, will go on with it.
            Some(table) if !table.is_driven() => table.finish(py, former)?,
            Some(_) => {}
            None => self.threads.let_begin(py),
        }
        Ok(())
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
            // A thread that ends does not come back for it.
            self.tables().retain(|other| !Arc::ptr_eq(other, &table));
        }
        Ok(())
    }

    /// Says that the calling thread goes on with no requests any more.
    fn leave_table(&self) {
        self.finishing.fetch_sub(1, Ordering::Relaxed);
        self.own_tables().iter().for_each(|table| table.tell_idle());
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

    /// Whether the calling thread is inside `serve`.
    fn is_serving_thread(&self) -> bool {
        self.waker.is_current_thread()
    }
}

impl Engine {
    /// The engine of `server`, made when first needed: a server need not have run `__init__`.
    pub(super) fn of<'py>(server: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        let py = server.py();
        let name = intern!(py, "_engine");
        let namespace = server.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
        if let Some(engine) = namespace.get_item(name)? {
            return Ok(engine.cast_into()?);
        }
        // setdefault is atomic: two threads get the same one.
        let engine = Bound::new(py, Self::default())?;
        Ok(call_method(&namespace, intern!(py, "setdefault"), (name, engine))?.cast_into()?)
    }

    pub(super) fn threads(&self) -> &RequestThreads {
        &self.threads
    }

    /// Has `server` handle a request in a greenlet.
    pub(super) fn begin_request(
        server: &Bound<'_, PyAny>,
        request: &Bound<'_, PyAny>,
        client_address: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        socket::make_cooperative(request)?;
        Self::of(server)?.get().table().begin(server, request, client_address)
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
    let engine = Engine::of(server)?;
    let threads = &engine.get().threads;
    let is_started = threads.start(server, request, client_address)?;
    threads.let_begin(server.py());
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
    Engine::begin_request(server, request, client_address)
}

/// Waits until `server.fileno()` is readable; `False` after `timeout` seconds.
#[pyfunction]
#[pyo3(signature = (server, timeout))]
pub(super) fn wait_readable(server: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<bool> {
    let (fileno, _) = Hooks::new(server).fileno()?;
    let fd = valid_descriptor(&fileno, server)?;
    let timeout = timeout.map(duration).transpose()?;
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
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

/// Logs that requests cannot be taken. `logging` is imported only here: it would make each fork of a
/// forking server dearer (by 8 %, measured), and most servers never need it.
fn warn(py: Python<'_>, error: &io::Error) -> PyResult<()> {
    let import = py.import("importlib")?.getattr("import_module")?;
    let get_logger = call(&import, ("logging",))?.getattr("getLogger")?;
    let warning = call(&get_logger, ("fastsocketserver",))?.getattr("warning")?;
    let message = "cannot take requests: %s; trying again until it works";
    call(&warning, (message, error.to_string())).map(drop)
}

/// One run of the loop for a Python server.
struct Serving<'py> {
    engine: &'py Engine,
    intake: Intake<'py>,
    select: Option<Bound<'py, PyAny>>,
    /// The unfinished requests, if they run in greenlets.
    table: Option<Arc<Table>>,
    /// What `source` has answered last.
    watched: Option<Watched<'py>>,
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

    fn select(
        &mut self,
        selector: &mut Selector,
        timeout: Option<Duration>,
    ) -> Result<Readiness, Raised> {
        let py = self.py();
        self.batch = 0;
        let readiness = if let Some(select) = &self.select {
            let timeout = timeout.map(|timeout| timeout.as_secs_f64());
            let listener = call(select, (timeout,))?.is_truthy()?;
            Readiness { listener, woken: false }
        } else if let Some(table) = &self.table {
            table.attach(selector)?;
            let timeout = shorter(timeout, table.timeout());
            let readiness = wait_detached(py, || selector.select(timeout))?.unwrap_or_default();
            table.note(selector.occurrences());
            table.go_on(py)?;
            readiness
        } else {
            wait_detached(py, || selector.select(timeout))?.unwrap_or_default()
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
            if let Some(progress) = self.intake.take_batch()? {
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
        match warn(py, error) {
            Ok(()) => true,
            // Not even `logging` can be imported without a descriptor.
            Err(raised) if raised.is_instance_of::<PyOSError>(py) => false,
            Err(raised) => {
                raised.write_unraisable(py, Some(self.server()));
                true
            }
        }
    }
}
