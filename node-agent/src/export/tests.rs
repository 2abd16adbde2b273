//! The exporter against collectors in this process, over real connections.

use super::config::PemFile;
use super::fixtures::{context, event, log_item, measurement_item, resource, span};
use super::retry::tests::retry_details;
use super::*;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, Response};
use axum::serve::Listener;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::*;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::*;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::*;
use prost::Message as _;
use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Status};

/// Longer than any test should take; reached only where one hangs.
const HANG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

/// What a collector does with a request.
#[derive(Clone)]
enum Answer {
    Ok,
    Partial(i64, String),
    Grpc(Status),
    Http(u16, Option<(&'static str, String)>, Vec<u8>),
    /// Never.
    Silence,
}

/// What a collector got.
#[derive(Debug)]
struct Got {
    kind: Kind,
    headers: HeaderMap,
    /// As sent over HTTP.
    raw: Bytes,
    message: batch::Message,
}

impl Got {
    fn names(&self) -> Vec<String> {
        let batch::Message::Traces(traces) = &self.message else { return Vec::new() };
        let spans = traces.resource_spans.iter().flat_map(|group| &group.scope_spans[0].spans);
        spans.map(|span| span.name.clone()).collect()
    }
}

/// Answers as told, then with success, and hands on what it gets.
#[derive(Clone)]
struct Mind {
    answers: Arc<Mutex<HashMap<Kind, VecDeque<Answer>>>>,
    got: mpsc::UnboundedSender<Got>,
}

struct Collector {
    address: SocketAddr,
    scheme: &'static str,
    mind: Mind,
    got: mpsc::UnboundedReceiver<Got>,
    /// Its own, so that all of its connections end with it.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Collector {
    async fn start() -> Collector {
        Collector::on(std::net::TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// At an address that another one has just left.
    async fn again_at(address: SocketAddr) -> Collector {
        until(|| std::net::TcpListener::bind(address).is_ok()).await;
        Collector::on(std::net::TcpListener::bind(address).unwrap())
    }

    fn on(listener: std::net::TcpListener) -> Collector {
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        Collector::serving(address, "http", move || TcpListener::from_std(listener).unwrap())
    }

    fn serving<L: Listener>(
        address: SocketAddr,
        scheme: &'static str,
        listener: impl FnOnce() -> L,
    ) -> Collector
    where
        L::Addr: std::fmt::Debug,
    {
        let (sender, got) = mpsc::unbounded_channel();
        let mind = Mind { answers: Arc::default(), got: sender };
        let gzip = CompressionEncoding::Gzip;
        let router = Router::new()
            .route_service(
                Kind::Traces.grpc_path(),
                TraceServiceServer::new(mind.clone())
                    .accept_compressed(gzip)
                    .max_decoding_message_size(LIMIT),
            )
            .route_service(
                Kind::Metrics.grpc_path(),
                MetricsServiceServer::new(mind.clone()).accept_compressed(gzip),
            )
            .route_service(
                Kind::Logs.grpc_path(),
                LogsServiceServer::new(mind.clone()).accept_compressed(gzip),
            )
            .fallback(over_http)
            .with_state(mind.clone());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = {
            let _entered = runtime.enter();
            listener()
        };
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Collector { address, scheme, mind, got, runtime: Some(runtime) }
    }

    fn answer(&self, kind: Kind, answers: impl IntoIterator<Item = Answer>) {
        self.mind.answers.lock().unwrap().entry(kind).or_default().extend(answers);
    }

    fn options(&self, protocol: Protocol) -> Options {
        options_for(self.scheme, self.address, protocol)
    }

    async fn next(&mut self) -> Got {
        tokio::time::timeout(HANG, self.got.recv()).await.expect("a request comes").unwrap()
    }

    fn count(&mut self) -> usize {
        std::iter::from_fn(|| self.got.try_recv().ok()).count()
    }
}

fn options_for(scheme: &str, address: SocketAddr, protocol: Protocol) -> Options {
    let target = |kind: Kind| {
        let path = if protocol == Protocol::Grpc { String::new() } else { format!("v1/{kind}") };
        Some(Target {
            url: format!("{scheme}://{address}/{path}").parse().unwrap(),
            protocol,
            headers: HeaderMap::new(),
            gzip: false,
            timeout: HANG,
            tls: config::Tls::default(),
        })
    };
    options(Config {
        traces: target(Kind::Traces),
        metrics: target(Kind::Metrics),
        logs: target(Kind::Logs),
        batching: batching(),
    })
}

fn nothing() -> Config {
    Config { traces: None, metrics: None, logs: None, batching: batching() }
}

fn batching() -> Batching {
    let batch = Batch { delay: Duration::ZERO, items: 512 };
    Batching { spans: batch, logs: batch, metric_interval: HOUR, ..Batching::default() }
}

/// Retries that take no time to speak of.
fn options(config: Config) -> Options {
    let (first, longest) = (Duration::from_millis(1), Duration::from_millis(5));
    Options {
        schema_url: SCHEMA_V1_41.to_owned(),
        retry: Retry { first, longest, give_up_after: HOUR },
        ..Options::new(config)
    }
}

fn start(options: &Options) -> Exporter {
    Exporter::start(&Handle::current(), options).unwrap()
}

fn one(exporter: &Exporter, kind: Kind) -> LaneStats {
    exporter.stats().lanes.into_iter().find(|lane| lane.kind == kind).unwrap()
}

async fn until(condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(HANG, poll).await.expect("the condition comes true");
}

impl Mind {
    fn next(&self, got: Got) -> Answer {
        let kind = got.kind;
        let _ = self.got.send(got);
        self.answers.lock().unwrap().get_mut(&kind).and_then(VecDeque::pop_front).unwrap_or(Answer::Ok)
    }

    async fn over_grpc(
        &self,
        kind: Kind,
        headers: HeaderMap,
        message: batch::Message,
    ) -> Result<Option<(i64, String)>, Status> {
        match self.next(Got { kind, headers, raw: Bytes::new(), message }) {
            Answer::Partial(rejected, message) => Ok(Some((rejected, message))),
            Answer::Grpc(status) => Err(status),
            Answer::Silence => std::future::pending().await,
            _ => Ok(None),
        }
    }
}

macro_rules! service {
    ($service:ident, $kind:ident, $request:ident, $response:ident, $partial:ident, $rejected:ident) => {
        #[tonic::async_trait]
        impl $service for Mind {
            async fn export(
                &self,
                request: tonic::Request<$request>,
            ) -> Result<tonic::Response<$response>, Status> {
                let (metadata, _, message) = request.into_parts();
                let message = batch::Message::$kind(message);
                let partial = self.over_grpc(Kind::$kind, metadata.into_headers(), message).await?;
                let partial_success =
                    partial.map(|($rejected, error_message)| $partial { $rejected, error_message });
                Ok(tonic::Response::new($response { partial_success }))
            }
        }
    };
}

service!(
    TraceService,
    Traces,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
    ExportTracePartialSuccess,
    rejected_spans
);
service!(
    MetricsService,
    Metrics,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
    ExportMetricsPartialSuccess,
    rejected_data_points
);
service!(
    LogsService,
    Logs,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
    ExportLogsPartialSuccess,
    rejected_log_records
);

async fn over_http(State(mind): State<Mind>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let raw = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let mut plain = raw.to_vec();
    if head.headers.get("content-encoding").is_some_and(|coding| coding == "gzip") {
        plain.clear();
        flate2::read::GzDecoder::new(raw.as_ref()).read_to_end(&mut plain).unwrap();
    }
    let kind = *Kind::ALL.iter().find(|kind| head.uri.path() == format!("/v1/{kind}")).unwrap();
    let json = head.headers["content-type"] == "application/json";
    let message = match kind {
        _ if json => json::tests::decode(std::str::from_utf8(&plain).unwrap()),
        Kind::Traces => batch::Message::Traces(prost::Message::decode(plain.as_slice()).unwrap()),
        Kind::Metrics => batch::Message::Metrics(prost::Message::decode(plain.as_slice()).unwrap()),
        Kind::Logs => batch::Message::Logs(prost::Message::decode(plain.as_slice()).unwrap()),
    };
    let answer = Response::builder().header("content-type", head.headers["content-type"].clone());
    match mind.next(Got { kind, headers: head.headers, raw, message }) {
        Answer::Partial(rejected, error_message) if json => {
            let partial = serde_json::json!({"partialSuccess": {
                "rejectedSpans": rejected.to_string(), "errorMessage": error_message}});
            answer.body(partial.to_string().into()).unwrap()
        }
        Answer::Partial(rejected_spans, error_message) => {
            let partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message });
            answer.body(ExportTraceServiceResponse { partial_success }.encode_to_vec().into()).unwrap()
        }
        Answer::Http(status, header, body) => {
            let answer = header.into_iter().fold(answer, |answer, (name, value)| answer.header(name, value));
            answer.status(status).body(body.into()).unwrap()
        }
        Answer::Silence => std::future::pending().await,
        _ => answer.body(Body::empty()).unwrap(),
    }
}

#[tokio::test]
async fn all_signals_reach_the_collector() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf, Protocol::HttpJson] {
        let mut collector = Collector::start().await;
        let exporter = start(&collector.options(protocol));
        let a = resource("a");
        let mut with_event = span(&a, 1, "first");
        if let Signal::Span { span, .. } = &mut with_event.signal {
            span.events.push(event("agentsight.x"));
        }
        exporter.send(with_event);
        exporter.send(measurement_item(&a, "m", 7));
        assert_eq!(exporter.flush(HANG).await, [], "{protocol:?}");
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let got = collector.next().await;
            kinds.push(got.kind);
            let agent = got.headers["user-agent"].to_str().unwrap();
            assert!(agent.starts_with(USER_AGENT), "{agent}");
            match got.message {
                batch::Message::Traces(traces) => {
                    let group = &traces.resource_spans[0];
                    assert_eq!(group.scope_spans[0].scope.as_ref().unwrap().name, "agentsight");
                    assert_eq!(group.schema_url, "https://opentelemetry.io/schemas/1.41.1");
                    assert!(group.scope_spans[0].spans[0].events.is_empty());
                }
                batch::Message::Logs(logs) => {
                    let record = &logs.resource_logs[0].scope_logs[0].log_records[0];
                    assert_eq!((&record.trace_id, &record.span_id), (&vec![1; 16], &vec![1; 8]));
                }
                batch::Message::Metrics(metrics) => {
                    assert_eq!(metrics.resource_metrics[0].scope_metrics[0].metrics.len(), 1);
                }
            }
        }
        kinds.sort();
        assert_eq!(kinds, Kind::ALL);
        assert!(exporter.stats().lanes.iter().all(|lane| lane.sent == 1 && lane.last_success.is_some()));
    }
}

#[tokio::test]
async fn every_grpc_code_is_retried_or_refused_by_the_table() {
    let mut collector = Collector::start().await;
    for code in (1..=16).map(Code::from_i32) {
        collector.answer(Kind::Traces, [Answer::Grpc(Status::new(code, "why"))]);
        let exporter = start(&collector.options(Protocol::Grpc));
        exporter.send(span(&resource("a"), 1, "x"));
        let losses = exporter.flush(HANG).await;
        let again = matches!(
            code,
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss
        );
        let lane = one(&exporter, Kind::Traces);
        assert_eq!(collector.count(), if again { 2 } else { 1 }, "{code:?}");
        assert_eq!((lane.sent, lane.retries), if again { (1, 1) } else { (0, 0) }, "{code:?}");
        assert_eq!(lane.dropped(Cause::Refused), u64::from(!again), "{code:?}");
        assert_eq!(losses.is_empty(), again);
        assert!(lane.last_error.unwrap().1.contains(": why"));
    }
}

#[tokio::test]
async fn every_http_status_is_retried_or_refused_by_the_table() {
    let mut collector = Collector::start().await;
    let why = retry::RpcStatus { code: 0, message: "why".to_owned(), details: Vec::new() }.encode_to_vec();
    for status in [301, 303, 307, 400, 401, 403, 404, 408, 413, 415, 429, 500, 501, 502, 503, 504, 505, 599] {
        let location = Some(("location", "/v1/traces".to_owned()));
        collector.answer(Kind::Traces, [Answer::Http(status, location, why.clone())]);
        let exporter = start(&collector.options(Protocol::HttpProtobuf));
        exporter.send(span(&resource("a"), 1, "x"));
        exporter.flush(HANG).await;
        let again = [429, 502, 503, 504].contains(&status);
        let lane = one(&exporter, Kind::Traces);
        assert_eq!(collector.count(), if again { 2 } else { 1 }, "{status}");
        assert_eq!((lane.sent, lane.retries), if again { (1, 1) } else { (0, 0) }, "{status}");
        assert_eq!(lane.dropped(Cause::Refused), u64::from(!again), "{status}");
        assert!(lane.last_error.unwrap().1.ends_with(": why"));
    }
}

#[tokio::test]
async fn an_exhausted_resource_with_retry_info_is_sent_again_after_the_delay() {
    let mut collector = Collector::start().await;
    let status = Status::with_details(Code::ResourceExhausted, "", retry_details(0, 20_000_000));
    collector.answer(Kind::Traces, [Answer::Grpc(status)]);
    // A wait of our own would be too long for the test.
    let slow = Retry { first: HOUR, longest: HOUR, give_up_after: HOUR };
    let exporter = start(&Options { retry: slow, ..collector.options(Protocol::Grpc) });
    exporter.send(span(&resource("a"), 1, "x"));
    collector.next().await;
    collector.next().await;
    assert_eq!(exporter.flush(HANG).await, []);
}

#[tokio::test]
async fn retry_after_is_kept_in_seconds_and_as_a_date() {
    for date in [false, true] {
        let mut collector = Collector::start().await;
        // Dates are cut to seconds: two ahead are at least one.
        let value = if date {
            httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2))
        } else {
            "1".to_owned()
        };
        collector.answer(Kind::Traces, [Answer::Http(503, Some(("retry-after", value)), Vec::new())]);
        let slow = Retry { first: HOUR, longest: HOUR, give_up_after: HOUR };
        let exporter = start(&Options { retry: slow, ..collector.options(Protocol::HttpProtobuf) });
        exporter.send(span(&resource("a"), 1, "x"));
        collector.next().await;
        collector.next().await;
        assert_eq!(exporter.flush(HANG).await, []);
    }
}

#[tokio::test]
async fn the_end_does_not_cut_short_a_wait_that_the_collector_asked_for() {
    let mut collector = Collector::start().await;
    let status = Status::with_details(Code::Unavailable, "", retry_details(1000, 0));
    collector.answer(Kind::Traces, [Answer::Grpc(status)]);
    let exporter = start(&collector.options(Protocol::Grpc));
    exporter.send(span(&resource("a"), 1, "x"));
    collector.next().await;
    let losses = exporter.flush(Duration::from_secs(900)).await;
    assert_eq!(losses.len(), 1, "given up at once: no attempt was possible before the end");
    assert_eq!((losses[0].cause, losses[0].count), (Cause::Unsent, 1));
    assert_eq!(collector.count(), 0);
}

#[tokio::test]
async fn a_request_that_fails_for_too_long_is_given_up() {
    let collector = Collector::start().await;
    let retry = Retry { give_up_after: Duration::from_millis(20), ..collector.options(Protocol::Grpc).retry };
    let away = Answer::Grpc(Status::unavailable(""));
    collector.answer(Kind::Traces, std::iter::repeat_n(away, 1000));
    let exporter = start(&Options { retry, ..collector.options(Protocol::Grpc) });
    exporter.send(span(&resource("a"), 1, "x"));
    until(|| one(&exporter, Kind::Traces).dropped(Cause::RetriesExhausted) == 1).await;
    collector.mind.answers.lock().unwrap().clear();
    exporter.send(span(&resource("a"), 1, "y"));
    until(|| one(&exporter, Kind::Traces).sent == 1).await;
}

#[tokio::test]
async fn a_partial_success_is_counted_and_not_sent_again() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf, Protocol::HttpJson] {
        let mut collector = Collector::start().await;
        collector.answer(
            Kind::Traces,
            [
                Answer::Partial(2, "too old".to_owned()),
                Answer::Partial(0, "be careful".to_owned()),
                Answer::Partial(-5, String::new()),
                Answer::Partial(i64::MAX, String::new()),
            ],
        );
        let mut options = collector.options(protocol);
        options.config.batching.spans = Batch { delay: HOUR, items: 3 };
        let exporter = start(&options);
        for _ in 0..12 {
            exporter.send(span(&resource("a"), 1, "x"));
        }
        let losses = exporter.flush(HANG).await;
        assert_eq!(collector.count(), 4);
        let lane = one(&exporter, Kind::Traces);
        assert_eq!((lane.sent, lane.dropped(Cause::Rejected), lane.retries), (1 + 3 + 3, 2 + 3, 0));
        assert_eq!(losses.len(), 1);
        assert!(
            losses[0].to_string().starts_with("5 spans were rejected by http://127.0.0.1:"),
            "{}",
            losses[0]
        );
    }
}

#[tokio::test]
async fn an_answer_above_its_limit_is_a_failure_for_good() {
    for protocol in BOTH {
        let mut collector = Collector::start().await;
        collector.answer(Kind::Traces, [Answer::Partial(0, "x".repeat(5 << 20))]);
        let exporter = start(&collector.options(protocol));
        exporter.send(span(&resource("a"), 1, "x"));
        exporter.flush(HANG).await;
        assert_eq!(collector.count(), 1, "{protocol:?}");
        assert_eq!(one(&exporter, Kind::Traces).dropped(Cause::Refused), 1, "{protocol:?}");
    }
}

#[tokio::test]
async fn an_attempt_without_an_answer_times_out_and_is_repeated() {
    for protocol in BOTH {
        let mut collector = Collector::start().await;
        collector.answer(Kind::Traces, [Answer::Silence]);
        let mut options = collector.options(protocol);
        options.config.traces.as_mut().unwrap().timeout = Duration::from_millis(200);
        let exporter = start(&options);
        exporter.send(span(&resource("a"), 1, "x"));
        collector.next().await;
        collector.next().await;
        assert_eq!(exporter.flush(HANG).await, [], "{protocol:?}");
        let error = one(&exporter, Kind::Traces).last_error.unwrap().1;
        assert_eq!(error, "no answer within 200ms");
    }
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_is_made_again() {
    for protocol in BOTH {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let exporter = start(&options_for("http", address, protocol));
        exporter.send(span(&resource("a"), 1, "x"));
        drop(listener.accept().await.unwrap());
        drop(listener);
        let mut collector = Collector::again_at(address).await;
        collector.next().await;
        assert_eq!(exporter.flush(HANG).await, [], "{protocol:?}");
        assert!(one(&exporter, Kind::Traces).retries > 0);
    }
}

#[tokio::test]
async fn a_collector_that_goes_and_comes_back_misses_only_what_the_queue_could_not_hold() {
    for protocol in BOTH {
        let collector = Collector::start().await;
        let address = collector.address;
        let weight = queue::weight(&span(&resource("a"), 1, "00"));
        let mut options = collector.options(protocol);
        options.queue_bytes = weight * 10;
        options.config.batching.spans.items = 4;
        let exporter = start(&options);
        let mut collector = collector;
        exporter.send(span(&resource("a"), 1, "before"));
        assert_eq!(collector.next().await.names(), ["before"]);
        until(|| one(&exporter, Kind::Traces).sent == 1).await;
        drop(collector);
        until(|| std::net::TcpListener::bind(address).is_ok()).await;
        for i in 0..25 {
            exporter.send(span(&resource("a"), 1, &format!("{i:02}")));
        }
        until(|| one(&exporter, Kind::Traces).retries > 1).await;
        let lane = one(&exporter, Kind::Traces);
        assert_eq!((lane.waiting, lane.waiting_bytes), (10, 10 * weight as u64));
        assert_eq!((lane.sent, lane.dropped(Cause::QueueFull)), (1, 15));
        let error = lane.last_error.unwrap().1;
        assert!(error.contains("Connection refused"), "the cause is told: {error}");
        let mut collector = Collector::again_at(address).await;
        let losses = exporter.flush(HANG).await;
        let mut names = Vec::new();
        while let Ok(got) = collector.got.try_recv() {
            names.extend(got.names());
        }
        let expected: Vec<_> = (0..10).map(|i| format!("{i:02}")).collect();
        assert_eq!(names, expected, "the oldest, in order");
        assert_eq!(
            losses.iter().map(|loss| (loss.cause, loss.count)).collect::<Vec<_>>(),
            [(Cause::QueueFull, 15)]
        );
        assert_eq!(one(&exporter, Kind::Traces).waiting_bytes, 0);
    }
}

#[tokio::test]
async fn one_signals_retries_do_not_hold_up_another() {
    let mut collector = Collector::start().await;
    collector.answer(Kind::Traces, std::iter::repeat_n(Answer::Http(503, None, Vec::new()), 100_000));
    let exporter = start(&collector.options(Protocol::HttpProtobuf));
    exporter.send(span(&resource("a"), 1, "x"));
    until(|| one(&exporter, Kind::Traces).retries > 1).await;
    exporter.send(log_item(&resource("a"), Some(context(1)), event("agentsight.x")));
    while collector.next().await.kind != Kind::Logs {}
    until(|| one(&exporter, Kind::Logs).sent == 1).await;
    assert_eq!(one(&exporter, Kind::Traces).sent, 0);
}

#[tokio::test]
async fn a_flush_ends_in_time_and_counts_what_was_not_sent() {
    for protocol in BOTH {
        // Connections are taken by the kernel, and nobody ever answers.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut options = options_for("http", address, protocol);
        options.config.batching.spans.items = 3;
        let exporter = start(&options);
        for _ in 0..10 {
            exporter.send(span(&resource("a"), 1, "x"));
        }
        exporter.send(measurement_item(&resource("a"), "m", 1));
        let flush = exporter.flush(Duration::from_millis(50));
        let losses = tokio::time::timeout(HANG, flush).await.expect("the flush ends");
        let losses: Vec<_> = losses.iter().map(|loss| (loss.kind, loss.cause, loss.count)).collect();
        assert_eq!(losses, [(Kind::Traces, Cause::Unsent, 10), (Kind::Metrics, Cause::Unsent, 1)]);
        exporter.send(span(&resource("a"), 1, "late"));
        exporter.send(measurement_item(&resource("a"), "m", 1));
        assert_eq!(one(&exporter, Kind::Traces).dropped(Cause::Unsent), 11);
        assert_eq!(one(&exporter, Kind::Metrics).dropped(Cause::Unsent), 2);
    }
}

#[tokio::test]
async fn large_batches_are_split_and_what_fits_nowhere_is_shrunk_or_counted() {
    for protocol in BOTH {
        let mut collector = Collector::start().await;
        let mut options = collector.options(protocol);
        options.shrink = Arc::new(|span, room| {
            let fits = !span.name.starts_with("stubborn");
            if fits {
                span.name.truncate(room / 2);
            }
            fits
        });
        let exporter = start(&options);
        let a = resource("a");
        for _ in 0..8 {
            exporter.send(span(&a, 1, &"x".repeat(1 << 20)));
        }
        exporter.send(span(&a, 1, &"y".repeat(5 << 20)));
        exporter.send(span(&a, 1, &format!("stubborn{}", "z".repeat(5 << 20))));
        exporter.send(span(&a, 1, "last"));
        let losses = exporter.flush(HANG).await;
        assert_eq!(losses.iter().map(|l| (l.cause, l.count)).collect::<Vec<_>>(), [(Cause::TooLarge, 1)]);
        let mut spans = 0;
        while let Ok(got) = collector.got.try_recv() {
            assert!(got.message.encode().len() <= LIMIT);
            spans += got.names().len();
        }
        assert_eq!(spans, 10, "{protocol:?}");
    }
}

#[tokio::test]
async fn content_is_cut_by_default_where_a_span_fits_no_request() {
    let mut collector = Collector::start().await;
    let exporter =
        start(&Options { shrink: Options::new(nothing()).shrink, ..collector.options(Protocol::Grpc) });
    let mut item = span(&resource("a"), 1, "x");
    if let Signal::Span { span, .. } = &mut item.signal {
        let text = "x".repeat(6 << 20);
        let messages = format!(r#"[{{"role":"user","parts":[{{"type":"text","content":"{text}"}}]}}]"#);
        let content = agentsight_genai::telemetry::Value::Str(messages.into());
        span.attributes.push(("gen_ai.input.messages".into(), content));
    }
    exporter.send(item);
    assert_eq!(exporter.flush(HANG).await, []);
    let size = collector.next().await.message.encode().len();
    assert!(size > LIMIT / 2 && size <= LIMIT, "{size}");
}

#[tokio::test]
async fn gzip_and_headers_are_sent_over_grpc() {
    let mut collector = Collector::start().await;
    let mut options = collector.options(Protocol::Grpc);
    let target = options.config.traces.as_mut().unwrap();
    target.gzip = true;
    target.headers.insert("authorization", "Bearer x".parse().unwrap());
    let exporter = start(&options);
    exporter.send(span(&resource("a"), 1, "x"));
    let got = collector.next().await;
    assert_eq!(got.headers["authorization"], "Bearer x");
    assert_eq!(got.headers["grpc-encoding"], "gzip");
    assert_eq!(exporter.flush(HANG).await, []);
}

#[tokio::test]
async fn gzip_and_headers_are_sent_over_http() {
    for protocol in [Protocol::HttpProtobuf, Protocol::HttpJson] {
        let mut collector = Collector::start().await;
        let mut options = collector.options(protocol);
        let target = options.config.traces.as_mut().unwrap();
        target.gzip = true;
        target.headers.insert("x-tenant", "t".parse().unwrap());
        let exporter = start(&options);
        exporter.send(span(&resource("a"), 1, &"x".repeat(10_000)));
        let got = collector.next().await;
        assert_eq!(got.headers["x-tenant"], "t");
        assert_eq!(got.headers["content-encoding"], "gzip");
        assert!(got.raw.len() < 1000);
        assert_eq!(exporter.flush(HANG).await, []);
    }
}

#[tokio::test]
async fn a_grpc_answer_that_would_panic_is_only_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let broken = [
        ("content-type", "application/grpc"),
        ("grpc-status", "8"),
        ("grpc-status-details-bin", "!not base64!"),
    ];
    let router: Router = Router::new().fallback(move || async move { (broken, "") });
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let exporter = start(&options_for("http", address, Protocol::Grpc));
    exporter.send(span(&resource("a"), 1, "x"));
    exporter.flush(HANG).await;
    assert_eq!(one(&exporter, Kind::Traces).dropped(Cause::Refused), 1);
    task.abort();
}

#[tokio::test]
async fn metrics_are_exported_at_each_interval() {
    let mut collector = Collector::start().await;
    let mut options = collector.options(Protocol::HttpProtobuf);
    options.config.batching.metric_interval = Duration::from_millis(5);
    let exporter = start(&options);
    exporter.send(measurement_item(&resource("a"), "m", 1));
    assert_eq!(collector.next().await.kind, Kind::Metrics);
    assert_eq!(collector.next().await.kind, Kind::Metrics, "cumulative points are sent again");
    assert_eq!(exporter.flush(HANG).await, []);
}

#[tokio::test]
async fn an_exporter_without_sinks_takes_everything_and_does_nothing() {
    let exporter = start(&options(nothing()));
    exporter.send(span(&resource("a"), 1, "x"));
    assert_eq!(exporter.flush(HANG).await, []);
    assert!(exporter.stats().lanes.is_empty());
}

/// An authority, and what it signed, in files.
struct Certificates {
    directory: tempfile::TempDir,
    acceptor: TlsAcceptor,
}

impl Certificates {
    /// For a server at 127.0.0.1 that takes only clients with a certificate of the same authority.
    fn new() -> Certificates {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let write =
            |name: &str, content: String| std::fs::write(directory.path().join(name), content).unwrap();
        write("ca.pem", authority.pem());
        let sign = |names: Vec<String>| {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
            (certificate, key)
        };
        let (certificate, key) = sign(vec!["agent".to_owned()]);
        write("client.pem", certificate.pem());
        write("client.key", key.serialize_pem());
        let other = CertificateParams::new(Vec::new()).unwrap();
        write("other.pem", other.self_signed(&KeyPair::generate().unwrap()).unwrap().pem());

        let (certificate, key) = sign(vec!["127.0.0.1".to_owned()]);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let clients =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Certificates { directory, acceptor: TlsAcceptor::from(Arc::new(server)) }
    }

    fn file(&self, name: &str) -> PemFile {
        PemFile { setting: "SETTING".to_owned(), path: self.directory.path().join(name) }
    }
}

struct TlsListener(TcpListener, TlsAcceptor);

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = self.0.accept().await.unwrap();
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[tokio::test]
async fn tls_works_with_an_own_authority_and_a_client_certificate() {
    let certificates = Certificates::new();
    for protocol in BOTH {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let acceptor = certificates.acceptor.clone();
        let mut collector = Collector::serving(address, "https", move || {
            TlsListener(TcpListener::from_std(listener).unwrap(), acceptor)
        });
        let with = |ca: &str, client: bool| {
            let mut options = collector.options(protocol);
            let target = options.config.traces.as_mut().unwrap();
            target.tls.ca = Some(certificates.file(ca));
            target.tls.identity =
                client.then(|| (certificates.file("client.pem"), certificates.file("client.key")));
            options.config.metrics = None;
            options.config.logs = None;
            let exporter = start(&options);
            exporter.send(span(&resource("a"), 1, "x"));
            exporter
        };
        for (ca, client) in [("other.pem", true), ("ca.pem", false)] {
            let exporter = with(ca, client);
            until(|| one(&exporter, Kind::Traces).retries > 0).await;
            assert_eq!(one(&exporter, Kind::Traces).sent, 0, "{protocol:?} {ca} {client}");
        }
        let exporter = with("ca.pem", true);
        assert_eq!(exporter.flush(HANG).await, [], "{protocol:?}");
        assert_eq!(collector.next().await.names(), ["x"]);
    }
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_errors_that_name_their_setting() {
    let certificates = Certificates::new();
    std::fs::write(certificates.directory.path().join("empty.pem"), "nothing").unwrap();
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    for protocol in BOTH {
        let mut options = options_for("https", nobody, protocol);
        let mut fails = |ca: &str| {
            options.config.traces.as_mut().unwrap().tls.ca = Some(certificates.file(ca));
            let error = Exporter::start(&Handle::current(), &options).err().unwrap();
            error.to_string()
        };
        assert!(fails("missing.pem").starts_with("cannot read /"), "{}", fails("missing.pem"));
        let error = fails("empty.pem");
        assert!(error.contains("empty.pem that SETTING names"), "{error}");
    }
}

/// A file with everything in it, and the exporter that wrote it.
async fn written() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("otlp.jsonl");
    let exporter = start(&Options { json_file: Some(path.clone()), ..options(nothing()) });
    let (a, b) = (resource("a"), resource("b"));
    for i in 1..=20 {
        let mut item = span(if i % 2 == 0 { &a } else { &b }, i, "chat gpt-test");
        if let Signal::Span { span, .. } = &mut item.signal {
            span.events.push(event("agentsight.test"));
        }
        exporter.send(item);
        exporter.send(measurement_item(&a, "gpt-test", i64::from(i)));
    }
    assert_eq!(exporter.flush(HANG).await, []);
    let sent: Vec<_> = exporter.stats().lanes.iter().map(|lane| (lane.kind, lane.sent)).collect();
    assert_eq!(sent, [(Kind::Traces, 20), (Kind::Metrics, 1), (Kind::Logs, 20)]);
    let content = std::fs::read_to_string(path).unwrap();
    (directory, content)
}

#[tokio::test]
async fn a_file_has_one_request_a_line_of_all_signals() {
    let (_directory, content) = written().await;
    let mut spans = 0;
    let mut kinds = [0; 3];
    for line in content.lines() {
        match json::tests::decode(line) {
            batch::Message::Traces(traces) => {
                kinds[0] += 1;
                spans += traces.resource_spans.iter().map(|r| r.scope_spans[0].spans.len()).sum::<usize>();
            }
            batch::Message::Metrics(_) => kinds[1] += 1,
            batch::Message::Logs(_) => kinds[2] += 1,
        }
    }
    assert_eq!(spans, 20);
    assert!(kinds.iter().all(|lines| *lines > 0), "{kinds:?}");
}

#[tokio::test]
async fn the_conventions_checker_finds_nothing_in_a_file() {
    let shared = std::env::var("AGENTSIGHT_SHARED")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").to_owned());
    let checker = Path::new(&shared).join("semconv/check.py");
    if !checker.exists() {
        println!("skipped: there is no {}", checker.display());
        return;
    }
    let (directory, _) = written().await;
    let output = tokio::process::Command::new("python3")
        .arg(checker)
        .arg(directory.path().join("otlp.jsonl"))
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("20 spans, 20 log records, 1 metrics, 0 violations"), "{said}");
}
