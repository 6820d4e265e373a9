//! The eighteen intrinsic functions with their limits (the Step Functions developer guide, "Intrinsic functions").

use std::collections::HashSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use md5::{Digest as _, Md5};
use serde_json::{Map, Value, json};

use crate::asl::path::equal;

/// Characters that Base64 and hash functions take.
const TEXT_MAX: usize = 10_000;
/// Items that an array which a function makes may have.
pub(in crate::asl) const RANGE_MAX: usize = 1_000;

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Format,
    StringToJson,
    JsonToString,
    Array,
    ArrayPartition,
    ArrayContains,
    ArrayRange,
    ArrayGetItem,
    ArrayLength,
    ArrayUnique,
    Base64Encode,
    Base64Decode,
    Hash,
    JsonMerge,
    MathRandom,
    MathAdd,
    StringSplit,
    Uuid,
}

/// Name, least and most arguments.
const ALL: [(&str, Function, usize, usize); 18] = [
    ("States.Format", Function::Format, 1, usize::MAX),
    ("States.StringToJson", Function::StringToJson, 1, 1),
    ("States.JsonToString", Function::JsonToString, 1, 1),
    ("States.Array", Function::Array, 0, usize::MAX),
    ("States.ArrayPartition", Function::ArrayPartition, 2, 2),
    ("States.ArrayContains", Function::ArrayContains, 2, 2),
    ("States.ArrayRange", Function::ArrayRange, 3, 3),
    ("States.ArrayGetItem", Function::ArrayGetItem, 2, 2),
    ("States.ArrayLength", Function::ArrayLength, 1, 1),
    ("States.ArrayUnique", Function::ArrayUnique, 1, 1),
    ("States.Base64Encode", Function::Base64Encode, 1, 1),
    ("States.Base64Decode", Function::Base64Decode, 1, 1),
    ("States.Hash", Function::Hash, 2, 2),
    ("States.JsonMerge", Function::JsonMerge, 3, 3),
    ("States.MathRandom", Function::MathRandom, 2, 3),
    ("States.MathAdd", Function::MathAdd, 2, 2),
    ("States.StringSplit", Function::StringSplit, 2, 2),
    ("States.UUID", Function::Uuid, 0, 0),
];

impl Function {
    pub(super) fn named(name: &str) -> Option<Self> {
        ALL.iter().find(|(known, ..)| *known == name).map(|(_, function, ..)| *function)
    }

    pub(super) fn arity(self) -> (usize, usize) {
        ALL.iter().find(|(_, function, ..)| *function == self).map_or((0, 0), |(_, _, least, most)| (*least, *most))
    }

    /// The value, or what is wrong with the arguments. `template` is the first argument as it was written.
    pub(super) fn apply(
        self,
        values: &[Value],
        template: Option<&str>,
        random: &dyn Fn() -> u64,
    ) -> Result<Value, String> {
        let first = values.first().unwrap_or(&Value::Null);
        let second = values.get(1).unwrap_or(&Value::Null);
        match self {
            Self::Format => format(template.map_or_else(|| text(first), Ok)?, &values[1..]),
            Self::StringToJson => {
                let text = text(first)?;
                if text.trim().is_empty() {
                    return Ok(Value::Null);
                }
                serde_json::from_str(text).map_err(|_| format!("Invalid JSON string: {text}"))
            }
            Self::JsonToString => Ok(Value::String(first.to_string())),
            Self::Array => Ok(Value::Array(values.to_vec())),
            Self::ArrayPartition => partition(array(first)?, number(second)?),
            Self::ArrayContains => Ok(json!(array(first)?.iter().any(|item| equal(item, second)))),
            Self::ArrayRange => range(number(first)?, number(second)?, number(&values[2])?),
            Self::ArrayGetItem => {
                let (items, index) = (array(first)?, number(second)?);
                let item = usize::try_from(index).ok().and_then(|index| items.get(index));
                item.cloned()
                    .ok_or_else(|| format!("the index {index} is out of bounds for an array of {}", items.len()))
            }
            Self::ArrayLength => Ok(json!(array(first)?.len())),
            Self::ArrayUnique => Ok(unique(array(first)?)),
            Self::Base64Encode => Ok(json!(STANDARD.encode(bounded(first)?))),
            Self::Base64Decode => {
                let bytes = STANDARD.decode(bounded(first)?).map_err(|_| "the text is not Base64".to_owned())?;
                Ok(json!(String::from_utf8(bytes).map_err(|_| "the decoded bytes are not UTF-8".to_owned())?))
            }
            Self::Hash => {
                let data = match first {
                    Value::String(_) => bounded(first)?.to_owned(),
                    other => other.to_string(),
                };
                hash(&data, text(second)?).map(Value::String)
            }
            Self::JsonMerge => merge(first, second, &values[2]),
            Self::MathRandom => {
                let random = match values.get(2) {
                    Some(seed) => mix(number(seed)?.unsigned_abs()),
                    None => random(),
                };
                within(number(first)?, number(second)?, random)
            }
            Self::MathAdd => {
                let sum = number(first)?.checked_add(number(second)?);
                Ok(json!(sum.ok_or("the sum is too large")?))
            }
            Self::StringSplit => {
                let (text, separators) = (text(first)?, text(second)?);
                if separators.is_empty() {
                    return Ok(json!([text]));
                }
                // Each character of the second argument separates.
                Ok(text.split(|char| separators.contains(char)).filter(|part| !part.is_empty()).collect())
            }
            Self::Uuid => Ok(json!(uuid(random(), random()))),
        }
    }
}

fn unique(items: &[Value]) -> Value {
    let mut seen = HashSet::new();
    items.iter().filter(|item| seen.insert(canonical(item))).cloned().collect()
}

/// A text that is the same for equal values.
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.to_string(),
            None => number
                .as_f64()
                .filter(|float| float.fract() == 0.0)
                .map_or(number.to_string(), |float| format!("{float}")),
        },
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Object(fields) => {
            let mut fields: Vec<String> = fields
                .iter()
                .map(|(key, field)| format!("{}:{}", Value::String(key.clone()), canonical(field)))
                .collect();
            fields.sort_unstable();
            format!("{{{}}}", fields.join(","))
        }
        other => other.to_string(),
    }
}

fn format(template: &str, values: &[Value]) -> Result<Value, String> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '\\']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("{}") {
            match values.next() {
                None => return Err("the template has more {} than there are arguments".to_owned()),
                Some(Value::String(text)) => out.push_str(text),
                Some(other) => out.push_str(&other.to_string()),
            }
            rest = after;
        } else if let Some(escaped) = rest.strip_prefix('\\').and_then(|after| after.chars().next()) {
            if !matches!(escaped, '\'' | '{' | '}' | '\\') {
                out.push('\\');
            }
            out.push(escaped);
            rest = &rest[1 + escaped.len_utf8()..];
        } else {
            return Err("a brace of the template is neither {} nor escaped".to_owned());
        }
    }
    out.push_str(rest);
    if values.next().is_some() {
        return Err("there are more arguments than {} in the template".to_owned());
    }
    Ok(Value::String(out))
}

pub(in crate::asl) fn partition(items: &[Value], size: i64) -> Result<Value, String> {
    let size = usize::try_from(size).ok().filter(|size| *size > 0).ok_or("the size of a chunk must be positive")?;
    Ok(items.chunks(size).map(|chunk| Value::Array(chunk.to_vec())).collect())
}

pub(in crate::asl) fn range(first: i64, last: i64, step: i64) -> Result<Value, String> {
    if step == 0 {
        return Err("the step of a range must not be 0".to_owned());
    }
    let (mut items, mut at) = (Vec::new(), first);
    while if step > 0 { at <= last } else { at >= last } {
        if items.len() == RANGE_MAX {
            return Err(format!("a range has at most {RANGE_MAX} items"));
        }
        items.push(json!(at));
        at = at.checked_add(step).ok_or("the range is too large")?;
    }
    Ok(Value::Array(items))
}

/// The hash of a text in hexadecimal digits.
pub(in crate::asl) fn hash(data: &str, algorithm: &str) -> Result<String, String> {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512, digest};
    let bytes: Vec<u8> = match algorithm {
        "MD5" => Md5::digest(data.as_bytes()).to_vec(),
        "SHA-1" => digest(&SHA1_FOR_LEGACY_USE_ONLY, data.as_bytes()).as_ref().to_vec(),
        "SHA-256" => digest(&SHA256, data.as_bytes()).as_ref().to_vec(),
        "SHA-384" => digest(&SHA384, data.as_bytes()).as_ref().to_vec(),
        "SHA-512" => digest(&SHA512, data.as_bytes()).as_ref().to_vec(),
        _ => return Err("the algorithm must be MD5, SHA-1, SHA-256, SHA-384 or SHA-512".to_owned()),
    };
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn merge(left: &Value, right: &Value, deep: &Value) -> Result<Value, String> {
    let (Value::Object(left), Value::Object(right)) = (left, right) else {
        return Err("both of what is merged must be objects".to_owned());
    };
    match deep {
        Value::Bool(false) => {}
        Value::Bool(true) => return Err("deep merging is not supported".to_owned()),
        _ => return Err("the third argument must be true or false".to_owned()),
    }
    let merged: Map<String, Value> = left.clone().into_iter().chain(right.clone()).collect();
    Ok(Value::Object(merged))
}

/// A number of a range, the last one not among them.
fn within(first: i64, last: i64, random: u64) -> Result<Value, String> {
    let width = last.checked_sub(first).and_then(|width| u64::try_from(width).ok()).filter(|width| *width > 0);
    let width = width.ok_or("the end of the range must be above its start")?;
    let offset = i64::try_from(random % width).map_err(|_| "the range is too large".to_owned())?;
    Ok(json!(first + offset))
}

/// A version 4 UUID of two numbers.
pub(in crate::asl) fn uuid(high: u64, low: u64) -> String {
    uuid::Builder::from_random_bytes((u128::from(high) << 64 | u128::from(low)).to_be_bytes()).into_uuid().to_string()
}

/// Splitmix64: a number that looks random, the same for the same input.
pub(in crate::asl) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("a string is needed, not {}", shown(value)))
}

fn bounded(value: &Value) -> Result<&str, String> {
    let text = text(value)?;
    if text.chars().count() > TEXT_MAX {
        return Err(format!("the text has more than {TEXT_MAX} characters"));
    }
    Ok(text)
}

fn array(value: &Value) -> Result<&Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("an array is needed, not {}", shown(value)))
}

/// A whole number; others are rounded.
fn number(value: &Value) -> Result<i64, String> {
    if let Some(number) = value.as_i64() {
        return Ok(number);
    }
    let number = value.as_f64().filter(|number| number.abs() < 9.0e15);
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
    number.map(|number| number.round() as i64).ok_or_else(|| format!("a number is needed, not {}", shown(value)))
}

fn shown(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}
