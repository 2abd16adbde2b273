//! Calls by gRPC, by the clients that people use: each span holds what the server says that it has to hold.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, Record, Recording};
use agentsight_e2e::certificates::{self, Files};
use agentsight_e2e::coverage::Row;
use agentsight_e2e::process::{PATIENCE, Process, run};
use agentsight_e2e::telemetry::Span;
use agentsight_e2e::{node, python, real_agents};
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use tempfile::TempDir;

/// CLIENT of grpc_calls.py, the package that has its version, how many calls it makes, and what it prints.
const CLIENTS: [(&str, &str, &str, usize, &[&str]); 2] = [
    (
        "google",
        "google-ai-generativelanguage",
        "Gemini GenerateContent, Gemini StreamGenerateContent",
        9,
        &[
            "said 17100",
            "streamed 17100",
            r#"asked for look {"deep": [1, 2.5, null, {"a": true}], "where": "here"}"#,
            "said It says {'seen': 3}.",
            "error RESOURCE_EXHAUSTED",
            "deadline DEADLINE_EXCEEDED",
            "breaks UNAVAILABLE",
            "embedded 768",
            "counted 7",
        ],
    ),
    (
        "xai",
        "xai-sdk",
        "xAI GetCompletion, xAI GetCompletionChunk",
        5,
        &[
            "said 17100",
            "streamed 17100",
            r#"asked for look {"where": "here"}"#,
            "said 17100",
            "error INVALID_ARGUMENT",
        ],
    ),
];

#[test]
fn calls_by_grpc_are_seen_whole_over_tls_and_without() {
    let Some(agent) = Agent::or_skip() else { return };
    for tls in [true, false] {
        for (client, package, formats, calls, printed) in CLIENTS {
            let server = Server::start(tls, None);
            let recording = server.calls(&agent, client, None).run().succeeded();
            let said = String::from_utf8_lossy(&recording.output.stdout);
            assert_eq!(said.lines().collect::<Vec<_>>(), printed, "{client}");
            are_what_was_served(&recording, &server.stop(), calls, client);

            let version = python::version(python::grpc(), package);
            let (module, program) = (module(), format!("{package} (Python)"));
            let without = format!("{program}, without TLS");
            let row = Row {
                program: if tls { &program } else { &without },
                version: &version,
                file: tls.then_some(module.as_path()),
                library: None,
                protocol: "gRPC",
            };
            row.was_seen_to_say(&agent, formats);
        }
    }
}

#[test]
fn calls_of_grpc_for_javascript_are_seen_whole_over_tls_and_without() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(clients) = node::grpc_or_skip() else { return };
    let Some(node) = real_agents::or_skip("node", "24.22.3") else { return };
    let version = clients.version("@grpc/grpc-js");
    for tls in [true, false] {
        let server = Server::start(tls, None);
        let record = agent.record(&node).arg(&clients.program);
        let recording = server.called(record, "localhost").run().succeeded();
        let said = String::from_utf8_lossy(&recording.output.stdout);
        let printed = ["said 17100", "streamed 17100", "error RESOURCE_EXHAUSTED"];
        assert_eq!(said.lines().collect::<Vec<_>>(), printed);
        are_what_was_served(&recording, &server.stop(), 3, "grpc-js");
        let row = Row {
            program: if tls {
                "@grpc/grpc-js (Node.js 24)"
            } else {
                "@grpc/grpc-js (Node.js 24), without TLS"
            },
            version: &version,
            file: tls.then_some(node.as_path()),
            library: None,
            protocol: "gRPC",
        };
        row.was_seen_to_say(&agent, "Gemini GenerateContent, Gemini StreamGenerateContent");
    }
}

#[test]
fn compressed_messages_are_read_too() {
    let Some(agent) = Agent::or_skip() else { return };
    for compression in ["gzip", "deflate"] {
        for (client, _, _, calls, _) in CLIENTS {
            let server = Server::start(true, Some(compression));
            let recording = server.calls(&agent, client, Some(compression)).run().succeeded();
            are_what_was_served(&recording, &server.stop(), calls, client);
        }
    }
}

#[test]
fn what_looks_like_a_call_is_named_and_what_does_not_is_let_go() {
    let Some(agent) = Agent::or_skip() else { return };
    // Its first call comes at once: nobody has time to look for the functions in gRPC's module then.
    for tls in [true, false] {
        let server = Server::start(tls, None);
        let recording = server.calls(&agent, "unknown", None).run().succeeded();
        assert_eq!(recording.telemetry.calls().count(), 0);
        let log = String::from_utf8_lossy(&recording.output.stderr);
        let named: Vec<_> = log.lines().filter(|line| line.contains("in no known format")).collect();
        assert_eq!(named.len(), 1, "{log}");
        assert!(named[0].contains("/inference.GRPCInferenceService/ModelInfer"), "{log}");
    }
}

/// Compares each span with what the server says of it, in the order of the calls.
fn are_what_was_served(recording: &Recording, served: &[Map<String, Value>], calls: usize, who: &str) {
    let mut spans: Vec<&Span> = recording.telemetry.calls().collect();
    spans.sort_by_key(|span| span.start);
    let log = String::from_utf8_lossy(&recording.output.stderr);
    assert_eq!((spans.len(), served.len()), (calls, calls), "{who}: spans and calls\n{log}");
    for (span, served) in spans.iter().zip(served) {
        for (name, want) in served {
            let got = match name.as_str() {
                "gen_ai.input.messages" | "gen_ai.output.messages" | "gen_ai.tool.definitions" => {
                    span.json(name)
                }
                name => span.attributes.get(name).cloned(),
            };
            assert_eq!(got.unwrap_or_default(), *want, "{who}: {name} of {}", span.name);
        }
        assert_eq!(
            span.failed,
            served.get("error.type").is_some_and(Value::is_string),
            "{who}: {}",
            span.name
        );
        assert_eq!((span.kind, span.text("server.address").is_some()), (3, true));
        assert_eq!(span.text("agentsight.capture.truncated"), None, "{who}: {}", span.name);
    }
}

/// The file in which gRPC for Python has its TLS.
fn module() -> PathBuf {
    let script = "from grpc._cython import cygrpc; print(cygrpc.__file__)";
    let output = run(Command::new(python::grpc()).args(["-c", script]));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// A server by gRPC's own library.
struct Server {
    process: Process,
    port: u16,
    tls: Option<Files>,
    folder: TempDir,
}

impl Server {
    fn start(tls: bool, compression: Option<&str>) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let tls = tls.then(|| certificates::files(folder.path()).unwrap());
        let mut command = Command::new(python::grpc());
        command.arg(python::agent("grpc_calls.py")).arg("serve").arg(folder.path().join("truth"));
        command.args(tls.iter().flat_map(|files| [&files.certificate, &files.key]));
        command.envs(compression.map(|compression| ("GRPC_CALLS_COMPRESSION", compression)));
        let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()));
        let stdout = process.child().stdout.take().expect("it was asked for");
        let (sender, line) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            drop(BufReader::new(stdout).read_line(&mut line));
            drop(sender.send(line));
        });
        let line = line.recv_timeout(PATIENCE).unwrap();
        let port = line.trim().parse().expect("it says where it listens");
        Server { process, port, tls, folder }
    }

    /// A client's calls, to be recorded.
    fn calls<'a>(&self, agent: &'a Agent, client: &str, compression: Option<&str>) -> Record<'a> {
        // xAI's SDK has no TLS to `localhost`.
        let host = if client == "xai" { "127.0.0.1" } else { "localhost" };
        let record = agent.record(python::grpc()).arg(python::agent("grpc_calls.py")).arg(client);
        let record = self.called(record, host);
        match compression {
            Some(compression) => record.env("GRPC_CALLS_COMPRESSION", compression),
            None => record,
        }
    }

    /// A program that is told where the server is.
    fn called<'a>(&self, record: Record<'a>, host: &str) -> Record<'a> {
        let record = record
            .option("--content")
            .arg(format!("{host}:{}", self.port))
            .args(self.tls.iter().map(|files| &files.ca));
        if self.tls.is_none() { record.option("--plaintext") } else { record }
    }

    /// What it says of each call.
    fn stop(self) -> Vec<Map<String, Value>> {
        drop(self.process);
        let truth = std::fs::read_to_string(self.folder.path().join("truth")).unwrap();
        truth.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
