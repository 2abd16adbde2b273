//! Joins what the model said with what the system did: calls become turns, tool calls become spans, and processes hang
//! on the tool that ran them.
//!
//! Pure: no clock, no input or output; time, calls and process events are arguments, and what is finished is taken
//! away. Ids are given out before a span ends, so that what happens below it can leave first.
//!
//! # What is joined by what
//! - A request continues a turn if it brings the result of a tool that the turn asked for, by the tool call's id; else
//!   if its messages begin with those of the turn's last call; else if it names the id of its last response.
//! - A user's message that follows starts another turn. A request that offers no tools and continues nothing is no
//!   agent's: its call is no turn.
//! - A turn is a sub-agent's if its prompt stands in the arguments of a tool that is running, or if the client says so
//!   and one tool alone can have started it.
//! - A process is the tool's if the tool's command stands in its arguments; else if there is no other tool that it can
//!   belong to, and the tool has no command that would have to stand there. Two that are alike are not told apart: the
//!   process hangs on the turn, and says so ([`Cause::Ambiguous`]).
//! - What a process starts is below the process, also when the process has ended before.
//! - A call hangs on the span that its request names (`traceparent`), else on its turn; a turn on the span that its first
//!   request names.

pub mod command;
mod processes;
pub mod spans;
mod turns;

#[cfg(test)]
mod generator;
#[cfg(test)]
mod tests;

pub use processes::{Cause, Exit, Program, Run};
pub use turns::{Ended, Tool, ToolEnd, Turn};

use crate::capture::events::ProcessId;
use agentsight_genai::call::Call;
use agentsight_genai::links::FingerprintKey;
use agentsight_genai::providers::Asked;
use agentsight_genai::telemetry::{SpanContext, SpanId, TraceId};
use agentsight_genai::time::Timestamp;
use processes::Processes;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use turns::Turns;

/// How much is held.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Turns under way.
    pub turns: usize,
    /// Bytes of arguments of tools, and of programs: half of them each.
    pub bytes: usize,
    /// Processes.
    pub processes: usize,
    /// After how long without a sign a turn is given up, ns. A call that is under way is a sign.
    pub idle: u64,
    /// After how long a turn is told in any case, ns.
    pub age: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        // An agent that waits for its user ends its turn before; only a tool may run that long.
        const HOUR: u64 = 3_600_000_000_000;
        Limits { turns: 4096, bytes: 32 << 20, processes: 65_536, idle: HOUR, age: 24 * HOUR }
    }
}

/// The stage between decoded calls, process events and outputs.
pub struct Causality {
    ids: Ids,
    limits: Limits,
    turns: Turns,
    processes: Processes,
    finished: Vec<Finished>,
    counters: Counters,
}

/// What was joined and what was not, and why. Never reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Turns that began.
    pub turns: u64,
    /// Tool calls that are told.
    pub tools: u64,
    /// Requests that continue more than one conversation alike, and so none.
    pub ambiguous_requests: u64,
    /// Requests that were not joined, since too many are under way.
    pub unjoined_requests: u64,
    /// Processes by what they hang on: see [`Cause`], in its order.
    pub processes: [u64; 5],
    /// Turns that were given up for want of memory.
    pub evicted_turns: u64,
    /// Processes that were forgotten for want of memory.
    pub evicted_processes: u64,
}

/// A span that is finished.
#[derive(Debug)]
pub struct Finished {
    /// The process that it is about.
    pub process: ProcessId,
    /// Who did it: the agent, whose span it is. Of a program's run that is the caller, as the conventions have it.
    pub owner: ProcessId,
    /// Its trace and its own id.
    pub place: Place,
    /// What it is.
    pub what: What,
}

/// What a finished span is.
#[derive(Debug)]
pub enum What {
    /// A turn of an agent.
    Turn(Box<Turn>),
    /// A tool that a model asked for.
    Tool(Box<Tool>),
    /// A program that ran.
    Run(Box<Run>),
}

/// Where a span stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its own id.
    pub span_id: SpanId,
    /// What it hangs on.
    pub parent: Option<SpanContext>,
}

impl Place {
    /// As the parent of others.
    pub fn context(&self) -> SpanContext {
        SpanContext { trace_id: self.trace_id, span_id: self.span_id, flags: 1, state: String::new() }
    }
}

/// An exchange: the process, its connection, and the number within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExchangeId {
    /// Who asks.
    pub process: ProcessId,
    /// A number that no other open connection of the process has.
    pub connection: u64,
    /// [`agentsight_genai::links::Links::exchange`].
    pub exchange: u64,
}

impl Causality {
    /// `seed`: random, for ids; `key`: that of the calls' fingerprints; `counters`: what was counted before.
    pub fn new(limits: Limits, seed: [u8; 32], key: FingerprintKey, counters: Counters) -> Causality {
        Causality {
            ids: Ids(StdRng::from_seed(seed)),
            limits,
            turns: Turns::new(key),
            processes: Processes::default(),
            finished: Vec::new(),
            counters,
        }
    }

    /// Gives the run of a command a place that all hangs on; its own span is made elsewhere.
    pub fn root(&mut self, process: ProcessId, context: SpanContext) {
        self.processes.root(process, context);
    }

    /// Who may be joined with whom: only processes of one scope, such as a container. Children inherit it.
    pub fn scope(&mut self, process: ProcessId, scope: u64) {
        self.processes.set_scope(process, scope);
    }

    /// A process was made.
    pub fn fork(&mut self, child: ProcessId, parent: ProcessId) {
        self.processes.fork(child, parent);
        self.bound();
    }

    /// A process runs another program. `parent`: where the fork was not seen.
    pub fn exec(&mut self, process: ProcessId, parent: Option<ProcessId>, at: Timestamp, program: Program) {
        self.end_turns_of(process, at, Ended::Process);
        self.processes.exec(process, parent, at, program);
        let Causality { ids, turns, processes, counters, .. } = self;
        processes.place(process, at, turns, ids, counters);
        self.bound();
    }

    /// A process ended; its calls ended before.
    pub fn exit(&mut self, process: ProcessId, at: Timestamp, exit: Exit) {
        self.end_turns_of(process, at, Ended::Process);
        if let Some(finished) = self.processes.exit(process, at, exit) {
            self.finished.push(finished);
        }
    }

    /// A request is complete.
    pub fn asked(&mut self, id: ExchangeId, asked: &Asked) {
        let Causality { ids, turns, processes, counters, .. } = self;
        let ended = turns.asked(id, asked, processes, ids, counters);
        for turn in ended {
            self.end_turn(turn, None, Ended::Superseded);
        }
        self.bound();
    }

    /// A call is there: where its span stands.
    pub fn call(&mut self, id: ExchangeId, call: &Call) -> Place {
        if !self.turns.knows(id) {
            let asked = Asked {
                start: call.timing.start,
                parent: call.parent.clone(),
                links: agentsight_genai::links::Links { asks: Vec::new(), ..call.links.clone() },
            };
            self.asked(id, &asked);
        }
        let Causality { ids, turns, processes, .. } = self;
        let (place, turn, tools) = turns.call(id, call, processes, ids);
        self.tell(tools);
        if let Some((turn, answered)) = turn {
            self.settle_waiting(turn);
            if answered {
                self.end_turn(turn, None, Ended::Answered);
            }
        }
        place
    }

    /// Where the span of a request stands that an agent makes to serve a tool: below that tool, where one alone can have
    /// that name. `parent`: what the request names itself.
    pub fn place_of_request(
        &mut self,
        process: ProcessId,
        parent: Option<SpanContext>,
        tool: Option<&str>,
    ) -> Place {
        let parent =
            parent.or_else(|| self.turns.serving(process, tool?)).or_else(|| self.context(process, ""));
        self.ids.place(parent)
    }

    /// What was asked is no call after all.
    pub fn no_call(&mut self, id: ExchangeId) {
        if let Some(turn) = self.turns.no_call(id) {
            self.end_turn(turn, None, Ended::Answered);
        }
    }

    /// A connection ended; what was asked on it and did not become a call never will.
    pub fn closed(&mut self, process: ProcessId, connection: u64) {
        self.turns.closed(process, connection);
    }

    /// Whether spans are still to come that a process did.
    pub fn owns(&self, process: ProcessId) -> bool {
        self.processes.owns(process) || self.turns.has_turns(process)
    }

    /// The span of a process, or of the nearest one above it that has one.
    pub fn nearest(&self, process: ProcessId) -> Option<SpanContext> {
        self.processes.nearest(process)
    }

    /// The span that an event of a process belongs to. `said`: what of the event may stand in a tool's arguments, such
    /// as a path, for processes that run tools inside themselves.
    pub fn context(&self, process: ProcessId, said: &str) -> Option<SpanContext> {
        self.processes.context(process, said, &self.turns)
    }

    /// Time has passed.
    pub fn idle(&mut self, now: Timestamp) {
        for turn in self.turns.idle_since(now.0.saturating_sub(self.limits.idle)) {
            self.end_turn(turn, None, Ended::Idle);
        }
        for turn in self.turns.begun_before(now.0.saturating_sub(self.limits.age)) {
            self.end_turn(turn, Some(now), Ended::Overlong);
        }
    }

    /// Nothing more will come: what is under way is told as it stands.
    pub fn finish(&mut self, now: Timestamp) {
        for turn in self.turns.begun_before(u64::MAX) {
            self.end_turn(turn, None, Ended::Tracing);
        }
        self.finished.extend(self.processes.finish(now));
    }

    /// Turns that are under way.
    pub fn open_turns(&self) -> usize {
        self.turns.len()
    }

    /// Bytes that are held, about.
    pub fn memory(&self) -> usize {
        self.turns.memory() + self.processes.memory()
    }

    /// What is finished since the last time.
    pub fn take(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// What was joined and what was not.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn end_turns_of(&mut self, process: ProcessId, at: Timestamp, ended: Ended) {
        for turn in self.turns.of_process(process) {
            self.end_turn(turn, Some(at), ended);
        }
    }

    fn end_turn(&mut self, turn: SpanId, at: Option<Timestamp>, ended: Ended) {
        self.settle_waiting(turn);
        let finished = self.turns.end(turn, at, ended);
        self.tell(finished);
    }

    fn tell(&mut self, finished: Vec<Finished>) {
        let tools = finished.iter().filter(|finished| matches!(finished.what, What::Tool(_))).count();
        self.counters.tools += tools as u64;
        self.finished.extend(finished);
    }

    /// Decides on the processes that started, or even ended, before it was known what tools a response asks for.
    fn settle_waiting(&mut self, turn: SpanId) {
        let waiting = self.turns.take_waiting(turn);
        for process in waiting {
            let Causality { turns, processes, counters, .. } = self;
            if let Some(finished) = processes.settle(process, turn, turns, counters) {
                self.finished.push(finished);
            }
        }
    }

    fn bound(&mut self) {
        let half = self.limits.bytes / 2;
        while self.turns.len() > self.limits.turns || (self.turns.len() > 1 && self.turns.memory() > half) {
            let Some(oldest) = self.turns.oldest() else { break };
            self.counters.evicted_turns += 1;
            self.end_turn(oldest, None, Ended::Evicted);
        }
        self.counters.evicted_processes += self.processes.bound(self.limits.processes, half);
    }
}

/// Ids of spans and traces.
pub struct Ids(StdRng);

impl Ids {
    /// A span's id, never all zero.
    pub fn span(&mut self) -> SpanId {
        loop {
            let id = self.0.next_u64();
            if id != 0 {
                return SpanId(id.to_be_bytes());
            }
        }
    }

    /// A trace's id, never all zero.
    pub fn trace(&mut self) -> TraceId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.span().0);
        id[8..].copy_from_slice(&self.span().0);
        TraceId(id)
    }

    /// A place below another, or of its own.
    pub fn place(&mut self, parent: Option<SpanContext>) -> Place {
        let trace_id = parent.as_ref().map_or_else(|| self.trace(), |parent| parent.trace_id);
        Place { trace_id, span_id: self.span(), parent }
    }
}
