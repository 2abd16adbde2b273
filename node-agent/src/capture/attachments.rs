//! Which files are probed: each real file once, whoever maps it.

use super::files::{FileKey, RealFile};
use super::library::{self, Library, Reason, Verdict};
use super::programs::Programs;
use aya::programs::uprobe::UProbeLink;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Files of no interest that are remembered; beyond it they are judged anew.
const REMEMBERED: usize = 65_536;
/// Threads that take probes back at the end.
const DETACHERS: usize = 16;

/// The probed files, and why others are not.
pub struct Attachments {
    /// The kernel programs.
    pub programs: Programs,
    probed: HashMap<FileKey, Probed>,
    judged: HashMap<FileKey, Judged>,
    /// How many reviews have begun.
    reviews: u64,
}

/// A file that is not probed: of which state, and the reason where it holds TLS.
type Judged = ((i64, i64, u64), Option<Reason>);

/// A file that is probed.
pub struct Probed {
    /// Keeps the inode, and so the key, alive and tells when the file is deleted.
    file: RealFile,
    /// Dropping them takes the probes back.
    links: Vec<UProbeLink>,
    /// The path it was first found by.
    pub path: PathBuf,
    /// What it holds.
    pub library: Library,
    /// What else it holds that is not seen.
    pub unseen: Option<Reason>,
    /// How many probes it has.
    pub probes: usize,
    /// How many of them the kernel single-steps.
    pub stepped: usize,
    /// The review that had begun when it was considered last.
    review: u64,
}

/// What is seen of processes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    /// Processes that map a probed file.
    pub traced: usize,
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
    match consider_tables(attachments, path, process, name) {
        Ok(found) => found,
        Err(unsearched) => unsearched.search(attachments),
    }
}

/// As [`consider`], but a file whose code would have to be searched is given back.
///
/// # Errors
/// With that file.
///
/// # Panics
/// As [`consider`].
pub fn consider_tables(
    attachments: &Mutex<Attachments>,
    path: &Path,
    process: Option<u32>,
    name: &Path,
) -> Result<Found, Unsearched> {
    let lock = || attachments.lock().expect("no holder panics");
    let Ok(file) = RealFile::open(path, process) else { return Ok(Found::Nothing) };
    if let Some(found) = lock().known(&file) {
        return Ok(found);
    }
    let verdict = match library::judge_by_tables(&file.file) {
        Ok(Some(verdict)) => Ok(verdict),
        Ok(None) => return Err(Unsearched { file, name: name.to_owned() }),
        Err(error) => Err(error),
    };
    Ok(lock().add(file, name, verdict))
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
        let verdict = library::search(&self.file.file);
        attachments.lock().expect("no holder panics").add(self.file, &self.name, verdict)
    }
}

impl Attachments {
    /// Nothing is probed yet.
    pub fn new(programs: Programs) -> Attachments {
        Attachments { programs, probed: HashMap::new(), judged: HashMap::new(), reviews: 0 }
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
        let reason = match verdict {
            Ok(Verdict::Traceable(plan)) => match self.programs.attach(&file.path(), &plan) {
                Ok(links) => {
                    tracing::info!(file = %name.display(), library = plan.library.name(), probes = plan.probes.len(), stepped = plan.stepped(), "attached");
                    let probed = Probed {
                        links,
                        path: name.to_owned(),
                        library: plan.library,
                        unseen: plan.unseen,
                        probes: plan.probes.len(),
                        stepped: plan.stepped(),
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
        if self.judged.len() >= REMEMBERED {
            self.judged.clear();
        }
        self.judged.insert(file.key, (file.changed, reason));
        reason.map_or(Found::Nothing, Found::Untraceable)
    }

    /// The probed files.
    pub fn probed(&self) -> impl Iterator<Item = &Probed> {
        self.probed.values()
    }

    /// What is seen of some processes, by the files that they map.
    pub fn coverage(&self, processes: impl Iterator<Item = u32>) -> Coverage {
        // Inode numbers only: devices differ between mounts.
        let probed: HashMap<u64, Option<Reason>> =
            self.probed.iter().map(|(key, probed)| (key.inode(), probed.unseen)).collect();
        let refused: HashMap<u64, Reason> =
            self.judged.iter().filter_map(|(key, (_, reason))| Some((key.inode(), (*reason)?))).collect();
        let mut coverage = Coverage::default();
        for process in processes {
            let mapped = super::discover::mapped_files(process);
            if mapped.is_empty() {
                continue; // a kernel thread, or gone
            }
            let mut traced = mapped.iter().filter_map(|file| probed.get(&file.inode)).peekable();
            if traced.peek().is_some() {
                coverage.traced += 1;
                // It counts twice: some of what it says is seen, some is not.
                if let Some(reason) = traced.flatten().next() {
                    *coverage.untraceable.entry(*reason).or_default() += 1;
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

    /// Takes out what was not considered since the review began. Dropping it takes the probes back.
    pub fn end_review(&mut self) -> Vec<Probed> {
        let reviews = self.reviews;
        self.probed.extract_if(|_, probed| probed.review != reviews).map(|(_, probed)| probed).collect()
    }

    /// How many reviews have begun: what was looked at before may be let go.
    pub fn reviews(&self) -> u64 {
        self.reviews
    }

    /// Lets go of files that are deleted and that no process maps: their probes pin inodes, and images come and go.
    pub fn prune(&mut self) {
        let deleted =
            |probed: &Probed| probed.file.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        if !self.probed.values().any(deleted) {
            return;
        }
        let mapped = mapped_inodes();
        // Inode numbers only: devices differ between mounts. One kept too long costs little, one let go too early a call.
        self.probed.retain(|key, probed| !deleted(probed) || mapped.contains(&key.inode()));
    }
}

/// The kernel waits for all CPUs with each probe that goes, some tens of milliseconds: it waits for many at once.
impl Drop for Attachments {
    fn drop(&mut self) {
        let links: Vec<UProbeLink> = self.probed.drain().flat_map(|(_, probed)| probed.links).collect();
        let mut shares: Vec<Vec<UProbeLink>> = (0..DETACHERS).map(|_| Vec::new()).collect();
        for (link, share) in links.into_iter().zip((0..DETACHERS).cycle()) {
            shares[share].push(link);
        }
        std::thread::scope(|scope| {
            for share in shares {
                // Without a thread the share is dropped here.
                let _ = std::thread::Builder::new().spawn_scoped(scope, move || drop(share));
            }
        });
    }
}

fn mapped_inodes() -> HashSet<u64> {
    super::discover::processes()
        .flat_map(|process| super::discover::mapped_files(process).into_iter().map(|mapped| mapped.inode))
        .collect()
}
