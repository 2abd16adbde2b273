//! Reads an `AgentTrace` from a file, with one clear message for the first mistake.

use crate::agent_trace::{AgentTrace, AgentTraceSpec, INCLUDED_AND_EXCLUDED, Pattern, SELECTOR_ABSENT};
use crate::schema;
use crate::selector::{Operator, VALUES_MISSING, VALUES_UNWANTED};
use kube::{CustomResourceExt, Resource};
use serde::Deserialize;
use serde_json::Value;

/// Why a file is no `AgentTrace`.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// The text is no YAML. The message names line and column.
    #[error("is not valid YAML: {0}")]
    Syntax(#[source] serde_yaml::Error),
    /// The file holds more than one document.
    #[error("holds {0} documents: write one AgentTrace a file")]
    Documents(usize),
    /// The document is of another kind or version.
    #[error("{field}: must be {expected:?}, is {found}")]
    Kind {
        /// `apiVersion` or `kind`.
        field: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A field is unknown, missing or out of bounds.
    #[error("{path}: {problem}")]
    Field {
        /// Where, such as `spec.redaction.patterns[0].regex`.
        path: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
}

impl AgentTrace {
    /// Reads and checks one object: everything that the API server would check, and what only the agent
    /// can (regular expressions). Absent fields get their defaults.
    ///
    /// # Errors
    /// Says which field is wrong and what it may hold. The text is to be prefixed with the file's name.
    pub fn from_yaml(text: &str) -> Result<Self, Error> {
        let value = single_document(text)?;
        check_kind(&value)?;
        let metadata = value.get("metadata").cloned().unwrap_or(Value::Null);
        if metadata["name"].as_str().is_none_or(str::is_empty) {
            return Err(field("metadata.name", "is required: a name for this trace"));
        }
        for (name, _) in value.as_object().into_iter().flatten() {
            if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&name.as_str()) {
                return Err(field(
                    name,
                    "is not a known field; allowed here: apiVersion, kind, metadata, spec",
                ));
            }
        }
        let spec = value
            .get("spec")
            .filter(|spec| !spec.is_null())
            .ok_or_else(|| field("spec.selector", SELECTOR_ABSENT))?;
        schema::check(&spec_schema(), spec, "spec")
            .map_err(|(path, problem)| Error::Field { path, problem })?;
        let object: Self =
            serde_json::from_value(value).map_err(|error| field("metadata", error.to_string()))?;
        object.spec.check()?;
        Ok(object)
    }
}

impl AgentTraceSpec {
    /// Checks the rules that stand in the schema as CEL, and those that CEL cannot say. For an object that
    /// an API server has taken in, that leaves the regular expressions.
    ///
    /// # Errors
    /// Says which field is wrong and what it may hold.
    pub fn check(&self) -> Result<(), Error> {
        check_rules(self)
    }
}

fn single_document(text: &str) -> Result<Value, Error> {
    // Text that begins or ends with `---` has empty documents, which kubectl ignores, too.
    let documents = serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).map_err(Error::Syntax))
        .filter(|document| !matches!(document, Ok(Value::Null)))
        .collect::<Result<Vec<_>, _>>()?;
    let count = documents.len();
    match <[Value; 1]>::try_from(documents) {
        Ok([document]) => Ok(document),
        Err(_) if count == 0 => Err(kind_error("kind", &AgentTrace::kind(&()), &Value::Null)),
        Err(_) => Err(Error::Documents(count)),
    }
}

fn check_kind(value: &Value) -> Result<(), Error> {
    for (field, expected) in [("kind", AgentTrace::kind(&())), ("apiVersion", AgentTrace::api_version(&()))] {
        let found = value.get(field).unwrap_or(&Value::Null);
        if found != expected.as_ref() {
            return Err(kind_error(field, &expected, found));
        }
    }
    Ok(())
}

fn kind_error(field: &'static str, expected: &str, found: &Value) -> Error {
    let found = match found {
        Value::Null => "absent".to_owned(),
        found => found.to_string().chars().take(80).collect(),
    };
    Error::Kind { field, expected: expected.to_owned(), found }
}

fn spec_schema() -> Value {
    let crd = serde_json::to_value(AgentTrace::crd()).expect("a definition is plain data");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

fn check_rules(spec: &AgentTraceSpec) -> Result<(), Error> {
    let selector = spec.selector.as_ref().ok_or_else(|| field("spec.selector", SELECTOR_ABSENT))?;
    for (index, expression) in selector.match_expressions.iter().enumerate() {
        let path = format!("spec.selector.matchExpressions[{index}].values");
        match (expression.operator, expression.values.is_empty()) {
            (Operator::In | Operator::NotIn, true) => return Err(field(path, VALUES_MISSING)),
            (Operator::Exists | Operator::DoesNotExist, false) => return Err(field(path, VALUES_UNWANTED)),
            _ => {}
        }
    }
    if spec.containers.include.iter().any(|name| spec.containers.exclude.contains(name)) {
        return Err(field("spec.containers", INCLUDED_AND_EXCLUDED));
    }
    let patterns = &spec.redaction.patterns;
    for (index, pattern) in patterns.iter().enumerate() {
        let path = format!("spec.redaction.patterns[{index}]");
        if patterns[..index].iter().any(|earlier| earlier.name == pattern.name) {
            return Err(field(format!("{path}.name"), format!("{:?} stands twice", pattern.name)));
        }
        Pattern::check(&pattern.regex).map_err(|problem| field(format!("{path}.regex"), problem))?;
    }
    Ok(())
}

fn field(path: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Field { path: path.into(), problem: problem.into() }
}
