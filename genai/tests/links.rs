//! What joins calls: read alike whether content is kept or not, and however the bytes are cut.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use agentsight_genai::links::{Author, FingerprintKey, Links};
use common::Exchange;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// The links of an exchange: the same with and without content, and in pieces of any size.
fn links(path: &str, request: &Value, kind: &str, response: &str) -> Links {
    let exchange = Exchange {
        path: path.to_owned(),
        request: request.to_string().into_bytes(),
        response: response.as_bytes().to_vec(),
        response_headers: vec![("content-type".to_owned(), kind.to_owned())],
        ..Exchange::default()
    };
    let links = exchange.call(false, usize::MAX).expect("a call").links;
    for piece in [1, 7, 100] {
        assert_eq!(exchange.call(false, piece).unwrap().links, links);
        assert_eq!(exchange.call(true, piece).unwrap().links, links);
    }
    links
}

fn asked(path: &str, request: &Value) -> Links {
    links(path, request, "application/json", "{}")
}

fn events(events: &[Value]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

/// Whether a history begins with another.
fn continues(later: &Links, earlier: &Links) -> bool {
    let whole = earlier.history.last.last().unwrap().prefix;
    later.history.last.iter().any(|message| message.prefix == whole)
}

#[test]
fn a_chat_that_goes_on_begins_with_the_history_before() {
    let mut messages = vec![
        json!({"role": "system", "content": "be brief"}),
        json!({"role": "user", "content": "list the files"}),
    ];
    let request =
        |messages: &[Value]| json!({"model": "m", "messages": messages, "tools": [{"type": "function"}]});
    let first = asked(CHAT, &request(&messages));
    assert_eq!((first.history.length, first.offers_tools), (2, true));
    assert_eq!(first.history.user_texts, [FingerprintKey::default().of("list the files")]);
    messages.push(json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "ls", "arguments": "{\"path\":\"a\"}"}}]}));
    messages.push(json!({"role": "tool", "tool_call_id": "call_1", "content": "x.c"}));
    let second = asked(CHAT, &request(&messages));
    assert!(continues(&second, &first) && !continues(&first, &second));
    assert_eq!(second.results.iter().map(|result| result.id.as_str()).collect::<Vec<_>>(), ["call_1"]);
    let authors: Vec<_> = second.history.last.iter().map(|message| message.author).collect();
    assert_eq!(authors, [Author::Other, Author::User, Author::Model, Author::Tool]);
    messages[1] = json!({"role": "user", "content": "list the file"});
    assert!(!continues(&asked(CHAT, &request(&messages)), &first), "one letter makes another history");
}

#[test]
fn marks_of_a_cache_and_lists_of_one_text_change_no_history() {
    let mark = json!({"type": "ephemeral"});
    let request = |messages: Value| json!({"model": "m", "max_tokens": 9, "messages": messages});
    let first = asked(
        MESSAGES,
        &request(
            json!([{"role": "user", "content": [{"type": "text", "text": "hi é", "cache_control": mark}]}]),
        ),
    );
    let second = asked(
        MESSAGES,
        &request(json!([
            {"role": "user", "content": "hi é"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "no", "is_error": true, "cache_control": mark}]}
        ])),
    );
    assert!(continues(&second, &first));
    let [result] = &second.results[..] else { panic!("{second:?}") };
    assert_eq!((result.id.as_str(), result.failed), ("toolu_1", true));
    assert_eq!(second.history.last[2].author, Author::Tool);
    let third = asked(
        MESSAGES,
        &request(json!([
            {"role": "user", "content": "hi é"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "no", "is_error": true}]},
            {"role": "assistant", "content": "done"},
            {"role": "user", "content": "thanks"}
        ])),
    );
    assert!(continues(&third, &second));
}

#[test]
fn items_of_responses_are_messages() {
    let text = asked(RESPONSES, &json!({"model": "m", "input": "run it"}));
    let list = asked(RESPONSES, &json!({"model": "m", "input": [{"role": "user", "content": "run it"}]}));
    assert_eq!(text.history, list.history);
    let next = asked(
        RESPONSES,
        &json!({"model": "m", "previous_response_id": "resp_1", "input": [
            {"type": "function_call_output", "call_id": "call_9", "output": "ok"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "and now?"}]}
        ]}),
    );
    assert_eq!(next.previous_response_id.as_deref(), Some("resp_1"));
    assert_eq!(next.results[0].id, "call_9");
    assert_eq!(next.history.user_texts, [FingerprintKey::default().of("and now?")]);
}

#[test]
fn tools_are_asked_for_in_every_format_streamed_or_not() {
    let chat = json!({"model": "m", "messages": [], "stream": true});
    let delta = |delta: Value| json!({"id": "c", "choices": [{"index": 0, "delta": delta}]});
    let call = |index: u32, id: Value, name: Value, arguments: &str| json!({"tool_calls": [{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}]});
    let stream = events(&[
        delta(call(0, json!("a"), json!("bash"), "")),
        delta(call(0, Value::Null, Value::Null, "{\"command\":")),
        delta(call(1, json!("b"), json!("read"), "{}")),
        delta(call(0, Value::Null, Value::Null, "\"ls -l\"}")),
    ]) + "data: [DONE]\n\n";
    let whole = json!({"id": "c", "choices": [{"index": 0, "message": {"role": "assistant", "tool_calls": [
        {"id": "a", "function": {"name": "bash", "arguments": "{\"command\":\"ls -l\"}"}},
        {"id": "b", "function": {"name": "read", "arguments": "{}"}}]}}]});
    let messages = json!({"model": "m", "max_tokens": 9, "messages": []});
    let block = |index: u32, id: &str, name: &str| {
        json!({"type": "content_block_start", "index": index,
            "content_block": {"type": "tool_use", "id": id, "name": name, "input": {}}})
    };
    let input = |index: u32, text: &str| json!({"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": text}});
    let anthropic_stream = events(&[
        json!({"type": "message_start", "message": {"type": "message", "id": "msg", "content": []}}),
        block(0, "a", "bash"),
        input(0, "{\"command\":"),
        input(0, "\"ls -l\"}"),
        block(1, "b", "read"),
        input(1, "{}"),
        json!({"type": "message_stop"}),
    ]);
    let anthropic = json!({"type": "message", "id": "msg", "content": [
        {"type": "text", "text": "CANARY"},
        {"type": "tool_use", "id": "a", "name": "bash", "input": {"command": "ls -l"}},
        {"type": "tool_use", "id": "b", "name": "read", "input": {}}]});
    let responses = json!({"model": "m", "input": "x"});
    let items = json!([
        {"type": "message", "content": [{"type": "output_text", "text": "CANARY"}]},
        {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "bash", "arguments": "{\"command\":\"ls -l\"}"},
        {"type": "function_call", "id": "fc_2", "call_id": "b", "name": "read", "arguments": "{}"}]);
    let response = json!({"object": "response", "id": "resp", "status": "completed", "output": items});
    let response_stream = events(&[
        json!({"type": "response.output_item.added", "output_index": 1,
            "item": {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "bash", "arguments": ""}}),
        json!({"type": "response.output_item.done", "output_index": 1, "item": items[1]}),
        json!({"type": "response.output_item.done", "output_index": 2, "item": items[2]}),
        json!({"type": "response.completed", "response": {"object": "response", "id": "resp", "status": "completed", "output": []}}),
    ]);
    const JSON: &str = "application/json";
    const SSE: &str = "text/event-stream";
    for (path, request, kind, response) in [
        (CHAT, &chat, SSE, stream),
        (CHAT, &chat, JSON, whole.to_string()),
        (MESSAGES, &messages, SSE, anthropic_stream),
        (MESSAGES, &messages, JSON, anthropic.to_string()),
        (RESPONSES, &responses, JSON, response.to_string()),
        (RESPONSES, &responses, SSE, response_stream),
    ] {
        let links = links(path, request, kind, &response);
        let asks: Vec<_> = links
            .asks
            .iter()
            .map(|ask| (ask.id.as_deref().unwrap(), ask.name.as_str(), ask.arguments.reveal()))
            .collect();
        assert_eq!(asks, [("a", "bash", "{\"command\":\"ls -l\"}"), ("b", "read", "{}")], "{path} {kind}");
        assert!(!format!("{links:?}").contains("ls -l"));
    }
}

#[test]
fn long_arguments_are_cut_and_say_so() {
    let arguments = format!("{{\"text\":\"{}\"}}", "x".repeat(100_000));
    let response = json!({"choices": [{"message": {"tool_calls": [
        {"id": "a", "function": {"name": "write", "arguments": arguments}},
        {"id": "b", "function": {"name": "read", "arguments": "{}"}}]}}]});
    let exchange = Exchange {
        request: json!({"model": "m", "messages": []}).to_string().into_bytes(),
        response: response.to_string().into_bytes(),
        response_headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        ..Exchange::default()
    };
    let asks = exchange.call(true, 1000).unwrap().links.asks;
    assert_eq!(
        asks.iter().map(|ask| (ask.name.as_str(), ask.cut)).collect::<Vec<_>>(),
        [("write", true), ("read", false)]
    );
}

#[test]
fn a_long_history_is_known_by_its_end() {
    let messages: Vec<_> =
        (0..2_000).map(|n| json!({"role": "user", "content": format!("message {n}")})).collect();
    let links = asked(CHAT, &json!({"model": "m", "messages": messages}));
    assert_eq!((links.history.length, links.history.last.len()), (2_000, 512));
}

#[test]
fn a_client_tells_its_sessions_and_agents() {
    let headers = |fields: &[(&str, &str)]| Exchange {
        request: json!({"model": "m", "messages": []}).to_string().into_bytes(),
        request_headers: fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Exchange::default()
    };
    let call = headers(&[
        ("User-Agent", "claude-cli/2.1.330 (external, cli)"),
        ("X-Claude-Code-Session-Id", "0b0c"),
        ("x-claude-code-agent-id", "a1"),
    ])
    .call(false, 9)
    .unwrap();
    let client = call.links.client;
    assert_eq!((client.product, client.session.as_deref()), (Some("claude-code"), Some("0b0c")));
    assert_eq!(client.agent.as_deref(), Some("a1"));
    assert_eq!(call.request.conversation_id.as_deref(), Some("0b0c"));
    let codex = headers(&[("session-id", "s"), ("thread-id", "t"), ("x-codex-parent-thread-id", "p")]);
    let client = codex.call(false, 9).unwrap().links.client;
    assert_eq!((client.session.as_deref(), client.parent.as_deref()), (Some("t"), Some("p")));
    let none = headers(&[("session-id", "a b")]).call(false, 9).unwrap();
    assert_eq!(none.links.client.session, None);
}
