//! The Go programs of `e2e/agents`, linked in different ways, and what they serve to clients of other languages.

use crate::agent::Record;
use crate::model_server::ModelServer;
use crate::process::{PATIENCE, Process, run};
use crate::python;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use tempfile::TempDir;

/// How a program is built.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Arguments of `go build`.
    pub arguments: &'static [&'static str],
    /// With C.
    pub cgo: bool,
    /// By this release of Go, such as `go1.27.3`; `local` is the machine's own.
    pub release: &'static str,
}

/// Without the symbols of a linker, as programs are shipped.
pub const STRIPPED: Build = Build { arguments: &["-ldflags=-s -w"], cgo: false, release: "local" };

/// Builds `e2e/agents/go`; without Go the test is skipped, which is said.
///
/// # Panics
/// With `AGENTSIGHT_REQUIRE_EBPF=1`, as in CI, where it would be skipped; or the program does not build.
pub fn build_or_skip(build: Build, program: &Path) -> Option<()> {
    make_or_skip("go", build, program)
}

/// As [`build_or_skip`], of the program with the official SDKs (`e2e/agents/go_sdks`), which Go fetches and keeps.
///
/// # Panics
/// See there.
pub fn sdks_or_skip(program: &Path) -> Option<()> {
    make_or_skip("go_sdks", STRIPPED, program)
}

fn make_or_skip(source: &str, build: Build, program: &Path) -> Option<()> {
    let go = || {
        let mut go = Command::new("go");
        go.current_dir(python::agent(source));
        go.envs([("GOTOOLCHAIN", build.release), ("GOFLAGS", "-buildvcs=false -mod=readonly")]);
        go
    };
    // Fetches that release where it is not there yet.
    if !go().arg("version").output().is_ok_and(|output| output.status.success()) {
        let required = std::env::var_os("AGENTSIGHT_REQUIRE_EBPF").is_some_and(|value| value == "1");
        assert!(!required, "AGENTSIGHT_REQUIRE_EBPF=1, but there is no Go ({})", build.release);
        eprintln!("skipped: there is no Go ({})", build.release);
        return None;
    }
    let output = run(go()
        .arg("build")
        .args(build.arguments)
        .arg("-o")
        .arg(program)
        .env("CGO_ENABLED", if build.cgo { "1" } else { "0" }));
    assert!(output.status.success(), "go build: {}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// The version of a module that the program with the official SDKs is built of.
///
/// # Panics
/// It is built of none of that name.
pub fn version_of(module: &str) -> String {
    let file = python::agent("go_sdks/go.mod");
    let text = std::fs::read_to_string(&file).expect("the project's own file");
    let version = text.lines().find_map(|line| line.trim().strip_prefix(module)?.strip_prefix(" v"));
    version.unwrap_or_else(|| panic!("no {module} in {}", file.display())).to_owned()
}

/// What `e2e/agents/go` serves by HTTP/1.1 and HTTP/2: its own answers, or those of a model server.
pub struct GoServer {
    _process: Process,
    folder: TempDir,
    port: String,
    tls: bool,
}

impl GoServer {
    /// Starts it and waits until it listens; it ends with its owner.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(program: &Path) -> Self {
        Self::serve(program, &["serve"], true)
    }

    /// By HTTP/2 and no other, before a model server without TLS: it passes on what is asked and answered.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_before(server: &ModelServer, program: &Path) -> Self {
        Self::serve(program, &["front", &server.base()], true)
    }

    /// As [`Self::start`], without TLS.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_plain(program: &Path) -> Self {
        Self::serve(program, &["serve"], false)
    }

    fn serve(program: &Path, what: &[&str], tls: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ca = folder.path().join("ca.pem");
        let mut command = Command::new(program);
        command.args(what).arg(if tls { ca.as_path() } else { Path::new("-") });
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let stdout = process.child().stdout.take().expect("it was asked for");
        let (sender, line) = channel();
        thread::spawn(move || {
            let mut line = String::new();
            drop(BufReader::new(stdout).read_line(&mut line));
            drop(sender.send(line));
        });
        let port = line.recv_timeout(PATIENCE).expect("it says where it listens").trim().to_owned();
        assert!(!port.is_empty(), "the server did not start");
        Self { _process: process, folder, port, tls }
    }

    /// `https://localhost:PORT`, or `http://…` where it has no TLS.
    pub fn base(&self) -> String {
        format!("http{}://localhost:{}", if self.tls { "s" } else { "" }, self.port)
    }

    /// The certificate that clients trust; `-` without TLS.
    pub fn ca(&self) -> PathBuf {
        if self.tls { self.folder.path().join("ca.pem") } else { "-".into() }
    }
}

/// Questions at once, and twice of them: the second time over the connections of the first.
const QUESTIONS: usize = 8;

/// Records a client of [`GoServer`] that is told `ask BASE CA-FILE PROTOCOL N` and `more`, and holds each of its calls
/// against what it asked and was answered. Gives what the program and the agent said.
///
/// # Panics
/// A call was not seen whole, or twice.
pub fn both_rounds_are_seen(
    record: Record<'_>,
    server: &GoServer,
    protocol: &str,
    more: &[&str],
    who: &str,
) -> (String, String) {
    let version = if protocol == "h2" { "HTTP/2.0" } else { "HTTP/1.1" };
    let who = format!("{who} {protocol}");
    let recording = record
        .option("--content")
        .args(["ask".into(), server.base(), server.ca().display().to_string()])
        .args([protocol.to_owned(), QUESTIONS.to_string()])
        .args(more)
        .run()
        .succeeded();
    let said = String::from_utf8_lossy(&recording.output.stdout).into_owned();
    let log = String::from_utf8_lossy(&recording.output.stderr).into_owned();
    assert_eq!(said.lines().filter(|line| line.starts_with(version)).count(), 2 * QUESTIONS, "{said}");
    let ids: BTreeSet<_> = recording
        .telemetry
        .calls()
        .map(|span| {
            assert!(span.text("agentsight.capture.truncated").is_none(), "{who}: {span:#?}");
            assert!(span.text("agentsight.response.incomplete").is_none(), "{who}: {span:#?}");
            let question = span.json("gen_ai.input.messages").expect("--content was asked for");
            let question = question[0]["parts"][0]["content"].as_str().expect("a text").to_owned();
            let answer = span.json("gen_ai.output.messages").expect("--content was asked for");
            assert_eq!(answer[0]["parts"][0]["content"], format!("You said: {question}"), "{who}");
            assert_eq!(span.number("gen_ai.usage.input_tokens"), Some(question.len() as u64), "{who}");
            span.text("gen_ai.response.id").expect("an answer has an id").to_owned()
        })
        .collect();
    let expected: BTreeSet<_> =
        (0..2).flat_map(|round| (0..QUESTIONS).map(move |i| format!("chatcmpl-model-{round}-{i}"))).collect();
    assert_eq!(ids, expected, "{who}\n{log}");
    assert_eq!(recording.telemetry.calls().count(), expected.len(), "{who}: none twice");
    (said, log)
}
