//! The Model Context Protocol over HTTP, by its official SDKs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, Record};
use agentsight_e2e::coverage::Row;
use agentsight_e2e::process::{PATIENCE, Process};
use agentsight_e2e::telemetry::Span;
use agentsight_e2e::{node, python, real_agents};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

/// Both official SDKs' clients, and both transports over HTTP: the newest, and the first.
#[test]
fn requests_to_a_server_of_tools_are_told_as_such() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(clients) = node::clients_or_skip() else { return };
    let Some(node) = real_agents::or_skip("node", "24.22.3") else { return };
    let program = python::agent("mcp_tools.py");
    let (_server, port) = serve(&program);
    for (path, transport) in [("mcp", "streamable HTTP"), ("sse", "HTTP with SSE")] {
        let url = format!("http://127.0.0.1:{port}/{path}");
        let record = agent.record(python::frameworks()).arg(&program).args(["call", &url]);
        let version = python::version(python::frameworks(), "mcp");
        requests_are_told(record, port);
        in_the_table(&agent, "mcp (Python)", &version, transport);

        let script = clients.program.with_file_name("mcp.mjs");
        let kind = if path == "sse" { "sse" } else { "http" };
        requests_are_told(agent.record(&node).arg(script).args([kind, &url]), port);
        let version = clients.version("@modelcontextprotocol/sdk");
        in_the_table(&agent, "modelcontextprotocol (Node.js 24)", &version, transport);
    }
}

/// The server, and where it listens.
fn serve(program: &Path) -> (Process, u16) {
    let mut server = Process::spawn(
        Command::new(python::frameworks())
            .arg(program)
            .arg("serve")
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    );
    let stdout = server.child().stdout.take().expect("it was asked for");
    let (sender, line) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        drop(BufReader::new(stdout).read_line(&mut line));
        drop(sender.send(line));
    });
    let port = line.recv_timeout(PATIENCE).unwrap().trim().parse().expect("it says where it listens");
    (server, port)
}

fn in_the_table(agent: &Agent, program: &str, version: &str, transport: &str) {
    let row = Row { program, version, file: None, library: None, protocol: "HTTP/1.1" };
    row.was_seen_to_say(agent, &format!("MCP ({transport})"));
}

fn requests_are_told(record: Record<'_>, port: u16) {
    let recording = record.option("--plaintext").option("--content").run().succeeded();
    let said = String::from_utf8_lossy(&recording.output.stdout);
    assert_eq!(said.lines().collect::<Vec<_>>(), ["add fail", "false 42", "true"]);

    let spans: Vec<_> = recording
        .telemetry
        .spans
        .iter()
        .filter(|span| span.attributes.contains_key("mcp.method.name"))
        .collect();
    let log = String::from_utf8_lossy(&recording.output.stderr);
    let named = |name: &str| -> &Span {
        let mut named = spans.iter().filter(|span| span.name == name);
        let found = named.next().unwrap_or_else(|| panic!("no {name} in {spans:#?}\n{log}"));
        assert!(named.next().is_none(), "{name} twice");
        found
    };
    assert!(!named("tools/list").failed);
    let add = named("tools/call add");
    assert_eq!(add.kind, 3, "CLIENT");
    assert_eq!(add.text("gen_ai.tool.name"), Some("add"));
    assert_eq!(add.json("gen_ai.tool.call.arguments"), Some(serde_json::json!({"a": 40, "b": 2})));
    assert_eq!(add.json("gen_ai.tool.call.result"), Some(serde_json::json!({"result": 42})));
    assert_eq!(
        (add.text("server.address"), add.number("server.port")),
        (Some("127.0.0.1"), Some(port.into()))
    );
    assert!(add.text("mcp.protocol.version").is_some(), "{add:#?}");
    assert!(add.text("jsonrpc.request.id").is_some(), "{add:#?}");
    assert!(!add.failed && add.start < add.end, "{add:#?}");
    let fail = named("tools/call fail");
    assert_eq!((fail.text("error.type"), fail.failed), (Some("tool_error"), true));
    assert!(spans.iter().all(|span| span.text("agentsight.response.incomplete").is_none()), "{spans:#?}");
}
