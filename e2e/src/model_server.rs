//! The model server as a process of its own, as the traced programs meet it.

use crate::process::{PATIENCE, Process};
use crate::truth::{self, Served};
use rustix::process::Signal;
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use tempfile::TempDir;

/// A model server that runs, with its log.
pub struct ModelServer {
    process: Process,
    ready: Ready,
    folder: TempDir,
}

#[derive(Deserialize)]
struct Ready {
    port: u16,
    ca: Option<PathBuf>,
}

impl ModelServer {
    /// Starts one and waits until it listens.
    ///
    /// # Panics
    /// It does not start.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with more arguments.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut process = Process::spawn(
            Command::new(program())
                .arg("--ca-file")
                .arg(folder.path().join("ca.pem"))
                .arg("--log")
                .arg(folder.path().join("truth.jsonl"))
                .args(arguments)
                .stdout(Stdio::piped()),
        );
        let stdout = process.child().stdout.take().expect("it was asked for");
        let (sender, line) = channel();
        thread::spawn(move || {
            let mut line = String::new();
            drop(BufReader::new(stdout).read_line(&mut line));
            drop(sender.send(line));
        });
        let line = line.recv_timeout(PATIENCE).expect("the model server says where it listens");
        let ready = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the model server did not start ({error}): {line:?}"));
        Self { process, ready, folder }
    }

    /// As [`Self::start`], without TLS.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_plain() -> Self {
        Self::start_with(&["--plain-http"])
    }

    /// As [`Self::start`], on a Unix socket.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_on(socket: &Path) -> Self {
        Self::start_with(&["--socket", socket.to_str().expect("a path of ours")])
    }

    /// `https://localhost:PORT`, or `http://…` where it has no TLS.
    pub fn base(&self) -> String {
        let scheme = if self.ready.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}", self.ready.port)
    }

    /// Where it listens on loopback.
    pub fn port(&self) -> u16 {
        self.ready.port
    }

    /// The arguments by which most programs of the tests, and curl (`--cacert`), trust it; none without TLS.
    pub fn trust(&self, option: &str) -> Vec<std::ffi::OsString> {
        self.ready.ca.iter().flat_map(|ca| [option.into(), ca.into()]).collect()
    }

    /// The certificate authority that clients trust.
    ///
    /// # Panics
    /// The server was started without TLS.
    pub fn ca(&self) -> &Path {
        self.ready.ca.as_deref().expect("a server with TLS")
    }

    /// Ends it and returns what it served.
    ///
    /// # Panics
    /// It did not end well.
    pub fn stop(self) -> Vec<Served> {
        self.process.signal(Signal::TERM);
        let status = self.process.wait();
        assert!(status.success(), "the model server ended with {status}");
        truth::read(&self.folder.path().join("truth.jsonl")).expect("a log of ours")
    }
}

/// The server's program: Cargo puts the package's programs into the folder above that of its tests.
///
/// # Panics
/// This is none of its tests.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST");
    folder.join("model-server")
}
