//! Small builders for this module's tests.

use super::batch::Scope;
use crate::resource::{Item, Resource, Signal};
use agentsight_genai::telemetry::{
    Amount, Bounds, Event, Instrument, Measurement, Metric, Span, SpanContext, SpanId, SpanKind, Status,
    TraceId, Value,
};
use agentsight_genai::time::Timestamp;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use std::sync::Arc;

pub(super) const TOKENS: Metric = Metric {
    name: "gen_ai.client.token.usage",
    unit: "{token}",
    description: "Number of input and output tokens used.",
    instrument: Instrument::Histogram(Bounds(&[
        1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
        16777216.0, 67108864.0,
    ])),
};

pub(super) const COUNTER: Metric =
    Metric { name: "agentsight.test.count", unit: "1", description: "", instrument: Instrument::Counter };

pub(super) fn scope() -> Scope {
    let scope = InstrumentationScope { name: "agentsight".to_owned(), ..InstrumentationScope::default() };
    Scope { scope, schema_url: "https://opentelemetry.io/schemas/1.41.1".to_owned() }
}

pub(super) fn resource(service: &str) -> Arc<Resource> {
    Arc::new(Resource { attributes: vec![("service.name".into(), Value::Str(service.to_owned().into()))] })
}

pub(super) fn context(id: u8) -> SpanContext {
    SpanContext { trace_id: TraceId([id; 16]), span_id: SpanId([id; 8]), flags: 1, state: String::new() }
}

pub(super) fn span(resource: &Arc<Resource>, id: u8, name: &str) -> Item {
    span_item(resource, id, name, None, None)
}

pub(super) fn span_item(
    resource: &Arc<Resource>,
    id: u8,
    name: &str,
    wire: Option<SpanContext>,
    parent: Option<SpanContext>,
) -> Item {
    let span = Span {
        name: name.to_owned(),
        kind: SpanKind::Client,
        parent: wire,
        start: Timestamp(10),
        end: Timestamp(20),
        attributes: vec![
            ("gen_ai.operation.name".into(), Value::Str("chat".into())),
            ("gen_ai.provider.name".into(), Value::Str("openai".into())),
            ("gen_ai.request.model".into(), Value::Str("gpt-test".into())),
            ("gen_ai.response.finish_reasons".into(), Value::Strs(vec!["stop".into()])),
            ("gen_ai.usage.input_tokens".into(), Value::Int(12)),
            ("gen_ai.request.temperature".into(), Value::Double(0.5)),
            ("gen_ai.request.stream".into(), Value::Bool(true)),
        ],
        status: Status::Unset,
        events: Vec::new(),
    };
    let signal =
        Signal::Span { trace_id: TraceId([id; 16]), span_id: SpanId([id; 8]), parent, span: Box::new(span) };
    Item { resource: resource.clone(), signal }
}

pub(super) fn event(name: &'static str) -> Event {
    Event { name: name.into(), at: Timestamp(11), severity: 9, attributes: Vec::new() }
}

pub(super) fn log_item(resource: &Arc<Resource>, context: Option<SpanContext>, event: Event) -> Item {
    Item { resource: resource.clone(), signal: Signal::Log { context, event } }
}

pub(super) fn measure(metric: Metric, set: &str, amount: Amount) -> Measurement {
    let attributes = vec![
        ("gen_ai.operation.name".into(), Value::Str("chat".into())),
        ("gen_ai.provider.name".into(), Value::Str("openai".into())),
        ("gen_ai.token.type".into(), Value::Str("input".into())),
        ("gen_ai.request.model".into(), Value::Str(set.to_owned().into())),
    ];
    Measurement { metric, attributes, amount }
}

pub(super) fn measurement_item(resource: &Arc<Resource>, set: &str, value: i64) -> Item {
    Item { resource: resource.clone(), signal: Signal::Measurement(measure(TOKENS, set, Amount::Int(value))) }
}
