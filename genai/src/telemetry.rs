//! Telemetry as plain data, between what makes it ([`crate::semconv`]) and what sends it.
//!
//! The shapes follow the OpenTelemetry data model; nothing here knows OTLP, a clock or a socket.

use crate::time::Timestamp;
use std::borrow::Cow;

/// An attribute's name: static for every name that a convention fixes.
pub type Key = Cow<'static, str>;

/// Attributes in the order in which they were set; no name stands twice.
pub type Attributes = Vec<(Key, Value)>;

/// What an attribute may hold.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// UTF-8 text; structured content travels as JSON text.
    Str(Cow<'static, str>),
    /// A signed integer.
    Int(i64),
    /// A floating point number.
    Double(f64),
    /// A truth value.
    Bool(bool),
    /// An array of text.
    Strs(Vec<Cow<'static, str>>),
}

/// 16 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceId(pub [u8; 16]);

/// 8 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpanId(pub [u8; 8]);

/// The span that another one hangs on, as W3C Trace Context tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpanContext {
    /// The trace that both belong to.
    pub trace_id: TraceId,
    /// The parent's own id.
    pub span_id: SpanId,
    /// The flags byte of `traceparent`; bit 0 says that the caller samples.
    pub flags: u8,
    /// The `tracestate` header, as it was; empty where there was none.
    pub state: String,
}

/// OpenTelemetry's span kinds that AgentSight makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpanKind {
    /// A request to a remote service.
    Client,
    /// Work inside one process.
    Internal,
}

/// A span's status. There is no `Ok`: the conventions leave success unset.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Status {
    /// Nothing went wrong as far as the wire tells.
    #[default]
    Unset,
    /// The operation failed; the text never holds content.
    Error(String),
}

/// One finished span without its ids, which the sender gives it.
#[derive(Clone, PartialEq, Debug)]
pub struct Span {
    /// Low-cardinality name, by the conventions.
    pub name: String,
    /// Client or internal.
    pub kind: SpanKind,
    /// From a `traceparent` on the wire, else none.
    pub parent: Option<SpanContext>,
    /// When the first byte of the request was written.
    pub start: Timestamp,
    /// When the last byte of the response was read.
    pub end: Timestamp,
    /// Attributes under the names of the chosen convention.
    pub attributes: Attributes,
    /// Error or unset.
    pub status: Status,
    /// Events that belong to the span and travel as log records with its ids.
    pub events: Vec<Event>,
}

/// A named event at a point in time, sent as an OTLP log record.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// The event's name: a fixed, low-cardinality one.
    pub name: Key,
    /// When it happened.
    pub at: Timestamp,
    /// OpenTelemetry's severity number, 1 to 24.
    pub severity: u8,
    /// Attributes of the event.
    pub attributes: Attributes,
}

/// A metric's identity; every measurement of one metric carries the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Metric {
    /// Name by the conventions.
    pub name: &'static str,
    /// Unit by UCUM.
    pub unit: &'static str,
    /// One sentence for people.
    pub description: &'static str,
    /// How measurements are put together.
    pub instrument: Instrument,
}

/// How the measurements of a metric are put together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Instrument {
    /// A histogram with these upper bounds; the last bucket is open. Integer bounds are exact in `f64`.
    Histogram(Bounds),
    /// A monotonic sum.
    Counter,
}

/// Bucket boundaries, ascending.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bounds(pub &'static [f64]);

impl Eq for Bounds {}

impl std::hash::Hash for Bounds {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for bound in self.0 {
            bound.to_bits().hash(state);
        }
    }
}

/// What one call adds to one metric.
#[derive(Clone, PartialEq, Debug)]
pub struct Measurement {
    /// The metric that it adds to.
    pub metric: Metric,
    /// The stream within the metric.
    pub attributes: Attributes,
    /// What is added.
    pub amount: Amount,
}

/// What a measurement adds.
#[derive(Clone, PartialEq, Debug)]
pub enum Amount {
    /// One value, of a histogram of floating point numbers.
    Double(f64),
    /// One value, of a counter or a histogram of integers.
    Int(i64),
    /// Many values already sorted into the metric's buckets: as many counts as bounds and one more.
    Buckets {
        /// Values per bucket.
        counts: Vec<u64>,
        /// Their sum.
        sum: f64,
        /// The smallest of them.
        min: f64,
        /// The largest of them.
        max: f64,
    },
}
