//! Go programs: the methods of `crypto/tls.Conn`, found by the table of functions that the run-time itself needs
//! (`.gopclntab`), which stays when symbols are stripped.
//!
//! Go moves its stacks, and a return probe would have the program come back to where its stack was. So returns are
//! probed at the `RET` instructions of the function, of which the table tells the beginning and the end. Writes are taken at
//! their entry: writing and reading are two goroutines' work, and the answer must not come before the question.

use super::image::Image;
use super::library::{Place, is_emulated};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use std::io;
use std::ops::Range;

/// The longest function that is read, in bytes: the methods have some hundred.
const LONGEST: u64 = 64 << 10;
/// Returns of one function.
const RETURNS: usize = 64;
/// Functions of one program: the largest known, Kubernetes', have a quarter of that.
const FUNCTIONS: u64 = 1 << 20;

/// What a Go program has of TLS.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Go {
    /// Not a byte of it: the linker leaves out what is not used.
    Absent,
    /// It is there, but not as it is known.
    Uncertain,
    /// Its methods.
    Found(Methods),
}

/// Where the methods of `crypto/tls.Conn` are probed.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Methods {
    pub(super) read: Method,
    pub(super) write: Place,
    /// `Close`, and the handshakes, with which a connection begins; absent where the program never calls them.
    pub(super) close: Option<Place>,
    pub(super) handshakes: Vec<Place>,
}

/// A method whose result is wanted.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Method {
    pub(super) entry: Place,
    pub(super) returns: Vec<Place>,
}

/// The sections of a Go program, by their addresses.
pub(super) struct Sections {
    /// `.gopclntab`
    pub(super) functions: Range<u64>,
    /// `.go.module`, since Go 1.26
    pub(super) module: Option<Range<u64>>,
    /// `.text`
    pub(super) text: Option<Range<u64>>,
}

/// Looks for the methods.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn find(image: &Image<'_>, sections: &Sections) -> io::Result<Go> {
    let Some(table) = Table::read(image, sections) else { return Ok(Go::Uncertain) };
    let Some(read) = table.function("crypto/tls.(*Conn).Read")? else { return Ok(Go::Absent) };
    // What `Write` calls when the handshake is through and the direction is locked.
    let Some(write) = table.function("crypto/tls.(*Conn).writeRecordLocked")? else { return Ok(Go::Absent) };
    let (Some(read), Some(write)) = (table.method(&read), table.entry(&write)) else {
        return Ok(Go::Uncertain);
    };
    let place = |name: &str| -> io::Result<Option<Place>> {
        Ok(table.function(name)?.and_then(|function| table.entry(&function)))
    };
    let close = place("crypto/tls.(*Conn).Close")?;
    let mut handshakes = Vec::new();
    for name in ["crypto/tls.(*Conn).clientHandshake", "crypto/tls.(*Conn).serverHandshake"] {
        handshakes.extend(place(name)?);
    }
    Ok(Go::Found(Methods { read, write, close, handshakes }))
}

/// The table of functions, of Go 1.18 and later (runtime/symtab.go, `pcHeader`).
struct Table<'a, 'b> {
    image: &'a Image<'b>,
    /// The address that those of functions count from.
    text: u64,
    functions: u64,
    /// Names, each with a NUL behind it.
    names: Range<u64>,
    /// Pairs of where a function begins and where its description is.
    table: Range<u64>,
    end: u64,
}

impl<'a, 'b> Table<'a, 'b> {
    fn read(image: &'a Image<'b>, sections: &Sections) -> Option<Self> {
        let start = sections.functions.start;
        let header = image.read(start, 72)?;
        let word = |index: usize| {
            let bytes = header.get(8 * index..8 * index + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        // Go 1.20 and 1.18; then two bytes of nothing, the size of an instruction and of a pointer.
        let known = [[0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8], [0xf0, 0xff, 0xff, 0xff, 0, 0, 1, 8]];
        if !known.iter().any(|known| header.starts_with(known)) {
            return None;
        }
        let functions = word(1).filter(|functions| *functions <= FUNCTIONS)?;
        // Since Go 1.26 the header does not tell any more, but the module does (runtime/symtab.go, `moduledata.text`).
        let told = word(3).filter(|text| *text != 0);
        let module = || {
            let word = image.read(sections.module.as_ref()?.start.checked_add(22 * 8)?, 8)?;
            Some(u64::from_le_bytes(word.try_into().ok()?)).filter(|text| *text != 0)
        };
        let text = told.or_else(module).or_else(|| Some(sections.text.as_ref()?.start))?;
        let at =
            |offset: u64| start.checked_add(offset).filter(|address| sections.functions.contains(address));
        let (names, units, table) = (at(word(4)?)?, at(word(5)?)?, at(word(8)?)?);
        let table = table..table.checked_add(functions * 8 + 4)?;
        (names < units && table.end <= sections.functions.end).then_some(Self {
            image,
            text,
            functions,
            names: names..units,
            table,
            end: sections.functions.end,
        })
    }

    /// Where the code of a function is.
    fn function(&self, name: &str) -> io::Result<Option<Range<u64>>> {
        let needle = [b"\0", name.as_bytes(), b"\0"].concat();
        let names = self.image.find_within(&self.names, &needle)?;
        let [name] = names[..] else { return Ok(None) };
        let Ok(name) = u32::try_from(name + 1 - self.names.start) else { return Ok(None) };
        // A function's description begins with where it begins, and its name.
        let descriptions = self.image.find_within(&(self.table.end..self.end), &name.to_le_bytes())?;
        let functions: Vec<_> = descriptions
            .into_iter()
            .filter_map(|at| {
                let description = at.checked_sub(4)?;
                let begin = self.number(description)?;
                let (index, place) = self.index(begin)?;
                if self.table.start + u64::from(place) != description {
                    return None;
                }
                let end = self.number(self.table.start + (index + 1) * 8)?;
                let code = self.text.checked_add(u64::from(begin))?..self.text.checked_add(u64::from(end))?;
                (code.start < code.end && code.end - code.start <= LONGEST).then_some(code)
            })
            .collect();
        let [function] = &functions[..] else { return Ok(None) };
        Ok(Some(function.clone()))
    }

    /// The place in the table of the function that begins there, and where its description is.
    fn index(&self, begin: u32) -> Option<(u64, u32)> {
        let (mut low, mut high) = (0, self.functions);
        while low < high {
            let middle = low.midpoint(high);
            let at = self.table.start + middle * 8;
            match self.number(at)?.cmp(&begin) {
                std::cmp::Ordering::Equal => return Some((middle, self.number(at + 4)?)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    fn number(&self, address: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.image.read(address, 4)?.try_into().ok()?))
    }

    fn method(&self, function: &Range<u64>) -> Option<Method> {
        let code = self.code(function)?;
        let returns: Vec<_> = code
            .iter()
            .filter(|instruction| instruction.mnemonic() == Mnemonic::Ret)
            .map(|instruction| Place { address: instruction.ip(), emulated: false })
            .collect();
        let entry = entry(&code)?;
        (!returns.is_empty() && returns.len() <= RETURNS).then_some(Method { entry, returns })
    }

    fn entry(&self, function: &Range<u64>) -> Option<Place> {
        entry(&self.code(function)?)
    }

    /// All instructions of a function; none where the bytes are not code from its beginning to its end.
    fn code(&self, function: &Range<u64>) -> Option<Vec<Instruction>> {
        if !self.image.is_code(function.start) {
            return None;
        }
        let code =
            self.image.instructions(function.start, usize::try_from(function.end - function.start).ok()?)?;
        let whole = code.last().is_some_and(|last| last.next_ip() == function.end);
        (whole && code.iter().all(|instruction| instruction.code() != Code::INVALID)).then_some(code)
    }
}

/// The `push` behind the look at the stack's end that every such function begins with: it runs once a call, while that
/// look is repeated when the stack has grown, and the arguments are still in their registers.
fn entry(code: &[Instruction]) -> Option<Place> {
    let is_look = |instruction: &Instruction| {
        // `cmp rsp, [r14+16]`, or `lea r12, …; cmp r12, [r14+16]`: r14 is the goroutine.
        instruction.mnemonic() == Mnemonic::Cmp
            && instruction.op1_kind() == OpKind::Memory
            && instruction.memory_base() == Register::R14
            && instruction.memory_displacement64() == 16
    };
    let look = code.iter().take(2).position(is_look)?;
    let [jump, push, ..] = &code[look + 1..] else { return None };
    let fits = jump.is_jcc_short_or_near() && push.mnemonic() == Mnemonic::Push && is_emulated(push);
    fits.then_some(Place { address: push.ip(), emulated: true })
}

#[cfg(test)]
mod tests {
    use super::super::image::decode;
    use super::*;

    #[test]
    fn a_method_is_probed_behind_its_look_at_the_stack() {
        // cmp rsp, [r14+16]; jbe …; push rbp; mov rbp, rsp
        let small = [0x49, 0x3b, 0x66, 0x10, 0x76, 0x20, 0x55, 0x48, 0x89, 0xe5];
        let code: Vec<_> = decode(&small, 0x1000).collect();
        assert_eq!(entry(&code), Some(Place { address: 0x1006, emulated: true }));
        // lea r12, [rsp-0x80]; cmp r12, [r14+16]; jbe …; push rbp
        let large = [0x4c, 0x8d, 0x64, 0x24, 0x80, 0x4d, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0, 1, 0, 0, 0x55];
        let code: Vec<_> = decode(&large, 0x1000).collect();
        assert_eq!(entry(&code), Some(Place { address: 0x100f, emulated: true }));
        // push rbp; mov rbp, rsp; …: no function of Go that can grow its stack.
        let other = [0x55, 0x48, 0x89, 0xe5, 0xc3];
        assert_eq!(entry(&decode(&other, 0x1000).collect::<Vec<_>>()), None);
    }
}
