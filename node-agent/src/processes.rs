//! `agentsight processes`: of which running programs the TLS would be seen, and how, without tracing any.

use crate::capture::discover::{self, MappedFile};
use crate::capture::files::{FileKey, RealFile};
use crate::capture::library;
use crate::check_program::{File, Seen};
use crate::identity::Place;
use crate::terminal::{Colour, Terminal, harmless};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What is seen of the processes of this machine.
#[derive(Serialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Those with a TLS implementation that is known, or all that were asked for; by process id.
    pub processes: Vec<Process>,
    /// How many others were looked at, in which no TLS implementation is known.
    pub without_tls: usize,
    /// How many could not be looked at: they are other users'.
    pub closed: usize,
}

/// A running program.
#[derive(Serialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The file that it executes; absent where it is not to be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<PathBuf>,
    /// The container that it is in, by its cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The UID of its Kubernetes pod, by its cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// What is seen of its TLS.
    pub seen: Seen,
    /// The files with a TLS implementation that it maps, by the paths in its own mounts.
    pub files: Vec<File>,
}

/// What a look at a process gives.
enum Look {
    At(Process),
    /// A kernel thread, or gone.
    Nothing,
    Closed,
}

impl Report {
    /// Looks at all processes, or at those of `only`, which are told whatever they have.
    pub fn of(only: &[u32]) -> Self {
        let mut judged = HashMap::new();
        let mut report = Self { processes: Vec::new(), without_tls: 0, closed: 0 };
        let mut all: Vec<u32> = if only.is_empty() { discover::processes().collect() } else { only.to_vec() };
        // Never itself, unless it is asked for.
        all.retain(|pid| *pid != std::process::id() || only.contains(pid));
        all.sort_unstable();
        all.dedup();
        for pid in all {
            match look(pid, &mut judged) {
                Look::At(process) if only.is_empty() && process.files.is_empty() => report.without_tls += 1,
                Look::At(process) => report.processes.push(process),
                Look::Closed => report.closed += 1,
                Look::Nothing => {}
            }
        }
        report
    }

    /// Those of `only` that could not be looked at.
    pub fn missing(&self, only: &[u32]) -> Vec<u32> {
        let is_missing = |pid: &u32| self.processes.iter().all(|process| process.pid != *pid);
        only.iter().copied().filter(is_missing).collect()
    }

    /// A table for people, which ends with a newline.
    pub fn text(&self, terminal: Terminal) -> String {
        const HEAD: [&str; 7] = ["PID", "PROGRAM", "CONTAINER", "SEEN", "LIBRARY", "FOUND BY", "FILE"];
        let rows: Vec<[String; 7]> = self.processes.iter().flat_map(Process::rows).collect();
        let mut text = String::new();
        if !rows.is_empty() {
            let width = |column: usize| {
                let cells = rows.iter().map(|row| row[column].len());
                cells.chain([HEAD[column].len()]).max().unwrap_or(0)
            };
            let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
            let mut line = |cells: [&str; 7], colour: Option<Colour>| {
                let parts = cells.iter().zip(&widths);
                let mut padded: Vec<String> = parts.map(|(cell, width)| format!("{cell:width$}")).collect();
                if let Some(colour) = colour {
                    padded[3] = terminal.paint(&padded[3], colour);
                }
                let _ = writeln!(text, "{}", padded.join("  ").trim_end());
            };
            line(HEAD, None);
            for row in &rows {
                let colour = if row[3] == "yes" { Colour::Green } else { Colour::Red };
                line(row.each_ref().map(String::as_str), Some(colour));
            }
            text.push('\n');
        }
        let with = self.processes.iter().filter(|process| !process.files.is_empty()).count();
        let without = self.without_tls + self.processes.len() - with;
        let _ = writeln!(text, "Processes with a TLS library that is known: {with}; without: {without}.");
        if self.closed > 0 {
            let closed = self.closed;
            let _ = writeln!(text, "Closed to this user: {closed}; root (sudo) can look at more.");
        }
        text
    }

    /// One JSON object, which ends with a newline.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain data");
        text.push('\n');
        text
    }
}

impl Process {
    /// A row for each library, and one for each reason why something is not seen.
    fn rows(&self) -> Vec<[String; 7]> {
        let name = self.executable.as_deref().and_then(Path::file_name).unwrap_or_default();
        let container = self.container.as_deref().map_or("-", |id| id.get(..12).unwrap_or(id));
        let row = |seen: &str, library: &str, found: &str, file: &str| {
            [
                self.pid.to_string(),
                harmless(&name.to_string_lossy(), 24),
                container.to_owned(),
                seen.to_owned(),
                library.to_owned(),
                found.to_owned(),
                file.to_owned(),
            ]
        };
        let mut rows = Vec::new();
        for file in &self.files {
            let path = harmless(&file.path.to_string_lossy(), 4096);
            if let (Some(library), Some(found)) = (file.library, file.found_by) {
                rows.push(row("yes", library, found, &path));
            }
            if let Some(reason) = file.reason {
                rows.push(row("no", reason, "-", &path));
            }
        }
        if rows.is_empty() {
            rows.push(row("no", library::Reason::NoTlsLibrary.name(), "-", "-"));
        }
        rows
    }
}

fn look(pid: u32, judged: &mut HashMap<FileKey, Vec<File>>) -> Look {
    // The link tells kernel threads, which have none, from processes that are closed to us.
    let executable = match std::fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(path) => Some(path),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Look::Closed,
        Err(_) => None,
    };
    let mapped = discover::mapped_files(pid);
    if mapped.is_empty() {
        return Look::Nothing;
    }
    let mut files: Vec<File> = Vec::new();
    for mapped in &mapped {
        // A file that is mapped in several pieces is one.
        if files.iter().all(|known| known.path != mapped.name) {
            files.extend(judge(pid, mapped, judged));
        }
    }
    let cgroup = std::fs::read(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let place = Place::of_process(&String::from_utf8_lossy(&cgroup));
    Look::At(Process {
        pid,
        executable,
        container: place.as_ref().map(|place| place.container.as_str().to_owned()),
        pod: place.and_then(|place| Some(place.pod?.as_str().to_owned())),
        seen: Seen::of(&files),
        files,
    })
}

/// What a file holds, read once for all processes that map it.
fn judge(pid: u32, mapped: &MappedFile, judged: &mut HashMap<FileKey, Vec<File>>) -> Vec<File> {
    // The link leads to the very file, and takes a capability; the process' root does where the file is still there.
    let in_root = PathBuf::from(format!("/proc/{pid}/root{}", mapped.name.display()));
    let file = [&mapped.link, &in_root, &mapped.name]
        .into_iter()
        .find_map(|path| RealFile::open(path, Some(pid)).ok());
    let Some(file) = file else { return Vec::new() };
    let known = judged.entry(file.key).or_insert_with(|| {
        library::judge(&file.file).iter().flat_map(|verdict| File::of(&mapped.name, verdict)).collect()
    });
    known.iter().map(|file| File { path: mapped.name.clone(), ..file.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let file = |library, reason| File {
            path: "/usr/lib/libssl.so.3\u{1b}[2J".into(),
            library,
            found_by: library.map(|_| "symbols"),
            build_id: None,
            probes: Vec::new(),
            reason,
        };
        let process = |pid, files: Vec<File>| Process {
            pid,
            executable: Some("/usr/bin/agent".into()),
            container: Some("0123456789abcdef".repeat(4)),
            pod: None,
            seen: Seen::of(&files),
            files,
        };
        Report {
            processes: vec![
                process(7, vec![file(Some("openssl"), Some("Rustls"))]),
                process(8, vec![file(None, Some("JavaTls"))]),
                process(9, Vec::new()),
            ],
            without_tls: 3,
            closed: 2,
        }
    }

    #[test]
    fn the_table_has_a_row_for_all_that_is_seen_and_all_that_is_not() {
        let text = report().text(Terminal::PLAIN);
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).take(5).collect();
        assert_eq!(rows[1][..6], ["7", "agent", "0123456789ab", "yes", "openssl", "symbols"]);
        assert_eq!(rows[2][..6], ["7", "agent", "0123456789ab", "no", "Rustls", "-"]);
        assert_eq!(rows[3][..5], ["8", "agent", "0123456789ab", "no", "JavaTls"]);
        assert_eq!(rows[4][..5], ["9", "agent", "0123456789ab", "no", "NoTlsLibrary"]);
        assert!(text.contains("is known: 2; without: 4.\nClosed to this user: 2;"), "{text}");
        assert!(!text.contains('\u{1b}'), "a path cannot write to the terminal: {text}");
    }

    #[test]
    fn a_process_that_was_asked_for_is_told_whatever_it_has() {
        let report = Report::of(&[std::process::id()]);
        assert_eq!(report.processes.len(), 1);
        assert_eq!(report.processes[0].pid, std::process::id());
        assert_eq!(report.processes[0].executable, std::env::current_exe().ok());
        assert_eq!(report.missing(&[std::process::id(), 0]), [0]);
    }
}
