//! A traced program is what it would be without us: its registers, its stack, its results, and in the end its code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, Record};
use agentsight_e2e::process::{PATIENCE, Process};
use agentsight_e2e::programs;
use rustix::process::Signal;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[test]
fn a_program_that_checks_itself_sees_no_difference() {
    let Some(agent) = Agent::or_skip() else { return };
    let library = Library::copy();
    let program = program();
    let log = library.folder.path().join("log");
    let record = library.record(&agent, &program).option("-v");
    let mut process = Process::spawn(
        record.command().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log).unwrap()),
    );
    let mut input = process.child().stdin.take().unwrap();
    let mut lines = BufReader::new(process.child().stdout.take().unwrap()).lines();
    for _ in 0..2 {
        writeln!(input, "check").unwrap();
        let answer = lines.next().and_then(Result::ok);
        assert_eq!(answer.as_deref(), Some("right"), "{}", std::fs::read_to_string(&log).unwrap());
    }
    drop(input);
    let status = process.wait();
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(status.success(), "{log}");
    // It was looked at while it looked: twice some 3,000 rounds of four calls and more.
    let calls = log.split("tls_calls=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    assert!(calls.parse::<u64>().unwrap() > 20_000, "{calls} calls were traced\n{log}");
}

#[test]
fn an_agent_that_is_killed_leaves_neither_probes_nor_a_program_that_fails() {
    let Some(agent) = Agent::or_skip() else { return };
    let library = Library::copy();
    let program = program();
    let recording = library.record(&agent, &program);
    let mut record = Process::spawn(recording.command().stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut input = record.child().stdin.take().unwrap();
    let mut lines = BufReader::new(record.child().stdout.take().unwrap()).lines();
    let mut check = || {
        writeln!(input, "check").unwrap();
    };
    check();
    assert_eq!(lines.next().unwrap().unwrap(), "right");
    let traced = child_of(record.id());
    assert!(library.changed_bytes(traced) > 0, "no probe stands in the program's memory");

    // Killed while the program is at it.
    check();
    record.signal(Signal::KILL);
    assert_eq!(record.wait().signal(), Some(Signal::KILL.as_raw()));
    assert_eq!(lines.next().unwrap().unwrap(), "right");
    check();
    assert_eq!(lines.next().unwrap().unwrap(), "right");
    // The kernel takes probes out a moment after their last owner is gone.
    let deadline = Instant::now() + PATIENCE;
    while library.changed_bytes(traced) > 0 {
        assert!(Instant::now() < deadline, "probes are left in the program's memory");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Ends the program, which nobody waits for but init.
    drop(input);
    assert!(lines.next().is_none());
}

#[test]
fn an_agent_that_ends_leaves_no_probes_in_a_program_that_goes_on() {
    let Some(agent) = Agent::or_skip() else { return };
    let library = Library::copy();
    let mut process = Process::spawn(
        Command::new(program())
            .env("LD_LIBRARY_PATH", library.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    );
    let mut input = process.child().stdin.take().unwrap();
    let mut lines = BufReader::new(process.child().stdout.take().unwrap()).lines();
    let mut check = || {
        writeln!(input, "check").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "right");
    };
    check();
    for end in [Signal::INT, Signal::TERM] {
        let mut record = Process::spawn(
            Command::new(agent.program())
                .args(["record", "-v", "--pid", &process.id().to_string()])
                .stderr(Stdio::piped()),
        );
        let mut log = BufReader::new(record.child().stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(log.any(|line| line.contains("tracing;")), "the agent did not start");
        assert!(library.changed_bytes(process.id()) > 0, "no probe stands in the program's memory");
        check();
        record.signal(end);
        assert!(record.wait().success());
        assert_eq!(library.changed_bytes(process.id()), 0, "probes are left in the program's memory");
        check();
        // What the agent still had to say is read to its end, so that it could be said.
        assert_eq!(log.filter(|line| line.contains("ERROR")).count(), 0);
    }
    drop(input);
    assert!(process.wait().success());
}

/// A copy of libssl that no other program maps: what stands in its code are this test's probes and nobody else's.
struct Library {
    folder: TempDir,
    file: PathBuf,
}

impl Library {
    fn copy() -> Self {
        let original = programs::library_of(&program(), "libssl.so.3");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libssl.so.3");
        std::fs::copy(original, &file).unwrap();
        Self { folder, file }
    }

    fn record<'a>(&self, agent: &'a Agent, program: &Path) -> Record<'a> {
        agent.record(program).env("LD_LIBRARY_PATH", self.folder.path())
    }

    /// How many bytes of the library's code in a process differ from those in the file.
    fn changed_bytes(&self, pid: u32) -> usize {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let code = maps
            .lines()
            .find(|line| line.contains(" r-xp ") && line.ends_with(&format!(" {}", self.file.display())));
        let fields: Vec<_> = code.unwrap_or_else(|| panic!("no libssl in\n{maps}")).split(' ').collect();
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = fields[0].split_once('-').map(|(a, b)| (number(a), number(b))).unwrap();
        let mut memory = vec![0; usize::try_from(end - start).unwrap()];
        File::open(format!("/proc/{pid}/mem")).unwrap().read_exact_at(&mut memory, start).unwrap();
        let offset = usize::try_from(number(fields[2])).unwrap();
        let file = std::fs::read(&self.file).unwrap();
        file[offset..].iter().zip(&memory).filter(|(file, memory)| file != memory).count()
    }
}

fn child_of(pid: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap_or_else(|_| panic!("one child is expected, not {children:?}"))
}

fn program() -> PathBuf {
    programs::compiled(Path::new(env!("CARGO_TARGET_TMPDIR")), "untouched")
}
