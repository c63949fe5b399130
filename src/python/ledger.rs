//! The requests that a server has taken and that are not over.
//!
//! ```text
//! enter            the loop has taken a request
//!   claim          who runs it takes charge of its entry: a thread, a greenlet, a child, the loop itself
//!   settle         nobody has: it is over, or in the hands of the program
//! ```
//!
//! What `stats()` and `connections()` tell, what the limits count, and what a drain waits for is here.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyWeakrefMethods, PyWeakrefReference};

use super::socket;
pub(super) use crate::control::Taken as Kind;
use crate::control::{Control, Limits, Outcome, Place};
use crate::stats::Stats;
use crate::sys;
use crate::waker::Waker;

/// The requests of one server, in one process.
#[derive(Debug)]
pub(super) struct Ledger {
    control: Arc<Control>,
    book: Mutex<Book>,
    generation: u32,
}

#[derive(Debug, Default)]
struct Book {
    /// By the identity of the request, which the entry keeps alive.
    entries: BTreeMap<Key, Entry>,
    /// How many connections each client has, where that is limited.
    clients: HashMap<String, usize>,
    /// How many entries nobody is in charge of whom the core knows.
    loose: usize,
    /// At how many of them they are looked at next.
    sweep_at: usize,
    /// Those that their hooks are being called for, the last one at the end.
    passing: Vec<Passing>,
    /// The requests that child processes handle, by the child.
    children: HashMap<i32, Ticket>,
    /// Since when no request is taken though some may be waiting.
    closed_since: Option<Instant>,
}

/// At how many entries they are looked at first that nobody is in charge of.
const FEW: usize = 64;

/// How many entries, of all ledgers, count for a client.
static COUNTED: AtomicUsize = AtomicUsize::new(0);

/// The address of a request, which is even; or twice the number of one whose object has an entry
/// already, and one.
type Key = u64;

#[derive(Debug)]
struct Entry {
    place: Place,
    kind: Kind,
    request: Request,
    client_address: Py<PyAny>,
    client: Option<String>,
    since: Instant,
    state: State,
    /// What has gone wrong, if anything has.
    trouble: Option<Trouble>,
    is_claimed: bool,
}

#[derive(Debug)]
enum Request {
    Held(Py<PyAny>),
    /// A program's own: it is not kept alive for being in the ledger.
    Loose(Py<PyWeakrefReference>),
}

impl Entry {
    /// Whether the program has let go of the request, and another object may have its address.
    fn is_gone(&self, py: Python<'_>) -> bool {
        matches!(&self.request, Request::Loose(request) if request.bind(py).upgrade().is_none())
    }
}

impl Request {
    fn get(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match self {
            Self::Held(request) => Some(request.clone_ref(py)),
            Self::Loose(request) => request.bind(py).upgrade().map(Bound::unbind),
        }
    }
}

/// A request whose hooks are being called, and that nobody has claimed.
#[derive(Debug)]
struct Passing {
    key: Key,
    number: u64,
    thread: ThreadId,
}

/// Why a request is none of those that were handled well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Its handler has raised, or never got to run.
    Failed,
    /// It was not to be handled.
    Refused,
}

/// What is being done about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It waits for a thread.
    Queued,
    /// It waits for its client's first bytes, and nothing runs for it.
    Parked,
    /// Its TLS handshake is being done.
    Handshake,
    Handling,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Parked => "parked",
            Self::Handshake => "handshake",
            Self::Handling => "handling",
        }
    }
}

/// One request, as `connections()` tells of it.
pub(super) type Line = (Py<PyAny>, f64, &'static str, Option<Py<PyAny>>);

impl Ledger {
    /// An empty one; `waker` reaches the loop of the server.
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        let control = Arc::new(Control::with_waker(waker));
        Self { control, book: Mutex::default(), generation: sys::generation() }
    }

    /// Whether it was made in this process.
    pub(super) fn is_own(&self) -> bool {
        self.generation == sys::generation()
    }

    pub(super) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Notes a request that has been taken; `client` where a limit counts its connections.
    pub(super) fn enter(
        self: &Arc<Self>,
        kind: Kind,
        request: &Bound<'_, PyAny>,
        client_address: &Bound<'_, PyAny>,
        client: Option<String>,
    ) -> Entered {
        let place = self.control.enter(kind, None);
        let number = place.number();
        let mut book = self.book();
        if book.entries.contains_key(&identity(request)) {
            drop(book);
            self.close_former(request);
            book = self.book();
        }
        if let Some(client) = &client {
            *book.clients.entry(client.clone()).or_default() += 1;
            COUNTED.fetch_add(1, Ordering::Relaxed);
        }
        let key = book.free_key(request, number);
        let entry = Entry {
            place,
            kind,
            request: Request::Held(request.clone().unbind()),
            client_address: client_address.clone().unbind(),
            client,
            since: Instant::now(),
            state: State::Handling,
            trouble: None,
            is_claimed: false,
        };
        book.entries.insert(key, entry);
        book.pass_on(key, number);
        Entered { ledger: Arc::clone(self), key, number }
    }

    /// Takes charge of a request, which is entered now if it has not been. One that is put in place of
    /// that which this thread passes on has that one's entry.
    pub(super) fn claim(
        self: &Arc<Self>,
        request: &Bound<'_, PyAny>,
        client_address: &Bound<'_, PyAny>,
    ) -> Ticket {
        if let Some(ticket) = self.claim_at(identity(request), request) {
            return ticket;
        }
        self.close_former(request);
        let key = self.book().put_in_place(request, client_address);
        if let Some(ticket) = key.and_then(|key| self.claim_at(key, request)) {
            return ticket;
        }
        let Entered { key, number, .. } =
            self.enter(Kind::of(request), request, client_address, None);
        let ticket = self.claim_at(key, request);
        ticket.unwrap_or(Ticket { ledger: Arc::clone(self), key, number, is_spent: false })
    }

    fn claim_at(self: &Arc<Self>, key: Key, request: &Bound<'_, PyAny>) -> Option<Ticket> {
        let py = request.py();
        let mut book = self.book();
        let entry = book.entries.get_mut(&key);
        let entry = entry.filter(|entry| !entry.is_claimed && !entry.is_gone(py))?;
        entry.is_claimed = true;
        let number = entry.place.number();
        let held = Request::Held(request.clone().unbind());
        let former = std::mem::replace(&mut entry.request, held);
        if let Request::Loose(_) = former {
            book.loose -= 1;
        }
        book.end_passing(number);
        drop(book);
        drop(former);
        Some(Ticket { ledger: Arc::clone(self), key, number, is_spent: false })
    }

    /// Notes that the request has failed, if it is here.
    pub(super) fn fail(&self, request: &Bound<'_, PyAny>) {
        self.note(request, |entry| entry.trouble = Some(Trouble::Failed));
    }

    /// Notes that the request is not to be handled.
    pub(super) fn refuse(&self, request: &Bound<'_, PyAny>) {
        self.note(request, |entry| entry.trouble = Some(Trouble::Refused));
    }

    /// Notes what is being done about the request.
    pub(super) fn set_state(&self, request: &Bound<'_, PyAny>, state: State) {
        self.note(request, |entry| entry.state = state);
    }

    fn note(&self, request: &Bound<'_, PyAny>, note: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.book().find(request) {
            note(entry);
        }
    }

    /// Leaves the request to a child process until [`child_ended`](Self::child_ended).
    pub(super) fn follow(&self, pid: i32, ticket: Ticket) {
        let former = self.book().children.insert(pid, ticket);
        drop(former);
    }

    /// Says that a child has ended, and whether its request has failed.
    pub(super) fn child_ended(&self, pid: i32, has_failed: bool) {
        let Some(ticket) = self.book().children.remove(&pid) else { return };
        if has_failed {
            ticket.fail();
        }
    }

    /// Whether `client` has at least so many connections.
    pub(super) fn has(&self, py: Python<'_>, client: &str, connections: usize) -> bool {
        let has = || self.book().clients.get(client).is_some_and(|&count| count >= connections);
        has() && (self.sweep_of(py, Some(client)) == 0 || has())
    }

    /// Notes that the client of a request is about to see its end, and may come again.
    pub(super) fn forget_client(&self, request: &Bound<'_, PyAny>) {
        let mut book = self.book();
        let client = book.find(request).and_then(|entry| entry.client.take());
        book.leave(client);
    }

    /// Whether another request may be taken. If not, those that nobody has said to be over are looked
    /// at, and the answer is given anew.
    pub(super) fn admits(&self, py: Python<'_>, limits: Limits) -> bool {
        let admits = self.control.admits(limits)
            || (self.book().loose > 0 && self.sweep(py) > 0 && self.control.admits(limits));
        if admits {
            self.book().closed_since = None;
        } else {
            self.note_closed();
        }
        admits
    }

    /// Notes that no request is taken, though some may be waiting.
    pub(super) fn note_closed(&self) {
        self.book().closed_since.get_or_insert_with(Instant::now);
    }

    /// Whether the loop is told when any request is over.
    pub(super) fn tells(&self) -> bool {
        let book = self.book();
        book.loose == 0 && book.children.is_empty()
    }

    /// For how long no request has been taken though some may be waiting.
    pub(super) fn closed_for(&self) -> Option<Duration> {
        Some(self.book().closed_since?.elapsed())
    }

    /// How many requests are not over.
    pub(super) fn count_open(&self, py: Python<'_>) -> usize {
        self.sweep(py);
        self.control.state().open()
    }

    /// What the server has done so far.
    pub(super) fn stats(&self, py: Python<'_>) -> Stats {
        self.sweep(py);
        self.control.stats()
    }

    /// The connections that are not over, the oldest first.
    pub(super) fn lines(&self, py: Python<'_>) -> Vec<Line> {
        self.sweep(py);
        let book = self.book();
        let mut entries: Vec<_> = book.connections().collect();
        entries.sort_by_key(|entry| entry.place.number());
        let lines = entries.into_iter().map(|entry| {
            let request = entry.request.get(py);
            let age = entry.since.elapsed().as_secs_f64();
            (entry.client_address.clone_ref(py), age, entry.state.name(), request)
        });
        lines.collect()
    }

    /// Has the handler of each connection see its end; says how many requests there are.
    pub(super) fn end_all(&self, py: Python<'_>) -> usize {
        self.sweep(py);
        let (count, connections) = {
            let book = self.book();
            let requests = book.connections().filter_map(|entry| entry.request.get(py));
            (book.entries.len(), requests.collect::<Vec<_>>())
        };
        for request in &connections {
            socket::end(request.bind(py));
        }
        count
    }

    /// Notes that no request could be taken.
    pub(super) fn failed_to_take(&self, error: &io::Error) {
        self.control.failed_to_take(error);
    }

    /// Takes out the requests in the hands of the program, or of a child, that are over; says how many.
    fn sweep(&self, py: Python<'_>) -> usize {
        let count = self.sweep_of(py, None);
        let mut book = self.book();
        book.sweep_at = 2 * book.loose;
        count
    }

    /// The same, of one client's only if there is one.
    fn sweep_of(&self, py: Python<'_>, client: Option<&str>) -> usize {
        let (loose, children) = {
            let book = self.book();
            if book.loose == 0 && book.children.is_empty() {
                return 0;
            }
            let is_of = |entry: &Entry| client.is_none() || entry.client.as_deref() == client;
            let entries = book.entries.iter().filter(|(_, entry)| is_of(entry));
            let loose = entries.filter_map(|(&key, entry)| match &entry.request {
                Request::Loose(request) => Some((key, entry.place.number(), request.clone_ref(py))),
                Request::Held(_) => None,
            });
            (loose.collect::<Vec<_>>(), book.children.keys().copied().collect::<Vec<_>>())
        };
        let over = loose.into_iter().filter(|(_, _, request)| {
            request.bind(py).upgrade().is_none_or(|request| is_over(&request))
        });
        let ended = children.into_iter().filter_map(|pid| Some((pid, sys::how_child_ended(pid)?)));
        over.map(|(key, number, _)| self.close(key, number)).count()
            + ended.map(|(pid, is_well)| self.child_ended(pid, !is_well)).count()
    }

    /// Takes out a request that is gone, and whose address another has now.
    fn close_former(&self, request: &Bound<'_, PyAny>) {
        let key = identity(request);
        let entry = |book: &Book| {
            let entry = book.entries.get(&key).filter(|entry| entry.is_gone(request.py()));
            entry.map(|entry| entry.place.number())
        };
        let former = entry(&self.book());
        if let Some(number) = former {
            self.close(key, number);
        }
    }

    /// Takes an entry out.
    fn close(&self, key: Key, number: u64) {
        let mut book = self.book();
        if book.entries.get(&key).is_none_or(|entry| entry.place.number() != number) {
            return;
        }
        let Some(mut entry) = book.entries.remove(&key) else { return };
        if matches!(entry.request, Request::Loose(_)) {
            book.loose -= 1;
        }
        book.leave(entry.client.take());
        drop(book);
        // What goes with the entry may be the last of an object, and run a finalizer.
        match entry.trouble {
            None => entry.place.settle(Outcome::Finished),
            Some(Trouble::Failed) => entry.place.settle(Outcome::Failed),
            Some(Trouble::Refused) => entry.place.refuse(),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// The entry of a request, if it has one under its own address.
    fn find(&mut self, request: &Bound<'_, PyAny>) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&identity(request));
        entry.filter(|entry| !entry.is_gone(request.py()))
    }

    fn connections(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(|entry| entry.kind == Kind::Connection)
    }

    /// The key of a request that is new here.
    fn free_key(&self, request: &Bound<'_, PyAny>, number: u64) -> Key {
        let key = identity(request);
        if self.entries.contains_key(&key) { 2 * number + 1 } else { key }
    }

    /// Notes that this thread is calling the hooks for a request.
    fn pass_on(&mut self, key: Key, number: u64) {
        self.passing.push(Passing { key, number, thread: thread::current().id() });
    }

    /// Notes that it has been claimed, or that the hooks have been called.
    fn end_passing(&mut self, number: u64) {
        self.passing.retain(|passing| passing.number != number);
    }

    /// Puts `request` in place of the one that this thread passes on, of this client if it passes on
    /// several; says where its entry is now.
    fn put_in_place(
        &mut self,
        request: &Bound<'_, PyAny>,
        client_address: &Bound<'_, PyAny>,
    ) -> Option<Key> {
        let thread = thread::current().id();
        let is_of_client = |passing: &&Passing| {
            let entry = self.entries.get(&passing.key);
            entry.is_some_and(|entry| entry.client_address.is(client_address))
        };
        let mut here = self.passing.iter().rev().filter(|passing| passing.thread == thread);
        let passing = here.clone().find(is_of_client).or_else(|| here.next())?;
        let (former, number) = (passing.key, passing.number);
        if self.entries.get(&former)?.place.number() != number {
            return None;
        }
        let entry = self.entries.remove(&former)?;
        let key = self.free_key(request, number);
        self.entries.insert(key, entry);
        Some(key)
    }

    /// Counts a connection of `client` no more.
    fn leave(&mut self, client: Option<String>) {
        let Some(client) = client else { return };
        COUNTED.fetch_sub(1, Ordering::Relaxed);
        let left = self.clients.get_mut(&client).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            self.clients.remove(&client);
        }
    }
}

/// Whether any server counts its clients' connections.
pub(super) fn counts_clients() -> bool {
    COUNTED.load(Ordering::Relaxed) > 0
}

/// A request that has been taken, and that nobody may have claimed.
#[derive(Debug)]
pub(super) struct Entered {
    ledger: Arc<Ledger>,
    key: Key,
    number: u64,
}

impl Entered {
    /// Finds out what has become of the request, when the hooks have been called.
    pub(super) fn settle(self, py: Python<'_>) {
        let request = {
            let mut book = self.ledger.book();
            book.end_passing(self.number);
            let entry = book.entries.get(&self.key);
            match entry.filter(|entry| entry.place.number() == self.number && !entry.is_claimed) {
                Some(Entry {
                    request: Request::Held(request),
                    kind: Kind::Connection,
                    trouble: None,
                    ..
                }) => Some(request.clone_ref(py)),
                Some(_) => None,
                None => return,
            }
        };
        let loose = request.filter(|request| !is_over(request.bind(py))).and_then(|request| {
            // What cannot be asked whether it is over is taken to be.
            PyWeakrefReference::new(request.bind(py)).ok()
        });
        let Some(loose) = loose else { return self.ledger.close(self.key, self.number) };
        let mut book = self.ledger.book();
        let former = book
            .entries
            .get_mut(&self.key)
            .map(|entry| std::mem::replace(&mut entry.request, Request::Loose(loose.unbind())));
        book.loose += usize::from(former.is_some());
        let is_due = book.loose >= book.sweep_at.max(FEW);
        drop(book);
        drop(former);
        if is_due {
            self.ledger.sweep(py);
        }
    }
}

/// The charge of a request, which is over when this is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    ledger: Arc<Ledger>,
    key: Key,
    number: u64,
    /// Whether another may claim the request.
    is_spent: bool,
}

impl Ticket {
    /// Notes that the request has failed.
    pub(super) fn fail(&self) {
        self.note(|entry| entry.trouble = Some(Trouble::Failed));
    }

    /// Notes that it is not to be handled.
    pub(super) fn refuse(&self) {
        self.note(|entry| entry.trouble = Some(Trouble::Refused));
    }

    pub(super) fn set_state(&self, state: State) {
        self.note(|entry| {
            entry.state = state;
            match state {
                State::Parked => entry.place.park(),
                _ => entry.place.unpark(),
            }
        });
    }

    /// Gives the charge back, for another to claim it.
    pub(super) fn give_back(mut self) -> Entered {
        self.note(|entry| entry.is_claimed = false);
        self.ledger.book().pass_on(self.key, self.number);
        self.is_spent = true;
        Entered { ledger: Arc::clone(&self.ledger), key: self.key, number: self.number }
    }

    fn note(&self, note: impl FnOnce(&mut Entry)) {
        let mut book = self.ledger.book();
        let entry = book.entries.get_mut(&self.key);
        if let Some(entry) = entry.filter(|entry| entry.place.number() == self.number) {
            note(entry);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // In a forked child, the ledger is its parent's.
        if !self.is_spent && self.ledger.is_own() {
            self.ledger.close(self.key, self.number);
        }
    }
}

fn identity(request: &Bound<'_, PyAny>) -> Key {
    request.as_ptr().addr() as Key
}

impl Kind {
    /// A datagram is a pair; a connection is not.
    pub(super) fn of(request: &Bound<'_, PyAny>) -> Self {
        if request.is_instance_of::<PyTuple>() {
            Self::Datagram { truncated: false }
        } else {
            Self::Connection
        }
    }
}

/// Whether nothing is left of a connection: it is closed, or nothing that can be open. One that the
/// program has detached goes on, as far as anybody can tell, as long as its object lives.
fn is_over(request: &Bound<'_, PyAny>) -> bool {
    socket::descriptor(request).is_none() && !socket::is_detached(request)
}
