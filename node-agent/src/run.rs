//! `agentsight run`: the host, traced as an AgentTrace says.

use crate::capture::library::{Library, Reason};
use crate::capture::programs::More;
use crate::capture::{self, Capture, Totals};
use crate::causality::Cause;
use crate::cli::Run;
use crate::export::{self, Exporter, Log};
use crate::health::{
    self, CallLabels, CauseLabel, DirectionLabel, ExportLabels, ExportLossLabels, Health, KindLabel,
};
use crate::health::{LibraryLabel, LossLabels, Metrics, QueueLabel, ReasonLabel, StateLabel, set_total};
use crate::pipeline::{EVENT_KINDS, Stats};
use crate::record::{CANNOT_TRACE, fail, stop_signals, wait_for_all};
use crate::session::{Error, Outputs, Session, policy_from_spec, selected_processes};
use agentsight_api::{AgentTrace, Selector};
use std::io::Read;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

/// Traces until a signal ends it. `log`: where the agent's own log passes.
pub fn run(args: &Run, log: &Log) -> ExitCode {
    let text = match read(&args.file) {
        Ok(text) => text,
        Err(error) => {
            return fail(CANNOT_TRACE, format_args!("cannot read {}: {error}", args.file.display()));
        }
    };
    let trace = match AgentTrace::from_yaml(&text) {
        Ok(trace) => trace,
        Err(error) => return fail(CANNOT_TRACE, format_args!("{}: {error}", args.file.display())),
    };
    for warning in trace.spec.warnings_on_a_host() {
        tracing::warn!(file = %args.file.display(), "{warning}");
    }
    match trace_host(args, &trace, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(CANNOT_TRACE, error),
    }
}

fn trace_host(args: &Run, trace: &AgentTrace, log: &Log) -> Result<(), RunError> {
    let stop = stop_signals()?;
    let outputs = Outputs::open(&args.output, &args.otlp, trace.spec.semconv)?;
    let policy = policy_from_spec(&trace.spec)?;
    let mut session = Session::start(policy, outputs, args.tuning.ring_size, None)?;
    // Probes first: what starts from now on finds them.
    session.capture().probe_system();
    if trace.spec.selector.as_ref().is_some_and(Selector::is_everything) {
        session.capture().select_all().map_err(Error::from)?;
    } else {
        let roots = selected_processes(&trace.spec);
        let spec = trace.spec.clone();
        session
            .capture()
            .select_matching(&roots, move |pid| spec.selects(&crate::process::labels(pid)))
            .map_err(Error::from)?;
    }
    session.capture().probe_selected();

    let metrics = Metrics::new();
    let health = Health::default();
    let runtime = session.outputs().runtime().clone();
    let server = runtime.block_on(health::Server::bind(args.listen))?;
    if !args.verbosity.quiet {
        eprintln!("agentsight: tracing this host; http://{}/metrics and /healthz answer", server.address());
    }
    let session = Arc::new(Mutex::new(Some(session)));
    metrics.before_scrape({
        let (session, health) = (session.clone(), health.clone());
        move |metrics| {
            let session = session.lock().expect("no holder panics");
            if let Some(session) = session.as_ref() {
                let sources = Sources {
                    stats: &session.stats(),
                    capture: Some(session.capture_ref()),
                    past: Totals::default(),
                    exporters: &[session.outputs().exporter()],
                };
                health.set(refresh(metrics, &sources).err().map(|error| error.to_string()));
            }
        }
    });
    let (own, flush) = {
        let session = session.lock().expect("no holder panics");
        let outputs = session.as_ref().expect("it has just started").outputs();
        (outputs.start_own(&metrics, log)?, outputs.flush_timeout())
    };
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let serving = runtime.spawn(server.serve(metrics, health, async {
        // An error is a sender that is gone: the end, too.
        let _ = ended.await;
    }));
    wait_for_all(&[], &stop);
    tracing::info!("ending");
    drop(end);
    match runtime.block_on(serving) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "/metrics and /healthz ended by themselves"),
        Err(error) => tracing::warn!(%error, "/metrics and /healthz ended by themselves"),
    }
    own.finish(flush);
    let session = session.lock().expect("no holder panics").take();
    if let Some(session) = session {
        session.finish();
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Session(#[from] Error),
    #[error(transparent)]
    Listen(#[from] health::ListenError),
}

fn read(file: &std::path::Path) -> std::io::Result<String> {
    // An object of Kubernetes has at most 1.5 MiB (etcd's limit of a request).
    const MOST: u64 = 2 << 20;
    let mut text = String::new();
    let source: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file)?)
    };
    source.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

/// What metrics are brought up to date from.
pub(crate) struct Sources<'a> {
    /// What went through the pipeline.
    pub(crate) stats: &'a Mutex<Stats>,
    /// What the kernel counts, and what is probed; none where nothing is traced now.
    pub(crate) capture: Option<&'a Capture>,
    /// What captures before it had counted.
    pub(crate) past: Totals,
    /// Where telemetry goes.
    pub(crate) exporters: &'a [Arc<Exporter>],
}

/// Brings the metrics up to date.
pub(crate) fn refresh(metrics: &Metrics, sources: &Sources<'_>) -> Result<(), capture::Error> {
    let stats: Stats = sources.stats.lock().expect("no holder panics").clone();
    for (kind, count) in EVENT_KINDS.into_iter().zip(stats.events) {
        set_total(&metrics.events.get_or_create(&KindLabel { kind }), count);
    }
    for (direction, bytes) in ["write", "read"].into_iter().zip(stats.bytes) {
        set_total(&metrics.captured_bytes.get_or_create(&DirectionLabel { direction }), bytes);
    }
    for ((operation, provider, outcome), count) in stats.calls {
        set_total(&metrics.calls.get_or_create(&CallLabels { operation, provider, outcome }), count);
    }
    set_total(&metrics.truncated_calls, stats.truncated_calls);
    set_total(&metrics.merged_calls, stats.merged_calls);
    set_total(&metrics.mcp_requests, stats.mcp_requests);
    set_total(&metrics.unknown_requests, stats.unknown_requests);
    let causes = stats.causality;
    set_total(&metrics.turns, causes.turns);
    metrics.turns_open.set(stats.turns.try_into().unwrap_or(i64::MAX));
    set_total(&metrics.tool_calls, causes.tools);
    for (cause, count) in Cause::ALL.into_iter().zip(causes.processes) {
        set_total(&metrics.processes.get_or_create(&CauseLabel { cause: cause.name() }), count);
    }
    metrics.connections_open.set(stats.connections.try_into().unwrap_or(i64::MAX));
    let memory = metrics.queue_bytes.get_or_create(&QueueLabel { queue: "connections" });
    memory.set(stats.memory.try_into().unwrap_or(i64::MAX));
    drop(memory);
    let memory = metrics.queue_bytes.get_or_create(&QueueLabel { queue: "causality" });
    memory.set(stats.causality_memory.try_into().unwrap_or(i64::MAX));
    drop(memory);

    let mut totals = sources.past;
    if let Some(capture) = sources.capture {
        totals += capture.totals()?;
    }
    set_total(&metrics.attachments_refuted, totals.refuted_files);
    let kernel = totals.counters;
    set_total(&metrics.tls_calls, kernel.tls_calls);
    set_total(&metrics.tls_bytes, kernel.tls_bytes);
    set_total(&metrics.plaintext_calls, kernel.socket_calls);
    set_total(&metrics.plaintext_bytes, kernel.socket_bytes);
    set_total(&metrics.ignored_sockets, kernel.sockets_ignored);
    set_total(&metrics.stdio_calls, kernel.stdio_calls);
    set_total(&metrics.stdio_bytes, kernel.stdio_bytes);
    set_total(&metrics.ignored_channels, kernel.channels_ignored);
    for (more, states) in [(More::Plaintext, &metrics.plaintext_state), (More::Stdio, &metrics.stdio_state)] {
        let now = sources.capture.map_or("off", |capture| capture.state(more));
        for state in capture::sockets::STATES {
            states.get_or_create(&StateLabel { state }).set(i64::from(state == now));
        }
    }
    for (stage, cause, count) in [
        ("kernel", "ring_full", kernel.ring_full_records),
        ("kernel", "unpaired_return", kernel.unpaired_returns),
        ("kernel", "ambiguous_server", kernel.channels_ambiguous),
        ("kernel", "connections_full", kernel.connections_full),
        ("kernel", "processes_full", kernel.processes_full),
        ("kernel", "mappings", totals.lost_mappings),
        ("streams", "gap", stats.streams.gaps),
        ("streams", "lost_place", stats.streams.losses),
        ("streams", "joined_midway", stats.streams.joined_midway),
        ("http", "malformed", stats.streams.malformed),
        ("http", "unsolicited", stats.streams.unsolicited),
        ("http", "undecodable", stats.streams.undecodable),
        ("http", "oversized", stats.streams.oversized),
        ("http", "abandoned", stats.streams.abandoned),
        ("http", "unreadable_head", stats.streams.unreadable_heads),
        ("causality", "ambiguous_request", causes.ambiguous_requests),
        ("causality", "evicted_turn", causes.evicted_turns),
        ("causality", "evicted_process", causes.evicted_processes),
        ("causality", "unjoined_request", causes.unjoined_requests),
        ("pipeline", "evicted", stats.evicted),
        ("pipeline", "deselected", stats.deselected),
        ("pipeline", "unidentified", stats.unsettled),
    ] {
        set_total(&metrics.lost.get_or_create(&LossLabels { stage, cause }), count);
    }
    for (stage, cause, bytes) in [
        ("kernel", "ring_full", kernel.ring_full_bytes),
        ("kernel", "fault", kernel.fault_bytes),
        ("kernel", "oversize", kernel.oversize_bytes),
        ("kernel", "sendfile", kernel.sendfile_bytes),
        ("kernel", "socket_bypass", kernel.socket_bypass_bytes),
        ("kernel", "unplaced", kernel.records_unplaced_bytes),
        ("streams", "gap", stats.streams.missing_bytes),
    ] {
        set_total(&metrics.lost_bytes.get_or_create(&LossLabels { stage, cause }), bytes);
    }
    processes(metrics, sources.capture);
    for exporter in sources.exporters {
        exported(metrics, exporter);
    }
    Ok(())
}

fn processes(metrics: &Metrics, capture: Option<&Capture>) {
    for library in Library::ALL {
        let files = capture.map_or(0, |capture| {
            capture.attachments().probed().filter(|probed| probed.holds(library)).count()
        });
        let gauge = metrics.attachments.get_or_create(&LibraryLabel { library: library.name() });
        gauge.set(files.try_into().unwrap_or(i64::MAX));
    }
    let on_trial = capture
        .map_or(0, |capture| capture.attachments().probed().filter(|probed| probed.is_on_trial()).count());
    metrics.attachments_on_trial.set(on_trial.try_into().unwrap_or(i64::MAX));
    let coverage = capture.map(Capture::coverage).unwrap_or_default();
    metrics.traced_processes.set(coverage.traced.try_into().unwrap_or(i64::MAX));
    // A reason that no process has any more goes to zero, not away.
    for reason in Reason::ALL {
        let count = coverage.untraceable.get(&reason).copied().unwrap_or(0);
        let gauge = metrics.untraceable_processes.get_or_create(&ReasonLabel { reason: reason.name() });
        gauge.set(count.try_into().unwrap_or(i64::MAX));
    }
}

fn exported(metrics: &Metrics, exporter: &Exporter) {
    for lane in exporter.stats().lanes {
        let signal = lane.kind.name();
        let labels = ExportLabels { signal, destination: lane.to.clone() };
        set_total(&metrics.exported.get_or_create(&labels), lane.sent);
        set_total(&metrics.export_retries.get_or_create(&labels), lane.retries);
        metrics.export_queue_items.get_or_create(&labels).set(lane.waiting.try_into().unwrap_or(i64::MAX));
        metrics
            .export_queue_bytes
            .get_or_create(&labels)
            .set(lane.waiting_bytes.try_into().unwrap_or(i64::MAX));
        for cause in export::Cause::ALL {
            let labels = ExportLossLabels { signal, destination: lane.to.clone(), cause: cause.name() };
            set_total(&metrics.export_dropped.get_or_create(&labels), lane.dropped(cause));
        }
    }
}
