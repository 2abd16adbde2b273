//! Any script of chunks on a connection whose client speaks HTTP/2.
#![no_main]

mod connection;

libfuzzer_sys::fuzz_target!(|input: &[u8]| connection::test(
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""],
    input
));
