//! What the operator allows, and agents obey.

#![allow(unreachable_pub, reason = "KubeSchema derives from a copy of each type, which nobody can reach")]

use crate::agent_trace::AgentTraceSpec;
use crate::selector::Selector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an accepted AgentTrace or ClusterAgentTrace came to.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[kube(
    group = "agentsight.dev",
    version = "v1alpha1",
    kind = "AgentTraceGrant",
    namespaced,
    shortname = "atg",
    category = "agentsight",
    doc = "What agents obey: an AgentTrace or ClusterAgentTrace as the operator accepted it. Made and removed by the operator, in the release namespace only; to change what is traced, change the object that it names as its source.",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Kind","type":"string","jsonPath":".spec.source.kind","description":"What it was made from."}"#,
    printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".spec.source.namespace","description":"Where that is."}"#,
    printcolumn = r#"{"name":"Source","type":"string","jsonPath":".spec.source.name","description":"What that is called."}"#,
    printcolumn = r#"{"name":"Generation","type":"integer","jsonPath":".spec.source.generation","description":"Which generation of it was accepted."}"#,
    printcolumn = r#"{"name":"Content","type":"string","jsonPath":".spec.capture.modelCalls.content","description":"What of prompts and answers is exported."}"#,
    printcolumn = r#"{"name":"Exporter","type":"string","jsonPath":".spec.exporter","description":"Where the telemetry goes."}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AgentTraceGrantSpec {
    /// The object that this grant was made from.
    pub source: GrantSource,

    /// In which namespaces pods are traced.
    pub scope: GrantScope,

    /// What is traced there: the source's specification within the guardrails.
    #[serde(flatten)]
    pub trace: AgentTraceSpec,
}

impl AgentTraceGrant {
    /// Name of the grant of a source with this UID. An object that was deleted and made anew under the
    /// same name has another UID, and therefore another grant.
    pub fn name_of(source_uid: &str) -> String {
        source_uid.to_ascii_lowercase()
    }
}

/// The object that a grant was made from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct GrantSource {
    /// Its kind.
    pub kind: SourceKind,

    /// Its namespace; absent for a ClusterAgentTrace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,

    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Its UID. Agents report by it.
    #[schemars(length(min = 1, max = 64))]
    pub uid: String,

    /// Its generation that was accepted. Agents report which one they obey.
    pub generation: i64,
}

/// Kinds of objects that grants are made from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SourceKind {
    /// An AgentTrace.
    AgentTrace,
    /// A ClusterAgentTrace.
    ClusterAgentTrace,
}

impl std::fmt::Display for SourceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// In which namespaces pods are traced: one by its name, or those that a selector matches.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.namespace) != has(self.namespaceSelector)")
    .message("a scope is either one namespace or a namespaceSelector"))]
pub struct GrantScope {
    /// Only this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,

    /// Namespaces with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
}

impl GrantScope {
    /// Pods of one namespace.
    pub fn namespace(name: impl Into<String>) -> Self {
        Self { namespace: Some(name.into()), namespace_selector: None }
    }

    /// Pods of the namespaces with these labels.
    pub fn namespaces(selector: Selector) -> Self {
        Self { namespace: None, namespace_selector: Some(selector) }
    }

    /// Whether pods of a namespace with this name and these labels are meant. A scope that names neither,
    /// or both, means none.
    pub fn covers(&self, name: &str, labels: &std::collections::BTreeMap<String, String>) -> bool {
        match (&self.namespace, &self.namespace_selector) {
            (Some(namespace), None) => namespace == name,
            (None, Some(selector)) => selector.matches(labels),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_scope_is_one_namespace_or_those_with_labels() {
        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        assert!(GrantScope::namespace("shop").covers("shop", &labels));
        assert!(!GrantScope::namespace("shop").covers("other", &labels));
        assert!(GrantScope::namespaces(Selector::default()).covers("any", &BTreeMap::new()));
        let team = Selector { match_labels: labels.clone(), ..Selector::default() };
        assert!(GrantScope::namespaces(team.clone()).covers("any", &labels));
        assert!(!GrantScope::namespaces(team.clone()).covers("any", &BTreeMap::new()));
        let both = GrantScope { namespace: Some("shop".into()), namespace_selector: Some(team) };
        assert!(!both.covers("shop", &labels));
        assert!(!GrantScope { namespace: None, namespace_selector: None }.covers("shop", &labels));
    }
}
