//! Any bytes as a `POST` to a server of tools (MCP over HTTP).
#![no_main]

mod exchange;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exchange::run("/mcp", input));
