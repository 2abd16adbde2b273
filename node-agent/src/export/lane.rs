//! One signal on its way to one sink: batches, requests, attempts. Each lane has its own queue and task,
//! so that none waits for another's retries.

use super::batch::{self, LIMIT, Message, Request, Scope, pack};
use super::closing::Closing;
use super::failure::{Accepted, Failure};
use super::file::JsonFile;
use super::grpc::Grpc;
use super::http::Http;
use super::kind::Kind;
use super::metrics::{Aggregator, Recorded};
use super::queue::{self, Queue};
use super::retry::{Again, Backoff, Retry};
use super::stats::{Cause, Counters, LaneStats, Matter};
use super::{Shrink, json, now, proto};
use crate::resource::{Item, Resource, Signal};
use agentsight_genai::telemetry::Measurement;
use bytes::Bytes;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

pub(super) struct Lane {
    pub(super) kind: Kind,
    /// The endpoint or file, for people.
    pub(super) to: String,
    pub(super) source: Source,
    pub(super) destination: Destination,
    pub(super) scope: Scope,
    pub(super) retry: Retry,
    pub(super) shrink: Shrink,
    pub(super) counters: Counters,
}

/// What waits.
pub(super) enum Source {
    Items(Queue),
    Measurements { sums: Mutex<Aggregator>, interval: Duration },
}

/// Where it goes.
pub(super) enum Destination {
    Grpc(Grpc),
    Http(Http),
    File(JsonFile),
}

impl Destination {
    /// The largest request; a file takes any.
    fn limit(&self) -> usize {
        match self {
            Destination::Grpc(_) | Destination::Http(_) => LIMIT,
            Destination::File(_) => usize::MAX,
        }
    }

    fn encode(&self, message: &Message) -> Bytes {
        match self {
            Destination::Grpc(_) => message.encode().into(),
            Destination::Http(http) => http.encode(message),
            Destination::File(_) => json::encode(message).into(),
        }
    }

    async fn attempt(&self, body: Bytes) -> Result<Accepted, Failure> {
        match self {
            Destination::Grpc(grpc) => grpc.attempt(body).await,
            Destination::Http(http) => http.attempt(body).await,
            Destination::File(file) => file.write(body).await,
        }
    }
}

impl Lane {
    /// Takes an item of this lane's kind, or counts why not. Never waits.
    pub(super) fn take(&self, item: &Arc<Item>) {
        match (&self.source, &item.signal) {
            (Source::Items(queue), _) => match queue.push(item.clone(), queue::weight(item)) {
                Ok(()) => {}
                Err(Cause::QueueFull) => {
                    self.lose(Cause::QueueFull, 1, "the queue is full", "the collector is too slow or away");
                }
                Err(cause) => self.counters.dropped(cause, 1),
            },
            (Source::Measurements { sums, .. }, Signal::Measurement(measurement)) => {
                self.measure(sums, &item.resource, measurement);
            }
            (Source::Measurements { .. }, _) => {}
        }
    }

    fn measure(&self, sums: &Mutex<Aggregator>, resource: &Arc<Resource>, measurement: &Measurement) {
        let recorded =
            sums.lock().unwrap_or_else(PoisonError::into_inner).record(resource, measurement, now());
        match recorded {
            Recorded::Counted => {}
            Recorded::Overflowed => self.counters.overflowed(),
            Recorded::TooManyResources => self.counters.dropped(Cause::TooManyResources, 1),
            Recorded::Closed => self.counters.dropped(Cause::Unsent, 1),
            Recorded::Invalid => self.counters.dropped(Cause::Invalid, 1),
        }
    }

    /// Sends until the end has come and nothing waits any more, or the end is over.
    pub(super) async fn run(self: Arc<Self>, mut closing: Closing) {
        match &self.source {
            Source::Items(queue) => {
                while let Some(items) = queue.next(&mut closing).await {
                    let requests = self.requests(&items);
                    // Not held twice while a collector is away.
                    drop(items);
                    for request in requests {
                        self.deliver(request, &mut closing).await;
                    }
                    queue.done();
                    if closing.left().is_some_and(|left| left.is_zero()) {
                        break;
                    }
                }
            }
            Source::Measurements { sums, interval } => loop {
                tokio::select! {
                    () = tokio::time::sleep(*interval) => {}
                    () = closing.begun() => {}
                }
                let last = closing.has_begun();
                let points = {
                    let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
                    let points = sums.collect(now());
                    if last {
                        sums.close();
                    }
                    points
                };
                let (requests, too_large) = pack(points, self.destination.limit(), &self.scope);
                self.count_too_large(too_large);
                for request in requests {
                    self.deliver(request, &mut closing).await;
                }
                if last {
                    break;
                }
            },
        }
        self.close();
    }

    /// Takes nothing any more; what is still here counts as given up.
    pub(super) fn close(&self) {
        match &self.source {
            Source::Items(queue) => self.counters.dropped(Cause::Unsent, queue.close() as u64),
            Source::Measurements { sums, .. } => {
                sums.lock().unwrap_or_else(PoisonError::into_inner).close();
            }
        }
    }

    pub(super) fn stats(&self) -> LaneStats {
        let waiting = match &self.source {
            Source::Items(queue) => queue.waiting(),
            Source::Measurements { .. } => (0, 0),
        };
        self.counters.snapshot(&self.to, self.kind, waiting)
    }

    fn requests(&self, items: &[Arc<Item>]) -> Vec<Request> {
        let limit = self.destination.limit();
        let (requests, too_large) = if self.kind == Kind::Traces {
            let spans =
                items.iter().filter_map(|item| Some((item.resource.clone(), self.span(item, limit)?)));
            pack::<Span>(spans, limit, &self.scope)
        } else {
            let logs = items.iter().filter_map(|item| Some((item.resource.clone(), proto::log(item)?)));
            pack::<LogRecord>(logs, limit, &self.scope)
        };
        self.count_too_large(too_large);
        requests
    }

    /// The item's span, made smaller where it would fit no request.
    fn span(&self, item: &Item, limit: usize) -> Option<Span> {
        let made = proto::span(item)?;
        if limit == usize::MAX {
            return Some(made);
        }
        let room = batch::room(&item.resource, limit, &self.scope);
        if made.encoded_len() <= room {
            return Some(made);
        }
        let mut smaller = item.clone();
        let Signal::Span { span, .. } = &mut smaller.signal else { return Some(made) };
        // One that stays too large is counted where requests are packed.
        if (self.shrink)(span, room) { proto::span(&smaller) } else { Some(made) }
    }

    fn count_too_large(&self, count: u64) {
        if count > 0 {
            let advice = "capture less content: a request must stay below 4 MiB";
            self.lose(Cause::TooLarge, count, "larger than a request may be", advice);
        }
    }

    async fn deliver(&self, request: Request, closing: &mut Closing) {
        let Request { message, count } = request;
        let body = self.destination.encode(&message);
        drop(message);
        let began = Instant::now();
        let mut backoff = Backoff::new(self.retry);
        loop {
            let attempt = tokio::select! {
                biased;
                () = over(closing.clone()) => return self.unsent(count),
                attempt = self.destination.attempt(body.clone()) => attempt,
            };
            let failure = match attempt {
                Ok(accepted) => return self.accepted(&accepted, count),
                Err(failure) => failure,
            };
            self.counters.failed(&failure.text);
            let patience = self.retry.give_up_after.saturating_sub(began.elapsed());
            let delay = match failure.again {
                Again::Never => return self.lose(failure.cause, count, &failure.text, failure.advice),
                _ if patience.is_zero() => {
                    return self.lose(Cause::RetriesExhausted, count, &failure.text, failure.advice);
                }
                Again::Backoff => backoff.delay(),
                Again::After(delay) => delay,
            };
            self.trying(&failure, count);
            let until = Instant::now() + delay.min(patience);
            if !closing.has_begun() {
                let ended = tokio::select! {
                    () = tokio::time::sleep_until(until) => false,
                    () = closing.begun() => true,
                };
                if ended {
                    // Anew, so that the little time left has some attempts.
                    backoff = Backoff::new(self.retry);
                }
                if !ended || failure.again == Again::Backoff {
                    self.counters.retried();
                    continue;
                }
            }
            if closing.left().is_some_and(|left| until >= Instant::now() + left) {
                // No further attempt before the end: why wait for it.
                return self.unsent(count);
            }
            tokio::time::sleep_until(until).await;
            self.counters.retried();
        }
    }

    fn accepted(&self, accepted: &Accepted, count: u64) {
        let rejected = accepted.rejected.min(count);
        self.counters.sent(count - rejected);
        self.counters.dropped(Cause::Rejected, rejected);
        if self.counters.succeeded() {
            tracing::info!(to = %self.to, signal = %self.kind, "export works again");
        }
        if (rejected > 0 || !accepted.message.is_empty())
            && let Some(hidden) = self.counters.may_say(Matter::Rejecting)
        {
            tracing::warn!(
                to = %self.to, signal = %self.kind, rejected, said = %accepted.message, hidden,
                "the collector rejected a part of a request, or warns of it; see its log"
            );
        }
    }

    fn unsent(&self, count: u64) {
        self.counters.dropped(Cause::Unsent, count);
    }

    fn trying(&self, failure: &Failure, count: u64) {
        if let Some(hidden) = self.counters.may_say(Matter::Trying) {
            tracing::warn!(
                to = %self.to, signal = %self.kind, error = %failure.text, count, hidden,
                "cannot export now and will try again; {}", failure.advice
            );
        }
    }

    fn lose(&self, cause: Cause, count: u64, error: &str, advice: &str) {
        self.counters.dropped(cause, count);
        if let Some(hidden) = self.counters.may_say(Matter::Losing) {
            tracing::error!(
                to = %self.to, signal = %self.kind, cause = cause.name(), error, count, hidden,
                "telemetry is lost; {advice}"
            );
        }
    }
}

async fn over(mut closing: Closing) {
    closing.over().await;
}
