//! The Python with the official SDKs, and the small programs that use them.

use crate::process::run;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The interpreter; made first where it is not there yet.
///
/// # Panics
/// scripts/python.sh failed: it has said why.
pub fn interpreter() -> &'static Path {
    static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();
    INTERPRETER.get_or_init(|| with("requirements.txt"))
}

/// The interpreter that has HTTP clients and frameworks (`requirements-clients.txt`).
///
/// # Panics
/// See [`interpreter`].
pub fn frameworks() -> &'static Path {
    static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();
    INTERPRETER.get_or_init(|| with("requirements-clients.txt"))
}

/// The interpreter that has gRPC and the clients that use it (`requirements-grpc.txt`).
///
/// # Panics
/// See [`interpreter`].
pub fn grpc() -> &'static Path {
    static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();
    INTERPRETER.get_or_init(|| with("requirements-grpc.txt"))
}

fn with(requirements: &str) -> PathBuf {
    let output = Command::new(folder().join("../scripts/python.sh"))
        .arg(folder().join(requirements))
        .stderr(Stdio::inherit())
        .output()
        .expect("scripts/python.sh is part of the project");
    assert!(output.status.success(), "scripts/python.sh failed");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// The version of a package that an interpreter has.
///
/// # Panics
/// It has none of that name.
pub fn version(interpreter: &Path, package: &str) -> String {
    let script = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))";
    let output = run(Command::new(interpreter).args(["-c", script, package]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A program in `e2e/agents`.
pub fn agent(name: &str) -> PathBuf {
    folder().join("agents").join(name)
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
