//! Capture: the kernel programs, where they are attached, and what they say.

pub mod attachments;
mod confirm;
pub mod containers;
pub mod discover;
pub mod events;
pub mod files;
mod go;
mod image;
pub mod library;
pub mod mmap;
mod multi;
pub mod programs;
pub mod ring;
mod rustls;
pub mod sockets;
mod stripped;
pub mod trial;
pub mod watch;

use crate::sightings::Witness;
use agentsight_ebpf::{Counters, select};
use attachments::{Attachments, Coverage};
use containers::{Cgroups, Hierarchy, Selection};
use events::Batch;
use programs::{Channels, ControlMap, CounterMap, More, Programs};
use ring::Drain;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard};
use watch::{IsTraced, Watch, Whose};

/// Why capture cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel programs cannot run.
    #[error(transparent)]
    Programs(#[from] programs::Error),
    /// What is not over TLS cannot be seen.
    #[error(transparent)]
    More(#[from] sockets::Error),
    /// The system refused something else that capture needs.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What a capture counts.
#[derive(Clone, Copy, Default, Debug)]
pub struct Totals {
    /// What the kernel programs count.
    pub counters: Counters,
    /// Mappings of files that were not told: what they would have brought is not probed.
    pub lost_mappings: u64,
    /// Files whose probes were taken back, since what they took is no plaintext.
    pub refuted_files: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Totals) {
        self.counters += other.counters;
        self.lost_mappings += other.lost_mappings;
        self.refuted_files += other.refuted_files;
    }
}

/// A running capture. When it is dropped, or its process dies, nothing of it stays in the kernel.
pub struct Capture {
    attachments: Arc<Mutex<Attachments>>,
    witness: Witness,
    control: Arc<Mutex<ControlMap>>,
    counters: CounterMap,
    selection: Selection,
    drain: Drain,
    watch: Option<Watch>,
    cgroups: Option<Cgroups>,
    /// Tells processes of selected containers.
    contained: Option<Arc<IsTraced>>,
    /// Selected is every process: files are probed whoever maps them.
    everyone: bool,
    /// What more is read of all that is selected from now on: bits of [`select`].
    more: u32,
}

impl Capture {
    /// Loads the kernel programs. Nothing is selected, nothing is probed yet.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(ring_bytes: u32) -> Result<(Capture, Receiver<Batch>), Error> {
        let (programs, Channels { ring, control, counters, cgroups }) = Programs::load(ring_bytes)?;
        give_memory_back();
        let control = Arc::new(Mutex::new(control));
        let (drain, batches) = Drain::start(ring, control.clone())
            .map_err(|source| Error::System { what: "start the thread that reads the ring", source })?;
        let attachments = Arc::new(Mutex::new(Attachments::new(programs)));
        let (witness, told) = Witness::new();
        confirm::start(told, Arc::downgrade(&attachments))
            .map_err(|source| Error::System { what: "start the thread that confirms probes", source })?;
        let selection = Selection::new(cgroups, control.clone());
        let capture = Capture {
            attachments,
            witness,
            control,
            counters,
            selection,
            drain,
            watch: None,
            cgroups: None,
            contained: None,
            everyone: false,
            more: 0,
        };
        Ok((capture, batches))
    }

    /// Sees that, too, of the processes that are selected from now on. Containers say it each for itself.
    ///
    /// # Errors
    /// [`Error::More`]: TLS is seen all the same.
    pub fn see(&mut self, more: More) -> Result<(), Error> {
        self.attachments().programs.see(more, sockets::Stage::Attached)?;
        self.attachments().programs.want(more);
        self.more |= more.select();
        Ok(())
    }

    /// How that is seen: one of [`sockets::STATES`].
    pub fn state(&self, more: More) -> &'static str {
        self.attachments().programs.state(more)
    }

    /// Probes what a program will map, and what the system has for everybody.
    /// `search` and `libraries` are the `PATH` and the `LD_LIBRARY_PATH` that it will have.
    pub fn probe_program(&self, program: &Path, search: Option<&OsStr>, libraries: Option<&OsStr>) {
        self.probe_files(discover::program_files(program, search, libraries));
        self.probe_files(discover::system_libraries());
    }

    /// Probes the libraries and run-times that the system has for everybody.
    pub fn probe_system(&self) {
        self.probe_files(discover::system_libraries());
        self.probe_files(discover::runtimes());
    }

    /// Probes what the selected processes map now.
    pub fn probe_selected(&self) {
        for process in self.selected_processes() {
            for mapped in discover::mapped_files(process) {
                attachments::consider(&self.attachments, &mapped.link, Some(process), &mapped.name);
            }
        }
    }

    /// What is seen of the selected processes.
    pub fn coverage(&self) -> Coverage {
        let selected = self.selected_processes();
        self.attachments().coverage(selected.into_iter())
    }

    fn selected_processes(&self) -> Vec<u32> {
        let own = std::process::id();
        let all = discover::processes().filter(|process| *process != own);
        if self.everyone {
            return all.collect();
        }
        if let Some(is_traced) = &self.contained {
            return all.filter(|process| is_traced(*process)).collect();
        }
        let attachments = self.attachments();
        all.filter(|process| attachments.programs.is_selected(*process)).collect()
    }

    fn probe_files(&self, files: Vec<PathBuf>) {
        for file in files {
            attachments::consider(&self.attachments, &file, None, &file);
        }
    }

    /// Traces these processes and their children, those made from now on and those there are.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn select_processes(&mut self, roots: &[u32]) -> Result<(), Error> {
        self.select_family(roots)?;
        self.watch(Whose::Selected)
    }

    /// Traces these processes, those that `matches` when they execute a program, and the children of both.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn select_matching(
        &mut self,
        roots: &[u32],
        matches: impl Fn(u32) -> bool + Send + 'static,
    ) -> Result<(), Error> {
        self.select_family(roots)?;
        self.watch(Whose::Matching(Box::new(matches)))
    }

    fn select_family(&mut self, roots: &[u32]) -> Result<(), Error> {
        self.control().select(select::PROCESSES)?;
        for process in roots {
            self.attachments().programs.select_process(*process)?;
        }
        // After the roots: a child made in between was added by the kernel, or is in the list.
        for process in descendants(roots) {
            self.attachments().programs.select_process(process)?;
        }
        Ok(())
    }

    /// Traces every process but this one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn select_all(&mut self) -> Result<(), Error> {
        self.control().select(select::ALL | self.more)?;
        self.everyone = true;
        self.watch(Whose::All)
    }

    /// Traces containers: the processes of the cgroups that [`Capture::selection`] selects, and of those below them.
    /// `each` is told of all that are made and removed from now on; `is_traced` is asked of a process that maps a file,
    /// whether the file is to be probed.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn select_containers(
        &mut self,
        hierarchy: &Hierarchy,
        each: impl FnMut(containers::Change) + Send + 'static,
        is_traced: impl Fn(u32) -> bool + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.control().hierarchy(hierarchy.kind)?;
        let events = self.attachments().programs.watch_cgroups()?;
        let cgroups = Cgroups::start(events, each)
            .map_err(|source| Error::System { what: "start the thread that listens to cgroups", source })?;
        self.cgroups = Some(cgroups);
        self.control().select(select::CGROUPS)?;
        let is_traced: Arc<IsTraced> = Arc::new(is_traced);
        self.contained = Some(is_traced.clone());
        self.watch(Whose::Containers(is_traced))
    }

    /// To whom the stages behind tell what became of the bytes.
    pub fn witness(&self) -> Witness {
        self.witness.clone()
    }

    /// Which cgroups are traced.
    pub fn selection(&self) -> Selection {
        self.selection.clone()
    }

    /// The probed files, for threads that find more of them.
    pub fn shared_attachments(&self) -> Arc<Mutex<Attachments>> {
        self.attachments.clone()
    }

    fn watch(&mut self, whose: Whose) -> Result<(), Error> {
        if self.watch.is_none() {
            let watch = Watch::start(self.attachments.clone(), whose)
                .map_err(|source| Error::System { what: "listen to what processes map", source })?;
            self.watch = Some(watch);
        }
        Ok(())
    }

    /// What was captured and lost so far.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn totals(&self) -> Result<Totals, Error> {
        let lost_mappings = self.watch.as_ref().map_or(0, Watch::lost);
        let refuted_files = self.attachments().refuted();
        Ok(Totals { counters: self.counters.read()?, lost_mappings, refuted_files })
    }

    /// The probed files.
    pub fn attachments(&self) -> MutexGuard<'_, Attachments> {
        self.attachments.lock().expect("no holder panics")
    }

    fn control(&self) -> MutexGuard<'_, ControlMap> {
        self.control.lock().expect("no holder panics")
    }

    /// Takes what the ring still holds, then ends: the receiver of batches runs dry. From then on nothing is copied in
    /// the kernel, and [`Remains`] is what is left to be taken out of it.
    ///
    /// # Errors
    /// When the kernel does not tell its last counters.
    pub fn end(self) -> (Result<Totals, Error>, Remains) {
        let Capture { attachments, control, counters, drain, watch, cgroups, .. } = self;
        drop(cgroups);
        let lost_mappings = watch.as_ref().map_or(0, Watch::lost);
        drop(watch);
        let deselected = control.lock().expect("no holder panics").select(select::NOTHING);
        drain.finish();
        let refuted_files = attachments.lock().expect("no holder panics").refuted();
        let totals = deselected
            .and_then(|()| counters.read())
            .map(|counters| Totals { counters, lost_mappings, refuted_files })
            .map_err(Error::from);
        (totals, Remains { _attachments: attachments })
    }
}

/// The programs and probes of a capture that has ended. Dropping it takes them out of the kernel, which needs a tenth of
/// a second for each probe.
#[must_use = "dropping it is what takes long"]
pub struct Remains {
    _attachments: Arc<Mutex<Attachments>>,
}

/// The processes below some, by what `/proc` says of parents.
fn descendants(roots: &[u32]) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = discover::processes()
        .filter_map(|process| {
            let parent = discover::parent(process)?;
            Some((process, parent))
        })
        .collect();
    let mut family: HashSet<u32> = roots.iter().copied().collect();
    let mut found = Vec::new();
    loop {
        let before = found.len();
        for (process, parent) in &parents {
            if family.contains(parent) && family.insert(*process) {
                found.push(*process);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// The kernel's types, to which programs are fitted when they are loaded, and the symbols of large files take some ten
/// megabytes for a moment; glibc would keep them for later.
fn give_memory_back() {
    // SAFETY: it has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
