//! Any bytes as an exchange at `POST …/models/m:streamGenerateContent`.
#![no_main]

mod exchange;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exchange::run("/v1beta/models/m:streamGenerateContent", input));
