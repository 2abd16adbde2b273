//! A client of models with reqwest and rustls.
//!
//! `ask BASE CA-FILE PROTOCOL N SUITE WORDS` asks N questions at once by HTTP/1.1 (`h1`) or HTTP/2 (`h2`), every other as
//! a stream, twice over the same connections, and says what it got. Only cipher suites are offered whose name begins with
//! SUITE: `TLS` is all of them. Each question has WORDS words more than the one before.

use reqwest::{Certificate, Client};
use serde_json::json;

#[tokio::main(flavor = "multi_thread", worker_threads = 3)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [ask, base, ca, protocol, count, suite, words] = &arguments[..] else { panic!("see its source") };
    assert_eq!(ask, "ask");
    #[cfg(feature = "ring")]
    let mut provider = rustls::crypto::ring::default_provider();
    #[cfg(not(feature = "ring"))]
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|offered| format!("{:?}", offered.suite()).starts_with(suite));
    provider.install_default().expect("the first and only one");
    let ca = Certificate::from_pem(&std::fs::read(ca).expect("a file")).expect("a certificate");
    let client = Client::builder().tls_certs_only([ca]);
    let client = if protocol == "h1" { client.http1_only() } else { client };
    let client = client.build().expect("nothing that could be missing");
    let count: usize = count.parse().expect("a number");
    let words: usize = words.parse().expect("a number");
    for round in 0..2 {
        let asked: Vec<_> = (0..count)
            .map(|i| (format!("model-{round}-{i}"), "word ".repeat(1 + i * words), i % 2 == 1))
            .map(|(model, content, stream)| {
                tokio::spawn(one(client.clone(), base.clone(), model, content, stream))
            })
            .collect();
        for one in asked {
            one.await.expect("an answer");
        }
    }
}

async fn one(client: Client, base: String, model: String, i: usize) {
    // Some of several records.
    let content = "word ".repeat(1 + i * 1500);
    let body =
        json!({"model": model, "stream": i % 2 == 1, "messages": [{"role": "user", "content": content}]});
    let request =
        client.post(format!("{base}/v1/chat/completions")).header("content-type", "application/json");
    let response = request.body(body.to_string()).send().await.expect("a server that answers");
    let (version, status) = (response.version(), response.status().as_u16());
    let length = response.bytes().await.expect("an answer that ends").len();
    println!("{version:?} {status} {model} {length}");
}
