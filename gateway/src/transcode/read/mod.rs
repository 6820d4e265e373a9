//! JSON to wire bytes without a message between them: the proto3 mapping, every fault named with its path.

mod json;

mod known;

mod leaf;

mod number;

use std::{borrow::Cow, collections::HashSet};

use prost_reflect::Kind as Declared;

use self::json::{Cursor, NotJson, Token};
use super::{
    JSON_DEPTH,
    plan::{Field, Form, Kind, Label, Plans},
    text,
    wire::{self, DEPTH, LENGTH},
};
use crate::errors::Refusal;

pub(super) use leaf::put;

/// As many violations as one answer names.
const VIOLATIONS: usize = 20;

/// Reads a body into the bytes of the message that the plans begin with, behind what `out` has already.
pub(super) fn message(plans: &Plans, json: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    read(json, plans, out, |reader| reader.message(0))
}

/// Reads a body into one field of it.
pub(super) fn field(plans: &Plans, field: usize, json: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    let field = &plans.messages[0].fields[field];
    read(json, plans, out, |reader| {
        reader.path.push(Step::Field(field.name.to_string().into()));
        reader.field(field)
    })
}

fn read(
    json: &[u8],
    plans: &Plans,
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Reader<'_, '_>) -> Read,
) -> Result<(), Refusal> {
    let place = |at: usize| {
        let before = &json[..at.min(json.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + usize::from(at < json.len());
        let why = format!("the body is not JSON, see line {line} column {column}");
        Refusal::invalid("INVALID_JSON", "", why)
    };
    let text = std::str::from_utf8(json).map_err(|error| place(error.valid_up_to()))?;
    let mut reader = Reader {
        plans,
        json: Cursor::new(text),
        out: std::mem::take(out),
        path: Vec::new(),
        faults: Vec::new(),
        unknown: false,
        depth: 0,
        wire_depth: 0,
        anys: 0,
    };
    let done = body(&mut reader).and_then(|()| match reader.json.peek() {
        None => Ok(()),
        Some(_) => Err(Stop::Syntax),
    });
    *out = std::mem::take(&mut reader.out);
    match done {
        Err(Stop::Syntax) => Err(place(reader.json.at)),
        Err(Stop::Depth) => Err(Refusal::invalid("JSON_TOO_DEEP", "", "the body is nested too deeply")),
        Ok(()) if reader.faults.is_empty() => Ok(()),
        Ok(()) => {
            let reason = if reader.unknown { "UNKNOWN_FIELD" } else { "INVALID_FIELD" };
            Err(Refusal::invalid_fields(reason, reader.faults))
        }
    }
}

/// What ends reading; a value that does not fit is noted, and reading goes on.
enum Stop {
    Syntax,
    Depth,
}

impl From<NotJson> for Stop {
    fn from(_: NotJson) -> Self {
        Self::Syntax
    }
}

type Read<T = ()> = Result<T, Stop>;

/// A step on the way to a value.
enum Step<'j> {
    Field(Cow<'j, str>),
    Key(Cow<'j, str>),
    Index(usize),
}

struct Reader<'p, 'j> {
    plans: &'p Plans,
    json: Cursor<'j>,
    out: Vec<u8>,
    path: Vec<Step<'j>>,
    faults: Vec<(String, String)>,
    /// Whether the first fault is a field that is not known.
    unknown: bool,
    /// Brackets that are open.
    depth: usize,
    /// Messages that are open.
    wire_depth: usize,
    /// Anys that are open.
    anys: usize,
}

impl<'j> Reader<'_, 'j> {
    /// Reads the content of a message, without its length.
    fn message(&mut self, plan: usize) -> Read {
        self.wire_depth += 1;
        if self.wire_depth > DEPTH {
            return Err(Stop::Depth);
        }
        let plans = self.plans;
        let form = plans.messages[plan].form;
        match form {
            Form::Fields => {
                let mut seen = Seen::default();
                self.object(&mut |this, key| this.member(plan, key, &mut seen))?;
            }
            _ => self.known(form, plan)?,
        }
        self.wire_depth -= 1;
        Ok(())
    }

    /// Visits the entries of an object. The cursor stands before the value when `visit` is called.
    fn object(&mut self, visit: &mut dyn FnMut(&mut Self, Cow<'j, str>) -> Read) -> Read {
        if self.json.token()? != Token::Object {
            return self.fault("must be an object".to_owned());
        }
        self.open()?;
        let mut first = true;
        while !self.json.take(b'}') {
            if !first {
                self.json.expect(b',')?;
            }
            first = false;
            self.json.peek();
            let key = self.json.string()?;
            self.json.expect(b':')?;
            visit(self, key)?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// Visits the elements of an array.
    fn array(&mut self, visit: &mut dyn FnMut(&mut Self, usize) -> Read) -> Read {
        if self.json.token()? != Token::Array {
            return self.fault("must be an array".to_owned());
        }
        self.open()?;
        let mut index = 0;
        while !self.json.take(b']') {
            if index > 0 {
                self.json.expect(b',')?;
            }
            visit(self, index)?;
            index += 1;
        }
        self.depth -= 1;
        Ok(())
    }

    fn open(&mut self) -> Read {
        self.depth += 1;
        self.json.at += 1;
        if self.depth > JSON_DEPTH { Err(Stop::Depth) } else { Ok(()) }
    }

    fn member(&mut self, plan: usize, key: Cow<'j, str>, seen: &mut Seen) -> Read {
        let plan = &self.plans.messages[plan];
        let found = plan.by_name(&key, seen.next);
        self.path.push(Step::Field(key));
        match found {
            None => {
                self.unknown |= self.faults.is_empty();
                self.fault("is not a field".to_owned())?;
            }
            Some(at) if !seen.first_time(at) => self.fault("is given more than once".to_owned())?,
            Some(at) => {
                let field = &plan.fields[at];
                let null = self.json.token()? == Token::Null;
                if let (Some(oneof), false) = (field.oneof, null && !self.takes_null(field)) {
                    if let Some(other) = seen.oneofs.iter().find(|(known, _)| *known == oneof) {
                        let why = format!("{} is set already", plan.fields[other.1].name);
                        self.fault(why)?;
                        self.path.pop();
                        return Ok(());
                    }
                    seen.oneofs.push((oneof, at));
                }
                self.field(field)?;
            }
        }
        self.path.pop();
        Ok(())
    }

    /// Whether null is a value of a field, and not its absence.
    fn takes_null(&self, field: &Field) -> bool {
        matches!(field.label, Label::Single) && self.null_is_value(field.kind)
    }

    fn null_is_value(&self, kind: Kind) -> bool {
        match kind {
            Kind::Enum(names) => self.plans.enums[names].is_null,
            Kind::Message { plan, .. } => self.plans.messages[plan].form == Form::Value,
            _ => false,
        }
    }

    /// Reads the value of a field, tag and all.
    fn field(&mut self, field: &Field) -> Read {
        if self.json.token()? == Token::Null && !self.takes_null(field) {
            return Ok(self.json.word()?);
        }
        match &field.label {
            Label::Single => {
                let start = self.out.len();
                let noted = self.faults.len();
                self.tagged(field)?;
                let tag = wire::tag_length(field.number);
                // A default value of a field without presence is the same as none.
                let is_default =
                    !field.presence && self.out[(start + tag).min(self.out.len())..].iter().all(|byte| *byte == 0);
                if is_default || self.faults.len() > noted {
                    self.out.truncate(start);
                }
                Ok(())
            }
            Label::List { packed: true } => {
                let tagged = self.out.len();
                wire::put_tag(&mut self.out, field.number, LENGTH);
                let start = wire::begin(&mut self.out);
                self.array(&mut |this, index| this.element(index, |this| this.scalar(field.kind, &field.declared)))?;
                if self.out.len() == start {
                    self.out.truncate(tagged);
                } else {
                    wire::end(&mut self.out, start);
                }
                Ok(())
            }
            Label::List { packed: false } => self.array(&mut |this, index| {
                this.element(index, |this| {
                    if this.json.token()? == Token::Null && !this.null_is_value(field.kind) {
                        return this.fault(text::expects(&field.declared));
                    }
                    this.tagged(field)
                })
            }),
            Label::Map(entry) => self.map(field.number, &entry.0, &entry.1),
        }
    }

    fn element(&mut self, index: usize, read: impl FnOnce(&mut Self) -> Read) -> Read {
        self.path.push(Step::Index(index));
        read(self)?;
        self.path.pop();
        Ok(())
    }

    /// One value with its tag.
    fn tagged(&mut self, field: &Field) -> Read {
        wire::put_tag(&mut self.out, field.number, field.kind.form());
        match field.kind {
            Kind::Message { plan, group: false } => {
                let start = wire::begin(&mut self.out);
                self.message(plan)?;
                wire::end(&mut self.out, start);
                Ok(())
            }
            Kind::Message { plan, group: true } => {
                self.message(plan)?;
                wire::put_tag(&mut self.out, field.number, wire::GROUP_END);
                Ok(())
            }
            kind => self.scalar(kind, &field.declared),
        }
    }

    fn map(&mut self, number: u32, key: &Field, value: &Field) -> Read {
        let mut known = Keys::default();
        self.wire_depth += 1;
        self.object(&mut |this, name| {
            wire::put_tag(&mut this.out, number, LENGTH);
            let start = wire::begin(&mut this.out);
            wire::put_tag(&mut this.out, 1, key.kind.form());
            let good = leaf::put_text(this.plans, key.kind, &name, &mut this.out);
            let again = !known.first_time(name.clone());
            this.path.push(Step::Key(name));
            if !good {
                // What is behind the key is looked at all the same.
                this.note(format!("as a key {}", text::expects(&key.declared)));
            }
            if again {
                this.note("is given more than once".to_owned());
            }
            if this.json.token()? == Token::Null && !this.null_is_value(value.kind) {
                this.fault(text::expects(&value.declared))?;
            } else {
                this.tagged(value)?;
            }
            this.path.pop();
            wire::end(&mut this.out, start);
            Ok(())
        })?;
        self.wire_depth -= 1;
        Ok(())
    }

    /// Reads a single value without its tag.
    fn scalar(&mut self, kind: Kind, declared: &Declared) -> Read {
        let token = self.json.token()?;
        let good = match (kind, token) {
            (Kind::Bool, Token::True | Token::False) => {
                self.json.word()?;
                self.out.push(u8::from(token == Token::True));
                true
            }
            (Kind::String, Token::String) => {
                let text = self.json.string()?;
                wire::put_bytes(&mut self.out, text.as_bytes());
                true
            }
            (Kind::Bytes, Token::String) => {
                let text = self.json.string()?;
                leaf::put_base64(&text, &mut self.out)
            }
            (Kind::Enum(names), Token::Null) if self.plans.enums[names].is_null => {
                self.json.word()?;
                self.out.push(0);
                true
            }
            (Kind::Enum(names), Token::String) => {
                let text = self.json.string()?;
                leaf::put_name(self.plans, names, &text, &mut self.out)
            }
            (Kind::Bool | Kind::String | Kind::Bytes, _) => return self.fault(text::expects(declared)),
            (_, Token::Number) => {
                let text = self.json.number()?;
                leaf::put_number(kind, text, &mut self.out)
            }
            (Kind::Enum(_), _) => return self.fault(text::expects(declared)),
            (_, Token::String) => {
                let text = self.json.string()?;
                leaf::put_number(kind, &text, &mut self.out)
            }
            _ => return self.fault(text::expects(declared)),
        };
        if !good {
            self.note(text::expects(declared));
        }
        Ok(())
    }

    /// Notes that the value that comes next does not fit, and passes over it.
    fn fault(&mut self, why: String) -> Read {
        self.note(why);
        self.skip()
    }

    fn note(&mut self, why: String) {
        if self.faults.len() >= VIOLATIONS {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => path += &format!("[{index}]"),
                Step::Field(name) | Step::Key(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path += name;
                }
            }
        }
        self.faults.push((path, why));
    }

    /// Passes over a value, which must be JSON all the same.
    fn skip(&mut self) -> Read {
        match self.json.token()? {
            Token::Object => self.object(&mut |this, _| this.skip()),
            Token::Array => self.array(&mut |this, _| this.skip()),
            Token::String => Ok(self.json.string().map(drop)?),
            Token::Number => Ok(self.json.number().map(drop)?),
            Token::True | Token::False | Token::Null => Ok(self.json.word()?),
        }
    }
}

/// The keys of an object so far. Most have few: those are compared one by one, without hashing.
#[derive(Default)]
struct Keys<'j> {
    few: Vec<Cow<'j, str>>,
    many: HashSet<Cow<'j, str>>,
}

/// Keys that are compared one by one.
const FEW: usize = 16;

impl<'j> Keys<'j> {
    fn first_time(&mut self, key: Cow<'j, str>) -> bool {
        if self.few.contains(&key) {
            return false;
        }
        if self.few.len() < FEW {
            self.few.push(key);
            return true;
        }
        self.many.insert(key)
    }
}

/// Which fields of a message were read.
#[derive(Default)]
struct Seen {
    few: u64,
    many: HashSet<usize>,
    /// Which oneof is set, and by which field.
    oneofs: Vec<(usize, usize)>,
    /// The field that comes next when they come in order.
    next: usize,
}

impl Seen {
    fn first_time(&mut self, field: usize) -> bool {
        self.next = field + 1;
        if field >= 64 {
            return self.many.insert(field);
        }
        let bit = 1 << field;
        let first = self.few & bit == 0;
        self.few |= bit;
        first
    }
}
