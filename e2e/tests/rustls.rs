//! Programs with rustls, by either library that seals its records.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_e2e::agent::Agent;
use agentsight_e2e::coverage::{CHAT, Row};
use agentsight_e2e::go::{GoServer, STRIPPED, both_rounds_are_seen, build_or_skip};
use agentsight_e2e::process::run;
use agentsight_e2e::rustls::{self, Provider, strip};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

const TARGET: &str = env!("CARGO_TARGET_TMPDIR");

#[test]
fn calls_of_reqwest_are_seen_whole_by_both_protocols_with_and_without_symbols() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = server(folder.path()) else { return };
    for provider in Provider::ALL {
        let program = provider.client(Path::new(TARGET));
        let stripped = folder.path().join("stripped");
        strip(&program, &stripped);
        for (program, how) in [(&program, "symbols"), (&stripped, "stripped")] {
            for (protocol, shown) in [("h1", "HTTP/1.1"), ("h2", "HTTP/2")] {
                let who = format!("{provider:?} {how}");
                // Said in the log where there is something to be said.
                let record = agent.record(program).option("-v");
                let (_, log) = both_rounds_are_seen(record, &server, protocol, &["TLS", "0"], &who);
                for wrong in ["could not be told to be of one connection", "had no entry"] {
                    assert!(!log.contains(wrong), "{who}: {log}");
                }
                assert!(log.contains("records_foreign=0"), "all are records of TLS: {log}");
                let row = Row {
                    program: &format!("reqwest, with rustls and {}", provider.name()),
                    version: &rustls::version_of("reqwest"),
                    file: Some(program),
                    library: None,
                    protocol: shown,
                };
                row.was_seen_to_say(&agent, CHAT);
            }
        }
    }
}

/// A key of each kind, and what both versions of TLS seal beside the plaintext.
#[test]
fn calls_are_seen_whole_by_every_cipher_suite() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = server(folder.path()) else { return };
    let suites = [
        "TLS13_AES_128_GCM",
        "TLS13_AES_256_GCM",
        "TLS13_CHACHA20",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20",
    ];
    for provider in Provider::ALL {
        let program = provider.client(Path::new(TARGET));
        for suite in suites {
            let who = format!("{provider:?} {suite}");
            both_rounds_are_seen(agent.record(&program), &server, "h2", &[suite, "0"], &who);
        }
    }
}

/// A request that a socket does not take at once: then what one thread has sealed another one writes, and later.
#[test]
fn large_questions_are_seen_whole() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = server(folder.path()) else { return };
    for provider in Provider::ALL {
        let program = provider.client(Path::new(TARGET));
        for protocol in ["h1", "h2"] {
            let who = format!("{provider:?} large");
            both_rounds_are_seen(agent.record(&program), &server, protocol, &["TLS", "60000"], &who);
        }
    }
}

/// The same thread, the same functions, another way: what goes it is not taken for what the thread's socket carries.
#[test]
fn what_goes_over_a_pipe_is_nobodys_and_what_goes_over_the_network_is_seen() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = server(folder.path()) else { return };
    for provider in Provider::ALL {
        let recording = agent
            .record(provider.client(Path::new(TARGET)))
            .option("--content")
            .args(["relay".into(), server.base(), server.ca().display().to_string()])
            .run()
            .succeeded();
        let log = String::from_utf8_lossy(&recording.output.stderr);
        let said = |name: &str, i: usize| format!("{name}-{i}");
        let answered = String::from_utf8_lossy(&recording.output.stdout);
        assert_eq!(answered.lines().count(), 6, "{answered}\n{log}");
        let questions: BTreeSet<_> = recording
            .telemetry
            .calls()
            .map(|span| {
                assert!(span.text("agentsight.capture.truncated").is_none(), "{provider:?}: {span:#?}");
                let question = span.json("gen_ai.input.messages").unwrap();
                let question = question[0]["parts"][0]["content"].as_str().unwrap().to_owned();
                let answer = span.json("gen_ai.output.messages").unwrap();
                assert_eq!(answer[0]["parts"][0]["content"], format!("You said: {question}"));
                question
            })
            .collect();
        assert_eq!(questions, (0..3).map(|i| said("direct", i)).collect(), "{provider:?}\n{log}");
        assert!(log.contains("bytes of rustls could not be told to be of one connection"), "{log}");
    }
}

#[test]
fn the_functions_that_are_searched_are_those_that_the_symbols_name() {
    let Some(agent) = Agent::or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    for provider in Provider::ALL {
        let program = provider.client(Path::new(TARGET));
        let stripped = folder.path().join("stripped");
        strip(&program, &stripped);
        let ((named, by_name), (searched, by_search)) = (probes(&agent, &program), probes(&agent, &stripped));
        let seals = |probes: &BTreeMap<String, BTreeSet<u64>>| {
            probes.iter().any(|(program, offsets)| program.ends_with("_seal") && !offsets.is_empty())
        };
        assert!(seals(&searched), "{searched:?}");
        match provider {
            Provider::AwsLc => {
                assert_eq!((by_name.as_str(), by_search.as_str()), ("symbols", "errors"));
                for program in ["aead_seal", "aead_open"] {
                    assert_eq!(searched[program], named[program], "{program}");
                }
                for (program, offsets) in &searched {
                    assert!(offsets.is_subset(&named[program]), "{program}: {searched:?} {named:?}");
                }
            }
            // The table is found the same way in both: what it leads to is held against the symbols here.
            Provider::Ring => {
                assert_eq!((by_name.as_str(), by_search.as_str()), ("algorithms", "algorithms"));
                assert_eq!(searched, named);
                let functions = |name| {
                    symbols(&program, &format!("aes_gcm_{name}"), &format!("chacha20_poly1305_{name}"))
                };
                assert_eq!(searched["ring_seal"], functions("seal"));
                assert_eq!(searched["ring_open"], functions("open"));
            }
        }
    }
}

/// The offsets of a program's probes by the kernel program, and how they were found.
fn probes(agent: &Agent, program: &Path) -> (BTreeMap<String, BTreeSet<u64>>, String) {
    let output = run(Command::new(agent.program()).args(["check", "-o", "json"]).arg(program));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rustls: Vec<_> =
        report["files"].as_array().unwrap().iter().filter(|file| file["library"] == "rustls").collect();
    let [file] = rustls[..] else { panic!("{report:#}") };
    let mut found: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for probe in file["probes"].as_array().unwrap() {
        let program = probe["program"].as_str().unwrap().to_owned();
        found.entry(program).or_default().insert(probe["offset"].as_u64().unwrap());
        assert_eq!(probe["emulated"], true, "{report:#}");
    }
    (found, file["foundBy"].as_str().unwrap().to_owned())
}

/// Where in its file the two functions of ring begin, by the symbols.
fn symbols(program: &Path, first: &str, second: &str) -> BTreeSet<u64> {
    let output = run(Command::new("nm").arg("--demangle").arg(program));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = [first, second].map(|name| format!(" ring::aead::algorithm::{name}"));
    let addresses = text
        .lines()
        .filter(|line| names.iter().any(|name| line.ends_with(name)))
        .map(|line| u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap());
    let headers = run(Command::new("readelf").args(["--program-headers", "--wide"]).arg(program));
    let headers = String::from_utf8_lossy(&headers.stdout).into_owned();
    // LOAD, offset, address, …: code is in one segment.
    let code = headers.lines().find(|line| line.trim_start().starts_with("LOAD") && line.contains(" R E "));
    let fields: Vec<_> = code.unwrap().split_whitespace().collect();
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let (offset, address) = (number(fields[1]), number(fields[2]));
    addresses.map(|at| at - address + offset).collect()
}

fn server(folder: &Path) -> Option<GoServer> {
    let program = folder.join("server");
    build_or_skip(STRIPPED, &program)?;
    Some(GoServer::start(&program))
}
