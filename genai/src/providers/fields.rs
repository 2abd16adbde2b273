//! Fields of JSON objects as Rust values. What has another type than expected is absent.

use crate::json::{Keep, Limits, Reader};
use serde_json::Value;

/// Longer names, ids and reasons are none.
const MAX_TEXT: usize = 1024;

/// A short text: an id, a name, a reason.
pub(super) fn text(object: &Value, key: &str) -> Option<String> {
    short(object.get(key)?)
}

/// A value that is a short text.
pub(super) fn short(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (!text.is_empty() && text.len() <= MAX_TEXT).then(|| text.to_owned())
}

/// A text of any length, taken out of its object.
pub(super) fn take_text(object: &mut Value, key: &str) -> Option<String> {
    match object.get_mut(key)?.take() {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// A member, taken out of its object; never `Null`.
pub(super) fn take(object: &mut Value, key: &str) -> Option<Value> {
    let value = object.get_mut(key)?.take();
    (!value.is_null()).then_some(value)
}

/// The elements of an array, taken out of its object.
pub(super) fn take_array(object: &mut Value, key: &str) -> Vec<Value> {
    match object.get_mut(key).map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// A whole number, also where it is written as `1.0`.
pub(super) fn int(object: &Value, key: &str) -> Option<i64> {
    let value = object.get(key)?;
    value.as_i64().or_else(|| {
        // 2^53: beyond it a double is no exact integer.
        value.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9e15).map(|float| float as i64)
    })
}

/// A number.
pub(super) fn float(object: &Value, key: &str) -> Option<f64> {
    object.get(key)?.as_f64()
}

/// Short texts: an array of them, or a single one.
pub(super) fn texts(object: &Value, key: &str) -> Vec<String> {
    // More than any provider takes as stop sequences.
    const MAX: usize = 64;
    match object.get(key) {
        Some(Value::Array(items)) => items.iter().take(MAX).filter_map(short).collect(),
        Some(single) => short(single).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Reads the JSON texts inside a call (tool arguments): as values they may take 24 times the memory of the text,
/// so together they have a limit.
pub(super) struct Parser {
    room: usize,
}

impl Parser {
    /// For one request or one response.
    pub(super) fn new() -> Parser {
        // 16 MiB: twice what content may take by default.
        Parser { room: 16 << 20 }
    }

    /// A JSON text as the value that it means, else the text itself.
    pub(super) fn parse(&mut self, text: String) -> Value {
        if !text.trim_start().starts_with(['{', '[']) {
            return Value::String(text);
        }
        let limits = Limits { facts: 0, texts: self.room };
        let read = Reader::read(|_, _| Keep::All, true, limits, text.as_bytes());
        if !read.complete || read.truncated {
            return Value::String(text);
        }
        self.room = self.room.saturating_sub(memory(&read.value));
        read.value
    }
}

/// What a value takes in memory, roughly. Values come from [`crate::json`], so the depth is bounded.
pub(super) fn memory(value: &Value) -> usize {
    const NODE: usize = 72;
    NODE + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(memory).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + memory(value)).sum(),
        _ => 0,
    }
}
