//! Ollama's own API: `POST /api/chat`, `/api/generate` and `/api/embed`, streamed as lines of JSON.

use super::answer::{self, Answer, Piece};
use super::{Format, Hints, fields, history, openai};
use crate::call::{Failure, Message, Operation, Part, Request, RequestContent};
use crate::json::{Keep, Step};
use serde_json::Value;

pub(super) const CHAT: Format = Format {
    operation: Operation::Chat,
    request_filter,
    response_filter,
    event_filter: response_filter,
    is_request: is_chat,
    history: history::filter,
    request,
    whole: event,
    event,
};

pub(super) const GENERATE: Format =
    Format { operation: Operation::TextCompletion, is_request: is_generate, history: history::none, ..CHAT };

pub(super) const EMBED: Format =
    Format { operation: Operation::Embeddings, is_request: is_embed, history: history::none, ..CHAT };

fn is_chat(body: &Value, _: &Hints) -> bool {
    fields::text(body, "model").is_some() && body.get("messages").is_some_and(Value::is_array)
}

fn is_generate(body: &Value, _: &Hints) -> bool {
    fields::text(body, "model").is_some() && body.get("prompt").is_some_and(Value::is_string)
}

fn is_embed(body: &Value, _: &Hints) -> bool {
    let input = body.get("input").or_else(|| body.get("prompt"));
    fields::text(body, "model").is_some() && input.is_some_and(|input| input.is_string() || input.is_array())
}

fn request_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["model" | "stream" | "dimensions" | "think" | "options"] | ["options", ..] => Keep::Into,
        // A schema is as good as the word.
        ["format"] => Keep::Into,
        ["messages" | "prompt" | "input"] if !content => Keep::Kind,
        ["messages" | "prompt" | "system" | "tools"] if content => Keep::All,
        ["input"] => Keep::Kind,
        _ => Keep::Nothing,
    }
}

fn response_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["model" | "done" | "done_reason" | "prompt_eval_count" | "eval_count"] => Keep::Into,
        ["message" | "response" | "thinking"] if content => Keep::All,
        ["message"] | ["message", "role" | "tool_calls"] | ["message", "tool_calls", "*"] => Keep::Into,
        ["message", "tool_calls", "*", "id"] => Keep::Into,
        ["message", "tool_calls", "*", "function"] => Keep::All,
        ["response"] => Keep::Kind,
        ["embeddings"] | ["embeddings", "*"] if path.get(1).is_none_or(|at| *at == Step::Index(0)) => {
            if path.len() == 1 { Keep::Into } else { Keep::Count }
        }
        ["embedding"] => Keep::Count,
        ["error"] => Keep::All,
        _ => Keep::Nothing,
    }
}

fn request(body: &mut Value, content: bool) -> Request {
    let none = Value::Null;
    let options = body.get("options").unwrap_or(&none);
    let is_call = body.get("messages").is_some() || body.get("prompt").is_some();
    let format = body.get("format").is_some_and(|format| format == "json" || format.is_object());
    Request {
        model: fields::text(body, "model"),
        // It streams unless told otherwise.
        stream: is_call && body.get("stream") != Some(&Value::Bool(false)) && body.get("input").is_none(),
        max_tokens: fields::int(options, "num_predict").filter(|count| *count >= 0),
        temperature: fields::float(options, "temperature"),
        top_p: fields::float(options, "top_p"),
        top_k: fields::float(options, "top_k"),
        frequency_penalty: fields::float(options, "frequency_penalty"),
        presence_penalty: fields::float(options, "presence_penalty"),
        stop_sequences: fields::texts(options, "stop"),
        seed: fields::int(options, "seed"),
        output_type: format.then_some("json"),
        reasoning_level: fields::text(body, "think"),
        dimensions: fields::int(body, "dimensions"),
        content: content.then(|| request_content(body)),
        ..Request::default()
    }
}

fn request_content(body: &mut Value) -> RequestContent {
    let mut messages: Vec<Message> = fields::take_array(body, "messages").into_iter().map(message).collect();
    if let Some(text) = fields::take_text(body, "prompt") {
        messages.push(Message { role: "user".to_owned(), name: None, parts: vec![Part::Text(text)] });
    }
    RequestContent {
        system: openai::parts(fields::take(body, "system")),
        messages,
        tools: openai::tools(fields::take_array(body, "tools")),
        truncated: false,
    }
}

fn message(mut item: Value) -> Message {
    let role = fields::text(&item, "role").unwrap_or_else(|| "user".to_owned());
    let text = fields::take(&mut item, "content");
    if role == "tool" {
        let response = openai::tool_response(text);
        let id = fields::text(&item, "tool_call_id");
        return Message { role, name: None, parts: vec![Part::ToolCallResponse { id, response }] };
    }
    let mut parts: Vec<Part> =
        fields::take_text(&mut item, "thinking").map(Part::Reasoning).into_iter().collect();
    parts.extend(openai::parts(text));
    for image in fields::take_array(&mut item, "images") {
        if let Value::String(content) = image {
            parts.push(Part::Blob { modality: "image".to_owned(), mime_type: None, content });
        }
    }
    parts.extend(tool_calls(&mut item).map(|(id, name, arguments)| Part::ToolCall { id, name, arguments }));
    Message { role, name: None, parts }
}

type ToolCall = (Option<String>, String, Option<Value>);

fn tool_calls(message: &mut Value) -> impl Iterator<Item = ToolCall> + use<> {
    fields::take_array(message, "tool_calls").into_iter().map(|mut call| {
        let id = fields::text(&call, "id");
        let mut function = fields::take(&mut call, "function").unwrap_or_default();
        let name = fields::text(&function, "name").unwrap_or_default();
        (id, name, fields::take(&mut function, "arguments"))
    })
}

/// A line of a stream, or the whole response.
fn event(answer: &mut Answer, body: &mut Value) {
    if let Some(failure) = answer::failure(body, answer.wants_content()) {
        answer.recognised |= body.get("error").is_some_and(Value::is_string);
        answer.failure = Some(Failure { ..failure });
        return;
    }
    answer.one_message = true;
    let vectors = body.get("embeddings").or_else(|| body.get("embedding")).is_some();
    answer.recognised |= vectors || body.get("done").is_some_and(Value::is_boolean);
    answer.head(body);
    answer.response.dimensions = body
        .pointer("/embeddings/0")
        .or_else(|| body.get("embedding"))
        .and_then(Value::as_i64)
        .filter(|length| *length > 0)
        .or(answer.response.dimensions);
    let usage = &mut answer.response.usage;
    usage.input = fields::int(body, "prompt_eval_count").or(usage.input);
    usage.output = fields::int(body, "eval_count").or(usage.output);
    let mut message = fields::take(body, "message").unwrap_or_default();
    let thinking =
        fields::take_text(&mut message, "thinking").or_else(|| fields::take_text(body, "thinking"));
    answer.append(0, Piece::Reasoning, thinking.as_deref().unwrap_or(""));
    let text = fields::take_text(&mut message, "content").or_else(|| fields::take_text(body, "response"));
    answer.append(0, Piece::Text, text.as_deref().unwrap_or(""));
    for (id, name, arguments) in tool_calls(&mut message) {
        answer.asks_for_tool = true;
        answer.add(0, None, Piece::Whole(Part::ToolCall { id, name, arguments }));
    }
    if body.get("done") == Some(&Value::Bool(true)) {
        answer.finish_reason = match fields::text(body, "done_reason") {
            // The API has no reason of its own for it.
            Some(reason) if reason == "stop" && answer.asks_for_tool => Some("tool_calls".to_owned()),
            reason => reason,
        };
        answer.done = true;
    }
    if vectors {
        answer.one_message = false;
    }
}
