//! Recorded real traffic, and the conventions as data: both stand beside the project, not in it.

use agentsight_e2e::agent::Agent;
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::run;
use agentsight_e2e::python;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn recorded_calls_of_openai_and_anthropic_give_the_attributes_expected_of_them() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(shared) = shared() else { return };
    for cases in ["openai-v2", "anthropic"] {
        for server in [
            &["--split=event"][..],
            &["--split=random", "--compress=gzip-all"],
            &["--split=whole", "--head=coalesce"],
        ] {
            let mut command = Command::new(python::interpreter());
            command.arg(shared.join("oracle/check_capture.py")).arg("--agent").arg(agent.program());
            command.arg("--cases").arg(shared.join("oracle/cases").join(cases));
            for argument in server {
                command.arg(format!("--server-arg={argument}"));
            }
            let output = run(&mut command);
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success(),
                "{cases} with {server:?}:\n{text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            eprintln!("{cases} with {server:?}: {}", text.lines().last().unwrap_or_default());
        }
    }
}

#[test]
fn the_conventions_find_nothing_wrong_with_our_telemetry() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(shared) = shared() else { return };
    for content in [false, true] {
        let server = ModelServer::start();
        let folder = tempfile::tempdir().unwrap();
        let mut record = agent.record(python::interpreter());
        if content {
            record = record.option("--content");
        }
        let recording = record
            .arg(python::agent("sdk_matrix.py"))
            .args(["--base", &server.base(), "--ca", &server.ca().to_string_lossy(), "--only", ".sync"])
            .arg("--out")
            .arg(folder.path().join("seen.jsonl"))
            .run()
            .succeeded();
        assert!(recording.telemetry.calls().count() > 100);
        let file = recording.folder.path().join("otlp.jsonl");
        let output = run(Command::new(python::interpreter()).arg(shared.join("semconv/check.py")).arg(&file));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// `$AGENTSIGHT_SHARED`, or `shared` beside the checkout.
fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let folder = std::env::var_os("AGENTSIGHT_SHARED").map_or(beside, PathBuf::from);
    if folder.join("oracle/check_capture.py").is_file() {
        return Some(folder);
    }
    eprintln!(
        "skipped: there are no recordings in {} (AGENTSIGHT_SHARED names another place)",
        folder.display()
    );
    None
}
