//! The JavaScript that calls models by its SDKs (`scripts/node.sh`).

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// `clients.mjs`, beside the packages that it imports.
pub struct Clients {
    /// The program, for any run-time of JavaScript.
    pub program: PathBuf,
}

/// The program; without npm the test is skipped, which is said.
///
/// # Panics
/// With `AGENTSIGHT_REQUIRE_EBPF=1`, as in CI, where it would be skipped.
pub fn clients_or_skip() -> Option<Clients> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/node.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output().expect("scripts/node.sh is there");
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !folder.is_empty() {
        return Some(Clients { program: PathBuf::from(folder).join("clients.mjs") });
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
