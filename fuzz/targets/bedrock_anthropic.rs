//! Any bytes as an exchange at `POST /model/anthropic…/invoke-with-response-stream`.
#![no_main]

mod exchange;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exchange::run(
    "/model/anthropic.claude-v2/invoke-with-response-stream",
    input
));
