//! OpenAI's legacy text completions (`POST …/completions`).

use super::answer::{Answer, Piece};
use super::{Format, Hints, fields, history, openai, openai_chat};
use crate::call::{Message, Operation, Part, Request, RequestContent};
use crate::json::{Keep, Step};
use serde_json::Value;

pub(super) const FORMAT: Format = Format {
    operation: Operation::TextCompletion,
    request_filter,
    response_filter: openai_chat::FORMAT.response_filter,
    event_filter: openai_chat::FORMAT.event_filter,
    is_request,
    history: history::none,
    request,
    whole: event,
    event,
};

fn is_request(body: &Value, hints: &Hints) -> bool {
    body.get("prompt").is_some_and(|prompt| prompt.is_string() || prompt.is_array())
        && (hints.model_in_path || fields::text(body, "model").is_some())
}

fn request_filter(path: &[Step], content: bool) -> Keep {
    match path {
        [step] if step.name() == "prompt" => {
            if content {
                Keep::All
            } else {
                Keep::Kind
            }
        }
        [step] if matches!(step.name(), "messages" | "tools" | "functions") => Keep::Nothing,
        _ => (openai_chat::FORMAT.request_filter)(path, false),
    }
}

fn request(body: &mut Value, content: bool) -> Request {
    // The parameters are those of a chat.
    let prompt = fields::take(body, "prompt");
    let mut request = (openai_chat::FORMAT.request)(body, false);
    request.content =
        content.then(|| RequestContent { messages: messages(prompt), ..RequestContent::default() });
    request
}

/// One message for each prompt; prompts of token numbers are left out.
fn messages(prompt: Option<Value>) -> Vec<Message> {
    let prompts = match prompt {
        Some(Value::Array(prompts)) => prompts,
        Some(prompt) => vec![prompt],
        None => Vec::new(),
    };
    let message = |prompt| match prompt {
        Value::String(text) => {
            Some(Message { role: "user".to_owned(), name: None, parts: vec![Part::Text(text)] })
        }
        _ => None,
    };
    prompts.into_iter().filter_map(message).collect()
}

fn event(answer: &mut Answer, body: &mut Value) {
    for (index, mut choice) in openai::choices(answer, body) {
        let text = fields::take_text(&mut choice, "text");
        answer.append(index, Piece::Text, text.as_deref().unwrap_or(""));
    }
}
