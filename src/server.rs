//! A server: a listener, a handler and a dispatch, wired to the loop.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{SockRef, Type};

use crate::accept_failure::AcceptFailure;
use crate::address::Address;
use crate::batch::Batch;
use crate::control::{Control, Ending, Limits, Phase, Taken};
use crate::datagram::Datagram;
use crate::dispatch::{Dispatch, Freed, Inline, Refused, Task};
use crate::error::Error;
use crate::event_loop::{self, Admission, Progress, Readiness, Selector, Service, Source};
use crate::handle::{Gauges, Handle};
use crate::handler::{self, Handler};
use crate::listener::Listener;
use crate::options::ListenOptions;
use crate::replies::Replies;
use crate::request::Request;
use crate::sys;
use crate::wait::{Blocking, Wait};

/// How long to wait before a thread or child that could not be started is tried again, and before a
/// dispatch is asked that does not tell when a place is free.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// How a server is put together; made by [`Server::builder`].
pub struct Builder<H> {
    handler: H,
    options: ListenOptions,
    dispatch: Box<dyn Dispatch>,
    poll_interval: Option<Duration>,
    batch_size: usize,
}

impl<H: fmt::Debug> fmt::Debug for Builder<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("handler", &self.handler)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<H: Handler> Builder<H> {
    /// What to open the listener with. Default: [`ListenOptions::default`].
    #[must_use]
    pub fn options(mut self, options: ListenOptions) -> Self {
        self.options = options;
        self
    }

    /// Who runs the handler. Default: [`Inline`].
    #[must_use]
    pub fn dispatch(mut self, dispatch: impl Dispatch + 'static) -> Self {
        self.dispatch = Box::new(dispatch);
        self
    }

    /// How long the loop waits at most before it looks after ended children; `None` waits until
    /// something happens. Default: 0.5 s. Nothing that a [`Handle`] does depends on it.
    #[must_use]
    pub fn poll_interval(mut self, poll_interval: Option<Duration>) -> Self {
        self.poll_interval = poll_interval;
        self
    }

    /// How many datagrams [`serve_forever`](Server::serve_forever) receives at once, at most; see
    /// [`Batch::new`] for the limits. Streams do not have it. Default: 1.
    ///
    /// No more are received than the dispatch's [`limit`](Dispatch::limit) leaves places for. All
    /// datagrams of a batch are [verified](Handler::verify) first, and then passed to the dispatch, in
    /// order, before the server looks whether it is to shut down or to pause. If the dispatch is
    /// [inline](Dispatch::is_inline), the replies leave together, in order, when the last handler of
    /// the batch has returned; what goes wrong then is told to [`Handler::error`] with the request that
    /// it belongs to. Until then all of them count as [`active`](crate::Stats::active).
    ///
    /// A batch saves system calls when datagrams arrive faster than they are handled. It makes an
    /// early reply wait for later handlers, and a handler that itself receives from the server's
    /// socket does not find there what is in the batch: hence the default.
    ///
    /// ```
    /// use fastsocketserver::{Request, Server};
    /// use std::io::Write;
    ///
    /// let echo = |request: &mut Request| {
    ///     let packet = request.packet().unwrap_or_default().to_vec();
    ///     request.write_all(&packet)
    /// };
    /// let server = Server::builder(echo).batch_size(16).bind_datagram(&"127.0.0.1:0".parse()?)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// Opens a stream listener on `address`.
    ///
    /// The file of a Unix socket must not be there, and stays there when the server has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] with what the system reports; nothing stays open.
    pub fn bind(self, address: &Address) -> Result<Server<H>, Error> {
        match Listener::bind(address, &self.options) {
            Ok(listener) => Ok(self.build(Endpoint::Stream(listener))),
            Err(source) => Err(Error::Bind { address: address.clone(), source }),
        }
    }

    /// Opens a datagram socket on `address`.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_datagram(self, address: &Address) -> Result<Server<H>, Error> {
        match Datagram::bind(address, &self.options) {
            Ok(socket) => Ok(self.build(Endpoint::Datagram(socket))),
            Err(source) => Err(Error::Bind { address: address.clone(), source }),
        }
    }

    /// Serves on a socket that is bound already: a listener or a datagram socket of `std`, or any
    /// descriptor of such a one. Of the options, only
    /// [`max_packet_size`](ListenOptions::max_packet_size) counts.
    ///
    /// ```
    /// use fastsocketserver::{Request, Server};
    ///
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let address = listener.local_addr()?;
    /// let server = Server::builder(|_: &mut Request| Ok(())).adopt(listener)?;
    /// assert_eq!(server.local_addr()?, address.into());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Adopt`] for a stream socket that does not listen, for one of another kind, and for
    /// what is no socket. It is closed then.
    pub fn adopt(self, socket: impl Into<OwnedFd>) -> Result<Server<H>, Error> {
        let endpoint = Endpoint::adopt(socket.into(), &self.options).map_err(Error::Adopt)?;
        Ok(self.build(endpoint))
    }

    fn build(self, endpoint: Endpoint) -> Server<H> {
        let batch = endpoint.batch(self.batch_size);
        let shares_replies =
            self.dispatch.is_inline() && batch.as_ref().is_some_and(|batch| batch.capacity() > 1);
        let endpoint = Arc::new(endpoint);
        let known = Arc::downgrade(&endpoint);
        let gauges = Gauges {
            idle_threads: self.dispatch.idle_threads(),
            dropped: Box::new(move || known.upgrade().map_or(0, |endpoint| endpoint.dropped())),
        };
        Server {
            endpoint,
            batch,
            replies: shares_replies.then(Replies::default),
            handler: Arc::new(self.handler),
            dispatch: self.dispatch,
            poll_interval: self.poll_interval,
            control: Arc::default(),
            gauges: Arc::new(gauges),
            waiting: VecDeque::new(),
        }
    }
}

/// What has arrived is asked of one of these.
#[derive(Debug)]
enum Endpoint {
    Stream(Listener),
    Datagram(Datagram),
}

impl Endpoint {
    fn adopt(socket: OwnedFd, options: &ListenOptions) -> io::Result<Self> {
        Ok(if SockRef::from(&socket).r#type()? == Type::DGRAM {
            Self::Datagram(Datagram::adopt(socket, options.max_packet_size)?)
        } else {
            Self::Stream(Listener::adopt(socket)?)
        })
    }

    /// What to receive up to `size` datagrams into; streams have no such thing.
    fn batch(&self, size: usize) -> Option<Batch> {
        match self {
            Self::Stream(_) => None,
            Self::Datagram(socket) => Some(socket.batch(size)),
        }
    }

    /// How many datagrams the kernel had no room for, as far as it tells.
    fn dropped(&self) -> u64 {
        match self {
            Self::Stream(_) => 0,
            Self::Datagram(socket) => sys::dropped_packets(socket.as_fd()).map_or(0, u64::from),
        }
    }

    fn local_addr(&self) -> io::Result<Address> {
        match self {
            Self::Stream(listener) => listener.local_addr(),
            Self::Datagram(socket) => socket.local_addr(),
        }
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(listener) => listener.as_fd(),
            Self::Datagram(socket) => socket.as_fd(),
        }
    }
}

/// Accepts requests and has a [`Handler`] handle them.
///
/// ```
/// use fastsocketserver::{Request, Server, Threads};
/// use std::io::{BufRead, Write};
///
/// let upper = |request: &mut Request| {
///     let mut line = String::new();
///     request.read_line(&mut line)?;
///     request.write_all(line.to_uppercase().as_bytes())
/// };
/// let mut server = Server::builder(upper).dispatch(Threads::new()).bind(&"127.0.0.1:0".parse()?)?;
/// let handle = server.handle();
/// let thread = std::thread::spawn(move || server.serve_forever());
/// handle.shutdown();
/// thread.join().expect("no panic")?;
/// # Ok::<(), fastsocketserver::Error>(())
/// ```
///
/// It installs no signal handler; a program that wants to end on a signal calls its [`Handle`] (see
/// `examples/graceful.rs`). Dropping it closes its socket.
pub struct Server<H> {
    endpoint: Arc<Endpoint>,
    /// Where datagrams are received; streams have none.
    batch: Option<Batch>,
    /// Where the replies of a batch wait for each other, if they do.
    replies: Option<Replies>,
    handler: Arc<H>,
    dispatch: Box<dyn Dispatch>,
    poll_interval: Option<Duration>,
    control: Arc<Control>,
    gauges: Arc<Gauges>,
    /// Requests that were taken and have a place, and that nothing was started for yet.
    waiting: VecDeque<Task>,
}

impl<H> fmt::Debug for Server<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl<H: Handler> Server<H> {
    /// Starts to put a server together.
    pub fn builder(handler: H) -> Builder<H> {
        Builder {
            handler,
            options: ListenOptions::default(),
            dispatch: Box::new(Inline),
            poll_interval: Some(Duration::from_millis(500)),
            batch_size: 1,
        }
    }

    /// The address that the server is bound to.
    ///
    /// # Errors
    ///
    /// [`Error::Inspect`] with what `getsockname(2)` reports.
    pub fn local_addr(&self) -> Result<Address, Error> {
        self.endpoint.local_addr().map_err(Error::Inspect)
    }

    /// What steers the server from elsewhere.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.control), Arc::clone(&self.gauges))
    }

    /// Handles requests until a [`Handle`] ends that; then waits for those that are being handled.
    ///
    /// It goes on where requests cannot be taken, for want of descriptors or memory, and tries again
    /// after pauses of 5 to 50 ms; [`Stats::accept_errors`](crate::Stats::accept_errors) counts that.
    ///
    /// # Errors
    ///
    /// [`Error::Wait`] with what the system reports about the poll object. Errors of one request end
    /// that request.
    pub fn serve_forever(&mut self) -> Result<(), Error> {
        let control = Arc::clone(&self.control);
        control.set_phase(Phase::Taking);
        let poll_interval = self.poll_interval;
        let served = event_loop::run(self, &control.waker, poll_interval);
        control.set_phase(Phase::Ending);
        // There is no later time to try again. What still cannot be run is closed.
        while !self.waiting.is_empty() {
            self.start_waiting();
            self.waiting.pop_front();
        }
        self.dispatch.close();
        control.set_phase(Phase::Idle);
        served.map_err(Error::Wait)
    }

    /// Handles the next request, or returns `false` when none could be taken within `timeout`; `None`
    /// waits without limit. With [`Threads`](crate::Threads) and [`Fork`](crate::Fork) it is being
    /// handled when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Take`] with what the system reports about waiting and accepting.
    pub fn handle_request(&mut self, timeout: Option<Duration>) -> Result<bool, Error> {
        // A time that is too far away to be told does not come.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let was_waiting = !self.waiting.is_empty();
            self.dispatch.reap();
            let admission = self.room();
            if was_waiting && self.waiting.is_empty() {
                return Ok(true);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if admission != Admission::Open {
                if left.is_some_and(|left| left.is_zero()) {
                    return Ok(false);
                }
                self.wait_for_room(deadline);
                continue;
            }
            match Blocking.readable(self.endpoint.as_fd().as_raw_fd(), left) {
                Ok(false) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Take(error)),
                Ok(true) => match self.take(1) {
                    Progress::More | Progress::Enough | Progress::Unknown => return Ok(true),
                    Progress::Empty => {}
                    Progress::Failed(error) => return Err(Error::Take(error)),
                },
            }
        }
    }

    /// Takes what has arrived, a connection or up to `most` datagrams, and passes it to the dispatch.
    fn take(&mut self, most: usize) -> Progress {
        if let Err(error) = self.receive(most) {
            if AcceptFailure::of(&error) != AcceptFailure::Empty {
                self.control.failed_to_take(&error);
            }
            return Progress::after(error);
        }
        self.start_waiting();
        Progress::More
    }

    /// Takes a connection or up to `most` datagrams, without waiting, and gives a place to each.
    fn receive(&mut self, most: usize) -> io::Result<()> {
        let endpoint = Arc::clone(&self.endpoint);
        match &*endpoint {
            Endpoint::Stream(listener) => {
                let (socket, peer) = listener.accept()?;
                if matches!(peer, Address::Inet(_) | Address::Inet6(_)) {
                    // Answers in two small writes wait 40 ms otherwise. A peer that is gone fails it.
                    let _ = socket.set_tcp_nodelay(true);
                }
                self.admit(Request::stream(socket, peer));
            }
            Endpoint::Datagram(socket) => {
                if let Some(batch) = &mut self.batch {
                    batch.fill(socket.as_fd(), most)?;
                }
                while let Some(packet) = self.batch.as_mut().and_then(Batch::pop) {
                    self.admit(Request::datagram(socket.clone(), packet));
                }
            }
        }
        Ok(())
    }

    /// Counts `request`, and has it wait for the dispatch unless the handler refuses it.
    fn admit(&mut self, request: Request) {
        let (taken, ending) = match request.connection() {
            Some(socket) => (Taken::Connection, Some(Ending::Connection(Arc::clone(socket)))),
            None => (Taken::Datagram { truncated: request.is_truncated() }, None),
        };
        if !handler::verify(&*self.handler, &request) {
            self.control.refuse(taken);
            return;
        }
        let place = self.control.enter(taken, ending);
        let handler = Arc::clone(&self.handler);
        let task = match self.replies.clone() {
            Some(replies) => {
                Task::new(move || handler::handle_in_batch(&*handler, request, place, &replies))
            }
            None => Task::in_place(move || handler::handle(&*handler, request), place),
        };
        self.waiting.push_back(task);
    }

    /// Passes what waits to the dispatch, as far as that can take it. Then sends the replies of those
    /// that have ended, where they leave together.
    fn start_waiting(&mut self) {
        while let Some(task) = self.waiting.pop_front() {
            if let Err(Refused { task, .. }) = self.dispatch.dispatch(task) {
                self.control.want_place();
                self.waiting.push_front(task);
                break;
            }
        }
        if let (Endpoint::Datagram(socket), Some(replies)) = (&*self.endpoint, &self.replies) {
            replies.send(socket, |request, error| handler::fail(&*self.handler, request, error));
        }
    }

    /// Whether another request may be taken; first of all those that wait are started.
    fn room(&mut self) -> Admission {
        self.start_waiting();
        if !self.waiting.is_empty() {
            return Admission::ClosedFor(RETRY_INTERVAL);
        }
        if self.control.admits(Limits { active: self.dispatch.limit(), open: None }) {
            return Admission::Open;
        }
        match self.dispatch.freed() {
            Freed::Woken | Freed::Readable(_) => Admission::Closed,
            Freed::Unknown => Admission::ClosedFor(RETRY_INTERVAL),
        }
    }

    /// How many more requests may be handled at once.
    fn places(&self) -> usize {
        match self.dispatch.limit() {
            Some(limit) => limit.saturating_sub(self.control.state().active()),
            None => usize::MAX,
        }
    }

    /// Whether as many requests are being handled as may be.
    fn is_full(&self) -> bool {
        self.places() == 0
    }

    /// Waits, without a loop, until there may be room for another request, or `deadline`.
    fn wait_for_room(&self, deadline: Option<Instant>) {
        let soon = Instant::now() + RETRY_INTERVAL;
        let deadline = deadline.map_or(soon, |deadline| deadline.min(soon));
        let before = self.control.state().active();
        self.control.wait(Some(deadline), |state| state.active() < before);
    }
}

impl<H: Handler> Service for Server<H> {
    type Error = io::Error;

    fn stopping(&mut self) -> io::Result<bool> {
        Ok(self.control.state().stopping)
    }

    fn source(&mut self) -> io::Result<Option<Source>> {
        if self.is_full() {
            self.dispatch.reap();
            // Only one thing is waited for: at the limit, the listener is nothing to go by.
            if let (true, Freed::Readable(fd)) = (self.is_full(), self.dispatch.freed()) {
                return Ok(Some(Source { fd, identity: 1 }));
            }
        }
        Ok(Some(Source { fd: self.endpoint.as_fd().as_raw_fd(), identity: 0 }))
    }

    fn admission(&mut self) -> io::Result<Admission> {
        Ok(self.room())
    }

    fn select(
        &mut self,
        selector: &mut Selector,
        timeout: Option<Duration>,
    ) -> io::Result<Readiness> {
        match selector.select(timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Readiness::default()),
            outcome => outcome,
        }
    }

    fn ready(&mut self, _certain: bool) -> io::Result<Progress> {
        Ok(self.take(self.places()))
    }

    fn waited(&mut self) -> io::Result<()> {
        self.dispatch.reap();
        Ok(())
    }

    fn troubled(&mut self, _error: &io::Error) -> bool {
        true
    }
}
