//! Calls over a WebSocket: which messages make one, on a connection that speaks OpenAI's Responses or Realtime.
//!
//! A call is asked for by a message of the client, `response.create`, which has the fields of the request over HTTP (of
//! Realtime: [`openai_realtime::Session`]), and answered by messages that are the events of its stream. A connection has
//! many, one after the other; a client that gives them a `stream_id` has one of them under way for each of these. What
//! carries no id of its response belongs to the one that is under way.
//!
//! With `generate: false` the server only reads what a later call continues: it infers nothing, and counts the same input
//! again in the usage of that call. So this is no call, and its events are passed over; what it brought is content of the
//! call that continues it.
//!
//! # An answer before its question
//! Of a program that writes on one thread and reads on another, events may be there before the message that asked for them:
//! what is written is known when its call returns. So the events of a response that nobody asked for wait for the next
//! message of the client. It is the one that asked where it was begun to be written before they came, or where they have
//! not come to an end.
//!
//! # After a loss
//! A missing message costs those calls their wholeness that it may have been about. Of a client that was seen to ask
//! before it was answered nothing is told any more after a loss: which answer is whose cannot be known.

use super::openai_realtime::{self, Session};
use super::{CallReader, Found, MAX_FACTS, Models, Sniffer, fields, trace_context};
use crate::call::Api;
use crate::http::{Dialogue, Direction, End, Headers, Progress, RequestHead};
use crate::json::{self, Keep, Step};
use crate::telemetry::SpanContext;
use crate::time::Timestamp;
use serde_json::Value;
use std::collections::VecDeque;

/// The messages of one WebSocket.
#[derive(Debug)]
pub struct ModelDialogue(Kind);

#[derive(Debug)]
enum Kind {
    Calls(Box<Calls>),
    /// The first message of the client tells whether it may carry calls.
    Unknown(Box<Sniffer>),
}

impl ModelDialogue {
    /// A dialogue of calls in that format, which the user has `named` or not.
    pub(super) fn of_calls(head: &RequestHead, api: Api, named: bool) -> ModelDialogue {
        ModelDialogue(Kind::Calls(Box::new(Calls {
            head: head.clone(),
            api,
            named,
            asking: None,
            event: None,
            early: Vec::new(),
            early_bytes: 0,
            warm: None,
            session: (api == Api::OpenAiRealtime).then(Box::default),
            open: Vec::new(),
            ended: VecDeque::new(),
            requests_lost: false,
            pipelines: false,
        })))
    }

    pub(super) fn unknown(sniffer: Sniffer) -> ModelDialogue {
        ModelDialogue(Kind::Unknown(Box::new(sniffer)))
    }
}

impl Dialogue<Models> for ModelDialogue {
    fn message(&mut self, models: &mut Models, direction: Direction, data: &[u8], at: Timestamp) {
        match (&mut self.0, direction) {
            (Kind::Calls(calls), Direction::Sent) => calls.asking(models, at).push(data),
            (Kind::Calls(calls), Direction::Received) => calls.event(models).push(data),
            (Kind::Unknown(sniffer), Direction::Sent) => sniffer.request_body(data),
            (Kind::Unknown(_), Direction::Received) => {}
        }
    }

    fn message_end(
        &mut self,
        models: &mut Models,
        direction: Direction,
        at: Timestamp,
        out: &mut impl FnMut(Found),
    ) -> Progress {
        match (&mut self.0, direction) {
            (Kind::Calls(calls), Direction::Sent) => match calls.asking.take() {
                Some(asking) => calls.asked(models, asking, true, at, out),
                None => Progress::More,
            },
            (Kind::Calls(calls), Direction::Received) => match calls.event.take() {
                Some(event) => calls.heard(models, event.finish(), at, out),
                None => Progress::More,
            },
            (Kind::Unknown(sniffer), Direction::Sent) => {
                if let Some(unknown) = sniffer.found() {
                    out(Found::Unknown(unknown));
                }
                Progress::Complete
            }
            (Kind::Unknown(_), Direction::Received) => Progress::More,
        }
    }

    fn lost(
        &mut self,
        models: &mut Models,
        direction: Direction,
        at: Timestamp,
        out: &mut impl FnMut(Found),
    ) -> Progress {
        match (&mut self.0, direction) {
            (Kind::Calls(calls), Direction::Sent) => {
                calls.requests_lost = true;
                calls.replay(models, out);
                let asked = calls.asking.take().map(|asking| calls.asked(models, asking, false, at, out));
                if calls.pipelines { Progress::Complete } else { asked.unwrap_or(Progress::More) }
            }
            (Kind::Calls(calls), Direction::Received) => {
                calls.event = None;
                calls.replay(models, out);
                for open in &mut calls.open {
                    open.lost = true;
                    if let Some(call) = &mut open.call {
                        call.response_lost = true;
                    }
                }
                if calls.pipelines { Progress::Complete } else { Progress::More }
            }
            (Kind::Unknown(_), Direction::Sent) => Progress::Complete,
            (Kind::Unknown(_), Direction::Received) => Progress::More,
        }
    }

    fn memory(&self) -> usize {
        match &self.0 {
            Kind::Calls(calls) => {
                let held = calls.session.as_ref().map_or(0, |session| session.memory());
                size_of::<Calls>() + calls.open.len() * size_of::<CallReader>() + calls.early_bytes + held
            }
            Kind::Unknown(_) => size_of::<Sniffer>(),
        }
    }

    fn close(self, models: &mut Models, at: Timestamp, end: End, out: &mut impl FnMut(Found)) {
        if let Kind::Calls(mut calls) = self.0 {
            calls.replay(models, out);
            calls.open.into_iter().for_each(|open| open.finish(at, end, out));
        }
    }
}

/// The calls of one connection.
struct Calls {
    /// Of the handshake: what it says holds for all of them. Its time is that of the message at hand.
    head: RequestHead,
    api: Api,
    named: bool,
    /// The client's message at hand.
    asking: Option<Asking>,
    /// The server's message at hand.
    event: Option<Box<json::Reader>>,
    /// Events of a response whose request has not come, and bytes of memory that they take.
    early: Vec<(Timestamp, json::Read)>,
    early_bytes: usize,
    /// The id of the last response that was not to generate anything, and what asked for it.
    warm: Option<(String, Value)>,
    /// Of Realtime.
    session: Option<Box<Session>>,
    /// Calls that are not over, in the order in which they were asked for.
    open: Vec<Open>,
    /// The ids of the latest responses that are over: after an error another event may tell the same again.
    ended: VecDeque<String>,
    /// A request may have been missed since the last response that nobody was seen to ask for.
    requests_lost: bool,
    /// The client has asked before it was answered.
    pipelines: bool,
}

impl std::fmt::Debug for Calls {
    /// Without anything of a payload.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls")
            .field("api", &self.api)
            .field("open", &self.open.len())
            .finish_non_exhaustive()
    }
}

/// A message that may ask for a response.
struct Asking {
    /// When its first byte was written.
    at: Timestamp,
    /// The message is the request; of Realtime it is a part of it.
    call: Option<Box<CallReader>>,
    message: json::Reader,
}

/// A response that was asked for, or that the server began.
struct Open {
    /// Its `stream_id`.
    lane: Option<String>,
    /// `None`: it is to be no call.
    call: Option<Box<CallReader>>,
    /// What it was asked with, where it is to be no call and content is wanted.
    warm: Option<Value>,
    /// Events have come.
    begun: bool,
    id: Option<String>,
    /// The id of the message that asked for it.
    event: Option<String>,
    /// Its end may have been missed.
    lost: bool,
}

impl Calls {
    /// Responses under way: as many as streams of HTTP/2.
    const MOST_OPEN: usize = 256;
    const MOST_ENDED: usize = 16;
    /// Bytes of memory of events that wait for their request: more than comes while a call returns.
    const MOST_EARLY: usize = 1 << 20;

    fn asking(&mut self, models: &Models, at: Timestamp) -> &mut Asking {
        if self.asking.is_none() {
            self.head.at = at;
            let settings = &models.settings;
            let (call, filter, texts): (_, json::Filter, _) = match self.session {
                None => (Some(self.call(models)), envelope, 0),
                Some(_) => (None, openai_realtime::message_filter, settings.max_request_content),
            };
            let limits = json::Limits { facts: MAX_FACTS, texts };
            let message = json::Reader::new(filter, settings.content, limits);
            self.asking = Some(Asking { at, call, message });
        }
        self.asking.as_mut().expect("it was put there")
    }

    fn call(&self, models: &Models) -> Box<CallReader> {
        let mut call = CallReader::new(models, &self.head, self.api, self.named);
        // Nothing else is to be had here.
        call.hints.streams = true;
        Box::new(call)
    }

    fn event(&mut self, models: &Models) -> &mut json::Reader {
        let Calls { event, open, api, .. } = self;
        event.get_or_insert_with(|| {
            let settings = &models.settings;
            // A call is read to its end as it was begun.
            let content = settings.content
                || open.iter().flat_map(|open| &open.call).any(|call| call.answer.wants_content());
            let texts = if content { settings.max_response_content.max(MAX_FACTS) } else { MAX_FACTS };
            let limits = json::Limits { facts: MAX_FACTS, texts };
            Box::new(json::Reader::new(super::format(*api, None).event_filter, content, limits))
        })
    }

    /// A message of the client has come, or what is there of it.
    fn asked(
        &mut self,
        models: &mut Models,
        asking: Asking,
        whole: bool,
        at: Timestamp,
        out: &mut impl FnMut(Found),
    ) -> Progress {
        let Asking { at: begun, call, message } = asking;
        let json::Read { value: mut message, truncated, .. } = message.finish();
        let asks = message.get("type").is_some_and(|kind| kind == "response.create");
        let answered = asks
            && self.early.first().is_some_and(|(at, _)| {
                begun <= *at || !self.early.iter().any(|(_, event)| is_last(&event.value))
            });
        if !answered {
            self.replay(models, out);
        }
        if let Some(session) = &mut self.session {
            session.hear(&mut message);
        }
        if !asks {
            return Progress::More;
        }
        let lane = fields::text(&message, "stream_id");
        // Who waits for answers has had this one.
        while let Some(missed) = self.open.iter().position(|open| open.lost && open.lane == lane) {
            self.open.remove(missed).finish(at, End::Unknown, out);
        }
        self.pipelines |= self.open.iter().any(|open| open.lane == lane);
        if self.open.len() >= Self::MOST_OPEN {
            return Progress::Complete;
        }
        let mut call = call.unwrap_or_else(|| self.call(models));
        let mut open =
            Open { lane, call: None, warm: None, begun: false, id: None, event: None, lost: false };
        if message.get("generate") == Some(&Value::Bool(false)) {
            let content = call.answer.wants_content();
            open.warm = Some(call.request.finish().value).filter(|_| content);
        } else {
            call.request_lost = !whole;
            call.parent = parent(&message).or(call.parent.take());
            let previous = fields::text(&message, "previous_response_id");
            let continued = self.warm.take_if(|(id, _)| previous.as_ref() == Some(id));
            call.prelude = continued.map(|(_, request)| request);
            self.complete(models, &mut call, fields::take(&mut message, "response"), truncated);
            open.event = fields::text(&message, "event_id");
            open.call = Some(call);
        }
        self.open.push(open);
        self.replay(models, out)
    }

    /// Gives a call its number and, of Realtime, its request.
    fn complete(
        &mut self,
        models: &mut Models,
        call: &mut CallReader,
        response: Option<Value>,
        truncated: bool,
    ) {
        models.exchanges += 1;
        call.exchange = models.exchanges;
        if let Some(session) = &mut self.session {
            let asked = session.ask(response);
            call.ask(&asked.request, &asked.history);
            call.request_lost |= asked.cut || truncated || std::mem::take(&mut self.requests_lost);
        }
        call.request_end();
    }

    /// A message of the server has come.
    fn heard(
        &mut self,
        models: &mut Models,
        event: json::Read,
        at: Timestamp,
        out: &mut impl FnMut(Found),
    ) -> Progress {
        if self.early.is_empty() && !self.is_early(&event.value) {
            return self.answered(models, event, at, out);
        }
        self.early_bytes += size_of::<json::Read>() + fields::memory(&event.value);
        self.early.push((at, event));
        if self.early_bytes > Self::MOST_EARLY { self.replay(models, out) } else { Progress::More }
    }

    /// Whether an event begins, or ends, a response that nobody waits for.
    fn is_early(&self, event: &Value) -> bool {
        let kind = event.get("type").and_then(Value::as_str);
        let lane = fields::text(event, "stream_id");
        match (kind, &self.session) {
            (Some("response.created" | "error"), None) => !self.open.iter().any(|open| open.lane == lane),
            (Some("response.created"), Some(_)) => self.open.iter().all(|open| open.begun),
            _ => false,
        }
    }

    /// Takes the events that waited.
    fn replay(&mut self, models: &mut Models, out: &mut impl FnMut(Found)) -> Progress {
        self.early_bytes = 0;
        let mut progress = Progress::More;
        for (at, event) in std::mem::take(&mut self.early) {
            if self.answered(models, event, at, out) == Progress::Complete {
                progress = Progress::Complete;
            }
        }
        progress
    }

    /// A message of the server has come, and what asked for it, if anything did.
    fn answered(
        &mut self,
        models: &mut Models,
        read: json::Read,
        at: Timestamp,
        out: &mut impl FnMut(Found),
    ) -> Progress {
        let mut event = read.value;
        if let Some(session) = &mut self.session {
            session.hear(&mut event);
        }
        let kind = fields::text(&event, "type").unwrap_or_default();
        let lane = fields::text(&event, "stream_id");
        let response = event.get("response").filter(|response| response.is_object());
        let begins = response.is_some();
        let id = response.and_then(|response| fields::text(response, "id"));
        // Every event of Realtime has it.
        let id = id.or_else(|| fields::text(&event, "response_id"));
        if id.as_ref().is_some_and(|id| self.ended.contains(id)) {
            return Progress::More;
        }
        if begins && !self.open.iter().any(|open| open.begun && open.lane == lane && open.id == id) {
            // Responses of one lane follow each other: the end of this one was missed. Those of Realtime need not.
            let over = |open: &Open| open.lane == lane && open.begun && (self.session.is_none() || open.lost);
            while let Some(missed) = self.open.iter().position(over) {
                self.open.remove(missed).finish(at, End::Unknown, out);
            }
            let next = self.open.iter().position(|open| open.lane == lane && !open.begun);
            if next.is_none() && kind == "response.created" {
                if self.open.len() >= Self::MOST_OPEN {
                    return Progress::Complete;
                }
                let call = Some(self.unasked(models, at));
                let lane = lane.clone();
                let open = Open { lane, call, warm: None, begun: false, id: None, event: None, lost: false };
                self.open.push(open);
            }
            if let Some(open) = self.open.iter_mut().find(|open| open.lane == lane && !open.begun) {
                (open.begun, open.id) = (true, id.clone());
            }
        }
        let fails = kind == "error";
        let Some(at_hand) = self.at_hand(&event, fails, lane.as_deref(), id.as_deref()) else {
            return Progress::More;
        };
        let ends = is_last(&event);
        if let Some(call) = &mut self.open[at_hand].call {
            call.event(&mut event, read.truncated, at);
        }
        if ends {
            let mut open = self.open.remove(at_hand);
            if let (Some(id), Some(warm)) = (&open.id, open.warm.take()) {
                self.warm = Some((id.clone(), warm));
            }
            if let Some(id) = &open.id {
                self.ended.truncate(Self::MOST_ENDED - 1);
                self.ended.push_front(id.clone());
            }
            open.finish(at, End::Complete, out);
        }
        Progress::More
    }

    /// Which call an event is of.
    fn at_hand(&self, event: &Value, fails: bool, lane: Option<&str>, id: Option<&str>) -> Option<usize> {
        let find = |of: &dyn Fn(&Open) -> bool| self.open.iter().position(of);
        if self.session.is_none() {
            return find(&|open| open.lane.as_deref() == lane && (open.begun || fails));
        }
        if !fails {
            return find(&|open| open.begun && open.id.as_deref() == id);
        }
        // Errors of a session are of any message: one tells which by its id, and one only `response.create` can cause.
        let error = event.get("error")?;
        if let Some(cause) = fields::text(error, "event_id") {
            return find(&|open| !open.begun && open.event.as_ref() == Some(&cause));
        }
        let active = error.get("code").is_some_and(|code| code == "conversation_already_has_active_response");
        self.open.iter().rposition(|open| active && !open.begun)
    }

    /// A response that nobody was seen to ask for: the server goes on by itself (`response.steer`, or when a user of
    /// Realtime has spoken), or the request was missed.
    fn unasked(&mut self, models: &mut Models, at: Timestamp) -> Box<CallReader> {
        self.head.at = at;
        let mut call = self.call(models);
        // What came of it before it was missed is not known.
        call.request_lost = self.session.is_none() && std::mem::take(&mut self.requests_lost);
        if self.session.is_some() {
            self.complete(models, &mut call, None, false);
        } else {
            models.exchanges += 1;
            call.exchange = models.exchanges;
        }
        call
    }
}

/// Whether an event is a response's last.
fn is_last(event: &Value) -> bool {
    matches!(
        event.get("type").and_then(Value::as_str),
        Some(
            "response.completed"
                | "response.incomplete"
                | "response.failed"
                | "response.cancelled"
                | "response.done"
                | "error"
        )
    )
}

impl Asking {
    fn push(&mut self, data: &[u8]) {
        if let Some(call) = &mut self.call {
            call.request_body(data);
        }
        self.message.push(data);
    }
}

impl Open {
    fn finish(self, at: Timestamp, end: End, out: &mut impl FnMut(Found)) {
        if let Some(found) = self.call.and_then(|call| call.finish(at, end)) {
            out(found);
        }
    }
}

/// What of a client's message is no request's field.
fn envelope(path: &[Step], _: bool) -> Keep {
    match path {
        [] => Keep::Into,
        [key]
            if matches!(
                key.name(),
                "type" | "stream_id" | "generate" | "previous_response_id" | "client_metadata"
            ) =>
        {
            Keep::Into
        }
        [metadata, key] if metadata.name() == "client_metadata" && key.name().starts_with(HEADER) => {
            Keep::Into
        }
        _ => Keep::Nothing,
    }
}

/// Codex has the headers of a request, which a message cannot have, among its metadata.
const HEADER: &str = "ws_request_header_";

/// The trace context of one message.
fn parent(message: &Value) -> Option<SpanContext> {
    let mut headers = Headers::default();
    for name in ["traceparent", "tracestate"] {
        if let Some(value) =
            message.get("client_metadata").and_then(|data| data.get(format!("{HEADER}{name}")))
        {
            headers.push(name, value.as_str()?.as_bytes());
        }
    }
    trace_context::parent(&headers)
}
