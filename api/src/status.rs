//! What became of an `AgentTrace` or `ClusterAgentTrace`: written by the operator alone.

#![allow(unreachable_pub, reason = "KubeSchema derives from a copy of each type, which nobody can reach")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What became of the object, and what all nodes together report of it.
///
/// Nobody reads it to decide anything: agents obey grants, and the operator computes it anew.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = unknown()))]
pub struct AgentTraceStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Accepted`: the guardrails allow it. `Active`: the nodes trace what it selects. `Exporting`: the
    /// telemetry is taken by the exporter's other side. `Overlapping`: another object selects some of the
    /// same pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// Selected pods that run, on all nodes.
    #[serde(default)]
    pub pods: i64,

    /// Processes of these pods that are traced.
    #[serde(default)]
    pub traced: i64,

    /// Processes of these pods that cannot be traced, by reason; docs/coverage.md tells what each means.
    // Always written, and as a whole: what others wrote here goes with the next apply.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub untraceable: Vec<Untraceable>,

    /// Model calls of these pods that were seen, as counted by the agents that run now.
    #[serde(default)]
    pub calls: i64,

    /// Pieces of these calls, or of their telemetry, that were lost, by all causes, as counted by the agents
    /// that run now. Zero is what it should be.
    #[serde(default)]
    pub dropped: i64,

    /// The nodes that have something to report of it.
    #[serde(default)]
    pub nodes: NodeCounts,
}

/// What a status is before the operator has seen the object.
fn unknown() -> serde_json::Value {
    let condition = |kind: &str| {
        serde_json::json!({
            "type": kind, "status": "Unknown", "reason": "Pending",
            "message": "waiting for the operator", "lastTransitionTime": "1970-01-01T00:00:00Z",
        })
    };
    serde_json::json!({ "conditions": [condition(ACCEPTED), condition(ACTIVE)] })
}

/// The guardrails allow the object, and agents are told to obey it.
pub const ACCEPTED: &str = "Accepted";
/// The nodes trace what the object selects.
pub const ACTIVE: &str = "Active";
/// The telemetry is taken by the exporter's other side.
pub const EXPORTING: &str = "Exporting";
/// Another object selects some of the same pods.
pub const OVERLAPPING: &str = "Overlapping";

/// One aspect of an object's state, as Kubernetes' API conventions have it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect, in CamelCase.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 63))]
    pub type_: String,

    /// Whether it holds.
    pub status: ConditionStatus,

    /// The generation that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// When the status last changed.
    #[schemars(schema_with = "time_schema")]
    pub last_transition_time: Time,

    /// Why, as one word in CamelCase that programs may rely on.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"))]
    pub reason: String,

    /// Why, for people.
    #[schemars(length(max = 4096))]
    pub message: String,
}

/// Whether a condition holds.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It is not known yet.
    Unknown,
}

/// Processes that cannot be traced for one reason.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Untraceable {
    /// Why, as one word in CamelCase, such as `NoTlsLibrary`; docs/coverage.md tells what each means.
    #[schemars(length(min = 1, max = 63))]
    pub reason: String,

    /// How many processes.
    #[serde(default)]
    pub count: i64,

    /// One of them, for people: its pod, container and program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub example: String,
}

/// How many nodes have something to report.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes with selected pods, or with something to say about the object.
    #[serde(default)]
    pub total: i32,

    /// Those of them whose agent obeys the observed generation.
    #[serde(default)]
    pub updated: i32,

    /// Those of them where something keeps the object from being obeyed.
    #[serde(default)]
    pub failing: i32,
}

/// A point in time, RFC 3339.
pub(crate) fn time_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time", "maxLength": 64 })
}
