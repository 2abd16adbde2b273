//! rustls: the functions by which its records are sealed and opened. They are those of aws-lc (C) or of ring (Rust), of
//! which a program has one or both.
//!
//! aws-lc is found by its symbols, which carry its version, or by the errors that its code reports. ring calls by a table:
//! an algorithm is three functions, the length of its key and its number. A wrong place would be found out in the kernel,
//! too: what is not sealed or opened as a TLS record is let go there (`ebpf/src/bpf/rustls.bpf.h`).

use super::image::Image;
use super::library::{Found, Place, Program, is_emulated};
use super::stripped::{ANCHORS, Algorithm, Search, only, reasons};
use iced_x86::Code;
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSymbol, ReadRef, SymbolKind};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::slice::from_ref;

/// Since 0.22 rustls opens records where they arrived, by which the kernel half knows their connection.
const OLDEST: u32 = 22;

/// What seals and opens records in a program.
#[derive(PartialEq, Eq, Default, Debug)]
pub(super) struct Providers {
    /// The probes of each library.
    pub(super) found: Vec<(Found, Vec<(Program, Place)>)>,
    /// rustls is there, and some of what it seals and opens is not seen.
    pub(super) missing: bool,
}

/// What seals and opens. An `open` may call an `open_gather`, or have it within.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Function {
    Open,
    OpenGather,
    Seal,
    SealScatter,
}

impl Function {
    fn program(self) -> Program {
        match self {
            Function::Open => Program::AeadOpen,
            Function::OpenGather => Program::AeadOpenGather,
            Function::Seal => Program::AeadSeal,
            Function::SealScatter => Program::AeadSealScatter,
        }
    }
}

/// Looks for both libraries, where a program has rustls.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn find<'data, R: ReadRef<'data>>(
    image: &Image<'_>,
    elf: &ElfFile64<'data, Endianness, R>,
) -> io::Result<Providers> {
    let versions = versions(image)?;
    let mut missing = versions.iter().any(|version| *version < OLDEST);
    if versions.iter().all(|version| *version < OLDEST) {
        return Ok(Providers { missing, ..Providers::default() });
    }
    let mut found = Vec::new();
    let named = named(image, elf);
    if !named.is_empty() {
        found.push((Found::BySymbols, named));
    } else {
        match reported(image)? {
            Aead::Absent => {}
            Aead::Uncertain => missing = true,
            Aead::Found(calls) => found.push((Found::ByErrors, calls)),
        }
    }
    let ring = ring(image)?;
    if !ring.is_empty() {
        found.push((Found::ByAlgorithms, ring));
    }
    missing |= found.is_empty();
    Ok(Providers { found, missing })
}

/// The versions of rustls that are there, without the zero before them. Where it panics it says where, so the path of its
/// source stands in every program that has it.
fn versions(image: &Image<'_>) -> io::Result<BTreeSet<u32>> {
    const PATH: &str = "/rustls-0.";
    let paths = image.find(&[PATH.as_bytes()])?.concat();
    let version = |at: u64| {
        let text = image.read(at.checked_add(PATH.len() as u64)?, 4)?;
        let digits = text.iter().position(|byte| !byte.is_ascii_digit())?;
        str::from_utf8(&text[..digits]).ok()?.parse().ok()
    };
    Ok(paths.into_iter().filter_map(version).collect())
}

/// aws-lc's functions by their symbols, of each version that is there: `aws_lc_0_47_0_EVP_AEAD_CTX_seal`.
fn named<'data, R: ReadRef<'data>>(
    image: &Image<'_>,
    elf: &ElfFile64<'data, Endianness, R>,
) -> Vec<(Program, Place)> {
    let mut found = BTreeSet::new();
    for symbol in elf.symbols().chain(elf.dynamic_symbols()) {
        let Ok(name) = symbol.name() else { continue };
        if symbol.is_undefined() || symbol.kind() != SymbolKind::Text || !name.starts_with("aws_lc_") {
            continue;
        }
        let function = match name.split_once("_EVP_AEAD_CTX_") {
            Some((_, "seal")) => Function::Seal,
            Some((_, "seal_scatter")) => Function::SealScatter,
            Some((_, "open")) => Function::Open,
            Some((_, "open_gather")) => Function::OpenGather,
            _ => continue,
        };
        found.insert((function, symbol.address()));
    }
    calls(found.into_iter().filter_map(|(function, address)| Some((function, start(image, address)?))))
}

enum Aead {
    Absent,
    Uncertain,
    Found(Vec<(Program, Place)>),
}

/// aws-lc's functions by what their code reports.
fn reported(image: &Image<'_>) -> io::Result<Aead> {
    let anchors = &ANCHORS.aws_lc;
    let files = image.strings_ending_with(&[&anchors.file])?.concat();
    let mut search = Search::new(image).by_pointers();
    let Some(functions) = search.reporting(anchors.library, &files)? else { return Ok(Aead::Absent) };
    let mut one = |wanted: &[BTreeSet<u32>]| {
        let fitting = functions.iter().filter(|(_, sites)| wanted.contains(&reasons(sites)));
        only(fitting.map(|(entry, _)| *entry)).and_then(|entry| search.place(entry))
    };
    let (Some(seal), Some(open)) = (one(from_ref(&anchors.seal)), one(&anchors.open)) else {
        return Ok(Aead::Uncertain);
    };
    let mut found = vec![(Function::Open, open), (Function::Seal, seal)];
    found.extend(one(from_ref(&anchors.open_gather)).map(|place| (Function::OpenGather, place)));
    found.extend(one(from_ref(&anchors.seal_scatter)).map(|place| (Function::SealScatter, place)));
    Ok(Aead::Found(calls(found.into_iter())))
}

fn calls(functions: impl Iterator<Item = (Function, Place)>) -> Vec<(Program, Place)> {
    let mut calls = Vec::new();
    for (function, place) in functions {
        calls.push((function.program(), place));
        if matches!(function, Function::Open | Function::OpenGather) {
            calls.push((Program::RecordOpened, place));
        }
    }
    calls
}

/// ring's functions by its table of algorithms; none where they are not certain.
fn ring(image: &Image<'_>) -> io::Result<Vec<(Program, Place)>> {
    let anchors = &ANCHORS.ring;
    let algorithms = [anchors.aes128, anchors.aes256, anchors.chacha20];
    let of = |key_length, id| algorithms.iter().position(|one| *one == Algorithm { key_length, id });
    // The number is a byte of its own, with nothing behind it.
    let tables: Vec<u64> = image
        .pairs(|key_length, id| of(key_length, id).is_some())?
        .into_iter()
        .filter_map(|at| at.checked_sub(3 * 8))
        .collect();
    let words = tables.iter().flat_map(|at| (0..5).filter_map(move |index| at.checked_add(8 * index)));
    let words = image.pointers(&words.collect())?;
    let mut found: [BTreeMap<u64, (u64, u64, u64)>; 3] = Default::default();
    for table in tables {
        let word = |index: u64| words.get(&table.wrapping_add(8 * index)).copied();
        let (Some(init), Some(seal), Some(open)) = (word(0), word(1), word(2)) else { continue };
        let (Some(key_length), Some(id)) = (word(3), word(4)) else { continue };
        let Some(algorithm) = of(key_length, id) else { continue };
        let distinct = init != seal && seal != open && init != open;
        if distinct && [init, seal, open].iter().all(|address| image.is_code(*address)) {
            found[algorithm].insert(table, (init, seal, open));
        }
    }
    let [aes128, aes256, chacha20] = found;
    let pairs: BTreeSet<(u64, u64, u64)> = aes128
        .iter()
        .flat_map(|(at, (init, seal, open))| {
            let is_its =
                move |other: &&(u64, u64, u64)| other.0 != *init && (other.1, other.2) == (*seal, *open);
            let near = aes256.range(at.saturating_sub(anchors.within)..at.saturating_add(anchors.within));
            near.map(|(_, functions)| functions).filter(is_its).map(|_| (*at, *seal, *open))
        })
        .collect();
    let Some((at, seal, open)) = only(pairs.into_iter()) else { return Ok(Vec::new()) };
    let near = chacha20.range(at.saturating_sub(anchors.within)..at.saturating_add(anchors.within));
    let Some((_, (_, other_seal, other_open))) = only(near) else { return Ok(Vec::new()) };
    let places = [open, *other_open, seal, *other_seal].map(|address| start(image, address));
    let [Some(open), Some(other_open), Some(seal), Some(other_seal)] = places else { return Ok(Vec::new()) };
    Ok(vec![
        (Program::RingOpen, open),
        (Program::RecordOpened, open),
        (Program::RingOpen, other_open),
        (Program::RecordOpened, other_open),
        (Program::RingSeal, seal),
        (Program::RingSeal, other_seal),
    ])
}

/// Where a function is probed that is known to begin here: at its first instruction, or behind `endbr64`.
fn start(image: &Image<'_>, address: u64) -> Option<Place> {
    let code = image.instructions(address, 32)?;
    let first = code.iter().find(|instruction| instruction.code() != Code::Endbr64)?;
    let is_code = first.code() != Code::INVALID && image.is_code(address);
    is_code.then_some(Place { address: first.ip(), emulated: is_emulated(first) })
}
