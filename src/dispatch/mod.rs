//! Who runs the handler: the loop's own thread, a thread for each request, or a forked child.
//!
//! A dispatch is told of one request at a time and owes three things: that the request is run once
//! or dropped, which closes it; that what it started is gone after [`close`](Dispatch::close); and
//! that it never waits in [`reap`](Dispatch::reap), which the loop calls after each wait.

mod fork;
mod inline;
mod threads;

use std::io;

pub use fork::Fork;
pub use inline::Inline;
pub use threads::Threads;

/// One request, ready to be run; dropping it unrun closes the connection.
pub type Task = Box<dyn FnOnce() + Send>;

/// Runs the requests that a loop takes.
pub trait Dispatch: Send {
    /// Runs `task`, now or elsewhere.
    ///
    /// # Errors
    ///
    /// When no thread or child can be started; the task has been dropped then.
    fn dispatch(&mut self, task: Task) -> io::Result<()>;

    /// Whether each task has ended, in this process, when [`dispatch`](Self::dispatch) returns.
    /// Default: no.
    ///
    /// Where it has, the replies of a [batch](crate::Builder::batch_size) can leave together.
    fn is_inline(&self) -> bool {
        false
    }

    /// Forgets what has ended, without waiting.
    fn reap(&mut self) {}

    /// Waits until everything that was started has ended.
    fn close(&mut self) {}
}
