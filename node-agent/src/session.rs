//! What `record` and `run` share: capture, pipeline and export, put together and taken down in order.

use crate::capture::programs::More;
use crate::capture::{self, Capture, discover};
use crate::cli::{OtlpArgs, OutputArgs, Record, When};
use crate::export::{self, Exporter, Options, Own, StartError, config};
use crate::health::Metrics;
use crate::pipeline::{self, Pipeline, Stats};
use crate::policy::{DEFAULT_EXPORTER, ExporterId, Policy, Wish, wanted_of};
use crate::process::Host;
use crate::resource::Item;
use crate::terminal::Terminal;
use crate::tree::{self, Losses, Tree};
use crate::{cli::Format, process};
use agentsight_api::{AgentTraceSpec, Sampling, Semconv};
use agentsight_ebpf::Counters;
use agentsight_genai::redact::PatternError;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Why a session cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Capture cannot start.
    #[error(transparent)]
    Capture(#[from] capture::Error),
    /// Export is configured wrongly.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// Export cannot start.
    #[error(transparent)]
    Export(#[from] StartError),
    /// A redaction pattern is not usable.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A file cannot be written.
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system refused something else.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What holds for all that is traced, as flags say.
///
/// # Errors
/// [`Error::Pattern`].
pub fn policy_from_flags(args: &Record) -> Result<Policy, Error> {
    let wish = Wish {
        trace: "".into(),
        exporter: DEFAULT_EXPORTER.into(),
        wanted: wanted_of(args.plaintext, args.mcp_stdio),
        content: args.content.content,
        max_content: args.content.max_content_bytes,
        endpoints: Vec::new(),
        redact: args.content.redact.clone(),
        semconv: args.semconv.0,
        sampling: Sampling::default(),
    };
    Ok(Policy::union(&[&wish], "--redact")?)
}

/// What holds for all that is traced, as an AgentTrace says.
///
/// # Errors
/// [`Error::Pattern`].
pub fn policy_from_spec(spec: &AgentTraceSpec) -> Result<Policy, Error> {
    Ok(Policy::union(&[&Wish::of("", spec)], "spec.redaction.patterns")?)
}

/// Export and display: what does not need the kernel, and so can fail before anything is captured.
pub struct Outputs {
    runtime: tokio::runtime::Runtime,
    config: config::Config,
    exporter: Arc<Exporter>,
    display: Arc<Mutex<Display>>,
    flush: Duration,
}

impl Outputs {
    /// Prepares what flags and variables ask for.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(output: &OutputArgs, otlp: &OtlpArgs, semconv: Semconv) -> Result<Outputs, Error> {
        let overrides = config::Overrides {
            endpoint: otlp.otlp_endpoint.clone(),
            protocol: otlp.otlp_protocol.map(|protocol| protocol.name().to_owned()),
            headers: otlp.otlp_header.clone(),
            compression: otlp.otlp_compression.map(|coding| coding.name().to_owned()),
            timeout: otlp.otlp_timeout.map(|timeout| timeout.as_millis().to_string()),
            certificate: otlp.otlp_certificate.as_deref().map(shown),
            client_certificate: otlp.otlp_client_certificate.as_deref().map(shown),
            client_key: otlp.otlp_client_key.as_deref().map(shown),
        };
        let config = config::Config::from_env(|name| std::env::var(name).ok(), &overrides)?;
        let mut options = Options::new(config.clone());
        options.json_file.clone_from(&output.otlp_json);
        options.queue_bytes = otlp.otlp_queue_size;
        // The newest conventions have no tagged release, and so no schema.
        if semconv == Semconv::V1_41 {
            options.schema_url = export::SCHEMA_V1_41.to_owned();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|source| Error::System { what: "start the threads of the exporter", source })?;
        let exporter = Arc::new(Exporter::start(runtime.handle(), &options)?);
        let display = Arc::new(Mutex::new(Display::open(output)?));
        Ok(Outputs { runtime, config, exporter, display, flush: otlp.flush_timeout })
    }

    /// The runtime that exports; the health server lives there too.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    /// Sends the agent's own metrics and log where its flags and variables say.
    ///
    /// # Errors
    /// [`Error::Export`].
    pub fn start_own(&self, metrics: &Metrics, log: &export::Log) -> Result<Own, Error> {
        Ok(Own::start(self.runtime(), &self.config, metrics, log)?)
    }

    /// How long what is left may take to be sent at the end.
    pub fn flush_timeout(&self) -> Duration {
        self.flush
    }

    /// The exporter, for its statistics.
    pub fn exporter(&self) -> Arc<Exporter> {
        self.exporter.clone()
    }
}

/// A running session.
pub struct Session {
    capture: Capture,
    pipeline: JoinHandle<()>,
    stats: Arc<Mutex<Stats>>,
    outputs: Outputs,
}

impl Session {
    /// Loads the kernel programs and starts the stages behind them; nothing is selected yet. `root`: the process whose
    /// run is a span of its own.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(
        policy: Policy,
        outputs: Outputs,
        ring_bytes: u32,
        root: Option<u32>,
    ) -> Result<Session, Error> {
        let (mut capture, batches) = Capture::start(ring_bytes)?;
        for more in More::ALL.into_iter().filter(|more| policy.wants(*more)) {
            if let Err(error) = capture.see(more) {
                tracing::warn!(error = &error as &dyn std::error::Error, "{}", more.without());
            }
        }
        let stats = Arc::new(Mutex::new(Stats::default()));
        // All outputs are one: a host has one trace.
        let content = policy.outputs.iter().find(|output| output.semconv.content);
        let arguments = content.map(|output| output.semconv.redactor.clone());
        let mut host = Host::new(policy, arguments);
        if root.is_some() {
            host.inherit_environment();
        }
        let settings = pipeline::Settings { max_memory: pipeline::DEFAULT_MAX_MEMORY, root };
        let pipeline = std::thread::Builder::new()
            .name("pipeline".to_owned())
            .spawn({
                let (exporter, display, stats) =
                    (outputs.exporter.clone(), outputs.display.clone(), stats.clone());
                let witness = capture.witness();
                move || {
                    let out = |_: &ExporterId, item: Item| {
                        display.lock().expect("no holder panics").add(&item);
                        exporter.send(item);
                    };
                    Pipeline::new(settings, host, stats, out).telling(witness).run(&batches);
                }
            })
            .map_err(|source| Error::System { what: "start the thread of the pipeline", source })?;
        Ok(Session { capture, pipeline, stats, outputs })
    }

    /// The capture, to select and to probe.
    pub fn capture(&mut self) -> &mut Capture {
        &mut self.capture
    }

    /// The capture, to look at.
    pub fn capture_ref(&self) -> &Capture {
        &self.capture
    }

    /// What went through so far.
    pub fn stats(&self) -> Arc<Mutex<Stats>> {
        self.stats.clone()
    }

    /// What the kernel counted so far.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn counters(&self) -> Result<Counters, capture::Error> {
        Ok(self.capture.totals()?.counters)
    }

    /// The outputs.
    pub fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    /// Takes down stage by stage, so that each hands on what it has; then says what was lost.
    pub fn finish(self) {
        let Session { capture, pipeline, stats, outputs } = self;
        let (totals, remains) = capture.end();
        let counters = match totals {
            Ok(totals) => totals.counters,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "what was lost in the kernel is not known"
                );
                Counters::default()
            }
        };
        if pipeline.join().is_err() {
            tracing::error!("the pipeline ended by itself; this is a mistake in AgentSight");
        }
        let Outputs { runtime, exporter, display, flush, config: _ } = outputs;
        let losses = runtime.block_on(exporter.flush(flush));
        for loss in &losses {
            tracing::warn!(to = loss.to, kind = ?loss.kind, cause = ?loss.cause, count = loss.count, "telemetry was given up");
        }
        let stats = stats.lock().expect("no holder panics").clone();
        report(&counters, &stats);
        let spans = losses
            .iter()
            .filter(|loss| loss.kind == crate::export::Kind::Traces)
            .map(|loss| loss.count)
            .sum();
        let losses = Losses { bytes: counters.lost_bytes(), spans };
        display.lock().expect("no holder panics").finish(losses);
        // Last, as it takes long: what was seen is shown and sent.
        drop(remains);
    }
}

/// Says what was seen and what was not: silence is never to be taken for coverage.
fn report(counters: &Counters, stats: &Stats) {
    tracing::info!(
        tls_calls = counters.tls_calls,
        tls_bytes = counters.tls_bytes,
        socket_calls = counters.socket_calls,
        socket_bytes = counters.socket_bytes,
        sockets_ignored = counters.sockets_ignored,
        stdio_bytes = counters.stdio_bytes,
        channels_ignored = counters.channels_ignored,
        records_foreign = counters.records_foreign,
        captured_bytes = counters.captured_bytes,
        events = stats.events.iter().sum::<u64>(),
        calls = stats.calls.values().sum::<u64>(),
        merged_calls = stats.merged_calls,
        "the tracing has ended"
    );
    if counters.lost_bytes() + counters.ring_full_records > 0 {
        tracing::warn!(
            ring_full_records = counters.ring_full_records,
            ring_full_bytes = counters.ring_full_bytes,
            fault_bytes = counters.fault_bytes,
            oversize_bytes = counters.oversize_bytes,
            "plaintext was lost between kernel and agent; a larger --ring-size loses less"
        );
    }
    for (what, count) in [
        ("bytes went through SSL_sendfile and cannot be seen", counters.sendfile_bytes),
        ("bytes of plain HTTP went by sendfile or splice and cannot be seen", counters.socket_bypass_bytes),
        ("bytes of rustls could not be told to be of one connection", counters.records_unplaced_bytes),
        (
            "servers of MCP read from several clients, and their answers are not told",
            counters.channels_ambiguous,
        ),
        ("returns of TLS calls had no entry", counters.unpaired_returns),
        ("TLS calls found no place for their connection", counters.connections_full),
        ("child processes found no place and were not traced", counters.processes_full),
        ("connections were given up for want of memory", stats.evicted),
        ("turns were given up for want of memory", stats.causality.evicted_turns),
        ("processes were forgotten for want of memory", stats.causality.evicted_processes),
    ] {
        if count > 0 {
            tracing::warn!(count, "{what}");
        }
    }
    for (endpoint, count) in &stats.unknown_endpoints {
        tracing::warn!(
            host = endpoint.host,
            path = endpoint.path,
            count,
            "requests look like model calls in no known format; name the endpoint in an AgentTrace"
        );
    }
}

/// Where finished spans are shown.
struct Display {
    out: Option<Box<dyn Write + Send>>,
    tree: Tree,
    format: Format,
    /// The terminal, where it is shared with the command.
    shared_screen: Option<RawFd>,
    failed: bool,
}

impl Display {
    fn open(args: &OutputArgs) -> Result<Display, Error> {
        let stderr = io::stderr();
        let terminal = match &args.output_file {
            Some(_) => Terminal::PLAIN,
            None => Terminal::of(&stderr),
        };
        let shown = match args.tree {
            When::Always => true,
            When::Never => false,
            When::Auto => stderr.is_terminal() || args.output_file.is_some() || args.output == Format::Json,
        };
        let shared_screen = (args.output_file.is_none() && stderr.is_terminal()).then(|| stderr.as_raw_fd());
        let out: Option<Box<dyn Write + Send>> = match (&args.output_file, shown) {
            (_, false) => None,
            (Some(path), true) => Some(Box::new(File::create(path).map_err(|source| Error::File {
                what: "create",
                path: path.clone(),
                source,
            })?)),
            (None, true) => Some(Box::new(stderr)),
        };
        Ok(Display { out, tree: Tree::new(terminal), format: args.output, shared_screen, failed: false })
    }

    fn add(&mut self, item: &Item) {
        if self.out.is_none() {
            return;
        }
        let text = match self.format {
            Format::Text => self.tree.add(item),
            Format::Json => tree::json_line(item),
        };
        // A program that draws the whole screen would find our lines in its middle: it gets the tree at the end.
        if self.format == Format::Json || !self.shared_screen.is_some_and(is_raw) {
            self.write(&text.unwrap_or_default());
        }
    }

    fn finish(&mut self, losses: Losses) {
        if self.format == Format::Text && self.out.is_some() {
            let text = self.tree.finish(losses);
            self.write(&text);
        }
    }

    fn write(&mut self, text: &str) {
        let Some(out) = &mut self.out else { return };
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush())
            && !self.failed
        {
            self.failed = true;
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot show spans");
        }
    }
}

/// Whether a program takes the terminal's keys one by one, as full-screen programs do.
fn is_raw(terminal: RawFd) -> bool {
    // SAFETY: a zeroed termios is a valid one to be filled in.
    unsafe {
        let mut state: libc::termios = std::mem::zeroed();
        libc::tcgetattr(terminal, &raw mut state) == 0 && state.c_lflag & libc::ICANON == 0
    }
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The processes that a selector means, of those that run now.
pub fn selected_processes(spec: &AgentTraceSpec) -> Vec<u32> {
    let own = std::process::id();
    discover::processes().filter(|pid| *pid != own && spec.selects(&process::labels(*pid))).collect()
}
