//! What may be sent again, and when: the tables of the OTLP specification.

use prost::Message;
use std::time::{Duration, SystemTime};
use tonic::{Code, Status};

/// How patiently a request is sent again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// The first wait; each further one is twice as long, and every wait is cut by up to a half at
    /// random so that a thousand agents do not come back at the same moment.
    pub first: Duration,
    /// No wait of our own is longer.
    pub longest: Duration,
    /// A request that has failed for so long is given up, so that one which a collector can never
    /// take does not hold up what waits behind it for ever.
    pub give_up_after: Duration,
}

impl Default for Retry {
    /// 1 s to 30 s as the Collector's own exporters do at most; an hour covers most outages, while
    /// the queue's bound keeps memory safe meanwhile. The specification names no numbers.
    fn default() -> Self {
        Retry {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            give_up_after: Duration::from_secs(3600),
        }
    }
}

/// The waits between attempts.
pub(super) struct Backoff {
    next: Duration,
    policy: Retry,
}

impl Backoff {
    pub(super) fn new(policy: Retry) -> Self {
        Backoff { next: policy.first, policy }
    }

    pub(super) fn delay(&mut self) -> Duration {
        let full = self.next;
        self.next = full.saturating_mul(2).min(self.policy.longest);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// When to send a failed request again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Again {
    /// Not at all.
    Never,
    /// After a wait of our own.
    Backoff,
    /// After the wait that the collector asked for.
    After(Duration),
}

/// For an answer of a gRPC collector.
pub(super) fn after_grpc(status: &Status) -> Again {
    let asked = retry_info(status.details());
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => after(asked),
        // Without RetryInfo it is a limit that the same request would break again.
        Code::ResourceExhausted if asked.is_some() => after(asked),
        _ => Again::Never,
    }
}

/// For an HTTP status, with the value of `Retry-After`.
pub(super) fn after_http(status: u16, retry_after: Option<&str>, now: SystemTime) -> Again {
    match status {
        429 | 502 | 503 | 504 => after(retry_after.and_then(|value| seconds_or_date(value, now))),
        _ => Again::Never,
    }
}

/// A wait of zero would be an endless loop at full speed.
fn after(asked: Option<Duration>) -> Again {
    match asked {
        Some(delay) if !delay.is_zero() => Again::After(delay),
        _ => Again::Backoff,
    }
}

/// RFC 9110 section 10.2.3.
fn seconds_or_date(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).ok(),
    }
}

/// The wait in the `google.rpc.RetryInfo` of a `google.rpc.Status`, where there is one.
fn retry_info(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let info = status.details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay.unwrap_or_default();
    // A negative wait is no wait.
    let seconds = u64::try_from(delay.seconds).unwrap_or(0);
    let nanos = u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999);
    Some(Duration::new(seconds, nanos))
}

/// `google.rpc.Status`, also the body of OTLP/HTTP's errors.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) details: Vec<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub(super) retry_delay: Option<ProtoDuration>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ProtoDuration {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The details of a status with a `RetryInfo`.
    pub(in crate::export) fn retry_details(seconds: i64, nanos: i32) -> bytes::Bytes {
        let info = RetryInfo { retry_delay: Some(ProtoDuration { seconds, nanos }) };
        let other = Any { type_url: "type.googleapis.com/google.rpc.Help".to_owned(), value: vec![1] };
        let info = Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: info.encode_to_vec(),
        };
        let status = RpcStatus { code: 8, message: String::new(), details: vec![other, info] };
        status.encode_to_vec().into()
    }

    #[test]
    fn only_the_tables_grpc_codes_are_sent_again() {
        for code in (0..=16).map(Code::from_i32) {
            let expected = match code {
                Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss => Again::Backoff,
                _ => Again::Never,
            };
            assert_eq!(after_grpc(&Status::new(code, "")), expected, "{code:?}");
        }
    }

    #[test]
    fn an_exhausted_resource_is_tried_again_only_with_retry_info() {
        let with = |details| Status::with_details(Code::ResourceExhausted, "", details);
        assert_eq!(after_grpc(&with(bytes::Bytes::new())), Again::Never);
        assert_eq!(after_grpc(&with(bytes::Bytes::from_static(b"\xff\xff\xff"))), Again::Never);
        assert_eq!(after_grpc(&with(retry_details(0, 0))), Again::Backoff);
        assert_eq!(after_grpc(&with(retry_details(2, 5))), Again::After(Duration::new(2, 5)));
    }

    #[test]
    fn a_retry_delay_is_kept_and_a_senseless_one_replaced() {
        let with = |seconds, nanos| {
            after_grpc(&Status::with_details(Code::Unavailable, "", retry_details(seconds, nanos)))
        };
        assert_eq!(with(7, 0), Again::After(Duration::from_secs(7)));
        assert_eq!(with(-7, -1), Again::Backoff);
        assert_eq!(with(i64::MAX, i32::MAX), Again::After(Duration::new(i64::MAX as u64, 999_999_999)));
        let refused = Status::with_details(Code::InvalidArgument, "", retry_details(1, 0));
        assert_eq!(after_grpc(&refused), Again::Never);
    }

    #[test]
    fn only_four_http_statuses_are_sent_again() {
        for status in 300..600 {
            let expected =
                if matches!(status, 429 | 502 | 503 | 504) { Again::Backoff } else { Again::Never };
            assert_eq!(after_http(status, None, SystemTime::now()), expected, "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let asked = |value| after_http(503, Some(value), now);
        assert_eq!(asked("120"), Again::After(Duration::from_secs(120)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Again::After(Duration::from_secs(7)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:00 GMT"), Again::Backoff, "the past");
        assert_eq!(asked("0"), Again::Backoff);
        assert_eq!(asked("soon"), Again::Backoff);
        assert_eq!(after_http(500, Some("1"), now), Again::Never);
    }

    #[test]
    fn waits_grow_to_their_bound_and_scatter() {
        let policy =
            Retry { first: Duration::from_secs(1), longest: Duration::from_secs(5), ..Retry::default() };
        let mut backoff = Backoff::new(policy);
        for full in [1, 2, 4, 5, 5] {
            let delay = backoff.delay();
            let full = Duration::from_secs(full);
            assert!(delay >= full / 2 && delay <= full, "{delay:?} of {full:?}");
        }
    }
}
