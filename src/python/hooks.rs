//! Calls a server's hooks, in the reference's order.
//!
//! ```text
//! Intake::take
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

use std::ptr;

use pyo3::exceptions::{PyException, PyOSError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyMappingProxy, PyString, PyType};

use super::deadlines;
use super::engine::{Engine, forget_client};
use super::error::Handling;
use super::interpreter::{call, call_method, class_attribute, import_module, is_method, setting};
use super::ledger::State;
use super::limits;
use super::socket::{self, is_plain};
use super::threading::Threading;

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

/// What `BaseServer.finish_request` does.
#[pyfunction]
pub(super) fn finish_request(
    server: &Bound<'_, PyAny>,
    request: &Bound<'_, PyAny>,
    client_address: &Bound<'_, PyAny>,
) -> PyResult<()> {
    Hooks::new(server).run_handler(request, client_address)
}

/// Whether `request` is open, and has its TLS handshake before it.
pub(super) fn is_handshake_due(request: &Bound<'_, PyAny>) -> PyResult<bool> {
    if is_plain(request)? || socket::descriptor(request).is_none() {
        return Ok(false);
    }
    is_true(request, intern!(request.py(), "handshake_due"))
}

/// Whether `object` has an attribute of this name that is true.
fn is_true(object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> PyResult<bool> {
    object.getattr_opt(name)?.map_or(Ok(false), |value| value.is_truthy())
}

/// Calls `server.finish_request`, for the classes of the package that do so in Python.
#[pyfunction]
pub(super) fn call_finish_request(
    server: &Bound<'_, PyAny>,
    request: &Bound<'_, PyAny>,
    client_address: &Bound<'_, PyAny>,
) -> PyResult<()> {
    Hooks::new(server).finish_request(request, client_address)
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

/// The hooks of one server, for the length of one call from Python.
#[derive(Debug)]
pub(super) struct Hooks<'py> {
    server: Bound<'py, PyAny>,
    defaults: &'py Defaults,
}

/// How a server gets its requests.
#[derive(Debug)]
pub(super) enum Way<'py> {
    /// From its socket, by `accept`.
    Accept,
    /// From its socket, by `recvfrom`.
    Receive,
    /// By this method.
    Ask(Bound<'py, PyAny>),
}

impl<'py> Hooks<'py> {
    pub(super) fn new(server: &Bound<'py, PyAny>) -> Self {
        let defaults = DEFAULTS.get(server.py()).expect("the package declares its defaults");
        Self { server: server.clone(), defaults }
    }

    pub(super) fn server(&self) -> &Bound<'py, PyAny> {
        &self.server
    }

    /// `_handle_request_noblock`, if it is overridden.
    pub(super) fn handle_request_noblock(&self) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(match self.method(&self.defaults.handle_request_noblock)? {
            Method::Own(_) => None,
            Method::Other(handle_request) => Some(handle_request),
        })
    }

    /// What `get_request` is now.
    pub(super) fn way(&self) -> PyResult<Way<'py>> {
        Ok(match self.method(&self.defaults.get_request)? {
            Method::Own(Owner::Tcp) => Way::Accept,
            Method::Own(Owner::Udp) => Way::Receive,
            Method::Own(_) => Way::Ask(self.get_request()?),
            Method::Other(get_request) => Way::Ask(get_request),
        })
    }

    /// `get_request`, to be called.
    pub(super) fn get_request(&self) -> PyResult<Bound<'py, PyAny>> {
        self.callable(&self.defaults.get_request)
    }

    /// Whether the hooks between one datagram and the next are all the package's own, and hand each to
    /// a thread.
    pub(super) fn hands_to_threads(&self) -> PyResult<bool> {
        let defaults = self.defaults;
        let is_own = |hook| Ok::<_, PyErr>(matches!(self.method(hook)?, Method::Own(_)));
        Ok(matches!(self.method(&defaults.get_request)?, Method::Own(Owner::Udp))
            && matches!(self.method(&defaults.process_request)?, Method::Own(Owner::Threading))
            && is_own(&defaults.handle_request_noblock)?
            && is_own(&defaults.verify_request)?
            && is_own(&defaults.service_actions)?
            // A thread of another kind may run its target before it has been started.
            && Threading::get(self.server.py())?.is_some())
    }

    /// Whether a request is to be processed; one that is not is shut down.
    pub(super) fn admit(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<bool> {
        let verified = self.verify_request(request, client_address);
        if let Ok(true) = verified {
            return Ok(true);
        }
        self.refuse(request)?;
        self.shutdown_after(request, verified.map(drop))?;
        Ok(false)
    }

    /// Shuts a request down that no hook has been asked about.
    pub(super) fn turn_away(&self, request: &Bound<'py, PyAny>) -> PyResult<()> {
        self.refuse(request)?;
        self.shutdown_request(request)
    }

    /// Ends a request that cannot be handled, for `error`.
    pub(super) fn give_up(
        &self,
        error: PyErr,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let _handling = Handling::begin(self.server.py(), &error);
        let handled = self.handle_error(error, request, client_address);
        self.shutdown_after(request, handled)
    }

    /// What is put in place of an accepted connection where the server speaks TLS: `None` where it
    /// does not.
    pub(super) fn secure(
        &self,
        listener: &Bound<'py, PyAny>,
        request: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = self.server.py();
        if setting(&self.server, intern!(py, "ssl_context"))?.is_none() && is_plain(listener)? {
            return Ok(None);
        }
        let servers = call(&import_module(py)?, ("fastsocketserver._servers",))?;
        let tls = call_method(&servers, intern!(py, "_find_tls"), (&self.server,))?;
        if tls.is_none() {
            return Ok(None);
        }
        let secure = tls.getattr(intern!(py, "secure"))?;
        call(&secure, (&self.server, listener, request)).map(Some)
    }

    /// Whether nothing needs to run for a request whose client has sent nothing yet: the server says
    /// so, and the handler's class, or TLS, in which the client speaks first.
    pub(super) fn may_park(&self, request: &Bound<'py, PyAny>) -> PyResult<bool> {
        let py = self.server.py();
        if !self.server.getattr(intern!(py, "parking"))?.is_truthy()? {
            return Ok(false);
        }
        Ok(is_handshake_due(request)? || {
            let class = self.server.getattr(intern!(py, "RequestHandlerClass"))?;
            is_true(&class, intern!(py, "reads_first"))?
        })
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
    pub(super) fn process(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let processed = self
            .expect_handshake(request)
            .and_then(|()| self.process_request(request, client_address));
        self.unless_failed(processed, request, client_address)
    }

    /// What `process_request_greenlet` does where nobody has overridden it: as without greenlets, an
    /// exception of the last step is handled too.
    fn process_here(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let processed = self.finish_and_shut_down(request, client_address);
        self.unless_failed(processed, request, client_address)
    }

    // Not part of the frame of a handler that waits in a greenlet.
    #[inline(never)]
    fn unless_failed(
        &self,
        processed: PyResult<()>,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let Err(error) = processed else { return Ok(()) };
        self.fail(error, request, client_address)
    }

    /// What is owed to a request that `error` has ended before it could be processed, or meanwhile.
    pub(super) fn fail(
        &self,
        error: PyErr,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        self.note_failure(request)?;
        self.give_up(error, request, client_address)
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
            Method::Own(_) => self.process_here(request, client_address),
            Method::Other(process) => call(&process, (request, client_address)).map(drop),
        }
    }

    /// What `process_request_thread` does where nobody has overridden it.
    pub(super) fn process_to_the_end(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let finished = self.finish_request(request, client_address);
        self.end_request(finished, request, client_address)
    }

    /// What is owed to a request that has been handled, or has raised.
    // Not part of the frame of a handler that waits in a greenlet.
    #[inline(never)]
    fn end_request(
        &self,
        finished: PyResult<()>,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let py = self.server.py();
        let handled = finished.or_else(|error| {
            self.note_failure(request)?;
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
                if Engine::begin_in_thread(&self.server, request, client_address)? {
                    return Ok(());
                }
                self.callable(&self.defaults.process_request)?
            }
            Method::Own(Owner::Greenlet) => {
                return Engine::begin_in_greenlet(&self.server, request, client_address);
            }
            Method::Own(_) => return self.finish_and_shut_down(request, client_address),
            Method::Other(process) => process,
        };
        call(&process, (request, client_address)).map(drop)
    }

    fn finish_and_shut_down(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        self.finish_request(request, client_address)?;
        self.shutdown_request(request)
    }

    fn finish_request(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let finish = match self.method(&self.defaults.finish_request)? {
            Method::Own(_) => return self.run_handler(request, client_address),
            Method::Other(finish) => finish,
        };
        // It need not call the one that it overrides.
        let _limited = deadlines::begin(&self.server, request)?;
        call(&finish, (request, client_address)).map(drop)
    }

    /// What `finish_request` does where nobody has overridden it.
    pub(super) fn run_handler(
        &self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let py = self.server.py();
        let _limited = deadlines::begin(&self.server, request)?;
        self.complete_handshake(request)?;
        let class = self.server.getattr(intern!(py, "RequestHandlerClass"))?;
        call(&class, (request, client_address, &self.server)).map(drop)
    }

    /// Does the TLS handshake of a request that has it before it.
    #[inline(never)]
    fn complete_handshake(&self, request: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = self.server.py();
        if is_handshake_due(request)? {
            let ledger = Engine::of(&self.server)?.get().ledger();
            ledger.set_state(request, State::Handshake);
            let timeout = limits::handshake_timeout(&self.server)?;
            call_method(request, intern!(py, "complete_handshake"), (timeout,))?;
            ledger.set_state(request, State::Handling);
        }
        Ok(())
    }

    /// Has a TLS handshake that is due be done at the first use of the connection at the latest: a
    /// program's own hooks may make the handler by themselves.
    fn expect_handshake(&self, request: &Bound<'py, PyAny>) -> PyResult<()> {
        let name = intern!(self.server.py(), "expect_handshake");
        if is_handshake_due(request)? && request.hasattr(name)? {
            call_method(request, name, (limits::handshake_timeout(&self.server)?,))?;
        }
        Ok(())
    }

    fn note_failure(&self, request: &Bound<'py, PyAny>) -> PyResult<()> {
        Engine::of(&self.server)?.get().ledger().fail(request);
        Ok(())
    }

    fn refuse(&self, request: &Bound<'py, PyAny>) -> PyResult<()> {
        Engine::of(&self.server)?.get().ledger().refuse(request);
        Ok(())
    }

    pub(super) fn shutdown_request(&self, request: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = self.server.py();
        match self.method(&self.defaults.shutdown_request)? {
            Method::Other(shutdown) => return call(&shutdown, (request,)).map(drop),
            Method::Own(Owner::Tcp) => {
                const SHUT_WR: i32 = 1;
                forget_client(&self.server, request)?;
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
