//! Recorded traffic of real providers, and what OpenTelemetry's own instrumentations say of it.
//!
//! The recordings are not part of this project: they are looked for in `$AGENTSIGHT_SHARED/oracle/cases`, or in
//! `../shared/oracle/cases` beside the checkout, and the test says so where they are not there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use agentsight_genai::call::Call;
use agentsight_genai::semconv::{self, Options};
use agentsight_genai::telemetry::{Span, Status, Value};
use base64::Engine as _;
use common::Exchange;
use serde_json::{Value as Json, json};
use std::path::PathBuf;

#[test]
fn recorded_traffic_gives_the_attributes_of_the_official_instrumentations() {
    let packages = ["openai-v2", "anthropic", "google-genai", "vertexai", "botocore"];
    let cases = packages.map(|package| shared().join("oracle/cases").join(package));
    if !cases.iter().all(|folder| folder.is_dir()) {
        println!("skipped: no recordings in {} (set AGENTSIGHT_SHARED)", cases[0].display());
        return;
    }
    let mut wrong = Vec::new();
    let mut seen = 0;
    for folder in cases {
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            let case: Json = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            let exchanges = case["exchanges"].as_array().unwrap();
            for (exchange, expected) in exchanges.iter().zip(case["expected"].as_array().unwrap()) {
                for piece in [7, usize::MAX] {
                    seen += 1;
                    let call = recorded(exchange).call_over_http1(true, piece);
                    let found =
                        call.map_or_else(|| vec!["no call".to_owned()], |call| differences(&call, expected));
                    wrong.extend(
                        found.into_iter().map(|text| format!("{} by {piece}: {text}", exchange["id"])),
                    );
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {seen} readings:\n{}", wrong.len(), wrong.join("\n"));
    println!("{seen} readings are as expected");
}

fn shared() -> PathBuf {
    std::env::var_os("AGENTSIGHT_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")), PathBuf::from)
}

fn recorded(exchange: &Json) -> Exchange {
    let headers = |side: &Json| {
        let fields = side.as_array().unwrap().iter();
        fields.map(|field| (text(&field[0]), text(&field[1]))).collect::<Vec<_>>()
    };
    Exchange {
        path: text(&exchange["path"]).split('?').next().unwrap().to_owned(),
        host: text(&exchange["host"]),
        request_headers: headers(&exchange["request_headers"]),
        request: bytes(&exchange["request_body"]),
        status: u16::try_from(exchange["status"].as_u64().unwrap()).unwrap(),
        response_headers: headers(&exchange["response_headers"]),
        response: bytes(&exchange["response_body"]),
        ..Exchange::default()
    }
}

fn bytes(body: &Json) -> Vec<u8> {
    match body["base64"].as_str() {
        Some(coded) => base64::engine::general_purpose::STANDARD.decode(coded).unwrap(),
        None => text(&body["text"]).into_bytes(),
    }
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What is wrong with the span, by the rules of the recordings' own comparison.
fn differences(call: &Call, expected: &Json) -> Vec<String> {
    let span = semconv::span(call, &Options { content: true, ..Options::default() });
    let mut wrong = Vec::new();
    let failed = matches!(span.status, Status::Error(_));
    if expected["error"] != failed || failed != attribute(&span, "error.type").is_some() {
        wrong.push(format!("status {:?}", span.status));
    }
    let wanted = expected["attributes"].as_object().unwrap();
    for (key, want) in wanted {
        let got = attribute(&span, key);
        let (want, got) = match key.as_str() {
            "gen_ai.input.messages" | "gen_ai.system_instructions" => continue,
            "gen_ai.output.messages" => (messages(want, "?"), messages(&parsed(got), "?")),
            "gen_ai.tool.definitions" => (names(want), names(&parsed(got))),
            "gen_ai.response.finish_reasons" => (reasons(want), reasons(&got.unwrap_or(Json::Null))),
            _ => (number(want.clone()), number(got.unwrap_or(Json::Null))),
        };
        if want != got && !nearly(&want, &got) && without_ids(&want) != without_ids(&got) {
            wrong.push(format!("{key}: want {want} got {got}"));
        }
    }
    let conversation = |system: &Json, input: &Json| {
        let mut all = messages(&json!([{"parts": system}]), "system");
        all.as_array_mut().unwrap().extend(messages(input, "?").as_array().unwrap().clone());
        all
    };
    if let Some(input) = wanted.get("gen_ai.input.messages") {
        let want = conversation(wanted.get("gen_ai.system_instructions").unwrap_or(&Json::Null), input);
        let got = conversation(
            &parsed(attribute(&span, "gen_ai.system_instructions")),
            &parsed(attribute(&span, "gen_ai.input.messages")),
        );
        if want != got && without_ids(&want) != without_ids(&got) {
            wrong.push(format!("input: want {want} got {got}"));
        }
    }
    wrong
}

fn attribute(span: &Span, key: &str) -> Option<Json> {
    let value = &span.attributes.iter().find(|(own, _)| own == key)?.1;
    Some(match value {
        Value::Str(text) => json!(text),
        Value::Int(int) => json!(int),
        Value::Double(double) => json!(double),
        Value::Bool(bool) => json!(bool),
        Value::Strs(texts) => json!(texts),
    })
}

fn parsed(attribute: Option<Json>) -> Json {
    attribute.map_or(Json::Null, |text| serde_json::from_str(text.as_str().unwrap()).unwrap())
}

/// Some SDKs keep parameters in single precision, and send them rounded.
fn nearly(want: &Json, got: &Json) -> bool {
    want.as_f64()
        .zip(got.as_f64())
        .is_some_and(|(want, got)| (want - got).abs() <= 1e-6 * want.abs().max(1.0))
}

/// 1 and 1.0 are the same.
fn number(value: Json) -> Json {
    value.as_f64().map_or(value, Json::from)
}

fn names(definitions: &Json) -> Json {
    let mut names: Vec<_> =
        definitions.as_array().into_iter().flatten().map(|tool| text(&tool["name"])).collect();
    names.sort();
    json!(names)
}

/// Vendors' words for the same end, folded.
fn reasons(reasons: &Json) -> Json {
    let fold = |reason: &Json| match reason.as_str().unwrap_or_default().to_lowercase().as_str() {
        "end_turn" | "stop_sequence" | "finish" | "complete" => json!("stop"),
        "max_tokens" | "max_output_tokens" => json!("length"),
        "tool_use" | "tool_calls" | "function_call" => json!("tool_call"),
        reason => json!(reason),
    };
    reasons.as_array().into_iter().flatten().map(fold).collect()
}

/// The instrumentations make ids up where the wire has none.
fn without_ids(messages: &Json) -> Json {
    let mut messages = messages.clone();
    for message in messages.as_array_mut().into_iter().flatten() {
        if let Some(part) = message.get_mut(1).and_then(Json::as_object_mut) {
            part.remove("id");
        }
    }
    messages
}

/// Messages as a flat list of role and part; tool results have the role `tool` whoever sends them.
fn messages(messages: &Json, role: &str) -> Json {
    let mut flat = Vec::new();
    for message in messages.as_array().into_iter().flatten() {
        let own = message["role"].as_str().unwrap_or(role);
        for part in message["parts"].as_array().into_iter().flatten() {
            let kind = part["type"].as_str().unwrap();
            let role = match own {
                _ if kind == "tool_call_response" => "tool",
                "model" => "assistant",
                own => own,
            };
            let mut part = part.clone();
            part.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            if part["content"] != "" {
                flat.push(json!([role, part]));
            }
        }
    }
    Json::Array(flat)
}
