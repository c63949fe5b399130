//! Calls a server's hooks, in the reference's order.
//!
//! ```text
//! Hooks::take
//!   _handle_request_noblock            overridden: called, and does all below itself
//!   get_request                        OSError: no request this time
//!   verify_request                     false, or raising: shutdown_request
//!   process_request
//!     finish_request                   RequestHandlerClass(request, client_address, server)
//!     shutdown_request
//!       close_request
//!   handle_error, shutdown_request     when process_request raised
//! ```
//!
//! A hook that nobody has overridden need not be called where this knows what it does. This is the
//! only place that knows which those are.

use std::io;
use std::ptr;
use std::sync::Arc;

use pyo3::exceptions::{PyException, PyOSError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyMappingProxy, PyString, PyTuple, PyType};

use super::engine::Engine;
use super::error::{Handling, Raised, io_error};
use super::interpreter::{call, call_method, class_attribute, is_method};
use super::socket::{NativeSocket, is_plain};
use super::table::Table;
use super::threading::Threading;
use crate::batch::Batch;
use crate::error::AcceptFailure;
use crate::event_loop::Progress;

/// The package's class that defines a method which stands as it was defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Base,
    Tcp,
    Udp,
    Threading,
    Greenlet,
}

/// A hook, and the functions that it is where nobody has overridden it.
#[derive(Debug)]
struct Hook {
    name: Py<PyString>,
    functions: Vec<(Owner, Py<PyAny>)>,
}

/// The hooks that have a shortcut.
#[derive(Debug)]
struct Defaults {
    close_request: Hook,
    fileno: Hook,
    finish_request: Hook,
    get_request: Hook,
    handle_request_noblock: Hook,
    process_request: Hook,
    process_request_greenlet: Hook,
    process_request_thread: Hook,
    service_actions: Hook,
    shutdown_request: Hook,
    verify_request: Hook,
    /// `GreenletMixIn`.
    greenlet: Py<PyType>,
}

static DEFAULTS: PyOnceLock<Defaults> = PyOnceLock::new();

/// Tells which methods are the package's own, before a program can have replaced one.
///
/// The package calls it once, when its classes are defined.
#[pyfunction]
pub(super) fn declare_defaults(
    base: &Bound<'_, PyType>,
    tcp: &Bound<'_, PyType>,
    udp: &Bound<'_, PyType>,
    threading: &Bound<'_, PyType>,
    greenlet: &Bound<'_, PyType>,
) -> PyResult<()> {
    let py = base.py();
    let owners = [
        (Owner::Base, base),
        (Owner::Tcp, tcp),
        (Owner::Udp, udp),
        (Owner::Threading, threading),
        (Owner::Greenlet, greenlet),
    ];
    let hook = |name: &str| -> PyResult<Hook> {
        let mut functions = Vec::new();
        for (owner, class) in owners {
            let namespace = class.getattr("__dict__")?.cast_into::<PyMappingProxy>()?;
            if namespace.contains(name)? {
                functions.push((owner, namespace.get_item(name)?.unbind()));
            }
        }
        Ok(Hook { name: PyString::intern(py, name).unbind(), functions })
    };
    let defaults = Defaults {
        close_request: hook("close_request")?,
        fileno: hook("fileno")?,
        finish_request: hook("finish_request")?,
        get_request: hook("get_request")?,
        handle_request_noblock: hook("_handle_request_noblock")?,
        process_request: hook("process_request")?,
        process_request_greenlet: hook("process_request_greenlet")?,
        process_request_thread: hook("process_request_thread")?,
        service_actions: hook("service_actions")?,
        shutdown_request: hook("shutdown_request")?,
        verify_request: hook("verify_request")?,
        greenlet: greenlet.clone().unbind(),
    };
    let _ = DEFAULTS.set(py, defaults);
    Ok(())
}

/// Whether the requests of `server` run in greenlets.
pub(super) fn has_table(server: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = server.py();
    let defaults = DEFAULTS.get(py).expect("the package declares its defaults");
    server.is_instance(defaults.greenlet.bind(py))
}

/// A hook as one server has it now.
#[derive(Debug)]
enum Method<'py> {
    /// Nobody has overridden what the package's class defines.
    Own(Owner),
    /// It is overridden, on the class or on the instance.
    Other(Bound<'py, PyAny>),
}

/// What has come of asking for a request.
#[derive(Debug)]
enum Taken<'py> {
    Arrival(Arrival<'py>),
    Nothing(Progress),
}

#[derive(Debug)]
struct Arrival<'py> {
    request: Bound<'py, PyAny>,
    client_address: Bound<'py, PyAny>,
    /// Whether it was taken from a listener that can be asked again without waiting for it.
    natively: bool,
}

/// The hooks of one server, for the length of one call from Python.
#[derive(Debug)]
pub(super) struct Hooks<'py> {
    server: Bound<'py, PyAny>,
    defaults: &'py Defaults,
    /// The server's socket when last seen, if requests can be taken from it natively.
    socket: Option<NativeSocket<'py>>,
    /// Where datagrams are received, each as long as `max_packet_size`. Empty between two calls.
    batch: Batch,
    /// Where requests run that are taken by a loop, if they run in greenlets.
    table: Option<Arc<Table>>,
}

/// How many datagrams are received at once, at most.
const LARGEST_BATCH: usize = 16;

impl<'py> Hooks<'py> {
    pub(super) fn new(server: &Bound<'py, PyAny>) -> Self {
        let defaults = DEFAULTS.get(server.py()).expect("the package declares its defaults");
        let (server, batch) = (server.clone(), Batch::new(1, 0));
        Self { server, defaults, socket: None, batch, table: None }
    }

    /// The same for a loop whose requests run in greenlets.
    pub(super) fn with_table(self, table: Option<Arc<Table>>) -> Self {
        Self { table, ..self }
    }

    pub(super) fn server(&self) -> &Bound<'py, PyAny> {
        &self.server
    }

    /// Takes one request, if there is one, and has it handled.
    ///
    /// Unless it is `certain` that there is one, no hook is asked for it, for that might wait.
    pub(super) fn take(&mut self, certain: bool) -> Result<Progress, Raised> {
        match self.method(&self.defaults.handle_request_noblock)? {
            Method::Own(_) => {
                if let Some(table) = self.table.clone() {
                    if !self.is_native()? {
                        // What takes the request may wait, for a TLS handshake say.
                        if certain {
                            table.begin_taking(&self.server)?;
                        }
                        return Ok(Progress::Unknown);
                    }
                }
                let taken = self.get_request(certain)?;
                return self.handle(taken);
            }
            Method::Other(handle_request) if certain => drop(call(&handle_request, ())?),
            Method::Other(_) => {}
        }
        Ok(Progress::Unknown)
    }

    /// Takes all requests that one call can take, and hands each to a thread, in order; `None` where
    /// requests are taken one by one.
    ///
    /// That is where nobody can tell: datagrams for threads, on a server that runs no code of the
    /// program's between one request and the next. Whoever else receives from its socket, in a thread,
    /// cannot know whose the next datagram would have been. What has been received is handed on
    /// whatever happens meanwhile, and by the hooks as they are then; the first error is raised when
    /// that is done.
    ///
    /// The threads get to run before the next are taken.
    pub(super) fn take_batch(&mut self) -> Result<Option<Progress>, Raised> {
        if !self.takes_batches()? || !self.find_batch(LARGEST_BATCH)? {
            return Ok(None);
        }
        let received = self.socket.as_ref().expect("found before").receive(&mut self.batch);
        if let Err(raised) = received {
            return self.progress_after(raised).map(Some);
        }
        let mut outcome = Ok(());
        while let Some(popped) = self.pop().transpose() {
            let passed_on = popped.and_then(|(request, address)| self.pass_on(&request, &address));
            outcome = outcome.and(passed_on);
        }
        outcome?;
        Ok(Some(Progress::Enough))
    }

    /// Whether the hooks between one request and the next are all the package's own, those of a
    /// datagram server with threads.
    fn takes_batches(&mut self) -> PyResult<bool> {
        let defaults = self.defaults;
        let is_own = |hook| Ok::<_, PyErr>(matches!(self.method(hook)?, Method::Own(_)));
        Ok(matches!(self.method(&defaults.get_request)?, Method::Own(Owner::Udp))
            && matches!(self.method(&defaults.process_request)?, Method::Own(Owner::Threading))
            && is_own(&defaults.handle_request_noblock)?
            && is_own(&defaults.verify_request)?
            && is_own(&defaults.service_actions)?
            // A thread of another kind may run its target before it has been started.
            && Threading::get(self.server.py())?.is_some()
            && self.find_native_socket()?)
    }

    /// What `BaseServer._handle_request_noblock` does when a program calls it.
    ///
    /// Where nothing is there after all, it waits as the socket's own methods do: a loop around it
    /// does not spin.
    pub(super) fn handle_request_noblock(&mut self) -> Result<Progress, Raised> {
        let taken = self.get_request(true)?;
        if let Taken::Nothing(Progress::Empty) = taken {
            return self.take_by_asking();
        }
        self.handle(taken)
    }

    /// Takes a request by asking for it, and has it handled.
    pub(super) fn take_by_asking(&self) -> Result<Progress, Raised> {
        let taken = self.ask_for_request(&self.callable(&self.defaults.get_request)?)?;
        self.handle(taken)
    }

    /// Whether requests can be taken without asking a hook or the socket.
    fn is_native(&mut self) -> PyResult<bool> {
        Ok(match self.method(&self.defaults.get_request)? {
            Method::Own(Owner::Tcp) => self.find_native_socket()?,
            Method::Own(Owner::Udp) => self.find_native_socket()? && self.find_batch(1)?,
            _ => false,
        })
    }

    fn handle(&self, taken: Taken<'py>) -> Result<Progress, Raised> {
        let Arrival { request, client_address, natively } = match taken {
            Taken::Arrival(arrival) => arrival,
            Taken::Nothing(progress) => return Ok(progress),
        };
        self.pass_on(&request, &client_address)?;
        Ok(if natively { Progress::More } else { Progress::Unknown })
    }

    /// Verifies a request and has it processed.
    fn pass_on(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        match self.verify_request(request, client_address) {
            Ok(true) => self.process(request, client_address),
            Ok(false) => self.shutdown_request(request),
            Err(error) => self.shutdown_after(request, Err(error)),
        }
    }

    /// The descriptor that the server waits on, and its socket unless `fileno` is overridden.
    pub(super) fn fileno(&self) -> PyResult<(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>)> {
        if let Method::Other(fileno) = self.method(&self.defaults.fileno)? {
            return Ok((call(&fileno, ())?, None));
        }
        let py = self.server.py();
        let socket = self.server.getattr(intern!(py, "socket"))?;
        let name = intern!(py, "fileno");
        let fileno = if is_plain(&socket)? {
            socket.call_method0(name)?
        } else {
            call_method(&socket, name, ())?
        };
        Ok((fileno, Some(socket)))
    }

    pub(super) fn service_actions(&self) -> PyResult<()> {
        if let Method::Other(service_actions) = self.method(&self.defaults.service_actions)? {
            call(&service_actions, ())?;
        }
        Ok(())
    }

    fn method(&self, hook: &'py Hook) -> PyResult<Method<'py>> {
        let py = self.server.py();
        let found = class_attribute(&self.server, hook.name.bind(py));
        let own = hook.functions.iter().find(|(_, own)| ptr::eq(own.as_ptr(), found));
        if let Some(&(owner, _)) = own {
            return Ok(Method::Own(owner));
        }
        let callable = self.callable(hook)?;
        let own =
            hook.functions.iter().find(|(_, own)| is_method(&callable, &self.server, own.bind(py)));
        Ok(own.map_or(Method::Other(callable), |&(owner, _)| Method::Own(owner)))
    }

    fn callable(&self, hook: &'py Hook) -> PyResult<Bound<'py, PyAny>> {
        self.server.getattr(hook.name.bind(self.server.py()))
    }

    fn get_request(&mut self, certain: bool) -> Result<Taken<'py>, Raised> {
        let native = match self.method(&self.defaults.get_request)? {
            Method::Own(Owner::Tcp) if self.find_native_socket()? => self.accept(),
            Method::Own(Owner::Udp) if self.find_native_socket()? && self.find_batch(1)? => {
                self.receive()
            }
            _ if !certain => return Ok(Taken::Nothing(Progress::Unknown)),
            Method::Other(get_request) => return self.ask_for_request(&get_request),
            Method::Own(_) => {
                return self.ask_for_request(&self.callable(&self.defaults.get_request)?);
            }
        };
        match native {
            Ok((request, client_address)) => {
                Ok(Taken::Arrival(Arrival { request, client_address, natively: true }))
            }
            Err(raised) => self.progress_after(raised).map(Taken::Nothing),
        }
    }

    /// How to go on after a request could not be taken natively.
    fn progress_after(&self, raised: Raised) -> Result<Progress, Raised> {
        let py = self.server.py();
        match raised {
            Raised::System(error) => Ok(Progress::after(error)),
            Raised::Python(error) if error.is_instance_of::<PyOSError>(py) => {
                Ok(Progress::after(io_error(py, &error)))
            }
            raised @ Raised::Python(_) => Err(raised),
        }
    }

    /// Looks whether the server's socket, as it is now, is one to take requests from natively.
    fn find_native_socket(&mut self) -> PyResult<bool> {
        let object = self.server.getattr(intern!(self.server.py(), "socket"))?;
        if !self.socket.as_ref().is_some_and(|socket| socket.is(&object)) {
            self.socket = NativeSocket::of(&object)?;
        }
        Ok(self.socket.is_some())
    }

    fn accept(&self) -> Result<(Bound<'py, PyAny>, Bound<'py, PyAny>), Raised> {
        let py = self.server.py();
        let nodelay = self.server.getattr(intern!(py, "disable_nagle_algorithm"))?.is_truthy()?;
        self.socket.as_ref().expect("found before").accept(nodelay)
    }

    /// Makes room for `capacity` datagrams that are as long as `max_packet_size` is now.
    ///
    /// Says no to what is no size, or may not fit into memory: that is for `recvfrom` to refuse.
    fn find_batch(&mut self, capacity: usize) -> PyResult<bool> {
        const LARGEST: usize = 1 << 24;
        let size = self.server.getattr(intern!(self.server.py(), "max_packet_size"))?;
        let Some(size) = size.extract::<usize>().ok().filter(|&size| size <= LARGEST) else {
            return Ok(false);
        };
        self.batch.resize(capacity, size);
        Ok(true)
    }

    fn receive(&mut self) -> Result<(Bound<'py, PyAny>, Bound<'py, PyAny>), Raised> {
        self.socket.as_ref().expect("found before").receive(&mut self.batch)?;
        self.pop()?.ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock).into())
    }

    /// Takes the first of the datagrams that have been received, as a request.
    fn pop(&mut self) -> PyResult<Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
        let socket = self.socket.as_ref().expect("found before");
        let Some((data, client_address)) = socket.pop(&mut self.batch)? else { return Ok(None) };
        let request = (data, socket.object()).into_pyobject(self.server.py())?.into_any();
        Ok(Some((request, client_address)))
    }

    /// Calls `get_request`: somebody else's, or ours on a socket that must be asked itself.
    fn ask_for_request(&self, get_request: &Bound<'py, PyAny>) -> Result<Taken<'py>, Raised> {
        let py = self.server.py();
        match call(get_request, ()).and_then(|pair| unpack(&pair)) {
            Ok((request, client_address)) => {
                Ok(Taken::Arrival(Arrival { request, client_address, natively: false }))
            }
            Err(error) if error.is_instance_of::<PyOSError>(py) => {
                let error = io_error(py, &error);
                // Only want of room is known to last: any other errno may be a hook's own way to
                // refuse one client.
                Ok(Taken::Nothing(match AcceptFailure::of(&error) {
                    AcceptFailure::Capacity => Progress::Failed(error),
                    _ => Progress::Unknown,
                }))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn verify_request(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<bool> {
        match self.method(&self.defaults.verify_request)? {
            Method::Own(_) => Ok(true),
            Method::Other(verify) => call(&verify, (request, client_address))?.is_truthy(),
        }
    }

    /// `process_request`, and what is owed when it raises.
    fn process(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let Err(error) = self.process_request(request, client_address) else {
            return Ok(());
        };
        let _handling = Handling::begin(self.server.py(), &error);
        let handled = self.handle_error(error, request, client_address);
        self.shutdown_after(request, handled)
    }

    /// What `process_request_thread` is, unless it is the package's own.
    pub(super) fn process_request_thread(&self) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(match self.method(&self.defaults.process_request_thread)? {
            Method::Own(_) => None,
            Method::Other(process) => Some(process),
        })
    }

    /// What `process_request_greenlet` does, whoever has defined it.
    pub(super) fn process_in_greenlet(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        match self.method(&self.defaults.process_request_greenlet)? {
            Method::Own(_) => self.process_to_the_end(request, client_address),
            Method::Other(process) => call(&process, (request, client_address)).map(drop),
        }
    }

    /// What `process_request_thread` and `process_request_greenlet` do where nobody has overridden
    /// them.
    pub(super) fn process_to_the_end(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let py = self.server.py();
        let handled = self.finish_request(request, client_address).or_else(|error| {
            let _handling = Handling::begin(py, &error);
            self.handle_error(error, request, client_address)
        });
        let shutdown = self.shutdown_request(request);
        if let (Err(first), Err(last)) = (&handled, &shutdown) {
            // As a `finally` block does.
            last.value(py).setattr(intern!(py, "__context__"), first.value(py))?;
        }
        shutdown.and(handled)
    }

    /// Calls `handle_error` for an `Exception`, while it is being handled; others are passed on.
    fn handle_error(
        &self,
        error: PyErr,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let py = self.server.py();
        if !error.is_instance_of::<PyException>(py) {
            return Err(error);
        }
        let handle_error = self.server.getattr(intern!(py, "handle_error"))?;
        call(&handle_error, (request, client_address)).map(drop)
    }

    /// Shuts the request down whatever the outcome was, for nothing may stay open; of two errors the
    /// first is raised.
    fn shutdown_after(&self, request: &Bound<'py, PyAny>, outcome: PyResult<()>) -> PyResult<()> {
        let shutdown = self.shutdown_request(request);
        outcome.and(shutdown)
    }

    fn process_request(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let process = match self.method(&self.defaults.process_request)? {
            Method::Own(Owner::Threading) => {
                let engine = Engine::of(&self.server)?;
                if engine.get().threads().start(&self.server, request, client_address)? {
                    return Ok(());
                }
                self.callable(&self.defaults.process_request)?
            }
            Method::Own(Owner::Greenlet) => {
                return Engine::begin_request(&self.server, request, client_address);
            }
            Method::Own(_) => {
                self.finish_request(request, client_address)?;
                return self.shutdown_request(request);
            }
            Method::Other(process) => process,
        };
        call(&process, (request, client_address)).map(drop)
    }

    fn finish_request(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let py = self.server.py();
        let finished = match self.method(&self.defaults.finish_request)? {
            Method::Own(_) => {
                let class = self.server.getattr(intern!(py, "RequestHandlerClass"))?;
                call(&class, (request, client_address, &self.server))
            }
            Method::Other(finish) => call(&finish, (request, client_address)),
        };
        finished.map(drop)
    }

    fn shutdown_request(&self, request: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = self.server.py();
        match self.method(&self.defaults.shutdown_request)? {
            Method::Other(shutdown) => return call(&shutdown, (request,)).map(drop),
            Method::Own(Owner::Tcp) => {
                const SHUT_WR: i32 = 1;
                let shutdown = request.getattr(intern!(py, "shutdown"))?;
                match call(&shutdown, (SHUT_WR,)) {
                    Err(error) if !error.is_instance_of::<PyOSError>(py) => return Err(error),
                    // The peer may be gone already.
                    _ => {}
                }
            }
            Method::Own(_) => {}
        }
        self.close_request(request)
    }

    fn close_request(&self, request: &Bound<'py, PyAny>) -> PyResult<()> {
        match self.method(&self.defaults.close_request)? {
            Method::Other(close) => call(&close, (request,)).map(drop),
            Method::Own(Owner::Tcp) => {
                let close = request.getattr(intern!(self.server.py(), "close"))?;
                call(&close, ()).map(drop)
            }
            Method::Own(_) => Ok(()),
        }
    }
}

/// What `request, client_address = pair` does.
fn unpack<'py>(pair: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let py = pair.py();
    let tuple = match pair.cast::<PyTuple>() {
        Ok(tuple) => tuple.clone(),
        Err(_) if pair.try_iter().is_err() => {
            let class = pair.get_type().name()?;
            return Err(PyTypeError::new_err(format!("cannot unpack non-iterable {class} object")));
        }
        Err(_) => {
            let class = py.get_type::<PyTuple>();
            call(class.as_any(), (pair,))?.cast_into::<PyTuple>()?
        }
    };
    match tuple.len() {
        2 => Ok((tuple.get_item(0)?, tuple.get_item(1)?)),
        length if length > 2 => {
            Err(PyValueError::new_err("too many values to unpack (expected 2)"))
        }
        length => Err(PyValueError::new_err(format!(
            "not enough values to unpack (expected 2, got {length})"
        ))),
    }
}
