//! What OpenAI's formats have in common.

use super::answer::{self, Answer};
use super::fields;
use crate::call::{Part, Usage};
use crate::json::Keep;
use serde_json::{Value, json};

/// What is kept of usage, `error` and the like: names of facts and two levels beneath them.
pub(super) fn keep_error(path: &[&str], content: bool) -> Keep {
    match path {
        [] | ["code" | "type"] => Keep::Into,
        ["message"] if content => Keep::All,
        _ => Keep::Nothing,
    }
}

/// `usage` of all of OpenAI's formats and those that follow them.
pub(super) fn usage(of: &Value) -> Option<Usage> {
    let usage = of.get("usage").filter(|usage| usage.is_object())?;
    let either = |a: &str, b: &str| fields::int(usage, a).or_else(|| fields::int(usage, b));
    let detail = |group: &str, name: &str| usage.get(group).and_then(|group| fields::int(group, name));
    let input = either("prompt_tokens", "input_tokens");
    let output = either("completion_tokens", "output_tokens");
    let reasoning = detail("completion_tokens_details", "reasoning_tokens")
        .or_else(|| detail("output_tokens_details", "reasoning_tokens"))
        // Realtime.
        .or_else(|| detail("output_token_details", "reasoning_tokens"));
    let cache_read = detail("prompt_tokens_details", "cached_tokens")
        .or_else(|| detail("input_tokens_details", "cached_tokens"))
        .or_else(|| detail("input_token_details", "cached_tokens"))
        // DeepSeek.
        .or_else(|| fields::int(usage, "prompt_cache_hit_tokens"));
    // xAI does not count reasoning as output; the total tells.
    let output = match (input, output, reasoning, fields::int(usage, "total_tokens")) {
        (Some(input), Some(output), Some(reasoning), Some(total))
            if reasoning > 0
                && Some(total) == input.checked_add(output).and_then(|sum| sum.checked_add(reasoning)) =>
        {
            output.checked_add(reasoning)
        }
        _ => output,
    };
    Some(Usage { input, output, cache_read, cache_write: None, reasoning })
}

/// Takes what Chat Completions and Completions say alike, in a chunk of a stream or in the whole response, and gives its
/// choices by their indices, as many as there is room for.
pub(super) fn choices(answer: &mut Answer, body: &mut Value) -> Vec<(i64, Value)> {
    if let Some(failure) = answer::failure(body, answer.wants_content()) {
        answer.failure = Some(failure);
        return Vec::new();
    }
    answer.recognised |= body.get("choices").is_some_and(Value::is_array);
    answer.head(body);
    if let Some(usage) = usage(body) {
        answer.response.usage = usage;
    }
    let mut choices = Vec::new();
    for (position, choice) in fields::take_array(body, "choices").into_iter().enumerate() {
        let index = fields::int(&choice, "index").unwrap_or(position as i64);
        let Some(known) = answer.choice(index) else { continue };
        known.finish_reason = fields::text(&choice, "finish_reason").or(known.finish_reason.take());
        choices.push((index, choice));
    }
    choices
}

/// `text` or `json`, out of `{"type": …}` of `response_format` or `text.format`.
pub(super) fn output_type(format: Option<&Value>) -> Option<&'static str> {
    match format?.get("type")?.as_str()? {
        "text" => Some("text"),
        "json_object" | "json_schema" => Some("json"),
        _ => None,
    }
}

/// Tool definitions in the convention's shape; OpenAI's two formats name the same things at two depths.
pub(super) fn tools(tools: Vec<Value>) -> Vec<Value> {
    tools.into_iter().filter_map(tool).collect()
}

fn tool(mut tool: Value) -> Option<Value> {
    let kind = fields::text(&tool, "type").unwrap_or_else(|| "function".to_owned());
    let mut inner = fields::take(&mut tool, &kind).filter(Value::is_object).unwrap_or(tool);
    let Some(name) = fields::text(&inner, "name") else {
        // A tool of the provider's own is called by its type.
        return (kind != "function").then(|| json!({"type": kind, "name": kind}));
    };
    let mut definition = json!({"type": kind, "name": name});
    for key in ["description", "parameters"] {
        if let Some(value) = fields::take(&mut inner, key) {
            definition[key] = value;
        }
    }
    Some(definition)
}

/// The parts of a message's `content`: a text, or a list of typed parts.
pub(super) fn parts(content: Option<Value>) -> Vec<Part> {
    match content {
        Some(Value::String(text)) if text.is_empty() => Vec::new(),
        Some(Value::String(text)) => vec![Part::Text(text)],
        Some(Value::Array(items)) => items.into_iter().map(part).collect(),
        _ => Vec::new(),
    }
}

fn part(mut item: Value) -> Part {
    if let Value::String(text) = item {
        return Part::Text(text);
    }
    let kind = fields::text(&item, "type").unwrap_or_default();
    let read = match kind.as_str() {
        "text" | "input_text" | "output_text" | "summary_text" | "reasoning_text" => {
            fields::take_text(&mut item, "text").map(Part::Text)
        }
        "refusal" => fields::take_text(&mut item, "refusal").map(Part::Text),
        "thinking" => Some(Part::Reasoning(joined_text(fields::take(&mut item, "thinking")))),
        "image_url" | "input_image" => image(&mut item),
        "input_audio" => item.get_mut("input_audio").and_then(audio),
        "file" => item.get_mut("file").and_then(file),
        "input_file" => file(&mut item),
        _ => None,
    };
    read.unwrap_or_else(|| other(item))
}

/// A part as it is; the schema wants a `type`.
pub(super) fn other(item: Value) -> Part {
    match item {
        Value::Object(mut map) => {
            if !map.get("type").is_some_and(Value::is_string) {
                map.insert("type".to_owned(), Value::from("unknown"));
            }
            Part::Other(Value::Object(map))
        }
        item => Part::Other(json!({"type": "unknown", "content": item})),
    }
}

fn image(item: &mut Value) -> Option<Part> {
    let modality = || "image".to_owned();
    let url = match fields::take(item, "image_url") {
        Some(Value::String(url)) => Some(url),
        Some(mut object) => fields::take_text(&mut object, "url"),
        None => None,
    };
    match url {
        Some(url) => Some(linked(modality(), url)),
        None => Some(Part::File {
            modality: modality(),
            mime_type: None,
            file_id: fields::text(item, "file_id")?,
        }),
    }
}

/// A URL; a `data:` URL as the data that it holds (RFC 2397).
pub(super) fn linked(modality: String, url: String) -> Part {
    let data = url.strip_prefix("data:").and_then(|rest| rest.split_once(','));
    match data.and_then(|(kind, data)| Some((kind.strip_suffix(";base64")?, data))) {
        Some((mime_type, data)) => Part::Blob {
            modality,
            mime_type: (!mime_type.is_empty()).then(|| mime_type.to_owned()),
            content: data.to_owned(),
        },
        None => Part::Uri { modality, mime_type: None, uri: url },
    }
}

fn audio(audio: &mut Value) -> Option<Part> {
    let content = fields::take_text(audio, "data")?;
    let mime_type = fields::text(audio, "format").map(|format| format!("audio/{format}"));
    Some(Part::Blob { modality: "audio".to_owned(), mime_type, content })
}

fn file(file: &mut Value) -> Option<Part> {
    let modality = || "document".to_owned();
    if let Some(file_id) = fields::text(file, "file_id") {
        return Some(Part::File { modality: modality(), mime_type: None, file_id });
    }
    let url = fields::take_text(file, "file_data").or_else(|| fields::take_text(file, "file_url"))?;
    Some(linked(modality(), url))
}

/// The text of a text or of a list of parts that are all text.
pub(super) fn joined_text(content: Option<Value>) -> String {
    let texts = parts(content).into_iter().filter_map(|part| match part {
        Part::Text(text) => Some(text),
        _ => None,
    });
    texts.collect()
}

/// What a tool answered: the text where it is text alone, else as it is.
pub(super) fn tool_response(content: Option<Value>) -> Value {
    match content {
        Some(Value::Array(items)) if items.iter().all(is_text_part) => {
            Value::String(joined_text(Some(Value::Array(items))))
        }
        Some(content) => content,
        None => Value::String(String::new()),
    }
}

fn is_text_part(item: &Value) -> bool {
    item.get("text").is_some_and(Value::is_string)
        && item.get("type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("text"))
}
