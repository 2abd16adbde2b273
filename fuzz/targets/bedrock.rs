//! Any bytes as an exchange at `POST /model/…/converse-stream`.
#![no_main]

mod exchange;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exchange::run(
    "/model/amazon.nova-micro-v1%3A0/converse-stream",
    input
));
