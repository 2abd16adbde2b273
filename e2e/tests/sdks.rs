//! The official SDKs of OpenAI and Anthropic: what they see, what the server said, and what a tracer makes of it.

use agentsight_e2e::agent::{Agent, clean_environment};
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
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("seen.jsonl");
    let recording =
        agent.record(python::interpreter()).option("--content").args(matrix(&server, &out)).run().succeeded();
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
    vec![
        python::agent("sdk_matrix.py").into(),
        "--base".into(),
        server.base().into(),
        "--ca".into(),
        server.ca().into(),
        "--out".into(),
        out.into(),
    ]
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

fn attribute_differences(served: &Served, span: &Span) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut compare = |name: &str, want: Value| {
        let got = span.attributes.get(name).cloned().unwrap_or_default();
        if got != want {
            wrong.push(format!("{name}: want {want}, got {got}"));
        }
    };
    let (operation, provider) = match served.api.as_str() {
        "completions" => ("text_completion", "openai"),
        "embeddings" => ("embeddings", "openai"),
        "messages" => ("chat", "anthropic"),
        _ => ("chat", "openai"),
    };
    let request = served.request.clone().unwrap_or_default();
    compare("gen_ai.operation.name", json!(operation));
    // A model that is none of OpenAI's may be told as its own provider's.
    if served.request_model.starts_with("gpt") || provider == "anthropic" {
        compare("gen_ai.provider.name", json!(provider));
    }
    compare("gen_ai.request.model", json!(served.request_model));
    compare("server.address", json!("localhost"));
    compare("gen_ai.request.stream", if request["stream"] == true { json!(true) } else { Value::Null });
    let limit = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
    compare(
        "gen_ai.request.max_tokens",
        limit.iter().map(|l| request[l].clone()).find(|v| !v.is_null()).unwrap_or_default(),
    );
    for name in ["temperature", "top_p", "frequency_penalty", "presence_penalty"] {
        compare(&format!("gen_ai.request.{name}"), request[name].clone());
    }
    if is_whole(served) {
        compare("gen_ai.response.id", json!(served.id));
        compare("gen_ai.response.model", json!(served.model));
        // A stream of Chat tells usage only when asked to.
        let told = !served.stream
            || served.api != "chat.completions"
            || request["stream_options"]["include_usage"] == true;
        if told {
            compare("gen_ai.usage.input_tokens", json!(served.input_tokens));
            compare("gen_ai.usage.output_tokens", json!(served.output_tokens));
        }
        let cached = served.cached_tokens.filter(|n| told && *n > 0);
        if cached.is_some() {
            compare("gen_ai.usage.cache_read.input_tokens", json!(cached));
        }
        let got = span.attributes.get("gen_ai.response.finish_reasons").cloned().unwrap_or(json!([]));
        let got: Vec<_> =
            got.as_array().into_iter().flatten().filter_map(Value::as_str).map(reason).collect();
        let mut want: Vec<_> = served.finish_reasons.iter().map(|r| reason(r)).collect();
        // Responses has one status for both; the conventions' reason is what it holds.
        if served.api == "responses" && served.choices.iter().any(|choice| !choice.tool_calls.is_empty()) {
            want = vec!["tool_call"];
        }
        if got != want {
            wrong.push(format!("finish reasons: want {want:?}, got {got:?}"));
        }
    }
    // From outside, a reset by the server and a client that has had enough look the same; both are told as incomplete.
    let reset = served.case.as_ref().is_some_and(|case| case.contains(".cut-reset."));
    let must_fail =
        served.status != 200 || served.error_type.is_some() || (served.outcome == Outcome::Cut && !reset);
    let free = reset || served.outcome == Outcome::ClientGone;
    if free && span.text("agentsight.response.incomplete").is_none() {
        wrong.push("a response without its end is not told as incomplete".to_owned());
    }
    if !free && !cancelled(served) && span.failed != must_fail {
        wrong.push(format!("failed: want {must_fail}, got {}", span.failed));
    }
    if must_fail {
        let status = served.status.to_string();
        let allowed = [served.error_code.as_deref(), served.error_type.as_deref(), Some(&status)];
        match span.text("error.type") {
            None => wrong.push("no error.type".to_owned()),
            Some(got) if served.outcome != Outcome::Cut && !allowed.contains(&Some(got)) => {
                wrong.push(format!("error.type: want one of {allowed:?}, got {got:?}"));
            }
            Some(_) => {}
        }
    }
    if span.kind != 3 {
        wrong.push(format!("kind {} is not CLIENT", span.kind));
    }
    if span.start == 0 || span.end < span.start {
        wrong.push(format!("from {} to {}", span.start, span.end));
    }
    wrong
}

/// Whether the client was sent all of an answer and wanted all of it.
fn is_whole(served: &Served) -> bool {
    let answered = served.status == 200 && served.error_type.is_none();
    answered && served.outcome == Outcome::Complete && !cancelled(served)
}

/// The client of these left in the middle; on a busy machine the server has written all before it hears of it.
fn cancelled(served: &Served) -> bool {
    served.case.as_ref().is_some_and(|case| case.contains(".cancelled."))
}

/// Vendors' words for the same end.
fn reason(word: &str) -> &str {
    match word {
        "end_turn" | "stop_sequence" | "completed" => "stop",
        "max_tokens" | "max_output_tokens" => "length",
        "tool_use" | "tool_calls" => "tool_call",
        "refusal" => "content_filter",
        other => other,
    }
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
    let output: Vec<ServedChoice> =
        span.json("gen_ai.output.messages").iter().flat_map(list).map(said).collect();
    let (got, want) = (comparable(&output), comparable(&served.choices));
    if got != want {
        wrong.push(format!("output: want {want}, got {got}"));
    }
    wrong
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
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

fn said(message: &Value) -> ServedChoice {
    let mut choice = ServedChoice::default();
    for part in list(&message["parts"]) {
        let text = part["content"].as_str().or_else(|| part["refusal"].as_str()).unwrap_or_default();
        match part["type"].as_str().unwrap_or_default() {
            "text" => choice.text.push_str(text),
            "refusal" => choice.refusal = Some(text.to_owned()),
            "reasoning" => choice.reasoning = Some(text.to_owned()),
            "tool_call" => choice.tool_calls.push(agentsight_e2e::truth::ServedCall {
                id: part["id"].as_str().unwrap_or_default().to_owned(),
                name: part["name"].as_str().unwrap_or_default().to_owned(),
                arguments: arguments(&part["arguments"]).to_string(),
            }),
            _ => {}
        }
    }
    choice
}

fn arguments(value: &Value) -> Value {
    match value {
        Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| value.clone()),
        other => other.clone(),
    }
}

/// Choices with a refusal as text, and arguments as JSON: where those stand differs from API to API.
fn comparable(choices: &[ServedChoice]) -> Value {
    choices
        .iter()
        .map(|choice| {
            let calls: Vec<_> = choice
                .tool_calls
                .iter()
                .map(|c| json!([c.id, c.name, arguments(&json!(c.arguments))]))
                .collect();
            let text = choice.refusal.as_deref().unwrap_or(&choice.text);
            json!({"text": text, "reasoning": choice.reasoning, "tool_calls": calls})
        })
        .collect()
}
