//! TLS libraries inside of programs that have no symbols: found by what their code says of itself.
//!
//! BoringSSL and OpenSSL tell the file, the line and the reason of each error, and OpenSSL the function, too. So the
//! function that uses exactly the reasons of `SSL_write` is `SSL_write`, whatever the compiler made of it. What is
//! looked for stands in `anchors.json`, with the programs in which it was seen to be right.
//!
//! A wrong place would harm the program that is traced. So a function is taken only if it is the only candidate, if
//! somebody calls its first instruction, if its code can be read from there to what it was found by, and if what it
//! pushes is what it pops.

use super::image::{Image, Reference, decode};
use super::library::{Place, is_emulated};
use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::LazyLock;

/// The longest way from a function's start to what it is found by, in bytes.
const SPAN: u64 = 16 << 10;
/// Starts that are tried for one reference.
const STARTS: usize = 64;
/// Instructions that are decoded for one file.
const BUDGET: usize = 8 << 20;

/// A TLS library's functions.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Stripped {
    /// No trace of a library that is known.
    Absent,
    /// It is there, but its functions are not certain.
    Uncertain,
    /// `SSL_read(ssl, buffer, int)` and `SSL_write`.
    BoringSsl { read: Place, write: Place },
    /// `ssl_read_internal(ssl, buffer, size, *moved)` and `ssl_write_internal`, which may take flags before the last.
    OpenSsl { read: Place, write: Place, flags: bool },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Anchors {
    boringssl: BoringSsl,
    openssl: OpenSsl,
    pub(super) aws_lc: AwsLc,
    pub(super) ring: Ring,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BoringSsl {
    file: String,
    /// ERR_LIB_SSL.
    library: u32,
    /// The reasons of SSL_write.
    write: BTreeSet<u32>,
    read: ReadAnchor,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadAnchor {
    reason: u32,
    lines_before_write: BTreeSet<u32>,
}

#[derive(Deserialize)]
struct OpenSsl {
    file: String,
    read: String,
    write: String,
    /// How near to the function's name its code speaks of the file, in bytes.
    within: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AwsLc {
    pub(super) file: String,
    /// ERR_LIB_CIPHER.
    pub(super) library: u32,
    /// What each function reports.
    pub(super) seal: BTreeSet<u32>,
    pub(super) open: Vec<BTreeSet<u32>>,
    pub(super) seal_scatter: BTreeSet<u32>,
    pub(super) open_gather: BTreeSet<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ring {
    pub(super) aes128: Algorithm,
    pub(super) aes256: Algorithm,
    pub(super) chacha20: Algorithm,
    /// How near to each other the tables of algorithms stand, in bytes.
    pub(super) within: u64,
}

/// What stands behind the functions of an algorithm.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Algorithm {
    pub(super) key_length: u64,
    pub(super) id: u64,
}

pub(super) static ANCHORS: LazyLock<Anchors> = LazyLock::new(|| {
    serde_json::from_str(include_str!("anchors.json")).expect("a file of this tree, read by a test")
});

/// Looks for a library.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn find(image: &Image<'_>) -> io::Result<Stripped> {
    let anchors = &*ANCHORS;
    let strings = image.strings_ending_with(&[
        &anchors.boringssl.file,
        &anchors.openssl.file,
        &anchors.openssl.read,
        &anchors.openssl.write,
    ])?;
    let mut search = Search::new(image);
    // Of both, OpenSSL's file name is the start of BoringSSL's, but each ends with a NUL.
    if !strings[0].is_empty() {
        match search.boringssl(&anchors.boringssl, &strings[0])? {
            Stripped::Absent => {}
            found => return Ok(found),
        }
    }
    if strings[1].is_empty() || strings[2].is_empty() || strings[3].is_empty() {
        return Ok(Stripped::Absent);
    }
    search.openssl(&anchors.openssl, &strings)
}

/// The search through one file.
pub(super) struct Search<'a, 'b> {
    image: &'a Image<'b>,
    budget: usize,
    /// Functions may be called by way of pointers only.
    by_pointers: bool,
}

/// A place that reports an error.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Site {
    pub(super) reason: u32,
    line: u32,
}

/// What some places report.
pub(super) fn reasons(sites: &[Site]) -> BTreeSet<u32> {
    sites.iter().map(|site| site.reason).collect()
}

impl<'a, 'b> Search<'a, 'b> {
    pub(super) fn new(image: &'a Image<'b>) -> Self {
        Search { image, budget: BUDGET, by_pointers: false }
    }

    /// For functions that another language calls, by way of a table of pointers.
    pub(super) fn by_pointers(self) -> Self {
        Search { by_pointers: true, ..self }
    }

    /// The functions that report errors of a library with the name of a file, which stands at `files`: each with what it
    /// reports. None where no code speaks of the file.
    pub(super) fn reporting(
        &mut self,
        library: u32,
        files: &[u64],
    ) -> io::Result<Option<BTreeMap<u64, Vec<Site>>>> {
        let references = self.image.references(files)?;
        if references.is_empty() {
            return Ok(None);
        }
        let mut functions: BTreeMap<u64, Vec<Site>> = BTreeMap::new();
        for (entry, reference, code) in self.functions(&references)? {
            let sites = functions.entry(entry).or_default();
            sites.extend(site(&code, reference, library));
        }
        Ok(Some(functions))
    }

    fn boringssl(&mut self, anchors: &BoringSsl, files: &[u64]) -> io::Result<Stripped> {
        let Some(functions) = self.reporting(anchors.library, files)? else { return Ok(Stripped::Absent) };
        let write = only(functions.iter().filter(|(_, sites)| reasons(sites) == anchors.write));
        let Some((write, sites)) = write else { return Ok(Stripped::Uncertain) };
        let line = only(sites.iter().filter(|site| site.reason == anchors.read.reason)).map(|site| site.line);
        let Some(line) = line else { return Ok(Stripped::Uncertain) };
        let reads = functions.iter().filter(|(entry, sites)| {
            let is_before = |site: &Site| {
                line.checked_sub(site.line)
                    .is_some_and(|lines| anchors.read.lines_before_write.contains(&lines))
            };
            *entry != write && sites.iter().any(|site| site.reason == anchors.read.reason && is_before(site))
        });
        let Some((read, _)) = only(reads) else { return Ok(Stripped::Uncertain) };
        Ok(match (self.place(*read), self.place(*write)) {
            (Some(read), Some(write)) => Stripped::BoringSsl { read, write },
            _ => Stripped::Uncertain,
        })
    }

    fn openssl(&mut self, anchors: &OpenSsl, strings: &[Vec<u64>]) -> io::Result<Stripped> {
        let all: Vec<u64> = strings[1..].concat();
        let references = self.image.references(&all)?;
        let files: Vec<u64> = references
            .iter()
            .filter(|reference| strings[1].contains(&reference.target))
            .map(|reference| reference.at)
            .collect();
        let of = |names: &[u64]| -> Vec<Reference> {
            let is_near = |reference: &&Reference| {
                files.iter().any(|file| file.abs_diff(reference.at) <= anchors.within)
            };
            references
                .iter()
                .filter(|reference| names.contains(&reference.target))
                .filter(is_near)
                .copied()
                .collect()
        };
        let (reads, writes) = (of(&strings[2]), of(&strings[3]));
        if reads.is_empty() && writes.is_empty() {
            return Ok(Stripped::Absent);
        }
        let both: Vec<Reference> = [reads.as_slice(), writes.as_slice()].concat();
        let functions = self.functions(&both)?;
        let entry = |references: &[Reference]| {
            let found: Option<BTreeSet<u64>> = references
                .iter()
                .map(|one| functions.iter().find(|(_, reference, _)| reference == one).map(|found| found.0))
                .collect();
            found.and_then(|found| only(found.into_iter()))
        };
        let (Some(read), Some(write)) = (entry(&reads), entry(&writes)) else {
            return Ok(Stripped::Uncertain);
        };
        let (read_takes, write_takes) = (self.arguments(read), self.arguments(write));
        let flags = match (read_takes, write_takes) {
            (Some(4), Some(4)) => false,
            (Some(4), Some(5)) => true,
            _ => return Ok(Stripped::Uncertain),
        };
        Ok(match (self.place(read), self.place(write)) {
            (Some(read), Some(write)) if read != write => Stripped::OpenSsl { read, write, flags },
            _ => Stripped::Uncertain,
        })
    }

    /// The functions that the references are in: where each begins, and its code up to a little behind the reference.
    /// References for which no function is found are left out.
    fn functions(&mut self, references: &[Reference]) -> io::Result<Vec<(u64, Reference, Vec<Instruction>)>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for reference in references {
            let start = reference.at.saturating_sub(SPAN);
            match ranges.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(reference.at),
                _ => ranges.push(start..reference.at),
            }
        }
        let mut called = self.image.called(&ranges)?;
        if self.by_pointers {
            called.append(&mut self.image.pointed(&ranges)?);
        }
        let mut found = Vec::new();
        for reference in references {
            let from = reference.at.saturating_sub(SPAN);
            let starts = called.range(from..reference.at).rev().take(STARTS);
            for start in starts {
                if let Some(code) = self.reads_to(*start, reference.at) {
                    if is_part(&code, reference.at) {
                        found.push((*start, *reference, code));
                    }
                    break;
                }
            }
        }
        Ok(found)
    }

    /// The code of a function that begins at `start`, if one may begin there and its instructions lead to `at`.
    fn reads_to(&mut self, start: u64, at: u64) -> Option<Vec<Instruction>> {
        let before = self.image.read(start.checked_sub(16)?, 16)?;
        let ends = match before[..] {
            // jmp and call of functions that never return, ret, int3, nop, nops of many bytes, ud2.
            [.., 0xe8 | 0xe9, _, _, _, _]
            | [.., 0xeb, _]
            | [.., 0xc3 | 0xcc | 0x90 | 0x00]
            | [.., 0x0f, 0x0b] => true,
            _ => false,
        };
        if !ends {
            return None;
        }
        let length = usize::try_from(at - start).ok()? + 64;
        let bytes = self.image.read(start, length)?;
        let mut code = Vec::new();
        for instruction in decode(&bytes, start) {
            if self.budget == 0 || (instruction.code() == Code::INVALID && instruction.ip() <= at) {
                return None;
            }
            self.budget -= 1;
            code.push(instruction);
        }
        let first = code.first()?;
        let begins =
            start.is_multiple_of(16) || matches!(first.mnemonic(), Mnemonic::Endbr64 | Mnemonic::Push);
        (begins && code.iter().any(|instruction| instruction.ip() == at)).then_some(code)
    }

    /// Where such a function is probed: the `push` that it begins with, if what it pushes is what it pops.
    pub(super) fn place(&mut self, entry: u64) -> Option<Place> {
        let code = self.code(entry)?;
        let first = code.iter().find(|instruction| instruction.code() != Code::Endbr64)?;
        let is_prologue = first.mnemonic() == Mnemonic::Push && is_emulated(first);
        (is_prologue && is_balanced(&code)).then_some(Place { address: first.ip(), emulated: true })
    }

    fn code(&mut self, entry: u64) -> Option<Vec<Instruction>> {
        let code = self.image.instructions(entry, usize::try_from(SPAN).ok()?)?;
        self.budget = self.budget.checked_sub(code.len())?;
        Some(code)
    }

    /// How many arguments a function takes in registers: those that it reads before it writes them, before its first
    /// call.
    fn arguments(&mut self, entry: u64) -> Option<usize> {
        const ORDER: [Register; 6] =
            [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];
        let code = self.code(entry)?;
        let mut information = InstructionInfoFactory::new();
        let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
        for instruction in &code {
            // Behind a jump other ways through the function go on; behind a call its arguments are gone.
            if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
                break;
            }
            let used = information.info(instruction).used_registers();
            let index = |register: Register| ORDER.iter().position(|one| *one == register.full_register());
            for used in used {
                let Some(index) = index(used.register()) else { continue };
                match used.access() {
                    // `xor ecx, ecx` and `push` of a register that is only kept for the caller say nothing.
                    OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite
                        if !written.contains(&index) =>
                    {
                        read.insert(index);
                    }
                    _ => {}
                }
            }
            for used in used {
                if let (Some(index), OpAccess::Write | OpAccess::ReadWrite) =
                    (index(used.register()), used.access())
                {
                    written.insert(index);
                }
            }
        }
        read.last().map(|last| last + 1)
    }
}

/// Whether the instruction at `at`, which is in the code, is of the function that the code begins with. A function ends
/// where it returns or jumps away, and nothing of it has jumped further: others, that nobody calls, may stand behind it.
fn is_part(code: &[Instruction], at: u64) -> bool {
    let mut furthest = 0;
    for instruction in code.iter().take_while(|instruction| instruction.ip() <= at) {
        if instruction.ip() == at {
            return true;
        }
        let flow = instruction.flow_control();
        if matches!(flow, FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch) {
            let target = instruction.near_branch_target();
            // Far ahead is another function, or cold code, of which nothing is known.
            if target.abs_diff(instruction.ip()) <= SPAN {
                furthest = furthest.max(target);
            }
        }
        // By a table, it may jump anywhere.
        let ends = match flow {
            FlowControl::IndirectBranch => return true,
            FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::Exception => true,
            _ => false,
        };
        if ends && furthest < instruction.next_ip() {
            return false;
        }
    }
    false
}

/// The only one there is.
pub(super) fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

/// The error that the code around a reference to the file's name reports: `ERR_put_error(library, unused, reason, file,
/// line)`, or without the unused argument, which compilers leave out when they see the whole program.
fn site(code: &[Instruction], reference: Reference, library: u32) -> Option<Site> {
    let at = code.iter().position(|instruction| instruction.ip() == reference.at)?;
    let straight = |instruction: &&Instruction| instruction.flow_control() == FlowControl::Next;
    let before = code[..at].iter().rev().take_while(straight).count();
    let after = code[at..].iter().take_while(straight).count();
    // What several reports end with may stand there once, where the others jump to.
    let jump = code.get(at + after).filter(|instruction| instruction.op0_kind() == OpKind::NearBranch64);
    let jump = jump.filter(|instruction| instruction.flow_control() == FlowControl::UnconditionalBranch);
    let shared = jump.and_then(|jump| code.iter().position(|one| one.ip() == jump.near_branch_target()));
    let shared = shared.map_or(&[][..], |from| &code[from..]).iter().take_while(straight);
    let mut constants: BTreeMap<Register, u32> = BTreeMap::new();
    let mut pushed = None;
    for instruction in code[at - before..at + after].iter().chain(shared) {
        let register = match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().full_register(),
            _ => Register::None,
        };
        match instruction.mnemonic() {
            Mnemonic::Push => {
                pushed = match instruction.op0_kind() {
                    OpKind::Immediate8to64 | OpKind::Immediate32to64 => {
                        u32::try_from(instruction.immediate(0)).ok()
                    }
                    _ => None,
                };
                continue;
            }
            Mnemonic::Mov
                if matches!(instruction.op1_kind(), OpKind::Immediate32 | OpKind::Immediate32to64) =>
            {
                constants.insert(register, u32::try_from(instruction.immediate(1)).unwrap_or(u32::MAX));
            }
            Mnemonic::Xor
                if instruction.op1_kind() == OpKind::Register
                    && instruction.op0_register() == instruction.op1_register() =>
            {
                constants.insert(register, 0);
            }
            Mnemonic::Pop => {
                match pushed {
                    Some(value) => constants.insert(register, value),
                    None => constants.remove(&register),
                };
            }
            Mnemonic::Cmp | Mnemonic::Test => {}
            _ => {
                constants.remove(&register);
            }
        }
        pushed = None;
    }
    let constant = |register| constants.get(&register).copied();
    if constant(Register::RDI).is_some_and(|value| value != library) {
        return None;
    }
    match code[at].op0_register().full_register() {
        Register::RCX => Some(Site { reason: constant(Register::RDX)?, line: constant(Register::R8)? }),
        Register::RDX => Some(Site { reason: constant(Register::RSI)?, line: constant(Register::RCX)? }),
        _ => None,
    }
}

/// Whether a function has its caller's stack again where it first returns, or hands over to another function. Where its
/// stack pointer is set in another way than by pushing and adding, nothing is said against it.
fn is_balanced(code: &[Instruction]) -> bool {
    let mut depth: i64 = 0;
    let mut rest = code;
    while let [instruction, behind @ ..] = rest {
        rest = behind;
        match instruction.mnemonic() {
            Mnemonic::Ret => return depth == 0,
            Mnemonic::Jmp if depth == 0 => return true,
            // On where it leads, or else with what stands behind it.
            Mnemonic::Jmp => {
                let to = behind.iter().position(|one| one.ip() == instruction.near_branch_target());
                rest = to.map_or(behind, |to| &behind[to..]);
            }
            Mnemonic::Push => depth += 8,
            Mnemonic::Pop => depth -= 8,
            Mnemonic::Leave => return true,
            mnemonic
                if instruction.op0_kind() == OpKind::Register
                    && instruction.op0_register() == Register::RSP =>
            {
                let by = match instruction.op1_kind() {
                    OpKind::Immediate8to64 | OpKind::Immediate32to64 => {
                        instruction.immediate(1).cast_signed()
                    }
                    _ => return true,
                };
                match mnemonic {
                    Mnemonic::Sub => depth += by,
                    Mnemonic::Add => depth -= by,
                    Mnemonic::Cmp | Mnemonic::Test => {}
                    _ => return true,
                }
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u64 = 0x5000;

    fn code(bytes: &[u8]) -> Vec<Instruction> {
        decode(bytes, 0x1000).collect()
    }

    /// `lea`, from its opcode to the address of the file's name.
    fn lea(at: u64, opcode: [u8; 3]) -> Vec<u8> {
        let displacement = u32::try_from(FILE - at - 7).unwrap();
        [&opcode[..], &displacement.to_le_bytes()].concat()
    }

    #[test]
    fn an_error_that_is_reported_by_five_arguments_is_read() {
        // mov edi, 16; xor esi, esi; mov edx, 66; lea rcx, file; mov r8d, 933; call
        let start = [&[0xbf, 16, 0, 0, 0, 0x31, 0xf6, 0xba, 66, 0, 0, 0][..]].concat();
        let at = 0x1000 + start.len() as u64;
        let rest = [0x41, 0xb8, 0xa5, 0x03, 0, 0, 0xe8, 0, 0, 0, 0];
        let code = code(&[start, lea(at, [0x48, 0x8d, 0x0d]), rest.to_vec()].concat());
        let reference = Reference { at, target: FILE };
        assert_eq!(site(&code, reference, 16), Some(Site { reason: 66, line: 933 }));
        assert_eq!(site(&code, reference, 17), None, "another library's error");
    }

    #[test]
    fn an_error_that_is_reported_by_four_arguments_is_read_past_other_blocks() {
        // mov esi, 1; ret; push 111; pop rsi; lea rdx, file; mov ecx, 981; call; mov ecx, 1
        let start = [0xbe, 1, 0, 0, 0, 0xc3, 0x6a, 111, 0x5e];
        let at = 0x1000 + start.len() as u64;
        let rest = [0xb9, 0xd5, 0x03, 0, 0, 0xe8, 0, 0, 0, 0, 0xb9, 1, 0, 0, 0];
        let code = code(&[start.to_vec(), lea(at, [0x48, 0x8d, 0x15]), rest.to_vec()].concat());
        let reference = Reference { at, target: FILE };
        assert_eq!(site(&code, reference, 16), Some(Site { reason: 111, line: 981 }));
    }

    #[test]
    fn an_error_is_read_to_its_end_where_another_one_ends() {
        // push 30; pop rdi; push 117; pop rdx; lea rcx, file; push 119; jmp end; … xor esi, esi; call
        let start = [0x6a, 30, 0x5f, 0x6a, 117, 0x5a];
        let at = 0x1000 + start.len() as u64;
        let rest = [0x6a, 119, 0xeb, 3, 0x6a, 124, 0xc3, 0x41, 0x58, 0x31, 0xf6, 0xe8, 0, 0, 0, 0];
        let bytes = [start.to_vec(), lea(at, [0x48, 0x8d, 0x0d]), rest.to_vec()].concat();
        let reference = Reference { at, target: FILE };
        assert_eq!(site(&code(&bytes), reference, 30), Some(Site { reason: 117, line: 119 }));
        assert_eq!(site(&code(&bytes[..18]), reference, 30), None, "what it ends with is not at hand");
    }

    #[test]
    fn a_reason_that_is_no_constant_is_not_made_up() {
        // mov edx, 66; mov edx, eax; lea rcx, file; mov r8d, 933; call
        let start = [0xba, 66, 0, 0, 0, 0x89, 0xc2];
        let at = 0x1000 + start.len() as u64;
        let rest = [0x41, 0xb8, 0xa5, 0x03, 0, 0, 0xe8, 0, 0, 0, 0];
        let code = code(&[start.to_vec(), lea(at, [0x48, 0x8d, 0x0d]), rest.to_vec()].concat());
        assert_eq!(site(&code, Reference { at, target: FILE }, 16), None);
    }

    #[test]
    fn a_function_gives_back_the_stack_that_it_took() {
        // push rbp; push rbx; sub rsp, 24; add rsp, 24; pop rbx; pop rbp; ret
        let whole = [0x55, 0x53, 0x48, 0x83, 0xec, 24, 0x48, 0x83, 0xc4, 24, 0x5b, 0x5d, 0xc3];
        assert!(is_balanced(&code(&whole)));
        assert!(!is_balanced(&code(&whole[1..])), "read from its second instruction");
        // … pop rbx; pop rbp; jmp rax
        let handed_over = [0x55, 0x53, 0x5b, 0x5d, 0xff, 0xe0];
        assert!(is_balanced(&code(&handed_over)));
        assert!(!is_balanced(&code(&[0x55, 0x53])), "no end");
        // push rbp; push 1; jmp end; push 2; end: pop rax; pop rbp; ret
        assert!(is_balanced(&code(&[0x55, 0x6a, 1, 0xeb, 2, 0x6a, 2, 0x58, 0x5d, 0xc3])));
    }

    #[test]
    fn what_stands_behind_a_function_is_no_part_of_it() {
        // je +2; nop; ret; nop; ret; nop; ret
        let code = code(&[0x74, 2, 0x90, 0xc3, 0x90, 0xc3, 0x90, 0xc3]);
        assert!(is_part(&code, 0x1003) && is_part(&code, 0x1004), "what is jumped to");
        assert!(is_part(&code, 0x1005));
        assert!(!is_part(&code, 0x1006), "behind the last return");
    }

    #[test]
    fn the_anchors_are_of_three_programs_at_least_and_say_which() {
        let text: serde_json::Value = serde_json::from_str(include_str!("anchors.json")).unwrap();
        for library in ["boringssl", "openssl", "awsLc", "ring"] {
            let seen = text[library]["seen"].as_array().unwrap();
            assert!(seen.len() >= 3, "{library}");
            assert!(seen.iter().all(|seen| seen["program"].is_string() && seen["version"].is_string()));
        }
        assert!(ANCHORS.boringssl.write.contains(&ANCHORS.boringssl.read.reason));
    }
}
