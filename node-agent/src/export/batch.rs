//! Export requests: items grouped by their resource, each request below a size in bytes.

use super::identity::ResourceKey;
use super::proto;
use crate::resource::Resource;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics, metric};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use std::collections::HashMap;
use std::sync::Arc;

/// The largest request, encoded and before compression. Collectors refuse gRPC messages above 4 MiB by
/// default, for good.
pub(super) const LIMIT: usize = 3584 * 1024;

/// What names us in each request.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) scope: InstrumentationScope,
    pub(super) schema_url: String,
}

/// One export request.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Message {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Message::Traces(request) => request.encode_to_vec(),
            Message::Metrics(request) => request.encode_to_vec(),
            Message::Logs(request) => request.encode_to_vec(),
        }
    }
}

/// A request and how many spans, log records or data points it has.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) message: Message,
    pub(super) count: u64,
}

/// What is packed into requests.
pub(super) trait Leaf: prost::Message + Sized {
    fn count(&self) -> u64;
    fn message(groups: Vec<(Arc<Resource>, Vec<Self>)>, scope: &Scope) -> Message;
}

/// Packs in order. The second number counts what is too large to be sent at all.
pub(super) fn pack<L: Leaf>(
    leaves: impl IntoIterator<Item = (Arc<Resource>, L)>,
    limit: usize,
    scope: &Scope,
) -> (Vec<Request>, u64) {
    let mut requests = Vec::new();
    let mut open = Open::default();
    let mut too_large = 0;
    for (resource, leaf) in leaves {
        let size = leaf.encoded_len() + FIELD;
        let key = ResourceKey(resource);
        let first = |open: &Open<L>| match open.places.get(&key) {
            Some(_) => 0,
            None => frame(&key.0, scope),
        };
        let mut more = size + first(&open);
        if open.size + more > limit && open.count > 0 {
            requests.push(open.finish(scope));
            open = Open::default();
            more = size + first(&open);
        }
        if more > limit {
            too_large += leaf.count();
            continue;
        }
        open.size += more;
        open.count += leaf.count();
        let groups = &mut open.groups;
        let place = *open.places.entry(key).or_insert_with_key(|key| {
            groups.push((key.0.clone(), Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(leaf);
    }
    if open.count > 0 {
        requests.push(open.finish(scope));
    }
    (requests, too_large)
}

/// How much room a leaf has in a request of its own.
pub(super) fn room(resource: &Resource, limit: usize, scope: &Scope) -> usize {
    limit.saturating_sub(frame(resource, scope) + FIELD)
}

/// A field's tag and length at most: lengths below 2 MiB take three bytes, below 256 MiB four.
const FIELD: usize = 6;

/// What a resource and its scope take around their leaves.
fn frame(resource: &Resource, scope: &Scope) -> usize {
    let own = proto::resource(resource).encoded_len();
    own + scope.scope.encoded_len() + 2 * scope.schema_url.len() + 6 * FIELD
}

struct Open<L> {
    groups: Vec<(Arc<Resource>, Vec<L>)>,
    places: HashMap<ResourceKey, usize>,
    size: usize,
    count: u64,
}

impl<L> Default for Open<L> {
    fn default() -> Self {
        Open { groups: Vec::new(), places: HashMap::new(), size: 0, count: 0 }
    }
}

impl<L: Leaf> Open<L> {
    fn finish(self, scope: &Scope) -> Request {
        Request { message: L::message(self.groups, scope), count: self.count }
    }
}

impl Leaf for Span {
    fn count(&self) -> u64 {
        1
    }

    fn message(groups: Vec<(Arc<Resource>, Vec<Self>)>, scope: &Scope) -> Message {
        let one = |(resource, spans): (Arc<Resource>, _)| ResourceSpans {
            resource: Some(proto::resource(&resource)),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope.scope.clone()),
                spans,
                schema_url: scope.schema_url.clone(),
            }],
            schema_url: scope.schema_url.clone(),
        };
        Message::Traces(ExportTraceServiceRequest { resource_spans: groups.into_iter().map(one).collect() })
    }
}

impl Leaf for LogRecord {
    fn count(&self) -> u64 {
        1
    }

    fn message(groups: Vec<(Arc<Resource>, Vec<Self>)>, scope: &Scope) -> Message {
        let one = |(resource, log_records): (Arc<Resource>, _)| ResourceLogs {
            resource: Some(proto::resource(&resource)),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope.scope.clone()),
                log_records,
                schema_url: scope.schema_url.clone(),
            }],
            schema_url: scope.schema_url.clone(),
        };
        Message::Logs(ExportLogsServiceRequest { resource_logs: groups.into_iter().map(one).collect() })
    }
}

impl Leaf for Metric {
    fn count(&self) -> u64 {
        let points = match &self.data {
            Some(metric::Data::Histogram(histogram)) => histogram.data_points.len(),
            Some(metric::Data::Sum(sum)) => sum.data_points.len(),
            _ => 0,
        };
        points as u64
    }

    fn message(groups: Vec<(Arc<Resource>, Vec<Self>)>, scope: &Scope) -> Message {
        let one = |(resource, metrics): (Arc<Resource>, _)| ResourceMetrics {
            resource: Some(proto::resource(&resource)),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope.scope.clone()),
                metrics,
                schema_url: scope.schema_url.clone(),
            }],
            schema_url: scope.schema_url.clone(),
        };
        Message::Metrics(ExportMetricsServiceRequest {
            resource_metrics: groups.into_iter().map(one).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{resource, scope, span};
    use super::*;

    fn leaf(resource: &Arc<Resource>, name: &str) -> (Arc<Resource>, Span) {
        (resource.clone(), proto::span(&span(resource, 1, name)).unwrap())
    }

    fn groups(request: &Request) -> Vec<usize> {
        let Message::Traces(traces) = &request.message else { panic!("not traces") };
        traces.resource_spans.iter().map(|group| group.scope_spans[0].spans.len()).collect()
    }

    #[test]
    fn equal_resources_are_one_group() {
        let (a, b, again) = (resource("a"), resource("b"), resource("a"));
        let leaves = [leaf(&a, "1"), leaf(&b, "2"), leaf(&again, "3"), leaf(&a, "4")];
        let (requests, too_large) = pack(leaves, LIMIT, &scope());
        assert_eq!((requests.len(), too_large), (1, 0));
        assert_eq!(groups(&requests[0]), [3, 1]);
        assert_eq!(requests[0].count, 4);
    }

    #[test]
    fn no_request_is_above_the_limit_and_nothing_is_lost() {
        let resources: Vec<_> = ["a", "b", "c"].map(resource).into();
        let leaves: Vec<_> = (0..200).map(|i| leaf(&resources[i % 3], &"x".repeat(i * 7 % 400))).collect();
        for limit in [1000, 1500, 5000] {
            let (requests, too_large) = pack(leaves.clone(), limit, &scope());
            assert!(requests.iter().all(|request| request.message.encode().len() <= limit));
            assert_eq!(requests.iter().map(|request| request.count).sum::<u64>() + too_large, 200);
            assert_eq!(too_large, 0);
        }
    }

    #[test]
    fn one_that_fits_no_request_is_counted() {
        let a = resource("a");
        let leaves = [leaf(&a, "1"), leaf(&a, &"x".repeat(1000)), leaf(&a, "2")];
        let (requests, too_large) = pack(leaves, 700, &scope());
        assert_eq!(too_large, 1);
        assert_eq!(requests.iter().map(|request| request.count).sum::<u64>(), 2);
    }

    #[test]
    fn what_has_exactly_the_room_fits() {
        let a = resource("a");
        let mut leaf = leaf(&a, "");
        let room = room(&a, 1000, &scope());
        while leaf.1.encoded_len() < room {
            leaf.1.name.push('x');
        }
        assert_eq!(leaf.1.encoded_len(), room);
        let (requests, too_large) = pack([leaf], 1000, &scope());
        assert_eq!((requests.len(), too_large), (1, 0));
        assert!(requests[0].message.encode().len() <= 1000);
    }
}
