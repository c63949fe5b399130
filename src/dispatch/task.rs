//! One request, ready to be run.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::control::{Ending, Outcome, Place};
use crate::sys;

/// One request, ready to be run; dropping it unrun closes the connection.
pub struct Task {
    run: Box<dyn FnOnce() -> Outcome + Send>,
    /// Given back when the request has ended.
    place: Option<Place>,
}

impl Task {
    /// A task that no server counts.
    ///
    /// ```
    /// use fastsocketserver::dispatch::{Dispatch, Inline, Task};
    ///
    /// let (sender, receiver) = std::sync::mpsc::channel();
    /// let task = Task::new(move || sender.send("ran").expect("a receiver"));
    /// Inline.dispatch(task).expect("this thread");
    /// assert_eq!(receiver.recv(), Ok("ran"));
    /// ```
    pub fn new(run: impl FnOnce() + Send + 'static) -> Self {
        let run = Box::new(|| {
            run();
            Outcome::Finished
        });
        Self { run, place: None }
    }

    pub(crate) fn in_place(run: impl FnOnce() -> Outcome + Send + 'static, place: Place) -> Self {
        Self { run: Box::new(run), place: Some(place) }
    }

    /// Runs it in this thread, and gives its place back.
    pub fn run(self) {
        let outcome = (self.run)();
        if let Some(place) = self.place {
            place.settle(outcome);
        }
    }

    /// Runs it in this process, which is a forked child: the place is the parent's, and so is the lock
    /// that it would take to give it back. Whoever calls this ends the process.
    pub(crate) fn run_in_child(self) -> Outcome {
        let Self { run, place } = self;
        let _kept = std::mem::ManuallyDrop::new(place);
        run()
    }

    /// Leaves it to a child: closes this process's copy of the connection, and keeps the place.
    pub(crate) fn leave_to(self, child: Arc<sys::Child>) -> Option<Place> {
        if let Some(place) = &self.place {
            place.end_by(Ending::Child(child));
        }
        self.place
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("place", &self.place).finish_non_exhaustive()
    }
}

/// A task that could not be run now, and why.
#[derive(Debug)]
pub struct Refused {
    /// The task, to be tried again.
    pub task: Task,
    /// What the system reported.
    pub error: io::Error,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing to run a request in: {}", self.error)
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
