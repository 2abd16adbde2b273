//! Model calls without TLS: seen where it is asked for, and nothing else is copied.
//!
//! That their spans equal those over TLS is tested with the SDKs (sdks.rs), with Go by both versions of HTTP (go.rs), and
//! under load (load.rs).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, Recording, clean_environment};
use agentsight_e2e::comparison::{attribute_differences, output_differences};
use agentsight_e2e::model_server::{self, ModelServer};
use agentsight_e2e::process::{Process, orphaned_programs, wait_until_only_these_are_left};
use agentsight_e2e::telemetry::Telemetry;
use agentsight_e2e::{programs, python};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

#[test]
fn a_call_by_curl_is_seen_whole_and_nothing_is_left_in_the_kernel() {
    let Some(agent) = Agent::or_skip() else { return };
    let before = orphaned_programs();
    let server = ModelServer::start_plain();
    let (curl, arguments) = programs::curl(&server, "plain", &format!("{:032x}", 5));
    let port = server.port();
    let recording = agent
        .record(curl)
        .option("--plaintext")
        .option("--content")
        .option("-v")
        .args(arguments)
        .run()
        .succeeded();
    let served = server.stop();
    let calls: Vec<_> = recording.telemetry.calls().collect();
    assert_eq!((calls.len(), served.len()), (1, 1), "{}", recording.log());
    let mut wrong = attribute_differences(&served[0], calls[0]);
    wrong.extend(output_differences(&served[0], calls[0]));
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(calls[0].number("server.port"), Some(port.into()));
    assert_eq!(calls[0].trace_id, format!("{:032x}", 5), "the traceparent of the request");
    assert_eq!(recording.counted("tls_calls"), 0);
    assert_eq!(recording.counted("socket_bytes"), recording.counted("captured_bytes"));
    wait_until_only_these_are_left(&before);
}

#[test]
fn not_a_byte_is_copied_where_nobody_asks() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start_plain();
    let (curl, arguments) = programs::curl(&server, "unasked", &format!("{:032x}", 6));
    let recording = agent.record(curl).option("-v").args(arguments).run().succeeded();
    assert_eq!(server.stop().len(), 1);
    assert_eq!(recording.telemetry.calls().count(), 0);
    for name in ["socket_calls", "sockets_ignored", "captured_bytes"] {
        assert_eq!(recording.counted(name), 0, "{name}");
    }
}

#[test]
fn of_a_call_over_tls_nothing_is_copied_twice() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start();
    let (curl, arguments) = programs::curl(&server, "tls", &format!("{:032x}", 7));
    let recording = agent.record(curl).option("--plaintext").option("-v").args(arguments).run().succeeded();
    assert_eq!(server.stop().len(), 1);
    assert_eq!(recording.telemetry.calls().count(), 1);
    assert_eq!(recording.counted("socket_bytes"), 0);
    assert!(recording.counted("sockets_ignored") > 0, "the socket below TLS was looked at, and let go");
    assert_eq!(recording.counted("captured_bytes"), recording.counted("tls_bytes"));
}

#[test]
fn another_protocol_is_let_go_on_both_sides() {
    let Some(agent) = Agent::or_skip() else { return };
    let recording = agent
        .record(python::interpreter())
        .option("--plaintext")
        .option("-v")
        .arg(python::agent("plain_calls.py"))
        .args(["0", "other"])
        .run()
        .succeeded();
    assert_eq!(recording.counted("captured_bytes"), 0);
    assert_eq!(recording.counted("sockets_ignored"), 2, "the client's socket and the server's");
}

#[test]
fn a_call_to_a_server_that_is_traced_too_is_one_span() {
    let Some(agent) = Agent::or_skip() else { return };
    // The server says its port and its process in one line, and ends by a signal.
    let script = r#""$1" --plain-http | {
        read -r line
        port=${line#*\"port\":}; port=${port%%[,\}]*}
        pid=${line#*\"pid\":}; pid=${pid%%[,\}]*}
        for n in 1 2 3; do
            curl -sSf -H 'content-type: application/json' -d '{"model":"gpt-4o-mini","messages":[]}' \
                "http://localhost:$port/v1/chat/completions" >/dev/null || exit 1
        done
        kill "$pid"
    }"#;
    let recording = agent
        .record("sh")
        .option("--plaintext")
        .option("-v")
        .args(["-ec", script, "sh"])
        .arg(model_server::program())
        .run()
        .succeeded();
    assert_eq!(recording.telemetry.calls().count(), 3, "{}", recording.log());
    // And the one by which its run-time tells itself of the signal.
    assert_eq!(recording.counted("sockets_ignored"), 3 + 1, "the server's");
}

#[test]
fn a_prompt_of_1_mib_and_an_answer_of_4_mib_arrive_whole_in_parts_and_once() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start_plain();
    let recording = plain_calls(&agent, &server, "large");
    let served = server.stop();
    let calls: Vec<_> = recording.telemetry.calls().collect();
    assert_eq!(calls.len(), 1, "{}", recording.log());
    assert!(!calls[0].attributes.contains_key("agentsight.capture.truncated"), "{}", recording.log());
    let input = calls[0].json("gen_ai.input.messages").expect("--content was asked for");
    let prompt = input[0]["parts"][0]["content"].as_str().unwrap();
    assert!(prompt == "0123456789abcdef".repeat(1 << 16), "the prompt is not whole: {}", prompt.len());
    assert_eq!(served[0].choices[0].text.len(), 4 << 20);
    assert!(output_differences(&served[0], calls[0]).is_empty(), "the answer is not whole");
    assert_eq!(recording.counted("captured_bytes"), recording.counted("socket_bytes"));
}

#[test]
fn what_goes_by_sendfile_is_missed_and_nothing_else_is() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start_plain();
    let recording = plain_calls(&agent, &server, "sendfile");
    let served = server.stop();
    let calls: Vec<_> = recording.telemetry.calls().collect();
    assert_eq!(calls.len(), 1, "{}", recording.log());
    assert_eq!(calls[0].text("gen_ai.response.id"), served[0].id.as_deref());
    assert!(calls[0].attributes.contains_key("agentsight.capture.truncated"), "{:#?}", calls[0]);
    let told = format!(
        "bytes of plain HTTP went by sendfile or splice and cannot be seen count={}",
        served[0].request_bytes
    );
    assert!(recording.log().contains(&told), "{told}\n{}", recording.log());
}

#[test]
fn a_connection_that_was_open_before_is_joined_at_its_next_request() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start_plain();
    let folder = tempfile::tempdir().unwrap();
    let mut program = Process::spawn(
        Command::new(python::interpreter())
            .arg(python::agent("plain_calls.py"))
            .args([&server.port().to_string(), "idle"])
            .env_clear()
            .envs(clean_environment(folder.path()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    );
    let mut said = BufReader::new(program.child().stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.next().is_some_and(|line| line.starts_with("ok")), "the first call");
    let file = folder.path().join("otlp.jsonl");
    let mut record = Process::spawn(
        Command::new(agent.program())
            .args(["record", "-v", "--plaintext", "--pid", &program.id().to_string(), "--otlp-json"])
            .arg(&file)
            .env_clear()
            .envs(clean_environment(folder.path()))
            .stderr(Stdio::piped()),
    );
    let mut log = BufReader::new(record.child().stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains("tracing;")), "the agent did not start");
    writeln!(program.child().stdin.take().unwrap(), "go").unwrap();
    assert!(said.next().is_some_and(|line| line.starts_with("ok")), "the second call");
    assert!(program.wait().success());
    let log: Vec<_> = log.collect();
    assert!(record.wait().success());
    let served = server.stop();
    let telemetry = Telemetry::read(&file).unwrap();
    let calls: Vec<_> = telemetry.calls().collect();
    assert_eq!(calls.len(), 1, "{}", log.join("\n"));
    assert_eq!(calls[0].text("gen_ai.response.id"), served[1].id.as_deref());
    assert!(attribute_differences(&served[1], calls[0]).is_empty(), "{:#?}", calls[0]);
}

#[test]
fn fetch_of_node_is_seen() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start_plain();
    let script = "const ask = async (stream) => { const r = await fetch(process.argv[1], {method: 'POST', \
                  headers: {'content-type': 'application/json'}, body: JSON.stringify({model: 'gpt-4o-mini', stream, \
                  messages: [{role: 'user', content: 'word '.repeat(20000)}]})}); await r.text(); }; \
                  (async () => { for (let n = 0; n < 5; n++) { await ask(false); await ask(true); } })();";
    let recording = agent
        .record("node")
        .option("--plaintext")
        .option("--content")
        .args(["-e", script])
        .arg(format!("{}/v1/chat/completions", server.base()))
        .run()
        .succeeded();
    let served = server.stop();
    let mut calls: Vec<_> = recording.telemetry.calls().collect();
    calls.sort_by_key(|span| span.start);
    assert_eq!((calls.len(), served.len()), (10, 10), "{}", recording.log());
    for (served, span) in served.iter().zip(&calls) {
        let mut wrong = attribute_differences(served, span);
        wrong.extend(output_differences(served, span));
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

fn plain_calls(agent: &Agent, server: &ModelServer, what: &str) -> Recording {
    agent
        .record(python::interpreter())
        .option("--plaintext")
        .option("--content")
        .option("-v")
        .arg(python::agent("plain_calls.py"))
        .args([&server.port().to_string(), what])
        .run()
        .succeeded()
}
