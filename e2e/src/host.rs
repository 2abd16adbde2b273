//! `agentsight run`: tests that trace a host.

use crate::agent::{Agent, clean_environment};
use crate::collector::get;
use crate::model_server::ModelServer;
use crate::process::{PATIENCE, Process};
use crate::telemetry::{Span, Telemetry};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// `agentsight run` at work.
pub struct Host {
    process: Process,
    address: String,
    folder: TempDir,
}

impl Host {
    /// Traces what a selector, as YAML in one line, selects.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(agent: &Agent, selector: &str) -> Self {
        Self::start_with(agent, selector, &[])
    }

    /// The same, with further options.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_with(agent: &Agent, selector: &str, options: &[&str]) -> Self {
        Self::of(agent, &format!("selector: {selector}"), options)
    }

    /// Traces as the fields of a spec, as YAML in one line, say.
    ///
    /// # Panics
    /// It does not start.
    pub fn of(agent: &Agent, spec: &str, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let trace = folder.path().join("agenttrace.yaml");
        std::fs::write(
            &trace,
            format!(
                "apiVersion: agentsight.dev/v1alpha1\nkind: AgentTrace\nmetadata: {{name: test}}\n\
                 spec: {{{spec}}}\n"
            ),
        )
        .expect("a temporary file");
        let mut process = Process::spawn(
            Command::new(agent.program())
                .args(["run", "--listen", "127.0.0.1:0", "-f"])
                .arg(&trace)
                .args(options)
                .arg("--otlp-json")
                .arg(folder.path().join("otlp.jsonl"))
                .env_clear()
                .envs(clean_environment(folder.path()))
                .stderr(Stdio::piped()),
        );
        let mut log = BufReader::new(process.child().stderr.take().expect("it was asked for"))
            .lines()
            .map_while(Result::ok);
        let said = log.find_map(|line| {
            let (_, rest) = line.split_once("http://")?;
            rest.split('/').next().map(str::to_owned)
        });
        let address = said.expect("it says where it listens");
        // Read on, so that it can go on saying something.
        thread::spawn(move || log.for_each(|line| eprintln!("{line}")));
        Self { process, address, folder }
    }

    /// A page that it serves.
    ///
    /// # Panics
    /// It does not serve it.
    pub fn get(&self, path: &str) -> String {
        let (_, port) = self.address.rsplit_once(':').expect("an address has a port");
        let (status, body) = get(port.parse().expect("a port is a number"), path);
        assert_eq!(status, 200, "{path}");
        String::from_utf8(body).expect("a page is text")
    }

    /// Asks for the metrics until this is in them.
    ///
    /// # Panics
    /// It never is.
    pub fn wait_for(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.get("/metrics").contains(line) {
            assert!(Instant::now() < deadline, "not in the metrics: {line}\n{}", self.get("/metrics"));
            // Nothing tells of a change but the metrics themselves.
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, and returns what it wrote.
    ///
    /// # Panics
    /// It does not end well.
    pub fn stop(self) -> Telemetry {
        self.process.signal(Signal::TERM);
        assert!(self.process.wait().success());
        Telemetry::read(&self.folder.path().join("otlp.jsonl")).expect("--otlp-json writes OTLP")
    }

    /// Ends it, and returns the calls to one server: others on this machine may call others.
    ///
    /// # Panics
    /// It does not end well.
    pub fn calls_to(self, server: &ModelServer) -> Vec<Span> {
        let telemetry = self.stop();
        let port = u64::from(server.port());
        telemetry.spans.into_iter().filter(|span| span.number("server.port") == Some(port)).collect()
    }
}

/// Whether a kernel attaches uprobes without perf, and so without `CAP_SYS_ADMIN`: Linux 6.6. `release` is as `uname -r` says it.
pub fn needs_no_sys_admin(release: &str) -> bool {
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(6))
}
