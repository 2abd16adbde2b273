//! One connection: captured chunks in, what its exchanges became out. The entrance of this crate.
//!
//! # Which response answers which request
//! Requests are answered in order, so while nothing is missing a queue says it. After a loss that the framing
//! cannot bridge it is known only if the client sends no request before the last one is answered. Clients of
//! models do not pipeline; one that was seen to do so loses its connection to a loss. Otherwise the exchanges
//! that are open are given up ([`Exchange::lost`], then [`End::Unknown`]): a gap shows when the next chunk comes,
//! so by then it may have swallowed any of their responses. Reading goes on at a chunk that begins with a request
//! line, and with a status line when it is the first to come after that request. A loss of request bytes alone
//! costs only the rest of that request.
//!
//! # A response before its request
//! Of a program that writes on one thread and reads on another the answer may be there first: what is written is known
//! when its call returns. Such a response waits for the request, which must have been begun to be written before the
//! response was read, unless that is `101 (Switching Protocols)`.
//!
//! # Memory
//! A connection holds at most two cut heads and an early response of [`Limits::head`] bytes each, one decoder a direction
//! (see [`crate::coding`]), and [`Limits::pending`] exchanges, whatever its peers send. Exchanges bound themselves.

use std::collections::VecDeque;

use crate::coding::{CodingError, Decoder};
use crate::http::{Direction, End, Exchange, Exchanges, Headers, Progress, ResponseHead};
use crate::http1::{self, Kind, Malformed, Method, Part, Reader, Request, Response};
use crate::http2::{self, Http2};
use crate::streams::{Arrival, Stream};
use crate::time::Timestamp;
use crate::websocket::{Agreed, WebSocket};

/// Reads one connection's plaintext.
pub struct Connection<X: Exchanges> {
    exchanges: X,
    limits: Limits,
    protocol: Protocol,
    counters: Counters,
    sent: Side,
    received: Side,
    /// Requests in the order of their heads, until their response, and they themselves, are over.
    pending: VecDeque<Pending<X::Exchange>>,
    /// The last of `pending` has not been sent whole.
    sending: bool,
    /// The next request's head was found after a loss.
    resynchronised: bool,
    /// The client has sent a request before the last one was answered.
    pipelines: bool,
    /// A response that came before its request, in pieces with their times.
    early: Vec<(Timestamp, Vec<u8>)>,
    /// What reads the connection once it has shown itself to be HTTP/2.
    http2: Option<Box<Http2<X::Exchange>>>,
    /// What reads it once it has become a WebSocket.
    websocket: Option<Box<WebSocket<X::Dialogue>>>,
}

/// Bytes that moved in one call, or a part of them.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// Which way.
    pub direction: Direction,
    /// When the call returned.
    pub at: Timestamp,
    /// Plaintext bytes that moved that way before, since the connection was first seen.
    pub offset: u64,
    /// What was captured. Empty data tells how far that direction has come: when a connection is closed, it shows
    /// what is missing after the last chunk.
    pub data: &'a [u8],
    /// Bytes after `data` that the call moved and capture did not keep.
    pub lost_after: u64,
}

/// What one connection may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A head's size in bytes: four to eight times what servers accept by default.
    pub head: usize,
    /// Requests that wait for their response.
    pub pending: usize,
    /// Open streams of HTTP/2. Servers allow 100 (the least that RFC 9113 advises) to 250.
    pub streams: usize,
    /// Decoded bytes of one coded body, or of one message of a WebSocket.
    pub decoded: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { head: 64 << 10, pending: 32, streams: 256, decoded: 64 << 20 }
    }
}

/// What a connection was found to carry. Only of the first four anything is read; the others cost a branch a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    /// Too little was seen.
    Undecided,
    /// HTTP/1.1 or 1.0, the traced process being the client.
    Http1,
    /// HTTP/2, the traced process being the client.
    Http2,
    /// HTTP/1 that became a WebSocket.
    WebSocket,
    /// HTTP, the traced process being the server.
    ServerSide,
    /// HTTP/1 that became another protocol, or a WebSocket that nobody wants, by `101 (Switching Protocols)` or CONNECT.
    Tunnel,
    /// Something else.
    Unknown,
    /// HTTP/1 with pipelined requests whose answers can no longer be told apart after a loss.
    Desynchronised,
}

/// What happened on one connection, for the agent's metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Times that bytes were missing.
    pub gaps: u64,
    /// The bytes that were missing.
    pub missing_bytes: u64,
    /// Chunks that had come before.
    pub repeats: u64,
    /// Times that reading lost its place: a gap that the framing could not bridge, or malformed bytes.
    pub losses: u64,
    /// Times that it found a message to go on with.
    pub resynchronisations: u64,
    /// Messages and frames that are not HTTP, or WebSocket, as it should be.
    pub malformed: u64,
    /// Heads of HTTP/2 requests whose method or path was said before the connection was joined, or in a gap.
    pub unreadable_heads: u64,
    /// Responses that no request asked for.
    pub unsolicited: u64,
    /// 1 where the connection was joined in the middle of a message: the exchange under way then is not seen.
    pub joined_midway: u64,
    /// Bodies, and messages of a WebSocket, whose coding is not supported or that are not what it says.
    pub undecodable: u64,
    /// Those over [`Limits::decoded`].
    pub oversized: u64,
    /// Exchanges of interest that were given up, their pairing or place being in doubt.
    pub abandoned: u64,
}

/// What an exchange becomes.
pub(crate) type Output<X> = <<X as Exchanges>::Exchange as Exchange>::Output;

impl<X: Exchanges> Connection<X> {
    /// A connection whose requests are read by `exchanges`. `from_start`: it was first seen at its first byte, not
    /// joined in the middle.
    pub fn new(exchanges: X, limits: Limits, from_start: bool) -> Self {
        Connection {
            exchanges,
            limits,
            protocol: Protocol::Undecided,
            counters: Counters::default(),
            sent: Side::new(Kind::Requests, limits.head, from_start),
            received: Side::new(Kind::Responses, limits.head, from_start),
            pending: VecDeque::new(),
            sending: false,
            resynchronised: false,
            pipelines: false,
            early: Vec::new(),
            http2: None,
            websocket: None,
        }
    }

    /// What reads requests; a change holds from the next request on.
    pub fn exchanges_mut(&mut self) -> &mut X {
        &mut self.exchanges
    }

    /// Takes a chunk. Those of one direction come in order; what has become of the exchanges that it ends goes
    /// to `out`.
    pub fn chunk(&mut self, chunk: Chunk<'_>, out: &mut impl FnMut(Output<X>)) {
        if self.is_quiet() {
            return;
        }
        let Chunk { direction, at, offset, data, lost_after } = chunk;
        let stream = &mut self.side(direction).stream;
        let end = offset.saturating_add(data.len() as u64).saturating_add(lost_after);
        for arrival in stream.arrive(offset, data) {
            self.arrival(direction, arrival, at, out);
        }
        if lost_after > 0
            && let Some(gap) = self.side(direction).stream.skip(end)
        {
            self.arrival(direction, gap, at, out);
        }
    }

    /// So many bytes have moved that way since the connection was first seen: shows a loss after the last chunk.
    pub fn moved(
        &mut self,
        direction: Direction,
        total: u64,
        at: Timestamp,
        out: &mut impl FnMut(Output<X>),
    ) {
        self.chunk(Chunk { direction, at, offset: total, data: &[], lost_after: 0 }, out);
    }

    /// The connection is over: `end` says by whom ([`End::Cut`] by the peer, [`End::Cancelled`] by the traced
    /// process, else [`End::Unknown`]). A response that lasts until then is complete unless we cancelled it.
    pub fn close(mut self, at: Timestamp, end: End, out: &mut impl FnMut(Output<X>)) {
        // By closing alone nothing is complete.
        let end = if end == End::Complete { End::Unknown } else { end };
        if let Some(http2) = self.http2 {
            http2.close(at, end, out);
            return;
        }
        if let Some(websocket) = self.websocket {
            websocket.close(&mut self.exchanges, at, end, out);
            return;
        }
        let ended_by_close = end != End::Cancelled && !self.received.content.is_incomplete();
        let by_close = if ended_by_close { End::Complete } else { end };
        let until_close = self.received.reader.is_until_close();
        for pending in std::mem::take(&mut self.pending) {
            match pending.answer {
                Answer::Over(at) => pending.finish(at, End::Complete, out),
                Answer::Underway if until_close => pending.finish(at, by_close, out),
                _ => pending.finish(at, end, out),
            }
        }
    }

    /// Bytes that are held, about.
    pub fn memory(&self) -> usize {
        let exchanges = self.pending.iter().filter_map(|pending| pending.exchange.as_ref());
        size_of::<Self>()
            + self.sent.memory()
            + self.received.memory()
            + self.early.iter().map(|(_, data)| data.capacity()).sum::<usize>()
            + self.pending.capacity() * size_of::<Pending<X::Exchange>>()
            + exchanges.map(Exchange::memory).sum::<usize>()
            + self.http2.as_ref().map_or(0, |http2| http2.memory())
            + self.websocket.as_ref().map_or(0, |websocket| websocket.memory::<X>())
    }

    /// What the connection carries, as far as is known.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn is_quiet(&self) -> bool {
        !matches!(
            self.protocol,
            Protocol::Undecided | Protocol::Http1 | Protocol::Http2 | Protocol::WebSocket
        )
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        }
    }

    fn arrival(
        &mut self,
        direction: Direction,
        arrival: Arrival<'_>,
        at: Timestamp,
        out: &mut impl FnMut(Output<X>),
    ) {
        match arrival {
            _ if self.is_quiet() => {}
            Arrival::Repeat => self.counters.repeats += 1,
            Arrival::Gap { missing } => {
                let length = missing.end - missing.start;
                self.replay(out);
                self.counters.gaps += 1;
                self.counters.missing_bytes = self.counters.missing_bytes.saturating_add(length);
                if self.http2.is_some() || self.websocket.is_some() {
                    self.hand_on(direction, Arrival::Gap { missing }, at, out);
                } else if self.side(direction).reader.skip(length) {
                    self.content_lost(direction);
                    // The message may have ended with the gap.
                    self.read(direction, &[], at, out);
                } else {
                    self.lose(direction, at, out);
                }
            }
            Arrival::InOrder(data) if direction == Direction::Received && self.is_early(data) => {
                self.early.push((at, data.to_vec()));
            }
            Arrival::InOrder(data) => {
                if direction == Direction::Received || !self.waits_for(at) {
                    self.replay(out);
                }
                self.in_order(direction, data, at, out);
                if !self.pending.is_empty() {
                    self.replay(out);
                }
            }
        }
    }

    fn in_order(
        &mut self,
        direction: Direction,
        data: &[u8],
        at: Timestamp,
        out: &mut impl FnMut(Output<X>),
    ) {
        if self.http2.is_some() || self.websocket.is_some() {
            self.hand_on(direction, Arrival::InOrder(data), at, out);
        } else if !self.is_quiet() {
            self.read(direction, data, at, out);
        }
    }

    /// Whether received bytes are (more of) a response whose request has not come.
    fn is_early(&self, data: &[u8]) -> bool {
        let held: usize = self.early.iter().map(|(_, data)| data.len()).sum();
        let begins = || {
            const START: &[u8] = b"HTTP/1.";
            let length = data.len().min(START.len());
            matches!(self.protocol, Protocol::Undecided | Protocol::Http1)
                && self.pending.is_empty()
                && self.sent.reader.is_between_messages()
                && self.received.reader.is_between_messages()
                && data[..length] == START[..length]
        };
        held + data.len() <= self.limits.head && (held > 0 || begins())
    }

    /// Whether the early response may be that to a request which was begun to be written at that time. Nobody switches
    /// protocols unasked; a server that has waited in vain may say so.
    fn waits_for(&self, at: Timestamp) -> bool {
        let head = || self.early.iter().flat_map(|(_, data)| data).take(12);
        self.early.first().is_some_and(|(began, _)| at <= *began || head().eq(b"HTTP/1.1 101"))
    }

    /// Reads what waited for a request.
    fn replay(&mut self, out: &mut impl FnMut(Output<X>)) {
        for (at, data) in std::mem::take(&mut self.early) {
            self.in_order(Direction::Received, &data, at, out);
        }
    }

    /// To what reads the connection since it is HTTP/2, or a WebSocket.
    fn hand_on(
        &mut self,
        direction: Direction,
        arrival: Arrival<'_>,
        at: Timestamp,
        out: &mut impl FnMut(Output<X>),
    ) {
        if let Some(http2) = &mut self.http2 {
            http2.arrival(&mut self.exchanges, &mut self.counters, direction, arrival, at, out);
        } else if let Some(websocket) = &mut self.websocket {
            websocket.arrival(&mut self.exchanges, &mut self.counters, direction, arrival, at, out);
        }
    }

    /// From here on the connection is HTTP/2; `preface`: how much of the client's preface had come before.
    fn become_http2(
        &mut self,
        preface: Option<usize>,
        direction: Direction,
        data: &[u8],
        at: Timestamp,
        out: &mut impl FnMut(Output<X>),
    ) {
        self.protocol = Protocol::Http2;
        self.http2 = Some(Box::new(Http2::new(self.limits, preface)));
        self.hand_on(direction, Arrival::InOrder(data), at, out);
    }

    fn read(&mut self, direction: Direction, data: &[u8], at: Timestamp, out: &mut impl FnMut(Output<X>)) {
        let joined = self.protocol == Protocol::Undecided && self.side(direction).reader.is_lost();
        if joined && http2::begins(direction, data) {
            self.become_http2(None, direction, data, at, out);
            return;
        }
        let begins = || [Kind::Requests, Kind::Responses].iter().any(|kind| http1::begins(*kind, data));
        if joined && !data.is_empty() && self.counters.losses == 0 && !begins() {
            self.counters.joined_midway = 1;
        }
        let result = match direction {
            Direction::Sent => self.read_requests(data, at, out),
            Direction::Received => self.read_responses(data, at, out),
        };
        let Err(error) = result else { return };
        match (self.protocol, error) {
            (Protocol::Undecided, Malformed::Http2) if direction == Direction::Sent => {
                let seen = self.sent.reader.held();
                self.become_http2(Some(seen), direction, data, at, out);
            }
            // The server need not wait for the client's preface.
            (Protocol::Undecided, Malformed::Start)
                if direction == Direction::Received && http2::begins_with_settings(data) =>
            {
                let sent = self.sent.reader.held();
                self.become_http2((!self.sent.reader.is_lost()).then_some(sent), direction, data, at, out);
            }
            (Protocol::Undecided, Malformed::Http2) => self.become_quiet(Protocol::ServerSide, at, out),
            (Protocol::Undecided, Malformed::OtherSide) => self.become_quiet(Protocol::ServerSide, at, out),
            // A server may speak first in other protocols too: what the client says decides, from its start.
            (Protocol::Undecided, _) if direction == Direction::Received || self.resynchronised => {
                self.counters.losses += 1;
                self.side(direction).reader.lose();
            }
            (Protocol::Undecided, _) => self.become_quiet(Protocol::Unknown, at, out),
            _ => {
                self.counters.malformed += 1;
                self.lose(direction, at, out);
            }
        }
    }

    fn read_requests(
        &mut self,
        mut data: &[u8],
        at: Timestamp,
        out: &mut impl FnMut(Output<X>),
    ) -> Result<(), Malformed> {
        if self.sent.reader.is_lost() {
            if !http1::begins(Kind::Requests, data) {
                self.look_for_other_side(Kind::Responses, data)?;
                return Ok(());
            }
            self.counters.resynchronisations += 1;
            self.sent.reader.resume();
            self.resynchronised = true;
        }
        self.leave_out_unwanted_body(data, out);
        let mut request_ended = false;
        loop {
            if self.sent.reader.is_between_messages() {
                self.sent.began = at;
            }
            match self.sent.reader.next(&mut data)? {
                None => return Ok(()),
                Some(Part::Head(head)) => {
                    let request = Request::parse(&head, self.sent.began)?;
                    if request_ended && self.unanswered() > 0 {
                        self.seen_to_pipeline(at, out);
                    }
                    if !self.is_quiet() {
                        self.request(request, at, out);
                    }
                }
                Some(Part::Body(body)) => self.request_body(body),
                Some(Part::End) => {
                    self.request_end(out);
                    request_ended = true;
                }
            }
            if self.is_quiet() {
                return Ok(());
            }
        }
    }

    fn read_responses(
        &mut self,
        mut data: &[u8],
        at: Timestamp,
        out: &mut impl FnMut(Output<X>),
    ) -> Result<(), Malformed> {
        if self.received.reader.is_lost() {
            if !http1::begins(Kind::Responses, data) {
                self.look_for_other_side(Kind::Requests, data)?;
                // A client that does not pipeline gets nothing but the answer to its last request.
                self.abandon(at, out, |pending| pending.answer == Answer::Awaited);
                return Ok(());
            }
            if self.unanswered() != 1 {
                return Ok(());
            }
            self.counters.resynchronisations += 1;
            self.received.reader.resume();
        } else if !data.is_empty() && self.unanswered() > 1 {
            // Nothing is missing, and this is not for the last request.
            self.seen_to_pipeline(at, out);
        }
        while !self.is_quiet() {
            match self.received.reader.next(&mut data)? {
                None => break,
                Some(Part::Head(head)) => self.response(&head, at, out)?,
                Some(Part::Body(body)) => self.response_body(body, at, out),
                Some(Part::End) => self.response_end(at, out),
            }
            if self.websocket.is_some() {
                self.hand_on(Direction::Received, Arrival::InOrder(data), at, out);
                break;
            }
        }
        Ok(())
    }

    /// Joined in the middle: a chunk that begins with a message of the other kind tells that we are the server.
    fn look_for_other_side(&self, other: Kind, data: &[u8]) -> Result<(), Malformed> {
        if self.protocol == Protocol::Undecided && http1::begins(other, data) {
            return Err(Malformed::OtherSide);
        }
        Ok(())
    }

    /// A client that waited for `100 (Continue)` and got a final response may go on with its next request instead
    /// of the body (RFC 9110, 10.1.1).
    fn leave_out_unwanted_body(&mut self, data: &[u8], out: &mut impl FnMut(Output<X>)) {
        if self.sending
            && self.pending.back().is_some_and(|last| last.expects_continue && last.is_over())
            && http1::begins(Kind::Requests, data)
        {
            self.sending = false;
            self.sent.content = Content::Skipped;
            self.sent.reader.resume();
            self.settle(out);
        }
    }

    fn request(&mut self, request: Request, at: Timestamp, out: &mut impl FnMut(Output<X>)) {
        let Request { head, framing, method, expects_continue } = request;
        self.protocol = Protocol::Http1;
        if self.received.reader.is_lost() {
            // The next response that is found must be this request's.
            self.abandon(at, out, |pending| !pending.is_over());
        }
        if self.pending.len() >= self.limits.pending {
            self.become_quiet(Protocol::Desynchronised, at, out);
            return;
        }
        let exchange = self.exchanges.open(&head);
        self.sent.reader.body(framing);
        self.sent.content = Content::Skipped;
        let mut pending = Pending {
            exchange,
            method,
            expects_continue,
            in_doubt: std::mem::take(&mut self.resynchronised),
            answer: Answer::Awaited,
            lost: [false; 2],
        };
        if pending.exchange.is_some() {
            match Content::new(&head.headers, self.limits.decoded) {
                Ok(content) => self.sent.content = content,
                Err(error) => {
                    self.counters.count(error);
                    pending.lose(Direction::Sent);
                }
            }
        }
        self.pending.push_back(pending);
        self.sending = true;
    }

    fn request_body(&mut self, body: &[u8]) {
        let Some(pending) = self.pending.back_mut().filter(|_| self.sending) else { return };
        pending.expects_continue = false;
        let Some(exchange) = &mut pending.exchange else { return };
        if let Err(error) = self.sent.content.push(body, &mut |content| exchange.request_body(content)) {
            self.counters.count(error);
            self.content_lost(Direction::Sent);
        }
    }

    fn request_end(&mut self, out: &mut impl FnMut(Output<X>)) {
        if !std::mem::take(&mut self.sending) {
            return;
        }
        if self.sent.content.is_incomplete() {
            self.counters.undecodable += 1;
            self.content_lost_of(Direction::Sent, true);
        }
        self.sent.content = Content::Skipped;
        if let Some(exchange) = self.pending.back_mut().and_then(|last| last.exchange.as_mut()) {
            exchange.request_end();
        }
        self.settle(out);
    }

    fn response(
        &mut self,
        head: &[u8],
        at: Timestamp,
        out: &mut impl FnMut(Output<X>),
    ) -> Result<(), Malformed> {
        let Some(pending) = self.pending.front_mut().filter(|front| front.answer == Answer::Awaited) else {
            self.counters.unsolicited += 1;
            self.lose(Direction::Received, at, out);
            return Ok(());
        };
        let response = Response::parse(head, pending.method, pending.exchange.is_some())?;
        if matches!(response.status, 100..=199) && !response.is_tunnel {
            return Ok(());
        }
        pending.answer = Answer::Underway;
        self.received.reader.body(response.framing);
        self.received.content = Content::Skipped;
        let agreed = (response.status == 101).then(|| Agreed::by(&response.headers)).flatten();
        if let Some(exchange) = &mut pending.exchange {
            let head = ResponseHead { status: response.status, headers: response.headers };
            exchange.response_head(&head, at);
            // No body, no coding: a response to HEAD has the header of one.
            if response.framing != http1::Framing::Length(0) {
                match Content::new(&head.headers, self.limits.decoded) {
                    Ok(content) => self.received.content = content,
                    Err(error) => {
                        self.counters.count(error);
                        pending.lose(Direction::Received);
                    }
                }
            }
        }
        if response.is_tunnel {
            pending.answer = Answer::Over(at);
            if !self.become_websocket(agreed) {
                self.become_quiet(Protocol::Tunnel, at, out);
            }
        }
        Ok(())
    }

    /// The last exchange of HTTP is over, and both sides have agreed on how to go on. `false`: on nothing that is known,
    /// or nobody wants it.
    fn become_websocket(&mut self, agreed: Option<Agreed>) -> bool {
        let Some(agreed) = agreed.filter(|_| !self.sending && self.pending.len() == 1) else { return false };
        let Some(pending) = self.pending.front_mut() else { return false };
        let Some(exchange) = pending.exchange.take() else { return false };
        match self.exchanges.upgrade(exchange) {
            Ok(dialogue) => {
                self.pending = VecDeque::new();
                self.protocol = Protocol::WebSocket;
                let websocket = WebSocket::new(agreed, self.limits.decoded, dialogue);
                self.websocket = Some(Box::new(websocket));
                true
            }
            Err(exchange) => {
                pending.exchange = Some(exchange);
                false
            }
        }
    }

    fn response_body(&mut self, body: &[u8], at: Timestamp, out: &mut impl FnMut(Output<X>)) {
        let Some(pending) = self.pending.front_mut() else { return };
        let Some(exchange) = &mut pending.exchange else { return };
        let mut progress = Progress::More;
        let pushed = self.received.content.push(body, &mut |content| {
            if progress == Progress::More {
                progress = exchange.response_body(content, at);
            }
        });
        if progress == Progress::Complete {
            pending.finish_now(at, End::Complete, out);
            self.received.content = Content::Skipped;
        } else if let Err(error) = pushed {
            self.counters.count(error);
            self.content_lost(Direction::Received);
        }
    }

    fn response_end(&mut self, at: Timestamp, out: &mut impl FnMut(Output<X>)) {
        if self.received.content.is_incomplete() {
            self.counters.undecodable += 1;
            self.content_lost_of(Direction::Received, true);
        }
        self.received.content = Content::Skipped;
        if let Some(pending) = self.pending.front_mut() {
            pending.answer = Answer::Over(at);
        }
        self.settle(out);
    }

    /// Finishes the exchanges that are over on both sides: the response may end before the request does.
    fn settle(&mut self, out: &mut impl FnMut(Output<X>)) {
        while let Some(&Pending { answer: Answer::Over(at), .. }) = self.pending.front() {
            if self.sending && self.pending.len() == 1 {
                return;
            }
            if let Some(pending) = self.pending.pop_front() {
                pending.finish(at, End::Complete, out);
            }
        }
    }

    /// The rest of the content that is being read cannot be handed on.
    fn content_lost(&mut self, direction: Direction) {
        let in_body = match direction {
            Direction::Sent => self.sending,
            Direction::Received => self.pending.front().is_some_and(|p| p.answer == Answer::Underway),
        };
        self.content_lost_of(direction, in_body);
    }

    fn content_lost_of(&mut self, direction: Direction, in_body: bool) {
        self.side(direction).content = Content::Skipped;
        let pending = match direction {
            Direction::Sent => self.pending.back_mut(),
            Direction::Received => self.pending.front_mut(),
        };
        if let Some(pending) = pending.filter(|_| in_body) {
            pending.lose(direction);
        }
    }

    /// Where that direction is has become unknown.
    fn lose(&mut self, direction: Direction, at: Timestamp, out: &mut impl FnMut(Output<X>)) {
        self.counters.losses += 1;
        self.content_lost(direction);
        self.side(direction).reader.lose();
        if self.pipelines {
            self.become_quiet(Protocol::Desynchronised, at, out);
            return;
        }
        if direction == Direction::Sent {
            self.sending = false;
            self.settle(out);
        }
        // While only request bytes are missing, the next response is still that of the oldest request. Once response
        // bytes are, whole responses may be, also to requests that are missing too.
        if self.received.reader.is_lost() {
            self.abandon(at, out, |pending| !pending.is_over());
        }
    }

    fn seen_to_pipeline(&mut self, at: Timestamp, out: &mut impl FnMut(Output<X>)) {
        self.pipelines = true;
        let in_doubt = self.pending.iter().any(|pending| pending.in_doubt);
        if in_doubt || self.sent.reader.is_lost() || self.received.reader.is_lost() {
            self.become_quiet(Protocol::Desynchronised, at, out);
        }
    }

    /// Requests whose response is not over.
    fn unanswered(&self) -> usize {
        self.pending.iter().filter(|pending| !pending.is_over()).count()
    }

    /// Gives up those exchanges.
    fn abandon(
        &mut self,
        at: Timestamp,
        out: &mut impl FnMut(Output<X>),
        which: impl Fn(&Pending<X::Exchange>) -> bool,
    ) {
        if self.sending && self.pending.back().is_some_and(&which) {
            self.sending = false;
            self.sent.content = Content::Skipped;
        }
        for mut pending in std::mem::take(&mut self.pending) {
            if which(&pending) {
                self.counters.abandoned += u64::from(pending.exchange.is_some());
                pending.lose(Direction::Received);
                pending.finish(at, End::Unknown, out);
            } else {
                self.pending.push_back(pending);
            }
        }
    }

    /// Reads nothing any more.
    fn become_quiet(&mut self, protocol: Protocol, at: Timestamp, out: &mut impl FnMut(Output<X>)) {
        self.protocol = protocol;
        self.abandon(at, out, |pending| !pending.is_over());
        self.sending = false;
        self.settle(out);
        for side in [&mut self.sent, &mut self.received] {
            side.reader.lose();
            side.content = Content::Skipped;
        }
        self.pending = VecDeque::new();
    }
}

/// One direction.
struct Side {
    stream: Stream,
    reader: Reader,
    /// The body that is being read.
    content: Content,
    /// When the message that is being read began.
    began: Timestamp,
}

impl Side {
    fn new(kind: Kind, head: usize, from_start: bool) -> Self {
        let mut reader = Reader::new(kind, head);
        if !from_start {
            reader.lose();
        }
        Side { stream: Stream::default(), reader, content: Content::Skipped, began: Timestamp::default() }
    }

    fn memory(&self) -> usize {
        self.reader.memory() + self.content.memory()
    }
}

/// What is done with a body.
pub(crate) enum Content {
    /// Nobody wants it (any more), or there is none.
    Skipped,
    Plain,
    Coded(Decoder),
    /// Its coding was said before we looked: it is plain if it begins as text does.
    InDoubt,
}

impl Content {
    pub(crate) fn new(headers: &Headers, limit: u64) -> Result<Self, CodingError> {
        let decoder = Decoder::new(http1::codings(headers), limit)?;
        Ok(decoder.map_or(Content::Plain, Content::Coded))
    }

    pub(crate) fn push(&mut self, body: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), CodingError> {
        match self {
            Content::Skipped => Ok(()),
            Content::Plain => {
                out(body);
                Ok(())
            }
            Content::Coded(decoder) => decoder.push(body, out),
            Content::InDoubt if body.is_empty() => Ok(()),
            Content::InDoubt if begins_as_text(body) => {
                *self = Content::Plain;
                out(body);
                Ok(())
            }
            Content::InDoubt => Err(CodingError::Unsupported),
        }
    }

    /// The coding's own end has not come.
    pub(crate) fn is_incomplete(&self) -> bool {
        matches!(self, Content::Coded(decoder) if decoder.finish().is_err())
    }

    /// Bytes that are held, about.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Content::Coded(decoder) => decoder.memory(),
            Content::Skipped | Content::Plain | Content::InDoubt => 0,
        }
    }
}

/// What is compressed has bytes that no text has, nearly at once.
fn begins_as_text(data: &[u8]) -> bool {
    const LOOK: usize = 64;
    let text = match std::str::from_utf8(&data[..data.len().min(LOOK)]) {
        Ok(text) => text,
        // A character may be cut at the end, and only there.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&data[..error.valid_up_to()]).unwrap_or("")
        }
        Err(_) => return false,
    };
    !text.is_empty() && text.chars().all(|char| !char.is_control() || char.is_ascii_whitespace())
}

/// A request whose response is not over, or that is itself not over.
struct Pending<E> {
    /// `None`: nobody wants it, or it is finished.
    exchange: Option<E>,
    method: Method,
    /// The client waits for `100 (Continue)` and has sent nothing of the body.
    expects_continue: bool,
    /// Its head was found after a loss: it may be the content of a body.
    in_doubt: bool,
    answer: Answer,
    /// What the exchange was told is lost: sent, received.
    lost: [bool; 2],
}

/// The response to a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Its (final) head has not come.
    Awaited,
    Underway,
    Over(Timestamp),
}

impl<E: Exchange> Pending<E> {
    fn is_over(&self) -> bool {
        matches!(self.answer, Answer::Over(_))
    }

    fn lose(&mut self, side: Direction) {
        let lost = &mut self.lost[usize::from(side == Direction::Received)];
        if let (Some(exchange), false) = (&mut self.exchange, std::mem::replace(lost, true)) {
            exchange.lost(side);
        }
    }

    fn finish(mut self, at: Timestamp, end: End, out: &mut impl FnMut(E::Output)) {
        self.finish_now(at, end, out);
    }

    fn finish_now(&mut self, at: Timestamp, end: End, out: &mut impl FnMut(E::Output)) {
        if let Some(output) = self.exchange.take().and_then(|exchange| exchange.finish(at, end)) {
            out(output);
        }
    }
}

impl Counters {
    pub(crate) fn count(&mut self, error: CodingError) {
        match error {
            CodingError::TooLarge { .. } => self.oversized += 1,
            CodingError::Unsupported | CodingError::Malformed(_) | CodingError::Incomplete(_) => {
                self.undecodable += 1;
            }
        }
    }
}
