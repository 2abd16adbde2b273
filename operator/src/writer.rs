//! Carries out what the index asks for.

use crate::index::{Change, Input, Notice, Write, grant_of};
use crate::metrics::{Metrics, Outcome};
use crate::run::Config;
use crate::source::{Source, Uid};
use agentsight_api::{
    AgentTrace, AgentTraceGrant, AgentTraceGrantSpec, AgentTraceNode, AgentTraceStatus, ClusterAgentTrace,
    SourceKind,
};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, CustomResourceExt, Resource};
use serde_json::json;
use std::sync::Arc;
use tracing::{debug, info, warn};

/// By this name the API server knows what is ours in an object.
pub const FIELD_MANAGER: &str = "agentsight-operator";

/// Carries out writes.
pub(crate) struct Writer {
    client: Client,
    namespace: String,
    owner: Option<OwnerReference>,
    recorder: Recorder,
    metrics: Metrics,
}

/// What came of the writes for one thing.
#[derive(Default, Debug)]
pub(crate) struct Done {
    /// What the API server answered with: as good as news.
    pub(crate) seen: Vec<Input>,
    /// Whose status was written.
    pub(crate) status_of: Option<Uid>,
    /// Whether one of them failed; those after it were not tried.
    pub(crate) failed: bool,
}

impl Writer {
    pub(crate) fn new(client: Client, config: &Config, metrics: Metrics) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(config.identity.clone()) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            namespace: config.namespace.clone(),
            owner: config.owner.clone(),
            metrics,
        }
    }

    /// Carries out all of them in their order, up to the first that fails.
    pub(crate) async fn carry_out(&self, writes: Vec<Write>) -> Done {
        let mut done = Done::default();
        for write in writes {
            let (verb, resource) = named(&write);
            match self.write(write, &mut done).await {
                Ok(()) => self.metrics.request(verb, resource, Outcome::Ok),
                Err(error) if is_answered(&error) => {
                    // It is gone, or another by now: its watch tells.
                    debug!(verb, resource, %error, "what was to be written has changed");
                    self.metrics.request(verb, resource, Outcome::Conflict);
                    break;
                }
                Err(error) => {
                    warn!(verb, resource, error = %format_args!("{error:#}"), "a write has failed and is tried again");
                    self.metrics.request(verb, resource, Outcome::Failed);
                    done.failed = true;
                    break;
                }
            }
        }
        done
    }

    async fn write(&self, write: Write, done: &mut Done) -> kube::Result<()> {
        match write {
            Write::ApplyGrant(spec) => {
                let applied = self
                    .grants()
                    .patch(
                        &AgentTraceGrant::name_of(&spec.source.uid),
                        &ours(),
                        &Patch::Apply(self.grant(&spec)),
                    )
                    .await?;
                info!(source = %spec.source.name, namespace = spec.source.namespace, generation = spec.source.generation, "granted");
                done.seen.extend(
                    grant_of(applied).map(|(name, grant)| Input::Grants(Change::Applied(name, grant))),
                );
            }
            Write::DeleteGrant(name, uid) => {
                self.grants().delete(&name, &only(&uid)).await?;
                info!(grant = %name, "withdrawn");
                done.seen.push(Input::Grants(Change::Deleted(name)));
            }
            Write::Status(source, status) => {
                let seen = self.status(&source, &status).await?;
                done.status_of = Some(source.uid.clone());
                done.seen.extend(seen);
            }
            Write::Tell(source, notice) => {
                // An event that is lost is not worth a second status: it is not tried again.
                if let Err(error) = self.recorder.publish(&event(&notice), &reference(&source)).await {
                    warn!(source = source.shown(), reason = notice.reason, %error, "an event could not be written");
                    self.metrics.request("create", "events", Outcome::Failed);
                }
            }
            Write::DeleteReport(node, uid) => {
                // The news of a node that was just made may come after the first report of its agent.
                let nodes: Api<Node> = Api::all(self.client.clone());
                if nodes.get_metadata_opt(&node).await?.is_some() {
                    return Ok(());
                }
                let reports: Api<AgentTraceNode> = Api::namespaced(self.client.clone(), &self.namespace);
                reports.delete(&node, &only(&uid)).await?;
                info!(%node, "the node is gone, and what was reported of it");
                done.seen.push(Input::Reports(Change::Deleted(node)));
            }
        }
        Ok(())
    }

    async fn status(&self, source: &Source, status: &AgentTraceStatus) -> kube::Result<Option<Input>> {
        // The UID makes it fail for an object of the same name that was made since.
        let patch = |kind: &str, api_version: &str| {
            json!({
                "apiVersion": api_version, "kind": kind,
                "metadata": { "name": source.name, "uid": &*source.uid },
                "status": status,
            })
        };
        let name = &source.name;
        match (source.kind, &source.namespace) {
            (SourceKind::AgentTrace, Some(namespace)) => {
                let api: Api<AgentTrace> = Api::namespaced(self.client.clone(), namespace);
                let patch = patch(&AgentTrace::kind(&()), &AgentTrace::api_resource().api_version);
                let object = api.patch_status(name, &ours(), &Patch::Apply(patch)).await?;
                Ok(Source::of_trace(&object)
                    .map(|source| Input::Traces(Change::Applied(source.uid.clone(), source))))
            }
            _ => {
                let api: Api<ClusterAgentTrace> = Api::all(self.client.clone());
                let patch =
                    patch(&ClusterAgentTrace::kind(&()), &ClusterAgentTrace::api_resource().api_version);
                let object = api.patch_status(name, &ours(), &Patch::Apply(patch)).await?;
                Ok(Source::of_cluster_trace(&object)
                    .map(|source| Input::ClusterTraces(Change::Applied(source.uid.clone(), source))))
            }
        }
    }

    fn grants(&self) -> Api<AgentTraceGrant> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn grant(&self, spec: &AgentTraceGrantSpec) -> AgentTraceGrant {
        let mut grant = AgentTraceGrant::new(&AgentTraceGrant::name_of(&spec.source.uid), spec.clone());
        grant.metadata.namespace = Some(self.namespace.clone());
        grant.metadata.owner_references = self.owner.clone().map(|owner| vec![owner]);
        grant.metadata.labels =
            Some([("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned())].into());
        grant
    }
}

/// What others changed in what is ours becomes ours again.
fn ours() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

fn only(uid: &Arc<str>) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_string()), resource_version: None }),
        ..DeleteParams::default()
    }
}

/// Whether the API server says that the object is gone or another one.
fn is_answered(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}

fn named(write: &Write) -> (&'static str, &'static str) {
    match write {
        Write::ApplyGrant(_) => ("apply", "agenttracegrants"),
        Write::DeleteGrant(..) => ("delete", "agenttracegrants"),
        Write::Status(source, _) => match source.kind {
            SourceKind::AgentTrace => ("apply", "agenttraces/status"),
            SourceKind::ClusterAgentTrace => ("apply", "clusteragenttraces/status"),
        },
        Write::Tell(..) => ("create", "events"),
        Write::DeleteReport(..) => ("delete", "agenttracenodes"),
    }
}

fn event(notice: &Notice) -> Event {
    Event {
        type_: if notice.warning { EventType::Warning } else { EventType::Normal },
        reason: notice.reason.clone(),
        // The API takes 1,024 bytes.
        note: Some(notice.note.chars().take(250).collect()),
        action: "Reconcile".into(),
        secondary: None,
    }
}

fn reference(source: &Source) -> ObjectReference {
    let (kind, api_version) = match source.kind {
        SourceKind::AgentTrace => (AgentTrace::kind(&()), AgentTrace::api_version(&())),
        SourceKind::ClusterAgentTrace => (ClusterAgentTrace::kind(&()), ClusterAgentTrace::api_version(&())),
    };
    ObjectReference {
        api_version: Some(api_version.into_owned()),
        kind: Some(kind.into_owned()),
        name: Some(source.name.clone()),
        namespace: source.namespace.clone(),
        uid: Some(source.uid.to_string()),
        ..ObjectReference::default()
    }
}
