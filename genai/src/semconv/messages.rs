//! Messages as JSON text that fits the conventions' schemas.

use super::{Options, Setter, names};
use crate::call::{Call, Message, OutputMessage, Part};
use crate::content;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// Sets the content attributes: cleaned of credentials first, then cut to the limit.
pub(super) fn set(call: &Call, options: &Options, set: &mut Setter) {
    let with_reasons = names::of(options.vintage).finish_reason_in_messages;
    let mut values: [Value; 4] = [Value::Null, Value::Null, Value::Null, Value::Null];
    let mut truncated = false;
    if let Some(content) = &call.request.content {
        truncated |= content.truncated;
        values[0] = content.system.iter().map(part).collect();
        values[1] = content.messages.iter().map(input).collect();
        values[3] = Value::Array(content.tools.clone());
    }
    if let Some(content) = &call.response.content {
        truncated |= content.truncated;
        values[2] = content.messages.iter().map(|message| output(message, with_reasons)).collect();
    }
    for value in &mut values {
        options.redactor.json(value);
    }
    truncated |= content::shorten(&mut values, options.max_content);
    for (key, value) in content::ATTRIBUTES.into_iter().zip(values) {
        if value.as_array().is_some_and(|items| !items.is_empty()) {
            set.put(key, Some(crate::telemetry::Value::Str(Cow::Owned(value.to_string()))));
        }
    }
    if truncated {
        set.truncated();
    }
}

fn input(message: &Message) -> Value {
    let mut object = json!({"role": message.role, "parts": parts(&message.parts)});
    if let Some(name) = &message.name {
        object["name"] = Value::from(name.as_str());
    }
    object
}

fn output(message: &OutputMessage, with_reason: bool) -> Value {
    let mut object = json!({"role": message.role, "parts": parts(&message.parts)});
    if with_reason {
        // Required; the schema's own word for a reason that never came.
        let reason = message.finish_reason.as_deref().map_or("error", names::finish_reason);
        object["finish_reason"] = Value::from(reason);
    }
    object
}

fn parts(parts: &[Part]) -> Value {
    parts.iter().map(part).collect()
}

fn part(part: &Part) -> Value {
    let (kind, members): (&str, [(&str, Option<Value>); 4]) = match part {
        Part::Text(text) => ("text", [some("content", text), NONE, NONE, NONE]),
        Part::Reasoning(text) => ("reasoning", [some("content", text), NONE, NONE, NONE]),
        Part::ToolCall { id, name, arguments } => (
            "tool_call",
            [text("id", id.as_ref()), some("name", name), ("arguments", arguments.clone()), NONE],
        ),
        Part::ToolCallResponse { id, response } => (
            "tool_call_response",
            [text("id", id.as_ref()), ("response", Some(response.clone())), NONE, NONE],
        ),
        Part::ServerToolCall { id, name, call } => (
            "server_tool_call",
            [text("id", id.as_ref()), some("name", name), ("server_tool_call", Some(call.clone())), NONE],
        ),
        Part::ServerToolCallResponse { id, response } => (
            "server_tool_call_response",
            [text("id", id.as_ref()), ("server_tool_call_response", Some(response.clone())), NONE, NONE],
        ),
        Part::Blob { modality, mime_type, content } => (
            "blob",
            [
                some("modality", modality),
                text("mime_type", mime_type.as_ref()),
                some("content", content),
                NONE,
            ],
        ),
        Part::File { modality, mime_type, file_id } => (
            "file",
            [
                some("modality", modality),
                text("mime_type", mime_type.as_ref()),
                some("file_id", file_id),
                NONE,
            ],
        ),
        Part::Uri { modality, mime_type, uri } => (
            "uri",
            [some("modality", modality), text("mime_type", mime_type.as_ref()), some("uri", uri), NONE],
        ),
        Part::Other(value) => return value.clone(),
    };
    let mut object = Map::new();
    object.insert("type".to_owned(), Value::from(kind));
    for (key, value) in members {
        if let Some(value) = value {
            object.insert(key.to_owned(), value);
        }
    }
    Value::Object(object)
}

const NONE: (&str, Option<Value>) = ("", None);

fn some(key: &'static str, text: &str) -> (&'static str, Option<Value>) {
    (key, Some(Value::from(text)))
}

fn text(key: &'static str, text: Option<&String>) -> (&'static str, Option<Value>) {
    (key, text.map(|text| Value::from(text.as_str())))
}
