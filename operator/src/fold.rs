//! Folds what nodes report into the status of one object.

use crate::guardrails::Verdict;
use crate::report::NodeReport;
use crate::source::{Source, Uid};
use agentsight_api::{
    ACCEPTED, ACTIVE, AgentTraceStatus, Condition, ConditionStatus, EXPORTING, ExporterState, GrantReport,
    NO_TLS_LIBRARY, NodeCounts, OVERLAPPING, Untraceable,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// What one node says of one object.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// The node's name.
    pub node: &'a str,
    /// All that its agent reports.
    pub report: &'a NodeReport,
    /// What it reports of this object.
    pub grant: &'a GrantReport,
    /// Whether a pod of the agent is ready there; unknown where pods are not watched.
    pub agent_ready: Option<bool>,
}

/// The status of an object, from the verdict on it and from what nodes say, in the order of their names.
/// `called` tells what another source's UID stands for. `now` becomes the time of transitions.
pub fn status<'a>(
    source: &Source,
    verdict: &Verdict,
    said: impl Iterator<Item = Said<'a>>,
    called: impl Fn(&str) -> Option<String>,
    now: Timestamp,
) -> AgentTraceStatus {
    let mut sums = Sums::default();
    let granted = matches!(verdict, Verdict::Accepted { .. });
    for one in said {
        sums.add(source, &one);
    }
    if !granted {
        // Agents that have not taken the refusal over yet may still report: none of it counts.
        sums = Sums::default();
    }
    let conditions = [
        (ACCEPTED, accepted(verdict)),
        (ACTIVE, refused(verdict).unwrap_or_else(|| sums.active(source.generation))),
        (EXPORTING, refused(verdict).unwrap_or_else(|| sums.exporting(&source.spec.exporter))),
        (OVERLAPPING, sums.overlapping(called)),
    ];
    let old = source.status.as_ref();
    let conditions = conditions.into_iter().map(|(type_, (status, reason, message))| {
        let before = old.and_then(|old| old.conditions.iter().find(|condition| condition.type_ == type_));
        let since =
            before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
        Condition {
            type_: type_.to_owned(),
            status,
            observed_generation: Some(source.generation),
            last_transition_time: since.unwrap_or(Time(now)),
            reason: reason.to_owned(),
            message,
        }
    });
    AgentTraceStatus {
        observed_generation: Some(source.generation),
        conditions: conditions.collect(),
        pods: sums.pods,
        traced: sums.traced,
        untraceable: sums.untraceable(),
        calls: sums.calls,
        dropped: sums.dropped,
        nodes: sums.nodes,
    }
}

type State = (ConditionStatus, &'static str, String);

fn accepted(verdict: &Verdict) -> State {
    match verdict {
        Verdict::Accepted { limited: None, .. } => {
            (ConditionStatus::True, "Accepted", "agents are told to obey this generation".to_owned())
        }
        Verdict::Accepted { limited: Some(what), .. } => (ConditionStatus::True, "Limited", what.clone()),
        Verdict::Refused { reason, message } => (ConditionStatus::False, reason, cut(message, 4096)),
    }
}

/// What a refusal makes of the other conditions. They repeat its reason: `kubectl get -o wide` shows one of `Active`.
fn refused(verdict: &Verdict) -> Option<State> {
    match verdict {
        Verdict::Accepted { .. } => None,
        Verdict::Refused { reason, .. } => {
            let message = "nothing is traced: see the condition Accepted".to_owned();
            Some((ConditionStatus::False, reason, message))
        }
    }
}

#[derive(Default)]
struct Sums {
    pods: i64,
    traced: i64,
    untraceable: BTreeMap<String, (i64, String)>,
    calls: i64,
    dropped: i64,
    nodes: NodeCounts,
    failing: Problems,
    outdated: Problems,
    exporting: Problems,
    invalid: bool,
    exported: bool,
    overlaps: BTreeSet<Uid>,
}

impl Sums {
    fn add(&mut self, source: &Source, said: &Said<'_>) {
        let &Said { node, report, grant, agent_ready } = said;
        // What agents count is never negative; what a broken one writes must not turn sums around.
        let add = |sum: &mut i64, count: i64| *sum = sum.saturating_add(count.max(0));
        self.nodes.total += 1;
        add(&mut self.pods, grant.matched_pods);
        add(&mut self.traced, grant.traced_processes);
        add(&mut self.calls, grant.calls);
        grant.dropped.iter().for_each(|dropped| add(&mut self.dropped, dropped.count));
        for Untraceable { reason, count, example } in &grant.untraceable {
            let (sum, shown) = self.untraceable.entry(reason.clone()).or_default();
            add(sum, *count);
            if shown.is_empty() {
                shown.clone_from(example);
            }
        }
        let problem = if agent_ready == Some(false) {
            Some("its agent is not ready")
        } else {
            report.unready.as_deref().or(grant.error.as_deref())
        };
        if let Some(problem) = problem {
            self.nodes.failing += 1;
            self.failing.add(node, problem);
        }
        if grant.observed_generation >= source.generation {
            self.nodes.updated += 1;
        } else {
            self.outdated.add(node, "");
        }
        match report.exporters.get(&source.spec.exporter) {
            Some((ExporterState::Failing, error)) => self.exporting.add(node, error),
            Some((ExporterState::Invalid, error)) => {
                self.invalid = true;
                self.exporting.add(node, error);
            }
            Some((ExporterState::Ready, _)) => self.exported = true,
            Some((ExporterState::Idle, _)) | None => {}
        }
        self.overlaps.extend(grant.overlaps.iter().map(|uid| Uid::from(uid.as_str())));
    }

    /// False before Unknown before True.
    fn active(&self, generation: i64) -> State {
        use ConditionStatus::{False, True, Unknown};
        let blind: i64 = self.untraceable.values().map(|(count, _)| *count).sum();
        // Shells and tools: they have no TLS to be traced. A pod may have nothing else between two runs of its agent.
        let without_tls = self.untraceable.get(NO_TLS_LIBRARY).map_or(0, |(count, _)| *count);
        let blind_ones = || {
            let reasons: Vec<String> = self
                .untraceable
                .iter()
                .map(|(reason, (count, example))| match example.as_str() {
                    "" => format!("{reason} ({count})"),
                    example => format!("{reason} ({count}, such as {})", cut(example, 200)),
                })
                .collect();
            cut(&reasons.join(", "), 2048)
        };
        if self.failing.count > 0 {
            let message = format!("{} of {} nodes: {}", self.failing.count, self.nodes.total, self.failing);
            (False, "NodesFailing", message)
        } else if self.outdated.count > 0 {
            let message = format!(
                "{} of {} nodes have not taken over generation {generation} yet: {}",
                self.outdated.count, self.nodes.total, self.outdated
            );
            (Unknown, "Updating", message)
        } else if self.pods == 0 {
            (Unknown, "NoPodsSelected", "no agent reports a running pod that the selector matches".to_owned())
        } else if self.traced == 0 && blind > without_tls {
            (False, "NothingTraceable", format!("no process can be traced: {}", blind_ones()))
        } else if self.traced == 0 {
            let mut message = format!(
                "watching {} pods; no process of them has loaded a TLS library that is known",
                self.pods
            );
            if blind > 0 {
                message.push_str(&format!(": {}", blind_ones()));
            }
            (True, "Watching", message)
        } else {
            let mut message =
                format!("{} processes in {} pods on {} nodes", self.traced, self.pods, self.nodes.total);
            if blind > 0 {
                message.push_str(&format!("; {blind} processes cannot be traced: {}", blind_ones()));
            }
            (True, "Tracing", message)
        }
    }

    fn exporting(&self, exporter: &str) -> State {
        use ConditionStatus::{False, True, Unknown};
        if self.exporting.count > 0 {
            let reason = if self.invalid { "ExporterInvalid" } else { "ExporterUnreachable" };
            let message = format!(
                "the exporter {exporter:?} fails on {} of {} nodes: {}",
                self.exporting.count, self.nodes.total, self.exporting
            );
            (False, reason, message)
        } else if self.exported {
            (True, "Exported", format!("the exporter {exporter:?} takes what is sent"))
        } else {
            (Unknown, "NothingSent", format!("nothing was sent to the exporter {exporter:?} yet"))
        }
    }

    fn overlapping(&self, called: impl Fn(&str) -> Option<String>) -> State {
        // A source that is gone, or that others made up, overlaps with nothing.
        let names: BTreeSet<String> = self.overlaps.iter().filter_map(|uid| called(uid)).collect();
        if names.is_empty() {
            return (ConditionStatus::False, "Alone", "no other object selects the same pods".to_owned());
        }
        let message = format!(
            "{} selects some of the same pods: each exporter gets one span a call, with the strictest content and \
             redaction of those that name it",
            listed(names.iter().map(String::as_str), names.len())
        );
        (ConditionStatus::True, "Overlapping", message)
    }

    fn untraceable(&self) -> Vec<Untraceable> {
        self.untraceable
            .iter()
            .take(32)
            .map(|(reason, (count, example))| Untraceable {
                reason: reason.clone(),
                count: *count,
                example: example.clone(),
            })
            .collect()
    }
}

/// As many nodes as a message names.
const NAMED: usize = 5;

/// Nodes with something wrong: the first few by name, and how many there are.
#[derive(Default)]
struct Problems {
    named: Vec<String>,
    count: usize,
}

impl Problems {
    /// To be called in the order of the nodes' names.
    fn add(&mut self, node: &str, problem: &str) {
        self.count += 1;
        if self.named.len() < NAMED {
            let problem = cut(problem.trim(), 200);
            self.named.push(if problem.is_empty() { node.to_owned() } else { format!("{node}: {problem}") });
        }
    }
}

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&listed(self.named.iter().map(String::as_str), self.count))
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>, count: usize) -> String {
    let named: Vec<&str> = names.take(NAMED).collect();
    match count.saturating_sub(named.len()) {
        0 => named.join("; "),
        more => format!("{}; +{more} more", named.join("; ")),
    }
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().nth(most).is_none() {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guardrails::{Guardrails, Rank};
    use crate::source::tests::source;
    use agentsight_api::Dropped;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn verdict(source: &Source) -> Verdict {
        Guardrails::from_yaml("{exporters: {default: {}}}").expect("valid").judge(source, Rank::default())
    }

    fn trace() -> Source {
        source("shop", "agents", "selector: {}")
    }

    fn grant(pods: i64, traced: i64) -> GrantReport {
        GrantReport {
            uid: "uid-shop-agents".into(),
            observed_generation: 1,
            matched_pods: pods,
            traced_processes: traced,
            ..GrantReport::default()
        }
    }

    /// The status where nodes `n00`, `n01`, … say this.
    fn fold(source: &Source, nodes: &[(NodeReport, GrantReport)]) -> AgentTraceStatus {
        let names: Vec<String> = (0..nodes.len()).map(|index| format!("n{index:02}")).collect();
        let said = nodes.iter().zip(&names).map(|((report, grant), node)| Said {
            node,
            report,
            grant,
            agent_ready: None,
        });
        let called = |uid: &str| (uid == "uid-other").then(|| "AgentTrace shop/other".to_owned());
        status(source, &verdict(source), said, called, NOW)
    }

    fn plain(grants: impl IntoIterator<Item = GrantReport>) -> Vec<(NodeReport, GrantReport)> {
        grants.into_iter().map(|grant| (NodeReport::default(), grant)).collect()
    }

    #[track_caller]
    fn is(status: &AgentTraceStatus, type_: &str, expected: ConditionStatus, reason: &str, message: &str) {
        let condition =
            status.conditions.iter().find(|condition| condition.type_ == type_).expect("the condition");
        assert_eq!((condition.status, condition.reason.as_str()), (expected, reason), "{condition:?}");
        assert!(condition.message.contains(message), "{condition:?}");
    }

    use ConditionStatus::{False, True, Unknown};

    #[test]
    fn what_nodes_count_is_summed() {
        let mut first = grant(2, 3);
        first.calls = 10;
        first.dropped = vec![
            Dropped { cause: "ring_full".into(), count: 4 },
            Dropped { cause: "fault".into(), count: 1 },
        ];
        let mut second = grant(1, 1);
        second.calls = 5;
        second.untraceable =
            vec![Untraceable { reason: "JavaTls".into(), count: 2, example: "shop/a java".into() }];
        let status = fold(&trace(), &plain([first, second]));
        assert_eq!((status.pods, status.traced, status.calls, status.dropped), (3, 4, 15, 5));
        assert_eq!((status.nodes.total, status.nodes.updated, status.nodes.failing), (2, 2, 0));
        assert_eq!(status.untraceable[0].count, 2);
        is(&status, ACCEPTED, True, "Accepted", "");
        is(
            &status,
            ACTIVE,
            True,
            "Tracing",
            "4 processes in 3 pods on 2 nodes; 2 processes cannot be traced: JavaTls (2, such as shop/a java)",
        );
        is(&status, OVERLAPPING, False, "Alone", "");
    }

    #[test]
    fn without_a_report_nobody_knows() {
        is(&fold(&trace(), &[]), ACTIVE, Unknown, "NoPodsSelected", "");
    }

    #[test]
    fn five_failing_nodes_are_named_and_the_others_counted() {
        let failing = |problem: &str| GrantReport { error: Some(problem.into()), ..grant(1, 0) };
        let mut nodes: Vec<_> = (0..9).map(|_| failing("no BTF")).collect();
        nodes.push(grant(1, 1));
        let status = fold(&trace(), &plain(nodes));
        let message =
            "9 of 10 nodes: n00: no BTF; n01: no BTF; n02: no BTF; n03: no BTF; n04: no BTF; +4 more";
        is(&status, ACTIVE, False, "NodesFailing", message);
        assert_eq!(status.nodes.failing, 9);
    }

    #[test]
    fn an_agent_that_cannot_trace_or_is_away_fails_its_node() {
        let report = NodeReport { unready: Some("CAP_BPF is missing".into()), ..NodeReport::default() };
        is(
            &fold(&trace(), &[(report, grant(1, 0))]),
            ACTIVE,
            False,
            "NodesFailing",
            "n00: CAP_BPF is missing",
        );
        let (report, grant) = (NodeReport::default(), grant(1, 1));
        let said = Said { node: "n", report: &report, grant: &grant, agent_ready: Some(false) };
        let source = trace();
        let status = status(&source, &verdict(&source), [said].into_iter(), |_| None, NOW);
        is(&status, ACTIVE, False, "NodesFailing", "n: its agent is not ready");
    }

    #[test]
    fn nodes_that_lag_behind_are_unknown_and_failures_win_over_them() {
        let mut source = trace();
        source.generation = 2;
        let old = grant(1, 1);
        is(
            &fold(&source, &plain([old.clone()])),
            ACTIVE,
            Unknown,
            "Updating",
            "1 of 1 nodes have not taken over generation 2 yet: n00",
        );
        let failing = GrantReport { error: Some("x".into()), observed_generation: 2, ..grant(1, 0) };
        is(&fold(&source, &plain([old, failing])), ACTIVE, False, "NodesFailing", "n01: x");
    }

    #[test]
    fn pods_of_which_nothing_can_be_traced_are_no_success() {
        let mut blind = grant(1, 0);
        blind.untraceable =
            vec![Untraceable { reason: "StrippedUnknown".into(), count: 1, example: String::new() }];
        is(&fold(&trace(), &plain([blind])), ACTIVE, False, "NothingTraceable", "StrippedUnknown (1)");
        is(&fold(&trace(), &plain([grant(3, 0)])), ACTIVE, True, "Watching", "3 pods");
        let mut idle = grant(1, 0);
        let example = "shop/agent, container agent".to_owned();
        idle.untraceable = vec![Untraceable { reason: NO_TLS_LIBRARY.into(), count: 2, example }];
        is(&fold(&trace(), &plain([idle])), ACTIVE, True, "Watching", "NoTlsLibrary (2, such as shop/agent");
    }

    #[test]
    fn an_exporter_that_fails_anywhere_is_told() {
        let with = |state, error: &str| NodeReport {
            exporters: BTreeMap::from([("default".to_owned(), (state, error.to_owned()))]),
            ..NodeReport::default()
        };
        is(&fold(&trace(), &plain([grant(1, 1)])), EXPORTING, Unknown, "NothingSent", "");
        let good = (with(ExporterState::Ready, ""), grant(1, 1));
        is(&fold(&trace(), std::slice::from_ref(&good)), EXPORTING, True, "Exported", "");
        let bad = (with(ExporterState::Failing, "connection refused"), grant(1, 1));
        is(
            &fold(&trace(), &[good.clone(), bad]),
            EXPORTING,
            False,
            "ExporterUnreachable",
            "n01: connection refused",
        );
        let invalid = (with(ExporterState::Invalid, "no such file"), grant(1, 1));
        is(&fold(&trace(), &[good, invalid]), EXPORTING, False, "ExporterInvalid", "n01: no such file");
    }

    #[test]
    fn another_object_on_the_same_pods_is_named_where_it_exists() {
        let mut both = grant(1, 1);
        both.overlaps = vec!["uid-other".into(), "uid-gone".into()];
        is(
            &fold(&trace(), &plain([both])),
            OVERLAPPING,
            True,
            "Overlapping",
            "AgentTrace shop/other selects",
        );
        let gone = GrantReport { overlaps: vec!["uid-gone".into()], ..grant(1, 1) };
        is(&fold(&trace(), &plain([gone])), OVERLAPPING, False, "Alone", "");
    }

    #[test]
    fn of_a_refused_object_nothing_counts() {
        let source = source("shop", "agents", "{selector: {}, exporter: other}");
        let status = fold(&source, &plain([grant(4, 4)]));
        assert_eq!((status.pods, status.nodes.total), (0, 0));
        is(&status, ACCEPTED, False, "ExporterUnknown", "");
        is(&status, ACTIVE, False, "ExporterUnknown", "see the condition Accepted");
    }

    #[test]
    fn the_time_of_a_transition_stays_while_the_status_does() {
        let mut source = trace();
        let first = fold(&source, &[]);
        source.status = Some(first.clone());
        source.generation = 2;
        let later = Timestamp::from_second(100).expect("a time");
        let none = std::iter::empty;
        let same = status(&source, &verdict(&source), none(), |_| None, later);
        assert_eq!(same.conditions[0].last_transition_time, first.conditions[0].last_transition_time);
        assert_eq!(same.conditions[0].observed_generation, Some(2));
        source.spec.exporter = "other".into();
        let other = status(&source, &verdict(&source), none(), |_| None, later);
        assert_eq!(other.conditions[0].last_transition_time, Time(later));
    }

    #[test]
    fn hostile_counts_do_not_turn_sums_around() {
        let mut huge = grant(i64::MAX, i64::MAX);
        huge.calls = i64::MAX;
        let status = fold(&trace(), &plain([huge.clone(), huge, grant(-5, -5)]));
        assert_eq!((status.pods, status.calls), (i64::MAX, i64::MAX));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
        assert_eq!(cut("", 3), "");
    }
}
