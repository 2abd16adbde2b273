//! What somebody can do who may write every field of the AgentTraces in a namespace, and should not be able to.

use crate::workload::{agent_trace, caller, pod};
use crate::world::{SYSTEM, World, resource};
use serde_json::json;

/// 12. Every verb on AgentTraces and their status in one namespace, and nothing beyond it.
pub(crate) fn a_tenant_with_every_verb(world: &World) {
    let namespace = "tenant";
    world.namespace(namespace);
    world.namespace("neighbour");
    let rules = json!([{
        "apiGroups": ["agentsight.dev"], "resources": ["agenttraces", "agenttraces/status"], "verbs": ["*"],
    }]);
    world.apply(
        namespace,
        &[
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "dev"}}),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": {"name": "dev"}, "rules": rules,
            }),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "dev"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "dev"},
                "subjects": [{"kind": "ServiceAccount", "name": "dev", "namespace": namespace}],
            }),
        ],
    );
    let tenant = "--as=system:serviceaccount:tenant:dev";
    let can = |verb: &str, resource: &str, place: &str| {
        let output = world.try_kubectl(&["auth", "can-i", verb, resource, "-n", place, tenant]);
        output.status.success()
    };
    assert!(can("create", "agenttraces.agentsight.dev", namespace), "it is a tenant");
    assert!(can("patch", "agenttraces.agentsight.dev/status", namespace), "with every verb");
    for (verb, resource, place) in [
        ("create", "agenttraces.agentsight.dev", "neighbour"),
        ("create", "clusteragenttraces.agentsight.dev", namespace),
        ("create", "agenttracegrants.agentsight.dev", SYSTEM),
        ("patch", "agenttracegrants.agentsight.dev", SYSTEM),
        ("get", "agenttracegrants.agentsight.dev", SYSTEM),
        ("patch", "agenttracenodes.agentsight.dev/status", SYSTEM),
        ("get", "secrets", SYSTEM),
        ("get", "configmaps", SYSTEM),
    ] {
        assert!(!can(verb, resource, place), "{verb} {resource} in {place}");
    }

    let secret = "--text=the secret of the tenant is 271828";
    let calls =
        |name: &str| pod(name, &json!({}), &[caller("agent", &world.authority, &["--calls=3", secret])]);
    let refused = [
        (
            "content",
            json!({"selector": {}, "capture": {"modelCalls": {"content": "Messages"}}}),
            "ContentNotAllowed",
        ),
        ("exporter", json!({"selector": {}, "exporter": "elsewhere"}), "ExporterNotAllowed"),
    ];
    for (name, spec, reason) in &refused {
        let output = world.try_apply(namespace, &[agent_trace(name, spec)], &[tenant]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        world.wait_for_condition(namespace, name, "Accepted", "False", reason);
        // A forged status: nobody decides anything by it, and it does not stay.
        let generation = world.get(namespace, "agenttrace", name)["metadata"]["generation"].clone();
        let forged = json!({"status": {"observedGeneration": generation, "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "forged",
            "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}});
        let patch = [
            "patch",
            "agenttrace",
            name,
            "-n",
            namespace,
            "--subresource=status",
            "--type=merge",
            tenant,
            "-p",
        ];
        world.kubectl(&[&patch[..], &[&forged.to_string()]].concat());
        world.wait_for_condition(namespace, name, "Accepted", "False", reason);
    }
    let uid = |name: &str| world.get(namespace, "agenttrace", name)["metadata"]["uid"].clone();
    let grants = world.list(SYSTEM, "agenttracegrants", "");
    for (name, ..) in &refused {
        let uid = uid(name);
        assert!(!grants.iter().any(|grant| grant["spec"]["source"]["uid"] == uid), "{name} has a grant");
    }

    // The real try: an accepted object of the tenant's, its pod and a neighbour's, and not a word in what came.
    let output = world.try_apply(namespace, &[agent_trace("numbers", &json!({"selector": {}}))], &[tenant]);
    assert!(output.status.success());
    world.wait_until_watched(namespace, "numbers");
    world.apply(namespace, &[calls("own")]);
    world.apply("neighbour", &[calls("other")]);
    assert!(world.wait_for_end(namespace, "own") && world.wait_for_end("neighbour", "other"));
    let spans = world.wait_for_spans(namespace, &world.served(namespace, "own/"));
    assert!(spans.iter().all(|span| resource(span, "k8s.namespace.name") == namespace));
    assert!(world.spans("neighbour").is_empty(), "a neighbour's pod was reached");
    assert!(!world.received_text().contains("271828"), "content came though no guardrail allows it");
}
