//! Programs with GnuTLS.

use agentsight_e2e::agent::{Agent, Recording};
use agentsight_e2e::comparison::{attribute_differences, output_differences};
use agentsight_e2e::coverage::Row;
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::truth::Served;
use agentsight_e2e::{programs, python};
use std::path::Path;

#[test]
fn a_call_by_wget_is_seen_whole() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start();
    // More than a TLS record holds, in one call.
    let question = "word ".repeat(8000);
    let recording = agent
        .record("wget")
        .option("--content")
        .args(["--quiet", "--output-document=-", "--header=content-type: application/json"])
        .arg(format!("--ca-certificate={}", server.ca().display()))
        .arg(format!(
            r#"--post-data={{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"{question}"}}]}}"#
        ))
        .arg(format!("{}/v1/chat/completions", server.base()))
        .run()
        .succeeded();
    let (asked, served) = the_one_call_is_what_was_served(&recording, server);
    assert_eq!(asked, question);
    let library = programs::library_of(Path::new("/usr/bin/wget"), "libgnutls.so");
    let row = Row { program: "wget", version: "", file: Some(&library), library: None, protocol: "HTTP/1.1" };
    row.was_seen(&agent, &served);
}

#[test]
fn what_a_corked_session_sends_is_seen_once() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("gnutls_corked");
    programs::compile(&python::agent("gnutls_corked.c"), &program, &["-lgnutls".into()]);
    let recording = agent
        .record(program)
        .option("--content")
        .args([server.port().to_string(), server.ca().display().to_string()])
        .run()
        .succeeded();
    assert_eq!(the_one_call_is_what_was_served(&recording, server).0, "Corked");
}

/// Compares the call with what the server said, and gives the question, and what it said.
fn the_one_call_is_what_was_served(recording: &Recording, server: ModelServer) -> (String, Vec<Served>) {
    let served = server.stop();
    let calls: Vec<_> = recording.telemetry.calls().collect();
    let log = String::from_utf8_lossy(&recording.output.stderr);
    assert_eq!((calls.len(), served.len()), (1, 1), "{log}");
    let mut wrong = attribute_differences(&served[0], calls[0]);
    wrong.extend(output_differences(&served[0], calls[0]));
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(calls[0].text("agentsight.capture.truncated").is_none(), "{:#?}", calls[0]);
    let question = calls[0].json("gen_ai.input.messages").expect("--content was asked for");
    (question[0]["parts"][0]["content"].as_str().expect("a text").to_owned(), served)
}
