//! OpenAI's older Completions, which servers of open models still offer.

use super::{Content, Making, Rendered, done, event, openai_reason, told};
use crate::answer::deltas;
use crate::ids::Ids;
use serde_json::{Value, json};

/// A `text_completion`, or its chunks.
pub fn render(making: &Making<'_>, ids: &mut Ids) -> Rendered {
    let id = ids.id("cmpl-", 29);
    let answer = making.answer;
    let usage = json!({
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
    });
    let document = |choices: Value, usage: Option<&Value>| {
        let mut document = json!({
            "id": id,
            "object": "text_completion",
            "created": making.now,
            "model": answer.model,
            "choices": choices,
        });
        if let Some(usage) = usage.filter(|_| !making.behaviour.no_usage) {
            document["usage"] = usage.clone();
        }
        document
    };
    let choice = |index: usize, text: &str, finish: Option<&str>| json!({"text": text, "index": index, "logprobs": null, "finish_reason": finish});
    let content = if making.question.stream {
        let mut events = Vec::new();
        for (index, said) in answer.choices.iter().enumerate() {
            for delta in deltas(&said.text, making.behaviour.chunks) {
                events.push(event(making, None, &document(json!([choice(index, delta, None)]), None)));
            }
            let last = choice(index, "", Some(openai_reason(&said.finish)));
            events.push(event(making, None, &document(json!([last]), None)));
        }
        if making.body["stream_options"]["include_usage"] == true {
            events.push(event(making, None, &document(json!([]), Some(&usage))));
        }
        done(making, &mut events);
        Content::Events(events)
    } else {
        let choices = answer.choices.iter().enumerate();
        let choices = choices.map(|(n, c)| choice(n, &c.text, Some(openai_reason(&c.finish)))).collect();
        Content::Whole(document(choices, Some(&usage)).to_string().into_bytes())
    };
    Rendered {
        finish_reasons: answer.choices.iter().map(|c| openai_reason(&c.finish).to_owned()).collect(),
        choices: answer.choices.iter().map(|c| told(c, None)).collect(),
        id: Some(id),
        content,
    }
}
