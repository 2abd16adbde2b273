//! Any script of chunks on a connection.
#![no_main]

mod connection;

libfuzzer_sys::fuzz_target!(|input: &[u8]| connection::test([b"", b""], input));
