//! From HTTP exchanges to calls: which request is a call to a model, in which wire format, and what came of it.
//!
//! A call is recognised by its request: method, path, headers and the shape of the body. The host only says
//! whose service it is; no list of hosts decides what is looked at. Over a WebSocket ([`ModelDialogue`]) the request is a
//! message, on a connection whose handshake has the path.

mod answer;
mod anthropic;
mod bedrock;
mod cohere;
mod dialogue;
mod fields;
mod gemini;
mod generate;
mod grpc;
mod history;
pub(crate) mod mcp;
mod mcp_sse;
mod ollama;
mod openai;
mod openai_chat;
mod openai_completions;
mod openai_embeddings;
mod openai_realtime;
mod openai_responses;
mod trace_context;

use crate::call::{Api, Call, Operation, Outcome, Request, Server, Timing};
use crate::grpc::is_grpc;
use crate::http::{Direction, End, Exchange, Exchanges, Headers, Progress, RequestHead, ResponseHead};
use crate::json::{self, Filter, Keep, Step};
use crate::links::{FingerprintKey, Links};
use crate::mcp::McpCall;
use crate::sse;
use crate::telemetry::SpanContext;
use crate::time::Timestamp;
use crate::{eventstream, values};
use answer::Answer;
use base64::Engine;
pub use dialogue::ModelDialogue;
pub use mcp_sse::McpSessions;
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// How a request's bytes travelled where they were captured.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Scheme {
    /// Inside TLS.
    #[default]
    Https,
    /// In plain text.
    Http,
}

impl Scheme {
    /// The port of a server that names none.
    pub fn port(self) -> u16 {
        match self {
            Scheme::Https => 443,
            Scheme::Http => 80,
        }
    }
}

/// Finds the calls to models among the exchanges of connections.
#[derive(Clone, Debug)]
pub struct Models {
    settings: Arc<Settings>,
    scheme: Scheme,
    socket: Option<Server>,
    key: FingerprintKey,
    mailbox: Option<Mailbox>,
    sessions: McpSessions,
    exchanges: u64,
}

/// Where lies what is known of exchanges before they are over; whoever drives the connection takes it away.
pub type Mailbox = Arc<Mutex<Vec<Heard>>>;

/// What is known of an exchange before it is over.
#[derive(Clone, PartialEq, Debug)]
pub enum Heard {
    /// The request is complete.
    Asked(Box<Asked>),
    /// Of an exchange whose request was complete: it is no call after all. By [`Links::exchange`].
    NoCall(u64),
    /// A request to a server of the Model Context Protocol that is answered elsewhere than where it was asked.
    Mcp(Box<McpCall>),
}

/// A request that is complete, while its response is not: what it is joined by, before the call is there.
#[derive(Clone, PartialEq, Debug)]
pub struct Asked {
    /// When its first byte was written.
    pub start: Timestamp,
    /// Its `traceparent`.
    pub parent: Option<SpanContext>,
    /// All but what the response asks for; [`Links::exchange`] finds the call when it is there.
    pub links: Links,
}

/// What is read of calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Keep prompts, answers, tools and providers' error messages. Without it no byte of them is kept anywhere.
    pub content: bool,
    /// How much of a request's content is kept, in bytes of memory.
    pub max_request_content: usize,
    /// How much of a response's content is kept, in bytes of memory.
    pub max_response_content: usize,
    /// Endpoints whose path does not tell what they speak.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint that speaks a known format under a path of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Only for this host (lower case, without port); any host where it is none.
    pub host: Option<String>,
    /// The end of the path, such as `/generate`.
    pub path: String,
    /// What it speaks.
    pub api: Api,
}

impl Default for Settings {
    fn default() -> Settings {
        // 8 MiB: twice the longest answer that models give today (4 MiB of text), and room for images.
        const MAX_CONTENT: usize = 8 << 20;
        Settings {
            content: false,
            max_request_content: MAX_CONTENT,
            max_response_content: MAX_CONTENT,
            endpoints: Vec::new(),
        }
    }
}

/// What an exchange turned out to be.
#[derive(Clone, PartialEq, Debug)]
pub enum Found {
    /// A call to a model.
    Call(Box<Call>),
    /// A request to a server of the Model Context Protocol.
    Mcp(Box<McpCall>),
    /// A request that looks like a call to a model, at an endpoint whose format nobody has named.
    Unknown(UnknownEndpoint),
}

/// Where a request went that may be a call. Its parts are few in number and hold no secrets: to be counted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnknownEndpoint {
    /// The host that the request names; empty where it names none.
    pub host: String,
    /// Its path, with `*` for every segment that may be an id or a secret.
    pub path: String,
}

impl Models {
    /// Reads calls by these settings.
    pub fn new(settings: Arc<Settings>) -> Models {
        Models {
            settings,
            scheme: Scheme::Https,
            socket: None,
            key: FingerprintKey::default(),
            mailbox: None,
            sessions: McpSessions::default(),
            exchanges: 0,
        }
    }

    /// Reads calls by these settings from the next request on.
    pub fn set_settings(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
    }

    /// What carried the bytes: it tells the port where a request names none.
    pub fn over(self, scheme: Scheme) -> Models {
        Models { scheme, ..self }
    }

    /// The connection goes over the Unix socket of this name: that is the server, whatever host the requests name.
    pub fn over_socket(self, name: String) -> Models {
        Models { socket: Some(Server { address: name, port: None }), ..self }
    }

    /// Makes fingerprints with this key.
    pub fn with_key(self, key: FingerprintKey) -> Models {
        Models { key, ..self }
    }

    /// Puts each request there as soon as it is complete.
    pub fn with_mailbox(self, mailbox: Mailbox) -> Models {
        Models { mailbox: Some(mailbox), ..self }
    }

    /// Shares the sessions of the process with its other connections; what is heard of them goes to the mailbox.
    pub fn with_sessions(self, sessions: McpSessions) -> Models {
        Models { sessions, ..self }
    }

    /// Where a request went.
    fn server(&self, head: &RequestHead) -> Option<Server> {
        self.socket.clone().or_else(|| named_server(head, self.scheme))
    }
}

impl Exchanges for Models {
    type Exchange = ModelExchange;
    type Dialogue = ModelDialogue;

    fn open(&mut self, head: &RequestHead) -> Option<ModelExchange> {
        let upgrades = head.method == "GET"
            && head.headers.get("upgrade").is_some_and(|name| name.eq_ignore_ascii_case("websocket"));
        if head.method == "GET" && !upgrades {
            let stream = mcp_sse::Stream::new(self, head);
            return stream.map(|stream| ModelExchange(Kind::Stream(Box::new(stream))));
        }
        if head.method != "POST" && !upgrades {
            return None;
        }
        // Before its path is looked at: that of many servers is `/messages`.
        if let Some(post) = mcp_sse::Post::new(self, head) {
            return Some(ModelExchange(Kind::Post(Box::new(post))));
        }
        let host = named_server(head, self.scheme).map_or_else(String::new, |server| server.address);
        if is_grpc(&head.headers) {
            return match grpc::method(&head.path) {
                grpc::Asked::Call(method) => {
                    self.exchanges += 1;
                    let reader = grpc::Reader::new(self, head, &method);
                    Some(ModelExchange(Kind::Grpc(Box::new(reader))))
                }
                grpc::Asked::Unknown => Some(ModelExchange(Kind::Unknown(grpc::endpoint(head, &host)))),
                grpc::Asked::Other => None,
            };
        }
        let path = head.path.trim_end_matches('/');
        let known = api(&self.settings.endpoints, &host, path);
        if upgrades {
            let dialogue = match known {
                Some((api @ Api::OpenAiResponses, named)) => ModelDialogue::of_calls(head, api, named),
                None if path.ends_with("/realtime") => {
                    ModelDialogue::of_calls(head, Api::OpenAiRealtime, false)
                }
                _ => ModelDialogue::unknown(Sniffer::new(head, &host)),
            };
            return Some(ModelExchange(Kind::Handshake(Box::new(dialogue))));
        }
        match known {
            Some((api, named)) => {
                self.exchanges += 1;
                Some(ModelExchange(Kind::Call(Box::new(CallReader::new(self, head, api, named)))))
            }
            None => {
                // Known not to be calls: counting tokens, and the batch and file services beside the calls.
                const NO_CALLS: &[&str] = &[
                    "/count_tokens",
                    ":countTokens",
                    "/input_tokens",
                    "/moderations",
                    "/batches",
                    "/compact",
                ];
                let json = head.headers.get("content-type").is_some_and(|kind| kind.contains("json"));
                let sniffed = json && !NO_CALLS.iter().any(|end| head.path.ends_with(end));
                sniffed.then(|| {
                    let mcp = mcp::Reader::new(self, head);
                    ModelExchange(Kind::Other(Box::new(Other { mcp, sniffer: Sniffer::new(head, &host) })))
                })
            }
        }
    }

    fn upgrade(&mut self, exchange: ModelExchange) -> Result<ModelDialogue, ModelExchange> {
        match exchange.0 {
            Kind::Handshake(dialogue) => Ok(*dialogue),
            kind => Err(ModelExchange(kind)),
        }
    }
}

/// Which format a path belongs to, by its end, and whether the user has said so.
fn api(endpoints: &[Endpoint], host: &str, path: &str) -> Option<(Api, bool)> {
    const PATHS: &[(&str, Api)] = &[
        ("/chat/completions", Api::OpenAiChat),
        ("/completions", Api::OpenAiCompletions),
        ("/responses", Api::OpenAiResponses),
        ("/embeddings", Api::OpenAiEmbeddings),
        ("/messages", Api::AnthropicMessages),
        (":generateContent", Api::GoogleGenerateContent),
        (":streamGenerateContent", Api::GoogleGenerateContent),
        (":embedContent", Api::GoogleEmbedContent),
        (":batchEmbedContents", Api::GoogleEmbedContent),
        // Anthropic's models on Vertex AI.
        (":rawPredict", Api::AnthropicMessages),
        (":streamRawPredict", Api::AnthropicMessages),
        ("/api/chat", Api::OllamaChat),
        ("/api/generate", Api::OllamaGenerate),
        ("/api/embed", Api::OllamaEmbed),
        ("/v2/chat", Api::CohereChat),
        ("/v1/chat", Api::CohereChat),
        ("/embed", Api::CohereEmbed),
        ("/rerank", Api::Rerank),
        ("/generate", Api::TgiGenerate),
        ("/generate_stream", Api::TgiGenerate),
        ("/completion", Api::LlamaCppCompletion),
    ];
    let named = endpoints.iter().find(|endpoint| {
        path.ends_with(endpoint.path.trim_end_matches('/'))
            && endpoint.host.as_deref().is_none_or(|named| named == host)
    });
    let known = || PATHS.iter().find(|(end, _)| path.ends_with(end)).map(|(_, api)| *api);
    match named {
        Some(endpoint) => Some((endpoint.api, true)),
        None => bedrock_path(path).or_else(known).map(|api| (api, false)),
    }
}

/// Where the request says that it goes.
fn named_server(head: &RequestHead, scheme: Scheme) -> Option<Server> {
    let authority = head.authority.as_deref()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (address, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (address, rest) = v6.split_once(']')?;
            (address, rest.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((address, port)) => (address, Some(port)),
            None => (authority, None),
        },
    };
    // 253: the longest host name (RFC 1035).
    if address.is_empty() || address.len() > 253 {
        return None;
    }
    let port = match port {
        None | Some("") => scheme.port(),
        Some(port) => port.parse().ok()?,
    };
    Some(Server { address: address.to_ascii_lowercase(), port: Some(port) })
}

/// Whose service it is. The format decides for Anthropic; a compatible service that nobody knows is named after
/// the format that it speaks.
fn provider(api: Api, host: &str, path: &str) -> &'static str {
    const HOSTS: &[(&str, &str)] = &[
        ("openai.azure.com", "azure.ai.openai"),
        ("cognitiveservices.azure.com", "azure.ai.openai"),
        ("services.ai.azure.com", "azure.ai.inference"),
        ("models.ai.azure.com", "azure.ai.inference"),
        ("inference.ai.azure.com", "azure.ai.inference"),
        ("api.groq.com", "groq"),
        ("openrouter.ai", "openrouter"),
        ("api.deepseek.com", "deepseek"),
        ("api.x.ai", "x_ai"),
        ("api.mistral.ai", "mistral_ai"),
        ("codestral.mistral.ai", "mistral_ai"),
        ("api.perplexity.ai", "perplexity"),
        ("api.cohere.com", "cohere"),
        ("api.cohere.ai", "cohere"),
        ("generativelanguage.googleapis.com", "gcp.gemini"),
        ("aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("ml.cloud.ibm.com", "ibm.watsonx.ai"),
        ("amazonaws.com", "aws.bedrock"),
    ];
    if api == Api::AnthropicMessages {
        return "anthropic";
    }
    // These formats are spoken by one provider, or by servers that anyone may run.
    let own = match api {
        Api::BedrockConverse | Api::BedrockInvoke => "aws.bedrock",
        Api::CohereChat | Api::CohereEmbed => "cohere",
        Api::OllamaChat | Api::OllamaGenerate | Api::OllamaEmbed => "ollama",
        Api::TgiGenerate => "huggingface",
        Api::LlamaCppCompletion => "llama_cpp",
        Api::Rerank => "_OTHER",
        Api::GoogleGenerateContent | Api::GoogleEmbedContent
            if ["/publishers/", "/projects/", "/google.cloud.aiplatform."]
                .iter()
                .any(|part| path.contains(part)) =>
        {
            "gcp.vertex_ai"
        }
        Api::GoogleGenerateContent | Api::GoogleEmbedContent => "gcp.gemini",
        Api::XaiChat => "x_ai",
        _ => "openai",
    };
    let known = HOSTS.iter().find(|(name, _)| {
        host.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with(['.', '-']))
    });
    match known {
        // Azure serves OpenAI's models under both of its names.
        Some((_, "azure.ai.inference")) if path.contains("/openai/") => "azure.ai.openai",
        Some((_, provider)) => provider,
        None => own,
    }
}

/// One request and its response, while they go by.
#[derive(Debug)]
pub struct ModelExchange(Kind);

#[derive(Debug)]
enum Kind {
    Call(Box<CallReader>),
    Grpc(Box<grpc::Reader>),
    Other(Box<Other>),
    /// By its name alone it may be a call, in no format that is known.
    Unknown(UnknownEndpoint),
    /// It asks for a WebSocket. Refused, it was no call: nothing had been asked of a model.
    Handshake(Box<ModelDialogue>),
    /// It may be the stream of a session of MCP's.
    Stream(Box<mcp_sse::Stream>),
    /// It goes to the endpoint of such a session.
    Post(Box<mcp_sse::Post>),
}

/// What goes to no path of a model's.
#[derive(Debug)]
struct Other {
    mcp: Option<mcp::Reader>,
    sniffer: Sniffer,
}

impl Exchange for ModelExchange {
    type Output = Found;

    fn request_body(&mut self, data: &[u8]) {
        match &mut self.0 {
            Kind::Call(call) => call.request_body(data),
            Kind::Grpc(call) => call.request_body(data),
            Kind::Other(other) => {
                if let Some(mcp) = &mut other.mcp {
                    mcp.request_body(data);
                }
                other.sniffer.request_body(data);
            }
            Kind::Post(post) => post.request_body(data),
            Kind::Unknown(_) | Kind::Handshake(_) | Kind::Stream(_) => {}
        }
    }

    fn request_end(&mut self) {
        match &mut self.0 {
            Kind::Call(call) => call.request_end(),
            Kind::Grpc(call) => call.request_end(),
            Kind::Post(post) => post.request_end(),
            Kind::Other(_) | Kind::Unknown(_) | Kind::Handshake(_) | Kind::Stream(_) => {}
        }
    }

    fn response_head(&mut self, head: &ResponseHead, at: Timestamp) {
        match &mut self.0 {
            Kind::Call(call) => call.response_head(head),
            Kind::Grpc(call) => call.response_head(head),
            Kind::Other(other) => other.mcp.iter_mut().for_each(|mcp| mcp.response_head(head)),
            Kind::Stream(stream) => stream.response_head(head),
            Kind::Post(post) => post.response_head(head, at),
            Kind::Unknown(_) | Kind::Handshake(_) => {}
        }
    }

    fn response_body(&mut self, data: &[u8], at: Timestamp) -> Progress {
        match &mut self.0 {
            Kind::Call(call) => call.response_body(data, at),
            Kind::Grpc(call) => {
                call.response_body(data, at);
                Progress::More
            }
            Kind::Other(other) => other.mcp.as_mut().map_or(Progress::More, |mcp| mcp.response_body(data)),
            Kind::Stream(stream) => stream.response_body(data, at),
            Kind::Unknown(_) | Kind::Handshake(_) | Kind::Post(_) => Progress::More,
        }
    }

    fn response_trailers(&mut self, trailers: &Headers) {
        if let Kind::Grpc(call) = &mut self.0 {
            call.response_trailers(trailers);
        }
    }

    fn lost(&mut self, side: Direction) {
        match (&mut self.0, side) {
            (Kind::Call(call), Direction::Sent) => call.request_lost = true,
            (Kind::Call(call), Direction::Received) => call.response_lost = true,
            (Kind::Grpc(call), side) => call.lost(side),
            (Kind::Other(other), side) => other.mcp.iter_mut().for_each(|mcp| mcp.lost(side)),
            (Kind::Stream(stream), side) => stream.lost(side),
            (Kind::Post(post), side) => post.lost(side),
            (Kind::Unknown(_) | Kind::Handshake(_), _) => {}
        }
    }

    fn memory(&self) -> usize {
        match &self.0 {
            Kind::Grpc(call) => call.memory(),
            Kind::Call(_)
            | Kind::Other(_)
            | Kind::Unknown(_)
            | Kind::Handshake(_)
            | Kind::Stream(_)
            | Kind::Post(_) => 0,
        }
    }

    fn finish(self, at: Timestamp, end: End) -> Option<Found> {
        match self.0 {
            Kind::Call(call) => call.finish(at, end),
            Kind::Grpc(call) => call.finish(at, end),
            Kind::Unknown(endpoint) => Some(Found::Unknown(endpoint)),
            Kind::Other(other) => {
                let Other { mcp, mut sniffer } = *other;
                let call = mcp.and_then(|mcp| mcp.finish(at, end)).map(|call| Found::Mcp(Box::new(call)));
                call.or_else(|| sniffer.found().map(Found::Unknown))
            }
            Kind::Stream(stream) => {
                stream.finish(at, end);
                None
            }
            Kind::Handshake(_) | Kind::Post(_) => None,
        }
    }
}

/// A path as names, `*` for an element; `None` deeper than any filter looks.
fn names(path: &[Step]) -> Option<Names<'_>> {
    let mut names = Names { names: [""; 6], len: path.len() };
    if path.len() > names.names.len() {
        return None;
    }
    for (name, step) in names.names.iter_mut().zip(path) {
        *name = step.name();
    }
    Some(names)
}

struct Names<'a> {
    names: [&'a str; 6],
    len: usize,
}

impl<'a> Names<'a> {
    fn as_slice(&self) -> &[&'a str] {
        &self.names[..self.len]
    }
}

/// What a wire format is made of.
struct Format {
    operation: Operation,
    /// What is kept of a request's body.
    request_filter: Filter,
    /// What is kept of a response's body, where it is one JSON text.
    response_filter: Filter,
    /// What is kept of an event of a stream.
    event_filter: Filter,
    /// Whether a body is a request of this format.
    is_request: fn(&Value, &Hints) -> bool,
    /// What joins a request with other calls: [`history::filter`] where it has a history, else [`history::none`].
    history: Filter,
    /// Reads a request's body; the flag says whether content is wanted.
    request: fn(&mut Value, bool) -> Request,
    /// Reads a response that is one JSON text.
    whole: fn(&mut Answer, &mut Value),
    /// Reads an event of a stream. Its name stands in its data, too.
    event: fn(&mut Answer, &mut Value),
}

/// What a request's head tells about its format.
struct Hints {
    /// There is an `anthropic-version` header.
    anthropic: bool,
    /// The model is named in the path, or the endpoint has but one.
    model_in_path: bool,
    /// The path asks for a stream.
    streams: bool,
    /// Where it goes, if others have such paths and requests, too.
    ambiguous: Option<UnknownEndpoint>,
}

fn format(api: Api, model: Option<&str>) -> &'static Format {
    match api {
        Api::OpenAiChat => &openai_chat::FORMAT,
        Api::OpenAiResponses => &openai_responses::FORMAT,
        Api::OpenAiRealtime => &openai_realtime::FORMAT,
        Api::OpenAiCompletions => &openai_completions::FORMAT,
        Api::OpenAiEmbeddings => &openai_embeddings::FORMAT,
        Api::AnthropicMessages => &anthropic::FORMAT,
        Api::GoogleGenerateContent => &gemini::FORMAT,
        Api::GoogleEmbedContent => &gemini::EMBED,
        Api::XaiChat => &grpc::xai::FORMAT,
        Api::BedrockConverse => &bedrock::FORMAT,
        Api::BedrockInvoke => bedrock_format(model.unwrap_or("")),
        Api::CohereChat => &cohere::CHAT,
        Api::CohereEmbed => &cohere::EMBED,
        Api::OllamaChat => &ollama::CHAT,
        Api::OllamaGenerate => &ollama::GENERATE,
        Api::OllamaEmbed => &ollama::EMBED,
        Api::TgiGenerate => &generate::TGI,
        Api::LlamaCppCompletion => &generate::LLAMA_CPP,
        Api::Rerank => &generate::RERANK,
    }
}

/// The format that InvokeModel hands on, by the model's name.
fn bedrock_format(model: &str) -> &'static Format {
    if model.contains("anthropic.") {
        &bedrock::ANTHROPIC
    } else if model.contains("embed") {
        &bedrock::EMBEDDINGS
    } else if model.contains("titan-text") {
        &bedrock::TITAN
    } else if ["openai.", "ai21.jamba", "qwen.", "mistral.pixtral"]
        .iter()
        .any(|vendor| model.contains(vendor))
    {
        &bedrock::CHAT_COMPLETIONS
    } else {
        &bedrock::FORMAT
    }
}

/// `/model/{model}/{verb}`.
fn bedrock_path(path: &str) -> Option<Api> {
    let (before, verb) = path.rsplit_once('/')?;
    let (before, model) = before.rsplit_once('/')?;
    if !before.ends_with("/model") || model.is_empty() {
        return None;
    }
    match verb {
        "converse" | "converse-stream" => Some(Api::BedrockConverse),
        "invoke" | "invoke-with-response-stream" => Some(Api::BedrockInvoke),
        _ => None,
    }
}

/// Whether other applications have paths and requests that look the same: then the answer has to tell.
fn is_ambiguous(api: Api) -> bool {
    matches!(
        api,
        Api::OllamaChat
            | Api::OllamaGenerate
            | Api::OllamaEmbed
            | Api::CohereChat
            | Api::CohereEmbed
            | Api::TgiGenerate
            | Api::LlamaCppCompletion
            | Api::Rerank
    )
}

/// What is kept beside content of one body or one event of a stream. Requests of real SDKs need below 4 KiB;
/// the rest is for usage details and long lists of output items.
const MAX_FACTS: usize = 64 << 10;

/// Reads one call.
struct CallReader {
    api: Api,
    format: &'static Format,
    hints: Hints,
    provider: &'static str,
    server: Option<Server>,
    parent: Option<SpanContext>,
    resend_count: Option<u32>,
    /// Named in the path.
    model: Option<String>,
    start: Timestamp,
    request: json::Reader,
    /// What the provider was told before, for this request to continue.
    prelude: Option<Value>,
    history: History,
    exchange: u64,
    mailbox: Option<Mailbox>,
    request_ended: bool,
    request_lost: bool,
    status: Option<u16>,
    body: Body,
    answer: Answer,
    response_lost: bool,
    first_chunk: Option<Timestamp>,
    last_chunk: Timestamp,
    between_chunks: crate::call::ChunkTimes,
    limits: json::Limits,
}

impl std::fmt::Debug for CallReader {
    /// Without anything of a payload.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallReader")
            .field("api", &self.api)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// The response's body.
enum Body {
    /// No head, or nothing in it that is read.
    Ignored,
    /// The content type does not tell; the first byte will.
    Open,
    Json(Box<json::Reader>),
    Events(sse::Parser),
    /// An AWS event stream.
    Messages(eventstream::Parser),
    /// JSON texts one after the other, or in one array.
    Values(values::Splitter),
    /// Events that are there whole: messages of a WebSocket, or of a stream by gRPC.
    Pushed,
    /// The one message of an answer by gRPC, which has been read.
    Message,
}

/// What joins the request with other calls.
enum History {
    Underway(Box<history::Reading>),
    Read(Box<Links>),
}

impl CallReader {
    fn new(models: &Models, head: &RequestHead, api: Api, named: bool) -> CallReader {
        let settings = &models.settings;
        let host = named_server(head, models.scheme).map_or_else(String::new, |server| server.address);
        let model = model_in_path(api, &head.path);
        let format = format(api, model.as_deref());
        let limits = |texts| json::Limits { facts: MAX_FACTS, texts };
        let provider = provider(api, &host, &head.path);
        CallReader {
            api,
            format,
            hints: Hints {
                anthropic: head.headers.get("anthropic-version").is_some(),
                // Endpoints of Azure AI serve one model, which a request need not name.
                model_in_path: named || model.is_some() || provider == "azure.ai.inference",
                streams: head.path.contains(":stream")
                    || head.path.contains("-stream")
                    || head.path.ends_with("_stream"),
                // Named by the user, or by its own host: no doubt.
                ambiguous: (is_ambiguous(api) && !named && host != "api.cohere.com")
                    .then(|| UnknownEndpoint { host, path: without_ids(&head.path) }),
            },
            provider,
            parent: trace_context::parent(&head.headers),
            resend_count: head.headers.get("x-stainless-retry-count").and_then(|count| count.parse().ok()),
            server: models.server(head),
            model,
            start: head.at,
            request: json::Reader::new(
                format.request_filter,
                settings.content,
                limits(settings.max_request_content),
            ),
            prelude: None,
            history: History::Underway(Box::new(history::Reading::new(
                format.history,
                models.key,
                &head.headers,
            ))),
            exchange: models.exchanges,
            mailbox: models.mailbox.clone(),
            request_ended: false,
            request_lost: false,
            status: None,
            body: Body::Ignored,
            answer: Answer::new(settings.content, settings.max_response_content),
            response_lost: false,
            first_chunk: None,
            last_chunk: head.at,
            between_chunks: crate::call::ChunkTimes::default(),
            // Without content only what tools are called with is kept of a response, and no more than is joined by.
            limits: limits(if settings.content { settings.max_response_content } else { MAX_FACTS }),
        }
    }

    fn request_body(&mut self, data: &[u8]) {
        self.request.push(data);
        if let History::Underway(reading) = &mut self.history {
            reading.push(data);
        }
    }

    /// Nothing of the request is certain.
    fn forget_request(&mut self) {
        let nothing = json::Limits { facts: 0, texts: 0 };
        self.request = json::Reader::new(self.format.request_filter, false, nothing);
        self.history = History::Read(Box::new(Links { exchange: self.exchange, ..Links::default() }));
    }

    fn request_end(&mut self) {
        self.request_ended = true;
        let links = self.links();
        if let Some(mailbox) = &self.mailbox
            && let Ok(mut mailbox) = mailbox.lock()
        {
            let (start, parent) = (self.start, self.parent.clone());
            mailbox.push(Heard::Asked(Box::new(Asked { start, parent, links: links.clone() })));
        }
        self.history = History::Read(Box::new(links));
    }

    fn links(&mut self) -> Links {
        match std::mem::replace(&mut self.history, History::Read(Box::default())) {
            History::Underway(reading) => Links { exchange: self.exchange, ..reading.finish() },
            History::Read(links) => *links,
        }
    }

    fn response_head(&mut self, head: &ResponseHead) {
        self.status = Some(head.status);
        if matches!(self.api, Api::BedrockInvoke | Api::BedrockConverse) {
            let count = |name: &str| head.headers.get(name).and_then(|count| count.parse().ok());
            let usage = &mut self.answer.response.usage;
            usage.input = count("x-amzn-bedrock-input-token-count");
            usage.output = count("x-amzn-bedrock-output-token-count");
            // `ValidationException:http://…`.
            let name = head.headers.get("x-amzn-errortype").and_then(|name| name.split(':').next());
            self.answer.error_name = name.map(str::to_owned);
        }
        let kind = head.headers.get("content-type").unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        self.body = match kind.as_str() {
            "text/event-stream" => Body::Events(sse::Parser::default()),
            "application/vnd.amazon.eventstream" => Body::Messages(eventstream::Parser::default()),
            "application/x-ndjson" | "application/stream+json" | "application/jsonl" => {
                Body::Values(values::Splitter::default())
            }
            // Without `alt=sse`, Google streams one array.
            "application/json" if self.api == Api::GoogleGenerateContent && self.hints.streams => {
                Body::Values(values::Splitter::default())
            }
            "text/html" => Body::Ignored,
            kind if kind == "application/json" || kind.ends_with("+json") => Body::Json(self.json()),
            _ => Body::Open,
        };
    }

    fn json(&self) -> Box<json::Reader> {
        Box::new(json::Reader::new(self.format.response_filter, self.answer.wants_content(), self.limits))
    }

    fn response_body(&mut self, mut data: &[u8], at: Timestamp) -> Progress {
        if let Body::Open = self.body {
            // Blanks before it mean nothing to either, and must not depend on where the body is cut.
            data = data.trim_ascii_start();
            match data.first() {
                None => return Progress::More,
                Some(b'{') => self.body = Body::Json(self.json()),
                // The first letters of a stream's fields, of a comment, and of a byte order mark.
                Some(b'd' | b'e' | b'i' | b'r' | b':' | 0xEF) => {
                    self.body = Body::Events(sse::Parser::default());
                }
                Some(_) => self.body = Body::Ignored,
            }
        }
        let mut chunks = Chunks {
            at,
            first: &mut self.first_chunk,
            last: &mut self.last_chunk,
            between: &mut self.between_chunks,
        };
        // What is kept of one event is for a moment; the answer itself has the limit.
        let limits = json::Limits { texts: self.limits.texts.max(MAX_FACTS), ..self.limits };
        let (answer, format) = (&mut self.answer, self.format);
        match &mut self.body {
            Body::Json(reader) => reader.push(data),
            Body::Events(parser) => {
                parser.push(data, &mut |event| event_of_stream(answer, format, limits, &mut chunks, &event));
            }
            Body::Messages(parser) => {
                parser.push(data, &mut |message| {
                    if !answer.done {
                        message_of_stream(answer, format, limits, &mut chunks, &message);
                    }
                });
                answer.truncated |= parser.is_broken();
            }
            Body::Values(splitter) => splitter.push(data, &mut |value| {
                let event = sse::Event {
                    name: b"message",
                    data: value.unwrap_or_default(),
                    id: b"",
                    oversized: value.is_none(),
                };
                event_of_stream(answer, format, limits, &mut chunks, &event);
            }),
            Body::Open | Body::Ignored | Body::Pushed | Body::Message => {}
        }
        if self.answer.done { Progress::Complete } else { Progress::More }
    }

    /// The whole request, and the same for what joins it with others, where it came in several messages.
    fn ask(&mut self, request: &Value, history: &Value) {
        self.request.push(request.to_string().as_bytes());
        if let History::Underway(reading) = &mut self.history {
            reading.push(history.to_string().as_bytes());
        }
    }

    /// An event of the response, as the format's filter keeps it.
    fn event(&mut self, event: &mut Value, truncated: bool, at: Timestamp) {
        self.body = Body::Pushed;
        let (first, last) = (&mut self.first_chunk, &mut self.last_chunk);
        Chunks { at, first, last, between: &mut self.between_chunks }.add();
        self.answer.truncated |= truncated;
        (self.format.event)(&mut self.answer, event);
    }

    /// The response in one message, as the format's filter keeps it.
    fn message(&mut self, message: &mut Value, truncated: bool) {
        self.body = Body::Message;
        self.answer.truncated |= truncated;
        (self.format.whole)(&mut self.answer, message);
    }

    fn finish(self, at: Timestamp, end: End) -> Option<Found> {
        let mailbox = self.mailbox.clone().filter(|_| self.request_ended);
        let exchange = self.exchange;
        let found = self.outcome(at, end);
        if let (None | Some(Found::Unknown(_)), Some(mailbox)) = (&found, mailbox)
            && let Ok(mut mailbox) = mailbox.lock()
        {
            mailbox.push(Heard::NoCall(exchange));
        }
        found
    }

    fn outcome(mut self, at: Timestamp, end: End) -> Option<Found> {
        let mut links = self.links();
        let mut answer = self.answer;
        let mut whole = None;
        let streamed =
            matches!(self.body, Body::Events(_) | Body::Messages(_) | Body::Values(_) | Body::Pushed);
        if let Body::Json(reader) = self.body {
            let mut read = reader.finish();
            whole = Some(read.complete);
            answer.truncated |= read.truncated;
            (self.format.whole)(&mut answer, &mut read.value);
        }
        let status = self.status;
        if status.is_some_and(|status| status >= 400) && answer.failure.is_none() {
            answer.failure = Some(match answer.error_name.take() {
                Some(name) => bedrock::failure(Some(&name), &Value::Null, false),
                None => crate::call::Failure::default(),
            });
        }

        let mut request = self.request.finish();
        let partial = !request.complete && (self.request_lost || !self.request_ended);
        let is_call = (self.format.is_request)(&request.value, &self.hints) || (partial && answer.recognised);
        if !is_call {
            return None;
        }
        if self.hints.ambiguous.is_some() && !answer.recognised {
            // It looks like a call, in no format that we know.
            let names_model = request.value.get("model").is_some_and(Value::is_string);
            return self.hints.ambiguous.filter(|_| names_model).map(Found::Unknown);
        }
        let truncated = self.request_lost || self.response_lost;
        let cut_content = request.truncated || self.request_lost;
        let content = answer.wants_content();
        let mut request = (self.format.request)(&mut request.value, content);
        request.stream |= (streamed && answer.failure.is_none()) || self.hints.streams;
        request.model = request.model.or(self.model);
        request.conversation_id = request.conversation_id.or_else(|| links.client.session.clone());
        links.asks = answer.take_asks();
        if let Some(content) = &mut request.content {
            content.truncated = cut_content;
            let before = self.prelude.and_then(|mut before| (self.format.request)(&mut before, true).content);
            if let Some(mut before) = before {
                before.messages.append(&mut content.messages);
                content.messages = before.messages;
            }
        }

        let outcome = match answer.failure.take() {
            Some(failure) => Outcome::Failed(failure),
            None if answer.done => Outcome::Complete,
            None => match end {
                // The framing says that all came; whether the provider had said all is in the content.
                End::Complete if self.response_lost => Outcome::Complete,
                End::Complete if whole == Some(false) || (streamed && !answer.is_settled()) => Outcome::Cut,
                End::Complete => Outcome::Complete,
                End::Cut => Outcome::Cut,
                End::Cancelled => Outcome::Cancelled,
                End::Unknown => Outcome::Incomplete,
            },
        };
        Some(Found::Call(Box::new(Call {
            operation: self.format.operation,
            api: self.api,
            provider: self.provider,
            server: self.server,
            parent: self.parent,
            request,
            response: answer.into_response(self.response_lost),
            timing: Timing {
                start: self.start,
                first_chunk: self.first_chunk,
                end: at,
                between_chunks: self.between_chunks,
            },
            status,
            outcome,
            resend_count: self.resend_count,
            truncated,
            links,
            rpc: None,
        })))
    }
}

/// The times of a stream's pieces.
struct Chunks<'a> {
    at: Timestamp,
    first: &'a mut Option<Timestamp>,
    last: &'a mut Timestamp,
    between: &'a mut crate::call::ChunkTimes,
}

impl Chunks<'_> {
    fn add(&mut self) {
        if self.first.is_none() {
            *self.first = Some(self.at);
        } else {
            self.between.add(self.at - *self.last);
        }
        *self.last = self.at;
    }
}

fn event_of_stream(
    answer: &mut Answer,
    format: &Format,
    limits: json::Limits,
    chunks: &mut Chunks<'_>,
    event: &sse::Event<'_>,
) {
    if event.oversized {
        answer.truncated = true;
        chunks.add();
        return;
    }
    let data = event.data.trim_ascii();
    if answer.done || data.is_empty() || event.name == b"ping" {
        return;
    }
    if data == b"[DONE]" {
        answer.done = true;
        return;
    }
    let mut read = json::Reader::read(format.event_filter, answer.wants_content(), limits, data);
    // Anthropic's pings, where an intermediary took the event's name.
    if read.value.get("type").is_some_and(|kind| kind == "ping") {
        return;
    }
    chunks.add();
    answer.truncated |= read.truncated;
    (format.event)(answer, &mut read.value);
}

/// A message of an AWS event stream.
fn message_of_stream(
    answer: &mut Answer,
    format: &Format,
    limits: json::Limits,
    chunks: &mut Chunks<'_>,
    message: &eventstream::Message<'_>,
) {
    chunks.add();
    let content = answer.wants_content();
    let read = |filter, limits, text: &[u8]| json::Reader::read(filter, content, limits, text);
    if message.oversized {
        answer.truncated = true;
    } else if message.kind.is_some_and(|kind| kind != "event") {
        let error = json::Reader::read(|_, _| Keep::All, true, limits, message.payload).value;
        answer.failure = Some(bedrock::failure(message.name, &error, content));
    } else if message.name == Some("chunk") {
        // InvokeModel's: the model's own event, in base64.
        let bytes = json::Reader::read(bytes_filter, true, limits, message.payload).value;
        let Some(bytes) = bytes.get("bytes").and_then(Value::as_str) else { return };
        let Ok(event) = base64::engine::general_purpose::STANDARD.decode(bytes) else { return };
        let mut event = read(format.event_filter, limits, &event);
        answer.truncated |= event.truncated;
        (format.event)(answer, &mut event.value);
    } else {
        let event = read(format.event_filter, limits, message.payload);
        answer.truncated |= event.truncated;
        (format.event)(answer, &mut bedrock::named(message.name, event.value));
    }
}

fn bytes_filter(path: &[Step], _: bool) -> Keep {
    match path {
        [] => Keep::Into,
        [key] if key.name() == "bytes" => Keep::All,
        _ => Keep::Nothing,
    }
}

/// The model's name in a path: of Azure (`/openai/deployments/{model}/chat/completions`), of Google
/// (`…/models/{model}:generateContent`), of Bedrock (`/model/{model}/converse`).
fn model_in_path(api: Api, path: &str) -> Option<String> {
    let name = match api {
        Api::BedrockConverse | Api::BedrockInvoke => path.rsplit('/').nth(1)?,
        _ => match path.split_once("/deployments/") {
            Some((_, after)) => after.split('/').next()?,
            None => path.rsplit('/').next()?.rsplit_once(':')?.0,
        },
    };
    let name = String::from_utf8(crate::http::without_escapes(name)).ok()?;
    // 2048: Bedrock takes the ARN of a model, too.
    (!name.is_empty() && name.len() <= 2048).then_some(name)
}

/// Looks at JSON that goes to a path that nobody knows, whether it may be a call.
struct Sniffer {
    endpoint: UnknownEndpoint,
    body: Option<json::Reader>,
    seen: usize,
}

impl std::fmt::Debug for Sniffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sniffer").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Sniffer {
    /// Only the beginning of a body is looked at: this is for the status page, not worth a core.
    const MAX_BODY: usize = 1 << 20;

    fn new(head: &RequestHead, host: &str) -> Sniffer {
        Sniffer {
            endpoint: UnknownEndpoint { host: host.to_owned(), path: without_ids(&head.path) },
            body: Some(json::Reader::new(Sniffer::filter, false, json::Limits { facts: 4 << 10, texts: 0 })),
            seen: 0,
        }
    }

    fn filter(path: &[Step], _: bool) -> Keep {
        match path {
            [] => Keep::Into,
            // The first message of Gemini's Live sessions.
            [key] if key.name() == "setup" => Keep::Into,
            [setup, key] if setup.name() == "setup" && key.name() == "model" => Keep::Kind,
            [key] if matches!(key.name(), "model" | "messages" | "prompt" | "input" | "contents") => {
                Keep::Kind
            }
            _ => Keep::Nothing,
        }
    }

    fn request_body(&mut self, data: &[u8]) {
        self.seen = self.seen.saturating_add(data.len());
        match &mut self.body {
            Some(body) if self.seen <= Sniffer::MAX_BODY => body.push(data),
            body => *body = None,
        }
    }

    /// Where it goes, if it may be a call.
    fn found(&mut self) -> Option<UnknownEndpoint> {
        let body = self.body.take()?.finish().value;
        let has = |key: &str, kind: fn(&Value) -> bool| body.get(key).is_some_and(kind);
        let text = |value: &Value| value.is_string() || value.is_array();
        let asks = has("messages", Value::is_array) || has("prompt", text) || has("input", text);
        let sets_up = has("setup", |setup| setup.get("model").is_some_and(Value::is_string));
        (sets_up || has("contents", Value::is_array) || (has("model", Value::is_string) && asks))
            .then(|| self.endpoint.clone())
    }
}

/// A path to count by: segments that may be an id or a secret become `*`.
fn without_ids(path: &str) -> String {
    const MAX_SEGMENTS: usize = 8;
    let word = |segment: &&str| {
        segment.len() <= 32
            && segment.bytes().filter(u8::is_ascii_digit).count() <= 2
            && !segment.contains('%')
    };
    path.split('/')
        .take(MAX_SEGMENTS)
        .map(|segment| if word(&segment) { segment } else { "*" })
        .collect::<Vec<_>>()
        .join("/")
}
