//! Measurements put together to data points, as the SDK specification's default aggregations do.
//!
//! Everything is bounded: attribute sets a metric, sets in all, and resources. A set too many adds to its
//! metric's `otel.metric.overflow` point, so that totals stay right.

use super::batch::Leaf as _;
use super::config::Temporality;
use super::identity::{AttributesKey, ResourceKey};
use super::proto;
use crate::resource::Resource;
use agentsight_genai::telemetry::{Amount, Bounds, Instrument, Measurement, Metric, Value};
use agentsight_genai::time::Timestamp;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Histogram, HistogramDataPoint, Metric as ProtoMetric, NumberDataPoint, Sum,
    metric, number_data_point,
};
use prost::Message as _;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Attribute sets of one metric of one resource, the overflow's included: the SDK specification's default.
const SETS: usize = 2000;
/// Attribute sets in all: about 30 MiB.
const ALL_SETS: usize = 50_000;
/// Resources with metrics at one time.
const RESOURCES: usize = 4096;
/// A resource that made nothing for so long is forgotten; should it come back it starts again from zero,
/// which the data points' start time says.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// Data points of one metric are handed on in pieces of about this size, encoded, so that requests can be
/// filled well.
const PIECE: usize = 128 * 1024;

/// What has been measured and not yet been forgotten.
pub(super) struct Aggregator {
    temporality: Temporality,
    resources: HashMap<ResourceKey, Streams>,
    sets: usize,
    /// Of deltas: when the last ones were handed on.
    since: Timestamp,
    closed: bool,
    limits: Limits,
}

#[derive(Clone, Copy)]
struct Limits {
    sets: usize,
    all_sets: usize,
    resources: usize,
}

struct Streams {
    start: Timestamp,
    seen: Timestamp,
    metrics: HashMap<Metric, HashMap<AttributesKey, Point>>,
}

enum Point {
    Histogram { counts: Vec<u64>, count: u64, sum: f64, min: f64, max: f64 },
    Int(i64),
    Double(f64),
}

/// What became of a measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recorded {
    Counted,
    /// In its metric's overflow point.
    Overflowed,
    TooManyResources,
    /// Nothing is collected any more.
    Closed,
    /// Not a number, a counter that goes back, or buckets of another metric.
    Invalid,
}

impl Aggregator {
    pub(super) fn new(temporality: Temporality, now: Timestamp) -> Self {
        let limits = Limits { sets: SETS, all_sets: ALL_SETS, resources: RESOURCES };
        Aggregator { temporality, resources: HashMap::new(), sets: 0, since: now, closed: false, limits }
    }

    pub(super) fn record(
        &mut self,
        resource: &Arc<Resource>,
        measurement: &Measurement,
        now: Timestamp,
    ) -> Recorded {
        if self.closed {
            return Recorded::Closed;
        }
        if !is_valid(measurement) {
            return Recorded::Invalid;
        }
        let full = self.resources.len() >= self.limits.resources;
        let key = ResourceKey(resource.clone());
        if full && !self.resources.contains_key(&key) {
            return Recorded::TooManyResources;
        }
        let streams = self.resources.entry(key).or_insert_with(|| Streams {
            start: now,
            seen: now,
            metrics: HashMap::new(),
        });
        streams.seen = now;
        let points = streams.metrics.entry(measurement.metric).or_default();
        let mut attributes = AttributesKey::new(measurement.attributes.clone());
        let mut recorded = Recorded::Counted;
        if !points.contains_key(&attributes) {
            if points.len() + 1 >= self.limits.sets || self.sets >= self.limits.all_sets {
                recorded = Recorded::Overflowed;
                attributes = AttributesKey::new(vec![("otel.metric.overflow".into(), Value::Bool(true))]);
            }
            if !points.contains_key(&attributes) {
                self.sets += 1;
            }
        }
        points.entry(attributes).or_insert_with(|| Point::new(measurement)).add(measurement);
        recorded
    }

    /// The data points to export now. Cumulative ones stay and go on; deltas begin again.
    pub(super) fn collect(&mut self, now: Timestamp) -> Vec<(Arc<Resource>, ProtoMetric)> {
        let mut collected = Vec::new();
        for (resource, streams) in &self.resources {
            let start = match self.temporality {
                Temporality::Cumulative => streams.start,
                Temporality::Delta => self.since,
            };
            // The same order each time, for people who compare files.
            let mut metrics: Vec<_> = streams.metrics.iter().collect();
            metrics.sort_by_key(|(metric, _)| metric.name);
            for (metric, points) in metrics {
                self.pieces(metric, points, (start, now), &mut |piece| {
                    collected.push((resource.0.clone(), piece));
                });
            }
        }
        match self.temporality {
            Temporality::Cumulative => self.resources.retain(|_, streams| now - streams.seen < IDLE),
            Temporality::Delta => self.resources.clear(),
        }
        let sets = |streams: &Streams| streams.metrics.values().map(HashMap::len).sum::<usize>();
        self.sets = self.resources.values().map(sets).sum();
        self.since = now;
        collected
    }

    /// Measures nothing any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.resources.clear();
    }

    fn pieces(
        &self,
        metric: &Metric,
        points: &HashMap<AttributesKey, Point>,
        times: (Timestamp, Timestamp),
        piece: &mut dyn FnMut(ProtoMetric),
    ) {
        let mut open = self.empty(metric);
        let mut size = 0;
        for (attributes, point) in points {
            size += match &mut open.data {
                Some(metric::Data::Histogram(histogram)) => {
                    let Some(point) = histogram_point(metric, attributes, point, times) else { continue };
                    let size = point.encoded_len();
                    histogram.data_points.push(point);
                    size
                }
                Some(metric::Data::Sum(sum)) => {
                    let Some(point) = sum_point(attributes, point, times) else { continue };
                    let size = point.encoded_len();
                    sum.data_points.push(point);
                    size
                }
                _ => 0,
            };
            if size >= PIECE {
                piece(std::mem::replace(&mut open, self.empty(metric)));
                size = 0;
            }
        }
        if open.count() > 0 {
            piece(open);
        }
    }

    fn empty(&self, metric: &Metric) -> ProtoMetric {
        let aggregation_temporality = match self.temporality {
            Temporality::Cumulative => AggregationTemporality::Cumulative,
            Temporality::Delta => AggregationTemporality::Delta,
        } as i32;
        ProtoMetric {
            name: metric.name.to_owned(),
            description: metric.description.to_owned(),
            unit: metric.unit.to_owned(),
            metadata: Vec::new(),
            data: Some(match metric.instrument {
                Instrument::Histogram(_) => {
                    metric::Data::Histogram(Histogram { data_points: Vec::new(), aggregation_temporality })
                }
                Instrument::Counter => metric::Data::Sum(Sum {
                    data_points: Vec::new(),
                    aggregation_temporality,
                    is_monotonic: true,
                }),
            }),
        }
    }
}

fn is_valid(measurement: &Measurement) -> bool {
    match (&measurement.metric.instrument, &measurement.amount) {
        (Instrument::Histogram(_), Amount::Double(value)) => value.is_finite(),
        (Instrument::Histogram(_), Amount::Int(_)) => true,
        (Instrument::Histogram(Bounds(bounds)), Amount::Buckets { counts, sum, min, max }) => {
            counts.len() == bounds.len() + 1 && sum.is_finite() && min.is_finite() && max.is_finite()
        }
        (Instrument::Counter, Amount::Int(value)) => *value >= 0,
        (Instrument::Counter, Amount::Double(value)) => value.is_finite() && *value >= 0.0,
        (Instrument::Counter, Amount::Buckets { .. }) => false,
    }
}

impl Point {
    /// Empty, of the kind that the measurement asks for.
    fn new(measurement: &Measurement) -> Point {
        match (&measurement.metric.instrument, &measurement.amount) {
            (Instrument::Histogram(Bounds(bounds)), _) => Point::Histogram {
                counts: vec![0; bounds.len() + 1],
                count: 0,
                sum: 0.0,
                min: f64::INFINITY,
                max: f64::NEG_INFINITY,
            },
            (Instrument::Counter, Amount::Double(_)) => Point::Double(0.0),
            (Instrument::Counter, _) => Point::Int(0),
        }
    }

    fn add(&mut self, measurement: &Measurement) {
        let Instrument::Histogram(Bounds(bounds)) = measurement.metric.instrument else {
            return match (self, &measurement.amount) {
                (Point::Int(total), Amount::Int(more)) => *total = total.saturating_add(*more),
                (Point::Double(total), Amount::Double(more)) => *total += more,
                (Point::Double(total), Amount::Int(more)) => *total += *more as f64,
                (point @ Point::Int(_), Amount::Double(more)) => {
                    if let Point::Int(total) = *point {
                        *point = Point::Double(total as f64 + more);
                    }
                }
                _ => {}
            };
        };
        let Point::Histogram { counts, count, sum, min, max } = self else { return };
        let mut one = |value: f64| {
            counts[bounds.partition_point(|bound| *bound < value)] += 1;
            *count += 1;
            *sum += value;
            *min = min.min(value);
            *max = max.max(value);
        };
        match &measurement.amount {
            Amount::Double(value) => one(*value),
            Amount::Int(value) => one(*value as f64),
            Amount::Buckets { counts: more, sum: more_sum, min: lowest, max: highest } => {
                let added: u64 = more.iter().sum();
                if added == 0 {
                    return;
                }
                counts.iter_mut().zip(more).for_each(|(bucket, more)| *bucket += more);
                *count += added;
                *sum += more_sum;
                *min = min.min(*lowest);
                *max = max.max(*highest);
            }
        }
    }
}

fn histogram_point(
    metric: &Metric,
    attributes: &AttributesKey,
    point: &Point,
    (start, now): (Timestamp, Timestamp),
) -> Option<HistogramDataPoint> {
    let Instrument::Histogram(Bounds(bounds)) = metric.instrument else { return None };
    let Point::Histogram { counts, count, sum, min, max } = point else { return None };
    Some(HistogramDataPoint {
        attributes: proto::attributes(attributes.attributes()),
        start_time_unix_nano: start.0,
        time_unix_nano: now.0,
        count: *count,
        sum: Some(*sum),
        bucket_counts: counts.clone(),
        explicit_bounds: bounds.to_vec(),
        min: (*count > 0).then_some(*min),
        max: (*count > 0).then_some(*max),
        ..HistogramDataPoint::default()
    })
}

fn sum_point(
    attributes: &AttributesKey,
    point: &Point,
    (start, now): (Timestamp, Timestamp),
) -> Option<NumberDataPoint> {
    let value = match point {
        Point::Int(total) => number_data_point::Value::AsInt(*total),
        Point::Double(total) => number_data_point::Value::AsDouble(*total),
        Point::Histogram { .. } => return None,
    };
    Some(NumberDataPoint {
        attributes: proto::attributes(attributes.attributes()),
        start_time_unix_nano: start.0,
        time_unix_nano: now.0,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{COUNTER, TOKENS, measure, resource};
    use super::*;

    const START: Timestamp = Timestamp(100);

    fn aggregator(temporality: Temporality) -> Aggregator {
        Aggregator::new(temporality, START)
    }

    fn histograms(collected: &[(Arc<Resource>, ProtoMetric)]) -> Vec<&HistogramDataPoint> {
        let points = collected.iter().filter_map(|(_, metric)| match &metric.data {
            Some(metric::Data::Histogram(histogram)) => Some(&histogram.data_points),
            _ => None,
        });
        points.flatten().collect()
    }

    fn sums(collected: &[(Arc<Resource>, ProtoMetric)]) -> Vec<number_data_point::Value> {
        let points = collected.iter().filter_map(|(_, metric)| match &metric.data {
            Some(metric::Data::Sum(sum)) => Some(&sum.data_points),
            _ => None,
        });
        points.flatten().filter_map(|point| point.value).collect()
    }

    #[test]
    fn measurements_of_one_set_become_one_point() {
        let mut all = aggregator(Temporality::Cumulative);
        let a = resource("a");
        for value in [1, 4, 5, 70_000_000] {
            let recorded = all.record(&a, &measure(TOKENS, "x", Amount::Int(value)), Timestamp(150));
            assert_eq!(recorded, Recorded::Counted);
        }
        let collected = all.collect(Timestamp(200));
        let [point] = histograms(&collected)[..] else { panic!("one point") };
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (150, 200));
        assert_eq!((point.count, point.sum), (4, Some(70_000_010.0)));
        assert_eq!((point.min, point.max), (Some(1.0), Some(70_000_000.0)));
        assert_eq!(point.bucket_counts[..3], [1, 1, 1], "a bound belongs to the bucket below it");
        assert_eq!(point.bucket_counts.last(), Some(&1));
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    }

    #[test]
    fn cumulative_points_go_on_and_deltas_begin_again() {
        let a = resource("a");
        let one = measure(COUNTER, "x", Amount::Int(1));
        let mut total = aggregator(Temporality::Cumulative);
        let mut delta = aggregator(Temporality::Delta);
        for now in [Timestamp(200), Timestamp(300)] {
            total.record(&a, &one, now);
            delta.record(&a, &one, now);
            let times = |collected: Vec<(Arc<Resource>, ProtoMetric)>| match &collected[0].1.data {
                Some(metric::Data::Sum(sum)) => {
                    let point = &sum.data_points[0];
                    (point.start_time_unix_nano, sum.aggregation_temporality, point.value)
                }
                _ => panic!("a sum"),
            };
            let added = i64::try_from(now.0 / 100 - 1).unwrap();
            let value = |value| Some(number_data_point::Value::AsInt(value));
            assert_eq!(times(total.collect(now)), (200, 2, value(added)));
            assert_eq!(times(delta.collect(now)), (now.0 - 100, 1, value(1)));
        }
        assert!(delta.collect(Timestamp(400)).is_empty());
        assert_eq!(total.collect(Timestamp(400)).len(), 1);
    }

    #[test]
    fn sorted_values_are_added_bucket_by_bucket() {
        let mut all = aggregator(Temporality::Cumulative);
        let mut counts = vec![0; 15];
        counts[2] = 3;
        let amount = Amount::Buckets { counts, sum: 30.0, min: 9.0, max: 12.0 };
        all.record(&resource("a"), &measure(TOKENS, "x", amount), START);
        let empty = Amount::Buckets { counts: vec![0; 15], sum: 0.0, min: 0.0, max: 0.0 };
        all.record(&resource("a"), &measure(TOKENS, "x", empty), START);
        let collected = all.collect(Timestamp(200));
        let point = histograms(&collected)[0];
        assert_eq!((point.count, point.sum, point.min, point.max), (3, Some(30.0), Some(9.0), Some(12.0)));
        assert_eq!(point.bucket_counts[2], 3);
    }

    #[test]
    fn a_measurement_that_makes_no_sense_is_refused() {
        let mut all = aggregator(Temporality::Cumulative);
        for (metric, amount) in [
            (TOKENS, Amount::Double(f64::NAN)),
            (TOKENS, Amount::Buckets { counts: vec![1], sum: 1.0, min: 1.0, max: 1.0 }),
            (COUNTER, Amount::Int(-1)),
            (COUNTER, Amount::Double(-0.5)),
        ] {
            let recorded = all.record(&resource("a"), &measure(metric, "x", amount), START);
            assert_eq!(recorded, Recorded::Invalid);
        }
        assert!(all.collect(Timestamp(200)).is_empty());
    }

    #[test]
    fn a_set_too_many_adds_to_the_overflow() {
        let mut all = aggregator(Temporality::Cumulative);
        all.limits.sets = 3;
        let a = resource("a");
        let record =
            |all: &mut Aggregator, set: &str| all.record(&a, &measure(COUNTER, set, Amount::Int(1)), START);
        assert_eq!(record(&mut all, "1"), Recorded::Counted);
        assert_eq!(record(&mut all, "2"), Recorded::Counted);
        assert_eq!(record(&mut all, "3"), Recorded::Overflowed);
        assert_eq!(record(&mut all, "4"), Recorded::Overflowed);
        assert_eq!(record(&mut all, "1"), Recorded::Counted);
        let collected = all.collect(Timestamp(200));
        let Some(metric::Data::Sum(sum)) = &collected[0].1.data else { panic!("a sum") };
        assert_eq!(sum.data_points.len(), 3);
        let overflow = sum.data_points.iter().find(|point| point.attributes[0].key == "otel.metric.overflow");
        assert_eq!(overflow.unwrap().value, Some(number_data_point::Value::AsInt(2)));
    }

    #[test]
    fn memory_is_bounded_over_all_resources() {
        let mut all = aggregator(Temporality::Cumulative);
        all.limits = Limits { sets: 100, all_sets: 2, resources: 2 };
        let one = |set| measure(COUNTER, set, Amount::Int(1));
        assert_eq!(all.record(&resource("a"), &one("1"), START), Recorded::Counted);
        assert_eq!(all.record(&resource("b"), &one("1"), START), Recorded::Counted);
        assert_eq!(all.record(&resource("b"), &one("2"), START), Recorded::Overflowed);
        assert_eq!(all.record(&resource("c"), &one("1"), START), Recorded::TooManyResources);
        assert_eq!(all.record(&resource("a"), &one("1"), START), Recorded::Counted, "known ones go on");
    }

    #[test]
    fn a_resource_not_seen_for_long_is_exported_once_more_and_forgotten() {
        let mut all = aggregator(Temporality::Cumulative);
        let idle = IDLE.as_nanos() as u64;
        let one = measure(COUNTER, "x", Amount::Int(1));
        all.record(&resource("a"), &one, START);
        assert_eq!(all.collect(Timestamp(START.0 + idle - 1)).len(), 1);
        assert_eq!(all.collect(Timestamp(START.0 + idle)).len(), 1);
        assert!(all.collect(Timestamp(START.0 + idle + 1)).is_empty());
        assert_eq!(all.sets, 0);
        all.record(&resource("a"), &one, Timestamp(START.0 + 2 * idle));
        assert_eq!(
            sums(&all.collect(Timestamp(START.0 + 2 * idle + 1))),
            [number_data_point::Value::AsInt(1)]
        );
    }

    #[test]
    fn many_points_come_in_pieces() {
        let mut all = aggregator(Temporality::Cumulative);
        let a = resource("a");
        for i in 0..1500 {
            all.record(&a, &measure(TOKENS, &format!("{i}"), Amount::Int(i)), START);
        }
        let collected = all.collect(Timestamp(200));
        assert!(collected.len() > 1);
        assert!(collected.iter().all(|(_, metric)| metric.encoded_len() < 2 * PIECE));
        assert_eq!(histograms(&collected).len(), 1500);
    }
}
