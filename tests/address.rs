//! `Address`: text form, and what the kernel makes of each kind.

use fastsocketserver::{Address, Datagram, ListenOptions, Listener};

#[test]
fn text_form_is_read_back() {
    for text in ["127.0.0.1:80", "[::1]:9999", "unix:/run/x.sock", "unix:@name"] {
        let address: Address = text.parse().expect(text);
        assert_eq!(address.to_string(), text);
    }
}

#[test]
fn what_is_no_address_is_named_in_the_error() {
    for text in
        ["", "localhost", "127.0.0.1", "127.0.0.1:70000", "::1:80", "unix:", "unix:@", "[::1]"]
    {
        let error = text.parse::<Address>().expect_err(text);
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
    }
}

#[test]
fn names_of_hosts_are_not_looked_up_and_the_error_says_so() {
    let error = "localhost:80".parse::<Address>().expect_err("a name");
    assert!(error.to_string().contains("not looked up"), "{error}");
}

#[test]
fn a_unix_path_that_is_too_long_is_refused_before_binding() {
    let address = Address::UnixPath("x".repeat(200).into());
    let error = Listener::bind(&address, &ListenOptions::default()).expect_err("too long");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_is_bound_without_a_file() {
    let name = format!("fastsocketserver-test-{}", std::process::id()).into_bytes();
    let address = Address::UnixAbstract(name);
    let socket = Datagram::bind(&address, &ListenOptions::default()).expect("free name");
    assert_eq!(socket.local_addr().expect("bound"), address);
}
