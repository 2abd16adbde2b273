//! The node agent against a real API server, with cgroups laid out as a kubelet and its runtime do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, clean_environment};
use agentsight_e2e::collector::{Collector, get};
use agentsight_e2e::control_plane::ControlPlane;
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::{PATIENCE, Process, end_reader, fifo, kernel_objects, run};
use agentsight_e2e::telemetry::{Span, Telemetry};
use agentsight_e2e::{programs, python, tree};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NODE: &str = "node-1";
const RELEASE: &str = "agentsight-system";

#[test]
fn not_a_byte_of_an_unselected_cgroup_is_copied_and_nested_ones_inherit() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(collector) = Collector::or_skip() else { return };
    let server = ModelServer::start();
    let mut expected = Vec::new();
    for mount in hierarchies() {
        let cgroups = Cgroups::below(&mount);
        let (traced, other) = (uid('1'), uid('2'));
        let selected = cgroups.container(&traced, 'a');
        let unselected = cgroups.container(&other, 'b');
        let folder = offline(&[saved_pod(&traced, "traced", "agent"), saved_pod(&other, "other", "web")]);
        let node =
            NodeAgent::start(&agent, &folder, &folder.path().join("kubeconfig"), &collector, Some(&mount));
        for _ in 0..3 {
            call(&server, &unselected, UNTRACED);
        }
        for counter in ["agentsight_tls_calls_total", "agentsight_tls_bytes_total"] {
            assert_eq!(node.metric(counter), 0, "{counter} in {}", mount.display());
        }
        assert_eq!(node.metric("agentsight_attachments"), 0, "nobody else pays for a probe");

        node.warm_up(&server, &selected);
        let nested = selected.join("inner/most");
        std::fs::create_dir_all(&nested).unwrap();
        let late = cgroups.container(&traced, 'c');
        for cgroup in [&selected, &nested, &late] {
            expected.push(expected.len() + 1);
            node.call(&server, cgroup, expected.len());
        }
        let bytes = node.metric("agentsight_tls_bytes_total");
        for _ in 0..3 {
            call(&server, &unselected, UNTRACED);
        }
        assert_eq!(
            node.metric("agentsight_tls_bytes_total"),
            bytes,
            "the library is probed, the container not copied"
        );
        node.stop();
    }
    let (received, _folder) = collector.received();
    let spans = calls_of(&received);
    assert_eq!(traced(&spans), expected);
    for span in &spans {
        let text = |key: &str| span.resource.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        assert_eq!(
            (text("k8s.pod.name"), text("k8s.namespace.name")),
            ("traced".to_owned(), "shop".to_owned())
        );
        assert_eq!(text("k8s.container.name"), "app");
        assert_eq!(text("service.name"), "traced");
        assert_eq!(text("k8s.cluster.uid"), "cluster");
        assert_eq!(text("k8s.pod.uid"), uid('1'));
    }
}

#[test]
fn plain_http_is_copied_only_of_the_cgroups_of_grants_that_ask_for_it() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(collector) = Collector::or_skip() else { return };
    let server = ModelServer::start_plain();
    let mount = hierarchies().remove(0);
    let cgroups = Cgroups::below(&mount);
    let (asks, does_not) = (uid('5'), uid('6'));
    let [asking, silent] = [cgroups.container(&asks, 'f'), cgroups.container(&does_not, '0')];
    let pods = [saved_pod(&asks, "asks", "agent"), saved_pod(&does_not, "does-not", "web")];
    let mut plaintext = grant_spec("1", &json!({"matchLabels": {"app": "agent"}}), 1);
    plaintext["capture"] = json!({"plaintext": "HTTP"});
    let without = grant_spec("2", &json!({"matchLabels": {"app": "web"}}), 1);
    let folder = offline_with(&pods, &[plaintext, without]);
    let node = NodeAgent::start(&agent, &folder, &folder.path().join("kubeconfig"), &collector, Some(&mount));
    node.wait_until("plain HTTP is seen", |node| {
        ["functions", "tracepoints"]
            .iter()
            .any(|state| node.metric(&format!("agentsight_plaintext_state{{state=\"{state}\"}}")) == 1)
    });
    for _ in 0..3 {
        node.call(&server, &silent, UNTRACED);
        call(&server, &mount, UNTRACED);
    }
    assert_eq!(node.metric("agentsight_plaintext_bytes_total"), 0);
    assert_eq!(node.metric("agentsight_ignored_sockets_total"), 0, "not even looked at");
    for number in 1..=3 {
        node.call(&server, &asking, number);
    }
    node.stop();
    let (received, _folder) = collector.received();
    let spans = calls_of(&received);
    assert_eq!(traced(&spans), [1, 2, 3]);
    assert!(spans.iter().all(|span| span.resource["k8s.pod.name"] == "asks"), "{spans:#?}");
}

/// Both are selected alike; what a sidecar passes on for its own pod is that pod's call, and what it does for others is not.
#[test]
fn a_call_by_way_of_a_sidecar_is_told_once_within_its_pod_and_twice_beyond() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(collector) = Collector::or_skip() else { return };
    let server = ModelServer::start();
    let mount = hierarchies().remove(0);
    let cgroups = Cgroups::below(&mount);
    let (with_sidecar, other) = (uid('7'), uid('8'));
    let [own, sidecar] = ['1', '2'].map(|id| cgroups.container(&with_sidecar, id));
    let stranger = cgroups.container(&other, '3');
    let pods = [saved_pod(&with_sidecar, "with-sidecar", "agent"), saved_pod(&other, "other", "agent")];
    let mut plaintext = grant_spec("1", &json!({"matchLabels": {"app": "agent"}}), 1);
    plaintext["capture"] = json!({"plaintext": "HTTP"});
    let folder = offline_with(&pods, &[plaintext]);
    let node = NodeAgent::start(&agent, &folder, &folder.path().join("kubeconfig"), &collector, Some(&mount));
    node.warm_up(&server, &own);
    let mut passing_on = Process::spawn(
        within()
            .arg(python::interpreter())
            .arg(python::agent("sidecar.py"))
            .args([&server.base(), &server.ca().to_string_lossy().into_owned()])
            .env_clear()
            .envs(clean_environment(folder.path()))
            .env("CGROUP", &sidecar)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    );
    let mut base = String::new();
    BufReader::new(passing_on.child().stdout.take().unwrap()).read_line(&mut base).unwrap();
    for number in 1..=3 {
        call_by_way_of(base.trim(), &server, &own, number);
        call_by_way_of(base.trim(), &server, &stranger, 10 + number);
    }
    drop(passing_on.child().stdin.take());
    assert!(passing_on.wait().success());
    node.wait_until("all calls are seen", |node| node.metric("agentsight_merged_calls_total") == 3);
    node.stop();
    let (received, _folder) = collector.received();
    let spans = calls_of(&received);
    assert_eq!(traced(&spans), [1, 2, 3, 11, 11, 12, 12, 13, 13]);
    let first = spans.iter().find(|span| traced(&[(*span).clone()]) == [1]).unwrap();
    let container = first.resource.get("container.id");
    assert_eq!(container, Some(&json!("1".repeat(64))), "the agent's own is told: {first:?}");
}

#[test]
fn turns_tools_and_what_they_run_carry_the_pod_of_their_agent() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(collector) = Collector::or_skip() else { return };
    let server = ModelServer::start();
    let mount = hierarchies().remove(0);
    let cgroups = Cgroups::below(&mount);
    // Other ones than those of the tests beside this one, which see each other's cgroups.
    let pods = [(uid('3'), "three"), (uid('4'), "four")];
    let selected = [cgroups.container(&pods[0].0, 'd'), cgroups.container(&pods[1].0, 'e')];
    let folder = offline(&pods.clone().map(|(uid, name)| saved_pod(&uid, name, "agent")));
    let node = NodeAgent::start(&agent, &folder, &folder.path().join("kubeconfig"), &collector, Some(&mount));
    node.warm_up(&server, &selected[0]);
    let work = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let fifos = [fifo(work[0].path()), fifo(work[1].path())];
    for ((cgroup, work), fifo) in selected.iter().zip(&work).zip(&fifos) {
        let output = run(within()
            .arg(python::interpreter())
            .arg(python::agent("tool_loop.py"))
            .args(["--base", &server.base(), "--ca", &server.ca().to_string_lossy()])
            .arg("--fifo")
            .arg(fifo)
            .arg("--expected")
            .arg(work.path().join("expected.json"))
            .env_clear()
            .envs(clean_environment(work.path()))
            .env("CGROUP", cgroup));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    node.stop();
    // What the agents left running.
    fifos.iter().for_each(|fifo| end_reader(fifo));
    server.stop();
    let (received, _folder) = collector.received();
    let telemetry = Telemetry::read(&received).unwrap();
    for ((uid, name), work) in pods.iter().zip(&work) {
        let of_pod = |span: &&Span| span.resource.get("k8s.pod.uid") == Some(&json!(uid));
        let warming = |span: &&Span| u128::from_str_radix(&span.trace_id, 16).unwrap() == WARMING as u128;
        let spans: Vec<_> = telemetry.spans.iter().filter(of_pod).filter(|span| !warming(span)).collect();
        let mut expected = tree::expected(&work.path().join("expected.json"));
        // Nothing is above the program that Python asks for its processor.
        expected.as_array_mut().unwrap().retain(|node| node[0] != "uname (lineage)");
        assert_eq!(tree::seen(&spans, ""), expected, "{name}");
        assert!(spans.iter().all(|span| span.resource["k8s.pod.name"] == *name), "{name}");
        let turns = spans.iter().filter(|span| span.parent_span_id.is_empty());
        let traces: BTreeSet<_> = turns.map(|span| &span.trace_id).collect();
        assert_eq!(traces.len(), 4, "one trace a turn");
    }
}

#[test]
fn grants_are_obeyed_as_they_change_and_without_an_api_server() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(plane) = ControlPlane::or_skip() else { return };
    let Some(collector) = Collector::or_skip() else { return };
    let server = ModelServer::start();
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    plane.kubectl(&["apply", "-f", &crds.to_string_lossy()]);
    plane.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
    for namespace in [RELEASE, "shop"] {
        plane.kubectl(&["create", "namespace", namespace]);
    }
    let mount = hierarchies().remove(0);
    let cgroups = Cgroups::below(&mount);
    let [one, two] = ["one", "two"].map(|name| pod(&plane, name));
    let folder = tempfile::tempdir().unwrap();
    let node = NodeAgent::start(&agent, &folder, &plane.kubeconfig(), &collector, None);
    // Other ones than those of the tests beside this one: the API server names these.
    let first = cgroups.container(&one, '4');
    let second = cgroups.container(&two, '5');
    status(&plane, "one", '4');
    status(&plane, "two", '5');

    let applied = Instant::now();
    grant(&plane, &json!({"matchLabels": {"app": "one"}}), 1);
    wait_for_report(&plane, "the grant", |report| report["grants"][0]["matchedPods"] == 1);
    eprintln!("a grant is reported {:?} after it was applied", applied.elapsed());
    node.warm_up(&server, &first);
    call(&server, &second, UNTRACED);
    node.call(&server, &first, 1);

    let applied = Instant::now();
    grant(&plane, &json!({"matchLabels": {"app": "two"}}), 2);
    let report = wait_for_report(&plane, "the new selector", |report| {
        report["grants"][0]["observedGeneration"] == 2 && report["grants"][0]["matchedPods"] == 1
    });
    eprintln!("a new selector is reported {:?} after it was applied", applied.elapsed());
    assert!(node.is_in_the_kernel());
    assert_eq!(report["exporters"][0]["name"], "default");
    assert_eq!(report["conditions"][0]["status"], "True");
    call(&server, &first, UNTRACED);
    node.call(&server, &second, 2);

    plane.stop_api_server();
    // No process lives in these containers: five seconds after the change nobody has the library, and its probes go.
    node.warm_up(&server, &second);
    node.call(&server, &second, 3);
    node.stop();
    let node = NodeAgent::start(&agent, &folder, &plane.kubeconfig(), &collector, None);
    node.warm_up(&server, &second);
    plane.start_api_server();
    plane.kubectl(&["-n", RELEASE, "delete", "agenttracegrants", "--all"]);
    wait_for_report(&plane, "that nothing is granted", |report| report["granted"].as_i64().unwrap_or(0) == 0);
    let bytes = node.metric("agentsight_tls_bytes_total");
    call(&server, &second, UNTRACED);
    assert_eq!(node.metric("agentsight_tls_bytes_total"), bytes);
    node.wait_until("nothing is left in the kernel", |node| kernel_objects(node.process.id()).is_empty());
    assert_eq!(node.metric("agentsight_tls_bytes_total"), bytes, "what was counted stays");

    // And it begins again.
    grant(&plane, &json!({"matchLabels": {"app": "one"}}), 3);
    node.wait_until("it traces again", NodeAgent::is_in_the_kernel);
    node.warm_up(&server, &first);
    assert!(node.metric("agentsight_tls_bytes_total") > bytes);
    node.call(&server, &first, 4);
    node.stop();

    let (received, _folder) = collector.received();
    let spans = calls_of(&received);
    assert_eq!(traced(&spans), [1, 2, 3, 4]);
    for span in &spans {
        let text = |key: &str| span.resource.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        assert!([&one, &two].contains(&&text("k8s.pod.uid")), "{:?}", span.resource);
        assert_eq!(text("k8s.container.name"), "app");
        assert_eq!(text("container.image.name"), "registry.example.com/shop/agent");
    }
}

/// A node agent that runs.
struct NodeAgent {
    process: Process,
    port: u16,
    /// Programs that were run in selected cgroups.
    made: Cell<u64>,
}

impl NodeAgent {
    fn start(
        agent: &Agent,
        folder: &TempDir,
        kubeconfig: &Path,
        collector: &Collector,
        cgroup: Option<&Path>,
    ) -> Self {
        let exporters = folder.path().join("exporters.yaml");
        let endpoint = format!("http://127.0.0.1:{}", collector.grpc);
        std::fs::write(
            &exporters,
            json!({"exporters": {"default": {"endpoint": endpoint, "protocol": "grpc"}}}).to_string(),
        )
        .unwrap();
        let mut command = Command::new(agent.program());
        command
            .args([
                "node-agent",
                "-v",
                "--listen",
                "127.0.0.1:0",
                "--node-name",
                NODE,
                "--namespace",
                RELEASE,
            ])
            .arg("--exporters")
            .arg(&exporters)
            .arg("--state-dir")
            .arg(folder.path())
            .env_clear()
            .envs(clean_environment(folder.path()))
            .env("KUBECONFIG", kubeconfig)
            .env("NO_COLOR", "1")
            .stderr(Stdio::piped());
        if let Some(cgroup) = cgroup {
            command.arg("--cgroup").arg(mounts_of(cgroup));
        }
        let mut process = Process::spawn(&mut command);
        let mut log = BufReader::new(process.child().stderr.take().unwrap()).lines().map_while(Result::ok);
        let port = log.find_map(|line| {
            eprintln!("{line}");
            line.split_once("address=127.0.0.1:")?.1.split(' ').next()?.parse().ok()
        });
        let port = port.expect("it says where it listens");
        // Read on, so that it can go on saying something.
        std::thread::spawn(move || log.for_each(|line| eprintln!("{line}")));
        let node = Self { process, port, made: Cell::new(0) };
        node.wait_until("it is ready", |node| get(node.port, "/readyz").0 == 200);
        node
    }

    /// Whether it listens to what processes map, which it does last of all when it begins to trace.
    fn is_in_the_kernel(&self) -> bool {
        kernel_objects(self.process.id()).iter().any(|name| name == "[perf_event]")
    }

    fn metric(&self, name: &str) -> u64 {
        let (status, body) = get(self.port, "/metrics");
        assert_eq!(status, 200);
        let text = String::from_utf8(body).unwrap();
        let values = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// One call from a selected cgroup; returns when all of it is decoded.
    fn call(&self, server: &ModelServer, cgroup: &Path, number: usize) {
        call(server, cgroup, number);
        self.made.set(self.made.get() + 1);
        // The program's exit is the last that the kernel tells of it.
        self.wait_until("the program's end is seen", |node| {
            node.metric("agentsight_events_total{kind=\"exit\"}") >= node.made.get()
        });
    }

    /// Calls until the library is probed: here it is mapped a moment before it is used.
    fn warm_up(&self, server: &ModelServer, cgroup: &Path) {
        let before = self.metric("agentsight_calls_total");
        self.wait_until("a call is seen", |node| {
            node.call(server, cgroup, WARMING);
            node.metric("agentsight_calls_total") > before
        });
    }

    fn wait_until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "not: {what}");
            // Nothing tells of a change but the agent's own pages.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(self) {
        self.process.signal(Signal::TERM);
        assert!(self.process.wait().success());
    }
}

/// Cgroups of containers, removed at the end.
struct Cgroups {
    root: PathBuf,
}

impl Cgroups {
    /// Below this process' own cgroup of the hierarchy.
    fn below(mount: &Path) -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let controller = mount.file_name().unwrap().to_string_lossy().into_owned();
        let own = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            let is_it = names.split(',').any(|name| name == controller) || (names.is_empty() && is_v2(mount));
            is_it.then(|| path.to_owned())
        });
        // Each test removes its own.
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("agentsight-test-{}-{number}", std::process::id());
        let root = mount.join(own.unwrap().trim_start_matches('/')).join(name);
        std::fs::create_dir_all(&root).unwrap();
        Self { root }
    }

    fn container(&self, pod: &str, id: char) -> PathBuf {
        let path = self.root.join(format!("kubepods/burstable/pod{pod}")).join(id.to_string().repeat(64));
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        fn remove(path: &Path) {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            drop(std::fs::remove_dir(path));
        }
        remove(&self.root);
    }
}

/// The hierarchies that this machine has and an agent may use.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let found = [root.to_owned(), root.join("memory"), root.join("unified")];
    found.into_iter().filter(|path| path.join("cgroup.procs").exists()).collect()
}

fn is_v2(mount: &Path) -> bool {
    mount.join("cgroup.controllers").exists()
}

/// What `--cgroup` is to be for a hierarchy: itself where it is v2, else the folder of all.
fn mounts_of(mount: &Path) -> &Path {
    if is_v2(mount) { mount } else { mount.parent().unwrap() }
}

/// Numbers of calls that are not counted: one that nobody may see, one that may be seen or not.
const UNTRACED: usize = 8_000_000;
const WARMING: usize = 9_000_000;

/// What an agent knows that starts without an API server: these pods, and a grant for those with the label `app=agent`.
fn offline(pods: &[Value]) -> TempDir {
    offline_with(pods, &[grant_spec("1", &json!({"matchLabels": {"app": "agent"}}), 1)])
}

fn offline_with(pods: &[Value], grants: &[Value]) -> TempDir {
    let state = json!({
        "grants": grants,
        "pods": pods, "namespaces": {}, "clusterUid": "cluster",
    });
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "none",
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
        "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "none", "user": {}}],
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("state.json"), state.to_string()).unwrap();
    std::fs::write(folder.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
    folder
}

/// A program, to be given as arguments, that runs in the cgroup of the variable `CGROUP`.
fn within() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"echo $$ > "$CGROUP/cgroup.procs" && exec "$@""#, "sh"]);
    command
}

/// One call from a process that runs in a cgroup; its number is its trace.
fn call(server: &ModelServer, cgroup: &Path, number: usize) {
    call_by_way_of(&server.base(), server, cgroup, number);
}

/// The same, by way of whoever listens at `base`.
fn call_by_way_of(base: &str, server: &ModelServer, cgroup: &Path, number: usize) {
    let (program, arguments) = programs::curl(server, "cgroup", &format!("{number:032x}"));
    let to = |argument: OsString| argument.to_string_lossy().replace(&server.base(), base);
    let arguments = arguments.into_iter().map(to);
    let home = tempfile::tempdir().unwrap();
    let output = run(within()
        .arg(program)
        .args(arguments)
        .env_clear()
        .envs(clean_environment(home.path()))
        .env("CGROUP", cgroup));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn uid(digit: char) -> String {
    format!("{}-1b2f-4d6e-8a7b-90c1d2e3f405", digit.to_string().repeat(8))
}

/// As the agent keeps it on disk.
fn saved_pod(uid: &str, name: &str, app: &str) -> Value {
    json!({
        "uid": uid, "namespace": "shop", "name": name, "labels": {"app": app}, "attributes": {},
        "owners": {"replica_set": null, "deployment": null, "stateful_set": null, "daemon_set": null, "job": null, "cron_job": null},
        "node": NODE, "ip": null, "started": null, "kubelet_uids": [uid],
        "containers": [{"name": "app", "image": "i", "id": null, "runtime": null, "image_id": "sha256:1", "restarts": 0}],
    })
}

fn grant_spec(uid: &str, selector: &Value, generation: u32) -> Value {
    json!({
        "source": {"kind": "AgentTrace", "namespace": "shop", "name": "t", "uid": uid, "generation": generation},
        "scope": {"namespace": "shop"}, "selector": selector,
    })
}

fn grant(plane: &ControlPlane, selector: &Value, generation: u32) {
    apply(
        plane,
        &json!({
            "apiVersion": "agentsight.dev/v1alpha1", "kind": "AgentTraceGrant",
            "metadata": {"name": "t", "namespace": RELEASE},
            "spec": grant_spec("11111111-1111-1111-1111-111111111111", selector, generation),
        }),
    );
}

/// A pod that is bound to the node; its UID.
fn pod(plane: &ControlPlane, name: &str) -> String {
    apply(
        plane,
        &json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
            "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "registry.example.com/shop/agent:1"}]},
        }),
    );
    plane.kubectl(&["-n", "shop", "get", "pod", name, "-o", "jsonpath={.metadata.uid}"])
}

/// What the kubelet says some 40 ms after a container's first program runs.
fn status(plane: &ControlPlane, name: &str, id: char) {
    let status = json!({"status": {"phase": "Running", "containerStatuses": [{
        "name": "app", "ready": true, "restartCount": 0, "image": "registry.example.com/shop/agent:1",
        "imageID": "registry.example.com/shop/agent@sha256:1", "containerID": format!("containerd://{}", id.to_string().repeat(64)),
        "state": {"running": {}},
    }]}});
    plane.kubectl(&[
        "-n",
        "shop",
        "patch",
        "pod",
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ]);
}

fn apply(plane: &ControlPlane, object: &Value) {
    let output = plane.apply(&object.to_string());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn wait_for_report(plane: &ControlPlane, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let list = plane.kubectl(&["-n", RELEASE, "get", "agenttracenodes", "-o", "json"]);
        let list: Value = serde_json::from_str(&list).unwrap();
        let report = list["items"][0]["status"].clone();
        if report.is_object() && is_so(&report) {
            return report;
        }
        assert!(Instant::now() < deadline, "the node does not report {what}: {list:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The numbers of the calls, in their order, but for those of warming up.
fn traced(spans: &[Span]) -> Vec<usize> {
    let mut numbers: Vec<_> = spans
        .iter()
        .map(|span| usize::from_str_radix(&span.trace_id, 16).unwrap())
        .filter(|n| *n != WARMING)
        .collect();
    numbers.sort_unstable();
    numbers
}

fn calls_of(received: &Path) -> Vec<Span> {
    Telemetry::read(received).unwrap().calls().cloned().collect()
}
