//! Reads of a request what joins it with other calls, whether content is kept or not.
//!
//! It is a reading of its own, beside that of parameters and content: message by message, none of them held.

use crate::http::Headers;
use crate::json::{Filter, Keep, Limits, Read, Reader, Step};
use crate::links::{Author, Client, Fingerprint, FingerprintKey, Hasher, Links, Message, ToolResult};
use serde_json::{Map, Value};
use std::collections::VecDeque;

/// Reads one request.
pub(super) struct Reading {
    reader: Reader,
    fold: Fold,
}

impl Reading {
    /// `filter`: which array of the body is the history ([`filter`]), and what else is needed.
    pub(super) fn new(filter: Filter, key: FingerprintKey, headers: &Headers) -> Reading {
        // One message at a time: enough for thousands of its parts. A larger one counts as far as it fits.
        const LIMITS: Limits = Limits { facts: 256 << 10, texts: 0 };
        Reading {
            reader: Reader::new(filter, false, LIMITS).with_key(key),
            fold: Fold {
                key,
                chain: key.hasher(),
                length: 0,
                last: VecDeque::new(),
                user_texts: Vec::new(),
                results: VecDeque::new(),
                client: client(headers),
            },
        }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        let Reading { reader, fold } = self;
        reader.push_each(data, &mut |message| fold.message(message));
    }

    /// What the request is joined by.
    pub(super) fn finish(self) -> Links {
        let Reading { reader, mut fold } = self;
        let Read { value, .. } = reader.finish();
        for key in ["input", "messages", "contents"] {
            // A text alone is the one message of a user.
            if let Some(Value::Number(text)) = value.get(key) {
                fold.message(serde_json::json!({"role": "user", "content": text}));
            }
        }
        let counted = |key: &str| value.get(key).and_then(Value::as_u64).is_some_and(|count| count > 0);
        Links {
            exchange: 0,
            history: crate::links::History {
                length: fold.length,
                last: fold.last.into(),
                user_texts: fold.user_texts,
            },
            offers_tools: ["tools", "functions"].into_iter().any(counted),
            results: fold.results.into(),
            previous_response_id: super::fields::text(&value, "previous_response_id"),
            client: fold.client,
            asks: Vec::new(),
        }
    }
}

/// Of formats that have no history.
pub(super) fn none(_: &[Step], _: bool) -> Keep {
    Keep::Nothing
}

/// Of formats with an array of messages, whatever its name. Facts are roles, types and ids; all else is fingerprints.
pub(super) fn filter(path: &[Step], _: bool) -> Keep {
    let last = path.last().map_or("", Step::name);
    match path {
        [] => Keep::Into,
        [Step::Key(root)] => match root.as_str() {
            "messages" | "input" | "contents" => Keep::Each,
            "tools" | "functions" => Keep::Count,
            "previous_response_id" => Keep::Into,
            _ => Keep::Nothing,
        },
        // Marks of a cache move from message to message while the history grows.
        _ if matches!(last, "cache_control" | "cachePoint") => Keep::Nothing,
        [_, Step::Index(_)] => Keep::Parts,
        _ if matches!(
            last,
            "role" | "type" | "id" | "tool_use_id" | "tool_call_id" | "call_id" | "name" | "is_error"
        ) =>
        {
            Keep::Into
        }
        [_, _, Step::Key(key)]
            if matches!(key.as_str(), "content" | "parts" | "tool_calls" | "function_call") =>
        {
            Keep::Parts
        }
        // A part, and the function of a tool call.
        [_, _, Step::Key(_), Step::Index(_)] => Keep::Parts,
        [_, _, Step::Key(calls), Step::Index(_), Step::Key(function)]
            if calls == "tool_calls" && function == "function" =>
        {
            Keep::Parts
        }
        _ => Keep::Fingerprint,
    }
}

/// Messages while they go by.
struct Fold {
    key: FingerprintKey,
    /// Of all messages so far.
    chain: Hasher,
    length: u32,
    last: VecDeque<Message>,
    user_texts: Vec<Fingerprint>,
    results: VecDeque<ToolResult>,
    client: Client,
}

impl Fold {
    /// How far a conversation may grow between two of its calls and still be known by its history.
    const MESSAGES: usize = 512;
    /// Results of tools that run in parallel, with room; a history has all that ever were, the latest last.
    const RESULTS: usize = 256;
    const USER_TEXTS: usize = 32;

    fn message(&mut self, message: Value) {
        let Value::Object(mut message) = message else {
            self.add(&Value::Null, Author::Other);
            return;
        };
        // A text is the same as a list of one text: clients change between them.
        for key in ["content", "output"] {
            if message.get(key).is_some_and(Value::is_number) {
                let text = message[key].take();
                message[key] = serde_json::json!([{"type": "text", "text": text}]);
            }
        }
        // What a client adds to a message that it got, or leaves out.
        message.remove("status");
        if message.contains_key("role") || message.contains_key("call_id") {
            message.remove("id");
        }
        let results = self.results_of(&message);
        let author = match message.get("role").and_then(Value::as_str) {
            _ if results => Author::Tool,
            Some("user") => Author::User,
            Some("assistant" | "model") => Author::Model,
            Some(_) => Author::Other,
            // An item of OpenAI's Responses: a call, reasoning. Where there is no type, it is a user's message.
            None if message.contains_key("type") => Author::Model,
            None => Author::User,
        };
        if author == Author::User {
            self.user_texts = texts(&message);
            self.user_texts.truncate(Self::USER_TEXTS);
        }
        self.add(&Value::Object(message), author);
    }

    fn add(&mut self, message: &Value, author: Author) {
        hash(&mut self.chain, message);
        self.length = self.length.saturating_add(1);
        if self.last.len() == Self::MESSAGES {
            self.last.pop_front();
        }
        self.last.push_back(Message { prefix: Fingerprint(self.chain.finish()), author });
        let prefix = self.chain.finish();
        self.chain = self.key.hasher();
        self.chain.write(&prefix.to_le_bytes());
    }

    /// The results of tools that a message brings; whether there are any.
    fn results_of(&mut self, message: &Map<String, Value>) -> bool {
        let text =
            |of: &Map<String, Value>, key: &str| of.get(key).and_then(Value::as_str).map(str::to_owned);
        let mut found = false;
        let mut add = |id: Option<String>, failed: bool| {
            found = true;
            if let Some(id) = id.filter(|id| id.len() <= 256) {
                if self.results.len() == Self::RESULTS {
                    self.results.pop_front();
                }
                self.results.push_back(ToolResult { id, failed });
            }
        };
        match text(message, "type").as_deref() {
            Some(kind) if kind.ends_with("_output") => add(text(message, "call_id"), false),
            _ if matches!(text(message, "role").as_deref(), Some("tool" | "function")) => {
                add(text(message, "tool_call_id"), false);
            }
            _ => {
                for part in message.get("content").and_then(Value::as_array).into_iter().flatten() {
                    let Some(part) = part.as_object() else { continue };
                    // Results of the provider's own tools have other types.
                    if part.get("type").is_some_and(|kind| kind == "tool_result") {
                        let failed = part.get("is_error") == Some(&Value::Bool(true));
                        add(text(part, "tool_use_id"), failed);
                    }
                }
            }
        }
        found
    }
}

/// The fingerprints of a message's texts.
fn texts(message: &Map<String, Value>) -> Vec<Fingerprint> {
    let parts = message.get("content").or_else(|| message.get("parts")).and_then(Value::as_array);
    let parts = parts.into_iter().flatten();
    parts.filter_map(|part| part.get("text").and_then(Value::as_u64).map(Fingerprint)).collect()
}

/// Adds a value, so that no two values are the same bytes.
fn hash(to: &mut Hasher, value: &Value) {
    match value {
        Value::Null => to.write(b"n"),
        Value::Bool(truth) => to.write(if *truth { b"t" } else { b"f" }),
        Value::Number(number) => {
            to.write(b"#");
            to.write(&number.as_u64().unwrap_or_default().to_le_bytes());
        }
        Value::String(text) => hash_text(to, text),
        Value::Array(items) => {
            to.write(b"[");
            items.iter().for_each(|item| hash(to, item));
            to.write(b"]");
        }
        Value::Object(map) => {
            to.write(b"{");
            for (key, value) in map {
                hash_text(to, key);
                hash(to, value);
            }
            to.write(b"}");
        }
    }
}

fn hash_text(to: &mut Hasher, text: &str) {
    to.write(b"\"");
    to.write(&(text.len() as u64).to_le_bytes());
    to.write(text.as_bytes());
}

/// What the client says of itself in its headers.
fn client(headers: &Headers) -> Client {
    // What the products send that were looked at; the latter names of a line are older ones.
    const SESSION: &[&str] = &[
        "x-claude-code-session-id",
        "x-session-id",
        "thread-id",
        "conversation_id",
        "session-id",
        "session_id",
    ];
    const AGENT: &[&str] = &["x-claude-code-agent-id"];
    const PARENT: &[&str] = &["x-parent-session-id", "x-codex-parent-thread-id"];
    const PRODUCTS: &[(&str, &str)] = &[
        ("claude-cli/", "claude-code"),
        ("codex_cli_rs/", "codex"),
        ("codex_exec/", "codex"),
        ("codex-cli/", "codex"),
        ("opencode/", "opencode"),
        ("GeminiCLI/", "gemini-cli"),
    ];
    let first = |names: &[&str]| {
        names.iter().find_map(|name| {
            let id = headers.get(name)?;
            // Ids are short and plain; anything else is none.
            let plain = id.bytes().all(|byte| byte.is_ascii_graphic());
            (plain && !id.is_empty() && id.len() <= 128).then(|| id.to_owned())
        })
    };
    let agent = headers.get("user-agent").unwrap_or("");
    Client {
        product: PRODUCTS.iter().find(|(start, _)| agent.starts_with(start)).map(|(_, name)| *name),
        session: first(SESSION),
        agent: first(AGENT),
        parent: first(PARENT),
    }
}
