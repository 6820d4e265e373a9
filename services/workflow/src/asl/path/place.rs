//! ResultPath: where a result goes in the input.

use serde_json::{Map, Value};

use super::{Path, Root, Step, parse};

/// Where a result goes.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::asl) enum Place {
    /// It takes the place of the input (`$`).
    #[default]
    Whole,
    /// It is dropped (`null`).
    Nowhere,
    At(Path),
}

impl Place {
    /// Parses a reference path.
    pub(in crate::asl) fn parse(text: &str) -> Result<Self, String> {
        let path = parse::path(text)?;
        if path.root != Root::Input || !path.is_reference() {
            return Err(format!("{text} is no reference path: names and indexes from $ on only"));
        }
        Ok(if path.is_whole_input() { Self::Whole } else { Self::At(path) })
    }

    /// The input with the result in its place.
    pub(in crate::asl) fn put(&self, input: &Value, result: Value) -> Result<Value, String> {
        match self {
            Self::Whole => Ok(result),
            Self::Nowhere => Ok(input.clone()),
            Self::At(path) => {
                let mut whole = input.clone();
                let failed = || format!("Unable to apply ReferencePath {} to input {input}", path.text);
                *slot(&mut whole, &path.steps).ok_or_else(failed)? = result;
                Ok(whole)
            }
        }
    }
}

/// The place below a value; objects that are missing on the way are made.
fn slot<'v>(value: &'v mut Value, steps: &[Step]) -> Option<&'v mut Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    let inner = match step {
        Step::Name(name) => {
            if value.is_null() {
                *value = Value::Object(Map::new());
            }
            value.as_object_mut()?.entry(name.clone()).or_insert(Value::Null)
        }
        Step::Index(index) => value.as_array_mut()?.get_mut(usize::try_from(*index).ok()?)?,
        _ => return None,
    };
    slot(inner, rest)
}
