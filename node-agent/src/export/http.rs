//! OTLP over HTTP, with protobuf or JSON.

use super::batch::Message;
use super::config::{PemFile, Protocol, Target, Tls};
use super::failure::{Accepted, Failure, chain, words};
use super::json;
use super::kind::Kind;
use super::retry::{self, Again, RpcStatus};
use super::stats::Cause;
use super::{StartError, USER_AGENT};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Identity, Response, StatusCode, Url};
use std::io::Write;
use std::time::{Duration, SystemTime};

/// The largest answer that is read, by the specification.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;

#[derive(Clone)]
pub(super) struct Http {
    client: Client,
    kind: Kind,
    url: Url,
    headers: HeaderMap,
    json: bool,
    gzip: bool,
    timeout: Duration,
}

impl Http {
    pub(super) fn new(kind: Kind, target: &Target) -> Result<Http, StartError> {
        let json = target.protocol == Protocol::HttpJson;
        let mut headers = target.headers.clone();
        let media = if json { "application/json" } else { "application/x-protobuf" };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
        if target.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(Http {
            client: client(target)?,
            kind,
            url: target.url.clone(),
            headers,
            json,
            gzip: target.gzip,
            timeout: target.timeout,
        })
    }

    /// The body, made once for all attempts.
    pub(super) fn encode(&self, message: &Message) -> Bytes {
        let plain = if self.json { json::encode(message) } else { message.encode() };
        if !self.gzip {
            return plain.into();
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&plain).and_then(|()| gzip.finish()).expect("a Vec takes every write").into()
    }

    pub(super) async fn attempt(&self, body: Bytes) -> Result<Accepted, Failure> {
        match tokio::time::timeout(self.timeout, self.exchange(body)).await {
            Ok(result) => result,
            Err(_) => Err(Failure {
                text: format!("no answer within {:?}", self.timeout),
                advice: "check that the collector can be reached, or raise OTEL_EXPORTER_OTLP_TIMEOUT",
                again: Again::Backoff,
                cause: Cause::RetriesExhausted,
            }),
        }
    }

    async fn exchange(&self, body: Bytes) -> Result<Accepted, Failure> {
        let request = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        let response = request.send().await.map_err(no_answer)?;
        let status = response.status();
        if status.is_success() {
            // Taken, even if the answer is cut short: only its warning is lost then.
            return match read(response).await {
                Read::Whole(answer) => Ok(self.accepted(&answer)),
                Read::Cut => Ok(Accepted::default()),
                Read::TooLong => Err(Failure {
                    text: format!("the answer is above {LONGEST_ANSWER} bytes"),
                    advice: "check that the endpoint is an OTLP collector",
                    again: Again::Never,
                    cause: Cause::Refused,
                }),
            };
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let again = retry::after_http(status.as_u16(), retry_after, SystemTime::now());
        let is_json = is_json(&response);
        let answer = match read(response).await {
            Read::Whole(answer) => answer,
            Read::Cut | Read::TooLong => Bytes::new(),
        };
        let why = said(&answer, is_json).map(|said| format!(": {said}")).unwrap_or_default();
        Err(Failure {
            text: format!("the collector answered {status}{why}"),
            advice: advice(status),
            again,
            cause: if again == Again::Never { Cause::Refused } else { Cause::RetriesExhausted },
        })
    }

    fn accepted(&self, answer: &[u8]) -> Accepted {
        let found = if self.json { partial_json(self.kind, answer) } else { partial(self.kind, answer) };
        let (rejected, message) = found.unwrap_or_default();
        Accepted { rejected: u64::try_from(rejected).unwrap_or(0), message: words(&message) }
    }
}

/// The rejected count and message of an export response; the same for gRPC.
pub(super) fn partial(kind: Kind, answer: &[u8]) -> Option<(i64, String)> {
    match kind {
        Kind::Traces => {
            let partial = ExportTraceServiceResponse::decode(answer).ok()?.partial_success?;
            Some((partial.rejected_spans, partial.error_message))
        }
        Kind::Metrics => {
            let partial = ExportMetricsServiceResponse::decode(answer).ok()?.partial_success?;
            Some((partial.rejected_data_points, partial.error_message))
        }
        Kind::Logs => {
            let partial = ExportLogsServiceResponse::decode(answer).ok()?.partial_success?;
            Some((partial.rejected_log_records, partial.error_message))
        }
    }
}

fn partial_json(kind: Kind, answer: &[u8]) -> Option<(i64, String)> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    let partial = answer.get("partialSuccess")?;
    let rejected = partial.get(kind.rejected_field());
    // 64 bits: as text by the rules, but not every server follows them.
    let rejected = rejected
        .and_then(|value| value.as_i64().or_else(|| value.as_str()?.parse().ok()))
        .unwrap_or_default();
    let message = partial.get("errorMessage").and_then(serde_json::Value::as_str).unwrap_or_default();
    Some((rejected, message.to_owned()))
}

pub(super) fn client(target: &Target) -> Result<Client, StartError> {
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        // A redirect would turn the POST into a GET, or carry credentials to another host.
        .redirect(Policy::none())
        .connect_timeout(target.timeout);
    if is_local(&target.url) {
        // What runs on this machine is not behind a proxy.
        builder = builder.no_proxy();
    }
    let Tls { ca, identity } = &target.tls;
    if target.url.scheme() == "http" {
        // Else the system's roots would be needed, which a minimal container does not have.
        builder = builder.tls_certs_only([]);
    } else if let Some(ca) = ca {
        let roots = Certificate::from_pem_bundle(&pem(ca)?).map_err(|e| bad_pem(ca, &e))?;
        if roots.is_empty() {
            return Err(no_pem(ca, "certificate"));
        }
        builder = builder.tls_certs_only(roots);
    }
    if let Some((certificate, key)) = identity {
        let mut both = pem(certificate)?;
        both.push(b'\n');
        both.extend(pem(key)?);
        builder = builder.identity(Identity::from_pem(&both).map_err(|e| bad_pem(certificate, &e))?);
    }
    builder.build().map_err(|error| StartError::Client { to: target.shown(), reason: chain(&error) })
}

/// The content of a PEM file.
pub(super) fn pem(file: &PemFile) -> Result<Vec<u8>, StartError> {
    std::fs::read(&file.path).map_err(|source| StartError::Read {
        setting: file.setting.clone(),
        path: file.path.clone(),
        source,
    })
}

fn bad_pem(file: &PemFile, error: &reqwest::Error) -> StartError {
    StartError::Pem { setting: file.setting.clone(), path: file.path.clone(), reason: chain(error) }
}

/// A PEM file without what it should hold.
pub(super) fn no_pem(file: &PemFile, what: &str) -> StartError {
    let reason = format!("it holds no {what} in PEM form");
    StartError::Pem { setting: file.setting.clone(), path: file.path.clone(), reason }
}

fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// No status came: the connection could not be made, or ended.
fn no_answer(error: reqwest::Error) -> Failure {
    Failure {
        advice: if error.is_connect() {
            "check that the collector runs and can be reached; for TLS that OTEL_EXPORTER_OTLP_CERTIFICATE names its CA"
        } else {
            "check that the endpoint is an OTLP collector that speaks HTTP (for gRPC: OTEL_EXPORTER_OTLP_PROTOCOL=grpc)"
        },
        // The URL may hold a token in its query.
        text: chain(&error.without_url()),
        again: Again::Backoff,
        cause: Cause::RetriesExhausted,
    }
}

enum Read {
    Whole(Bytes),
    Cut,
    TooLong,
}

async fn read(mut response: Response) -> Read {
    let mut answer = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if answer.len() + chunk.len() > LONGEST_ANSWER => return Read::TooLong,
            Ok(Some(chunk)) => answer.extend_from_slice(&chunk),
            Ok(None) => return Read::Whole(answer.into()),
            Err(_) => return Read::Cut,
        }
    }
}

fn is_json(response: &Response) -> bool {
    let media = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media.is_some_and(|media| media.starts_with("application/json"))
}

/// The message of the `google.rpc.Status` that the specification asks for in an error's body.
fn said(answer: &[u8], is_json: bool) -> Option<String> {
    let message = if is_json {
        let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
        answer.get("message")?.as_str()?.to_owned()
    } else {
        RpcStatus::decode(answer).ok()?.message
    };
    (!message.is_empty()).then(|| words(&message))
}

fn advice(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 => "check the credentials in OTEL_EXPORTER_OTLP_HEADERS",
        404 | 405 => {
            "check the endpoint's path: the base endpoint gets /v1/traces, /v1/metrics and /v1/logs appended"
        }
        413 => "raise the collector's limit on request sizes",
        415 => "set OTEL_EXPORTER_OTLP_PROTOCOL to what the collector speaks",
        429 | 502..=504 => "the collector is overloaded or away",
        300..=399 => "redirects are not followed: name the final endpoint",
        _ => "see the collector's log",
    }
}
