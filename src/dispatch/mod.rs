//! Who runs the handler: the loop's own thread, a thread for each request, or a forked child.
//!
//! A dispatch is told of one request at a time and owes three things: that the request is run once,
//! or given back, or dropped, which closes it; that what it started is gone after
//! [`close`](Dispatch::close); and that it never waits anywhere else, for the loop waits with it.

mod fork;
mod inline;
mod task;
mod threads;

use std::os::fd::RawFd;

pub use fork::Fork;
pub use inline::Inline;
pub use task::{Refused, Task};
pub use threads::Threads;

/// Runs the requests that a loop takes.
///
/// Another one than those that are here:
///
/// ```
/// use fastsocketserver::dispatch::{Dispatch, Refused, Task};
/// use std::sync::mpsc::{Sender, channel};
/// use std::thread::{JoinHandle, spawn};
///
/// /// Runs requests one by one, in a thread beside the loop's.
/// struct Beside {
///     queue: Option<Sender<Task>>,
///     thread: Option<JoinHandle<()>>,
/// }
///
/// impl Beside {
///     fn new() -> Self {
///         let (queue, tasks) = channel::<Task>();
///         let thread = spawn(move || tasks.into_iter().for_each(Task::run));
///         Self { queue: Some(queue), thread: Some(thread) }
///     }
/// }
///
/// impl Dispatch for Beside {
///     fn dispatch(&mut self, task: Task) -> Result<(), Refused> {
///         if let Some(queue) = &self.queue {
///             // Dropped, and so closed, if the thread is gone.
///             let _ = queue.send(task);
///         }
///         Ok(())
///     }
///
///     fn limit(&self) -> Option<usize> {
///         Some(100)
///     }
///
///     fn close(&mut self) {
///         self.queue = None;
///         self.thread.take().map(JoinHandle::join);
///     }
/// }
/// # let mut beside = Beside::new();
/// # let (sender, receiver) = channel();
/// # assert!(beside.dispatch(Task::new(move || sender.send(1).expect("received"))).is_ok());
/// # assert_eq!(receiver.recv(), Ok(1));
/// # beside.close();
/// ```
pub trait Dispatch: Send {
    /// Runs `task`, now or elsewhere.
    ///
    /// # Errors
    ///
    /// When no thread or child can be started: with the task, which is tried again later, as if the
    /// [`limit`](Self::limit) had been reached.
    fn dispatch(&mut self, task: Task) -> Result<(), Refused>;

    /// Whether each task has ended, in this process, when [`dispatch`](Self::dispatch) returns without
    /// an error. Default: no.
    ///
    /// Where it has, the replies of a [batch](crate::Builder::batch_size) leave together.
    fn is_inline(&self) -> bool {
        false
    }

    /// How many requests may be handled at once. At that number the loop takes no more, and those that
    /// come wait in the kernel's queue. Default: any number.
    fn limit(&self) -> Option<usize> {
        None
    }

    /// How the loop gets to know, when it waits at the limit, that a place may be free. Default:
    /// [`Freed::Woken`].
    fn freed(&self) -> Freed {
        Freed::Woken
    }

    /// What tells, from any thread, how many threads wait for a request to run. Default: 0.
    fn idle_threads(&self) -> Box<dyn Fn() -> usize + Send + Sync> {
        Box::new(|| 0)
    }

    /// Forgets what has ended, without waiting. Called after each wait of the loop, and at the limit.
    fn reap(&mut self) {}

    /// Waits until everything that was started has ended. More may be dispatched afterwards.
    fn close(&mut self) {}
}

/// How a loop gets to know that a place may be free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// Tasks end in this process, and that wakes the loop.
    Woken,
    /// This descriptor becomes readable.
    Readable(RawFd),
    /// By asking, from time to time.
    Unknown,
}
