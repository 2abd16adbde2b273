//! The pods of this node, as the API server tells of them, found by what the kernel shows of their containers.

use super::cgroup::{ContainerId, Place, PodUid};
use super::owner::Owners;
use k8s_openapi::api::core::v1 as core;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Pods that are gone and remembered: telemetry of their last moments may still come.
const GONE: usize = 1024;

/// What is known of one pod.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Pod {
    /// `metadata.uid`.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Attributes that its annotations `resource.opentelemetry.io/…` give.
    pub attributes: BTreeMap<String, String>,
    /// What it belongs to.
    pub owners: Owners,
    /// Its node.
    pub node: Option<String>,
    /// Its first address.
    pub ip: Option<String>,
    /// When the kubelet took it, RFC 3339.
    pub started: Option<String>,
    /// Containers of all kinds.
    pub containers: Vec<PodContainer>,
    /// The UIDs under which the kubelet keeps it: its own, or those that the annotations of static pods name.
    kubelet_uids: Vec<PodUid>,
}

/// One container of a pod.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PodContainer {
    /// Its name.
    pub name: String,
    /// As the specification names it.
    pub image: String,
    /// Its present id; nothing before its status tells.
    pub id: Option<ContainerId>,
    /// The runtime's name, such as `containerd`.
    pub runtime: Option<String>,
    /// The image that runs, by digest.
    pub image_id: Option<String>,
    /// How often it was started again.
    pub restarts: i32,
}

/// The attributes' prefix among annotations.
const ATTRIBUTE: &str = "resource.opentelemetry.io/";
/// Of a static pod: the UID by which the kubelet knows it.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Of a static pod's image in the API: the same.
const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

impl Pod {
    /// Takes from an object of the API what is needed; nothing where it has no UID.
    pub fn of(pod: &core::Pod) -> Option<Pod> {
        let metadata = &pod.metadata;
        let uid = metadata.uid.clone()?;
        let annotations = || metadata.annotations.iter().flatten();
        let hashes = annotations().filter(|(key, _)| *key == CONFIG_HASH || *key == CONFIG_MIRROR);
        let mut kubelet_uids: Vec<PodUid> = hashes.filter_map(|(_, hash)| PodUid::parse(hash)).collect();
        kubelet_uids.extend(PodUid::parse(&uid));
        kubelet_uids.dedup();
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let mut containers: Vec<PodContainer> = Vec::new();
        let mut add = |name: &str, image: Option<&String>| {
            let image = image.cloned().unwrap_or_default();
            containers.push(PodContainer { name: name.to_owned(), image, ..PodContainer::default() });
        };
        if let Some(spec) = spec {
            for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                add(&container.name, container.image.as_ref());
            }
            for container in spec.ephemeral_containers.iter().flatten() {
                add(&container.name, container.image.as_ref());
            }
        }
        if let Some(status) = status {
            let statuses = [
                &status.container_statuses,
                &status.init_container_statuses,
                &status.ephemeral_container_statuses,
            ];
            for status in statuses.into_iter().flatten().flatten() {
                let Some(container) = containers.iter_mut().find(|known| known.name == status.name) else {
                    continue;
                };
                if let Some((id, runtime)) = status.container_id.as_deref().and_then(ContainerId::from_status)
                {
                    container.id = Some(id);
                    container.runtime = Some(runtime.to_owned());
                }
                container.image_id = Some(status.image_id.clone()).filter(|id| !id.is_empty());
                container.restarts = status.restart_count;
            }
        }
        Some(Pod {
            uid,
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            labels: metadata.labels.clone().unwrap_or_default(),
            attributes: annotations()
                .filter_map(|(key, value)| Some((key.strip_prefix(ATTRIBUTE)?.to_owned(), value.clone())))
                .collect(),
            owners: Owners::of(metadata),
            node: spec.and_then(|spec| spec.node_name.clone()),
            ip: status.and_then(|status| status.pod_ip.clone()).filter(|ip| !ip.is_empty()),
            started: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0.to_string()),
            containers,
            kubelet_uids,
        })
    }

    /// The container of this id, else the one of the name that its mounts tell.
    pub fn container(&self, id: &ContainerId, name: Option<&str>) -> Option<&PodContainer> {
        let by_id = self.containers.iter().find(|container| container.id.as_ref() == Some(id));
        let by_name = || self.containers.iter().find(|container| Some(container.name.as_str()) == name);
        by_id.or_else(by_name)
    }
}

/// A pod and one of its containers.
#[derive(Clone, Debug)]
pub struct Found {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The API server says that it is gone.
    pub gone: bool,
}

/// All pods of this node.
#[derive(Debug, Default)]
pub struct Pods {
    /// By `metadata.uid`.
    pods: HashMap<String, Arc<Pod>>,
    by_kubelet_uid: HashMap<PodUid, String>,
    by_container: HashMap<ContainerId, String>,
    gone: HashSet<String>,
    /// In the order in which they went.
    gone_order: VecDeque<String>,
}

impl Pods {
    /// Takes a pod as it is now. False where nothing of it that counts has changed.
    pub fn put(&mut self, pod: Pod) -> bool {
        self.gone.remove(&pod.uid);
        if self.pods.get(&pod.uid).is_some_and(|known| **known == pod) {
            return false;
        }
        for uid in &pod.kubelet_uids {
            self.by_kubelet_uid.insert(uid.clone(), pod.uid.clone());
        }
        // Ids of earlier runs of a container stay until the pod goes: their telemetry may be on its way.
        for id in pod.containers.iter().filter_map(|container| container.id.as_ref()) {
            self.by_container.insert(id.clone(), pod.uid.clone());
        }
        self.pods.insert(pod.uid.clone(), Arc::new(pod));
        true
    }

    /// The API server says that it is gone; it is remembered for a while.
    pub fn remove(&mut self, uid: &str) {
        if !self.pods.contains_key(uid) || !self.gone.insert(uid.to_owned()) {
            return;
        }
        self.gone_order.push_back(uid.to_owned());
        while self.gone_order.len() > GONE {
            let Some(oldest) = self.gone_order.pop_front() else { break };
            // It may have come back: a static pod's image, removed and made again.
            if self.gone.remove(&oldest) {
                self.pods.remove(&oldest);
                self.by_kubelet_uid.retain(|_, uid| *uid != oldest);
                self.by_container.retain(|_, uid| *uid != oldest);
            }
        }
    }

    /// Takes all pods that there are now: others are gone.
    pub fn replace(&mut self, pods: Vec<Pod>) {
        let present: HashSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
        let gone: Vec<String> =
            self.pods.keys().filter(|uid| !present.contains(uid.as_str())).cloned().collect();
        for uid in gone {
            self.remove(&uid);
        }
        for pod in pods {
            self.put(pod);
        }
    }

    /// The pod of a container: by the container's id, else by the pod's UID in the path.
    pub fn find(&self, place: &Place) -> Option<Found> {
        let by_path = || self.by_kubelet_uid.get(place.pod.as_ref()?);
        let uid = self.by_container.get(&place.container).or_else(by_path)?;
        let pod = self.pods.get(uid)?.clone();
        Some(Found { gone: self.gone.contains(uid), pod })
    }

    /// The pods that are not gone.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values().filter(|pod| !self.gone.contains(&pod.uid))
    }

    /// How many pods are known, gone ones included.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether no pod is known.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ID: &str = "4f1c9e0b7a3d5826e1f04b9c8d7a6e5f3c2b1a0918273645f0e1d2c3b4a59687";
    const UID: &str = "3c9d0e5a-1b2f-4d6e-8a7b-90c1d2e3f405";
    const HASH: &str = "5e0f1a2b3c4d5e6f708192a3b4c5d6e7";

    pub(crate) fn pod(object: Value) -> Pod {
        Pod::of(&serde_json::from_value(object).expect("a pod")).expect("with a UID")
    }

    fn place(pod: &str, id: &str) -> Place {
        Place::of(&format!("/kubepods/pod{pod}/{id}")).expect("a place")
    }

    fn named(uid: &str, name: &str, id: Option<&str>) -> Pod {
        let status = id.map(|id| json!([{"name": "app", "containerID": format!("cri-o://{id}"), "image": "i", "imageID": "", "ready": true, "restartCount": 2}]));
        pod(json!({
            "metadata": {"uid": uid, "namespace": "shop", "name": name},
            "spec": {"containers": [{"name": "app", "image": "i"}]},
            "status": {"containerStatuses": status},
        }))
    }

    #[test]
    fn a_pod_is_found_before_its_status_tells_of_its_container() {
        let mut pods = Pods::default();
        assert!(pods.put(named(UID, "web", None)));
        assert!(!pods.put(named(UID, "web", None)), "nothing has changed");
        let found = pods.find(&place(UID, ID)).expect("by its UID");
        assert_eq!(found.pod.container(&place(UID, ID).container, None), None);
        assert!(pods.put(named(UID, "web", Some(ID))));
        let alone = Place::of(&format!("/../cri-containerd-{ID}.scope")).expect("a place");
        let found = pods.find(&alone).expect("by the container's id");
        let container = found.pod.container(&alone.container, None).expect("by id");
        assert_eq!(
            (container.name.as_str(), container.restarts, container.runtime.as_deref()),
            ("app", 2, Some("cri-o"))
        );
    }

    #[test]
    fn init_sidecar_and_ephemeral_containers_are_containers_too() {
        let status = |name: &str, id: char| json!({"name": name, "containerID": format!("containerd://{}", id.to_string().repeat(64)), "image": "i", "imageID": "docker.io/i@sha256:1", "ready": true, "restartCount": 0});
        let pod = pod(json!({
            "metadata": {"uid": UID, "namespace": "shop", "name": "web"},
            "spec": {
                "containers": [{"name": "app"}],
                "initContainers": [{"name": "init"}, {"name": "sidecar", "restartPolicy": "Always"}],
                "ephemeralContainers": [{"name": "debugger"}],
            },
            "status": {
                "containerStatuses": [status("app", 'a')],
                "initContainerStatuses": [status("init", 'b'), status("sidecar", 'c')],
                "ephemeralContainerStatuses": [status("debugger", 'd')],
            },
        }));
        for (id, name) in [('a', "app"), ('b', "init"), ('c', "sidecar"), ('d', "debugger")] {
            let id = ContainerId::parse(&id.to_string().repeat(64)).expect("an id");
            assert_eq!(pod.container(&id, None).expect("known").name, name);
        }
    }

    #[test]
    fn a_static_pod_is_found_by_the_hash_of_its_manifest() {
        let mut pods = Pods::default();
        pods.put(pod(json!({
            "metadata": {"uid": UID, "namespace": "kube-system", "name": "etcd-node-1",
                "annotations": {"kubernetes.io/config.hash": HASH, "kubernetes.io/config.mirror": HASH}},
        })));
        assert_eq!(pods.find(&place(HASH, ID)).expect("by its hash").pod.name, "etcd-node-1");
    }

    #[test]
    fn a_name_that_is_used_again_is_another_pod() {
        const NEXT: &str = "aaaaaaaa-1b2f-4d6e-8a7b-90c1d2e3f405";
        let mut pods = Pods::default();
        pods.put(named(UID, "db-0", None));
        pods.remove(UID);
        pods.put(named(NEXT, "db-0", None));
        let (old, new) =
            (pods.find(&place(UID, ID)).expect("remembered"), pods.find(&place(NEXT, ID)).expect("known"));
        assert_eq!((old.pod.uid.as_str(), old.gone), (UID, true));
        assert_eq!((new.pod.uid.as_str(), new.gone), (NEXT, false));
        assert_eq!(pods.iter().count(), 1);
    }

    #[test]
    fn only_so_many_are_remembered_that_are_gone() {
        let mut pods = Pods::default();
        let uid = |n: usize| format!("{n:08x}-1b2f-4d6e-8a7b-90c1d2e3f405");
        for n in 0..GONE + 10 {
            pods.put(named(&uid(n), "job", Some(&format!("{n:064x}"))));
        }
        pods.replace(vec![named(&uid(GONE + 9), "job", None)]);
        assert_eq!(pods.len(), GONE + 1);
        assert_eq!(pods.by_kubelet_uid.len(), pods.len());
        assert_eq!(pods.by_container.len(), pods.len());
        assert_eq!(pods.iter().count(), 1);
    }
}
