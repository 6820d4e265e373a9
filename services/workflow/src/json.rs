//! JSON as google.protobuf.Value and back.

use prost_types::{ListValue, Struct, Value as Pb, value::Kind};
use serde_json::{Map, Number, Value};

/// The JSON of a google.protobuf.Value. Its numbers are doubles; one without a fraction becomes an integer again.
pub fn from_pb(value: Pb) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(flag),
        Some(Kind::NumberValue(number)) => from_double(number),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(from_pb).collect()),
        Some(Kind::StructValue(fields)) => from_struct(fields),
    }
}

/// The JSON of a google.protobuf.Struct.
pub fn from_struct(fields: Struct) -> Value {
    Value::Object(fields.fields.into_iter().map(|(key, value)| (key, from_pb(value))).collect())
}

/// The google.protobuf.Value of JSON.
pub fn to_pb(value: Value) -> Pb {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => Kind::ListValue(ListValue { values: items.into_iter().map(to_pb).collect() }),
        Value::Object(fields) => Kind::StructValue(to_struct(fields)),
    };
    Pb { kind: Some(kind) }
}

/// The google.protobuf.Struct of a JSON object.
pub fn to_struct(fields: Map<String, Value>) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key, to_pb(value))).collect() }
}

fn from_double(number: f64) -> Value {
    // Up to 2^53 every integer is a double of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
        return Value::from(number as i64);
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_reads_back() {
        let value = json!({"a": [1, -2.5, null, true, "x"], "b": {"c": 9_007_199_254_740_992_i64}});
        assert_eq!(from_pb(to_pb(value.clone())), value);
    }
}
