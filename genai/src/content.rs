//! Size limits of content: what is too long is cut where it is longest, and the JSON stays whole.

use crate::telemetry::{Span, Value};
use serde_json::Value as Json;
use std::borrow::Cow;

/// The attributes that hold content as JSON text.
pub const ATTRIBUTES: [&str; 6] = [
    "gen_ai.system_instructions",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.tool.definitions",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
];

/// Set to true on a span whose content was cut.
pub const TRUNCATED: &str = "agentsight.content.truncated";

/// What stands at the end of a text that was cut.
const MARK: &str = "…[truncated]";
/// Texts are not cut shorter than this, in bytes: ids and names stay. Below it whole elements go.
const SHORTEST: usize = 64;

/// Cuts values until they take at most `max` bytes as JSON text together: the longest texts first, all to the same
/// length; where that is not enough, the oldest elements. Whether anything was cut.
pub fn shorten(values: &mut [Json], max: usize) -> bool {
    let mut cut = false;
    loop {
        let mut texts = Vec::new();
        let mut structure = 0;
        for value in values.iter() {
            structure += measure(value, &mut texts);
        }
        let total: usize = structure + texts.iter().sum::<usize>();
        if total <= max {
            return cut;
        }
        cut = true;
        if let Some(length) = common_length(texts, max.saturating_sub(structure)) {
            values.iter_mut().for_each(|value| cut_texts(value, length));
            return true;
        }
        // Even the shortest texts are too many: the older half of the longest list goes.
        let Some(Json::Array(items)) =
            values.iter_mut().max_by_key(|value| value.as_array().map_or(0, Vec::len))
        else {
            return true;
        };
        if items.is_empty() {
            return true;
        }
        items.drain(..items.len().div_ceil(2));
    }
}

/// Makes a span take at most about `max` bytes, by cutting its content. Whether it now does.
pub fn fit(span: &mut Span, max: usize) -> bool {
    let size = size(span);
    if size <= max {
        return true;
    }
    let is_content = |key: &str| ATTRIBUTES.contains(&key);
    let mut values = Vec::new();
    let mut content = 0;
    for (key, value) in &span.attributes {
        if let (true, Value::Str(text)) = (is_content(key), value) {
            content += text.len();
            values.push(serde_json::from_str(text).unwrap_or(Json::Null));
        }
    }
    let rest = size - content;
    if values.is_empty() || rest >= max {
        return false;
    }
    // The mark itself is an attribute, too.
    shorten(&mut values, (max - rest).saturating_sub(TRUNCATED.len() + FLAT));
    let mut values = values.into_iter();
    for (key, value) in &mut span.attributes {
        if let (true, Value::Str(text)) = (is_content(key), value)
            && let Some(short) = values.next()
        {
            *text = Cow::Owned(short.to_string());
        }
    }
    mark(span);
    self::size(span) <= max
}

/// Says on the span that its content is not whole.
pub fn mark(span: &mut Span) {
    if !span.attributes.iter().any(|(key, _)| key == TRUNCATED) {
        span.attributes.push((Cow::Borrowed(TRUNCATED), Value::Bool(true)));
    }
}

/// Framing of one value in OTLP, generously.
const FLAT: usize = 16;

/// About how many bytes a span takes as OTLP.
pub fn size(span: &Span) -> usize {
    let attributes = |attributes: &[(crate::telemetry::Key, Value)]| -> usize {
        attributes
            .iter()
            .map(|(key, value)| {
                FLAT + key.len()
                    + match value {
                        Value::Str(text) => text.len(),
                        Value::Strs(texts) => texts.iter().map(|text| text.len() + FLAT).sum(),
                        Value::Int(_) | Value::Double(_) | Value::Bool(_) => 0,
                    }
            })
            .sum()
    };
    // Ids, times, kind and status: about 100 bytes.
    const HEAD: usize = 128;
    let status = match &span.status {
        crate::telemetry::Status::Error(text) => text.len(),
        crate::telemetry::Status::Unset => 0,
    };
    let events: usize =
        span.events.iter().map(|event| HEAD + event.name.len() + attributes(&event.attributes)).sum();
    let state = span.parent.as_ref().map_or(0, |parent| parent.state.len());
    HEAD + span.name.len() + status + state + attributes(&span.attributes) + events
}

/// Bytes of the JSON text beside its texts, whose lengths are added to `texts`.
fn measure(value: &Json, texts: &mut Vec<usize>) -> usize {
    match value {
        Json::Null => 4,
        Json::Bool(_) => 5,
        Json::Number(number) => number.to_string().len(),
        Json::String(text) => {
            texts.push(escaped_length(text));
            2
        }
        Json::Array(items) => 1 + items.iter().map(|item| 1 + measure(item, texts)).sum::<usize>().max(1),
        Json::Object(map) => {
            let entry = |(key, value): (&String, &Json)| 4 + escaped_length(key) + measure(value, texts);
            1 + map.iter().map(entry).sum::<usize>().max(1)
        }
    }
}

/// The length of a text inside JSON's quotes, as serde_json writes it.
fn escaped_length(text: &str) -> usize {
    text.bytes().map(escaped_byte).sum()
}

fn escaped_byte(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..=0x1F => 6,
        _ => 1,
    }
}

/// The length to which all longer texts must be cut to fit in `room`; none where that is too short.
fn common_length(mut texts: Vec<usize>, room: usize) -> Option<usize> {
    texts.sort_unstable();
    let mut left = room;
    let mut remaining = texts.len();
    for length in texts {
        let share = left / remaining;
        if length > share {
            return (share >= SHORTEST).then_some(share);
        }
        left -= length;
        remaining -= 1;
    }
    None
}

fn cut_texts(value: &mut Json, length: usize) {
    match value {
        Json::String(text) => cut_text(text, length),
        Json::Array(items) => items.iter_mut().for_each(|item| cut_texts(item, length)),
        Json::Object(map) => map.values_mut().for_each(|value| cut_texts(value, length)),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

fn cut_text(text: &mut String, length: usize) {
    if escaped_length(text) <= length {
        return;
    }
    let room = length.saturating_sub(MARK.len());
    let mut used = 0;
    let mut end = 0;
    for (at, char) in text.char_indices() {
        used += text[at..at + char.len_utf8()].bytes().map(escaped_byte).sum::<usize>();
        if used > room {
            break;
        }
        end = at + char.len_utf8();
    }
    text.truncate(end);
    text.push_str(MARK);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_longest_text_is_cut_first_and_marked() {
        let mut values =
            [json!([{"role": "user", "parts": [{"type": "text", "content": "x".repeat(10_000)}]},
                                 {"role": "user", "parts": [{"type": "text", "content": "short"}]}])];
        assert!(shorten(&mut values, 2000));
        let long = values[0][0]["parts"][0]["content"].as_str().unwrap();
        assert!(long.ends_with(MARK) && long.len() > 1500);
        assert_eq!(values[0][1]["parts"][0]["content"], "short");
        assert!(values[0].to_string().len() <= 2000);
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let mut values = [json!(["a", "b"])];
        assert!(!shorten(&mut values, 100));
        assert_eq!(values[0], json!(["a", "b"]));
    }

    #[test]
    fn of_too_many_messages_the_newest_stay() {
        let mut values =
            [Json::from((0..1000).map(|n| json!({"content": format!("message {n}")})).collect::<Vec<_>>())];
        assert!(shorten(&mut values, 1000));
        let left = values[0].as_array().unwrap();
        assert!(!left.is_empty() && left.last().unwrap()["content"] == "message 999");
    }

    #[test]
    fn a_span_is_made_to_fit() {
        let content = json!([{"role": "user", "parts": [{"type": "text", "content": "y".repeat(100_000)}]}]);
        let mut span = Span {
            name: "chat m".into(),
            kind: crate::telemetry::SpanKind::Client,
            parent: None,
            start: crate::time::Timestamp(1),
            end: crate::time::Timestamp(2),
            attributes: vec![("gen_ai.input.messages".into(), Value::Str(content.to_string().into()))],
            status: crate::telemetry::Status::Unset,
            events: Vec::new(),
        };
        assert!(fit(&mut span, 4096));
        assert!(size(&span) <= 4096);
        assert!(span.attributes.contains(&(TRUNCATED.into(), Value::Bool(true))));
        let Value::Str(text) = &span.attributes[0].1 else { panic!() };
        assert!(serde_json::from_str::<Json>(text).is_ok());
    }

    proptest! {
        #[test]
        fn nothing_is_longer_than_its_limit(texts in prop::collection::vec(any::<String>(), 0..50), max in 200_usize..2000) {
            let mut values = [json!(texts), json!({"k": texts})];
            // What is no list cannot lose elements.
            let fixed = values[1].to_string().len();
            shorten(&mut values[..1], max);
            prop_assert!(values[0].to_string().len() <= max.max(2));
            let _ = fixed;
        }
    }
}
