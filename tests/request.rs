//! `Request`, `Reader` and `Writer`: connections and datagrams, as a handler sees them.

use std::io::{self, BufRead, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use fastsocketserver::{Address, Request, Server, Threads};
use socket2::SockRef;

mod common;
use common::{DEADLINE, Running, TempDir, ask, loopback};

#[test]
fn lines_can_be_read_and_answered_one_by_one() {
    let upper = |request: &mut Request| {
        let (reader, writer) = request.split();
        for line in reader.lines() {
            writeln!(writer, "{}", line?.to_uppercase())?;
        }
        Ok(())
    };
    let running = Running::stream(Server::builder(upper));
    let mut client = running.connect();
    let mut answers = io::BufReader::new(client.try_clone().expect("a descriptor"));
    for line in ["one", "two", "three"] {
        client.write_all(format!("{line}\n").as_bytes()).expect("write");
        let mut answer = String::new();
        answers.read_line(&mut answer).expect("an answer");
        assert_eq!(answer, line.to_uppercase() + "\n");
    }
    drop((client, answers));
    running.shut_down();
}

#[test]
fn bytes_behind_a_line_are_read_by_whoever_reads_next() {
    let parts = |request: &mut Request| {
        let (mut line, mut two, mut rest) = (String::new(), [0; 2], Vec::new());
        request.read_line(&mut line)?;
        assert_eq!(request.read(&mut [])?, 0);
        request.read_exact(&mut two)?;
        request.read_to_end(&mut rest)?;
        write!(request, "{}|{}|{}", line.trim(), two.escape_ascii(), rest.len())
    };
    let running = Running::stream(Server::builder(parts));
    let mut client = running.connect();
    client.write_all(b"line\nab").expect("write");
    client.write_all(&vec![b'c'; 100_000]).expect("write");
    client.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "line|ab|100000");
    running.shut_down();
}

#[test]
fn a_connection_has_a_peer_and_a_socket_and_no_packet() {
    let about = |request: &mut Request| {
        assert!(request.packet().is_none() && !request.is_truncated());
        assert_eq!(request.as_fd().as_raw_fd(), request.as_raw_fd());
        let peer = SockRef::from(&*request).peer_addr()?;
        assert_eq!(peer.as_socket().map(Address::from).as_ref(), request.peer());
        assert!(SockRef::from(&*request).tcp_nodelay()?);
        request.write_all(b"right")
    };
    let running = Running::stream(Server::builder(about));
    assert_eq!(ask(running.inet(), ""), "right");
    running.shut_down();
}

#[test]
fn reading_can_be_given_a_limit_of_time() {
    let impatient = |request: &mut Request| {
        SockRef::from(&*request).set_read_timeout(Some(Duration::from_millis(1)))?;
        match request.read(&mut [0; 1]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => request.write_all(b"late"),
            outcome => panic!("{outcome:?}"),
        }
    };
    let running = Running::stream(Server::builder(impatient).dispatch(Threads::new()));
    assert_eq!(ask(running.inet(), ""), "late");
    running.shut_down();
}

#[test]
fn a_datagram_is_read_like_a_stream_and_answered_at_once() {
    let upper = |request: &mut Request| {
        assert_eq!(request.packet(), Some(&b"one\ntwo"[..]));
        let (reader, writer) = request.split();
        for line in reader.lines() {
            writeln!(writer, "{}", line?.to_uppercase())?;
        }
        assert_eq!(request.packet(), Some(&b"one\ntwo"[..]));
        Ok(())
    };
    let running = Running::new(Server::builder(upper).bind_datagram(&loopback()).expect("bind"));
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.send_to(b"one\ntwo", running.inet()).expect("send");
    let mut answer = [0; 16];
    let length = client.recv(&mut answer).expect("an answer");
    assert_eq!(&answer[..length], b"ONE\nTWO\n");
    running.shut_down();
}

#[test]
fn nothing_is_replied_to_a_datagram_that_failed() {
    let moody = |request: &mut Request| {
        let data = request.packet().expect("a datagram").to_vec();
        request.write_all(&data)?;
        if data == b"fail" { Err(io::Error::other("asked for")) } else { Ok(()) }
    };
    let running = Running::new(Server::builder(moody).bind_datagram(&loopback()).expect("bind"));
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    for data in ["fail", "fine"] {
        client.send_to(data.as_bytes(), running.inet()).expect("send");
    }
    let mut answer = [0; 16];
    let length = client.recv(&mut answer).expect("an answer");
    assert_eq!(&answer[..length], b"fine", "inline, so the first has been handled before");
    running.shut_down();
}

#[test]
fn a_sender_without_an_address_gets_no_reply() {
    let folder = TempDir::new();
    let path = folder.path().join("socket");
    let address = Address::UnixPath(path.clone());
    let (sender, received) = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let note = move |request: &mut Request| {
        let sender = sender.lock().expect("no panic");
        sender.send(request.peer().cloned()).expect("a receiver");
        request.write_all(b"to nobody")
    };
    let running = Running::new(Server::builder(note).bind_datagram(&address).expect("bind"));
    let client = UnixDatagram::unbound().expect("a socket");
    client.send_to(b"hello", &path).expect("send");
    assert_eq!(received.recv_timeout(DEADLINE), Ok(None));
    let handle = running.handle.clone();
    running.shut_down();
    assert_eq!(handle.stats().finished, 1);
}
