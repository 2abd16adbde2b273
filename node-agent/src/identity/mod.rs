//! Whose container a process is in: from cgroup paths and mounts, joined with what the API server says of pods.

pub mod attributes;
pub mod cgroup;
pub mod mounts;
pub mod owner;
pub mod pods;

pub use cgroup::{ContainerId, Place, PodUid};
pub use pods::{Found, Pod, PodContainer, Pods};
