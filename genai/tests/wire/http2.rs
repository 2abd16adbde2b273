//! HTTP/2: conversations of the h2 crate, and rules that it does not exercise, one a test.

use std::collections::BTreeMap;

use agentsight_genai::connection::Protocol;
use agentsight_genai::http::{Direction, End};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::conversation::{self, Meant, Moved};
use crate::recorder::{Seen, Wire};

/// `AGENTSIGHT_CONVERSATIONS` asks for more than those that every run has time for.
fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("AGENTSIGHT_CONVERSATIONS").map_or(1000, |count| count.parse().unwrap())
}

fn by_path(seen: Vec<Seen>) -> BTreeMap<String, Seen> {
    let count = seen.len();
    let by_path: BTreeMap<_, _> = seen.into_iter().map(|seen| (seen.request.path.clone(), seen)).collect();
    assert_eq!(by_path.len(), count, "one exchange a stream");
    by_path
}

fn played(moved: &Moved) -> BTreeMap<String, Seen> {
    let mut wire = Wire::new();
    for (direction, bytes) in moved {
        wire.moves(*direction, bytes, 0);
    }
    let counters = wire.counters();
    assert_eq!((counters.losses, counters.malformed, counters.undecodable), (0, 0, 0), "{counters:?}");
    assert_eq!(wire.protocol(), Protocol::Http2);
    by_path(wire.close(End::Cut))
}

/// The same bytes with every boundary moved.
fn recut(moved: &Moved, random: &mut StdRng) -> Moved {
    let mut cut = Moved::new();
    for (direction, bytes) in moved {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = if random.random_bool(0.2) { 3 } else { rest.len() };
            let (part, after) = rest.split_at(random.random_range(1..=most.min(rest.len())));
            rest = after;
            match cut.last_mut() {
                // Pieces of one direction may also be joined.
                Some((last, joined)) if last == direction && random.random_bool(0.3) => joined.extend(part),
                _ => cut.push((*direction, part.to_vec())),
            }
        }
    }
    cut
}

fn headers_of(headers: &agentsight_genai::http::Headers, meant: &[(String, String)]) {
    for (name, value) in meant {
        assert!(headers.all(name).any(|own| own == value.trim()), "{name}: {value}");
    }
    assert!(headers.get("authorization").is_none());
}

fn is_what_was_meant(path: &str, seen: &Seen, meant: &Meant) {
    assert_eq!(seen.request.authority.as_deref(), Some("model.example:8443"), "{path}");
    headers_of(&seen.request.headers, &meant.request_headers);
    assert!(seen.request_body == meant.request, "{path}: request of {}", meant.request.len());
    assert!(seen.request_ended && seen.lost.is_empty(), "{path}: {:?}", seen.lost);
    let Some(response) = &seen.response else {
        assert!(meant.reset, "{path} has no response");
        return;
    };
    assert_eq!(response.status, meant.status, "{path}");
    headers_of(&response.headers, &meant.response_headers);
    if meant.reset {
        assert_eq!(seen.end, End::Cut, "{path}");
    } else {
        assert_eq!(seen.end, End::Complete, "{path}");
        assert!(seen.response_body == meant.response, "{path}: response of {}", meant.response.len());
    }
}

#[test]
fn conversations_of_a_well_known_client_and_server_are_read_as_they_were_meant() {
    let mut held = 0;
    for seed in seeds() {
        let Some((moved, meant)) = conversation::hold(seed) else { continue };
        held += 1;
        let seen = played(&moved);
        assert_eq!(seen.keys().collect::<Vec<_>>(), meant.keys().collect::<Vec<_>>());
        for (path, meant) in &meant {
            is_what_was_meant(path, &seen[path], meant);
        }
        let timeless = |seen: BTreeMap<String, Seen>| {
            seen.into_values()
                .map(|seen| {
                    (seen.request.path, seen.request_body, seen.response, seen.response_body, seen.end)
                })
                .collect::<Vec<_>>()
        };
        let recut = played(&recut(&moved, &mut StdRng::seed_from_u64(seed)));
        assert!(timeless(recut) == timeless(seen), "conversation {seed} depends on how it is cut");
    }
    assert!(held * 10 > seeds().end * 9, "only {held} conversations went well");
}

#[test]
fn what_is_left_after_losses_is_never_wrong() {
    let (mut resynchronised, mut whole) = (0, 0);
    for seed in seeds() {
        let Some((moved, meant)) = conversation::hold(seed) else { continue };
        let mut random = StdRng::seed_from_u64(seed);
        let mut wire = if random.random_bool(0.5) { Wire::new() } else { Wire::joined() };
        let from = if random.random_bool(0.3) { random.random_range(0..moved.len()) } else { 0 };
        for (at, (direction, bytes)) in moved.iter().enumerate() {
            if at < from || random.random_bool(0.05) {
                wire.misses(*direction, bytes);
            } else if random.random_bool(0.03) {
                let kept = random.random_range(0..bytes.len());
                wire.moves(*direction, &bytes[..kept], (bytes.len() - kept) as u64);
            } else {
                wire.moves(*direction, bytes, 0);
            }
        }
        resynchronised += wire.counters().resynchronisations;
        for (path, seen) in by_path(wire.close(End::Unknown)) {
            let meant = &meant[&path];
            assert!(meant.request.starts_with(&seen.request_body), "{path}");
            assert!(meant.reset || meant.response.starts_with(&seen.response_body), "{path}");
            // A loss at a direction's very end does not show before more of it comes.
            if seen.lost.is_empty() && seen.request_ended && seen.end == End::Complete {
                assert!(meant.request == seen.request_body, "{path}: request");
                assert!(meant.response == seen.response_body, "{path}: {:?}", seen.response);
                whole += 1;
            }
        }
    }
    assert!(resynchronised > 20 && whole > 20, "{resynchronised} found again, {whole} whole");
}

mod frames {
    use super::*;

    pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// Literals that no table keeps.
    pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                assert!(text.len() < 127);
                block.push(text.len() as u8);
                block.extend(text.as_bytes());
            }
        }
        block
    }

    pub(super) fn request(path: &str) -> Vec<u8> {
        block(&[(":method", "POST"), (":scheme", "https"), (":authority", "h"), (":path", path)])
    }

    pub(super) fn open() -> Wire {
        let mut wire = Wire::new();
        wire.sends(PREFACE).sends(frame(4, 0, 0, &[])).gets(frame(4, 0, 0, &[])).sends(frame(4, 1, 0, &[]));
        wire
    }

    fn ok() -> Vec<u8> {
        block(&[(":status", "200")])
    }

    #[test]
    fn padding_priority_and_continuations_are_undone() {
        let mut wire = open();
        let head = request("/a");
        let (first, rest) = head.split_at(5);
        // Padded, with priority.
        let padded = [&[3, 0, 0, 0, 0, 9][..], first, &[0; 3]].concat();
        wire.sends(frame(1, 0x28, 1, &padded)).sends(frame(9, 0, 1, &rest[..7])).sends(frame(
            9,
            4,
            1,
            &rest[7..],
        ));
        wire.sends(frame(0, 9, 1, b"\x02ask\0\0"));
        wire.gets(frame(1, 4, 1, &ok())).gets(frame(0, 8, 1, b"\x00ans")).gets(frame(
            0,
            9,
            1,
            b"\x04wer\0\0\0\0",
        ));
        let seen = wire.seen()[0].clone();
        assert_eq!((seen.asked(), seen.answered(), seen.end), ("ask", "answer", End::Complete));
    }

    #[test]
    fn interim_responses_trailers_and_pushes_are_passed_over() {
        let mut wire = open();
        wire.sends(frame(1, 5, 1, &request("/a")));
        wire.gets(frame(1, 4, 1, &block(&[(":status", "103"), ("link", "x")])));
        wire.gets(frame(5, 4, 1, &[&[0, 0, 0, 2][..], &request("/pushed")].concat()));
        wire.gets(frame(1, 4, 2, &ok())).gets(frame(0, 1, 2, b"pushed"));
        wire.gets(frame(1, 4, 1, &ok())).gets(frame(0, 0, 1, b"answer"));
        wire.gets(frame(1, 5, 1, &block(&[("grpc-status", "0")])));
        assert_eq!(wire.seen().len(), 1);
        assert_eq!((wire.seen()[0].status(), wire.seen()[0].answered()), (Some(200), "answer"));
    }

    #[test]
    fn a_reset_tells_who_gave_up() {
        let mut wire = open();
        for id in [1, 3, 5] {
            wire.sends(frame(1, 5, id, &request("/a"))).gets(frame(1, 4, id, &ok()));
        }
        wire.sends(frame(3, 0, 1, &[0, 0, 0, 8])).gets(frame(3, 0, 3, &[0, 0, 0, 2]));
        // All was said: what the client says of the stream then means nothing.
        wire.gets(frame(0, 1, 5, b"x")).sends(frame(3, 0, 5, &[0, 0, 0, 8]));
        let ends: Vec<_> = wire.seen().iter().map(|seen| seen.end).collect();
        assert_eq!(ends, [End::Cancelled, End::Cut, End::Complete]);
    }

    #[test]
    fn what_a_goaway_leaves_out_is_cut_and_the_rest_goes_on() {
        let mut wire = open();
        for id in [1, 3] {
            wire.sends(frame(1, 5, id, &request("/a")));
        }
        wire.gets(frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
        assert_eq!(wire.seen().len(), 1);
        assert_eq!(wire.seen()[0].end, End::Cut);
        wire.gets(frame(1, 5, 1, &ok()));
        assert_eq!(wire.seen()[1].end, End::Complete);
    }

    #[test]
    fn an_answer_before_the_request_is_whole_waits_for_it_or_for_its_reset() {
        let mut wire = open();
        wire.sends(frame(1, 4, 1, &request("/a"))).gets(frame(1, 4, 1, &ok())).gets(frame(0, 1, 1, b"early"));
        assert_eq!(wire.seen(), []);
        wire.sends(frame(0, 1, 1, b"late"));
        assert_eq!((wire.seen()[0].asked(), wire.seen()[0].end), ("late", End::Complete));
    }

    #[test]
    fn the_providers_own_end_ends_the_exchange() {
        let mut wire = open();
        wire.sends(frame(1, 5, 1, &request("/a")))
            .gets(frame(1, 4, 1, &ok()))
            .gets(frame(0, 0, 1, b"x[DONE]"));
        assert_eq!(wire.seen()[0].end, End::Complete);
        wire.gets(frame(0, 1, 1, b"more"));
        assert_eq!(wire.close(End::Cut).len(), 1);
    }

    #[test]
    fn a_loss_within_data_costs_only_that_message() {
        let mut wire = open();
        wire.sends(frame(1, 5, 1, &request("/a"))).sends(frame(1, 5, 3, &request("/b")));
        wire.gets(frame(1, 4, 1, &ok())).gets(frame(1, 4, 3, &ok()));
        let data = frame(0, 1, 1, b"0123456789");
        wire.moves(Direction::Received, &data[..12], 4).gets(&data[16..]).gets(frame(0, 1, 3, b"fine"));
        assert_eq!((wire.counters().gaps, wire.counters().losses), (1, 0));
        let seen = wire.seen();
        assert_eq!((seen[0].answered(), &seen[0].lost[..]), ("012", &[Direction::Received][..]));
        assert_eq!((seen[1].answered(), &seen[1].lost[..]), ("fine", &[][..]));
    }

    #[test]
    fn a_stream_that_may_have_ended_in_a_gap_is_told_as_unknown_and_with_its_last_time() {
        let mut wire = open();
        wire.sends(frame(1, 5, 1, &request("/a"))).gets(frame(1, 4, 1, &ok())).gets(frame(0, 0, 1, b"some"));
        wire.misses(Direction::Received, frame(0, 1, 1, b"rest"));
        wire.sends(frame(1, 5, 3, &request("/b"))).gets(frame(1, 5, 3, &ok()));
        assert_eq!(wire.seen().len(), 1);
        let touched = wire.seen()[0].ended_at.0 - 2;
        let seen = wire.close(End::Cut);
        assert_eq!((seen[1].end, seen[1].answered()), (End::Unknown, "some"));
        assert_eq!(seen[1].ended_at.0, touched);
    }

    #[test]
    fn a_connection_joined_in_its_middle_is_read_from_the_next_frame() {
        let mut wire = Wire::joined();
        wire.sends(b"of a request").gets(b"of an answer");
        wire.sends(frame(1, 5, 7, &request("/a")))
            .gets(frame(1, 4, 7, &ok()))
            .gets(frame(0, 1, 7, b"answer"));
        assert_eq!(wire.protocol(), Protocol::Http2);
        assert_eq!((wire.seen()[0].answered(), wire.seen()[0].end), ("answer", End::Complete));
    }

    #[test]
    fn a_request_whose_path_was_said_before_is_counted_and_not_guessed() {
        let mut wire = Wire::joined();
        // :method POST, and an entry of the dynamic table.
        wire.sends(frame(1, 5, 7, &[0x83, 0xC0])).gets(frame(1, 5, 7, &ok()));
        assert_eq!(wire.counters().unreadable_heads, 1);
        assert_eq!(wire.close(End::Cut), []);
    }

    #[test]
    fn a_server_that_speaks_first_is_understood() {
        let mut wire = Wire::new();
        wire.gets(frame(4, 0, 0, &[0, 3, 0, 0, 0, 100])).sends(&PREFACE[..10]).sends(&PREFACE[10..]);
        wire.sends(frame(1, 5, 1, &request("/a"))).gets(frame(1, 5, 1, &ok()));
        assert_eq!(wire.seen().len(), 1);
    }

    #[test]
    fn a_traced_server_is_left_alone() {
        let mut wire = Wire::new();
        wire.gets(PREFACE);
        assert_eq!(wire.protocol(), Protocol::ServerSide);
    }

    #[test]
    fn a_header_block_without_end_is_bounded() {
        let mut wire = open();
        wire.sends(frame(1, 0, 1, &[0; 1000]));
        for _ in 0..1000 {
            wire.sends(frame(9, 0, 1, &[0; 1000]));
            assert!(wire.memory() < 300 << 10);
        }
    }

    #[test]
    fn more_streams_than_anyone_allows_push_out_the_oldest() {
        let mut wire = open();
        for n in 0..2000 {
            wire.sends(frame(1, 5, 2 * n + 1, &request("/a")));
        }
        assert_eq!(wire.counters().abandoned, 2000 - 256);
        assert!(wire.memory() < 1 << 20);
    }
}
