//! The far end of a loop.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use crate::sys;

/// Wakes whichever loops of one server are running, from any thread.
///
/// A server owns one for its whole life; a loop attaches its own end while it runs.
/// Waking is remembered: a loop that is woken before it waits does not wait.
///
/// ```
/// let waker = fastsocketserver::Waker::default();
/// // Nobody is there to be woken, which is no error.
/// waker.wake()?;
/// assert!(!waker.is_current_thread());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Waker {
    loops: Mutex<Vec<Arc<Attached>>>,
}

#[derive(Debug)]
struct Attached {
    thread: ThreadId,
    /// A forked child inherits this entry, but not the loop, and waking would reach the parent's.
    generation: u32,
    waker: mio::Waker,
}

impl Waker {
    /// Wakes every attached loop of this process.
    ///
    /// # Errors
    ///
    /// What the platform reports; the loop then notices when its poll interval is over.
    pub fn wake(&self) -> io::Result<()> {
        self.loops()
            .iter()
            .filter(|attached| attached.generation == sys::generation())
            .try_for_each(|attached| attached.waker.wake())
    }

    /// Whether the calling thread is inside one of the loops. Such a thread must not wait for the
    /// loop to end.
    #[must_use]
    pub fn is_current_thread(&self) -> bool {
        self.loops().iter().any(|attached| attached.thread == thread::current().id())
    }

    /// Makes `waker` part of this until the returned value is dropped.
    pub(crate) fn attach(&self, waker: mio::Waker) -> Attachment<'_> {
        let attached = Arc::new(Attached {
            thread: thread::current().id(),
            generation: sys::generation(),
            waker,
        });
        self.loops().push(Arc::clone(&attached));
        Attachment { waker: self, attached }
    }

    fn loops(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Attached>>> {
        // A list of entries is sound whatever happened to the thread that held it.
        self.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a loop's end attached to its server's [`Waker`].
#[derive(Debug)]
pub(crate) struct Attachment<'a> {
    waker: &'a Waker,
    attached: Arc<Attached>,
}

impl Drop for Attachment<'_> {
    fn drop(&mut self) {
        self.waker.loops().retain(|attached| !Arc::ptr_eq(attached, &self.attached));
    }
}
