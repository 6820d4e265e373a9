//! Wire bytes to JSON without a message between them: the proto3 mapping, with default values.
//!
//! Whole numbers are written as such: a google.protobuf.Value has doubles only, and what came in as 1 goes out as 1.

mod known;

use std::io;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::ser::{CompactFormatter, Formatter};

use super::{
    plan::{Field, Form, Kind, Label, Plans},
    wire::{self, DEPTH, LENGTH, Wire},
};

/// Whole numbers up to here are exact in a double, and are written without a point.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Writes messages of one set of plans.
pub(super) struct Writer<'p> {
    plans: &'p Plans,
    pub(super) out: Vec<u8>,
    /// Where the fields of the messages that are being written stand; a message takes its part from the end.
    spans: Vec<Span>,
}

/// Where a field stands in its message.
#[derive(Debug, Clone, Copy)]
struct Span {
    first: usize,
    last: usize,
    count: usize,
}

const NOWHERE: Span = Span { first: 0, last: 0, count: 0 };

/// A message that has no JSON form, or is none.
#[derive(Debug)]
pub(super) struct Broken;

type Written = Result<(), Broken>;

impl<'p> Writer<'p> {
    pub(super) fn new(plans: &'p Plans, capacity: usize) -> Self {
        Self { plans, out: Vec::with_capacity(capacity), spans: Vec::with_capacity(32) }
    }

    /// Writes the message that the plans begin with.
    pub(super) fn root(&mut self, data: &[u8]) -> Written {
        self.message(0, data, 0)
    }

    /// Writes the value of one field of it.
    pub(super) fn root_field(&mut self, field: usize, data: &[u8]) -> Written {
        let base = self.look(0, data)?;
        let span = self.spans[base + field];
        self.spans.truncate(base);
        let plans = self.plans;
        let field = &plans.messages[0].fields[field];
        self.field_value(field, span, data, 0)
    }

    fn message(&mut self, plan: usize, data: &[u8], depth: usize) -> Written {
        if depth > DEPTH {
            return Err(Broken);
        }
        match self.plans.messages[plan].form {
            Form::Fields => {
                self.out.push(b'{');
                self.members(plan, data, depth, true)?;
                self.out.push(b'}');
                Ok(())
            }
            Form::Wrapper => self.root_of(plan, data, depth),
            Form::Timestamp | Form::Duration => self.time(plan, data),
            Form::FieldMask => self.mask(data),
            Form::Struct => self.structure(data, depth),
            Form::Value => self.value(data, depth),
            Form::List => self.list(data, depth),
            Form::Any => self.any(data, depth),
        }
    }

    /// Finds where each field stands. The caller takes the spans away again.
    fn look(&mut self, plan: usize, data: &[u8]) -> Result<usize, Broken> {
        let plan = &self.plans.messages[plan];
        let base = self.spans.len();
        self.spans.resize(base + plan.fields.len(), NOWHERE);
        let (mut wire, mut guess) = (Wire::new(data), 0);
        while !wire.is_end() {
            let at = wire.at;
            let (number, form) = wire.tag().ok_or(Broken)?;
            if let Some(field) = plan.by_number(number, guess) {
                if !fits(&plan.fields[field], form) {
                    return Err(Broken);
                }
                let span = &mut self.spans[base + field];
                if span.count == 0 {
                    span.first = at;
                }
                span.last = at;
                span.count += 1;
                guess = field + usize::from(matches!(plan.fields[field].label, Label::Single));
            }
            wire.skip(number, form).ok_or(Broken)?;
        }
        Ok(base)
    }

    /// Writes the members of an object.
    fn members(&mut self, plan: usize, data: &[u8], depth: usize, mut first: bool) -> Written {
        let base = self.look(plan, data)?;
        let plan = &self.plans.messages[plan];
        for (at, field) in plan.fields.iter().enumerate() {
            let span = self.spans[base + at];
            if span.count == 0 && (field.presence || field.is_extension) {
                continue;
            }
            // Of a oneof the last member counts.
            let outdone = |(other, of): (usize, &Field)| {
                of.oneof == field.oneof
                    && self.spans[base + other].count > 0
                    && self.spans[base + other].last > span.last
            };
            if field.oneof.is_some() && plan.fields.iter().enumerate().any(outdone) {
                continue;
            }
            if !first {
                self.out.push(b',');
            }
            first = false;
            self.out.extend_from_slice(field.key.as_bytes());
            self.field_value(field, span, data, depth)?;
        }
        self.spans.truncate(base);
        Ok(())
    }

    fn field_value(&mut self, field: &Field, span: Span, data: &[u8], depth: usize) -> Written {
        match &field.label {
            Label::Single if span.count == 0 => {
                self.default(field);
                Ok(())
            }
            Label::Single => self.single(field, span, data, depth),
            Label::List { .. } => {
                self.out.push(b'[');
                let mut first = true;
                self.each(field.number, span, data, |this, form, wire| {
                    if form == LENGTH && field.kind.form() != LENGTH {
                        let mut packed = Wire::new(wire.bytes().ok_or(Broken)?);
                        while !packed.is_end() {
                            this.comma(&mut first);
                            this.scalar(field.kind, &mut packed)?;
                        }
                        return Ok(());
                    }
                    this.comma(&mut first);
                    this.one(field, wire, depth)
                })?;
                self.out.push(b']');
                Ok(())
            }
            Label::Map(entry) => {
                let mut entries = Vec::with_capacity(span.count);
                self.each(field.number, span, data, |_, _, wire| {
                    entries.push(wire.bytes().ok_or(Broken)?);
                    Ok(())
                })?;
                self.map(&entry.0, &entry.1, &entries, depth)
            }
        }
    }

    /// Visits each value of a field, between its first and its last place.
    fn each<'d>(
        &mut self,
        number: u32,
        span: Span,
        data: &'d [u8],
        mut visit: impl FnMut(&mut Self, u8, &mut Wire<'d>) -> Written,
    ) -> Written {
        if span.count == 0 {
            return Ok(());
        }
        let mut wire = Wire::from(data, span.first);
        while wire.at <= span.last {
            let (found, form) = wire.tag().ok_or(Broken)?;
            if found == number {
                visit(self, form, &mut wire)?;
            } else {
                wire.skip(found, form).ok_or(Broken)?;
            }
        }
        Ok(())
    }

    fn single(&mut self, field: &Field, span: Span, data: &[u8], depth: usize) -> Written {
        if span.count > 1
            && let Kind::Message { plan, .. } = field.kind
        {
            // Messages that come in parts are one, which is what their bytes are when they stand behind each other.
            let mut whole = Vec::new();
            self.each(field.number, span, data, |_, form, wire| {
                let part = if form == LENGTH { wire.bytes() } else { wire.group(field.number) };
                whole.extend_from_slice(part.ok_or(Broken)?);
                Ok(())
            })?;
            return self.message(plan, &whole, depth + 1);
        }
        let mut wire = Wire::from(data, span.last);
        wire.tag().ok_or(Broken)?;
        self.one(field, &mut wire, depth)
    }

    /// Writes one value whose tag was read.
    fn one(&mut self, field: &Field, wire: &mut Wire<'_>, depth: usize) -> Written {
        match field.kind {
            Kind::Message { plan, group } => {
                let data = if group { wire.group(field.number) } else { wire.bytes() };
                self.message(plan, data.ok_or(Broken)?, depth + 1)
            }
            kind => self.scalar(kind, wire),
        }
    }

    fn scalar(&mut self, kind: Kind, wire: &mut Wire<'_>) -> Written {
        match kind {
            Kind::String => {
                let text = std::str::from_utf8(wire.bytes().ok_or(Broken)?).map_err(|_| Broken)?;
                string(&mut self.out, text);
            }
            Kind::Bytes => {
                let bytes = wire.bytes().ok_or(Broken)?;
                self.base64(bytes);
            }
            Kind::Double => self.double(f64::from_le_bytes(wire.fixed64().ok_or(Broken)?)),
            Kind::Float => self.float(f32::from_le_bytes(wire.fixed32().ok_or(Broken)?)),
            Kind::Fixed32 => self.unsigned(u32::from_le_bytes(wire.fixed32().ok_or(Broken)?).into()),
            Kind::Sfixed32 => self.signed(i32::from_le_bytes(wire.fixed32().ok_or(Broken)?).into()),
            Kind::Fixed64 => {
                self.quoted(Self::unsigned, u64::from_le_bytes(wire.fixed64().ok_or(Broken)?));
            }
            Kind::Sfixed64 => {
                self.quoted(Self::signed, i64::from_le_bytes(wire.fixed64().ok_or(Broken)?));
            }
            _ => {
                let value = wire.varint().ok_or(Broken)?;
                self.varint(kind, value);
            }
        }
        Ok(())
    }

    fn varint(&mut self, kind: Kind, value: u64) {
        match kind {
            Kind::Bool => self.out.extend_from_slice(if value == 0 { b"false" } else { b"true" }),
            Kind::Int32 => self.signed((value as i32).into()),
            Kind::Uint32 => self.unsigned((value as u32).into()),
            Kind::Sint32 => self.signed((wire::unzigzag(u64::from(value as u32)) as i32).into()),
            Kind::Int64 => self.quoted(Self::signed, value.cast_signed()),
            Kind::Sint64 => self.quoted(Self::signed, wire::unzigzag(value)),
            Kind::Enum(names) => {
                let (plans, number) = (self.plans, value as i32);
                let names = &plans.enums[names];
                match names.name(number) {
                    _ if names.is_null => self.out.extend_from_slice(b"null"),
                    Some(name) => string(&mut self.out, name),
                    None => self.signed(number.into()),
                }
            }
            _ => self.quoted(Self::unsigned, value),
        }
    }

    /// What a field has that was never set.
    fn default(&mut self, field: &Field) {
        match field.kind {
            Kind::Message { .. } => self.out.extend_from_slice(b"null"),
            Kind::String | Kind::Bytes => self.out.extend_from_slice(b"\"\""),
            Kind::Double | Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => self.out.push(b'0'),
            Kind::Fixed64 | Kind::Sfixed64 => self.out.extend_from_slice(b"\"0\""),
            kind => {
                let number = match &field.declared {
                    prost_reflect::Kind::Enum(names) => names.default_value().number(),
                    _ => 0,
                };
                self.varint(kind, i64::from(number).cast_unsigned());
            }
        }
    }

    /// Writes the entries of a map; of several with one key the last counts.
    fn map(&mut self, key: &Field, value: &Field, entries: &[&[u8]], depth: usize) -> Written {
        self.out.push(b'{');
        let mut starts: Vec<(usize, usize)> = Vec::with_capacity(entries.len());
        for entry in entries {
            let (mut key_at, mut value_at) = (NOWHERE, NOWHERE);
            let mut wire = Wire::new(entry);
            while !wire.is_end() {
                let at = wire.at;
                let (number, form) = wire.tag().ok_or(Broken)?;
                let (span, field) = match number {
                    1 => (&mut key_at, Some(key)),
                    2 => (&mut value_at, Some(value)),
                    _ => (&mut NOWHERE.clone(), None),
                };
                if field.is_some_and(|field| !fits(field, form)) {
                    return Err(Broken);
                }
                *span = Span { first: if span.count == 0 { at } else { span.first }, last: at, count: span.count + 1 };
                wire.skip(number, form).ok_or(Broken)?;
            }
            let start = self.out.len();
            self.key(key, key_at, entry, depth)?;
            starts.push((start, self.out.len()));
            self.out.push(b':');
            if value_at.count == 0
                && let Kind::Message { plan, .. } = value.kind
            {
                self.message(plan, &[], depth + 2)?;
            } else {
                self.field_value(value, value_at, entry, depth + 1)?;
            }
            self.out.push(b',');
        }
        self.close(&starts);
        Ok(())
    }

    fn key(&mut self, key: &Field, span: Span, entry: &[u8], depth: usize) -> Written {
        let start = self.out.len();
        self.field_value(key, span, entry, depth)?;
        if self.out[start] != b'"' {
            self.out.insert(start, b'"');
            self.out.push(b'"');
        }
        Ok(())
    }

    /// Takes away entries whose key comes again, and the last comma.
    fn close(&mut self, keys: &[(usize, usize)]) {
        if keys.len() > 1 {
            let mut known = std::collections::HashSet::with_capacity(keys.len());
            let again: Vec<usize> =
                (0..keys.len()).rev().filter(|at| !known.insert(&self.out[keys[*at].0..keys[*at].1])).collect();
            let ends: Vec<usize> =
                again.iter().map(|at| keys.get(at + 1).map_or(self.out.len(), |next| next.0)).collect();
            // From the end, so that what stands before keeps its place.
            for (at, end) in again.into_iter().zip(ends) {
                self.out.drain(keys[at].0..end);
            }
        }
        if keys.is_empty() {
            self.out.push(b'}');
        } else if let Some(last) = self.out.last_mut() {
            *last = b'}';
        }
    }

    fn comma(&mut self, first: &mut bool) {
        if !*first {
            self.out.push(b',');
        }
        *first = false;
    }

    fn signed(&mut self, value: i64) {
        written(&CompactFormatter.write_i64(&mut self.out, value));
    }

    fn unsigned(&mut self, value: u64) {
        written(&CompactFormatter.write_u64(&mut self.out, value));
    }

    /// 64-bit integers are strings: a JSON number is a double to most readers.
    fn quoted<T>(&mut self, write: impl FnOnce(&mut Self, T), value: T) {
        self.out.push(b'"');
        write(self, value);
        self.out.push(b'"');
    }

    fn double(&mut self, value: f64) {
        if !value.is_finite() {
            return self.not_a_number(value.is_nan(), value > 0.0);
        }
        if value.fract() == 0.0 && value.abs() < EXACT && !(value == 0.0 && value.is_sign_negative()) {
            return self.signed(value as i64);
        }
        written(&CompactFormatter.write_f64(&mut self.out, value));
    }

    fn float(&mut self, value: f32) {
        if !value.is_finite() {
            return self.not_a_number(value.is_nan(), value > 0.0);
        }
        if value == 0.0 && value.is_sign_positive() {
            return self.out.push(b'0');
        }
        written(&CompactFormatter.write_f32(&mut self.out, value));
    }

    fn not_a_number(&mut self, nan: bool, positive: bool) {
        let name: &[u8] = if nan {
            b"\"NaN\""
        } else if positive {
            b"\"Infinity\""
        } else {
            b"\"-Infinity\""
        };
        self.out.extend_from_slice(name);
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        let start = self.out.len();
        self.out.resize(start + bytes.len().div_ceil(3) * 4, 0);
        let length =
            BASE64_STANDARD.encode_slice(bytes, &mut self.out[start..]).expect("there is room for four of three");
        self.out.truncate(start + length);
        self.out.push(b'"');
    }
}

/// Writing to memory does not fail.
fn written(result: &io::Result<()>) {
    debug_assert!(result.is_ok());
}

fn fits(field: &Field, form: u8) -> bool {
    let own = field.kind.form();
    form == own || (form == LENGTH && matches!(field.label, Label::List { .. }) && own != wire::GROUP)
}

/// Writes a JSON string.
fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut start = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[start..at]);
        start = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            control => out.extend_from_slice(format!("\\u{control:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&bytes[start..]);
    out.push(b'"');
}
