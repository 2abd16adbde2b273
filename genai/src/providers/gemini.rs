//! Google's `…:generateContent` and `…:streamGenerateContent`, as Gemini's and Vertex AI's REST APIs speak it.

use super::answer::{self, Answer, Piece};
use super::{Format, Hints, fields, history, openai};
use crate::call::{Failure, Message, Operation, Part, Request, RequestContent, Usage};
use crate::json::{Keep, Step};
use serde_json::{Value, json};

pub(super) const FORMAT: Format = Format {
    operation: Operation::GenerateContent,
    request_filter,
    response_filter,
    event_filter: response_filter,
    is_request,
    history: history::filter,
    request,
    whole: event,
    event,
};

/// `…:embedContent` and `…:batchEmbedContents`. Neither the texts nor the vectors are ever kept.
pub(super) const EMBED: Format = Format {
    operation: Operation::Embeddings,
    request_filter: embed_request_filter,
    response_filter: embed_response_filter,
    event_filter: embed_response_filter,
    is_request: is_embed_request,
    history: history::none,
    request: embed_request,
    whole: embed_response,
    event: embed_response,
};

/// The path says that it is one, and names the model.
fn is_request(body: &Value, hints: &Hints) -> bool {
    hints.model_in_path
        && body.get("contents").is_some_and(|contents| contents.is_array() || contents.is_object())
}

fn request_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["generationConfig" | "generation_config"] => Keep::Into,
        ["generationConfig" | "generation_config", "responseSchema" | "response_schema"] => Keep::Nothing,
        ["generationConfig" | "generation_config", _] => Keep::Into,
        ["model"] => Keep::Into,
        ["generationConfig" | "generation_config", "stopSequences" | "stop_sequences", "*"] => Keep::Into,
        ["generationConfig" | "generation_config", "responseModalities" | "response_modalities", "*"] => {
            Keep::Into
        }
        ["generationConfig" | "generation_config", "thinkingConfig" | "thinking_config", _] => Keep::Into,
        ["contents"] if !content => Keep::Kind,
        ["contents" | "systemInstruction" | "system_instruction" | "tools"] if content => Keep::All,
        _ => Keep::Nothing,
    }
}

fn response_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["responseId" | "modelVersion" | "usageMetadata" | "promptFeedback"] => Keep::Into,
        ["usageMetadata", _] | ["promptFeedback", "blockReason"] => Keep::Into,
        ["candidates"] | ["candidates", "*"] | ["candidates", "*", "index" | "finishReason"] => Keep::Into,
        ["candidates", "*", "content"] if content => Keep::All,
        ["candidates", "*", "content"] | ["candidates", "*", "content", "parts"] => Keep::Into,
        ["candidates", "*", "content", "parts", "*"] => Keep::Into,
        // Asking for a tool is no content; what it is called with is held to be joined, and not sent.
        ["candidates", "*", "content", "parts", "*", "functionCall"] => Keep::All,
        ["error"] | ["error", "code" | "status"] => Keep::Into,
        ["error", "message"] if content => Keep::All,
        _ => Keep::Nothing,
    }
}

fn request(body: &mut Value, content: bool) -> Request {
    camel_case(body);
    let none = Value::Null;
    let config = body.get("generationConfig").unwrap_or(&none);
    let output_type = match config.get("responseMimeType").and_then(Value::as_str) {
        Some("application/json") => Some("json"),
        Some("text/plain") => Some("text"),
        _ => None,
    };
    Request {
        model: model(body),
        max_tokens: fields::int(config, "maxOutputTokens"),
        temperature: fields::float(config, "temperature"),
        top_p: fields::float(config, "topP"),
        top_k: fields::float(config, "topK"),
        frequency_penalty: fields::float(config, "frequencyPenalty"),
        presence_penalty: fields::float(config, "presencePenalty"),
        stop_sequences: fields::texts(config, "stopSequences"),
        seed: fields::int(config, "seed"),
        choice_count: fields::int(config, "candidateCount"),
        output_type,
        reasoning_level: config
            .get("thinkingConfig")
            .and_then(|thinking| fields::text(thinking, "thinkingLevel")),
        content: content.then(|| request_content(body)),
        ..Request::default()
    }
}

/// By gRPC the model is named in the message: `models/…`, `projects/…/models/…`.
fn model(body: &Value) -> Option<String> {
    let name = fields::text(body, "model")?;
    name.rsplit('/').next().filter(|name| !name.is_empty()).map(str::to_owned)
}

fn request_content(body: &mut Value) -> RequestContent {
    let system = fields::take(body, "systemInstruction");
    let messages = match fields::take(body, "contents") {
        Some(Value::Array(contents)) => contents,
        Some(content) => vec![content],
        None => Vec::new(),
    };
    let mut tools = Vec::new();
    for mut tool in fields::take_array(body, "tools") {
        let functions = fields::take_array(&mut tool, "functionDeclarations");
        tools.extend(functions.into_iter().filter_map(function));
        // Google's own tools are members of their name.
        let own = tool.as_object().into_iter().flatten().filter(|(_, value)| value.is_object());
        tools.extend(own.map(|(name, _)| json!({"type": name, "name": name})));
    }
    RequestContent {
        system: system.map(parts).unwrap_or_default(),
        messages: messages.into_iter().map(message).collect(),
        tools,
        truncated: false,
    }
}

fn function(mut function: Value) -> Option<Value> {
    let mut definition = json!({"type": "function", "name": fields::text(&function, "name")?});
    for (key, names) in
        [("description", ["description", ""]), ("parameters", ["parameters", "parametersJsonSchema"])]
    {
        if let Some(value) = names.into_iter().find_map(|name| fields::take(&mut function, name)) {
            definition[key] = value;
        }
    }
    Some(definition)
}

fn message(content: Value) -> Message {
    Message { role: role(&content).unwrap_or_else(|| "user".to_owned()), name: None, parts: parts(content) }
}

fn role(content: &Value) -> Option<String> {
    fields::text(content, "role").map(|role| if role == "model" { "assistant".to_owned() } else { role })
}

/// The parts of a content; a content may be a text alone.
fn parts(mut content: Value) -> Vec<Part> {
    match content {
        Value::String(text) => vec![Part::Text(text)],
        _ => fields::take_array(&mut content, "parts").into_iter().map(part).collect(),
    }
}

fn part(mut part: Value) -> Part {
    if let Some(text) = fields::take_text(&mut part, "text") {
        return if part.get("thought") == Some(&Value::Bool(true)) {
            Part::Reasoning(text)
        } else {
            Part::Text(text)
        };
    }
    if let Some(mut call) = fields::take(&mut part, "functionCall") {
        return Part::ToolCall {
            id: fields::text(&call, "id"),
            name: fields::text(&call, "name").unwrap_or_default(),
            arguments: fields::take(&mut call, "args"),
        };
    }
    if let Some(mut answered) = fields::take(&mut part, "functionResponse") {
        return Part::ToolCallResponse {
            id: fields::text(&answered, "id"),
            response: fields::take(&mut answered, "response").unwrap_or_default(),
        };
    }
    if let Some(mut data) = fields::take(&mut part, "inlineData") {
        let mime_type = fields::text(&data, "mimeType");
        let content = fields::take_text(&mut data, "data").unwrap_or_default();
        return Part::Blob { modality: modality(mime_type.as_deref()), mime_type, content };
    }
    if let Some(mut file) = fields::take(&mut part, "fileData") {
        let mime_type = fields::text(&file, "mimeType");
        let uri = fields::take_text(&mut file, "fileUri").unwrap_or_default();
        return Part::Uri { modality: modality(mime_type.as_deref()), mime_type, uri };
    }
    openai::other(part)
}

/// What a MIME type is about, in the conventions' words.
fn modality(mime_type: Option<&str>) -> String {
    match mime_type.and_then(|kind| kind.split('/').next()) {
        Some(kind @ ("image" | "audio" | "video")) => kind.to_owned(),
        _ => "document".to_owned(),
    }
}

/// Spells the names of fields as responses do: of requests both `systemInstruction` and `system_instruction` are taken
/// (protobuf.dev, "ProtoJSON Format"). What users define is left as it is.
fn camel_case(value: &mut Value) {
    const THEIRS: [&str; 6] =
        ["args", "response", "parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema"];
    match value {
        Value::Array(items) => items.iter_mut().for_each(camel_case),
        Value::Object(fields) => {
            if fields.keys().any(|name| name.contains('_')) {
                *fields =
                    std::mem::take(fields).into_iter().map(|(name, value)| (camel(&name), value)).collect();
            }
            for (name, value) in fields.iter_mut() {
                if !THEIRS.contains(&name.as_str()) {
                    camel_case(value);
                }
            }
        }
        _ => {}
    }
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

/// A chunk of a stream, or the whole response.
fn event(answer: &mut Answer, body: &mut Value) {
    if let Some(failure) = failure(answer, body) {
        answer.failure = Some(failure);
        return;
    }
    let blocked = body.get("promptFeedback").and_then(|feedback| fields::text(feedback, "blockReason"));
    answer.recognised |= blocked.is_some() || body.get("candidates").is_some_and(Value::is_array);
    if let Some(reason) = blocked {
        answer.failure = Some(Failure { kind: Some(format!("BLOCKED_{reason}")), ..Failure::default() });
    }
    let response = &mut answer.response;
    response.id = response.id.take().or_else(|| fields::text(body, "responseId"));
    response.model = response.model.take().or_else(|| fields::text(body, "modelVersion"));
    let mut dialect = Dialect::Names;
    for (position, mut candidate) in fields::take_array(body, "candidates").into_iter().enumerate() {
        let index = fields::int(&candidate, "index").unwrap_or(position as i64);
        let reason = match candidate.get("finishReason") {
            Some(Value::Number(number)) => {
                dialect = Dialect::Numbers;
                number.as_u64().and_then(finish_reason).map(str::to_owned)
            }
            _ => fields::text(&candidate, "finishReason"),
        };
        let Some(known) = answer.choice(index) else { continue };
        known.finish_reason = reason.or(known.finish_reason.take());
        let Some(content) = fields::take(&mut candidate, "content") else { continue };
        known.role = role(&content).or(known.role.take());
        for part in parts(content) {
            match part {
                Part::Text(text) => answer.append(index, Piece::Text, &text),
                Part::Reasoning(text) => answer.append(index, Piece::Reasoning, &text),
                part => answer.add(index, None, Piece::Whole(part)),
            }
        }
    }
    if let Some(usage) = usage(body, dialect) {
        answer.response.usage = usage;
    }
}

fn is_embed_request(body: &Value, hints: &Hints) -> bool {
    let asks = body.get("content").is_some_and(Value::is_object)
        || body.get("requests").is_some_and(Value::is_array);
    hints.model_in_path && asks
}

fn embed_request_filter(path: &[Step], _: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["requests"] => Keep::Into,
        // All are for one model, and of one length.
        ["requests", "*"] if path[1] == Step::Index(0) => Keep::Into,
        ["content"] => Keep::Kind,
        [.., "model" | "outputDimensionality" | "output_dimensionality"] => Keep::Into,
        _ => Keep::Nothing,
    }
}

fn embed_response_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = super::names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["embedding" | "embeddings" | "usageMetadata"] | ["usageMetadata", "promptTokenCount"] => {
            Keep::Into
        }
        ["embeddings", "*"] if path[1] == Step::Index(0) => Keep::Into,
        ["embedding", "values"] | ["embeddings", "*", "values"] => Keep::Count,
        ["error"] | ["error", "code" | "status"] => Keep::Into,
        ["error", "message"] if content => Keep::All,
        _ => Keep::Nothing,
    }
}

fn embed_request(body: &mut Value, _: bool) -> Request {
    camel_case(body);
    let none = Value::Null;
    let first = body.pointer("/requests/0").unwrap_or(&none);
    Request {
        model: model(body).or_else(|| model(first)),
        dimensions: fields::int(body, "outputDimensionality")
            .or_else(|| fields::int(first, "outputDimensionality")),
        ..Request::default()
    }
}

fn embed_response(answer: &mut Answer, body: &mut Value) {
    if let Some(failure) = failure(answer, body) {
        answer.failure = Some(failure);
        return;
    }
    let first = body.get("embedding").or_else(|| body.pointer("/embeddings/0"));
    let length = first.and_then(|first| fields::int(first, "values")).filter(|length| *length > 0);
    answer.response.dimensions = length;
    answer.response.usage.input =
        body.get("usageMetadata").and_then(|usage| fields::int(usage, "promptTokenCount"));
    answer.recognised |= length.is_some();
}

fn failure(answer: &Answer, body: &Value) -> Option<Failure> {
    let mut failure = answer::failure(body, answer.wants_content())?;
    let status = body.get("error").and_then(|error| fields::text(error, "status"));
    failure.kind = status.or(failure.kind);
    Some(failure)
}

/// How a client asked for enumerations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Names,
    /// `$alt=json;enum-encoding=int`: Google's older SDK of Vertex AI alone.
    Numbers,
}

fn usage(body: &Value, dialect: Dialect) -> Option<Usage> {
    let usage = body.get("usageMetadata")?;
    let count = |key: &str| fields::int(usage, key);
    let input = count("promptTokenCount")?;
    let answered = count("candidatesTokenCount").unwrap_or(0);
    let thoughts = count("thoughtsTokenCount");
    let (output, reasoning) = match dialect {
        Dialect::Names => (answered.saturating_add(thoughts.unwrap_or(0)), thoughts),
        // What that SDK calls output, and what its instrumentation reports, leaves thoughts out.
        Dialect::Numbers => (answered, None),
    };
    Some(Usage {
        input: Some(input.saturating_add(count("toolUsePromptTokenCount").unwrap_or(0))),
        output: Some(output),
        cache_read: count("cachedContentTokenCount"),
        cache_write: None,
        reasoning,
    })
}

/// `Candidate.FinishReason` by its number.
fn finish_reason(number: u64) -> Option<&'static str> {
    const NAMES: [&str; 10] = [
        "STOP",
        "MAX_TOKENS",
        "SAFETY",
        "RECITATION",
        "OTHER",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "MALFORMED_FUNCTION_CALL",
        "MODEL_ARMOR",
    ];
    NAMES.get(usize::try_from(number).ok()?.checked_sub(1)?).copied()
}
