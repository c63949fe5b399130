//! `Error`: what each says, and that the errno of the system is kept.

use std::error::Error as _;
use std::fs::File;
use std::io;
use std::net::TcpStream;

use fastsocketserver::{Address, Builder, Error, Request, Server};
use socket2::{Domain, Socket, Type};

mod common;
use common::loopback;

fn builder() -> Builder<impl fastsocketserver::Handler> {
    Server::builder(|_: &mut Request| Ok(()))
}

fn errno(error: &Error) -> Option<i32> {
    error.source()?.downcast_ref::<io::Error>()?.raw_os_error()
}

#[test]
fn an_address_in_use_is_named() {
    let first = builder().bind(&loopback()).expect("bind");
    let address = first.local_addr().expect("bound");
    let error = builder().bind(&address).expect_err("in use");
    assert!(matches!(error, Error::Bind { .. }));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let errno = errno(&error).expect("from the system");
    let error = io::Error::from(error);
    assert_eq!((error.kind(), error.raw_os_error()), (io::ErrorKind::AddrInUse, Some(errno)));
    let datagrams = builder().bind_datagram(&loopback()).expect("bind");
    let address = datagrams.local_addr().expect("bound");
    let error = builder().bind_datagram(&address).expect_err("in use");
    assert!(matches!(error, Error::Bind { .. }), "{error}");
}

#[test]
fn a_path_that_cannot_be_bound_is_named() {
    let address = Address::UnixPath("/nowhere/socket".into());
    let error = builder().bind(&address).expect_err("no folder");
    assert!(error.to_string().contains("unix:/nowhere/socket"), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
}

#[test]
fn what_does_not_listen_cannot_be_adopted() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    for error in [
        builder().adopt(client).expect_err("a connection"),
        builder().adopt(bound).expect_err("not listening"),
    ] {
        assert!(matches!(error, Error::Adopt(_)), "{error:?}");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn what_is_no_socket_cannot_be_adopted() {
    let file = File::open("Cargo.toml").expect("the package's");
    let error = builder().adopt(file).expect_err("a file");
    assert!(matches!(error, Error::Adopt(_)), "{error:?}");
    assert!(errno(&error).is_some());
}

#[test]
fn a_text_that_is_no_address_becomes_one() {
    let parse = |text: &str| -> Result<Address, Error> { Ok(text.parse()?) };
    let error = parse("nonsense").expect_err("no address");
    assert!(error.io().is_none() && error.source().is_some());
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
}
