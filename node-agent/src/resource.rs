//! Who made the telemetry: one OpenTelemetry resource for each traced program or container.

use agentsight_genai::telemetry::{Attributes, Event, Measurement, Span, SpanContext, SpanId, TraceId};
use std::sync::Arc;

/// The attributes of one resource, shared by everything that it made.
#[derive(Clone, PartialEq, Debug)]
pub struct Resource {
    /// `service.name` and all that is known besides.
    pub attributes: Attributes,
}

/// A piece of telemetry on its way out, with the resource that made it.
#[derive(Clone, Debug)]
pub struct Item {
    /// Who made it.
    pub resource: Arc<Resource>,
    /// What it is.
    pub signal: Signal,
}

/// What can be sent.
#[derive(Clone, Debug)]
pub enum Signal {
    /// A finished span with its identity; `span.parent` may differ from `parent` where none was on the wire.
    Span {
        /// Its trace.
        trace_id: TraceId,
        /// Its id.
        span_id: SpanId,
        /// The span that it hangs on.
        parent: Option<SpanContext>,
        /// What happened.
        span: Box<Span>,
    },
    /// A log record; with a span's ids where it belongs to one.
    Log {
        /// The span that it belongs to.
        context: Option<SpanContext>,
        /// What happened.
        event: Event,
    },
    /// What one call adds to one metric.
    Measurement(Measurement),
}
