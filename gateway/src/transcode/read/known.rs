//! Messages of google.protobuf that have a JSON form of their own, read.

use std::borrow::Cow;

use super::{Cursor, Keys, Read, Reader, Seen, Step, Stop, Token, leaf};
use crate::transcode::{
    known,
    plan::{Form, Plans},
    text,
    wire::{self, DEPTH, FIXED64, LENGTH, VARINT},
};

const TYPE: &str = "@type";
/// Anys in an Any. Each is passed over before it is read, so that its type is known: deeper ones would be read that often.
const ANYS: usize = 8;

impl<'j> Reader<'_, 'j> {
    pub(super) fn known(&mut self, form: Form, plan: usize) -> Read {
        match form {
            Form::Wrapper => self.wrapper(plan),
            Form::Timestamp => self.texted("must be an RFC 3339 time like 2026-01-31T12:00:00Z", |text, out| {
                put_time(out, known::timestamp(text)?);
                Some(())
            }),
            Form::Duration => self.texted("must be seconds like 1.5s", |text, out| {
                put_time(out, known::duration(text)?);
                Some(())
            }),
            Form::FieldMask => {
                self.texted("must be field paths in lowerCamelCase, separated by commas", leaf::put_mask)
            }
            Form::Struct => self.structure(),
            Form::Value => self.value(),
            Form::List => self.list(),
            Form::Any => self.any(),
            Form::Fields => Ok(()),
        }
    }

    /// A message that is written as a string.
    fn texted(&mut self, expects: &str, put: impl FnOnce(&str, &mut Vec<u8>) -> Option<()>) -> Read {
        if self.json.token()? != Token::String {
            return self.fault(expects.to_owned());
        }
        let text = self.json.string()?;
        if put(&text, &mut self.out).is_none() {
            self.note(expects.to_owned());
        }
        Ok(())
    }

    fn wrapper(&mut self, plan: usize) -> Read {
        let plans = self.plans;
        let field = &plans.messages[plan].fields[0];
        if self.json.token()? == Token::Null {
            return self.fault(text::expects(&field.declared));
        }
        self.field(field)
    }

    fn deeper(&mut self, read: impl FnOnce(&mut Self) -> Read) -> Read {
        self.wire_depth += 1;
        if self.wire_depth > DEPTH {
            return Err(Stop::Depth);
        }
        let start = wire::begin(&mut self.out);
        read(self)?;
        wire::end(&mut self.out, start);
        self.wire_depth -= 1;
        Ok(())
    }

    fn structure(&mut self) -> Read {
        let mut names = Keys::default();
        self.object(&mut |this, name| {
            wire::put_tag(&mut this.out, 1, LENGTH);
            let again = !names.first_time(name.clone());
            this.path.push(Step::Key(name.clone()));
            if again {
                this.note("is given more than once".to_owned());
            }
            this.deeper(|this| {
                wire::put_tag(&mut this.out, 1, LENGTH);
                wire::put_bytes(&mut this.out, name.as_bytes());
                wire::put_tag(&mut this.out, 2, LENGTH);
                this.deeper(Self::value)
            })?;
            this.path.pop();
            Ok(())
        })
    }

    fn list(&mut self) -> Read {
        self.array(&mut |this, index| {
            this.element(index, |this| {
                wire::put_tag(&mut this.out, 1, LENGTH);
                this.deeper(Self::value)
            })
        })
    }

    fn value(&mut self) -> Read {
        match self.json.token()? {
            Token::Null => {
                self.json.word()?;
                wire::put_tag(&mut self.out, 1, VARINT);
                self.out.push(0);
            }
            Token::Number => {
                let text = self.json.number()?;
                let number = text.parse().ok().filter(|number: &f64| number.is_finite());
                if number.is_none() {
                    self.note("must be a number that 64 bits can hold".to_owned());
                }
                wire::put_tag(&mut self.out, 2, FIXED64);
                self.out.extend_from_slice(&number.unwrap_or_default().to_le_bytes());
            }
            Token::String => {
                let text = self.json.string()?;
                wire::put_tag(&mut self.out, 3, LENGTH);
                wire::put_bytes(&mut self.out, text.as_bytes());
            }
            token @ (Token::True | Token::False) => {
                self.json.word()?;
                wire::put_tag(&mut self.out, 4, VARINT);
                self.out.push(u8::from(token == Token::True));
            }
            Token::Object => {
                wire::put_tag(&mut self.out, 5, LENGTH);
                return self.deeper(Self::structure);
            }
            Token::Array => {
                wire::put_tag(&mut self.out, 6, LENGTH);
                return self.deeper(Self::list);
            }
        }
        Ok(())
    }

    /// The type of an Any may stand behind its fields: the object is passed over first, and read when the type is known.
    fn any(&mut self) -> Read {
        if self.json.token()? != Token::Object {
            return self.fault("must be an object with a known @type".to_owned());
        }
        if self.anys >= ANYS {
            return Err(Stop::Depth);
        }
        let (start, noted, depth) = (self.json.at, self.faults.len(), self.depth);
        let mut url: Option<Cow<'j, str>> = None;
        let (mut entries, mut again) = (0, false);
        self.object(&mut |this, key| {
            entries += 1;
            if key != TYPE || this.json.token()? != Token::String {
                return this.skip();
            }
            again |= url.is_some();
            url = Some(this.json.string()?);
            Ok(())
        })?;
        let end = self.json.at;
        debug_assert_eq!((self.depth, self.faults.len()), (depth, noted));
        if entries == 0 {
            return Ok(());
        }
        let plans = url.as_ref().and_then(|url| self.plans.other(url.rsplit_once('/')?.1));
        let (Some(url), Some(plans), false) = (url, plans, again) else {
            self.note("must be an object with a known @type".to_owned());
            return Ok(());
        };
        wire::put_tag(&mut self.out, 1, LENGTH);
        wire::put_bytes(&mut self.out, url.as_bytes());
        wire::put_tag(&mut self.out, 2, LENGTH);
        let open = wire::begin(&mut self.out);
        self.payload(&plans, self.json.at(start))?;
        wire::end(&mut self.out, open);
        self.json = self.json.at(end);
        Ok(())
    }

    /// Reads the message inside an Any by the plans of its own type.
    fn payload(&mut self, plans: &Plans, json: Cursor<'j>) -> Read {
        let mut inner = Reader {
            plans,
            json,
            out: std::mem::take(&mut self.out),
            path: std::mem::take(&mut self.path),
            faults: std::mem::take(&mut self.faults),
            unknown: self.unknown,
            depth: self.depth,
            wire_depth: self.wire_depth,
            anys: self.anys + 1,
        };
        let read = inner.typed();
        let Reader { out, path, faults, unknown, .. } = inner;
        (self.out, self.path, self.faults, self.unknown) = (out, path, faults, unknown);
        read
    }

    fn typed(&mut self) -> Read {
        let (mut seen, mut filled) = (Seen::default(), false);
        let plain = self.plans.messages[0].form == Form::Fields;
        self.object(&mut |this, key| {
            if key == TYPE {
                return this.skip();
            }
            if plain {
                return this.member(0, key, &mut seen);
            }
            let is_value = key == "value" && !filled;
            this.path.push(Step::Field(key));
            if is_value {
                filled = true;
                this.message(0)?;
            } else {
                this.unknown |= this.faults.is_empty();
                this.fault("is not a field".to_owned())?;
            }
            this.path.pop();
            Ok(())
        })
    }
}

pub(super) fn put_time(out: &mut Vec<u8>, (seconds, nanos): (i64, i32)) {
    for (number, value) in [(1, seconds), (2, i64::from(nanos))] {
        if value != 0 {
            wire::put_tag(out, number, VARINT);
            wire::put_varint(out, value.cast_unsigned());
        }
    }
}
