//! OpenAI's Responses.

use super::{Content, Making, Rendered, event, told};
use crate::answer::{Finish, deltas};
use crate::ids::Ids;
use serde_json::{Value, json};

/// A `response`, or the events that build it.
pub fn render(making: &Making<'_>, ids: &mut Ids) -> Rendered {
    let id = ids.hex("resp_", 48);
    // The API has one choice only.
    let choice = &making.answer.choices[0];
    let wants_summary =
        making.body["reasoning"]["summary"].is_string() || making.behaviour.reasoning.is_some();
    let summary = choice.reasoning.as_deref().filter(|_| wants_summary);
    let mut items = Vec::new();
    if choice.reasoning.is_some() {
        let parts: Vec<_> =
            summary.iter().map(|text| json!({"type": "summary_text", "text": text})).collect();
        items.push(json!({"id": ids.hex("rs_", 48), "type": "reasoning", "summary": parts}));
    }
    if !choice.text.is_empty() {
        let part = if choice.refused {
            json!({"type": "refusal", "refusal": choice.text})
        } else {
            json!({"type": "output_text", "annotations": [], "logprobs": [], "text": choice.text})
        };
        items.push(json!({
            "id": ids.hex("msg_", 48),
            "type": "message",
            "status": status(&choice.finish),
            "content": [part],
            "role": "assistant",
        }));
    }
    for call in &choice.calls {
        items.push(json!({
            "id": ids.hex("fc_", 48),
            "type": "function_call",
            "status": "completed",
            "arguments": call.arguments,
            "call_id": call.id,
            "name": call.name,
        }));
    }
    let content = if making.question.stream {
        Content::Events(events(making, &id, &items))
    } else {
        Content::Whole(response(making, &id, status(&choice.finish), &items).to_string().into_bytes())
    };
    Rendered {
        id: Some(id),
        finish_reasons: vec![reason(&choice.finish).to_owned()],
        choices: vec![told(choice, summary)],
        content,
    }
}

fn status(finish: &Finish) -> &'static str {
    match finish {
        Finish::Length | Finish::Filter => "incomplete",
        _ => "completed",
    }
}

/// The status, or why it is incomplete.
fn reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Length => "max_output_tokens",
        Finish::Filter => "content_filter",
        _ => "completed",
    }
}

/// The response object in one of its states; only an ended one has a usage.
fn response(making: &Making<'_>, id: &str, status: &str, output: &[Value]) -> Value {
    let (body, answer) = (making.body, making.answer);
    let given = |name: &str, default: Value| match &body[name] {
        Value::Null => default,
        value => value.clone(),
    };
    let ended = status != "in_progress";
    let incomplete = (status == "incomplete").then(|| json!({"reason": reason(&answer.choices[0].finish)}));
    let usage = (ended && !making.behaviour.no_usage).then(|| {
        json!({
            "input_tokens": answer.input_tokens,
            "input_tokens_details": {
                "cached_tokens": answer.cached_tokens,
                "cache_write_tokens": answer.cache_write_tokens,
            },
            "output_tokens": answer.output_tokens,
            "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
            "total_tokens": answer.input_tokens + answer.output_tokens,
        })
    });
    json!({
        "id": id,
        "object": "response",
        "created_at": making.now,
        "status": status,
        "background": false,
        "error": null,
        "incomplete_details": incomplete,
        "instructions": given("instructions", Value::Null),
        "max_output_tokens": given("max_output_tokens", Value::Null),
        "max_tool_calls": null,
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": given("parallel_tool_calls", json!(true)),
        "previous_response_id": given("previous_response_id", Value::Null),
        "prompt_cache_key": null,
        "reasoning": given("reasoning", json!({"effort": null, "summary": null})),
        "safety_identifier": null,
        "service_tier": match body["service_tier"].as_str() {
            None | Some("auto") => "default",
            Some(tier) => tier,
        },
        "store": given("store", json!(true)),
        "temperature": given("temperature", json!(1.0)),
        "text": given("text", json!({"format": {"type": "text"}, "verbosity": "medium"})),
        "tool_choice": given("tool_choice", json!("auto")),
        "tools": given("tools", json!([])),
        "top_logprobs": 0,
        "top_p": given("top_p", json!(1.0)),
        "truncation": "disabled",
        "usage": usage,
        "user": null,
        "metadata": given("metadata", json!({})),
    })
}

fn events(making: &Making<'_>, id: &str, items: &[Value]) -> Vec<Vec<u8>> {
    let mut stream = Stream { making, events: Vec::new() };
    stream.send("response.created", json!({"response": response(making, id, "in_progress", &[])}));
    stream.send("response.in_progress", json!({"response": response(making, id, "in_progress", &[])}));
    for (index, item) in items.iter().enumerate() {
        stream.item(index, item);
    }
    let status = status(&making.answer.choices[0].finish);
    stream.send(&format!("response.{status}"), json!({"response": response(making, id, status, items)}));
    stream.events
}

struct Stream<'a> {
    making: &'a Making<'a>,
    events: Vec<Vec<u8>>,
}

impl Stream<'_> {
    fn send(&mut self, name: &str, fields: Value) {
        let mut data = json!({"type": name, "sequence_number": self.events.len()});
        if let (Some(data), Value::Object(fields)) = (data.as_object_mut(), fields) {
            data.extend(fields);
        }
        self.events.push(event(self.making, Some(name), &data));
    }

    fn item(&mut self, index: usize, item: &Value) {
        let mut started = item.clone();
        match item["type"].as_str() {
            Some("reasoning") => started["summary"] = json!([]),
            Some("message") => {
                started["content"] = json!([]);
                started["status"] = json!("in_progress");
            }
            _ => {
                started["arguments"] = json!("");
                started["status"] = json!("in_progress");
            }
        }
        self.send("response.output_item.added", json!({"output_index": index, "item": started}));
        let id = &item["id"];
        match item["type"].as_str() {
            Some("reasoning") => {
                for (number, part) in item["summary"].as_array().into_iter().flatten().enumerate() {
                    let place = json!({"item_id": id, "output_index": index, "summary_index": number});
                    self.part("reasoning_summary_part", "reasoning_summary_text", &place, part, "text");
                }
            }
            Some("message") => {
                for (number, part) in item["content"].as_array().into_iter().flatten().enumerate() {
                    let place = json!({"item_id": id, "output_index": index, "content_index": number});
                    let (name, field) = if part["type"] == "refusal" {
                        ("refusal", "refusal")
                    } else {
                        ("output_text", "text")
                    };
                    self.part("content_part", name, &place, part, field);
                }
            }
            _ => {
                let arguments = item["arguments"].as_str().unwrap_or_default();
                for delta in deltas(arguments, None) {
                    self.send(
                        "response.function_call_arguments.delta",
                        json!({"item_id": id, "output_index": index, "delta": delta}),
                    );
                }
                self.send(
                    "response.function_call_arguments.done",
                    json!({"item_id": id, "output_index": index, "name": item["name"], "arguments": arguments}),
                );
            }
        }
        self.send("response.output_item.done", json!({"output_index": index, "item": item}));
    }

    /// A part with its text in deltas: `{part}.added`, `{text}.delta`, `{text}.done`, `{part}.done`.
    fn part(&mut self, part_name: &str, text_name: &str, place: &Value, part: &Value, field: &str) {
        let with = |name: &str, value: Value| {
            let mut fields = place.clone();
            fields[name] = value;
            fields
        };
        let mut empty = part.clone();
        empty[field] = json!("");
        self.send(&format!("response.{part_name}.added"), with("part", empty));
        let text = part[field].as_str().unwrap_or_default();
        for delta in deltas(text, self.making.behaviour.chunks) {
            self.send(&format!("response.{text_name}.delta"), with("delta", json!(delta)));
        }
        self.send(&format!("response.{text_name}.done"), with(field, json!(text)));
        self.send(&format!("response.{part_name}.done"), with("part", part.clone()));
    }
}
