//! What the files over a socket have in common.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;

use super::interpreter::{call, call_method};
use super::socket::{self, is_plain};

/// A file over a plain socket, whose `makefile` would have made one with the same `mode`.
///
/// As long as it is open the socket's descriptor stays open, also when the socket is closed: it counts
/// in the socket's `_io_refs`, as the files of `makefile` do.
#[pyclass(frozen, subclass, dict, weakref, module = "fastsocketserver._core")]
#[derive(Debug)]
pub(super) struct SocketFile {
    socket: Py<PyAny>,
    mode: &'static str,
    /// The unbuffered file, once somebody has asked for it.
    raw: OnceLock<Py<PyAny>>,
    condition: Mutex<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Open,
    Closed,
    Detached,
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
            condition: Mutex::new(Condition::Open),
        })
    }

    pub(super) fn socket<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.socket.bind(py)
    }

    /// Fails where `method` cannot be called any more.
    ///
    /// # Errors
    ///
    /// `ValueError` when the file is closed or detached.
    pub(super) fn check_open(&self, method: &str) -> PyResult<()> {
        if self.closed()? {
            return Err(PyValueError::new_err(format!("{method} of closed file")));
        }
        Ok(())
    }

    /// Closes the file, which is no error when it is closed already.
    pub(super) fn close_file(&self, py: Python<'_>) -> PyResult<()> {
        if self.closed()? {
            return Ok(());
        }
        *self.condition() = Condition::Closed;
        match self.raw.get() {
            Some(raw) => call_method(raw.bind(py), intern!(py, "close"), ()).map(drop),
            None => socket::close_file(self.socket.bind(py)),
        }
    }

    /// Gives the unbuffered file away; this one is of no use any more.
    pub(super) fn detach_file<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let raw = self.raw(py)?;
        *self.condition() = Condition::Detached;
        Ok(raw)
    }

    fn check(&self) -> PyResult<()> {
        if self.closed()? {
            return Err(PyValueError::new_err("I/O operation on closed file."));
        }
        Ok(())
    }

    fn check_attached(&self) -> PyResult<()> {
        if *self.condition() == Condition::Detached {
            return Err(PyValueError::new_err("raw stream has been detached"));
        }
        Ok(())
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The methods that do not read or write.
#[pymethods]
impl SocketFile {
    fn readable(&self) -> PyResult<bool> {
        self.check().map(|()| self.mode == "rb")
    }

    fn writable(&self) -> PyResult<bool> {
        self.check().map(|()| self.mode == "wb")
    }

    fn seekable(&self) -> PyResult<bool> {
        self.check().map(|()| false)
    }

    fn isatty(&self) -> PyResult<bool> {
        self.check().map(|()| false)
    }

    #[pyo3(signature = (target, whence=0, /))]
    fn seek(&self, py: Python<'_>, target: isize, whence: isize) -> PyResult<()> {
        let _ = (target, whence);
        self.check_open("seek")?;
        Err(unsupported(py, "File or stream is not seekable."))
    }

    fn tell(&self, py: Python<'_>) -> PyResult<()> {
        self.check()?;
        Err(unsupported(py, "seek"))
    }

    #[pyo3(signature = (size=None, /))]
    fn truncate(&self, py: Python<'_>, size: Option<isize>) -> PyResult<()> {
        let _ = size;
        self.check_open("truncate")?;
        Err(unsupported(py, "truncate"))
    }

    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.check()?;
        self.socket(py).call_method0(intern!(py, "fileno"))?.extract()
    }

    #[getter]
    pub(super) fn closed(&self) -> PyResult<bool> {
        self.check_attached()?;
        Ok(*self.condition() == Condition::Closed)
    }

    /// The unbuffered file under this one; what is in the buffer here it does not know.
    #[getter]
    pub(super) fn raw<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.check_attached()?;
        if let Some(raw) = self.raw.get() {
            return Ok(raw.bind(py).clone());
        }
        let class = py.import("socket")?.getattr("SocketIO")?;
        let raw = call(&class, (self.socket.bind(py), self.mode))?;
        // Where two threads ask at once, they get the same one.
        Ok(self.raw.get_or_init(|| raw.unbind()).bind(py).clone())
    }

    #[getter]
    fn mode(&self) -> PyResult<&'static str> {
        self.check_attached().map(|()| self.mode)
    }

    /// The descriptor, -1 when it is closed.
    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<i32> {
        if self.closed()? { Ok(-1) } else { self.fileno(py) }
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.check()?;
        Ok(slf)
    }

    fn __exit__(
        slf: &Bound<'_, Self>,
        _type: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        call(&slf.getattr(intern!(slf.py(), "close"))?, ()).map(drop)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let socket = slf.get().socket(slf.py()).repr()?;
        Ok(format!("<{} of {socket}>", slf.get_type().fully_qualified_name()?))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if *self.condition() != Condition::Open {
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
