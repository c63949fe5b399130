//! A thread for each request.

use std::io;
use std::thread::{Builder, JoinHandle};

use super::{Dispatch, Task};

/// Starts a thread for each request; a panic in one ends that request alone.
#[derive(Debug, Default)]
pub struct Threads {
    running: Vec<JoinHandle<()>>,
}

impl Dispatch for Threads {
    fn dispatch(&mut self, task: Task) -> io::Result<()> {
        self.reap();
        self.running.push(Builder::new().name("request".into()).spawn(task)?);
        Ok(())
    }

    fn reap(&mut self) {
        self.running.retain(|thread| !thread.is_finished());
    }

    fn close(&mut self) {
        for thread in self.running.drain(..) {
            // The panic has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}
