//! `AgentTrace`, the resource that says what AgentSight traces: one type for Kubernetes and for
//! `agentsight run -f` on a host; and the resources by which operator and agents carry it out in a cluster.
//!
//! An administrator or a tenant writes an [`AgentTrace`] or a [`ClusterAgentTrace`]. The operator writes its
//! [`AgentTraceStatus`] and, where it accepts it, an [`AgentTraceGrant`]. Agents obey grants only, and report
//! in one [`AgentTraceNode`] each.
//!
//! The types are the single source of `crds/` (`cargo run -p agentsight-api --bin crdgen`). In a cluster
//! the API server checks objects by the generated schema; [`AgentTrace::from_yaml`] checks a file by the
//! same schema, so that both refuse the same mistakes.
//!
//! Reading an object from the API server is lenient on purpose: an older agent ignores the fields of a
//! newer version.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod agent_trace;
mod cluster_agent_trace;
mod exporters;
mod grant;
mod load;
mod node;
mod reference;
mod schema;
mod selector;
mod status;
#[cfg(feature = "client")]
mod watching;

pub use agent_trace::{
    AgentTrace, AgentTraceSpec, Capture, Containers, Content, Endpoint, Mcp, ModelCalls, Pattern, Plaintext,
    Redaction, Sampling, Semconv, WireFormat,
};
pub use cluster_agent_trace::{ClusterAgentTrace, ClusterAgentTraceSpec};
pub use exporters::{
    Compression, Exporter, ExporterTls, Exporters, ExportersError, Header, HeaderSource, Protocol,
};
pub use grant::{AgentTraceGrant, AgentTraceGrantSpec, GrantScope, GrantSource, SourceKind};
pub use load::Error;
pub use node::{
    AgentInfo, AgentTraceNode, AgentTraceNodeSpec, AgentTraceNodeStatus, Dropped, ExporterReport,
    ExporterState, GrantReport, KernelInfo, NO_TLS_LIBRARY, READY, Traced, TracedState,
};
pub use selector::{Expression, Operator, Selector, host};
pub use status::{
    ACCEPTED, ACTIVE, AgentTraceStatus, Condition, ConditionStatus, EXPORTING, NodeCounts, OVERLAPPING,
    Untraceable,
};
#[cfg(feature = "client")]
pub use watching::watch_backoff;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The custom resource definitions as `(file name in crds/, YAML)`.
pub fn definitions() -> Vec<(&'static str, String)> {
    let write = |definition| serde_yaml::to_string(&definition).expect("a definition is plain data");
    let how = "# Generated from api/ by `make crds`. Do not edit.\n";
    resources().into_iter().map(|(name, definition)| (name, format!("{how}{}", write(definition)))).collect()
}

/// Every file that follows from the types, as `(path in the project, text)`.
pub fn generated() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for (name, text) in definitions() {
        files.push((format!("crds/{name}"), text.clone()));
        // Helm reads nothing outside of a chart.
        files.push((format!("charts/agentsight/files/crds/{name}"), text));
    }
    let plain = |(_, definition)| serde_json::to_value(definition).expect("a definition is plain data");
    let page = reference::page(&resources().into_iter().map(plain).collect::<Vec<_>>());
    files.push(("docs/reference.md".to_owned(), page));
    files
}

fn resources() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![
        ("agenttraces.yaml", AgentTrace::crd()),
        ("clusteragenttraces.yaml", ClusterAgentTrace::crd()),
        ("agenttracegrants.yaml", AgentTraceGrant::crd()),
        ("agenttracenodes.yaml", AgentTraceNode::crd()),
    ]
}
