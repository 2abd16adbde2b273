//! What AgentSight costs a node, and how soon it is there: measured, not asserted. `bench/cluster.sh` runs it.

use crate::workload::{agent_trace, caller, deployment, job, pod};
use crate::world::{SYSTEM, World, eventually, resource};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// How often a time is taken.
const TIMES: usize = 20;
/// Pods at once, and how many AgentTraces select among them.
const PODS: usize = 100;
const TRACES: usize = 10;
/// For how long CPU time is counted.
const WINDOW: Duration = Duration::from_secs(60);
/// A hundred pods on two cores take their time.
const LONG: Duration = Duration::from_secs(900);

/// Prints the rows of docs/performance.md.
pub(crate) fn figures(world: &World) {
    row("", "median", "worst");
    println!("|---|---|---|");
    idle(world);
    first_calls(world);
    crowd(world);
    probes(world);
}

/// Nothing is granted.
fn idle(world: &World) {
    costs(world, "idle");
}

/// From the command that applies an AgentTrace to the first call of a running pod that is traced.
fn first_calls(world: &World) {
    let namespace = "figures";
    world.namespace(namespace);
    world.apply(
        namespace,
        &[pod("calling", &json!({}), &[caller("agent", &world.authority, &["--every=0.01"])])],
    );
    world.kubectl(&["wait", "-n", namespace, "--for=condition=Ready", "pod/calling", "--timeout=120s"]);
    let mut seconds = Vec::new();
    for number in 0..TIMES {
        let before = world.spans(namespace).len();
        let applied = Timestamp::now().as_nanosecond();
        world.apply(namespace, &[agent_trace("figures", &json!({"selector": {}}))]);
        let first = eventually("a first span", LONG, || {
            let spans = world.spans(namespace);
            spans[before..].iter().map(|span| span.start).min().ok_or_else(|| "none".to_owned())
        });
        seconds.push((i128::from(first) - applied) as f64 / 1e9);
        world.kubectl(&["delete", "agenttrace", "-n", namespace, "figures"]);
        // All that was under way has come once nothing more comes.
        let mut seen = (0, Instant::now());
        eventually(&format!("an end of the spans of turn {number}"), LONG, || {
            let spans = world.spans(namespace).len();
            if spans != seen.0 {
                seen = (spans, Instant::now());
            }
            if seen.1.elapsed() > Duration::from_secs(5) { Ok(()) } else { Err(format!("{spans}")) }
        });
    }
    world.clean_up();
    timed("from `kubectl apply` of an AgentTrace to the first traced call", seconds, "s");
}

/// Many pods that call once a second, and AgentTraces that each select a part of them.
fn crowd(world: &World) {
    let namespace = "crowd-figures";
    world.namespace(namespace);
    for trace in 0..TRACES {
        let spec = json!({"selector": {"matchLabels": {"app": format!("crowd-{trace}")}}});
        world.apply(namespace, &[agent_trace(&format!("crowd-{trace}"), &spec)]);
    }
    for trace in 0..TRACES {
        let mut crowd =
            deployment(&format!("crowd-{trace}"), &[caller("agent", &world.authority, &["--every=1"])]);
        crowd["spec"]["replicas"] = (PODS / TRACES).into();
        world.apply(namespace, &[crowd]);
    }
    world.kubectl(&[
        "wait",
        "-n",
        namespace,
        "--for=condition=Available",
        "deployment",
        "--all",
        "--timeout=900s",
    ]);
    costs(world, &format!("{PODS} pods that call once a second, {TRACES} AgentTraces"));
    let seen = world.spans(namespace);
    let pods: HashSet<_> = seen.iter().map(|span| resource(span, "k8s.pod.uid")).collect();
    row(&format!("pods of these {PODS} with spans"), &pods.len().to_string(), "");
    world.clean_up();
}

/// From a container's first program to its probes; below zero where these were first.
fn probes(world: &World) {
    let namespace = "probe-figures";
    world.namespace(namespace);
    let agents = ["-n", SYSTEM, "daemonset/agentsight-agent"];
    world.kubectl(&[&["set", "env"], &agents[..], &["AGENTSIGHT_LOG=agentsight=debug"]].concat());
    world.kubectl(&[&["rollout", "status"], &agents[..], &["--timeout=180s"]].concat());
    world.apply(namespace, &[agent_trace("figures", &json!({"selector": {}}))]);
    world.wait_until_watched(namespace, "figures");
    world.apply(namespace, &[job("figures", TIMES, &[caller("agent", &world.authority, &["--calls=1"])])]);
    world.kubectl(&["wait", "-n", namespace, "--for=condition=Complete", "job/figures", "--timeout=600s"]);
    let log = world.kubectl(&["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=agent", "--tail=-1"]);
    let (mut looked, mut ran) = (HashMap::new(), HashMap::new());
    for line in log.lines() {
        let field = |name: &str| {
            let value =
                line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
            value.parse::<i64>().ok()
        };
        let (Some(cgroup), Some(at)) = (field("cgroup"), field("at")) else { continue };
        if line.contains("looked at what a container has") {
            looked.entry(cgroup).or_insert(at);
        } else if line.contains("a program in a container") {
            ran.entry(cgroup).or_insert(at);
        }
    }
    let milliseconds: Vec<_> =
        looked.iter().filter_map(|(cgroup, at)| Some((at - ran.get(cgroup)?) as f64 / 1e6)).collect();
    assert!(!milliseconds.is_empty(), "the agent's log at debug tells of containers");
    timed("from a container's first program to its probes", milliseconds, "ms");
    world.clean_up();
}

/// What the agent and the operator need, by the kubelet's account.
fn costs(world: &World, when: &str) {
    let before = usage(world);
    let after = eventually("a minute of the kubelet's numbers", LONG, || {
        let now = usage(world);
        let whole = before
            .iter()
            .all(|(name, then)| now.get(name).is_some_and(|now| now.at - then.at >= WINDOW.as_secs_f64()));
        if whole { Ok(now) } else { Err(format!("{now:?}")) }
    });
    for (name, then) in &before {
        let now = &after[name];
        let share = 100.0 * (now.cpu - then.cpu) / (now.at - then.at);
        row(&format!("{name}, {when}: CPU, % of a core"), &format!("{share:.2}"), "");
        row(&format!("{name}, {when}: memory (working set), MiB"), &format!("{:.1}", now.memory), "");
    }
}

#[derive(Debug)]
struct Usage {
    /// When, s.
    at: f64,
    /// CPU time, s.
    cpu: f64,
    /// Working set, MiB.
    memory: f64,
}

fn usage(world: &World) -> HashMap<&'static str, Usage> {
    let nodes: Value = serde_json::from_str(&world.kubectl(&["get", "nodes", "-o", "json"])).expect("JSON");
    let mut found = HashMap::new();
    for node in nodes["items"].as_array().into_iter().flatten() {
        let name = node["metadata"]["name"].as_str().expect("a node has a name");
        let text = world.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{name}/proxy/stats/summary")]);
        let summary: Value = serde_json::from_str(&text).expect("JSON");
        for pod in summary["pods"].as_array().into_iter().flatten() {
            if pod["podRef"]["namespace"] != SYSTEM {
                continue;
            }
            for container in pod["containers"].as_array().into_iter().flatten() {
                let name = match container["name"].as_str() {
                    Some("agent") => "agent",
                    Some("operator") => "operator",
                    _ => continue,
                };
                let time = container["cpu"]["time"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
                let (Some(at), Some(cpu)) = (time, container["cpu"]["usageCoreNanoSeconds"].as_f64()) else {
                    continue;
                };
                let memory = container["memory"]["workingSetBytes"].as_f64().unwrap_or_default();
                found.insert(
                    name,
                    Usage {
                        at: at.as_nanosecond() as f64 / 1e9,
                        cpu: cpu / 1e9,
                        memory: memory / f64::from(1 << 20),
                    },
                );
            }
        }
    }
    assert_eq!(found.len(), 2, "the kubelet tells of agent and operator");
    found
}

fn timed(what: &str, mut values: Vec<f64>, unit: &str) {
    values.sort_by(f64::total_cmp);
    let shown = |value: f64| format!("{value:.2} {unit}");
    row(
        &format!("{what} ({} times)", values.len()),
        &shown(values[values.len() / 2]),
        &shown(values[values.len() - 1]),
    );
}

fn row(what: &str, median: &str, worst: &str) {
    println!("| {what} | {median} | {worst} |");
}
