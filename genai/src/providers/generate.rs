//! Servers of open models with formats of their own: Hugging Face's TGI (`/generate`, `/generate_stream`) and
//! llama.cpp (`/completion`); and rerankers (`…/rerank`).

use super::answer::{self, Answer, Piece};
use super::{Format, Hints, fields, history};
use crate::call::{Message, Operation, Part, Request, RequestContent};
use crate::json::{Keep, Step};
use serde_json::Value;

pub(super) const TGI: Format = Format {
    operation: Operation::TextCompletion,
    request_filter,
    response_filter,
    event_filter: response_filter,
    is_request: is_tgi,
    history: history::none,
    request,
    whole: event,
    event,
};

pub(super) const LLAMA_CPP: Format = Format { is_request: is_llama_cpp, ..TGI };

pub(super) const RERANK: Format = Format { operation: Operation::Rerank, is_request: is_rerank, ..TGI };

fn is_tgi(body: &Value, _: &Hints) -> bool {
    body.get("inputs").is_some_and(Value::is_string)
}

fn is_llama_cpp(body: &Value, _: &Hints) -> bool {
    body.get("prompt").is_some_and(|prompt| prompt.is_string() || prompt.is_array())
}

fn is_rerank(body: &Value, _: &Hints) -> bool {
    let documents = body.get("documents").or_else(|| body.get("texts"));
    body.get("query").is_some_and(Value::is_string) && documents.is_some_and(Value::is_array)
}

fn request_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["parameters" | "stop"] | ["stop", "*"] | ["parameters", "stop", "*"] => Keep::Into,
        ["parameters", key] if *key != "grammar" => Keep::Into,
        ["model" | "stream" | "n_predict" | "temperature" | "top_p" | "top_k" | "seed"] => Keep::Into,
        ["frequency_penalty" | "presence_penalty"] => Keep::Into,
        ["query" | "documents" | "texts"] => Keep::Kind,
        ["inputs" | "prompt"] => {
            if content {
                Keep::All
            } else {
                Keep::Kind
            }
        }
        _ => Keep::Nothing,
    }
}

fn response_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["*" | "token" | "details" | "usage" | "meta" | "results" | "data"] => Keep::Into,
        ["details", "finish_reason" | "generated_tokens" | "input_length"] => Keep::Into,
        ["details", "prefill"] => Keep::Count,
        ["generated_text" | "content"] | ["token", "text"] => {
            if content {
                Keep::All
            } else {
                Keep::Kind
            }
        }
        ["model" | "id" | "stop" | "stop_type" | "tokens_predicted" | "tokens_evaluated"] => Keep::Into,
        ["usage", _] | ["meta", "billed_units" | "tokens"] | ["meta", "billed_units" | "tokens", _] => {
            Keep::Into
        }
        ["error_type" | "error"] => Keep::Into,
        ["error", "code" | "type"] => Keep::Into,
        ["error", "message"] if content => Keep::All,
        _ => Keep::Nothing,
    }
}

fn request(body: &mut Value, content: bool) -> Request {
    let none = Value::Null;
    let parameters = body.get("parameters").unwrap_or(&none);
    let int = |key: &str| fields::int(parameters, key).or_else(|| fields::int(body, key));
    let float = |key: &str| fields::float(parameters, key).or_else(|| fields::float(body, key));
    let stops = [fields::texts(parameters, "stop"), fields::texts(body, "stop")];
    Request {
        model: fields::text(body, "model"),
        stream: body.get("stream") == Some(&Value::Bool(true)),
        max_tokens: int("max_new_tokens").or_else(|| int("n_predict")).filter(|count| *count >= 0),
        temperature: float("temperature"),
        top_p: float("top_p"),
        top_k: float("top_k"),
        frequency_penalty: float("frequency_penalty"),
        presence_penalty: float("presence_penalty"),
        stop_sequences: stops.into_iter().find(|stops| !stops.is_empty()).unwrap_or_default(),
        seed: int("seed"),
        content: content.then(|| request_content(body)),
        ..Request::default()
    }
}

fn request_content(body: &mut Value) -> RequestContent {
    let text = fields::take_text(body, "inputs").or_else(|| fields::take_text(body, "prompt"));
    let message = |text| Message { role: "user".to_owned(), name: None, parts: vec![Part::Text(text)] };
    RequestContent { messages: text.map(message).into_iter().collect(), ..RequestContent::default() }
}

/// A whole response, or an event of a stream.
fn event(answer: &mut Answer, body: &mut Value) {
    // TGI answers `/` with a list of one.
    if let Value::Array(items) = body {
        let mut first = items.first_mut().map(Value::take).unwrap_or_default();
        return event(answer, &mut first);
    }
    if let Some(mut failure) = answer::failure(body, answer.wants_content()) {
        failure.kind = fields::text(body, "error_type").or(failure.kind);
        answer.recognised |= body.get("error_type").is_some();
        answer.failure = Some(failure);
        return;
    }
    let ranked = body.get("results").is_some_and(Value::is_array);
    answer.one_message = !ranked;
    answer.head(body);
    answer.recognised |= ranked
        || body.get("token").is_some_and(Value::is_object)
        || body.get("generated_text").is_some_and(Value::is_string)
        || (body.get("content").is_some() && body.get("stop").is_some());
    let billed = body.pointer("/meta/tokens").or_else(|| body.get("usage"));
    let count = |of: Option<&Value>, keys: &[&str]| keys.iter().find_map(|key| fields::int(of?, key));
    let details = body.get("details").filter(|details| details.is_object());
    let tokens = &mut answer.response.usage;
    tokens.input = count(billed, &["input_tokens", "prompt_tokens", "total_tokens"])
        .or_else(|| count(details, &["input_length"]))
        .or_else(|| fields::int(body, "tokens_evaluated"))
        .or(tokens.input);
    tokens.output = count(details, &["generated_tokens"])
        .or_else(|| fields::int(body, "tokens_predicted"))
        .or(tokens.output);
    let token = body.pointer_mut("/token/text").map(Value::take);
    let text = match token {
        Some(Value::String(text)) => Some(text),
        _ => fields::take_text(body, "generated_text").or_else(|| fields::take_text(body, "content")),
    };
    answer.append(0, Piece::Text, text.as_deref().unwrap_or(""));
    let details = body.get("details").unwrap_or(&Value::Null);
    if let Some(reason) = fields::text(details, "finish_reason") {
        answer.finish_reason = Some(reason);
    }
    if body.get("stop") == Some(&Value::Bool(true)) {
        let kind = fields::text(body, "stop_type");
        answer.finish_reason =
            Some(if kind.as_deref() == Some("limit") { "length" } else { "stop" }.to_owned());
        answer.done = true;
    }
}
