//! What the administrator allows: the file that the chart renders from `guardrails` and `exporters`.

use crate::source::Source;
use agentsight_api::{AgentTraceGrantSpec, Content, GrantScope, GrantSource, ModelCalls, Operator, Selector};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What the administrator allows. What the file does not name is forbidden, but for tracing itself: that
/// stands open to every namespace unless `namespaces` says otherwise.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Guardrails {
    /// Whose pods may be traced.
    #[serde(default = "Namespaces::all")]
    pub namespaces: Namespaces,
    /// Whose prompts and answers may be captured.
    #[serde(default)]
    pub content: ContentRule,
    /// The exporters that there are, and who may use them.
    #[serde(default)]
    pub exporters: BTreeMap<String, ExporterRule>,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
}

/// Whose prompts and answers may be captured.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContentRule {
    /// Those of pods in these namespaces.
    #[serde(default)]
    pub namespaces: Namespaces,
}

/// Who may use an exporter.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExporterRule {
    /// Telemetry of pods in these namespaces may go there.
    #[serde(default = "Namespaces::all")]
    pub namespaces: Namespaces,
}

/// Bounds on what one may ask for.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// The most content that is kept of one request or response; more than that is cut down to it.
    pub max_content_bytes: i64,
    /// AgentTraces in one namespace that are accepted, the oldest first.
    pub traces_per_namespace: usize,
    /// AgentTraces and ClusterAgentTraces that are accepted in all.
    pub traces: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // 1,000: an AgentTraceNode holds a report of each, and an object in etcd at most 1.5 MiB.
        Self {
            max_content_bytes: ModelCalls::DEFAULT_MAX_CONTENT_BYTES,
            traces_per_namespace: 50,
            traces: 1000,
        }
    }
}

/// A set of namespaces, by name; `*` stands for any characters at the end of a name.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Namespaces(Vec<String>);

impl Namespaces {
    /// Every one.
    pub fn all() -> Self {
        Self(vec!["*".to_owned()])
    }

    fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => pattern == name,
        })
    }

    fn is_all(&self) -> bool {
        self.0.iter().any(|pattern| pattern == "*")
    }

    /// Whether no pod outside of this set can be in the scope. For a selector that is certain only where it
    /// names namespaces by the one label that nobody can set to something else.
    fn covers(&self, scope: &GrantScope) -> bool {
        match (&scope.namespace, &scope.namespace_selector) {
            _ if self.is_all() => true,
            (Some(namespace), None) => self.contains(namespace),
            (None, Some(selector)) => {
                names_of(selector).is_some_and(|names| names.iter().all(|name| self.contains(name)))
            }
            _ => false,
        }
    }

    fn check(&self, field: &str) -> Result<(), GuardrailsError> {
        let problem = |pattern: &String| {
            let name = pattern.strip_suffix('*').unwrap_or(pattern);
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            pattern.is_empty() || name.len() > 63 || !name.chars().all(fits)
        };
        match self.0.iter().find(|pattern| problem(pattern)) {
            Some(pattern) => Err(GuardrailsError::Field {
                path: field.to_owned(),
                problem: format!("{pattern:?} is no name of a namespace; `*` may stand at the end of one"),
            }),
            None => Ok(()),
        }
    }
}

/// The API server sets this label on every namespace to its name, and lets nobody change it.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The only namespaces that a selector can match, where it says so itself.
fn names_of(selector: &Selector) -> Option<Vec<&str>> {
    let by_label = selector.match_labels.get(NAME_LABEL).map(|name| vec![name.as_str()]);
    let mut by_expression = selector
        .match_expressions
        .iter()
        .filter(|expression| expression.key == NAME_LABEL && expression.operator == Operator::In)
        .map(|expression| expression.values.iter().map(String::as_str).collect());
    by_label.or_else(|| by_expression.next())
}

/// Why a text is no guardrails.
#[derive(thiserror::Error, Debug)]
pub enum GuardrailsError {
    /// No YAML, or a field is unknown or of the wrong kind.
    #[error("cannot be read: {0}")]
    Syntax(#[source] serde_yaml::Error),
    /// A field holds what cannot be.
    #[error("{path}: {problem}")]
    Field {
        /// Where.
        path: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
}

/// What becomes of an object.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// Agents are told to obey this.
    Accepted {
        /// What exactly.
        grant: Box<AgentTraceGrantSpec>,
        /// What was cut down to the limits, a sentence.
        limited: Option<String>,
    },
    /// Nobody obeys it.
    Refused {
        /// In CamelCase.
        reason: &'static str,
        /// What to write instead, or whom to ask.
        message: String,
    },
}

/// How many other objects stand before one that is judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rank {
    /// Older AgentTraces of its namespace.
    pub in_namespace: usize,
    /// Older objects in all.
    pub overall: usize,
}

impl Guardrails {
    /// Reads and checks the file's text.
    ///
    /// # Errors
    /// Says which field is wrong and what it may hold. The text is to be prefixed with the file's name.
    pub fn from_yaml(text: &str) -> Result<Self, GuardrailsError> {
        let text = if text.trim().is_empty() { "{}" } else { text };
        let guardrails: Self = serde_yaml::from_str(text).map_err(GuardrailsError::Syntax)?;
        guardrails.namespaces.check("namespaces")?;
        guardrails.content.namespaces.check("content.namespaces")?;
        for (name, rule) in &guardrails.exporters {
            rule.namespaces.check(&format!("exporters.{name}.namespaces"))?;
        }
        if !ModelCalls::CONTENT_BYTES.contains(&guardrails.limits.max_content_bytes) {
            return Err(GuardrailsError::Field {
                path: "limits.maxContentBytes".into(),
                problem: format!(
                    "must be {} to {}",
                    ModelCalls::CONTENT_BYTES.start(),
                    ModelCalls::CONTENT_BYTES.end()
                ),
            });
        }
        Ok(guardrails)
    }

    /// What becomes of an object.
    pub fn judge(&self, source: &Source, rank: Rank) -> Verdict {
        self.refusal(source, rank).unwrap_or_else(|| self.grant(source))
    }

    fn refusal(&self, source: &Source, rank: Rank) -> Option<Verdict> {
        let refuse = |reason, message: String| Some(Verdict::Refused { reason, message });
        let scope = &source.scope;
        if let Err(error) = source.spec.check() {
            return refuse("InvalidSpec", error.to_string());
        }
        if !self.namespaces.covers(scope) {
            return refuse(
                "NamespaceNotAllowed",
                self.forbidden("pods may not be traced", "namespaces", source),
            );
        }
        if source.spec.capture.model_calls.content != Content::None && !self.content.namespaces.covers(scope)
        {
            let what = "content may not be captured";
            return refuse(
                "ContentNotAllowed",
                format!(
                    "{}, or leave spec.capture.modelCalls.content at None",
                    self.forbidden(what, "content.namespaces", source)
                ),
            );
        }
        let name = &source.spec.exporter;
        match self.exporters.get(name) {
            None => {
                return refuse(
                    "ExporterUnknown",
                    format!("there is no exporter {name:?}; {}", self.usable(scope)),
                );
            }
            Some(rule) if !rule.namespaces.covers(scope) => {
                return refuse(
                    "ExporterNotAllowed",
                    format!("the exporter {name:?} may not be used here; {}", self.usable(scope)),
                );
            }
            Some(_) => {}
        }
        let limits = &self.limits;
        if source.namespace.is_some() && rank.in_namespace >= limits.traces_per_namespace {
            let most = limits.traces_per_namespace;
            return refuse(
                "TooManyTraces",
                format!(
                    "a namespace may have {most} AgentTraces, and {} are older; remove one of them",
                    rank.in_namespace
                ),
            );
        }
        if rank.overall >= limits.traces {
            let most = limits.traces;
            return refuse(
                "TooManyTraces",
                format!(
                    "the cluster may have {most} AgentTraces and ClusterAgentTraces, and {} are older",
                    rank.overall
                ),
            );
        }
        None
    }

    fn grant(&self, source: &Source) -> Verdict {
        let mut trace = source.spec.clone();
        let calls = &mut trace.capture.model_calls;
        let most = self.limits.max_content_bytes;
        let wanted = calls.max_content_bytes;
        calls.max_content_bytes = wanted.min(most);
        let limited = (calls.content != Content::None && wanted > most)
            .then(|| format!("maxContentBytes is {most} instead of {wanted}, the administrator's limit"));
        let grant = AgentTraceGrantSpec {
            source: GrantSource {
                kind: source.kind,
                namespace: source.namespace.clone(),
                name: source.name.clone(),
                uid: source.uid.to_string(),
                generation: source.generation,
            },
            scope: source.scope.clone(),
            trace,
        };
        Verdict::Accepted { grant: Box::new(grant), limited }
    }

    fn forbidden(&self, what: &str, field: &str, source: &Source) -> String {
        match &source.namespace {
            Some(namespace) => format!(
                "{what} in the namespace {namespace:?}: ask the administrator to add it to guardrails.{field}"
            ),
            None => format!(
                "{what} in every namespace that the namespaceSelector could match: name allowed ones by the label \
                 {NAME_LABEL}, or add them to guardrails.{field}"
            ),
        }
    }

    fn usable(&self, scope: &GrantScope) -> String {
        let usable: Vec<&str> = self
            .exporters
            .iter()
            .filter(|(_, rule)| rule.namespaces.covers(scope))
            .map(|(name, _)| name.as_str())
            .collect();
        if usable.is_empty() {
            "there is none that may be used here: ask the administrator to define one".to_owned()
        } else {
            format!("these may be used here: {}", usable.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::{cluster_source, source};

    fn guardrails(text: &str) -> Guardrails {
        Guardrails::from_yaml(text).expect("valid guardrails")
    }

    const DEFAULT: &str = "{exporters: {default: {}}}";

    #[track_caller]
    fn refused(guardrails: &Guardrails, source: &Source, expected: &str, says: &str) {
        match guardrails.judge(source, Rank::default()) {
            Verdict::Refused { reason, message } => {
                assert_eq!(reason, expected, "{message}");
                assert!(message.contains(says), "{message}");
            }
            Verdict::Accepted { .. } => panic!("accepted, not {expected}"),
        }
    }

    fn granted(guardrails: &Guardrails, source: &Source) -> (AgentTraceGrantSpec, Option<String>) {
        match guardrails.judge(source, Rank::default()) {
            Verdict::Accepted { grant, limited } => (*grant, limited),
            Verdict::Refused { message, .. } => panic!("refused: {message}"),
        }
    }

    #[test]
    fn a_name_and_a_selector_are_granted_in_their_namespace_only() {
        let (grant, limited) = granted(&guardrails(DEFAULT), &source("shop", "a", "selector: {}"));
        assert_eq!(grant.scope, GrantScope::namespace("shop"));
        assert_eq!((grant.source.uid.as_str(), grant.source.generation), ("uid-shop-a", 1));
        assert_eq!(limited, None);
    }

    #[test]
    fn content_is_refused_where_nobody_allowed_it() {
        let content = source("shop", "a", "{selector: {}, capture: {modelCalls: {content: Messages}}}");
        refused(
            &guardrails(DEFAULT),
            &content,
            "ContentNotAllowed",
            "add it to guardrails.content.namespaces",
        );
        let shop = guardrails("{exporters: {default: {}}, content: {namespaces: [shop]}}");
        granted(&shop, &content);
        let other = source("shopping", "a", "{selector: {}, capture: {modelCalls: {content: Messages}}}");
        refused(&shop, &other, "ContentNotAllowed", "\"shopping\"");
        granted(&guardrails("{exporters: {default: {}}, content: {namespaces: ['shop*']}}"), &other);
    }

    #[test]
    fn content_of_many_namespaces_is_allowed_where_all_of_them_may() {
        let rules = guardrails("{exporters: {default: {}}, content: {namespaces: [shop, 'team-*']}}");
        let with = |selector: &str| {
            let spec = format!(
                "{{namespaceSelector: {selector}, selector: {{}}, capture: {{modelCalls: {{content: Messages}}}}}}"
            );
            cluster_source("c", &spec)
        };
        refused(&rules, &with("{}"), "ContentNotAllowed", "kubernetes.io/metadata.name");
        refused(&rules, &with("{matchLabels: {team: a}}"), "ContentNotAllowed", "namespaceSelector");
        granted(&rules, &with("{matchLabels: {kubernetes.io/metadata.name: shop}}"));
        let named = |values: &str| {
            with(&format!(
                "{{matchExpressions: [{{key: kubernetes.io/metadata.name, operator: In, values: {values}}}]}}"
            ))
        };
        granted(&rules, &named("[shop, team-a]"));
        refused(&rules, &named("[shop, bank]"), "ContentNotAllowed", "namespaceSelector");
        granted(&guardrails("{exporters: {default: {}}, content: {namespaces: ['*']}}"), &with("{}"));
    }

    #[test]
    fn an_exporter_is_refused_with_those_that_may_be_used() {
        let rules = guardrails("{exporters: {default: {}, bank: {namespaces: [bank]}}}");
        let wants =
            |exporter: &str| source("shop", "a", &format!("{{selector: {{}}, exporter: {exporter}}}"));
        refused(&rules, &wants("tempo"), "ExporterUnknown", "these may be used here: default");
        refused(&rules, &wants("bank"), "ExporterNotAllowed", "these may be used here: default");
        refused(
            &guardrails("{}"),
            &wants("default"),
            "ExporterUnknown",
            "ask the administrator to define one",
        );
        granted(&rules, &source("bank", "a", "{selector: {}, exporter: bank}"));
    }

    #[test]
    fn content_is_cut_down_to_the_limit_and_that_is_said() {
        let rules = guardrails(
            "{exporters: {default: {}}, content: {namespaces: ['*']}, limits: {maxContentBytes: 4096}}",
        );
        let (grant, limited) = granted(
            &rules,
            &source("shop", "a", "{selector: {}, capture: {modelCalls: {content: Messages}}}"),
        );
        assert_eq!(grant.trace.capture.model_calls.max_content_bytes, 4096);
        assert!(limited.expect("a sentence").contains("4096 instead of 8388608"));
        let (_, limited) = granted(&rules, &source("shop", "a", "selector: {}"));
        assert_eq!(limited, None, "no content is asked for");
    }

    #[test]
    fn the_youngest_go_where_there_are_too_many() {
        let rules = guardrails("{exporters: {default: {}}, limits: {tracesPerNamespace: 2, traces: 3}}");
        let judge = |in_namespace, overall| {
            rules.judge(&source("shop", "a", "selector: {}"), Rank { in_namespace, overall })
        };
        assert!(matches!(judge(1, 1), Verdict::Accepted { .. }));
        assert!(matches!(judge(2, 2), Verdict::Refused { reason: "TooManyTraces", .. }));
        assert!(matches!(judge(0, 3), Verdict::Refused { reason: "TooManyTraces", .. }));
    }

    #[test]
    fn a_pattern_that_the_api_server_cannot_check_is_refused() {
        let bad = source("shop", "a", "{selector: {}, redaction: {patterns: [{name: a, regex: 'x(y'}]}}");
        refused(&guardrails(DEFAULT), &bad, "InvalidSpec", "spec.redaction.patterns[0].regex");
    }

    #[test]
    fn namespaces_can_be_kept_out_altogether() {
        let rules = guardrails("{exporters: {default: {}}, namespaces: ['team-*']}");
        refused(
            &rules,
            &source("kube-system", "a", "selector: {}"),
            "NamespaceNotAllowed",
            "guardrails.namespaces",
        );
        granted(&rules, &source("team-a", "a", "selector: {}"));
    }

    #[test]
    fn mistakes_in_the_file_are_named() {
        let error = |text: &str| Guardrails::from_yaml(text).expect_err("must be refused").to_string();
        assert!(error("{contnet: {}}").contains("unknown field `contnet`"));
        assert!(
            error("{content: {namespaces: [A_b]}}").starts_with("content.namespaces: \"A_b\" is no name")
        );
        assert!(error("{limits: {maxContentBytes: 1}}").starts_with("limits.maxContentBytes: must be 1024"));
    }
}
