//! The reference of the resources, for people: Markdown from the same schema as `crds/`.

use serde_json::Value;
use std::fmt::Write;

/// A page with every field of these definitions.
pub(crate) fn page(definitions: &[Value]) -> String {
    let mut page = String::from(
        "<!-- Generated from api/ by `make crds`. Do not edit. -->\n# Reference of the resources\n\n\
         Group `agentsight.dev`, version `v1alpha1`. `kubectl explain agenttrace.spec --recursive` tells the same. \
         [configuration.md](configuration.md) explains with examples.\n",
    );
    for definition in definitions {
        let names = &definition["spec"]["names"];
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let short: Vec<String> = names["shortNames"].as_array().into_iter().flatten().map(text).collect();
        let scope = text(&definition["spec"]["scope"]).to_lowercase();
        let scope = if scope == "namespaced" { "in a namespace" } else { "in the cluster" };
        let kind = text(&names["kind"]);
        write_to(
            &mut page,
            format_args!(
                "\n## {kind}\n\n{}\n\nLives {scope}; short name `{}`.\n",
                text(&schema["description"]),
                short.join("`, `")
            ),
        );
        for part in ["spec", "status"] {
            let part_schema = &schema["properties"][part];
            if part_schema.is_object() {
                write_to(
                    &mut page,
                    format_args!(
                        "\n### {kind}: {part}\n\n| field | type | default | meaning |\n|---|---|---|---|\n"
                    ),
                );
                fields(&mut page, part_schema, part);
            }
        }
    }
    page
}

fn write_to(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a text takes whatever is written");
}

fn fields(page: &mut String, schema: &Value, path: &str) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let items = &field["items"];
        let list = if items.is_object() { "[]" } else { "" };
        let path = format!("{path}.{name}{list}");
        let default = match &field["default"] {
            _ if required.contains(&name.as_str()) => "required".to_owned(),
            Value::Null | Value::Object(_) => String::new(),
            value => format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        };
        let meaning = field["description"].as_str().unwrap_or_default();
        let meaning = meaning.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        write_to(page, format_args!("| `{path}` | {} | {default} | {meaning} |\n", shape(field)));
        fields(page, field, &path);
        fields(page, items, &path);
    }
}

fn shape(field: &Value) -> String {
    let items = &field["items"];
    let of = if items.is_object() { items } else { field };
    let mut shape = match of["type"].as_str() {
        _ if of["enum"].is_array() => {
            let values = of["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
            values.map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
        }
        Some("object") if of["additionalProperties"].is_object() => "map".to_owned(),
        Some(kind) => kind.to_owned(),
        None => String::new(),
    };
    if let (Some(least), Some(most)) = (of["minimum"].as_f64(), of["maximum"].as_f64()) {
        shape = format!("{shape}, {least} to {most}");
    }
    if items.is_object() {
        shape = match field["maxItems"].as_u64() {
            Some(most) => format!("list of {shape}, at most {most}"),
            None => format!("list of {shape}"),
        };
    }
    shape
}
