//! JSON bodies: read into a message, and when that fails, read again to say which field is wrong.

use std::fmt;

use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, IntoDeserializer, MapAccess, value::MapAccessDeserializer};
use serde_json::{Value as Json, json};

use super::{JSON_DEPTH, text};
use crate::errors::Refusal;

const OPTIONS: DeserializeOptions = DeserializeOptions::new();
/// As many violations as one answer names.
const VIOLATIONS: usize = 20;
/// Messages nest at most this deep on the wire; one JSON level of a Struct takes three of them.
const WIRE_DEPTH: usize = 100 / 3;

/// Reads a body into a message, or into one `field` of it.
pub(super) fn parse(
    message: &MessageDescriptor,
    field: Option<&FieldDescriptor>,
    body: &[u8],
) -> Result<DynamicMessage, Refusal> {
    let depth = depth(body);
    if depth > JSON_DEPTH {
        return Err(too_deep());
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed = match field {
        None => DynamicMessage::deserialize_with_options(message.clone(), &mut json, &OPTIONS),
        Some(field) => {
            let entry = OneField { name: Some(field.name()), value: &mut json };
            DynamicMessage::deserialize_with_options(message.clone(), MapAccessDeserializer::new(entry), &OPTIONS)
        }
    };
    match parsed.and_then(|parsed| json.end().map(|()| parsed)) {
        Ok(parsed) if depth > WIRE_DEPTH && !decodes(message, &parsed) => Err(too_deep()),
        Ok(parsed) => Ok(parsed),
        // The Values and Structs of a body are encoded while it is read, and stop at the depth of the wire.
        Err(why) if depth > WIRE_DEPTH && why.to_string().contains("recursion limit") => Err(too_deep()),
        Err(why) => Err(explain(message, field, body, &why)),
    }
}

fn too_deep() -> Refusal {
    Refusal::invalid("JSON_TOO_DEEP", "", "the body is nested too deeply")
}

fn decodes(descriptor: &MessageDescriptor, message: &DynamicMessage) -> bool {
    use prost::Message;
    DynamicMessage::decode(descriptor.clone(), message.encode_to_vec().as_slice()).is_ok()
}

/// How deep the brackets of a JSON text nest, strings aside.
fn depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut string, mut escaped) = (0_usize, 0, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if string => escaped = true,
            b'"' => string = !string,
            b'{' | b'[' if !string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A JSON object of one entry, whose value is read from a text: that text cannot add another.
struct OneField<'a, 'j, R> {
    name: Option<&'a str>,
    value: &'j mut serde_json::Deserializer<R>,
}

impl<'de, R: serde_json::de::Read<'de>> MapAccess<'de> for OneField<'_, '_, R> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        self.name.take().map(|name| seed.deserialize(name.into_deserializer())).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Self::Error> {
        seed.deserialize(&mut *self.value)
    }
}

/// Says which fields of a body are wrong.
fn explain(
    message: &MessageDescriptor,
    field: Option<&FieldDescriptor>,
    body: &[u8],
    why: &serde_json::Error,
) -> Refusal {
    let json: Json = match serde_json::from_slice(body) {
        Ok(json) => json,
        Err(why) => {
            let place = format!("line {} column {}", why.line(), why.column());
            return Refusal::invalid("INVALID_JSON", "", format!("the body is not JSON, see {place}"));
        }
    };
    let mut faults = Faults { violations: Vec::new(), unknown: false };
    match field {
        None => faults.message(message, &json, ""),
        Some(field) => faults.field(message, field, &json, field.json_name()),
    }
    if faults.violations.is_empty() {
        // Two members of a oneof: the one fault that no field shows by itself.
        faults.violations.push((String::new(), Reworded(why).to_string()));
    }
    Refusal::invalid_fields(if faults.unknown { "UNKNOWN_FIELD" } else { "INVALID_FIELD" }, faults.violations)
}

/// serde_json's message without its place, which the OneField reader has shifted.
struct Reworded<'a>(&'a serde_json::Error);

impl fmt::Display for Reworded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        f.write_str(text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message))
    }
}

struct Faults {
    violations: Vec<(String, String)>,
    /// Whether the first violation is a field that is not known.
    unknown: bool,
}

impl Faults {
    fn message(&mut self, message: &MessageDescriptor, json: &Json, path: &str) {
        if message.full_name().starts_with("google.protobuf.") {
            let parsed = DynamicMessage::deserialize_with_options(message.clone(), json, &OPTIONS);
            if parsed.is_err() {
                self.add(path, text::expects(&Kind::Message(message.clone())));
            }
            return;
        }
        let Some(object) = json.as_object() else { return self.add(path, "must be an object".to_owned()) };
        for (key, value) in object {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match message.get_field_by_json_name(key).or_else(|| message.get_field_by_name(key)) {
                Some(field) => self.field(message, &field, value, &path),
                None => {
                    self.unknown |= self.violations.is_empty();
                    self.add(&path, "is not a field".to_owned());
                }
            }
        }
    }

    fn field(&mut self, parent: &MessageDescriptor, field: &FieldDescriptor, json: &Json, path: &str) {
        let (name, kind) = (field.name(), field.kind());
        if json.is_null() || self.violations.len() >= VIOLATIONS {
            return;
        }
        if let Some(entry) = kind.as_message().filter(|_| field.is_map()) {
            let Some(entries) = json.as_object() else { return self.add(path, "must be an object".to_owned()) };
            let (key_kind, value_kind) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
            for (key, value) in entries {
                let path = format!("{path}.{key}");
                if text::parse(&key_kind, key).is_none() {
                    self.add(&path, format!("as a key {}", text::expects(&key_kind)));
                }
                self.value(parent, &value_kind, value, &path, &|value| json!({ name: { key: value } }));
            }
        } else if field.is_list() {
            let Some(items) = json.as_array() else { return self.add(path, "must be an array".to_owned()) };
            for (index, value) in items.iter().enumerate() {
                self.value(parent, &kind, value, &format!("{path}[{index}]"), &|value| json!({ name: [value] }));
            }
        } else {
            self.value(parent, &kind, json, path, &|value| json!({ name: value }));
        }
    }

    /// `entry` makes the parent's JSON with nothing but this value in it.
    fn value(
        &mut self,
        parent: &MessageDescriptor,
        kind: &Kind,
        json: &Json,
        path: &str,
        entry: &dyn Fn(&Json) -> Json,
    ) {
        match kind {
            Kind::Message(message) => self.message(message, json, path),
            _ if self.violations.len() >= VIOLATIONS => {}
            _ if DynamicMessage::deserialize_with_options(parent.clone(), &entry(json), &OPTIONS).is_err() => {
                self.add(path, text::expects(kind));
            }
            _ => {}
        }
    }

    fn add(&mut self, path: &str, why: String) {
        if self.violations.len() < VIOLATIONS {
            self.violations.push((path.to_owned(), why));
        }
    }
}
