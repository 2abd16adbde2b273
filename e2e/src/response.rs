//! A response on the wire: framing, coding, cuts and writes as the request asked for them.

use crate::answers::Content;
use crate::behaviour::{Behaviour, Framing, Writes};
use crate::truth::Outcome;
use std::io;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// A response that waits to be written.
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Fields besides those of framing and coding.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub content: Content,
}

/// What became of a response.
pub struct Sent {
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the connection can serve another request.
    pub reusable: bool,
    /// Events, or writes of a whole body.
    pub chunks: usize,
    /// The body's size before coding.
    pub bytes: usize,
}

impl Response {
    /// Writes the response; `head_only` answers HEAD.
    ///
    /// # Errors
    /// Only those of the content coding; a client that went away is an outcome.
    pub async fn send<S: AsyncWrite + Unpin>(
        self,
        stream: &mut S,
        behaviour: &Behaviour,
        head_only: bool,
    ) -> io::Result<Sent> {
        let (streamed, pieces) = match self.content {
            Content::Events(events) => (true, events),
            Content::Whole(body) => (false, cut_evenly(body, behaviour.chunks)),
        };
        let (chunks, bytes) = (pieces.len(), pieces.iter().map(Vec::len).sum());
        let framing = behaviour.framing.unwrap_or(if streamed { Framing::Chunked } else { Framing::Length });

        let mut head = String::with_capacity(512);
        for status in &behaviour.interim {
            head.push_str(&format!("HTTP/1.1 {status} {}\r\n", phrase(*status)));
            if *status == 103 {
                head.push_str("link: </style.css>; rel=preload\r\n");
            }
            head.push_str("\r\n");
        }
        head.push_str(&format!("HTTP/1.1 {} {}\r\n", self.status, phrase(self.status)));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut pieces = pieces;
        if let Some(coding) = behaviour.coding {
            pieces = coding.encode(pieces)?;
            head.push_str(&format!("content-encoding: {}\r\nvary: accept-encoding\r\n", coding.token()));
        }
        match framing {
            Framing::Length => {
                head.push_str(&format!("content-length: {}\r\n", pieces.iter().map(Vec::len).sum::<usize>()));
            }
            Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
            Framing::Trailers => head.push_str("transfer-encoding: chunked\r\ntrailer: x-served\r\n"),
            Framing::Close => head.push_str("connection: close\r\n"),
        }
        head.push_str("\r\n");

        let mut outcome = Outcome::Complete;
        if head_only {
            pieces.clear();
        } else {
            if matches!(framing, Framing::Chunked | Framing::Trailers) {
                frame(&mut pieces, framing == Framing::Trailers);
            }
            if behaviour.cut.is_some() {
                outcome = Outcome::Cut;
                cut(&mut pieces, behaviour.cut_after);
            }
        }
        let written = write(stream, head.into_bytes(), pieces, behaviour).await;
        if written.is_err() {
            outcome = Outcome::ClientGone;
        }
        Ok(Sent {
            reusable: outcome == Outcome::Complete && framing != Framing::Close,
            outcome,
            chunks,
            bytes,
        })
    }
}

/// Cuts a whole body into so many writes.
fn cut_evenly(body: Vec<u8>, count: Option<usize>) -> Vec<Vec<u8>> {
    match count {
        Some(count) if count > 1 && !body.is_empty() => {
            body.chunks(body.len().div_ceil(count)).map(<[u8]>::to_vec).collect()
        }
        _ => vec![body],
    }
}

fn frame(pieces: &mut Vec<Vec<u8>>, trailers: bool) {
    pieces.retain(|piece| !piece.is_empty());
    for piece in pieces.iter_mut() {
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.reserve(piece.len() + 2);
        chunk.append(piece);
        chunk.extend_from_slice(b"\r\n");
        *piece = chunk;
    }
    pieces.push(if trailers { b"0\r\nx-served: whole\r\n\r\n".to_vec() } else { b"0\r\n\r\n".to_vec() });
}

/// Leaves `after` pieces, or half of them; of a single one half its bytes.
fn cut(pieces: &mut Vec<Vec<u8>>, after: Option<usize>) {
    match after {
        Some(after) => pieces.truncate(after),
        // A whole body and, where it is chunked, the last chunk.
        None if pieces.len() <= 2 => {
            pieces.truncate(1);
            if let Some(body) = pieces.first_mut() {
                body.truncate(body.len() / 2);
            }
        }
        None => pieces.truncate(pieces.len() / 2),
    }
}

async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    head: Vec<u8>,
    pieces: Vec<Vec<u8>>,
    behaviour: &Behaviour,
) -> io::Result<()> {
    if !behaviour.first_delay.is_zero() {
        tokio::time::sleep(behaviour.first_delay).await;
    }
    match behaviour.writes {
        Writes::Each => {
            send(stream, &head).await?;
            for (number, piece) in pieces.iter().enumerate() {
                if number > 0 && !behaviour.chunk_delay.is_zero() {
                    tokio::time::sleep(behaviour.chunk_delay).await;
                }
                send(stream, piece).await?;
            }
        }
        Writes::Coalesced => send(stream, &[head, pieces.concat()].concat()).await?,
        Writes::Bytes(size) => {
            for part in [head, pieces.concat()].concat().chunks(size) {
                send(stream, part).await?;
            }
        }
    }
    Ok(())
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        103 => "Early Hints",
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        529 => "Overloaded",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::{cut, frame};

    #[test]
    fn chunks_carry_their_size_in_hexadecimal() {
        let mut pieces = vec![vec![b'x'; 26], Vec::new()];
        frame(&mut pieces, false);
        assert_eq!(pieces.concat(), [b"1a\r\n".as_slice(), &[b'x'; 26], b"\r\n0\r\n\r\n"].concat());
    }

    #[test]
    fn a_cut_leaves_half_of_the_events() {
        let mut pieces = vec![vec![1]; 10];
        cut(&mut pieces, None);
        assert_eq!(pieces.len(), 5);
        cut(&mut pieces, Some(1));
        assert_eq!(pieces.len(), 1);
    }
}
