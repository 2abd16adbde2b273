//! Go programs, whose TLS is Go code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, Record};
use agentsight_e2e::go::{Build, GoServer, build_or_skip};
use std::collections::BTreeSet;
use std::path::Path;

const STRIPPED: Build = Build { arguments: &["-ldflags=-s -w"], cgo: false };
const POSITION_INDEPENDENT: Build = Build { arguments: &["-buildmode=pie", "-ldflags=-s -w"], cgo: false };
const LINKED_BY_C: Build =
    Build { arguments: &["-buildmode=pie", "-ldflags=-s -w -linkmode=external"], cgo: true };

/// Questions at once, and twice of them: the second time over the connections of the first.
const QUESTIONS: usize = 8;

#[test]
fn calls_of_net_http_are_seen_whole_by_both_protocols_however_the_program_is_linked() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (number, build) in [STRIPPED, POSITION_INDEPENDENT, LINKED_BY_C].into_iter().enumerate() {
        let program = folder.path().join(format!("go-{number}"));
        let Some(()) = build_or_skip(build, &program) else { return };
        let server = GoServer::start(&program);
        for protocol in ["h1", "h2"] {
            both_rounds_are_seen(&agent, &program, &server, protocol, &[], &format!("{build:?}"));
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
            both_rounds_are_seen(&agent, &program, &server, protocol, &["--plaintext"], "plain");
        }
    }
}

fn both_rounds_are_seen(
    agent: &Agent,
    program: &Path,
    server: &GoServer,
    protocol: &str,
    options: &[&str],
    how: &str,
) {
    let version = if protocol == "h2" { "HTTP/2.0" } else { "HTTP/1.1" };
    let who = format!("{how} {protocol}");
    let record = options.iter().fold(agent.record(program), Record::option);
    let recording = record
        .option("--content")
        .args(["ask".into(), server.base(), server.ca().display().to_string()])
        .args([protocol.to_owned(), QUESTIONS.to_string()])
        .run()
        .succeeded();
    let said = String::from_utf8_lossy(&recording.output.stdout);
    let log = String::from_utf8_lossy(&recording.output.stderr);
    assert_eq!(said.lines().filter(|line| line.starts_with(version)).count(), 2 * QUESTIONS, "{said}");
    let ids: BTreeSet<_> = recording
        .telemetry
        .calls()
        .map(|span| {
            assert!(span.text("agentsight.capture.truncated").is_none(), "{who}: {span:#?}");
            assert!(span.text("agentsight.response.incomplete").is_none(), "{who}: {span:#?}");
            let question = span.json("gen_ai.input.messages").unwrap();
            let question = question[0]["parts"][0]["content"].as_str().unwrap().to_owned();
            let answer = span.json("gen_ai.output.messages").unwrap();
            assert_eq!(answer[0]["parts"][0]["content"], format!("You said: {question}"), "{who}");
            assert_eq!(span.number("gen_ai.usage.input_tokens"), Some(question.len() as u64), "{who}");
            span.text("gen_ai.response.id").unwrap().to_owned()
        })
        .collect();
    let expected: BTreeSet<_> =
        (0..2).flat_map(|round| (0..QUESTIONS).map(move |i| format!("chatcmpl-model-{round}-{i}"))).collect();
    assert_eq!(ids, expected, "{who}\n{log}");
    assert_eq!(recording.telemetry.calls().count(), expected.len(), "{who}: none twice");
}
