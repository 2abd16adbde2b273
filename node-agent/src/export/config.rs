//! Where telemetry goes, and how: OpenTelemetry's standard variables, with flags above them.
//!
//! Two rules are ours, both for people who type less than the specification asks:
//! - nothing is sent unless an endpoint (or `OTEL_<SIGNAL>_EXPORTER=otlp`) asks for it, because the
//!   variables of the traced program are often ours too;
//! - an endpoint with port 4317, no path and no protocol named is spoken to in gRPC, whose port that is.

use super::kind::Kind;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::path::PathBuf;
use std::time::Duration;

/// What to send where.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where spans go over the network, if anywhere.
    pub traces: Option<Target>,
    /// Where metrics go over the network, if anywhere.
    pub metrics: Option<Target>,
    /// Where log records go over the network, if anywhere.
    pub logs: Option<Target>,
    /// How much is sent at once, and how often; for files too.
    pub batching: Batching,
}

/// Settings from the command line; each wins over every variable. Names of flags are those in errors.
#[derive(Clone, Default)]
pub struct Overrides {
    /// `--otlp-endpoint`: the base of all signals' endpoints.
    pub endpoint: Option<String>,
    /// `--otlp-protocol`.
    pub protocol: Option<String>,
    /// `--otlp-header NAME=VALUE`, any number; added to those of the variables. Taken literally.
    pub headers: Vec<String>,
    /// `--otlp-compression`.
    pub compression: Option<String>,
    /// `--otlp-timeout`, in milliseconds.
    pub timeout: Option<String>,
    /// `--otlp-certificate`.
    pub certificate: Option<String>,
    /// `--otlp-client-certificate`.
    pub client_certificate: Option<String>,
    /// `--otlp-client-key`.
    pub client_key: Option<String>,
}

/// One signal's collector.
#[derive(Clone, Debug)]
pub struct Target {
    /// For HTTP the whole URL; for gRPC scheme, host and port.
    pub url: Url,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Sent with each request; values are marked as secret.
    pub headers: HeaderMap,
    /// Whether requests are compressed.
    pub gzip: bool,
    /// For one attempt, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// Own certificates.
    pub tls: Tls,
}

impl Target {
    /// For people: no query, which may hold a token.
    pub fn shown(&self) -> String {
        let url = &self.url;
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let path = if self.protocol == Protocol::Grpc { "" } else { url.path() };
        format!("{}://{host}{port}{path}", url.scheme())
    }
}

/// How OTLP travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// HTTP with protobuf, OTLP's default.
    HttpProtobuf,
    /// HTTP with JSON.
    HttpJson,
}

/// Own certificates for TLS; without a CA the system's roots hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tls {
    /// The only authorities trusted, PEM.
    pub ca: Option<PemFile>,
    /// Our certificate (chain) and its key, PEM.
    pub identity: Option<(PemFile, PemFile)>,
}

/// A file, and the setting that named it, for errors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PemFile {
    /// The variable or flag.
    pub setting: String,
    /// Where it is.
    pub path: PathBuf,
}

/// How much is sent at once, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batching {
    /// For spans.
    pub spans: Batch,
    /// For log records.
    pub logs: Batch,
    /// Between two exports of metrics.
    pub metric_interval: Duration,
    /// Whether a data point counts since the start or since the last one.
    pub temporality: Temporality,
}

/// When a batch is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    /// At the latest so long after its first item came.
    pub delay: Duration,
    /// At once when it has so many items.
    pub items: usize,
}

/// From when on a data point counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Temporality {
    /// Since the resource was first seen.
    Cumulative,
    /// Since the last export.
    Delta,
}

impl Default for Batching {
    fn default() -> Self {
        // The SDK's default for spans is 5 s; a person who watches a run should not wait that long.
        let batch = Batch { delay: Duration::from_secs(1), items: 512 };
        Batching {
            spans: batch,
            logs: batch,
            metric_interval: Duration::from_secs(60),
            temporality: Temporality::Cumulative,
        }
    }
}

/// A setting that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{name}{value}: {problem}; allowed: {allowed}")]
pub struct ConfigError {
    /// The variable or flag.
    pub name: String,
    /// `=` and the value where it holds no secret, else nothing.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub allowed: &'static str,
}

impl Config {
    /// Reads the variables through `env`, once. An empty variable counts as unset.
    ///
    /// # Errors
    /// The first setting that cannot be used, with what is allowed.
    pub fn from_env(env: impl Fn(&str) -> Option<String>, flags: &Overrides) -> Result<Config, ConfigError> {
        let settings = Settings { env: &env, flags };
        Ok(Config {
            traces: settings.target(Kind::Traces)?,
            metrics: settings.target(Kind::Metrics)?,
            logs: settings.target(Kind::Logs)?,
            batching: settings.batching()?,
        })
    }
}

/// `OTEL_RESOURCE_ATTRIBUTES`: the attributes in their order; none where it is unset.
///
/// # Errors
/// As the specification asks, one unreadable pair discards the whole value.
pub fn resource_attributes(
    env: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, ConfigError> {
    const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
    let Some(value) = read(&env, NAME) else { return Ok(Vec::new()) };
    pairs(&value)
        .map(|pair| {
            pair.filter(|(key, _)| !key.is_empty())
                .and_then(|(key, value)| Some((decode(key)?, decode(value)?)))
                .ok_or_else(|| ConfigError {
                    name: NAME.to_owned(),
                    value: String::new(),
                    problem: "a part of it cannot be read, so none of it is used".to_owned(),
                    allowed: "key=value,key=value with percent-encoded UTF-8",
                })
        })
        .collect()
}

/// `OTEL_SERVICE_NAME`, which wins over `service.name` among [`resource_attributes`].
pub fn service_name(env: impl Fn(&str) -> Option<String>) -> Option<String> {
    read(&env, "OTEL_SERVICE_NAME")
}

struct Settings<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    flags: &'a Overrides,
}

/// A value and where it comes from.
struct Setting {
    name: String,
    value: String,
    /// Set for this signal alone.
    own: bool,
}

impl Setting {
    fn error(&self, problem: impl Into<String>, allowed: &'static str) -> ConfigError {
        // What stands before an @ or after a ? may be a password or a token.
        let shown = self.value.rsplit('@').next().unwrap_or_default();
        let shown = shown.split('?').next().unwrap_or_default();
        ConfigError { name: self.name.clone(), value: format!("={shown}"), problem: problem.into(), allowed }
    }

    fn millis(&self) -> Result<Duration, ConfigError> {
        self.value
            .parse()
            .map(Duration::from_millis)
            .map_err(|_| self.error("is not a number", "a whole number of milliseconds"))
    }

    fn positive_millis(&self) -> Result<Duration, ConfigError> {
        let time = self.millis()?;
        if time.is_zero() {
            return Err(self.error("is zero", "a whole number of milliseconds above 0"));
        }
        Ok(time)
    }

    fn pem(&self) -> PemFile {
        PemFile { setting: self.name.clone(), path: PathBuf::from(&self.value) }
    }
}

const ENDPOINTS: &str =
    "http://HOST:PORT or https://HOST:PORT, with a path where the collector wants one (HTTP only)";

impl Settings<'_> {
    fn target(&self, kind: Kind) -> Result<Option<Target>, ConfigError> {
        let endpoint = self.otlp(kind, "ENDPOINT", self.flags.endpoint.as_ref());
        if !self.wanted(kind, endpoint.is_some())? {
            return Ok(None);
        }
        let stated = self
            .otlp(kind, "PROTOCOL", self.flags.protocol.as_ref())
            .map(|setting| match setting.value.as_str() {
                "grpc" => Ok(Protocol::Grpc),
                "http/protobuf" => Ok(Protocol::HttpProtobuf),
                "http/json" => Ok(Protocol::HttpJson),
                _ => Err(setting.error("is no protocol", "grpc, http/protobuf, http/json")),
            })
            .transpose()?;
        let (url, protocol) = self.endpoint(kind, endpoint, stated)?;
        let gzip = match self.otlp(kind, "COMPRESSION", self.flags.compression.as_ref()) {
            None => false,
            Some(setting) => match setting.value.as_str() {
                "gzip" => true,
                "none" => false,
                _ => return Err(setting.error("is no compression", "gzip, none")),
            },
        };
        let timeout = match self.otlp(kind, "TIMEOUT", self.flags.timeout.as_ref()) {
            None => Duration::from_secs(10), // the specification's default
            Some(setting) => setting.positive_millis()?,
        };
        Ok(Some(Target { url, protocol, headers: self.headers(kind)?, gzip, timeout, tls: self.tls(kind)? }))
    }

    /// Whether anything asks for this signal, and nothing forbids it.
    fn wanted(&self, kind: Kind, has_endpoint: bool) -> Result<bool, ConfigError> {
        let Some(setting) = self.variable(&format!("OTEL_{}_EXPORTER", shout(kind))) else {
            return Ok(has_endpoint);
        };
        let mut others = false;
        for name in setting.value.split(',').map(str::trim) {
            match name {
                "otlp" => return Ok(true),
                "none" => return Ok(false),
                // The specification's other names are meant for the traced program's own SDK.
                "console" | "logging" | "prometheus" | "zipkin" | "jaeger" => others = true,
                _ => return Err(setting.error("is no exporter", "otlp, none")),
            }
        }
        Ok(if others { self.flags.endpoint.is_some() } else { has_endpoint })
    }

    fn endpoint(
        &self,
        kind: Kind,
        endpoint: Option<Setting>,
        stated: Option<Protocol>,
    ) -> Result<(Url, Protocol), ConfigError> {
        let setting = endpoint.unwrap_or_else(|| Setting {
            name: "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(),
            value: match stated {
                Some(Protocol::Grpc) => "http://localhost:4317".to_owned(),
                _ => "http://localhost:4318".to_owned(),
            },
            own: false,
        });
        let mut text = setting.value.clone();
        if !text.contains("://") {
            let grpc = stated == Some(Protocol::Grpc) || stated.is_none() && text.ends_with(":4317");
            if !grpc {
                return Err(setting.error("has no http:// or https:// in front", ENDPOINTS));
            }
            // Only gRPC knows endpoints without a scheme; TLS unless INSECURE says otherwise.
            let scheme = if self.insecure(kind)? { "http" } else { "https" };
            text = format!("{scheme}://{text}");
        }
        let mut url = Url::parse(&text).map_err(|e| setting.error(format!("is no URL ({e})"), ENDPOINTS))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(setting.error("is no address of a collector", ENDPOINTS));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(setting.error(
                "holds a user name or password",
                "a URL without them; put `authorization=Basic%20…` into OTEL_EXPORTER_OTLP_HEADERS",
            ));
        }
        url.set_fragment(None);
        let bare = url.path() == "/";
        let protocol = stated.unwrap_or(match url.port() {
            Some(4317) if bare => Protocol::Grpc,
            _ => Protocol::HttpProtobuf,
        });
        if protocol == Protocol::Grpc {
            if !bare || url.query().is_some() {
                return Err(setting.error(
                    "has a path, which gRPC does not use",
                    "scheme, host and port; or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
                ));
            }
        } else if !setting.own {
            let path = format!("{}/v1/{kind}", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        Ok((url, protocol))
    }

    fn insecure(&self, kind: Kind) -> Result<bool, ConfigError> {
        match self.otlp(kind, "INSECURE", None) {
            None => Ok(false),
            Some(setting) => match setting.value.to_ascii_lowercase().as_str() {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(setting.error("is no truth value", "true, false")),
            },
        }
    }

    fn headers(&self, kind: Kind) -> Result<HeaderMap, ConfigError> {
        let mut headers = HeaderMap::new();
        let mut add = |setting: &str, name: &str, value: Option<String>| {
            let header = HeaderName::from_bytes(name.trim().as_bytes())
                .ok()
                .zip(value.and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok()));
            // The value never gets into the message: it is most often a key.
            let (name, mut value) = header.ok_or_else(|| ConfigError {
                name: setting.to_owned(),
                value: String::new(),
                problem: format!("the header {:?} cannot be sent", name.trim()),
                allowed: "name=value,name=value with percent-encoded values",
            })?;
            value.set_sensitive(true);
            headers.insert(name, value);
            Ok(())
        };
        if let Some(setting) = self.otlp(kind, "HEADERS", None) {
            for pair in pairs(&setting.value) {
                let (name, value) = pair.unwrap_or_default();
                add(&setting.name, name, decode(value))?;
            }
        }
        for header in &self.flags.headers {
            let (name, value) = header.split_once('=').unwrap_or_default();
            add("--otlp-header", name, Some(value.trim().to_owned()))?;
        }
        Ok(headers)
    }

    fn tls(&self, kind: Kind) -> Result<Tls, ConfigError> {
        let ca = self.otlp(kind, "CERTIFICATE", self.flags.certificate.as_ref());
        let certificate = self.otlp(kind, "CLIENT_CERTIFICATE", self.flags.client_certificate.as_ref());
        let key = self.otlp(kind, "CLIENT_KEY", self.flags.client_key.as_ref());
        let identity = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate.pem(), key.pem())),
            (Some(alone), None) | (None, Some(alone)) => {
                return Err(alone.error(
                    "stands alone",
                    "a client certificate together with its key (…_CLIENT_CERTIFICATE and …_CLIENT_KEY)",
                ));
            }
        };
        Ok(Tls { ca: ca.map(|setting| setting.pem()), identity })
    }

    fn batching(&self) -> Result<Batching, ConfigError> {
        let mut batching = Batching::default();
        for (batch, prefix) in [(&mut batching.spans, "OTEL_BSP"), (&mut batching.logs, "OTEL_BLRP")] {
            if let Some(setting) = self.variable(&format!("{prefix}_SCHEDULE_DELAY")) {
                batch.delay = setting.millis()?;
            }
            if let Some(setting) = self.variable(&format!("{prefix}_MAX_EXPORT_BATCH_SIZE")) {
                batch.items = match setting.value.parse() {
                    Ok(0) | Err(_) => {
                        return Err(setting.error("is no batch size", "a whole number above 0"));
                    }
                    Ok(items) => items,
                };
            }
        }
        if let Some(setting) = self.variable("OTEL_METRIC_EXPORT_INTERVAL") {
            batching.metric_interval = setting.positive_millis()?;
        }
        if let Some(setting) = self.variable("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE") {
            batching.temporality = match setting.value.to_ascii_lowercase().as_str() {
                "cumulative" => Temporality::Cumulative,
                // They differ only for instruments that we do not have.
                "delta" | "lowmemory" => Temporality::Delta,
                _ => return Err(setting.error("is no temporality", "cumulative, delta, lowmemory")),
            };
        }
        Ok(batching)
    }

    /// The flag, else the signal's own variable, else the one for all signals.
    fn otlp(&self, kind: Kind, what: &str, flag: Option<&String>) -> Option<Setting> {
        if let Some(value) = flag {
            let name = format!("--otlp-{}", what.to_ascii_lowercase().replace('_', "-"));
            return Some(Setting { name, value: value.clone(), own: false });
        }
        self.variable(&format!("OTEL_EXPORTER_OTLP_{}_{what}", shout(kind)))
            .map(|setting| Setting { own: true, ..setting })
            .or_else(|| self.variable(&format!("OTEL_EXPORTER_OTLP_{what}")))
    }

    fn variable(&self, name: &str) -> Option<Setting> {
        read(&self.env, name).map(|value| Setting { name: name.to_owned(), value, own: false })
    }
}

fn shout(kind: Kind) -> String {
    kind.name().to_ascii_uppercase()
}

/// The specification: an empty variable is an unset one.
fn read(env: &impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The members of a W3C baggage list, `None` for one without `=`.
fn pairs(list: &str) -> impl Iterator<Item = Option<(&str, &str)>> {
    list.split(',')
        .map(str::trim)
        .filter(|member| !member.is_empty())
        .map(|member| member.split_once('=').map(|(key, value)| (key.trim(), value.trim())))
}

/// Percent-decoded UTF-8; a `%` without two hexadecimal digits stands for itself.
fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(hex.unwrap_or(bytes[at]));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        with_flags(variables, &Overrides::default())
    }

    fn with_flags(variables: &[(&str, &str)], flags: &Overrides) -> Result<Config, ConfigError> {
        Config::from_env(from(variables), flags)
    }

    fn from(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn traces(variables: &[(&str, &str)]) -> Target {
        config(variables).unwrap().traces.unwrap()
    }

    #[test]
    fn nothing_is_sent_unless_it_is_asked_for() {
        let config = config(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap();
        assert!(config.traces.is_none() && config.metrics.is_none() && config.logs.is_none());
    }

    #[test]
    fn a_base_endpoint_gets_each_signals_path() {
        let config = config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")]).unwrap();
        assert_eq!(config.traces.unwrap().url.as_str(), "http://collector:4318/v1/traces");
        assert_eq!(config.metrics.unwrap().url.as_str(), "http://collector:4318/v1/metrics");
        assert_eq!(config.logs.unwrap().url.as_str(), "http://collector:4318/v1/logs");
        let target = traces(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://h/a/b/?token=x")]);
        assert_eq!(target.url.as_str(), "https://h/a/b/v1/traces?token=x");
        assert_eq!(target.shown(), "https://h/a/b/v1/traces");
        assert_eq!(target.protocol, Protocol::HttpProtobuf);
    }

    #[test]
    fn a_signals_own_endpoint_is_used_as_it_is() {
        let config = config(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own:9000/ingest"),
        ])
        .unwrap();
        assert_eq!(config.traces.unwrap().url.as_str(), "http://own:9000/ingest");
        assert_eq!(config.logs.unwrap().url.as_str(), "http://all:4318/v1/logs");
    }

    #[test]
    fn an_exporter_variable_turns_signals_on_and_off() {
        let config = config(&[
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_LOGS_EXPORTER", "console"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://h"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://h"),
        ])
        .unwrap();
        assert_eq!(config.traces.unwrap().url.as_str(), "http://localhost:4318/v1/traces");
        assert!(config.metrics.is_none());
        assert!(config.logs.is_none());
    }

    #[test]
    fn the_default_endpoint_follows_the_protocol() {
        let target = traces(&[("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
        assert_eq!((target.shown().as_str(), target.protocol), ("http://localhost:4317", Protocol::Grpc));
    }

    #[test]
    fn port_4317_without_a_protocol_means_grpc() {
        let target = traces(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4317")]);
        assert_eq!((target.shown().as_str(), target.protocol), ("http://h:4317", Protocol::Grpc));
        let target = traces(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ]);
        assert_eq!(target.url.as_str(), "http://h:4317/v1/traces");
        let target = traces(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://h:4317/v1/traces")]);
        assert_eq!(target.protocol, Protocol::HttpProtobuf);
    }

    #[test]
    fn grpc_without_a_scheme_is_tls_unless_insecure() {
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "h:4317");
        assert_eq!(traces(&[grpc, endpoint]).shown(), "https://h:4317");
        let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "True");
        assert_eq!(traces(&[grpc, endpoint, insecure]).shown(), "http://h:4317");
        assert_eq!(traces(&[endpoint]).shown(), "https://h:4317");
    }

    #[test]
    fn headers_are_decoded_and_a_signals_own_replace_the_common_ones() {
        let all = ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20a%2Cb, x-a = 1 ,");
        let target = traces(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"), all]);
        assert_eq!(target.headers["authorization"], "Bearer a,b");
        assert_eq!(target.headers["x-a"], "1");
        assert!(!format!("{target:?}").contains("Bearer"), "values stay out of debug output");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-b=100%");
        let target = traces(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"), all, own]);
        assert_eq!(target.headers.len(), 1);
        assert_eq!(target.headers["x-b"], "100%");
    }

    #[test]
    fn flags_win_over_every_variable() {
        let flags = Overrides {
            endpoint: Some("http://flag:1".to_owned()),
            headers: vec!["x-a=1,2%20".to_owned()],
            ..Overrides::default()
        };
        let config = with_flags(
            &[
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "x-a=0,x-b=0"),
                ("OTEL_LOGS_EXPORTER", "none"),
                ("OTEL_METRICS_EXPORTER", "prometheus"),
            ],
            &flags,
        )
        .unwrap();
        let traces = config.traces.unwrap();
        assert_eq!(traces.url.as_str(), "http://flag:1/v1/traces");
        assert_eq!(
            (&traces.headers["x-a"], &traces.headers["x-b"]),
            (&HeaderValue::from_static("1,2%20"), &HeaderValue::from_static("0"))
        );
        assert!(config.logs.is_none(), "none stays none");
        assert!(config.metrics.is_some());
    }

    #[test]
    fn a_timeout_and_compression_and_certificates_are_read() {
        let target = traces(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://h"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "/c.pem"),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/k.pem"),
        ]);
        assert_eq!((target.timeout, target.gzip), (Duration::from_millis(2500), true));
        assert_eq!(target.tls.ca.unwrap().path, PathBuf::from("/ca.pem"));
        let (certificate, key) = target.tls.identity.unwrap();
        assert_eq!(certificate.setting, "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE");
        assert_eq!(key.path, PathBuf::from("/k.pem"));
        let plain = traces(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h")]);
        assert_eq!((plain.timeout, plain.gzip, plain.tls), (Duration::from_secs(10), false, Tls::default()));
    }

    #[test]
    fn batching_follows_its_variables() {
        let batching = config(&[
            ("OTEL_BSP_SCHEDULE_DELAY", "0"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "7"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "30"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "LowMemory"),
        ])
        .unwrap()
        .batching;
        assert_eq!(batching.spans, Batch { delay: Duration::ZERO, items: 7 });
        assert_eq!(batching.logs, Batch { delay: Duration::from_millis(30), items: 512 });
        assert_eq!(batching.metric_interval, Duration::from_secs(1));
        assert_eq!(batching.temporality, Temporality::Delta);
        assert_eq!(config(&[("OTEL_BSP_SCHEDULE_DELAY", " ")]).unwrap().batching, Batching::default());
    }

    #[test]
    fn a_bad_value_is_refused_with_its_name_and_what_is_allowed() {
        let on = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h");
        let cases: &[(&[(&str, &str)], &str)] = &[
            (
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318")],
                "OTEL_EXPORTER_OTLP_ENDPOINT=localhost:4318: has no http:// or https:// in front",
            ),
            (
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://h")],
                "OTEL_EXPORTER_OTLP_ENDPOINT=ftp://h: is no address",
            ),
            (
                &[on, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http")],
                "OTEL_EXPORTER_OTLP_PROTOCOL=http: is no protocol; allowed: grpc, http/protobuf, http/json",
            ),
            (
                &[
                    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4317/x"),
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
                ],
                "OTEL_EXPORTER_OTLP_ENDPOINT=http://h:4317/x: has a path, which gRPC does not use",
            ),
            (
                &[on, ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "10s")],
                "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT=10s: is not",
            ),
            (&[on, ("OTEL_EXPORTER_OTLP_TIMEOUT", "0")], "OTEL_EXPORTER_OTLP_TIMEOUT=0: is zero"),
            (&[on, ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")], "OTEL_EXPORTER_OTLP_COMPRESSION=zstd: is no"),
            (
                &[on, ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k")],
                "OTEL_EXPORTER_OTLP_CLIENT_KEY=/k: stands alone",
            ),
            (
                &[("OTEL_TRACES_EXPORTER", "otlq")],
                "OTEL_TRACES_EXPORTER=otlq: is no exporter; allowed: otlp, none",
            ),
            (
                &[("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0")],
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=0: is no batch size",
            ),
        ];
        for (variables, expected) in cases {
            let error = config(variables).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn secrets_stay_out_of_errors() {
        for variables in [
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:s3cret@h"), ("A", "")],
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"), ("OTEL_EXPORTER_OTLP_HEADERS", "x y=s3cret")],
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"), ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret")],
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=s3cret%0a")],
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://h?key=s3cret"), ("A", "")],
        ] {
            let error = config(&variables).unwrap_err();
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn resource_attributes_are_decoded_or_discarded_whole() {
        let read = |value: &str| resource_attributes(from(&[("OTEL_RESOURCE_ATTRIBUTES", value)]));
        assert_eq!(
            read("a=1, b.c = x%2Cy=z").unwrap(),
            [("a".to_owned(), "1".to_owned()), ("b.c".to_owned(), "x,y=z".to_owned())]
        );
        assert_eq!(read("").unwrap(), []);
        assert!(read("a=1,b").is_err());
        assert!(read("a=1,b=%ff").is_err());
        assert!(read("=1").is_err());
        assert_eq!(service_name(from(&[("OTEL_SERVICE_NAME", " agent ")])).as_deref(), Some("agent"));
    }
}
