//! `crds/` and `examples/` follow from the types.

use agentsight_api::{AgentTrace, definitions, generated};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn what_follows_from_the_types_is_up_to_date() {
    for (path, text) in generated() {
        let stored = std::fs::read_to_string(root(&path)).unwrap_or_default();
        assert!(stored == text, "{path} is stale: run `make crds`");
    }
}

#[test]
fn every_field_is_explained() {
    fn visit(schema: &Value, path: &str) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            assert!(property["description"].is_string(), "{path} has no description");
            visit(property, &path);
            visit(&property["items"], &path);
        }
    }
    for (name, text) in definitions() {
        let definition: Value = serde_yaml::from_str(&text).expect("generated YAML");
        visit(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"], name);
    }
}

#[test]
fn every_list_map_and_text_has_a_bound() {
    fn visit(schema: &Value, path: &str) {
        match schema["type"].as_str() {
            Some("array") => assert!(schema["maxItems"].is_u64(), "{path} has no maxItems"),
            Some("string") if schema["enum"].is_null() => {
                assert!(schema["maxLength"].is_u64(), "{path} has no maxLength");
            }
            _ => {}
        }
        if schema["additionalProperties"].is_object() {
            assert!(schema["maxProperties"].is_u64(), "{path} has no maxProperties");
            visit(&schema["additionalProperties"], path);
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            visit(property, &format!("{path}.{name}"));
        }
        visit_items(&schema["items"], path);
    }
    fn visit_items(schema: &Value, path: &str) {
        if schema.is_object() {
            visit(schema, &format!("{path}[]"));
        }
    }
    for (name, text) in definitions() {
        let definition: Value = serde_yaml::from_str(&text).expect("generated YAML");
        visit(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"], name);
    }
}

#[test]
fn the_examples_are_valid() {
    for name in ["agenttrace.yaml", "agenttrace-app.yaml", "agenttrace-content.yaml"] {
        let text = std::fs::read_to_string(root("examples").join(name)).expect("an example");
        AgentTrace::from_yaml(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
