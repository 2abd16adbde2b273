//! Turns, tool calls and runs of programs in the words of OpenTelemetry's conventions.

use super::{Finished, Run, Tool, ToolEnd, Turn, What};
use agentsight_genai::content;
use agentsight_genai::semconv::{self, Options};
use agentsight_genai::telemetry::{Attributes, Span, SpanKind, Status, Value};
use agentsight_genai::time::Timestamp;
use serde_json::Value as Json;

/// How a turn ended.
pub const TURN_END: &str = "agentsight.turn.end";
/// Set to `unanswered` on a tool call whose result was not seen.
pub const TOOL_END: &str = "agentsight.tool.end";
/// Why a process hangs where it hangs.
pub const CAUSE: &str = "agentsight.process.cause";
/// The signal that ended a process.
pub const SIGNAL: &str = "agentsight.process.exit.signal";
/// Set to true on a process that went on when the tracing ended.
pub const RUNNING: &str = "agentsight.process.running";

/// The span of something that is finished. What a tool is called with and gives, and a program's arguments, are on it
/// only where content is asked for.
pub fn span(finished: &Finished, options: &Options) -> Span {
    match &finished.what {
        What::Turn(turn) => of_turn(turn, options),
        What::Tool(tool) => of_tool(tool, options),
        What::Run(run) => of_run(run, finished.process.tgid, options),
    }
}

fn of_turn(turn: &Turn, options: &Options) -> Span {
    let mut attributes = vec![text("gen_ai.operation.name", "invoke_agent")];
    if semconv::agent_names(options.vintage).provider_of_turn {
        // One of which no call has ended is evicted, or its process is gone.
        let provider = if turn.provider.is_empty() { "_OTHER" } else { turn.provider };
        attributes.push(text("gen_ai.provider.name", provider));
    }
    attributes.extend(turn.agent.map(|agent| text("gen_ai.agent.name", agent)));
    attributes.extend(turn.conversation.as_ref().map(|id| text("gen_ai.conversation.id", id)));
    attributes.extend(turn.model.as_ref().map(|model| text("gen_ai.request.model", model)));
    attributes.extend(turn.input_tokens.map(|sum| ("gen_ai.usage.input_tokens".into(), Value::Int(sum))));
    attributes.extend(turn.output_tokens.map(|sum| ("gen_ai.usage.output_tokens".into(), Value::Int(sum))));
    attributes.push(text(TURN_END, turn.ended.name()));
    let mut status = Status::Unset;
    if let Some(error) = &turn.error {
        attributes.push(text("error.type", error));
        status = Status::Error(error.clone());
    }
    let name = turn.agent.map_or_else(|| "invoke_agent".to_owned(), |agent| format!("invoke_agent {agent}"));
    internal(name, turn.start, turn.end, attributes, status)
}

fn of_tool(tool: &Tool, options: &Options) -> Span {
    let mut attributes = vec![
        text("gen_ai.operation.name", "execute_tool"),
        text("gen_ai.tool.name", &tool.name),
        text("gen_ai.tool.type", "function"),
    ];
    attributes.extend(tool.id.as_ref().map(|id| text("gen_ai.tool.call.id", id)));
    if semconv::agent_names(options.vintage).conversation_of_tool {
        attributes.extend(tool.conversation.as_ref().map(|id| text("gen_ai.conversation.id", id)));
    }
    if options.content {
        let arguments = Some(tool.arguments.reveal()).filter(|text| !text.is_empty());
        let arguments = arguments.map(|text| serde_json::from_str(text).unwrap_or_else(|_| Json::from(text)));
        let mut told = [arguments.unwrap_or_default(), tool.result.clone().unwrap_or_default()];
        told.iter_mut().for_each(|value| options.redactor.json(value));
        if content::shorten(&mut told, options.max_content) | tool.cut {
            attributes.push((content::TRUNCATED.into(), Value::Bool(true)));
        }
        let keys = ["gen_ai.tool.call.arguments", "gen_ai.tool.call.result"];
        let told = keys.into_iter().zip(told).filter(|(_, value)| !value.is_null());
        attributes.extend(told.map(|(key, value)| text(key, &value.to_string())));
    }
    let mut status = Status::Unset;
    match tool.ended {
        ToolEnd::Result => {}
        ToolEnd::Failed => {
            attributes.push(text("error.type", "tool_error"));
            status = Status::Error("tool_error".to_owned());
        }
        ToolEnd::Unanswered => attributes.push(text(TOOL_END, "unanswered")),
    }
    internal(format!("execute_tool {}", tool.name), tool.start, tool.end, attributes, status)
}

/// By the conventions for command-line programs, as their caller sees them.
fn of_run(run: &Run, pid: u32, options: &Options) -> Span {
    let name = run.program.path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("unknown");
    let mut attributes = vec![
        text("process.executable.name", name),
        text("process.executable.path", &run.program.path),
        ("process.pid".into(), Value::Int(i64::from(pid))),
    ];
    attributes.extend(run.parent.map(|parent| ("process.parent_pid".into(), Value::Int(i64::from(parent)))));
    if options.content && !run.program.arguments.is_empty() {
        let mut arguments = run.program.arguments.clone();
        if run.program.cut {
            // Half a secret looks like none.
            arguments.pop();
            attributes.push((content::TRUNCATED.into(), Value::Bool(true)));
        }
        options.redactor.arguments(&mut arguments);
        let arguments = arguments.into_iter().map(Into::into).collect();
        attributes.push(("process.command_args".into(), Value::Strs(arguments)));
    }
    attributes.push(text(CAUSE, run.cause.name()));
    let mut status = Status::Unset;
    match run.exit {
        Some(exit) => {
            attributes.push(("process.exit.code".into(), Value::Int(exit.code)));
            attributes.extend(exit.signal.map(|signal| (SIGNAL.into(), Value::Int(signal))));
            if exit.code != 0 {
                attributes.push(text("error.type", &exit.code.to_string()));
                status = Status::Error(format!("exit code {}", exit.code));
            }
        }
        None => attributes.push((RUNNING.into(), Value::Bool(true))),
    }
    let span = internal(name.to_owned(), run.start, run.end, attributes, status);
    Span { kind: SpanKind::Client, ..span }
}

fn internal(name: String, start: Timestamp, end: Timestamp, attributes: Attributes, status: Status) -> Span {
    let kind = SpanKind::Internal;
    Span { name, kind, parent: None, start, end: end.max(start), attributes, status, events: Vec::new() }
}

fn text(key: &'static str, text: &str) -> (agentsight_genai::telemetry::Key, Value) {
    (key.into(), Value::Str(text.to_owned().into()))
}
