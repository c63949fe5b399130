//! Clients of a datagram server: one socket, and a question of each client under way.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};

use crate::mode::Mode;
use crate::tally::Tally;
use crate::{Plan, TICK};

/// After how long without an answer a question is sent again.
const PATIENCE: Duration = Duration::from_millis(200);

pub(crate) fn run(plan: &Plan, server: SocketAddr) -> io::Result<Tally> {
    let mut socket = match server {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into())?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0).into())?,
    };
    socket.connect(server)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut socket, Token(0), Interest::READABLE)?;
    let mut events = Events::with_capacity(8);
    let mut tally = Tally::default();
    let mut now = Instant::now();
    let new = |number| Client { number, answers: 0, asked: now, sent: None };
    let mut clients: Vec<Client> = (0..plan.clients).map(new).collect();
    for client in &mut clients {
        client.ask(&socket, &mut tally);
    }
    let mut tick = now + TICK;
    while now < plan.last_call {
        match poll.poll(&mut events, Some(TICK)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => receive(plan, &socket, &mut clients, &mut tally),
        }
        now = Instant::now();
        if now >= tick {
            for client in &mut clients {
                if client.sent.is_some_and(|sent| now > sent + PATIENCE) {
                    tally.resent += 1;
                    client.send(&socket, &mut tally);
                }
            }
            if now >= plan.end && clients.iter().all(|client| client.sent.is_none()) {
                break;
            }
            tick = now + TICK;
        }
    }
    tally.unanswered = clients.iter().filter(|client| client.answers == 0).count();
    Ok(tally)
}

/// Takes all answers that are there, and has those clients ask their next questions.
fn receive(plan: &Plan, socket: &UdpSocket, clients: &mut [Client], tally: &mut Tally) {
    let mut buffer = [0; 4096];
    loop {
        let answer = match socket.recv(&mut buffer) {
            Ok(length) => &buffer[..length],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // The kernel passes on that nobody listens at the server's address.
            Err(error) => return tally.error(error),
        };
        let (number, count) = asker(answer).unwrap_or((usize::MAX, 0));
        let right = *answer == *Mode::Udp.question(number, count);
        match clients.get_mut(number) {
            Some(client) if right && count == client.answers => {
                tally.answer(plan, client.asked, true);
                client.answers += 1;
                client.sent = None;
                if Instant::now() < plan.end {
                    client.ask(socket, tally);
                }
            }
            // The second answer to a question that was sent again.
            Some(client) if right && count < client.answers => {}
            _ => tally.answer(plan, plan.end, false),
        }
    }
}

/// Whose question is answered, and how many others it had asked before.
fn asker(answer: &[u8]) -> Option<(usize, usize)> {
    let hex = |range| {
        let digits = std::str::from_utf8(answer.get(range)?).ok()?;
        usize::from_str_radix(digits, 16).ok()
    };
    Some((hex(0..8)?, hex(8..16)?))
}

struct Client {
    number: usize,
    /// Answers that it has got.
    answers: usize,
    /// When it asked what it has asked last.
    asked: Instant,
    /// When that was sent last; `None` once it has been answered.
    sent: Option<Instant>,
}

impl Client {
    fn ask(&mut self, socket: &UdpSocket, tally: &mut Tally) {
        self.asked = Instant::now();
        self.send(socket, tally);
    }

    fn send(&mut self, socket: &UdpSocket, tally: &mut Tally) {
        self.sent = Some(Instant::now());
        match socket.send(&Mode::Udp.question(self.number, self.answers)) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => tally.error(error),
            // What found no room is sent again like what got lost.
            _ => {}
        }
    }
}
