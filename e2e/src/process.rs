//! Child processes of tests: never left behind, never waited for without end.

use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Beyond this a test's program is taken for hung: well above what the slowest takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A running process that ends with its owner.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts it.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { child, name }
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What its pipes are connected to.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal; nothing where it has ended.
    pub fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// Waits until it ends, and kills it where that takes longer than [`PATIENCE`].
    ///
    /// # Panics
    /// It had to be killed.
    pub fn wait(self) -> ExitStatus {
        self.wait_for(PATIENCE)
    }

    /// As [`Self::wait`], with another limit.
    ///
    /// # Panics
    /// It had to be killed.
    pub fn wait_for(mut self, patience: Duration) -> ExitStatus {
        let watchdog = Watchdog::over(self.child.id(), patience);
        let status = self.child.wait().expect("a child of ours can be waited for");
        assert!(!watchdog.has_bitten(), "{} did not end within {patience:?}", self.name);
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Runs a command to its end and returns what it wrote.
///
/// # Panics
/// It cannot be started, or did not end within [`PATIENCE`].
pub fn run(command: &mut Command) -> Output {
    run_for(command, PATIENCE)
}

/// As [`run`], with another limit.
///
/// # Panics
/// It cannot be started, or did not end within it.
pub fn run_for(command: &mut Command, patience: Duration) -> Output {
    let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                drop(pipe.read_to_end(&mut bytes));
            }
            bytes
        })
    };
    let stdout = read(process.child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = read(process.child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let status = process.wait_for(patience);
    Output {
        status,
        stdout: stdout.join().expect("reading a pipe does not panic"),
        stderr: stderr.join().expect("reading a pipe does not panic"),
    }
}

/// Makes a FIFO, for a program that is to run until [`end_reader`].
///
/// # Panics
/// The file system has none.
pub fn fifo(folder: &Path) -> PathBuf {
    let fifo = folder.join("fifo");
    let made = rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0);
    made.expect("a temporary folder can hold a FIFO");
    fifo
}

/// Ends a program that reads from a FIFO, by opening and closing the other end.
///
/// # Panics
/// Nobody reads from it within [`PATIENCE`].
pub fn end_reader(fifo: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = rustix::fs::open(fifo, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()) {
        assert!(Instant::now() < deadline, "nobody reads {}: {error}", fifo.display());
        // It is about to open it, which tells nobody.
        thread::sleep(Duration::from_millis(10));
    }
}

/// What a process holds in the kernel's tracing: BPF programs, maps and links, and performance events (probes are some).
///
/// # Panics
/// The process is gone, or another user's.
pub fn kernel_objects(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours that runs");
    let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let names = links.filter_map(|link| Some(link.to_str()?.strip_prefix("anon_inode:")?.to_owned()));
    names.filter(|name| name.starts_with("bpf") || name == "btf" || name == "[perf_event]").collect()
}

/// Ids of the kernel programs that no process holds: those of agents at work in other tests do not count.
///
/// # Panics
/// `bpftool` is missing.
pub fn orphaned_programs() -> Vec<u64> {
    let output = run(Command::new("bpftool").args(["-j", "prog", "show"]));
    let programs: Value = serde_json::from_slice(&output.stdout).expect("bpftool -j prints JSON");
    let programs = programs.as_array().cloned().unwrap_or_default();
    let orphans = programs.iter().filter(|program| program["pids"].as_array().is_none_or(Vec::is_empty));
    orphans.filter_map(|program| program["id"].as_u64()).collect()
}

/// Waits until there are no other orphaned programs than before: the kernel lets go of one a moment after its last user.
///
/// # Panics
/// Some are left.
pub fn wait_until_only_these_are_left(before: &[u64]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<_> = orphaned_programs().into_iter().filter(|id| !before.contains(id)).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "kernel programs left behind: {left:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Kills a process that takes too long.
struct Watchdog {
    ended: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<bool>>,
}

impl Watchdog {
    fn over(pid: u32, patience: Duration) -> Self {
        let (ended, wait) = channel::<()>();
        let thread = thread::spawn(move || {
            let late = wait.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
            if late {
                send(pid, Signal::KILL);
            }
            late
        });
        Self { ended: Some(ended), thread: Some(thread) }
    }

    fn has_bitten(mut self) -> bool {
        drop(self.ended.take());
        self.thread.take().is_some_and(|thread| thread.join().unwrap_or(true))
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Fails only for a process that has ended, which is what a signal is sent for.
        let _ = kill_process(pid, signal);
    }
}
