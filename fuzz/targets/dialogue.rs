//! Any messages on a WebSocket of Responses or of Realtime: no panic, the same calls however their bytes are cut, and
//! spans whose content is whole JSON.
//!
//! The input: a byte of flags, one for the size of pieces, then messages, each behind a byte for its direction and two
//! for its length. A length of 0xFFFF stands for one that is missing.
#![no_main]

use agentsight_genai::call::Call;
use agentsight_genai::connection::{Chunk, Connection, Limits};
use agentsight_genai::content;
use agentsight_genai::http::{Direction, End};
use agentsight_genai::providers::{Found, Models, Settings};
use agentsight_genai::semconv::{self, Options};
use agentsight_genai::telemetry::Value;
use agentsight_genai::time::Timestamp;
use std::sync::Arc;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [flags, size, messages @ ..] = input else { return };
    let whole = read(*flags, messages, usize::MAX);
    assert_eq!(whole, read(*flags, messages, usize::from(*size).max(1)));
    let options = Options { content: true, ..Options::default() };
    for call in &whole {
        let mut span = semconv::span(call, &options);
        for key in content::ATTRIBUTES {
            if let Some((_, Value::Str(text))) = span.attributes.iter().find(|(own, _)| own == key) {
                serde_json::from_str::<serde_json::Value>(text).expect("content is JSON");
            }
        }
        content::fit(&mut span, 2000);
        semconv::measurements(call, &options);
    }
});

fn read(flags: u8, mut messages: &[u8], size: usize) -> Vec<Call> {
    let settings = Settings {
        content: flags & 1 == 0,
        max_request_content: 4000,
        max_response_content: 4000,
        ..Settings::default()
    };
    let path = if flags & 2 == 0 { "/v1/responses" } else { "/v1/realtime" };
    let mut connection = Connection::new(Models::new(Arc::new(settings)), Limits::default(), true);
    let (mut calls, mut moved, mut sizes) = (Vec::new(), [0; 2], [size; 2]);
    let mut take = |found| {
        if let Found::Call(call) = found {
            // The times of chunks are those of pieces.
            calls.push(Call { timing: Default::default(), ..*call });
        }
    };
    let mut moves = |direction: Direction, data: &[u8], missing: u64| {
        let index = usize::from(direction == Direction::Received);
        let (moved, size) = (&mut moved[index], &mut sizes[index]);
        *moved += missing;
        if missing > 0 {
            // Reading goes on only at a chunk that begins with a frame.
            *size = usize::MAX;
        }
        for data in data.chunks(*size) {
            let chunk = Chunk { direction, at: Timestamp(1), offset: *moved, data, lost_after: 0 };
            connection.chunk(chunk, &mut take);
            *moved += data.len() as u64;
        }
    };
    let handshake = format!("GET {path} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n");
    moves(Direction::Sent, handshake.as_bytes(), 0);
    let accepted = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
    moves(Direction::Received, accepted, 0);
    while let [direction, low, high, rest @ ..] = messages {
        let direction = if direction & 1 == 0 { Direction::Sent } else { Direction::Received };
        let length = u16::from_le_bytes([*low, *high]);
        if length == u16::MAX {
            // Found with the next chunk.
            moves(direction, &[], 7);
            messages = rest;
            continue;
        }
        let (message, after) = rest.split_at(rest.len().min(length.into()));
        messages = after;
        let masked = direction == Direction::Sent;
        let mut frame = vec![0x81, 126 | if masked { 0x80 } else { 0 }];
        frame.extend((message.len() as u16).to_be_bytes());
        frame.extend(masked.then_some([0; 4]).iter().flatten());
        frame.extend(message);
        moves(direction, &frame, 0);
    }
    connection.close(Timestamp(1), End::Cut, &mut take);
    calls
}
