//! The file that `StreamRequestHandler.wfile` is when it has a buffer.

use pyo3::exceptions::PyBlockingIOError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::buffer::{View, optional_size};
use super::connection::Connection;
use super::exclusive::{Exclusive, Lent};
use super::file::{CLOSED, SocketFile, keep_exception, makefile, native_size, unsupported};
use super::in_table;
use crate::stream::WriteBuffer;

/// Writes to a plain socket as `io.BufferedWriter` over `socket.SocketIO` does.
#[pyclass(frozen, extends = SocketFile, module = "fastsocketserver._core")]
#[derive(Debug)]
pub(super) struct Writer {
    buffer: Exclusive<WriteBuffer>,
    /// For what is unsent when the file goes without having been closed.
    socket: Py<PyAny>,
}

/// Opens the file that a stream handler writes to, if it is to have a buffer: a `Writer` for a plain
/// socket, whatever its `makefile` returns for any other.
#[pyfunction]
pub(super) fn open_writer<'py>(
    socket: &Bound<'py, PyAny>,
    buffer_size: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = socket.py();
    let Some(size) = native_size(socket, buffer_size)? else {
        return makefile(socket, "wb", buffer_size);
    };
    let file = SocketFile::open(socket, "wb")?;
    let mut buffer = WriteBuffer::new(size);
    if py.version_info() >= (3, 13) {
        // As io.BufferedWriter does since then.
        buffer = buffer.sending_whole_buffers();
    }
    let buffer = Exclusive::new(buffer);
    let writer = Writer { buffer, socket: socket.clone().unbind() };
    Ok(Bound::new(py, PyClassInitializer::from(file).add_subclass(writer))?.into_any())
}

impl Writer {
    /// Begins a call, which fails with `closed` when the file is closed.
    fn writing<'a, 'py>(
        slf: &'a Bound<'py, Self>,
        closed: &'static str,
    ) -> PyResult<(Lent<'a, WriteBuffer>, Connection<'a, 'py>)> {
        let (py, file) = (slf.py(), slf.as_super().get());
        let buffer = slf.get().buffer.borrow(py)?;
        // Only now, for another thread may have closed it meanwhile.
        file.check_open(py, closed)?;
        Ok((buffer, Connection(file.socket(py))))
    }
}

/// The error of a socket that does not block and has no room; `written` bytes were taken.
fn no_room(written: usize) -> PyErr {
    let message = "write could not complete without blocking";
    PyBlockingIOError::new_err((libc::EAGAIN, message, written))
}

#[pymethods]
impl Writer {
    /// Takes all of `data`, and sends what the buffer has no room for.
    #[pyo3(signature = (data, /))]
    fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        let view = View::of(data)?;
        let data = view.bytes();
        let (mut buffer, connection) = Self::writing(slf, "write to closed file")?;
        let written = buffer.write(data, |data| connection.send(data))?;
        if written < data.len() { Err(no_room(written)) } else { Ok(written) }
    }

    /// Writes each of `lines`; no line ends are added.
    #[pyo3(signature = (lines, /))]
    fn writelines(slf: &Bound<'_, Self>, lines: &Bound<'_, PyAny>) -> PyResult<()> {
        slf.as_super().get().check_open(slf.py(), CLOSED)?;
        for line in lines.try_iter()? {
            Self::write(slf, &line?)?;
        }
        Ok(())
    }

    /// Sends what is in the buffer.
    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (mut buffer, connection) = Self::writing(slf, "flush of closed file")?;
        if buffer.flush(|data| connection.send(data))? { Ok(()) } else { Err(no_room(0)) }
    }

    /// Sends what is in the buffer and closes the file, also if sending fails; the connection too if
    /// `request` is closed and this was the last file.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, file) = (slf.py(), slf.as_super().get());
        let mut buffer = slf.get().buffer.borrow(py)?;
        if file.closed(py)? {
            return Ok(());
        }
        let connection = Connection(file.socket(py));
        let flushed = buffer.flush(|data| connection.send(data)).map_err(PyErr::from);
        // Closed is closed: what is left is not for the next owner of the descriptor.
        buffer.clear();
        let closed = file.close_file(py);
        if flushed? { closed } else { Err(no_room(0)) }
    }

    #[pyo3(signature = (*_arguments))]
    fn read(slf: &Bound<'_, Self>, _arguments: &Bound<'_, PyTuple>) -> PyResult<()> {
        Err(unsupported(slf.py(), "read"))
    }

    #[pyo3(signature = (*_arguments))]
    fn read1(slf: &Bound<'_, Self>, _arguments: &Bound<'_, PyTuple>) -> PyResult<()> {
        Err(unsupported(slf.py(), "read1"))
    }

    #[pyo3(signature = (buffer, /))]
    fn readinto(slf: &Bound<'_, Self>, buffer: &Bound<'_, PyAny>) -> PyResult<()> {
        View::writable(buffer, "readinto()")?;
        Err(unsupported(slf.py(), "read"))
    }

    #[pyo3(signature = (buffer, /))]
    fn readinto1(slf: &Bound<'_, Self>, buffer: &Bound<'_, PyAny>) -> PyResult<()> {
        View::writable(buffer, "readinto1()")?;
        Err(unsupported(slf.py(), "read1"))
    }

    #[pyo3(signature = (_size=None, /))]
    fn readline(
        slf: &Bound<'_, Self>,
        #[pyo3(from_py_with = optional_size)] _size: Option<isize>,
    ) -> PyResult<()> {
        Err(unsupported(slf.py(), "read"))
    }

    #[pyo3(signature = (_hint=None, /))]
    fn readlines(
        slf: &Bound<'_, Self>,
        #[pyo3(from_py_with = optional_size)] _hint: Option<isize>,
    ) -> PyResult<()> {
        slf.as_super().get().check_open(slf.py(), CLOSED)?;
        Err(unsupported(slf.py(), "read"))
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Err(unsupported(slf.py(), "read"))
    }

    /// Sends what is in the buffer and gives away the unbuffered file; this one is of no use any more.
    fn detach<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::flush(slf)?;
        slf.as_super().get().detach_file(slf.py())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let socket = &self.socket;
        let Some(buffer) = self.buffer.get_mut() else { return };
        if buffer.is_empty() {
            return;
        }
        Python::attach(|py| {
            keep_exception(py, || {
                let connection = Connection(socket.bind(py));
                // What cannot be sent for a file that nobody holds is lost. Nothing may be switched to
                // while an object is freed.
                let _ = if in_table::is_current() {
                    buffer.flush(|data| connection.try_send(data))
                } else {
                    buffer.flush(|data| connection.send(data))
                };
            });
        });
    }
}
