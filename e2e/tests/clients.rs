//! The ways in which programs in several languages call models: each call is seen whole, and the table in
//! docs/coverage.md says so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, Record};
use agentsight_e2e::comparison::calls_are_what_was_served;
use agentsight_e2e::coverage::Row;
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::run;
use agentsight_e2e::{node, python, real_agents};
use std::path::{Path, PathBuf};
use std::process::Command;

/// CLIENT of clients.py, and the package that has its version.
const PYTHON: [(&str, &str); 8] = [
    ("requests", "requests"),
    ("urllib3", "urllib3"),
    ("httpx", "httpx"),
    ("aiohttp", "aiohttp"),
    ("google-genai", "google-genai"),
    ("langchain-openai", "langchain-openai"),
    ("langchain-anthropic", "langchain-anthropic"),
    ("litellm", "litellm"),
];

/// CLIENT of clients.mjs, and the package that has its version; `fetch` is the run-time's own.
const JAVASCRIPT: [(&str, Option<&str>); 5] = [
    ("fetch", None),
    ("openai", Some("openai")),
    ("anthropic", Some("@anthropic-ai/sdk")),
    ("ai", Some("ai")),
    ("google-genai", Some("@google/genai")),
];

#[test]
fn calls_of_python_s_clients_and_frameworks_are_seen_whole() {
    let Some(agent) = Agent::or_skip() else { return };
    let interpreter = python::frameworks();
    let library = libssl(interpreter);
    for (client, package) in PYTHON {
        let server = ModelServer::start();
        let record = agent
            .record(interpreter)
            .arg(python::agent("clients.py"))
            .args([client.into(), server.base(), server.ca().display().to_string()])
            .env("SSL_CERT_FILE", server.ca())
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
        let program = format!("{client} (Python)");
        let version = python::version(interpreter, package);
        let row = Row {
            program: &program,
            version: &version,
            file: Some(&library),
            library: None,
            protocol: "HTTP/1.1",
        };
        are_seen(&agent, record, server, &row, 2);
    }
}

#[test]
fn calls_of_javascript_s_clients_are_seen_whole_by_each_run_time() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(clients) = node::clients_or_skip() else { return };
    // What they do differs with the client, and what they do it with by the run-time: all of either once.
    let newest = real_agents::or_skip("node", "24.22.3");
    for (client, package) in JAVASCRIPT {
        let Some(node) = &newest else { return };
        let version = package.map_or_else(String::new, |package| clients.version(package));
        is_seen_by(&agent, node, &clients.program, client, &format!("{client} (Node.js 24)"), &version);
    }
    for (name, shown, version, client) in [
        ("node", "Node.js", "18.20.8", "anthropic"),
        ("node", "Node.js", "22.23.5", "anthropic"),
        ("bun", "Bun", "1.2.23", "openai"),
        ("bun", "Bun", "1.4.5", "openai"),
    ] {
        let Some(run_time) = real_agents::or_skip(name, version) else { return };
        is_seen_by(&agent, &run_time, &clients.program, client, &format!("{shown}, with {client}"), version);
    }
}

fn is_seen_by(agent: &Agent, run_time: &Path, clients: &Path, client: &str, program: &str, version: &str) {
    let server = ModelServer::start();
    let record = agent
        .record(run_time)
        .arg(clients)
        .args([client.into(), server.base()])
        .env("NODE_EXTRA_CA_CERTS", server.ca());
    let row = Row { program, version, file: Some(run_time), library: None, protocol: "HTTP/1.1" };
    are_seen(agent, record, server, &row, 2);
}

#[test]
fn calls_of_curl_are_seen_whole() {
    let Some(agent) = Agent::or_skip() else { return };
    for server in [ModelServer::start(), ModelServer::start_plain()] {
        let tls = server.base().starts_with("https");
        let record = agent.record("curl");
        let record = if tls { record } else { record.option("--plaintext") };
        let record = record
            .args(["-sSf", "-H", "content-type: application/json"])
            .args(["-d", r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello"}]}"#])
            .arg(format!("{}/v1/chat/completions", server.base()))
            .args(server.trust("--cacert"));
        let library = libssl(Path::new("curl"));
        let row = Row {
            program: if tls { "curl" } else { "curl, without TLS" },
            version: "",
            file: tls.then_some(library.as_path()),
            library: None,
            protocol: "HTTP/1.1",
        };
        are_seen(&agent, record, server, &row, 1);
    }
}

/// Runs a program, and compares all of its calls, at least so many, with what the server said.
fn are_seen(agent: &Agent, record: Record<'_>, server: ModelServer, row: &Row<'_>, least: usize) {
    let recording = record.option("--content").run().succeeded();
    let served = server.stop();
    let log = String::from_utf8_lossy(&recording.output.stderr);
    let calls = calls_are_what_was_served(&recording.telemetry, &served, row.program, &log);
    assert!(calls >= least, "{}: {calls} calls\n{log}", row.program);
    row.was_seen(agent, &served);
}

/// The OpenSSL that a program has loaded, or will load.
fn libssl(program: &Path) -> PathBuf {
    let script = r#"
        case $1 in
            *python*) "$1" -c 'import ssl; print(open("/proc/self/maps").read())' | grep -o '/.*libssl.*' ;;
            *) ldd "$(command -v "$1")" | grep -o '/.*libssl[^ ]*' ;;
        esac | head -n 1"#;
    let output = run(Command::new("sh").args(["-c", script, "sh"]).arg(program));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
