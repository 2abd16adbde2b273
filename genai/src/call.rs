//! One call to a model, as the wire told it: what the providers' decoders fill and the conventions read.
//!
//! Fields hold what was seen and nothing else: an absent field is an absent attribute.

use crate::links::Links;
use crate::telemetry::SpanContext;
use crate::time::Timestamp;
use serde_json::Value as Json;
use std::time::Duration;

/// A finished call: answered, failed, cut or abandoned.
#[derive(Clone, PartialEq, Debug)]
pub struct Call {
    /// What was asked for.
    pub operation: Operation,
    /// The wire format that it was asked in.
    pub api: Api,
    /// `gen_ai.provider.name`: a well-known value, or one of our own where none fits.
    pub provider: &'static str,
    /// The host and port that the request names.
    pub server: Option<Server>,
    /// From the request's `traceparent`.
    pub parent: Option<SpanContext>,
    /// The request's parameters and, where wanted, content.
    pub request: Request,
    /// The response's facts and, where wanted, content.
    pub response: Response,
    /// When what happened.
    pub timing: Timing,
    /// The HTTP status, once a response head was seen.
    pub status: Option<u16>,
    /// How the call ended.
    pub outcome: Outcome,
    /// How often the client says that it sent this request before (`x-stainless-retry-count`).
    pub resend_count: Option<u32>,
    /// Bytes of the request or response are missing, or the connection was joined in its middle.
    pub truncated: bool,
    /// What joins it with other calls.
    pub links: Links,
    /// How it went by gRPC; none where it did not.
    pub rpc: Option<Rpc>,
}

/// A remote procedure call by gRPC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rpc {
    /// Service and method, such as `xai_api.Chat/GetCompletion`.
    pub method: String,
    /// The name of the status that the server ended it with, such as `OK`.
    pub status: Option<&'static str>,
}

/// `gen_ai.operation.name`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// A chat completion, whatever the provider calls it.
    Chat,
    /// Google's `generateContent`.
    GenerateContent,
    /// A legacy text completion.
    TextCompletion,
    /// Embedding vectors.
    Embeddings,
    /// Documents in the order of their relevance to a query.
    Rerank,
}

/// A wire format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Api {
    /// OpenAI's `…/chat/completions`.
    OpenAiChat,
    /// OpenAI's `…/responses`.
    OpenAiResponses,
    /// OpenAI's `…/realtime`, over a WebSocket.
    OpenAiRealtime,
    /// OpenAI's `…/completions`.
    OpenAiCompletions,
    /// OpenAI's `…/embeddings`.
    OpenAiEmbeddings,
    /// Anthropic's `…/messages`.
    AnthropicMessages,
    /// Google's `…:generateContent` and `…:streamGenerateContent` (Gemini, Vertex AI).
    GoogleGenerateContent,
    /// Google's `…:embedContent` and `…:batchEmbedContents` (Gemini, Vertex AI).
    GoogleEmbedContent,
    /// xAI's own, by gRPC.
    XaiChat,
    /// Amazon Bedrock's `/model/…/converse` and `…/converse-stream`.
    BedrockConverse,
    /// Amazon Bedrock's `/model/…/invoke` and `…/invoke-with-response-stream`.
    BedrockInvoke,
    /// Cohere's `/v2/chat` and `/v1/chat`.
    CohereChat,
    /// Cohere's `…/embed`.
    CohereEmbed,
    /// Ollama's `/api/chat`.
    OllamaChat,
    /// Ollama's `/api/generate`.
    OllamaGenerate,
    /// Ollama's `/api/embed` and `/api/embeddings`.
    OllamaEmbed,
    /// Hugging Face TGI's `/generate` and `/generate_stream`.
    TgiGenerate,
    /// llama.cpp's `/completion`.
    LlamaCppCompletion,
    /// `…/rerank`, as Cohere, vLLM and others speak it.
    Rerank,
}

impl Api {
    /// Whether it is one of OpenAI's formats, whoever serves it.
    pub fn is_openai(self) -> bool {
        matches!(
            self,
            Api::OpenAiChat
                | Api::OpenAiResponses
                | Api::OpenAiRealtime
                | Api::OpenAiCompletions
                | Api::OpenAiEmbeddings
        )
    }
}

/// Where a request went: by its own words (`Host`, request target), or over a Unix socket.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Server {
    /// Host name or address, without port, lower case; or the name of the Unix socket.
    pub address: String,
    /// The port in `Host`, else the scheme's default; a Unix socket has none.
    pub port: Option<u16>,
}

/// What was asked for.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Request {
    /// `model` of the body.
    pub model: Option<String>,
    /// Whether the response was asked for as a stream.
    pub stream: bool,
    /// Upper limit of output tokens.
    pub max_tokens: Option<i64>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    pub top_p: Option<f64>,
    /// Top-k sampling; never `top_logprobs`.
    pub top_k: Option<f64>,
    /// Frequency penalty.
    pub frequency_penalty: Option<f64>,
    /// Presence penalty.
    pub presence_penalty: Option<f64>,
    /// Stop sequences; a single string counts as one.
    pub stop_sequences: Vec<String>,
    /// Seed for deterministic sampling.
    pub seed: Option<i64>,
    /// How many choices (`n`).
    pub choice_count: Option<i64>,
    /// `text`, `json`, `image` or `speech`, where the request fixes it.
    pub output_type: Option<&'static str>,
    /// Service tier as asked for (OpenAI), `auto` included.
    pub service_tier: Option<String>,
    /// Reasoning effort, as the request names it.
    pub reasoning_level: Option<String>,
    /// The id of the response that this one continues (OpenAI Responses).
    pub previous_response_id: Option<String>,
    /// A conversation's real id on the wire, never one made up.
    pub conversation_id: Option<String>,
    /// Bedrock: the guardrail that the call goes through.
    pub guardrail_id: Option<String>,
    /// Embeddings: dimensions asked for.
    pub dimensions: Option<i64>,
    /// Embeddings: encoding formats asked for.
    pub encoding_formats: Vec<String>,
    /// Prompt, history and tools; `None` while content is off.
    pub content: Option<RequestContent>,
}

/// What a model was told. Kept only where content is wanted.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RequestContent {
    /// Instructions given apart from the history.
    pub system: Vec<Part>,
    /// The history, in its order.
    pub messages: Vec<Message>,
    /// Tool definitions, in the shape of `gen_ai.tool.definitions`.
    pub tools: Vec<Json>,
    /// Something was left out because of a limit.
    pub truncated: bool,
}

/// What came back.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Response {
    /// The provider's id of the response.
    pub id: Option<String>,
    /// The model that answered.
    pub model: Option<String>,
    /// One for each choice, in the provider's words, in the order of the choices.
    /// A choice that ended without a reason stands as `None`.
    pub finish_reasons: Vec<Option<String>>,
    /// Token counts.
    pub usage: Usage,
    /// Service tier that served the call (OpenAI).
    pub service_tier: Option<String>,
    /// Back-end configuration (OpenAI).
    pub system_fingerprint: Option<String>,
    /// Embeddings: length of the first vector.
    pub dimensions: Option<i64>,
    /// The answer; `None` while content is off.
    pub content: Option<ResponseContent>,
}

/// What a model said. Kept only where content is wanted.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ResponseContent {
    /// One message for each choice.
    pub messages: Vec<OutputMessage>,
    /// Something was left out because of a limit.
    pub truncated: bool,
}

/// Token counts by OpenTelemetry's meaning: cached and reasoning tokens are parts of the totals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// All input tokens, cached ones included.
    pub input: Option<i64>,
    /// All output tokens, reasoning included.
    pub output: Option<i64>,
    /// Input tokens read from a cache.
    pub cache_read: Option<i64>,
    /// Input tokens written to a cache.
    pub cache_write: Option<i64>,
    /// Output tokens spent on reasoning.
    pub reasoning: Option<i64>,
}

/// A message of the history.
#[derive(Clone, PartialEq, Debug)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or the provider's own word.
    pub role: String,
    /// The participant's name, where one is given.
    pub name: Option<String>,
    /// What it holds, in order.
    pub parts: Vec<Part>,
}

/// A message of the answer.
#[derive(Clone, PartialEq, Debug)]
pub struct OutputMessage {
    /// `assistant`, or the provider's own word.
    pub role: String,
    /// What it holds, in order.
    pub parts: Vec<Part>,
    /// Why it ended, in the provider's words.
    pub finish_reason: Option<String>,
}

/// A part of a message: the shapes of the GenAI message schemas.
#[derive(Clone, PartialEq, Debug)]
pub enum Part {
    /// Plain text. A refusal is text, too.
    Text(String),
    /// The model's reasoning, as far as it is shown.
    Reasoning(String),
    /// A tool that the model asks for. `arguments` is the parsed object, or the text where it is no JSON.
    ToolCall {
        /// The call's id.
        id: Option<String>,
        /// The tool's name.
        name: String,
        /// What it is called with.
        arguments: Option<Json>,
    },
    /// What a tool answered.
    ToolCallResponse {
        /// The id of the call that it answers.
        id: Option<String>,
        /// The answer.
        response: Json,
    },
    /// A tool that the provider runs itself.
    ServerToolCall {
        /// The call's id.
        id: Option<String>,
        /// The tool's name.
        name: String,
        /// The call as the provider shows it, with its `type`.
        call: Json,
    },
    /// What a tool of the provider answered.
    ServerToolCallResponse {
        /// The id of the call that it answers.
        id: Option<String>,
        /// The answer as the provider shows it, with its `type`.
        response: Json,
    },
    /// Data in the message itself, base64.
    Blob {
        /// `image`, `audio`, `video`, `document`.
        modality: String,
        /// MIME type.
        mime_type: Option<String>,
        /// Base64, as sent.
        content: String,
    },
    /// A file that the provider holds.
    File {
        /// `image`, `audio`, `video`, `document`.
        modality: String,
        /// MIME type.
        mime_type: Option<String>,
        /// The provider's id of it.
        file_id: String,
    },
    /// Data somewhere else.
    Uri {
        /// `image`, `audio`, `video`, `document`.
        modality: String,
        /// MIME type.
        mime_type: Option<String>,
        /// Where it is.
        uri: String,
    },
    /// Anything else, as the provider shows it; an object with a `type`.
    Other(Json),
}

/// When what happened.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Timing {
    /// The first byte of the request was written.
    pub start: Timestamp,
    /// The first piece of a streamed answer arrived.
    pub first_chunk: Option<Timestamp>,
    /// The last byte of the response was read, or the connection ended.
    pub end: Timestamp,
    /// The times between the pieces of a streamed answer after the first.
    pub between_chunks: ChunkTimes,
}

/// The bounds, in seconds, that the conventions advise for latencies.
pub const LATENCY_BOUNDS: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];

/// Times between chunks, sorted into [`LATENCY_BOUNDS`]: bounded, however long the stream.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ChunkTimes {
    /// How many fell into each bucket; the last is open.
    pub counts: [u64; LATENCY_BOUNDS.len() + 1],
    /// Their sum in seconds.
    pub sum: f64,
    /// The shortest in seconds; meaningless while there is none.
    pub min: f64,
    /// The longest in seconds.
    pub max: f64,
}

impl ChunkTimes {
    /// Adds the time between two chunks.
    pub fn add(&mut self, between: Duration) {
        let seconds = between.as_secs_f64();
        let first = self.is_empty();
        self.counts[LATENCY_BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        self.sum += seconds;
        self.min = if first { seconds } else { self.min.min(seconds) };
        self.max = self.max.max(seconds);
    }

    /// Whether no time was added.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }
}

/// How a call ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The response ended as its framing or its provider says that it ends.
    Complete,
    /// The provider answered with an error, by HTTP status or inside the stream.
    Failed(Failure),
    /// The peer ended the connection before the response was whole.
    Cut,
    /// The client ended the connection before the response was whole: its own wish, not an error.
    Cancelled,
    /// The response stopped short, and the wire does not tell who wanted it.
    Incomplete,
}

/// A provider's error.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Failure {
    /// The provider's error code, such as `model_not_found`.
    pub code: Option<String>,
    /// The provider's error type, such as `invalid_request_error`.
    pub kind: Option<String>,
    /// The provider's words. They may quote the prompt: content.
    pub message: Option<String>,
}
