//! What a server has done so far.

use std::collections::BTreeMap;

/// Counts since a server was made, and what it is doing now; read by
/// [`Handle::stats`](crate::Handle::stats).
///
/// All counts of requests are of one moment: at any time
/// `accepted + received == active + parked + finished + failed + refused`.
///
/// ```
/// use fastsocketserver::{Request, Server};
/// use std::time::Duration;
///
/// let mut server = Server::builder(|_: &mut Request| Ok(())).bind_datagram(&"127.0.0.1:0".parse()?)?;
/// let client = std::net::UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"hello", server.local_addr()?.to_string())?;
/// assert!(server.handle_request(Some(Duration::from_secs(10)))?);
/// let stats = server.handle().stats();
/// assert_eq!((stats.received, stats.finished, stats.active), (1, 1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Datagrams that were received.
    pub received: u64,
    /// Datagrams that were longer than
    /// [`max_packet_size`](crate::ListenOptions::max_packet_size), and were cut.
    pub truncated: u64,
    /// Datagrams that the kernel had no room for, since the socket was opened. Known on Linux alone,
    /// and 0 elsewhere and when the server is gone.
    pub dropped: u64,
    /// Requests that are being handled, or wait for a thread or child that could not be started.
    pub active: usize,
    /// Connections that wait, without a handler, for their client's first bytes. Servers do that where
    /// they are told to; none that is built by this crate's [`Builder`](crate::Builder) can be.
    pub parked: usize,
    /// Requests that were handled without an error.
    pub finished: u64,
    /// Requests whose handler returned an error, panicked, or never got to run.
    pub failed: u64,
    /// Requests that [`Handler::verify`](crate::Handler::verify) refused.
    pub refused: u64,
    /// How often a request could not be taken, by errno. An empty queue does not count.
    pub accept_errors: BTreeMap<i32, u64>,
    /// Threads that wait for a request to run.
    pub idle_threads: usize,
}
