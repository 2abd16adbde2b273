//! The Model Context Protocol over HTTP (modelcontextprotocol.io, "Transports", "Streamable HTTP"): a POST carries one
//! message of JSON-RPC 2.0; what answers a request is one message, or a stream of events among which it is.

use super::{Models, fields, names, trace_context};
use crate::call::Server;
use crate::http::{Direction, End, Headers, Progress, RequestHead, ResponseHead};
use crate::json::{self, Keep, Step};
use crate::mcp::{McpCall, Outcome, Target, Transport};
use crate::sse;
use crate::telemetry::SpanContext;
use crate::time::Timestamp;
use serde_json::Value;

/// What a client asks a server (`ClientRequest` of the schemas from 2025-03-26 to 2026-07-28).
const METHODS: [&str; 19] = [
    "initialize",
    "server/discover",
    "ping",
    "tools/list",
    "tools/call",
    "prompts/list",
    "prompts/get",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "subscriptions/listen",
    "logging/setLevel",
    "completion/complete",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/cancel",
];

/// Where a request itself says which version it speaks (since 2026-07-28).
const VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// What is kept of a message beside content.
pub(crate) const MAX_FACTS: usize = 16 << 10;

/// Reads one POST, which may be a request of MCP.
#[derive(Debug)]
pub(super) struct Reader {
    server: Option<Server>,
    parent: Option<SpanContext>,
    session_id: Option<String>,
    protocol_version: Option<String>,
    content: bool,
    limits: json::Limits,
    start: Timestamp,
    request: json::Reader,
    truncated: bool,
    status: Option<u16>,
    body: Body,
    reply: Option<Reply>,
}

#[derive(Debug)]
enum Body {
    Ignored,
    Message(Box<json::Reader>),
    Events(sse::Parser),
}

/// The message that asks.
#[derive(Debug)]
pub(crate) struct Asked {
    method: &'static str,
    target: Option<Target>,
    pub(crate) id: String,
    parent: Option<SpanContext>,
    protocol_version: Option<String>,
    arguments: Option<Value>,
    content_truncated: bool,
}

/// The message that answers.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) id: String,
    pub(crate) outcome: Outcome,
    pub(crate) protocol_version: Option<String>,
    pub(crate) result: Option<Value>,
    pub(crate) content_truncated: bool,
}

/// What a request was carried by, and when.
pub(crate) struct Carried {
    pub(crate) transport: Transport,
    pub(crate) session_id: Option<String>,
    pub(crate) protocol_version: Option<String>,
    pub(crate) server: Option<Server>,
    /// The context that the carrier names.
    pub(crate) parent: Option<SpanContext>,
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) truncated: bool,
}

impl Reader {
    /// None where the head shows that it is not MCP: a client must take both a message and events.
    pub(super) fn new(models: &Models, head: &RequestHead) -> Option<Reader> {
        let has = |name: &str, word: &str| head.headers.all(name).any(|value| value.contains(word));
        let both = has("accept", "application/json") && has("accept", "text/event-stream");
        (both && has("content-type", "application/json")).then(|| Self::of(models, head))
    }

    /// How much is kept of a message whose content may have so many bytes.
    pub(super) fn limits(texts: usize) -> json::Limits {
        json::Limits { facts: MAX_FACTS, texts }
    }

    /// A POST that is one of MCP's, if its body is.
    pub(super) fn of(models: &Models, head: &RequestHead) -> Reader {
        let settings = &models.settings;
        let header = |name: &str| head.headers.get(name).map(str::to_owned);
        Reader {
            server: models.server(head),
            parent: trace_context::parent(&head.headers),
            session_id: header("mcp-session-id"),
            protocol_version: header("mcp-protocol-version"),
            content: settings.content,
            limits: Self::limits(settings.max_response_content),
            start: head.at,
            request: json::Reader::new(
                request_filter,
                settings.content,
                Self::limits(settings.max_request_content),
            ),
            truncated: false,
            status: None,
            body: Body::Ignored,
            reply: None,
        }
    }

    pub(super) fn request_body(&mut self, data: &[u8]) {
        self.request.push(data);
    }

    pub(super) fn response_head(&mut self, head: &ResponseHead) {
        self.status = Some(head.status);
        // The answer to `initialize` gives it.
        self.session_id =
            self.session_id.take().or_else(|| head.headers.get("mcp-session-id").map(str::to_owned));
        let kind = head.headers.get("content-type").unwrap_or("");
        self.body = if kind.starts_with("text/event-stream") {
            Body::Events(sse::Parser::default())
        } else if kind.starts_with("application/json") {
            Body::Message(Box::new(json::Reader::new(response_filter, self.content, self.limits)))
        } else {
            Body::Ignored
        };
    }

    pub(super) fn response_body(&mut self, data: &[u8]) -> Progress {
        let (content, limits, reply) = (self.content, self.limits, &mut self.reply);
        match &mut self.body {
            Body::Message(reader) => reader.push(data),
            Body::Events(parser) => parser.push(data, &mut |event| {
                // A stream ends with the answer; before it come notifications, and requests of the server's.
                if reply.is_none() {
                    *reply = Reply::of(json::Reader::read(response_filter, content, limits, event.data));
                }
            }),
            Body::Ignored => {}
        }
        if self.reply.is_some() { Progress::Complete } else { Progress::More }
    }

    pub(super) fn lost(&mut self, _side: Direction) {
        self.truncated = true;
    }

    pub(super) fn finish(mut self, at: Timestamp, end: End) -> Option<McpCall> {
        let asked = Asked::of(self.request.finish())?;
        if let Body::Message(reader) = self.body {
            self.reply = Reply::of(reader.finish());
        }
        let reply = self.reply.filter(|reply| reply.id == asked.id);
        let unanswered = match self.status {
            Some(status) if status >= 400 => Outcome::Status(status),
            _ => unanswered(end),
        };
        let carried = Carried {
            transport: Transport::Http,
            session_id: self.session_id,
            protocol_version: self.protocol_version,
            server: self.server,
            parent: self.parent,
            start: self.start,
            end: at,
            truncated: self.truncated,
        };
        Some(asked.finish(reply.ok_or(unanswered), carried))
    }
}

/// How a request ended that nobody answered.
pub(crate) fn unanswered(end: End) -> Outcome {
    match end {
        End::Cut => Outcome::Cut,
        End::Cancelled => Outcome::Cancelled,
        _ => Outcome::Unknown,
    }
}

impl Asked {
    /// None where it is no request of the protocol. Its content is there as far as [`request_filter`] kept it.
    pub(crate) fn of(mut read: json::Read) -> Option<Asked> {
        let message = &mut read.value;
        let asked = fields::text(message, "method")?;
        let method = *METHODS.iter().find(|method| **method == asked)?;
        if message.get("jsonrpc")?.as_str() != Some("2.0") {
            return None;
        }
        let id = id(message)?;
        let mut params = message.get_mut("params").map(Value::take).unwrap_or_default();
        let named = |key: &str| fields::text(&params, key);
        let target = match method {
            "tools/call" => named("name").map(Target::Tool),
            "prompts/get" => named("name").map(Target::Prompt),
            _ => named("uri").map(Target::Resource),
        };
        let parent = parent(&params);
        let protocol_version = params.get("_meta").and_then(|meta| fields::text(meta, VERSION));
        let arguments = params.get_mut("arguments").map(Value::take);
        let content_truncated = read.truncated;
        Some(Asked { method, target, id, parent, protocol_version, arguments, content_truncated })
    }

    /// With what answers it, or how it ended without.
    pub(crate) fn finish(self, reply: Result<Reply, Outcome>, carried: Carried) -> McpCall {
        let mut content_truncated = self.content_truncated;
        let (outcome, answered_version, result) = match reply {
            Ok(reply) => {
                content_truncated |= reply.content_truncated;
                (reply.outcome, reply.protocol_version, reply.result)
            }
            Err(outcome) => (outcome, None, None),
        };
        McpCall {
            transport: carried.transport,
            method: self.method,
            target: self.target,
            request_id: self.id,
            session_id: carried.session_id,
            protocol_version: answered_version.or(self.protocol_version).or(carried.protocol_version),
            server: carried.server,
            parent: self.parent.or(carried.parent),
            start: carried.start,
            end: carried.end,
            outcome,
            arguments: self.arguments,
            result,
            content_truncated,
            truncated: carried.truncated,
        }
    }
}

impl Reply {
    /// None where it is no response.
    pub(crate) fn of(mut read: json::Read) -> Option<Reply> {
        let message = &mut read.value;
        let id = id(message)?;
        let (outcome, result) = match (message.get("error"), message.get("result")) {
            (Some(error), _) => {
                let message = error.get("message").and_then(Value::as_str).map(str::to_owned);
                (Outcome::Error { code: fields::int(error, "code").unwrap_or(0), message }, None)
            }
            (None, Some(result)) => {
                let failed = result.get("isError") == Some(&Value::Bool(true));
                let structured = result.get("structuredContent");
                let said = structured.or_else(|| result.get("content")).cloned();
                (if failed { Outcome::ToolError } else { Outcome::Result }, said)
            }
            // A request of the server's has an id, too.
            (None, None) => return None,
        };
        let protocol_version =
            message.get("result").and_then(|result| fields::text(result, "protocolVersion"));
        Some(Reply { id, outcome, protocol_version, result, content_truncated: read.truncated })
    }
}

pub(crate) fn request_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["jsonrpc" | "method" | "id" | "params"] => Keep::Into,
        ["params", "name" | "uri" | "_meta" | "requestId" | "protocolVersion"]
        | ["params", "_meta", "traceparent" | "tracestate" | VERSION] => Keep::Into,
        ["params", "arguments"] if content => Keep::All,
        _ => Keep::Nothing,
    }
}

pub(crate) fn response_filter(path: &[Step], content: bool) -> Keep {
    let Some(names) = names(path) else { return Keep::Nothing };
    match names.as_slice() {
        [] | ["id" | "result" | "error"] => Keep::Into,
        ["error", "code"] | ["result", "isError" | "protocolVersion"] => Keep::Into,
        ["error", "message"] | ["result", "content" | "structuredContent"] if content => Keep::All,
        _ => Keep::Nothing,
    }
}

/// JSON-RPC's id: a text or a number; a notification has none.
fn id(message: &Value) -> Option<String> {
    id_in(message, "id")
}

/// An id of JSON-RPC in that field.
pub(crate) fn id_in(message: &Value, field: &str) -> Option<String> {
    match message.get(field)? {
        Value::String(_) => fields::text(message, field),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The context that a message carries itself, whatever carries the message.
fn parent(params: &Value) -> Option<SpanContext> {
    let meta = params.get("_meta")?;
    let mut headers = Headers::default();
    for name in ["traceparent", "tracestate"] {
        if let Some(value) = fields::text(meta, name) {
            headers.push(name, value.as_bytes());
        }
    }
    trace_context::parent(&headers)
}
