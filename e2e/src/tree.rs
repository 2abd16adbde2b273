//! Trees of spans, to be compared with what a script says that it did: a node is `[name, children]`.

use crate::telemetry::Span;
use serde_json::{Value, json};
use std::path::Path;

/// The tree of these spans below the one with that id, or of those that hang on none where it is empty.
///
/// # Panics
/// A span hangs on one that is not among them.
pub fn seen(spans: &[&Span], below: &str) -> Value {
    let tops = children(spans, below);
    assert_eq!(count(&tops), spans.len(), "a span hangs on none that is told: {spans:#?}");
    tops
}

/// The tree that `tool_loop.py` wrote.
///
/// # Panics
/// It wrote none.
pub fn expected(file: &Path) -> Value {
    let text = std::fs::read_to_string(file).expect("tool_loop.py writes what it did");
    let tops: Vec<Value> = serde_json::from_str(&text).expect("a list of nodes");
    ordered(tops.iter().map(sorted).collect())
}

/// A span by its name, and what tells it from its like.
pub fn label(span: &Span) -> String {
    let attribute = |name: &str| span.text(name).unwrap_or_default();
    match attribute("gen_ai.operation.name") {
        "execute_tool" => format!("{} {}", span.name, attribute("gen_ai.tool.call.id")),
        "" => format!("{} ({})", span.name, attribute("agentsight.process.cause")),
        operation => operation.to_owned(),
    }
}

fn children(spans: &[&Span], parent: &str) -> Value {
    let below = spans.iter().filter(|span| span.parent_span_id == parent);
    ordered(below.map(|span| json!([label(span), children(spans, &span.span_id)])).collect())
}

/// Children have no order: what runs in parallel comes as it comes.
fn sorted(node: &Value) -> Value {
    let children = node[1].as_array().into_iter().flatten();
    json!([node[0], ordered(children.map(sorted).collect())])
}

fn ordered(mut nodes: Vec<Value>) -> Value {
    nodes.sort_by_key(Value::to_string);
    Value::Array(nodes)
}

fn count(nodes: &Value) -> usize {
    nodes.as_array().into_iter().flatten().map(|node| 1 + count(&node[1])).sum()
}
