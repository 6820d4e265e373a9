//! The rules of a Choice: a JSONata condition, or comparisons of JSONPath with And, Or and Not.

use std::cmp::Ordering;

use chrono::{DateTime, FixedOffset};
use serde_json::Value;

use super::{
    failure::Trouble,
    fields::{Fault, Fields},
    path::{Miss, Path, compare, equal},
    scope::Scope,
    template::Template,
};

/// Rules in rules at most; bounds the stack.
const DEPTH_MAX: usize = 32;

/// What a rule tests.
#[derive(Debug)]
pub(super) enum Test {
    Condition(Template),
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
    Compare { variable: Path, operator: Operator, operand: Operand },
}

/// What a value is compared with.
#[derive(Debug)]
pub(super) enum Operand {
    Literal(Value),
    Path(Path),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Is(Property),
    StringMatches,
    Compare(Kind, Relation),
}

/// What `IsNull` and its like ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Property {
    Present,
    Null,
    Numeric,
    String,
    Boolean,
    Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Numeric,
    Boolean,
    Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Equals,
    LessThan,
    GreaterThan,
    LessThanEquals,
    GreaterThanEquals,
}

/// An operator's name, the operator, and whether its operand is a path.
const OPERATORS: [(&str, Operator, bool); 39] = {
    use {Kind as K, Operator as O, Property as P, Relation as R};
    [
        ("IsPresent", O::Is(P::Present), false),
        ("IsNull", O::Is(P::Null), false),
        ("IsNumeric", O::Is(P::Numeric), false),
        ("IsString", O::Is(P::String), false),
        ("IsBoolean", O::Is(P::Boolean), false),
        ("IsTimestamp", O::Is(P::Timestamp), false),
        ("StringMatches", O::StringMatches, false),
        ("BooleanEquals", O::Compare(K::Boolean, R::Equals), false),
        ("BooleanEqualsPath", O::Compare(K::Boolean, R::Equals), true),
        ("StringEquals", O::Compare(K::String, R::Equals), false),
        ("StringEqualsPath", O::Compare(K::String, R::Equals), true),
        ("StringLessThan", O::Compare(K::String, R::LessThan), false),
        ("StringLessThanPath", O::Compare(K::String, R::LessThan), true),
        ("StringGreaterThan", O::Compare(K::String, R::GreaterThan), false),
        ("StringGreaterThanPath", O::Compare(K::String, R::GreaterThan), true),
        ("StringLessThanEquals", O::Compare(K::String, R::LessThanEquals), false),
        ("StringLessThanEqualsPath", O::Compare(K::String, R::LessThanEquals), true),
        ("StringGreaterThanEquals", O::Compare(K::String, R::GreaterThanEquals), false),
        ("StringGreaterThanEqualsPath", O::Compare(K::String, R::GreaterThanEquals), true),
        ("NumericEquals", O::Compare(K::Numeric, R::Equals), false),
        ("NumericEqualsPath", O::Compare(K::Numeric, R::Equals), true),
        ("NumericLessThan", O::Compare(K::Numeric, R::LessThan), false),
        ("NumericLessThanPath", O::Compare(K::Numeric, R::LessThan), true),
        ("NumericGreaterThan", O::Compare(K::Numeric, R::GreaterThan), false),
        ("NumericGreaterThanPath", O::Compare(K::Numeric, R::GreaterThan), true),
        ("NumericLessThanEquals", O::Compare(K::Numeric, R::LessThanEquals), false),
        ("NumericLessThanEqualsPath", O::Compare(K::Numeric, R::LessThanEquals), true),
        ("NumericGreaterThanEquals", O::Compare(K::Numeric, R::GreaterThanEquals), false),
        ("NumericGreaterThanEqualsPath", O::Compare(K::Numeric, R::GreaterThanEquals), true),
        ("TimestampEquals", O::Compare(K::Timestamp, R::Equals), false),
        ("TimestampEqualsPath", O::Compare(K::Timestamp, R::Equals), true),
        ("TimestampLessThan", O::Compare(K::Timestamp, R::LessThan), false),
        ("TimestampLessThanPath", O::Compare(K::Timestamp, R::LessThan), true),
        ("TimestampGreaterThan", O::Compare(K::Timestamp, R::GreaterThan), false),
        ("TimestampGreaterThanPath", O::Compare(K::Timestamp, R::GreaterThan), true),
        ("TimestampLessThanEquals", O::Compare(K::Timestamp, R::LessThanEquals), false),
        ("TimestampLessThanEqualsPath", O::Compare(K::Timestamp, R::LessThanEquals), true),
        ("TimestampGreaterThanEquals", O::Compare(K::Timestamp, R::GreaterThanEquals), false),
        ("TimestampGreaterThanEqualsPath", O::Compare(K::Timestamp, R::GreaterThanEquals), true),
    ]
};

impl Test {
    /// Whether it holds. `location` is where a condition stands.
    pub(super) fn holds(&self, scope: &Scope<'_>, location: &str) -> Result<bool, Trouble> {
        match self {
            Self::Condition(template) => match template.evaluate(location, scope)? {
                Value::Bool(holds) => Ok(holds),
                other => Err(template.wrong(location, "boolean", &other)),
            },
            Self::All(tests) => {
                for test in tests {
                    if !test.holds(scope, location)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Any(tests) => {
                for test in tests {
                    if test.holds(scope, location)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Not(test) => Ok(!test.holds(scope, location)?),
            Self::Compare { variable, operator, operand } => {
                let found = scope.find(variable);
                if let (Operator::Is(Property::Present), Operand::Literal(expected)) = (operator, operand) {
                    return Ok(Value::Bool(found.is_ok()) == *expected);
                }
                let left = found.map_err(|miss| invalid(variable, miss))?;
                match operand {
                    Operand::Literal(right) => Ok(operator.holds(&left, right)),
                    Operand::Path(path) => {
                        let right = scope.find(path).map_err(|miss| invalid(path, miss))?;
                        Ok(operator.holds(&left, &right))
                    }
                }
            }
        }
    }
}

fn invalid(path: &Path, _: Miss) -> Trouble {
    Trouble::fatal(format!(
        "Invalid path '{}': The choice state's condition path references an invalid value.",
        path.text
    ))
}

impl Operator {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let (kind, relation) = match self {
            Self::Is(property) => return right.as_bool() == Some(property.is_of(left)),
            Self::StringMatches => {
                return left.as_str().zip(right.as_str()).is_some_and(|(text, pattern)| matches(pattern, text));
            }
            Self::Compare(kind, relation) => (kind, relation),
        };
        let ordering = match kind {
            Kind::Boolean => {
                return left.is_boolean() && right.is_boolean() && equal(left, right);
            }
            Kind::String if left.is_string() && right.is_string() => compare(left, right),
            Kind::Numeric if left.is_number() && right.is_number() => compare(left, right),
            Kind::Timestamp => timestamp(left).zip(timestamp(right)).map(|(left, right)| left.cmp(&right)),
            _ => None,
        };
        ordering.is_some_and(|ordering| match relation {
            Relation::Equals => ordering == Ordering::Equal,
            Relation::LessThan => ordering == Ordering::Less,
            Relation::GreaterThan => ordering == Ordering::Greater,
            Relation::LessThanEquals => ordering.is_le(),
            Relation::GreaterThanEquals => ordering.is_ge(),
        })
    }

    /// What is wrong with a literal operand.
    fn refuse(self, operand: &Value) -> Option<&'static str> {
        let (right, needs) = match self {
            Self::Is(_) | Self::Compare(Kind::Boolean, _) => (operand.is_boolean(), "must be true or false"),
            Self::Compare(Kind::String, _) => (operand.is_string(), "must be a string"),
            Self::Compare(Kind::Numeric, _) => (operand.is_number(), "must be a number"),
            Self::Compare(Kind::Timestamp, _) => (timestamp(operand).is_some(), "must be an RFC 3339 time"),
            Self::StringMatches => (
                operand.as_str().is_some_and(is_pattern),
                "must be a string in which a backslash stands before * or \\ only",
            ),
        };
        (!right).then_some(needs)
    }
}

impl Property {
    fn is_of(self, value: &Value) -> bool {
        match self {
            Self::Present => true,
            Self::Null => value.is_null(),
            Self::Numeric => value.is_number(),
            Self::String => value.is_string(),
            Self::Boolean => value.is_boolean(),
            Self::Timestamp => timestamp(value).is_some(),
        }
    }
}

/// RFC 3339 as the States Language narrows it: an upper-case T, and Z or an offset.
pub(super) fn timestamp(value: &Value) -> Option<DateTime<FixedOffset>> {
    let text = value.as_str()?;
    if text.contains(['t', 'z', ' ']) {
        return None;
    }
    DateTime::parse_from_rfc3339(text).ok()
}

fn is_pattern(pattern: &str) -> bool {
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        if char == '\\' && !matches!(chars.next(), Some('*' | '\\')) {
            return false;
        }
    }
    true
}

/// Whether a text matches a pattern in which `*` is any text and `\*` an asterisk.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = vec![String::new()];
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        match char {
            '*' => parts.push(String::new()),
            '\\' => parts.last_mut().expect("there is one from the start").extend(chars.next()),
            char => parts.last_mut().expect("there is one from the start").push(char),
        }
    }
    let (first, rest) = parts.split_first().expect("there is one from the start");
    let Some((last, middle)) = rest.split_last() else { return text == first };
    let Some(mut between) = text.strip_prefix(first.as_str()).and_then(|text| text.strip_suffix(last.as_str())) else {
        return false;
    };
    middle.iter().all(|part| match between.find(part.as_str()) {
        Some(at) => {
            between = &between[at + part.len()..];
            true
        }
        None => false,
    })
}

/// Reads the test of a JSONPath rule. What it is nested in says how deep it stands.
pub(super) fn parse(rule: &mut Fields<'_>, depth: usize, faults: &mut Vec<Fault>) -> Option<Test> {
    if depth > DEPTH_MAX {
        rule.fault_here(format!("rules are nested at most {DEPTH_MAX} deep"), faults);
        return None;
    }
    let mut tests = Vec::new();
    let mut count = 0;
    for (field, all) in [("And", true), ("Or", false)] {
        if rule.get(field).is_some() {
            count += 1;
            let pointer = rule.at(field);
            let items = rule.list(field, faults);
            let inner =
                items.iter().enumerate().map(|(index, item)| nested(item, format!("{pointer}/{index}"), depth, faults));
            if let Some(inner) = inner.collect::<Option<Vec<_>>>() {
                tests.push(if all { Test::All(inner) } else { Test::Any(inner) });
            }
        }
    }
    if let Some(item) = rule.get("Not") {
        count += 1;
        let pointer = rule.at("Not");
        tests.extend(nested(item, pointer, depth, faults).map(|inner| Test::Not(Box::new(inner))));
    }
    let variable = rule.get("Variable").is_some().then(|| path(rule, "Variable", faults)).flatten();
    for (name, operator, is_path) in OPERATORS {
        let Some(value) = rule.get(name) else { continue };
        count += 1;
        let operand = if is_path {
            path(rule, name, faults).map(Operand::Path)
        } else if let Some(needs) = operator.refuse(value) {
            rule.fault(name, needs, faults);
            None
        } else {
            Some(Operand::Literal(value.clone()))
        };
        if rule.get("Variable").is_none() {
            rule.fault_here("Variable is missing", faults);
        }
        if let (Some(variable), Some(operand)) = (variable.clone(), operand) {
            tests.push(Test::Compare { variable, operator, operand });
        }
    }
    if count != 1 {
        rule.fault_here("a rule has exactly one comparison, And, Or or Not", faults);
    }
    tests.pop().filter(|_| count == 1)
}

fn nested(value: &Value, pointer: String, depth: usize, faults: &mut Vec<Fault>) -> Option<Test> {
    let mut rule = Fields::of(value, pointer, faults)?;
    rule.get("Comment");
    let test = parse(&mut rule, depth + 1, faults);
    rule.finish("a nested rule", super::template::Language::JsonPath, faults);
    test
}

fn path(rule: &mut Fields<'_>, field: &'static str, faults: &mut Vec<Fault>) -> Option<Path> {
    match Path::parse(rule.text(field, faults)?) {
        Ok(path) => Some(path),
        Err(why) => {
            rule.fault(field, why, faults);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(name: &str, left: &Value, right: &Value) -> bool {
        let (_, operator, _) = OPERATORS.iter().find(|(known, ..)| *known == name).unwrap();
        operator.holds(left, right)
    }

    #[test]
    fn operators_compare_values_of_their_own_type() {
        let yes = [
            ("StringEquals", json!("a"), json!("a")),
            ("StringLessThan", json!("a"), json!("b")),
            ("StringGreaterThanEqualsPath", json!("b"), json!("b")),
            ("NumericEquals", json!(1), json!(1.0)),
            ("NumericLessThanEquals", json!(1.5), json!(2)),
            ("NumericGreaterThan", json!(9_007_199_254_740_993_i64), json!(9_007_199_254_740_992_i64)),
            ("BooleanEquals", json!(false), json!(false)),
            ("TimestampEquals", json!("2024-01-01T00:00:00Z"), json!("2024-01-01T01:00:00+01:00")),
            ("TimestampLessThan", json!("2024-01-01T00:00:00.1Z"), json!("2024-01-01T00:00:00.2Z")),
            ("IsNull", json!(null), json!(true)),
            ("IsNumeric", json!("1"), json!(false)),
            ("IsTimestamp", json!("2024-01-01T00:00:00Z"), json!(true)),
            ("IsTimestamp", json!("2024-01-01"), json!(false)),
            ("IsString", json!("x"), json!(true)),
            ("IsBoolean", json!(true), json!(true)),
            ("StringMatches", json!("log-2024.txt"), json!("log-*.txt")),
            ("StringMatches", json!("a*b"), json!("a\\*b")),
            ("StringMatches", json!("abcbd"), json!("a*b*d")),
            ("StringMatches", json!(""), json!("*")),
        ];
        for (name, left, right) in yes {
            assert!(holds(name, &left, &right), "{name} {left} {right}");
        }
        let no = [
            ("StringEquals", json!(1), json!("1")),
            ("NumericEquals", json!("1"), json!(1)),
            ("BooleanEquals", json!("true"), json!(true)),
            ("TimestampEquals", json!("x"), json!("x")),
            ("IsNull", json!(0), json!(true)),
            ("StringMatches", json!("axb"), json!("a\\*b")),
            ("StringMatches", json!("ab"), json!("ab*b")),
            ("StringMatches", json!(5), json!("*")),
        ];
        for (name, left, right) in no {
            assert!(!holds(name, &left, &right), "{name} {left} {right}");
        }
    }
}
