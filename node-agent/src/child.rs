//! The recorded command: made, held before its exec until the probes stand, and then left alone.
//!
//! It is a plain child in our own process group and session, with our terminal and files: signals of the terminal
//! reach it as they would without us. When this agent dies while it is held, it runs all the same.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// A child that waits for [`Held::release`].
pub struct Held {
    pid: libc::pid_t,
    go: OwnedFd,
    failure: OwnedFd,
}

/// The command as it runs.
pub struct Running {
    pid: libc::pid_t,
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// With this exit code.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

/// Whom the command runs as.
#[derive(Clone, Debug)]
pub struct User {
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
    variables: Vec<(&'static str, OsString)>,
}

/// The signals that are handed on to the command when somebody sends them to this process alone.
const FORWARDED: &[libc::c_int] =
    &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

impl Held {
    /// Forks the child that will become `program`. To be called before there are threads, and before any other signal
    /// handling: it blocks the forwarded signals and SIGCHLD in this process.
    ///
    /// # Errors
    /// When no process or pipe can be made, or an argument holds a NUL.
    pub fn new(program: &Path, arguments: &[OsString], user: Option<&User>) -> io::Result<Held> {
        let path = c_string(program.as_os_str())?;
        let arguments: Vec<CString> =
            arguments.iter().map(|argument| c_string(argument)).collect::<Result<_, _>>()?;
        let environment = environment(user)?;
        let argv = pointers(&arguments);
        // execvp(3): a file that is no program is run by the shell.
        let shell_arguments: Vec<CString> = [c"/bin/sh".to_owned(), path.clone()]
            .into_iter()
            .chain(arguments.iter().skip(1).cloned())
            .collect();
        let shell_argv = pointers(&shell_arguments);
        let envp = pointers(&environment);
        let (waiting, go) = pipe()?;
        let (failure, failing) = pipe()?;
        let mask = block_signals()?;
        // SAFETY: the child only makes async-signal-safe calls on memory prepared before the fork.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: as above. The pointers end with NULL and point into vectors that live until exec.
                unsafe {
                    libc::close(go.as_raw_fd());
                    let mut byte = 0u8;
                    // One byte, or end of file when the agent died: either way the program runs.
                    while libc::read(waiting.as_raw_fd(), (&raw mut byte).cast(), 1) == -1
                        && *libc::__errno_location() == libc::EINTR
                    {}
                    // Rust's runtime ignores SIGPIPE; ignored signals stay ignored over exec.
                    libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                    libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
                    if user.is_none_or(become_user) {
                        libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr());
                        if *libc::__errno_location() == libc::ENOEXEC {
                            libc::execve(c"/bin/sh".as_ptr(), shell_argv.as_ptr(), envp.as_ptr());
                        }
                    }
                    let error = *libc::__errno_location();
                    libc::write(failing.as_raw_fd(), (&raw const error).cast(), size_of_val(&error));
                    libc::_exit(126);
                }
            }
            pid => Ok(Held { pid, go, failure }),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.cast_unsigned()
    }

    /// Ends it before it has run anything.
    pub fn cancel(self) {
        // SAFETY: our own child, not yet waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        // It is gone either way; there is nobody to tell.
        let _ = Running { pid: self.pid }.try_wait(0);
    }

    /// Lets it run.
    ///
    /// # Errors
    /// What exec said; the child is gone then.
    pub fn release(self) -> io::Result<Running> {
        let running = Running { pid: self.pid };
        // SAFETY: an open pipe and one readable byte.
        if unsafe { libc::write(self.go.as_raw_fd(), [1u8].as_ptr().cast(), 1) } != 1 {
            return Err(io::Error::last_os_error());
        }
        let mut error = [0u8; 4];
        loop {
            // SAFETY: four writable bytes. Exec closes the other end, then this reads nothing.
            match unsafe { libc::read(self.failure.as_raw_fd(), error.as_mut_ptr().cast(), error.len()) } {
                0 => return Ok(running),
                4 => {
                    running.try_wait(0)?;
                    return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(error)));
                }
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(io::Error::last_os_error()),
            }
        }
    }
}

impl Running {
    /// Waits for its end, handing on signals that are sent to this process alone.
    ///
    /// # Errors
    /// When the system does not let us wait.
    pub fn wait(&self) -> io::Result<Ended> {
        let set = signal_set();
        loop {
            if let Some(ended) = self.try_wait(libc::WNOHANG)? {
                return Ok(ended);
            }
            // SAFETY: a complete set, and a zeroed siginfo is a valid one to be filled in.
            let (signal, info) = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                (libc::sigwaitinfo(&raw const set, &raw mut info), info)
            };
            // The terminal sends to the whole foreground group, the command included; people and programs to one.
            if FORWARDED.contains(&signal) && info.si_code <= 0 {
                // SAFETY: our own child, not yet waited for.
                unsafe { libc::kill(self.pid, signal) };
            }
        }
    }

    fn try_wait(&self, flags: libc::c_int) -> io::Result<Option<Ended>> {
        let mut status = 0;
        // SAFETY: our own child and a writable status.
        match unsafe { libc::waitpid(self.pid, &raw mut status, flags) } {
            0 => Ok(None),
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => Ok(None),
            -1 => Err(io::Error::last_os_error()),
            _ if libc::WIFSIGNALED(status) => Ok(Some(Ended::Signal(libc::WTERMSIG(status)))),
            _ => Ok(Some(Ended::Code(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(255)))),
        }
    }
}

impl Ended {
    /// Ends this process the same way, for good.
    pub fn repeat(self) -> ! {
        match self {
            Ended::Code(code) => std::process::exit(i32::from(code)),
            Ended::Signal(signal) => {
                // SAFETY: plain system calls on a zeroed, then filled, set; the core dump is the command's, not ours.
                unsafe {
                    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                    libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                    libc::signal(signal, libc::SIG_DFL);
                    let mut set = std::mem::zeroed();
                    libc::sigemptyset(&raw mut set);
                    libc::sigaddset(&raw mut set, signal);
                    libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
                    libc::raise(signal);
                }
                std::process::exit(128 + signal)
            }
        }
    }
}

impl User {
    /// Looks a user up by name or number.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(name: &str) -> io::Result<User> {
        let c_name = c_string(OsStr::new(name))?;
        // SAFETY: getpwnam and getpwuid return NULL or a structure whose strings live until the next call; it is copied
        // at once, while this process has one thread.
        unsafe {
            let mut entry = libc::getpwnam(c_name.as_ptr());
            if let (true, Ok(uid)) = (entry.is_null(), name.parse()) {
                entry = libc::getpwuid(uid);
            }
            let Some(entry) = entry.as_ref() else {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no user {name}")));
            };
            let text = |pointer: *const libc::c_char| {
                OsString::from_vec(std::ffi::CStr::from_ptr(pointer).to_bytes().to_vec())
            };
            let mut groups = vec![0; 65_536];
            let mut count = 65_536; // NGROUPS_MAX
            if libc::getgrouplist(entry.pw_name, entry.pw_gid, groups.as_mut_ptr(), &raw mut count) < 0 {
                return Err(io::Error::other(format!("cannot read the groups of {name}")));
            }
            groups.truncate(usize::try_from(count).unwrap_or(0));
            let user = text(entry.pw_name);
            Ok(User {
                uid: entry.pw_uid,
                gid: entry.pw_gid,
                groups,
                variables: vec![
                    ("HOME", text(entry.pw_dir)),
                    ("SHELL", text(entry.pw_shell)),
                    ("USER", user.clone()),
                    ("LOGNAME", user),
                ],
            })
        }
    }
}

/// Only system calls: it runs between fork and exec.
fn become_user(user: &User) -> bool {
    // SAFETY: the groups are a vector made before the fork.
    unsafe {
        libc::setgroups(user.groups.len(), user.groups.as_ptr()) == 0
            && libc::setgid(user.gid) == 0
            && libc::setuid(user.uid) == 0
    }
}

fn environment(user: Option<&User>) -> io::Result<Vec<CString>> {
    let mut variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    for (name, value) in user.map(|user| user.variables.as_slice()).unwrap_or_default() {
        variables.retain(|(known, _)| known != name);
        variables.push((OsString::from(name), value.clone()));
    }
    variables
        .into_iter()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            c_string(&name)
        })
        .collect()
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "an argument holds a NUL"))
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: two writable descriptors, owned by nobody else afterwards.
    unsafe {
        if libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

fn signal_set() -> libc::sigset_t {
    // SAFETY: sigemptyset makes a zeroed set a valid one.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in FORWARDED.iter().chain(&[libc::SIGCHLD]) {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Blocks the signals that [`Running::wait`] takes; threads made later inherit it. Returns the mask before.
fn block_signals() -> io::Result<libc::sigset_t> {
    let set = signal_set();
    // SAFETY: a complete set, and a zeroed one to be filled in.
    unsafe {
        let mut before = std::mem::zeroed();
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, &raw mut before) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_is_named() {
        let error = User::find("nobody-of-that-name").expect_err("no such user");
        assert_eq!(error.to_string(), "there is no user nobody-of-that-name");
    }

    #[test]
    fn a_user_brings_home_and_groups() {
        let root = User::find("0").expect("every system has root");
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.variables.iter().any(|(name, value)| *name == "USER" && value == "root"));
    }
}
