//! Answers the pipeline's questions: what holds for a process of a container, and who it is.

use super::Shared;
use crate::capture::events::ProcessId;
use crate::export::config;
use crate::identity::attributes::{self, Node};
use crate::identity::{Place, mounts};
use crate::policy::{Policy, Subjects};
use crate::process::read;
use crate::resource::Resource;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Processes of this node's containers.
pub(super) struct Containers {
    shared: Arc<Shared>,
    version: Arc<AtomicU64>,
}

/// What is read of a process while it lives.
pub(super) struct Facts {
    cgroup: Option<u64>,
    place: Option<Place>,
    /// What its environment says of itself.
    own: Vec<(String, String)>,
    executable: Option<String>,
    /// Once all is known.
    settled: OnceLock<Arc<Resource>>,
}

impl Containers {
    pub(super) fn new(shared: Arc<Shared>) -> Containers {
        let version = shared.world().version();
        Containers { shared, version }
    }

    /// The cgroup of a process' container: as the kernel told, else as `/proc` shows.
    fn cgroup(&self, process: ProcessId, told: Option<u64>) -> Option<u64> {
        told.or_else(|| {
            let place = place_of(process.tgid)?;
            self.shared.world().cgroup_of(&place.container)
        })
    }
}

/// Where a process is, as `/proc` shows.
pub(super) fn place_of(process: u32) -> Option<Place> {
    Place::of_process(&String::from_utf8_lossy(&read(&format!("/proc/{process}/cgroup"))))
}

/// The name of a process' container, by its mounts.
pub(super) fn name_of(process: u32, place: &Place) -> Option<String> {
    let mountinfo = read(&format!("/proc/{process}/mountinfo"));
    mounts::container_name(&String::from_utf8_lossy(&mountinfo), place.pod.as_ref()?)
}

impl Subjects for Containers {
    type Facts = Facts;

    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn policy(&mut self, process: ProcessId, cgroup: Option<u64>) -> Option<Arc<Policy>> {
        let cgroup = self.cgroup(process, cgroup)?;
        self.shared.world().policy(cgroup)
    }

    fn scope(&mut self, process: ProcessId, cgroup: Option<u64>) -> u64 {
        // One of no container has no policy, and so no calls.
        self.cgroup(process, cgroup).unwrap_or(0)
    }

    fn pod(&mut self, process: ProcessId, cgroup: Option<u64>) -> u64 {
        let cgroup = self.scope(process, cgroup);
        let world = self.shared.world();
        let pod = world.container(cgroup).and_then(|container| container.place.pod.as_ref());
        // A container of no pod has its own cgroup for one.
        pod.map_or(cgroup, |uid| {
            let mut hasher = DefaultHasher::new();
            uid.hash(&mut hasher);
            hasher.finish()
        })
    }

    fn facts(&mut self, process: ProcessId, cgroup: Option<u64>, executable: Option<&Path>) -> Facts {
        let pid = process.tgid;
        let cgroup = self.cgroup(process, cgroup);
        let place = cgroup.and_then(|id| Some(self.shared.world().container(id)?.place.clone()));
        let place = place.or_else(|| place_of(pid));
        let unnamed = cgroup.filter(|id| self.shared.world().is_unnamed(*id));
        if let (Some(id), Some(place)) = (unnamed, &place)
            && let Some(name) = name_of(pid, place)
        {
            self.shared.change(|world| world.name_container(id, &name));
        }
        let environment = read(&format!("/proc/{pid}/environ"));
        let variable = |wanted: &str| {
            environment.split(|byte| *byte == 0).find_map(|entry| {
                let value = entry.strip_prefix(wanted.as_bytes())?.strip_prefix(b"=")?;
                (!value.is_empty()).then(|| String::from_utf8_lossy(value).into_owned())
            })
        };
        // A program's own variables may be wrong; it is traced all the same.
        let mut own = config::resource_attributes(variable).unwrap_or_default();
        if let Some(name) = config::service_name(variable) {
            own.retain(|(key, _)| key != "service.name");
            own.push(("service.name".to_owned(), name));
        }
        let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        let path = path.as_deref().or(executable);
        let executable = path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        Facts { cgroup, place, own, executable, settled: OnceLock::new() }
    }

    fn resource(&mut self, facts: &Facts, now: bool) -> Option<Arc<Resource>> {
        if let Some(resource) = facts.settled.get() {
            return Some(resource.clone());
        }
        let node = self.shared.node();
        let executable = facts.executable.as_deref();
        let Some(place) = &facts.place else {
            // It was gone before anything of it could be read: nothing will come.
            let resource = attributes::nobody(&node, &facts.own, executable);
            return Some(facts.settled.get_or_init(|| Arc::new(resource)).clone());
        };
        let world = self.shared.world();
        let container = facts.cgroup.and_then(|id| world.container(id));
        let (pod, name) = match container.and_then(|container| world.find(container)) {
            Some((pod, name)) => (Some(pod), name),
            None => (world.find_pod(place), None),
        };
        drop(world);
        let container = pod.as_deref().and_then(|pod| pod.container(&place.container, name.as_deref()));
        // The status is the last to come, some 40 ms after the first program runs.
        let settled = container.is_some_and(|container| container.image_id.is_some());
        if !settled && !now {
            return None;
        }
        let make = || {
            Arc::new(attributes::resource(&node, place, pod.as_deref(), container, &facts.own, executable))
        };
        Some(if settled { facts.settled.get_or_init(make).clone() } else { make() })
    }
}

impl Shared {
    fn node(&self) -> Arc<Node> {
        self.node.lock().expect("no holder panics").clone()
    }
}
