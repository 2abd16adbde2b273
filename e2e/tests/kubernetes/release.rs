//! The life of a release: upgraded, rolled back, removed.

use crate::workload::{agent_trace, caller, pod};
use crate::world::{PATIENCE, SYSTEM, World, eventually, response_id};
use agentsight_e2e::host::needs_no_sys_admin;
use serde_json::{Value, json};

/// 13. `helm upgrade` with changed values, `rollback`, `uninstall`; definitions and objects stay.
pub(crate) fn upgrade_rollback_uninstall(world: &World) {
    let namespace = "lasting";
    world.namespace(namespace);
    world.apply(
        namespace,
        &[
            agent_trace("kept", &json!({"selector": {}})),
            pod("calling", &json!({}), &[caller("agent", &world.authority, &["--every=0.5"])]),
        ],
    );
    world.wait_for_condition(namespace, "kept", "Active", "True", "Tracing");
    let output = world.helm(&["test", "agentsight", "-n", SYSTEM, "--logs", "--timeout=120s"]);
    assert!(output.contains("Succeeded"), "{output}");

    world.install(&[
        "upgrade",
        "--set",
        "agent.podLabels.upgraded=yes",
        "--set",
        "guardrails.namespaces={other}",
    ]);
    assert!(
        world.agents().iter().all(|pod| pod["metadata"]["labels"]["upgraded"] == "yes"),
        "agents were replaced"
    );
    world.wait_for_condition(namespace, "kept", "Accepted", "False", "NamespaceNotAllowed");
    let grants = || world.list(SYSTEM, "agenttracegrants", "").len();
    eventually("the grant is withdrawn", PATIENCE, || match grants() {
        0 => Ok(()),
        some => Err(some.to_string()),
    });

    world.helm(&["rollback", "agentsight", "-n", SYSTEM, "--wait", "--timeout=180s"]);
    world.wait_for_condition(namespace, "kept", "Active", "True", "Tracing");
    wait_for_new_spans(world, namespace);

    world.helm(&["uninstall", "agentsight", "-n", SYSTEM, "--wait", "--timeout=120s"]);
    let left = |kind: &str| world.list(SYSTEM, kind, "").iter().map(name).collect::<Vec<_>>();
    eventually("nothing of the release runs", PATIENCE, || {
        let left = ["pods", "agenttracegrants", "agenttracenodes", "leases"].map(left).concat();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    for kind in ["agenttraces", "clusteragenttraces", "agenttracegrants", "agenttracenodes"] {
        world.kubectl(&["get", "crd", &format!("{kind}.agentsight.dev")]);
    }
    assert_eq!(world.get(namespace, "agenttrace", "kept")["spec"]["selector"], json!({}));
    let log = world.kubectl(&["logs", "-n", namespace, "calling"]);
    assert!(!log.contains("failed"), "the application has noticed nothing: {log}");

    // The same release again takes over what was kept, with no more rights than the nodes' kernels ask for.
    let kernels =
        world.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.kernelVersion}"]);
    let less = kernels.split_whitespace().all(needs_no_sys_admin);
    world.install(&["install", "--set", &format!("agent.sysAdmin={}", !less)]);
    world.wait_for_condition(namespace, "kept", "Active", "True", "Tracing");
    wait_for_new_spans(world, namespace);
}

fn wait_for_new_spans(world: &World, namespace: &str) {
    let before = world.spans(namespace).len();
    eventually("new spans", PATIENCE, || {
        let spans = world.spans(namespace);
        if spans.len() > before && spans.last().and_then(response_id).is_some() {
            Ok(())
        } else {
            Err(spans.len().to_string())
        }
    });
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}
