//! Programs that make one call and are gone: each of them is seen, 100 times out of 100.

use agentsight_e2e::agent::Agent;
use agentsight_e2e::model_server::ModelServer;
use agentsight_e2e::programs::{self, Invocation};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

const TIMES: usize = 100;
/// At once: two for each of the two cores that CI has.
const WORKERS: usize = 4;

#[test]
fn every_c_program_is_seen() {
    each_is_seen(None, |server, case| programs::tls_once(built(), server, case));
}

#[test]
fn every_c_program_is_seen_that_is_the_first_to_map_its_library() {
    each_is_seen(Some("libssl.so.3"), |server, case| programs::tls_once(built(), server, case));
}

#[test]
fn every_curl_is_seen() {
    each_is_seen(None, |server, case| programs::curl(server, case, &format!("{:032x}", 1)));
}

#[test]
fn every_curl_is_seen_that_is_the_first_to_map_its_library() {
    each_is_seen(Some("libssl.so.3"), |server, case| programs::curl(server, case, &format!("{:032x}", 1)));
}

#[test]
fn every_python_is_seen() {
    each_is_seen(None, programs::python);
}

#[test]
fn every_python_is_seen_that_is_the_first_to_map_its_library() {
    each_is_seen(Some("libssl.so.3"), programs::python);
}

#[test]
fn every_child_of_one_recorded_shell_is_seen() {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start();
    let (program, arguments) = programs::tls_once(built(), &server, "child");
    let recording = agent
        .record("sh")
        .args(["-c", r#"n=0; while [ $n -lt 100 ]; do "$@" || exit 1; n=$((n + 1)); done"#, "sh"])
        .arg(program)
        .args(arguments)
        .run()
        .succeeded();
    assert_eq!(server.stop().len(), TIMES);
    assert_eq!(recording.telemetry.calls().count(), TIMES);
}

/// Runs the program [`TIMES`] times, each under a `record` of its own; with `fresh`, with a copy of that library
/// file that no process has ever mapped.
fn each_is_seen(fresh: Option<&str>, program: impl Fn(&ModelServer, &str) -> Invocation + Sync) {
    let Some(agent) = Agent::or_skip() else { return };
    let server = ModelServer::start();
    let library = fresh.map(|name| programs::library_of(&linked(&server), name));
    // Made once, before the workers ask for it.
    program(&server, "first");
    let (next, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < TIMES {
                    let (program, arguments) = program(&server, "short");
                    let folder = tempfile::tempdir().expect("a temporary folder");
                    // Other programs of this machine's path would be looked at and probed, too, 600 times; before
                    // Linux 6.6 the kernel takes a tenth of a second to take each probe back.
                    let path = folder.path().join("bin");
                    std::fs::create_dir(&path).expect("a folder of ours");
                    std::os::unix::fs::symlink("/usr/bin/curl", path.join("curl")).expect("a link of ours");
                    let mut record = agent.record(program).args(arguments).env("PATH", &path);
                    if let Some(library) = &library {
                        std::fs::copy(
                            library,
                            folder.path().join(library.file_name().expect("a library has a name")),
                        )
                        .expect("a copy of a library");
                        record = record.env("LD_LIBRARY_PATH", folder.path());
                    }
                    let recording = record.run().succeeded();
                    let calls = recording.telemetry.calls().count();
                    assert!(calls <= 1, "{calls} spans for one call");
                    seen.fetch_add(calls, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(server.stop().len(), TIMES, "calls that the programs made");
    assert_eq!(seen.load(Ordering::Relaxed), TIMES, "calls that were seen");
}

/// A program that is linked with the library in question, as curl and Python's `_ssl` are.
fn linked(server: &ModelServer) -> PathBuf {
    PathBuf::from(programs::tls_once(built(), server, "linked").0)
}

fn built() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}
