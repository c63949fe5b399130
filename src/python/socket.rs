//! Descriptors and `socket.socket` objects.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyModule, PyType};
use socket2::{SockRef, Socket};

use super::address;
use super::deadlines;
use super::error::Raised;
use super::interpreter::call;
use super::table;
use crate::address::Address;
use crate::batch::Batch;
use crate::listener;
use crate::sys;

/// A server's own socket, where the core may take requests from it without asking it.
///
/// That is an object that is exactly a `socket.socket` of a family whose addresses the core knows, or
/// a TLS one whose `accept` is that of `ssl`; any other is asked through its own methods.
#[derive(Debug)]
pub(super) struct NativeSocket<'py> {
    object: Bound<'py, PyAny>,
    class: Bound<'py, PyAny>,
    family: i32,
    kind: i32,
    proto: i32,
    /// Whether accepted sockets have `TCP_NODELAY` from the listener.
    nodelay: Cell<Inherited>,
    addresses: RefCell<address::Writer>,
}

/// One datagram.
#[derive(Debug)]
pub(super) struct Packet<'py> {
    pub(super) data: Bound<'py, PyBytes>,
    /// Whether it was longer, and the rest is lost.
    pub(super) truncated: bool,
    pub(super) address: Bound<'py, PyAny>,
}

/// Linux gives a connection the listener's options when it is established: a system call less for
/// each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inherited {
    No,
    /// The listener has been told; connections that are waiting may be older than that.
    Later,
    Yes,
}

impl<'py> NativeSocket<'py> {
    /// Looks at `object`; `None` where it must be asked itself.
    pub(super) fn of(object: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        let py = object.py();
        let is_known = object.get_type().is(socket_class(py)?) || is_tls_listener(object)?;
        // A class put in its place (by gevent, say) is another one.
        if !is_known || !socket_module(py)?.getattr(intern!(py, "socket"))?.is(socket_class(py)?) {
            return Ok(None);
        }
        let class = ACCEPTED.get(py).expect("the package declares it").bind(py).clone();
        let number = |name| object.getattr(name)?.extract::<i32>();
        let family = number(intern!(py, "family"))?;
        if ![libc::AF_INET, libc::AF_INET6, libc::AF_UNIX].contains(&family) {
            return Ok(None);
        }
        let kind = number(intern!(py, "type"))?;
        let proto = number(intern!(py, "proto"))?;
        let nodelay = Cell::new(Inherited::No);
        let addresses = RefCell::default();
        Ok(Some(Self { object: object.clone(), class, family, kind, proto, nodelay, addresses }))
    }

    /// Whether this stands for `object`.
    pub(super) fn is(&self, object: &Bound<'py, PyAny>) -> bool {
        self.object.is(object)
    }

    /// The object itself.
    pub(super) fn object(&self) -> &Bound<'py, PyAny> {
        &self.object
    }

    /// Accepts without waiting: a new `socket.socket` and the client's address.
    ///
    /// `nodelay` sets `TCP_NODELAY` where the family has it.
    pub(super) fn accept(
        &self,
        nodelay: bool,
    ) -> Result<(Bound<'py, PyAny>, Bound<'py, PyAny>), Raised> {
        let py = self.object.py();
        let listener = self.fd()?;
        if nodelay && cfg!(target_os = "linux") && self.nodelay.get() == Inherited::No {
            // Not every protocol of the family has it.
            let told = self.family == libc::AF_UNIX
                || SockRef::from(&listener).set_tcp_nodelay(true).is_ok();
            self.nodelay.set(if told { Inherited::Later } else { Inherited::No });
        }
        let (socket, address) = match listener::accept(listener) {
            Err(error) => {
                let is_empty = error.kind() == ErrorKind::WouldBlock;
                if is_empty && self.nodelay.get() == Inherited::Later {
                    self.nodelay.set(Inherited::Yes);
                }
                return Err(error.into());
            }
            Ok(accepted) => accepted,
        };
        let as_it_is = if nodelay { Inherited::Yes } else { Inherited::No };
        if self.family != libc::AF_UNIX && self.nodelay.get() != as_it_is {
            // The peer may be gone already.
            let _ = socket.set_tcp_nodelay(nodelay);
        }
        let request = self.adopt(socket)?;
        let address = address.unwrap_or(Address::UnixUnnamed);
        let address = self.addresses.borrow_mut().write(py, &address)?;
        Ok((request, address))
    }

    /// Receives datagrams without waiting, unless some are left in `batch`.
    pub(super) fn receive(&self, batch: &mut Batch) -> Result<(), Raised> {
        Ok(batch.fill(self.fd()?, batch.capacity())?)
    }

    /// Takes the first datagram from `batch`, `None` where there is none.
    pub(super) fn pop(&self, batch: &mut Batch) -> PyResult<Option<Packet<'py>>> {
        let py = self.object.py();
        let Some((data, truncated, peer)) = batch.pop_in_place() else { return Ok(None) };
        let address = match peer {
            Some(peer) => self.addresses.borrow_mut().write(py, &peer)?,
            None => py.None().into_bound(py),
        };
        Ok(Some(Packet { data: PyBytes::new(py, data), truncated, address }))
    }

    /// A `socket.socket` over an accepted descriptor, which is closed if that fails.
    ///
    /// Made as `socket.socket.__init__` does it, without a Python frame.
    fn adopt(&self, socket: Socket) -> PyResult<Bound<'py, PyAny>> {
        let py = self.object.py();
        let natives = Natives::get(py)?;
        let object = call(natives.new.bind(py), (&self.class,))?;
        object.setattr(intern!(py, "_io_refs"), 0)?;
        object.setattr(intern!(py, "_closed"), false)?;
        let fd = socket.as_raw_fd();
        table::forget_former(fd);
        call(natives.init.bind(py), (&object, self.family, self.kind, self.proto, fd))?;
        // It belongs to the object now.
        let _ = socket.into_raw_fd();
        Ok(object)
    }

    /// The object's descriptor, for calls that do not let other threads run.
    ///
    /// Closed, it has nothing to take any more: the loop, or the method that is asked next, sees why.
    fn fd(&self) -> Result<BorrowedFd<'_>, Raised> {
        let fd = fileno(&self.object)?;
        if fd < 0 {
            return Err(std::io::Error::from(ErrorKind::WouldBlock).into());
        }
        // SAFETY: not -1. The object is alive and attached code alone closes it; without the lock, a
        // thread that closes it meanwhile gets this call an error, as it does in `socket` itself.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }
}

/// The class that `socket.socket` extends, and methods of it.
#[derive(Debug)]
struct Natives {
    class: Py<PyAny>,
    new: Py<PyAny>,
    init: Py<PyAny>,
    close: Py<PyAny>,
    fileno: Py<PyAny>,
    gettimeout: Py<PyAny>,
}

impl Natives {
    fn get(py: Python<'_>) -> PyResult<&Self> {
        static NATIVES: PyOnceLock<Natives> = PyOnceLock::new();
        NATIVES.get_or_try_init(py, || {
            let class = py.import("_socket")?.getattr("socket")?;
            Ok(Self {
                new: class.getattr("__new__")?.unbind(),
                init: class.getattr("__init__")?.unbind(),
                close: class.getattr("close")?.unbind(),
                fileno: class.getattr("fileno")?.unbind(),
                gettimeout: class.getattr("gettimeout")?.unbind(),
                class: class.unbind(),
            })
        })
    }
}

/// Has a request's own methods let other requests run where they wait, if it is exactly a
/// `socket.socket`: then it becomes what this package's servers accept.
#[pyfunction]
pub(super) fn make_cooperative(request: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = request.py();
    if request.get_type().is(socket_class(py)?) {
        let class = ACCEPTED.get(py).expect("the package declares it");
        request.setattr(intern!(py, "__class__"), class)?;
        table::forget_former(fileno(request)?);
    }
    Ok(())
}

/// A method of the class that `socket.socket` extends.
pub(super) fn inherited<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    Natives::get(py)?.class.bind(py).getattr(name)
}

/// The descriptor of a plain socket, -1 when it is closed.
///
/// Called as a function: looking the method up on the object takes twice as long as what it does.
pub(super) fn fileno(socket: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let py = socket.py();
    Natives::get(py)?.fileno.bind(py).call1((socket,))?.extract()
}

/// The descriptor of what is a socket of any kind, if it is open.
pub(super) fn descriptor(request: &Bound<'_, PyAny>) -> Option<RawFd> {
    let natives = Natives::get(request.py()).ok()?;
    if !request.is_instance(natives.class.bind(request.py())).ok()? {
        return None;
    }
    fileno(request).ok().filter(|&fd| fd >= 0)
}

/// Whether what is a socket of any kind, and has no descriptor, has given it to somebody else: see
/// `AcceptedSocket.detach` of the package.
pub(super) fn is_detached(request: &Bound<'_, PyAny>) -> bool {
    let closed = request.getattr(intern!(request.py(), "_closed"));
    closed.is_ok_and(|closed| closed.extract::<&str>().is_ok_and(|closed| closed == "detached"))
}

/// How many datagrams the kernel had no room for, 0 where it does not tell.
pub(super) fn dropped_packets(socket: &Bound<'_, PyAny>) -> u32 {
    with_descriptor(socket, |fd| sys::dropped_packets(fd).unwrap_or_default()).unwrap_or_default()
}

/// Shuts a connection down in both directions: whoever reads from it or writes to it sees that.
pub(super) fn end(socket: &Bound<'_, PyAny>) {
    with_descriptor(socket, |fd| {
        // It may have ended meanwhile.
        let _ = SockRef::from(&fd).shutdown(Shutdown::Both);
    });
}

fn with_descriptor<T>(
    socket: &Bound<'_, PyAny>,
    call: impl FnOnce(BorrowedFd<'_>) -> T,
) -> Option<T> {
    let fd = descriptor(socket)?;
    // SAFETY: not -1. The object is alive and attached code alone closes it; without the lock, a
    // thread that closes it meanwhile gets this call an error, as it does in `socket` itself.
    Some(call(unsafe { BorrowedFd::borrow_raw(fd) }))
}

/// The timeout of a plain socket, in seconds.
pub(super) fn gettimeout(socket: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
    let py = socket.py();
    Natives::get(py)?.gettimeout.bind(py).call1((socket,))?.extract()
}

/// Closes a plain socket as `socket.socket.close` does: its descriptor when no file is open over it.
pub(super) fn close(socket: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = socket.py();
    socket.setattr(intern!(py, "_closed"), true)?;
    if socket.getattr(intern!(py, "_io_refs"))?.extract::<isize>()? <= 0 {
        if table::is_driven_here() {
            table::forget_closing(fileno(socket)?);
        }
        if deadlines::is_any() {
            deadlines::forget(fileno(socket)?);
        }
        call(Natives::get(py)?.close.bind(py), (socket,))?;
    }
    Ok(())
}

/// Says that a file over a plain socket is closed, as `socket.socket._decref_socketios` does.
pub(super) fn close_file(socket: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = socket.py();
    let files = socket.getattr(intern!(py, "_io_refs"))?.extract::<isize>()?;
    if files > 0 {
        socket.setattr(intern!(py, "_io_refs"), files - 1)?;
    }
    if socket.getattr(intern!(py, "_closed"))?.is_truthy()? { close(socket) } else { Ok(()) }
}

/// Whether `socket` is one whose methods do no more than the system's calls of these names: exactly a
/// `socket.socket`, or what this package's servers accept.
pub(super) fn is_plain(socket: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = socket.py();
    let class = socket.get_type();
    if ACCEPTED.get(py).is_some_and(|accepted| class.is(accepted)) {
        return Ok(true);
    }
    Ok(class.is(socket_class(py)?))
}

/// Whether `object` is an `ssl.SSLSocket` that accepts as those do: a connection, and TLS over it.
fn is_tls_listener(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = object.py();
    let modules = py.import("sys")?.getattr(intern!(py, "modules"))?.cast_into::<PyDict>()?;
    let Some(ssl) = modules.get_item(intern!(py, "ssl"))? else { return Ok(false) };
    let Some(class) = ssl.getattr_opt(intern!(py, "SSLSocket"))? else { return Ok(false) };
    let accept = intern!(py, "accept");
    Ok(object.is_instance(&class)?
        && object.get_type().getattr(accept)?.is(&class.getattr(accept)?))
}

/// Whether `fd` is open in this process.
pub(super) fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no argument, and any number is one to ask about.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// The class of accepted sockets.
static ACCEPTED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Tells which class accepted sockets shall have: a subclass of `socket.socket` that the package
/// defines.
#[pyfunction]
pub(super) fn declare_accepted_socket(class: &Bound<'_, PyType>) {
    let _ = ACCEPTED.set(class.py(), class.clone().into_any().unbind());
}

/// The interpreter's own `socket.socket`, whatever a program has put in its place.
fn socket_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || -> PyResult<Py<PyAny>> {
        let accepted = ACCEPTED.get(py).expect("the package declares it").bind(py);
        Ok(accepted.getattr("__base__")?.unbind())
    })?;
    Ok(class.bind(py))
}

/// The `socket` module.
fn socket_module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    Ok(MODULE.get_or_try_init(py, || py.import("socket").map(Bound::unbind))?.bind(py))
}
