//! Any bytes as a `POST` to a server of tools (MCP over HTTP), and as what a session by the first transport asks and is told.
#![no_main]

mod exchange;

use agentsight_genai::http::{End, Exchange as _, Exchanges as _, Headers, RequestHead, ResponseHead};
use agentsight_genai::providers::{Heard, Mailbox, Models, Settings};
use agentsight_genai::time::Timestamp;
use std::sync::Arc;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    exchange::run("/mcp", input);
    let [_, size, bodies @ ..] = input else { return };
    assert_eq!(session(bodies, usize::MAX), session(bodies, usize::from(*size).max(1)));
});

/// What is told of requests that are POSTed, a piece of the input each, between pieces of what the stream says; the bytes
/// of both are handed on in pieces of that size.
fn session(bodies: &[u8], size: usize) -> Vec<Heard> {
    let mailbox = Mailbox::default();
    let settings = Settings { content: true, ..Settings::default() };
    let mut models = Models::new(Arc::new(settings)).with_mailbox(mailbox.clone());
    let at = Timestamp(1);
    let mut open = |method: &str, path: &str| {
        let mut headers = Headers::default();
        headers.push("content-type", b"application/json");
        headers.push("accept", b"text/event-stream");
        models.open(&RequestHead {
            method: method.to_owned(),
            path: path.to_owned(),
            query: String::new(),
            authority: Some("tools.example".to_owned()),
            headers,
            at,
        })
    };
    let mut stream = open("GET", "/sse").expect("it asks for events");
    let mut headers = Headers::default();
    headers.push("content-type", b"text/event-stream");
    stream.response_head(&ResponseHead { status: 200, headers }, at);
    stream.response_body(b"event: endpoint\ndata: /ask\n\n", at);
    for (number, bytes) in bodies.split(|byte| *byte == 0xFF).enumerate() {
        let pieces = bytes.chunks(size.min(bytes.len().max(1)));
        if number % 2 == 1 {
            for piece in pieces {
                stream.response_body(piece, at);
            }
        } else if let Some(mut post) = open("POST", "/ask") {
            pieces.for_each(|piece| post.request_body(piece));
            post.request_end();
            post.response_head(&ResponseHead { status: 202, headers: Headers::default() }, at);
            post.finish(at, End::Complete);
        }
    }
    stream.finish(at, End::Cut);
    let heard = std::mem::take(&mut *mailbox.lock().expect("no holder panics"));
    heard.into_iter().filter(|heard| matches!(heard, Heard::Mcp(_))).collect()
}
