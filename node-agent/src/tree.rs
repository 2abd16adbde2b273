//! Finished spans for people, and for programs line by line.
//!
//! Live, each call is one line of its own, because the traced program writes to the same terminal and nobody
//! knows what follows. At the end the whole tree is drawn, by process.

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
    totals: Totals,
}

/// Spans that the tree at the end draws for one process; more are counted only.
pub const MAX_SPANS: usize = 200;
/// Processes that the tree at the end draws.
pub const MAX_PROCESSES: usize = 50;

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
    /// Spans beyond [`MAX_SPANS`].
    more: u64,
}

/// A span, ready to be drawn.
#[derive(Debug)]
struct Entry {
    id: SpanId,
    parent: Option<SpanId>,
    start: Timestamp,
    line: Line,
    excerpts: Vec<String>,
}

/// Harmless pieces of one line with their colours.
#[derive(Debug, Default)]
struct Line(Vec<(String, Option<Colour>)>);

#[derive(Debug, Default)]
struct Totals {
    calls: u64,
    input_tokens: u64,
    output_tokens: u64,
    errors: u64,
    truncated: u64,
    undrawn: u64,
}

impl Tree {
    /// An empty tree.
    pub fn new(terminal: Terminal) -> Self {
        Self { terminal, processes: Vec::new(), totals: Totals::default() }
    }

    /// Takes what came out of the pipeline, and gives what to write now: the lines of a finished span. Log
    /// records and measurements are not drawn; the run of a program stands in the title of its tree.
    pub fn add(&mut self, item: &Item) -> Option<String> {
        let Signal::Span { span_id, parent, span, .. } = &item.signal else { return None };
        if let Some(code) = int(&span.attributes, "process.exit.code") {
            if let Some(process) = self.process(&item.resource) {
                process.run = Some((span.end - span.start, code));
            }
            return None;
        }
        self.totals.add(span);
        let failed = matches!(span.status, Status::Error(_));
        let line = Line::of(span);
        let excerpts = excerpts(&span.attributes);

        let mut live = match failed {
            true => self.terminal.paint("✗", Colour::Red),
            false => self.terminal.paint("●", Colour::Green),
        } + " ";
        let who = (format!("[{}]", short_name(&item.resource)), Some(Colour::Dim));
        live.push_str(&line.text(self.terminal, 2, Some(&who)));
        live.push('\n');
        for excerpt in &excerpts {
            live.push_str(&self.excerpt("  ", excerpt));
        }

        let parent = parent.as_ref().map(|parent| parent.span_id);
        self.keep(&item.resource, Entry { id: *span_id, parent, start: span.start, line, excerpts });
        Some(live)
    }

    fn keep(&mut self, resource: &Resource, entry: Entry) {
        match self.process(resource) {
            Some(process) if process.entries.len() < MAX_SPANS => process.entries.push(entry),
            Some(process) => process.more += 1,
            None => self.totals.undrawn += 1,
        }
    }

    /// `None` for one process too many.
    fn process(&mut self, resource: &Resource) -> Option<&mut Process> {
        let title = title(resource);
        let known = self.processes.iter().position(|process| process.title == title);
        if known.is_none() && self.processes.len() < MAX_PROCESSES {
            self.processes.push(Process { title, run: None, entries: Vec::new(), more: 0 });
            return self.processes.last_mut();
        }
        known.map(|known| &mut self.processes[known])
    }

    /// The whole tree and one line of totals.
    pub fn finish(&self, losses: Losses) -> String {
        let mut text = String::new();
        // The recorded command ends last and stands first.
        let (command, others): (Vec<_>, Vec<_>) =
            self.processes.iter().partition(|process| process.run.is_some());
        for process in command.into_iter().chain(others) {
            self.draw_process(process, &mut text);
        }
        if self.totals.undrawn > 0 {
            text.push_str(&format!("… and {} of other processes\n", plural(self.totals.undrawn, "span")));
        }
        text.push_str(&self.totals_line(losses));
        text
    }

    fn draw_process(&self, process: &Process, text: &mut String) {
        let mut title = Line(vec![(process.title.clone(), Some(Colour::Bold))]);
        if let Some((took, code)) = process.run {
            title.0.push((time(took), None));
            title.0.extend((code != 0).then(|| (format!("exit code {code}"), Some(Colour::Red))));
        }
        text.push_str(&title.text(self.terminal, 0, None));
        text.push('\n');

        let mut order: Vec<usize> = (0..process.entries.len()).collect();
        order.sort_by_key(|index| process.entries[*index].start);
        // A child stands below a parent that began before it. So no circle can be drawn, whatever was on the wire.
        let mut places: HashMap<SpanId, usize> = HashMap::new();
        let mut children: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
        for index in order {
            let entry = &process.entries[index];
            let parent = entry.parent.and_then(|parent| places.get(&parent).copied());
            children.entry(parent).or_default().push(index);
            places.insert(entry.id, index);
        }
        self.draw_below(process, None, &children, "", text);
        if process.more > 0 {
            text.push_str(&format!("└─ … and {} more\n", plural(process.more, "span")));
        }
    }

    fn draw_below(
        &self,
        process: &Process,
        parent: Option<usize>,
        children: &HashMap<Option<usize>, Vec<usize>>,
        indent: &str,
        text: &mut String,
    ) {
        /// Where nesting is cut: nothing that we trace nests deeper, and the indent stays readable.
        const MAX_INDENT: usize = 16 * 3;
        let Some(list) = children.get(&parent) else { return };
        let more_follow = parent.is_none() && process.more > 0;
        for (position, index) in list.iter().enumerate() {
            let last = position + 1 == list.len() && !more_follow;
            let (branch, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let below = if indent.chars().count() < MAX_INDENT {
                format!("{indent}{below}")
            } else {
                indent.to_owned()
            };
            let entry = &process.entries[*index];
            let prefix = format!("{indent}{branch}");
            text.push_str(&self.terminal.paint(&prefix, Colour::Dim));
            text.push_str(&entry.line.text(self.terminal, prefix.width(), None));
            text.push('\n');
            for excerpt in &entry.excerpts {
                text.push_str(&self.excerpt(&below, excerpt));
            }
            self.draw_below(process, Some(*index), children, &below, text);
        }
    }

    fn excerpt(&self, indent: &str, excerpt: &str) -> String {
        let room = self.terminal.width.saturating_sub(indent.width() + 2);
        format!("{}\n", self.terminal.paint(&format!("{indent}  {}", harmless(excerpt, room)), Colour::Dim))
    }

    /// Such as `2 calls, 103 → 61 tokens, 0 errors, 0 bytes lost`, with a newline.
    fn totals_line(&self, losses: Losses) -> String {
        let Totals { calls, input_tokens, output_tokens, errors, truncated, .. } = self.totals;
        let red = |bad: bool, text: String| if bad { self.terminal.paint(&text, Colour::Red) } else { text };
        let mut parts = vec![
            plural(calls, "call"),
            format!("{} → {} tokens", grouped(input_tokens), grouped(output_tokens)),
            red(errors > 0, plural(errors, "error")),
        ];
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

impl Line {
    /// Name, time, tokens, and what went wrong.
    fn of(span: &Span) -> Self {
        /// Columns that one captured word may take.
        const WORD: usize = 60;
        let attributes = &span.attributes;
        let mut pieces =
            vec![(harmless(&span.name, WORD), Some(Colour::Bold)), (time(span.end - span.start), None)];
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
        if truth(attributes, "agentsight.response.incomplete") {
            pieces.push(("incomplete".into(), Some(Colour::Yellow)));
        }
        if truth(attributes, "agentsight.capture.truncated") {
            pieces.push(("truncated".into(), Some(Colour::Yellow)));
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
    fn add(&mut self, span: &Span) {
        let attributes = &span.attributes;
        let count = |key| int(attributes, key).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        self.calls += u64::from(attribute(attributes, "gen_ai.operation.name").is_some());
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
    lines.extend(question.map(|(role, text)| format!("{role}: {text}")));
    lines.extend(answer.map(|(_, text)| format!("→ {text}")));
    lines
}

/// Role and beginning of the last message that says something.
fn message_excerpt(messages: &str) -> Option<(String, String)> {
    /// Above it the excerpt is not worth the parsing.
    const MAX_PARSED: usize = 4 << 20;
    /// Columns that are kept.
    const EXCERPT: usize = 200;
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
