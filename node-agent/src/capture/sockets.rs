//! The programs at the kernel's sockets and pipes: those that read plain HTTP and MCP over standard input and output, each there
//! only while somebody asks for it, and those that tell the connection of what rustls seals and opens, there only while a
//! program with rustls is probed.
//!
//! They sit at functions of the kernel's TCP and Unix sockets (fentry and fexit), which see every way to read and to write. Where the kernel
//! refuses that, tracepoints of its sockets stand in.

use super::programs::{one_line, part};
use aya::programs::fentry::FEntryLink;
use aya::programs::fexit::FExitLink;
use aya::programs::raw_trace_point::RawTracePointLink;
use aya::programs::{FEntry, FExit, ProgramError, RawTracePoint};
use aya::{Btf, BtfError, Ebpf};
use aya_obj::btf::BtfKind;

/// How far the programs are in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Stage {
    /// Not at all.
    #[default]
    Absent,
    /// Loaded, so that they can be attached in time; nothing runs through them.
    Loaded,
    /// At work.
    Attached,
}

/// Why the programs of a family are not at work.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// No type information of the running kernel.
    #[error("cannot read the kernel's type information (BTF, /sys/kernel/btf/vmlinux): {0}")]
    Btf(#[from] BtfError),
    /// The kernel lets us to neither place.
    #[error(
        "{family} is not seen: the kernel attaches our programs neither to its functions (fentry, on aarch64 since Linux \
         6.0): {functions}; nor to tracepoints in their place (since Linux {since}): {tracepoints}"
    )]
    Refused {
        /// What they were for.
        family: &'static str,
        /// The first kernel with those tracepoints and what the programs need there.
        since: &'static str,
        /// What it said of the functions.
        functions: String,
        /// What it said of the tracepoints.
        tracepoints: String,
    },
}

/// Where the programs are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hooks {
    Functions,
    Tracepoints,
}

/// What [`Sockets::state`] can be: not asked for, not possible, or by what it is done.
pub const STATES: [&str; 4] = ["off", "refused", "functions", "tracepoints"];

/// Programs that are at work together.
#[derive(PartialEq, Eq)]
pub(super) struct Family {
    /// What is seen by them.
    name: &'static str,
    /// The first kernel in which the tracepoints serve.
    since: &'static str,
    /// Those at the beginning of a function, with its name; with its names from the newest on, where it has had several.
    entries: &'static [(&'static str, &'static str)],
    /// Those at the end of a function.
    exits: &'static [(&'static str, &'static str)],
    /// Those at the end of a function of which kernels have different forms. The verifier refuses a program that looks behind
    /// the last argument: so the first that it takes is the right one.
    alternatives: &'static [[(&'static str, &'static str); 2]],
    /// What stands in for all of them, with the tracepoint.
    tracepoints: &'static [(&'static str, &'static str)],
}

/// The programs of `socket.bpf.h`, which read plain HTTP.
pub(super) static PLAINTEXT: Family = Family {
    name: "plain HTTP",
    since: "6.3",
    entries: &[
        ("socket_write", "tcp_sendmsg"),
        ("socket_close", "tcp_close"),
        ("local_write", "unix_stream_sendmsg"),
        ("local_close", "unix_release"),
    ],
    exits: &[
        ("socket_write_leave", "tcp_sendmsg"),
        ("local_write_leave", "unix_stream_sendmsg"),
        ("local_write_leave_again", "unix_stream_sendmsg"),
        ("local_read", "unix_stream_recvmsg"),
        ("local_read_again", "unix_stream_recvmsg"),
        ("local_splice", "unix_stream_splice_read"),
        ("local_splice_again", "unix_stream_splice_read"),
    ],
    // The function has had six arguments, five (since Linux 5.19) and four (7.3). Each is there twice: see `socket.bpf.h`.
    alternatives: &[
        [("read_six", "tcp_recvmsg"), ("read_six_again", "tcp_recvmsg")],
        [("read_five", "tcp_recvmsg"), ("read_five_again", "tcp_recvmsg")],
        [("read_four", "tcp_recvmsg"), ("read_four_again", "tcp_recvmsg")],
    ],
    tracepoints: &[
        ("socket_sent", "sock_send_length"),
        ("socket_sent_again", "sock_send_length"),
        ("socket_received", "sock_recv_length"),
        ("socket_received_again", "sock_recv_length"),
        ("socket_destroyed", "tcp_destroy_sock"),
    ],
};

/// The programs of `rustls.bpf.h` that tell the connection of a record.
pub(super) static RECORDS: Family = Family {
    name: "rustls",
    since: "6.3",
    entries: &[
        ("record_write", "tcp_sendmsg"),
        ("record_write_again", "tcp_sendmsg"),
        ("record_read", "tcp_recvmsg"),
        ("record_read_again", "tcp_recvmsg"),
        ("record_close", "tcp_close"),
    ],
    exits: &[],
    alternatives: &[],
    tracepoints: &[
        ("record_sent", "sock_send_length"),
        ("record_sent_again", "sock_send_length"),
        ("record_received", "sock_recv_length"),
        ("record_received_again", "sock_recv_length"),
        ("record_socket_destroyed", "tcp_destroy_sock"),
    ],
};

/// The programs of `stdio.bpf.h`. Each is there twice: see `socket.bpf.h`.
pub(super) static STDIO: Family = Family {
    name: "MCP over standard input and output",
    since: "5.15",
    entries: &[
        ("pipe_write_enter", PIPE_WRITE),
        ("pipe_write_enter_again", PIPE_WRITE),
        ("pair_write_enter", "unix_stream_sendmsg"),
        ("pair_write_enter_again", "unix_stream_sendmsg"),
    ],
    exits: &[
        ("pipe_write_leave", PIPE_WRITE),
        ("pipe_write_leave_again", PIPE_WRITE),
        ("pipe_read_leave", PIPE_READ),
        ("pipe_read_leave_again", PIPE_READ),
        ("pair_write_leave", "unix_stream_sendmsg"),
        ("pair_write_leave_again", "unix_stream_sendmsg"),
        ("pair_read_leave", "unix_stream_recvmsg"),
        ("pair_read_leave_again", "unix_stream_recvmsg"),
    ],
    alternatives: &[],
    tracepoints: &[
        ("call_enter", "sys_enter"),
        ("call_enter_again", "sys_enter"),
        ("call_leave", "sys_exit"),
        ("call_leave_again", "sys_exit"),
    ],
};

/// Since Linux 6.16 pipes with a name have functions of their own.
const PIPE_WRITE: &str = "anon_pipe_write|pipe_write";
const PIPE_READ: &str = "anon_pipe_read|pipe_read";

/// Of the names of a function the one that this kernel has.
pub(super) fn present<'a>(names: &'a str, btf: &Btf) -> &'a str {
    let mut named = names.split('|');
    let found = named.find(|name| btf.id_by_type_name_kind(name, BtfKind::Func).is_ok());
    found.or_else(|| names.rsplit('|').next()).unwrap_or(names)
}

impl Family {
    fn exits(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        self.alternatives.iter().flatten().chain(self.exits).copied()
    }
}

/// The programs of a family, as far as they are in the kernel.
pub(super) struct Sockets {
    family: &'static Family,
    stage: Stage,
    hooks: Option<Hooks>,
    links: Vec<Held>,
    /// It was asked for, and the kernel refused.
    refused: bool,
}

/// An attached program. Dropping it detaches it.
enum Held {
    Entry(#[expect(dead_code, reason = "held for what its end does")] FEntryLink),
    Exit(#[expect(dead_code, reason = "held for what its end does")] FExitLink),
    Tracepoint(#[expect(dead_code, reason = "held for what its end does")] RawTracePointLink),
}

impl Sockets {
    /// Nothing of it yet.
    pub(super) fn of(family: &'static Family) -> Sockets {
        Sockets { family, stage: Stage::Absent, hooks: None, links: Vec::new(), refused: false }
    }

    pub(super) fn state(&self) -> &'static str {
        match (self.stage, self.hooks) {
            _ if self.refused => "refused",
            (Stage::Attached, Some(Hooks::Functions)) => "functions",
            (Stage::Attached, Some(Hooks::Tracepoints)) => "tracepoints",
            _ => "off",
        }
    }

    /// The hooks that are in use, some of them more than once.
    pub(super) fn hooks(&self) -> Vec<String> {
        let name = |kind: &str, place: &str| format!("{kind}/{}", place.rsplit('|').next().unwrap_or(place));
        let family = self.family;
        match (self.stage, self.hooks) {
            (Stage::Attached, Some(Hooks::Functions)) => {
                let exits = family.exits().map(|(_, function)| name("fexit", function));
                family.entries.iter().map(|(_, function)| name("fentry", function)).chain(exits).collect()
            }
            (Stage::Attached, Some(Hooks::Tracepoints)) => {
                family.tracepoints.iter().map(|(_, place)| name("raw_tracepoint", place)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Brings the programs of `object` to that stage.
    pub(super) fn change(&mut self, object: &mut Ebpf, stage: Stage) -> Result<(), Error> {
        if stage == self.stage {
            return Ok(());
        }
        self.refused = false;
        if stage < Stage::Attached {
            self.links.clear();
        }
        if stage == Stage::Absent {
            unload(object, self.family);
            self.hooks = None;
        }
        self.stage = stage;
        if stage > Stage::Absent
            && let Err(error) = self.advance(object, stage)
        {
            self.links.clear();
            unload(object, self.family);
            *self = Sockets { refused: true, ..Sockets::of(self.family) };
            return Err(error);
        }
        if stage == Stage::Attached {
            tracing::info!(what = self.family.name, by = self.state(), "sockets are watched");
        }
        Ok(())
    }

    fn advance(&mut self, object: &mut Ebpf, stage: Stage) -> Result<(), Error> {
        let mut functions = None;
        if self.hooks != Some(Hooks::Tracepoints) {
            match self.by_functions(object, stage)? {
                Ok(()) => return Ok(()),
                Err(error) => functions = Some(error),
            }
            self.links.clear();
            unload(object, self.family);
        }
        self.by_tracepoints(object, stage).map_err(|error| Error::Refused {
            family: self.family.name,
            since: self.family.since,
            functions: functions.as_ref().map_or_else(String::new, |error| one_line(error)),
            tracepoints: one_line(&error),
        })
    }

    fn by_functions(&mut self, object: &mut Ebpf, stage: Stage) -> Result<Result<(), ProgramError>, Error> {
        if self.hooks.is_none() {
            let btf = Btf::from_sys_fs()?;
            if let Err(error) = load_functions(object, self.family, &btf) {
                return Ok(Err(error));
            }
            self.hooks = Some(Hooks::Functions);
        }
        Ok(if stage == Stage::Attached { self.attach_functions(object) } else { Ok(()) })
    }

    fn attach_functions(&mut self, object: &mut Ebpf) -> Result<(), ProgramError> {
        for (program, _) in self.family.entries {
            let program: &mut FEntry = part(object, program);
            let id = program.attach()?;
            self.links.push(Held::Entry(program.take_link(id)?));
        }
        for (program, _) in self.family.exits() {
            let program: &mut FExit = part(object, program);
            if program.fd().is_err() {
                continue; // not the one for this kernel
            }
            let id = program.attach()?;
            self.links.push(Held::Exit(program.take_link(id)?));
        }
        Ok(())
    }

    fn by_tracepoints(&mut self, object: &mut Ebpf, stage: Stage) -> Result<(), ProgramError> {
        if self.hooks.is_none() {
            for (program, _) in self.family.tracepoints {
                let program: &mut RawTracePoint = part(object, program);
                program.load()?;
            }
            self.hooks = Some(Hooks::Tracepoints);
        }
        if stage < Stage::Attached {
            return Ok(());
        }
        for (program, tracepoint) in self.family.tracepoints {
            let program: &mut RawTracePoint = part(object, program);
            let id = program.attach(tracepoint)?;
            self.links.push(Held::Tracepoint(program.take_link(id)?));
        }
        Ok(())
    }
}

fn load_functions(object: &mut Ebpf, family: &Family, btf: &Btf) -> Result<(), ProgramError> {
    for (program, function) in family.entries {
        let program: &mut FEntry = part(object, program);
        program.load(present(function, btf), btf)?;
    }
    let mut load = |(program, function): (&str, &str)| {
        let program: &mut FExit = part(object, program);
        program.load(present(function, btf), btf)
    };
    for exit in family.exits {
        load(*exit)?;
    }
    let mut loaded = Ok(());
    for [first, again] in family.alternatives {
        loaded = load(*first).and_then(|()| load(*again));
        if loaded.is_ok() {
            break;
        }
    }
    loaded
}

/// Takes out of the kernel what is loaded.
fn unload(object: &mut Ebpf, family: &Family) {
    // A program that is not loaded says so, which is what is wanted.
    for (program, _) in family.entries {
        let program: &mut FEntry = part(object, program);
        let _ = program.unload();
    }
    for (program, _) in family.exits() {
        let program: &mut FExit = part(object, program);
        let _ = program.unload();
    }
    for (program, _) in family.tracepoints {
        let program: &mut RawTracePoint = part(object, program);
        let _ = program.unload();
    }
}

/// The function that a program of ours is for, for those that try them one by one.
pub(super) fn function_of(program: &str) -> Option<&'static str> {
    let of = |family: &Family| family.entries.iter().copied().chain(family.exits()).collect::<Vec<_>>();
    let all = [&PLAINTEXT, &STDIO, &RECORDS].into_iter().flat_map(of);
    all.into_iter().find(|(name, _)| *name == program).map(|(_, function)| function)
}
