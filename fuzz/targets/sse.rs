//! Any bytes as an event stream: however they are cut, the events are the same, and little is held.
#![no_main]

use agentsight_genai::sse::Parser;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&size, stream)) = input.split_first() else { return };
    for limit in [64, 1 << 20] {
        let whole = parse(stream, limit, stream.len().max(1));
        let cut = parse(stream, limit, usize::from(size).max(1));
        // Whether an event is oversized may depend on where it is cut, by the line ends that are not counted.
        if limit > stream.len() {
            assert_eq!(whole, cut);
        }
    }
});

fn parse(stream: &[u8], limit: usize, size: usize) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let mut parser = Parser::new(limit);
    let mut events = Vec::new();
    for piece in stream.chunks(size) {
        parser.push(piece, &mut |event| {
            assert!(event.data.len() <= limit && event.name.len() <= limit.max(7));
            events.push((event.name.to_vec(), event.data.to_vec(), event.id.to_vec()));
        });
        assert!(parser.memory() <= 4 * limit + (256 << 10));
    }
    events
}
