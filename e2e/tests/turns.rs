//! What an agent did, from outside: the exported tree is that of the script that the agent went by.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, Recording};
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::{end_reader, fifo};
use agentsight_e2e::python;
use agentsight_e2e::telemetry::{Span, Telemetry};
use agentsight_e2e::tree::{self, label};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tempfile::TempDir;

#[test]
fn the_tree_of_an_agent_that_runs_tools_is_that_of_its_script() {
    let Some(agent) = Agent::or_skip() else { return };
    for options in [&[][..], &["--stream"], &["--api", "anthropic"], &["--api", "anthropic", "--stream"]] {
        let run = Run::of(&agent, &[], options);
        assert_eq!(run.seen(), run.expected(), "{options:?}");
        run.is_one_trace();
        for (cause, attribute, value) in [
            ("ls (lineage)", "process.exit.code", json!(2)),
            ("sh (lineage)", "agentsight.process.exit.signal", json!(9)),
            ("cat (lineage)", "agentsight.process.running", json!(true)),
        ] {
            let found = run.spans().filter(|span| label(span) == cause);
            let values: Vec<_> = found.filter_map(|span| span.attributes.get(attribute)).collect();
            assert!(values.contains(&&value), "{cause} {attribute}: {values:?}");
        }
    }
}

#[test]
fn two_conversations_in_one_process_are_told_apart() {
    let Some(agent) = Agent::or_skip() else { return };
    for options in [&["--together"][..], &["--together", "--api", "anthropic", "--stream"]] {
        let run = Run::of(&agent, &[], options);
        assert_eq!(run.seen(), run.expected(), "{options:?}");
        run.is_one_trace();
    }
}

/// What the agent says to its sidecar and what that passes on are the same calls: each is told once, as the agent's.
#[test]
fn behind_a_sidecar_each_call_is_told_once() {
    let Some(agent) = Agent::or_skip() else { return };
    for options in [&["--sidecar"][..], &["--sidecar", "--together", "--api", "anthropic", "--stream"]] {
        let run = Run::of(&agent, &["--plaintext", "-v"], options);
        assert_eq!(run.seen(), run.expected(), "{options:?}");
        run.is_one_trace();
        let calls: Vec<_> = run.telemetry().calls().collect();
        assert_eq!(calls.len(), run.served, "{options:?}");
        for call in calls {
            let name = call.resource["process.executable.name"].as_str().unwrap();
            assert!(name.starts_with("python"), "{name}");
            // stunnel passes on the very bytes, and so the name of the server.
            assert!(!call.attributes.contains_key("agentsight.upstream.server.port"), "{call:?}");
        }
        let log = String::from_utf8_lossy(&run.recording.output.stderr);
        assert!(log.contains(&format!("merged_calls={}", run.served)), "{log}");
    }
}

#[test]
fn what_tools_are_called_with_and_programs_get_is_content() {
    let Some(agent) = Agent::or_skip() else { return };
    let secrets = ["/proc/self/status", "/no/such/file", "hunter2", "Oslo"];
    let run = Run::of(&agent, &[], &[]);
    let screen = String::from_utf8_lossy(&run.recording.output.stderr).into_owned();
    for secret in secrets {
        assert!(!run.recording.telemetry.text.contains(secret), "{secret} is in the spans");
        assert!(!screen.contains(secret), "{secret} is on the terminal");
    }

    let run = Run::of(&agent, &["--content", "--tree", "always"], &[]);
    assert_eq!(run.seen(), run.expected());
    let screen = String::from_utf8_lossy(&run.recording.output.stderr).into_owned();
    assert!(screen.contains("$ ls /no/such/file"), "{screen}");
    let texts = |name: &str| {
        let spans = run.spans().filter_map(|span| span.attributes.get(name));
        spans.map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert!(texts("process.command_args").contains(r#"["ls","/no/such/file"]"#));
    assert!(texts("gen_ai.tool.call.arguments").contains("Oslo"));
    assert!(texts("gen_ai.tool.call.result").contains("noon in Oslo"));
    for name in ["process.command_args", "gen_ai.tool.call.arguments"] {
        let texts = texts(name);
        assert!(texts.contains("/proc/self/status") && !texts.contains("hunter2"), "{name}: {texts}");
    }
}

#[test]
fn the_conventions_find_nothing_wrong_with_turns_and_what_is_below() {
    let Some(agent) = Agent::or_skip() else { return };
    let run = Run::of(&agent, &["--content"], &[]);
    for span in run.spans() {
        let has = |name: &str| span.attributes.contains_key(name);
        let (kind, required): (u64, &[&str]) = match label(span).split(' ').next().unwrap() {
            "invoke_agent" => {
                (1, &["gen_ai.provider.name", "gen_ai.request.model", "gen_ai.usage.input_tokens"])
            }
            "execute_tool" => (1, &["gen_ai.tool.name", "gen_ai.tool.call.id", "gen_ai.tool.type"]),
            "chat" => (3, &["gen_ai.provider.name"]),
            _ => (3, &["process.executable.name", "process.executable.path", "process.pid"]),
        };
        assert_eq!(span.kind, kind, "{span:?}");
        assert!(required.iter().all(|name| has(name)), "{span:?}");
        assert_eq!(span.failed, has("error.type"), "{span:?}");
        assert!(span.start > 0 && span.start <= span.end, "{span:?}");
    }
    let agent: BTreeSet<_> = run.spans().map(|span| span.resource["process.pid"].to_string()).collect();
    assert_eq!(agent.len(), 1, "what the agent did has its resource");
}

/// A recorded run of `tool_loop.py`.
struct Run {
    recording: Recording,
    folder: TempDir,
    /// How many calls it answered.
    served: usize,
}

impl Run {
    fn of(agent: &Agent, record_options: &[&str], options: &[&str]) -> Self {
        let server = ModelServer::start();
        let folder = tempfile::tempdir().unwrap();
        let fifo = fifo(folder.path());
        let mut record = agent.record(python::interpreter());
        for option in record_options {
            record = record.option(option);
        }
        let recording = record
            .arg(python::agent("tool_loop.py"))
            .args(["--base", &server.base(), "--ca", &server.ca().to_string_lossy()])
            .arg("--fifo")
            .arg(&fifo)
            .arg("--expected")
            .arg(folder.path().join("expected.json"))
            .args(options)
            .run()
            .succeeded();
        // What the agent left running.
        if !options.contains(&"--together") {
            end_reader(&fifo);
        }
        let served = server.stop().len();
        Self { recording, folder, served }
    }

    fn telemetry(&self) -> &Telemetry {
        &self.recording.telemetry
    }

    fn root(&self) -> &Span {
        let roots: Vec<_> =
            self.telemetry().spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
        assert_eq!(roots.len(), 1, "{roots:#?}");
        roots[0]
    }

    /// All but the command's own.
    fn spans(&self) -> impl Iterator<Item = &Span> {
        self.telemetry().spans.iter().filter(|span| !span.parent_span_id.is_empty())
    }

    fn is_one_trace(&self) {
        let traces: BTreeSet<_> = self.telemetry().spans.iter().map(|span| &span.trace_id).collect();
        assert_eq!(traces.len(), 1, "{traces:?}");
    }

    /// The tree that was exported, below the span of the command.
    fn seen(&self) -> Value {
        tree::seen(&self.spans().collect::<Vec<_>>(), &self.root().span_id)
    }

    /// The tree that the script wrote.
    fn expected(&self) -> Value {
        tree::expected(&self.folder.path().join("expected.json"))
    }
}
