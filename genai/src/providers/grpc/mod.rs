//! Calls by gRPC: which services are read, and one call while it goes by.
//!
//! Each message is read as the JSON that it means ([`crate::protobuf`]), so that a service's format is read by the same
//! code as its REST interface.

mod google;
pub(super) mod xai;

use super::{CallReader, Found, MAX_FACTS, Models, UnknownEndpoint, without_ids};
use crate::call::{Api, Failure, Rpc};
use crate::grpc::{self, Messages, Part, Status};
use crate::http::{Direction, End, Headers, RequestHead, ResponseHead};
use crate::json;
use crate::protobuf::{Message, Transcoder};
use crate::time::Timestamp;
use std::time::Duration;

/// A method whose messages are read.
pub(super) struct Method {
    api: Api,
    request: &'static Message,
    response: &'static Message,
    streams: bool,
}

/// What a request by gRPC is for.
pub(super) enum Asked {
    /// A call in a format that is known.
    Call(Method),
    /// It looks like a call, by its name.
    Unknown,
    /// Anything else.
    Other,
}

/// What the method of that path, `/package.Service/Method`, is.
pub(super) fn method(path: &str) -> Asked {
    let mut segments = path.trim_start_matches('/').rsplitn(2, '/');
    let (name, service) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let known = match service {
        "google.ai.generativelanguage.v1beta.GenerativeService"
        | "google.ai.generativelanguage.v1.GenerativeService"
        | "google.ai.generativelanguage.v1alpha.GenerativeService" => gemini(name),
        "google.cloud.aiplatform.v1.PredictionService"
        | "google.cloud.aiplatform.v1beta1.PredictionService" => vertex(name),
        "xai_api.Chat" => xai_chat(name),
        _ => None,
    };
    match known {
        Some(method) => Asked::Call(method),
        None if looks_like_a_call(name) => Asked::Unknown,
        None => Asked::Other,
    }
}

fn gemini(name: &str) -> Option<Method> {
    let (api, request, response) = match name {
        "GenerateContent" | "StreamGenerateContent" => {
            (Api::GoogleGenerateContent, &google::GEMINI_REQUEST, &google::GEMINI_RESPONSE)
        }
        "EmbedContent" => {
            (Api::GoogleEmbedContent, &google::GEMINI_EMBED_REQUEST, &google::GEMINI_EMBED_RESPONSE)
        }
        "BatchEmbedContents" => (
            Api::GoogleEmbedContent,
            &google::GEMINI_BATCH_EMBED_REQUEST,
            &google::GEMINI_BATCH_EMBED_RESPONSE,
        ),
        _ => return None,
    };
    Some(Method { api, request, response, streams: name.starts_with("Stream") })
}

fn vertex(name: &str) -> Option<Method> {
    let (api, request, response) = match name {
        "GenerateContent" | "StreamGenerateContent" => {
            (Api::GoogleGenerateContent, &google::VERTEX_REQUEST, &google::VERTEX_RESPONSE)
        }
        "EmbedContent" => {
            (Api::GoogleEmbedContent, &google::VERTEX_EMBED_REQUEST, &google::VERTEX_EMBED_RESPONSE)
        }
        _ => return None,
    };
    Some(Method { api, request, response, streams: name.starts_with("Stream") })
}

fn xai_chat(name: &str) -> Option<Method> {
    let (response, streams) = match name {
        "GetCompletion" => (&xai::RESPONSE, false),
        "GetCompletionChunk" => (&xai::CHUNK, true),
        _ => return None,
    };
    Some(Method { api: Api::XaiChat, request: &xai::REQUEST, response, streams })
}

/// By what methods of model servers and providers are called: Triton's and KServe's `ModelInfer`, TGI's, vLLM's and
/// SGLang's `Generate`, Vertex AI's `StreamRawPredict`, xAI's `StartDeferredCompletion` and `Embed`.
fn looks_like_a_call(name: &str) -> bool {
    const WHOLE: &[&str] = &["generate", "generatestream", "infer", "embed", "sampletext"];
    const PARTS: &[&str] = &[
        "completion",
        "generatecontent",
        "generatetext",
        "generatemessage",
        "generateanswer",
        "modelinfer",
        "modelstreaminfer",
        "rawpredict",
        "embedcontent",
        "embedtext",
        "embeddings",
    ];
    // Reads or removes what a call has left.
    const BESIDE: &[&str] = &["getstored", "deletestored", "getdeferred", "list", "count"];
    // Longer names are no method's.
    if name.len() > 128 {
        return false;
    }
    let name = name.to_ascii_lowercase();
    !BESIDE.iter().any(|start| name.starts_with(start))
        && (WHOLE.contains(&name.as_str()) || PARTS.iter().any(|part| name.contains(part)))
}

/// Where a request by gRPC goes, to count by.
pub(super) fn endpoint(head: &RequestHead, host: &str) -> UnknownEndpoint {
    // Names out of a program's code, and longer than words in URLs are.
    let is_name = |segment: &str| {
        segment.len() <= 128
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte))
    };
    let is_method = head.path.split('/').count() == 3 && head.path.split('/').all(is_name);
    let path = if is_method { head.path.clone() } else { without_ids(&head.path) };
    UnknownEndpoint { host: host.to_owned(), path }
}

/// Reads one call.
pub(super) struct Reader {
    call: CallReader,
    streams: bool,
    sent: Side,
    received: Side,
    /// The message of the response that is being read.
    event: Option<json::Reader>,
    limit: u64,
    rpc: Rpc,
    start: Timestamp,
    timeout: Option<Duration>,
    status: Option<Status>,
    /// The response has ended with trailers, whatever they say.
    ended: bool,
}

/// The messages of one direction.
struct Side {
    messages: Messages,
    message: &'static Message,
    /// `None`: nothing of the message that is underway can be read.
    transcoder: Option<Transcoder>,
    /// A message is whole.
    came: bool,
}

impl std::fmt::Debug for Reader {
    /// Without anything of a payload.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("call", &self.call).finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn new(models: &Models, head: &RequestHead, method: &Method) -> Reader {
        // As much as an HTTP body may become.
        let limit = crate::connection::Limits::default().decoded;
        let mut call = CallReader::new(models, head, method.api, true);
        call.hints.streams = method.streams;
        let attempts = head.headers.get("grpc-previous-rpc-attempts").and_then(|count| count.parse().ok());
        call.resend_count = call.resend_count.or(attempts);
        let side = |headers: &Headers, message| Side {
            messages: Messages::new(headers, limit),
            message,
            transcoder: Some(Transcoder::new(message)),
            came: false,
        };
        Reader {
            call,
            streams: method.streams,
            sent: side(&head.headers, method.request),
            received: side(&Headers::default(), method.response),
            event: None,
            limit,
            rpc: Rpc { method: head.path.trim_start_matches('/').to_owned(), status: None },
            start: head.at,
            timeout: grpc::timeout(&head.headers),
            status: None,
            ended: false,
        }
    }

    pub(super) fn request_body(&mut self, data: &[u8]) {
        let Reader { call, sent, .. } = self;
        let Side { messages, transcoder, came, .. } = sent;
        messages.push(data, &mut |part| {
            // There is one.
            if *came {
                return;
            }
            let mut out = |json: &[u8]| call.request_body(json);
            let read = match (part, transcoder.as_mut()) {
                (Part::Data(data), Some(open)) => open.push(data, &mut out).is_ok(),
                (Part::End, _) => {
                    *came = true;
                    transcoder.take().is_some_and(|open| open.finish(&mut out).is_ok())
                }
                (Part::Broken, _) => {
                    call.forget_request();
                    false
                }
                (Part::Data(_) | Part::Lost, _) => false,
            };
            if !read {
                *transcoder = None;
                call.request_lost = true;
            }
        });
    }

    pub(super) fn request_end(&mut self) {
        self.call.request_lost |= !self.sent.messages.is_between();
        self.call.request_end();
    }

    pub(super) fn response_head(&mut self, head: &ResponseHead) {
        // What is between may answer by itself, and not by gRPC. Where no type is known, it was said before we looked.
        let is_other = head.headers.get("content-type").is_some() && !grpc::is_grpc(&head.headers);
        if head.status != 200 || is_other {
            self.call.status = Some(head.status);
            self.received.messages = Messages::lost();
            return;
        }
        self.received.messages = Messages::new(&head.headers, self.limit);
        self.status = Status::of(&head.headers);
    }

    pub(super) fn response_body(&mut self, data: &[u8], at: Timestamp) {
        let Reader { call, received, event, streams, .. } = self;
        let Side { messages, message, transcoder, .. } = received;
        let limits = json::Limits { texts: call.limits.texts.max(MAX_FACTS), ..call.limits };
        let filter = call.format.event_filter;
        messages.push(data, &mut |part| {
            let content = call.answer.wants_content();
            let new = || json::Reader::new(filter, content, limits);
            let read = match (part, transcoder.as_mut()) {
                (Part::Data(data), Some(open)) => {
                    let event = event.get_or_insert_with(new);
                    open.push(data, &mut |json| event.push(json)).is_ok()
                }
                (Part::End, _) => {
                    let mut event = event.take().unwrap_or_else(new);
                    let ended = transcoder.replace(Transcoder::new(message));
                    let read = ended.is_some_and(|open| open.finish(&mut |json| event.push(json)).is_ok());
                    if read {
                        let mut event = event.finish();
                        if *streams {
                            call.event(&mut event.value, event.truncated, at);
                        } else {
                            call.message(&mut event.value, event.truncated);
                        }
                    }
                    call.response_lost |= !read;
                    return;
                }
                (Part::Data(_) | Part::Broken | Part::Lost, _) => false,
            };
            if !read {
                *transcoder = None;
                call.response_lost = true;
            }
        });
    }

    pub(super) fn response_trailers(&mut self, trailers: &Headers) {
        self.ended = true;
        self.call.response_lost |= !self.received.messages.is_between();
        self.status = Status::of(trailers).or(self.status.take());
    }

    pub(super) fn lost(&mut self, side: Direction) {
        match side {
            Direction::Sent => self.call.request_lost = true,
            Direction::Received => self.call.response_lost = true,
        }
    }

    pub(super) fn memory(&self) -> usize {
        self.sent.messages.memory() + self.received.messages.memory()
    }

    pub(super) fn finish(self, at: Timestamp, end: End) -> Option<Found> {
        let Reader { mut call, mut rpc, start, timeout, status, ended, .. } = self;
        let mut end = end;
        rpc.status = status.as_ref().map(|status| grpc::status_name(status.code));
        match status {
            Some(Status { code: 0, .. }) => call.answer.done = true,
            Some(Status { code, message }) => {
                let message = message.filter(|_| call.answer.wants_content());
                let kind = Some(grpc::status_name(code).to_owned());
                call.answer.failure = Some(Failure { code: None, kind, message });
            }
            // Trailers that could not be read: the table that they refer to was lost.
            None if ended => {}
            // Without them a call has not ended, whatever the framing says.
            None if end == End::Complete => end = End::Cut,
            None => {}
        }
        // Client and server give up by themselves when the time is over; the client tells it by cancelling.
        let waited = at - start;
        if end == End::Cancelled
            && call.answer.failure.is_none()
            && timeout.is_some_and(|timeout| waited >= timeout.mul_f64(TIMEOUT_SHARE))
        {
            let kind = Some(DEADLINE_EXCEEDED.to_owned());
            call.answer.failure = Some(Failure { kind, ..Failure::default() });
        }
        let found = call.finish(at, end)?;
        Some(match found {
            Found::Call(mut call) => {
                call.rpc = Some(rpc);
                Found::Call(call)
            }
            found => found,
        })
    }
}

/// What clients report whose time was over.
const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";
/// How much of `grpc-timeout` has passed by the client's own clock when it cancels: gRPC's core rounds what it sends up,
/// to two or three digits.
const TIMEOUT_SHARE: f64 = 0.98;
