//! What is to be traced on this node: grants, pods and containers, and what they come to.
//!
//! Plain data and functions: it is fed with what happens, and says which cgroups are to be selected from now on.
//!
//! **A container is selected only once its pod is known and a grant selects it**: not a byte is copied before. That
//! loses nothing: the API server tells of a pod most of a second before its first program runs, the pod's UID stands in
//! the container's cgroup path, and the cgroup is made before the program runs. Where a grant names containers, the
//! container's name is needed too; a process' own mounts tell it as soon as its program is mapped.

use crate::capture::programs::More;
use crate::capture::sockets::Stage;
use crate::identity::{ContainerId, Found, Place, Pod, Pods};
use crate::policy::{Policy, Wish};
use agentsight_api::{AgentTraceGrantSpec, Containers};
use agentsight_ebpf::wanted;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Containers that are gone and remembered: what their last processes sent may still be in the ring.
const GONE: usize = 4096;

/// Everything that decides what is traced.
#[derive(Default)]
pub struct World {
    pods: Pods,
    namespaces: HashMap<String, BTreeMap<String, String>>,
    /// By the UID of the source.
    grants: BTreeMap<Arc<str>, Grant>,
    /// By the id of their cgroup.
    containers: HashMap<u64, Container>,
    by_id: HashMap<ContainerId, u64>,
    gone: VecDeque<u64>,
    /// Policies of all sets of grants that some container has.
    policies: HashMap<Vec<Arc<str>>, Arc<Policy>>,
    version: Arc<AtomicU64>,
}

/// A grant that is obeyed.
pub struct Grant {
    /// As the operator wrote it.
    pub spec: AgentTraceGrantSpec,
    wish: Wish,
    /// What keeps it from being obeyed in full.
    pub error: Option<String>,
}

impl Grant {
    /// Whether it wants that to be read.
    pub fn asks_for(&self, more: More) -> bool {
        self.wish.wanted & more.wanted() != 0
    }
}

/// A container by its cgroup.
pub struct Container {
    /// What the path of the cgroup says.
    pub place: Place,
    /// The path, from the root of the hierarchy.
    pub path: String,
    /// The name that its processes' mounts tell.
    name: Option<String>,
    /// The grants that select it.
    pub grants: Vec<Arc<str>>,
    policy: Option<Arc<Policy>>,
    /// The cgroup is removed.
    gone: bool,
}

/// What is to be done in the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Cgroups that are traced from now on.
    pub select: Vec<u64>,
    /// Cgroups that are not traced any more.
    pub deselect: Vec<u64>,
}

impl Changes {
    /// Whether there is nothing to be done.
    pub fn is_empty(&self) -> bool {
        self.select.is_empty() && self.deselect.is_empty()
    }
}

impl World {
    /// Moves on whenever a container's policy may have changed.
    pub fn version(&self) -> Arc<AtomicU64> {
        self.version.clone()
    }

    /// Obeys these grants, and no others.
    pub fn set_grants(&mut self, grants: impl IntoIterator<Item = AgentTraceGrantSpec>) -> Changes {
        let before = std::mem::take(&mut self.grants);
        for spec in grants {
            let uid: Arc<str> = spec.source.uid.as_str().into();
            let wish = Wish::of(&uid, &spec.trace);
            self.grants.insert(uid, Grant { spec, wish, error: None });
        }
        let same = before.len() == self.grants.len()
            && before
                .iter()
                .all(|(uid, grant)| self.grants.get(uid).is_some_and(|now| now.spec == grant.spec));
        if same {
            self.grants = before;
            return Changes::default();
        }
        self.policies.clear();
        self.decide_all()
    }

    /// The namespaces that there are, with their labels.
    pub fn set_namespaces(&mut self, namespaces: HashMap<String, BTreeMap<String, String>>) -> Changes {
        if namespaces == self.namespaces {
            return Changes::default();
        }
        self.namespaces = namespaces;
        self.decide_all()
    }

    /// A pod of this node as it is now.
    pub fn put_pod(&mut self, pod: Pod) -> Changes {
        let uid = pod.uid.clone();
        if self.pods.put(pod) { self.decide_pod(&uid) } else { Changes::default() }
    }

    /// A pod is gone. Its containers stay selected until their cgroups go.
    pub fn remove_pod(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// All pods that there are on this node.
    pub fn set_pods(&mut self, pods: Vec<Pod>) -> Changes {
        self.pods.replace(pods);
        self.decide_all()
    }

    /// A cgroup was made.
    pub fn cgroup_made(&mut self, id: u64, path: &str) -> Changes {
        // Cgroups nested in a container are found selected by climbing.
        let Some(place) = Place::of(path).filter(|place| place.is_root) else { return Changes::default() };
        if self.containers.get(&id).is_some_and(|known| known.path == path) {
            return Changes::default();
        }
        self.by_id.insert(place.container.clone(), id);
        let container = Container {
            place,
            path: path.to_owned(),
            name: None,
            grants: Vec::new(),
            policy: None,
            gone: false,
        };
        self.containers.insert(id, container);
        self.decide(&[id])
    }

    /// A cgroup was removed; what is known of it stays for a while.
    pub fn cgroup_removed(&mut self, id: u64) -> Changes {
        let Some(container) = self.containers.get_mut(&id) else { return Changes::default() };
        if std::mem::replace(&mut container.gone, true) {
            return Changes::default();
        }
        let selected = container.policy.is_some();
        self.gone.push_back(id);
        while self.gone.len() > GONE {
            let Some(oldest) = self.gone.pop_front() else { break };
            if let Some(container) = self.containers.remove(&oldest)
                && self.by_id.get(&container.place.container) == Some(&oldest)
            {
                self.by_id.remove(&container.place.container);
            }
        }
        Changes { deselect: if selected { vec![id] } else { Vec::new() }, ..Changes::default() }
    }

    /// Only these cgroups are there; others were removed unseen.
    pub fn only_cgroups(&mut self, present: &HashSet<u64>) -> Changes {
        let removed: Vec<u64> = self.containers.keys().copied().filter(|id| !present.contains(id)).collect();
        let mut changes = Changes::default();
        for id in removed {
            changes.deselect.extend(self.cgroup_removed(id).deselect);
        }
        changes
    }

    /// A process' mounts told the container's name.
    pub fn name_container(&mut self, id: u64, name: &str) -> Changes {
        match self.containers.get_mut(&id) {
            Some(container) if container.name.as_deref() != Some(name) => {
                container.name = Some(name.to_owned());
                self.decide(&[id])
            }
            _ => Changes::default(),
        }
    }

    /// Whether a name would tell more of this container than is known.
    pub fn is_unnamed(&self, id: u64) -> bool {
        self.containers.get(&id).is_some_and(|container| {
            let found = self.pods.find(&container.place);
            container.name.is_none() && found.is_some_and(|found| name_of(container, &found.pod).is_none())
        })
    }

    /// What holds for a container's processes.
    pub fn policy(&self, cgroup: u64) -> Option<Arc<Policy>> {
        self.containers.get(&cgroup)?.policy.clone()
    }

    /// The cgroup of a container.
    pub fn cgroup_of(&self, id: &ContainerId) -> Option<u64> {
        self.by_id.get(id).copied()
    }

    /// A container.
    pub fn container(&self, cgroup: u64) -> Option<&Container> {
        self.containers.get(&cgroup)
    }

    /// The pod of a container, and the container's name.
    pub fn find(&self, container: &Container) -> Option<(Arc<Pod>, Option<String>)> {
        let Found { pod, .. } = self.pods.find(&container.place)?;
        let name = name_of(container, &pod);
        Some((pod, name))
    }

    /// The pod of a place that no container is known of.
    pub fn find_pod(&self, place: &Place) -> Option<Arc<Pod>> {
        Some(self.pods.find(place)?.pod)
    }

    /// The containers that are there and selected.
    pub fn selected(&self) -> impl Iterator<Item = (u64, &Container)> {
        let there =
            self.containers.iter().filter(|(_, container)| !container.gone && container.policy.is_some());
        there.map(|(id, container)| (*id, container))
    }

    /// The containers that are there.
    pub fn present(&self) -> impl Iterator<Item = u64> {
        self.containers.iter().filter(|(_, container)| !container.gone).map(|(id, _)| *id)
    }

    /// What is wanted of a container's processes: any of [`agentsight_ebpf::wanted`].
    pub fn wanted(&self, cgroup: u64) -> u32 {
        self.policy(cgroup).map_or(wanted::CALLS, |policy| policy.wanted)
    }

    /// How far the programs that read that have to be: ready as soon as a grant asks for it, for they must be attached
    /// before a container's first program runs.
    pub fn stage(&self, more: More) -> Stage {
        let asks = |policy: &Option<Arc<Policy>>| policy.as_ref().is_some_and(|policy| policy.wants(more));
        if self.selected().any(|(_, container)| asks(&container.policy)) {
            Stage::Attached
        } else if self.grants.values().any(|grant| grant.asks_for(more)) {
            Stage::Loaded
        } else {
            Stage::Absent
        }
    }

    /// The grants that are obeyed, by the UIDs of their sources.
    pub fn grants(&self) -> &BTreeMap<Arc<str>, Grant> {
        &self.grants
    }

    /// Whether a grant selects namespaces by their labels.
    pub fn needs_namespaces(&self) -> bool {
        self.grants.values().any(|grant| grant.spec.scope.namespace_selector.is_some())
    }

    /// The pods of this node that are not gone.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter()
    }

    /// The namespaces and their labels.
    pub fn namespaces(&self) -> &HashMap<String, BTreeMap<String, String>> {
        &self.namespaces
    }

    fn decide_all(&mut self) -> Changes {
        let all: Vec<u64> = self.present().collect();
        self.decide(&all)
    }

    fn decide_pod(&mut self, uid: &str) -> Changes {
        let of_pod: Vec<u64> = self
            .containers
            .iter()
            .filter(|(_, container)| {
                !container.gone && self.pods.find(&container.place).is_some_and(|found| found.pod.uid == uid)
            })
            .map(|(id, _)| *id)
            .collect();
        self.decide(&of_pod)
    }

    /// Which grants select these containers now.
    fn decide(&mut self, ids: &[u64]) -> Changes {
        let mut changes = Changes::default();
        let mut changed = false;
        for id in ids {
            let Some(container) = self.containers.get(id) else { continue };
            let grants = match self.pods.find(&container.place) {
                // Its last words belong to the grants that it had, as long as these are there.
                Some(found) if found.gone => {
                    container.grants.iter().filter(|uid| self.grants.contains_key(*uid)).cloned().collect()
                }
                Some(found) => self.grants_of(&found.pod, name_of(container, &found.pod).as_deref()),
                None => Vec::new(),
            };
            let policy = (!grants.is_empty()).then(|| self.policy_of(&grants));
            let Some(container) = self.containers.get_mut(id) else { continue };
            let same = match (&container.policy, &policy) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (before, now) => before.is_none() && now.is_none(),
            };
            if same {
                continue;
            }
            changed = true;
            match (&container.policy, &policy) {
                (None, Some(_)) => changes.select.push(*id),
                // Anew, with what is wanted of it now.
                (Some(before), Some(now)) if before.wanted != now.wanted => changes.select.push(*id),
                (Some(_), None) => changes.deselect.push(*id),
                _ => {}
            }
            container.grants = grants;
            container.policy = policy;
        }
        if changed {
            self.version.fetch_add(1, Ordering::Release);
        }
        changes
    }

    /// In the order of their UIDs.
    fn grants_of(&self, pod: &Pod, name: Option<&str>) -> Vec<Arc<str>> {
        let selects = |grant: &Grant| {
            let trace = &grant.spec.trace;
            self.covers(grant, &pod.namespace)
                && trace.selects(&pod.labels)
                && (trace.containers == Containers::default()
                    || name.is_some_and(|name| trace.containers.selects(name)))
        };
        self.grants.iter().filter(|(_, grant)| selects(grant)).map(|(uid, _)| uid.clone()).collect()
    }

    fn covers(&self, grant: &Grant, namespace: &str) -> bool {
        let scope = &grant.spec.scope;
        match self.namespaces.get(namespace) {
            Some(labels) => scope.covers(namespace, labels),
            // Not even `{}` selects what is not known to be there: it may be on its way out.
            None => scope.namespace_selector.is_none() && scope.covers(namespace, &BTreeMap::new()),
        }
    }

    fn policy_of(&mut self, grants: &[Arc<str>]) -> Arc<Policy> {
        if let Some(policy) = self.policies.get(grants) {
            return policy.clone();
        }
        const PATTERNS: &str = "redaction.patterns";
        let wishes: Vec<&Wish> = grants.iter().filter_map(|uid| Some(&self.grants.get(uid)?.wish)).collect();
        let policy = match Policy::union(&wishes, PATTERNS) {
            Ok(policy) => policy,
            Err(error) => {
                // What cannot be cleaned as all of them ask is not exported at all.
                let message =
                    format!("content is not exported: {error}, of all traces that select the pod together");
                let closed: Vec<Wish> = wishes
                    .iter()
                    .map(|wish| Wish { content: false, redact: Vec::new(), ..(*wish).clone() })
                    .collect();
                for uid in grants {
                    if let Some(grant) = self.grants.get_mut(uid) {
                        grant.error = Some(message.clone());
                    }
                }
                Policy::union(&closed.iter().collect::<Vec<_>>(), PATTERNS)
                    .expect("without patterns none can be wrong")
            }
        };
        let policy = Arc::new(policy);
        self.policies.insert(grants.to_vec(), policy.clone());
        policy
    }

    /// The sources of other grants that select some of the same pods.
    pub fn overlaps(&self) -> HashMap<Arc<str>, BTreeSet<Arc<str>>> {
        let mut by_pod: HashMap<&str, BTreeSet<&Arc<str>>> = HashMap::new();
        let found: Vec<_> = self
            .selected()
            .filter_map(|(_, container)| Some((self.pods.find(&container.place)?.pod, &container.grants)))
            .collect();
        for (pod, grants) in &found {
            by_pod.entry(pod.uid.as_str()).or_default().extend(grants.iter());
        }
        let mut overlaps: HashMap<Arc<str>, BTreeSet<Arc<str>>> = HashMap::new();
        for grants in by_pod.into_values() {
            for uid in &grants {
                let others = grants.iter().filter(|other| other != &uid).map(|other| (*other).clone());
                overlaps.entry((*uid).clone()).or_default().extend(others);
            }
        }
        overlaps
    }
}

/// The container's name: by its id, by its mounts, or because its pod has only one, of which no id is known yet: else it
/// is the sandbox, which is in no status.
fn name_of(container: &Container, pod: &Pod) -> Option<String> {
    if let Some(known) = pod.container(&container.place.container, container.name.as_deref()) {
        return Some(known.name.clone());
    }
    container.name.clone().or_else(|| match &pod.containers[..] {
        [only] if only.id.is_none() => Some(only.name.clone()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const POD: &str = "3c9d0e5a-1b2f-4d6e-8a7b-90c1d2e3f405";
    const OTHER: &str = "aaaaaaaa-1b2f-4d6e-8a7b-90c1d2e3f405";

    fn grant(uid: &str, more: &Value) -> AgentTraceGrantSpec {
        let mut spec = json!({
            "source": {"kind": "AgentTrace", "namespace": "shop", "name": uid, "uid": uid, "generation": 1},
            "scope": {"namespace": "shop"},
            "selector": {"matchLabels": {"app": "agent"}},
        });
        for (key, value) in more.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        serde_json::from_value(spec).expect("a grant")
    }

    fn pod(uid: &str, namespace: &str, label: &str, containers: &[&str]) -> Pod {
        let containers: Vec<_> = containers.iter().map(|name| json!({"name": name})).collect();
        let object = json!({
            "metadata": {"uid": uid, "namespace": namespace, "name": "p", "labels": {"app": label}},
            "spec": {"containers": containers},
        });
        Pod::of(&serde_json::from_value(object).expect("a pod")).expect("with a UID")
    }

    fn path(pod: &str, container: char) -> String {
        format!("/kubepods/burstable/pod{pod}/{}", container.to_string().repeat(64))
    }

    fn selected(changes: &Changes) -> (&[u64], &[u64]) {
        (&changes.select, &changes.deselect)
    }

    #[test]
    fn a_container_is_selected_when_its_cgroup_is_made() {
        let mut world = World::default();
        assert!(world.set_grants([grant("a", &json!({}))]).is_empty());
        assert!(world.put_pod(pod(POD, "shop", "agent", &["app", "side"])).is_empty());
        assert_eq!(selected(&world.cgroup_made(7, &path(POD, 'a'))), (&[7][..], &[][..]));
        assert!(world.cgroup_made(8, &format!("{}/nested", path(POD, 'a'))).is_empty());
        assert_eq!(&*world.policy(7).expect("a policy").traces[0], "a");
        assert_eq!(selected(&world.cgroup_removed(7)), (&[][..], &[7][..]));
        assert!(world.policy(7).is_some(), "what it sent at last may still come");
    }

    #[test]
    fn nothing_is_selected_of_a_pod_that_is_not_known() {
        let mut world = World::default();
        world.set_grants([grant("a", &json!({"selector": {}}))]);
        assert!(world.cgroup_made(7, &path(POD, 'a')).is_empty());
        assert_eq!(world.put_pod(pod(POD, "shop", "x", &["app"])).select, [7]);
    }

    #[test]
    fn a_change_of_the_selector_moves_what_it_must_and_nothing_else() {
        let mut world = World::default();
        world.set_grants([
            grant("a", &json!({})),
            grant("b", &json!({"selector": {"matchLabels": {"app": "web"}}})),
        ]);
        world.set_pods(vec![pod(POD, "shop", "agent", &["x"]), pod(OTHER, "shop", "web", &["x"])]);
        world.cgroup_made(1, &path(POD, 'a'));
        world.cgroup_made(2, &path(OTHER, 'b'));
        let (version, kept) = (world.version(), world.policy(2).expect("a policy"));
        let before = version.load(Ordering::Acquire);
        let changes = world.set_grants([
            grant("a", &json!({"selector": {"matchLabels": {"app": "no"}}})),
            grant("b", &json!({"selector": {"matchLabels": {"app": "web"}}})),
        ]);
        assert_eq!(selected(&changes), (&[][..], &[1][..]));
        assert!(version.load(Ordering::Acquire) > before);
        assert_eq!(world.policy(2).expect("still").traces, kept.traces);
        assert_eq!(world.set_grants([]).deselect, [2]);
    }

    #[test]
    fn a_named_container_waits_for_its_name() {
        let mut world = World::default();
        world.set_grants([grant("a", &json!({"containers": {"include": ["app"]}}))]);
        world.put_pod(pod(POD, "shop", "agent", &["app", "side"]));
        assert!(world.cgroup_made(1, &path(POD, 'a')).is_empty());
        assert!(world.cgroup_made(2, &path(POD, 'b')).is_empty());
        assert!(world.is_unnamed(1));
        assert_eq!(world.name_container(1, "app").select, [1]);
        assert!(world.name_container(2, "side").is_empty());
        let mut alone = World::default();
        alone.set_grants([grant("a", &json!({"containers": {"include": ["app"]}}))]);
        alone.put_pod(pod(POD, "shop", "agent", &["app"]));
        assert_eq!(alone.cgroup_made(1, &path(POD, 'a')).select, [1], "there is no other name");
    }

    #[test]
    fn a_scope_is_kept_to() {
        let mut world = World::default();
        let everywhere =
            json!({"scope": {"namespaceSelector": {"matchLabels": {"team": "a"}}}, "selector": {}});
        world.set_grants([grant("a", &json!({"selector": {}})), grant("c", &everywhere)]);
        assert!(world.needs_namespaces());
        world.set_pods(vec![pod(POD, "shop", "x", &["x"]), pod(OTHER, "bank", "x", &["x"])]);
        world.cgroup_made(1, &path(POD, 'a'));
        world.cgroup_made(2, &path(OTHER, 'b'));
        let grants = |world: &World, id| world.container(id).expect("known").grants.clone();
        assert_eq!(grants(&world, 1), ["a".into()]);
        assert_eq!(grants(&world, 2), []);
        let labels = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
        let both = HashMap::from([("shop".to_owned(), labels("a")), ("bank".to_owned(), labels("b"))]);
        world.set_namespaces(both);
        assert_eq!(grants(&world, 1), ["a".into(), "c".into()]);
        assert_eq!(grants(&world, 2), []);
        assert_eq!(world.overlaps()[&*Arc::<str>::from("a")], BTreeSet::from(["c".into()]));
    }

    #[test]
    fn patterns_that_do_not_go_together_close_the_content() {
        let patterns = |letter: char| {
            let list: Vec<_> =
                (0..40).map(|n| json!({"name": format!("p{n}"), "regex": format!("{letter}{n}")})).collect();
            json!({"redaction": {"patterns": list}, "capture": {"modelCalls": {"content": "Messages"}}})
        };
        let mut world = World::default();
        world.set_grants([grant("a", &patterns('a')), grant("b", &patterns('b'))]);
        world.put_pod(pod(POD, "shop", "agent", &["x"]));
        world.cgroup_made(1, &path(POD, 'a'));
        let policy = world.policy(1).expect("a policy");
        assert!(!policy.calls.content && !policy.outputs[0].semconv.content);
        assert!(world.grants().values().all(|grant| grant.error.is_some()));
    }

    #[test]
    fn more_than_tls_is_wanted_of_the_containers_of_the_grants_that_ask_for_it() {
        for (more, capture) in
            [(More::Plaintext, json!({"plaintext": "HTTP"})), (More::Stdio, json!({"mcp": "Stdio"}))]
        {
            let asks = json!({"capture": capture, "selector": {"matchLabels": {"app": "agent"}}});
            let mut world = World::default();
            world.set_grants([
                grant("a", &asks),
                grant("b", &json!({"selector": {"matchLabels": {"app": "web"}}})),
            ]);
            assert_eq!(world.stage(more), Stage::Loaded);
            world.set_pods(vec![pod(POD, "shop", "agent", &["x"]), pod(OTHER, "shop", "web", &["x"])]);
            world.cgroup_made(2, &path(OTHER, 'b'));
            assert_eq!(world.stage(more), Stage::Loaded, "nobody asks for that container's");
            world.cgroup_made(1, &path(POD, 'a'));
            assert_eq!(
                More::ALL.map(|each| world.stage(each) == Stage::Attached),
                More::ALL.map(|each| each == more)
            );
            assert_eq!((world.wanted(1), world.wanted(2)), (wanted::CALLS | more.wanted(), wanted::CALLS));
            let changes = world.set_grants([grant("a", &json!({}))]);
            assert_eq!(selected(&changes), (&[1][..], &[2][..]), "selected anew, without it");
            assert_eq!((world.wanted(1), world.stage(more)), (wanted::CALLS, Stage::Absent));
        }
    }

    #[test]
    fn a_deleted_pod_is_traced_to_its_end() {
        let mut world = World::default();
        world.set_grants([grant("a", &json!({}))]);
        world.put_pod(pod(POD, "shop", "agent", &["x"]));
        world.cgroup_made(1, &path(POD, 'a'));
        assert!(world.set_pods(vec![]).is_empty());
        assert!(world.policy(1).is_some());
        assert_eq!(world.set_grants([]).deselect, [1]);
    }
}
