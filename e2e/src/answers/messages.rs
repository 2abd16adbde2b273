//! Anthropic's Messages.

use super::{Content, Making, Rendered, event, told};
use crate::answer::{Choice, Finish, deltas};
use crate::ids::Ids;
use serde_json::{Value, json};

/// A `message`, or the events that build it.
pub fn render(making: &Making<'_>, ids: &mut Ids) -> Rendered {
    let id = ids.id("msg_01", 22);
    let signature = ids.id("Ep", 64);
    // The API has one choice only.
    let choice = &making.answer.choices[0];
    let blocks = blocks(choice, &signature);
    let content = if making.question.stream {
        Content::Events(events(making, &id, choice, &blocks))
    } else {
        let message = message(making, &id, &json!(blocks), Some(choice), making.answer.output_tokens);
        Content::Whole(message.to_string().into_bytes())
    };
    let mut told = told(choice, choice.reasoning.as_deref());
    // A refusal is a stop reason here, its words are text.
    told.text.clone_from(&choice.text);
    told.refusal = None;
    Rendered {
        id: Some(id),
        finish_reasons: vec![reason(&choice.finish).to_owned()],
        choices: vec![told],
        content,
    }
}

/// The answer of `count_tokens`.
pub fn count(making: &Making<'_>) -> Rendered {
    Rendered {
        id: None,
        finish_reasons: Vec::new(),
        choices: Vec::new(),
        content: Content::Whole(
            json!({"input_tokens": making.question.input_tokens}).to_string().into_bytes(),
        ),
    }
}

fn reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::Sequence(_) => "stop_sequence",
        Finish::Length => "max_tokens",
        Finish::Tools => "tool_use",
        Finish::Filter | Finish::Refusal => "refusal",
    }
}

fn blocks(choice: &Choice, signature: &str) -> Vec<Value> {
    let thinking = choice
        .reasoning
        .iter()
        .map(|thinking| json!({"type": "thinking", "thinking": thinking, "signature": signature}));
    let text =
        (!choice.text.is_empty()).then(|| json!({"type": "text", "text": choice.text, "citations": null}));
    let calls = choice.calls.iter().map(|call| {
        let input: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
        json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input})
    });
    thinking.chain(text).chain(calls).collect()
}

/// The message; a stream starts with one that has no stop reason yet.
fn message(
    making: &Making<'_>,
    id: &str,
    content: &Value,
    ended: Option<&Choice>,
    output_tokens: u64,
) -> Value {
    let mut message = json!({
        "model": making.answer.model,
        "id": id,
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": ended.map(|choice| reason(&choice.finish)),
        "stop_sequence": ended.and_then(|choice| sequence(&choice.finish)),
    });
    let mut usage = input_usage(making);
    usage["cache_creation"] = json!({
        "ephemeral_5m_input_tokens": making.answer.cache_write_tokens,
        "ephemeral_1h_input_tokens": 0,
    });
    usage["output_tokens"] = json!(output_tokens);
    usage["service_tier"] = json!("standard");
    if ended.is_some() {
        usage["output_tokens_details"] = json!({"thinking_tokens": making.answer.reasoning_tokens});
    }
    message["usage"] = usage;
    message
}

/// Cached tokens are told beside `input_tokens`, not within.
fn input_usage(making: &Making<'_>) -> Value {
    let answer = making.answer;
    json!({
        "input_tokens": answer.input_tokens - answer.cached_tokens - answer.cache_write_tokens,
        "cache_creation_input_tokens": answer.cache_write_tokens,
        "cache_read_input_tokens": answer.cached_tokens,
    })
}

fn sequence(finish: &Finish) -> Option<&str> {
    match finish {
        Finish::Sequence(sequence) => Some(sequence),
        _ => None,
    }
}

fn events(making: &Making<'_>, id: &str, choice: &Choice, blocks: &[Value]) -> Vec<Vec<u8>> {
    let send = |name: &str, mut data: Value| {
        data["type"] = json!(name);
        event(making, Some(name), &data)
    };
    let mut events =
        vec![send("message_start", json!({"type": "", "message": message(making, id, &json!([]), None, 1)}))];
    for (index, block) in blocks.iter().enumerate() {
        let (start, parts) = match block["type"].as_str() {
            Some("thinking") => {
                let thinking = block["thinking"].as_str().unwrap_or_default();
                let mut parts: Vec<_> = deltas(thinking, None)
                    .into_iter()
                    .map(|part| json!({"type": "thinking_delta", "thinking": part}))
                    .collect();
                parts.push(json!({"type": "signature_delta", "signature": block["signature"]}));
                (json!({"type": "thinking", "thinking": "", "signature": ""}), parts)
            }
            Some("tool_use") => {
                let mut start = block.clone();
                start["input"] = json!({});
                let arguments = block["input"].to_string();
                let parts = std::iter::once("").chain(deltas(&arguments, None));
                (start, parts.map(|part| json!({"type": "input_json_delta", "partial_json": part})).collect())
            }
            _ => {
                let text = block["text"].as_str().unwrap_or_default();
                let parts = deltas(text, making.behaviour.chunks);
                (
                    json!({"type": "text", "text": ""}),
                    parts.into_iter().map(|part| json!({"type": "text_delta", "text": part})).collect(),
                )
            }
        };
        events.push(send("content_block_start", json!({"type": "", "index": index, "content_block": start})));
        if index == 0 {
            events.push(send("ping", json!({"type": ""})));
        }
        events.extend(
            parts.into_iter().map(|delta| {
                send("content_block_delta", json!({"type": "", "index": index, "delta": delta}))
            }),
        );
        events.push(send("content_block_stop", json!({"type": "", "index": index})));
    }
    let mut usage = input_usage(making);
    usage["output_tokens"] = json!(making.answer.output_tokens);
    usage["output_tokens_details"] = json!({"thinking_tokens": making.answer.reasoning_tokens});
    events.push(send(
        "message_delta",
        json!({
            "type": "",
            "delta": {"stop_reason": reason(&choice.finish), "stop_sequence": sequence(&choice.finish)},
            "usage": usage,
        }),
    ));
    events.push(send("message_stop", json!({"type": ""})));
    events
}
