//! Asks an echo server as fast as it answers, checks every answer, and prints one JSON object.
//!
//! ```text
//! load short|keepalive|udp ADDRESS CLIENTS SECONDS
//! ```
//!
//! `ADDRESS` is `127.0.0.1:9999`, `[::1]:9999` or, for a Unix stream socket, its path. A question is
//! a line of 32 bytes that says who asks and how often it has; the right answer is the same line.
//!
//! - `short`: each client connects, asks once and reads until the server ends the connection, over
//!   and over.
//! - `keepalive`: each client connects once and asks over and over.
//! - `udp`: one socket, with a question of each client under way; what got lost is sent again.
//!
//! Questions that are under way when the time is over are waited for up to a second longer; they
//! are checked but not counted. Trouble is counted, and never ends the run.

mod datagram;
mod stream;
mod tally;

use std::env;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often a run looks after clients that nothing is heard of.
const TICK: Duration = Duration::from_millis(10);
const GRACE: Duration = Duration::from_secs(1);

struct Plan {
    mode: String,
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
        let address = address.parse().map_or_else(|_| Address::Unix(address.into()), Address::Inet);
        let seconds = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
        let end = Instant::now().checked_add(seconds)?;
        let clients = clients.parse().ok()?;
        Some(Self { mode, address, clients, seconds, end, last_call: end + GRACE })
    }
}

/// The question that `client` asks after `count` others.
fn question(client: usize, count: usize) -> String {
    format!("{client:08x}{count:08x} are you well?\n")
}

fn main() -> ExitCode {
    let Some(plan) = Plan::parse(env::args().skip(1).collect()) else {
        eprintln!("usage: load short|keepalive|udp ADDRESS CLIENTS SECONDS");
        return ExitCode::from(2);
    };
    let outcome = match (&*plan.mode, &plan.address) {
        ("short" | "keepalive", _) => stream::run(&plan),
        ("udp", Address::Inet(server)) => datagram::run(&plan, *server),
        _ => Err(io::Error::other("no such mode, or not with this address")),
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
