//! One route as an operation: its path, parameters, body, answers and who may call it.

use std::collections::BTreeMap;

use http::Method as Verb;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Value, json};
use tenon_proto::{
    options::v1::policy::{Access, Rate},
    policy::{Effect, Method},
};

use super::{
    comments::Comments,
    schema::{Schemas, Way, is_single},
};
use crate::{
    routes::Route,
    template::{Segment, Template},
};

/// Messages inside of messages that query parameters are listed for.
const QUERY_DEPTH: usize = 4;
/// Query parameters of one operation.
const QUERY_MAX: usize = 100;

/// The names of the variable parts of paths, by the path without them: paths that differ in names alone are one.
#[derive(Default)]
pub(super) struct Shapes(BTreeMap<String, Vec<String>>);

/// The key of the route's operation in its path item; none for a route of every verb, or of one that OpenAPI has not.
pub(super) fn verb(route: &Route) -> Option<String> {
    let known = [Verb::GET, Verb::PUT, Verb::POST, Verb::DELETE, Verb::OPTIONS, Verb::HEAD, Verb::PATCH, Verb::TRACE];
    let verb = route.verb().filter(|verb| known.contains(verb))?;
    Some(verb.as_str().to_ascii_lowercase())
}

/// The path and the operation of a route.
pub(super) fn describe(
    route: &Route,
    (id, tag): (&str, &str),
    (shapes, schemas, comments): (&mut Shapes, &mut Schemas<'_>, &Comments),
) -> (String, Value) {
    let method = &route.method;
    let comment = comments.of(&method.descriptor.parent_service().parent_file(), method.descriptor.path());
    let (path, names) = shapes.path(&route.template);
    let mut parameters = path_parameters(route, &names, schemas);
    parameters.extend(query_parameters(route, schemas));
    parameters.extend(header_parameters(method));
    let mut operation = json!({
        "operationId": id,
        "tags": [tag],
        "summary": comment.summary(),
        "description": format!("{}\n\n{}", comment.text, terms(method)).trim(),
        "parameters": parameters,
        "responses": responses(route, schemas),
        "security": security(method),
        "x-grpc-method": method.path,
    });
    if let Some(body) = request_body(route, schemas) {
        operation["requestBody"] = body;
    }
    let options = method.descriptor.options();
    if options.get_field_by_name("deprecated").and_then(|value| value.as_bool()).unwrap_or_default() {
        operation["deprecated"] = json!(true);
    }
    (path, operation)
}

impl Shapes {
    /// `/v1/runs/{run}:cancel` for `/v1/{name=runs/*}:cancel`, and the names of its variable segments in order.
    fn path(&mut self, template: &Template) -> (String, Vec<String>) {
        let literal = |segment: &Segment| match segment {
            Segment::Literal(text) => text.to_string(),
            Segment::Any | Segment::Rest => "{}".to_owned(),
        };
        let verb = template.verb.as_ref().map(|verb| format!(":{verb}")).unwrap_or_default();
        let shape = format!("{}{verb}", template.segments.iter().map(literal).collect::<Vec<_>>().join("/"));
        let names = self.0.entry(shape).or_insert_with(|| names(template)).clone();
        let mut next = names.iter();
        let segment = |segment: &Segment| match segment {
            Segment::Literal(text) => text.to_string(),
            Segment::Any | Segment::Rest => format!("{{{}}}", next.next().map_or("", String::as_str)),
        };
        let path: Vec<String> = template.segments.iter().map(segment).collect();
        (format!("/{}{verb}", path.join("/")), names)
    }
}

/// A name for each variable segment: of the field that it is, or of the collection before it (`runs/*` is a `run`).
fn names(template: &Template) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (at, segment) in template.segments.iter().enumerate() {
        if matches!(segment, Segment::Literal(_)) {
            continue;
        }
        let variable = template.variables.iter().find(|variable| variable.covers.contains(&at));
        let whole = variable.filter(|variable| variable.covers.len() == 1).map(|variable| variable.field.clone());
        let before = at.checked_sub(1).and_then(|at| template.segments.get(at));
        let of =
            before.and_then(|before| if let Segment::Literal(text) = before { Some(singular(text)) } else { None });
        let name = whole.or(of).unwrap_or_else(|| "part".to_owned());
        let count = names.iter().filter(|taken| **taken == name || taken.starts_with(&format!("{name}_"))).count();
        names.push(if count == 0 { name } else { format!("{name}_{}", count + 1) });
    }
    names
}

fn singular(collection: &str) -> String {
    let plain: String = collection.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let hissing = ["xes", "sses", "shes", "ches"].iter().any(|end| plain.ends_with(end));
    match plain.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"),
        None => match plain.strip_suffix(if hissing { "es" } else { "s" }) {
            Some(stem) if !stem.is_empty() => stem.to_owned(),
            _ => plain,
        },
    }
}

fn path_parameters(route: &Route, names: &[String], schemas: &mut Schemas<'_>) -> Vec<Value> {
    let template = &route.template;
    let variable_segments = template.segments.iter().enumerate().filter(|(_, s)| !matches!(s, Segment::Literal(_)));
    let mut parameters = Vec::new();
    for ((at, segment), name) in variable_segments.zip(names) {
        let variable = template.variables.iter().find(|variable| variable.covers.contains(&at));
        let field = variable.and_then(|variable| route.binding.captured(&variable.field));
        let mut parameter = json!({ "name": name, "in": "path", "required": true });
        let comment = field.map(|field| schemas.comment(field)).unwrap_or_default();
        let whole = variable.is_some_and(|variable| variable.covers.len() == 1);
        parameter["schema"] = match field.filter(|_| whole) {
            Some(field) => schemas.parameter(field),
            None => json!({ "type": "string", "minLength": 1 }),
        };
        if parameter["schema"]["type"] == "string" && parameter["schema"].get("enum").is_none() {
            parameter["schema"]["minLength"] = json!(1);
        }
        let mut text = comment.text;
        if let Some(variable) = variable.filter(|_| !whole) {
            let pattern = pattern(template, variable.covers.clone(), names);
            text = format!("{text}\n\nThe field `{}` is `{pattern}`.", variable.field);
        }
        if *segment == Segment::Rest {
            text = format!("{text}\n\nAny number of segments.");
            parameter["x-tenon-segments"] = json!("any");
        }
        parameter["description"] = json!(text.trim());
        parameters.push(parameter);
    }
    parameters
}

/// What a variable of several segments holds, with the names of its parts.
fn pattern(template: &Template, covers: std::ops::Range<usize>, names: &[String]) -> String {
    let mut parts = Vec::new();
    let mut next = names.iter();
    for (at, segment) in template.segments.iter().enumerate() {
        let part = match segment {
            Segment::Literal(text) => text.to_string(),
            Segment::Any | Segment::Rest => format!("{{{}}}", next.next().map_or("", String::as_str)),
        };
        if covers.contains(&at) {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// The fields that neither path nor body has, those of messages inside by dotted names.
fn query_parameters(route: &Route, schemas: &mut Schemas<'_>) -> Vec<Value> {
    let binding = &route.binding;
    if binding.takes_whole_body() {
        return Vec::new();
    }
    let mut found = Vec::new();
    collect(binding.input(), &mut Vec::new(), &mut found);
    let taken = |fields: &[FieldDescriptor]| {
        binding.body_field().is_some_and(|body| fields.first() == Some(body))
            || route.template.variables.iter().any(|variable| binding.is_captured(&variable.field, fields))
    };
    found.retain(|fields| !taken(fields));
    found.truncate(QUERY_MAX);
    let parameter = |fields: Vec<FieldDescriptor>| {
        let name = fields.iter().map(FieldDescriptor::json_name).collect::<Vec<_>>().join(".");
        let last = fields.last().expect("a path has a field");
        let comment = schemas.comment(last);
        let mut parameter = json!({ "name": name, "in": "query", "schema": schemas.parameter(last) });
        if !comment.text.is_empty() {
            parameter["description"] = json!(comment.text);
        }
        if let Some(example) = comment.examples.first() {
            parameter["example"] = example.clone();
        }
        parameter
    };
    found.into_iter().map(parameter).collect()
}

fn collect(message: &MessageDescriptor, above: &mut Vec<FieldDescriptor>, found: &mut Vec<Vec<FieldDescriptor>>) {
    for field in message.fields().filter(|field| !field.is_map()) {
        above.push(field.clone());
        match field.kind() {
            Kind::Message(inner) if !is_single(&inner) => {
                let known = inner.full_name().starts_with("google.protobuf.") || field.is_list();
                // A message inside of itself has no end.
                let again = above.iter().any(|field| *field.parent_message() == inner);
                if !known && !again && above.len() < QUERY_DEPTH && found.len() < QUERY_MAX {
                    collect(&inner, above, found);
                }
            }
            _ => found.push(above.clone()),
        }
        above.pop();
    }
}

fn header_parameters(method: &Method) -> Vec<Value> {
    let mut headers = Vec::new();
    if method.effect == Effect::Once {
        headers.push(json!({
            "name": "Idempotency-Key", "in": "header",
            "description": "A repeat with the same key gets the first answer",
            "schema": { "type": "string", "pattern": "^[!-~]{1,128}$" },
        }));
    }
    for name in &method.headers {
        headers.push(json!({ "name": name, "in": "header", "description": "Handed on to the service",
                             "schema": { "type": "string" } }));
    }
    headers
}

fn request_body(route: &Route, schemas: &mut Schemas<'_>) -> Option<Value> {
    let binding = &route.binding;
    if !binding.takes_body() {
        return None;
    }
    if binding.takes_any_media() {
        return Some(json!({ "content": { "*/*": { "schema": { "type": "string", "format": "binary" } } } }));
    }
    let captured: Vec<FieldDescriptor> = binding.captured_fields();
    let schema = match binding.body_field() {
        Some(field) => schemas.field(field, Way::In),
        // What the path has may be in the body too, and is overwritten: it is not offered.
        None if captured.is_empty() => schemas.message(binding.input(), Way::In),
        None => schemas.object(binding.input(), Way::In, &captured),
    };
    let media = if route.method.descriptor.is_client_streaming() { "application/x-ndjson" } else { "application/json" };
    Some(json!({ "content": { media: { "schema": schema } } }))
}

fn responses(route: &Route, schemas: &mut Schemas<'_>) -> Value {
    let binding = &route.binding;
    let schema = match binding.response_field() {
        _ if binding.gives_any_media() => json!({ "type": "string", "format": "binary" }),
        Some(field) => schemas.field(field, Way::Out),
        None => schemas.message(binding.output(), Way::Out),
    };
    let content = if binding.gives_any_media() {
        json!({ "*/*": { "schema": schema } })
    } else if route.method.descriptor.is_server_streaming() {
        let each =
            json!({ "schema": { "type": "string", "description": "One message after the other, each a JSON object" } });
        json!({ "application/x-ndjson": each, "text/event-stream": each,
                "application/json": { "schema": { "type": "array", "items": schema } } })
    } else {
        json!({ "application/json": { "schema": schema } })
    };
    json!({
        "200": { "description": "OK", "content": content },
        "default": { "$ref": "#/components/responses/Error" },
    })
}

fn security(method: &Method) -> Value {
    match method.access {
        Access::Public => json!([]),
        Access::Operator => json!([{ "operator": [] }]),
        Access::Tenant | Access::Mesh | Access::Unspecified => json!([{ "bearer": [] }, { "apiKey": [] }]),
    }
}

/// The policy of a method, for people.
fn terms(method: &Method) -> String {
    let rate = match method.rate {
        Rate::Write => "WRITE",
        Rate::Login => "LOGIN",
        Rate::Ingest => "INGEST",
        Rate::Read | Rate::Unspecified => "READ",
    };
    let mut terms = vec![format!("Rate class {rate}.")];
    if let Some(permission) = &method.permission {
        terms.push(format!("Needs the permission `{permission}`."));
    }
    if method.step_up {
        terms.push("Needs a second factor given within the last 5 minutes.".to_owned());
    }
    if let Some(feature) = &method.feature {
        terms.push(format!("Needs the feature `{feature}` in the plan."));
    }
    if let Some(meter) = &method.meter {
        terms.push(format!("Counts on the meter `{meter}`."));
    }
    if let Some(timeout) = method.timeout {
        terms.push(format!("Answers within {} ms, or with DEADLINE_EXCEEDED.", timeout.as_millis()));
    }
    if method.allow_unpaid {
        terms.push("Works while a payment is pending.".to_owned());
    }
    terms.join(" ")
}
