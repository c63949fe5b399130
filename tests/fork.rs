//! `Fork`: its limit, and what becomes of children.
//!
//! A child inherits the clients of this process, so they say goodbye by `shutdown`, not by closing.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use fastsocketserver::{Fork, Request, Server};

mod common;
use common::{Running, try_ask, wait_for};

#[test]
fn a_child_that_ends_makes_room_for_a_connection_that_waited() {
    common::more_clients_than_places(Fork::new().max_children(3), 3);
}

#[test]
fn no_more_children_than_the_limit_handle_requests() {
    common::takes_no_more_than(Fork::new().max_children(2), 2);
}

#[test]
fn drain_kills_children_that_are_left() {
    let deaf = |request: &mut Request| {
        request.write_all(b"begun")?;
        loop {
            thread::park();
        }
    };
    let running = Running::stream(Server::builder(deaf).dispatch(Fork::new()));
    let mut client = running.connect();
    client.read_exact(&mut [0; 5]).expect("begun");
    assert_eq!(running.handle.drain(Duration::from_millis(1)), 1);
    assert_eq!(client.read(&mut [0; 1]).expect("the end"), 0);
    let handle = running.handle.clone();
    running.join();
    let stats = handle.stats();
    assert_eq!((stats.active, stats.failed), (0, 1));
}

#[test]
fn how_a_child_ends_is_counted() {
    let told = |request: &mut Request| {
        let mut line = [0; 2];
        request.read_exact(&mut line)?;
        match line[0] {
            b'f' => Err(std::io::Error::other("asked for")),
            b'p' => panic!("asked for"),
            // Its own counts, and its own memory, are nobody else's.
            b'a' => std::process::abort(),
            _ => Ok(()),
        }
    };
    let running = Running::stream(Server::builder(told).dispatch(Fork::new().max_children(1)));
    for line in ["g\n", "f\n", "p\n", "a\n"] {
        assert_eq!(try_ask(running.inet(), line).expect("the end"), "");
    }
    wait_for("all to be taken", || (running.handle.stats().accepted == 4).then_some(()));
    let handle = running.handle.clone();
    running.shut_down();
    let stats = handle.stats();
    assert_eq!((stats.finished, stats.failed, stats.active), (1, 3, 0));
}
