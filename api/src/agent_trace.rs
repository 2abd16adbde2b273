//! What is traced, what is captured of it, and where it goes.

#![allow(unreachable_pub, reason = "KubeSchema derives from a copy of each type, which nobody can reach")]

use crate::selector::Selector;
use crate::status::AgentTraceStatus;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// What AgentSight traces, what it captures of that, and where the telemetry goes.
///
/// The smallest useful object is a name and a selector.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[kube(
    group = "agentsight.dev",
    version = "v1alpha1",
    kind = "AgentTrace",
    namespaced,
    shortname = "at",
    category = "agentsight",
    doc = "Traces the AI agents in the selected pods of its namespace (on a host: in the selected processes): their model calls become OpenTelemetry spans. The smallest useful object is a name and a selector.",
    derive = "PartialEq",
    derive = "Default",
    status = "AgentTraceStatus",
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type=='Accepted')].status","description":"Whether the administrator's guardrails allow it."}"#,
    printcolumn = r#"{"name":"Active","type":"string","jsonPath":".status.conditions[?(@.type=='Active')].status","description":"Whether the nodes trace what it selects."}"#,
    printcolumn = r#"{"name":"Pods","type":"integer","jsonPath":".status.pods","description":"Selected pods that run."}"#,
    printcolumn = r#"{"name":"Traced","type":"integer","jsonPath":".status.traced","description":"Processes of them that are traced."}"#,
    printcolumn = r#"{"name":"Calls","type":"integer","jsonPath":".status.calls","description":"Model calls that were seen."}"#,
    printcolumn = r#"{"name":"Dropped","type":"integer","jsonPath":".status.dropped","description":"What was lost of them, on all nodes, by all causes."}"#,
    printcolumn = r#"{"name":"Content","type":"string","jsonPath":".spec.capture.modelCalls.content","description":"What of prompts and answers is exported.","priority":1}"#,
    printcolumn = r#"{"name":"Exporter","type":"string","jsonPath":".spec.exporter","description":"Where the telemetry goes.","priority":1}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Active')].reason","description":"Why it is active or not.","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.selector)")
    .message(SELECTOR_ABSENT).field_path(".selector").reason(Reason::FieldValueRequired))]
pub struct AgentTraceSpec {
    /// Which pods of this namespace are traced, by their labels; on a host, which processes, by the labels
    /// that agentsight gives them (agentsight.dev/executable, agentsight.dev/user,
    /// agentsight.dev/systemd-unit, agentsight.dev/cgroup). Required: `{}` selects everything, an absent
    /// selector is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,

    /// Which containers of the selected pods are traced; all of them by default. Has no meaning on a host.
    #[serde(default)]
    pub containers: Containers,

    /// What is captured.
    #[serde(default)]
    pub capture: Capture,

    /// What is removed from captured content before it leaves the agent, besides what always is:
    /// credentials of known forms (provider keys, bearer tokens, private keys, cloud keys, JWTs) and the
    /// headers that carry them.
    #[serde(default)]
    pub redaction: Redaction,

    /// Name of the exporter that the telemetry goes to. Exporters and their credentials are defined by the
    /// administrator. On a host there is one, `default`, and flags or the OTEL_EXPORTER_OTLP_* variables
    /// say where it sends.
    #[serde(default = "default_exporter")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub exporter: String,

    /// Version of OpenTelemetry's semantic conventions that spans and metrics follow.
    #[serde(default)]
    pub semconv: Semconv,

    /// How many of the calls become spans. Metrics always count all calls.
    #[serde(default)]
    pub sampling: Sampling,
}

/// The exporter that an AgentTrace names where it names none.
const DEFAULT_EXPORTER: &str = "default";

pub(crate) const SELECTOR_ABSENT: &str =
    "a selector is required: write `selector: {}` for everything, or name labels under matchLabels";

fn default_exporter() -> String {
    DEFAULT_EXPORTER.to_owned()
}

impl AgentTraceSpec {
    /// Whether something with these labels is selected. Without a selector nothing is.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }

    /// What of this object has no effect on a host, a sentence for each, to be shown as warnings.
    pub fn warnings_on_a_host(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.containers != Containers::default() {
            warnings.push(
                "spec.containers has no effect on a host: processes are selected by spec.selector".into(),
            );
        }
        if self.exporter != DEFAULT_EXPORTER {
            warnings.push(format!(
                "spec.exporter {:?} has no effect on a host: telemetry goes where --otlp-endpoint or \
                 OTEL_EXPORTER_OTLP_ENDPOINT says",
                self.exporter
            ));
        }
        let foreign =
            self.selector.iter().flat_map(Selector::keys).filter(|key| !crate::host::LABELS.contains(key));
        warnings.extend(foreign.map(|key| {
            format!(
                "spec.selector uses the label {key:?}, which no process of a host has; those have {}",
                crate::host::LABELS.join(", ")
            )
        }));
        warnings
    }
}

/// Containers by their names.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.include) || !has(self.exclude) || !self.include.exists(name, name in self.exclude)")
    .message(INCLUDED_AND_EXCLUDED))]
pub struct Containers {
    /// Only containers of these names are traced. Empty: containers of every name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub include: Vec<String>,

    /// Containers of these names are not traced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub exclude: Vec<String>,
}

pub(crate) const INCLUDED_AND_EXCLUDED: &str =
    "a container stands in both include and exclude: remove it from one of them";

impl Containers {
    /// Whether a container of this name is traced.
    pub fn selects(&self, name: &str) -> bool {
        let named = |names: &[String]| names.iter().any(|candidate| candidate == name);
        (self.include.is_empty() || named(&self.include)) && !named(&self.exclude)
    }
}

/// What is captured. Each kind of event has a field of its own, and none is captured that has none here.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Capture {
    /// Calls to models, over TLS and over what `plaintext` names.
    #[serde(default)]
    pub model_calls: ModelCalls,

    /// Where calls are seen that do not go through TLS. `None`: nowhere, not a byte of them is copied.
    /// `HTTP`: on TCP connections and Unix sockets that the selected processes open and speak HTTP/1.1 or HTTP/2 on, as many
    /// do with vLLM, Ollama, LiteLLM or a sidecar of a service mesh.
    #[serde(default)]
    pub plaintext: Plaintext,

    /// Which requests to servers of the Model Context Protocol are seen besides those over HTTP. `None`: none.
    /// `Stdio`: those to servers that the selected processes start and speak to over standard input and output.
    #[serde(default)]
    pub mcp: Mcp,
    // Later kinds of events stand here, off by default. Where one can hold content, the operator's
    // guardrails (operator/src/guardrails.rs) must know it.
}

/// What is captured of calls to models.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ModelCalls {
    /// What of prompts and answers is exported. `None`: no text of either is in any output. `Messages`:
    /// system instructions, input and output messages and tool definitions stand on the span, after
    /// redaction.
    #[serde(default)]
    pub content: Content,

    /// Bytes of content kept of each request and of each response. What goes beyond is cut, and the cut
    /// is marked on the span.
    #[serde(default = "default_max_content_bytes")]
    #[schemars(range(min = *Self::CONTENT_BYTES.start(), max = *Self::CONTENT_BYTES.end()))]
    pub max_content_bytes: i64,

    /// Endpoints that speak a known wire format under a path that does not show it. Requests to the usual
    /// paths of any host, also below a prefix, are recognised without this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub endpoints: Vec<Endpoint>,
}

impl ModelCalls {
    /// The least and the most that `maxContentBytes` may be.
    pub const CONTENT_BYTES: RangeInclusive<i64> = 1 << 10..=16 << 20;

    /// 8 MiB: twice the longest answer that models give today (4 MiB of text), and room for images.
    pub const DEFAULT_MAX_CONTENT_BYTES: i64 = 8 << 20;
}

fn default_max_content_bytes() -> i64 {
    ModelCalls::DEFAULT_MAX_CONTENT_BYTES
}

impl Default for ModelCalls {
    fn default() -> Self {
        Self {
            content: Content::None,
            max_content_bytes: Self::DEFAULT_MAX_CONTENT_BYTES,
            endpoints: Vec::new(),
        }
    }
}

// `On` and `Off` would be read as truth values by YAML 1.1, which kubectl speaks.
/// What of prompts and answers is exported.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Content {
    /// Nothing.
    #[default]
    None,
    /// Messages, tools and what they are called with, and arguments of the programs that they run, after redaction.
    Messages,
}

/// Where calls are seen that do not go through TLS.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Plaintext {
    /// Nowhere.
    #[default]
    None,
    /// On TCP connections and Unix sockets that begin with HTTP.
    #[serde(rename = "HTTP")]
    Http,
}

/// Which requests to servers of the Model Context Protocol are seen besides those over HTTP.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mcp {
    /// None.
    #[default]
    None,
    /// Those over a server's standard input and output.
    Stdio,
}

/// Requests to this path are model calls.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Host name as the request names it, without port and in lower case, such as `llm.example.com`. Every
    /// host where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9_]([-a-z0-9_.]*[a-z0-9_])?$"))]
    pub host: Option<String>,

    /// What the path ends with, without the query, such as `/llm/generate`.
    #[schemars(length(min = 2, max = 256), regex(pattern = r"^/"))]
    pub path: String,

    /// The wire format that is spoken there.
    pub wire_format: WireFormat,
}

/// A wire format of model calls.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WireFormat {
    /// OpenAI's Chat Completions.
    OpenAIChatCompletions,
    /// OpenAI's Responses.
    OpenAIResponses,
    /// OpenAI's legacy Completions.
    OpenAICompletions,
    /// OpenAI's Embeddings.
    OpenAIEmbeddings,
    /// Anthropic's Messages.
    AnthropicMessages,
    /// Google's generateContent, as Gemini and Vertex AI speak it. The model is named in the path.
    GoogleGenerateContent,
    /// Cohere's Chat, version 1 or 2.
    CohereChat,
    /// Cohere's Embed.
    CohereEmbed,
    /// Ollama's `/api/chat`.
    OllamaChat,
    /// Ollama's `/api/generate`.
    OllamaGenerate,
    /// Ollama's `/api/embed`.
    OllamaEmbed,
    /// Hugging Face Text Generation Inference's `/generate`.
    TgiGenerate,
    /// llama.cpp's `/completion`.
    LlamaCppCompletion,
    /// Rerank, as Cohere and vLLM speak it.
    Rerank,
}

/// What is removed from captured content, besides credentials of known forms.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Redaction {
    /// Patterns of one's own. What they match is replaced by `[REDACTED:pattern]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub patterns: Vec<Pattern>,
}

/// Text to be removed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Pattern {
    /// Tells the pattern apart from the others.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Regular expression in RE2's syntax (no look-around, no back-references); `(?i)` in front makes it
    /// ignore case. It is searched in the text of messages, not in their JSON form.
    #[schemars(length(min = 1, max = 1024))]
    pub regex: String,
}

impl Pattern {
    /// Whether a regular expression can be searched for: it is valid, of bounded size once compiled, and
    /// does not match the empty text.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn check(regex: &str) -> Result<(), String> {
        /// Of one pattern, in bytes; a count of characters in the schema lets longer ones pass.
        const MAX_LENGTH: usize = 1024;
        /// Of one compiled pattern, in bytes: `(a{999}){999}` is short and takes gigabytes.
        const MAX_COMPILED: usize = 1 << 20;
        if regex.len() > MAX_LENGTH {
            return Err(format!("has {} bytes, at most {MAX_LENGTH} are allowed", regex.len()));
        }
        match regex::RegexBuilder::new(regex).size_limit(MAX_COMPILED).build() {
            Ok(compiled) if compiled.is_match("") => {
                Err("matches the empty text: it would remove nothing, everywhere".into())
            }
            Ok(_) => Ok(()),
            // The last line of the parser's drawing holds the reason.
            Err(error) => {
                let text = error.to_string();
                let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                Err(format!("is not a valid regular expression: {reason}"))
            }
        }
    }
}

/// A version of OpenTelemetry's semantic conventions for generative AI.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Semconv {
    /// Version 1.41.
    #[default]
    #[serde(rename = "v1.41")]
    V1_41,
    /// The newest names, which may still change.
    #[serde(rename = "latest")]
    Latest,
}

/// How many of the calls become spans.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Sampling {
    /// Percentage of traces whose spans are exported. The decision is made by the trace id, so that all
    /// spans of a trace stay or go together.
    #[serde(default = "default_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
}

fn default_percent() -> i32 {
    100
}

impl Default for Sampling {
    fn default() -> Self {
        Self { percent: 100 }
    }
}

impl Sampling {
    /// Whether the spans of this trace are exported: W3C Trace Context level 2 makes the last 7 bytes of
    /// a trace id random, and OpenTelemetry's samplers compare them with a threshold.
    pub fn keeps(self, trace_id: [u8; 16]) -> bool {
        let mut random = [0; 8];
        random[1..].copy_from_slice(&trace_id[9..]);
        let rejected = (100 - u64::from(self.percent.clamp(0, 100).unsigned_abs())) * (1 << 56) / 100;
        u64::from_be_bytes(random) >= rejected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excluding_a_container_wins_over_including_all() {
        let containers = Containers { include: vec![], exclude: vec!["istio-proxy".into()] };
        assert!(containers.selects("app"));
        assert!(!containers.selects("istio-proxy"));
        assert!(!Containers { include: vec!["app".into()], exclude: vec![] }.selects("other"));
    }

    #[test]
    fn sampling_takes_its_share_by_the_last_bytes_of_the_trace_id() {
        let id = |high: u8| {
            let mut id = [0xff; 16];
            id[9] = high;
            id
        };
        let kept = |percent| (0..=255).filter(|high| Sampling { percent }.keeps(id(*high))).count();
        assert_eq!(kept(100), 256);
        assert_eq!(kept(0), 0);
        assert_eq!(kept(25), 64);
        assert!(Sampling { percent: 100 }.keeps([0; 16]));
    }

    #[test]
    fn what_has_no_effect_on_a_host_is_told() {
        let yaml = "apiVersion: agentsight.dev/v1alpha1\nkind: AgentTrace\nmetadata: {name: a}\n\
                    spec: {selector: {matchLabels: {app: x}}, containers: {include: [a]}, exporter: other}";
        let warnings = AgentTrace::from_yaml(yaml).expect("a valid object").spec.warnings_on_a_host();
        assert_eq!(warnings.len(), 3);
        assert!(warnings[2].contains("\"app\""), "{warnings:?}");
    }
}
