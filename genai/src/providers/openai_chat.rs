//! OpenAI's Chat Completions (`POST …/chat/completions`), as OpenAI and the many compatible servers speak it.

use super::answer::{Answer, Piece};
use super::{Format, Hints, fields, history, openai};
use crate::call::{Message, Operation, Part, Request, RequestContent};
use crate::json::{Keep, Step};
use serde_json::Value;

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

fn is_request(body: &Value, hints: &Hints) -> bool {
    body.get("messages").is_some_and(Value::is_array)
        && (hints.model_in_path || fields::text(body, "model").is_some())
}

fn request_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["stop" | "response_format" | "reasoning"] | ["stop", "*"] => Keep::Into,
        ["response_format", "type"] | ["reasoning", "effort"] => Keep::Into,
        ["messages"] => {
            if content {
                Keep::All
            } else {
                Keep::Kind
            }
        }
        ["tools" | "functions"] if content => Keep::All,
        [
            "model"
            | "stream"
            | "max_tokens"
            | "max_completion_tokens"
            | "temperature"
            | "top_p"
            | "top_k"
            | "frequency_penalty"
            | "presence_penalty"
            | "seed"
            | "n"
            | "service_tier"
            | "reasoning_effort",
        ] => Keep::Into,
        _ => Keep::Nothing,
    }
}

fn response_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["id" | "model" | "object" | "service_tier" | "system_fingerprint"] => Keep::Into,
        ["usage" | "choices"] | ["usage", ..] | ["choices", "*"] => Keep::Into,
        ["choices", "*", "index" | "finish_reason"] => Keep::Into,
        ["choices", "*", "message" | "delta" | "text"] if content => Keep::All,
        ["choices", "*", "message" | "delta"] => Keep::Into,
        // Asking for a tool is no content; what it is called with is held to be joined, and not sent.
        ["choices", "*", "message" | "delta", "tool_calls" | "function_call"] => Keep::All,
        ["error", rest @ ..] => openai::keep_error(rest, content),
        // An error of vLLM is the body itself.
        ["code" | "type"] => Keep::Into,
        ["message"] if content => Keep::All,
        _ => Keep::Nothing,
    }
}

fn request(body: &mut Value, content: bool) -> Request {
    let reasoning_level = fields::text(body, "reasoning_effort")
        .or_else(|| body.get("reasoning").and_then(|reasoning| fields::text(reasoning, "effort")));
    Request {
        model: fields::text(body, "model"),
        stream: body.get("stream") == Some(&Value::Bool(true)),
        max_tokens: fields::int(body, "max_completion_tokens").or_else(|| fields::int(body, "max_tokens")),
        temperature: fields::float(body, "temperature"),
        top_p: fields::float(body, "top_p"),
        top_k: fields::float(body, "top_k"),
        frequency_penalty: fields::float(body, "frequency_penalty"),
        presence_penalty: fields::float(body, "presence_penalty"),
        stop_sequences: fields::texts(body, "stop"),
        seed: fields::int(body, "seed"),
        choice_count: fields::int(body, "n"),
        output_type: openai::output_type(body.get("response_format")),
        service_tier: fields::text(body, "service_tier"),
        reasoning_level,
        content: content.then(|| request_content(body)),
        ..Request::default()
    }
}

fn request_content(body: &mut Value) -> RequestContent {
    let mut parser = fields::Parser::new();
    let messages = fields::take_array(body, "messages");
    let mut tools = fields::take_array(body, "tools");
    tools.extend(fields::take_array(body, "functions"));
    RequestContent {
        system: Vec::new(),
        messages: messages.into_iter().map(|item| message(item, &mut parser)).collect(),
        tools: openai::tools(tools),
        truncated: false,
    }
}

fn message(mut item: Value, parser: &mut fields::Parser) -> Message {
    let role = fields::text(&item, "role").unwrap_or_else(|| "user".to_owned());
    let name = fields::text(&item, "name");
    let content = fields::take(&mut item, "content");
    let mut parts = Vec::new();
    if matches!(role.as_str(), "tool" | "function") {
        let id = fields::text(&item, "tool_call_id");
        parts.push(Part::ToolCallResponse { id, response: openai::tool_response(content) });
        return Message { role, name, parts };
    }
    if let Some(reasoning) = reasoning(&mut item) {
        parts.push(Part::Reasoning(reasoning));
    }
    parts.extend(openai::parts(content));
    if let Some(refusal) = fields::take_text(&mut item, "refusal") {
        parts.push(Part::Text(refusal));
    }
    for call in fields::take_array(&mut item, "tool_calls") {
        let ToolCall { id, name, arguments, .. } = tool_call(call);
        let arguments = arguments.map(|text| parser.parse(text));
        parts.push(Part::ToolCall { id, name: name.unwrap_or_default(), arguments });
    }
    if let Some(mut call) = fields::take(&mut item, "function_call") {
        let arguments = fields::take_text(&mut call, "arguments").map(|text| parser.parse(text));
        let name = fields::text(&call, "name").unwrap_or_default();
        parts.push(Part::ToolCall { id: None, name, arguments });
    }
    Message { role, name, parts }
}

/// Reasoning, where DeepSeek and vLLM put it, or OpenRouter and newer vLLM.
fn reasoning(message: &mut Value) -> Option<String> {
    fields::take_text(message, "reasoning_content")
        .or_else(|| fields::take_text(message, "reasoning"))
        .filter(|text| !text.is_empty())
}

/// A tool call or a piece of one.
struct ToolCall {
    index: Option<i64>,
    id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
}

fn tool_call(mut call: Value) -> ToolCall {
    let index = fields::int(&call, "index");
    let id = fields::text(&call, "id");
    // A custom tool takes text as `input`, a function JSON text as `arguments`.
    let mut inner = fields::take(&mut call, "function")
        .or_else(|| fields::take(&mut call, "custom"))
        .unwrap_or(Value::Null);
    let arguments = match fields::take(&mut inner, "arguments").or_else(|| fields::take(&mut inner, "input"))
    {
        Some(Value::String(text)) => Some(text),
        // Ollama and some others send the object itself.
        Some(object) => serde_json::to_string(&object).ok(),
        None => None,
    };
    ToolCall { index, id, name: fields::text(&inner, "name"), arguments }
}

/// A chunk of a stream, or the whole response: a message is the one delta of its choice.
fn event(answer: &mut Answer, body: &mut Value) {
    for (index, mut choice) in openai::choices(answer, body) {
        let delta = fields::take(&mut choice, "delta").or_else(|| fields::take(&mut choice, "message"));
        if let Some(delta) = delta {
            add_delta(answer, index, delta);
        }
    }
}

fn add_delta(answer: &mut Answer, index: i64, mut delta: Value) {
    if let (Some(role), Some(choice)) = (fields::text(&delta, "role"), answer.choice(index)) {
        choice.role = Some(role);
    }
    if let Some(text) = reasoning(&mut delta) {
        answer.append(index, Piece::Reasoning, &text);
    }
    match fields::take(&mut delta, "content") {
        Some(Value::String(text)) => answer.append(index, Piece::Text, &text),
        list => {
            for part in openai::parts(list) {
                match part {
                    Part::Text(text) => answer.append(index, Piece::Text, &text),
                    Part::Reasoning(text) => answer.append(index, Piece::Reasoning, &text),
                    part => answer.add(index, None, Piece::Whole(part)),
                }
            }
        }
    }
    if let Some(text) = fields::take_text(&mut delta, "refusal") {
        answer.append(index, Piece::Text, &text);
    }
    // Spoken words come with their text.
    if let Some(text) = delta.get_mut("audio").and_then(|audio| fields::take_text(audio, "transcript")) {
        answer.append(index, Piece::Text, &text);
    }
    for call in fields::take_array(&mut delta, "tool_calls") {
        add_tool_call(answer, index, tool_call(call));
    }
    if let Some(call) = fields::take(&mut delta, "function_call") {
        /// Legacy: there is one, and it has no id. No index of a real tool call is negative.
        const ONLY: i64 = -1;
        let call = tool_call(serde_json::json!({"index": ONLY, "function": call}));
        add_tool_call(answer, index, call);
    }
}

/// A new tool call, or more of a known one. The index decides; some servers leave it out, or send 0 for each
/// call: then a new id is a new call.
fn add_tool_call(answer: &mut Answer, index: i64, call: ToolCall) {
    let ToolCall { index: key, id, name, arguments } = call;
    let last = answer.last_tool_call(index);
    let key = key.or(if id.is_some() { None } else { last });
    let known = key.and_then(|key| answer.tool_call(index, key).map(|(known, _)| (key, known.clone())));
    match known {
        Some((key, known)) if id.is_none() || known.is_none() || known == id => {
            let complete = |own: &mut Option<String>, own_name: &mut String| {
                *own = own.take().or_else(|| id.clone());
                if let (true, Some(name)) = (own_name.is_empty(), &name) {
                    own_name.clone_from(name);
                }
            };
            if let Some((own, own_name)) = answer.tool_call(index, key) {
                complete(own, own_name);
            }
            if let Some(Piece::ToolCall { id: own, name: own_name, .. }) = answer.piece(index, key) {
                complete(own, own_name);
            }
            answer.lengthen(index, key, arguments.as_deref().unwrap_or(""));
        }
        _ => {
            let key = key.or(Some(last.unwrap_or(-1).saturating_add(1)));
            let piece = Piece::ToolCall {
                id,
                name: name.unwrap_or_default(),
                arguments: arguments.unwrap_or_default(),
            };
            answer.add(index, key, piece);
        }
    }
}
