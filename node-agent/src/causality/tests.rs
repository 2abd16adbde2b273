//! Sessions as they happen: requests and responses as bytes through the decoders, processes as events.

use super::*;
use agentsight_genai::connection::{Chunk, Connection, Limits as ConnectionLimits};
use agentsight_genai::http::{Direction, End};
use agentsight_genai::providers::{Found, Heard, Mailbox, Models, Settings};
use agentsight_genai::semconv::Options;
use agentsight_genai::telemetry::Value;
use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::sync::Arc;

/// Processes with connections to a model.
pub(super) struct World {
    pub(super) causality: Causality,
    key: FingerprintKey,
    connections: HashMap<(ProcessId, u64), Wire>,
    pub(super) now: u64,
}

struct Wire {
    connection: Connection<Models>,
    mailbox: Mailbox,
    offsets: [u64; 2],
}

pub(super) fn pid(tgid: u32) -> ProcessId {
    ProcessId { tgid, started: 1 }
}

impl World {
    pub(super) fn new() -> World {
        let key = FingerprintKey::new([7; 16]);
        World {
            causality: Causality::new(Limits::default(), [3; 32], key, Counters::default()),
            key,
            connections: HashMap::new(),
            now: 1_000,
        }
    }

    pub(super) fn tick(&mut self) -> Timestamp {
        self.now += 1_000_000;
        Timestamp(self.now)
    }

    /// A request on a connection of a process.
    pub(super) fn ask(&mut self, process: ProcessId, connection: u64, headers: &str, body: &Json) {
        let body = body.to_string();
        let bytes = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: llm.example\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert!(self.bytes(process, connection, Direction::Sent, bytes.as_bytes()).is_none());
    }

    /// Its response: the place of the call.
    pub(super) fn answer(&mut self, process: ProcessId, connection: u64, status: u16, body: &Json) -> Place {
        let body = body.to_string();
        let bytes = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.bytes(process, connection, Direction::Received, bytes.as_bytes()).expect("a call")
    }

    fn bytes(&mut self, process: ProcessId, number: u64, direction: Direction, data: &[u8]) -> Option<Place> {
        let at = self.tick();
        let wire = self.connections.entry((process, number)).or_insert_with(|| {
            let mailbox = Mailbox::default();
            let models = Models::new(Arc::new(Settings { content: true, ..Settings::default() }))
                .with_key(self.key)
                .with_mailbox(mailbox.clone());
            let connection = Connection::new(models, ConnectionLimits::default(), true);
            Wire { connection, mailbox, offsets: [0; 2] }
        });
        let offset = &mut wire.offsets[usize::from(direction == Direction::Received)];
        let chunk = Chunk { direction, at, offset: *offset, data, lost_after: 0 };
        *offset += data.len() as u64;
        let mut found = Vec::new();
        wire.connection.chunk(chunk, &mut |output| found.push(output));
        let id = |exchange| ExchangeId { process, connection: number, exchange };
        for heard in wire.mailbox.lock().unwrap().drain(..) {
            match heard {
                Heard::Asked(asked) => self.causality.asked(id(asked.links.exchange), &asked),
                Heard::NoCall(exchange) => self.causality.no_call(id(exchange)),
                Heard::Mcp(call) => panic!("of no model: {call:?}"),
            }
        }
        let place = found.into_iter().map(|found| match found {
            Found::Call(call) => self.causality.call(id(call.links.exchange), &call),
            other => panic!("{other:?}"),
        });
        place.last()
    }

    /// A child that runs a program.
    pub(super) fn run(&mut self, child: u32, parent: ProcessId, arguments: &[&str]) -> ProcessId {
        let child = pid(child);
        self.causality.fork(child, parent);
        self.exec(child, arguments);
        child
    }

    pub(super) fn exec(&mut self, process: ProcessId, arguments: &[&str]) {
        let at = self.tick();
        let program = Program {
            path: format!("/usr/bin/{}", arguments[0]),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            cut: false,
        };
        self.causality.exec(process, None, at, program);
    }

    pub(super) fn exit(&mut self, process: ProcessId) {
        let at = self.tick();
        for number in
            self.connections.keys().filter(|(own, _)| *own == process).map(|(_, n)| *n).collect::<Vec<_>>()
        {
            if let Some(wire) = self.connections.remove(&(process, number)) {
                wire.connection.close(at, End::Unknown, &mut |found| {
                    if let Found::Call(call) = found {
                        let id = ExchangeId { process, connection: number, exchange: call.links.exchange };
                        self.causality.call(id, &call);
                    }
                });
            }
            self.causality.closed(process, number);
        }
        self.causality.exit(process, at, Exit::of_status(0));
    }

    /// Everything that is finished, each as `name < name of what it hangs on`, in the order in which it began.
    fn tree(&mut self, calls: &[(&str, &Place)]) -> Vec<String> {
        let finished = self.causality.take();
        let mut names: HashMap<SpanId, String> =
            calls.iter().map(|(name, place)| (place.span_id, (*name).to_owned())).collect();
        let mut spans: Vec<_> = finished
            .iter()
            .map(|finished| (spans::span(finished, &Options::default()), &finished.place))
            .collect();
        spans.sort_by_key(|(span, _)| span.start);
        for (span, place) in &spans {
            names.insert(place.span_id, span.name.clone());
        }
        let above = |place: &Place| match &place.parent {
            None => "nothing".to_owned(),
            Some(parent) => names.get(&parent.span_id).cloned().unwrap_or_else(|| "unknown".to_owned()),
        };
        let calls = calls.iter().map(|(name, place)| format!("{name} < {}", above(place)));
        calls.chain(spans.iter().map(|(span, place)| format!("{} < {}", span.name, above(place)))).collect()
    }
}

pub(super) fn tool_call(id: &str, name: &str, arguments: &Json) -> Json {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments.to_string()}})
}

/// A response: a text, or tool calls.
pub(super) fn response(id: &str, message: &Json) -> Json {
    let reason = if message.get("tool_calls").is_some() { "tool_calls" } else { "stop" };
    json!({"id": id, "model": "m", "choices": [{"index": 0, "finish_reason": reason, "message": message}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5}})
}

pub(super) fn request(messages: &[Json]) -> Json {
    json!({"model": "m", "messages": messages, "tools": [{"type": "function", "function": {"name": "bash"}}]})
}

fn user(text: &str) -> Json {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Json {
    json!({"role": "assistant", "content": text})
}

fn asks(calls: &[Json]) -> Json {
    json!({"role": "assistant", "content": null, "tool_calls": calls})
}

fn result(id: &str, text: &str) -> Json {
    json!({"role": "tool", "tool_call_id": id, "content": text})
}

fn bash(id: &str, command: &str) -> Json {
    tool_call(id, "bash", &json!({"command": command}))
}

const AGENT: u32 = 100;

#[test]
fn a_turn_holds_its_calls_its_tool_and_what_the_tool_ran() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    let mut messages = vec![user("run the tests")];
    world.ask(agent, 1, "", &request(&messages));
    messages.push(asks(&[bash("call_1", "pytest -q")]));
    let first = world.answer(agent, 1, 200, &response("r1", &messages[1]));
    let shell = world.run(101, agent, &["sh", "-c", "pytest -q"]);
    let test = world.run(102, shell, &["pytest", "-q"]);
    world.exit(test);
    world.exit(shell);
    messages.push(result("call_1", "1 passed"));
    world.ask(agent, 1, "", &request(&messages));
    let second = world.answer(agent, 1, 200, &response("r2", &assistant("done")));
    assert_eq!(
        world.tree(&[("first", &first), ("second", &second)]),
        [
            "first < invoke_agent",
            "second < invoke_agent",
            "invoke_agent < nothing",
            "execute_tool bash < invoke_agent",
            "sh < execute_tool bash",
            "pytest < sh",
        ]
    );
    assert_eq!(world.causality.counters().processes, [1, 0, 1, 0, 0]);
}

#[test]
fn a_turn_tells_its_sums_and_content_only_where_asked() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    let mut messages = vec![user("x")];
    let headers = "user-agent: claude-cli/2.1\r\nx-claude-code-session-id: s-1\r\n";
    world.ask(agent, 1, headers, &request(&messages));
    messages.push(asks(&[bash("call_1", "echo CANARY")]));
    world.answer(agent, 1, 200, &response("r1", &messages[1]));
    messages.push(result("call_1", "CANARY"));
    world.ask(agent, 1, headers, &request(&messages));
    world.answer(agent, 1, 200, &response("r2", &assistant("done")));
    let finished = world.causality.take();
    let [tool, turn] = &finished[..] else { panic!("{finished:?}") };
    let span = spans::span(turn, &Options::default());
    assert_eq!(span.name, "invoke_agent claude-code");
    for (key, value) in [
        ("gen_ai.usage.input_tokens", Value::Int(20)),
        ("gen_ai.usage.output_tokens", Value::Int(10)),
        ("gen_ai.conversation.id", Value::Str("s-1".into())),
        ("gen_ai.request.model", Value::Str("m".into())),
        (spans::TURN_END, Value::Str("answered".into())),
    ] {
        assert!(span.attributes.contains(&(key.into(), value)), "{key}: {span:?}");
    }
    assert!(!format!("{:?}", spans::span(tool, &Options::default())).contains("CANARY"));
    let content = Options { content: true, ..Options::default() };
    let told = spans::span(tool, &content).attributes;
    let arguments = ("gen_ai.tool.call.arguments".into(), Value::Str(r#"{"command":"echo CANARY"}"#.into()));
    let result = ("gen_ai.tool.call.result".into(), Value::Str("\"CANARY\"".into()));
    assert!(told.contains(&arguments) && told.contains(&result), "{told:?}");
}

#[test]
fn tools_in_parallel_are_told_apart_by_their_commands_and_twins_are_not() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    world.ask(agent, 1, "", &request(&[user("x")]));
    let calls = [bash("a", "ls src"), bash("b", "ls src/lib"), bash("c", "make"), bash("d", "make")];
    world.answer(agent, 1, 200, &response("r1", &asks(&calls)));
    for (child, command) in [(101, "ls src/lib"), (102, "ls src"), (103, "make"), (104, "git status")] {
        let child = world.run(child, agent, &["sh", "-c", command]);
        world.exit(child);
    }
    let runs: Vec<Cause> = world
        .causality
        .take()
        .iter()
        .map(|finished| match &finished.what {
            What::Run(run) => run.cause,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(runs, [Cause::Command, Cause::Command, Cause::Ambiguous, Cause::Turn]);
}

#[test]
fn a_program_that_starts_before_the_response_is_whole_is_decided_when_it_is() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    world.ask(agent, 1, "", &request(&[user("x")]));
    let early = world.run(101, agent, &["sh", "-c", "make all"]);
    let other = world.run(102, agent, &["git", "status"]);
    world.exit(early);
    world.exit(other);
    assert!(world.causality.take().is_empty());
    world.answer(agent, 1, 200, &response("r1", &asks(&[bash("a", "make all")])));
    world.exit(agent);
    assert_eq!(
        world.tree(&[]),
        [
            "invoke_agent < nothing",
            "sh < execute_tool bash",
            "git < invoke_agent",
            "execute_tool bash < invoke_agent",
        ]
    );
}

#[test]
fn a_sub_agent_hangs_on_the_tool_whose_prompt_it_got() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    world.ask(agent, 1, "", &request(&[user("x")]));
    let delegate = |id: &str, prompt: &str| tool_call(id, "agent", &json!({"prompt": prompt}));
    world.answer(agent, 1, 200, &response("r1", &asks(&[delegate("a", "find it"), delegate("b", "fix it")])));
    world.ask(agent, 2, "", &request(&[user("fix it")]));
    let sub = world.answer(agent, 2, 200, &response("r2", &asks(&[bash("c", "make")])));
    world.ask(agent, 3, "", &request(&[user("something else")]));
    let other = world.answer(agent, 3, 200, &response("r3", &assistant("done")));
    let make = world.run(101, agent, &["sh", "-c", "make"]);
    world.exit(make);
    let sub_turn = sub.parent.unwrap().span_id;
    let finished = world.causality.take();
    let [other_turn, run] = &finished[..] else { panic!("{finished:?}") };
    assert_eq!(other.parent.unwrap().span_id, other_turn.place.span_id);
    assert_eq!(other_turn.place.parent, None, "nothing tells that another agent started it");
    assert!(matches!(&run.what, What::Run(run) if run.cause == Cause::Command));
    world.exit(agent);
    let finished = world.causality.take();
    let turn = finished.iter().find(|f| f.place.span_id == sub_turn).unwrap();
    let tool = turn.place.parent.as_ref().unwrap().span_id;
    let tool = finished.iter().find(|f| f.place.span_id == tool).unwrap();
    assert!(matches!(&tool.what, What::Tool(tool) if tool.id.as_deref() == Some("b")));
}

#[test]
fn an_agent_that_a_tool_starts_is_below_its_process() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    world.ask(agent, 1, "", &request(&[user("x")]));
    world.answer(agent, 1, 200, &response("r1", &asks(&[bash("a", "claude -p hi")])));
    let inner = world.run(101, agent, &["claude", "-p", "hi"]);
    world.ask(inner, 1, "", &request(&[user("hi")]));
    let call = world.answer(inner, 1, 200, &response("r2", &assistant("done")));
    world.exit(inner);
    let tree = world.tree(&[("inner", &call)]);
    assert_eq!(tree, ["inner < invoke_agent", "claude < unknown", "invoke_agent < claude"]);
}

#[test]
fn a_request_to_a_server_of_tools_is_below_the_tool_that_it_serves() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    world.ask(agent, 1, "", &request(&[user("sum it up")]));
    let tools = [
        tool_call("call_1", "mcp__math__add", &json!({"a": 1})),
        tool_call("call_2", "subadd", &json!({"a": 1})),
        tool_call("call_3", "mcp__math__sub", &json!({"a": 1})),
        tool_call("call_4", "sub", &json!({"a": 1})),
    ];
    let first = world.answer(agent, 1, 200, &response("r1", &asks(&tools)));
    let mut place = |tool| world.causality.place_of_request(agent, None, tool);
    let (add, sub, list) = (place(Some("add")), place(Some("sub")), place(None));
    let named =
        SpanContext { trace_id: TraceId([1; 16]), span_id: SpanId([1; 8]), flags: 1, state: String::new() };
    let own = world.causality.place_of_request(agent, Some(named.clone()), Some("add"));
    assert_eq!((own.trace_id, own.parent), (named.trace_id, Some(named)), "what it names itself");
    assert_eq!(add.trace_id, first.trace_id);
    world.exit(agent);
    let tree = world.tree(&[("add", &add), ("sub", &sub), ("list", &list)]);
    assert_eq!(
        tree[..3],
        ["add < execute_tool mcp__math__add", "sub < invoke_agent", "list < invoke_agent"],
        "two may be `sub`, and neither is guessed: {tree:?}"
    );
}

#[test]
fn a_failed_request_that_comes_again_is_of_the_same_turn() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    let ask = request(&[user("x")]);
    world.ask(agent, 1, "", &ask);
    let failed = world.answer(agent, 1, 500, &json!({"error": {"type": "server_error"}}));
    world.ask(agent, 1, "", &ask);
    let answered = world.answer(agent, 1, 200, &response("r", &assistant("y")));
    assert_eq!(failed.parent, answered.parent);
    let finished = world.causality.take();
    let [Finished { what: What::Turn(turn), .. }] = &finished[..] else { panic!("{finished:?}") };
    assert_eq!((turn.calls, turn.error.as_deref()), (2, None));
    world.ask(agent, 1, "", &ask);
    let again = world.answer(agent, 1, 200, &response("r2", &assistant("y")));
    assert_ne!(again.parent, answered.parent, "what was answered is asked anew");
}

#[test]
fn a_message_of_the_user_ends_the_turn_that_waits_for_a_tool() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    let mut messages = vec![user("x")];
    world.ask(agent, 1, "", &request(&messages));
    messages.push(asks(&[bash("a", "sleep 99")]));
    world.answer(agent, 1, 200, &response("r1", &messages[1]));
    messages.push(user("stop"));
    world.ask(agent, 1, "", &request(&messages));
    let finished = world.causality.take();
    let [Finished { what: What::Turn(turn), .. }] = &finished[..] else { panic!("{finished:?}") };
    assert_eq!(turn.ended, Ended::Superseded, "the tool ran nothing and brought nothing: it is not told");
}

#[test]
fn a_turn_goes_on_in_another_process() {
    let mut world = World::new();
    let mut messages = vec![user("x")];
    world.ask(pid(1), 1, "", &request(&messages));
    messages.push(asks(&[bash("a", "ls")]));
    let first = world.answer(pid(1), 1, 200, &response("r1", &messages[1]));
    messages.push(result("a", "y"));
    world.ask(pid(2), 1, "", &request(&messages));
    let second = world.answer(pid(2), 1, 200, &response("r2", &assistant("z")));
    assert_eq!(first.parent, second.parent);
}

#[test]
fn conversations_that_are_alike_are_not_guessed() {
    let mut world = World::new();
    let mut messages = vec![user("x")];
    for process in [1, 2] {
        world.ask(pid(process), 1, "", &request(&messages));
        world.answer(pid(process), 1, 200, &response(&format!("r{process}"), &assistant("y")));
    }
    messages.extend([assistant("y"), user("go on")]);
    world.ask(pid(3), 1, "", &request(&messages));
    assert_eq!(world.causality.counters().ambiguous_requests, 1);
    world.ask(pid(2), 1, "", &request(&messages));
    assert_eq!(world.causality.counters().ambiguous_requests, 1, "its own is nearer");
}

#[test]
fn a_call_without_tools_is_no_turn() {
    let mut world = World::new();
    world.ask(pid(1), 1, "", &json!({"model": "m", "messages": [user("x")]}));
    let call = world.answer(pid(1), 1, 200, &response("r", &assistant("y")));
    assert_eq!(call.parent, None);
    assert!(world.causality.take().is_empty());
}

#[test]
fn a_traceparent_makes_the_call_and_the_turn_that_begins_with_it_children_of_the_applications_span() {
    let mut world = World::new();
    let header = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    world.ask(pid(1), 1, header, &request(&[user("x")]));
    let call = world.answer(pid(1), 1, 200, &response("r", &assistant("y")));
    let finished = world.causality.take();
    let [turn] = &finished[..] else { panic!("{finished:?}") };
    for place in [&turn.place, &call] {
        assert_eq!(place.parent.as_ref().unwrap().span_id.0[0], 0xb7);
        assert_eq!(place.trace_id.0[0], 0x0a);
    }
}

#[test]
fn what_a_daemon_starts_after_its_parents_have_gone_is_below_what_the_tool_ran() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    world.ask(agent, 1, "", &request(&[user("x")]));
    world.answer(agent, 1, 200, &response("r1", &asks(&[bash("a", "serve")])));
    let shell = world.run(101, agent, &["sh", "-c", "serve"]);
    let between = pid(102); // it only forks
    world.causality.fork(between, shell);
    let daemon = world.run(103, between, &["serve"]);
    world.exit(shell);
    world.exit(between);
    world.exit(agent);
    let late = world.run(104, daemon, &["log"]);
    assert!(world.causality.owns(agent), "its spans are still to come");
    world.exit(late);
    let now = world.tick();
    world.causality.finish(now);
    assert_eq!(
        world.tree(&[]),
        [
            "invoke_agent < nothing",
            "execute_tool bash < invoke_agent",
            "sh < execute_tool bash",
            "serve < sh",
            "log < serve",
        ]
    );
    assert!(!world.causality.owns(agent));
    assert_eq!(world.causality.memory(), 0);
}

#[test]
fn a_program_that_starts_itself_anew_again_and_again_fills_no_memory() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    world.ask(agent, 1, "", &request(&[user("x")]));
    world.answer(agent, 1, 200, &response("r1", &asks(&[bash("a", "serve")])));
    let mut last = world.run(101, agent, &["serve"]);
    for n in 102..1_102 {
        let next = world.run(n, last, &["serve"]);
        world.exit(last);
        last = next;
    }
    assert!(world.causality.processes.len() <= 3, "{}", world.causality.processes.len());
    let runs: Vec<_> = world.causality.take();
    let chained = runs
        .windows(2)
        .all(|two| two[1].place.parent.as_ref().map(|parent| parent.span_id) == Some(two[0].place.span_id));
    assert!(runs.len() == 1_000 && chained, "each is below the one that started it");
}

#[test]
fn a_process_that_goes_on_when_the_tracing_ends_is_told_without_an_exit_code() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    world.ask(agent, 1, "", &request(&[user("x")]));
    world.answer(agent, 1, 200, &response("r1", &asks(&[bash("a", "serve")])));
    world.run(101, agent, &["serve"]);
    let now = world.tick();
    world.causality.finish(now);
    let finished = world.causality.take();
    let run = finished.iter().find(|finished| matches!(finished.what, What::Run(_))).unwrap();
    let span = spans::span(run, &Options::default());
    assert!(span.attributes.contains(&(spans::RUNNING.into(), Value::Bool(true))), "{span:?}");
    assert!(!format!("{span:?}").contains("exit"), "{span:?}");
    assert_eq!(run.owner, agent);
}

#[test]
fn a_signal_is_told_beside_the_exit_code() {
    assert_eq!(Exit::of_status(0), Exit { code: 0, signal: None });
    assert_eq!(Exit::of_status(3 << 8), Exit { code: 3, signal: None });
    assert_eq!(Exit::of_status(9), Exit { code: 137, signal: Some(9) });
    assert_eq!(Exit::of_status(11 | 0x80), Exit { code: 139, signal: Some(11) }, "with a core dump");
}

#[test]
fn the_argument_that_was_cut_is_not_told() {
    let run = Run {
        program: Program {
            path: "/bin/x".to_owned(),
            arguments: vec!["x".to_owned(), "whole".to_owned(), "sk-ha".to_owned()],
            cut: true,
        },
        start: Timestamp(1),
        end: Timestamp(2),
        exit: None,
        parent: None,
        cause: Cause::Turn,
    };
    let mut ids = Ids(StdRng::from_seed([1; 32]));
    let what = What::Run(Box::new(run));
    let finished = Finished { process: pid(1), owner: pid(2), place: ids.place(None), what };
    let told = format!("{:?}", spans::span(&finished, &Options { content: true, ..Options::default() }));
    assert!(told.contains("whole") && !told.contains("sk-ha"), "{told}");
    assert!(told.contains("agentsight.content.truncated"), "{told}");
    for secret in ["whole", "sk-ha"] {
        assert!(!format!("{:?}", spans::span(&finished, &Options::default())).contains(secret));
        assert!(!format!("{finished:?}").contains(secret), "not even in a log");
    }
}

#[test]
fn a_request_that_is_no_call_after_all_leaves_nothing() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    // Another application's: it has the path, and not the body.
    for _ in 0..3 {
        world.ask(agent, 1, "", &json!({"text": "hello", "tools": ["hammer"]}));
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        assert!(world.bytes(agent, 1, Direction::Received, bytes).is_none());
    }
    assert_eq!((world.causality.open_turns(), world.causality.memory()), (0, 0));
    world.exit(agent);
    assert!(world.causality.take().is_empty());
}

#[test]
fn containers_are_not_joined_with_each_other() {
    let mut world = World::new();
    for process in [1, 2] {
        world.causality.scope(pid(process), u64::from(process));
    }
    let mut messages = vec![user("x")];
    world.ask(pid(1), 1, "", &request(&messages));
    messages.push(asks(&[bash("a", "ls")]));
    let first = world.answer(pid(1), 1, 200, &response("r1", &messages[1]));
    messages.push(result("a", "y"));
    world.ask(pid(2), 1, "", &request(&messages));
    let second = world.answer(pid(2), 1, 200, &response("r2", &assistant("z")));
    assert_ne!(
        first.parent, second.parent,
        "another tenant cannot put its calls into a turn by its tool's id"
    );
}

#[test]
fn a_turn_of_many_tools_takes_no_memory_for_those_that_have_ended() {
    let (mut world, agent) = (World::new(), pid(AGENT));
    let mut messages = vec![user("x")];
    let mut held = 0;
    for n in 0..20 {
        world.ask(agent, 1, "", &request(&messages));
        let id = format!("call_{n:02}");
        messages.push(asks(&[bash(&id, &"x".repeat(1000))]));
        world.answer(agent, 1, 200, &response(&format!("r{n:02}"), messages.last().unwrap()));
        messages.push(result(&id, "y"));
        if n == 9 {
            held = world.causality.memory();
        }
    }
    assert_eq!(world.causality.memory(), held, "as much as ten calls before");
}

#[test]
fn a_turn_that_never_ends_is_told_after_long_silence_or_at_the_end() {
    let mut world = World::new();
    for process in [1, 2] {
        world.ask(pid(process), 1, "", &request(&[user("x")]));
        world.answer(pid(process), 1, 200, &response("r", &asks(&[bash("a", "ls")])));
        world.now += 2 * Limits::default().idle;
    }
    world.causality.idle(Timestamp(world.now - 2 * Limits::default().idle));
    world.causality.finish(Timestamp(world.now));
    let ended: Vec<_> = world
        .causality
        .take()
        .iter()
        .map(|finished| match &finished.what {
            What::Turn(turn) => turn.ended,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ended, [Ended::Idle, Ended::Tracing]);
}

#[test]
fn what_is_held_is_bounded() {
    let mut world = World::new();
    world.causality.limits =
        Limits { turns: 3, bytes: 1 << 20, processes: 10, idle: u64::MAX, age: u64::MAX };
    for n in 0..20 {
        world.ask(pid(n), 1, "", &request(&[user("x")]));
        world.run(1000 + n, pid(n), &["sh"]);
    }
    let counters = world.causality.counters();
    assert_eq!((counters.turns, counters.evicted_turns), (20, 17));
    assert!(counters.evicted_processes > 0);
}
