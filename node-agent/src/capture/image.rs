//! What a program file will have in memory, read in pieces: strings, and the code that speaks of them.
//!
//! Programs that carry their TLS library without symbols are searched by this. Such files have hundreds of megabytes,
//! and may be anybody's: nothing is mapped (a file that is cut while it is mapped would end the agent), at most
//! [`WINDOW`] bytes are held at a time, and every list has an end.

use iced_x86::{Decoder, DecoderOptions, Instruction};
use memchr::memmem::Finder;
use object::elf::{PF_W, PF_X};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, ReadRef};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes that are read at a time.
const WINDOW: usize = 1 << 20;
/// What windows overlap by: the longest string that is found whole. What is left of a window is a multiple of the size of
/// words (8) and relocations (24).
const OVERLAP: usize = 1 << 10;
/// The most that is searched of one file, in bytes: more than twice the largest program known.
const LARGEST: u64 = 1 << 30;
/// Segments that are looked at; linkers make four to six.
const SEGMENTS: usize = 32;
/// Occurrences of one string that are looked at.
const OCCURRENCES: usize = 16;
const _: () = assert!((WINDOW - OVERLAP).is_multiple_of(24));
/// References that are looked at: a TLS library has some hundred to its largest file's name.
const REFERENCES: usize = 4096;
/// Starts of functions around references that are kept.
const CALLED: usize = 1 << 18;

/// Pairs of words that are looked at.
const PAIRS: usize = 4096;

/// A file's segments.
pub(super) struct Image<'a> {
    file: &'a File,
    segments: Vec<Segment>,
    /// The dynamic section, where there is one.
    dynamic: Option<u64>,
}

struct Segment {
    addresses: Range<u64>,
    /// Where in the file its first byte is.
    offset: u64,
    executable: bool,
    writable: bool,
}

/// An instruction that takes the address of something: `lea register, [rip + …]` or `mov register, address`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Reference {
    /// Of the instruction.
    pub(super) at: u64,
    /// What it takes the address of.
    pub(super) target: u64,
}

impl<'a> Image<'a> {
    /// None for a file that is not laid out as linkers do it: segments that repeat each other, or are too large.
    pub(super) fn of<'data, R: ReadRef<'data>>(
        file: &'a File,
        elf: &ElfFile64<'data, Endianness, R>,
    ) -> Option<Image<'a>> {
        let endian = elf.endian();
        let mut segments = Vec::new();
        let mut bytes = 0u64;
        let mut dynamic = None;
        for header in elf.elf_program_headers() {
            if header.p_type(endian) == object::elf::PT_DYNAMIC {
                dynamic = Some(header.p_vaddr(endian));
            }
            if header.p_type(endian) != object::elf::PT_LOAD {
                continue;
            }
            let (offset, size) = header.file_range(endian);
            let address = header.p_vaddr(endian);
            let addresses = address..address.checked_add(size)?;
            offset.checked_add(size)?;
            bytes = bytes.checked_add(size)?;
            let flags = header.p_flags(endian);
            let (executable, writable) = (flags.contains(PF_X), flags.contains(PF_W));
            segments.push(Segment { addresses, offset, executable, writable });
        }
        let length = file.metadata().ok()?.len();
        // A page may be in two segments, more may not: the same bytes are not searched again and again.
        let sound = segments.len() <= SEGMENTS && bytes <= LARGEST && bytes <= length + (2 << 20);
        (sound && elf.elf_header().e_machine(endian) == object::elf::EM_X86_64).then_some(Image {
            file,
            segments,
            dynamic,
        })
    }

    /// How much code there is.
    pub(super) fn code_bytes(&self) -> u64 {
        let code = self.segments.iter().filter(|segment| segment.executable);
        code.map(|segment| segment.addresses.end - segment.addresses.start).sum()
    }

    /// Where each of these stands in memory that no program changes, at its first byte.
    pub(super) fn find(&self, needles: &[&[u8]]) -> io::Result<Vec<Vec<u64>>> {
        let finders: Vec<Finder<'_>> = needles.iter().map(Finder::new).collect();
        let mut found = vec![BTreeSet::new(); needles.len()];
        for segment in self.segments.iter().filter(|segment| !segment.writable) {
            self.windows(&segment.addresses, |address, bytes| {
                for (finder, found) in finders.iter().zip(&mut found) {
                    for at in finder.find_iter(bytes) {
                        if found.len() >= OCCURRENCES {
                            break;
                        }
                        found.insert(address + at as u64);
                    }
                }
            })?;
        }
        Ok(found.into_iter().map(|found| found.into_iter().collect()).collect())
    }

    /// Where something stands within a range of one segment.
    pub(super) fn find_within(&self, range: &Range<u64>, needle: &[u8]) -> io::Result<Vec<u64>> {
        let finder = Finder::new(needle);
        let mut found = BTreeSet::new();
        self.windows(range, |address, bytes| {
            for at in finder.find_iter(bytes) {
                if found.len() >= REFERENCES {
                    break;
                }
                found.insert(address + at as u64);
            }
        })?;
        Ok(found.into_iter().collect())
    }

    /// Where in data two words stand beside each other that are wanted.
    pub(super) fn pairs(&self, wanted: impl Fn(u64, u64) -> bool) -> io::Result<Vec<u64>> {
        let mut found = BTreeSet::new();
        for segment in self.segments.iter().filter(|segment| !segment.executable) {
            self.words(&segment.addresses, |address, words| {
                for (index, pair) in words.windows(2).enumerate() {
                    if wanted(u64::from_le_bytes(pair[0]), u64::from_le_bytes(pair[1])) && found.len() < PAIRS
                    {
                        found.insert(address + 8 * index as u64);
                    }
                }
            })?;
        }
        Ok(found.into_iter().collect())
    }

    /// The addresses that stand at some places once the program is loaded where it was linked to: in the file, or in its
    /// table of relocations.
    pub(super) fn pointers(&self, places: &BTreeSet<u64>) -> io::Result<BTreeMap<u64, u64>> {
        let mut found = BTreeMap::new();
        for place in places {
            if let Some(bytes) = self.read(*place, 8)
                && let Ok(bytes) = <[u8; 8]>::try_from(bytes)
            {
                found.insert(*place, u64::from_le_bytes(bytes));
            }
        }
        self.each_relocation(|place, address| {
            if places.contains(&place) {
                found.insert(place, address);
            }
        })?;
        Ok(found)
    }

    /// The addresses within `ranges` (in order, apart from each other) that some pointer holds: what is called by way of a
    /// table, such as that of another language's functions.
    pub(super) fn pointed(&self, ranges: &[Range<u64>]) -> io::Result<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        let mut take = |address: u64| {
            if found.len() < CALLED && is_within(ranges, address) {
                found.insert(address);
            }
        };
        self.each_relocation(|_, address| take(address))?;
        for segment in self.segments.iter().filter(|segment| segment.writable) {
            self.words(&segment.addresses, |_, words| {
                for word in words {
                    take(u64::from_le_bytes(*word));
                }
            })?;
        }
        Ok(found)
    }

    /// Places that hold an address, and the address, both as the program was linked.
    fn each_relocation(&self, mut each: impl FnMut(u64, u64)) -> io::Result<()> {
        let Some(relocations) = self.relocations() else { return Ok(()) };
        self.windows(&relocations, |_, bytes| {
            let (words, _) = bytes.as_chunks::<8>();
            let (entries, _) = words.as_chunks::<3>();
            for entry in entries {
                let [place, kind, address] = entry.map(u64::from_le_bytes);
                if kind == u64::from(object::elf::R_X86_64_RELATIVE.0) {
                    each(place, address);
                }
            }
        })
    }

    /// Shows a range of one segment as words, from the first one that begins in it on.
    fn words(&self, range: &Range<u64>, mut each: impl FnMut(u64, &[[u8; 8]])) -> io::Result<()> {
        self.windows(range, |address, bytes| {
            let first = address.next_multiple_of(8);
            let skip = usize::try_from(first - address).unwrap_or(0);
            each(first, bytes.get(skip..).unwrap_or_default().as_chunks::<8>().0);
        })
    }

    /// The relocations with addends: DT_RELA and DT_RELASZ of the dynamic section.
    fn relocations(&self) -> Option<Range<u64>> {
        const RELA: u64 = 7;
        const RELA_SIZE: u64 = 8;
        let dynamic = self.read(self.dynamic?, OVERLAP)?;
        let (words, _) = dynamic.as_chunks::<8>();
        let (entries, _) = words.as_chunks::<2>();
        let entry = |tag: u64| {
            let mut entries =
                entries.iter().map(|[tag, value]| (u64::from_le_bytes(*tag), u64::from_le_bytes(*value)));
            entries.find(|(known, _)| *known == tag).map(|(_, value)| value)
        };
        let (start, size) = (entry(RELA)?, entry(RELA_SIZE)?);
        Some(start..start.checked_add(size)?)
    }

    /// Where the strings begin that end with each of these, as C has them: between two NULs.
    pub(super) fn strings_ending_with(&self, ends: &[&str]) -> io::Result<Vec<Vec<u64>>> {
        let needles: Vec<Vec<u8>> = ends.iter().map(|end| [end.as_bytes(), b"\0"].concat()).collect();
        let found = self.find(&needles.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        Ok(found
            .into_iter()
            .map(|ends| ends.into_iter().filter_map(|end| self.start_of(end)).collect())
            .collect())
    }

    fn start_of(&self, at: u64) -> Option<u64> {
        let segment = self.segment(at)?;
        let from = at.saturating_sub(OVERLAP as u64 / 2).max(segment.addresses.start);
        let before = self.read(from, usize::try_from(at - from).ok()?)?;
        let nul = before.iter().rposition(|byte| *byte == 0)?;
        Some(from + nul as u64 + 1)
    }

    /// The instructions that take one of these addresses, in their order.
    pub(super) fn references(&self, targets: &[u64]) -> io::Result<Vec<Reference>> {
        let mut found = BTreeSet::new();
        let (Some(first), Some(last)) = (targets.iter().min(), targets.iter().max()) else {
            return Ok(Vec::new());
        };
        let (first, last) = (*first, *last);
        for segment in self.segments.iter().filter(|segment| segment.executable) {
            self.windows(&segment.addresses, |address, bytes| {
                // REX.W 8d /r with mod 0 and r/m 5: the address is relative to the end of the instruction.
                for opcode in memchr::memchr_iter(0x8d, bytes) {
                    let (Some(start), Some(rest)) =
                        (opcode.checked_sub(1), bytes.get(opcode + 1..opcode + 6))
                    else {
                        continue;
                    };
                    if !matches!(bytes[start], 0x48 | 0x4c) || rest[0] & 0xc7 != 5 {
                        continue;
                    }
                    let displacement = i32::from_le_bytes([rest[1], rest[2], rest[3], rest[4]]);
                    let at = address + start as u64;
                    let target = at.wrapping_add(7).wrapping_add_signed(i64::from(displacement));
                    if (first..=last).contains(&target)
                        && targets.contains(&target)
                        && found.len() < REFERENCES
                    {
                        found.insert(Reference { at, target });
                    }
                }
                // b8+r imm32: programs at a fixed place below 4 GiB.
                if first > u64::from(u32::MAX) {
                    return;
                }
                for (at, code) in bytes.windows(5).enumerate() {
                    if code[0] & 0xf8 != 0xb8 {
                        continue;
                    }
                    let target = u64::from(u32::from_le_bytes([code[1], code[2], code[3], code[4]]));
                    if targets.contains(&target) && found.len() < REFERENCES {
                        found.insert(Reference { at: address + at as u64, target });
                    }
                }
            })?;
        }
        Ok(found.into_iter().collect())
    }

    /// The addresses within `ranges` (in order, apart from each other) that some direct call leads to.
    pub(super) fn called(&self, ranges: &[Range<u64>]) -> io::Result<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(found) };
        let (first, last) = (first.start, last.end);
        for segment in self.segments.iter().filter(|segment| segment.executable) {
            self.windows(&segment.addresses, |address, bytes| {
                for at in memchr::memchr_iter(0xe8, bytes) {
                    let Some(rest) = bytes.get(at + 1..at + 5) else { continue };
                    let displacement = i32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
                    let target =
                        (address + at as u64).wrapping_add(5).wrapping_add_signed(i64::from(displacement));
                    if (first..last).contains(&target) && found.len() < CALLED && is_within(ranges, target) {
                        found.insert(target);
                    }
                }
            })?;
        }
        Ok(found)
    }

    /// Bytes at an address; fewer at the end of its segment.
    pub(super) fn read(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let segment = self.segment(address)?;
        let left = usize::try_from(segment.addresses.end - address).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(left).min(WINDOW)];
        self.file.read_exact_at(&mut bytes, segment.offset + (address - segment.addresses.start)).ok()?;
        Some(bytes)
    }

    /// The instructions from an address on, as many as `length` bytes hold.
    pub(super) fn instructions(&self, address: u64, length: usize) -> Option<Vec<Instruction>> {
        let bytes = self.read(address, length)?;
        Some(decode(&bytes, address).collect())
    }

    /// Whether code can be at an address.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.segment(address).is_some_and(|segment| segment.executable)
    }

    /// Where in the file an address's byte is.
    pub(super) fn offset(&self, address: u64) -> Option<u64> {
        let segment = self.segment(address)?;
        Some(segment.offset + (address - segment.addresses.start))
    }

    fn segment(&self, address: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.addresses.contains(&address))
    }

    /// Shows a range of one segment in pieces that overlap; nothing of one that is in none.
    fn windows(&self, range: &Range<u64>, mut each: impl FnMut(u64, &[u8])) -> io::Result<()> {
        let Some(segment) = self.segment(range.start) else { return Ok(()) };
        let offset = segment.offset + (range.start - segment.addresses.start);
        let size = range.end.min(segment.addresses.end).saturating_sub(range.start);
        let mut buffer = vec![0; WINDOW];
        let mut at = 0;
        while at < size {
            let length = usize::try_from(size - at).unwrap_or(usize::MAX).min(WINDOW);
            let bytes = &mut buffer[..length];
            self.file.read_exact_at(bytes, offset + at)?;
            each(range.start + at, bytes);
            if length < WINDOW {
                break;
            }
            at += (WINDOW - OVERLAP) as u64;
        }
        Ok(())
    }
}

/// Whether an address is in one of these, which are in order and apart from each other.
fn is_within(ranges: &[Range<u64>], address: u64) -> bool {
    let next = ranges.partition_point(|range| range.start <= address);
    next > 0 && ranges[next - 1].contains(&address)
}

/// The instructions of some code.
pub(super) fn decode(bytes: &[u8], address: u64) -> impl Iterator<Item = Instruction> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    std::iter::from_fn(move || decoder.can_decode().then(|| decoder.decode()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A segment of data at 0x1000 and one of code behind it, as they stand in the file.
    fn image<'a>(file: &'a mut File, data: &[u8], code: &[u8]) -> Image<'a> {
        file.write_all(data).unwrap();
        file.write_all(code).unwrap();
        let split = 0x1000 + data.len() as u64;
        let segment = |addresses: Range<u64>, offset, executable| Segment {
            addresses,
            offset,
            executable,
            writable: false,
        };
        let segments = vec![
            segment(0x1000..split, 0, false),
            segment(split..split + code.len() as u64, data.len() as u64, true),
        ];
        Image { file, segments, dynamic: None }
    }

    #[test]
    fn a_string_is_found_from_its_start_also_where_two_windows_meet() {
        let mut file = tempfile::tempfile().unwrap();
        let mut data = vec![b'x'; WINDOW + 100];
        let text = b"\0vendor/ssl/ssl_lib.cc\0";
        data[WINDOW - 10..WINDOW - 10 + text.len()].copy_from_slice(text);
        let image = image(&mut file, &data, &[]);
        let found = image.strings_ending_with(&["ssl/ssl_lib.cc", "ssl/ssl_lib.c"]).unwrap();
        assert_eq!(found, [vec![0x1000 + WINDOW as u64 - 9], vec![]]);
    }

    #[test]
    fn what_takes_an_address_and_what_is_called_is_found_and_nothing_like_it() {
        let mut file = tempfile::tempfile().unwrap();
        let target = 0x1004u64;
        // At 0x1010: lea rdi, [target]; mov esi, target; the same bytes behind another opcode; call 0x1010
        let mut code = vec![0x48, 0x8d, 0x3d];
        code.extend((i32::try_from(target).unwrap() - 0x1017).to_le_bytes());
        code.push(0xbe);
        code.extend(u32::try_from(target).unwrap().to_le_bytes());
        code.push(0x05);
        code.extend(u32::try_from(target).unwrap().to_le_bytes());
        code.push(0xe8);
        code.extend((0x1010 - 0x1026i32).to_le_bytes());
        let image = image(&mut file, &[0; 16], &code);
        let found = image.references(&[target]).unwrap();
        assert_eq!(found, [Reference { at: 0x1010, target }, Reference { at: 0x1017, target }]);
        let called = image.called(&[0x1000..0x1008, 0x1010..0x1020]).unwrap();
        assert_eq!(called.into_iter().collect::<Vec<_>>(), [0x1010]);
    }

    #[test]
    fn words_beside_each_other_are_found_also_where_two_windows_meet() {
        let mut file = tempfile::tempfile().unwrap();
        let mut data = vec![0; WINDOW + 4096];
        let places = [64, WINDOW - OVERLAP - 8, WINDOW - 8, WINDOW + 2048];
        for place in places {
            data[place] = 32;
            data[place + 8] = 1;
        }
        // Not where a word begins.
        data[1028] = 32;
        data[1036] = 1;
        let image = image(&mut file, &data, &[]);
        let found = image.pairs(|first, second| (first, second) == (32, 1)).unwrap();
        assert_eq!(found, places.map(|place| 0x1000 + place as u64));
    }

    #[test]
    fn a_pointer_stands_in_the_file_or_in_the_table_of_relocations() {
        let mut file = tempfile::tempfile().unwrap();
        let word = |value: u64| value.to_le_bytes();
        // At 0x1000: the dynamic section; at 0x1030 two relocations; at 0x1060 two pointers.
        let dynamic = [7, 0x1030, 8, 48, 0, 0].map(word).concat();
        let relocations = [0x1068, 8, 0x4444, 0x1060, 1, 0x5555].map(word).concat();
        let data = [dynamic, relocations, [0x3333, 0].map(word).concat()].concat();
        let mut image = image(&mut file, &data, &[]);
        image.dynamic = Some(0x1000);
        // A writable segment, whose pointers count.
        image.segments[0].writable = true;
        let places = [0x1060, 0x1068, 0x9000].into();
        let found = image.pointers(&places).unwrap();
        assert_eq!(found, [(0x1060, 0x3333), (0x1068, 0x4444)].into(), "only relative ones are applied");
        let held = image.pointed(&[0x3000..0x3334, 0x4000..0x5000, 0x5555..0x5556]).unwrap();
        assert_eq!(held.into_iter().collect::<Vec<_>>(), [0x3333, 0x4444, 0x5555]);
        image.dynamic = None;
        assert_eq!(image.pointers(&places).unwrap()[&0x1068], 0);
    }

    #[test]
    fn reading_ends_with_the_segment() {
        let mut file = tempfile::tempfile().unwrap();
        let image = image(&mut file, &[1, 2, 3], &[4]);
        assert_eq!(image.read(0x1001, 100), Some(vec![2, 3]));
        assert_eq!(image.read(0x1004, 1), None);
        assert_eq!(image.offset(0x1003), Some(3));
    }
}
