//! A client of models with reqwest and rustls.
//!
//! `ask BASE CA-FILE PROTOCOL N SUITE LETTERS` asks N questions at once by HTTP/1.1 (`h1`) or HTTP/2 (`h2`), every other as
//! a stream, twice over the same connections, and says what it got. Only cipher suites are offered whose name begins with
//! SUITE: `TLS` is all of them. Each question has 700 words more than the one before, and a
//! word that is LETTERS longer.
//!
//! `relay BASE CA-FILE` asks by turns, in one thread, over a connection of its own and over one that other threads carry
//! between a pipe and the network.
//!
//! `echo ROUNDS CERTIFICATE KEY` sends 100 bytes to a server of its own and back, over loopback, and says the CPU time of one
//! write or read, in ns: for `bench/hooks.sh`.

use reqwest::{Certificate, Client};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write, copy};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["ask", base, ca, protocol, count, suite, letters] => ask(base, ca, protocol, count, suite, letters),
        ["relay", base, ca] => relay(base, ca),
        ["echo", rounds, certificate, key] => echo(rounds.parse().expect("a number"), certificate, key),
        _ => panic!("see its source"),
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 3)]
async fn ask(base: &str, ca: &str, protocol: &str, count: &str, suite: &str, letters: &str) {
    let mut provider = provider();
    provider.cipher_suites.retain(|offered| format!("{:?}", offered.suite()).starts_with(suite));
    provider.install_default().expect("the first and only one");
    let ca = Certificate::from_pem(&std::fs::read(ca).expect("a file")).expect("a certificate");
    let client = Client::builder().tls_certs_only([ca]);
    let client = if protocol == "h1" { client.http1_only() } else { client };
    let client = client.build().expect("nothing that could be missing");
    let count: usize = count.parse().expect("a number");
    let letters: usize = letters.parse().expect("a number");
    for round in 0..2 {
        let asked: Vec<_> = (0..count)
            .map(|i| {
                let content = "word ".repeat(1 + i * 700) + &"x".repeat(i * letters);
                tokio::spawn(one(
                    client.clone(),
                    format!("{base}/v1/chat/completions"),
                    format!("model-{round}-{i}"),
                    content,
                    i % 2 == 1,
                ))
            })
            .collect();
        for one in asked {
            one.await.expect("an answer");
        }
    }
}

async fn one(client: Client, url: String, model: String, content: String, stream: bool) {
    let body = json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": content}]});
    let request = client.post(url).header("content-type", "application/json");
    let response = request.body(body.to_string()).send().await.expect("a server that answers");
    let (version, status) = (response.version(), response.status().as_u16());
    let length = response.bytes().await.expect("an answer that ends").len();
    println!("{version:?} {status} {model} {length}");
}

fn relay(base: &str, ca: &str) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .expect("both are there")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let address = base.strip_prefix("https://").expect("a server with TLS");
    let connect = || TcpStream::connect(address).expect("a server that listens");
    let (here, there) = UnixStream::pair().expect("two ends");
    let network = connect();
    for (mut from, mut to) in [
        (Ends::Pipe(there.try_clone().expect("a copy")), Ends::Network(network.try_clone().expect("a copy"))),
        (Ends::Network(network), Ends::Pipe(there)),
    ] {
        // It ends with the process.
        thread::spawn(move || copy(&mut from, &mut to));
    }
    let config = Arc::new(config);
    let name = || "localhost".try_into().expect("a name");
    let session = || ClientConnection::new(config.clone(), name()).expect("a session");
    let mut direct = BufReader::new(StreamOwned::new(session(), connect()));
    let mut relayed = BufReader::new(StreamOwned::new(session(), here));
    for round in 0..3 {
        // The first to be answered is the one that is carried.
        ask_by_hand(&mut relayed, &format!("relayed-{round}"));
        ask_by_hand(&mut direct, &format!("direct-{round}"));
    }
}

fn echo(rounds: u32, certificate: &str, key: &str) {
    let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let provider = Arc::new(provider());
    let client = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let client = client.expect("both are there").with_root_certificates(roots).with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let server = server.expect("both are there").with_no_client_auth();
    let server = server.with_single_cert(vec![certificate], key).expect("they belong together");
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let (socket, _) = listener.accept().expect("a client");
        socket.set_nodelay(true).expect("a socket");
        let session = ServerConnection::new(Arc::new(server)).expect("a session");
        let mut stream = StreamOwned::new(session, socket);
        let mut message = [0; 100];
        while stream.read_exact(&mut message).is_ok() {
            stream.write_all(&message).expect("a client that reads");
        }
    });
    let socket = TcpStream::connect(address).expect("it listens");
    socket.set_nodelay(true).expect("a socket");
    let session = ClientConnection::new(Arc::new(client), "localhost".try_into().expect("a name"));
    let mut stream = StreamOwned::new(session.expect("a session"), socket);
    let mut message = [b'x'; 100];
    let mut begun = 0;
    // The first rounds shake hands.
    for round in 0..rounds + 100 {
        if round == 100 {
            begun = cpu_time();
        }
        stream.write_all(&message).expect("a server that reads");
        stream.read_exact(&mut message).expect("what was sent");
    }
    println!("{}", (cpu_time() - begun) / u64::from(rounds) / 4);
}

/// Of all threads of this process, in ns.
fn cpu_time() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("proc");
    let times = threads.map(|thread| {
        let text = std::fs::read_to_string(thread.expect("a thread").path().join("schedstat"));
        let text = text.expect("a thread that runs");
        text.split(' ').next().and_then(|time| time.parse::<u64>().ok()).expect("proc(5)")
    });
    times.sum()
}

enum Ends {
    Pipe(UnixStream),
    Network(TcpStream),
}

impl Read for Ends {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Ends::Pipe(end) => end.read(buffer),
            Ends::Network(end) => end.read(buffer),
        }
    }
}

impl Write for Ends {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Ends::Pipe(end) => end.write(buffer),
            Ends::Network(end) => end.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn ask_by_hand<S: Read + Write>(stream: &mut BufReader<S>, model: &str) {
    let body = json!({"model": model, "messages": [{"role": "user", "content": model}]}).to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.get_mut().write_all(request.as_bytes()).expect("a server that reads");
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("an answer");
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().expect("a number");
        }
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).expect("an answer that ends");
    println!("{model} {length}");
}

fn provider() -> rustls::crypto::CryptoProvider {
    #[cfg(feature = "ring")]
    return rustls::crypto::ring::default_provider();
    #[cfg(not(feature = "ring"))]
    return rustls::crypto::aws_lc_rs::default_provider();
}
