//! An API server with the chart installed, and clients with the rights that the chart gives.

use agentsight_e2e::control_plane::{ControlPlane, succeeded};
use agentsight_e2e::process::{PATIENCE, run};
use agentsight_operator::guardrails::Guardrails;
use agentsight_operator::index::Pace;
use agentsight_operator::metrics::Metrics;
use agentsight_operator::run::Config;
use agentsight_operator::server::Health;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const NAMESPACE: &str = "agentsight-system";

pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn chart() -> String {
    project().join("charts/agentsight").display().to_string()
}

/// An API server with the chart installed.
pub(crate) struct Release {
    pub(crate) plane: ControlPlane,
}

impl Release {
    /// None where there is no Kubernetes, which is said.
    pub(crate) fn or_skip(values: &[&str]) -> Option<Self> {
        let release = Self { plane: ControlPlane::or_skip()? };
        let mut arguments = vec!["install", "agentsight", "CHART", "-n", NAMESPACE, "--create-namespace"];
        let set: Vec<String> = values.iter().map(|value| format!("--set-json={value}")).collect();
        arguments.extend(set.iter().map(String::as_str));
        release.helm(&arguments);
        release.plane.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
        Some(release)
    }

    /// Runs helm, with `CHART` standing for ours.
    pub(crate) fn helm(&self, arguments: &[&str]) -> String {
        succeeded(&self.try_helm(arguments), arguments)
    }

    pub(crate) fn try_helm(&self, arguments: &[&str]) -> Output {
        let chart = chart();
        let arguments =
            arguments.iter().map(|argument| if *argument == "CHART" { &chart } else { *argument });
        run(self.plane.command("helm").args(arguments))
    }

    /// # Panics
    /// It is refused.
    #[track_caller]
    pub(crate) fn apply(&self, object: &Value) {
        succeeded(&self.plane.apply(&object.to_string()), &["kubectl apply"]);
    }

    pub(crate) fn apply_namespace(&self, name: &str) {
        self.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }));
    }

    /// Writes an AgentTrace.
    pub(crate) fn apply_trace(&self, namespace: &str, name: &str, spec: &Value) {
        self.apply(&json!({
            "apiVersion": "agentsight.dev/v1alpha1", "kind": "AgentTrace",
            "metadata": { "namespace": namespace, "name": name }, "spec": spec,
        }));
    }

    /// A client with a cluster administrator's rights.
    pub(crate) async fn administrator(&self) -> Client {
        self.client(None).await
    }

    /// A client with the rights of a service account; `bound` are further flags of `kubectl create token`.
    pub(crate) async fn service_account(&self, namespace: &str, name: &str, bound: &[&str]) -> Client {
        let mut arguments = vec!["create", "token", name, "-n", namespace];
        arguments.extend(bound);
        let token = self.plane.kubectl(&arguments);
        self.client(Some(token.trim())).await
    }

    async fn client(&self, token: Option<&str>) -> Client {
        let mut config = Kubeconfig::read_from(self.plane.kubeconfig()).expect("a kubeconfig");
        if let Some(token) = token {
            for user in config.auth_infos.iter_mut().filter_map(|user| user.auth_info.as_mut()) {
                user.token = Some(token.to_owned().into());
            }
        }
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(config, &options).await;
        Client::try_from(config.expect("a configuration")).expect("a client")
    }

    /// A running operator with the rights and the guardrails that the chart gives it.
    pub(crate) async fn operator(&self, identity: &str) -> Operator {
        let file = self.plane.kubectl(&[
            "get",
            "configmap",
            "agentsight-operator",
            "-n",
            NAMESPACE,
            "-o",
            r"jsonpath={.data.guardrails\.yaml}",
        ]);
        let client = self.service_account(NAMESPACE, "agentsight-operator", &[]).await;
        let owner = agentsight_operator::run::owner(&client, NAMESPACE, "agentsight-operator").await;
        let config = Config {
            namespace: NAMESPACE.into(),
            identity: identity.into(),
            guardrails: Guardrails::from_yaml(&file).expect("what the chart renders"),
            owner: Some(owner.expect("the Deployment")),
            agent_labels: Some("app.kubernetes.io/component=agent".into()),
            pace: Pace {
                numbers: Duration::from_millis(200),
                absence: Duration::from_millis(500),
                ..Pace::default()
            },
            lease: Duration::from_secs(3),
        };
        let (metrics, health) = (Metrics::new(), Health::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            let _ = stopped.await;
        };
        let running = agentsight_operator::run::run(client, config, metrics.clone(), health, stopped);
        Operator { stop, task: tokio::spawn(running), metrics }
    }
}

/// A running operator.
pub(crate) struct Operator {
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
    pub(crate) metrics: Metrics,
}

impl Operator {
    pub(crate) fn leads(&self) -> bool {
        self.metrics.text().expect("text").contains("agentsight_operator_leader 1\n")
    }

    /// Lets it end by itself.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.expect("no panic").expect("a good end");
    }

    /// As if its machine had lost power.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Waits for an object to become so.
#[track_caller]
pub(crate) fn until<K>(
    api: Api<K>,
    name: &str,
    what: &str,
    condition: impl Condition<K>,
) -> impl Future<Output = Option<K>>
where
    K: Clone + Debug + Send + DeserializeOwned + kube::Resource + 'static,
    K::DynamicType: Default,
{
    let (name, what) = (name.to_owned(), what.to_owned());
    async move {
        let waiting = await_condition(api.clone(), &name, condition);
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(object) => object.expect("a watch"),
            Err(_) => panic!("{name} does not become so: {what}; it is {:#?}", api.get_opt(&name).await),
        }
    }
}
