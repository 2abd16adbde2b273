//! A response while it comes in, in one piece or in many.

use super::fields;
use crate::call::{Failure, OutputMessage, Part, Response, ResponseContent, Usage};
use crate::json;
use crate::links::{Private, ToolAsk};
use serde_json::Value;
use std::collections::BTreeMap;

/// What has come of a response so far. Bounded, whatever the provider sends.
pub(super) struct Answer {
    content: bool,
    /// Bytes of content that may still be kept.
    room: usize,
    max_content: usize,
    /// A text was cut: no text comes after it.
    cut: bool,
    /// Id, model, usage and the like; choices are put in at the end.
    pub(super) response: Response,
    /// Token counts in the provider's meaning, where it is not OpenTelemetry's.
    pub(super) separate_usage: Usage,
    /// The choices by their index. OpenAI Responses: the output items, which make up one choice.
    choices: BTreeMap<i64, Choice>,
    /// The tools of the client's that it asks for, content or not.
    asks: Asks,
    /// All choices are one message.
    pub(super) one_message: bool,
    /// Why the one message ended.
    pub(super) finish_reason: Option<String>,
    /// The one message asks for a tool.
    pub(super) asks_for_tool: bool,
    /// The provider's error.
    pub(super) failure: Option<Failure>,
    /// The name of the provider's error, where a header tells it.
    pub(super) error_name: Option<String>,
    /// The provider's own terminator has come.
    pub(super) done: bool,
    /// It can only be an answer of this format.
    pub(super) recognised: bool,
    /// A limit was reached.
    pub(super) truncated: bool,
}

/// One of several answers.
#[derive(Default)]
pub(super) struct Choice {
    pub(super) role: Option<String>,
    pub(super) finish_reason: Option<String>,
    pieces: Vec<(Option<i64>, Piece)>,
}

/// A part that may still grow.
pub(super) enum Piece {
    Text(String),
    Reasoning(String),
    /// A tool call, whose arguments come as pieces of JSON text.
    ToolCall {
        id: Option<String>,
        name: String,
        arguments: String,
    },
    /// A tool call of the provider's own, whose `input` comes as pieces of JSON text.
    ServerToolCall {
        block: Value,
        input: String,
    },
    Whole(Part),
}

impl Answer {
    /// OpenAI allows 128 choices; the Responses API's output items may be as many as its tool calls.
    const MAX_CHOICES: usize = 1024;
    /// More parts than one message has, to bound the flat cost of empty ones.
    const MAX_PIECES: usize = 4096;

    pub(super) fn new(content: bool, max_content: usize) -> Answer {
        Answer {
            content,
            room: max_content,
            max_content,
            cut: false,
            response: Response::default(),
            separate_usage: Usage::default(),
            choices: BTreeMap::new(),
            asks: Asks::default(),
            one_message: false,
            finish_reason: None,
            asks_for_tool: false,
            failure: None,
            error_name: None,
            done: false,
            recognised: false,
            truncated: false,
        }
    }

    pub(super) fn wants_content(&self) -> bool {
        self.content
    }

    /// Keeps the first id and model that come, and the last of what may change.
    pub(super) fn head(&mut self, from: &Value) {
        let response = &mut self.response;
        if response.id.is_none() {
            response.id = fields::text(from, "id");
        }
        if response.model.is_none() {
            response.model = fields::text(from, "model");
        }
        if let Some(tier) = fields::text(from, "service_tier") {
            response.service_tier = Some(tier);
        }
        if let Some(fingerprint) = fields::text(from, "system_fingerprint") {
            response.system_fingerprint = Some(fingerprint);
        }
    }

    /// The choice of an index; none beyond the limit.
    pub(super) fn choice(&mut self, index: i64) -> Option<&mut Choice> {
        if !self.choices.contains_key(&index) && self.choices.len() >= Self::MAX_CHOICES {
            self.truncated = true;
            return None;
        }
        Some(self.choices.entry(index).or_default())
    }

    /// Forgets all choices: they come again, whole.
    pub(super) fn restart(&mut self) {
        self.choices.clear();
        self.asks = Asks::default();
        self.asks_for_tool = false;
        self.cut = false;
        self.room = self.max_content;
    }

    /// Forgets one choice: it comes again, whole.
    pub(super) fn drop_choice(&mut self, index: i64) {
        self.asks.drop_choice(index);
        if let Some(choice) = self.choices.remove(&index) {
            let freed: usize = choice.pieces.iter().map(|(_, piece)| piece.size()).sum();
            self.room = self.max_content.min(self.room + freed);
        }
    }

    /// Adds text to a choice: to its last piece where that is of the same kind.
    pub(super) fn append(&mut self, index: i64, kind: fn(String) -> Piece, text: &str) {
        if text.is_empty() || !self.content || self.cut {
            return;
        }
        let mut room = self.room;
        let Some(choice) = self.choice(index) else { return };
        let mut piece = kind(String::new());
        let grown = match (choice.pieces.last_mut(), &mut piece) {
            (Some((None, Piece::Text(last))), Piece::Text(_))
            | (Some((None, Piece::Reasoning(last))), Piece::Reasoning(_)) => {
                Some(Self::push(&mut room, last, text))
            }
            _ => None,
        };
        let whole = match (grown, &mut piece) {
            (Some(whole), _) => whole,
            (None, Piece::Text(own) | Piece::Reasoning(own)) if choice.pieces.len() < Self::MAX_PIECES => {
                let whole = Self::push(&mut room, own, text);
                choice.pieces.push((None, piece));
                whole
            }
            _ => false,
        };
        self.room = room;
        self.cut = !whole;
        self.truncated |= !whole;
    }

    /// Adds a piece; `key` finds it again.
    pub(super) fn add(&mut self, index: i64, key: Option<i64>, piece: Piece) {
        self.asks.add(index, key, &piece);
        if !self.content {
            return;
        }
        let (size, room) = (piece.size(), self.room);
        let Some(choice) = self.choice(index) else { return };
        if size > room || choice.pieces.len() >= Self::MAX_PIECES {
            self.truncated = true;
            return;
        }
        choice.pieces.push((key, piece));
        self.room -= size;
    }

    /// Lengthens the text of a piece.
    pub(super) fn lengthen(&mut self, index: i64, key: i64, text: &str) {
        self.asks.lengthen(index, key, text);
        if text.is_empty() || !self.content || self.cut {
            return;
        }
        let mut room = self.room;
        let to = match self.piece(index, key) {
            Some(Piece::Text(to) | Piece::Reasoning(to)) => to,
            Some(Piece::ToolCall { arguments, .. }) => arguments,
            Some(Piece::ServerToolCall { input, .. }) => input,
            Some(Piece::Whole(_)) | None => return,
        };
        let whole = Self::push(&mut room, to, text);
        self.room = room;
        self.cut = !whole;
        self.truncated |= !whole;
    }

    /// The latest piece of a key.
    pub(super) fn piece(&mut self, index: i64, key: i64) -> Option<&mut Piece> {
        let choice = self.choices.get_mut(&index)?;
        choice.pieces.iter_mut().rev().find(|(own, _)| *own == Some(key)).map(|(_, piece)| piece)
    }

    /// The id and name of a tool call of a choice, to be completed.
    pub(super) fn tool_call(&mut self, index: i64, key: i64) -> Option<(&mut Option<String>, &mut String)> {
        let ask = self.asks.find(index, key)?;
        Some((&mut ask.id, &mut ask.name))
    }

    /// The key of the latest tool call of a choice.
    pub(super) fn last_tool_call(&self, index: i64) -> Option<i64> {
        self.asks.list.iter().rev().find(|ask| ask.index == index).and_then(|ask| ask.key)
    }

    /// The tools of the client's that it asks for.
    pub(super) fn take_asks(&mut self) -> Vec<ToolAsk> {
        std::mem::take(&mut self.asks.list)
            .into_iter()
            .map(|ask| ToolAsk {
                id: ask.id,
                name: ask.name,
                arguments: Private::new(ask.arguments),
                cut: ask.cut,
            })
            .collect()
    }

    /// Whether every choice has said why it ended.
    pub(super) fn is_settled(&self) -> bool {
        if self.one_message {
            return self.finish_reason.is_some();
        }
        !self.choices.is_empty() && self.choices.values().all(|choice| choice.finish_reason.is_some())
    }

    /// Adds as much of a text as there is room for. Where it is cut, half a word goes with it: a redactor could not
    /// recognise half a credential.
    fn push(room: &mut usize, to: &mut String, text: &str) -> bool {
        let mut end = text.len().min(*room);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        to.push_str(&text[..end]);
        *room -= end;
        let whole = end == text.len();
        if !whole {
            to.truncate(json::without_last_word(to.as_bytes()));
        }
        whole
    }

    /// The response as far as it came.
    pub(super) fn into_response(self, lost: bool) -> Response {
        let Answer { mut response, choices, content, .. } = self;
        let mut messages = Vec::new();
        let mut parser = fields::Parser::new();
        if self.one_message {
            if self.recognised {
                response.finish_reasons = vec![self.finish_reason.clone()];
            }
            let parts: Vec<Part> =
                choices.into_values().flat_map(|choice| choice.into_parts(&mut parser)).collect();
            if !parts.is_empty() {
                messages.push(OutputMessage {
                    role: "assistant".to_owned(),
                    parts,
                    finish_reason: self.finish_reason,
                });
            }
        } else {
            for mut choice in choices.into_values() {
                let finish_reason = choice.finish_reason.take();
                response.finish_reasons.push(finish_reason.clone());
                let role = choice.role.take().unwrap_or_else(|| "assistant".to_owned());
                messages.push(OutputMessage { role, parts: choice.into_parts(&mut parser), finish_reason });
            }
        }
        response.content = content.then_some(ResponseContent { messages, truncated: self.truncated || lost });
        response
    }
}

/// The tool calls of an answer, and a bounded part of their arguments.
struct Asks {
    list: Vec<Ask>,
    room: usize,
}

struct Ask {
    index: i64,
    key: Option<i64>,
    id: Option<String>,
    name: String,
    arguments: String,
    cut: bool,
}

impl Default for Asks {
    fn default() -> Asks {
        // 64 KiB: commands and prompts are below it; a file that is written need not be compared.
        Asks { list: Vec::new(), room: 64 << 10 }
    }
}

impl Asks {
    /// More than any model asks for at once.
    const MAX: usize = 256;

    fn add(&mut self, index: i64, key: Option<i64>, piece: &Piece) {
        let (id, name, arguments) = match piece {
            Piece::ToolCall { id, name, arguments } => (id, name, arguments.clone()),
            Piece::Whole(Part::ToolCall { id, name, arguments }) => {
                let arguments = match arguments {
                    Some(Value::String(text)) => text.clone(),
                    Some(json) => json.to_string(),
                    None => String::new(),
                };
                (id, name, arguments)
            }
            _ => return,
        };
        if self.list.len() < Self::MAX {
            let (id, name) = (id.clone(), name.clone());
            self.list.push(Ask { index, key, id, name, arguments: String::new(), cut: false });
            self.extend(self.list.len() - 1, &arguments);
        }
    }

    fn lengthen(&mut self, index: i64, key: i64, text: &str) {
        if let Some(at) = self.list.iter().rposition(|ask| ask.index == index && ask.key == Some(key)) {
            self.extend(at, text);
        }
    }

    fn extend(&mut self, at: usize, text: &str) {
        let ask = &mut self.list[at];
        ask.cut |= text.len() > self.room;
        if !ask.cut {
            ask.arguments.push_str(text);
            self.room -= text.len();
        }
    }

    fn find(&mut self, index: i64, key: i64) -> Option<&mut Ask> {
        self.list.iter_mut().rev().find(|ask| ask.index == index && ask.key == Some(key))
    }

    fn drop_choice(&mut self, index: i64) {
        self.list.retain(|ask| {
            if ask.index == index {
                self.room += ask.arguments.len();
            }
            ask.index != index
        });
    }
}

impl Choice {
    fn into_parts(self, parser: &mut fields::Parser) -> Vec<Part> {
        self.pieces
            .into_iter()
            .map(|(_, piece)| piece.into_part(parser))
            .filter(|part| !is_empty(part))
            .collect()
    }
}

/// A text that never came.
fn is_empty(part: &Part) -> bool {
    matches!(part, Part::Text(text) if text.is_empty())
}

impl Piece {
    /// Bytes of memory that it takes, roughly: flat, or what its JSON takes as text twice over.
    fn size(&self) -> usize {
        const FLAT: usize = 64;
        FLAT + match self {
            Piece::Text(text) | Piece::Reasoning(text) => text.len(),
            Piece::ToolCall { name, arguments, .. } => name.len() + arguments.len(),
            Piece::ServerToolCall { block, input } => fields::memory(block) + input.len(),
            Piece::Whole(part) => size_of_part(part),
        }
    }

    pub(super) fn into_part(self, parser: &mut fields::Parser) -> Part {
        match self {
            Piece::Text(text) => Part::Text(text),
            Piece::Reasoning(text) => Part::Reasoning(text),
            Piece::ToolCall { id, name, arguments } => Part::ToolCall {
                id,
                name,
                arguments: (!arguments.is_empty()).then(|| parser.parse(arguments)),
            },
            Piece::ServerToolCall { mut block, input } => {
                if let (false, Some(object)) = (input.is_empty(), block.as_object_mut()) {
                    object.insert("input".to_owned(), parser.parse(input));
                }
                let name = fields::text(&block, "name").unwrap_or_default();
                Part::ServerToolCall { id: fields::text(&block, "id"), name, call: block }
            }
            Piece::Whole(part) => part,
        }
    }
}

fn size_of_part(part: &Part) -> usize {
    match part {
        Part::Text(text) | Part::Reasoning(text) => text.len(),
        Part::ToolCall { name, arguments, .. } => name.len() + arguments.as_ref().map_or(0, fields::memory),
        Part::ToolCallResponse { response, .. } | Part::ServerToolCallResponse { response, .. } => {
            fields::memory(response)
        }
        Part::ServerToolCall { call, .. } => fields::memory(call),
        Part::Blob { content, .. } => content.len(),
        Part::File { file_id, .. } => file_id.len(),
        Part::Uri { uri, .. } => uri.len(),
        Part::Other(value) => fields::memory(value),
    }
}

/// A provider's error, out of `{"error": …}` or, of some compatible servers, out of the body itself.
pub(super) fn failure(body: &Value, content: bool) -> Option<Failure> {
    let error = body.get("error").filter(|error| !error.is_null());
    let error = match error {
        Some(error) => error,
        None if body.get("object").is_some_and(|object| object == "error") => body,
        None => return None,
    };
    let word = |key: &str| {
        let word = match error.get(key)? {
            Value::Number(number) => number.to_string(),
            other => fields::short(other)?,
        };
        // Low cardinality by shape; anything else would be prose, which may quote the prompt.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        (word.len() <= 64 && word.bytes().all(plain)).then_some(word)
    };
    let message = error.as_str().or_else(|| error.get("message")?.as_str());
    Some(Failure {
        code: word("code"),
        kind: word("type"),
        message: message.filter(|_| content).map(str::to_owned),
    })
}
