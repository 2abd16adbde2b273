//! Calls without TLS.

use crate::workload::{IMAGE, agent_trace, caller, pod};
use crate::world::{PATIENCE, World, eventually, resource, response_id};
use serde_json::json;

/// 15. A model server beside the agent in its pod, without TLS: each call is seen once, where the AgentTrace asks for it.
pub(crate) fn a_model_in_the_pod(world: &World) {
    let namespace = "in-the-pod";
    world.namespace(namespace);
    for (name, capture) in [("untold", json!({})), ("told", json!({"plaintext": "HTTP"}))] {
        let spec = json!({"selector": {"matchLabels": {"app": name}}, "capture": capture});
        world.apply(namespace, &[agent_trace(name, &spec)]);
        world.wait_until_watched(namespace, name);
    }
    let ids = ["untold", "told"].map(|name| {
        let mut agent = caller("agent", "", &["--calls=5"]);
        for variable in agent["env"].as_array_mut().expect("a list") {
            if variable["name"] == "MODEL_HOST" {
                variable["value"] = "localhost:8000".into();
            }
        }
        let mut with_model = pod(name, &json!({"app": name}), &[agent]);
        // A sidecar: it is there before the agent, and goes with it.
        with_model["spec"]["initContainers"] = json!([{
            "name": "model",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "restartPolicy": "Always",
            "command": ["model-server", "--plain-http", "--address=0.0.0.0", "--port=8000"],
            "startupProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        }]);
        world.apply(namespace, &[with_model]);
        assert!(world.wait_for_end(namespace, name), "the application has noticed nothing");
        let log = world.kubectl(&["logs", "-n", namespace, name, "-c", "agent"]);
        let mut ids: Vec<_> =
            log.lines().filter_map(|line| Some(line.strip_prefix("ok ")?.to_owned())).collect();
        ids.sort();
        ids
    });
    assert_eq!(ids.each_ref().map(Vec::len), [5, 5]);
    let spans = eventually("the calls that were asked for have spans", PATIENCE, || {
        let spans = world.spans(namespace);
        let seen = spans.iter().filter_map(response_id).filter(|id| ids[1].iter().any(|known| known == id));
        if seen.count() >= ids[1].len() { Ok(spans) } else { Err(format!("{}", spans.len())) }
    });
    let mut seen: Vec<_> = spans.iter().filter_map(response_id).collect();
    seen.sort_unstable();
    assert_eq!(seen, ids[1], "each once, not once more for the server, and none that was not asked for");
    for span in &spans {
        let place = ["k8s.pod.name", "k8s.container.name"].map(|name| resource(span, name));
        assert_eq!(place, ["told", "agent"]);
        assert_eq!(
            (span.text("server.address"), span.number("server.port")),
            (Some("localhost"), Some(8000))
        );
    }
}
