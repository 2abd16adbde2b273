//! `agentsight node-agent`: one node of a cluster, traced as the operator's grants say.
//!
//! ```text
//! API server ─▶ watch ─┐
//! disk ────────▶ state ─┼─▶ world ─▶ kernel: programs, selection, probes; policies (pipeline)
//! kernel ────▶ cgroups ─┘     └────▶ report (AgentTraceNode), state (disk)
//! ```

pub mod exporters;
mod kernel;
mod probes;
mod report;
pub mod state;
mod subjects;
mod watch;
pub mod world;

use crate::capture;
use crate::capture::containers::{Change, Hierarchy};
use crate::capture::programs::More;
use crate::cli::NodeAgent;
use crate::health::{self, Health, LossLabels, Metrics, set_total};
use crate::identity::attributes::Node;
use crate::pipeline::Stats;
use crate::policy::ExporterId;
use crate::record::{CANNOT_TRACE, fail, stop_signals, wait_for_all};
use crate::run::{Sources, refresh};
use exporters::Exporters;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kernel::{Hands, Kernel};
use kube::ResourceExt;
use probes::Work;
use state::{State, StateFile};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use world::{Changes, World};

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Session(#[from] crate::session::Error),
    #[error(transparent)]
    Capture(#[from] capture::Error),
    #[error(transparent)]
    Exporters(#[from] exporters::Error),
    #[error(transparent)]
    Listen(#[from] health::ListenError),
    #[error("cannot {what}: {source}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot find the API server: {0}; in a pod its service account tells, elsewhere KUBECONFIG")]
    Config(#[from] kube::config::InferConfigError),
    #[error("cannot prepare connections to the API server: {0}")]
    Client(#[from] kube::Error),
    #[error(
        "cannot tell the host's processes apart from inside a pid namespace: the kernel tells of mappings by the ids of \
         the reader's namespace; set hostPID: true for the agent's pod, as the chart does"
    )]
    PidNamespace,
}

/// Traces until a signal ends it.
pub fn run(args: &NodeAgent) -> ExitCode {
    match trace_node(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(CANNOT_TRACE, error),
    }
}

/// What all parts of the agent look at and change.
pub(crate) struct Shared {
    node_name: String,
    /// The release namespace, where grants are and reports go.
    namespace: String,
    pod_name: Option<String>,
    world: Mutex<World>,
    /// None while nothing of ours is in the kernel. Taken after the world.
    hands: Mutex<Option<Hands>>,
    changed: tokio::sync::watch::Sender<()>,
    node: Mutex<Arc<Node>>,
    /// The DaemonSet that this agent's pod belongs to.
    owner: Mutex<Option<OwnerReference>>,
    /// What each watch said last; nothing where it works.
    watches: Mutex<BTreeMap<&'static str, Option<String>>>,
    /// What was told once, by the API server or from disk.
    known: Mutex<BTreeSet<&'static str>>,
    /// What the kernel refused.
    refused: Mutex<Option<String>>,
    /// Why what a grant asks for beside TLS is not seen.
    without: Mutex<BTreeMap<More, String>>,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no holder panics")
    }

    /// Changes the world, and the kernel's selection with it: one after the other, whoever asks.
    fn change(&self, change: impl FnOnce(&mut World) -> Changes) {
        let mut world = self.world();
        let changes = change(&mut world);
        if let Some(hands) = self.hands().as_mut() {
            self.hand_on(hands, &world, &changes);
        }
        drop(world);
        self.tell();
    }

    fn hand_on(&self, hands: &mut Hands, world: &World, changes: &Changes) {
        // First: a container that is on its way is to find it.
        for (more, before) in More::ALL.into_iter().zip(&mut hands.more) {
            let stage = world.stage(more);
            if std::mem::replace(before, stage) != stage {
                // The thread ends only when these hands are let go.
                let _ = hands.probes.send(Work::See(more, stage));
            }
        }
        if changes.is_empty() {
            return;
        }
        let select: Vec<_> = changes.select.iter().map(|id| (*id, world.wanted(*id))).collect();
        let problem = hands.selection.change(&select, &changes.deselect).err();
        if let Some(error) = &problem {
            tracing::error!(error = error as &dyn std::error::Error, "containers are not traced");
        }
        self.refuse(problem.map(|error| error.to_string()));
        tracing::debug!(select = ?changes.select, deselect = ?changes.deselect, "containers");
        let containers = changes
            .select
            .iter()
            .filter_map(|id| Some(Work::Container { id: *id, path: world.container(*id)?.path.clone() }));
        let review = (!changes.deselect.is_empty()).then_some(Work::Review);
        for work in containers.chain(review) {
            // The thread ends only when these hands are let go.
            let _ = hands.probes.send(work);
        }
    }

    /// From now on changes reach the kernel, beginning with what is selected now.
    fn take_hands(&self, mut hands: Hands) {
        let world = self.world();
        let select = world.selected().map(|(id, _)| id).collect();
        self.hand_on(&mut hands, &world, &Changes { select, deselect: Vec::new() });
        *self.hands() = Some(hands);
    }

    /// Nothing of ours is in the kernel from now on.
    fn let_go(&self) {
        *self.hands() = None;
    }

    fn hands(&self) -> MutexGuard<'_, Option<Hands>> {
        self.hands.lock().expect("no holder panics")
    }

    /// The paths of the cgroups of all selected containers.
    fn selected_paths(&self) -> BTreeSet<String> {
        self.world().selected().map(|(_, container)| container.path.clone()).collect()
    }

    /// Whether anything is, or may be for all that is known yet.
    fn is_anything_granted(&self) -> bool {
        !self.is_informed() || !self.world().grants().is_empty()
    }

    /// Tells those who follow that something has changed.
    fn tell(&self) {
        self.changed.send_replace(());
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What the kernel told of cgroups.
    fn cgroup(&self, change: &Change, hierarchy: &Hierarchy) {
        match change {
            Change::Made { id, path } => self.change(|world| world.cgroup_made(*id, path)),
            Change::Removed { id } => self.change(|world| world.cgroup_removed(*id)),
            Change::Missed => self.look(hierarchy),
        }
    }

    /// Looks at all cgroups that there are.
    fn look(&self, hierarchy: &Hierarchy) {
        let cgroups = hierarchy.cgroups();
        let present: HashSet<u64> = cgroups.iter().map(|(id, _)| *id).collect();
        for (id, path) in &cgroups {
            self.change(|world| world.cgroup_made(*id, path));
        }
        self.change(|world| world.only_cgroups(&present));
    }

    /// Whether a process that maps a file is in a selected container; names its container where that is needed.
    fn is_traced(&self, process: u32) -> bool {
        let Some(place) = subjects::place_of(process) else { return false };
        let (id, unnamed) = {
            let world = self.world();
            let Some(id) = world.cgroup_of(&place.container) else { return false };
            (id, world.is_unnamed(id))
        };
        if unnamed && let Some(name) = subjects::name_of(process, &place) {
            self.change(|world| world.name_container(id, &name));
        }
        self.world().policy(id).is_some()
    }

    /// The exporters that policies in use name, and those of grants that select nothing yet.
    fn named_exporters(&self) -> HashSet<ExporterId> {
        let world = self.world();
        let grants = world.grants().values();
        grants
            .map(|grant| ExporterId {
                name: grant.spec.trace.exporter.as_str().into(),
                semconv: grant.spec.trace.semconv,
            })
            .collect()
    }

    /// Notes what a watch said.
    fn heard(&self, what: &'static str, error: Option<&kube::runtime::watcher::Error>) {
        // Every long watch ends like this now and then: what it went on from has been compacted (410 Gone).
        if matches!(error, Some(kube::runtime::watcher::Error::WatchError(status)) if status.code == 410) {
            tracing::debug!(what, "watched anew: the API server no longer knows where the watch was");
            return;
        }
        if error.is_none() {
            self.known.lock().expect("no holder panics").insert(what);
        }
        let mut watches = self.watches.lock().expect("no holder panics");
        let before = watches.insert(what, error.map(ToString::to_string));
        drop(watches);
        self.tell();
        match (error, before.flatten()) {
            (Some(error), None) => {
                tracing::warn!(what, %error, "cannot watch now; what is known holds, and it is tried again");
            }
            (None, Some(_)) => tracing::info!(what, "watched again"),
            _ => {}
        }
    }

    /// Whether grants and pods are known, from the API server or from disk.
    fn is_informed(&self) -> bool {
        let known = self.known.lock().expect("no holder panics");
        ["grants", "pods"].iter().all(|what| known.contains(what))
    }

    /// What keeps the agent from tracing.
    fn problem(&self) -> Option<String> {
        self.refused.lock().expect("no holder panics").clone()
    }

    fn refuse(&self, problem: Option<String>) {
        *self.refused.lock().expect("no holder panics") = problem;
    }

    /// Why what is asked for beside TLS is not seen; nothing of what is, or what nobody asks for.
    fn without(&self) -> BTreeMap<More, String> {
        self.without.lock().expect("no holder panics").clone()
    }

    fn more_refused(&self, more: More, problem: Option<String>) {
        let mut without = self.without.lock().expect("no holder panics");
        match problem {
            Some(problem) => without.insert(more, problem),
            None => without.remove(&more),
        };
        drop(without);
        self.tell();
    }

    fn set_cluster(&self, uid: String) {
        let mut node = self.node.lock().expect("no holder panics");
        *node = Arc::new(Node { cluster_uid: Some(uid), ..(**node).clone() });
    }

    fn note_own_pod(&self, pod: &core::Pod) {
        if Some(pod.name_any()) == self.pod_name
            && pod.namespace().as_deref() == Some(&self.namespace)
            && let Some(owner) = report::daemon_set(pod.owner_references())
        {
            *self.owner.lock().expect("no holder panics") = Some(owner);
        }
    }

    fn owner(&self) -> Option<OwnerReference> {
        self.owner.lock().expect("no holder panics").clone()
    }
}

fn trace_node(args: &NodeAgent) -> Result<(), Error> {
    // Before there are threads that must not take signals.
    let stop = stop_signals()?;
    let started = SystemTime::now();
    sees_the_host()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| Error::System { what: "start threads", source })?;
    let exporters =
        Arc::new(Exporters::read(&args.exporters, args.otlp_queue_size, runtime.handle().clone())?);
    let file = StateFile::in_folder(&args.state_dir)
        .map_err(|source| Error::System { what: "make the folder --state-dir", source })?;
    let saved = file.read().unwrap_or_else(|error| {
        tracing::warn!(%error, "what was known last cannot be read; the API server will tell");
        None
    });
    let hierarchy = Hierarchy::find(&args.cgroup)?;
    let server = runtime.block_on(health::Server::bind(args.listen))?;
    tracing::info!(address = %server.address(), "/metrics, /healthz and /readyz answer");

    let shared = Arc::new(Shared {
        node_name: args.node_name.clone(),
        namespace: args.namespace.clone(),
        pod_name: args.pod_name.clone(),
        world: Mutex::default(),
        hands: Mutex::default(),
        changed: tokio::sync::watch::Sender::new(()),
        node: Mutex::new(Arc::new(Node {
            name: args.node_name.clone(),
            cluster_uid: None,
            labels: args.service_labels,
        })),
        owner: Mutex::default(),
        watches: Mutex::default(),
        known: Mutex::default(),
        refused: Mutex::default(),
        without: Mutex::default(),
    });
    if let Some(saved) = saved {
        restore(&shared, saved);
    }
    let stats = Arc::new(Mutex::new(Stats::default()));
    let kernel = Arc::new(Kernel {
        shared: shared.clone(),
        hierarchy: hierarchy.clone(),
        stats: stats.clone(),
        exporters: exporters.clone(),
        ring_bytes: args.tuning.ring_size,
        state: Mutex::default(),
        turn: Mutex::default(),
    });
    // Whatever is granted: a kernel that refuses is told at once, not with the first grant.
    kernel.start()?;

    let client = {
        let _entered = runtime.enter();
        // One is there already where an exporter was started before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        kube::Client::try_from(runtime.block_on(kube::Config::infer())?)?
    };
    let watching = runtime.spawn(watch::follow(client.clone(), shared.clone()));
    let granting = runtime.spawn(kernel.clone().follow_grants());
    let sources = report::Sources {
        shared: shared.clone(),
        stats: stats.clone(),
        kernel: kernel.clone(),
        hierarchy,
        exporters: exporters.clone(),
        started,
    };
    let reporting = runtime.spawn(report::write(client, sources));
    let saving = runtime.spawn(save(file, shared.clone()));

    let (metrics, health) = (Metrics::new(), Health::default());
    metrics.before_scrape({
        let (kernel, health, stats, exporters, shared) =
            (kernel.clone(), health.clone(), stats.clone(), exporters.clone(), shared.clone());
        move |metrics| {
            let running: Vec<_> = exporters.running().into_iter().map(|(_, exporter)| exporter).collect();
            let nowhere = LossLabels { stage: "export", cause: "no_exporter" };
            set_total(&metrics.lost.get_or_create(&nowhere), exporters.homeless());
            let granted = if kernel.is_running() { shared.world().grants().len() } else { 0 };
            metrics.grants.set(i64::try_from(granted).unwrap_or(i64::MAX));
            let refreshed = kernel.look(|capture, past| {
                refresh(metrics, &Sources { stats: &stats, capture, past, exporters: &running })
            });
            let problem = refreshed.err().map(|error| error.to_string());
            health.set(problem.or_else(|| shared.problem()));
        }
    });
    let readiness = runtime.spawn(become_ready(health.clone(), shared.clone()));
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let serving = runtime.spawn(server.serve(metrics, health, async {
        // An error is a sender that is gone: the end, too.
        let _ = ended.await;
    }));

    wait_for_all(&[], &stop);
    tracing::info!("ending");
    for task in [watching, granting, reporting, saving, readiness] {
        task.abort();
    }
    // The probes go first; what is in the ring is decoded.
    kernel.end();
    for loss in runtime.block_on(exporters.flush(args.flush_timeout)) {
        tracing::warn!(to = loss.to, kind = ?loss.kind, cause = ?loss.cause, count = loss.count, "telemetry was given up");
    }
    drop(end);
    match runtime.block_on(serving) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "/metrics and /healthz ended by themselves"),
        Err(error) => tracing::warn!(%error, "/metrics and /healthz ended by themselves"),
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

/// The kernel programs know processes by the ids of the initial pid namespace, and so must `/proc`.
fn sees_the_host() -> Result<(), Error> {
    const INITIAL: &str = "pid:[4026531836]"; // linux/proc_ns.h, PROC_PID_INIT_INO
    let own = std::fs::read_link("/proc/self/ns/pid")
        .map_err(|source| Error::System { what: "read /proc/self/ns/pid", source })?;
    if own.as_os_str() == INITIAL { Ok(()) } else { Err(Error::PidNamespace) }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|source| Error::System { what: "start a thread", source })
}

fn restore(shared: &Shared, saved: State) {
    tracing::info!(
        grants = saved.grants.len(),
        pods = saved.pods.len(),
        "what was known last holds until the API server tells"
    );
    if let Some(uid) = saved.cluster_uid {
        shared.set_cluster(uid);
    }
    shared.change(|world| world.set_namespaces(saved.namespaces));
    shared.change(|world| world.set_grants(saved.grants));
    shared.change(|world| world.set_pods(saved.pods));
    shared.known.lock().expect("no holder panics").extend(["grants", "pods"]);
}

/// Ready is an agent that knows grants and pods, from the API server or from disk.
async fn become_ready(health: Health, shared: Arc<Shared>) {
    let mut changes = shared.changes();
    while !shared.is_informed() {
        health.wait_for(Some("the API server to tell of grants and pods"));
        if changes.changed().await.is_err() {
            return;
        }
    }
    health.wait_for(None);
}

/// Keeps on disk what is known, a second after it changed.
async fn save(file: StateFile, shared: Arc<Shared>) {
    const SETTLE: Duration = Duration::from_secs(1);
    let mut changes = shared.changes();
    let mut written = None;
    loop {
        if shared.is_informed() {
            let cluster = shared.node.lock().expect("no holder panics").cluster_uid.clone();
            let state = State::of(&shared.world(), cluster);
            if written.as_ref() != Some(&state) {
                let result = tokio::task::block_in_place(|| file.write(&state));
                match result {
                    Ok(()) => written = Some(state),
                    Err(error) => tracing::warn!(%error, "what is known cannot be kept on disk"),
                }
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(SETTLE).await;
    }
}
