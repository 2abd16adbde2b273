//! What a node's agent reports, as much of it as is needed: 5,000 of these are held at a time.

use crate::source::{Uid, version};
use agentsight_api::{AgentTraceNode, ConditionStatus, ExporterReport, ExporterState, GrantReport, READY};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What one node's agent reports.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct NodeReport {
    /// Of the object.
    pub uid: Option<Uid>,
    /// Of the object.
    pub resource_version: Option<u64>,
    /// Why the agent cannot trace there, where it says so.
    pub unready: Option<String>,
    /// Exporters that were tried, or cannot be.
    pub exporters: BTreeMap<String, (ExporterState, String)>,
    /// By the source's UID.
    pub grants: BTreeMap<Uid, Arc<GrantReport>>,
}

impl From<AgentTraceNode> for NodeReport {
    fn from(object: AgentTraceNode) -> Self {
        let resource_version = version(&object);
        let uid = object.metadata.uid.as_deref().map(Uid::from);
        let status = object.status.unwrap_or_default();
        let unready = status
            .conditions
            .into_iter()
            .find(|condition| condition.type_ == READY && condition.status == ConditionStatus::False)
            .map(|condition| condition.message);
        let exporters = status
            .exporters
            .into_iter()
            .filter(|exporter| exporter.state != ExporterState::Idle)
            .map(|ExporterReport { name, state, error, .. }| (name, (state, error.unwrap_or_default())))
            .collect();
        let grants = status
            .grants
            .into_iter()
            .map(|report| (Uid::from(report.uid.as_str()), Arc::new(report)))
            .collect();
        Self { uid, resource_version, unready, exporters, grants }
    }
}
