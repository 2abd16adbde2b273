//! What the API server refuses, and what it says.

use super::release::project;
use agentsight_e2e::control_plane::ControlPlane;
use serde_json::{Value, json};

#[test]
fn bad_objects_are_refused_with_what_to_write_instead() {
    let Some(plane) = ControlPlane::or_skip() else { return };
    plane.kubectl(&["apply", "--server-side", "-f", &project().join("crds").display().to_string()]);
    plane.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);

    let mut wrong = Vec::new();
    let mut refused = |kind: &str, spec: Value, says: &[&str]| {
        let object = object(kind, &spec);
        let output = plane.apply(&object.to_string());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() || !says.iter().all(|part| error.contains(part)) {
            wrong.push(format!("{kind} {spec}\n  must say {says:?}\n  says {error}"));
        }
    };
    let trace = "AgentTrace";
    let selector =
        "a selector is required: write `selector: {}` for everything, or name labels under matchLabels";
    refused(trace, json!({}), &["spec.selector: Required value", selector]);
    refused(trace, json!({ "selector": null }), &["spec.selector: Required value", selector]);
    refused(
        trace,
        json!({ "selector": { "matchExpressions": [{ "key": "a", "operator": "In" }] } }),
        &["spec.selector.matchExpressions[0]", "values are required for the operators In and NotIn"],
    );
    refused(
        trace,
        json!({ "selector": { "matchExpressions": [{ "key": "a", "operator": "Exists", "values": ["b"] }] } }),
        &["values must be empty for the operators Exists and DoesNotExist"],
    );
    refused(
        trace,
        json!({ "selector": { "matchExpressions": [{ "key": "a", "operator": "Equals", "values": ["b"] }] } }),
        &["Unsupported value: \"Equals\": supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\""],
    );
    refused(
        trace,
        json!({ "selector": { "matchExpressions": [{ "key": "not a label", "operator": "Exists" }] } }),
        &["spec.selector.matchExpressions[0].key", "should match"],
    );
    refused(
        trace,
        json!({ "selector": {}, "containers": { "include": ["a"], "exclude": ["a"] } }),
        &["spec.containers", "a container stands in both include and exclude: remove it from one of them"],
    );
    refused(
        trace,
        json!({ "selector": {}, "capture": { "modelCalls": { "content": "On" } } }),
        &["spec.capture.modelCalls.content", "supported values: \"None\", \"Messages\""],
    );
    refused(
        trace,
        json!({ "selector": {}, "capture": { "modelCalls": { "maxContentBytes": 10 } } }),
        &["spec.capture.modelCalls.maxContentBytes", "greater than or equal to 1024"],
    );
    refused(
        trace,
        json!({ "selector": {}, "capture": { "modelCalls": { "endpoints": [{ "path": "/a" }] } } }),
        &["spec.capture.modelCalls.endpoints[0].wireFormat: Required value"],
    );
    refused(
        trace,
        json!({ "selector": {}, "semconv": "1.41" }),
        &["supported values: \"v1.41\", \"latest\""],
    );
    refused(trace, json!({ "selector": {}, "sampling": { "percent": 101 } }), &["less than or equal to 100"]);
    refused(trace, json!({ "selector": {}, "exporter": "No_Name" }), &["spec.exporter", "should match"]);
    refused(trace, json!({ "selector": {}, "selektor": {} }), &["unknown field \"spec.selektor\""]);
    refused(
        trace,
        json!({ "selector": {}, "redaction": { "patterns": [{ "name": "a", "regex": "x" }, { "name": "a", "regex": "y" }] } }),
        &["spec.redaction.patterns[1]: Duplicate value"],
    );
    let many = "a namespaceSelector is required: write `namespaceSelector: {}` for every namespace, or name labels under matchLabels";
    refused(
        "ClusterAgentTrace",
        json!({ "selector": {} }),
        &["spec.namespaceSelector: Required value", many],
    );
    refused(
        "ClusterAgentTrace",
        json!({ "namespaceSelector": {} }),
        &["spec.selector: Required value", selector],
    );
    let source = json!({ "kind": "AgentTrace", "name": "a", "uid": "u", "generation": 1 });
    let scope = "a scope is either one namespace or a namespaceSelector";
    refused("AgentTraceGrant", json!({ "source": source, "scope": {}, "selector": {} }), &[scope]);
    let both = json!({ "namespace": "a", "namespaceSelector": {} });
    refused("AgentTraceGrant", json!({ "source": source, "scope": both, "selector": {} }), &[scope]);
    refused(
        "AgentTraceNode",
        json!({ "nodeName": "other" }),
        &["spec.nodeName", "an AgentTraceNode has the name of its node"],
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // What stands for itself is taken, with its defaults, and waits for the operator.
    let applied = plane.apply(&object("AgentTraceNode", &json!({ "nodeName": "test" })).to_string());
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let moved = plane.apply(&object("AgentTraceNode", &json!({ "nodeName": "other" })).to_string());
    assert!(String::from_utf8_lossy(&moved.stderr).contains("nodeName cannot be changed"));
    for example in ["agenttrace.yaml", "agenttrace-content.yaml"] {
        plane.kubectl(&["apply", "-f", &project().join("examples").join(example).display().to_string()]);
    }
    let everything = plane.kubectl(&["get", "agenttrace", "everything", "-o", "json"]);
    let everything: Value = serde_json::from_str(&everything).expect("JSON");
    assert_eq!(everything["spec"]["exporter"], "default");
    assert_eq!(everything["spec"]["capture"]["modelCalls"]["content"], "None");
    let explained = plane.kubectl(&["explain", "agenttrace.spec.selector"]);
    assert!(explained.contains("an absent") && explained.contains("selector is refused"), "{explained}");
}

fn object(kind: &str, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "agentsight.dev/v1alpha1", "kind": kind, "metadata": { "name": "test" }, "spec": spec,
    });
    if kind != "ClusterAgentTrace" {
        object["metadata"]["namespace"] = "default".into();
    }
    object
}
