//! Programs whose TLS is not seen: each is told of, with the reason.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, clean_environment};
use agentsight_e2e::comparison::calls_are_what_was_served;
use agentsight_e2e::coverage::Row;
use agentsight_e2e::host::Host;
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::{Process, run};
use agentsight_e2e::{programs, python};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn java_is_told_of_before_it_runs_while_it_runs_and_in_the_metrics() {
    let Some(agent) = Agent::or_skip() else { return };
    let report = checked(&agent, Path::new("java"));
    let file = &report["files"][0];
    assert_eq!((&report["seen"], &file["reason"]), (&json!("none"), &json!("JavaTls")), "{report:#}");
    assert!(file["path"].as_str().unwrap().ends_with("/libjvm.so"), "{report:#}");

    let folder = tempfile::tempdir().unwrap();
    let host = Host::start(&agent, "{matchLabels: {agentsight.dev/executable: java}}");
    let mut java = Process::spawn(
        Command::new("java")
            .arg(python::agent("Clients.java"))
            .env_clear()
            .envs(clean_environment(folder.path()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    );
    let mut said = BufReader::new(java.child().stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    host.wait_for("agentsight_untraceable_processes{reason=\"JavaTls\"} 1\n");
    let listed = run(Command::new(agent.program()).args(["processes", "--pid", &java.id().to_string()]));
    let listed = String::from_utf8_lossy(&listed.stdout);
    assert!(listed.contains("no    JavaTls") && listed.contains("libjvm.so"), "{listed}");
    writeln!(java.child().stdin.take().unwrap()).unwrap();
    drop(said);
    assert!(java.wait().success());
    assert_eq!(host.stop().calls().count(), 0);
}

#[test]
fn what_java_says_without_tls_is_seen_whole() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start_plain();
    // It begins when its input ends.
    let record = agent.record("java").option("--plaintext").option("--content").option("-v");
    let recording = record.arg(python::agent("Clients.java")).arg(server.base()).run().succeeded();
    let log = String::from_utf8_lossy(&recording.output.stderr);
    assert!(log.contains("JavaTls"), "{log}");
    let served = server.stop();
    assert_eq!(calls_are_what_was_served(&recording.telemetry, &served, "Java", &log), 2);
    let row = Row {
        program: "Java, with java.net.http, without TLS",
        version: "",
        file: None,
        library: None,
        protocol: "HTTP/1.1",
    };
    row.was_seen(&agent, &served);
}

#[test]
fn libraries_that_are_not_seen_are_named() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (function, libraries, reason) in [
        ("wolfSSL_Init", &["-lwolfssl"][..], "WolfSsl"),
        ("mbedtls_ssl_free", &["-lmbedtls", "-lmbedx509", "-lmbedcrypto"], "MbedTls"),
    ] {
        for how in ["-Wl,-Bdynamic", "-Wl,-Bstatic"] {
            let source = folder.path().join("program.c");
            let program = folder.path().join(format!("{reason}{how}"));
            std::fs::write(
                &source,
                format!("int {function}(void *); int main(void) {{ return {function}(0); }}\n"),
            )
            .unwrap();
            let arguments = [&["-Wl,--no-as-needed", how], libraries, &["-Wl,-Bdynamic", "-lm"]].concat();
            programs::compile(&source, &program, &arguments.into_iter().map(Into::into).collect::<Vec<_>>());
            let report = checked(&agent, &program);
            assert_eq!(
                (&report["seen"], &report["files"][0]["reason"]),
                (&json!("none"), &json!(reason)),
                "{report:#}"
            );
        }
    }
}

/// What `agentsight check PROGRAM` says.
fn checked(agent: &Agent, program: &Path) -> Value {
    let output = run(Command::new(agent.program()).args(["check", "-o", "json"]).arg(program));
    assert_eq!(output.status.code(), Some(1), "not all is seen");
    serde_json::from_slice(&output.stdout).unwrap()
}
