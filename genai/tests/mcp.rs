//! Requests of the Model Context Protocol over HTTP: what each becomes, cut anywhere, with and without content.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use agentsight_genai::http::End;
use agentsight_genai::mcp::{McpCall, Outcome, Target};
use agentsight_genai::providers::{Found, Settings};
use agentsight_genai::semconv::{self, Options};
use agentsight_genai::telemetry::{Span, Status, Value as Attribute};
use common::Exchange;
use serde_json::{Value, json};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A POST to a server of tools, and what it answers: events, or one message.
fn exchange(request: &Value, answer: &[Value], events: bool) -> Exchange {
    let headers = |fields: &[(&str, &str)]| {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let message = |value: &Value| {
        if events { format!("event: message\r\ndata: {value}\r\n\r\n") } else { value.to_string() }
    };
    Exchange {
        path: "/mcp".to_owned(),
        host: "tools.example".to_owned(),
        request_headers: headers(&[
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", "2025-11-25"),
            ("mcp-session-id", "session-1"),
        ]),
        request: request.to_string().into_bytes(),
        response_headers: headers(&[(
            "content-type",
            if events { "text/event-stream" } else { "application/json" },
        )]),
        response: answer.iter().map(message).collect::<String>().into_bytes(),
        ..Exchange::default()
    }
}

/// The request of an exchange: the same however it is cut, and without content none of it.
fn request(exchange: &Exchange) -> McpCall {
    let found = |content: bool, at: &[usize]| match exchange
        .found(&Settings { content, ..Settings::default() }, at)
        .expect("a request")
    {
        Found::Mcp(call) => *call,
        other => panic!("{other:?}"),
    };
    let whole = found(true, &[]);
    let length = exchange.request.len().max(exchange.response.len());
    for at in 1..length {
        let cut = found(true, &[at]);
        assert_eq!(
            (&cut.outcome, &cut.arguments, &cut.result),
            (&whole.outcome, &whole.arguments, &whole.result),
            "cut at {at}"
        );
    }
    let bare = found(false, &[7]);
    assert_eq!((&bare.method, &bare.target), (&whole.method, &whole.target));
    let told = semconv::mcp_span(&bare, &Options::default());
    assert!(!format!("{bare:?}{told:?}").contains("CANARY"), "{bare:?}");
    whole
}

fn attribute<'a>(span: &'a Span, name: &str) -> Option<&'a str> {
    span.attributes.iter().find_map(|(key, value)| match value {
        Attribute::Str(text) if key == name => Some(text.as_ref()),
        _ => None,
    })
}

fn call(id: &Value, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": {"name": "add", "arguments": arguments, "_meta": {"traceparent": PARENT}}})
}

#[test]
fn a_tool_s_call_is_answered_by_a_message_or_by_events_among_which_is_the_answer() {
    let asked = call(&json!(7), &json!({"text": "CANARY in"}));
    let answer = json!({"jsonrpc": "2.0", "id": 7, "result": {
        "content": [{"type": "text", "text": "CANARY out"}], "isError": false}});
    let others = [
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}),
        json!({"jsonrpc": "2.0", "id": 7, "method": "sampling/createMessage", "params": {"CANARY": 1}}),
    ];
    let [first, second] = others;
    let message = exchange(&asked, std::slice::from_ref(&answer), false);
    for exchange in [message, exchange(&asked, &[first, second, answer], true)] {
        let call = request(&exchange);
        assert_eq!((call.method, call.request_id.as_str()), ("tools/call", "7"));
        assert_eq!(call.target, Some(Target::Tool("add".to_owned())));
        assert_eq!(call.outcome, Outcome::Result);
        let span = semconv::mcp_span(&call, &Options { content: true, ..Options::default() });
        assert_eq!(span.name, "tools/call add");
        assert_eq!(span.parent.as_ref().unwrap().span_id.0[0], 0xB7, "the message's own context");
        for (name, value) in [
            ("mcp.method.name", "tools/call"),
            ("gen_ai.operation.name", "execute_tool"),
            ("gen_ai.tool.name", "add"),
            ("jsonrpc.request.id", "7"),
            ("mcp.session.id", "session-1"),
            ("mcp.protocol.version", "2025-11-25"),
            ("network.transport", "tcp"),
            ("server.address", "tools.example"),
            ("gen_ai.tool.call.arguments", r#"{"text":"CANARY in"}"#),
            ("gen_ai.tool.call.result", r#"[{"type":"text","text":"CANARY out"}]"#),
        ] {
            assert_eq!(attribute(&span, name), Some(value), "{name}");
        }
        assert_eq!(span.status, Status::Unset);
    }
}

#[test]
fn failures_of_the_tool_of_the_protocol_and_of_http_are_told_apart() {
    let asked = call(&json!("a"), &json!({}));
    let failed = json!({"jsonrpc": "2.0", "id": "a", "result": {"content": [], "isError": true}});
    let refused = json!({"jsonrpc": "2.0", "id": "a", "error": {"code": -32602, "message": "CANARY"}});
    let error = |exchange: &Exchange| {
        let call = request(exchange);
        let span = semconv::mcp_span(&call, &Options::default());
        (attribute(&span, "error.type").map(str::to_owned), call.outcome)
    };
    let (kind, outcome) = error(&exchange(&asked, &[failed], false));
    assert_eq!((kind.as_deref(), outcome), (Some("tool_error"), Outcome::ToolError));
    let (kind, outcome) = error(&exchange(&asked, &[refused], true));
    assert_eq!(kind.as_deref(), Some("-32602"));
    assert_eq!(outcome, Outcome::Error { code: -32602, message: Some("CANARY".to_owned()) });
    let (kind, outcome) = error(&Exchange { status: 404, ..exchange(&asked, &[], false) });
    assert_eq!((kind.as_deref(), outcome), (Some("404"), Outcome::Status(404)));
    let (kind, outcome) = error(&Exchange { end: End::Cut, ..exchange(&asked, &[], true) });
    assert_eq!((kind.as_deref(), outcome), (Some("response_cut"), Outcome::Cut));
    let (kind, outcome) = error(&Exchange { end: End::Cancelled, ..exchange(&asked, &[], true) });
    assert_eq!((kind, outcome), (None, Outcome::Cancelled));
}

#[test]
fn an_answer_to_another_request_is_none() {
    let other = json!({"jsonrpc": "2.0", "id": 8, "result": {}});
    assert_eq!(request(&exchange(&call(&json!(7), &json!({})), &[other], false)).outcome, Outcome::Unknown);
}

#[test]
fn what_the_server_gives_at_the_beginning_is_told() {
    let asked = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {"protocolVersion": "2099-01-01"}});
    let answer = json!({"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": "2025-06-18"}});
    let mut exchange = exchange(&asked, &[answer], false);
    exchange.request_headers.truncate(2);
    exchange.response_headers.push(("mcp-session-id".to_owned(), "given".to_owned()));
    let call = request(&exchange);
    assert_eq!(call.session_id.as_deref(), Some("given"));
    assert_eq!(call.protocol_version.as_deref(), Some("2025-06-18"));
    assert_eq!(call.target, None);
}

#[test]
fn notifications_other_protocols_and_other_methods_are_no_requests() {
    for message in [
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": {}}),
        json!({"jsonrpc": "1.0", "id": 1, "method": "tools/list"}),
        json!({"id": 1, "method": "tools/list"}),
        json!({"jsonrpc": "2.0", "id": {"a": 1}, "method": "tools/list"}),
        json!([{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}]),
        json!("tools/list"),
    ] {
        let found = exchange(&message, &[], false).found(&Settings::default(), &[]);
        assert_eq!(found, None, "{message}");
    }
}
