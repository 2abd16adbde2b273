//! Our telemetry in OTLP's types.

use crate::resource::{Item, Resource, Signal};
use agentsight_genai::telemetry::{Attributes, Key, SpanContext, SpanKind, Status, Value};
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;
use opentelemetry_proto::tonic::trace::v1::{
    Span as ProtoSpan, SpanFlags, Status as ProtoStatus, span, status,
};

/// The span of an item, where it is one. Its events travel as log records of their own.
pub(super) fn span(item: &Item) -> Option<ProtoSpan> {
    let Signal::Span { trace_id, span_id, parent, span } = &item.signal else { return None };
    // Flags are the caller's; a span that begins its trace is sampled, or it would not be here.
    let trace_flags = parent.as_ref().map_or(1, |parent| u32::from(parent.flags));
    // What came with the request is another process's span; what we made up ourselves is not.
    let remote = match (parent, &span.parent) {
        (Some(parent), Some(wire)) => parent.span_id == wire.span_id,
        _ => false,
    };
    let remote = if remote { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
    Some(ProtoSpan {
        trace_id: trace_id.0.to_vec(),
        span_id: span_id.0.to_vec(),
        trace_state: parent.as_ref().map(|parent| parent.state.clone()).unwrap_or_default(),
        parent_span_id: parent.as_ref().map(|parent| parent.span_id.0.to_vec()).unwrap_or_default(),
        flags: trace_flags | SpanFlags::ContextHasIsRemoteMask as u32 | remote,
        name: span.name.clone(),
        kind: match span.kind {
            SpanKind::Client => span::SpanKind::Client,
            SpanKind::Internal => span::SpanKind::Internal,
        } as i32,
        start_time_unix_nano: span.start.0,
        end_time_unix_nano: span.end.0,
        attributes: attributes(&span.attributes),
        status: Some(match &span.status {
            Status::Unset => ProtoStatus::default(),
            Status::Error(message) => {
                ProtoStatus { message: message.clone(), code: status::StatusCode::Error as i32 }
            }
        }),
        ..ProtoSpan::default()
    })
}

/// The log record of an item, where it is one.
pub(super) fn log(item: &Item) -> Option<LogRecord> {
    let Signal::Log { context, event } = &item.signal else { return None };
    let ids = |context: &SpanContext| (context.trace_id.0.to_vec(), context.span_id.0.to_vec());
    let (trace_id, span_id) = context.as_ref().map(ids).unwrap_or_default();
    Some(LogRecord {
        time_unix_nano: event.at.0,
        // Seen in the moment in which it happened.
        observed_time_unix_nano: event.at.0,
        severity_number: i32::from(event.severity),
        attributes: attributes(&event.attributes),
        flags: context.as_ref().map_or(0, |context| u32::from(context.flags)),
        trace_id,
        span_id,
        event_name: event.name.clone().into_owned(),
        ..LogRecord::default()
    })
}

pub(super) fn resource(resource: &Resource) -> ProtoResource {
    ProtoResource { attributes: attributes(&resource.attributes), ..ProtoResource::default() }
}

pub(super) fn attributes(attributes: &Attributes) -> Vec<KeyValue> {
    let one = |(key, value): &(Key, Value)| KeyValue {
        key: key.clone().into_owned(),
        value: Some(AnyValue { value: Some(any_value(value)) }),
        ..KeyValue::default()
    };
    attributes.iter().map(one).collect()
}

fn any_value(value: &Value) -> any_value::Value {
    let text = |text: &str| any_value::Value::StringValue(text.to_owned());
    match value {
        Value::Str(string) => text(string),
        Value::Int(int) => any_value::Value::IntValue(*int),
        Value::Double(double) => any_value::Value::DoubleValue(*double),
        Value::Bool(bool) => any_value::Value::BoolValue(*bool),
        Value::Strs(strings) => any_value::Value::ArrayValue(ArrayValue {
            values: strings.iter().map(|string| AnyValue { value: Some(text(string)) }).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{context, event, log_item, resource as of, span_item};
    use super::*;

    #[test]
    fn a_span_that_begins_its_trace_is_sampled_and_has_no_parent() {
        let made = span(&span_item(&of("a"), 7, "chat", None, None)).unwrap();
        assert_eq!(made.trace_id, [7; 16]);
        assert_eq!(made.span_id, [7; 8]);
        assert!(made.parent_span_id.is_empty());
        assert_eq!(made.flags, 0x101);
        assert_eq!(made.kind, 3);
        assert_eq!(made.status, Some(ProtoStatus::default()));
    }

    #[test]
    fn a_parent_from_the_wire_is_remote_and_keeps_its_flags_and_state() {
        let wire = SpanContext { flags: 0, state: "v=1".to_owned(), ..context(3) };
        let made = span(&span_item(&of("a"), 7, "chat", Some(wire.clone()), Some(wire))).unwrap();
        assert_eq!(made.parent_span_id, [3; 8]);
        assert_eq!((made.flags, made.trace_state.as_str()), (0x300, "v=1"));
        let own = span(&span_item(&of("a"), 7, "chat", None, Some(context(4)))).unwrap();
        assert_eq!(own.flags, 0x101);
    }

    #[test]
    fn an_error_has_its_code_and_words() {
        let mut item = span_item(&of("a"), 7, "chat", None, None);
        if let Signal::Span { span, .. } = &mut item.signal {
            span.status = Status::Error("overloaded".to_owned());
        }
        let status = span(&item).unwrap().status.unwrap();
        assert_eq!((status.code, status.message.as_str()), (2, "overloaded"));
    }

    #[test]
    fn an_event_becomes_a_log_record_of_its_span() {
        let made = log(&log_item(&of("a"), Some(context(5)), event("agentsight.x"))).unwrap();
        assert_eq!((made.trace_id, made.span_id, made.flags), (vec![5; 16], vec![5; 8], 1));
        assert_eq!(made.event_name, "agentsight.x");
        assert_eq!((made.severity_number, made.time_unix_nano), (9, 11));
        let alone = log(&log_item(&of("a"), None, event("agentsight.x"))).unwrap();
        assert!(alone.trace_id.is_empty() && alone.span_id.is_empty());
    }

    #[test]
    fn every_kind_of_value_keeps_its_type() {
        let all: Attributes = vec![
            ("s".into(), Value::Str("x".into())),
            ("i".into(), Value::Int(-1)),
            ("d".into(), Value::Double(0.5)),
            ("b".into(), Value::Bool(false)),
            ("l".into(), Value::Strs(vec!["p".into(), "q".into()])),
        ];
        let made = attributes(&all);
        let kinds: Vec<_> =
            made.iter().map(|kv| kv.value.as_ref().unwrap().value.as_ref().unwrap()).collect();
        assert!(matches!(kinds[0], any_value::Value::StringValue(s) if s == "x"));
        assert!(matches!(kinds[1], any_value::Value::IntValue(-1)));
        assert!(matches!(kinds[2], any_value::Value::DoubleValue(d) if *d == 0.5));
        assert!(matches!(kinds[3], any_value::Value::BoolValue(false)));
        assert!(matches!(kinds[4], any_value::Value::ArrayValue(list) if list.values.len() == 2));
    }
}
