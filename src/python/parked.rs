//! Connections whose clients have sent nothing yet, and that nothing runs for.
//!
//! They are registered with the loop's own poll object until their clients speak, or leave.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use pyo3::prelude::*;

use super::ledger::{Entered, Ledger, State, Ticket};
use super::socket;
use crate::event_loop::{Occurrence, Selector};
use crate::wait::{Blocking, Wait};

/// The parked connections of one loop.
#[derive(Debug, Default)]
pub(super) struct Parked<'py> {
    /// That of the loop's poll object, and its number, once there is one to wait.
    registry: Option<(u64, Registry)>,
    /// By age.
    waiting: BTreeMap<u64, Waiting<'py>>,
    by_descriptor: HashMap<RawFd, u64>,
    /// Until when they wait, of those that do not wait for ever.
    deadlines: BTreeSet<(Instant, u64)>,
    /// Those that have something to read.
    ripe: VecDeque<Waiting<'py>>,
    last: u64,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Waiting<'py> {
    fd: RawFd,
    request: Bound<'py, PyAny>,
    client_address: Bound<'py, PyAny>,
    ticket: Ticket,
    deadline: Option<Instant>,
}

impl<'py> Parked<'py> {
    /// Has the connections wait for what `selector` reports; says how long that may take. Those that
    /// cannot are handled as if they had spoken.
    ///
    /// It takes a descriptor, which a server that parks none can do without.
    pub(super) fn attach(&mut self, selector: &Selector) -> Option<Duration> {
        let is_attached = self.registry.as_ref().is_some_and(|(id, _)| *id == selector.id());
        if self.waiting.is_empty() || is_attached {
            return self.timeout();
        }
        self.registry = selector.registry().ok().map(|registry| (selector.id(), registry));
        let is_registered = |waiting: &Waiting<'_>| {
            let registry = self.registry.as_ref();
            registry.is_some_and(|(_, registry)| register(registry, waiting.fd).is_ok())
        };
        let others = self.waiting.iter().filter(|(_, waiting)| !is_registered(waiting));
        let others: Vec<_> = others.map(|(&number, _)| number).collect();
        for &number in &others {
            let waiting = self.take(number);
            self.ripe.extend(waiting);
        }
        if others.is_empty() { self.timeout() } else { Some(Duration::ZERO) }
    }

    /// Has a connection with nothing to read wait for its client, for so long; `false` where it cannot.
    pub(super) fn park(
        &mut self,
        fd: RawFd,
        request: &Bound<'py, PyAny>,
        client_address: &Bound<'py, PyAny>,
        ledger: &Arc<Ledger>,
        patience: Option<Duration>,
    ) -> bool {
        if let Some(&former) = self.by_descriptor.get(&fd) {
            // The program has closed it by itself.
            drop(self.take(former));
        }
        if let Some((_, registry)) = &self.registry {
            if register(registry, fd).is_err() {
                return false;
            }
        }
        let ticket = ledger.claim(request, client_address);
        ticket.set_state(State::Parked);
        self.last += 1;
        let waiting = Waiting {
            fd,
            request: request.clone(),
            client_address: client_address.clone(),
            ticket,
            deadline: patience.and_then(|patience| Instant::now().checked_add(patience)),
        };
        self.deadlines.extend(waiting.deadline.map(|deadline| (deadline, self.last)));
        self.waiting.insert(self.last, waiting);
        self.by_descriptor.insert(fd, self.last);
        true
    }

    /// Notes which clients have spoken, or left.
    pub(super) fn note(&mut self, occurrences: impl Iterator<Item = Occurrence>) {
        for Occurrence { fd, .. } in occurrences {
            let number = self.by_descriptor.get(&fd).copied();
            let ripe = number.and_then(|number| self.take(number));
            self.ripe.extend(ripe);
        }
    }

    /// Takes one that has something to read.
    pub(super) fn pop_ripe(&mut self) -> Option<Waiting<'py>> {
        self.ripe.pop_front()
    }

    /// Whether one has something to read.
    pub(super) fn has_ripe(&self) -> bool {
        !self.ripe.is_empty()
    }

    /// Takes one that has waited for too long.
    pub(super) fn pop_overdue(&mut self) -> Option<Waiting<'py>> {
        while let Some(&(deadline, number)) = self.deadlines.first() {
            if deadline > Instant::now() {
                break;
            }
            let silent = self.take_silent(number);
            if silent.is_some() {
                return silent;
            }
        }
        None
    }

    /// How long it takes until the next one has waited for too long.
    fn timeout(&self) -> Option<Duration> {
        let (deadline, _) = self.deadlines.first()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.ripe.is_empty()
    }

    /// Takes one, those with something to read first.
    pub(super) fn pop_any(&mut self) -> Option<Waiting<'py>> {
        self.pop_ripe().or_else(|| self.pop_silent()).or_else(|| self.pop_ripe())
    }

    /// Takes the one that has been silent for longest.
    pub(super) fn pop_silent(&mut self) -> Option<Waiting<'py>> {
        while let Some((&number, _)) = self.waiting.first_key_value() {
            let silent = self.take_silent(number);
            if silent.is_some() {
                return silent;
            }
        }
        None
    }

    /// Takes one unless it has something to read, which nobody has reported yet: then it is ripe.
    fn take_silent(&mut self, number: u64) -> Option<Waiting<'py>> {
        let waiting = self.take(number)?;
        if waiting.is_ripe() {
            self.ripe.push_back(waiting);
            return None;
        }
        Some(waiting)
    }

    fn take(&mut self, number: u64) -> Option<Waiting<'py>> {
        let waiting = self.waiting.remove(&number)?;
        self.by_descriptor.remove(&waiting.fd);
        if let Some(deadline) = waiting.deadline {
            self.deadlines.remove(&(deadline, number));
        }
        if let Some((_, registry)) = self.registry.as_ref().filter(|_| waiting.is_open()) {
            let _ = registry.deregister(&mut SourceFd(&waiting.fd));
        }
        Some(waiting)
    }
}

impl<'py> Waiting<'py> {
    pub(super) fn request(&self) -> &Bound<'py, PyAny> {
        &self.request
    }

    /// Whether its descriptor is still its own: the number of one that is closed may be another's.
    fn is_open(&self) -> bool {
        socket::descriptor(&self.request) == Some(self.fd)
    }

    /// Whether there is something to read, or the client has left.
    pub(super) fn is_ripe(&self) -> bool {
        self.is_open() && is_readable(self.fd)
    }

    /// Says that it is not parked any more; it has yet to be processed.
    pub(super) fn begin(self) -> (Bound<'py, PyAny>, Bound<'py, PyAny>, Entered) {
        self.ticket.set_state(State::Handling);
        (self.request, self.client_address, self.ticket.give_back())
    }

    /// Notes that it will never be handled.
    pub(super) fn fail(&self) {
        self.ticket.fail();
    }

    /// Notes that it has to go for another.
    pub(super) fn refuse(&self) {
        self.ticket.refuse();
    }
}

/// The descriptor of a connection whose client has sent nothing yet, and has not left.
pub(super) fn silent_descriptor(request: &Bound<'_, PyAny>) -> Option<RawFd> {
    socket::descriptor(request).filter(|&fd| !is_readable(fd))
}

fn is_readable(fd: RawFd) -> bool {
    Blocking.readable(fd, Some(Duration::ZERO)).unwrap_or(true)
}

fn register(registry: &Registry, fd: RawFd) -> io::Result<()> {
    registry.register(&mut SourceFd(&fd), Occurrence::token(fd), Interest::READABLE)
}
