//! Reads the fields of a JSON object and collects every fault with its JSON pointer.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{
    language::{JSON_PATH, JSONATA},
    template::{Language, Template},
};

/// What is wrong with a definition, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The JSON pointer (RFC 6901) of the value; empty is the whole definition.
    pub pointer: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A key as a part of a JSON pointer.
pub(super) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The fields of one object; what was not asked for is unknown.
pub(super) struct Fields<'a> {
    pub(super) pointer: String,
    object: &'a Map<String, Value>,
    known: HashSet<&'static str>,
}

impl<'a> Fields<'a> {
    /// The object at a pointer, or a fault.
    pub(super) fn of(value: &'a Value, pointer: String, faults: &mut Vec<Fault>) -> Option<Self> {
        match value {
            Value::Object(object) => Some(Self { pointer, object, known: HashSet::new() }),
            _ => {
                faults.push(Fault { pointer, reason: "must be an object".to_owned() });
                None
            }
        }
    }

    pub(super) fn at(&self, field: &str) -> String {
        format!("{}/{}", self.pointer, escape(field))
    }

    pub(super) fn fault(&self, field: &str, reason: impl Into<String>, faults: &mut Vec<Fault>) {
        faults.push(Fault { pointer: self.at(field), reason: reason.into() });
    }

    /// The field as it is.
    pub(super) fn get(&mut self, field: &'static str) -> Option<&'a Value> {
        self.known.insert(field);
        self.object.get(field)
    }

    /// A non-empty string.
    pub(super) fn text(&mut self, field: &'static str, faults: &mut Vec<Fault>) -> Option<&'a str> {
        match self.get(field)? {
            Value::String(text) if !text.is_empty() => Some(text),
            _ => {
                self.fault(field, "must be a non-empty string", faults);
                None
            }
        }
    }

    /// A non-empty string that must be there.
    pub(super) fn required_text(&mut self, field: &'static str, faults: &mut Vec<Fault>) -> Option<&'a str> {
        if self.get(field).is_none() {
            faults.push(Fault { pointer: self.pointer.clone(), reason: format!("{field} is missing") });
        }
        self.text(field, faults)
    }

    pub(super) fn flag(&mut self, field: &'static str, faults: &mut Vec<Fault>) -> bool {
        match self.get(field) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                self.fault(field, "must be true or false", faults);
                false
            }
        }
    }

    /// A number within bounds.
    pub(super) fn number(
        &mut self,
        field: &'static str,
        default: f64,
        range: (f64, f64),
        faults: &mut Vec<Fault>,
    ) -> f64 {
        let Some(value) = self.get(field) else { return default };
        match value.as_f64() {
            Some(number) if (range.0..=range.1).contains(&number) => number,
            _ => {
                self.fault(field, format!("must be a number from {} to {}", range.0, range.1), faults);
                default
            }
        }
    }

    /// As `number`, and without a fraction.
    pub(super) fn integer(&mut self, field: &'static str, range: (u32, u32), faults: &mut Vec<Fault>) -> Option<u32> {
        let value = self.get(field)?;
        let integer = integer(value).filter(|number| (range.0..=range.1).contains(number));
        if integer.is_none() {
            self.fault(field, format!("must be an integer from {} to {}", range.0, range.1), faults);
        }
        integer
    }

    /// A template.
    pub(super) fn template(
        &mut self,
        field: &'static str,
        language: Language,
        faults: &mut Vec<Fault>,
    ) -> Option<Template> {
        let value = self.get(field)?;
        let mut fault = |pointer, reason| faults.push(Fault { pointer, reason });
        Some(Template::compile(value, language, &self.at(field), &mut fault))
    }

    /// A template whose literal value must satisfy `valid`, and that is nothing but a literal or an expression.
    pub(super) fn checked_template(
        &mut self,
        field: &'static str,
        language: Language,
        needs: &str,
        valid: impl Fn(&Value) -> bool,
        faults: &mut Vec<Fault>,
    ) -> Option<Template> {
        let before = faults.len();
        let template = self.template(field, language, faults)?;
        let composite = matches!(template, Template::Array(_) | Template::Object(_));
        let literal_is_wrong = template.literal().is_some_and(|value| !valid(value));
        if faults.len() == before && (composite && field != "Items" || literal_is_wrong) {
            let or = if language == Language::Jsonata { " or an expression" } else { "" };
            self.fault(field, format!("must be {needs}{or}"), faults);
        }
        Some(template)
    }

    /// A list that must not be empty.
    pub(super) fn list(&mut self, field: &'static str, faults: &mut Vec<Fault>) -> &'a [Value] {
        match self.get(field) {
            None => &[],
            Some(Value::Array(items)) if !items.is_empty() => items,
            Some(_) => {
                self.fault(field, "must be a non-empty array", faults);
                &[]
            }
        }
    }

    /// A list that may be empty.
    pub(super) fn list_or_empty(&mut self, field: &'static str, faults: &mut Vec<Fault>) -> &'a [Value] {
        match self.get(field) {
            Some(Value::Array(items)) if items.is_empty() => &[],
            _ => self.list(field, faults),
        }
    }

    /// A fault of the object itself.
    pub(super) fn fault_here(&self, reason: impl Into<String>, faults: &mut Vec<Fault>) {
        faults.push(Fault { pointer: self.pointer.clone(), reason: reason.into() });
    }

    /// Every field nobody asked for is a fault. `of` says what the object is, `a Pass state`.
    pub(super) fn finish(self, of: &str, language: Language, faults: &mut Vec<Fault>) {
        for field in self.object.keys().filter(|field| !self.known.contains(field.as_str())) {
            let reason = match language {
                Language::Jsonata if JSON_PATH.contains(&field.as_str()) => {
                    format!("{field} belongs to JSONPath, and the QueryLanguage here is JSONata")
                }
                Language::JsonPath if JSONATA.contains(&field.as_str()) => {
                    format!("{field} belongs to JSONata, and the QueryLanguage here is JSONPath")
                }
                _ => format!("{field} is not a field of {of}"),
            };
            self.fault(field, reason, faults);
        }
    }
}

/// The value as an integer, `3.0` too: JSON that came through google.protobuf.Value has doubles only.
pub(super) fn integer(value: &Value) -> Option<u32> {
    let number = value.as_f64()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked first")]
    let whole = (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number)).then_some(number as u32);
    whole
}
