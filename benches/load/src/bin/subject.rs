//! The services of the benchmark on this project's crate.
//!
//! ```text
//! subject [--batch-size N] SERVICE DISPATCH ADDRESS
//! ```
//!
//! What is owed to the caller is said in `compare/contenders.py`, what the services are in
//! `compare/workloads.py`.

use std::env;
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use fastsocketserver::{Builder, Handler, Inline, Request, Server, Threads};
use signal_hook::consts::SIGTERM;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (batch_size, arguments) = match &arguments[..] {
        [option, size, arguments @ ..] if option == "--batch-size" => {
            (size.parse().map_err(io::Error::other)?, arguments)
        }
        arguments => (1, arguments),
    };
    let [service, dispatch, address] = arguments else {
        let usage = "usage: subject [--batch-size N] SERVICE DISPATCH ADDRESS";
        return Err(io::Error::other(usage));
    };
    signal_hook::flag::register_conditional_shutdown(SIGTERM, 0, Arc::new(AtomicBool::new(true)))?;
    match &service[..] {
        "line" => serve(Server::builder(answer_line), dispatch, address, false),
        "lines" => serve(Server::builder(answer_lines), dispatch, address, false),
        "datagram" => {
            let builder = Server::builder(answer_datagram).batch_size(batch_size);
            serve(builder, dispatch, address, true)
        }
        _ => Err(io::Error::other("no such service")),
    }
}

fn serve(
    builder: Builder<impl Handler>,
    dispatch: &str,
    address: &str,
    is_datagram: bool,
) -> io::Result<()> {
    let builder = match dispatch {
        "inline" => builder.dispatch(Inline),
        "threads" => builder.dispatch(Threads::new()),
        _ => return Err(io::Error::other("no such dispatch")),
    };
    let address = address.parse().map_err(io::Error::other)?;
    let mut server =
        if is_datagram { builder.bind_datagram(&address)? } else { builder.bind(&address)? };
    println!("{}", server.local_addr()?);
    Ok(server.serve_forever()?)
}

fn answer_line(request: &mut Request) -> io::Result<()> {
    let mut line = Vec::new();
    request.read_until(b'\n', &mut line)?;
    request.write_all(&line)
}

fn answer_lines(request: &mut Request) -> io::Result<()> {
    let mut line = Vec::new();
    while request.read_until(b'\n', &mut line)? > 0 {
        request.write_all(&line)?;
        line.clear();
    }
    Ok(())
}

fn answer_datagram(request: &mut Request) -> io::Result<()> {
    let (reader, writer) = request.split();
    io::copy(reader, writer).map(drop)
}
