//! gRPC over HTTP/2 (grpc/grpc, doc/PROTOCOL-HTTP2.md): messages cut out of bodies, and how a call ended.
//!
//! A message is handed on in pieces while it arrives, without its compression, so that none is held, whatever its size.

use std::time::Duration;

use crate::coding::Decoder;
use crate::http::{self, Headers};

/// Cuts one direction of a call into its messages.
pub(crate) struct Messages {
    /// What `grpc-encoding` says of messages that are compressed.
    encoding: Option<String>,
    /// Decoded bytes of one message.
    limit: u64,
    state: State,
}

/// What is handed on of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part<'a> {
    /// More of a message, or its beginning.
    Data(&'a [u8]),
    /// The message cannot be decoded, or not further. How much of it was handed on depends on how it came.
    Broken,
    /// The message's last byte has come.
    End,
    /// From here on nothing can be told apart.
    Lost,
}

enum State {
    /// In a message's prefix: whether it is compressed, and its length.
    Prefix {
        bytes: [u8; PREFIX],
        read: usize,
    },
    Body {
        left: u32,
        coding: Coding,
    },
    Lost,
}

/// Of one message: each is compressed for itself.
enum Coding {
    Plain,
    Compressed(Box<Decoder>),
    /// It cannot be decoded, or not further.
    Skipped,
}

const PREFIX: usize = 5;

impl Messages {
    /// `limit`: how many bytes one message may become by decompression.
    pub(crate) fn new(headers: &Headers, limit: u64) -> Messages {
        let encoding = headers.get("grpc-encoding").map(str::to_owned);
        Messages { encoding, limit, state: State::Prefix { bytes: [0; PREFIX], read: 0 } }
    }

    /// A body of which nothing is read.
    pub(crate) fn lost() -> Messages {
        Messages { encoding: None, limit: 0, state: State::Lost }
    }

    /// Takes the next bytes of a body, without a frame's padding.
    pub(crate) fn push(&mut self, mut data: &[u8], out: &mut dyn FnMut(Part<'_>)) {
        while !data.is_empty() {
            match &mut self.state {
                State::Lost => return,
                State::Prefix { bytes, read } => {
                    let length = data.len().min(PREFIX - *read);
                    bytes[*read..*read + length].copy_from_slice(&data[..length]);
                    *read += length;
                    data = &data[length..];
                    if *read == PREFIX {
                        let [compressed, length @ ..] = *bytes;
                        let coding = match compressed {
                            0 => Coding::Plain,
                            1 => {
                                let decoder = self.decoder();
                                if decoder.is_none() {
                                    out(Part::Broken);
                                }
                                decoder
                                    .map_or(Coding::Skipped, |decoder| Coding::Compressed(Box::new(decoder)))
                            }
                            _ => {
                                self.state = State::Lost;
                                return out(Part::Lost);
                            }
                        };
                        self.state = State::Body { left: u32::from_be_bytes(length), coding };
                    }
                }
                State::Body { left, coding } => {
                    let (now, later) = data.split_at(data.len().min(*left as usize));
                    *left -= now.len() as u32;
                    data = later;
                    coding.push(now, out);
                }
            }
            // A message may be empty.
            if let State::Body { left: 0, coding } = &self.state {
                if let Coding::Compressed(decoder) = coding
                    && decoder.finish().is_err()
                {
                    out(Part::Broken);
                }
                out(Part::End);
                self.state = State::Prefix { bytes: [0; PREFIX], read: 0 };
            }
        }
    }

    /// Nothing of a message has come that is not whole.
    pub(crate) fn is_between(&self) -> bool {
        matches!(self.state, State::Prefix { read: 0, .. } | State::Lost)
    }

    /// Bytes that are held, about.
    pub(crate) fn memory(&self) -> usize {
        match &self.state {
            State::Body { coding: Coding::Compressed(decoder), .. } => decoder.memory(),
            _ => 0,
        }
    }

    fn decoder(&self) -> Option<Decoder> {
        // Of HTTP's codings gRPC has two.
        let name = self.encoding.as_deref().filter(|name| matches!(*name, "gzip" | "deflate"))?;
        Decoder::new([name], self.limit).ok().flatten()
    }
}

impl Coding {
    fn push(&mut self, data: &[u8], out: &mut dyn FnMut(Part<'_>)) {
        match self {
            Coding::Plain => out(Part::Data(data)),
            Coding::Compressed(decoder) => {
                if decoder.push(data, &mut |decoded| out(Part::Data(decoded))).is_err() {
                    *self = Coding::Skipped;
                    out(Part::Broken);
                }
            }
            Coding::Skipped => {}
        }
    }
}

/// How a server says that a call ended: in its trailers, or in the head of a response without messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Status {
    pub(crate) code: u32,
    /// Its words, which may quote what was sent.
    pub(crate) message: Option<String>,
}

impl Status {
    pub(crate) fn of(headers: &Headers) -> Option<Status> {
        let code = headers.get("grpc-status")?.parse().ok()?;
        let message = headers.get("grpc-message").map(http::without_escapes);
        Some(Status { code, message: message.map(|text| String::from_utf8_lossy(&text).into_owned()) })
    }
}

/// The name of a status (grpc/grpc, doc/statuscodes.md); a number that has none is a server's mistake.
pub(crate) fn status_name(code: u32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    usize::try_from(code).ok().and_then(|code| NAMES.get(code)).copied().unwrap_or("UNKNOWN")
}

/// How long a client waits for the end of its call: `grpc-timeout`, eight digits and a unit.
pub(crate) fn timeout(headers: &Headers) -> Option<Duration> {
    let text = headers.get("grpc-timeout").filter(|text| text.is_ascii() && (2..=9).contains(&text.len()))?;
    let (digits, unit) = text.split_at(text.len() - 1);
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Whether a message's head says that it carries gRPC.
pub(crate) fn is_grpc(headers: &Headers) -> bool {
    headers.get("content-type").is_some_and(|kind| {
        let rest = kind.strip_prefix("application/grpc");
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
    })
}
