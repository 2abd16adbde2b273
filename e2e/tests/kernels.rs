//! The kernels that people run: on each the programs load, and the main jobs are done once.
//!
//! `make kernels` boots all of them and writes docs/kernels.md; without `KERNELS=all` it is the oldest and the newest.

use agentsight_e2e::agent::Agent;
use agentsight_e2e::machine::{Kernel, Packed, Root, Said};
use agentsight_e2e::programs;
use agentsight_e2e::telemetry::{Span, Telemetry};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const OLDEST: &str = "5.10";
const NEWEST: &str = "7";
const ALL: [&str; 5] = [OLDEST, "6.1", "6.12", "6.18", NEWEST];

#[test]
fn the_main_jobs_are_done_on_every_kernel() {
    let Some(root) = root() else { return };
    let all = std::env::var_os("KERNELS").is_some_and(|value| value == "all");
    let series: &[&str] = if all { &ALL } else { &[OLDEST, NEWEST] };
    let kernels = Kernel::fetch(series);
    let found: Vec<&str> = kernels.iter().map(|kernel| kernel.series.as_str()).collect();
    assert_eq!(found, series, "each series is tested, or it is known that it is not");
    let rows: Vec<Row> = kernels.chunks(AT_ONCE).flat_map(|kernels| boot(root, kernels)).collect();
    if let Some(path) = std::env::var_os("KERNELS_TABLE") {
        std::fs::write(path, page(&rows)).expect("a page of ours can be written");
    }
}

#[test]
fn a_kernel_that_does_not_let_us_is_told_apart_in_words() {
    let Some(root) = root() else { return };
    for kernel in Kernel::fetch(&[NEWEST]) {
        let said = root.boot(&kernel, "part=refusals lockdown=confidentiality lsm=lockdown");
        let (status, text) = said.section("lockdown");
        assert_eq!(status, "1", "{text}");
        let report: Value = json(text);
        let finding = finding(&report, "lockdown");
        assert_eq!(finding["status"], "missing", "{report:#}");
        assert!(finding["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{report:#}");
        let (status, text) = said.section("unprivileged");
        assert_ne!(status, "0");
        assert_eq!(text.trim().lines().count(), 1, "one line: {text}");
        assert!(text.contains("CAP_BPF, CAP_PERFMON are missing"), "{text}");
        let (status, text) = said.section("btf");
        assert_ne!(status, "0");
        assert!(text.contains("BTF"), "{text}");
    }
}

/// Machines that run at once: each has one core to be emulated on.
const AT_ONCE: usize = 2;

fn boot(root: &Packed, kernels: &[Kernel]) -> Vec<Row> {
    std::thread::scope(|scope| {
        let machines: Vec<_> = kernels
            .iter()
            .map(|kernel| scope.spawn(|| Row::of(kernel, &root.boot(kernel, "part=jobs"))))
            .collect();
        let join = |machine: std::thread::ScopedJoinHandle<'_, Row>| {
            machine.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        machines.into_iter().map(join).collect()
    })
}

/// The root with the agent in it; none where this machine cannot test.
fn root() -> Option<&'static Packed> {
    static ROOT: OnceLock<Option<Packed>> = OnceLock::new();
    ROOT.get_or_init(|| {
        let agent = Agent::or_skip()?;
        let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("machines/init");
        let mut root = Root::new(&init);
        root.copy(&init.with_file_name("stdio_dialogue"), Path::new("bin/stdio_dialogue"));
        root.program("agentsight", agent.program());
        root.program("model-server", Path::new(env!("CARGO_BIN_EXE_model-server")));
        let folder = tempfile::tempdir().expect("a temporary folder");
        root.program("tls_once", &programs::compiled(folder.path(), "tls_once"));
        for program in ["curl", "setpriv"] {
            root.program(program, &find(program));
        }
        Some(root.pack())
    })
    .as_ref()
}

fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").expect("PATH is set");
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no {program} in PATH"))
}

/// What was seen on one kernel.
struct Row {
    kernel: Kernel,
    accepted: usize,
    stand_ins: Vec<String>,
    instructions: Option<u64>,
    milliseconds: u64,
}

impl Row {
    /// # Panics
    /// One of the jobs was not done.
    fn of(kernel: &Kernel, said: &Said) -> Self {
        let report: Value = json(said.text("check"));
        assert_eq!(report["canTrace"], true, "{report:#}");

        said.text("serve");
        for job in ["tree", "strict"] {
            let telemetry = telemetry(said.text(job));
            let calls: Vec<_> = telemetry.calls().collect();
            assert_eq!(calls.len(), 1, "{job}: {}", said.console);
            assert_eq!(calls[0].text("gen_ai.request.model"), Some("gpt-4o-mini"), "{job}");
            let program = telemetry.spans.iter().find(|span| span.name == "tls_once");
            let program = program.unwrap_or_else(|| panic!("{job}: {}", said.console));
            assert_eq!(program.number("process.exit.code"), Some(0), "{job}");
            let arguments =
                program.attributes["process.command_args"].as_array().expect("--content was asked for");
            assert_eq!(arguments.last(), Some(&Value::from("tree")), "{job}: {arguments:?}");
            assert_eq!((arguments.len(), &arguments[2]), (4, &Value::from("/tmp/ca.pem")), "{job}");
            let events = |name: &str| telemetry.logs.iter().filter(|log| log["eventName"] == name).count();
            // The shell, and the program that it starts.
            assert_eq!(events("agentsight.process.exec"), 2, "{job}: {}", said.console);
            assert_eq!(events("agentsight.process.exit"), 2, "{job}: {}", said.console);
        }
        assert_eq!(said.text("large").trim(), "1048576", "a prompt of 1 MiB arrives whole: {}", said.console);
        said.text("serve_plain");
        // All of these kernels are of x86-64, where fentry came with 5.5.
        for job in ["plain", "local"] {
            let plain: Vec<_> = said.text(job).trim().lines().collect();
            assert_eq!(plain, ["1048576", r#"what="plain HTTP" by="functions""#], "{job}: {}", said.console);
        }
        let stdio = said.text("stdio");
        assert!(stdio.contains(r#"by="functions""#), "{}", said.console);
        let requests: Vec<_> = telemetry(stdio).spans.into_iter().filter(is_answered).collect();
        let names: Vec<_> = requests.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["initialize", "tools/call add"], "{}", said.console);
        let calls = telemetry(said.text("cgroup"));
        assert_eq!(calls.calls().count(), 1, "of two cgroups one is selected: {}", said.console);

        let programs = report["trial"]["programs"].as_array().cloned().unwrap_or_default();
        let (refused, accepted): (Vec<_>, Vec<_>) =
            programs.iter().partition(|program| program["refusal"].is_string());
        Self {
            kernel: kernel.clone(),
            accepted: accepted.len(),
            stand_ins: refused
                .iter()
                .filter_map(|program| Some(program["name"].as_str()?.to_owned()))
                .collect(),
            instructions: programs
                .iter()
                .filter_map(|program| program["verifiedInstructions"].as_u64())
                .max(),
            milliseconds: programs.iter().filter_map(|program| program["loadMicros"].as_u64()).sum::<u64>()
                / 1000,
        }
    }
}

/// A request to an MCP server, with its answer.
fn is_answered(span: &Span) -> bool {
    let has = |name: &str| span.attributes.contains_key(name);
    has("mcp.method.name") && !has("agentsight.response.incomplete")
}

fn telemetry(text: &str) -> Telemetry {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let lines: String =
        text.lines().filter(|line| line.starts_with('{')).flat_map(|line| [line, "\n"]).collect();
    std::fs::write(file.path(), lines).expect("a temporary file");
    Telemetry::read(file.path()).expect("OTLP")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("no JSON: {error}\n{text}"))
}

fn finding<'a>(report: &'a Value, name: &str) -> &'a Value {
    let results = report["results"].as_array().expect("a list");
    results.iter().find(|finding| finding["name"] == name).unwrap_or(&Value::Null)
}

/// docs/kernels.md.
fn page(rows: &[Row]) -> String {
    let mut page = String::from(
        "# Kernels\n\n\
         `make kernels` boots Debian's kernels in QEMU (software emulation), does the main jobs on each, and writes this\n\
         page. On each kernel every program was loaded, or its stand-in; a process tree with the arguments of its programs and a model call\n\
         over TLS was recorded, also with `perf_event_paranoid=4`, `kptr_restrict=2`, `unprivileged_bpf_disabled=2` and\n\
         64 KiB of lockable memory;\n\
         a prompt of 1 MiB arrived whole, over TLS, over plain HTTP and over a Unix socket (by fentry), requests to an MCP server went over its standard input and output (by fentry); and of two cgroups (version 2) only the selected one\n\
         was traced. On the newest, lockdown, missing capabilities and missing BTF were refused in words.\n\n\
         | kernel | programs accepted | with a stand-in | most instructions verified for one | loading all, emulated |\n\
         |---|---|---|---|---|\n",
    );
    for row in rows {
        let stand_ins = match row.stand_ins.as_slice() {
            [] => "none".to_owned(),
            names => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        };
        let instructions =
            row.instructions.map_or("not told before 5.16".to_owned(), |number| number.to_string());
        let _ = writeln!(
            page,
            "| {} | {} | {stand_ins} | {instructions} | {} ms |",
            row.kernel.version, row.accepted, row.milliseconds
        );
    }
    page.push_str(
        "\nA program with a stand-in is one that does not fit this kernel and that another replaces: `free_enter_state` needs\n\
         `bpf_get_attach_cookie` (5.15); of the `read_…` programs each is for `tcp_recvmsg` with another number of\n\
         arguments; `socket_sent` and `record_sent` and their like, which stand in for fentry itself, need `bpf_task_pt_regs` (5.15).\n\
         On your own machine `agentsight check -o json` says the same of its kernel.\n",
    );
    page
}
