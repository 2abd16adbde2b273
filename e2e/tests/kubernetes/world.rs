//! What all scenarios share: the cluster, AgentSight in it, a model server, a collector, and what was received.

use agentsight_e2e::cluster::Cluster;
use agentsight_e2e::control_plane::{run_with_input, succeeded};
use agentsight_e2e::process::run;
use agentsight_e2e::telemetry::{Span, Telemetry};
use agentsight_e2e::truth::Served;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Where the release is.
pub(crate) const SYSTEM: &str = "agentsight-system";
/// The namespace whose prompts and answers may be captured.
pub(crate) const CONTENT_ALLOWED: &str = "content-allowed";
/// For what has to happen in the end, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster with AgentSight in it.
pub(crate) struct World {
    cluster: Option<Cluster>,
    kubeconfig: Option<PathBuf>,
    /// The certificate authority of the model server.
    pub(crate) authority: String,
    /// Where logs and objects go when a scenario fails.
    evidence: PathBuf,
    received: Mutex<Received>,
    namespaces: Mutex<BTreeSet<String>>,
}

/// What the collector has written, as far as it was read.
#[derive(Default)]
struct Received {
    collector: String,
    offset: usize,
    telemetry: Telemetry,
}

impl World {
    /// Brings it up; none where this machine has no cluster and cannot have one, which is said.
    pub(crate) fn or_skip() -> Option<Self> {
        let kubeconfig = std::env::var_os("KUBECONFIG_E2E").map(PathBuf::from);
        let cluster = if kubeconfig.is_some() { None } else { Some(own_cluster()?) };
        let evidence = std::env::temp_dir().join(format!("agentsight-e2e-{}", std::process::id()));
        let mut world = Self {
            cluster,
            kubeconfig,
            authority: String::new(),
            evidence,
            received: Mutex::default(),
            namespaces: Mutex::default(),
        };
        world.furnish();
        Some(world)
    }

    /// Images where they can be brought, then backends, then the release.
    fn furnish(&mut self) {
        if let Some(cluster) = &self.cluster {
            cluster.up();
            for kind in ["test", "release"] {
                for archive in images(kind) {
                    cluster.import(&archive);
                }
            }
        }
        for file in
            ["examples/collector.yaml", "e2e/manifests/model-server.yaml", "e2e/manifests/collector.yaml"]
        {
            self.kubectl(&["apply", "-f", &project().join(file).display().to_string()]);
        }
        self.install(&["install"]);
        for namespace in ["models", "observed", "observability"] {
            self.kubectl(&[
                "wait",
                "-n",
                namespace,
                "--for=condition=Available",
                "deployment",
                "--all",
                "--timeout=120s",
            ]);
        }
        self.authority =
            self.kubectl(&["exec", "-n", "models", "deploy/model-server", "--", "cat", "/data/ca.pem"]);
    }

    /// `helm install` or `helm upgrade` with the tests' values, and until all is ready.
    pub(crate) fn install(&self, action: &[&str]) {
        let values = json!({
            "otlp": {"endpoint": "http://collector.observed:4317"},
            "exporters": {
                "nowhere": {"endpoint": "http://nowhere.observed:4317"},
                "elsewhere": {"endpoint": "http://collector.observed:4317", "namespaces": ["others-*"]},
            },
            "guardrails": {"content": {"namespaces": [CONTENT_ALLOWED]}},
            "agent": {"stateDir": self.state_folder()},
            "operator": {"statusSeconds": 1},
        });
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), values.to_string()).expect("a temporary file");
        let (path, chart) = (file.path().display().to_string(), project().join("charts/agentsight"));
        let chart = chart.display().to_string();
        let usual = [
            "agentsight",
            &chart,
            "-n",
            SYSTEM,
            "--create-namespace",
            "--wait",
            "--timeout=180s",
            "--values",
            &path,
        ];
        self.helm(&[action, &usual].concat());
    }

    fn state_folder(&self) -> String {
        // On a node that is this machine nothing may be left.
        self.cluster.as_ref().map_or_else(
            || "/var/lib/agentsight".to_owned(),
            |cluster| cluster.kubeconfig().with_file_name("agent-state").display().to_string(),
        )
    }

    /// Takes down what [`Self::or_skip`] brought up.
    pub(crate) fn close(&self, failed: bool) {
        if failed {
            eprintln!("logs, events and objects: {}", self.evidence.display());
        }
        match &self.cluster {
            Some(cluster) if std::env::var_os("KEEP_CLUSTER").is_some() => {
                eprintln!(
                    "KEEP_CLUSTER: scripts/cluster.sh down takes it down, with CLUSTER={}",
                    cluster.name()
                );
            }
            Some(cluster) => cluster.down(),
            None => {
                drop(self.try_helm(&["uninstall", "agentsight", "-n", SYSTEM, "--wait"]));
                let namespaces = ["models", "observed", "observability", SYSTEM];
                self.try_kubectl(&[&["delete", "namespace", "--ignore-not-found"], &namespaces[..]].concat());
            }
        }
    }

    /// The machine under the cluster, for what needs it; none where the cluster is another's, which is said.
    pub(crate) fn machine(&self) -> Option<&Cluster> {
        if self.cluster.is_none() {
            eprintln!("left out: it needs a cluster of its own");
        }
        self.cluster.as_ref()
    }

    /// A namespace that goes with the scenario.
    pub(crate) fn namespace(&self, name: &str) {
        self.kubectl(&["create", "namespace", name]);
        self.namespaces.lock().expect("no panic holds it").insert(name.to_owned());
    }

    /// Removes the namespaces of a scenario.
    pub(crate) fn clean_up(&self) {
        let names = std::mem::take(&mut *self.namespaces.lock().expect("no panic holds it"));
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        if !names.is_empty() {
            self.try_kubectl(
                &[&["delete", "namespace", "--ignore-not-found", "--timeout=90s"], &names[..]].concat(),
            );
        }
    }

    /// Runs kubectl and returns what it wrote.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        succeeded(&self.try_kubectl(arguments), &[&["kubectl"], arguments].concat())
    }

    /// Runs kubectl, which may fail.
    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Output {
        run(self.command("kubectl").args(arguments))
    }

    /// Runs Helm and returns what it wrote.
    pub(crate) fn helm(&self, arguments: &[&str]) -> String {
        succeeded(&self.try_helm(arguments), &[&["helm"], arguments].concat())
    }

    fn try_helm(&self, arguments: &[&str]) -> Output {
        let home = self.evidence.with_extension("helm");
        run(self.command("helm").args(arguments).env("HELM_CONFIG_HOME", &home).env("HELM_CACHE_HOME", &home))
    }

    /// A long-running kubectl.
    pub(crate) fn command(&self, program: &str) -> Command {
        match (&self.cluster, &self.kubeconfig) {
            (Some(cluster), _) => cluster.command(program),
            (None, Some(kubeconfig)) => {
                let mut command = Command::new(program);
                command.env("KUBECONFIG", kubeconfig);
                command
            }
            (None, None) => unreachable!("a world has a cluster"),
        }
    }

    /// `kubectl apply` in a namespace.
    pub(crate) fn apply(&self, namespace: &str, objects: &[Value]) {
        let output = self.try_apply(namespace, objects, &[]);
        succeeded(&output, &["kubectl apply"]);
    }

    /// `kubectl apply` in a namespace, perhaps as somebody else, which may be refused.
    pub(crate) fn try_apply(&self, namespace: &str, objects: &[Value], arguments: &[&str]) -> Output {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let mut command = self.command("kubectl");
        run_with_input(command.args(["apply", "-n", namespace, "-f", "-"]).args(arguments), &list.to_string())
    }

    /// An object as the API server has it.
    pub(crate) fn get(&self, namespace: &str, kind: &str, name: &str) -> Value {
        let text = self.kubectl(&["get", kind, name, "-n", namespace, "-o", "json"]);
        serde_json::from_str(&text).expect("kubectl writes JSON")
    }

    /// The objects of a kind, perhaps those with a label.
    pub(crate) fn list(&self, namespace: &str, kind: &str, labels: &str) -> Vec<Value> {
        let text = self.kubectl(&["get", kind, "-n", namespace, "-l", labels, "-o", "json"]);
        let mut list: Value = serde_json::from_str(&text).expect("kubectl writes JSON");
        list["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A condition of an AgentTrace: status, reason and message.
    pub(crate) fn condition(&self, namespace: &str, name: &str, kind: &str) -> [String; 3] {
        condition(&self.get(namespace, "agenttrace", name), kind)
    }

    /// Waits until a condition of an AgentTrace is as it should be, about its newest generation.
    pub(crate) fn wait_for_condition(
        &self,
        namespace: &str,
        name: &str,
        kind: &str,
        status: &str,
        reason: &str,
    ) -> String {
        let what = format!("{namespace}/{name} is {kind}={status} ({reason})");
        eventually(&what, PATIENCE, || {
            let trace = self.get(namespace, "agenttrace", name);
            let [is, why, message] = condition(&trace, kind);
            let current = trace["status"]["observedGeneration"] == trace["metadata"]["generation"];
            if current && is == status && why == reason {
                Ok(message)
            } else {
                Err(trace["status"].to_string())
            }
        })
    }

    /// Waits until an AgentTrace is accepted, and every grant is in force on every node: the first one has to wait there until
    /// the kernel programs are loaded, and a program that ends before is not seen.
    pub(crate) fn wait_until_watched(&self, namespace: &str, name: &str) {
        self.wait_for_condition(namespace, name, "Accepted", "True", "Accepted");
        eventually("the grants are in force", PATIENCE, || {
            let wanted = self.list(SYSTEM, "agenttracegrants", "").len() * self.agents().len();
            let there = self.agents_metric("agentsight_grants");
            if there == wanted as f64 { Ok(()) } else { Err(format!("{there} of {wanted}")) }
        });
    }

    /// Waits until every agent reports that it is at this.
    pub(crate) fn wait_for_agents(&self, reason: &str) {
        eventually(&format!("agents are {reason}"), PATIENCE, || {
            let nodes = self.list(SYSTEM, "agenttracenodes", "");
            let reports: Vec<_> = nodes.iter().map(|node| condition(node, "Ready")).collect();
            if !reports.is_empty() && reports.iter().all(|[status, why, _]| status == "True" && why == reason)
            {
                Ok(())
            } else {
                Err(format!("{reports:?}"))
            }
        });
    }

    /// Waits for a pod's end and returns whether it ended well.
    pub(crate) fn wait_for_end(&self, namespace: &str, pod: &str) -> bool {
        eventually(&format!("{namespace}/{pod} ends"), PATIENCE, || {
            let phase = self.get(namespace, "pod", pod)["status"]["phase"].clone();
            match phase.as_str() {
                Some("Succeeded") => Ok(true),
                Some("Failed") => Ok(false),
                _ => Err(phase.to_string()),
            }
        })
    }

    /// The agents' pods.
    pub(crate) fn agents(&self) -> Vec<Value> {
        self.list(SYSTEM, "pods", "app.kubernetes.io/component=agent")
    }

    /// A pod's `/metrics`, by way of the API server.
    pub(crate) fn metrics(&self, pod: &str, port: u16) -> String {
        self.kubectl(&[
            "get",
            "--raw",
            &format!("/api/v1/namespaces/{SYSTEM}/pods/{pod}:{port}/proxy/metrics"),
        ])
    }

    /// The sum of a metric's series over all agents.
    pub(crate) fn agents_metric(&self, name: &str) -> f64 {
        let of = |pod: &Value| {
            sum(&self.metrics(pod["metadata"]["name"].as_str().unwrap_or_default(), 9464), name)
        };
        self.agents().iter().map(of).sum()
    }

    /// What the model server has served to a namespace's callers, whose POD/CONTAINER begins so.
    pub(crate) fn served(&self, namespace: &str, caller: &str) -> Vec<Served> {
        let text =
            self.kubectl(&["exec", "-n", "models", "deploy/model-server", "--", "cat", "/data/truth.jsonl"]);
        // The last line may be under way.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let lines = whole.lines().map(|line| serde_json::from_str::<Served>(line).expect("a log of ours"));
        let wanted = format!("{namespace}/{caller}");
        lines.filter(|served| served.case.as_deref().is_some_and(|is| is.starts_with(&wanted))).collect()
    }

    /// The spans of model calls that the collector has received until now, of a namespace's pods.
    pub(crate) fn spans(&self, namespace: &str) -> Vec<Span> {
        self.receive();
        let received = self.received.lock().expect("no panic holds it");
        let of_namespace =
            |span: &&Span| span.resource.get("k8s.namespace.name").is_some_and(|is| is == namespace);
        received.telemetry.calls().filter(of_namespace).cloned().collect()
    }

    /// All that the collector has received until now, as text.
    pub(crate) fn received_text(&self) -> String {
        self.receive();
        self.received.lock().expect("no panic holds it").telemetry.text.clone()
    }

    /// Waits until each of the calls has its span, and returns these.
    pub(crate) fn wait_for_spans(&self, namespace: &str, calls: &[Served]) -> Vec<Span> {
        let wanted: BTreeSet<_> = calls.iter().filter_map(|call| call.id.clone()).collect();
        assert!(!wanted.is_empty(), "no calls to wait for in {namespace}");
        eventually(&format!("{} spans of {namespace}", wanted.len()), PATIENCE, || {
            let mut spans = self.spans(namespace);
            spans.retain(|span| response_id(span).is_some_and(|id| wanted.contains(id)));
            let found: BTreeSet<_> = spans.iter().filter_map(response_id).collect();
            if found.len() == wanted.len() {
                Ok(spans)
            } else {
                Err(format!("{} of {}", found.len(), wanted.len()))
            }
        })
    }

    /// Reads what the collector's file has more than before.
    fn receive(&self) {
        let pods = self.list("observed", "pods", "app=collector");
        let ready = |pod: &&Value| pod["status"]["containerStatuses"][0]["ready"] == true;
        let Some(pod) = pods.iter().find(ready) else { return };
        let name = pod["metadata"]["name"].as_str().expect("a pod has a name");
        let mut received = self.received.lock().expect("no panic holds it");
        // Another pod begins a file of its own.
        if received.collector != name {
            received.collector = name.to_owned();
            received.offset = 0;
        }
        let from = format!("+{}", received.offset + 1);
        let output = self.try_kubectl(&[
            "exec",
            "-n",
            "observed",
            name,
            "--",
            "tail",
            "-c",
            &from,
            "/data/received.jsonl",
        ]);
        // Not there before the first request.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        received.offset += whole.len();
        received.telemetry.add_lines(whole).expect("the collector writes OTLP");
    }

    /// Keeps what tells why a scenario failed.
    pub(crate) fn keep_evidence(&self, scenario: &str) {
        let folder = self.evidence.join(scenario);
        fs::create_dir_all(&folder).expect("a temporary folder");
        let keep = |name: &str, output: &Output| {
            let text = [&output.stdout[..], &output.stderr[..]].concat();
            drop(fs::write(folder.join(name), text));
        };
        let kinds = "pods,deployments,daemonsets,jobs,agenttraces,clusteragenttraces,agenttracegrants,agenttracenodes,leases";
        keep("objects.yaml", &self.try_kubectl(&["get", kinds, "-A", "-o", "yaml"]));
        keep("pods.txt", &self.try_kubectl(&["get", "pods", "-A", "-o", "wide"]));
        keep("traces.txt", &self.try_kubectl(&["get", "agenttraces,agenttracenodes", "-A", "-o", "wide"]));
        keep("events.txt", &self.try_kubectl(&["get", "events", "-A", "--sort-by=.lastTimestamp"]));
        for component in ["agent", "operator"] {
            let label = format!("app.kubernetes.io/component={component}");
            let logs = ["logs", "-n", SYSTEM, "-l", &label, "--prefix", "--tail=-1"];
            keep(&format!("{component}.log"), &self.try_kubectl(&logs));
            keep(
                &format!("{component}-before.log"),
                &self.try_kubectl(&[&logs[..], &["--previous"]].concat()),
            );
        }
        for pod in self.agents() {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}:9464/proxy/metrics");
            keep(&format!("{name}.metrics"), &self.try_kubectl(&["get", "--raw", &path]));
        }
        drop(fs::write(folder.join("received.jsonl"), self.received_text()));
        if let Some(cluster) = &self.cluster {
            for name in ["kubelet", "containerd", "kube-apiserver", "kube-controller-manager", "coredns"] {
                drop(fs::copy(cluster.daemons().log(name), folder.join(format!("{name}.log"))));
            }
        }
        eprintln!("{scenario}: logs, events and objects are in {}", folder.display());
    }
}

/// Asks until it gets an answer.
///
/// # Panics
/// It gets none in time: with the last reason.
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(reason) => assert!(Instant::now() < deadline, "waited {limit:?} until {what}; now: {reason}"),
        }
        // kubectl's watch has no condition of this kind.
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Which response a span is of.
pub(crate) fn response_id(span: &Span) -> Option<&str> {
    span.text("gen_ai.response.id")
}

/// An attribute of a span's resource, as text.
pub(crate) fn resource<'a>(span: &'a Span, name: &str) -> &'a str {
    span.resource.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The sum of a metric's series in Prometheus' text format.
pub(crate) fn sum(text: &str, name: &str) -> f64 {
    let of = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        (series.split('{').next()? == name).then(|| value.parse::<f64>().ok())?
    };
    text.lines().filter_map(of).sum()
}

fn condition(trace: &Value, kind: &str) -> [String; 3] {
    let conditions = trace["status"]["conditions"].as_array();
    let condition = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
    ["status", "reason", "message"]
        .map(|field| condition.and_then(|c| c[field].as_str()).unwrap_or_default().to_owned())
}

fn own_cluster() -> Option<Cluster> {
    // Without eBPF there is nothing to be seen in it.
    agentsight_e2e::agent::Agent::or_skip()?;
    Cluster::or_skip(&std::env::var("CLUSTER").unwrap_or_else(|_| "e2e".to_owned()))
}

/// The archives that scripts/images.sh makes.
fn images(kind: &str) -> Vec<PathBuf> {
    let output = Command::new(project().join("scripts/images.sh"))
        .arg(kind)
        .stderr(Stdio::inherit())
        .output()
        .expect("a script of the project");
    let text = succeeded(&output, &["scripts/images.sh", kind]);
    text.lines().map(PathBuf::from).collect()
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in the workspace")
}
