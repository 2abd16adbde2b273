//! The model server: connections in, answers out, a line of the log for each.

use crate::answer::Answer;
use crate::answers::errors::Failure;
use crate::answers::{Content, Making, Rendered, render};
use crate::behaviour::{Behaviour, Cut};
use crate::certificates;
use crate::dialogue::{Dialogue, Reply};
use crate::ids::Ids;
use crate::question::{Api, Question};
use crate::request::Request;
use crate::response::Response;
use crate::truth::{Log, Outcome, Served};
use crate::websocket::WebSocket;
use anyhow::Context;
use bytes::BytesMut;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

/// How to serve.
pub struct Options {
    /// Where to listen: loopback, or all addresses in a pod.
    pub address: IpAddr,
    /// 0 lets the system choose.
    pub port: u16,
    /// Where to listen instead: a Unix socket, without TLS.
    pub socket: Option<PathBuf>,
    /// No TLS.
    pub plain_http: bool,
    /// Names in the certificate besides localhost and 127.0.0.1.
    pub host_names: Vec<String>,
    /// "1.2" or "1.3"; both by default.
    pub tls: Option<String>,
    /// Where the certificate authority goes.
    pub ca_file: PathBuf,
    /// Where the truth goes.
    pub log: Option<PathBuf>,
    /// Makes ids and texts differ from those of another run.
    pub seed: u64,
}

/// A server that listens.
pub struct Server {
    listener: Listener,
    state: Arc<State>,
}

enum Listener {
    Tcp(TcpListener, Option<TlsAcceptor>),
    Unix(UnixListener),
}

/// What all connections share.
struct State {
    seed: u64,
    /// The Unix socket that it listens on.
    socket: Option<String>,
    sequence: AtomicU64,
    /// Errors already served, by case.
    failures: Mutex<HashMap<String, u32>>,
    log: Log,
}

impl Server {
    /// Listens; clients can connect once this returns.
    ///
    /// # Errors
    /// The port is taken, or a file cannot be written.
    pub async fn bind(options: Options) -> anyhow::Result<Self> {
        let listener = if let Some(path) = &options.socket {
            let listener = UnixListener::bind(path);
            Listener::Unix(listener.with_context(|| format!("cannot listen on {}", path.display()))?)
        } else {
            let listener = TcpListener::bind((options.address, options.port))
                .await
                .with_context(|| format!("cannot listen on {}:{}", options.address, options.port))?;
            let tls = if options.plain_http {
                None
            } else {
                let names = options.host_names.as_slice();
                let config = certificates::server_config(names, options.tls.as_deref(), &options.ca_file)?;
                Some(TlsAcceptor::from(config))
            };
            Listener::Tcp(listener, tls)
        };
        Ok(Self {
            listener,
            state: Arc::new(State {
                seed: options.seed,
                socket: options.socket.map(|path| path.to_string_lossy().into_owned()),
                sequence: AtomicU64::new(0),
                failures: Mutex::new(HashMap::new()),
                log: Log::open(options.log.as_deref())?,
            }),
        })
    }

    /// Where it listens; 0 on a Unix socket.
    pub fn port(&self) -> u16 {
        match &self.listener {
            Listener::Tcp(listener, _) => listener.local_addr().map_or(0, |address| address.port()),
            Listener::Unix(_) => 0,
        }
    }

    /// Serves until dropped.
    pub async fn serve(&self) {
        loop {
            let state = Arc::clone(&self.state);
            let accepted = match &self.listener {
                Listener::Tcp(listener, tls) => listener.accept().await.map(|(connection, _)| {
                    let tls = tls.clone();
                    tokio::spawn(async move { complain(converse(connection, tls, &state).await) });
                }),
                Listener::Unix(listener) => listener.accept().await.map(|(mut connection, _)| {
                    let talk = async move { complain(serve_connection(&mut connection, &state).await) };
                    tokio::spawn(talk);
                }),
            };
            // Out of file descriptors, or a client that was gone before its turn: the next one may do better.
            if accepted.is_err() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Completes the log.
    ///
    /// # Errors
    /// A line could not be written.
    pub fn finish(&self) -> anyhow::Result<()> {
        self.state.log.finish()
    }
}

fn complain<T>(result: anyhow::Result<T>) {
    if let Err(error) = result {
        eprintln!("model-server: {error:#}");
    }
}

async fn converse(connection: TcpStream, tls: Option<TlsAcceptor>, state: &State) -> anyhow::Result<()> {
    // Events are small and each is meant to arrive at once.
    connection.set_nodelay(true)?;
    let Some(tls) = tls else {
        let mut connection = connection;
        let cut = serve_connection(&mut connection, state).await?;
        if cut == Some(Cut::Reset) {
            connection.set_zero_linger()?;
        }
        return Ok(());
    };
    // A client that leaves within the handshake is not worth a line: it may only have looked whether we listen.
    let Ok(mut session) = tls.accept(connection).await else { return Ok(()) };
    let cut = serve_connection(&mut session, state).await?;
    match cut {
        Some(Cut::Fin) => {}
        Some(Cut::Reset) => session.get_ref().0.set_zero_linger()?,
        // The client may be gone already.
        Some(Cut::CloseNotify) | None => drop(session.shutdown().await),
    }
    Ok(())
}

/// Serves requests until the connection ends, and tells how it is to be cut.
async fn serve_connection<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    state: &State,
) -> anyhow::Result<Option<Cut>> {
    let mut buffer = BytesMut::with_capacity(16 << 10);
    loop {
        // Resets between requests are how many clients leave.
        let Ok(Some(mut request)) = Request::read_head(stream, &mut buffer).await else { return Ok(None) };
        let early = request.header("x-mock-early").is_some();
        if !early && request.read_body(stream, &mut buffer).await.is_err() {
            return Ok(None);
        }
        if let Some(dialogue) =
            Dialogue::of(&request.path, &request.query).filter(|_| request.method == "GET")
            && let Ok(behaviour) = Behaviour::of(&request)
            && let Some(mut websocket) = WebSocket::accept(&request, &behaviour, stream, &mut buffer).await?
        {
            return converse_in_messages(&request, &behaviour, dialogue, &mut websocket, state).await;
        }
        let mut served = begun(&request, state);
        let (behaviour, response) = respond(&request, state, &mut served);
        let sent = response.send(stream, &behaviour, request.method == "HEAD").await?;
        if early && request.read_body(stream, &mut buffer).await.is_err() {
            served.outcome = Outcome::ClientGone;
        }
        served.outcome = sent.outcome;
        served.chunks = sent.chunks;
        served.response_bytes = sent.bytes;
        state.log.add(served);
        if !sent.reusable || request.closes() {
            return Ok(behaviour.cut);
        }
    }
}

/// The line of the log of a request that was just read.
fn begun(request: &Request, state: &State) -> Served {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Served {
        sequence: state.sequence.fetch_add(1, Ordering::Relaxed) + 1,
        at_ms: at.as_millis() as u64,
        method: request.method.clone(),
        socket: state.socket.clone(),
        path: request.path.clone(),
        // 00-TRACE-SPAN-FLAGS (W3C Trace Context, section 3.2).
        trace_id: request.header("traceparent").and_then(|t| t.split('-').nth(1)).map(str::to_owned),
        retry: request.header("x-stainless-retry-count").and_then(|n| n.parse().ok()),
        request_bytes: request.body.len(),
        ..Served::default()
    }
}

/// Answers what is asked in messages, until the client closes or the connection is to be cut.
async fn converse_in_messages<S: AsyncRead + AsyncWrite + Unpin>(
    handshake: &Request,
    behaviour: &Behaviour,
    mut dialogue: Dialogue,
    websocket: &mut WebSocket<'_, S>,
    state: &State,
) -> anyhow::Result<Option<Cut>> {
    let mut messages = dialogue.greeting();
    loop {
        for message in &messages {
            websocket.send(message).await?;
        }
        let Some(message) = websocket.receive().await? else { return Ok(None) };
        let (body, said, warms_up) = match dialogue.hear(message) {
            Reply::Messages(said) => {
                messages = said;
                continue;
            }
            Reply::Request { body, said, warms_up } => (body, said, warms_up),
        };
        let case = body["metadata"]["case"].as_str().map(str::to_owned);
        // What is asked over HTTP where this is asked in messages.
        let request = Request {
            method: "POST".to_owned(),
            path: "/v1/responses".to_owned(),
            body: body.to_string().into_bytes(),
            ..handshake.clone()
        };
        let mut served = begun(&request, state);
        let (_, response) = respond(&request, state, &mut served);
        served.case = case.or(served.case);
        served.path.clone_from(&handshake.path);
        served.request = logged(state, &request, said);
        if warms_up {
            served.api = "responses.warm_up".to_owned();
        } else if matches!(dialogue, Dialogue::Realtime(_)) {
            served.api = "realtime".to_owned();
            // It does not say it again.
            served.model = None;
        }
        messages = dialogue.messages(response, &body, warms_up);
        served.chunks = messages.len();
        served.response_bytes = messages.iter().map(|message| message.to_string().len()).sum();
        if behaviour.cut.is_some() {
            messages.truncate(behaviour.cut_after.unwrap_or(messages.len() / 2));
            served.outcome = Outcome::Cut;
        }
        tokio::time::sleep(behaviour.first_delay).await;
        for message in std::mem::take(&mut messages) {
            if websocket.send(&message).await.is_err() {
                served.outcome = Outcome::ClientGone;
                break;
            }
            tokio::time::sleep(behaviour.chunk_delay).await;
        }
        let outcome = served.outcome;
        state.log.add(served);
        match outcome {
            Outcome::Complete => {}
            Outcome::Cut => return Ok(behaviour.cut),
            Outcome::ClientGone => return Ok(None),
        }
    }
}

/// The largest request that the log repeats, in bytes: agents send a hundred kilobytes before anybody has said a word.
const LOGGED_REQUEST: usize = 512 << 10;

fn respond(request: &Request, state: &State, served: &mut Served) -> (Behaviour, Response) {
    let now = served.at_ms / 1000;
    let api = Api::of(&request.method, &request.path);
    served.api = api.map_or("", Api::name).to_owned();
    let behaviour = match Behaviour::of(request) {
        Ok(behaviour) => behaviour,
        Err(message) => {
            let failure = Failure { message, ..Failure::of(api, 400, "") };
            let behaviour = Behaviour::of(&Request::default()).expect("no header is no wrong header");
            return (behaviour, refuse(api, &failure, None, served));
        }
    };
    served.case.clone_from(&behaviour.case);
    let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    let model = api.map_or("", |api| api.model(&request.path, &body));
    served.request_model = model.to_owned();
    let failure = failure(request, api, &body, &behaviour, state);
    let Some(api) = api.filter(|_| failure.is_none()) else {
        let failure = failure.unwrap_or_else(|| Failure {
            message: format!("Unknown request URL: {} {}", request.method, request.path),
            code: Some("unknown_url"),
            ..Failure::of(None, 404, "")
        });
        let response = refuse(api, &failure, behaviour.error_body.as_deref(), served);
        served.request = logged(state, request, body);
        return (behaviour, response);
    };

    let question = Question::of(api, &request.path, &body);
    let mut ids = Ids::new(state.seed, served.sequence);
    let answer = Answer::to(&question, &behaviour, &mut ids);
    let making = Making { question: &question, body: &body, answer: &answer, behaviour: &behaviour, now };
    let mut rendered = render(&making, &mut ids);
    tell(served, &question, &answer, &rendered, &behaviour);
    let mut headers = usual_headers(api, &mut ids);
    headers.push(("content-type", content_type(&rendered.content).to_owned()));
    if let (Some(after), Content::Events(events)) = (behaviour.stream_error, &mut rendered.content) {
        fail_within(events, after, api, served);
    }
    served.request = logged(state, request, body);
    (behaviour, Response { status: 200, headers, content: rendered.content })
}

/// The error that this request is to get, if any.
fn failure(
    request: &Request,
    api: Option<Api>,
    body: &Value,
    behaviour: &Behaviour,
    state: &State,
) -> Option<Failure> {
    let model = api.map_or("", |api| api.model(&request.path, body));
    let of = |status| Some(Failure::of(api, status, model));
    if let Some(status) = behaviour.status {
        let case = behaviour.case.clone().unwrap_or_default();
        let mut failures = state.failures.lock().ok()?;
        let served = failures.entry(case).or_default();
        *served += 1;
        if behaviour.failures.is_none_or(|limit| *served <= limit) {
            return of(status);
        }
    }
    let key = request
        .header("x-api-key")
        .or_else(|| request.header("x-goog-api-key"))
        .or_else(|| request.header("api-key"))
        .or_else(|| request.header("authorization").map(|v| v.trim_start_matches("Bearer ")));
    // Servers of open models ask for no key; a wrong one is refused as the providers do it.
    if key.is_some_and(|key| key.contains("wrong")) {
        return of(401);
    }
    if model.contains("missing") {
        return of(404);
    }
    let needs_body = api.is_some_and(|api| api != Api::Models);
    if needs_body && !body.is_object() && !behaviour.early {
        return of(400);
    }
    None
}

fn refuse(api: Option<Api>, failure: &Failure, plain: Option<&str>, served: &mut Served) -> Response {
    served.status = failure.status;
    let mut headers: Vec<_> = failure.headers.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
    let content = match plain {
        Some(text) => {
            headers.push(("content-type", "text/html".to_owned()));
            text.as_bytes().to_vec()
        }
        None => {
            served.error_type = Some(failure.kind(api).to_owned());
            served.error_code = failure.code.map(str::to_owned);
            headers.push(("content-type", "application/json".to_owned()));
            failure.body(api).to_string().into_bytes()
        }
    };
    Response { status: failure.status, headers, content: Content::Whole(content) }
}

/// Ends the stream with an error after `after` events.
fn fail_within(events: &mut Vec<Vec<u8>>, after: usize, api: Api, served: &mut Served) {
    events.truncate(after);
    let failure = Failure::of(Some(api), if api.is_anthropic() { 529 } else { 500 }, "");
    let event = match api {
        Api::Messages => format!("event: error\ndata: {}\n\n", failure.body(Some(api))),
        Api::Responses => {
            let data = json!({
                "type": "error",
                "code": failure.kind,
                "message": failure.message,
                "param": null,
                "sequence_number": after,
            });
            format!("event: error\ndata: {data}\n\n")
        }
        _ => format!("data: {}\n\n", failure.body(Some(api))),
    };
    events.push(event.into_bytes());
    served.error_type = Some(failure.kind.to_owned());
    served.error_code = failure.code.map(str::to_owned);
}

fn tell(
    served: &mut Served,
    question: &Question,
    answer: &Answer,
    rendered: &Rendered,
    behaviour: &Behaviour,
) {
    served.status = 200;
    served.stream = matches!(rendered.content, Content::Events(_));
    served.id.clone_from(&rendered.id);
    if !matches!(question.api, Api::Models | Api::CountTokens | Api::GoogleCountTokens) {
        served.model = Some(answer.model.clone());
    }
    served.finish_reasons.clone_from(&rendered.finish_reasons);
    served.choices.clone_from(&rendered.choices);
    if !behaviour.no_usage && !matches!(question.api, Api::Models) {
        served.input_tokens = Some(answer.input_tokens);
        if !matches!(question.api, Api::Embeddings | Api::CountTokens | Api::GoogleCountTokens) {
            served.output_tokens = Some(answer.output_tokens);
            served.cached_tokens = Some(answer.cached_tokens);
            served.cache_write_tokens = Some(answer.cache_write_tokens);
            served.reasoning_tokens = Some(answer.reasoning_tokens);
        }
    }
}

fn usual_headers(api: Api, ids: &mut Ids) -> Vec<(&'static str, String)> {
    if api.is_google() {
        vec![
            ("vary", "Origin, X-Origin, Referer".to_owned()),
            ("server", "scaffolding on HTTPServer2".to_owned()),
        ]
    } else if api.is_anthropic() {
        vec![
            ("request-id", ids.id("req_011", 21)),
            ("anthropic-organization-id", "4f1b6c1e-0000-4000-8000-000000000000".to_owned()),
        ]
    } else {
        vec![
            ("x-request-id", ids.hex("req_", 32)),
            ("openai-organization", "agentsight-tests".to_owned()),
            ("openai-processing-ms", "12".to_owned()),
            ("openai-version", "2020-10-01".to_owned()),
        ]
    }
}

fn content_type(content: &Content) -> &'static str {
    match content {
        Content::Whole(_) => "application/json",
        Content::Events(_) => "text/event-stream; charset=utf-8",
    }
}

fn logged(state: &State, request: &Request, body: Value) -> Option<Value> {
    (state.log.is_kept() && request.body.len() <= LOGGED_REQUEST).then_some(body)
}
