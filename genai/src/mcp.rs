//! A request of the Model Context Protocol, as the wire told it: what [`crate::providers`] and [`crate::stdio`] fill and the
//! conventions read.

use crate::call::Server;
use crate::telemetry::SpanContext;
use crate::time::Timestamp;
use serde_json::Value;

/// A finished request of a client.
#[derive(Clone, PartialEq, Debug)]
pub struct McpCall {
    /// What carried it.
    pub transport: Transport,
    /// One of the protocol's own methods.
    pub method: &'static str,
    /// What it is about.
    pub target: Option<Target>,
    /// JSON-RPC's `id`, as text.
    pub request_id: String,
    /// `Mcp-Session-Id`.
    pub session_id: Option<String>,
    /// The version that both sides speak.
    pub protocol_version: Option<String>,
    /// The host and port that the request names.
    pub server: Option<Server>,
    /// From the request's `params._meta`, else from its head.
    pub parent: Option<SpanContext>,
    /// The request's first byte.
    pub start: Timestamp,
    /// The response's end, or its last sign.
    pub end: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// What a tool or a prompt was called with; absent while content is off.
    pub arguments: Option<Value>,
    /// What came of it; absent while content is off.
    pub result: Option<Value>,
    /// Content was left out because of a limit.
    pub content_truncated: bool,
    /// Bytes of the request or response are missing.
    pub truncated: bool,
}

/// What carries the messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// "Streamable HTTP" (MCP 2025-03-26 and later).
    Http,
    /// The server's standard input and output.
    Stdio,
}

/// What a request is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The name of a tool.
    Tool(String),
    /// The name of a prompt.
    Prompt(String),
    /// The URI of a resource.
    Resource(String),
}

/// How a request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// With a result.
    Result,
    /// With a result that the tool calls a failure (`isError`).
    ToolError,
    /// With an error of JSON-RPC.
    Error {
        /// Its code.
        code: i64,
        /// Its words; absent while content is off.
        message: Option<String>,
    },
    /// With an HTTP status and no message.
    Status(u16),
    /// By the server, before an answer.
    Cut,
    /// By the client, before an answer.
    Cancelled,
    /// It is not known how.
    Unknown,
}
