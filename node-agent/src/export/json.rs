//! OTLP as JSON, as the Collector writes it: ids in hexadecimal, 64-bit integers as strings, enums as
//! numbers, names in lowerCamelCase, and fields left out that hold their default.
//!
//! Written here and not by `serde` on the generated types: those write every empty field, and `null` for a
//! number that is none.

use super::batch::Message;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{
    HistogramDataPoint, Metric, NumberDataPoint, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

/// The request as one line, without its end.
pub(super) fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    object(&mut out, |o| match message {
        Message::Traces(request) => o.list("resourceSpans", &request.resource_spans, |o, group| {
            o.resource(group.resource.as_ref());
            o.list("scopeSpans", &group.scope_spans, |o, scope| {
                o.scope(scope.scope.as_ref());
                o.list("spans", &scope.spans, span);
                o.text("schemaUrl", &scope.schema_url);
            });
            o.text("schemaUrl", &group.schema_url);
        }),
        Message::Logs(request) => o.list("resourceLogs", &request.resource_logs, |o, group| {
            o.resource(group.resource.as_ref());
            o.list("scopeLogs", &group.scope_logs, |o, scope| {
                o.scope(scope.scope.as_ref());
                o.list("logRecords", &scope.log_records, log);
                o.text("schemaUrl", &scope.schema_url);
            });
            o.text("schemaUrl", &group.schema_url);
        }),
        Message::Metrics(request) => o.list("resourceMetrics", &request.resource_metrics, |o, group| {
            o.resource(group.resource.as_ref());
            o.list("scopeMetrics", &group.scope_metrics, |o, scope| {
                o.scope(scope.scope.as_ref());
                o.list("metrics", &scope.metrics, metric);
                o.text("schemaUrl", &scope.schema_url);
            });
            o.text("schemaUrl", &group.schema_url);
        }),
    });
    out
}

/// An object that is being written.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

fn object(out: &mut Vec<u8>, fields: impl FnOnce(&mut Object<'_>)) {
    out.push(b'{');
    fields(&mut Object { out, empty: true });
    out.push(b'}');
}

fn array<T>(out: &mut Vec<u8>, items: &[T], mut one: impl FnMut(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        one(out, item);
    }
    out.push(b']');
}

fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string always serialises, and a Vec takes it");
}

fn integer(out: &mut Vec<u8>, value: &impl ToString) {
    string(out, &value.to_string());
}

/// JSON has no such numbers; protobuf's mapping has strings for them.
fn double(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        string(out, "NaN");
    } else if value.is_infinite() {
        string(out, if value > 0.0 { "Infinity" } else { "-Infinity" });
    } else {
        serde_json::to_writer(out, &value).expect("a finite number serialises, and a Vec takes it");
    }
}

fn any_value(out: &mut Vec<u8>, value: &AnyValue) {
    use any_value::Value;
    object(out, |o| match &value.value {
        // A reference into a table that only profiles have.
        None | Some(Value::StringValueStrindex(_)) => {}
        Some(Value::StringValue(text)) => string(o.key("stringValue"), text),
        Some(Value::BoolValue(value)) => o.key("boolValue").extend_from_slice(boolean(*value)),
        Some(Value::IntValue(value)) => integer(o.key("intValue"), value),
        Some(Value::DoubleValue(value)) => double(o.key("doubleValue"), *value),
        Some(Value::ArrayValue(array)) => {
            object(o.key("arrayValue"), |o| o.values(&array.values, any_value));
        }
        Some(Value::KvlistValue(list)) => {
            object(o.key("kvlistValue"), |o| o.values(&list.values, key_value));
        }
        Some(Value::BytesValue(bytes)) => string(o.key("bytesValue"), &base64(bytes)),
    });
}

fn key_value(out: &mut Vec<u8>, attribute: &KeyValue) {
    object(out, |o| {
        string(o.key("key"), &attribute.key);
        let out = o.key("value");
        match &attribute.value {
            Some(value) => any_value(out, value),
            None => out.extend_from_slice(b"{}"),
        }
    });
}

fn boolean(value: bool) -> &'static [u8] {
    if value { b"true" } else { b"false" }
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().chain([&0, &0]).take(3).fold(0, |group, byte| group << 8 | usize::from(*byte));
        for i in 0..4 {
            let digit = char::from(ALPHABET[group >> (18 - 6 * i) & 63]);
            text.push(if i <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

impl Object<'_> {
    fn key(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        string(self.out, name);
        self.out.push(b':');
        self.out
    }

    fn list<T>(&mut self, name: &str, items: &[T], mut fields: impl FnMut(&mut Object<'_>, &T)) {
        if !items.is_empty() {
            array(self.key(name), items, |out, item| object(out, |o| fields(o, item)));
        }
    }

    fn values<T>(&mut self, items: &[T], one: fn(&mut Vec<u8>, &T)) {
        if !items.is_empty() {
            array(self.key("values"), items, one);
        }
    }

    fn attributes(&mut self, attributes: &[KeyValue]) {
        if !attributes.is_empty() {
            array(self.key("attributes"), attributes, key_value);
        }
    }

    fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            string(self.key(name), text);
        }
    }

    fn hex(&mut self, name: &str, id: &[u8]) {
        if !id.is_empty() {
            let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            string(self.key(name), &hex);
        }
    }

    /// 64 bits: as text.
    fn long(&mut self, name: &str, value: u64) {
        if value != 0 {
            integer(self.key(name), &value);
        }
    }

    /// 32 bits: as a number.
    fn small(&mut self, name: &str, value: impl Into<i64>) {
        let value = value.into();
        if value != 0 {
            self.key(name).extend_from_slice(value.to_string().as_bytes());
        }
    }

    fn resource(&mut self, resource: Option<&Resource>) {
        object(self.key("resource"), |o| {
            if let Some(resource) = resource {
                o.attributes(&resource.attributes);
                o.small("droppedAttributesCount", resource.dropped_attributes_count);
            }
        });
    }

    fn scope(&mut self, scope: Option<&InstrumentationScope>) {
        object(self.key("scope"), |o| {
            if let Some(scope) = scope {
                o.text("name", &scope.name);
                o.text("version", &scope.version);
                o.attributes(&scope.attributes);
                o.small("droppedAttributesCount", scope.dropped_attributes_count);
            }
        });
    }

    fn optional(&mut self, name: &str, value: Option<f64>) {
        if let Some(value) = value {
            double(self.key(name), value);
        }
    }
}

fn span(o: &mut Object<'_>, span: &Span) {
    o.hex("traceId", &span.trace_id);
    o.hex("spanId", &span.span_id);
    o.text("traceState", &span.trace_state);
    o.hex("parentSpanId", &span.parent_span_id);
    o.small("flags", span.flags);
    o.text("name", &span.name);
    o.small("kind", span.kind);
    o.long("startTimeUnixNano", span.start_time_unix_nano);
    o.long("endTimeUnixNano", span.end_time_unix_nano);
    o.attributes(&span.attributes);
    o.small("droppedAttributesCount", span.dropped_attributes_count);
    o.list("events", &span.events, |o, event| {
        o.long("timeUnixNano", event.time_unix_nano);
        o.text("name", &event.name);
        o.attributes(&event.attributes);
        o.small("droppedAttributesCount", event.dropped_attributes_count);
    });
    o.small("droppedEventsCount", span.dropped_events_count);
    o.list("links", &span.links, |o, link| {
        o.hex("traceId", &link.trace_id);
        o.hex("spanId", &link.span_id);
        o.text("traceState", &link.trace_state);
        o.attributes(&link.attributes);
        o.small("droppedAttributesCount", link.dropped_attributes_count);
        o.small("flags", link.flags);
    });
    o.small("droppedLinksCount", span.dropped_links_count);
    // The Collector writes it always.
    object(o.key("status"), |o| {
        if let Some(Status { message, code }) = &span.status {
            o.text("message", message);
            o.small("code", *code);
        }
    });
}

fn log(o: &mut Object<'_>, log: &LogRecord) {
    o.long("timeUnixNano", log.time_unix_nano);
    o.long("observedTimeUnixNano", log.observed_time_unix_nano);
    o.small("severityNumber", log.severity_number);
    o.text("severityText", &log.severity_text);
    if let Some(body) = &log.body {
        any_value(o.key("body"), body);
    }
    o.attributes(&log.attributes);
    o.small("droppedAttributesCount", log.dropped_attributes_count);
    o.small("flags", log.flags);
    o.hex("traceId", &log.trace_id);
    o.hex("spanId", &log.span_id);
    o.text("eventName", &log.event_name);
}

/// Histograms and sums; nothing here makes the other kinds.
fn metric(o: &mut Object<'_>, metric: &Metric) {
    o.text("name", &metric.name);
    o.text("description", &metric.description);
    o.text("unit", &metric.unit);
    match &metric.data {
        Some(metric::Data::Histogram(histogram)) => object(o.key("histogram"), |o| {
            o.list("dataPoints", &histogram.data_points, histogram_point);
            o.small("aggregationTemporality", histogram.aggregation_temporality);
        }),
        Some(metric::Data::Sum(sum)) => object(o.key("sum"), |o| {
            o.list("dataPoints", &sum.data_points, number_point);
            o.small("aggregationTemporality", sum.aggregation_temporality);
            if sum.is_monotonic {
                o.key("isMonotonic").extend_from_slice(boolean(true));
            }
        }),
        _ => {}
    }
}

fn histogram_point(o: &mut Object<'_>, point: &HistogramDataPoint) {
    o.attributes(&point.attributes);
    o.long("startTimeUnixNano", point.start_time_unix_nano);
    o.long("timeUnixNano", point.time_unix_nano);
    o.long("count", point.count);
    o.optional("sum", point.sum);
    if !point.bucket_counts.is_empty() {
        array(o.key("bucketCounts"), &point.bucket_counts, integer);
    }
    if !point.explicit_bounds.is_empty() {
        array(o.key("explicitBounds"), &point.explicit_bounds, |out, bound| double(out, *bound));
    }
    o.small("flags", point.flags);
    o.optional("min", point.min);
    o.optional("max", point.max);
}

fn number_point(o: &mut Object<'_>, point: &NumberDataPoint) {
    o.attributes(&point.attributes);
    o.long("startTimeUnixNano", point.start_time_unix_nano);
    o.long("timeUnixNano", point.time_unix_nano);
    match point.value {
        Some(number_data_point::Value::AsInt(value)) => integer(o.key("asInt"), &value),
        Some(number_data_point::Value::AsDouble(value)) => double(o.key("asDouble"), value),
        None => {}
    }
    o.small("flags", point.flags);
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::batch::{LIMIT, Leaf, pack};
    use super::super::fixtures::{
        COUNTER, TOKENS, context, event, log_item, measure, resource, scope, span_item,
    };
    use super::super::metrics::Aggregator;
    use super::super::{config::Temporality, proto};
    use super::*;
    use agentsight_genai::telemetry::{Amount, Value};
    use agentsight_genai::time::Timestamp;

    /// The message that a line stands for, read by the library's own rules.
    pub(in crate::export) fn decode(line: &str) -> Message {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        if value.get("resourceSpans").is_some() {
            Message::Traces(serde_json::from_str(line).unwrap())
        } else if value.get("resourceLogs").is_some() {
            Message::Logs(serde_json::from_str(line).unwrap())
        } else {
            Message::Metrics(serde_json::from_str(line).unwrap())
        }
    }

    fn packed<L: Leaf>(leaves: Vec<(std::sync::Arc<crate::resource::Resource>, L)>) -> Message {
        let (mut requests, _) = pack(leaves, LIMIT, &scope());
        assert_eq!(requests.len(), 1);
        requests.remove(0).message
    }

    fn all() -> [Message; 3] {
        let (a, b) = (resource("a"), resource("b"));
        let spans = [
            span_item(&a, 1, "chat \"x\"\n\u{1}é", None, None),
            span_item(&b, 2, "chat", Some(context(3)), Some(context(3))),
        ];
        let spans = spans.iter().map(|item| (item.resource.clone(), proto::span(item).unwrap()));
        let mut with = event("agentsight.x");
        with.attributes =
            vec![("agentsight.zero".into(), Value::Int(0)), ("agentsight.e".into(), Value::Str("".into()))];
        let logs = [log_item(&a, Some(context(4)), with), log_item(&a, None, event("agentsight.y"))];
        let logs = logs.iter().map(|item| (item.resource.clone(), proto::log(item).unwrap()));
        let mut metrics = Aggregator::new(Temporality::Cumulative, Timestamp(1));
        for amount in [Amount::Int(0), Amount::Int(i64::from(u32::MAX) * 4)] {
            metrics.record(&a, &measure(TOKENS, "m", amount.clone()), Timestamp(2));
            metrics.record(&b, &measure(COUNTER, "m", amount), Timestamp(2));
        }
        metrics.record(&b, &measure(COUNTER, "n", Amount::Double(0.0)), Timestamp(2));
        [packed(spans.collect()), packed(logs.collect()), packed(metrics.collect(Timestamp(3)))]
    }

    #[test]
    fn every_line_reads_back_as_the_same_message() {
        for message in all() {
            let line = String::from_utf8(encode(&message)).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(decode(&line), message, "{line}");
        }
    }

    #[test]
    fn a_span_is_written_as_the_collector_writes_it() {
        let item = span_item(&resource("a"), 0xab, "chat", None, None);
        let mut span = proto::span(&item).unwrap();
        span.attributes.truncate(5);
        let line = String::from_utf8(encode(&packed(vec![(item.resource.clone(), span)]))).unwrap();
        let expected = concat!(
            r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"a"}}]},"#,
            r#""scopeSpans":[{"scope":{"name":"agentsight"},"spans":[{"traceId":"abababababababababababababababab","#,
            r#""spanId":"abababababababab","flags":257,"name":"chat","kind":3,"startTimeUnixNano":"10","#,
            r#""endTimeUnixNano":"20","attributes":[{"key":"gen_ai.operation.name","value":{"stringValue":"chat"}},"#,
            r#"{"key":"gen_ai.provider.name","value":{"stringValue":"openai"}},"#,
            r#"{"key":"gen_ai.request.model","value":{"stringValue":"gpt-test"}},"#,
            r#"{"key":"gen_ai.response.finish_reasons","value":{"arrayValue":{"values":[{"stringValue":"stop"}]}}},"#,
            r#"{"key":"gen_ai.usage.input_tokens","value":{"intValue":"12"}}],"status":{}}],"#,
            r#""schemaUrl":"https://opentelemetry.io/schemas/1.41.1"}],"#,
            r#""schemaUrl":"https://opentelemetry.io/schemas/1.41.1"}]}"#,
        );
        assert_eq!(line, expected);
    }

    #[test]
    fn counts_are_text_and_temporality_is_a_number() {
        let [_, _, metrics] = all();
        let line = String::from_utf8(encode(&metrics)).unwrap();
        assert!(line.contains(r#""count":"2","sum":17179869180.0,"bucketCounts":["1","0","#), "{line}");
        assert!(line.contains(r#""aggregationTemporality":2,"isMonotonic":true"#), "{line}");
        assert!(line.contains(r#""asInt":"17179869180""#), "{line}");
        assert!(line.contains(r#""asDouble":0.0"#), "a zero that is a value stays: {line}");
    }

    #[test]
    fn numbers_that_json_has_not_are_text() {
        let mut out = Vec::new();
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.5] {
            double(&mut out, value);
        }
        assert_eq!(out, br#""NaN""Infinity""-Infinity"1.5"#);
    }

    #[test]
    fn bytes_are_base64_with_padding() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
