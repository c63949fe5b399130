//! A thread for each request.

use std::sync::Arc;

use super::{Dispatch, Refused, Task};
use crate::thread_cache::{HandOverError, ThreadCache, Worker};

/// Runs each request in a thread of its own, which another request may have used before; a panic in
/// one ends that request alone.
///
/// A thread is kept for the next request for 5 s, and at most 128 are.
///
/// ```
/// use fastsocketserver::{Request, Server, Threads};
///
/// let server = Server::builder(|_: &mut Request| Ok(())).dispatch(Threads::new().max_threads(500));
/// # let _ = server;
/// ```
pub struct Threads {
    cache: Arc<ThreadCache<Task>>,
    max_threads: Option<usize>,
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threads").field("max_threads", &self.max_threads).finish_non_exhaustive()
    }
}

impl Default for Threads {
    fn default() -> Self {
        Self::new()
    }
}

impl Threads {
    /// Any number of threads at a time.
    #[must_use]
    pub fn new() -> Self {
        let cache = ThreadCache::new(|worker: &Worker<Task>| worker.run_each(Task::run));
        Self { cache: Arc::new(cache), max_threads: None }
    }

    /// Sets how many requests are handled at once, at most; further connections wait in the kernel's
    /// queue. At least 1: 0 is taken for that.
    #[must_use]
    pub fn max_threads(mut self, max_threads: usize) -> Self {
        self.max_threads = Some(max_threads.max(1));
        self
    }
}

impl Dispatch for Threads {
    fn dispatch(&mut self, task: Task) -> Result<(), Refused> {
        self.cache
            .hand_over(task, 0)
            .map_err(|HandOverError { job, source }| Refused { task: job, error: source })
    }

    fn limit(&self) -> Option<usize> {
        self.max_threads
    }

    fn idle_threads(&self) -> Box<dyn Fn() -> usize + Send + Sync> {
        let cache = Arc::downgrade(&self.cache);
        Box::new(move || cache.upgrade().map_or(0, |cache| cache.idle()))
    }

    fn close(&mut self) {
        self.cache.join();
        self.cache.retire_idle();
    }
}
