//! What holds for any traffic, however it is cut and whatever of it is missing.

use std::io::Write;

use agentsight_genai::connection::{Limits, Protocol};
use agentsight_genai::http::{Direction, End};
use agentsight_genai::time::Timestamp;
use proptest::prelude::*;

use crate::recorder::{Seen, Wire};

/// One exchange of the traffic; its number is in everything that it moves.
#[derive(Clone, Debug)]
struct Traffic {
    request: Body,
    response: Body,
    is_head: bool,
    interim: bool,
}

#[derive(Clone, Debug)]
struct Body {
    words: usize,
    framing: Framing,
    coding: &'static str,
}

#[derive(Clone, Debug)]
enum Framing {
    Length,
    /// Bytes in a chunk.
    Chunked(usize),
}

impl Body {
    fn content(&self, number: usize, word: &str) -> Vec<u8> {
        format!("{word} {number}; ").repeat(self.words).into_bytes()
    }

    /// Header fields and framed bytes.
    fn message(&self, content: &[u8]) -> Vec<u8> {
        let coded = match self.coding {
            "gzip" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            "zstd" => zstd::bulk::compress(content, 1).unwrap(),
            _ => content.to_vec(),
        };
        let mut message = format!("Content-Encoding: {}\r\n", self.coding).into_bytes();
        match self.framing {
            Framing::Length => {
                write!(message, "Content-Length: {}\r\n\r\n", coded.len()).unwrap();
                message.extend(coded);
            }
            Framing::Chunked(size) => {
                message.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in coded.chunks(size) {
                    write!(message, "{:x}\r\n", chunk.len()).unwrap();
                    message.extend([chunk, b"\r\n"].concat());
                }
                message.extend(b"0\r\n\r\n");
            }
        }
        message
    }
}

impl Traffic {
    fn asked(&self, number: usize) -> Vec<u8> {
        self.request.content(number, "ask")
    }

    fn answered(&self, number: usize) -> Vec<u8> {
        if self.is_head { Vec::new() } else { self.response.content(number, "answer") }
    }

    fn request_bytes(&self, number: usize) -> Vec<u8> {
        let method = if self.is_head { "HEAD" } else { "POST" };
        let head = format!("{method} /{number} HTTP/1.1\r\nHost: h\r\n");
        [head.as_bytes(), &self.request.message(&self.asked(number))].concat()
    }

    fn response_bytes(&self, number: usize) -> Vec<u8> {
        let interim = if self.interim { "HTTP/1.1 100 Continue\r\n\r\n" } else { "" };
        let head = format!("{interim}HTTP/1.1 200 OK\r\nX-Number: {number}\r\n");
        let mut message = self.response.message(&self.response.content(number, "answer"));
        if self.is_head {
            let end = message.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
            message.truncate(end + 4);
        }
        [head.as_bytes(), &message].concat()
    }
}

fn body() -> impl Strategy<Value = Body> {
    let framing = prop_oneof![Just(Framing::Length), (1usize..200).prop_map(Framing::Chunked)];
    let coding = prop::sample::select(vec!["identity", "gzip", "zstd"]);
    (0usize..60, framing, coding).prop_map(|(words, framing, coding)| Body { words, framing, coding })
}

fn traffic() -> impl Strategy<Value = Vec<Traffic>> {
    let one = (body(), body(), prop::bool::weighted(0.1), prop::bool::weighted(0.2))
        .prop_map(|(request, response, is_head, interim)| Traffic { request, response, is_head, interim });
    prop::collection::vec(one, 1..8)
}

/// The calls of a client that sends so many requests at once and then reads their responses.
fn calls(traffic: &[Traffic], batch: usize) -> Vec<(Direction, Vec<u8>)> {
    let numbered: Vec<_> = traffic.iter().enumerate().collect();
    let together = |bytes: &dyn Fn(usize, &Traffic) -> Vec<u8>, some: &[(usize, &Traffic)]| {
        some.iter().flat_map(|(number, one)| bytes(*number, one)).collect::<Vec<_>>()
    };
    numbered
        .chunks(batch)
        .flat_map(|some| {
            [
                (Direction::Sent, together(&|n, one| one.request_bytes(n), some)),
                (Direction::Received, together(&|n, one| one.response_bytes(n), some)),
            ]
        })
        .collect()
}

fn pieces<'a>(data: &'a [u8], cuts: &mut dyn Iterator<Item = usize>) -> Vec<&'a [u8]> {
    let (mut rest, mut pieces) = (data, Vec::new());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(cuts.next().unwrap_or(rest.len())));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

fn without_times(mut seen: Vec<Seen>) -> Vec<Seen> {
    for one in &mut seen {
        (one.request.at, one.response_at, one.ended_at) = Default::default();
    }
    seen
}

/// No exchange has bytes of another, and none claims to be whole that is not.
fn check(traffic: &[Traffic], seen: &[Seen]) -> Result<(), TestCaseError> {
    for one in seen {
        let number = one.request.path[1..].parse::<usize>().unwrap();
        if let Some(response) = &one.response {
            prop_assert_eq!(response.headers.get("x-number").unwrap().parse::<usize>().unwrap(), number);
        }
        let (asked, answered) = (traffic[number].asked(number), traffic[number].answered(number));
        prop_assert!(asked.starts_with(&one.request_body), "{number}: {:?}", one.asked());
        prop_assert!(answered.starts_with(&one.response_body), "{number}: {:?}", one.answered());
        if !one.lost.contains(&Direction::Sent) && one.request_ended {
            prop_assert_eq!(asked.len(), one.request_body.len());
        }
        if !one.lost.contains(&Direction::Received) && one.end == End::Complete {
            prop_assert_eq!(answered.len(), one.response_body.len());
        }
    }
    Ok(())
}

/// What happens to a captured piece.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Arrives,
    IsDropped,
    /// Only so many of its bytes are kept, and capture says how many are not.
    IsCut(usize),
    ArrivesTwice,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        12 => Just(Fate::Arrives),
        2 => Just(Fate::IsDropped),
        1 => (0usize..50).prop_map(Fate::IsCut),
        1 => Just(Fate::ArrivesTwice),
    ];
    prop::collection::vec(fate, 20..60)
}

fn run(wire: &mut Wire, calls: &[(Direction, Vec<u8>)], sizes: &[usize], fates: &[Fate], split_sent: bool) {
    let (mut sizes, mut fates) = (sizes.iter().copied().cycle(), fates.iter().cycle());
    for (direction, data) in calls {
        let whole = *direction == Direction::Sent && !split_sent;
        let pieces = if whole { vec![&data[..]] } else { pieces(data, &mut sizes) };
        for piece in pieces {
            match *fates.next().unwrap() {
                Fate::Arrives => wire.moves(*direction, piece, 0),
                Fate::IsDropped => wire.misses(*direction, piece),
                Fate::IsCut(kept) => {
                    let (kept, lost) = piece.split_at(kept.min(piece.len()));
                    wire.moves(*direction, kept, lost.len() as u64)
                }
                Fate::ArrivesTwice => wire.moves(*direction, piece, 0).repeats(*direction, piece),
            };
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_split_of_the_same_bytes_gives_the_same_exchanges(
        traffic in traffic(),
        batch in 1usize..4,
        sizes in prop::collection::vec(1usize..300, 1..40),
    ) {
        let calls = calls(&traffic, batch);
        let mut whole = Wire::new();
        run(&mut whole, &calls, &[usize::MAX], &[Fate::Arrives], true);
        prop_assert_eq!(whole.seen().len(), traffic.len());
        check(&traffic, whole.seen())?;
        let mut cut = Wire::new();
        run(&mut cut, &calls, &sizes, &[Fate::Arrives], true);
        prop_assert_eq!(without_times(cut.close(End::Cut)), without_times(whole.close(End::Cut)));
    }

    #[test]
    fn a_loss_never_pairs_or_completes_wrongly(
        traffic in traffic(),
        sizes in prop::collection::vec(1usize..400, 1..40),
        fates in fates(),
        from_start in any::<bool>(),
        end in prop::sample::select(vec![End::Cut, End::Cancelled, End::Unknown]),
    ) {
        let mut wire = Wire::with(Limits::default(), from_start);
        run(&mut wire, &calls(&traffic, 1), &sizes, &fates, true);
        check(&traffic, &wire.close(end))?;
    }

    #[test]
    fn a_loss_among_pipelined_requests_never_pairs_wrongly(
        traffic in traffic(),
        batch in 2usize..4,
        sizes in prop::collection::vec(1usize..400, 1..40),
        fates in fates(),
    ) {
        // A call is captured as one chunk unless it is large: that the requests are in one tells that they are
        // pipelined.
        let mut wire = Wire::new();
        run(&mut wire, &calls(&traffic, batch), &sizes, &fates, false);
        check(&traffic, &wire.close(End::Unknown))?;
    }

    #[test]
    fn after_a_loss_the_next_exchange_but_one_is_read_again(
        traffic in traffic(),
        sizes in prop::collection::vec(1usize..400, 1..40),
        fates in fates(),
    ) {
        let mut wire = Wire::new();
        run(&mut wire, &calls(&traffic, 1), &sizes, &fates, true);
        let count = wire.seen().len();
        let more = [traffic.clone(), vec![traffic[0].clone(), traffic[0].clone()]].concat();
        let calls = calls(&more, 1);
        let last = &calls[traffic.len() * 2..];
        // What was dropped at the end is found missing with the first of these, and it is given up.
        run(&mut wire, last, &[usize::MAX], &[Fate::Arrives], true);
        prop_assert_eq!(wire.protocol(), Protocol::Http1);
        let seen = &wire.seen()[count..];
        let number = more.len() - 1;
        prop_assert_eq!(&seen.last().unwrap().request.path, &format!("/{number}"));
        prop_assert_eq!(&seen.last().unwrap().response_body, &more[number].answered(number));
        prop_assert_eq!(seen.last().unwrap().end, End::Complete);
    }

    #[test]
    fn any_bytes_are_survived_in_bounded_memory(
        script in prop::collection::vec((any::<bool>(), any::<u8>(), prop::collection::vec(token(), 0..20)), 0..20),
        from_start in any::<bool>(),
    ) {
        let mut wire = Wire::with(Limits { head: 1000, ..Limits::default() }, from_start);
        for (sent, missing, tokens) in script {
            let direction = if sent { Direction::Sent } else { Direction::Received };
            let missing = if missing < 32 { u64::from(missing) } else { 0 };
            wire.moves(direction, &tokens.concat(), missing);
            prop_assert!(wire.memory() < 300 << 10);
        }
        let seen = wire.close(End::Unknown);
        prop_assert!(seen.iter().all(|one| one.ended_at >= Timestamp(1)));
    }
}

fn token() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(&b"POST /a HTTP/1.1\r\n"[..]),
        Just(&b"HEAD /a HTTP/1.1\r\n"[..]),
        Just(&b"CONNECT a HTTP/1.1\r\n"[..]),
        Just(&b"HTTP/1.1 200 OK\r\n"[..]),
        Just(&b"HTTP/1.1 100 C\r\n"[..]),
        Just(&b"HTTP/1.0 204 N\n"[..]),
        Just(&b"Content-Length: 3\r\n"[..]),
        Just(&b"Content-Encoding: gzip\r\n"[..]),
        Just(&b"Transfer-Encoding: chunked\r\n"[..]),
        Just(&b"Expect: 100-continue\r\n"[..]),
        Just(&b"\r\n"[..]),
        Just(&b"3\r\n"[..]),
        Just(&b"abc"[..]),
        Just(&b"0\r\n\r\n"[..]),
        Just(&b"\x1f\x8b\x08\0\0\0\0\0\0\0"[..]),
    ]
    .prop_map(<[u8]>::to_vec)
    .boxed()
    .prop_union(prop::collection::vec(any::<u8>(), 0..6).boxed())
}
