//! A TCP server that answers each line in capitals, one client at a time.
//!
//! ```console
//! $ cargo run --example upper 127.0.0.1:9999
//! ```
#![allow(clippy::print_stdout, reason = "it talks to its user")]

use std::env;
use std::io::{self, BufRead, Write};

use fastsocketserver::{Error, Request, Server};

fn upper(request: &mut Request) -> io::Result<()> {
    let (reader, writer) = request.split();
    for line in reader.lines() {
        writeln!(writer, "{}", line?.to_uppercase())?;
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".into());
    let mut server = Server::builder(upper).bind(&address.parse()?)?;
    println!("listening on {}", server.local_addr()?);
    server.serve_forever()
}
