//! The loop's own thread: one request at a time.

use std::io;

use super::{Dispatch, Task};

/// Runs each request on the loop's thread, before the next is taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl Dispatch for Inline {
    fn dispatch(&mut self, task: Task) -> io::Result<()> {
        task();
        Ok(())
    }

    fn is_inline(&self) -> bool {
        true
    }
}
