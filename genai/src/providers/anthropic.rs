//! Anthropic's Messages (`POST …/messages`).

use super::answer::{self, Answer, Piece};
use super::openai::{self, joined_text};
use super::{Format, Hints, fields, history};
use crate::call::{Message, Operation, Part, Request, RequestContent};
use crate::json::{Keep, Step};
use serde_json::{Value, json};

pub(super) const FORMAT: Format = Format {
    operation: Operation::Chat,
    request_filter,
    response_filter,
    event_filter,
    is_request,
    history: history::filter,
    request,
    whole,
    event,
};

/// Chat applications have paths that end so, too; `max_tokens` is required by this API and by no other.
fn is_request(body: &Value, hints: &Hints) -> bool {
    body.get("messages").is_some_and(Value::is_array)
        && fields::text(body, "model").is_some()
        && (hints.anthropic || fields::int(body, "max_tokens").is_some())
}

fn request_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["model" | "stream" | "max_tokens" | "temperature" | "top_p" | "top_k"] => Keep::Into,
        ["stop_sequences" | "output_config" | "output_format"] | ["stop_sequences", "*"] => Keep::Into,
        ["output_config", "effort" | "format"] | ["output_config", "format", "type"] => Keep::Into,
        ["output_format", "type"] => Keep::Into,
        ["messages"] => {
            if content {
                Keep::All
            } else {
                Keep::Kind
            }
        }
        ["system" | "tools"] if content => Keep::All,
        _ => Keep::Nothing,
    }
}

fn response_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    keep_message(names.as_slice(), content)
}

fn keep_message(names: &[&str], content: bool) -> Keep {
    match names {
        [] | ["id" | "model" | "type" | "role" | "stop_reason" | "usage"] | ["usage", _] => Keep::Into,
        ["content"] if content => Keep::All,
        // Asking for a tool is no content; what it is called with is held to be joined, and not sent.
        ["content"] | ["content", "*"] => Keep::Into,
        ["content", "*", rest @ ..] => keep_tool_use(rest),
        ["error", rest @ ..] => openai::keep_error(rest, content),
        _ => Keep::Nothing,
    }
}

/// What is kept of a content block while content is off.
fn keep_tool_use(names: &[&str]) -> Keep {
    match names {
        [] | ["type" | "id" | "name"] => Keep::Into,
        ["input"] => Keep::All,
        _ => Keep::Nothing,
    }
}

fn event_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["type" | "index" | "usage"] | ["usage", _] => Keep::Into,
        ["message", rest @ ..] => keep_message(rest, content),
        ["delta" | "content_block"] if content => Keep::All,
        ["content_block", rest @ ..] => keep_tool_use(rest),
        ["delta"] | ["delta", "stop_reason"] => Keep::Into,
        ["delta", "partial_json"] => Keep::All,
        ["error", rest @ ..] => openai::keep_error(rest, content),
        _ => Keep::Nothing,
    }
}

fn request(body: &mut Value, content: bool) -> Request {
    let config = body.get("output_config");
    let format = body.get("output_format").or_else(|| config?.get("format"));
    Request {
        model: fields::text(body, "model"),
        stream: body.get("stream") == Some(&Value::Bool(true)),
        max_tokens: fields::int(body, "max_tokens"),
        temperature: fields::float(body, "temperature"),
        top_p: fields::float(body, "top_p"),
        top_k: fields::float(body, "top_k"),
        stop_sequences: fields::texts(body, "stop_sequences"),
        output_type: openai::output_type(format),
        reasoning_level: config.and_then(|config| fields::text(config, "effort")),
        content: content.then(|| request_content(body)),
        ..Request::default()
    }
}

fn request_content(body: &mut Value) -> RequestContent {
    let message = |mut item: Value| Message {
        role: fields::text(&item, "role").unwrap_or_else(|| "user".to_owned()),
        name: None,
        parts: parts(fields::take(&mut item, "content")),
    };
    RequestContent {
        system: parts(fields::take(body, "system")),
        messages: fields::take_array(body, "messages").into_iter().map(message).collect(),
        tools: fields::take_array(body, "tools").into_iter().filter_map(tool).collect(),
        truncated: false,
    }
}

fn tool(mut tool: Value) -> Option<Value> {
    let name = fields::text(&tool, "name")?;
    let kind = match fields::text(&tool, "type") {
        // Tools of the client are `custom` here and functions in the convention.
        None => "function".to_owned(),
        Some(kind) if kind == "custom" => "function".to_owned(),
        Some(kind) => kind,
    };
    let mut definition = json!({"type": kind, "name": name});
    for (key, from) in [("description", "description"), ("parameters", "input_schema")] {
        if let Some(value) = fields::take(&mut tool, from) {
            definition[key] = value;
        }
    }
    Some(definition)
}

fn parts(content: Option<Value>) -> Vec<Part> {
    match content {
        Some(Value::Array(blocks)) => blocks.into_iter().map(part).collect(),
        text => openai::parts(text),
    }
}

/// A content block.
fn part(mut block: Value) -> Part {
    let kind = fields::text(&block, "type").unwrap_or_default();
    let id = fields::text(&block, "id");
    match kind.as_str() {
        "text" => match fields::take_text(&mut block, "text") {
            Some(text) => Part::Text(text),
            None => openai::other(block),
        },
        "thinking" => Part::Reasoning(fields::take_text(&mut block, "thinking").unwrap_or_default()),
        // Its data is encrypted: there was reasoning, and nobody may read it.
        "redacted_thinking" => Part::Reasoning(String::new()),
        "tool_use" => Part::ToolCall {
            id,
            name: fields::text(&block, "name").unwrap_or_default(),
            arguments: fields::take(&mut block, "input"),
        },
        "tool_result" => Part::ToolCallResponse {
            id: fields::text(&block, "tool_use_id"),
            response: openai::tool_response(fields::take(&mut block, "content")),
        },
        "image" => source("image", &mut block).unwrap_or_else(|| openai::other(block)),
        "document" => source("document", &mut block).unwrap_or_else(|| openai::other(block)),
        "server_tool_use" | "mcp_tool_use" => {
            let name = fields::text(&block, "name").unwrap_or_default();
            Part::ServerToolCall { id, name, call: block }
        }
        kind if kind.ends_with("_tool_result") => {
            Part::ServerToolCallResponse { id: fields::text(&block, "tool_use_id"), response: block }
        }
        _ => openai::other(block),
    }
}

/// An image's or a document's `source`.
fn source(modality: &str, block: &mut Value) -> Option<Part> {
    let source = block.get_mut("source")?;
    let modality = modality.to_owned();
    let mime_type = fields::text(source, "media_type");
    Some(match fields::text(source, "type")?.as_str() {
        "base64" => Part::Blob { modality, mime_type, content: fields::take_text(source, "data")? },
        "url" => Part::Uri { modality, mime_type, uri: fields::take_text(source, "url")? },
        "file" => Part::File { modality, mime_type, file_id: fields::text(source, "file_id")? },
        "text" => Part::Text(fields::take_text(source, "data")?),
        "content" => Part::Text(joined_text(fields::take(source, "content"))),
        _ => return None,
    })
}

/// A message as one JSON text.
fn whole(answer: &mut Answer, body: &mut Value) {
    answer.one_message = true;
    if let Some(failure) = answer::failure(body, answer.wants_content()) {
        answer.failure = Some(failure);
        return;
    }
    head(answer, body);
    for (index, block) in fields::take_array(body, "content").into_iter().enumerate() {
        answer.add(index as i64, Some(0), Piece::Whole(part(block)));
    }
}

fn head(answer: &mut Answer, message: &Value) {
    answer.recognised |= message.get("type").is_some_and(|kind| kind == "message");
    answer.head(message);
    // Anthropic's tier is no attribute of the convention.
    answer.response.service_tier = None;
    if let Some(reason) = fields::text(message, "stop_reason") {
        answer.finish_reason = Some(reason);
    }
    if let Some(new) = message.get("usage") {
        usage(answer, new);
    }
}

/// The latest count of each kind stands. Anthropic's kinds of input exclude each other; OpenTelemetry's total
/// includes them.
fn usage(answer: &mut Answer, new: &Value) {
    let counts = &mut answer.separate_usage;
    let latest = |slot: &mut Option<i64>, key: &str| *slot = fields::int(new, key).or(*slot);
    latest(&mut counts.input, "input_tokens");
    latest(&mut counts.output, "output_tokens");
    latest(&mut counts.cache_read, "cache_read_input_tokens");
    latest(&mut counts.cache_write, "cache_creation_input_tokens");
    let counts = *counts;
    let sum = [counts.input, counts.cache_read, counts.cache_write].into_iter().flatten();
    let total = sum.fold(0_i64, i64::saturating_add);
    answer.response.usage = crate::call::Usage { input: counts.input.map(|_| total), ..counts };
}

fn event(answer: &mut Answer, body: &mut Value) {
    answer.one_message = true;
    let index = fields::int(body, "index").unwrap_or(0);
    match fields::text(body, "type").unwrap_or_default().as_str() {
        "message_start" => whole(answer, &mut fields::take(body, "message").unwrap_or_default()),
        "content_block_start" => {
            if let Some(block) = fields::take(body, "content_block") {
                answer.add(index, Some(0), begun(block));
            }
        }
        "content_block_delta" => {
            let delta = body.get("delta").unwrap_or(&Value::Null);
            let text = |key: &str| delta.get(key).and_then(Value::as_str);
            let more = text("text").or_else(|| text("thinking")).or_else(|| text("partial_json"));
            answer.lengthen(index, 0, more.unwrap_or(""));
        }
        "message_delta" => {
            if let Some(reason) = body.get("delta").and_then(|delta| fields::text(delta, "stop_reason")) {
                answer.finish_reason = Some(reason);
            }
            if let Some(new) = body.get("usage") {
                usage(answer, new);
            }
        }
        "message_stop" => answer.done = true,
        "error" => answer.failure = answer::failure(body, answer.wants_content()),
        _ => {}
    }
}

/// A content block of which more will come.
fn begun(mut block: Value) -> Piece {
    let kind = fields::text(&block, "type").unwrap_or_default();
    // An input that stands here already is not sent in pieces; the usual one is empty.
    let whole_input = block.get("input").and_then(Value::as_object).is_some_and(|input| !input.is_empty());
    match kind.as_str() {
        "text" => Piece::Text(fields::take_text(&mut block, "text").unwrap_or_default()),
        "thinking" => Piece::Reasoning(fields::take_text(&mut block, "thinking").unwrap_or_default()),
        "tool_use" if !whole_input => Piece::ToolCall {
            id: fields::text(&block, "id"),
            name: fields::text(&block, "name").unwrap_or_default(),
            arguments: String::new(),
        },
        "server_tool_use" | "mcp_tool_use" => Piece::ServerToolCall { block, input: String::new() },
        _ => Piece::Whole(part(block)),
    }
}
