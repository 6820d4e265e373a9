//! Templates: JSON in which each string of the form `{% ... %}` is a JSONata expression.

use std::sync::Arc;

use serde_json::Value;

use super::{
    failure::Failure,
    fields::escape,
    jsonata::{self, Expression, PAYLOAD_MAX_BYTES, Scope},
};

/// Levels of arrays and objects in a value that is handed on.
const DEPTH_MAX: usize = 48;

/// A compiled template.
#[derive(Debug)]
pub(super) enum Template {
    Literal(Value),
    Expression { source: String, compiled: Arc<dyn Expression> },
    Array(Vec<Template>),
    Object(Vec<(String, Template)>),
}

impl Template {
    /// Compiles a value; each bad expression is handed to `fault` with its pointer below the value.
    pub(super) fn compile(value: &Value, pointer: &str, fault: &mut dyn FnMut(String, String)) -> Self {
        match value {
            Value::String(text) if text.starts_with("{%") || text.ends_with("%}") => {
                Self::expression(text, pointer, fault)
            }
            Value::Array(items) => {
                let compile =
                    |(index, item): (usize, &Value)| Self::compile(item, &format!("{pointer}/{index}"), fault);
                let items: Vec<Self> = items.iter().enumerate().map(compile).collect();
                if items.iter().all(Self::is_literal) { Self::Literal(value.clone()) } else { Self::Array(items) }
            }
            Value::Object(fields) => {
                let compile = |(key, field): (&String, &Value)| {
                    (key.clone(), Self::compile(field, &format!("{pointer}/{}", escape(key)), fault))
                };
                let fields: Vec<(String, Self)> = fields.iter().map(compile).collect();
                let literal = fields.iter().all(|(_, field)| field.is_literal());
                if literal { Self::Literal(value.clone()) } else { Self::Object(fields) }
            }
            other => Self::Literal(other.clone()),
        }
    }

    fn expression(text: &str, pointer: &str, fault: &mut dyn FnMut(String, String)) -> Self {
        let source = text.strip_prefix("{%").and_then(|rest| rest.strip_suffix("%}"));
        let compiled = match source.map(jsonata::compile) {
            None => Err("an expression starts with {% and ends with %}".to_owned()),
            Some(Err(why)) => Err(format!("bad JSONata: {why}")),
            Some(Ok(compiled)) => Ok(compiled),
        };
        match compiled {
            Ok(compiled) => Self::Expression { source: text.to_owned(), compiled },
            Err(why) => {
                fault(pointer.to_owned(), why);
                Self::Literal(Value::Null)
            }
        }
    }

    /// Whether it is the same whatever the variables are.
    pub(super) fn is_literal(&self) -> bool {
        matches!(self, Self::Literal(_))
    }

    /// The literal value, if it is one.
    pub(super) fn literal(&self) -> Option<&Value> {
        if let Self::Literal(value) = self { Some(value) } else { None }
    }

    /// Its value with the variables of `scope`. `field` is named in the failure.
    pub(super) fn evaluate(&self, field: &str, scope: &Scope<'_>) -> Result<Value, Failure> {
        let value = self.value(field, scope)?;
        bounded(field, &value)?;
        Ok(value)
    }

    fn value(&self, field: &str, scope: &Scope<'_>) -> Result<Value, Failure> {
        match self {
            Self::Literal(value) => Ok(value.clone()),
            Self::Array(items) => items.iter().map(|item| item.value(field, scope)).collect(),
            Self::Object(fields) => {
                fields.iter().map(|(key, value)| Ok((key.clone(), value.value(field, scope)?))).collect()
            }
            Self::Expression { source, compiled } => match compiled.evaluate(scope) {
                Ok(Some(value)) => Ok(value),
                Ok(None) => Err(Failure::query(field, source, "it is undefined")),
                Err(why) => Err(Failure::query(field, source, &why)),
            },
        }
    }
}

/// Refuses values that are too large to be handed on, or nested so deep that the state of an execution could not be
/// read back (serde_json reads 128 levels).
pub(super) fn bounded(what: &str, value: &Value) -> Result<(), Failure> {
    let cause = if size(value) > PAYLOAD_MAX_BYTES {
        format!("{what} is larger than {PAYLOAD_MAX_BYTES} bytes")
    } else if is_deeper(value, DEPTH_MAX) {
        format!("{what} is nested deeper than {DEPTH_MAX} levels")
    } else {
        return Ok(());
    };
    Err(Failure::new(Failure::DATA_LIMIT_EXCEEDED, cause))
}

fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| is_deeper(item, levels - 1)),
        Value::Object(fields) => levels == 0 || fields.values().any(|field| is_deeper(field, levels - 1)),
        _ => false,
    }
}

/// About the length of a value as JSON text: escapes are not counted.
fn size(value: &Value) -> usize {
    match value {
        Value::Null => 4,
        Value::Bool(_) => 5,
        Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<usize>(),
        Value::Object(fields) => 2 + fields.iter().map(|(key, field)| key.len() + 4 + size(field)).sum::<usize>(),
    }
}
