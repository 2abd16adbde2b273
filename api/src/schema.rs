//! Checks a value by the schema that `crds/` is made of, as an API server would, with the path of the
//! first field that is wrong.

use regex::Regex;
use serde_json::{Map, Value};

/// The first mistake, as `(path, what is wrong and what is allowed)`.
///
/// Knows the keywords that structural schemas of this crate use.
pub(crate) fn check(schema: &Value, value: &Value, path: &str) -> Result<(), (String, String)> {
    let fail = |problem: String| Err((path.to_owned(), problem));
    if value.is_null() && schema["nullable"] == true {
        return Ok(());
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().filter(|value| !value.is_null()).map(describe).collect();
        return fail(format!("must be one of {}, is {}", allowed.join(", "), describe(value)));
    }
    if let Some(expected) = schema["type"].as_str()
        && !is_of_type(value, expected)
    {
        let quotes = if expected == "string" && !value.is_object() && !value.is_array() && !value.is_null() {
            ": put it in quotes"
        } else {
            ""
        };
        return fail(format!("must be {}, is {}{quotes}", with_article(expected), describe(value)));
    }
    match value {
        Value::Object(fields) => check_object(schema, fields, path),
        Value::Array(items) => {
            check_count(schema, "Items", items.len(), "items").or_else(fail)?;
            items
                .iter()
                .enumerate()
                .try_for_each(|(index, item)| check(&schema["items"], item, &format!("{path}[{index}]")))
        }
        Value::String(text) => {
            check_count(schema, "Length", text.chars().count(), "characters").or_else(fail)?;
            match schema["pattern"].as_str() {
                Some(pattern) if !Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text)) => {
                    fail(format!("must match {pattern}, is {}", describe(value)))
                }
                _ => Ok(()),
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            let (minimum, maximum) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
            if minimum.is_some_and(|minimum| number < minimum)
                || maximum.is_some_and(|maximum| number > maximum)
            {
                let bound = |bound: Option<f64>| bound.map_or("any".to_owned(), |bound| bound.to_string());
                return fail(format!("must be {} to {}, is {number}", bound(minimum), bound(maximum)));
            }
            Ok(())
        }
        Value::Null | Value::Bool(_) => Ok(()),
    }
}

fn check_object(schema: &Value, fields: &Map<String, Value>, path: &str) -> Result<(), (String, String)> {
    check_count(schema, "Properties", fields.len(), "entries")
        .map_err(|problem| (path.to_owned(), problem))?;
    let known = schema["properties"].as_object();
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            return Err((join(path, name), "is required".into()));
        }
    }
    for (name, value) in fields {
        let path = join(path, name);
        match known.and_then(|known| known.get(name)) {
            Some(schema) => check(schema, value, &path)?,
            None if schema["additionalProperties"].is_object() => {
                check(&schema["additionalProperties"], value, &path)?;
            }
            None => {
                let allowed = known.into_iter().flat_map(Map::keys).map(String::as_str).collect::<Vec<_>>();
                return Err((path, format!("is not a known field; allowed here: {}", allowed.join(", "))));
            }
        }
    }
    Ok(())
}

fn check_count(schema: &Value, of: &str, count: usize, unit: &str) -> Result<(), String> {
    let bound = |side: &str| schema[format!("{side}{of}")].as_u64();
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    match (bound("min"), bound("max")) {
        (_, Some(max)) if count > max => Err(format!("has {count} {unit}, at most {max} are allowed")),
        (Some(min), _) if count < min => Err(format!("has {count} {unit}, at least {min} is needed")),
        _ => Ok(()),
    }
}

fn is_of_type(value: &Value, expected: &str) -> bool {
    match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => false,
    }
}

fn with_article(kind: &str) -> &'static str {
    match kind {
        "object" => "a mapping",
        "array" => "a list",
        "string" => "a text",
        "boolean" => "true or false",
        "integer" => "a whole number",
        _ => "a number",
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "empty".into(),
        Value::Object(_) => "a mapping".into(),
        Value::Array(_) => "a list".into(),
        // Enough to be found again in the file.
        Value::String(text) if text.chars().count() > 40 => {
            format!("{:?}…", text.chars().take(40).collect::<String>())
        }
        other => other.to_string(),
    }
}

fn join(path: &str, name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match (path.is_empty(), plain) {
        (true, true) => name.to_owned(),
        (false, true) => format!("{path}.{name}"),
        (_, false) => format!("{path}[{name:?}]"),
    }
}
