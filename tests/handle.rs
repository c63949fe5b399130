//! `Handle`: drain, pause and resume, shutdown.

use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fastsocketserver::{Dispatch, Handler, Inline, Request, Server, Threads};

mod common;
use common::{Counting, DEADLINE, Running, ask, loopback, wait_for};

/// Reads to the end of the stream, and says when it has begun and what it has read.
struct UntilEnd {
    begun: Mutex<mpsc::Sender<()>>,
    read: Mutex<mpsc::Sender<usize>>,
}

impl UntilEnd {
    fn new() -> (Self, mpsc::Receiver<()>, mpsc::Receiver<usize>) {
        let ((begun, has_begun), (read, has_read)) = (mpsc::channel(), mpsc::channel());
        (Self { begun: Mutex::new(begun), read: Mutex::new(read) }, has_begun, has_read)
    }
}

impl Handler for UntilEnd {
    fn handle(&self, request: &mut Request) -> io::Result<()> {
        self.begun.lock().expect("no panic").send(()).expect("a receiver");
        let read = request.read_to_end(&mut Vec::new())?;
        self.read.lock().expect("no panic").send(read).expect("a receiver");
        Ok(())
    }
}

#[test]
fn drain_waits_for_requests_that_end_in_time() {
    let (handler, begun, read) = UntilEnd::new();
    let running = Running::stream(Server::builder(handler).dispatch(Threads::new()));
    let mut client = running.connect();
    begun.recv_timeout(DEADLINE).expect("begun");
    let handle = running.handle.clone();
    let draining = thread::spawn(move || handle.drain(DEADLINE));
    client.write_all(b"the rest").expect("write");
    drop(client);
    assert_eq!(draining.join().expect("no panic"), 0);
    assert_eq!(read.recv_timeout(DEADLINE), Ok(8));
    let stats = running.handle.stats();
    assert_eq!((stats.active, stats.finished), (0, 1));
    running.join();
}

fn drain_cuts_short(dispatch: impl Dispatch + 'static) {
    let (handler, begun, read) = UntilEnd::new();
    let running = Running::stream(Server::builder(handler).dispatch(dispatch));
    let mut client = running.connect();
    begun.recv_timeout(DEADLINE).expect("begun");
    assert_eq!(running.handle.drain(Duration::from_millis(1)), 1);
    assert_eq!(read.recv_timeout(DEADLINE), Ok(0), "its handler sees the end");
    assert_eq!(client.read(&mut [0; 1]).expect("the end"), 0);
    running.join();
}

#[test]
fn drain_ends_connections_that_are_left() {
    drain_cuts_short(Threads::new());
}

#[test]
fn drain_ends_the_connection_that_the_loops_own_thread_is_busy_with() {
    drain_cuts_short(Inline);
}

#[test]
fn drain_of_a_server_that_does_not_serve_is_noted() {
    let mut server = Server::builder(|_: &mut Request| Ok(())).bind(&loopback()).expect("bind");
    assert_eq!(server.handle().drain(DEADLINE), 0);
    server.serve_forever().expect("served");
}

#[test]
fn a_paused_server_takes_nothing_until_it_is_resumed() {
    let (dispatch, rounds) = Counting::new(Inline);
    let hello = |request: &mut Request| request.write_all(b"hello");
    let builder = Server::builder(hello).dispatch(dispatch);
    let builder = builder.poll_interval(Some(Duration::from_millis(1)));
    let running = Running::new(builder.bind(&loopback()).expect("bind"));
    running.handle.pause();
    rounds.pass();
    let mut client = running.connect();
    rounds.pass();
    assert_eq!(running.handle.stats().accepted, 0);
    running.handle.resume();
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "hello");
    running.shut_down();
}

#[test]
fn resuming_wakes_the_loop() {
    let hello = |request: &mut Request| request.write_all(b"hello");
    let server = Server::builder(hello).poll_interval(None).bind(&loopback()).expect("bind");
    server.handle().pause();
    let running = Running::new(server);
    let address = running.inet();
    let client = thread::spawn(move || ask(address, ""));
    running.handle.resume();
    assert_eq!(client.join().expect("no panic"), "hello");
    running.shut_down();
}

#[test]
fn a_handler_in_a_thread_of_its_own_can_ask_for_the_end() {
    let slot = Arc::new(std::sync::OnceLock::<fastsocketserver::Handle>::new());
    let handle = Arc::clone(&slot);
    let stop = move |_: &mut Request| {
        handle.get().expect("set").request_shutdown();
        Ok(())
    };
    let server = Server::builder(stop).dispatch(Threads::new()).poll_interval(None);
    let server = server.bind(&loopback()).expect("bind");
    slot.set(server.handle()).expect("unset");
    let running = Running::new(server);
    let _client = running.connect();
    running.join();
}

#[test]
fn a_handle_does_not_keep_the_port() {
    let server = Server::builder(|_: &mut Request| Ok(())).bind(&loopback()).expect("bind");
    let address = server.local_addr().expect("bound");
    let handle = server.handle();
    drop(server);
    let again = Server::builder(|_: &mut Request| Ok(())).bind(&address).expect("free");
    assert_eq!(handle.stats().active, 0);
    drop(again);
}

#[test]
fn idle_threads_are_counted() {
    let hello = |request: &mut Request| request.write_all(b"hello");
    let running = Running::stream(Server::builder(hello).dispatch(Threads::new()));
    assert_eq!(running.handle.stats().idle_threads, 0);
    assert_eq!(ask(running.inet(), ""), "hello");
    wait_for("an idle thread", || (running.handle.stats().idle_threads == 1).then_some(()));
    let handle = running.handle.clone();
    running.shut_down();
    assert_eq!(handle.stats().idle_threads, 0);
}
