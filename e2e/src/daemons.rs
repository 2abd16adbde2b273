//! Programs that outlive the call that started them: each with a log, each ended by its id.
//!
//! What a folder's programs are stands in its files, so that whoever comes later can end them too: another command,
//! or the next run after one that was killed.

use crate::process::PATIENCE;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to end after it was asked to, before it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// How often those are looked at that give no event.
const POLL: Duration = Duration::from_millis(20);

/// The programs of one folder.
#[derive(Clone, Debug)]
pub struct Daemons {
    folder: PathBuf,
}

impl Daemons {
    /// Those whose logs and ids are in `folder`, which the first to be started makes.
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Starts a program under a name of its own.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(&self, name: &str, command: &mut Command) {
        fs::create_dir_all(&self.folder).unwrap_or_else(|e| panic!("{}: {e}", self.folder.display()));
        let log = File::options().create(true).append(true).open(self.log(name)).expect("a file of ours");
        let errors = log.try_clone().expect("a file of ours");
        // A group of its own: what a terminal sends to the command that started it is not meant for it.
        std::os::unix::process::CommandExt::process_group(command, 0);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let born = birth(child.id()).unwrap_or_default();
        fs::write(self.id_file(name), format!("{} {born}", child.id())).expect("a file of ours");
        // So that no zombie is left where we live longer.
        std::thread::spawn(move || child.wait());
    }

    /// Whether it runs.
    pub fn is_running(&self, name: &str) -> bool {
        self.id(name).is_some()
    }

    /// Its process id, while it runs.
    pub fn id(&self, name: &str) -> Option<u32> {
        let text = fs::read_to_string(self.id_file(name)).ok()?;
        let (id, born) = text.split_once(' ')?;
        let id = id.parse().ok()?;
        // The id alone may belong to another process by now.
        (birth(id)?.to_string() == born).then_some(id)
    }

    /// Asks it to end, kills it where that takes too long, and returns when it has ended; nothing where it does not run.
    pub fn stop(&self, name: &str) {
        self.signal(name, Signal::TERM);
        let asked = Instant::now();
        while self.is_running(name) && asked.elapsed() < GRACE {
            // It may be another process's child: there is no event for its end that all of its kind give.
            std::thread::sleep(POLL);
        }
        self.kill(name);
    }

    /// Kills it, and returns when it has ended; nothing where it does not run.
    ///
    /// # Panics
    /// It cannot be killed.
    pub fn kill(&self, name: &str) {
        self.signal(name, Signal::KILL);
        let deadline = Instant::now() + PATIENCE;
        while self.is_running(name) {
            assert!(Instant::now() < deadline, "{name} cannot be killed");
            std::thread::sleep(POLL);
        }
        // Only that it is gone matters, and it may not have been there.
        drop(fs::remove_file(self.id_file(name)));
    }

    /// Kills all of them: for what they know nobody will ask.
    pub fn kill_all(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if let Some(name) = entry.file_name().to_string_lossy().strip_suffix(".pid") {
                self.kill(name);
            }
        }
    }

    /// Sends it a signal; nothing where it does not run.
    pub fn signal(&self, name: &str, signal: Signal) {
        let id = self.id(name).and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // Fails only for one that has just ended.
            let _ = kill_process(id, signal);
        }
    }

    /// What it writes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// The end of what it has written, for a message.
    pub fn last_words(&self, name: &str) -> String {
        let text = fs::read(self.log(name)).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(4000)..];
        format!("{name}:\n{}", String::from_utf8_lossy(tail))
    }

    fn id_file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pid"))
    }
}

/// When a process started, in the kernel's ticks; none for one that has ended, waited for or not.
pub(crate) fn birth(id: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name stands in parentheses and may hold anything; field 3 is the state, field 22 the time (proc_pid_stat(5)).
    let fields: Vec<_> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    (*fields.first()? != "Z").then(|| fields.get(19)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_can_be_ended_by_another_owner_of_its_folder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let daemons = Daemons::in_folder(folder.path());
        daemons.start("sleeper", Command::new("sleep").arg("1000"));
        assert!(daemons.is_running("sleeper"));

        Daemons::in_folder(folder.path()).stop("sleeper");
        assert!(!daemons.is_running("sleeper"));
    }

    #[test]
    fn an_id_that_another_process_has_by_now_is_not_ours() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let daemons = Daemons::in_folder(folder.path());
        fs::write(folder.path().join("other.pid"), format!("{} 1", std::process::id())).expect("a file");
        assert!(!daemons.is_running("other"));
        daemons.stop("other");
    }
}
