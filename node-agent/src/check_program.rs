//! `agentsight check PROGRAM`: what would be seen of a program, and how, without running it.

use crate::capture::discover;
use crate::capture::files::RealFile;
use crate::capture::library::{self, Part, Plan, Reason, Verdict};
use crate::check_image;
use crate::terminal::{Colour, Terminal, harmless};
use serde::Serialize;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What was found of one program.
#[derive(Serialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The program.
    pub program: PathBuf,
    /// What is seen of its TLS: all that is known to be there, some of it, or nothing.
    pub seen: Seen,
    /// The files with a TLS implementation: the program itself, its interpreter, libraries.
    pub files: Vec<File>,
    /// How many files were looked at.
    pub looked_at: usize,
    /// How long that took.
    pub seconds: f64,
}

/// How much of a program's TLS is seen.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// All implementations that are known to be there.
    All,
    /// Some of them.
    Some,
    /// None of them, or none is known to be there.
    None,
}

impl Seen {
    /// By the files with a TLS implementation.
    pub fn of(files: &[File]) -> Seen {
        let missing = files.iter().any(|file| file.reason.is_some());
        match files.iter().any(|file| file.library.is_some()) {
            true if missing => Seen::Some,
            true => Seen::All,
            false => Seen::None,
        }
    }
}

/// A file with a TLS implementation.
#[derive(Serialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// The library; absent where it is not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<&'static str>,
    /// `symbols`, `errors` (what the code reports of itself), `functionTable` (Go's), or `algorithms` (ring's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found_by: Option<&'static str>,
    /// The GNU build-id, where the file has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// Where probes would stand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    /// What of the file is not seen, and why; docs/coverage.md tells what each means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// A probe.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// The kernel program.
    pub program: &'static str,
    /// Offset in the file.
    pub offset: u64,
    /// The kernel emulates the instruction there, which costs a tenth of single-stepping it.
    pub emulated: bool,
}

impl Report {
    /// Looks at a program, by its path or its name in `PATH`, or at all programs of an image; none where there is neither.
    ///
    /// # Errors
    /// [`check_image::Error`].
    pub fn of(program: &OsStr) -> Result<Option<Self>, check_image::Error> {
        // A name is a program's first, and a folder's or a file's only then.
        let is_name = Path::new(program).components().count() == 1 && program != "-";
        if is_name && let Some(report) = Self::of_program(program) {
            return Ok(Some(report));
        }
        match Self::of_image(Path::new(program))? {
            Some(report) => Ok(Some(report)),
            None => Ok(Self::of_program(program)),
        }
    }

    fn of_image(path: &Path) -> Result<Option<Self>, check_image::Error> {
        let start = std::time::Instant::now();
        let mut files = Vec::new();
        let mut looked_at = 0;
        let is_image = check_image::programs(path, |path, file| {
            looked_at += 1;
            files.extend(library::judge(file).iter().flat_map(|verdict| File::of(path, verdict)));
        })?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(is_image.map(|()| {
            let seen = Seen::of(&files);
            Self { program: path.to_owned(), seen, files, looked_at, seconds }
        }))
    }

    fn of_program(program: &OsStr) -> Option<Self> {
        let search = std::env::var_os("PATH");
        // A library is executable for nobody, and may be asked for all the same.
        let path = PathBuf::from(program);
        let file = || (path.components().count() > 1 && path.is_file()).then_some(path.clone());
        let program =
            discover::find_program(program, search.as_deref()).or_else(file)?.canonicalize().ok()?;
        let libraries = std::env::var_os("LD_LIBRARY_PATH");
        let start = std::time::Instant::now();
        let paths = discover::own_files(&program, search.as_deref(), libraries.as_deref());
        let mut keys = HashSet::new();
        let mut files = Vec::new();
        for path in &paths {
            // As when it is traced: a file with several names is one.
            let Ok(file) = RealFile::open(path, None) else { continue };
            if keys.insert(file.key) {
                files.extend(library::judge(&file.file).iter().flat_map(|verdict| File::of(path, verdict)));
            }
        }
        let seen = Seen::of(&files);
        Some(Self { program, seen, files, looked_at: keys.len(), seconds: start.elapsed().as_secs_f64() })
    }

    /// 0 where all that is known to be there is seen, else 1.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.seen != Seen::All)
    }

    /// A list for people, which ends with a newline.
    pub fn text(&self, terminal: Terminal) -> String {
        let shown = |path: &Path| harmless(&path.to_string_lossy(), 4096);
        let mut text = String::new();
        for file in &self.files {
            if let (Some(library), Some(found)) = (file.library, file.found_by) {
                let stepped = file.probes.iter().filter(|probe| !probe.emulated).count();
                let how = match found {
                    "errors" => "the errors that its code reports",
                    "functionTable" => "Go's table of functions",
                    "algorithms" => "ring's table of algorithms",
                    _ => "its symbols",
                };
                let (word, path) = (terminal.paint("seen    ", Colour::Green), shown(&file.path));
                let probes = file.probes.len();
                let _ = writeln!(text, "{word}  {path}");
                let _ = writeln!(
                    text,
                    "          {library}, by {how}: {probes} probes, {stepped} of them single-stepped"
                );
            }
            if let Some(reason) = file.reason {
                let (word, path) = (terminal.paint("not seen", Colour::Red), shown(&file.path));
                let _ = writeln!(text, "{word}  {path}\n          {reason}: see docs/coverage.md");
            }
        }
        let (verdict, colour) = match self.seen {
            Seen::All => ("Its TLS is seen.", Colour::Green),
            Seen::Some => ("Some of its TLS is seen, some is not: that stands above.", Colour::Yellow),
            Seen::None if self.files.is_empty() => {
                const WORDS: &str = "No TLS library that is known: it speaks none, loads one as it runs, or has one of \
                                     its own.";
                (WORDS, Colour::Yellow)
            }
            Seen::None => ("Its TLS is not seen: the reason stands above.", Colour::Red),
        };
        let (files, seconds) = (self.looked_at, self.seconds);
        let _ = writeln!(text, "\n{} ({files} files in {seconds:.2} s)", terminal.paint(verdict, colour));
        text
    }

    /// One JSON object, which ends with a newline.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain data");
        text.push('\n');
        text
    }
}

impl File {
    /// What a verdict says: one for each library that is seen, and one for what is not; none where the file holds no TLS
    /// implementation.
    pub fn of(path: &Path, verdict: &Verdict) -> Vec<Self> {
        let unseen = |reason: Reason| Self {
            path: path.to_owned(),
            library: None,
            found_by: None,
            build_id: None,
            probes: Vec::new(),
            reason: Some(reason.name()),
        };
        match verdict {
            Verdict::Traceable(plan) => {
                let seen = plan.parts.iter().map(|part| Self::seen(path, plan, part));
                seen.chain(plan.unseen.map(unseen)).collect()
            }
            Verdict::Untraceable(reason) => vec![unseen(*reason)],
            Verdict::NoTls => Vec::new(),
        }
    }

    fn seen(path: &Path, plan: &Plan, part: &Part) -> Self {
        Self {
            path: path.to_owned(),
            library: Some(part.library.name()),
            found_by: Some(part.found.name()),
            build_id: plan.build_id.as_ref().map(|id| {
                id.iter().fold(String::new(), |mut text, byte| {
                    let _ = write!(text, "{byte:02x}");
                    text
                })
            }),
            probes: part
                .probes
                .iter()
                .map(|probe| Probe {
                    program: probe.program.name(),
                    offset: probe.offset,
                    emulated: probe.emulated,
                })
                .collect(),
            reason: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::library::{Found, Library};

    #[test]
    fn a_program_without_tls_says_so() {
        let report = Report::of_program(OsStr::new("sh")).expect("every machine has a shell");
        assert_eq!((report.seen, report.exit_code()), (Seen::None, 1));
        assert!(report.looked_at > 1, "the shell and its libraries");
        assert!(report.text(Terminal::PLAIN).starts_with("\nNo TLS library that is known"));
    }

    #[test]
    fn each_library_of_a_file_is_told_with_how_it_was_found_and_what_is_not_seen_with_the_reason() {
        let part = |library, found| Part { library, found, probes: Vec::new() };
        let plan = Plan {
            parts: vec![part(Library::OpenSsl, Found::ByErrors), part(Library::Rustls, Found::ByAlgorithms)],
            unseen: Some(Reason::UnknownShape),
            build_id: None,
        };
        let files = File::of(Path::new("/bin/agent"), &Verdict::Traceable(plan));
        let seen = Seen::of(&files);
        let report = Report { program: "/bin/agent".into(), seen, files, looked_at: 1, seconds: 0.0 };
        assert_eq!((report.seen, report.exit_code()), (Seen::Some, 1));
        let text = report.text(Terminal::PLAIN);
        for told in
            ["openssl, by the errors", "rustls, by ring's table", "UnknownShape: see docs/coverage.md"]
        {
            assert!(text.contains(told), "{told}: {text}");
        }
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(json["files"][1]["foundBy"], "algorithms");
        assert_eq!(json["files"][2]["reason"], "UnknownShape");
    }

    #[test]
    fn a_program_with_rustls_says_how_it_is_seen() {
        // This test has the agent's own in it.
        let this = std::env::current_exe().expect("a test has a path");
        let report = Report::of_program(this.as_os_str()).expect("it is there");
        assert_eq!((report.seen, report.files[0].library), (Seen::All, Some("rustls")), "{report:?}");
    }

    #[test]
    fn no_program_is_no_report() {
        assert!(Report::of(OsStr::new("/nowhere/to/be/found")).expect("no image").is_none());
    }
}
