//! xAI's services, under the names that Chat Completions gives to the same things, as xAI's own REST interface does.
//!
//! Field numbers: xai_api (PyPI xai-sdk 1.21.0, `proto/v6/chat_pb2.py`).

use super::super::answer::{Answer, Piece};
use super::super::{Format, fields, openai_chat};
use crate::call::{Part, Request};
use crate::protobuf::Kind::{Bytes, Enum, Float, Int, Text};
use crate::protobuf::{ANYTHING, Field, Kind, Message, Shape};
use serde_json::{Value, json};

pub(in super::super) const FORMAT: Format = Format { request, whole: event, event, ..openai_chat::FORMAT };

/// A tool's parameters are JSON in a text.
fn request(body: &mut Value, content: bool) -> Request {
    let mut parser = fields::Parser::new();
    let tools = body.get_mut("tools").and_then(Value::as_array_mut);
    for tool in tools.into_iter().flatten() {
        let Some(parameters) = tool.pointer_mut("/function/parameters") else { continue };
        if let Value::String(text) = parameters.take() {
            *parameters = parser.parse(text);
        }
    }
    (openai_chat::FORMAT.request)(body, content)
}

/// A chunk of a stream, or the whole response.
fn event(answer: &mut Answer, body: &mut Value) {
    if let Some(usage) = body.get_mut("usage").and_then(Value::as_object_mut) {
        for (group, name, flat) in [
            ("completion_tokens_details", "reasoning_tokens", "reasoning_tokens"),
            ("prompt_tokens_details", "cached_tokens", "cached_prompt_text_tokens"),
        ] {
            if let Some(count) = usage.remove(flat) {
                usage.insert(group.to_owned(), json!({ name: count }));
            }
        }
    }
    let mut own = Vec::new();
    let choices = body.get_mut("choices").and_then(Value::as_array_mut);
    for (position, choice) in choices.into_iter().flatten().enumerate() {
        let index = fields::int(choice, "index").unwrap_or(position as i64);
        for key in ["delta", "message"] {
            let calls = choice.get_mut(key).and_then(|message| message.get_mut("tool_calls"));
            let Some(calls) = calls.and_then(Value::as_array_mut) else { continue };
            // What xAI runs itself is not asked of the client. It is told again when it is over.
            let (theirs, others) = std::mem::take(calls)
                .into_iter()
                .partition(|call| call.get("type").is_none_or(|kind| kind == "function"));
            *calls = theirs;
            let over = |call: &Value| call.get("status").is_some();
            own.extend(<Vec<Value>>::into_iter(others).filter(over).map(|call| (index, call)));
        }
    }
    (openai_chat::FORMAT.event)(answer, body);
    for (index, call) in own {
        let name = call.get("function").and_then(|function| fields::text(function, "name"));
        let part =
            Part::ServerToolCall { id: fields::text(&call, "id"), name: name.unwrap_or_default(), call };
        answer.add(index, None, Piece::Whole(part));
    }
}

const fn object(fields: &'static [Field]) -> Message {
    assert!(fields.len() <= 64, "what came is told by 64 bits");
    Message { shape: Shape::Object, fields }
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field::one(number, name, kind)
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field::many(number, name, kind)
}

pub(super) static REQUEST: Message = object(&[
    many(1, "messages", Kind::Message(&MESSAGE)),
    one(2, "model", Text),
    one(3, "frequency_penalty", Float),
    one(7, "max_tokens", Int),
    one(8, "n", Int),
    one(9, "presence_penalty", Float),
    one(10, "response_format", Kind::Message(&RESPONSE_FORMAT)),
    one(11, "seed", Int),
    many(12, "stop", Text),
    one(14, "temperature", Float),
    one(15, "top_p", Float),
    many(17, "tools", Kind::Message(&TOOL)),
    one(19, "reasoning_effort", Enum(EFFORT)),
    one(22, "previous_response_id", Text),
    one(31, "service_tier", Enum(SERVICE_TIER)),
]);

pub(super) static RESPONSE: Message = object(&[
    one(1, "id", Text),
    many(2, "choices", Kind::Message(&OUTPUT)),
    one(6, "model", Text),
    one(7, "system_fingerprint", Text),
    one(9, "usage", Kind::Message(&USAGE)),
    one(15, "service_tier", Enum(SERVICE_TIER)),
]);

pub(super) static CHUNK: Message = object(&[
    one(1, "id", Text),
    many(2, "choices", Kind::Message(&OUTPUT_CHUNK)),
    one(4, "model", Text),
    one(5, "system_fingerprint", Text),
    one(6, "usage", Kind::Message(&USAGE)),
    one(12, "service_tier", Enum(SERVICE_TIER)),
]);

static MESSAGE: Message = object(&[
    many(1, "content", Kind::Message(&CONTENT)),
    one(2, "role", Enum(ROLE)),
    one(3, "name", Text),
    many(4, "tool_calls", Kind::Message(&TOOL_CALL)),
    one(5, "reasoning_content", Text),
    one(7, "tool_call_id", Text),
]);

static CONTENT: Message = object(&[
    one(1, "text", Text).tagged("text"),
    one(2, "image_url", Kind::Message(&IMAGE)).tagged("image_url"),
    one(3, "file", Kind::Message(&FILE)).tagged("file"),
]);

static IMAGE: Message = object(&[one(1, "url", Text), one(3, "file_id", Text)]);

static FILE: Message = object(&[
    one(1, "file_id", Text),
    one(2, "data", Bytes),
    one(3, "filename", Text),
    one(4, "mime_type", Text),
    one(5, "file_url", Text),
]);

static TOOL_CALL: Message = object(&[
    one(1, "id", Text),
    one(2, "type", Enum(TOOL_CALL_TYPE)),
    one(3, "status", Enum(TOOL_CALL_STATUS)),
    one(10, "function", Kind::Message(&FUNCTION_CALL)),
]);

static FUNCTION_CALL: Message = object(&[one(1, "name", Text), one(2, "arguments", Text)]);

static RESPONSE_FORMAT: Message = object(&[one(1, "type", Enum(FORMAT_TYPE))]);

static TOOL: Message = object(&[
    one(1, "function", Kind::Message(&FUNCTION)).tagged("function"),
    one(3, "web_search", Kind::Message(&ANYTHING)).tagged("web_search"),
    one(4, "x_search", Kind::Message(&ANYTHING)).tagged("x_search"),
    one(5, "code_execution", Kind::Message(&ANYTHING)).tagged("code_execution"),
    one(6, "collections_search", Kind::Message(&ANYTHING)).tagged("collections_search"),
    // Its headers and its authorization are not read.
    one(7, "mcp", Kind::Message(&ANYTHING)).tagged("mcp"),
    one(8, "attachment_search", Kind::Message(&ANYTHING)).tagged("attachment_search"),
    one(10, "image_generation", Kind::Message(&ANYTHING)).tagged("image_generation"),
]);

static FUNCTION: Message =
    object(&[one(1, "name", Text), one(2, "description", Text), one(4, "parameters", Text)]);

static OUTPUT: Message = object(&[
    one(1, "finish_reason", Enum(FINISH_REASON)),
    one(2, "index", Int),
    one(3, "message", Kind::Message(&SAID)),
]);

static OUTPUT_CHUNK: Message = object(&[
    one(1, "delta", Kind::Message(&SAID)),
    one(3, "finish_reason", Enum(FINISH_REASON)),
    one(4, "index", Int),
]);

/// A message of the answer, or a part of it.
static SAID: Message = object(&[
    one(1, "content", Text),
    one(2, "role", Enum(ROLE)),
    many(3, "tool_calls", Kind::Message(&TOOL_CALL)),
    one(4, "reasoning_content", Text),
]);

static USAGE: Message = object(&[
    one(1, "completion_tokens", Int),
    one(2, "prompt_tokens", Int),
    one(3, "total_tokens", Int),
    one(6, "reasoning_tokens", Int),
    one(7, "cached_prompt_text_tokens", Int),
]);

const ROLE: &[(u64, &str)] =
    &[(1, "user"), (2, "assistant"), (3, "system"), (4, "function"), (5, "tool"), (6, "developer")];

const EFFORT: &[(u64, &str)] = &[(1, "low"), (2, "medium"), (3, "high"), (4, "none"), (5, "xhigh")];

const SERVICE_TIER: &[(u64, &str)] = &[(1, "default"), (2, "priority")];

const FORMAT_TYPE: &[(u64, &str)] = &[(1, "text"), (2, "json_object"), (3, "json_schema")];

const FINISH_REASON: &[(u64, &str)] =
    &[(1, "length"), (2, "length"), (3, "stop"), (4, "tool_calls"), (5, "time_limit")];

const TOOL_CALL_TYPE: &[(u64, &str)] = &[
    (1, "function"),
    (2, "web_search"),
    (3, "x_search"),
    (4, "code_execution"),
    (5, "collections_search"),
    (6, "mcp"),
    (7, "attachment_search"),
    (10, "image_generation"),
];

const TOOL_CALL_STATUS: &[(u64, &str)] = &[(1, "completed"), (2, "incomplete"), (3, "failed")];
