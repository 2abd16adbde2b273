//! Which files are probed: each real file once, whoever maps it.

use super::confirm::{Outcome, Trial};
use super::discover::MappedFile;
use super::files::{FileKey, RealFile};
use super::library::{self, Found as FoundBy, Library, Plan, Reason, Verdict};
use super::programs::{Attached, Programs};
use super::sockets::Stage;
use crate::sightings::Sighting;
use aya::programs::ProgramError;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, RwLock};

/// With each probe of a perf event that goes the kernel waits for all CPUs, some tens of milliseconds and more, and whoever
/// attaches waits with it. Whoever attaches writes, whoever takes back reads: writers go first, and so a container that
/// starts waits for the few probes whose turn it is, not for all of another that has ended.
static TURN: RwLock<()> = RwLock::new(());

/// Files of no interest that are remembered; beyond it they are judged anew.
const REMEMBERED: usize = 65_536;
/// Bytes of a file from which on looking at it takes memory worth giving back.
const LARGE: u64 = 8 << 20;
/// Threads that take back the perf events of a file: the kernel waits for some at once, and whoever attaches for all of these.
const DETACHERS: usize = 4;

/// The probed files, and why others are not.
pub struct Attachments {
    /// The kernel programs.
    pub programs: Programs,
    probed: HashMap<FileKey, Probed>,
    judged: HashMap<FileKey, Judged>,
    /// How many reviews have begun.
    reviews: u64,
    /// How many files' probes were taken back since what they took is no plaintext.
    refuted: u64,
}

/// A file that is not probed: of which state, and the reason where it holds TLS.
type Judged = ((i64, i64, u64), Option<Reason>);

/// A file that is probed.
pub struct Probed {
    /// Keeps the inode, and so the key, alive and tells when the file is deleted.
    file: RealFile,
    /// Held for what its end does.
    _attached: Probes,
    /// The path it was first found by.
    pub path: PathBuf,
    /// What it holds, and how that was found.
    pub parts: BTreeSet<(Library, FoundBy)>,
    /// What else it holds that is not seen.
    pub unseen: Option<Reason>,
    /// How many probes it has.
    pub probes: usize,
    /// How many of them the kernel single-steps.
    pub stepped: usize,
    /// Whether it is what it was taken for, where no name says so.
    trial: Option<Trial>,
    /// The review that had begun when it was considered last.
    review: u64,
}

impl Probed {
    /// Whether it was found by the look of its code, and has not given any plaintext yet.
    pub fn is_on_trial(&self) -> bool {
        matches!(self.trial, Some(Trial::Open { .. }))
    }

    /// Whether it holds that library.
    pub fn holds(&self, library: Library) -> bool {
        self.parts.iter().any(|(held, _)| *held == library)
    }

    fn ways(&self) -> impl Iterator<Item = Way> {
        let on_trial = self.is_on_trial();
        // A name next to it needs no trial.
        self.parts.iter().map(move |(library, found)| Way {
            library: *library,
            found: *found,
            on_trial: on_trial && is_by_look(*found),
        })
    }
}

/// In which way a process is traced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Way {
    /// By which library.
    pub library: Library,
    /// How that was found.
    pub found: FoundBy,
    /// It was found by the look of its code, and has not given any plaintext yet.
    pub on_trial: bool,
}

/// What is seen of processes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    /// Processes that map a probed file.
    pub traced: usize,
    /// In which ways; one with several libraries counts for each.
    pub ways: BTreeMap<Way, usize>,
    /// The others, by the reason; and those of them that have a second library, which is not seen.
    pub untraceable: BTreeMap<Reason, usize>,
}

/// What became of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// It is probed from now on.
    Attached,
    /// It was probed before.
    Known,
    /// It holds no TLS implementation, or could not be opened.
    Nothing,
    /// It holds one that cannot be probed.
    Untraceable(Reason),
}

/// Probes a file if it holds a TLS implementation. `process`: whose mounts the path goes through.
///
/// Nobody waits while the file is read: a program of some hundred megabytes takes some tenths of a second.
///
/// # Panics
/// When another thread did while it held the lock.
pub fn consider(attachments: &Mutex<Attachments>, path: &Path, process: Option<u32>, name: &Path) -> Found {
    let Ok(file) = RealFile::open(path, process) else { return Found::Nothing };
    match consider_tables(attachments, file, name) {
        Ok(found) => found,
        Err(unsearched) => unsearched.search(attachments),
    }
}

/// As [`consider`], of a file that is open; one whose code would have to be searched is given back.
///
/// # Errors
/// With that file.
///
/// # Panics
/// As [`consider`].
pub fn consider_tables(
    attachments: &Mutex<Attachments>,
    file: RealFile,
    name: &Path,
) -> Result<Found, Unsearched> {
    let lock = || attachments.lock().expect("no holder panics");
    if let Some(found) = lock().known(&file) {
        return Ok(found);
    }
    let verdict = match read(&file, library::judge_by_tables) {
        Ok(Some(verdict)) => Ok(verdict),
        Ok(None) => return Err(Unsearched { file, name: name.to_owned() }),
        Err(error) => Err(error),
    };
    Ok(lock().add(file, name, verdict))
}

/// Judges a file, and gives the memory back that this takes with a large one, some of it for symbols.
fn read<T>(file: &RealFile, judge: impl FnOnce(&File) -> T) -> T {
    let verdict = judge(&file.file);
    if file.size() >= LARGE {
        super::give_memory_back();
    }
    verdict
}

/// A file whose tables say nothing of TLS, and whose code may.
pub struct Unsearched {
    file: RealFile,
    name: PathBuf,
}

impl Unsearched {
    /// Searches it, and probes it if it holds a TLS implementation.
    ///
    /// # Panics
    /// As [`consider`].
    pub fn search(self, attachments: &Mutex<Attachments>) -> Found {
        let verdict = read(&self.file, library::search);
        attachments.lock().expect("no holder panics").add(self.file, &self.name, verdict)
    }
}

impl Attachments {
    /// Nothing is probed yet.
    pub fn new(programs: Programs) -> Attachments {
        Attachments { programs, probed: HashMap::new(), judged: HashMap::new(), reviews: 0, refuted: 0 }
    }

    /// What is known of a file; None where it has to be judged.
    fn known(&mut self, file: &RealFile) -> Option<Found> {
        if let Some(probed) = self.probed.get_mut(&file.key) {
            probed.review = self.reviews;
            return Some(Found::Known);
        }
        let (changed, reason) = self.judged.get(&file.key)?;
        (*changed == file.changed).then(|| reason.map_or(Found::Nothing, Found::Untraceable))
    }

    fn add(&mut self, file: RealFile, name: &Path, verdict: Result<Verdict, library::Error>) -> Found {
        // Another thread may have judged it, too.
        if let Some(found) = self.known(&file) {
            return found;
        }
        let reason = match verdict.map(|verdict| self.with_sockets(verdict, name)) {
            Ok(Verdict::Traceable(plan)) => match self.attach(&file, &plan) {
                Ok(links) => {
                    let names: Vec<_> = plan.libraries().iter().map(|library| library.name()).collect();
                    tracing::info!(file = %name.display(), library = names.join(", "), probes = plan.probes().count(), stepped = plan.stepped(), "attached");
                    let probed = Probed {
                        _attached: Probes(links),
                        path: name.to_owned(),
                        parts: plan.parts.iter().map(|part| (part.library, part.found)).collect(),
                        unseen: plan.unseen,
                        probes: plan.probes().count(),
                        stepped: plan.stepped(),
                        trial: plan.parts.iter().any(|part| is_by_look(part.found)).then_some(Trial::NEW),
                        review: self.reviews,
                        file,
                    };
                    self.probed.insert(probed.file.key, probed);
                    return Found::Attached;
                }
                Err(error) => {
                    tracing::warn!(file = %name.display(), error = &error as &dyn std::error::Error, "cannot attach");
                    Some(Reason::Failed)
                }
            },
            Ok(Verdict::Untraceable(reason)) => {
                tracing::info!(file = %name.display(), reason = reason.name(), "TLS that cannot be traced");
                Some(reason)
            }
            // Scripts, locales, data: mapped executable or not, no TLS is in them.
            Ok(Verdict::NoTls) | Err(_) => None,
        };
        self.remember(&file, reason);
        reason.map_or(Found::Nothing, Found::Untraceable)
    }

    fn remember(&mut self, file: &RealFile, reason: Option<Reason>) {
        if self.judged.len() >= REMEMBERED {
            self.judged.clear();
        }
        self.judged.insert(file.key, (file.changed, reason));
    }

    /// Whether anything that is probed was found by the look of its code, and has not given any plaintext yet.
    pub(super) fn has_trials(&self) -> bool {
        self.probed.values().any(Probed::is_on_trial)
    }

    /// How many files' probes were taken back since what they took is no plaintext.
    pub fn refuted(&self) -> u64 {
        self.refuted
    }

    /// Takes note of what a process that maps these files was seen to do. Gives what is to be taken back.
    pub(super) fn sees(&mut self, sighting: &Sighting, mapped: &[MappedFile]) -> Option<Probed> {
        // Inode numbers only: devices differ between mounts.
        let inodes: HashSet<u64> = mapped.iter().map(|file| file.inode).collect();
        let mut probed = self.probed.iter_mut().filter(|(key, _)| inodes.contains(&key.inode()));
        let (key, file) = probed.next()?;
        if probed.next().is_some() {
            return None; // which of them it was of is not known
        }
        let key = *key;
        match file.trial.as_mut()?.sees(sighting) {
            Outcome::Nothing => None,
            Outcome::Confirmed => {
                tracing::info!(file = %file.path.display(), "what is probed gives plaintext");
                None
            }
            Outcome::Refuted => {
                let taken = self.probed.remove(&key)?;
                tracing::warn!(file = %taken.path.display(), reason = Reason::NotPlaintext.name(), "what is probed gives no plaintext; its probes are taken back");
                self.refuted += 1;
                self.remember(&taken.file, Some(Reason::NotPlaintext));
                self.forget_sockets();
                Some(taken)
            }
        }
    }

    /// Takes rustls out of a verdict where the connections of its records cannot be known. Before anything is probed they
    /// are: else the first would be missed.
    fn with_sockets(&mut self, verdict: Verdict, name: &Path) -> Verdict {
        let Verdict::Traceable(mut plan) = verdict else { return verdict };
        if !plan.libraries().contains(&Library::Rustls) {
            return Verdict::Traceable(plan);
        }
        let Err(error) = self.programs.see_records(Stage::Attached) else { return Verdict::Traceable(plan) };
        tracing::warn!(file = %name.display(), error = &error as &dyn std::error::Error, "rustls cannot be traced");
        plan.parts.retain(|part| part.library != Library::Rustls);
        let unseen = *plan.unseen.get_or_insert(Reason::Rustls);
        if plan.parts.is_empty() { Verdict::Untraceable(unseen) } else { Verdict::Traceable(plan) }
    }

    /// Lets the programs at the sockets go where no file is left that they are for.
    fn forget_sockets(&mut self) {
        if !self.probed.values().any(|probed| probed.holds(Library::Rustls))
            && let Err(error) = self.programs.see_records(Stage::Absent)
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "programs at sockets stay");
        }
    }

    fn attach(&mut self, file: &RealFile, plan: &Plan) -> Result<Vec<Attached>, ProgramError> {
        let _turn = TURN.write().expect("no holder panics");
        self.programs.attach(&file.path(), plan)
    }

    /// The probed files.
    pub fn probed(&self) -> impl Iterator<Item = &Probed> {
        self.probed.values()
    }

    /// What is seen of some processes, by the files that they map.
    pub fn coverage(&self, processes: impl Iterator<Item = u32>) -> Coverage {
        // Inode numbers only: devices differ between mounts.
        let probed: HashMap<u64, &Probed> =
            self.probed.iter().map(|(key, probed)| (key.inode(), probed)).collect();
        let refused: HashMap<u64, Reason> =
            self.judged.iter().filter_map(|(key, (_, reason))| Some((key.inode(), (*reason)?))).collect();
        let mut coverage = Coverage::default();
        for process in processes {
            let mapped = super::discover::mapped_files(process);
            if mapped.is_empty() {
                continue; // a kernel thread, or gone
            }
            let traced: Vec<_> = mapped.iter().filter_map(|file| probed.get(&file.inode)).collect();
            if !traced.is_empty() {
                coverage.traced += 1;
                let ways: BTreeSet<Way> = traced.iter().flat_map(|file| file.ways()).collect();
                for way in ways {
                    *coverage.ways.entry(way).or_default() += 1;
                }
                // It counts twice: some of what it says is seen, some is not.
                if let Some(reason) = traced.iter().find_map(|file| file.unseen) {
                    *coverage.untraceable.entry(reason).or_default() += 1;
                }
            } else {
                let reason = mapped.iter().find_map(|file| refused.get(&file.inode));
                *coverage.untraceable.entry(*reason.unwrap_or(&Reason::NoTlsLibrary)).or_default() += 1;
            }
        }
        coverage
    }

    /// Begins to look at what is still of use: all of that is to be considered once more until [`Self::end_review`].
    pub fn begin_review(&mut self) {
        self.reviews += 1;
    }

    /// Takes out what was not considered since the review began, for [`take_back`].
    pub fn end_review(&mut self) -> Vec<Probed> {
        let reviews = self.reviews;
        let taken =
            self.probed.extract_if(|_, probed| probed.review != reviews).map(|(_, probed)| probed).collect();
        self.forget_sockets();
        taken
    }

    /// How many reviews have begun: what was looked at before may be let go.
    pub fn reviews(&self) -> u64 {
        self.reviews
    }

    /// Takes out files that are deleted and that no process maps: their probes pin inodes, and images come and go.
    /// They are for [`take_back`].
    pub fn prune(&mut self) -> Vec<Probed> {
        let deleted =
            |probed: &Probed| probed.file.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        if !self.probed.values().any(deleted) {
            return Vec::new();
        }
        let mapped = mapped_inodes();
        // Inode numbers only: devices differ between mounts. One kept too long costs little, one let go too early a call.
        let taken = self
            .probed
            .extract_if(|key, probed| deleted(probed) && !mapped.contains(&key.inode()))
            .map(|(_, probed)| probed)
            .collect();
        self.forget_sockets();
        taken
    }
}

/// Whether functions were found by what their code looks like, and by nothing that names them.
fn is_by_look(found: FoundBy) -> bool {
    match found {
        FoundBy::ByErrors | FoundBy::ByAlgorithms => true,
        FoundBy::BySymbols | FoundBy::ByFunctionTable => false,
    }
}

/// Takes out of the kernel what `remains` holds, on a thread of its own: nobody is to wait for that.
pub fn take_back(remains: impl Send + 'static) {
    let begun = std::thread::Builder::new().name("detach".to_owned()).spawn(move || drop(remains));
    if let Err(error) = begun {
        // What was to be moved to the thread has been dropped here instead.
        tracing::debug!(%error, "no thread to take back probes");
    }
}

/// The probes of one file. Dropping them takes them back.
struct Probes(Vec<Attached>);

impl Drop for Probes {
    fn drop(&mut self) {
        // Links of several places wait beside each other, and nobody for them.
        let beside = self.0.iter().all(|link| matches!(link, Attached::Multi(_)));
        let share = if beside { 1 } else { self.0.len().div_ceil(DETACHERS) };
        std::thread::scope(|scope| {
            while !self.0.is_empty() {
                let links = self.0.split_off(self.0.len().saturating_sub(share));
                let detach = move || {
                    for link in links {
                        let _turn = (!beside).then(|| TURN.read().expect("no holder panics"));
                        drop(link);
                    }
                };
                // Without a thread the share is dropped here.
                let _ = std::thread::Builder::new().name("detach".to_owned()).spawn_scoped(scope, detach);
            }
        });
    }
}

fn mapped_inodes() -> HashSet<u64> {
    super::discover::processes()
        .flat_map(|process| super::discover::mapped_files(process).into_iter().map(|mapped| mapped.inode))
        .collect()
}
