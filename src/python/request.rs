//! The methods of an accepted socket, and of the unbuffered file over one, that try before they let
//! other threads run.
#![allow(unsafe_code)]

use pyo3::exceptions::{PyBlockingIOError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::buffer::{View, filled};
use super::connection::{Connection, Habit};
use super::error::Raised;
use super::in_table;
use super::interpreter::{call, call_method};
use super::socket;
use crate::sys::Room;
use crate::wait::Direction;

/// Makes a method of `function`: as an attribute of a class it is given the object first, which
/// functions of an extension module are not by themselves.
#[pyfunction]
pub(super) fn method<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached; a new reference, or null with an exception set.
    unsafe {
        let method = PyInstanceMethod_New(function.as_ptr());
        Bound::from_owned_ptr_or_err(function.py(), method)
    }
}

// From CPython's classobject.h, which pyo3-ffi leaves out.
unsafe extern "C" {
    fn PyInstanceMethod_New(function: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

/// `socket.recv`.
#[pyfunction]
#[pyo3(signature = (socket, bufsize, flags=0, /))]
pub(super) fn recv<'py>(
    socket: &Bound<'py, PyAny>,
    bufsize: isize,
    flags: i32,
) -> PyResult<Bound<'py, PyAny>> {
    let is_whole = waits_for_whole(socket, flags)?;
    if flags != 0 && !is_whole {
        let recv = socket::inherited(socket.py(), "recv")?;
        return with_flags(socket, Direction::Readable, flags, |flags| {
            call(&recv, (socket, bufsize, flags))
        });
    }
    let size = usize::try_from(bufsize)
        .map_err(|_| PyValueError::new_err("negative buffersize in recv"))?;
    if size == 0 {
        // Nothing has to come for that.
        return Ok(PyBytes::new(socket.py(), b"").into_any());
    }
    let bytes = filled(socket.py(), size, |target| receive(socket, target, is_whole))?;
    Ok(bytes.ok_or_else(would_block)?.into_any())
}

/// `socket.recv_into`.
#[pyfunction]
#[pyo3(signature = (socket, buffer, nbytes=0, flags=0, /))]
pub(super) fn recv_into<'py>(
    socket: &Bound<'py, PyAny>,
    buffer: &Bound<'py, PyAny>,
    nbytes: isize,
    flags: i32,
) -> PyResult<Bound<'py, PyAny>> {
    let py = socket.py();
    let is_whole = waits_for_whole(socket, flags)?;
    if flags != 0 && !is_whole {
        let recv_into = socket::inherited(py, "recv_into")?;
        return with_flags(socket, Direction::Readable, flags, |flags| {
            call(&recv_into, (socket, buffer, nbytes, flags))
        });
    }
    let mut view = View::writable(buffer, "recv_into()")?;
    let target = view.bytes_mut();
    let size = usize::try_from(nbytes)
        .map_err(|_| PyValueError::new_err("negative buffersize in recv_into"))?;
    if size > target.len() {
        return Err(PyValueError::new_err("buffer too small for requested bytes"));
    }
    let size = if size == 0 { target.len() } else { size };
    if size == 0 {
        return Ok(0_usize.into_pyobject(py)?.into_any());
    }
    let length =
        receive(socket, &mut Room::over(&mut target[..size]), is_whole)?.ok_or_else(would_block)?;
    Ok(length.into_pyobject(py)?.into_any())
}

/// `socket.send`.
#[pyfunction]
#[pyo3(signature = (socket, data, flags=0, /))]
pub(super) fn send<'py>(
    socket: &Bound<'py, PyAny>,
    data: &Bound<'py, PyAny>,
    flags: i32,
) -> PyResult<Bound<'py, PyAny>> {
    let py = socket.py();
    if flags != 0 {
        let send = socket::inherited(py, "send")?;
        return with_flags(socket, Direction::Writable, flags, |flags| {
            call(&send, (socket, data, flags))
        });
    }
    let view = View::of(data)?;
    let length = Connection(socket).send(view.bytes())?.ok_or_else(would_block)?;
    Ok(length.into_pyobject(py)?.into_any())
}

/// `socket.sendall`.
#[pyfunction]
#[pyo3(signature = (socket, data, flags=0, /))]
pub(super) fn sendall<'py>(
    socket: &Bound<'py, PyAny>,
    data: &Bound<'py, PyAny>,
    flags: i32,
) -> PyResult<()> {
    let view = View::of(data)?;
    if flags != 0 && in_table::is_current() {
        let (py, mut sent) = (socket.py(), 0);
        while sent < view.bytes().len() {
            let rest = PyBytes::new(py, &view.bytes()[sent..]);
            sent += send(socket, rest.as_any(), flags)?.extract::<usize>()?;
        }
        return Ok(());
    }
    if flags != 0 {
        let sendall = socket::inherited(socket.py(), "sendall")?;
        return call(&sendall, (socket, data, flags)).map(drop);
    }
    if Connection(socket).send_all(view.bytes())? { Ok(()) } else { Err(would_block().into()) }
}

/// `socket.close`.
#[pyfunction]
#[pyo3(signature = (socket, /))]
pub(super) fn close(socket: &Bound<'_, PyAny>) -> PyResult<()> {
    socket::close(socket)
}

/// `_SocketWriter.write`: sends all of `b` by the writer's `_sock`; returns how many bytes.
#[pyfunction]
#[pyo3(signature = (writer, b), text_signature = "(self, b)")]
pub(super) fn write_all(writer: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<usize> {
    let py = writer.py();
    let socket = writer.getattr(intern!(py, "_sock"))?;
    if !socket::is_plain(&socket)? {
        call_method(&socket, intern!(py, "sendall"), (b,))?;
        return Ok(View::of(b)?.bytes().len());
    }
    let view = View::of(b)?;
    let bytes = view.bytes();
    if Connection(&socket).send_all(bytes)? { Ok(bytes.len()) } else { Err(would_block().into()) }
}

/// Whether the caller wants no part of what it is to receive, in a table, where the system cannot be
/// left to wait for the whole.
fn waits_for_whole(socket: &Bound<'_, PyAny>, flags: i32) -> PyResult<bool> {
    Ok(flags == libc::MSG_WAITALL
        && in_table::is_current()
        && Connection(socket).waits_for_good()?)
}

fn receive(
    socket: &Bound<'_, PyAny>,
    room: &mut Room<'_>,
    is_whole: bool,
) -> Result<Option<usize>, Raised> {
    if is_whole {
        Connection(socket).receive_whole(room)
    } else {
        Connection(socket).receive(room, &Habit::default())
    }
}

/// Calls an inherited method with `flags`. In a table, other requests run until `socket` is what
/// `direction` says, unless the caller will not wait.
fn with_flags<'py>(
    socket: &Bound<'py, PyAny>,
    direction: Direction,
    flags: i32,
    method: impl Fn(i32) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let may_wait = flags & libc::MSG_DONTWAIT == 0;
    let Some(table) = in_table::current().filter(|_| may_wait) else { return method(flags) };
    // It would end at the first part of what it is to wait for.
    let is_whole = flags & libc::MSG_WAITALL != 0;
    let tried = if is_whole { flags } else { flags | libc::MSG_DONTWAIT };
    while Connection(socket).await_ready(&table, direction)? {
        match method(tried) {
            // Another has been faster.
            Err(error) if error.is_instance_of::<PyBlockingIOError>(socket.py()) => {}
            outcome => return outcome,
        }
    }
    method(flags)
}

fn would_block() -> Raised {
    std::io::Error::from_raw_os_error(libc::EAGAIN).into()
}
