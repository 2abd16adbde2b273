//! Calls in the words of OpenTelemetry's GenAI conventions.
//!
//! [`Vintage`] chooses between v1.41.1, the last tagged one, and what has become of it since; [`names`] holds what
//! differs. Every attribute that the wire tells is set, and none that it does not.
//!
//! # Where the conventions leave a choice
//! - `gen_ai.response.finish_reasons` has OpenAI's own words for OpenAI's formats (`tool_calls`), as its official
//!   instrumentation reports them; of other formats the conventions' words (`end_turn` is `stop`). Inside messages
//!   the conventions' words stand always.
//! - A choice without a reason (cut stream, cancel) is `error`; in v1.41.1, which does not say so, only beside
//!   choices that have one.
//! - `error.type` is the provider's error code, else its error type, else the HTTP status, else `_OTHER`;
//!   [`RESPONSE_CUT`] where the peer ended the connection in the middle of a response.
//! - A cancelled call is no error: the client wanted it so. Nor is one whose end was not seen. Both say so in
//!   [`INCOMPLETE`].

mod mcp;
mod messages;
mod names;

pub use mcp::{mcp_measurement, mcp_span};
pub use names::operation as operation_name;
pub use names::{AgentNames, agent as agent_names};

use crate::call::{Call, LATENCY_BOUNDS, Operation, Outcome, Server};
use crate::content;
use crate::redact::Redactor;
use crate::telemetry::{Amount, Attributes, Event, Key, Measurement, Metric, Span, SpanKind, Status, Value};
use names::Names;
use std::borrow::Cow;
use std::sync::Arc;

/// `error.type` of a response that the peer cut.
pub const RESPONSE_CUT: &str = "response_cut";
/// Why a response is not whole: `cut` (by the peer), `cancelled` (by the client) or `unknown`.
pub const INCOMPLETE: &str = "agentsight.response.incomplete";
/// Set to true where captured bytes of the request or response are missing.
pub const CAPTURE_TRUNCATED: &str = "agentsight.capture.truncated";

/// A state of the conventions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Vintage {
    /// v1.41.1, the last tag, which back ends know.
    #[default]
    V1_41,
    /// The conventions' own repository, October 2026.
    Latest,
}

/// How calls are put into words.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose words.
    pub vintage: Vintage,
    /// Put messages on the span, as far as the call holds them.
    pub content: bool,
    /// What messages may take on one span, in bytes of JSON text.
    pub max_content: usize,
    /// Cleans every text that leaves.
    pub redactor: Arc<Redactor>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            vintage: Vintage::default(),
            content: false,
            // 16 MiB: both sides of what `providers::Settings` keeps by default. An exporter cuts to its own limit.
            max_content: 16 << 20,
            redactor: Arc::new(Redactor::default()),
        }
    }
}

/// The span of a call.
pub fn span(call: &Call, options: &Options) -> Span {
    let names = names::of(options.vintage);
    let error = error_type(call);
    let mut set = Setter(Vec::with_capacity(32));
    identity(call, &mut set);
    request(call, options, names, &mut set);
    response(call, options, names, &mut set);
    if let Some(error) = &error {
        set.text("error.type", Some(error.clone()));
    }
    set.int("http.response.status_code", call.status.map(i64::from));
    if let Some(rpc) = &call.rpc {
        set.word("rpc.system.name", "grpc");
        set.text("rpc.method", Some(rpc.method.clone()));
        set.text("rpc.response.status_code", rpc.status.map(str::to_owned));
    }
    set.int("http.request.resend_count", call.resend_count.map(i64::from).filter(|count| *count > 0));
    set.flag(CAPTURE_TRUNCATED, call.truncated);
    set.text(INCOMPLETE, incomplete(call).map(str::to_owned));
    if options.content {
        messages::set(call, options, &mut set);
    }
    Span {
        name: name(call),
        kind: SpanKind::Client,
        parent: call.parent.clone(),
        start: call.timing.start,
        end: call.timing.end.max(call.timing.start),
        attributes: set.0,
        events: error.as_deref().map(|error| exception(call, options, error)).into_iter().collect(),
        status: error.map_or(Status::Unset, |error| status(call, options, &error)),
    }
}

/// What a call adds to the client metrics.
pub fn measurements(call: &Call, options: &Options) -> Vec<Measurement> {
    let names = names::of(options.vintage);
    let mut common = Setter(Vec::with_capacity(10));
    identity(call, &mut common);
    common.text("gen_ai.response.model", call.response.model.clone());
    openai_response(call, &mut common);
    let common = common.0;
    let with = |key: &'static str, value: &str| {
        let mut attributes = common.clone();
        attributes.push((Cow::Borrowed(key), Value::Str(Cow::Owned(value.to_owned()))));
        attributes
    };
    let ended = match error_type(call) {
        Some(error) => with("error.type", &error),
        None => common.clone(),
    };
    let embeddings = call.operation == Operation::Embeddings;
    let mut all = Vec::new();
    let mut add = |metric: Metric, attributes: Attributes, amount| {
        all.push(Measurement { metric, attributes, amount });
    };

    let duration = (call.timing.end - call.timing.start).as_secs_f64();
    let metric = if embeddings { names::OPERATION_DURATION } else { names.duration };
    add(metric, ended.clone(), Amount::Double(duration));

    let usage = &call.response.usage;
    match &names.tokens {
        names::Tokens::ByType(metric) => {
            for (kind, count) in [("input", usage.input), ("output", usage.output)] {
                if let Some(count) = count {
                    add(*metric, with("gen_ai.token.type", kind), Amount::Int(count));
                }
            }
        }
        // These are for inference alone.
        names::Tokens::ByMetric(_) if embeddings => {}
        names::Tokens::ByMetric(metrics) => {
            let counters = [
                (metrics.input, usage.input),
                (metrics.output, usage.output),
                (metrics.cache_read, usage.cache_read),
                (metrics.cache_write, usage.cache_write),
                (metrics.reasoning, usage.reasoning),
            ];
            for (metric, count) in counters {
                if let Some(count) = count {
                    // The totals mix modalities.
                    add(metric, with("gen_ai.token.modality", "unknown"), Amount::Int(count));
                }
            }
            for (metric, count) in
                [(metrics.operation_input, usage.input), (metrics.operation_output, usage.output)]
            {
                if let Some(count) = count {
                    add(metric, ended.clone(), Amount::Int(count));
                }
            }
        }
    }
    if let (true, Some(first)) = (call.request.stream, call.timing.first_chunk) {
        let amount = Amount::Double((first - call.timing.start).as_secs_f64());
        add(names.time_to_first_chunk, common.clone(), amount);
        let chunks = &call.timing.between_chunks;
        if !chunks.is_empty() {
            debug_assert_eq!(chunks.counts.len(), LATENCY_BOUNDS.len() + 1);
            let amount = Amount::Buckets {
                counts: chunks.counts.to_vec(),
                sum: chunks.sum,
                min: chunks.min,
                max: chunks.max,
            };
            add(names.time_per_output_chunk, common.clone(), amount);
        }
    }
    all
}

fn name(call: &Call) -> String {
    let operation = names::operation(call.operation);
    match &call.request.model {
        Some(model) => format!("{operation} {model}"),
        None => operation.to_owned(),
    }
}

/// Where a call went from a sidecar that passed it on; the span's `server.address` is that of the sidecar.
pub fn upstream(server: &Server) -> impl Iterator<Item = (Key, Value)> + use<> {
    let address = ("agentsight.upstream.server.address".into(), Value::Str(server.address.clone().into()));
    let port = server.port.map(|port| ("agentsight.upstream.server.port".into(), Value::Int(port.into())));
    [address].into_iter().chain(port)
}

/// What every span and every measurement of a call carries.
fn identity(call: &Call, set: &mut Setter) {
    set.word("gen_ai.operation.name", names::operation(call.operation));
    set.word("gen_ai.provider.name", call.provider);
    set.text("gen_ai.request.model", call.request.model.clone());
    server(call.server.as_ref(), set);
    if is_local(call.server.as_ref()) {
        set.word("network.transport", "unix");
    }
}

/// Where it was sent.
fn server(server: Option<&Server>, set: &mut Setter) {
    set.text("server.address", server.map(|server| server.address.clone()));
    set.int("server.port", server.and_then(|server| server.port).map(i64::from));
}

/// Whether it went over a Unix socket.
fn is_local(server: Option<&Server>) -> bool {
    server.is_some_and(|server| server.port.is_none())
}

fn request(call: &Call, options: &Options, names: &Names, set: &mut Setter) {
    let request = &call.request;
    set.flag("gen_ai.request.stream", request.stream);
    set.int("gen_ai.request.max_tokens", request.max_tokens);
    set.double("gen_ai.request.temperature", request.temperature);
    set.double("gen_ai.request.top_p", request.top_p);
    if names.top_k_is_int {
        let whole = request.top_k.filter(|top_k| top_k.fract() == 0.0 && top_k.abs() < 9e15);
        set.int("gen_ai.request.top_k", whole.map(|top_k| top_k as i64));
    } else {
        set.double("gen_ai.request.top_k", request.top_k);
    }
    set.double("gen_ai.request.frequency_penalty", request.frequency_penalty);
    set.double("gen_ai.request.presence_penalty", request.presence_penalty);
    let clean = |text: &String| options.redactor.text(text).into_owned();
    set.texts("gen_ai.request.stop_sequences", request.stop_sequences.iter().map(clean));
    set.int("gen_ai.request.seed", request.seed);
    set.int("gen_ai.request.choice.count", request.choice_count.filter(|count| *count != 1));
    set.text("gen_ai.output.type", request.output_type.map(str::to_owned));
    set.text("gen_ai.conversation.id", request.conversation_id.clone());
    if let Some(key) = names.reasoning_level {
        set.text(key, request.reasoning_level.clone());
    }
    if let Some(key) = names.previous_response {
        set.text(key, request.previous_response_id.clone());
    }
    if let Some(api) = names::openai_api(call.api) {
        set.word("openai.api.type", api);
    }
    set.text("openai.request.service_tier", request.service_tier.clone().filter(|tier| tier != "auto"));
    set.text("aws.bedrock.guardrail.id", request.guardrail_id.clone());
    if call.provider == "azure.ai.inference" {
        set.word("azure.resource_provider.namespace", "Microsoft.CognitiveServices");
    }
    set.texts("gen_ai.request.encoding_formats", request.encoding_formats.iter().cloned());
    if call.operation == Operation::Embeddings {
        set.int("gen_ai.embeddings.dimension.count", request.dimensions.or(call.response.dimensions));
    }
}

fn response(call: &Call, options: &Options, names: &Names, set: &mut Setter) {
    let response = &call.response;
    set.text("gen_ai.response.id", response.id.clone());
    set.text("gen_ai.response.model", response.model.clone());
    set.texts("gen_ai.response.finish_reasons", finish_reasons(call, options.vintage).into_iter());
    openai_response(call, set);
    let usage = &response.usage;
    set.int("gen_ai.usage.input_tokens", usage.input);
    set.int("gen_ai.usage.output_tokens", usage.output);
    set.int("gen_ai.usage.cache_read.input_tokens", usage.cache_read);
    set.int(names.cache_write_tokens, usage.cache_write);
    set.int("gen_ai.usage.reasoning.output_tokens", usage.reasoning);
    if let (true, Some(first)) = (call.request.stream, call.timing.first_chunk) {
        let seconds = (first - call.timing.start).as_secs_f64();
        set.double("gen_ai.response.time_to_first_chunk", Some(seconds));
    }
}

fn openai_response(call: &Call, set: &mut Setter) {
    set.text("openai.response.service_tier", call.response.service_tier.clone());
    set.text("openai.response.system_fingerprint", call.response.system_fingerprint.clone());
}

/// One for each choice, in their order.
fn finish_reasons(call: &Call, vintage: Vintage) -> Vec<String> {
    let reasons = &call.response.finish_reasons;
    let ended = call.outcome == Outcome::Complete;
    let word = |reason: &Option<String>| match reason {
        Some(reason) if call.api.is_openai() => reason.clone(),
        Some(reason) => names::finish_reason(reason).to_owned(),
        None => "error".to_owned(),
    };
    if reasons.iter().all(Option::is_none) {
        // None came. Latest: expected and not received is an error, unless all that was expected came.
        return match vintage {
            Vintage::Latest if !ended && call.operation != Operation::Embeddings => {
                vec!["error".to_owned(); reasons.len().max(1)]
            }
            _ => Vec::new(),
        };
    }
    reasons.iter().map(word).collect()
}

/// `error.type`; none where nothing went wrong.
pub fn error_type(call: &Call) -> Option<String> {
    let failure = match &call.outcome {
        Outcome::Failed(failure) => failure,
        Outcome::Cut => return Some(RESPONSE_CUT.to_owned()),
        Outcome::Complete | Outcome::Cancelled | Outcome::Incomplete => return None,
    };
    // A number as code is the HTTP status once more, or says nothing to anyone.
    let is_number = |code: &&String| code.bytes().all(|byte| byte.is_ascii_digit());
    let code = failure.code.as_ref();
    let status = call.status.filter(|status| *status >= 400).map(|status| status.to_string());
    code.filter(|code| !is_number(code))
        .or(failure.kind.as_ref())
        .or(code)
        .cloned()
        .or(status)
        .or_else(|| Some("_OTHER".to_owned()))
}

fn incomplete(call: &Call) -> Option<&'static str> {
    match call.outcome {
        Outcome::Cut => Some("cut"),
        Outcome::Cancelled => Some("cancelled"),
        Outcome::Incomplete => Some("unknown"),
        Outcome::Complete | Outcome::Failed(_) => None,
    }
}

fn status(call: &Call, options: &Options, error: &str) -> Status {
    let mut text = match call.status {
        Some(status) if status.to_string() == error => format!("HTTP {status}"),
        Some(status) if status >= 400 => format!("HTTP {status} {error}"),
        _ => error.to_owned(),
    };
    if let Some(message) = failure_message(call, options) {
        text.push_str(": ");
        text.push_str(&message);
    }
    Status::Error(text)
}

/// The provider's words, which may quote the prompt.
fn failure_message(call: &Call, options: &Options) -> Option<String> {
    let Outcome::Failed(failure) = &call.outcome else { return None };
    let message = failure.message.as_deref().filter(|message| options.content && !message.is_empty())?;
    Some(cut_message(&options.redactor.text(message)))
}

/// As much of a message as people read: a whole body is nobody's message.
fn cut_message(message: &str) -> String {
    message[..message.floor_char_boundary(1024)].to_owned()
}

fn exception(call: &Call, options: &Options, error: &str) -> Event {
    /// WARN, as the convention asks.
    const SEVERITY: u8 = 13;
    let mut set = Setter(Vec::with_capacity(2));
    set.text("exception.type", Some(error.to_owned()));
    set.text("exception.message", failure_message(call, options));
    Event {
        name: Cow::Borrowed("gen_ai.client.operation.exception"),
        at: call.timing.end.max(call.timing.start),
        severity: SEVERITY,
        attributes: set.0,
    }
}

/// Sets attributes; what is absent is not set.
struct Setter(Attributes);

impl Setter {
    fn put(&mut self, key: &'static str, value: Option<Value>) {
        if let Some(value) = value {
            debug_assert!(self.0.iter().all(|(own, _)| own != key), "{key} is set twice");
            self.0.push((Key::Borrowed(key), value));
        }
    }

    fn word(&mut self, key: &'static str, word: &'static str) {
        self.put(key, Some(Value::Str(Cow::Borrowed(word))));
    }

    fn text(&mut self, key: &'static str, text: Option<String>) {
        self.put(key, text.filter(|text| !text.is_empty()).map(|text| Value::Str(Cow::Owned(text))));
    }

    fn texts(&mut self, key: &'static str, texts: impl Iterator<Item = String>) {
        let texts: Vec<_> = texts.map(Cow::Owned).collect();
        self.put(key, (!texts.is_empty()).then_some(Value::Strs(texts)));
    }

    fn int(&mut self, key: &'static str, value: Option<i64>) {
        self.put(key, value.map(Value::Int));
    }

    fn double(&mut self, key: &'static str, value: Option<f64>) {
        self.put(key, value.map(Value::Double));
    }

    /// Only ever true: the conventions want no `false`.
    fn flag(&mut self, key: &'static str, value: bool) {
        self.put(key, value.then_some(Value::Bool(true)));
    }

    fn truncated(&mut self) {
        self.flag(content::TRUNCATED, true);
    }
}
