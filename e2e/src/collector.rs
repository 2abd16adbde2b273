//! A real OpenTelemetry Collector and a real Jaeger, where scripts/collector.sh could build them.

use crate::process::{PATIENCE, Process};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A collector that writes what it receives to a file.
pub struct Collector {
    process: Option<Process>,
    /// Where it takes OTLP over gRPC.
    pub grpc: u16,
    /// Where it takes OTLP over HTTP.
    pub http: u16,
    folder: TempDir,
}

impl Collector {
    /// Starts one on free ports; none where it could not be built, which is said.
    ///
    /// # Panics
    /// It does not start.
    pub fn or_skip() -> Option<Self> {
        let program = program("otelcol")?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (grpc, http) = (free_port(), free_port());
        let configuration = format!(
            "receivers:\n  otlp:\n    protocols:\n      grpc: {{endpoint: '127.0.0.1:{grpc}'}}\n      \
             http: {{endpoint: '127.0.0.1:{http}'}}\n\
             exporters:\n  file: {{path: '{file}', flush_interval: 100ms, append: true}}\n\
             service:\n  telemetry: {{metrics: {{level: none}}}}\n  pipelines:\n    \
             traces: {{receivers: [otlp], exporters: [file]}}\n    \
             metrics: {{receivers: [otlp], exporters: [file]}}\n    \
             logs: {{receivers: [otlp], exporters: [file]}}\n",
            file = folder.path().join("received.jsonl").display(),
        );
        std::fs::write(folder.path().join("config.yaml"), configuration).expect("a temporary file");
        let mut collector = Self { process: None, grpc, http, folder };
        collector.start(&program);
        Some(collector)
    }

    /// Ends it; what is sent from now on finds nobody.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.signal(rustix::process::Signal::TERM);
            process.wait();
        }
    }

    /// Starts it again, where it was.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart(&mut self) {
        self.stop();
        let program = program("otelcol").expect("it was there before");
        self.start(&program);
    }

    /// What it has received, once it has ended.
    pub fn received(mut self) -> (PathBuf, TempDir) {
        self.stop();
        (self.folder.path().join("received.jsonl"), self.folder)
    }

    fn start(&mut self, program: &Path) {
        let path = self.folder.path().join("log");
        let log = std::fs::File::create(&path).expect("a temporary file");
        let mut configuration = std::ffi::OsString::from("file:");
        configuration.push(self.folder.path().join("config.yaml"));
        let mut process =
            Process::spawn(Command::new(program).arg("--config").arg(configuration).env_clear().stderr(log));
        for port in [self.grpc, self.http] {
            wait_for_port(&mut process, port, &path);
        }
        self.process = Some(process);
    }
}

/// A Jaeger that keeps its traces in memory.
pub struct Jaeger {
    _process: Process,
    _folder: TempDir,
    /// Where it takes OTLP over gRPC.
    pub grpc: u16,
    query: u16,
}

impl Jaeger {
    /// Starts one on free ports; none where it could not be built, which is said.
    ///
    /// # Panics
    /// It does not start.
    pub fn or_skip() -> Option<Self> {
        let program = program("jaeger")?;
        // Every address that it would take for itself otherwise; the first two are of use here.
        let names = [
            "collector.otlp.grpc.host-port",
            "query.http-server.host-port",
            "query.grpc-server.host-port",
            "collector.otlp.http.host-port",
            "collector.http-server.host-port",
            "collector.grpc-server.host-port",
            "admin.http.host-port",
        ];
        let ports = names.map(|_| free_port());
        let arguments = names.iter().zip(&ports).map(|(name, port)| format!("--{name}=127.0.0.1:{port}"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("log");
        let log = std::fs::File::create(&path).expect("a temporary file");
        let errors = log.try_clone().expect("a second handle of a file");
        let mut process =
            Process::spawn(Command::new(program).args(arguments).env_clear().stdout(log).stderr(errors));
        for port in &ports[..2] {
            wait_for_port(&mut process, *port, &path);
        }
        Some(Self { _process: process, _folder: folder, grpc: ports[0], query: ports[1] })
    }

    /// A trace by its API, asked for until it is there.
    ///
    /// # Panics
    /// It does not come.
    pub fn trace(&self, trace_id: &str) -> serde_json::Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, body) = get(self.query, &format!("/api/traces/{trace_id}"));
            if status == 200 {
                return serde_json::from_slice(&body).expect("Jaeger answers with JSON");
            }
            assert!(Instant::now() < deadline, "Jaeger has no trace {trace_id}: {status}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The programs' folder, printed by the script that builds them.
fn program(name: &str) -> Option<PathBuf> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/collector.sh");
        let output = Command::new(script).stderr(Stdio::inherit()).output().expect("a script of the project");
        assert!(output.status.success(), "scripts/collector.sh failed");
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (!folder.is_empty()).then(|| PathBuf::from(folder))
    });
    let found = folder.as_ref().map(|folder| folder.join(name));
    if found.is_none() {
        eprintln!("skipped: no {name} (see above)");
    }
    found
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}

/// Waits until that process listens; its log is told where it ends or never does.
fn wait_for_port(process: &mut Process, port: u16, log: &Path) {
    let log = || std::fs::read_to_string(log).unwrap_or_default();
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = process.child().try_wait().expect("a child of ours can be waited for") {
            panic!("it ended ({status}) before it listened on port {port}:\n{}", log());
        }
        assert!(Instant::now() < deadline, "nobody listens on port {port}:\n{}", log());
        // There is no event for a port that another process opens.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A plain HTTP GET from loopback.
///
/// # Panics
/// No HTTP server is there.
pub fn get(port: u16, path: &str) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a server on this port");
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").expect("a request can be written");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).expect("a response");
    let head = response.windows(4).position(|w| w == b"\r\n\r\n").expect("a response's head");
    let status = String::from_utf8_lossy(&response[..head]);
    let status = status.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
    (status, response.split_off(head + 4))
}
