//! Any bytes as an exchange at `POST /v2/chat`.
#![no_main]

mod exchange;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exchange::run("/v2/chat", input));
