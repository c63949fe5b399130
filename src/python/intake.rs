//! Takes a server's requests, from its socket or by its `get_request`, and passes them on.

use std::io;
use std::sync::Arc;

use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::engine::Engine;
use super::error::{Raised, io_error};
use super::hooks::{Hooks, Way};
use super::interpreter::call;
use super::ledger::{Kind, Ledger};
use super::limits;
use super::parked::{Parked, Waiting, silent_descriptor};
use super::socket::{self, NativeSocket, Packet};
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
    /// Where connections wait whose clients have sent nothing yet, if they do.
    parked: Option<Parked<'py>>,
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
    kind: Kind,
    /// Whether it was taken from a listener that can be asked again without waiting for it.
    natively: bool,
}

impl<'py> Intake<'py> {
    pub(super) fn new(server: &Bound<'py, PyAny>) -> Self {
        let (hooks, batch) = (Hooks::new(server), Batch::new(1, 0));
        Self { hooks, socket: None, batch, table: None, parked: None }
    }

    /// The same for a loop that can wait for clients too.
    pub(super) fn with_parked(self) -> Self {
        Self { parked: Some(Parked::default()), ..self }
    }

    pub(super) fn parked(&mut self) -> Option<&mut Parked<'py>> {
        self.parked.as_mut()
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

    /// Takes all requests that one call can take, but no more than `most`, and hands each to a thread,
    /// in order; `None` where requests are taken one by one.
    ///
    /// That is where nobody can tell: datagrams for threads, on a server that runs no code of the
    /// program's between one request and the next. Whoever else receives from its socket, in a thread,
    /// cannot know whose the next datagram would have been. What has been received is handed on
    /// whatever happens meanwhile, and by the hooks as they are then; the first error is raised when
    /// that is done.
    ///
    /// The threads get to run before the next are taken.
    pub(super) fn take_batch(&mut self, most: usize) -> Result<Option<Progress>, Raised> {
        let takes_batches = self.hooks.hands_to_threads()? && self.find_native_socket()?;
        if !takes_batches || !self.find_batch(LARGEST_BATCH.min(most))? {
            return Ok(None);
        }
        let received = self.socket.as_ref().expect("found before").receive(&mut self.batch);
        if let Err(raised) = received {
            return self.progress_after(raised).map(Some);
        }
        let mut outcome = Ok(());
        while let Some(popped) = self.pop().transpose() {
            let passed_on = popped.and_then(|arrival| self.pass_on(&arrival));
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
    pub(super) fn take_by_asking(&mut self) -> Result<Progress, Raised> {
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

    fn handle(&mut self, taken: Taken<'py>) -> Result<Progress, Raised> {
        let arrival = match taken {
            Taken::Arrival(arrival) => arrival,
            Taken::Nothing(progress) => return Ok(progress),
        };
        self.pass_on(&arrival)?;
        Ok(if arrival.natively { Progress::More } else { Progress::Unknown })
    }

    /// Enters a request into the ledger, and has it verified and processed.
    fn pass_on(&mut self, arrival: &Arrival<'py>) -> PyResult<()> {
        let (py, ledger) = (self.py(), Engine::of(self.hooks.server())?.get().ledger());
        let Arrival { request, client_address, kind, .. } = arrival;
        let (client, is_surplus) = match self.client(*kind, client_address, &ledger) {
            Ok(found) => found,
            Err(error) => {
                let entered = ledger.enter(*kind, request, client_address, None);
                // It may not stay open; of two errors the first is raised.
                let _ = self.hooks.turn_away(request);
                entered.settle(py);
                return Err(error);
            }
        };
        let entered = ledger.enter(*kind, request, client_address, client);
        let outcome = if is_surplus {
            self.hooks.turn_away(request)
        } else {
            match self.hooks.admit(request, client_address) {
                Ok(true) => match self.park(request, client_address, &ledger) {
                    Ok(true) => return Ok(()),
                    Ok(false) => self.hooks.process(request, client_address),
                    Err(error) => self.hooks.fail(error, request, client_address),
                },
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            }
        };
        entered.settle(py);
        outcome
    }

    /// Whose connection it is, where their number is limited, and whether it is one too many.
    fn client(
        &self,
        kind: Kind,
        client_address: &Bound<'py, PyAny>,
        ledger: &Ledger,
    ) -> PyResult<(Option<String>, bool)> {
        let py = self.py();
        if kind != Kind::Connection {
            return Ok((None, false));
        }
        let Some(limit) = limits::per_client(self.hooks.server())? else {
            return Ok((None, false));
        };
        // Unix sockets have no address by which clients could be told apart.
        let Ok(address) = client_address.cast::<PyTuple>() else { return Ok((None, false)) };
        let Ok(host) = address.get_item(0).and_then(|host| host.extract::<String>()) else {
            return Ok((None, false));
        };
        let is_surplus = ledger.has(py, &host, limit);
        Ok((Some(host), is_surplus))
    }

    /// Has a connection wait whose client has sent nothing yet, if that may be; says whether it does.
    fn park(
        &mut self,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
        ledger: &Arc<Ledger>,
    ) -> PyResult<bool> {
        let Some(parked) = &mut self.parked else { return Ok(false) };
        if !self.hooks.may_park(request)? {
            return Ok(false);
        }
        let Some(fd) = silent_descriptor(request) else { return Ok(false) };
        let patience = limits::silence(self.hooks.server(), request)?;
        Ok(parked.park(fd, request, client_address, ledger, patience))
    }

    /// Has those parked connections handled whose clients have sent something, as far as `admits`
    /// allows it. Those that have waited for too long are ended.
    pub(super) fn go_on_with_parked(&mut self, admits: impl Fn() -> bool) -> PyResult<()> {
        if self.parked.as_ref().is_none_or(Parked::is_empty) {
            return Ok(());
        }
        while let Some(waiting) = self.pop_parked(Parked::pop_overdue) {
            waiting.fail();
            self.hooks.shutdown_request(waiting.request())?;
        }
        while self.parked.as_ref().is_some_and(Parked::has_ripe) && admits() {
            if let Some(waiting) = self.pop_parked(Parked::pop_ripe) {
                self.process_parked(waiting)?;
            }
        }
        Ok(())
    }

    fn pop_parked(
        &mut self,
        pop: impl FnOnce(&mut Parked<'py>) -> Option<Waiting<'py>>,
    ) -> Option<Waiting<'py>> {
        self.parked.as_mut().and_then(pop)
    }

    fn process_parked(&self, waiting: Waiting<'py>) -> PyResult<()> {
        let (request, client_address, entered) = waiting.begin();
        let outcome = self.hooks.process(&request, &client_address);
        entered.settle(self.py());
        outcome
    }

    /// Ends the parked connection that has been silent for longest, to make room for another; says
    /// whether there is one, or one that is to be handled.
    pub(super) fn give_up_oldest(&mut self) -> PyResult<bool> {
        let Some(waiting) = self.pop_parked(Parked::pop_silent) else {
            return Ok(self.parked.as_ref().is_some_and(Parked::has_ripe));
        };
        waiting.refuse();
        self.hooks.shutdown_request(waiting.request())?;
        Ok(true)
    }

    /// When the loop has ended: has those parked connections handled whose clients have sent something,
    /// and ends the others.
    pub(super) fn leave_parked(&mut self) -> PyResult<()> {
        let mut outcome = Ok(());
        while let Some(waiting) = self.pop_parked(Parked::pop_any) {
            let left = if waiting.is_ripe() {
                self.process_parked(waiting)
            } else {
                waiting.fail();
                self.hooks.shutdown_request(waiting.request())
            };
            outcome = outcome.and(left);
        }
        outcome
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
            Ok(Some(arrival)) => Ok(Taken::Arrival(arrival)),
            // It has been dealt with.
            Ok(None) => Ok(Taken::Nothing(Progress::More)),
            Err(raised) => self.progress_after(raised).map(Taken::Nothing),
        }
    }

    /// How to go on after a request could not be taken natively.
    fn progress_after(&self, raised: Raised) -> Result<Progress, Raised> {
        let py = self.py();
        let error = match raised {
            Raised::System(error) => error,
            Raised::Python(error) if error.is_instance_of::<PyOSError>(py) => io_error(py, &error),
            raised @ Raised::Python(_) => return Err(raised),
        };
        if AcceptFailure::of(&error) != AcceptFailure::Empty {
            Engine::of(self.hooks.server())?.get().ledger().failed_to_take(&error);
        }
        Ok(Progress::after(error))
    }

    /// Looks whether the server's socket, as it is now, is one to take requests from natively.
    fn find_native_socket(&mut self) -> PyResult<bool> {
        let object = self.hooks.server().getattr(intern!(self.py(), "socket"))?;
        if !self.socket.as_ref().is_some_and(|socket| socket.is(&object)) {
            self.socket = NativeSocket::of(&object)?;
        }
        Ok(self.socket.is_some())
    }

    /// Accepts a connection; `None` where TLS could not be set up over it, which has been dealt with.
    fn accept(&self) -> Result<Option<Arrival<'py>>, Raised> {
        let py = self.py();
        let nodelay =
            self.hooks.server().getattr(intern!(py, "disable_nagle_algorithm"))?.is_truthy()?;
        let socket = self.socket.as_ref().expect("found before");
        let (request, client_address) = socket.accept(nodelay)?;
        let request = match self.hooks.secure(socket.object(), &request) {
            Ok(secured) => secured.unwrap_or(request),
            Err(error) => {
                let ledger = Engine::of(self.hooks.server())?.get().ledger();
                let entered = ledger.enter(Kind::Connection, &request, &client_address, None);
                ledger.fail(&request);
                let ended = self.hooks.give_up(error, &request, &client_address);
                entered.settle(py);
                return Ok(ended.map(|()| None)?);
            }
        };
        Ok(Some(Arrival { request, client_address, kind: Kind::Connection, natively: true }))
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

    fn receive(&mut self) -> Result<Option<Arrival<'py>>, Raised> {
        self.socket.as_ref().expect("found before").receive(&mut self.batch)?;
        let arrival = self.pop()?;
        arrival.map(Some).ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock).into())
    }

    /// Takes the first of the datagrams that have been received, as a request.
    fn pop(&mut self) -> PyResult<Option<Arrival<'py>>> {
        let socket = self.socket.as_ref().expect("found before");
        let Some(packet) = socket.pop(&mut self.batch)? else { return Ok(None) };
        let Packet { data, truncated, address: client_address } = packet;
        let request = (data, socket.object()).into_pyobject(self.py())?.into_any();
        let kind = Kind::Datagram { truncated };
        Ok(Some(Arrival { request, client_address, kind, natively: true }))
    }

    /// Calls `get_request`: somebody else's, or ours on a socket that must be asked itself.
    fn ask_for_request(&self, get_request: &Bound<'py, PyAny>) -> Result<Taken<'py>, Raised> {
        let py = self.py();
        match call(get_request, ()).and_then(|pair| unpack(&pair)) {
            Ok((request, client_address)) => {
                let kind = self.kind_of(&request)?;
                Ok(Taken::Arrival(Arrival { request, client_address, kind, natively: false }))
            }
            Err(error) if error.is_instance_of::<PyOSError>(py) => {
                let error = io_error(py, &error);
                // Only want of room is known to last: any other errno may be a hook's own way to
                // refuse one client.
                Ok(Taken::Nothing(match AcceptFailure::of(&error) {
                    AcceptFailure::Capacity => {
                        Engine::of(self.hooks.server())?.get().ledger().failed_to_take(&error);
                        Progress::Failed(error)
                    }
                    _ => Progress::Unknown,
                }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The server's own socket stands for what is to be received from it: it stays open.
    fn kind_of(&self, request: &Bound<'py, PyAny>) -> PyResult<Kind> {
        let kind = Kind::of(request);
        if kind != Kind::Connection {
            return Ok(kind);
        }
        let own = self.hooks.server().getattr_opt(intern!(self.py(), "socket"))?;
        let is_own = own.is_some_and(|own| {
            let fd = socket::descriptor(request);
            own.is(request) || fd.is_some_and(|fd| socket::descriptor(&own) == Some(fd))
        });
        Ok(if is_own { Kind::Datagram { truncated: false } } else { kind })
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
