//! HTTP messages as the parsers hand them on, whatever version carried them (RFC 9110).

use crate::time::Timestamp;

/// Which way bytes went, as the traced process sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// Written by the traced process.
    Sent,
    /// Read by the traced process.
    Received,
}

/// Header fields in the order of the message. Names are lower case; credentials and cookies never get in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Adds a field, unless it is one whose value must never be kept.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        let name = name.to_ascii_lowercase();
        if !is_never_kept(name.as_bytes()) {
            self.0.push((name, String::from_utf8_lossy(value).trim().to_owned()));
        }
    }

    /// The first field of that (lower case) name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// All fields of that (lower case) name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A text without its percent escapes (RFC 3986, 2.1).
pub(crate) fn without_escapes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let escaped =
            after.get(..2).filter(|_| first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => bytes.push(first),
        }
    }
    bytes
}

/// Whether the value of the field of that (lower case) name must never be kept.
pub(crate) fn is_never_kept(name: &[u8]) -> bool {
    const NEVER_KEPT: &[&[u8]] = &[
        b"authorization",
        b"proxy-authorization",
        b"cookie",
        b"set-cookie",
        b"x-api-key",
        b"api-key",
        b"x-goog-api-key",
        b"x-amz-security-token",
        // Browsers, which can set no other header of a WebSocket, name a key of OpenAI's among the protocols.
        b"sec-websocket-protocol",
    ];
    NEVER_KEPT.contains(&name)
}

/// The head of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestHead {
    /// Method, as sent.
    pub method: String,
    /// The path of the request target, without query, never empty.
    pub path: String,
    /// What stands behind its `?`; empty where there is none. It may hold secrets: it is for comparing.
    pub query: String,
    /// `Host` or `:authority` or the authority of an absolute target, lower case, with its port where it has one.
    pub authority: Option<String>,
    /// Header fields.
    pub headers: Headers,
    /// When the first byte was written.
    pub at: Timestamp,
}

/// The head of a final (not 1xx) response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResponseHead {
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub headers: Headers,
}

/// Reads the exchanges (a request and its response) of connections. One call of [`Exchanges::open`] per request.
pub trait Exchanges: Sized {
    /// What reads one exchange.
    type Exchange: Exchange;
    /// What reads the messages of a connection that became a WebSocket.
    type Dialogue: Dialogue<Self>;

    /// A request's head is complete. `None`: nobody wants the rest, skip its bodies as cheaply as the framing allows.
    fn open(&mut self, head: &RequestHead) -> Option<Self::Exchange>;

    /// By that exchange, whose response's head was handed on, the connection became a WebSocket.
    ///
    /// # Errors
    /// The exchange itself: nobody wants the messages.
    fn upgrade(&mut self, exchange: Self::Exchange) -> Result<Self::Dialogue, Self::Exchange>;
}

/// One request and its response. Bodies come without transfer and content coding, cut anywhere.
///
/// The response may begin, and end, before the request's last byte was sent.
pub trait Exchange {
    /// What a finished exchange becomes.
    type Output;

    /// More of the request's body.
    fn request_body(&mut self, data: &[u8]);

    /// The request's body ended as its framing says.
    fn request_end(&mut self);

    /// The final response's head.
    fn response_head(&mut self, head: &ResponseHead, at: Timestamp);

    /// More of the response's body.
    fn response_body(&mut self, data: &[u8], at: Timestamp) -> Progress;

    /// The fields behind the response's body, with which it ends. By HTTP/2 alone.
    fn response_trailers(&mut self, _trailers: &Headers) {}

    /// Bytes of that side's message are missing from here on, or could not be decoded; what follows is not handed on.
    fn lost(&mut self, side: Direction);

    /// Bytes that the exchange holds, about. Asked often: it must be cheap.
    fn memory(&self) -> usize {
        0
    }

    /// The exchange is over. `None`: it turned out to be nothing of interest.
    fn finish(self, at: Timestamp, end: End) -> Option<Self::Output>;
}

/// The messages of a WebSocket, without frames and compression, text or not. They come in pieces, cut anywhere; those of
/// one direction one after the other.
pub trait Dialogue<X: Exchanges> {
    /// More of that direction's message.
    fn message(&mut self, exchanges: &mut X, direction: Direction, data: &[u8], at: Timestamp);

    /// That direction's message is whole, which may be empty. [`Progress::Complete`]: nothing more is wanted.
    fn message_end(
        &mut self,
        exchanges: &mut X,
        direction: Direction,
        at: Timestamp,
        out: &mut impl FnMut(<X::Exchange as Exchange>::Output),
    ) -> Progress;

    /// The rest of that direction's message, where there is one, and maybe others are missing or could not be read.
    /// [`Progress::Complete`]: nothing more is wanted.
    fn lost(
        &mut self,
        exchanges: &mut X,
        direction: Direction,
        at: Timestamp,
        out: &mut impl FnMut(<X::Exchange as Exchange>::Output),
    ) -> Progress;

    /// Bytes that it holds, about. Asked often: it must be cheap.
    fn memory(&self) -> usize;

    /// The connection is over, or cannot be read on. `end` says by whom, and is never [`End::Complete`].
    fn close(
        self,
        exchanges: &mut X,
        at: Timestamp,
        end: End,
        out: &mut impl FnMut(<X::Exchange as Exchange>::Output),
    );
}

/// Whether the response's content has said that it is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Go on.
    More,
    /// The provider's own terminator has come: the exchange ends here, whatever the framing does after it.
    Complete,
}

/// How an exchange ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// As the response's framing, or the provider's terminator, says.
    Complete,
    /// The peer ended the connection before that.
    Cut,
    /// The traced process ended the connection before that.
    Cancelled,
    /// The connection ended, or was lost sight of, and it is not known by whom.
    Unknown,
}
