//! Whether an installation works: what `helm test` runs.

use crate::run::LEASE;
use agentsight_api::{
    AgentTrace, AgentTraceGrant, AgentTraceNode, ClusterAgentTrace, ConditionStatus, READY,
};
use anyhow::{Context, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use std::time::{Duration, Instant};

/// Looks again until all is well, and says what it found.
///
/// # Errors
/// What was still not well when the time was over.
pub async fn wait(
    client: &Client,
    namespace: &str,
    agent_labels: &str,
    patience: Duration,
) -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + patience;
    loop {
        match look(client, namespace, agent_labels).await {
            Ok(findings) => return Ok(findings),
            Err(error) if Instant::now() >= deadline => return Err(error),
            // There is no one event for all of this.
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn look(client: &Client, namespace: &str, agent_labels: &str) -> anyhow::Result<Vec<String>> {
    let few = ListParams::default().limit(1);
    let missing = "is the API not installed? See crds.install in the chart's values";
    Api::<AgentTrace>::all(client.clone()).list(&few).await.context(missing)?;
    Api::<ClusterAgentTrace>::all(client.clone()).list(&few).await.context(missing)?;
    Api::<AgentTraceGrant>::namespaced(client.clone(), namespace).list(&few).await.context(missing)?;
    let reports: Api<AgentTraceNode> = Api::namespaced(client.clone(), namespace);
    let reports = reports.list(&ListParams::default()).await.context(missing)?.items;

    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let lease =
        leases.get(LEASE).await.with_context(|| format!("no lease {LEASE}: does the operator run?"))?;
    let leader =
        lease.spec.and_then(|spec| spec.holder_identity).context("no replica of the operator leads")?;

    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let agents = pods
        .list(&ListParams::default().labels(agent_labels))
        .await
        .context("cannot list the agents' pods")?;
    let nodes = agents.items.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref());
    let mut findings = vec![format!("the API is served, and {leader} leads")];
    for node in nodes {
        let report = reports.iter().find(|report| report.name_any() == node);
        let report = report.with_context(|| format!("the agent of node {node} has not reported yet"))?;
        let status = report.status.clone().unwrap_or_default();
        match status.conditions.iter().find(|condition| condition.type_ == READY) {
            Some(ready) if ready.status == ConditionStatus::True => findings.push(format!(
                "node {node} can trace (agent {}, Linux {})",
                status.agent.version, status.kernel.release
            )),
            Some(ready) => bail!("node {node} cannot trace: {}: {}", ready.reason, ready.message),
            None => bail!("the agent of node {node} does not say yet whether it can trace"),
        }
    }
    Ok(findings)
}
