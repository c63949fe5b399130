//! A server on a Unix socket: at a path, or at a name of Linux's abstract namespace.
//!
//! ```console
//! $ cargo run --example unix unix:/tmp/upper.sock
//! $ cargo run --example unix unix:@upper
//! ```
#![allow(clippy::print_stdout, reason = "it talks to its user")]

use std::fs;
use std::io::{self, BufRead, Write};
use std::{env, error};

use fastsocketserver::{Address, Request, Server, Threads};

fn upper(request: &mut Request) -> io::Result<()> {
    let mut line = String::new();
    request.read_line(&mut line)?;
    request.write_all(line.to_uppercase().as_bytes())
}

fn main() -> Result<(), Box<dyn error::Error>> {
    let address = env::args().nth(1).unwrap_or("unix:/tmp/upper.sock".into()).parse()?;
    if let Address::UnixPath(path) = &address {
        // What an earlier run has left there; the server itself never removes files.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let mut server = Server::builder(upper).dispatch(Threads::new()).bind(&address)?;
    println!("listening on {}", server.local_addr()?);
    server.serve_forever()?;
    Ok(())
}
