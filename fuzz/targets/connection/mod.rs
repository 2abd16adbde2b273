//! Any script of chunks, gaps and repeats on both directions of a connection: no panic, little is held, the order
//! of what an exchange is told is kept, and without losses it does not depend on how the bytes are cut.

use agentsight_genai::connection::{Chunk, Connection, Limits};
use agentsight_genai::http::{
    Dialogue, Direction, End, Exchange, Exchanges, Progress, RequestHead, ResponseHead,
};
use agentsight_genai::time::Timestamp;

/// Runs a script on a connection on which these bytes have moved, in either direction.
pub fn test(opening: [&[u8]; 2], input: &[u8]) {
    let Some((&first, script)) = input.split_first() else { return };
    let (whole, untouched) = run(opening, script, first & 1 == 0, usize::MAX);
    // After `Expect` a body may be left out, which is told by the start of a chunk.
    let waits = script.windows(5).any(|window| window.eq_ignore_ascii_case(b"xpect"));
    if untouched && !waits {
        let (cut, _) = run(opening, script, first & 1 == 0, usize::from(first >> 1).max(1));
        assert_eq!(whole, cut);
    }
}

/// Runs the script: each step is a byte that says what, one for a length, and as many bytes as that. Gives what
/// came out, and whether nothing was lost.
fn run(opening: [&[u8]; 2], mut script: &[u8], from_start: bool, size: usize) -> (Vec<Seen>, bool) {
    let limits = Limits { head: 2000, pending: 8, streams: 8, decoded: 1 << 20 };
    let mut connection = Connection::new(Recorder, limits, from_start);
    let (mut seen, mut moved, mut gapless) = (Vec::new(), [0; 2], from_start);
    for (direction, bytes) in [Direction::Sent, Direction::Received].into_iter().zip(opening) {
        chunk(&mut connection, direction, 0, bytes, 0, &mut seen);
        moved[usize::from(direction == Direction::Received)] += bytes.len() as u64;
    }
    while let [step, length, rest @ ..] = script {
        let length = usize::from(*length) << (step >> 6);
        let (data, after) = rest.split_at(length.min(rest.len()));
        script = after;
        let direction = if step & 1 == 0 { Direction::Sent } else { Direction::Received };
        let moved = &mut moved[usize::from(step & 1)];
        let (lost_after, repeated) = match step >> 1 & 7 {
            0 => (0, data.len() as u64),
            1 => (length as u64, 0),
            2 => (3, 0),
            3 => {
                *moved += u64::from(step >> 4);
                gapless &= step >> 4 == 0;
                (0, 0)
            }
            _ => (0, 0),
        };
        gapless &= lost_after == 0;
        for offset_data in data.chunks(size.min(data.len().max(1))) {
            chunk(&mut connection, direction, *moved, offset_data, 0, &mut seen);
            *moved += offset_data.len() as u64;
        }
        chunk(&mut connection, direction, *moved, &[], lost_after, &mut seen);
        *moved += lost_after;
        if repeated > 0 && size == usize::MAX {
            chunk(&mut connection, direction, *moved - repeated, data, 0, &mut seen);
        }
        assert!(connection.memory() <= 64 << 20);
    }
    let counters = connection.counters();
    // How much comes out of broken content before it is found broken depends on how it is cut.
    let untouched = gapless && counters.losses + counters.undecodable + counters.oversized == 0;
    let end = if moved[0] % 2 == 0 { End::Cut } else { End::Cancelled };
    connection.close(Timestamp(0), end, &mut |s| seen.push(s));
    (seen, untouched)
}

fn chunk(
    connection: &mut Connection<Recorder>,
    direction: Direction,
    offset: u64,
    data: &[u8],
    lost_after: u64,
    seen: &mut Vec<Seen>,
) {
    let chunk = Chunk { direction, at: Timestamp(0), offset, data, lost_after };
    connection.chunk(chunk, &mut |s| seen.push(s));
}

struct Recorder;

impl Exchanges for Recorder {
    type Exchange = Seen;
    type Dialogue = Seen;

    fn open(&mut self, head: &RequestHead) -> Option<Seen> {
        assert!(!head.path.is_empty() && !head.method.is_empty());
        (head.path != "/-").then(|| Seen { request: Some(head.clone()), ..Seen::default() })
    }

    fn upgrade(&mut self, exchange: Seen) -> Result<Seen, Seen> {
        if exchange.request.as_ref().is_some_and(|head| head.path == "/-w") {
            Ok(exchange)
        } else {
            Err(exchange)
        }
    }
}

/// Messages are taken for bodies.
impl Dialogue<Recorder> for Seen {
    fn message(&mut self, _: &mut Recorder, direction: Direction, data: &[u8], _: Timestamp) {
        match direction {
            Direction::Sent => self.request_body.extend_from_slice(data),
            Direction::Received => self.response_body.extend_from_slice(data),
        }
    }

    fn message_end(
        &mut self,
        recorder: &mut Recorder,
        direction: Direction,
        at: Timestamp,
        _: &mut impl FnMut(Seen),
    ) -> Progress {
        self.message(recorder, direction, b"\n", at);
        if self.request_body.ends_with(b"!\n") { Progress::Complete } else { Progress::More }
    }

    fn lost(
        &mut self,
        _: &mut Recorder,
        side: Direction,
        _: Timestamp,
        _: &mut impl FnMut(Seen),
    ) -> Progress {
        self.lost[usize::from(side == Direction::Received)] = true;
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

#[derive(Clone, PartialEq, Debug, Default)]
struct Seen {
    request: Option<RequestHead>,
    request_body: Vec<u8>,
    request_ended: bool,
    response: Option<ResponseHead>,
    response_body: Vec<u8>,
    lost: [bool; 2],
    end: Option<End>,
}

impl Exchange for Seen {
    type Output = Seen;

    fn request_body(&mut self, data: &[u8]) {
        assert!(!self.request_ended && !self.lost[0]);
        self.request_body.extend_from_slice(data);
    }

    fn request_end(&mut self) {
        assert!(!self.request_ended);
        self.request_ended = true;
    }

    fn response_head(&mut self, head: &ResponseHead, _: Timestamp) {
        assert!(self.response.is_none() && !self.lost[1]);
        self.response = Some(head.clone());
    }

    fn response_body(&mut self, data: &[u8], _: Timestamp) -> Progress {
        assert!(self.response.is_some() && !self.lost[1]);
        self.response_body.extend_from_slice(data);
        if self.response_body.contains(&b'!') { Progress::Complete } else { Progress::More }
    }

    fn lost(&mut self, side: Direction) {
        let lost = &mut self.lost[usize::from(side == Direction::Received)];
        assert!(!*lost);
        *lost = true;
    }

    fn finish(mut self, _: Timestamp, end: End) -> Option<Seen> {
        // Where the content ends in a piece depends on how the bytes were cut.
        if let Some(done) = self.response_body.iter().position(|byte| *byte == b'!') {
            self.response_body.truncate(done);
        }
        self.end = Some(end);
        Some(self)
    }
}
