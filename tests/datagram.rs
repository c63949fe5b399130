//! `Datagram`: receive, truncate, reply.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;

use fastsocketserver::{Address, Datagram, ListenOptions, Packet};

mod common;
use common::{DEADLINE, TempDir, inet, loopback, wait_for};

fn receive(socket: &Datagram) -> Packet {
    wait_for("a datagram", || match socket.receive() {
        Ok(packet) => Some(packet),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("receive: {error}"),
    })
}

#[test]
fn a_packet_keeps_its_bytes_and_its_sender() {
    let socket = Datagram::bind(&loopback(), &ListenOptions::default()).expect("bind");
    assert_eq!(socket.receive().expect_err("nothing yet").kind(), ErrorKind::WouldBlock);
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let server = inet(&socket.local_addr().expect("bound"));
    for data in [&b"hello"[..], b"", &[7; 8192]] {
        client.send_to(data, server).expect("send");
        let packet = receive(&socket);
        let peer = Address::from(client.local_addr().expect("bound"));
        assert_eq!(
            packet,
            Packet { data: data.to_vec(), truncated: false, peer: Some(peer.clone()) }
        );
        socket.send_to(b"answer", &peer).expect("send");
        let mut answer = [0; 16];
        assert_eq!(client.recv(&mut answer).expect("an answer"), 6);
    }
}

#[test]
fn a_packet_over_the_limit_is_cut_and_says_so() {
    let options = ListenOptions { max_packet_size: 4, ..ListenOptions::default() };
    let socket = Datagram::bind(&loopback(), &options).expect("bind");
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let server = inet(&socket.local_addr().expect("bound"));
    client.send_to(b"12345", server).expect("send");
    client.send_to(b"1234", server).expect("send");
    let (long, exact) = (receive(&socket), receive(&socket));
    assert_eq!((&long.data[..], long.truncated), (&b"1234"[..], true));
    assert_eq!((&exact.data[..], exact.truncated), (&b"1234"[..], false));
}

#[test]
fn a_unix_sender_without_a_name_has_no_address() {
    let folder = TempDir::new();
    let path = folder.path().join("socket");
    let socket =
        Datagram::bind(&Address::UnixPath(path.clone()), &ListenOptions::default()).expect("bind");
    let client = UnixDatagram::unbound().expect("a socket");
    client.send_to(b"hello", &path).expect("send");
    assert_eq!(receive(&socket).peer, None);
}
