//! The object that a server holds privately, and the loop's Python service.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::error::Raised;
use super::hooks::Hooks;
use super::interpreter::{call, call_method, duration, wait_detached};
use super::socket::is_open;
use super::threads::RequestThreads;
use crate::event_loop::{self, Progress, Readiness, Selector, Service, Source};
use crate::wait::{Blocking, Wait};
use crate::waker::Waker;

/// What of a server must outlive one call: the way to wake its loop.
///
/// It holds no reference to the server, which holds it: both go without the cycle collector.
#[pyclass(frozen, module = "fastsocketserver._core")]
#[derive(Debug, Default)]
pub(super) struct Engine {
    waker: Waker,
    /// Why the last call of `handle_request_noblock` found no request, if that calls for a pause. An
    /// overridden `_handle_request_noblock` has no way to say so to the loop that called it.
    trouble: Mutex<Option<io::Error>>,
    /// Threads that requests have run in, and others will.
    threads: RequestThreads,
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
        let poll_interval = poll_interval.map(duration).transpose()?;
        self.take_trouble();
        let mut serving = Serving {
            engine: self,
            hooks: Hooks::new(server),
            select,
            watched: None,
            woken: false,
            batch: 0,
        };
        Ok(event_loop::run(&mut serving, &self.waker, poll_interval)?)
    }

    /// Handles one request that is known to be there, as `BaseServer._handle_request_noblock` does.
    fn handle_request_noblock(&self, server: &Bound<'_, PyAny>) -> PyResult<()> {
        let trouble = match Hooks::new(server).handle_request_noblock()? {
            Progress::Failed(error) => Some(error),
            _ => None,
        };
        *self.trouble() = trouble;
        self.threads.let_begin(server.py());
        Ok(())
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
    hooks: Hooks<'py>,
    select: Option<Bound<'py, PyAny>>,
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
    fn py(&self) -> Python<'py> {
        self.hooks.server().py()
    }
}

impl Service for Serving<'_> {
    type Error = Raised;

    fn stopping(&mut self) -> Result<bool, Raised> {
        let py = self.py();
        py.check_signals()?;
        let requested =
            self.hooks.server().getattr(intern!(py, "_BaseServer__shutdown_request"))?;
        Ok(requested.is_truthy()?)
    }

    fn source(&mut self) -> Result<Option<Source>, Raised> {
        let server = self.hooks.server();
        if let Some(Watched { source, socket: None }) = &self.watched {
            // An overridden fileno() is the program's to call: again only when something has changed.
            if !std::mem::take(&mut self.woken) && is_open(source.fd) {
                return Ok(Some(*source));
            }
        }
        let (fileno, socket) = self.hooks.fileno()?;
        let first = self.watched.is_none();
        let fd = match valid_descriptor(&fileno, server) {
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
        let readiness = match &self.select {
            Some(select) => {
                let timeout = timeout.map(|timeout| timeout.as_secs_f64());
                let listener = call(select, (timeout,))?.is_truthy()?;
                Readiness { listener, woken: false }
            }
            None => wait_detached(py, || selector.select(timeout))?.unwrap_or_default(),
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
            if let Some(progress) = self.hooks.take_batch()? {
                return Ok(progress);
            }
        }
        match self.hooks.take(certain)? {
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
        Ok(self.hooks.service_actions()?)
    }

    fn troubled(&mut self, error: &io::Error) -> bool {
        let py = self.py();
        match warn(py, error) {
            Ok(()) => true,
            // Not even `logging` can be imported without a descriptor.
            Err(raised) if raised.is_instance_of::<PyOSError>(py) => false,
            Err(raised) => {
                raised.write_unraisable(py, Some(self.hooks.server()));
                true
            }
        }
    }
}
