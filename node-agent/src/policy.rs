//! What is done with what a process says: which of it is read, and where it goes.
//!
//! Several AgentTraces may select one process. Then the union of what they ask for is read, once, and each exporter
//! gets one span, with the strictest content, redaction and limit of the traces that name this exporter.

use crate::capture::events::ProcessId;
use crate::capture::programs::More;
use crate::resource::Resource;
use agentsight_api::{AgentTraceSpec, Content, Mcp, Plaintext, Sampling, Semconv, WireFormat};
use agentsight_ebpf::wanted;
use agentsight_genai::call::Api;
use agentsight_genai::providers;
use agentsight_genai::redact::{PatternError, Redactor};
use agentsight_genai::semconv::{self, Vintage};
use std::path::Path;
use std::sync::Arc;

/// What holds for a process.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What is read of its calls.
    pub calls: Arc<providers::Settings>,
    /// Who is told of them, each exporter once.
    pub outputs: Vec<Output>,
    /// The traces that select it; each of them counts its calls.
    pub traces: Vec<Arc<str>>,
    /// What is read of it: bits of [`wanted`].
    pub wanted: u32,
}

/// What one exporter is told.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its name, and the conventions that it is spoken to in: an OTLP scope has one schema.
    pub exporter: ExporterId,
    /// Under which names, and with how much content.
    pub semconv: semconv::Options,
    /// How many of the calls become spans.
    pub sampling: Sampling,
}

/// An exporter that speaks one version of the conventions.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ExporterId {
    /// As the administrator named it.
    pub name: Arc<str>,
    /// The version.
    pub semconv: Semconv,
}

/// What one trace wants of the processes that it selects.
#[derive(Clone, PartialEq, Debug)]
pub struct Wish {
    /// The trace, by its UID.
    pub trace: Arc<str>,
    /// The name of the exporter that it wants to be told.
    pub exporter: Arc<str>,
    /// What is to be read: bits of [`wanted`].
    pub wanted: u32,
    /// Keep prompts and answers.
    pub content: bool,
    /// Bytes of them that are kept of each side of a call.
    pub max_content: usize,
    /// Endpoints whose path does not tell what they speak.
    pub endpoints: Vec<providers::Endpoint>,
    /// Regular expressions for what is removed from content.
    pub redact: Vec<String>,
    /// Whose words are used.
    pub semconv: Semconv,
    /// How many of the calls become spans.
    pub sampling: Sampling,
}

/// The exporter that a host has.
pub const DEFAULT_EXPORTER: &str = "default";

impl Wish {
    /// As an AgentTrace with this UID says. On a host the UID is empty.
    pub fn of(trace: &str, spec: &AgentTraceSpec) -> Wish {
        let calls = &spec.capture.model_calls;
        let endpoints = calls.endpoints.iter().map(|endpoint| providers::Endpoint {
            host: endpoint.host.clone(),
            path: endpoint.path.clone(),
            api: match endpoint.wire_format {
                WireFormat::OpenAIChatCompletions => Api::OpenAiChat,
                WireFormat::OpenAIResponses => Api::OpenAiResponses,
                WireFormat::OpenAICompletions => Api::OpenAiCompletions,
                WireFormat::OpenAIEmbeddings => Api::OpenAiEmbeddings,
                WireFormat::AnthropicMessages => Api::AnthropicMessages,
                WireFormat::GoogleGenerateContent => Api::GoogleGenerateContent,
                WireFormat::CohereChat => Api::CohereChat,
                WireFormat::CohereEmbed => Api::CohereEmbed,
                WireFormat::OllamaChat => Api::OllamaChat,
                WireFormat::OllamaGenerate => Api::OllamaGenerate,
                WireFormat::OllamaEmbed => Api::OllamaEmbed,
                WireFormat::TgiGenerate => Api::TgiGenerate,
                WireFormat::LlamaCppCompletion => Api::LlamaCppCompletion,
                WireFormat::Rerank => Api::Rerank,
            },
        });
        Wish {
            trace: trace.into(),
            exporter: spec.exporter.as_str().into(),
            wanted: wanted_of(spec.capture.plaintext == Plaintext::Http, spec.capture.mcp == Mcp::Stdio),
            content: calls.content == Content::Messages,
            // The schema bounds it to 16 MiB.
            max_content: usize::try_from(calls.max_content_bytes).unwrap_or(usize::MAX),
            endpoints: endpoints.collect(),
            redact: spec.redaction.patterns.iter().map(|pattern| pattern.regex.clone()).collect(),
            semconv: spec.semconv,
            sampling: spec.sampling,
        }
    }
}

/// Bits of [`wanted`].
pub fn wanted_of(plaintext: bool, stdio: bool) -> u32 {
    let plaintext = if plaintext { wanted::PLAINTEXT } else { 0 };
    let stdio = if stdio { wanted::STDIO } else { 0 };
    wanted::CALLS | plaintext | stdio
}

impl Policy {
    /// Whether that is read, too.
    pub fn wants(&self, more: More) -> bool {
        self.wanted & more.wanted() != 0
    }

    /// What holds for a process that all these traces select; there must be one.
    ///
    /// `patterns` is how messages call the list of patterns. Traces that disagree at one exporter on the version of
    /// the conventions get the stable one; the larger of two samples holds the smaller.
    ///
    /// # Errors
    /// The patterns of the traces that name one exporter are not usable together.
    pub fn union(wishes: &[&Wish], patterns: &str) -> Result<Policy, PatternError> {
        let mut outputs: Vec<Output> = Vec::new();
        for wish in wishes {
            if outputs.iter().any(|output| output.exporter.name == wish.exporter) {
                continue;
            }
            let same: Vec<_> = wishes.iter().filter(|other| other.exporter == wish.exporter).collect();
            let semconv = match same.iter().all(|wish| wish.semconv == Semconv::Latest) {
                true => Semconv::Latest,
                false => Semconv::V1_41,
            };
            let mut redact: Vec<String> = Vec::new();
            for pattern in same.iter().flat_map(|wish| &wish.redact) {
                if !redact.contains(pattern) {
                    redact.push(pattern.clone());
                }
            }
            let max_content = same.iter().map(|wish| wish.max_content).min().unwrap_or(0);
            outputs.push(Output {
                exporter: ExporterId { name: wish.exporter.clone(), semconv },
                semconv: semconv::Options {
                    vintage: match semconv {
                        Semconv::V1_41 => Vintage::V1_41,
                        Semconv::Latest => Vintage::Latest,
                    },
                    content: same.iter().all(|wish| wish.content),
                    // Both sides of a call, each within its own limit.
                    max_content: max_content.saturating_mul(2),
                    redactor: Arc::new(Redactor::new(patterns, &redact)?),
                },
                sampling: Sampling {
                    percent: same.iter().map(|wish| wish.sampling.percent).max().unwrap_or(0),
                },
            });
        }
        let mut endpoints: Vec<providers::Endpoint> = Vec::new();
        for endpoint in wishes.iter().flat_map(|wish| &wish.endpoints) {
            if !endpoints.contains(endpoint) {
                endpoints.push(endpoint.clone());
            }
        }
        // An exporter that gets content from all traces that name it is what content is kept for.
        let kept = wishes.iter().filter(|wish| {
            outputs.iter().any(|output| output.exporter.name == wish.exporter && output.semconv.content)
        });
        let max_content = kept.map(|wish| wish.max_content).max();
        let defaults = providers::Settings::default();
        Ok(Policy {
            calls: Arc::new(providers::Settings {
                content: max_content.is_some(),
                max_request_content: max_content.unwrap_or(defaults.max_request_content),
                max_response_content: max_content.unwrap_or(defaults.max_response_content),
                endpoints,
            }),
            outputs,
            traces: wishes.iter().map(|wish| wish.trace.clone()).collect(),
            wanted: wishes.iter().fold(0, |all, wish| all | wish.wanted),
        })
    }
}

/// Knows of each process what holds for it, and who it is. The pipeline asks; it never decides.
pub trait Subjects {
    /// What is read of a process while it is there; what else is known of it may come later.
    type Facts;

    /// Moves on whenever an answer of [`Subjects::policy`] may have changed.
    fn version(&self) -> u64;

    /// What holds for a process; nothing where it is not traced, or not any more. `cgroup`: the selected cgroup that
    /// the kernel found it in, where it told.
    fn policy(&mut self, process: ProcessId, cgroup: Option<u64>) -> Option<Arc<Policy>>;

    /// Calls and processes are joined only with those of the same scope: tenants must not reach into each other's
    /// traces.
    fn scope(&mut self, process: ProcessId, cgroup: Option<u64>) -> u64;

    /// What one process says may be passed on by those of the same pod, and by no others.
    fn pod(&mut self, process: ProcessId, cgroup: Option<u64>) -> u64;

    /// Reads what only the living process can tell. `executable` is what its last exec was given.
    fn facts(&mut self, process: ProcessId, cgroup: Option<u64>, executable: Option<&Path>) -> Self::Facts;

    /// Who it is. `None`: more is about to be known, and worth waiting for. Not where it must be told `now`.
    fn resource(&mut self, facts: &Self::Facts, now: bool) -> Option<Arc<Resource>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wish(trace: &str, exporter: &str) -> Wish {
        Wish {
            trace: trace.into(),
            exporter: exporter.into(),
            wanted: wanted::CALLS,
            content: true,
            max_content: 1000,
            endpoints: Vec::new(),
            redact: Vec::new(),
            semconv: Semconv::V1_41,
            sampling: Sampling::default(),
        }
    }

    fn union(wishes: &[&Wish]) -> Policy {
        Policy::union(wishes, "redaction").expect("usable patterns")
    }

    #[test]
    fn one_exporter_gets_the_strictest_of_the_traces_that_name_it() {
        let open = Wish { redact: vec!["a+".into()], ..wish("open", "x") };
        let closed =
            Wish { content: false, max_content: 10, redact: vec!["b+".into()], ..wish("closed", "x") };
        let policy = union(&[&open, &closed]);
        let [output] = &policy.outputs[..] else { panic!("{policy:?}") };
        assert!(!output.semconv.content);
        assert_eq!(output.semconv.max_content, 20);
        assert_eq!(output.semconv.redactor.text("aa bb"), "[REDACTED:pattern] [REDACTED:pattern]");
        assert!(!policy.calls.content, "what nobody is told is not kept either");
        assert_eq!(policy.traces, ["open".into(), "closed".into()]);
    }

    #[test]
    fn more_than_tls_is_read_where_one_of_the_traces_wants_it() {
        for (more, wanted) in
            [(More::Plaintext, wanted_of(true, false)), (More::Stdio, wanted_of(false, true))]
        {
            let wants = Wish { wanted, ..wish("wants", "x") };
            let policy = union(&[&wants, &wish("does-not", "x")]);
            assert_eq!(More::ALL.map(|each| policy.wants(each)), More::ALL.map(|each| each == more));
            assert!(!union(&[&wish("does-not", "x")]).wants(more));
        }
    }

    #[test]
    fn another_exporter_keeps_its_own_content() {
        let open = Wish { max_content: 77, ..wish("open", "x") };
        let closed = Wish { content: false, max_content: 2000, ..wish("closed", "y") };
        let policy = union(&[&open, &closed]);
        let content: Vec<_> = policy.outputs.iter().map(|output| output.semconv.content).collect();
        assert_eq!(content, [true, false]);
        assert_eq!((policy.calls.content, policy.calls.max_request_content), (true, 77));
    }

    #[test]
    fn the_larger_sample_and_the_stable_conventions_hold() {
        let half = Wish { sampling: Sampling { percent: 50 }, semconv: Semconv::Latest, ..wish("half", "x") };
        let tenth = Wish { sampling: Sampling { percent: 10 }, ..wish("tenth", "x") };
        let policy = union(&[&half, &tenth]);
        assert_eq!(policy.outputs[0].sampling.percent, 50);
        assert_eq!(policy.outputs[0].exporter.semconv, Semconv::V1_41);
        assert_eq!(union(&[&half]).outputs[0].semconv.vintage, Vintage::Latest);
    }

    #[test]
    fn patterns_that_are_too_many_together_are_refused() {
        let many = |letter: char| (0..40).map(|n| format!("{letter}{n}")).collect();
        let (a, b) =
            (Wish { redact: many('a'), ..wish("a", "x") }, Wish { redact: many('b'), ..wish("b", "x") });
        assert!(Policy::union(&[&a, &b], "redaction").is_err());
        let b = Wish { exporter: "y".into(), ..b };
        assert!(Policy::union(&[&a, &b], "redaction").is_ok());
    }

    fn any_wish() -> impl Strategy<Value = Wish> {
        (0..3usize, any::<bool>(), 1..5000usize, 0..=100, any::<bool>()).prop_map(
            |(exporter, content, max_content, percent, latest)| Wish {
                content,
                max_content,
                sampling: Sampling { percent },
                semconv: if latest { Semconv::Latest } else { Semconv::V1_41 },
                ..wish("t", ["a", "b", "c"][exporter])
            },
        )
    }

    proptest! {
        #[test]
        fn no_order_of_traces_gives_an_exporter_more(wishes in prop::collection::vec(any_wish(), 1..6)) {
            let told = |wishes: &[&Wish]| {
                let mut outputs = union(wishes).outputs.into_iter().map(|output| {
                    (output.exporter.name.to_string(), output.semconv.content, output.semconv.max_content,
                     output.sampling.percent)
                }).collect::<Vec<_>>();
                outputs.sort();
                outputs
            };
            let forward: Vec<_> = wishes.iter().collect();
            let backward: Vec<_> = wishes.iter().rev().collect();
            prop_assert_eq!(told(&forward), told(&backward));
            for (name, content, max_content, _) in told(&forward) {
                for wish in wishes.iter().filter(|wish| *wish.exporter == *name) {
                    prop_assert!(wish.content || !content);
                    prop_assert!(max_content <= wish.max_content * 2);
                }
            }
        }
    }
}
