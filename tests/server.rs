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

/// A datagram server with `batch_size`, and a client of it.
fn datagram_server<H: Handler>(builder: Builder<H>, batch_size: usize) -> (Server<H>, UdpSocket) {
    let builder = builder.poll_interval(None).batch_size(batch_size);
    let server = builder.bind_datagram(&loopback()).expect("bind");
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.connect(inet(&server.local_addr().expect("bound"))).expect("connect");
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
    let (mut server, client) = datagram_server(Server::builder(Noting { events }), 16);
    let questions =
        ["a", "too long", "refused", "silent", "panic", "", "fail", "b", "too long", "c"];
    for question in questions {
        client.send(question.as_bytes()).expect("send");
    }
    let handle = server.handle();
    let thread = thread::spawn(move || server.serve_forever());
    let answers: Vec<_> = (0..4).map(|_| receive(&client)).collect();
    assert_eq!(answers, ["A", "begun", "B", "C"]);
    handle.shutdown();
    thread.join().expect("no panic").expect("served");
    let events: Vec<_> = noted.try_iter().collect();
    let too_long = client.send(&vec![0; 1 << 16]).expect_err("too long").raw_os_error();
    let refused = format!("too long: {too_long:?}");
    let mut expected = vec!["a", "too long", "silent", "panic", "", "fail", "fail: None"];
    if cfg!(any(target_os = "linux", target_os = "android")) {
        expected.extend(["b", "too long", "c", &refused, &refused]);
        assert_eq!(events, expected);
    } else {
        assert_eq!(events.iter().filter(|event| **event == refused).count(), 2);
    }
}

#[test]
fn a_batch_is_handled_whole_also_when_its_first_handler_shuts_down() {
    let slot = Arc::new(std::sync::OnceLock::<fastsocketserver::Handle>::new());
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
    assert_eq!(handled, if cfg!(any(target_os = "linux", target_os = "android")) { 1 } else { 3 });
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
    let answer = std::sync::Mutex::new(answer);
    let handler = move |request: &mut Request| {
        if request.packet() == Some(b"b") {
            answer.lock().expect("no panic").recv_timeout(DEADLINE).expect("the first answer");
        }
        upper(request)
    };
    let builder = Server::builder(handler).dispatch(Threads::default());
    let (mut server, client) = datagram_server(builder, 16);
    for text in ["a", "b"] {
        client.send(text.as_bytes()).expect("send");
    }
    let handle = server.handle();
    let thread = thread::spawn(move || server.serve_forever());
    assert_eq!(receive(&client), "A");
    answered.send(()).expect("a receiver");
    assert_eq!(receive(&client), "B");
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
