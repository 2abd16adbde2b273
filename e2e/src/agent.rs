//! The `agentsight` that is tested, and programs run under it.

use crate::process::run;
use crate::telemetry::Telemetry;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The built agent.
pub struct Agent {
    program: PathBuf,
}

impl Agent {
    /// The agent, where it is built and this machine lets it trace; else the test is skipped, which is said.
    ///
    /// # Panics
    /// With `AGENTSIGHT_REQUIRE_EBPF=1`, as in CI, where it would be skipped.
    pub fn or_skip() -> Option<Self> {
        match Self::find() {
            Ok(agent) => Some(agent),
            Err(reason) => {
                let required = std::env::var_os("AGENTSIGHT_REQUIRE_EBPF").is_some_and(|value| value == "1");
                assert!(!required, "AGENTSIGHT_REQUIRE_EBPF=1, but {reason}");
                eprintln!("skipped: {reason}");
                None
            }
        }
    }

    fn find() -> Result<Self, String> {
        let program = Self::path()?;
        let check = Command::new(&program).arg("check").output().map_err(|error| error.to_string())?;
        if !check.status.success() {
            return Err(format!(
                "`agentsight check` says that this machine cannot trace:\n{}{}",
                String::from_utf8_lossy(&check.stdout),
                String::from_utf8_lossy(&check.stderr)
            ));
        }
        Ok(Self { program })
    }

    /// `AGENTSIGHT_BIN`, or the last one that was built beside this test.
    fn path() -> Result<PathBuf, String> {
        if let Some(path) = std::env::var_os("AGENTSIGHT_BIN").map(PathBuf::from) {
            return if path.is_file() { Ok(path) } else { Err(format!("there is no {}", path.display())) };
        }
        let test = std::env::current_exe().map_err(|error| error.to_string())?;
        let target = test.ancestors().nth(3).ok_or("a test outside of a target folder")?;
        let built = |profile: &str| {
            let path = target.join(profile).join("agentsight");
            path.metadata().and_then(|metadata| metadata.modified()).ok().map(|at| (at, path))
        };
        let newest = [built("release"), built("debug")].into_iter().flatten().max();
        newest.map(|(_, path)| path).ok_or_else(|| "agentsight is not built; `make e2e` does it".to_owned())
    }

    /// Where it is.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A program to be run under `agentsight record`, in an environment with nothing but a path and a home.
    pub fn record(&self, program: impl AsRef<OsStr>) -> Record<'_> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Record {
            agent: self,
            options: Vec::new(),
            command: vec![program.as_ref().to_owned()],
            environment: clean_environment(folder.path()),
            folder,
        }
    }
}

/// A `record` before it is run.
pub struct Record<'a> {
    agent: &'a Agent,
    options: Vec<OsString>,
    command: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: TempDir,
}

impl Record<'_> {
    /// An option of `record`.
    pub fn option(mut self, option: impl AsRef<OsStr>) -> Self {
        self.options.push(option.as_ref().to_owned());
        self
    }

    /// An argument of the program.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.push(argument.as_ref().to_owned());
        self
    }

    /// Arguments of the program.
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// A variable of the agent's and so of the program's environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The command, for tests that want to hold it themselves; its spans are in [`Self::file`].
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.agent.program);
        command
            .arg("record")
            .args(&self.options)
            .arg("--otlp-json")
            .arg(self.file())
            .arg("--")
            .args(&self.command)
            .env_clear()
            .envs(self.environment.iter().cloned());
        command
    }

    /// Where its spans go.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("otlp.jsonl")
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// It does not end, or writes what is no OTLP.
    pub fn run(self) -> Recording {
        // Agents read on where they are given something to read.
        let output = run(self.command().stdin(Stdio::null()));
        let telemetry = Telemetry::read(&self.file()).expect("--otlp-json writes OTLP");
        Recording { output, telemetry, folder: self.folder }
    }
}

/// A program that ran under `record`.
pub struct Recording {
    /// How it ended and what it wrote.
    pub output: Output,
    /// What was seen of it.
    pub telemetry: Telemetry,
    /// Its temporary folder, with `otlp.jsonl` in it.
    pub folder: TempDir,
}

impl Recording {
    /// The recording, if the program ended well.
    ///
    /// # Panics
    /// It did not: with all that it wrote.
    pub fn succeeded(self) -> Self {
        assert!(
            self.output.status.success(),
            "ended with {}\n{}{}",
            self.output.status,
            String::from_utf8_lossy(&self.output.stdout),
            String::from_utf8_lossy(&self.output.stderr)
        );
        self
    }

    /// What the agent and the program logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// What the kernel counted, as the agent tells it at its end with `-v`.
    ///
    /// # Panics
    /// It does not tell.
    pub fn counted(&self, name: &str) -> u64 {
        let log = self.log();
        let value = log.split(&format!(" {name}=")).nth(1).and_then(|rest| rest.split_whitespace().next());
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{log}"))
    }
}

/// What a traced program needs, and none of what the tester's shell has.
pub fn clean_environment(home: &Path) -> Vec<(OsString, OsString)> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    vec![
        ("PATH".into(), path),
        ("HOME".into(), home.as_os_str().to_owned()),
        ("LANG".into(), "C.UTF-8".into()),
    ]
}
