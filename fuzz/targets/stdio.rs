//! Any bytes as what a client and a server of MCP say over pipes; the first byte of each piece tells who says it, and how much.
#![no_main]

use agentsight_genai::connection::Chunk;
use agentsight_genai::http::{Direction, End};
use agentsight_genai::providers::Settings;
use agentsight_genai::stdio::Dialogue;
use agentsight_genai::time::Timestamp;
use std::sync::Arc;

/// What was told, however long the pieces are in which it moves.
fn told(input: &[u8], largest: usize) -> Vec<String> {
    let mut dialogue = Dialogue::new(Arc::new(Settings { content: true, ..Settings::default() }));
    let mut told = Vec::new();
    let mut offsets = [0, 0];
    let mut rest = input;
    while let Some((head, after)) = rest.split_first() {
        let sent = head & 1 == 1;
        let (said, after) = after.split_at(usize::from(head >> 1).min(after.len()));
        rest = after;
        let direction = if sent { Direction::Sent } else { Direction::Received };
        let offset = &mut offsets[usize::from(sent)];
        // One length in 128 stands for bytes that are missing.
        if head >> 1 == 0 {
            *offset += 1;
        }
        for data in said.chunks(largest) {
            let chunk = Chunk { direction, at: Timestamp(1), offset: *offset, data, lost_after: 0 };
            *offset += data.len() as u64;
            dialogue.chunk(chunk, &mut |call| told.push(format!("{call:?}")));
        }
    }
    dialogue.close(Timestamp(2), End::Cut, &mut |call| told.push(format!("{call:?}")));
    told
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    assert_eq!(told(input, 1), told(input, usize::MAX));
});
