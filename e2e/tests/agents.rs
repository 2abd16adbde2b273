//! Real agents, as people run them, with the model server in the place of their provider.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, Record, clean_environment};
use agentsight_e2e::comparison::calls_are_what_was_served;
use agentsight_e2e::coverage::Row;
use agentsight_e2e::host::Host;
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::{Process, run};
use agentsight_e2e::real_agents;
use agentsight_e2e::telemetry::Telemetry;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// One release for each way in which Bun was compiled: segments, calling forms and places differ.
#[test]
fn claude_code_with_a_tool_call_is_seen_whole_in_each_release() {
    let Some(agent) = Agent::or_skip() else { return };
    for version in ["2.1.119", "2.1.224", "2.1.332"] {
        let Some(program) = real_agents::or_skip("claude", version) else { return };
        let server = ModelServer::start();
        let record = agent
            .record(&program)
            .option("--content")
            .args(["-p", "--dangerously-skip-permissions", "--tools=Bash"])
            .arg(r#"Please use Bash {"command":"echo agentsight-$((40+2))","description":"say"}"#)
            .env("TERM", "dumb")
            .env("IS_SANDBOX", "1")
            .env("ANTHROPIC_API_KEY", "sk-ant-test-0123456789")
            .env("ANTHROPIC_BASE_URL", server.base())
            .env("NODE_EXTRA_CA_CERTS", server.ca())
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .env("DISABLE_AUTOUPDATER", "1");
        let recording = only_on_loopback(record).run().succeeded();
        let said = String::from_utf8_lossy(&recording.output.stdout);
        assert!(said.contains("agentsight-42"), "Claude Code {version}: {said}");
        let log = String::from_utf8_lossy(&recording.output.stderr);
        let who = format!("Claude Code {version}");
        let served = server.stop();
        let calls = calls_are_what_was_served(&recording.telemetry, &served, &who, &log);
        assert!(calls >= 2, "Claude Code {version}: a call before and one after the tool, not {calls}");
        row("Claude Code", version, &program).was_seen(&agent, &served);
    }
}

/// The other program that many people run and that Bun compiled; an early, a middle and a late release.
#[test]
fn opencode_with_a_tool_call_is_seen_whole_in_each_release() {
    let Some(agent) = Agent::or_skip() else { return };
    for version in ["1.3.0", "1.14.34", "1.18.33"] {
        let Some(program) = real_agents::or_skip("opencode", version) else { return };
        let who = format!("opencode {version}");
        let server = ModelServer::start();
        let record = agent.record(&program).option("--content").args(OPENCODE);
        let record =
            opencode(&server).into_iter().fold(record, |record, (name, value)| record.env(name, value));
        let recording = only_on_loopback(record).run().succeeded();
        let log = String::from_utf8_lossy(&recording.output.stderr);
        let served = server.stop();
        assert!(served.iter().any(|served| served.finish_reasons == ["tool_use"]), "{who}: {served:#?}");
        let calls = calls_are_what_was_served(&recording.telemetry, &served, &who, &log);
        assert!(calls >= 2, "{who}: a call before and one after the tool, not {calls}");
        row("opencode", version, &program).was_seen(&agent, &served);
    }
}

/// The drill for the day on which a new build is shaped otherwise: one reason that `SSL_write` reports is another, so that
/// no function fits any more. It is told as such while the program runs, and the program does its work unseen.
#[test]
fn a_build_that_no_pattern_fits_is_reported_and_left_alone() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(program) = real_agents::or_skip("opencode", "1.3.0") else { return };
    let server = ModelServer::start();
    let folder = tempfile::tempdir().unwrap();
    let build = folder.path().join("the-next-build");
    let mut bytes = std::fs::read(&program).unwrap();
    let known = checked(&agent, &program).1;
    let probes = known["files"][0]["probes"].as_array().unwrap();
    let write = probes.iter().find(|probe| probe["program"] == "write_int").unwrap();
    let write = usize::try_from(write["offset"].as_u64().unwrap()).unwrap();
    // SSL_R_BAD_LENGTH of BoringSSL's ssl.h, as the operand of an instruction: it is told with an error that does not occur.
    let reason = 215_u32.to_le_bytes();
    let at = bytes[write..write + 8192].windows(4).position(|window| window == reason).unwrap();
    bytes[write + at] += 1;
    std::fs::write(&build, bytes).unwrap();
    std::fs::set_permissions(&build, Permissions::from_mode(0o755)).unwrap();

    let host = Host::start(&agent, "{matchLabels: {agentsight.dev/executable: the-next-build}}");
    let process = Process::spawn(
        Command::new(&build)
            .args(OPENCODE)
            .env_clear()
            .envs(clean_environment(folder.path()))
            .envs(opencode(&server))
            .envs(ON_LOOPBACK)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    // It has executed the program, and waits until that is told.
    process.signal(Signal::STOP);
    host.wait_for("agentsight_untraceable_processes{reason=\"UnknownShape\"} 1\n");
    let listed = run(Command::new(agent.program()).args(["processes", "--pid", &process.id().to_string()]));
    let listed = String::from_utf8_lossy(&listed.stdout);
    assert!(listed.contains("no    UnknownShape"), "{listed}");
    process.signal(Signal::CONT);
    assert!(process.wait().success());
    let served = server.stop();
    assert!(
        served.iter().any(|served| served.finish_reasons == ["tool_use"]),
        "it did its work: {served:#?}"
    );
    assert_eq!(host.stop().calls().count(), 0, "and nothing of it was seen");
}

const OPENCODE: [&str; 2] = ["run", "Please use bash now"];

/// What opencode is told by variables.
fn opencode(server: &ModelServer) -> [(&'static str, String); 6] {
    let options = json!({"baseURL": format!("{}/v1", server.base()), "apiKey": "sk-ant-test"});
    let configuration = json!({
        "autoupdate": false,
        "share": "disabled",
        "model": "anthropic/claude-sonnet-4-5",
        "provider": {"anthropic": {"options": options}},
    });
    [
        ("TERM", "dumb".into()),
        ("OPENCODE_CONFIG_CONTENT", configuration.to_string()),
        ("OPENCODE_DISABLE_AUTOUPDATE", "1".into()),
        ("OPENCODE_DISABLE_MODELS_FETCH", "1".into()),
        ("OPENCODE_DISABLE_DEFAULT_PLUGINS", "1".into()),
        ("NODE_EXTRA_CA_CERTS", server.ca().display().to_string()),
    ]
}

/// Whatever else an agent wants to fetch goes to a proxy that is not there.
const ON_LOOPBACK: [(&str, &str); 6] = {
    let nowhere = "http://127.0.0.1:1";
    let here = "localhost,127.0.0.1";
    [
        ("HTTP_PROXY", nowhere),
        ("HTTPS_PROXY", nowhere),
        ("http_proxy", nowhere),
        ("https_proxy", nowhere),
        ("NO_PROXY", here),
        ("no_proxy", here),
    ]
};

fn only_on_loopback(record: Record<'_>) -> Record<'_> {
    ON_LOOPBACK.into_iter().fold(record, |record, (name, value)| record.env(name, value))
}

/// A variable that names a certificate has Codex speak by rustls, and by HTTP/2 where the server offers it.
#[test]
fn codex_with_a_certificate_of_its_own_is_seen_whole_in_each_release() {
    let Some(agent) = Agent::or_skip() else { return };
    for version in ["0.130.0", "0.171.0"] {
        let Some(program) = real_agents::or_skip("codex", version) else { return };
        let who = format!("Codex {version}");
        let server = ModelServer::start();
        let folder = tempfile::tempdir().unwrap();
        let record = codex(agent.record(&program), &server, folder.path(), "supports_websockets = false");
        let recording = record.env("CODEX_CA_CERTIFICATE", server.ca()).run().succeeded();
        let said = String::from_utf8_lossy(&recording.output.stdout);
        let log = String::from_utf8_lossy(&recording.output.stderr);
        assert!(said.contains("agentsight-42"), "{who}: {said}\n{log}");
        let served = server.stop();
        let calls = calls_are_what_was_served(&recording.telemetry, &served, &who, &log);
        assert!(calls >= 2, "{who}: a call before and one after the tool, not {calls}");
        row("Codex, with a certificate of its own", version, &program).by("rustls").was_seen(&agent, &served);
    }
}

/// Codex trusts what the system trusts only where no variable names a certificate; then it speaks by the OpenSSL that is
/// linked into it, without symbols. So the system's bundle is another one, for it alone.
#[test]
fn codex_with_a_tool_call_over_http_is_seen_whole_in_each_release() {
    let Some(agent) = Agent::or_skip() else { return };
    for version in ["0.130.0", "0.171.0"] {
        let Some(program) = real_agents::or_skip("codex", version) else { return };
        let who = format!("Codex {version}");
        let server = ModelServer::start();
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("bundle.pem");
        std::fs::copy(SYSTEM_CERTIFICATES, &bundle).unwrap();
        let ca = std::fs::read(server.ca()).unwrap();
        std::fs::OpenOptions::new().append(true).open(&bundle).unwrap().write_all(&ca).unwrap();
        let record = codex(agent.record(&program), &server, folder.path(), "supports_websockets = false");
        let traced = record.command();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", r#"mount --bind "$0" "$1" && shift && exec "$@""#])
            .arg(&bundle)
            .arg(SYSTEM_CERTIFICATES)
            .arg(traced.get_program())
            .args(traced.get_args())
            .env_clear()
            .envs(traced.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::null());
        let output = run(&mut command);
        let said = String::from_utf8_lossy(&output.stdout);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{who}: {said}\n{log}");
        assert!(said.contains("agentsight-42"), "{who}: {said}\n{log}");
        let telemetry = Telemetry::read(&record.file()).unwrap();
        let served = server.stop();
        let calls = calls_are_what_was_served(&telemetry, &served, &who, &log);
        assert!(calls >= 2, "{who}: a call before and one after the tool, not {calls}");
        row("Codex, over HTTP", version, &program).was_seen(&agent, &served);
    }
}

/// It is a program of Node.js, and asks in several ways: for what is to be done next, and by whom.
#[test]
fn gemini_cli_with_a_tool_call_is_seen_whole() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(program) = real_agents::or_skip("gemini", "0.61.0") else { return };
    let Some(node) = real_agents::or_skip("node", "24.22.3") else { return };
    let server = ModelServer::start();
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".gemini")).unwrap();
    let settings = json!({
        "general": {"disableAutoUpdate": true},
        "privacy": {"usageStatisticsEnabled": false},
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "telemetry": {"enabled": false},
    });
    std::fs::write(home.path().join(".gemini/settings.json"), settings.to_string()).unwrap();
    let record = agent
        .record(&node)
        .option("--content")
        .arg(program)
        .args(["--model=gemini-2.5-flash", "--yolo", "--skip-trust", "--prompt"])
        .arg(r#"Please use run_shell_command {"command":"echo agentsight-\"\"42","description":"say"}"#)
        .env("HOME", home.path())
        .env("TERM", "dumb")
        .env("GEMINI_API_KEY", "test-0123456789")
        .env("GOOGLE_GEMINI_BASE_URL", server.base())
        .env("NODE_EXTRA_CA_CERTS", server.ca());
    let recording = only_on_loopback(record).run().succeeded();
    let said = String::from_utf8_lossy(&recording.output.stdout);
    assert!(said.contains("agentsight-42"), "{said}");
    let log = String::from_utf8_lossy(&recording.output.stderr);
    let served = server.stop();
    let calls = calls_are_what_was_served(&recording.telemetry, &served, "Gemini CLI", &log);
    assert!(calls >= 2, "a call before and one after the tool, not {calls}");
    row("Gemini CLI (Node.js 24)", "0.61.0", &node).was_seen(&agent, &served);
}

/// Its line in the table of docs/coverage.md.
fn row<'a>(program: &'a str, version: &'a str, file: &'a Path) -> Row<'a> {
    Row { program, version, file: Some(file), library: None, protocol: "HTTP/1.1" }
}

/// Codex and a tool, with more of its provider's configuration; its own is in `folder`.
fn codex<'a>(record: Record<'a>, server: &ModelServer, folder: &Path, provider: &str) -> Record<'a> {
    let configuration = format!(
        r#"model_provider = "mock"
model = "gpt-5"
check_for_update_on_startup = false
[analytics]
enabled = false
[model_providers.mock]
name = "mock"
base_url = "{}/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
{provider}
"#,
        server.base()
    );
    std::fs::write(folder.join("config.toml"), configuration).unwrap();
    let record = record
        .option("--content")
        .args(["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"])
        .arg(r#"Please use exec_command {"cmd":"echo agentsight-$((40+2))"}"#)
        .env("TERM", "dumb")
        .env("CODEX_HOME", folder)
        .env("OPENAI_API_KEY", "sk-test-0123456789");
    only_on_loopback(record)
}

/// As it speaks to OpenAI: over TLS it uses rustls for this. Without TLS, what it says stands in its sockets.
#[test]
fn codex_with_a_tool_call_over_a_websocket_is_seen_whole_in_each_release() {
    let Some(agent) = Agent::or_skip() else { return };
    for version in ["0.130.0", "0.171.0"] {
        let Some(program) = real_agents::or_skip("codex", version) else { return };
        for server in [ModelServer::start(), ModelServer::start_plain()] {
            over_a_websocket(&agent, version, &program, server);
        }
    }
}

fn over_a_websocket(agent: &Agent, version: &str, program: &Path, server: ModelServer) {
    let tls = server.base().starts_with("https");
    let who = format!("Codex {version}, {}", server.base());
    let folder = tempfile::tempdir().unwrap();
    let provider = r#"supports_websockets = true
http_headers = { "x-mock-deflate" = "takeover" }"#;
    let record = codex(agent.record(program), &server, folder.path(), provider);
    let record = match tls {
        true => record.env("CODEX_CA_CERTIFICATE", server.ca()),
        false => record.option("--plaintext"),
    };
    let recording = record.run().succeeded();
    let log = String::from_utf8_lossy(&recording.output.stderr);
    let said = String::from_utf8_lossy(&recording.output.stdout);
    assert!(said.contains("agentsight-42"), "{who}: {said}\n{log}");
    let served = server.stop();
    let in_messages = served.iter().filter_map(|served| served.request.as_ref());
    assert!(in_messages.clone().all(|request| request["type"] == "response.create"), "{who}: {served:#?}");
    let continued = in_messages.filter(|request| request["previous_response_id"].is_string()).count();
    assert!(continued >= 1, "{who}: {served:#?}");
    let calls = calls_are_what_was_served(&recording.telemetry, &served, &who, &log);
    assert!(calls >= 2, "{who}: a call before and one after the tool, not {calls}");
    let traces: HashSet<_> = recording.telemetry.calls().map(|call| &call.trace_id).collect();
    assert_eq!(traces.len(), 1, "{who}: it is one turn\n{log}");
    let row = Row { protocol: "WebSocket", ..row("Codex", version, program) };
    let row = if tls { row.by("rustls") } else { Row { program: "Codex, without TLS", file: None, ..row } };
    row.was_seen(agent, &served);
}

#[test]
fn what_would_be_seen_of_an_agent_is_told_without_running_it() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(claude) = real_agents::or_skip("claude", "2.1.332") else { return };
    let Some(codex) = real_agents::or_skip("codex", "0.171.0") else { return };
    let (status, claude) = checked(&agent, &claude);
    assert_eq!((status, &claude["seen"]), (Some(0), &json!("all")), "{claude:#}");
    let file = &claude["files"][0];
    assert_eq!((&file["library"], &file["foundBy"]), (&json!("boringssl"), &json!("errors")), "{claude:#}");
    // Offsets that were held against live connections; the program finds them anew.
    let places: Vec<_> = file["probes"].as_array().unwrap().iter().map(|probe| &probe["offset"]).collect();
    assert_eq!(places, [0x333_04b0, 0x333_04b0, 0x333_0300, 0x333_0300], "{claude:#}");
    let (status, codex) = checked(&agent, &codex);
    assert_eq!((status, &codex["seen"]), (Some(0), &json!("all")), "{codex:#}");
    let how = codex["files"].as_array().unwrap().iter().map(|file| json!([file["library"], file["foundBy"]]));
    let expected = [["openssl", "errors"], ["rustls", "errors"], ["rustls", "algorithms"]];
    assert_eq!(how.collect::<Vec<_>>(), expected.map(|how| json!(how)), "{codex:#}");
}

/// The exit code and the answer of `agentsight check PROGRAM`.
fn checked(agent: &Agent, program: &Path) -> (Option<i32>, Value) {
    let output = run(Command::new(agent.program()).args(["check", "-o", "json"]).arg(program));
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}
