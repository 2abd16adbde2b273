//! What became of the telemetry, in numbers.

use super::kind::Kind;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// All sinks' numbers at one moment.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// One for each signal of each sink.
    pub lanes: Vec<LaneStats>,
}

impl Stats {
    /// What was given up, and why; empty when everything arrived.
    pub fn losses(&self) -> Vec<Loss> {
        let losses = self.lanes.iter().flat_map(|lane| {
            Cause::ALL.iter().map(|cause| Loss {
                to: lane.to.clone(),
                kind: lane.kind,
                cause: *cause,
                count: lane.dropped(*cause),
            })
        });
        losses.filter(|loss| loss.count > 0).collect()
    }
}

/// One signal's way to one sink. Spans and log records are counted one by one, metrics by data point.
#[derive(Clone, Debug)]
pub struct LaneStats {
    /// The endpoint or file.
    pub to: String,
    /// Which signal.
    pub kind: Kind,
    /// Taken by the other side.
    pub sent: u64,
    /// Given up, in the order of [`Cause::ALL`].
    pub dropped: [u64; Cause::ALL.len()],
    /// Attempts after the first of a request.
    pub retries: u64,
    /// Not yet sent nor given up; always 0 for metrics, which are kept as sums.
    pub waiting: u64,
    /// Memory that these take.
    pub waiting_bytes: u64,
    /// Metrics only: measurements whose own attributes were one set too many.
    pub overflowed: u64,
    /// What went wrong last, and when.
    pub last_error: Option<(SystemTime, String)>,
    /// When something was last taken.
    pub last_success: Option<SystemTime>,
}

impl LaneStats {
    /// How many were given up for that cause.
    pub fn dropped(&self, cause: Cause) -> u64 {
        self.dropped[cause as usize]
    }
}

/// Why telemetry was given up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    /// The queue was at its bound in bytes.
    QueueFull,
    /// Alone larger than a request may be, also after shrinking.
    TooLarge,
    /// The collector took the request and rejected this part of it.
    Rejected,
    /// The collector refused the request for good.
    Refused,
    /// The request failed for longer than it is worth trying.
    RetriesExhausted,
    /// The end came first.
    Unsent,
    /// The file could not be written.
    WriteFailed,
    /// A measurement of one resource too many.
    TooManyResources,
    /// A measurement that its metric cannot hold.
    Invalid,
}

impl Cause {
    /// All of them, in the order of their numbers.
    pub const ALL: [Cause; 9] = [
        Cause::QueueFull,
        Cause::TooLarge,
        Cause::Rejected,
        Cause::Refused,
        Cause::RetriesExhausted,
        Cause::Unsent,
        Cause::WriteFailed,
        Cause::TooManyResources,
        Cause::Invalid,
    ];

    /// As a label's value.
    pub fn name(self) -> &'static str {
        match self {
            Cause::QueueFull => "queue_full",
            Cause::TooLarge => "too_large",
            Cause::Rejected => "rejected",
            Cause::Refused => "refused",
            Cause::RetriesExhausted => "retries_exhausted",
            Cause::Unsent => "unsent",
            Cause::WriteFailed => "write_failed",
            Cause::TooManyResources => "too_many_resources",
            Cause::Invalid => "invalid",
        }
    }
}

/// How much of what was given up, for one cause.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loss {
    /// The endpoint or file.
    pub to: String,
    /// Which signal.
    pub kind: Kind,
    /// Why.
    pub cause: Cause,
    /// How many spans, log records or data points.
    pub count: u64,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss { to, kind, cause, count } = self;
        let unit = kind.unit();
        match cause {
            Cause::QueueFull => write!(f, "{count} {unit} for {to} found the queue full"),
            Cause::TooLarge => write!(f, "{count} {unit} were too large for {to}"),
            Cause::Rejected => write!(f, "{count} {unit} were rejected by {to}"),
            Cause::Refused => write!(f, "{count} {unit} were refused by {to}"),
            Cause::RetriesExhausted => write!(f, "{count} {unit} did not reach {to} after many attempts"),
            Cause::Unsent => write!(f, "{count} {unit} did not reach {to} before the end"),
            Cause::WriteFailed => write!(f, "{count} {unit} could not be written to {to}"),
            Cause::TooManyResources => {
                write!(f, "{count} measurements for {to} came from one resource too many")
            }
            Cause::Invalid => write!(f, "{count} measurements for {to} made no sense"),
        }
    }
}

/// The numbers while they are counted.
#[derive(Default)]
pub(super) struct Counters {
    sent: AtomicU64,
    dropped: [AtomicU64; Cause::ALL.len()],
    retries: AtomicU64,
    overflowed: AtomicU64,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    error: Option<(SystemTime, String)>,
    success: Option<SystemTime>,
    failing: bool,
    gates: [Gate; 3],
}

/// What a message to the log is about; each kind is said at once and then rarely.
#[derive(Clone, Copy)]
pub(super) enum Matter {
    Trying,
    Losing,
    Rejecting,
}

/// Lets one message through, and then none for a while.
#[derive(Default)]
struct Gate {
    last: Option<Instant>,
    hidden: u64,
}

/// Between two messages about the same matter.
const QUIET: Duration = Duration::from_secs(60);

impl Counters {
    pub(super) fn sent(&self, count: u64) {
        self.sent.fetch_add(count, Relaxed);
    }

    pub(super) fn dropped(&self, cause: Cause, count: u64) {
        self.dropped[cause as usize].fetch_add(count, Relaxed);
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(super) fn overflowed(&self) {
        self.overflowed.fetch_add(1, Relaxed);
    }

    /// Notes a success; true where it ends a time of failures.
    pub(super) fn succeeded(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.success = Some(SystemTime::now());
        std::mem::take(&mut last.failing)
    }

    pub(super) fn failed(&self, error: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.error = Some((SystemTime::now(), error.to_owned()));
        last.failing = true;
    }

    /// Whether to speak now, and how many times we did not since the last time.
    pub(super) fn may_say(&self, matter: Matter) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = &mut last.gates[matter as usize];
        if gate.last.is_some_and(|last| last.elapsed() < QUIET) {
            gate.hidden += 1;
            return None;
        }
        gate.last = Some(Instant::now());
        Some(std::mem::take(&mut gate.hidden))
    }

    pub(super) fn snapshot(&self, to: &str, kind: Kind, waiting: (usize, usize)) -> LaneStats {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        LaneStats {
            to: to.to_owned(),
            kind,
            sent: self.sent.load(Relaxed),
            dropped: std::array::from_fn(|i| self.dropped[i].load(Relaxed)),
            retries: self.retries.load(Relaxed),
            waiting: waiting.0 as u64,
            waiting_bytes: waiting.1 as u64,
            overflowed: self.overflowed.load(Relaxed),
            last_error: last.error.clone(),
            last_success: last.success,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stand_in_the_order_of_their_numbers() {
        for (number, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, number);
        }
    }

    #[test]
    fn a_matter_is_said_once_and_then_rarely() {
        let counters = Counters::default();
        assert_eq!(counters.may_say(Matter::Trying), Some(0));
        assert_eq!(counters.may_say(Matter::Trying), None);
        assert_eq!(counters.may_say(Matter::Losing), Some(0), "another matter is not hidden");
    }

    #[test]
    fn only_a_success_after_a_failure_is_a_recovery() {
        let counters = Counters::default();
        assert!(!counters.succeeded());
        counters.failed("no");
        assert!(counters.succeeded());
        assert!(!counters.succeeded());
    }
}
