//! A server: a listener, a handler and a dispatch, wired to the loop.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{SockRef, Type};

use crate::accept_failure::AcceptFailure;
use crate::address::Address;
use crate::control::{Control, Ending, Phase, Taken};
use crate::datagram::Datagram;
use crate::dispatch::{Dispatch, Freed, Inline, Refused, Task};
use crate::error::Error;
use crate::event_loop::{self, Intake, Progress, Readiness, Selector, Service, Source};
use crate::handle::{Gauges, Handle};
use crate::handler::{self, Handler};
use crate::listener::Listener;
use crate::options::ListenOptions;
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
        let endpoint = Arc::new(endpoint);
        let known = Arc::downgrade(&endpoint);
        let gauges = Gauges {
            idle_threads: self.dispatch.idle_threads(),
            dropped: Box::new(move || known.upgrade().map_or(0, |endpoint| endpoint.dropped())),
        };
        Server {
            endpoint,
            handler: Arc::new(self.handler),
            dispatch: self.dispatch,
            poll_interval: self.poll_interval,
            control: Arc::default(),
            gauges: Arc::new(gauges),
            held: None,
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

    /// Takes one request, without waiting.
    fn take(&self) -> io::Result<Request> {
        Ok(match self {
            Self::Stream(listener) => {
                let (socket, peer) = listener.accept()?;
                if matches!(peer, Address::Inet(_) | Address::Inet6(_)) {
                    // Answers in two small writes wait 40 ms otherwise. A peer that is gone fails it.
                    let _ = socket.set_tcp_nodelay(true);
                }
                Request::stream(socket, peer)
            }
            Self::Datagram(socket) => Request::datagram(socket.clone(), socket.receive()?),
        })
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
    handler: Arc<H>,
    dispatch: Box<dyn Dispatch>,
    poll_interval: Option<Duration>,
    control: Arc<Control>,
    gauges: Arc<Gauges>,
    /// A request that was taken, and that nothing could be started for yet.
    held: Option<Task>,
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
        self.start_held();
        self.held = None;
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
            let is_held = self.held.is_some();
            self.dispatch.reap();
            let intake = self.room();
            if is_held && self.held.is_none() {
                return Ok(true);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if intake != Intake::Open {
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
                Ok(true) => match self.take_one() {
                    Progress::More | Progress::Unknown => return Ok(true),
                    Progress::Empty => {}
                    Progress::Failed(error) => return Err(Error::Take(error)),
                },
            }
        }
    }

    /// Takes one request and passes it to the dispatch.
    fn take_one(&mut self) -> Progress {
        let request = match self.endpoint.take() {
            Ok(request) => request,
            Err(error) => {
                if AcceptFailure::of(&error) != AcceptFailure::Empty {
                    self.control.failed_to_take(&error);
                }
                return Progress::after(error);
            }
        };
        let (taken, ending) = match request.connection() {
            Some(socket) => (Taken::Connection, Some(Ending::Connection(Arc::clone(socket)))),
            None => (Taken::Datagram { truncated: request.is_truncated() }, None),
        };
        if !handler::verify(&*self.handler, &request) {
            self.control.refuse(taken);
            return Progress::More;
        }
        let place = self.control.enter(taken, ending);
        let handler = Arc::clone(&self.handler);
        self.start(Task::in_place(move || handler::handle(&*handler, request), place));
        Progress::More
    }

    /// Passes `task` to the dispatch, or holds it until that can take it.
    fn start(&mut self, task: Task) {
        if let Err(Refused { task, .. }) = self.dispatch.dispatch(task) {
            self.control.want_place();
            self.held = Some(task);
        }
    }

    fn start_held(&mut self) {
        if let Some(task) = self.held.take() {
            self.start(task);
        }
    }

    /// Whether another request may be taken; first of all that which is held is started.
    fn room(&mut self) -> Intake {
        self.start_held();
        if self.held.is_some() {
            return Intake::ClosedFor(RETRY_INTERVAL);
        }
        if self.control.admits(self.dispatch.limit()) {
            return Intake::Open;
        }
        match self.dispatch.freed() {
            Freed::Woken | Freed::Readable(_) => Intake::Closed,
            Freed::Unknown => Intake::ClosedFor(RETRY_INTERVAL),
        }
    }

    /// Whether as many requests are being handled as may be.
    fn is_full(&self) -> bool {
        self.dispatch.limit().is_some_and(|limit| self.control.state().active() >= limit)
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

    fn intake(&mut self) -> io::Result<Intake> {
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
        Ok(self.take_one())
    }

    fn waited(&mut self) -> io::Result<()> {
        self.dispatch.reap();
        Ok(())
    }

    fn troubled(&mut self, _error: &io::Error) -> bool {
        true
    }
}
