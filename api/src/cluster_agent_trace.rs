//! The administrator's form of an `AgentTrace`: pods of many namespaces.

#![allow(unreachable_pub, reason = "KubeSchema derives from a copy of each type, which nobody can reach")]

use crate::agent_trace::AgentTraceSpec;
use crate::selector::Selector;
use crate::status::AgentTraceStatus;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// What AgentSight traces in the selected namespaces, what it captures of that, and where the telemetry
/// goes.
///
/// The smallest useful object is a name, a namespaceSelector and a selector.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[kube(
    group = "agentsight.dev",
    version = "v1alpha1",
    kind = "ClusterAgentTrace",
    shortname = "cat",
    category = "agentsight",
    doc = "Traces the AI agents in the selected pods of the selected namespaces; otherwise as an AgentTrace. It is meant for administrators: whoever may write one reaches the pods of every namespace, within the guardrails of the chart.",
    derive = "PartialEq",
    derive = "Default",
    status = "AgentTraceStatus",
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type=='Accepted')].status","description":"Whether the administrator's guardrails allow it."}"#,
    printcolumn = r#"{"name":"Active","type":"string","jsonPath":".status.conditions[?(@.type=='Active')].status","description":"Whether the nodes trace what it selects."}"#,
    printcolumn = r#"{"name":"Pods","type":"integer","jsonPath":".status.pods","description":"Selected pods that run."}"#,
    printcolumn = r#"{"name":"Traced","type":"integer","jsonPath":".status.traced","description":"Processes of them that are traced."}"#,
    printcolumn = r#"{"name":"Calls","type":"integer","jsonPath":".status.calls","description":"Model calls that were seen."}"#,
    printcolumn = r#"{"name":"Dropped","type":"integer","jsonPath":".status.dropped","description":"What was lost of them, on all nodes, by all causes."}"#,
    printcolumn = r#"{"name":"Content","type":"string","jsonPath":".spec.capture.modelCalls.content","description":"What of prompts and answers is exported.","priority":1}"#,
    printcolumn = r#"{"name":"Exporter","type":"string","jsonPath":".spec.exporter","description":"Where the telemetry goes.","priority":1}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Active')].reason","description":"Why it is active or not.","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.namespaceSelector)")
    .message(NAMESPACE_SELECTOR_ABSENT).field_path(".namespaceSelector").reason(Reason::FieldValueRequired))]
pub struct ClusterAgentTraceSpec {
    /// In which namespaces pods are traced, by the namespaces' labels. Required: `{}` selects every
    /// namespace, an absent selector is refused. `kubernetes.io/metadata.name` is a label that every
    /// namespace has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,

    /// What is traced in these namespaces, as in an AgentTrace.
    #[serde(flatten)]
    pub trace: AgentTraceSpec,
}

pub(crate) const NAMESPACE_SELECTOR_ABSENT: &str = "a namespaceSelector is required: write `namespaceSelector: {}` for every namespace, or name labels under matchLabels";
