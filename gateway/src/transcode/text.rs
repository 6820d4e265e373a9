//! Single values as text: which can be, and what they must look like.

use prost_reflect::{EnumDescriptor, Kind, MessageDescriptor};

/// As many names of an enum as an error message lists.
const NAMES_SHOWN: usize = 12;

/// Whether values of this kind can be written as text: scalars, enums, wrappers, Timestamp, Duration and FieldMask.
pub(super) fn is_leaf(kind: &Kind) -> bool {
    match kind {
        Kind::Message(message) => wrapped(message).is_some() || is_text(message),
        _ => true,
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
