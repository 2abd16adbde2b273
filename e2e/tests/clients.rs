//! The ways in which programs in several languages call models: each call is seen whole, and the table in
//! docs/coverage.md says so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, Record};
use agentsight_e2e::comparison::calls_are_what_was_served;
use agentsight_e2e::coverage::Row;
use agentsight_e2e::go::GoServer;
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::run;
use agentsight_e2e::{go, node, programs, python, real_agents};
use std::ffi::OsString;
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

/// CLIENT of go_sdks, its name, and its module.
const GO: [(&str, &str, &str); 2] = [
    ("openai", "openai-go", "github.com/openai/openai-go/v3"),
    ("anthropic", "anthropic-sdk-go", "github.com/anthropics/anthropic-sdk-go/v2"),
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

/// By their own clients.
#[test]
fn calls_of_debians_languages_are_seen_whole() {
    let Some(agent) = Agent::or_skip() else { return };
    let openssl = libssl(Path::new("curl"));
    let gnutls = programs::library_of(Path::new("/usr/bin/wget"), "libgnutls.so");
    for (program, run_time, arguments, file) in [
        ("Ruby, with net/http", "ruby", &["clients.rb", "BASE"][..], &openssl),
        ("PHP, with streams", "php", &["clients.php", "streams", "BASE", "CA"], &openssl),
        ("PHP, with curl", "php", &["clients.php", "curl", "BASE", "CA"], &openssl),
        ("Perl, with HTTP::Tiny", "perl", &["clients.pl", "BASE", "CA"], &openssl),
        ("libcurl with GnuTLS", "python3", &["clients.py", "libcurl-gnutls", "BASE", "CA"], &gnutls),
    ] {
        let server = ModelServer::start();
        let record = agent
            .record(run_time)
            .arg(python::agent(arguments[0]))
            .args(arguments[1..].iter().map(|argument| match *argument {
                "BASE" => server.base(),
                "CA" => server.ca().display().to_string(),
                other => other.to_owned(),
            }))
            .env("SSL_CERT_FILE", server.ca());
        let row = Row { program, version: "", file: Some(file), library: None, protocol: "HTTP/1.1" };
        are_seen(&agent, record, server, &row, 2);
    }
}

/// .NET Core 3.1 knows OpenSSL up to 1.1, by that name.
#[test]
fn calls_of_dot_net_are_seen_whole() {
    let Some(agent) = Agent::or_skip() else { return };
    let interpreter = python::frameworks();
    let openssl = programs::openssl_versions().join("1.1.1w/libssl.so").canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&openssl, folder.path().join("libssl.so.1.1")).unwrap();
    let server = ModelServer::start();
    let record = agent
        .record(interpreter)
        .arg(python::agent("clients.py"))
        .args(["dotnet".into(), server.base(), server.ca().display().to_string()])
        .env("LD_LIBRARY_PATH", std::env::join_paths([folder.path(), openssl.parent().unwrap()]).unwrap())
        .env("SSL_CERT_FILE", server.ca());
    let version = python::version(interpreter, "dotnetcore2");
    let row = Row {
        program: ".NET Core, with HttpClient",
        version: &version,
        file: Some(&openssl),
        library: None,
        protocol: "HTTP/1.1",
    };
    are_seen(&agent, record, server, &row, 2);
}

/// It has rustls, and speaks HTTP/2 where it is offered.
#[test]
fn calls_of_deno_are_seen_whole_by_both_protocols() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(clients) = node::clients_or_skip() else { return };
    let Some(deno) = real_agents::or_skip("deno", "2.9.6") else { return };
    let folder = tempfile::tempdir().unwrap();
    let front = folder.path().join("front");
    let Some(()) = go::build_or_skip(go::STRIPPED, &front) else { return };
    let record = |base: &str, ca: &Path| {
        agent
            .record(&deno)
            .args(["run", "--quiet", "--allow-all", "--no-config"])
            .arg(&clients.program)
            .args(["fetch", base])
            .env("DENO_CERT", ca)
            .env("DENO_NO_UPDATE_CHECK", "1")
    };
    let row = Row {
        program: "Deno, with fetch",
        version: "2.9.6",
        file: Some(&deno),
        library: Some("rustls"),
        protocol: "HTTP/1.1",
    };
    let server = ModelServer::start();
    are_seen(&agent, record(&server.base(), server.ca()), server, &row, 2);
    let server = ModelServer::start_plain();
    let front = GoServer::start_before(&server, &front);
    let row = Row { protocol: "HTTP/2", ..row };
    are_seen(&agent, record(&front.base(), &front.ca()), server, &row, 2);
}

#[test]
fn calls_of_curl_are_seen_whole_without_tls_and_by_both_protocols() {
    let Some(agent) = Agent::or_skip() else { return };
    let openssl = libssl(Path::new("curl"));
    let row = Row { program: "curl", version: "", file: Some(&openssl), library: None, protocol: "HTTP/1.1" };
    let record = |base: &str, trust: &[OsString]| {
        agent
            .record("curl")
            .args(["-sSf", "-H", "content-type: application/json"])
            .args(["-d", r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello"}]}"#])
            .arg(format!("{base}/v1/chat/completions"))
            .args(trust)
    };
    let server = ModelServer::start();
    are_seen(&agent, record(&server.base(), &server.trust("--cacert")), server, &row, 1);

    let folder = tempfile::tempdir().unwrap();
    let front = folder.path().join("front");
    let Some(()) = go::build_or_skip(go::STRIPPED, &front) else { return };
    let server = ModelServer::start_plain();
    let front = GoServer::start_before(&server, &front);
    let by_http2 = record(&front.base(), &["--cacert".into(), front.ca().into()]);
    are_seen(&agent, by_http2, server, &Row { protocol: "HTTP/2", ..row }, 1);

    let server = ModelServer::start_plain();
    let plain = record(&server.base(), &[]).option("--plaintext");
    are_seen(&agent, plain, server, &Row { program: "curl, without TLS", file: None, ..row }, 1);
}

#[test]
fn calls_of_the_sdks_for_go_are_seen_whole_by_both_protocols() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (program, front) = (folder.path().join("sdks"), folder.path().join("front"));
    let Some(()) = go::sdks_or_skip(&program) else { return };
    let Some(()) = go::build_or_skip(go::STRIPPED, &front) else { return };
    for (client, shown, module) in GO {
        let version = go::version_of(module);
        let row = Row {
            program: shown,
            version: &version,
            file: Some(&program),
            library: None,
            protocol: "HTTP/1.1",
        };
        let record =
            |base: &str, ca: &Path| agent.record(&program).args([client, base]).env("SSL_CERT_FILE", ca);
        let server = ModelServer::start();
        are_seen(&agent, record(&server.base(), server.ca()), server, &row, 4);
        let server = ModelServer::start_plain();
        let front = GoServer::start_before(&server, &front);
        let row = Row { protocol: "HTTP/2", ..row };
        are_seen(&agent, record(&front.base(), &front.ca()), server, &row, 4);
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
