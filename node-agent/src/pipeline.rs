//! From events to telemetry: who made which connection, what it carried, and the spans that this becomes.

use crate::capture::events::{Batch, Carrier, ConnectionId, Event, ProcessId, What};
use crate::causality::{self, Causality, ExchangeId, Exit, Place, Program, spans};
use crate::clock::{self, Clock};
use crate::held::Held;
use crate::policy::{ExporterId, Policy, Subjects};
use crate::resource::{Item, Signal};
use crate::sightings::{self, Sighting, Sign, Witness, is_encrypted};
use crate::twins::{self, Twins};
use agentsight_genai::call::{Call, Outcome};
use agentsight_genai::connection::{self, Chunk, Connection, Limits, Protocol};
use agentsight_genai::http::{Direction, End};
use agentsight_genai::links::FingerprintKey;
use agentsight_genai::mcp::{McpCall, Target};
use agentsight_genai::providers::{
    self, Found, Heard, Mailbox, McpSessions, Models, Scheme, UnknownEndpoint,
};
use agentsight_genai::semconv;
use agentsight_genai::stdio::Dialogue;
use agentsight_genai::telemetry::{
    Attributes, Event as LogEvent, Span, SpanContext, SpanId, SpanKind, Status, TraceId, Value,
};
use agentsight_genai::time::Timestamp;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What holds for all processes; what is made of a process' calls, its [`Policy`] says.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Memory that all connections together may hold, in bytes; the ones idle longest give way.
    pub max_memory: usize,
    /// The process whose whole run is a span that calls hang on.
    pub root: Option<u32>,
}

/// Memory of all connections by default: 16 answers at the content limit, and thousands of ordinary calls.
pub const DEFAULT_MAX_MEMORY: usize = 256 << 20;

/// Processes that are remembered: the kernel's default limit of process ids is half of it.
const MOST_PROCESSES: usize = 65_536;

/// Unknown endpoints that are named; further ones are only counted.
const NAMED_ENDPOINTS: usize = 64;

/// How long telemetry waits for what is about to be known of its process, ns of CLOCK_MONOTONIC.
const PATIENCE: u64 = 3_000_000_000;

/// Pieces of telemetry that may wait so; beyond it the oldest leave as they are.
const MOST_WAITING: usize = 4096;

/// Between two looks at telemetry that waits.
const SOON: Duration = Duration::from_millis(100);

/// Between two looks at turns of which nothing is heard any more.
const NOW_AND_THEN: Duration = Duration::from_secs(10);

/// The stage between capture and export. It has no threads and no clock of its own.
pub struct Pipeline<S: Subjects, F: FnMut(&ExporterId, Item)> {
    settings: Settings,
    subjects: S,
    clock: Clock,
    /// Of the last event or tick, CLOCK_MONOTONIC, ns.
    now: u64,
    connections: HashMap<(ProcessId, u64), Open>,
    held: Held,
    processes: HashMap<ProcessId, Process<S::Facts>>,
    waiting: VecDeque<Waiting<S::Facts>>,
    /// The last process of each id.
    by_tgid: HashMap<u32, ProcessId>,
    root: Option<Root>,
    causality: Causality,
    /// What the history of calls is known by: no two runs of the agent have the same.
    key: FingerprintKey,
    /// When turns were looked at last, CLOCK_MONOTONIC, ns.
    looked: u64,
    /// Calls that may be seen twice.
    twins: Twins,
    /// Told what speaks for and against probes.
    witness: Option<Witness>,
    memory: usize,
    stats: Stats,
    shared: Arc<Mutex<Stats>>,
    out: F,
}

/// A connection of which something is held.
struct Open {
    id: ConnectionId,
    reader: Reader,
    /// Where requests of models lie as soon as they are complete: their responses may take long.
    mailbox: Mailbox,
    /// As counted when it was last touched.
    memory: usize,
    /// CLOCK_MONOTONIC, ns.
    touched: u64,
    /// What of its counters is already in the statistics.
    counted: connection::Counters,
    /// What it was found to carry; none where it is no HTTP.
    protocol: Option<Protocol>,
    /// What was written on it first was looked at.
    looked_at: bool,
    /// It goes without TLS.
    plain: bool,
}

/// What reads a connection.
enum Reader {
    Http(Box<Connection<Models>>),
    Mcp(Box<Dialogue>),
}

impl Reader {
    fn chunk(&mut self, chunk: Chunk<'_>, found: &mut Vec<Found>) {
        match self {
            Reader::Http(connection) => connection.chunk(chunk, &mut |output| found.push(output)),
            Reader::Mcp(dialogue) => {
                dialogue.chunk(chunk, &mut |call| found.push(Found::Mcp(Box::new(call))));
            }
        }
    }

    fn close(self, at: Timestamp, end: End, found: &mut Vec<Found>) {
        match self {
            Reader::Http(connection) => connection.close(at, end, &mut |output| found.push(output)),
            Reader::Mcp(dialogue) => {
                dialogue.close(at, end, &mut |call| found.push(Found::Mcp(Box::new(call))));
            }
        }
    }

    fn set_settings(&mut self, settings: Arc<providers::Settings>) {
        match self {
            Reader::Http(connection) => connection.exchanges_mut().set_settings(settings),
            Reader::Mcp(dialogue) => dialogue.set_settings(settings),
        }
    }

    fn memory(&self) -> usize {
        match self {
            Reader::Http(connection) => connection.memory(),
            Reader::Mcp(dialogue) => dialogue.memory(),
        }
    }

    fn counters(&self) -> connection::Counters {
        match self {
            Reader::Http(connection) => connection.counters(),
            Reader::Mcp(dialogue) => dialogue.counters(),
        }
    }

    fn protocol(&self) -> Option<Protocol> {
        match self {
            Reader::Http(connection) => Some(connection.protocol()),
            Reader::Mcp(_) => None,
        }
    }
}

struct Process<F> {
    executable: Option<PathBuf>,
    /// The selected cgroup that it is in, where the kernel told.
    cgroup: Option<u64>,
    facts: Option<Arc<F>>,
    policy: Option<Arc<Policy>>,
    /// Of the subjects, when they were asked for the policy.
    version: Option<u64>,
    connections: HashSet<u64>,
    /// What some of them ask, and others answer.
    sessions: McpSessions,
    /// What was told of its probes.
    told: sightings::Told,
    /// It ended, and what it started goes on: that is told as its doing.
    gone: bool,
}

impl<F> Default for Process<F> {
    fn default() -> Process<F> {
        Process {
            executable: None,
            cgroup: None,
            facts: None,
            policy: None,
            version: None,
            connections: HashSet::new(),
            sessions: McpSessions::default(),
            told: sightings::Told::default(),
            gone: false,
        }
    }
}

/// Telemetry of a process of which more is about to be known.
struct Waiting<F> {
    facts: Arc<F>,
    exporter: ExporterId,
    signal: Signal,
    /// CLOCK_MONOTONIC, ns.
    until: u64,
}

/// The run of the recorded command: a span that is finished when it ends.
struct Root {
    process: Option<ProcessId>,
    context: SpanContext,
    start: u64,
}

/// What went through, and what was lost on the way. Never reset.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Events by kind.
    pub events: [u64; 8],
    /// Plaintext bytes taken, sent and received.
    pub bytes: [u64; 2],
    /// Finished calls by operation, provider and outcome.
    pub calls: BTreeMap<(&'static str, &'static str, &'static str), u64>,
    /// What was seen of each trace's processes, by its UID.
    pub traces: BTreeMap<Arc<str>, TraceStats>,
    /// Telemetry that left before all was known of its process.
    pub unsettled: u64,
    /// Events of processes that no trace selects any more.
    pub deselected: u64,
    /// Calls with something missing.
    pub truncated_calls: u64,
    /// Calls that were seen twice and told once.
    pub merged_calls: u64,
    /// Finished requests to servers of the Model Context Protocol.
    pub mcp_requests: u64,
    /// Requests that look like calls, in no known format.
    pub unknown_requests: u64,
    /// Where those went; at most 64 are named.
    pub unknown_endpoints: BTreeMap<UnknownEndpoint, u64>,
    /// Connections by what they turned out to carry.
    pub protocols: BTreeMap<&'static str, u64>,
    /// Of all connections together.
    pub streams: connection::Counters,
    /// Connections given up for want of memory.
    pub evicted: u64,
    /// Connections of which something is held.
    pub connections: usize,
    /// Memory that they hold.
    pub memory: usize,
    /// What was joined and what was not.
    pub causality: causality::Counters,
    /// Turns that are under way.
    pub turns: usize,
    /// Memory that turns, tools and processes hold.
    pub causality_memory: usize,
}

/// What was seen of the processes that one trace selects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TraceStats {
    /// Finished calls.
    pub calls: u64,
    /// Of those, calls with something missing.
    pub truncated: u64,
    /// Connections given up for want of memory.
    pub evicted: u64,
}

/// The names of [`Stats::events`].
pub const EVENT_KINDS: [&str; 8] =
    ["tls_data", "tls_closed", "fork", "exec", "exit", "container", "tls_sent", "socket_named"];

impl<S: Subjects, F: FnMut(&ExporterId, Item)> Pipeline<S, F> {
    /// Telemetry goes to `out` with the exporter that it is for, numbers to `shared` after each batch: on top of those
    /// that stand there.
    pub fn new(settings: Settings, subjects: S, shared: Arc<Mutex<Stats>>, out: F) -> Pipeline<S, F> {
        let root = settings.root.map(|_| Root {
            process: None,
            context: SpanContext {
                trace_id: new_trace(),
                span_id: new_span(),
                flags: 1,
                state: String::new(),
            },
            start: 0,
        });
        let stats = shared.lock().expect("no holder panics").clone();
        let key = FingerprintKey::new(rand::random());
        let causality = Causality::new(causality::Limits::default(), rand::random(), key, stats.causality);
        Pipeline {
            settings,
            subjects,
            clock: Clock::now(),
            now: 0,
            connections: HashMap::new(),
            held: Held::default(),
            processes: HashMap::new(),
            waiting: VecDeque::new(),
            by_tgid: HashMap::new(),
            root,
            causality,
            key,
            looked: 0,
            twins: Twins::default(),
            witness: None,
            memory: 0,
            stats,
            shared,
            out,
        }
    }

    /// Tells `witness` whether what comes from TLS libraries is plaintext.
    #[must_use]
    pub fn telling(self, witness: Witness) -> Self {
        Pipeline { witness: Some(witness), ..self }
    }

    /// Takes a batch of events.
    pub fn batch(&mut self, batch: &Batch) {
        self.clock.follow();
        for event in batch.events() {
            self.now = event.time;
            self.event(event);
        }
        self.look();
        self.settle();
        self.publish();
    }

    /// Takes batches until no more come, and finishes.
    pub fn run(mut self, batches: &Receiver<Batch>) {
        loop {
            let batch = match self.patience() {
                Some(patience) => batches.recv_timeout(patience),
                None => batches.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match batch {
                Ok(batch) => self.batch(&batch),
                Err(RecvTimeoutError::Timeout) => self.tick(clock::monotonic()),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.finish(clock::monotonic());
    }

    /// After how long [`Pipeline::tick`] is to be called where no batch comes before. Never, where nothing waits.
    pub fn patience(&self) -> Option<Duration> {
        match (self.waiting.is_empty(), self.causality.open_turns()) {
            (false, _) => Some(SOON),
            (true, 0) if !self.twins.is_waiting() => None,
            (true, _) => Some(NOW_AND_THEN),
        }
    }

    /// Lets go what has waited long enough. `now`: CLOCK_MONOTONIC, ns.
    pub fn tick(&mut self, now: u64) {
        self.now = now;
        self.look();
        self.settle();
        self.publish();
    }

    /// Ends turns of which nothing was heard for long, and forgets who ended and did nothing that goes on.
    fn look(&mut self) {
        if u128::from(self.now.saturating_sub(self.looked)) < NOW_AND_THEN.as_nanos() {
            return;
        }
        self.looked = self.now;
        let waited = self.twins.expired(self.now);
        self.tell_calls(waited);
        self.causality.idle(self.clock.at(self.now));
        self.tell();
        let causality = &self.causality;
        self.processes.retain(|id, known| !known.gone || causality.owns(*id));
    }

    /// Nothing more will come: what is open is finished as it stands.
    pub fn finish(mut self, now: u64) {
        let open: Vec<_> = self.connections.keys().copied().collect();
        for key in open {
            self.close(key, now, End::Unknown);
        }
        let waited = self.twins.finish();
        self.tell_calls(waited);
        self.causality.finish(self.clock.at(now));
        self.tell();
        self.now = u64::MAX;
        self.settle();
        self.publish();
    }

    fn publish(&mut self) {
        self.stats.connections = self.connections.len();
        self.stats.memory = self.memory;
        self.stats.causality = self.causality.counters();
        self.stats.merged_calls += self.twins.take_merged();
        self.stats.turns = self.causality.open_turns();
        self.stats.causality_memory = self.causality.memory();
        self.shared.lock().expect("no holder panics").clone_from(&self.stats);
    }

    fn event(&mut self, event: Event<'_>) {
        let Event { time, process, what } = event;
        match what {
            What::Data { connection, direction, offset, from_start, carrier, data } => {
                self.stats.events[0] += 1;
                self.stats.bytes[usize::from(direction == Direction::Received)] += data.len() as u64;
                let chunk = Chunk { direction, at: self.clock.at(time), offset, data, lost_after: 0 };
                self.data(connection, chunk, from_start, carrier, time);
            }
            What::Doubtful => {
                self.stats.events[0] += 1;
                self.sighted(process, Sign::Contradiction);
            }
            What::Held { batch, offset, data } => {
                self.stats.events[0] += 1;
                self.stats.bytes[0] += data.len() as u64;
                self.held.hold(batch, time, offset, data);
            }
            What::Sent { connection, batch, offset, length, from_start } => {
                self.stats.events[6] += 1;
                let pieces = self.held.take(batch);
                let direction = Direction::Sent;
                for piece in &pieces {
                    let at = self.clock.at(piece.time);
                    let offset = offset.saturating_add(piece.offset);
                    let chunk = Chunk { direction, at, offset, data: &piece.data, lost_after: 0 };
                    self.data(connection, chunk, from_start, Carrier::Tls, piece.time);
                }
                // What was lost at its end shows only here.
                let offset = offset.saturating_add(length);
                let chunk = Chunk { direction, at: self.clock.at(time), offset, data: &[], lost_after: 0 };
                self.data(connection, chunk, from_start, Carrier::Tls, time);
            }
            What::Named { connection, name } => {
                self.stats.events[7] += 1;
                self.open(connection, true, time, Carrier::Socket, Some(socket_name(name)));
            }
            What::Closed { connection, received, sent, end } => {
                self.stats.events[1] += 1;
                let key = (process, connection.ssl);
                if self.connections.get(&key).is_none_or(|open| open.id != connection) {
                    return;
                }
                // What was lost at the very end shows only in the totals.
                for (direction, offset) in [(Direction::Sent, sent), (Direction::Received, received)] {
                    let chunk =
                        Chunk { direction, at: self.clock.at(time), offset, data: &[], lost_after: 0 };
                    // It is open already: neither its beginning nor what carries it is asked for.
                    self.data(connection, chunk, true, Carrier::Tls, time);
                }
                self.close(key, time, end);
            }
            What::Fork { parent } => {
                self.stats.events[2] += 1;
                let parent_id = self.by_tgid.get(&parent).copied();
                let parent = parent_id.and_then(|parent| self.processes.get(&parent));
                let executable = parent.and_then(|parent| parent.executable.clone());
                let cgroup = parent.and_then(|parent| parent.cgroup);
                *self.known(process) = Process { executable, cgroup, ..Process::default() };
                if let Some(parent) = parent_id {
                    self.causality.fork(process, parent);
                }
            }
            What::Container { cgroup } => {
                self.stats.events[5] += 1;
                tracing::debug!(cgroup, pid = process.tgid, at = time, "a program in a container");
                let known = self.known(process);
                if known.cgroup != Some(cgroup) {
                    // Told before anything was read of it, but for one that was moved while it ran.
                    known.cgroup = Some(cgroup);
                    known.facts = None;
                    known.version = None;
                }
            }
            What::Exec { parent, filename, arguments, cut } => {
                self.stats.events[3] += 1;
                // The program that held the connections is gone, and their sockets with it.
                self.close_all(process, time, End::Cancelled);
                let is_root = self.settings.root == Some(process.tgid);
                if let Some(root) = self.root.as_mut().filter(|root| is_root && root.process.is_none()) {
                    root.process = Some(process);
                    root.start = time;
                    self.causality.root(process, root.context.clone());
                }
                let parent = self.by_tgid.get(&parent).copied();
                let program = program(filename, arguments, cut);
                self.causality.exec(process, parent, self.clock.at(time), program);
                // What the program before it did is told while it is known who that was.
                self.tell();
                let executable = Some(PathBuf::from(OsStr::from_bytes(filename)));
                let known = self.known(process);
                *known = Process { executable, cgroup: known.cgroup, ..Process::default() };
                if is_root && self.root.is_some() {
                    // While it is there to be asked: the span needs it when it is gone.
                    self.facts(process);
                }
                self.log(process, "agentsight.process.exec", time, Vec::new());
            }
            What::Exit { status } => {
                self.stats.events[4] += 1;
                self.close_all(process, time, End::Unknown);
                let exit = Exit::of_status(status);
                self.log(process, "agentsight.process.exit", time, exit_attributes(exit));
                self.causality.exit(process, self.clock.at(time), exit);
                self.tell();
                if self.root.as_ref().is_some_and(|root| root.process == Some(process)) {
                    self.finish_root(process, time, exit);
                }
                if self.causality.owns(process)
                    && let Some(known) = self.processes.get_mut(&process)
                {
                    known.gone = true;
                } else {
                    self.processes.remove(&process);
                }
                if self.by_tgid.get(&process.tgid) == Some(&process) {
                    self.by_tgid.remove(&process.tgid);
                }
            }
        }
    }

    /// What is known of a process, from now on at least.
    fn known(&mut self, process: ProcessId) -> &mut Process<S::Facts> {
        if self.processes.len() >= MOST_PROCESSES {
            // Their exits were lost. Those with connections end when these are given up.
            let causality = &self.causality;
            self.processes.retain(|id, known| !known.connections.is_empty() || causality.owns(*id));
            self.by_tgid.retain(|_, id| self.processes.contains_key(id));
        }
        let known = self.processes.entry(process).or_default();
        if !known.gone {
            self.by_tgid.insert(process.tgid, process);
        }
        known
    }

    fn data(&mut self, id: ConnectionId, chunk: Chunk<'_>, from_start: bool, carrier: Carrier, time: u64) {
        let key = (id.process, id.ssl);
        self.open(id, from_start, time, carrier, None);
        let Some(open) = self.connections.get_mut(&key) else { return };
        let mut found = Vec::new();
        open.reader.chunk(chunk, &mut found);
        open.touched = time;
        let memory = open.reader.memory();
        self.memory = (self.memory + memory).saturating_sub(open.memory);
        open.memory = memory;
        let protocol = open.reader.protocol();
        if protocol != open.protocol {
            open.protocol = protocol;
            *self.stats.protocols.entry(protocol.map_or("mcp_stdio", protocol_name)).or_default() += 1;
        }
        let mut sign = None;
        if !open.looked_at && chunk.direction == Direction::Sent && !chunk.data.is_empty() {
            open.looked_at = true;
            sign = protocol.and_then(|protocol| sign_of(protocol, chunk.data));
        }
        let counters = open.reader.counters();
        if counters != open.counted {
            count(&mut self.stats.streams, &counters, &open.counted);
            open.counted = counters;
        }
        let heard = std::mem::take(&mut *open.mailbox.lock().expect("no holder panics"));
        let plain = open.plain;
        if let Some(sign) = sign {
            self.sighted(id.process, sign);
        }
        for heard in heard {
            self.heard(key, &heard, plain);
        }
        for found in found {
            self.found(key, found);
        }
        // A request may have put an end to a turn.
        self.tell();
        if self.memory > self.settings.max_memory {
            self.evict(time);
        }
    }

    /// Sees to it that the connection is there, but for that of a process of which nothing may be told. `name`: of the Unix
    /// socket that it goes over.
    fn open(
        &mut self,
        id: ConnectionId,
        from_start: bool,
        time: u64,
        carrier: Carrier,
        name: Option<String>,
    ) {
        let key = (id.process, id.ssl);
        if self.connections.get(&key).is_some_and(|open| open.id != id) {
            // Its end was lost: the object serves another connection now.
            self.close(key, time, End::Unknown);
        }
        let Some(policy) = self.policy(id.process) else {
            self.stats.deselected += 1;
            return;
        };
        if !self.connections.contains_key(&key) {
            // While the process is there to be asked.
            self.facts(id.process);
            let known = self.known(id.process);
            known.connections.insert(id.ssl);
            let sessions = known.sessions.clone();
            let mailbox = Mailbox::default();
            let reader = if carrier == Carrier::Stdio {
                Reader::Mcp(Box::new(Dialogue::new(policy.calls.clone())))
            } else {
                let scheme = if carrier == Carrier::Tls { Scheme::Https } else { Scheme::Http };
                let models = Models::new(policy.calls.clone())
                    .over(scheme)
                    .with_key(self.key)
                    .with_mailbox(mailbox.clone())
                    .with_sessions(sessions);
                let models = match name {
                    Some(name) => models.over_socket(name),
                    None => models,
                };
                Reader::Http(Box::new(Connection::new(models, Limits::default(), from_start)))
            };
            let open = Open {
                id,
                mailbox,
                reader,
                memory: 0,
                touched: time,
                counted: connection::Counters::default(),
                protocol: Some(Protocol::Undecided),
                looked_at: carrier != Carrier::Tls,
                plain: carrier != Carrier::Tls,
            };
            self.connections.insert(key, open);
        }
    }

    /// `key`: that of the connection, `plain`: which goes without TLS.
    fn heard(&mut self, key: (ProcessId, u64), heard: &Heard, plain: bool) {
        let exchange = |exchange| ExchangeId { process: key.0, connection: key.1, exchange };
        match heard {
            Heard::Asked(asked) => {
                let id = exchange(asked.links.exchange);
                let pod = self.pod(key.0);
                if !self.twins.asked(id, pod, &asked.links.history, plain) {
                    self.causality.asked(id, asked);
                }
            }
            Heard::Mcp(call) => self.mcp(key.0, call),
            Heard::NoCall(number) => {
                let waited = self.twins.gone(exchange(*number));
                self.causality.no_call(exchange(*number));
                self.tell_calls(waited);
            }
        }
    }

    /// What two processes have to have alike so that one call of theirs may be told for both: the pod, and who is told.
    fn pod(&mut self, process: ProcessId) -> u64 {
        let cgroup = self.known(process).cgroup;
        let mut hasher = DefaultHasher::new();
        self.subjects.pod(process, cgroup).hash(&mut hasher);
        self.policy(process).map(|policy| policy.traces.clone()).hash(&mut hasher);
        hasher.finish()
    }

    fn sighted(&mut self, process: ProcessId, sign: Sign) {
        let Some(witness) = self.witness.clone() else { return };
        let known = self.known(process);
        let from_exec = known.executable.is_some();
        known.told.tell(&witness, Sighting { process, from_exec, sign });
    }

    /// Gives up the connections that are idle longest, until a tenth of the memory is free.
    fn evict(&mut self, now: u64) {
        let mut by_age: Vec<_> = self.connections.iter().map(|(key, open)| (open.touched, *key)).collect();
        by_age.sort_unstable_by_key(|(touched, _)| *touched);
        for (_, key) in by_age {
            if self.memory <= self.settings.max_memory / 10 * 9 {
                return;
            }
            self.stats.evicted += 1;
            if let Some(policy) = self.policy(key.0) {
                self.for_traces(&policy, |stats| stats.evicted += 1);
            }
            self.close(key, now, End::Unknown);
        }
    }

    fn close(&mut self, key: (ProcessId, u64), time: u64, end: End) {
        let Some(open) = self.connections.remove(&key) else { return };
        self.memory = self.memory.saturating_sub(open.memory);
        let mut found = Vec::new();
        open.reader.close(self.clock.at(time), end, &mut found);
        for found in found {
            self.found(key, found);
        }
        let heard = std::mem::take(&mut *open.mailbox.lock().expect("no holder panics"));
        for heard in heard.iter().filter(|heard| matches!(heard, Heard::Mcp(_))) {
            self.heard(key, heard, open.plain);
        }
        let waited = self.twins.closed(key.0, key.1);
        self.causality.closed(key.0, key.1);
        self.tell_calls(waited);
        self.tell();
        if let Some(process) = self.processes.get_mut(&key.0) {
            process.connections.remove(&key.1);
        }
    }

    fn close_all(&mut self, process: ProcessId, time: u64, end: End) {
        self.held.ended(process);
        let connections =
            self.processes.get_mut(&process).map(|known| std::mem::take(&mut known.connections));
        for ssl in connections.unwrap_or_default() {
            self.close((process, ssl), time, end);
        }
    }

    /// `key`: that of the connection.
    fn found(&mut self, key: (ProcessId, u64), found: Found) {
        match found {
            Found::Call(call) => self.call(key, *call),
            Found::Mcp(call) => self.mcp(key.0, &call),
            Found::Unknown(endpoint) => {
                self.stats.unknown_requests += 1;
                if self.stats.unknown_endpoints.len() < NAMED_ENDPOINTS
                    || self.stats.unknown_endpoints.contains_key(&endpoint)
                {
                    *self.stats.unknown_endpoints.entry(endpoint).or_default() += 1;
                }
            }
        }
    }

    fn call(&mut self, (process, connection): (ProcessId, u64), call: Call) {
        let id = ExchangeId { process, connection, exchange: call.links.exchange };
        // It was deselected while the call went on: nobody may be told.
        let told = if self.policy(process).is_some() {
            self.twins.call(id, call, self.now)
        } else {
            self.twins.gone(id).into_iter().collect()
        };
        self.tell_calls(told);
    }

    fn tell_calls(&mut self, calls: impl IntoIterator<Item = twins::Told>) {
        for told in calls {
            self.tell_call(&told);
        }
    }

    fn tell_call(&mut self, told: &twins::Told) {
        let twins::Told { id, call, upstream } = told;
        let process = id.process;
        let Some(policy) = self.policy(process) else { return };
        let key = (semconv::operation_name(call.operation), call.provider, outcome_name(&call.outcome));
        *self.stats.calls.entry(key).or_default() += 1;
        self.stats.truncated_calls += u64::from(call.truncated);
        self.for_traces(&policy, |stats| {
            stats.calls += 1;
            stats.truncated += u64::from(call.truncated);
        });

        // One call is one span, whichever exporters are told of it.
        let Place { trace_id, span_id, parent } = self.causality.call(*id, call);
        for output in &policy.outputs {
            if output.sampling.keeps(trace_id.0) {
                let mut span = Box::new(semconv::span(call, &output.semconv));
                span.attributes.extend(upstream.iter().flat_map(semconv::upstream));
                let signal = Signal::Span { trace_id, span_id, parent: parent.clone(), span };
                self.send(process, &output.exporter, signal);
            }
            for measurement in semconv::measurements(call, &output.semconv) {
                self.send(process, &output.exporter, Signal::Measurement(measurement));
            }
        }
    }

    fn mcp(&mut self, process: ProcessId, call: &McpCall) {
        let Some(policy) = self.policy(process) else { return };
        self.stats.mcp_requests += 1;
        let tool = match &call.target {
            Some(Target::Tool(name)) => Some(name.as_str()),
            _ => None,
        };
        let Place { trace_id, span_id, parent } =
            self.causality.place_of_request(process, call.parent.clone(), tool);
        for output in &policy.outputs {
            if output.sampling.keeps(trace_id.0) {
                let span = Box::new(semconv::mcp_span(call, &output.semconv));
                let signal = Signal::Span { trace_id, span_id, parent: parent.clone(), span };
                self.send(process, &output.exporter, signal);
            }
            let measurement = semconv::mcp_measurement(call);
            self.send(process, &output.exporter, Signal::Measurement(measurement));
        }
    }

    /// Tells of turns, tools and processes that are finished, those who are told of the calls.
    fn tell(&mut self) {
        for finished in self.causality.take() {
            let owner = finished.owner;
            let Some(policy) = self.policy(owner) else { continue };
            let Place { trace_id, span_id, parent } = &finished.place;
            for output in &policy.outputs {
                if output.sampling.keeps(trace_id.0) {
                    let span = Box::new(spans::span(&finished, &output.semconv));
                    let (trace_id, span_id, parent) = (*trace_id, *span_id, parent.clone());
                    let signal = Signal::Span { trace_id, span_id, parent, span };
                    self.send(owner, &output.exporter, signal);
                }
            }
        }
    }

    fn for_traces(&mut self, policy: &Policy, mut each: impl FnMut(&mut TraceStats)) {
        for trace in &policy.traces {
            match self.stats.traces.get_mut(trace) {
                Some(stats) => each(stats),
                None => each(self.stats.traces.entry(trace.clone()).or_default()),
            }
        }
    }

    /// What holds for a process now. Where nothing holds any more, what was read of it is forgotten.
    fn policy(&mut self, process: ProcessId) -> Option<Arc<Policy>> {
        let version = self.subjects.version();
        let known = self.known(process);
        if known.version == Some(version) {
            return known.policy.clone();
        }
        let cgroup = known.cgroup;
        let policy = self.subjects.policy(process, cgroup);
        if policy.is_some() && !self.known(process).gone {
            let scope = self.subjects.scope(process, cgroup);
            self.causality.scope(process, scope);
        }
        let known = self.known(process);
        known.version = Some(version);
        known.policy.clone_from(&policy);
        let connections: Vec<u64> = match &policy {
            Some(_) => known.connections.iter().copied().collect(),
            None => known.connections.drain().collect(),
        };
        let mut waited = Vec::new();
        for ssl in connections {
            let key = (process, ssl);
            match &policy {
                Some(policy) => {
                    if let Some(open) = self.connections.get_mut(&key) {
                        open.reader.set_settings(policy.calls.clone());
                    }
                }
                None => {
                    if let Some(open) = self.connections.remove(&key) {
                        self.memory = self.memory.saturating_sub(open.memory);
                        // What waited for it was said by others, of whom somebody may still be told.
                        waited.extend(self.twins.closed(process, ssl));
                        self.causality.closed(process, ssl);
                    }
                }
            }
        }
        self.tell_calls(waited);
        policy
    }

    /// A process' event as a log record that hangs on its span, or on the run.
    fn log(&mut self, process: ProcessId, name: &'static str, time: u64, mut attributes: Attributes) {
        let Some(root) = &self.root else { return };
        let context = Some(self.causality.nearest(process).unwrap_or_else(|| root.context.clone()));
        attributes.insert(0, ("process.pid".into(), Value::Int(i64::from(process.tgid))));
        let executable = self.processes.get(&process).and_then(|known| known.executable.as_ref());
        if let Some(path) = executable {
            let path = path.to_string_lossy().into_owned();
            let base = path.rsplit('/').next().unwrap_or(&path).to_owned();
            attributes.push(("process.executable.name".into(), Value::Str(base.into())));
            attributes.push(("process.executable.path".into(), Value::Str(path.into())));
        }
        let event = LogEvent { name: name.into(), at: self.clock.at(time), severity: INFO, attributes };
        // The run's resource: one for each short-lived process would be a resource a record.
        let process = root.process.unwrap_or(process);
        let Some(policy) = self.policy(process) else { return };
        for output in &policy.outputs {
            let signal = Signal::Log { context: context.clone(), event: event.clone() };
            self.send(process, &output.exporter, signal);
        }
    }

    /// The run of the recorded command, by the conventions for command-line programs, as their caller sees them.
    fn finish_root(&mut self, process: ProcessId, time: u64, exit: Exit) {
        let facts = self.facts(process);
        let Some(resource) = self.subjects.resource(&facts, true) else { return };
        let Some(policy) = self.policy(process) else { return };
        let Some(root) = self.root.take() else { return };
        let copied =
            ["process.executable.name", "process.executable.path", "process.pid", "process.command_args"];
        let mut attributes: Vec<_> =
            resource.attributes.iter().filter(|(key, _)| copied.contains(&key.as_ref())).cloned().collect();
        attributes.extend(exit_attributes(exit));
        let code = exit.code;
        let name = attributes.iter().find_map(|(key, value)| match value {
            Value::Str(text) if key == "process.executable.name" => Some(text.clone().into_owned()),
            _ => None,
        });
        let mut status = Status::Unset;
        if code != 0 {
            attributes.push(("error.type".into(), Value::Str(code.to_string().into())));
            status = Status::Error(format!("exit code {code}"));
        }
        let span = Span {
            name: name.unwrap_or_else(|| "unknown".to_owned()),
            kind: SpanKind::Client,
            parent: None,
            start: self.clock.at(root.start),
            end: self.clock.at(time),
            attributes,
            status,
            events: Vec::new(),
        };
        let SpanContext { trace_id, span_id, .. } = root.context;
        for output in &policy.outputs {
            if output.sampling.keeps(trace_id.0) {
                let signal = Signal::Span { trace_id, span_id, parent: None, span: Box::new(span.clone()) };
                self.send(process, &output.exporter, signal);
            }
        }
    }

    fn facts(&mut self, process: ProcessId) -> Arc<S::Facts> {
        let known = self.known(process);
        if let Some(facts) = &known.facts {
            return facts.clone();
        }
        let (cgroup, executable) = (known.cgroup, known.executable.clone());
        let facts = Arc::new(self.subjects.facts(process, cgroup, executable.as_deref()));
        self.known(process).facts.insert(facts).clone()
    }

    /// Sends telemetry with its process' resource, as soon as that is known.
    fn send(&mut self, process: ProcessId, exporter: &ExporterId, signal: Signal) {
        let facts = self.facts(process);
        // Behind what waits already: the order of one process' telemetry stays.
        let alone = !self.waiting.iter().any(|waiting| Arc::ptr_eq(&waiting.facts, &facts));
        match self.subjects.resource(&facts, false) {
            Some(resource) if alone => (self.out)(exporter, Item { resource, signal }),
            _ => {
                let until = self.now.saturating_add(PATIENCE);
                self.waiting.push_back(Waiting { facts, exporter: exporter.clone(), signal, until });
                if self.waiting.len() > MOST_WAITING {
                    self.settle();
                }
            }
        }
    }

    /// Sends what waits and is known by now, or has waited long enough.
    fn settle(&mut self) {
        let mut excess = self.waiting.len().saturating_sub(MOST_WAITING);
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else { return };
            let resource = match self.subjects.resource(&waiting.facts, false) {
                None if self.now >= waiting.until || excess > 0 => {
                    self.stats.unsettled += 1;
                    self.subjects.resource(&waiting.facts, true)
                }
                resource => resource,
            };
            match resource {
                Some(resource) => {
                    excess = excess.saturating_sub(1);
                    (self.out)(&waiting.exporter, Item { resource, signal: waiting.signal });
                }
                None => self.waiting.push_back(waiting),
            }
        }
    }
}

const INFO: u8 = 9; // OpenTelemetry's SEVERITY_NUMBER_INFO

/// The name of a Unix socket as tools show it: the text up to the first NUL, or an abstract one behind `@`.
fn socket_name(name: &[u8]) -> String {
    let (mark, name) = match name.strip_prefix(b"\0") {
        Some(name) => ("@", name),
        None => ("", name.split(|byte| *byte == 0).next().unwrap_or_default()),
    };
    format!("{mark}{}", String::from_utf8_lossy(name))
}

fn exit_attributes(exit: Exit) -> Attributes {
    let mut attributes = vec![("process.exit.code".into(), Value::Int(exit.code))];
    attributes.extend(exit.signal.map(|signal| (spans::SIGNAL.into(), Value::Int(signal))));
    attributes
}

/// What exec was given.
fn program(filename: &[u8], arguments: &[u8], cut: bool) -> Program {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut arguments: Vec<String> = arguments.split(|byte| *byte == 0).map(text).collect();
    // What follows the last NUL; where they were cut, half an argument.
    arguments.pop_if(|last| last.is_empty());
    Program { path: text(filename), arguments, cut }
}

fn new_trace() -> TraceId {
    let mut id: [u8; 16] = rand::random();
    id[0] |= u8::from(id == [0; 16]);
    TraceId(id)
}

fn new_span() -> SpanId {
    let mut id: [u8; 8] = rand::random();
    id[0] |= u8::from(id == [0; 8]);
    SpanId(id)
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Complete => "complete",
        Outcome::Failed(_) => "failed",
        Outcome::Cut => "cut",
        Outcome::Cancelled => "cancelled",
        Outcome::Incomplete => "incomplete",
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Undecided => "undecided",
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
        Protocol::WebSocket => "websocket",
        Protocol::ServerSide => "server_side",
        Protocol::Tunnel => "tunnel",
        Protocol::Unknown => "unknown",
        Protocol::Desynchronised => "desynchronised",
    }
}

/// What the first bytes that were written on a connection say of the probe that took them.
fn sign_of(protocol: Protocol, data: &[u8]) -> Option<Sign> {
    match protocol {
        Protocol::Http1
        | Protocol::Http2
        | Protocol::WebSocket
        | Protocol::ServerSide
        | Protocol::Tunnel
        | Protocol::Desynchronised => Some(Sign::Plaintext),
        Protocol::Undecided | Protocol::Unknown => is_encrypted(data).then_some(Sign::Ciphertext),
    }
}

/// Adds what came since the last time.
fn count(sum: &mut connection::Counters, now: &connection::Counters, before: &connection::Counters) {
    sum.gaps += now.gaps - before.gaps;
    sum.missing_bytes += now.missing_bytes - before.missing_bytes;
    sum.repeats += now.repeats - before.repeats;
    sum.losses += now.losses - before.losses;
    sum.resynchronisations += now.resynchronisations - before.resynchronisations;
    sum.malformed += now.malformed - before.malformed;
    sum.unreadable_heads += now.unreadable_heads - before.unreadable_heads;
    sum.unsolicited += now.unsolicited - before.unsolicited;
    sum.joined_midway += now.joined_midway - before.joined_midway;
    sum.undecodable += now.undecodable - before.undecodable;
    sum.oversized += now.oversized - before.oversized;
    sum.abandoned += now.abandoned - before.abandoned;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::events::fixtures::{
        closed, container, data, exec, exec_with, exit, fork, held, named, told,
    };
    use crate::policy::Wish;
    use crate::process::Host;
    use crate::resource::Resource;
    use agentsight_api::{AgentTraceSpec, Content, Sampling, Semconv};
    use serde_json::json;
    use std::cell::RefCell;
    use std::path::Path;
    use std::rc::Rc;

    /// Never a process of this machine: pid_max is 4,194,304.
    const PID: u32 = 9_000_001;

    const REQUEST: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Length: 61\r\n\r\n\
        {\"model\":\"gpt-4o\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
    const BODY: &str = "{\"id\":\"chatcmpl-1\",\"model\":\"gpt-4o-2024\",\"choices\":[{\"index\":0,\"finish_reason\":\
        \"stop\",\"message\":{\"role\":\"assistant\",\"content\":\"y\"}}],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3}}";

    fn response() -> String {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}",
            BODY.len()
        )
    }

    fn settings(root: Option<u32>) -> Settings {
        Settings { max_memory: DEFAULT_MAX_MEMORY, root }
    }

    fn host() -> Host {
        let wish = Wish::of("", &AgentTraceSpec::default());
        Host::new(Policy::union(&[&wish], "redaction").unwrap(), None)
    }

    fn run(root: Option<u32>, records: &[Vec<u8>]) -> (Vec<Item>, Stats) {
        let mut items = Vec::new();
        let shared = Arc::new(Mutex::new(Stats::default()));
        let mut pipeline =
            Pipeline::new(settings(root), host(), shared.clone(), |_: &ExporterId, item| items.push(item));
        let mut batch = Batch::default();
        for record in records {
            batch.push(record);
        }
        pipeline.batch(&batch);
        pipeline.finish(1_000_000);
        let stats = shared.lock().unwrap().clone();
        (items, stats)
    }

    fn sent(time: u64, offset: u64, bytes: &str) -> Vec<u8> {
        data(PID, time, Direction::Sent, offset, bytes.as_bytes(), bytes.len())
    }

    fn received(time: u64, offset: u64, bytes: &str) -> Vec<u8> {
        data(PID, time, Direction::Received, offset, bytes.as_bytes(), bytes.len())
    }

    fn spans(items: &[Item]) -> Vec<(&Span, Option<&SpanContext>)> {
        let span = |item| match item {
            &Item { signal: Signal::Span { ref span, ref parent, .. }, .. } => {
                Some((span.as_ref(), parent.as_ref()))
            }
            _ => None,
        };
        items.iter().filter_map(span).collect()
    }

    fn attribute<'a>(span: &'a Span, name: &str) -> Option<&'a Value> {
        span.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    #[test]
    fn a_call_of_the_command_hangs_on_the_span_of_its_run() {
        let records = [
            exec(PID, 10, "/usr/bin/agent"),
            sent(20, 0, REQUEST),
            received(30, 0, &response()),
            exit(PID, 40, 3 << 8),
        ];
        let (items, stats) = run(Some(PID), &records);
        let spans = spans(&items);
        let [(call, Some(parent)), (root, None)] = spans[..] else { panic!("{spans:#?}") };
        assert_eq!((call.name.as_str(), root.name.as_str()), ("chat gpt-4o", "agent"));
        assert_eq!(attribute(root, "process.exit.code"), Some(&Value::Int(3)));
        assert_eq!(attribute(root, "error.type"), Some(&Value::Str("3".into())));
        let root_id = items.iter().find_map(|item| match &item.signal {
            Signal::Span { trace_id, span_id, span, .. } if span.name == "agent" => {
                Some((*trace_id, *span_id))
            }
            _ => None,
        });
        assert_eq!(root_id, Some((parent.trace_id, parent.span_id)));
        assert_eq!(stats.calls[&("chat", "openai", "complete")], 1);
        assert_eq!((stats.connections, stats.memory), (0, 0), "nothing is held at the end");
    }

    #[test]
    fn calls_without_a_command_are_traces_of_their_own() {
        let (items, _) = run(None, &[sent(20, 0, REQUEST), received(30, 0, &response())]);
        let spans = spans(&items);
        let [(call, None)] = spans[..] else { panic!("{spans:#?}") };
        assert_eq!(call.end.0 - call.start.0, 10);
        assert!(!items.iter().any(|item| matches!(item.signal, Signal::Log { .. })));
    }

    #[test]
    fn what_was_sealed_is_of_the_connection_that_it_is_written_to_and_of_the_time_when_it_was_sealed() {
        let (head, body) = REQUEST.as_bytes().split_at(REQUEST.len() - 20);
        let whole = REQUEST.len() as u64;
        let records = [
            held(PID, 20, 0, head),
            held(PID, 21, head.len() as u64, body),
            told(PID, 25, 90, 0, whole),
            received(30, 0, &response()),
        ];
        let (items, _) = run(None, &records);
        let [(call, None)] = spans(&items)[..] else { panic!("one call") };
        assert_eq!(call.end.0 - call.start.0, 10);
        assert_eq!(attribute(call, "server.port"), Some(&Value::Int(443)));
        assert_eq!(attribute(call, semconv::CAPTURE_TRUNCATED), None);
    }

    #[test]
    fn what_was_sealed_and_is_not_there_when_it_is_written_is_missing() {
        let whole = REQUEST.len() as u64;
        let (head, rest) = REQUEST.as_bytes().split_at(REQUEST.len() - 20);
        let lost = [held(PID, 20, 0, head), told(PID, 25, 90, 0, whole), received(30, 0, &response())];
        let (items, stats) = run(None, &lost);
        let [(call, None)] = spans(&items)[..] else { panic!("one call") };
        assert_eq!(attribute(call, semconv::CAPTURE_TRUNCATED), Some(&Value::Bool(true)));
        assert_eq!(stats.streams.missing_bytes, rest.len() as u64);
        let never_written = [held(PID, 20, 0, REQUEST.as_bytes()), received(30, 0, &response())];
        assert_eq!(spans(&run(None, &never_written).0).len(), 0);
    }

    #[test]
    fn a_request_that_names_no_port_went_to_that_of_what_carried_it() {
        for (socket, port) in [(0, 443), (1, 80)] {
            let mut records = [sent(20, 0, REQUEST), received(30, 0, &response())];
            for record in &mut records {
                record[std::mem::offset_of!(agentsight_ebpf::TlsData, socket)] = socket;
            }
            let (items, _) = run(None, &records);
            let [(call, _)] = spans(&items)[..] else { panic!("one call") };
            assert_eq!(attribute(call, "server.port"), Some(&Value::Int(port)));
        }
    }

    #[test]
    fn the_server_of_a_unix_socket_is_where_it_listens_and_the_host_still_tells_the_provider() {
        for (name, address) in
            [(&b"/run/model\0"[..], "/run/model"), (b"\0model", "@model"), (b"run/model", "run/model")]
        {
            let request = REQUEST.replace("api.openai.com", "openrouter.ai");
            let records = [named(PID, 100, name), sent(100, 0, &request), received(200, 0, &response())];
            let (items, stats) = run(None, &records);
            let [(span, _)] = spans(&items)[..] else { panic!("one call") };
            assert_eq!(attribute(span, "server.address"), Some(&Value::Str(address.into())));
            assert_eq!(attribute(span, "network.transport"), Some(&Value::Str("unix".into())));
            assert_eq!(attribute(span, "gen_ai.provider.name"), Some(&Value::Str("openrouter".into())));
            assert_eq!((attribute(span, "server.port"), stats.events[7]), (None, 1));
        }
    }

    #[test]
    fn what_a_server_of_tools_is_asked_over_a_pipe_is_a_request_and_what_it_leaves_open_is_told_at_its_end() {
        let asks = |id: u32| {
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":{{\"name\":\"add\"}}}}\n"
            )
        };
        let (first, second) = (asks(1), asks(2));
        let answer = "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n";
        let mut records = [
            sent(100, 0, &first),
            sent(200, first.len() as u64, &second),
            received(300, 0, answer),
            closed(PID, 400, answer.len() as u64, 0, agentsight_ebpf::closed::BY_PEER),
        ];
        for record in &mut records[..3] {
            record[std::mem::offset_of!(agentsight_ebpf::TlsData, socket)] =
                agentsight_ebpf::carried::BY_STDIO;
        }
        let (items, stats) = run(None, &records);
        let spans = spans(&items);
        let [(answered, _), (open, _)] = spans[..] else { panic!("{spans:?}") };
        assert_eq!(attribute(answered, "network.transport"), Some(&Value::Str("pipe".into())));
        assert_eq!(attribute(answered, "agentsight.response.incomplete"), None);
        assert_eq!(attribute(open, "agentsight.response.incomplete"), Some(&Value::Str("cut".into())));
        assert_eq!((stats.mcp_requests, stats.connections), (2, 0));
        assert_eq!(stats.protocols["mcp_stdio"], 1);
    }

    #[test]
    fn a_process_that_ends_in_the_middle_leaves_an_incomplete_call() {
        let response = response();
        let records = [sent(20, 0, REQUEST), received(30, 0, &response[..60]), exit(PID, 40, 0)];
        let (items, stats) = run(None, &records);
        let spans = spans(&items);
        let [(call, None)] = spans[..] else { panic!("{spans:#?}") };
        assert_eq!(attribute(call, semconv::INCOMPLETE), Some(&Value::Str("unknown".into())));
        assert_eq!(stats.calls[&("chat", "openai", "incomplete")], 1);
    }

    #[test]
    fn bytes_lost_at_the_very_end_are_seen_in_the_totals() {
        let response = response();
        let half = response.len() / 2;
        let records = [
            sent(20, 0, REQUEST),
            received(30, 0, &response[..half]),
            closed(PID, 40, response.len() as u64, REQUEST.len() as u64, agentsight_ebpf::closed::BY_PEER),
        ];
        let (items, stats) = run(None, &records);
        let spans = spans(&items);
        let [(call, None)] = spans[..] else { panic!("{spans:#?}") };
        assert_eq!(attribute(call, semconv::CAPTURE_TRUNCATED), Some(&Value::Bool(true)));
        assert_eq!(stats.streams.missing_bytes, (response.len() - half) as u64);
    }

    #[test]
    fn too_many_bytes_make_the_connection_idle_longest_give_way() {
        let mut items = Vec::new();
        let shared = Arc::new(Mutex::new(Stats::default()));
        let settings = Settings { max_memory: 1, ..settings(None) };
        let mut pipeline =
            Pipeline::new(settings, host(), shared.clone(), |_: &ExporterId, item| items.push(item));
        let mut batch = Batch::default();
        batch.push(&sent(20, 0, &REQUEST[..80]));
        pipeline.batch(&batch);
        let stats = shared.lock().unwrap().clone();
        assert_eq!((stats.evicted, stats.connections, stats.memory), (1, 0, 0));
    }

    /// A conversation with a tool, byte by byte as a client and a server say it.
    struct Session {
        sent: u64,
        received: u64,
        messages: Vec<serde_json::Value>,
    }

    impl Session {
        fn begin() -> Session {
            Session { sent: 0, received: 0, messages: vec![json!({"role": "user", "content": "x"})] }
        }

        fn asks(&mut self, time: u64) -> Vec<u8> {
            let body = json!({"model": "m", "messages": self.messages,
                "tools": [{"type": "function", "function": {"name": "bash"}}]});
            let body = body.to_string();
            let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: llm.example";
            let bytes = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let record = sent(time, self.sent, &bytes);
            self.sent += bytes.len() as u64;
            record
        }

        fn gets(&mut self, time: u64, message: serde_json::Value) -> Vec<u8> {
            let body = json!({"id": format!("r{time}"), "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 2, "completion_tokens": 3}});
            let body = body.to_string();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json";
            let bytes = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let record = received(time, self.received, &bytes);
            self.received += bytes.len() as u64;
            self.messages.push(message);
            record
        }

        fn asked_to_run(&mut self, time: u64, command: &str) -> Vec<u8> {
            let arguments = json!({"command": command}).to_string();
            let function = json!({"name": "bash", "arguments": arguments});
            let call = json!({"id": "call_1", "type": "function", "function": function});
            self.gets(time, json!({"role": "assistant", "content": null, "tool_calls": [call]}))
        }

        fn result(&mut self, text: &str) {
            self.messages.push(json!({"role": "tool", "tool_call_id": "call_1", "content": text}));
        }
    }

    /// A turn whose tool runs a shell, which runs a program that a signal ends.
    fn turn() -> Vec<Vec<u8>> {
        let mut session = Session::begin();
        let mut records = vec![session.asks(20), session.asked_to_run(30, "cat CANARY")];
        records.extend([
            fork(PID + 1, 40, PID),
            exec_with(PID + 1, 41, "/bin/sh", &["sh", "-c", "cat CANARY"]),
            fork(PID + 2, 42, PID + 1),
            exec_with(PID + 2, 43, "/bin/cat", &["cat", "CANARY"]),
            exit(PID + 2, 44, 9),
            exit(PID + 1, 45, 1 << 8),
        ]);
        session.result("CANARY");
        records.push(session.asks(50));
        records.push(session.gets(60, json!({"role": "assistant", "content": "done"})));
        records
    }

    /// Spans as `name < name of its parent`, in the order in which they left.
    fn tree(items: &[Item]) -> Vec<String> {
        let mut names = HashMap::new();
        for item in items {
            if let Signal::Span { span_id, span, .. } = &item.signal {
                assert!(names.insert(*span_id, span.name.clone()).is_none(), "an id stands twice");
            }
        }
        let line = |item: &Item| match &item.signal {
            Signal::Span { parent, span, .. } => {
                let above =
                    parent.as_ref().map(|parent| names.get(&parent.span_id).expect("a parent that is told"));
                Some(format!("{} < {}", span.name, above.map_or("nothing", String::as_str)))
            }
            _ => None,
        };
        items.iter().filter_map(line).collect()
    }

    const TURN: [&str; 6] = [
        "chat m < invoke_agent",
        "cat < sh",
        "sh < execute_tool bash",
        "chat m < invoke_agent",
        "execute_tool bash < invoke_agent",
        "invoke_agent < nothing",
    ];

    #[test]
    fn a_turn_is_one_trace_and_calls_leave_before_it_ends() {
        let records = turn();
        let (items, stats) = run(None, &records);
        assert_eq!(tree(&items), TURN);
        let traces: HashSet<_> = items
            .iter()
            .filter_map(|item| match &item.signal {
                Signal::Span { trace_id, .. } => Some(*trace_id),
                _ => None,
            })
            .collect();
        assert_eq!(traces.len(), 1);
        let resources: HashSet<_> = items.iter().map(|item| Arc::as_ptr(&item.resource)).collect();
        assert_eq!(resources.len(), 1, "what the agent ran is its own doing");
        assert_eq!((stats.causality.turns, stats.causality.tools), (1, 1));
        assert_eq!((stats.turns, stats.causality_memory), (0, 0), "nothing is held at the end");
        let spans = spans(&items);
        let (cat, _) = spans.iter().find(|(span, _)| span.name == "cat").unwrap();
        assert_eq!(attribute(cat, "process.exit.code"), Some(&Value::Int(137)));
        assert_eq!(attribute(cat, spans::SIGNAL), Some(&Value::Int(9)));
        assert_eq!(attribute(cat, spans::CAUSE), Some(&Value::Str("lineage".into())));
        assert!(!format!("{items:?}").contains("CANARY"), "arguments and results are content");

        let (items, _) = run(None, &records[..2]);
        assert_eq!(tree(&items), ["chat m < invoke_agent", "invoke_agent < nothing"]);
    }

    #[test]
    fn under_record_turns_and_other_programs_are_below_the_run_of_the_command() {
        let mut records = vec![exec(PID, 10, "/usr/bin/agent")];
        records.push(fork(PID + 9, 11, PID));
        records.push(exec_with(PID + 9, 12, "/bin/git", &["git", "status"]));
        records.push(exit(PID + 9, 13, 0));
        records.extend(turn());
        records.push(exit(PID, 70, 0));
        let (items, _) = run(Some(PID), &records);
        let expected: Vec<_> = ["git < agent"]
            .into_iter()
            .chain(TURN[..5].iter().copied())
            .chain(["invoke_agent < agent", "agent < nothing"])
            .collect();
        assert_eq!(tree(&items), expected);
        let logged: HashSet<_> = items
            .iter()
            .filter_map(|item| match &item.signal {
                Signal::Log { context, event } => {
                    Some((event.name.clone(), context.clone().unwrap().span_id.0))
                }
                _ => None,
            })
            .collect();
        assert_eq!(logged.len(), 8, "four programs began and ended, each on its own span: {logged:?}");
    }

    #[test]
    fn what_goes_on_when_its_agent_has_ended_is_told_as_the_agents_doing() {
        let mut session = Session::begin();
        let mut records = vec![session.asks(20), session.asked_to_run(30, "serve &")];
        records.push(fork(PID + 1, 40, PID));
        records.push(exec_with(PID + 1, 41, "/bin/serve", &["sh", "-c", "serve &"]));
        records.push(exit(PID, 50, 0));
        records.push(exit(PID + 1, 60, 0));
        let (items, stats) = run(None, &records);
        assert_eq!(
            tree(&items),
            [
                "chat m < invoke_agent",
                "execute_tool bash < invoke_agent",
                "invoke_agent < nothing",
                "serve < execute_tool bash",
            ]
        );
        let pids: HashSet<_> = items.iter().map(|item| format!("{:?}", item.resource.attributes)).collect();
        assert_eq!(pids.len(), 1, "{pids:?}");
        assert_eq!(stats.causality_memory, 0);
    }

    #[test]
    fn several_exporters_are_told_of_turns_and_tools_each_with_its_content_and_words() {
        let (subjects, told, _, mut run) = scripted();
        let open = wish("open", "x", Content::Messages);
        let closed = wish("closed", "y", Content::None);
        let none = Wish { sampling: Sampling { percent: 0 }, ..wish("none", "z", Content::Messages) };
        let latest = Wish { semconv: Semconv::Latest, ..wish("latest", "l", Content::None) };
        subjects.borrow_mut().wanting(&[&open, &closed, &none, &latest]);
        run(&turn());
        for (exporter, content, provider) in [("x", true, true), ("y", false, true), ("l", false, false)] {
            let items: Vec<_> =
                told.borrow().iter().filter(|(to, _)| to == exporter).map(|(_, item)| item.clone()).collect();
            assert_eq!(tree(&items), TURN, "{exporter}");
            let spans = spans(&items);
            let of = |name: &str| spans.iter().find(|(span, _)| span.name == name).unwrap().0;
            let arguments = content.then(|| Value::Str(r#"{"command":"cat CANARY"}"#.into()));
            assert_eq!(attribute(of("execute_tool bash"), "gen_ai.tool.call.arguments"), arguments.as_ref());
            assert_eq!(attribute(of("cat"), "process.command_args").is_some(), content);
            assert_eq!(attribute(of("invoke_agent"), "gen_ai.provider.name").is_some(), provider);
            assert_eq!(format!("{items:?}").contains("CANARY"), content, "{exporter}");
        }
        assert!(
            !told.borrow().iter().any(|(to, item)| to == "z" && matches!(item.signal, Signal::Span { .. }))
        );
    }

    #[test]
    fn a_policy_that_changes_within_a_turn_tears_it_not() {
        let (subjects, told, _, mut run) = scripted();
        subjects.borrow_mut().wanting(&[&wish("a", "x", Content::None)]);
        let records = turn();
        run(&records[..1]);
        subjects.borrow_mut().wanting(&[&wish("b", "x", Content::Messages)]);
        run(&records[1..]);
        let items: Vec<_> = told.borrow().iter().map(|(_, item)| item.clone()).collect();
        assert_eq!(tree(&items), TURN);
    }

    #[test]
    fn a_turn_of_which_nothing_is_heard_is_told_after_an_hour_without_any_event() {
        let (subjects, told) = (Rc::new(RefCell::new(Scripted::default())), Told::default());
        subjects.borrow_mut().known = true;
        subjects.borrow_mut().wanting(&[&wish("a", "x", Content::None)]);
        let out =
            |exporter: &ExporterId, item: Item| told.borrow_mut().push((exporter.name.to_string(), item));
        let mut pipeline = Pipeline::new(settings(None), subjects.clone(), Arc::default(), out);
        assert_eq!(pipeline.patience(), None, "an idle agent does nothing");
        let mut batch = Batch::default();
        turn()[..2].iter().for_each(|record| batch.push(record));
        pipeline.batch(&batch);
        const HOUR: u64 = 3_600_000_000_000;
        pipeline.tick(HOUR - 1);
        assert_eq!(told_spans(&told).len(), 1);
        assert_eq!(pipeline.patience(), Some(NOW_AND_THEN));
        pipeline.tick(HOUR + 2 * NOW_AND_THEN.as_nanos() as u64);
        let spans = told_spans(&told);
        let (_, turn) = spans.last().unwrap();
        assert_eq!(attribute(turn, spans::TURN_END), Some(&Value::Str("idle".into())));
        assert_eq!(pipeline.patience(), None);
    }

    /// Answers that a test changes: what holds for every process, and whether it is known by now.
    #[derive(Default)]
    struct Scripted {
        version: u64,
        policy: Option<Arc<Policy>>,
        known: bool,
    }

    impl Scripted {
        fn wanting(&mut self, wishes: &[&Wish]) {
            self.version += 1;
            self.policy = (!wishes.is_empty()).then(|| Arc::new(Policy::union(wishes, "redaction").unwrap()));
        }
    }

    impl Subjects for Rc<RefCell<Scripted>> {
        type Facts = Arc<Resource>;

        fn version(&self) -> u64 {
            self.borrow().version
        }

        fn policy(&mut self, _: ProcessId, _: Option<u64>) -> Option<Arc<Policy>> {
            self.borrow().policy.clone()
        }

        fn facts(&mut self, _: ProcessId, cgroup: Option<u64>, _: Option<&Path>) -> Arc<Resource> {
            let cgroup = Value::Int(cgroup.map_or(-1, |id| id.try_into().unwrap()));
            Arc::new(Resource { attributes: vec![("cgroup".into(), cgroup)] })
        }

        fn scope(&mut self, _: ProcessId, cgroup: Option<u64>) -> u64 {
            cgroup.unwrap_or(0)
        }

        fn pod(&mut self, _: ProcessId, _: Option<u64>) -> u64 {
            0
        }

        fn resource(&mut self, facts: &Arc<Resource>, now: bool) -> Option<Arc<Resource>> {
            (now || self.borrow().known).then(|| facts.clone())
        }
    }

    fn wish(trace: &str, exporter: &str, content: Content) -> Wish {
        let mut spec = AgentTraceSpec { exporter: exporter.into(), ..AgentTraceSpec::default() };
        spec.capture.model_calls.content = content;
        Wish::of(trace, &spec)
    }

    type Told = Rc<RefCell<Vec<(String, Item)>>>;

    type Answers = Rc<RefCell<Scripted>>;
    type Numbers = Arc<Mutex<Stats>>;

    fn scripted() -> (Answers, Told, Numbers, impl FnMut(&[Vec<u8>])) {
        let (subjects, told) = (Rc::new(RefCell::new(Scripted::default())), Told::default());
        subjects.borrow_mut().known = true;
        let stats = Arc::new(Mutex::new(Stats::default()));
        let out = {
            let told = told.clone();
            move |exporter: &ExporterId, item| told.borrow_mut().push((exporter.name.to_string(), item))
        };
        let mut pipeline = Pipeline::new(settings(None), subjects.clone(), stats.clone(), out);
        let run = move |records: &[Vec<u8>]| {
            let mut batch = Batch::default();
            records.iter().for_each(|record| batch.push(record));
            pipeline.batch(&batch);
        };
        (subjects, told, stats, run)
    }

    fn told_spans(told: &Told) -> Vec<(String, Span)> {
        let span = |(exporter, item): &(String, Item)| match &item.signal {
            Signal::Span { span, .. } => Some((exporter.clone(), span.as_ref().clone())),
            _ => None,
        };
        told.borrow().iter().filter_map(span).collect()
    }

    const AGENT: u32 = PID;
    const SIDECAR: u32 = PID + 1;

    fn said(tgid: u32, time: u64, way: Direction, bytes: &str) -> Vec<u8> {
        data(tgid, time, way, 0, bytes.as_bytes(), bytes.len())
    }

    fn without_tls(mut record: Vec<u8>) -> Vec<u8> {
        record[std::mem::offset_of!(agentsight_ebpf::TlsData, socket)] = 1;
        record
    }

    /// An agent asks a sidecar, which asks a model, each in its own way.
    fn asked_twice(agent: impl Fn(Vec<u8>) -> Vec<u8>) -> [Vec<u8>; 2] {
        let to_sidecar = REQUEST.replace("api.openai.com", "localhost:4000");
        [agent(said(AGENT, 20, Direction::Sent, &to_sidecar)), said(SIDECAR, 30, Direction::Sent, REQUEST)]
    }

    fn servers(items: &[Item]) -> Vec<(Value, Option<Value>)> {
        let of = |span: &Span, name| attribute(span, name).cloned();
        let server = |span: &Span| {
            (of(span, "server.address").unwrap(), of(span, "agentsight.upstream.server.address"))
        };
        spans(items).iter().map(|(span, _)| server(span)).collect()
    }

    fn address(text: &'static str) -> Value {
        Value::Str(text.into())
    }

    #[test]
    fn a_call_that_a_sidecar_passes_on_is_told_once_as_the_agents_own() {
        let mut records = asked_twice(without_tls).to_vec();
        records.push(said(SIDECAR, 40, Direction::Received, &response()));
        records.push(without_tls(said(AGENT, 50, Direction::Received, &response())));
        let (items, stats) = run(None, &records);
        assert_eq!(servers(&items), [(address("localhost"), Some(address("api.openai.com")))]);
        assert_eq!((stats.merged_calls, stats.calls.values().sum::<u64>()), (1, 1));
    }

    #[test]
    fn it_is_told_once_too_where_the_agent_has_its_answer_before_the_sidecars_is_seen() {
        let mut records = asked_twice(without_tls).to_vec();
        records.push(without_tls(said(AGENT, 40, Direction::Received, &response())));
        records.push(said(SIDECAR, 50, Direction::Received, &response()));
        let (items, stats) = run(None, &records);
        assert_eq!(servers(&items), [(address("localhost"), None)]);
        assert_eq!(stats.merged_calls, 1);
    }

    #[test]
    fn what_the_server_answered_differently_is_two_calls() {
        let other = response().replace("chatcmpl-1", "chatcmpl-2");
        let mut records = asked_twice(without_tls).to_vec();
        records.push(said(SIDECAR, 40, Direction::Received, &other));
        records.push(without_tls(said(AGENT, 50, Direction::Received, &response())));
        let (items, stats) = run(None, &records);
        let expected = [(address("api.openai.com"), None), (address("localhost"), None)];
        assert_eq!((servers(&items), stats.merged_calls), (expected.to_vec(), 0));
    }

    #[test]
    fn two_that_ask_the_same_over_tls_are_two_however_alike() {
        let mut records = asked_twice(|record| record).to_vec();
        records.push(said(SIDECAR, 40, Direction::Received, &response()));
        records.push(said(AGENT, 50, Direction::Received, &response()));
        let (items, stats) = run(None, &records);
        assert_eq!((servers(&items).len(), stats.merged_calls), (2, 0));
    }

    #[test]
    fn what_waits_for_a_call_that_does_not_come_is_told_by_itself() {
        let mut records = asked_twice(without_tls).to_vec();
        records.push(said(SIDECAR, 40, Direction::Received, &response()));
        let (subjects, told, _, mut run) = scripted();
        subjects.borrow_mut().wanting(&[&wish("a", "x", Content::None)]);
        run(&records);
        assert_eq!(told_spans(&told).len(), 0, "it waits");
        run(&[exit(PID + 2, 31_000_000_000, 0)]);
        assert_eq!(told_spans(&told).len(), 1, "not for ever");
        run(&[exit(AGENT, 32_000_000_000, 0)]);
        let outcomes: Vec<_> = told_spans(&told).iter().map(|(_, span)| span.status.clone()).collect();
        assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    }

    #[test]
    fn each_exporter_is_told_once_and_no_more_than_the_strictest_of_its_traces_allows() {
        let (subjects, told, stats, mut run) = scripted();
        let open = wish("open", "x", Content::Messages);
        let closed = wish("closed", "y", Content::None);
        let same = wish("same", "x", Content::Messages);
        subjects.borrow_mut().wanting(&[&open, &closed, &same]);
        run(&[sent(20, 0, REQUEST), received(30, 0, &response())]);
        let spans = told_spans(&told);
        let exporters: Vec<_> = spans.iter().map(|(exporter, _)| exporter.as_str()).collect();
        assert_eq!(exporters, ["x", "y"]);
        let content = |span: &Span| format!("{:?}", span.attributes).contains("content");
        assert_eq!((content(&spans[0].1), content(&spans[1].1)), (true, false), "{spans:#?}");
        let ids = told
            .borrow()
            .iter()
            .filter_map(|(_, item)| match item.signal {
                Signal::Span { trace_id, span_id, .. } => Some((trace_id, span_id)),
                _ => None,
            })
            .collect::<HashSet<_>>();
        assert_eq!(ids.len(), 1, "one call is one span");
        let stats = stats.lock().unwrap();
        assert_eq!(stats.calls.values().sum::<u64>(), 1);
        for trace in ["open", "closed", "same"] {
            assert_eq!(stats.traces[trace].calls, 1, "{trace}");
        }
    }

    #[test]
    fn a_policy_that_changes_in_the_middle_of_a_connection_loses_no_call() {
        let (subjects, told, _, mut run) = scripted();
        subjects.borrow_mut().wanting(&[&wish("a", "x", Content::None)]);
        let response = response();
        run(&[sent(20, 0, REQUEST), received(30, 0, &response[..50])]);
        subjects.borrow_mut().wanting(&[&wish("b", "y", Content::Messages)]);
        run(&[received(31, 50, &response[50..])]);
        run(&[sent(40, REQUEST.len() as u64, REQUEST), received(50, response.len() as u64, &response)]);
        let spans = told_spans(&told);
        let [(first, _), (second, second_span)] = &spans[..] else { panic!("{spans:#?}") };
        assert_eq!((first.as_str(), second.as_str()), ("y", "y"));
        assert!(attribute(second_span, "gen_ai.input.messages").is_some());
        assert!(spans.iter().all(|(_, span)| attribute(span, semconv::CAPTURE_TRUNCATED).is_none()));
    }

    #[test]
    fn nothing_leaves_of_a_process_that_was_deselected_in_the_middle_of_a_call() {
        let (subjects, told, stats, mut run) = scripted();
        subjects.borrow_mut().wanting(&[&wish("a", "x", Content::None)]);
        let response = response();
        run(&[sent(20, 0, REQUEST), received(30, 0, &response[..50])]);
        subjects.borrow_mut().wanting(&[]);
        run(&[received(31, 50, &response[50..]), exit(PID, 40, 0)]);
        assert!(told.borrow().is_empty());
        let stats = stats.lock().unwrap();
        assert_eq!((stats.deselected, stats.connections, stats.memory), (1, 0, 0));
    }

    #[test]
    fn telemetry_waits_for_its_process_to_be_known_but_not_for_ever() {
        let (subjects, told, stats, mut run) = scripted();
        subjects.borrow_mut().wanting(&[&wish("a", "x", Content::None)]);
        subjects.borrow_mut().known = false;
        run(&[container(PID, 10, 7), sent(20, 0, REQUEST), received(30, 0, &response())]);
        run(&[exit(PID, PATIENCE, 0)]);
        assert!(told.borrow().is_empty());
        run(&[exit(PID, 31 + PATIENCE, 0)]);
        assert_eq!(told_spans(&told).len(), 1);
        let known: Vec<_> =
            told.borrow().iter().map(|(_, item)| item.resource.attributes[0].1.clone()).collect();
        assert!(known.iter().all(|cgroup| *cgroup == Value::Int(7)), "{known:?}");
        let unsettled = stats.lock().unwrap().unsettled;
        assert_eq!(unsettled, told.borrow().len() as u64);
    }

    #[test]
    fn what_waits_is_bounded() {
        let (subjects, told, _, mut run) = scripted();
        subjects.borrow_mut().wanting(&[&wish("a", "x", Content::None)]);
        subjects.borrow_mut().known = false;
        let (mut sent_bytes, mut received_bytes) = (0, 0);
        for n in 0..2000 {
            run(&[sent(n, sent_bytes, REQUEST), received(n, received_bytes, &response())]);
            sent_bytes += REQUEST.len() as u64;
            received_bytes += response().len() as u64;
        }
        let (count, each) = (told.borrow().len(), 4); // a span, a duration, two token counts
        assert_eq!(count, 2000 * each - MOST_WAITING);
    }
}
