//! Model calls over Unix sockets: seen where plain HTTP is asked for, and nothing else is copied.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, Record, Recording};
use agentsight_e2e::comparison::{attribute_differences, output_differences};
use agentsight_e2e::coverage::Row;
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::{orphaned_programs, wait_until_only_these_are_left};
use agentsight_e2e::python;
use agentsight_e2e::telemetry::Span;
use agentsight_e2e::truth::Served;
use std::ffi::OsStr;
use tempfile::TempDir;

/// A server on a socket in a folder of its own.
struct Listening {
    server: ModelServer,
    folder: TempDir,
}

impl Listening {
    fn start() -> Listening {
        let folder = tempfile::tempdir().unwrap();
        let server = ModelServer::start_on(&folder.path().join("model"));
        Listening { server, folder }
    }

    /// Where it listens.
    fn socket(&self) -> String {
        self.folder.path().join("model").to_str().unwrap().to_owned()
    }

    /// Runs a program that makes calls to it: each is one span, which equals what the server said.
    fn calls(self, record: Record<'_>, expected: usize) -> (Recording, Vec<Served>) {
        let recording = record.option("--plaintext").option("--content").option("-v").run().succeeded();
        let served = self.server.stop();
        let mut calls: Vec<_> = recording.telemetry.calls().collect();
        calls.sort_by_key(|span| span.start);
        assert_eq!((calls.len(), served.len()), (expected, expected), "{}", recording.log());
        for (served, span) in served.iter().zip(&calls) {
            assert!(served.socket.is_some());
            let mut wrong = attribute_differences(served, span);
            wrong.extend(output_differences(served, span));
            assert!(wrong.is_empty(), "{wrong:#?}");
            assert_eq!(span.number("server.port"), None);
            assert!(!truncated(span), "{}", recording.log());
        }
        (recording, served)
    }
}

#[test]
fn a_call_by_curl_is_seen_whole_and_nothing_is_left_in_the_kernel() {
    let Some(agent) = Agent::or_skip() else { return };
    let before = orphaned_programs();
    let listening = Listening::start();
    let body = r#"{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"One call"}]}"#;
    let record = agent
        .record("curl")
        .args([
            "-sSf",
            "--unix-socket",
            &listening.socket(),
            "-H",
            "content-type: application/json",
            "-d",
            body,
        ])
        .arg("http://localhost/v1/chat/completions");
    let (recording, served) = listening.calls(record, 1);
    assert_eq!(recording.counted("socket_bytes"), recording.counted("captured_bytes"));
    row("curl, over a Unix socket", "").was_seen(&agent, &served);
    wait_until_only_these_are_left(&before);
}

#[test]
fn the_sdk_of_openai_is_seen_over_httpx() {
    let Some(agent) = Agent::or_skip() else { return };
    let listening = Listening::start();
    let script = r#"
import sys, threading, httpx, openai
client = openai.OpenAI(api_key="key", base_url="http://localhost/v1",
                       http_client=httpx.Client(transport=httpx.HTTPTransport(uds=sys.argv[1])))
ask = lambda **more: client.chat.completions.create(
    model="gpt-4o-mini", messages=[{"role": "user", "content": "word " * 20000}], **more)
for _ in range(3):
    ask()
    list(ask(stream=True, stream_options={"include_usage": True}))
"#;
    let record = agent.record(python::interpreter()).args(["-c", script, &listening.socket()]);
    let (_, served) = listening.calls(record, 6);
    let version = python::version(python::interpreter(), "openai");
    row("openai (Python), over a Unix socket", &version).was_seen(&agent, &served);
}

#[test]
fn http_of_node_is_seen() {
    let Some(agent) = Agent::or_skip() else { return };
    let listening = Listening::start();
    let script = "const http = require('http'); const agent = new http.Agent({keepAlive: true}); \
        const ask = (stream) => new Promise((done, fail) => { const r = http.request({socketPath: process.argv[1], agent, \
        path: '/v1/chat/completions', method: 'POST', headers: {'content-type': 'application/json'}}, \
        (answer) => { answer.resume(); answer.on('end', done); }); r.on('error', fail); r.end(JSON.stringify({ \
        model: 'gpt-4o-mini', stream, messages: [{role: 'user', content: 'word '.repeat(100000)}]})); }); \
        (async () => { for (let n = 0; n < 5; n++) { await ask(false); await ask(true); } agent.destroy(); })();";
    let record = agent.record("node").args(["-e", script, &listening.socket()]);
    let (_, served) = listening.calls(record, 10);
    row("Node.js, over a Unix socket", "").was_seen(&agent, &served);
}

#[test]
fn a_prompt_of_1_mib_and_an_answer_of_4_mib_arrive_whole_in_parts_and_once() {
    let Some(agent) = Agent::or_skip() else { return };
    let listening = Listening::start();
    let (recording, served) = listening.plain_calls(&agent, "large");
    let span = recording.telemetry.calls().next().unwrap();
    let input = span.json("gen_ai.input.messages").expect("--content was asked for");
    let prompt = input[0]["parts"][0]["content"].as_str().unwrap();
    assert!(prompt == "0123456789abcdef".repeat(1 << 16), "the prompt is not whole: {}", prompt.len());
    assert_eq!(served[0].choices[0].text.len(), 4 << 20);
    assert_eq!(recording.counted("captured_bytes"), recording.counted("socket_bytes"));
}

#[test]
fn a_socket_that_is_given_to_another_process_is_the_same_connection() {
    let Some(agent) = Agent::or_skip() else { return };
    let listening = Listening::start();
    let (recording, _) = listening.plain_calls(&agent, "passed");
    let span = recording.telemetry.calls().next().unwrap();
    let input = span.json("gen_ai.input.messages").expect("--content was asked for");
    assert_eq!(input[0]["parts"][0]["content"].as_str().unwrap().len(), 1 << 20, "written in parts");
}

#[test]
fn another_protocol_is_let_go_on_both_sides() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let recording = agent
        .record(python::interpreter())
        .option("--plaintext")
        .option("-v")
        .arg(python::agent("plain_calls.py"))
        .args([folder.path().join("other").as_os_str(), OsStr::new("other")])
        .run()
        .succeeded();
    assert_eq!(recording.counted("captured_bytes"), 0);
    assert_eq!(recording.counted("sockets_ignored"), 2, "the client's socket and the server's");
}

#[test]
fn not_a_byte_is_copied_where_nobody_asks() {
    let Some(agent) = Agent::or_skip() else { return };
    let listening = Listening::start();
    let recording = agent
        .record(python::interpreter())
        .option("-v")
        .arg(python::agent("plain_calls.py"))
        .args([&listening.socket(), "large"])
        .run()
        .succeeded();
    assert_eq!(listening.server.stop().len(), 1);
    assert_eq!(recording.telemetry.calls().count(), 0);
    for name in ["socket_calls", "sockets_ignored", "captured_bytes"] {
        assert_eq!(recording.counted(name), 0, "{name}");
    }
}

impl Listening {
    /// One call by plain_calls.py.
    fn plain_calls(self, agent: &Agent, what: &str) -> (Recording, Vec<Served>) {
        let record = agent.record(python::interpreter()).arg(python::agent("plain_calls.py"));
        let record = record.args([&self.socket(), what]);
        self.calls(record, 1)
    }
}

/// A program without a TLS library of its own at work.
fn row<'a>(program: &'a str, version: &'a str) -> Row<'a> {
    Row { program, version, file: None, library: None, protocol: "HTTP/1.1" }
}

fn truncated(span: &Span) -> bool {
    span.attributes.contains_key("agentsight.capture.truncated")
}
