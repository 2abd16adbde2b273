//! The command line: what can be asked for, never how it is done.

use agentsight_api::{ModelCalls, Pattern, Semconv};
use clap::builder::PossibleValue;
use clap::{ArgAction, ArgGroup, Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// See what AI agents do: their model calls as OpenTelemetry traces
///
/// Reads the plaintext of model calls at the TLS library with eBPF and turns it into OpenTelemetry GenAI
/// spans. The programs that are traced need no change, no SDK and no proxy.
#[derive(Parser, Debug)]
#[command(
    name = "agentsight",
    bin_name = "agentsight",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "Start with: agentsight check",
    after_long_help = "\
Examples:
  agentsight check
  sudo -E agentsight record -- python3 agent.py
  sudo -E agentsight run -f agenttrace.yaml

Every command explains itself: agentsight record --help"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    Record(Record),
    Run(Run),
    NodeAgent(NodeAgent),
    Check(Check),
    Processes(Processes),
    /// Write a shell's completions to standard output
    ///
    /// For bash: agentsight completions bash > /etc/bash_completion.d/agentsight
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    ///
    /// Without a folder, the page of `agentsight` goes to standard output: agentsight man | man -l -
    Man {
        /// Folder for the pages of agentsight and of all its commands
        #[arg(value_hint = ValueHint::DirPath)]
        folder: Option<PathBuf>,
    },
    /// Show version and platform
    Version,
}

const RECORD_HELP: &str = "\
Environment:
  OTEL_EXPORTER_OTLP_*
      Where and how to send, by OpenTelemetry's rules: …_ENDPOINT, …_PROTOCOL,
      …_HEADERS, …_COMPRESSION, …_TIMEOUT, …_CERTIFICATE, …_CLIENT_CERTIFICATE,
      …_CLIENT_KEY; for one signal …_TRACES_…, …_METRICS_…, …_LOGS_….
      A flag wins over its variable. With sudo, keep them by `sudo -E`.
  NO_COLOR
      Not empty: no colours.
  AGENTSIGHT_LOG
      Filter of the agent's own log, such as `agentsight=debug`; wins over -v, -q.

Exit status:
  The command's own; 128 + N where signal N ended it.
  2    the command line is wrong
  125  tracing could not start; the command did not run
  126  the command cannot be executed
  127  the command was not found
  With --pid: 0, or 125 where tracing could not start.

Examples:
  # The model calls of one run, as a tree on the terminal
  sudo -E agentsight record -- python3 agent.py

  # As yourself, with prompts and answers, to a collector
  sudo -E agentsight record --user \"$USER\" --content \\
      --otlp-endpoint http://localhost:4317 -- python3 agent.py

  # To a file with one OTLP request a line, without a tree
  sudo -E agentsight record --tree never --otlp-json calls.jsonl -- ./agent

  # A program that runs already, until Ctrl-C
  sudo agentsight record --pid 4711";

/// Run a program, or watch one that runs, and trace its model calls
///
/// The program keeps its terminal, its signals and its exit code. Spans are drawn on the terminal as calls
/// end, written to a file (--otlp-json) and sent to an OpenTelemetry collector (--otlp-endpoint), as asked.
/// No text of a prompt or an answer is in any of them without --content.
#[derive(Args, Debug)]
#[command(
    after_long_help = RECORD_HELP,
    override_usage = "agentsight record [OPTIONS] -- COMMAND [ARG]...\n       agentsight record [OPTIONS] --pid PID",
    group = ArgGroup::new("target").required(true).args(["command", "pid"])
)]
pub struct Record {
    /// Program to run, with its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,

    /// Trace this process and its children instead, until it ends or Ctrl-C; may be given several times
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Vec<u32>,

    /// Run the command as this user, by name or number, with the user's groups
    ///
    /// Without it the command runs as the user that agentsight runs as: root, under sudo.
    #[arg(long, value_name = "USER", conflicts_with = "pid", value_hint = ValueHint::Username)]
    pub user: Option<String>,

    /// What is captured of calls.
    #[command(flatten)]
    pub content: ContentArgs,

    /// See calls over plain HTTP, too: HTTP/1.1 and HTTP/2 on TCP connections and Unix sockets
    #[arg(long, help_heading = "Capture")]
    pub plaintext: bool,

    /// See requests to MCP servers that speak over their standard input and output, too
    #[arg(long, help_heading = "Capture")]
    pub mcp_stdio: bool,

    /// Names that spans and metrics follow: version 1.41 of the GenAI conventions, or the newest
    #[arg(long, value_name = "VERSION", default_value = "v1.41", help_heading = "Capture")]
    pub semconv: SemconvArg,

    /// Where spans go.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Where spans are sent.
    #[command(flatten)]
    pub otlp: OtlpArgs,

    /// Capture.
    #[command(flatten)]
    pub tuning: TuningArgs,

    /// The agent's own log.
    #[command(flatten)]
    pub verbosity: Verbosity,
}

const RUN_HELP: &str = "\
Environment:
  OTEL_EXPORTER_OTLP_*, NO_COLOR, AGENTSIGHT_LOG: as with `agentsight record`.

Exit status:
  0    ended by a signal, after what was captured is sent
  2    the command line is wrong
  125  the file is not valid, or tracing could not start

Examples:
  sudo -E agentsight run -f agenttrace.yaml --otlp-endpoint http://localhost:4317
  curl http://127.0.0.1:9464/metrics

The smallest file selects every process of the host:
  apiVersion: agentsight.dev/v1alpha1
  kind: AgentTrace
  metadata: {name: everything}
  spec: {selector: {}}";

/// Trace the host as an AgentTrace says, until a signal ends it
///
/// The file holds the same object that is applied in Kubernetes. Where telemetry is sent is said by flags or
/// variables: spec.exporter names an exporter of a cluster.
#[derive(Args, Debug)]
#[command(after_long_help = RUN_HELP)]
pub struct Run {
    /// File with an AgentTrace; `-` reads standard input
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Address of /metrics and /healthz; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    pub listen: SocketAddr,

    /// Where spans go.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Where spans are sent.
    #[command(flatten)]
    pub otlp: OtlpArgs,

    /// Capture.
    #[command(flatten)]
    pub tuning: TuningArgs,

    /// The agent's own log.
    #[command(flatten)]
    pub verbosity: Verbosity,
}

const NODE_AGENT_HELP: &str = "\
Environment:
  NODE_NAME, POD_NAMESPACE, POD_NAME
      As the downward API gives them; see the flags.
  KUBECONFIG
      The API server, outside of a pod.
  AGENTSIGHT_LOG
      Filter of the agent's own log, such as `agentsight=debug`; wins over -v, -q.

Exit status:
  0    ended by a signal, after what was captured is sent
  2    the command line is wrong
  125  tracing could not start

The Helm chart runs it in a DaemonSet. It needs hostPID and the host's cgroups.";

/// Trace the pods of a Kubernetes node as AgentTraces say
///
/// Watches the grants that the operator makes of accepted AgentTraces, traces the containers that they select on
/// this node, and reports in the node's AgentTraceNode. Goes on without the API server by what it knew last.
#[derive(Args, Debug)]
#[command(after_long_help = NODE_AGENT_HELP)]
pub struct NodeAgent {
    /// Name of this node
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: String,

    /// Namespace of the release: where grants are, and reports go
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub namespace: String,

    /// Name of this agent's pod: the DaemonSet that it belongs to owns the report
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub pod_name: Option<String>,

    /// File with the exporters that AgentTraces may name
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub exporters: PathBuf,

    /// Folder for what was known last, for a start without an API server
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/agentsight", value_hint = ValueHint::DirPath)]
    pub state_dir: PathBuf,

    /// Where the host's cgroup hierarchies are mounted
    #[arg(long, value_name = "FOLDER", default_value = "/sys/fs/cgroup", value_hint = ValueHint::DirPath)]
    pub cgroup: PathBuf,

    /// Address of /metrics, /healthz and /readyz; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9464")]
    pub listen: SocketAddr,

    /// Let the labels app.kubernetes.io/instance, …/name and …/version name services
    ///
    /// OpenTelemetry wants this to be asked for: without it service.name comes from the workload.
    #[arg(long)]
    pub service_labels: bool,

    /// Telemetry that may wait for each exporter; what goes beyond is given up and counted
    #[arg(long, value_name = "SIZE", value_parser = queue_size, default_value = "64MiB")]
    pub otlp_queue_size: usize,

    /// Time for sending what is left at the end; less than the pod's grace period
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub flush_timeout: Duration,

    /// Capture.
    #[command(flatten)]
    pub tuning: TuningArgs,

    /// The agent's own log.
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// Tell whether this machine can trace, and what to do where it cannot; or what would be seen of a program
#[derive(Args, Debug)]
#[command(after_long_help = "\
Run it as you would run `agentsight record`: what it says of capabilities is about itself.
A program is only read, as one may do without being root, and not run.

Exit status:
  0  this machine can trace; warnings may say what it will not see
     PROGRAM: all of its TLS that is known to be there would be seen
  1  something is missing
     PROGRAM: some of its TLS would not be seen, or none is known to be there
  2  the command line is wrong, or there is no such program or image

Examples:
  sudo agentsight check
  agentsight check claude
  docker save my-agent:1.2 | agentsight check -
  agentsight check -o json | jq '.results[] | select(.status != \"ok\")'")]
pub struct Check {
    /// A program, a library or an image: which TLS libraries it and what it links have, and how they would be probed
    ///
    /// A program by its name or path, a library by its path. An image as an archive (of docker save, docker export or an OCI
    /// layout; - for the standard input), or as a folder (an OCI layout, or a root file system): all its programs are looked at.
    #[arg(value_name = "PROGRAM", value_hint = ValueHint::CommandName)]
    pub program: Option<OsString>,

    /// Form of the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
}

/// List running programs that speak TLS: what would be seen of each, how, or why not
///
/// Nothing is traced and nothing is changed: the files that processes map are read.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Without root, only your own processes can be looked at.

Exit status:
  0  processes were looked at
  1  with --pid: one of them is gone, or may not be looked at
  2  the command line is wrong

Examples:
  sudo agentsight processes
  agentsight processes --pid $(pgrep -n claude)
  sudo agentsight processes -o json | jq '.processes[] | select(.seen != \"all\") | {pid, executable, files}'")]
pub struct Processes {
    /// Only this process, whether it speaks TLS or not; may be given several times
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Vec<u32>,

    /// Form of the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
}

/// What is captured of calls, where no AgentTrace says it.
#[derive(Args, Debug)]
#[command(next_help_heading = "Capture")]
pub struct ContentArgs {
    /// Put prompts, answers, tools and their arguments, and arguments of programs on the spans, after redaction
    #[arg(long)]
    pub content: bool,

    /// Remove from content what this regular expression (RE2 syntax) matches; may be given several times
    ///
    /// Credentials of known forms (provider keys, bearer tokens, private keys, cloud keys, JWTs) are always removed.
    #[arg(long, value_name = "REGEX", value_parser = pattern, requires = "content")]
    pub redact: Vec<String>,

    /// Content kept of each request and of each response; what goes beyond is cut and marked
    #[arg(long, value_name = "SIZE", value_parser = content_size, default_value = "8MiB", requires = "content")]
    pub max_content_bytes: usize,
}

/// What is shown and written here.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Show calls as they end, and the whole tree at the end: `auto` does on a terminal, to a file, and as JSON
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub tree: When,

    /// Form in which finished spans are shown: a tree for people, or one JSON object a line
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Format,

    /// Where finished spans are shown; standard error by default, as standard output is the command's
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output_file: Option<PathBuf>,

    /// Append every export request to this file, one OTLP JSON object a line: traces, logs and metrics
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub otlp_json: Option<PathBuf>,
}

/// OTLP, each flag in the place of a variable.
#[derive(Args, Debug)]
#[command(next_help_heading = "OTLP")]
pub struct OtlpArgs {
    /// Collector to send to, such as http://localhost:4317 [env: OTEL_EXPORTER_OTLP_ENDPOINT]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub otlp_endpoint: Option<String>,

    /// Protocol to send with [env: OTEL_EXPORTER_OTLP_PROTOCOL] [default: grpc for port 4317, else http/protobuf]
    #[arg(long, value_name = "PROTOCOL")]
    pub otlp_protocol: Option<OtlpProtocol>,

    /// Header of every request, such as authorization=…; may be given several times [env: OTEL_EXPORTER_OTLP_HEADERS]
    ///
    /// Other users can read a command line: give secrets by the variable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = header)]
    pub otlp_header: Vec<String>,

    /// Compression of requests [env: OTEL_EXPORTER_OTLP_COMPRESSION] [default: none]
    #[arg(long, value_name = "CODING")]
    pub otlp_compression: Option<OtlpCompression>,

    /// Time that one request may take, such as 10s or 500ms [env: OTEL_EXPORTER_OTLP_TIMEOUT] [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub otlp_timeout: Option<Duration>,

    /// File (PEM) with the certificates that the collector's is checked by [env: OTEL_EXPORTER_OTLP_CERTIFICATE]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub otlp_certificate: Option<PathBuf>,

    /// File (PEM) with our own certificate [env: OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub otlp_client_certificate: Option<PathBuf>,

    /// File (PEM) with the key of our own certificate [env: OTEL_EXPORTER_OTLP_CLIENT_KEY]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub otlp_client_key: Option<PathBuf>,

    /// Telemetry that may wait for the collector; what goes beyond is given up and counted
    #[arg(long, value_name = "SIZE", value_parser = queue_size, default_value = "64MiB")]
    pub otlp_queue_size: usize,

    /// Time for sending what is left at the end
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    pub flush_timeout: Duration,
}

/// Sizes of the capture.
#[derive(Args, Debug)]
#[command(next_help_heading = "Tuning")]
pub struct TuningArgs {
    /// Buffer between kernel and agent, a power of two; larger ones lose less in bursts
    #[arg(long, value_name = "SIZE", value_parser = ring_size, default_value = "16MiB")]
    pub ring_size: u32,
}

/// How much the agent says of itself, on standard error.
#[derive(Args, Debug)]
#[command(next_help_heading = "Log")]
pub struct Verbosity {
    /// Say more of what the agent does; -vv and -vvv: still more
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

impl Verbosity {
    /// A `tracing` filter, for where `AGENTSIGHT_LOG` is not set.
    pub fn filter(&self) -> &'static str {
        match (self.quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => "warn",
            (false, 1) => "warn,agentsight=info",
            (false, 2) => "info,agentsight=debug",
            (false, _) => "debug,agentsight=trace",
        }
    }
}

/// Form of what is shown.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Whether something is done.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// On a terminal, or where a file or JSON is asked for
    Auto,
    /// Everywhere
    Always,
    /// Nowhere
    Never,
}

/// A protocol by its name in `OTEL_EXPORTER_OTLP_PROTOCOL`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum OtlpProtocol {
    /// OTLP over gRPC
    #[value(name = "grpc")]
    Grpc,
    /// OTLP over HTTP, protobuf
    #[value(name = "http/protobuf")]
    HttpProtobuf,
    /// OTLP over HTTP, JSON
    #[value(name = "http/json")]
    HttpJson,
}

impl OtlpProtocol {
    /// Its name in `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
            Self::HttpJson => "http/json",
        }
    }
}

/// A coding by its name in `OTEL_EXPORTER_OTLP_COMPRESSION`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum OtlpCompression {
    /// As it is
    None,
    /// gzip
    Gzip,
}

impl OtlpCompression {
    /// Its name in `OTEL_EXPORTER_OTLP_COMPRESSION`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
        }
    }
}

/// [`Semconv`] with the names that it has in an AgentTrace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SemconvArg(pub Semconv);

impl ValueEnum for SemconvArg {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self(Semconv::V1_41), Self(Semconv::Latest)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self.0 {
            Semconv::V1_41 => PossibleValue::new("v1.41"),
            Semconv::Latest => PossibleValue::new("latest"),
        })
    }
}

/// Writes the completions of a shell.
pub fn write_completions(shell: Shell, out: &mut dyn io::Write) {
    clap_complete::generate(shell, &mut Cli::command(), "agentsight", out);
}

/// Writes the manual page of `agentsight` itself.
///
/// # Errors
/// Those of the writer.
pub fn write_man_page(out: &mut dyn io::Write) -> io::Result<()> {
    clap_mangen::Man::new(Cli::command()).render(out)
}

/// Writes the manual pages of `agentsight` and of its commands into a folder, which is made where it is absent.
///
/// # Errors
/// Those of the file system.
pub fn write_man_pages(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)
}

fn pattern(text: &str) -> Result<String, String> {
    Pattern::check(text)?;
    Ok(text.to_owned())
}

fn header(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.trim().is_empty() => Ok(text.to_owned()),
        _ => Err("write KEY=VALUE".into()),
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("write a number and ms, s or m, such as 10s".into()),
    };
    let number = number.parse::<u64>().ok().and_then(|number| number.checked_mul(milliseconds));
    number.map(Duration::from_millis).ok_or_else(|| "write a number and ms, s or m, such as 10s".into())
}

fn content_size(text: &str) -> Result<usize, String> {
    let (least, most) = (ModelCalls::CONTENT_BYTES.start(), ModelCalls::CONTENT_BYTES.end());
    size_within(text, least.unsigned_abs(), most.unsigned_abs())
}

fn queue_size(text: &str) -> Result<usize, String> {
    size_within(text, 1 << 20, 4 << 30)
}

/// A ring buffer's size is a power of two and a multiple of the page size (64 KiB on some kernels).
fn ring_size(text: &str) -> Result<u32, String> {
    let size = size_within(text, 64 << 10, 1 << 30)?;
    match u32::try_from(size) {
        Ok(size) if size.is_power_of_two() => Ok(size),
        _ => Err("must be a power of two, such as 16MiB".into()),
    }
}

fn size_within(text: &str, least: u64, most: u64) -> Result<usize, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        _ => return Err("write a number of bytes, or a number with KiB, MiB or GiB".into()),
    };
    let number: u64 =
        number.parse().map_err(|_| "write a number of bytes, or a number with KiB, MiB or GiB")?;
    let size = number.checked_mul(1 << shift).filter(|size| (least..=most).contains(size));
    size.and_then(|size| usize::try_from(size).ok())
        .ok_or_else(|| format!("must be between {} and {}", in_units(least), in_units(most)))
}

fn in_units(size: u64) -> String {
    match size {
        size if size % (1 << 30) == 0 => format!("{}GiB", size >> 30),
        size if size % (1 << 20) == 0 => format!("{}MiB", size >> 20),
        size => format!("{}KiB", size >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;

    fn record(arguments: &[&str]) -> Record {
        let arguments = ["agentsight", "record"].iter().chain(arguments);
        match Cli::try_parse_from(arguments).expect("valid arguments").command {
            Command::Record(record) => record,
            other => panic!("{other:?}"),
        }
    }

    fn error(arguments: &[&str]) -> clap::Error {
        Cli::try_parse_from(["agentsight"].iter().chain(arguments)).expect_err("must be refused")
    }

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_command_is_the_commands() {
        let record = record(&["--content", "--", "python3", "-c", "pass", "--content", "--", "--pid"]);
        assert!(record.content.content);
        assert_eq!(record.command, ["python3", "-c", "pass", "--content", "--", "--pid"]);
    }

    #[test]
    fn the_dashes_before_the_command_may_be_left_out() {
        assert_eq!(record(&["curl", "-s", "https://localhost"]).command, ["curl", "-s", "https://localhost"]);
    }

    #[test]
    fn a_misspelt_option_is_not_taken_for_the_command() {
        assert_eq!(error(&["record", "--contnt", "--", "true"]).kind(), ErrorKind::UnknownArgument);
    }

    #[test]
    fn record_needs_a_command_or_a_process() {
        assert_eq!(error(&["record"]).kind(), ErrorKind::MissingRequiredArgument);
        assert_eq!(error(&["record", "--pid", "1", "--", "true"]).kind(), ErrorKind::ArgumentConflict);
        assert_eq!(error(&["record", "--pid", "0"]).kind(), ErrorKind::ValueValidation);
        assert_eq!(record(&["--pid", "1", "--pid", "2"]).pid, [1, 2]);
    }

    #[test]
    fn content_is_off_until_it_is_asked_for() {
        let record = record(&["--", "true"]);
        assert!(!record.content.content);
        assert_eq!(record.content.max_content_bytes, 8 << 20);
        assert_eq!(record.semconv.0, Semconv::V1_41);
    }

    #[test]
    fn options_of_content_without_content_are_refused() {
        assert_eq!(
            error(&["record", "--redact", "x", "--", "true"]).kind(),
            ErrorKind::MissingRequiredArgument
        );
    }

    #[test]
    fn a_bad_pattern_is_refused_with_the_reason() {
        let message = error(&["record", "--content", "--redact", "x(y", "--", "true"]).to_string();
        assert!(message.contains("is not a valid regular expression: unclosed group"), "{message}");
    }

    #[test]
    fn a_header_is_a_key_and_a_value() {
        let record = record(&["--otlp-header", "authorization=Basic a=b", "--", "true"]);
        assert_eq!(record.otlp.otlp_header, ["authorization=Basic a=b"]);
        assert_eq!(error(&["record", "--otlp-header", "x", "--", "true"]).kind(), ErrorKind::ValueValidation);
    }

    #[test]
    fn sizes_and_times_have_units_and_bounds() {
        assert_eq!(ring_size("64KiB"), Ok(64 << 10));
        assert_eq!(ring_size("1G"), Ok(1 << 30));
        assert_eq!(ring_size("3MiB"), Err("must be a power of two, such as 16MiB".into()));
        assert_eq!(ring_size("2GiB"), Err("must be between 64KiB and 1GiB".into()));
        assert_eq!(content_size("99999999999999999G"), Err("must be between 1KiB and 16MiB".into()));
        assert!(content_size("1TiB").is_err() && content_size("MiB").is_err() && content_size("").is_err());
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(
            duration("10").is_err() && duration("s").is_err() && duration("99999999999999999999s").is_err()
        );
    }

    #[test]
    fn the_flags_of_otlp_have_the_names_of_the_variables() {
        let record =
            record(&["--otlp-protocol", "http/protobuf", "--otlp-compression", "gzip", "--", "true"]);
        assert_eq!(record.otlp.otlp_protocol, Some(OtlpProtocol::HttpProtobuf));
        assert_eq!(record.otlp.otlp_compression, Some(OtlpCompression::Gzip));
    }

    #[test]
    fn run_needs_a_file_and_listens_on_loopback() {
        assert_eq!(error(&["run"]).kind(), ErrorKind::MissingRequiredArgument);
        let cli = Cli::try_parse_from(["agentsight", "run", "-f", "a.yaml"]).expect("valid arguments");
        let Command::Run(run) = cli.command else { panic!("run is expected") };
        assert_eq!(run.listen.to_string(), "127.0.0.1:9464");
    }

    #[test]
    fn every_flag_is_documented() {
        let page = include_str!("../../docs/configuration.md");
        let command = Cli::command();
        let flags = command.get_subcommands().flat_map(clap::Command::get_arguments);
        for flag in flags.filter(|flag| !flag.is_hide_set()).filter_map(clap::Arg::get_long) {
            let flag = match flag {
                "verbose" => "`-v`".to_owned(),
                "quiet" => "`-q`".to_owned(),
                "file" => "run -f".to_owned(),
                long => format!("--{long}"),
            };
            assert!(page.contains(&flag), "docs/configuration.md does not tell of {flag}");
        }
    }

    #[test]
    fn every_shell_has_completions() {
        for shell in Shell::value_variants() {
            let mut out = Vec::new();
            write_completions(*shell, &mut out);
            assert!(String::from_utf8_lossy(&out).contains("otlp-endpoint"), "{shell}");
        }
    }

    #[test]
    fn every_command_has_a_manual_page() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write_man_pages(&folder.path().join("man")).expect("pages");
        for name in
            ["agentsight", "agentsight-record", "agentsight-run", "agentsight-check", "agentsight-man"]
        {
            let page = std::fs::read_to_string(folder.path().join(format!("man/{name}.1"))).expect(name);
            assert!(page.starts_with(".ie") || page.contains(".TH"), "{name}");
        }
        let mut page = Vec::new();
        write_man_page(&mut page).expect("memory");
        assert!(String::from_utf8_lossy(&page).contains("agentsight"));
    }
}
