//! The loop's own thread: one request at a time.

use super::{Dispatch, Refused, Task};

/// Runs each request on the loop's thread, before the next is taken: what a server does by default.
///
/// ```
/// use fastsocketserver::{Inline, Request, Server};
///
/// let server = Server::builder(|_: &mut Request| Ok(())).dispatch(Inline);
/// # let _ = server;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl Dispatch for Inline {
    fn dispatch(&mut self, task: Task) -> Result<(), Refused> {
        task.run();
        Ok(())
    }

    fn is_inline(&self) -> bool {
        true
    }
}
