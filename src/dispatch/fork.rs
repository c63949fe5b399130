//! A child process for each request.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};

use super::{Dispatch, Freed, Refused, Task};
use crate::control::{Outcome, Place};
use crate::sys;

/// Forks a child for each request, at most [`max_children`](Self::max_children) at a time.
///
/// The child goes on with the calling thread alone, so a program that forks should have no others:
/// their locks stay locked in the child. It ends with status 0, or 1 after an error or a panic,
/// without running destructors of what it inherited. What it changes in memory, counts included, is
/// its own.
///
/// ```
/// use fastsocketserver::{Fork, Request, Server};
///
/// let server = Server::builder(|_: &mut Request| Ok(())).dispatch(Fork::new().max_children(8));
/// # let _ = server;
/// ```
#[derive(Debug)]
pub struct Fork {
    children: Vec<Running>,
    max_children: usize,
    /// Watches the end of every child that it can be told of; readable when one has ended. It is
    /// itself watched by the loop, and never asked.
    ends: Option<Poll>,
}

/// A child that has not been reaped.
#[derive(Debug)]
struct Running {
    child: Arc<sys::Child>,
    place: Option<Place>,
    is_watched: bool,
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
        Self { children: Vec::new(), max_children: 40, ends: None }
    }

    /// Sets how many children there are at most; further connections wait in the kernel's queue. At
    /// least 1: 0 is taken for that.
    #[must_use]
    pub fn max_children(mut self, max_children: usize) -> Self {
        self.max_children = max_children.max(1);
        self
    }

    /// Makes sure that the end of `child` is noticed.
    fn watch(&mut self, child: &sys::Child) -> io::Result<()> {
        let end = child.end().ok_or(io::ErrorKind::Unsupported)?;
        let ends = match &self.ends {
            Some(ends) => ends,
            None => self.ends.insert(Poll::new()?),
        };
        ends.registry().register(&mut SourceFd(&end.as_raw_fd()), Token(0), Interest::READABLE)
    }

    /// Closing is not enough: a child that was forked later has the descriptor too.
    fn unwatch(&self, child: &sys::Child) {
        if let (Some(ends), Some(end)) = (&self.ends, child.end()) {
            let _ = ends.registry().deregister(&mut SourceFd(&end.as_raw_fd()));
        }
    }
}

impl Dispatch for Fork {
    fn dispatch(&mut self, task: Task) -> Result<(), Refused> {
        self.reap();
        let pid = match sys::fork() {
            Ok(Some(pid)) => pid,
            Ok(None) => sys::exit_now(i32::from(task.run_in_child() == Outcome::Failed)),
            Err(error) => return Err(Refused { task, error }),
        };
        let child = Arc::new(sys::Child::new(pid));
        let place = task.leave_to(Arc::clone(&child));
        let is_watched = self.watch(&child).is_ok();
        self.children.push(Running { child, place, is_watched });
        Ok(())
    }

    fn limit(&self) -> Option<usize> {
        Some(self.max_children)
    }

    fn freed(&self) -> Freed {
        match &self.ends {
            Some(ends) if self.children.iter().all(|running| running.is_watched) => {
                Freed::Readable(ends.as_raw_fd())
            }
            _ => Freed::Unknown,
        }
    }

    fn reap(&mut self) {
        for at in (0..self.children.len()).rev() {
            let Some(success) = self.children[at].child.try_reap() else { continue };
            let ended = self.children.swap_remove(at);
            self.unwatch(&ended.child);
            if let Some(place) = ended.place {
                place.settle(if success { Outcome::Finished } else { Outcome::Failed });
            }
        }
    }

    fn close(&mut self) {
        while let Some(running) = self.children.last() {
            running.child.wait();
            self.reap();
        }
    }
}
