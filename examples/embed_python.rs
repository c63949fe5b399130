//! A Rust program that serves a Python handler class, in an interpreter of its own, on the same engine
//! as the Python package.
//!
//! ```console
//! $ cargo run --features python --example embed_python 9999
//! ```
//!
//! The native half of the package is in this program; the Python half is read from `python/`.
#![allow(clippy::print_stdout, reason = "it talks to its user")]

use std::env;

use fastsocketserver::embed;
use pyo3::prelude::*;

/// What a plug-in of this program might look like.
const HANDLER: &std::ffi::CStr = c"
import fastsocketserver

class Upper(fastsocketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())

def serve(port):
    with fastsocketserver.ThreadingTCPServer(('127.0.0.1', port), Upper) as server:
        server.daemon_threads = True
        print('listening on %s:%d' % server.server_address, flush=True)
        server.serve_forever()
";

fn main() -> PyResult<()> {
    let port: u16 = env::args().nth(1).map_or(Ok(9999), |port| port.parse()).expect("a port");
    Python::initialize();
    Python::attach(|py| {
        embed::register(py)?;
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/python");
        py.import("sys")?.getattr("path")?.call_method1("insert", (0, folder))?;
        let module = PyModule::from_code(py, HANDLER, c"plugin.py", c"plugin")?;
        module.getattr("serve")?.call1((port,))?;
        Ok(())
    })
}
