//! What the operator costs: the operator alone, on a real API server, with simulated nodes. `bench/operator.sh` runs it.
//!
//! NODES (5000), TRACES (500) and MINUTES (2) in the environment say how much of it.

use agentsight_api::{AgentTrace, AgentTraceGrant, AgentTraceNode, AgentTraceStatus};
use agentsight_e2e::collector::free_port;
use agentsight_e2e::control_plane::{ControlPlane, succeeded};
use agentsight_e2e::process::run;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const NAMESPACE: &str = "agentsight-system";
/// Traces of which a node reports.
const TRACES_A_NODE: usize = 10;
/// Requests of simulated nodes under way.
const AT_ONCE: usize = 64;
/// Changes whose way to the status is timed.
const CHANGES: usize = 20;

#[tokio::main]
async fn main() {
    let [nodes, traces, minutes] =
        [("NODES", 5000), ("TRACES", 500), ("MINUTES", 2)].map(|(name, default)| {
            std::env::var(name).map_or(default, |value| {
                value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number"))
            })
        });
    let Some(plane) = ControlPlane::or_skip() else { return };
    let world = World::build(&plane, nodes, traces).await;

    let started = Instant::now();
    let operator = Operator::start(&plane).await;
    world.wait_until_folded().await;
    println!("from its start until every status is right    {:8.1} s", started.elapsed().as_secs_f64());
    println!("memory then                                   {:8.1} MiB", operator.resident_mib());
    println!("CPU until then                                {:8.1} s", operator.cpu_seconds());

    let before = (operator.cpu_seconds(), operator.requests().await, Instant::now());
    let updates = world.report_once_a_minute(Duration::from_secs(60 * minutes as u64)).await;
    let elapsed = before.2.elapsed().as_secs_f64();
    println!("reports of nodes in steady state              {:8.1} /s", updates as f64 / elapsed);
    println!(
        "CPU in steady state                           {:8.3} cores",
        (operator.cpu_seconds() - before.0) / elapsed
    );
    println!(
        "requests to the API server in steady state    {:8.0} /min",
        (operator.requests().await - before.1) * 60.0 / elapsed
    );
    println!("memory in steady state                        {:8.1} MiB", operator.resident_mib());

    let mut granted = Vec::new();
    let mut folded = Vec::new();
    for change in 0..CHANGES {
        granted.push(world.time_of_a_change(change).await);
        folded.push(world.time_of_a_report(change).await);
    }
    for (what, mut times) in
        [("change of an object to its status", granted), ("failure on a node to the status", folded)]
    {
        times.sort();
        let [median, most] =
            [times[times.len() / 2], times[times.len() - 1]].map(|time| time.as_secs_f64() * 1000.0);
        println!("{what:45} {median:8.0} ms median, {most:.0} ms at most of {CHANGES}");
    }
    println!("memory at the most                            {:8.1} MiB", operator.most_resident_mib());
}

struct World {
    client: Client,
    nodes: usize,
    uids: Vec<String>,
}

impl World {
    async fn build(plane: &ControlPlane, nodes: usize, traces: usize) -> Self {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/agentsight").display().to_string();
        let install = [
            "install",
            "agentsight",
            &chart,
            "-n",
            NAMESPACE,
            "--create-namespace",
            "--set=otlp.endpoint=http://127.0.0.1:4317",
        ];
        succeeded(&run(plane.command("helm").args(install)), &install);
        plane.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
        let client = client(&plane.kubeconfig()).await;
        let mut world = Self { client, nodes, uids: Vec::new() };
        let started = Instant::now();
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        for index in 0..=(traces - 1) / TRACES_A_NODE {
            let name = format!("team-{index}");
            let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            namespaces.patch(&name, &apply(), &Patch::Apply(object)).await.expect("a namespace");
        }
        for index in 0..traces {
            let made = world.write_trace(index, "v0").await;
            world.uids.push(made.uid().expect("a UID"));
        }
        all((0..nodes).map(|node| world.build_node(node))).await;
        eprintln!(
            "{nodes} nodes and {traces} AgentTraces were made in {:.0} s",
            started.elapsed().as_secs_f64()
        );
        world
    }

    async fn build_node(&self, node: usize) {
        let name = node_name(node);
        let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.patch(&name, &apply(), &Patch::Apply(object)).await.expect("a node");
        let object = json!({
            "apiVersion": "agentsight.dev/v1alpha1", "kind": "AgentTraceNode",
            "metadata": { "name": name }, "spec": { "nodeName": name },
        });
        self.reports().patch(&name, &apply(), &Patch::Apply(object)).await.expect("a report");
        self.report(node, 0, None).await;
    }

    /// Traces of which this node reports.
    fn traces_of(&self, node: usize) -> impl Iterator<Item = usize> {
        let count = self.uids.len();
        (0..TRACES_A_NODE.min(count)).map(move |offset| (node * TRACES_A_NODE + offset) % count)
    }

    async fn report(&self, node: usize, calls: i64, error: Option<&str>) {
        let grants: Vec<Value> = self
            .traces_of(node)
            .map(|trace| {
                json!({
                    "uid": self.uids[trace], "observedGeneration": 1000, "matchedPods": 2, "tracedProcesses": 3,
                    "calls": calls, "dropped": [{ "cause": "ring_full", "count": 0 }], "error": error,
                    "untraceable": [{ "reason": "StrippedUnknown", "count": 1, "example": "team/agent-7d9c (agent)" }],
                })
            })
            .collect();
        let status = json!({
            "apiVersion": "agentsight.dev/v1alpha1", "kind": "AgentTraceNode", "metadata": { "name": node_name(node) },
            "status": {
                "conditions": [{ "type": "Ready", "status": "True", "reason": "Tracing", "message": "",
                                 "lastTransitionTime": "2026-01-01T00:00:00Z" }],
                "agent": { "version": "0.1.0", "pod": "agentsight-agent-x7k2p" },
                "kernel": { "release": "6.8.0-45-generic", "architecture": "x86_64", "features": ["ring-buffer", "bpf-loop"] },
                "exporters": [{ "name": "default", "state": "Ready" }],
                "grants": grants,
            },
        });
        self.reports()
            .patch_status(&node_name(node), &apply(), &Patch::Apply(status))
            .await
            .expect("a report");
    }

    async fn write_trace(&self, index: usize, label: &str) -> AgentTrace {
        let name = format!("agents-{index}");
        let object = json!({
            "apiVersion": "agentsight.dev/v1alpha1", "kind": "AgentTrace", "metadata": { "name": name },
            "spec": { "selector": { "matchLabels": { "app": label } } },
        });
        self.traces(index).patch(&name, &apply(), &Patch::Apply(object)).await.expect("an AgentTrace")
    }

    async fn wait_until_folded(&self) {
        let expected: i64 = (self.nodes * TRACES_A_NODE.min(self.uids.len()) * 2) as i64;
        let share = expected / self.uids.len() as i64;
        for index in 0..self.uids.len() {
            self.wait(index, move |status| status.pods >= share.max(1)).await;
        }
    }

    /// Each node writes its counters once a minute, spread evenly. Returns how many did.
    async fn report_once_a_minute(&self, time: Duration) -> usize {
        let started = tokio::time::Instant::now();
        let pause = Duration::from_secs(60) / u32::try_from(self.nodes).expect("a number of nodes");
        let count = (time.as_nanos() / pause.as_nanos()) as usize;
        all((0..count).map(|index| async move {
            tokio::time::sleep_until(started + pause * u32::try_from(index).expect("a number")).await;
            self.report(index % self.nodes, (index / self.nodes) as i64 + 1, None).await;
        }))
        .await;
        count
    }

    async fn time_of_a_change(&self, change: usize) -> Duration {
        let index = change * 7 % self.uids.len();
        let started = Instant::now();
        let generation = self.write_trace(index, &format!("v{}", change + 1)).await.metadata.generation;
        self.wait(index, move |status| status.observed_generation == generation).await;
        let grants: Api<AgentTraceGrant> = Api::namespaced(self.client.clone(), NAMESPACE);
        let grant = grants.get(&AgentTraceGrant::name_of(&self.uids[index])).await.expect("a grant");
        assert_eq!(Some(grant.spec.source.generation), generation);
        started.elapsed()
    }

    async fn time_of_a_report(&self, change: usize) -> Duration {
        let node = change * 11 % self.nodes;
        let index = self.traces_of(node).next().expect("a trace");
        self.wait(index, |status| status.nodes.failing == 0).await;
        let started = Instant::now();
        self.report(node, 1000, Some("cannot attach")).await;
        self.wait(index, |status| status.nodes.failing > 0).await;
        let time = started.elapsed();
        self.report(node, 1001, None).await;
        time
    }

    async fn wait(&self, index: usize, condition: impl Fn(&AgentTraceStatus) -> bool) {
        let name = format!("agents-{index}");
        let condition = |object: Option<&AgentTrace>| {
            object.and_then(|object| object.status.as_ref()).is_some_and(&condition)
        };
        let waiting = await_condition(self.traces(index), &name, condition);
        tokio::time::timeout(Duration::from_secs(600), waiting).await.expect("in time").expect("a watch");
    }

    fn traces(&self, index: usize) -> Api<AgentTrace> {
        Api::namespaced(self.client.clone(), &format!("team-{}", index / TRACES_A_NODE))
    }

    fn reports(&self) -> Api<AgentTraceNode> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }
}

/// The operator's own process.
struct Operator {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Operator {
    async fn start(plane: &ControlPlane) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = plane.kubectl(&[
            "get",
            "configmap",
            "agentsight-operator",
            "-n",
            NAMESPACE,
            "-o",
            r"jsonpath={.data.guardrails\.yaml}",
        ]);
        let guardrails = folder.path().join("guardrails.yaml");
        std::fs::write(&guardrails, file).expect("a file");
        let token = plane.kubectl(&["create", "token", "agentsight-operator", "-n", NAMESPACE]);
        let mut config: Value =
            serde_json::from_slice(&std::fs::read(plane.kubeconfig()).expect("a kubeconfig")).expect("JSON");
        config["users"][0]["user"] = json!({ "token": token.trim() });
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, config.to_string()).expect("a file");
        let address = format!("127.0.0.1:{}", free_port());
        let program = std::env::var_os("AGENTSIGHT_OPERATOR_BIN").map(PathBuf::from);
        let child =
            Command::new(program.expect("AGENTSIGHT_OPERATOR_BIN names the operator's release binary"))
                .args(["run", "--namespace", NAMESPACE, "--identity", "bench", "--listen", &address])
                .arg("--guardrails")
                .arg(guardrails)
                .env("KUBECONFIG", kubeconfig)
                .env("AGENTSIGHT_LOG", "warn")
                .stdin(Stdio::null())
                .spawn()
                .expect("the operator");
        Self { child, address, _folder: folder }
    }

    fn status(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line =
            status.lines().find_map(|line| line.strip_prefix(field)).expect("a field of proc_pid_status(5)");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }

    fn resident_mib(&self) -> f64 {
        self.status("VmRSS:")
    }

    fn most_resident_mib(&self) -> f64 {
        self.status("VmHWM:")
    }

    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields = stat.rsplit_once(')').expect("proc_pid_stat(5)").1.split_whitespace();
        fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
    }

    /// Requests that it has made, by its own count.
    async fn requests(&self) -> f64 {
        let output = run(Command::new("curl").args(["-sS", &format!("http://{}/metrics", self.address)]));
        let text = succeeded(&output, &["curl"]);
        let lines = text.lines().filter(|line| line.starts_with("agentsight_operator_api_requests_total"));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let config = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await;
    Client::try_from(config.expect("a configuration")).expect("a client")
}

async fn all<F: Future<Output = ()>>(work: impl Iterator<Item = F>) {
    let stream: std::pin::Pin<Box<dyn Stream<Item = F> + '_>> = Box::pin(futures::stream::iter(work));
    stream.buffer_unordered(AT_ONCE).collect::<()>().await;
}

fn apply() -> PatchParams {
    PatchParams::apply("bench").force()
}

fn node_name(node: usize) -> String {
    format!("node-{node}")
}
