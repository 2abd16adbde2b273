//! OpenAI's Realtime (a WebSocket at `…/realtime`), as far as text goes: audio is passed over, its transcript is kept.
//!
//! What a response is asked with comes in several messages: the session's configuration, the items that the client adds
//! to the conversation, the fields of `response.create`. Together they are what a request to Responses says at once, and
//! so they are read as one. Of the conversation a call has the items that were added since the call before it.

use super::answer::Answer;
use super::{Format, Hints, fields, history, openai_responses};
use crate::call::{Operation, Request};
use crate::json::{Keep, Step};
use serde_json::{Map, Value, json};

pub(super) const FORMAT: Format = Format {
    operation: Operation::Chat,
    request_filter,
    response_filter: openai_responses::FORMAT.response_filter,
    event_filter,
    is_request,
    history: history::filter,
    request,
    whole: openai_responses::FORMAT.whole,
    event,
};

/// Whoever asks for a response asks a model: the session has one.
fn is_request(_: &Value, _: &Hints) -> bool {
    true
}

/// What is known of a session.
#[derive(Default)]
pub(super) struct Session {
    /// Of `session.created`.
    id: Option<String>,
    /// Its configuration.
    fields: Map<String, Value>,
    /// What the client has added to the conversation since the last response.
    items: Vec<Value>,
    /// Bytes of memory that they take.
    held: usize,
    /// Some were left out.
    cut: bool,
    /// The id of the last response.
    last: Option<String>,
}

/// What a response is asked with.
pub(super) struct Asked {
    /// In the shape of a request to Responses.
    pub(super) request: Value,
    /// The same, with what tells this session's history from any other.
    pub(super) history: Value,
    /// Something of it was left out.
    pub(super) cut: bool,
}

impl Session {
    /// What the items of one call may take, in bytes of memory: as much as is kept of any request.
    const MOST: usize = 8 << 20;

    /// Takes what a message of either side says of the session, as [`message_filter`] or [`event_filter`] keeps it.
    pub(super) fn hear(&mut self, message: &mut Value) {
        match fields::text(message, "type").as_deref() {
            Some("session.created" | "session.update" | "session.updated") => {
                if let Some(Value::Object(session)) = fields::take(message, "session") {
                    self.id = session.get("id").and_then(fields::short).or(self.id.take());
                    self.fields.extend(session);
                }
            }
            Some("conversation.item.create") => {
                if let Some(item) = fields::take(message, "item") {
                    let size = fields::memory(&item);
                    let fits = self.held.saturating_add(size) <= Self::MOST;
                    self.cut |= !fits;
                    if fits {
                        self.held += size;
                        self.items.push(item);
                    }
                }
            }
            Some("response.done") => {
                let id = message.get("response").and_then(|response| fields::text(response, "id"));
                self.last = id.or(self.last.take());
            }
            _ => {}
        }
    }

    /// Bytes that its items take, about.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.held
    }

    /// A response begins, with these fields of its own.
    pub(super) fn ask(&mut self, response: Option<Value>) -> Asked {
        let mut request = self.fields.clone();
        let items = std::mem::take(&mut self.items);
        self.held = 0;
        request.insert("input".to_owned(), Value::Array(items));
        if let Some(Value::Object(own)) = response {
            request.extend(own);
        }
        let limit = request.get("max_response_output_tokens").cloned();
        limit.map(|limit| request.entry("max_output_tokens").or_insert(limit));
        let mut history = Value::Object(request.clone());
        // What is kept of items without their content is the same in many sessions.
        match (&self.id, history["input"].as_array_mut()) {
            (Some(id), Some(items)) => items.insert(0, json!({"type": "session", "id": id})),
            _ => history["input"] = Value::Null,
        }
        if let Some(last) = &self.last {
            history["previous_response_id"] = json!(last);
        }
        Asked { request: Value::Object(request), history, cut: std::mem::take(&mut self.cut) }
    }
}

/// What is kept of a message of the client.
pub(super) fn message_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["type" | "event_id"] => Keep::Into,
        ["session" | "response", rest @ ..] => keep_configuration(rest, content),
        ["item", rest @ ..] => keep_item(rest, content),
        _ => Keep::Nothing,
    }
}

fn request_filter(path: &[Step], content: bool) -> Keep {
    match path.first().map_or("", Step::name) {
        "modalities" | "output_modalities" => Keep::Into,
        _ => (openai_responses::FORMAT.request_filter)(path, content),
    }
}

fn keep_configuration(names: &[&str], content: bool) -> Keep {
    match names {
        [] => Keep::Into,
        ["id" | "model" | "temperature" | "max_output_tokens" | "max_response_output_tokens"] => Keep::Into,
        ["modalities" | "output_modalities" | "reasoning", ..] => Keep::Into,
        ["instructions" | "tools"] if content => Keep::All,
        // That there are any.
        ["tools"] | ["tools", "*"] | ["tools", "*", "type"] => Keep::Into,
        ["input"] => Keep::Into,
        ["input", "*", rest @ ..] => keep_item(rest, content),
        _ => Keep::Nothing,
    }
}

/// Of an item all but audio.
fn keep_item(names: &[&str], content: bool) -> Keep {
    match names {
        [] | ["type" | "role" | "call_id" | "name" | "content"] => Keep::Into,
        ["content", "*"] | ["content", "*", "type"] => Keep::Into,
        ["content", "*", "text" | "transcript" | "image_url"] | ["output" | "arguments"] if content => {
            Keep::All
        }
        _ => Keep::Nothing,
    }
}

fn event_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        ["response_id"] | ["error", "event_id"] => Keep::Into,
        ["session", rest @ ..] => keep_configuration(rest, content),
        ["response", "status_details", rest @ ..] => match rest {
            ["error", "message"] if !content => Keep::Nothing,
            [] | ["reason" | "error"] | ["error", "code" | "type" | "message"] => Keep::Into,
            _ => Keep::Nothing,
        },
        _ => (openai_responses::FORMAT.event_filter)(path, content),
    }
}

fn request(body: &mut Value, content: bool) -> Request {
    let modality = ["output_modalities", "modalities"]
        .into_iter()
        .find_map(|key| body.get(key)?.as_array())
        .map(|all| {
            // Spoken answers have their text with them.
            if all.iter().any(|modality| modality == "audio") { "speech" } else { "text" }
        });
    transcripts_are_texts(body.get_mut("input"));
    Request { output_type: modality, ..(openai_responses::FORMAT.request)(body, content) }
}

/// What is said as audio is kept as its transcript.
fn transcripts_are_texts(items: Option<&mut Value>) {
    for item in items.and_then(Value::as_array_mut).into_iter().flatten() {
        for part in item.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(text) = fields::take_text(part, "transcript") {
                *part = json!({"type": "text", "text": text});
            }
        }
    }
}

/// The events of Responses under other names; the last one has the status in it.
fn event(answer: &mut Answer, body: &mut Value) {
    let kind = fields::text(body, "type").unwrap_or_default();
    let same = match kind.as_str() {
        "response.text.delta"
        | "response.audio_transcript.delta"
        | "response.output_audio_transcript.delta" => "response.output_text.delta".to_owned(),
        "response.output_item.done" => {
            if let Some(item) = fields::take(body, "item") {
                let mut items = json!([item]);
                transcripts_are_texts(Some(&mut items));
                body["item"] = items[0].take();
            }
            kind
        }
        "response.done" => {
            let Some(response) = body.get_mut("response").filter(|response| response.is_object()) else {
                return;
            };
            let status = fields::text(response, "status").unwrap_or_default();
            if let Some(mut details) = fields::take(response, "status_details") {
                response["error"] = details["error"].take();
                response["incomplete_details"] = details;
            }
            transcripts_are_texts(response.get_mut("output"));
            format!("response.{status}")
        }
        _ => kind,
    };
    body["type"] = Value::String(same);
    (openai_responses::FORMAT.event)(answer, body);
}
