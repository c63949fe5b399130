//! `Stats`: exact, at each moment and in the end.

use std::io::{self, BufRead, Write};
use std::net::{Shutdown, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use fastsocketserver::{Error, Handler, ListenOptions, Request, Server, Stats, Threads};
use socket2::SockRef;

mod common;
use common::{DEADLINE, Running, ask, inet, loopback, wait_for};

/// Does what the line says; refuses every odd port.
struct Mixed;

impl Handler for Mixed {
    fn verify(&self, request: &Request) -> bool {
        request.peer().is_some_and(|peer| inet(peer).port() % 2 == 0)
    }

    fn handle(&self, request: &mut Request) -> io::Result<()> {
        let mut line = String::new();
        request.read_line(&mut line)?;
        match line.trim() {
            "fail" => Err(io::Error::other("asked for")),
            "panic" => panic!("asked for"),
            _ => request.write_all(b"fine"),
        }
    }
}

fn is_whole(stats: &Stats) -> bool {
    let ended = stats.finished + stats.failed + stats.refused;
    stats.accepted + stats.received == ended + stats.active as u64
}

#[test]
fn counts_are_exact_under_load() {
    const CLIENTS: u64 = 8;
    const EACH: u64 = 30;
    let running = Running::stream(Server::builder(Mixed).dispatch(Threads::new().max_threads(4)));
    let address = running.inet();
    let is_over = Arc::new(AtomicBool::new(false));
    let watching = {
        let (handle, is_over) = (running.handle.clone(), Arc::clone(&is_over));
        thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                let stats = handle.stats();
                assert!(is_whole(&stats), "{stats:?}");
                assert!(stats.active <= 4, "{stats:?}");
            }
        })
    };
    let client = move |number: u64| {
        let line =
            ["fine\n", "fail\n", "panic\n", "fine\n"][usize::try_from(number % 4).expect("small")];
        (0..EACH)
            .filter(|_| common::try_ask(address, line).is_ok_and(|answer| answer == "fine"))
            .count()
    };
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| thread::spawn(move || client(number))).collect();
    let fine: usize = clients.into_iter().map(|client| client.join().expect("no panic")).sum();
    let handle = running.handle.clone();
    running.shut_down();
    is_over.store(true, Ordering::SeqCst);
    watching.join().expect("always whole");
    let stats = handle.stats();
    assert_eq!(stats.accepted, CLIENTS * EACH);
    assert_eq!((stats.active, stats.finished), (0, fine as u64));
    assert!(is_whole(&stats) && stats.failed > 0, "{stats:?}");
}

#[test]
fn datagrams_that_are_cut_are_counted() {
    let options = ListenOptions { max_packet_size: 4, ..ListenOptions::default() };
    let echo = |request: &mut Request| {
        let data = request.packet().expect("a datagram").to_vec();
        request.write_all(&data)
    };
    let server = Server::builder(echo).options(options).bind_datagram(&loopback());
    let running = Running::new(server.expect("bind"));
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    for data in ["four", "five5"] {
        client.send_to(data.as_bytes(), running.inet()).expect("send");
        let mut answer = [0; 8];
        let length = client.recv(&mut answer).expect("an answer");
        assert_eq!(&answer[..length], &data.as_bytes()[..4]);
    }
    let handle = running.handle.clone();
    running.shut_down();
    let stats = handle.stats();
    assert_eq!((stats.received, stats.truncated, stats.finished), (2, 1, 2));
    assert_eq!(stats.accepted, 0);
}

#[cfg(target_os = "linux")]
#[test]
fn datagrams_that_the_kernel_drops_are_counted() {
    const SENT: u64 = 2000;
    let server = Server::builder(|_: &mut Request| Ok(())).bind_datagram(&loopback());
    let server = server.expect("bind");
    let address = inet(&server.local_addr().expect("bound"));
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    // Nobody receives meanwhile, and the socket's buffer holds a few hundred of this size.
    for _ in 0..SENT {
        client.send_to(&[0; 1024], address).expect("send");
    }
    let running = Running::new(server);
    wait_for("every datagram to be counted", || {
        let stats = running.handle.stats();
        (stats.received + stats.dropped == SENT && stats.dropped > 0).then_some(())
    });
    running.shut_down();
}

#[cfg(target_os = "linux")]
#[test]
fn failures_to_accept_are_counted_by_errno() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let other = listener.try_clone().expect("a descriptor");
    let mut server = Server::builder(|_: &mut Request| Ok(())).adopt(listener).expect("a listener");
    SockRef::from(&other).shutdown(Shutdown::Both).expect("no listener any more");
    let error = server.handle_request(Some(DEADLINE)).expect_err("nothing to accept from");
    assert!(matches!(error, Error::Take(_)), "{error:?}");
    let errno = error.io().and_then(io::Error::raw_os_error).expect("from the system");
    assert_eq!(server.handle().stats().accept_errors.get(&errno), Some(&1));
}

#[test]
fn nothing_is_counted_before_anything_happens() {
    let server = Server::builder(|_: &mut Request| Ok(())).bind(&loopback()).expect("bind");
    assert_eq!(server.handle().stats(), Stats::default());
    let running = Running::new(server);
    ask(running.inet(), "");
    let handle = running.handle.clone();
    running.shut_down();
    assert_eq!((handle.stats().accepted, handle.stats().finished), (1, 1));
}
