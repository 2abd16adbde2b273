//! Telemetry out: from [`Item`]s to OpenTelemetry collectors and files.
//!
//! ```text
//! send ─▶ queue (bytes) ─▶ batch ─▶ requests (< 4 MiB) ─▶ attempts ─▶ gRPC, HTTP or file
//!      └▶ sums (metrics) ─┘            one lane a signal and sink
//! ```
//! The agent speaks for many resources at once, so it builds OTLP itself. Everything that does not arrive
//! is counted by its [`Cause`].

#![forbid(unsafe_code)]

mod batch;
mod closing;
pub mod config;
mod failure;
mod file;
#[cfg(test)]
mod fixtures;
mod grpc;
mod http;
mod identity;
mod json;
mod kind;
mod lane;
mod metrics;
mod own;
mod proto;
mod queue;
mod retry;
mod stats;
#[cfg(test)]
mod tests;

pub use config::{Config, Overrides};
pub use kind::Kind;
pub use own::{Log, Own};
pub use retry::Retry;
pub use stats::{Cause, LaneStats, Loss, Stats};

use crate::resource::{Item, Signal};
use agentsight_genai::telemetry::{Span, SpanContext};
use agentsight_genai::time::Timestamp;
use batch::{LIMIT, Scope};
use closing::End;
use config::{Batch, Batching, Protocol, Target};
use file::JsonFile;
use grpc::Grpc;
use http::Http;
use lane::{Destination, Lane, Source};
use metrics::Aggregator;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use queue::Queue;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const USER_AGENT: &str =
    concat!("AgentSight/", env!("CARGO_PKG_VERSION"), " OTel-OTLP-Exporter-Rust/", env!("CARGO_PKG_VERSION"));

/// The schema of semantic conventions v1.41.1. The newer ones have no tagged release, and so none.
pub const SCHEMA_V1_41: &str = "https://opentelemetry.io/schemas/1.41.1";

/// Makes a span's content so much smaller that it takes at most that many bytes as OTLP; false where it
/// cannot.
pub type Shrink = Arc<dyn Fn(&mut Span, usize) -> bool + Send + Sync>;

/// What an [`Exporter`] is made from.
#[derive(Clone)]
pub struct Options {
    /// Collectors, and batching for them and the file.
    pub config: Config,
    /// A file to which OTLP is appended as JSON, one export request a line; `-` is the standard output.
    pub json_file: Option<PathBuf>,
    /// How much may wait for each signal and sink, in bytes; what is on its way included.
    pub queue_bytes: usize,
    /// Where the meaning of the attributes is written down; empty where it is not.
    pub schema_url: String,
    /// How patiently requests are sent again.
    pub retry: Retry,
    /// For a span too large for any request.
    pub shrink: Shrink,
}

impl Options {
    /// The defaults around a configuration: 64 MiB of queue, content cut where it must be, no schema.
    pub fn new(config: Config) -> Self {
        Options {
            config,
            json_file: None,
            queue_bytes: 64 * 1024 * 1024,
            schema_url: String::new(),
            retry: Retry::default(),
            shrink: Arc::new(agentsight_genai::content::fit),
        }
    }
}

/// Why an exporter cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A certificate or key file cannot be read.
    #[error("cannot read {path} that {setting} names: {source}", path = .path.display())]
    Read {
        /// The variable or flag.
        setting: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate or key file has not the content that is needed.
    #[error("cannot use {path} that {setting} names: {reason}", path = .path.display())]
    Pem {
        /// The variable or flag.
        setting: String,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No client can be made for an endpoint, most often for want of certificates.
    #[error(
        "cannot prepare connections to {to}: {reason}; check OTEL_EXPORTER_OTLP_CERTIFICATE, …_CLIENT_CERTIFICATE and …_CLIENT_KEY, or install the system's CA certificates"
    )]
    Client {
        /// The endpoint.
        to: String,
        /// Why.
        reason: String,
    },
    /// The file for JSON cannot be made.
    #[error("cannot create {path} for OTLP JSON: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Takes telemetry and sends it. Dropped without [`Exporter::flush`], it gives up what waits.
pub struct Exporter {
    lanes: Vec<Arc<Lane>>,
    end: End,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Exporter {
    /// Starts a task for each signal and sink on that runtime. Connections are made when they are needed.
    ///
    /// # Errors
    /// A file named by the options cannot be used.
    pub fn start(runtime: &Handle, options: &Options) -> Result<Exporter, StartError> {
        // Reqwest and tonic take the process's provider, and reqwest has no other. One is there already
        // where an exporter was started before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let _entered = runtime.enter();
        let mut lanes = Vec::new();
        let Config { traces, metrics, logs, batching } = &options.config;
        for (kind, target) in [(Kind::Traces, traces), (Kind::Metrics, metrics), (Kind::Logs, logs)] {
            if let Some(target) = target {
                let destination = network(kind, target)?;
                lanes.push(lane(kind, target.shown(), destination, *batching, options));
            }
        }
        if let Some(path) = &options.json_file {
            let file =
                JsonFile::create(path).map_err(|source| StartError::File { path: path.clone(), source })?;
            for kind in Kind::ALL {
                let destination = Destination::File(file.clone());
                let batching = soon(*batching);
                lanes.push(lane(kind, path.display().to_string(), destination, batching, options));
            }
        }
        let lanes: Vec<_> = lanes.into_iter().map(Arc::new).collect();
        let (end, closing) = closing::pair();
        let tasks = lanes.iter().map(|lane| runtime.spawn(lane.clone().run(closing.clone()))).collect();
        Ok(Exporter { lanes, end, tasks: Mutex::new(tasks) })
    }

    /// Takes an item from any thread. Never waits: what there is no room for is dropped and counted.
    ///
    /// A span's events become log records of their own.
    pub fn send(&self, mut item: Item) {
        if self.lanes.is_empty() {
            return;
        }
        let mut kind = Kind::Logs;
        match &mut item.signal {
            Signal::Span { trace_id, span_id, parent, span } => {
                kind = Kind::Traces;
                let flags = parent.as_ref().map_or(1, |parent| parent.flags);
                for event in std::mem::take(&mut span.events) {
                    let (trace_id, span_id) = (*trace_id, *span_id);
                    let context = SpanContext { trace_id, span_id, flags, state: String::new() };
                    let signal = Signal::Log { context: Some(context), event };
                    self.fan_out(Kind::Logs, Item { resource: item.resource.clone(), signal });
                }
            }
            Signal::Measurement(_) => kind = Kind::Metrics,
            Signal::Log { .. } => {}
        }
        self.fan_out(kind, item);
    }

    fn fan_out(&self, kind: Kind, item: Item) {
        let item = Arc::new(item);
        for lane in self.lanes.iter().filter(|lane| lane.kind == kind) {
            lane.take(&item);
        }
    }

    /// What became of the telemetry so far.
    pub fn stats(&self) -> Stats {
        Stats { lanes: self.lanes.iter().map(|lane| lane.stats()).collect() }
    }

    /// Ends the exporter: sends what waits, for no longer than `within`, and returns everything that was
    /// given up since the start. What is sent to it afterwards is dropped and counted.
    pub async fn flush(&self, within: Duration) -> Vec<Loss> {
        let deadline = Instant::now() + within;
        self.end.at(deadline);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // Each ends by itself at the deadline; a panic in one must not keep the others from ending.
            if let Err(error) = task.await {
                tracing::error!(%error, "an export task ended by itself; this is a mistake in AgentSight");
            }
        }
        for lane in &self.lanes {
            lane.close();
        }
        self.stats().losses()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.end.at(Instant::now());
    }
}

fn network(kind: Kind, target: &Target) -> Result<Destination, StartError> {
    Ok(match target.protocol {
        Protocol::Grpc => Destination::Grpc(Grpc::new(kind, target)?),
        Protocol::HttpProtobuf | Protocol::HttpJson => Destination::Http(Http::new(kind, target)?),
    })
}

/// A file is watched by people: at most a second after.
fn soon(batching: Batching) -> Batching {
    let soon = |batch: Batch| Batch { delay: batch.delay.min(Duration::from_secs(1)), ..batch };
    Batching { spans: soon(batching.spans), logs: soon(batching.logs), ..batching }
}

fn lane(kind: Kind, to: String, destination: Destination, batching: Batching, options: &Options) -> Lane {
    let items = |batch| Source::Items(Queue::new(options.queue_bytes, batch, LIMIT));
    Lane {
        kind,
        to,
        source: match kind {
            Kind::Traces => items(batching.spans),
            Kind::Logs => items(batching.logs),
            Kind::Metrics => Source::Measurements {
                sums: Mutex::new(Aggregator::new(batching.temporality, now())),
                interval: batching.metric_interval,
            },
        },
        destination,
        scope: Scope {
            scope: InstrumentationScope {
                name: "agentsight".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..InstrumentationScope::default()
            },
            schema_url: options.schema_url.clone(),
        },
        retry: options.retry,
        shrink: options.shrink.clone(),
        counters: stats::Counters::default(),
    }
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
}
