//! MCP's first transport over HTTP (version 2024-11-05, "HTTP with SSE"): a GET opens a stream of events. The first one,
//! `endpoint`, says where requests are to be POSTed; a request is answered with a mere 202 there, and in the stream by a
//! message with its JSON-RPC id. Both go their own ways, mostly by connections of their own: what they have in common is
//! the process that speaks, and the endpoint, which names the session.

use super::mcp::{Reader, Reply, response_filter};
use super::{Heard, Mailbox, Models};
use crate::http::{Direction, End, Progress, RequestHead, ResponseHead};
use crate::http1::path_and_query;
use crate::json;
use crate::mcp::{McpCall, Outcome};
use crate::sse;
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Streams of a process that are followed at once.
const MOST_SESSIONS: usize = 64;
/// Requests of a session that may wait for their answers.
const MOST_ASKED: usize = 256;
/// Answers of a session that may wait for their requests: two connections are not read in step.
const MOST_EARLY: usize = 16;
/// Content that may wait in a process, in bytes. What is beyond is left out.
const MOST_HELD: usize = 8 << 20;
/// The longest endpoint, in bytes; a convention of this project.
const LONGEST_ENDPOINT: usize = 4096;

/// The sessions of one process, whichever connections they use.
#[derive(Clone, Default, Debug)]
pub struct McpSessions(Arc<Mutex<Table>>);

#[derive(Default, Debug)]
struct Table {
    sessions: BTreeMap<Endpoint, Session>,
    /// Bytes of the content that waits.
    held: usize,
}

/// Where the requests of one session go.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Endpoint {
    authority: String,
    path: String,
    query: String,
}

#[derive(Default, Debug)]
struct Session {
    asked: Vec<Asked>,
    early: Vec<Early>,
    /// As the answer to `initialize` says.
    protocol_version: Option<String>,
}

/// A request, as if nobody had answered it.
#[derive(Debug)]
struct Asked {
    call: McpCall,
    bytes: usize,
}

/// An answer whose request was not read yet.
#[derive(Debug)]
struct Early {
    reply: Reply,
    at: Timestamp,
    bytes: usize,
}

impl McpSessions {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no holder panics")
    }
}

impl Table {
    /// A request was made. What it becomes, where that is known at once.
    fn asked(&mut self, endpoint: &Endpoint, mut call: McpCall, bytes: usize) -> Option<McpCall> {
        let Some(session) = self.sessions.get_mut(endpoint) else { return Some(call) };
        call.session_id = call.session_id.or_else(|| endpoint.session_id());
        call.protocol_version = call.protocol_version.or_else(|| session.protocol_version.clone());
        if let Some(early) = session.early.iter().position(|early| early.reply.id == call.request_id) {
            let Early { reply, at, bytes } = session.early.swap_remove(early);
            self.held -= bytes;
            return Some(session.finish(call, reply, at));
        }
        if session.asked.len() == MOST_ASKED {
            return Some(call);
        }
        let bytes = if self.held + bytes > MOST_HELD {
            call.content_truncated |= call.arguments.take().is_some();
            0
        } else {
            bytes
        };
        self.held += bytes;
        session.asked.push(Asked { call, bytes });
        None
    }

    /// The POST of that request was refused.
    fn refused(&mut self, endpoint: &Endpoint, id: &str, status: u16, at: Timestamp) -> Option<McpCall> {
        let session = self.sessions.get_mut(endpoint)?;
        let asked = session.asked.iter().position(|asked| asked.call.request_id == id)?;
        let Asked { call, bytes } = session.asked.remove(asked);
        self.held -= bytes;
        Some(McpCall { outcome: Outcome::Status(status), end: at, ..call })
    }

    /// A message came by the stream.
    fn answered(
        &mut self,
        endpoint: &Endpoint,
        mut reply: Reply,
        bytes: usize,
        at: Timestamp,
    ) -> Option<McpCall> {
        let session = self.sessions.get_mut(endpoint)?;
        let Some(asked) = session.asked.iter().position(|asked| asked.call.request_id == reply.id) else {
            if session.early.len() < MOST_EARLY {
                let bytes = if self.held + bytes > MOST_HELD {
                    reply.content_truncated |= reply.result.take().is_some();
                    0
                } else {
                    bytes
                };
                self.held += bytes;
                session.early.push(Early { reply, at, bytes });
            }
            return None;
        };
        let Asked { call, bytes } = session.asked.remove(asked);
        self.held -= bytes;
        Some(session.finish(call, reply, at))
    }

    /// The stream is over: what was not answered will not be.
    fn close(&mut self, endpoint: &Endpoint) -> Vec<McpCall> {
        let Some(session) = self.sessions.remove(endpoint) else { return Vec::new() };
        let early = session.early.iter().map(|early| early.bytes);
        self.held -= session.asked.iter().map(|asked| asked.bytes).chain(early).sum::<usize>();
        session.asked.into_iter().map(|asked| asked.call).collect()
    }
}

impl Session {
    fn finish(&mut self, call: McpCall, reply: Reply, at: Timestamp) -> McpCall {
        if reply.protocol_version.is_some() {
            self.protocol_version.clone_from(&reply.protocol_version);
        }
        McpCall {
            outcome: reply.outcome,
            protocol_version: reply.protocol_version.or(call.protocol_version),
            result: reply.result,
            content_truncated: call.content_truncated || reply.content_truncated,
            end: at.max(call.start),
            ..call
        }
    }
}

impl Endpoint {
    fn of(head: &RequestHead) -> Endpoint {
        Endpoint {
            authority: head.authority.clone().unwrap_or_default(),
            path: head.path.clone(),
            query: head.query.clone(),
        }
    }

    /// What an event names, seen from its stream; none that is elsewhere: clients refuse that, too.
    fn named(&self, reference: &[u8]) -> Option<Endpoint> {
        let reference = str::from_utf8(reference).ok()?.trim();
        if reference.is_empty() || reference.len() > LONGEST_ENDPOINT || reference.starts_with("//") {
            return None;
        }
        let target = match reference.split_once("://") {
            Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
                if !authority.eq_ignore_ascii_case(&self.authority) {
                    return None;
                }
                target.to_owned()
            }
            _ if reference.starts_with('/') => reference.to_owned(),
            _ => {
                let folder = self.path.rfind('/').map_or("/", |slash| &self.path[..=slash]);
                format!("{folder}{reference}")
            }
        };
        let (path, query) = path_and_query(&target);
        Some(Endpoint { authority: self.authority.clone(), path: path.to_owned(), query: query.to_owned() })
    }

    /// As both official SDKs' servers name it.
    fn session_id(&self) -> Option<String> {
        let parts = self.query.split('&').filter_map(|part| part.split_once('='));
        let mut ids = parts.filter(|(name, _)| matches!(*name, "sessionId" | "session_id"));
        ids.next().map(|(_, id)| id.to_owned())
    }
}

/// Reads a GET that asks for events, which may be a session's stream.
#[derive(Debug)]
pub(super) struct Stream {
    sessions: McpSessions,
    mailbox: Option<Mailbox>,
    /// Of the stream itself, until its first event names the session's.
    endpoint: Endpoint,
    opened: bool,
    content: bool,
    limits: json::Limits,
    events: Option<sse::Parser>,
}

impl Stream {
    pub(super) fn new(models: &Models, head: &RequestHead) -> Option<Stream> {
        let events = head.headers.all("accept").any(|value| value.contains("text/event-stream"));
        events.then(|| Stream {
            sessions: models.sessions.clone(),
            mailbox: models.mailbox.clone(),
            endpoint: Endpoint::of(head),
            opened: false,
            content: models.settings.content,
            limits: Reader::limits(models.settings.max_response_content),
            events: None,
        })
    }

    pub(super) fn response_head(&mut self, head: &ResponseHead) {
        let is_stream =
            head.headers.get("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        self.events = (head.status == 200 && is_stream).then(sse::Parser::default);
    }

    pub(super) fn response_body(&mut self, data: &[u8], at: Timestamp) -> Progress {
        let Some(mut events) = self.events.take() else { return Progress::Complete };
        let mut goes_on = true;
        events.push(data, &mut |event| goes_on = goes_on && self.event(event, at));
        if !goes_on {
            return Progress::Complete;
        }
        self.events = Some(events);
        Progress::More
    }

    /// Whether it is a session's stream.
    fn event(&mut self, event: sse::Event<'_>, at: Timestamp) -> bool {
        if !self.opened {
            let named = self.endpoint.named(event.data).filter(|_| event.name == b"endpoint");
            let Some(endpoint) = named else { return false };
            let mut table = self.sessions.table();
            // A session that is there already would make two of one.
            if table.sessions.len() == MOST_SESSIONS || table.sessions.contains_key(&endpoint) {
                return false;
            }
            table.sessions.insert(endpoint.clone(), Session::default());
            drop(table);
            self.endpoint = endpoint;
            self.opened = true;
        } else if event.name == b"message" {
            let read = json::Reader::read(response_filter, self.content, self.limits, event.data);
            if let Some(reply) = Reply::of(read) {
                let call = self.sessions.table().answered(&self.endpoint, reply, event.data.len(), at);
                tell(self.mailbox.as_ref(), call);
            }
        }
        true
    }

    /// What follows is not read: nor are the requests that it answers.
    pub(super) fn lost(&mut self, side: Direction) {
        if side == Direction::Received {
            self.close(None, |call| McpCall { truncated: true, ..call });
        }
    }

    pub(super) fn finish(mut self, at: Timestamp, end: End) {
        let outcome = match end {
            End::Cut => Outcome::Cut,
            End::Cancelled => Outcome::Cancelled,
            _ => Outcome::Unknown,
        };
        self.close(Some(at), |call| McpCall { outcome: outcome.clone(), ..call });
    }

    fn close(&mut self, at: Option<Timestamp>, ended: impl Fn(McpCall) -> McpCall) {
        self.events = None;
        if std::mem::take(&mut self.opened) {
            let calls = self.sessions.table().close(&self.endpoint);
            let at = |call: &McpCall| at.map_or(call.end, |at| at.max(call.start));
            let calls = calls.into_iter().map(|call| McpCall { end: at(&call), ..ended(call) });
            tell(self.mailbox.as_ref(), calls);
        }
    }
}

/// Reads a POST to a session's endpoint.
#[derive(Debug)]
pub(super) struct Post {
    sessions: McpSessions,
    mailbox: Option<Mailbox>,
    endpoint: Endpoint,
    start: Timestamp,
    reader: Option<Box<Reader>>,
    bytes: usize,
    /// The id of its request, once that waits for an answer.
    asked: Option<String>,
}

impl Post {
    pub(super) fn new(models: &Models, head: &RequestHead) -> Option<Post> {
        let sessions = models.sessions.table();
        if sessions.sessions.is_empty() {
            return None;
        }
        let endpoint = Endpoint::of(head);
        sessions.sessions.contains_key(&endpoint).then(|| Post {
            sessions: models.sessions.clone(),
            mailbox: models.mailbox.clone(),
            endpoint,
            start: head.at,
            reader: Some(Box::new(Reader::of(models, head))),
            bytes: 0,
            asked: None,
        })
    }

    pub(super) fn request_body(&mut self, data: &[u8]) {
        self.bytes = self.bytes.saturating_add(data.len());
        self.reader.iter_mut().for_each(|reader| reader.request_body(data));
    }

    /// From now on it may be answered.
    pub(super) fn request_end(&mut self) {
        let Some(reader) = self.reader.take() else { return };
        let Some(call) = reader.finish(self.start, End::Unknown) else { return };
        self.asked = Some(call.request_id.clone());
        let call = self.sessions.table().asked(&self.endpoint, call, self.bytes);
        tell(self.mailbox.as_ref(), call);
    }

    pub(super) fn response_head(&mut self, head: &ResponseHead, at: Timestamp) {
        if let (400.., Some(id)) = (head.status, &self.asked) {
            let call = self.sessions.table().refused(&self.endpoint, id, head.status, at);
            tell(self.mailbox.as_ref(), call);
        }
    }

    pub(super) fn lost(&mut self, side: Direction) {
        self.reader.iter_mut().for_each(|reader| reader.lost(side));
    }
}

fn tell(mailbox: Option<&Mailbox>, calls: impl IntoIterator<Item = McpCall>) {
    let mut calls = calls.into_iter().peekable();
    if let Some(mailbox) = mailbox.filter(|_| calls.peek().is_some()) {
        let mut mailbox = mailbox.lock().expect("no holder panics");
        mailbox.extend(calls.map(|call| Heard::Mcp(Box::new(call))));
    }
}
