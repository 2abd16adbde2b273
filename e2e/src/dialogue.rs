//! What is said over a WebSocket, as the providers say it: OpenAI's Responses and Realtime.
//!
//! Each response is made as one over HTTP, to the request that the messages come to; only its events are put into messages.

use crate::answers::Content;
use crate::response::Response;
use serde_json::{Value, json};

/// What the client has said so far.
pub enum Dialogue {
    /// Each message that asks is whole by itself.
    Responses,
    /// A session, and a conversation that grows.
    Realtime(Realtime),
}

/// A session of Realtime.
pub struct Realtime {
    session: Value,
    items: Vec<Value>,
    /// Items that stood there at the last response.
    answered: usize,
}

/// What becomes of a message of the client.
pub enum Reply {
    /// These messages, and that is all.
    Messages(Vec<Value>),
    /// This request is to be answered as over HTTP; `warms_up` with nothing.
    Request {
        /// Its body.
        body: Value,
        /// What of it the messages have said since the last response.
        said: Value,
        /// Nothing is to be generated.
        warms_up: bool,
    },
}

impl Dialogue {
    /// The dialogue of a path, and the model that its query names.
    pub fn of(path: &str, query: &str) -> Option<Dialogue> {
        if path.ends_with("/responses") {
            return Some(Dialogue::Responses);
        }
        let model = query.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            matches!(name, "model" | "deployment").then_some(value)
        });
        let session = json!({
            "type": "realtime", "object": "realtime.session", "id": "sess_agentsight", "model": model.unwrap_or("gpt-realtime"),
            "output_modalities": ["audio"], "instructions": "", "tools": [], "tool_choice": "auto", "max_output_tokens": "inf",
        });
        path.ends_with("/realtime")
            .then(|| Dialogue::Realtime(Realtime { session, items: Vec::new(), answered: 0 }))
    }

    /// What the server says first.
    pub fn greeting(&self) -> Vec<Value> {
        match self {
            Dialogue::Responses => Vec::new(),
            Dialogue::Realtime(realtime) => {
                vec![json!({"type": "session.created", "event_id": "event_0", "session": realtime.session})]
            }
        }
    }

    /// What a message asks for.
    pub fn hear(&mut self, mut message: Value) -> Reply {
        let kind = message["type"].as_str().unwrap_or_default().to_owned();
        let realtime = match self {
            Dialogue::Responses if kind == "response.create" => {
                message["stream"] = json!(true);
                let warms_up = message["generate"] == false;
                return Reply::Request { said: message.clone(), body: message, warms_up };
            }
            Dialogue::Responses => return Reply::Messages(vec![unknown(&kind)]),
            Dialogue::Realtime(realtime) => realtime,
        };
        match kind.as_str() {
            "session.update" => {
                merge(&mut realtime.session, &message["session"]);
                Reply::Messages(vec![
                    json!({"type": "session.updated", "event_id": "event_1", "session": realtime.session}),
                ])
            }
            "conversation.item.create" => {
                let mut item = message["item"].take();
                item["id"] = json!(format!("item_{}", realtime.items.len()));
                realtime.items.push(item.clone());
                let told = |kind: &str| json!({"type": kind, "event_id": "event_2", "item": item});
                Reply::Messages(vec![told("conversation.item.added"), told("conversation.item.done")])
            }
            "response.create" => {
                let mut body = realtime.session.clone();
                body["stream"] = json!(true);
                merge(&mut body, &message["response"]);
                if body["max_output_tokens"] == "inf" {
                    body["max_output_tokens"] = Value::Null;
                }
                let mut said = body.clone();
                said["input"] = realtime.items[realtime.answered..].into();
                body["input"] = realtime.items.clone().into();
                realtime.answered = realtime.items.len();
                Reply::Request { body, said, warms_up: false }
            }
            _ => Reply::Messages(vec![unknown(&kind)]),
        }
    }

    /// The messages of a response over HTTP to `body`.
    pub fn messages(&mut self, response: Response, body: &Value, warms_up: bool) -> Vec<Value> {
        let events: Vec<Value> = match response.content {
            Content::Whole(body) => {
                let error: Value = serde_json::from_slice(&body).unwrap_or_default();
                return vec![json!({"type": "error", "status": response.status, "error": error["error"]})];
            }
            Content::Events(events) => events.iter().filter_map(|event| data_of(event)).collect(),
        };
        match self {
            Dialogue::Responses => {
                events.into_iter().filter_map(|event| in_lane(event, body, warms_up)).collect()
            }
            Dialogue::Realtime(realtime) => {
                let id = events.first().map(|event| event["response"]["id"].clone()).unwrap_or_default();
                let last = events.last().map(|event| event["response"]["output"].clone());
                realtime.items.extend(last.iter().filter_map(Value::as_array).flatten().cloned());
                realtime.answered = realtime.items.len();
                events.into_iter().filter_map(|event| of_realtime(event, &id)).collect()
            }
        }
    }
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

fn unknown(kind: &str) -> Value {
    let message = format!("Unknown message type: {kind}");
    json!({"type": "error", "status": 400, "error": {"type": "invalid_request_error", "code": "invalid_value", "message": message}})
}

/// The JSON of a server-sent event.
fn data_of(event: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(event).ok()?;
    text.lines().find_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
}

fn in_lane(mut event: Value, body: &Value, warms_up: bool) -> Option<Value> {
    if warms_up {
        let kind = event["type"].as_str().unwrap_or_default();
        if !matches!(kind, "response.created" | "response.completed") {
            return None;
        }
        event["response"]["output"] = json!([]);
        if event["response"]["usage"].is_object() {
            event["response"]["usage"]["output_tokens"] = json!(0);
            event["response"]["usage"]["total_tokens"] = event["response"]["usage"]["input_tokens"].clone();
        }
    }
    if let Some(lane) = body.get("stream_id") {
        event["stream_id"] = lane.clone();
    }
    Some(event)
}

/// An event of Responses as Realtime tells it.
fn of_realtime(mut event: Value, id: &Value) -> Option<Value> {
    let kind = event["type"].as_str().unwrap_or_default().to_owned();
    event["event_id"] = json!("event_3");
    match kind.as_str() {
        "response.in_progress" => return None,
        "response.created" | "response.completed" | "response.incomplete" => {
            let response = event["response"].take();
            let reason = &response["incomplete_details"]["reason"];
            let usage = &response["usage"];
            if kind != "response.created" {
                event["type"] = json!("response.done");
            }
            event["response"] = json!({
                "object": "realtime.response",
                "id": response["id"],
                "status": response["status"],
                "status_details": {"type": response["status"], "reason": reason},
                "output": response["output"],
                "output_modalities": ["text"],
                "usage": if usage.is_object() { json!({
                    "total_tokens": usage["total_tokens"],
                    "input_tokens": usage["input_tokens"],
                    "output_tokens": usage["output_tokens"],
                    "input_token_details": {
                        "text_tokens": usage["input_tokens"],
                        "audio_tokens": 0,
                        "cached_tokens": usage["input_tokens_details"]["cached_tokens"],
                    },
                    "output_token_details": {"text_tokens": usage["output_tokens"], "audio_tokens": 0},
                }) } else { Value::Null },
            });
        }
        "error" => {
            event["error"] =
                json!({"type": "server_error", "code": event["code"], "message": event["message"]});
        }
        _ => event["response_id"] = id.clone(),
    }
    Some(event)
}
