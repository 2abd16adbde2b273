//! The AgentSight agent: captures with eBPF, decodes with `agentsight-genai`, exports with OTLP.
//!
//! Data moves one way: `capture` ─▶ `pipeline` ─▶ `export`.

pub mod capture;
pub mod causality;
pub mod check;
pub mod check_image;
pub mod check_program;
pub mod child;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod export;
pub mod health;
pub mod held;
pub mod identity;
pub mod pipeline;
pub mod policy;
pub mod process;
pub mod processes;
pub mod record;
pub mod resource;
pub mod run;
pub mod session;
pub mod sightings;
pub mod terminal;
pub mod tree;
pub mod twins;
