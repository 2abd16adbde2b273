//! Every version of OpenSSL that can be had here, each with its own shape of the functions that are probed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::Agent;
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::run;
use agentsight_e2e::programs;
use agentsight_e2e::python;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

#[test]
fn a_call_through_each_version_is_seen_whole_and_the_program_is_untouched() {
    let Some(agent) = Agent::or_skip() else { return };
    if !cfg!(target_arch = "x86_64") {
        eprintln!("skipped: these libraries are x86-64");
        return;
    }
    let server = ModelServer::start();
    let versions = versions();
    assert!(versions.len() > 5, "{versions:?}");
    for folder in &versions {
        let version = folder.file_name().unwrap().to_string_lossy();
        let built = tempfile::tempdir().unwrap();
        let libraries = ["libssl.so", "libcrypto.so"].map(|name| folder.join(name).canonicalize().unwrap());
        let search = libraries[0].parent().unwrap();
        let linked: Vec<OsString> = ["-Wl,--allow-shlib-undefined".into()]
            .into_iter()
            .chain(libraries.iter().map(|library| library.clone().into_os_string()))
            .collect();
        let compile = |name: &str| {
            let program = built.path().join(name);
            programs::compile(&python::agent(&format!("{name}.c")), &program, &linked);
            program
        };

        let recording = agent
            .record(compile("tls_once"))
            .option("--content")
            .option("-v")
            .args([server.port().to_string(), server.ca().display().to_string(), version.to_string()])
            .env("LD_LIBRARY_PATH", search)
            .run()
            .succeeded();
        let calls: Vec<_> = recording.telemetry.calls().collect();
        let log = String::from_utf8_lossy(&recording.output.stderr).into_owned();
        assert_eq!(calls.len(), 1, "OpenSSL {version}:\n{log}");
        let answer = calls[0].json("gen_ai.output.messages").expect("--content was asked for");
        assert!(
            answer[0]["parts"][0]["content"].as_str().is_some_and(|text| text.contains("One call")),
            "{answer}"
        );
        assert!(calls[0].number("gen_ai.usage.output_tokens").is_some(), "OpenSSL {version}");
        eprintln!("{log}");

        let record = agent.record(compile("untouched")).env("LD_LIBRARY_PATH", search);
        let output = run(record.command().stdin(lines(built.path())).stdout(Stdio::piped()));
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "OpenSSL {version}: {}\n{log}", output.status);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "right\n", "OpenSSL {version}");
    }
    assert_eq!(server.stop().len(), versions.len());
}

#[test]
fn a_request_in_early_data_is_part_of_its_call() {
    let Some(agent) = Agent::or_skip() else { return };
    let program = programs::compiled(Path::new(env!("CARGO_TARGET_TMPDIR")), "early_data");
    let recording = agent.record(program).option("--content").run().succeeded();
    let calls: Vec<_> = recording.telemetry.calls().collect();
    assert_eq!(calls.len(), 1, "of both ends, the client's is the call: {calls:#?}");
    assert_eq!(calls[0].text("gen_ai.response.id"), Some("chatcmpl-early"));
    let question = calls[0].json("gen_ai.input.messages").expect("--content was asked for");
    assert_eq!(question[0]["parts"][0]["content"], "Are you up?");
}

/// One line for the program to read.
fn lines(folder: &Path) -> std::fs::File {
    let path = folder.join("lines");
    std::fs::write(&path, "check\n").unwrap();
    std::fs::File::open(path).unwrap()
}

fn versions() -> Vec<PathBuf> {
    let mut versions: Vec<_> = std::fs::read_dir(programs::openssl_versions())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    versions.sort();
    versions
}
