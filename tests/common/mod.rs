//! Shared by the tests of the core.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastsocketserver::dispatch::{Dispatch, Freed, Refused, Task};
use fastsocketserver::{Address, Builder, Error, Handle, Handler, Listener, Request, Server};
use socket2::Socket;

/// Longer than any wait that a working build makes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// An address of which the kernel chooses the port.
pub(crate) fn loopback() -> Address {
    "127.0.0.1:0".parse().expect("an address")
}

/// An internet address as `std` has it.
pub(crate) fn inet(address: &Address) -> SocketAddr {
    match address {
        Address::Inet(address) => (*address).into(),
        Address::Inet6(address) => (*address).into(),
        other => panic!("not an internet address: {other}"),
    }
}

/// Where `listener` listens.
pub(crate) fn socket_address(listener: &Listener) -> SocketAddr {
    inet(&listener.local_addr().expect("bound"))
}

/// Polls `attempt` until it gives something; fails, naming `what`, at the deadline.
pub(crate) fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Accepts the connection that is on its way.
pub(crate) fn accept(listener: &Listener) -> (Socket, Address) {
    wait_for("a connection", || match listener.accept() {
        Ok(accepted) => Some(accepted),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("accept: {error}"),
    })
}

/// Sends `line` to `address` and returns everything that is answered.
pub(crate) fn ask(address: SocketAddr, line: &str) -> String {
    try_ask(address, line).expect("an answer")
}

/// As [`ask`], of a server that may refuse.
pub(crate) fn try_ask(address: SocketAddr, line: &str) -> std::io::Result<String> {
    let mut client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(DEADLINE))?;
    client.write_all(line.as_bytes())?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A folder that goes with this value.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fastsocketserver-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server that runs in a thread of its own, until it is told to end.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    pub(crate) address: Address,
    thread: JoinHandle<Result<(), Error>>,
}

impl Running {
    /// Has `server` serve.
    pub(crate) fn new<H: Handler>(mut server: Server<H>) -> Self {
        let handle = server.handle();
        let address = server.local_addr().expect("bound");
        let thread = thread::spawn(move || server.serve_forever());
        Self { handle, address, thread }
    }

    /// Serves streams as `builder` says; no poll interval hides a lost wake-up.
    pub(crate) fn stream<H: Handler>(builder: Builder<H>) -> Self {
        Self::new(builder.poll_interval(None).bind(&loopback()).expect("bind"))
    }

    pub(crate) fn inet(&self) -> SocketAddr {
        inet(&self.address)
    }

    /// A client that does not wait for ever.
    pub(crate) fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.inet()).expect("connect");
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        client
    }

    /// Waits for the end that somebody else has asked for.
    pub(crate) fn join(self) {
        self.thread.join().expect("no panic").expect("served");
    }

    pub(crate) fn shut_down(self) {
        self.handle.shutdown();
        self.join();
    }
}

/// A dispatch that says how often the loop has looked after it, so that a test can see the loop go
/// round without anything being taken.
pub(crate) struct Counting<D> {
    inner: D,
    rounds: Arc<AtomicU32>,
}

impl<D: Dispatch> Counting<D> {
    pub(crate) fn new(inner: D) -> (Self, Rounds) {
        let rounds = Arc::new(AtomicU32::new(0));
        (Self { inner, rounds: Arc::clone(&rounds) }, Rounds(rounds))
    }
}

impl<D: Dispatch> Dispatch for Counting<D> {
    fn dispatch(&mut self, task: Task) -> Result<(), Refused> {
        self.inner.dispatch(task)
    }

    fn is_inline(&self) -> bool {
        self.inner.is_inline()
    }

    fn limit(&self) -> Option<usize> {
        self.inner.limit()
    }

    fn freed(&self) -> Freed {
        self.inner.freed()
    }

    fn idle_threads(&self) -> Box<dyn Fn() -> usize + Send + Sync> {
        self.inner.idle_threads()
    }

    fn reap(&mut self) {
        self.inner.reap();
        self.rounds.fetch_add(1, Ordering::SeqCst);
    }

    fn close(&mut self) {
        self.inner.close();
    }
}

pub(crate) struct Rounds(Arc<AtomicU32>);

impl Rounds {
    /// Waits until the loop has gone round some times from now on.
    pub(crate) fn pass(&self) {
        let before = self.0.load(Ordering::SeqCst);
        wait_for("the loop to go round", || {
            (self.0.load(Ordering::SeqCst) >= before.wrapping_add(5)).then_some(())
        });
    }
}

/// Echoes one line; until it comes, it takes a place.
pub(crate) fn echo(request: &mut Request) -> io::Result<()> {
    let mut line = [0; 2];
    request.read_exact(&mut line)?;
    request.write_all(&line)
}

/// More clients than places: the last are answered when the first are done, in whatever order.
pub(crate) fn more_clients_than_places(dispatch: impl Dispatch + 'static, places: usize) {
    let running = Running::stream(Server::builder(echo).dispatch(dispatch));
    let mut clients: Vec<_> = (0..places).map(|_| running.connect()).collect();
    wait_for("all places to be taken", || (running.handle.stats().active == places).then_some(()));
    clients.extend((0..places).map(|_| running.connect()));
    for client in &mut clients {
        client.write_all(b"a\n").expect("write");
    }
    for client in &mut clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        assert_eq!(answer, "a\n");
    }
    let handle = running.handle.clone();
    running.shut_down();
    let stats = handle.stats();
    assert_eq!((stats.accepted, stats.finished), (2 * places as u64, 2 * places as u64));
}

/// Clients beyond the limit wait in the kernel's queue.
pub(crate) fn takes_no_more_than(dispatch: impl Dispatch + 'static, limit: usize) {
    let (dispatch, rounds) = Counting::new(dispatch);
    let builder = Server::builder(echo).dispatch(dispatch);
    let builder = builder.poll_interval(Some(Duration::from_millis(1)));
    let running = Running::new(builder.bind(&loopback()).expect("bind"));
    let clients: Vec<_> = (0..limit + 3).map(|_| running.connect()).collect();
    wait_for("all places to be taken", || (running.handle.stats().active == limit).then_some(()));
    rounds.pass();
    assert_eq!(running.handle.stats().accepted, limit as u64);
    for client in clients {
        // A child may have inherited it: closing would not be noticed.
        client.shutdown(Shutdown::Both).expect("connected");
    }
    running.shut_down();
}
