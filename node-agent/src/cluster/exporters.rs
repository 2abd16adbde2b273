//! The administrator's exporters: defined in a file, started when a policy first names them.

use crate::export::{self, Config, Exporter, Loss, Options, Overrides};
use crate::policy::ExporterId;
use agentsight_api::{self as api, ExporterReport, ExporterState, Exporters as File, HeaderSource, Semconv};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What it says is wrong.
    #[error("{}: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: api::ExportersError,
    },
}

/// All exporters, by name and version of the conventions.
pub struct Exporters {
    defined: BTreeMap<String, api::Exporter>,
    queue_bytes: usize,
    runtime: Handle,
    started: Mutex<HashMap<ExporterId, Result<Arc<Exporter>, Failed>>>,
}

/// An exporter that cannot be started.
#[derive(Clone)]
struct Failed {
    error: String,
    since: SystemTime,
    /// Telemetry that had nowhere to go.
    dropped: u64,
}

impl Exporters {
    /// Reads the file; none is started yet.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(path: &Path, queue_bytes: usize, runtime: Handle) -> Result<Exporters, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let file =
            File::from_yaml(&text).map_err(|source| Error::Invalid { path: path.to_owned(), source })?;
        Ok(Exporters { defined: file.exporters, queue_bytes, runtime, started: Mutex::default() })
    }

    /// Sends an item; what has nowhere to go is counted.
    pub fn send(&self, to: &ExporterId, item: crate::resource::Item) {
        let mut started = self.started.lock().expect("no holder panics");
        match self.started(&mut started, to) {
            Ok(exporter) => {
                let exporter = exporter.clone();
                drop(started);
                exporter.send(item);
            }
            Err(failed) => failed.dropped += 1,
        }
    }

    fn started<'a>(
        &self,
        started: &'a mut HashMap<ExporterId, Result<Arc<Exporter>, Failed>>,
        id: &ExporterId,
    ) -> &'a mut Result<Arc<Exporter>, Failed> {
        if !started.contains_key(id) {
            let exporter = self.start(id).map(Arc::new).map_err(|error| {
                tracing::error!(exporter = &*id.name, error, "telemetry for this exporter is lost");
                Failed { error, since: SystemTime::now(), dropped: 0 }
            });
            started.insert(id.clone(), exporter);
        }
        started.get_mut(id).expect("it was put in above")
    }

    fn start(&self, id: &ExporterId) -> Result<Exporter, String> {
        let Some(defined) = self.defined.get(&*id.name) else {
            let known: Vec<_> = self.defined.keys().map(String::as_str).collect();
            return Err(format!(
                "no exporter has this name; the chart's `exporters` has: {}",
                known.join(", ")
            ));
        };
        let overrides = overrides(defined)?;
        // No variable: those of the agent's own environment are not meant for the administrator's exporters.
        let config = Config::from_env(|_| None, &overrides).map_err(|error| error.to_string())?;
        let mut options = Options::new(config);
        options.queue_bytes = self.queue_bytes;
        if id.semconv == Semconv::V1_41 {
            options.schema_url = export::SCHEMA_V1_41.to_owned();
        }
        Exporter::start(&self.runtime, &options).map_err(|error| error.to_string())
    }

    /// The exporters that were started, for their statistics.
    pub fn running(&self) -> Vec<(ExporterId, Arc<Exporter>)> {
        let started = self.started.lock().expect("no holder panics");
        started
            .iter()
            .filter_map(|(id, exporter)| Some((id.clone(), exporter.as_ref().ok()?.clone())))
            .collect()
    }

    /// How it goes with the exporters of these names. What a grant names is looked at before anything is to be sent.
    pub fn reports(&self, named: &HashSet<ExporterId>) -> Vec<ExporterReport> {
        let mut started = self.started.lock().expect("no holder panics");
        let mut reports: BTreeMap<&str, ExporterReport> = BTreeMap::new();
        for id in named {
            let report = match self.started(&mut started, id) {
                Err(failed) => ExporterReport {
                    name: id.name.to_string(),
                    state: ExporterState::Invalid,
                    error: Some(short(&failed.error)),
                    since: Some(time(failed.since)),
                },
                Ok(exporter) => report(&id.name, &exporter.stats()),
            };
            // One name may be there for two versions of the conventions: the worse counts.
            match reports.get(&*id.name) {
                Some(known) if severity(known.state) >= severity(report.state) => {}
                _ => {
                    reports.insert(&id.name, report);
                }
            }
        }
        reports.into_values().collect()
    }

    /// Telemetry that had nowhere to go.
    pub fn homeless(&self) -> u64 {
        let started = self.started.lock().expect("no holder panics");
        started.values().filter_map(|exporter| exporter.as_ref().err()).map(|failed| failed.dropped).sum()
    }

    /// Ends all of them: sends what waits, for no longer than `within`.
    pub async fn flush(&self, within: Duration) -> Vec<Loss> {
        let mut ending = Vec::new();
        for (_, exporter) in self.running() {
            ending.push(self.runtime.spawn(async move { exporter.flush(within).await }));
        }
        let mut losses = Vec::new();
        for end in ending {
            match end.await {
                Ok(lost) => losses.extend(lost),
                Err(error) => {
                    tracing::error!(%error, "an exporter ended by itself; this is a mistake in AgentSight");
                }
            }
        }
        losses
    }
}

fn severity(state: ExporterState) -> u8 {
    match state {
        ExporterState::Idle => 0,
        ExporterState::Ready => 1,
        ExporterState::Failing => 2,
        ExporterState::Invalid => 3,
    }
}

fn report(name: &str, stats: &export::Stats) -> ExporterReport {
    let mut report =
        ExporterReport { name: name.to_owned(), state: ExporterState::Idle, error: None, since: None };
    for lane in &stats.lanes {
        let (state, error, since) = match (&lane.last_error, lane.last_success) {
            (Some((when, error)), success) if success.is_none_or(|success| success < *when) => {
                (ExporterState::Failing, Some(short(error)), success)
            }
            (_, Some(_)) => (ExporterState::Ready, None, None),
            _ => continue,
        };
        if severity(state) > severity(report.state) {
            report.state = state;
            report.error = error;
            report.since = since.map(time);
        }
    }
    report
}

/// As long as the status may hold.
fn short(text: &str) -> String {
    const MOST: usize = 1024;
    text.chars().take(MOST).collect()
}

pub(super) fn time(time: SystemTime) -> Time {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(0);
    Time(Timestamp::from_second(seconds).unwrap_or_default())
}

/// An exporter as the flags of the command line would have it.
fn overrides(exporter: &api::Exporter) -> Result<Overrides, String> {
    let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
    let mut headers = Vec::new();
    for header in &exporter.headers {
        let read = match (&header.value, &header.value_from) {
            (Some(value), _) => value.clone(),
            (None, Some(HeaderSource::Env(name))) => std::env::var(name)
                .map_err(|_| format!("header {}: the variable {name} is not set", header.name))?,
            (None, Some(HeaderSource::File(path))) => std::fs::read_to_string(path).map_err(|error| {
                format!("header {}: cannot read {}: {error}", header.name, path.display())
            })?,
            (None, None) => return Err(format!("header {}: has no value", header.name)),
        };
        headers.push(format!("{}={}{}", header.name, header.prefix, read.trim_end()));
    }
    let timeout = exporter.timeout.as_deref().map(crate::cli::duration).transpose()?;
    Ok(Overrides {
        endpoint: Some(exporter.endpoint.clone()),
        protocol: exporter.protocol.map(|protocol| protocol.as_str().to_owned()),
        headers,
        compression: Some(
            match exporter.compression {
                api::Compression::None => "none",
                api::Compression::Gzip => "gzip",
            }
            .to_owned(),
        ),
        timeout: timeout.map(|timeout| timeout.as_millis().to_string()),
        certificate: shown(&exporter.tls.ca_file),
        client_certificate: shown(&exporter.tls.cert_file),
        client_key: shown(&exporter.tls.key_file),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn exporters(text: &str) -> (tokio::runtime::Runtime, Exporters) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let exporters = Exporters::read(file.path(), 1 << 20, runtime.handle().clone()).unwrap();
        (runtime, exporters)
    }

    fn id(name: &str) -> ExporterId {
        ExporterId { name: name.into(), semconv: Semconv::V1_41 }
    }

    #[test]
    fn a_name_that_is_not_defined_is_told_with_those_that_are() {
        let (_runtime, exporters) = exporters(
            "exporters: {a: {endpoint: 'http://127.0.0.1:1'}, b: {endpoint: 'http://127.0.0.1:1'}}",
        );
        let reports = exporters.reports(&HashSet::from([id("a"), id("c")]));
        let states: Vec<_> = reports.iter().map(|report| (report.name.as_str(), report.state)).collect();
        assert_eq!(states, [("a", ExporterState::Idle), ("c", ExporterState::Invalid)]);
        assert!(reports[1].error.as_deref().unwrap().ends_with("has: a, b"), "{reports:?}");
    }

    #[test]
    fn a_secret_that_is_missing_makes_one_exporter_invalid_and_is_not_shown() {
        let (_runtime, exporters) = exporters(
            "exporters: {a: {endpoint: 'http://127.0.0.1:1', headers: [{name: k, valueFrom: {file: /nonexistent/token}}]}}",
        );
        let [report] = &exporters.reports(&HashSet::from([id("a")]))[..] else { panic!() };
        assert_eq!(report.state, ExporterState::Invalid);
        assert!(report.error.as_deref().unwrap().contains("/nonexistent/token"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = Exporters::read(Path::new("/nonexistent/exporters.yaml"), 1, runtime.handle().clone());
        assert!(read.err().unwrap().to_string().starts_with("cannot read /nonexistent/exporters.yaml: "));
    }
}
