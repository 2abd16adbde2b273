//! `model-server`: a model provider on loopback, for tests, the demo and benchmarks.

use agentsight_e2e::server::{Options, Server};
use anyhow::Context;
use clap::Parser;
use std::net::IpAddr;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// An HTTPS server on loopback that speaks the wire formats of OpenAI and Anthropic.
///
/// It answers from the request alone; `x-mock-*` request headers change how (see e2e/README.md). It ends on SIGTERM
/// or SIGINT, with its log complete.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// Port to listen on; 0 lets the system choose one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Listen on this Unix socket instead, without TLS.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Serve HTTP without TLS.
    #[arg(long)]
    plain_http: bool,
    /// Host names in the certificate besides localhost and 127.0.0.1.
    #[arg(long, value_delimiter = ',')]
    host_names: Vec<String>,
    /// Accept only this TLS version.
    #[arg(long, value_parser = ["1.2", "1.3"])]
    tls: Option<String>,
    /// Where to write the certificate authority (PEM) that clients trust.
    #[arg(long, default_value = "ca.pem")]
    ca_file: PathBuf,
    /// Written once the server listens: {"port", "ca", "pid"} as JSON.
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// Append one JSON line for each served request: what was asked and what was answered.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Makes ids and texts of one run differ from those of another.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let tls = !arguments.plain_http && arguments.socket.is_none();
    let server = Server::bind(Options {
        address: arguments.address,
        port: arguments.port,
        socket: arguments.socket,
        plain_http: arguments.plain_http,
        host_names: arguments.host_names,
        tls: arguments.tls,
        ca_file: arguments.ca_file.clone(),
        log: arguments.log,
        seed: arguments.seed,
    })
    .await?;
    let ready = serde_json::json!({
        "port": server.port(),
        "ca": tls.then(|| std::path::absolute(&arguments.ca_file)).transpose()?,
        "pid": std::process::id(),
    });
    println!("{ready}");
    if let Some(path) = &arguments.ready_file {
        // Renamed into place: a reader that sees the file sees all of it.
        let partial = path.with_extension("partial");
        std::fs::write(&partial, ready.to_string())
            .and_then(|()| std::fs::rename(&partial, path))
            .with_context(|| format!("cannot write the ready file {}", path.display()))?;
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = server.serve() => {}
    }
    server.finish()
}
