//! OpenAI's Chat Completions.

use super::{Content, Making, Rendered, done, event, openai_reason, told};
use crate::answer::{Choice, deltas};
use crate::ids::Ids;
use serde_json::{Value, json};

/// A `chat.completion`, or its chunks.
pub fn render(making: &Making<'_>, ids: &mut Ids) -> Rendered {
    let id = ids.id("chatcmpl-", 29);
    let answer = making.answer;
    let content = if making.question.stream {
        Content::Events(chunks(making, &id))
    } else {
        Content::Whole(completion(making, &id).to_string().into_bytes())
    };
    // OpenAI keeps the reasoning to itself; servers of open models tell it in `reasoning_content`.
    let visible = making.behaviour.reasoning.as_deref();
    Rendered {
        id: Some(id),
        finish_reasons: answer.choices.iter().map(|c| openai_reason(&c.finish).to_owned()).collect(),
        choices: answer.choices.iter().map(|c| told(c, visible)).collect(),
        content,
    }
}

fn completion(making: &Making<'_>, id: &str) -> Value {
    let choices: Vec<_> =
        making.answer.choices.iter().enumerate().map(|(n, c)| choice(making, n, c)).collect();
    let mut completion = json!({
        "id": id,
        "object": "chat.completion",
        "created": making.now,
        "model": making.answer.model,
        "choices": choices,
        "usage": usage(making),
        "service_tier": service_tier(making),
        "system_fingerprint": "fp_44709d6fcb",
    });
    if making.behaviour.no_usage {
        completion.as_object_mut().map(|c| c.remove("usage"));
    }
    completion
}

fn choice(making: &Making<'_>, index: usize, choice: &Choice) -> Value {
    let said = (!choice.text.is_empty()).then_some(choice.text.as_str());
    let mut message = json!({
        "role": "assistant",
        "content": if choice.refused { None } else { said },
        "refusal": if choice.refused { said } else { None },
        "annotations": [],
    });
    if let Some(reasoning) = &making.behaviour.reasoning {
        message["reasoning_content"] = json!(reasoning);
    }
    if !choice.calls.is_empty() {
        message["tool_calls"] = choice
            .calls
            .iter()
            .map(|call| {
                json!({
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                })
            })
            .collect();
    }
    json!({
        "index": index,
        "message": message,
        "logprobs": null,
        "finish_reason": openai_reason(&choice.finish),
    })
}

fn usage(making: &Making<'_>) -> Value {
    let answer = making.answer;
    json!({
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": answer.cached_tokens,
            "cache_write_tokens": answer.cache_write_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": answer.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

/// `auto` is answered with the tier that served.
fn service_tier<'a>(making: &Making<'a>) -> &'a str {
    match making.body["service_tier"].as_str() {
        None | Some("auto") => "default",
        Some(tier) => tier,
    }
}

fn chunks(making: &Making<'_>, id: &str) -> Vec<Vec<u8>> {
    let answer = making.answer;
    let wants_usage = making.body["stream_options"]["include_usage"] == true && !making.behaviour.no_usage;
    let chunk = |choices: Value, usage: Option<Value>| {
        let mut chunk = json!({
            "id": id,
            "object": "chat.completion.chunk",
            "created": making.now,
            "model": answer.model,
            "service_tier": service_tier(making),
            "system_fingerprint": "fp_44709d6fcb",
            "choices": choices,
        });
        if wants_usage {
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        event(making, None, &chunk)
    };
    let one = |index: usize, delta: Value, finish: Option<&str>| {
        chunk(json!([{"index": index, "delta": delta, "logprobs": null, "finish_reason": finish}]), None)
    };
    let mut events = Vec::new();
    for (index, choice) in answer.choices.iter().enumerate() {
        if choice.calls.is_empty() {
            events.push(one(index, json!({"role": "assistant", "content": "", "refusal": null}), None));
        }
        for delta in making.behaviour.reasoning.iter().flat_map(|r| deltas(r, None)) {
            events.push(one(index, json!({"reasoning_content": delta}), None));
        }
        let field = if choice.refused { "refusal" } else { "content" };
        for delta in deltas(&choice.text, making.behaviour.chunks) {
            events.push(one(index, json!({field: delta}), None));
        }
        for (number, call) in choice.calls.iter().enumerate() {
            let head = json!({
                "index": number,
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": ""},
            });
            let delta = match number {
                0 => json!({"role": "assistant", "content": null, "tool_calls": [head], "refusal": null}),
                _ => json!({"tool_calls": [head]}),
            };
            events.push(one(index, delta, None));
            for arguments in deltas(&call.arguments, None) {
                let delta = json!({"tool_calls": [{"index": number, "function": {"arguments": arguments}}]});
                events.push(one(index, delta, None));
            }
        }
        events.push(one(index, json!({}), Some(openai_reason(&choice.finish))));
    }
    if wants_usage {
        events.push(chunk(json!([]), Some(usage(making))));
    }
    done(making, &mut events);
    events
}
