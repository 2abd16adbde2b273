//! JSON as it arrives (RFC 8259): bytes cut anywhere in, a [`Value`] that holds only what a filter keeps out.
//!
//! Nothing is held that is not kept, so a body of any size costs what its kept part costs.

use crate::links::{FingerprintKey, Hasher};
use memchr::memchr2;
use serde_json::{Map, Number, Value};

/// Reads one JSON text, piece by piece.
#[derive(Clone, Debug)]
pub struct Reader {
    filter: Filter,
    content: bool,
    limits: Limits,
    state: State,
    /// Containers that are being kept, outermost first.
    open: Vec<Open>,
    /// Where the value stands that comes next; one step for each open container.
    path: Vec<Step>,
    /// The string, number or literal under way.
    token: Vec<u8>,
    escape: Escape,
    /// The first half of a surrogate pair.
    high: Option<u16>,
    /// What the value under way is kept as.
    keep: Keep,
    /// The token under way reached its limit.
    cut: bool,
    facts: usize,
    texts: usize,
    truncated: bool,
    key: FingerprintKey,
    /// Of the value under way, where it is kept as its fingerprint.
    hash: Hasher,
    /// An element of an array that is handed out, and what was spent before the first of them.
    element: Option<Value>,
    spent_before: usize,
    root: Option<Value>,
}

/// Decides, from where a value stands, what is kept of it. The flag says whether content is wanted.
pub type Filter = fn(&[Step], bool) -> Keep;

/// One step of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A member of an object.
    Key(String),
    /// An element of an array.
    Index(usize),
}

impl Step {
    /// The key, or `*` for an element.
    pub fn name(&self) -> &str {
        match self {
            Step::Key(key) => key,
            Step::Index(_) => "*",
        }
    }
}

/// What is kept of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// All of it, as content, as far as [`Limits::texts`] reaches.
    All,
    /// A scalar itself; of a container what the filter keeps of its children. A fact, counted in [`Limits::facts`].
    Into,
    /// Its kind alone: an empty string, array or object, or zero.
    Kind,
    /// How many elements an array has, or characters (bytes of UTF-8) a string.
    Count,
    /// A number that only the same value gives, under one key: of a string by its text, of anything else by its
    /// text without blanks.
    Fingerprint,
    /// Of a container what the filter keeps of its children; of a scalar its fingerprint.
    Parts,
    /// Of an array its elements, one by one, each by what the filter keeps of it and none held here
    /// ([`Reader::push_each`]); of anything else its fingerprint.
    Each,
    /// Nothing.
    Nothing,
}

/// How much may be held, in bytes of memory (estimated: text plus a flat amount for each value).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// For all that is kept by [`Keep::Into`].
    pub facts: usize,
    /// For all that is kept by [`Keep::All`].
    pub texts: usize,
}

/// What came of a JSON text.
#[derive(Clone, PartialEq, Debug)]
pub struct Read {
    /// What was kept; of a text that was cut, what was there. `Null` where there was nothing.
    pub value: Value,
    /// The text was whole and well formed.
    pub complete: bool,
    /// Something was left out because of a limit.
    pub truncated: bool,
}

/// Deeper values are left out. 128 is also where serde_json stops.
const MAX_DEPTH: usize = 128;
/// Longer keys match nothing and are left out with their values, except in content.
const MAX_KEY: usize = 256;
/// No number that anyone sends is longer.
const MAX_NUMBER: usize = 512;
/// A `Value` in a vector, and an entry of a map with its index: what they take at least on 64 bits.
const ELEMENT_COST: usize = 72;
const ENTRY_COST: usize = 128;

#[derive(Clone, Debug)]
enum Open {
    Array { items: Vec<Value>, all: bool, each: bool },
    Object { map: Map<String, Value>, all: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// A value, or, right after `[`, its end.
    Value {
        first: bool,
    },
    /// A key, or, right after `{`, its end.
    Key {
        first: bool,
    },
    Colon,
    /// `,` or the end of the container.
    Next,
    KeyText,
    Text,
    Number,
    Literal,
    Skip(Skip),
    /// The one value is whole.
    Done,
    Broken,
}

/// A value that is passed over: only strings and nesting matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Skip {
    depth: u32,
    quoted: bool,
    escaped: bool,
    /// Elements or characters so far.
    count: u64,
    /// Something stands after `[` or the last `,` at depth 1.
    any: bool,
    kind: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Escape {
    No,
    Backslash,
    Unicode { digits: u8, value: u16 },
}

impl Reader {
    /// A reader at the start of a text.
    pub fn new(filter: Filter, content: bool, limits: Limits) -> Reader {
        Reader {
            filter,
            content,
            limits,
            state: State::Value { first: false },
            open: Vec::new(),
            path: Vec::new(),
            token: Vec::new(),
            escape: Escape::No,
            high: None,
            keep: Keep::Nothing,
            cut: false,
            facts: 0,
            texts: 0,
            truncated: false,
            key: FingerprintKey::default(),
            hash: Hasher::default(),
            element: None,
            spent_before: 0,
            root: None,
        }
    }

    /// Makes fingerprints with this key.
    pub fn with_key(self, key: FingerprintKey) -> Reader {
        Reader { key, ..self }
    }

    /// Reads a text that is there as a whole.
    pub fn read(filter: Filter, content: bool, limits: Limits, text: &[u8]) -> Read {
        let mut reader = Reader::new(filter, content, limits);
        reader.push(text);
        reader.finish()
    }

    /// Takes the next bytes of the text.
    pub fn push(&mut self, data: &[u8]) {
        self.push_each(data, &mut |_| {});
    }

    /// Takes the next bytes of the text, and hands out the elements of arrays that are kept as [`Keep::Each`].
    pub fn push_each(&mut self, mut data: &[u8], each: &mut dyn FnMut(Value)) {
        while !data.is_empty() {
            let used = match self.state {
                State::Text | State::KeyText => self.text(data),
                State::Number => self.number(data),
                State::Literal => self.literal(data),
                State::Skip(skip) => self.skip(skip, data),
                State::Done | State::Broken => return,
                _ => self.structure(data[0]),
            };
            data = &data[used..];
            if let Some(element) = self.element.take() {
                each(element);
            }
        }
    }

    /// Whether the one value of the text has ended (anything after it is ignored).
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The text ended: what it gave. Of values under way, containers and the text of content are kept; half a
    /// fact is no fact.
    pub fn finish(mut self) -> Read {
        if self.state == State::Number && self.open.is_empty() {
            self.end_number();
        }
        let complete = self.state == State::Done;
        if !complete {
            if self.state == State::Text && self.keep == Keep::All {
                self.cut = true;
                let text = self.take_text();
                self.place(Value::String(text));
            }
            while !self.open.is_empty() {
                self.close();
            }
        }
        Read { value: self.root.unwrap_or(Value::Null), complete, truncated: self.truncated }
    }

    /// One byte between tokens. Returns the bytes used.
    fn structure(&mut self, byte: u8) -> usize {
        match (self.state, byte) {
            (_, b' ' | b'\t' | b'\n' | b'\r') => 1,
            (State::Value { first: true }, b']') | (State::Key { first: true }, b'}') => {
                self.close();
                1
            }
            (State::Value { .. }, _) => self.value(byte),
            (State::Key { .. }, b'"') => {
                self.keep = if self.all() { Keep::All } else { Keep::Into };
                self.start_token(State::KeyText);
                1
            }
            (State::Colon, b':') => {
                self.state = State::Value { first: false };
                1
            }
            (State::Next, b',') => {
                self.state = match self.open.last() {
                    Some(Open::Array { .. }) => {
                        if let Some(Step::Index(index)) = self.path.last_mut() {
                            *index += 1;
                        }
                        State::Value { first: false }
                    }
                    _ => State::Key { first: false },
                };
                1
            }
            (State::Next, b']') if matches!(self.open.last(), Some(Open::Array { .. })) => {
                self.close();
                1
            }
            (State::Next, b'}') if matches!(self.open.last(), Some(Open::Object { .. })) => {
                self.close();
                1
            }
            // A byte order mark is no JSON, but some servers send one.
            (_, 0xEF | 0xBB | 0xBF) if self.path.is_empty() => 1,
            _ => self.broken(),
        }
    }

    /// The first byte of a value. Returns the bytes used.
    fn value(&mut self, byte: u8) -> usize {
        self.keep = if self.all() {
            Keep::All
        } else if self.cut {
            Keep::Nothing
        } else {
            (self.filter)(&self.path, self.content)
        };
        self.cut = false;
        let cost = match self.open.last() {
            Some(Open::Object { .. }) => ENTRY_COST,
            _ => ELEMENT_COST,
        };
        let fits = match self.keep {
            Keep::Nothing => true,
            Keep::All => self.spend_texts(cost),
            Keep::Into | Keep::Kind | Keep::Count | Keep::Fingerprint | Keep::Parts | Keep::Each => {
                self.spend_facts(cost)
            }
        };
        let container = matches!(byte, b'{' | b'[');
        if !fits || (container && self.open.len() >= MAX_DEPTH && self.keep != Keep::Nothing) {
            self.truncated = true;
            self.keep = Keep::Nothing;
        }
        if !matches!(byte, b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') {
            return self.broken();
        }
        self.keep = match (self.keep, byte) {
            (Keep::Parts, b'{' | b'[') => Keep::Into,
            (Keep::Parts, _) => Keep::Fingerprint,
            (Keep::Each, b'[') => Keep::Each,
            (Keep::Each, _) => Keep::Fingerprint,
            (keep, _) => keep,
        };
        let mut passed_over = matches!(self.keep, Keep::Nothing | Keep::Kind | Keep::Count);
        if self.keep == Keep::Fingerprint {
            self.hash = self.key.hasher();
            passed_over = byte != b'"';
            if passed_over {
                self.hash.write(&[byte]);
            }
        }
        if passed_over {
            self.state = State::Skip(Skip {
                depth: u32::from(container),
                quoted: byte == b'"',
                escaped: false,
                count: 0,
                any: false,
                kind: byte,
            });
            return 1;
        }
        let all = self.keep == Keep::All;
        match byte {
            b'{' => {
                self.open.push(Open::Object { map: Map::new(), all });
                self.path.push(Step::Key(String::new()));
                self.state = State::Key { first: true };
                1
            }
            b'[' => {
                let each = self.keep == Keep::Each;
                if each {
                    self.spent_before = self.facts;
                }
                self.open.push(Open::Array { items: Vec::new(), all, each });
                self.path.push(Step::Index(0));
                self.state = State::Value { first: true };
                1
            }
            b'"' => {
                self.start_token(State::Text);
                1
            }
            b'-' | b'0'..=b'9' => {
                self.start_token(State::Number);
                0
            }
            _ => {
                self.start_token(State::Literal);
                0
            }
        }
    }

    fn text(&mut self, data: &[u8]) -> usize {
        match self.escape {
            Escape::No => {}
            Escape::Backslash => return self.escaped(data[0]),
            Escape::Unicode { digits, value } => return self.unicode(data[0], digits, value),
        }
        let end = memchr2(b'"', b'\\', data).unwrap_or(data.len());
        if end > 0 {
            self.lone_surrogate();
            self.append(&data[..end]);
        }
        match data.get(end) {
            None => end,
            Some(b'\\') => {
                self.escape = Escape::Backslash;
                end + 1
            }
            Some(_) => {
                self.lone_surrogate();
                self.end_text();
                end + 1
            }
        }
    }

    fn escaped(&mut self, byte: u8) -> usize {
        self.escape = Escape::No;
        let char = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                self.escape = Escape::Unicode { digits: 0, value: 0 };
                return 1;
            }
            _ => return self.broken(),
        };
        self.lone_surrogate();
        self.append(&[char]);
        1
    }

    fn unicode(&mut self, byte: u8, digits: u8, value: u16) -> usize {
        let Some(digit) = (byte as char).to_digit(16) else { return self.broken() };
        let value = value << 4 | u16::try_from(digit).expect("a hexadecimal digit is below 16");
        if digits < 3 {
            self.escape = Escape::Unicode { digits: digits + 1, value };
            return 1;
        }
        self.escape = Escape::No;
        let high = self.high.take();
        let decoded = match (high, value) {
            (Some(high), 0xDC00..=0xDFFF) => {
                char::from_u32(0x10000 + (u32::from(high - 0xD800) << 10) + u32::from(value - 0xDC00))
            }
            (high, value) => {
                if high.is_some() {
                    self.append("\u{FFFD}".as_bytes());
                }
                if matches!(value, 0xD800..=0xDBFF) {
                    self.high = Some(value);
                    return 1;
                }
                char::from_u32(u32::from(value))
            }
        };
        let mut buffer = [0; 4];
        let text = decoded.unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut buffer);
        self.append(text.as_bytes());
        1
    }

    fn lone_surrogate(&mut self) {
        if self.high.take().is_some() {
            self.append("\u{FFFD}".as_bytes());
        }
    }

    /// Adds to the text under way as much as its limit allows.
    fn append(&mut self, bytes: &[u8]) {
        if self.cut {
            return;
        }
        if self.keep == Keep::Fingerprint {
            return self.hash.write(bytes);
        }
        let room = match (self.keep, self.state) {
            (Keep::All, _) => self.limits.texts.saturating_sub(self.texts),
            (_, State::KeyText) => MAX_KEY.saturating_sub(self.token.len()),
            _ => self.limits.facts.saturating_sub(self.facts),
        };
        let used = bytes.len().min(room);
        self.token.extend_from_slice(&bytes[..used]);
        match (self.keep, self.state) {
            (Keep::All, _) => self.texts += used,
            (_, State::KeyText) => {}
            _ => self.facts += used,
        }
        if used < bytes.len() {
            self.cut = true;
            self.truncated = true;
        }
    }

    fn end_text(&mut self) {
        if self.state == State::KeyText {
            let cut = self.cut;
            let key = self.take_text();
            // Seen by `value`, which then leaves the value out.
            self.cut = cut;
            if let Some(step) = self.path.last_mut() {
                *step = Step::Key(key);
            }
            self.state = State::Colon;
            return;
        }
        if self.keep == Keep::Fingerprint {
            return self.place(Value::from(self.hash.finish()));
        }
        let fact_cut = self.cut && self.keep == Keep::Into;
        let text = self.take_text();
        if fact_cut {
            self.after_value();
        } else {
            self.place(Value::String(text));
        }
    }

    /// The text under way, with invalid UTF-8 replaced. Where it was cut, half a character and half a word go
    /// with it: a redactor could not recognise half a credential.
    fn take_text(&mut self) -> String {
        let mut bytes = std::mem::take(&mut self.token);
        if self.cut {
            let keep = without_last_word(&bytes);
            bytes.truncate(keep);
        }
        self.cut = false;
        String::from_utf8(bytes)
            .unwrap_or_else(|invalid| String::from_utf8_lossy(invalid.as_bytes()).into_owned())
    }

    fn number(&mut self, data: &[u8]) -> usize {
        let end = data
            .iter()
            .position(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
            .unwrap_or(data.len());
        if self.token.len() + end > MAX_NUMBER {
            return self.broken();
        }
        self.token.extend_from_slice(&data[..end]);
        if end < data.len() {
            self.end_number();
        }
        end
    }

    fn end_number(&mut self) {
        match serde_json::from_slice::<Number>(&self.token) {
            Ok(number) => self.place(Value::Number(number)),
            Err(_) => {
                self.broken();
            }
        }
    }

    fn literal(&mut self, data: &[u8]) -> usize {
        self.token.push(data[0]);
        let value = match self.token.as_slice() {
            b"true" => Value::Bool(true),
            b"false" => Value::Bool(false),
            b"null" => Value::Null,
            begun if [&b"true"[..], b"false", b"null"].iter().any(|word| word.starts_with(begun)) => {
                return 1;
            }
            _ => return self.broken(),
        };
        self.place(value);
        1
    }

    /// Passes over a value. Returns the bytes used.
    fn skip(&mut self, mut skip: Skip, data: &[u8]) -> usize {
        let hashed = self.keep == Keep::Fingerprint;
        let mut at = 0;
        while at < data.len() {
            if skip.quoted {
                if skip.escaped {
                    skip.escaped = false;
                    skip.count += u64::from(skip.depth == 0);
                    if hashed {
                        self.hash.write(&data[at..=at]);
                    }
                    at += 1;
                    continue;
                }
                let run = memchr2(b'"', b'\\', &data[at..]).unwrap_or(data.len() - at);
                if hashed {
                    self.hash.write(&data[at..(at + run + 1).min(data.len())]);
                }
                if skip.depth == 0 {
                    skip.count += run as u64;
                }
                at += run;
                match data.get(at) {
                    None => break,
                    Some(b'\\') => skip.escaped = true,
                    Some(_) => {
                        skip.quoted = false;
                        if skip.depth == 0 {
                            self.end_skip(skip);
                            return at + 1;
                        }
                    }
                }
                at += 1;
                continue;
            }
            let byte = data[at];
            if skip.depth == 0 && matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r') {
                self.end_skip(skip);
                return at;
            }
            if hashed && !byte.is_ascii_whitespace() {
                self.hash.write(&[byte]);
            }
            match byte {
                b'"' => {
                    skip.quoted = true;
                    skip.any = true;
                }
                b'{' | b'[' => {
                    skip.any = true;
                    skip.depth = skip.depth.saturating_add(1);
                }
                b'}' | b']' => {
                    skip.depth -= 1;
                    if skip.depth == 0 {
                        skip.count += u64::from(skip.any);
                        self.end_skip(skip);
                        return at + 1;
                    }
                }
                b',' => skip.count += u64::from(skip.depth == 1),
                byte => skip.any |= !byte.is_ascii_whitespace(),
            }
            at += 1;
        }
        self.state = State::Skip(skip);
        data.len()
    }

    fn end_skip(&mut self, skip: Skip) {
        match self.keep {
            Keep::Kind => self.place(match skip.kind {
                b'{' => Value::Object(Map::new()),
                b'[' => Value::Array(Vec::new()),
                b'"' => Value::String(String::new()),
                b't' | b'f' => Value::Bool(skip.kind == b't'),
                b'n' => Value::Null,
                _ => Value::from(0),
            }),
            Keep::Count => self.place(Value::from(skip.count)),
            Keep::Fingerprint => self.place(Value::from(self.hash.finish())),
            _ => self.after_value(),
        }
    }

    /// Puts a kept value where it belongs.
    fn place(&mut self, value: Value) {
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some(Open::Array { each: true, .. }) => {
                self.facts = self.spent_before;
                self.element = Some(value);
            }
            Some(Open::Array { items, .. }) => items.push(value),
            Some(Open::Object { map, .. }) => {
                if let Some(Step::Key(key)) = self.path.last_mut() {
                    map.insert(std::mem::take(key), value);
                }
            }
        }
        self.after_value();
    }

    fn after_value(&mut self) {
        self.state = if self.open.is_empty() { State::Done } else { State::Next };
    }

    /// Ends the innermost container.
    fn close(&mut self) {
        self.path.pop();
        let value = match self.open.pop() {
            Some(Open::Array { items, .. }) => Value::Array(items),
            Some(Open::Object { map, .. }) => Value::Object(map),
            None => return,
        };
        self.place(value);
    }

    /// Whether the innermost container is kept whole.
    fn all(&self) -> bool {
        matches!(self.open.last(), Some(Open::Array { all: true, .. } | Open::Object { all: true, .. }))
    }

    fn spend_texts(&mut self, bytes: usize) -> bool {
        self.texts = self.texts.saturating_add(bytes);
        self.texts <= self.limits.texts
    }

    fn spend_facts(&mut self, bytes: usize) -> bool {
        self.facts = self.facts.saturating_add(bytes);
        self.facts <= self.limits.facts
    }

    fn start_token(&mut self, state: State) {
        self.token.clear();
        self.escape = Escape::No;
        self.high = None;
        self.cut = false;
        self.state = state;
    }

    fn broken(&mut self) -> usize {
        self.state = State::Broken;
        self.token = Vec::new();
        0
    }
}

/// How much of a text that was cut to keep: up to its last word, and no half character.
pub(crate) fn without_last_word(text: &[u8]) -> usize {
    // Longer than any credential but keys in PEM, which are known by their first line.
    const LONGEST_WORD: usize = 512;
    let from = text.len().saturating_sub(LONGEST_WORD);
    let mut keep = text[from..].iter().rposition(u8::is_ascii_whitespace).map_or(from, |at| from + at);
    while keep > 0 && keep < text.len() && text[keep] & 0xC0 == 0x80 {
        keep -= 1;
    }
    keep
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const LIMITS: Limits = Limits { facts: 1 << 20, texts: 1 << 20 };

    fn everything(_: &[Step], _: bool) -> Keep {
        Keep::All
    }

    fn read(text: &str) -> Read {
        Reader::read(everything, true, LIMITS, text.as_bytes())
    }

    fn facts_only(path: &[Step], _: bool) -> Keep {
        match path.last().map_or("", Step::name) {
            "messages" => Keep::Kind,
            "embedding" => Keep::Count,
            "dropped" => Keep::Nothing,
            _ => Keep::Into,
        }
    }

    #[test]
    fn a_text_is_read_as_serde_json_reads_it() {
        for text in [
            r#"{"a":[1,-2.5e3,true,false,null,"x"],"b":{"c":{}},"d":[]}"#,
            r#" [ [ ] , { } , "" , 18446744073709551615, -9223372036854775808, 0.1 ] "#,
            r#""\u00e9\ud83d\ude00\n\"\\\/\b\f\r\t""#,
            "12",
            "null",
            "\"\u{1F600} ü\"",
        ] {
            let got = read(text);
            assert_eq!(got.value, serde_json::from_str::<Value>(text).unwrap(), "{text}");
            assert!(got.complete && !got.truncated, "{text}");
        }
    }

    #[test]
    fn facts_are_kept_and_the_rest_is_kind_count_or_nothing() {
        let text = br#"{"messages":[{"content":"secret"}],"model":"m","data":[{"embedding":[0.1,0.2,0.3]},{"embedding":"QUJD\/w=="},{"embedding":[]}],"dropped":{"x":["]",{"y":"}"}]},"n":1}"#;
        let got = Reader::read(facts_only, false, LIMITS, text);
        assert_eq!(
            got.value,
            json!({"messages":[],"model":"m","data":[{"embedding":3},{"embedding":8},{"embedding":0}],"n":1})
        );
        assert!(got.complete);
    }

    #[test]
    fn a_cut_text_gives_what_was_complete() {
        let text = br#"{"model":"m","n":12"#;
        let got = Reader::read(facts_only, false, LIMITS, text);
        assert_eq!(got.value, json!({"model":"m"}));
        assert!(!got.complete);
    }

    #[test]
    fn half_a_fact_is_left_out_and_half_a_content_text_is_kept_up_to_a_word() {
        let half = Reader::read(facts_only, false, LIMITS, br#"{"a":1,"model":"gpt-4o-mi"#);
        assert_eq!(half.value, json!({"a":1}));
        let got = read(r#"[{"content":"one two thr"#);
        assert_eq!(got.value, json!([{"content":"one two"}]));
    }

    #[test]
    fn content_beyond_its_limit_is_left_out_and_facts_after_it_are_kept() {
        fn filter(path: &[Step], _: bool) -> Keep {
            if path.last().is_some_and(|step| step.name() == "messages") { Keep::All } else { Keep::Into }
        }
        let long = "word ".repeat(1000);
        let text = format!(r#"{{"messages":[{{"content":"{long}"}},{{"content":"more"}}],"model":"m"}}"#);
        let got = Reader::read(filter, true, Limits { facts: 1000, texts: 1000 }, text.as_bytes());
        assert!(got.truncated && got.complete);
        assert_eq!(got.value["model"], "m");
        let kept = got.value["messages"][0]["content"].as_str().unwrap();
        assert!(kept.len() < 1000 && kept.starts_with("word word") && kept.ends_with("word"));
        assert_eq!(got.value["messages"][1], Value::Null);
    }

    #[test]
    fn many_small_values_are_bounded_in_memory() {
        let text = format!("[{}1]", "[],".repeat(100_000));
        let got = Reader::read(everything, true, Limits { facts: 0, texts: 100_000 }, text.as_bytes());
        assert!(got.truncated && got.complete);
        assert!(got.value.as_array().unwrap().len() < 2000);
    }

    #[test]
    fn nesting_beyond_the_limit_is_left_out() {
        let text = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        let got = read(&text);
        assert!(got.truncated && got.complete);
    }

    #[test]
    fn what_is_no_json_is_incomplete() {
        for text in [
            "<html>",
            "{'a':1}",
            "{\"a\" 1}",
            "[1 2]",
            "nul",
            "truth",
            "{\"a\":1",
            "1.2.3",
            "[1}",
            "\"\\x\"",
            "\"\\u12g4\"",
        ] {
            assert!(!read(text).complete, "{text}");
        }
    }

    #[test]
    fn lone_surrogates_and_invalid_utf8_become_replacement_characters() {
        assert_eq!(read(r#""\ud800x""#).value, json!("\u{FFFD}x"));
        assert_eq!(read(r#""\ud800\ud800\udc00""#).value, json!("\u{FFFD}\u{10000}"));
        assert_eq!(read(r#""\udc00""#).value, json!("\u{FFFD}"));
        let got = Reader::read(everything, true, LIMITS, b"\"a\xFFb\"");
        assert_eq!(got.value, json!("a\u{FFFD}b"));
    }

    #[test]
    fn a_key_too_long_takes_its_value_with_it() {
        let text = format!(r#"{{"{}":{{"x":1}},"n":2}}"#, "k".repeat(1000));
        let got = Reader::read(facts_only, false, LIMITS, text.as_bytes());
        assert_eq!(got.value, json!({"n":2}));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..5)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_value(value in any_json(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
            let text = serde_json::to_vec(&value).unwrap();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.sort_unstable();
            let mut reader = Reader::new(everything, true, Limits { facts: 1 << 20, texts: 1 << 20 });
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                reader.push(&text[from..cut]);
                from = cut;
            }
            let got = reader.finish();
            prop_assert!(got.complete);
            prop_assert_eq!(got.value, value);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            Reader::read(facts_only, false, LIMITS, &bytes);
            Reader::read(everything, true, Limits { facts: 10, texts: 200 }, &bytes);
        }
    }
}
