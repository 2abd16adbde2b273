//! The messages of a WebSocket (RFC 6455), with permessage-deflate (RFC 7692), read as their bytes arrive.
//!
//! [`Reader`] reads one direction from the end of the handshake on; what the messages are is the matter of whoever is
//! handed them ([`Dialogue`]).
//!
//! # After a loss
//! Bytes that are missing within a frame cost the rest of its message. Any other loss costs its direction its place:
//! reading goes on at a chunk that begins with a frame whose message begins as a JSON object, since nothing else is
//! certain. Where messages are compressed with the window of those before them (context takeover), a lost byte of one
//! leaves none of the later ones readable: then the reading of that direction is over.
//!
//! # Memory
//! A frame's header and, once a message is compressed, one decoder a direction. Messages are handed on in pieces.

use crate::coding::{Coding, CodingError, INFLATE_MEMORY, Inflate};
use crate::connection::{Counters, Output};
use crate::http::{Dialogue, Direction, End, Exchanges, Headers, Progress};
use crate::streams::Arrival;
use crate::time::Timestamp;

/// What a handshake agreed on: whether that direction's messages may be compressed, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreed {
    /// What the client sends.
    pub sent: Option<Deflate>,
    /// What it receives.
    pub received: Option<Deflate>,
}

/// How a direction's messages are compressed. Its window's size is not needed: the largest holds every smaller one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deflate {
    /// Messages refer to those before them.
    pub takeover: bool,
}

impl Agreed {
    /// What the head of a `101 (Switching Protocols)` says; `None` where it makes no WebSocket, or one with extensions
    /// that are not known. Whether the accept key is the right one is for the client to see, who would hang up.
    pub fn by(response: &Headers) -> Option<Agreed> {
        let upgrade = response.get("upgrade").is_some_and(|name| name.eq_ignore_ascii_case("websocket"));
        if !upgrade || response.get("sec-websocket-accept").is_none() {
            return None;
        }
        let mut agreed = Agreed::default();
        for extension in response.all("sec-websocket-extensions").flat_map(|list| list.split(',')) {
            let mut parts = extension.split(';').map(str::trim);
            match parts.next() {
                None | Some("") => continue,
                Some(name) if name.eq_ignore_ascii_case("permessage-deflate") => {}
                Some(_) => return None,
            }
            let (mut sent, mut received) = (Deflate { takeover: true }, Deflate { takeover: true });
            for parameter in parts {
                let (name, value) = match parameter.split_once('=') {
                    Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
                    None => (parameter, None),
                };
                let is_window = || value.is_some_and(|v| matches!(v.parse(), Ok(8..=15_u8)));
                match name.to_ascii_lowercase().as_str() {
                    "client_no_context_takeover" if value.is_none() => sent.takeover = false,
                    "server_no_context_takeover" if value.is_none() => received.takeover = false,
                    "client_max_window_bits" | "server_max_window_bits" if is_window() => {}
                    _ => return None,
                }
            }
            if agreed.sent.is_some() {
                return None;
            }
            agreed = Agreed { sent: Some(sent), received: Some(received) };
        }
        Some(agreed)
    }
}

/// A connection that is a WebSocket, between its handshake and its end.
pub(crate) struct WebSocket<D> {
    sent: Reader,
    received: Reader,
    /// `None`: it is over, or nobody wants to read on.
    dialogue: Option<D>,
}

impl<D> WebSocket<D> {
    pub(crate) fn new(agreed: Agreed, limit: u64, dialogue: D) -> WebSocket<D> {
        WebSocket {
            sent: Reader::new(true, agreed.sent, limit),
            received: Reader::new(false, agreed.received, limit),
            dialogue: Some(dialogue),
        }
    }

    /// Takes what a chunk adds to its direction.
    pub(crate) fn arrival<X: Exchanges<Dialogue = D>>(
        &mut self,
        exchanges: &mut X,
        counters: &mut Counters,
        direction: Direction,
        arrival: Arrival<'_>,
        at: Timestamp,
        out: &mut impl FnMut(Output<X>),
    ) where
        D: Dialogue<X>,
    {
        let Some(dialogue) = &mut self.dialogue else { return };
        let reader = match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        };
        let was_lost = reader.is_lost();
        let mut end = None;
        let mut told = |part: Part<'_>| match part {
            _ if end.is_some() => {}
            Part::Message(piece) => dialogue.message(exchanges, direction, piece, at),
            Part::End => {
                if dialogue.message_end(exchanges, direction, at, out) == Progress::Complete {
                    end = Some(End::Unknown);
                }
            }
            Part::Lost(why) => {
                if let Some(error) = why {
                    counters.count(error);
                }
                if dialogue.lost(exchanges, direction, at, out) == Progress::Complete {
                    end = Some(End::Unknown);
                }
            }
            // Who says it first ends the connection; the other one answers in kind (RFC 6455, 7.1.5).
            Part::Close if direction == Direction::Sent => end = Some(End::Cancelled),
            Part::Close => end = Some(End::Cut),
        };
        let mut losses = 0;
        match arrival {
            Arrival::Repeat => {}
            Arrival::Gap { missing } => {
                losses += u64::from(!reader.skip(missing.end - missing.start, &mut told));
            }
            Arrival::InOrder(data) => {
                if reader.read(data, &mut told).is_err() {
                    counters.malformed += 1;
                    losses += 1;
                }
            }
        }
        counters.losses += losses;
        counters.resynchronisations += u64::from(was_lost && !reader.is_lost() && !reader.is_over());
        // Without the server's messages nothing comes to an end any more.
        if end.is_none() && direction == Direction::Received && reader.is_over() {
            end = Some(End::Unknown);
        }
        if let (Some(end), Some(dialogue)) = (end, self.dialogue.take_if(|_| end.is_some())) {
            dialogue.close(exchanges, at, end, out);
        }
    }

    /// The connection is over.
    pub(crate) fn close<X: Exchanges<Dialogue = D>>(
        self,
        exchanges: &mut X,
        at: Timestamp,
        end: End,
        out: &mut impl FnMut(Output<X>),
    ) where
        D: Dialogue<X>,
    {
        if let Some(dialogue) = self.dialogue {
            dialogue.close(exchanges, at, end, out);
        }
    }

    /// Bytes that are held, about.
    pub(crate) fn memory<X: Exchanges<Dialogue = D>>(&self) -> usize
    where
        D: Dialogue<X>,
    {
        let dialogue = self.dialogue.as_ref().map_or(0, Dialogue::memory);
        size_of::<Self>() + self.sent.memory() + self.received.memory() + dialogue
    }
}

/// Reads one direction.
pub struct Reader {
    /// The client's frames are masked, the server's are not.
    masked: bool,
    deflate: Option<Deflate>,
    /// Decoded bytes of one message.
    limit: u64,
    state: State,
    /// Of the message at hand, between its first frame and the end of its last.
    content: Option<Content>,
    /// Decoded bytes of it that may still come.
    left: u64,
    inflate: Option<Inflate>,
    /// What the next compressed message refers to is not there any more.
    window_gone: bool,
}

/// A part of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part<'a> {
    /// More of it, text or not.
    Message(&'a [u8]),
    /// It is whole.
    End,
    /// The rest of it, and maybe of others, cannot be read, for want of bytes or for this reason.
    Lost(Option<CodingError>),
    /// Who writes in this direction says that it is the last (RFC 6455, 5.5.1).
    Close,
}

/// Frames that are not as RFC 6455 says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

enum State {
    Header {
        bytes: [u8; LONGEST_HEADER],
        read: usize,
    },
    Payload(Frame),
    /// Where the next frame begins is not known.
    Lost,
    /// Nothing more is read.
    Over,
}

#[derive(Clone, Copy)]
struct Frame {
    fin: bool,
    /// The extension's bit (RFC 7692, 6).
    compressed: bool,
    opcode: u8,
    /// Bytes of the payload that have not come.
    left: u64,
    mask: Option<[u8; 4]>,
    /// Where in the mask the next byte stands.
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Plain,
    Compressed,
    /// It was lost, or has said all.
    Skipped {
        whole: bool,
    },
}

/// Two bytes, a length in eight, a mask in four.
const LONGEST_HEADER: usize = 14;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// RFC 7692, 7.2.2: what is left out at the end of each message.
const FLUSHED: &[u8] = &[0, 0, 0xff, 0xff];

impl Reader {
    /// A reader of what the client (`masked`) or the server writes, at the beginning of a frame; a message may have so
    /// many decoded bytes.
    pub fn new(masked: bool, deflate: Option<Deflate>, limit: u64) -> Reader {
        Reader {
            masked,
            deflate,
            limit,
            state: State::HEADER,
            content: None,
            left: 0,
            inflate: None,
            window_gone: false,
        }
    }

    /// Reads the next bytes.
    ///
    /// # Errors
    /// Where the next frame begins is unknown from there on; [`Part::Lost`] has been told.
    pub fn read(&mut self, mut data: &[u8], out: &mut dyn FnMut(Part<'_>)) -> Result<(), Malformed> {
        while !data.is_empty() {
            match &mut self.state {
                State::Over => return Ok(()),
                State::Lost => {
                    if !self.begins(data) {
                        return Ok(());
                    }
                    self.state = State::HEADER;
                }
                State::Header { bytes, read } => {
                    let length = data.len().min(header_length(bytes, *read) - *read);
                    bytes[*read..*read + length].copy_from_slice(&data[..length]);
                    data = &data[length..];
                    *read += length;
                    if *read == header_length(bytes, *read) {
                        let (frame, in_message) = (Frame::read(bytes), self.content.is_some());
                        let Some(frame) = frame.filter(|frame| self.allows(frame, in_message)) else {
                            self.lose(out);
                            return Err(Malformed);
                        };
                        self.begin(frame, out);
                    }
                }
                State::Payload(frame) => {
                    let length = usize::try_from(frame.left).unwrap_or(usize::MAX).min(data.len());
                    let (payload, rest) = data.split_at(length);
                    data = rest;
                    frame.left -= length as u64;
                    let frame = *frame;
                    self.payload(frame, payload, out);
                }
            }
            self.end_frame_if_over(out);
        }
        Ok(())
    }

    /// The next `length` bytes are missing. `false`: where the next frame begins is unknown.
    pub fn skip(&mut self, length: u64, out: &mut dyn FnMut(Part<'_>)) -> bool {
        match &mut self.state {
            State::Payload(frame) if length <= frame.left => {
                frame.left -= length;
                if !frame.is_control() {
                    self.lose_message(None, out);
                }
                self.end_frame_if_over(out);
                true
            }
            State::Over => true,
            _ => {
                self.lose(out);
                false
            }
        }
    }

    /// Whether nothing more is read: after a close, or after a loss that leaves all that follows unreadable.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Whether it waits for a chunk that begins with a frame.
    pub fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// Bytes that are held, about.
    pub fn memory(&self) -> usize {
        self.inflate.as_ref().map_or(0, |_| INFLATE_MEMORY)
    }

    /// Whether such a frame may come, where a message has begun and not ended, or where none has.
    fn allows(&self, frame: &Frame, in_message: bool) -> bool {
        frame.mask.is_some() == self.masked
            && match frame.opcode {
                CONTINUATION => in_message && !frame.compressed,
                TEXT | BINARY => !in_message && (!frame.compressed || self.deflate.is_some()),
                CLOSE | PING | PONG => frame.fin && !frame.compressed && frame.left <= 125,
                _ => false,
            }
    }

    fn begin(&mut self, frame: Frame, out: &mut dyn FnMut(Part<'_>)) {
        self.state = State::Payload(frame);
        if !matches!(frame.opcode, TEXT | BINARY) {
            return;
        }
        self.left = self.limit;
        if !frame.compressed {
            self.content = Some(Content::Plain);
            return;
        }
        self.content = Some(Content::Compressed);
        if self.window_gone {
            self.lose_message(None, out);
        }
        let takes_over = self.takes_over();
        match &mut self.inflate {
            None => self.inflate = Some(Inflate::new(false)),
            Some(inflate) if !takes_over => inflate.restart(),
            Some(_) => {}
        }
    }

    fn takes_over(&self) -> bool {
        self.deflate.is_some_and(|deflate| deflate.takeover)
    }

    fn payload(&mut self, mut frame: Frame, payload: &[u8], out: &mut dyn FnMut(Part<'_>)) {
        if let State::Payload(own) = &mut self.state {
            own.at = (frame.at + payload.len() % 4) % 4;
        }
        if frame.is_control() {
            return;
        }
        if frame.mask.is_none() {
            self.decode(payload, out);
            return;
        }
        let mut plain = [0; 4096];
        for piece in payload.chunks(plain.len()) {
            let plain = &mut plain[..piece.len()];
            plain.copy_from_slice(piece);
            frame.unmask(plain);
            self.decode(plain, out);
        }
    }

    /// More of the message at hand, without its mask.
    fn decode(&mut self, mut data: &[u8], out: &mut dyn FnMut(Part<'_>)) {
        let (left, limit) = (&mut self.left, self.limit);
        let mut told = |piece: &[u8]| {
            *left = left.checked_sub(piece.len() as u64).ok_or(CodingError::TooLarge { limit })?;
            out(Part::Message(piece));
            Ok(())
        };
        let decoded = match (self.content, &mut self.inflate) {
            (Some(Content::Plain), _) => told(data),
            (Some(Content::Compressed), Some(inflate)) => {
                match inflate.push(&mut data, Coding::Deflate, &mut told) {
                    Ok(ended) => {
                        if ended {
                            // A last block (RFC 7692, 7.2.3.4): what follows it is nothing, and its window goes with it.
                            self.window_gone = self.takes_over();
                            self.content = Some(Content::Skipped { whole: true });
                        }
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            _ => Ok(()),
        };
        if let Err(error) = decoded {
            self.lose_message(Some(error), out);
        }
    }

    fn end_frame_if_over(&mut self, out: &mut dyn FnMut(Part<'_>)) {
        let State::Payload(frame) = &self.state else { return };
        if frame.left > 0 {
            return;
        }
        let frame = *frame;
        self.state = State::HEADER;
        if frame.opcode == CLOSE {
            self.state = State::Over;
            out(Part::Close);
        } else if !frame.is_control() && frame.fin {
            if self.content == Some(Content::Compressed) {
                self.decode(FLUSHED, out);
            }
            let whole = matches!(
                self.content.take(),
                Some(Content::Plain | Content::Compressed | Content::Skipped { whole: true })
            );
            if whole {
                out(Part::End);
            }
        }
    }

    /// The rest of the message at hand cannot be read.
    fn lose_message(&mut self, why: Option<CodingError>, out: &mut dyn FnMut(Part<'_>)) {
        let lost = self.content.replace(Content::Skipped { whole: false });
        match lost {
            // All of it had been told, but for its end.
            Some(Content::Skipped { whole: true } | Content::Plain) => out(Part::Lost(why)),
            Some(Content::Compressed) => {
                if self.takes_over() {
                    self.state = State::Over;
                }
                out(Part::Lost(why));
            }
            Some(Content::Skipped { whole: false }) | None => {}
        }
    }

    /// Where the next frame begins is unknown.
    fn lose(&mut self, out: &mut dyn FnMut(Part<'_>)) {
        self.content = None;
        self.state = if self.takes_over() { State::Over } else { State::Lost };
        out(Part::Lost(None));
    }

    /// Whether frames begin at the start of `data`: the first with a message that begins as a JSON object, and the
    /// others, as far as they are there, as frames may follow each other.
    fn begins(&self, data: &[u8]) -> bool {
        let (mut rest, mut first, mut open) = (data, true, false);
        while !rest.is_empty() {
            let length = header_length(rest, rest.len());
            let (Some(header), false) = (rest.get(..length), length < 2) else { return !first };
            let mut bytes = [0; LONGEST_HEADER];
            bytes[..length].copy_from_slice(header);
            let Some(mut frame) = Frame::read(&bytes) else { return false };
            let payload = &rest[length..];
            let payload = &payload[..usize::try_from(frame.left).unwrap_or(usize::MAX).min(payload.len())];
            if !self.allows(&frame, open) || (first && !frame.begins_object(payload)) {
                return false;
            }
            if !frame.is_control() {
                open = !frame.fin;
            }
            first = false;
            rest = &rest[length + payload.len()..];
        }
        !first
    }
}

impl State {
    const HEADER: State = State::Header { bytes: [0; LONGEST_HEADER], read: 0 };
}

/// How long a header is, as far as its first `read` bytes tell.
fn header_length(bytes: &[u8], read: usize) -> usize {
    if read < 2 {
        return 2;
    }
    let length = match bytes[1] & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if bytes[1] & 0x80 != 0 { 4 } else { 0 }
}

impl Frame {
    /// Reads a whole header (RFC 6455, 5.2).
    fn read(bytes: &[u8; LONGEST_HEADER]) -> Option<Frame> {
        let [first, second, rest @ ..] = bytes;
        let (left, mask) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..6]),
            127 => {
                let length = u64::from_be_bytes(rest[..8].try_into().ok()?);
                // The most significant bit must be 0.
                (Some(length).filter(|length| length >> 63 == 0)?, &rest[8..12])
            }
            length => (u64::from(length), &rest[..4]),
        };
        // Two bits that no extension which is known uses.
        if first & 0x30 != 0 {
            return None;
        }
        Some(Frame {
            fin: first & 0x80 != 0,
            compressed: first & 0x40 != 0,
            opcode: first & 0x0f,
            left,
            mask: if second & 0x80 != 0 { mask.try_into().ok() } else { None },
            at: 0,
        })
    }

    fn is_control(&self) -> bool {
        self.opcode & 8 != 0
    }

    /// Whether the message that begins with that payload is a JSON object, by its first two characters.
    fn begins_object(&mut self, payload: &[u8]) -> bool {
        const OBJECT: &[u8] = b"{\"";
        // Enough for the codes of a compressed block, which stand before its first character.
        let mut plain = payload[..payload.len().min(512)].to_vec();
        self.unmask(&mut plain);
        if self.opcode != TEXT || !self.compressed {
            return self.opcode == TEXT && plain.starts_with(OBJECT);
        }
        let mut begun = Vec::new();
        // What breaks behind the beginning changes nothing of it.
        let _ = Inflate::new(false).push(&mut plain.as_slice(), Coding::Deflate, &mut |piece| {
            begun.extend_from_slice(&piece[..piece.len().min(OBJECT.len())]);
            Ok(())
        });
        begun.starts_with(OBJECT)
    }

    fn unmask(&mut self, data: &mut [u8]) {
        let Some(mask) = self.mask else { return };
        for byte in data {
            *byte ^= mask[self.at];
            self.at = (self.at + 1) % 4;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    const LIMIT: u64 = 1 << 20;
    const TAKEOVER: Option<Deflate> = Some(Deflate { takeover: true });
    const NO_TAKEOVER: Option<Deflate> = Some(Deflate { takeover: false });

    fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        let bit = if mask.is_some() { 0x80 } else { 0 };
        match payload.len() {
            length @ 0..=125 => bytes.push(bit | length as u8),
            length @ 126..=0xffff => {
                bytes.push(bit | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(bit | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        let mask = mask.inspect(|mask| bytes.extend(mask)).unwrap_or_default();
        bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        bytes
    }

    fn text(message: &str) -> Vec<u8> {
        frame(0x81, None, message.as_bytes())
    }

    /// What one side writes, compressed.
    struct Deflating(Compress, bool);

    impl Deflating {
        fn new(takeover: bool) -> Deflating {
            Deflating(Compress::new(Compression::fast(), false), takeover)
        }

        fn deflate(&mut self, message: &[u8]) -> Vec<u8> {
            let mut out = Vec::with_capacity(message.len() + 1000);
            self.0.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
            if !self.1 {
                self.0.reset();
            }
            out.truncate(out.len() - FLUSHED.len());
            out
        }

        fn text(&mut self, message: &str) -> Vec<u8> {
            let payload = self.deflate(message.as_bytes());
            frame(0xc1, None, &payload)
        }
    }

    /// Messages as they are told; `-` for what was lost, `.` for a close.
    #[derive(Default)]
    struct Told(Vec<Vec<u8>>, Vec<u8>);

    impl Told {
        fn take(&mut self, part: Part<'_>) {
            let whole = match part {
                Part::Message(piece) => return self.1.extend_from_slice(piece),
                Part::End => std::mem::take(&mut self.1),
                Part::Lost(_) => {
                    self.1.clear();
                    b"-".to_vec()
                }
                Part::Close => b".".to_vec(),
            };
            self.0.push(whole);
        }

        fn texts(&self) -> Vec<&str> {
            self.0.iter().map(|message| std::str::from_utf8(message).unwrap()).collect()
        }
    }

    fn server(deflate: Option<Deflate>) -> Reader {
        Reader::new(false, deflate, LIMIT)
    }

    fn read(reader: &mut Reader, told: &mut Told, bytes: &[u8]) -> Result<(), Malformed> {
        reader.read(bytes, &mut |part| told.take(part))
    }

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::default();
        fields.iter().for_each(|(name, value)| headers.push(name, value.as_bytes()));
        headers
    }

    fn agreed(extensions: &str) -> Option<Agreed> {
        Agreed::by(&headers(&[
            ("Upgrade", "WebSocket"),
            ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("Sec-WebSocket-Extensions", extensions),
        ]))
    }

    #[test]
    fn a_handshake_tells_how_each_direction_is_compressed() {
        let both = |sent, received| Some(Agreed { sent, received });
        assert_eq!(agreed(""), both(None, None));
        assert_eq!(agreed("permessage-deflate"), both(TAKEOVER, TAKEOVER));
        assert_eq!(
            agreed("permessage-deflate; client_max_window_bits=12;server_no_context_takeover"),
            both(TAKEOVER, NO_TAKEOVER)
        );
        assert_eq!(
            agreed("Permessage-Deflate; client_no_context_takeover; server_max_window_bits=\"15\""),
            both(NO_TAKEOVER, TAKEOVER)
        );
        for unknown in [
            "x-webkit-deflate-frame",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; mystery",
            "permessage-deflate, permessage-deflate",
        ] {
            assert_eq!(agreed(unknown), None, "{unknown}");
        }
        assert_eq!(Agreed::by(&headers(&[("upgrade", "websocket")])), None, "no accept");
        assert_eq!(Agreed::by(&headers(&[("upgrade", "h2c"), ("sec-websocket-accept", "x")])), None);
    }

    #[test]
    fn the_examples_of_the_standards_are_read() {
        // RFC 6455, 5.7.
        let mut told = Told::default();
        let mut reader = server(None);
        read(&mut reader, &mut told, b"\x81\x05Hello\x01\x03Hel\x80\x02lo\x89\x05Hello").unwrap();
        let mut client = Reader::new(true, None, LIMIT);
        read(&mut client, &mut told, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58").unwrap();
        // RFC 7692, 7.2.3.1, .2 (with the window of the one before), .3 (not compressed) and .4 (a last block).
        let compressed: [&[u8]; 4] = [
            b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00",
            b"\xc1\x05\xf2\x00\x11\x00\x00",
            b"\xc1\x0b\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
            b"\xc1\x08\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
        ];
        let mut reader = server(TAKEOVER);
        compressed.iter().for_each(|bytes| read(&mut reader, &mut told, bytes).unwrap());
        assert_eq!(told.texts(), ["Hello"; 7]);
    }

    #[test]
    fn a_window_that_went_with_a_last_block_leaves_no_later_message_readable() {
        let mut told = Told::default();
        let mut reader = server(TAKEOVER);
        read(
            &mut reader,
            &mut told,
            b"\xc1\x08\xf3\x48\xcd\xc9\xc9\x07\x00\x00\x81\x02ok\xc1\x05\xf2\x00\x11\x00\x00",
        )
        .unwrap();
        assert_eq!(told.texts(), ["Hello", "ok", "-"]);
        assert!(reader.is_over());
        let mut told = Told::default();
        let mut reader = server(NO_TAKEOVER);
        for _ in 0..2 {
            read(&mut reader, &mut told, b"\xc1\x08\xf3\x48\xcd\xc9\xc9\x07\x00\x00").unwrap();
        }
        assert_eq!(told.texts(), ["Hello"; 2]);
    }

    #[test]
    fn control_frames_stand_between_the_frames_of_a_message_and_nothing_follows_a_close() {
        let bytes = [
            frame(0x01, None, b"on"),
            frame(0x89, None, &[b'p'; 125]),
            frame(0x00, None, b""),
            frame(0x8a, None, b""),
            frame(0x80, None, b"e"),
            frame(0x82, None, b""),
            frame(0x88, None, b"\x03\xe8bye"),
            text("never"),
        ]
        .concat();
        for size in 1..=bytes.len() {
            let (mut told, mut reader) = (Told::default(), server(None));
            bytes.chunks(size).for_each(|piece| read(&mut reader, &mut told, piece).unwrap());
            assert_eq!(told.texts(), ["one", "", "."], "{size}");
            assert!(reader.is_over());
        }
    }

    #[test]
    fn frames_that_are_none_lose_the_place() {
        let bad: [&[u8]; 10] = [
            b"\x80\x01x",          // goes on with nothing
            b"\x01\x01x\x01\x01x", // begins within a message
            b"\x83\x01x",          // an opcode that is reserved
            b"\x8b\x00",           // and one among the controls
            b"\xa1\x01x",          // a reserved bit
            b"\xc1\x01x",          // compressed, which nobody agreed on
            b"\x81\x81xxxxx",      // masked by a server
            b"\x09\x00",           // a control frame in parts
            b"\x89\x7e\x00\x7e",   // or too long
            b"\x81\x7f\x80\0\0\0\0\0\0\0",
        ];
        for bytes in bad {
            let (mut told, mut reader) = (Told::default(), server(None));
            assert_eq!(read(&mut reader, &mut told, bytes), Err(Malformed), "{bytes:x?}");
            assert!(reader.is_lost());
            read(&mut reader, &mut told, &text("{\"a\":1}")).unwrap();
            assert_eq!(told.texts(), ["-", "{\"a\":1}"], "{bytes:x?}");
        }
    }

    #[test]
    fn a_gap_within_a_frame_costs_its_message_alone() {
        let message = text("0123456789");
        for (from, to) in (2..=12).flat_map(|from| (from + 1..=12).map(move |to| (from, to))) {
            let (mut told, mut reader) = (Told::default(), server(None));
            read(&mut reader, &mut told, &message[..from]).unwrap();
            assert!(reader.skip((to - from) as u64, &mut |part| told.take(part)));
            read(&mut reader, &mut told, &[&message[to..], &text("next")].concat()).unwrap();
            assert_eq!(told.texts(), ["-", "next"], "{from}..{to}");
        }
    }

    #[test]
    fn a_gap_within_a_masked_frame_costs_its_message_alone() {
        let first = frame(0x01, Some([1, 2, 3, 4]), b"0123456789");
        let bytes =
            [first, frame(0x80, Some([5, 6, 7, 8]), b"x"), frame(0x81, Some([9; 4]), b"next")].concat();
        let (mut told, mut reader) = (Told::default(), Reader::new(true, None, LIMIT));
        read(&mut reader, &mut told, &bytes[..8]).unwrap();
        assert!(reader.skip(3, &mut |part| told.take(part)));
        read(&mut reader, &mut told, &bytes[11..]).unwrap();
        assert_eq!(told.texts(), ["-", "next"]);
    }

    #[test]
    fn a_gap_in_a_header_is_bridged_only_by_a_frame_that_begins_an_object() {
        let object = r#"{"type":"x"}"#;
        for (deflate, next) in [(None, text(object)), (NO_TAKEOVER, Deflating::new(false).text(object))] {
            let (mut told, mut reader) = (Told::default(), server(deflate));
            read(&mut reader, &mut told, &text("one")).unwrap();
            assert!(!reader.skip(7, &mut |part| told.take(part)));
            for other in [&text("text")[..], b"type\":1}", b"\x89\x00", b"\x80\x02{\"", &next[..2]] {
                read(&mut reader, &mut told, other).unwrap();
                assert!(reader.is_lost(), "{other:x?}");
            }
            // What follows the first frame must be one, too.
            read(&mut reader, &mut told, &[&next[..], b"\xff\x00"].concat()).unwrap();
            assert!(reader.is_lost());
            read(&mut reader, &mut told, &[&next[..], b"\x89\x01p", &text("end")[..3]].concat()).unwrap();
            read(&mut reader, &mut told, b"nd").unwrap();
            assert_eq!(told.texts(), ["one", "-", object, "end"]);
        }
    }

    #[test]
    fn a_lost_byte_ends_a_direction_whose_messages_refer_to_earlier_ones() {
        let mut deflating = Deflating::new(true);
        let messages: Vec<_> =
            (0..3).map(|n| deflating.text(&format!("{{\"type\":\"number {n}\"}}"))).collect();
        let (mut told, mut reader) = (Told::default(), server(TAKEOVER));
        // Of what is not compressed a byte may be missing.
        read(&mut reader, &mut told, &[&messages[0][..], &text("plain")[..4]].concat()).unwrap();
        assert!(reader.skip(3, &mut |part| told.take(part)));
        read(&mut reader, &mut told, &messages[1][..8]).unwrap();
        assert!(reader.skip(1, &mut |part| told.take(part)));
        read(&mut reader, &mut told, &[&messages[1][9..], &messages[2]].concat()).unwrap();
        assert_eq!(told.texts(), [r#"{"type":"number 0"}"#, "-", "-"]);
        assert!(reader.is_over());
        // Nor is it found again behind a lost header.
        let (mut told, mut reader) = (Told::default(), server(TAKEOVER));
        assert!(!reader.skip(1, &mut |part| told.take(part)));
        assert!(reader.is_over());
    }

    #[test]
    fn what_is_too_large_is_cut_and_the_next_message_is_read() {
        let bomb = "x".repeat(8 << 20);
        for (deflate, bytes) in [(None, text(&bomb)), (NO_TAKEOVER, Deflating::new(false).text(&bomb))] {
            let mut reader = server(deflate);
            let (mut told, mut most, mut why) = (Told::default(), 0, None);
            reader
                .read(&[&bytes[..], &text("next")].concat(), &mut |part| {
                    if let Part::Lost(error) = part {
                        why = error;
                    }
                    told.take(part);
                    most = most.max(told.1.len() as u64);
                })
                .unwrap();
            assert_eq!(told.texts(), ["-", "next"]);
            assert_eq!(why, Some(CodingError::TooLarge { limit: LIMIT }));
            assert!(most <= LIMIT);
        }
        let (mut told, mut reader) = (Told::default(), server(TAKEOVER));
        read(&mut reader, &mut told, &Deflating::new(true).text(&bomb)).unwrap();
        assert!(reader.is_over(), "what follows may refer to what was not read");
    }

    #[test]
    fn what_is_not_compressed_although_it_says_so_is_lost() {
        let (mut told, mut reader) = (Told::default(), server(NO_TAKEOVER));
        // A block of the reserved type.
        read(&mut reader, &mut told, &[&frame(0xc1, None, b"\x07rest")[..], &text("next")].concat()).unwrap();
        assert_eq!(told.texts(), ["-", "next"]);
    }

    /// A message, the sizes of its fragments, whether it is compressed.
    type Sent = (Vec<u8>, Vec<usize>, bool, [u8; 4]);

    fn sent() -> impl Strategy<Value = Vec<Sent>> {
        let word = prop_oneof![
            Just(b"response.output_text.delta ".to_vec()),
            prop::collection::vec(any::<u8>(), 0..300)
        ];
        let message = prop::collection::vec(word, 0..12).prop_map(|words| words.concat());
        let one = (message, prop::collection::vec(0usize..700, 0..5), any::<bool>(), any::<[u8; 4]>());
        prop::collection::vec(one, 1..12)
    }

    /// The frames of messages, with a control frame behind each.
    fn frames(sent: &[Sent], deflate: Option<Deflate>, masked: bool) -> Vec<u8> {
        let mut deflating = deflate.map(|deflate| Deflating::new(deflate.takeover));
        let mut bytes = Vec::new();
        for (message, sizes, compressed, mask) in sent {
            let mask = masked.then_some(*mask);
            let compressed = deflating.as_mut().filter(|_| *compressed);
            let bit = if compressed.is_some() { 0x40 } else { 0 };
            let payload = compressed.map_or_else(|| message.clone(), |deflating| deflating.deflate(message));
            let (mut rest, mut first) = (payload.as_slice(), 0x01 | bit);
            for size in sizes {
                let (fragment, after) = rest.split_at(rest.len().min(*size));
                bytes.extend(frame(first, mask, fragment));
                bytes.extend(frame(0x89, mask, b"ping"));
                (rest, first) = (after, 0);
            }
            bytes.extend(frame(first | 0x80, mask, rest));
        }
        bytes
    }

    fn modes() -> impl Strategy<Value = Option<Deflate>> {
        prop::sample::select(vec![None, TAKEOVER, NO_TAKEOVER])
    }

    proptest! {
        #[test]
        fn any_messages_come_back_however_the_bytes_are_cut(
            sent in sent(),
            deflate in modes(),
            masked in any::<bool>(),
            sizes in prop::collection::vec(1usize..500, 1..20),
        ) {
            let bytes = frames(&sent, deflate, masked);
            let (mut told, mut reader) = (Told::default(), Reader::new(masked, deflate, LIMIT));
            let (mut rest, mut sizes) = (bytes.as_slice(), sizes.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                prop_assert!(read(&mut reader, &mut told, piece).is_ok());
                rest = after;
            }
            prop_assert_eq!(told.0, sent.into_iter().map(|(message, ..)| message).collect::<Vec<_>>());
        }

        #[test]
        fn after_a_gap_no_message_is_another_one(
            sent in sent(),
            deflate in modes(),
            masked in any::<bool>(),
            gap in (any::<prop::sample::Index>(), 1usize..400),
        ) {
            let bytes = frames(&sent, deflate, masked);
            let from = gap.0.index(bytes.len());
            let to = bytes.len().min(from + gap.1);
            let (mut told, mut reader) = (Told::default(), Reader::new(masked, deflate, LIMIT));
            prop_assert!(read(&mut reader, &mut told, &bytes[..from]).is_ok());
            let _ = reader.skip((to - from) as u64, &mut |part| told.take(part));
            let _ = read(&mut reader, &mut told, &bytes[to..]);
            told.0.retain(|message| message != b"-");
            let mut meant = sent.iter().map(|(message, ..)| message);
            prop_assert!(told.0.iter().all(|one| meant.any(|message| message == one)));
        }

        #[test]
        fn any_bytes_are_survived(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            deflate in modes(),
            masked in any::<bool>(),
            size in 1usize..100,
        ) {
            let (mut told, mut reader) = (Told::default(), Reader::new(masked, deflate, LIMIT));
            for piece in bytes.chunks(size) {
                let _ = read(&mut reader, &mut told, piece);
            }
            prop_assert!(reader.memory() <= 100 << 10);
        }
    }
}
