//! Shared by the tests of the core.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastsocketserver::{Address, Listener};
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
    let mut client = TcpStream::connect(address).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.write_all(line.as_bytes()).expect("write");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    answer
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
