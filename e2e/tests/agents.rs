//! Real agents, as people run them, with the model server in the place of their provider.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::{Agent, Recording};
use agentsight_e2e::comparison::{attribute_differences, output_differences};
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::real_agents;
use agentsight_e2e::truth::Served;

/// One release for each way in which Bun was compiled: segments, calling forms and places differ.
#[test]
fn claude_code_with_a_tool_call_is_seen_whole_in_each_release() {
    let Some(agent) = Agent::or_skip() else { return };
    for version in ["2.1.119", "2.1.224", "2.1.332"] {
        let Some(program) = real_agents::or_skip("claude", version) else { return };
        let server = ModelServer::start();
        let recording = agent
            .record(program)
            .option("--content")
            .args(["-p", "--dangerously-skip-permissions", "--tools=Bash"])
            .arg(r#"Please use Bash {"command":"echo agentsight-$((40+2))","description":"say"}"#)
            .env("TERM", "dumb")
            .env("IS_SANDBOX", "1")
            .env("ANTHROPIC_API_KEY", "sk-ant-test-0123456789")
            .env("ANTHROPIC_BASE_URL", server.base())
            .env("NODE_EXTRA_CA_CERTS", server.ca())
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .env("DISABLE_AUTOUPDATER", "1")
            .run()
            .succeeded();
        let said = String::from_utf8_lossy(&recording.output.stdout);
        assert!(said.contains("agentsight-42"), "Claude Code {version}: {said}");
        let calls = calls_are_what_was_served(&recording, server.stop(), &format!("Claude Code {version}"));
        assert!(calls >= 2, "Claude Code {version}: a call before and one after the tool, not {calls}");
    }
}

/// Compares each span with what the server said, in their order, and tells how many there are.
fn calls_are_what_was_served(recording: &Recording, mut served: Vec<Served>, who: &str) -> usize {
    served.retain(|served| matches!(served.api.as_str(), "messages" | "responses" | "chat.completions"));
    let mut spans: Vec<_> = recording.telemetry.calls().collect();
    served.sort_by_key(|served| served.id.clone());
    spans.sort_by_key(|span| span.text("gen_ai.response.id").map(str::to_owned));
    let log = String::from_utf8_lossy(&recording.output.stderr);
    assert_eq!(spans.len(), served.len(), "{who}: spans and requests\n{log}");
    for (served, span) in served.iter().zip(&spans) {
        let mut wrong = attribute_differences(served, span);
        wrong.extend(output_differences(served, span));
        assert!(span.text("agentsight.capture.truncated").is_none(), "{who}: {:?}", span.attributes.keys());
        assert!(wrong.is_empty(), "{who}: {wrong:#?}");
    }
    spans.len()
}
