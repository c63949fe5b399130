//! A UDP server that answers each datagram in capitals.
//!
//! ```console
//! $ cargo run --example upper_udp 127.0.0.1:9999
//! ```
#![allow(clippy::print_stdout, reason = "it talks to its user")]

use std::env;
use std::io::{self, Write};

use fastsocketserver::{Error, Request, Server};

fn upper(request: &mut Request) -> io::Result<()> {
    let reply = request.packet().unwrap_or_default().to_ascii_uppercase();
    request.write_all(&reply)
}

fn main() -> Result<(), Error> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".into());
    let mut server = Server::builder(upper).bind_datagram(&address.parse()?)?;
    println!("listening on {}", server.local_addr()?);
    server.serve_forever()
}
