//! The Model Context Protocol over a server's standard input and output (modelcontextprotocol.io, "Transports", "stdio"): each
//! message of JSON-RPC 2.0 is one line. What is a line and no message, such as what a server prints beside, is passed over.
//!
//! # Which response answers which request
//! That with its id. Both sides ask, each with ids of its own: what the client wrote asks if it has a method, and what it read
//! answers if it has a result or an error.
//!
//! # What is missing
//! costs the messages that it was of: reading goes on behind the next line's end. A request whose answer may have been among
//! them is told as unknown when the dialogue ends, and what is known of it is marked as truncated.
//!
//! # Memory
//! Of a message under way what its reader keeps; requests without an answer, [`MOST_PENDING`] at most.

use crate::connection::{Chunk, Counters};
use crate::http::{Direction, End};
use crate::json::{self, Filter};
use crate::mcp::{McpCall, Outcome, Transport};
use crate::providers::Settings;
use crate::providers::mcp::{
    Asked, Carried, MAX_FACTS, Reply, id_in, request_filter, response_filter, unanswered,
};
use crate::streams::{Arrival, Stream};
use crate::time::Timestamp;
use crate::values::Splitter;
use memchr::memchr;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;

/// Requests that wait for their answer. Clients of tools have a few at once.
pub const MOST_PENDING: usize = 256;

/// What a request and a reader take beside what they keep, in bytes of memory.
const FLAT: usize = 1024;

/// Reads what one client and one server say to each other.
#[derive(Debug)]
pub struct Dialogue {
    settings: Arc<Settings>,
    sent: Lines,
    received: Lines,
    /// In the order in which they were asked.
    pending: VecDeque<Pending>,
    /// As the answer to `initialize` says it.
    protocol_version: Option<String>,
    /// It speaks another protocol that begins alike.
    foreign: bool,
    counters: Counters,
}

/// A request that is not answered yet.
#[derive(Debug)]
struct Pending {
    asked: Asked,
    start: Timestamp,
    /// Bytes of the line that it was.
    size: usize,
    /// Bytes of answers were missing since.
    truncated: bool,
}

impl Dialogue {
    /// Reads by these settings.
    pub fn new(settings: Arc<Settings>) -> Dialogue {
        Dialogue {
            settings,
            sent: Lines::default(),
            received: Lines::default(),
            pending: VecDeque::new(),
            protocol_version: None,
            foreign: false,
            counters: Counters::default(),
        }
    }

    /// Reads by these settings from the next message on.
    pub fn set_settings(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
    }

    /// Takes what moved next, in the order in which it moved, and hands on what it completes.
    pub fn chunk(&mut self, chunk: Chunk<'_>, found: &mut impl FnMut(McpCall)) {
        let lines = match chunk.direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        };
        let arrivals: Vec<_> = lines.stream.arrive(chunk.offset, chunk.data).collect();
        for arrival in arrivals {
            match arrival {
                Arrival::InOrder(data) => self.read(chunk.direction, data, chunk.at, found),
                Arrival::Repeat => self.counters.repeats += 1,
                Arrival::Gap { missing } => {
                    self.counters.gaps += 1;
                    self.counters.missing_bytes += missing.end - missing.start;
                    self.lost(chunk.direction);
                }
            }
        }
    }

    /// Nothing more comes: what was asked and not answered is told as it stands.
    pub fn close(mut self, at: Timestamp, end: End, found: &mut impl FnMut(McpCall)) {
        while let Some(pending) = self.pending.pop_front() {
            let outcome = if pending.truncated { Outcome::Unknown } else { unanswered(end) };
            found(self.call(pending, Err(outcome), at));
        }
    }

    /// Bytes that are held, estimated from above.
    pub fn memory(&self) -> usize {
        let pending: usize = self.pending.iter().map(|pending| pending.size + FLAT).sum();
        pending + self.sent.memory(&self.settings) + self.received.memory(&self.settings)
    }

    /// What was missing or not understood.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn lost(&mut self, direction: Direction) {
        match direction {
            Direction::Sent => self.sent.skip(),
            Direction::Received => {
                self.received.skip();
                for pending in &mut self.pending {
                    pending.truncated = true;
                }
            }
        }
    }

    fn read(
        &mut self,
        direction: Direction,
        mut data: &[u8],
        at: Timestamp,
        found: &mut impl FnMut(McpCall),
    ) {
        while !data.is_empty() && !self.foreign {
            let end = memchr(b'\n', data);
            let (piece, rest) = data.split_at(end.unwrap_or(data.len()));
            data = rest.get(1..).unwrap_or_default();
            let settings = self.settings.clone();
            let (lines, filter): (_, Filter) = match direction {
                Direction::Sent => (&mut self.sent, request_filter),
                Direction::Received => (&mut self.received, response_filter),
            };
            let mut messages = Vec::new();
            let start = lines.push(piece, at, filter, &settings, &mut messages);
            let size = lines.length;
            if end.is_some() {
                self.counters.malformed += u64::from(!lines.finish(&mut messages));
            }
            for message in messages {
                match direction {
                    Direction::Sent => self.asked(message, start, size, at, found),
                    Direction::Received => self.answered(message, at, found),
                }
            }
        }
    }

    /// The client has written a message.
    fn asked(
        &mut self,
        message: json::Read,
        start: Timestamp,
        size: usize,
        at: Timestamp,
        found: &mut impl FnMut(McpCall),
    ) {
        let params = message.value.get("params");
        match message.value.get("method").and_then(Value::as_str) {
            // The Agent Client Protocol begins alike, and counts its versions.
            Some("initialize") if params.is_none_or(|params| !params["protocolVersion"].is_string()) => {
                self.foreign = true;
                self.pending.clear();
                return;
            }
            Some("notifications/cancelled") => {
                let id = params.and_then(|params| id_in(params, "requestId"));
                if let Some(pending) = self.take(id.as_deref()) {
                    found(self.call(pending, Err(Outcome::Cancelled), at));
                }
                return;
            }
            _ => {}
        }
        let Some(asked) = Asked::of(message) else { return };
        // An id is used once (the specification demands it): what had it before is not answered any more.
        let before = self.take(Some(&asked.id));
        let oldest = if self.pending.len() >= MOST_PENDING { self.pending.pop_front() } else { None };
        for pending in before.into_iter().chain(oldest) {
            self.counters.abandoned += 1;
            found(self.call(pending, Err(Outcome::Unknown), at));
        }
        self.pending.push_back(Pending { asked, start, size, truncated: false });
    }

    /// It has read one.
    fn answered(&mut self, message: json::Read, at: Timestamp, found: &mut impl FnMut(McpCall)) {
        let Some(reply) = Reply::of(message) else { return };
        let Some(pending) = self.take(Some(&reply.id)) else {
            self.counters.unsolicited += 1;
            return;
        };
        if reply.protocol_version.is_some() {
            self.protocol_version.clone_from(&reply.protocol_version);
        }
        found(self.call(Pending { truncated: false, ..pending }, Ok(reply), at));
    }

    fn take(&mut self, id: Option<&str>) -> Option<Pending> {
        let at = self.pending.iter().position(|pending| Some(pending.asked.id.as_str()) == id)?;
        self.pending.remove(at)
    }

    fn call(&self, pending: Pending, reply: Result<Reply, Outcome>, end: Timestamp) -> McpCall {
        let carried = Carried {
            transport: Transport::Stdio,
            session_id: None,
            protocol_version: self.protocol_version.clone(),
            server: None,
            parent: None,
            start: pending.start,
            end,
            truncated: pending.truncated,
        };
        pending.asked.finish(reply, carried)
    }
}

/// The messages of one side.
#[derive(Debug, Default)]
struct Lines {
    stream: Stream,
    line: Line,
    /// Of the line under way, so far.
    length: usize,
    /// When it began.
    start: Timestamp,
}

/// What is known of the line under way.
#[derive(Debug, Default)]
enum Line {
    /// Nothing but blanks.
    #[default]
    Blank,
    /// It is a message, as far as was seen.
    Message(Box<json::Reader>),
    /// It is several of them (MCP 2025-03-26).
    Batch(Splitter),
    /// It is no message, or its beginning is missing.
    Skipped,
}

impl Lines {
    /// Takes more of the line under way, without its end. Gives the time of its beginning.
    fn push(
        &mut self,
        piece: &[u8],
        at: Timestamp,
        filter: Filter,
        settings: &Settings,
        messages: &mut Vec<json::Read>,
    ) -> Timestamp {
        let limits = json::Limits { facts: MAX_FACTS, texts: settings.max_request_content };
        let mut piece = piece;
        if matches!(self.line, Line::Blank) {
            let blank = piece.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            piece = &piece[blank..];
            self.line = match piece.first() {
                None => return at,
                Some(b'{') => Line::Message(Box::new(json::Reader::new(filter, settings.content, limits))),
                Some(b'[') => Line::Batch(Splitter::default()),
                Some(_) => Line::Skipped,
            };
            self.start = at;
        }
        self.length += piece.len();
        match &mut self.line {
            Line::Message(reader) => reader.push(piece),
            Line::Batch(splitter) => splitter.push(piece, &mut |value| {
                messages
                    .extend(value.map(|value| json::Reader::read(filter, settings.content, limits, value)));
            }),
            Line::Blank | Line::Skipped => {}
        }
        self.start
    }

    /// The line ends. False where it was to be a message and is none.
    fn finish(&mut self, messages: &mut Vec<json::Read>) -> bool {
        self.length = 0;
        let Line::Message(reader) = std::mem::take(&mut self.line) else { return true };
        let read = reader.finish();
        let complete = read.complete;
        messages.extend(complete.then_some(read));
        complete
    }

    /// Bytes of the line under way are missing: it is passed over.
    fn skip(&mut self) {
        self.length = 0;
        self.line = Line::Skipped;
    }

    fn memory(&self, settings: &Settings) -> usize {
        match &self.line {
            Line::Blank | Line::Skipped => 0,
            Line::Message(_) => self.length.min(MAX_FACTS + settings.max_request_content) + FLAT,
            Line::Batch(splitter) => splitter.memory() + FLAT,
        }
    }
}
