//! The newest spans, by trace: bounded, oldest trace out first.

use std::collections::{HashMap, VecDeque};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, Span as OtlpSpan, status::StatusCode},
};

/// About 10 MB when full.
const MAX_SPANS: usize = 10_000;
/// One trace that never ends must not push out all others.
const MAX_SPANS_OF_A_TRACE: usize = 2_000;

/// The attribute by which a span names its part of the mesh.
const PART: &str = "tenon.part";

/// A span as the page shows it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Span {
    pub(crate) id: String,
    pub(crate) parent: Option<String>,
    pub(crate) service: String,
    /// The part of the mesh that the span itself names.
    part: Option<String>,
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    /// Microseconds since 1970.
    pub(crate) start_us: u64,
    pub(crate) duration_us: u64,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) events: Vec<Event>,
    pub(crate) is_error: bool,
}

/// Something that happened within a span.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) at_us: u64,
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
}

/// Traces in the order in which their first span came.
#[derive(Debug, Default)]
pub(crate) struct Store {
    traces: HashMap<String, Vec<Span>>,
    order: VecDeque<String>,
    spans: usize,
}

impl Store {
    /// Takes in what one export carries.
    pub(crate) fn add(&mut self, batch: Vec<ResourceSpans>) {
        for resource_spans in batch {
            let attributes = resource_spans.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = attributes.iter().find(|attribute| attribute.key == "service.name");
            let service = service.map_or_else(|| "unknown".to_owned(), |attribute| text(attribute.value.as_ref()));
            for span in resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.insert(hex(&span.trace_id), read(span, &service));
            }
        }
        self.evict();
    }

    /// The spans of a trace, in order of their start, each of the part of the mesh that it belongs to.
    pub(crate) fn get(&self, trace: &str) -> Option<Vec<Span>> {
        let mut spans = self.traces.get(trace)?.clone();
        spans.sort_by_key(|span| span.start_us);
        // Parts share a process: a span is of its own part, or of the one that its nearest ancestor names.
        let mut part_of: HashMap<String, String> = HashMap::new();
        for span in &mut spans {
            let inherited = || part_of.get(span.parent.as_ref()?).cloned();
            if let Some(part) = span.part.clone().or_else(inherited) {
                part_of.insert(span.id.clone(), part.clone());
                span.service = part;
            }
        }
        Some(spans)
    }

    /// The newest traces that a filter keeps, newest first.
    pub(crate) fn newest(&self, limit: usize, keep: impl Fn(&[Span]) -> bool) -> Vec<(String, Vec<Span>)> {
        let traces = self.order.iter().rev().filter_map(|id| Some((id.clone(), self.get(id)?)));
        traces.filter(|(_, spans)| keep(spans)).take(limit).collect()
    }

    fn insert(&mut self, trace: String, span: Span) {
        let spans = self.traces.entry(trace.clone()).or_insert_with(|| {
            self.order.push_back(trace);
            Vec::new()
        });
        if spans.len() < MAX_SPANS_OF_A_TRACE {
            spans.push(span);
            self.spans += 1;
        }
    }

    fn evict(&mut self) {
        while self.spans > MAX_SPANS {
            let Some(oldest) = self.order.pop_front() else { return };
            self.spans -= self.traces.remove(&oldest).map_or(0, |spans| spans.len());
        }
    }
}

fn read(span: OtlpSpan, resource_service: &str) -> Span {
    let mut attributes = texts(span.attributes);
    let part = attributes.iter().position(|(key, _)| key == PART).map(|index| attributes.remove(index).1);
    let events = span.events.into_iter().map(|event| Event {
        at_us: event.time_unix_nano / 1_000,
        name: event.name,
        attributes: texts(event.attributes),
    });
    Span {
        id: hex(&span.span_id),
        parent: Some(hex(&span.parent_span_id)).filter(|parent| !parent.is_empty()),
        service: resource_service.to_owned(),
        part,
        name: span.name,
        kind: ["unspecified", "internal", "server", "client", "producer", "consumer"]
            .get(usize::try_from(span.kind).unwrap_or_default())
            .unwrap_or(&"unspecified"),
        start_us: span.start_time_unix_nano / 1_000,
        duration_us: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) / 1_000,
        attributes,
        events: events.collect(),
        is_error: span.status.is_some_and(|status| status.code == StatusCode::Error as i32),
    }
}

fn texts(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value.as_ref()))).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::ArrayValue(array)) => {
            let values: Vec<String> = array.values.iter().map(|value| text(Some(value))).collect();
            values.join(", ")
        }
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::{resource::v1::Resource, trace::v1::ScopeSpans};

    fn attribute(key: &str, value: &str) -> KeyValue {
        let value = Some(AnyValue { value: Some(Value::StringValue(value.into())) });
        KeyValue { key: key.into(), value, ..Default::default() }
    }

    fn export(trace: [u8; 16], (span, parent): (u64, u64), attributes: Vec<KeyValue>) -> Vec<ResourceSpans> {
        let span = OtlpSpan {
            trace_id: trace.to_vec(),
            span_id: span.to_be_bytes().to_vec(),
            parent_span_id: if parent == 0 { Vec::new() } else { parent.to_be_bytes().to_vec() },
            name: "work".into(),
            kind: 2,
            start_time_unix_nano: span * 1_000_000,
            end_time_unix_nano: span * 1_000_000 + 3_000_000,
            attributes,
            ..Default::default()
        };
        let resource = Resource { attributes: vec![attribute("service.name", "tenon")], ..Default::default() };
        let scope_spans = vec![ScopeSpans { spans: vec![span], ..Default::default() }];
        vec![ResourceSpans { resource: Some(resource), scope_spans, ..Default::default() }]
    }

    #[test]
    fn a_span_is_of_the_part_that_it_or_its_nearest_ancestor_names() {
        let mut store = Store::default();
        store.add(export([1; 16], (1, 0), vec![]));
        store.add(export([1; 16], (2, 1), vec![attribute(PART, "workflow")]));
        store.add(export([1; 16], (3, 2), vec![]));
        let spans = store.get(&"01".repeat(16)).unwrap();
        let services: Vec<&str> = spans.iter().map(|span| span.service.as_str()).collect();
        assert_eq!(services, ["tenon", "workflow", "workflow"]);
        assert_eq!((spans[0].kind, spans[0].start_us, spans[0].duration_us), ("server", 1_000, 3_000));
        assert!(spans[1].attributes.is_empty());
    }

    #[test]
    fn the_oldest_trace_goes_first_when_it_is_full() {
        let mut store = Store::default();
        for trace in 0..=MAX_SPANS {
            store.add(export(u128::try_from(trace).unwrap().to_be_bytes(), (1, 0), vec![]));
        }
        assert_eq!((store.spans, store.traces.len()), (MAX_SPANS, MAX_SPANS));
        assert!(store.get(&"00".repeat(16)).is_none());
        let newest = store.newest(2, |_| true);
        assert_eq!(newest[0].0, hex(&u128::try_from(MAX_SPANS).unwrap().to_be_bytes()));
    }
}
