//! What the agent has in the kernel: there while something is granted, and gone with the last grant.
//!
//! A node on which nothing is to be traced pays nothing: no program, map, link or probe of ours is in its kernel.

use super::exporters::Exporters;
use super::probes::{self, Work};
use super::subjects::Containers;
use super::{Error, Shared, spawn};
use crate::capture::attachments::{Attachments, take_back};
use crate::capture::containers::{Hierarchy, Selection};
use crate::capture::events::Batch;
use crate::capture::sockets::Stage;
use crate::capture::{Capture, Totals};
use crate::pipeline::{self, Pipeline, Stats};
use crate::policy::ExporterId;
use crate::resource::Item;
use crate::sightings::Witness;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long nothing must have been granted: an object that is replaced is gone for a moment, and what starts and ends while
/// the programs are loaded anew is not seen.
const SETTLE: Duration = Duration::from_secs(30);
/// Between two attempts while the kernel refuses.
const AGAIN: Duration = Duration::from_secs(10);

/// What is needed to start, and what runs.
pub(super) struct Kernel {
    pub(super) shared: Arc<Shared>,
    pub(super) hierarchy: Hierarchy,
    pub(super) stats: Arc<Mutex<Stats>>,
    pub(super) exporters: Arc<Exporters>,
    pub(super) ring_bytes: u32,
    pub(super) state: Mutex<State>,
    /// Held from the first to the last step of a start and of a stop.
    pub(super) turn: Mutex<()>,
}

/// What runs, and what ran before it.
#[derive(Default)]
pub(super) struct State {
    running: Option<Running>,
    /// What the captures that have ended had counted.
    past: Totals,
    /// The agent ends: nothing starts any more.
    ended: bool,
}

struct Running {
    capture: Capture,
    pipeline: JoinHandle<()>,
    prober: JoinHandle<()>,
}

/// By what changes of the world reach the kernel.
pub(super) struct Hands {
    pub(super) selection: Selection,
    /// What is to be done about probes.
    pub(super) probes: Sender<Work>,
    /// What was said last of each of [`More::ALL`].
    pub(super) more: [Stage; 2],
}

impl Kernel {
    /// Loads the programs and traces what is selected now and from now on. Nothing happens where it runs already.
    ///
    /// # Errors
    /// See [`Error`]; then nothing of it is left.
    pub(super) fn start(&self) -> Result<(), Error> {
        let _turn = self.turn.lock().expect("no holder panics");
        {
            let state = self.state();
            if state.ended || state.running.is_some() {
                return Ok(());
            }
        }
        let (mut capture, batches) = Capture::start(self.ring_bytes)?;
        // What it refused before, it does no longer.
        self.shared.refuse(None);
        let (probes, work) = mpsc::channel();
        self.shared.take_hands(Hands { selection: capture.selection(), probes, more: [Stage::Absent; 2] });
        let started = self.start_on(&mut capture, batches, work);
        match started {
            Ok((pipeline, prober)) => {
                self.state().running = Some(Running { capture, pipeline, prober });
                // Cgroups that came while nobody listened, and those that went.
                self.shared.look(&self.hierarchy);
                self.shared.tell();
                Ok(())
            }
            Err(error) => {
                self.shared.let_go();
                Err(error)
            }
        }
    }

    fn start_on(
        &self,
        capture: &mut Capture,
        batches: Receiver<Batch>,
        work: Receiver<Work>,
    ) -> Result<(JoinHandle<()>, JoinHandle<()>), Error> {
        let pipeline = spawn("pipeline", {
            let (shared, stats, exporters) =
                (self.shared.clone(), self.stats.clone(), self.exporters.clone());
            let witness = capture.witness();
            move || decode(&batches, shared, stats, &exporters, witness)
        })?;
        // Told first, then looked at: no cgroup is missed in between.
        capture.select_containers(
            &self.hierarchy,
            {
                let (shared, hierarchy) = (self.shared.clone(), self.hierarchy.clone());
                move |change| shared.cgroup(&change, &hierarchy)
            },
            {
                let shared = self.shared.clone();
                move |process| shared.is_traced(process)
            },
        )?;
        let prober = spawn("probes", {
            let (attachments, hierarchy, shared) =
                (capture.shared_attachments(), self.hierarchy.clone(), self.shared.clone());
            move || probes::run(&work, &attachments, &hierarchy, &shared)
        })?;
        Ok((pipeline, prober))
    }

    /// Ends the capture; what was captured is decoded and handed on. Its programs and probes go beside, so that the
    /// next grant does not wait for them.
    fn stop(&self) {
        let _turn = self.turn.lock().expect("no holder panics");
        self.shared.let_go();
        let mut state = self.state();
        let Some(Running { capture, pipeline, prober }) = state.running.take() else { return };
        // It holds the probes as long as it lives, and ends now that nobody gives it work.
        if prober.join().is_err() {
            tracing::error!("the thread of the probes ended by itself; this is a mistake in AgentSight");
        }
        let (totals, remains) = capture.end();
        match totals {
            Ok(totals) => {
                tracing::info!(
                    tls_calls = totals.counters.tls_calls,
                    captured_bytes = totals.counters.captured_bytes,
                    lost_bytes = totals.counters.lost_bytes(),
                    "the tracing has ended; nothing of it stays in the kernel"
                );
                state.past += totals;
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "what was lost in the kernel is not known"
            ),
        }
        // In one step with the end of what ran: no total goes back in between.
        drop(state);
        if pipeline.join().is_err() {
            tracing::error!("the pipeline ended by itself; this is a mistake in AgentSight");
        }
        take_back(remains);
        self.shared.tell();
    }

    /// Ends for good.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.stop();
    }

    /// Starts and stops with the first and the last grant, as long as it is polled.
    pub(super) async fn follow_grants(self: Arc<Self>) {
        let mut changes = self.shared.changes();
        // When what runs is to end, if nothing is granted until then.
        let mut end = None;
        loop {
            let mut wait = None;
            match (self.shared.is_anything_granted(), self.is_running()) {
                (true, false) => match tokio::task::block_in_place(|| self.start()) {
                    Ok(()) => tracing::info!("tracing, as something is granted"),
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "cannot trace");
                        self.shared.refuse(Some(error.to_string()));
                        wait = Some(AGAIN);
                    }
                },
                (true, true) => end = None,
                (false, true) => {
                    let now = Instant::now();
                    let at = *end.get_or_insert(now + SETTLE);
                    if at <= now {
                        tokio::task::block_in_place(|| self.stop());
                        // A grant may have come meanwhile.
                        continue;
                    }
                    wait = Some(at - now);
                }
                (false, false) => {}
            }
            let changed = async {
                match wait {
                    Some(time) => tokio::time::timeout(time, changes.changed()).await.unwrap_or(Ok(())),
                    None => changes.changed().await,
                }
            };
            if changed.await.is_err() {
                return;
            }
        }
    }

    /// Whether the programs are in the kernel, and everything granted is selected.
    pub(super) fn is_running(&self) -> bool {
        self.state().running.is_some()
    }

    /// The probed files, while there are any.
    pub(super) fn attachments(&self) -> Option<Arc<Mutex<Attachments>>> {
        self.state().running.as_ref().map(|running| running.capture.shared_attachments())
    }

    /// Calls `with` with the capture, if one runs, and with what those before it had counted.
    pub(super) fn look<T>(&self, with: impl FnOnce(Option<&Capture>, Totals) -> T) -> T {
        let state = self.state();
        with(state.running.as_ref().map(|running| &running.capture), state.past)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

/// The pipeline's thread: until the capture ends.
fn decode(
    batches: &Receiver<Batch>,
    shared: Arc<Shared>,
    stats: Arc<Mutex<Stats>>,
    exporters: &Exporters,
    witness: Witness,
) {
    let settings = pipeline::Settings { max_memory: pipeline::DEFAULT_MAX_MEMORY, root: None };
    let out = |exporter: &ExporterId, item: Item| exporters.send(exporter, item);
    Pipeline::new(settings, Containers::new(shared), stats, out).telling(witness).run(batches);
}
