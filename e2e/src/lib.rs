//! The model server that end-to-end tests, the demo and the benchmarks talk to, and what the tests share.
//!
//! The server ([`server`]) speaks the wire formats of OpenAI, Anthropic and Google closely enough that the official SDKs
//! work unmodified, answers from the request alone, and writes down what it answered ([`truth`]): what a tracer
//! saw can be held against it.

#![forbid(unsafe_code)]

pub mod agent;
pub mod answer;
pub mod answers;
pub mod behaviour;
pub mod certificates;
pub mod cluster;
pub mod cluster_tools;
pub mod coding;
pub mod collector;
pub mod comparison;
pub mod control_plane;
pub mod coverage;
pub mod daemons;
pub mod dialogue;
pub mod go;
pub mod host;
pub mod ids;
pub mod machine;
pub mod model_server;
pub mod node;
pub mod process;
pub mod programs;
pub mod python;
pub mod question;
pub mod real_agents;
pub mod request;
pub mod response;
pub mod rustls;
pub mod server;
pub mod telemetry;
pub mod tree;
pub mod truth;
pub mod websocket;
