//! The `agentsight` command.

use agentsight::check::{Privileges, Report};
use agentsight::cli::{self, Cli, Command, Format, Verbosity};
use agentsight::export::Log;
use agentsight::terminal::Terminal;
use agentsight::{check_program, cluster, processes, record, run};
use clap::Parser;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use tracing::Level;
use tracing_subscriber::filter::Targets;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match Cli::parse().command {
        Command::Record(args) => {
            log(&args.verbosity);
            may_trace(&arguments).unwrap_or_else(|| record::record(&args))
        }
        Command::Run(args) => {
            let log = log(&args.verbosity);
            may_trace(&arguments).unwrap_or_else(|| run::run(&args, &log))
        }
        Command::NodeAgent(args) => {
            log(&args.verbosity);
            may_trace(&arguments).unwrap_or_else(|| cluster::run(&args))
        }
        Command::Check(cli::Check { program: Some(program), output }) => {
            let report = match check_program::Report::of(&program) {
                Ok(Some(report)) => report,
                Ok(None) => {
                    eprintln!("agentsight: no program or image {}", program.display());
                    return ExitCode::from(2);
                }
                Err(error) => {
                    eprintln!("agentsight: {error}");
                    return ExitCode::from(2);
                }
            };
            let text = match output {
                Format::Text => report.text(Terminal::of(&io::stdout())),
                Format::Json => report.json(),
            };
            print(&text, report.exit_code())
        }
        Command::Check(args) => {
            let report = Report::of_this_machine();
            let text = match args.output {
                Format::Text => report.text(Terminal::of(&io::stdout())),
                Format::Json => report.json(),
            };
            print(&text, report.exit_code())
        }
        Command::Processes(args) => {
            let report = processes::Report::of(&args.pid);
            let text = match args.output {
                Format::Text => report.text(Terminal::of(&io::stdout())),
                Format::Json => report.json(),
            };
            let missing = report.missing(&args.pid);
            for pid in &missing {
                eprintln!("agentsight: the process {pid} is gone, or another user's");
            }
            print(&text, u8::from(!missing.is_empty()))
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            cli::write_completions(shell, &mut text);
            print(&String::from_utf8_lossy(&text), 0)
        }
        Command::Man { folder: Some(folder) } => match cli::write_man_pages(&folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("agentsight: cannot write manual pages to {}: {error}", folder.display());
                ExitCode::FAILURE
            }
        },
        Command::Man { folder: None } => {
            let mut page = Vec::new();
            match cli::write_man_page(&mut page) {
                Ok(()) => print(&String::from_utf8_lossy(&page), 0),
                Err(error) => {
                    eprintln!("agentsight: cannot make the manual page: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        Command::Version => print(
            &format!(
                "agentsight {} ({} {})\n",
                env!("CARGO_PKG_VERSION"),
                std::env::consts::OS,
                std::env::consts::ARCH
            ),
            0,
        ),
    }
}

/// Says in one line what is missing to trace, before anything is started.
fn may_trace(arguments: &[OsString]) -> Option<ExitCode> {
    let refusal = Privileges::read().refusal(arguments)?;
    eprintln!("agentsight: {refusal}");
    Some(ExitCode::from(record::CANNOT_TRACE))
}

/// The agent's own log goes to standard error: standard output is the command's. The layer that is returned can send
/// it to a collector besides.
fn log(verbosity: &Verbosity) -> Log {
    use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};
    let filter =
        EnvFilter::try_from_env("AGENTSIGHT_LOG").unwrap_or_else(|_| EnvFilter::new(verbosity.filter()));
    // What cannot be asked of the API server is said once by the watches, not at each attempt.
    let filter = filter.add_directive("kube_client=off".parse().expect("a directive"));
    let colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let standard_error =
        tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colours).with_target(false);
    let log = Log::default();
    // What the libraries that send it say of themselves would come back as more to send.
    let own = Targets::new().with_target("agentsight", Level::INFO);
    tracing_subscriber::registry()
        .with(standard_error.with_filter(filter))
        .with(log.clone().with_filter(own))
        .init();
    log
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
fn print(text: &str, code: u8) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("agentsight: cannot write: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::from(code),
    }
}
