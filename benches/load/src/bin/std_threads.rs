//! The services of the benchmark with the standard library alone: a thread for each connection, and one
//! datagram at a time.
//!
//! ```text
//! std_threads SERVICE DISPATCH ADDRESS
//! ```
//!
//! What is owed to the caller is said in `compare/contenders.py`, what the services are in
//! `compare/workloads.py`. The dispatch makes no difference.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use signal_hook::consts::SIGTERM;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [service, _dispatch, address] = &arguments[..] else {
        return Err(io::Error::other("usage: std_threads SERVICE DISPATCH ADDRESS"));
    };
    signal_hook::flag::register_conditional_shutdown(SIGTERM, 0, Arc::new(AtomicBool::new(true)))?;
    let is_short = match &service[..] {
        "line" => true,
        "lines" => false,
        "datagram" => return serve_datagrams(&UdpSocket::bind(address)?),
        _ => return Err(io::Error::other("no such service")),
    };
    let listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            // A client that is gone is no trouble.
            let _ = answer(&stream, is_short);
        });
    }
    Ok(())
}

fn answer(mut stream: &TcpStream, is_short: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        stream.write_all(&line)?;
        if is_short {
            break;
        }
        line.clear();
    }
    Ok(())
}

fn serve_datagrams(socket: &UdpSocket) -> io::Result<()> {
    println!("{}", socket.local_addr()?);
    let mut buffer = vec![0; 8192];
    loop {
        let (length, client) = socket.recv_from(&mut buffer)?;
        // What finds no room is lost, as datagrams may be.
        let _ = socket.send_to(&buffer[..length], client);
    }
}
