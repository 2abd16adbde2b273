//! Watches, leads, and writes: a short loop around the index.

use crate::guardrails::Guardrails;
use crate::index::{Change, Grant, Index, Input, Pace, Work, grant_of};
use crate::metrics::{Metrics, Outcome};
use crate::report::NodeReport;
use crate::server::Health;
use crate::source::{Source, Uid};
use crate::writer::Writer;
use agentsight_api::{AgentTrace, AgentTraceGrant, AgentTraceNode, ClusterAgentTrace, watch_backoff};
use anyhow::Context;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use kube_lease_manager::LeaseManagerBuilder;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{debug, error, info, warn};

/// What an operator is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The release namespace: of grants, node reports and the lease.
    pub namespace: String,
    /// Tells replicas apart: the pod's name.
    pub identity: String,
    /// What the administrator allows.
    pub guardrails: Guardrails,
    /// The Deployment that grants belong to: they go when it goes.
    pub owner: Option<OwnerReference>,
    /// Labels of the agents' pods, such as `app.kubernetes.io/component=agent`; absent: pods are not watched.
    pub agent_labels: Option<String>,
    /// How fast it reacts.
    pub pace: Pace,
    /// How long another replica waits for a leader that is gone; at least 3 seconds.
    pub lease: Duration,
}

/// Name of the lease that replicas take turns with.
pub const LEASE: &str = "agentsight-operator";

/// As many objects are written at once. 8 keep an API server's and etcd's round trips busy, and no more.
const AT_ONCE: usize = 8;
/// A write that failed is tried again after this, doubled each time.
const RETRY: Duration = Duration::from_millis(500);
/// … up to this.
const RETRY_MOST: Duration = Duration::from_secs(60);
/// At the end, writes that are under way get so long.
const GRACE: Duration = Duration::from_secs(5);

/// Runs until `shutdown` is ready, then ends what is under way and hands the lead over.
///
/// # Errors
/// The lease cannot be made, or the task that renews it has ended: who leads would be unknown.
pub async fn run(
    client: Client,
    config: Config,
    metrics: Metrics,
    health: Health,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let seconds = config.lease.as_secs().max(3);
    let lease = LeaseManagerBuilder::new(client.clone(), LEASE)
        .with_namespace(&config.namespace)
        .with_identity(&config.identity)
        .with_duration(seconds)
        .with_grace(seconds / 3)
        .build();
    let mut shutdown = std::pin::pin!(shutdown);
    let lease = tokio::select! {
        lease = lease => lease.with_context(|| format!("cannot make the lease {LEASE} in {}", config.namespace))?,
        () = &mut shutdown => return Ok(()),
    };
    let (mut leading, mut lease_task) = lease.watch().await;

    let mut inputs = watch_all(&client, &config, &metrics);
    let writer = Arc::new(Writer::new(client, &config, metrics.clone()));
    let mut index = Index::new(config.guardrails, config.pace, config.agent_labels.is_some());
    let mut under_way = FuturesUnordered::new();
    let mut busy: HashSet<Work> = HashSet::new();
    let mut failures: HashMap<Work, u32> = HashMap::new();
    let mut leads = false;

    let ended: anyhow::Result<()> = loop {
        let complete = index.is_complete();
        health.set_ready(complete);
        metrics.show(index.counts(), leads);
        if leads && complete {
            let now = Instant::now();
            while under_way.len() < AT_ONCE {
                let Some(work) = index.due(now, |work| !busy.contains(work)) else { break };
                let writes = index.plan(&work, now, Timestamp::now());
                if writes.is_empty() {
                    failures.remove(&work);
                    continue;
                }
                busy.insert(work.clone());
                let writer = writer.clone();
                under_way.push(async move { (work, writer.carry_out(writes).await) });
            }
        }
        let next = (leads && complete && under_way.len() < AT_ONCE)
            .then(|| index.next_due(|work| !busy.contains(work)))
            .flatten();
        tokio::select! {
            Some(input) = inputs.next() => {
                let now = Instant::now();
                index.apply(input, now);
                // Many come at once when a list is read.
                while let Some(Some(input)) = futures::FutureExt::now_or_never(inputs.next()) {
                    index.apply(input, now);
                }
            }
            Some((work, done)) = under_way.next() => {
                busy.remove(&work);
                let now = Instant::now();
                for input in done.seen {
                    index.apply(input, now);
                }
                if let Some(uid) = done.status_of {
                    index.wrote_status(&uid, now);
                }
                if done.failed {
                    let failed = failures.entry(work.clone()).or_default();
                    let pause = RETRY.saturating_mul(1 << (*failed).min(10)).min(RETRY_MOST);
                    *failed += 1;
                    index.look_again(work, now + pause);
                } else {
                    failures.remove(&work);
                }
            }
            changed = leading.changed() => {
                if changed.is_err() {
                    break Err(anyhow::anyhow!("the task that renews the lease {LEASE} has ended"));
                }
                leads = *leading.borrow_and_update();
                info!(leads, "leadership has changed");
                if leads {
                    index.look_at_everything(Instant::now());
                }
            }
            ended = &mut lease_task => {
                break Err(match ended {
                    Ok(Ok(_)) => anyhow::anyhow!("the task that renews the lease {LEASE} has ended"),
                    Ok(Err(error)) => anyhow::Error::new(error).context("the lease cannot be renewed"),
                    Err(error) => anyhow::Error::new(error).context("the task that renews the lease has failed"),
                });
            }
            () = sleep_until(next) => {}
            () = &mut shutdown => break Ok(()),
        }
        health.beat();
    };
    ended?;
    info!(under_way = under_way.len(), "ending");
    health.set_ready(false);
    let finish = async { while under_way.next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finish).await.is_err() {
        warn!("writes were given up; the next leader makes them");
    }
    // Without a receiver the task gives the lease back, so that the next leader need not wait.
    drop(leading);
    match tokio::time::timeout(GRACE, lease_task).await {
        Ok(Ok(Ok(_))) => {}
        Ok(Ok(Err(error))) => warn!(%error, "the lease could not be given back"),
        Ok(Err(error)) => error!(%error, "the task that renews the lease has failed"),
        Err(_) => warn!("the lease could not be given back in time"),
    }
    Ok(())
}

/// A leader with nothing to do looks up so often, to show that it lives.
const IDLE: Duration = Duration::from_secs(10);

async fn sleep_until(next: Option<Instant>) {
    let latest = Instant::now() + IDLE;
    tokio::time::sleep_until(next.unwrap_or(latest).min(latest).into()).await;
}

type Inputs = SelectAll<BoxStream<'static, Input>>;

fn watch_all(client: &Client, config: &Config, metrics: &Metrics) -> Inputs {
    let ours = &config.namespace;
    let all = watcher::Config::default;
    let mut inputs = Inputs::new();
    let traces: Api<AgentTrace> = Api::all(client.clone());
    inputs.push(inputs_of("agenttraces", watcher(traces, all()), metrics, |event| {
        Some(Input::Traces(change(event, uid_of, |object| {
            Some((uid_of(&object)?, Source::of_trace(&object)?))
        })?))
    }));
    let traces: Api<ClusterAgentTrace> = Api::all(client.clone());
    inputs.push(inputs_of("clusteragenttraces", watcher(traces, all()), metrics, |event| {
        Some(Input::ClusterTraces(change(event, uid_of, |object| {
            Some((uid_of(&object)?, Source::of_cluster_trace(&object)?))
        })?))
    }));
    let grants: Api<AgentTraceGrant> = Api::namespaced(client.clone(), ours);
    inputs.push(inputs_of("agenttracegrants", watcher(grants, all()), metrics, |event| {
        Some(Input::Grants(change::<_, Grant, _>(event, name_of, grant_of)?))
    }));
    let reports: Api<AgentTraceNode> = Api::namespaced(client.clone(), ours);
    inputs.push(inputs_of("agenttracenodes", watcher(reports, all()), metrics, |event| {
        Some(Input::Reports(change(event, name_of, |object| {
            Some((name_of(&object)?, NodeReport::from(object)))
        })?))
    }));
    // Of a node only its name matters.
    let nodes: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
    inputs.push(inputs_of("nodes", watcher(nodes, all()), metrics, |event| {
        Some(Input::Nodes(change(event, name_of, |object| Some((name_of(&object)?, ())))?))
    }));
    if let Some(labels) = &config.agent_labels {
        let pods: Api<Pod> = Api::namespaced(client.clone(), ours);
        inputs.push(inputs_of("pods", watcher(pods, all().labels(labels)), metrics, |event| {
            Some(Input::Agents(change(event, name_of, |pod| Some((name_of(&pod)?, whereabouts(&pod)?)))?))
        }));
    }
    inputs
}

/// A watch that goes on for ever; what goes wrong is counted and said.
fn inputs_of<K: Debug + Send + 'static>(
    resource: &'static str,
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    metrics: &Metrics,
    input: impl Fn(Event<K>) -> Option<Input> + Send + Sync + 'static,
) -> BoxStream<'static, Input> {
    let metrics = metrics.clone();
    events
        .backoff(watch_backoff())
        .filter_map(move |event| {
            let input = match event {
                Ok(event) => {
                    if matches!(event, Event::Init) {
                        metrics.request("list", resource, Outcome::Ok);
                    }
                    input(event)
                }
                Err(error) => {
                    metrics.request("watch", resource, Outcome::Failed);
                    if is_expired(&error) {
                        debug!(resource, "a watch begins anew: the API server no longer knows where it was");
                    } else {
                        warn!(resource, error = %format_args!("{error:#}"), "a watch was interrupted");
                    }
                    None
                }
            };
            std::future::ready(input)
        })
        .boxed()
}

/// Whether a watch ended as every long one does now and then: what it went on from has been compacted (410 Gone).
fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchError(status) if status.code == 410)
}

/// What an event means. An object that cannot be used, such as one that is being deleted, is as good as gone.
fn change<O, T, K>(
    event: Event<O>,
    key: impl Fn(&O) -> Option<K>,
    read: impl Fn(O) -> Option<(K, T)>,
) -> Option<Change<T, K>> {
    Some(match event {
        Event::Init => Change::Listing,
        Event::InitDone => Change::Listed,
        Event::Delete(object) => Change::Deleted(key(&object)?),
        Event::Apply(object) | Event::InitApply(object) => {
            let key = key(&object)?;
            match read(object) {
                Some((key, value)) => Change::Applied(key, value),
                None => Change::Deleted(key),
            }
        }
    })
}

fn uid_of(object: &impl Resource) -> Option<Uid> {
    object.meta().uid.as_deref().map(Uid::from)
}

fn name_of(object: &impl Resource) -> Option<Arc<str>> {
    object.meta().name.as_deref().map(Arc::from)
}

/// On which node an agent's pod is, and whether it is ready.
fn whereabouts(pod: &Pod) -> Option<(Arc<str>, bool)> {
    let node = pod.spec.as_ref()?.node_name.as_deref()?.into();
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    Some((node, ready && pod.meta().deletion_timestamp.is_none()))
}

/// The Deployment of this name, as the owner of what the operator makes.
///
/// # Errors
/// It is not there, or may not be read.
pub async fn owner(client: &Client, namespace: &str, deployment: &str) -> anyhow::Result<OwnerReference> {
    let deployments: Api<k8s_openapi::api::apps::v1::Deployment> = Api::namespaced(client.clone(), namespace);
    let found = deployments.get_metadata(deployment).await.with_context(|| {
        format!("cannot read the Deployment {namespace}/{deployment}, which owns the grants")
    })?;
    Ok(OwnerReference {
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        name: found.name_any(),
        uid: found.uid().context("an object without UID")?,
        controller: None,
        block_owner_deletion: None,
    })
}
