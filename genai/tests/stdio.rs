//! The Model Context Protocol over standard input and output: what each message becomes, cut anywhere, among whatever else is
//! printed, and with bytes missing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::needless_pass_by_value, reason = "they take what json! makes")]

use agentsight_genai::connection::Chunk;
use agentsight_genai::http::{Direction, End};
use agentsight_genai::mcp::{McpCall, Outcome, Target};
use agentsight_genai::providers::Settings;
use agentsight_genai::semconv::{self, Options};
use agentsight_genai::stdio::{Dialogue, MOST_PENDING};
use agentsight_genai::telemetry::Value as Attribute;
use agentsight_genai::time::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

/// A client and a server, whose every line moves by itself.
struct Talk {
    dialogue: Dialogue,
    offset: [u64; 2],
    now: u64,
    /// Bytes that move at once.
    size: usize,
    found: Vec<McpCall>,
}

impl Talk {
    fn new(content: bool, size: usize) -> Talk {
        let settings = Settings { content, ..Settings::default() };
        Talk { dialogue: Dialogue::new(Arc::new(settings)), offset: [0, 0], now: 0, size, found: Vec::new() }
    }

    fn moves(&mut self, direction: Direction, bytes: &[u8]) {
        let found = &mut self.found;
        for data in bytes.chunks(self.size) {
            self.now += 1;
            let offset = &mut self.offset[usize::from(direction == Direction::Sent)];
            let chunk = Chunk { direction, at: Timestamp(self.now), offset: *offset, data, lost_after: 0 };
            *offset += data.len() as u64;
            self.dialogue.chunk(chunk, &mut |call| found.push(call));
        }
    }

    fn says(&mut self, message: &Value) {
        self.moves(Direction::Sent, format!("{message}\n").as_bytes());
    }

    fn hears(&mut self, message: &Value) {
        self.moves(Direction::Received, format!("{message}\n").as_bytes());
    }

    fn misses(&mut self, direction: Direction, bytes: u64) {
        self.offset[usize::from(direction == Direction::Sent)] += bytes;
    }

    fn ends(mut self, end: End) -> Vec<McpCall> {
        let found = &mut self.found;
        self.dialogue.close(Timestamp(self.now + 1), end, &mut |call| found.push(call));
        self.found
    }
}

fn asks(id: impl Into<Value>, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
}

fn add(id: impl Into<Value>) -> Value {
    asks(id, "tools/call", json!({"name": "add", "arguments": {"text": "CANARY in"}}))
}

fn answer(id: impl Into<Value>, result: Value) -> Value {
    json!({"result": result, "jsonrpc": "2.0", "id": id.into()})
}

fn begins(talk: &mut Talk) {
    talk.says(&asks(0, "initialize", json!({"protocolVersion": "2025-11-25", "capabilities": {}})));
    talk.hears(&answer(0, json!({"protocolVersion": "2025-06-18", "serverInfo": {"name": "tools"}})));
    talk.says(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
}

fn outcomes(calls: &[McpCall]) -> Vec<(&str, &Outcome)> {
    calls.iter().map(|call| (call.request_id.as_str(), &call.outcome)).collect()
}

#[test]
fn requests_are_answered_by_their_ids_however_the_bytes_are_cut_and_whatever_else_is_printed() {
    for size in [1, 2, 7, 64, 100_000] {
        for content in [false, true] {
            let mut talk = Talk::new(content, size);
            talk.moves(Direction::Received, b"Listening on stdio\n\r\n{not json}\n");
            begins(&mut talk);
            talk.says(&add(1));
            talk.says(&add("two"));
            talk.hears(
                &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}),
            );
            // The server's own request has an id of its own count.
            talk.hears(&asks(1, "sampling/createMessage", json!({"messages": ["CANARY"]})));
            talk.says(&answer(1, json!({"role": "assistant", "content": "CANARY"})));
            talk.moves(Direction::Received, b"debug: {\"id\":1,\"result\":{}}\n");
            talk.hears(&answer("two", json!({"content": [{"text": "CANARY out"}], "isError": true})));
            talk.moves(Direction::Received, format!("{}\r\n", answer(1, json!({"content": []}))).as_bytes());
            let malformed = talk.dialogue.counters().malformed;
            let calls = talk.ends(End::Cancelled);
            let expected = [("0", &Outcome::Result), ("two", &Outcome::ToolError), ("1", &Outcome::Result)];
            assert_eq!(outcomes(&calls), expected, "in pieces of {size}");
            assert_eq!(malformed, 1, "what begins as a message and is none");
            assert_eq!(calls[1].target, Some(Target::Tool("add".to_owned())));
            assert_eq!(calls[1].protocol_version.as_deref(), Some("2025-06-18"), "what the server chose");
            assert!(calls[1].start < calls[1].end);
            let options = Options { content, ..Options::default() };
            let told = format!("{:?}{calls:?}", semconv::mcp_span(&calls[1], &options));
            assert_eq!(told.contains("CANARY in") && told.contains("CANARY out"), content);
        }
    }
}

#[test]
fn a_request_may_say_itself_which_version_it_speaks() {
    let mut talk = Talk::new(false, 4096);
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    talk.says(&asks(1, "tools/call", json!({"name": "add", "_meta": meta})));
    talk.hears(&answer(1, json!({"content": []})));
    assert_eq!(talk.ends(End::Cut)[0].protocol_version.as_deref(), Some("2026-07-28"));
}

#[test]
fn the_span_is_that_of_a_pipe() {
    let mut talk = Talk::new(false, 4096);
    begins(&mut talk);
    let calls = talk.ends(End::Cancelled);
    let span = semconv::mcp_span(&calls[0], &Options::default());
    let attribute = |name: &str| span.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    assert_eq!(attribute("network.transport"), Some(&Attribute::Str("pipe".into())));
    assert_eq!(attribute("mcp.method.name"), Some(&Attribute::Str("initialize".into())));
    for absent in ["network.protocol.name", "server.address", "server.port", "mcp.session.id"] {
        assert_eq!(attribute(absent), None);
    }
}

#[test]
fn several_messages_may_stand_in_one_line() {
    for size in [1, 5, 4096] {
        let mut talk = Talk::new(true, size);
        begins(&mut talk);
        talk.says(&json!([add(1), {"jsonrpc": "2.0", "method": "notifications/progress"}, add(2)]));
        talk.hears(&json!([answer(2, json!({"content": []}))]));
        talk.hears(&answer(1, json!({"content": []})));
        let calls = talk.ends(End::Cut);
        assert_eq!(outcomes(&calls[1..]), [("2", &Outcome::Result), ("1", &Outcome::Result)]);
    }
}

#[test]
fn what_is_not_answered_is_told_by_how_it_ended() {
    let mut talk = Talk::new(false, 4096);
    begins(&mut talk);
    for id in 1..4 {
        talk.says(&add(id));
    }
    talk.says(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}));
    talk.hears(&answer(2, json!({"content": []})));
    talk.hears(&json!({"jsonrpc": "2.0", "id": 3, "error": {"code": -32602, "message": "CANARY"}}));
    let calls = talk.ends(End::Cut);
    let error = Outcome::Error { code: -32602, message: None };
    assert_eq!(
        outcomes(&calls[1..]),
        [("2", &Outcome::Cancelled), ("3", &error), ("1", &Outcome::Cut)],
        "an answer after the cancelling is none"
    );
}

#[test]
fn what_is_missing_costs_its_messages_and_no_others() {
    let mut talk = Talk::new(false, 4096);
    begins(&mut talk);
    talk.says(&add(1));
    talk.says(&add(2));
    // The end of one answer, and the beginning of the next.
    talk.moves(Direction::Received, br#"{"jsonrpc":"2.0","id":1,"result":{"con"#);
    talk.misses(Direction::Received, 40);
    talk.moves(Direction::Received, b"tent\":[]}}\n");
    talk.hears(&answer(2, json!({"content": []})));
    // A request that nobody has seen.
    talk.misses(Direction::Sent, 30);
    talk.moves(Direction::Sent, b"\"id\":3}\n");
    talk.says(&add(4));
    talk.hears(&answer(3, json!({"content": []})));
    talk.hears(&answer(4, json!({"content": []})));
    let counters = talk.dialogue.counters();
    assert_eq!((counters.gaps, counters.missing_bytes, counters.unsolicited), (2, 70, 1));
    let calls = talk.ends(End::Cut);
    let expected = [("2", &Outcome::Result), ("4", &Outcome::Result), ("1", &Outcome::Unknown)];
    assert_eq!(outcomes(&calls[1..]), expected);
    assert_eq!(calls.iter().map(|call| call.truncated).collect::<Vec<_>>(), [false, false, false, true]);
}

#[test]
fn another_protocol_that_begins_alike_is_not_told() {
    let mut talk = Talk::new(true, 4096);
    talk.says(&asks(0, "initialize", json!({"protocolVersion": 1, "clientCapabilities": {}})));
    talk.hears(&answer(0, json!({"protocolVersion": 1})));
    talk.says(&asks(1, "tools/list", json!({})));
    assert_eq!(talk.dialogue.memory(), 0);
    assert_eq!(talk.ends(End::Cut), []);
    // And one without JSON-RPC's mark.
    let mut talk = Talk::new(true, 4096);
    talk.says(&json!({"method": "initialize", "id": 0, "params": {"protocolVersion": "x"}}));
    talk.hears(&json!({"id": 0, "result": {}}));
    assert_eq!(talk.ends(End::Cut), []);
}

#[test]
fn requests_without_an_answer_are_bounded() {
    let mut talk = Talk::new(true, 4096);
    begins(&mut talk);
    for id in 1..=MOST_PENDING + 9 {
        talk.says(&add(id));
    }
    assert_eq!(talk.found.len(), 1 + 9, "the oldest are told as they stand");
    assert!(talk.dialogue.memory() < MOST_PENDING * 2048);
    assert_eq!(talk.ends(End::Cut).len(), 1 + 9 + MOST_PENDING);
}

proptest! {
    #[test]
    fn any_bytes_are_survived_and_cut_anywhere_they_give_the_same(
        sent in "[\\{\\}\\[\\]\":,a0\n ]{0,200}",
        received in prop::collection::vec(any::<u8>(), 0..200),
        size in 1_usize..40,
    ) {
        let read = |size| {
            let mut talk = Talk::new(true, size);
            talk.moves(Direction::Sent, format!("{}\n", add(1)).as_bytes());
            talk.moves(Direction::Sent, sent.as_bytes());
            talk.moves(Direction::Received, &received);
            talk.moves(Direction::Received, format!("\n{}\n", answer(1, json!({}))).as_bytes());
            let calls = talk.ends(End::Cut);
            outcomes(&calls).iter().map(|(id, outcome)| format!("{id} {outcome:?}")).collect::<Vec<_>>()
        };
        prop_assert_eq!(read(size), read(100_000));
    }
}
