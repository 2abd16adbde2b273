//! The JavaScript that calls models by its SDKs (`scripts/node.sh`).

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A program, beside the packages that it imports.
pub struct Clients {
    /// The program, for any run-time of JavaScript.
    pub program: PathBuf,
}

/// The program; without npm the test is skipped, which is said.
///
/// # Panics
/// With `AGENTSIGHT_REQUIRE_EBPF=1`, as in CI, where it would be skipped.
pub fn clients_or_skip() -> Option<Clients> {
    program_or_skip("node", "clients.mjs")
}

/// The program that calls by gRPC; else as [`clients_or_skip`].
///
/// # Panics
/// See there.
pub fn grpc_or_skip() -> Option<Clients> {
    program_or_skip("node_grpc", "calls.mjs")
}

fn program_or_skip(of: &str, program: &str) -> Option<Clients> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/node.sh");
    let of = concat!(env!("CARGO_MANIFEST_DIR"), "/agents/").to_owned() + of;
    let output =
        Command::new(script).arg(of).stderr(Stdio::inherit()).output().expect("scripts/node.sh is there");
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !folder.is_empty() {
        return Some(Clients { program: PathBuf::from(folder).join(program) });
    }
    let required = std::env::var_os("AGENTSIGHT_REQUIRE_EBPF").is_some_and(|value| value == "1");
    assert!(!required, "AGENTSIGHT_REQUIRE_EBPF=1, but scripts/node.sh has failed");
    eprintln!("skipped: the packages could not be fetched: scripts/node.sh has said why");
    None
}

impl Clients {
    /// The version of a package.
    ///
    /// # Panics
    /// There is no such package.
    pub fn version(&self, package: &str) -> String {
        let file = self.program.with_file_name("node_modules").join(package).join("package.json");
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let package: Value = serde_json::from_str(&text).expect("package.json is JSON");
        package["version"].as_str().expect("a package has a version").to_owned()
    }
}
