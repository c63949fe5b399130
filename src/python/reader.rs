//! The file that `StreamRequestHandler.rfile` is.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyOSError, PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::buffer::{View, filled};
use super::connection::{Connection, Habit};
use super::error::Raised;
use super::exclusive::{Exclusive, Lent};
use super::file::{SocketFile, makefile, native_size, unsupported};
use crate::stream::ReadBuffer;

/// Reads from a plain socket as `io.BufferedReader` over `socket.SocketIO` does.
#[pyclass(frozen, extends = SocketFile, module = "fastsocketserver._core")]
#[derive(Debug)]
pub(super) struct Reader {
    buffer: Exclusive<ReadBuffer>,
    /// After a timeout some bytes may be lost, so that nothing more is read.
    timed_out: AtomicBool,
    habit: Habit,
    size: usize,
}

/// Opens the file that a stream handler reads from: a `Reader` for a plain socket, whatever its
/// `makefile` returns for any other.
#[pyfunction]
pub(super) fn open_reader<'py>(
    socket: &Bound<'py, PyAny>,
    buffer_size: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = socket.py();
    let Some(size) = native_size(socket, buffer_size)? else {
        return makefile(socket, "rb", buffer_size);
    };
    let file = SocketFile::open(socket, "rb")?;
    let buffer = Exclusive::new(ReadBuffer::new(size));
    let reader =
        Reader { buffer, timed_out: AtomicBool::new(false), habit: Habit::default(), size };
    Ok(Bound::new(py, PyClassInitializer::from(file).add_subclass(reader))?.into_any())
}

/// One call of a method: the buffer, and where it is filled from.
struct Reading<'a, 'py> {
    buffer: Lent<'a, ReadBuffer>,
    source: Source<'a, 'py>,
}

#[derive(Clone, Copy)]
struct Source<'a, 'py> {
    connection: Connection<'a, 'py>,
    reader: &'a Reader,
}

impl Source<'_, '_> {
    fn receive(self, buffer: &mut [u8]) -> Result<Option<usize>, Raised> {
        if self.reader.timed_out.load(Ordering::Relaxed) {
            return Err(PyOSError::new_err("cannot read from timed out object").into());
        }
        let outcome = self.connection.receive(buffer, &self.reader.habit);
        if let Err(Raised::Python(error)) = &outcome {
            if error.is_instance_of::<PyTimeoutError>(self.connection.0.py()) {
                self.reader.timed_out.store(true, Ordering::Relaxed);
            }
        }
        outcome
    }
}

impl Reader {
    fn reading<'a, 'py>(slf: &'a Bound<'py, Self>, method: &str) -> PyResult<Reading<'a, 'py>> {
        let (py, file, reader) = (slf.py(), slf.as_super().get(), slf.get());
        file.check_open(method)?;
        let buffer = reader.buffer.borrow(py, method)?;
        let connection = Connection(file.socket(py));
        Ok(Reading { buffer, source: Source { connection, reader } })
    }

    fn line<'py>(slf: &Bound<'py, Self>, limit: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        let Reading { mut buffer, source } = Self::reading(slf, "readline")?;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        let deliver = |line: &[u8]| PyBytes::new(slf.py(), line);
        Ok(buffer.read_line(limit, |room| source.receive(room), deliver)?)
    }
}

#[pymethods]
impl Reader {
    /// Bytes up to `size`, fewer only at the end of the stream; all of it for -1 or `None`.
    #[pyo3(signature = (size=-1, /))]
    fn read<'py>(
        slf: &Bound<'py, Self>,
        size: Option<isize>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let size = size.unwrap_or(-1);
        if size < -1 {
            return Err(PyValueError::new_err("read length must be non-negative or -1"));
        }
        let py = slf.py();
        let Reading { mut buffer, source } = Self::reading(slf, "read")?;
        let receive = |room: &mut [u8]| source.receive(room);
        Ok(match usize::try_from(size) {
            Ok(size) => filled(py, size, |target| buffer.read(target, receive))?,
            Err(_) => buffer.read_to_end(receive, |all| PyBytes::new(py, all))?,
        })
    }

    /// Bytes up to `size` that are here, or that the next receiving brings.
    #[pyo3(signature = (size=-1, /))]
    fn read1<'py>(slf: &Bound<'py, Self>, size: isize) -> PyResult<Bound<'py, PyBytes>> {
        let py = slf.py();
        let Reading { mut buffer, source } = Self::reading(slf, "read")?;
        let size = usize::try_from(size).unwrap_or(slf.get().size);
        let bytes = if buffer.unread().is_empty() && size > 0 {
            filled(py, size, |target| source.receive(target))?
        } else {
            let size = size.min(buffer.unread().len());
            filled(py, size, |target| Ok(Some(buffer.take(target))))?
        };
        Ok(bytes.unwrap_or_else(|| PyBytes::new(py, b"")))
    }

    /// Reads into `buffer` until it is full or the stream has ended; returns how many bytes.
    #[pyo3(signature = (buffer, /))]
    fn readinto(slf: &Bound<'_, Self>, buffer: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
        let mut view = View::writable(buffer, "readinto()")?;
        let Reading { mut buffer, source } = Self::reading(slf, "readinto")?;
        Ok(buffer.read(view.bytes_mut(), |room| source.receive(room))?)
    }

    /// Reads into `buffer` what is here, or what the next receiving brings.
    #[pyo3(signature = (buffer, /))]
    fn readinto1(slf: &Bound<'_, Self>, buffer: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
        let mut view = View::writable(buffer, "readinto1()")?;
        let Reading { mut buffer, source } = Self::reading(slf, "readinto")?;
        let target = view.bytes_mut();
        if buffer.unread().is_empty() && !target.is_empty() {
            return Ok(source.receive(target)?);
        }
        Ok(Some(buffer.take(target)))
    }

    /// One line with its end; no more than `size` bytes of it.
    #[pyo3(signature = (size=-1, /))]
    fn readline<'py>(slf: &Bound<'py, Self>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        Self::line(slf, size)
    }

    /// All lines up to the end, or until they come to `hint` bytes.
    #[pyo3(signature = (hint=-1, /))]
    fn readlines<'py>(slf: &Bound<'py, Self>, hint: Option<isize>) -> PyResult<Bound<'py, PyList>> {
        let hint = hint.and_then(|hint| usize::try_from(hint).ok()).filter(|&hint| hint > 0);
        let lines = PyList::empty(slf.py());
        let mut length = 0;
        while hint.is_none_or(|hint| length < hint) {
            let line = Self::line(slf, None)?;
            if line.as_bytes().is_empty() {
                break;
            }
            length += line.as_bytes().len();
            lines.append(line)?;
        }
        Ok(lines)
    }

    /// Bytes that are here or that the next receiving brings; they are not read by that.
    #[pyo3(signature = (size=0, /))]
    fn peek<'py>(slf: &Bound<'py, Self>, size: isize) -> PyResult<Bound<'py, PyBytes>> {
        let _ = size;
        let Reading { mut buffer, source } = Self::reading(slf, "peek")?;
        buffer.peek(|room| source.receive(room))?;
        Ok(PyBytes::new(slf.py(), buffer.unread()))
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.as_super().check_open("readline")?;
        Ok(slf)
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = Self::line(slf, None)?;
        Ok((!line.as_bytes().is_empty()).then_some(line))
    }

    #[pyo3(signature = (data, /))]
    fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = data;
        Err(unsupported(slf.py(), "write"))
    }

    #[pyo3(signature = (lines, /))]
    fn writelines(slf: &Bound<'_, Self>, lines: &Bound<'_, PyAny>) -> PyResult<()> {
        slf.as_super().get().check_open("write")?;
        Err(unsupported(lines.py(), "write"))
    }

    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.as_super().get().check_open("flush")
    }

    /// Closes the file; the connection too if `request` is closed and this was the last file.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.as_super().get().close_file(slf.py())
    }

    /// Gives away the unbuffered file; this one is of no use any more.
    fn detach<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.as_super().get().detach_file(slf.py())
    }
}
