//! `Builder`: each kind of socket, opened and adopted.

use std::io::{BufRead, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use fastsocketserver::{Address, Builder, Handler, ListenOptions, Request, Server};

mod common;
use common::{DEADLINE, Running, TempDir, ask};

fn upper() -> Builder<impl Handler> {
    Server::builder(|request: &mut Request| {
        let mut line = String::new();
        request.read_line(&mut line)?;
        request.write_all(line.to_uppercase().as_bytes())
    })
}

fn ask_unix(mut client: UnixStream) -> String {
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.write_all(b"hello\n").expect("write");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    answer
}

fn ask_datagram(server: std::net::SocketAddr) -> Vec<u8> {
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.send_to(b"hello", server).expect("send");
    let mut answer = [0; 16];
    let length = client.recv(&mut answer).expect("an answer");
    answer[..length].to_vec()
}

#[test]
fn ipv4_and_ipv6_are_served() {
    for text in ["127.0.0.1:0", "[::1]:0"] {
        let running = Running::new(upper().bind(&text.parse().expect(text)).expect("bind"));
        assert_eq!(ask(running.inet(), "hello\n"), "HELLO\n");
        running.shut_down();
    }
}

#[test]
fn a_path_is_served() {
    let folder = TempDir::new();
    let path = folder.path().join("socket");
    let running = Running::new(upper().bind(&Address::UnixPath(path.clone())).expect("bind"));
    assert_eq!(ask_unix(UnixStream::connect(path).expect("connect")), "HELLO\n");
    running.shut_down();
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_is_served() {
    use std::os::linux::net::SocketAddrExt;

    let name = format!("fastsocketserver-builder-{}", std::process::id());
    let address = Address::UnixAbstract(name.clone().into_bytes());
    let running = Running::new(upper().bind(&address).expect("bind"));
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("a name");
    assert_eq!(ask_unix(UnixStream::connect_addr(&address).expect("connect")), "HELLO\n");
    running.shut_down();
}

#[test]
fn a_dual_stack_server_takes_ipv4_and_another_does_not() {
    for dual_stack in [true, false] {
        let options = ListenOptions { dual_stack: Some(dual_stack), ..ListenOptions::default() };
        let builder = upper().options(options);
        let running = Running::new(builder.bind(&"[::]:0".parse().expect("ours")).expect("bind"));
        let port = running.inet().port();
        assert_eq!(TcpStream::connect(("127.0.0.1", port)).is_ok(), dual_stack);
        assert_eq!(ask(([0, 0, 0, 0, 0, 0, 0, 1], port).into(), "hello\n"), "HELLO\n");
        running.shut_down();
    }
}

#[test]
fn listeners_of_std_are_adopted() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let running = Running::new(upper().adopt(listener).expect("a listener"));
    assert_eq!(ask(running.inet(), "hello\n"), "HELLO\n");
    running.shut_down();

    let folder = TempDir::new();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).expect("bind");
    let running = Running::new(upper().adopt(listener).expect("a listener"));
    assert_eq!(ask_unix(UnixStream::connect(path).expect("connect")), "HELLO\n");
    running.shut_down();
}

#[test]
fn datagram_sockets_of_std_are_adopted() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let running = Running::new(upper().adopt(socket).expect("a socket"));
    assert_eq!(ask_datagram(running.inet()), b"HELLO");
    running.shut_down();

    let folder = TempDir::new();
    let [server, client] = ["server", "client"].map(|name| folder.path().join(name));
    let socket = UnixDatagram::bind(&server).expect("bind");
    let running = Running::new(upper().adopt(socket).expect("a socket"));
    let client = UnixDatagram::bind(client).expect("bind");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.send_to(b"hello", server).expect("send");
    let mut answer = [0; 16];
    let length = client.recv(&mut answer).expect("an answer");
    assert_eq!(&answer[..length], b"HELLO");
    running.shut_down();
}

#[test]
fn a_descriptor_is_adopted_in_either_mode() {
    for nonblocking in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(nonblocking).expect("a mode");
        let running = Running::new(upper().adopt(OwnedFd::from(listener)).expect("a listener"));
        assert_eq!(ask(running.inet(), "hello\n"), "HELLO\n");
        running.shut_down();
    }
}
