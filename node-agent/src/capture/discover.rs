//! Where TLS implementations may be, before a program that uses them runs.
//!
//! A probe needs a file, not a process: so the program, its interpreter, the libraries that it will load and those that
//! everybody loads are probed at the start. What turns up later is caught when it is mapped ([`super::mmap`]).

use object::read::elf::ElfFile64;
use object::{Endianness, ReadCache};
use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Files that are looked at for one program: itself, interpreters, libraries.
const MOST_FILES: usize = 256;

/// Run-times that a program often starts, and that bring a TLS implementation of their own.
pub(super) const RUNTIMES: &[&str] = &["node", "nodejs", "python3", "python", "bun", "deno"];

/// Where a Java launcher finds the machine that it loads, below its prefix: since Java 9, and Java 8's of both kinds.
const JAVA_MACHINES: [&str; 3] =
    ["lib/server/libjvm.so", "lib/amd64/server/libjvm.so", "jre/lib/amd64/server/libjvm.so"];

/// Finds a command as a shell does.
pub fn find_program(command: &OsStr, search: Option<&OsStr>) -> Option<PathBuf> {
    let is_program = |path: &Path| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    if command.as_bytes().contains(&b'/') {
        return is_program(Path::new(command)).then(|| PathBuf::from(command));
    }
    std::env::split_paths(search.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin")))
        .map(|folder| folder.join(command))
        .find(|path| is_program(path))
}

/// What a program will map: itself, the interpreters of its script, their libraries, and the TLS libraries of the
/// prefix that they are installed in (conda, pyenv, virtual environments). `search` and `libraries` are the `PATH` and
/// the `LD_LIBRARY_PATH` that it will have.
pub fn program_files(program: &Path, search: Option<&OsStr>, libraries: Option<&OsStr>) -> Vec<PathBuf> {
    // The loader looks there before it looks where everybody's are (ld.so(8)).
    let own = libraries.map(folders_of).unwrap_or_default();
    let mut first = vec![program.to_owned()];
    first.extend(tls_libraries(own));
    first.extend(RUNTIMES.iter().filter_map(|name| find_program(OsStr::new(name), search)));
    files_from(first, search, libraries)
}

/// What a program itself will map, as [`program_files`], without run-times that it may start.
pub fn own_files(program: &Path, search: Option<&OsStr>, libraries: Option<&OsStr>) -> Vec<PathBuf> {
    files_from(vec![program.to_owned()], search, libraries)
}

fn files_from(first: Vec<PathBuf>, search: Option<&OsStr>, libraries: Option<&OsStr>) -> Vec<PathBuf> {
    let folders = [libraries.map(folders_of).unwrap_or_default(), system_folders()].concat();
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut queue = VecDeque::from(first);
    while let Some(named) = queue.pop_front() {
        let Ok(path) = named.canonicalize() else { continue };
        if found.len() >= MOST_FILES || !seen.insert(path.clone()) {
            continue;
        }
        if let Some(interpreter) = interpreter(&path, search) {
            queue.push_back(interpreter);
            continue;
        }
        queue.extend(needed(&path, &folders));
        // By its own name, too: the program of a virtual environment is a link to that of another prefix.
        let prefixes = [&named, &path].map(|path| path.parent().and_then(Path::parent));
        for prefix in prefixes.into_iter().flatten().filter(|prefix| *prefix != Path::new("/")) {
            queue.extend(tls_libraries([prefix.join("lib")]));
            queue.extend(JAVA_MACHINES.iter().map(|machine| prefix.join(machine)));
        }
        found.push(path);
    }
    found
}

/// TLS libraries where the dynamic loader looks for everybody's.
pub fn system_libraries() -> Vec<PathBuf> {
    tls_libraries(system_folders())
}

/// Run-times that are on the usual paths.
pub fn runtimes() -> Vec<PathBuf> {
    RUNTIMES.iter().filter_map(|name| find_program(OsStr::new(name), None)).collect()
}

/// The processes there are.
pub fn processes() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
}

/// The parent of a process, by what `/proc` says; none when it is gone.
pub fn parent(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // pid (comm) state ppid …: comm may hold anything, the last parenthesis ends it.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// A file that a process maps as code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MappedFile {
    /// The link under `map_files` that leads to the very file.
    pub link: PathBuf,
    /// The path by which the process mapped it.
    pub name: PathBuf,
    /// Inode, as the process sees it.
    pub inode: u64,
}

/// The files that a process maps as code; none when it is gone or closed to us.
pub fn mapped_files(process: u32) -> Vec<MappedFile> {
    let Ok(maps) = std::fs::read(format!("/proc/{process}/maps")) else { return Vec::new() };
    // 7f…-7f… r-xp 00000000 08:01 1234    /path          (proc_pid_maps(5))
    maps.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let line = std::str::from_utf8(line).ok()?;
            let mut fields = line.split_ascii_whitespace();
            let (range, mode, _, _, inode) =
                (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let inode = inode.parse().ok().filter(|inode| *inode != 0)?;
            let name = &line[line.find('/')?..];
            mode.contains('x').then(|| MappedFile {
                link: PathBuf::from(format!("/proc/{process}/map_files/{range}")),
                name: PathBuf::from(name),
                inode,
            })
        })
        .collect()
}

/// The TLS libraries of folders with libraries, and the modules of the Pythons there that have one inside.
pub(super) fn tls_libraries(folders: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in folders.into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten() {
        let name = entry.file_name();
        if is_tls_library(&name) {
            found.push(entry.path());
        } else if name.as_bytes().starts_with(b"python3") {
            found.extend(modules(&entry.path()));
        }
    }
    found
}

/// gRPC's module of Python's packages in a folder such as `lib/python3.11`: a program that imports it may call at once, in
/// less time than it takes to find the functions in it. No link is followed, which may lead out of a container.
fn modules(python: &Path) -> Vec<PathBuf> {
    let is_folder = |path: &Path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let mut found = Vec::new();
    for packages in ["site-packages", "dist-packages"] {
        let mut folder = python.to_owned();
        let is_there = ["", packages, "grpc", "_cython"].into_iter().all(|name| {
            folder.push(name);
            is_folder(&folder)
        });
        if is_there {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let named =
                |name: &OsStr| name.as_bytes().starts_with(b"cygrpc.") && name.as_bytes().ends_with(b".so");
            found.extend(entries.filter(|entry| named(&entry.file_name())).map(|entry| entry.path()));
        }
    }
    found
}

/// `libssl.so.3`, `libssl-1a2b3c.so.1.1` (vendored in a Python wheel), `libgnutls.so.30`, but not NSS' `libssl3.so`.
fn is_tls_library(name: &OsStr) -> bool {
    let name = name.as_bytes();
    ["libssl.so", "libssl-", "libgnutls.so", "libgnutls-"]
        .iter()
        .any(|known| name.starts_with(known.as_bytes()))
        && name.windows(3).any(|part| part == b".so")
}

/// The folders of an `LD_LIBRARY_PATH`. An empty one would be where the program then is, which is not known yet.
fn folders_of(path: &OsStr) -> Vec<PathBuf> {
    path.as_bytes()
        .split(|byte| matches!(byte, b':' | b';'))
        .filter(|folder| !folder.is_empty())
        .map(|folder| PathBuf::from(OsStr::from_bytes(folder)))
        .collect()
}

/// The loader's folders: its defaults, which in Debian's are those of the architecture first (images without a shell have
/// no `/etc/ld.so.conf`), and those of `/etc/ld.so.conf`.
fn system_folders() -> Vec<PathBuf> {
    let defaults = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let architecture = ["/lib", "/usr/lib"]
        .map(|folder| PathBuf::from(format!("{folder}/{}-linux-gnu", std::env::consts::ARCH)));
    let mut folders: BTreeSet<PathBuf> = architecture.into_iter().chain(defaults).collect();
    let extra = std::fs::read_dir("/etc/ld.so.conf.d")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    for file in extra.chain([PathBuf::from("/etc/ld.so.conf")]) {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        folders.extend(text.lines().map(str::trim).filter(|line| line.starts_with('/')).map(PathBuf::from));
    }
    folders
        .into_iter()
        .filter_map(|folder| folder.canonicalize().ok())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// The program that runs a script, by its first line; `env NAME` is looked up.
fn interpreter(path: &Path, search: Option<&OsStr>) -> Option<PathBuf> {
    let mut line = Vec::new();
    // The kernel reads 256 bytes (BINPRM_BUF_SIZE).
    File::open(path).ok()?.take(256).read_to_end(&mut line).ok()?;
    let line = line.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words =
        line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(OsStr::from_bytes);
    let program = words.next()?;
    if Path::new(program).file_name() == Some(OsStr::new("env")) {
        let name =
            words.find(|word| !word.as_bytes().starts_with(b"-") && !word.as_bytes().contains(&b'='))?;
        return find_program(name, search);
    }
    Some(PathBuf::from(program))
}

/// The libraries that an ELF file asks for, where the loader would find them.
fn needed(path: &Path, usual: &[PathBuf]) -> Vec<PathBuf> {
    let read = || -> Option<(Vec<OsString>, Vec<PathBuf>)> {
        let file = File::open(path).ok()?;
        let cache = ReadCache::new(&file);
        let elf = ElfFile64::<Endianness, _>::parse(&cache).ok()?;
        let origin = path.parent()?.as_os_str().to_str()?.to_owned();
        let mut names = Vec::new();
        let mut folders = Vec::new();
        let table = elf.elf_dynamic_table().ok()?;
        for entry in &table {
            match entry.tag {
                object::elf::DT_NEEDED => {
                    names.push(OsStr::from_bytes(table.string(entry).ok()?).to_owned());
                }
                object::elf::DT_RPATH | object::elf::DT_RUNPATH => {
                    let paths = std::str::from_utf8(table.string(entry).ok()?).ok()?.to_owned();
                    folders.extend(paths.split(':').map(|path| {
                        PathBuf::from(path.replace("$ORIGIN", &origin).replace("${ORIGIN}", &origin))
                    }));
                }
                _ => {}
            }
        }
        Some((names, folders))
    };
    let Some((names, folders)) = read() else { return Vec::new() };
    names
        .iter()
        .filter_map(|name| {
            folders.iter().chain(usual).map(|folder| folder.join(name)).find(|path| path.exists())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_leads_to_its_interpreter_and_on_to_its_libraries() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/usr/bin/env -S sh -e\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let files = program_files(&script, Some(OsStr::new("/usr/bin:/bin")), None);
        let names: Vec<_> = files.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert!(names.iter().any(|name| name.contains("sh")), "{names:?}");
        assert!(names.iter().any(|name| name.starts_with("libc.")), "{names:?}");
    }

    #[test]
    fn the_module_of_a_virtual_environment_is_found_by_the_name_of_its_program() {
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("lib/python3.11/site-packages/grpc/_cython");
        std::fs::create_dir_all(&modules).unwrap();
        std::fs::create_dir_all(folder.path().join("bin")).unwrap();
        let module = modules.join("cygrpc.cpython-311-x86_64-linux-gnu.so");
        std::fs::write(&module, "").unwrap();
        let program = folder.path().join("bin/python");
        std::os::unix::fs::symlink("/bin/sh", &program).unwrap();
        assert!(own_files(&program, None, None).contains(&module));
        std::fs::remove_dir_all(&modules).unwrap();
        std::os::unix::fs::symlink(folder.path(), &modules).unwrap();
        std::fs::write(folder.path().join("cygrpc.so"), "").unwrap();
        assert!(tls_libraries([folder.path().join("lib")]).is_empty(), "a link may lead out of a container");
    }

    #[test]
    fn libraries_are_found_where_the_environment_tells_the_loader_to_look() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libssl.so.3");
        std::fs::write(&library, "").unwrap();
        let libraries = [OsStr::new("/nowhere::"), folder.path().as_os_str()].join(OsStr::new(""));
        let files = program_files(Path::new("/bin/sh"), None, Some(&libraries));
        assert!(files.contains(&library.canonicalize().unwrap()), "{files:?}");
        assert!(
            !program_files(Path::new("/bin/sh"), None, None)
                .iter()
                .any(|file| file.starts_with(folder.path()))
        );
    }

    #[test]
    fn nss_is_not_taken_for_openssl() {
        assert!(is_tls_library(OsStr::new("libssl.so.1.1")));
        assert!(is_tls_library(OsStr::new("libssl-4c2a.so.3")));
        assert!(is_tls_library(OsStr::new("libgnutls.so.30")));
        assert!(!is_tls_library(OsStr::new("libssl3.so")));
        assert!(!is_tls_library(OsStr::new("libssl.a")));
    }

    #[test]
    fn the_files_of_this_very_process_are_seen() {
        let this = std::env::current_exe().unwrap().canonicalize().unwrap();
        let mapped = mapped_files(std::process::id());
        let own = mapped.iter().find(|mapped| mapped.name == this).expect("a process maps its program");
        assert_eq!(std::fs::canonicalize(&own.link).unwrap(), this);
    }
}
