//! Single values as text: what stands in a path or a query.

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost_reflect::{DeserializeOptions, DynamicMessage, EnumDescriptor, Kind, MessageDescriptor, Value};
use serde::de::{IntoDeserializer, value::Error};

const BASE64: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);
/// As many names of an enum as an error message lists.
const NAMES_SHOWN: usize = 12;

/// Whether values of this kind can be written as text: scalars, enums, wrappers, Timestamp, Duration and FieldMask.
pub(super) fn is_leaf(kind: &Kind) -> bool {
    match kind {
        Kind::Message(message) => wrapped(message).is_some() || is_text(message),
        _ => true,
    }
}

/// Reads a value as the proto3 JSON mapping writes it, without the quotes.
pub(super) fn parse(kind: &Kind, text: &str) -> Option<Value> {
    Some(match kind {
        Kind::String => Value::String(text.to_owned()),
        Kind::Bool => Value::Bool(text.parse().ok()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(text.parse().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(text.parse().ok()?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(text.parse().ok()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(text.parse().ok()?),
        Kind::Double => Value::F64(double(text)?),
        Kind::Float => {
            let wide = double(text)?;
            #[expect(clippy::cast_possible_truncation, reason = "the range is checked right after")]
            let narrow = wide as f32;
            (narrow.is_finite() || !wide.is_finite()).then_some(Value::F32(narrow))?
        }
        Kind::Bytes => {
            let alphabet = if text.contains(['-', '_']) { URL_SAFE } else { STANDARD };
            Value::Bytes(GeneralPurpose::new(&alphabet, BASE64).decode(text).ok()?.into())
        }
        Kind::Enum(values) => {
            let named = values.get_value_by_name(text).map(|value| value.number());
            Value::EnumNumber(named.or_else(|| text.parse().ok())?)
        }
        Kind::Message(message) => Value::Message(parse_message(message, text)?),
    })
}

fn parse_message(descriptor: &MessageDescriptor, text: &str) -> Option<DynamicMessage> {
    if let Some(inner) = wrapped(descriptor) {
        let mut message = DynamicMessage::new(descriptor.clone());
        message.set_field_by_number(1, parse(&inner, text)?);
        return Some(message);
    }
    if !is_text(descriptor) {
        return None;
    }
    let text = IntoDeserializer::<Error>::into_deserializer(text);
    DynamicMessage::deserialize_with_options(descriptor.clone(), text, &DeserializeOptions::new()).ok()
}

/// JSON numbers, `NaN`, `Infinity` and `-Infinity`; none of the other spellings that Rust reads.
fn double(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ if text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) => {
            text.parse().ok().filter(|value: &f64| value.is_finite())
        }
        _ => None,
    }
}

/// What a value of this kind must be, for a field violation; never what was sent, which may be a secret.
pub(super) fn expects(kind: &Kind) -> String {
    match kind {
        Kind::String => "must be a string".into(),
        Kind::Bool => "must be true or false".into(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "must be a 32-bit integer".into(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => "must be a 64-bit integer".into(),
        Kind::Uint32 | Kind::Fixed32 => "must be a 32-bit integer that is not negative".into(),
        Kind::Uint64 | Kind::Fixed64 => "must be a 64-bit integer that is not negative".into(),
        Kind::Double => "must be a number, NaN, Infinity or -Infinity".into(),
        Kind::Float => "must be a 32-bit number, NaN, Infinity or -Infinity".into(),
        Kind::Bytes => "must be base64".into(),
        Kind::Enum(values) => expects_enum(values),
        Kind::Message(message) => match (wrapped(message), message.full_name()) {
            (Some(inner), _) => expects(&inner),
            (_, "google.protobuf.Timestamp") => "must be an RFC 3339 time like 2026-01-31T12:00:00Z".into(),
            (_, "google.protobuf.Duration") => "must be seconds like 1.5s".into(),
            (_, "google.protobuf.FieldMask") => "must be field paths in lowerCamelCase, separated by commas".into(),
            (_, "google.protobuf.Any") => "must be an object with a known @type".into(),
            (_, "google.protobuf.ListValue") => "must be an array".into(),
            _ => "must be an object".into(),
        },
    }
}

fn expects_enum(values: &EnumDescriptor) -> String {
    let names: Vec<_> = values.values().take(NAMES_SHOWN).map(|value| value.name().to_owned()).collect();
    let more = if values.values().len() > NAMES_SHOWN { " ..." } else { "" };
    format!("must be one of {}{more}", names.join(", "))
}

/// The kind inside a wrapper message.
fn wrapped(message: &MessageDescriptor) -> Option<Kind> {
    let name = message.full_name().strip_prefix("google.protobuf.")?.strip_suffix("Value")?;
    let wrapper = ["Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes"].contains(&name);
    if wrapper { Some(message.get_field(1)?.kind()) } else { None }
}

fn is_text(message: &MessageDescriptor) -> bool {
    matches!(
        message.full_name(),
        "google.protobuf.Timestamp" | "google.protobuf.Duration" | "google.protobuf.FieldMask"
    )
}
