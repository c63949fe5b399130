//! Threads that outlive the job they were started for, and take another.
//!
//! ```text
//! ThreadCache::hand_over         a job is queued; a thread is woken or started, unless one is on its way
//!   Worker::take                 the woken thread takes it, and wakes the next if more are queued
//!   Worker::finished             the job is over
//!   Worker::take ...             and the next is taken without anybody having to be woken
//!   Worker::wait                 nothing is queued: idle until woken, for some seconds
//! ```
//!
//! Waking a thread costs two context switches, several microseconds; so of many jobs that arrive
//! together only the first wakes one. No job waits for another to end: as long as jobs are queued, a
//! thread is on its way to them.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Builder, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a thread stays idle before it ends.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// How many threads are kept idle at most; one more ends at once. What an idle thread costs is its
/// stack, some 30 KiB.
const IDLE_LIMIT: usize = 128;

/// Runs jobs in threads, each job at once.
///
/// ```
/// use fastsocketserver::{ThreadCache, Worker};
/// use std::sync::mpsc::channel;
///
/// let (sender, receiver) = channel();
/// let cache = ThreadCache::new(move |worker: &Worker<u32>| {
///     worker.run_each(|job| sender.send(job * 2).expect("a receiver"));
/// });
/// cache.hand_over(21, 0)?;
/// assert_eq!(receiver.recv(), Ok(42));
/// cache.join();
/// # Ok::<(), fastsocketserver::HandOverError<u32>>(())
/// ```
#[derive(Debug)]
pub struct ThreadCache<J> {
    shared: Arc<Shared<J>>,
}

/// A thread of the cache, as seen from within.
#[derive(Debug)]
pub struct Worker<J> {
    shared: Arc<Shared<J>>,
    seat: Arc<Seat>,
}

type Body<J> = Box<dyn Fn(&Worker<J>) + Send + Sync>;

struct Shared<J> {
    /// What each thread runs: it takes jobs until there are none, waits, and returns when told to.
    body: Body<J>,
    state: Mutex<State<J>>,
}

impl<J> std::fmt::Debug for Shared<J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State<J> {
    jobs: VecDeque<J>,
    /// Those that wait, the one that began last at the end: it is woken first, for its memory is warm,
    /// and the others get to leave.
    idle: Vec<Arc<Seat>>,
    /// Whether a thread has been woken or started that has not looked for a job yet.
    searching: bool,
    /// Whether threads that find no job end at once.
    closed: bool,
    threads: Vec<(Arc<Seat>, JoinHandle<()>)>,
    /// Bytes of stack for new threads.
    stack_size: usize,
}

/// One thread's place in the cache.
#[derive(Debug, Default)]
struct Seat {
    status: Mutex<Status>,
}

#[derive(Debug, Default)]
struct Status {
    /// Whom to wake; known once the thread has looked for its first job.
    thread: Option<Thread>,
    wake: Option<Wake>,
    busy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Search,
    Leave,
}

impl<J: Send + 'static> ThreadCache<J> {
    /// A cache without threads whose every thread will run `body`.
    #[must_use]
    pub fn new(body: impl Fn(&Worker<J>) + Send + Sync + 'static) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            idle: Vec::new(),
            searching: false,
            closed: false,
            threads: Vec::new(),
            stack_size: 0,
        };
        Self { shared: Arc::new(Shared { body: Box::new(body), state: Mutex::new(state) }) }
    }

    /// Has a thread take `job`, at once or as soon as it gets a processor.
    ///
    /// `stack_size` is for threads that are started from now on, in bytes; 0 is the default of Rust.
    ///
    /// # Errors
    ///
    /// What the system reports when no thread can be started, with the job.
    pub fn hand_over(&self, job: J, stack_size: usize) -> Result<(), HandOverError<J>> {
        let mut state = self.shared.state();
        state.stack_size = stack_size;
        let sent = match self.shared.send_for_one(&mut state) {
            Ok(sent) => sent,
            Err(source) => return Err(HandOverError { job, source }),
        };
        state.jobs.push_back(job);
        drop(state);
        wake(sent);
        Ok(())
    }

    /// How many threads wait for a job.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.shared.state().idle.len()
    }

    /// Whether a job has yet to be taken by a thread.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        !self.shared.state().jobs.is_empty()
    }

    /// Ends the threads that have no job, and waits until they are gone; those that have one end
    /// after it.
    pub fn close(&self) {
        // A thread that searches while jobs are queued is as good as busy: it will get one.
        self.end(|status, jobs| !(status.busy || status.is_searching() && jobs > 0));
    }

    /// Waits until all jobs are done and all threads are gone.
    pub fn join(&self) {
        // A thread that takes one of several jobs may start another thread for the next.
        while self.end(|_, _| true) > 0 {}
    }

    /// Ends the threads that have no job, as [`close`](Self::close) does, but goes on keeping others.
    pub fn retire_idle(&self) {
        self.close();
        self.shared.state().closed = false;
    }

    /// Ends idle threads, and waits for those that `include` says; returns how many those were.
    fn end(&self, include: impl Fn(&Status, usize) -> bool) -> usize {
        let mut ending = Vec::new();
        {
            let mut state = self.shared.state();
            state.closed = true;
            for seat in state.idle.drain(..) {
                wake(seat.tell(Wake::Leave));
            }
            let current = thread::current().id();
            let jobs = state.jobs.len();
            for (seat, thread) in std::mem::take(&mut state.threads) {
                if include(&seat.status(), jobs) && thread.thread().id() != current {
                    ending.push(thread);
                } else {
                    state.threads.push((seat, thread));
                }
            }
        }
        let count = ending.len();
        for thread in ending {
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
        count
    }
}

/// A job that no thread could be started for, and why.
pub struct HandOverError<J> {
    /// The job, which has not been run.
    pub job: J,
    /// What the system reported.
    pub source: io::Error,
}

impl<J> std::fmt::Debug for HandOverError<J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandOverError").field("source", &self.source).finish_non_exhaustive()
    }
}

impl<J> std::fmt::Display for HandOverError<J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot start a thread: {}", self.source)
    }
}

impl<J> std::error::Error for HandOverError<J> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl<J> Drop for ThreadCache<J> {
    /// Ends the threads that have no job, without waiting for that.
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closed = true;
        for seat in state.idle.drain(..) {
            wake(seat.tell(Wake::Leave));
        }
    }
}

impl<J> Shared<J> {
    fn state(&self) -> MutexGuard<'_, State<J>> {
        // Jobs run outside of the lock: what they do to their thread leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J: Send + 'static> Shared<J> {
    /// Makes sure that a thread will look for a job: the one that is returned is to be woken, after
    /// the lock has been given back. Woken before, it might run at once, and wait for the lock.
    fn send_for_one(self: &Arc<Self>, state: &mut State<J>) -> io::Result<Option<Thread>> {
        if state.searching {
            return Ok(None);
        }
        let sent = if let Some(seat) = state.idle.pop() {
            seat.tell(Wake::Search)
        } else {
            self.start(state)?;
            None
        };
        state.searching = true;
        Ok(sent)
    }

    fn start(self: &Arc<Self>, state: &mut State<J>) -> io::Result<()> {
        let seat = Arc::new(Seat::default());
        let worker = Worker { shared: Arc::clone(self), seat: Arc::clone(&seat) };
        let mut builder = Builder::new().name("request".into());
        if state.stack_size > 0 {
            builder = builder.stack_size(state.stack_size);
        }
        let thread = builder.spawn(move || worker.run())?;
        state.threads.push((seat, thread));
        Ok(())
    }
}

impl<J: Send + 'static> Worker<J> {
    fn run(self) {
        // A panic ends this thread, and the request that it had.
        let _ = catch_unwind(AssertUnwindSafe(|| (self.shared.body)(&self)));
        let mut state = self.shared.state();
        state.threads.retain(|(seat, _)| !Arc::ptr_eq(seat, &self.seat));
    }

    /// Has `run` run each job, until the thread shall end.
    pub fn run_each(&self, mut run: impl FnMut(J)) {
        loop {
            while let Some(job) = self.take() {
                run(job);
                self.finished();
            }
            if !self.wait() {
                break;
            }
        }
    }

    /// Takes the job that has waited longest, if there is one.
    #[must_use]
    pub fn take(&self) -> Option<J> {
        let mut state = self.shared.state();
        let mut status = self.seat.status();
        if status.is_searching() {
            state.searching = false;
            status.wake = None;
            status.thread.get_or_insert_with(thread::current);
        }
        let job = state.jobs.pop_front()?;
        status.busy = true;
        drop(status);
        if !state.jobs.is_empty() {
            // If no thread can be started, those that there are take the jobs one after the other.
            let sent = self.shared.send_for_one(&mut state).unwrap_or_default();
            drop(state);
            wake(sent);
        }
        Some(job)
    }

    /// Says that the job is over, before anybody is told so who might wait for this thread's end.
    pub fn finished(&self) {
        self.seat.status().busy = false;
    }

    /// Waits until there may be a job; `false` when the thread shall end.
    #[must_use]
    pub fn wait(&self) -> bool {
        {
            let mut state = self.shared.state();
            if !state.jobs.is_empty() {
                return true;
            }
            if state.closed || state.idle.len() >= IDLE_LIMIT {
                return false;
            }
            state.idle.push(Arc::clone(&self.seat));
        }
        let end = Instant::now() + IDLE_TIME;
        loop {
            match self.seat.status().wake {
                Some(Wake::Search) => return true,
                Some(Wake::Leave) => return false,
                None => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() && self.leave() {
                return false;
            }
            thread::park_timeout(left);
        }
    }

    /// Leaves the idle ones, unless this thread has just been woken.
    fn leave(&self) -> bool {
        let mut state = self.shared.state();
        let idle = state.idle.len();
        state.idle.retain(|seat| !Arc::ptr_eq(seat, &self.seat));
        state.idle.len() < idle
    }
}

impl Status {
    /// Whether the thread has been started or woken, and has not looked for a job yet.
    fn is_searching(&self) -> bool {
        self.thread.is_none() || self.wake == Some(Wake::Search)
    }
}

impl Seat {
    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves word for the thread, and returns it, if it may be waiting.
    fn tell(&self, word: Wake) -> Option<Thread> {
        let mut status = self.status();
        status.wake = Some(word);
        status.thread.clone()
    }
}

/// Ends the wait of a thread that has been told something.
fn wake(told: Option<Thread>) {
    if let Some(thread) = told {
        thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    type Job = Box<dyn FnOnce() + Send>;

    fn cache() -> ThreadCache<Job> {
        ThreadCache::new(|worker: &Worker<Job>| worker.run_each(|job| job()))
    }

    fn hand_over(cache: &ThreadCache<Job>, job: impl FnOnce() + Send + 'static) {
        assert!(cache.hand_over(Box::new(job), 0).is_ok());
    }

    #[test]
    fn a_job_that_blocks_keeps_no_other_from_running() {
        let cache = cache();
        let (sender, receiver) = mpsc::channel();
        let blocked: Vec<_> = (0..20)
            .map(|number| {
                let (release, released) = mpsc::channel::<()>();
                let sender = sender.clone();
                hand_over(&cache, move || {
                    let _ = sender.send(number);
                    let _ = released.recv();
                });
                release
            })
            .collect();
        let mut begun: Vec<i32> = receiver.iter().take(20).collect();
        begun.sort_unstable();
        assert_eq!(begun, (0..20).collect::<Vec<_>>());
        drop(blocked);
        cache.join();
    }

    #[test]
    fn jobs_one_after_the_other_share_a_thread() {
        let cache = cache();
        let mut threads = Vec::new();
        for _ in 0..5 {
            let (sender, receiver) = mpsc::channel();
            hand_over(&cache, move || {
                let _ = sender.send(thread::current().id());
            });
            threads.extend(receiver.iter());
            while cache.shared.state().idle.is_empty() {
                thread::yield_now();
            }
        }
        assert_eq!(threads.len(), 5);
        threads.dedup();
        assert_eq!(threads.len(), 1);
    }

    #[test]
    fn closing_ends_idle_threads() {
        let cache = cache();
        let (sender, receiver) = mpsc::channel::<()>();
        hand_over(&cache, move || drop(sender));
        assert!(receiver.recv().is_err());
        while cache.shared.state().idle.is_empty() {
            thread::yield_now();
        }
        cache.close();
        assert!(cache.shared.state().threads.is_empty());
    }

    #[test]
    fn a_job_may_close_the_cache_that_runs_it() {
        let cache = Arc::new(cache());
        let (sender, receiver) = mpsc::channel();
        let own = Arc::clone(&cache);
        hand_over(&cache, move || {
            own.join();
            let _ = sender.send(());
        });
        assert!(receiver.recv().is_ok());
        cache.join();
    }

    #[test]
    fn a_job_that_panics_ends_its_thread_alone() {
        let cache = cache();
        hand_over(&cache, || panic!("on purpose"));
        let (sender, receiver) = mpsc::channel();
        hand_over(&cache, move || {
            let _ = sender.send(());
        });
        assert!(receiver.recv().is_ok());
        cache.join();
    }
}
