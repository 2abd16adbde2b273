//! The thread that probes files as selected processes map them.

use super::attachments::{self, Attachments, Unsearched};
use super::files::RealFile;
use super::mmap::{Mapping, Mappings};
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often probes of deleted files are looked over.
const PRUNE: Duration = Duration::from_secs(60);
/// Files that are remembered as looked at; beyond it they are looked at again.
const REMEMBERED: usize = 65_536;
/// Programs that wait to be searched, each with an open file.
const SEARCHED: usize = 256;

/// Whether a process is in a selected container.
pub type IsTraced = dyn Fn(u32) -> bool + Send + Sync;

/// Which processes' files are probed.
pub enum Whose {
    /// Those of every process but our own.
    All,
    /// Those of the processes that the kernel's map selects.
    Selected,
    /// Those of processes of which this says so.
    Containers(Arc<IsTraced>),
    /// Those of selected processes, and a process that executes a program is selected if this says so.
    Matching(Box<dyn Fn(u32) -> bool + Send>),
}

/// The running thread.
pub struct Watch {
    stop: OwnedFd,
    lost: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts listening; what is mapped from now on is looked at.
    ///
    /// # Errors
    /// When the kernel refuses to tell of mappings, or no thread can be started.
    pub fn start(attachments: Arc<Mutex<Attachments>>, whose: Whose) -> io::Result<Watch> {
        let mappings = Mappings::open()?;
        // SAFETY: the descriptors are checked, and owned by nobody else.
        let (stop, stopped) = unsafe {
            let mut pipe = [0; 2];
            if libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
                return Err(io::Error::last_os_error());
            }
            (OwnedFd::from_raw_fd(pipe[1]), OwnedFd::from_raw_fd(pipe[0]))
        };
        let lost = Arc::new(AtomicU64::new(0));
        let thread = std::thread::Builder::new().name("watch".to_owned()).spawn({
            let lost = lost.clone();
            move || run(mappings, &attachments, &whose, &stopped, &lost)
        })?;
        Ok(Watch { stop, lost, thread: Some(thread) })
    }

    /// Mappings that the kernel had no room to tell of.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: an open pipe and one readable byte.
        unsafe { libc::write(self.stop.as_raw_fd(), [1u8].as_ptr().cast(), 1) };
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by the thread itself.
            let _ = thread.join();
        }
    }
}

fn run(
    mappings: Mappings,
    attachments: &Mutex<Attachments>,
    whose: &Whose,
    stop: &OwnedFd,
    lost: &AtomicU64,
) {
    let (search, searched) = sync_channel::<Unsearched>(SEARCHED);
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Large programs are searched beside: a small library that is mapped meanwhile is about to be used.
        let searching = std::thread::Builder::new().name("search".to_owned()).spawn_scoped(scope, || {
            for file in searched {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                file.search(attachments);
            }
        });
        if let Err(error) = searching {
            tracing::warn!(error = &error as &dyn std::error::Error, "programs are searched one by one");
        }
        watch(mappings, attachments, whose, stop, lost, &search);
        stopped.store(true, Ordering::Relaxed);
        drop(search);
    });
}

fn watch(
    mut mappings: Mappings,
    attachments: &Mutex<Attachments>,
    whose: &Whose,
    stop: &OwnedFd,
    lost: &AtomicU64,
    search: &SyncSender<Unsearched>,
) {
    let mut polled: Vec<libc::pollfd> = mappings
        .descriptors()
        .chain([stop.as_raw_fd()])
        .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
        .collect();
    let own = std::process::id();
    let mut seen = HashSet::new();
    let mut reviews = 0;
    let mut pruned = Instant::now();
    let mut waiting = Vec::new();
    loop {
        let timeout = i32::try_from(PRUNE.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: initialised entries; an interruption only makes the loop go round once more.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
        if polled.last().is_some_and(|stop| stop.revents != 0) {
            return;
        }
        mappings.drain(|mapping| waiting.push(mapping));
        lost.store(mappings.lost(), Ordering::Relaxed);
        let lock = || attachments.lock().expect("no holder panics");
        let begun = lock().reviews();
        if reviews != begun {
            reviews = begun;
            seen.clear();
        }
        for mapping in waiting.drain(..) {
            if mapping.process == own
                || !is_traced(&mut lock(), &mapping, whose)
                || seen.contains(&mapping.file)
            {
                continue;
            }
            if seen.len() >= REMEMBERED {
                seen.clear();
            }
            if consider(attachments, &mapping, search) {
                seen.insert(mapping.file);
            }
        }
        if pruned.elapsed() >= PRUNE {
            pruned = Instant::now();
            attachments::take_back(lock().prune());
        }
    }
}

fn is_traced(attachments: &mut Attachments, mapping: &Mapping, whose: &Whose) -> bool {
    let process = mapping.process;
    match whose {
        Whose::All => true,
        Whose::Containers(is_traced) => is_traced(process),
        _ if attachments.programs.is_selected(process) => true,
        Whose::Matching(matches) if is_program(mapping) && matches(process) => {
            match attachments.programs.select_process(process) {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(
                        process,
                        error = &error as &dyn std::error::Error,
                        "a process is not traced"
                    );
                    false
                }
            }
        }
        _ => false,
    }
}

/// Whether the file is the program that the process executes, not one of its libraries.
fn is_program(mapping: &Mapping) -> bool {
    std::fs::read_link(format!("/proc/{}/exe", mapping.process)).is_ok_and(|program| program == mapping.name)
}

/// Tells whether the file was looked at: of a process that is gone it may not be found any more, while others still map it.
fn consider(attachments: &Mutex<Attachments>, mapping: &Mapping, search: &SyncSender<Unsearched>) -> bool {
    let process = mapping.process;
    let (start, end) = (mapping.start, mapping.start + mapping.length);
    // The link leads to the very file whatever became of its name; it goes with the mapping, the root with the process.
    let link = PathBuf::from(format!("/proc/{process}/map_files/{start:x}-{end:x}"));
    let in_root = PathBuf::from(format!("/proc/{process}/root{}", mapping.name.display()));
    let paths = [link, in_root, mapping.name.clone()];
    let Some(file) = paths.iter().find_map(|path| RealFile::open(path, Some(process)).ok()) else {
        return false;
    };
    if let Err(file) = attachments::consider_tables(attachments, file, &mapping.name) {
        // With too many before it, or nobody to do it, it is searched at once.
        if let Err(TrySendError::Full(file) | TrySendError::Disconnected(file)) = search.try_send(file) {
            file.search(attachments);
        }
    }
    true
}
