//! Where telemetry goes in a cluster: the file that the chart renders from its values, and agents mount.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The administrator's exporters by their names, which an AgentTrace's `exporter` refers to.
///
/// ```yaml
/// exporters:
///   default:
///     endpoint: https://otlp.example.com:4317
///     protocol: grpc
///     headers:
///       - name: authorization
///         prefix: "Bearer "
///         valueFrom: { file: /etc/agentsight/secrets/otlp/token }
/// ```
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exporters {
    /// By name: lower-case letters, digits and `-`, at most 63.
    #[serde(default)]
    pub exporters: BTreeMap<String, Exporter>,
}

/// One OTLP receiver, and how it is spoken to.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exporter {
    /// `http://HOST:PORT` or `https://HOST:PORT`, with a path where the receiver wants one (HTTP only): the
    /// base of all signals, as in `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: String,

    /// How it is spoken to. Absent: gRPC for port 4317 without a path, else HTTP with protobuf.
    #[serde(default)]
    pub protocol: Option<Protocol>,

    /// Sent with each request.
    #[serde(default)]
    pub headers: Vec<Header>,

    /// Certificates of one's own; without, the system's authorities are trusted.
    #[serde(default)]
    pub tls: ExporterTls,

    /// Whether requests are compressed.
    #[serde(default)]
    pub compression: Compression,

    /// For one request, such as `10s` or `500ms`. Absent: 10 seconds.
    #[serde(default)]
    pub timeout: Option<String>,
}

/// How OTLP travels.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// gRPC.
    #[serde(rename = "grpc")]
    Grpc,
    /// HTTP with protobuf.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
    /// HTTP with JSON.
    #[serde(rename = "http/json")]
    HttpJson,
}

impl Protocol {
    /// As the file has it, and as `OTEL_EXPORTER_OTLP_PROTOCOL` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Grpc => "grpc",
            Protocol::HttpProtobuf => "http/protobuf",
            Protocol::HttpJson => "http/json",
        }
    }
}

/// How requests are compressed.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// They are not.
    #[default]
    None,
    /// By gzip.
    Gzip,
}

/// A header of each request: a literal `value`, or `valueFrom` an environment variable or a file.
#[derive(Deserialize, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    /// Its name.
    pub name: String,

    /// Its value, where that is no secret.
    #[serde(default)]
    pub value: Option<String>,

    /// Where its value is to be read.
    #[serde(default, with = "serde_yaml::with::singleton_map")]
    pub value_from: Option<HeaderSource>,

    /// Put in front of a value that is read, such as `Bearer `.
    #[serde(default)]
    pub prefix: String,
}

/// A value may be a credential.
impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header")
            .field("name", &self.name)
            .field("value_from", &self.value_from)
            .finish_non_exhaustive()
    }
}

/// Where a header's value is read.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub enum HeaderSource {
    /// An environment variable of the agent.
    Env(String),
    /// A file, without the white space at its end. A mounted Secret is one. It is read when the exporter starts.
    File(PathBuf),
}

/// Certificates for TLS, as PEM files.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExporterTls {
    /// The only authorities that are trusted.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The agent's own certificate, for receivers that ask for one.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// Why a text is no list of exporters. The message names the field, and no value of a header.
#[derive(thiserror::Error, Debug)]
pub enum ExportersError {
    /// No YAML, or a field is unknown, missing or of the wrong kind.
    #[error("cannot be read: {0}")]
    Syntax(#[source] serde_yaml::Error),
    /// A field holds what cannot be.
    #[error("{path}: {problem}")]
    Field {
        /// Where, such as `exporters.default.headers[0]`.
        path: String,
        /// What is wrong and what is allowed.
        problem: &'static str,
    },
}

impl Exporters {
    /// Reads and checks the file's text. An empty text defines no exporter.
    ///
    /// # Errors
    /// Says which field is wrong and what it may hold. The text is to be prefixed with the file's name.
    pub fn from_yaml(text: &str) -> Result<Self, ExportersError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let exporters: Self = serde_yaml::from_str(text).map_err(ExportersError::Syntax)?;
        for (name, exporter) in &exporters.exporters {
            check_name(name)?;
            exporter.check(&format!("exporters.{name}"))?;
        }
        Ok(exporters)
    }
}

fn check_name(name: &str) -> Result<(), ExportersError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty()
        || name.len() > 63
        || !name.chars().all(inner)
        || name.starts_with('-')
        || name.ends_with('-')
    {
        return Err(ExportersError::Field {
            path: format!("exporters.{name}"),
            problem: "a name has 1 to 63 lower-case letters, digits and `-`, the last not at its ends",
        });
    }
    Ok(())
}

impl Exporter {
    fn check(&self, path: &str) -> Result<(), ExportersError> {
        let fail =
            |field: &str, problem| Err(ExportersError::Field { path: format!("{path}.{field}"), problem });
        if !(self.endpoint.starts_with("http://") || self.endpoint.starts_with("https://")) {
            return fail("endpoint", "must begin with http:// or https://");
        }
        let mut seen = BTreeSet::new();
        for (index, header) in self.headers.iter().enumerate() {
            let field = format!("headers[{index}]");
            if header.value.is_some() == header.value_from.is_some() {
                return fail(&field, "needs either value or valueFrom");
            }
            if !seen.insert(header.name.to_ascii_lowercase()) {
                return fail(&field, "stands twice");
            }
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            return fail("tls", "certFile and keyFile go together");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_enough() {
        let file =
            Exporters::from_yaml("exporters: {default: {endpoint: 'http://collector:4317'}}").expect("valid");
        let exporter = &file.exporters["default"];
        assert_eq!(exporter.endpoint, "http://collector:4317");
        assert_eq!((exporter.protocol, exporter.compression), (None, Compression::None));
        assert_eq!(Exporters::from_yaml("").expect("nothing").exporters.len(), 0);
    }

    #[test]
    fn everything_can_be_said() {
        let text = "
exporters:
  tempo:
    endpoint: https://tempo.example.com/otlp
    protocol: http/protobuf
    compression: gzip
    timeout: 5s
    headers:
      - {name: x-scope-orgid, value: shop}
      - {name: authorization, prefix: 'Basic ', valueFrom: {file: /etc/agentsight/secrets/tempo/basic}}
      - {name: x-key, valueFrom: {env: KEY}}
    tls: {caFile: /ca.crt, certFile: /tls.crt, keyFile: /tls.key}
";
        let file = Exporters::from_yaml(text).expect("valid");
        let tempo = &file.exporters["tempo"];
        assert_eq!(tempo.protocol.map(Protocol::as_str), Some("http/protobuf"));
        let expected = HeaderSource::File("/etc/agentsight/secrets/tempo/basic".into());
        assert_eq!(tempo.headers[1].value_from, Some(expected));
        assert_eq!(tempo.headers[2].value_from, Some(HeaderSource::Env("KEY".into())));
    }

    #[track_caller]
    fn refused(exporter: &str, message: &str) {
        let error =
            Exporters::from_yaml(&format!("exporters: {{a: {exporter}}}")).expect_err("must be refused");
        assert!(error.to_string().contains(message), "{error}");
    }

    #[test]
    fn mistakes_are_named() {
        refused("{}", "missing field `endpoint`");
        refused("{endpoint: 'collector:4317'}", "exporters.a.endpoint: must begin with http:// or https://");
        refused("{endpoint: 'http://c', protocol: thrift}", "unknown variant `thrift`");
        refused("{endpoint: 'http://c', hedaers: []}", "unknown field `hedaers`");
        refused(
            "{endpoint: 'http://c', headers: [{name: a}]}",
            "headers[0]: needs either value or valueFrom",
        );
        refused(
            "{endpoint: 'http://c', headers: [{name: a, value: x}, {name: A, value: y}]}",
            "headers[1]: stands twice",
        );
        refused(
            "{endpoint: 'http://c', tls: {certFile: /a}}",
            "exporters.a.tls: certFile and keyFile go together",
        );
        let error =
            Exporters::from_yaml("exporters: {A: {endpoint: 'http://c'}}").expect_err("must be refused");
        assert!(error.to_string().starts_with("exporters.A: a name has"), "{error}");
    }

    #[test]
    fn a_value_is_never_shown() {
        let text = "exporters: {a: {endpoint: 'http://c', headers: [{name: n, value: s3cret}]}}";
        assert!(!format!("{:?}", Exporters::from_yaml(text).expect("valid")).contains("s3cret"));
    }
}
