//! This node's AgentTraceNode: what the agent can do here, and what it makes of each grant.
//!
//! Changes of state are written after a second, counters once a minute: 5,000 nodes that did more would be most of
//! what an API server can take.

use super::Shared;
use super::exporters::{Exporters, time};
use super::kernel::Kernel;
use crate::capture::Capture;
use crate::capture::attachments::Way;
use crate::capture::containers::Hierarchy;
use crate::pipeline::{Stats, TraceStats};
use agentsight_api::{
    AgentInfo, AgentTraceNode, AgentTraceNodeSpec, AgentTraceNodeStatus, Condition, ConditionStatus, Dropped,
    GrantReport, KernelInfo, READY, Traced, TracedState, Untraceable,
};
use agentsight_ebpf::hierarchy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// Who writes these fields.
const MANAGER: &str = "agentsight-agent";
/// Between a change of state and its report: further changes join it.
const SETTLE: Duration = Duration::from_secs(1);
/// Between two reports of counters, and how much earlier or later one may be: agents that started together part.
const COUNTERS: Duration = Duration::from_secs(60);
const JITTER: f64 = 0.2;
/// Between two looks at what processes map, which no event tells of all at once.
const LOOK: Duration = Duration::from_secs(5);
/// Between two attempts while the API server does not take a report.
const AGAIN: Duration = Duration::from_secs(5);

/// What a report is made from.
pub(super) struct Sources {
    pub shared: Arc<Shared>,
    pub stats: Arc<Mutex<Stats>>,
    pub kernel: Arc<Kernel>,
    pub hierarchy: Hierarchy,
    pub exporters: Arc<Exporters>,
    pub started: SystemTime,
}

impl Sources {
    /// The status as it is now, without the time of its writing.
    pub(super) fn status(&self, before: &AgentTraceNodeStatus) -> AgentTraceNodeStatus {
        let stats = self.stats.lock().expect("no holder panics").traces.clone();
        let without = self.shared.without();
        // Copied, so that nothing waits for the world while processes are looked at.
        let (grants, containers, overlaps) = {
            let world = self.shared.world();
            let grants: Vec<_> = world
                .grants()
                .iter()
                .map(|(uid, grant)| {
                    let refused = without.iter().find(|(more, _)| grant.asks_for(**more));
                    let refused = refused.map(|(_, problem)| problem.clone());
                    (uid.clone(), grant.spec.source.generation, grant.error.clone().or(refused))
                })
                .collect();
            let containers: Vec<_> = world
                .selected()
                .filter_map(|(_, container)| {
                    // One without a name is the pod's sandbox, whose process does nothing.
                    let (pod, name) = world.find(container)?;
                    let shown = format!("{}/{}, container {}", pod.namespace, pod.name, name?);
                    Some((container.path.clone(), container.grants.clone(), pod.uid.clone(), shown))
                })
                .collect();
            (grants, containers, world.overlaps())
        };
        let mut by_grant: HashMap<&Arc<str>, Seen<'_>> = HashMap::new();
        let (mut pods, mut traced) = (BTreeSet::new(), 0);
        let attachments = self.kernel.attachments();
        for (path, grants, pod, shown) in &containers {
            let Some(attachments) = &attachments else { break };
            let processes = self.hierarchy.processes(path);
            let coverage = attachments.lock().expect("no holder panics").coverage(processes.into_iter());
            pods.insert(pod.as_str());
            traced += coverage.traced;
            for uid in grants {
                let seen = by_grant.entry(uid).or_default();
                seen.pods.insert(pod.as_str());
                seen.traced += coverage.traced;
                for (way, count) in &coverage.ways {
                    let (sum, example) = seen.ways.entry(*way).or_default();
                    *sum += count;
                    if example.is_empty() {
                        example.clone_from(shown);
                    }
                }
                for (reason, count) in &coverage.untraceable {
                    let (sum, example) = seen.untraceable.entry(reason.name()).or_default();
                    *sum += count;
                    if example.is_empty() {
                        example.clone_from(shown);
                    }
                }
            }
        }
        let granted = i32::try_from(grants.len()).unwrap_or(i32::MAX);
        let mut reports = Vec::new();
        for (uid, generation, error) in grants {
            let seen = by_grant.remove(&uid).unwrap_or_default();
            let counted = stats.get(&uid).copied().unwrap_or_default();
            if seen.pods.is_empty() && counted == TraceStats::default() && error.is_none() {
                continue;
            }
            let dropped = [("truncated_call", counted.truncated), ("evicted_connection", counted.evicted)];
            reports.push(GrantReport {
                uid: uid.to_string(),
                observed_generation: generation,
                matched_pods: number(seen.pods.len() as u64),
                traced_processes: number(seen.traced as u64),
                traced: seen
                    .ways
                    .into_iter()
                    .map(|(way, (count, example))| Traced {
                        library: way.library.name().to_owned(),
                        found_by: way.found.name().to_owned(),
                        state: if way.on_trial { TracedState::OnTrial } else { TracedState::Confirmed },
                        count: number(count as u64),
                        example,
                    })
                    .collect(),
                untraceable: seen
                    .untraceable
                    .into_iter()
                    .map(|(reason, (count, example))| Untraceable {
                        reason: reason.to_owned(),
                        count: number(count as u64),
                        example,
                    })
                    .collect(),
                calls: number(counted.calls),
                dropped: dropped
                    .into_iter()
                    .filter(|(_, count)| *count > 0)
                    .map(|(cause, count)| Dropped { cause: cause.to_owned(), count: number(count) })
                    .collect(),
                error,
                overlaps: overlaps
                    .get(&uid)
                    .into_iter()
                    .flatten()
                    .take(16)
                    .map(ToString::to_string)
                    .collect(),
            });
        }
        let (pods, traced) = (number(pods.len() as u64), number(traced as u64));
        AgentTraceNodeStatus {
            update_time: None,
            conditions: vec![self.ready(before)],
            agent: AgentInfo {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pod: self.shared.pod_name.clone().unwrap_or_default(),
                started: Some(time(self.started)),
            },
            kernel: self.kernel.look(|capture, _| kernel(&self.hierarchy, capture)),
            pods,
            traced,
            exporters: self.exporters.reports(&self.shared.named_exporters()),
            granted,
            grants: reports,
        }
    }

    fn ready(&self, before: &AgentTraceNodeStatus) -> Condition {
        use ConditionStatus::{False, True, Unknown};
        let granted = self.shared.is_anything_granted();
        let (status, reason, message) = match (self.shared.problem(), self.kernel.is_running()) {
            (Some(problem), _) => (False, "Failed", problem),
            (None, true) => (True, "Tracing", "the agent traces what the grants say".to_owned()),
            (None, false) if granted => {
                (Unknown, "Starting", "the kernel programs are being loaded".to_owned())
            }
            (None, false) => {
                (True, "Idle", "nothing is granted, and nothing of AgentSight is in the kernel".to_owned())
            }
        };
        let known = before.conditions.iter().find(|known| known.type_ == READY && known.status == status);
        Condition {
            type_: READY.to_owned(),
            status,
            observed_generation: None,
            last_transition_time: known
                .map_or_else(|| time(SystemTime::now()), |known| known.last_transition_time.clone()),
            reason: reason.to_owned(),
            message,
        }
    }
}

#[derive(Default)]
struct Seen<'a> {
    pods: BTreeSet<&'a str>,
    traced: usize,
    ways: BTreeMap<Way, (usize, String)>,
    untraceable: BTreeMap<&'static str, (usize, String)>,
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// `capture`: what is in the kernel, if something is.
fn kernel(hierarchy: &Hierarchy, capture: Option<&Capture>) -> KernelInfo {
    // SAFETY: a zeroed utsname is a valid one to be filled in, with strings that end with NUL.
    let (release, architecture) = unsafe {
        let mut name: libc::utsname = std::mem::zeroed();
        libc::uname(&raw mut name);
        let text =
            |field: &[libc::c_char]| std::ffi::CStr::from_ptr(field.as_ptr()).to_string_lossy().into_owned();
        (text(&name.release), text(&name.machine))
    };
    let cgroups = if hierarchy.kind == hierarchy::V2 { "cgroup-v2" } else { "cgroup-v1" };
    let of_containers =
        ["perf/mmap2", "raw_tracepoint/cgroup_mkdir", "raw_tracepoint/cgroup_rmdir"].map(str::to_owned);
    let hooks = capture.map(|capture| {
        let mut hooks = capture.attachments().programs.hooks();
        hooks.extend(of_containers);
        hooks.sort_unstable();
        hooks.dedup();
        hooks
    });
    KernelInfo {
        release,
        architecture,
        features: ["btf", cgroups, "ring-buffer"].map(str::to_owned).into(),
        hooks: hooks.unwrap_or_default(),
    }
}

/// What of a status is state: it is written soon after it changes.
fn state(status: &AgentTraceNodeStatus) -> AgentTraceNodeStatus {
    let mut state = status.clone();
    state.update_time = None;
    for grant in &mut state.grants {
        grant.calls = 0;
        grant.dropped.clear();
    }
    // Errors hold attempts and times; that there is one is the state.
    for exporter in &mut state.exporters {
        exporter.error = None;
        exporter.since = None;
    }
    state
}

/// Writes reports until the agent ends.
pub(super) async fn write(client: Client, sources: Sources) {
    let api: Api<AgentTraceNode> = Api::namespaced(client, &sources.shared.namespace);
    let mut written = AgentTraceNodeStatus::default();
    let mut made = false;
    let mut owner = None;
    let mut counters = Instant::now();
    let mut changes = sources.shared.changes();
    loop {
        let wait = if made { LOOK } else { SETTLE };
        // Whichever comes first: something changed, or it is time to look.
        let _ = tokio::time::timeout(wait, changes.changed()).await;
        tokio::time::sleep(SETTLE).await;
        let status = {
            let before = written.clone();
            let sources = &sources;
            tokio::task::block_in_place(|| sources.status(&before))
        };
        // The agent's own pod is heard of after its first report.
        if owner != sources.shared.owner() {
            owner = sources.shared.owner();
            made = false;
        }
        let changed = state(&status) != state(&written);
        if made && !changed && Instant::now() < counters {
            continue;
        }
        if made && !changed && status == (AgentTraceNodeStatus { update_time: None, ..written.clone() }) {
            counters = next_counters();
            continue;
        }
        match apply(&api, &sources.shared, status.clone(), made).await {
            Ok(()) => {
                made = true;
                written = status;
                counters = next_counters();
            }
            Err(error) => {
                // A node object that somebody removed is made again.
                made = false;
                tracing::debug!(%error, "the node's report is not taken");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

fn next_counters() -> Instant {
    Instant::now() + COUNTERS.mul_f64(1.0 + JITTER * (rand::random::<f64>() * 2.0 - 1.0))
}

async fn apply(
    api: &Api<AgentTraceNode>,
    shared: &Shared,
    status: AgentTraceNodeStatus,
    made: bool,
) -> kube::Result<()> {
    let name = shared.node_name.as_str();
    let parameters = PatchParams::apply(MANAGER).force();
    let mut node = AgentTraceNode::new(name, AgentTraceNodeSpec { node_name: name.to_owned() });
    if !made {
        node.metadata.owner_references = shared.owner().map(|owner| vec![owner]);
        api.patch(name, &parameters, &Patch::Apply(&node)).await?;
        node.metadata.owner_references = None;
    }
    node.status = Some(AgentTraceNodeStatus { update_time: Some(time(SystemTime::now())), ..status });
    api.patch_status(name, &parameters, &Patch::Apply(&node)).await?;
    Ok(())
}

/// The DaemonSet that a pod belongs to.
pub(super) fn daemon_set(owners: &[OwnerReference]) -> Option<OwnerReference> {
    let owner = owners.iter().find(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet")?;
    // The controller of this object is the agent, not the DaemonSet's controller.
    Some(OwnerReference { controller: None, block_owner_deletion: None, ..owner.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentsight_api::{ExporterReport, ExporterState};

    #[test]
    fn counters_and_texts_of_errors_are_no_state() {
        let report = |calls, error: &str, state| AgentTraceNodeStatus {
            grants: vec![GrantReport { uid: "a".into(), calls, ..GrantReport::default() }],
            exporters: vec![ExporterReport {
                name: "x".into(),
                state,
                error: Some(error.into()),
                since: None,
            }],
            ..AgentTraceNodeStatus::default()
        };
        let one = report(1, "refused", ExporterState::Failing);
        assert_eq!(state(&one), state(&report(2, "timed out", ExporterState::Failing)));
        assert_ne!(state(&one), state(&report(1, "refused", ExporterState::Ready)));
    }
}
