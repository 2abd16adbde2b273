//! The table in docs/coverage.md: each line is what a test has just seen.
//!
//! A test that has seen a program's calls whole tells it here. Where the table does not say the same, the test fails;
//! `make coverage` writes it anew (`COVERAGE_TABLE=1`).

use crate::agent::Agent;
use crate::comparison::is_call;
use crate::process::run;
use crate::truth::Served;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::Command;

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/coverage.md");
const BEGIN: &str = "<!-- Written by `make coverage`: each line was seen by a test. -->\n";
const END: &str = "<!-- End of what `make coverage` writes. -->\n";
const HEAD: &str =
    "| program | version | TLS | found by | protocol | what was said |\n|---|---|---|---|---|---|\n";

/// What clients of [`crate::go::GoServer`] say to it.
pub const CHAT: &str = "OpenAI Chat Completions, OpenAI Chat Completions (streamed)";

/// A program whose calls were seen whole.
pub struct Row<'a> {
    /// Its name, such as `Claude Code`.
    pub program: &'a str,
    /// Its version, where the project says which one is run.
    pub version: &'a str,
    /// The file with its TLS implementation; none where it has none.
    pub file: Option<&'a Path>,
    /// Which of the implementations in it, where it has several.
    pub library: Option<&'a str>,
    /// `HTTP/1.1`, `HTTP/2` or `stdio`.
    pub protocol: &'a str,
}

impl<'a> Row<'a> {
    /// By that one of the implementations in its file.
    #[must_use]
    pub fn by(self, library: &'a str) -> Self {
        Self { library: Some(library), ..self }
    }

    /// Tells that the calls of `served` were seen whole.
    ///
    /// # Panics
    /// The table does not say so.
    pub fn was_seen(&self, agent: &Agent, served: &[Served]) {
        let calls = served.iter().filter(|served| is_call(served));
        let formats: BTreeSet<_> = calls.map(|served| format(&served.api, served.stream)).collect();
        let formats: Vec<_> = formats.into_iter().collect();
        self.was_seen_to_say(agent, &formats.join(", "));
    }

    /// As [`Self::was_seen`], in these words.
    ///
    /// # Panics
    /// See there.
    pub fn was_seen_to_say(&self, agent: &Agent, formats: &str) {
        let (library, found_by) = match self.file {
            Some(file) => how(agent, file, self.library),
            None => {
                let found_by = if self.protocol == "stdio" { "pipes" } else { "sockets" };
                ("none".to_owned(), found_by.to_owned())
            }
        };
        let Row { program, version, protocol, .. } = self;
        let line = format!("| {program} | {version} | {library} | {found_by} | {protocol} | {formats} |\n");
        if std::env::var_os("COVERAGE_TABLE").is_some() {
            add(&line);
        } else {
            let text = std::fs::read_to_string(TABLE).expect("the project's own file");
            assert!(text.contains(&line), "not in docs/coverage.md, which `make coverage` writes:\n{line}");
        }
    }
}

/// What the agent says of a file: the library, the first or the one of that name, and how it was found.
fn how(agent: &Agent, file: &Path, library: Option<&str>) -> (String, String) {
    let output = run(Command::new(agent.program()).args(["check", "-o", "json"]).arg(file));
    let report: Value =
        serde_json::from_slice(&output.stdout).expect("`agentsight check -o json` writes JSON");
    let seen = report["files"].as_array().into_iter().flatten().find(|file| match library {
        Some(library) => file["library"] == library,
        None => file["library"].is_string(),
    });
    let seen = seen.unwrap_or_else(|| panic!("{}: {report}", file.display()));
    let text = |name: &str| seen[name].as_str().unwrap_or_default().to_owned();
    (text("library"), text("foundBy"))
}

/// The provider's name of a wire format.
fn format(api: &str, stream: bool) -> String {
    let name = match api {
        "chat.completions" => "OpenAI Chat Completions",
        "responses" => "OpenAI Responses",
        "messages" => "Anthropic Messages",
        "generateContent" => "Gemini generateContent",
        other => other,
    };
    if stream { format!("{name} (streamed)") } else { name.to_owned() }
}

/// Adds a line to the table, in the order of the alphabet; tests of several processes may do so at once.
fn add(line: &str) {
    let mut file = OpenOptions::new().read(true).write(true).open(TABLE).expect("the project's own file");
    File::lock(&file).expect("a lock");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("UTF-8");
    let begin = text.find(BEGIN).expect("the table's begin") + BEGIN.len();
    let end = begin + text[begin..].find(END).expect("the table's end");
    let mut lines: BTreeSet<&str> = text[begin..end].split_inclusive('\n').skip(2).collect();
    lines.insert(line);
    let table: String = lines.into_iter().collect();
    let text = [&text[..begin], HEAD, &table, &text[end..]].concat();
    file.rewind().expect("a file");
    file.set_len(0).expect("a file");
    file.write_all(text.as_bytes()).expect("the project's own file");
}
