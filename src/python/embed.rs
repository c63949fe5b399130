//! For Rust programs that have started an interpreter themselves.

use pyo3::prelude::*;

/// Makes this program's own copy of the native module known to its interpreter.
///
/// The package `fastsocketserver`, whose Python half must be found on `sys.path`, then runs on it. Call
/// it before that is imported; `examples/embed_python.rs` shows all of it.
///
/// # Errors
///
/// What making the module raises.
pub fn register(py: Python<'_>) -> PyResult<()> {
    let module = pyo3::wrap_pymodule!(super::_core)(py);
    let modules = py.import("sys")?.getattr("modules")?;
    modules.set_item("fastsocketserver._core", module)
}
