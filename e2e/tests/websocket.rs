//! Calls over WebSockets: OpenAI's SDK and Codex, whose spans must be what the server said; and conversations of a
//! well-known implementation of the protocol, which must be read as they were meant.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, Record};
use agentsight_e2e::comparison::{attribute_differences, cancelled, is_whole, list, output_differences};
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::run;
use agentsight_e2e::python;
use agentsight_e2e::truth::Served;
use agentsight_genai::connection::{Chunk, Connection, Limits, Protocol};
use agentsight_genai::http::{
    Dialogue, Direction, End, Exchange, Exchanges, Progress, RequestHead, ResponseHead,
};
use agentsight_genai::time::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::process::Command;

/// What is no inference: see genai/src/providers/dialogue.rs.
const WARM_UP: &str = "responses.warm_up";

#[test]
fn spans_equal_what_the_sdk_asked_and_got() {
    // Over TLS 1.3 the SDK, which reads by one thread and writes by another, hangs at times, traced or not.
    spans_are_what_was_served(ModelServer::start_with(&["--tls", "1.2"]), &[]);
}

#[test]
fn spans_without_tls_equal_what_the_sdk_asked_and_got() {
    spans_are_what_was_served(ModelServer::start_plain(), &["--plaintext"]);
}

fn spans_are_what_was_served(server: ModelServer, options: &[&str]) {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("seen.jsonl");
    let record = options.iter().fold(agent.record(python::interpreter()), Record::option);
    let record =
        server.trust("").get(1).into_iter().fold(record, |record, ca| record.env("SSL_CERT_FILE", ca));
    let recording = record
        .option("--content")
        .arg(python::agent("websocket_calls.py"))
        .args(["--base", &server.base(), "--out"])
        .arg(&out)
        .run()
        .succeeded();
    let seen: Vec<Value> =
        std::fs::read_to_string(&out).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    let mut served = server.stop();
    let warmed_up = served.iter().filter(|served| served.api == WARM_UP).count();
    assert_eq!(warmed_up, 6, "one for each way to compress and to cut");
    served.retain(|served| served.api != WARM_UP);
    let spans: Vec<_> = recording.telemetry.calls().collect();
    assert_eq!((served.len(), seen.len()), (70, 70));
    let mut wrong = Vec::new();
    for served in &served {
        let case = served.case.as_deref().unwrap_or_default();
        let ours: Vec<_> = match &served.id {
            Some(id) => spans.iter().filter(|span| span.text("gen_ai.response.id") == Some(id)).collect(),
            // It was refused, which tells no id.
            None => spans
                .iter()
                .filter(|span| Some(&span.trace_id) == served.trace_id.as_ref() && span.failed)
                .collect(),
        };
        let [span] = ours[..] else {
            wrong.push(format!("{case}: {} spans", ours.len()));
            continue;
        };
        let mut differences = attribute_differences(served, span);
        if is_whole(served) {
            differences.extend(output_differences(served, span));
            differences
                .extend(input_differences(served, &span.json("gen_ai.input.messages").unwrap_or_default()));
        }
        if Some(&span.trace_id) != served.trace_id.as_ref() {
            differences.push("not in the trace of the handshake".to_owned());
        }
        if span.text("agentsight.capture.truncated").is_some() {
            differences.push("truncated".to_owned());
        }
        wrong.extend(differences.into_iter().map(|difference| format!("{case}: {difference:.600}")));
        wrong.extend(
            what_the_sdk_saw_differently(served, &seen).map(|difference| format!("{case}: {difference}")),
        );
    }
    assert!(wrong.is_empty(), "{} differences:\n{}\n{}", wrong.len(), wrong.join("\n"), {
        String::from_utf8_lossy(&recording.output.stderr)
    });
    assert_eq!(spans.len(), served.len());
}

/// The texts that a request brings, held against those of the span.
fn input_differences(served: &Served, messages: &Value) -> Option<String> {
    let input = &served.request.as_ref()?["input"];
    let mut want: Vec<String> = input.as_str().map(str::to_owned).into_iter().collect();
    for item in list(input) {
        want.extend(item["output"].as_str().map(str::to_owned));
        want.extend(list(&item["content"]).filter_map(|part| part["text"].as_str()).map(str::to_owned));
    }
    let parts = list(messages).flat_map(|message| list(&message["parts"]));
    let got: Vec<_> =
        parts.filter_map(|part| part["content"].as_str().or(part["response"].as_str())).collect();
    (got != want).then(|| format!("input: want {want:?}, got {got:?}"))
}

fn what_the_sdk_saw_differently(served: &Served, seen: &[Value]) -> Option<String> {
    let case = json!(served.case);
    let seen = seen.iter().find(|seen| seen["case"] == case);
    let Some(seen) = seen else { return Some("the SDK saw nothing".to_owned()) };
    if !is_whole(served) || cancelled(served) {
        return None;
    }
    let choice = &served.choices[0];
    let text = choice.refusal.as_deref().unwrap_or(&choice.text);
    let calls: Vec<_> =
        seen["tool_calls"].as_object().into_iter().flatten().map(|(_, text)| text.clone()).collect();
    let want: Vec<_> = choice.tool_calls.iter().map(|call| json!(call.arguments)).collect();
    let same = seen["id"] == json!(served.id) && seen["text"] == text && calls == want;
    (!same).then(|| format!("the SDK saw {seen}"))
}

/// A line of websocket_conversations.py.
#[derive(Deserialize)]
struct Conversation {
    /// `>` or `<`, and bytes in base64.
    moved: Vec<(String, String)>,
    messages: Messages,
    #[serde(rename = "closedBy")]
    closed_by: String,
    deflate: bool,
}

/// What both sides said, or were heard to say.
#[derive(Deserialize, Default, PartialEq, Debug)]
struct Messages {
    sent: Vec<String>,
    received: Vec<String>,
}

#[test]
fn conversations_of_a_well_known_implementation_are_read_as_they_were_meant() {
    const COUNT: usize = 3000;
    let output = run(Command::new(python::interpreter())
        .arg(python::agent("websocket_conversations.py"))
        .args([&COUNT.to_string(), "7"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut read, mut deflated, mut messages) = (0, 0, 0);
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let conversation: Conversation = serde_json::from_slice(line).unwrap();
        // As it was written, byte by byte, and in pieces that begin and end anywhere.
        for size in [usize::MAX, 1, 2 + read % 300] {
            let heard = hear(&conversation, size);
            assert_eq!(heard.messages, conversation.messages, "conversation {read} in pieces of {size}");
            let end = if conversation.closed_by == "sent" { End::Cancelled } else { End::Cut };
            assert_eq!(heard.end, Some(end), "conversation {read}");
        }
        read += 1;
        deflated += usize::from(conversation.deflate);
        messages += conversation.messages.sent.len() + conversation.messages.received.len();
    }
    assert_eq!(read, COUNT);
    assert!(deflated > COUNT / 2 && messages > COUNT * 5, "{deflated} compressed, {messages} messages");
}

fn hear(conversation: &Conversation, size: usize) -> Heard {
    let mut connection = Connection::new(Listener, Limits::default(), true);
    let (mut heard, mut moved) = (None, [0; 2]);
    for (mark, bytes) in &conversation.moved {
        let direction = if mark == ">" { Direction::Sent } else { Direction::Received };
        let moved = &mut moved[usize::from(direction == Direction::Received)];
        for data in STANDARD.decode(bytes).unwrap().chunks(size) {
            let chunk = Chunk { direction, at: Timestamp(0), offset: *moved, data, lost_after: 0 };
            connection.chunk(chunk, &mut |whole| heard = Some(whole));
            *moved += data.len() as u64;
        }
    }
    assert_eq!(connection.protocol(), Protocol::WebSocket);
    heard.expect("it was closed")
}

/// Writes down the messages of a connection.
struct Listener;

#[derive(Default)]
struct Heard {
    messages: Messages,
    /// The messages at hand.
    sent: Vec<u8>,
    received: Vec<u8>,
    end: Option<End>,
}

impl Exchanges for Listener {
    type Exchange = Heard;
    type Dialogue = Heard;

    fn open(&mut self, _: &RequestHead) -> Option<Heard> {
        Some(Heard::default())
    }

    fn upgrade(&mut self, exchange: Heard) -> Result<Heard, Heard> {
        Ok(exchange)
    }
}

impl Dialogue<Listener> for Heard {
    fn message(&mut self, _: &mut Listener, direction: Direction, data: &[u8], _: Timestamp) {
        match direction {
            Direction::Sent => self.sent.extend_from_slice(data),
            Direction::Received => self.received.extend_from_slice(data),
        }
    }

    fn message_end(
        &mut self,
        _: &mut Listener,
        direction: Direction,
        _: Timestamp,
        _: &mut impl FnMut(Heard),
    ) -> Progress {
        let (message, messages) = match direction {
            Direction::Sent => (&mut self.sent, &mut self.messages.sent),
            Direction::Received => (&mut self.received, &mut self.messages.received),
        };
        messages.push(String::from_utf8(std::mem::take(message)).expect("texts are said"));
        Progress::More
    }

    fn lost(
        &mut self,
        _: &mut Listener,
        direction: Direction,
        _: Timestamp,
        _: &mut impl FnMut(Heard),
    ) -> Progress {
        panic!("nothing of what was {direction:?} is missing");
    }

    fn memory(&self) -> usize {
        0
    }

    fn close(mut self, _: &mut Listener, _: Timestamp, end: End, out: &mut impl FnMut(Heard)) {
        self.end = Some(end);
        out(self);
    }
}

impl Exchange for Heard {
    type Output = Heard;

    fn request_body(&mut self, _: &[u8]) {}

    fn request_end(&mut self) {}

    fn response_head(&mut self, _: &ResponseHead, _: Timestamp) {}

    fn response_body(&mut self, _: &[u8], _: Timestamp) -> Progress {
        Progress::More
    }

    fn lost(&mut self, _: Direction) {}

    fn finish(self, _: Timestamp, _: End) -> Option<Heard> {
        None
    }
}
