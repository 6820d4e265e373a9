//! Single values as text, written to the wire: what stands in a path, a query, a key or a JSON string.

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{
    known::put_time,
    number::{integer, is_double},
};
use crate::transcode::{
    known,
    plan::{Field, Form, Kind, Plans},
    wire::{self, LENGTH},
};

const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, CONFIG);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, CONFIG);

/// Writes a field that a path or a query names, with its tag; whether it could be read.
pub(in crate::transcode) fn put(plans: &Plans, field: &Field, text: &str, out: &mut Vec<u8>) -> bool {
    wire::put_tag(out, field.number, field.kind.form());
    let Kind::Message { plan, .. } = field.kind else { return put_text(plans, field.kind, text, out) };
    let start = wire::begin(out);
    let done = match plans.messages[plan].form {
        Form::Wrapper => put(plans, &plans.messages[plan].fields[0], text, out).then_some(()),
        Form::Timestamp => known::timestamp(text).map(|time| put_time(out, time)),
        Form::Duration => known::duration(text).map(|time| put_time(out, time)),
        Form::FieldMask => put_mask(text, out),
        _ => None,
    };
    wire::end(out, start);
    done.is_some()
}

/// Writes a value that is no message, without its tag.
pub(super) fn put_text(plans: &Plans, kind: Kind, text: &str, out: &mut Vec<u8>) -> bool {
    match kind {
        Kind::String => {
            wire::put_bytes(out, text.as_bytes());
            true
        }
        Kind::Bytes => put_base64(text, out),
        Kind::Bool => {
            out.push(u8::from(text == "true"));
            matches!(text, "true" | "false")
        }
        Kind::Enum(names) => put_name(plans, names, text, out) || put_number(kind, text, out),
        _ => put_number(kind, text, out),
    }
}

pub(super) fn put_name(plans: &Plans, names: usize, text: &str, out: &mut Vec<u8>) -> bool {
    let value = plans.enums[names].descriptor.get_value_by_name(text);
    value.map(|value| wire::put_varint(out, i64::from(value.number()).cast_unsigned())).is_some()
}

/// Both alphabets, with padding or without.
pub(super) fn put_base64(text: &str, out: &mut Vec<u8>) -> bool {
    let engine = if text.contains(['-', '_']) { &BASE64_URL } else { &BASE64 };
    let start = wire::begin(out);
    let decoded = engine.decode_vec(text, out).is_ok();
    wire::end(out, start);
    decoded
}

pub(super) fn put_mask(text: &str, out: &mut Vec<u8>) -> Option<()> {
    for path in known::field_mask(text)? {
        wire::put_tag(out, 1, LENGTH);
        wire::put_bytes(out, path.as_bytes());
    }
    Some(())
}

/// Writes a number that is in range.
pub(super) fn put_number(kind: Kind, text: &str, out: &mut Vec<u8>) -> bool {
    // Infinite by name only: a number that has become so was out of range.
    let named = text.ends_with(['y', 'N']);
    let done = match kind {
        Kind::Double => is_double(text)
            .then(|| text.parse::<f64>().ok())
            .flatten()
            .filter(|value| named || value.is_finite())
            .map(|value| out.extend_from_slice(&value.to_le_bytes())),
        Kind::Float => is_double(text)
            .then(|| text.parse::<f32>().ok())
            .flatten()
            .filter(|value| named || value.is_finite())
            .map(|value| out.extend_from_slice(&value.to_le_bytes())),
        _ => integer(text).and_then(|value| put_integer(out, kind, value)),
    };
    done.is_some()
}

fn put_integer(out: &mut Vec<u8>, kind: Kind, value: i128) -> Option<()> {
    let signed = |value: i128| i32::try_from(value).ok();
    match kind {
        Kind::Int32 | Kind::Enum(_) => wire::put_varint(out, i64::from(signed(value)?).cast_unsigned()),
        Kind::Sint32 => wire::put_varint(out, u64::from(wire::zigzag(signed(value)?.into()) as u32)),
        Kind::Sfixed32 => out.extend_from_slice(&signed(value)?.to_le_bytes()),
        Kind::Uint32 => wire::put_varint(out, u32::try_from(value).ok()?.into()),
        Kind::Fixed32 => out.extend_from_slice(&u32::try_from(value).ok()?.to_le_bytes()),
        Kind::Int64 => wire::put_varint(out, i64::try_from(value).ok()?.cast_unsigned()),
        Kind::Sint64 => wire::put_varint(out, wire::zigzag(i64::try_from(value).ok()?)),
        Kind::Sfixed64 => out.extend_from_slice(&i64::try_from(value).ok()?.to_le_bytes()),
        Kind::Uint64 => wire::put_varint(out, u64::try_from(value).ok()?),
        Kind::Fixed64 => out.extend_from_slice(&u64::try_from(value).ok()?.to_le_bytes()),
        _ => return None,
    }
    Some(())
}
