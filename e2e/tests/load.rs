//! Nothing is missing and nothing is wrong when there is much of it.

use agentsight_e2e::agent::{Agent, Record};
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::python;
use serde_json::{Value, json};
use std::collections::HashMap;

#[test]
fn of_2000_streaming_calls_by_50_workers_none_is_missing_or_wrong() {
    none_is_missing_or_wrong(ModelServer::start(), &[], 50, 2000);
}

#[test]
fn of_400_streaming_calls_without_tls_by_2_workers_none_is_missing_or_wrong() {
    none_is_missing_or_wrong(ModelServer::start_plain(), &["--plaintext"], 2, 400);
}

fn none_is_missing_or_wrong(server: ModelServer, options: &[&str], workers: usize, calls: usize) {
    let Some(agent) = Agent::or_skip() else { return };
    let record = options.iter().fold(agent.record(python::interpreter()), Record::option);
    let recording = record
        .arg(python::agent("load.py"))
        .args(["--base", &server.base(), "--workers", &workers.to_string(), "--calls", &calls.to_string()])
        .args(server.trust("--ca"))
        .run()
        .succeeded();
    let served = server.stop();
    assert_eq!(served.len(), calls);
    let mut spans: HashMap<&str, Vec<_>> = HashMap::new();
    for span in recording.telemetry.calls() {
        spans.entry(&span.trace_id).or_default().push(span);
    }
    let mut wrong = Vec::new();
    for served in &served {
        let trace_id = served.trace_id.as_deref().expect("each call has one");
        let Some([span]) = spans.get(trace_id).map(Vec::as_slice) else {
            wrong.push(format!("call {:?}: {} spans", served.case, spans.get(trace_id).map_or(0, Vec::len)));
            continue;
        };
        let expected = [
            ("gen_ai.response.id", json!(served.id)),
            ("gen_ai.response.model", json!(served.model)),
            ("gen_ai.usage.input_tokens", json!(served.input_tokens)),
            ("gen_ai.usage.output_tokens", json!(served.output_tokens)),
            ("gen_ai.response.finish_reasons", json!(["stop"])),
            ("gen_ai.request.stream", json!(true)),
        ];
        for (name, want) in expected {
            let got = span.attributes.get(name).unwrap_or(&Value::Null);
            if *got != want {
                wrong.push(format!("call {:?}: {name} is {got}, not {want}", served.case));
            }
        }
        if span.failed {
            wrong.push(format!("call {:?} is told as failed", served.case));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{:.4000}", wrong.len(), wrong.join("\n"));
    assert_eq!(recording.telemetry.calls().count(), calls, "spans that no call made");
}

#[test]
fn a_prompt_of_1_mib_and_an_answer_of_4_mib_arrive_whole() {
    let Some(agent) = Agent::or_skip() else { return };
    for stream in [false, true] {
        let server = ModelServer::start();
        let folder = tempfile::tempdir().unwrap();
        let prompt: String = ('a'..='z').cycle().take((1 << 20) - 7).chain("żółty".chars()).collect();
        let body = json!({
            "model": "gpt-4o-mini",
            "stream": stream,
            "messages": [{"role": "user", "content": prompt}],
        });
        let file = folder.path().join("body.json");
        std::fs::write(&file, body.to_string()).unwrap();
        let recording = agent
            .record("curl")
            .option("--content")
            .args(["--silent", "--show-error", "--fail", "--cacert", &server.ca().to_string_lossy()])
            .args(["--header", "content-type: application/json", "--header", "x-mock-bytes: 4194304"])
            .args(["--data-binary", &format!("@{}", file.display())])
            .arg(format!("{}/v1/chat/completions", server.base()))
            .run()
            .succeeded();
        let served = server.stop();
        let spans: Vec<_> = recording.telemetry.calls().collect();
        assert_eq!(spans.len(), 1);
        let input = spans[0].json("gen_ai.input.messages").expect("--content was asked for");
        assert!(
            input[0]["parts"][0]["content"] == json!(prompt),
            "the prompt is not whole (stream: {stream})"
        );
        let output = spans[0].json("gen_ai.output.messages").expect("--content was asked for");
        assert_eq!(served[0].choices[0].text.len(), 4 << 20);
        assert!(
            output[0]["parts"][0]["content"] == json!(served[0].choices[0].text),
            "the answer is not whole (stream: {stream})"
        );
    }
}
