//! What a user changes, and what comes of it.

use crate::workload::{agent_trace, caller, deployment, pod};
use crate::world::{CONTENT_ALLOWED, PATIENCE, World, eventually, resource, response_id};
use agentsight_e2e::process::kernel_objects;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 3. A selector that is changed, and an object that is deleted.
pub(crate) fn a_changed_selector(world: &World) {
    let namespace = "moving";
    world.namespace(namespace);
    let select = |tiers: [&str; 2]| {
        let expression = json!({"key": "tier", "operator": "In", "values": tiers});
        agent_trace("moving", &json!({"selector": {"matchExpressions": [expression]}}))
    };
    let call = |name: &str| {
        pod(name, &json!({"tier": name}), &[caller("agent", &world.authority, &["--every=0.1"])])
    };
    world.apply(namespace, &[call("leaves"), call("stays"), call("comes"), select(["leaves", "stays"])]);
    for name in ["leaves", "stays"] {
        wait_for_pods_spans(world, namespace, name);
    }
    let agents = identities(&world.agents());
    world.wait_for_agents("Tracing");
    if let Some(cluster) = world.machine() {
        let there = objects_of_agents(cluster.cgroup());
        assert!(there.iter().any(|name| name == "[perf_event]"), "agents have probes: {there:?}");
    }

    let changed = now();
    world.apply(namespace, &[select(["stays", "comes"])]);
    wait_for_pods_spans(world, namespace, "comes");
    // As much again: whatever was to come of the one that left has come, in order, by the same exporter.
    eventually("three more seconds of calls", PATIENCE, || {
        let latest = starts(world, namespace, "stays").last().copied().unwrap_or_default();
        if latest > changed + 3_000_000_000 { Ok(()) } else { Err(format!("{latest} after {changed}")) }
    });
    let first = starts(world, namespace, "comes")[0];
    let last = *starts(world, namespace, "leaves").last().expect("it was seen before");
    let seconds = |at: u64| (at as f64 - changed as f64) / 1e9;
    eprintln!("   tracing began {:.2} s, and ended {:.2} s after the change", seconds(first), seconds(last));
    assert!(seconds(first) < 2.0 && seconds(last) < 2.0, "within 2 s");

    // All that the one that stays has called between its first and its last span is there, once.
    let ours: Vec<_> =
        world.spans(namespace).into_iter().filter(|s| resource(s, "k8s.pod.name") == "stays").collect();
    let seen: Vec<_> = ours.iter().filter_map(response_id).collect();
    let calls: Vec<_> =
        world.served(namespace, "stays/").into_iter().filter_map(|served| served.id).collect();
    let from = calls.iter().position(|id| seen.contains(&id.as_str())).expect("one was seen");
    let to = calls.iter().rposition(|id| seen.contains(&id.as_str())).expect("one was seen");
    let wanted: Vec<_> = calls[from..=to].iter().map(String::as_str).collect();
    assert_eq!(seen.iter().collect::<BTreeSet<_>>(), wanted.iter().collect::<BTreeSet<_>>(), "unbroken");
    assert_eq!(seen.len(), wanted.len(), "and none twice");
    assert_eq!(identities(&world.agents()), agents, "no agent was restarted");

    world.kubectl(&["delete", "agenttrace", "-n", namespace, "moving"]);
    if let Some(cluster) = world.machine() {
        eventually("no probe, map or link is left", PATIENCE, || {
            let left = objects_of_agents(cluster.cgroup());
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
    world.wait_for_agents("Idle");
    assert_eq!(identities(&world.agents()), agents, "no agent was restarted");
}

/// 6. What is refused, by whom, and with which words; a collector that is not there, and comes.
pub(crate) fn bad_objects_and_collectors(world: &World) {
    let namespace = "mistakes";
    world.namespace(namespace);
    for (spec, words) in [
        (json!({}), "selector"),
        (
            json!({"selector": {}, "capture": {"modelCalls": {"content": "All"}}}),
            "supported values: \"None\", \"Messages\"",
        ),
        (json!({"selector": {}, "sampling": {"percent": 101}}), "less than or equal to 100"),
        (
            json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Is", "values": ["b"]}]}}),
            "supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\"",
        ),
    ] {
        let output = world.try_apply(namespace, &[agent_trace("bad", &spec)], &[]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(words), "{spec}: {message}");
    }
    for (name, spec, reason, words) in [
        ("unknown", json!({"selector": {}, "exporter": "typo"}), "ExporterUnknown", "default"),
        ("foreign", json!({"selector": {}, "exporter": "elsewhere"}), "ExporterNotAllowed", "elsewhere"),
        (
            "content",
            json!({"selector": {}, "capture": {"modelCalls": {"content": "Messages"}}}),
            "ContentNotAllowed",
            namespace,
        ),
        (
            "pattern",
            json!({"selector": {}, "redaction": {"patterns": [{"name": "a", "regex": "("}]}}),
            "InvalidSpec",
            "redaction.patterns",
        ),
    ] {
        world.apply(namespace, &[agent_trace(name, &spec)]);
        let message = world.wait_for_condition(namespace, name, "Accepted", "False", reason);
        assert!(message.contains(words), "{name}: {message}");
    }

    world.apply(
        namespace,
        &[
            agent_trace("lost", &json!({"selector": {}, "exporter": "nowhere"})),
            pod("calling", &json!({}), &[caller("agent", &world.authority, &["--every=0.5"])]),
        ],
    );
    let message = world.wait_for_condition(namespace, "lost", "Exporting", "False", "ExporterUnreachable");
    assert!(message.contains("nowhere"), "{message}");
    let waiting = world.served(namespace, "calling/");
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "nowhere"},
        "spec": {"selector": {"app": "collector"}, "ports": [{"port": 4317}]},
    });
    world.apply("observed", &[service]);
    world.wait_for_condition(namespace, "lost", "Exporting", "True", "Exported");
    // What was called while there was no collector came when there was one.
    let first = world.spans(namespace).first().and_then(response_id).map(str::to_owned);
    let from = waiting.iter().position(|call| call.id == first).unwrap_or(0);
    world.wait_for_spans(namespace, &waiting[from..]);
    world.kubectl(&["delete", "service", "-n", "observed", "nowhere"]);
}

/// 7. Two objects, one pod, one exporter: one span, with the strictest content and all redaction.
pub(crate) fn two_traces_on_one_pod(world: &World) {
    let namespace = CONTENT_ALLOWED;
    world.namespace(namespace);
    let content = |name: &str, pattern: &str| {
        let spec = json!({
            "selector": {},
            "capture": {"modelCalls": {"content": "Messages"}},
            "redaction": {"patterns": [{"name": name, "regex": pattern}]},
        });
        agent_trace(name, &spec)
    };
    let text = "--text=order 4711 of customer 0815 please";
    let calls =
        |name: &str| pod(name, &json!({}), &[caller("agent", &world.authority, &["--calls=3", text])]);

    // One that keeps running, for the conditions; those that are counted call three times and end.
    let running = deployment("running", &[caller("agent", &world.authority, &["--every=1"])]);
    world.apply(namespace, &[content("orders", "4711"), content("customers", "0815"), running]);
    for name in ["orders", "customers"] {
        world.wait_for_condition(namespace, name, "Overlapping", "True", "Overlapping");
    }
    world.apply(namespace, &[calls("two")]);
    assert!(world.wait_for_end(namespace, "two"));
    let spans = world.wait_for_spans(namespace, &world.served(namespace, "two/"));
    assert_eq!(spans.len(), 3, "one span a call");
    for span in &spans {
        let input =
            span.text("gen_ai.input.messages").unwrap_or_else(|| panic!("no content: {:?}", span.attributes));
        assert!(!input.contains("4711") && !input.contains("0815"), "{input}");
        assert!(input.contains("please"), "{input}");
    }

    // A third that wants no content at all is the strictest.
    world.apply(namespace, &[agent_trace("numbers", &json!({"selector": {}}))]);
    world.wait_for_condition(namespace, "numbers", "Overlapping", "True", "Overlapping");
    world.apply(namespace, &[calls("three")]);
    assert!(world.wait_for_end(namespace, "three"));
    let spans = world.wait_for_spans(namespace, &world.served(namespace, "three/"));
    assert_eq!(spans.len(), 3, "one span a call");
    assert!(spans.iter().all(|span| span.text("gen_ai.input.messages").is_none()), "no content");

    // And what is alone again says so.
    world.kubectl(&["delete", "agenttrace", "-n", namespace, "numbers", "customers"]);
    world.wait_for_condition(namespace, "orders", "Overlapping", "False", "Alone");
}

fn wait_for_pods_spans(world: &World, namespace: &str, pod: &str) {
    eventually(&format!("spans of {pod}"), PATIENCE, || {
        if starts(world, namespace, pod).is_empty() { Err("none".to_owned()) } else { Ok(()) }
    });
}

/// When a pod's calls began that have a span, in order.
fn starts(world: &World, namespace: &str, pod: &str) -> Vec<u64> {
    let spans = world.spans(namespace);
    let mut starts: Vec<_> =
        spans.iter().filter(|span| resource(span, "k8s.pod.name") == pod).map(|span| span.start).collect();
    starts.sort_unstable();
    starts
}

/// What tells whether an agent was restarted.
fn identities(agents: &[Value]) -> Vec<String> {
    let one = |pod: &Value| {
        let container = &pod["status"]["containerStatuses"][0];
        format!("{} {}", pod["metadata"]["uid"], container["restartCount"])
    };
    agents.iter().map(one).collect()
}

/// What the agents in a control group have in the kernel: another test's agents run elsewhere.
fn objects_of_agents(cgroup: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("it is mounted");
    let processes = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_agent = |pid: &u32| {
        let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        group.contains(&format!("/{cgroup}/")) && program.file_name().is_some_and(|name| name == "agentsight")
    };
    let agents: Vec<_> = processes.filter(is_agent).collect();
    assert!(!agents.is_empty(), "no agent runs");
    agents.into_iter().flat_map(kernel_objects).collect()
}

fn now() -> u64 {
    let since: Duration = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    since.as_nanos() as u64
}
