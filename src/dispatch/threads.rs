//! A thread for each request.

use std::io;

use super::{Dispatch, Task};
use crate::thread_cache::{ThreadCache, Worker};

/// Runs each request in a thread of its own, which another request may have used before; a panic in
/// one ends that request alone.
pub struct Threads {
    cache: ThreadCache<Task>,
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threads").finish_non_exhaustive()
    }
}

impl Default for Threads {
    fn default() -> Self {
        Self { cache: ThreadCache::new(|worker: &Worker<Task>| worker.run_each(|task| task())) }
    }
}

impl Dispatch for Threads {
    fn dispatch(&mut self, task: Task) -> io::Result<()> {
        self.cache.hand_over(task, 0)
    }

    fn close(&mut self) {
        self.cache.join();
    }
}
