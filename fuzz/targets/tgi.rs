//! Any bytes as an exchange at `POST /generate_stream`.
#![no_main]

mod exchange;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exchange::run("/generate_stream", input));
