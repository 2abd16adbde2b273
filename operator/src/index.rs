//! What the API server holds, as far as it concerns us, and what is to be done about it.
//!
//! A struct that is fed with changes and asked for writes: it does no I/O, and its clock is an argument.

use crate::fold::{self, Said};
use crate::guardrails::{Guardrails, Rank, Verdict};
use crate::queue::Queue;
use crate::report::NodeReport;
use crate::source::{Source, Uid};
use agentsight_api::{
    ACCEPTED, ACTIVE, AgentTraceGrant, AgentTraceGrantSpec, AgentTraceStatus, Condition, ConditionStatus,
    EXPORTING, OVERLAPPING,
};
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What happened to objects of one kind.
#[derive(Clone, Debug)]
pub enum Change<T, K> {
    /// One was made or changed.
    Applied(K, T),
    /// One is gone.
    Deleted(K),
    /// All of them follow.
    Listing,
    /// Those were all.
    Listed,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// To AgentTraces, by UID.
    Traces(Change<Source, Uid>),
    /// To ClusterAgentTraces, by UID.
    ClusterTraces(Change<Source, Uid>),
    /// To grants, by name.
    Grants(Change<Grant, Arc<str>>),
    /// To what agents report, by the node's name.
    Reports(Change<NodeReport, Arc<str>>),
    /// To nodes, by name.
    Nodes(Change<(), Arc<str>>),
    /// To the agents' pods, by name: on which node, and whether ready.
    Agents(Change<(Arc<str>, bool), Arc<str>>),
}

/// A grant, as the API server has it.
#[derive(Clone, PartialEq, Debug)]
pub struct Grant {
    /// Of the grant itself.
    pub uid: Uid,
    /// Of the grant itself.
    pub resource_version: Option<u64>,
    /// What it allows.
    pub spec: AgentTraceGrantSpec,
}

/// What is to be looked at.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Work {
    /// An AgentTrace or ClusterAgentTrace, or its grant where it is gone.
    Source(Uid),
    /// What an agent reports of a node that may be gone.
    Report(Arc<str>),
}

/// What is to be written.
#[derive(Clone, PartialEq, Debug)]
pub enum Write {
    /// A grant, as a whole.
    ApplyGrant(Box<AgentTraceGrantSpec>),
    /// The grant of this name, if it still is the one with this UID.
    DeleteGrant(Arc<str>, Uid),
    /// A source's status.
    Status(Box<Source>, Box<AgentTraceStatus>),
    /// An event at a source, for people.
    Tell(Box<Source>, Notice),
    /// What was reported of this node, if it still is the object with this UID and the node is gone.
    DeleteReport(Arc<str>, Uid),
}

/// An event for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// Whether something is wrong.
    pub warning: bool,
    /// In CamelCase.
    pub reason: String,
    /// A sentence.
    pub note: String,
}

/// How fast the index reacts.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Reports of several nodes are gathered for so long.
    pub gather: Duration,
    /// Between two writes of one status, where a condition changes.
    pub conditions: Duration,
    /// Between two writes of one status, where only numbers change: so long for each 50 nodes that report,
    /// and a minute at most, which is how often agents write their counters.
    pub numbers: Duration,
    /// An agent may be away for so long, as in a restart, before its node counts as failing.
    pub absence: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            gather: Duration::from_millis(300),
            conditions: Duration::from_secs(1),
            // 500 objects on 100 nodes each then cost 1,000 writes a minute where all change all the time.
            numbers: Duration::from_secs(10),
            absence: Duration::from_secs(30),
        }
    }
}

/// Numbers of a status that has many reporters are written at least so often.
const MOST_BETWEEN_NUMBERS: Duration = Duration::from_secs(60);

/// What the API server holds, and what is to be done about it.
#[derive(Debug)]
pub struct Index {
    guardrails: Guardrails,
    pace: Pace,
    traces: Kind<Uid>,
    cluster_traces: Kind<Uid>,
    granted: Kind<Arc<str>>,
    reported: Kind<Arc<str>>,
    nodes: Kind<Arc<str>>,
    /// None where pods are not watched.
    agents: Option<Kind<Arc<str>>>,
    sources: HashMap<Uid, Source>,
    grants: HashMap<Arc<str>, Grant>,
    reports: BTreeMap<Arc<str>, NodeReport>,
    /// Which nodes report of a source.
    reporters: HashMap<Uid, BTreeSet<Arc<str>>>,
    pods: HashMap<Arc<str>, (Arc<str>, bool)>,
    /// Nodes whose agent was seen, and since when none is ready.
    attendance: HashMap<Arc<str>, Option<Instant>>,
    written: HashMap<Uid, Instant>,
    accepted: HashSet<Uid>,
    queue: Queue<Work>,
}

impl Index {
    /// One that knows nothing yet.
    pub fn new(guardrails: Guardrails, pace: Pace, watches_agents: bool) -> Self {
        Self {
            guardrails,
            pace,
            traces: Kind::default(),
            cluster_traces: Kind::default(),
            granted: Kind::default(),
            reported: Kind::default(),
            nodes: Kind::default(),
            agents: watches_agents.then(Kind::default),
            sources: HashMap::new(),
            grants: HashMap::new(),
            reports: BTreeMap::new(),
            reporters: HashMap::new(),
            pods: HashMap::new(),
            attendance: HashMap::new(),
            written: HashMap::new(),
            accepted: HashSet::new(),
            queue: Queue::default(),
        }
    }

    /// Takes in what happened.
    pub fn apply(&mut self, input: Input, now: Instant) {
        match input {
            Input::Traces(change) => {
                let gone = self.traces.take(&change);
                self.source_changed(change, gone, now);
            }
            Input::ClusterTraces(change) => {
                let gone = self.cluster_traces.take(&change);
                self.source_changed(change, gone, now);
            }
            Input::Grants(change) => {
                let mut gone = self.granted.take(&change);
                match change {
                    Change::Applied(name, grant) => self.grant_applied(name, grant, now),
                    Change::Deleted(name) => gone.push(name),
                    Change::Listing | Change::Listed => {}
                }
                for name in gone {
                    self.grants.remove(&name);
                    self.queue.add(Work::Source(name), now);
                }
            }
            Input::Reports(change) => {
                let mut gone = self.reported.take(&change);
                match change {
                    Change::Applied(node, report) => self.report_applied(&node, report, now),
                    Change::Deleted(node) => gone.push(node),
                    Change::Listing | Change::Listed => {}
                }
                gone.iter().for_each(|node| self.report_gone(node, now));
            }
            Input::Nodes(change) => {
                let mut gone = self.nodes.take(&change);
                match change {
                    Change::Deleted(node) => gone.push(node),
                    // Reports that were read before could not be compared with it.
                    Change::Listed => {
                        gone.extend(
                            self.reports.keys().filter(|node| !self.nodes.all.contains(*node)).cloned(),
                        );
                    }
                    Change::Applied(..) | Change::Listing => {}
                }
                gone.into_iter().for_each(|node| self.queue.add(Work::Report(node), now));
            }
            Input::Agents(change) => {
                let mut gone = self.agents.as_mut().map(|agents| agents.take(&change)).unwrap_or_default();
                match change {
                    Change::Applied(pod, seen) => self.agent_changed(&pod, Some(seen), now),
                    Change::Deleted(pod) => gone.push(pod),
                    Change::Listing | Change::Listed => {}
                }
                gone.iter().for_each(|pod| self.agent_changed(pod, None, now));
            }
        }
    }

    /// Whether every kind of object was listed at least once. Before that nothing may be written: what is
    /// missing may only not have been seen yet.
    pub fn is_complete(&self) -> bool {
        self.traces.listed
            && self.cluster_traces.listed
            && self.granted.listed
            && self.reported.listed
            && self.nodes.listed
            && self.agents.as_ref().is_none_or(|agents| agents.listed)
    }

    /// Looks at everything again, as one does who begins to lead.
    pub fn look_at_everything(&mut self, now: Instant) {
        let sources = self.sources.keys().chain(self.grants.keys());
        sources.for_each(|uid| self.queue.add(Work::Source(uid.clone()), now));
        let reports = self.reports.keys();
        reports.for_each(|node| self.queue.add(Work::Report(node.clone()), now));
    }

    /// Asks for something to be looked at again.
    pub fn look_again(&mut self, work: Work, at: Instant) {
        self.queue.add(work, at);
    }

    /// The next thing that is due and that `ready` lets pass.
    pub fn due(&mut self, now: Instant, ready: impl Fn(&Work) -> bool) -> Option<Work> {
        self.queue.pop(now, ready)
    }

    /// When the first of those that `ready` lets pass is due.
    pub fn next_due(&self, ready: impl Fn(&Work) -> bool) -> Option<Instant> {
        self.queue.next(ready)
    }

    /// What is to be written for this, in this order.
    pub fn plan(&mut self, work: &Work, now: Instant, clock: Timestamp) -> Vec<Write> {
        match work {
            Work::Source(uid) => match self.sources.get(uid) {
                Some(source) => self.plan_source(&source.clone(), now, clock),
                None => self.delete_grant(uid).into_iter().collect(),
            },
            Work::Report(node) => self.plan_report(node).into_iter().collect(),
        }
    }

    /// The status of this source was written.
    pub fn wrote_status(&mut self, uid: &Uid, now: Instant) {
        if self.sources.contains_key(uid) {
            self.written.insert(uid.clone(), now);
        }
    }

    /// How many objects there are.
    pub fn counts(&self) -> Counts {
        Counts {
            accepted: self.accepted.len(),
            refused: self.sources.len() - self.accepted.len(),
            grants: self.grants.len(),
            nodes: self.nodes.all.len(),
            reports: self.reports.len(),
            waiting: self.queue.len(),
        }
    }

    fn source_changed(&mut self, change: Change<Source, Uid>, mut gone: Vec<Uid>, now: Instant) {
        match change {
            Change::Applied(uid, source) => {
                let old = self.sources.get(&uid);
                if old.is_some_and(|old| old.resource_version > source.resource_version) {
                    return;
                }
                let is_new = old.is_none();
                let rank = is_new.then(|| source.namespace.clone());
                self.sources.insert(uid.clone(), source);
                self.queue.add(Work::Source(uid.clone()), now);
                if let Some(namespace) = rank {
                    self.ranks_changed(namespace.as_deref(), &uid, now);
                }
            }
            Change::Deleted(uid) => gone.push(uid),
            Change::Listing | Change::Listed => {}
        }
        for uid in gone {
            let Some(source) = self.sources.remove(&uid) else { continue };
            self.written.remove(&uid);
            self.accepted.remove(&uid);
            self.queue.add(Work::Source(uid.clone()), now);
            self.ranks_changed(source.namespace.as_deref(), &uid, now);
        }
    }

    /// One more, or one less, may decide whether a younger one is accepted.
    fn ranks_changed(&mut self, namespace: Option<&str>, of: &Uid, now: Instant) {
        let limits = self.guardrails.limits;
        let in_namespace = |source: &&Source| source.namespace.as_deref() == namespace;
        let crowded = self.sources.len() >= limits.traces
            || namespace.is_some()
                && self.sources.values().filter(in_namespace).count() >= limits.traces_per_namespace;
        if crowded {
            let others = self.sources.keys().filter(|uid| *uid != of);
            others.for_each(|uid| self.queue.add(Work::Source(uid.clone()), now));
        }
    }

    fn grant_applied(&mut self, name: Arc<str>, grant: Grant, now: Instant) {
        let old = self.grants.get(&name);
        if old.is_some_and(|old| old.uid == grant.uid && old.resource_version > grant.resource_version) {
            return;
        }
        self.grants.insert(name.clone(), grant);
        self.queue.add(Work::Source(name), now);
    }

    fn report_applied(&mut self, node: &Arc<str>, report: NodeReport, now: Instant) {
        let old = self.reports.get(node);
        if old.is_some_and(|old| old.uid == report.uid && old.resource_version > report.resource_version) {
            return;
        }
        let old = self.reports.insert(node.clone(), report).unwrap_or_default();
        let report = &self.reports[node];
        let all = old.unready != report.unready || old.exporters != report.exporters;
        let uids = old.grants.keys().chain(report.grants.keys());
        let changed: BTreeSet<Uid> =
            uids.filter(|uid| all || old.grants.get(*uid) != report.grants.get(*uid)).cloned().collect();
        let (now_said, withdrawn): (Vec<Uid>, Vec<Uid>) =
            changed.into_iter().partition(|uid| report.grants.contains_key(uid));
        for uid in now_said {
            self.reporters.entry(uid.clone()).or_default().insert(node.clone());
            self.look_at_source(uid, now + self.pace.gather);
        }
        for uid in withdrawn {
            self.forget_reporter(&uid, node);
            self.look_at_source(uid, now + self.pace.gather);
        }
        if self.nodes.listed && !self.nodes.all.contains(node) {
            // The news of its node may be on the way: this is looked up before anything is removed.
            self.queue.add(Work::Report(node.clone()), now + self.pace.conditions);
        }
    }

    fn report_gone(&mut self, node: &Arc<str>, now: Instant) {
        let Some(report) = self.reports.remove(node) else { return };
        for uid in report.grants.into_keys() {
            self.forget_reporter(&uid, node);
            self.look_at_source(uid, now + self.pace.gather);
        }
    }

    fn forget_reporter(&mut self, uid: &Uid, node: &Arc<str>) {
        if let Some(nodes) = self.reporters.get_mut(uid) {
            nodes.remove(node);
            if nodes.is_empty() {
                self.reporters.remove(uid);
            }
        }
    }

    /// An agent reports by whatever UID it likes: only those that exist make work.
    fn look_at_source(&mut self, uid: Uid, at: Instant) {
        if self.sources.contains_key(&uid) {
            self.queue.add(Work::Source(uid), at);
        }
    }

    fn agent_changed(&mut self, pod: &Arc<str>, seen: Option<(Arc<str>, bool)>, now: Instant) {
        let old = match &seen {
            Some(seen) => self.pods.insert(pod.clone(), seen.clone()),
            None => self.pods.remove(pod),
        };
        let nodes: BTreeSet<Arc<str>> = [old, seen].into_iter().flatten().map(|(node, _)| node).collect();
        for node in nodes {
            let ready = self.pods.values().any(|(on, ready)| *on == node && *ready);
            let before = self.attendance.insert(node.clone(), (!ready).then_some(now));
            match (before, ready) {
                // Still away: the time counts from when it went.
                (Some(Some(since)), false) => {
                    self.attendance.insert(node.clone(), Some(since));
                }
                (_, false) => self.look_at_reports_of(&node, now + self.pace.absence),
                (Some(Some(_)), true) => self.look_at_reports_of(&node, now + self.pace.gather),
                (_, true) => {}
            }
        }
    }

    fn look_at_reports_of(&mut self, node: &Arc<str>, at: Instant) {
        let uids: Vec<Uid> =
            self.reports.get(node).into_iter().flat_map(|report| report.grants.keys().cloned()).collect();
        uids.into_iter().for_each(|uid| self.look_at_source(uid, at));
    }

    fn agent_ready(&self, node: &Arc<str>, now: Instant) -> Option<bool> {
        self.agents.as_ref()?;
        let away = (*self.attendance.get(node)?)?;
        Some(now.duration_since(away) < self.pace.absence)
    }

    fn plan_source(&mut self, source: &Source, now: Instant, clock: Timestamp) -> Vec<Write> {
        let verdict = self.guardrails.judge(source, self.rank(source));
        let reporters = self.reporters.get(&source.uid);
        let said = reporters.into_iter().flatten().filter_map(|node| {
            let report = self.reports.get(node)?;
            let grant = report.grants.get(&source.uid)?;
            Some(Said { node, report, grant, agent_ready: self.agent_ready(node, now) })
        });
        let called =
            |uid: &str| self.sources.get(uid).filter(|other| other.uid != source.uid).map(Source::shown);
        let status = fold::status(source, &verdict, said, called, clock);

        let mut writes = Vec::new();
        // First what agents obey, then what is said of it.
        match &verdict {
            Verdict::Accepted { grant, .. } => {
                self.accepted.insert(source.uid.clone());
                if self.grants.get(&source.uid).is_none_or(|there| there.spec != **grant) {
                    writes.push(Write::ApplyGrant(grant.clone()));
                }
            }
            Verdict::Refused { .. } => {
                self.accepted.remove(&source.uid);
                writes.extend(self.delete_grant(&source.uid));
            }
        }
        let pause = match difference(source.status.as_ref(), &status) {
            None => return writes,
            Some(Difference::Conditions) => self.pace.conditions,
            Some(Difference::Numbers) => {
                let fifties = 1 + reporters.map_or(0, BTreeSet::len) / 50;
                let pause = self.pace.numbers.saturating_mul(u32::try_from(fifties).unwrap_or(u32::MAX));
                pause.min(MOST_BETWEEN_NUMBERS.max(self.pace.numbers))
            }
        };
        let at = self.written.get(&source.uid).map_or(now, |written| *written + pause);
        if at > now {
            self.queue.add(Work::Source(source.uid.clone()), at);
            return writes;
        }
        let notices = notices(source.status.as_ref(), &status);
        writes.push(Write::Status(Box::new(source.clone()), Box::new(status)));
        writes.extend(notices.into_iter().map(|notice| Write::Tell(Box::new(source.clone()), notice)));
        writes
    }

    fn rank(&self, source: &Source) -> Rank {
        let mut rank = Rank::default();
        for other in self.sources.values() {
            if other.seniority() < source.seniority() {
                rank.overall += 1;
                rank.in_namespace += usize::from(other.namespace == source.namespace);
            }
        }
        rank
    }

    fn delete_grant(&self, name: &Arc<str>) -> Option<Write> {
        self.grants.get(name).map(|grant| Write::DeleteGrant(name.clone(), grant.uid.clone()))
    }

    fn plan_report(&self, node: &Arc<str>) -> Option<Write> {
        let report = self.reports.get(node).filter(|_| !self.nodes.all.contains(node))?;
        Some(Write::DeleteReport(node.clone(), report.uid.clone()?))
    }
}

/// How many objects there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Sources that agents obey.
    pub accepted: usize,
    /// Sources that they do not.
    pub refused: usize,
    /// Grants.
    pub grants: usize,
    /// Nodes.
    pub nodes: usize,
    /// Nodes that report.
    pub reports: usize,
    /// Things that wait to be looked at.
    pub waiting: usize,
}

/// The objects of one kind, and which of them the list that is being read has not shown yet.
#[derive(Debug)]
struct Kind<K> {
    all: HashSet<K>,
    unseen: Option<HashSet<K>>,
    listed: bool,
}

impl<K> Default for Kind<K> {
    fn default() -> Self {
        Self { all: HashSet::new(), unseen: None, listed: false }
    }
}

impl<K: Clone + Eq + std::hash::Hash> Kind<K> {
    /// Notes what is there. Returns those that a list that has ended did not show: they are gone.
    fn take<T>(&mut self, change: &Change<T, K>) -> Vec<K> {
        match change {
            Change::Applied(key, _) => {
                if let Some(unseen) = &mut self.unseen {
                    unseen.remove(key);
                }
                self.all.insert(key.clone());
            }
            Change::Deleted(key) => {
                self.all.remove(key);
            }
            Change::Listing => self.unseen = Some(self.all.clone()),
            Change::Listed => {
                self.listed = true;
                let gone: Vec<K> = self.unseen.take().into_iter().flatten().collect();
                gone.iter().for_each(|key| {
                    self.all.remove(key);
                });
                return gone;
            }
        }
        Vec::new()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Difference {
    Conditions,
    Numbers,
}

const OURS: [&str; 4] = [ACCEPTED, ACTIVE, EXPORTING, OVERLAPPING];

/// How what stands there differs from what should. Conditions of others are left alone.
fn difference(there: Option<&AgentTraceStatus>, wanted: &AgentTraceStatus) -> Option<Difference> {
    let Some(there) = there else { return Some(Difference::Conditions) };
    let find = |status: &AgentTraceStatus, type_: &str| -> Option<Condition> {
        status.conditions.iter().find(|condition| condition.type_ == type_).cloned()
    };
    let pairs = OURS.map(|type_| (find(there, type_), find(wanted, type_)));
    let core = |condition: &Option<Condition>| {
        condition.as_ref().map(|c| (c.status, c.reason.clone(), c.observed_generation))
    };
    if there.observed_generation != wanted.observed_generation
        || pairs.iter().any(|(there, wanted)| core(there) != core(wanted))
    {
        return Some(Difference::Conditions);
    }
    let numbers = AgentTraceStatus { conditions: there.conditions.clone(), ..wanted.clone() };
    let same = *there == numbers && pairs.iter().all(|(there, wanted)| there == wanted);
    (!same).then_some(Difference::Numbers)
}

/// What changed that a user must know, or has waited for.
fn notices(before: Option<&AgentTraceStatus>, after: &AgentTraceStatus) -> Vec<Notice> {
    let mut notices = Vec::new();
    let accepted = after.conditions.iter().find(|condition| condition.type_ == ACCEPTED);
    let refused = accepted.is_some_and(|condition| condition.status == ConditionStatus::False);
    for condition in &after.conditions {
        let old = before
            .and_then(|status| status.conditions.iter().find(|old| old.type_ == condition.type_))
            .map(|old| (old.status, old.reason.as_str()));
        if old == Some((condition.status, condition.reason.as_str())) {
            continue;
        }
        let recovered = old.is_some_and(|(status, _)| status == ConditionStatus::False);
        let warning = match (condition.type_.as_str(), condition.status) {
            (ACCEPTED, status) => status == ConditionStatus::False,
            // A refusal says it all already.
            _ if refused => continue,
            (ACTIVE | EXPORTING, ConditionStatus::False) => true,
            (ACTIVE | OVERLAPPING, ConditionStatus::True) => false,
            (EXPORTING, ConditionStatus::True) if recovered => false,
            _ => continue,
        };
        notices.push(Notice { warning, reason: condition.reason.clone(), note: condition.message.clone() });
    }
    notices
}

/// A grant, as the API server hands it out.
pub fn grant_of(object: AgentTraceGrant) -> Option<(Arc<str>, Grant)> {
    let resource_version = crate::source::version(&object);
    let name = object.metadata.name.as_deref()?.into();
    Some((name, Grant { uid: object.metadata.uid.as_deref()?.into(), resource_version, spec: object.spec }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::source;
    use agentsight_api::GrantReport;

    const CLOCK: Timestamp = Timestamp::UNIX_EPOCH;

    /// An index that has listed everything, and what its writes have made of the API server.
    struct World {
        index: Index,
        now: Instant,
        told: Vec<String>,
    }

    impl World {
        fn new(guardrails: &str) -> Self {
            let guardrails = Guardrails::from_yaml(guardrails).expect("valid");
            let mut index = Index::new(guardrails, Pace::default(), false);
            let now = Instant::now();
            for input in [
                Input::Traces(Change::Listed),
                Input::ClusterTraces(Change::Listed),
                Input::Grants(Change::Listed),
                Input::Reports(Change::Listed),
                Input::Nodes(Change::Listed),
            ] {
                assert!(!index.is_complete());
                index.apply(input, now);
            }
            assert!(index.is_complete());
            Self { index, now, told: Vec::new() }
        }

        fn apply(&mut self, source: Source) {
            self.index.apply(Input::Traces(Change::Applied(source.uid.clone(), source)), self.now);
        }

        fn report(&mut self, node: &str, grants: &[GrantReport]) {
            self.index.apply(Input::Nodes(Change::Applied(node.into(), ())), self.now);
            let grants =
                grants.iter().map(|grant| (Uid::from(grant.uid.as_str()), Arc::new(grant.clone()))).collect();
            let report = NodeReport { uid: Some("of the report".into()), grants, ..NodeReport::default() };
            self.index.apply(Input::Reports(Change::Applied(node.into(), report)), self.now);
        }

        fn later(&mut self, time: Duration) {
            self.now += time;
        }

        /// Carries out what is due, as an API server would. Returns what was written, a word each.
        fn settle(&mut self) -> Vec<String> {
            let mut written = Vec::new();
            while let Some(work) = self.index.due(self.now, |_| true) {
                for write in self.index.plan(&work, self.now, CLOCK) {
                    written.push(match write {
                        Write::ApplyGrant(spec) => {
                            let uid: Uid = spec.source.uid.as_str().into();
                            let grant = Grant {
                                uid: format!("grant {uid}").as_str().into(),
                                resource_version: None,
                                spec: *spec,
                            };
                            self.index.apply(Input::Grants(Change::Applied(uid, grant)), self.now);
                            "grant".to_owned()
                        }
                        Write::DeleteGrant(name, _) => {
                            self.index.apply(Input::Grants(Change::Deleted(name)), self.now);
                            "withdraw".to_owned()
                        }
                        Write::Status(source, status) => {
                            self.index.wrote_status(&source.uid, self.now);
                            let numbers = format!("status {} {}", status.pods, status.calls);
                            self.apply(Source { status: Some(*status), ..*source });
                            numbers
                        }
                        Write::Tell(_, notice) => {
                            self.told.push(notice.reason);
                            continue;
                        }
                        Write::DeleteReport(node, _) => format!("forget {node}"),
                    });
                }
            }
            written
        }
    }

    fn grant(pods: i64, calls: i64) -> GrantReport {
        GrantReport {
            uid: "uid-shop-a".into(),
            observed_generation: 1,
            matched_pods: pods,
            traced_processes: pods,
            calls,
            ..GrantReport::default()
        }
    }

    const OPEN: &str = "{exporters: {default: {}}}";

    #[test]
    fn what_is_accepted_is_granted_before_that_is_said_and_then_rests() {
        let mut world = World::new(OPEN);
        world.apply(source("shop", "a", "selector: {}"));
        assert_eq!(world.settle(), ["grant", "status 0 0"]);
        assert_eq!(world.told, ["Accepted"]);
        world.later(Duration::from_secs(3600));
        assert_eq!(world.settle(), [""; 0]);
    }

    #[test]
    fn what_is_refused_loses_its_grant() {
        let mut world = World::new(OPEN);
        world.apply(source("shop", "a", "selector: {}"));
        world.settle();
        world.later(Duration::from_secs(2));
        let status = world.index.sources["uid-shop-a"].status.clone();
        world.apply(Source {
            generation: 2,
            status,
            ..source("shop", "a", "{selector: {}, exporter: none}")
        });
        assert_eq!(world.settle(), ["withdraw", "status 0 0"]);
        assert_eq!(world.told, ["Accepted", "ExporterUnknown"]);
    }

    #[test]
    fn a_grant_without_a_source_is_withdrawn() {
        let mut world = World::new(OPEN);
        world.apply(source("shop", "a", "selector: {}"));
        world.settle();
        let forged = Grant { uid: "x".into(), ..world.index.grants["uid-shop-a"].clone() };
        world.index.apply(Input::Grants(Change::Applied("forged".into(), forged)), world.now);
        assert_eq!(world.settle(), ["withdraw"]);
        world.index.apply(Input::Traces(Change::Deleted("uid-shop-a".into())), world.now);
        assert_eq!(world.settle(), ["withdraw"]);
        assert!(world.index.grants.is_empty());
    }

    #[test]
    fn a_grant_that_others_changed_is_made_anew() {
        let mut world = World::new(OPEN);
        world.apply(source("shop", "a", "selector: {}"));
        world.settle();
        let mut changed = world.index.grants["uid-shop-a"].clone();
        changed.spec.trace.exporter = "theirs".into();
        world.index.apply(Input::Grants(Change::Applied("uid-shop-a".into(), changed)), world.now);
        assert_eq!(world.settle(), ["grant"]);
    }

    #[test]
    fn a_status_that_others_wrote_is_written_anew_and_their_conditions_stay() {
        let mut world = World::new(OPEN);
        world.apply(source("shop", "a", "selector: {}"));
        world.settle();
        world.later(Duration::from_secs(60));
        let mut forged = world.index.sources["uid-shop-a"].clone();
        let status = forged.status.as_mut().expect("a status");
        let mut theirs = status.conditions[0].clone();
        theirs.type_ = "Theirs".into();
        status.conditions.push(theirs);
        world.apply(forged.clone());
        assert_eq!(world.settle(), [""; 0]);
        forged.status.as_mut().expect("a status").pods = 7;
        world.apply(forged);
        assert_eq!(world.settle(), ["status 0 0"]);
    }

    #[test]
    fn reports_of_many_nodes_are_gathered_into_one_status() {
        let mut world = World::new(OPEN);
        world.apply(source("shop", "a", "selector: {}"));
        world.settle();
        world.later(Duration::from_secs(60));
        (0..100).for_each(|node| world.report(&format!("n{node}"), &[grant(1, 2)]));
        assert_eq!(world.settle(), [""; 0]);
        world.later(Duration::from_secs(1));
        assert_eq!(world.settle(), ["status 100 200"]);
    }

    #[test]
    fn numbers_are_written_seldom_and_conditions_soon() {
        let mut world = World::new(OPEN);
        world.apply(source("shop", "a", "selector: {}"));
        world.report("n", &[grant(1, 0)]);
        world.later(Duration::from_secs(60));
        assert_eq!(world.settle(), ["grant", "status 1 0"]);
        world.report("n", &[grant(1, 5)]);
        world.later(Duration::from_secs(2));
        assert_eq!(world.settle(), [""; 0], "only a number has changed");
        world.report("n", &[GrantReport { error: Some("broken".into()), ..grant(1, 6) }]);
        world.later(Duration::from_millis(500));
        assert_eq!(world.settle(), ["status 1 6"], "a condition has changed");
        world.report("n", &[GrantReport { error: Some("broken".into()), ..grant(1, 7) }]);
        world.later(Duration::from_secs(11));
        assert_eq!(world.settle(), ["status 1 7"]);
        assert_eq!(world.told, ["Accepted", "Tracing", "NodesFailing"]);
    }

    #[test]
    fn numbers_of_many_nodes_are_written_more_seldom() {
        let mut world = World::new(OPEN);
        world.apply(source("shop", "a", "selector: {}"));
        (0..100).for_each(|node| world.report(&format!("n{node}"), &[grant(1, 0)]));
        world.later(Duration::from_secs(1));
        assert_eq!(world.settle(), ["grant", "status 100 0"]);
        world.report("n0", &[grant(1, 1)]);
        world.later(Duration::from_secs(29));
        assert_eq!(world.settle(), [""; 0]);
        world.later(Duration::from_secs(1));
        assert_eq!(world.settle(), ["status 100 1"]);
    }

    #[test]
    fn what_was_reported_of_a_node_goes_with_it() {
        let mut world = World::new(OPEN);
        world.apply(source("shop", "a", "selector: {}"));
        world.report("n", &[grant(1, 1)]);
        world.later(Duration::from_secs(60));
        world.settle();
        world.index.apply(Input::Nodes(Change::Deleted("n".into())), world.now);
        assert_eq!(world.settle(), ["forget n"]);
        world.index.apply(Input::Reports(Change::Deleted("n".into())), world.now);
        world.later(Duration::from_secs(60));
        assert_eq!(world.settle(), ["status 0 0"]);
    }

    #[test]
    fn a_report_that_is_older_than_the_list_of_nodes_goes_too() {
        let guardrails = Guardrails::from_yaml(OPEN).expect("valid");
        let now = Instant::now();
        let mut index = Index::new(guardrails, Pace::default(), false);
        let report = NodeReport { uid: Some("of the report".into()), ..NodeReport::default() };
        index.apply(Input::Reports(Change::Applied("gone".into(), report.clone())), now);
        index.apply(Input::Reports(Change::Applied("there".into(), report)), now);
        index.apply(Input::Nodes(Change::Applied("there".into(), ())), now);
        index.apply(Input::Nodes(Change::Listed), now);
        assert_eq!(index.due(now, |_| true), Some(Work::Report("gone".into())));
        assert_eq!(index.due(now, |_| true), None);
    }

    #[test]
    fn what_a_new_list_does_not_show_is_gone() {
        let mut world = World::new(OPEN);
        for name in ["a", "b"] {
            world.apply(source("shop", name, "selector: {}"));
        }
        world.settle();
        let kept = world.index.sources["uid-shop-b"].clone();
        world.index.apply(Input::Traces(Change::Listing), world.now);
        world.apply(kept);
        world.index.apply(Input::Traces(Change::Listed), world.now);
        assert_eq!(world.settle(), ["withdraw"]);
        assert_eq!(world.index.counts().grants, 1);
    }

    #[test]
    fn what_comes_late_does_not_undo_what_is_newer() {
        let mut world = World::new(OPEN);
        let at = |version, generation| Source {
            resource_version: Some(version),
            generation,
            ..source("shop", "a", "selector: {}")
        };
        world.apply(at(9, 2));
        world.apply(at(8, 1));
        assert_eq!(world.index.sources["uid-shop-a"].generation, 2);
    }

    #[test]
    fn the_youngest_moves_up_when_one_before_it_goes() {
        let mut world = World::new("{exporters: {default: {}}, limits: {tracesPerNamespace: 1}}");
        world.apply(source("shop", "a", "selector: {}"));
        world.apply(source("shop", "b", "selector: {}"));
        world.settle();
        assert_eq!((world.index.counts().accepted, world.index.counts().refused), (1, 1));
        world.later(Duration::from_secs(60));
        world.index.apply(Input::Traces(Change::Deleted("uid-shop-a".into())), world.now);
        assert_eq!(world.settle(), ["withdraw", "grant", "status 0 0"]);
    }

    #[test]
    fn an_agent_that_is_away_for_a_moment_is_no_failure() {
        let mut world = World::new(OPEN);
        world.index.agents = Some(Kind::default());
        let pod = |ready| Input::Agents(Change::Applied("pod".into(), ("n".into(), ready)));
        world.index.apply(pod(true), world.now);
        world.apply(source("shop", "a", "selector: {}"));
        world.report("n", &[grant(1, 1)]);
        world.later(Duration::from_secs(60));
        world.settle();
        world.index.apply(pod(false), world.now);
        world.later(Duration::from_secs(5));
        world.index.apply(pod(true), world.now);
        world.later(Duration::from_secs(60));
        assert_eq!(world.settle(), [""; 0]);
        world.index.apply(Input::Agents(Change::Deleted("pod".into())), world.now);
        world.later(Duration::from_secs(60));
        assert_eq!(world.settle(), ["status 1 1"]);
        assert_eq!(world.told.last().map(String::as_str), Some("NodesFailing"));
    }
}
