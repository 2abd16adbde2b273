//! The thread that probes what a container will use, before its program runs.
//!
//! Between the making of a container's cgroup and its first program the runtime builds its root in a process of its
//! own. As soon as that process has the container's root, its TLS libraries and run-times are looked at: containers of
//! one image share files, so for most of them there is nothing left to do. What turns up later is caught when it is
//! mapped ([`crate::capture::mmap`]).
//!
//! A probe costs every process that runs through it. So once a container is not traced any more, the files that no
//! traced container has are let go.

use super::Shared;
use crate::capture::attachments::{self, Attachments, take_back};
use crate::capture::containers::{Hierarchy, root_files};
use crate::capture::discover;
use crate::capture::programs::More;
use crate::capture::sockets::Stage;
use crate::clock;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The runtime takes some 100 ms from a cgroup to the first program; nothing tells when the root stands.
const LOOK: Duration = Duration::from_millis(5);
/// A container that has no process by then is one that failed, or waits; its files are seen when they are mapped.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between the end of a container and the look at what it leaves: the next one of its image is often on its way, and while
/// the kernel takes probes back, whoever attaches waits for it.
const REVIEW: Duration = Duration::from_secs(60);

/// What is to be done.
pub(super) enum Work {
    /// That is wanted of containers, or may soon be, or is not.
    See(More, Stage),
    /// A container is traced from now on.
    Container {
        /// Its cgroup.
        id: u64,
        /// Where that is.
        path: String,
    },
    /// A container is not traced any more.
    Review,
}

/// Does what comes in, until the sender is gone.
pub(super) fn run(
    work: &Receiver<Work>,
    attachments: &Mutex<Attachments>,
    hierarchy: &Hierarchy,
    shared: &Shared,
) {
    let prober = Prober { attachments, hierarchy };
    let mut waiting: Vec<(u64, String, Instant)> = Vec::new(); // cgroups, and since when
    let mut review: Option<Instant> = None;
    loop {
        let until_review = review.map(|at| at.saturating_duration_since(Instant::now()));
        let next = match (waiting.is_empty(), until_review) {
            (false, _) => work.recv_timeout(LOOK),
            (true, Some(time)) => work.recv_timeout(time),
            (true, None) => work.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok(Work::See(more, stage)) => shared.more_refused(more, prober.see(more, stage)),
            Ok(Work::Container { id, path }) => waiting.push((id, path, Instant::now())),
            // Not put off by further ones: somewhere containers come and go all the time.
            Ok(Work::Review) => review = review.or_else(|| Some(Instant::now() + REVIEW)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        waiting.retain(|(id, path, since)| {
            let considered = prober.consider(path);
            if considered {
                // With the time of its first program, which the pipeline tells, this is how early the probes are.
                tracing::debug!(cgroup = id, at = clock::monotonic(), "looked at what a container has");
            }
            !considered && since.elapsed() < PATIENCE
        });
        // What a container on its way has is not seen yet.
        if waiting.is_empty() && review.is_some_and(|at| at <= Instant::now()) {
            let done = prober.review(shared);
            review = (!done).then(|| Instant::now() + REVIEW);
        }
    }
}

struct Prober<'a> {
    attachments: &'a Mutex<Attachments>,
    hierarchy: &'a Hierarchy,
}

impl Prober<'_> {
    /// Gives what the kernel said where it refused.
    fn see(&self, more: More, stage: Stage) -> Option<String> {
        let error = self.attachments().programs.see(more, stage).err()?;
        tracing::warn!(error = &error as &dyn std::error::Error, "{}", more.without());
        Some(error.to_string())
    }

    /// Probes what a container has, if it has a root yet.
    fn consider(&self, path: &str) -> bool {
        let members: HashSet<u32> = self.hierarchy.processes(path).into_iter().collect();
        let inside: Vec<u32> = members.iter().copied().filter(|pid| has_own_root(*pid, &members)).collect();
        let Some(first) = inside.first() else { return false };
        // One file at a time: others want to look at theirs.
        for file in root_files(&PathBuf::from(format!("/proc/{first}/root"))) {
            attachments::consider(self.attachments, &file, Some(*first), &file);
        }
        for pid in &inside {
            for mapped in discover::mapped_files(*pid) {
                attachments::consider(self.attachments, &mapped.link, Some(*pid), &mapped.name);
            }
        }
        true
    }

    /// Lets go of what none of the containers has; not where others have come meanwhile, which may be about to run it.
    fn review(&self, shared: &Shared) -> bool {
        self.attachments().begin_review();
        let paths = shared.selected_paths();
        for path in &paths {
            self.consider(path);
        }
        if shared.selected_paths() != paths {
            return false;
        }
        let unused = self.attachments().end_review();
        for probed in &unused {
            tracing::info!(file = %probed.path.display(), "no traced container has it; its probes go");
        }
        take_back(unused);
        true
    }

    fn attachments(&self) -> MutexGuard<'_, Attachments> {
        self.attachments.lock().expect("no holder panics")
    }
}

/// Whether a process of a container has the container's root already, not that of the runtime that made it. The runtime's
/// own may be any: that of a container, where the node is one, and that of process 1 cannot be read everywhere.
fn has_own_root(process: u32, members: &HashSet<u32>) -> bool {
    let mut outside = process;
    // A line of ancestors among them is no longer than they are many.
    for _ in 0..members.len() {
        match discover::parent(outside) {
            Some(parent) => outside = parent,
            None => return false,
        }
        if !members.contains(&outside) {
            break;
        }
    }
    root_of(process).is_some_and(|root| Some(root) != root_of(outside))
}

/// Which root a process has.
fn root_of(process: u32) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(Path::new("/proc").join(process.to_string()).join("root")).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
