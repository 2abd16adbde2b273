//! Processes: whose children they are, and which tool ran them.

use super::turns::{Candidates, Turns};
use super::{Counters, Finished, Ids, Place, What};
use crate::capture::events::ProcessId;
use agentsight_genai::telemetry::{SpanContext, SpanId};
use agentsight_genai::time::Timestamp;
use std::collections::HashMap;

/// A program that a process runs.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Program {
    /// The path that exec was given.
    pub path: String,
    /// Its arguments; none where they are not known. They may hold a prompt: content.
    pub arguments: Vec<String>,
}

impl Program {
    /// All words.
    fn said(&self) -> Option<String> {
        (!self.arguments.is_empty()).then(|| self.arguments.join(" "))
    }

    fn memory(&self) -> usize {
        self.path.len() + self.arguments.iter().map(|text| text.len() + size_of::<String>()).sum::<usize>()
    }
}

/// From a process' first exec to its exit.
#[derive(Debug)]
pub struct Run {
    /// The last program.
    pub program: Program,
    /// Its first exec.
    pub start: Timestamp,
    /// Its exit.
    pub end: Timestamp,
    /// As a shell tells it.
    pub code: i64,
    /// Its parent process.
    pub parent: Option<u32>,
    /// Why it hangs where it hangs.
    pub cause: Cause,
}

/// Why a process hangs where it hangs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The tool's command stands in its arguments.
    Command,
    /// One tool alone was running that can have run it.
    Interval,
    /// The process above started it.
    Lineage,
    /// More than one tool can have run it: it hangs on the turn, or on what is above.
    Ambiguous,
    /// The agent ran it during the turn, and no tool accounts for it.
    Turn,
}

impl Cause {
    /// As it is told.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Command => "command",
            Cause::Interval => "interval",
            Cause::Lineage => "lineage",
            Cause::Ambiguous => "ambiguous",
            Cause::Turn => "turn",
        }
    }
}

/// All that are known.
#[derive(Default)]
pub(super) struct Processes {
    all: HashMap<ProcessId, Process>,
    memory: usize,
}

#[derive(Default)]
struct Process {
    parent: Option<ProcessId>,
    /// Who may be joined with whom.
    scope: u64,
    /// What its own children hang on where no turn is nearer.
    place: Option<Spot>,
    start: Timestamp,
    program: Program,
    /// It ended, and waits for what it hangs on.
    ended: Option<(Timestamp, i64)>,
}

/// A span that a process has.
enum Spot {
    /// The run of the recorded command, whose span is made elsewhere.
    Root(SpanContext),
    /// Decided.
    Placed(Place, Cause),
    /// Its trace and id are known, its parent will be when the turn's response is there.
    Waiting(Place),
}

impl Spot {
    fn context(&self) -> SpanContext {
        match self {
            Spot::Root(context) => context.clone(),
            Spot::Placed(place, _) | Spot::Waiting(place) => place.context(),
        }
    }
}

impl Processes {
    /// Deeper trees are none that agents make; a circle cannot be walked.
    const DEEPEST: usize = 1024;

    pub(super) fn root(&mut self, process: ProcessId, context: SpanContext) {
        self.all.entry(process).or_default().place = Some(Spot::Root(context));
    }

    pub(super) fn fork(&mut self, child: ProcessId, parent: ProcessId, scope: u64) {
        let program = self.all.get(&parent).map(|parent| parent.program.path.clone()).unwrap_or_default();
        let program = Program { path: program, arguments: Vec::new() };
        self.memory += program.memory();
        let process = Process { parent: Some(parent), scope, program, ..Process::default() };
        self.insert(child, process);
    }

    fn insert(&mut self, id: ProcessId, process: Process) {
        if let Some(old) = self.all.insert(id, process) {
            self.memory = self.memory.saturating_sub(old.program.memory());
        }
    }

    pub(super) fn exec(&mut self, id: ProcessId, parent: Option<ProcessId>, at: Timestamp, program: Program) {
        let process = self.all.entry(id).or_default();
        self.memory += program.memory();
        self.memory = self.memory.saturating_sub(process.program.memory());
        process.parent = process.parent.or(parent);
        process.program = program;
        if process.start == Timestamp::default() {
            process.start = at;
        }
    }

    /// Gives a process that runs its first program a span, where something is above it.
    pub(super) fn place(
        &mut self,
        id: ProcessId,
        at: Timestamp,
        turns: &mut Turns,
        ids: &mut Ids,
        counters: &mut Counters,
    ) {
        let Some(process) = self.all.get(&id) else { return };
        if process.place.is_some() {
            return;
        }
        let said = process.program.said();
        let mut above = process.parent;
        for _ in 0..Self::DEEPEST {
            let Some(ancestor) = above else { return };
            let spot = self.all.get(&ancestor).and_then(|known| known.place.as_ref());
            let spot = match turns.candidates(ancestor, at, said.as_deref()) {
                Candidates::Tool(tool, cause) => Spot::Placed(ids.place(Some(tool)), cause),
                Candidates::Turn(turn, cause) => Spot::Placed(ids.place(Some(turn)), cause),
                Candidates::Open(turn) => {
                    turns.wait(turn.span_id, id);
                    Spot::Waiting(ids.place(Some(turn)))
                }
                // Of several turns none is it more than another: it hangs on the process that has them, if on any.
                Candidates::Several => match spot {
                    Some(spot) => Spot::Placed(ids.place(Some(spot.context())), Cause::Ambiguous),
                    None => {
                        counters.processes[Cause::Ambiguous as usize] += 1;
                        return;
                    }
                },
                Candidates::None => match spot {
                    Some(spot) => Spot::Placed(ids.place(Some(spot.context())), Cause::Lineage),
                    None => {
                        above = self.all.get(&ancestor).and_then(|known| known.parent);
                        continue;
                    }
                },
            };
            if let Spot::Placed(_, cause) = &spot {
                counters.processes[*cause as usize] += 1;
            }
            if let Some(process) = self.all.get_mut(&id) {
                process.place = Some(spot);
            }
            return;
        }
    }

    /// Decides on a process that waited for a response.
    pub(super) fn settle(
        &mut self,
        id: ProcessId,
        turn: SpanId,
        turns: &mut Turns,
        counters: &mut Counters,
    ) -> Option<Finished> {
        let process = self.all.get_mut(&id)?;
        let Some(Spot::Waiting(place)) = &mut process.place else { return None };
        let (parent, cause) = turns.proved(turn, process.program.said().as_deref());
        if let Some(parent) = parent {
            place.parent = Some(parent);
        }
        counters.processes[cause as usize] += 1;
        let place = place.clone();
        process.place = Some(Spot::Placed(place, cause));
        let (at, code) = process.ended?;
        self.exit(id, at, code, turns)
    }

    pub(super) fn exit(
        &mut self,
        id: ProcessId,
        at: Timestamp,
        code: i64,
        _turns: &mut Turns,
    ) -> Option<Finished> {
        let process = self.all.get_mut(&id)?;
        if let Some(Spot::Waiting(_)) = &process.place {
            process.ended = Some((at, code));
            return None;
        }
        let process = self.all.remove(&id)?;
        self.memory = self.memory.saturating_sub(process.program.memory());
        let Some(Spot::Placed(place, cause)) = process.place else { return None };
        let run = Run {
            program: process.program,
            start: process.start,
            end: at,
            code,
            parent: process.parent.map(|parent| parent.tgid),
            cause,
        };
        Some(Finished { process: id, place, what: What::Run(Box::new(run)) })
    }

    /// The span of a process, or of the nearest one above that has one.
    pub(super) fn nearest(&self, id: ProcessId) -> Option<SpanContext> {
        let mut at = Some(id);
        for _ in 0..Self::DEEPEST {
            let process = self.all.get(&at?)?;
            if let Some(place) = &process.place {
                return Some(place.context());
            }
            at = process.parent;
        }
        None
    }

    /// The span that an event of a process belongs to.
    pub(super) fn context(&self, id: ProcessId, said: &str, turns: &Turns) -> Option<SpanContext> {
        let mut at = Some(id);
        for _ in 0..Self::DEEPEST {
            if let Some(context) = turns.inside(at?, said) {
                return Some(context);
            }
            let process = self.all.get(&at?)?;
            if let Some(place) = &process.place {
                return Some(place.context());
            }
            at = process.parent;
        }
        None
    }

    /// Who may be joined with whom.
    pub(super) fn scope(&self, id: ProcessId) -> u64 {
        self.all.get(&id).map_or(0, |process| process.scope)
    }

    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Forgets processes, those without a span first, until there are few enough. How many.
    pub(super) fn bound(&mut self, most: usize, bytes: usize) -> u64 {
        if self.all.len() <= most && self.memory <= bytes {
            return 0;
        }
        let before = self.all.len();
        self.all.retain(|_, process| process.place.is_some());
        if self.all.len() > most || self.memory > bytes {
            self.all.retain(|_, process| matches!(process.place, Some(Spot::Root(_))));
        }
        self.memory = self.all.values().map(|process| process.program.memory()).sum();
        (before - self.all.len()) as u64
    }
}
