//! The extension module `fastsocketserver._core`.
//!
//! The package's Python side (`python/fastsocketserver`) holds the classes that programs see; this
//! holds what they stand on. `python/fastsocketserver/_core.pyi` documents each name for Python.

mod address;
mod engine;
mod error;
mod hooks;
mod interpreter;
mod program;
mod socket;

use pyo3::prelude::*;

/// Declares the module.
///
/// It keeps no state that the interpreter lock protects: the engine is `Sync`, and each call's state
/// is its own.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::engine::{Engine, wait_readable};
    #[pymodule_export]
    use super::hooks::declare_defaults;
    #[pymodule_export]
    use super::program::{call_program, run_file};
}
