//! Who made a call: every kind of pod and container, and nobody that was not selected.

use crate::workload::{agent_trace, caller, deployment, job, pod};
use crate::world::{PATIENCE, SYSTEM, World, eventually, resource, response_id};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// 1. The user's first minutes: the example, a Deployment with the official SDK, the collector, Jaeger.
pub(crate) fn an_agent_in_a_deployment(world: &World) {
    let namespace = "shop";
    world.namespace(namespace);
    let mut container = caller("agent", &world.authority, &[]);
    // The SDK's own settings, and a file for its trust. One process asks again and again: of one that is gone between two
    // looks of the agent's report nothing would stand there.
    container["command"] = json!(["/bin/sh", "-c"]);
    container["args"] = json!([r#"printf %s "$MODEL_CA" >/tmp/ca.pem
exec python3 -c 'import runpy, time
while True:
    runpy.run_path("/opt/agents/demo_agent.py", run_name="__main__")
    time.sleep(2)'"#]);
    let mut variables = container["env"].as_array().cloned().unwrap_or_default();
    for (name, value) in [
        ("OPENAI_BASE_URL", "https://model-server.models/v1"),
        ("OPENAI_API_KEY", "sk-e2e"),
        ("SSL_CERT_FILE", "/tmp/ca.pem"),
    ] {
        variables.push(json!({"name": name, "value": value}));
    }
    container["env"] = variables.into();
    world.kubectl(&["apply", "-n", namespace, "-f", &example("agenttrace.yaml")]);
    world.apply(namespace, &[deployment("assistant", &[container])]);

    let span = eventually("a span of the Deployment's pod", PATIENCE, || {
        world.spans(namespace).pop().ok_or_else(|| "none".to_owned())
    });
    let pods = world.list(namespace, "pods", "app=assistant");
    let pod = pods.iter().find(|pod| pod["metadata"]["name"] == resource(&span, "k8s.pod.name"));
    let pod = pod.unwrap_or_else(|| panic!("no pod is named as in {:?}", span.resource));
    let status = &pod["status"]["containerStatuses"][0];
    let id = status["containerID"].as_str().and_then(|id| id.split("://").nth(1)).unwrap_or_default();
    for (attribute, expected) in [
        ("k8s.namespace.name", namespace),
        ("k8s.pod.uid", pod["metadata"]["uid"].as_str().unwrap_or_default()),
        ("k8s.node.name", pod["spec"]["nodeName"].as_str().unwrap_or_default()),
        ("k8s.deployment.name", "assistant"),
        ("k8s.container.name", "agent"),
        ("container.id", id),
        ("container.image.name", "agentsight.dev/app"),
        ("service.name", "assistant"),
        ("service.namespace", namespace),
    ] {
        assert_eq!(resource(&span, attribute), expected, "{attribute} in {:?}", span.resource);
    }
    assert_eq!(span.resource["container.image.tags"], json!(["e2e"]));
    assert_eq!(span.text("gen_ai.request.model"), Some("gpt-4o-mini"));
    assert_eq!(span.text("server.address"), Some("model-server.models"));

    eventually("Jaeger shows the trace", PATIENCE, || {
        let path = format!(
            "/api/v1/namespaces/observability/services/jaeger:http/proxy/api/traces/{}",
            span.trace_id
        );
        let output = world.try_kubectl(&["get", "--raw", &path]);
        let trace: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        let names = trace["data"][0]["spans"].as_array().cloned().unwrap_or_default();
        let shown = names.iter().any(|shown| shown["operationName"] == span.name.as_str());
        if shown { Ok(()) } else { Err(trace.to_string()) }
    });

    world.wait_for_condition(namespace, "everything", "Active", "True", "Tracing");
    let table = world.kubectl(&["get", "agenttraces", "-n", namespace]);
    let head: Vec<_> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(head, ["NAME", "ACCEPTED", "ACTIVE", "PODS", "TRACED", "CALLS", "DROPPED", "AGE"], "{table}");
    let row: Vec<_> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(row[..4], ["everything", "True", "True", "1"], "{table}");

    eventually("the node says by what it is traced", PATIENCE, || {
        let nodes = world.list(SYSTEM, "agenttracenodes", "");
        let grants =
            nodes.iter().flat_map(|node| node["status"]["grants"].as_array().cloned().unwrap_or_default());
        let ways: Vec<_> =
            grants.flat_map(|grant| grant["traced"].as_array().cloned().unwrap_or_default()).collect();
        let by_name = |way: &Value| {
            way["library"] == "openssl"
                && way["foundBy"] == "symbols"
                && way["state"] == "Confirmed"
                && way["count"] == 1
        };
        if ways.iter().any(by_name) { Ok(()) } else { Err(format!("{ways:?}")) }
    });

    // The other examples, as they are.
    world.kubectl(&["delete", "-n", namespace, "-f", &example("agenttrace.yaml")]);
    world.kubectl(&["apply", "-n", namespace, "-f", &example("agenttrace-app.yaml")]);
    world.wait_for_condition(namespace, "assistant", "Active", "True", "Tracing");
    world.kubectl(&["delete", "-n", namespace, "-f", &example("agenttrace-app.yaml")]);
    world.kubectl(&["label", "namespace", namespace, "team=shop"]);
    world.kubectl(&["apply", "-f", &example("clusteragenttrace.yaml")]);
    eventually("the ClusterAgentTrace is active", PATIENCE, || {
        let status = world.get(namespace, "clusteragenttrace", "teams")["status"].clone();
        if status["pods"] == 1 && status["traced"].as_i64() > Some(0) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    world.kubectl(&["delete", "-f", &example("clusteragenttrace.yaml")]);
}

/// 2. The same image, the same calls, and no label: nothing of it anywhere, and nothing was copied in the kernel.
pub(crate) fn an_unselected_pod(world: &World) {
    let namespace = "chosen";
    world.namespace(namespace);
    world.apply(namespace, &[agent_trace("some", &json!({"selector": {"matchLabels": {"traced": "yes"}}}))]);
    world.wait_until_watched(namespace, "some");

    // A first selected pod shows that all is in place; then the other calls alone.
    let calls = |name: &str, label: &str| {
        pod(name, &json!({"traced": label}), &[caller("agent", &world.authority, &["--calls=5"])])
    };
    world.apply(namespace, &[calls("seen", "yes")]);
    assert!(world.wait_for_end(namespace, "seen"), "{}", world.kubectl(&["logs", "-n", namespace, "seen"]));
    world.wait_for_spans(namespace, &world.served(namespace, "seen/"));
    let before = ["agentsight_captured_bytes_total", "agentsight_tls_bytes_total"]
        .map(|name| world.agents_metric(name));
    assert!(before.iter().all(|bytes| *bytes > 0.0), "the counters count: {before:?}");

    world.apply(namespace, &[calls("unseen", "no")]);
    assert!(
        world.wait_for_end(namespace, "unseen"),
        "{}",
        world.kubectl(&["logs", "-n", namespace, "unseen"])
    );
    let served = world.served(namespace, "unseen/");
    assert_eq!(served.len(), 5);
    // A later call of a selected pod has come all the way: what there was of the other would be there, too.
    let after = ["agentsight_captured_bytes_total", "agentsight_tls_bytes_total"]
        .map(|name| world.agents_metric(name));
    assert_eq!(after, before, "bytes captured, and bytes counted in the kernel");
    world.apply(namespace, &[calls("seen-later", "yes")]);
    assert!(world.wait_for_end(namespace, "seen-later"));
    world.wait_for_spans(namespace, &world.served(namespace, "seen-later/"));

    let uid =
        world.get(namespace, "pod", "unseen")["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let text = world.received_text();
    let ids = served.iter().filter_map(|served| served.id.clone());
    for trace in ids.chain([uid, "\"unseen\"".to_owned()]) {
        assert!(!text.contains(&trace), "{trace} is in what the collector received");
    }
}

/// 4. A Job whose pod lives less than a second.
pub(crate) fn a_short_job(world: &World) {
    let namespace = "batch";
    world.namespace(namespace);
    world.apply(namespace, &[agent_trace("all", &json!({"selector": {}}))]);
    world.wait_until_watched(namespace, "all");
    // On a busy machine one may take longer: each has to be seen, and one of them has to be short enough.
    for number in 1.. {
        let lived = seconds_of_a_job(world, namespace, &format!("nightly-{number}"));
        eprintln!("   from the start to the end of the container: {lived} s, in whole seconds");
        if lived <= 1 {
            break;
        }
        assert!(number < 10, "none was short");
    }
}

/// Runs a Job, checks what came of it, and returns for how many seconds its container ran, give or take one.
fn seconds_of_a_job(world: &World, namespace: &str, job_name: &str) -> i64 {
    world.apply(namespace, &[job(job_name, 1, &[caller("agent", &world.authority, &["--calls=1"])])]);
    let what = format!("job/{job_name}");
    world.kubectl(&["wait", "-n", namespace, "--for=condition=Complete", &what, "--timeout=120s"]);

    let pods = world.list(namespace, "pods", &format!("app={job_name}"));
    let name = pods[0]["metadata"]["name"].as_str().unwrap_or_default();
    let spans = world.wait_for_spans(namespace, &world.served(namespace, &format!("{name}/")));
    let span = &spans[0];
    for (attribute, expected) in [
        ("k8s.pod.name", name),
        ("k8s.pod.uid", pods[0]["metadata"]["uid"].as_str().unwrap_or_default()),
        ("k8s.job.name", job_name),
        ("k8s.container.name", "agent"),
        ("service.name", job_name),
    ] {
        assert_eq!(resource(span, attribute), expected, "{attribute} in {:?}", span.resource);
    }
    let ended = &pods[0]["status"]["containerStatuses"][0]["state"]["terminated"];
    let [from, to] = ["startedAt", "finishedAt"].map(|field| {
        let text = ended[field].as_str().unwrap_or_else(|| panic!("no {field} in {ended}"));
        text.parse::<Timestamp>().expect("a time in RFC 3339").as_second()
    });
    to - from
}

/// 5. Init container, native sidecar, one container of two, static pod, host network.
pub(crate) fn kinds_of_containers(world: &World) {
    let namespace = "kinds";
    world.namespace(namespace);
    let spec = json!({"selector": {}, "containers": {"exclude": ["left-out"]}});
    world.apply(namespace, &[agent_trace("most", &spec)]);
    world.wait_until_watched(namespace, "most");

    let call = |name: &str| caller(name, &world.authority, &["--calls=2", "--every=0.2"]);
    let mut sidecar = call("sidecar");
    sidecar["restartPolicy"] = "Always".into();
    let mut many = pod("many", &json!({}), &[call("main"), call("left-out")]);
    many["spec"]["initContainers"] = json!([call("init"), sidecar]);
    let mut host = pod("host", &json!({}), &[call("main")]);
    host["spec"]["hostNetwork"] = true.into();
    host["spec"]["dnsPolicy"] = "ClusterFirstWithHostNet".into();
    world.apply(namespace, &[many, host]);
    let mut expected =
        BTreeSet::from(["many/init", "many/sidecar", "many/main", "host/main"].map(str::to_owned));

    let static_pod = world.machine().map(|cluster| {
        let mut pod = pod("static", &json!({}), &[call("main")]);
        pod["metadata"]["namespace"] = namespace.into();
        let file = cluster.static_pods().join("static.json");
        std::fs::write(&file, pod.to_string()).expect("a file of ours");
        expected.insert("static-node-1/main".to_owned());
        file
    });
    let seen = eventually("spans of all containers", PATIENCE, || {
        let spans = world.spans(namespace);
        let name =
            |span| format!("{}/{}", resource(span, "k8s.pod.name"), resource(span, "k8s.container.name"));
        let seen: BTreeMap<_, _> = spans.iter().map(|span| (name(span), span.clone())).collect();
        let missing: Vec<_> = expected.iter().filter(|name| !seen.contains_key(*name)).collect();
        if missing.is_empty() {
            Ok(seen)
        } else {
            Err(format!("missing: {missing:?}; there: {:?}", seen.keys()))
        }
    });
    if let Some(file) = static_pod {
        drop(std::fs::remove_file(file));
    }
    // The one that was left out has called; nothing of it came, though all others of its pod did.
    let left_out = eventually("calls of the container that is left out", PATIENCE, || {
        let served = world.served(namespace, "many/left-out");
        if served.len() == 2 { Ok(served) } else { Err(served.len().to_string()) }
    });
    let text = world.received_text();
    for id in left_out.iter().filter_map(|served| served.id.as_deref()) {
        assert!(!text.contains(id), "a call of the container that is left out");
    }
    for (name, span) in &seen {
        // Each is whose it says: the model server was told the same name by the container itself.
        let id = response_id(span).unwrap_or_default();
        let served = world.served(namespace, name);
        assert!(served.iter().any(|served| served.id.as_deref() == Some(id)), "{name} and {id}");
    }
}

/// 14. A hundred pods at once on one node.
pub(crate) fn a_hundred_pods(world: &World) {
    const PODS: usize = 100;
    let namespace = "crowd";
    world.namespace(namespace);
    world.apply(namespace, &[agent_trace("all", &json!({"selector": {}}))]);
    world.wait_until_watched(namespace, "all");
    world.apply(namespace, &[job("crowd", PODS, &[caller("agent", &world.authority, &["--calls=2"])])]);
    world.kubectl(&["wait", "-n", namespace, "--for=condition=Complete", "job/crowd", "--timeout=600s"]);

    let pods = world.list(namespace, "pods", "app=crowd");
    assert_eq!(pods.len(), PODS);
    let uids: BTreeMap<_, _> = pods
        .iter()
        .map(|pod| ["name", "uid"].map(|field| pod["metadata"][field].as_str().unwrap_or_default()))
        .map(|[name, uid]| (name.to_owned(), uid.to_owned()))
        .collect();
    let served = world.served(namespace, "crowd-");
    assert_eq!(served.len(), 2 * PODS);
    let callers: BTreeMap<_, _> = served
        .iter()
        .filter_map(|call| Some((call.id.clone()?, call.case.as_deref()?.split('/').nth(1)?.to_owned())))
        .collect();
    let spans = world.wait_for_spans(namespace, &served);
    assert_eq!(spans.len(), 2 * PODS, "one span a call");
    for span in &spans {
        let caller = &callers[response_id(span).unwrap_or_default()];
        assert_eq!(resource(span, "k8s.pod.name"), caller);
        assert_eq!(resource(span, "k8s.pod.uid"), uids[caller]);
        assert_eq!(resource(span, "k8s.container.name"), "agent");
    }
    eventually("the status has counted all of them", Duration::from_secs(90), || {
        let status = world.get(namespace, "agenttrace", "all")["status"].clone();
        if status["calls"] == 2 * PODS && status["dropped"] == 0 { Ok(()) } else { Err(status.to_string()) }
    });
}

fn example(name: &str) -> String {
    format!("{}/../examples/{name}", env!("CARGO_MANIFEST_DIR"))
}
