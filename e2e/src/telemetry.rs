//! OTLP in its JSON form, one export request a line, as `--otlp-json` and the collector's file exporter write it.

use anyhow::{Context, bail};
use serde_json::{Map, Value};
use std::path::Path;

/// All that a file holds.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    /// In the order of the file.
    pub spans: Vec<Span>,
    /// Names of the metrics, with their data points.
    pub metrics: Vec<(String, Value)>,
    /// Log records as they stand there.
    pub logs: Vec<Value>,
    /// The file.
    pub text: String,
}

/// A span with its attributes as plain JSON values.
#[derive(Clone, Debug)]
pub struct Span {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// Empty at a root.
    pub parent_span_id: String,
    /// Its name.
    pub name: String,
    /// 3 is CLIENT.
    pub kind: u64,
    /// Unix time in nanoseconds.
    pub start: u64,
    /// Unix time in nanoseconds.
    pub end: u64,
    /// Its status is an error.
    pub failed: bool,
    /// Its attributes.
    pub attributes: Map<String, Value>,
    /// Those of its resource.
    pub resource: Map<String, Value>,
}

impl Telemetry {
    /// Reads a file; one that is not there is empty.
    ///
    /// # Errors
    /// A line that is no OTLP.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let mut telemetry = Self::default();
        telemetry.add_lines(&std::fs::read_to_string(path)?).with_context(|| path.display().to_string())?;
        Ok(telemetry)
    }

    /// Adds what a file has more than before.
    ///
    /// # Errors
    /// A line that is no OTLP.
    pub fn add_lines(&mut self, text: &str) -> anyhow::Result<()> {
        for (number, line) in text.lines().enumerate() {
            let place = || format!("line {}", number + 1);
            let request: Value = serde_json::from_str(line).with_context(place)?;
            self.add(&request).with_context(place)?;
        }
        self.text.push_str(text);
        Ok(())
    }

    /// The spans of model calls: those whose operation is one of inference or embedding.
    pub fn calls(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(|span| {
            let operation = span.text("gen_ai.operation.name");
            matches!(operation, Some("chat" | "text_completion" | "generate_content" | "embeddings"))
        })
    }

    fn add(&mut self, request: &Value) -> anyhow::Result<()> {
        let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
        for resource_spans in list(request, "resourceSpans") {
            let resource = attributes(&resource_spans["resource"]["attributes"])?;
            for scope in list(&resource_spans, "scopeSpans") {
                for span in list(&scope, "spans") {
                    self.spans.push(Span::of(&span, &resource)?);
                }
            }
        }
        for resource_metrics in list(request, "resourceMetrics") {
            for scope in list(&resource_metrics, "scopeMetrics") {
                for metric in list(&scope, "metrics") {
                    let name = metric["name"].as_str().context("a metric without a name")?.to_owned();
                    self.metrics.push((name, metric));
                }
            }
        }
        for resource_logs in list(request, "resourceLogs") {
            for scope in list(&resource_logs, "scopeLogs") {
                self.logs.extend(list(&scope, "logRecords"));
            }
        }
        Ok(())
    }
}

impl Span {
    /// An attribute's text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).and_then(Value::as_str)
    }

    /// An attribute's number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.attributes.get(name).and_then(Value::as_u64)
    }

    /// An attribute that holds JSON as text.
    ///
    /// # Panics
    /// It holds something else.
    pub fn json(&self, name: &str) -> Option<Value> {
        self.text(name).map(|text| {
            serde_json::from_str(text)
                .unwrap_or_else(|error| panic!("{name} is no JSON ({error}): {text:.200}"))
        })
    }

    fn of(span: &Value, resource: &Map<String, Value>) -> anyhow::Result<Self> {
        let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
        // 64-bit integers are decimal strings in the JSON form of Protocol Buffers.
        let time = |name: &str| text(name).parse().with_context(|| format!("{name} of a span"));
        let (trace_id, span_id) = (text("traceId"), text("spanId"));
        if trace_id.len() != 32 || span_id.len() != 16 {
            bail!("a span with the ids {trace_id:?} and {span_id:?}");
        }
        Ok(Self {
            trace_id,
            span_id,
            parent_span_id: text("parentSpanId"),
            name: text("name"),
            kind: span["kind"].as_u64().context("a span's kind is a number")?,
            start: time("startTimeUnixNano")?,
            end: time("endTimeUnixNano")?,
            failed: span["status"]["code"].as_u64() == Some(2),
            attributes: attributes(&span["attributes"])?,
            resource: resource.clone(),
        })
    }
}

fn attributes(list: &Value) -> anyhow::Result<Map<String, Value>> {
    let mut attributes = Map::new();
    for attribute in list.as_array().into_iter().flatten() {
        let key = attribute["key"].as_str().context("an attribute without a key")?;
        if attributes.insert(key.to_owned(), value(&attribute["value"])?).is_some() {
            bail!("the attribute {key} stands twice");
        }
    }
    Ok(attributes)
}

fn value(any: &Value) -> anyhow::Result<Value> {
    let Some((kind, value)) = any.as_object().and_then(|any| any.iter().next()) else {
        return Ok(Value::Null);
    };
    Ok(match (kind.as_str(), value) {
        ("intValue", Value::String(number)) => number.parse::<i64>().context("an intValue")?.into(),
        ("arrayValue", array) => {
            let values = array["values"].as_array().into_iter().flatten();
            Value::Array(values.map(self::value).collect::<anyhow::Result<_>>()?)
        }
        (_, value) => value.clone(),
    })
}
