//! What differs between the vintages of the conventions, and the words that do not.

use super::Vintage;
use crate::call::{Api, LATENCY_BOUNDS, Operation};
use crate::telemetry::{Bounds, Instrument, Metric};

/// The names of one vintage.
pub(super) struct Names {
    pub(super) cache_write_tokens: &'static str,
    pub(super) reasoning_level: Option<&'static str>,
    pub(super) previous_response: Option<&'static str>,
    pub(super) top_k_is_int: bool,
    /// `finish_reason` inside messages is required in the one and deprecated in the other.
    pub(super) finish_reason_in_messages: bool,
    pub(super) duration: Metric,
    pub(super) time_to_first_chunk: Metric,
    pub(super) time_per_output_chunk: Metric,
    pub(super) tokens: Tokens,
    pub(super) agent: AgentNames,
}

/// How token counts are measured.
pub(super) enum Tokens {
    /// One histogram; an attribute tells input from output.
    ByType(Metric),
    /// A metric for each kind.
    ByMetric(&'static TokenMetrics),
}

/// What the vintages tell differently of agents' turns and tools.
#[derive(Clone, Copy, Debug)]
pub struct AgentNames {
    /// A turn has `gen_ai.provider.name`: required in the one, gone from the other.
    pub provider_of_turn: bool,
    /// A tool call has `gen_ai.conversation.id`.
    pub conversation_of_tool: bool,
}

/// What a vintage tells of agents' turns and tools.
pub fn agent(vintage: Vintage) -> AgentNames {
    of(vintage).agent
}

pub(super) struct TokenMetrics {
    pub(super) input: Metric,
    pub(super) output: Metric,
    pub(super) cache_read: Metric,
    pub(super) cache_write: Metric,
    pub(super) reasoning: Metric,
    pub(super) operation_input: Metric,
    pub(super) operation_output: Metric,
}

pub(super) fn of(vintage: Vintage) -> &'static Names {
    match vintage {
        Vintage::V1_41 => &V1_41,
        Vintage::Latest => &LATEST,
    }
}

/// Kept in the latest vintage for what is no inference.
pub(super) const OPERATION_DURATION: Metric =
    seconds("gen_ai.client.operation.duration", "How long an operation took, as its client saw it.");

/// The conventions' bounds for MCP.
const MCP_BOUNDS: &[f64] = &[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

pub(super) const MCP_DURATION: Metric = Metric {
    name: "mcp.client.operation.duration",
    unit: "s",
    description: "How long a request to an MCP server took, as its client saw it.",
    instrument: Instrument::Histogram(Bounds(MCP_BOUNDS)),
};

const V1_41: Names = Names {
    cache_write_tokens: "gen_ai.usage.cache_creation.input_tokens",
    reasoning_level: None,
    previous_response: None,
    top_k_is_int: false,
    finish_reason_in_messages: true,
    duration: OPERATION_DURATION,
    time_to_first_chunk: seconds(
        "gen_ai.client.operation.time_to_first_chunk",
        "How long the first chunk of a streamed response took.",
    ),
    time_per_output_chunk: seconds(
        "gen_ai.client.operation.time_per_output_chunk",
        "The times between the chunks of a streamed response.",
    ),
    tokens: Tokens::ByType(tokens(
        "gen_ai.client.token.usage",
        "Tokens of the input and of the output of calls.",
    )),
    agent: AgentNames { provider_of_turn: true, conversation_of_tool: false },
};

const LATEST: Names = Names {
    cache_write_tokens: "gen_ai.usage.cache_write.input_tokens",
    reasoning_level: Some("gen_ai.request.reasoning.level"),
    previous_response: Some("gen_ai.request.previous_response.id"),
    top_k_is_int: true,
    finish_reason_in_messages: false,
    duration: seconds("gen_ai.client.inference.duration", "How long a call took, as its client saw it."),
    time_to_first_chunk: seconds(
        "gen_ai.client.inference.time_to_first_chunk",
        "How long the first chunk of a streamed response took.",
    ),
    time_per_output_chunk: seconds(
        "gen_ai.client.inference.time_per_output_chunk",
        "The times between the chunks of a streamed response.",
    ),
    tokens: Tokens::ByMetric(&TokenMetrics {
        input: counter("gen_ai.client.inference.usage.input_tokens", "Input tokens, cached ones included."),
        output: counter("gen_ai.client.inference.usage.output_tokens", "Output tokens, reasoning included."),
        cache_read: counter(
            "gen_ai.client.inference.usage.cache_read.input_tokens",
            "Input tokens read from a cache.",
        ),
        cache_write: counter(
            "gen_ai.client.inference.usage.cache_write.input_tokens",
            "Input tokens written to a cache.",
        ),
        reasoning: counter(
            "gen_ai.client.inference.usage.reasoning.output_tokens",
            "Output tokens spent on reasoning.",
        ),
        operation_input: tokens(
            "gen_ai.client.inference.operation.input_tokens",
            "Input tokens of one call.",
        ),
        operation_output: tokens(
            "gen_ai.client.inference.operation.output_tokens",
            "Output tokens of one call.",
        ),
    }),
    agent: AgentNames { provider_of_turn: false, conversation_of_tool: true },
};

/// The bounds that the conventions advise for tokens: powers of four.
const TOKEN_BOUNDS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

const fn seconds(name: &'static str, description: &'static str) -> Metric {
    Metric { name, unit: "s", description, instrument: Instrument::Histogram(Bounds(LATENCY_BOUNDS)) }
}

const fn tokens(name: &'static str, description: &'static str) -> Metric {
    Metric { name, unit: "{token}", description, instrument: Instrument::Histogram(Bounds(TOKEN_BOUNDS)) }
}

const fn counter(name: &'static str, description: &'static str) -> Metric {
    Metric { name, unit: "{token}", description, instrument: Instrument::Counter }
}

/// `gen_ai.operation.name`.
pub fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Chat => "chat",
        Operation::GenerateContent => "generate_content",
        Operation::TextCompletion => "text_completion",
        Operation::Embeddings => "embeddings",
        // The convention has no word for it, and allows one's own.
        Operation::Rerank => "rerank",
    }
}

/// `openai.api.type`, which has two values.
pub(super) fn openai_api(api: Api) -> Option<&'static str> {
    match api {
        Api::OpenAiChat => Some("chat_completions"),
        Api::OpenAiResponses => Some("responses"),
        _ => None,
    }
}

/// A provider's reason in the conventions' words; what they have no word for stays.
pub(super) fn finish_reason(reason: &str) -> &str {
    match reason {
        "end_turn" | "stop_sequence" | "stop" | "eos" | "eos_token" | "STOP" | "COMPLETE"
        | "STOP_SEQUENCE" | "FINISH" => "stop",
        "max_tokens"
        | "max_output_tokens"
        | "length"
        | "model_context_window_exceeded"
        | "MAX_TOKENS"
        | "LENGTH" => "length",
        "tool_use" | "tool_calls" | "function_call" | "TOOL_CALL" => "tool_call",
        "refusal"
        | "content_filter"
        | "content_filtered"
        | "guardrail_intervened"
        | "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "CONTENT_FILTERED"
        | "ERROR_TOXIC" => "content_filter",
        "ERROR" => "error",
        other => other,
    }
}
