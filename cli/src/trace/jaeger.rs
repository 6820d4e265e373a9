//! Traces as the JSON of Jaeger's query API, which Grafana and scripts read already.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::store::Span;

/// `{"data": [trace, ...]}`.
pub(crate) fn answer(traces: &[(String, Vec<Span>)]) -> Value {
    let data: Vec<Value> = traces.iter().map(|(id, spans)| trace(id, spans)).collect();
    json!({ "data": data, "total": data.len(), "limit": 0, "offset": 0, "errors": null })
}

fn trace(id: &str, spans: &[Span]) -> Value {
    let mut processes = BTreeMap::new();
    for span in spans {
        processes.insert(span.service.clone(), json!({ "serviceName": span.service, "tags": [] }));
    }
    let spans: Vec<Value> = spans.iter().map(|span| render(id, span)).collect();
    json!({ "traceID": id, "spans": spans, "processes": processes, "warnings": null })
}

fn render(trace: &str, span: &Span) -> Value {
    let references: Vec<Value> =
        span.parent.iter().map(|parent| json!({ "refType": "CHILD_OF", "traceID": trace, "spanID": parent })).collect();
    let mut tags = tags(&span.attributes);
    tags.push(json!({ "key": "span.kind", "type": "string", "value": span.kind }));
    if span.is_error {
        tags.push(json!({ "key": "error", "type": "bool", "value": true }));
    }
    let logs: Vec<Value> = span
        .events
        .iter()
        .map(|event| {
            let mut fields = self::tags(&event.attributes);
            fields.insert(0, json!({ "key": "event", "type": "string", "value": event.name }));
            json!({ "timestamp": event.at_us, "fields": fields })
        })
        .collect();
    json!({
        "traceID": trace, "spanID": span.id, "operationName": span.name, "references": references,
        "startTime": span.start_us, "duration": span.duration_us, "tags": tags, "logs": logs,
        "processID": span.service, "warnings": null,
    })
}

fn tags(attributes: &[(String, String)]) -> Vec<Value> {
    attributes.iter().map(|(key, value)| json!({ "key": key, "type": "string", "value": value })).collect()
}
