//! HTTP/1.1 rules, one a test.

use std::io::Write;

use agentsight_genai::connection::{Limits, Protocol};
use agentsight_genai::http::{Direction, End};
use agentsight_genai::time::Timestamp;

use crate::recorder::{Seen, Wire};

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The only exchange of a connection that the peer closed.
fn only(wire: Wire) -> Seen {
    let mut seen = wire.close(End::Cut);
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.remove(0)
}

/// What a response gives whose bytes come in one piece, and byte by byte.
fn response(request: &str, response: impl AsRef<[u8]>, end: End) -> Seen {
    let response = response.as_ref();
    let (mut whole, mut bytes) = (Wire::new(), Wire::new());
    whole.sends(request).gets(response);
    bytes.sends(request);
    for byte in response.chunks(1) {
        bytes.gets(byte);
    }
    let (mut whole, bytes) = (whole.close(end), bytes.close(end));
    assert_eq!(whole.len(), 1, "{whole:?}");
    assert_eq!((&whole[0].response, whole[0].answered()), (&bytes[0].response, bytes[0].answered()));
    assert_eq!((whole[0].end, &whole[0].lost), (bytes[0].end, &bytes[0].lost));
    whole.remove(0)
}

mod heads {
    use super::*;

    #[test]
    fn a_request_and_its_response_are_handed_on_with_their_times() {
        let mut wire = Wire::new();
        wire.sends("POST /v1/chat?key=1 HTTP/1.1\r\nHost: Api.Example:8443\r\nX-A: b\r\nContent-Le");
        wire.sends("ngth: 5\r\n\r\nhello")
            .gets("HTTP/1.1 20")
            .gets("1 Created\r\nContent-Length: 3\r\n\r\nab");
        assert_eq!(wire.seen(), []);
        wire.gets("c");
        let seen = wire.seen()[0].clone();
        assert_eq!((seen.request.method.as_str(), seen.request.path.as_str()), ("POST", "/v1/chat"));
        assert_eq!(seen.request.authority.as_deref(), Some("api.example:8443"));
        assert_eq!(seen.request.headers.get("x-a"), Some("b"));
        assert_eq!((seen.asked(), seen.request_ended), ("hello", true));
        assert_eq!((seen.status(), seen.answered()), (Some(201), "abc"));
        assert_eq!(
            (seen.request.at, seen.response_at, seen.ended_at),
            (Timestamp(1), Timestamp(4), Timestamp(5))
        );
        assert_eq!((seen.end, seen.lost), (End::Complete, vec![]));
        assert_eq!(wire.protocol(), Protocol::Http1);
    }

    #[test]
    fn bare_line_feeds_folded_lines_and_leading_empty_lines_are_read() {
        let mut wire = Wire::new();
        wire.sends("\r\n\nPOST / HTTP/1.1\nHost: h\nX-Long: one\n\ttwo\r\n three\nContent-Length: 1\n\nx");
        wire.gets("HTTP/1.1 200\nX-B: 1\n 2\nContent-Length: 2\n\nok");
        let seen = only(wire);
        assert_eq!(seen.request.headers.get("x-long").unwrap().split_whitespace().count(), 3);
        assert_eq!((seen.asked(), seen.answered()), ("x", "ok"));
    }

    #[test]
    fn an_absolute_target_names_the_authority_without_its_credentials() {
        let mut wire = Wire::new();
        wire.sends("GET https://user:secret@Model.local:1/v1/models?x HTTP/1.1\r\nHost: other\r\n\r\n")
            .gets(OK);
        let seen = only(wire);
        assert_eq!(seen.request.authority.as_deref(), Some("model.local:1"));
        assert_eq!(seen.request.path, "/v1/models");
    }

    #[test]
    fn a_target_without_path_has_the_root() {
        for (target, path) in
            [("http://h", "/"), ("http://h?q", "/"), ("*", "*"), ("/?q=a://b", "/"), ("/a#f", "/a")]
        {
            let mut wire = Wire::new();
            wire.sends(format!("OPTIONS {target} HTTP/1.1\r\nHost: h\r\n\r\n")).gets(OK);
            assert_eq!(only(wire).request.path, path, "{target}");
        }
    }

    #[test]
    fn credentials_never_get_into_the_headers() {
        let mut wire = Wire::new();
        wire.sends("GET / HTTP/1.1\r\nAuthorization: Bearer x\r\nCookie: y\r\nHost: h\r\n");
        wire.sends("Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.Bearer\r\n\r\n").gets(OK);
        assert!(!format!("{:?}", only(wire)).contains("Bearer"));
    }

    #[test]
    fn a_head_over_the_limit_ends_that_connection() {
        let mut wire = Wire::new();
        wire.sends("GET /a HTTP/1.1\r\n");
        for _ in 0..3000 {
            wire.sends("X-Filler: 0123456789012345678901234567890123456789\r\n");
            assert!(wire.memory() < 200 << 10);
        }
        assert_eq!(wire.protocol(), Protocol::Unknown);
    }

    #[test]
    fn hundreds_of_fields_are_read_and_thousands_are_not() {
        for (fields, expected) in [(400, Protocol::Http1), (4000, Protocol::Unknown)] {
            let mut wire = Wire::new();
            wire.sends(format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(fields)));
            assert_eq!(wire.protocol(), expected);
        }
    }
}

mod framing {
    use super::*;

    #[test]
    fn chunks_have_extensions_and_trailers_that_are_no_content() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       5;name=\"v\"\r\nhello\r\n006 \r\n world\r\n0;last\r\nX-Trailer: 1\r\nX-Two: 2\r\n\r\n";
        let seen = response(GET, chunked, End::Unknown);
        assert_eq!((seen.answered(), seen.end), ("hello world", End::Complete));
    }

    #[test]
    fn chunks_ended_by_bare_line_feeds_are_read() {
        let seen = response(GET, "HTTP/1.1 200 OK\nTransfer-Encoding: Chunked\n\n2\nok\n0\n\n", End::Cut);
        assert_eq!((seen.answered(), seen.end), ("ok", End::Complete));
    }

    #[test]
    fn a_chunked_body_with_a_length_too_is_chunked() {
        let both =
            "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        assert_eq!(response(GET, both, End::Cut).end, End::Complete);
    }

    #[test]
    fn a_chunk_size_that_is_none_is_a_loss() {
        for size in ["", "g", "-1", "0x2", "11111111111111111", " 2"] {
            let wrong =
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\nok\r\n0\r\n\r\n");
            let seen = response(GET, wrong, End::Cut);
            assert_eq!((seen.end, seen.lost), (End::Unknown, vec![Direction::Received]), "{size:?}");
        }
    }

    #[test]
    fn endless_extensions_and_trailers_are_a_loss() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for tail in [format!("2;{}", "x".repeat(5000)), format!("0\r\n{}", "a: b\r\n".repeat(20_000))] {
            assert_eq!(response(GET, format!("{head}{tail}"), End::Cut).end, End::Unknown);
        }
    }

    #[test]
    fn the_same_length_twice_is_one_and_different_ones_are_a_loss() {
        for (fields, end) in [
            ("Content-Length: 2\r\nContent-Length: 2", End::Complete),
            ("Content-Length: 2, 2", End::Complete),
            ("Content-Length: 2\r\nContent-Length: 3", End::Unknown),
            ("Content-Length: 2, 3", End::Unknown),
            ("Content-Length: +2", End::Unknown),
            ("Content-Length:", End::Unknown),
            ("Content-Length: 18446744073709551616", End::Unknown),
        ] {
            let seen = response(GET, format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nok"), End::Cut);
            assert_eq!(seen.end, end, "{fields}");
        }
    }

    #[test]
    fn a_body_without_framing_lasts_until_the_peer_closes() {
        let endless = "HTTP/1.0 200 OK\r\n\r\nall of it";
        for (end, expected) in
            [(End::Cut, End::Complete), (End::Unknown, End::Complete), (End::Cancelled, End::Cancelled)]
        {
            let seen = response(GET, endless, end);
            assert_eq!((seen.answered(), seen.end), ("all of it", expected));
        }
    }

    #[test]
    fn a_framed_body_that_the_close_cuts_is_cut() {
        for framing in ["Content-Length: 9", "Transfer-Encoding: chunked"] {
            let cut = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n9\r\n");
            assert_eq!(response(GET, &cut, End::Cut).end, End::Cut);
            assert_eq!(response(GET, &cut, End::Cancelled).end, End::Cancelled);
        }
    }

    #[test]
    fn a_response_cut_in_its_head_is_seen_as_incomplete() {
        let seen = response(GET, "HTTP/1.1 200 OK\r\nContent-", End::Cut);
        assert_eq!((seen.response, seen.end), (None, End::Cut));
    }

    #[test]
    fn responses_that_have_no_body_end_with_their_head() {
        let head = GET.replace("GET", "HEAD");
        for (request, status, fields) in [
            (head.as_str(), "200 OK", "Content-Length: 5\r\nContent-Encoding: gzip"),
            (GET, "204 No Content", "Content-Length: 5"),
            (GET, "304 Not Modified", "Transfer-Encoding: chunked"),
        ] {
            let mut wire = Wire::new();
            wire.sends(request).gets(format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n"));
            assert_eq!((wire.seen().len(), wire.seen()[0].end), (1, End::Complete), "{status}");
            wire.sends(GET).gets(OK);
            assert_eq!(wire.seen()[1].answered(), "ok");
            assert_eq!(wire.seen()[0].lost, []);
        }
    }

    #[test]
    fn interim_responses_come_before_the_final_one() {
        let interim = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{OK}");
        let seen = response(GET, interim, End::Cut);
        assert_eq!((seen.status(), seen.answered(), seen.end), (Some(200), "ok", End::Complete));
    }

    #[test]
    fn a_chunked_request_is_read_like_a_response() {
        let mut wire = Wire::new();
        wire.sends("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            .sends("0\r\n\r\n")
            .gets(OK);
        let seen = only(wire);
        assert_eq!((seen.asked(), seen.request_ended), ("abc", true));
    }
}

mod exchanges {
    use super::*;

    #[test]
    fn a_connection_is_used_again() {
        let mut wire = Wire::new();
        for n in ["1", "2", "3"] {
            wire.sends(post("/", n)).gets(ok(n));
        }
        let pairs: Vec<_> = wire.seen().iter().map(|s| (s.asked(), s.answered())).collect();
        assert_eq!(pairs, [("1", "1"), ("2", "2"), ("3", "3")]);
    }

    #[test]
    fn pipelined_requests_are_answered_in_order() {
        let mut wire = Wire::new();
        wire.sends(post("/", "1") + &post("/", "2")).sends(post("/", "3"));
        wire.gets(ok("1") + &ok("2")[..20]).gets(ok("2")[20..].to_owned() + &ok("3"));
        let pairs: Vec<_> = wire.seen().iter().map(|s| (s.asked(), s.answered())).collect();
        assert_eq!(pairs, [("1", "1"), ("2", "2"), ("3", "3")]);
    }

    #[test]
    fn more_pipelined_requests_than_allowed_end_the_connection() {
        let mut wire = Wire::new();
        for _ in 0..100 {
            wire.sends(GET);
        }
        assert_eq!(wire.protocol(), Protocol::Desynchronised);
        assert!(wire.seen().iter().all(|s| s.end == End::Unknown) && wire.seen().len() == 32);
    }

    #[test]
    fn a_response_that_ends_before_its_request_waits_for_it() {
        let mut wire = Wire::new();
        let request = post("/", "0123456789");
        let (first, rest) = request.split_at(request.len() - 5);
        wire.sends(first).gets("HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\nno");
        assert_eq!(wire.seen(), []);
        wire.sends(rest);
        let seen = &wire.seen()[0];
        assert_eq!((seen.asked(), seen.answered(), seen.end), ("0123456789", "no", End::Complete));
        assert_eq!(seen.ended_at, Timestamp(2), "the response's end is the exchange's");
        wire.sends(post("/", "next")).gets(ok("next"));
        assert_eq!(wire.seen()[1].answered(), "next");
    }

    #[test]
    fn a_request_that_is_answered_and_never_finished_is_complete() {
        let mut wire = Wire::new();
        wire.sends(&post("/", "0123456789")[..50]).gets(OK);
        let seen = only(wire);
        assert_eq!((seen.request_ended, seen.answered(), seen.end), (false, "ok", End::Complete));
    }

    #[test]
    fn a_body_that_was_not_wanted_is_left_out() {
        let mut wire = Wire::new();
        wire.sends("POST /1 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        wire.gets("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
        wire.sends(post("/2", "again")).gets(OK);
        let seen: Vec<_> = wire.seen().iter().map(|s| (s.asked(), s.status())).collect();
        assert_eq!(seen, [("", Some(417)), ("again", Some(200))]);
    }

    #[test]
    fn a_body_that_was_waited_for_is_read() {
        let mut wire = Wire::new();
        wire.sends("POST /1 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        wire.gets("HTTP/1.1 100 Continue\r\n\r\n").sends("hello").gets(OK);
        assert_eq!((wire.seen()[0].asked(), wire.seen()[0].status()), ("hello", Some(200)));
    }

    #[test]
    fn the_contents_own_end_ends_the_exchange_and_the_framing_is_swallowed() {
        let mut wire = Wire::new();
        wire.sends(GET)
            .gets("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ne\r\ndata: [DONE]\n\n\r\n");
        assert_eq!((wire.seen().len(), wire.seen()[0].end), (1, End::Complete));
        wire.gets("3\r\n: x\r\n0\r\n\r\n").sends(GET).gets(OK);
        assert_eq!((wire.seen().len(), wire.seen()[1].answered()), (2, "ok"));
    }

    #[test]
    fn what_nobody_wants_is_skipped_by_its_framing_alone() {
        let mut wire = Wire::new();
        wire.sends(post("/unwanted", "x"))
            .gets("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc");
        wire.sends(GET).gets(OK);
        assert_eq!(wire.counters().undecodable, 0);
        assert_eq!(only(wire).answered(), "ok");
    }
}

mod codings {
    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn coded(fields: &str, body: &[u8]) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    #[test]
    fn content_is_handed_on_decoded() {
        let body = gzip(b"content");
        assert_eq!(response(GET, coded("Content-Encoding: gzip", &body), End::Cut).answered(), "content");
        let twice = gzip(&body);
        let both = coded("Content-Encoding: gzip\r\nContent-Encoding: x-gzip", &twice);
        assert_eq!(response(GET, both, End::Cut).answered(), "content");
    }

    #[test]
    fn a_transfer_coding_is_undone_too() {
        let body = gzip(b"content");
        let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n{:x}\r\n", body.len());
        let message = [head.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
        assert_eq!(response(GET, message, End::Cut).answered(), "content");
    }

    #[test]
    fn a_coded_request_is_decoded() {
        let body = gzip(b"prompt");
        let head =
            format!("POST / HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut wire = Wire::new();
        wire.sends([head.as_bytes(), &body].concat()).gets(OK);
        assert_eq!(only(wire).asked(), "prompt");
    }

    #[test]
    fn content_that_cannot_be_decoded_is_lost_and_the_connection_goes_on() {
        for (coding, body) in [("gzip", &b"no gzip"[..]), ("compress", b"?"), ("gzip", &gzip(b"cut")[..12])] {
            let mut wire = Wire::new();
            wire.sends(GET).gets(coded(&format!("Content-Encoding: {coding}"), body));
            assert_eq!(
                (wire.seen()[0].end, &wire.seen()[0].lost[..]),
                (End::Complete, &[Direction::Received][..])
            );
            assert_eq!(wire.counters().undecodable, 1);
            wire.sends(GET).gets(OK);
            assert_eq!(wire.seen()[1].answered(), "ok");
        }
    }

    #[test]
    fn a_coding_named_for_no_content_is_no_error() {
        let seen = response(GET, coded("Content-Encoding: br", b""), End::Cut);
        assert_eq!((seen.end, seen.lost), (End::Complete, vec![]));
    }

    #[test]
    fn content_that_decodes_to_more_than_the_limit_is_lost() {
        let mut wire = Wire::with(Limits { decoded: 1000, ..Limits::default() }, true);
        wire.sends(GET).gets(coded("Content-Encoding: gzip", &gzip(&[b'a'; 5000])));
        assert_eq!((wire.counters().oversized, &wire.seen()[0].lost[..]), (1, &[Direction::Received][..]));
    }

    #[test]
    fn a_coded_body_that_the_close_cuts_inside_its_coding_is_cut() {
        let body = gzip(b"a body that lasts until the close");
        let message = [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", &body[..]].concat();
        assert_eq!(response(GET, &message, End::Cut).end, End::Complete);
        assert_eq!(response(GET, &message[..message.len() - 15], End::Cut).end, End::Cut);
    }
}

mod protocols {
    use super::*;

    /// The connection's protocol after these bytes, whole and byte by byte.
    fn protocol(direction: Direction, data: &[u8]) -> Protocol {
        let (mut whole, mut bytes) = (Wire::new(), Wire::new());
        whole.moves(direction, data, 0);
        for byte in data.chunks(1) {
            bytes.moves(direction, byte, 0);
        }
        assert_eq!(whole.protocol(), bytes.protocol());
        whole.protocol()
    }

    #[test]
    fn http2_is_recognised_by_its_preface() {
        assert_eq!(
            protocol(Direction::Sent, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04"),
            Protocol::Http2
        );
    }

    #[test]
    fn http2_is_recognised_when_the_server_speaks_first() {
        let mut wire = Wire::new();
        wire.gets(b"\0\0\x12\x04\0\0\0\0\0").sends("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        assert_eq!(wire.protocol(), Protocol::Http2);
    }

    #[test]
    fn other_protocols_are_unknown() {
        for data in
            [&b"\x16\x03\x01\x02"[..], b"EHLO host\r\n", b"GET /\r\n", b"*1\r\n$4\r\nPING\r\n", b"\0\0\0\x08"]
        {
            assert_eq!(protocol(Direction::Sent, data), Protocol::Unknown, "{data:?}");
        }
    }

    #[test]
    fn a_server_is_left_alone() {
        assert_eq!(protocol(Direction::Received, GET.as_bytes()), Protocol::ServerSide);
        assert_eq!(protocol(Direction::Sent, OK.as_bytes()), Protocol::ServerSide);
        let mut wire = Wire::joined();
        wire.gets("the rest of a request").gets(GET);
        assert_eq!(wire.protocol(), Protocol::ServerSide);
    }

    #[test]
    fn an_upgrade_makes_a_tunnel() {
        let mut wire = Wire::new();
        wire.sends("GET /chat HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n");
        wire.gets("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x01\x02").sends(GET);
        assert_eq!(wire.protocol(), Protocol::Tunnel);
        assert_eq!((wire.seen()[0].status(), wire.seen()[0].end), (Some(101), End::Complete));
    }

    const HANDSHAKE: &str =
        "GET /websocket HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    const ACCEPTED: &str =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n";

    /// Both sides' bytes behind a handshake, cut into pieces of that size.
    fn websocket(extension: &str, sent: &[u8], received: &[u8], size: usize, end: End) -> (Seen, Wire) {
        let mut wire = Wire::new();
        let received = [ACCEPTED.as_bytes(), extension.as_bytes(), b"\r\n", received].concat();
        wire.sends(HANDSHAKE);
        received.chunks(size).for_each(|piece| {
            wire.gets(piece);
        });
        sent.chunks(size).for_each(|piece| {
            wire.sends(piece);
        });
        assert_eq!((wire.protocol(), wire.counters().malformed), (Protocol::WebSocket, 0));
        if wire.seen().is_empty() {
            return (std::mem::replace(&mut wire, Wire::new()).close(end).remove(0), wire);
        }
        (wire.seen()[0].clone(), wire)
    }

    #[test]
    fn a_websocket_is_read_from_the_byte_behind_its_handshake() {
        for size in 1..200 {
            let (seen, _) =
                websocket("", b"\x81\x82\x01\x02\x03\x04ik", b"\x81\x02yo\x89\0\x81\x02ho", size, End::Cut);
            assert_eq!((seen.asked(), seen.answered()), ("hi\n", "yo\nho\n"), "{size}");
            assert_eq!((seen.status(), seen.end, seen.request_ended), (Some(101), End::Cut, true));
        }
    }

    #[test]
    fn who_closes_a_websocket_first_has_ended_it() {
        let close = (&b"\x88\x80\x01\x02\x03\x04"[..], &b"\x88\0"[..]);
        assert_eq!(websocket("", b"", close.1, 500, End::Unknown).0.end, End::Cut);
        assert_eq!(websocket("", close.0, b"", 500, End::Unknown).0.end, End::Cancelled);
    }

    #[test]
    fn messages_are_no_longer_kept_once_nobody_wants_them() {
        let (seen, mut wire) = websocket("", b"", b"\x81\x06[DONE]\x81\x01x", 500, End::Cut);
        assert_eq!((seen.answered(), seen.end), ("[DONE]\n", End::Unknown));
        wire.gets("\x0b not a frame").sends(GET);
        assert_eq!((wire.seen().len(), wire.counters().malformed), (1, 0));
    }

    #[test]
    fn a_response_that_is_read_before_its_request_is_known_waits_for_it() {
        for size in 1..60 {
            let mut wire = Wire::new();
            for piece in [ACCEPTED, "\r\n\u{1}"].concat().as_bytes()[..].chunks(size) {
                wire.gets(&piece[..piece.len()]);
            }
            assert_eq!(wire.protocol(), Protocol::Undecided);
            HANDSHAKE.as_bytes().chunks(size).for_each(|piece| {
                wire.sends(piece);
            });
            assert_eq!(wire.protocol(), Protocol::WebSocket, "{size}");
        }
        // Any other only where it was begun to be written before.
        let mut wire = Wire::new();
        wire.sends(post("/", "1")).gets(ok("1")).gets(ok("2"));
        wire.sends(post("/", "2")).gets(ok("3"));
        let answers: Vec<_> = wire.seen().iter().map(Seen::answered).collect();
        assert_eq!((wire.counters().unsolicited, &answers[..]), (1, &["1", "3"][..]));
    }

    #[test]
    fn a_websocket_loses_no_more_than_it_must() {
        let take = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
        let no_take = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n";
        let hello = b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00";
        for (extension, answered, end) in [(take, "", End::Unknown), (no_take, "Hello\n", End::Cut)] {
            let mut wire = Wire::new();
            wire.sends(HANDSHAKE).gets([ACCEPTED, extension, "\r\n"].concat());
            wire.gets(&hello[..2]).misses(Direction::Received, &hello[2..]).gets(hello);
            assert_eq!(wire.counters().gaps, 1);
            let mut seen = wire.close(End::Cut).remove(0);
            // A message that was lost may have been told in part.
            let whole =
                seen.response_body.iter().position(|byte| *byte == b'H').unwrap_or(seen.response_body.len());
            seen.response_body.drain(..whole);
            assert_eq!((seen.answered(), seen.end), (answered, end));
            assert_eq!(seen.lost, [Direction::Received]);
        }
    }

    #[test]
    fn an_upgrade_to_something_else_makes_a_tunnel() {
        let unknown = format!("{ACCEPTED}Sec-WebSocket-Extensions: x-deflate\r\n\r\n");
        for accepted in [unknown.as_str(), "HTTP/1.1 101 X\r\nUpgrade: h2c\r\n\r\n"] {
            let mut wire = Wire::new();
            wire.sends(HANDSHAKE).gets(accepted);
            assert_eq!((wire.protocol(), wire.seen()[0].end), (Protocol::Tunnel, End::Complete));
        }
    }

    #[test]
    fn connect_makes_a_tunnel_when_it_succeeds() {
        for (status, expected) in [(200, Protocol::Tunnel), (407, Protocol::Http1)] {
            let mut wire = Wire::new();
            wire.sends("CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n");
            wire.gets(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"));
            assert_eq!(wire.protocol(), expected);
            assert_eq!(wire.seen()[0].request.authority.as_deref(), Some("api.example:443"));
        }
    }
}

mod losses {
    use super::*;

    #[test]
    fn a_gap_inside_a_body_of_known_length_loses_only_its_content() {
        let mut wire = Wire::new();
        wire.sends(post("/", "1")).gets(&ok("0123456789")[..45]).misses(Direction::Received, "....");
        let response = ok("0123456789");
        wire.gets(&response[49..]);
        let seen = &wire.seen()[0];
        assert_eq!((seen.end, &seen.lost[..]), (End::Complete, &[Direction::Received][..]));
        assert!(response[..45].ends_with(seen.answered()) && !seen.answered().is_empty());
        wire.sends(post("/", "2")).gets(ok("2"));
        assert_eq!((wire.seen()[1].answered(), wire.counters().losses), ("2", 0));
    }

    #[test]
    fn a_gap_inside_a_chunk_loses_only_its_content() {
        let mut wire = Wire::new();
        wire.sends(GET).gets("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n01234");
        wire.misses(Direction::Received, "56789").gets("\r\n0\r\n\r\n").sends(GET).gets(OK);
        assert_eq!((wire.seen()[0].end, wire.seen()[0].answered()), (End::Complete, "01234"));
        assert_eq!((wire.seen()[1].answered(), wire.counters().losses), ("ok", 0));
    }

    #[test]
    fn a_loss_told_at_the_end_of_a_call_is_known_before_the_next_chunk() {
        let mut wire = Wire::new();
        let response = ok("0123456789");
        let (captured, kept_out) = response.as_bytes().split_at(response.len() - 4);
        wire.sends(GET).moves(Direction::Received, captured, kept_out.len() as u64);
        let seen = &wire.seen()[0];
        assert_eq!((seen.answered(), seen.end, seen.lost.len()), ("012345", End::Complete, 1));
        assert_eq!((wire.counters().gaps, wire.counters().missing_bytes), (1, 4));
    }

    #[test]
    fn a_loss_after_the_last_chunk_is_known_from_what_has_moved() {
        let mut wire = Wire::new();
        wire.sends(GET).gets("HTTP/1.0 200 OK\r\n\r\nbegin").misses(Direction::Received, "end");
        wire.moves(Direction::Received, b"", 0);
        let seen = only(wire);
        assert_eq!(
            (seen.answered(), seen.end, &seen.lost[..]),
            ("begin", End::Complete, &[Direction::Received][..])
        );
    }

    #[test]
    fn a_gap_that_hides_a_responses_framing_gives_up_that_exchange() {
        let mut wire = Wire::new();
        wire.sends(GET).gets("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        wire.misses(Direction::Received, "5\r\nworld\r\n").gets("0\r\n\r\n");
        wire.sends(post("/", "2")).gets(ok("2"));
        let seen: Vec<_> = wire.seen().iter().map(|s| (s.answered(), s.end)).collect();
        assert_eq!(seen, [("hello", End::Unknown), ("2", End::Complete)]);
        assert_eq!(wire.seen()[0].lost, [Direction::Received]);
    }

    #[test]
    fn a_gap_that_shows_after_the_next_request_gives_up_that_too() {
        let mut wire = Wire::new();
        wire.sends(GET).gets("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        // The gap may as well hold this request's response, and the next be that of a request that is missing.
        wire.sends(post("/", "2")).misses(Direction::Received, "0\r\n\r\n").gets(ok("2"));
        wire.sends(post("/", "3")).gets(ok("3"));
        let seen: Vec<_> = wire.seen().iter().map(|s| (s.answered(), s.end)).collect();
        assert_eq!(seen, [("hello", End::Unknown), ("", End::Unknown), ("3", End::Complete)]);
    }

    #[test]
    fn a_gap_that_hides_a_whole_response_gives_up_what_cannot_be_told_apart() {
        let mut wire = Wire::new();
        wire.sends(post("/", "1")).misses(Direction::Received, ok("1")).sends(post("/", "2")).gets(ok("2"));
        wire.sends(post("/", "3")).gets(ok("3"));
        let seen: Vec<_> = wire.seen().iter().map(|s| (s.asked(), s.answered(), s.end)).collect();
        assert_eq!(seen, [("1", "", End::Unknown), ("2", "", End::Unknown), ("3", "3", End::Complete)]);
        assert_eq!(wire.counters().abandoned, 2);
    }

    #[test]
    fn a_gap_in_a_request_loses_its_rest_and_keeps_its_response() {
        let mut wire = Wire::new();
        wire.sends("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        wire.misses(Direction::Sent, "5\r\nworld\r\n").sends("0\r\n\r\n").gets(ok("1"));
        wire.sends(post("/", "2")).gets(ok("2"));
        let seen: Vec<_> = wire.seen().iter().map(|s| (s.asked(), s.answered(), s.lost.len())).collect();
        assert_eq!(seen, [("hello", "1", 1), ("2", "2", 0)]);
    }

    #[test]
    fn the_response_to_a_request_that_was_missed_is_paired_with_no_other() {
        let mut wire = Wire::new();
        wire.sends(post("/", "1")).gets(ok("1")).misses(Direction::Sent, post("/", "2")).gets(ok("2"));
        wire.sends(post("/", "3")).gets(ok("3"));
        let seen: Vec<_> = wire.seen().iter().map(|s| (s.asked(), s.answered())).collect();
        assert_eq!(seen, [("1", "1"), ("3", "3")]);
        assert_eq!(wire.counters().unsolicited, 1);
    }

    #[test]
    fn a_loss_among_pipelined_requests_ends_the_connection() {
        let mut wire = Wire::new();
        wire.sends(post("/", "1") + &post("/", "2") + &post("/", "3"));
        wire.misses(Direction::Received, ok("1")).gets(ok("2") + &ok("3"));
        assert_eq!(wire.protocol(), Protocol::Desynchronised);
        assert!(wire.seen().iter().all(|s| s.response.is_none() && s.end == End::Unknown));
    }

    #[test]
    fn a_request_that_may_be_content_is_not_trusted() {
        let mut wire = Wire::new();
        wire.sends("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        // The content of the next chunk looks like a request, and the chunk's size was missed.
        wire.misses(Direction::Sent, "99\r\n")
            .sends(post("/false", ""))
            .gets(&ok("1")[..20])
            .gets(&ok("1")[20..]);
        wire.sends(post("/", "2")).gets(ok("2"));
        assert!(wire.seen().iter().all(|s| s.request.path != "/false" || s.response.is_none()));
    }

    #[test]
    fn a_connection_joined_in_the_middle_is_read_from_its_next_request() {
        let mut wire = Wire::joined();
        wire.sends("the rest of a body").gets("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
        wire.sends(post("/", "1")).gets(ok("1"));
        assert_eq!(wire.counters().joined_midway, 1);
        let seen = only(wire);
        assert_eq!((seen.asked(), seen.answered(), seen.end), ("1", "1", End::Complete));
    }

    #[test]
    fn joining_between_two_calls_loses_nothing() {
        let mut wire = Wire::joined();
        wire.sends(post("/", "1")).gets(ok("1"));
        assert_eq!(wire.counters().joined_midway, 0);
        assert_eq!(only(wire).answered(), "1");
    }

    #[test]
    fn bytes_missing_at_the_start_are_like_joining_later() {
        let mut wire = Wire::new();
        wire.misses(Direction::Sent, GET).misses(Direction::Received, OK).sends(post("/", "1")).gets(ok("1"));
        // Its response follows a gap that may have held the response's head.
        assert_eq!(wire.seen()[0].response, None);
        wire.sends(post("/", "2")).gets(ok("2"));
        assert_eq!(wire.seen()[1].answered(), "2");
    }

    #[test]
    fn a_repeated_chunk_changes_nothing() {
        let mut wire = Wire::new();
        wire.sends(GET)
            .repeats(Direction::Sent, GET)
            .gets(&OK[..30])
            .repeats(Direction::Received, &OK[10..30]);
        wire.gets(&OK[30..]);
        assert_eq!(wire.counters().repeats, 2);
        assert_eq!(only(wire).answered(), "ok");
    }

    #[test]
    fn a_response_that_nothing_asked_for_pairs_with_nothing() {
        let mut wire = Wire::new();
        wire.gets("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n").sends(GET).gets(OK);
        assert_eq!(only(wire).status(), Some(200));
    }
}
