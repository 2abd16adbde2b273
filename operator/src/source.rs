//! An AgentTrace or a ClusterAgentTrace, as one thing.

use agentsight_api::{
    AgentTrace, AgentTraceSpec, AgentTraceStatus, ClusterAgentTrace, GrantScope, SourceKind,
};
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};
use std::sync::Arc;

/// UID of an object. The same name may come again; a UID never does.
pub type Uid = Arc<str>;

/// An AgentTrace or a ClusterAgentTrace, as one thing.
#[derive(Clone, PartialEq, Debug)]
pub struct Source {
    /// Which of the two.
    pub kind: SourceKind,
    /// Of an AgentTrace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: Uid,
    /// Moves on with its specification.
    pub generation: i64,
    /// As the API server has it; of two objects, only one that is newer counts.
    pub resource_version: Option<u64>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// In which namespaces it traces.
    pub scope: GrantScope,
    /// What it traces there.
    pub spec: AgentTraceSpec,
    /// What stands in its status, whoever wrote it.
    pub status: Option<AgentTraceStatus>,
}

impl Source {
    /// None for an object that the API server has not made yet, or that is being deleted.
    pub fn of_trace(object: &AgentTrace) -> Option<Self> {
        let scope = GrantScope::namespace(object.namespace()?);
        Self::new(SourceKind::AgentTrace, object, scope, object.spec.clone(), object.status.clone())
    }

    /// None for an object that the API server has not made yet, or that is being deleted.
    pub fn of_cluster_trace(object: &ClusterAgentTrace) -> Option<Self> {
        // Without a selector nothing is in scope: the API server refuses such an object.
        let scope =
            GrantScope { namespace: None, namespace_selector: object.spec.namespace_selector.clone() };
        Self::new(
            SourceKind::ClusterAgentTrace,
            object,
            scope,
            object.spec.trace.clone(),
            object.status.clone(),
        )
    }

    fn new(
        kind: SourceKind,
        object: &impl Resource,
        scope: GrantScope,
        spec: AgentTraceSpec,
        status: Option<AgentTraceStatus>,
    ) -> Option<Self> {
        let meta = object.meta();
        if meta.deletion_timestamp.is_some() {
            return None;
        }
        Some(Self {
            kind,
            namespace: meta.namespace.clone(),
            name: meta.name.clone()?,
            uid: meta.uid.as_deref()?.into(),
            generation: meta.generation.unwrap_or_default(),
            resource_version: version(object),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            scope,
            spec,
            status,
        })
    }

    /// For people: `AgentTrace shop/agents`.
    pub fn shown(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    /// The older comes first; names decide between those of one second.
    pub fn seniority(&self) -> (Option<Timestamp>, Option<&str>, &str) {
        (self.created, self.namespace.as_deref(), &self.name)
    }
}

/// An object's resource version, where it is a number, as it is with every API server on etcd.
pub fn version(object: &impl Resource) -> Option<u64> {
    object.meta().resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object(kind: &str, metadata: &Value, spec: &str) -> Value {
        let spec: Value = serde_yaml::from_str(spec).expect("YAML");
        json!({ "apiVersion": "agentsight.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec })
    }

    /// An AgentTrace as the API server would hand it out.
    pub(crate) fn source(namespace: &str, name: &str, spec: &str) -> Source {
        let metadata = json!({
            "namespace": namespace, "name": name, "uid": format!("uid-{namespace}-{name}"), "generation": 1,
        });
        let object: AgentTrace =
            serde_json::from_value(object("AgentTrace", &metadata, spec)).expect("an AgentTrace");
        Source::of_trace(&object).expect("a live object")
    }

    /// A ClusterAgentTrace as the API server would hand it out.
    pub(crate) fn cluster_source(name: &str, spec: &str) -> Source {
        let metadata = json!({ "name": name, "uid": format!("uid-{name}"), "generation": 1 });
        let object: ClusterAgentTrace = serde_json::from_value(object("ClusterAgentTrace", &metadata, spec))
            .expect("a ClusterAgentTrace");
        Source::of_cluster_trace(&object).expect("a live object")
    }

    #[test]
    fn an_object_that_is_being_deleted_is_none() {
        let metadata = json!({
            "namespace": "a", "name": "b", "uid": "c", "deletionTimestamp": "2026-01-01T00:00:00Z",
        });
        let object: AgentTrace =
            serde_json::from_value(object("AgentTrace", &metadata, "selector: {}")).expect("an AgentTrace");
        assert_eq!(Source::of_trace(&object), None);
    }
}
