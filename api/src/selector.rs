//! Which pods, or which processes of a host, an object is about.

#![allow(unreachable_pub, reason = "KubeSchema derives from a copy of each type, which nobody can reach")]

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

// Kubernetes' own LabelSelector has no bounds and no enum of operators in its schema, so that `operator:
// Foo` is accepted and rules over it are refused for their cost.
/// Selects by labels, as Kubernetes' label selectors do: all of `matchLabels` and all of
/// `matchExpressions` must hold. Empty (`{}`) selects everything.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels that must be there with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels_schema")]
    pub match_labels: BTreeMap<String, String>,

    /// Conditions on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<Expression>,
}

impl Selector {
    /// Whether it selects whatever there is.
    pub fn is_everything(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether these labels satisfy every condition.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|expression| expression.matches(labels))
    }

    /// The labels that it looks at.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let expressions = self.match_expressions.iter().map(|expression| expression.key.as_str());
        self.match_labels.keys().map(String::as_str).chain(expressions)
    }
}

/// A condition on one label.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(self.operator in ['In', 'NotIn']) || (has(self.values) && size(self.values) > 0)")
        .message(VALUES_MISSING),
    validation = Rule::new("!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || size(self.values) == 0")
        .message(VALUES_UNWANTED)
)]
pub struct Expression {
    /// The label's name, such as `app.kubernetes.io/name`.
    #[schemars(length(min = 1, max = 317), regex(pattern = KEY_PATTERN))]
    pub key: String,

    /// How the label is compared with the values.
    pub operator: Operator,

    /// What the label is compared with: at least one value for In and NotIn, none for Exists and
    /// DoesNotExist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 255)))]
    pub values: Vec<String>,
}

pub(crate) const VALUES_MISSING: &str = "values are required for the operators In and NotIn";
pub(crate) const VALUES_UNWANTED: &str = "values must be empty for the operators Exists and DoesNotExist";

impl Expression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed,
            // As in Kubernetes, a label that is not there is in no set.
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// How a label is compared.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    /// Its value is one of the values.
    In,
    /// Its value is none of the values, or it is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

/// The labels of a host's process, which [`Selector`] matches where there are no pods.
pub mod host {
    /// File name of the program, such as `python3.11` or `node`.
    pub const EXECUTABLE: &str = "agentsight.dev/executable";
    /// Name of the effective user, or the number where it has no name.
    pub const USER: &str = "agentsight.dev/user";
    /// The systemd unit, such as `nginx.service`; absent outside of units.
    pub const SYSTEMD_UNIT: &str = "agentsight.dev/systemd-unit";
    /// Path of the cgroup below the hierarchy's root, such as `/user.slice`.
    pub const CGROUP: &str = "agentsight.dev/cgroup";

    /// All of them.
    pub const LABELS: &[&str] = &[EXECUTABLE, USER, SYSTEMD_UNIT, CGROUP];
}

/// A label's name: a DNS name and `/`, both optional, and up to 63 characters.
const KEY_PATTERN: &str =
    r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";

// Values are bounded but not held to the letters of a pod's labels: `user@1000.service` is a systemd unit.
fn labels_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 255 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn one(operator: Operator, values: &[&str]) -> Selector {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let expression = Expression { key: "tier".into(), operator, values };
        Selector { match_expressions: vec![expression], ..Selector::default() }
    }

    #[test]
    fn an_empty_selector_selects_everything() {
        assert!(Selector::default().matches(&labels(&[])));
        assert!(Selector::default().matches(&labels(&[("a", "b")])));
    }

    #[test]
    fn every_label_must_match() {
        let selector = Selector { match_labels: labels(&[("a", "1"), ("b", "2")]), ..Selector::default() };
        assert!(selector.matches(&labels(&[("a", "1"), ("b", "2"), ("c", "3")])));
        assert!(!selector.matches(&labels(&[("a", "1")])));
        assert!(!selector.matches(&labels(&[("a", "1"), ("b", "3")])));
    }

    #[test]
    fn operators_mean_what_they_mean_in_kubernetes() {
        let (front, none) = (labels(&[("tier", "front")]), labels(&[]));
        for (selector, with, without) in [
            (one(Operator::In, &["front", "back"]), true, false),
            (one(Operator::In, &["back"]), false, false),
            (one(Operator::NotIn, &["front"]), false, true),
            (one(Operator::NotIn, &["back"]), true, true),
            (one(Operator::Exists, &[]), true, false),
            (one(Operator::DoesNotExist, &[]), false, true),
        ] {
            assert_eq!((selector.matches(&front), selector.matches(&none)), (with, without), "{selector:?}");
        }
    }
}
