//! A server's remote control.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::{Control, Phase, State};
use crate::stats::Stats;

/// Steers a server from another thread, or from one of its handlers; clones steer the same one.
///
/// It holds neither the listener nor the handler: when the [`Server`](crate::Server) is dropped, its
/// socket is closed.
///
/// ```
/// use fastsocketserver::{Request, Server, Threads};
/// use std::time::Duration;
///
/// let mut server = Server::builder(|_: &mut Request| Ok(()))
///     .dispatch(Threads::new())
///     .bind(&"127.0.0.1:0".parse()?)?;
/// let handle = server.handle();
/// let serving = std::thread::spawn(move || server.serve_forever());
/// handle.pause();
/// handle.resume();
/// let closed = handle.drain(Duration::from_secs(10));
/// assert_eq!(closed, 0);
/// serving.join().expect("no panic")?;
/// assert_eq!(handle.stats().active, 0);
/// # Ok::<(), fastsocketserver::Error>(())
/// ```
#[derive(Clone)]
pub struct Handle {
    control: Arc<Control>,
    gauges: Arc<Gauges>,
}

/// What is asked for only when somebody wants to know.
pub(crate) struct Gauges {
    pub(crate) idle_threads: Box<dyn Fn() -> usize + Send + Sync>,
    pub(crate) dropped: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) fn new(control: Arc<Control>, gauges: Arc<Gauges>) -> Self {
        Self { control, gauges }
    }

    /// Has [`Server::serve_forever`](crate::Server::serve_forever) return, and waits until it has:
    /// until all requests that were taken have been handled, however long that takes.
    ///
    /// Called before `serve_forever`, it is noted, and that returns at once when it is called. Called
    /// from the loop's own thread (a handler run [`Inline`](crate::Inline)) it is noted too. A handler
    /// in a thread of its own must not call it: it would wait for itself. There
    /// [`request_shutdown`](Self::request_shutdown) does.
    pub fn shutdown(&self) {
        self.request_shutdown();
        if !self.control.waker.is_current_thread() {
            self.control.wait(None, |state| state.phase == Phase::Idle);
        }
    }

    /// As [`shutdown`](Self::shutdown), without waiting for anything.
    pub fn request_shutdown(&self) {
        self.control.stop();
    }

    /// Has the server take no more requests, gives those that are being handled `timeout` to end, and
    /// then ends what is left. Returns how many requests that were.
    ///
    /// A connection that is left is shut down, so that its handler sees the end of the stream; a
    /// child process that is left is killed. A request whose handler looks at neither, and one that is
    /// a datagram, goes on: it is counted all the same, and `serve_forever`, which waits for it, is
    /// not waited for here. A program that wants to end regardless can.
    ///
    /// New connections wait in the kernel's queue until the `Server` is dropped, or serves again.
    /// From the loop's own thread this is [`request_shutdown`](Self::request_shutdown), and 0. A handler
    /// in a thread of its own that calls this is one of the requests that are waited for.
    #[must_use = "says how many requests were cut short"]
    pub fn drain(&self, timeout: Duration) -> usize {
        self.request_shutdown();
        if self.control.waker.is_current_thread() {
            return 0;
        }
        // One that is too far away to be told is as good as none.
        let deadline = Instant::now().checked_add(timeout);
        if self.control.wait(deadline, State::is_quiet) {
            return 0;
        }
        self.control.end_active()
    }

    /// Has the server take no requests until [`resume`](Self::resume): new ones wait in the kernel's
    /// queue. Those that were taken are handled, as is one, or a
    /// [batch](crate::Builder::batch_size), that is being taken at this moment.
    pub fn pause(&self) {
        self.control.state().paused = true;
    }

    /// Has the server take requests again.
    pub fn resume(&self) {
        self.control.state().paused = false;
        // Without it the loop notices when its poll interval is over.
        let _ = self.control.waker.wake();
    }

    /// What the server has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            dropped: (self.gauges.dropped)(),
            idle_threads: (self.gauges.idle_threads)(),
            ..self.control.stats()
        }
    }
}
