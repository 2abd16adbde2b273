//! An answer in the shape of each API: one module an API, all of them plain functions from data to bytes.

pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod errors;
pub mod gemini;
pub mod messages;
pub mod models;
pub mod responses;

use crate::answer::{Answer, Choice, Finish};
use crate::behaviour::Behaviour;
use crate::ids::Ids;
use crate::question::{Api, Question};
use crate::truth::{ServedCall, ServedChoice};
use serde_json::Value;

/// A response as it goes out, with what it tells.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The response's id, where the API has one.
    pub id: Option<String>,
    /// In the API's own words, one for each choice.
    pub finish_reasons: Vec<String>,
    /// What a client can know of each choice.
    pub choices: Vec<ServedChoice>,
    /// The body.
    pub content: Content,
}

/// A response's body.
#[derive(Clone, Debug)]
pub enum Content {
    /// One JSON document.
    Whole(Vec<u8>),
    /// Server-sent events, each with the empty line that ends it.
    Events(Vec<Vec<u8>>),
}

/// What every API needs to make its response.
pub struct Making<'a> {
    /// What was asked.
    pub question: &'a Question,
    /// The request's body.
    pub body: &'a Value,
    /// What is said.
    pub answer: &'a Answer,
    /// How.
    pub behaviour: &'a Behaviour,
    /// Unix time in seconds.
    pub now: u64,
}

/// The response to a question.
pub fn render(making: &Making<'_>, ids: &mut Ids) -> Rendered {
    match making.question.api {
        Api::Chat => chat::render(making, ids),
        Api::Responses => responses::render(making, ids),
        Api::Completions => completions::render(making, ids),
        Api::Embeddings => embeddings::render(making),
        Api::Messages => messages::render(making, ids),
        Api::CountTokens => messages::count(making),
        Api::GenerateContent => gemini::render(making, ids),
        Api::GoogleCountTokens => gemini::count(making),
        Api::Models => models::render(making),
    }
}

/// One server-sent event.
fn event(making: &Making<'_>, name: Option<&str>, data: &Value) -> Vec<u8> {
    let newline = making.behaviour.newline.as_bytes();
    let mut event = Vec::with_capacity(256);
    if let Some(name) = name {
        event.extend_from_slice(b"event: ");
        event.extend_from_slice(name.as_bytes());
        event.extend_from_slice(newline);
    }
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(data.to_string().as_bytes());
    event.extend_from_slice(newline);
    event.extend_from_slice(newline);
    event
}

/// The end of OpenAI's streams of chunks.
fn done(making: &Making<'_>, events: &mut Vec<Vec<u8>>) {
    if !making.behaviour.no_done {
        let newline = making.behaviour.newline;
        events.push(format!("data: [DONE]{newline}{newline}").into_bytes());
    }
}

/// OpenAI's word in Chat and Completions.
fn openai_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::Sequence(_) | Finish::Refusal => "stop",
        Finish::Length => "length",
        Finish::Tools => "tool_calls",
        Finish::Filter => "content_filter",
    }
}

/// What a client can know of a choice; `reasoning` where the API lets it see any.
fn told(choice: &Choice, reasoning: Option<&str>) -> ServedChoice {
    ServedChoice {
        text: if choice.refused { String::new() } else { choice.text.clone() },
        refusal: choice.refused.then(|| choice.text.clone()),
        reasoning: reasoning.map(str::to_owned),
        tool_calls: choice
            .calls
            .iter()
            .map(|call| ServedCall {
                id: call.id.clone(),
                name: call.name.clone(),
                arguments: call.arguments.clone(),
            })
            .collect(),
    }
}
