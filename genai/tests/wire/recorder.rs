//! A connection whose exchanges are written down as they are handed on.

use agentsight_genai::connection::{Chunk, Connection, Counters, Limits, Protocol};
use agentsight_genai::http::{
    Dialogue, Direction, End, Exchange, Exchanges, Progress, RequestHead, ResponseHead,
};
use agentsight_genai::time::Timestamp;

/// Everything that was said about one exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) request: RequestHead,
    pub(crate) request_body: Vec<u8>,
    pub(crate) request_ended: bool,
    pub(crate) response: Option<ResponseHead>,
    pub(crate) response_at: Timestamp,
    pub(crate) response_body: Vec<u8>,
    pub(crate) lost: Vec<Direction>,
    pub(crate) ended_at: Timestamp,
    pub(crate) end: End,
}

impl Seen {
    pub(crate) fn status(&self) -> Option<u16> {
        self.response.as_ref().map(|head| head.status)
    }

    pub(crate) fn asked(&self) -> &str {
        std::str::from_utf8(&self.request_body).unwrap()
    }

    pub(crate) fn answered(&self) -> &str {
        std::str::from_utf8(&self.response_body).unwrap()
    }
}

/// Wants every exchange but those below `/unwanted`; content that ends in `[DONE]` is complete.
pub(crate) struct Recorder;

impl Exchanges for Recorder {
    type Exchange = Recording;
    type Dialogue = Recording;

    fn open(&mut self, head: &RequestHead) -> Option<Recording> {
        (!head.path.starts_with("/unwanted")).then(|| {
            Recording(Seen {
                request: head.clone(),
                request_body: Vec::new(),
                request_ended: false,
                response: None,
                response_at: Timestamp(0),
                response_body: Vec::new(),
                lost: Vec::new(),
                ended_at: Timestamp(0),
                end: End::Unknown,
            })
        })
    }

    fn upgrade(&mut self, exchange: Recording) -> Result<Recording, Recording> {
        if exchange.0.request.path.ends_with("/websocket") { Ok(exchange) } else { Err(exchange) }
    }
}

/// Messages of a WebSocket are written down as bodies, each with a line end behind it.
impl Dialogue<Recorder> for Recording {
    fn message(&mut self, _: &mut Recorder, direction: Direction, data: &[u8], _: Timestamp) {
        self.messages(direction).extend_from_slice(data);
    }

    fn message_end(
        &mut self,
        _: &mut Recorder,
        direction: Direction,
        _: Timestamp,
        _: &mut impl FnMut(Seen),
    ) -> Progress {
        let messages = self.messages(direction);
        messages.push(b'\n');
        if messages.ends_with(b"[DONE]\n") { Progress::Complete } else { Progress::More }
    }

    fn lost(
        &mut self,
        _: &mut Recorder,
        direction: Direction,
        _: Timestamp,
        _: &mut impl FnMut(Seen),
    ) -> Progress {
        self.0.lost.push(direction);
        Progress::More
    }

    fn memory(&self) -> usize {
        0
    }

    fn close(self, _: &mut Recorder, at: Timestamp, end: End, out: &mut impl FnMut(Seen)) {
        assert!(end != End::Complete);
        self.finish(at, end).into_iter().for_each(out);
    }
}

pub(crate) struct Recording(Seen);

impl Recording {
    fn messages(&mut self, direction: Direction) -> &mut Vec<u8> {
        match direction {
            Direction::Sent => &mut self.0.request_body,
            Direction::Received => &mut self.0.response_body,
        }
    }
}

impl Exchange for Recording {
    type Output = Seen;

    fn request_body(&mut self, data: &[u8]) {
        assert!(!self.0.request_ended && !self.0.lost.contains(&Direction::Sent));
        self.0.request_body.extend_from_slice(data);
    }

    fn request_end(&mut self) {
        assert!(!self.0.request_ended);
        self.0.request_ended = true;
    }

    fn response_head(&mut self, head: &ResponseHead, at: Timestamp) {
        assert!(self.0.response.is_none() && !self.0.lost.contains(&Direction::Received));
        self.0.response = Some(head.clone());
        self.0.response_at = at;
    }

    fn response_body(&mut self, data: &[u8], _: Timestamp) -> Progress {
        assert!(self.0.response.is_some() && !self.0.lost.contains(&Direction::Received));
        self.0.response_body.extend_from_slice(data);
        let done = self.0.response_body.windows(6).any(|window| window == b"[DONE]");
        if done { Progress::Complete } else { Progress::More }
    }

    fn lost(&mut self, side: Direction) {
        assert!(!self.0.lost.contains(&side));
        self.0.lost.push(side);
    }

    fn finish(mut self, at: Timestamp, end: End) -> Option<Seen> {
        self.0.ended_at = at;
        self.0.end = end;
        Some(self.0)
    }
}

/// A connection and what came out of it; time is the number of the step.
pub(crate) struct Wire {
    connection: Connection<Recorder>,
    moved: [u64; 2],
    now: u64,
    seen: Vec<Seen>,
}

impl Wire {
    pub(crate) fn new() -> Self {
        Wire::with(Limits::default(), true)
    }

    pub(crate) fn joined() -> Self {
        Wire::with(Limits::default(), false)
    }

    pub(crate) fn with(limits: Limits, from_start: bool) -> Self {
        let connection = Connection::new(Recorder, limits, from_start);
        Wire { connection, moved: [0; 2], now: 0, seen: Vec::new() }
    }

    pub(crate) fn sends(&mut self, data: impl AsRef<[u8]>) -> &mut Self {
        self.moves(Direction::Sent, data.as_ref(), 0)
    }

    pub(crate) fn gets(&mut self, data: impl AsRef<[u8]>) -> &mut Self {
        self.moves(Direction::Received, data.as_ref(), 0)
    }

    /// Captured bytes and then `lost_after` that were not kept.
    pub(crate) fn moves(&mut self, direction: Direction, data: &[u8], lost_after: u64) -> &mut Self {
        self.now += 1;
        let offset = self.moved[index(direction)];
        let chunk = Chunk { direction, at: Timestamp(self.now), offset, data, lost_after };
        self.connection.chunk(chunk, &mut |seen| self.seen.push(seen));
        self.moved[index(direction)] += data.len() as u64 + lost_after;
        self
    }

    /// Bytes move and no chunk of them is captured.
    pub(crate) fn misses(&mut self, direction: Direction, data: impl AsRef<[u8]>) -> &mut Self {
        self.moved[index(direction)] += data.as_ref().len() as u64;
        self
    }

    /// The bytes that moved last come again.
    pub(crate) fn repeats(&mut self, direction: Direction, data: impl AsRef<[u8]>) -> &mut Self {
        self.moved[index(direction)] -= data.as_ref().len() as u64;
        self.moves(direction, data.as_ref(), 0)
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.connection.protocol()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.connection.counters()
    }

    pub(crate) fn memory(&self) -> usize {
        self.connection.memory()
    }

    /// What has ended so far.
    pub(crate) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    pub(crate) fn close(self, end: End) -> Vec<Seen> {
        let mut seen = self.seen;
        self.connection.close(Timestamp(self.now + 1), end, &mut |s| seen.push(s));
        seen
    }
}

fn index(direction: Direction) -> usize {
    usize::from(direction == Direction::Received)
}
