//! Receiving from and sending to a `socket.socket`, the lock held as long as nothing has to be waited
//! for.

use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::deadlines;
use super::error::{Raised, client_timeout};
use super::in_table::{self, InTable, Switching};
use super::interpreter::wait_in_turn;
use super::socket;
use crate::sys::{self, Flow, Room};
use crate::wait::{Blocking, Direction, Wait};

/// From here on, copying takes so long that other threads may run meanwhile.
const LARGE: usize = 1 << 16;

/// A plain socket, whose own methods need not be asked.
///
/// Its descriptor and its timeout are looked up for each call: both may have changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection<'a, 'py>(pub(super) &'a Bound<'py, PyAny>);

impl Connection<'_, '_> {
    /// Receives into `room`: how many bytes, 0 at the end of the stream; `None` where the socket
    /// does not block and there is nothing.
    ///
    /// # Errors
    ///
    /// `TimeoutError` after the socket's timeout, and what `recv(2)` reports.
    ///
    /// `habit` is that of the connection; see there.
    pub(super) fn receive(
        self,
        room: &mut Room<'_>,
        habit: &Habit,
    ) -> Result<Option<usize>, Raised> {
        self.check_time()?;
        self.take_turns()?;
        let wanted = room.left();
        let try_first = wanted < LARGE && !habit.is_behind.load(Ordering::Relaxed);
        if try_first {
            match sys::receive(self.fileno()?, room, Flow::Try) {
                Err(error) if is_not_yet(&error) => habit.is_behind.store(true, Ordering::Relaxed),
                outcome => return Ok(Some(outcome?)),
            }
        }
        let deadline = self.deadline(Direction::Readable)?;
        let received = self.wait_and(deadline, !try_first, Direction::Readable, |fd, flow| {
            sys::receive(fd, room, flow)
        })?;
        if received == Some(wanted) {
            habit.is_behind.store(false, Ordering::Relaxed);
        }
        Ok(received)
    }

    /// Receives into `room` until it is full or the stream has ended: how many bytes.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive); those of the system only before the first byte.
    pub(super) fn receive_whole(self, room: &mut Room<'_>) -> Result<Option<usize>, Raised> {
        let (habit, mut length) = (Habit::default(), 0);
        while room.left() > 0 {
            match self.receive(room, &habit) {
                Ok(Some(received @ 1..)) => length += received,
                Ok(None) if length == 0 => return Ok(None),
                Err(Raised::System(_)) if length > 0 => break,
                outcome => return outcome.map(|_| Some(length)),
            }
        }
        Ok(Some(length))
    }

    /// Whether calls wait for as long as it takes.
    pub(super) fn waits_for_good(self) -> PyResult<bool> {
        Ok(matches!(self.deadline(Direction::Readable)?, Deadline::Never))
    }

    /// Receives into `room` what is there, for a caller who then waits without it: where requests
    /// wait on one stack, each takes a copy of its part of it along.
    ///
    /// # Errors
    ///
    /// What `recv(2)` reports.
    pub(super) fn try_receive(
        self,
        table: &InTable,
        room: &mut Room<'_>,
        habit: &Habit,
    ) -> Result<Tried, Raised> {
        self.check_time()?;
        table.take_turns(self.0.py())?;
        let fd = self.fileno()?;
        let report = table.last_report(fd).unwrap_or_default();
        if report == 0 || habit.emptied_at.load(Ordering::Relaxed) != report {
            let wanted = room.left();
            match sys::receive(fd, room, Flow::Try) {
                Err(error) if is_not_yet(&error) => {}
                outcome => {
                    let length = outcome?;
                    // Then it has emptied the kernel's buffer, and what comes will be reported:
                    // epoll(7) says so of streams.
                    let emptied_at = if length < wanted { report } else { 0 };
                    habit.emptied_at.store(emptied_at, Ordering::Relaxed);
                    return Ok(Tried::Received(Some(length)));
                }
            }
        }
        Ok(match self.deadline(Direction::Readable)? {
            Deadline::Now => Tried::Received(None),
            deadline => Tried::NotYet(NotYet { fd, deadline }),
        })
    }

    /// Waits, in the table, until there may be more to receive.
    ///
    /// # Errors
    ///
    /// `TimeoutError` after the socket's timeout.
    pub(super) fn await_more(self, table: &InTable, not_yet: NotYet) -> Result<(), Raised> {
        let NotYet { fd, deadline } = not_yet;
        self.wait_in_table(table, fd, deadline, Direction::Readable).map(drop)
    }

    /// Waits, in the table, until the socket is what `direction` says; `false` where it does not
    /// block.
    ///
    /// # Errors
    ///
    /// `TimeoutError` after the socket's timeout.
    pub(super) fn await_ready(self, table: &InTable, direction: Direction) -> Result<bool, Raised> {
        let (fd, deadline) = (self.fileno()?, self.deadline(direction)?);
        // The table is told of changes only, and there may be something already.
        if Blocking.wait(fd, direction, Some(Duration::ZERO))? {
            return Ok(true);
        }
        self.wait_in_table(table, fd, deadline, direction)
    }

    /// Sends from `data`: how many bytes; `None` where the socket does not block and there is no room.
    ///
    /// # Errors
    ///
    /// `TimeoutError` after the socket's timeout, and what `send(2)` reports.
    pub(super) fn send(self, data: &[u8]) -> Result<Option<usize>, Raised> {
        self.send_until(data, self.deadline(Direction::Writable)?)
    }

    /// Sends all of `data` before the socket's timeout is over; `false` where the socket does not
    /// block and there is no room for the rest.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); how much has been sent is not known then.
    pub(super) fn send_all(self, data: &[u8]) -> Result<bool, Raised> {
        // Most answers fit into the kernel's buffer, and then nothing needs to be known of timeouts.
        self.check_time()?;
        self.take_turns()?;
        let mut sent = 0;
        if data.len() < LARGE {
            match sys::send(self.fileno()?, data, Flow::Try) {
                Ok(length) if length == data.len() => return Ok(true),
                Ok(length) => sent = length,
                Err(error) if is_not_yet(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let own = self.own_deadline()?;
        while sent < data.len() {
            // The request's own begins anew when the client has taken something.
            let deadline = own.limited(deadlines::next(self.fileno()?, Direction::Writable));
            match self.send_until(&data[sent..], deadline)? {
                Some(length) => sent += length,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Sends from `data` what there is room for.
    ///
    /// # Errors
    ///
    /// What `send(2)` reports.
    pub(super) fn try_send(self, data: &[u8]) -> Result<Option<usize>, Raised> {
        self.send_until(data, Deadline::Now)
    }

    fn send_until(self, data: &[u8], deadline: Deadline) -> Result<Option<usize>, Raised> {
        // A signal makes a call that has sent a part of its bytes return, not fail.
        self.0.py().check_signals()?;
        self.check_time()?;
        let try_first = data.len() < LARGE;
        if try_first {
            match sys::send(self.fileno()?, data, Flow::Try) {
                Err(error) if is_not_yet(&error) => {}
                outcome => return Ok(Some(outcome?)),
            }
        }
        self.wait_and(deadline, !try_first, Direction::Writable, |fd, flow| {
            sys::send(fd, data, flow)
        })
    }

    /// Makes `call` without the lock, when it would not block; at once too if it is `untried`.
    fn wait_and(
        self,
        deadline: Deadline,
        untried: bool,
        direction: Direction,
        mut call: impl FnMut(RawFd, Flow) -> io::Result<usize> + Send,
    ) -> Result<Option<usize>, Raised> {
        if let Some(table) = in_table::current() {
            return self.wait_in_table_and(&table, deadline, untried, direction, call);
        }
        loop {
            let fd = self.fileno()?;
            let outcome = wait_in_turn(self.0.py(), || match deadline {
                Deadline::Now => call(fd, Flow::Try),
                // The call itself waits: one system call less.
                Deadline::Never => call(fd, Flow::Wait),
                Deadline::At(end) => {
                    if untried {
                        match call(fd, Flow::Try) {
                            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                            outcome => return outcome,
                        }
                    }
                    let left = end.saturating_duration_since(Instant::now());
                    if Blocking.wait(fd, direction, Some(left))? {
                        call(fd, Flow::Try)
                    } else {
                        Err(ErrorKind::TimedOut.into())
                    }
                }
            });
            match outcome {
                Ok(Some(length)) => return Ok(Some(length)),
                // A signal's handler has run; on with it.
                Ok(None) => {}
                Err(Raised::System(error)) if error.kind() == ErrorKind::WouldBlock => {
                    if !matches!(deadline, Deadline::At(_)) {
                        return Ok(None);
                    }
                }
                Err(Raised::System(error))
                    if error.kind() == ErrorKind::TimedOut && error.raw_os_error().is_none() =>
                {
                    return Err(self.waited_in_vain(fd, direction));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn wait_in_table_and(
        self,
        table: &InTable,
        deadline: Deadline,
        untried: bool,
        direction: Direction,
        mut call: impl FnMut(RawFd, Flow) -> io::Result<usize>,
    ) -> Result<Option<usize>, Raised> {
        let mut may_be_ready = untried;
        loop {
            if may_be_ready {
                match call(self.fileno()?, Flow::Try) {
                    Err(error) if is_not_yet(&error) => {}
                    outcome => return Ok(Some(outcome?)),
                }
            }
            may_be_ready = self.wait_in_table(table, self.fileno()?, deadline, direction)?;
            if !may_be_ready {
                return Ok(None);
            }
        }
    }

    /// Waits in the table; `false` where the socket does not block.
    fn wait_in_table(
        self,
        table: &InTable,
        fd: RawFd,
        deadline: Deadline,
        direction: Direction,
    ) -> Result<bool, Raised> {
        let limit = match deadline {
            Deadline::Now => return Ok(false),
            Deadline::Never => None,
            Deadline::At(end) => Some(end.saturating_duration_since(Instant::now())),
        };
        if Switching(table, self.0.py()).wait(fd, direction, limit)? {
            Ok(true)
        } else {
            Err(self.waited_in_vain(fd, direction))
        }
    }

    /// In a table, lets others run if the request has had its turn.
    fn take_turns(self) -> Result<(), Raised> {
        match in_table::current() {
            Some(table) => table.take_turns(self.0.py()),
            None => Ok(()),
        }
    }

    /// Fails where the time that the request has is over.
    fn check_time(self) -> Result<(), Raised> {
        if deadlines::is_any() && deadlines::is_over(self.fileno()?) {
            return Err(self.timed_out());
        }
        Ok(())
    }

    /// The error of a wait for `fd` that was too long.
    fn waited_in_vain(self, fd: RawFd, direction: Direction) -> Raised {
        if direction == Direction::Writable {
            deadlines::note_stuck(fd);
        }
        self.timed_out()
    }

    // Not part of the frame of a handler that waits in a greenlet.
    #[inline(never)]
    fn timed_out(self) -> Raised {
        client_timeout(self.0.py(), "timed out")
            .map_or_else(|error| error, |error| PyErr::from_value(error.into_any()))
            .into()
    }

    pub(super) fn fileno(self) -> PyResult<RawFd> {
        socket::fileno(self.0)
    }

    /// When the socket's timeout, as it is now, will be over, or the time that the request has.
    fn deadline(self, direction: Direction) -> PyResult<Deadline> {
        Ok(self.own_deadline()?.limited(deadlines::next(self.fileno()?, direction)))
    }

    /// When the socket's timeout, as it is now, will be over.
    fn own_deadline(self) -> PyResult<Deadline> {
        Ok(match socket::gettimeout(self.0)? {
            None => Deadline::Never,
            Some(0.0) => Deadline::Now,
            Some(seconds) => Duration::try_from_secs_f64(seconds)
                .ok()
                .and_then(|timeout| Instant::now().checked_add(timeout))
                .map_or(Deadline::Never, Deadline::At),
        })
    }
}

/// What is known of a connection from the last time that it was received from.
#[derive(Debug, Default)]
pub(super) struct Habit {
    /// The last try found nothing. A client that waits for each answer has sent nothing yet when it
    /// is asked for more; there, trying first is a system call in vain. Who fills the whole buffer
    /// may have sent more.
    is_behind: AtomicBool,
    /// The kernel's buffer has been emptied since this report of the table's, 0 for none.
    emptied_at: AtomicU64,
}

/// What has come of trying to receive.
#[derive(Debug)]
pub(super) enum Tried {
    /// So many bytes; `None` where the socket does not block and there is nothing.
    Received(Option<usize>),
    NotYet(NotYet),
}

/// What must be waited for before it is worth trying again.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotYet {
    fd: RawFd,
    deadline: Deadline,
}

/// Until when a call may block.
#[derive(Clone, Copy, Debug)]
enum Deadline {
    Now,
    At(Instant),
    Never,
}

impl Deadline {
    /// No later than `limit`.
    fn limited(self, limit: Option<Instant>) -> Self {
        match (self, limit) {
            (Self::Never, Some(limit)) => Self::At(limit),
            (Self::At(own), Some(limit)) => Self::At(own.min(limit)),
            (own, _) => own,
        }
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
