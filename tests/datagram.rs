//! `Datagram`: receive, truncate, reply.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;

use fastsocketserver::{Address, Batch, Datagram, ListenOptions, Packet};
use socket2::SockRef;

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

/// A socket, and a client that is connected to it.
fn socket_and_client(options: &ListenOptions) -> (Datagram, UdpSocket) {
    let socket = Datagram::bind(&loopback(), options).expect("bind");
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.connect(inet(&socket.local_addr().expect("bound"))).expect("connect");
    (socket, client)
}

/// Receives batches until `count` datagrams have come; says how many calls brought some.
fn receive_batches(socket: &Datagram, batch: &mut Batch, count: usize) -> (Vec<Packet>, usize) {
    let (mut packets, mut calls) = (Vec::new(), 0);
    while packets.len() < count {
        wait_for("a batch", || match socket.receive_batch(batch) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("receive: {error}"),
        });
        assert!(!batch.is_empty());
        assert!(batch.len() <= batch.capacity());
        calls += 1;
        packets.extend(std::iter::from_fn(|| batch.pop()));
    }
    (packets, calls)
}

#[test]
fn batches_keep_order_bytes_and_sender_also_when_more_is_waiting_than_fits() {
    let (socket, client) = socket_and_client(&ListenOptions::default());
    let other = UdpSocket::bind("127.0.0.1:0").expect("bind");
    other.connect(inet(&socket.local_addr().expect("bound"))).expect("connect");
    let mut expected = Vec::new();
    for number in 0..40_u8 {
        let sender = if number % 3 == 0 { &other } else { &client };
        // Among them empty ones.
        let data = vec![number; usize::from(number % 5)];
        sender.send(&data).expect("send");
        let peer = Some(sender.local_addr().expect("bound").into());
        expected.push(Packet { data, truncated: false, peer });
    }
    for capacity in [1, 7, 16] {
        let mut batch = socket.batch(capacity);
        assert_eq!(batch.capacity(), capacity);
        assert_eq!(batch.pop(), None);
    }
    let (packets, calls) = receive_batches(&socket, &mut socket.batch(16), 40);
    assert_eq!(packets, expected);
    if cfg!(any(target_os = "linux", target_os = "android")) {
        assert_eq!(calls, 3);
    }
    let nothing = socket.receive_batch(&mut socket.batch(16)).expect_err("nothing is left");
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
}

#[test]
fn nothing_is_received_over_what_is_left_in_a_batch() {
    let (socket, client) = socket_and_client(&ListenOptions::default());
    for number in 0..4 {
        client.send(&[number]).expect("send");
    }
    let mut batch = socket.batch(2);
    let mut seen = Vec::new();
    while seen.len() < 4 {
        wait_for("a batch", || socket.receive_batch(&mut batch).ok());
        let left = batch.len();
        socket.receive_batch(&mut batch).expect("what is left is there");
        assert_eq!(batch.len(), left);
        seen.extend(batch.pop().map(|packet| packet.data[0]));
    }
    assert_eq!(seen, [0, 1, 2, 3]);
}

#[test]
fn packets_over_the_limit_are_cut_in_a_batch_each_for_itself() {
    for limit in [0, 4] {
        let options = ListenOptions { max_packet_size: limit, ..ListenOptions::default() };
        let (socket, client) = socket_and_client(&options);
        let sent = [&b"12345"[..], b"", b"1234", b"123456789", b"1"];
        for data in sent {
            client.send(data).expect("send");
        }
        let (packets, _) = receive_batches(&socket, &mut socket.batch(16), sent.len());
        for (packet, data) in packets.iter().zip(sent) {
            assert_eq!(packet.data, data[..data.len().min(limit)]);
            assert_eq!(packet.truncated, data.len() > limit);
        }
    }
}

#[test]
fn a_batch_takes_no_more_memory_than_a_megabyte_unless_one_packet_does() {
    let capacities = [(1000, 8192), (1000, 0), (0, 8192), (64, 1 << 16), (64, 1 << 24)];
    let batches = capacities.map(|(count, size)| Batch::new(count, size).capacity());
    assert_eq!(batches, [64, 64, 1, 16, 1]);
}

#[test]
fn an_error_of_the_socket_comes_once_and_loses_no_datagram() {
    let (socket, client) = socket_and_client(&ListenOptions::default());
    let peer = client.local_addr().expect("bound");
    // A connected socket is told that nobody listens where it has sent to.
    SockRef::from(&socket).connect(&peer.into()).expect("connect");
    client.send(b"before").expect("send");
    client.send(b"gone").expect("send");
    drop(client);
    socket.send_to(b"to nobody", &peer.into()).expect("send");
    let mut batch = socket.batch(16);
    let (mut errors, mut seen) = (Vec::new(), Vec::new());
    wait_for("the error and both datagrams", || {
        match socket.receive_batch(&mut batch) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => errors.push(error.kind()),
            Ok(()) => seen.extend(std::iter::from_fn(|| batch.pop()).map(|packet| packet.data)),
        }
        (errors.len() + seen.len() >= 3).then_some(())
    });
    assert_eq!(errors, [ErrorKind::ConnectionRefused]);
    assert_eq!(seen, [&b"before"[..], b"gone"]);
}

#[test]
fn unix_senders_with_and_without_names_share_a_batch() {
    let folder = TempDir::new();
    let path = folder.path().join("socket");
    let socket =
        Datagram::bind(&Address::UnixPath(path.clone()), &ListenOptions::default()).expect("bind");
    let unnamed = UnixDatagram::unbound().expect("a socket");
    let long = folder.path().join("client-with-a-long-name");
    let short = folder.path().join("c");
    let named = [&long, &short].map(|name| UnixDatagram::bind(name).expect("bind"));
    named[0].send_to(b"long", &path).expect("send");
    unnamed.send_to(b"", &path).expect("send");
    named[1].send_to(b"short", &path).expect("send");
    let mut batch = socket.batch(3);
    // Twice, so that nothing of the first addresses is left in the second.
    for _ in 0..2 {
        let (packets, _) = receive_batches(&socket, &mut batch, 3);
        let peers: Vec<_> = packets.iter().map(|packet| packet.peer.clone()).collect();
        let path_of = |path: &std::path::PathBuf| Some(Address::UnixPath(path.clone()));
        assert_eq!(peers, [path_of(&long), None, path_of(&short)]);
        assert_eq!(packets.iter().map(|packet| packet.data.len()).sum::<usize>(), 9);
        for data in [&b"long"[..], b"", b"short"] {
            let sender = match data.len() {
                4 => &named[0],
                5 => &named[1],
                _ => &unnamed,
            };
            sender.send_to(data, &path).expect("send");
        }
    }
}

#[test]
fn a_batch_of_messages_leaves_in_order_but_for_those_that_cannot() {
    let (socket, client) = socket_and_client(&ListenOptions::default());
    let peer = Address::from(client.local_addr().expect("bound"));
    let too_long = vec![0; 1 << 16];
    let bad = Address::UnixPath("/".repeat(200).into());
    let words: Vec<String> = (0..100).map(|number| format!("message {number}")).collect();
    let mut messages: Vec<(&[u8], &Address)> =
        words.iter().map(|word| (word.as_bytes(), &peer)).collect();
    // The first, the last, two in a row, one beside a border between two calls, an empty one.
    for at in [0, 40, 41, 64] {
        messages.insert(at, (&too_long[..], &peer));
    }
    messages.push((&too_long[..], &peer));
    messages.insert(50, (b"nowhere", &bad));
    messages.push((b"", &peer));
    let mut failures = Vec::new();
    socket.send_batch(&messages, |index, error| failures.push((index, error)));
    failures.sort_by_key(|(index, _)| *index);
    let (indices, errors): (Vec<_>, Vec<_>) = failures.into_iter().unzip();
    assert_eq!(indices, [0, 40, 41, 50, 65, 105]);
    let single = socket.send_to(&too_long[..], &peer).expect_err("too long");
    assert!(single.raw_os_error().is_some());
    for (index, error) in indices.iter().zip(&errors) {
        let expected = if *index == 50 { None } else { single.raw_os_error() };
        assert_eq!(error.raw_os_error(), expected);
    }
    let mut buffer = [0; 100];
    let mut receive = || {
        let length = client.recv(&mut buffer).expect("a message");
        String::from_utf8(buffer[..length].to_vec()).expect("text")
    };
    for word in &words {
        assert_eq!(&receive(), word);
    }
    assert_eq!(receive(), "");
}

#[test]
fn sending_a_batch_waits_for_a_reader_that_is_slow() {
    let folder = TempDir::new();
    let [path, name] = ["socket", "reader"].map(|name| folder.path().join(name));
    let socket = Datagram::bind(&Address::UnixPath(path), &ListenOptions::default()).expect("bind");
    let reader = UnixDatagram::bind(&name).expect("bind");
    reader.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let peer = Address::UnixPath(name);
    let texts: Vec<_> = (0..2000_u32).map(u32::to_be_bytes).collect();
    let sender = std::thread::spawn(move || {
        let messages: Vec<_> = texts.iter().map(|text| (&text[..], &peer)).collect();
        let mut failures = 0;
        // More than the reader's queue holds.
        socket.send_batch(&messages, |_, _| failures += 1);
        failures
    });
    for number in 0..2000_u32 {
        let mut buffer = [0; 8];
        assert_eq!(reader.recv(&mut buffer).expect("a message"), 4);
        assert_eq!(buffer[..4], number.to_be_bytes());
    }
    assert_eq!(sender.join().expect("no panic"), 0);
}
