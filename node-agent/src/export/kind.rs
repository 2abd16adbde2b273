//! The three kinds of telemetry that OTLP carries apart.

use std::fmt;

/// One of OTLP's signals: each has its own endpoint, queue and retries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Spans.
    Traces,
    /// Data points of metrics.
    Metrics,
    /// Log records.
    Logs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Traces, Kind::Metrics, Kind::Logs];

    /// As in URLs and labels: `traces`, `metrics`, `logs`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Traces => "traces",
            Kind::Metrics => "metrics",
            Kind::Logs => "logs",
        }
    }

    /// What is counted, in the plural: `spans`, `data points`, `log records`.
    pub fn unit(self) -> &'static str {
        match self {
            Kind::Traces => "spans",
            Kind::Metrics => "data points",
            Kind::Logs => "log records",
        }
    }

    /// The gRPC method's path.
    pub(super) fn grpc_path(self) -> &'static str {
        match self {
            Kind::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Kind::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Kind::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }

    /// The field of a JSON partial success that says how many were rejected.
    pub(super) fn rejected_field(self) -> &'static str {
        match self {
            Kind::Traces => "rejectedSpans",
            Kind::Metrics => "rejectedDataPoints",
            Kind::Logs => "rejectedLogRecords",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
