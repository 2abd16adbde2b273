//! The agent's own metrics and log over OTLP, through OpenTelemetry's SDK: beside `/metrics`, for those who have a
//! collector and no Prometheus. They go where the telemetry of others goes, as a resource of their own.
//!
//! Names are those of `/metrics`, with a dot behind the first word: `agentsight_lost_bytes_total` is
//! `agentsight.lost_bytes`, which the collector's Prometheus exporters turn into the former again.

use super::StartError;
use super::config::{Config, Protocol, Target, Temporality};
use super::failure::chain;
use super::{grpc, http};
use crate::health::{Description, Metrics};
use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter, MeterProvider as _};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Compression, ExporterBuildError, LogExporter, MetricExporter};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality as SdkTemporality};
use prometheus_client::metrics::MetricType;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tonic::metadata::MetadataMap;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The agent's own telemetry while it is sent.
pub struct Own {
    metrics: Option<SdkMeterProvider>,
    logs: Option<SdkLoggerProvider>,
}

impl Own {
    /// Sends the metrics, and what `log` gets, wherever the configuration sends metrics and logs.
    ///
    /// # Errors
    /// A file that the configuration names cannot be used.
    pub fn start(runtime: &Handle, config: &Config, metrics: &Metrics, log: &Log) -> Result<Own, StartError> {
        // Connections live on the runtime, whichever thread of the SDK's uses them.
        let _entered = runtime.enter();
        let meters = match &config.metrics {
            None => None,
            Some(target) => {
                let temporality = match config.batching.temporality {
                    Temporality::Cumulative => SdkTemporality::Cumulative,
                    Temporality::Delta => SdkTemporality::Delta,
                };
                let builder = MetricExporter::builder().with_temporality(temporality);
                let exporter = match target.protocol {
                    Protocol::Grpc => over_grpc(builder.with_tonic(), target)?.build(),
                    _ => over_http(builder.with_http(), target, runtime)?.build(),
                };
                let reader = PeriodicReader::builder(exporter.map_err(|error| refused(target, &error))?)
                    .with_interval(config.batching.metric_interval)
                    .build();
                let meters =
                    SdkMeterProvider::builder().with_reader(reader).with_resource(resource()).build();
                observe(&meters.meter("agentsight"), metrics);
                Some(meters)
            }
        };
        let logs = match &config.logs {
            None => None,
            Some(target) => {
                let exporter = match target.protocol {
                    Protocol::Grpc => over_grpc(LogExporter::builder().with_tonic(), target)?.build(),
                    _ => over_http(LogExporter::builder().with_http(), target, runtime)?.build(),
                };
                let exporter = exporter.map_err(|error| refused(target, &error))?;
                let logs = SdkLoggerProvider::builder()
                    .with_batch_exporter(exporter)
                    .with_resource(resource())
                    .build();
                // A second start in one process would find the first one's there, and keep it.
                let _ = log.0.set(OpenTelemetryTracingBridge::new(&logs));
                Some(logs)
            }
        };
        Ok(Own { metrics: meters, logs })
    }

    /// Sends the last numbers and records, for no longer than `within`.
    pub fn finish(self, within: Duration) {
        let ended = [
            self.metrics.map(|metrics| metrics.shutdown_with_timeout(within)),
            self.logs.map(|logs| logs.shutdown_with_timeout(within)),
        ];
        for error in ended.into_iter().flatten().filter_map(Result::err) {
            tracing::warn!(%error, "the agent's own telemetry did not leave whole");
        }
    }
}

/// Where the agent's log passes on its way to a collector; before there is one it goes nowhere. Clones are the same.
#[derive(Clone, Default)]
pub struct Log(Arc<OnceLock<OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger>>>);

impl<S> Layer<S> for Log
where
    S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if let Some(bridge) = self.0.get() {
            bridge.on_event(event, context);
        }
    }
}

/// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are the agent's own here: it was started with them.
fn resource() -> Resource {
    let mut builder =
        Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let names_itself = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !names_itself("OTEL_SERVICE_NAME") && !names_itself("OTEL_RESOURCE_ATTRIBUTES") {
        builder = builder.with_service_name("agentsight");
    }
    if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        builder = builder.with_attribute(KeyValue::new("host.name", host.trim().to_owned()));
    }
    builder.build()
}

fn over_grpc<B: WithTonicConfig + WithExportConfig>(builder: B, target: &Target) -> Result<B, StartError> {
    let builder = builder
        .with_channel(grpc::endpoint(target)?.connect_lazy())
        .with_metadata(MetadataMap::from_headers(target.headers.clone()))
        .with_timeout(target.timeout);
    Ok(if target.gzip { builder.with_compression(Compression::Gzip) } else { builder })
}

fn over_http<B: WithHttpConfig + WithExportConfig>(
    builder: B,
    target: &Target,
    runtime: &Handle,
) -> Result<B, StartError> {
    let client = Client { client: http::client(target)?, target: target.clone(), runtime: runtime.clone() };
    let protocol = match target.protocol {
        Protocol::HttpJson => opentelemetry_otlp::Protocol::HttpJson,
        _ => opentelemetry_otlp::Protocol::HttpBinary,
    };
    let builder = builder
        .with_http_client(client)
        .with_endpoint(target.url.as_str())
        .with_protocol(protocol)
        .with_timeout(target.timeout);
    Ok(if target.gzip { builder.with_compression(Compression::Gzip) } else { builder })
}

fn refused(target: &Target, error: &ExporterBuildError) -> StartError {
    StartError::Client { to: target.shown(), reason: chain(error) }
}

/// The client that the telemetry of others takes, with its certificates, from threads outside of the runtime.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    target: Target,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        headers.extend(self.target.headers.clone());
        let sent =
            self.client.post(parts.uri.to_string()).headers(headers).timeout(self.target.timeout).body(body);
        let answered = self.runtime.spawn(async move {
            let answer = sent.send().await?;
            let mut response = Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                headers.clone_from(answer.headers());
            }
            // The body only tells of partial success; it is read within a bound.
            let body = match answer.content_length() {
                Some(length) if length <= MOST_OF_AN_ANSWER => answer.bytes().await?,
                _ => Bytes::new(),
            };
            Ok::<_, reqwest::Error>(response.body(body))
        });
        Ok(answered.await???)
    }
}

const MOST_OF_AN_ANSWER: u64 = 64 << 10;

/// An instrument for each metric; all of them look at one reading.
fn observe(meter: &Meter, metrics: &Metrics) {
    let readings = Arc::new(Readings { metrics: metrics.clone(), last: Mutex::default() });
    for description in metrics.descriptions() {
        let (name, unit) = (own_name(&description.name), description.unit);
        let callback = {
            let (readings, description) = (readings.clone(), description.clone());
            move |observer: &dyn AsyncInstrument<f64>| readings.tell(&description, observer)
        };
        match description.kind {
            MetricType::Counter => {
                let builder = meter.f64_observable_counter(name).with_description(description.help.clone());
                builder.with_unit(unit).with_callback(callback).build();
            }
            MetricType::Gauge => {
                let builder = meter.f64_observable_gauge(name).with_description(description.help.clone());
                builder.with_unit(unit).with_callback(callback).build();
            }
            // Which agent this is stands in the resource.
            _ => {}
        }
    }
}

fn own_name(name: &str) -> String {
    name.replacen('_', ".", 1)
}

/// The numbers of one moment: the instruments of one collection are asked one after the other.
struct Readings {
    metrics: Metrics,
    last: Mutex<Option<(Instant, Points)>>,
}

/// Samples by name, each with its labels.
type Points = HashMap<String, Vec<(Vec<KeyValue>, f64)>>;

/// Less than between two collections, more than one takes.
const ONE_MOMENT: Duration = Duration::from_millis(500);

impl Readings {
    fn tell(&self, description: &Description, observer: &dyn AsyncInstrument<f64>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(at, _)| at.elapsed() > ONE_MOMENT) {
            let text = self.metrics.text().expect("writing to a String does not fail");
            *last = Some((Instant::now(), points(&text)));
        }
        let sample = match description.kind {
            MetricType::Counter => format!("{}_total", description.name),
            _ => description.name.clone(),
        };
        let Some((_, points)) = &*last else { return };
        for (labels, value) in points.get(&sample).into_iter().flatten() {
            observer.observe(*value, labels);
        }
    }
}

/// The samples of our own OpenMetrics text, by name.
fn points(text: &str) -> Points {
    let mut points = Points::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let Ok(value) = value.parse() else { continue };
        points.entry(name.to_owned()).or_default().push((key_values(labels), value));
    }
    points
}

/// Of `name="value",other="value"}`, where values are escaped with backslashes.
fn key_values(mut labels: &str) -> Vec<KeyValue> {
    let mut found = Vec::new();
    while let Some((name, rest)) = labels.split_once("=\"") {
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, other)) => value.push(other),
                    None => {}
                },
                other => value.push(other),
            }
        }
        found.push(KeyValue::new(name.trim_start_matches(',').to_owned(), value));
        labels = rest.get(end..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{LossLabels, set_total};

    #[test]
    fn what_the_text_says_is_what_is_observed() {
        let metrics = Metrics::new();
        set_total(&metrics.lost_bytes.get_or_create(&LossLabels { stage: "kernel", cause: "fault" }), 7);
        set_total(&metrics.tls_calls, 42);
        let points = points(&metrics.text().expect("text"));
        assert_eq!(
            points["agentsight_lost_bytes_total"],
            [(vec![KeyValue::new("stage", "kernel"), KeyValue::new("cause", "fault")], 7.0)]
        );
        assert_eq!(points["agentsight_tls_calls_total"], [(vec![], 42.0)]);
    }

    #[test]
    fn labels_lose_their_escapes() {
        let labels = key_values(r#"a="x\"y\\z\n",b=""}"#);
        assert_eq!(labels, [KeyValue::new("a", "x\"y\\z\n"), KeyValue::new("b", "")]);
        assert_eq!(key_values("broken=\"x"), [KeyValue::new("broken", "x")]);
    }

    #[test]
    fn every_sample_has_a_description_and_a_name_of_its_own() {
        let metrics = crate::health::filled();
        let described = metrics.descriptions();
        for name in points(&metrics.text().expect("text")).keys() {
            let known = described.iter().any(|it| {
                *name == it.name
                    || *name == format!("{}_total", it.name)
                    || *name == format!("{}_info", it.name)
            });
            assert!(known, "{name} would not be sent");
        }
        assert_eq!(own_name("agentsight_lost_bytes"), "agentsight.lost_bytes");
        assert_eq!(own_name("process_cpu_seconds"), "process.cpu_seconds");
    }
}
