//! Any bytes as an exchange at `POST /api/chat`.
#![no_main]

mod exchange;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exchange::run("/api/chat", input));
