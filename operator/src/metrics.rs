//! The operator's own metrics, by Prometheus' names. `docs/operations.md` lists them.

use crate::index::Counts;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::sync::Arc;

/// The operator's own metrics; a clone shows the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    objects: Family<ObjectLabels, Gauge>,
    waiting: Gauge,
    leader: Gauge,
    registry: Arc<Registry>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    resource: &'static str,
    outcome: Outcome,
}

/// What came of a request to the API server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// It was done.
    Ok,
    /// The object was gone or another one.
    Conflict,
    /// It is tried again.
    Failed,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>) -> std::fmt::Result {
        EncodeLabelValue::encode(
            &match self {
                Outcome::Ok => "ok",
                Outcome::Conflict => "conflict",
                Outcome::Failed => "failed",
            },
            encoder,
        )
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ObjectLabels {
    kind: &'static str,
    state: &'static str,
}

impl Metrics {
    /// All at zero.
    #[allow(clippy::new_without_default, reason = "it registers, and is made once")]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let operator = registry.sub_registry_with_prefix("agentsight_operator");
        operator.register(
            "build",
            "Which operator this is",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        let (requests, objects) = (Family::default(), Family::default());
        let (waiting, leader) = (Gauge::default(), Gauge::default());
        operator.register("api_requests", "Requests to the API server", Family::clone(&requests));
        operator.register("objects", "Objects that are known", Family::clone(&objects));
        operator.register("queue_length", "Objects that wait to be looked at", waiting.clone());
        operator.register("leader", "1 where this replica leads", leader.clone());
        Self { requests, objects, waiting, leader, registry: Arc::new(registry) }
    }

    /// Everything in OpenMetrics' text form, which Prometheus reads.
    ///
    /// # Errors
    /// None that these metrics can cause.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts a request to the API server.
    pub(crate) fn request(&self, verb: &'static str, resource: &'static str, outcome: Outcome) {
        self.requests.get_or_create(&RequestLabels { verb, resource, outcome }).inc();
    }

    /// Shows how things stand.
    pub(crate) fn show(&self, counts: Counts, leads: bool) {
        let objects = [
            ("trace", "accepted", counts.accepted),
            ("trace", "refused", counts.refused),
            ("grant", "known", counts.grants),
            ("node", "known", counts.nodes),
            ("node", "reporting", counts.reports),
        ];
        for (kind, state, count) in objects {
            self.objects.get_or_create(&ObjectLabels { kind, state }).set(gauge(count));
        }
        self.waiting.set(gauge(counts.waiting));
        self.leader.set(i64::from(leads));
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_metric_is_documented_and_no_other() {
        let metrics = Metrics::new();
        metrics.request("apply", "agenttracegrants", Outcome::Ok);
        metrics.show(Counts { waiting: 3, ..Counts::default() }, true);
        let text = metrics.text().expect("text");
        assert!(text.contains("agentsight_operator_leader 1\n"), "{text}");
        assert!(text.contains("agentsight_operator_queue_length 3\n"), "{text}");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let exported: BTreeSet<&str> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
        let page = include_str!("../../docs/operations.md");
        let documented: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .filter(|name| name.starts_with("agentsight_operator_"))
            .collect();
        assert_eq!(exported, documented);
    }
}
