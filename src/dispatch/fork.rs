//! A child process for each request.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Dispatch, Task};
use crate::sys;

/// Forks a child for each request, at most [`max_children`](Self::max_children) at a time.
///
/// The child goes on with the calling thread alone, so a program that forks should have no others:
/// their locks stay locked in the child. It ends with status 0, or 1 after a panic, without running
/// destructors of what it inherited.
#[derive(Debug)]
pub struct Fork {
    children: Vec<i32>,
    max_children: usize,
}

impl Default for Fork {
    fn default() -> Self {
        Self::new()
    }
}

impl Fork {
    /// At most 40 children at a time.
    #[must_use]
    pub const fn new() -> Self {
        Self { children: Vec::new(), max_children: 40 }
    }

    /// Sets how many children there are at most; a further request waits for one to end. At least
    /// 1.
    #[must_use]
    pub fn max_children(mut self, max_children: usize) -> Self {
        self.max_children = max_children.max(1);
        self
    }

    /// Waits until one of the children has ended: they are asked in turn, the oldest first, so that
    /// no child of somebody else's is ever reaped.
    fn wait_for_any(&mut self) {
        let oldest = self.children.remove(0);
        sys::wait_for_child(oldest, true);
    }
}

impl Dispatch for Fork {
    fn dispatch(&mut self, task: Task) -> io::Result<()> {
        self.reap();
        if self.children.len() >= self.max_children {
            self.wait_for_any();
        }
        match sys::fork()? {
            // Dropping the task closes the parent's copy of the connection.
            Some(pid) => self.children.push(pid),
            None => sys::exit_now(i32::from(catch_unwind(AssertUnwindSafe(task)).is_err())),
        }
        Ok(())
    }

    fn reap(&mut self) {
        self.children.retain(|&pid| !sys::wait_for_child(pid, false));
    }

    fn close(&mut self) {
        for pid in self.children.drain(..) {
            sys::wait_for_child(pid, true);
        }
    }
}
