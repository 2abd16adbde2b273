//! The measurements of `make bench` run; what they say of a busy test machine is not looked at.

use agentsight_e2e::agent::Agent;
use agentsight_e2e::process::run;
use agentsight_e2e::python;
use serde_json::Value;
use std::process::Command;

#[test]
fn a_quick_run_measures_everything_and_the_agent_sees_every_call() {
    let Some(agent) = Agent::or_skip() else { return };
    // The script asks for it too, but its output is not seen here.
    python::interpreter();
    let output = run(Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/run.sh"))
        .args(["--quick", "-o", "json"])
        .env("AGENTSIGHT_BIN", agent.program())
        .env("MODEL_SERVER_BIN", env!("CARGO_BIN_EXE_model-server")));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).expect("-o json");
    let is_measured = |figure: &Value| figure["median"].as_f64().is_some_and(|median| median > 0.0);
    for size in results["echo"]["sizes"].as_array().expect("a list") {
        for name in ["alone", "traced", "traced_ratio", "beside_ratio", "agent_call", "agent_mib"] {
            assert!(is_measured(&size[name]), "{name} of {size}");
        }
    }
    for load in results["loads"].as_array().expect("a list") {
        for name in ["p50", "p99", "rate", "cpu", "rss"] {
            assert!(is_measured(&load[name]["ratio"]), "{name} of {load}");
        }
        assert_eq!(load["agent"]["calls_seen"], load["agent"]["calls_expected"], "{load}");
    }
}
