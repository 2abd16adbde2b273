//! The official SDKs of OpenAI and Anthropic: what they see, what the server said, and what a tracer makes of it.

use agentsight_e2e::agent::{Agent, Record, clean_environment};
use agentsight_e2e::comparison::{
    arguments, attribute_differences, cancelled, comparable, is_whole, list, output_differences,
};
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::run;
use agentsight_e2e::python;
use agentsight_e2e::telemetry::{Span, Telemetry};
use agentsight_e2e::truth::{Outcome, Served, ServedChoice};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// What the SDK gave the program for one call (a line of sdk_matrix.py).
#[derive(Deserialize)]
struct Seen {
    case: String,
    trace_id: String,
    #[serde(default)]
    sent: Vec<Value>,
    id: Option<String>,
    model: Option<String>,
    finish_reasons: Option<Vec<String>>,
    choices: Option<Vec<ServedChoice>>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
    error: Option<Value>,
}

#[test]
fn the_sdks_see_exactly_what_the_server_says() {
    let server = ModelServer::start();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("seen.jsonl");
    let output = run(Command::new(python::interpreter())
        .args(matrix(&server, &out))
        .env_clear()
        .envs(clean_environment(folder.path())));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let truth = by_trace(server.stop());
    let seen = read(&out);
    assert!(seen.len() > 300, "only {} calls", seen.len());
    let mut wrong = Vec::new();
    for call in &seen {
        let tries = &truth[&call.trace_id];
        let served = tries.last().expect("no case without a request");
        if call.case.contains(".retried.") {
            assert_eq!(tries.len(), 3, "{}: two errors and an answer", call.case);
        }
        if call.error.is_some() || served.outcome != Outcome::Complete || cancelled(served) {
            continue;
        }
        let mut compare = |what: &str, seen: Value, served: Value| {
            if seen != served {
                wrong.push(format!("{} {what}: the SDK has {seen}, the server sent {served}", call.case));
            }
        };
        compare("id", json!(call.id), json!(served.id));
        if served.api != "models" {
            compare("model", json!(call.model), json!(served.model));
            compare("input tokens", json!(call.input_tokens), json!(served.input_tokens));
        }
        if let Some(choices) = &call.choices {
            compare("finish reasons", json!(call.finish_reasons), json!(served.finish_reasons));
            compare("choices", comparable(choices), comparable(&served.choices));
            compare("output tokens", json!(call.output_tokens), json!(served.output_tokens));
        }
        if call.reasoning_tokens.is_some() {
            compare("reasoning tokens", json!(call.reasoning_tokens), json!(served.reasoning_tokens));
            compare("cached tokens", json!(call.cached_tokens), json!(served.cached_tokens));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn spans_equal_what_the_sdks_sent_and_got() {
    spans_are_what_was_sent_and_got(ModelServer::start(), &[]);
}

#[test]
fn spans_without_tls_equal_what_the_sdks_sent_and_got() {
    spans_are_what_was_sent_and_got(ModelServer::start_plain(), &["--plaintext"]);
}

fn spans_are_what_was_sent_and_got(server: ModelServer, options: &[&str]) {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("seen.jsonl");
    let record = options.iter().fold(agent.record(python::interpreter()), Record::option);
    let recording = record.option("--content").args(matrix(&server, &out)).run().succeeded();
    let truth = by_trace(server.stop());
    let spans = spans_by_trace(&recording.telemetry);
    let mut wrong = Vec::new();
    for call in &read(&out) {
        let served = &truth[&call.trace_id];
        let spans = spans.get(&call.trace_id).map_or(&[][..], Vec::as_slice);
        // Counting tokens and listing models are no calls of a model.
        let calls: Vec<_> =
            served.iter().filter(|s| !matches!(s.api.as_str(), "models" | "messages.count_tokens")).collect();
        if spans.len() != calls.len() {
            wrong.push(format!("{}: {} requests, {} spans", call.case, calls.len(), spans.len()));
            continue;
        }
        for (served, span) in calls.iter().zip(spans) {
            let mut differences = attribute_differences(served, span);
            if is_whole(served) {
                differences.extend(content_differences(call, served, span));
            }
            wrong.extend(differences.into_iter().map(|d| format!("{}: {d:.600}", call.case)));
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn without_asking_no_text_of_a_prompt_or_answer_leaves() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("seen.jsonl");
    let recording = agent
        .record(python::interpreter())
        .args(matrix(&server, &out))
        .args(["--only", ".sync"])
        .run()
        .succeeded();
    server.stop();
    assert!(recording.telemetry.calls().count() > 100);
    let screen = String::from_utf8_lossy(&recording.output.stderr);
    let secrets = [
        "Hello there",
        "Be brief",
        "You said",
        "Zürich",
        "São Paulo",
        "sunny",
        "Describe Ada",
        "Hm. So.",
        "I consider what is known",
        "I cannot help",
        "sk-test-0123456789",
        "iVBORw0KGgo",
    ];
    for secret in secrets {
        assert!(!recording.telemetry.text.contains(secret), "{secret:?} is in the spans");
        assert!(!screen.contains(secret), "{secret:?} is on the terminal");
    }
}

fn matrix(server: &ModelServer, out: &Path) -> Vec<OsString> {
    let arguments: [OsString; 5] = [
        python::agent("sdk_matrix.py").into(),
        "--base".into(),
        server.base().into(),
        "--out".into(),
        out.into(),
    ];
    arguments.into_iter().chain(server.trust("--ca")).collect()
}

fn read(path: &Path) -> Vec<Seen> {
    let text = std::fs::read_to_string(path).expect("a file of sdk_matrix.py");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn by_trace(served: Vec<Served>) -> HashMap<String, Vec<Served>> {
    let mut by_trace: HashMap<_, Vec<_>> = HashMap::new();
    for served in served {
        by_trace.entry(served.trace_id.clone().unwrap_or_default()).or_default().push(served);
    }
    by_trace.values_mut().for_each(|tries| tries.sort_by_key(|served| served.sequence));
    by_trace
}

fn spans_by_trace(telemetry: &Telemetry) -> HashMap<String, Vec<&Span>> {
    let mut by_trace: HashMap<_, Vec<_>> = HashMap::new();
    for span in telemetry.calls() {
        by_trace.entry(span.trace_id.clone()).or_default().push(span);
    }
    by_trace.values_mut().for_each(|spans| spans.sort_by_key(|span| span.start));
    by_trace
}

fn content_differences(call: &Seen, served: &Served, span: &Span) -> Vec<String> {
    let mut wrong = Vec::new();
    if matches!(served.api.as_str(), "embeddings" | "completions") {
        return wrong;
    }
    let mut input = Vec::new();
    for part in span.json("gen_ai.system_instructions").iter().flat_map(list) {
        input.push(flat("system", part));
    }
    for message in span.json("gen_ai.input.messages").iter().flat_map(list) {
        let role = message["role"].as_str().unwrap_or_default();
        let role = if role == "developer" { "system" } else { role };
        input.extend(list(&message["parts"]).map(|part| flat(role, part)));
    }
    if json!(input) != json!(call.sent) {
        wrong.push(format!("input: want {}, got {}", json!(call.sent), json!(input)));
    }
    wrong.extend(output_differences(served, span));
    wrong
}

/// A part in the shape that sdk_matrix.py tells it.
fn flat(role: &str, part: &Value) -> Value {
    match part["type"].as_str().unwrap_or_default() {
        "text" => json!([role, "text", part["content"]]),
        "tool_call" => json!([role, "tool_call", part["name"], arguments(&part["arguments"]), part["id"]]),
        "tool_call_response" => json!(["tool", "tool_call_response", part["response"], part["id"]]),
        "blob" | "uri" | "file" => json!([role, "image"]),
        other => json!([role, other]),
    }
}
