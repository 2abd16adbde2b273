//! What the chart renders, and that an API server takes it.

use super::release::{NAMESPACE, Release, chart};
use agentsight_api::Exporters;
use agentsight_e2e::cluster_tools::{ClusterTools, Need};
use agentsight_e2e::process::run;
use agentsight_operator::guardrails::Guardrails;
use k8s_openapi::api::{
    admissionregistration, apps, coordination, core, networking, policy, rbac, scheduling,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::process::Command;

#[test]
fn what_it_renders_is_what_kubernetes_knows_from_1_29_on() {
    let Some(helm) = Helm::or_skip() else { return };
    for version in ["1.29.0", "1.30.0", "1.31.0", "1.33.0", "1.36.3"] {
        let objects = helm.template(&[
            "--kube-version",
            version,
            "--set=otlp.endpoint=http://c:4317",
            "--set=networkPolicy.enabled=true",
        ]);
        for object in &objects {
            knows_every_field(object);
        }
        let text = serde_json::to_string(&objects).expect("JSON");
        let minor: u32 = version.split('.').nth(1).and_then(|minor| minor.parse().ok()).expect("a version");
        assert_eq!(text.contains("ValidatingAdmissionPolicy"), minor >= 30, "{version}");
        assert_eq!(text.contains("recursiveReadOnly"), minor >= 31, "{version}");
    }
    let old = helm.command(&["template", "x", "CHART", "--kube-version", "1.28.0"]);
    assert!(!old.0 && old.1.contains("incompatible with Kubernetes"), "{}", old.1);
}

#[test]
fn the_files_that_it_renders_are_those_that_operator_and_agents_read() {
    let Some(helm) = Helm::or_skip() else { return };
    let values = r#"--set-json=exporters={"tempo":{"endpoint":"https://tempo:4317","namespaces":["shop"],
        "headers":[{"name":"authorization","prefix":"Basic ","valueFrom":{"secretKeyRef":{"name":"tempo","key":"basic"}}}],
        "tls":{"caSecret":{"name":"ca","key":"ca.crt"},"clientSecret":"tempo-client"}}}"#;
    let objects =
        helm.template(&[values, "--set=otlp.endpoint=http://c:4317", "--set=guardrails.limits.traces=7"]);
    let exporters = text(find(&objects, "ConfigMap", "agentsight-agent"), "exporters.yaml");
    let exporters = Exporters::from_yaml(&exporters).expect("what agents read").exporters;
    assert_eq!(exporters.keys().collect::<Vec<_>>(), ["default", "tempo"]);
    assert_eq!(exporters["tempo"].tls.ca_file.as_deref(), Some("/etc/agentsight/secrets/ca/ca.crt".as_ref()));
    let guardrails = text(find(&objects, "ConfigMap", "agentsight-operator"), "guardrails.yaml");
    let guardrails = Guardrails::from_yaml(&guardrails).expect("what the operator reads");
    assert_eq!(guardrails.exporters.len(), 2);
    assert_eq!((guardrails.limits.traces, guardrails.limits.max_content_bytes), (7, 8 << 20));

    // Each Secret that a file names is mounted where it says.
    let agent = &find(&objects, "DaemonSet", "agentsight-agent")["spec"]["template"]["spec"];
    let mounts: Vec<&str> = list(&agent["containers"][0]["volumeMounts"])
        .filter_map(|mount| mount["mountPath"].as_str())
        .collect();
    for secret in ["ca", "tempo", "tempo-client"] {
        assert!(mounts.contains(&format!("/etc/agentsight/secrets/{secret}").as_str()), "{mounts:?}");
    }
    let secrets: Vec<&str> =
        list(&agent["volumes"]).filter_map(|volume| volume["secret"]["secretName"].as_str()).collect();
    assert_eq!(secrets, ["ca", "tempo", "tempo-client"]);
}

#[test]
fn no_component_has_a_right_that_is_not_its_own() {
    let Some(helm) = Helm::or_skip() else { return };
    let objects = helm.template(&["--set=otlp.endpoint=http://c:4317"]);
    let roles = objects
        .iter()
        .filter(|object| ["Role", "ClusterRole"].contains(&object["kind"].as_str().unwrap_or_default()));
    for rule in roles.flat_map(|role| list(&role["rules"])) {
        let words = rule.to_string();
        assert!(!words.contains("\"*\"") && !words.contains("secrets"), "{rule}");
    }
    let operator = &find(&objects, "Deployment", "agentsight-operator")["spec"]["template"]["spec"];
    let container = &operator["containers"][0]["securityContext"];
    assert_eq!(operator["securityContext"]["runAsNonRoot"], true);
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["capabilities"]["drop"][0], "ALL");
    let agent = &find(&objects, "DaemonSet", "agentsight-agent")["spec"]["template"]["spec"];
    assert!(agent["hostNetwork"].is_null() && agent["hostIPC"].is_null());
    let container = &agent["containers"][0];
    assert_eq!(container["securityContext"]["privileged"], false);
    assert_eq!(
        capabilities(container),
        ["BPF", "CHECKPOINT_RESTORE", "DAC_READ_SEARCH", "PERFMON", "SYS_ADMIN", "SYS_PTRACE"]
    );
    let writable: Vec<&str> = list(&container["volumeMounts"])
        .filter(|mount| mount["readOnly"] != true)
        .filter_map(|mount| mount["mountPath"].as_str())
        .collect();
    assert_eq!(writable, ["/var/lib/agentsight"]);
    let objects = helm.template(&["--set=otlp.endpoint=http://c:4317", "--set=agent.sysAdmin=false"]);
    let agent = &find(&objects, "DaemonSet", "agentsight-agent")["spec"]["template"]["spec"];
    assert!(!capabilities(&agent["containers"][0]).contains(&"SYS_ADMIN"));
}

#[test]
fn values_that_cannot_be_are_refused_with_the_reason() {
    let Some(helm) = Helm::or_skip() else { return };
    for (value, says) in [
        ("--set=otlp.endpont=x", "endpont"),
        ("--set=otlp.endpoint=collector:4317", "/otlp/endpoint"),
        ("--set-json=exporters={\"A_b\":{\"endpoint\":\"http://c\"}}", "A_b"),
        ("--set-json=otlp={\"endpoint\":\"http://c\",\"headers\":[{\"name\":\"a\"}]}", "/otlp/headers/0"),
        ("--set-json=guardrails.limits.maxContentBytes=1", "maxContentBytes"),
    ] {
        let (success, output) = helm.command(&["template", "x", "CHART", value]);
        assert!(!success && output.contains(says), "{value}: {output}");
    }
    let twice = [
        "template",
        "x",
        "CHART",
        "--set=otlp.endpoint=http://c",
        "--set=exporters.default.endpoint=http://d",
    ];
    let (success, output) = helm.command(&twice);
    assert!(!success && output.contains("leave one of them out"), "{output}");
    let (success, output) = helm.command(&["lint", "CHART", "--strict"]);
    assert!(success, "{output}");
}

#[test]
fn it_installs_upgrades_rolls_back_and_leaves_what_it_should() {
    let Some(release) = Release::or_skip(&["otlp={\"endpoint\":\"http://c:4317\"}"]) else { return };
    release.apply_namespace("shop");
    release.apply_trace("shop", "agents", &serde_json::json!({ "selector": {} }));
    let upgrade = [
        "upgrade",
        "agentsight",
        "CHART",
        "-n",
        NAMESPACE,
        "--reuse-values",
        "--set=operator.replicas=1",
        "--set=guardrails.content.namespaces={shop}",
    ];
    release.helm(&upgrade);
    let replicas = |release: &Release| {
        release.plane.kubectl(&[
            "get",
            "deployment",
            "agentsight-operator",
            "-n",
            NAMESPACE,
            "-o",
            "jsonpath={.spec.replicas}",
        ])
    };
    assert_eq!(replicas(&release), "1");
    release.helm(&["rollback", "agentsight", "1", "-n", NAMESPACE]);
    assert_eq!(replicas(&release), "2");
    the_operator_is_allowed_where_pods_are_restricted(&release);
    let notes = release.helm(&["get", "notes", "agentsight", "-n", NAMESPACE]);
    assert!(notes.contains("kubectl apply -n YOUR-NAMESPACE"), "{notes}");

    release.helm(&["uninstall", "agentsight", "-n", NAMESPACE]);
    let left = release.plane.kubectl(&[
        "get",
        "all,configmaps,clusterroles,validatingadmissionpolicies,priorityclasses",
        "-A",
        "-l",
        "app.kubernetes.io/instance=agentsight",
        "-o",
        "name",
    ]);
    assert_eq!(left, "");
    let kept = release.plane.kubectl(&["get", "agenttraces", "-A", "-o", "name"]);
    assert_eq!(kept.trim(), "agenttrace.agentsight.dev/agents");
    release.helm(&["install", "agentsight", "CHART", "-n", NAMESPACE, "--set=otlp.endpoint=http://c:4317"]);
}

fn the_operator_is_allowed_where_pods_are_restricted(release: &Release) {
    let enforce = ["pod-security.kubernetes.io/enforce=restricted", "--overwrite"];
    release.plane.kubectl(&[&["label", "namespace", NAMESPACE], &enforce[..]].concat());
    let pod_of = |workload: &str| {
        let template = ["get", workload, "-n", NAMESPACE, "-o", "jsonpath={.spec.template}"];
        let mut pod: Value = serde_json::from_str(&release.plane.kubectl(&template)).expect("JSON");
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"] = serde_json::json!({ "namespace": NAMESPACE, "name": workload.replace('/', "-") });
        // Nobody makes the default that it names, and this is not about it.
        pod["spec"]["priorityClassName"] = Value::Null;
        release.plane.apply(&pod.to_string())
    };
    let operator = pod_of("deployment/agentsight-operator");
    assert!(operator.status.success(), "{}", String::from_utf8_lossy(&operator.stderr));
    let agent = pod_of("daemonset/agentsight-agent");
    let refused = String::from_utf8_lossy(&agent.stderr);
    assert!(refused.contains("violates PodSecurity"), "{refused}");
    let made = "deployment-agentsight-operator";
    release.plane.kubectl(&["delete", "pod", made, "-n", NAMESPACE, "--force"]);
}

struct Helm(ClusterTools);

impl Helm {
    fn or_skip() -> Option<Self> {
        ClusterTools::or_skip(Need::ControlPlane).map(Self)
    }

    /// Whether it succeeded, and what it said. `CHART` stands for ours.
    fn command(&self, arguments: &[&str]) -> (bool, String) {
        let chart = chart();
        let arguments =
            arguments.iter().map(|argument| if *argument == "CHART" { &chart } else { *argument });
        // Without a cluster, and without the user's own settings.
        let mut command = Command::new(self.0.program("helm"));
        let output = run(command.args(arguments).env("KUBECONFIG", "/nonexistent"));
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn template(&self, values: &[&str]) -> Vec<Value> {
        let (success, output) =
            self.command(&[&["template", "agentsight", "CHART", "-n", NAMESPACE], values].concat());
        assert!(success, "{output}");
        let documents = serde_yaml::Deserializer::from_str(&output);
        let objects = documents.map(|document| serde::Deserialize::deserialize(document).expect("YAML"));
        objects.filter(|object: &Value| !object.is_null()).collect()
    }
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// What a container has been given, in alphabetical order.
fn capabilities(container: &Value) -> Vec<&str> {
    let mut added: Vec<&str> =
        list(&container["securityContext"]["capabilities"]["add"]).filter_map(Value::as_str).collect();
    added.sort_unstable();
    added
}

fn text(map: &Value, file: &str) -> String {
    map["data"][file].as_str().expect("a file").to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn knows_every_field(object: &Value) {
    match object["kind"].as_str().expect("a kind") {
        "ServiceAccount" => same::<core::v1::ServiceAccount>(object),
        "ConfigMap" => same::<core::v1::ConfigMap>(object),
        "Pod" => same::<core::v1::Pod>(object),
        "Deployment" => same::<apps::v1::Deployment>(object),
        "DaemonSet" => same::<apps::v1::DaemonSet>(object),
        "PodDisruptionBudget" => same::<policy::v1::PodDisruptionBudget>(object),
        "PriorityClass" => same::<scheduling::v1::PriorityClass>(object),
        "NetworkPolicy" => same::<networking::v1::NetworkPolicy>(object),
        "Lease" => same::<coordination::v1::Lease>(object),
        "ClusterRole" => same::<rbac::v1::ClusterRole>(object),
        "ClusterRoleBinding" => same::<rbac::v1::ClusterRoleBinding>(object),
        "Role" => same::<rbac::v1::Role>(object),
        "RoleBinding" => same::<rbac::v1::RoleBinding>(object),
        "ValidatingAdmissionPolicy" => same::<admissionregistration::v1::ValidatingAdmissionPolicy>(object),
        "ValidatingAdmissionPolicyBinding" => {
            same::<admissionregistration::v1::ValidatingAdmissionPolicyBinding>(object);
        }
        // The API server tests these better: what follows from api/ is applied in rules.rs.
        "CustomResourceDefinition" => {
            drop(serde_json::from_value::<CustomResourceDefinition>(object.clone()).expect("a definition"));
        }
        kind => panic!("is {kind} checked?"),
    }
}

/// A field that the type does not know would be lost on the way.
#[track_caller]
fn same<T: Serialize + DeserializeOwned>(object: &Value) {
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
    let again = serde_json::to_value(typed).expect("JSON");
    assert!(contains(&again, object), "{object:#}\nis not\n{again:#}");
}

/// Whether the whole has all fields of the part.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(key, part)| part.is_null() || whole.get(key).is_some_and(|whole| contains(whole, part))),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        _ => whole == part,
    }
}
