//! What a program has sealed and not written yet.
//!
//! rustls' libraries overwrite what they seal, and know no connection: so plaintext comes here first, and goes on when the
//! write that follows on its thread has told where it belongs. That takes microseconds; what is never written, for which
//! nobody comes, makes room for others.

use crate::capture::events::{BatchId, ProcessId};
use std::collections::HashMap;

/// Bytes that are held at the most: rustls writes after 64 KiB of one connection at the latest.
const MOST_BYTES: usize = 16 << 20;

/// Plaintext of batches, by the thread that sealed it.
#[derive(Default)]
pub struct Held {
    threads: HashMap<(ProcessId, u32), Batch>,
    bytes: usize,
}

struct Batch {
    begun: u64,
    pieces: Vec<Piece>,
    bytes: usize,
}

/// Bytes of a batch.
#[derive(PartialEq, Eq, Debug)]
pub struct Piece {
    /// When they were sealed, CLOCK_MONOTONIC, ns.
    pub time: u64,
    /// Of the first byte, in its batch.
    pub offset: u64,
    /// The bytes.
    pub data: Vec<u8>,
}

impl Held {
    /// Holds some bytes. What its thread sealed before, in another batch, was never written: it is given up.
    pub fn hold(&mut self, batch: BatchId, time: u64, offset: u64, data: &[u8]) {
        let thread = (batch.process, batch.thread);
        if self.threads.get(&thread).is_some_and(|known| known.begun != batch.begun) {
            self.forget(thread);
        }
        // The room of small pieces counts, too.
        let size = data.len() + size_of::<Piece>();
        while self.bytes + size > MOST_BYTES {
            let Some((oldest, _)) = self.threads.iter().min_by_key(|(_, batch)| batch.begun) else { return };
            self.forget(*oldest);
        }
        let known = self.threads.entry(thread).or_insert_with(|| Batch {
            begun: batch.begun,
            pieces: Vec::new(),
            bytes: 0,
        });
        known.pieces.push(Piece { time, offset, data: data.to_vec() });
        known.bytes += size;
        self.bytes += size;
    }

    /// The bytes of a batch, in their order. Those that are missing are a gap in its offsets.
    pub fn take(&mut self, batch: BatchId) -> Vec<Piece> {
        let known = self.forget((batch.process, batch.thread));
        known.filter(|known| known.begun == batch.begun).map(|known| known.pieces).unwrap_or_default()
    }

    /// A process is gone, and its threads with it.
    pub fn ended(&mut self, process: ProcessId) {
        let threads: Vec<_> = self.threads.keys().filter(|thread| thread.0 == process).copied().collect();
        for thread in threads {
            self.forget(thread);
        }
    }

    fn forget(&mut self, thread: (ProcessId, u32)) -> Option<Batch> {
        let known = self.threads.remove(&thread)?;
        self.bytes -= known.bytes;
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(thread: u32, begun: u64) -> BatchId {
        BatchId { process: ProcessId { tgid: 7, started: 1 }, thread, begun }
    }

    #[test]
    fn a_batch_is_given_once_and_only_to_who_names_it() {
        let mut held = Held::default();
        held.hold(batch(1, 5), 5, 0, b"ab");
        held.hold(batch(2, 6), 6, 0, b"x");
        held.hold(batch(1, 5), 7, 2, b"c");
        let pieces = held.take(batch(1, 5));
        assert_eq!(
            pieces.iter().map(|piece| (piece.offset, &piece.data[..])).collect::<Vec<_>>(),
            [(0, &b"ab"[..]), (2, b"c")]
        );
        assert_eq!(held.take(batch(1, 5)), []);
        assert_eq!(held.take(batch(2, 9)), [], "another batch of that thread: this one was not written");
        assert_eq!((held.threads.len(), held.bytes), (0, 0));
    }

    #[test]
    fn a_batch_that_another_follows_was_not_written() {
        let mut held = Held::default();
        held.hold(batch(1, 5), 5, 0, b"ab");
        held.hold(batch(1, 8), 8, 0, b"c");
        assert_eq!(held.take(batch(1, 8)).len(), 1);
        assert_eq!(held.bytes, 0);
    }

    #[test]
    fn what_nobody_asks_for_makes_room() {
        let mut held = Held::default();
        let record = vec![0; 16 << 10];
        for thread in 0..2000 {
            held.hold(batch(thread, u64::from(thread) + 1), 1, 0, &record);
            assert!(held.bytes <= MOST_BYTES);
        }
        assert_eq!(held.take(batch(0, 1)), [], "the oldest was given up");
        assert_eq!(held.take(batch(1999, 2000)).len(), 1);
        held.ended(ProcessId { tgid: 7, started: 1 });
        assert_eq!((held.threads.len(), held.bytes), (0, 0));
    }
}
