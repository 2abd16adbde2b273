//! Google's `…:generateContent` and its kin.

use super::{Content, Making, Rendered, event, told};
use crate::answer::{Choice, Finish, deltas};
use crate::ids::Ids;
use serde_json::{Value, json};

/// A `GenerateContentResponse`, or the stream of them that tells the same.
pub fn render(making: &Making<'_>, ids: &mut Ids) -> Rendered {
    let id = ids.id("", 22);
    // More than one candidate is asked for by no client of ours.
    let choice = &making.answer.choices[0];
    let content = if making.question.stream {
        Content::Events(events(making, &id, choice))
    } else {
        let parts: Vec<_> = thoughts(choice).chain(text(choice)).chain(calls(choice)).collect();
        Content::Whole(response(making, &id, &parts, Some(choice)).to_string().into_bytes())
    };
    let mut told = told(choice, choice.reasoning.as_deref());
    // A refusal is a reason here, its words are text.
    told.text.clone_from(&choice.text);
    told.refusal = None;
    Rendered {
        id: Some(id),
        finish_reasons: vec![reason(&choice.finish).to_owned()],
        choices: vec![told],
        content,
    }
}

/// The answer of `countTokens`.
pub fn count(making: &Making<'_>) -> Rendered {
    let count = json!({"totalTokens": making.question.input_tokens});
    Rendered {
        id: None,
        finish_reasons: Vec::new(),
        choices: Vec::new(),
        content: Content::Whole(count.to_string().into_bytes()),
    }
}

fn reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::Sequence(_) | Finish::Tools => "STOP",
        Finish::Length => "MAX_TOKENS",
        Finish::Filter | Finish::Refusal => "SAFETY",
    }
}

fn thoughts(choice: &Choice) -> impl Iterator<Item = Value> {
    choice.reasoning.iter().map(|thought| json!({"text": thought, "thought": true}))
}

fn text(choice: &Choice) -> Option<Value> {
    (!choice.text.is_empty()).then(|| json!({"text": choice.text}))
}

fn calls(choice: &Choice) -> impl Iterator<Item = Value> {
    choice.calls.iter().map(|call| {
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
        json!({"functionCall": {"id": call.id, "name": call.name, "args": arguments}})
    })
}

/// One response; only the last of a stream has ended, and tells the whole usage.
fn response(making: &Making<'_>, id: &str, parts: &[Value], ended: Option<&Choice>) -> Value {
    let answer = making.answer;
    let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
    let mut usage = json!({"promptTokenCount": answer.input_tokens, "totalTokenCount": answer.input_tokens});
    if let Some(choice) = ended {
        candidate["finishReason"] = json!(reason(&choice.finish));
        usage["candidatesTokenCount"] = json!(answer.output_tokens - answer.reasoning_tokens);
        usage["totalTokenCount"] = json!(answer.input_tokens + answer.output_tokens);
        for (name, count) in [
            ("thoughtsTokenCount", answer.reasoning_tokens),
            ("cachedContentTokenCount", answer.cached_tokens),
        ] {
            if count > 0 {
                usage[name] = json!(count);
            }
        }
    }
    json!({
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": answer.model,
        "responseId": id,
    })
}

fn events(making: &Making<'_>, id: &str, choice: &Choice) -> Vec<Vec<u8>> {
    let texts = deltas(&choice.text, making.behaviour.chunks).into_iter().map(|text| json!({"text": text}));
    let mut pieces: Vec<Value> = thoughts(choice).chain(texts).chain(calls(choice)).collect();
    let last = pieces.pop().unwrap_or_else(|| json!({"text": ""}));
    let mut responses: Vec<_> = pieces.into_iter().map(|part| response(making, id, &[part], None)).collect();
    responses.push(response(making, id, &[last], Some(choice)));
    responses.iter().map(|response| event(making, None, response)).collect()
}
