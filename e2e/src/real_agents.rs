//! Real agents, as their makers release them (`scripts/agents.sh`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The program of one release; without it the test is skipped, which is said.
///
/// # Panics
/// With `AGENTSIGHT_REQUIRE_EBPF=1`, as in CI, where it would be skipped.
pub fn or_skip(name: &str, version: &str) -> Option<PathBuf> {
    let program = folder().map(|folder| folder.join(format!("{name}-{version}/program")));
    let program = program.and_then(|program| program.canonicalize().ok());
    if program.is_none() {
        let reason = format!("{name} {version} could not be fetched: scripts/agents.sh has said why");
        let required = std::env::var_os("AGENTSIGHT_REQUIRE_EBPF").is_some_and(|value| value == "1");
        assert!(!required, "AGENTSIGHT_REQUIRE_EBPF=1, but {reason}");
        eprintln!("skipped: {reason}");
    }
    program
}

/// Where they are; fetched first where they are not there yet.
fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let fetch = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/agents.sh");
        let output = Command::new(script).stderr(Stdio::inherit()).output().ok()?;
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success() && !folder.is_empty()).then(|| PathBuf::from(folder))
    };
    FOLDER.get_or_init(fetch).as_deref()
}
