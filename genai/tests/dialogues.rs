//! Calls over a WebSocket: from the bytes of a connection to what each of its messages was part of.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use agentsight_genai::call::{Api, Call, Outcome, Timing};
use agentsight_genai::connection::{Chunk, Connection, Limits, Protocol};
use agentsight_genai::http::{Direction, End};
use agentsight_genai::providers::{Found, Heard, Mailbox, Models, Settings, UnknownEndpoint};
use agentsight_genai::time::Timestamp;
use common::Exchange;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::sync::Arc;

/// A connection that is a WebSocket, and what came out of it; time is the number of the step.
struct Talk {
    connection: Connection<Models>,
    mailbox: Mailbox,
    moved: [u64; 2],
    now: u64,
    found: Vec<Found>,
}

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

impl Talk {
    fn at(path: &str) -> Talk {
        let mailbox = Mailbox::default();
        let settings = Settings { content: true, ..Settings::default() };
        let models = Models::new(Arc::new(settings)).with_mailbox(mailbox.clone());
        let connection = Connection::new(models, Limits::default(), true);
        let mut talk = Talk { connection, mailbox, moved: [0; 2], now: 0, found: Vec::new() };
        talk.moves(
            Direction::Sent,
            format!(
                "GET {path} HTTP/1.1\r\nHost: llm.example:8443\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: x\r\nAuthorization: Bearer sk-secret\r\ntraceparent: {TRACEPARENT}\r\n\r\n"
            )
            .as_bytes(),
        );
        talk.moves(
            Direction::Received,
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: x\r\n\r\n",
        );
        talk
    }

    fn moves(&mut self, direction: Direction, data: &[u8]) {
        self.now += 1;
        let moved = &mut self.moved[usize::from(direction == Direction::Received)];
        let chunk = Chunk { direction, at: Timestamp(self.now), offset: *moved, data, lost_after: 0 };
        self.connection.chunk(chunk, &mut |found| self.found.push(found));
        *moved += data.len() as u64;
    }

    fn asks(&mut self, message: &Json) -> &mut Talk {
        self.moves(Direction::Sent, &frame(Direction::Sent, message));
        self
    }

    fn gets(&mut self, message: &Json) -> &mut Talk {
        self.moves(Direction::Received, &frame(Direction::Received, message));
        self
    }

    /// A message moves of which nothing is captured but the last byte.
    fn misses(&mut self, direction: Direction, message: &Json) -> &mut Talk {
        let bytes = frame(direction, message);
        self.moved[usize::from(direction == Direction::Received)] += bytes.len() as u64 - 1;
        self.moves(direction, &bytes[bytes.len() - 1..]);
        self
    }

    fn calls(&self) -> Vec<&Call> {
        let call = |found: &Found| match found {
            Found::Call(_) => true,
            Found::Mcp(_) | Found::Unknown(_) => false,
        };
        assert!(self.found.iter().all(call), "{:?}", self.found);
        self.found
            .iter()
            .filter_map(|found| if let Found::Call(call) = found { Some(&**call) } else { None })
            .collect()
    }

    /// The ids of the responses that were told so far; `-` where there is none.
    fn ids(&self) -> Vec<&str> {
        self.calls().iter().map(|call| call.response.id.as_deref().unwrap_or("-")).collect()
    }

    fn close(mut self, end: End) -> Talk {
        self.now += 1;
        let connection = std::mem::replace(
            &mut self.connection,
            Connection::new(Models::new(Arc::default()), Limits::default(), true),
        );
        connection.close(Timestamp(self.now), end, &mut |found| self.found.push(found));
        self
    }
}

fn frame(direction: Direction, message: &Json) -> Vec<u8> {
    let text = message.to_string().into_bytes();
    let (bit, mask) = if direction == Direction::Sent { (0x80, &[7, 77, 177, 0][..]) } else { (0, &[][..]) };
    let mut bytes = vec![0x81, bit | 127];
    bytes.extend((text.len() as u64).to_be_bytes());
    bytes.extend(mask);
    bytes.extend(text.iter().enumerate().map(|(at, byte)| byte ^ mask.get(at % 4).unwrap_or(&0)));
    bytes
}

fn create(fields: &Json) -> Json {
    let mut message = json!({"type": "response.create", "model": "gpt-5", "input": "Hello"});
    message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    message
}

fn event(kind: &str, id: &str, fields: &Json) -> Json {
    let status = kind.strip_prefix("response.").unwrap();
    let usage = json!({"input_tokens": 3, "output_tokens": 4, "total_tokens": 7});
    let mut message = json!({"type": kind, "response": {
        "object": "response", "id": id, "status": status, "model": "gpt-5-2025", "usage": usage, "output": [],
    }});
    message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    message
}

fn created(id: &str) -> Json {
    event("response.created", id, &json!({}))
}

fn completed(id: &str) -> Json {
    event("response.completed", id, &json!({}))
}

fn delta(text: &str) -> Json {
    json!({"type": "response.output_text.delta", "output_index": 0, "delta": text})
}

fn said(call: &Call) -> String {
    let parts =
        call.response.content.iter().flat_map(|content| &content.messages).flat_map(|message| &message.parts);
    parts.map(|part| format!("{part:?}")).collect()
}

/// The events of the recorded stream as messages.
fn recorded_events() -> Vec<Json> {
    let stream = Exchange::recorded("/v1/responses", "responses-stream").response;
    let text = String::from_utf8(stream).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| data.parse().unwrap()).collect()
}

fn recorded_request() -> Json {
    let request = Exchange::recorded("/v1/responses", "responses-stream").request;
    let mut request: Json = serde_json::from_slice(&request).unwrap();
    // Over a WebSocket there is nothing else.
    request.as_object_mut().unwrap().remove("stream");
    request
}

#[test]
fn a_recorded_response_is_the_same_call_as_over_http() {
    let mut message = recorded_request();
    message["type"] = json!("response.create");
    let mut talk = Talk::at("/v1/responses");
    talk.asks(&message);
    recorded_events().iter().for_each(|event| drop(talk.gets(event).ids()));
    let mut over_http = Exchange::recorded("/v1/responses", "responses-stream");
    over_http.request_headers = vec![("traceparent".to_owned(), TRACEPARENT.to_owned())];
    let mut wanted = over_http.call(true, usize::MAX).unwrap();
    // That of a message is not told.
    (wanted.status, wanted.timing) = (None, Timing::default());
    wanted.links.exchange = 1;
    let mut call = talk.calls()[0].clone();
    assert_eq!(call.timing.start, Timestamp(3));
    assert_eq!((call.timing.first_chunk, call.timing.end), (Some(Timestamp(4)), Timestamp(talk.now)));
    call.timing = Timing::default();
    assert_eq!(call, wanted);
    assert_eq!(talk.calls().len(), 1);
}

#[test]
fn calls_one_after_the_other_are_told_as_they_end() {
    let mut talk = Talk::at("/openai/v1/responses");
    talk.asks(&create(&json!({}))).gets(&created("r1")).gets(&delta("one")).gets(&completed("r1"));
    assert_eq!(talk.ids(), ["r1"]);
    talk.asks(&create(&json!({"previous_response_id": "r1", "input": [
        {"type": "function_call_output", "call_id": "c", "output": "42"},
    ]})));
    let heard: Vec<_> = talk.mailbox.lock().unwrap().drain(..).collect();
    let [Heard::Asked(first), Heard::Asked(second)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((first.links.exchange, second.links.exchange), (1, 2));
    assert_eq!(second.links.previous_response_id.as_deref(), Some("r1"));
    assert_eq!(second.links.results[0].id, "c");
    talk.gets(&created("r2")).gets(&delta("two")).gets(&completed("r2"));
    let calls = talk.calls();
    assert_eq!((said(calls[0]), said(calls[1])), (r#"Text("one")"#.to_owned(), r#"Text("two")"#.to_owned()));
    assert_eq!(calls[1].request.previous_response_id.as_deref(), Some("r1"));
    for call in calls {
        assert_eq!(
            (call.api, call.outcome.clone(), call.truncated),
            (Api::OpenAiResponses, Outcome::Complete, false)
        );
        assert_eq!(
            call.server.as_ref().map(|s| (s.address.as_str(), s.port)),
            Some(("llm.example", Some(8443)))
        );
        assert_eq!(call.response.model.as_deref(), Some("gpt-5-2025"));
        assert_eq!((call.response.usage.input, call.response.usage.output), (Some(3), Some(4)));
        assert!(call.request.stream && call.parent.is_some());
    }
    assert_eq!(talk.connection.protocol(), Protocol::WebSocket);
}

#[test]
fn a_message_that_is_not_to_generate_is_no_call() {
    let mut talk = Talk::at("/v1/responses");
    let warm_up = json!({"generate": false, "input": "Rules", "tools": [{"type": "function", "name": "f"}]});
    talk.asks(&create(&warm_up));
    talk.gets(&created("warm")).gets(&completed("warm"));
    assert_eq!((talk.ids().len(), talk.mailbox.lock().unwrap().len()), (0, 0));
    talk.asks(&create(&json!({"previous_response_id": "warm"}))).gets(&created("r1")).gets(&completed("r1"));
    talk.asks(&create(&json!({"previous_response_id": "r1"}))).gets(&created("r2")).gets(&completed("r2"));
    assert_eq!(talk.ids(), ["r1", "r2"]);
    let asked = |call: &Call| format!("{:?}", call.request.content.as_ref().unwrap().messages);
    let told: Vec<_> = talk.calls().into_iter().map(|call| asked(call).matches("Rules").count()).collect();
    assert_eq!(told, [1, 0], "it is content of the call that continues it");
    assert_eq!(talk.close(End::Cut).calls().len(), 2);
}

#[test]
fn a_message_may_name_the_span_that_its_call_hangs_on() {
    let mut talk = Talk::at("/v1/responses");
    let metadata = json!({
        "ws_request_header_traceparent": "00-11111111111111111111111111111111-2222222222222222-01",
        "ws_request_header_tracestate": "a=1",
        "session_id": "x",
    });
    talk.asks(&create(&json!({"client_metadata": metadata}))).gets(&created("r1")).gets(&completed("r1"));
    talk.asks(&create(&json!({}))).gets(&created("r2")).gets(&completed("r2"));
    let parents: Vec<_> = talk.calls().iter().map(|call| call.parent.clone().unwrap()).collect();
    assert_eq!((parents[0].trace_id.0, parents[0].state.as_str()), ([0x11; 16], "a=1"));
    assert_eq!(parents[1].trace_id.0[..2], [0x0a, 0xf7], "that of the handshake");
}

#[test]
fn calls_with_stream_ids_are_told_apart() {
    let mut talk = Talk::at("/v1/responses");
    let lane = |name: &str| json!({"stream_id": name});
    let with = |mut message: Json, name: &str| {
        message["stream_id"] = json!(name);
        message
    };
    talk.asks(&create(&lane("a"))).asks(&create(&lane("b"))).asks(&create(&json!({})));
    talk.gets(&with(created("rb"), "b")).gets(&with(created("ra"), "a")).gets(&created("r"));
    talk.gets(&with(delta("A"), "a")).gets(&with(delta("B"), "b")).gets(&delta("C"));
    talk.gets(&with(json!({"type": "error", "error": {"code": "oops"}}), "b"));
    talk.gets(&completed("r")).gets(&with(completed("ra"), "a"));
    assert_eq!(talk.ids(), ["rb", "r", "ra"]);
    let calls = talk.calls();
    assert_eq!(calls.iter().map(|call| said(call)).collect::<String>(), r#"Text("B")Text("C")Text("A")"#);
    assert!(matches!(&calls[0].outcome, Outcome::Failed(failure) if failure.code.as_deref() == Some("oops")));
}

#[test]
fn an_error_ends_its_call_and_what_tells_it_again_is_not_the_next_ones() {
    let mut talk = Talk::at("/v1/responses");
    let error = json!({"type": "error", "status": 400, "error": {
        "type": "invalid_request_error", "code": "previous_response_not_found", "message": "not found",
    }});
    talk.asks(&create(&json!({"previous_response_id": "gone"}))).gets(&error);
    talk.asks(&create(&json!({}))).gets(&created("r2"));
    talk.gets(&json!({"type": "error", "code": "server_error", "message": "oops", "sequence_number": 3}));
    talk.asks(&create(&json!({}))).gets(&event("response.failed", "r2", &json!({})));
    talk.gets(&created("r3")).gets(&completed("r3"));
    let outcomes: Vec<_> = talk
        .calls()
        .iter()
        .map(|call| match &call.outcome {
            Outcome::Failed(failure) => failure.code.clone().unwrap(),
            outcome => format!("{outcome:?}"),
        })
        .collect();
    assert_eq!(outcomes, ["previous_response_not_found", "server_error", "Complete"]);
    assert_eq!(talk.ids(), ["-", "r2", "r3"]);
}

#[test]
fn a_connection_that_ends_in_the_middle_leaves_its_call_incomplete() {
    for (end, outcome) in
        [(End::Cut, Outcome::Cut), (End::Cancelled, Outcome::Cancelled), (End::Unknown, Outcome::Incomplete)]
    {
        let mut talk = Talk::at("/v1/responses");
        talk.asks(&create(&json!({}))).gets(&created("r1")).gets(&delta("half"));
        let talk = talk.close(end);
        assert_eq!((&talk.calls()[0].outcome, talk.ids()), (&outcome, vec!["r1"]));
    }
    for (direction, bytes, outcome) in [
        (Direction::Sent, &b"\x88\x80\x01\x02\x03\x04"[..], Outcome::Cancelled),
        (Direction::Received, b"\x88\x02\x03\xe8", Outcome::Cut),
    ] {
        let mut talk = Talk::at("/v1/responses");
        talk.asks(&create(&json!({}))).gets(&created("r1"));
        talk.moves(direction, bytes);
        assert_eq!(talk.calls()[0].outcome, outcome);
        assert_eq!(talk.close(End::Cut).calls().len(), 1);
    }
}

#[test]
fn what_the_server_begins_by_itself_is_a_call_too() {
    let mut talk = Talk::at("/v1/responses");
    talk.asks(&create(&json!({}))).gets(&created("r1"));
    talk.asks(&json!({"type": "response.steer", "previous_response_id": "r1", "input": "Rather so"}));
    talk.gets(
        &json!({"type": "response.steer.accepted", "steer": {"id": "s", "previous_response_id": "r1"}}),
    );
    talk.gets(&event("response.incomplete", "r1", &json!({}))).gets(&created("r2")).gets(&delta("so"));
    talk.gets(&completed("r2"));
    // Who asked for it might still be told.
    assert_eq!(talk.ids(), ["r1"]);
    talk.asks(&create(&json!({}))).gets(&created("r3")).gets(&completed("r3"));
    assert_eq!(talk.ids(), ["r1", "r2", "r3"]);
    let call = talk.calls()[1];
    assert_eq!(
        (call.truncated, &call.outcome, call.request.model.as_deref()),
        (false, &Outcome::Complete, None)
    );
}

#[test]
fn a_response_that_is_read_before_its_request_is_known_is_its_response() {
    let mut talk = Talk::at("/v1/responses");
    for (id, events) in
        [("r1", vec![created("r1")]), ("r2", vec![created("r2"), delta("x"), completed("r2")])]
    {
        let began = talk.now;
        talk.now += 10;
        events.iter().for_each(|event| drop(talk.gets(event).ids()));
        // The call that wrote it began before these were read.
        talk.now = began;
        talk.asks(&create(&json!({"metadata": {"id": id}})));
        talk.now += 20;
        if id == "r1" {
            talk.gets(&completed("r1"));
        }
    }
    assert_eq!(talk.ids(), ["r1", "r2"]);
    for call in talk.calls() {
        assert_eq!((call.request.model.as_deref(), &call.outcome), (Some("gpt-5"), &Outcome::Complete));
        assert!(call.timing.start < call.timing.first_chunk.unwrap());
    }
    let talk = talk.close(End::Cut);
    assert_eq!(talk.ids(), ["r1", "r2"]);
}

#[test]
fn a_missed_message_marks_the_call_that_it_was_of() {
    let mut talk = Talk::at("/v1/responses");
    talk.asks(&create(&json!({}))).gets(&created("r1")).misses(Direction::Received, &delta("lost"));
    talk.gets(&completed("r1"));
    // The last event is missed; the next request tells that the call is over.
    talk.asks(&create(&json!({}))).gets(&created("r2")).misses(Direction::Received, &completed("r2"));
    talk.asks(&create(&json!({}))).gets(&created("r3")).gets(&completed("r3"));
    // The request is missed.
    talk.misses(Direction::Sent, &create(&json!({}))).gets(&created("r4")).gets(&completed("r4"));
    talk.asks(&create(&json!({}))).gets(&created("r5")).gets(&completed("r5"));
    assert_eq!(talk.ids(), ["r1", "r2", "r3", "r4", "r5"]);
    let told: Vec<_> =
        talk.calls().iter().map(|call| (call.truncated, call.request.model.is_some())).collect();
    assert_eq!(told, [(true, true), (true, true), (false, true), (true, false), (false, true)]);
    assert_eq!(talk.calls()[1].outcome, Outcome::Incomplete);
}

#[test]
fn after_a_loss_nothing_is_told_of_a_client_that_asks_before_it_is_answered() {
    for direction in [Direction::Sent, Direction::Received] {
        let mut talk = Talk::at("/v1/responses");
        talk.asks(&create(&json!({}))).asks(&create(&json!({}))).gets(&created("r1")).gets(&delta("one"));
        talk.misses(direction, &delta("x"));
        assert_eq!(talk.ids(), ["r1", "-"]);
        assert!(talk.calls().iter().all(|call| call.outcome == Outcome::Incomplete));
        talk.gets(&completed("r1")).gets(&created("r2")).gets(&completed("r2"));
        assert_eq!(talk.ids().len(), 2);
    }
}

#[test]
fn without_content_no_text_is_in_a_call_and_a_change_holds_from_the_next_one_on() {
    let mut talk = Talk::at("/v1/responses");
    talk.asks(&create(&json!({"input": "CANARY"}))).gets(&created("r1"));
    talk.connection.exchanges_mut().set_settings(Arc::new(Settings::default()));
    talk.gets(&delta("CANARY")).gets(&completed("r1"));
    talk.asks(&create(&json!({"input": "CANARY"})))
        .gets(&created("r2"))
        .gets(&delta("CANARY"))
        .gets(&completed("r2"));
    let told: Vec<_> =
        talk.calls().iter().map(|call| format!("{call:?}").matches("CANARY").count()).collect();
    assert_eq!(told, [2, 0]);
    let mut talk = realtime();
    talk.connection.exchanges_mut().set_settings(Arc::new(Settings::default()));
    talk.asks(&item("CANARY"))
        .asks(&json!({"type": "response.create", "response": {"instructions": "CANARY"}}));
    talk.gets(&began("r1"));
    talk.gets(&json!({"type": "response.output_text.delta", "response_id": "r1", "delta": "CANARY"}));
    talk.gets(&done("r1", "completed", &json!({})));
    assert!(talk.ids() == ["r1"] && !format!("{:?}", talk.calls()).contains("CANARY"));
}

/// A session of Realtime that has begun.
fn realtime() -> Talk {
    let mut talk = Talk::at("/v1/realtime?model=gpt-realtime");
    let session = json!({
        "type": "realtime", "id": "sess_1", "model": "gpt-realtime", "output_modalities": ["audio"],
        "instructions": "Be brief", "max_output_tokens": "inf", "tools": [],
    });
    talk.gets(&json!({"type": "session.created", "event_id": "e", "session": session}));
    talk
}

fn item(text: &str) -> Json {
    let content = json!([{"type": "input_text", "text": text}, {"type": "input_audio", "audio": "UklGR"}]);
    json!({"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": content}})
}

fn done(id: &str, status: &str, fields: &Json) -> Json {
    let usage = json!({
        "total_tokens": 12, "input_tokens": 7, "output_tokens": 5,
        "input_token_details": {"text_tokens": 7, "cached_tokens": 2},
    });
    let mut response = json!({"object": "realtime.response", "id": id, "status": status, "usage": usage});
    response.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({"type": "response.done", "event_id": "e", "response": response})
}

fn began(id: &str) -> Json {
    let response = json!({"object": "realtime.response", "id": id, "status": "in_progress", "output": []});
    json!({"type": "response.created", "event_id": "e", "response": response})
}

#[test]
fn a_session_of_realtime_is_a_call_a_response() {
    let mut talk = realtime();
    talk.asks(&json!({"type": "session.update", "session": {
        "type": "realtime", "output_modalities": ["text"], "max_output_tokens": 100,
        "tools": [{"type": "function", "name": "get_weather", "parameters": {"type": "object"}}],
    }}));
    talk.asks(&item("What is the weather?")).asks(&json!({"type": "response.create"})).gets(&began("r1"));
    let call = json!({
        "id": "fc", "type": "function_call", "status": "in_progress", "call_id": "c1", "name": "get_weather", "arguments": "",
    });
    let part = |kind: &str, key: &str, value: &Json| {
        let mut event = json!({"type": kind, "response_id": "r1", "output_index": 0, "item_id": "fc"});
        event[key] = value.clone();
        event
    };
    talk.gets(&part("response.output_item.added", "item", &call));
    talk.gets(&part("response.function_call_arguments.delta", "delta", &json!("{\"city\":")));
    talk.gets(&part("response.function_call_arguments.delta", "delta", &json!("\"Rome\"}")));
    // The items of the last event are all that is said, even where nothing was before.
    let mut output = call;
    output["arguments"] = json!("{\"city\":\"Rome\"}");
    talk.gets(&done("r1", "completed", &json!({"output": [output]})));
    talk.asks(&json!({"type": "conversation.item.create", "item": {
        "type": "function_call_output", "call_id": "c1", "output": "sunny",
    }}));
    talk.asks(&json!({"type": "response.create", "response": {"instructions": "Rhyme"}})).gets(&began("r2"));
    talk.gets(&json!({"type": "response.output_text.delta", "response_id": "r2", "output_index": 0, "delta": "Sun, fun"}));
    talk.gets(&done("r2", "completed", &json!({"output": []})));
    assert_eq!(talk.ids(), ["r1", "r2"]);
    let calls = talk.calls();
    for call in &calls {
        assert_eq!((call.api, call.request.model.as_deref()), (Api::OpenAiRealtime, Some("gpt-realtime")));
        assert_eq!((call.request.max_tokens, call.request.output_type), (Some(100), Some("text")));
        let usage = call.response.usage;
        assert_eq!((usage.input, usage.output, usage.cache_read), (Some(7), Some(5), Some(2)));
        assert_eq!((&call.outcome, call.truncated), (&Outcome::Complete, false));
        assert!(!format!("{call:?}").contains("UklGR"), "audio is passed over");
    }
    assert_eq!(calls[0].response.finish_reasons, [Some("tool_calls".to_owned())]);
    assert_eq!(calls[0].links.asks[0].id.as_deref(), Some("c1"));
    assert!(calls[0].links.offers_tools && calls[0].links.previous_response_id.is_none());
    assert_eq!(calls[1].links.previous_response_id.as_deref(), Some("r1"));
    assert_eq!(calls[1].links.results[0].id, "c1");
    let asked: Vec<_> = calls.iter().map(|call| call.request.content.as_ref().unwrap()).collect();
    assert!(format!("{:?}", asked[0].messages).contains("What is the weather?"));
    assert!(format!("{:?}", asked[1].messages).contains("sunny"));
    assert_eq!((asked[0].messages.len(), asked[1].messages.len()), (1, 1));
    assert!(format!("{:?}{:?}", asked[0].system, asked[1].system).contains("Be brief"));
    assert!(format!("{:?}", asked[1].system).contains("Rhyme"));
    assert!(said(calls[0]).contains("Rome") && said(calls[1]).contains("Sun, fun"));
}

#[test]
fn responses_of_realtime_that_are_spoken_or_end_otherwise_are_told_as_they_end() {
    let mut talk = realtime();
    // Somebody has spoken.
    talk.gets(&began("r1"));
    let words = |text: &str| json!({"type": "response.output_audio_transcript.delta", "response_id": "r1", "delta": text});
    talk.gets(&words("Good "))
        .gets(&json!({"type": "response.output_audio.delta", "response_id": "r1", "delta": "UklGR"}));
    talk.gets(&words("day"));
    let cancelled = json!({"status_details": {"type": "cancelled", "reason": "turn_detected"}});
    talk.gets(&done("r1", "cancelled", &cancelled));
    let error = json!({"status_details": {"type": "failed", "error": {"type": "server_error", "code": "overloaded"}}});
    talk.asks(&json!({"type": "response.create"})).gets(&began("r2")).gets(&done("r2", "failed", &error));
    assert_eq!(talk.ids(), ["r1", "r2"]);
    let calls = talk.calls();
    assert_eq!(said(calls[0]), r#"Text("Good day")"#);
    assert_eq!(calls[0].response.finish_reasons, [Some("turn_detected".to_owned())]);
    assert!(
        matches!(&calls[1].outcome, Outcome::Failed(failure) if failure.code.as_deref() == Some("overloaded"))
    );
}

#[test]
fn an_error_of_a_session_fails_only_the_response_that_it_is_of() {
    let create = |id: &str| json!({"type": "response.create", "event_id": id});
    let error = |error: &Json| json!({"type": "error", "event_id": "e", "error": error});
    let mut talk = realtime();
    talk.asks(&create("a")).gets(&error(&json!({"type": "invalid_request_error", "code": "other"})));
    talk.gets(&began("r1")).asks(&create("b"));
    talk.gets(&error(&json!({"code": "conversation_already_has_active_response"})));
    talk.asks(&create("c")).gets(&error(&json!({"code": "bad", "event_id": "c"})));
    talk.gets(&done("r1", "completed", &json!({}))).asks(&create("d")).gets(&began("r2"));
    talk.gets(&done("r2", "completed", &json!({})));
    assert_eq!(talk.ids(), ["-", "-", "r1", "r2"]);
    let failed: Vec<_> = talk.calls().iter().map(|call| matches!(call.outcome, Outcome::Failed(_))).collect();
    assert_eq!(failed, [true, true, false, false]);
}

#[test]
fn a_handshake_that_is_refused_is_no_call() {
    let models = Models::new(Arc::new(Settings::default()));
    let mut connection = Connection::new(models, Limits::default(), true);
    let (mut found, mut moved) = (0, [0; 2]);
    for (direction, data) in [
        (Direction::Sent, "GET /v1/responses HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n"),
        (Direction::Received, "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\n{}"),
    ] {
        let moved = &mut moved[usize::from(direction == Direction::Received)];
        let chunk =
            Chunk { direction, at: Timestamp(1), offset: *moved, data: data.as_bytes(), lost_after: 0 };
        connection.chunk(chunk, &mut |_| found += 1);
        *moved += data.len() as u64;
    }
    assert_eq!((found, connection.protocol()), (0, Protocol::Http1));
}

#[test]
fn elsewhere_the_first_message_tells_whether_there_may_be_calls() {
    let live = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent";
    for (path, message, model_like) in [
        (live, json!({"setup": {"model": "models/gemini-live"}}), true),
        ("/agent", json!({"model": "m", "messages": []}), true),
        ("/chat", json!({"type": "message", "text": "hello"}), false),
    ] {
        let mut talk = Talk::at(path);
        talk.asks(&message).asks(&message);
        let unknown = UnknownEndpoint { host: "llm.example".to_owned(), path: path.to_owned() };
        let expected = if model_like { vec![Found::Unknown(unknown)] } else { vec![] };
        assert_eq!(talk.found.len(), expected.len(), "{path}");
        assert!(talk.found.iter().zip(&expected).all(|(found, expected)| match (found, expected) {
            (Found::Unknown(found), Found::Unknown(expected)) => path == live || found == expected,
            _ => false,
        }));
        assert!(talk.connection.memory() < 8 << 10);
    }
}

proptest! {
    #[test]
    fn however_the_bytes_are_cut_the_calls_are_the_same(sizes in prop::collection::vec(1usize..2000, 1..20)) {
        let mut message = recorded_request();
        message["type"] = json!("response.create");
        let events: Vec<u8> = recorded_events().iter().flat_map(|event| frame(Direction::Received, event)).collect();
        let mut whole = Talk::at("/v1/responses");
        let mut cut = Talk::at("/v1/responses");
        let mut sizes = sizes.iter().cycle();
        for (direction, bytes) in [(Direction::Sent, frame(Direction::Sent, &message)), (Direction::Received, events)] {
            whole.moves(direction, &bytes);
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                cut.moves(direction, piece);
                rest = after;
            }
        }
        let without_times = |talk: &Talk| {
            talk.calls().into_iter().map(|call| Call { timing: Timing::default(), ..call.clone() }).collect::<Vec<_>>()
        };
        prop_assert_eq!(without_times(&whole).len(), 1);
        prop_assert_eq!(without_times(&cut), without_times(&whole));
    }
}
