//! The Model Context Protocol over HTTP, by its official SDK.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::Agent;
use agentsight_e2e::coverage::Row;
use agentsight_e2e::process::{PATIENCE, Process};
use agentsight_e2e::python;
use agentsight_e2e::telemetry::Span;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

#[test]
fn requests_to_a_server_of_tools_are_told_as_such() {
    let Some(agent) = Agent::or_skip() else { return };
    let program = python::agent("mcp_tools.py");
    let mut server = Process::spawn(
        Command::new(python::frameworks())
            .arg(&program)
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
    let port: u16 = line.recv_timeout(PATIENCE).unwrap().trim().parse().expect("it says where it listens");

    let recording = agent
        .record(python::frameworks())
        .option("--plaintext")
        .option("--content")
        .arg(program)
        .args(["call".to_owned(), format!("http://127.0.0.1:{port}/mcp")])
        .run()
        .succeeded();
    let said = String::from_utf8_lossy(&recording.output.stdout);
    assert_eq!(said.lines().collect::<Vec<_>>(), ["['add', 'fail']", "False 42", "True"]);

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
    assert!(
        add.text("mcp.protocol.version").is_some() && add.text("jsonrpc.request.id").is_some(),
        "{add:#?}"
    );
    assert!(!add.failed);
    let fail = named("tools/call fail");
    assert_eq!((fail.text("error.type"), fail.failed), (Some("tool_error"), true));

    let version = python::version(python::frameworks(), "mcp");
    let row =
        Row { program: "mcp (Python)", version: &version, file: None, library: None, protocol: "HTTP/1.1" };
    row.was_seen_to_say(&agent, "MCP (streamable HTTP)");
}
