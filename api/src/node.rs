//! What the agent of one node reports.

#![allow(unreachable_pub, reason = "KubeSchema derives from a copy of each type, which nobody can reach")]

use crate::status::{Condition, Untraceable, time_schema};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which node an AgentTraceNode is about.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[kube(
    group = "agentsight.dev",
    version = "v1alpha1",
    kind = "AgentTraceNode",
    namespaced,
    shortname = "atn",
    category = "agentsight",
    doc = "What the agent of one node reports: what it can do there, and what it makes of each grant. Written by that agent alone, in the release namespace, under the node's name; removed with its node.",
    derive = "PartialEq",
    derive = "Default",
    status = "AgentTraceNodeStatus",
    selectable = ".spec.nodeName",
    validation = Rule::new("self.metadata.name == self.spec.nodeName")
        .message("an AgentTraceNode has the name of its node").field_path(".spec.nodeName"),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status","description":"Whether the agent can trace there."}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason","description":"Why, or why not."}"#,
    printcolumn = r#"{"name":"Pods","type":"integer","jsonPath":".status.pods","description":"Selected pods that run there."}"#,
    printcolumn = r#"{"name":"Traced","type":"integer","jsonPath":".status.traced","description":"Processes that are traced there."}"#,
    printcolumn = r#"{"name":"Agent","type":"string","jsonPath":".status.agent.version","description":"Version of the agent.","priority":1}"#,
    printcolumn = r#"{"name":"Kernel","type":"string","jsonPath":".status.kernel.release","description":"Release of the kernel.","priority":1}"#,
    printcolumn = r#"{"name":"Updated","type":"date","jsonPath":".status.updateTime","description":"When the agent last wrote here."}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AgentTraceNodeSpec {
    /// The node.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("nodeName cannot be changed"))]
    pub node_name: String,
}

/// What the agent of one node reports. Changes of state are written within seconds, counters once a minute.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct AgentTraceNodeStatus {
    /// When the agent last wrote this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time_schema")]
    pub update_time: Option<Time>,

    /// `Ready`: the agent can trace on this node, or why it cannot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// The agent.
    #[serde(default)]
    pub agent: AgentInfo,

    /// The kernel, and what of it is in use.
    #[serde(default)]
    pub kernel: KernelInfo,

    /// Selected pods that run there, each counted once.
    #[serde(default)]
    pub pods: i64,

    /// Processes that are traced there, each counted once.
    #[serde(default)]
    pub traced: i64,

    /// Where telemetry goes: the exporters that grants name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub exporters: Vec<ExporterReport>,

    /// How many grants the agent obeys, also those that have no entry below.
    #[serde(default)]
    pub granted: i32,

    /// What there is to report of each grant. A grant that selects no pod there, and of which nothing was
    /// counted and nothing is wrong, has no entry: 500 grants on 5,000 nodes would be too much to hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uid".into()]))]
    pub grants: Vec<GrantReport>,
}

/// The condition of an [`AgentTraceNode`] that says whether its agent can trace.
pub const READY: &str = "Ready";

/// The agent of a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct AgentInfo {
    /// Its version.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub version: String,

    /// Its pod, in this namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub pod: String,

    /// When it started. Counters count from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time_schema")]
    pub started: Option<Time>,
}

/// The kernel of a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct KernelInfo {
    /// As `uname -r` says, such as `6.8.0-45-generic`.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub release: String,

    /// As `uname -m` says, such as `x86_64`.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub architecture: String,

    /// Features that are in use, such as `ring-buffer`, `bpf-loop`, `cgroup-v2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub features: Vec<String>,

    /// Hooks that are in use, such as `uprobe`, `tracepoint/sched_process_exec`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128)))]
    pub hooks: Vec<String>,
}

/// What became of the telemetry for one exporter.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ExporterReport {
    /// Name of the exporter.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// How it goes.
    pub state: ExporterState,

    /// The last error, without any credential; kept while the state is `Failing` or `Invalid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub error: Option<String>,

    /// Since when it goes so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time_schema")]
    pub since: Option<Time>,
}

/// How it goes with an exporter.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExporterState {
    /// Nothing was sent yet.
    Idle,
    /// The last request was taken by the other side.
    Ready,
    /// The last request was not taken; it is tried again.
    Failing,
    /// It is not defined, or its settings cannot be used.
    Invalid,
}

/// What one node makes of one grant.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct GrantReport {
    /// UID of the grant's source.
    #[schemars(length(min = 1, max = 64))]
    pub uid: String,

    /// Generation of the source that is obeyed.
    #[serde(default)]
    pub observed_generation: i64,

    /// Selected pods that run there.
    #[serde(default)]
    pub matched_pods: i64,

    /// Processes of them that are traced.
    #[serde(default)]
    pub traced_processes: i64,

    /// By what those are traced; a process with several libraries counts for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub traced: Vec<Traced>,

    /// Processes of them that cannot be traced, by reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub untraceable: Vec<Untraceable>,

    /// Model calls that were seen since the agent started.
    #[serde(default)]
    pub calls: i64,

    /// What was lost since the agent started, by cause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub dropped: Vec<Dropped>,

    /// What keeps the grant from being obeyed there, now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub error: Option<String>,

    /// UIDs of the sources of other grants that select some of the same pods there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 64)))]
    pub overlaps: Vec<String>,
}

/// Processes that are traced in one way.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Traced {
    /// The kind of TLS library, such as `openssl`; docs/coverage.md tells of each.
    #[schemars(length(min = 1, max = 63))]
    pub library: String,

    /// How its functions were found: `symbols`, `errors`, `functionTable` or `algorithms`.
    #[schemars(length(min = 1, max = 63))]
    pub found_by: String,

    /// Whether what is probed there is what it was taken for.
    pub state: TracedState,

    /// How many processes.
    #[serde(default)]
    pub count: i64,

    /// One of them, for people: its pod and container.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub example: String,
}

/// Whether what is probed is what it was taken for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TracedState {
    /// A name says so, or the plaintext that it gave.
    Confirmed,
    /// It was found by the look of its code, and has not given any plaintext yet.
    OnTrial,
}

/// What was lost for one cause.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// Why, as the label `cause` of the agent's metrics has it, such as `ring_full`.
    #[schemars(length(min = 1, max = 63))]
    pub cause: String,

    /// How many pieces.
    #[serde(default)]
    pub count: i64,
}

/// The reason of an [`Untraceable`](crate::Untraceable) process in which no TLS library is known: it speaks none, as shells
/// and most tools, or has one of its own.
pub const NO_TLS_LIBRARY: &str = "NoTlsLibrary";
