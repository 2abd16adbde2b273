//! One direction of one connection, put back in order from what capture delivered.
//!
//! Capture gives the chunks of a direction in order; some may be missing, rarely one comes twice. Nothing is
//! held back to wait for a missing chunk: what capture has dropped never comes later.

use std::ops::Range;

/// Where a direction has got to, in bytes since the connection was first seen.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// The offset of the next byte.
    next: u64,
}

/// What a chunk adds to its direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrival<'a> {
    /// The bytes that come next.
    InOrder(&'a [u8]),
    /// Plaintext bytes that moved and were not captured; what comes after them follows.
    Gap {
        /// Their offsets.
        missing: Range<u64>,
    },
    /// Nothing: all of it was here before.
    Repeat,
}

impl Stream {
    /// Takes the chunk whose first byte has `offset`. Gives at most a gap and then bytes; overlap is trimmed.
    pub fn arrive<'a>(&mut self, offset: u64, data: &'a [u8]) -> impl Iterator<Item = Arrival<'a>> + use<'a> {
        let gap = self.skip(offset);
        // More than fits is more than any chunk holds: all of it was here before.
        let known = usize::try_from(self.next - offset).unwrap_or(usize::MAX);
        let arrival = match data.get(known..) {
            Some(fresh) if !fresh.is_empty() => {
                self.next = self.next.saturating_add(fresh.len() as u64);
                Some(Arrival::InOrder(fresh))
            }
            _ if data.is_empty() => None,
            _ => Some(Arrival::Repeat),
        };
        gap.into_iter().chain(arrival)
    }

    /// Everything before `offset` has moved, captured or not. Gives the gap where there is one.
    pub fn skip(&mut self, offset: u64) -> Option<Arrival<'static>> {
        let missing = self.next..offset;
        self.next = self.next.max(offset);
        (!missing.is_empty()).then_some(Arrival::Gap { missing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals<'a>(stream: &mut Stream, offset: u64, data: &'a str) -> Vec<Arrival<'a>> {
        stream.arrive(offset, data.as_bytes()).collect()
    }

    #[test]
    fn chunks_in_order_are_handed_on_as_they_are() {
        let mut stream = Stream::default();
        assert_eq!(arrivals(&mut stream, 0, "abc"), [Arrival::InOrder(b"abc")]);
        assert_eq!(arrivals(&mut stream, 3, "de"), [Arrival::InOrder(b"de")]);
        assert_eq!(arrivals(&mut stream, 5, ""), []);
    }

    #[test]
    fn a_missing_chunk_is_a_gap_before_the_next() {
        let mut stream = Stream::default();
        arrivals(&mut stream, 0, "abc");
        assert_eq!(arrivals(&mut stream, 10, "k"), [Arrival::Gap { missing: 3..10 }, Arrival::InOrder(b"k")]);
        assert_eq!(arrivals(&mut stream, 11, "l"), [Arrival::InOrder(b"l")]);
    }

    #[test]
    fn bytes_missing_at_the_start_are_a_gap_too() {
        assert_eq!(
            arrivals(&mut Stream::default(), 2, "c"),
            [Arrival::Gap { missing: 0..2 }, Arrival::InOrder(b"c")]
        );
    }

    #[test]
    fn an_overlap_is_trimmed_and_a_repeat_is_named() {
        let mut stream = Stream::default();
        arrivals(&mut stream, 0, "abcd");
        assert_eq!(arrivals(&mut stream, 2, "cdef"), [Arrival::InOrder(b"ef")]);
        assert_eq!(arrivals(&mut stream, 0, "abcdef"), [Arrival::Repeat]);
        assert_eq!(arrivals(&mut stream, 6, "g"), [Arrival::InOrder(b"g")]);
    }

    #[test]
    fn a_loss_told_at_the_end_of_a_call_is_a_gap_once() {
        let mut stream = Stream::default();
        arrivals(&mut stream, 0, "abc");
        assert_eq!(stream.skip(8), Some(Arrival::Gap { missing: 3..8 }));
        assert_eq!(stream.skip(8), None);
        assert_eq!(arrivals(&mut stream, 8, "i"), [Arrival::InOrder(b"i")]);
    }

    #[test]
    fn offsets_at_the_end_of_their_range_do_no_harm() {
        let mut stream = Stream::default();
        arrivals(&mut stream, u64::MAX - 1, "abc");
        assert_eq!(arrivals(&mut stream, 0, "abc"), [Arrival::Repeat]);
        assert_eq!(arrivals(&mut stream, u64::MAX, "abc"), [Arrival::InOrder(b"abc")]);
    }
}
