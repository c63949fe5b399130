//! The services of the benchmark on tokio: a task for each connection, on one worker thread.
//!
//! ```text
//! tokio_tasks SERVICE DISPATCH ADDRESS
//! ```
//!
//! What is owed to the caller is said in `compare/contenders.py`, what the services are in
//! `compare/workloads.py`. The dispatch makes no difference.

use std::env;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGTERM;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [service, _dispatch, address] = &arguments[..] else {
        return Err(io::Error::other("usage: tokio_tasks SERVICE DISPATCH ADDRESS"));
    };
    signal_hook::flag::register_conditional_shutdown(SIGTERM, 0, Arc::new(AtomicBool::new(true)))?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_io().build()?;
    // As a task, so that it runs on the worker and not on this thread.
    let serving = runtime.spawn(serve(service.clone(), address.clone()));
    runtime.block_on(serving)?
}

async fn serve(service: String, address: String) -> io::Result<()> {
    let is_short = match &service[..] {
        "line" => true,
        "lines" => false,
        "datagram" => return serve_datagrams(UdpSocket::bind(address).await?).await,
        _ => return Err(io::Error::other("no such service")),
    };
    let listener = TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A client that is gone is no trouble.
            let _ = answer(stream, is_short).await;
        });
    }
}

async fn answer(mut stream: TcpStream, is_short: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).await? > 0 {
        writer.write_all(&line).await?;
        if is_short {
            break;
        }
        line.clear();
    }
    Ok(())
}

async fn serve_datagrams(socket: UdpSocket) -> io::Result<()> {
    println!("{}", socket.local_addr()?);
    let mut buffer = vec![0; 8192];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await?;
        // What finds no room is lost, as datagrams may be.
        let _ = socket.send_to(&buffer[..length], client).await;
    }
}
