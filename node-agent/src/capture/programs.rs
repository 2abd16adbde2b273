//! The kernel programs: loaded once, attached to files, gone when this is dropped.

use super::library::{Plan, Program};
use super::multi::{self, Multi};
use super::sockets::{self, Sockets, Stage};
use agentsight_ebpf::{Control, Counters, OBJECT, hierarchy, select, wanted};
use aya::maps::{Array, HashMap as BpfHashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use aya::programs::{ProgramError, RawTracePoint, UProbe};
use aya::{Btf, Ebpf, EbpfLoader, VerifierLogLevel};
use std::path::Path;

/// Bytes of the ring by default: at 10 ms between drains it holds 800 MB/s of plaintext.
pub const DEFAULT_RING_BYTES: u32 = 8 << 20;

/// The smallest ring that every page size divides: to try programs, not to trace.
pub const SMALLEST_RING_BYTES: u32 = 64 << 10;

/// Why the kernel programs cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No type information of the running kernel.
    #[error(
        "cannot read the kernel's type information (BTF, /sys/kernel/btf/vmlinux): {0}; a kernel built with CONFIG_DEBUG_INFO_BTF is needed"
    )]
    Btf(#[source] aya::BtfError),
    /// The object was refused.
    #[error("cannot load the kernel programs: {0}; `agentsight check` tells what is missing")]
    Object(#[source] aya::EbpfError),
    /// One program was refused.
    #[error("the kernel refused the program `{program}`: {source}; `agentsight check` tells what is missing")]
    Program {
        /// Its name in the object.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: ProgramError,
    },
    /// A map could not be used.
    #[error("cannot use the kernel map `{map}`: {source}")]
    Map {
        /// Its name in the object.
        map: &'static str,
        /// What went wrong.
        #[source]
        source: aya::maps::MapError,
    },
}

/// The loaded programs and their maps.
pub struct Programs {
    object: Ebpf,
    plaintext: Sockets,
    stdio: Sockets,
    records: Sockets,
    /// What is wanted of processes that are selected: any of [`agentsight_ebpf::wanted`].
    wanted: u32,
    processes: BpfHashMap<MapData, u32, u32>,
    uprobes: Uprobes,
}

/// What is read only where it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum More {
    /// HTTP without TLS.
    Plaintext,
    /// MCP over standard input and output.
    Stdio,
}

impl More {
    /// All of them.
    pub const ALL: [More; 2] = [More::Plaintext, More::Stdio];

    /// Its bit in [`agentsight_ebpf::wanted`].
    pub fn wanted(self) -> u32 {
        match self {
            More::Plaintext => wanted::PLAINTEXT,
            More::Stdio => wanted::STDIO,
        }
    }

    /// What a log says where it cannot be had.
    pub fn without(self) -> &'static str {
        match self {
            More::Plaintext => "only calls over TLS are seen",
            More::Stdio => "requests to MCP servers over standard input and output are not seen",
        }
    }

    /// Its bit in [`agentsight_ebpf::select`], where everything is selected.
    pub(super) fn select(self) -> u32 {
        match self {
            More::Plaintext => select::PLAINTEXT,
            More::Stdio => select::STDIO,
        }
    }
}

/// What tells of processes.
const PROCESSES: [(&str, &str); 3] = [
    ("process_fork", "sched_process_fork"),
    ("process_exec", "sched_process_exec"),
    ("process_exit", "sched_process_exit"),
];

/// By what the kernel attaches uprobes.
enum Uprobes {
    /// Links that each hold all places of a program in a file (Linux 6.6).
    Multi(Multi),
    /// A perf event for each place.
    PerfEvents {
        /// Whether a program can be told a number where it is attached (Linux 5.15).
        cookies: bool,
    },
}

/// What is attached to a file. Dropping it takes it back, which takes the kernel some tens of milliseconds.
pub(super) enum Attached {
    /// All places of a program.
    Multi(#[expect(dead_code, reason = "held for what its end does")] multi::Link),
    /// One place.
    PerfEvent(#[expect(dead_code, reason = "held for what its end does")] UProbeLink),
}

/// What [`Programs::load`] gives besides: each goes to the thread that uses it.
pub struct Channels {
    /// Records from the kernel.
    pub ring: RingBuf<MapData>,
    /// Selection and wake-up.
    pub control: ControlMap,
    /// What was captured and lost.
    pub counters: CounterMap,
    /// Selected cgroups.
    pub cgroups: CgroupMap,
}

impl Programs {
    /// Loads everything and attaches the process programs; nothing is selected yet.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn load(ring_bytes: u32) -> Result<(Programs, Channels), Error> {
        let btf = Btf::from_sys_fs().map_err(Error::Btf)?;
        let mut object = EbpfLoader::new()
            .btf(Some(&btf))
            .map_max_entries("ring", ring_bytes)
            // The reason of a refusal is in it. With the whole log aya retries with ever larger ones, for minutes.
            .verifier_log_level(VerifierLogLevel::STATS)
            .load(OBJECT)
            .map_err(Error::Object)?;
        for (program, tracepoint) in PROCESSES {
            let raw: &mut RawTracePoint = part(&mut object, program);
            raw.load()
                .and_then(|()| raw.attach(tracepoint))
                .map_err(|source| Error::Program { program, source })?;
        }
        let uprobes = match Multi::load(&object, &btf)? {
            Some(multi) => Uprobes::Multi(multi),
            None => load_for_perf_events(&mut object)?,
        };
        let ring = RingBuf::try_from(take(&mut object, "ring"))
            .map_err(|source| Error::Map { map: "ring", source })?;
        let control = Array::try_from(take(&mut object, "control"))
            .map_err(|source| Error::Map { map: "control", source })?;
        let counters = PerCpuArray::try_from(take(&mut object, "counters"))
            .map_err(|source| Error::Map { map: "counters", source })?;
        let processes = BpfHashMap::try_from(take(&mut object, "processes"))
            .map_err(|source| Error::Map { map: "processes", source })?;
        let cgroups = BpfHashMap::try_from(take(&mut object, "cgroups"))
            .map_err(|source| Error::Map { map: "cgroups", source })?;
        let control = ControlMap {
            map: control,
            value: Control {
                select: 0,
                own_tgid: std::process::id(),
                hierarchy: hierarchy::V2,
                asleep: 1,
                watermark: u64::from(ring_bytes) / 4,
                selection: 0,
                reserved: 0,
            },
        };
        Ok((
            Programs {
                object,
                plaintext: Sockets::of(&sockets::PLAINTEXT),
                stdio: Sockets::of(&sockets::STDIO),
                records: Sockets::of(&sockets::RECORDS),
                wanted: wanted::CALLS,
                processes,
                uprobes,
            },
            Channels { ring, control, counters: CounterMap(counters), cgroups: CgroupMap(cgroups) },
        ))
    }

    /// Attaches a plan's probes to a file, for all processes. They stand as long as the links live.
    ///
    /// # Errors
    /// What the kernel said to the first probe that it refused; the others are taken back.
    pub(super) fn attach(&mut self, file: &Path, plan: &Plan) -> Result<Vec<Attached>, ProgramError> {
        let cookies = match &self.uprobes {
            Uprobes::Multi(multi) => {
                return Ok(multi.attach(file, plan)?.into_iter().map(Attached::Multi).collect());
            }
            Uprobes::PerfEvents { cookies } => *cookies,
        };
        plan.probes()
            .map(|probe| {
                let (program, cookie) = match probe.program {
                    Program::FreeState if !cookies => (Program::Free, None),
                    program => (program, probe.cookie),
                };
                let uprobe: &mut UProbe = part(&mut self.object, program.name());
                let location = UProbeAttachLocation::AbsoluteOffset(probe.offset);
                let id =
                    uprobe.attach(UProbeAttachPoint { location, cookie }, file, UProbeScope::AllProcesses)?;
                uprobe.take_link(id).map(Attached::PerfEvent)
            })
            .collect()
    }

    /// Selects a process; its children follow by themselves.
    ///
    /// # Errors
    /// When the map is full.
    pub fn select_process(&mut self, tgid: u32) -> Result<(), Error> {
        self.processes.insert(tgid, self.wanted, 0).map_err(|source| Error::Map { map: "processes", source })
    }

    /// From now on processes are selected with what is wanted so.
    pub fn want(&mut self, more: More) {
        self.wanted |= more.wanted();
    }

    /// Loads and attaches the programs that read more than TLS, or lets them go. They read that of processes and cgroups of
    /// which it is wanted.
    ///
    /// # Errors
    /// [`sockets::Error`]: TLS is seen all the same.
    pub fn see(&mut self, more: More, stage: Stage) -> Result<(), sockets::Error> {
        let sockets = match more {
            More::Plaintext => &mut self.plaintext,
            More::Stdio => &mut self.stdio,
        };
        sockets.change(&mut self.object, stage)
    }

    /// Loads and attaches the programs that tell the connection of what rustls seals and opens, or lets them go.
    ///
    /// # Errors
    /// [`sockets::Error`]: rustls cannot be seen.
    pub(super) fn see_records(&mut self, stage: Stage) -> Result<(), sockets::Error> {
        self.records.change(&mut self.object, stage)
    }

    /// What is attached by which kind of hook, some more than once; without the files and cgroups, of which there may be none yet.
    pub fn hooks(&self) -> Vec<String> {
        let uprobes: &[&str] = match self.uprobes {
            Uprobes::Multi(_) => &["uprobe_multi", "uretprobe_multi"],
            Uprobes::PerfEvents { .. } => &["uprobe", "uretprobe"],
        };
        let processes = PROCESSES.map(|(_, tracepoint)| format!("raw_tracepoint/{tracepoint}"));
        uprobes
            .iter()
            .map(|name| (*name).to_owned())
            .chain(processes)
            .chain(self.plaintext.hooks())
            .chain(self.stdio.hooks())
            .chain(self.records.hooks())
            .collect()
    }

    /// How that is seen: one of [`sockets::STATES`].
    pub fn state(&self, more: More) -> &'static str {
        match more {
            More::Plaintext => self.plaintext.state(),
            More::Stdio => self.stdio.state(),
        }
    }

    /// Whether a process is selected, by the kernel's own account.
    pub fn is_selected(&self, tgid: u32) -> bool {
        self.processes.get(&tgid, 0).is_ok()
    }

    /// Takes a process out of the selection.
    pub fn deselect_process(&mut self, tgid: u32) {
        // Absent is what is wanted.
        let _ = self.processes.remove(&tgid);
    }

    /// Starts telling of cgroups that are made and removed, and of the selected ones that programs run in.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn watch_cgroups(&mut self) -> Result<CgroupEvents, Error> {
        for (program, tracepoint) in [
            ("cgroup_made", "cgroup_mkdir"),
            ("cgroup_removed", "cgroup_rmdir"),
            ("container_exec", "sched_process_exec"),
        ] {
            let raw: &mut RawTracePoint = part(&mut self.object, program);
            raw.load()
                .and_then(|()| raw.attach(tracepoint))
                .map_err(|source| Error::Program { program, source })?;
        }
        let ring = RingBuf::try_from(take(&mut self.object, "cgroup_events"))
            .map_err(|source| Error::Map { map: "cgroup_events", source })?;
        let lost = Array::try_from(take(&mut self.object, "cgroup_events_lost"))
            .map_err(|source| Error::Map { map: "cgroup_events_lost", source })?;
        Ok(CgroupEvents { ring, lost })
    }
}

fn load_for_perf_events(object: &mut Ebpf) -> Result<Uprobes, Error> {
    let mut cookies = true;
    for program in Program::ALL {
        let uprobe: &mut UProbe = part(object, program.name());
        match uprobe.load() {
            Ok(()) => {}
            // bpf_get_attach_cookie came with 5.15; `free_enter` serves without.
            Err(_) if program == Program::FreeState => cookies = false,
            Err(source) => return Err(Error::Program { program: program.name(), source }),
        }
    }
    Ok(Uprobes::PerfEvents { cookies })
}

/// Selected cgroups, as the kernel reads them. What changes here holds once [`ControlMap::selection_changed`] says so.
pub struct CgroupMap(BpfHashMap<MapData, u64, u32>);

impl CgroupMap {
    /// Selects a cgroup and all below it. `wanted`: any of [`agentsight_ebpf::wanted`].
    ///
    /// # Errors
    /// When the map is full.
    pub fn insert(&mut self, id: u64, wanted: u32) -> Result<(), Error> {
        self.0.insert(id, wanted, 0).map_err(|source| Error::Map { map: "cgroups", source })
    }

    /// Takes a cgroup out of the selection.
    pub fn remove(&mut self, id: u64) {
        // Absent is what is wanted.
        let _ = self.0.remove(&id);
    }
}

/// Cgroups as they are made and removed.
pub struct CgroupEvents {
    /// The records.
    pub ring: RingBuf<MapData>,
    /// How many records the ring had no room for.
    pub lost: Array<MapData, u64>,
}

/// Selection and wake-up, as the kernel reads them.
pub struct ControlMap {
    map: Array<MapData, Control>,
    value: Control,
}

impl ControlMap {
    /// Says which processes are traced: any of [`agentsight_ebpf::select`].
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn select(&mut self, select: u32) -> Result<(), Error> {
        self.value.select = select;
        self.write()
    }

    /// Voids what was found of cgroups before the selected ones changed.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn selection_changed(&mut self) -> Result<(), Error> {
        self.value.selection = self.value.selection.wrapping_add(1);
        self.write()
    }

    /// Which hierarchy cgroup ids are of: one of [`agentsight_ebpf::hierarchy`].
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn hierarchy(&mut self, hierarchy: i32) -> Result<(), Error> {
        self.value.hierarchy = hierarchy;
        self.write()
    }

    /// Whether the next record is to wake the agent.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn asleep(&mut self, asleep: bool) -> Result<(), Error> {
        self.value.asleep = u32::from(asleep);
        self.write()
    }

    fn write(&mut self) -> Result<(), Error> {
        self.map.set(0, self.value, 0).map_err(|source| Error::Map { map: "control", source })
    }
}

/// What was captured and lost, added up over CPUs.
pub struct CounterMap(PerCpuArray<MapData, Counters>);

impl CounterMap {
    /// Reads the counters.
    ///
    /// # Errors
    /// When the kernel does not give them.
    pub fn read(&self) -> Result<Counters, Error> {
        let mut sum = Counters::default();
        for cpu in self.0.get(&0, 0).map_err(|source| Error::Map { map: "counters", source })?.iter() {
            sum += *cpu;
        }
        Ok(sum)
    }
}

/// A program by the name that `ebpf` gave it.
pub(super) fn part<'a, T>(object: &'a mut Ebpf, name: &str) -> &'a mut T
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program>,
    <&'a mut T as TryFrom<&'a mut aya::programs::Program>>::Error: std::fmt::Debug,
{
    let program = object.program_mut(name).expect("the object is built from this tree and has the program");
    program.try_into().expect("the program's section says its type")
}

fn take(object: &mut Ebpf, name: &str) -> aya::maps::Map {
    object.take_map(name).expect("the object is built from this tree and has the map")
}

/// An error with its sources and, of the verifier's words, those before its statistics.
pub(super) fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    let said = text.lines().map(str::trim).take_while(|line| !line.starts_with("verification time"));
    said.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
