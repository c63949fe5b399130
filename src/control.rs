//! What a server shares with its handles and with the requests that are being handled.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::stats::Stats;
use crate::sys;
use crate::waker::Waker;

/// The state of one server.
///
/// Everything is under one lock, which is held for a few instructions at a time: so what is counted
/// is always of one moment.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Reaches the loop while it runs.
    pub(crate) waker: Arc<Waker>,
    state: Mutex<State>,
    /// Told that a request or the loop has ended, if anybody waits for that.
    ended: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    /// The loop shall end. Noted for the next one where there is none.
    pub(crate) stopping: bool,
    /// No request shall be taken.
    pub(crate) paused: bool,
    /// The loop waits for a place.
    wants_place: bool,
    /// How many threads wait for [`Control::ended`]: telling takes a system call even if none does.
    waiting: usize,
    /// How many requests are being handled.
    active: usize,
    /// How many wait for their client's first bytes, and have no place among those.
    parked: usize,
    /// How to end those that can be ended, by their numbers.
    endings: HashMap<u64, Ending>,
    entered: u64,
    counts: Stats,
}

/// What `serve_forever` is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It is not running.
    #[default]
    Idle,
    /// It takes requests.
    Taking,
    /// It takes no more, and waits for those that are being handled.
    Ending,
}

/// What kind of request was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Connection,
    Datagram { truncated: bool },
}

/// How a request is ended that takes too long.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Its handler sees the end of the connection.
    Connection(Arc<Socket>),
    /// It runs in this child process, which is killed.
    Child(Arc<sys::Child>),
}

impl Ending {
    fn bring_about(&self) {
        match self {
            // It may have ended meanwhile.
            Self::Connection(socket) => drop(socket.shutdown(Shutdown::Both)),
            Self::Child(child) => child.kill(),
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Finished,
    Failed,
}

/// How many requests there may be at once, `None` meaning any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of those that are being handled.
    pub(crate) active: Option<usize>,
    /// Of those that have been taken and are not over: the parked ones count too.
    pub(crate) open: Option<usize>,
}

impl Control {
    /// One whose loop `waker` reaches.
    #[cfg(feature = "python")]
    pub(crate) fn with_waker(waker: Arc<Waker>) -> Self {
        Self { waker, ..Self::default() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock can panic halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        let mut state = self.state();
        state.phase = phase;
        if phase == Phase::Idle {
            state.stopping = false;
        }
        self.tell(&state);
    }

    /// Has the loop end, if there is one; otherwise the next.
    pub(crate) fn stop(&self) {
        self.state().stopping = true;
        // The loop looks at the flag before it waits, so a lost wake-up costs one poll interval.
        let _ = self.waker.wake();
    }

    /// Waits until `is_over`, or `deadline`; says whether it is.
    pub(crate) fn wait(
        &self,
        deadline: Option<Instant>,
        mut is_over: impl FnMut(&State) -> bool,
    ) -> bool {
        let mut state = self.state();
        state.waiting += 1;
        let is_over = loop {
            if is_over(&state) {
                break true;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            state = match left {
                Some(Duration::ZERO) => break false,
                Some(left) => match self.ended.wait_timeout(state, left) {
                    Ok((state, _)) => state,
                    Err(poisoned) => poisoned.into_inner().0,
                },
                None => self.ended.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        };
        state.waiting -= 1;
        is_over
    }

    fn tell(&self, state: &State) {
        if state.waiting > 0 {
            self.ended.notify_all();
        }
    }

    /// Whether one more request may be taken. If not, the loop is woken when that may have changed.
    pub(crate) fn admits(&self, limits: Limits) -> bool {
        let mut state = self.state();
        state.wants_place = limits.active.is_some_and(|limit| state.active >= limit)
            || limits.open.is_some_and(|limit| state.open() >= limit);
        !(state.wants_place || state.paused)
    }

    /// Has the loop woken when the next request ends.
    pub(crate) fn want_place(&self) {
        self.state().wants_place = true;
    }

    /// Counts a request that is going to be handled, and can be ended so, if at all.
    pub(crate) fn enter(self: &Arc<Self>, taken: Taken, ending: Option<Ending>) -> Place {
        let mut state = self.state();
        state.counts.count(taken);
        state.entered += 1;
        let number = state.entered;
        state.active += 1;
        if let Some(ending) = ending {
            state.endings.insert(number, ending);
        }
        let generation = sys::generation();
        let control = Arc::clone(self);
        Place {
            control,
            number,
            generation,
            is_parked: false,
            is_refused: false,
            outcome: Outcome::Failed,
        }
    }

    /// Counts a request that is not going to be handled.
    pub(crate) fn refuse(&self, taken: Taken) {
        let mut state = self.state();
        state.counts.count(taken);
        state.counts.refused += 1;
    }

    /// Counts that no request could be taken.
    pub(crate) fn failed_to_take(&self, error: &io::Error) {
        let errno = error.raw_os_error().unwrap_or_default();
        *self.state().counts.accept_errors.entry(errno).or_default() += 1;
    }

    /// Ends every request that is being handled, as far as it can be ended; returns how many those are.
    pub(crate) fn end_active(&self) -> usize {
        let state = self.state();
        state.endings.values().for_each(Ending::bring_about);
        state.active
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.state();
        Stats { active: state.active, parked: state.parked, ..state.counts.clone() }
    }

    fn leave(&self, place: &Place) {
        let mut state = self.state();
        if place.is_parked {
            state.parked -= 1;
        } else {
            state.active -= 1;
        }
        let ending = state.endings.remove(&place.number);
        match place.outcome {
            _ if place.is_refused => state.counts.refused += 1,
            Outcome::Finished => state.counts.finished += 1,
            Outcome::Failed => state.counts.failed += 1,
        }
        let wakes = std::mem::take(&mut state.wants_place);
        self.tell(&state);
        drop(state);
        // This closes the connection, which nobody should have to wait for.
        drop(ending);
        if wakes {
            let _ = self.waker.wake();
        }
    }
}

impl State {
    /// Whether no request is being handled, and none can come.
    pub(crate) fn is_quiet(&self) -> bool {
        self.phase != Phase::Taking && self.active == 0
    }

    /// How many requests are being handled.
    pub(crate) fn active(&self) -> usize {
        self.active
    }

    /// How many requests have been taken and are not over.
    pub(crate) fn open(&self) -> usize {
        self.active + self.parked
    }
}

impl Stats {
    fn count(&mut self, taken: Taken) {
        match taken {
            Taken::Connection => self.accepted += 1,
            Taken::Datagram { truncated } => {
                self.received += 1;
                self.truncated += u64::from(truncated);
            }
        }
    }
}

/// A request's place among those that are being handled; dropping it gives it back.
pub(crate) struct Place {
    control: Arc<Control>,
    number: u64,
    /// A forked child inherits the place, which is its parent's.
    generation: u32,
    is_parked: bool,
    /// Whether it is not to be handled after all.
    is_refused: bool,
    /// Failed, until something else is known.
    outcome: Outcome,
}

impl Place {
    /// Gives the place back.
    pub(crate) fn settle(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Changes how the request is ended.
    pub(crate) fn end_by(&self, ending: Ending) {
        let former = self.control.state().endings.insert(self.number, ending);
        drop(former);
    }
}

/// What requests do that may wait for their client before they are handled.
#[cfg(feature = "python")]
impl Place {
    /// Something that no other request of the server has.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Says that the request waits for its client, and is not being handled.
    pub(crate) fn park(&mut self) {
        if !std::mem::replace(&mut self.is_parked, true) {
            let mut state = self.control.state();
            state.active -= 1;
            state.parked += 1;
        }
    }

    /// Gives the place back unused.
    pub(crate) fn refuse(mut self) {
        self.is_refused = true;
    }

    /// Says that the request is being handled after all.
    pub(crate) fn unpark(&mut self) {
        if std::mem::take(&mut self.is_parked) {
            let mut state = self.control.state();
            state.parked -= 1;
            state.active += 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // In a child, somebody else's lock may be held for good.
        if self.generation == sys::generation() {
            self.control.leave(self);
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("number", &self.number).finish_non_exhaustive()
    }
}
