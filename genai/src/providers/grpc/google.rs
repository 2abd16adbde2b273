//! What is read of Google's services, under the names of their REST interfaces: one reader serves both.
//!
//! Field numbers: google.ai.generativelanguage.v1beta (PyPI google-ai-generativelanguage 0.12.1; v1 and v1alpha have the
//! same) and google.cloud.aiplatform.v1 and v1beta1 (google-cloud-aiplatform 2.7.0; what is read has the same numbers).

use crate::protobuf::Kind::{Bool, Bytes, Double, Enum, Float, Int, Text};
use crate::protobuf::{ANYTHING, Field, Kind, Message, STRUCT, Shape, VALUE};

const fn object(fields: &'static [Field]) -> Message {
    assert!(fields.len() <= 64, "what came is told by 64 bits");
    Message { shape: Shape::Object, fields }
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field::one(number, name, kind)
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field::many(number, name, kind)
}

const fn object_of(of: &'static Message) -> Kind {
    Kind::Message(of)
}

pub(super) static GEMINI_REQUEST: Message = object(&[
    one(1, "model", Text),
    many(2, "contents", object_of(&GEMINI_CONTENT)),
    one(4, "generationConfig", object_of(&GEMINI_CONFIG)),
    many(5, "tools", object_of(&GEMINI_TOOL)),
    one(8, "systemInstruction", object_of(&GEMINI_CONTENT)),
]);

pub(super) static GEMINI_RESPONSE: Message = object(&[
    many(1, "candidates", object_of(&GEMINI_CANDIDATE)),
    one(2, "promptFeedback", object_of(&GEMINI_FEEDBACK)),
    one(3, "usageMetadata", object_of(&GEMINI_USAGE)),
    one(4, "modelVersion", Text),
    one(5, "responseId", Text),
]);

pub(super) static GEMINI_EMBED_REQUEST: Message = object(&[
    one(1, "model", Text),
    one(2, "content", object_of(&ANYTHING)),
    one(5, "outputDimensionality", Int),
]);

pub(super) static GEMINI_EMBED_RESPONSE: Message = object(&[one(1, "embedding", object_of(&EMBEDDING))]);

pub(super) static GEMINI_BATCH_EMBED_REQUEST: Message =
    object(&[one(1, "model", Text), many(2, "requests", object_of(&GEMINI_EMBED_REQUEST))]);

pub(super) static GEMINI_BATCH_EMBED_RESPONSE: Message =
    object(&[many(1, "embeddings", object_of(&EMBEDDING))]);

static EMBEDDING: Message = object(&[many(1, "values", Float)]);

static GEMINI_CONTENT: Message = object(&[many(1, "parts", object_of(&GEMINI_PART)), one(2, "role", Text)]);

static GEMINI_PART: Message = object(&[
    one(2, "text", Text),
    one(3, "inlineData", object_of(&BLOB)),
    one(4, "functionCall", object_of(&FUNCTION_CALL)),
    one(5, "functionResponse", object_of(&FUNCTION_RESPONSE)),
    one(6, "fileData", object_of(&FILE_DATA)),
    one(9, "executableCode", object_of(&EXECUTABLE_CODE)),
    one(10, "codeExecutionResult", object_of(&CODE_EXECUTION_RESULT)),
    one(11, "thought", Bool),
    one(13, "thoughtSignature", Bytes),
]);

static GEMINI_CONFIG: Message = object(&[
    one(1, "candidateCount", Int),
    many(2, "stopSequences", Text),
    one(4, "maxOutputTokens", Int),
    one(5, "temperature", Float),
    one(6, "topP", Float),
    one(7, "topK", Int),
    one(8, "seed", Int),
    one(13, "responseMimeType", Text),
    one(15, "presencePenalty", Float),
    one(16, "frequencyPenalty", Float),
    many(20, "responseModalities", Enum(MODALITY)),
    one(22, "thinkingConfig", object_of(&THINKING)),
]);

static GEMINI_TOOL: Message = object(&[
    many(1, "functionDeclarations", object_of(&GEMINI_FUNCTION)),
    one(2, "googleSearchRetrieval", object_of(&ANYTHING)),
    one(3, "codeExecution", object_of(&ANYTHING)),
    one(4, "googleSearch", object_of(&ANYTHING)),
    one(6, "computerUse", object_of(&ANYTHING)),
    one(8, "urlContext", object_of(&ANYTHING)),
    one(9, "fileSearch", object_of(&ANYTHING)),
    one(11, "googleMaps", object_of(&ANYTHING)),
]);

static GEMINI_FUNCTION: Message = object(&[
    one(1, "name", Text),
    one(2, "description", Text),
    one(3, "parameters", object_of(&GEMINI_SCHEMA)),
    one(6, "parametersJsonSchema", object_of(&VALUE)),
]);

static GEMINI_SCHEMA: Message = object(&[
    one(1, "type", Enum(TYPE)),
    one(2, "format", Text),
    one(3, "description", Text),
    one(4, "nullable", Bool),
    many(5, "enum", Text),
    one(6, "items", object_of(&GEMINI_SCHEMA)),
    many(7, "properties", object_of(&GEMINI_PROPERTY)),
    many(8, "required", Text),
    one(9, "minProperties", Int),
    one(10, "maxProperties", Int),
    one(11, "minimum", Double),
    one(12, "maximum", Double),
    one(13, "minLength", Int),
    one(14, "maxLength", Int),
    one(15, "pattern", Text),
    one(16, "example", object_of(&VALUE)),
    many(18, "anyOf", object_of(&GEMINI_SCHEMA)),
    one(21, "maxItems", Int),
    one(22, "minItems", Int),
    many(23, "propertyOrdering", Text),
    one(24, "title", Text),
    one(25, "default", object_of(&VALUE)),
]);

static GEMINI_PROPERTY: Message = Message {
    shape: Shape::Entry,
    fields: &[one(1, "key", Text), one(2, "value", object_of(&GEMINI_SCHEMA))],
};

static GEMINI_CANDIDATE: Message = object(&[
    one(1, "content", object_of(&GEMINI_CONTENT)),
    one(2, "finishReason", Enum(GEMINI_FINISH_REASON)),
    one(3, "index", Int),
]);

static GEMINI_USAGE: Message = object(&[
    one(1, "promptTokenCount", Int),
    one(2, "candidatesTokenCount", Int),
    one(3, "totalTokenCount", Int),
    one(4, "cachedContentTokenCount", Int),
    one(8, "toolUsePromptTokenCount", Int),
    one(10, "thoughtsTokenCount", Int),
]);

const GEMINI_FINISH_REASON: &[(u64, &str)] = &[
    (0, "FINISH_REASON_UNSPECIFIED"),
    (1, "STOP"),
    (2, "MAX_TOKENS"),
    (3, "SAFETY"),
    (4, "RECITATION"),
    (5, "OTHER"),
    (6, "LANGUAGE"),
    (7, "BLOCKLIST"),
    (8, "PROHIBITED_CONTENT"),
    (9, "SPII"),
    (10, "MALFORMED_FUNCTION_CALL"),
    (11, "IMAGE_SAFETY"),
    (12, "UNEXPECTED_TOOL_CALL"),
    (13, "TOO_MANY_TOOL_CALLS"),
    (14, "IMAGE_PROHIBITED_CONTENT"),
    (15, "IMAGE_OTHER"),
    (16, "NO_IMAGE"),
    (17, "IMAGE_RECITATION"),
];

static GEMINI_FEEDBACK: Message = object(&[one(
    1,
    "blockReason",
    Enum(&[
        (0, "BLOCK_REASON_UNSPECIFIED"),
        (1, "SAFETY"),
        (2, "OTHER"),
        (3, "BLOCKLIST"),
        (4, "PROHIBITED_CONTENT"),
        (5, "IMAGE_SAFETY"),
    ]),
)]);

pub(super) static VERTEX_REQUEST: Message = object(&[
    many(2, "contents", object_of(&VERTEX_CONTENT)),
    one(4, "generationConfig", object_of(&VERTEX_CONFIG)),
    one(5, "model", Text),
    many(6, "tools", object_of(&VERTEX_TOOL)),
    one(8, "systemInstruction", object_of(&VERTEX_CONTENT)),
]);

pub(super) static VERTEX_RESPONSE: Message = object(&[
    many(2, "candidates", object_of(&VERTEX_CANDIDATE)),
    one(3, "promptFeedback", object_of(&VERTEX_FEEDBACK)),
    one(4, "usageMetadata", object_of(&VERTEX_USAGE)),
    one(11, "modelVersion", Text),
    one(13, "responseId", Text),
]);

pub(super) static VERTEX_EMBED_REQUEST: Message = object(&[
    one(1, "model", Text),
    one(2, "content", object_of(&ANYTHING)),
    one(6, "outputDimensionality", Int),
]);

pub(super) static VERTEX_EMBED_RESPONSE: Message =
    object(&[one(1, "embedding", object_of(&EMBEDDING)), one(2, "usageMetadata", object_of(&EMBED_USAGE))]);

static EMBED_USAGE: Message = object(&[one(1, "promptTokenCount", Int)]);

static VERTEX_CONTENT: Message = object(&[one(1, "role", Text), many(2, "parts", object_of(&VERTEX_PART))]);

static VERTEX_PART: Message = object(&[
    one(1, "text", Text),
    one(2, "inlineData", object_of(&BLOB)),
    one(3, "fileData", object_of(&FILE_DATA)),
    one(5, "functionCall", object_of(&FUNCTION_CALL)),
    one(6, "functionResponse", object_of(&FUNCTION_RESPONSE)),
    one(8, "executableCode", object_of(&EXECUTABLE_CODE)),
    one(9, "codeExecutionResult", object_of(&CODE_EXECUTION_RESULT)),
    one(10, "thought", Bool),
    one(11, "thoughtSignature", Bytes),
]);

static VERTEX_CONFIG: Message = object(&[
    one(1, "temperature", Float),
    one(2, "topP", Float),
    one(3, "topK", Float),
    one(4, "candidateCount", Int),
    one(5, "maxOutputTokens", Int),
    many(6, "stopSequences", Text),
    one(8, "presencePenalty", Float),
    one(9, "frequencyPenalty", Float),
    one(12, "seed", Int),
    one(13, "responseMimeType", Text),
    many(21, "responseModalities", Enum(MODALITY)),
    one(25, "thinkingConfig", object_of(&THINKING)),
]);

static VERTEX_TOOL: Message = object(&[
    many(1, "functionDeclarations", object_of(&VERTEX_FUNCTION)),
    one(2, "retrieval", object_of(&ANYTHING)),
    one(3, "googleSearchRetrieval", object_of(&ANYTHING)),
    one(4, "codeExecution", object_of(&ANYTHING)),
    one(5, "googleMaps", object_of(&ANYTHING)),
    one(6, "enterpriseWebSearch", object_of(&ANYTHING)),
    one(7, "googleSearch", object_of(&ANYTHING)),
    one(10, "urlContext", object_of(&ANYTHING)),
    one(11, "computerUse", object_of(&ANYTHING)),
]);

static VERTEX_FUNCTION: Message = object(&[
    one(1, "name", Text),
    one(2, "description", Text),
    one(3, "parameters", object_of(&VERTEX_SCHEMA)),
    one(5, "parametersJsonSchema", object_of(&VALUE)),
]);

static VERTEX_SCHEMA: Message = object(&[
    one(1, "type", Enum(TYPE)),
    one(2, "items", object_of(&VERTEX_SCHEMA)),
    many(3, "properties", object_of(&VERTEX_PROPERTY)),
    one(4, "example", object_of(&VALUE)),
    many(5, "required", Text),
    one(6, "nullable", Bool),
    one(7, "format", Text),
    one(8, "description", Text),
    many(9, "enum", Text),
    many(11, "anyOf", object_of(&VERTEX_SCHEMA)),
    one(14, "minProperties", Int),
    one(15, "maxProperties", Int),
    one(16, "minimum", Double),
    one(17, "maximum", Double),
    one(18, "minLength", Int),
    one(19, "maxLength", Int),
    one(20, "pattern", Text),
    one(21, "minItems", Int),
    one(22, "maxItems", Int),
    one(23, "default", object_of(&VALUE)),
    one(24, "title", Text),
    many(25, "propertyOrdering", Text),
    one(26, "additionalProperties", object_of(&VALUE)),
    one(27, "ref", Text),
    many(28, "defs", object_of(&VERTEX_PROPERTY)),
]);

static VERTEX_PROPERTY: Message = Message {
    shape: Shape::Entry,
    fields: &[one(1, "key", Text), one(2, "value", object_of(&VERTEX_SCHEMA))],
};

static VERTEX_CANDIDATE: Message = object(&[
    one(1, "index", Int),
    one(2, "content", object_of(&VERTEX_CONTENT)),
    one(3, "finishReason", Enum(VERTEX_FINISH_REASON)),
]);

static VERTEX_USAGE: Message = object(&[
    one(1, "promptTokenCount", Int),
    one(2, "candidatesTokenCount", Int),
    one(3, "totalTokenCount", Int),
    one(5, "cachedContentTokenCount", Int),
    one(14, "thoughtsTokenCount", Int),
]);

const VERTEX_FINISH_REASON: &[(u64, &str)] = &[
    (0, "FINISH_REASON_UNSPECIFIED"),
    (1, "STOP"),
    (2, "MAX_TOKENS"),
    (3, "SAFETY"),
    (4, "RECITATION"),
    (5, "OTHER"),
    (6, "BLOCKLIST"),
    (7, "PROHIBITED_CONTENT"),
    (8, "SPII"),
    (9, "MALFORMED_FUNCTION_CALL"),
    (10, "MODEL_ARMOR"),
];

static VERTEX_FEEDBACK: Message = object(&[one(
    1,
    "blockReason",
    Enum(&[
        (0, "BLOCKED_REASON_UNSPECIFIED"),
        (1, "SAFETY"),
        (2, "OTHER"),
        (3, "BLOCKLIST"),
        (4, "PROHIBITED_CONTENT"),
        (5, "MODEL_ARMOR"),
        (6, "JAILBREAK"),
    ]),
)]);

// What follows has the same numbers in both.

static BLOB: Message = object(&[one(1, "mimeType", Text), one(2, "data", Bytes)]);

static FILE_DATA: Message = object(&[one(1, "mimeType", Text), one(2, "fileUri", Text)]);

static FUNCTION_CALL: Message =
    object(&[one(1, "name", Text), one(2, "args", object_of(&STRUCT)), one(3, "id", Text)]);

static FUNCTION_RESPONSE: Message =
    object(&[one(1, "name", Text), one(2, "response", object_of(&STRUCT)), one(3, "id", Text)]);

static EXECUTABLE_CODE: Message = object(&[one(1, "language", Enum(LANGUAGE)), one(2, "code", Text)]);

static CODE_EXECUTION_RESULT: Message = object(&[one(1, "outcome", Enum(OUTCOME)), one(2, "output", Text)]);

/// Only Vertex AI has a level; what Gemini would give it is not known.
static THINKING: Message = object(&[one(4, "thinkingLevel", Enum(THINKING_LEVEL))]);

const LANGUAGE: &[(u64, &str)] = &[(0, "LANGUAGE_UNSPECIFIED"), (1, "PYTHON")];

const OUTCOME: &[(u64, &str)] =
    &[(0, "OUTCOME_UNSPECIFIED"), (1, "OUTCOME_OK"), (2, "OUTCOME_FAILED"), (3, "OUTCOME_DEADLINE_EXCEEDED")];

const MODALITY: &[(u64, &str)] = &[(0, "MODALITY_UNSPECIFIED"), (1, "TEXT"), (2, "IMAGE"), (3, "AUDIO")];

const THINKING_LEVEL: &[(u64, &str)] =
    &[(0, "THINKING_LEVEL_UNSPECIFIED"), (1, "LOW"), (2, "MEDIUM"), (3, "HIGH"), (4, "MINIMAL")];

const TYPE: &[(u64, &str)] = &[
    (0, "TYPE_UNSPECIFIED"),
    (1, "STRING"),
    (2, "NUMBER"),
    (3, "INTEGER"),
    (4, "BOOLEAN"),
    (5, "ARRAY"),
    (6, "OBJECT"),
    (7, "NULL"),
];
