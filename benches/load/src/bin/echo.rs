//! The services of the benchmark on bare mio, in one thread: what a server without features costs.
//!
//! ```text
//! echo SERVICE DISPATCH ADDRESS
//! ```
//!
//! What is owed to the caller is said in `compare/contenders.py`, what the services are in
//! `compare/workloads.py`. The dispatch makes no difference.

use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Registry, Token};
use signal_hook::consts::SIGTERM;

const MIB: usize = 1 << 20;
static DOWNLOAD: [u8; MIB] = [b'd'; MIB];

const LISTENER: Token = Token(usize::MAX);

fn main() -> ExitCode {
    match run(&env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> io::Result<()> {
    let [service, _dispatch, address] = arguments else {
        return Err(io::Error::other("usage: echo SERVICE DISPATCH ADDRESS"));
    };
    signal_hook::flag::register_conditional_shutdown(SIGTERM, 0, Arc::new(AtomicBool::new(true)))?;
    let bind = address.parse::<SocketAddr>();
    if service == "datagram" {
        let bind = bind.map_err(io::Error::other)?;
        return serve_datagrams(UdpSocket::bind(bind)?);
    }
    let service = Service::parse(service).ok_or(io::Error::other("no such service"))?;
    if let Ok(bind) = bind {
        let listener = TcpListener::bind(bind)?;
        println!("{}", listener.local_addr()?);
        serve_streams(listener, service)
    } else {
        let listener = UnixListener::bind(address)?;
        println!("{address}");
        serve_streams(listener, service)
    }
}

/// Waits for events; a signal is none.
fn wait(poll: &mut Poll, events: &mut Events) -> io::Result<()> {
    match poll.poll(events, None) {
        Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

fn serve_datagrams(mut socket: UdpSocket) -> io::Result<()> {
    println!("{}", socket.local_addr()?);
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(8);
    let mut buffer = vec![0; 1 << 16];
    poll.registry().register(&mut socket, LISTENER, Interest::READABLE)?;
    loop {
        wait(&mut poll, &mut events)?;
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            // What finds no room is lost, as datagrams may be.
            let _ = socket.send_to(&buffer[..length], client);
        }
    }
}

trait Listener: Source {
    type Stream: Read + Write + Source;

    fn accept(&self) -> io::Result<Self::Stream>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    fn accept(&self) -> io::Result<TcpStream> {
        self.accept().map(|(stream, _)| stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    fn accept(&self) -> io::Result<UnixStream> {
        self.accept().map(|(stream, _)| stream)
    }
}

fn serve_streams<L: Listener>(mut listener: L, service: Service) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 1 << 18];
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections: Vec<Option<Connection<L::Stream>>> = Vec::new();
    let mut vacant: Vec<usize> = Vec::new();
    loop {
        wait(&mut poll, &mut events)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok(stream) = listener.accept() {
                    let mut connection = Connection::new(stream);
                    // The first question is often there already.
                    if let Ok(true) = connection.go_on(service, &mut buffer, false) {
                        let place = vacant.pop().unwrap_or(connections.len());
                        if place == connections.len() {
                            connections.push(None);
                        }
                        connection.register(poll.registry(), Token(place))?;
                        connections[place] = Some(connection);
                    }
                }
                continue;
            }
            let place = event.token().0;
            // Closed by an event before this one.
            let Some(connection) = &mut connections[place] else { continue };
            if let Ok(true) = connection.go_on(service, &mut buffer, event.is_read_closed()) {
                connection.watch_writable(poll.registry(), event.token())?;
            } else {
                connections[place] = None;
                vacant.push(place);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    Line,
    Lines,
    Up,
    Down,
}

impl Service {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "line" => Self::Line,
            "lines" => Self::Lines,
            "up" => Self::Up,
            "down" => Self::Down,
            _ => return None,
        })
    }
}

struct Connection<S> {
    stream: S,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    /// Bytes received of a MiB that is not whole.
    received: usize,
    /// What the kernel had no room for.
    unsent: Vec<u8>,
    /// Bytes of `DOWNLOAD` still to be sent, the rest of one MiB and whole ones.
    owed: usize,
    watches_writable: bool,
}

impl<S: Read + Write + Source> Connection<S> {
    fn new(stream: S) -> Self {
        let (begun, unsent) = (Vec::new(), Vec::new());
        Self { stream, begun, received: 0, unsent, owed: 0, watches_writable: false }
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, Interest::READABLE)?;
        self.watch_writable(registry, token)
    }

    /// Has the kernel report when it has room, from when it first had none.
    fn watch_writable(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        if self.watches_writable || !self.is_blocked() {
            return Ok(());
        }
        self.watches_writable = true;
        registry.reregister(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    fn is_blocked(&self) -> bool {
        !self.unsent.is_empty() || self.owed > 0
    }

    /// Sends and receives what can be now; says whether the connection goes on. After a read that
    /// did not fill the buffer the kernel reports what comes, but not an `end` that it has reported.
    fn go_on(&mut self, service: Service, buffer: &mut [u8], end: bool) -> io::Result<bool> {
        self.flush()?;
        loop {
            let length = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            self.answer(service, &buffer[..length])?;
            if service == Service::Line && self.begun.is_empty() {
                return Ok(self.is_blocked());
            }
            if length < buffer.len() && !end {
                return Ok(true);
            }
        }
    }

    fn answer(&mut self, service: Service, data: &[u8]) -> io::Result<()> {
        match service {
            Service::Line | Service::Lines => {
                let whole = data.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
                if whole > 0 && self.begun.is_empty() {
                    self.send(&data[..whole])?;
                } else if whole > 0 {
                    let mut lines = std::mem::take(&mut self.begun);
                    lines.extend_from_slice(&data[..whole]);
                    self.send(&lines)?;
                }
                self.begun.extend_from_slice(&data[whole..]);
                Ok(())
            }
            Service::Up => {
                self.received += data.len();
                let whole = self.received / MIB;
                self.received %= MIB;
                if whole > 0 { self.send(&vec![b'.'; whole]) } else { Ok(()) }
            }
            Service::Down => {
                self.owed += data.len() * MIB;
                self.flush()
            }
        }
    }

    fn send(&mut self, data: &[u8]) -> io::Result<()> {
        // Nothing may overtake what waits already.
        let sent = if self.unsent.is_empty() { write(&mut self.stream, data)? } else { 0 };
        self.unsent.extend_from_slice(&data[sent..]);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.unsent.is_empty() {
            let sent = write(&mut self.stream, &self.unsent)?;
            self.unsent.drain(..sent);
        }
        while self.owed > 0 {
            let length = (self.owed - 1) % MIB + 1;
            let sent = write(&mut self.stream, &DOWNLOAD[MIB - length..])?;
            self.owed -= sent;
            if sent < length {
                break;
            }
        }
        Ok(())
    }
}

/// Writes until everything is written or the kernel has no room; says how much was.
fn write(stream: &mut impl Write, data: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < data.len() {
        match stream.write(&data[sent..]) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
