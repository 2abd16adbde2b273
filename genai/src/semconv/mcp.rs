//! Requests of the Model Context Protocol in the words of OpenTelemetry's conventions for MCP clients.

use super::{CAPTURE_TRUNCATED, INCOMPLETE, Options, RESPONSE_CUT, Setter, cut_message, names};
use crate::content;
use crate::mcp::{McpCall, Outcome, Target, Transport};
use crate::telemetry::{Amount, Measurement, Span, SpanKind, Status, Value};
use std::borrow::Cow;

/// The span of a request.
pub fn mcp_span(call: &McpCall, options: &Options) -> Span {
    let mut set = Setter(Vec::with_capacity(20));
    identity(call, &mut set);
    if let Some(Target::Resource(uri)) = &call.target {
        set.text("mcp.resource.uri", Some(options.redactor.text(uri).into_owned()));
    }
    set.text("jsonrpc.request.id", Some(call.request_id.clone()));
    set.text("mcp.session.id", call.session_id.clone());
    set.flag(CAPTURE_TRUNCATED, call.truncated);
    set.text(INCOMPLETE, incomplete(&call.outcome).map(str::to_owned));
    if options.content {
        let mut told = [&call.arguments, &call.result].map(|value| value.clone().unwrap_or_default());
        told.iter_mut().for_each(|value| options.redactor.json(value));
        if content::shorten(&mut told, options.max_content) | call.content_truncated {
            set.truncated();
        }
        if matches!(call.target, Some(Target::Tool(_))) {
            let keys = ["gen_ai.tool.call.arguments", "gen_ai.tool.call.result"];
            for (key, value) in keys.into_iter().zip(told).filter(|(_, value)| !value.is_null()) {
                set.text(key, Some(value.to_string()));
            }
        }
    }
    let status = error_type(&call.outcome).map_or(Status::Unset, |error| match &call.outcome {
        Outcome::Error { message: Some(message), .. } if options.content => {
            Status::Error(cut_message(&options.redactor.text(message)))
        }
        _ => Status::Error(error),
    });
    Span {
        name: name(call),
        kind: SpanKind::Client,
        parent: call.parent.clone(),
        start: call.start,
        end: call.end.max(call.start),
        attributes: set.0,
        status,
        events: Vec::new(),
    }
}

/// What a request adds to the client's metrics.
pub fn mcp_measurement(call: &McpCall) -> Measurement {
    let mut set = Setter(Vec::with_capacity(12));
    identity(call, &mut set);
    let seconds = (call.end.max(call.start) - call.start).as_secs_f64();
    Measurement { metric: names::MCP_DURATION, attributes: set.0, amount: Amount::Double(seconds) }
}

fn name(call: &McpCall) -> String {
    match &call.target {
        Some(Target::Tool(name) | Target::Prompt(name)) => format!("{} {name}", call.method),
        _ => call.method.to_owned(),
    }
}

/// What the span and the measurement carry.
fn identity(call: &McpCall, set: &mut Setter) {
    set.word("mcp.method.name", call.method);
    match &call.target {
        Some(Target::Tool(name)) => {
            set.word("gen_ai.operation.name", "execute_tool");
            set.text("gen_ai.tool.name", Some(name.clone()));
        }
        Some(Target::Prompt(name)) => set.text("gen_ai.prompt.name", Some(name.clone())),
        Some(Target::Resource(_)) | None => {}
    }
    set.text("mcp.protocol.version", call.protocol_version.clone());
    match call.transport {
        Transport::Stdio => set.word("network.transport", "pipe"),
        Transport::Http => {
            let local = super::is_local(call.server.as_ref());
            set.word("network.transport", if local { "unix" } else { "tcp" });
            set.word("network.protocol.name", "http");
        }
    }
    super::server(call.server.as_ref(), set);
    set.text("error.type", error_type(&call.outcome));
    if let Outcome::Error { code, .. } = &call.outcome {
        set.put("rpc.response.status_code", Some(Value::Str(Cow::Owned(code.to_string()))));
    }
}

fn error_type(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::ToolError => Some("tool_error".to_owned()),
        Outcome::Error { code, .. } => Some(code.to_string()),
        Outcome::Status(status) => Some(status.to_string()),
        Outcome::Cut => Some(RESPONSE_CUT.to_owned()),
        Outcome::Result | Outcome::Cancelled | Outcome::Unknown => None,
    }
}

fn incomplete(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Cut => Some("cut"),
        Outcome::Cancelled => Some("cancelled"),
        Outcome::Unknown => Some("unknown"),
        Outcome::Result | Outcome::ToolError | Outcome::Error { .. } | Outcome::Status(_) => None,
    }
}
