//! OTLP over gRPC.
//!
//! Requests are encoded before, once for all attempts; so one codec that copies bytes serves all signals,
//! and the generated clients, one a signal, are not needed.

use super::config::{Target, Tls};
use super::failure::{Accepted, Failure, chain, words};
use super::http::{no_pem, partial, pem};
use super::kind::Kind;
use super::retry::{self, Again};
use super::stats::Cause;
use super::{StartError, USER_AGENT};
use bytes::{Buf, BufMut, Bytes};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Extensions, Request, Status};

#[derive(Clone)]
pub(super) struct Grpc {
    connection: Arc<Connection>,
    kind: Kind,
    metadata: MetadataMap,
    gzip: bool,
    timeout: Duration,
}

/// One connection at a time, made when it is needed.
struct Connection {
    endpoint: Endpoint,
    channel: Mutex<Channel>,
}

impl Grpc {
    /// To be called where a tokio runtime is entered.
    pub(super) fn new(kind: Kind, target: &Target) -> Result<Grpc, StartError> {
        let endpoint = endpoint(target)?;
        let channel = Mutex::new(endpoint.connect_lazy());
        Ok(Grpc {
            connection: Arc::new(Connection { endpoint, channel }),
            kind,
            metadata: MetadataMap::from_headers(target.headers.clone()),
            gzip: target.gzip,
            timeout: target.timeout,
        })
    }

    pub(super) async fn attempt(&self, body: Bytes) -> Result<Accepted, Failure> {
        match tokio::time::timeout(self.timeout, self.exchange(body)).await {
            Ok(result) => result,
            Err(_) => {
                // A peer that vanished without a word would hold this connection for a quarter of an hour.
                self.connection.renew();
                Err(Failure {
                    text: format!("no answer within {:?}", self.timeout),
                    advice: "check that the collector can be reached, or raise OTEL_EXPORTER_OTLP_TIMEOUT",
                    again: Again::Backoff,
                    cause: Cause::RetriesExhausted,
                })
            }
        }
    }

    async fn exchange(&self, body: Bytes) -> Result<Accepted, Failure> {
        let mut grpc = tonic::client::Grpc::new(self.connection.channel());
        if self.gzip {
            grpc = grpc.send_compressed(CompressionEncoding::Gzip);
        }
        grpc = grpc.accept_compressed(CompressionEncoding::Gzip);
        if let Err(error) = grpc.ready().await {
            self.connection.renew();
            return Err(unreachable(chain(&error)));
        }
        let path = PathAndQuery::from_static(self.kind.grpc_path());
        let request = Request::from_parts(self.metadata.clone(), Extensions::default(), body);
        // Tonic panics on a status whose details are not base64, which is the peer's to choose.
        match unwinding(grpc.unary(request, path, Raw)).await {
            None => {
                self.connection.renew();
                Err(Failure {
                    text: "the collector's answer is no gRPC".to_owned(),
                    advice: "check that the endpoint is an OTLP collector that speaks gRPC",
                    again: Again::Never,
                    cause: Cause::Refused,
                })
            }
            Some(Ok(response)) => {
                let (rejected, message) = partial(self.kind, response.get_ref()).unwrap_or_default();
                Ok(Accepted { rejected: u64::try_from(rejected).unwrap_or(0), message: words(&message) })
            }
            Some(Err(status)) => Err(failure(&status)),
        }
    }
}

impl Connection {
    fn channel(&self) -> Channel {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn renew(&self) {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = self.endpoint.connect_lazy();
    }
}

pub(super) fn endpoint(target: &Target) -> Result<Endpoint, StartError> {
    let client =
        |error: tonic::transport::Error| StartError::Client { to: target.shown(), reason: chain(&error) };
    let mut endpoint = Endpoint::from_shared(target.shown())
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(client)?
        .connect_timeout(target.timeout)
        .tcp_keepalive(Some(Duration::from_secs(60)));
    if target.url.scheme() == "https" {
        let Tls { ca, identity } = &target.tls;
        let mut tls = ClientTlsConfig::new();
        tls = match ca {
            Some(ca) => {
                let content = pem(ca)?;
                if !content.windows(27).any(|text| text == b"-----BEGIN CERTIFICATE-----") {
                    return Err(no_pem(ca, "certificate"));
                }
                tls.ca_certificate(Certificate::from_pem(content))
            }
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(pem(certificate)?, pem(key)?));
        }
        endpoint = endpoint.tls_config(tls).map_err(client)?;
    }
    Ok(endpoint)
}

fn failure(status: &Status) -> Failure {
    // A source tells that the status was made here, from a connection that could not be made or ended.
    if let Some(source) = std::error::Error::source(status) {
        return unreachable(chain(source));
    }
    // By the specification an answer above the limit (4 MiB, tonic's default) is not worth a retry, yet
    // tonic gives it a code that is.
    let too_long =
        status.code() == Code::OutOfRange && status.message().starts_with("Error, decoded message");
    let again = if too_long { Again::Never } else { retry::after_grpc(status) };
    let said =
        if status.message().is_empty() { String::new() } else { format!(": {}", words(status.message())) };
    Failure {
        text: format!("the collector answered {:?}{said}", status.code()),
        advice: match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => {
                "check the credentials in OTEL_EXPORTER_OTLP_HEADERS"
            }
            Code::Unimplemented => {
                "check that the endpoint is an OTLP collector that takes this signal over gRPC"
            }
            Code::ResourceExhausted => "raise the collector's limits on request sizes or rates",
            Code::Unavailable => "the collector is overloaded or away",
            _ => "see the collector's log",
        },
        again,
        cause: if again == Again::Never { Cause::Refused } else { Cause::RetriesExhausted },
    }
}

fn unreachable(text: String) -> Failure {
    Failure {
        text,
        advice: "check that the collector runs, can be reached and speaks gRPC there (for HTTP: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf); for TLS that OTEL_EXPORTER_OTLP_CERTIFICATE names its CA",
        again: Again::Backoff,
        cause: Cause::RetriesExhausted,
    }
}

/// The future's output, or none if it panics.
async fn unwinding<F: Future>(future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    std::future::poll_fn(move |context| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(poll) => poll.map(Some),
            Err(_) => std::task::Poll::Ready(None),
        }
    })
    .await
}

/// Messages as the bytes that they are encoded in.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
