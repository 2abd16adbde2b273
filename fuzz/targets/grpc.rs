//! Any bytes as the two bodies of a call by gRPC: no panic, the same call however they are cut, and content that is JSON.
//!
//! The input: a byte of flags, one for the method, one for the size of pieces, the length of the request (two bytes), the
//! request's body, the response's body.
#![no_main]

use agentsight_genai::content;
use agentsight_genai::http::{End, Exchange as _, Exchanges as _, Headers, RequestHead, ResponseHead};
use agentsight_genai::providers::{Found, Models, Settings};
use agentsight_genai::semconv::{self, Options};
use agentsight_genai::telemetry::Value;
use agentsight_genai::time::Timestamp;
use std::sync::Arc;

const METHODS: [&str; 8] = [
    "/google.ai.generativelanguage.v1beta.GenerativeService/GenerateContent",
    "/google.ai.generativelanguage.v1beta.GenerativeService/StreamGenerateContent",
    "/google.ai.generativelanguage.v1beta.GenerativeService/EmbedContent",
    "/google.ai.generativelanguage.v1beta.GenerativeService/BatchEmbedContents",
    "/google.cloud.aiplatform.v1.PredictionService/StreamGenerateContent",
    "/google.cloud.aiplatform.v1.PredictionService/EmbedContent",
    "/xai_api.Chat/GetCompletion",
    "/xai_api.Chat/GetCompletionChunk",
];

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [flags, method, size, high, low, bodies @ ..] = input else { return };
    let length = usize::from(u16::from_be_bytes([*high, *low])).min(bodies.len());
    let (request, response) = bodies.split_at(length);
    let path = METHODS[usize::from(*method) % METHODS.len()];
    let whole = read(path, *flags, request, response, usize::MAX);
    let cut = read(path, *flags, request, response, usize::from(*size).max(1));
    assert_eq!(whole, cut);
    let Some(Found::Call(call)) = whole else { return };
    let options = Options { content: true, ..Options::default() };
    semconv::measurements(&call, &options);
    let span = semconv::span(&call, &options);
    for key in content::ATTRIBUTES {
        if let Some((_, Value::Str(text))) = span.attributes.iter().find(|(own, _)| own == key) {
            serde_json::from_str::<serde_json::Value>(text).expect("content is JSON");
        }
    }
});

fn read(path: &str, flags: u8, request: &[u8], response: &[u8], size: usize) -> Option<Found> {
    let at = Timestamp(1);
    let settings = Settings {
        content: flags & 1 == 0,
        max_request_content: 4000,
        max_response_content: 4000,
        ..Settings::default()
    };
    let mut headers = Headers::default();
    headers.push("content-type", b"application/grpc");
    let encoding: &[u8] = if flags & 4 == 0 { b"gzip" } else { b"deflate" };
    if flags & 2 == 0 {
        headers.push("grpc-encoding", encoding);
    }
    let head = RequestHead {
        method: "POST".to_owned(),
        path: path.to_owned(),
        query: String::new(),
        authority: Some("llm.example".to_owned()),
        headers: headers.clone(),
        at,
    };
    let mut exchange = Models::new(Arc::new(settings)).open(&head)?;
    request.chunks(size.min(request.len().max(1))).for_each(|piece| exchange.request_body(piece));
    exchange.request_end();
    let status = if flags & 8 == 0 { 200 } else { 503 };
    exchange.response_head(&ResponseHead { status, headers }, at);
    for piece in response.chunks(size.min(response.len().max(1))) {
        exchange.response_body(piece, at);
    }
    let mut trailers = Headers::default();
    match flags >> 4 & 3 {
        0 => trailers.push("grpc-status", b"0"),
        1 => {
            trailers.push("grpc-status", b"14");
            trailers.push("grpc-message", b"%C3%BCber %zz");
        }
        _ => {}
    }
    if flags & 0x40 == 0 {
        exchange.response_trailers(&trailers);
    }
    let mut found = exchange.finish(at, End::Complete)?;
    if let Found::Call(call) = &mut found {
        // The times of chunks are those of pieces.
        call.timing = Default::default();
    }
    Some(found)
}
