//! Messages of google.protobuf that have a JSON form of their own, written.

use super::{Broken, Writer, Written, string};
use crate::transcode::{
    known,
    plan::{Form, Kind},
    wire::{self, DEPTH, LENGTH, Wire},
};

impl Writer<'_> {
    /// A wrapper is its value.
    pub(super) fn root_of(&mut self, plan: usize, data: &[u8], depth: usize) -> Written {
        let base = self.look(plan, data)?;
        let span = self.spans[base];
        self.spans.truncate(base);
        let plans = self.plans;
        self.field_value(&plans.messages[plan].fields[0], span, data, depth)
    }

    pub(super) fn time(&mut self, plan: usize, data: &[u8]) -> Written {
        let (mut seconds, mut nanos, mut wire) = (0, 0, Wire::new(data));
        while !wire.is_end() {
            match wire.tag().ok_or(Broken)? {
                (1, wire::VARINT) => seconds = wire.varint().ok_or(Broken)?.cast_signed(),
                (2, wire::VARINT) => nanos = wire.varint().ok_or(Broken)? as i32,
                (number, form) => wire.skip(number, form).ok_or(Broken)?,
            }
        }
        self.out.push(b'"');
        let written = match self.plans.messages[plan].form {
            Form::Timestamp => known::write_timestamp(&mut self.out, seconds, nanos),
            _ => known::write_duration(&mut self.out, seconds, nanos),
        };
        self.out.push(b'"');
        written.ok_or(Broken)
    }

    pub(super) fn mask(&mut self, data: &[u8]) -> Written {
        let (mut wire, mut paths) = (Wire::new(data), Vec::new());
        while !wire.is_end() {
            match wire.tag().ok_or(Broken)? {
                (1, LENGTH) => {
                    let path = std::str::from_utf8(wire.bytes().ok_or(Broken)?).map_err(|_| Broken)?;
                    paths.push(known::mask_path(path).ok_or(Broken)?);
                }
                (number, form) => wire.skip(number, form).ok_or(Broken)?,
            }
        }
        string(&mut self.out, &paths.join(","));
        Ok(())
    }

    pub(super) fn structure(&mut self, data: &[u8], depth: usize) -> Written {
        if depth > DEPTH {
            return Err(Broken);
        }
        self.out.push(b'{');
        let (mut wire, mut keys) = (Wire::new(data), Vec::new());
        while !wire.is_end() {
            let (1, LENGTH) = wire.tag().ok_or(Broken)? else { return Err(Broken) };
            let mut entry = Wire::new(wire.bytes().ok_or(Broken)?);
            let (mut key, mut value) = ("", &[][..]);
            while !entry.is_end() {
                match entry.tag().ok_or(Broken)? {
                    (1, LENGTH) => key = std::str::from_utf8(entry.bytes().ok_or(Broken)?).map_err(|_| Broken)?,
                    (2, LENGTH) => value = entry.bytes().ok_or(Broken)?,
                    (number, form) => entry.skip(number, form).ok_or(Broken)?,
                }
            }
            let start = self.out.len();
            string(&mut self.out, key);
            keys.push((start, self.out.len()));
            self.out.push(b':');
            self.value(value, depth + 2)?;
            self.out.push(b',');
        }
        self.close(&keys);
        Ok(())
    }

    pub(super) fn list(&mut self, data: &[u8], depth: usize) -> Written {
        if depth > DEPTH {
            return Err(Broken);
        }
        self.out.push(b'[');
        let (mut wire, mut first) = (Wire::new(data), true);
        while !wire.is_end() {
            let (1, LENGTH) = wire.tag().ok_or(Broken)? else { return Err(Broken) };
            self.comma(&mut first);
            self.value(wire.bytes().ok_or(Broken)?, depth + 1)?;
        }
        self.out.push(b']');
        Ok(())
    }

    pub(super) fn value(&mut self, data: &[u8], depth: usize) -> Written {
        let (mut wire, start) = (Wire::new(data), self.out.len());
        self.out.extend_from_slice(b"null");
        while !wire.is_end() {
            let (number, form) = wire.tag().ok_or(Broken)?;
            if (1..=6).contains(&number) {
                // The last of the oneof counts.
                self.out.truncate(start);
            }
            match (number, form) {
                (1, wire::VARINT) => {
                    wire.varint().ok_or(Broken)?;
                    self.out.extend_from_slice(b"null");
                }
                (2, wire::FIXED64) => {
                    let value = f64::from_le_bytes(wire.fixed64().ok_or(Broken)?);
                    if !value.is_finite() {
                        return Err(Broken);
                    }
                    self.double(value);
                }
                (3, LENGTH) => self.scalar(Kind::String, &mut wire)?,
                (4, wire::VARINT) => self.scalar(Kind::Bool, &mut wire)?,
                (5, LENGTH) => self.structure(wire.bytes().ok_or(Broken)?, depth + 1)?,
                (6, LENGTH) => self.list(wire.bytes().ok_or(Broken)?, depth + 1)?,
                (1..=6, _) => return Err(Broken),
                _ => wire.skip(number, form).ok_or(Broken)?,
            }
        }
        Ok(())
    }

    pub(super) fn any(&mut self, data: &[u8], depth: usize) -> Written {
        let (mut wire, mut url, mut value) = (Wire::new(data), "", &[][..]);
        while !wire.is_end() {
            match wire.tag().ok_or(Broken)? {
                (1, LENGTH) => url = std::str::from_utf8(wire.bytes().ok_or(Broken)?).map_err(|_| Broken)?,
                (2, LENGTH) => value = wire.bytes().ok_or(Broken)?,
                (number, form) => wire.skip(number, form).ok_or(Broken)?,
            }
        }
        if url.is_empty() && value.is_empty() {
            self.out.extend_from_slice(b"{}");
            return Ok(());
        }
        let plans = self.plans.other(url.rsplit_once('/').ok_or(Broken)?.1).ok_or(Broken)?;
        self.out.extend_from_slice(b"{\"@type\":");
        string(&mut self.out, url);
        let mut inner = Writer { plans: &plans, out: std::mem::take(&mut self.out), spans: Vec::new() };
        let written = if plans.messages[0].form == Form::Fields {
            inner.members(0, value, depth + 1, false)
        } else {
            inner.out.extend_from_slice(b",\"value\":");
            inner.message(0, value, depth + 1)
        };
        self.out = inner.out;
        self.out.push(b'}');
        written
    }
}
