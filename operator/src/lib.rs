//! Accepts or refuses AgentTraces, tells agents what to trace, and says what became of it.
//!
//! - [`guardrails`]: the verdict on one object. Plain data and functions.
//! - [`fold`]: what nodes report, as the status of one object. Plain data and functions.
//! - [`index`]: what the API server holds, and what is to be written. Fed with changes, without I/O.
//! - [`run`]: watches, leads and writes.
//!
//! The operator is not in the way of any data: while it is away, what runs keeps running.
#![forbid(unsafe_code)]

pub mod fold;
pub mod guardrails;
pub mod index;
pub mod metrics;
mod queue;
pub mod report;
pub mod run;
pub mod server;
pub mod source;
pub mod verify;
mod writer;

pub use writer::FIELD_MANAGER;
