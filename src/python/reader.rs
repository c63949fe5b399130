//! The file that `StreamRequestHandler.rfile` is.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyOSError, PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::buffer::{View, filled, optional_size, size};
use super::connection::{Connection, Habit, NotYet, Tried};
use super::deadlines;
use super::error::Raised;
use super::exclusive::{Exclusive, Lent};
use super::file::{CLOSED, SocketFile, makefile, native_size, unsupported};
use super::in_table::{self, InTable};
use crate::stream::ReadBuffer;
use crate::sys::Room;

/// Reads from a plain socket as `io.BufferedReader` over `socket.SocketIO` does.
///
/// One thing differs: what had been received when an error or an exception of a signal's handler
/// ended a call is unread afterwards, where `io.BufferedReader` may have lost it.
#[pyclass(frozen, extends = SocketFile, module = "fastsocketserver._core")]
#[derive(Debug)]
pub(super) struct Reader {
    buffer: Exclusive<ReadBuffer>,
    /// After a timeout nothing more is received, as from `socket.SocketIO`.
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

struct Source<'a, 'py> {
    connection: Connection<'a, 'py>,
    reader: &'a Reader,
    /// Where the caller runs, if it waits by letting others run.
    table: Option<InTable>,
    /// What the last attempt has to wait for; its error says no more.
    not_yet: Cell<Option<NotYet>>,
}

impl Source<'_, '_> {
    /// Receives into `room`, unless what is to be received has to be waited for in the table: that
    /// is for [`retrying`](Self::retrying) to do, without the room.
    fn receive(&self, room: &mut Room<'_>) -> Result<Option<usize>, Raised> {
        if self.reader.timed_out.load(Ordering::Relaxed) {
            return Err(PyOSError::new_err("cannot read from timed out object").into());
        }
        let habit = &self.reader.habit;
        match &self.table {
            Some(table) => match self.connection.try_receive(table, room, habit)? {
                Tried::Received(received) => Ok(received),
                Tried::NotYet(not_yet) => {
                    self.not_yet.set(Some(not_yet));
                    Err(io::Error::from(ErrorKind::WouldBlock).into())
                }
            },
            None => self.note_timeout(self.connection.receive(room, habit)),
        }
    }

    /// What `attempt` returns when nothing has to be waited for any more.
    fn retrying<T>(&self, mut attempt: impl FnMut() -> Result<T, Raised>) -> Result<T, Raised> {
        loop {
            let outcome = out_of_line(&mut attempt);
            let (Some(table), Some(not_yet)) = (&self.table, self.not_yet.take()) else {
                return outcome;
            };
            self.note_timeout(self.connection.await_more(table, not_yet))?;
        }
    }

    fn note_timeout<T>(&self, outcome: Result<T, Raised>) -> Result<T, Raised> {
        if let Err(Raised::Python(error)) = &outcome {
            if error.is_instance_of::<PyTimeoutError>(self.connection.0.py()) {
                self.reader.timed_out.store(true, Ordering::Relaxed);
            }
        }
        outcome
    }
}

impl Reader {
    /// Begins a call, which fails with `closed` when the file is closed.
    fn reading<'a, 'py>(
        slf: &'a Bound<'py, Self>,
        closed: &'static str,
    ) -> PyResult<Reading<'a, 'py>> {
        let (py, file, reader) = (slf.py(), slf.as_super().get(), slf.get());
        let buffer = reader.buffer.borrow(py)?;
        // Only now, for another thread may have closed it meanwhile.
        file.check_open(py, closed)?;
        let connection = Connection(file.socket(py));
        let (table, not_yet) = (in_table::current(), Cell::default());
        let source = Source { connection, reader, table, not_yet };
        Ok(Reading { buffer, source })
    }
}

impl<'py> Reading<'_, 'py> {
    fn line(&mut self, limit: Option<isize>) -> Result<Bound<'py, PyBytes>, Raised> {
        let Self { buffer, source } = self;
        let _time = deadlines::line(|| source.connection.fileno());
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        let deliver = |line: &[u8]| PyBytes::new(source.connection.0.py(), line);
        source.retrying(|| buffer.read_line(limit, |room| source.receive(room), deliver))
    }
}

/// Calls `attempt`, whose frame shall not be part of the caller's: who waits in a greenlet takes its
/// frames along.
#[inline(never)]
fn out_of_line<T>(attempt: &mut impl FnMut() -> T) -> T {
    attempt()
}

/// Reads into `target` until it is full; what has been read by a call that fails is unread again.
fn read_into(
    buffer: &mut ReadBuffer,
    target: &mut Room<'_>,
    source: &Source<'_, '_>,
    mut receive: impl FnMut(&mut Room<'_>) -> Result<Option<usize>, Raised>,
) -> Result<Option<usize>, Raised> {
    let outcome = source.retrying(|| buffer.read_on(target, &mut receive));
    if outcome.is_err() {
        buffer.put_back(target.filled());
    }
    outcome
}

#[pymethods]
impl Reader {
    /// Bytes up to `size`, fewer only at the end of the stream; all of it for -1 or `None`.
    #[pyo3(signature = (size=None, /))]
    fn read<'py>(
        slf: &Bound<'py, Self>,
        #[pyo3(from_py_with = optional_size)] size: Option<isize>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let (py, ahead) = (slf.py(), slf.get().size);
        let size = size.unwrap_or(-1);
        slf.as_super().get().check_attached()?;
        if size < -1 {
            return Err(PyValueError::new_err("read length must be non-negative or -1"));
        }
        let Reading { mut buffer, source } = Self::reading(slf, "read of closed file")?;
        let Ok(size) = usize::try_from(size) else {
            let deliver = |all: &[u8]| PyBytes::new(py, all);
            return Ok(
                source.retrying(|| buffer.read_to_end(|room| source.receive(room), deliver))?
            );
        };
        // Whole buffers come straight here, the rest by way of the buffer.
        let receive = |room: &mut Room<'_>| {
            let left = room.left();
            let length = left - if left > ahead { left % ahead } else { 0 };
            room.within(length, |room| source.receive(room))
        };
        Ok(filled(py, size, |target| read_into(&mut buffer, target, &source, receive))?)
    }

    /// Bytes up to `size` that are here, or that the next receiving brings.
    #[pyo3(signature = (size=-1, /))]
    fn read1<'py>(
        slf: &Bound<'py, Self>,
        #[pyo3(from_py_with = size)] size: isize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let py = slf.py();
        let Reading { mut buffer, source } = Self::reading(slf, "read of closed file")?;
        let size = usize::try_from(size).unwrap_or(slf.get().size);
        let bytes = if buffer.unread().is_empty() && size > 0 {
            filled(py, size, |target| source.retrying(|| source.receive(target)))?
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
        let Reading { mut buffer, source } = Self::reading(slf, "readinto of closed file")?;
        let target = &mut Room::over(view.bytes_mut());
        Ok(read_into(&mut buffer, target, &source, |room| source.receive(room))?)
    }

    /// Reads into `buffer` what is here, or what the next receiving brings.
    #[pyo3(signature = (buffer, /))]
    fn readinto1(slf: &Bound<'_, Self>, buffer: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
        let mut view = View::writable(buffer, "readinto1()")?;
        let Reading { mut buffer, source } = Self::reading(slf, "readinto of closed file")?;
        let target = &mut Room::over(view.bytes_mut());
        let taken = buffer.take(target);
        if target.left() > slf.get().size {
            // Also where something was here, as `io.BufferedReader` does.
            let received = source.retrying(|| source.receive(target))?;
            return Ok(if taken > 0 { Some(target.filled().len()) } else { received });
        }
        if taken == 0 && target.left() > 0 {
            let peeked = source.retrying(|| buffer.peek(|room| source.receive(room)))?;
            if peeked.is_none() {
                return Ok(None);
            }
            buffer.take(target);
        }
        Ok(Some(target.filled().len()))
    }

    /// One line with its end; no more than `size` bytes of it.
    #[pyo3(signature = (size=None, /))]
    fn readline<'py>(
        slf: &Bound<'py, Self>,
        #[pyo3(from_py_with = optional_size)] size: Option<isize>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(Self::reading(slf, "readline of closed file")?.line(size)?)
    }

    /// All lines up to the end, or until they are more than `hint` bytes.
    #[pyo3(signature = (hint=None, /))]
    fn readlines<'py>(
        slf: &Bound<'py, Self>,
        #[pyo3(from_py_with = optional_size)] hint: Option<isize>,
    ) -> PyResult<Bound<'py, PyList>> {
        let hint = hint.and_then(|hint| usize::try_from(hint).ok()).filter(|&hint| hint > 0);
        let mut reading = Self::reading(slf, CLOSED)?;
        let mut lines: Vec<Bound<'_, PyBytes>> = Vec::new();
        let mut length = 0;
        while hint.is_none_or(|hint| length <= hint) {
            match reading.line(None) {
                Ok(line) if line.as_bytes().is_empty() => break,
                Ok(line) => {
                    length += line.as_bytes().len();
                    lines.push(line);
                }
                Err(error) => {
                    let mut read = Vec::with_capacity(length);
                    for line in &lines {
                        read.extend_from_slice(line.as_bytes());
                    }
                    reading.buffer.put_back(&read);
                    return Err(error.into());
                }
            }
        }
        PyList::new(slf.py(), lines)
    }

    /// Bytes that are here or that the next receiving brings; they are not read by that.
    #[pyo3(signature = (size=0, /))]
    fn peek<'py>(
        slf: &Bound<'py, Self>,
        #[pyo3(from_py_with = size)] size: isize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let _ = size;
        let Reading { mut buffer, source } = Self::reading(slf, "peek of closed file")?;
        source.retrying(|| buffer.peek(|room| source.receive(room)))?;
        Ok(PyBytes::new(slf.py(), buffer.unread()))
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = Self::reading(slf, "readline of closed file")?.line(None)?;
        Ok((!line.as_bytes().is_empty()).then_some(line))
    }

    #[pyo3(signature = (data, /))]
    fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = data;
        Err(unsupported(slf.py(), "write"))
    }

    #[pyo3(signature = (lines, /))]
    fn writelines(slf: &Bound<'_, Self>, lines: &Bound<'_, PyAny>) -> PyResult<()> {
        slf.as_super().get().check_open(slf.py(), CLOSED)?;
        match lines.try_iter()?.next() {
            Some(line) => line.and(Err(unsupported(slf.py(), "write"))),
            None => Ok(()),
        }
    }

    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.as_super().get().check_open(slf.py(), CLOSED)
    }

    /// Closes the file; the connection too if `request` is closed and this was the last file.
    ///
    /// Waits until no other thread reads: the descriptor may be another connection's afterwards.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let file = slf.as_super().get();
        let mut buffer = slf.get().buffer.borrow(slf.py())?;
        file.close_file(slf.py())?;
        *buffer = ReadBuffer::new(slf.get().size);
        Ok(())
    }

    /// Gives away the unbuffered file; this one is of no use any more.
    fn detach<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.as_super().get().check_open(slf.py(), CLOSED)?;
        slf.as_super().get().detach_file(slf.py())
    }
}
