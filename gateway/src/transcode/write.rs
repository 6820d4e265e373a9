//! Messages as JSON: the proto3 mapping, with default values, and whole numbers written as such.

use std::io;

use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage, SerializeOptions, Value};
use serde::ser::Error as _;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// Whole numbers up to here are exact in a double, and are written without a point.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// As serde_json writes, but `1` for 1.0: a google.protobuf.Value has doubles only, and what came in as 1 goes out as 1.
struct Whole;

impl Formatter for Whole {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        if value.fract() == 0.0 && value.abs() < EXACT && !(value == 0.0 && value.is_sign_negative()) {
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and below 2^53")]
            return CompactFormatter.write_i64(writer, value as i64);
        }
        CompactFormatter.write_f64(writer, value)
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        if value == 0.0 && value.is_sign_positive() {
            return writer.write_all(b"0");
        }
        CompactFormatter.write_f32(writer, value)
    }
}

/// Writes a message.
pub(super) fn message(json: &mut Vec<u8>, message: &DynamicMessage) -> Result<(), serde_json::Error> {
    message.serialize_with_options(&mut Serializer::with_formatter(json, Whole), &options())
}

/// Writes the value of one field of a message.
pub(super) fn field(json: &mut Vec<u8>, of: &DynamicMessage, field: &FieldDescriptor) -> Result<(), serde_json::Error> {
    let value = of.get_field(field);
    if let Value::Message(inner) = value.as_ref() {
        return message(json, inner);
    }
    // A value has no serializer of its own; a message of nothing else has.
    let mut alone = DynamicMessage::new(of.descriptor());
    alone.set_field(field, value.into_owned());
    let object = alone.serialize_with_options(serde_json::value::Serializer, &options())?;
    let value = object.get(field.json_name()).ok_or_else(|| serde_json::Error::custom("the field has no value"))?;
    serde::Serialize::serialize(value, &mut Serializer::with_formatter(json, Whole))
}

fn options() -> SerializeOptions {
    SerializeOptions::new().skip_default_fields(false)
}
