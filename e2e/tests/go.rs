//! Go programs, whose TLS is Go code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::Agent;
use agentsight_e2e::coverage::{CHAT, Row};
use agentsight_e2e::go::{Build, GoServer, STRIPPED, both_rounds_are_seen, build_or_skip};

const POSITION_INDEPENDENT: Build = Build { arguments: &["-buildmode=pie", "-ldflags=-s -w"], ..STRIPPED };
const LINKED_BY_C: Build =
    Build { arguments: &["-buildmode=pie", "-ldflags=-s -w -linkmode=external"], cgo: true, ..STRIPPED };
/// By another release of Go than the machine's.
const NEWER: Build = Build { release: "go1.27.3", ..STRIPPED };

#[test]
fn calls_of_net_http_are_seen_whole_by_both_protocols_however_the_program_is_linked() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (number, build) in [STRIPPED, POSITION_INDEPENDENT, LINKED_BY_C, NEWER].into_iter().enumerate() {
        let program = folder.path().join(format!("go-{number}"));
        let Some(()) = build_or_skip(build, &program) else { return };
        let server = GoServer::start(&program);
        for (protocol, shown) in [("h1", "HTTP/1.1"), ("h2", "HTTP/2")] {
            both_rounds_are_seen(agent.record(&program), &server, protocol, &[], &format!("{build:?}"));
            let version = build.release.strip_prefix("go").unwrap_or_default();
            let row = Row {
                program: "Go, with net/http",
                version,
                file: Some(&program),
                library: None,
                protocol: shown,
            };
            row.was_seen_to_say(&agent, CHAT);
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
