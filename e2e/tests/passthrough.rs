//! A program under `record` is the same program: its streams, its signals, its end.

use agentsight_e2e::agent::Agent;
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::process::{Process, orphaned_programs, run, wait_until_only_these_are_left};
use agentsight_e2e::programs;
use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

#[test]
fn the_exit_code_is_the_programs() {
    let Some(agent) = Agent::or_skip() else { return };
    for code in [0, 1, 37, 255] {
        let recording = agent.record("sh").args(["-c", &format!("exit {code}")]).run();
        assert_eq!(recording.output.status.code(), Some(code));
    }
}

#[test]
fn a_program_that_a_signal_ended_is_told_as_a_shell_tells_it() {
    let Some(agent) = Agent::or_skip() else { return };
    for signal in [Signal::TERM, Signal::KILL, Signal::INT] {
        let number = signal.as_raw();
        let status = agent.record("sh").args(["-c", &format!("kill -{number} $$")]).run().output.status;
        assert!(
            status.code() == Some(128 + number) || status.signal() == Some(number),
            "signal {number}: {status}"
        );
    }
}

#[test]
fn a_program_that_is_not_there_is_told_in_one_line() {
    let Some(agent) = Agent::or_skip() else { return };
    let output = agent.record("/no/such/program").run().output;
    assert_eq!(output.status.code(), Some(127), "as a shell says it");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("/no/such/program"), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
}

#[test]
fn bytes_pass_through_standard_input_and_output() {
    let Some(agent) = Agent::or_skip() else { return };
    let bytes: Vec<u8> = (0..1_000_003_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let record = agent.record("cat");
    let mut command = record.command();
    let mut process = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut input = process.child().stdin.take().unwrap();
    let writing = bytes.clone();
    let writer = std::thread::spawn(move || input.write_all(&writing));
    let mut got = Vec::new();
    process.child().stdout.take().unwrap().read_to_end(&mut got).unwrap();
    writer.join().unwrap().unwrap();
    assert!(process.wait().success());
    assert!(got == bytes, "{} of {} bytes came through, or other ones", got.len(), bytes.len());
}

#[test]
fn arguments_and_environment_are_the_programs() {
    let Some(agent) = Agent::or_skip() else { return };
    let odd = ["", " a  b ", "--", "-x", "ż\n'\"$HOME", "*"];
    let recording = agent.record("printf").arg("[%s]").args(odd).run().succeeded();
    let printed = String::from_utf8(recording.output.stdout).unwrap();
    assert_eq!(printed, odd.iter().map(|a| format!("[{a}]")).collect::<String>());

    let record = agent.record("env").arg("-0").env("A_VARIABLE", "of\nmine");
    let mut plain = Command::new("env");
    plain.arg("-0").env_clear().envs(record.command().get_envs().filter_map(|(k, v)| v.map(|v| (k, v))));
    let sorted = |bytes: Vec<u8>| {
        let mut lines: Vec<_> = bytes.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    };
    let want = sorted(run(&mut plain).stdout);
    assert_eq!(sorted(record.run().output.stdout), want);
}

#[test]
fn signals_to_the_agent_reach_the_program() {
    let Some(agent) = Agent::or_skip() else { return };
    for (name, signal) in [("TERM", Signal::TERM), ("HUP", Signal::HUP), ("USR1", Signal::USR1)] {
        let script = format!(r#"trap 'echo got; exit 5' {name}; echo ready; while :; do sleep 0.05; done"#);
        let record = agent.record("sh").args(["-c", &script]);
        let mut process = Process::spawn(record.command().stdout(Stdio::piped()));
        let mut lines = BufReader::new(process.child().stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        process.signal(signal);
        assert_eq!(lines.next().unwrap().unwrap(), "got", "SIG{name}");
        assert_eq!(process.wait().code(), Some(5), "SIG{name}");
    }
}

#[test]
fn a_program_outlives_an_agent_that_is_killed_in_the_middle_of_its_stream() {
    let Some(agent) = Agent::or_skip() else { return };
    let before = orphaned_programs();
    let server = ModelServer::start();
    // 40 events, one each 50 ms: two seconds, of which the agent sees the beginning.
    let record = agent
        .record("curl")
        .args(["--silent", "--show-error", "--no-buffer", "--cacert", &server.ca().to_string_lossy()])
        .args([
            "--header",
            "x-mock-chunks: 40",
            "--header",
            "x-mock-chunk-ms: 50",
            "--header",
            "x-mock-bytes: 4000",
        ])
        .args(["--data-binary", r#"{"model":"gpt-4o-mini","stream":true,"messages":[]}"#])
        .arg(format!("{}/v1/chat/completions", server.base()));
    let mut process = Process::spawn(record.command().stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut output = BufReader::new(process.child().stdout.take().unwrap());
    let mut errors = process.child().stderr.take().unwrap();
    let mut text = String::new();
    for _ in 0..10 {
        output.read_line(&mut text).unwrap();
    }
    process.signal(Signal::KILL);
    assert_eq!(process.wait().signal(), Some(Signal::KILL.as_raw()));
    // Ends when the program does: it holds the other end.
    output.read_to_string(&mut text).unwrap();
    assert!(
        text.ends_with("data: [DONE]\n\n"),
        "the stream was cut: …{:?}",
        &text[text.len().saturating_sub(80)..]
    );
    let mut complaint = String::new();
    errors.read_to_string(&mut complaint).unwrap();
    assert!(!complaint.contains("curl:"), "{complaint}");
    let served = server.stop();
    assert_eq!(served[0].outcome, agentsight_e2e::truth::Outcome::Complete);

    wait_until_only_these_are_left(&before);
}

#[test]
fn standard_output_holds_nothing_of_ours() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start();
    let (program, arguments) = programs::curl(&server, "stdout", &format!("{:032x}", 7));
    let recording = agent.record(program).args(arguments).run().succeeded();
    assert_eq!(recording.telemetry.calls().count(), 1);
    let answer: Value = serde_json::from_slice(&recording.output.stdout).expect("only what curl printed");
    assert_eq!(answer["object"], "chat.completion");
}
