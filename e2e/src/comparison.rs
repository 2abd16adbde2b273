//! What a tracer saw, held against what the server said.

use crate::telemetry::{Span, Telemetry};
use crate::truth::{Outcome, Served, ServedCall, ServedChoice};
use serde_json::{Value, json};

/// Where a span's attributes differ from what the server answered.
pub fn attribute_differences(served: &Served, span: &Span) -> Vec<String> {
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
        "generateContent" => ("generate_content", "gcp.gemini"),
        _ => ("chat", "openai"),
    };
    let request = served.request.clone().unwrap_or_default();
    compare("gen_ai.operation.name", json!(operation));
    // A model that is none of OpenAI's may be told as its own provider's.
    if served.request_model.starts_with("gpt") || provider != "openai" {
        compare("gen_ai.provider.name", json!(provider));
    }
    compare("gen_ai.request.model", json!(served.request_model));
    compare("server.address", json!(served.socket.as_deref().unwrap_or("localhost")));
    compare("network.transport", json!(served.socket.as_ref().map(|_| "unix")));
    // Google's path says it, and its options stand apart.
    let google = served.api == "generateContent";
    let streams = if google { served.stream } else { request["stream"] == true };
    compare("gen_ai.request.stream", if streams { json!(true) } else { Value::Null });
    let options = if google { &request["generationConfig"] } else { &request };
    for (name, theirs) in [
        ("max_tokens", &["max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens"][..]),
        ("temperature", &["temperature"]),
        ("top_p", &["top_p", "topP"]),
        ("frequency_penalty", &["frequency_penalty", "frequencyPenalty"]),
        ("presence_penalty", &["presence_penalty", "presencePenalty"]),
    ] {
        let asked = theirs.iter().map(|name| &options[name]).find(|value| !value.is_null());
        let asked = asked.cloned().unwrap_or_default();
        // Clients write whole numbers without a point.
        let asked = asked.as_f64().filter(|_| name != "max_tokens").map_or(asked, |number| json!(number));
        compare(&format!("gen_ai.request.{name}"), asked);
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
        // Responses and Realtime have one status for both; the conventions' reason is what it holds.
        if matches!(served.api.as_str(), "responses" | "realtime")
            && served.choices.iter().any(|choice| !choice.tool_calls.is_empty())
        {
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

/// Where a span's output messages differ from what the server said.
pub fn output_differences(served: &Served, span: &Span) -> Vec<String> {
    let output: Vec<ServedChoice> =
        span.json("gen_ai.output.messages").iter().flat_map(list).map(said).collect();
    let (got, want) = (comparable(&output), comparable(&served.choices));
    if got == want { Vec::new() } else { vec![format!("output: want {want}, got {got}")] }
}

/// Compares each span with what the server said, and tells how many there are.
///
/// # Panics
/// One is missing, or differs.
pub fn calls_are_what_was_served(telemetry: &Telemetry, served: &[Served], who: &str, log: &str) -> usize {
    let mut served: Vec<_> = served.iter().filter(|served| is_call(served)).collect();
    let mut spans: Vec<_> = telemetry.calls().collect();
    served.sort_by_key(|served| served.id.as_deref());
    spans.sort_by_key(|span| span.text("gen_ai.response.id"));
    assert_eq!(spans.len(), served.len(), "{who}: spans and requests\n{log}");
    for (served, span) in served.iter().zip(&spans) {
        let mut wrong = attribute_differences(served, span);
        wrong.extend(output_differences(served, span));
        assert!(span.text("agentsight.capture.truncated").is_none(), "{who}: {:?}", span.attributes.keys());
        assert!(wrong.is_empty(), "{who}: {wrong:#?}");
    }
    spans.len()
}

/// Whether a model was asked; agents ask for lists of models, too, and for what is not there.
pub fn is_call(served: &Served) -> bool {
    matches!(served.api.as_str(), "messages" | "responses" | "chat.completions" | "generateContent")
}

/// Whether the client was sent all of an answer and wanted all of it.
pub fn is_whole(served: &Served) -> bool {
    let answered = served.status == 200 && served.error_type.is_none();
    answered && served.outcome == Outcome::Complete && !cancelled(served)
}

/// The client of these left in the middle; on a busy machine the server has written all before it hears of it.
pub fn cancelled(served: &Served) -> bool {
    served.case.as_ref().is_some_and(|case| case.contains(".cancelled."))
}

/// Choices with a refusal as text, and arguments as JSON: where those stand differs from API to API.
pub fn comparable(choices: &[ServedChoice]) -> Value {
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

/// A tool call's arguments as JSON.
pub fn arguments(value: &Value) -> Value {
    match value {
        Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| value.clone()),
        other => other.clone(),
    }
}

/// The items of an array; none of anything else.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Vendors' words for the same end.
fn reason(word: &str) -> &str {
    match word {
        "end_turn" | "stop_sequence" | "completed" | "STOP" => "stop",
        "max_tokens" | "max_output_tokens" | "MAX_TOKENS" => "length",
        "tool_use" | "tool_calls" => "tool_call",
        "refusal" | "SAFETY" => "content_filter",
        other => other,
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
            "tool_call" => choice.tool_calls.push(ServedCall {
                id: part["id"].as_str().unwrap_or_default().to_owned(),
                name: part["name"].as_str().unwrap_or_default().to_owned(),
                arguments: arguments(&part["arguments"]).to_string(),
            }),
            _ => {}
        }
    }
    choice
}
