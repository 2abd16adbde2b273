//! Protocol buffers (protobuf.dev, "Encoding") as the JSON that they mean ("ProtoJSON Format"), while their bytes arrive.
//!
//! What is read stands in tables ([`Message`]): fields that are in none are passed over. Nothing is held but the way to
//! where reading is, so a message of any size costs nothing; what is kept of the JSON is its reader's to decide.
//!
//! # Where it is not ProtoJSON
//! Numbers of 64 bits are numbers, not strings, as those who read them expect. A value of an enumeration that its table
//! does not have is its number as a string.
//!
//! # Order
//! Fields may come in any order, but those of a list without others between them, and others once: so does everything
//! that writes protocol buffers, though the format allows for more. What does not is [`Unreadable`], not guessed at.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

/// A kind of message: what is read of it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) shape: Shape,
    /// 64 at most.
    pub(crate) fields: &'static [Field],
}

/// What JSON a message becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    Object,
    /// `google.protobuf.Struct`: its one field, a map, is the object.
    Struct,
    /// `google.protobuf.ListValue`: its one field is the array.
    List,
    /// `google.protobuf.Value`: what its one field is, or null.
    Value,
    /// An entry of a map: fields 1 and 2 are a member's name and value.
    Entry,
}

/// A field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    /// Of the member that it becomes.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) repeated: bool,
    /// Of a field whose presence says what the object is: the value of `type`, a member before it.
    pub(crate) tag: Option<&'static str>,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Of 32 or 64 bits, with a sign.
    Int,
    Bool,
    Float,
    Double,
    Text,
    /// Becomes base64.
    Bytes,
    /// `google.protobuf.NullValue`.
    Null,
    Enum(&'static [(u64, &'static str)]),
    Message(&'static Message),
}

impl Field {
    /// A field that comes once.
    pub(crate) const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
        Field { number, name, kind, repeated: false, tag: None }
    }

    /// A field that may come more than once.
    pub(crate) const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
        Field { number, name, kind, repeated: true, tag: None }
    }

    /// A field whose presence says what the object is.
    pub(crate) const fn tagged(self, tag: &'static str) -> Field {
        Field { tag: Some(tag), ..self }
    }
}

/// An object of which nothing but its presence is read.
pub(crate) static ANYTHING: Message = Message { shape: Shape::Object, fields: &[] };
/// `google.protobuf.Struct`.
pub(crate) static STRUCT: Message =
    Message { shape: Shape::Struct, fields: &[Field::many(1, "fields", Kind::Message(&STRUCT_ENTRY))] };
static STRUCT_ENTRY: Message = Message {
    shape: Shape::Entry,
    fields: &[Field::one(1, "key", Kind::Text), Field::one(2, "value", Kind::Message(&VALUE))],
};
/// `google.protobuf.Value`.
pub(crate) static VALUE: Message = Message {
    shape: Shape::Value,
    fields: &[
        Field::one(1, "nullValue", Kind::Null),
        Field::one(2, "numberValue", Kind::Double),
        Field::one(3, "stringValue", Kind::Text),
        Field::one(4, "boolValue", Kind::Bool),
        Field::one(5, "structValue", Kind::Message(&STRUCT)),
        Field::one(6, "listValue", Kind::Message(&LIST)),
    ],
};
static LIST: Message =
    Message { shape: Shape::List, fields: &[Field::many(1, "values", Kind::Message(&VALUE))] };

/// The bytes are no message, or one that says a thing twice. Nothing more of it can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the bytes are no protocol buffer in the order that is read")]
pub(crate) struct Unreadable;

/// Reads one message.
#[derive(Debug)]
pub(crate) struct Transcoder {
    /// The messages that are open, outermost first.
    open: Vec<Open>,
    state: State,
    /// Bytes that were read.
    position: u64,
    /// Text that was not handed on.
    json: Vec<u8>,
}

/// A message, or a packed list of numbers, that is being read.
#[derive(Debug)]
struct Open {
    message: &'static Message,
    /// The position of its end.
    end: u64,
    /// Fields that came, by their place in the table.
    came: u64,
    /// The list that is open.
    list: Option<usize>,
    /// The field of `message` that this is a packed list of.
    packed: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Tag(Varint),
    /// Fields are given by their place in the table; `None` is passed over.
    Number(Option<usize>, Varint),
    /// A number of fixed size.
    Fixed {
        field: Option<usize>,
        bytes: [u8; 8],
        read: usize,
        size: usize,
    },
    Length(Option<usize>, Varint),
    Text {
        left: u64,
    },
    Bytes {
        left: u64,
        /// What makes no group of three yet.
        rest: [u8; 3],
        held: usize,
    },
    Skip {
        left: u64,
    },
}

#[derive(Clone, Copy, Default, Debug)]
struct Varint {
    value: u64,
    shift: u32,
}

/// Deeper messages are not read: Google's own readers stop there.
const MAX_DEPTH: usize = 100;
/// JSON that is handed on at a time, about.
const PIECE: usize = 4 << 10;

impl Transcoder {
    /// For a message of that kind.
    pub(crate) fn new(message: &'static Message) -> Transcoder {
        let mut transcoder = Transcoder {
            open: Vec::new(),
            state: State::Tag(Varint::default()),
            position: 0,
            json: Vec::new(),
        };
        transcoder.enter(message, u64::MAX);
        transcoder
    }

    /// Takes the next bytes, and hands on the JSON text that they become.
    ///
    /// # Errors
    /// Nothing more of the message can be read.
    pub(crate) fn push(&mut self, data: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), Unreadable> {
        let read = self.read(data, out);
        // Also what came before an error: as much of a message as can be read.
        if !self.json.is_empty() {
            out(&self.json);
            self.json.clear();
        }
        read
    }

    /// The message's last byte has come.
    ///
    /// # Errors
    /// It had not.
    pub(crate) fn finish(mut self, out: &mut dyn FnMut(&[u8])) -> Result<(), Unreadable> {
        if self.open.len() != 1 || !self.is_between() {
            return Err(Unreadable);
        }
        self.leave();
        out(&self.json);
        Ok(())
    }

    fn read(&mut self, mut data: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), Unreadable> {
        while let (false, Some(end)) = (data.is_empty(), self.open.last().map(|open| open.end)) {
            let room = usize::try_from(end - self.position).unwrap_or(usize::MAX);
            let (now, later) = data.split_at(room.min(data.len()));
            let read = self.step(now)?;
            self.position += read as u64;
            data = if read == now.len() { later } else { &data[read..] };
            self.leave_what_is_over()?;
            if self.json.len() >= PIECE {
                out(&self.json);
                self.json.clear();
            }
        }
        Ok(())
    }

    /// Reads a part of `data`, which is not empty and ends where the open message does; how much.
    fn step(&mut self, data: &[u8]) -> Result<usize, Unreadable> {
        let within = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
        match self.state {
            State::Tag(mut varint) => {
                self.state = match varint.push(data[0])? {
                    None => State::Tag(varint),
                    Some(tag) => self.tag(tag)?,
                };
                Ok(1)
            }
            State::Number(field, mut varint) => {
                match varint.push(data[0])? {
                    None => self.state = State::Number(field, varint),
                    Some(value) => {
                        self.number(field, value)?;
                        self.go_on();
                    }
                }
                Ok(1)
            }
            State::Fixed { field, mut bytes, read, size } => {
                let length = data.len().min(size - read);
                bytes[read..read + length].copy_from_slice(&data[..length]);
                if read + length < size {
                    self.state = State::Fixed { field, bytes, read: read + length, size };
                } else {
                    self.fixed(field, bytes)?;
                    self.go_on();
                }
                Ok(length)
            }
            State::Length(field, mut varint) => {
                match varint.push(data[0])? {
                    None => self.state = State::Length(field, varint),
                    Some(length) => self.length(field, length)?,
                }
                Ok(1)
            }
            State::Text { left } => {
                let length = within(left);
                escape(&data[..length], &mut self.json);
                self.text_goes_on(left - length as u64);
                Ok(length)
            }
            State::Bytes { left, rest, held } => {
                let length = within(left);
                self.bytes(left, rest, held, &data[..length]);
                Ok(length)
            }
            State::Skip { left } => {
                let length = within(left);
                match left - length as u64 {
                    0 => self.go_on(),
                    left => self.state = State::Skip { left },
                }
                Ok(length)
            }
        }
    }

    /// A field begins.
    fn tag(&self, tag: u64) -> Result<State, Unreadable> {
        let number = u32::try_from(tag >> 3).map_err(|_| Unreadable)?;
        let Some(open) = self.open.last().filter(|_| number > 0) else { return Err(Unreadable) };
        let known = open.message.fields.iter().position(|field| field.number == number);
        let kind = known.map(|field| (open.message.fields[field].kind, open.message.fields[field].repeated));
        let field = |fits: bool| known.filter(|_| fits);
        let fixed = |field, size| State::Fixed { field, bytes: [0; 8], read: 0, size };
        // What has another type than expected is passed over, as an unknown field is.
        match tag & 7 {
            0 => {
                let fits = matches!(kind, Some((Kind::Int | Kind::Bool | Kind::Null | Kind::Enum(_), _)));
                Ok(State::Number(field(fits), Varint::default()))
            }
            1 => Ok(fixed(field(matches!(kind, Some((Kind::Double, _)))), 8)),
            5 => Ok(fixed(field(matches!(kind, Some((Kind::Float, _)))), 4)),
            2 => {
                let fits = match kind {
                    Some((Kind::Text | Kind::Bytes | Kind::Message(_), _)) => true,
                    // Packed.
                    Some((_, repeated)) => repeated,
                    None => false,
                };
                Ok(State::Length(field(fits), Varint::default()))
            }
            // Groups, which are of the past, and what is none.
            _ => Err(Unreadable),
        }
    }

    fn length(&mut self, field: Option<usize>, length: u64) -> Result<(), Unreadable> {
        // The last byte of the length itself is not counted yet.
        let position = self.position + 1;
        let Some(open) = self.open.last().filter(|open| length <= open.end - position) else {
            return Err(Unreadable);
        };
        let Some(field) = field else {
            match length {
                0 => self.go_on(),
                left => self.state = State::Skip { left },
            }
            return Ok(());
        };
        match open.message.fields[field].kind {
            Kind::Message(message) => {
                self.begin(field)?;
                if self.open.len() >= MAX_DEPTH {
                    return Err(Unreadable);
                }
                self.enter(message, position + length);
                self.state = State::Tag(Varint::default());
                Ok(())
            }
            Kind::Text => {
                self.begin(field)?;
                self.json.push(b'"');
                self.text_goes_on(length);
                Ok(())
            }
            Kind::Bytes => {
                self.begin(field)?;
                self.json.push(b'"');
                self.bytes(length, [0; 3], 0, &[]);
                Ok(())
            }
            _ => {
                let (message, end) = (open.message, position + length);
                self.open.push(Open { message, end, came: 0, list: None, packed: Some(field) });
                self.go_on();
                Ok(())
            }
        }
    }

    fn text_goes_on(&mut self, left: u64) {
        if left == 0 {
            self.json.push(b'"');
            self.go_on();
        } else {
            self.state = State::Text { left };
        }
    }

    /// More of some bytes, of which `left` had not come.
    fn bytes(&mut self, left: u64, mut rest: [u8; 3], mut held: usize, data: &[u8]) {
        // As many as base64 makes of them, and no more at a time.
        const GROUPS: usize = 768;
        let mut text = [0; GROUPS / 3 * 4];
        let left = left - data.len() as u64;
        let mut write = |bytes: &[u8], json: &mut Vec<u8>| {
            let length = STANDARD.encode_slice(bytes, &mut text).unwrap_or_default();
            json.extend_from_slice(&text[..length]);
        };
        let fill = (3 - held).min(data.len());
        let (first, data) = data.split_at(if held > 0 { fill } else { 0 });
        rest[held..held + first.len()].copy_from_slice(first);
        held += first.len();
        if held == 3 {
            write(&rest, &mut self.json);
            held = 0;
        }
        let (groups, last) = data.split_at(data.len() / 3 * 3);
        groups.chunks(GROUPS).for_each(|groups| write(groups, &mut self.json));
        rest[held..held + last.len()].copy_from_slice(last);
        held += last.len();
        if left > 0 {
            self.state = State::Bytes { left, rest, held };
        } else {
            write(&rest[..held], &mut self.json);
            self.json.push(b'"');
            self.go_on();
        }
    }

    fn number(&mut self, field: Option<usize>, value: u64) -> Result<(), Unreadable> {
        let Some((field, kind)) = self.kind(field) else { return Ok(()) };
        self.begin(field)?;
        match kind {
            Kind::Bool => self.json.extend_from_slice(if value == 0 { b"false" } else { b"true" }),
            Kind::Null => self.json.extend_from_slice(b"null"),
            Kind::Enum(names) => {
                let name = names.iter().find(|(number, _)| *number == value).map(|(_, name)| *name);
                let number = || value.cast_signed().to_string();
                let name = name.map_or_else(number, str::to_owned);
                self.quoted(&name);
            }
            _ => self.json.extend_from_slice(value.cast_signed().to_string().as_bytes()),
        }
        Ok(())
    }

    fn fixed(&mut self, field: Option<usize>, bytes: [u8; 8]) -> Result<(), Unreadable> {
        let Some((field, kind)) = self.kind(field) else { return Ok(()) };
        self.begin(field)?;
        let [a, b, c, d, ..] = bytes;
        let single = f32::from_le_bytes([a, b, c, d]);
        // Each in its own digits: 0.7 is not 0.699999988.
        let (finite, text) = match kind {
            Kind::Float => (single.is_finite(), single.to_string()),
            _ => (f64::from_le_bytes(bytes).is_finite(), f64::from_le_bytes(bytes).to_string()),
        };
        if finite {
            self.json.extend_from_slice(text.as_bytes());
        } else {
            self.quoted(&text);
        }
        Ok(())
    }

    fn kind(&self, field: Option<usize>) -> Option<(usize, Kind)> {
        let field = field?;
        Some((field, self.open.last()?.message.fields.get(field)?.kind))
    }

    fn quoted(&mut self, text: &str) {
        self.json.push(b'"');
        escape(text.as_bytes(), &mut self.json);
        self.json.push(b'"');
    }

    /// What stands in JSON before a value of that field.
    fn begin(&mut self, field: usize) -> Result<(), Unreadable> {
        let json = &mut self.json;
        // A packed list belongs to the message around it.
        let Some(open) = self.open.iter_mut().rev().find(|open| open.packed.is_none()) else {
            return Err(Unreadable);
        };
        let came = open.came;
        open.came |= 1 << field;
        match open.message.shape {
            Shape::Struct | Shape::List if came == 0 => {}
            Shape::Struct | Shape::List => json.push(b','),
            Shape::Value if came == 0 => {}
            // The name, which comes first.
            Shape::Entry if field == 0 && came == 0 => {}
            Shape::Entry if field == 1 && came & 0b10 == 0 => {
                json.extend_from_slice(if came == 0 { b"\"\":" } else { b":" });
            }
            Shape::Value | Shape::Entry => return Err(Unreadable),
            Shape::Object if open.list == Some(field) => json.push(b','),
            Shape::Object if came & 1 << field != 0 => return Err(Unreadable),
            Shape::Object => {
                let Field { name, kind, repeated, tag, .. } = open.message.fields[field];
                if let Some(list) = open.list.take() {
                    json.push(brackets(open.message.fields[list].kind).1);
                }
                if came != 0 {
                    json.push(b',');
                }
                if let Some(tag) = tag {
                    json.extend_from_slice(b"\"type\":\"");
                    json.extend_from_slice(tag.as_bytes());
                    json.extend_from_slice(b"\",");
                }
                json.push(b'"');
                json.extend_from_slice(name.as_bytes());
                json.extend_from_slice(b"\":");
                if repeated {
                    json.push(brackets(kind).0);
                    open.list = Some(field);
                }
            }
        }
        Ok(())
    }

    /// A value is over: the next field, or number of a packed list, may come.
    fn go_on(&mut self) {
        let packed = self.open.last().and_then(|open| Some((open.packed?, open.message)));
        self.state = match packed {
            None => State::Tag(Varint::default()),
            Some((field, message)) => {
                let fixed = |size| State::Fixed { field: Some(field), bytes: [0; 8], read: 0, size };
                match message.fields[field].kind {
                    Kind::Float => fixed(4),
                    Kind::Double => fixed(8),
                    _ => State::Number(Some(field), Varint::default()),
                }
            }
        };
    }

    fn enter(&mut self, message: &'static Message, end: u64) {
        match message.shape {
            Shape::Object | Shape::Struct => self.json.push(b'{'),
            Shape::List => self.json.push(b'['),
            Shape::Value | Shape::Entry => {}
        }
        self.open.push(Open { message, end, came: 0, list: None, packed: None });
    }

    fn leave_what_is_over(&mut self) -> Result<(), Unreadable> {
        while self.open.last().is_some_and(|open| open.end == self.position) {
            if !self.is_between() {
                return Err(Unreadable);
            }
            self.leave();
        }
        Ok(())
    }

    /// Nothing of a field, or of a number of a packed list, has come.
    fn is_between(&self) -> bool {
        let packed = self.open.last().is_some_and(|open| open.packed.is_some());
        match self.state {
            State::Tag(varint) => varint.shift == 0,
            State::Number(_, varint) => packed && varint.shift == 0,
            State::Fixed { read, .. } => packed && read == 0,
            State::Length(..) | State::Text { .. } | State::Bytes { .. } | State::Skip { .. } => false,
        }
    }

    fn leave(&mut self) {
        let Some(open) = self.open.pop() else { return };
        if open.packed.is_none() {
            if let Some(list) = open.list {
                self.json.push(brackets(open.message.fields[list].kind).1);
            }
            match open.message.shape {
                Shape::Object | Shape::Struct => self.json.push(b'}'),
                Shape::List => self.json.push(b']'),
                Shape::Value if open.came == 0 => self.json.extend_from_slice(b"null"),
                Shape::Entry if open.came == 0 => self.json.extend_from_slice(b"\"\":null"),
                Shape::Entry if open.came == 1 => self.json.extend_from_slice(b":null"),
                Shape::Value | Shape::Entry => {}
            }
        }
        self.go_on();
    }
}

impl Varint {
    /// The number, with its last byte.
    fn push(&mut self, byte: u8) -> Result<Option<u64>, Unreadable> {
        let part = u64::from(byte & 0x7F);
        // The tenth byte has one bit left.
        if self.shift > 63 || (self.shift == 63 && part > 1) {
            return Err(Unreadable);
        }
        self.value |= part << self.shift;
        self.shift += 7;
        Ok((byte & 0x80 == 0).then_some(self.value))
    }
}

/// What stands around a list, or a map.
fn brackets(kind: Kind) -> (u8, u8) {
    match kind {
        Kind::Message(Message { shape: Shape::Entry, .. }) => (b'{', b'}'),
        _ => (b'[', b']'),
    }
}

/// Text as JSON writes it between quotes. What is no UTF-8 stays: its reader sees to it.
fn escape(text: &[u8], json: &mut Vec<u8>) {
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    let mut rest = text;
    while let Some(at) = rest.iter().position(special) {
        json.extend_from_slice(&rest[..at]);
        match rest[at] {
            byte @ (b'"' | b'\\') => json.extend_from_slice(&[b'\\', byte]),
            byte => json.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
        rest = &rest[at + 1..];
    }
    json.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;
    use std::collections::BTreeMap;

    /// The text that is read, in pieces of that size, and whether it is all.
    fn text(message: &'static Message, bytes: &[u8], piece: usize) -> (Vec<u8>, Result<(), Unreadable>) {
        let mut json = Vec::new();
        let mut out = |part: &[u8]| json.extend_from_slice(part);
        let mut transcoder = Transcoder::new(message);
        let read = bytes.chunks(piece).try_for_each(|piece| transcoder.push(piece, &mut out));
        let read = read.and_then(|()| transcoder.finish(&mut out));
        (json, read)
    }

    /// What is read, in pieces of that size.
    fn read(message: &'static Message, bytes: &[u8], piece: usize) -> Result<serde_json::Value, Unreadable> {
        let (json, read) = text(message, bytes, piece);
        read?;
        Ok(serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{error}: {json:?}")))
    }

    static ALL: Message = Message {
        shape: Shape::Object,
        fields: &[
            Field::one(1, "text", Kind::Text),
            Field::one(2, "bytes", Kind::Bytes),
            Field::one(3, "int", Kind::Int),
            Field::one(4, "truth", Kind::Bool),
            Field::one(5, "float", Kind::Float),
            Field::one(6, "double", Kind::Double),
            Field::one(7, "enum", Kind::Enum(&[(1, "ONE"), (2, "TWO")])),
            Field::many(8, "texts", Kind::Text),
            Field::many(9, "ints", Kind::Int),
            Field::many(10, "floats", Kind::Float),
            Field::one(11, "inner", Kind::Message(&ALL)),
            Field::many(12, "list", Kind::Message(&ALL)),
            Field::many(13, "map", Kind::Message(&MAP)),
            Field::one(200, "any", Kind::Message(&VALUE)),
            Field::one(1000, "tagged", Kind::Text).tagged("tag"),
        ],
    };
    static MAP: Message = Message {
        shape: Shape::Entry,
        fields: &[Field::one(1, "key", Kind::Text), Field::one(2, "value", Kind::Message(&ALL))],
    };

    /// As a well-known library writes it.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Written {
        #[prost(string, optional, tag = "1")]
        text: Option<String>,
        #[prost(bytes = "vec", optional, tag = "2")]
        bytes: Option<Vec<u8>>,
        #[prost(int64, optional, tag = "3")]
        int: Option<i64>,
        #[prost(bool, optional, tag = "4")]
        truth: Option<bool>,
        #[prost(float, optional, tag = "5")]
        float: Option<f32>,
        #[prost(double, optional, tag = "6")]
        double: Option<f64>,
        #[prost(int32, optional, tag = "7")]
        number: Option<i32>,
        #[prost(string, repeated, tag = "8")]
        texts: Vec<String>,
        #[prost(int32, repeated, tag = "9")]
        ints: Vec<i32>,
        #[prost(float, repeated, tag = "10")]
        floats: Vec<f32>,
        #[prost(message, optional, boxed, tag = "11")]
        inner: Option<Box<Written>>,
        #[prost(message, repeated, tag = "12")]
        list: Vec<Written>,
        #[prost(btree_map = "string, message", tag = "13")]
        map: BTreeMap<String, Written>,
        /// In no table.
        #[prost(string, optional, tag = "15")]
        unknown_text: Option<String>,
        #[prost(fixed64, optional, tag = "16")]
        unknown_fixed: Option<u64>,
        #[prost(fixed32, optional, tag = "17")]
        unknown_single: Option<u32>,
        #[prost(uint64, optional, tag = "18")]
        unknown_int: Option<u64>,
        #[prost(message, optional, tag = "200")]
        any: Option<Any>,
        #[prost(string, optional, tag = "1000")]
        tagged: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Any {
        #[prost(oneof = "AnyKind", tags = "1, 2, 3, 4, 5, 6")]
        kind: Option<AnyKind>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    enum AnyKind {
        #[prost(int32, tag = "1")]
        Null(i32),
        #[prost(double, tag = "2")]
        Number(f64),
        #[prost(string, tag = "3")]
        Text(String),
        #[prost(bool, tag = "4")]
        Truth(bool),
        #[prost(message, tag = "5")]
        Struct(Struct),
        #[prost(message, tag = "6")]
        List(List),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Struct {
        #[prost(btree_map = "string, message", tag = "1")]
        fields: BTreeMap<String, Any>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct List {
        #[prost(message, repeated, tag = "1")]
        values: Vec<Any>,
    }

    impl Written {
        /// What it means.
        fn json(&self) -> serde_json::Value {
            let mut map = serde_json::Map::new();
            let mut put = |name: &str, value: Option<serde_json::Value>| {
                if let Some(value) = value {
                    map.insert(name.to_owned(), value);
                }
            };
            put("text", self.text.as_ref().map(json));
            put("bytes", self.bytes.as_ref().map(|bytes| json(&STANDARD.encode(bytes))));
            put("int", self.int.as_ref().map(json));
            put("truth", self.truth.as_ref().map(json));
            put("float", self.float.map(|float| serde_json::from_str(&float.to_string()).unwrap()));
            put("double", self.double.map(|double| serde_json::from_str(&double.to_string()).unwrap()));
            let name = |number: &i32| match number {
                1 => "ONE".to_owned(),
                2 => "TWO".to_owned(),
                other => other.to_string(),
            };
            put("enum", self.number.as_ref().map(|number| json(&name(number))));
            put("texts", (!self.texts.is_empty()).then(|| json(&self.texts)));
            put("ints", (!self.ints.is_empty()).then(|| json(&self.ints)));
            let number = |float: &f32| serde_json::from_str::<serde_json::Value>(&float.to_string()).unwrap();
            put("floats", (!self.floats.is_empty()).then(|| self.floats.iter().map(number).collect()));
            put("inner", self.inner.as_ref().map(|inner| inner.json()));
            put("list", (!self.list.is_empty()).then(|| self.list.iter().map(Written::json).collect()));
            let entries = || self.map.iter().map(|(key, value)| (key.clone(), value.json())).collect();
            put("map", (!self.map.is_empty()).then(entries));
            put("any", self.any.as_ref().map(Any::json));
            put("type", self.tagged.as_ref().map(|_| json("tag")));
            put("tagged", self.tagged.as_ref().map(json));
            serde_json::Value::Object(map)
        }
    }

    impl Any {
        fn json(&self) -> serde_json::Value {
            match &self.kind {
                None | Some(AnyKind::Null(_)) => serde_json::Value::Null,
                Some(AnyKind::Number(number)) => serde_json::from_str(&number.to_string()).unwrap(),
                Some(AnyKind::Text(text)) => json(text),
                Some(AnyKind::Truth(truth)) => json(truth),
                Some(AnyKind::Struct(fields)) => {
                    fields.fields.iter().map(|(key, value)| (key.clone(), value.json())).collect()
                }
                Some(AnyKind::List(list)) => list.values.iter().map(Any::json).collect(),
            }
        }
    }

    fn json<T: serde::Serialize + ?Sized>(value: &T) -> serde_json::Value {
        serde_json::to_value(value).unwrap()
    }

    fn any_value() -> impl Strategy<Value = Any> {
        let leaf = prop_oneof![
            Just(None),
            Just(Some(AnyKind::Null(0))),
            (-1e9..1e9f64).prop_map(|number| Some(AnyKind::Number(number))),
            any::<i32>().prop_map(|number| Some(AnyKind::Number(number.into()))),
            ".{0,8}".prop_map(|text| Some(AnyKind::Text(text))),
            any::<bool>().prop_map(|truth| Some(AnyKind::Truth(truth))),
        ]
        .prop_map(|kind| Any { kind });
        leaf.prop_recursive(4, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::btree_map(".{0,5}", inner.clone(), 0..4)
                    .prop_map(|fields| Any { kind: Some(AnyKind::Struct(Struct { fields })) }),
                proptest::collection::vec(inner, 0..4)
                    .prop_map(|values| Any { kind: Some(AnyKind::List(List { values })) }),
            ]
        })
    }

    fn written() -> impl Strategy<Value = Written> {
        use proptest::collection::{btree_map, vec};
        use proptest::option::of;
        let scalars = (
            of("\\PC{0,20}|[\\x00-\\x7f]{0,8}"),
            of(vec(any::<u8>(), 0..20)),
            of(any::<i64>()),
            of(any::<bool>()),
            of(-1e6..1e6f32),
            of(-1e12..1e12f64),
            of(-3..5i32),
        );
        let lists = (vec(".{0,6}", 0..4), vec(any::<i32>(), 0..6), vec(-1e3..1e3f32, 0..6));
        let others = (
            of(".{0,9}"),
            of(any::<u64>()),
            of(any::<u32>()),
            of(any::<u64>()),
            of(any_value()),
            of(".{0,9}"),
        );
        let flat = (scalars, lists, others).prop_map(|(scalars, lists, others)| Written {
            text: scalars.0,
            bytes: scalars.1,
            int: scalars.2,
            truth: scalars.3,
            float: scalars.4,
            double: scalars.5,
            number: scalars.6,
            texts: lists.0,
            ints: lists.1,
            floats: lists.2,
            unknown_text: others.0,
            unknown_fixed: others.1,
            unknown_single: others.2,
            unknown_int: others.3,
            any: others.4,
            tagged: others.5,
            ..Written::default()
        });
        flat.prop_recursive(3, 12, 3, |inner| {
            let parts =
                (of(inner.clone()), vec(inner.clone(), 0..3), btree_map(".{0,5}", inner.clone(), 0..3));
            (inner, parts).prop_map(|(outer, (inner, list, map))| Written {
                inner: inner.map(Box::new),
                list,
                map,
                ..outer
            })
        })
    }

    proptest! {
        #[test]
        fn what_a_well_known_library_writes_is_read_as_it_was_meant(
            message in written(),
            piece in prop_oneof![Just(usize::MAX), 1..40usize],
        ) {
            let bytes = message.encode_to_vec();
            prop_assert_eq!(read(&ALL, &bytes, piece), Ok(message.json()));
        }

        #[test]
        fn any_bytes_are_json_or_none_however_they_are_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            piece in 1..20usize,
        ) {
            prop_assert_eq!(text(&ALL, &bytes, piece), text(&ALL, &bytes, usize::MAX));
            let _ = read(&ALL, &bytes, piece);
        }

        #[test]
        fn what_comes_before_an_error_does_not_depend_on_cuts(
            message in written(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            piece in 1..20usize,
        ) {
            let mut bytes = message.encode_to_vec();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            prop_assert_eq!(text(&ALL, &bytes, piece), text(&ALL, &bytes, usize::MAX));
        }

        #[test]
        fn a_message_that_is_cut_is_no_other_message(message in written(), cut in any::<prop::sample::Index>()) {
            let bytes = message.encode_to_vec();
            let cut = cut.index(bytes.len() + 1);
            // What ends between two fields is a message, with what came so far.
            if let (Ok(read), Ok(theirs)) = (read(&ALL, &bytes[..cut], 7), Written::decode(&bytes[..cut])) {
                prop_assert_eq!(read, theirs.json());
            }
        }
    }

    #[test]
    fn a_list_that_is_not_packed_is_read_too() {
        assert_eq!(read(&ALL, &[9 << 3, 1, 9 << 3, 2], 1), Ok(serde_json::json!({"ints": [1, 2]})));
    }

    #[test]
    fn what_says_a_thing_twice_is_not_read() {
        let twice = [1 << 3 | 2, 1, b'a', 1 << 3 | 2, 1, b'b'];
        assert_eq!(read(&ALL, &twice, 3), Err(Unreadable));
        let apart = [8 << 3 | 2, 1, b'a', 3 << 3, 5, 8 << 3 | 2, 1, b'b'];
        assert_eq!(read(&ALL, &apart, 3), Err(Unreadable), "a list in two pieces");
    }

    #[test]
    fn no_message_is_deeper_than_the_limit_and_none_is_longer_than_what_it_is_in() {
        let nested = |depth: usize| {
            (0..depth).fold(Vec::new(), |inner, _| {
                let message = Written { unknown_text: None, ..Written::default() };
                let mut bytes = message.encode_to_vec();
                prost::encoding::encode_key(11, prost::encoding::WireType::LengthDelimited, &mut bytes);
                prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
                bytes.extend(inner);
                bytes
            })
        };
        assert!(read(&ALL, &nested(MAX_DEPTH - 1), 9).is_ok());
        assert_eq!(read(&ALL, &nested(MAX_DEPTH), 9), Err(Unreadable));
        // A message of two bytes that holds a text of five.
        assert_eq!(read(&ALL, &[11 << 3 | 2, 2, 1 << 3 | 2, 5, b'a'], 1), Err(Unreadable));
        assert_eq!(read(&ALL, &[11 << 3 | 2, 1, 3 << 3], 1), Err(Unreadable), "a field without its value");
        assert_eq!(read(&ALL, &[3 << 3], 1), Err(Unreadable));
        assert_eq!(read(&ALL, &[0], 1), Err(Unreadable), "no field has the number 0");
    }
}
