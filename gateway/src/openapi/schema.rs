//! The JSON Schema (2020-12) of messages, as the proto3 JSON mapping reads and writes them.

use std::collections::BTreeMap;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor};
use serde_json::{Map, Value, json};

use super::comments::{Comment, Comments};

/// Members of a oneof whose exclusions are spelt out pair by pair.
const PAIRED: usize = 12;
/// Integers in texts: as many digits as always fit.
const INT_32: &str = "^-?[0-9]{1,9}$";
const UINT_32: &str = "^[0-9]{1,9}$";
const INT_64: &str = "^-?[0-9]{1,18}$";
const UINT_64: &str = "^[0-9]{1,19}$";
const NUMBER: &str = "^(-?[0-9]{1,30}(\\.[0-9]{1,30})?|NaN|-?Infinity)$";
/// RFC 4648: either alphabet, with or without padding.
const BASE64: &str = "^(?:[A-Za-z0-9+/_-]{4})*(?:[A-Za-z0-9+/_-]{2}(?:==)?|[A-Za-z0-9+/_-]{3}=?)?$";
const DURATION: &str = "^-?[0-9]{1,11}(\\.[0-9]{1,9})?s$";
const FIELD_MASK: &str = "^([a-z][A-Za-z0-9]*([.,][a-z][A-Za-z0-9]*)*)?$";

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// From the edge: one form of each value.
    Out,
    /// To the edge: every form that it takes.
    In,
}

/// The schemas of all messages that were asked for.
pub(super) struct Schemas<'c> {
    comments: &'c Comments,
    /// By name and way; null while it is being made.
    made: BTreeMap<(String, Way), Value>,
}

impl<'c> Schemas<'c> {
    pub(super) fn new(comments: &'c Comments) -> Self {
        Self { comments, made: BTreeMap::from([(("google.rpc.Status".to_owned(), Way::Out), status())]) }
    }

    /// The `components.schemas` of the document. What only goes in has its plain name.
    pub(super) fn into_components(self) -> Map<String, Value> {
        self.made.into_iter().map(|((name, way), schema)| (component(&name, way), schema)).collect()
    }

    /// The schema of a message: a reference, or what a well-known type is in JSON.
    pub(super) fn message(&mut self, message: &MessageDescriptor, way: Way) -> Value {
        if let Some(known) = self.well_known(message, way) {
            return known;
        }
        let key = (message.full_name().to_owned(), way);
        let reference = json!({ "$ref": format!("#/components/schemas/{}", component(&key.0, way)) });
        if !self.made.contains_key(&key) {
            self.made.insert(key.clone(), Value::Null);
            let schema = self.object(message, way, &[]);
            self.made.insert(key, schema);
        }
        reference
    }

    /// A message written out, without some of its fields: the rest of a request, beside path and query.
    pub(super) fn object(&mut self, message: &MessageDescriptor, way: Way, without: &[FieldDescriptor]) -> Value {
        let comment = self.comments.of(&message.parent_file(), message.path());
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in message.fields().filter(|field| !without.contains(field)) {
            let name = field.json_name().to_owned();
            let behavior = behavior(&field);
            if behavior.contains(&INPUT_ONLY) && way == Way::Out {
                continue;
            }
            if behavior.contains(&REQUIRED) && way == Way::In {
                required.push(name.clone());
            }
            let mut schema = self.field(&field, way);
            if behavior.contains(&OUTPUT_ONLY) {
                schema["readOnly"] = json!(true);
            }
            properties.insert(name, schema);
        }
        let mut schema = json!({ "type": "object", "properties": properties });
        if way == Way::In {
            schema["additionalProperties"] = json!(false);
        }
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        let exclusions: Vec<Value> =
            message.oneofs().filter(|oneof| !oneof.is_synthetic()).flat_map(|oneof| exclude(&oneof)).collect();
        if !exclusions.is_empty() {
            schema["allOf"] = json!(exclusions);
        }
        described(schema, &comment)
    }

    /// A field with its comment.
    pub(super) fn field(&mut self, field: &FieldDescriptor, way: Way) -> Value {
        let null = way == Way::In && !behavior(field).contains(&REQUIRED);
        let schema = if field.is_map() {
            let Kind::Message(entry) = field.kind() else { unreachable!("a map's kind is its entry") };
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            let mut schema = json!({ "type": "object", "additionalProperties": self.value(&value, way, false) });
            if let Some(pattern) = key_pattern(&key.kind()) {
                schema["propertyNames"] = json!({ "pattern": pattern });
            }
            if null { or_null(schema) } else { schema }
        } else if field.is_list() {
            let schema = json!({ "type": "array", "items": self.value(field, way, false) });
            if null { or_null(schema) } else { schema }
        } else {
            self.value(field, way, null)
        };
        let comment = self.comments.of(&field.parent_message().parent_file(), field.path());
        let mut schema = described(schema, &comment);
        if is_deprecated(field) {
            schema["deprecated"] = json!(true);
        }
        schema
    }

    /// One value of a field.
    fn value(&mut self, field: &FieldDescriptor, way: Way, null: bool) -> Value {
        let schema = match field.kind() {
            Kind::Message(message) => self.message(&message, way),
            Kind::Enum(of) => enumeration(&of, way, self.comments),
            kind => scalar(&kind, way),
        };
        if null { or_null(schema) } else { schema }
    }

    /// A value of a query or a path: what stands in a URL is a text, whose form the schema of the value says.
    pub(super) fn parameter(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = match field.kind() {
            Kind::Message(message) => self.message(&message, Way::Out),
            Kind::Enum(of) => enumeration(&of, Way::In, self.comments),
            kind => scalar(&kind, Way::Out),
        };
        for (rule, value) in self.comment(field).schema {
            schema[rule] = value;
        }
        if field.is_list() { json!({ "type": "array", "items": schema }) } else { schema }
    }

    /// The comment of a field.
    pub(super) fn comment(&self, field: &FieldDescriptor) -> Comment {
        self.comments.of(&field.parent_message().parent_file(), field.path())
    }

    fn well_known(&mut self, message: &MessageDescriptor, way: Way) -> Option<Value> {
        Some(match message.full_name() {
            "google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
            "google.protobuf.Duration" => {
                json!({ "type": "string", "pattern": DURATION, "description": "Seconds, as in 3.5s" })
            }
            "google.protobuf.FieldMask" => {
                json!({ "type": "string", "pattern": FIELD_MASK, "description": "Field paths, separated by commas" })
            }
            "google.protobuf.Struct" => json!({ "type": "object", "additionalProperties": true }),
            "google.protobuf.Value" => json!({ "description": "Any JSON value" }),
            "google.protobuf.ListValue" => json!({ "type": "array", "items": {} }),
            "google.protobuf.Empty" if way == Way::In => json!({ "type": "object", "additionalProperties": false }),
            "google.protobuf.Empty" => json!({ "type": "object" }),
            "google.protobuf.Any" => json!({
                "type": "object", "required": ["@type"], "additionalProperties": true,
                "properties": { "@type": { "type": "string", "description": "type.googleapis.com/ and the message's name" } },
            }),
            "google.api.HttpBody" => json!({ "type": "string", "format": "binary" }),
            name if is_wrapper(name) => {
                let value = message.get_field_by_name("value")?;
                or_null(scalar(&value.kind(), way))
            }
            _ => return None,
        })
    }
}

/// Whether a message is a scalar that may be absent.
pub(super) fn is_wrapper(name: &str) -> bool {
    let of = name.strip_prefix("google.protobuf.").and_then(|name| name.strip_suffix("Value"));
    of.is_some_and(|of| {
        ["Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes"].contains(&of)
    })
}

/// Whether a message is one value in JSON, and so can stand in a query.
pub(super) fn is_single(message: &MessageDescriptor) -> bool {
    let name = message.full_name();
    is_wrapper(name)
        || ["google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"].contains(&name)
}

fn component(name: &str, way: Way) -> String {
    match way {
        Way::Out => name.to_owned(),
        Way::In => format!("{name}.In"),
    }
}

fn scalar(kind: &Kind, way: Way) -> Value {
    let sent = way == Way::In;
    let whole = |format: &str, least: i64, most: i64, pattern: &str| {
        let mut schema = json!({ "type": "integer", "format": format, "minimum": least, "maximum": most });
        if sent {
            schema["type"] = json!(["integer", "string"]);
            schema["pattern"] = json!(pattern);
        }
        schema
    };
    let long = |format: &str, pattern: &str| {
        let mut schema = json!({ "type": "string", "format": format, "pattern": pattern });
        if sent {
            schema["type"] = json!(["string", "integer"]);
            // What a number of JSON holds without loss.
            schema["minimum"] = if format == "uint64" { json!(0) } else { json!(-9_007_199_254_740_991_i64) };
            schema["maximum"] = json!(9_007_199_254_740_991_i64);
        }
        schema
    };
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => whole("int32", i32::MIN.into(), i32::MAX.into(), INT_32),
        Kind::Uint32 | Kind::Fixed32 => whole("uint32", 0, u32::MAX.into(), UINT_32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => long("int64", INT_64),
        Kind::Uint64 | Kind::Fixed64 => long("uint64", UINT_64),
        Kind::Double | Kind::Float => {
            let format = if matches!(kind, Kind::Double) { "double" } else { "float" };
            let mut schema = json!({ "type": ["number", "string"], "format": format, "pattern": NUMBER });
            if matches!(kind, Kind::Float) {
                schema["minimum"] = json!(-3.0e38);
                schema["maximum"] = json!(3.0e38);
            }
            if !sent {
                schema["pattern"] = json!("^(NaN|-?Infinity)$");
            }
            schema
        }
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Bytes => json!({ "type": "string", "format": "byte", "pattern": BASE64 }),
        Kind::String | Kind::Message(_) | Kind::Enum(_) => json!({ "type": "string" }),
    }
}

fn enumeration(of: &EnumDescriptor, way: Way, comments: &Comments) -> Value {
    if of.full_name() == "google.protobuf.NullValue" {
        return json!({ "type": "null" });
    }
    let names: Vec<String> = of.values().map(|value| value.name().to_owned()).collect();
    let said: Vec<String> = of
        .values()
        .map(|value| (value.name().to_owned(), comments.of(&of.parent_file(), value.path()).text))
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| format!("- `{name}`: {}", text.replace('\n', " ")))
        .collect();
    let mut schema = json!({ "type": "string", "enum": names });
    if way == Way::In {
        let numbers = json!({ "type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX });
        schema = json!({ "anyOf": [schema, numbers] });
    }
    if !said.is_empty() {
        schema["description"] = json!(said.join("\n"));
    }
    schema
}

/// Null leaves a field as if it were not there.
fn or_null(mut schema: Value) -> Value {
    match schema.get("type").cloned() {
        Some(Value::String(one)) if one != "null" => schema["type"] = json!([one, "null"]),
        Some(Value::Array(mut many)) if !many.contains(&json!("null")) => {
            many.push(json!("null"));
            schema["type"] = Value::Array(many);
        }
        Some(_) => {}
        None if schema.get("$ref").is_some() => schema = json!({ "anyOf": [schema, { "type": "null" }] }),
        None => {
            // Without any schema it is any value, null among them.
            if let Some(any) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
                any.push(json!({ "type": "null" }));
            }
        }
    }
    schema
}

/// Two members of a oneof exclude each other.
fn exclude(oneof: &OneofDescriptor) -> Vec<Value> {
    let names: Vec<String> = oneof.fields().map(|field| field.json_name().to_owned()).collect();
    if names.len() > PAIRED {
        return Vec::new();
    }
    let pairs = names.iter().enumerate().flat_map(|(at, one)| names[at + 1..].iter().map(move |other| [one, other]));
    pairs.map(|pair| json!({ "not": { "required": pair } })).collect()
}

/// The names that a map may have, when its keys are no texts.
fn key_pattern(kind: &Kind) -> Option<&'static str> {
    match kind {
        Kind::String => None,
        Kind::Bool => Some("^(true|false)$"),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Some(INT_32),
        Kind::Uint32 | Kind::Fixed32 => Some(UINT_32),
        Kind::Uint64 | Kind::Fixed64 => Some(UINT_64),
        _ => Some(INT_64),
    }
}

/// A schema with what its author wrote; siblings of `$ref` are allowed since OpenAPI 3.1.
fn described(mut schema: Value, comment: &Comment) -> Value {
    if !comment.text.is_empty() {
        schema["description"] = match schema.get("description").and_then(Value::as_str) {
            Some(own) => json!(format!("{}\n\n{own}", comment.text)),
            None => json!(comment.text),
        };
    }
    for (rule, value) in &comment.schema {
        schema[rule] = value.clone();
    }
    if !comment.examples.is_empty() {
        schema["examples"] = json!(comment.examples);
    }
    schema
}

/// Numbers of google.api.FieldBehavior.
const REQUIRED: i32 = 2;
const OUTPUT_ONLY: i32 = 3;
const INPUT_ONLY: i32 = 4;

fn behavior(field: &FieldDescriptor) -> Vec<i32> {
    let Some(extension) = field.parent_pool().get_extension_by_name("google.api.field_behavior") else {
        return Vec::new();
    };
    let options = field.options();
    let value = options.get_extension(&extension);
    let list = value.as_list().unwrap_or_default();
    list.iter().filter_map(prost_reflect::Value::as_enum_number).collect()
}

fn is_deprecated(field: &FieldDescriptor) -> bool {
    let options = field.options();
    options.get_field_by_name("deprecated").and_then(|value| value.as_bool()).unwrap_or_default()
}

/// google.rpc.Status as the edge writes it.
fn status() -> Value {
    json!({
        "type": "object",
        "description": "An error (google.rpc.Status).",
        "required": ["code", "message", "details"],
        "properties": {
            "code": { "type": "integer", "format": "int32", "description": "The gRPC code: 3 is INVALID_ARGUMENT, 5 NOT_FOUND ..." },
            "message": { "type": "string", "description": "For people; it may change" },
            "details": {
                "type": "array",
                "description": "google.rpc.ErrorInfo with `reason` and `domain`, and what else there is to say, such as BadRequest",
                "items": { "type": "object", "required": ["@type"], "properties": { "@type": { "type": "string" } } },
            },
        },
    })
}
