//! What the files over a socket have in common.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::interpreter::{call, call_method};
use super::socket::{self, is_plain};

/// A file over a plain socket, whose `makefile` would have made one with the same `mode`.
///
/// As long as it is open the socket's descriptor stays open, also when the socket is closed: it counts
/// in the socket's `_io_refs`, as the files of `makefile` do.
///
/// The collector visits the attributes that a program sets. There is no `__traverse__` for the rest:
/// `CPython` 3.11 and 3.12 make the attributes' dict first, may collect while they do, and would
/// call it on an object that is not filled yet. A plain socket cannot be part of a cycle.
#[pyclass(frozen, subclass, dict, weakref, module = "fastsocketserver._core")]
#[derive(Debug)]
pub(super) struct SocketFile {
    socket: Py<PyAny>,
    mode: &'static str,
    /// The unbuffered file, once somebody has asked for it.
    raw: OnceLock<Py<PyAny>>,
    closed: AtomicBool,
    detached: AtomicBool,
}

impl SocketFile {
    pub(super) fn open(socket: &Bound<'_, PyAny>, mode: &'static str) -> PyResult<Self> {
        let py = socket.py();
        let references = socket.getattr(intern!(py, "_io_refs"))?.extract::<usize>()?;
        socket.setattr(intern!(py, "_io_refs"), references + 1)?;
        Ok(Self {
            socket: socket.clone().unbind(),
            mode,
            raw: OnceLock::new(),
            closed: AtomicBool::new(false),
            detached: AtomicBool::new(false),
        })
    }

    pub(super) fn socket<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.socket.bind(py)
    }

    /// Fails where nothing can be read or written any more.
    ///
    /// # Errors
    ///
    /// `ValueError`: of `closed` when the file is closed, of its own words when it is detached.
    pub(super) fn check_open(&self, py: Python<'_>, closed: &'static str) -> PyResult<()> {
        if self.closed(py)? { Err(PyValueError::new_err(closed)) } else { Ok(()) }
    }

    /// Fails where the unbuffered file has been given away.
    ///
    /// # Errors
    ///
    /// `ValueError` then.
    pub(super) fn check_attached(&self) -> PyResult<()> {
        if self.detached.load(Ordering::Acquire) {
            return Err(PyValueError::new_err("raw stream has been detached"));
        }
        Ok(())
    }

    /// Closes the file, which is no error when it is closed already.
    pub(super) fn close_file(&self, py: Python<'_>) -> PyResult<()> {
        self.check_attached()?;
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        match self.raw.get() {
            Some(raw) => call_method(raw.bind(py), intern!(py, "close"), ()).map(drop),
            None => socket::close_file(self.socket.bind(py)),
        }
    }

    /// Gives the unbuffered file away; this one is of no use any more.
    pub(super) fn detach_file<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.check_attached()?;
        let raw = self.unbuffered(py)?;
        if self.detached.swap(true, Ordering::AcqRel) {
            self.check_attached()?;
        }
        Ok(raw)
    }

    fn unbuffered<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(raw) = self.raw.get() {
            return Ok(raw.bind(py).clone());
        }
        let class = py.import("socket")?.getattr("SocketIO")?;
        let raw = call(&class, (self.socket.bind(py), self.mode))?;
        if self.closed.load(Ordering::Acquire) {
            // This file's hold on the socket is gone: the other must not let go of it once more.
            let close = py.import("io")?.getattr("RawIOBase")?.getattr("close")?;
            call(&close, (&raw,))?;
        }
        // Where two threads ask at once, they get the same one.
        Ok(self.raw.get_or_init(|| raw.unbind()).bind(py).clone())
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.check_open(py, CLOSED)
    }

    /// Whether the file is of this `mode`, and open if it is.
    fn has_mode(&self, py: Python<'_>, mode: &str) -> PyResult<bool> {
        if self.mode == mode {
            self.check_open(py, SOCKET_CLOSED)?;
        }
        Ok(self.mode == mode)
    }
}

/// The methods that do not read or write.
#[pymethods]
impl SocketFile {
    fn readable(&self, py: Python<'_>) -> PyResult<bool> {
        self.has_mode(py, "rb")
    }

    fn writable(&self, py: Python<'_>) -> PyResult<bool> {
        self.has_mode(py, "wb")
    }

    fn seekable(&self, py: Python<'_>) -> PyResult<bool> {
        self.check_open(py, SOCKET_CLOSED).map(|()| false)
    }

    fn isatty(&self, py: Python<'_>) -> PyResult<bool> {
        self.check(py).map(|()| false)
    }

    #[pyo3(signature = (target, whence=0, /))]
    fn seek(&self, target: &Bound<'_, PyAny>, whence: i32) -> PyResult<()> {
        let py = target.py();
        self.check_attached()?;
        if ![libc::SEEK_SET, libc::SEEK_CUR, libc::SEEK_END].contains(&whence) {
            return Err(PyValueError::new_err(format!("whence value {whence} unsupported")));
        }
        self.check_open(py, "seek of closed file")?;
        Err(unsupported(py, "File or stream is not seekable."))
    }

    fn tell(&self, py: Python<'_>) -> PyResult<()> {
        self.check_attached()?;
        Err(unsupported(py, "seek"))
    }

    #[pyo3(signature = (_size=None, /))]
    fn truncate(&self, py: Python<'_>, _size: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        self.check_open(py, "truncate of closed file")?;
        Err(unsupported(py, "truncate"))
    }

    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.check(py)?;
        self.socket(py).call_method0(intern!(py, "fileno"))?.extract()
    }

    #[getter]
    pub(super) fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        self.check_attached()?;
        if self.closed.load(Ordering::Acquire) {
            return Ok(true);
        }
        match self.raw.get() {
            // Who has it may have closed it.
            Some(raw) => raw.bind(py).getattr(intern!(py, "closed"))?.extract(),
            None => Ok(false),
        }
    }

    /// The unbuffered file under this one; what is in the buffer here it does not know. `None` when
    /// it has been detached.
    #[getter]
    fn raw<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.detached.load(Ordering::Acquire) {
            return Ok(None);
        }
        self.unbuffered(py).map(Some)
    }

    #[getter]
    fn mode(&self) -> PyResult<&'static str> {
        self.check_attached().map(|()| self.mode)
    }

    /// The descriptor, -1 when it is closed.
    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<i32> {
        if self.closed(py)? { Ok(-1) } else { self.fileno(py) }
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.check(slf.py())?;
        Ok(slf)
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.check(slf.py())?;
        Ok(slf)
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(slf: &Bound<'_, Self>, _error: &Bound<'_, PyTuple>) -> PyResult<()> {
        call(&slf.getattr(intern!(slf.py(), "close"))?, ()).map(drop)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let socket = slf.get().socket(slf.py()).repr()?;
        Ok(format!("<{} of {socket}>", slf.get_type().fully_qualified_name()?))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if *self.closed.get_mut() || *self.detached.get_mut() {
            return;
        }
        Python::attach(|py| {
            keep_exception(py, || {
                if let Err(error) = self.close_file(py) {
                    error.write_unraisable(py, Some(self.socket.bind(py)));
                }
            });
        });
    }
}

/// What is said of a closed file by methods that concern the file.
pub(super) const CLOSED: &str = "I/O operation on closed file.";

/// What is said of a closed file by methods that concern the socket.
const SOCKET_CLOSED: &str = "I/O operation on closed socket.";

/// How many bytes a file of the package's own may buffer for a `buffer_size` as `makefile` takes it;
/// `None` where `makefile` is to be asked: without a buffer, and where the socket is not a plain one.
pub(super) fn native_size(
    socket: &Bound<'_, PyAny>,
    buffer_size: &Bound<'_, PyAny>,
) -> PyResult<Option<usize>> {
    /// What `io.DEFAULT_BUFFER_SIZE` was until 3.14.
    const DEFAULT: usize = 8192;
    let size = match buffer_size.extract::<isize>() {
        Ok(size) if size < 0 => DEFAULT,
        Ok(size) => size.unsigned_abs(),
        Err(_) => 0,
    };
    Ok((size > 0 && is_plain(socket)?).then_some(size))
}

/// What `socket.makefile(mode, buffer_size)` returns.
pub(super) fn makefile<'py>(
    socket: &Bound<'py, PyAny>,
    mode: &str,
    buffer_size: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    call(&socket.getattr(intern!(socket.py(), "makefile"))?, (mode, buffer_size))
}

/// Runs `last_words` of an object that is freed, perhaps while an exception is on its way.
pub(super) fn keep_exception(py: Python<'_>, last_words: impl FnOnce()) {
    let raised = PyErr::take(py);
    last_words();
    if let Some(raised) = raised {
        raised.restore(py);
    }
}

/// `io.UnsupportedOperation`.
pub(super) fn unsupported(py: Python<'_>, message: &'static str) -> PyErr {
    let class = py.import("io").and_then(|io| io.getattr("UnsupportedOperation"));
    match class.and_then(|class| call(&class, (message,))) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}
