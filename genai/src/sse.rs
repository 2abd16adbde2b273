//! Server-sent events, decoded as their last byte arrives (WHATWG HTML, "9.2 Server-sent events").

use memchr::{memchr, memchr2};

/// An event. Bytes, not text: the standard decodes as UTF-8 with replacement, and JSON readers check anyway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// Its `event` field; `message` where it has none, as the standard says.
    pub name: &'a [u8],
    /// Its `data` lines joined by LF. Empty when `oversized`.
    pub data: &'a [u8],
    /// The last `id` field of the stream.
    pub id: &'a [u8],
    /// The event was larger than the limit; its data is not kept.
    pub oversized: bool,
}

/// A push parser of one event stream. It holds at most one event, and no copy of one that lies whole in a piece.
#[derive(Debug)]
pub struct Parser {
    limit: usize,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    name: Field,
    data: Field,
    id: Vec<u8>,
    /// How many bytes of a byte order mark have been seen; `None` after the stream's first bytes.
    mark: Option<usize>,
    /// The last piece ended in CR: a LF that comes next belongs to it.
    after_cr: bool,
    /// The event at hand is over the limit: its lines are skipped, `line` holds at most one byte.
    oversized: bool,
}

/// A field's value so far: in the piece at hand (handed from line to line by reference) or copied from earlier ones.
#[derive(Debug, Default)]
struct Field {
    copied: Vec<u8>,
    present: bool,
}

/// A convention of this project: more than any provider's event (images and audio come as base64 in one event).
pub const DEFAULT_LIMIT: usize = 16 << 20;

impl Default for Parser {
    fn default() -> Self {
        Parser::new(DEFAULT_LIMIT)
    }
}

impl Parser {
    /// A parser that gives up an event (not the stream) larger than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Parser {
            limit,
            line: Vec::new(),
            name: Field::default(),
            data: Field::default(),
            id: Vec::new(),
            mark: Some(0),
            after_cr: false,
            oversized: false,
        }
    }

    /// Takes the next bytes of the stream and hands on every event that they complete.
    ///
    /// An event whose blank line never comes is not one, as the standard says.
    pub fn push(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(Event<'_>)) {
        if self.mark.is_some() {
            bytes = self.skip_mark(bytes);
        }
        // Values that lie in this piece, by reference.
        let mut here = Here::default();
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', bytes) else { break };
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            self.after_cr = bytes[end] == b'\r';
            bytes = rest;
            if self.line.is_empty() {
                self.take_line(line, &mut here, emit);
            } else {
                self.hold(line, &here);
                let whole = std::mem::take(&mut self.line);
                // What lies in this piece must outlive the line: a held line is copied on.
                self.keep(&mut here);
                let mut from_line = Here::default();
                self.take_line(&whole, &mut from_line, emit);
                self.keep(&mut from_line);
                self.line = whole;
                self.line.clear();
                self.line.shrink_to(KEPT_CAPACITY);
            }
        }
        if !bytes.is_empty() {
            self.hold(bytes, &here);
        }
        self.keep(&mut here);
    }

    /// Bytes that are held.
    pub fn memory(&self) -> usize {
        self.line.capacity() + self.name.copied.capacity() + self.data.copied.capacity() + self.id.capacity()
    }

    /// One byte order mark at the start of the stream is not part of it.
    fn skip_mark<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        const MARK: &[u8] = b"\xef\xbb\xbf";
        let seen = self.mark.unwrap_or(0);
        let same = MARK[seen..].iter().zip(bytes).take_while(|(a, b)| a == b).count();
        if seen + same == MARK.len() {
            self.mark = None;
            &bytes[same..]
        } else if same == bytes.len() {
            self.mark = Some(seen + same);
            &[]
        } else {
            // It was none: what was taken for its beginning belongs to the first line.
            self.mark = None;
            self.line.extend_from_slice(&MARK[..seen]);
            bytes
        }
    }

    fn take_line<'a>(&mut self, line: &'a [u8], here: &mut Here<'a>, emit: &mut impl FnMut(Event<'_>)) {
        if line.is_empty() {
            self.dispatch(here, emit);
            return;
        }
        if self.oversized || self.size(here) + line.len() > self.limit {
            self.give_up(here);
            return;
        }
        let (field, value) = match memchr(b':', line) {
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match field {
            b"data" => {
                if self.data.present || here.data.is_some() {
                    self.keep(here);
                    self.data.copied.push(b'\n');
                    self.data.copied.extend_from_slice(value);
                } else {
                    here.data = Some(value);
                }
            }
            b"event" => {
                self.name.clear();
                here.name = Some(value);
            }
            b"id" if memchr(0, value).is_none() => {
                self.id.clear();
                self.id.extend_from_slice(value);
            }
            // `retry` sets how long a client waits before it connects again: nothing to an observer.
            // A field without a name is a comment; any other is ignored.
            _ => {}
        }
    }

    fn dispatch(&mut self, here: &mut Here<'_>, emit: &mut impl FnMut(Event<'_>)) {
        let name = here.name.unwrap_or(&self.name.copied);
        let name = if name.is_empty() { b"message" } else { name };
        if self.oversized {
            emit(Event { name, data: &[], id: &self.id, oversized: true });
        } else if here.data.is_some() || self.data.present {
            let data = here.data.unwrap_or(&self.data.copied);
            emit(Event { name, data, id: &self.id, oversized: false });
        }
        *here = Here::default();
        self.oversized = false;
        self.name.clear();
        self.data.clear();
    }

    /// Adds to the line whose end has not come.
    fn hold(&mut self, part: &[u8], here: &Here<'_>) {
        if !self.oversized && self.size(here) + part.len() > self.limit {
            self.data.clear();
            self.oversized = true;
        }
        if self.oversized {
            // Only whether the line is empty matters now.
            self.line.truncate(1);
            self.line.shrink_to(KEPT_CAPACITY);
            if self.line.is_empty() {
                self.line.extend(part.first());
            }
        } else {
            self.line.extend_from_slice(part);
        }
    }

    fn give_up(&mut self, here: &mut Here<'_>) {
        self.oversized = true;
        here.data = None;
        self.data.clear();
    }

    fn size(&self, here: &Here<'_>) -> usize {
        let held = |field: &Field, here: Option<&[u8]>| field.copied.len() + here.map_or(0, <[u8]>::len);
        self.line.len() + held(&self.name, here.name) + held(&self.data, here.data)
    }

    /// Copies what lies in the piece at hand and is needed after it.
    fn keep(&mut self, here: &mut Here<'_>) {
        self.name.copy(here.name.take());
        self.data.copy(here.data.take());
    }
}

/// Values of the event at hand that lie in the piece at hand.
#[derive(Default)]
struct Here<'a> {
    name: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
}

/// An event's buffer is kept for the next one up to this size, in bytes: streams of tokens never allocate again,
/// and one large event does not stay in memory as long as its connection.
const KEPT_CAPACITY: usize = 64 << 10;

impl Field {
    fn copy(&mut self, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.copied.extend_from_slice(value);
            self.present = true;
        }
    }

    fn clear(&mut self) {
        self.copied.clear();
        self.copied.shrink_to(KEPT_CAPACITY);
        self.present = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// (name, data, id, oversized)
    type Owned = (String, String, String, bool);

    fn parse(parser: &mut Parser, pieces: &[&[u8]]) -> Vec<Owned> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut events = Vec::new();
        for piece in pieces {
            parser.push(piece, &mut |e| events.push((text(e.name), text(e.data), text(e.id), e.oversized)));
        }
        events
    }

    fn events(input: &str) -> Vec<(String, String)> {
        let whole = parse(&mut Parser::default(), &[input.as_bytes()]);
        let bytes: Vec<_> = input.as_bytes().chunks(1).collect();
        assert_eq!(whole, parse(&mut Parser::default(), &bytes), "cut at every byte");
        whole.into_iter().map(|(name, data, _, _)| (name, data)).collect()
    }

    fn event(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    #[test]
    fn lf_cr_and_crlf_end_a_line() {
        for end in ["\n", "\r", "\r\n"] {
            let input = format!("event: add{end}data: 1{end}data: 2{end}{end}data: 3{end}{end}");
            assert_eq!(events(&input), [event("add", "1\n2"), event("message", "3")], "{end:?}");
        }
    }

    #[test]
    fn an_event_ended_by_cr_does_not_wait_for_a_lf() {
        let mut parser = Parser::default();
        assert_eq!(parse(&mut parser, &[b"data: 1\r\r"]).len(), 1);
        assert_eq!(parse(&mut parser, &[b"\n", b"data: 2\r\n", b"\r"]).len(), 1);
        assert_eq!(parse(&mut parser, &[b"\ndata: 3\n", b"\n"])[0].1, "3");
    }

    #[test]
    fn one_byte_order_mark_is_skipped_and_a_part_of_one_is_not() {
        assert_eq!(events("\u{feff}data: 1\n\n"), [event("message", "1")]);
        assert_eq!(events("\u{feff}\u{feff}data: 1\n\n"), []);
        let broken = parse(&mut Parser::default(), &[b"\xef", b"\xbbdata: 1\ndata: 2\n\n"]);
        assert_eq!(broken[0].1, "2");
    }

    #[test]
    fn comments_and_unknown_fields_are_ignored() {
        assert_eq!(events(": ping\n\n:\nretry: 10\nother: x\ndata\ndata:x\n\n"), [event("message", "\nx")]);
    }

    #[test]
    fn only_one_space_after_the_colon_is_not_part_of_the_value() {
        assert_eq!(events("data:  a: b \n\n"), [event("message", " a: b ")]);
    }

    #[test]
    fn an_event_without_data_is_none_and_its_name_is_forgotten() {
        assert_eq!(events("event: a\n\ndata: 1\n\n"), [event("message", "1")]);
    }

    #[test]
    fn an_event_without_its_blank_line_is_not_dispatched() {
        assert_eq!(events("data: 1\n"), []);
    }

    #[test]
    fn the_id_stays_until_the_next_and_one_with_nul_is_ignored() {
        let ids: Vec<_> = parse(
            &mut Parser::default(),
            &[b"id: 7\ndata: 1\n\ndata: 2\n\nid: 8\0\ndata: 3\n\nid\ndata: 4\n\n"],
        )
        .into_iter()
        .map(|e| e.2)
        .collect();
        assert_eq!(ids, ["7", "7", "7", ""]);
    }

    #[test]
    fn an_event_over_the_limit_is_marked_and_the_stream_goes_on() {
        let input = b"event: a\ndata: 0123456789\ndata: 0123456789\n\ndata: 1\n\ndata: 012345678901234567890\ndata: 2\n\ndata: 3\n\n";
        for size in 1..=input.len() {
            let mut parser = Parser::new(24);
            let pieces: Vec<_> = input.chunks(size).collect();
            let events = parse(&mut parser, &pieces);
            let seen: Vec<_> = events.iter().map(|e| (e.1.as_str(), e.3)).collect();
            assert_eq!(seen, [("", true), ("1", false), ("", true), ("3", false)], "pieces of {size}");
        }
    }

    #[test]
    fn an_endless_line_holds_no_more_than_the_limit() {
        let mut parser = Parser::new(1 << 20);
        for _ in 0..64 {
            assert_eq!(parse(&mut parser, &[&[b'x'; 100_000]]), []);
            assert!(parser.memory() <= 4 << 20, "{}", parser.memory());
        }
    }

    #[test]
    fn a_large_event_does_not_stay_in_memory() {
        let mut parser = Parser::default();
        let large = [b"data: ".as_slice(), &[b'x'; 1 << 20]].concat();
        parse(&mut parser, &[&large, b"\n\n"]);
        assert!(parser.memory() <= 4 * KEPT_CAPACITY, "{}", parser.memory());
    }

    /// The standard's algorithm, over the whole input.
    fn reference(input: &[u8]) -> Vec<Owned> {
        let input = String::from_utf8_lossy(input);
        let input = input.strip_prefix('\u{feff}').unwrap_or(&input);
        let input = input.replace("\r\n", "\n").replace('\r', "\n");
        let mut lines: Vec<_> = input.split('\n').collect();
        lines.pop();
        let (mut events, mut name, mut data, mut id) = (vec![], String::new(), String::new(), String::new());
        for line in lines {
            if line.is_empty() {
                if let Some(data) = data.strip_suffix('\n') {
                    let name = if name.is_empty() { "message" } else { &name };
                    events.push((name.to_owned(), data.to_owned(), id.clone(), false));
                }
                name.clear();
                data.clear();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => name = value.to_owned(),
                "data" => data = data + value + "\n",
                "id" if !value.contains('\0') => id = value.to_owned(),
                _ => {}
            }
        }
        events
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            4 => Just("data: ".to_owned()),
            2 => Just("data".to_owned()),
            2 => Just("event:".to_owned()),
            1 => Just("id:".to_owned()),
            1 => Just(":".to_owned()),
            4 => Just("\n".to_owned()),
            4 => Just("\r".to_owned()),
            4 => Just("\r\n".to_owned()),
            4 => Just("\n\n".to_owned()),
            1 => Just("\u{feff}".to_owned()),
            1 => Just("\0".to_owned()),
            4 => "[ a-c:é]{0,6}",
        ];
        prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_split_gives_what_the_standard_says(input in stream(), cuts in prop::collection::vec(1usize..12, 1..20)) {
            let (mut rest, mut pieces, mut cuts) = (input.as_slice(), Vec::new(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*cuts.next().expect("a cycle has no end")));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(parse(&mut Parser::default(), &pieces), reference(&input));
        }
    }
}
