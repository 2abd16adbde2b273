//! The Python with the official SDKs, and the small programs that use them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The interpreter; made first where it is not there yet.
///
/// # Panics
/// scripts/python.sh failed: it has said why.
pub fn interpreter() -> &'static Path {
    static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();
    INTERPRETER.get_or_init(|| {
        let output = Command::new(folder().join("../scripts/python.sh"))
            .stderr(Stdio::inherit())
            .output()
            .expect("scripts/python.sh is part of the project");
        assert!(output.status.success(), "scripts/python.sh failed");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
}

/// A program in `e2e/agents`.
pub fn agent(name: &str) -> PathBuf {
    folder().join("agents").join(name)
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
