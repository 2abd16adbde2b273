//! Conversations between a well-known client and a well-known server of HTTP/2 (both of the h2 crate), with the bytes
//! that the client's TLS library would have moved, and what each side meant by them.

use std::collections::BTreeMap;
use std::io::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use agentsight_genai::http::Direction;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// What moved, in order, in the pieces in which it was read and written.
pub(crate) type Moved = Vec<(Direction, Vec<u8>)>;

/// What was meant by one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meant {
    pub(crate) request_headers: Vec<(String, String)>,
    pub(crate) request: Vec<u8>,
    pub(crate) status: u16,
    pub(crate) response_headers: Vec<(String, String)>,
    /// Without its coding.
    pub(crate) response: Vec<u8>,
    /// One side gave the stream up.
    pub(crate) reset: bool,
}

/// What the server is to answer, by the number in the path.
#[derive(Clone, Default)]
struct Answer {
    meant: Meant,
    /// As it is sent.
    body: Vec<u8>,
    interim: bool,
    trailers: bool,
    pushes: bool,
    reset_after: Option<usize>,
}

/// Holds a conversation whose every choice follows from the seed; none where the two sides fell out with each other.
pub(crate) fn hold(seed: u64) -> Option<(Moved, BTreeMap<String, Meant>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(converse(seed))
}

async fn converse(seed: u64) -> Option<(Moved, BTreeMap<String, Meant>)> {
    let mut random = StdRng::seed_from_u64(seed);
    let answers: Vec<Answer> = (0..random.random_range(1..12)).map(|_| answer(&mut random)).collect();
    let (near, far) = tokio::io::duplex(random.random_range(64..60_000));
    let moved = Arc::new(Mutex::new(Moved::new()));
    let near = Tap { inner: near, moved: moved.clone() };

    let mut server = h2::server::Builder::new();
    let mut client = h2::client::Builder::new();
    for table in [0, 100, 4096, 65_536].into_iter().filter(|_| random.random_bool(0.3)) {
        client.header_table_size(table);
    }
    client
        .max_frame_size(random.random_range(16_384..100_000))
        .max_header_list_size(1 << 20)
        .enable_push(true);
    client.initial_window_size(random.random_range(10_000..1_000_000));
    server.max_frame_size(random.random_range(16_384..100_000)).max_header_list_size(1 << 20);
    server.initial_window_size(random.random_range(10_000..1_000_000));

    let serving = tokio::spawn(serve(server, far, answers.clone()));
    let (sender, connection) = client.handshake::<_, Bytes>(near).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut meant = BTreeMap::new();
    let parallel = random.random_bool(0.7);
    let mut asking = Vec::new();
    for (number, answer) in answers.into_iter().enumerate() {
        let path = format!("/{seed}/{number}");
        meant.insert(path.clone(), answer.meant.clone());
        let sender = sender.clone().ready().await.ok()?;
        // Very many small frames are taken for an attack.
        let chunk = random.random_range(500..20_000);
        let asked = tokio::spawn(ask(sender, path, answer, chunk));
        if parallel {
            asking.push(asked);
        } else {
            asked.await.unwrap();
        }
    }
    for asked in asking {
        asked.await.unwrap();
    }
    drop(sender);
    // A connection that one side ends in anger tells nothing of the streams on it.
    driving.await.unwrap().ok()?;
    serving.await.unwrap();
    let moved = std::mem::take(&mut *moved.lock().unwrap());
    Some((moved, meant))
}

fn answer(random: &mut StdRng) -> Answer {
    let mut response = text(random, 60_000);
    let gzip = random.random_bool(0.2);
    let status = [200, 200, 200, 404, 500, 529][random.random_range(0..6)];
    let reset_after = random.random_bool(0.1).then(|| random.random_range(0..response.len().max(1)));
    let mut response_headers = headers(random);
    let body = if gzip {
        response_headers.push(("content-encoding".to_owned(), "gzip".to_owned()));
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&response).unwrap();
        encoder.finish().unwrap()
    } else {
        response.clone()
    };
    if reset_after.is_some() {
        response.clear();
    }
    Answer {
        meant: Meant {
            request_headers: headers(random),
            request: text(random, 40_000),
            status,
            response_headers,
            response,
            reset: reset_after.is_some(),
        },
        body,
        interim: random.random_bool(0.2),
        trailers: random.random_bool(0.3),
        pushes: random.random_bool(0.1),
        reset_after,
    }
}

fn text(random: &mut StdRng, most: usize) -> Vec<u8> {
    let length = match random.random_range(0..10) {
        0 | 1 => 0,
        2 => random.random_range(0..most),
        _ => random.random_range(0..most / 20),
    };
    // Anything but the recorder's own terminator.
    (0..length).map(|_| random.random_range(b'a'..=b'z')).collect()
}

fn headers(random: &mut StdRng) -> Vec<(String, String)> {
    (0..random.random_range(0..8))
        .map(|_| {
            let name = format!("x-{}", random.random_range(0..12));
            // Now and then more than one frame holds.
            let most = if random.random_bool(0.03) { 18_000 } else { 60 };
            let length = random.random_range(1..most);
            (name, (0..length).map(|_| char::from(random.random_range(b'!'..=b'~'))).collect())
        })
        .collect()
}

fn map(fields: &[(String, String)]) -> HeaderMap {
    let field = |(name, value): &(String, String)| {
        (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
    };
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter().map(field) {
        map.append(name, value);
    }
    map
}

async fn ask(mut sender: h2::client::SendRequest<Bytes>, path: String, answer: Answer, chunk: usize) {
    let mut request = Request::post(format!("https://Model.example:8443{path}?key=1")).body(()).unwrap();
    *request.headers_mut() = map(&answer.meant.request_headers);
    request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer hidden"));
    let body = answer.meant.request;
    let (response, stream) = sender.send_request(request, body.is_empty()).unwrap();
    if !body.is_empty() {
        // A server that gives up needs no body.
        send(stream, &body, chunk, false).await;
    }
    let Ok(response) = response.await else { return };
    let mut body = response.into_body();
    receive(&mut body).await;
}

async fn serve(builder: h2::server::Builder, io: DuplexStream, answers: Vec<Answer>) {
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let number: usize = request.uri().path().rsplit('/').next().unwrap().parse().unwrap();
        let answer = answers[number].clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            receive(&mut body).await;
            if answer.interim {
                respond.send_informational(Response::builder().status(103).body(()).unwrap()).ok();
            }
            if answer.pushes {
                let promised = Request::get("https://model.example:8443/pushed").body(()).unwrap();
                if let Ok(mut push) = respond.push_request(promised)
                    && let Ok(mut stream) = push.send_response(Response::new(()), false)
                {
                    stream.send_data(Bytes::from_static(b"nobody asked"), true).ok();
                }
            }
            let mut head = Response::builder().status(answer.meant.status).body(()).unwrap();
            *head.headers_mut() = map(&answer.meant.response_headers);
            if let Some(after) = answer.reset_after {
                let Ok(mut stream) = respond.send_response(head, false) else { return };
                stream
                    .send_data(Bytes::copy_from_slice(&answer.body[..after.min(answer.body.len())]), false)
                    .ok();
                stream.send_reset(Reason::INTERNAL_ERROR);
                return;
            }
            let Ok(stream) = respond.send_response(head, answer.body.is_empty() && !answer.trailers) else {
                return;
            };
            if !answer.body.is_empty() || answer.trailers {
                send(stream, &answer.body, 7_000, answer.trailers).await;
            }
        });
    }
}

async fn send(mut stream: SendStream<Bytes>, mut body: &[u8], chunk: usize, trailers: bool) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len().min(chunk));
        let Some(Ok(capacity)) = std::future::poll_fn(|context| stream.poll_capacity(context)).await else {
            return;
        };
        let (part, rest) = body.split_at(capacity.min(body.len()).min(chunk));
        body = rest;
        if stream.send_data(Bytes::copy_from_slice(part), body.is_empty() && !trailers).is_err() {
            return;
        }
    }
    if trailers {
        stream.send_trailers(map(&[("x-checksum".to_owned(), "17".to_owned())])).ok();
    }
}

async fn receive(body: &mut RecvStream) {
    while let Some(Ok(part)) = body.data().await {
        body.flow_control().release_capacity(part.len()).ok();
    }
    body.trailers().await.ok();
}

/// The client's end, overheard.
struct Tap {
    inner: DuplexStream,
    moved: Arc<Mutex<Moved>>,
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        let read = &buffer.filled()[before..];
        if !read.is_empty() {
            self.moved.lock().unwrap().push((Direction::Received, read.to_vec()));
        }
        polled
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, data);
        if let Poll::Ready(Ok(length @ 1..)) = polled {
            self.moved.lock().unwrap().push((Direction::Sent, data[..length].to_vec()));
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
