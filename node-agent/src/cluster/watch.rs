//! What the API server tells: grants of the release namespace, pods of this node, labels of namespaces.
//!
//! Each watch goes on by itself, with growing pauses while there is no API server; what is known holds meanwhile.

use super::Shared;
use crate::identity::Pod;
use agentsight_api::{AgentTraceGrant, AgentTraceGrantSpec, watch_backoff};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1 as core;
use kube::api::ListParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// From which minor version of Kubernetes on a watch may begin with all there is (WatchList).
const STREAMING_LISTS: u32 = 34;

/// Follows everything; ends only with the agent.
pub(super) async fn follow(client: Client, shared: Arc<Shared>) {
    let streaming = streams_lists(&client).await;
    let base = || {
        let config = watcher::Config::default();
        if streaming { config.streaming_lists() } else { config }
    };
    let node = format!("spec.nodeName={}", shared.node_name);
    let pods = watcher(Api::<core::Pod>::all(client.clone()), base().fields(&node));
    let grants = Api::<AgentTraceGrant>::namespaced(client.clone(), &shared.namespace);
    let grants = watcher(grants, base());
    tokio::join!(
        follow_pods(pods, &shared),
        follow_grants(grants, &shared),
        follow_namespaces(&client, base(), &shared),
        find_cluster(&client, &shared),
    );
}

/// Whether the API server can begin a watch with a list. Where it does not answer yet, it is not asked to.
async fn streams_lists(client: &Client) -> bool {
    match client.apiserver_version().await {
        Ok(version) => {
            let minor: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
            version.major == "1" && minor.parse::<u32>().is_ok_and(|minor| minor >= STREAMING_LISTS)
        }
        Err(error) => {
            tracing::warn!(%error, "the API server does not answer; what was known last holds");
            false
        }
    }
}

async fn follow_pods(events: impl Stream<Item = watcher::Result<Event<core::Pod>>>, shared: &Shared) {
    let mut all = Vec::new();
    let prune = |pod: &mut core::Pod| pod.managed_fields_mut().clear();
    let mut events = pin!(events.modify(prune).backoff(watch_backoff()));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => all.clear(),
            Ok(Event::InitApply(pod)) => {
                shared.note_own_pod(&pod);
                all.extend(Pod::of(&pod));
            }
            Ok(Event::InitDone) => {
                let pods = std::mem::take(&mut all);
                shared.change(|world| world.set_pods(pods));
                shared.heard("pods", None);
            }
            Ok(Event::Apply(pod)) => {
                shared.note_own_pod(&pod);
                if let Some(pod) = Pod::of(&pod) {
                    shared.change(|world| world.put_pod(pod));
                }
                shared.heard("pods", None);
            }
            Ok(Event::Delete(pod)) => {
                let uid = pod.uid().unwrap_or_default();
                shared.change(|world| {
                    world.remove_pod(&uid);
                    super::world::Changes::default()
                });
            }
            Err(error) => shared.heard("pods", Some(&error)),
        }
    }
}

/// The objects of a kind as they are after each event, by `key`; nothing while the first list is under way.
struct Mirror<K, V> {
    now: HashMap<K, V>,
    next: HashMap<K, V>,
}

impl<K: std::hash::Hash + Eq, V> Mirror<K, V> {
    fn new() -> Self {
        Mirror { now: HashMap::new(), next: HashMap::new() }
    }

    fn take<O: Resource>(&mut self, event: Event<O>, of: impl Fn(O) -> (K, V)) -> Option<&HashMap<K, V>> {
        match event {
            Event::Init => {
                self.next.clear();
                return None;
            }
            Event::InitApply(object) => {
                let (key, value) = of(object);
                self.next.insert(key, value);
                return None;
            }
            Event::InitDone => self.now = std::mem::take(&mut self.next),
            Event::Apply(object) => {
                let (key, value) = of(object);
                self.now.insert(key, value);
            }
            Event::Delete(object) => {
                self.now.remove(&of(object).0);
            }
        }
        Some(&self.now)
    }
}

async fn follow_grants(events: impl Stream<Item = watcher::Result<Event<AgentTraceGrant>>>, shared: &Shared) {
    let mut grants: Mirror<String, AgentTraceGrantSpec> = Mirror::new();
    let mut events = pin!(events.backoff(watch_backoff()));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if let Some(grants) = grants.take(event, |grant| (grant.name_any(), grant.spec)) {
                    let grants: Vec<_> = grants.values().cloned().collect();
                    shared.change(|world| world.set_grants(grants));
                    shared.heard("grants", None);
                }
            }
            Err(error) => shared.heard("grants", Some(&error)),
        }
    }
}

/// Namespaces are followed only once a grant selects by their labels: most clusters have no such grant.
async fn follow_namespaces(client: &Client, config: watcher::Config, shared: &Shared) {
    let mut changes = shared.changes();
    while !shared.world().needs_namespaces() {
        if changes.changed().await.is_err() {
            return;
        }
    }
    // Metadata is all that is needed, but asking for it alone costs the API server a conversion of each object.
    let mut namespaces: Mirror<String, BTreeMap<String, String>> = Mirror::new();
    let mut events =
        pin!(watcher(Api::<core::Namespace>::all(client.clone()), config).backoff(watch_backoff()));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let labels = |namespace: core::Namespace| {
                    (namespace.name_any(), namespace.metadata.labels.unwrap_or_default())
                };
                if let Some(namespaces) = namespaces.take(event, labels) {
                    let namespaces = namespaces.clone();
                    shared.change(|world| world.set_namespaces(namespaces));
                    shared.heard("namespaces", None);
                }
            }
            Err(error) => shared.heard("namespaces", Some(&error)),
        }
    }
}

/// The UID of `kube-system`, which is the cluster's; asked for until it is answered.
async fn find_cluster(client: &Client, shared: &Shared) {
    const PAUSE: Duration = Duration::from_secs(10);
    // By a list: the right to list namespaces is there anyway, that to get one is not.
    let only = ListParams::default().fields("metadata.name=kube-system");
    loop {
        match Api::<core::Namespace>::all(client.clone()).list(&only).await {
            Ok(list) => {
                if let Some(uid) = list.items.first().and_then(ResourceExt::uid) {
                    shared.set_cluster(uid);
                }
                return;
            }
            Err(error) => {
                shared.heard("namespaces", Some(&watcher::Error::InitialListFailed(error)));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
