//! A server: a listener, a handler and a dispatch, wired to the loop.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::batch::Batch;
use crate::datagram::Datagram;
use crate::dispatch::{Dispatch, Inline};
use crate::event_loop::{self, Progress, Readiness, Selector, Service, Source};
use crate::handler::{Handler, Request};
use crate::listener::Listener;
use crate::options::ListenOptions;
use crate::replies::Replies;
use crate::wait::{Blocking, Wait};
use crate::waker::Waker;

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

    /// How long the loop waits at most before it looks after ended children and threads; `None`
    /// waits until something happens. Default: 0.5 s. Shutting down does not depend on it.
    #[must_use]
    pub fn poll_interval(mut self, poll_interval: Option<Duration>) -> Self {
        self.poll_interval = poll_interval;
        self
    }

    /// How many datagrams [`serve_forever`](Server::serve_forever) receives at once, at most; see
    /// [`Batch::new`] for the limits. Streams do not have it. Default: 1.
    ///
    /// All datagrams of a batch are passed to the dispatch, in order, before the server looks whether
    /// it is to shut down. If the dispatch is [inline](Dispatch::is_inline), the replies leave
    /// together, in order, when the last handler of the batch has returned; what goes wrong then is
    /// told to [`Handler::error`] of the request that it belongs to.
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
    /// # Errors
    ///
    /// As [`Listener::bind`].
    pub fn bind(self, address: &Address) -> io::Result<Server<H>> {
        let listener = Listener::bind(address, &self.options)?;
        Ok(self.build(Endpoint::Stream(listener), None))
    }

    /// Opens a datagram socket on `address`.
    ///
    /// # Errors
    ///
    /// As [`Datagram::bind`].
    pub fn bind_datagram(self, address: &Address) -> io::Result<Server<H>> {
        let socket = Datagram::bind(address, &self.options)?;
        let batch = (self.batch_size > 1).then(|| socket.batch(self.batch_size));
        Ok(self.build(Endpoint::Datagram(socket), batch))
    }

    fn build(self, endpoint: Endpoint, batch: Option<Batch>) -> Server<H> {
        Server {
            endpoint,
            batch,
            handler: Arc::new(self.handler),
            dispatch: self.dispatch,
            poll_interval: self.poll_interval,
            control: Arc::default(),
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

impl AsRawFd for Endpoint {
    fn as_raw_fd(&self) -> i32 {
        match self {
            Self::Stream(listener) => listener.as_raw_fd(),
            Self::Datagram(socket) => socket.as_raw_fd(),
        }
    }
}

/// Accepts requests and has a [`Handler`] handle them.
///
/// ```
/// use fastsocketserver::{Address, Request, Server, Threads};
/// use std::io::{BufRead, BufReader, Write};
///
/// let upper = |request: &mut Request| {
///     let mut line = String::new();
///     BufReader::new(&mut *request).read_line(&mut line)?;
///     request.write_all(line.to_uppercase().as_bytes())
/// };
/// let mut server =
///     Server::builder(upper).dispatch(Threads::default()).bind(&"127.0.0.1:0".parse()?)?;
/// let handle = server.handle();
/// let thread = std::thread::spawn(move || server.serve_forever());
/// handle.shutdown();
/// thread.join().expect("no panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server<H> {
    endpoint: Endpoint,
    /// Where datagrams are received, unless requests are taken one by one.
    batch: Option<Batch>,
    handler: Arc<H>,
    dispatch: Box<dyn Dispatch>,
    poll_interval: Option<Duration>,
    control: Arc<Control>,
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
    /// What `getsockname(2)` reports.
    pub fn local_addr(&self) -> io::Result<Address> {
        match &self.endpoint {
            Endpoint::Stream(listener) => listener.local_addr(),
            Endpoint::Datagram(socket) => socket.local_addr(),
        }
    }

    /// A way to end [`serve_forever`](Self::serve_forever) from elsewhere.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { control: Arc::clone(&self.control) }
    }

    /// Handles requests until a [`Handle`] shuts the server down; then waits for what the dispatch
    /// has started.
    ///
    /// # Errors
    ///
    /// What the platform reports about the poll object. Errors of one request end that request.
    pub fn serve_forever(&mut self) -> io::Result<()> {
        self.control.state().running = true;
        let control = Arc::clone(&self.control);
        let poll_interval = self.poll_interval;
        let served = event_loop::run(self, &control.waker, poll_interval);
        self.dispatch.close();
        self.control.end();
        served
    }

    /// Handles the next request, or returns `false` when none arrives within `timeout`; `None` waits
    /// without limit.
    ///
    /// # Errors
    ///
    /// What the platform reports about waiting and accepting.
    pub fn handle_request(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match Blocking.readable(self.endpoint.as_raw_fd(), left) {
                Ok(false) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(true) => match self.take_one() {
                    Progress::More | Progress::Enough | Progress::Unknown => return Ok(true),
                    Progress::Empty => {}
                    Progress::Failed(error) => return Err(error),
                },
            }
        }
    }

    /// Takes one request and passes it to the dispatch.
    fn take_one(&mut self) -> Progress {
        match self.endpoint.take() {
            Ok(request) => self.pass_on(request, None),
            Err(error) => Progress::after(error),
        }
    }

    /// Takes what is waiting, as far as it fits into a batch, and passes all of it to the dispatch.
    fn take_batch(&mut self) -> Progress {
        let (Endpoint::Datagram(socket), Some(batch)) = (&self.endpoint, &mut self.batch) else {
            return self.take_one();
        };
        if let Err(error) = socket.receive_batch(batch) {
            return Progress::after(error);
        }
        let socket = socket.clone();
        let replies = self.dispatch.is_inline().then(Replies::default);
        let mut progress = Progress::More;
        while let Some(packet) = self.batch.as_mut().and_then(Batch::pop) {
            let request = Request::datagram(socket.clone(), packet);
            // Failing for one, the dispatch need not for the next.
            if let Progress::Failed(error) = self.pass_on(request, replies.clone()) {
                progress = Progress::Failed(error);
            }
        }
        if let Some(replies) = replies {
            replies.send(&socket, |request, error| self.handler.error(request, error));
        }
        progress
    }

    /// Passes `request` to the dispatch. Its reply goes to `replies`, or leaves when it is handled.
    fn pass_on(&mut self, mut request: Request, replies: Option<Replies>) -> Progress {
        if !self.handler.verify(&request) {
            return Progress::More;
        }
        let handler = Arc::clone(&self.handler);
        let run = move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| handler.handle(&mut request)));
            // After a panic the request is closed like any other; the panic hook has reported it.
            match (outcome.unwrap_or(Ok(())), replies) {
                (Ok(()), Some(replies)) => replies.push(request),
                (outcome, _) => {
                    if let Err(error) = outcome.and_then(|()| request.finish()) {
                        handler.error(&request, &error);
                    }
                }
            }
        };
        match self.dispatch.dispatch(Box::new(run)) {
            Ok(()) => Progress::More,
            Err(error) => Progress::Failed(error),
        }
    }
}

impl<H: Handler> Service for Server<H> {
    type Error = io::Error;

    fn stopping(&mut self) -> io::Result<bool> {
        Ok(self.control.state().stopping)
    }

    fn source(&mut self) -> io::Result<Option<Source>> {
        Ok(Some(Source { fd: self.endpoint.as_raw_fd(), identity: 0 }))
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
        Ok(self.take_batch())
    }

    fn waited(&mut self) -> io::Result<()> {
        self.dispatch.reap();
        Ok(())
    }

    fn troubled(&mut self, _error: &io::Error) -> bool {
        true
    }
}

/// Shared by a server and its handles.
#[derive(Debug, Default)]
struct Control {
    waker: Waker,
    state: Mutex<State>,
    /// Told when the loop has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    stopping: bool,
}

impl Control {
    fn state(&self) -> MutexGuard<'_, State> {
        // Two flags are sound whatever happened to the thread that held them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        *self.state() = State::default();
        self.ended.notify_all();
    }
}

/// Ends a server's loop from another thread or from a handler.
#[derive(Clone, Debug)]
pub struct Handle {
    control: Arc<Control>,
}

impl Handle {
    /// Has [`Server::serve_forever`] return, and waits until it has.
    ///
    /// Called before `serve_forever`, it is noted, and that returns at once when it is called. Called
    /// from the loop's own thread (a handler run [`Inline`]) it is noted too.
    pub fn shutdown(&self) {
        let mut state = self.control.state();
        state.stopping = true;
        if !state.running || self.control.waker.is_current_thread() {
            return;
        }
        // The loop looks at the flag before it waits, so a lost wake-up costs one poll interval.
        let _ = self.control.waker.wake();
        while state.running {
            state = self.control.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
