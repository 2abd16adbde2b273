//! Virtual machines with another kernel: Debian's, booted by QEMU into a root of this machine's programs.

use crate::process::{run, run_for};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Beyond this a machine is taken for hung: it is emulated, and so is the verifier that reads all our programs.
const PATIENCE: Duration = Duration::from_secs(900);

/// A kernel to boot.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Such as `6.12`.
    pub series: String,
    /// As the kernel names itself, without its flavour.
    pub version: String,
    file: PathBuf,
}

impl Kernel {
    /// Debian's kernels of these series, fetched where they are not there yet. A series that cannot be had is missing,
    /// which scripts/kernels.sh says.
    ///
    /// # Panics
    /// The script fails.
    pub fn fetch(series: &[&str]) -> Vec<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kernels.sh");
        let output = run(Command::new(script).args(series));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let kernel = |line: &str| {
            let mut fields = line.split(' ').map(str::to_owned);
            let (series, version) = (fields.next()?, fields.next()?);
            Some(Self { series, version, file: fields.next()?.into() })
        };
        lines.lines().filter_map(kernel).collect()
    }
}

/// A root file system in the making: programs of this machine, with the libraries that they load.
pub struct Root {
    folder: TempDir,
    libraries: BTreeSet<PathBuf>,
}

impl Root {
    /// One with busybox, and `init` as its first process.
    ///
    /// # Panics
    /// Debian's busybox-static is not installed.
    pub fn new(init: &Path) -> Self {
        let root =
            Self { folder: tempfile::tempdir().expect("a temporary folder"), libraries: BTreeSet::new() };
        for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "run"] {
            std::fs::create_dir(root.folder.path().join(folder)).expect("a folder of ours");
        }
        root.copy(Path::new("/bin/busybox"), Path::new("bin/busybox"));
        root.copy(init, Path::new("init"));
        root
    }

    /// A file as it stands.
    ///
    /// # Panics
    /// It cannot be copied.
    pub fn copy(&self, from: &Path, to: &Path) {
        let to = self.folder.path().join(to);
        std::fs::create_dir_all(to.parent().expect("a path below the root")).expect("a folder of ours");
        std::fs::copy(from, &to).unwrap_or_else(|error| panic!("cannot copy {}: {error}", from.display()));
    }

    /// A program and all that it loads, in `/bin` under this name.
    ///
    /// # Panics
    /// It cannot be copied.
    pub fn program(&mut self, name: &str, program: &Path) {
        self.copy(program, &Path::new("bin").join(name));
        let output = run(Command::new("ldd").arg(program));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for library in text.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
            if self.libraries.insert(library.to_owned()) {
                self.copy(library, library.strip_prefix("/").expect("it starts with one"));
            }
        }
    }

    /// What a kernel takes as its initial root.
    ///
    /// # Panics
    /// `cpio` or `gzip` fail.
    pub fn pack(self) -> Packed {
        let output = run(Command::new("sh")
            .args([
                "-ec",
                "find . | cpio --quiet -o -H newc | gzip -1 >initrd.partial && mv initrd.partial initrd",
            ])
            .current_dir(self.folder.path()));
        assert!(output.status.success(), "cpio: {}", String::from_utf8_lossy(&output.stderr));
        Packed { folder: self.folder }
    }
}

/// A root, ready to boot.
pub struct Packed {
    folder: TempDir,
}

impl Packed {
    /// Boots a kernel with these additions to its command line, and waits until it switches itself off.
    ///
    /// # Panics
    /// QEMU cannot run, or the machine does not end within [`PATIENCE`].
    pub fn boot(&self, kernel: &Kernel, parameters: &str) -> Said {
        let mut machine = Command::new("qemu-system-x86_64");
        machine
            // One thread for all CPUs: with several, emulation sometimes misses a breakpoint that another CPU has set.
            .args(["-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "1G"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
            .arg("-kernel")
            .arg(&kernel.file)
            .arg("-initrd")
            .arg(self.folder.path().join("initrd"))
            .args(["-append", &format!("console=ttyS0 quiet panic=-1 {parameters}")])
            .stdin(std::process::Stdio::null());
        let output = run_for(&mut machine, PATIENCE);
        let console = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        assert!(output.status.success(), "QEMU: {}\n{console}", String::from_utf8_lossy(&output.stderr));
        Said::of(console)
    }
}

/// What a machine said: sections that its init marked with `@@ NAME` … `@@ STATUS`.
#[derive(Debug)]
pub struct Said {
    /// All of it.
    pub console: String,
    sections: BTreeMap<String, (String, String)>,
}

impl Said {
    fn of(console: String) -> Self {
        let mut sections = BTreeMap::new();
        let mut open: Option<(String, String)> = None;
        for line in console.lines() {
            match (line.strip_prefix("@@ "), &mut open) {
                (Some(name), None) => open = Some((name.to_owned(), String::new())),
                (Some(status), Some(_)) => {
                    let (name, text) = open.take().expect("it was just looked at");
                    sections.insert(name, (status.to_owned(), text));
                }
                (None, Some((_, text))) => {
                    text.push_str(line);
                    text.push('\n');
                }
                (None, None) => {}
            }
        }
        Self { console, sections }
    }

    /// A section's exit status and text.
    ///
    /// # Panics
    /// The machine did not come that far.
    pub fn section(&self, name: &str) -> (&str, &str) {
        let found = self.sections.get(name);
        let (status, text) = found.unwrap_or_else(|| panic!("no section {name} in\n{}", self.console));
        (status, text)
    }

    /// The text of a section that ended well.
    ///
    /// # Panics
    /// It did not.
    pub fn text(&self, name: &str) -> &str {
        let (status, text) = self.section(name);
        assert_eq!(status, "0", "{name} ended with {status}:\n{}", self.console);
        text
    }
}
