//! `agentsight record`: one command, or processes that run, traced from outside.

use crate::capture::discover;
use crate::child::{Held, User};
use crate::cli::Record;
use crate::session::{Error, Outputs, Session, policy_from_flags};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;

/// Exit codes of wrappers such as env(1) and nohup(1), for when it is not the command's own.
pub const CANNOT_TRACE: u8 = 125;
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Runs or watches, and ends as the command does.
pub fn record(args: &Record) -> ExitCode {
    if args.pid.is_empty() { command(args) } else { processes(args) }
}

fn command(args: &Record) -> ExitCode {
    let Some(name) = args.command.first() else { return fail(CANNOT_TRACE, "no command is given") };
    let search = std::env::var_os("PATH");
    let Some(program) = discover::find_program(name, search.as_deref()) else {
        return fail(NOT_FOUND, format_args!("cannot run {}: not found", name.display()));
    };
    let user = match args.user.as_deref().map(User::find).transpose() {
        Ok(user) => user,
        Err(error) => return fail(CANNOT_TRACE, format_args!("--user: {error}")),
    };
    // Before there are threads: what follows starts many.
    let held = match Held::new(&program, &args.command, user.as_ref()) {
        Ok(held) => held,
        Err(error) => return fail(CANNOT_TRACE, format_args!("cannot make a process: {error}")),
    };
    let started = Outputs::open(&args.output, &args.otlp, args.semconv.0).and_then(|outputs| {
        let policy = policy_from_flags(args)?;
        let mut session = Session::start(policy, outputs, args.tuning.ring_size, Some(held.pid()))?;
        session.capture().select_processes(&[held.pid()])?;
        let libraries = std::env::var_os("LD_LIBRARY_PATH");
        session.capture().probe_program(&program, search.as_deref(), libraries.as_deref());
        Ok(session)
    });
    let session = match started {
        Ok(session) => session,
        Err(error) => {
            held.cancel();
            return fail(CANNOT_TRACE, error);
        }
    };
    let ended = held.release().map(|running| running.wait());
    session.finish();
    match ended {
        Ok(Ok(ended)) => ended.repeat(),
        Ok(Err(error)) => fail(CANNOT_TRACE, format_args!("cannot wait for {}: {error}", name.display())),
        Err(error) => {
            let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE };
            fail(code, format_args!("cannot run {}: {error}", name.display()))
        }
    }
}

fn processes(args: &Record) -> ExitCode {
    let mut watched = Vec::new();
    for pid in &args.pid {
        match pidfd(*pid) {
            Ok(fd) => watched.push(fd),
            Err(error) => return fail(CANNOT_TRACE, format_args!("--pid {pid}: {error}")),
        }
    }
    // Before the threads of the exporter: one that took the signal would end us with nothing sent.
    let traced = stop_signals().and_then(|stop| {
        let outputs = Outputs::open(&args.output, &args.otlp, args.semconv.0)?;
        let policy = policy_from_flags(args)?;
        let mut session = Session::start(policy, outputs, args.tuning.ring_size, None)?;
        session.capture().select_processes(&args.pid)?;
        session.capture().probe_selected();
        // What their children will map: a short one has made its call before a probe on what it maps stands.
        session.capture().probe_system();
        tracing::info!(processes = ?args.pid, "tracing; Ctrl-C ends it");
        wait_for_all(&watched, &stop);
        session.finish();
        Ok(())
    });
    match traced {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(CANNOT_TRACE, error),
    }
}

/// Readable once the process has ended.
fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is checked, and owned by nobody else. pidfd_open came with 5.3.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid.cast_signed(), 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?))
    }
}

/// Readable once somebody asks this process to end. To be called before there are threads that must not take signals.
///
/// # Errors
/// When the kernel gives no signalfd.
pub fn stop_signals() -> Result<OwnedFd, Error> {
    // SAFETY: sigemptyset makes a zeroed set a valid one; the descriptor is checked, and owned by nobody else.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        let fd = match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) {
            0 => libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC),
            _ => -1,
        };
        if fd < 0 {
            return Err(Error::System { what: "listen to signals", source: io::Error::last_os_error() });
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Waits until all of `processes` have ended, or `stop` is readable. With no process, for `stop` alone.
pub fn wait_for_all(processes: &[OwnedFd], stop: &OwnedFd) {
    let mut polled: Vec<_> = std::iter::once(stop)
        .chain(processes)
        .map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    loop {
        // SAFETY: initialised entries; an interruption only makes the loop go round once more.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
        if polled[0].revents != 0 {
            return;
        }
        // poll(2) passes over negative descriptors.
        for ended in polled.iter_mut().filter(|entry| entry.revents != 0) {
            ended.fd = -1;
            ended.revents = 0;
        }
        if !processes.is_empty() && polled[1..].iter().all(|entry| entry.fd < 0) {
            return;
        }
    }
}

pub(crate) fn fail(code: u8, problem: impl std::fmt::Display) -> ExitCode {
    eprintln!("agentsight: {problem}");
    ExitCode::from(code)
}
