//! Any bytes as an exchange at `POST …/responses`.
#![no_main]

mod exchange;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exchange::run("/v1/responses", input));
