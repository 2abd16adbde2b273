//! What a process' own mounts say: the pod's UID and the container's name, before the API server knows the container.
//!
//! A kubelet mounts a file of its own over `/dev/termination-log` in each container; the file's path on the host is
//! `…/pods/<uid>/containers/<name>/<hash>`.

use super::cgroup::PodUid;

/// The container's name by the mounts of one of its processes (`/proc/PID/mountinfo`). `pod`: the pod that its cgroup
/// names; a process with privileges could show mounts of another.
pub fn container_name(mountinfo: &str, pod: &PodUid) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        // 36 35 98:0 /root /mount/point options…   (proc_pid_mountinfo(5))
        let root = line.split(' ').nth(3)?;
        let (_, below) = root.rsplit_once("/pods/")?;
        let mut parts = below.split('/');
        let uid = PodUid::parse(parts.next()?)?;
        let (folder, name, file) = (parts.next()?, parts.next()?, parts.next()?);
        let is_name = !name.is_empty()
            && name.len() <= 63
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        (uid == *pod && folder == "containers" && is_name && !file.is_empty() && parts.next().is_none())
            .then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "3c9d0e5a-1b2f-4d6e-8a7b-90c1d2e3f405";

    fn name(root: &str) -> Option<String> {
        let mounts = format!(
            "1340 1291 0:69 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b\n\
             1351 1340 254:0 /var/lib/kubelet/pods/{UID}/etc-hosts /etc/hosts rw - ext4 /dev/vda rw\n\
             1352 1341 254:0 {root} /dev/termination-log rw,relatime - ext4 /dev/vda rw\n"
        );
        container_name(&mounts, &PodUid::parse(UID).expect("a UID"))
    }

    #[test]
    fn the_name_stands_behind_the_termination_log() {
        assert_eq!(
            name(&format!("/var/lib/kubelet/pods/{UID}/containers/agent/0c3f5a1b")).as_deref(),
            Some("agent")
        );
        let own_file_system = format!("/pods/{UID}/containers/init-db/0c3f5a1b");
        assert_eq!(name(&own_file_system).as_deref(), Some("init-db"));
    }

    #[test]
    fn other_mounts_and_other_pods_say_nothing() {
        for root in [
            "/".to_owned(),
            format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~secret/token"),
            format!("/var/lib/kubelet/pods/{UID}/containers/agent"),
            format!("/var/lib/kubelet/pods/{UID}/containers/Agent_1/0c3f5a1b"),
            format!("/var/lib/kubelet/pods/{UID}/containers/agent/0c3f5a1b/more"),
            "/var/lib/kubelet/pods/00000000-1b2f-4d6e-8a7b-90c1d2e3f405/containers/agent/0c3f5a1b".to_owned(),
        ] {
            assert_eq!(name(&root), None, "{root}");
        }
        assert_eq!(container_name("", &PodUid::parse(UID).expect("a UID")), None);
    }
}
