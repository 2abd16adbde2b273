//! The operator, with the rights that the chart gives it.

use super::release::{NAMESPACE, Release, until};
use agentsight_api::{
    ACCEPTED, ACTIVE, AgentTrace, AgentTraceGrant, AgentTraceNode, AgentTraceStatus, ClusterAgentTrace,
    ConditionStatus, EXPORTING, GrantScope,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::conditions::is_deleted;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use std::time::Duration;

const GUARDRAILS: &[&str] = &[
    "otlp={\"endpoint\":\"http://127.0.0.1:4317\"}",
    "exporters={\"bank\":{\"endpoint\":\"http://127.0.0.1:4318\",\"namespaces\":[\"bank\"]}}",
    "guardrails.content.namespaces=[\"open\"]",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_object_becomes_a_grant_and_a_refused_one_does_not() {
    let Some(release) = Release::or_skip(GUARDRAILS) else { return };
    let admin = release.administrator().await;
    release.apply_namespace("shop");
    release.apply_namespace("open");
    release.apply_trace("shop", "agents", &json!({ "selector": {} }));
    let traces: Api<AgentTrace> = Api::namespaced(admin.clone(), "shop");
    let grants: Api<AgentTraceGrant> = Api::namespaced(admin.clone(), NAMESPACE);
    let waiting = traces.get("agents").await.expect("the object").status.expect("a default");
    assert_eq!(waiting.conditions[0].reason, "Pending", "before an operator has seen it");

    let operator = release.operator("one").await;
    let trace =
        until(traces.clone(), "agents", "accepted", accepted(1, ConditionStatus::True, "Accepted")).await;
    let uid = trace.expect("the object").uid().expect("a UID");
    let grant =
        grants.get(&AgentTraceGrant::name_of(&uid)).await.expect("it was granted before it was accepted");
    assert_eq!(grant.spec.scope, GrantScope::namespace("shop"));
    assert_eq!((grant.spec.source.name.as_str(), grant.spec.source.generation), ("agents", 1));
    assert_eq!(grant.metadata.owner_references.expect("an owner")[0].kind, "Deployment");

    // A change is granted; what others do to a grant is undone.
    release.apply_trace("shop", "agents", &json!({ "selector": { "matchLabels": { "app": "a" } } }));
    until(traces.clone(), "agents", "accepted anew", accepted(2, ConditionStatus::True, "Accepted")).await;
    let name = AgentTraceGrant::name_of(&uid);
    let widen = json!({ "spec": { "scope": { "namespace": "kube-system" } } });
    grants.patch(&name, &PatchParams::default(), &Patch::Merge(widen)).await.expect("a change");
    let healed = |grant: Option<&AgentTraceGrant>| {
        grant.is_some_and(|grant| grant.spec.scope == GrantScope::namespace("shop"))
    };
    until(grants.clone(), &name, "as the source says", healed).await;
    let forged = json!({
        "apiVersion": "agentsight.dev/v1alpha1", "kind": "AgentTraceGrant", "metadata": { "name": "forged" },
        "spec": { "source": { "kind": "AgentTrace", "name": "x", "uid": "forged", "generation": 1 },
                  "scope": { "namespaceSelector": {} }, "selector": {} },
    });
    let forged: AgentTraceGrant = serde_json::from_value(forged).expect("a grant");
    let forged = grants.create(&Default::default(), &forged).await.expect("made by an administrator");
    until(grants.clone(), "forged", "gone", is_deleted(&forged.uid().expect("a UID"))).await;

    // What the guardrails refuse has no grant, and loses the one that it had.
    let content = json!({ "selector": {}, "capture": { "modelCalls": { "content": "Messages" } } });
    release.apply_trace("shop", "agents", &content);
    until(traces.clone(), "agents", "refused", accepted(3, ConditionStatus::False, "ContentNotAllowed"))
        .await;
    assert!(grants.get_opt(&name).await.expect("an answer").is_none(), "withdrawn before it is said");
    release.apply_trace("open", "agents", &content);
    let open: Api<AgentTrace> = Api::namespaced(admin.clone(), "open");
    until(open, "agents", "accepted", accepted(1, ConditionStatus::True, "Accepted")).await;
    release.apply_trace("shop", "others", &json!({ "selector": {}, "exporter": "bank" }));
    until(traces.clone(), "others", "refused", accepted(1, ConditionStatus::False, "ExporterNotAllowed"))
        .await;
    release.apply(&json!({
        "apiVersion": "agentsight.dev/v1alpha1", "kind": "ClusterAgentTrace", "metadata": { "name": "all" },
        "spec": { "namespaceSelector": {}, "selector": {} },
    }));
    let all: Api<ClusterAgentTrace> = Api::all(admin.clone());
    until(all, "all", "accepted", |object: Option<&ClusterAgentTrace>| {
        object.is_some_and(|object| says(object.status.as_ref(), ACCEPTED, ConditionStatus::True, "Accepted"))
    })
    .await;

    // A user is told, where users look.
    let events: Api<Event> = Api::namespaced(admin.clone(), "shop");
    let told = events.list(&ListParams::default()).await.expect("events");
    let told: Vec<_> = told.items.iter().filter_map(|event| event.reason.as_deref()).collect();
    assert!(told.contains(&"Accepted") && told.contains(&"ContentNotAllowed"), "{told:?}");

    // An object that is gone takes its grant along; one of the same name is another.
    release.apply_trace("shop", "agents", &json!({ "selector": {} }));
    until(traces.clone(), "agents", "accepted again", accepted(4, ConditionStatus::True, "Accepted")).await;
    let grant = grants.get(&name).await.expect("the grant");
    traces.delete("agents", &DeleteParams::default()).await.expect("deleted");
    until(grants.clone(), &name, "gone", is_deleted(&grant.uid().expect("a UID"))).await;
    release.apply_trace("shop", "agents", &json!({ "selector": {} }));
    let again = until(traces, "agents", "accepted", accepted(1, ConditionStatus::True, "Accepted")).await;
    assert_ne!(again.expect("the object").uid(), Some(uid));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nodes_report_is_folded_and_what_is_forged_has_no_effect() {
    let Some(release) = Release::or_skip(GUARDRAILS) else { return };
    let admin = release.administrator().await;
    release.apply_namespace("shop");
    release.apply_trace("shop", "agents", &json!({ "selector": {} }));
    let operator = release.operator("one").await;
    let traces: Api<AgentTrace> = Api::namespaced(admin.clone(), "shop");
    let trace =
        until(traces.clone(), "agents", "accepted", accepted(1, ConditionStatus::True, "Accepted")).await;
    let uid = trace.expect("the object").uid().expect("a UID");

    let first = agent(&release, &admin, "node-1").await;
    let second = agent(&release, &admin, "node-2").await;
    let report = |pods: i64, calls: i64| {
        json!([{ "uid": uid, "observedGeneration": 1, "matchedPods": pods, "tracedProcesses": pods, "calls": calls,
                 "dropped": [{ "cause": "ring_full", "count": 1 }] }])
    };
    first
        .report(&report(2, 10), &json!([{ "name": "default", "state": "Ready" }]))
        .await
        .expect("its own node");
    second
        .report(
            &report(1, 5),
            &json!([{ "name": "default", "state": "Failing", "error": "connection refused" }]),
        )
        .await
        .expect("its own node");
    let folded = until(traces.clone(), "agents", "folded", |object: Option<&AgentTrace>| {
        object.and_then(|object| object.status.as_ref()).is_some_and(|status| {
            (status.pods, status.traced, status.calls, status.dropped, status.nodes.total) == (3, 3, 15, 2, 2)
                && says(Some(status), ACTIVE, ConditionStatus::True, "Tracing")
                && says(Some(status), EXPORTING, ConditionStatus::False, "ExporterUnreachable")
        })
    })
    .await;
    let exporting = folded.and_then(|object| object.status).expect("a status").conditions.into_iter();
    let exporting =
        exporting.filter(|condition| condition.type_ == EXPORTING).map(|condition| condition.message);
    assert!(exporting.collect::<String>().contains("node-2: connection refused"));
    let columns = release.plane.kubectl(&["get", "agenttraces", "-n", "shop"]);
    let columns: Vec<Vec<&str>> = columns.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(columns[0], ["NAME", "ACCEPTED", "ACTIVE", "PODS", "TRACED", "CALLS", "DROPPED", "AGE"]);
    assert_eq!(columns[1][..7], ["agents", "True", "True", "3", "3", "15", "2"]);

    // What `helm test` asks is answered with what the operator may read.
    let verify = || async {
        let operator = release.service_account(NAMESPACE, "agentsight-operator", &[]).await;
        let labels = "app.kubernetes.io/component=agent";
        agentsight_operator::verify::wait(&operator, NAMESPACE, labels, Duration::ZERO).await
    };
    let silent = verify().await.expect_err("they do not say so").to_string();
    assert_eq!(silent, "the agent of node node-1 does not say yet whether it can trace");
    first.says_ready("True", "Tracing", "").await;
    second.says_ready("False", "NoBtf", "the kernel has no BTF").await;
    let blind = verify().await.expect_err("one cannot").to_string();
    assert_eq!(blind, "node node-2 cannot trace: NoBtf: the kernel has no BTF");
    second.says_ready("True", "Tracing", "").await;
    let findings = verify().await.expect("all is well");
    assert_eq!(findings.len(), 3, "{findings:?}");
    assert_eq!(findings[0], "the API is served, and one leads");

    // An agent speaks for its own node only, and may not grant.
    let lie = first.report_of("node-2", &report(9, 9)).await.expect_err("another's node").to_string();
    assert!(lie.contains("an agent reports of its own node only: this token belongs to node-1"), "{lie}");
    let unbound = release.service_account(NAMESPACE, "agentsight-agent", &[]).await;
    let unbound = Agent { client: unbound, node: "node-1".into() };
    let lie = unbound.report(&report(9, 9), &json!([])).await.expect_err("no node").to_string();
    assert!(lie.contains("belongs to no node"), "{lie}");
    let grants: Api<AgentTraceGrant> = Api::namespaced(first.client.clone(), NAMESPACE);
    assert!(
        grants
            .delete("any", &DeleteParams::default())
            .await
            .is_err_and(|error| error.to_string().contains("forbidden"))
    );
    assert!(grants.list(&ListParams::default()).await.is_ok(), "what it obeys it may read");

    // A tenant with every right on AgentTraces and their status gains nothing by writing a status.
    release.apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "namespace": "shop", "name": "tenant" },
        "rules": [{ "apiGroups": ["agentsight.dev"], "resources": ["agenttraces", "agenttraces/status"], "verbs": ["*"] }],
    }));
    release.apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "namespace": "shop", "name": "tenant" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant" },
        "subjects": [{ "kind": "ServiceAccount", "name": "tenant", "namespace": "shop" }],
    }));
    release.apply(&json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": "shop", "name": "tenant" } }));
    let tenant = release.service_account("shop", "tenant", &[]).await;
    let theirs: Api<AgentTrace> = Api::namespaced(tenant.clone(), "shop");
    let content = json!({ "spec": { "capture": { "modelCalls": { "content": "Messages" } } } });
    theirs.patch("agents", &PatchParams::default(), &Patch::Merge(content)).await.expect("it may ask");
    let lie = json!({ "status": { "observedGeneration": 99, "pods": 77, "conditions": [
        { "type": "Accepted", "status": "True", "observedGeneration": 99, "reason": "Accepted", "message": "by me", "lastTransitionTime": "2026-01-01T00:00:00Z" },
        { "type": "Tenant", "status": "True", "reason": "Mine", "message": "my own", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
    theirs.patch_status("agents", &PatchParams::default(), &Patch::Merge(lie)).await.expect("it may lie");
    until(traces.clone(), "agents", "refused whatever is said", |object: Option<&AgentTrace>| {
        object.and_then(|object| object.status.as_ref()).is_some_and(|status| {
            status.pods == 0 && says(Some(status), ACCEPTED, ConditionStatus::False, "ContentNotAllowed")
        })
    })
    .await;
    let all: Api<AgentTraceGrant> = Api::namespaced(admin.clone(), NAMESPACE);
    assert!(all.list(&ListParams::default()).await.expect("grants").items.is_empty());
    let forbidden = |error: kube::Error| error.to_string().contains("forbidden");
    let their_grants: Api<AgentTraceGrant> = Api::namespaced(tenant.clone(), NAMESPACE);
    assert!(their_grants.list(&ListParams::default()).await.is_err_and(forbidden));
    let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(tenant, NAMESPACE);
    assert!(secrets.list(&ListParams::default()).await.is_err_and(forbidden));

    // What was reported of a node goes with the node.
    let reports: Api<AgentTraceNode> = Api::namespaced(admin.clone(), NAMESPACE);
    let gone = reports.get("node-2").await.expect("its report").uid().expect("a UID");
    Api::<Node>::all(admin.clone()).delete("node-2", &DeleteParams::default()).await.expect("deleted");
    until(reports.clone(), "node-2", "gone", is_deleted(&gone)).await;
    assert!(reports.get_opt("node-1").await.expect("an answer").is_some());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_one_leads_and_the_other_takes_over() {
    let Some(release) = Release::or_skip(GUARDRAILS) else { return };
    let admin = release.administrator().await;
    release.apply_namespace("shop");
    let traces: Api<AgentTrace> = Api::namespaced(admin, "shop");
    let one = release.operator("one").await;
    release.apply_trace("shop", "a", &json!({ "selector": {} }));
    until(traces.clone(), "a", "accepted", accepted(1, ConditionStatus::True, "Accepted")).await;
    let two = release.operator("two").await;
    release.apply_trace("shop", "b", &json!({ "selector": {} }));
    until(traces.clone(), "b", "accepted", accepted(1, ConditionStatus::True, "Accepted")).await;
    assert!(one.leads() && !two.leads());

    // Both live through an API server that is away for a while.
    tokio::task::block_in_place(|| {
        release.plane.stop_api_server();
        release.plane.start_api_server();
    });
    release.apply_trace("shop", "after", &json!({ "selector": {} }));
    let after = accepted(1, ConditionStatus::True, "Accepted");
    until(traces.clone(), "after", "accepted after an outage", after).await;

    one.stop().await;
    release.apply_trace("shop", "c", &json!({ "selector": {} }));
    until(traces.clone(), "c", "accepted by the next", accepted(1, ConditionStatus::True, "Accepted")).await;
    assert!(two.leads());

    let three = release.operator("three").await;
    two.kill().await;
    release.apply_trace("shop", "d", &json!({ "selector": {} }));
    until(traces, "d", "accepted after a crash", accepted(1, ConditionStatus::True, "Accepted")).await;
    assert!(three.leads());
    three.stop().await;
}

fn says(status: Option<&AgentTraceStatus>, type_: &str, is: ConditionStatus, reason: &str) -> bool {
    let mut conditions = status.into_iter().flat_map(|status| &status.conditions);
    conditions
        .any(|condition| condition.type_ == type_ && condition.status == is && condition.reason == reason)
}

fn accepted(
    generation: i64,
    is: ConditionStatus,
    reason: &'static str,
) -> impl Fn(Option<&AgentTrace>) -> bool {
    move |object| {
        let status = object.and_then(|object| object.status.as_ref());
        status.is_some_and(|status| status.observed_generation == Some(generation))
            && says(status, ACCEPTED, is, reason)
    }
}

/// An agent's rights on one node.
struct Agent {
    client: Client,
    node: String,
}

/// Makes a node, a ready pod of the agent there, and a token of that pod.
async fn agent(release: &Release, admin: &Client, node: &str) -> Agent {
    release.apply(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } }));
    let pod = format!("agent-{node}");
    release.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": NAMESPACE, "name": pod, "labels": { "app.kubernetes.io/component": "agent" } },
        "spec": { "nodeName": node, "serviceAccountName": "agentsight-agent", "containers": [{ "name": "agent", "image": "none" }] },
    }));
    let pods: Api<Pod> = Api::namespaced(admin.clone(), NAMESPACE);
    let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    let made = pods.patch_status(&pod, &PatchParams::default(), &Patch::Merge(ready)).await.expect("a pod");
    let uid = made.uid().expect("a UID");
    let bound = [
        "--bound-object-kind=Pod",
        &format!("--bound-object-name={pod}"),
        &format!("--bound-object-uid={uid}"),
    ];
    Agent { client: release.service_account(NAMESPACE, "agentsight-agent", &bound).await, node: node.into() }
}

impl Agent {
    async fn report(&self, grants: &Value, exporters: &Value) -> kube::Result<()> {
        self.write(&self.node, &json!({ "grants": grants, "exporters": exporters })).await
    }

    async fn says_ready(&self, status: &str, reason: &str, message: &str) {
        let ready = json!({ "type": "Ready", "status": status, "reason": reason, "message": message,
                            "lastTransitionTime": "2026-01-01T00:00:00Z" });
        self.write(&self.node, &json!({ "conditions": [ready] })).await.expect("its own node");
    }

    async fn report_of(&self, node: &str, grants: &Value) -> kube::Result<()> {
        self.write(node, &json!({ "grants": grants })).await
    }

    /// As agents do: server-side apply of the object, then of its status.
    async fn write(&self, node: &str, status: &Value) -> kube::Result<()> {
        let reports: Api<AgentTraceNode> = Api::namespaced(self.client.clone(), NAMESPACE);
        let apply = PatchParams::apply("agentsight-agent").force();
        let object = |part: &str, value: &Value| json!({ "apiVersion": "agentsight.dev/v1alpha1", "kind": "AgentTraceNode", "metadata": { "name": node }, part: value });
        reports.patch(node, &apply, &Patch::Apply(object("spec", &json!({ "nodeName": node })))).await?;
        reports.patch_status(node, &apply, &Patch::Apply(object("status", status))).await?;
        Ok(())
    }
}
