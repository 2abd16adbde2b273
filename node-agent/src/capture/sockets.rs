//! The programs that read plain HTTP: there only while somebody asks for it.
//!
//! They sit at functions of the kernel's TCP (fentry and fexit), which see every way to read and to write. Where the kernel
//! refuses that, tracepoints of its sockets stand in.

use super::programs::{one_line, part};
use aya::programs::fentry::FEntryLink;
use aya::programs::fexit::FExitLink;
use aya::programs::raw_trace_point::RawTracePointLink;
use aya::programs::{FEntry, FExit, ProgramError, RawTracePoint};
use aya::{Btf, BtfError, Ebpf};

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

/// Why plain HTTP is not seen.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// No type information of the running kernel.
    #[error("cannot read the kernel's type information (BTF, /sys/kernel/btf/vmlinux): {0}")]
    Btf(#[from] BtfError),
    /// The kernel lets us to neither place.
    #[error(
        "plain HTTP is not seen: the kernel attaches our programs neither to its functions (fentry, on aarch64 since Linux \
         6.0): {functions}; nor to tracepoints of its sockets (since Linux 6.3): {tracepoints}"
    )]
    Refused {
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

/// The programs that read plain HTTP.
#[derive(Default)]
pub(super) struct Sockets {
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

const ENTRIES: [(&str, &str); 2] = [("socket_write", "tcp_sendmsg"), ("socket_close", "tcp_close")];
const WRITE_EXIT: (&str, &str) = ("socket_write_leave", "tcp_sendmsg");
/// The function has had six arguments, five (since Linux 5.19) and four (7.3). The verifier refuses a program that looks
/// behind the last: so the first that it takes is the right one. Each is there twice: see `socket.bpf.h`.
const READ_EXITS: [[(&str, &str); 2]; 3] = [
    [("read_six", "tcp_recvmsg"), ("read_six_again", "tcp_recvmsg")],
    [("read_five", "tcp_recvmsg"), ("read_five_again", "tcp_recvmsg")],
    [("read_four", "tcp_recvmsg"), ("read_four_again", "tcp_recvmsg")],
];
const TRACEPOINTS: [(&str, &str); 5] = [
    ("socket_sent", "sock_send_length"),
    ("socket_sent_again", "sock_send_length"),
    ("socket_received", "sock_recv_length"),
    ("socket_received_again", "sock_recv_length"),
    ("socket_destroyed", "tcp_destroy_sock"),
];

fn exits() -> impl Iterator<Item = (&'static str, &'static str)> {
    READ_EXITS.into_iter().flatten().chain([WRITE_EXIT])
}

impl Sockets {
    pub(super) fn state(&self) -> &'static str {
        match (self.stage, self.hooks) {
            _ if self.refused => "refused",
            (Stage::Attached, Some(Hooks::Functions)) => "functions",
            (Stage::Attached, Some(Hooks::Tracepoints)) => "tracepoints",
            _ => "off",
        }
    }

    /// The hooks that are in use.
    pub(super) fn hooks(&self) -> Vec<String> {
        let name = |kind: &str, function: &str| format!("{kind}/{function}");
        let mut hooks: Vec<String> = match (self.stage, self.hooks) {
            (Stage::Attached, Some(Hooks::Functions)) => {
                let exits = exits().map(|(_, function)| name("fexit", function));
                ENTRIES.iter().map(|(_, function)| name("fentry", function)).chain(exits).collect()
            }
            (Stage::Attached, Some(Hooks::Tracepoints)) => {
                TRACEPOINTS.iter().map(|(_, tracepoint)| name("raw_tracepoint", tracepoint)).collect()
            }
            _ => Vec::new(),
        };
        hooks.dedup();
        hooks
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
            unload(object);
            self.hooks = None;
        }
        self.stage = stage;
        if stage > Stage::Absent
            && let Err(error) = self.advance(object, stage)
        {
            self.links.clear();
            unload(object);
            *self = Sockets { refused: true, ..Sockets::default() };
            return Err(error);
        }
        if stage == Stage::Attached {
            tracing::info!(by = self.state(), "plain HTTP is seen");
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
            unload(object);
        }
        self.by_tracepoints(object, stage).map_err(|error| Error::Refused {
            functions: functions.as_ref().map_or_else(String::new, |error| one_line(error)),
            tracepoints: one_line(&error),
        })
    }

    fn by_functions(&mut self, object: &mut Ebpf, stage: Stage) -> Result<Result<(), ProgramError>, Error> {
        if self.hooks.is_none() {
            let btf = Btf::from_sys_fs()?;
            if let Err(error) = load_functions(object, &btf) {
                return Ok(Err(error));
            }
            self.hooks = Some(Hooks::Functions);
        }
        Ok(if stage == Stage::Attached { self.attach_functions(object) } else { Ok(()) })
    }

    fn attach_functions(&mut self, object: &mut Ebpf) -> Result<(), ProgramError> {
        for (program, _) in ENTRIES {
            let program: &mut FEntry = part(object, program);
            let id = program.attach()?;
            self.links.push(Held::Entry(program.take_link(id)?));
        }
        for (program, _) in exits() {
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
            for (program, _) in TRACEPOINTS {
                let program: &mut RawTracePoint = part(object, program);
                program.load()?;
            }
            self.hooks = Some(Hooks::Tracepoints);
        }
        if stage < Stage::Attached {
            return Ok(());
        }
        for (program, tracepoint) in TRACEPOINTS {
            let program: &mut RawTracePoint = part(object, program);
            let id = program.attach(tracepoint)?;
            self.links.push(Held::Tracepoint(program.take_link(id)?));
        }
        Ok(())
    }
}

fn load_functions(object: &mut Ebpf, btf: &Btf) -> Result<(), ProgramError> {
    for (program, function) in ENTRIES {
        let program: &mut FEntry = part(object, program);
        program.load(function, btf)?;
    }
    let mut load = |(program, function): (&str, &str)| {
        let program: &mut FExit = part(object, program);
        program.load(function, btf)
    };
    load(WRITE_EXIT)?;
    let [six, five, four] = READ_EXITS;
    let mut both = |[first, again]: [_; 2]| load(first).and_then(|()| load(again));
    both(six).or_else(|_| both(five)).or_else(|_| both(four))
}

/// Takes out of the kernel what is loaded.
fn unload(object: &mut Ebpf) {
    // A program that is not loaded says so, which is what is wanted.
    for (program, _) in ENTRIES {
        let program: &mut FEntry = part(object, program);
        let _ = program.unload();
    }
    for (program, _) in exits() {
        let program: &mut FExit = part(object, program);
        let _ = program.unload();
    }
    for (program, _) in TRACEPOINTS {
        let program: &mut RawTracePoint = part(object, program);
        let _ = program.unload();
    }
}

/// The function or tracepoint that a program of ours is for, for those that try them one by one.
pub(super) fn function_of(program: &str) -> Option<&'static str> {
    ENTRIES.into_iter().chain(exits()).find(|(name, _)| *name == program).map(|(_, function)| function)
}
