//! Go programs, whose TLS is Go code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::Agent;
use agentsight_e2e::go::{Build, GoServer, both_rounds_are_seen, build_or_skip};

const STRIPPED: Build = Build { arguments: &["-ldflags=-s -w"], cgo: false };
const POSITION_INDEPENDENT: Build = Build { arguments: &["-buildmode=pie", "-ldflags=-s -w"], cgo: false };
const LINKED_BY_C: Build =
    Build { arguments: &["-buildmode=pie", "-ldflags=-s -w -linkmode=external"], cgo: true };

#[test]
fn calls_of_net_http_are_seen_whole_by_both_protocols_however_the_program_is_linked() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (number, build) in [STRIPPED, POSITION_INDEPENDENT, LINKED_BY_C].into_iter().enumerate() {
        let program = folder.path().join(format!("go-{number}"));
        let Some(()) = build_or_skip(build, &program) else { return };
        let server = GoServer::start(&program);
        for protocol in ["h1", "h2"] {
            both_rounds_are_seen(agent.record(&program), &server, protocol, &[], &format!("{build:?}"));
        }
    }
}

#[test]
fn calls_of_net_http_without_tls_are_seen_whole_by_both_protocols() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("go-plain");
    let Some(()) = build_or_skip(STRIPPED, &program) else { return };
    let server = GoServer::start_plain(&program);
    for protocol in ["h1", "h2"] {
        // Two threads read and write: now and then the answer is there before the write has returned.
        for _ in 0..5 {
            let record = agent.record(&program).option("--plaintext");
            both_rounds_are_seen(record, &server, protocol, &[], "plain");
        }
    }
}
