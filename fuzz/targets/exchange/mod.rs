//! Any bytes as the two bodies of one exchange with a model or a server of tools: no panic, the same call however they are
//! cut, and a span whose content is whole JSON.
//!
//! The input: a byte of flags, a byte for the size of pieces, the request's body, 0xFF, the response's body.

use agentsight_genai::content;
use agentsight_genai::http::{
    End, Exchange as _, Exchanges as _, Headers, Progress, RequestHead, ResponseHead,
};
use agentsight_genai::providers::{Found, Models, Settings};
use agentsight_genai::semconv::{self, Options, Vintage};
use agentsight_genai::telemetry::Value;
use agentsight_genai::time::Timestamp;
use std::sync::{Arc, LazyLock};

static OPTIONS: LazyLock<Options> = LazyLock::new(|| Options { content: true, ..Options::default() });

pub fn run(path: &str, input: &[u8]) {
    let [flags, size, bodies @ ..] = input else { return };
    let mut bodies = bodies.splitn(2, |byte| *byte == 0xFF);
    let (request, response) = (bodies.next().unwrap_or(&[]), bodies.next().unwrap_or(&[]));
    let whole = read(path, *flags, request, response, usize::MAX);
    let cut = read(path, *flags, request, response, usize::from(*size).max(1));
    assert_eq!(whole, cut);
    let Some(found) = whole else { return };
    for vintage in [Vintage::V1_41, Vintage::Latest] {
        let options = Options { vintage, max_content: 1000 << (flags >> 4), ..OPTIONS.clone() };
        let mut span = match &found {
            Found::Call(call) => {
                semconv::measurements(call, &options);
                semconv::span(call, &options)
            }
            Found::Mcp(call) => semconv::mcp_span(call, &options),
            Found::Unknown(_) => return,
        };
        for key in content::ATTRIBUTES {
            if let Some((_, Value::Str(text))) = span.attributes.iter().find(|(own, _)| own == key) {
                serde_json::from_str::<serde_json::Value>(text).expect("content is JSON");
            }
        }
        content::fit(&mut span, 2000);
    }
}

fn read(path: &str, flags: u8, request: &[u8], response: &[u8], size: usize) -> Option<Found> {
    let at = Timestamp(1);
    let settings = Settings {
        content: flags & 1 == 0,
        max_request_content: 4000,
        max_response_content: 4000,
        ..Settings::default()
    };
    let mut headers = Headers::default();
    headers.push("content-type", b"application/json");
    headers.push("accept", b"application/json, text/event-stream");
    let head = RequestHead {
        method: "POST".to_owned(),
        path: path.to_owned(),
        query: String::new(),
        authority: Some("llm.example".to_owned()),
        headers,
        at,
    };
    let mut exchange = Models::new(Arc::new(settings)).open(&head)?;
    pieces(request, size).for_each(|piece| exchange.request_body(piece));
    exchange.request_end();
    let mut headers = Headers::default();
    match flags >> 1 & 3 {
        0 => headers.push("content-type", b"text/event-stream"),
        1 => headers.push("content-type", b"application/json"),
        2 => headers.push("content-type", stream_of(path)),
        _ => {}
    }
    let status = if flags & 8 == 0 { 200 } else { 400 };
    exchange.response_head(&ResponseHead { status, headers }, at);
    for piece in pieces(response, size) {
        if exchange.response_body(piece, at) == Progress::Complete {
            break;
        }
    }
    let mut found = exchange.finish(at, End::Complete)?;
    if let Found::Call(call) = &mut found {
        // The times of chunks are those of pieces.
        call.timing = Default::default();
    }
    Some(found)
}

/// How a format is streamed where that is not by server-sent events.
fn stream_of(path: &str) -> &'static [u8] {
    if path.starts_with("/model/") { b"application/vnd.amazon.eventstream" } else { b"application/x-ndjson" }
}

fn pieces(bytes: &[u8], size: usize) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(size.min(bytes.len().max(1)))
}
