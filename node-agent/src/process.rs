//! Who a traced process is: its resource, and the labels that a host's AgentTrace selects by.

use crate::capture::events::ProcessId;
use crate::export::config;
use crate::policy::{Policy, Subjects};
use crate::resource::Resource;
use agentsight_api::host;
use agentsight_genai::redact::Redactor;
use agentsight_genai::telemetry::{Attributes, Value};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What of `/proc/PID/environ` and `cmdline` is read at the most: ARG_MAX is larger, names come first.
const MOST_BYTES: u64 = 256 << 10;

/// The subjects of a host: one policy for whatever the kernel selects.
pub struct Host {
    policy: Arc<Policy>,
    identity: Identity,
}

impl Host {
    /// `arguments`: keep command arguments, which may hold prompts, after this redactor has cleaned them.
    pub fn new(policy: Policy, arguments: Option<Arc<Redactor>>) -> Host {
        Host { policy: Arc::new(policy), identity: Identity::new(arguments) }
    }

    /// Takes our own environment for that of processes that ended before they could be asked: we started them, or
    /// what started them.
    pub fn inherit_environment(&mut self) {
        self.identity.inherited = true;
    }
}

impl Subjects for Host {
    type Facts = Arc<Resource>;

    fn version(&self) -> u64 {
        0
    }

    fn policy(&mut self, _process: ProcessId, _cgroup: Option<u64>) -> Option<Arc<Policy>> {
        Some(self.policy.clone())
    }

    fn scope(&mut self, _process: ProcessId, _cgroup: Option<u64>) -> u64 {
        0
    }

    fn pod(&mut self, _process: ProcessId, _cgroup: Option<u64>) -> u64 {
        0
    }

    fn facts(
        &mut self,
        process: ProcessId,
        _cgroup: Option<u64>,
        executable: Option<&Path>,
    ) -> Arc<Resource> {
        Arc::new(self.identity.resource(process, executable))
    }

    fn resource(&mut self, facts: &Arc<Resource>, _now: bool) -> Option<Arc<Resource>> {
        Some(facts.clone())
    }
}

/// How resources are made.
struct Identity {
    /// The machine's name.
    host: Option<String>,
    /// Keep command arguments, cleaned by this.
    arguments: Option<Arc<Redactor>>,
    /// See [`Host::inherit_environment`].
    inherited: bool,
}

impl Identity {
    fn new(arguments: Option<Arc<Redactor>>) -> Identity {
        let host =
            std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
        Identity { host: host.filter(|name| !name.is_empty()), arguments, inherited: false }
    }

    /// The resource of a process. `executable` is what its last exec was given, for one that is gone already.
    ///
    /// A process names itself as it would to an SDK: by OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES in its
    /// environment; no other variable is looked at.
    fn resource(&self, process: ProcessId, executable: Option<&Path>) -> Resource {
        let pid = process.tgid;
        let path =
            std::fs::read_link(format!("/proc/{pid}/exe")).ok().or_else(|| executable.map(PathBuf::from));
        // The kernel marks an executable that was replaced or removed.
        let path = path.map(|path| path.to_string_lossy().trim_end_matches(" (deleted)").to_owned());
        let name = path.as_deref().and_then(|path| Path::new(path).file_name()?.to_str()).map(str::to_owned);
        let environment = read(&format!("/proc/{pid}/environ"));
        let variable = |wanted: &str| {
            if environment.is_empty() && self.inherited {
                return std::env::var(wanted).ok().filter(|value| !value.is_empty());
            }
            environment.split(|byte| *byte == 0).find_map(|entry| {
                let value = entry.strip_prefix(wanted.as_bytes())?.strip_prefix(b"=")?;
                (!value.is_empty()).then(|| String::from_utf8_lossy(value).into_owned())
            })
        };
        // A program's own variables may be wrong; it is traced all the same.
        let own = config::resource_attributes(variable).unwrap_or_default();
        let service = config::service_name(variable)
            .or_else(|| own.iter().find(|(key, _)| key == "service.name").map(|(_, value)| value.clone()))
            .unwrap_or_else(|| format!("unknown_service:{}", name.as_deref().unwrap_or("unknown")));

        let mut attributes: Attributes = vec![("service.name".into(), Value::Str(service.into()))];
        let own = own.into_iter().filter(|(key, _)| key != "service.name");
        attributes.extend(own.map(|(key, value)| (key.into(), Value::Str(value.into()))));
        let mut set = |key: &'static str, value: Option<Value>| {
            if let Some(value) = value
                && !attributes.iter().any(|(known, _)| known == key)
            {
                attributes.push((key.into(), value));
            }
        };
        set("host.name", self.host.clone().map(|host| Value::Str(host.into())));
        set("os.type", Some(Value::Str("linux".into())));
        set("process.pid", Some(Value::Int(i64::from(pid))));
        set("process.executable.name", name.map(|name| Value::Str(name.into())));
        set("process.executable.path", path.map(|path| Value::Str(path.into())));
        if let Some(redactor) = &self.arguments {
            let mut arguments: Vec<String> = read(&format!("/proc/{pid}/cmdline"))
                .split(|byte| *byte == 0)
                .map(|argument| String::from_utf8_lossy(argument).into_owned())
                .collect();
            arguments.pop(); // what follows the last NUL
            redactor.arguments(&mut arguments);
            let arguments = arguments.into_iter().map(Into::into).collect::<Vec<_>>();
            set("process.command_args", (!arguments.is_empty()).then_some(Value::Strs(arguments)));
        }
        set("telemetry.distro.name", Some(Value::Str("agentsight".into())));
        set("telemetry.distro.version", Some(Value::Str(env!("CARGO_PKG_VERSION").into())));
        Resource { attributes }
    }
}

/// The labels of a process of this host.
pub fn labels(pid: u32) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    if let Some(name) = executable.as_deref().and_then(Path::file_name) {
        let name = String::from_utf8_lossy(name.as_bytes());
        labels.insert(host::EXECUTABLE.to_owned(), name.trim_end_matches(" (deleted)").to_owned());
    }
    if let Ok(metadata) = std::fs::metadata(format!("/proc/{pid}")) {
        labels.insert(host::USER.to_owned(), user_name(metadata.uid()));
    }
    let cgroups = String::from_utf8_lossy(&read(&format!("/proc/{pid}/cgroup"))).into_owned();
    // `0::/path` is cgroup v2; on older hosts systemd's own hierarchy says the same.
    let path = |prefix: &str| {
        cgroups
            .lines()
            .find_map(|line| Some(line.split_once(prefix).filter(|(id, _)| !id.contains(':'))?.1.to_owned()))
    };
    let path = path("::").filter(|path| path != "/").or_else(|| path(":name=systemd:"));
    if let Some(path) = path {
        let unit = path.split('/').rev().find(|part| part.ends_with(".service") || part.ends_with(".scope"));
        if let Some(unit) = unit {
            labels.insert(host::SYSTEMD_UNIT.to_owned(), unit.to_owned());
        }
        labels.insert(host::CGROUP.to_owned(), path);
    }
    labels
}

fn user_name(uid: u32) -> String {
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

/// A file of `/proc`, as far as it is needed; nothing when the process is gone or closed to us.
pub(crate) fn read(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        // A process that ends while it is read gives an error behind what was read.
        let _ = file.take(MOST_BYTES).read_to_end(&mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> ProcessId {
        ProcessId { tgid: std::process::id(), started: 0 }
    }

    #[test]
    fn a_process_without_a_service_name_is_an_unknown_service_by_its_executable() {
        let resource = Identity::new(None).resource(own(), None);
        let name = resource.attributes.iter().find(|(key, _)| key == "service.name").expect("always there");
        let Value::Str(name) = &name.1 else { panic!("{name:?}") };
        assert!(name.starts_with("unknown_service:agentsight"), "{name}");
        assert!(!resource.attributes.iter().any(|(key, _)| key == "process.command_args"));
    }

    #[test]
    fn a_process_that_is_gone_is_known_by_what_it_executed() {
        let gone = ProcessId { tgid: u32::MAX, started: 0 };
        let resource = Identity::new(None).resource(gone, Some(Path::new("/usr/bin/curl")));
        let expected = ("process.executable.name".into(), Value::Str("curl".into()));
        assert!(resource.attributes.contains(&expected), "{resource:?}");
    }

    #[test]
    fn the_labels_of_this_process_name_its_executable_and_user() {
        let labels = labels(std::process::id());
        assert!(labels[host::EXECUTABLE].starts_with("agentsight"), "{labels:?}");
        assert!(!labels[host::USER].is_empty(), "{labels:?}");
    }
}
