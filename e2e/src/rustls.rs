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

    /// Its name, which is the program's feature, too.
    pub fn name(self) -> &'static str {
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
        let target = folder.join(format!("rustls-{}", self.name()));
        let output = run(Command::new("cargo")
            .args(["build", "--locked", "--release", "--features", self.name(), "--target-dir"])
            .arg(&target)
            .current_dir(python::agent("rustls"))
            // Those of the tests are not for it.
            .env_remove("RUSTFLAGS"));
        assert!(output.status.success(), "cargo build: {}", String::from_utf8_lossy(&output.stderr));
        target.join("release/rustls-client")
    }
}

/// The version of a package that the program is built of.
///
/// # Panics
/// It is built of none of that name.
pub fn version_of(package: &str) -> String {
    let text = std::fs::read_to_string(python::agent("rustls/Cargo.lock")).expect("the project's own file");
    let behind = text.split_once(&format!("name = \"{package}\"\nversion = \"")).map(|(_, behind)| behind);
    let version = behind.and_then(|behind| behind.split('"').next());
    version.unwrap_or_else(|| panic!("no {package} in Cargo.lock")).to_owned()
}

/// The program without a symbol, at another path.
///
/// # Panics
/// There is no `strip`.
pub fn strip(program: &Path, stripped: &Path) {
    let output = run(Command::new("strip").arg("-o").arg(stripped).arg(program));
    assert!(output.status.success(), "strip: {}", String::from_utf8_lossy(&output.stderr));
}
