//! The poll loop: wait, ask the service, stop, back off.
//!
//! ```text
//! run
//!     Service::source        which descriptor; none ends the loop
//!     Service::stopping      ends it too, before the wait and after it
//!     Service::admission     whether a request may be taken, before the wait and after it
//!     Service::select        wait, unless the listener is known to be readable still
//!     Service::ready         one request; says whether more may be waiting
//!     Service::waited        after every wait, idle ones included
//! ```
//!
//! mio is edge-triggered: it tells once that a listener became readable. The loop therefore takes it
//! for readable until its service has seen it empty, and asks the kernel anew where only somebody
//! else could have seen that.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::accept_failure::AcceptFailure;
use crate::sys;
use crate::waker::{Attachment, Waker};

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// Other descriptors have their number, counted from here, as their token.
#[cfg(feature = "python")]
const OTHERS: usize = 2;

/// What a loop serves: it is asked what to do and says how to go on.
pub trait Service {
    /// What ends the loop early.
    type Error: From<io::Error>;

    /// Whether the loop shall end. Asked before and after each wait.
    ///
    /// # Errors
    ///
    /// Any error of any method leaves [`run`].
    fn stopping(&mut self) -> Result<bool, Self::Error>;

    /// What to wait for now; asked before each wait. `None` ends the loop: it was closed.
    ///
    /// # Errors
    ///
    /// Leaves [`run`].
    fn source(&mut self) -> Result<Option<Source>, Self::Error>;

    /// Whether another request may be taken now: a limit may have been reached, or the program may
    /// have said that it wants none. Where the answer is no, the listener is left alone, and the
    /// answer is asked for again when the loop has been woken. Default: yes.
    ///
    /// # Errors
    ///
    /// Leaves [`run`].
    fn admission(&mut self) -> Result<Admission, Self::Error> {
        Ok(Admission::Open)
    }

    /// Waits through `selector`. A service may release a lock around that, or wait by other means.
    /// An interrupted wait has simply ended.
    ///
    /// # Errors
    ///
    /// Leaves [`run`].
    fn select(
        &mut self,
        selector: &mut Selector,
        timeout: Option<Duration>,
    ) -> Result<Readiness, Self::Error>;

    /// Waits without a selector, when there are not even the descriptors for one.
    ///
    /// # Errors
    ///
    /// Leaves [`run`].
    fn pause(&mut self, duration: Duration) -> Result<(), Self::Error> {
        std::thread::sleep(duration);
        Ok(())
    }

    /// Takes one request from the listener and has it handled.
    ///
    /// `certain` says whether the wait has just reported the listener readable; otherwise there was
    /// a request before this one, and there may be none now.
    ///
    /// # Errors
    ///
    /// Leaves [`run`].
    fn ready(&mut self, certain: bool) -> Result<Progress, Self::Error>;

    /// Called after every wait that did not end the loop, when the request that it brought, if any,
    /// has been taken.
    ///
    /// # Errors
    ///
    /// Leaves [`run`].
    fn waited(&mut self) -> Result<(), Self::Error>;

    /// Told that requests cannot be taken and the loop has begun to back off. Says whether that is
    /// dealt with; otherwise it is told again, for telling others may fail for the same want.
    fn troubled(&mut self, error: &io::Error) -> bool;
}

/// A descriptor to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its number.
    pub fd: RawFd,
    /// Something that differs when the same number stands for another open descriptor.
    pub identity: usize,
}

/// Whether a request may be taken: what [`Service::admission`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Open,
    /// No, until the loop is woken, or what [`Service::source`] has named becomes readable.
    Closed,
    /// No; ask again after this long at the latest, for nobody may wake the loop.
    ClosedFor(Duration),
}

impl Admission {
    /// How long a wait may be.
    fn limit(self) -> Option<Duration> {
        match self {
            Self::Open | Self::Closed => None,
            Self::ClosedFor(duration) => Some(duration),
        }
    }
}

/// What a wait has brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// The listener has become readable.
    pub listener: bool,
    /// Somebody has woken the loop.
    pub woken: bool,
}

/// How [`Service::ready`] ended.
#[derive(Debug)]
pub enum Progress {
    /// A request was taken; more may be waiting, so try again before waiting.
    More,
    /// Requests were taken, and others shall have their turn: ask the kernel whether more are waiting.
    Enough,
    /// The listener was empty: wait.
    Empty,
    /// Somebody else accepted, who does not tell whether more is waiting: ask the kernel.
    Unknown,
    /// Nothing could be taken, and trying again at once would not help.
    Failed(io::Error),
}

impl Progress {
    /// How to go on after taking a request failed with `error`.
    #[must_use]
    pub fn after(error: io::Error) -> Self {
        match AcceptFailure::of(&error) {
            AcceptFailure::Empty => Self::Empty,
            AcceptFailure::Peer => Self::More,
            AcceptFailure::Capacity | AcceptFailure::Fatal => Self::Failed(error),
        }
    }
}

/// Runs `service` until it stops; `waker` reaches the loop while it runs.
///
/// `poll_interval` limits each wait; `None` waits until something happens.
///
/// A service that takes one connection, and ends:
///
/// ```
/// use fastsocketserver::event_loop::{Progress, Readiness, Selector, Service, Source, run};
/// use fastsocketserver::{ListenOptions, Listener, Waker};
/// use std::io;
/// use std::os::fd::AsRawFd;
/// use std::time::Duration;
///
/// struct One {
///     listener: Listener,
///     taken: bool,
/// }
///
/// impl Service for One {
///     type Error = io::Error;
///
///     fn stopping(&mut self) -> io::Result<bool> {
///         Ok(self.taken)
///     }
///
///     fn source(&mut self) -> io::Result<Option<Source>> {
///         Ok(Some(Source { fd: self.listener.as_raw_fd(), identity: 0 }))
///     }
///
///     fn select(
///         &mut self,
///         selector: &mut Selector,
///         timeout: Option<Duration>,
///     ) -> io::Result<Readiness> {
///         selector.select(timeout)
///     }
///
///     fn ready(&mut self, _certain: bool) -> io::Result<Progress> {
///         match self.listener.accept() {
///             Ok(_) => {
///                 self.taken = true;
///                 Ok(Progress::More)
///             }
///             Err(error) => Ok(Progress::after(error)),
///         }
///     }
///
///     fn waited(&mut self) -> io::Result<()> {
///         Ok(())
///     }
///
///     fn troubled(&mut self, _error: &io::Error) -> bool {
///         true
///     }
/// }
///
/// let listener = Listener::bind(&"127.0.0.1:0".parse()?, &ListenOptions::default())?;
/// let client = std::net::TcpStream::connect(listener.local_addr()?.to_string())?;
/// run(&mut One { listener, taken: false }, &Waker::default(), None)?;
/// # drop(client);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// What the service returns, and what the platform reports about the poll object.
pub fn run<S: Service>(
    service: &mut S,
    waker: &Waker,
    poll_interval: Option<Duration>,
) -> Result<(), S::Error> {
    let mut slot = None;
    let mut readable = false;
    let mut backoff = Backoff::default();
    while let Some(source) = service.source()? {
        // Asked once more below; there is no wait in between while more is known to be there.
        if !readable && service.stopping()? {
            break;
        }
        let selector = match own_selector(&mut slot, waker) {
            Ok(selector) => selector,
            Err(error) if AcceptFailure::of(&error) == AcceptFailure::Capacity => {
                backoff.grow(error);
                backoff.tell(|error| service.troubled(error));
                service.pause(backoff.delay)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let pause = backoff.pause();
        if pause.is_none() && selector.watch(source)? {
            // The kernel reports anew for a new registration.
            readable = false;
        }
        let certain = !readable;
        let mut admission = service.admission()?;
        if certain || admission != Admission::Open {
            let timeout = shorter(shorter(poll_interval, pause), admission.limit());
            readable |= service.select(selector, timeout)?.listener;
            admission = service.admission()?;
        }
        if service.stopping()? {
            break;
        }
        if readable && admission == Admission::Open && backoff.pause().is_none() {
            match service.ready(certain)? {
                // Linux reports want of a descriptor also where nothing is waiting.
                Progress::Failed(_) if !certain => {
                    selector.rearm();
                    readable = false;
                    continue;
                }
                Progress::Failed(error) => {
                    // Otherwise each new connection would end the pause.
                    selector.unwatch();
                    readable = false;
                    backoff.grow(error);
                }
                progress => {
                    backoff.reset();
                    readable = matches!(progress, Progress::More);
                    if matches!(progress, Progress::Enough | Progress::Unknown) {
                        selector.rearm();
                    }
                    if !certain && matches!(progress, Progress::Empty | Progress::Unknown) {
                        // Nothing was waited for and nothing was taken: this was no round.
                        continue;
                    }
                }
            }
        }
        backoff.tell(|error| service.troubled(error));
        service.waited()?;
    }
    Ok(())
}

/// The poll object in `slot`, made when there is none and when a handler has forked: then this is the
/// child, and what is there is the parent's.
fn own_selector<'slot, 'waker>(
    slot: &'slot mut Option<(Selector, Attachment<'waker>)>,
    waker: &'waker Waker,
) -> io::Result<&'slot mut Selector> {
    let own = slot.take().filter(|(selector, _)| selector.generation == sys::generation());
    let (selector, _) = slot.insert(match own {
        Some(own) => own,
        None => Selector::attached_to(waker)?,
    });
    Ok(selector)
}

/// The shorter of two timeouts, `None` meaning no limit.
pub(crate) fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The poll object of one running loop; it belongs to one process.
#[derive(Debug)]
pub struct Selector {
    poll: Poll,
    events: Events,
    watched: Option<Source>,
    generation: u32,
    #[cfg(feature = "python")]
    id: u64,
}

impl Selector {
    /// How many reports are taken at once; where only the listener is watched, two are all there are.
    const CAPACITY: usize = 256;

    pub(crate) fn attached_to(waker: &Waker) -> io::Result<(Self, Attachment<'_>)> {
        let poll = Poll::new()?;
        let attachment = waker.attach(mio::Waker::new(poll.registry(), WAKER)?);
        let selector = Self {
            poll,
            events: Events::with_capacity(Self::CAPACITY),
            watched: None,
            generation: sys::generation(),
            #[cfg(feature = "python")]
            id: next_id(),
        };
        Ok((selector, attachment))
    }

    /// Waits until the watched descriptor is readable, the loop is woken or `timeout` is over.
    ///
    /// # Errors
    ///
    /// `Interrupted` when a signal arrived; otherwise what the platform reports.
    pub fn select(&mut self, timeout: Option<Duration>) -> io::Result<Readiness> {
        self.poll.poll(&mut self.events, timeout)?;
        let mut readiness = Readiness::default();
        for event in &self.events {
            match event.token() {
                LISTENER => readiness.listener = true,
                WAKER => readiness.woken = true,
                _ => {}
            }
        }
        Ok(readiness)
    }

    /// Watches `source` in place of what was watched before; says whether that is another one.
    fn watch(&mut self, source: Source) -> io::Result<bool> {
        if self.watched == Some(source) {
            return Ok(false);
        }
        self.unwatch();
        let mut fd = SourceFd(&source.fd);
        self.poll.registry().register(&mut fd, LISTENER, Interest::READABLE)?;
        self.watched = Some(source);
        Ok(true)
    }

    fn unwatch(&mut self) {
        if let Some(former) = self.watched.take() {
            // Fails where it is closed already, and then it is not watched any more.
            let _ = self.poll.registry().deregister(&mut SourceFd(&former.fd));
        }
    }

    /// Has the kernel report the watched descriptor anew if it is still readable.
    fn rearm(&mut self) {
        if let Some(source) = self.watched {
            let mut fd = SourceFd(&source.fd);
            if self.poll.registry().reregister(&mut fd, LISTENER, Interest::READABLE).is_err() {
                // Closed meanwhile: whatever stands there next is registered as new.
                self.watched = None;
            }
        }
    }
}

/// What a loop's poll object does for the descriptors of unfinished requests.
#[cfg(feature = "python")]
impl Selector {
    /// Something that no other poll object of this process has had.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Where other descriptors are registered, each with [`Occurrence::token`].
    pub(crate) fn registry(&self) -> io::Result<mio::Registry> {
        self.poll.registry().try_clone()
    }

    /// What the last wait has reported for other descriptors.
    pub(crate) fn occurrences(&self) -> impl Iterator<Item = Occurrence> {
        self.events.iter().filter_map(|event| {
            let fd = event.token().0.checked_sub(OTHERS)?;
            Some(Occurrence {
                fd: RawFd::try_from(fd).ok()?,
                is_readable: event.is_readable() || event.is_error(),
                is_writable: event.is_writable() || event.is_error(),
                is_read_closed: event.is_read_closed() || event.is_error(),
            })
        })
    }
}

/// A report for a descriptor of a request.
#[cfg(feature = "python")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occurrence {
    pub(crate) fd: RawFd,
    pub(crate) is_readable: bool,
    pub(crate) is_writable: bool,
    /// Nothing will come any more but what is there.
    pub(crate) is_read_closed: bool,
}

#[cfg(feature = "python")]
impl Occurrence {
    /// The token that a descriptor is registered with.
    pub(crate) fn token(fd: RawFd) -> Token {
        Token(usize::try_from(fd).map_or(usize::MAX, |fd| fd + OTHERS))
    }
}

#[cfg(feature = "python")]
fn next_id() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};

    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// How long to leave a listener alone that cannot be accepted from.
///
/// Trying at once burns a core (70,000 tries in 0.2 s were measured with `EMFILE`); 50 ms at most
/// keep the cost below notice and the delay after relief too.
#[derive(Debug, Default)]
struct Backoff {
    delay: Duration,
    until: Option<Instant>,
    /// What began it, until the service has dealt with that.
    untold: Option<io::Error>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_millis(50);

    /// What is left of the pause, if anything.
    fn pause(&self) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Pauses, longer than the last time.
    fn grow(&mut self, error: io::Error) {
        if self.delay.is_zero() {
            self.untold = Some(error);
        }
        self.delay = (self.delay * 2).clamp(Self::FIRST, Self::LONGEST);
        self.until = Some(Instant::now() + self.delay);
    }

    /// Ends the pause. What began it is told all the same.
    fn reset(&mut self) {
        self.delay = Duration::ZERO;
        self.until = None;
    }

    /// Has `troubled` told what began the pause, unless that has been done.
    fn tell(&mut self, troubled: impl FnOnce(&io::Error) -> bool) {
        self.untold = self.untold.take().filter(|error| !troubled(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let mut backoff = Backoff::default();
        assert!(backoff.pause().is_none());
        let delays: Vec<u128> = (0..6)
            .map(|_| {
                backoff.grow(io::ErrorKind::Other.into());
                backoff.delay.as_millis()
            })
            .collect();
        assert_eq!(delays, [5, 10, 20, 40, 50, 50]);
        assert!(backoff.pause().is_some());
        backoff.reset();
        assert!(backoff.pause().is_none());
    }

    #[test]
    fn trouble_is_told_until_it_is_dealt_with_also_when_it_is_over() {
        let mut backoff = Backoff::default();
        backoff.grow(io::ErrorKind::Other.into());
        backoff.reset();
        let mut told = 0;
        for dealt_with in [false, true, true] {
            backoff.tell(|_| {
                told += 1;
                dealt_with
            });
        }
        assert_eq!(told, 2);
    }
}
