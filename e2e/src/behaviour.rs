//! How a request wants to be treated: the `x-mock-*` headers that any client or SDK can add.

use crate::request::Request;
use std::time::Duration;

/// What the `x-mock-*` headers of one request ask for; all defaults are those of a well-behaved provider.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// `x-mock-case`: a name for this call, repeated in the log.
    pub case: Option<String>,
    /// `x-mock-status`: answer with this error instead.
    pub status: Option<u16>,
    /// `x-mock-fail`: only the first so many requests of the case get that error.
    pub failures: Option<u32>,
    /// `x-mock-error-body`: the body of the error as plain text, not the provider's JSON.
    pub error_body: Option<String>,
    /// `x-mock-stream-error`: an error event after so many events of the stream.
    pub stream_error: Option<usize>,
    /// `x-mock-cut`: how the connection ends in the middle of the body.
    pub cut: Option<Cut>,
    /// `x-mock-cut-after`: after how many events, or pieces of a whole body; half of them by default.
    pub cut_after: Option<usize>,
    /// `x-mock-first-ms`: how long the model thinks before its first byte.
    pub first_delay: Duration,
    /// `x-mock-chunk-ms`: pause between events.
    pub chunk_delay: Duration,
    /// `x-mock-bytes`: the answer is a text of exactly so many bytes.
    pub bytes: Option<usize>,
    /// `x-mock-chunks`: the text arrives in so many deltas.
    pub chunks: Option<usize>,
    /// `x-mock-encoding`: content coding of the response.
    pub coding: Option<Coding>,
    /// `x-mock-framing`: how the length of the body is told.
    pub framing: Option<Framing>,
    /// `x-mock-interim`: interim responses (100, 103) before the final one.
    pub interim: Vec<u16>,
    /// `x-mock-writes`: how bytes are put into writes, and so into TLS records.
    pub writes: Writes,
    /// `x-mock-newline`: the line ending of server-sent events.
    pub newline: &'static str,
    /// `x-mock-early`: answer before the body of the request is read.
    pub early: bool,
    /// `x-mock-model`: the model that the response names.
    pub model: Option<String>,
    /// `x-mock-refuse`: the model refuses.
    pub refuse: bool,
    /// `x-mock-filter`: the content filter stops the answer.
    pub filter: bool,
    /// `x-mock-cached`: how many input tokens came from the provider's cache.
    pub cached: u64,
    /// `x-mock-cache-write`: how many input tokens were written to the provider's cache.
    pub cache_write: u64,
    /// `x-mock-reasoning`: the reasoning text, as `reasoning_content` where the API has no place of its own for it.
    pub reasoning: Option<String>,
    /// `x-mock-no-usage`: a server that tells no token counts.
    pub no_usage: bool,
    /// `x-mock-deflate`: whether messages of a WebSocket are compressed, where the client offers it.
    pub deflate: Option<Deflate>,
    /// `x-mock-no-done`: no `data: [DONE]` at the end of a stream.
    pub no_done: bool,
}

/// How a body ends before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// TCP FIN without a TLS close_notify.
    Fin,
    /// TCP RST.
    Reset,
    /// A proper TLS close.
    CloseNotify,
}

/// Content codings that providers and their proxies use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// zlib (RFC 1950), which HTTP calls deflate.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

/// How messages of a WebSocket are compressed (RFC 7692), in both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deflate {
    /// With the window of those before.
    Takeover,
    /// Each by itself.
    NoTakeover,
}

/// Ways to frame a body (RFC 9112, section 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// `content-length`.
    Length,
    /// `transfer-encoding: chunked`.
    Chunked,
    /// Chunked, with trailer fields after the last chunk.
    Trailers,
    /// The body ends with the connection.
    Close,
}

/// How pieces become writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writes {
    /// Head, then each event on its own.
    Each,
    /// Head and all events in as few writes as possible.
    Coalesced,
    /// So many bytes at a time; of a message of a WebSocket, so many in a frame.
    Bytes(usize),
}

impl Behaviour {
    /// Reads the headers of a request.
    ///
    /// # Errors
    /// A message that names the header whose value is none of those allowed.
    pub fn of(request: &Request) -> Result<Self, String> {
        let text = |name: &str| request.header(&format!("x-mock-{name}")).map(str::to_owned);
        let number = |name: &str| -> Result<Option<u64>, String> {
            text(name)
                .map(|v| v.parse().map_err(|_| format!("x-mock-{name}: {v:?} is no number")))
                .transpose()
        };
        let size = |name: &str| number(name).map(|n| n.map(|n| n as usize));
        let millis = |name: &str| number(name).map(|n| Duration::from_millis(n.unwrap_or(0)));
        let flag = |name: &str| text(name).is_some_and(|v| v != "0");
        let unknown = |name: &str, value: &str, allowed: &str| {
            Err(format!("x-mock-{name}: {value:?} is none of {allowed}"))
        };
        Ok(Self {
            case: text("case"),
            status: number("status")?.map(|n| n as u16),
            failures: number("fail")?.map(|n| n as u32),
            error_body: text("error-body"),
            stream_error: size("stream-error")?,
            cut: match text("cut").as_deref() {
                None => None,
                Some("fin") => Some(Cut::Fin),
                Some("reset") => Some(Cut::Reset),
                Some("close-notify") => Some(Cut::CloseNotify),
                Some(other) => return unknown("cut", other, "fin, reset, close-notify"),
            },
            cut_after: size("cut-after")?,
            first_delay: millis("first-ms")?,
            chunk_delay: millis("chunk-ms")?,
            bytes: size("bytes")?,
            chunks: size("chunks")?,
            coding: match text("encoding").as_deref() {
                None | Some("identity") => None,
                Some("gzip") => Some(Coding::Gzip),
                Some("deflate") => Some(Coding::Deflate),
                Some("br") => Some(Coding::Brotli),
                Some("zstd") => Some(Coding::Zstd),
                Some(other) => return unknown("encoding", other, "identity, gzip, deflate, br, zstd"),
            },
            framing: match text("framing").as_deref() {
                None => None,
                Some("length") => Some(Framing::Length),
                Some("chunked") => Some(Framing::Chunked),
                Some("trailers") => Some(Framing::Trailers),
                Some("close") => Some(Framing::Close),
                Some(other) => return unknown("framing", other, "length, chunked, trailers, close"),
            },
            interim: match text("interim") {
                None => Vec::new(),
                Some(list) => list
                    .split(',')
                    .map(|n| n.trim().parse().map_err(|_| format!("x-mock-interim: {n:?} is no status")))
                    .collect::<Result<_, _>>()?,
            },
            writes: match text("writes").as_deref() {
                None | Some("event") => Writes::Each,
                Some("coalesce") => Writes::Coalesced,
                Some(n) => match n.parse() {
                    Ok(n) if n > 0 => Writes::Bytes(n),
                    _ => return unknown("writes", n, "event, coalesce, a number of bytes"),
                },
            },
            newline: match text("newline").as_deref() {
                None | Some("lf") => "\n",
                Some("crlf") => "\r\n",
                Some("cr") => "\r",
                Some(other) => return unknown("newline", other, "lf, crlf, cr"),
            },
            early: flag("early"),
            model: text("model"),
            refuse: flag("refuse"),
            filter: flag("filter"),
            cached: number("cached")?.unwrap_or(0),
            cache_write: number("cache-write")?.unwrap_or(0),
            reasoning: text("reasoning"),
            no_usage: flag("no-usage"),
            deflate: match text("deflate").as_deref() {
                None | Some("no") => None,
                Some("takeover") => Some(Deflate::Takeover),
                Some("no-takeover") => Some(Deflate::NoTakeover),
                Some(other) => return unknown("deflate", other, "no, takeover, no-takeover"),
            },
            no_done: flag("no-done"),
        })
    }
}
