//! The Model Context Protocol over standard input and output, by its official SDKs: seen where it is asked for, and nothing else
//! that goes through pipes is copied.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, Record, Recording};
use agentsight_e2e::coverage::Row;
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::{orphaned_programs, wait_until_only_these_are_left};
use agentsight_e2e::telemetry::Span;
use agentsight_e2e::{node, python};
use serde_json::json;

#[test]
fn requests_of_python_s_sdk_are_told_once_and_nothing_is_left_in_the_kernel() {
    let Some(agent) = Agent::or_skip() else { return };
    let before = orphaned_programs();
    let record = agent.record(python::frameworks()).arg(python::agent("mcp_tools.py")).arg("call-stdio");
    let recording = watched(record);
    assert_eq!(said(&recording), ["add fail", "false 42", "true"]);
    let spans = requests(&recording);
    let add = the(&spans, "tools/call add");
    is_of_a_pipe(add);
    assert_eq!(add.json("gen_ai.tool.call.arguments"), Some(json!({"a": 40, "b": 2})));
    assert_eq!(add.json("gen_ai.tool.call.result"), Some(json!({"result": 42})));
    assert!(!the(&spans, "tools/list").failed && !add.failed);
    let fail = the(&spans, "tools/call fail");
    assert_eq!((fail.text("error.type"), fail.failed), (Some("tool_error"), true));
    assert_eq!(recording.counted("captured_bytes"), recording.counted("stdio_bytes"));
    let version = python::version(python::frameworks(), "mcp");
    row("mcp (Python)", &version).was_seen_to_say(&agent, "MCP (stdio)");
    wait_until_only_these_are_left(&before);
}

#[test]
fn requests_of_the_sdk_for_typescript_are_told_once() {
    let (Some(agent), Some(clients)) = (Agent::or_skip(), node::clients_or_skip()) else { return };
    let recording = watched(agent.record("node").arg(clients.program.with_file_name("mcp_stdio.mjs")));
    assert_eq!(said(&recording), [r#"["add","fail"]"#, "false 42", "3", "true"]);
    let spans = requests(&recording);
    the(&spans, "initialize");
    the(&spans, "tools/list");
    let adds: Vec<_> = spans.iter().filter(|span| span.name == "tools/call add").collect();
    let [first, second] = adds[..] else { panic!("{spans:#?}") };
    is_of_a_pipe(first);
    assert_eq!(first.json("gen_ai.tool.call.arguments"), Some(json!({"a": 40, "b": 2})));
    assert_eq!(first.json("gen_ai.tool.call.result"), Some(json!([{"type": "text", "text": "42"}])));
    let arguments = second.json("gen_ai.tool.call.arguments").unwrap();
    assert_eq!(arguments["text"].as_str().unwrap().len(), 1 << 20, "what is written in parts is told once");
    assert_eq!(second.json("gen_ai.tool.call.result"), Some(json!([{"type": "text", "text": "3"}])));
    assert_eq!(the(&spans, "tools/call fail").text("error.type"), Some("tool_error"));
    assert_eq!(recording.counted("captured_bytes"), recording.counted("stdio_bytes"));
    let version = clients.version("@modelcontextprotocol/sdk");
    row("@modelcontextprotocol/sdk (Node.js)", &version).was_seen_to_say(&agent, "MCP (stdio)");
}

#[test]
fn a_request_is_below_the_tool_call_of_the_model_that_it_serves() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start_plain();
    let record = agent
        .record(python::frameworks())
        .option("--plaintext")
        .arg(python::agent("mcp_tools.py"))
        .args(["agent".to_owned(), format!("{}/v1/chat/completions", server.base())]);
    let recording = watched(record);
    assert_eq!(server.stop().len(), 2);
    assert_eq!(said(&recording), ["Done. The tools say: 42"]);
    let spans = requests(&recording);
    let add = the(&spans, "tools/call add");
    let tool = recording.telemetry.spans.iter().find(|span| span.name == "execute_tool add").unwrap();
    assert_eq!((&add.trace_id, &add.parent_span_id), (&tool.trace_id, &tool.span_id));
    assert_eq!(tool.json("gen_ai.tool.call.arguments"), add.json("gen_ai.tool.call.arguments"));
}

#[test]
fn of_pipes_that_carry_something_else_not_a_byte_is_copied() {
    let Some(agent) = Agent::or_skip() else { return };
    let script = r#"
import json, subprocess, sys
# A child that speaks lines of JSON, and another protocol over JSON-RPC that has a method of that name.
child = "import sys\nfor line in sys.stdin: print('{\"result\": ' + line.strip() + '}', flush=True)"
worker = subprocess.Popen([sys.executable, "-c", child], stdin=-1, stdout=-1, text=True)
for number in range(100):
    for message in [{"n": number}, {"jsonrpc": "2.0", "id": number, "method": "textDocument/hover"}]:
        worker.stdin.write(json.dumps(message) + "\n")
        worker.stdin.flush()
        assert worker.stdout.readline()
worker.communicate()
assert subprocess.run("seq 100000 | tail -n 1", shell=True, capture_output=True).stdout == b"100000\n"
"#;
    let recording = watched(agent.record(python::interpreter()).args(["-c", script]));
    assert_eq!(requests(&recording).len(), 0);
    assert_eq!((recording.counted("stdio_bytes"), recording.counted("captured_bytes")), (0, 0));
    assert!(recording.counted("channels_ignored") >= 3, "{}", recording.log());
}

#[test]
fn not_a_byte_is_copied_where_nobody_asks() {
    let Some(agent) = Agent::or_skip() else { return };
    let recording = agent
        .record(python::frameworks())
        .option("-v")
        .arg(python::agent("mcp_tools.py"))
        .arg("call-stdio")
        .run()
        .succeeded();
    assert_eq!(requests(&recording).len(), 0);
    for name in ["stdio_bytes", "channels_ignored", "captured_bytes"] {
        assert_eq!(recording.counted(name), 0, "{name}");
    }
}

fn watched(record: Record<'_>) -> Recording {
    record.option("--mcp-stdio").option("--content").option("-v").run().succeeded()
}

fn said(recording: &Recording) -> Vec<String> {
    String::from_utf8_lossy(&recording.output.stdout).lines().map(str::to_owned).collect()
}

/// The spans of requests to servers of tools; each has its answer.
fn requests(recording: &Recording) -> Vec<&Span> {
    let spans = recording.telemetry.spans.iter();
    let spans: Vec<_> = spans.filter(|span| span.attributes.contains_key("mcp.method.name")).collect();
    let answered = |span: &&Span| !span.attributes.contains_key("agentsight.response.incomplete");
    assert!(spans.iter().all(answered), "{spans:#?}\n{}", recording.log());
    spans
}

/// The one of that name.
fn the<'a>(spans: &[&'a Span], name: &str) -> &'a Span {
    let named: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    let [span] = named[..] else { panic!("{name}: {} of {spans:#?}", named.len()) };
    span
}

fn is_of_a_pipe(span: &Span) {
    assert_eq!(span.kind, 3, "CLIENT");
    assert_eq!(span.text("network.transport"), Some("pipe"));
    assert_eq!(span.text("gen_ai.tool.name"), Some("add"));
    assert!(span.text("mcp.protocol.version").is_some() && span.text("jsonrpc.request.id").is_some());
    for absent in ["server.address", "network.protocol.name", "agentsight.capture.truncated"] {
        assert!(!span.attributes.contains_key(absent), "{span:#?}");
    }
}

fn row<'a>(program: &'a str, version: &'a str) -> Row<'a> {
    Row { program, version, file: None, library: None, protocol: "stdio" }
}
