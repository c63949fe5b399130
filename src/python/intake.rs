//! Takes a server's requests, from its socket or by its `get_request`, and passes them on.

use std::io;
use std::sync::Arc;

use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::error::{Raised, io_error};
use super::hooks::{Hooks, Way};
use super::interpreter::call;
use super::socket::NativeSocket;
use super::table::Table;
use crate::accept_failure::AcceptFailure;
use crate::batch::Batch;
use crate::event_loop::Progress;

/// Where the requests of one server come from, for the length of one call from Python.
#[derive(Debug)]
pub(super) struct Intake<'py> {
    hooks: Hooks<'py>,
    /// The server's socket when last seen, if requests can be taken from it natively.
    socket: Option<NativeSocket<'py>>,
    /// Where datagrams are received, each as long as `max_packet_size`. Empty between two calls.
    batch: Batch,
    /// Where requests run that are taken by a loop, if they run in greenlets.
    table: Option<Arc<Table>>,
}

/// How many datagrams are received at once, at most.
const LARGEST_BATCH: usize = 16;

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

impl<'py> Intake<'py> {
    pub(super) fn new(server: &Bound<'py, PyAny>) -> Self {
        let (hooks, batch) = (Hooks::new(server), Batch::new(1, 0));
        Self { hooks, socket: None, batch, table: None }
    }

    /// The same for a loop whose requests run in greenlets.
    pub(super) fn with_table(self, table: Option<Arc<Table>>) -> Self {
        Self { table, ..self }
    }

    pub(super) fn hooks(&self) -> &Hooks<'py> {
        &self.hooks
    }

    /// Takes one request, if there is one, and has it handled.
    ///
    /// Unless it is `certain` that there is one, no hook is asked for it, for that might wait.
    pub(super) fn take(&mut self, certain: bool) -> Result<Progress, Raised> {
        let handle_request = self.hooks.handle_request_noblock()?;
        if let Some(table) = self.table.clone() {
            if handle_request.is_some() || !self.is_native()? {
                // What takes the request may wait, for a TLS handshake say.
                if certain {
                    table.begin_taking(self.hooks.server())?;
                }
                return Ok(Progress::Unknown);
            }
        }
        if let Some(handle_request) = handle_request {
            if certain {
                call(&handle_request, ())?;
            }
            return Ok(Progress::Unknown);
        }
        let taken = self.get_request(certain)?;
        self.handle(taken)
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
        let takes_batches = self.hooks.hands_to_threads()? && self.find_native_socket()?;
        if !takes_batches || !self.find_batch(LARGEST_BATCH)? {
            return Ok(None);
        }
        let received = self.socket.as_ref().expect("found before").receive(&mut self.batch);
        if let Err(raised) = received {
            return self.progress_after(raised).map(Some);
        }
        let mut outcome = Ok(());
        while let Some(popped) = self.pop().transpose() {
            let passed_on =
                popped.and_then(|(request, address)| self.hooks.pass_on(&request, &address));
            outcome = outcome.and(passed_on);
        }
        outcome?;
        Ok(Some(Progress::Enough))
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
        let taken = self.ask_for_request(&self.hooks.get_request()?)?;
        self.handle(taken)
    }

    /// Whether requests can be taken without asking a hook or the socket.
    fn is_native(&mut self) -> PyResult<bool> {
        Ok(match self.hooks.way()? {
            Way::Accept => self.find_native_socket()?,
            Way::Receive => self.find_native_socket()? && self.find_batch(1)?,
            Way::Ask(_) => false,
        })
    }

    fn handle(&self, taken: Taken<'py>) -> Result<Progress, Raised> {
        let Arrival { request, client_address, natively } = match taken {
            Taken::Arrival(arrival) => arrival,
            Taken::Nothing(progress) => return Ok(progress),
        };
        self.hooks.pass_on(&request, &client_address)?;
        Ok(if natively { Progress::More } else { Progress::Unknown })
    }

    fn get_request(&mut self, certain: bool) -> Result<Taken<'py>, Raised> {
        let native = match self.hooks.way()? {
            Way::Accept if self.find_native_socket()? => self.accept(),
            Way::Receive if self.find_native_socket()? && self.find_batch(1)? => self.receive(),
            _ if !certain => return Ok(Taken::Nothing(Progress::Unknown)),
            Way::Ask(get_request) => return self.ask_for_request(&get_request),
            Way::Accept | Way::Receive => return self.ask_for_request(&self.hooks.get_request()?),
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
        let py = self.py();
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
        let object = self.hooks.server().getattr(intern!(self.py(), "socket"))?;
        if !self.socket.as_ref().is_some_and(|socket| socket.is(&object)) {
            self.socket = NativeSocket::of(&object)?;
        }
        Ok(self.socket.is_some())
    }

    fn accept(&self) -> Result<(Bound<'py, PyAny>, Bound<'py, PyAny>), Raised> {
        let py = self.py();
        let nodelay =
            self.hooks.server().getattr(intern!(py, "disable_nagle_algorithm"))?.is_truthy()?;
        self.socket.as_ref().expect("found before").accept(nodelay)
    }

    /// Makes room for `capacity` datagrams that are as long as `max_packet_size` is now.
    ///
    /// Says no to what is no size, or may not fit into memory: that is for `recvfrom` to refuse.
    fn find_batch(&mut self, capacity: usize) -> PyResult<bool> {
        const LARGEST: usize = 1 << 24;
        let size = self.hooks.server().getattr(intern!(self.py(), "max_packet_size"))?;
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
        let request = (data, socket.object()).into_pyobject(self.py())?.into_any();
        Ok(Some((request, client_address)))
    }

    /// Calls `get_request`: somebody else's, or ours on a socket that must be asked itself.
    fn ask_for_request(&self, get_request: &Bound<'py, PyAny>) -> Result<Taken<'py>, Raised> {
        let py = self.py();
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

    fn py(&self) -> Python<'py> {
        self.hooks.server().py()
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
