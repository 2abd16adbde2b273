//! Bytes of one connection in, calls to generative AI models out.
//!
//! No input or output, no clock, no unsafe code: time and bytes come in as arguments, so that every
//! stage can be tested, fuzzed and, later, run in a process without privileges.
//!
//! ```text
//! Chunk ─▶ streams ─▶ http1, http2, websocket ─▶ coding ─▶ sse, eventstream, values, grpc, json ─▶ providers ─▶ Call ─▶ semconv ─▶ Span, Measurement
//! ```
//!
//! [`connection::Connection`] is the entrance, [`call::Call`] what comes out, and [`semconv`] turns a
//! call into the names of OpenTelemetry's conventions.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod call;
pub mod coding;
pub mod connection;
pub mod content;
pub mod eventstream;
mod grpc;
pub mod hpack;
pub mod http;
pub mod http1;
mod http2;
pub mod json;
pub mod links;
pub mod mcp;
mod protobuf;
pub mod providers;
pub mod redact;
pub mod semconv;
pub mod sse;
pub mod stdio;
pub mod streams;
pub mod telemetry;
pub mod time;
pub mod values;
pub mod websocket;
