//! What a pod belongs to, from the pod alone: no other object is read, so no other permission is needed.
//!
//! A ReplicaSet of a Deployment has the Deployment's name and the pod's `pod-template-hash`; a Job of a CronJob has the
//! CronJob's name and its scheduled time in minutes. UIDs of Deployments and CronJobs are therefore not known.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// The chain of a pod's owners, as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Owners {
    /// ReplicaSet: name and UID.
    pub replica_set: Option<(String, String)>,
    /// Deployment.
    pub deployment: Option<String>,
    /// StatefulSet: name and UID.
    pub stateful_set: Option<(String, String)>,
    /// DaemonSet: name and UID.
    pub daemon_set: Option<(String, String)>,
    /// Job: name and UID.
    pub job: Option<(String, String)>,
    /// CronJob.
    pub cron_job: Option<String>,
}

/// A Job may start late (its CronJob's startingDeadlineSeconds), its pod may be made again; this late and no later is
/// a number in a Job's name taken for its scheduled time.
const LATEST: i64 = 7 * 24 * 3600;
/// Clocks of the control plane may differ so much.
const SKEW: i64 = 3600;

impl Owners {
    /// Reads them from a pod's metadata.
    pub fn of(metadata: &ObjectMeta) -> Owners {
        let mut owners = Owners::default();
        let references = metadata.owner_references.iter().flatten();
        let Some(owner) = references.into_iter().find(|owner| owner.controller == Some(true)) else {
            return owners;
        };
        let known = Some((owner.name.clone(), owner.uid.clone()));
        let group = owner.api_version.split('/').next().unwrap_or_default();
        match (group, owner.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                let hash = metadata.labels.iter().flatten().find(|(key, _)| *key == "pod-template-hash");
                owners.deployment = hash
                    .and_then(|(_, hash)| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'))
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned);
                owners.replica_set = known;
            }
            ("apps", "StatefulSet") => owners.stateful_set = known,
            ("apps", "DaemonSet") => owners.daemon_set = known,
            ("batch", "Job") => {
                let created = metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
                owners.cron_job = created.and_then(|created| cron_job(&owner.name, created));
                owners.job = known;
            }
            _ => {}
        }
        owners
    }
}

/// `name-29123456`: the digits are the scheduled time in minutes since 1970, so that chance is ruled out.
fn cron_job(job: &str, created: i64) -> Option<String> {
    let (name, minutes) = job.rsplit_once('-')?;
    if name.is_empty() || !minutes.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scheduled = minutes.parse::<i64>().ok()?.checked_mul(60)?;
    (scheduled - SKEW..scheduled + LATEST).contains(&created).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(kind: &str, name: &str) -> Owners {
        let api_version = if kind == "Job" { "batch/v1" } else { "apps/v1" };
        let metadata = serde_json::json!({
            "labels": {"pod-template-hash": "7d4b9c"},
            "creationTimestamp": "2026-11-25T01:00:30Z",
            "ownerReferences": [
                {"apiVersion": "example.com/v1", "kind": "Gang", "name": "other", "uid": "0"},
                {"apiVersion": api_version, "kind": kind, "name": name, "uid": "1", "controller": true},
            ],
        });
        Owners::of(&serde_json::from_value(metadata).expect("metadata"))
    }

    #[test]
    fn a_deployment_is_known_by_its_replica_set() {
        let owners = owned("ReplicaSet", "web-front-7d4b9c");
        assert_eq!(owners.deployment.as_deref(), Some("web-front"));
        assert_eq!(owners.replica_set, Some(("web-front-7d4b9c".into(), "1".into())));
        assert_eq!(owned("ReplicaSet", "by-hand").deployment, None);
        assert_eq!(owned("ReplicaSet", "-7d4b9c").deployment, None);
    }

    #[test]
    fn a_cron_job_is_known_by_the_time_in_its_jobs_name() {
        let scheduled = 1_795_568_400 / 60; // 2026-11-25T01:00:00Z
        let name = format!("nightly-report-{scheduled}");
        assert_eq!(owned("Job", &name).cron_job.as_deref(), Some("nightly-report"));
        assert_eq!(owned("Job", &name).job, Some((name, "1".into())));
        for other in ["by-hand", "batch-12", "release-20261125", &format!("{scheduled}")] {
            assert_eq!(owned("Job", other).cron_job, None, "{other}");
        }
    }

    #[test]
    fn other_owners_are_named_by_kind_and_unknown_ones_not_at_all() {
        assert_eq!(owned("StatefulSet", "db").stateful_set, Some(("db".into(), "1".into())));
        assert_eq!(owned("DaemonSet", "logs").daemon_set, Some(("logs".into(), "1".into())));
        assert_eq!(owned("Rollout", "x"), Owners::default());
        assert_eq!(Owners::of(&ObjectMeta::default()), Owners::default());
    }
}
