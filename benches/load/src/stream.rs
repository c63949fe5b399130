//! Clients of stream servers.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Registry, Token};

use crate::mode::Mode;
use crate::tally::Tally;
use crate::{Address, Plan, TICK};

pub(crate) fn run(plan: &Plan) -> io::Result<Tally> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 1 << 16];
    let mut tally = Tally::default();
    let mut clients: Vec<Client> = (0..plan.clients).map(Client::new).collect();
    let mut now = Instant::now();
    let mut tick = now;
    while now < plan.last_call {
        if now >= tick {
            // Those that are yet to begin, that failed, or that have finished.
            for client in clients.iter_mut().filter(|client| client.connection.is_none()) {
                client.begin(plan, poll.registry(), &mut tally);
            }
            if clients.iter().all(|client| client.connection.is_none()) && now >= plan.end {
                break;
            }
            tick = now + TICK;
        }
        match poll.poll(&mut events, Some(TICK)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            clients[event.token().0].go_on(plan, poll.registry(), &mut buffer, &mut tally);
        }
        now = Instant::now();
    }
    tally.unanswered = clients.iter().filter(|client| client.answers == 0).count();
    Ok(tally)
}

trait Stream: Read + Write + Source {}
impl<T: Read + Write + Source> Stream for T {}

struct Client {
    number: usize,
    /// `None` before the first, and after trouble until the next tick.
    connection: Option<Box<dyn Stream>>,
    question: Cow<'static, [u8]>,
    /// Bytes of the question that have been sent.
    sent: usize,
    answer: Vec<u8>,
    /// When it set out to get the answer: connecting counts.
    since: Instant,
    /// Answers that it has got.
    answers: usize,
}

impl Client {
    fn new(number: usize) -> Self {
        let (connection, question, answer) = (None, Cow::default(), Vec::new());
        Self { number, connection, question, sent: 0, answer, since: Instant::now(), answers: 0 }
    }

    /// Asks the next question, over a new connection if it takes one; not when the time is over.
    fn begin(&mut self, plan: &Plan, registry: &Registry, tally: &mut Tally) {
        self.since = Instant::now();
        self.question = plan.mode.question(self.number, self.answers);
        self.sent = 0;
        self.answer.clear();
        let over = self.since >= plan.end;
        if over || plan.mode.is_short() {
            self.connection = None;
        }
        if over {
            return;
        }
        if let Err(error) = self.connect(&plan.address, registry).and_then(|()| self.send()) {
            self.fail(&error, tally);
        }
    }

    fn fail(&mut self, error: &io::Error, tally: &mut Tally) {
        self.connection = None;
        tally.error(error);
    }

    fn connect(&mut self, address: &Address, registry: &Registry) -> io::Result<()> {
        if self.connection.is_none() {
            let mut connection: Box<dyn Stream> = match address {
                Address::Inet(address) => Box::new(TcpStream::connect(*address)?),
                Address::Unix(path) => Box::new(UnixStream::connect(path)?),
            };
            let interest = Interest::READABLE | Interest::WRITABLE;
            registry.register(&mut connection, Token(self.number), interest)?;
            self.connection = Some(connection);
        }
        Ok(())
    }

    /// Sends as much of the question as can be sent now.
    fn send(&mut self) -> io::Result<()> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        while self.sent < self.question.len() {
            match connection.write(&self.question[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) if is_not_yet(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Does what the connection allows now.
    fn go_on(&mut self, plan: &Plan, registry: &Registry, buffer: &mut [u8], tally: &mut Tally) {
        match self.send().and_then(|()| self.receive(plan.mode, buffer)) {
            Ok(false) => {}
            Ok(true) => {
                let right = plan.mode.is_right(&self.question, &self.answer);
                tally.answer(plan, self.since, right);
                self.answers += 1;
                self.begin(plan, registry, tally);
            }
            Err(error) => self.fail(&error, tally),
        }
    }

    /// Receives what is there, and says whether the answer is whole: as the mode says or, with a
    /// connection for each question, when the stream has ended.
    fn receive(&mut self, mode: Mode, buffer: &mut [u8]) -> io::Result<bool> {
        let Some(connection) = &mut self.connection else { return Ok(false) };
        let to_end = mode.is_short();
        loop {
            match connection.read(buffer) {
                Ok(0) if to_end && !self.answer.is_empty() => return Ok(true),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.answer.extend_from_slice(&buffer[..length]),
                Err(error) if is_not_yet(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
            if !to_end && mode.is_whole(&self.answer) {
                return Ok(true);
            }
        }
    }
}

/// Not connected yet, or the kernel's buffer is full or empty: an event will come.
fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}
