//! The program of `e2e/agents/rustls`, by either library that rustls seals with.

use crate::process::run;
use crate::python;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A library that rustls seals with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Provider {
    /// aws-lc, by aws-lc-rs.
    AwsLc,
    /// ring.
    Ring,
}

impl Provider {
    /// Both.
    pub const ALL: [Self; 2] = [Self::AwsLc, Self::Ring];

    fn feature(self) -> &'static str {
        match self {
            Self::AwsLc => "aws-lc",
            Self::Ring => "ring",
        }
    }

    /// The program with its symbols, built in `folder` by the first who asks: a minute and more on two cores.
    ///
    /// # Panics
    /// It does not build.
    pub fn client(self, folder: &Path) -> PathBuf {
        let target = folder.join(format!("rustls-{}", self.feature()));
        let output = run(Command::new("cargo")
            .args(["build", "--locked", "--release", "--features", self.feature(), "--target-dir"])
            .arg(&target)
            .current_dir(python::agent("rustls"))
            // Those of the tests are not for it.
            .env_remove("RUSTFLAGS"));
        assert!(output.status.success(), "cargo build: {}", String::from_utf8_lossy(&output.stderr));
        target.join("release/rustls-client")
    }
}

/// The program without a symbol, at another path.
///
/// # Panics
/// There is no `strip`.
pub fn strip(program: &Path, stripped: &Path) {
    let output = run(Command::new("strip").arg("-o").arg(stripped).arg(program));
    assert!(output.status.success(), "strip: {}", String::from_utf8_lossy(&output.stderr));
}
