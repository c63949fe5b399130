//! `Server`: each dispatch, endings, and what one bad request does not do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fastsocketserver::{Builder, Dispatch, Fork, Handler, Inline, Request, Server, Threads};

mod common;
use common::{DEADLINE, ask, inet, loopback};

fn upper(request: &mut Request) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&mut *request).read_line(&mut line)?;
    request.write_all(line.to_uppercase().as_bytes())
}

/// Serves `builder` on a stream while `client` runs, then shuts down.
fn serve<H: Handler>(builder: Builder<H>, client: impl FnOnce(std::net::SocketAddr)) {
    let mut server = builder.poll_interval(None).bind(&loopback()).expect("bind");
    let address = inet(&server.local_addr().expect("bound"));
    let handle = server.handle();
    let thread = thread::spawn(move || server.serve_forever());
    client(address);
    handle.shutdown();
    thread.join().expect("no panic").expect("served");
}

fn answers_on(dispatch: impl Dispatch + 'static) {
    serve(Server::builder(upper).dispatch(dispatch), |address| {
        for _ in 0..20 {
            assert_eq!(ask(address, "hello\n"), "HELLO\n");
        }
    });
}

#[test]
fn inline_answers() {
    answers_on(Inline);
}

#[test]
fn threads_answer() {
    answers_on(Threads::default());
}

#[test]
fn forks_answer_also_when_children_must_wait_for_each_other() {
    answers_on(Fork::new().max_children(1));
}

#[test]
fn threads_run_at_the_same_time() {
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let met = move |request: &mut Request| {
        barrier.wait();
        request.write_all(b"met")
    };
    serve(Server::builder(met).dispatch(Threads::default()), |address| {
        let other = thread::spawn(move || ask(address, ""));
        assert_eq!(ask(address, ""), "met");
        assert_eq!(other.join().expect("no panic"), "met");
    });
}

#[test]
fn serving_ends_only_when_the_threads_have() {
    let ended = Arc::new(AtomicBool::new(false));
    let (entered, entrance) = mpsc::channel();
    let entered = std::sync::Mutex::new(entered);
    let noted = Arc::clone(&ended);
    let slow = move |request: &mut Request| {
        entered.lock().expect("no panic").send(()).expect("a receiver");
        // Until the client, which goes when shutdown() has been called.
        request.read_to_end(&mut Vec::new())?;
        noted.store(true, Ordering::SeqCst);
        Ok(())
    };
    let mut server =
        Server::builder(slow).dispatch(Threads::default()).bind(&loopback()).expect("bind");
    let address = inet(&server.local_addr().expect("bound"));
    let handle = server.handle();
    let serving = thread::spawn(move || server.serve_forever());
    let client = std::net::TcpStream::connect(address).expect("connect");
    entrance.recv_timeout(DEADLINE).expect("the handler has begun");
    let stopping = thread::spawn(move || handle.shutdown());
    assert!(!ended.load(Ordering::SeqCst));
    drop(client);
    stopping.join().expect("no panic");
    serving.join().expect("no panic").expect("served");
    assert!(ended.load(Ordering::SeqCst));
}

struct Faulty {
    errors: mpsc::SyncSender<String>,
}

impl Handler for Faulty {
    fn verify(&self, request: &Request) -> bool {
        request.peer().is_some()
    }

    fn handle(&self, request: &mut Request) -> io::Result<()> {
        let mut line = String::new();
        BufReader::new(&mut *request).read_line(&mut line)?;
        match line.trim() {
            "panic" => panic!("asked for"),
            "fail" => Err(io::Error::other("asked for")),
            _ => request.write_all(b"fine"),
        }
    }

    fn error(&self, _request: &Request, error: &io::Error) {
        self.errors.send(error.to_string()).expect("a receiver");
    }
}

#[test]
fn an_error_or_a_panic_ends_one_request_alone() {
    let (errors, received) = mpsc::sync_channel(8);
    serve(Server::builder(Faulty { errors }), |address| {
        assert_eq!(ask(address, "fail\n"), "");
        assert_eq!(received.recv_timeout(DEADLINE).expect("told"), "asked for");
        assert_eq!(ask(address, "panic\n"), "");
        assert_eq!(ask(address, "fine\n"), "fine");
        assert!(received.try_recv().is_err(), "a panic is no error of the handler's");
    });
}

struct Closed(Arc<AtomicUsize>);

impl Handler for Closed {
    fn verify(&self, _request: &Request) -> bool {
        false
    }

    fn handle(&self, _request: &mut Request) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn a_refused_request_is_closed_unhandled() {
    let handled = Arc::new(AtomicUsize::new(0));
    serve(Server::builder(Closed(Arc::clone(&handled))), |address| {
        assert_eq!(ask(address, ""), "");
    });
    assert_eq!(handled.load(Ordering::SeqCst), 0);
}

#[test]
fn datagrams_are_answered_and_their_limits_told() {
    let mut server = Server::builder(upper).bind_datagram(&loopback()).expect("bind");
    let address = inet(&server.local_addr().expect("bound"));
    let handle = server.handle();
    let thread = thread::spawn(move || server.serve_forever());
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.send_to(b"hello", address).expect("send");
    let mut answer = [0; 16];
    let length = client.recv(&mut answer).expect("an answer");
    assert_eq!(&answer[..length], b"HELLO");
    handle.shutdown();
    thread.join().expect("no panic").expect("served");
}

#[test]
fn shutdown_before_serving_is_noted() {
    let mut server = Server::builder(upper).poll_interval(None).bind(&loopback()).expect("bind");
    server.handle().shutdown();
    server.serve_forever().expect("served");
    // And forgotten: the next run serves.
    let address = inet(&server.local_addr().expect("bound"));
    let handle = server.handle();
    let thread = thread::spawn(move || server.serve_forever());
    assert_eq!(ask(address, "again\n"), "AGAIN\n");
    handle.shutdown();
    thread.join().expect("no panic").expect("served");
}

#[test]
fn shutdown_from_the_handler_on_the_loops_thread_does_not_wait() {
    let slot = Arc::new(std::sync::OnceLock::<fastsocketserver::Handle>::new());
    let handle = Arc::clone(&slot);
    let stop = move |_request: &mut Request| {
        handle.get().expect("set").shutdown();
        Ok(())
    };
    let mut server = Server::builder(stop).poll_interval(None).bind(&loopback()).expect("bind");
    slot.set(server.handle()).expect("unset");
    let address = inet(&server.local_addr().expect("bound"));
    let thread = thread::spawn(move || server.serve_forever());
    ask(address, "");
    thread.join().expect("no panic").expect("served");
}

#[test]
fn one_request_can_be_handled_without_a_loop() {
    let mut server = Server::builder(upper).bind(&loopback()).expect("bind");
    assert!(!server.handle_request(Some(Duration::ZERO)).expect("waited"));
    let address = inet(&server.local_addr().expect("bound"));
    let client = thread::spawn(move || ask(address, "one\n"));
    assert!(server.handle_request(Some(DEADLINE)).expect("handled"));
    assert_eq!(client.join().expect("no panic"), "ONE\n");
}

#[cfg(target_os = "linux")]
#[test]
fn no_signal_handler_is_installed() {
    let caught = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
        let line = status.lines().find(|line| line.starts_with("SigCgt:"));
        line.expect("what signals are caught").to_owned()
    };
    let before = caught();
    for threads in [true, false] {
        let builder = Server::builder(upper);
        let builder =
            if threads { builder.dispatch(Threads::new()) } else { builder.dispatch(Fork::new()) };
        serve(builder, |address| {
            assert_eq!(ask(address, "hello\n"), "HELLO\n");
            assert_eq!(caught(), before);
        });
    }
}
