//! The API server that other tests build on.

use agentsight_e2e::control_plane::ControlPlane;
use serde_json::{Value, json};

#[test]
fn an_api_server_alone_keeps_its_objects_over_a_restart() {
    let Some(plane) = ControlPlane::or_skip() else { return };
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"answer": "42"},
    });
    let applied = plane.apply(&map.to_string());
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));

    plane.stop_api_server();
    plane.start_api_server();
    let kept: Value =
        serde_json::from_str(&plane.kubectl(&["get", "configmap", "kept", "-o", "json"])).unwrap();
    assert_eq!(kept["data"]["answer"], "42");

    let version: Value = serde_json::from_str(&plane.kubectl(&["version", "-o", "json"])).unwrap();
    let server = version["serverVersion"]["gitVersion"].as_str().unwrap();
    assert!(server.starts_with("v1."), "{version}");
    assert_eq!(version["clientVersion"]["gitVersion"], server, "built from one module");
}
