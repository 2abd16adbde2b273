//! Turns of agents: which calls and tools belong to each, and what each hangs on.

use super::command::Arguments;
use super::processes::{Cause, Processes};
use super::{Counters, ExchangeId, Finished, Ids, Place, What};
use crate::capture::events::ProcessId;
use agentsight_genai::call::{Call, Outcome, Part};
use agentsight_genai::links::{Author, Fingerprint, FingerprintKey, Links, Private};
use agentsight_genai::providers::Asked;
use agentsight_genai::telemetry::{SpanContext, SpanId};
use agentsight_genai::time::Timestamp;
use serde_json::Value;
use std::collections::{HashMap, HashSet, VecDeque};

/// Real ids and names are shorter: nobody must fill our memory with others.
const LONGEST_NAME: usize = 256;

/// A turn that is finished: from a user's message to the answer that asks for no tool.
#[derive(Debug)]
pub struct Turn {
    /// The provider of its first call.
    pub provider: &'static str,
    /// The agent, where the client is one that is known.
    pub agent: Option<&'static str>,
    /// The conversation's real id.
    pub conversation: Option<String>,
    /// The model of all its calls, where it is one.
    pub model: Option<String>,
    /// All input tokens.
    pub input_tokens: Option<i64>,
    /// All output tokens.
    pub output_tokens: Option<i64>,
    /// How many calls it made.
    pub calls: u32,
    /// `error.type` of its last call, where that failed.
    pub error: Option<String>,
    /// The first byte of its first request.
    pub start: Timestamp,
    /// The last byte of its last response, or what ended it.
    pub end: Timestamp,
    /// How it ended.
    pub ended: Ended,
}

/// How a turn ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// By an answer that asks for no tool.
    Answered,
    /// By a user's message that came before the answer.
    Superseded,
    /// The process ended.
    Process,
    /// Nothing was heard of it for long.
    Idle,
    /// It goes on, but was to be told by now.
    Overlong,
    /// Its place was needed.
    Evicted,
    /// The tracing ended before it.
    Tracing,
}

impl Ended {
    /// As it is told.
    pub fn name(self) -> &'static str {
        match self {
            Ended::Answered => "answered",
            Ended::Superseded => "superseded",
            Ended::Process => "process_exit",
            Ended::Idle => "idle",
            Ended::Overlong => "overlong",
            Ended::Evicted => "evicted",
            Ended::Tracing => "tracing_end",
        }
    }
}

/// A tool call that is finished: from the response that asks for it to the request that brings its result.
#[derive(Debug)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The call's id.
    pub id: Option<String>,
    /// The conversation's real id.
    pub conversation: Option<String>,
    /// What it was called with: content.
    pub arguments: Private,
    /// It was called with more than is held.
    pub cut: bool,
    /// The result: content, and there only where content was kept.
    pub result: Option<Value>,
    /// The response that asked for it was whole.
    pub start: Timestamp,
    /// The first byte of the request that brings its result.
    pub end: Timestamp,
    /// How it ended.
    pub ended: ToolEnd,
}

/// How a tool call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToolEnd {
    /// With a result.
    Result,
    /// With a result that the client calls a failure.
    Failed,
    /// No result was seen.
    Unanswered,
}

/// What can have run a process.
pub(super) enum Candidates {
    /// This tool, and why.
    Tool(SpanContext, Cause),
    /// The turn, and why no tool.
    Turn(SpanContext, Cause),
    /// The turn; which tools it asks for is not known yet.
    Open(SpanContext),
    /// More than one turn, and nothing tells which.
    Several,
    /// The process has no turn.
    None,
}

/// All that are under way, and what their continuations are known by.
pub(super) struct Turns {
    key: FingerprintKey,
    live: HashMap<SpanId, Live>,
    by_process: HashMap<ProcessId, Vec<SpanId>>,
    /// Tools that are asked for and not answered, by scope and id of the tool call.
    by_tool: HashMap<(u64, String), SpanId>,
    /// The last calls, by all their messages.
    by_history: HashMap<(u64, Fingerprint), Vec<Tail>>,
    /// The last calls, by the id of their response.
    by_response: HashMap<(u64, String), Tail>,
    /// In the order in which they came, to forget the oldest.
    order: VecDeque<Known>,
    in_flight: HashMap<ExchangeId, Flight>,
    memory: usize,
}

/// The end of a conversation, as far as it was seen.
#[derive(Clone, PartialEq, Debug)]
struct Tail {
    turn: SpanId,
    process: ProcessId,
    conversation: Option<String>,
    /// It has no answer: the same request may come again.
    failed: bool,
}

enum Known {
    History(u64, Fingerprint),
    Response(u64, String),
}

struct Flight {
    turn: Option<SpanId>,
    start: Timestamp,
}

struct Live {
    place: Place,
    process: ProcessId,
    scope: u64,
    facts: Turn,
    models: HashSet<String>,
    /// The client's own name for the agent, and the session that it is in.
    agent_id: Option<String>,
    session: Option<String>,
    in_flight: u32,
    tools: Vec<Asking>,
    /// Processes that wait for the response.
    waiting: Vec<ProcessId>,
    /// Something hangs on it, so that it must be told even if no call of it ever ends.
    used: bool,
    memory: usize,
}

/// A tool that is asked for.
struct Asking {
    facts: Tool,
    span: SpanId,
    arguments: Arguments,
    state: State,
    /// Spans hang on it, so that it must be told even if no result is seen.
    used: bool,
    memory: usize,
}

#[derive(PartialEq)]
enum State {
    Running,
    /// Its result is in this request, whose call is not there yet.
    Answered(ExchangeId),
}

impl Turns {
    /// Ends of conversations that are remembered.
    const REMEMBERED: usize = 16_384;
    /// Requests under way.
    const IN_FLIGHT: usize = 65_536;
    /// Processes of one turn that wait for a response; more hang on the turn.
    const WAITING: usize = 4096;

    pub(super) fn new(key: FingerprintKey) -> Turns {
        Turns {
            key,
            live: HashMap::new(),
            by_process: HashMap::new(),
            by_tool: HashMap::new(),
            by_history: HashMap::new(),
            by_response: HashMap::new(),
            order: VecDeque::new(),
            in_flight: HashMap::new(),
            memory: 0,
        }
    }

    /// Joins a request. The turns that it puts an end to.
    pub(super) fn asked(
        &mut self,
        id: ExchangeId,
        asked: &Asked,
        processes: &Processes,
        ids: &mut Ids,
        counters: &mut Counters,
    ) -> Vec<SpanId> {
        if self.in_flight.len() >= Self::IN_FLIGHT {
            counters.unjoined_requests += 1;
            return Vec::new();
        }
        let scope = processes.scope(id.process);
        let links = &asked.links;
        let mut superseded = Vec::new();
        let mut turn = self.by_results(scope, links);
        let mut conversation = links.client.session.clone();
        if turn.is_none() {
            let (tail, grown) = self.tail(scope, id.process, links, counters);
            if let Some(tail) = tail {
                conversation = conversation.or_else(|| tail.conversation.clone());
                let live = self.live.contains_key(&tail.turn);
                match grown {
                    // The same again after a failure, or results without ids.
                    Grown::Same if tail.failed && live => turn = Some(tail.turn),
                    Grown::Results if live => turn = Some(tail.turn),
                    Grown::User | Grown::Results if live => superseded.push(tail.turn),
                    _ => {}
                }
            }
        }
        if turn.is_none() && links.offers_tools {
            let place = ids.place(self.parent(id.process, scope, asked, processes));
            counters.turns += 1;
            turn = Some(place.span_id);
            self.begin(id.process, scope, asked, place, conversation);
        }
        if let Some(live) = turn.and_then(|turn| self.live.get_mut(&turn)) {
            live.in_flight += 1;
            live.facts.end = live.facts.end.max(asked.start);
            // The conversation may go on in another process.
            for tool in &mut live.tools {
                let answer =
                    tool.facts.id.as_ref().and_then(|id| links.results.iter().rfind(|r| r.id == *id));
                let without_id = tool.facts.id.is_none() && !links.history.last.is_empty();
                if tool.state == State::Running && (answer.is_some() || without_id) {
                    tool.state = State::Answered(id);
                    tool.facts.end = asked.start.max(tool.facts.start);
                    tool.facts.ended = match answer {
                        Some(result) if result.failed => ToolEnd::Failed,
                        _ => ToolEnd::Result,
                    };
                }
            }
        }
        self.in_flight.insert(id, Flight { turn, start: asked.start });
        superseded
    }

    /// The turn that one of the results is for: the latest result that a running tool waits for decides.
    fn by_results(&self, scope: u64, links: &Links) -> Option<SpanId> {
        let mut results = links.results.iter().rev();
        results.find_map(|result| self.by_tool.get(&(scope, result.id.clone()))).copied()
    }

    /// The end of the conversation that a request continues, and what it adds.
    fn tail(
        &self,
        scope: u64,
        process: ProcessId,
        links: &Links,
        counters: &mut Counters,
    ) -> (Option<&Tail>, Grown) {
        let messages = &links.history.last;
        let grown = |added: &[agentsight_genai::links::Message]| {
            let has = |author| added.iter().any(|message| message.author == author);
            match (has(Author::User), has(Author::Tool)) {
                (_, true) => Grown::Results,
                (true, false) => Grown::User,
                (false, false) if added.is_empty() => Grown::Same,
                (false, false) => Grown::Other,
            }
        };
        if let Some(previous) = &links.previous_response_id
            && let Some(tail) = self.by_response.get(&(scope, previous.clone()))
        {
            return (Some(tail), grown(messages));
        }
        for (at, message) in messages.iter().enumerate().rev() {
            let Some(tails) = self.by_history.get(&(scope, message.prefix)) else { continue };
            let added = grown(&messages[at + 1..]);
            let own = |tail: &&Tail| tail.process == process;
            let mut fitting: Vec<&Tail> = tails.iter().filter(own).collect();
            if fitting.is_empty() {
                fitting = tails.iter().collect();
            }
            if added == Grown::Same {
                // Only what failed is tried again, by who tried it; what was answered is asked anew.
                fitting.retain(|tail| tail.failed && own(tail));
            }
            return match fitting[..] {
                [one] => (Some(one), added),
                [] => (None, added),
                _ => {
                    counters.ambiguous_requests += 1;
                    (None, added)
                }
            };
        }
        (None, Grown::Other)
    }

    /// What a new turn hangs on.
    fn parent(
        &mut self,
        process: ProcessId,
        scope: u64,
        asked: &Asked,
        processes: &Processes,
    ) -> Option<SpanContext> {
        if asked.parent.is_some() {
            return asked.parent.clone();
        }
        self.started_by(process, scope, &asked.links).or_else(|| processes.nearest(process))
    }

    /// The tool, or at least the turn, that started a sub-agent in the same process.
    fn started_by(&mut self, process: ProcessId, scope: u64, links: &Links) -> Option<SpanContext> {
        let client = &links.client;
        let turns = self.by_process.get(&process)?.clone();
        let mut running: Vec<(SpanId, usize, bool)> = Vec::new();
        for turn in turns {
            let Some(live) = self.live.get(&turn) else { continue };
            // A session that was started by another hangs on that one; an agent on its session's.
            let may = live.scope == scope
                && client.parent.as_ref().is_none_or(|parent| live.session.as_ref() == Some(parent))
                && (client.agent.is_none() || live.session == client.session)
                && (client.agent.is_none() || live.agent_id != client.agent);
            if may {
                let tools = live.tools.iter().enumerate();
                let tools = tools.filter(|(_, tool)| tool.state == State::Running);
                running.extend(
                    tools.map(|(at, tool)| (turn, at, tool.arguments.has_text(&links.history.user_texts))),
                );
            }
        }
        let proved: Vec<_> = running.iter().filter(|(.., proved)| *proved).collect();
        let found = match (&proved[..], &running[..]) {
            ([one], _) => Some(*one),
            ([], [one]) if client.is_sub_agent() => Some(one),
            _ => None,
        };
        if let Some(&(turn, at, _)) = found {
            let live = self.live.get_mut(&turn)?;
            live.tools[at].used = true;
            return Some(live.tool_context(at));
        }
        // Some tool of this turn, but which?
        let (first, ..) = *running.first()?;
        let one_turn = running.iter().all(|(turn, ..)| *turn == first);
        let sub_agent = !proved.is_empty() || client.is_sub_agent();
        (one_turn && sub_agent).then(|| self.live.get(&first).map(|live| live.place.context())).flatten()
    }

    fn begin(
        &mut self,
        process: ProcessId,
        scope: u64,
        asked: &Asked,
        place: Place,
        conversation: Option<String>,
    ) {
        let client = &asked.links.client;
        let live = Live {
            process,
            scope,
            facts: Turn {
                provider: "",
                agent: client.product,
                conversation,
                model: None,
                input_tokens: None,
                output_tokens: None,
                calls: 0,
                error: None,
                start: asked.start,
                end: asked.start,
                ended: Ended::Answered,
            },
            models: HashSet::new(),
            agent_id: client.agent.clone(),
            session: client.session.clone(),
            in_flight: 0,
            tools: Vec::new(),
            waiting: Vec::new(),
            used: false,
            memory: size_of::<Live>(),
            place,
        };
        self.memory += live.memory;
        self.by_process.entry(process).or_default().push(live.place.span_id);
        self.live.insert(live.place.span_id, live);
    }

    pub(super) fn knows(&self, id: ExchangeId) -> bool {
        self.in_flight.contains_key(&id)
    }

    /// Takes a call: its place, its turn and whether that is over, and the tools whose results it brought.
    #[allow(clippy::type_complexity, reason = "three answers to one question")]
    pub(super) fn call(
        &mut self,
        id: ExchangeId,
        call: &Call,
        processes: &Processes,
        ids: &mut Ids,
    ) -> (Place, Option<(SpanId, bool)>, Vec<Finished>) {
        let flight = self.in_flight.remove(&id);
        let turn = flight.and_then(|flight| flight.turn);
        let scope = processes.scope(id.process);
        let Some(live) = turn.and_then(|turn| self.live.get_mut(&turn)) else {
            let parent = call.parent.clone().or_else(|| processes.nearest(id.process));
            return (ids.place(parent), None, Vec::new());
        };
        // What the application traces by itself is nearer than ours.
        let place = ids.place(Some(call.parent.clone().unwrap_or_else(|| live.place.context())));
        live.add(call);
        let mut freed = 0;

        let mut tools = Vec::new();
        for at in (0..live.tools.len()).rev() {
            if live.tools[at].state == State::Answered(id) {
                let mut tool = live.tools.remove(at);
                freed += tool.memory;
                tool.facts.result = result_of(call, tool.facts.id.as_deref());
                if let Some(id) = &tool.facts.id {
                    self.by_tool.remove(&(live.scope, id.clone()));
                }
                tools.push(live.finished(tool));
            }
        }
        tools.reverse();
        live.memory = live.memory.saturating_sub(freed);
        self.memory = self.memory.saturating_sub(freed);

        let complete = call.outcome == Outcome::Complete;
        if complete {
            for ask in &call.links.asks {
                let arguments = Arguments::new(ask.arguments.reveal(), self.key);
                let held =
                    [&Some(ask.name.clone()), &ask.id].into_iter().flatten().map(String::len).sum::<usize>();
                let memory =
                    arguments.memory() + ask.arguments.reveal().len() + 2 * held + size_of::<Asking>();
                let tool = Asking {
                    arguments,
                    span: ids.span(),
                    memory,
                    state: State::Running,
                    used: false,
                    facts: Tool {
                        name: ask.name.clone(),
                        id: ask.id.clone(),
                        conversation: live.facts.conversation.clone(),
                        arguments: ask.arguments.clone(),
                        cut: ask.cut,
                        result: None,
                        start: call.timing.end,
                        end: call.timing.end,
                        ended: ToolEnd::Unanswered,
                    },
                };
                live.memory += memory;
                self.memory += memory;
                if let Some(id) = &ask.id {
                    self.by_tool.insert((live.scope, id.clone()), live.place.span_id);
                }
                live.tools.push(tool);
            }
        }
        // Anthropic's pause is no end: the client sends what it got, and the model goes on.
        let paused = call.response.finish_reasons.iter().flatten().any(|reason| reason == "pause_turn");
        let answered = complete && !paused && live.tools.is_empty() && live.in_flight == 0;
        let tail = Tail {
            turn: live.place.span_id,
            process: id.process,
            conversation: live.facts.conversation.clone(),
            failed: !complete,
        };
        let turn = live.place.span_id;
        self.remember(scope, call, tail);
        (place, Some((turn, answered)), tools)
    }

    fn remember(&mut self, scope: u64, call: &Call, tail: Tail) {
        if let Some(message) = call.links.history.last.last() {
            let tails = self.by_history.entry((scope, message.prefix)).or_default();
            // A second try of the same request stands for the first.
            tails.retain(|known| known.turn != tail.turn);
            // More alike are not told apart anyway.
            const ALIKE: usize = 8;
            if tails.len() < ALIKE {
                tails.push(tail.clone());
            }
            self.order.push_back(Known::History(scope, message.prefix));
        }
        if let Some(id) = call.response.id.as_ref().filter(|id| id.len() <= LONGEST_NAME) {
            self.by_response.insert((scope, id.clone()), tail);
            self.order.push_back(Known::Response(scope, id.clone()));
        }
        while self.order.len() > Self::REMEMBERED {
            match self.order.pop_front() {
                Some(Known::History(scope, prefix)) => drop(self.by_history.remove(&(scope, prefix))),
                Some(Known::Response(scope, id)) => drop(self.by_response.remove(&(scope, id))),
                None => {}
            }
        }
    }

    /// What was asked is no call after all: the turn that began with it, if nothing else is of it.
    pub(super) fn no_call(&mut self, id: ExchangeId) -> Option<SpanId> {
        let turn = self.in_flight.remove(&id)?.turn?;
        let live = self.live.get_mut(&turn)?;
        live.in_flight = live.in_flight.saturating_sub(1);
        (live.in_flight == 0 && live.facts.calls == 0).then_some(turn)
    }

    pub(super) fn closed(&mut self, process: ProcessId, connection: u64) {
        let live = &mut self.live;
        self.in_flight.retain(|id, flight| {
            let gone = id.process == process && id.connection == connection;
            if let (true, Some(live)) = (gone, flight.turn.and_then(|turn| live.get_mut(&turn))) {
                live.in_flight = live.in_flight.saturating_sub(1);
            }
            !gone
        });
    }

    /// What can have run a child of this process, at that time.
    pub(super) fn candidates(&mut self, process: ProcessId, at: Timestamp, said: Option<&str>) -> Candidates {
        let Some(turns) = self.by_process.get(&process).cloned() else { return Candidates::None };
        match self.fitting(&turns, said) {
            Fitting::One(turn, tool, cause) => {
                if let Some(live) = self.live.get_mut(&turn) {
                    live.tools[tool].used = true;
                    return Candidates::Tool(live.tool_context(tool), cause);
                }
                Candidates::None
            }
            Fitting::Several => match turns[..] {
                [turn] => self.on_turn(turn, Cause::Ambiguous),
                _ => Candidates::Several,
            },
            Fitting::None => match turns[..] {
                [turn] => match self.live.get(&turn) {
                    // A client may run a tool before the response that asks for it is whole.
                    Some(live)
                        if live.in_flight > 0
                            && live.waiting.len() < Self::WAITING
                            && self.is_asking(turn, at) =>
                    {
                        Candidates::Open(live.place.context())
                    }
                    _ => self.on_turn(turn, Cause::Turn),
                },
                _ => Candidates::Several,
            },
        }
    }

    fn is_asking(&self, turn: SpanId, at: Timestamp) -> bool {
        self.in_flight.values().any(|flight| flight.turn == Some(turn) && flight.start <= at)
    }

    fn on_turn(&mut self, turn: SpanId, cause: Cause) -> Candidates {
        let Some(live) = self.live.get_mut(&turn) else { return Candidates::None };
        live.used = true;
        Candidates::Turn(live.place.context(), cause)
    }

    /// The tool among those that run that fits what a process says of itself.
    fn fitting(&self, turns: &[SpanId], said: Option<&str>) -> Fitting {
        let mut running = Vec::new();
        for turn in turns {
            let Some(live) = self.live.get(turn) else { continue };
            let tools = live.tools.iter().enumerate();
            running.extend(
                tools.filter(|(_, tool)| tool.state == State::Running).map(|(at, tool)| (*turn, at, tool)),
            );
        }
        if let Some(said) = said {
            let matches = running.iter().map(|(.., tool)| tool.arguments.matches(said)).collect::<Vec<_>>();
            let most = matches.iter().copied().max().unwrap_or(0);
            if most > 0 {
                let mut best = running.iter().zip(&matches).filter(|(_, words)| **words == most);
                return match (best.next(), best.next()) {
                    (Some(((turn, at, _), _)), None) => Fitting::One(*turn, *at, Cause::Command),
                    _ => Fitting::Several,
                };
            }
            // What a tool with a command runs would carry it.
            running.retain(|(.., tool)| !tool.arguments.has_command());
        }
        match running[..] {
            [] => Fitting::None,
            [(turn, at, _)] => Fitting::One(turn, at, Cause::Interval),
            _ => Fitting::Several,
        }
    }

    /// The tool of a turn whose command a process carries, else the turn, for one that started before the response that
    /// asks for the tool was whole.
    pub(super) fn proved(&mut self, turn: SpanId, said: Option<&str>) -> (Option<SpanContext>, Cause) {
        match self.fitting(&[turn], said) {
            Fitting::One(turn, tool, Cause::Command) => {
                let context = self.live.get_mut(&turn).map(|live| {
                    live.tools[tool].used = true;
                    live.tool_context(tool)
                });
                (context, Cause::Command)
            }
            Fitting::Several => (None, Cause::Ambiguous),
            Fitting::One(..) | Fitting::None => (None, Cause::Turn),
        }
    }

    /// The span for what an agent's process does itself: the one tool that says so, else its one turn.
    pub(super) fn inside(&self, process: ProcessId, said: &str) -> Option<SpanContext> {
        let turns = self.by_process.get(&process)?;
        let running = turns.iter().filter_map(|turn| self.live.get(turn)).flat_map(|live| {
            let tools = live.tools.iter().enumerate();
            tools.filter(|(_, tool)| tool.state == State::Running).map(move |(at, tool)| (live, at, tool))
        });
        let mut named = running.filter(|(.., tool)| tool.arguments.matches(said) > 0);
        if let (Some((live, at, _)), None) = (named.next(), named.next()) {
            return Some(live.tool_context(at));
        }
        match turns[..] {
            [turn] => self.live.get(&turn).map(|live| live.place.context()),
            _ => None,
        }
    }

    /// The running tool of a process that a server of tools knows by this name: clients put the server's name before it
    /// (`mcp__files__read_file`). None where more than one has it.
    pub(super) fn serving(&mut self, process: ProcessId, name: &str) -> Option<SpanContext> {
        let has_it = |tool: &Asking| {
            let before = tool.facts.name.strip_suffix(name);
            tool.state == State::Running
                && before.is_some_and(|before| !before.ends_with(|c: char| c.is_ascii_alphanumeric()))
        };
        let turns = self.by_process.get(&process)?;
        let mut named = turns.iter().flat_map(|turn| {
            let tools = self.live.get(turn).map_or(&[][..], |live| &live.tools).iter().enumerate();
            tools.filter(|(_, tool)| has_it(tool)).map(move |(at, _)| (*turn, at))
        });
        let (Some((turn, at)), None) = (named.next(), named.next()) else { return None };
        let live = self.live.get_mut(&turn)?;
        live.tools[at].used = true;
        live.used = true;
        Some(live.tool_context(at))
    }

    pub(super) fn wait(&mut self, turn: SpanId, process: ProcessId) {
        if let Some(live) = self.live.get_mut(&turn) {
            live.used = true;
            live.waiting.push(process);
        }
    }

    pub(super) fn take_waiting(&mut self, turn: SpanId) -> Vec<ProcessId> {
        self.live.get_mut(&turn).map(|live| std::mem::take(&mut live.waiting)).unwrap_or_default()
    }

    /// Ends a turn: its tools that have something below them, and itself.
    pub(super) fn end(&mut self, turn: SpanId, at: Option<Timestamp>, ended: Ended) -> Vec<Finished> {
        let Some(mut live) = self.live.remove(&turn) else { return Vec::new() };
        self.memory = self.memory.saturating_sub(live.memory);
        if let Some(turns) = self.by_process.get_mut(&live.process) {
            turns.retain(|own| *own != turn);
            if turns.is_empty() {
                self.by_process.remove(&live.process);
            }
        }
        live.facts.ended = ended;
        live.facts.end = live.facts.end.max(at.unwrap_or_default());
        let mut finished = Vec::new();
        for mut tool in std::mem::take(&mut live.tools) {
            if let Some(id) = &tool.facts.id {
                self.by_tool.remove(&(live.scope, id.clone()));
            }
            // Nothing shows that a tool ran which brought no result and started nothing.
            if tool.used || tool.facts.ended != ToolEnd::Unanswered {
                tool.facts.end = tool.facts.end.max(live.facts.end);
                finished.push(live.finished(tool));
            }
        }
        let Live { place, process, mut facts, models, used, .. } = live;
        // A request that offers tools and is no call after all: its answer did not have the format.
        if facts.calls == 0 && !used && finished.is_empty() {
            return finished;
        }
        let mut models = models.into_iter();
        facts.model = models.next().filter(|model| models.next().is_none() && !model.is_empty());
        if ended == Ended::Answered {
            facts.error = None;
        }
        finished.push(Finished { process, owner: process, place, what: What::Turn(Box::new(facts)) });
        finished
    }

    pub(super) fn of_process(&self, process: ProcessId) -> Vec<SpanId> {
        self.by_process.get(&process).cloned().unwrap_or_default()
    }

    pub(super) fn has_turns(&self, process: ProcessId) -> bool {
        self.by_process.contains_key(&process)
    }

    /// Turns of which nothing was heard since then.
    pub(super) fn idle_since(&self, then: u64) -> Vec<SpanId> {
        self.those(|live| live.facts.end.0 <= then && live.in_flight == 0)
    }

    /// Turns that began by then.
    pub(super) fn begun_before(&self, then: u64) -> Vec<SpanId> {
        self.those(|live| live.facts.start.0 <= then)
    }

    fn those(&self, which: impl Fn(&Live) -> bool) -> Vec<SpanId> {
        let those = self.live.iter().filter(|(_, live)| which(live));
        // In their order, so that the same input gives the same output.
        let mut those: Vec<_> =
            those.map(|(id, live)| (live.facts.start, live.place.span_id.0, *id)).collect();
        those.sort_unstable_by_key(|(start, id, _)| (std::cmp::Reverse(*start), *id));
        those.into_iter().map(|(.., id)| id).collect()
    }

    pub(super) fn oldest(&self) -> Option<SpanId> {
        self.live.iter().min_by_key(|(_, live)| (live.facts.end, live.place.span_id.0)).map(|(id, _)| *id)
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn memory(&self) -> usize {
        self.memory
    }
}

/// What a request has beyond the conversation that it continues.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grown {
    /// Nothing.
    Same,
    /// A user's message, and no result of a tool.
    User,
    /// Results of tools.
    Results,
    /// Something else.
    Other,
}

enum Fitting {
    One(SpanId, usize, Cause),
    Several,
    None,
}

impl Live {
    fn tool_context(&self, tool: usize) -> SpanContext {
        SpanContext { span_id: self.tools[tool].span, ..self.place.context() }
    }

    fn add(&mut self, call: &Call) {
        let facts = &mut self.facts;
        self.in_flight = self.in_flight.saturating_sub(1);
        facts.calls += 1;
        if facts.provider.is_empty() {
            facts.provider = call.provider;
        }
        let short = |text: &&String| text.len() <= LONGEST_NAME;
        let conversation = call.request.conversation_id.as_ref().filter(short);
        facts.conversation = facts.conversation.take().or_else(|| conversation.cloned());
        facts.end = facts.end.max(call.timing.end);
        let error = agentsight_genai::semconv::error_type(call);
        facts.error = error.map(|error| if short(&&error) { error } else { "_OTHER".to_owned() });
        if let Some(model) = &call.request.model {
            // Beyond two it is not one. One that is too long is none that can be told.
            if self.models.len() < 2 {
                self.models.insert(Some(model).filter(short).cloned().unwrap_or_default());
            }
        }
        let add = |sum: &mut Option<i64>, count: Option<i64>| {
            if let Some(count) = count {
                *sum = Some(sum.unwrap_or(0).saturating_add(count));
            }
        };
        add(&mut facts.input_tokens, call.response.usage.input);
        add(&mut facts.output_tokens, call.response.usage.output);
    }

    fn finished(&self, tool: Asking) -> Finished {
        let place = Place { span_id: tool.span, parent: Some(self.place.context()), ..self.place.clone() };
        let what = What::Tool(Box::new(tool.facts));
        Finished { process: self.process, owner: self.process, place, what }
    }
}

/// The result of a tool in a request whose content was kept.
fn result_of(call: &Call, id: Option<&str>) -> Option<Value> {
    let parts =
        call.request.content.as_ref()?.messages.iter().rev().flat_map(|message| message.parts.iter().rev());
    parts.into_iter().find_map(|part| match part {
        Part::ToolCallResponse { id: own, response } if own.as_deref() == id => Some(response.clone()),
        _ => None,
    })
}
