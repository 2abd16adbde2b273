//! Programs that are found, not started: `run` traces a host, `record --pid` a process that runs already.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, clean_environment};
use agentsight_e2e::collector::Collector;
use agentsight_e2e::host::{Host, needs_no_sys_admin};
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::{Process, run};
use agentsight_e2e::programs::{self, Invocation};
use agentsight_e2e::python::agent as agent_file;
use agentsight_e2e::telemetry::{Span, Telemetry};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use tempfile::TempDir;

#[test]
fn every_short_program_is_seen_whose_library_was_there_at_the_start() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start();
    let host = Host::start(&agent, "{}");
    let kinds: [&(dyn Fn() -> Invocation + Sync); 3] = [
        &|| programs::tls_once(built(), &server, "host"),
        &|| programs::curl(&server, "host", &format!("{:032x}", 1)),
        &|| programs::python(&server, "host"),
    ];
    for program in kinds {
        run_each(100, |command| command, program);
    }
    let metrics = host.get("/metrics");
    let complete = metrics
        .lines()
        .filter(|line| line.starts_with("agentsight_calls_total{") && line.contains("outcome=\"complete\""))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum::<u64>();
    assert_eq!(host.get("/healthz"), "ok\n");
    let calls = host.calls_to(&server);
    assert_eq!(server.stop().len(), 300, "calls that the programs made");
    for executable in ["tls_once", "curl", "python"] {
        let seen = calls.iter().filter(|span| executable_of(span).starts_with(executable)).count();
        assert_eq!(seen, 100, "calls of {executable} that were seen");
    }
    assert_eq!(calls.len(), 300, "a call was seen twice");
    assert!(complete > 0, "{metrics}");
}

#[test]
fn the_share_of_calls_through_a_library_made_a_moment_before_is_told() {
    const TIMES: usize = 40;
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start();
    let (program, _) = programs::tls_once(built(), &server, "first");
    let library = programs::library_of(Path::new(&program), "libssl.so.3");
    let host = Host::start(&agent, "{}");
    for (name, program) in [
        ("C", &(|| programs::tls_once(built(), &server, "fresh")) as &(dyn Fn() -> Invocation + Sync)),
        ("curl", &|| programs::curl(&server, "fresh", &format!("{:032x}", 1))),
        ("Python", &|| programs::python(&server, "fresh")),
    ] {
        let folders: Vec<TempDir> = (0..TIMES).map(|_| tempfile::tempdir().unwrap()).collect();
        let next = AtomicUsize::new(0);
        run_each(
            TIMES,
            |mut command| {
                let folder = folders[next.fetch_add(1, Ordering::Relaxed)].path();
                std::fs::copy(&library, folder.join("libssl.so.3")).unwrap();
                command.env("LD_LIBRARY_PATH", folder);
                command
            },
            program,
        );
        eprintln!("{name}: {TIMES} programs, each the first to map its library, have called");
    }
    let calls = host.calls_to(&server);
    assert_eq!(server.stop().len(), 3 * TIMES);
    for executable in ["tls_once", "curl", "python"] {
        let seen = calls.iter().filter(|span| executable_of(span).starts_with(executable)).count();
        eprintln!("{executable}: {seen} of {TIMES} calls through a library made a moment before were seen");
        assert!(seen <= TIMES, "a call was seen twice");
    }
    assert!(!calls.is_empty(), "new libraries are found");
}

#[test]
fn a_selector_is_the_limit_of_what_is_seen() {
    let Some(agent) = Agent::or_skip() else { return };
    let selected = "selector: {matchLabels: {agentsight.dev/executable: the-agent}}";
    the_selected_shells_calls_alone_are_seen(Host::of(&agent, selected, &[]), ModelServer::start());
}

#[test]
fn a_selector_is_the_limit_of_what_is_seen_without_tls() {
    let Some(agent) = Agent::or_skip() else { return };
    let selected =
        "selector: {matchLabels: {agentsight.dev/executable: the-agent}}, capture: {plaintext: HTTP}";
    let host = Host::of(&agent, selected, &[]);
    let page = the_selected_shells_calls_alone_are_seen(host, ModelServer::start_plain());
    // No socket of another process was looked at, that of the server included.
    assert!(page.contains("agentsight_ignored_sockets_total 0\n"), "{page}");
}

#[test]
fn of_every_process_of_a_host_plain_http_is_seen_once() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start_plain();
    let host = Host::of(&agent, "selector: {}, capture: {plaintext: HTTP}", &[]);
    run_each(10, |command| command, &|| programs::curl(&server, "host", &format!("{:032x}", 1)));
    let calls = host.calls_to(&server);
    assert_eq!(server.stop().len(), 10);
    assert_eq!(calls.len(), 10, "the server's side is no call");
}

/// Gives the metrics as they are at the end.
fn the_selected_shells_calls_alone_are_seen(host: Host, server: ModelServer) -> String {
    let folder = tempfile::tempdir().unwrap();
    let shell = folder.path().join("the-agent");
    std::fs::copy("/bin/sh", &shell).unwrap();
    let (curl, arguments) = programs::curl(&server, "selected", &format!("{:032x}", 1));
    let mut selected = Process::spawn(
        Command::new(shell)
            .args(["-c", r#"read -r line; for n in 1 2 3; do "$@" >/dev/null || exit 1; done"#, "sh"])
            .arg(&curl)
            .args(&arguments)
            .env_clear()
            .envs(clean_environment(folder.path()))
            .stdin(Stdio::piped()),
    );
    // A process is selected some milliseconds after its exec; its children are at once.
    host.wait_for("agentsight_untraceable_processes{reason=\"NoTlsLibrary\"} 1\n");
    run_each(3, |command| command, &|| (curl.clone(), arguments.clone()));
    writeln!(selected.child().stdin.take().unwrap(), "go").unwrap();
    assert!(selected.wait().success());
    let page = host.get("/metrics");
    let calls = host.calls_to(&server);
    let served = server.stop();
    assert_eq!(served.len(), 6);
    let seen: BTreeSet<_> = calls.iter().filter_map(|span| span.text("gen_ai.response.id")).collect();
    let theirs: BTreeSet<_> = served[3..].iter().filter_map(|served| served.id.as_deref()).collect();
    assert_eq!(seen, theirs, "the calls of the selected shell's children, and no others");
    page
}

#[test]
fn the_agents_own_metrics_and_log_reach_a_collector_by_the_names_of_its_page() {
    let Some(agent) = Agent::or_skip() else { return };
    for grpc in [true, false] {
        let Some(collector) = Collector::or_skip() else { return };
        let (port, protocol) =
            if grpc { (collector.grpc, "grpc") } else { (collector.http, "http/protobuf") };
        let options = ["--otlp-endpoint", &format!("http://127.0.0.1:{port}"), "--otlp-protocol", protocol];
        let host = Host::start_with(&agent, "{matchLabels: {agentsight.dev/executable: none}}", &options);
        let page = host.get("/metrics");
        host.stop();
        let (received, _folder) = collector.received();
        let received = Telemetry::read(&received).unwrap();
        let own: BTreeSet<_> = received
            .metrics
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !name.starts_with("gen_ai."))
            .collect();
        let on_the_page: BTreeSet<_> = page
            .lines()
            .filter(|line| !line.starts_with('#') && !line.starts_with("agentsight_build_info"))
            .filter_map(|line| line.split(['{', ' ']).next())
            .map(|name| name.trim_end_matches("_total").replacen('_', ".", 1))
            .collect();
        assert_eq!(own, on_the_page.iter().map(String::as_str).collect(), "{protocol}");
        assert!(received.text.contains(r#"{"key":"service.name","value":{"stringValue":"agentsight"}}"#));
        assert!(
            received.logs.iter().any(|record| record.to_string().contains("ending")),
            "{:?}",
            received.logs
        );
    }
}

#[test]
fn a_process_that_runs_already_is_traced_with_its_children_and_told_as_json() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start();
    let folder = tempfile::tempdir().unwrap();
    let (curl, arguments) = programs::curl(&server, "pid", &format!("{:032x}", 9));
    let mut shell = Process::spawn(
        Command::new("sh")
            .args(["-c", r#"read -r line; "$@" >/dev/null"#, "sh"])
            .arg(curl)
            .args(arguments)
            .env_clear()
            .envs(clean_environment(folder.path()))
            .stdin(Stdio::piped()),
    );
    let out = folder.path().join("spans.jsonl");
    let mut record = Process::spawn(
        Command::new(agent.program())
            .args(["record", "-v", "-o", "json", "--pid", &shell.id().to_string(), "--output-file"])
            .arg(&out)
            .env_clear()
            .envs(clean_environment(folder.path()))
            .stderr(Stdio::piped()),
    );
    let mut log = BufReader::new(record.child().stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains("tracing;")), "the agent did not start");
    writeln!(shell.child().stdin.take().unwrap(), "go").unwrap();
    assert!(shell.wait().success());
    // It ends with the process that it watches.
    log.for_each(drop);
    assert!(record.wait().success());
    let served = server.stop();
    let spans: Vec<Value> = std::fs::read_to_string(&out)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON object a line"))
        .collect();
    assert_eq!(spans.len(), 1, "{spans:#?}");
    assert_eq!(spans[0]["name"], "chat gpt-4o-mini");
    assert!(spans[0].to_string().contains(served[0].id.as_deref().unwrap()), "{}", spans[0]);
}

#[test]
fn a_user_without_rights_is_told_in_one_line_what_is_missing_and_what_to_type() {
    let Some(agent) = Agent::or_skip() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    // Where that user may read it.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("agentsight");
    std::fs::copy(agent.program(), &program).unwrap();
    let nobody = 65_534;
    let output =
        run(Command::new(&program).args(["record", "--", "true"]).uid(nobody).gid(nobody).env_clear());
    assert_eq!(output.status.code(), Some(125));
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains("CAP_BPF, CAP_PERFMON"), "{message}");
    assert!(message.contains(&format!("run: sudo -E {} record -- true", program.display())), "{message}");
}

#[test]
fn what_runs_is_listed_with_its_library_or_the_lack_of_one() {
    let Some(agent) = Agent::or_skip() else { return };
    let script = "import ssl, sys; print('there', flush=True); sys.stdin.read()";
    let python = waiting(Command::new("/usr/bin/python3").args(["-c", script]));
    let shell = waiting(Command::new("/bin/sh").args(["-c", "echo there; read -r line"]));
    let pids = [python.id(), shell.id()];
    let list = |output: &str, pids: &[u32]| {
        let pids = pids.iter().map(|pid| format!("--pid={pid}"));
        run(Command::new(agent.program()).args(["processes", "-o", output]).args(pids))
    };
    let listed = |output: &str| {
        let output = list(output, &pids);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let report: Value = serde_json::from_str(&listed("json")).unwrap();
    let of = |pid: u32| report["processes"].as_array().unwrap().iter().find(|one| one["pid"] == pid).unwrap();
    let [python_is, shell_is] = pids.map(of);
    assert_eq!((&python_is["seen"], &shell_is["seen"]), (&"all".into(), &"none".into()));
    assert_eq!(python_is["files"][0]["library"], "openssl");
    assert!(python_is["files"][0]["path"].as_str().unwrap().contains("libssl.so"), "{python_is}");
    assert_eq!(shell_is["files"], Value::Array(Vec::new()));
    let table = listed("text");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let row = |pid: u32| rows.iter().find(|row| row.first() == Some(&pid.to_string().as_str())).unwrap();
    assert_eq!(row(pids[0])[3..6], ["yes", "openssl", "symbols"]);
    assert_eq!(row(pids[1])[3..5], ["no", "NoTlsLibrary"]);

    // A process that is gone is no row, but a word and an exit code.
    drop(shell);
    let output = list("text", &pids[1..]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("the process {} is gone", pids[1])));
}

/// A program that has said that it is there, and waits.
fn waiting(command: &mut Command) -> Process {
    let mut process = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(process.child().stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "there\n");
    process
}

#[test]
fn sys_admin_is_not_needed_where_the_kernel_has_links_of_many_uprobes() {
    let Some(agent) = Agent::or_skip() else { return };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    if !needs_no_sys_admin(&release) || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: it takes Linux 6.6, and root, to give up capabilities");
        return;
    }
    let server = ModelServer::start();
    let (curl, arguments) = programs::curl(&server, "bounded", &format!("{:032x}", 4));
    let record = agent.record(curl).args(arguments);
    let whole = record.command();
    let mut bounded = Command::new("setpriv");
    bounded
        .arg("--bounding-set=-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search,+checkpoint_restore")
        .arg(whole.get_program())
        .args(whole.get_args())
        .env_clear()
        .envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = run(bounded.stdin(Stdio::null()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(Telemetry::read(&record.file()).unwrap().calls().count(), 1);
    assert_eq!(server.stop().len(), 1);
}

/// Code can be built like that of a TLS library and be none. Then what its probes take is no plaintext: they are taken back,
/// which is told, and the program notices nothing.
#[test]
fn probes_of_what_only_looks_like_a_library_are_taken_back_and_told() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let program = looks_like_tls(folder.path());
    let host = Host::start(&agent, "{matchLabels: {agentsight.dev/executable: looks_like_tls}}");
    let process = Liar::start(&program);
    host.wait_for("agentsight_attachments_on_trial 1\n");
    host.wait_for("agentsight_attachments{library=\"boringssl\"} 1\n");
    let process = process.writes(4);
    host.wait_for("agentsight_attachments_refuted_total 1\n");
    host.wait_for("agentsight_untraceable_processes{reason=\"NotPlaintext\"} 1\n");
    host.wait_for("agentsight_attachments{library=\"boringssl\"} 0\n");
    process.writes(1).ends();
    // What is known of the file is known of the next process, too.
    let process = Liar::start(&program);
    host.wait_for("agentsight_untraceable_processes{reason=\"NotPlaintext\"} 1\n");
    assert!(host.get("/metrics").contains("agentsight_attachments{library=\"boringssl\"} 0\n"));
    process.writes(4).ends();
    assert!(host.get("/metrics").contains("agentsight_attachments_refuted_total 1\n"));
    assert_eq!(host.stop().calls().count(), 0);
}

#[test]
fn what_is_encrypted_already_is_not_taken_for_plaintext() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let record = agent.record(looks_like_tls(folder.path()));
    let mut recording =
        Process::spawn(record.command().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()));
    let mut log = BufReader::new(recording.child().stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut input = recording.child().stdin.take().unwrap();
    input.write_all(b"1234").unwrap();
    let taken_back = |line: &String| line.contains("NotPlaintext");
    assert!(log.any(|line| taken_back(&line)), "it says that the probes are taken back");
    drop(input);
    assert!(recording.wait().success());
}

/// A program with functions that look like those of BoringSSL, built into `folder`.
fn looks_like_tls(folder: &Path) -> PathBuf {
    let program = folder.join("looks_like_tls");
    programs::compile(&agent_file("looks_like_tls.c"), &program, &["-s".into()]);
    program
}

/// It tells that it wrote more than it was given.
struct Liar(Process);

impl Liar {
    fn start(program: &Path) -> Self {
        Self(Process::spawn(Command::new(program).arg("lies").stdin(Stdio::piped()).stdout(Stdio::piped())))
    }

    /// Has it write on so many connections.
    fn writes(mut self, times: usize) -> Self {
        self.0.child().stdin.as_mut().unwrap().write_all(&vec![b'.'; times]).unwrap();
        let mut said = self.0.child().stdout.take().unwrap();
        let mut lines = BufReader::with_capacity(1, &mut said).lines();
        for _ in 0..times {
            lines.next().unwrap().unwrap();
        }
        self.0.child().stdout = Some(said);
        self
    }

    fn ends(mut self) {
        drop(self.0.child().stdin.take());
        assert!(self.0.wait().success(), "what it computed is right");
    }
}

/// Runs a program so many times, four at once.
fn run_each(
    times: usize,
    prepare: impl Fn(Command) -> Command + Sync,
    program: &(dyn Fn() -> Invocation + Sync),
) {
    let home = tempfile::tempdir().unwrap();
    let next = AtomicUsize::new(0);
    // Made once, before the workers ask for it.
    let (program, arguments) = program();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < times {
                    let mut command = Command::new(&program);
                    command.args(&arguments).env_clear().envs(clean_environment(home.path()));
                    let output = run(&mut prepare(command));
                    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                }
            });
        }
    });
}

fn executable_of(span: &Span) -> String {
    span.resource.get("process.executable.name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn built() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}
