//! Processes: whose children they are, and which tool ran them.

use super::turns::{Candidates, Turns};
use super::{Counters, Finished, Ids, Place, What};
use crate::capture::events::ProcessId;
use agentsight_genai::telemetry::{SpanContext, SpanId};
use agentsight_genai::time::Timestamp;
use std::collections::HashMap;
use std::fmt;

/// A program that a process runs.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Program {
    /// Its path: the one that exec was given, or that of the script's interpreter.
    pub path: String,
    /// Its arguments; none where they are not known. They may hold a prompt: content.
    pub arguments: Vec<String>,
    /// There are more arguments, or more of the last one.
    pub cut: bool,
}

impl fmt::Debug for Program {
    /// Without its arguments.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Program({}, {} arguments)", self.path, self.arguments.len())
    }
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
    /// Its exit, or the end of the tracing.
    pub end: Timestamp,
    /// How it ended; nothing where it goes on while the tracing ends.
    pub exit: Option<Exit>,
    /// Its parent process.
    pub parent: Option<u32>,
    /// Why it hangs where it hangs.
    pub cause: Cause,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// As a shell tells it: 128 and the signal's number where a signal ended it.
    pub code: i64,
    /// The signal that ended it.
    pub signal: Option<i64>,
}

impl Exit {
    /// From a status as wait(2) gives it.
    pub fn of_status(status: i32) -> Exit {
        match status & 0x7f {
            0 => Exit { code: i64::from(status >> 8 & 0xff), signal: None },
            signal => Exit { code: i64::from(128 + signal), signal: Some(i64::from(signal)) },
        }
    }
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
    /// All, in their order.
    pub const ALL: [Cause; 5] =
        [Cause::Command, Cause::Interval, Cause::Lineage, Cause::Ambiguous, Cause::Turn];

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
    /// How many of those spans each process owns.
    owned: HashMap<ProcessId, u32>,
    memory: usize,
}

#[derive(Default)]
struct Process {
    parent: Option<ProcessId>,
    /// How many of those that are known name it as their parent.
    children: u32,
    /// It ended, and is here for its children's sake.
    gone: bool,
    /// Who may be joined with whom.
    scope: u64,
    /// What its own children hang on where no turn is nearer.
    place: Option<Spot>,
    start: Timestamp,
    program: Program,
    /// It ended, and waits for what it hangs on.
    ended: Option<(Timestamp, Exit)>,
}

/// A span that a process has.
enum Spot {
    /// The run of the recorded command, whose span is made elsewhere.
    Root(SpanContext),
    /// Decided.
    Placed(Place, Cause, ProcessId),
    /// Its trace and id are known, its parent will be when the turn's response is there.
    Waiting(Place, ProcessId),
}

impl Spot {
    fn context(&self) -> SpanContext {
        match self {
            Spot::Root(context) => context.clone(),
            Spot::Placed(place, ..) | Spot::Waiting(place, _) => place.context(),
        }
    }

    /// Whose span it is; `process` has it.
    fn owner(&self, process: ProcessId) -> ProcessId {
        match self {
            Spot::Root(_) => process,
            Spot::Placed(.., owner) | Spot::Waiting(_, owner) => *owner,
        }
    }
}

impl Processes {
    /// Deeper trees are none that agents make; a circle cannot be walked.
    const DEEPEST: usize = 1024;

    pub(super) fn root(&mut self, process: ProcessId, context: SpanContext) {
        self.all.entry(process).or_default().place = Some(Spot::Root(context));
    }

    pub(super) fn set_scope(&mut self, process: ProcessId, scope: u64) {
        self.all.entry(process).or_default().scope = scope;
    }

    pub(super) fn fork(&mut self, child: ProcessId, parent: ProcessId) {
        let above = self.all.entry(parent).or_default();
        let (path, scope) = (above.program.path.clone(), above.scope);
        let process = self.all.entry(child).or_default();
        if process.program.path.is_empty() {
            self.memory += path.len();
            process.program.path = path;
        }
        process.scope = scope;
        self.link(child, parent);
    }

    fn link(&mut self, child: ProcessId, parent: ProcessId) {
        if child == parent || self.all.get(&child).is_none_or(|process| process.parent.is_some()) {
            return;
        }
        self.all.entry(parent).or_default().children += 1;
        self.all.entry(child).or_default().parent = Some(parent);
    }

    pub(super) fn exec(&mut self, id: ProcessId, parent: Option<ProcessId>, at: Timestamp, program: Program) {
        let process = self.all.entry(id).or_default();
        self.memory += program.memory();
        self.memory = self.memory.saturating_sub(process.program.memory());
        process.program = program;
        if process.start == Timestamp::default() {
            process.start = at;
        }
        if let Some(parent) = parent {
            self.link(id, parent);
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
            let Some(ancestor) = above else { break };
            let spot = self.all.get(&ancestor).and_then(|known| known.place.as_ref());
            let owner = spot.map_or(ancestor, |spot| spot.owner(ancestor));
            let spot = match turns.candidates(ancestor, at, said.as_deref()) {
                Candidates::Tool(tool, cause) => Spot::Placed(ids.place(Some(tool)), cause, ancestor),
                Candidates::Turn(turn, cause) => Spot::Placed(ids.place(Some(turn)), cause, ancestor),
                Candidates::Open(turn) => {
                    turns.wait(turn.span_id, id);
                    Spot::Waiting(ids.place(Some(turn)), ancestor)
                }
                // Of several turns none is it more than another: it hangs on the process that has them, if on any.
                Candidates::Several => match spot {
                    Some(spot) => Spot::Placed(ids.place(Some(spot.context())), Cause::Ambiguous, owner),
                    None => {
                        counters.processes[Cause::Ambiguous as usize] += 1;
                        break;
                    }
                },
                Candidates::None => match spot {
                    Some(spot) => Spot::Placed(ids.place(Some(spot.context())), Cause::Lineage, owner),
                    None => {
                        above = self.all.get(&ancestor).and_then(|known| known.parent);
                        continue;
                    }
                },
            };
            if let Spot::Placed(_, cause, _) = &spot {
                counters.processes[*cause as usize] += 1;
            }
            *self.owned.entry(spot.owner(id)).or_default() += 1;
            if let Some(process) = self.all.get_mut(&id) {
                process.place = Some(spot);
            }
            return;
        }
        // Nobody will ask for them.
        if let Some(process) = self.all.get_mut(&id) {
            let before = process.program.memory();
            process.program.arguments = Vec::new();
            self.memory = self.memory.saturating_sub(before - process.program.memory());
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
        let Some(Spot::Waiting(place, owner)) = &mut process.place else { return None };
        let (parent, cause) = turns.proved(turn, process.program.said().as_deref());
        if let Some(parent) = parent {
            place.parent = Some(parent);
        }
        counters.processes[cause as usize] += 1;
        let (place, owner) = (place.clone(), *owner);
        process.place = Some(Spot::Placed(place, cause, owner));
        let (at, exit) = process.ended?;
        self.exit(id, at, exit)
    }

    pub(super) fn exit(&mut self, id: ProcessId, at: Timestamp, exit: Exit) -> Option<Finished> {
        let process = self.all.get_mut(&id)?;
        if let Some(Spot::Waiting(..)) = &process.place {
            process.ended = Some((at, exit));
            return None;
        }
        let finished = process.run(id, at, Some(exit));
        self.remove(id);
        finished
    }

    /// Those that go on while the tracing ends, in the order in which they began.
    pub(super) fn finish(&mut self, now: Timestamp) -> Vec<Finished> {
        let alive = self.all.iter().filter(|(_, process)| !process.gone);
        let mut runs: Vec<_> = alive.filter_map(|(id, process)| process.run(*id, now, None)).collect();
        runs.sort_unstable_by_key(|run| match &run.what {
            What::Run(of) => (of.start, run.place.span_id.0),
            _ => (Timestamp::default(), run.place.span_id.0),
        });
        self.all.clear();
        self.owned.clear();
        self.memory = 0;
        runs
    }

    /// Forgets a process that ended; while its children are there, they are known by it.
    fn remove(&mut self, id: ProcessId) {
        let Some(process) = self.all.get_mut(&id) else { return };
        self.memory = self.memory.saturating_sub(process.program.memory());
        process.program = Program::default();
        process.gone = true;
        if process.place.is_some()
            && let Some(parent) = process.parent.take()
        {
            // Nobody asks further up than here: of programs that start themselves anew again and again, one is held.
            self.orphan(parent);
        }
        self.free(id);
    }

    /// A child of this process is forgotten, or needs it no more.
    fn orphan(&mut self, parent: ProcessId) {
        if let Some(process) = self.all.get_mut(&parent) {
            process.children = process.children.saturating_sub(1);
            self.free(parent);
        }
    }

    /// Forgets a process that ended and has no children, and those above that are held for its sake alone.
    fn free(&mut self, id: ProcessId) {
        let mut at = Some(id);
        while let Some(id) = at
            && self.all.get(&id).is_some_and(|process| process.gone && process.children == 0)
            && let Some(process) = self.all.remove(&id)
        {
            if let Some(spot @ (Spot::Placed(..) | Spot::Waiting(..))) = &process.place {
                self.disown(spot.owner(id));
            }
            at = process.parent;
            if let Some(parent) = at.and_then(|parent| self.all.get_mut(&parent)) {
                parent.children = parent.children.saturating_sub(1);
            }
        }
    }

    fn disown(&mut self, owner: ProcessId) {
        if let Some(count) = self.owned.get_mut(&owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.owned.remove(&owner);
            }
        }
    }

    /// Whether spans are still to come that this process did.
    pub(super) fn owns(&self, id: ProcessId) -> bool {
        self.owned.contains_key(&id)
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

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
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
        let parents: Vec<_> = self.all.values().filter_map(|process| process.parent).collect();
        self.all.values_mut().for_each(|process| process.children = 0);
        for parent in parents {
            if let Some(parent) = self.all.get_mut(&parent) {
                parent.children += 1;
            }
        }
        self.owned.clear();
        for (id, process) in &self.all {
            if let Some(spot @ (Spot::Placed(..) | Spot::Waiting(..))) = &process.place {
                *self.owned.entry(spot.owner(*id)).or_default() += 1;
            }
        }
        // Those that are gone and have no children any more.
        let gone: Vec<_> = self.all.iter().filter(|(_, process)| process.gone).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.remove(id));
        (before - self.all.len()) as u64
    }
}

impl Process {
    /// Its span; nothing where it has none, or none that is decided.
    fn run(&self, id: ProcessId, at: Timestamp, exit: Option<Exit>) -> Option<Finished> {
        let Some(Spot::Placed(place, cause, owner)) = &self.place else { return None };
        let run = Run {
            // A copy: what is held is accounted for when the process is removed.
            program: self.program.clone(),
            start: self.start,
            end: at,
            exit,
            parent: self.parent.map(|parent| parent.tgid),
            cause: *cause,
        };
        Some(Finished { process: id, owner: *owner, place: place.clone(), what: What::Run(Box::new(run)) })
    }
}
