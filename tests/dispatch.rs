//! `Dispatch`: what happens at its limit, and when it can start nothing.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use fastsocketserver::dispatch::{Dispatch, Refused, Task};
use fastsocketserver::{Request, Server, Threads};

mod common;
use common::{DEADLINE, Running, ask, echo, loopback, wait_for};

#[test]
fn a_freed_thread_takes_a_connection_that_waited() {
    common::more_clients_than_places(Threads::new().max_threads(3), 3);
}

#[test]
fn no_more_threads_than_the_limit_handle_requests() {
    common::takes_no_more_than(Threads::new().max_threads(2), 2);
}

#[test]
fn a_server_at_its_limit_can_be_shut_down() {
    let running = Running::stream(Server::builder(echo).dispatch(Threads::new().max_threads(1)));
    let client = running.connect();
    wait_for("the place to be taken", || (running.handle.stats().active == 1).then_some(()));
    running.handle.request_shutdown();
    drop(client);
    running.join();
}

/// Starts nothing so many times, then a thread.
struct Reluctant {
    refusals: Arc<AtomicUsize>,
    threads: Threads,
}

impl Dispatch for Reluctant {
    fn dispatch(&mut self, task: Task) -> Result<(), Refused> {
        let left = |left: usize| left.checked_sub(1);
        if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
            return Err(Refused { task, error: io::ErrorKind::WouldBlock.into() });
        }
        self.threads.dispatch(task)
    }

    fn close(&mut self) {
        self.threads.close();
    }
}

#[test]
fn nothing_is_lost_when_no_thread_can_be_started_for_a_while() {
    let refusals = Arc::new(AtomicUsize::new(3));
    let dispatch = Reluctant { refusals: Arc::clone(&refusals), threads: Threads::new() };
    let running = Running::stream(Server::builder(echo).dispatch(dispatch));
    let address = running.inet();
    let clients: Vec<_> = (0..5).map(|_| thread::spawn(move || ask(address, "a\n"))).collect();
    for client in clients {
        assert_eq!(client.join().expect("no panic"), "a\n");
    }
    assert_eq!(refusals.load(Ordering::SeqCst), 0);
    running.shut_down();
}

#[test]
fn what_can_never_be_started_is_closed_in_the_end() {
    let dispatch =
        Reluctant { refusals: Arc::new(AtomicUsize::new(usize::MAX)), threads: Threads::new() };
    let running = Running::stream(Server::builder(echo).dispatch(dispatch));
    let mut client = running.connect();
    wait_for("the request to be held", || (running.handle.stats().active == 1).then_some(()));
    let handle = running.handle.clone();
    running.shut_down();
    assert_eq!(client.read(&mut [0; 1]).expect("the end"), 0);
    assert_eq!(handle.stats().failed, 1);
}

#[test]
fn one_request_can_be_handled_at_a_time_at_the_limit_without_a_loop() {
    let builder = Server::builder(echo).dispatch(Threads::new().max_threads(1));
    let mut server = builder.bind(&loopback()).expect("bind");
    let address = common::inet(&server.local_addr().expect("bound"));
    let first = std::net::TcpStream::connect(address).expect("connect");
    assert!(server.handle_request(Some(DEADLINE)).expect("handled"));
    let second = thread::spawn(move || ask(address, "b\n"));
    assert!(!server.handle_request(Some(Duration::from_millis(1))).expect("no place"));
    drop(first);
    assert!(server.handle_request(Some(DEADLINE)).expect("handled"));
    assert_eq!(second.join().expect("no panic"), "b\n");
}

#[test]
fn requests_one_after_the_other_share_a_thread() {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    let name = move |_: &mut Request| {
        sender.lock().expect("no panic").send(thread::current().id()).expect("a receiver");
        Ok(())
    };
    let running = Running::stream(Server::builder(name).dispatch(Threads::new()));
    let mut threads = HashSet::new();
    for _ in 0..5 {
        let _client = running.connect();
        threads.insert(receiver.recv_timeout(DEADLINE).expect("handled"));
        wait_for("an idle thread", || (running.handle.stats().idle_threads == 1).then_some(()));
    }
    assert_eq!(threads.len(), 1);
    running.shut_down();
}
