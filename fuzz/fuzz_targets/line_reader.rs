//! `cargo +nightly fuzz run line_reader`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fastsocketserver_fuzz::line_reader(input));
