//! OpenAI's embeddings (`POST …/embeddings`). Neither the texts nor the vectors are ever kept.

use super::answer::{self, Answer};
use super::{Format, Hints, fields, history, openai};
use crate::call::{Operation, Request};
use crate::json::{Keep, Step};
use serde_json::Value;

pub(super) const FORMAT: Format = Format {
    operation: Operation::Embeddings,
    request_filter,
    response_filter,
    event_filter: response_filter,
    is_request,
    history: history::none,
    request,
    whole,
    event: whole,
};

fn is_request(body: &Value, hints: &Hints) -> bool {
    body.get("input").is_some_and(|input| input.is_string() || input.is_array())
        && (hints.model_in_path || fields::text(body, "model").is_some())
}

fn request_filter(path: &[Step], _: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["model" | "dimensions" | "encoding_format"] | ["encoding_format", "*"] => Keep::Into,
        ["input"] => Keep::Kind,
        _ => Keep::Nothing,
    }
}

fn response_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["model" | "object" | "data" | "usage"] | ["usage", ..] => Keep::Into,
        // All vectors have the same length.
        ["data", "*"] if path[1] == Step::Index(0) => Keep::Into,
        ["data", "*", "embedding"] => Keep::Count,
        ["error", rest @ ..] => openai::keep_error(rest, content),
        ["code" | "type"] => Keep::Into,
        ["message"] if content => Keep::All,
        _ => Keep::Nothing,
    }
}

fn request(body: &mut Value, _: bool) -> Request {
    Request {
        model: fields::text(body, "model"),
        dimensions: fields::int(body, "dimensions"),
        encoding_formats: fields::texts(body, "encoding_format"),
        ..Request::default()
    }
}

fn whole(answer: &mut Answer, body: &mut Value) {
    if let Some(failure) = answer::failure(body, answer.wants_content()) {
        answer.failure = Some(failure);
        return;
    }
    answer.head(body);
    if let Some(usage) = openai::usage(body) {
        answer.response.usage = crate::call::Usage { input: usage.input, ..Default::default() };
    }
    // The length of the vector as it was sent: of a base64 text its characters, which is what OpenTelemetry's own
    // instrumentation reports where base64 was asked for.
    let first = body.get("data").and_then(|data| data.get(0));
    answer.response.dimensions =
        first.and_then(|first| fields::int(first, "embedding")).filter(|length| *length > 0);
    answer.recognised |= answer.response.dimensions.is_some();
}
