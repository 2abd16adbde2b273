//! Cohere's chat, versions 2 and 1 (`POST /v2/chat`, `/v1/chat`), and its vectors (`…/embed`).

use super::answer::{self, Answer, Piece};
use super::{Format, Hints, fields, history, openai};
use crate::call::{Message, Operation, Part, Request, RequestContent, Usage};
use crate::json::{Keep, Step};
use serde_json::{Value, json};

pub(super) const CHAT: Format = Format {
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

pub(super) const EMBED: Format =
    Format { operation: Operation::Embeddings, is_request: is_embed, history: history::none, ..CHAT };

fn is_request(body: &Value, _: &Hints) -> bool {
    let model = fields::text(body, "model").is_some();
    (model && body.get("messages").is_some_and(Value::is_array))
        || body.get("message").is_some_and(Value::is_string)
}

fn is_embed(body: &Value, _: &Hints) -> bool {
    let inputs = ["texts", "inputs", "images"];
    fields::text(body, "model").is_some()
        && inputs.into_iter().any(|key| body.get(key).is_some_and(Value::is_array))
}

fn request_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["stop_sequences" | "response_format" | "embedding_types"] => Keep::Into,
        ["stop_sequences" | "embedding_types", "*"] | ["response_format", "type"] => Keep::Into,
        ["model" | "stream" | "max_tokens" | "temperature" | "p" | "k" | "seed" | "conversation_id"] => {
            Keep::Into
        }
        ["frequency_penalty" | "presence_penalty" | "output_dimension"] => Keep::Into,
        ["texts" | "inputs" | "images"] => Keep::Kind,
        ["messages" | "message"] if !content => Keep::Kind,
        ["messages" | "message" | "chat_history" | "preamble" | "tools"] if content => Keep::All,
        _ => Keep::Nothing,
    }
}

fn response_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    let names = match names.as_slice() {
        // What ends a stream of version 1.
        ["response", rest @ ..] => rest,
        names => names,
    };
    match names {
        [] | ["id" | "response_id" | "generation_id" | "finish_reason" | "type" | "event_type" | "index"] => {
            Keep::Into
        }
        ["usage" | "meta"] | ["usage" | "meta", "billed_units" | "tokens"] => Keep::Into,
        ["usage" | "meta", "billed_units" | "tokens", _] | ["usage", "cached_tokens"] => Keep::Into,
        ["delta", "finish_reason"] | ["delta", "usage", ..] => Keep::Into,
        ["message" | "delta" | "text" | "tool_calls"] if content => Keep::All,
        ["message"] if path.len() == 1 => Keep::Into,
        ["delta"] | ["delta", "message"] | ["message", "content"] => Keep::Into,
        ["message", "tool_calls"] | ["message", "tool_calls", ..] | ["tool_calls", ..] => Keep::All,
        ["delta", "message", "tool_calls", ..] => Keep::All,
        _ => Keep::Nothing,
    }
}

fn request(body: &mut Value, content: bool) -> Request {
    Request {
        model: fields::text(body, "model"),
        stream: body.get("stream") == Some(&Value::Bool(true)),
        max_tokens: fields::int(body, "max_tokens"),
        temperature: fields::float(body, "temperature"),
        top_p: fields::float(body, "p"),
        top_k: fields::float(body, "k"),
        frequency_penalty: fields::float(body, "frequency_penalty"),
        presence_penalty: fields::float(body, "presence_penalty"),
        stop_sequences: fields::texts(body, "stop_sequences"),
        seed: fields::int(body, "seed"),
        output_type: openai::output_type(body.get("response_format")),
        conversation_id: fields::text(body, "conversation_id"),
        dimensions: fields::int(body, "output_dimension"),
        encoding_formats: fields::texts(body, "embedding_types"),
        content: content.then(|| request_content(body)),
        ..Request::default()
    }
}

fn request_content(body: &mut Value) -> RequestContent {
    let mut parser = fields::Parser::new();
    let mut messages: Vec<Message> =
        fields::take_array(body, "messages").into_iter().map(|item| message(item, &mut parser)).collect();
    let mut say = |role: &str, text: Option<String>| {
        let parts: Vec<Part> = text.into_iter().map(Part::Text).collect();
        messages.extend((!parts.is_empty()).then(|| Message { role: role.to_owned(), name: None, parts }));
    };
    for mut said in fields::take_array(body, "chat_history") {
        let role = match fields::text(&said, "role").as_deref() {
            Some("CHATBOT") => "assistant",
            Some("SYSTEM") => "system",
            Some("TOOL") => "tool",
            _ => "user",
        };
        say(role, fields::take_text(&mut said, "message"));
    }
    say("user", fields::take_text(body, "message"));
    RequestContent {
        system: openai::parts(fields::take(body, "preamble")),
        messages,
        tools: openai::tools(fields::take_array(body, "tools")),
        truncated: false,
    }
}

fn message(mut item: Value, parser: &mut fields::Parser) -> Message {
    let role = fields::text(&item, "role").unwrap_or_else(|| "user".to_owned());
    let content = fields::take(&mut item, "content");
    if role == "tool" {
        let id = fields::text(&item, "tool_call_id");
        let response = openai::tool_response(content);
        return Message { role, name: None, parts: vec![Part::ToolCallResponse { id, response }] };
    }
    let plan = fields::take_text(&mut item, "tool_plan").filter(|plan| !plan.is_empty());
    let mut parts: Vec<Part> = plan.map(Part::Reasoning).into_iter().collect();
    parts.extend(openai::parts(content));
    for call in fields::take_array(&mut item, "tool_calls") {
        parts.push(tool_call(call).into_part(parser));
    }
    Message { role, name: None, parts }
}

/// A tool call of either version.
fn tool_call(mut call: Value) -> Piece {
    let id = fields::text(&call, "id");
    let mut function = fields::take(&mut call, "function").unwrap_or(call);
    let name = fields::text(&function, "name").unwrap_or_default();
    let arguments = match fields::take(&mut function, "arguments")
        .or_else(|| fields::take(&mut function, "parameters"))
    {
        Some(Value::String(text)) => text,
        Some(object) => object.to_string(),
        None => String::new(),
    };
    Piece::ToolCall { id, name, arguments }
}

/// A whole response, or an event of a stream, of either version.
fn event(answer: &mut Answer, body: &mut Value) {
    answer.one_message = true;
    let kind = fields::text(body, "type").or_else(|| fields::text(body, "event_type"));
    let index = fields::int(body, "index").unwrap_or(0);
    // Vectors: the one list that is no message.
    if kind.as_deref().is_some_and(|kind| kind.starts_with("embeddings")) {
        answer.one_message = false;
    }
    match kind.as_deref() {
        Some("message-start" | "stream-start") => {
            answer.recognised = true;
            head(answer, body);
        }
        Some("content-start" | "content-delta") => {
            let content = body.pointer("/delta/message/content");
            let text = |key: &str| content.and_then(|content| content.get(key)).and_then(Value::as_str);
            answer.append(index, Piece::Reasoning, text("thinking").unwrap_or(""));
            answer.append(index, Piece::Text, text("text").unwrap_or(""));
        }
        Some("tool-plan-delta") => {
            let plan = body.pointer("/delta/message/tool_plan").and_then(Value::as_str);
            answer.append(-1, Piece::Reasoning, plan.unwrap_or(""));
        }
        Some("tool-call-start") => {
            if let Some(call) = body.pointer_mut("/delta/message/tool_calls") {
                // Behind the texts, whose indexes are their own.
                answer.add(index.saturating_add(TOOLS), Some(0), tool_call(call.take()));
            }
        }
        Some("tool-call-delta") => {
            let more = body.pointer("/delta/message/tool_calls/function/arguments").and_then(Value::as_str);
            answer.lengthen(index.saturating_add(TOOLS), 0, more.unwrap_or(""));
        }
        Some("message-end") => {
            let end = fields::take(body, "delta").unwrap_or_default();
            answer.finish_reason = fields::text(&end, "finish_reason");
            usage(answer, end.get("usage"));
            answer.done = true;
        }
        Some("text-generation") => {
            answer.append(0, Piece::Text, body.get("text").and_then(Value::as_str).unwrap_or(""));
        }
        Some("stream-end") => {
            let mut end = fields::take(body, "response").unwrap_or_default();
            answer.restart();
            whole(answer, &mut end);
            answer.finish_reason =
                answer.finish_reason.take().or_else(|| fields::text(body, "finish_reason"));
            answer.done = true;
        }
        Some(kind) if kind.contains('-') => {}
        _ => whole(answer, body),
    }
}

/// Where tool calls begin among the indexes of a stream.
const TOOLS: i64 = 1 << 32;

fn whole(answer: &mut Answer, body: &mut Value) {
    if let Some(failure) = answer::failure(body, answer.wants_content()) {
        answer.failure = Some(failure);
        return;
    }
    head(answer, body);
    usage(answer, body.get("usage").or_else(|| body.get("meta")));
    answer.finish_reason = fields::text(body, "finish_reason").or(answer.finish_reason.take());
    answer.recognised |= answer.finish_reason.is_some() || body.get("meta").is_some();
    if let Some(text) = body.get("text").and_then(Value::as_str) {
        answer.append(0, Piece::Text, text);
    }
    let calls = fields::take_array(body, "tool_calls");
    match fields::take(body, "message") {
        Some(mut message) if message.is_object() => {
            let plan = fields::take_text(&mut message, "tool_plan");
            answer.append(-1, Piece::Reasoning, plan.as_deref().unwrap_or(""));
            for part in openai::parts(fields::take(&mut message, "content")) {
                answer.add(0, None, Piece::Whole(part));
            }
            for call in fields::take_array(&mut message, "tool_calls") {
                answer.add(TOOLS, None, tool_call(call));
            }
        }
        // An error is a message alone.
        Some(Value::String(text)) if answer.finish_reason.is_none() && answer.response.id.is_none() => {
            answer.failure = answer::failure(&json!({"error": {"message": text}}), answer.wants_content());
        }
        _ => {}
    }
    for call in calls {
        answer.add(TOOLS, None, tool_call(call));
    }
}

fn head(answer: &mut Answer, body: &Value) {
    let id = ["id", "response_id", "generation_id"].into_iter().find_map(|key| fields::text(body, key));
    answer.response.id = answer.response.id.take().or(id);
}

/// What is billed wins over what was consumed.
fn usage(answer: &mut Answer, usage: Option<&Value>) {
    let Some(usage) = usage.filter(|usage| usage.is_object()) else { return };
    let count = |key: &str| {
        ["billed_units", "tokens"]
            .into_iter()
            .find_map(|kind| usage.get(kind).and_then(|units| fields::int(units, key)))
    };
    answer.response.usage = Usage {
        input: count("input_tokens"),
        output: count("output_tokens"),
        cache_read: fields::int(usage, "cached_tokens").filter(|count| *count > 0),
        ..Usage::default()
    };
}
