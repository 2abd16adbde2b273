//! Spans in a real collector and in a real Jaeger.

use agentsight_e2e::agent::{Agent, Recording};
use agentsight_e2e::collector::{Collector, Jaeger};
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::Process;
use agentsight_e2e::programs;
use agentsight_e2e::telemetry::Telemetry;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_collector_receives_over_grpc_what_the_file_holds() {
    let Some((agent, collector)) = both() else { return };
    let endpoint = format!("http://127.0.0.1:{}", collector.grpc);
    let recording = record_calls(&agent, 3, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], &endpoint);
    compare(&recording, collector);
}

#[test]
fn a_collector_receives_over_http_with_gzip_what_the_file_holds() {
    let Some((agent, collector)) = both() else { return };
    let endpoint = format!("http://127.0.0.1:{}", collector.http);
    let variables =
        [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")];
    let recording = record_calls(&agent, 3, &variables, &endpoint);
    compare(&recording, collector);
}

#[test]
fn calls_made_while_the_collector_is_away_for_a_minute_arrive_when_it_is_back() {
    let Some((agent, collector)) = both() else { return };
    let away = Away::record(&agent, collector, "64MiB", "One call", 30, Duration::from_secs(2));
    assert_eq!((away.made, away.received.len()), (32, 32));
    assert_eq!(away.received, away.written);
    assert_eq!(away.counted_as_lost(), 0, "{}", away.log);
}

#[test]
fn what_the_queue_cannot_hold_while_the_collector_is_away_is_counted() {
    let Some((agent, collector)) = both() else { return };
    let away = Away::record(&agent, collector, "1MiB", &"A long question. ".repeat(6000), 40, Duration::ZERO);
    assert_eq!((away.made, away.written.len()), (42, 42), "the file has them all");
    assert!(away.received.is_subset(&away.written));
    let lost = away.made - away.received.len();
    assert!(lost > 20, "40 prompts of 100 KiB do not fit 1 MiB: {lost} are lost");
    assert_eq!(away.counted_as_lost(), lost, "{}", away.log);
}

#[test]
fn jaeger_shows_the_trace_through_its_api() {
    let Some(agent) = Agent::or_skip() else { return };
    let Some(jaeger) = Jaeger::or_skip() else { return };
    let server = ModelServer::start();
    let trace_id = "0af7651916cd43dd8448eb211c80319c";
    let (curl, arguments) = programs::curl(&server, "jaeger", trace_id);
    agent
        .record(curl)
        .option("--otlp-endpoint")
        .option(format!("http://127.0.0.1:{}", jaeger.grpc))
        .option("--otlp-protocol=grpc")
        .args(arguments)
        .run()
        .succeeded();
    let served = server.stop();
    let trace = jaeger.trace(trace_id);
    let span = &trace["data"][0]["spans"][0];
    assert_eq!(span["operationName"], "chat gpt-4o-mini");
    let tags = span["tags"].as_array().unwrap();
    let tag = |name: &str| tags.iter().find(|tag| tag["key"] == name).map(|tag| tag["value"].clone());
    assert_eq!(tag("gen_ai.response.id"), Some(Value::from(served[0].id.clone())));
    assert_eq!(tag("gen_ai.usage.output_tokens"), Some(Value::from(served[0].output_tokens)));
    assert_eq!(tag("span.kind"), Some("client".into()));
}

/// Calls before, while and after a collector was away.
struct Away {
    made: usize,
    received: BTreeSet<String>,
    written: BTreeSet<String>,
    log: String,
}

impl Away {
    /// It is away for `calls` calls with a pause after each.
    fn record(
        agent: &Agent,
        mut collector: Collector,
        queue: &str,
        prompt: &str,
        calls: usize,
        pause: Duration,
    ) -> Self {
        let server = ModelServer::start();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (curl, mut arguments) = programs::curl(&server, "away", &format!("{:032x}", 3));
        let body = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]});
        std::fs::write(folder.path().join("body"), body.to_string()).expect("a temporary file");
        let at =
            arguments.iter().position(|argument| argument == "--data-binary").expect("curl sends a body");
        arguments[at + 1] = format!("@{}", folder.path().join("body").display()).into();
        // A call for each line on its standard input.
        let record = agent
            .record("sh")
            .option("--content")
            .option(format!("--otlp-endpoint=http://127.0.0.1:{}", collector.grpc))
            .option("--otlp-protocol=grpc")
            .option(format!("--otlp-queue-size={queue}"))
            // As long as a wait between two attempts can be.
            .option("--flush-timeout=60s")
            .args(["-c", r#"while read -r line; do "$@" >/dev/null || exit 1; echo done; done"#, "sh"])
            .arg(curl)
            .args(arguments);
        let log = folder.path().join("log");
        let mut command = record.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(File::create(&log).expect("a temporary file"));
        let mut process = Process::spawn(&mut command);
        let mut input = process.child().stdin.take().expect("it was asked for");
        let mut lines = BufReader::new(process.child().stdout.take().expect("it was asked for")).lines();
        let mut call = || {
            writeln!(input, "call").expect("the shell reads");
            assert_eq!(lines.next().and_then(Result::ok).as_deref(), Some("done"));
        };
        call();
        collector.stop();
        for _ in 0..calls {
            call();
            // The agent tries again and again meanwhile; nothing in it is waited for.
            std::thread::sleep(pause);
        }
        collector.restart();
        call();
        drop(input);
        assert!(process.wait().success());
        let (received, _folder) = collector.received();
        let ids = |file: &Path| -> BTreeSet<String> {
            let telemetry = Telemetry::read(file).expect("OTLP");
            telemetry.calls().map(|span| span.span_id.clone()).collect()
        };
        Self {
            made: server.stop().len(),
            received: ids(&received),
            written: ids(&record.file()),
            log: std::fs::read_to_string(&log).expect("a temporary file"),
        }
    }

    /// The spans that the agent says at its end that it gave up.
    fn counted_as_lost(&self) -> usize {
        let said = self.log.lines().filter(|line| line.contains("given up") && line.contains("kind=Traces"));
        said.map(|line| {
            let count = line.split(" count=").nth(1).and_then(|rest| rest.split_whitespace().next());
            count.and_then(|count| count.parse::<usize>().ok()).expect("a count")
        })
        .sum()
    }
}

fn both() -> Option<(Agent, Collector)> {
    Some((Agent::or_skip()?, Collector::or_skip()?))
}

fn record_calls(agent: &Agent, calls: usize, variables: &[(&str, &str)], endpoint: &str) -> Recording {
    let server = ModelServer::start();
    let (curl, arguments) = programs::curl(&server, "export", &format!("{:032x}", 5));
    let mut record = agent
        .record("sh")
        .option("--content")
        .option("--otlp-endpoint")
        .option(endpoint)
        .args(["-c", &format!(r#"for n in $(seq {calls}); do "$@" >/dev/null || exit 1; done"#), "sh"])
        .arg(curl)
        .args(arguments);
    for (name, value) in variables {
        record = record.env(name, value);
    }
    let recording = record.run().succeeded();
    assert_eq!(server.stop().len(), calls);
    assert_eq!(recording.telemetry.calls().count(), calls);
    recording
}

/// What the collector received is what `--otlp-json` wrote: spans whole, metrics and logs by name and number.
fn compare(recording: &Recording, collector: Collector) {
    let (received, _folder) = collector.received();
    let received = Telemetry::read(&received).expect("the collector writes OTLP");
    let spans = |telemetry: &Telemetry| {
        let spans = telemetry.spans.iter().map(|span| format!("{span:?}"));
        spans.collect::<BTreeSet<_>>()
    };
    assert_eq!(spans(&received), spans(&recording.telemetry));
    let metrics = |telemetry: &Telemetry| {
        telemetry.metrics.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>()
    };
    assert_eq!(metrics(&received), metrics(&recording.telemetry));
    assert!(metrics(&received).contains("gen_ai.client.operation.duration"));
    assert_eq!(received.logs.len(), recording.telemetry.logs.len());
}
