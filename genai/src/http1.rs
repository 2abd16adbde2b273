//! HTTP/1.1 and 1.0 messages of one direction, read as their bytes arrive (RFC 9112).
//!
//! [`Reader`] finds where heads, bodies and messages end; [`Request`] and [`Response`] are parsed heads, and say
//! how their bodies are framed. Which response answers which request is [`crate::connection`]'s matter.
//!
//! The reader is as tolerant as the clients and servers whose traffic it watches: bare LF ends a line, folded
//! header lines are unfolded, empty lines before a message are skipped.

use std::borrow::Cow;

use httparse::{EMPTY_HEADER, Header, ParserConfig};
use memchr::{memchr, memchr_iter};
use thiserror::Error;

use crate::http::{Headers, RequestHead};
use crate::time::Timestamp;

/// Cuts one direction's bytes into parts of messages. Holds the beginning of a cut head, and of nothing else.
#[derive(Debug)]
pub struct Reader {
    kind: Kind,
    state: State,
    /// The beginning of a head whose end has not come.
    head: Vec<u8>,
    /// What `head`'s last line holds so far.
    line: Line,
    /// The line that starts the message is whole, and was found to be one.
    started: bool,
    /// Of a head, and of a trailer section, in bytes.
    limit: usize,
}

/// What a direction carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Requests.
    Requests,
    /// Responses.
    Responses,
}

/// A part of a message.
#[derive(PartialEq, Eq, Debug)]
pub enum Part<'a> {
    /// A whole head, its empty line included. Parse it, then say by [`Reader::body`] what follows; else the next
    /// head does.
    Head(Cow<'a, [u8]>),
    /// More of the body, without its framing.
    Body(&'a [u8]),
    /// The message's framing says that it has ended.
    End,
}

/// How a body is framed (RFC 9112, 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// That many bytes; zero for no body.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
    /// Everything up to the end of the connection.
    UntilClose,
}

/// Why bytes cannot be read as HTTP/1 (further). Where a next message begins is then unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Malformed {
    /// The client's connection preface of HTTP/2 (RFC 9113, 3.4).
    #[error("this is HTTP/2")]
    Http2,
    /// A request where responses are expected, or the other way round.
    #[error("messages go the other way: the traced process is the server")]
    OtherSide,
    /// No request line or status line.
    #[error("a message does not begin with a request line or status line of HTTP/1")]
    Start,
    /// The head or the trailer section is over the limit.
    #[error("a head or trailer section is larger than allowed")]
    TooLarge,
    /// The head is not a list of header fields.
    #[error("a message's head is not valid HTTP/1")]
    Head,
    /// The header fields contradict each other about the body's length, or the chunks are not chunks.
    #[error("a message's body is not framed as HTTP/1 says")]
    Framing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Head,
    /// Bytes still to come.
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Lost,
}

/// Where in a chunked body (RFC 9112, 7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Chunked {
    /// In the size's digits.
    Size { size: u64, digits: u8 },
    /// After them: an extension, and how many bytes of it have come.
    Extension { size: u64, length: u16 },
    /// Bytes still to come.
    Data(u64),
    /// In the line end after the data: whether its CR has come.
    DataEnd { cr: bool },
    /// How many bytes of the section have come.
    Trailer { line: Line, length: usize },
}

/// What a line whose end has not come holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    Nothing,
    /// Only a CR: with a LF it is empty.
    Cr,
    Text,
}

/// More than any client or server sends; nginx and Apache allow less on a line (RFC 9112, 7.1.1 asks for a limit).
const MOST_IN_EXTENSION: u16 = 4096;

/// Servers stop at 100 (Apache, hyper) to 1,000.
const MOST_FIELDS: usize = 512;

impl Reader {
    /// A reader at the start of a message, for heads and trailer sections of at most `limit` bytes.
    pub fn new(kind: Kind, limit: usize) -> Self {
        let (state, line) = (State::Head, Line::Nothing);
        Reader { kind, state, head: Vec::new(), line, started: false, limit }
    }

    /// The next part that lies in `data`; what was read is removed from its front. `None`: more bytes are needed.
    ///
    /// # Errors
    /// Call [`Reader::lose`] then: nothing more can be read in order.
    pub fn next<'a>(&mut self, data: &mut &'a [u8]) -> Result<Option<Part<'a>>, Malformed> {
        match self.state {
            State::Head => self.next_of_head(data),
            State::Length(0) => Ok(Some(self.end())),
            State::Length(left) => Ok(take(data, left).map(|(body, left)| {
                self.state = State::Length(left);
                Part::Body(body)
            })),
            State::Chunked(_) => self.next_of_chunks(data),
            State::UntilClose => Ok(take(data, u64::MAX).map(|(body, _)| Part::Body(body))),
            State::Lost => {
                *data = &[];
                Ok(None)
            }
        }
    }

    /// Says how the body of the head just read is framed.
    pub fn body(&mut self, framing: Framing) {
        self.state = match framing {
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(CHUNK),
            Framing::UntilClose => State::UntilClose,
        };
    }

    /// The next `length` bytes are missing. `true`: they were content, all of them, and the reader knows where it
    /// is after them; `false`: it does not.
    #[must_use]
    pub fn skip(&mut self, length: u64) -> bool {
        match &mut self.state {
            State::Length(left) | State::Chunked(Chunked::Data(left)) if length <= *left => {
                *left -= length;
                true
            }
            State::UntilClose => true,
            _ => false,
        }
    }

    /// Where the reader is has become unknown: it reads nothing until [`Reader::resume`].
    pub fn lose(&mut self) {
        self.forget_head();
        self.state = State::Lost;
    }

    /// The next byte begins a message.
    pub fn resume(&mut self) {
        self.forget_head();
        self.state = State::Head;
    }

    /// Whether the reader does not know where it is.
    pub fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// Whether the next byte begins a message.
    pub fn is_between_messages(&self) -> bool {
        self.state == State::Head && self.head.is_empty()
    }

    /// Whether the body ends with the connection.
    pub fn is_until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Bytes that are held.
    pub fn memory(&self) -> usize {
        self.head.capacity()
    }

    /// How many bytes of the head at hand came in earlier pieces.
    pub(crate) fn held(&self) -> usize {
        self.head.len()
    }

    fn next_of_head<'a>(&mut self, data: &mut &'a [u8]) -> Result<Option<Part<'a>>, Malformed> {
        if self.head.is_empty() {
            // RFC 9112, 2.2: a client may send an empty line after a request.
            let empty = data.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            *data = &data[empty..];
            if data.first().is_some_and(|first| !first.is_ascii_graphic()) {
                return Err(Malformed::Start);
            }
        }
        let mut read = 0;
        while let Some(length) = memchr(b'\n', &data[read..]) {
            let is_empty = self.line.is_empty_with(&data[read..read + length]);
            read += length + 1;
            self.line = Line::Nothing;
            if !self.started {
                check_start(self.kind, &with(&self.head, &data[..read]))?;
                self.started = true;
            } else if is_empty {
                let (rest, after) = data.split_at(read);
                *data = after;
                if self.head.len() + rest.len() > self.limit {
                    return Err(Malformed::TooLarge);
                }
                let head = match std::mem::take(&mut self.head) {
                    held if held.is_empty() => Cow::Borrowed(rest),
                    mut held => {
                        held.extend_from_slice(rest);
                        Cow::Owned(held)
                    }
                };
                self.forget_head();
                return Ok(Some(Part::Head(head)));
            }
        }
        if self.head.len() + data.len() > self.limit {
            return Err(Malformed::TooLarge);
        }
        self.line = self.line.and(&data[read..]);
        self.head.extend_from_slice(data);
        *data = &[];
        Ok(None)
    }

    fn next_of_chunks<'a>(&mut self, data: &mut &'a [u8]) -> Result<Option<Part<'a>>, Malformed> {
        while let (State::Chunked(chunked), Some(&byte)) = (&mut self.state, data.first()) {
            match chunked {
                Chunked::Data(left) => {
                    let part = take(data, *left).map(|(body, left)| {
                        *chunked =
                            if left == 0 { Chunked::DataEnd { cr: false } } else { Chunked::Data(left) };
                        Part::Body(body)
                    });
                    if part.is_some() {
                        return Ok(part);
                    }
                    // All of the chunk's bytes are gone: the last were missing.
                    *chunked = Chunked::DataEnd { cr: false };
                    continue;
                }
                Chunked::Size { size, digits } => {
                    let digit = char::from(byte).to_digit(16);
                    match (digit, byte) {
                        // More would not fit; the first of 16 may be anything, the check is on the count.
                        (Some(digit), _) if *digits < 16 => {
                            *size = *size << 4 | u64::from(digit);
                            *digits += 1;
                        }
                        (None, b'\n') if *digits > 0 => *chunked = after_size(*size),
                        (None, b'\r' | b';' | b' ' | b'\t') if *digits > 0 => {
                            *chunked = Chunked::Extension { size: *size, length: 0 };
                        }
                        _ => return Err(Malformed::Framing),
                    }
                }
                Chunked::Extension { size, length } => {
                    let end = memchr(b'\n', data);
                    let read = end.unwrap_or(data.len());
                    let total = read.saturating_add((*length).into());
                    match u16::try_from(total) {
                        Ok(total) if total <= MOST_IN_EXTENSION => *length = total,
                        _ => return Err(Malformed::TooLarge),
                    }
                    if end.is_none() {
                        *data = &[];
                        return Ok(None);
                    }
                    *data = &data[read..];
                    *chunked = after_size(*size);
                }
                Chunked::DataEnd { cr } => match byte {
                    b'\r' if !*cr => *cr = true,
                    b'\n' => *chunked = CHUNK,
                    _ => return Err(Malformed::Framing),
                },
                Chunked::Trailer { line, length } => {
                    let end = memchr(b'\n', data);
                    let text = &data[..end.unwrap_or(data.len())];
                    *length = length.saturating_add(text.len() + usize::from(end.is_some()));
                    if *length > self.limit {
                        return Err(Malformed::TooLarge);
                    }
                    let is_empty = line.is_empty_with(text);
                    *line = if end.is_some() { Line::Nothing } else { line.and(text) };
                    let read = text.len() + usize::from(end.is_some());
                    *data = &data[read..];
                    if end.is_some() && is_empty {
                        return Ok(Some(self.end()));
                    }
                    continue;
                }
            }
            *data = &data[1..];
        }
        Ok(None)
    }

    fn end<'a>(&mut self) -> Part<'a> {
        self.state = State::Head;
        Part::End
    }

    fn forget_head(&mut self) {
        self.head = Vec::new();
        self.line = Line::Nothing;
        self.started = false;
    }
}

const CHUNK: Chunked = Chunked::Size { size: 0, digits: 0 };

fn after_size(size: u64) -> Chunked {
    match size {
        0 => Chunked::Trailer { line: Line::Nothing, length: 0 },
        size => Chunked::Data(size),
    }
}

/// Cuts at most `left` bytes off the front of `data`; gives them and what is left of `left`.
fn take<'a>(data: &mut &'a [u8], left: u64) -> Option<(&'a [u8], u64)> {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
    let (taken, rest) = data.split_at(length);
    *data = rest;
    (length > 0).then_some((taken, left - length as u64))
}

/// `held` and `data` in one piece.
fn with<'a>(held: &[u8], data: &'a [u8]) -> Cow<'a, [u8]> {
    if held.is_empty() { Cow::Borrowed(data) } else { Cow::Owned([held, data].concat()) }
}

impl Line {
    /// Whether the line is empty when `text` and a LF end it.
    fn is_empty_with(self, text: &[u8]) -> bool {
        match self {
            Line::Nothing => text.is_empty() || text == b"\r",
            Line::Cr => text.is_empty(),
            Line::Text => false,
        }
    }

    /// The line with `text` added.
    fn and(self, text: &[u8]) -> Line {
        match (self, text) {
            (line, []) => line,
            (Line::Nothing, b"\r") => Line::Cr,
            _ => Line::Text,
        }
    }
}

/// Whether a message of that kind seems to begin at the start of `data`: for finding the way back after a loss,
/// so its first line must be there whole and leave no doubt.
pub fn begins(kind: Kind, data: &[u8]) -> bool {
    let Some(end) = memchr(b'\n', data) else { return false };
    let line = &data[..=end];
    check_start(kind, line).is_ok()
        && match kind {
            Kind::Responses => true,
            Kind::Requests => METHODS.iter().any(|method| line.strip_prefix(*method).is_some_and(is_target)),
        }
}

/// Those of RFC 9110, 9.3 and RFC 5789: a rarer one may be the rest of one of these, cut by the loss.
const METHODS: &[&[u8]] =
    &[b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"TRACE ", b"PATCH "];

fn is_target(line: &[u8]) -> bool {
    line.first().is_some_and(|first| matches!(first, b'/' | b'*' | b'[') || first.is_ascii_alphanumeric())
}

fn check_start(kind: Kind, line: &[u8]) -> Result<(), Malformed> {
    let line = line.trim_ascii_end();
    // `HTTP/1.1 200 OK`, or without a reason.
    let is_status = match line.strip_prefix(b"HTTP/1.") {
        Some([b'0' | b'1', b' ', a, b, c, rest @ ..]) => {
            [a, b, c].iter().all(|digit| digit.is_ascii_digit())
                && !rest.first().is_some_and(u8::is_ascii_digit)
        }
        _ => false,
    };
    let is_request = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
    match kind {
        Kind::Requests if is_request => Ok(()),
        Kind::Responses if is_status => Ok(()),
        _ if line == b"PRI * HTTP/2.0" => Err(Malformed::Http2),
        Kind::Requests if is_status => Err(Malformed::OtherSide),
        Kind::Responses if is_request => Err(Malformed::OtherSide),
        _ => Err(Malformed::Start),
    }
}

/// What a request's method means for the framing of its response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// The response has no body.
    Head,
    /// A successful response makes the connection a tunnel.
    Connect,
    /// Any other.
    Other,
}

/// A request's head.
#[derive(Debug)]
pub struct Request {
    /// What it asks for.
    pub head: RequestHead,
    /// How its body is framed.
    pub framing: Framing,
    /// What its response's framing depends on.
    pub method: Method,
    /// The client waits for `100 (Continue)` before it sends the body.
    pub expects_continue: bool,
}

impl Request {
    /// Parses a whole head, whose first byte was written `at` that time.
    ///
    /// # Errors
    /// [`Malformed::Head`], [`Malformed::Framing`], [`Malformed::TooLarge`]: where the body ends is unknown.
    pub fn parse(head: &[u8], at: Timestamp) -> Result<Request, Malformed> {
        let head = unfolded(head);
        let mut few = [EMPTY_HEADER; USUAL_FIELDS];
        let mut many = Vec::new();
        let mut request = httparse::Request::new(room(&head, &mut few, &mut many)?);
        let parsed = config().parse_request(&mut request, &head);
        if !parsed.is_ok_and(|status| status.is_complete()) {
            return Err(Malformed::Head);
        }
        let (name, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
        let method = match name {
            "HEAD" => Method::Head,
            "CONNECT" => Method::Connect,
            _ => Method::Other,
        };
        let framing = match fields_framing(request.headers)? {
            // Without chunked as the last coding the length cannot be known (RFC 9112, 6.3, rule 4).
            Some(Framing::UntilClose) => return Err(Malformed::Framing),
            // RFC 9110, 9.3.6: what follows a CONNECT is not content.
            _ if method == Method::Connect => Framing::Length(0),
            framing => framing.unwrap_or(Framing::Length(0)),
        };
        let headers = kept(request.headers);
        let (authority, target) = target_parts(method, target);
        let (path, query) = path_and_query(target);
        let authority = authority.or_else(|| headers.get("host")).map(without_userinfo);
        Ok(Request {
            framing,
            method,
            expects_continue: headers.get("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue")),
            head: RequestHead {
                method: name.to_owned(),
                path: path.to_owned(),
                query: query.to_owned(),
                authority: authority.filter(|a| !a.is_empty()).map(str::to_ascii_lowercase),
                headers,
                at,
            },
        })
    }
}

/// A response's head.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields; none unless they were asked for.
    pub headers: Headers,
    /// How its body is framed.
    pub framing: Framing,
    /// What follows is another protocol (RFC 9110, 7.8 and 9.3.6).
    pub is_tunnel: bool,
}

impl Response {
    /// Parses a whole head of a response to a request of that method.
    ///
    /// # Errors
    /// [`Malformed::Head`], [`Malformed::Framing`], [`Malformed::TooLarge`]: where the body ends is unknown.
    pub fn parse(head: &[u8], method: Method, with_headers: bool) -> Result<Response, Malformed> {
        let head = unfolded(head);
        let mut few = [EMPTY_HEADER; USUAL_FIELDS];
        let mut many = Vec::new();
        let mut response = httparse::Response::new(room(&head, &mut few, &mut many)?);
        let parsed = config().parse_response(&mut response, &head);
        if !parsed.is_ok_and(|status| status.is_complete()) {
            return Err(Malformed::Head);
        }
        let status = response.code.unwrap_or_default();
        let is_tunnel = status == 101 || (method == Method::Connect && (200..300).contains(&status));
        // RFC 9112, 6.3, rules 1 and 2: whatever the fields say.
        let has_no_body = is_tunnel || method == Method::Head || matches!(status, 100..=199 | 204 | 304);
        let framing = if has_no_body {
            Framing::Length(0)
        } else {
            fields_framing(response.headers)?.unwrap_or(Framing::UntilClose)
        };
        let headers = if with_headers { kept(response.headers) } else { Headers::default() };
        Ok(Response { status, headers, framing, is_tunnel })
    }
}

/// A message's codings in the order of their use: those of its content, then those of its transfer, `chunked`
/// (which the reader undoes) left out.
pub fn codings(headers: &Headers) -> impl Iterator<Item = &str> {
    let transfer = headers.all("transfer-encoding").flat_map(|value| value.split(',')).map(str::trim);
    headers.all("content-encoding").chain(transfer.filter(|coding| !coding.eq_ignore_ascii_case("chunked")))
}

/// Fields that need no allocation.
const USUAL_FIELDS: usize = 64;

/// Room for as many header fields as `head` has lines.
fn room<'h, 'b>(
    head: &[u8],
    few: &'h mut [Header<'b>],
    many: &'h mut Vec<Header<'b>>,
) -> Result<&'h mut [Header<'b>], Malformed> {
    match memchr_iter(b'\n', head).count() {
        lines if lines <= few.len() => Ok(few),
        lines if lines <= MOST_FIELDS => {
            many.resize(lines, EMPTY_HEADER);
            Ok(many)
        }
        _ => Err(Malformed::TooLarge),
    }
}

fn config() -> ParserConfig {
    let mut config = ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_multiple_spaces_in_request_line_delimiters(true)
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .ignore_invalid_headers_in_responses(true)
        .ignore_invalid_headers_in_requests(true);
    config
}

/// The head with folded lines joined: a line end before space or tab becomes spaces (RFC 9112, 5.2).
fn unfolded(head: &[u8]) -> Cow<'_, [u8]> {
    let mut unfolded = Cow::Borrowed(head);
    for end in memchr_iter(b'\n', head) {
        if let Some(b' ' | b'\t') = head.get(end + 1) {
            let head = unfolded.to_mut();
            head[end] = b' ';
            if end > 0 && head[end - 1] == b'\r' {
                head[end - 1] = b' ';
            }
        }
    }
    unfolded
}

fn kept(fields: &[Header<'_>]) -> Headers {
    let mut headers = Headers::default();
    for field in fields {
        headers.push(field.name, field.value);
    }
    headers
}

/// What the fields say about the body (RFC 9112, 6.3, rules 3 to 6); `None`: nothing.
fn fields_framing(fields: &[Header<'_>]) -> Result<Option<Framing>, Malformed> {
    let (mut transfer, mut length) = (None, None);
    for field in fields {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            let last = field.value.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
            transfer = Some(last.eq_ignore_ascii_case(b"chunked"));
        } else if field.name.eq_ignore_ascii_case("content-length") {
            // One value, or the same one several times, in one field or in many.
            for value in field.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                let number = std::str::from_utf8(value).ok().filter(|_| is_number);
                let number = number.and_then(|n| n.parse::<u64>().ok()).ok_or(Malformed::Framing)?;
                if length.replace(number).is_some_and(|earlier| earlier != number) {
                    return Err(Malformed::Framing);
                }
            }
        }
    }
    Ok(match (transfer, length) {
        // A transfer coding overrides a length.
        (Some(true), _) => Some(Framing::Chunked),
        (Some(false), _) => Some(Framing::UntilClose),
        (None, length) => length.map(Framing::Length),
    })
}

/// The authority, where it has one, and the rest of a request target (RFC 9112, 3.2).
fn target_parts(method: Method, target: &str) -> (Option<&str>, &str) {
    if method == Method::Connect {
        return (Some(target), "/");
    }
    match target.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            (Some(authority), path)
        }
        _ => (None, target),
    }
}

/// A path, never empty, and what stands behind its `?`, without a fragment.
pub(crate) fn path_and_query(target: &str) -> (&str, &str) {
    let target = &target[..target.find('#').unwrap_or(target.len())];
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (if path.is_empty() { "/" } else { path }, query)
}

/// What stands before `@` is a credential.
fn without_userinfo(authority: &str) -> &str {
    authority.rsplit('@').next().unwrap_or_default()
}
