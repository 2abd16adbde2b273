//! The agent's own health for `run`: `/metrics` for Prometheus and `/healthz` for probes.
//!
//! `docs/metrics.md` says what each metric means; a test keeps it complete.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;

/// The listener of `/metrics` and `/healthz`.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

/// Why nothing listens.
#[derive(thiserror::Error, Debug)]
#[error(
    "cannot listen on {address} for /metrics and /healthz: {source}; choose another address with --listen"
)]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

impl Server {
    /// Takes the address; port 0 takes any free one.
    ///
    /// # Errors
    /// The address is in use, is not ours, or may not be taken.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// The address that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `end` is ready, and then what has been asked already.
    ///
    /// # Errors
    /// Those of the listener.
    pub async fn serve(
        self,
        metrics: Metrics,
        health: Health,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let ready = health.clone();
        let router = Router::new()
            .route("/metrics", get(async |State(metrics): State<Metrics>| metrics_response(&metrics)))
            .with_state(metrics.clone())
            .route(
                "/healthz",
                get(async |State((metrics, health)): State<(Metrics, Health)>| {
                    health_response(&metrics, &health)
                }),
            )
            .with_state((metrics, health))
            .route("/readyz", get(async |State(health): State<Health>| ready_response(&health)))
            .with_state(ready)
            .fallback(async || (StatusCode::NOT_FOUND, "here are /metrics, /healthz and /readyz\n"));
        axum::serve(self.listener, router).with_graceful_shutdown(end).await
    }
}

fn metrics_response(metrics: &Metrics) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(fmt::Error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "a metric cannot be written\n").into_response()
        }
    }
}

fn health_response(metrics: &Metrics, health: &Health) -> Response {
    // What fills the metrics is what finds problems.
    metrics.refresh();
    match health.problem() {
        None => "ok\n".into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}

fn ready_response(health: &Health) -> Response {
    match health.waits_for() {
        None => "ok\n".into_response(),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {what}\n")).into_response(),
    }
}

/// Whether the agent does its work; clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<Option<String>>>, Arc<Mutex<Option<&'static str>>>);

impl Health {
    /// Notes what the agent waits for before it can begin; `None` once it has begun.
    pub fn wait_for(&self, what: Option<&'static str>) {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// What the agent waits for.
    pub fn waits_for(&self) -> Option<&'static str> {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what keeps the agent from its work; `None` when nothing does.
    pub fn set(&self, problem: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// What keeps the agent from its work.
    pub fn problem(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the agent counts of itself; clones are one and the same.
///
/// Labels are static text or come from the configuration: nothing from the wire makes a time series.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Records from the kernel.
    pub events: Family<KindLabel, Counter>,
    /// Plaintext bytes from the kernel.
    pub captured_bytes: Family<DirectionLabel, Counter>,
    /// Calls of TLS libraries with plaintext, as the kernel counts them.
    pub tls_calls: Counter,
    /// Plaintext bytes of those calls, captured or not.
    pub tls_bytes: Counter,
    /// Calls that moved bytes of plain HTTP, as the kernel counts them.
    pub plaintext_calls: Counter,
    /// Bytes of those calls, captured or not.
    pub plaintext_bytes: Counter,
    /// Sockets that carry no client's HTTP, and were let go.
    pub ignored_sockets: Counter,
    /// Whether plain HTTP is seen, and how: 1 for one of the states.
    pub plaintext_state: Family<StateLabel, Gauge>,
    /// Reads and writes of MCP over standard input and output, as the kernel counts them.
    pub stdio_calls: Counter,
    /// Bytes of those, captured or not.
    pub stdio_bytes: Counter,
    /// Pipes and pairs of sockets that carry no MCP, and were let go.
    pub ignored_channels: Counter,
    /// Whether MCP over standard input and output is seen, and how: 1 for one of the states.
    pub stdio_state: Family<StateLabel, Gauge>,
    /// What was lost, in records or other pieces.
    pub lost: Family<LossLabels, Counter>,
    /// What was lost, in bytes.
    pub lost_bytes: Family<LossLabels, Counter>,
    /// Finished model calls.
    pub calls: Family<CallLabels, Counter>,
    /// Of those, calls with something missing.
    pub truncated_calls: Counter,
    /// Calls that were seen twice, on the way to a sidecar and from there, and told once.
    pub merged_calls: Counter,
    /// Finished requests to servers of the Model Context Protocol.
    pub mcp_requests: Counter,
    /// Requests that look like model calls in no known wire format.
    pub unknown_requests: Counter,
    /// Turns of agents that began.
    pub turns: Counter,
    /// Turns that are under way.
    pub turns_open: Gauge,
    /// Tool calls that became spans.
    pub tool_calls: Counter,
    /// Programs that ran, by why they hang where they hang.
    pub processes: Family<CauseLabel, Counter>,
    /// Connections of which state is held.
    pub connections_open: Gauge,
    /// Memory in queues between stages.
    pub queue_bytes: Family<QueueLabel, Gauge>,
    /// Files with probes.
    pub attachments: Family<LibraryLabel, Gauge>,
    /// Files with probes that were found by the look of their code, and gave no plaintext yet.
    pub attachments_on_trial: Gauge,
    /// Files whose probes were taken back, since what they took is no plaintext.
    pub attachments_refuted: Counter,
    /// Grants that are in force.
    pub grants: Gauge,
    /// Selected processes with probes in at least one of their files.
    pub traced_processes: Gauge,
    /// Selected processes without.
    pub untraceable_processes: Family<ReasonLabel, Gauge>,
    /// Telemetry that was taken by the other side.
    pub exported: Family<ExportLabels, Counter>,
    /// Telemetry that was given up.
    pub export_dropped: Family<ExportLossLabels, Counter>,
    /// Attempts after the first.
    pub export_retries: Family<ExportLabels, Counter>,
    /// Telemetry that waits.
    pub export_queue_items: Family<ExportLabels, Gauge>,
    /// Memory of telemetry that waits.
    pub export_queue_bytes: Family<ExportLabels, Gauge>,
    registry: Arc<Registry>,
    descriptions: Arc<[Description]>,
    refreshers: Arc<Mutex<Vec<Refresher>>>,
}

/// Brings numbers that live elsewhere, such as in kernel maps, up to date before a scrape.
struct Refresher(Box<dyn FnMut(&Metrics) + Send>);

impl fmt::Debug for Refresher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refresher")
    }
}

macro_rules! labels {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }
    )*};
}

labels! {
    /// Of a record from the kernel.
    KindLabel {
        /// `tls_data`, `tls_closed`, `fork`, `exec`, `exit`, `container`.
        kind: &'static str,
    }
    /// Of bytes.
    DirectionLabel {
        /// `read` or `write`, from the program's side.
        direction: &'static str,
    }
    /// Of a loss.
    LossLabels {
        /// Where: `kernel`, `streams`, `http`, `causality`, `pipeline`, `export`.
        stage: &'static str,
        /// Why: a name within the stage.
        cause: &'static str,
    }
    /// Of a model call.
    CallLabels {
        /// `gen_ai.operation.name`.
        operation: &'static str,
        /// `gen_ai.provider.name`.
        provider: &'static str,
        /// `complete`, `failed`, `cut`, `cancelled`, `incomplete`.
        outcome: &'static str,
    }
    /// Of a program that an agent ran.
    CauseLabel {
        /// `agentsight.process.cause`.
        cause: &'static str,
    }
    /// Of a queue.
    QueueLabel {
        /// The queue's name.
        queue: &'static str,
    }
    /// Of an attachment.
    LibraryLabel {
        /// The kind of TLS library.
        library: &'static str,
    }
    /// Of an untraceable process.
    StateLabel {
        /// One of [`crate::capture::sockets::STATES`].
        state: &'static str,
    }
    ReasonLabel {
        /// In CamelCase, as in `docs/coverage.md`.
        reason: &'static str,
    }
    /// Of an export.
    ExportLabels {
        /// `traces`, `metrics`, `logs`.
        signal: &'static str,
        /// The endpoint or file, as configured.
        destination: String,
    }
    /// Of telemetry that was given up.
    ExportLossLabels {
        /// `traces`, `metrics`, `logs`.
        signal: &'static str,
        /// The endpoint or file, as configured.
        destination: String,
        /// Why.
        cause: &'static str,
    }
}

impl Metrics {
    /// All metrics at zero.
    #[allow(clippy::new_without_default, reason = "it notes the time at which the process started")]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let mut agent = Table::new(&mut registry, "agentsight");
        let build =
            Info::new(vec![("version", env!("CARGO_PKG_VERSION")), ("architecture", std::env::consts::ARCH)]);
        agent.register("build", "Which agent this is", build);
        let mut metrics = Self {
            events: Family::default(),
            captured_bytes: Family::default(),
            tls_calls: Counter::default(),
            tls_bytes: Counter::default(),
            plaintext_calls: Counter::default(),
            plaintext_bytes: Counter::default(),
            ignored_sockets: Counter::default(),
            plaintext_state: Family::default(),
            stdio_calls: Counter::default(),
            stdio_bytes: Counter::default(),
            ignored_channels: Counter::default(),
            stdio_state: Family::default(),
            lost: Family::default(),
            lost_bytes: Family::default(),
            calls: Family::default(),
            truncated_calls: Counter::default(),
            merged_calls: Counter::default(),
            mcp_requests: Counter::default(),
            unknown_requests: Counter::default(),
            turns: Counter::default(),
            turns_open: Gauge::default(),
            tool_calls: Counter::default(),
            processes: Family::default(),
            connections_open: Gauge::default(),
            queue_bytes: Family::default(),
            attachments: Family::default(),
            attachments_on_trial: Gauge::default(),
            attachments_refuted: Counter::default(),
            grants: Gauge::default(),
            traced_processes: Gauge::default(),
            untraceable_processes: Family::default(),
            exported: Family::default(),
            export_dropped: Family::default(),
            export_retries: Family::default(),
            export_queue_items: Family::default(),
            export_queue_bytes: Family::default(),
            registry: Arc::default(),
            descriptions: Arc::default(),
            refreshers: Arc::default(),
        };
        let it = &metrics;
        agent.register("events", "Records from the kernel", it.events.clone());
        agent.register_with_unit(
            "captured",
            "Plaintext from the kernel",
            Unit::Bytes,
            it.captured_bytes.clone(),
        );
        agent.register("tls_calls", "Calls of TLS libraries with plaintext", it.tls_calls.clone());
        agent.register_with_unit(
            "tls",
            "Plaintext of TLS calls, captured or not",
            Unit::Bytes,
            it.tls_bytes.clone(),
        );
        agent.register(
            "plaintext_calls",
            "Reads and writes of plain HTTP by clients",
            it.plaintext_calls.clone(),
        );
        agent.register_with_unit(
            "plaintext",
            "Bytes of plain HTTP, captured or not",
            Unit::Bytes,
            it.plaintext_bytes.clone(),
        );
        agent.register(
            "ignored_sockets",
            "Sockets without a client's plain HTTP",
            it.ignored_sockets.clone(),
        );
        agent.register("plaintext_state", "Whether plain HTTP is seen", it.plaintext_state.clone());
        agent.register(
            "mcp_stdio_calls",
            "Reads and writes of MCP over standard input and output",
            it.stdio_calls.clone(),
        );
        agent.register_with_unit(
            "mcp_stdio",
            "Bytes of MCP over standard input and output, captured or not",
            Unit::Bytes,
            it.stdio_bytes.clone(),
        );
        agent.register(
            "ignored_channels",
            "Pipes and pairs of sockets without MCP",
            it.ignored_channels.clone(),
        );
        agent.register(
            "mcp_stdio_state",
            "Whether MCP over standard input and output is seen",
            it.stdio_state.clone(),
        );
        agent.register("lost", "Records or other pieces lost", it.lost.clone());
        agent.register_with_unit("lost", "Bytes lost", Unit::Bytes, it.lost_bytes.clone());
        agent.register("calls", "Finished model calls", it.calls.clone());
        agent.register("truncated_calls", "Model calls with something missing", it.truncated_calls.clone());
        agent.register("merged_calls", "Calls that were seen twice, and told once", it.merged_calls.clone());
        agent.register("mcp_requests", "Finished requests to MCP servers", it.mcp_requests.clone());
        agent.register(
            "unknown_requests",
            "Requests like model calls, in no known format",
            it.unknown_requests.clone(),
        );
        agent.register("turns", "Turns of agents that began", it.turns.clone());
        agent.register("turns_open", "Turns of agents that are under way", it.turns_open.clone());
        agent.register("tool_calls", "Tool calls that became spans", it.tool_calls.clone());
        agent.register("processes", "Programs that agents ran", it.processes.clone());
        agent.register("connections_open", "Connections of which state is held", it.connections_open.clone());
        agent.register_with_unit(
            "queue",
            "Memory in queues between stages",
            Unit::Bytes,
            it.queue_bytes.clone(),
        );
        agent.register("attachments", "Files with probes", it.attachments.clone());
        agent.register(
            "attachments_on_trial",
            "Files with probes that were found by the look of their code, and gave no plaintext yet",
            it.attachments_on_trial.clone(),
        );
        agent.register(
            "attachments_refuted",
            "Files whose probes were taken back, since what they took is no plaintext",
            it.attachments_refuted.clone(),
        );
        agent.register(
            "grants",
            "AgentTraceGrants that are in force; none until the kernel programs are loaded",
            it.grants.clone(),
        );
        agent.register("traced_processes", "Selected processes with probes", it.traced_processes.clone());
        agent.register(
            "untraceable_processes",
            "Selected processes without probes",
            it.untraceable_processes.clone(),
        );
        agent.register("exported_items", "Telemetry taken by the other side", it.exported.clone());
        agent.register("export_dropped_items", "Telemetry given up", it.export_dropped.clone());
        agent.register("export_retries", "Attempts after the first", it.export_retries.clone());
        agent.register("export_queue_items", "Telemetry that waits", it.export_queue_items.clone());
        agent.register_with_unit(
            "export_queue",
            "Memory of telemetry that waits",
            Unit::Bytes,
            it.export_queue_bytes.clone(),
        );
        let mut descriptions = agent.descriptions;
        descriptions.extend(OwnProcess::descriptions());
        registry.register_collector(Box::new(OwnProcess { started: SystemTime::now() }));
        metrics.registry = Arc::new(registry);
        metrics.descriptions = descriptions.into();
        metrics
    }

    /// All metrics, also those without a sample yet.
    pub fn descriptions(&self) -> &[Description] {
        &self.descriptions
    }

    /// Calls `refresh` before every answer, for numbers that live elsewhere. It must not block for long.
    pub fn before_scrape(&self, refresh: impl FnMut(&Metrics) + Send + 'static) {
        self.refreshers.lock().unwrap_or_else(PoisonError::into_inner).push(Refresher(Box::new(refresh)));
    }

    /// Everything in OpenMetrics' text form, which Prometheus reads.
    ///
    /// # Errors
    /// None that this crate's metrics can cause.
    pub fn text(&self) -> Result<String, fmt::Error> {
        self.refresh();
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn refresh(&self) {
        for refresher in self.refreshers.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            (refresher.0)(self);
        }
    }
}

/// One metric, in whatever form it leaves.
#[derive(Clone, Debug)]
pub struct Description {
    /// With its unit, without `_total`.
    pub name: String,
    /// What it counts.
    pub help: String,
    /// In the Unified Code for Units of Measure, as OpenTelemetry has it; empty where things are counted.
    pub unit: &'static str,
    /// How its numbers behave.
    pub kind: MetricType,
}

impl Description {
    fn new(name: String, help: &str, unit: Option<&Unit>, kind: MetricType) -> Self {
        let (suffix, unit) = match unit {
            Some(Unit::Bytes) => ("_bytes", "By"),
            Some(Unit::Seconds) => ("_seconds", "s"),
            _ => ("", ""),
        };
        Self { name: name + suffix, help: help.to_owned(), unit, kind }
    }
}

/// A registry that remembers what is registered, under one prefix.
struct Table<'a> {
    registry: &'a mut Registry,
    prefix: &'static str,
    descriptions: Vec<Description>,
}

impl<'a> Table<'a> {
    fn new(registry: &'a mut Registry, prefix: &'static str) -> Self {
        Self { registry: registry.sub_registry_with_prefix(prefix), prefix, descriptions: Vec::new() }
    }

    fn register(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.describe(name, help, None, metric.metric_type());
        self.registry.register(name, help, metric);
    }

    fn register_with_unit(&mut self, name: &str, help: &str, unit: Unit, metric: impl Metric) {
        self.describe(name, help, Some(&unit), metric.metric_type());
        self.registry.register_with_unit(name, help, unit, metric);
    }

    fn describe(&mut self, name: &str, help: &str, unit: Option<&Unit>, kind: MetricType) {
        let name = format!("{}_{name}", self.prefix);
        self.descriptions.push(Description::new(name, help, unit, kind));
    }
}

/// Sets a counter to a total that is counted elsewhere.
pub fn set_total(counter: &Counter, total: u64) {
    counter.inner().store(total, Ordering::Relaxed);
}

/// This process by the names that all Prometheus clients use.
#[derive(Debug)]
struct OwnProcess {
    started: SystemTime,
}

impl OwnProcess {
    const CPU: (&str, &str, Option<Unit>) = ("process_cpu", "CPU time, user and system", Some(Unit::Seconds));
    const GAUGES: [(&str, &str, Option<Unit>); 4] = [
        ("process_resident_memory", "Resident memory", Some(Unit::Bytes)),
        ("process_anonymous_memory", "Resident memory that is no file's", Some(Unit::Bytes)),
        ("process_open_fds", "Open file descriptors", None),
        ("process_start_time", "Start, since the Unix epoch", Some(Unit::Seconds)),
    ];

    fn descriptions() -> impl Iterator<Item = Description> {
        let counter = std::iter::once((Self::CPU, MetricType::Counter));
        let gauges = Self::GAUGES.into_iter().map(|gauge| (gauge, MetricType::Gauge));
        counter
            .chain(gauges)
            .map(|((name, help, unit), kind)| Description::new(name.to_owned(), help, unit.as_ref(), kind))
    }
}

impl Collector for OwnProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let usage = Usage::read(Path::new("/proc/self"));
        let cpu = ConstCounter::new(usage.cpu_seconds);
        let (name, help, unit) = Self::CPU;
        cpu.encode(encoder.encode_descriptor(name, help, unit.as_ref(), cpu.metric_type())?)?;
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let values = [usage.resident_bytes, usage.anonymous_bytes, usage.open_files, started];
        for ((name, help, unit), value) in Self::GAUGES.into_iter().zip(values) {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit.as_ref(), gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[derive(PartialEq, Debug, Default)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: f64,
    anonymous_bytes: f64,
    open_files: f64,
}

impl Usage {
    /// Reads proc_pid_stat(5) and proc_pid_status(5); what cannot be read is zero.
    fn read(process: &Path) -> Self {
        /// Ticks a second in /proc, the same on every architecture that the agent runs on.
        const USER_HZ: f64 = 100.0;
        let read = |name: &str| std::fs::read_to_string(process.join(name)).unwrap_or_default();
        let (stat, status) = (read("stat"), read("status"));
        // The name in parentheses may hold anything; the third field follows the last parenthesis.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        // utime and stime are the fields 14 and 15.
        let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
        let bytes = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let kibibytes: f64 = value.trim().trim_end_matches(" kB").parse().unwrap_or(0.0);
            kibibytes * 1024.0
        };
        let open_files = std::fs::read_dir(process.join("fd")).map_or(0, Iterator::count);
        Self {
            cpu_seconds: ticks / USER_HZ,
            resident_bytes: bytes("VmRSS:"),
            anonymous_bytes: bytes("RssAnon:"),
            open_files: f64::from(u32::try_from(open_files).unwrap_or(u32::MAX)),
        }
    }
}

/// Every family once, so that every name is in the text.
#[cfg(test)]
pub(crate) fn filled() -> Metrics {
    let metrics = Metrics::new();
    let export = ExportLabels { signal: "traces", destination: "http://localhost:4317".into() };
    metrics.events.get_or_create(&KindLabel { kind: "tls_data" }).inc();
    metrics.captured_bytes.get_or_create(&DirectionLabel { direction: "read" }).inc_by(5);
    let loss = LossLabels { stage: "kernel", cause: "ring_full" };
    metrics.lost.get_or_create(&loss).inc();
    metrics.lost_bytes.get_or_create(&loss).inc_by(7);
    let call = CallLabels { operation: "chat", provider: "openai", outcome: "complete" };
    metrics.calls.get_or_create(&call).inc_by(3);
    metrics.processes.get_or_create(&CauseLabel { cause: "command" }).inc();
    metrics.queue_bytes.get_or_create(&QueueLabel { queue: "capture" }).set(9);
    metrics.attachments.get_or_create(&LibraryLabel { library: "openssl" }).set(1);
    metrics.untraceable_processes.get_or_create(&ReasonLabel { reason: "JavaTls" }).set(1);
    metrics.plaintext_state.get_or_create(&StateLabel { state: "off" }).set(1);
    metrics.stdio_state.get_or_create(&StateLabel { state: "off" }).set(1);
    metrics.exported.get_or_create(&export).inc();
    metrics.export_retries.get_or_create(&export).inc();
    metrics.export_queue_items.get_or_create(&export).set(1);
    metrics.export_queue_bytes.get_or_create(&export).set(1);
    let loss = ExportLossLabels { signal: "traces", destination: "file".into(), cause: "queue_full" };
    metrics.export_dropped.get_or_create(&loss).inc();
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    #[tokio::test]
    async fn metrics_and_health_are_answered_over_a_socket() {
        let server = Server::bind(LOOPBACK).await.expect("a free port");
        let (address, health) = (server.address(), Health::default());
        let (end, ended) = oneshot::channel::<()>();
        let metrics = filled();
        metrics.before_scrape(|metrics| set_total(&metrics.tls_calls, 42));
        let serving = tokio::spawn(server.serve(metrics, health.clone(), async {
            let _ = ended.await;
        }));

        let answer = ask(address, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n")
        );
        for line in [
            "agentsight_calls_total{operation=\"chat\",provider=\"openai\",outcome=\"complete\"} 3\n",
            "agentsight_lost_bytes_total{stage=\"kernel\",cause=\"ring_full\"} 7\n",
            "agentsight_queue_bytes{queue=\"capture\"} 9\n",
            "agentsight_tls_calls_total 42\n",
            concat!("agentsight_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\",architecture=\""),
            "# TYPE process_cpu_seconds counter\n",
        ] {
            assert!(answer.contains(line), "{line} is not in {answer}");
        }
        assert!(answer.ends_with("# EOF\n"));

        assert!(ask(address, "/healthz").await.ends_with("\r\n\r\nok\n"));
        health.set(Some("the ring buffer is gone".into()));
        let answer = ask(address, "/healthz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("the ring buffer is gone\n"),
            "{answer}"
        );
        assert!(ask(address, "/").await.starts_with("HTTP/1.1 404"));

        end.send(()).expect("the server waits");
        serving.await.expect("no panic").expect("no error");
    }

    #[tokio::test]
    async fn an_address_in_use_is_told_with_what_to_do() {
        let first = Server::bind(LOOPBACK).await.expect("a free port");
        let error = Server::bind(first.address()).await.expect_err("the port is taken").to_string();
        let start =
            format!("cannot listen on {} for /metrics and /healthz: Address already in use", first.address());
        assert!(
            error.starts_with(&start) && error.ends_with("choose another address with --listen"),
            "{error}"
        );
    }

    #[test]
    fn every_metric_is_documented_and_no_other() {
        let text = filled().text().expect("text");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let exported: BTreeSet<&str> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
        let page = include_str!("../../docs/metrics.md");
        let documented: BTreeSet<&str> =
            page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(exported, documented);
    }

    #[test]
    fn a_process_is_read_from_proc() {
        let process = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| std::fs::write(process.path().join(name), text).expect("a file");
        write("stat", "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 100 0 0\n");
        write("status", "Name:\ta\nVmRSS:\t    2048 kB\nRssAnon:\t    1024 kB\n");
        std::fs::create_dir(process.path().join("fd")).expect("a folder");
        let usage = Usage::read(process.path());
        let expected = Usage {
            cpu_seconds: 2.0,
            resident_bytes: 2_097_152.0,
            anonymous_bytes: 1_048_576.0,
            open_files: 0.0,
        };
        assert_eq!(usage, expected);
        assert_eq!(Usage::read(Path::new("/nonexistent")), Usage::default());
        assert!(Usage::read(Path::new("/proc/self")).resident_bytes > 0.0);
    }
}
