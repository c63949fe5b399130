//! What the requests of a table wait for: descriptors, deadlines, and each other.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use pyo3::prelude::*;

use crate::event_loop::{Occurrence, Selector};
use crate::wait::Direction;

/// All waits of one table.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// The poll object of the loop that runs, and its number.
    registry: Option<(u64, Registry)>,
    /// By descriptor.
    watches: Vec<Watch>,
    waiting: HashMap<WaitId, Waiting>,
    timers: BTreeSet<(Instant, WaitId)>,
    over: VecDeque<Who>,
    last: WaitId,
    /// How often the poll object has reported something.
    reports: u64,
}

pub(super) type RequestId = u64;
pub(super) type HubId = u64;
pub(super) type WaitId = u64;

/// A request's greenlet.
#[derive(Debug)]
pub(super) struct Who {
    pub(super) greenlet: Py<PyAny>,
    pub(super) request: RequestId,
    /// Where the greenlet goes back to at its end.
    pub(super) hub: HubId,
}

/// One descriptor, as the poll object knows it.
#[derive(Debug, Default)]
struct Watch {
    interests: Option<Interest>,
    readers: Vec<WaitId>,
    writers: Vec<WaitId>,
    /// The last report for it, by number, and whether that said that no more will come.
    reported: u64,
    is_read_closed: bool,
}

/// One wait.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Who waits, until that is over.
    pub(super) who: Option<Who>,
    pub(super) for_what: Option<(RawFd, Direction)>,
    pub(super) deadline: Option<Instant>,
    pub(super) outcome: Option<Outcome>,
}

/// How a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Ready,
    TimedOut,
    /// The request is to end.
    Ended,
}

impl Waits {
    /// A number for a wait that has yet to begin.
    pub(super) fn new_id(&mut self) -> WaitId {
        self.last += 1;
        self.last
    }

    /// Has `selector` watch what is waited for. It takes a descriptor: where there is none, this is to
    /// be called again.
    pub(super) fn attach(&mut self, selector: &Selector) {
        if self.registry.as_ref().is_some_and(|(id, _)| *id == selector.id()) {
            return;
        }
        self.registry = selector.registry().ok().map(|registry| (selector.id(), registry));
        if self.registry.is_none() {
            return;
        }
        for watch in &mut self.watches {
            watch.interests = None;
        }
        for fd in 0..self.watches.len() {
            let Watch { readers, writers, .. } = &self.watches[fd];
            let (reads, writes) = (!readers.is_empty(), !writers.is_empty());
            let fd = RawFd::try_from(fd).expect("a descriptor's number");
            for (waits, direction) in [(reads, Direction::Readable), (writes, Direction::Writable)]
            {
                // One that cannot be watched is gone; who waits for it is told.
                if waits && self.watch(fd, direction).is_err() {
                    self.end_all_for(fd, direction);
                }
            }
        }
    }

    /// Whether what is waited for is watched.
    pub(super) fn is_attached(&self) -> bool {
        self.registry.is_some() || self.waiting.is_empty()
    }

    /// Lets go of the poll object.
    pub(super) fn detach(&mut self) {
        self.registry = None;
    }

    /// Begins a wait.
    ///
    /// # Errors
    ///
    /// What the system reports of a descriptor that cannot be watched.
    pub(super) fn begin(&mut self, wait: Option<WaitId>, waiting: Waiting) -> io::Result<WaitId> {
        if let Some((fd, direction)) = waiting.for_what {
            self.watch(fd, direction)?;
        }
        let wait = wait.unwrap_or_else(|| self.new_id());
        if let Some((fd, direction)) = waiting.for_what {
            self.watches[index(fd)].waits(direction).push(wait);
        }
        if let Some(deadline) = waiting.deadline {
            self.timers.insert((deadline, wait));
        }
        self.waiting.insert(wait, waiting);
        Ok(wait)
    }

    /// Forgets a wait: how it has ended; `None` where it has not, and goes on unless `is_broken_off`.
    pub(super) fn finish(&mut self, wait: WaitId, is_broken_off: bool) -> Option<Waiting> {
        let mut waiting = self.waiting.remove(&wait)?;
        if waiting.outcome.is_none() && !is_broken_off {
            self.waiting.insert(wait, waiting);
            return None;
        }
        waiting.leave_lists(wait, &mut self.timers, &mut self.watches);
        Some(waiting)
    }

    /// Until when the first wait with a deadline lasts.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(deadline, _)| *deadline)
    }

    /// Ends the waits whose deadline has come.
    pub(super) fn end_overdue(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(&(deadline, wait)) = self.timers.first() {
            if deadline > now {
                break;
            }
            self.end(wait, Outcome::TimedOut);
        }
    }

    /// Ends every wait.
    pub(super) fn end_all(&mut self, outcome: Outcome) {
        let all: Vec<_> = self.waiting.keys().copied().collect();
        for wait in all {
            self.end(wait, outcome);
        }
    }

    /// Whose wait is over, one after the other, each of them once.
    pub(super) fn pop_over(&mut self) -> Option<Who> {
        self.over.pop_front()
    }

    /// How many there are for [`pop_over`](Self::pop_over).
    pub(super) fn count_over(&self) -> usize {
        self.over.len()
    }

    /// Forgets what is known of `fd`. Who waits for it is told; if it `is_closing`, so is the kernel.
    pub(super) fn forget(&mut self, fd: RawFd, is_closing: bool) {
        let Some(watch) = self.watches.get_mut(index(fd)) else { return };
        if watch.interests.take().is_some() && is_closing {
            if let Some((_, registry)) = &self.registry {
                // It forgets it by itself, but not where a child has it open too.
                let _ = registry.deregister(&mut SourceFd(&fd));
            }
        }
        watch.reported = 0;
        for direction in [Direction::Readable, Direction::Writable] {
            self.end_all_for(fd, direction);
        }
    }

    /// Which report for `fd` was the last; `None` before the first, and where it said that no more
    /// will come.
    pub(super) fn last_report(&self, fd: RawFd) -> Option<u64> {
        let watch = self.watches.get(index(fd))?;
        (watch.interests.is_some() && watch.reported > 0 && !watch.is_read_closed)
            .then_some(watch.reported)
    }

    /// Makes sure that the poll object reports when `fd` becomes what is waited for.
    fn watch(&mut self, fd: RawFd, direction: Direction) -> io::Result<()> {
        let place = index(fd);
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        if self.watches.len() <= place {
            self.watches.resize_with(place + 1, Watch::default);
        }
        let Some((_, registry)) = &self.registry else { return Ok(()) };
        let watch = &mut self.watches[place];
        let wanted = match direction {
            // Every new descriptor is writable, which nobody wants to be told.
            Direction::Readable => Interest::READABLE,
            Direction::Writable => Interest::READABLE | Interest::WRITABLE,
        };
        let (source, token) = (&mut SourceFd(&fd), Occurrence::token(fd));
        match watch.interests {
            Some(interests) if interests.is_writable() || interests == wanted => return Ok(()),
            Some(_) => registry.reregister(source, token, wanted)?,
            None => match registry.register(source, token, wanted) {
                // A former descriptor of this number lives on elsewhere.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    registry.reregister(source, token, wanted)?;
                }
                outcome => outcome?,
            },
        }
        watch.interests = Some(wanted);
        Ok(())
    }

    /// Notes what the poll object has reported, and ends the waits for it.
    pub(super) fn occurred(&mut self, occurrence: Occurrence) {
        self.reports += 1;
        let number = self.reports;
        let Some(watch) = self.watches.get_mut(index(occurrence.fd)) else { return };
        watch.reported = number;
        watch.is_read_closed = occurrence.is_read_closed;
        if occurrence.is_readable {
            self.end_all_for(occurrence.fd, Direction::Readable);
        }
        if occurrence.is_writable {
            self.end_all_for(occurrence.fd, Direction::Writable);
        }
    }

    fn end_all_for(&mut self, fd: RawFd, direction: Direction) {
        while let Some(wait) = self.watches[index(fd)].waits(direction).pop() {
            self.end(wait, Outcome::Ready);
        }
    }

    /// Ends one wait, if it has not ended.
    pub(super) fn end(&mut self, wait: WaitId, outcome: Outcome) {
        let Some(waiting) = self.waiting.get_mut(&wait) else { return };
        waiting.leave_lists(wait, &mut self.timers, &mut self.watches);
        if let Some(who) = waiting.who.take() {
            waiting.outcome = Some(outcome);
            self.over.push_back(who);
        }
    }
}

impl Waiting {
    /// Takes the wait out of the lists by which its end would be noticed.
    fn leave_lists(
        &mut self,
        wait: WaitId,
        timers: &mut BTreeSet<(Instant, WaitId)>,
        watches: &mut [Watch],
    ) {
        if let Some(deadline) = self.deadline.take() {
            timers.remove(&(deadline, wait));
        }
        if let Some((fd, direction)) = self.for_what.take() {
            watches[index(fd)].waits(direction).retain(|other| *other != wait);
        }
    }
}

impl Watch {
    fn waits(&mut self, direction: Direction) -> &mut Vec<WaitId> {
        match direction {
            Direction::Readable => &mut self.readers,
            Direction::Writable => &mut self.writers,
        }
    }
}

fn index(fd: RawFd) -> usize {
    usize::try_from(fd).unwrap_or(usize::MAX)
}
