//! A server that answers each client from a process of its own, of at most 8: one that crashes takes
//! nobody with it.
//!
//! ```console
//! $ cargo run --example forking 127.0.0.1:9999
//! ```
#![allow(clippy::print_stdout, reason = "it talks to its user")]

use std::env;
use std::io::{self, BufRead, Write};
use std::process;

use fastsocketserver::{Error, Fork, Request, Server};

fn answer(request: &mut Request) -> io::Result<()> {
    let mut line = String::new();
    request.read_line(&mut line)?;
    match line.trim() {
        "crash" => process::abort(),
        text => writeln!(request, "{text}, says process {}", process::id()),
    }
}

fn main() -> Result<(), Error> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".into());
    let mut server =
        Server::builder(answer).dispatch(Fork::new().max_children(8)).bind(&address.parse()?)?;
    println!("listening on {}", server.local_addr()?);
    server.serve_forever()
}
