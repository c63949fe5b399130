//! Asks a server as fast as it answers, checks every answer, and prints one JSON object.
//!
//! ```text
//! load short|keepalive|udp|http|http-short|up|down ADDRESS CLIENTS SECONDS
//! ```
//!
//! `ADDRESS` is `127.0.0.1:9999`, `[::1]:9999` or, for a Unix stream socket, its path.
//!
//! - `short`: each client connects, asks once and reads until the server ends the connection, over
//!   and over. The question is a line of 32 bytes that says who asks and how often it has; the
//!   right answer is the same line.
//! - `keepalive`: each client connects once and asks such questions over and over.
//! - `udp`: one socket, with such a question of each client under way; what got lost is sent again.
//! - `http`: each client connects once and sends `GET` over and over; the right answer has the
//!   status 200, a `Content-Length` and the body `Hello, world!`.
//! - `http-short`: the same, with a connection for each `GET`.
//! - `up`: each client connects once and sends 1 MiB over and over; the right answer is `.`.
//! - `down`: each client connects once and sends one byte over and over; the right answer is 1 MiB
//!   of `d`.
//!
//! Questions that are under way when the time is over are waited for up to a second longer; they
//! are checked but not counted. Trouble is counted, and never ends the run.

mod datagram;
mod mode;
mod stream;
mod tally;

use std::env;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::mode::Mode;

/// How often a run looks after clients that nothing is heard of.
const TICK: Duration = Duration::from_millis(10);
const GRACE: Duration = Duration::from_secs(1);

struct Plan {
    mode: Mode,
    address: Address,
    clients: usize,
    seconds: Duration,
    /// No question is asked from here on.
    end: Instant,
    /// No answer is waited for from here on.
    last_call: Instant,
}

enum Address {
    Inet(SocketAddr),
    Unix(PathBuf),
}

impl Plan {
    fn parse(words: Vec<String>) -> Option<Self> {
        let [mode, address, clients, seconds] = words.try_into().ok()?;
        let mode = mode.parse().ok()?;
        let address = address.parse().map_or_else(|_| Address::Unix(address.into()), Address::Inet);
        let seconds = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
        let end = Instant::now().checked_add(seconds)?;
        let clients = clients.parse().ok()?;
        Some(Self { mode, address, clients, seconds, end, last_call: end + GRACE })
    }
}

fn main() -> ExitCode {
    let Some(plan) = Plan::parse(env::args().skip(1).collect()) else {
        eprintln!(
            "usage: load short|keepalive|udp|http|http-short|up|down ADDRESS CLIENTS SECONDS"
        );
        return ExitCode::from(2);
    };
    let outcome = match (plan.mode, &plan.address) {
        (Mode::Udp, Address::Inet(server)) => datagram::run(&plan, *server),
        (Mode::Udp, Address::Unix(_)) => Err(io::Error::other("no such mode with this address")),
        _ => stream::run(&plan),
    };
    match outcome {
        Ok(tally) => println!("{}", tally.into_json(&plan)),
        Err(error) => {
            eprintln!("load: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
