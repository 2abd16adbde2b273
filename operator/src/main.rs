//! The operator's command line.
#![forbid(unsafe_code)]

use agentsight_operator::guardrails::Guardrails;
use agentsight_operator::index::Pace;
use agentsight_operator::metrics::Metrics;
use agentsight_operator::run::{self, Config};
use agentsight_operator::server::{self, Health};
use agentsight_operator::verify;
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// Accepts or refuses AgentTraces, tells agents what to trace, and says what became of it.
///
/// It talks to the Kubernetes API that its pod's service account, or KUBECONFIG, leads to.
#[derive(Parser, Debug)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Operate until it is told to end.
    Run(Options),
    /// Say whether the installation works: the API is there, one replica leads, every agent can trace.
    Verify(Where),
}

#[derive(Args, Debug)]
struct Where {
    /// The release namespace.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    namespace: String,

    /// Labels of the agents' pods.
    #[arg(long, value_name = "SELECTOR")]
    agent_labels: String,

    /// How long to wait for it.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    wait_seconds: u64,
}

#[derive(Args, Debug)]
struct Options {
    /// The release namespace: where grants, node reports and the lease are.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    namespace: String,

    /// Tells replicas apart.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: String,

    /// File with what the administrator allows; the chart renders it.
    #[arg(long, value_name = "FILE")]
    guardrails: PathBuf,

    /// The Deployment in the release namespace that owns the grants: they go when it goes.
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,

    /// Labels of the agents' pods, to tell of those that are away.
    #[arg(long, value_name = "SELECTOR")]
    agent_labels: Option<String>,

    /// Where /metrics, /healthz and /readyz are answered.
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    listen: SocketAddr,

    /// Seconds after which another replica takes over from a leader that is gone.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=300), value_name = "SECONDS")]
    lease_seconds: u64,

    /// Seconds between two writes of one status where only numbers change, for each 50 nodes that report.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600), value_name = "SECONDS")]
    status_seconds: u64,

    /// Write logs as JSON, one object a line.
    #[arg(long)]
    log_json: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("AGENTSIGHT_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,kube_runtime=error"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Two of rustls' providers are in the workspace: kube takes the one that the process names.
    let _already = rustls::crypto::ring::default_provider().install_default();
    let result = match cli.command {
        Command::Run(options) => {
            if options.log_json {
                log.json().init();
            } else {
                log.init();
            }
            operate(options).await
        }
        Command::Verify(at) => {
            log.init();
            verify(&at).await
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = %format_args!("{error:#}"), "the operator ends");
            ExitCode::FAILURE
        }
    }
}

async fn client() -> anyhow::Result<kube::Client> {
    kube::Client::try_default().await.context("cannot tell where the Kubernetes API is")
}

async fn verify(at: &Where) -> anyhow::Result<()> {
    let patience = Duration::from_secs(at.wait_seconds);
    let findings = verify::wait(&client().await?, &at.namespace, &at.agent_labels, patience).await?;
    findings.iter().for_each(|line| println!("{line}"));
    Ok(())
}

async fn operate(options: Options) -> anyhow::Result<()> {
    let file = &options.guardrails;
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let guardrails = Guardrails::from_yaml(&text).with_context(|| file.display().to_string())?;
    let client = client().await?;
    let owner = match &options.owner {
        Some(name) => Some(run::owner(&client, &options.namespace, name).await?),
        None => None,
    };
    let listener = tokio::net::TcpListener::bind(options.listen).await.with_context(|| {
        format!("cannot listen on {}: choose another address with --listen", options.listen)
    })?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = options.namespace,
        identity = options.identity,
        "starting"
    );

    let (metrics, health) = (Metrics::new(), Health::default());
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server::serve(listener, metrics.clone(), health.clone(), async {
        let _ = ended.await;
    }));
    let config = Config {
        namespace: options.namespace,
        identity: options.identity,
        guardrails,
        owner,
        agent_labels: options.agent_labels,
        pace: Pace { numbers: Duration::from_secs(options.status_seconds), ..Pace::default() },
        lease: Duration::from_secs(options.lease_seconds),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run::run(client, config, metrics, health, stop).await?;
    drop(end);
    serving.await.context("the listener has failed")?.context("the listener has failed")
}
