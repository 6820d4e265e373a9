//! Filters: `[?(@.price < 10 && @.name != 'x')]`.

use std::cmp::Ordering;

use regex::Regex;
use serde_json::Value;

use super::{Step, compare, equal, parse::Reader};

/// Filters in filters; bounds the stack.
const DEPTH_MAX: usize = 32;
/// Bytes of a compiled regular expression at most.
const REGEX_MAX: usize = 256 * 1024;

/// What an item must satisfy.
#[derive(Debug, Clone)]
pub(in crate::asl) enum Test {
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
    /// The path finds something.
    Exists(Operand),
    Compare(Operand, Comparison, Operand),
    Matches(Operand, Regex),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::asl) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

/// A literal, or a path from the item (`@`) or from the root (`$`).
#[derive(Debug, Clone, PartialEq)]
pub(in crate::asl) enum Operand {
    Literal(Value),
    Item(Vec<Step>),
    Root(Vec<Step>),
}

impl PartialEq for Test {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

impl Test {
    pub(super) fn holds(&self, item: &Value, root: &Value) -> bool {
        match self {
            Self::All(tests) => tests.iter().all(|test| test.holds(item, root)),
            Self::Any(tests) => tests.iter().any(|test| test.holds(item, root)),
            Self::Not(test) => !test.holds(item, root),
            Self::Exists(operand) => operand.value(item, root).is_some(),
            Self::Matches(operand, regex) => {
                operand.value(item, root).is_some_and(|value| value.as_str().is_some_and(|text| regex.is_match(text)))
            }
            Self::Compare(left, comparison, right) => {
                let (left, right) = (left.value(item, root), right.value(item, root));
                match (left, right) {
                    (Some(left), Some(right)) => comparison.holds(&left, &right),
                    (None, None) => *comparison == Comparison::Equal,
                    _ => *comparison == Comparison::NotEqual,
                }
            }
        }
    }
}

impl Comparison {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let ordering = || compare(left, right);
        match self {
            Self::Equal => equal(left, right),
            Self::NotEqual => !equal(left, right),
            Self::Less => ordering() == Some(Ordering::Less),
            Self::LessOrEqual => ordering().is_some_and(Ordering::is_le),
            Self::Greater => ordering() == Some(Ordering::Greater),
            Self::GreaterOrEqual => ordering().is_some_and(Ordering::is_ge),
            Self::In => right.as_array().is_some_and(|items| items.iter().any(|item| equal(left, item))),
            Self::NotIn => right.as_array().is_some_and(|items| !items.iter().any(|item| equal(left, item))),
        }
    }
}

impl Operand {
    fn value(&self, item: &Value, root: &Value) -> Option<Value> {
        let (steps, from) = match self {
            Self::Literal(value) => return Some(value.clone()),
            Self::Item(steps) => (steps, item),
            Self::Root(steps) => (steps, root),
        };
        let path = super::Path { text: String::new(), root: super::Root::Input, steps: steps.clone() };
        path.find(from).ok().map(std::borrow::Cow::into_owned)
    }
}

/// Reads a test up to the parenthesis that closes it.
pub(super) fn test(reader: &mut Reader<'_>) -> Result<Test, String> {
    any(reader, 0)
}

fn any(reader: &mut Reader<'_>, depth: usize) -> Result<Test, String> {
    if depth > DEPTH_MAX {
        return Err("a filter is nested too deeply".to_owned());
    }
    let mut tests = vec![all(reader, depth)?];
    while next(reader, "||") {
        tests.push(all(reader, depth)?);
    }
    Ok(if tests.len() == 1 { tests.remove(0) } else { Test::Any(tests) })
}

fn all(reader: &mut Reader<'_>, depth: usize) -> Result<Test, String> {
    let mut tests = vec![one(reader, depth)?];
    while next(reader, "&&") {
        tests.push(one(reader, depth)?);
    }
    Ok(if tests.len() == 1 { tests.remove(0) } else { Test::All(tests) })
}

fn next(reader: &mut Reader<'_>, operator: &str) -> bool {
    reader.skip_blanks();
    reader.take(operator)
}

fn one(reader: &mut Reader<'_>, depth: usize) -> Result<Test, String> {
    reader.skip_blanks();
    if reader.take("!") {
        if depth > DEPTH_MAX {
            return Err("a filter is nested too deeply".to_owned());
        }
        return Ok(Test::Not(Box::new(one(reader, depth + 1)?)));
    }
    if reader.take("(") {
        let test = any(reader, depth + 1)?;
        return if next(reader, ")") { Ok(test) } else { Err("a filter lacks a closing parenthesis".to_owned()) };
    }
    let left = operand(reader)?;
    reader.skip_blanks();
    if reader.take("=~") {
        return Ok(Test::Matches(left, regex(reader)?));
    }
    const OPERATORS: [(&str, Comparison); 8] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        ("<", Comparison::Less),
        (">=", Comparison::GreaterOrEqual),
        (">", Comparison::Greater),
        ("in ", Comparison::In),
        ("nin ", Comparison::NotIn),
    ];
    match OPERATORS.iter().find(|(text, _)| reader.take(text)) {
        Some((_, comparison)) => Ok(Test::Compare(left, *comparison, operand(reader)?)),
        None => Ok(Test::Exists(left)),
    }
}

fn operand(reader: &mut Reader<'_>) -> Result<Operand, String> {
    reader.skip_blanks();
    if reader.take("@") {
        return Ok(Operand::Item(reader.steps()?));
    }
    if reader.take("$") {
        let steps = reader.steps()?;
        // It is looked up for each item.
        if steps.iter().any(|step| !matches!(step, Step::Name(_) | Step::Index(_))) {
            return Err("a path from $ in a filter has names and indexes only".to_owned());
        }
        return Ok(Operand::Root(steps));
    }
    if reader.rest.starts_with(['\'', '"']) {
        return Ok(Operand::Literal(Value::String(reader.quoted()?)));
    }
    if reader.take("[") {
        let mut items = Vec::new();
        while !next(reader, "]") {
            match operand(reader)? {
                Operand::Literal(value) => items.push(value),
                _ => return Err("a list in a filter has literals only".to_owned()),
            }
            reader.skip_blanks();
            reader.take(",");
        }
        return Ok(Operand::Literal(Value::Array(items)));
    }
    let word = reader.take_while(|char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '+'));
    serde_json::from_str(word).map(Operand::Literal).map_err(|_| format!("'{word}' is no value of a filter"))
}

/// `/pattern/` with `i` behind it for any case.
fn regex(reader: &mut Reader<'_>) -> Result<Regex, String> {
    reader.skip_blanks();
    if !reader.take("/") {
        return Err("a regular expression is /.../".to_owned());
    }
    let mut end = None;
    let mut escaped = false;
    for (at, char) in reader.rest.char_indices() {
        if char == '/' && !escaped {
            end = Some(at);
            break;
        }
        escaped = char == '\\' && !escaped;
    }
    let end = end.ok_or("a regular expression is not closed")?;
    let pattern = reader.rest[..end].replace("\\/", "/");
    reader.rest = &reader.rest[end + 1..];
    let any_case = reader.take("i");
    // Jayway matches the whole text.
    let built =
        regex::RegexBuilder::new(&format!("^(?:{pattern})$")).case_insensitive(any_case).size_limit(REGEX_MAX).build();
    built.map_err(|why| format!("bad regular expression: {why}"))
}
