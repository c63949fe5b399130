//! `Listener`: bind, listen, accept.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use fastsocketserver::{Address, ListenOptions, Listener};

mod common;
use common::{TempDir, accept, loopback, socket_address};

#[test]
fn accept_does_not_wait() {
    let listener = Listener::bind(&loopback(), &ListenOptions::default()).expect("bind");
    let error = listener.accept().expect_err("nobody has connected");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn an_accepted_connection_blocks_and_names_its_peer() {
    for text in ["127.0.0.1:0", "[::1]:0"] {
        let listener =
            Listener::bind(&text.parse().expect(text), &ListenOptions::default()).expect("bind");
        let mut client = TcpStream::connect(socket_address(&listener)).expect("connect");
        let (mut socket, peer) = accept(&listener);
        assert_eq!(peer, Address::from(client.local_addr().expect("connected")));
        assert!(!socket.nonblocking().expect("mode"));
        client.write_all(b"hello").expect("write");
        let mut buffer = [0; 5];
        socket.read_exact(&mut buffer).expect("read");
        assert_eq!(&buffer, b"hello");
    }
}

#[test]
fn a_unix_client_without_a_name_is_unnamed() {
    let folder = TempDir::new();
    let path = folder.path().join("socket");
    let address = Address::UnixPath(path.clone());
    let listener = Listener::bind(&address, &ListenOptions::default()).expect("bind");
    assert_eq!(listener.local_addr().expect("bound"), address);
    let _client = UnixStream::connect(&path).expect("connect");
    assert_eq!(accept(&listener).1, Address::UnixUnnamed);
}

#[test]
fn an_address_in_use_is_refused() {
    let first = Listener::bind(&loopback(), &ListenOptions::default()).expect("bind");
    let address = first.local_addr().expect("bound");
    let error = Listener::bind(&address, &ListenOptions::default()).expect_err("in use");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

#[test]
fn a_port_can_be_shared_where_both_ask_for_it() {
    let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
    let first = Listener::bind(&loopback(), &options).expect("bind");
    let address = first.local_addr().expect("bound");
    let second = Listener::bind(&address, &options).expect("shared");
    assert_ne!(first.as_raw_fd(), second.as_raw_fd());
}
