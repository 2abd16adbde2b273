//! The exchanges of one HTTP/2 connection (RFC 9113), read as their bytes arrive.
//!
//! # After a loss
//! Bytes that are missing within a DATA frame cost the rest of that message. Any other loss costs its direction its
//! place: reading goes on at a chunk that begins with a frame, as clients and servers write them. What that direction
//! still had to say of the open streams is lost, and so is its header table (see [`crate::hpack`]); a stream of which
//! nothing comes any more may have ended in the gap, and is then told with the time at which it was last seen.
//!
//! # Memory
//! Two header tables and blocks of bounded size, one decoder a direction of a stream, [`Limits::streams`] exchanges.

use std::collections::BTreeMap;

use crate::coding::CodingError;
use crate::connection::{Content, Counters, Limits, Output};
use crate::grpc::is_grpc;
use crate::hpack;
use crate::http::{Direction, End, Exchange, Exchanges, Headers, Progress, RequestHead, ResponseHead};
use crate::http1::path_and_query;
use crate::streams::Arrival;
use crate::time::Timestamp;

/// Both directions of a connection whose client is the traced process.
pub(crate) struct Http2<E> {
    limits: Limits,
    sent: Half,
    received: Half,
    /// Those that somebody wants, by their number.
    streams: BTreeMap<u32, Stream<E>>,
    /// The highest number that a request came with.
    latest: u32,
}

/// One direction.
struct Half {
    state: State,
    hpack: hpack::Decoder,
    /// A header block that goes on in a CONTINUATION frame, or is being read.
    block: Option<Block>,
}

enum State {
    /// How many bytes of the client's preface have come.
    Preface(usize),
    /// In a frame's header.
    Header {
        bytes: [u8; HEADER],
        read: usize,
    },
    Payload(Frame),
    Lost,
}

/// A frame that is being read.
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// Bytes of the payload that have not come, padding included.
    left: u32,
    /// What stands before the content: padding's length, priority, a stream's number.
    prefix: [u8; 6],
    prefix_read: usize,
    padding: u32,
}

struct Block {
    stream: u32,
    /// The response's or request's last frame.
    ends_stream: bool,
    /// Of a PUSH_PROMISE: decoded for the table's sake alone.
    pushed: bool,
    bytes: Vec<u8>,
    /// It was over the limit: nothing of it is known.
    oversized: bool,
    began: Timestamp,
}

struct Stream<E> {
    exchange: E,
    sent: Message,
    received: Message,
    answer: Answer,
    /// When the last frame of the response was seen.
    touched: Timestamp,
}

/// One side of a stream.
struct Message {
    content: Content,
    lost: bool,
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Its (final) head has not come.
    Awaited,
    Underway,
    /// Since then; the request is not over.
    Over(Timestamp),
    /// It may have ended in a gap.
    InDoubt,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// RFC 7838, 8336 and 9218.
const ALTSVC: u8 = 0xA;
const ORIGIN: u8 = 0xC;
const PRIORITY_UPDATE: u8 = 0x10;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const HAS_PRIORITY: u8 = 0x20;

/// Frames that do not follow each other as RFC 9113 says.
struct Malformed;

impl<E: Exchange> Http2<E> {
    /// A connection of whose client's preface `preface` bytes have come; `None`: joined in its middle.
    pub(crate) fn new(limits: Limits, preface: Option<usize>) -> Self {
        let half = |state| Half { state, hpack: hpack::Decoder::new(), block: None };
        let sent = preface.map_or(State::Lost, State::Preface);
        let received = if preface.is_some() { State::HEADER } else { State::Lost };
        Http2 { limits, sent: half(sent), received: half(received), streams: BTreeMap::new(), latest: 0 }
    }

    /// Takes what a chunk adds to its direction.
    pub(crate) fn arrival<X: Exchanges<Exchange = E>>(
        &mut self,
        exchanges: &mut X,
        counters: &mut Counters,
        direction: Direction,
        arrival: Arrival<'_>,
        at: Timestamp,
        out: &mut impl FnMut(Output<X>),
    ) {
        let mut reading = Reading { http2: self, exchanges, counters, direction, at, out };
        match arrival {
            Arrival::Repeat => {}
            Arrival::Gap { missing } => reading.gap(missing.end - missing.start),
            Arrival::InOrder(data) => reading.read(data),
        }
    }

    /// The connection is over.
    pub(crate) fn close(self, at: Timestamp, end: End, out: &mut impl FnMut(E::Output)) {
        for stream in self.streams.into_values() {
            stream.finish(at, end, out);
        }
    }

    /// Bytes that are held, about.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>()
            + self.sent.memory()
            + self.received.memory()
            + self.streams.values().map(Stream::memory).sum::<usize>()
    }

    fn half(&mut self, direction: Direction) -> &mut Half {
        match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        }
    }
}

/// Whether frames seem to begin at the start of `data`: for joining in the middle, and for finding the way back.
pub(crate) fn begins(direction: Direction, mut data: &[u8]) -> bool {
    if data.len() < HEADER {
        return false;
    }
    while let Some((header, rest)) = data.split_first_chunk::<HEADER>() {
        let frame = Frame::new(header);
        if header[5] & 0x80 != 0 || !frame.is_plausible(direction) {
            return false;
        }
        data = rest.get(frame.left as usize..).unwrap_or_default();
    }
    true
}

/// Whether a server's first frame, its SETTINGS, begins at the start of `data` (RFC 9113, 3.4).
pub(crate) fn begins_with_settings(data: &[u8]) -> bool {
    begins(Direction::Received, data) && data[3] == SETTINGS && data[4] == 0
}

/// A step of reading, with all that it needs.
struct Reading<'a, X: Exchanges, F> {
    http2: &'a mut Http2<X::Exchange>,
    exchanges: &'a mut X,
    counters: &'a mut Counters,
    direction: Direction,
    at: Timestamp,
    out: &'a mut F,
}

impl<X: Exchanges, F: FnMut(Output<X>)> Reading<'_, X, F> {
    fn read(&mut self, data: &[u8]) {
        let direction = self.direction;
        if matches!(self.http2.half(direction).state, State::Lost) {
            if !begins(direction, data) {
                return;
            }
            self.counters.resynchronisations += 1;
            self.http2.half(direction).state = State::HEADER;
        }
        if self.read_frames(data).is_err() {
            self.counters.malformed += 1;
            self.lose();
        }
    }

    fn read_frames(&mut self, mut data: &[u8]) -> Result<(), Malformed> {
        while !data.is_empty() {
            let half = self.http2.half(self.direction);
            match &mut half.state {
                State::Lost => return Ok(()),
                State::Preface(read) => {
                    let length = data.len().min(PREFACE.len() - *read);
                    if data[..length] != PREFACE[*read..*read + length] {
                        return Err(Malformed);
                    }
                    data = &data[length..];
                    *read += length;
                    if *read == PREFACE.len() {
                        half.state = State::HEADER;
                    }
                }
                State::Header { bytes, read } => {
                    let length = data.len().min(HEADER - *read);
                    bytes[*read..*read + length].copy_from_slice(&data[..length]);
                    data = &data[length..];
                    *read += length;
                    if *read == HEADER {
                        let frame = Frame::new(bytes);
                        half.begin(&frame, self.at)?;
                        half.state = State::Payload(frame);
                        self.end_frame_if_over()?;
                    }
                }
                State::Payload(frame) => {
                    if frame.wants_prefix() {
                        let wanted = frame.prefix_length() - frame.prefix_read;
                        let length = data.len().min(wanted).min(frame.left as usize);
                        frame.take_prefix(&data[..length]);
                        data = &data[length..];
                        if !frame.wants_prefix() {
                            frame.read_prefix()?;
                        } else if frame.left == 0 {
                            return Err(Malformed);
                        }
                    } else {
                        let content = (frame.left - frame.padding) as usize;
                        if content > 0 {
                            let (content, rest) = data.split_at(content.min(data.len()));
                            frame.left -= content.len() as u32;
                            data = rest;
                            self.content(content);
                        } else {
                            let length = data.len().min(frame.left as usize);
                            frame.left -= length as u32;
                            data = &data[length..];
                        }
                    }
                    self.end_frame_if_over()?;
                }
            }
        }
        Ok(())
    }

    /// More of the frame at hand, without prefix and padding.
    fn content(&mut self, content: &[u8]) {
        let limit = self.http2.limits.head;
        let half = self.http2.half(self.direction);
        let State::Payload(Frame { kind, stream, .. }) = half.state else { return };
        match kind {
            DATA => self.data(stream, content),
            HEADERS | CONTINUATION | PUSH_PROMISE => {
                if let Some(block) = &mut half.block {
                    block.push(content, limit);
                }
            }
            _ => {}
        }
    }

    fn data(&mut self, id: u32, content: &[u8]) {
        let (direction, at) = (self.direction, self.at);
        let Some(stream) = self.http2.streams.get_mut(&id) else { return };
        if direction == Direction::Received {
            if stream.answer == Answer::Awaited {
                // Its head was missed, before the place was found again.
                stream.lose(direction);
            }
            stream.answer = Answer::Underway;
        }
        let exchange = &mut stream.exchange;
        match direction {
            Direction::Sent => {
                let message = &mut stream.sent;
                if message.lost || message.ended {
                    return;
                }
                if let Err(error) = message.content.push(content, &mut |part| exchange.request_body(part)) {
                    self.counters.count(error);
                    stream.lose(Direction::Sent);
                }
            }
            Direction::Received => {
                stream.touched = at;
                let message = &mut stream.received;
                if message.lost || message.ended {
                    return;
                }
                let mut progress = Progress::More;
                let pushed = message.content.push(content, &mut |part| {
                    if progress == Progress::More {
                        progress = exchange.response_body(part, at);
                    }
                });
                if progress == Progress::Complete {
                    self.finish(id, End::Complete);
                } else if let Err(error) = pushed {
                    self.counters.count(error);
                    stream.lose(Direction::Received);
                }
            }
        }
    }

    fn end_frame_if_over(&mut self) -> Result<(), Malformed> {
        let half = self.http2.half(self.direction);
        let State::Payload(frame) = &half.state else { return Ok(()) };
        if frame.left > 0 {
            return Ok(());
        }
        if frame.wants_prefix() {
            return Err(Malformed);
        }
        let State::Payload(frame) = std::mem::replace(&mut half.state, State::HEADER) else { return Ok(()) };
        match frame.kind {
            DATA if frame.flags & END_STREAM != 0 => self.end_of(frame.stream),
            HEADERS | CONTINUATION | PUSH_PROMISE if frame.flags & END_HEADERS != 0 => {
                if let Some(block) = half.block.take() {
                    self.headers(&block);
                }
            }
            RST_STREAM => self.reset(frame.stream),
            GOAWAY if self.direction == Direction::Received => {
                // Streams above this one were not, and will not be, looked at (6.8).
                let last = frame.number();
                let given_up: Vec<_> =
                    self.http2.streams.range(last.saturating_add(1)..).map(|(id, _)| *id).collect();
                for id in given_up {
                    self.finish(id, End::Cut);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A header block is whole.
    fn headers(&mut self, block: &Block) {
        let half = self.http2.half(self.direction);
        if block.oversized {
            half.hpack.lose();
            self.counters.malformed += 1;
            self.unreadable_head(block);
            return;
        }
        let wanted = !block.pushed
            && (self.direction == Direction::Sent || self.http2.streams.contains_key(&block.stream));
        let mut head = Head::default();
        let half = self.http2.half(self.direction);
        let decoded = half.hpack.decode(&block.bytes, &mut |field| {
            if wanted {
                head.take(field);
            }
        });
        if decoded.is_err() {
            self.counters.malformed += 1;
            self.unreadable_head(block);
        } else if wanted {
            match self.direction {
                Direction::Sent => self.request(block, head),
                Direction::Received => self.response(block, head),
            }
        }
    }

    /// What a message's head, or its trailers, say is not known.
    fn unreadable_head(&mut self, block: &Block) {
        if block.pushed {
            return;
        }
        if let Some(stream) = self.http2.streams.get_mut(&block.stream) {
            stream.lose(self.direction);
        }
        if self.direction == Direction::Sent {
            self.http2.latest = self.http2.latest.max(block.stream);
        }
        if block.ends_stream {
            self.end_of(block.stream);
        }
    }

    fn request(&mut self, block: &Block, head: Head) {
        let id = block.stream;
        if id > self.http2.latest && id % 2 == 1 {
            self.http2.latest = id;
            let has_unknown = head.has_unknown;
            match head.request(block.began) {
                Ok(Some(head)) => self.open(id, &head, has_unknown),
                Ok(None) => {}
                // Joined in the middle: what the head refers to was said before.
                Err(Malformed) => self.counters.unreadable_heads += 1,
            }
        }
        if block.ends_stream {
            self.end_of(id);
        }
    }

    fn open(&mut self, id: u32, head: &RequestHead, has_unknown: bool) {
        let Some(exchange) = self.exchanges.open(head) else { return };
        if self.http2.streams.len() >= self.http2.limits.streams
            && let Some((&oldest, _)) = self.http2.streams.first_key_value()
        {
            self.counters.abandoned += 1;
            self.finish(oldest, End::Unknown);
        }
        let mut stream = Stream {
            exchange,
            sent: Message::new(Content::Skipped),
            received: Message::new(Content::Skipped),
            answer: Answer::Awaited,
            touched: self.at,
        };
        match content(&head.headers, has_unknown, self.http2.limits) {
            Ok(content) => stream.sent.content = content,
            Err(error) => {
                self.counters.count(error);
                stream.lose(Direction::Sent);
            }
        }
        self.http2.streams.insert(id, stream);
    }

    fn response(&mut self, block: &Block, head: Head) {
        let at = self.at;
        let Some(stream) = self.http2.streams.get_mut(&block.stream) else { return };
        stream.touched = at;
        let head_came_before = stream.answer == Answer::Underway;
        let Head { status, headers, has_unknown, .. } = head;
        if head_came_before && block.ends_stream {
            stream.exchange.response_trailers(&headers);
        }
        if matches!(stream.answer, Answer::Awaited | Answer::InDoubt) && !stream.received.lost {
            match status {
                Some(100..=199) => return,
                None => stream.lose(Direction::Received),
                Some(status) => {
                    let head = ResponseHead { status, headers };
                    stream.exchange.response_head(&head, at);
                    match content(&head.headers, has_unknown, self.http2.limits) {
                        Ok(content) => stream.received.content = content,
                        Err(error) => {
                            self.counters.count(error);
                            stream.lose(Direction::Received);
                        }
                    }
                }
            }
        }
        stream.answer = Answer::Underway;
        if block.ends_stream {
            if !head_came_before {
                // No body, no coding: a response to HEAD has the header of one.
                stream.received.content = Content::Skipped;
            }
            self.end_of(block.stream);
        }
    }

    /// This direction has said all on a stream.
    fn end_of(&mut self, id: u32) {
        let (direction, at) = (self.direction, self.at);
        let Some(stream) = self.http2.streams.get_mut(&id) else { return };
        if direction == Direction::Received && stream.answer == Answer::Awaited {
            stream.lose(direction);
        }
        let message = stream.message(direction);
        if std::mem::replace(&mut message.ended, true) {
            return;
        }
        let incomplete = message.content.is_incomplete();
        message.content = Content::Skipped;
        if incomplete && !message.lost {
            self.counters.undecodable += 1;
            stream.lose(direction);
        }
        match direction {
            Direction::Sent => {
                if !stream.sent.lost {
                    stream.exchange.request_end();
                }
            }
            Direction::Received => stream.answer = Answer::Over(at),
        }
        if let (Answer::Over(at), true) = (stream.answer, stream.sent.ended || stream.sent.lost) {
            self.finish_at(id, at, End::Complete);
        }
    }

    /// A stream that one side gives up. One whose answer is whole needs no more of its request (8.1).
    fn reset(&mut self, id: u32) {
        let end = match self.direction {
            Direction::Sent => End::Cancelled,
            Direction::Received => End::Cut,
        };
        self.finish(id, end);
    }

    fn finish(&mut self, id: u32, end: End) {
        self.finish_at(id, self.at, end);
    }

    fn finish_at(&mut self, id: u32, at: Timestamp, end: End) {
        if let Some(stream) = self.http2.streams.remove(&id) {
            stream.finish(at, end, self.out);
        }
    }

    fn gap(&mut self, length: u64) {
        let direction = self.direction;
        let half = self.http2.half(direction);
        let State::Payload(frame) = &mut half.state else { return self.lose() };
        let inside = !frame.wants_prefix() && length <= u64::from(frame.left);
        match frame.kind {
            DATA if inside => {
                let cost = length > 0 && frame.left > frame.padding;
                frame.left -= length as u32;
                let id = frame.stream;
                if let (true, Some(stream)) = (cost, self.http2.streams.get_mut(&id)) {
                    stream.lose(direction);
                }
            }
            // What nothing is read of.
            PRIORITY | SETTINGS | PING | WINDOW_UPDATE if inside => frame.left -= length as u32,
            _ => return self.lose(),
        }
        // The frame may have ended with the gap: it was whole in length, so it is in form.
        let ended = self.end_frame_if_over();
        debug_assert!(ended.is_ok(), "its prefix was there");
    }

    /// Where this direction is has become unknown.
    fn lose(&mut self) {
        self.counters.losses += 1;
        let direction = self.direction;
        let half = self.http2.half(direction);
        half.state = State::Lost;
        half.block = None;
        half.hpack.lose();
        for stream in self.http2.streams.values_mut() {
            if stream.message(direction).ended {
                continue;
            }
            stream.lose(direction);
            if direction == Direction::Received {
                stream.answer = Answer::InDoubt;
            }
        }
        if direction == Direction::Sent {
            // The rest of a request that is lost is not waited for.
            let over = self.http2.streams.iter().filter(|(_, stream)| stream.sent.lost);
            let over: Vec<_> = over.filter_map(|(id, stream)| stream.over_at().map(|at| (*id, at))).collect();
            for (id, at) in over {
                self.finish_at(id, at, End::Complete);
            }
        }
    }
}

/// A body whose head is that; a field that is unknown may be its coding.
fn content(headers: &Headers, has_unknown: bool, limits: Limits) -> Result<Content, CodingError> {
    match Content::new(headers, limits.decoded)? {
        // Each message tells for itself.
        Content::Plain if is_grpc(headers) => Ok(Content::Plain),
        Content::Plain if has_unknown && headers.get("content-encoding").is_none() => Ok(Content::InDoubt),
        content => Ok(content),
    }
}

impl State {
    const HEADER: State = State::Header { bytes: [0; HEADER], read: 0 };
}

impl Half {
    /// A frame begins: only a CONTINUATION may follow a header block that is not whole, and nothing else (6.10).
    fn begin(&mut self, frame: &Frame, at: Timestamp) -> Result<(), Malformed> {
        match (&self.block, frame.kind) {
            (Some(block), CONTINUATION) if block.stream == frame.stream => Ok(()),
            (None, HEADERS | PUSH_PROMISE) => {
                self.block = Some(Block {
                    stream: frame.stream,
                    ends_stream: frame.kind == HEADERS && frame.flags & END_STREAM != 0,
                    pushed: frame.kind == PUSH_PROMISE,
                    bytes: Vec::new(),
                    oversized: false,
                    began: at,
                });
                Ok(())
            }
            (None, CONTINUATION) | (Some(_), _) => Err(Malformed),
            (None, _) => Ok(()),
        }
    }

    fn memory(&self) -> usize {
        self.hpack.memory() + self.block.as_ref().map_or(0, |block| block.bytes.capacity())
    }
}

impl Block {
    fn push(&mut self, part: &[u8], limit: usize) {
        if self.oversized || self.bytes.len() + part.len() > limit {
            self.oversized = true;
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(part);
        }
    }
}

impl Frame {
    fn new(header: &[u8; HEADER]) -> Frame {
        let [a, b, c, kind, flags, stream @ ..] = *header;
        Frame {
            kind,
            flags,
            // The first bit is reserved (4.1).
            stream: u32::from_be_bytes(stream) & 0x7FFF_FFFF,
            left: u32::from_be_bytes([0, a, b, c]),
            prefix: [0; 6],
            prefix_read: 0,
            padding: 0,
        }
    }

    /// What stands before the content, in bytes.
    fn prefix_length(&self) -> usize {
        let padded = usize::from(self.flags & PADDED != 0);
        match self.kind {
            DATA => padded,
            HEADERS if self.flags & HAS_PRIORITY != 0 => padded + 5,
            HEADERS => padded,
            PUSH_PROMISE => padded + 4,
            GOAWAY => 4,
            _ => 0,
        }
    }

    fn wants_prefix(&self) -> bool {
        self.prefix_read < self.prefix_length()
    }

    fn take_prefix(&mut self, part: &[u8]) {
        self.prefix[self.prefix_read..self.prefix_read + part.len()].copy_from_slice(part);
        self.prefix_read += part.len();
        self.left -= part.len() as u32;
    }

    fn read_prefix(&mut self) -> Result<(), Malformed> {
        if matches!(self.kind, DATA | HEADERS | PUSH_PROMISE) && self.flags & PADDED != 0 {
            self.padding = self.prefix[0].into();
        }
        if self.padding > self.left { Err(Malformed) } else { Ok(()) }
    }

    /// The stream that a GOAWAY names.
    fn number(&self) -> u32 {
        let [a, b, c, d, ..] = self.prefix;
        u32::from_be_bytes([a, b, c, d]) & 0x7FFF_FFFF
    }

    /// Whether a frame has the form that this direction sends.
    fn is_plausible(&self, direction: Direction) -> bool {
        // 16 KiB is the protocol's default and what nearly all keep to (4.2).
        const USUAL: u32 = 16 << 10;
        let known = |flags: u8| self.flags & !flags == 0;
        let of_stream = self.stream % 2 == 1;
        self.left <= USUAL
            && match self.kind {
                DATA => of_stream && known(END_STREAM | PADDED),
                HEADERS => {
                    of_stream && known(END_STREAM | END_HEADERS | PADDED | HAS_PRIORITY) && self.left > 0
                }
                PRIORITY => self.stream != 0 && self.flags == 0 && self.left == 5,
                RST_STREAM => self.stream != 0 && self.flags == 0 && self.left == 4,
                SETTINGS => self.stream == 0 && known(1) && self.left.is_multiple_of(6) && self.left <= 600,
                PUSH_PROMISE => direction == Direction::Received && of_stream && known(END_HEADERS | PADDED),
                PING => self.stream == 0 && known(1) && self.left == 8,
                GOAWAY => self.stream == 0 && self.flags == 0 && self.left >= 8,
                WINDOW_UPDATE => self.flags == 0 && self.left == 4,
                CONTINUATION => of_stream && known(END_HEADERS),
                ALTSVC | ORIGIN | PRIORITY_UPDATE => self.flags == 0,
                _ => false,
            }
    }
}

impl<E: Exchange> Stream<E> {
    fn message(&mut self, direction: Direction) -> &mut Message {
        match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        }
    }

    /// The rest of one message is missing.
    fn lose(&mut self, direction: Direction) {
        let message = self.message(direction);
        message.content = Content::Skipped;
        if !std::mem::replace(&mut message.lost, true) {
            self.exchange.lost(direction);
        }
    }

    fn over_at(&self) -> Option<Timestamp> {
        match self.answer {
            Answer::Over(at) => Some(at),
            _ => None,
        }
    }

    fn finish(self, at: Timestamp, end: End, out: &mut impl FnMut(E::Output)) {
        let (at, end) = match self.answer {
            Answer::Over(at) => (at, End::Complete),
            Answer::InDoubt if end != End::Complete => (self.touched, End::Unknown),
            _ => (at, end),
        };
        if let Some(output) = self.exchange.finish(at, end) {
            out(output);
        }
    }

    fn memory(&self) -> usize {
        size_of::<Self>()
            + self.sent.content.memory()
            + self.received.content.memory()
            + self.exchange.memory()
    }
}

impl Message {
    fn new(content: Content) -> Message {
        Message { content, lost: false, ended: false }
    }
}

/// The fields of a header block.
#[derive(Default)]
struct Head {
    method: Pseudo,
    path: Pseudo,
    authority: Pseudo,
    status: Option<u16>,
    headers: Headers,
    /// A field whose name was said before we looked.
    has_unknown: bool,
}

/// A pseudo-header field (8.3).
#[derive(Default)]
enum Pseudo {
    #[default]
    Absent,
    /// It was said before we looked.
    Unknown,
    Is(String),
}

impl Head {
    fn take(&mut self, field: hpack::Field<'_>) {
        let Some(name) = field.name else {
            self.has_unknown = true;
            return;
        };
        let pseudo = || match field.value {
            Some(value) => Pseudo::Is(String::from_utf8_lossy(value).into_owned()),
            None => Pseudo::Unknown,
        };
        match name {
            b":method" => self.method = pseudo(),
            b":path" => self.path = pseudo(),
            b":authority" => self.authority = pseudo(),
            b":status" => {
                let text = field.value.and_then(|value| std::str::from_utf8(value).ok());
                self.status = text.and_then(|text| text.parse().ok());
            }
            [b':', ..] => {}
            _ => {
                if let (Ok(name), Some(value)) = (std::str::from_utf8(name), field.value) {
                    self.headers.push(name, value);
                }
            }
        }
    }

    /// The head of a request; `Ok(None)` for trailers.
    fn request(self, at: Timestamp) -> Result<Option<RequestHead>, Malformed> {
        let (method, path) = match (self.method, self.path) {
            (Pseudo::Is(method), Pseudo::Is(path)) => (method, path),
            // CONNECT has no path.
            (Pseudo::Is(_), Pseudo::Absent) if !self.has_unknown => return Ok(None),
            (Pseudo::Absent, Pseudo::Absent) if !self.has_unknown => return Ok(None),
            _ => return Err(Malformed),
        };
        let authority = match self.authority {
            Pseudo::Is(authority) => Some(authority),
            _ => self.headers.get("host").map(str::to_owned),
        };
        let authority = authority.map(|authority| match authority.rsplit_once('@') {
            // What stands before `@` is a credential.
            Some((_, host)) => host.to_ascii_lowercase(),
            None => authority.to_ascii_lowercase(),
        });
        let (path, query) = path_and_query(&path);
        Ok(Some(RequestHead {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            authority: authority.filter(|authority| !authority.is_empty()),
            headers: self.headers,
            at,
        }))
    }
}
