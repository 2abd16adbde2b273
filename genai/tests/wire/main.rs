//! Connections from captured chunks to the exchanges that they carried.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod conversation;
mod http1;
mod http2;
mod properties;
mod recorder;
