//! Uprobes by links of the kernel's kind `uprobe_multi` (Linux 6.6): one link holds all places of a program in a file.
//!
//! A probe by a perf event costs two grace periods when it goes, one after the other under a lock that all of the machine
//! shares (`event_mutex`), a tenth of a second each. A link of this kind waits for one, for all of its places, beside others.
//!
//! aya does not know the kind: a program for it is loaded with another `expected_attach_type`. It still parses, relocates
//! and keeps the maps; here is only what it lacks.

use super::library::{Plan, Probe, Program};
use super::programs::Error;
use agentsight_ebpf::OBJECT;
use aya::programs::ProgramError;
use aya::sys::SyscallError;
use aya::{Btf, Ebpf, EbpfError};
use aya_obj::generated::{
    BPF_F_UPROBE_MULTI_RETURN, bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type,
};
use aya_obj::{Object, ProgramSection, VerifierLog};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const ATTACH_TYPE: u32 = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
/// Bytes that the verifier may say: its last words, of which the reason of a refusal is part.
const LOG_BYTES: usize = 64 << 10;

/// The uprobe programs, loaded for such links.
pub(super) struct Multi {
    programs: HashMap<Program, Loaded>,
}

struct Loaded {
    program: OwnedFd,
    /// Whether it runs where a function returns.
    at_return: bool,
}

/// The places of one program in one file. Dropping it takes them back.
pub(super) struct Link {
    _held: OwnedFd,
}

impl Multi {
    /// Loads the programs onto the maps of `object`; none where the kernel is older than such links.
    ///
    /// # Errors
    /// When the kernel refuses a program.
    pub(super) fn load(object: &Ebpf, btf: &Btf) -> Result<Option<Multi>, Error> {
        if !is_supported() {
            return Ok(None);
        }
        let parsed = relocated(object, btf).map_err(Error::Object)?;
        let load = |program: Program| {
            let name = program.name();
            let described =
                parsed.programs.get(name).expect("the object is built from this tree and has the program");
            let instructions = &parsed.functions[&described.function_key()].instructions;
            let program_fd = load(name, instructions, &described.license)
                .map_err(|source| Error::Program { program: name, source })?;
            let at_return = matches!(described.section, ProgramSection::URetProbe { .. });
            Ok((program, Loaded { program: program_fd, at_return }))
        };
        let programs = Program::ALL.into_iter().map(load).collect::<Result<_, Error>>()?;
        Ok(Some(Multi { programs }))
    }

    /// Attaches a plan's probes to a file, for all processes: a link for each program of it.
    ///
    /// # Errors
    /// What the kernel said to the first link that it refused; the others are taken back.
    pub(super) fn attach(&self, file: &Path, plan: &Plan) -> Result<Vec<Link>, ProgramError> {
        let path = CString::new(file.as_os_str().as_bytes()).map_err(|_| {
            ProgramError::SyscallError(SyscallError {
                call: "bpf_link_create",
                io_error: io::ErrorKind::InvalidInput.into(),
            })
        })?;
        // In the plan's order: what frees state comes before what makes some.
        let mut by_program: Vec<(Program, Vec<&Probe>)> = Vec::new();
        for probe in plan.probes() {
            match by_program.iter_mut().find(|(program, _)| *program == probe.program) {
                Some((_, probes)) => probes.push(probe),
                None => by_program.push((probe.program, vec![probe])),
            }
        }
        by_program
            .into_iter()
            .map(|(program, probes)| {
                let loaded = &self.programs[&program];
                let offsets: Vec<u64> = probes.iter().map(|probe| probe.offset).collect();
                let cookies: Vec<u64> = probes.iter().map(|probe| probe.cookie.unwrap_or(0)).collect();
                link(loaded, &path, &offsets, &cookies).map(|held| Link { _held: held }).map_err(|io_error| {
                    ProgramError::SyscallError(SyscallError { call: "bpf_link_create", io_error })
                })
            })
            .collect()
    }
}

/// The object with what this kernel and these maps are, as [`aya::EbpfLoader::load`] makes it for itself.
fn relocated(object: &Ebpf, btf: &Btf) -> Result<Object, EbpfError> {
    let mut parsed = Object::parse(OBJECT)?;
    parsed.relocate_btf(btf)?;
    let sections = parsed.functions.keys().map(|(section, _)| *section).collect();
    let described = std::mem::take(&mut parsed.maps);
    let maps = object.maps().filter_map(|(name, map)| Some((name, descriptor(map)?, described.get(name)?)));
    parsed.relocate_maps(maps, &sections)?;
    parsed.relocate_calls(&sections)?;
    parsed.sanitize_functions(aya::features());
    Ok(parsed)
}

/// The kinds of maps that our programs use.
fn descriptor(map: &aya::maps::Map) -> Option<RawFd> {
    use aya::maps::Map;
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::RingBuf(data) => Some(data.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}

/// Whether the kernel knows such links. One that does looks at the path and finds no file there (EBADF); one that does
/// not refuses the kind of link (EINVAL).
fn is_supported() -> bool {
    /// `r0 = 0; exit`.
    const NOTHING: [(u8, i32); 2] = [(0xb7, 0), (0x95, 0)];
    let instructions = NOTHING.map(|(code, imm)| {
        // SAFETY: an instruction is plain numbers, for which zero is a value.
        bpf_insn { code, imm, ..unsafe { std::mem::zeroed() } }
    });
    let Ok(program) = load("probe", &instructions, c"GPL") else { return false };
    let loaded = Loaded { program, at_return: false };
    link(&loaded, c"/", &[0], &[0]).is_err_and(|error| error.raw_os_error() == Some(libc::EBADF))
}

fn load(name: &str, instructions: &[bpf_insn], license: &CStr) -> Result<OwnedFd, ProgramError> {
    try_to_load(name, instructions, license, &mut []).or_else(|io_error| {
        // Only now the verifier is asked for its words: they cost it time.
        let mut log = vec![0; LOG_BYTES];
        try_to_load(name, instructions, license, &mut log).map_err(|_| {
            let said = CStr::from_bytes_until_nul(&log).unwrap_or_default();
            let verifier_log = VerifierLog::new(said.to_string_lossy().into_owned());
            ProgramError::LoadError { io_error, verifier_log }
        })
    })
}

fn try_to_load(name: &str, instructions: &[bpf_insn], license: &CStr, log: &mut [u8]) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are plain numbers, for which zero is a value.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: all bytes of the union are zero, a value of each of its parts.
    let load = unsafe { &mut attributes.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
    load.expected_attach_type = ATTACH_TYPE;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    load.license = license.as_ptr() as u64;
    // The last byte stays zero.
    let room = load.prog_name.len() - 1;
    for (to, from) in load.prog_name[..room].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    if !log.is_empty() {
        load.log_level = aya::VerifierLogLevel::VERBOSE.bits() | aya::VerifierLogLevel::STATS.bits();
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
    }
    // SAFETY: what the attributes point to lives until the call is over, and has the sizes that they say.
    unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attributes) }
}

fn link(to: &Loaded, path: &CStr, offsets: &[u64], cookies: &[u64]) -> io::Result<OwnedFd> {
    debug_assert_eq!(offsets.len(), cookies.len());
    // SAFETY: the attributes are plain numbers, for which zero is a value.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: all bytes of the union are zero, a value of each of its parts.
    let create = unsafe { &mut attributes.link_create };
    create.__bindgen_anon_1.prog_fd = to.program.as_raw_fd().cast_unsigned();
    create.attach_type = ATTACH_TYPE;
    // SAFETY: as above.
    let multi = unsafe { &mut create.__bindgen_anon_3.uprobe_multi };
    multi.path = path.as_ptr() as u64;
    multi.offsets = offsets.as_ptr() as u64;
    multi.cookies = cookies.as_ptr() as u64;
    multi.cnt = u32::try_from(offsets.len()).map_err(io::Error::other)?;
    multi.flags = if to.at_return { BPF_F_UPROBE_MULTI_RETURN } else { 0 };
    // SAFETY: the path ends with a zero, and there are as many offsets and cookies as the attributes say.
    unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attributes) }
}

/// A command of `bpf(2)` that gives a descriptor.
///
/// # Safety
/// Whatever the attributes point to is alive and as long as they say.
unsafe fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    let attributes: *mut bpf_attr = attributes;
    // SAFETY: by the caller's promise; the size is the union's own.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attributes, size_of::<bpf_attr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel made it for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
