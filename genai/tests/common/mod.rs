//! One exchange as a provider's decoder gets it: bodies decoded, cut into pieces.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_genai::call::Call;
use agentsight_genai::connection::{Chunk, Connection, Limits};
use agentsight_genai::http::{
    Direction, End, Exchange as _, Exchanges as _, Headers, Progress, RequestHead, ResponseHead,
};
use agentsight_genai::providers::{Found, Models, Settings};
use agentsight_genai::time::Timestamp;
use std::sync::Arc;

/// A request and what came of it. A status of 0 stands for no response.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub method: String,
    pub path: String,
    pub host: String,
    pub request_headers: Vec<(String, String)>,
    pub request: Vec<u8>,
    /// The request's body ended as its framing says.
    pub request_ended: bool,
    pub status: u16,
    pub response_headers: Vec<(String, String)>,
    pub response: Vec<u8>,
    /// Bytes of this side are missing after what is here.
    pub lost: Option<Direction>,
    pub end: End,
}

impl Default for Exchange {
    fn default() -> Exchange {
        Exchange {
            method: "POST".to_owned(),
            path: "/v1/chat/completions".to_owned(),
            host: "llm.example:8443".to_owned(),
            request_headers: Vec::new(),
            request: Vec::new(),
            request_ended: true,
            status: 200,
            response_headers: Vec::new(),
            response: Vec::new(),
            lost: None,
            end: End::Complete,
        }
    }
}

/// Each piece arrives 10 ms after the one before it.
const STEP: u64 = 10_000_000;

impl Exchange {
    /// The recording of that name: `NAME.request.json` and `NAME.response.json` or `.sse` in `recordings`.
    pub(crate) fn recorded(path: &str, name: &str) -> Exchange {
        let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings"));
        let read = |end: &str| std::fs::read(folder.join(format!("{name}.{end}")));
        let (kind, response) = match read("response.sse") {
            Ok(stream) => ("text/event-stream; charset=utf-8", stream),
            Err(_) => ("application/json", read("response.json").unwrap_or_else(|e| panic!("{name}: {e}"))),
        };
        Exchange {
            path: path.to_owned(),
            request: read("request.json").unwrap_or_else(|e| panic!("{name}: {e}")),
            response_headers: vec![("content-type".to_owned(), kind.to_owned())],
            response,
            ..Exchange::default()
        }
    }

    /// What the decoder makes of it, in pieces of that many bytes.
    pub(crate) fn call(&self, content: bool, piece: usize) -> Option<Call> {
        match self.found(&Settings { content, ..Settings::default() }, &cuts(piece, self.response.len()))? {
            Found::Call(call) => Some(*call),
            Found::Mcp(_) | Found::Unknown(_) => None,
        }
    }

    /// What comes out of a connection that carries it: HTTP/1.1, the response chunked, in captured pieces of that
    /// many bytes.
    pub(crate) fn call_over_http1(&self, content: bool, piece: usize) -> Option<Call> {
        const FRAMING: &[&str] =
            &["content-length", "transfer-encoding", "content-encoding", "host", "connection"];
        let fields = |fields: &[(String, String)]| -> String {
            let kept =
                fields.iter().filter(|(name, _)| !FRAMING.contains(&name.to_ascii_lowercase().as_str()));
            kept.map(|(name, value)| format!("{name}: {value}\r\n")).collect()
        };
        let mut request = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.path, self.host);
        request +=
            &format!("{}Content-Length: {}\r\n\r\n", fields(&self.request_headers), self.request.len());
        let request = [request.into_bytes(), self.request.clone()].concat();
        let head = fields(&self.response_headers);
        let mut response =
            format!("HTTP/1.1 {} X\r\n{head}Transfer-Encoding: chunked\r\n\r\n", self.status).into_bytes();
        for part in self.response.chunks(100) {
            response.extend(format!("{:x}\r\n", part.len()).into_bytes());
            response.extend([part, b"\r\n"].concat());
        }
        response.extend(b"0\r\n\r\n");

        let mut now = Timestamp(1_700_000_000_000_000_000);
        let settings = Settings { content, ..Settings::default() };
        let mut connection = Connection::new(Models::new(Arc::new(settings)), Limits::default(), true);
        let mut found = Vec::new();
        for (direction, bytes) in [(Direction::Sent, request), (Direction::Received, response)] {
            let mut offset = 0;
            for data in bytes.chunks(piece.min(bytes.len())) {
                now.0 += STEP;
                let chunk = Chunk { direction, at: now, offset, data, lost_after: 0 };
                connection.chunk(chunk, &mut |output| found.push(output));
                offset += data.len() as u64;
            }
        }
        connection.close(now, End::Cancelled, &mut |output| found.push(output));
        assert!(found.len() <= 1, "{} calls of one exchange", found.len());
        match found.pop()? {
            Found::Call(call) => Some(*call),
            Found::Mcp(_) | Found::Unknown(_) => None,
        }
    }

    /// What the decoder makes of it, with both bodies cut at these places.
    pub(crate) fn found(&self, settings: &Settings, at: &[usize]) -> Option<Found> {
        let headers = |fields: &[(String, String)]| {
            let mut headers = Headers::default();
            fields.iter().for_each(|(name, value)| headers.push(name, value.as_bytes()));
            headers
        };
        let mut now = Timestamp(1_700_000_000_000_000_000);
        let mut models = Models::new(Arc::new(settings.clone()));
        let mut exchange = models.open(&RequestHead {
            method: self.method.clone(),
            path: self.path.clone(),
            query: String::new(),
            authority: Some(self.host.clone()),
            headers: headers(&self.request_headers),
            at: now,
        })?;
        pieces(&self.request, at).for_each(|piece| exchange.request_body(piece));
        match self.lost {
            Some(Direction::Sent) => exchange.lost(Direction::Sent),
            _ if self.request_ended => exchange.request_end(),
            _ => {}
        }
        let mut end = self.end;
        if self.status != 0 {
            now.0 += STEP;
            let head = ResponseHead { status: self.status, headers: headers(&self.response_headers) };
            exchange.response_head(&head, now);
            for piece in pieces(&self.response, at) {
                now.0 += STEP;
                if exchange.response_body(piece, now) == Progress::Complete {
                    end = End::Complete;
                    break;
                }
            }
            if self.lost == Some(Direction::Received) {
                exchange.lost(Direction::Received);
            }
        }
        now.0 += STEP;
        exchange.finish(now, end)
    }
}

fn cuts(piece: usize, length: usize) -> Vec<usize> {
    (1..).map_while(|n| piece.checked_mul(n)).take_while(|at| *at < length).collect()
}

/// The bytes cut at these places, in order; those beyond the end do nothing.
fn pieces<'a>(bytes: &'a [u8], at: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut from = 0;
    at.iter().copied().chain([bytes.len()]).filter_map(move |to| {
        let to = to.min(bytes.len());
        let piece = (to > from).then(|| &bytes[from..to]);
        from = from.max(to);
        piece
    })
}
