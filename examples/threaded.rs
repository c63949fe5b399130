//! A counter that all clients share; each has a thread of its own, of at most 100.
//!
//! ```console
//! $ cargo run --example threaded 127.0.0.1:9999
//! ```
#![allow(clippy::print_stdout, reason = "it talks to its user")]

use std::env;
use std::io::{self, BufRead, Write};
use std::sync::atomic::{AtomicI64, Ordering};

use fastsocketserver::{Error, Handler, Request, Server, Threads};

/// Adds what each line says, and answers with the sum so far.
#[derive(Default)]
struct Sum(AtomicI64);

impl Handler for Sum {
    fn handle(&self, request: &mut Request) -> io::Result<()> {
        let (reader, writer) = request.split();
        for line in reader.lines() {
            let number: i64 = line?.trim().parse().map_err(io::Error::other)?;
            let sum = self.0.fetch_add(number, Ordering::Relaxed).wrapping_add(number);
            writeln!(writer, "{sum}")?;
        }
        Ok(())
    }

    fn error(&self, request: &Request, error: &io::Error) {
        eprintln!("{:?}: {error}", request.peer());
    }
}

fn main() -> Result<(), Error> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".into());
    let threads = Threads::new().max_threads(100);
    let mut server = Server::builder(Sum::default()).dispatch(threads).bind(&address.parse()?)?;
    println!("listening on {}", server.local_addr()?);
    server.serve_forever()
}
