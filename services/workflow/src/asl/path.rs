//! JSONPath as Step Functions has it (the dialect of Jayway): paths that find values, and reference paths that name one place.

mod filter;
mod parse;
mod place;

use std::{borrow::Cow, cmp::Ordering};

use serde_json::{Map, Value};

use super::template::weight;
use filter::Test;
pub(super) use place::Place;

/// Values that one path may find; bounds the work of `..` and of wildcards in wildcards.
const FOUND_MAX: usize = 100_000;
/// How much room they may take together.
const FOUND_MAX_WEIGHT: usize = 8 * 1024 * 1024;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Path {
    pub(super) text: String,
    pub(super) root: Root,
    steps: Vec<Step>,
}

/// What a path starts from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Root {
    /// `$`, what the field is applied to.
    Input,
    /// `$$`, the context object.
    Context,
    /// `$name`.
    Variable(String),
}

/// What leads from a value to values below it.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Name(String),
    Names(Vec<String>),
    Index(i64),
    Indexes(Vec<i64>),
    Slice(Option<i64>, Option<i64>),
    Wildcard,
    Filter(Test),
    /// The value itself and everything below it.
    Descend,
}

/// Why a path found nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    /// There is nothing at the path.
    Absent,
    /// The last step is an index past the end of an array that is there.
    PastTheEnd,
    /// It finds more than can be handled.
    TooMany,
}

impl Path {
    /// Parses a path.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        parse::path(text)
    }

    /// The whole of what the field is applied to.
    pub(super) fn is_whole_input(&self) -> bool {
        self.root == Root::Input && self.steps.is_empty()
    }

    /// Whether it can find one value at most; if not, what it finds is an array.
    pub(super) fn is_definite(&self) -> bool {
        let last = self.steps.len().saturating_sub(1);
        self.steps.iter().enumerate().all(|(at, step)| match step {
            Step::Name(_) | Step::Index(_) => true,
            Step::Names(_) => at == last,
            _ => false,
        })
    }

    /// Whether it has only names and indexes, so that it names one place.
    pub(super) fn is_reference(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Name(_) | Step::Index(_)))
    }

    /// As Jayway writes it: `$['a'][0]`.
    pub(super) fn bracketed(&self) -> String {
        let step = |step: &Step| match step {
            Step::Name(name) => format!("['{name}']"),
            Step::Index(index) => format!("[{index}]"),
            _ => "[*]".to_owned(),
        };
        format!("${}", self.steps.iter().map(step).collect::<String>())
    }

    /// What it finds below `root`.
    pub(super) fn find<'v>(&self, root: &'v Value) -> Result<Cow<'v, Value>, Miss> {
        let definite = self.is_definite();
        if definite {
            return self.find_one(root);
        }
        let mut found = vec![Cow::Borrowed(root)];
        let mut certain = true;
        for (at, step) in self.steps.iter().enumerate() {
            let mut next = Vec::new();
            for value in found {
                step.apply(value, certain, at + 1 == self.steps.len(), root, &mut next)?;
                if next.len() > FOUND_MAX {
                    return Err(Miss::TooMany);
                }
            }
            certain &= matches!(step, Step::Name(_) | Step::Index(_));
            found = next;
        }
        let mut room = FOUND_MAX_WEIGHT;
        for value in &found {
            room = room.checked_sub(weight(value)).ok_or(Miss::TooMany)?;
        }
        Ok(Cow::Owned(found.into_iter().map(Cow::into_owned).collect()))
    }

    /// The quick way for a path that finds one value.
    fn find_one<'v>(&self, root: &'v Value) -> Result<Cow<'v, Value>, Miss> {
        let mut value = root;
        for (at, step) in self.steps.iter().enumerate() {
            value = match step {
                Step::Name(name) => value.get(name).ok_or(Miss::Absent)?,
                Step::Index(index) => {
                    let items = value.as_array().ok_or(Miss::Absent)?;
                    let last = at + 1 == self.steps.len();
                    let miss = if last { Miss::PastTheEnd } else { Miss::Absent };
                    nth(items, *index).ok_or(miss)?
                }
                Step::Names(names) => {
                    let fields = value.as_object().ok_or(Miss::Absent)?;
                    return Ok(Cow::Owned(Value::Object(pick(fields, names))));
                }
                _ => return Err(Miss::Absent),
            };
        }
        Ok(Cow::Borrowed(value))
    }
}

impl Step {
    /// Adds what the step leads to. While the way is certain, what is not there is a miss; behind a wildcard it is left
    /// out.
    fn apply<'v>(
        &self,
        value: Cow<'v, Value>,
        certain: bool,
        last: bool,
        root: &Value,
        found: &mut Vec<Cow<'v, Value>>,
    ) -> Result<(), Miss> {
        let missed = if certain { Err(Miss::Absent) } else { Ok(()) };
        match self {
            Self::Name(name) => match child(&value, name) {
                Some(inner) => found.push(inner),
                None => return missed,
            },
            Self::Names(names) => match value.as_object() {
                Some(fields) if last => found.push(Cow::Owned(Value::Object(pick(fields, names)))),
                Some(_) => found.extend(names.iter().filter_map(|name| child(&value, name))),
                None => return missed,
            },
            Self::Index(index) => match at(&value, *index) {
                Some(inner) => found.push(inner),
                None => return missed,
            },
            Self::Indexes(indexes) => match value.as_array() {
                Some(_) => found.extend(indexes.iter().filter_map(|index| at(&value, *index))),
                None => return missed,
            },
            Self::Slice(from, to) => match value.as_array() {
                Some(items) => {
                    let range = range(items.len(), *from, *to);
                    found.extend(children(&value).into_iter().skip(range.start).take(range.len()));
                }
                None => return missed,
            },
            Self::Wildcard => found.extend(children(&value)),
            Self::Filter(test) => match &*value {
                Value::Array(_) => found.extend(children(&value).into_iter().filter(|item| test.holds(item, root))),
                Value::Object(_) if test.holds(&value, root) => found.push(value),
                Value::Object(_) => {}
                _ => return missed,
            },
            Self::Descend => descend(value, found)?,
        }
        Ok(())
    }
}

fn descend<'v>(value: Cow<'v, Value>, found: &mut Vec<Cow<'v, Value>>) -> Result<(), Miss> {
    if found.len() > FOUND_MAX {
        return Err(Miss::TooMany);
    }
    let below = children(&value);
    found.push(value);
    below.into_iter().try_for_each(|inner| descend(inner, found))
}

fn child<'v>(value: &Cow<'v, Value>, name: &str) -> Option<Cow<'v, Value>> {
    match value {
        Cow::Borrowed(value) => value.get(name).map(Cow::Borrowed),
        Cow::Owned(value) => value.get(name).cloned().map(Cow::Owned),
    }
}

fn at<'v>(value: &Cow<'v, Value>, index: i64) -> Option<Cow<'v, Value>> {
    match value {
        Cow::Borrowed(value) => nth(value.as_array()?, index).map(Cow::Borrowed),
        Cow::Owned(value) => nth(value.as_array()?, index).cloned().map(Cow::Owned),
    }
}

fn children<'v>(value: &Cow<'v, Value>) -> Vec<Cow<'v, Value>> {
    match value {
        Cow::Borrowed(Value::Array(items)) => items.iter().map(Cow::Borrowed).collect(),
        Cow::Borrowed(Value::Object(fields)) => fields.values().map(Cow::Borrowed).collect(),
        Cow::Owned(Value::Array(items)) => items.iter().cloned().map(Cow::Owned).collect(),
        Cow::Owned(Value::Object(fields)) => fields.values().cloned().map(Cow::Owned).collect(),
        _ => Vec::new(),
    }
}

fn pick(fields: &Map<String, Value>, names: &[String]) -> Map<String, Value> {
    names.iter().filter_map(|name| Some((name.clone(), fields.get(name)?.clone()))).collect()
}

/// An item, counted from the end when the index is negative.
fn nth(items: &[Value], index: i64) -> Option<&Value> {
    let index = if index < 0 {
        items.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?
    } else {
        usize::try_from(index).ok()?
    };
    items.get(index)
}

fn range(length: usize, from: Option<i64>, to: Option<i64>) -> std::ops::Range<usize> {
    let bound = |at: i64| {
        let distance = usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX);
        if at < 0 { length.saturating_sub(distance) } else { distance.min(length) }
    };
    let start = from.map_or(0, bound);
    let end = to.map_or(length, bound);
    start..end.max(start)
}

/// How two values compare, if they do: numbers with numbers, strings with strings.
pub(super) fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
        },
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

/// Whether two values are the same; `1` and `1.0` are.
pub(super) fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(_), Value::Number(_)) => compare(left, right) == Some(Ordering::Equal),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| equal(value, other)))
        }
        _ => left == right,
    }
}

#[cfg(test)]
mod tests;
