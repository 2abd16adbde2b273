//! Any bytes as an exchange at `POST …/completions`.
#![no_main]

mod exchange;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exchange::run("/v1/completions", input));
