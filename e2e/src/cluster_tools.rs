//! The programs of a Kubernetes, where scripts/cluster-tools.sh could build them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// How much of a Kubernetes is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// etcd, the API server, kubectl and Helm.
    ControlPlane,
    /// That, and what a node needs.
    Node,
}

/// A folder with the programs that are needed.
#[derive(Clone, Debug)]
pub struct ClusterTools {
    folder: PathBuf,
}

impl ClusterTools {
    /// Builds what is missing; none where it cannot be built, which is said.
    ///
    /// # Panics
    /// A build failed: it has said why.
    pub fn or_skip(need: Need) -> Option<Self> {
        // The script waits for others that build the same; within one process one call is enough.
        static FOUND: Mutex<[Option<Option<PathBuf>>; 2]> = Mutex::new([None, None]);
        let mut found = FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let folder = found[need as usize].get_or_insert_with(|| {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/cluster-tools.sh");
            let argument = match need {
                Need::ControlPlane => "control-plane",
                Need::Node => "node",
            };
            let output = Command::new(script)
                .arg(argument)
                .stderr(Stdio::inherit())
                .output()
                .expect("a script of the project");
            assert!(output.status.success(), "scripts/cluster-tools.sh {argument} failed");
            let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            (!folder.is_empty()).then(|| PathBuf::from(folder))
        });
        if folder.is_none() {
            eprintln!("skipped: no Kubernetes (see above)");
        }
        folder.clone().map(|folder| Self { folder })
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One of them.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
