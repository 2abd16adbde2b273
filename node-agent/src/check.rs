//! `agentsight check`: whether this machine can trace, and what to do where it cannot.

use crate::capture::trial::Trial;
use crate::terminal::{Colour, Terminal};
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What was found, one result a question.
#[derive(Serialize, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Nothing is missing. Warnings say what will not be seen.
    pub can_trace: bool,
    /// In the order in which they are shown.
    pub results: Vec<Finding>,
    /// What the kernel said to our programs; absent where nothing can be tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

/// The answer to one question.
#[derive(Serialize, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was looked at; stable, for programs.
    pub name: &'static str,
    /// How it is.
    pub status: Status,
    /// What was seen.
    pub found: String,
    /// What to do about it; absent where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// How something is.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it must be.
    Ok,
    /// Tracing works, but not everywhere.
    Warning,
    /// Tracing does not work.
    Missing,
}

impl Report {
    /// Judges a machine.
    pub fn of(system: &System) -> Self {
        let mut results = vec![
            kernel(system),
            architecture(system),
            btf(system),
            uprobes(system),
            lockdown(system),
            seccomp_and_return_probes(system),
            user_namespace(system),
        ];
        results.extend(Capability::ALL.iter().map(|capability| capability_finding(system, *capability)));
        results.extend([perf_event_paranoid(system), unprivileged_bpf(system)]);
        results.extend(memlock(system));
        results.extend([pid_namespace(system), proc_mount(system), cgroups(system)]);
        let can_trace = results.iter().all(|finding| finding.status != Status::Missing);
        Self { can_trace, results, trial: None }
    }

    /// Judges this machine, and where nothing is missing lets its kernel look at our programs.
    pub fn of_this_machine() -> Self {
        let report = Self::of(&System::read());
        if report.can_trace { report.with(Trial::run()) } else { report }
    }

    /// Adds what the kernel said to our programs.
    fn with(mut self, trial: Trial) -> Self {
        let finding = programs(&trial);
        self.can_trace &= finding.status != Status::Missing;
        self.results.push(finding);
        self.results.extend(plaintext(&trial));
        self.results.extend(stdio(&trial));
        self.results.extend(rustls(&trial));
        self.trial = Some(trial);
        self
    }

    /// 0 where this machine can trace, else 1.
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.can_trace)
    }

    /// A table for people, which ends with a newline.
    pub fn text(&self, terminal: Terminal) -> String {
        let width = self.results.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for finding in &self.results {
            let (word, colour) = match finding.status {
                Status::Ok => ("ok     ", Colour::Green),
                Status::Warning => ("warning", Colour::Yellow),
                Status::Missing => ("missing", Colour::Red),
            };
            let _ = writeln!(
                text,
                "{}  {:width$}  {}",
                terminal.paint(word, colour),
                finding.name,
                finding.found
            );
            if let Some(advice) = &finding.advice {
                let _ = writeln!(text, "{:8} {:width$}  → {advice}", "", "");
            }
        }
        let (verdict, colour) = match self.can_trace {
            true => ("This machine can trace.", Colour::Green),
            false => ("This machine cannot trace: what is missing stands above.", Colour::Red),
        };
        let _ = writeln!(text, "\n{}", terminal.paint(verdict, colour));
        text
    }

    /// One JSON object, which ends with a newline.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain data");
        text.push('\n');
        text
    }
}

/// What of a machine decides whether it can trace: read once, so that tests can give another machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct System {
    /// `uname -r`.
    pub kernel_release: String,
    /// As Rust names it, such as `x86_64`.
    pub architecture: &'static str,
    /// The kernel tells its types in `/sys/kernel/btf/vmlinux`.
    pub btf: bool,
    /// The number of perf's uprobe event source, where the kernel has it.
    pub uprobe_pmu: Option<u32>,
    /// `none`, `integrity` or `confidentiality`; absent where the kernel does not say.
    pub lockdown: Option<String>,
    /// Who asks.
    pub privileges: Privileges,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i32>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<u32>,
    /// Soft limit of locked memory in bytes; absent where there is none.
    pub memlock: Option<u64>,
    /// This process sees the process ids of the whole machine.
    pub initial_pid_namespace: bool,
    /// The options of the mount at `/proc`.
    pub proc_options: String,
    /// How processes are grouped.
    pub cgroups: Cgroups,
}

/// From which kernel on uprobes are attached without perf.
const UPROBE_MULTI: (u32, u32) = (6, 6);

/// What this process may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Privileges {
    /// Effective user id.
    pub uid: u32,
    /// Effective set, a bit for each capability's number.
    pub capabilities: u64,
    /// Capabilities hold for the kernel itself, not only within a container.
    pub initial_user_namespace: bool,
    /// The kernel attaches uprobes through perf only, for which it asks for `CAP_SYS_ADMIN`: before Linux 6.6.
    pub perf_uprobes: bool,
}

/// Which hierarchies of cgroups are mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cgroups {
    /// The unified hierarchy only.
    V2,
    /// Controllers in version 1, and a unified hierarchy beside them.
    Hybrid,
    /// Version 1 only.
    V1,
    /// None is visible.
    None,
}

impl System {
    /// Reads this machine.
    pub fn read() -> Self {
        Self::read_below(Path::new("/"))
    }

    /// Reads what stands in `proc` and `sys` below a folder.
    pub fn read_below(root: &Path) -> Self {
        let read =
            |path: &str| std::fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned());
        let mounts = read("proc/self/mountinfo").unwrap_or_default();
        Self {
            kernel_release: read("proc/sys/kernel/osrelease").unwrap_or_default(),
            architecture: std::env::consts::ARCH,
            btf: root.join("sys/kernel/btf/vmlinux").exists(),
            uprobe_pmu: read("sys/bus/event_source/devices/uprobe/type").and_then(|text| text.parse().ok()),
            // The mode in force stands in brackets: `none [integrity] confidentiality`.
            lockdown: read("sys/kernel/security/lockdown")
                .and_then(|text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())),
            privileges: Privileges::read_below(root),
            perf_event_paranoid: read("proc/sys/kernel/perf_event_paranoid")
                .and_then(|text| text.parse().ok()),
            unprivileged_bpf_disabled: read("proc/sys/kernel/unprivileged_bpf_disabled")
                .and_then(|text| text.parse().ok()),
            memlock: read("proc/self/limits").as_deref().and_then(soft_memlock),
            initial_pid_namespace: is_namespace(root, "pid", 0xEFFF_FFFC),
            // Of several mounts at one place the last is seen.
            proc_options: mounts_of(&mounts, "proc")
                .filter(|mount| mount.point == "/proc")
                .last()
                .map_or_else(String::new, |mount| mount.options.to_owned()),
            cgroups: match (mounts_of(&mounts, "cgroup2").next(), mounts_of(&mounts, "cgroup").next()) {
                (Some(_), None) => Cgroups::V2,
                (Some(_), Some(_)) => Cgroups::Hybrid,
                (None, Some(_)) => Cgroups::V1,
                (None, None) => Cgroups::None,
            },
        }
    }

    /// Major and minor number of the kernel; zero where they cannot be read.
    fn kernel(&self) -> (u32, u32) {
        version(&self.kernel_release)
    }
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

impl Privileges {
    /// Reads those of this process.
    pub fn read() -> Self {
        Self::read_below(Path::new("/"))
    }

    fn read_below(root: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let status = read("proc/self/status");
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        Self {
            // Real, effective, saved and file system user.
            uid: field("Uid:")
                .split_whitespace()
                .nth(1)
                .and_then(|text| text.parse().ok())
                .unwrap_or(u32::MAX),
            capabilities: u64::from_str_radix(field("CapEff:").trim(), 16).unwrap_or(0),
            initial_user_namespace: is_namespace(root, "user", 0xEFFF_FFFD),
            perf_uprobes: version(&read("proc/sys/kernel/osrelease")) < UPROBE_MULTI,
        }
    }

    fn has(&self, capability: Capability) -> bool {
        self.capabilities & (1 << capability as u32) != 0
    }

    /// The capabilities without which nothing can be traced, as far as they are missing.
    pub fn missing(&self) -> Vec<Capability> {
        Capability::ALL
            .iter()
            .copied()
            .filter(|capability| {
                self.requires(*capability) && !self.has(*capability) && !self.covered(*capability)
            })
            .collect()
    }

    /// Whether nothing works without it.
    fn requires(&self, capability: Capability) -> bool {
        match capability {
            Capability::Bpf | Capability::Perfmon => true,
            Capability::SysAdmin => self.perf_uprobes,
            Capability::SysPtrace | Capability::DacReadSearch | Capability::CheckpointRestore => false,
        }
    }

    /// `CAP_SYS_ADMIN` still allows what `CAP_BPF`, `CAP_PERFMON` (5.8) and `CAP_CHECKPOINT_RESTORE` (5.9)
    /// were split from it for.
    fn covered(&self, capability: Capability) -> bool {
        let split =
            matches!(capability, Capability::Bpf | Capability::Perfmon | Capability::CheckpointRestore);
        split && self.has(Capability::SysAdmin)
    }

    /// One line for who asked to trace and may not: what is missing and what to type instead. `arguments`
    /// is the command line as it was given.
    pub fn refusal(&self, arguments: &[OsString]) -> Option<String> {
        let missing = self.missing();
        let names = missing.iter().map(|capability| capability.name()).collect::<Vec<_>>().join(", ");
        let are = if missing.len() == 1 { "is" } else { "are" };
        if missing.is_empty() && self.initial_user_namespace {
            None
        } else if !self.initial_user_namespace {
            Some("cannot trace: this is a user namespace (a rootless container), whose root has no rights over the \
                  kernel; run agentsight on the host"
                .into())
        } else if self.uid == 0 {
            Some(format!(
                "cannot trace: {names} {are} missing; give what is missing to this container or service, see docs/privileges.md"
            ))
        } else {
            let command =
                arguments.iter().map(|argument| shell_quoted(argument)).collect::<Vec<_>>().join(" ");
            Some(format!("cannot trace: {names} {are} missing; run: sudo -E {command}"))
        }
    }
}

/// The capabilities without which this process cannot trace.
pub fn missing_capabilities() -> Vec<Capability> {
    Privileges::read().missing()
}

/// A capability that tracing needs, with its number in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capability {
    /// Maps and programs.
    Bpf = 39,
    /// Programs that trace.
    Perfmon = 38,
    /// Uprobes.
    SysAdmin = 21,
    /// Other users' processes.
    SysPtrace = 19,
    /// Other users' files.
    DacReadSearch = 2,
    /// Mapped files that have no path any more.
    CheckpointRestore = 40,
}

impl Capability {
    /// All that are asked for, those first without which nothing works.
    pub const ALL: &'static [Self] = &[
        Self::Bpf,
        Self::Perfmon,
        Self::SysAdmin,
        Self::SysPtrace,
        Self::DacReadSearch,
        Self::CheckpointRestore,
    ];

    /// As capabilities(7) names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::CheckpointRestore => "CAP_CHECKPOINT_RESTORE",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Bpf => "makes maps and loads programs",
            Self::Perfmon => "loads programs that trace",
            Self::SysAdmin => "attaches uprobes through perf, before Linux 6.6",
            Self::SysPtrace => "opens /proc/PID/root and maps of other users' processes",
            Self::DacReadSearch => "reads programs and libraries in other users' folders",
            Self::CheckpointRestore => "opens mapped files that have no path any more (/proc/PID/map_files)",
        }
    }
}

fn kernel(system: &System) -> Finding {
    let release = &system.kernel_release;
    match system.kernel() {
        (0, _) => Finding::missing("kernel", "unknown", "mount /proc"),
        older if older < (5, 8) => Finding::missing(
            "kernel",
            format!("{release}: has no BPF ring buffer"),
            "update to 5.10 or newer",
        ),
        older if older < (5, 10) => {
            Finding::warning("kernel", format!("{release}: never tried"), "update to 5.10 or newer")
        }
        _ => Finding::ok("kernel", release),
    }
}

fn architecture(system: &System) -> Finding {
    match system.architecture {
        "x86_64" => Finding::ok("architecture", "x86_64"),
        other => Finding::missing(
            "architecture",
            other,
            "trace on an x86_64 machine: the probes know no other yet",
        ),
    }
}

fn btf(system: &System) -> Finding {
    match system.btf {
        true => Finding::ok("btf", "/sys/kernel/btf/vmlinux"),
        false => Finding::missing(
            "btf",
            "/sys/kernel/btf/vmlinux is absent",
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y (every large distribution's since 2021), and mount /sys",
        ),
    }
}

fn uprobes(system: &System) -> Finding {
    match system.uprobe_pmu {
        Some(number) => Finding::ok("uprobes", format!("perf event source {number}")),
        None => Finding::missing(
            "uprobes",
            "/sys/bus/event_source/devices/uprobe is absent",
            "use a kernel with CONFIG_UPROBE_EVENTS=y, and mount /sys",
        ),
    }
}

fn lockdown(system: &System) -> Finding {
    match system.lockdown.as_deref() {
        Some("confidentiality") => Finding::missing(
            "lockdown",
            "confidentiality: programs may not read kernel memory",
            "boot with lockdown=integrity or without lockdown",
        ),
        Some(mode) => Finding::ok("lockdown", mode),
        None => Finding::ok("lockdown", "not reported by this kernel"),
    }
}

/// A uretprobe on x86_64 is a system call from 6.11 on. Seccomp filters saw it, and one that does not know it
/// may end the program, until 6.14 ("seccomp: passthrough uretprobe systemcall without filtering").
fn seccomp_and_return_probes(system: &System) -> Finding {
    let name = "return-probes";
    match system.kernel() {
        kernel if ((6, 11)..(6, 14)).contains(&kernel) && system.architecture == "x86_64" => {
            Finding::warning(
                name,
                "a seccomp filter may end a program at a return probe on 6.11 to 6.13",
                "update to 6.14 or newer, or trace only programs without a seccomp filter (grep Seccomp /proc/PID/status)",
            )
        }
        _ => Finding::ok(name, "seccomp filters do not see them"),
    }
}

fn user_namespace(system: &System) -> Finding {
    match system.privileges.initial_user_namespace {
        true => Finding::ok("user-namespace", "the machine's own"),
        false => Finding::missing(
            "user-namespace",
            "a container's: capabilities have no effect on the kernel",
            "run agentsight on the host, or in a container without a user namespace",
        ),
    }
}

fn capability_finding(system: &System, capability: Capability) -> Finding {
    let (name, reason) = (capability.name(), capability.reason());
    let how = "run agentsight as root (sudo -E), or give it this capability";
    if system.privileges.has(capability) {
        Finding::ok(name, reason)
    } else if system.privileges.covered(capability) {
        Finding::ok(name, format!("{reason}; CAP_SYS_ADMIN stands for it"))
    } else if system.privileges.requires(capability) {
        Finding::missing(name, reason, how)
    } else if capability == Capability::SysAdmin {
        Finding::ok(name, "not needed on this kernel")
    } else {
        Finding::warning(name, reason, how)
    }
}

fn perf_event_paranoid(system: &System) -> Finding {
    let name = "perf_event_paranoid";
    match system.perf_event_paranoid {
        Some(level) if level > 2 && !system.privileges.has(Capability::SysAdmin) => Finding::warning(
            name,
            format!("{level}: closes perf to all without CAP_SYS_ADMIN"),
            "run agentsight as root; the setting itself may stay",
        ),
        Some(level) => Finding::ok(name, level.to_string()),
        None => Finding::missing(
            name,
            "/proc/sys/kernel/perf_event_paranoid is absent",
            "use a kernel with CONFIG_PERF_EVENTS=y",
        ),
    }
}

fn unprivileged_bpf(system: &System) -> Finding {
    let name = "unprivileged_bpf_disabled";
    match system.unprivileged_bpf_disabled {
        Some(value) => Finding::ok(name, format!("{value}: of no matter with CAP_BPF")),
        None => Finding::missing(name, "bpf(2) is absent", "use a kernel with CONFIG_BPF_SYSCALL=y"),
    }
}

/// Maps count as locked memory before 5.11, as memory of their cgroup since.
fn memlock(system: &System) -> Option<Finding> {
    /// CAP_SYS_RESOURCE, which may raise the limit.
    const SYS_RESOURCE: u64 = 1 << 24;
    if system.kernel() >= (5, 11) {
        return None;
    }
    let name = "memlock";
    Some(match system.memlock {
        None => Finding::ok(name, "unlimited"),
        Some(limit) if system.privileges.capabilities & SYS_RESOURCE != 0 => {
            Finding::ok(name, format!("{limit} bytes, raised at start"))
        }
        Some(limit) => Finding::missing(
            name,
            format!("{limit} bytes: too little for maps on kernels before 5.11"),
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
        ),
    })
}

fn pid_namespace(system: &System) -> Finding {
    match system.initial_pid_namespace {
        true => Finding::ok("pid-namespace", "the machine's own"),
        false => Finding::missing(
            "pid-namespace",
            "a container's: the kernel's process ids have another meaning here",
            "run agentsight on the host, or give the container the host's pid namespace (docker run --pid=host, hostPID)",
        ),
    }
}

fn programs(trial: &Trial) -> Finding {
    if let Some(error) = &trial.error {
        return Finding::missing(
            "programs",
            error.clone(),
            "report this line with your kernel's version: AgentSight is tested from 5.10 on (docs/kernels.md)",
        );
    }
    let refused: Vec<&str> = trial.refused().map(|verdict| verdict.name.as_str()).collect();
    let mut found = format!(
        "{} of {} accepted in {} ms",
        trial.programs.len() - refused.len(),
        trial.programs.len(),
        trial.time().as_millis()
    );
    if let Some(most) = trial.most_instructions() {
        let _ = write!(found, ", at most {most} of 1000000 instructions verified");
    }
    if !refused.is_empty() {
        let _ = write!(found, "; with a stand-in: {}", refused.join(", "));
    }
    Finding::ok("programs", found)
}

/// Whether calls without TLS can be seen, where anything can.
fn plaintext(trial: &Trial) -> Option<Finding> {
    if trial.error.is_some() {
        return None;
    }
    Some(match &trial.plaintext_error {
        None => Finding::ok("plaintext", "can be seen where it is asked for (--plaintext)".to_owned()),
        Some(error) => Finding::warning(
            "plaintext",
            error.clone(),
            "calls over TLS are seen; for those without, a newer kernel is needed",
        ),
    })
}

/// Whether MCP over standard input and output can be seen, where anything can.
fn stdio(trial: &Trial) -> Option<Finding> {
    if trial.error.is_some() {
        return None;
    }
    Some(match &trial.stdio_error {
        None => Finding::ok("mcp-stdio", "can be seen where it is asked for (--mcp-stdio)".to_owned()),
        Some(error) => Finding::warning(
            "mcp-stdio",
            error.clone(),
            "calls to models are seen; for requests to MCP servers over their standard input and output, a newer kernel is needed",
        ),
    })
}

/// Whether rustls can be seen, where anything can.
fn rustls(trial: &Trial) -> Option<Finding> {
    if trial.error.is_some() {
        return None;
    }
    Some(match &trial.rustls_error {
        None => Finding::ok("rustls", "can be seen".to_owned()),
        Some(error) => Finding::warning(
            "rustls",
            error.clone(),
            "calls over other TLS libraries are seen; for those of programs with rustls, a newer kernel is needed",
        ),
    })
}

fn proc_mount(system: &System) -> Finding {
    let option = |name: &str| {
        system.proc_options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    };
    if system.proc_options.is_empty() {
        return Finding::missing("proc", "absent", "mount /proc");
    }
    match option("hidepid") {
        Some(hidden) if !matches!(hidden, "0" | "off") && !system.privileges.has(Capability::SysPtrace) => {
            Finding::warning(
                "proc",
                format!("hidepid={hidden}: other users' processes are hidden"),
                "run agentsight as root, or with CAP_SYS_PTRACE",
            )
        }
        Some(hidden) => Finding::ok("proc", format!("hidepid={hidden}, of no matter with CAP_SYS_PTRACE")),
        None => Finding::ok("proc", "shows all processes"),
    }
}

fn cgroups(system: &System) -> Finding {
    let advice = "mount a cgroup2 file system; `record` does not need it";
    match system.cgroups {
        Cgroups::V2 => Finding::ok("cgroups", "version 2"),
        Cgroups::Hybrid => Finding::ok("cgroups", "version 1 with a unified hierarchy beside it"),
        Cgroups::V1 => {
            Finding::warning("cgroups", "version 1: processes cannot be selected by cgroup", advice)
        }
        Cgroups::None => Finding::warning("cgroups", "none is mounted", advice),
    }
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), advice: None }
    }

    fn warning(name: &'static str, found: impl Into<String>, advice: &str) -> Self {
        Self { name, status: Status::Warning, found: found.into(), advice: Some(advice.into()) }
    }

    fn missing(name: &'static str, found: impl Into<String>, advice: &str) -> Self {
        Self { name, status: Status::Missing, found: found.into(), advice: Some(advice.into()) }
    }
}

/// Whether this process is in the namespace that the machine was started with: its inode is fixed
/// (include/linux/proc_ns.h).
fn is_namespace(root: &Path, kind: &str, inode: u32) -> bool {
    let link = std::fs::read_link(root.join("proc/self/ns").join(kind));
    link.is_ok_and(|link| link.as_os_str().as_bytes() == format!("{kind}:[{inode}]").as_bytes())
}

fn soft_memlock(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

struct Mount<'a> {
    point: &'a str,
    options: &'a str,
}

/// The mounts of one file system type, by proc_pid_mountinfo(5).
fn mounts_of<'a>(mountinfo: &'a str, kind: &'a str) -> impl Iterator<Item = Mount<'a>> {
    mountinfo.lines().filter_map(move |line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        (file_system.next()? == kind).then_some(())?;
        Some(Mount { point: mount.split(' ').nth(4)?, options: file_system.nth(1).unwrap_or_default() })
    })
}

/// An argument as a shell reads it back.
fn shell_quoted(argument: &OsStr) -> String {
    let bytes = argument.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    match argument.to_str() {
        Some(text) if !text.is_empty() && bytes.iter().all(plain) => text.to_owned(),
        Some(text) if !text.contains(char::is_control) => format!("'{}'", text.replace('\'', r"'\''")),
        // Bytes that a terminal would obey or could not show.
        _ => {
            bytes.iter().fold(String::from("$'"), |mut quoted, byte| {
                let _ = match byte {
                    b'\'' | b'\\' => write!(quoted, "\\{}", char::from(*byte)),
                    b' '..=b'~' => write!(quoted, "{}", char::from(*byte)),
                    _ => write!(quoted, "\\x{byte:02x}"),
                };
                quoted
            }) + "'"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> System {
        System {
            kernel_release: "6.12.9-amd64".into(),
            architecture: "x86_64",
            btf: true,
            uprobe_pmu: Some(8),
            lockdown: Some("none".into()),
            privileges: root(),
            perf_event_paranoid: Some(2),
            unprivileged_bpf_disabled: Some(2),
            memlock: Some(8 << 20),
            initial_pid_namespace: true,
            proc_options: "rw".into(),
            cgroups: Cgroups::V2,
        }
    }

    fn root() -> Privileges {
        Privileges { uid: 0, capabilities: (1 << 41) - 1, initial_user_namespace: true, perf_uprobes: true }
    }

    fn user() -> Privileges {
        Privileges { uid: 1000, capabilities: 0, initial_user_namespace: true, perf_uprobes: true }
    }

    fn arguments(list: &[&str]) -> Vec<OsString> {
        list.iter().map(Into::into).collect()
    }

    /// Name, status and text of all that is not well.
    fn complaints(system: &System) -> Vec<(&'static str, Status, String)> {
        let results = Report::of(system).results.into_iter();
        results
            .filter(|finding| finding.status != Status::Ok)
            .map(|it| (it.name, it.status, it.found))
            .collect()
    }

    #[track_caller]
    fn one_complaint(change: impl FnOnce(&mut System), name: &str, status: Status, found: &str) {
        let mut system = System { kernel_release: "6.18.1".into(), ..healthy() };
        change(&mut system);
        let complaints = complaints(&system);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert_eq!((complaints[0].0, complaints[0].1, complaints[0].2.as_str()), (name, status, found));
        assert_eq!(Report::of(&system).can_trace, status != Status::Missing);
    }

    #[test]
    fn a_machine_is_judged_in_words() {
        let mut system = healthy();
        system.btf = false;
        let text = Report::of(&system).text(Terminal::PLAIN);
        assert_eq!(
            text,
            "\
ok       kernel                     6.12.9-amd64
ok       architecture               x86_64
missing  btf                        /sys/kernel/btf/vmlinux is absent
                                    → use a kernel with CONFIG_DEBUG_INFO_BTF=y (every large distribution's since 2021), and mount /sys
ok       uprobes                    perf event source 8
ok       lockdown                   none
warning  return-probes              a seccomp filter may end a program at a return probe on 6.11 to 6.13
                                    → update to 6.14 or newer, or trace only programs without a seccomp filter (grep Seccomp /proc/PID/status)
ok       user-namespace             the machine's own
ok       CAP_BPF                    makes maps and loads programs
ok       CAP_PERFMON                loads programs that trace
ok       CAP_SYS_ADMIN              attaches uprobes through perf, before Linux 6.6
ok       CAP_SYS_PTRACE             opens /proc/PID/root and maps of other users' processes
ok       CAP_DAC_READ_SEARCH        reads programs and libraries in other users' folders
ok       CAP_CHECKPOINT_RESTORE     opens mapped files that have no path any more (/proc/PID/map_files)
ok       perf_event_paranoid        2
ok       unprivileged_bpf_disabled  2: of no matter with CAP_BPF
ok       pid-namespace              the machine's own
ok       proc                       shows all processes
ok       cgroups                    version 2

This machine cannot trace: what is missing stands above.
"
        );
    }

    #[test]
    fn colours_are_for_terminals() {
        let terminal = Terminal { colour: true, width: 80 };
        assert!(Report::of(&healthy()).text(terminal).starts_with("\x1b[32mok     \x1b[0m  kernel"));
    }

    #[test]
    fn programs_get_json() {
        let report = Report::of(&System { cgroups: Cgroups::V1, ..healthy() });
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(json["canTrace"], true);
        let last = json["results"].as_array().and_then(|results| results.last()).expect("a result");
        assert_eq!(last["name"], "cgroups");
        assert_eq!(last["status"], "warning");
        assert!(last["advice"].is_string());
        assert_eq!(report.exit_code(), 0);
    }

    #[test]
    fn a_kernel_that_refuses_the_programs_cannot_trace() {
        let error = Some("the kernel refused `leave`".into());
        let refused = Trial { error, ..Trial::default() };
        let report = Report::of(&healthy()).with(refused);
        assert!(!report.can_trace);
        let last = report.results.last().unwrap();
        assert_eq!((last.name, last.status), ("programs", Status::Missing));
        assert_eq!(last.found, "the kernel refused `leave`");
    }

    #[test]
    fn programs_with_a_stand_in_are_named() {
        let verdict = |name: &str, refusal: Option<&str>| crate::capture::trial::Verdict {
            name: name.into(),
            verified_instructions: refusal.is_none().then_some(80_000),
            load_micros: 1500,
            refusal: refusal.map(Into::into),
        };
        let programs = vec![verdict("free_enter_state", Some("unknown func")), verdict("leave", None)];
        let report = Report::of(&healthy()).with(Trial { programs, ..Trial::default() });
        assert!(report.can_trace);
        let [.., programs, plaintext, stdio, rustls] = &report.results[..] else { panic!("{report:?}") };
        assert_eq!((plaintext.name, plaintext.status), ("plaintext", Status::Ok));
        assert_eq!((stdio.name, stdio.status), ("mcp-stdio", Status::Ok));
        assert_eq!((rustls.name, rustls.status), ("rustls", Status::Ok));
        assert_eq!(
            programs.found,
            "1 of 2 accepted in 3 ms, at most 80000 of 1000000 instructions verified; with a stand-in: free_enter_state"
        );
    }

    #[test]
    fn a_kernel_without_a_place_at_its_sockets_can_trace_all_the_same() {
        let plaintext_error = Some("plain HTTP is not seen: no fentry".into());
        let rustls_error = Some("rustls is not seen: no fentry".into());
        let stdio_error = Some("MCP is not seen: no fentry".into());
        let trial = Trial { plaintext_error, stdio_error, rustls_error, ..Trial::default() };
        let report = Report::of(&healthy()).with(trial);
        assert!(report.can_trace);
        let [.., plaintext, stdio, rustls] = &report.results[..] else { panic!("{report:?}") };
        assert_eq!((stdio.status, stdio.found.as_str()), (Status::Warning, "MCP is not seen: no fentry"));
        assert_eq!((plaintext.name, plaintext.status), ("plaintext", Status::Warning));
        assert_eq!(plaintext.found, "plain HTTP is not seen: no fentry");
        assert_eq!((rustls.name, rustls.status), ("rustls", Status::Warning));
        assert_eq!(rustls.found, "rustls is not seen: no fentry");
    }

    #[test]
    fn an_old_kernel_cannot_trace() {
        let old = System { kernel_release: "5.4.0-150-generic".into(), memlock: None, ..healthy() };
        assert_eq!(
            complaints(&old),
            [("kernel", Status::Missing, "5.4.0-150-generic: has no BPF ring buffer".into())]
        );
        let unknown = System { kernel_release: String::new(), memlock: None, ..healthy() };
        assert_eq!(Report::of(&unknown).exit_code(), 1);
    }

    #[test]
    fn return_probes_meet_seccomp_on_6_11_to_6_13_only() {
        for (release, expected) in
            [("6.10.9", false), ("6.11.0", true), ("6.13.12", true), ("6.14.0-rc1", false)]
        {
            let system = System { kernel_release: release.into(), ..healthy() };
            let warned = complaints(&system).iter().any(|(name, ..)| *name == "return-probes");
            assert_eq!(warned, expected, "{release}");
        }
    }

    #[test]
    fn each_obstacle_is_named() {
        use Status::{Missing, Warning};
        one_complaint(|it| it.architecture = "aarch64", "architecture", Missing, "aarch64");
        one_complaint(
            |it| it.uprobe_pmu = None,
            "uprobes",
            Missing,
            "/sys/bus/event_source/devices/uprobe is absent",
        );
        one_complaint(
            |it| it.lockdown = Some("confidentiality".into()),
            "lockdown",
            Missing,
            "confidentiality: programs may not read kernel memory",
        );
        one_complaint(
            |it| it.privileges.initial_user_namespace = false,
            "user-namespace",
            Missing,
            "a container's: capabilities have no effect on the kernel",
        );
        one_complaint(
            |it| it.initial_pid_namespace = false,
            "pid-namespace",
            Missing,
            "a container's: the kernel's process ids have another meaning here",
        );
        one_complaint(|it| it.proc_options.clear(), "proc", Missing, "absent");
        one_complaint(|it| it.cgroups = Cgroups::None, "cgroups", Warning, "none is mounted");
        one_complaint(
            |it| it.unprivileged_bpf_disabled = None,
            "unprivileged_bpf_disabled",
            Missing,
            "bpf(2) is absent",
        );
    }

    #[test]
    fn a_hidden_proc_matters_only_without_ptrace() {
        let mut system = System {
            kernel_release: "6.18.1".into(),
            proc_options: "rw,hidepid=invisible".into(),
            ..healthy()
        };
        assert_eq!(complaints(&system), []);
        system.privileges.capabilities &= !(1 << Capability::SysPtrace as u64);
        let complaints = complaints(&system);
        let names: Vec<_> = complaints.iter().map(|complaint| complaint.0).collect();
        assert_eq!(names, ["CAP_SYS_PTRACE", "proc"]);
    }

    #[test]
    fn locked_memory_matters_before_5_11_only() {
        let mut privileges = root();
        privileges.capabilities &= !(1 << 24);
        let old = System { kernel_release: "5.10.0".into(), privileges: privileges.clone(), ..healthy() };
        assert_eq!(complaints(&old)[0].0, "memlock");
        assert_eq!(complaints(&System { memlock: None, ..old.clone() }), []);
        assert_eq!(complaints(&System { privileges: root(), ..old.clone() }), []);
        assert_eq!(complaints(&System { kernel_release: "5.15.0".into(), ..old }), []);
    }

    #[test]
    fn sys_admin_stands_for_what_was_split_from_it() {
        let admin = Privileges { capabilities: 1 << 21, ..root() };
        assert_eq!(admin.missing(), []);
        let split = Privileges { capabilities: 1 << 38 | 1 << 39, ..root() };
        assert_eq!(split.missing(), [Capability::SysAdmin]);
        assert_eq!(Privileges { perf_uprobes: false, ..split }.missing(), [], "the kernel asks for no more");
    }

    #[test]
    fn an_unprivileged_user_is_told_the_very_command() {
        let command =
            arguments(&["agentsight", "record", "--", "python3", "-c", "print('hi')", "", "a b", "\x1b[2J"]);
        assert_eq!(
            user().refusal(&command).as_deref(),
            Some(
                r"cannot trace: CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN are missing; run: sudo -E agentsight record -- python3 -c 'print('\''hi'\'')' '' 'a b' $'\x1b[2J'"
            )
        );
    }

    #[test]
    fn who_is_root_already_is_not_sent_to_sudo() {
        let bounded = Privileges { capabilities: 1 << 38 | 1 << 39, ..root() };
        assert_eq!(
            bounded.refusal(&[]).as_deref(),
            Some(
                "cannot trace: CAP_SYS_ADMIN is missing; give what is missing to this container or service, see docs/privileges.md"
            )
        );
        let rootless = Privileges { initial_user_namespace: false, ..root() };
        assert!(rootless.refusal(&[]).expect("refused").contains("on the host"));
        assert_eq!(root().refusal(&[]), None);
    }

    #[test]
    fn a_machine_is_read_from_proc_and_sys() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            std::fs::write(path, text).expect("a file");
        };
        let link = |path: &str, target: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            std::os::unix::fs::symlink(target, path).expect("a link");
        };
        write("proc/sys/kernel/osrelease", "6.12.9-amd64\n");
        write("proc/sys/kernel/perf_event_paranoid", "3\n");
        write("proc/sys/kernel/unprivileged_bpf_disabled", "2\n");
        write("proc/self/status", "Name:\tx\nUid:\t1000\t0\t0\t0\nCapEff:\t000000c000200000\n");
        write(
            "proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units\n\
             Max locked memory         8388608              8388608              bytes\n",
        );
        write(
            "proc/self/mountinfo",
            "22 27 0:21 / /proc rw,relatime - proc proc rw,hidepid=2\n\
             31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\nbroken\n",
        );
        write("sys/kernel/btf/vmlinux", "");
        write("sys/bus/event_source/devices/uprobe/type", "9\n");
        write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        link("proc/self/ns/pid", "pid:[4026531836]");
        link("proc/self/ns/user", "user:[4026532000]");
        assert_eq!(
            System::read_below(root.path()),
            System {
                kernel_release: "6.12.9-amd64".into(),
                architecture: std::env::consts::ARCH,
                btf: true,
                uprobe_pmu: Some(9),
                lockdown: Some("integrity".into()),
                privileges: Privileges {
                    uid: 0,
                    capabilities: 0xc0_0020_0000,
                    initial_user_namespace: false,
                    perf_uprobes: false,
                },
                perf_event_paranoid: Some(3),
                unprivileged_bpf_disabled: Some(2),
                memlock: Some(8 << 20),
                initial_pid_namespace: true,
                proc_options: "rw,hidepid=2".into(),
                cgroups: Cgroups::Hybrid,
            }
        );
    }

    #[test]
    fn a_machine_without_proc_and_sys_is_judged_too() {
        let empty = tempfile::tempdir().expect("a temporary folder");
        assert!(!Report::of(&System::read_below(empty.path())).can_trace);
    }
}
