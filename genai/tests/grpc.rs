//! Calls by gRPC, from the bytes of their connections: recorded ones of real clients, and what real ones seldom do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_genai::call::{Api, Call, Operation, Outcome, Part};
use agentsight_genai::connection::{Chunk, Connection, Limits};
use agentsight_genai::http::{Direction, End};
use agentsight_genai::providers::{Found, Models, Settings};
use agentsight_genai::semconv::{self, Options};
use agentsight_genai::telemetry::Value as Attribute;
use agentsight_genai::time::Timestamp;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// What moved, and when.
type Moved = Vec<(Direction, Timestamp, Vec<u8>)>;

/// What comes of a connection whose pieces are cut by `cut`.
fn found(moved: &Moved, content: bool, end: End, cut: &mut dyn FnMut(usize) -> usize) -> Vec<Found> {
    let settings = Settings { content, ..Settings::default() };
    let mut connection = Connection::new(Models::new(Arc::new(settings)), Limits::default(), true);
    let mut found = Vec::new();
    let mut offsets = [0; 2];
    for (direction, at, bytes) in moved {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (data, later) = rest.split_at(cut(rest.len()));
            rest = later;
            let offset = &mut offsets[usize::from(*direction == Direction::Received)];
            let chunk = Chunk { direction: *direction, at: *at, offset: *offset, data, lost_after: 0 };
            connection.chunk(chunk, &mut |output| found.push(output));
            *offset += data.len() as u64;
        }
    }
    let at = moved.last().map_or(Timestamp(1), |(_, at, _)| *at);
    connection.close(at, end, &mut |output| found.push(output));
    found
}

fn whole(length: usize) -> usize {
    length
}

/// The calls, in the order of their beginning.
fn calls(found: Vec<Found>) -> Vec<Call> {
    let mut calls: Vec<_> = found
        .into_iter()
        .map(|found| match found {
            Found::Call(call) => *call,
            other => panic!("{other:?}"),
        })
        .collect();
    calls.sort_by_key(|call| call.timing.start);
    calls
}

fn recorded(name: &str) -> (Moved, Vec<Map<String, Value>>) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let bytes = std::fs::read(folder.join(format!("grpc-{name}.bin"))).unwrap();
    let mut moved = Moved::new();
    let mut rest = bytes.as_slice();
    while let Some((&direction, after)) = rest.split_first() {
        let (time, after) = after.split_first_chunk().unwrap();
        let (length, after) = after.split_first_chunk().unwrap();
        let (data, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        let direction = if direction == 0 { Direction::Sent } else { Direction::Received };
        moved.push((direction, Timestamp(u64::from_be_bytes(*time) + 1), data.to_vec()));
        rest = after;
    }
    let truth = std::fs::read_to_string(folder.join(format!("grpc-{name}.jsonl"))).unwrap();
    (moved, truth.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// A span's attributes as JSON.
fn attributes(call: &Call, content: bool) -> Map<String, Value> {
    let span = semconv::span(call, &Options { content, ..Options::default() });
    let json = |value: Attribute| match value {
        Attribute::Str(text) => json!(text),
        Attribute::Int(number) => json!(number),
        Attribute::Double(number) => json!(number),
        Attribute::Bool(truth) => json!(truth),
        Attribute::Strs(texts) => json!(texts),
    };
    span.attributes.into_iter().map(|(name, value)| (name.into_owned(), json(value))).collect()
}

fn is_content(name: &str) -> bool {
    matches!(name, "gen_ai.input.messages" | "gen_ai.output.messages" | "gen_ai.tool.definitions")
}

#[test]
fn connections_of_real_clients_are_read_as_their_server_meant_them() {
    for name in ["google", "xai"] {
        let (moved, truth) = recorded(name);
        let calls = calls(found(&moved, true, End::Unknown, &mut whole));
        assert_eq!(calls.len(), truth.len(), "{name}");
        for (call, truth) in calls.iter().zip(truth) {
            let attributes = attributes(call, true);
            for (name, want) in truth {
                let got = match attributes.get(&name) {
                    Some(Value::String(text)) if is_content(&name) => serde_json::from_str(text).unwrap(),
                    got => got.cloned().unwrap_or_default(),
                };
                assert_eq!(got, want, "{name} of {:?}", call.rpc);
            }
            assert!(!call.truncated && call.status.is_none());
        }
    }
}

#[test]
fn without_content_no_byte_of_it_is_kept_and_all_else_is_the_same() {
    for name in ["google", "xai"] {
        let (moved, truth) = recorded(name);
        let bare = calls(found(&moved, false, End::Unknown, &mut whole));
        for (call, truth) in bare.iter().zip(truth) {
            let attributes = attributes(call, false);
            for (name, want) in truth.into_iter().filter(|(name, _)| !is_content(name)) {
                assert_eq!(attributes.get(&name).cloned().unwrap_or_default(), want, "{name}");
            }
            for text in [format!("{call:?}"), format!("{attributes:?}")] {
                assert!(!text.contains("quick brown") && !text.contains("über alles"), "{text}");
            }
        }
    }
}

/// What does not depend on when pieces came.
fn timeless(found: Vec<Found>) -> Vec<Found> {
    let mut found: Vec<_> = found
        .into_iter()
        .map(|found| match found {
            Found::Call(mut call) => {
                call.timing = Default::default();
                Found::Call(call)
            }
            found => found,
        })
        .collect();
    found.sort_by_key(|found| match found {
        Found::Call(call) => call.links.exchange,
        _ => 0,
    });
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_calls_do_not_depend_on_how_the_bytes_are_cut(sizes in proptest::collection::vec(1..400usize, 1..50)) {
        for name in ["google", "xai"] {
            let (moved, _) = recorded(name);
            let mut sizes = sizes.iter().cycle();
            let cut = found(&moved, true, End::Unknown, &mut |left| left.min(*sizes.next().unwrap()));
            prop_assert_eq!(timeless(cut), timeless(found(&moved, true, End::Unknown, &mut whole)));
        }
    }
}

// Connections of our own.

const CONTENT_TYPE: (&str, &str) = ("content-type", "application/grpc");
const GEMINI: &str = "/google.ai.generativelanguage.v1beta.GenerativeService/";
const VERTEX: &str = "/google.cloud.aiplatform.v1.PredictionService/";

/// A call's frames.
struct Wire(Moved);

impl Wire {
    /// A request of that path, with these headers, and its messages as they are.
    fn asks(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Wire {
        let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        sent.extend(frame(4, 0, 0, &[]));
        let head = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "llm.example")];
        sent.extend(frame(1, 4, 1, &block(&[&head[..], headers].concat())));
        sent.extend(frame(0, 1, 1, body));
        Wire(vec![
            (Direction::Sent, Timestamp(1_000), sent),
            (Direction::Received, Timestamp(2_000), frame(4, 0, 0, &[])),
        ])
    }

    fn gets(mut self, bytes: Vec<u8>) -> Wire {
        self.0.push((Direction::Received, Timestamp(5_000_000), bytes));
        self
    }

    fn head(self, headers: &[(&str, &str)]) -> Wire {
        self.gets(frame(1, 4, 1, &block(&[&[(":status", "200"), CONTENT_TYPE], headers].concat())))
    }

    fn data(self, bytes: &[u8]) -> Wire {
        self.gets(frame(0, 0, 1, bytes))
    }

    fn trailers(self, headers: &[(&str, &str)]) -> Wire {
        self.gets(frame(1, 5, 1, &block(headers)))
    }

    /// What came of it, and the same in pieces of one byte.
    fn found(&self, end: End) -> Vec<Found> {
        let found_whole = found(&self.0, true, end, &mut whole);
        assert_eq!(timeless(found(&self.0, true, end, &mut |_| 1)), timeless(found_whole.clone()));
        found_whole
    }

    fn call(&self, end: End) -> Call {
        let mut calls = calls(self.found(end));
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls.remove(0)
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Header fields, each written out (RFC 7541, 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "lengths of one byte");
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A message in its prefix.
fn prefixed(compressed: u8, message: &[u8]) -> Vec<u8> {
    [&[compressed][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

#[derive(Clone, PartialEq, Message)]
struct Said {
    #[prost(message, repeated, tag = "1")]
    candidates: Vec<Candidate>,
    #[prost(string, tag = "5")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Candidate {
    #[prost(message, optional, tag = "1")]
    content: Option<Content>,
    #[prost(int32, tag = "2")]
    finish_reason: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Content {
    #[prost(message, repeated, tag = "1")]
    parts: Vec<Words>,
}

#[derive(Clone, PartialEq, Message)]
struct Words {
    #[prost(string, tag = "2")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct Ask {
    #[prost(string, tag = "1")]
    model: String,
    #[prost(message, repeated, tag = "2")]
    contents: Vec<Content>,
}

fn content(text: &str) -> Content {
    Content { parts: vec![Words { text: text.to_owned() }] }
}

fn ask() -> Vec<u8> {
    Ask { model: "models/gemini-2.5-pro".to_owned(), contents: vec![content("Say it")] }.encode_to_vec()
}

fn said(text: &str, finish_reason: i32) -> Vec<u8> {
    let candidate = Candidate { content: Some(content(text)), finish_reason };
    Said { candidates: vec![candidate], id: "response-1".to_owned() }.encode_to_vec()
}

fn unary() -> Wire {
    Wire::asks(&format!("{GEMINI}GenerateContent"), &[CONTENT_TYPE], &prefixed(0, &ask()))
}

fn stream() -> Wire {
    Wire::asks(&format!("{GEMINI}StreamGenerateContent"), &[CONTENT_TYPE], &prefixed(0, &ask()))
}

fn text(call: &Call) -> String {
    let content = call.response.content.as_ref().unwrap();
    let parts = content.messages.iter().flat_map(|message| &message.parts);
    parts.map(|part| if let Part::Text(text) = part { text.as_str() } else { panic!("{part:?}") }).collect()
}

fn kind(call: &Call) -> Option<&str> {
    match &call.outcome {
        Outcome::Failed(failure) => failure.kind.as_deref(),
        _ => None,
    }
}

#[test]
fn a_message_may_be_in_many_frames_and_many_in_one() {
    let body = [prefixed(0, &said("One, ", 0)), prefixed(0, &[]), prefixed(0, &said("two.", 1))].concat();
    let (first, second) = body.split_at(9);
    let call = stream().head(&[]).data(first).data(second).trailers(&[("grpc-status", "0")]).call(End::Cut);
    assert_eq!(
        (text(&call).as_str(), &call.outcome, call.truncated),
        ("One, two.", &Outcome::Complete, false)
    );
    assert_eq!(call.response.finish_reasons, [Some("STOP".to_owned())]);
    assert_eq!((call.request.model.as_deref(), call.request.stream), (Some("gemini-2.5-pro"), true));
    assert_eq!(call.rpc.unwrap().status, Some("OK"));
    assert!(call.timing.first_chunk.is_some());
}

#[test]
fn compressed_messages_stand_among_others() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&said("two.", 1)).unwrap();
    let compressed = encoder.finish().unwrap();
    let body = [prefixed(0, &said("One, ", 0)), prefixed(1, &compressed)].concat();
    let ended = |head: &[(&str, &str)]| {
        stream().head(head).data(&body).trailers(&[("grpc-status", "0")]).call(End::Cut)
    };
    let call = ended(&[("grpc-encoding", "gzip")]);
    assert_eq!((text(&call).as_str(), call.truncated), ("One, two.", false));
    // One that is not gRPC's, or none at all: what can be read is told, and that something is missing.
    for head in [&[("grpc-encoding", "snappy")][..], &[]] {
        let call = ended(head);
        assert_eq!((text(&call).as_str(), call.truncated), ("One, ", true));
        assert_eq!(call.outcome, Outcome::Complete);
    }
}

#[test]
fn a_request_that_cannot_be_decoded_is_told_by_its_answer() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&ask()).unwrap();
    encoder.flush().unwrap();
    let whole_block = encoder.get_ref().len();
    encoder.write_all(&ask()).unwrap();
    let mut compressed = encoder.finish().unwrap();
    // A block of a kind that there is not. How much comes out before it depends on how it came.
    compressed[whole_block] |= 0b110;
    let headers = [CONTENT_TYPE, ("grpc-encoding", "gzip")];
    let wire = Wire::asks(&format!("{GEMINI}GenerateContent"), &headers, &prefixed(1, &compressed));
    let wire = wire.head(&[]).data(&prefixed(0, &said("All", 1))).trailers(&[("grpc-status", "0")]);
    let call = wire.call(End::Cut);
    assert_eq!((text(&call).as_str(), call.truncated, call.request.model), ("All", true, None));
}

#[test]
fn an_error_without_messages_is_the_call_s_outcome() {
    let trailers = [("grpc-status", "8"), ("grpc-message", "it%20is%20%E2%82%AC")];
    let only =
        unary().gets(frame(1, 5, 1, &block(&[&[(":status", "200"), CONTENT_TYPE], &trailers[..]].concat())));
    for wire in [only, unary().head(&[]).trailers(&trailers)] {
        let call = wire.call(End::Cut);
        let Outcome::Failed(failure) = &call.outcome else { panic!("{:?}", call.outcome) };
        assert_eq!(failure.kind.as_deref(), Some("RESOURCE_EXHAUSTED"));
        assert_eq!(failure.message.as_deref(), Some("it is €"));
        assert_eq!((call.status, call.truncated), (None, false));
        assert_eq!(semconv::error_type(&call).as_deref(), Some("RESOURCE_EXHAUSTED"));
    }
    let unknown = unary().head(&[]).trailers(&[("grpc-status", "99")]).call(End::Cut);
    assert_eq!(kind(&unknown), Some("UNKNOWN"));
}

#[test]
fn a_proxy_s_answer_is_its_http_status() {
    let head = block(&[(":status", "502"), ("content-type", "text/html")]);
    let call = unary().gets(frame(1, 4, 1, &head)).gets(frame(0, 1, 1, b"<html>")).call(End::Cut);
    assert_eq!((call.status, semconv::error_type(&call).as_deref()), (Some(502), Some("502")));
}

#[test]
fn a_response_without_trailers_is_cut() {
    let call = unary().head(&[]).gets(frame(0, 1, 1, &prefixed(0, &said("All", 1)))).call(End::Cut);
    assert_eq!((text(&call).as_str(), call.outcome), ("All", Outcome::Cut));
    let call = stream().head(&[]).data(&prefixed(0, &said("A part", 0))).call(End::Cut);
    assert_eq!((text(&call).as_str(), call.outcome), ("A part", Outcome::Cut));
    let half = prefixed(0, &said("All", 1));
    let call = unary().head(&[]).data(&half[..20]).trailers(&[("grpc-status", "0")]).call(End::Cut);
    assert!(call.truncated, "a message that is not whole");
}

#[test]
fn a_client_that_leaves_has_had_enough_or_no_time() {
    let left = |timeout: Option<&str>, after: u64| {
        let headers: Vec<_> =
            [CONTENT_TYPE].into_iter().chain(timeout.map(|time| ("grpc-timeout", time))).collect();
        let mut wire =
            Wire::asks(&format!("{GEMINI}GenerateContent"), &headers, &prefixed(0, &ask())).head(&[]);
        let at = Timestamp(1_000 + after * 1_000_000);
        wire.0.push((Direction::Sent, at, frame(3, 0, 1, &[0, 0, 0, 8])));
        wire.call(End::Unknown)
    };
    assert_eq!(left(None, 500).outcome, Outcome::Cancelled);
    assert_eq!(left(Some("1S"), 500).outcome, Outcome::Cancelled);
    assert_eq!(kind(&left(Some("1S"), 999)), Some("DEADLINE_EXCEEDED"), "the client's clock began before");
    assert_eq!(kind(&left(Some("1000m"), 1_500)), Some("DEADLINE_EXCEEDED"));
    for none in ["", "S", "1", "-1S", "123456789S", "1x", "é"] {
        assert_eq!(left(Some(none), 1 << 40).outcome, Outcome::Cancelled, "{none}");
    }
}

#[test]
fn bytes_that_are_no_message_are_told_as_missing() {
    // A prefix that is none, and messages that are none.
    let broken =
        [prefixed(7, &said("All", 1)), prefixed(0, &[0xFF; 20]), prefixed(0, &[0x0B]), prefixed(0, &[0x0A])];
    for body in broken {
        let call = stream().head(&[]).data(&body).trailers(&[("grpc-status", "0")]).call(End::Cut);
        assert_eq!((call.truncated, &call.outcome), (true, &Outcome::Complete), "{body:?}");
        assert_eq!(text(&call), "");
    }
    // Of two messages the second is whole.
    let body = [prefixed(0, &[0x0B]), prefixed(0, &said("whole", 1))].concat();
    let call = stream().head(&[]).data(&body).trailers(&[("grpc-status", "0")]).call(End::Cut);
    assert_eq!((text(&call).as_str(), call.truncated), ("whole", true));
    // A request that cannot be read is told by its answer.
    let path = format!("{GEMINI}GenerateContent");
    let wire = Wire::asks(&path, &[CONTENT_TYPE], &prefixed(0, &[0x0B])).head(&[]);
    let call = wire.data(&prefixed(0, &said("All", 1))).trailers(&[("grpc-status", "0")]).call(End::Cut);
    assert_eq!((text(&call).as_str(), call.truncated, call.request.model), ("All", true, None));
}

#[test]
fn a_gap_costs_its_message_and_not_the_outcome() {
    let body = [prefixed(0, &said("One, ", 0)), prefixed(0, &said("two.", 1))].concat();
    let wire = stream().head(&[]).data(&body).trailers(&[("grpc-status", "14")]);
    let settings = Settings { content: true, ..Settings::default() };
    let mut connection = Connection::new(Models::new(Arc::new(settings)), Limits::default(), true);
    let mut found = Vec::new();
    let mut offsets = [0; 2];
    for (number, (direction, at, bytes)) in wire.0.iter().enumerate() {
        let offset = &mut offsets[usize::from(*direction == Direction::Received)];
        // Of the fourth, which is the messages' frame, ten bytes of the end are missing.
        let kept = if number == 3 { bytes.len() - 10 } else { bytes.len() };
        let lost_after = (bytes.len() - kept) as u64;
        let chunk =
            Chunk { direction: *direction, at: *at, offset: *offset, data: &bytes[..kept], lost_after };
        connection.chunk(chunk, &mut |output| found.push(output));
        *offset += bytes.len() as u64;
    }
    connection.close(Timestamp(9_000_000), End::Cut, &mut |output| found.push(output));
    let calls = calls(found);
    assert_eq!(calls.len(), 1);
    assert_eq!((text(&calls[0]).as_str(), calls[0].truncated), ("One, ", true));
    assert_eq!(kind(&calls[0]), Some("UNAVAILABLE"));
}

#[test]
fn calls_of_vertex_ai_are_read_by_its_own_numbers() {
    #[derive(Clone, PartialEq, Message)]
    struct VertexAsk {
        #[prost(message, repeated, tag = "2")]
        contents: Vec<VertexContent>,
        #[prost(message, optional, tag = "4")]
        config: Option<VertexConfig>,
        #[prost(string, tag = "5")]
        model: String,
    }
    #[derive(Clone, PartialEq, Message)]
    struct VertexContent {
        #[prost(string, tag = "1")]
        role: String,
        #[prost(message, repeated, tag = "2")]
        parts: Vec<VertexWords>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct VertexWords {
        #[prost(string, tag = "1")]
        text: String,
    }
    #[derive(Clone, PartialEq, Message)]
    struct VertexConfig {
        #[prost(float, optional, tag = "1")]
        temperature: Option<f32>,
        #[prost(int32, optional, tag = "5")]
        max_tokens: Option<i32>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct VertexSaid {
        #[prost(message, repeated, tag = "2")]
        candidates: Vec<VertexCandidate>,
        #[prost(message, optional, tag = "4")]
        usage: Option<VertexUsage>,
        #[prost(string, tag = "11")]
        model: String,
        #[prost(string, tag = "13")]
        id: String,
    }
    #[derive(Clone, PartialEq, Message)]
    struct VertexCandidate {
        #[prost(message, optional, tag = "2")]
        content: Option<VertexContent>,
        #[prost(int32, tag = "3")]
        finish_reason: i32,
    }
    #[derive(Clone, PartialEq, Message)]
    struct VertexUsage {
        #[prost(int32, tag = "1")]
        prompt: i32,
        #[prost(int32, tag = "2")]
        candidates: i32,
        #[prost(int32, tag = "14")]
        thoughts: i32,
    }
    let content = |role: &str, text: &str| VertexContent {
        role: role.to_owned(),
        parts: vec![VertexWords { text: text.to_owned() }],
    };
    let ask = VertexAsk {
        contents: vec![content("user", "Say it")],
        config: Some(VertexConfig { temperature: Some(0.7), max_tokens: Some(9) }),
        model: "projects/p/locations/l/publishers/google/models/gemini-2.5-pro".to_owned(),
    };
    let said = VertexSaid {
        candidates: vec![VertexCandidate { content: Some(content("model", "All")), finish_reason: 7 }],
        usage: Some(VertexUsage { prompt: 3, candidates: 4, thoughts: 5 }),
        model: "gemini-2.5-pro-002".to_owned(),
        id: "v-1".to_owned(),
    };
    let path = format!("{VERTEX}GenerateContent");
    let call = Wire::asks(&path, &[CONTENT_TYPE], &prefixed(0, &ask.encode_to_vec()))
        .head(&[])
        .data(&prefixed(0, &said.encode_to_vec()))
        .trailers(&[("grpc-status", "0")])
        .call(End::Cut);
    assert_eq!((call.provider, call.api), ("gcp.vertex_ai", Api::GoogleGenerateContent));
    assert_eq!(call.request.model.as_deref(), Some("gemini-2.5-pro"));
    assert_eq!((call.request.temperature, call.request.max_tokens), (Some(0.7), Some(9)));
    assert_eq!((call.response.usage.input, call.response.usage.output), (Some(3), Some(9)));
    assert_eq!(call.response.finish_reasons, [Some("PROHIBITED_CONTENT".to_owned())]);
    assert_eq!((call.response.id.as_deref(), text(&call).as_str()), (Some("v-1"), "All"));
    assert_eq!(call.operation, Operation::GenerateContent);
}

#[test]
fn what_looks_like_a_call_is_named_and_what_does_not_costs_nothing() {
    let asks = |path: &str| {
        let wire =
            Wire::asks(path, &[("content-type", "application/grpc+proto")], &prefixed(0, b"\x0a\x01a"));
        wire.head(&[]).trailers(&[("grpc-status", "0")]).found(End::Cut)
    };
    for path in [
        "/inference.GRPCInferenceService/ModelInfer",
        "/vllm.grpc.engine.VllmEngine/Generate",
        "/generate.v2.TextGenerationService/GenerateStream",
        "/google.cloud.aiplatform.v1.PredictionService/StreamRawPredict",
        "/xai_api.Chat/StartDeferredCompletion",
        "/acme.Llm/ChatCompletion",
    ] {
        let found = asks(path);
        let [Found::Unknown(endpoint)] = found.as_slice() else { panic!("{path}: {found:?}") };
        assert_eq!((endpoint.host.as_str(), endpoint.path.as_str()), ("llm.example", path));
    }
    for path in [
        "/grpc.health.v1.Health/Check",
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "/google.ai.generativelanguage.v1beta.GenerativeService/CountTokens",
        "/xai_api.Chat/GetStoredCompletion",
        "/acme.Reports/GenerateReport",
        "/",
        "//",
    ] {
        assert_eq!(asks(path), [], "{path}");
    }
}
