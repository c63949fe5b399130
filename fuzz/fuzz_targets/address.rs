//! `cargo +nightly fuzz run address`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fastsocketserver_fuzz::address(input));
