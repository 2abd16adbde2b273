//! Where to probe in a file: reads an ELF file and plans the probes on the TLS functions that it holds.
//!
//! A probe on an instruction that the kernel emulates costs 1 to 2 µs, on any other 10 to 12 µs in a virtual machine,
//! where single-stepping raises an exception that the hypervisor intercepts (`docs/performance.md`). So the plan looks
//! for such an instruction, but never gives up being right: a return probe stands only where the stack pointer still
//! points at the return address, since it overwrites what stands there.

use super::go::{self, Go, Sections};
use super::image::Image;
use super::rustls;
use super::stripped::{self, Stripped};
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::read::elf::{ElfFile64, FileHeader};
use object::{
    Endianness, Object, ObjectSection, ObjectSegment, ObjectSymbol, ObjectSymbolTable, ReadCache, ReadRef,
    SymbolKind,
};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;

/// What a file is good for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// These probes show its plaintext.
    Traceable(Plan),
    /// It holds a TLS implementation that cannot be probed.
    Untraceable(Reason),
    /// It holds no TLS implementation of its own.
    NoTls,
}

/// Why plaintext that passes through a file stays unseen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// Mozilla's NSS.
    Nss,
    /// Go's crypto/tls, in a form that is not known.
    GoTls,
    /// A Java virtual machine: its TLS is Java code.
    JavaTls,
    /// wolfSSL.
    WolfSsl,
    /// Mbed TLS.
    MbedTls,
    /// rustls, compiled into the program.
    Rustls,
    /// A TLS library is there, in a shape that no safe probe fits, or whose functions are not certain.
    UnknownShape,
    /// What was probed, by the look of its code, gave no plaintext; the probes were taken back.
    NotPlaintext,
    /// A machine code that this build does not read.
    Architecture,
    /// No TLS library at all: plaintext, or an implementation that is not known.
    NoTlsLibrary,
    /// The file could not be read, or the kernel refused the probes.
    Failed,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 11] = [
        Reason::Nss,
        Reason::GoTls,
        Reason::JavaTls,
        Reason::WolfSsl,
        Reason::MbedTls,
        Reason::Rustls,
        Reason::UnknownShape,
        Reason::NotPlaintext,
        Reason::Architecture,
        Reason::NoTlsLibrary,
        Reason::Failed,
    ];

    /// The reason as status, metrics and documents name it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Nss => "Nss",
            Reason::GoTls => "GoTls",
            Reason::JavaTls => "JavaTls",
            Reason::WolfSsl => "WolfSsl",
            Reason::MbedTls => "MbedTls",
            Reason::Rustls => "Rustls",
            Reason::UnknownShape => "UnknownShape",
            Reason::NotPlaintext => "NotPlaintext",
            Reason::Architecture => "Architecture",
            Reason::NoTlsLibrary => agentsight_api::NO_TLS_LIBRARY,
            Reason::Failed => "Failed",
        }
    }
}

/// A TLS library whose plaintext is seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Library {
    /// OpenSSL, and libraries with its functions under their names.
    OpenSsl,
    /// BoringSSL.
    BoringSsl,
    /// GnuTLS.
    GnuTls,
    /// Go's crypto/tls.
    Go,
    /// rustls, by the libraries that seal its records: aws-lc and ring.
    Rustls,
}

impl Library {
    /// All of them.
    pub const ALL: [Library; 5] =
        [Library::OpenSsl, Library::BoringSsl, Library::GnuTls, Library::Go, Library::Rustls];

    /// Its name in metrics and reports.
    pub fn name(self) -> &'static str {
        match self {
            Library::OpenSsl => "openssl",
            Library::BoringSsl => "boringssl",
            Library::GnuTls => "gnutls",
            Library::Go => "go",
            Library::Rustls => "rustls",
        }
    }
}

/// How a library's functions were found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Found {
    /// By their names in the file's symbol tables.
    BySymbols,
    /// By the errors that their code reports.
    ByErrors,
    /// By Go's table of functions.
    ByFunctionTable,
    /// By ring's table of algorithms.
    ByAlgorithms,
}

impl Found {
    /// As reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Found::BySymbols => "symbols",
            Found::ByErrors => "errors",
            Found::ByFunctionTable => "functionTable",
            Found::ByAlgorithms => "algorithms",
        }
    }
}

/// The probes of one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The libraries that it holds: one, but for some programs.
    pub parts: Vec<Part>,
    /// A further one, whose plaintext is not seen.
    pub unseen: Option<Reason>,
    /// The GNU build-id, where the file has one.
    pub build_id: Option<Vec<u8>>,
}

/// The probes of one library, or of a part of it that was found by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which library.
    pub library: Library,
    /// How that is known.
    pub found: Found,
    /// What is probed, in the order of attachment: connection objects before the calls that use them.
    pub probes: Vec<Probe>,
}

impl Plan {
    /// All probes, in the order of attachment.
    pub fn probes(&self) -> impl Iterator<Item = &Probe> {
        self.parts.iter().flat_map(|part| &part.probes)
    }

    /// The libraries, each once.
    pub fn libraries(&self) -> BTreeSet<Library> {
        self.parts.iter().map(|part| part.library).collect()
    }

    /// Probes that the kernel must single-step.
    pub fn stepped(&self) -> usize {
        self.probes().filter(|probe| !probe.emulated).count()
    }
}

/// One probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The program that runs there.
    pub program: Program,
    /// Offset in the file.
    pub offset: u64,
    /// For [`Program::FreeState`].
    pub cookie: Option<u64>,
    /// Whether the kernel emulates the instruction there.
    pub emulated: bool,
}

/// A program of `ebpf/src/bpf/openssl.bpf.h`, `gnutls.bpf.h`, `go.bpf.h` or `rustls.bpf.h`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Program {
    /// `SSL_read(ssl, buffer, int)`.
    ReadInt,
    /// `SSL_read_ex(ssl, buffer, size, *moved)`.
    ReadEx,
    /// `SSL_write(ssl, buffer, int)`.
    WriteInt,
    /// `SSL_write_ex(ssl, buffer, size, *moved)`.
    WriteEx,
    /// `SSL_write_ex2(ssl, buffer, size, flags, *moved)`.
    WriteEx2,
    /// `SSL_sendfile(ssl, fd, offset, size, flags)`.
    Sendfile,
    /// Return of any of the above.
    Leave,
    /// Return of `SSL_new`.
    NewLeave,
    /// `SSL_free(ssl)`.
    Free,
    /// The same, with the places of two fields in its cookie.
    FreeState,
    /// `SSL_clear(ssl)`.
    Clear,
    /// `(*Conn).Read(buffer)` of Go's crypto/tls.
    GoRead,
    /// `(*Conn).writeRecordLocked(type, data)`.
    GoWrite,
    /// A `RET` of `Read`.
    GoLeave,
    /// `(*Conn).clientHandshake` and `serverHandshake`.
    GoHandshake,
    /// `(*Conn).Close`.
    GoClose,
    /// `gnutls_record_send(session, data, size)` and `gnutls_record_send2`.
    GnuTlsWrite,
    /// `gnutls_handshake(session)`.
    GnuTlsHandshake,
    /// `gnutls_record_uncork(session, flags)`.
    GnuTlsUncork,
    /// Its return.
    GnuTlsUncorkLeave,
    /// aws-lc's `EVP_AEAD_CTX_seal`.
    AeadSeal,
    /// `EVP_AEAD_CTX_seal_scatter`.
    AeadSealScatter,
    /// `EVP_AEAD_CTX_open`.
    AeadOpen,
    /// `EVP_AEAD_CTX_open_gather`.
    AeadOpenGather,
    /// What ring's algorithms seal by.
    RingSeal,
    /// What they open by.
    RingOpen,
    /// Return of any that opens.
    RecordOpened,
}

impl Program {
    /// All programs.
    pub const ALL: [Program; 27] = [
        Program::ReadInt,
        Program::ReadEx,
        Program::WriteInt,
        Program::WriteEx,
        Program::WriteEx2,
        Program::Sendfile,
        Program::Leave,
        Program::NewLeave,
        Program::Free,
        Program::FreeState,
        Program::Clear,
        Program::GoRead,
        Program::GoWrite,
        Program::GoLeave,
        Program::GoHandshake,
        Program::GoClose,
        Program::GnuTlsWrite,
        Program::GnuTlsHandshake,
        Program::GnuTlsUncork,
        Program::GnuTlsUncorkLeave,
        Program::AeadSeal,
        Program::AeadSealScatter,
        Program::AeadOpen,
        Program::AeadOpenGather,
        Program::RingSeal,
        Program::RingOpen,
        Program::RecordOpened,
    ];

    /// Its name in the object.
    pub fn name(self) -> &'static str {
        match self {
            Program::ReadInt => "read_int",
            Program::ReadEx => "read_ex",
            Program::WriteInt => "write_int",
            Program::WriteEx => "write_ex",
            Program::WriteEx2 => "write_ex2",
            Program::Sendfile => "sendfile_enter",
            Program::Leave => "leave",
            Program::NewLeave => "new_leave",
            Program::Free => "free_enter",
            Program::FreeState => "free_enter_state",
            Program::Clear => "clear_enter",
            Program::GoRead => "go_read",
            Program::GoWrite => "go_write",
            Program::GoLeave => "go_leave",
            Program::GoHandshake => "go_handshake",
            Program::GoClose => "go_close",
            Program::GnuTlsWrite => "gnutls_write",
            Program::GnuTlsHandshake => "gnutls_handshake",
            Program::GnuTlsUncork => "gnutls_uncork",
            Program::GnuTlsUncorkLeave => "gnutls_uncork_leave",
            Program::AeadSeal => "aead_seal",
            Program::AeadSealScatter => "aead_seal_scatter",
            Program::AeadOpen => "aead_open",
            Program::AeadOpenGather => "aead_open_gather",
            Program::RingSeal => "ring_seal",
            Program::RingOpen => "ring_open",
            Program::RecordOpened => "record_opened",
        }
    }
}

/// Why a file could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no ELF file, or a broken one.
    #[error("not a readable ELF file: {0}")]
    Elf(#[from] object::Error),
    /// It could not be read.
    #[error("cannot read the file: {0}")]
    Io(#[from] std::io::Error),
}

/// Judges an ELF file.
///
/// # Errors
/// [`Error::Elf`] when the file is no ELF file of 64 bits, or a broken one; [`Error::Io`] when it cannot be read.
pub fn judge(file: &File) -> Result<Verdict, Error> {
    match judge_by_tables(file)? {
        Some(verdict) => Ok(verdict),
        None => search(file),
    }
}

/// Judges an ELF file by what its tables say of it, in milliseconds; none where its code would have to be searched.
///
/// # Errors
/// As [`judge`].
pub fn judge_by_tables(file: &File) -> Result<Option<Verdict>, Error> {
    let cache = ReadCache::new(file);
    let elf = ElfFile64::<Endianness, _>::parse(&cache)?;
    let symbols = TlsSymbols::find(&elf);
    if symbols.has("SSL_read") && symbols.has("SSL_write") && !symbols.passes_on {
        return with_symbols(&elf, &symbols, Library::OpenSsl).map(Some);
    }
    if symbols.has("gnutls_record_recv") && symbols.has("gnutls_record_send") {
        return with_symbols(&elf, &symbols, Library::GnuTls).map(Some);
    }
    if let Some(sections) = go_sections(&elf) {
        return of_go(file, &elf, &sections).map(Some);
    }
    let searched = Image::of(file, &elf).is_some_and(|image| image.code_bytes() >= LEAST_CODE);
    match symbols.other {
        // A program that has one of these inside may have another one, too.
        None | Some(Reason::WolfSsl | Reason::MbedTls) if searched => Ok(None),
        other => Ok(Some(other.map_or(Verdict::NoTls, Verdict::Untraceable))),
    }
}

/// Judges a file whose tables say nothing by its code: some tenths of a second for one of some hundred megabytes.
///
/// # Errors
/// As [`judge`].
pub fn search(file: &File) -> Result<Verdict, Error> {
    let cache = ReadCache::new(file);
    without_symbols(file, &ElfFile64::<Endianness, _>::parse(&cache)?)
}

fn go_sections<'data, R: ReadRef<'data>>(elf: &ElfFile64<'data, Endianness, R>) -> Option<Sections> {
    let (mut functions, mut module, mut text) = (None, None, None);
    for section in elf.sections() {
        let range = section.address()..section.address().checked_add(section.size())?;
        match section.name_bytes() {
            Ok(b".gopclntab" | b".data.rel.ro.gopclntab") => functions = Some(range),
            Ok(b".go.module") => module = Some(range),
            Ok(b".text") => text = Some(range),
            _ => {}
        }
    }
    Some(Sections { functions: functions?, module, text })
}

fn of_go<'data, R: ReadRef<'data>>(
    file: &File,
    elf: &ElfFile64<'data, Endianness, R>,
    sections: &Sections,
) -> Result<Verdict, Error> {
    if elf.elf_header().e_machine(elf.endian()) != object::elf::EM_X86_64 {
        return Ok(Verdict::Untraceable(Reason::Architecture));
    }
    let Some(image) = Image::of(file, elf) else { return Ok(Verdict::Untraceable(Reason::GoTls)) };
    let methods = match go::find(&image, sections)? {
        Go::Absent => return Ok(Verdict::NoTls),
        Go::Uncertain => return Ok(Verdict::Untraceable(Reason::GoTls)),
        Go::Found(methods) => methods,
    };
    let mut places: Vec<(Program, Place)> = Vec::new();
    places.extend(methods.handshakes.iter().map(|place| (Program::GoHandshake, *place)));
    places.extend(methods.close.map(|place| (Program::GoClose, place)));
    // Returns first: of a call that is entered, the return is not missed.
    places.extend(methods.read.returns.iter().map(|place| (Program::GoLeave, *place)));
    places.push((Program::GoRead, methods.read.entry));
    places.push((Program::GoWrite, methods.write));
    let probes = places.into_iter().map(|(program, place)| {
        let offset = image.offset(place.address)?;
        Some(Probe { program, offset, cookie: None, emulated: place.emulated })
    });
    let Some(probes) = probes.collect() else { return Ok(Verdict::Untraceable(Reason::GoTls)) };
    Ok(Verdict::Traceable(Plan {
        parts: vec![Part { library: Library::Go, found: Found::ByFunctionTable, probes }],
        unseen: None,
        build_id: elf.build_id()?.map(<[u8]>::to_vec),
    }))
}

/// A program with a TLS library inside has more code than this, in bytes; most of what is mapped has less, and is not to
/// hold up what comes after it: a call may be on its way.
const LEAST_CODE: u64 = 1 << 20;

/// BoringSSL, OpenSSL or rustls inside of a program that has no symbols of the former.
fn without_symbols<'data, R: ReadRef<'data>>(
    file: &File,
    elf: &ElfFile64<'data, Endianness, R>,
) -> Result<Verdict, Error> {
    let Some(image) = Image::of(file, elf) else { return Ok(Verdict::NoTls) };
    let mut unseen = TlsSymbols::find(elf).other;
    let (library, calls) = match stripped::find(&image)? {
        Stripped::Absent => (Library::OpenSsl, Vec::new()),
        Stripped::Uncertain => {
            unseen.get_or_insert(Reason::UnknownShape);
            (Library::OpenSsl, Vec::new())
        }
        Stripped::BoringSsl { read, write } => {
            (Library::BoringSsl, vec![(Program::ReadInt, read), (Program::WriteInt, write)])
        }
        Stripped::OpenSsl { read, write, flags } => {
            let program = if flags { Program::WriteEx2 } else { Program::WriteEx };
            (Library::OpenSsl, vec![(Program::ReadEx, read), (program, write)])
        }
    };
    let mut found = Vec::new();
    if !calls.is_empty() {
        let calls = calls.into_iter().flat_map(|(program, at)| [(program, at), (Program::Leave, at)]);
        found.push((library, Found::ByErrors, calls.collect()));
    }
    let providers = rustls::find(&image, elf)?;
    if providers.missing {
        unseen.get_or_insert(Reason::Rustls);
    }
    found.extend(providers.found.into_iter().map(|(found, calls)| (Library::Rustls, found, calls)));
    let parts = found.into_iter().map(|(library, found, calls): (_, _, Vec<(Program, Place)>)| {
        let probes = calls.into_iter().map(|(program, Place { address, emulated })| {
            Some(Probe { program, offset: image.offset(address)?, cookie: None, emulated })
        });
        Some(Part { library, found, probes: probes.collect::<Option<_>>()? })
    });
    let Some(parts) = parts.collect::<Option<Vec<_>>>() else {
        return Ok(Verdict::Untraceable(Reason::UnknownShape));
    };
    if parts.is_empty() {
        return Ok(unseen.map_or(Verdict::NoTls, Verdict::Untraceable));
    }
    Ok(Verdict::Traceable(Plan { parts, unseen, build_id: elf.build_id()?.map(<[u8]>::to_vec) }))
}

fn with_symbols<'data, R: ReadRef<'data>>(
    elf: &ElfFile64<'data, Endianness, R>,
    symbols: &TlsSymbols,
    library: Library,
) -> Result<Verdict, Error> {
    if elf.elf_header().e_machine(elf.endian()) != object::elf::EM_X86_64 {
        return Ok(Verdict::Untraceable(Reason::Architecture));
    }
    let code = Code64 { elf, symbols };
    let probes = match library {
        Library::GnuTls => code.gnutls(),
        _ => code.openssl(),
    };
    let Some(probes) = probes else { return Ok(Verdict::Untraceable(Reason::UnknownShape)) };
    let build_id = elf.build_id()?.map(<[u8]>::to_vec);
    let parts = vec![Part { library, found: Found::BySymbols, probes }];
    Ok(Verdict::Traceable(Plan { parts, unseen: None, build_id }))
}

const KNOWN: &[&str] = &[
    "SSL_read",
    "SSL_read_ex",
    "SSL_write",
    "SSL_write_ex",
    "SSL_write_ex2",
    "SSL_new",
    "SSL_free",
    "SSL_clear",
    "SSL_sendfile",
    "SSL_get_shutdown",
    "SSL_in_init",
    "gnutls_handshake",
    "gnutls_deinit",
    "gnutls_record_recv",
    "gnutls_record_send",
    "gnutls_record_send2",
    "gnutls_record_uncork",
];

/// Symbols that say which other TLS implementation a file is.
const OTHERS: &[(&str, Reason)] = &[
    ("SSL_ImportFD", Reason::Nss),
    ("JNI_CreateJavaVM", Reason::JavaTls),
    ("wolfSSL_read", Reason::WolfSsl),
    ("mbedtls_ssl_read", Reason::MbedTls),
];

struct TlsSymbols {
    /// Address by name: dynamic symbols before those of `.symtab`.
    addresses: HashMap<&'static str, u64>,
    other: Option<Reason>,
    /// Its OpenSSL functions are GnuTLS' underneath, where they are seen (libgnutls-openssl).
    passes_on: bool,
}

impl TlsSymbols {
    fn find<'data, R: ReadRef<'data>>(elf: &ElfFile64<'data, Endianness, R>) -> TlsSymbols {
        let mut found = TlsSymbols { addresses: HashMap::new(), other: None, passes_on: false };
        for symbol in elf.dynamic_symbols().chain(elf.symbols()) {
            let Ok(name) = symbol.name_bytes() else { continue };
            if symbol.is_undefined() {
                found.passes_on |= name == b"gnutls_record_recv";
            }
            if symbol.is_undefined() || symbol.address() == 0 || symbol.kind() != SymbolKind::Text {
                continue;
            }
            if let Some(known) = KNOWN.iter().find(|known| known.as_bytes() == name) {
                found.addresses.entry(known).or_insert(symbol.address());
            } else if let Some((_, reason)) = OTHERS.iter().find(|(other, _)| other.as_bytes() == name) {
                found.other.get_or_insert(*reason);
            }
        }
        found
    }

    fn has(&self, name: &str) -> bool {
        self.addresses.contains_key(name)
    }
}

/// How far a function is read in search of its first call, in bytes: all seen hold it in their first 64.
const READ_AHEAD: usize = 256;

/// A place where a probe may stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) address: u64,
    pub(super) emulated: bool,
}

/// What stands behind an exported function: itself, or the internal one that it hands its arguments to.
struct Target {
    place: Place,
    program: Program,
}

struct Code64<'a, 'data, R: ReadRef<'data>> {
    elf: &'a ElfFile64<'data, Endianness, R>,
    symbols: &'a TlsSymbols,
}

impl<'data, R: ReadRef<'data>> Code64<'_, 'data, R> {
    /// `gnutls_record_send2` serves `gnutls_record_send`, since 3.6.3.
    fn gnutls(&self) -> Option<Vec<Probe>> {
        let mut probes = Vec::new();
        let calls = [
            ("gnutls_handshake", Program::GnuTlsHandshake, false),
            ("gnutls_deinit", Program::Free, false),
            ("gnutls_record_uncork", Program::GnuTlsUncork, false),
            ("gnutls_record_uncork", Program::GnuTlsUncorkLeave, false),
            ("gnutls_record_recv", Program::ReadInt, true),
            ("gnutls_record_send2", Program::GnuTlsWrite, true),
            ("gnutls_record_send", Program::GnuTlsWrite, true),
        ];
        for (name, program, returns) in calls {
            let Some(address) = self.symbol(name) else { continue };
            let inner = self.symbol("gnutls_record_send2");
            if name == "gnutls_record_send" && inner.is_some_and(|inner| self.leads_to(address, inner)) {
                continue;
            }
            let place = self.entry(address)?;
            self.add(&mut probes, program, place, None)?;
            if returns {
                self.add(&mut probes, Program::Leave, place, None)?;
            }
        }
        Some(probes)
    }

    fn openssl(&self) -> Option<Vec<Probe>> {
        let mut probes = Vec::new();
        if let Some(place) = self.symbol("SSL_new").and_then(|address| self.entry(address)) {
            self.add(&mut probes, Program::NewLeave, place, None)?;
        }
        if let Some(place) = self.symbol("SSL_clear").and_then(|address| self.entry(address)) {
            self.add(&mut probes, Program::Clear, place, None)?;
        }
        if let Some(place) = self.symbol("SSL_free").and_then(|address| self.entry(address)) {
            let cookie = self.state_fields();
            let program = if cookie.is_some() { Program::FreeState } else { Program::Free };
            self.add(&mut probes, program, place, cookie)?;
        }
        let mut targets = self.reads()?;
        targets.extend(self.writes()?);
        if let Some(place) = self.symbol("SSL_sendfile").and_then(|address| self.entry(address)) {
            targets.push(Target { place, program: Program::Sendfile });
        }
        for target in targets {
            self.add(&mut probes, target.program, target.place, None)?;
            self.add(&mut probes, Program::Leave, target.place, None)?;
        }
        Some(probes)
    }

    fn add(
        &self,
        probes: &mut Vec<Probe>,
        program: Program,
        place: Place,
        cookie: Option<u64>,
    ) -> Option<()> {
        let offset = self.file_offset(place.address)?;
        probes.push(Probe { program, offset, cookie, emulated: place.emulated });
        Some(())
    }

    fn symbol(&self, name: &str) -> Option<u64> {
        self.symbols.addresses.get(name).copied()
    }

    /// `ssl_read_internal` serves SSL_read and SSL_read_ex in every OpenSSL since 1.1.1: one pair of probes, on the
    /// `push` that it begins with.
    fn reads(&self) -> Option<Vec<Target>> {
        let (read, read_ex) = (self.symbol("SSL_read")?, self.symbol("SSL_read_ex"));
        if let (Some(internal), Some(read_ex)) = (self.first_call(read), read_ex) {
            let place = self.entry(internal.target);
            if let (Some(place), true) = (place, internal.moved == Some(Register::RCX))
                && self.leads_to(read_ex, internal.target)
                && (place.emulated || !self.entry(read)?.emulated)
            {
                return Some(vec![Target { place, program: Program::ReadEx }]);
            }
        }
        let mut targets = vec![Target { place: self.entry(read)?, program: Program::ReadInt }];
        // LibreSSL's SSL_read_ex calls SSL_read: it is seen there.
        if let Some(read_ex) = read_ex.filter(|read_ex| *read_ex != read && !self.leads_to(*read_ex, read)) {
            targets.push(Target { place: self.entry(read_ex)?, program: Program::ReadEx });
        }
        Some(targets)
    }

    /// The same for `ssl_write_internal`, which takes flags before its last argument since 3.3.
    fn writes(&self) -> Option<Vec<Target>> {
        let (write, write_ex) = (self.symbol("SSL_write")?, self.symbol("SSL_write_ex"));
        if let (Some(internal), Some(write_ex)) = (self.first_call(write), write_ex) {
            let program = match internal.moved {
                Some(Register::RCX) => Some(Program::WriteEx),
                Some(Register::R8) => Some(Program::WriteEx2),
                _ => None,
            };
            if let (Some(place), Some(program)) = (self.entry(internal.target), program)
                && self.leads_to(write_ex, internal.target)
                && (place.emulated || !self.entry(write)?.emulated)
            {
                return Some(vec![Target { place, program }]);
            }
        }
        let mut targets = vec![Target { place: self.entry(write)?, program: Program::WriteInt }];
        let write_ex2 = self.symbol("SSL_write_ex2");
        if let Some(address) = write_ex.filter(|address| *address != write && !self.leads_to(*address, write))
        {
            if write_ex2.is_none_or(|write_ex2| !self.leads_to(address, write_ex2)) {
                targets.push(Target { place: self.entry(address)?, program: Program::WriteEx });
            }
            if let Some(write_ex2) = write_ex2 {
                targets.push(Target { place: self.entry(write_ex2)?, program: Program::WriteEx2 });
            }
        }
        Some(targets)
    }

    /// Where a function can be probed at entry and return alike: its first instruction, or the one after `endbr64`.
    fn entry(&self, address: u64) -> Option<Place> {
        let mut instructions = self.decode(address)?;
        let first = instructions.next()?;
        let first = if first.code() == Code::Endbr64 { instructions.next()? } else { first };
        (first.code() != Code::INVALID).then(|| Place { address: first.ip(), emulated: is_emulated(&first) })
    }

    /// The first call or jump that a function makes with its own first argument still in its register.
    fn first_call(&self, address: u64) -> Option<FirstCall> {
        let mut moved = None;
        for instruction in self.decode(address)? {
            match instruction.flow_control() {
                FlowControl::Call | FlowControl::UnconditionalBranch => {
                    if instruction.op0_kind() != OpKind::NearBranch64 {
                        return None;
                    }
                    return Some(FirstCall { target: instruction.near_branch64(), moved });
                }
                FlowControl::Next | FlowControl::ConditionalBranch => {}
                _ => return None,
            }
            if instruction.op0_kind() == OpKind::Register && writes_op0(&instruction) {
                match instruction.op0_register().full_register() {
                    // The connection is gone from its register: what is called now is something else.
                    Register::RDI => return None,
                    // `lea rcx,[rsp+8]` or `mov rcx,rsp`: the address of a local variable.
                    register @ (Register::RCX | Register::R8) if is_stack_address(&instruction) => {
                        moved = Some(register);
                    }
                    register if moved == Some(register) => moved = None,
                    _ => {}
                }
            }
        }
        None
    }

    /// Whether a function hands its first argument to `target`, perhaps through a jump, its own PLT, or one function
    /// between (SSL_write_ex, SSL_write_ex2, ssl_write_internal in 3.5).
    fn leads_to(&self, address: u64, target: u64) -> bool {
        let mut at = address;
        for _ in 0..4 {
            let Some(call) = self.first_call(at) else { return false };
            if call.target == target {
                return true;
            }
            at = self.through_plt(call.target).unwrap_or(call.target);
            if at == target {
                return true;
            }
        }
        false
    }

    /// The address of the function of this very file behind a PLT entry.
    fn through_plt(&self, address: u64) -> Option<u64> {
        let slot = self.decode(address)?.take(2).find_map(|instruction| {
            (instruction.mnemonic() == Mnemonic::Jmp && instruction.is_ip_rel_memory_operand())
                .then(|| instruction.ip_rel_memory_address())
        })?;
        let symbol =
            self.elf.dynamic_relocations()?.find_map(|(place, relocation)| match relocation.target() {
                object::RelocationTarget::Symbol(index) if place == slot => Some(index),
                _ => None,
            })?;
        let symbol = self.elf.dynamic_symbol_table()?.symbol_by_index(symbol).ok()?;
        (!symbol.is_undefined()).then(|| symbol.address())
    }

    /// The offsets of the fields that SSL_get_shutdown and SSL_in_init return, as the cookie of [`Program::FreeState`].
    fn state_fields(&self) -> Option<u64> {
        let shutdown = self.returned_field(self.symbol("SSL_get_shutdown")?)?;
        let in_init = self.returned_field(self.symbol("SSL_in_init")?)?;
        Some(u64::from(shutdown) | u64::from(in_init) << 32)
    }

    /// The offset of the field of its first argument that a function of nothing else returns.
    fn returned_field(&self, address: u64) -> Option<u32> {
        let mut field = None;
        for instruction in self.decode(address)?.take(6) {
            match instruction.mnemonic() {
                Mnemonic::Mov
                    if instruction.op0_register() == Register::EAX
                        && instruction.op1_kind() == OpKind::Memory
                        && instruction.memory_base() == Register::RDI
                        && instruction.memory_index() == Register::None =>
                {
                    field = u32::try_from(instruction.memory_displacement64()).ok();
                }
                Mnemonic::Ret => return field,
                // Hardened builds clear the registers that the caller may not rely on.
                Mnemonic::Endbr64 | Mnemonic::Nop => {}
                Mnemonic::Xor if instruction.op0_register() != Register::EAX => {}
                // Since 3.2 a QUIC object goes another way: then the library does not tell.
                _ => return None,
            }
        }
        None
    }

    fn decode(&self, address: u64) -> Option<impl Iterator<Item = Instruction> + use<'data, R>> {
        let bytes = self.bytes(address)?;
        let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
        Some(std::iter::from_fn(move || decoder.can_decode().then(|| decoder.decode())))
    }

    /// Code at an address, as far as it may be needed.
    fn bytes(&self, address: u64) -> Option<&'data [u8]> {
        self.elf.segments().find_map(|segment| {
            let end = segment.address().checked_add(segment.size())?;
            if !(segment.address()..end).contains(&address) {
                return None;
            }
            let (start, size) = segment.file_range();
            let at = address - segment.address();
            let length = size.checked_sub(at)?.min(READ_AHEAD as u64);
            self.elf.data().read_bytes_at(start.checked_add(at)?, length).ok()
        })
    }

    fn file_offset(&self, address: u64) -> Option<u64> {
        self.elf.segments().find_map(|segment| {
            let (start, size) = segment.file_range();
            let at = address.checked_sub(segment.address())?;
            (at < size).then(|| start.checked_add(at)).flatten()
        })
    }
}

struct FirstCall {
    target: u64,
    /// The register with the address of a local variable: where the number of bytes is to be put.
    moved: Option<Register>,
}

/// What x86 kernels emulate instead of single-stepping it (arch/x86/kernel/uprobes.c): pushes of a register, nops,
/// relative calls and jumps.
pub(super) fn is_emulated(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Push => {
            instruction.op0_kind() == OpKind::Register
                && instruction.op0_register().is_gpr64()
                && instruction.len() <= 2
        }
        Mnemonic::Nop => instruction.len() == 1,
        Mnemonic::Call | Mnemonic::Jmp => instruction.op0_kind() == OpKind::NearBranch64,
        _ => {
            instruction.flow_control() == FlowControl::ConditionalBranch && instruction.is_jcc_short_or_near()
        }
    }
}

fn is_stack_address(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Lea => matches!(instruction.memory_base(), Register::RSP | Register::RBP),
        Mnemonic::Mov => {
            instruction.op1_kind() == OpKind::Register && instruction.op1_register() == Register::RSP
        }
        _ => false,
    }
}

/// Whether the instruction changes its first operand: all but the comparing and pushing ones do.
fn writes_op0(instruction: &Instruction) -> bool {
    !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push | Mnemonic::Bt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn plan_of(path: &str) -> Option<Plan> {
        match judge(&File::open(path).ok()?).expect("an ELF file") {
            Verdict::Traceable(plan) => Some(plan),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn debians_libssl_is_probed_on_emulated_instructions_only_where_calls_pass() {
        let path = "/usr/lib/x86_64-linux-gnu/libssl.so.3";
        if !Path::new(path).exists() {
            eprintln!("skipped: no {path} on this machine");
            return;
        }
        let plan = plan_of(path).expect("checked above");
        let mut calls = plan.probes().filter(|probe| {
            matches!(probe.program, Program::ReadEx | Program::WriteEx | Program::WriteEx2 | Program::Leave)
        });
        assert!(calls.all(|probe| probe.emulated), "{plan:#?}");
        // One pair for reads, one for writes, one return for SSL_sendfile where there is one.
        let reads = plan.probes().filter(|probe| probe.program == Program::ReadEx).count();
        assert_eq!(reads, 1, "{plan:#?}");
        assert!(!plan.probes().any(|probe| probe.program == Program::ReadInt), "{plan:#?}");
        assert!(plan.probes().any(|probe| probe.program == Program::FreeState), "{plan:#?}");
    }

    #[test]
    fn a_file_without_tls_functions_is_no_tls() {
        assert_eq!(judge(&File::open("/bin/sh").expect("readable")).expect("an ELF file"), Verdict::NoTls);
    }

    #[test]
    fn a_program_with_rustls_says_so() {
        // The agent sends by it.
        let this = std::env::current_exe().expect("a test has a path");
        let verdict = judge(&File::open(this).expect("readable")).expect("an ELF file");
        let Verdict::Traceable(plan) = verdict else { panic!("{verdict:?}") };
        assert_eq!(plan.libraries(), [Library::Rustls].into());
    }

    #[test]
    fn a_program_with_an_old_rustls_is_named_and_left_alone() {
        use std::io::Write;
        let this = std::env::current_exe().expect("a test has a path");
        let mut program = std::fs::read(this).expect("readable");
        let places: Vec<_> = memchr::memmem::find_iter(&program, "/rustls-0.23.").collect();
        for at in places {
            program[at + 10..at + 12].copy_from_slice(b"21");
        }
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&program).expect("room");
        assert_eq!(judge(&file).expect("an ELF file"), Verdict::Untraceable(Reason::Rustls));
    }

    #[test]
    fn of_a_program_with_a_library_that_is_seen_and_one_that_is_not_both_are_told() {
        use std::io::Write;
        let this = std::env::current_exe().expect("a test has a path");
        let mut program = std::fs::read(this).expect("readable");
        // A function of another name takes its.
        let name = {
            let elf = ElfFile64::<Endianness, _>::parse(&*program).expect("an ELF file");
            let is_long = |name: &&[u8]| name.len() > 16;
            let functions = elf.symbols().filter(|one| !one.is_undefined() && one.kind() == SymbolKind::Text);
            let name = functions.filter_map(|one| one.name_bytes().ok()).find(is_long);
            [b"\0", name.expect("a name of Rust"), b"\0"].concat()
        };
        let places: Vec<_> = memchr::memmem::find_iter(&program, &name).collect();
        for at in places {
            program[at + 1..at + 18].copy_from_slice(b"mbedtls_ssl_read\0");
        }
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&program).expect("room");
        let Verdict::Traceable(plan) = judge(&file).expect("an ELF file") else { panic!("rustls is there") };
        assert_eq!((plan.libraries(), plan.unseen), ([Library::Rustls].into(), Some(Reason::MbedTls)));
    }

    /// What a broken file is taken for does not matter, as long as that ends.
    #[test]
    fn files_with_broken_headers_and_tables_are_judged_or_refused() {
        use std::io::{Seek, SeekFrom, Write};
        use std::os::unix::fs::FileExt;
        let whole = std::fs::read("/bin/sh").expect("readable");
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&whole).expect("room");
        // As much code as is searched for libraries without symbols.
        file.seek(SeekFrom::Start((whole.len() as u64) + (4 << 20))).expect("a place");
        file.write_all(b"\0vendor/ssl/ssl_lib.cc\0").expect("room");
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..500 {
            // The header, the program headers behind it, and the section headers at the end.
            let tables = [(0, 1024), (whole.len() as u64 - 2048, 2048)];
            let mut changed = Vec::new();
            for _ in 0..1 + random() % 4 {
                let (start, length) = tables[(random() % 2) as usize];
                let at = start + random() % length;
                let value = [0, 1, 0x7f, 0x80, 0xff, (random() & 0xff) as u8][(random() % 6) as usize];
                file.write_all_at(&[value], at).expect("room");
                changed.push(at);
            }
            let _ = judge(&file);
            for at in changed {
                file.write_all_at(&whole[at as usize..][..1], at).expect("room");
            }
        }
        assert_eq!(judge(&file).expect("an ELF file"), Verdict::NoTls);
    }

    #[test]
    fn a_text_file_is_refused_with_a_reason() {
        let error = judge(&File::open("/proc/self/status").expect("readable")).expect_err("no ELF file");
        assert!(error.to_string().starts_with("not a readable ELF file"), "{error}");
    }
}
