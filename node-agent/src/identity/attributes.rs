//! The resource of a container, by OpenTelemetry's rules for Kubernetes
//! (semantic-conventions, docs/non-normative/k8s-attributes.md).

use super::cgroup::Place;
use super::pods::{Pod, PodContainer};
use crate::resource::Resource;
use agentsight_genai::telemetry::{Attributes, Value};
use std::borrow::Cow;

/// What holds for the whole node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// UID of the namespace `kube-system`, by which OpenTelemetry tells clusters apart.
    pub cluster_uid: Option<String>,
    /// Let the well-known labels `app.kubernetes.io/…` name services.
    pub labels: bool,
}

/// The resource of a process in a container. `own`: what the process' environment says of itself
/// (OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME), `executable`: its program, for one that nothing else names.
///
/// A process and its pod's annotations may name the service, and add what they like; where it runs, the API server and
/// the kernel say: neither can pass for another pod.
pub fn resource(
    node: &Node,
    place: &Place,
    pod: Option<&Pod>,
    container: Option<&PodContainer>,
    own: &[(String, String)],
    executable: Option<&str>,
) -> Resource {
    let mut set = Setter(Vec::with_capacity(32));
    let image = container.map(|container| Image::of(&container.image, container.image_id.as_deref()));
    let annotated = || pod.into_iter().flat_map(|pod| &pod.attributes);
    let given = |key: &str| {
        let own = own.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        own.or_else(|| annotated().find(|(name, _)| *name == key).map(|(_, value)| value.clone()))
    };
    let label = |key: &str| pod.filter(|_| node.labels).and_then(|pod| pod.labels.get(key).cloned());

    let service = given("service.name")
        .or_else(|| label("app.kubernetes.io/instance"))
        .or_else(|| label("app.kubernetes.io/name"))
        .or_else(|| pod.map(|pod| workload(pod).to_owned()))
        .unwrap_or_else(|| format!("unknown_service:{}", executable.unwrap_or("unknown")));
    set.text("service.name", Some(service));
    set.text(
        "service.namespace",
        given("service.namespace").or_else(|| pod.map(|pod| pod.namespace.clone())),
    );
    let version = || label("app.kubernetes.io/version").or_else(|| image.as_ref()?.version());
    set.text("service.version", given("service.version").or_else(version));
    let instance = || Some(format!("{}.{}.{}", pod?.namespace, pod?.name, container?.name));
    set.text("service.instance.id", given("service.instance.id").or_else(instance));

    set.text("k8s.cluster.uid", node.cluster_uid.clone());
    set.text("k8s.node.name", Some(node.name.clone()).filter(|name| !name.is_empty()));
    if let Some(pod) = pod {
        set.text("k8s.namespace.name", Some(pod.namespace.clone()));
        set.text("k8s.pod.name", Some(pod.name.clone()));
        set.text("k8s.pod.uid", Some(pod.uid.clone()));
        set.text("k8s.pod.ip", pod.ip.clone());
        set.text("k8s.pod.start_time", pod.started.clone());
        let owners = &pod.owners;
        set.named("k8s.replicaset.name", "k8s.replicaset.uid", owners.replica_set.as_ref());
        set.text("k8s.deployment.name", owners.deployment.clone());
        set.named("k8s.statefulset.name", "k8s.statefulset.uid", owners.stateful_set.as_ref());
        set.named("k8s.daemonset.name", "k8s.daemonset.uid", owners.daemon_set.as_ref());
        set.named("k8s.job.name", "k8s.job.uid", owners.job.as_ref());
        set.text("k8s.cronjob.name", owners.cron_job.clone());
    } else {
        set.text("k8s.pod.uid", place.pod.as_ref().map(ToString::to_string));
    }
    set.text("container.id", Some(place.container.as_str().to_owned()));
    if let Some(container) = container {
        set.text("k8s.container.name", Some(container.name.clone()));
        set.0.push(("k8s.container.restart_count".into(), Value::Int(container.restarts.into())));
        set.text("container.runtime.name", container.runtime.clone());
    }
    if let Some(image) = image {
        set.text("container.image.name", Some(image.name).filter(|name| !name.is_empty()));
        set.texts("container.image.tags", image.tag);
        set.texts("container.image.repo_digests", image.repo_digest);
        set.text("container.image.id", image.id);
    }
    set.text("os.type", Some("linux".to_owned()));
    set.text("telemetry.distro.name", Some("agentsight".to_owned()));
    set.text("telemetry.distro.version", Some(env!("CARGO_PKG_VERSION").to_owned()));
    for (key, value) in own.iter().map(|(key, value)| (key, value)).chain(annotated()) {
        let ours = ["k8s.", "container.", "telemetry.distro.", "os."];
        if !ours.iter().any(|prefix| key.starts_with(prefix)) && !set.has(key) {
            set.0.push((Cow::Owned(key.clone()), Value::Str(value.clone().into())));
        }
    }
    Resource { attributes: set.0 }
}

/// The resource of a process that was gone before anything of it could be read.
pub fn nobody(node: &Node, own: &[(String, String)], executable: Option<&str>) -> Resource {
    let mut set = Setter(Vec::new());
    let given = own.iter().find(|(key, _)| key == "service.name").map(|(_, name)| name.clone());
    set.text(
        "service.name",
        given.or_else(|| Some(format!("unknown_service:{}", executable.unwrap_or("unknown")))),
    );
    set.text("k8s.cluster.uid", node.cluster_uid.clone());
    set.text("k8s.node.name", Some(node.name.clone()).filter(|name| !name.is_empty()));
    set.text("os.type", Some("linux".to_owned()));
    set.text("telemetry.distro.name", Some("agentsight".to_owned()));
    set.text("telemetry.distro.version", Some(env!("CARGO_PKG_VERSION").to_owned()));
    Resource { attributes: set.0 }
}

/// The name of what a pod belongs to, else its own.
fn workload(pod: &Pod) -> &str {
    let owners = &pod.owners;
    fn name(owner: &Option<(String, String)>) -> Option<&str> {
        owner.as_ref().map(|(name, _)| name.as_str())
    }
    [
        owners.deployment.as_deref(),
        name(&owners.replica_set),
        name(&owners.stateful_set),
        name(&owners.daemon_set),
        owners.cron_job.as_deref(),
        name(&owners.job),
    ]
    .into_iter()
    .flatten()
    .next()
    .unwrap_or(&pod.name)
}

struct Setter(Attributes);

impl Setter {
    fn text(&mut self, key: &'static str, value: Option<String>) {
        if let Some(value) = value {
            self.0.push((key.into(), Value::Str(value.into())));
        }
    }

    fn texts(&mut self, key: &'static str, value: Option<String>) {
        if let Some(value) = value {
            self.0.push((key.into(), Value::Strs(vec![value.into()])));
        }
    }

    fn named(&mut self, name: &'static str, uid: &'static str, owner: Option<&(String, String)>) {
        self.text(name, owner.map(|(name, _)| name.clone()));
        self.text(uid, owner.map(|(_, uid)| uid.clone()));
    }

    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(known, _)| known == key)
    }
}

/// An image as specification and status name it.
#[derive(PartialEq, Eq, Debug)]
struct Image {
    /// Without tag and digest.
    name: String,
    tag: Option<String>,
    /// `sha256:…`, as the specification or the runtime says.
    digest: Option<String>,
    /// `name@sha256:…`, as the runtime says.
    repo_digest: Option<String>,
    /// The runtime's own id, where it names no repository.
    id: Option<String>,
}

impl Image {
    fn of(reference: &str, image_id: Option<&str>) -> Image {
        let (reference, digest) = match reference.split_once('@') {
            Some((reference, digest)) => (reference, Some(digest.to_owned())),
            None => (reference, None),
        };
        // A colon before the last slash is a registry's port.
        let (name, tag) = match reference.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (reference, None),
        };
        // Docker puts `docker-pullable://` in front.
        let image_id = image_id.map(|id| id.rsplit_once("://").map_or(id, |(_, id)| id));
        let repo_digest = image_id.filter(|id| id.contains('@')).map(str::to_owned);
        Image {
            name: name.to_owned(),
            tag,
            digest: digest.or_else(|| Some(repo_digest.as_ref()?.split_once('@')?.1.to_owned())),
            id: image_id.filter(|id| !id.contains('@')).map(str::to_owned),
            repo_digest,
        }
    }

    /// `tag@digest`, or what there is of it.
    fn version(&self) -> Option<String> {
        match (&self.tag, &self.digest) {
            (Some(tag), Some(digest)) => Some(format!("{tag}@{digest}")),
            (tag, digest) => digest.clone().or_else(|| tag.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pods::tests::pod;
    use super::*;
    use serde_json::json;

    const ID: &str = "4f1c9e0b7a3d5826e1f04b9c8d7a6e5f3c2b1a0918273645f0e1d2c3b4a59687";
    const UID: &str = "3c9d0e5a-1b2f-4d6e-8a7b-90c1d2e3f405";
    const DIGEST: &str = "sha256:9b5c";

    fn place() -> Place {
        Place::of(&format!("/kubepods/pod{UID}/{ID}")).expect("a place")
    }

    fn web() -> Pod {
        pod(json!({
            "metadata": {
                "uid": UID, "namespace": "shop", "name": "web-7d4b9c-x2k", "creationTimestamp": "2026-11-25T01:00:00Z",
                "labels": {"pod-template-hash": "7d4b9c", "app.kubernetes.io/name": "front", "app.kubernetes.io/version": "9"},
                "annotations": {
                    "resource.opentelemetry.io/team": "a", "resource.opentelemetry.io/k8s.namespace.name": "forged",
                    "other": "x",
                },
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d4b9c", "uid": "r", "controller": true}],
            },
            "spec": {"nodeName": "node-1", "containers": [{"name": "agent", "image": "registry:5000/shop/web:1.2"}]},
            "status": {"podIP": "10.0.0.7", "startTime": "2026-11-25T01:00:01Z", "containerStatuses": [{
                "name": "agent", "containerID": format!("containerd://{ID}"), "image": "registry:5000/shop/web:1.2",
                "imageID": format!("registry:5000/shop/web@{DIGEST}"), "ready": true, "restartCount": 3,
            }]},
        }))
    }

    fn node() -> Node {
        Node { name: "node-1".into(), cluster_uid: Some("c".into()), labels: false }
    }

    fn told(resource: &Resource, key: &str) -> Option<String> {
        let found: Vec<_> = resource.attributes.iter().filter(|(name, _)| name == key).collect();
        assert!(found.len() < 2, "{key} stands twice");
        found.first().map(|(_, value)| match value {
            Value::Str(text) => text.to_string(),
            Value::Strs(texts) => texts.join(","),
            other => format!("{other:?}"),
        })
    }

    #[track_caller]
    fn holds(resource: &Resource, expected: &[(&str, &str)]) {
        for (key, value) in expected {
            assert_eq!(told(resource, key).as_deref(), Some(*value), "{key}");
        }
    }

    #[test]
    fn a_container_of_a_deployment_is_told_in_full() {
        let pod = web();
        let container = pod.container(&place().container, None);
        let resource = resource(&node(), &place(), Some(&pod), container, &[], Some("python3"));
        holds(
            &resource,
            &[
                ("service.name", "web"),
                ("service.namespace", "shop"),
                ("service.version", "1.2@sha256:9b5c"),
                ("service.instance.id", "shop.web-7d4b9c-x2k.agent"),
                ("k8s.cluster.uid", "c"),
                ("k8s.node.name", "node-1"),
                ("k8s.namespace.name", "shop"),
                ("k8s.pod.name", "web-7d4b9c-x2k"),
                ("k8s.pod.uid", UID),
                ("k8s.pod.ip", "10.0.0.7"),
                ("k8s.pod.start_time", "2026-11-25T01:00:01Z"),
                ("k8s.deployment.name", "web"),
                ("k8s.replicaset.name", "web-7d4b9c"),
                ("k8s.replicaset.uid", "r"),
                ("k8s.container.name", "agent"),
                ("k8s.container.restart_count", "Int(3)"),
                ("container.id", ID),
                ("container.image.name", "registry:5000/shop/web"),
                ("container.image.tags", "1.2"),
                ("container.image.repo_digests", "registry:5000/shop/web@sha256:9b5c"),
                ("container.runtime.name", "containerd"),
                ("team", "a"),
            ],
        );
        assert_eq!(told(&resource, "other"), None);
    }

    #[test]
    fn labels_name_the_service_only_where_that_is_wanted() {
        let pod = web();
        let container = pod.container(&place().container, None);
        let node = Node { labels: true, ..node() };
        let resource = resource(&node, &place(), Some(&pod), container, &[], None);
        holds(&resource, &[("service.name", "front"), ("service.version", "9")]);
    }

    #[test]
    fn a_process_names_itself_but_cannot_pass_for_another_pod() {
        let own = [
            ("service.name", "mine"),
            ("k8s.pod.name", "other"),
            ("container.id", "x"),
            ("deployment.environment.name", "test"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let pod = web();
        let resource = resource(&node(), &place(), Some(&pod), None, &own, None);
        holds(
            &resource,
            &[
                ("service.name", "mine"),
                ("k8s.pod.name", "web-7d4b9c-x2k"),
                ("container.id", ID),
                ("deployment.environment.name", "test"),
                ("k8s.namespace.name", "shop"),
            ],
        );
        assert_eq!(told(&resource, "service.instance.id"), None, "the container's name is part of it");
    }

    #[test]
    fn a_pod_that_nobody_knows_leaves_with_the_ids_of_its_cgroup() {
        let resource = resource(&node(), &place(), None, None, &[], Some("python3"));
        holds(
            &resource,
            &[("service.name", "unknown_service:python3"), ("k8s.pod.uid", UID), ("container.id", ID)],
        );
        assert_eq!(told(&resource, "k8s.pod.name"), None);
    }

    #[test]
    fn images_are_taken_apart() {
        let image = |reference, id| Image::of(reference, id);
        assert_eq!(image("localhost:5000/a/b", None).name, "localhost:5000/a/b");
        assert_eq!(image("localhost:5000/a/b", None).tag, None);
        let pinned = image("ghcr.io/a/b:2@sha256:77", Some("sha256:aa"));
        assert_eq!(
            (pinned.name.as_str(), pinned.tag.as_deref(), pinned.id.as_deref()),
            ("ghcr.io/a/b", Some("2"), Some("sha256:aa"))
        );
        assert_eq!(pinned.version().as_deref(), Some("2@sha256:77"));
        let docker = image("a", Some("docker-pullable://docker.io/library/a@sha256:1"));
        assert_eq!(docker.repo_digest.as_deref(), Some("docker.io/library/a@sha256:1"));
        assert_eq!(docker.version().as_deref(), Some("sha256:1"));
        assert_eq!(image("a:1", None).version().as_deref(), Some("1"));
    }
}
