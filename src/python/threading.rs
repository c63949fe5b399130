//! What of Python's `threading` a request thread needs to be one of its threads.

use std::ptr;

use pyo3::exceptions::{PyImportError, PyOSError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyDict, PySet, PyString, PyType};

use super::interpreter::{call, call_method, type_attribute};
use super::request_handle::RequestHandle;
use super::thread_state;
use crate::sys;

static THREADING: PyOnceLock<Option<Threading>> = PyOnceLock::new();

/// What of `threading` and of the package a request thread needs.
#[derive(Debug)]
pub(super) struct Threading {
    namespace: Py<PyDict>,
    /// Names of `threading` and what they must stand for. A program, a debugger or a library that
    /// makes threads cooperative replaces some of them, and then wants each thread to pass there.
    originals: Vec<(Py<PyString>, Py<PyAny>)>,
    thread_class: Py<PyType>,
    /// The same for methods of `Thread`.
    methods: Vec<(Py<PyString>, Py<PyAny>)>,
    trace_hooks: [Py<PyString>; 2],
    thread_new: Py<PyAny>,
    /// The attributes of a thread that has been started.
    attributes: Py<PyDict>,
    /// The attribute by which a thread's end is known.
    end: Py<PyString>,
    ends_with_lock: bool,
    allocate_lock: Py<PyAny>,
    pub(super) threads_class: Py<PyAny>,
    running: Py<PySet>,
    active: Py<PyDict>,
    limbo: Py<PyDict>,
    counter: Py<PyAny>,
    stack_size: Py<PyAny>,
    get_ident: Py<PyAny>,
    get_native_id: Py<PyAny>,
    copy_context: Option<Py<PyAny>>,
    /// Whether the system is told each thread's name, as from 3.14 on.
    names_threads: bool,
}

impl Threading {
    /// `None` where `threading` is not as it was made.
    pub(super) fn get(py: Python<'_>) -> PyResult<Option<&Self>> {
        let look = || match Self::look(py) {
            // A program that has changed its root or its user finds no modules any more.
            Err(error) if error.is_instance_of::<PyImportError>(py) => Ok(None),
            looked => looked,
        };
        match THREADING.get_or_try_init(py, look) {
            Ok(Some(threading)) if threading.is_original(py)? => Ok(Some(threading)),
            Ok(_) => Ok(None),
            // There is no descriptor to read a module by; the next request looks anew.
            Err(error) if error.is_instance_of::<PyOSError>(py) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What [`get`](Self::get) has found once.
    pub(super) fn known(py: Python<'_>) -> Option<&Self> {
        THREADING.get(py)?.as_ref()
    }

    fn look(py: Python<'_>) -> PyResult<Option<Self>> {
        let threading = py.import("threading")?;
        let thread_class = threading.getattr("Thread")?.cast_into::<PyType>()?;
        let file = threading.getattr("__file__")?;
        let mut methods = Vec::new();
        for name in ["__init__", "start", "run", "_bootstrap", "_bootstrap_inner", "join"] {
            let method = thread_class.getattr(name)?;
            let Ok(code) = method.getattr("__code__") else { return Ok(None) };
            if !code.getattr("co_filename")?.eq(&file)? {
                return Ok(None);
            }
            methods.push((PyString::intern(py, name).unbind(), method.unbind()));
        }
        let get_ident = threading.getattr("get_ident")?;
        if !get_ident.is(&py.import("_thread")?.getattr("get_ident")?) {
            return Ok(None);
        }
        let namespace = threading.dict();
        let mut originals = Vec::new();
        for name in ["Thread", "get_ident", "current_thread", "_active", "_limbo"] {
            let original = namespace.as_any().get_item(name)?;
            originals.push((PyString::intern(py, name).unbind(), original.unbind()));
        }
        let attributes = started_attributes(&thread_class)?;
        let ends = ["_tstate_lock", "_handle", "_os_thread_handle"];
        let mut known = Vec::new();
        for end in ends {
            if attributes.contains(end)? {
                known.push(end);
            }
        }
        let [end] = known[..] else { return Ok(None) };
        let module = py.import("fastsocketserver._request_thread")?;
        call(&module.getattr("prepare")?, ())?;
        thread_state::find_out(py);
        let flags = py.import("sys")?.getattr("flags")?;
        let inherits = match flags.getattr_opt("thread_inherit_context")? {
            Some(flag) => flag.is_truthy()?,
            None => false,
        };
        let copy_context = if inherits {
            Some(py.import("contextvars")?.getattr("copy_context")?.unbind())
        } else {
            None
        };
        Ok(Some(Self {
            originals,
            names_threads: thread_class.hasattr("_set_os_name")?,
            methods,
            trace_hooks: ["_trace_hook", "_profile_hook"]
                .map(|name| PyString::intern(py, name).unbind()),
            thread_new: thread_class.getattr("__new__")?.unbind(),
            attributes: attributes.unbind(),
            end: PyString::intern(py, end).unbind(),
            ends_with_lock: end == "_tstate_lock",
            allocate_lock: py.import("_thread")?.getattr("allocate_lock")?.unbind(),
            running: module.getattr("running")?.cast_into::<PySet>()?.unbind(),
            threads_class: py.import("fastsocketserver._mixins")?.getattr("_Threads")?.unbind(),
            active: threading.getattr("_active")?.cast_into::<PyDict>()?.unbind(),
            limbo: threading.getattr("_limbo")?.cast_into::<PyDict>()?.unbind(),
            counter: threading.getattr("_counter")?.unbind(),
            stack_size: threading.getattr("stack_size")?.unbind(),
            get_ident: get_ident.unbind(),
            get_native_id: threading.getattr("get_native_id")?.unbind(),
            copy_context,
            namespace: namespace.unbind(),
            thread_class: thread_class.unbind(),
        }))
    }

    fn is_original(&self, py: Python<'_>) -> PyResult<bool> {
        let namespace = self.namespace.bind(py);
        for (name, original) in &self.originals {
            if !namespace.get_item(name)?.is_some_and(|now| now.is(original)) {
                return Ok(false);
            }
        }
        let thread_class = self.thread_class.bind(py);
        for (name, original) in &self.methods {
            if !ptr::eq(type_attribute(thread_class, name.bind(py)), original.as_ptr()) {
                return Ok(false);
            }
        }
        for name in &self.trace_hooks {
            if !namespace.get_item(name)?.is_none_or(|hook| hook.is_none()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A thread named as `threading` names those whose target is called `target`; it is about to
    /// start.
    pub(super) fn new_thread<'py>(
        &self,
        target: Option<&str>,
        daemon: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyAny>, End)> {
        let py = daemon.py();
        let number = call(self.counter.bind(py), ())?.extract::<u64>()?;
        let name = match target {
            Some(target) => format!("Thread-{number} ({target})"),
            None => format!("Thread-{number}"),
        };
        let attributes = self.attributes.bind(py).copy()?;
        attributes.set_item(intern!(py, "_name"), name)?;
        attributes.set_item(intern!(py, "_daemonic"), daemon)?;
        let end = if self.ends_with_lock {
            let lock = call(self.allocate_lock.bind(py), ())?;
            call_method(&lock, intern!(py, "acquire"), ())?;
            attributes.set_item(self.end.bind(py), &lock)?;
            End::Lock(lock.unbind())
        } else {
            let handle = Bound::new(py, RequestHandle::default())?;
            attributes.set_item(self.end.bind(py), &handle)?;
            End::Handle(handle.unbind())
        };
        let thread = call(self.thread_new.bind(py), (self.thread_class.bind(py),))?;
        thread.setattr(intern!(py, "__dict__"), attributes)?;
        self.limbo.bind(py).set_item(&thread, &thread)?;
        if !daemon.is_truthy()? {
            self.running.bind(py).add(&thread)?;
        }
        Ok((thread, end))
    }

    /// Makes `thread` the current one.
    pub(super) fn begin(&self, thread: &Bound<'_, PyAny>, identity: &Identity) -> PyResult<()> {
        let py = thread.py();
        thread.setattr(intern!(py, "_ident"), &identity.ident)?;
        thread.setattr(intern!(py, "_native_id"), &identity.native_id)?;
        self.active.bind(py).set_item(&identity.ident, thread)?;
        self.limbo.bind(py).del_item(thread)?;
        if !self.ends_with_lock {
            let handle = thread.getattr(self.end.bind(py))?.cast_into::<RequestHandle>()?;
            handle.get().set_ident(identity.ident.extract(py)?);
        }
        if self.names_threads {
            call_method(thread, intern!(py, "_set_os_name"), ())?;
        }
        Ok(())
    }

    /// Has `thread`, which is the current one, be none any more.
    pub(super) fn end(&self, thread: &Bound<'_, PyAny>, identity: &Identity) {
        let py = thread.py();
        // A program may have taken it out.
        let _ = self.active.bind(py).del_item(&identity.ident);
        let _ = self.running.bind(py).discard(thread);
    }

    /// Forgets a thread that could not be started.
    pub(super) fn forget(&self, thread: &Bound<'_, PyAny>) {
        let py = thread.py();
        let _ = self.limbo.bind(py).del_item(thread);
        let _ = self.running.bind(py).discard(thread);
    }

    /// Bytes of stack that `threading` gives new threads.
    pub(super) fn stack_size(&self, py: Python<'_>) -> PyResult<usize> {
        let size = call(self.stack_size.bind(py), ())?.extract::<usize>()?;
        if size == 0 {
            return Ok(sys::default_stack_size());
        }
        // Asking for it has set it to 0.
        call(self.stack_size.bind(py), (size,))?;
        Ok(size)
    }

    /// The context that a new thread begins with, where it inherits one.
    pub(super) fn inherited_context(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let copy = self.copy_context.as_ref().map(|copy_context| call(copy_context.bind(py), ()));
        Ok(copy.transpose()?.map(Bound::unbind))
    }
}

/// What `Thread.__init__` and `Thread.start` leave in a thread's `__dict__`.
fn started_attributes<'py>(thread_class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyDict>> {
    let py = thread_class.py();
    // With a name of its own: `threading` counts those that have none.
    let named = [("name", "request")].into_py_dict(py)?;
    let thread = thread_class.call((), Some(&named))?;
    let attributes = thread.getattr("__dict__")?.cast_into::<PyDict>()?.copy()?;
    let started = attributes.as_any().get_item("_started")?;
    call_method(&started, intern!(py, "set"), ())?;
    Ok(attributes)
}

/// How `threading` learns of a thread's end.
#[derive(Debug)]
pub(super) enum End {
    /// Up to 3.12: a lock that is released.
    Lock(Py<PyAny>),
    /// From 3.13 on.
    Handle(Py<RequestHandle>),
}

impl End {
    /// Says that the thread has ended.
    pub(super) fn tell(&self, py: Python<'_>) {
        match self {
            // Released already, where a program did that.
            Self::Lock(lock) => drop(call_method(lock.bind(py), intern!(py, "release"), ())),
            Self::Handle(handle) => handle.get().finish(py),
        }
    }
}

/// The numbers by which Python and the kernel know the calling thread.
#[derive(Debug)]
pub(super) struct Identity {
    ident: Py<PyAny>,
    native_id: Py<PyAny>,
}

impl Identity {
    pub(super) fn new(py: Python<'_>) -> PyResult<Self> {
        let Some(threading) = Threading::known(py) else {
            return Err(PyRuntimeError::new_err("no request was started"));
        };
        Ok(Self {
            ident: call(threading.get_ident.bind(py), ())?.unbind(),
            native_id: call(threading.get_native_id.bind(py), ())?.unbind(),
        })
    }
}
