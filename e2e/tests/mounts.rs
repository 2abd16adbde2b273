//! A library file is probed once, through however many mounts it is reached.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::Agent;
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::programs;
use std::path::Path;

/// Two mounts of one layer, as two containers of one image have them, in a mount namespace that ends with the shell.
const TWO_CONTAINERS: &str = r#"
set -e
folder=$1; shift
mount -t tmpfs tmpfs "$folder/over"
for name in one two; do
    mkdir "$folder/over/$name" "$folder/over/$name.upper" "$folder/over/$name.work"
    mount -t overlay overlay "$folder/over/$name" \
        -o "lowerdir=$folder/layer,upperdir=$folder/over/$name.upper,workdir=$folder/over/$name.work"
    LD_LIBRARY_PATH=$folder/over/$name "$@"
done
# And both again, with probes on what they map.
for name in one two; do
    LD_LIBRARY_PATH=$folder/over/$name "$@"
done
"#;

#[test]
fn programs_in_two_overlays_of_one_layer_are_seen_once_each() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start();
    let (program, arguments) = programs::tls_once(Path::new(env!("CARGO_TARGET_TMPDIR")), &server, "overlay");
    let library = programs::library_of(Path::new(&program), "libssl.so.3");
    let folder = tempfile::tempdir().unwrap();
    for name in ["layer", "over"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    std::fs::copy(library, folder.path().join("layer/libssl.so.3")).unwrap();
    let recording = agent
        .record("unshare")
        .option("-v")
        .args(["--mount", "sh", "-c", TWO_CONTAINERS, "sh"])
        .arg(folder.path())
        .arg(program)
        .args(arguments)
        .run()
        .succeeded();
    let served = server.stop();
    assert_eq!(served.len(), 4);
    let log = String::from_utf8_lossy(&recording.output.stderr);
    let seen: Vec<_> = recording
        .telemetry
        .calls()
        .filter_map(|span| span.text("gen_ai.response.id").map(str::to_owned))
        .collect();
    // The first one's library is found while it runs: it may be gone by then.
    let late = usize::from(!seen.contains(served[0].id.as_ref().unwrap()));
    let expected: Vec<_> = served[late..].iter().map(|served| served.id.clone().unwrap()).collect();
    assert_eq!(seen, expected, "each once, in their order\n{log}");
    let attached =
        log.lines().filter(|line| line.contains("attached") && line.contains("/libssl.so.3")).count();
    assert_eq!(attached, 1, "the layer's own file is attached to once\n{log}");
}
