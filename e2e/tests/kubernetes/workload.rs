//! Pods that call the model server, as objects.

use serde_json::{Value, json};

/// The image of scripts/images.sh with Python, the SDKs and our small agents.
pub(crate) const IMAGE: &str = "agentsight.dev/app:e2e";

/// A container that calls; its `CASE` is NAMESPACE/POD/NAME, which the model server writes down.
pub(crate) fn caller(name: &str, authority: &str, arguments: &[&str]) -> Value {
    let arguments: Vec<_> = ["/opt/agents/caller.py"].iter().chain(arguments).collect();
    json!({
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": arguments,
        "env": [
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "CASE", "value": format!("$(NAMESPACE)/$(POD)/{name}")},
            {"name": "MODEL_HOST", "value": "model-server.models.svc.cluster.local"},
            {"name": "MODEL_CA", "value": authority},
        ],
    })
}

/// A pod of these containers that ends with them.
pub(crate) fn pod(name: &str, labels: &Value, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": pod_spec(containers),
    })
}

/// What a pod of these containers is made from.
pub(crate) fn pod_spec(containers: &[Value]) -> Value {
    json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false,
        "containers": containers,
    })
}

/// A Deployment of one replica whose pods have the label `app`.
pub(crate) fn deployment(name: &str, containers: &[Value]) -> Value {
    let mut spec = pod_spec(containers);
    spec["restartPolicy"] = "Always".into();
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    })
}

/// A Job that runs `pods` at once and never twice.
pub(crate) fn job(name: &str, pods: usize, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "parallelism": pods,
            "completions": pods,
            "backoffLimit": 0,
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec(containers)},
        },
    })
}

/// An AgentTrace with this specification.
pub(crate) fn agent_trace(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "agentsight.dev/v1alpha1",
        "kind": "AgentTrace",
        "metadata": {"name": name},
        "spec": spec,
    })
}
