//! OpenAI's Responses (`POST …/responses`, and messages of a WebSocket there).

use super::answer::{self, Answer, Piece};
use super::{Format, Hints, fields, history, openai};
use crate::call::{Message, Operation, Part, Request, RequestContent};
use crate::json::{Keep, Step};
use serde_json::Value;

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

fn is_request(body: &Value, _: &Hints) -> bool {
    let has = |key: &str, kind: fn(&Value) -> bool| body.get(key).is_some_and(kind);
    let text = |value: &Value| value.is_string() || value.is_array();
    let model = fields::text(body, "model").is_some();
    let prompt = has("prompt", Value::is_object);
    (model && (has("input", text) || prompt || has("previous_response_id", Value::is_string)))
        || (prompt && has("input", text))
        || (model && has("conversation", |value| value.is_string() || value.is_object()))
}

fn request_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["text"] | ["text", "format"] | ["text", "format", "type"] => Keep::Into,
        ["reasoning" | "conversation"] | ["reasoning", "effort"] | ["conversation", "id"] => Keep::Into,
        [
            "model"
            | "stream"
            | "temperature"
            | "top_p"
            | "max_output_tokens"
            | "service_tier"
            | "previous_response_id",
        ] => Keep::Into,
        ["input"] => {
            if content {
                Keep::All
            } else {
                Keep::Kind
            }
        }
        ["prompt"] => Keep::Kind,
        ["instructions" | "tools"] if content => Keep::All,
        _ => Keep::Nothing,
    }
}

fn response_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    keep_response(names.as_slice(), content)
}

fn keep_response(names: &[&str], content: bool) -> Keep {
    match names {
        [] | ["id" | "model" | "object" | "status" | "service_tier"] => Keep::Into,
        ["usage" | "incomplete_details"] | ["usage", ..] | ["incomplete_details", "reason"] => Keep::Into,
        ["conversation"] | ["conversation", "id"] => Keep::Into,
        ["output"] if content => Keep::All,
        ["output"] => Keep::Into,
        ["output", "*", rest @ ..] => keep_tool_call(rest),
        ["error", rest @ ..] => openai::keep_error(rest, content),
        _ => Keep::Nothing,
    }
}

/// What is kept of an item while content is off: asking for a tool is no content; what it is called with is held to
/// be joined, and not sent.
fn keep_tool_call(names: &[&str]) -> Keep {
    match names {
        [] | ["type" | "id" | "call_id" | "name"] => Keep::Into,
        ["arguments" | "input" | "action" | "operation"] => Keep::All,
        _ => Keep::Nothing,
    }
}

fn event_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["type" | "code" | "output_index" | "content_index" | "summary_index" | "stream_id"] => {
            Keep::Into
        }
        ["response", rest @ ..] => keep_response(rest, content),
        ["item"] if content => Keep::All,
        ["item", rest @ ..] => keep_tool_call(rest),
        ["delta" | "message"] if content => Keep::All,
        ["error", rest @ ..] => openai::keep_error(rest, content),
        _ => Keep::Nothing,
    }
}

fn request(body: &mut Value, content: bool) -> Request {
    let inner = |outer: &str, key: &str| body.get(outer).and_then(|outer| fields::text(outer, key));
    Request {
        model: fields::text(body, "model"),
        stream: body.get("stream") == Some(&Value::Bool(true)),
        max_tokens: fields::int(body, "max_output_tokens"),
        temperature: fields::float(body, "temperature"),
        top_p: fields::float(body, "top_p"),
        output_type: openai::output_type(body.get("text").and_then(|text| text.get("format"))),
        service_tier: fields::text(body, "service_tier"),
        reasoning_level: inner("reasoning", "effort"),
        previous_response_id: fields::text(body, "previous_response_id"),
        conversation_id: fields::text(body, "conversation").or_else(|| inner("conversation", "id")),
        content: content.then(|| request_content(body)),
        ..Request::default()
    }
}

fn request_content(body: &mut Value) -> RequestContent {
    let mut parser = fields::Parser::new();
    let messages = match fields::take(body, "input") {
        Some(Value::String(text)) => {
            vec![Message { role: "user".to_owned(), name: None, parts: vec![Part::Text(text)] }]
        }
        Some(Value::Array(items)) => {
            items.into_iter().filter_map(|item| message(item, &mut parser)).collect()
        }
        _ => Vec::new(),
    };
    let system = match fields::take(body, "instructions") {
        // Instructions may be a list of messages, too.
        Some(Value::Array(items)) => items
            .into_iter()
            .filter_map(|item| message(item, &mut parser))
            .flat_map(|message| message.parts)
            .collect(),
        text => openai::parts(text),
    };
    RequestContent {
        system,
        messages,
        tools: openai::tools(fields::take_array(body, "tools")),
        truncated: false,
    }
}

/// An item of the input.
fn message(mut item: Value, parser: &mut fields::Parser) -> Option<Message> {
    let named = |role: &str, parts| Some(Message { role: role.to_owned(), name: None, parts });
    let kind = fields::text(&item, "type");
    if matches!(kind.as_deref(), None | Some("message")) {
        let role = fields::text(&item, "role").unwrap_or_else(|| "user".to_owned());
        let parts = openai::parts(fields::take(&mut item, "content"));
        return Some(Message { role, name: None, parts });
    }
    if kind.as_deref().is_some_and(|kind| kind.ends_with("_output")) {
        let id = fields::text(&item, "call_id");
        let response = openai::tool_response(fields::take(&mut item, "output"));
        return named("tool", vec![Part::ToolCallResponse { id, response }]);
    }
    let parts: Vec<Part> = pieces(item).into_iter().map(|piece| piece.into_part(parser)).collect();
    if parts.is_empty() { None } else { named("assistant", parts) }
}

/// Tools that the client runs although the provider names them.
const CLIENT_TOOLS: &[&str] = &["local_shell_call", "shell_call", "apply_patch_call", "computer_call"];

/// Whether an item asks the client to run a tool.
fn asks_for_tool(item: &Value) -> bool {
    item.get("type").and_then(Value::as_str).is_some_and(|kind| {
        matches!(kind, "function_call" | "custom_tool_call") || CLIENT_TOOLS.contains(&kind)
    })
}

/// An item of the output as parts.
fn pieces(mut item: Value) -> Vec<Piece> {
    let kind = fields::text(&item, "type").unwrap_or_default();
    let id = fields::text(&item, "call_id").or_else(|| fields::text(&item, "id"));
    match kind.as_str() {
        "message" => openai::parts(fields::take(&mut item, "content")).into_iter().map(piece).collect(),
        "reasoning" => {
            let mut texts = fields::take_array(&mut item, "summary");
            texts.extend(fields::take_array(&mut item, "content"));
            let text = |part| match part {
                Part::Text(text) => Some(Piece::Reasoning(text)),
                _ => None,
            };
            openai::parts(Some(Value::Array(texts))).into_iter().filter_map(text).collect()
        }
        "function_call" | "custom_tool_call" => {
            let arguments =
                fields::take_text(&mut item, "arguments").or_else(|| fields::take_text(&mut item, "input"));
            let name = fields::text(&item, "name").unwrap_or_default();
            vec![Piece::ToolCall { id, name, arguments: arguments.unwrap_or_default() }]
        }
        kind if CLIENT_TOOLS.contains(&kind) => {
            let arguments =
                fields::take(&mut item, "action").or_else(|| fields::take(&mut item, "operation"));
            let name = kind.trim_end_matches("_call").to_owned();
            vec![Piece::Whole(Part::ToolCall { id, name, arguments })]
        }
        "mcp_approval_request" | "item_reference" | "compaction" => vec![Piece::Whole(openai::other(item))],
        kind if kind.ends_with("_call") => {
            let name =
                fields::text(&item, "name").unwrap_or_else(|| kind.trim_end_matches("_call").to_owned());
            vec![Piece::Whole(Part::ServerToolCall { id, name, call: item })]
        }
        _ => vec![Piece::Whole(openai::other(item))],
    }
}

fn piece(part: Part) -> Piece {
    match part {
        Part::Text(text) => Piece::Text(text),
        part => Piece::Whole(part),
    }
}

/// A response object: the whole body, or what the last event of a stream carries.
fn whole(answer: &mut Answer, body: &mut Value) {
    answer.one_message = true;
    if let Some(failure) = answer::failure(body, answer.wants_content()) {
        answer.failure = Some(failure);
    }
    answer.recognised |= body.get("object").is_some_and(|object| object == "response");
    answer.head(body);
    if let Some(usage) = openai::usage(body) {
        answer.response.usage = usage;
    }
    let output = fields::take_array(body, "output");
    // Some servers leave the last event's output empty: then what the deltas gave stands.
    if !output.is_empty() {
        answer.restart();
        for (index, item) in output.into_iter().enumerate() {
            add_item(answer, index as i64, item);
        }
    }
    answer.finish_reason = match body.get("status").and_then(Value::as_str) {
        // The API has no reason of its own; these are the words of Chat Completions.
        Some("completed") if answer.asks_for_tool => Some("tool_calls".to_owned()),
        Some("completed") => Some("stop".to_owned()),
        Some("incomplete" | "cancelled") => {
            let reason = body.get("incomplete_details").and_then(|details| fields::text(details, "reason"));
            match reason.as_deref() {
                Some("max_output_tokens") => Some("length".to_owned()),
                _ => reason,
            }
        }
        _ => None,
    };
}

fn add_item(answer: &mut Answer, index: i64, item: Value) {
    answer.asks_for_tool |= asks_for_tool(&item);
    for (position, piece) in pieces(item).into_iter().enumerate() {
        answer.add(index, Some(position as i64), piece);
    }
}

fn event(answer: &mut Answer, body: &mut Value) {
    answer.one_message = true;
    let kind = fields::text(body, "type").unwrap_or_default();
    answer.recognised |= kind.starts_with("response.");
    let index = fields::int(body, "output_index").unwrap_or(0);
    match kind.as_str() {
        "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled" => {
            whole(answer, &mut fields::take(body, "response").unwrap_or_default());
            if kind == "response.failed" && answer.failure.is_none() {
                answer.failure = Some(crate::call::Failure::default());
            }
            answer.done = true;
        }
        "response.created" | "response.in_progress" | "response.queued" => {
            if let Some(response) = body.get("response") {
                answer.head(response);
            }
        }
        "response.output_item.added" => {
            if let Some(item) = fields::take(body, "item") {
                begin_item(answer, index, item);
            }
        }
        "response.output_item.done" => {
            if let Some(item) = fields::take(body, "item") {
                answer.drop_choice(index);
                add_item(answer, index, item);
            }
        }
        "response.output_text.delta" | "response.refusal.delta" => delta(answer, index, Piece::Text, body),
        "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
            delta(answer, index, Piece::Reasoning, body);
        }
        "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta" => {
            if let Some(text) = body.get("delta").and_then(Value::as_str) {
                answer.lengthen(index, 0, text);
            }
        }
        "error" => {
            // Or the event itself is the error; its type says no more than that.
            let nested = body.get("error").is_some_and(|error| !error.is_null());
            let error = if nested {
                body.take()
            } else {
                body.as_object_mut().map(|error| error.remove("type"));
                serde_json::json!({ "error": body.take() })
            };
            answer.failure = answer::failure(&error, answer.wants_content());
        }
        _ => {}
    }
}

/// An item of which more will come.
fn begin_item(answer: &mut Answer, index: i64, item: Value) {
    // Texts come as deltas, each under its own part; only a tool call's names stand here alone.
    let texts = item.get("type").is_some_and(|kind| kind == "message" || kind == "reasoning");
    if !texts {
        add_item(answer, index, item);
    }
}

fn delta(answer: &mut Answer, index: i64, kind: fn(String) -> Piece, body: &Value) {
    let text = body.get("delta").and_then(Value::as_str).unwrap_or("");
    answer.append(index, kind, text);
}
