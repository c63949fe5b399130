//! Batches of datagrams in a `Server`: their replies, and how counts, limits, endings and pauses hold.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use fastsocketserver::dispatch::{Refused, Task};
use fastsocketserver::{
    Builder, Dispatch, Handle, Handler, Inline, ListenOptions, Request, Server, Stats, Threads,
};

mod common;
use common::{Counting, DEADLINE, Running, inet, loopback, wait_for};

/// Whether one call receives several datagrams here.
const BATCHES: bool = cfg!(any(target_os = "linux", target_os = "android"));

fn upper(request: &mut Request) -> io::Result<()> {
    let mut text = String::new();
    request.read_to_string(&mut text)?;
    request.write_all(text.to_uppercase().as_bytes())
}

/// Notes what it handles, and what goes wrong; `too long` is answered with more than fits.
struct Noting {
    events: mpsc::Sender<String>,
}

impl Handler for Noting {
    fn verify(&self, request: &Request) -> bool {
        request.packet() != Some(b"refused")
    }

    fn handle(&self, request: &mut Request) -> io::Result<()> {
        let mut text = String::new();
        request.read_to_string(&mut text)?;
        self.events.send(text.clone()).expect("a receiver");
        match &text[..] {
            "too long" => request.write_all(&vec![0; 1 << 16]),
            "panic" => {
                request.write_all(b"begun")?;
                panic!("asked for")
            }
            "fail" => {
                request.write_all(b"lost")?;
                Err(io::Error::other("asked for"))
            }
            "silent" => Ok(()),
            _ => request.write_all(text.to_uppercase().as_bytes()),
        }
    }

    fn error(&self, request: &Request, error: &io::Error) {
        let text = String::from_utf8_lossy(request.packet().unwrap_or_default()).into_owned();
        self.events.send(format!("{text}: {:?}", error.raw_os_error())).expect("a receiver");
    }
}

/// A client of `server`.
fn client_of<H: Handler>(server: &Server<H>) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.connect(inet(&server.local_addr().expect("bound"))).expect("connect");
    client
}

/// A datagram server with `batch_size`, and a client of it.
fn datagram_server<H: Handler>(builder: Builder<H>, batch_size: usize) -> (Server<H>, UdpSocket) {
    let builder = builder.poll_interval(None).batch_size(batch_size);
    let server = builder.bind_datagram(&loopback()).expect("bind");
    let client = client_of(&server);
    (server, client)
}

fn receive(client: &UdpSocket) -> String {
    let mut answer = [0; 16];
    let length = client.recv(&mut answer).expect("an answer");
    String::from_utf8(answer[..length].to_vec()).expect("text")
}

#[test]
fn a_batch_is_handled_then_answered_in_order_each_error_with_its_own_request() {
    let (events, noted) = mpsc::channel();
    let (server, client) = datagram_server(Server::builder(Noting { events }), 16);
    let questions =
        ["a", "too long", "refused", "silent", "panic", "", "fail", "b", "too long", "c"];
    for question in questions {
        client.send(question.as_bytes()).expect("send");
    }
    let running = Running::new(server);
    let answers: Vec<_> = (0..3).map(|_| receive(&client)).collect();
    assert_eq!(answers, ["A", "B", "C"]);
    running.shut_down();
    let events: Vec<_> = noted.try_iter().collect();
    let too_long = client.send(&vec![0; 1 << 16]).expect_err("too long").raw_os_error();
    let refused = format!("too long: {too_long:?}");
    let mut expected = vec!["a", "too long", "silent", "panic", "", "fail", "fail: None"];
    if BATCHES {
        expected.extend(["b", "too long", "c", &refused, &refused]);
        assert_eq!(events, expected);
    } else {
        assert_eq!(events.iter().filter(|event| **event == refused).count(), 2);
    }
}

#[test]
fn a_batch_is_handled_whole_also_when_its_first_handler_shuts_down() {
    let slot = Arc::new(OnceLock::<Handle>::new());
    let handle = Arc::clone(&slot);
    let stop = move |request: &mut Request| {
        handle.get().expect("set").shutdown();
        upper(request)
    };
    let (mut server, client) = datagram_server(Server::builder(stop), 3);
    slot.set(server.handle()).expect("unset");
    for text in ["a", "b", "c", "d"] {
        client.send(text.as_bytes()).expect("send");
    }
    server.serve_forever().expect("served");
    // What was not received is there for whoever serves next, one by one.
    let mut handled = 0;
    while server.handle_request(Some(Duration::ZERO)).expect("handled") {
        handled += 1;
    }
    assert_eq!(handled, if BATCHES { 1 } else { 3 });
    let answers: Vec<_> = (0..4).map(|_| receive(&client)).collect();
    assert_eq!(answers, ["A", "B", "C", "D"]);
}

#[test]
fn one_request_without_a_loop_is_one_datagram_whatever_the_batch_size() {
    let (events, noted) = mpsc::channel();
    let (mut server, client) = datagram_server(Server::builder(Noting { events }), 16);
    for text in ["a", "b"] {
        client.send(text.as_bytes()).expect("send");
    }
    for text in ["a", "b"] {
        assert!(server.handle_request(Some(DEADLINE)).expect("handled"));
        assert_eq!(noted.try_iter().collect::<Vec<_>>(), [text]);
        assert_eq!(receive(&client), text.to_uppercase());
    }
}

#[test]
fn threads_answer_each_datagram_of_a_batch_without_waiting_for_the_others() {
    // The handler of the second waits until the client has the answer to the first.
    let (answered, answer) = mpsc::channel::<()>();
    let answer = Mutex::new(answer);
    let handler = move |request: &mut Request| {
        if request.packet() == Some(b"b") {
            answer.lock().expect("no panic").recv_timeout(DEADLINE).expect("the first answer");
        }
        upper(request)
    };
    let builder = Server::builder(handler).dispatch(Threads::default());
    let (server, client) = datagram_server(builder, 16);
    for text in ["a", "b"] {
        client.send(text.as_bytes()).expect("send");
    }
    let running = Running::new(server);
    assert_eq!(receive(&client), "A");
    answered.send(()).expect("a receiver");
    assert_eq!(receive(&client), "B");
    running.shut_down();
}

/// Notes the counts before each request, and does what it says; refuses what says so.
struct Counted {
    handle: Arc<OnceLock<Handle>>,
    seen: mpsc::Sender<Stats>,
}

impl Handler for Counted {
    fn verify(&self, request: &Request) -> bool {
        request.packet() != Some(b"refused")
    }

    fn handle(&self, request: &mut Request) -> io::Result<()> {
        let handle = self.handle.get().expect("set");
        self.seen.send(handle.stats()).expect("a receiver");
        match request.packet() {
            Some(b"fail") => Err(io::Error::other("asked for")),
            Some(b"panic") => panic!("asked for"),
            Some(b"too much") => request.write_all(&vec![0; 1 << 16]),
            _ => upper(request),
        }
    }
}

/// A server of `Counted`, with batches of 16 datagrams that are 8 bytes long at most.
fn counted_server() -> (Server<Counted>, UdpSocket, mpsc::Receiver<Stats>) {
    let handle = Arc::new(OnceLock::new());
    let (seen, has_seen) = mpsc::channel();
    let builder = Server::builder(Counted { handle: Arc::clone(&handle), seen });
    let options = ListenOptions { max_packet_size: 8, ..ListenOptions::default() };
    let (server, client) = datagram_server(builder.options(options), 16);
    assert!(handle.set(server.handle()).is_ok(), "unset");
    (server, client, has_seen)
}

fn ended(stats: &Stats) -> u64 {
    stats.finished + stats.failed + stats.refused
}

#[test]
fn each_datagram_of_a_batch_is_counted_from_the_first_handler_to_its_own_end() {
    let (server, client, seen) = counted_server();
    let questions =
        ["a", "refused", "fail", "cut after 8", "panic", "too much", "b", "refused", "c"];
    for question in questions {
        client.send(question.as_bytes()).expect("send");
    }
    let running = Running::new(server);
    wait_for("all to have ended", || (ended(&running.handle.stats()) == 9).then_some(()));
    let stats = running.handle.stats();
    assert_eq!((stats.received, stats.truncated, stats.refused), (9, 1, 2));
    assert_eq!((stats.finished, stats.failed, stats.active), (4, 3, 0));
    let answers: Vec<_> = (0..4).map(|_| receive(&client)).collect();
    assert_eq!(answers, ["A", "CUT AFTE", "B", "C"]);
    running.shut_down();
    let seen: Vec<_> = seen.try_iter().collect();
    for stats in &seen {
        assert_eq!(stats.received, ended(stats) + stats.active as u64, "{stats:?}");
    }
    if BATCHES {
        // Only what failed before its reply has ended before the last handler has.
        let active: Vec<_> = seen.iter().map(|stats| stats.active).collect();
        assert_eq!(active, [7, 7, 6, 6, 5, 5, 5]);
        assert!(seen.iter().all(|stats| (stats.received, stats.finished) == (9, 0)), "{seen:?}");
    }
}

#[test]
fn a_batch_is_handled_whole_when_its_first_handler_pauses_and_no_more_is_taken_then() {
    let slot = Arc::new(OnceLock::<Handle>::new());
    let handle = Arc::clone(&slot);
    let pause = move |request: &mut Request| {
        if request.packet() == Some(b"pause") {
            handle.get().expect("set").pause();
        }
        upper(request)
    };
    let (dispatch, rounds) = Counting::new(Inline);
    let builder = Server::builder(pause).dispatch(dispatch).batch_size(2);
    let builder = builder.poll_interval(Some(Duration::from_millis(1)));
    let server = builder.bind_datagram(&loopback()).expect("bind");
    let client = client_of(&server);
    assert!(slot.set(server.handle()).is_ok(), "unset");
    for question in ["pause", "a", "b"] {
        client.send(question.as_bytes()).expect("send");
    }
    let running = Running::new(server);
    assert_eq!(receive(&client), "PAUSE");
    rounds.pass();
    assert_eq!(running.handle.stats().finished, if BATCHES { 2 } else { 1 });
    running.handle.resume();
    assert_eq!([receive(&client), receive(&client)], ["A", "B"]);
    running.shut_down();
}

/// Handlers that wait, each for one message.
fn gated() -> (impl Handler, mpsc::Sender<()>) {
    let (open, gate) = mpsc::channel();
    let gate = Mutex::new(gate);
    let handler = move |request: &mut Request| {
        gate.lock().expect("no panic").recv_timeout(DEADLINE).expect("to be let go");
        upper(request)
    };
    (handler, open)
}

#[test]
fn no_more_datagrams_are_received_than_there_are_places() {
    let (handler, open) = gated();
    let (dispatch, rounds) = Counting::new(Threads::new().max_threads(2));
    let builder = Server::builder(handler).dispatch(dispatch);
    let builder = builder.batch_size(16).poll_interval(Some(Duration::from_millis(1)));
    let server = builder.bind_datagram(&loopback()).expect("bind");
    let client = client_of(&server);
    let questions = ["a", "b", "c", "d", "e"];
    for question in questions {
        client.send(question.as_bytes()).expect("send");
    }
    let running = Running::new(server);
    wait_for("all places to be taken", || (running.handle.stats().active == 2).then_some(()));
    rounds.pass();
    assert_eq!(running.handle.stats().received, 2, "the kernel has the others");
    let mut answers = HashSet::new();
    for _ in questions {
        open.send(()).expect("a receiver");
        answers.insert(receive(&client));
        assert!(running.handle.stats().active <= 2);
    }
    assert_eq!(answers, questions.map(str::to_uppercase).into());
    let handle = running.handle.clone();
    running.shut_down();
    let stats = handle.stats();
    assert_eq!((stats.received, stats.finished, stats.active), (5, 5, 0));
}

#[test]
fn drain_counts_all_of_a_batch_and_loses_none() {
    let (handler, open) = gated();
    let (server, client) = datagram_server(Server::builder(handler), 16);
    for question in ["a", "b", "c"] {
        client.send(question.as_bytes()).expect("send");
    }
    let running = Running::new(server);
    let taken = if BATCHES { 3 } else { 1 };
    wait_for("the first to be handled", || (running.handle.stats().active == taken).then_some(()));
    assert_eq!(running.handle.drain(Duration::ZERO), taken);
    for _ in 0..taken {
        open.send(()).expect("a receiver");
    }
    let handle = running.handle.clone();
    running.join();
    let answers: Vec<_> = (0..taken).map(|_| receive(&client)).collect();
    assert_eq!(answers, ["A", "B", "C"][..taken]);
    assert_eq!((handle.stats().finished, handle.stats().active), (taken as u64, 0));
}

/// Runs nothing as often as told, then in the loop's thread.
struct Reluctant(Arc<AtomicUsize>);

impl Dispatch for Reluctant {
    fn dispatch(&mut self, task: Task) -> Result<(), Refused> {
        let left = |left: usize| left.checked_sub(1);
        if self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
            return Err(Refused { task, error: io::ErrorKind::WouldBlock.into() });
        }
        Inline.dispatch(task)
    }

    fn is_inline(&self) -> bool {
        true
    }
}

#[test]
fn a_batch_waits_whole_for_a_dispatch_that_refuses_for_a_while() {
    let refusals = Arc::new(AtomicUsize::new(3));
    let builder = Server::builder(upper).dispatch(Reluctant(Arc::clone(&refusals)));
    let (server, client) = datagram_server(builder, 16);
    for question in ["a", "b", "c"] {
        client.send(question.as_bytes()).expect("send");
    }
    let running = Running::new(server);
    let answers: Vec<_> = (0..3).map(|_| receive(&client)).collect();
    assert_eq!(answers, ["A", "B", "C"]);
    assert_eq!(refusals.load(Ordering::SeqCst), 0);
    running.shut_down();
}

#[test]
fn what_of_a_batch_can_never_be_started_is_counted_in_the_end() {
    let refusals = Arc::new(AtomicUsize::new(usize::MAX));
    let builder = Server::builder(upper).dispatch(Reluctant(Arc::clone(&refusals)));
    let (server, client) = datagram_server(builder, 16);
    for question in ["a", "b", "c"] {
        client.send(question.as_bytes()).expect("send");
    }
    let running = Running::new(server);
    let taken = if BATCHES { 3 } else { 1 };
    wait_for("the batch to wait", || (running.handle.stats().active == taken).then_some(()));
    let handle = running.handle.clone();
    running.shut_down();
    let stats = handle.stats();
    assert_eq!((stats.received, stats.failed, stats.active), (taken as u64, taken as u64, 0));
}

#[test]
fn an_adopted_socket_has_batches_too() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let (handler, open) = gated();
    let server = Server::builder(handler).batch_size(16).adopt(socket).expect("a socket");
    let client = client_of(&server);
    for question in ["a", "b"] {
        client.send(question.as_bytes()).expect("send");
    }
    let running = Running::new(server);
    let taken = if BATCHES { 2 } else { 1 };
    wait_for("the batch", || (running.handle.stats().active == taken).then_some(()));
    for _ in 0..2 {
        open.send(()).expect("a receiver");
    }
    assert_eq!([receive(&client), receive(&client)], ["A", "B"]);
    running.shut_down();
}
