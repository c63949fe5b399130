//! A server that ends well: Ctrl-C or SIGTERM lets requests finish for up to two seconds, then closes
//! what is left, and says how much that was.
//!
//! ```console
//! $ cargo run --example graceful 127.0.0.1:9999
//! ```
//!
//! Signals are the program's own affair; the server only has to be told.
#![allow(clippy::print_stdout, reason = "it talks to its user")]

use std::io::{self, BufRead, Write};
use std::time::Duration;
use std::{env, error, thread};

use fastsocketserver::{Request, Server, Threads};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn upper(request: &mut Request) -> io::Result<()> {
    let (reader, writer) = request.split();
    for line in reader.lines() {
        writeln!(writer, "{}", line?.to_uppercase())?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn error::Error>> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".into());
    let mut server = Server::builder(upper).dispatch(Threads::new()).bind(&address.parse()?)?;
    let handle = server.handle();
    // Registered before anybody is told that the server is there.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    println!("listening on {}", server.local_addr()?);
    let ending = thread::spawn(move || {
        signals.forever().next();
        handle.drain(Duration::from_secs(2))
    });
    server.serve_forever()?;
    let closed = ending.join().expect("it does not panic");
    println!("closed {closed}");
    Ok(())
}
