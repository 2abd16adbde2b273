//! What the path of a cgroup says: the pod by its UID, the container by its id.
//!
//! Runtimes and drivers put different names around the two; where the tree begins depends on who looks (a private
//! cgroup namespace shows `/../../pod…`). So neither prefixes nor depths are looked at: a pod is a component that ends
//! with `pod` and a UID, a container is 64 hexadecimal digits at a component's end.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The UID that a kubelet knows a pod by: `metadata.uid`, or 32 digits for a static pod.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PodUid(String);

impl PodUid {
    /// Reads a UID as paths have it: with dashes, with underscores in their place, or 32 digits alone.
    pub fn parse(text: &str) -> Option<PodUid> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let valid = match text.len() {
            32 => text.bytes().all(is_digit),
            36 => text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-' || byte == b'_',
                _ => is_digit(byte),
            }),
            _ => false,
        };
        valid.then(|| PodUid(text.replace('_', "-")))
    }

    /// As the API has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A container's id: 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ContainerId(String);

impl ContainerId {
    /// Exactly 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<ContainerId> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 64 && text.bytes().all(is_digit)).then(|| ContainerId(text.to_owned()))
    }

    /// As the API has it in `containerStatuses`: `containerd://…`. Gives the runtime's name, too.
    pub fn from_status(text: &str) -> Option<(ContainerId, &str)> {
        let (runtime, id) = text.split_once("://")?;
        Some((ContainerId::parse(id)?, runtime))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A kubelet's classes of pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Qos {
    /// Requests equal limits.
    Guaranteed,
    /// Some requests.
    Burstable,
    /// None.
    BestEffort,
}

/// What a path says. `path` may name any cgroup: of a container, or nested in one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The pod.
    pub pod: Option<PodUid>,
    /// The container: the outermost one in the pod, or of the path where there is no pod in it.
    pub container: ContainerId,
    /// The pod's class, where the path names it.
    pub qos: Option<Qos>,
    /// The cgroup is the container's own, not one nested in it.
    pub is_root: bool,
}

impl Place {
    /// Reads the path of a cgroup; nothing where it is not in a container.
    pub fn of(path: &str) -> Option<Place> {
        let mut pod = None;
        let mut container: Option<(usize, ContainerId)> = None;
        let mut last = 0;
        for (depth, component) in path.split('/').enumerate().filter(|(_, part)| !part.is_empty()) {
            last = depth;
            // `…-pod<uid>.slice:cri-containerd:<id>`: drivers of kubelet and runtime that do not match.
            for part in component.split(':') {
                if pod.is_none()
                    && let Some(uid) = pod_uid(part)
                {
                    pod = Some((part.to_owned(), uid));
                    // What was before is the machine that the node runs in (kind, k3d).
                    container = None;
                } else if container.is_none() && is_monitor(part) {
                    return None;
                } else if (container.is_none() || pod.is_none())
                    && let Some(id) = container_id(part)
                {
                    container = Some((depth, id));
                }
            }
        }
        let (depth, container) = container?;
        let qos = pod.as_ref().and_then(|(name, _)| qos(path, name));
        Some(Place { pod: pod.map(|(_, uid)| uid), container, qos, is_root: depth == last })
    }

    /// The same from a process' `/proc/PID/cgroup`: all its hierarchies say the same of containers.
    pub fn of_process(cgroup: &str) -> Option<Place> {
        cgroup.lines().filter_map(|line| Place::of(line.splitn(3, ':').nth(2)?)).max_by_key(|place| {
            // A hierarchy that the runtime does not use has the process at its root, or in another container's.
            place.pod.is_some()
        })
    }
}

/// `pod<uid>`, `kubepods-burstable-pod<uid>.slice`.
fn pod_uid(part: &str) -> Option<PodUid> {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let at = name.rfind("pod")?;
    if at > 0 && !name[..at].ends_with('-') {
        return None;
    }
    PodUid::parse(&name[at + 3..])
}

/// `<id>`, `cri-containerd-<id>.scope`, `libpod-<id>`, `crio-<id>.scope`.
fn container_id(part: &str) -> Option<ContainerId> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let id = name.rsplit('-').next()?;
    ContainerId::parse(id)
}

/// conmon watches a container from a cgroup of its own, which has the container's id: `crio-conmon-<id>.scope`.
fn is_monitor(part: &str) -> bool {
    part.starts_with("crio-conmon-") || part.starts_with("libpod-conmon-")
}

fn qos(path: &str, pod: &str) -> Option<Qos> {
    let before = &path[..path.find(pod)? + pod.len()];
    if before.contains("besteffort") {
        Some(Qos::BestEffort)
    } else if before.contains("burstable") {
        Some(Qos::Burstable)
    } else {
        before.contains("kubepods").then_some(Qos::Guaranteed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "4f1c9e0b7a3d5826e1f04b9c8d7a6e5f3c2b1a0918273645f0e1d2c3b4a59687";
    const OTHER: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const UID: &str = "3c9d0e5a-1b2f-4d6e-8a7b-90c1d2e3f405";
    const UNDER: &str = "3c9d0e5a_1b2f_4d6e_8a7b_90c1d2e3f405";
    const STATIC: &str = "5e0f1a2b3c4d5e6f708192a3b4c5d6e7";

    /// `{id}`, `{other}`, `{uid}`, `{under}` and `{static}` stand for the constants above.
    fn path(pattern: &str) -> String {
        [("{id}", ID), ("{other}", OTHER), ("{uid}", UID), ("{under}", UNDER), ("{static}", STATIC)]
            .iter()
            .fold(pattern.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    #[test]
    fn every_runtime_and_driver_is_read() {
        use Qos::{BestEffort, Burstable, Guaranteed};
        let cases: &[(&str, &str, &str, Option<Qos>, bool)] = &[
            (
                "containerd, systemd",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{id}.scope",
                UID,
                Some(Burstable),
                true,
            ),
            (
                "containerd, systemd, besteffort",
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice/cri-containerd-{id}.scope",
                UID,
                Some(BestEffort),
                true,
            ),
            (
                "containerd, systemd, guaranteed",
                "/kubepods.slice/kubepods-pod{under}.slice/cri-containerd-{id}.scope",
                UID,
                Some(Guaranteed),
                true,
            ),
            ("containerd, cgroupfs", "/kubepods/besteffort/pod{uid}/{id}", UID, Some(BestEffort), true),
            ("containerd, cgroupfs, guaranteed", "/kubepods/pod{uid}/{id}", UID, Some(Guaranteed), true),
            ("containerd, own root", "/kubelet/kubepods/burstable/pod{uid}/{id}", UID, Some(Burstable), true),
            (
                "drivers that do not match",
                "/system.slice/containerd.service/kubepods-burstable-pod{under}.slice:cri-containerd:{id}",
                UID,
                Some(Burstable),
                true,
            ),
            (
                "drivers that do not match, guaranteed",
                "/system.slice/containerd.service/kubepods-pod{under}.slice:cri-containerd:{id}",
                UID,
                Some(Guaranteed),
                true,
            ),
            (
                "CRI-O, systemd",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/crio-{id}.scope",
                UID,
                Some(Burstable),
                true,
            ),
            (
                "CRI-O, crun's child",
                "/kubepods.slice/kubepods-pod{under}.slice/crio-{id}.scope/container",
                UID,
                Some(Guaranteed),
                false,
            ),
            ("CRI-O, cgroupfs", "/kubepods/besteffort/pod{uid}/crio-{id}", UID, Some(BestEffort), true),
            (
                "cri-dockerd, systemd",
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice/docker-{id}.scope",
                UID,
                Some(BestEffort),
                true,
            ),
            ("cri-dockerd, cgroupfs", "/kubepods/burstable/pod{uid}/{id}", UID, Some(Burstable), true),
            (
                "kind",
                "/docker/{other}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{under}.slice/cri-containerd-{id}.scope",
                UID,
                Some(BestEffort),
                true,
            ),
            (
                "kind on systemd",
                "/system.slice/docker-{other}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{under}.slice/cri-containerd-{id}.scope",
                UID,
                Some(Guaranteed),
                true,
            ),
            (
                "k3d",
                "/system.slice/docker-{other}.scope/kubepods/burstable/pod{uid}/{id}",
                UID,
                Some(Burstable),
                true,
            ),
            (
                "k3s, systemd",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{id}.scope",
                UID,
                Some(Burstable),
                true,
            ),
            (
                "static pod, systemd",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{static}.slice/cri-containerd-{id}.scope",
                STATIC,
                Some(Burstable),
                true,
            ),
            ("static pod, cgroupfs", "/kubepods/burstable/pod{static}/{id}", STATIC, Some(Burstable), true),
            ("private namespace", "/../../pod{uid}/{id}", UID, None, true),
            (
                "private namespace, systemd",
                "/../../kubepods-burstable-pod{under}.slice/cri-containerd-{id}.scope",
                UID,
                Some(Burstable),
                true,
            ),
            (
                "nested by systemd",
                "/kubepods/burstable/pod{uid}/{id}/init.scope",
                UID,
                Some(Burstable),
                false,
            ),
            (
                "docker in a pod",
                "/kubepods/burstable/pod{uid}/{id}/docker/{other}",
                UID,
                Some(Burstable),
                false,
            ),
            (
                "kubelet in a pod",
                "/kubepods/pod{uid}/{id}/kubepods/burstable/pod{static}/{other}",
                UID,
                Some(Guaranteed),
                false,
            ),
        ];
        for (name, pattern, pod, qos, is_root) in cases {
            let place = Place::of(&path(pattern)).unwrap_or_else(|| panic!("{name}: nothing"));
            let found =
                (place.pod.as_ref().map(PodUid::as_str), place.container.as_str(), place.qos, place.is_root);
            assert_eq!(found, (Some(*pod), ID, *qos, *is_root), "{name}");
        }
    }

    #[test]
    fn a_container_without_a_pod_is_known_by_its_id() {
        for pattern in [
            "/docker/{id}",
            "/system.slice/docker-{id}.scope",
            "/system.slice/containerd.service/{id}",
            "/machine.slice/libpod-{id}.scope",
            "/machine.slice/libpod-{id}.scope/container",
            "/libpod_parent/libpod-{id}",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope/container",
            "/machine.slice/machine-libpod_pod_{other}.slice/libpod-{id}.scope",
            "/../cri-containerd-{id}.scope",
        ] {
            let place = Place::of(&path(pattern)).unwrap_or_else(|| panic!("{pattern}: nothing"));
            assert_eq!((place.pod, place.container.as_str()), (None, ID), "{pattern}");
        }
    }

    #[test]
    fn what_is_no_container_is_not_taken_for_one() {
        for pattern in [
            "",
            "/",
            "/../..",
            "/init.scope",
            "/user.slice/user-1000.slice/session-3.scope",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-{uid}.scope",
            "/system.slice/ssh.service",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice",
            "/kubepods/besteffort/pod{uid}",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/crio-conmon-{id}.scope",
            "/machine.slice/libpod-conmon-{id}.scope",
            "/kubepods/pod{uid}/{id}0",
            "/kubepods/pod{uid}/0{id}",
            "/machine.slice/machine-libpod_pod_{id}.slice",
        ] {
            assert_eq!(Place::of(&path(pattern)), None, "{pattern}");
        }
        assert_eq!(Place::of(&format!("/kubepods/pod{UID}/{}", ID.to_uppercase())), None);
        let place = Place::of(&path("/tripod{uid}/{id}")).expect("a container");
        assert_eq!(place.pod, None, "a word that ends with pod");
    }

    #[test]
    fn all_hierarchies_of_a_process_are_looked_at() {
        let v1 =
            path("9:name=systemd:/\n4:memory:/kubepods/pod{uid}/{id}\n2:cpuacct:/docker/{other}\n0::/\n");
        let place = Place::of_process(&v1).expect("a place");
        assert_eq!((place.pod.as_ref().map(PodUid::as_str), place.container.as_str()), (Some(UID), ID));
        let v2 = path("0::/kubepods.slice/kubepods-pod{under}.slice/cri-containerd-{id}.scope\n");
        assert_eq!(Place::of_process(&v2).expect("a place").container.as_str(), ID);
        let colon =
            path("0::/system.slice/containerd.service/kubepods-pod{under}.slice:cri-containerd:{id}\n");
        assert_eq!(Place::of_process(&colon).expect("a place").container.as_str(), ID);
        assert_eq!(Place::of_process("0::/\n"), None);
        assert_eq!(Place::of_process("nonsense"), None);
    }

    #[test]
    fn ids_of_the_api_are_read_with_their_runtime() {
        let text = format!("containerd://{ID}");
        let (id, runtime) = ContainerId::from_status(&text).expect("an id");
        assert_eq!((id.as_str(), runtime), (ID, "containerd"));
        assert_eq!(ContainerId::from_status(""), None);
        assert_eq!(ContainerId::from_status(ID), None);
    }

    proptest! {
        #[test]
        fn no_path_breaks_it(path in ".{0,300}") {
            let _ = Place::of(&path);
            let _ = Place::of_process(&path);
        }

        #[test]
        fn a_nested_path_stays_in_its_container(nested in prop::collection::vec("[a-z0-9.:-]{1,20}", 0..4)) {
            let mut path = path("/kubepods/burstable/pod{uid}/{id}");
            for part in &nested {
                path = format!("{path}/{part}");
            }
            let place = Place::of(&path).expect("a place");
            prop_assert_eq!(place.container.as_str(), ID);
            prop_assert_eq!(place.is_root, nested.is_empty());
        }
    }
}
