//! Finished spans for people, and for programs line by line.
//!
//! Live, each turn, call and tool call is one line of its own, because the traced program writes to the same terminal
//! and nobody knows what follows. At the end the whole tree is drawn: turns, below them calls and tool calls, below
//! these the programs that ran, whichever process did what.

use crate::causality::spans;
use crate::resource::{Item, Resource, Signal};
use crate::terminal::{Colour, Terminal, harmless, harmless_json};
use agentsight_genai::telemetry::{Attributes, Span, SpanContext, SpanId, SpanKind, Status, TraceId, Value};
use agentsight_genai::time::Timestamp;
use serde_json::{Map, Value as Json, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;
use unicode_width::UnicodeWidthStr;

/// Draws spans as they end, and the whole at the end. What it keeps is bounded: see [`MAX_SPANS`].
#[derive(Debug)]
pub struct Tree {
    terminal: Terminal,
    processes: Vec<Process>,
    /// The span of the recorded command, which is a title and no line.
    root: Option<SpanId>,
    /// Programs that ran below each span.
    runs: HashMap<SpanId, u64>,
    totals: Totals,
}

/// Spans that the tree at the end draws for one process; more are counted only.
pub const MAX_SPANS: usize = 200;
/// Processes that the tree at the end draws.
pub const MAX_PROCESSES: usize = 50;
/// Of [`MAX_SPANS`], those that programs may take: what they belong to comes after them.
const MAX_RUNS: usize = 150;
/// Programs that are drawn below one span; more are counted only.
const MAX_RUNS_BELOW: u64 = 12;
/// Spans below which programs are counted.
const MAX_PARENTS: usize = 4096;

/// What was lost of the telemetry of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Losses {
    /// Plaintext that was not captured, or not decoded.
    pub bytes: u64,
    /// Spans that were not delivered to a file or collector.
    pub spans: u64,
}

#[derive(Debug)]
struct Process {
    /// What tells it from others.
    title: String,
    /// How long it ran, and its exit code: of the command that is recorded, once it has ended.
    run: Option<(Duration, i64)>,
    entries: Vec<Entry>,
    /// The process id, to be compared.
    pid: Option<i64>,
    /// Spans beyond [`MAX_SPANS`].
    more: u64,
}

/// A span, ready to be drawn.
#[derive(Debug)]
struct Entry {
    id: SpanId,
    parent: Option<SpanId>,
    kind: Kind,
    start: Timestamp,
    line: Line,
    excerpts: Vec<String>,
}

/// What a span is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Call,
    Turn,
    Tool,
    /// A program that ran, with its process id.
    Run(Option<i64>),
    /// The recorded command.
    Root,
}

/// All entries with what is below each, by their places in a list.
struct Forest<'a> {
    /// With the process that they are kept for.
    entries: Vec<(&'a Process, &'a Entry)>,
    below: HashMap<Option<usize>, Vec<usize>>,
}

/// Harmless pieces of one line with their colours.
#[derive(Debug, Default)]
struct Line(Vec<(String, Option<Colour>)>);

#[derive(Debug, Default)]
struct Totals {
    turns: u64,
    calls: u64,
    tools: u64,
    runs: u64,
    input_tokens: u64,
    output_tokens: u64,
    errors: u64,
    truncated: u64,
    undrawn: u64,
}

impl Tree {
    /// An empty tree.
    pub fn new(terminal: Terminal) -> Self {
        let (processes, runs) = (Vec::new(), HashMap::new());
        Self { terminal, processes, root: None, runs, totals: Totals::default() }
    }

    /// Takes what came out of the pipeline, and gives what to write now: the lines of a finished span. Log
    /// records and measurements are not drawn; the run of the command stands in the title of its tree, and programs
    /// that ran are drawn at the end only.
    pub fn add(&mut self, item: &Item) -> Option<String> {
        let Signal::Span { span_id, parent, span, .. } = &item.signal else { return None };
        let kind = Kind::of(span);
        self.totals.add(kind, span);
        if kind == Kind::Root {
            self.root = Some(*span_id);
            let code = int(&span.attributes, "process.exit.code").unwrap_or(0);
            if let Some(process) = self.process(&item.resource) {
                process.run = Some((span.end - span.start, code));
            }
            return None;
        }
        let failed = matches!(span.status, Status::Error(_));
        let line = Line::of(kind, span);
        let excerpts = excerpts(&span.attributes);
        let mut live = None;
        if !matches!(kind, Kind::Run(_)) {
            let mark = match failed {
                true => self.terminal.paint("✗", Colour::Red),
                false => self.terminal.paint("●", Colour::Green),
            };
            let who = (format!("[{}]", short_name(&item.resource)), Some(Colour::Dim));
            let mut text = format!("{mark} {}\n", line.text(self.terminal, 2, Some(&who)));
            for excerpt in &excerpts {
                text.push_str(&self.excerpt("  ", excerpt));
            }
            live = Some(text);
        }
        let parent = parent.as_ref().map(|parent| parent.span_id);
        self.keep(&item.resource, Entry { id: *span_id, parent, kind, start: span.start, line, excerpts });
        live
    }

    fn keep(&mut self, resource: &Resource, entry: Entry) {
        let is_run = matches!(entry.kind, Kind::Run(_));
        if let (true, Some(parent)) = (is_run, entry.parent)
            && (self.runs.len() < MAX_PARENTS || self.runs.contains_key(&parent))
        {
            let runs = self.runs.entry(parent).or_default();
            *runs += 1;
            if *runs > MAX_RUNS_BELOW {
                return;
            }
        }
        let most = if is_run { MAX_RUNS } else { MAX_SPANS };
        match self.process(resource) {
            Some(process) if process.entries.len() < most => process.entries.push(entry),
            Some(process) => process.more += 1,
            None => self.totals.undrawn += 1,
        }
    }

    /// `None` for one process too many.
    fn process(&mut self, resource: &Resource) -> Option<&mut Process> {
        let title = title(resource);
        let known = self.processes.iter().position(|process| process.title == title);
        if known.is_none() && self.processes.len() < MAX_PROCESSES {
            let pid = int(&resource.attributes, "process.pid");
            self.processes.push(Process { title, run: None, entries: Vec::new(), pid, more: 0 });
            return self.processes.last_mut();
        }
        known.map(|known| &mut self.processes[known])
    }

    /// The whole tree and one line of totals.
    pub fn finish(&self, losses: Losses) -> String {
        let mut text = String::new();
        let forest = self.forest();
        // The recorded command ends last and stands first.
        let (command, others): (Vec<_>, Vec<_>) =
            self.processes.iter().partition(|process| process.run.is_some());
        for process in command.into_iter().chain(others) {
            self.draw_process(process, &forest, &mut text);
        }
        if self.totals.undrawn > 0 {
            text.push_str(&format!("… and {} of other processes\n", plural(self.totals.undrawn, "span")));
        }
        text.push_str(&self.totals_line(losses));
        text
    }

    fn forest(&self) -> Forest<'_> {
        /// Deeper than anything that is drawn.
        const DEEPEST: usize = 1024;
        let of = |process: &'_ Process| process.entries.len();
        let mut entries = Vec::with_capacity(self.processes.iter().map(of).sum());
        for process in &self.processes {
            entries.extend(process.entries.iter().map(|entry| (process, entry)));
        }
        let places: HashMap<SpanId, usize> =
            entries.iter().enumerate().map(|(place, (_, entry))| (entry.id, place)).collect();
        let mut above: Vec<Option<usize>> = vec![None; entries.len()];
        for (place, (_, entry)) in entries.iter().enumerate() {
            let Some(parent) = entry.parent.and_then(|parent| places.get(&parent).copied()) else { continue };
            // Whatever was on the wire: no circle is drawn.
            let mut ancestors = std::iter::successors(Some(parent), |ancestor| above[*ancestor]);
            let is_circle = ancestors.by_ref().take(DEEPEST).any(|ancestor| ancestor == place);
            if !is_circle && ancestors.next().is_none() {
                above[place] = Some(parent);
            }
        }
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by_key(|place| entries[*place].1.start);
        let mut below: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
        for place in order {
            below.entry(above[place]).or_default().push(place);
        }
        Forest { entries, below }
    }

    fn draw_process(&self, process: &Process, forest: &Forest<'_>, text: &mut String) {
        let tops = forest.below.get(&None).map_or(&[][..], Vec::as_slice);
        let tops = tops.iter().filter(|place| std::ptr::eq(forest.entries[**place].0, process));
        // A program whose parent is not drawn says nothing by itself.
        let (tops, lost): (Vec<usize>, Vec<usize>) = tops.partition(|place| {
            let entry = forest.entries[**place].1;
            !matches!(entry.kind, Kind::Run(_)) || entry.parent == self.root || entry.parent.is_none()
        });
        let more = process.more + lost.len() as u64;
        if tops.is_empty() && more == 0 && process.run.is_none() {
            return; // All that it did stands below what another process did.
        }
        let mut title = Line(vec![(process.title.clone(), Some(Colour::Bold))]);
        if let Some((took, code)) = process.run {
            title.0.push((time(took), None));
            title.0.extend((code != 0).then(|| (format!("exit code {code}"), Some(Colour::Red))));
        }
        text.push_str(&title.text(self.terminal, 0, None));
        text.push('\n');
        let mut more_lines = Vec::new();
        if process.run.is_some() {
            more_lines.extend(self.root.and_then(|root| self.more_runs(root)));
        }
        if more > 0 {
            more_lines.push(format!("… and {} more", plural(more, "span")));
        }
        self.draw(&tops, &more_lines, forest, "", process.pid, text);
    }

    /// How many programs ran below a span beyond those that are drawn.
    fn more_runs(&self, parent: SpanId) -> Option<String> {
        let more = self.runs.get(&parent)?.checked_sub(MAX_RUNS_BELOW).filter(|more| *more > 0)?;
        Some(format!("… and {} more", processes(more)))
    }

    /// `pid`: whose doing what is here is, where it does not say so itself.
    fn draw(
        &self,
        list: &[usize],
        more: &[String],
        forest: &Forest<'_>,
        indent: &str,
        pid: Option<i64>,
        text: &mut String,
    ) {
        /// Where nesting is cut: nothing that we trace nests deeper, and the indent stays readable.
        const MAX_INDENT: usize = 16 * 3;
        for (position, place) in list.iter().enumerate() {
            let last = position + 1 == list.len() && more.is_empty();
            let (branch, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let (process, entry) = forest.entries[*place];
            let prefix = format!("{indent}{branch}");
            text.push_str(&self.terminal.paint(&prefix, Colour::Dim));
            let is_run = matches!(entry.kind, Kind::Run(_));
            let who =
                (process.pid != pid && !is_run).then(|| (format!("[{}]", process.title), Some(Colour::Dim)));
            text.push_str(&entry.line.text(self.terminal, prefix.width(), who.as_ref()));
            text.push('\n');
            let children = forest.below.get(&Some(*place)).map_or(&[][..], Vec::as_slice);
            let more: Vec<String> = self.more_runs(entry.id).into_iter().collect();
            let indent = match indent.chars().count() < MAX_INDENT {
                true => format!("{indent}{below}"),
                false => indent.to_owned(),
            };
            let bar = if children.is_empty() { "" } else { "│" };
            for excerpt in &entry.excerpts {
                text.push_str(&self.excerpt(&format!("{indent}{bar}"), excerpt));
            }
            let pid = match entry.kind {
                // What a program did is its own process' doing; what it started is told as its caller's.
                Kind::Run(own) => own,
                _ => process.pid,
            };
            self.draw(children, &more, forest, &indent, pid, text);
        }
        for (position, line) in more.iter().enumerate() {
            let branch = if position + 1 == more.len() { "└─" } else { "├─" };
            text.push_str(&self.terminal.paint(&format!("{indent}{branch} {line}"), Colour::Dim));
            text.push('\n');
        }
    }

    fn excerpt(&self, indent: &str, excerpt: &str) -> String {
        let room = self.terminal.width.saturating_sub(indent.width() + 2);
        format!("{}\n", self.terminal.paint(&format!("{indent}  {}", harmless(excerpt, room)), Colour::Dim))
    }

    /// Such as `2 calls, 103 → 61 tokens, 0 errors, 0 bytes lost`, with a newline.
    fn totals_line(&self, losses: Losses) -> String {
        let Totals { turns, calls, tools, runs, input_tokens, output_tokens, errors, truncated, .. } =
            self.totals;
        let red = |bad: bool, text: String| if bad { self.terminal.paint(&text, Colour::Red) } else { text };
        let mut parts = Vec::new();
        parts.extend((turns > 0).then(|| plural(turns, "turn")));
        parts.push(plural(calls, "call"));
        parts.extend((tools > 0).then(|| plural(tools, "tool call")));
        parts.extend((runs > 0).then(|| processes(runs)));
        parts.push(format!("{} → {} tokens", grouped(input_tokens), grouped(output_tokens)));
        parts.push(red(errors > 0, plural(errors, "error")));
        if truncated > 0 {
            parts.push(red(true, format!("{} truncated", grouped(truncated))));
        }
        parts.push(red(losses.bytes > 0, format!("{} lost", plural(losses.bytes, "byte"))));
        if losses.spans > 0 {
            parts.push(red(true, format!("{} not delivered", plural(losses.spans, "span"))));
        }
        parts.join(", ") + "\n"
    }
}

/// A finished span as one JSON object on one line, with OTLP's names; `None` for all else.
pub fn json_line(item: &Item) -> Option<String> {
    let Signal::Span { trace_id, span_id, parent, span } = &item.signal else { return None };
    let mut object = identity(trace_id, span_id, parent.as_ref());
    object.insert("name".into(), span.name.as_str().into());
    let kind = match span.kind {
        SpanKind::Client => "client",
        SpanKind::Internal => "internal",
    };
    object.insert("kind".into(), kind.into());
    object.insert("startTimeUnixNano".into(), span.start.0.into());
    object.insert("endTimeUnixNano".into(), span.end.0.into());
    let status = match &span.status {
        Status::Unset => json!({"code": "unset"}),
        Status::Error(message) => json!({"code": "error", "message": message}),
    };
    object.insert("status".into(), status);
    object.insert("attributes".into(), json_attributes(&span.attributes));
    if !span.events.is_empty() {
        let events = span.events.iter().map(|event| {
            let attributes = json_attributes(&event.attributes);
            json!({"name": event.name, "timeUnixNano": event.at.0, "attributes": attributes})
        });
        object.insert("events".into(), events.collect());
    }
    object.insert("resource".into(), json_attributes(&item.resource.attributes));
    Some(harmless_json(&Json::Object(object).to_string()) + "\n")
}

fn identity(trace: &TraceId, span: &SpanId, parent: Option<&SpanContext>) -> Map<String, Json> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut object = Map::new();
    object.insert("traceId".into(), hex(&trace.0).into());
    object.insert("spanId".into(), hex(&span.0).into());
    if let Some(parent) = parent {
        object.insert("parentSpanId".into(), hex(&parent.span_id.0).into());
    }
    object
}

fn json_attributes(attributes: &Attributes) -> Json {
    let value = |value: &Value| match value {
        Value::Str(text) => text.as_ref().into(),
        Value::Int(number) => (*number).into(),
        Value::Double(number) => (*number).into(),
        Value::Bool(truth) => (*truth).into(),
        Value::Strs(texts) => texts.iter().map(|text| Json::from(text.as_ref())).collect(),
    };
    attributes
        .iter()
        .map(|(key, attribute)| (key.to_string(), value(attribute)))
        .collect::<Map<_, _>>()
        .into()
}

impl Kind {
    fn of(span: &Span) -> Kind {
        let attributes = &span.attributes;
        if attribute(attributes, spans::CAUSE).is_some() {
            return Kind::Run(int(attributes, "process.pid"));
        }
        if attribute(attributes, "process.exit.code").is_some() {
            return Kind::Root;
        }
        match text(attributes, "gen_ai.operation.name") {
            Some("invoke_agent") => Kind::Turn,
            Some("execute_tool") => Kind::Tool,
            _ => Kind::Call,
        }
    }
}

impl Line {
    /// Name, time, tokens, and what went wrong.
    fn of(kind: Kind, span: &Span) -> Self {
        /// Columns that one captured word may take.
        const WORD: usize = 60;
        let attributes = &span.attributes;
        let took = (time(span.end - span.start), None);
        if let Kind::Run(_) = kind {
            return Self::of_run(span, took);
        }
        let mut pieces = vec![(harmless(&span.name, WORD), Some(Colour::Bold)), took];
        if let Some(seconds) = double(attributes, "gen_ai.response.time_to_first_chunk") {
            let first = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            pieces.push((format!("first chunk {}", time(first)), None));
        }
        if let Some(tokens) = tokens(attributes) {
            pieces.push((tokens, None));
        }
        let reasons: Vec<&str> =
            texts(attributes, "gen_ai.response.finish_reasons").map(Cow::as_ref).collect();
        if !reasons.is_empty() {
            pieces.push((format!("finish {}", harmless(&reasons.join(", "), WORD)), None));
        }
        if let Status::Error(_) = span.status {
            let kind = text(attributes, "error.type").unwrap_or("unknown");
            pieces.push((format!("error {}", harmless(kind, WORD)), Some(Colour::Red)));
        }
        match text(attributes, spans::TURN_END) {
            None | Some("answered") => {}
            Some("process_exit") => pieces.push(("no answer".into(), Some(Colour::Yellow))),
            Some(why) => pieces.push((format!("no answer ({})", harmless(why, WORD)), Some(Colour::Yellow))),
        }
        if attribute(attributes, spans::TOOL_END).is_some() {
            pieces.push(("no result".into(), Some(Colour::Yellow)));
        }
        if truth(attributes, "agentsight.response.incomplete") {
            pieces.push(("incomplete".into(), Some(Colour::Yellow)));
        }
        if truth(attributes, "agentsight.capture.truncated") {
            pieces.push(("truncated".into(), Some(Colour::Yellow)));
        }
        Self(pieces)
    }

    /// The command line as far as it is told, else the program's name; and how it ended.
    fn of_run(span: &Span, took: (String, Option<Colour>)) -> Self {
        /// Columns of a command line.
        const COMMAND: usize = 80;
        let attributes = &span.attributes;
        let words: Vec<&str> = texts(attributes, "process.command_args").map(Cow::as_ref).collect();
        let command = if words.is_empty() { span.name.clone() } else { words.join(" ") };
        let mut pieces = vec![(format!("$ {}", harmless(&command, COMMAND)), None), took];
        match (int(attributes, spans::SIGNAL), int(attributes, "process.exit.code")) {
            (Some(signal), _) => pieces.push((format!("signal {signal}"), Some(Colour::Red))),
            (None, Some(0) | None) => {}
            (None, Some(code)) => pieces.push((format!("exit code {code}"), Some(Colour::Red))),
        }
        if truth(attributes, spans::RUNNING) {
            pieces.push(("still running".into(), Some(Colour::Yellow)));
        }
        if text(attributes, spans::CAUSE) == Some("ambiguous") {
            pieces.push(("of which tool is not known".into(), Some(Colour::Yellow)));
        }
        Self(pieces)
    }

    /// The pieces that fit behind `used` columns, and then `last`, where it fits, too.
    fn text(&self, terminal: Terminal, used: usize, last: Option<&(String, Option<Colour>)>) -> String {
        const BETWEEN: &str = "  ";
        let mut line = String::new();
        let mut columns = used;
        for (position, (piece, colour)) in self.0.iter().chain(last).enumerate() {
            let between = if position == 0 { "" } else { BETWEEN };
            let room = terminal.width.saturating_sub(columns + between.len());
            // The first piece is cut where it must be; of the others only whole ones tell the truth.
            let piece = if position == 0 { &harmless(piece, room) } else { piece };
            if piece.width() > room {
                if columns < terminal.width {
                    line.push('…');
                }
                break;
            }
            line.push_str(between);
            line.push_str(&colour.map_or_else(|| piece.clone(), |colour| terminal.paint(piece, colour)));
            columns += between.len() + piece.width();
        }
        line
    }
}

impl Totals {
    fn add(&mut self, kind: Kind, span: &Span) {
        match kind {
            Kind::Call => {
                self.calls += u64::from(attribute(&span.attributes, "gen_ai.operation.name").is_some());
            }
            Kind::Turn => self.turns += 1,
            Kind::Tool => self.tools += 1,
            Kind::Run(_) => self.runs += 1,
            Kind::Root => {}
        }
        // What a program's exit code means, it knows itself; a turn's sums are those of its calls.
        if matches!(kind, Kind::Tool) {
            self.errors += u64::from(matches!(span.status, Status::Error(_)));
        }
        if kind != Kind::Call {
            return;
        }
        let attributes = &span.attributes;
        let count = |key| int(attributes, key).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        self.input_tokens = self.input_tokens.saturating_add(count("gen_ai.usage.input_tokens"));
        self.output_tokens = self.output_tokens.saturating_add(count("gen_ai.usage.output_tokens"));
        self.errors += u64::from(matches!(span.status, Status::Error(_)));
        self.truncated += u64::from(truth(attributes, "agentsight.capture.truncated"));
    }
}

/// Such as `52 (40 cached) → 17 tokens`.
fn tokens(attributes: &Attributes) -> Option<String> {
    let input = int(attributes, "gen_ai.usage.input_tokens");
    let output = int(attributes, "gen_ai.usage.output_tokens");
    let part = |key, what| match int(attributes, key) {
        Some(count) if count > 0 => format!(" ({} {what})", grouped(count.unsigned_abs())),
        _ => String::new(),
    };
    let cached = part("gen_ai.usage.cache_read.input_tokens", "cached");
    let reasoning = part("gen_ai.usage.reasoning.output_tokens", "reasoning");
    let count = |count: i64| grouped(u64::try_from(count).unwrap_or(0));
    match (input, output) {
        (None, None) => None,
        (Some(input), None) => Some(format!("{}{cached} tokens", count(input))),
        (None, Some(output)) => Some(format!("→ {}{reasoning} tokens", count(output))),
        (Some(input), Some(output)) => {
            Some(format!("{}{cached} → {}{reasoning} tokens", count(input), count(output)))
        }
    }
}

/// The command line and process id, as far as the resource knows them.
fn title(resource: &Resource) -> String {
    let attributes = &resource.attributes;
    let words: Vec<&str> = texts(attributes, "process.command_args").map(Cow::as_ref).collect();
    let command = match words.is_empty() {
        false => harmless(&words.join(" "), MAX_TITLE),
        true => {
            harmless(text(attributes, "process.command_line").unwrap_or_else(|| program(resource)), MAX_TITLE)
        }
    };
    with_pid(command, attributes)
}

fn short_name(resource: &Resource) -> String {
    with_pid(harmless(program(resource), 40), &resource.attributes)
}

/// Columns of a command line in a title.
const MAX_TITLE: usize = 200;

fn program(resource: &Resource) -> &str {
    let attribute = |key| text(&resource.attributes, key);
    attribute("process.executable.name").or_else(|| attribute("service.name")).unwrap_or("unknown program")
}

fn with_pid(name: String, attributes: &Attributes) -> String {
    match int(attributes, "process.pid") {
        Some(pid) => format!("{name} (pid {pid})"),
        None => name,
    }
}

/// A line of the question and one of the answer, where the span has content.
fn excerpts(attributes: &Attributes) -> Vec<String> {
    let question = text(attributes, "gen_ai.input.messages").and_then(message_excerpt);
    let answer = text(attributes, "gen_ai.output.messages").and_then(message_excerpt);
    let mut lines = Vec::new();
    // A tool call's, and how it was answered.
    let told = |key| {
        let json = text(attributes, key)?;
        // A text without the quotes and escapes of JSON.
        let plain = (json.len() <= MAX_PARSED).then(|| serde_json::from_str::<String>(json).ok()).flatten();
        Some(harmless(plain.as_deref().unwrap_or(json), EXCERPT)).filter(|text| !text.is_empty())
    };
    lines.extend(told("gen_ai.tool.call.arguments"));
    lines.extend(told("gen_ai.tool.call.result").map(|result| format!("→ {result}")));
    lines.extend(question.map(|(role, text)| format!("{role}: {text}")));
    lines.extend(answer.map(|(_, text)| format!("→ {text}")));
    lines
}

/// Columns of an excerpt that are kept.
const EXCERPT: usize = 200;

/// Above it an excerpt is not worth the parsing.
const MAX_PARSED: usize = 4 << 20;

/// Role and beginning of the last message that says something.
fn message_excerpt(messages: &str) -> Option<(String, String)> {
    if messages.len() > MAX_PARSED {
        return None;
    }
    let messages: Json = serde_json::from_str(messages).ok()?;
    messages.as_array()?.iter().rev().find_map(|message| {
        let parts = message["parts"].as_array()?;
        let said = parts.iter().filter_map(part_excerpt).collect::<Vec<_>>().join(" ");
        let role = harmless(message["role"].as_str().unwrap_or("unknown"), 20);
        (!said.is_empty()).then(|| (role, harmless(&said, EXCERPT)))
    })
}

fn part_excerpt(part: &Json) -> Option<String> {
    /// Columns of one part.
    const PART: usize = 200;
    match part["type"].as_str()? {
        "text" => part["content"].as_str().map(|text| harmless(text, PART)),
        "tool_call" => {
            let arguments =
                if part["arguments"].is_null() { String::new() } else { part["arguments"].to_string() };
            Some(harmless(&format!("{}({arguments})", part["name"].as_str().unwrap_or("unknown")), PART))
        }
        "tool_call_response" => Some(match &part["response"] {
            Json::String(text) => harmless(text, PART),
            other => harmless(&other.to_string(), PART),
        }),
        // The model's thoughts and binary data say little in a line.
        _ => None,
    }
}

fn attribute<'a>(attributes: &'a Attributes, key: &str) -> Option<&'a Value> {
    attributes.iter().find_map(|(name, value)| (name == key).then_some(value))
}

fn text<'a>(attributes: &'a Attributes, key: &str) -> Option<&'a str> {
    match attribute(attributes, key)? {
        Value::Str(text) => Some(text),
        _ => None,
    }
}

fn texts<'a>(attributes: &'a Attributes, key: &str) -> impl Iterator<Item = &'a Cow<'static, str>> {
    match attribute(attributes, key) {
        Some(Value::Strs(texts)) => texts.as_slice(),
        _ => &[],
    }
    .iter()
}

fn int(attributes: &Attributes, key: &str) -> Option<i64> {
    match attribute(attributes, key)? {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

fn double(attributes: &Attributes, key: &str) -> Option<f64> {
    match attribute(attributes, key)? {
        Value::Double(number) => Some(*number),
        _ => None,
    }
}

fn truth(attributes: &Attributes, key: &str) -> bool {
    matches!(attribute(attributes, key), Some(Value::Bool(true)))
}

/// Such as `0.41 s`, `12 ms`, `3 min 20 s`.
fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.1 => format!("{:.0} ms", seconds * 1000.0),
        seconds if seconds < 100.0 => format!("{seconds:.2} s"),
        _ => format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60),
    }
}

/// Such as `1 process`, `2 processes`.
fn processes(count: u64) -> String {
    format!("{} process{}", grouped(count), if count == 1 { "" } else { "es" })
}

/// Such as `1 call`, `2 calls`.
fn plural(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// Such as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentsight_genai::telemetry::Event;
    use std::sync::Arc;

    const SECOND: f64 = 1e9;

    fn demo() -> Arc<Resource> {
        process(&["python3", "demo_agent.py"], 4711)
    }

    fn process(command: &[&str], pid: i64) -> Arc<Resource> {
        let words = command.iter().map(|word| Cow::Owned((*word).to_owned())).collect();
        let attributes = vec![
            ("process.executable.name".into(), Value::Str(command[0].to_owned().into())),
            ("process.command_args".into(), Value::Strs(words)),
            ("process.pid".into(), Value::Int(pid)),
        ];
        Arc::new(Resource { attributes })
    }

    struct Call {
        id: u8,
        parent: Option<u8>,
        resource: Arc<Resource>,
        span: Span,
    }

    fn call(id: u8, start: f64, seconds: f64) -> Call {
        let span = Span {
            name: "chat gpt-4o-mini".into(),
            kind: SpanKind::Client,
            parent: None,
            start: Timestamp((start * SECOND) as u64),
            end: Timestamp(((start + seconds) * SECOND) as u64),
            attributes: vec![("gen_ai.operation.name".into(), Value::Str("chat".into()))],
            status: Status::Unset,
            events: vec![],
        };
        Call { id, parent: None, resource: demo(), span }
    }

    impl Call {
        fn with(mut self, key: &'static str, value: Value) -> Self {
            self.span.attributes.push((key.into(), value));
            self
        }

        fn with_text(self, key: &'static str, text: &str) -> Self {
            self.with(key, Value::Str(text.to_owned().into()))
        }

        fn tokens(self, input: i64, output: i64) -> Self {
            self.with("gen_ai.usage.input_tokens", Value::Int(input))
                .with("gen_ai.usage.output_tokens", Value::Int(output))
        }

        fn finish(self, reason: &str) -> Self {
            self.with("gen_ai.response.finish_reasons", Value::Strs(vec![reason.to_owned().into()]))
        }

        fn below(mut self, parent: u8) -> Self {
            self.parent = Some(parent);
            self
        }

        fn of(mut self, resource: &Arc<Resource>) -> Self {
            self.resource = Arc::clone(resource);
            self
        }

        fn failed(mut self, kind: &str) -> Self {
            self.span.status = Status::Error(String::new());
            self.with_text("error.type", kind)
        }

        fn item(self) -> Item {
            let id = |id| SpanId([id; 8]);
            let context = |parent| SpanContext {
                trace_id: TraceId([9; 16]),
                span_id: id(parent),
                flags: 1,
                state: String::new(),
            };
            Item {
                resource: self.resource,
                signal: Signal::Span {
                    trace_id: TraceId([9; 16]),
                    span_id: id(self.id),
                    parent: self.parent.map(context),
                    span: Box::new(self.span),
                },
            }
        }
    }

    fn drawn(terminal: Terminal, calls: Vec<Call>) -> (String, String) {
        let mut tree = Tree::new(terminal);
        let live = calls.into_iter().filter_map(|call| tree.add(&call.item())).collect();
        (live, tree.finish(Losses::default()))
    }

    #[test]
    fn two_calls_of_one_program() {
        let (live, whole) = drawn(
            Terminal::PLAIN,
            vec![
                call(1, 0.0, 1.24)
                    .with("gen_ai.response.time_to_first_chunk", Value::Double(0.41))
                    .tokens(52, 17)
                    .finish("tool_calls"),
                call(2, 2.0, 0.98).tokens(51, 44).finish("stop"),
            ],
        );
        assert_eq!(
            live,
            "\
● chat gpt-4o-mini  1.24 s  first chunk 0.41 s  52 → 17 tokens  finish tool_calls  [python3 (pid 4711)]
● chat gpt-4o-mini  0.98 s  51 → 44 tokens  finish stop  [python3 (pid 4711)]
"
        );
        assert_eq!(
            whole,
            "\
python3 demo_agent.py (pid 4711)
├─ chat gpt-4o-mini  1.24 s  first chunk 0.41 s  52 → 17 tokens  finish tool_calls
└─ chat gpt-4o-mini  0.98 s  51 → 44 tokens  finish stop
2 calls, 103 → 61 tokens, 0 errors, 0 bytes lost
"
        );
    }

    #[test]
    fn a_run_without_calls_is_one_line() {
        assert_eq!(
            Tree::new(Terminal::PLAIN).finish(Losses::default()),
            "0 calls, 0 → 0 tokens, 0 errors, 0 bytes lost\n"
        );
    }

    fn span_of(id: u8, name: &str, start: f64, seconds: f64, attributes: &[(&'static str, &str)]) -> Call {
        let mut made = call(id, start, seconds);
        made.span.name = name.to_owned();
        made.span.attributes.clear();
        attributes.iter().fold(made, |made, (key, value)| made.with_text(key, value))
    }

    fn turn(id: u8, start: f64, seconds: f64) -> Call {
        span_of(id, "invoke_agent", start, seconds, &[("gen_ai.operation.name", "invoke_agent")])
            .with_text(spans::TURN_END, "answered")
    }

    fn tool(id: u8, name: &str, start: f64, seconds: f64) -> Call {
        let operation = [("gen_ai.operation.name", "execute_tool")];
        span_of(id, &format!("execute_tool {name}"), start, seconds, &operation)
    }

    fn program_run(id: u8, name: &str, pid: i64, start: f64, seconds: f64) -> Call {
        span_of(id, name, start, seconds, &[(spans::CAUSE, "command")]).with("process.pid", Value::Int(pid))
    }

    fn root(id: u8, resource: &Arc<Resource>, code: i64) -> Call {
        let root = span_of(id, "root", 0.0, 9.0, &[]).of(resource);
        root.with("process.exit.code", Value::Int(code))
    }

    #[test]
    fn turns_hold_calls_and_tools_and_these_what_they_ran_whichever_process_did_it() {
        let shell = process(&["sh", "-c", "agent"], 7);
        let agent = demo();
        let (live, whole) = drawn(
            Terminal::PLAIN,
            vec![
                call(3, 1.0, 1.0).below(2).tokens(52, 17).finish("tool_calls"),
                program_run(6, "cat", 13, 2.2, 0.1).below(5).with("process.exit.code", Value::Int(1)),
                program_run(5, "sh", 12, 2.1, 0.4).below(4).with(
                    "process.command_args",
                    Value::Strs(vec!["sh".into(), "-c".into(), "cat x; true".into()]),
                ),
                program_run(8, "serve", 14, 2.3, 6.0).below(2).with(spans::RUNNING, Value::Bool(true)),
                tool(4, "bash", 2.0, 1.0)
                    .below(2)
                    .with_text("gen_ai.tool.call.arguments", r#"{"command":"cat x; true"}"#)
                    .with_text("gen_ai.tool.call.result", r#""x""#),
                call(7, 3.0, 0.5).below(2).tokens(51, 44).finish("stop"),
                turn(2, 1.0, 3.0).below(10),
                program_run(10, "python3", 4711, 0.1, 8.0).below(1).of(&shell),
                root(1, &shell, 0),
            ],
        );
        assert!(agent.attributes.contains(&("process.pid".into(), Value::Int(4711))));
        assert_eq!(
            live,
            "\
● chat gpt-4o-mini  1.00 s  52 → 17 tokens  finish tool_calls  [python3 (pid 4711)]
● execute_tool bash  1.00 s  [python3 (pid 4711)]
    {\"command\":\"cat x; true\"}
    → x
● chat gpt-4o-mini  0.50 s  51 → 44 tokens  finish stop  [python3 (pid 4711)]
● invoke_agent  3.00 s  [python3 (pid 4711)]
"
        );
        assert_eq!(
            whole,
            "\
sh -c agent (pid 7)  9.00 s
└─ $ python3  8.00 s
   └─ invoke_agent  3.00 s
      ├─ chat gpt-4o-mini  1.00 s  52 → 17 tokens  finish tool_calls
      ├─ execute_tool bash  1.00 s
      │  │  {\"command\":\"cat x; true\"}
      │  │  → x
      │  └─ $ sh -c cat x; true  0.40 s
      │     └─ $ cat  0.10 s  exit code 1
      ├─ $ serve  6.00 s  still running
      └─ chat gpt-4o-mini  0.50 s  51 → 44 tokens  finish stop
1 turn, 2 calls, 1 tool call, 4 processes, 103 → 61 tokens, 0 errors, 0 bytes lost
"
        );
    }

    #[test]
    fn of_many_programs_the_first_are_drawn_and_the_rest_is_counted() {
        let mut tree = Tree::new(Terminal::PLAIN);
        for pid in 0..1_000 {
            tree.add(&program_run((pid % 200) as u8 + 20, "cc", pid, 1.5, 0.1).below(3).item());
        }
        for orphan in 0..5 {
            tree.add(&program_run(230 + orphan, "ld", 7, 1.5, 0.1).below(250).item());
        }
        tree.add(&tool(3, "bash", 1.0, 1.0).below(2).item());
        tree.add(&turn(2, 1.0, 2.0).item());
        let whole = tree.finish(Losses::default());
        assert_eq!(whole.matches("$ cc").count(), 12, "{whole}");
        assert!(whole.contains("│     └─ … and 988 processes more\n"), "{whole}");
        assert!(whole.contains("└─ … and 5 spans more\n") && !whole.contains("ld"), "{whole}");
    }

    #[test]
    fn errors_are_red_and_named() {
        let terminal = Terminal { colour: true, width: 100 };
        let (live, whole) = drawn(terminal, vec![call(1, 0.0, 0.012).failed("rate_limit_exceeded")]);
        assert_eq!(
            live,
            "\x1b[31m✗\x1b[0m \x1b[1mchat gpt-4o-mini\x1b[0m  12 ms  \x1b[31merror rate_limit_exceeded\x1b[0m  \x1b[2m[python3 (pid 4711)]\x1b[0m\n"
        );
        assert!(whole.ends_with("1 call, 0 → 0 tokens, \x1b[31m1 error\x1b[0m, 0 bytes lost\n"), "{whole}");
    }

    #[test]
    fn calls_stand_in_the_order_of_their_start_below_their_parents() {
        let (_, whole) = drawn(
            Terminal::PLAIN,
            vec![
                call(3, 3.0, 1.0),
                call(2, 2.0, 0.5).below(1),
                call(1, 1.0, 5.0),
                call(4, 2.5, 0.5).below(1),
                call(5, 2.6, 0.1).below(4),
            ],
        );
        assert_eq!(
            whole,
            "\
python3 demo_agent.py (pid 4711)
├─ chat gpt-4o-mini  5.00 s
│  ├─ chat gpt-4o-mini  0.50 s
│  └─ chat gpt-4o-mini  0.50 s
│     └─ chat gpt-4o-mini  0.10 s
└─ chat gpt-4o-mini  1.00 s
5 calls, 0 → 0 tokens, 0 errors, 0 bytes lost
"
        );
    }

    #[test]
    fn spans_that_name_each_other_as_parents_are_drawn_once() {
        let (_, whole) = drawn(
            Terminal::PLAIN,
            vec![call(1, 1.0, 1.0).below(2), call(2, 1.0, 1.0).below(1), call(3, 1.0, 1.0).below(3)],
        );
        assert_eq!(whole.matches("chat").count(), 3, "{whole}");
    }

    #[test]
    fn every_process_has_a_tree_of_its_own() {
        let node = process(&["node", "agent.js"], 7);
        let (_, whole) =
            drawn(Terminal::PLAIN, vec![call(1, 1.0, 1.0), call(2, 2.0, 1.0).of(&node), call(3, 3.0, 1.0)]);
        assert_eq!(
            whole,
            "\
python3 demo_agent.py (pid 4711)
├─ chat gpt-4o-mini  1.00 s
└─ chat gpt-4o-mini  1.00 s
node agent.js (pid 7)
└─ chat gpt-4o-mini  1.00 s
3 calls, 0 → 0 tokens, 0 errors, 0 bytes lost
"
        );
    }

    #[test]
    fn the_recorded_command_stands_first_with_its_time_and_exit_code() {
        let shell = process(&["sh", "-c", "agent"], 7);
        let run = |code| call(2, 0.0, 4.5).of(&shell).with("process.exit.code", Value::Int(code));
        let (live, whole) = drawn(Terminal::PLAIN, vec![call(1, 1.0, 1.0).below(2), run(3)]);
        assert_eq!(live, "● chat gpt-4o-mini  1.00 s  [python3 (pid 4711)]\n");
        assert_eq!(
            whole,
            "\
sh -c agent (pid 7)  4.50 s  exit code 3
python3 demo_agent.py (pid 4711)
└─ chat gpt-4o-mini  1.00 s
1 call, 0 → 0 tokens, 0 errors, 0 bytes lost
"
        );
        assert!(drawn(Terminal::PLAIN, vec![run(0)]).1.starts_with("sh -c agent (pid 7)  4.50 s\n0 calls,"));
    }

    #[test]
    fn content_is_shown_as_a_line_of_question_and_one_of_answer() {
        let input = json!([
            {"role": "user", "parts": [{"type": "text", "content": "What is\nthe weather?"}]},
            {"role": "assistant", "parts": [{"type": "tool_call", "id": "1", "name": "weather", "arguments": {"city": "Oslo"}}]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": "rain"}]},
        ]);
        let output = json!([{"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"}, {"type": "text", "content": "It rains."}]}]);
        let (live, whole) = drawn(
            Terminal::PLAIN,
            vec![
                call(1, 1.0, 1.0)
                    .with_text("gen_ai.input.messages", &input.to_string())
                    .with_text("gen_ai.output.messages", &output.to_string()),
                call(2, 2.0, 1.0).with_text(
                    "gen_ai.output.messages",
                    &input.as_array().map(|list| json!(list[..2])).expect("a list").to_string(),
                ),
            ],
        );
        assert_eq!(
            live,
            "\
● chat gpt-4o-mini  1.00 s  [python3 (pid 4711)]
    tool: rain
    → It rains.
● chat gpt-4o-mini  1.00 s  [python3 (pid 4711)]
    → weather({\"city\":\"Oslo\"})
"
        );
        assert_eq!(
            whole,
            "\
python3 demo_agent.py (pid 4711)
├─ chat gpt-4o-mini  1.00 s
│    tool: rain
│    → It rains.
└─ chat gpt-4o-mini  1.00 s
     → weather({\"city\":\"Oslo\"})
2 calls, 0 → 0 tokens, 0 errors, 0 bytes lost
"
        );
    }

    #[test]
    fn nothing_that_was_captured_reaches_the_terminal_as_a_command() {
        let evil = "\x1b]0;owned\x07\x1b[2J\u{9b}31m\r\n\u{202e}";
        let messages = json!([{"role": evil, "parts": [{"type": "text", "content": evil}, {"type": "tool_call", "name": evil, "arguments": {evil: evil}}]}]).to_string();
        let mut attacked = call(1, 1.0, 1.0)
            .of(&process(&[evil, evil], 1))
            .with_text("gen_ai.input.messages", &messages)
            .with_text("gen_ai.output.messages", &messages)
            .finish(evil)
            .failed(evil);
        attacked.span.name = evil.into();
        let item = attacked.item();
        let json = json_line(&item).expect("a span");
        let mut tree = Tree::new(Terminal::PLAIN);
        let text = tree.add(&item).expect("a span") + &tree.finish(Losses::default());
        for shown in [text, json] {
            let bad = shown.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
            assert_eq!(bad, None, "{shown:?}");
        }
    }

    #[test]
    fn lines_fit_the_terminal() {
        let terminal = Terminal { colour: false, width: 40 };
        let mut long = call(1, 1.0, 1.24).tokens(1_234_567, 89).finish("stop").with_text(
            "gen_ai.output.messages",
            &json!([{"role": "assistant", "parts": [{"type": "text", "content": "漢字".repeat(100)}]}])
                .to_string(),
        );
        let (live, whole) = drawn(terminal, vec![call(2, 0.0, 1.24).tokens(1_234_567, 89).finish("stop")]);
        assert_eq!(live, "● chat gpt-4o-mini  1.24 s…\n");
        assert!(whole.contains("└─ chat gpt-4o-mini  1.24 s…\n"), "{whole}");
        long.span.name = "chat ".to_owned() + &"x".repeat(100);
        let (live, whole) = drawn(terminal, vec![long]);
        for line in live.lines().chain(whole.lines().filter(|line| !line.ends_with("lost"))) {
            assert!(line.width() <= 40, "{line} has {} columns", line.width());
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut tree = Tree::new(Terminal::PLAIN);
        for _ in 0..MAX_SPANS + 1_800 {
            tree.add(&call(1, 1.0, 1.0).tokens(1_000, 1).item());
        }
        for pid in 0..60 {
            tree.add(&call(1, 1.0, 1.0).of(&process(&["a"], pid)).item());
        }
        let whole = tree.finish(Losses { bytes: 12_345, spans: 1 });
        assert!(whole.contains("└─ … and 1,800 spans more\n"), "{whole}");
        assert!(whole.contains("… and 11 spans of other processes\n"), "{whole}");
        assert!(whole.ends_with(
            "2,060 calls, 2,000,000 → 2,000 tokens, 0 errors, 12,345 bytes lost, 1 span not delivered\n"
        ));
    }

    #[test]
    fn what_is_missing_of_a_call_is_said() {
        let call = call(1, 1.0, 200.0)
            .with("agentsight.capture.truncated", Value::Bool(true))
            .with("agentsight.response.incomplete", Value::Bool(true))
            .with("gen_ai.usage.input_tokens", Value::Int(52))
            .with("gen_ai.usage.cache_read.input_tokens", Value::Int(40));
        let (live, whole) = drawn(Terminal::PLAIN, vec![call]);
        assert_eq!(
            live,
            "● chat gpt-4o-mini  3 min 20 s  52 (40 cached) tokens  incomplete  truncated  [python3 (pid 4711)]\n"
        );
        assert!(whole.ends_with("1 call, 52 → 0 tokens, 0 errors, 1 truncated, 0 bytes lost\n"), "{whole}");
    }

    #[test]
    fn a_span_is_one_line_of_json() {
        let mut failed =
            call(1, 1.0, 1.0).below(2).failed("timeout").with("x", Value::Strs(vec!["a".into()]));
        failed.span.attributes.push(("y".into(), Value::Double(0.5)));
        failed.span.events.push(Event {
            name: "e".into(),
            at: Timestamp(5),
            severity: 9,
            attributes: vec![],
        });
        let line = json_line(&failed.item()).expect("a span");
        assert_eq!(
            line,
            r#"{"traceId":"09090909090909090909090909090909","spanId":"0101010101010101","parentSpanId":"0202020202020202","name":"chat gpt-4o-mini","kind":"client","startTimeUnixNano":1000000000,"endTimeUnixNano":2000000000,"status":{"code":"error","message":""},"attributes":{"gen_ai.operation.name":"chat","error.type":"timeout","x":["a"],"y":0.5},"events":[{"name":"e","timeUnixNano":5,"attributes":{}}],"resource":{"process.executable.name":"python3","process.command_args":["python3","demo_agent.py"],"process.pid":4711}}"#.to_owned() + "\n"
        );
    }

    #[test]
    fn broken_content_is_no_excerpt() {
        for content in
            ["", "{", "[]", "{}", "[1]", "[{\"parts\": 1}]", "[{\"parts\": [{}]}]", &"[".repeat(100_000)]
        {
            assert_eq!(
                excerpts(&call(1, 1.0, 1.0).with_text("gen_ai.input.messages", content).span.attributes),
                Vec::<String>::new()
            );
        }
    }
}
