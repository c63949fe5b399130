//! Each example in Rust, run as its user would run it, with a real client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

mod common;
use common::{DEADLINE, TempDir};

/// An example that serves; killed when it goes.
struct Example {
    process: Child,
    output: BufReader<ChildStdout>,
    address: String,
}

impl Example {
    fn start(name: &str, argument: &str) -> Self {
        let mut process = Command::new(program(name))
            .arg(argument)
            .stdout(Stdio::piped())
            .spawn()
            .expect("an example; `cargo test` builds them, `cargo test --test` does not");
        let mut output = BufReader::new(process.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("its first line");
        let address = line.trim().strip_prefix("listening on ").expect("an address").to_owned();
        Self { process, output, address }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(&self.address).expect("connect");
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        client
    }

    /// Says `text` and that this is all, and returns what is answered.
    fn ask(&self, text: &str) -> String {
        let mut client = self.connect();
        client.write_all(text.as_bytes()).expect("write");
        client.shutdown(Shutdown::Write).expect("shutdown");
        read(client)
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill(1)");
        assert!(status.success());
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(mut stream: impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the end");
    text
}

/// Where cargo puts examples: beside the folder of the tests.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    test.ancestors().nth(2).expect("a folder").join("examples").join(name)
}

#[test]
fn upper() {
    let example = Example::start("upper", "127.0.0.1:0");
    assert_eq!(example.ask("one\ntwo\n"), "ONE\nTWO\n");
    assert_eq!(example.ask("again\n"), "AGAIN\n");
}

#[test]
fn upper_udp() {
    let example = Example::start("upper_udp", "127.0.0.1:0");
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.send_to(b"hello", &example.address).expect("send");
    let mut answer = [0; 16];
    let length = client.recv(&mut answer).expect("an answer");
    assert_eq!(&answer[..length], b"HELLO");
}

#[test]
fn threaded() {
    let example = Example::start("threaded", "127.0.0.1:0");
    let _idle = example.connect();
    assert_eq!(example.ask("1\n2\n"), "1\n3\n");
    assert_eq!(example.ask("4\n"), "7\n");
    assert_eq!(example.ask("not a number\n"), "");
}

#[test]
fn forking() {
    let example = Example::start("forking", "127.0.0.1:0");
    let _idle = example.connect();
    assert_eq!(example.ask("crash\n"), "");
    let [one, two] = ["hello\n", "hello\n"].map(|text| example.ask(text));
    assert!(one.starts_with("hello, says process ") && two.starts_with("hello, says process "));
    assert_ne!(one, two);
}

#[test]
fn unix() {
    let folder = TempDir::new();
    let path = folder.path().join("socket");
    let address = format!("unix:{}", path.display());
    // The second run finds the file of the first.
    for _ in 0..2 {
        let example = Example::start("unix", &address);
        assert_eq!(example.address, address);
        let mut client = UnixStream::connect(&path).expect("connect");
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        client.write_all(b"hello\n").expect("write");
        assert_eq!(read(client), "HELLO\n");
    }
}

#[test]
fn graceful() {
    for (signal, last, closed) in [("INT", "last\n", 0), ("TERM", "", 1)] {
        let mut example = Example::start("graceful", "127.0.0.1:0");
        let mut client = example.connect();
        client.write_all(b"first\n").expect("write");
        let mut answer = [0; 6];
        client.read_exact(&mut answer).expect("an answer");
        example.signal(signal);
        client.write_all(last.as_bytes()).expect("write");
        if closed == 0 {
            client.shutdown(Shutdown::Write).expect("shutdown");
        }
        assert_eq!(read(client), last.to_uppercase());
        let mut line = String::new();
        example.output.read_line(&mut line).expect("its last line");
        assert_eq!(line, format!("closed {closed}\n"));
        assert!(example.process.wait().expect("ended").success());
    }
}

#[cfg(feature = "python")]
#[test]
fn embed_python() {
    let example = Example::start("embed_python", "0");
    let _idle = example.connect();
    assert_eq!(example.ask("one\ntwo\n"), "ONE\nTWO\n");
}
