//! Amazon Bedrock: `POST /model/{model}/converse`, `…/invoke` and their streaming forms.
//!
//! Converse has one format for all models. InvokeModel hands a body on in the format of the model's own vendor: that
//! of Anthropic's models is told by the model's name, Titan's too, the others' by their fields, which do not collide.

use super::answer::{self, Answer, Piece};
use super::{Format, Hints, anthropic, fields, history, openai, openai_chat};
use crate::call::{Failure, Message, Operation, Part, Request, RequestContent, Usage};
use crate::json::{Keep, Step};
use serde_json::{Value, json};

/// Converse, and InvokeModel of all models whose format is read by its fields.
pub(super) const FORMAT: Format = Format {
    operation: Operation::Chat,
    request_filter,
    response_filter,
    event_filter: response_filter,
    is_request,
    history: history::filter,
    request,
    whole: event,
    event,
};

/// InvokeModel of Titan's text models.
pub(super) const TITAN: Format =
    Format { operation: Operation::TextCompletion, history: history::none, ..FORMAT };

/// InvokeModel of models that make vectors.
pub(super) const EMBEDDINGS: Format = Format {
    operation: Operation::Embeddings,
    history: history::none,
    request_filter: embeddings_filter,
    response_filter: vectors_filter,
    ..FORMAT
};

/// InvokeModel of Anthropic's models.
pub(super) const ANTHROPIC: Format =
    Format { event_filter: anthropic_filter, is_request, event: anthropic_event, ..anthropic::FORMAT };

/// InvokeModel of models that speak OpenAI's Chat Completions.
pub(super) const CHAT_COMPLETIONS: Format = Format { is_request, ..openai_chat::FORMAT };

/// What Bedrock adds to the last event of a stream.
const METRICS: &str = "amazon-bedrock-invocationMetrics";

/// The path says that it is one, and names the model.
fn is_request(_: &Value, hints: &Hints) -> bool {
    hints.model_in_path
}

fn request_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["inferenceConfig" | "textGenerationConfig" | "guardrailConfig"] => Keep::Into,
        ["inferenceConfig" | "textGenerationConfig", _] => Keep::Into,
        ["inferenceConfig" | "textGenerationConfig", "stopSequences", "*"] => Keep::Into,
        ["guardrailConfig", "guardrailIdentifier"] => Keep::Into,
        ["max_tokens" | "max_gen_len" | "temperature" | "top_p" | "p" | "top_k" | "k" | "seed"] => Keep::Into,
        ["stop_sequences" | "stop"] | ["stop_sequences" | "stop", "*"] => Keep::Into,
        ["messages" | "message" | "prompt" | "inputText"] if !content => Keep::Kind,
        ["messages" | "message" | "prompt" | "inputText" | "system" | "preamble" | "toolConfig"] => Keep::All,
        ["chat_history" | "tools"] if content => Keep::All,
        _ => Keep::Nothing,
    }
}

fn response_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    let names = match names.as_slice() {
        // Nova's events have a member of the event's name around them.
        [event, rest @ ..] if EVENTS.contains(event) => rest,
        names => names,
    };
    match names {
        [] | ["output" | "usage" | METRICS] | ["output", "message"] | ["usage" | METRICS, _] => Keep::Into,
        ["stopReason" | "contentBlockIndex" | "role" | "type"] => Keep::Into,
        ["inputTextTokenCount" | "totalOutputTextTokenCount" | "completionReason"] => Keep::Into,
        ["prompt_token_count" | "generation_token_count" | "stop_reason" | "finish_reason"] => Keep::Into,
        ["results" | "outputs" | "generations"] | ["results" | "outputs" | "generations", "*"] => Keep::Into,
        ["results", "*", "tokenCount" | "completionReason"] => Keep::Into,
        ["outputs", "*", "stop_reason"] | ["generations", "*", "finish_reason"] => Keep::Into,
        ["results", "*", "outputText"] | ["outputs" | "generations", "*", "text"] if content => Keep::All,
        ["generation" | "text" | "outputText" | "message"] if content => Keep::All,
        ["output", "message", "content"] | ["delta" | "start"] if content => Keep::All,
        ["output", "message", "content"] | ["output", "message", "content", "*"] => Keep::Into,
        ["output", "message", "content", "*", "toolUse"] => Keep::All,
        ["start" | "delta"] => Keep::Into,
        ["start" | "delta", "toolUse"] => Keep::All,
        _ => Keep::Nothing,
    }
}

const EVENTS: &[&str] = &[
    "messageStart",
    "contentBlockStart",
    "contentBlockDelta",
    "contentBlockStop",
    "messageStop",
    "metadata",
];

fn request(body: &mut Value, content: bool) -> Request {
    let none = Value::Null;
    let config = body.get("inferenceConfig").or_else(|| body.get("textGenerationConfig")).unwrap_or(&none);
    let int = |names: &[&str]| {
        names.iter().find_map(|name| fields::int(config, name).or_else(|| fields::int(body, name)))
    };
    let float = |names: &[&str]| {
        names.iter().find_map(|name| fields::float(config, name).or_else(|| fields::float(body, name)))
    };
    let stops = [
        fields::texts(config, "stopSequences"),
        fields::texts(body, "stop_sequences"),
        fields::texts(body, "stop"),
    ];
    Request {
        max_tokens: int(&["maxTokens", "max_new_tokens", "maxTokenCount", "max_tokens", "max_gen_len"]),
        temperature: float(&["temperature"]),
        top_p: float(&["topP", "top_p", "p"]),
        top_k: float(&["topK", "top_k", "k"]),
        seed: int(&["seed"]),
        stop_sequences: stops.into_iter().find(|stops| !stops.is_empty()).unwrap_or_default(),
        guardrail_id: body
            .get("guardrailConfig")
            .and_then(|guard| fields::text(guard, "guardrailIdentifier")),
        content: content.then(|| request_content(body)),
        ..Request::default()
    }
}

fn request_content(body: &mut Value) -> RequestContent {
    let mut messages: Vec<Message> = fields::take_array(body, "messages").into_iter().map(message).collect();
    for mut said in fields::take_array(body, "chat_history") {
        let role = match fields::text(&said, "role").as_deref() {
            Some("CHATBOT") => "assistant",
            Some("SYSTEM") => "system",
            _ => "user",
        };
        messages.extend(one(role, fields::take(&mut said, "message")));
    }
    for key in ["prompt", "message", "inputText"] {
        messages.extend(one("user", fields::take(body, key)));
    }
    let system = fields::take(body, "system").or_else(|| fields::take(body, "preamble"));
    let mut tools = fields::take(body, "toolConfig")
        .map(|mut config| fields::take_array(&mut config, "tools"))
        .unwrap_or_default();
    tools = tools.into_iter().filter_map(tool).collect();
    RequestContent { system: blocks(system), messages, tools, truncated: false }
}

fn one(role: &str, text: Option<Value>) -> Option<Message> {
    let Value::String(text) = text? else { return None };
    Some(Message { role: role.to_owned(), name: None, parts: vec![Part::Text(text)] })
}

fn tool(mut tool: Value) -> Option<Value> {
    let mut spec = fields::take(&mut tool, "toolSpec")?;
    let mut definition = json!({"type": "function", "name": fields::text(&spec, "name")?});
    if let Some(description) = fields::take(&mut spec, "description") {
        definition["description"] = description;
    }
    if let Some(schema) = spec.get_mut("inputSchema").and_then(|schema| fields::take(schema, "json")) {
        definition["parameters"] = schema;
    }
    Some(definition)
}

fn message(mut item: Value) -> Message {
    let role = fields::text(&item, "role").unwrap_or_else(|| "user".to_owned());
    Message { role, name: None, parts: blocks(fields::take(&mut item, "content")) }
}

fn blocks(content: Option<Value>) -> Vec<Part> {
    match content {
        Some(Value::Array(blocks)) => blocks.into_iter().map(block).collect(),
        text => openai::parts(text),
    }
}

/// A content block of Converse.
fn block(mut block: Value) -> Part {
    if block.is_string() {
        return openai::parts(Some(Value::Array(vec![block]))).pop().unwrap_or(Part::Text(String::new()));
    }
    if let Some(text) = fields::take_text(&mut block, "text") {
        return Part::Text(text);
    }
    if let Some(mut call) = fields::take(&mut block, "toolUse") {
        return Part::ToolCall {
            id: fields::text(&call, "toolUseId"),
            name: fields::text(&call, "name").unwrap_or_default(),
            arguments: fields::take(&mut call, "input"),
        };
    }
    if let Some(mut result) = fields::take(&mut block, "toolResult") {
        let response = fields::take(&mut result, "content").unwrap_or_default();
        return Part::ToolCallResponse { id: fields::text(&result, "toolUseId"), response };
    }
    if let Some(mut reasoning) = fields::take(&mut block, "reasoningContent") {
        let text = reasoning.get_mut("reasoningText").and_then(|text| fields::take_text(text, "text"));
        return Part::Reasoning(text.unwrap_or_default());
    }
    for kind in ["image", "document", "video", "audio"] {
        if let Some(bytes) = block
            .get_mut(kind)
            .and_then(|data| data.get_mut("source"))
            .and_then(|source| fields::take_text(source, "bytes"))
        {
            let format = block.get(kind).and_then(|data| fields::text(data, "format"));
            let mime_type = format.filter(|_| kind != "document").map(|format| format!("{kind}/{format}"));
            return Part::Blob { modality: kind.to_owned(), mime_type, content: bytes };
        }
    }
    openai::other(block)
}

/// A whole response, or an event of a stream of any of the formats.
fn event(answer: &mut Answer, body: &mut Value) {
    if let Some(mut failure) = answer::failure(body, answer.wants_content()) {
        failure.kind = failure.kind.take().or_else(|| answer.error_name.take());
        answer.failure = Some(failure);
        return;
    }
    answer.one_message = true;
    let named = EVENTS.iter().find(|name| body.get(**name).is_some_and(Value::is_object));
    match named {
        Some(name) => {
            let mut inner = fields::take(body, name).unwrap_or_default();
            converse_event(answer, name, &mut inner);
        }
        None => response(answer, body),
    }
    metrics(answer, body);
}

/// Converse's events, and Nova's.
fn converse_event(answer: &mut Answer, name: &str, event: &mut Value) {
    answer.recognised = true;
    let index = fields::int(event, "contentBlockIndex").unwrap_or(0);
    match name {
        "contentBlockStart" => {
            if let Some(call) = event.get_mut("start").and_then(|start| fields::take(start, "toolUse")) {
                let name = fields::text(&call, "name").unwrap_or_default();
                let piece =
                    Piece::ToolCall { id: fields::text(&call, "toolUseId"), name, arguments: String::new() };
                answer.add(index, Some(0), piece);
            }
        }
        "contentBlockDelta" => {
            let Some(delta) = event.get("delta") else { return };
            if let Some(text) = delta.get("text").and_then(Value::as_str) {
                answer.append(index, Piece::Text, text);
            } else if let Some(text) = delta.pointer("/reasoningContent/text").and_then(Value::as_str) {
                answer.append(index, Piece::Reasoning, text);
            } else if let Some(input) = delta.pointer("/toolUse/input") {
                let json = input.is_object().then(|| input.to_string());
                answer.lengthen(index, 0, json.as_deref().or(input.as_str()).unwrap_or(""));
            }
        }
        "messageStop" => answer.finish_reason = fields::text(event, "stopReason"),
        "metadata" => {
            usage(answer, event);
            answer.done = true;
        }
        _ => {}
    }
}

/// One JSON text: Converse's, or that of a model's vendor.
fn response(answer: &mut Answer, body: &mut Value) {
    if let Some(mut message) = body.get_mut("output").and_then(|output| fields::take(output, "message")) {
        answer.recognised = true;
        for (index, block) in blocks(fields::take(&mut message, "content")).into_iter().enumerate() {
            answer.add(index as i64, Some(0), Piece::Whole(block));
        }
    }
    usage(answer, body);
    let int = |key: &str| fields::int(body, key);
    let tokens = &mut answer.response.usage;
    tokens.input = int("inputTextTokenCount").or_else(|| int("prompt_token_count")).or(tokens.input);
    tokens.output =
        int("totalOutputTextTokenCount").or_else(|| int("generation_token_count")).or(tokens.output);
    let reasons = ["stopReason", "completionReason", "stop_reason", "finish_reason"];
    let mut reason = reasons.into_iter().find_map(|key| fields::text(body, key));
    for key in ["generation", "text", "outputText"] {
        if let Some(text) = body.get(key).and_then(Value::as_str) {
            answer.recognised = true;
            answer.append(0, Piece::Text, text);
        }
    }
    for list in ["results", "outputs", "generations"] {
        for item in fields::take_array(body, list) {
            answer.recognised = true;
            for key in ["outputText", "text"] {
                answer.append(0, Piece::Text, item.get(key).and_then(Value::as_str).unwrap_or(""));
            }
            reason = reasons.into_iter().find_map(|key| fields::text(&item, key)).or(reason);
            let tokens = &mut answer.response.usage;
            tokens.output = fields::int(&item, "tokenCount").or(tokens.output);
        }
    }
    answer.recognised |= reason.is_some();
    answer.finish_reason = reason.or(answer.finish_reason.take());
}

/// Converse's kinds of input exclude each other, as Anthropic's; OpenTelemetry's total includes them.
fn usage(answer: &mut Answer, body: &Value) {
    let Some(usage) = body.get("usage").filter(|usage| usage.is_object()) else { return };
    let count = |keys: [&str; 2]| keys.into_iter().find_map(|key| fields::int(usage, key));
    let cache_read = count(["cacheReadInputTokens", "cacheReadInputTokenCount"]);
    let cache_write = count(["cacheWriteInputTokens", "cacheWriteInputTokenCount"]);
    let input = fields::int(usage, "inputTokens").map(|input| total(input, cache_read, cache_write));
    let output = fields::int(usage, "outputTokens");
    answer.response.usage = Usage { input, output, cache_read, cache_write, reasoning: None };
}

fn total(input: i64, cache_read: Option<i64>, cache_write: Option<i64>) -> i64 {
    [cache_read, cache_write].into_iter().flatten().fold(input, i64::saturating_add)
}

/// What was billed: it stands at the end of each stream of InvokeModel.
fn metrics(answer: &mut Answer, body: &Value) {
    let Some(metrics) = body.get(METRICS) else { return };
    let (read, write) =
        (fields::int(metrics, "cacheReadInputTokenCount"), fields::int(metrics, "cacheWriteInputTokenCount"));
    let tokens = &mut answer.response.usage;
    tokens.input =
        fields::int(metrics, "inputTokenCount").map(|input| total(input, read, write)).or(tokens.input);
    tokens.output = fields::int(metrics, "outputTokenCount").or(tokens.output);
    answer.done = true;
}

fn anthropic_filter(path: &[Step], content: bool) -> Keep {
    match path.first() {
        Some(first) if first.name() == METRICS => Keep::Into,
        _ => (anthropic::FORMAT.event_filter)(path, content),
    }
}

fn anthropic_event(answer: &mut Answer, body: &mut Value) {
    (anthropic::FORMAT.event)(answer, body);
    metrics(answer, body);
}

fn embeddings_filter(path: &[Step], _: bool) -> Keep {
    match path {
        [] => Keep::Into,
        [key] if key.name() == "dimensions" => Keep::Into,
        _ => Keep::Nothing,
    }
}

fn vectors_filter(path: &[Step], _: bool) -> Keep {
    match path {
        [] => Keep::Into,
        [key] if key.name() == "inputTextTokenCount" => Keep::Into,
        _ => Keep::Nothing,
    }
}

/// A message of an event stream: its name is the event's.
pub(super) fn named(name: Option<&str>, body: Value) -> Value {
    match name {
        Some(name) if EVENTS.contains(&name) => json!({ name: body }),
        _ => body,
    }
}

/// An error in a stream, or of a whole response: its name, and the provider's words where content is wanted.
pub(super) fn failure(name: Option<&str>, body: &Value, content: bool) -> Failure {
    let message = body.get("message").or_else(|| body.get("Message")).and_then(Value::as_str);
    let plain = |name: &&str| name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Failure {
        code: name.filter(plain).map(str::to_owned),
        kind: None,
        message: message.filter(|_| content).map(str::to_owned),
    }
}
