//! What was known last, on disk: an agent that starts without an API server traces on from it.

use super::world::World;
use crate::identity::Pod;
use agentsight_api::AgentTraceGrantSpec;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Everything that the API server told.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The grants that are obeyed.
    pub grants: Vec<AgentTraceGrantSpec>,
    /// The pods of this node.
    pub pods: Vec<Pod>,
    /// Labels of namespaces.
    pub namespaces: HashMap<String, BTreeMap<String, String>>,
    /// UID of the namespace `kube-system`.
    pub cluster_uid: Option<String>,
}

impl State {
    /// As it is now.
    pub fn of(world: &World, cluster_uid: Option<String>) -> State {
        State {
            grants: world.grants().values().map(|grant| grant.spec.clone()).collect(),
            pods: world.pods().map(|pod| (**pod).clone()).collect(),
            namespaces: world.namespaces().clone(),
            cluster_uid,
        }
    }
}

/// The file in the agent's folder.
#[derive(Clone, Debug)]
pub struct StateFile {
    folder: PathBuf,
}

impl StateFile {
    /// In this folder, which is made where it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn in_folder(folder: &Path) -> io::Result<StateFile> {
        fs::create_dir_all(folder)?;
        Ok(StateFile { folder: folder.to_owned() })
    }

    /// What was written last; nothing where there is no file.
    ///
    /// # Errors
    /// It cannot be read, or is not ours.
    pub fn read(&self) -> io::Result<Option<State>> {
        match fs::read(self.path()) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces it: after a crash there is the old one or the new one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, state: &State) -> io::Result<()> {
        let new = self.folder.join("state.json.new");
        // Labels and annotations of pods: nobody else's business.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(state)?)?;
        file.sync_all()?;
        fs::rename(&new, self.path())?;
        fs::File::open(&self.folder)?.sync_all()
    }

    fn path(&self) -> PathBuf {
        self.folder.join("state.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_read_again_and_an_unfinished_write_harms_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::in_folder(&folder.path().join("new")).unwrap();
        assert_eq!(file.read().unwrap(), None);
        let mut world = World::default();
        world.set_grants([serde_json::from_value(json!({
            "source": {"kind": "AgentTrace", "namespace": "shop", "name": "a", "uid": "1", "generation": 4},
            "scope": {"namespace": "shop"}, "selector": {},
            "redaction": {"patterns": [{"name": "p", "regex": "a+"}]},
        }))
        .unwrap()]);
        let pod = json!({
            "metadata": {"uid": "3c9d0e5a-1b2f-4d6e-8a7b-90c1d2e3f405", "namespace": "shop", "name": "web", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "app", "image": "i"}]},
        });
        world.put_pod(Pod::of(&serde_json::from_value(pod).unwrap()).unwrap());
        let state = State::of(&world, Some("c".into()));
        file.write(&state).unwrap();
        assert_eq!(file.read().unwrap().as_ref(), Some(&state));
        fs::write(folder.path().join("new/state.json.new"), "{\"gra").unwrap();
        assert_eq!(file.read().unwrap(), Some(state));
    }
}
