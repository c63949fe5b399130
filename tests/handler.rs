//! `Handler`: which parts are called, in which order, after what.

use std::io::{self, BufRead, Write};
use std::sync::{Mutex, mpsc};

use fastsocketserver::{Handler, Request, Server};

mod common;
use common::{Running, ask, try_ask};

/// Fails where it is told to, and says what was called.
struct Told {
    fails: &'static str,
    panics: &'static str,
    calls: Mutex<mpsc::Sender<String>>,
}

impl Told {
    fn call(&self, name: &str) -> io::Result<()> {
        self.calls.lock().expect("no panic").send(name.to_owned()).expect("a receiver");
        assert!(self.panics != name, "asked for");
        if self.fails == name { Err(io::Error::other(name)) } else { Ok(()) }
    }
}

impl Handler for Told {
    fn verify(&self, _request: &Request) -> bool {
        self.call("verify").is_ok()
    }

    fn setup(&self, _request: &mut Request) -> io::Result<()> {
        self.call("setup")
    }

    fn handle(&self, request: &mut Request) -> io::Result<()> {
        let mut line = String::new();
        request.read_line(&mut line)?;
        self.call("handle")?;
        request.write_all(line.as_bytes())
    }

    fn finish(&self, _request: &mut Request) -> io::Result<()> {
        self.call("finish")
    }

    fn error(&self, _request: &Request, error: &io::Error) {
        let _ = self.call(&format!("error of {error}"));
    }
}

/// What is called for one request.
fn calls(fails: &'static str, panics: &'static str) -> Vec<String> {
    let (sender, receiver) = mpsc::channel();
    let running = Running::stream(Server::builder(Told { fails, panics, calls: sender.into() }));
    // A connection that is closed with unread bytes is reset.
    let answered = try_ask(running.inet(), "hello\n").is_ok_and(|answer| answer == "hello\n");
    assert_eq!(
        answered,
        !matches!((fails, panics), ("verify" | "setup" | "handle", _))
            && !matches!(panics, "verify" | "setup" | "handle")
    );
    running.shut_down();
    receiver.into_iter().collect()
}

#[test]
fn all_parts_are_called_in_their_order() {
    assert_eq!(calls("", ""), ["verify", "setup", "handle", "finish"]);
}

#[test]
fn what_is_refused_is_not_handled() {
    assert_eq!(calls("verify", ""), ["verify"]);
    assert_eq!(calls("", "verify"), ["verify"]);
}

#[test]
fn without_setup_there_is_nothing_to_finish() {
    assert_eq!(calls("setup", ""), ["verify", "setup", "error of setup"]);
    assert_eq!(calls("", "setup"), ["verify", "setup"]);
}

#[test]
fn what_was_set_up_is_finished_also_after_an_error_or_a_panic() {
    assert_eq!(calls("handle", ""), ["verify", "setup", "handle", "finish", "error of handle"]);
    assert_eq!(calls("", "handle"), ["verify", "setup", "handle", "finish"]);
}

#[test]
fn an_error_of_finish_is_told() {
    assert_eq!(calls("finish", ""), ["verify", "setup", "handle", "finish", "error of finish"]);
    assert_eq!(calls("", "finish"), ["verify", "setup", "handle", "finish"]);
}

#[test]
fn a_panic_in_each_part_leaves_the_server_serving() {
    for part in ["verify", "setup", "handle", "finish"] {
        let (sender, receiver) = mpsc::channel();
        let told = Told { fails: "", panics: part, calls: sender.into() };
        let running = Running::stream(Server::builder(told));
        for _ in 0..2 {
            // Where nothing has been read, the connection is reset.
            let _ = try_ask(running.inet(), "hello\n");
        }
        running.shut_down();
        assert_eq!(receiver.iter().filter(|call| call == part).count(), 2);
    }
}

#[test]
fn a_closure_is_a_handler() {
    let running = Running::stream(Server::builder(|request: &mut Request| {
        let mut line = String::new();
        request.read_line(&mut line)?;
        request.write_all(line.as_bytes())
    }));
    assert_eq!(ask(running.inet(), "hello\n"), "hello\n");
    running.shut_down();
}
