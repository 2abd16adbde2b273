//! What a file must hold, and what its author is told where it does not.

use agentsight_api::{AgentTrace, Content, Mcp, Plaintext, Semconv};
use std::collections::BTreeMap;

const HEAD: &str = "apiVersion: agentsight.dev/v1alpha1\nkind: AgentTrace\nmetadata: {name: test}\n";

fn load(spec: &str) -> Result<AgentTrace, String> {
    AgentTrace::from_yaml(&format!("{HEAD}spec: {spec}\n")).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(spec: &str, message: &str) {
    assert_eq!(load(spec).expect_err("must be refused"), message);
}

#[test]
fn a_name_and_a_selector_are_enough() {
    let spec = load("{selector: {}}").expect("valid").spec;
    assert!(spec.selects(&BTreeMap::new()));
    assert_eq!(spec.capture.model_calls.content, Content::None);
    assert_eq!((spec.capture.plaintext, spec.capture.mcp), (Plaintext::None, Mcp::None));
    assert_eq!(spec.capture.model_calls.max_content_bytes, 8 << 20);
    assert_eq!(spec.semconv, Semconv::V1_41);
    assert_eq!(spec.exporter, "default");
    assert_eq!(spec.sampling.percent, 100);
    assert!(spec.warnings_on_a_host().is_empty());
}

#[test]
fn what_is_seen_without_tls_is_asked_for_by_name() {
    let spec = load("{selector: {}, capture: {plaintext: HTTP}}").expect("valid").spec;
    assert_eq!(spec.capture.plaintext, Plaintext::Http);
    refused(
        "{selector: {}, capture: {plaintext: true}}",
        r#"spec.capture.plaintext: must be one of "None", "HTTP", is true"#,
    );
    let spec = load("{selector: {}, capture: {mcp: Stdio}}").expect("valid").spec;
    assert_eq!(spec.capture.mcp, Mcp::Stdio);
    refused(
        "{selector: {}, capture: {mcp: HTTP}}",
        r#"spec.capture.mcp: must be one of "None", "Stdio", is "HTTP""#,
    );
}

#[test]
fn what_was_read_is_written_the_same_way() {
    let yaml =
        "{selector: {matchLabels: {app: a}}, capture: {modelCalls: {content: Messages}}, semconv: latest}";
    let object = load(yaml).expect("valid");
    let again = serde_yaml::to_string(&object).expect("plain data");
    assert_eq!(AgentTrace::from_yaml(&again).expect("valid").spec, object.spec);
}

#[test]
fn an_absent_selector_is_refused_with_what_to_write() {
    let message = "spec.selector: a selector is required: write `selector: {}` for everything, or name labels under matchLabels";
    refused("{}", message);
    refused("{selector: null}", message);
    refused("", message);
    let error = AgentTrace::from_yaml(HEAD).expect_err("must be refused").to_string();
    assert_eq!(error, message);
}

#[test]
fn an_unknown_field_is_refused_with_those_that_exist() {
    refused(
        "{selector: {}, capture: {modelCall: {}}}",
        "spec.capture.modelCall: is not a known field; allowed here: mcp, modelCalls, plaintext",
    );
    refused(
        "{selector: {matchLabel: {}}}",
        "spec.selector.matchLabel: is not a known field; allowed here: matchExpressions, matchLabels",
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_named_with_what_is_allowed() {
    refused(
        "{selector: {}, capture: {modelCalls: {content: on}}}",
        "spec.capture.modelCalls.content: must be one of \"None\", \"Messages\", is \"on\"",
    );
    refused(
        "{selector: {}, capture: {modelCalls: {content: true}}}",
        "spec.capture.modelCalls.content: must be one of \"None\", \"Messages\", is true",
    );
    refused("{selector: {}, semconv: 1.41}", "spec.semconv: must be one of \"v1.41\", \"latest\", is 1.41");
    refused(
        "{selector: {}, semconv: v1.0}",
        "spec.semconv: must be one of \"v1.41\", \"latest\", is \"v1.0\"",
    );
    refused("{selector: [a]}", "spec.selector: must be a mapping, is a list");
    refused(
        "{selector: {matchLabels: {app: 1}}}",
        "spec.selector.matchLabels.app: must be a text, is 1: put it in quotes",
    );
}

#[test]
fn limits_are_told_with_their_bounds() {
    refused(
        "{selector: {}, capture: {modelCalls: {maxContentBytes: 10}}}",
        "spec.capture.modelCalls.maxContentBytes: must be 1024 to 16777216, is 10",
    );
    refused(
        "{selector: {}, capture: {modelCalls: {maxContentBytes: 18446744073709551615}}}",
        "spec.capture.modelCalls.maxContentBytes: must be 1024 to 16777216, is 18446744073709552000",
    );
    refused("{selector: {}, sampling: {percent: 101}}", "spec.sampling.percent: must be 0 to 100, is 101");
    refused(
        "{selector: {}, sampling: {percent: 0.5}}",
        "spec.sampling.percent: must be a whole number, is 0.5",
    );
}

#[test]
fn an_expression_is_refused_where_operator_and_values_disagree() {
    refused(
        "{selector: {matchExpressions: [{key: a, operator: In}]}}",
        "spec.selector.matchExpressions[0].values: values are required for the operators In and NotIn",
    );
    refused(
        "{selector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
        "spec.selector.matchExpressions[0].values: values must be empty for the operators Exists and DoesNotExist",
    );
    refused(
        "{selector: {matchExpressions: [{key: a, operator: Equals, values: [b]}]}}",
        "spec.selector.matchExpressions[0].operator: must be one of \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\", is \"Equals\"",
    );
    refused(
        "{selector: {matchExpressions: [{operator: Exists}]}}",
        "spec.selector.matchExpressions[0].key: is required",
    );
}

#[test]
fn a_bad_pattern_is_refused_with_the_reason() {
    refused(
        "{selector: {}, redaction: {patterns: [{name: a, regex: 'x(y'}]}}",
        "spec.redaction.patterns[0].regex: is not a valid regular expression: unclosed group",
    );
    refused(
        "{selector: {}, redaction: {patterns: [{name: a, regex: 'x*'}]}}",
        "spec.redaction.patterns[0].regex: matches the empty text: it would remove nothing, everywhere",
    );
    refused(
        "{selector: {}, redaction: {patterns: [{name: a, regex: 'x'}, {name: a, regex: 'y'}]}}",
        "spec.redaction.patterns[1].name: \"a\" stands twice",
    );
    let with =
        |regex: &str| format!("{{selector: {{}}, redaction: {{patterns: [{{name: a, regex: '{regex}'}}]}}}}");
    refused(
        &with("(a{999}){999}"),
        "spec.redaction.patterns[0].regex: is not a valid regular expression: Compiled regex exceeds size limit of 1048576 bytes.",
    );
    refused(
        &with(&"ü".repeat(1000)),
        "spec.redaction.patterns[0].regex: has 2000 bytes, at most 1024 are allowed",
    );
}

#[test]
fn an_endpoint_names_a_path_and_a_wire_format() {
    let refused_endpoint = |endpoint: &str, message: &str| {
        let path = "spec.capture.modelCalls.endpoints[0]";
        refused(
            &format!("{{selector: {{}}, capture: {{modelCalls: {{endpoints: [{endpoint}]}}}}}}"),
            &format!("{path}{message}"),
        );
    };
    refused_endpoint("{path: /a}", ".wireFormat: is required");
    refused_endpoint("{wireFormat: OpenAIResponses}", ".path: is required");
    refused_endpoint("{path: a/b, wireFormat: OpenAIResponses}", ".path: must match ^/, is \"a/b\"");
    refused_endpoint(
        "{host: 'https://a.example', path: /a, wireFormat: OpenAIResponses}",
        ".host: must match ^[a-z0-9_]([-a-z0-9_.]*[a-z0-9_])?$, is \"https://a.example\"",
    );
}

#[test]
fn a_container_cannot_be_in_and_out() {
    refused(
        "{selector: {}, containers: {include: [a], exclude: [a]}}",
        "spec.containers: a container stands in both include and exclude: remove it from one of them",
    );
}

#[track_caller]
fn file_refused(text: &str, message: &str) {
    assert_eq!(AgentTrace::from_yaml(text).expect_err("must be refused").to_string(), message);
}

#[test]
fn another_kind_or_version_is_refused() {
    file_refused("", "kind: must be \"AgentTrace\", is absent");
    file_refused("just text", "kind: must be \"AgentTrace\", is absent");
    file_refused("kind: Pod", "kind: must be \"AgentTrace\", is \"Pod\"");
    file_refused(
        "kind: AgentTrace\napiVersion: agentsight.dev/v1",
        "apiVersion: must be \"agentsight.dev/v1alpha1\", is \"agentsight.dev/v1\"",
    );
    file_refused(
        "kind: AgentTrace\napiVersion: agentsight.dev/v1alpha1\nspec: {selector: {}}",
        "metadata.name: is required: a name for this trace",
    );
    file_refused(
        &format!("{HEAD}spec: {{selector: {{}}}}\nselector: {{}}"),
        "selector: is not a known field; allowed here: apiVersion, kind, metadata, spec",
    );
}

#[test]
fn a_file_holds_one_object() {
    let one = format!("---\n{HEAD}spec: {{selector: {{}}}}\n---\n");
    assert!(AgentTrace::from_yaml(&one).is_ok());
    file_refused(
        &format!("{one}{HEAD}spec: {{selector: {{}}}}\n"),
        "holds 2 documents: write one AgentTrace a file",
    );
}

#[test]
fn broken_yaml_is_refused_with_line_and_column() {
    let error =
        AgentTrace::from_yaml("kind: AgentTrace\nspec: {selector: {\n").expect_err("broken").to_string();
    assert!(error.starts_with("is not valid YAML: ") && error.contains("line 3"), "{error}");
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let mut text = String::from("a0: &a0 [x]\n");
    for level in 1..40 {
        let before = format!("*a{}", level - 1);
        text.push_str(&format!("a{level}: &a{level} [{}]\n", [before.as_str(); 9].join(",")));
    }
    assert!(AgentTrace::from_yaml(&text).is_err());
}
