//! The extension module `fastsocketserver._core`.
//!
//! The package's Python side (`python/fastsocketserver`) holds the classes that programs see; this
//! holds what they stand on. `python/fastsocketserver/_core.pyi` documents each name for Python.

mod address;
mod buffer;
mod connection;
mod data_stack;
mod deadlines;
pub mod embed;
mod engine;
mod error;
mod exclusive;
mod file;
mod greenlet;
mod hooks;
mod in_table;
mod intake;
mod interpreter;
mod ledger;
mod limits;
mod parked;
mod program;
mod reader;
mod reporter;
mod request;
mod request_handle;
mod socket;
mod table;
mod thread_state;
mod threading;
mod threads;
mod waits;
mod writer;

use pyo3::prelude::*;

/// Declares the module.
///
/// It keeps no state that the interpreter lock protects: the engine is `Sync`, and each call's state
/// is its own.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::deadlines::{begin_line, end_line};
    #[pymodule_export]
    use super::engine::{
        Engine, forget_client, start_request_greenlet, start_request_thread, wait_readable,
    };
    #[pymodule_export]
    use super::error::client_timeout;
    #[pymodule_export]
    use super::file::SocketFile;
    #[pymodule_export]
    use super::greenlet::check_greenlets;
    #[pymodule_export]
    use super::hooks::{call_finish_request, declare_defaults, finish_request};
    #[pymodule_export]
    use super::in_table::{
        Parking, forget_closed, forget_descriptor, is_in_table, open_parking, sleep, wait_ready,
    };
    #[pymodule_export]
    use super::program::{call_program, run_file};
    #[pymodule_export]
    use super::reader::{Reader, open_reader};
    #[pymodule_export]
    use super::request::{close, method, recv, recv_into, send, sendall, write_all};
    #[pymodule_export]
    use super::request_handle::RequestHandle;
    #[pymodule_export]
    use super::socket::{declare_accepted_socket, make_cooperative};
    #[pymodule_export]
    use super::threads::{forget_threads, retire_idle_threads, stop_caching_threads};
    #[pymodule_export]
    use super::writer::{Writer, open_writer};

    #[pymodule_init]
    fn init(module: &super::Bound<'_, super::PyModule>) -> super::PyResult<()> {
        super::interpreter::look_for_lock(module.py())
    }
}
