//! Containers by their cgroups: which hierarchy shows them, how they are selected, and that they come and go.

use super::Error;
use super::programs::{self, CgroupEvents, CgroupMap, ControlMap};
use agentsight_ebpf::{CgroupEvent, Layout, cgroup_event, hierarchy};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// The hierarchy whose cgroups tell containers apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hierarchy {
    /// One of [`agentsight_ebpf::hierarchy`].
    pub kind: i32,
    /// Where it is mounted.
    pub mount: PathBuf,
}

impl Hierarchy {
    /// Finds it below the folder where the host's hierarchies are mounted (`/sys/fs/cgroup`): v2, else the v1 hierarchy
    /// of a controller that every container runtime uses.
    ///
    /// # Errors
    /// There is none.
    pub fn find(mounts: &Path) -> Result<Hierarchy, Error> {
        const CGROUP_V1: i64 = 0x0027_e0eb; // linux/magic.h
        const CGROUP_V2: i64 = 0x6367_7270;
        if file_system(mounts).is_ok_and(|kind| kind == CGROUP_V2) {
            return Ok(Hierarchy { kind: hierarchy::V2, mount: mounts.to_owned() });
        }
        let controllers = [
            (hierarchy::MEMORY, "memory"),
            (hierarchy::PIDS, "pids"),
            (hierarchy::CPU, "cpu"),
            (hierarchy::CPU, "cpu,cpuacct"),
        ];
        for (kind, name) in controllers {
            let mount = mounts.join(name);
            if file_system(&mount).is_ok_and(|kind| kind == CGROUP_V1) {
                return Ok(Hierarchy { kind, mount });
            }
        }
        let text = format!("no cgroup hierarchy is mounted at or below {}", mounts.display());
        let source = io::Error::new(io::ErrorKind::NotFound, text);
        Err(Error::System { what: "find the host's cgroups", source })
    }

    /// All cgroups that there are, with their ids and paths. A cgroup that goes meanwhile is left out.
    pub fn cgroups(&self) -> Vec<(u64, String)> {
        /// More than any node has; a bound for a tree that grows while it is walked.
        const MOST: usize = 1 << 17;
        let mut found = Vec::new();
        let mut queue = VecDeque::from([PathBuf::new()]);
        while let Some(below) = queue.pop_front() {
            let folder = self.mount.join(&below);
            let Ok(metadata) = std::fs::metadata(&folder) else { continue };
            // kernfs shows a cgroup's id as its inode.
            found.push((metadata.ino(), format!("/{}", below.display())));
            if found.len() >= MOST {
                break;
            }
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    queue.push_back(below.join(entry.file_name()));
                }
            }
        }
        found
    }

    /// The processes in a cgroup and below it.
    pub fn processes(&self, path: &str) -> Vec<u32> {
        let mut found = Vec::new();
        let mut queue = VecDeque::from([self.mount.join(path.trim_start_matches('/'))]);
        while let Some(folder) = queue.pop_front() {
            let Ok(text) = std::fs::read_to_string(folder.join("cgroup.procs")) else { continue };
            // A process outside of our pid namespace is shown as 0.
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    queue.push_back(entry.path());
                }
            }
        }
        found
    }
}

fn file_system(path: &Path) -> io::Result<i64> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a zeroed statfs is a valid one to be filled in, and the path ends with NUL.
    unsafe {
        let mut statfs: libc::statfs = std::mem::zeroed();
        if libc::statfs(path.as_ptr(), &raw mut statfs) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(statfs.f_type)
    }
}

/// Says to the kernel which cgroups are traced; clones are one and the same.
#[derive(Clone)]
pub struct Selection {
    cgroups: Arc<Mutex<CgroupMap>>,
    control: Arc<Mutex<ControlMap>>,
}

impl Selection {
    pub(super) fn new(cgroups: CgroupMap, control: Arc<Mutex<ControlMap>>) -> Selection {
        Selection { cgroups: Arc::new(Mutex::new(cgroups)), control }
    }

    /// Traces the processes of some cgroups and of those below them, each as is wanted of it (any of
    /// [`agentsight_ebpf::wanted`]), and no longer those of others.
    ///
    /// # Errors
    /// When the map is full; what could be done is done.
    pub fn change(&self, select: &[(u64, u32)], deselect: &[u64]) -> Result<(), programs::Error> {
        let mut cgroups = self.cgroups.lock().expect("no holder panics");
        for id in deselect {
            cgroups.remove(*id);
        }
        let inserted =
            select.iter().map(|(id, wanted)| cgroups.insert(*id, *wanted)).fold(Ok(()), Result::and);
        // Only now is what programs found before void: they find what stands in the map.
        self.control.lock().expect("no holder panics").selection_changed()?;
        inserted
    }
}

/// A cgroup of the hierarchy came or went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It was made; nothing runs in it yet.
    Made {
        /// Its id.
        id: u64,
        /// Its path, from the root of the hierarchy.
        path: String,
    },
    /// It was removed.
    Removed {
        /// Its id.
        id: u64,
    },
    /// The kernel had no room to tell of some: look at the whole tree.
    Missed,
}

/// The thread that hands on what comes and goes.
pub struct Cgroups {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Cgroups {
    pub(super) fn start(
        events: CgroupEvents,
        each: impl FnMut(Change) + Send + 'static,
    ) -> io::Result<Cgroups> {
        // SAFETY: the descriptors are checked, and owned by nobody else.
        let (stop, stopped) = unsafe {
            let mut pipe = [0; 2];
            if libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
                return Err(io::Error::last_os_error());
            }
            (OwnedFd::from_raw_fd(pipe[1]), OwnedFd::from_raw_fd(pipe[0]))
        };
        let thread = std::thread::Builder::new()
            .name("cgroups".to_owned())
            .spawn(move || run(events, &stopped, each))?;
        Ok(Cgroups { stop, thread: Some(thread) })
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        // SAFETY: an open pipe and one readable byte.
        unsafe { libc::write(self.stop.as_raw_fd(), [1u8].as_ptr().cast(), 1) };
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by the thread itself.
            let _ = thread.join();
        }
    }
}

fn run(mut events: CgroupEvents, stop: &OwnedFd, mut each: impl FnMut(Change)) {
    let mut polled = [events.ring.as_raw_fd(), stop.as_raw_fd()].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    let mut missed = 0;
    loop {
        // SAFETY: initialised entries; an interruption only makes the loop go round once more.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
        if polled[1].revents != 0 {
            return;
        }
        while let Some(record) = events.ring.next() {
            if let Some(change) = read(&record) {
                each(change);
            }
        }
        let lost = events.lost.get(&0, 0).unwrap_or(missed);
        if lost != missed {
            missed = lost;
            each(Change::Missed);
        }
    }
}

fn read(record: &[u8]) -> Option<Change> {
    let (event, _) = CgroupEvent::read(record)?;
    let path = event.path.get(..event.length as usize)?;
    match event.kind {
        cgroup_event::MADE => {
            Some(Change::Made { id: event.id, path: String::from_utf8_lossy(path).into_owned() })
        }
        cgroup_event::REMOVED => Some(Change::Removed { id: event.id }),
        _ => None,
    }
}

/// Files of a container's root that may hold TLS, where distributions and images of run-times keep them. `root` is a
/// process' `/proc/PID/root`.
pub fn root_files(root: &Path) -> Vec<PathBuf> {
    const FOLDERS: &[&str] = &["lib", "lib64", "usr/lib", "usr/lib64", "usr/local/lib"];
    const PROGRAMS: &[&str] = &["usr/local/bin", "usr/bin", "bin"];
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in FOLDERS.iter().map(|folder| root.join(folder)) {
        // `lib` is most often a link to `usr/lib`: one of them is enough.
        if folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            let multiarch = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            folders.extend(multiarch.map(|entry| entry.path()).filter(|path| {
                path.file_name().is_some_and(|name| name.as_bytes().ends_with(b"-linux-gnu")) && path.is_dir()
            }));
            folders.push(folder);
        }
    }
    let mut files = super::discover::tls_libraries(folders);
    for folder in PROGRAMS {
        files.extend(super::discover::RUNTIMES.iter().map(|name| root.join(folder).join(name)));
    }
    // An absolute link would lead out of the container: the kernel resolves it from our own root.
    files.retain(|path| match std::fs::read_link(path) {
        Ok(target) => target.is_relative(),
        Err(_) => path.exists(),
    });
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_hierarchy_and_this_process_is_in_it() {
        let hierarchy = Hierarchy::find(Path::new("/sys/fs/cgroup")).expect("a hierarchy");
        let cgroups = hierarchy.cgroups();
        assert!(cgroups.iter().any(|(_, path)| path == "/"), "{cgroups:?}");
        assert!(hierarchy.processes("/").contains(&std::process::id()));
    }

    #[test]
    fn a_folder_without_cgroups_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = Hierarchy::find(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
    }

    #[test]
    fn files_of_a_root_are_found_and_links_out_of_it_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let library = root.path().join("usr/lib/x86_64-linux-gnu");
        std::fs::create_dir_all(&library).unwrap();
        std::fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        std::os::unix::fs::symlink("usr/lib", root.path().join("lib")).unwrap();
        std::fs::write(library.join("libssl.so.3"), "").unwrap();
        std::fs::write(root.path().join("usr/bin/node"), "").unwrap();
        std::os::unix::fs::symlink("/bin/sh", root.path().join("usr/bin/python3")).unwrap();
        let files = root_files(root.path());
        assert_eq!(files, [library.join("libssl.so.3"), root.path().join("usr/bin/node")]);
    }
}
