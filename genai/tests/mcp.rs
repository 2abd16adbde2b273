//! Requests of the Model Context Protocol over HTTP: what each becomes, cut anywhere, with and without content.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use agentsight_genai::http::{
    Direction, End, Exchange as _, Exchanges as _, Headers, Progress, RequestHead, ResponseHead,
};
use agentsight_genai::mcp::{McpCall, Outcome, Target};
use agentsight_genai::providers::{Found, Heard, Mailbox, ModelExchange, Models, Settings};
use agentsight_genai::semconv::{self, Options};
use agentsight_genai::telemetry::{Span, Status, Value as Attribute};
use agentsight_genai::time::Timestamp;
use common::Exchange;
use serde_json::{Value, json};
use std::sync::Arc;

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

/// One process that speaks by MCP's first transport over HTTP.
struct Sessions {
    models: Models,
    mailbox: Mailbox,
    now: Timestamp,
}

impl Sessions {
    fn new() -> Sessions {
        let mailbox = Mailbox::default();
        let settings = Settings { content: true, ..Settings::default() };
        let models = Models::new(Arc::new(settings)).with_mailbox(mailbox.clone());
        Sessions { models, mailbox, now: Timestamp(1) }
    }

    fn open(&mut self, method: &str, path: &str, query: &str) -> Option<ModelExchange> {
        let mut headers = Headers::default();
        headers.push("content-type", b"application/json");
        headers.push("accept", if method == "GET" { b"text/event-stream" } else { b"*/*" });
        self.now.0 += 1;
        self.models.open(&RequestHead {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            authority: Some("tools.example:8000".to_owned()),
            headers,
            at: self.now,
        })
    }

    /// A stream whose first event names this endpoint.
    fn stream(&mut self, endpoint: &str) -> ModelExchange {
        let mut stream = self.open("GET", "/v1/sse", "").unwrap();
        let mut headers = Headers::default();
        headers.push("content-type", b"text/event-stream; charset=utf-8");
        stream.response_head(&ResponseHead { status: 200, headers }, self.now);
        self.event(&mut stream, "endpoint", endpoint);
        stream
    }

    fn event(&mut self, stream: &mut ModelExchange, name: &str, data: &str) -> Progress {
        let mut progress = Progress::More;
        for byte in format!(": ping\r\n\r\nevent: {name}\r\ndata: {data}\r\n\r\n").as_bytes() {
            self.now.0 += 1;
            progress = stream.response_body(&[*byte], self.now);
        }
        progress
    }

    fn answer(&mut self, stream: &mut ModelExchange, id: &str, text: &str) {
        let answer =
            json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": text}]}});
        self.event(stream, "message", &answer.to_string());
    }

    /// A request for a tool; none where nothing is known of the endpoint.
    fn ask(&mut self, query: &str, id: &str, tool: &str, status: u16) -> Option<()> {
        let mut post = self.open("POST", "/messages/", query)?;
        let asked = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": {"name": tool, "arguments": {"for": tool}}});
        asked.to_string().bytes().for_each(|byte| post.request_body(&[byte]));
        post.request_end();
        self.now.0 += 1;
        post.response_head(&ResponseHead { status, headers: Headers::default() }, self.now);
        post.response_body(b"Accepted", self.now);
        assert!(post.finish(self.now, End::Complete).is_none());
        Some(())
    }

    fn heard(&self) -> Vec<McpCall> {
        let heard = std::mem::take(&mut *self.mailbox.lock().unwrap());
        let calls = heard.into_iter().filter_map(|heard| match heard {
            Heard::Mcp(call) => Some(*call),
            // By its path, what goes to no session may be a call to a model, until its end tells.
            Heard::Asked(_) | Heard::NoCall(_) => None,
        });
        calls.collect()
    }

    /// By tool: how it ended, with what, in which session.
    fn told(&self) -> Vec<(String, Outcome, Option<String>, Option<String>)> {
        let told = self.heard().into_iter().map(|call| {
            assert!(call.end >= call.start);
            assert_eq!(call.server.map(|server| server.port), Some(Some(8000)));
            let Some(Target::Tool(tool)) = call.target else { panic!("{:?}", call.target) };
            assert_eq!(call.arguments, Some(json!({"for": tool})));
            let text = call.result.map(|result| result[0]["text"].as_str().unwrap().to_owned());
            (tool, call.outcome, text, call.session_id)
        });
        told.collect()
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn what_a_stream_answers_is_joined_with_what_was_asked_elsewhere_by_session_and_id() {
    let mut sessions = Sessions::new();
    // Relative to the host, and whole: as servers name it; and to the stream's own folder, where nobody asks.
    let mut one = sessions.stream("/messages/?session_id=one");
    let mut two = sessions.stream("messages/?session_id=one");
    let mut three = sessions.stream("http://TOOLS.example:8000/messages/?sessionId=three");
    assert_eq!(sessions.ask("session_id=one", "1", "a", 202), Some(()));
    assert_eq!(sessions.ask("sessionId=three", "1", "b", 202), Some(()));
    assert_eq!(sessions.ask("session_id=one", "2", "c", 202), Some(()));
    assert!(sessions.told().is_empty(), "nobody has answered");
    sessions.answer(&mut one, "2", "to c");
    sessions.answer(&mut three, "1", "to b");
    sessions.answer(&mut two, "1", "to nobody");
    sessions.answer(&mut one, "1", "to a");
    let ended = |tool: &str, text: &str, id: &str| (tool.to_owned(), Outcome::Result, some(text), some(id));
    assert_eq!(
        sessions.told(),
        [ended("c", "to c", "one"), ended("b", "to b", "three"), ended("a", "to a", "one")]
    );
}

#[test]
fn an_answer_that_is_read_before_its_request_waits_for_it() {
    let mut sessions = Sessions::new();
    let mut stream = sessions.stream("/messages/?session_id=one");
    sessions.answer(&mut stream, "7", "early");
    assert!(sessions.told().is_empty());
    sessions.ask("session_id=one", "7", "a", 202);
    let told = sessions.told();
    assert_eq!(told, [("a".to_owned(), Outcome::Result, some("early"), some("one"))]);
}

#[test]
fn what_is_refused_or_never_answered_is_told_as_that() {
    let mut sessions = Sessions::new();
    let stream = sessions.stream("/messages/?session_id=one");
    sessions.ask("session_id=one", "1", "refused", 400);
    assert_eq!(sessions.told(), [("refused".to_owned(), Outcome::Status(400), None, some("one"))]);
    sessions.ask("session_id=one", "2", "cut", 202);
    assert!(stream.finish(sessions.now, End::Cut).is_none());
    assert_eq!(sessions.told(), [("cut".to_owned(), Outcome::Cut, None, some("one"))]);
    // The session is over, and what goes there is nobody's.
    sessions.ask("session_id=one", "3", "late", 202);
    assert!(sessions.told().is_empty());
}

#[test]
fn after_a_loss_in_the_stream_nothing_is_said_of_answers() {
    let mut sessions = Sessions::new();
    let mut stream = sessions.stream("/messages/?session_id=one");
    sessions.ask("session_id=one", "1", "a", 202);
    stream.lost(Direction::Received);
    let calls = sessions.heard();
    assert_eq!((calls.len(), &calls[0].outcome, calls[0].truncated), (1, &Outcome::Unknown, true));
    sessions.answer(&mut stream, "1", "after the loss");
    sessions.ask("session_id=one", "2", "b", 202);
    assert!(sessions.heard().is_empty());
}

#[test]
fn a_stream_that_begins_otherwise_or_names_another_host_is_none_of_mcp_s() {
    let mut sessions = Sessions::new();
    let mut other = sessions.open("GET", "/sse", "").unwrap();
    let mut headers = Headers::default();
    headers.push("content-type", b"text/event-stream");
    other.response_head(&ResponseHead { status: 200, headers }, sessions.now);
    assert_eq!(sessions.event(&mut other, "message", "/messages/?session_id=one"), Progress::Complete);
    for elsewhere in ["https://other.example/messages/?session_id=one", "//other.example/messages/", ""] {
        sessions.stream(elsewhere);
    }
    sessions.ask("session_id=one", "1", "a", 202);
    assert!(sessions.heard().is_empty());
}

#[test]
fn what_waits_is_bounded_in_number_and_in_bytes() {
    let mut sessions = Sessions::new();
    let stream = sessions.stream("/messages/?session_id=one");
    let large = "x".repeat(1 << 20);
    for id in 0..300 {
        let mut post = sessions.open("POST", "/messages/", "session_id=one").unwrap();
        let asked = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": {"name": "t", "arguments": {"text": if id < 20 { &*large } else { "small" }}}});
        post.request_body(asked.to_string().as_bytes());
        post.request_end();
    }
    let at_once = sessions.heard();
    assert_eq!(at_once.len(), 300 - 256, "what is too many is told at once, as not known");
    stream.finish(sessions.now, End::Cut);
    let waited = sessions.heard();
    let kept = waited.iter().filter(|call| call.arguments.is_some() && !call.content_truncated).count();
    assert_eq!((waited.len(), kept), (256, 256 - 13), "7 of 1 MiB fit into 8 MiB beside the small ones");
}
