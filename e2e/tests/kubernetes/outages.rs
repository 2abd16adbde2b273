//! What happens while a part is away.

use crate::workload::{agent_trace, caller, pod};
use crate::world::{PATIENCE, SYSTEM, World, eventually, resource, response_id, sum};
use agentsight_e2e::control_plane::succeeded;
use agentsight_e2e::process::run;
use agentsight_e2e::telemetry::Telemetry;
use agentsight_e2e::truth::Served;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

/// How long a part stays away.
const OUTAGE: Duration = Duration::from_secs(60);

/// 8. The agent is killed while a response streams.
pub(crate) fn an_agent_is_killed(world: &World) {
    let namespace = "steady";
    world.namespace(namespace);
    world.apply(namespace, &[agent_trace("all", &json!({"selector": {}}))]);
    world.wait_until_watched(namespace, "all");
    // Half a minute: the new agent comes in its middle.
    let streaming = [
        "--calls=1",
        "--stream",
        "--header=x-mock-bytes:4000",
        "--header=x-mock-chunks:150",
        "--header=x-mock-chunk-ms:200",
    ];
    world.apply(
        namespace,
        &[
            pod("calling", &json!({}), &[caller("agent", &world.authority, &["--every=0.5"])]),
            pod("streaming", &json!({}), &[caller("agent", &world.authority, &streaming)]),
        ],
    );
    eventually("calls are seen", PATIENCE, || {
        if world.spans(namespace).is_empty() { Err("none".to_owned()) } else { Ok(()) }
    });
    eventually("the response streams", PATIENCE, || {
        let output = world.try_kubectl(&["logs", "-n", namespace, "streaming"]);
        if output.stdout.starts_with(b"streaming") { Ok(()) } else { Err(format!("{output:?}")) }
    });
    let killed_at = world.served(namespace, "calling/").len();
    kill_agents(world);

    // The application has noticed nothing.
    assert!(
        world.wait_for_end(namespace, "streaming"),
        "{}",
        world.kubectl(&["logs", "-n", namespace, "streaming"])
    );
    let log = world.kubectl(&["logs", "-n", namespace, "calling"]);
    assert!(log.lines().count() > killed_at && !log.contains("failed"), "{log}");
    // The new agent traces on, what runs already included.
    eventually("calls made after the new agent came are seen", PATIENCE, || {
        let latest = world.served(namespace, "calling/").last().and_then(|call| call.id.clone());
        let seen: BTreeSet<_> =
            world.spans(namespace).iter().filter_map(response_id).map(str::to_owned).collect();
        if latest.as_ref().is_some_and(|id| seen.contains(id)) {
            Ok(())
        } else {
            Err(format!("not {latest:?}"))
        }
    });
    // The call that was cut: a span that says so, or a count. Never one that pretends to be whole.
    let cut: Vec<Served> = world.served(namespace, "streaming/");
    eventually("the cut call is told", PATIENCE, || {
        let spans = world.spans(namespace);
        let ours: Vec<_> =
            spans.iter().filter(|span| resource(span, "k8s.pod.name") == "streaming").collect();
        let whole = |span: &&&agentsight_e2e::telemetry::Span| {
            response_id(span) == cut.first().and_then(|call| call.id.as_deref())
                && !["agentsight.capture.truncated", "agentsight.response.incomplete"]
                    .iter()
                    .any(|told| span.attributes.contains_key(*told))
        };
        assert!(!ours.iter().any(|span| whole(&span)), "a cut call looks whole");
        let counted: f64 = ["agentsight_lost_total", "agentsight_truncated_calls_total"]
            .iter()
            .map(|name| world.agents_metric(name))
            .sum();
        if !ours.is_empty() || counted > 0.0 { Ok(()) } else { Err("neither a span nor a count".to_owned()) }
    });
}

/// Kills the agents without a word, where that can be done, and waits until their successors are ready.
fn kill_agents(world: &World) {
    let started = || {
        let agents = world.agents();
        let ready = agents.iter().all(|pod| pod["status"]["containerStatuses"][0]["ready"] == true);
        let starts: Vec<_> = agents
            .iter()
            .map(|pod| pod["status"]["containerStatuses"][0]["containerID"].to_string())
            .collect();
        (ready, starts)
    };
    let (_, before) = started();
    if let Some(cluster) = world.machine() {
        for id in cluster.processes("agentsight") {
            let output = run(Command::new("kill").args(["-KILL", &id.to_string()]));
            succeeded(&output, &["kill"]);
        }
    } else {
        for agent in world.agents() {
            let name = agent["metadata"]["name"].as_str().unwrap_or_default();
            world.kubectl(&["delete", "pod", "-n", SYSTEM, name, "--grace-period=0", "--force"]);
        }
    }
    eventually("new agents are ready", PATIENCE, || {
        let (ready, now) = started();
        let all_new = now.len() == before.len() && now.iter().all(|id| !before.contains(id));
        if ready && all_new { Ok(()) } else { Err(format!("{before:?}, now {now:?}")) }
    });
}

/// 9. No operator, then two.
pub(crate) fn no_operator(world: &World) {
    let namespace = "headless";
    world.namespace(namespace);
    world.apply(
        namespace,
        &[
            agent_trace("running", &json!({"selector": {"matchLabels": {"traced": "yes"}}})),
            pod("old", &json!({"traced": "yes"}), &[caller("agent", &world.authority, &["--every=0.5"])]),
            pod("new", &json!({"traced": "soon"}), &[caller("agent", &world.authority, &["--every=0.5"])]),
        ],
    );
    world.wait_for_condition(namespace, "running", "Active", "True", "Tracing");
    let scale = |replicas: &str| {
        world.kubectl(&[
            "scale",
            "-n",
            SYSTEM,
            "deployment",
            "-l",
            "app.kubernetes.io/component=operator",
            replicas,
        ]);
    };
    scale("--replicas=0");
    eventually("no operator runs", PATIENCE, || {
        let left = world.list(SYSTEM, "pods", "app.kubernetes.io/component=operator").len();
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    });
    world.apply(
        namespace,
        &[agent_trace("waiting", &json!({"selector": {"matchLabels": {"traced": "soon"}}}))],
    );
    // What runs goes on; the new object says that it waits, and nothing is done for it.
    let made = world.served(namespace, "old/");
    eventually("calls are seen without an operator", PATIENCE, || {
        let served = world.served(namespace, "old/");
        if served.len() > made.len() + 2 { Ok(()) } else { Err(served.len().to_string()) }
    });
    world.wait_for_spans(namespace, &world.served(namespace, "old/")[made.len()..]);
    let [status, reason, _] = world.condition(namespace, "waiting", "Accepted");
    assert_eq!([status.as_str(), reason.as_str()], ["Unknown", "Pending"]);
    assert!(world.spans(namespace).iter().all(|span| resource(span, "k8s.pod.name") == "old"));

    scale("--replicas=2");
    world.wait_for_condition(namespace, "waiting", "Active", "True", "Tracing");
    world.kubectl(&["rollout", "status", "-n", SYSTEM, "deployment", "--timeout=120s"]);
    eventually("one of two leads", PATIENCE, || {
        let operators = world.list(SYSTEM, "pods", "app.kubernetes.io/component=operator");
        let leads = |pod: &Value| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            sum(&world.metrics(name, 8080), "agentsight_operator_leader")
        };
        let leaders: f64 = operators.iter().map(leads).sum();
        if operators.len() == 2 && leaders == 1.0 {
            Ok(())
        } else {
            Err(format!("{leaders} of {}", operators.len()))
        }
    });
}

/// 10. The API server is away for a minute.
pub(crate) fn no_api_server(world: &World) {
    let Some(cluster) = world.machine() else { return };
    let namespace = "cut-off";
    world.namespace(namespace);
    world.apply(
        namespace,
        &[
            agent_trace("all", &json!({"selector": {}})),
            pod("calling", &json!({}), &[caller("agent", &world.authority, &["--every=1"])]),
        ],
    );
    world.wait_for_condition(namespace, "all", "Active", "True", "Tracing");
    let uid =
        world.get(namespace, "pod", "calling")["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let collector = &world.list("observed", "pods", "app=collector")[0]["metadata"]["uid"];
    let folder = cluster
        .kubeconfig()
        .with_file_name("kubelet")
        .join("pods")
        .join(collector.as_str().unwrap_or_default());
    let file = folder.join("volumes/kubernetes.io~empty-dir/data/received.jsonl");
    // An earlier scenario has killed an agent: what counts is that none is restarted from here on.
    let restarts = |world: &World| -> Vec<_> {
        let one = |pod: &Value| {
            let container = &pod["status"]["containerStatuses"][0];
            (pod["metadata"]["uid"].clone(), container["restartCount"].clone())
        };
        world.agents().iter().map(one).collect()
    };
    let agents = restarts(world);
    let seen = || {
        let telemetry = Telemetry::read(&file).expect("the collector writes OTLP");
        telemetry.calls().filter(|span| resource(span, "k8s.pod.uid") == uid).count()
    };

    cluster.daemons().stop("kube-apiserver");
    let at_first = seen();
    // The minute that the promise is about; nothing in it is waited for.
    std::thread::sleep(OUTAGE);
    let at_last = seen();
    cluster.start_api_server();
    eprintln!("   {} spans in a minute without an API server", at_last - at_first);
    // At one call a second; a few are on their way at either end, or slow on a busy machine.
    assert!(at_last - at_first > 30, "{at_first} spans before, {at_last} after");

    let served = world.served(namespace, "calling/");
    let spans = world.spans(namespace);
    let first = spans.first().and_then(response_id).map(str::to_owned);
    let from = served.iter().position(|call| call.id == first).unwrap_or(0);
    let spans = world.wait_for_spans(namespace, &served[from..]);
    for span in &spans {
        assert_eq!(resource(span, "k8s.pod.name"), "calling");
        assert_eq!(resource(span, "k8s.pod.uid"), uid);
    }
    // Added up: kube-proxy finds the API server again, then agent and operator do, then counters are told, once a minute.
    eventually("the status catches up", PATIENCE * 2, || {
        let status = world.get(namespace, "agenttrace", "all")["status"].clone();
        let calls = status["calls"].as_u64().unwrap_or_default() as usize;
        if calls >= spans.len() { Ok(()) } else { Err(format!("{} of {}: {status}", calls, spans.len())) }
    });
    assert_eq!(restarts(world), agents, "no agent was restarted");
}

/// 11. The collector is away for a minute.
pub(crate) fn no_collector(world: &World) {
    let namespace = "unheard";
    world.namespace(namespace);
    world.apply(
        namespace,
        &[
            agent_trace("all", &json!({"selector": {}})),
            pod("calling", &json!({}), &[caller("agent", &world.authority, &["--every=1"])]),
        ],
    );
    world.wait_for_condition(namespace, "all", "Exporting", "True", "Exported");
    let scale =
        |replicas: &str| world.kubectl(&["scale", "-n", "observed", "deployment/collector", replicas]);
    scale("--replicas=0");
    eventually("no collector runs", PATIENCE, || {
        let left = world.list("observed", "pods", "app=collector").len();
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    });
    // From here on nobody takes anything; what was taken before may not have been read by us.
    let before = world.served(namespace, "calling/").len();
    std::thread::sleep(OUTAGE);
    world.wait_for_condition(namespace, "all", "Exporting", "False", "ExporterUnreachable");
    let unheard = world.served(namespace, "calling/")[before + 1..].to_vec();
    assert!(unheard.len() > 30, "{} calls in a minute", unheard.len());

    scale("--replicas=1");
    let spans = world.wait_for_spans(namespace, &unheard);
    assert_eq!(spans.len(), unheard.len(), "none twice");
    world.wait_for_condition(namespace, "all", "Exporting", "True", "Exported");
    let dropped = world.agents_metric("agentsight_export_dropped_items_total");
    assert!(dropped == 0.0, "{dropped} items were given up, though all were delivered");
}
