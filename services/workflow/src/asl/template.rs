//! Templates: JSON with JSONata in strings of the form `{% ... %}`, or with JSONPath behind keys that end in `.$`.

use std::{borrow::Cow, io, sync::Arc};

use serde_json::Value;

use super::{
    failure::{Failure, Trouble},
    fields::escape,
    intrinsic::{Broken, Call},
    jsonata::{self, Expression, PAYLOAD_MAX_BYTES},
    path::{Miss, Path},
    scope::Scope,
};

/// Levels of arrays and objects in a value that is handed on.
const DEPTH_MAX: usize = 48;

/// A compiled template.
#[derive(Debug)]
pub(super) enum Template {
    Literal(Value),
    Expression { source: String, compiled: Arc<dyn Expression> },
    Query(Query),
    Array(Vec<Template>),
    Object(Vec<(String, Template)>),
}

/// What a field of JSONPath names: a path or a call of an intrinsic function.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Query {
    Path(Path),
    Call(Call),
}

/// Which language a template is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    JsonPath,
    Jsonata,
}

type OnFault<'f> = &'f mut dyn FnMut(String, String);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if Call::is_one(text) { Call::parse(text).map(Self::Call) } else { Path::parse(text).map(Self::Path) }
    }

    /// Its value; `field` is named when there is none.
    pub(super) fn evaluate<'s>(&self, field: &str, scope: &'s Scope<'_>) -> Result<Cow<'s, Value>, Trouble> {
        let path = match self {
            Self::Path(path) => path,
            Self::Call(call) => return called(call, scope).map(Cow::Owned),
        };
        scope.find(path).map_err(|miss| {
            let root = scope.root_of(path).map(Value::to_string).unwrap_or_default();
            let text = &path.text;
            match miss {
                Miss::TooMany => {
                    Trouble::fatal(format!("The JSONPath '{text}' specified for the field '{field}' finds too much"))
                }
                _ => Trouble::fatal(format!(
                    "The JSONPath '{text}' specified for the field '{field}' could not be found in the input '{root}'"
                )),
            }
        })
    }
}

fn called(call: &Call, scope: &Scope<'_>) -> Result<Value, Trouble> {
    let describe = |why: String| format!("The function '{}' had the following error: {why}", call.text);
    call.evaluate(scope).map_err(|broken| match broken {
        _ if scope.is_overdrawn() => scope.too_large(),
        Broken::Missing(path) => {
            // Step Functions shows a path into the context object as if it were one into the input.
            let shown = path.strip_prefix('$').filter(|rest| rest.starts_with('$')).unwrap_or(&path);
            let input = &*scope.view.root;
            Trouble::fatal(describe(format!(
                "The JsonPath argument for the field '{shown}' could not be found in the input '{input}'"
            )))
        }
        Broken::Refused(why) => Trouble::broken(Failure::INTRINSIC_FAILURE, describe(why)),
    })
}

impl Template {
    /// Compiles a value; each fault is handed to `fault` with its pointer.
    pub(super) fn compile(value: &Value, language: Language, pointer: &str, fault: OnFault<'_>) -> Self {
        match value {
            Value::String(text) if language == Language::Jsonata && is_expression(text) => {
                Self::expression(text, pointer, fault)
            }
            Value::Array(items) => {
                let compile = |(index, item): (usize, &Value)| {
                    Self::compile(item, language, &format!("{pointer}/{index}"), fault)
                };
                let items: Vec<Self> = items.iter().enumerate().map(compile).collect();
                if items.iter().all(Self::is_literal) { Self::Literal(value.clone()) } else { Self::Array(items) }
            }
            Value::Object(fields) => {
                let compile = |(key, field): (&String, &Value)| {
                    let pointer = format!("{pointer}/{}", escape(key));
                    match key.strip_suffix(".$").filter(|_| language == Language::JsonPath) {
                        Some(name) => (name.to_owned(), Self::query(field, &pointer, fault)),
                        None => (key.clone(), Self::compile(field, language, &pointer, fault)),
                    }
                };
                let fields: Vec<(String, Self)> = fields.iter().map(compile).collect();
                let literal = fields.iter().all(|(_, field)| field.is_literal());
                if literal { Self::Literal(value.clone()) } else { Self::Object(fields) }
            }
            other => Self::Literal(other.clone()),
        }
    }

    fn query(value: &Value, pointer: &str, fault: OnFault<'_>) -> Self {
        let parsed = match value {
            Value::String(text) if text.starts_with('$') || Call::is_one(text) => Query::parse(text),
            _ => Err("the value of a field whose name ends in .$ is a path or an intrinsic function".to_owned()),
        };
        parsed.map(Self::Query).unwrap_or_else(|why| {
            fault(pointer.to_owned(), why);
            Self::Array(Vec::new())
        })
    }

    fn expression(text: &str, pointer: &str, fault: OnFault<'_>) -> Self {
        let source = text.strip_prefix("{%").and_then(|rest| rest.strip_suffix("%}")).map(str::trim);
        let compiled = match source.map(jsonata::compile) {
            None => Err("an expression starts with {% and ends with %}".to_owned()),
            Some(Err(why)) => Err(format!("bad JSONata: {why}")),
            Some(Ok(compiled)) => Ok(compiled),
        };
        match compiled {
            Ok(compiled) => Self::Expression { source: source.unwrap_or_default().to_owned(), compiled },
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

    /// Its value. `field` says where it stands.
    pub(super) fn evaluate(&self, field: &str, scope: &Scope<'_>) -> Result<Value, Trouble> {
        match self {
            Self::Literal(value) => Ok(value.clone()),
            Self::Array(items) => {
                let each = items.iter().enumerate();
                each.map(|(index, item)| item.inside(scope, || format!("{field}[{index}]"))).collect()
            }
            Self::Object(fields) => {
                let each = fields.iter();
                each.map(|(key, value)| Ok((key.clone(), value.of_key(field, key, scope)?))).collect()
            }
            Self::Query(query) => scope.charged(query.evaluate(field, scope)?),
            Self::Expression { source, compiled } => {
                let why = match compiled.evaluate(scope) {
                    Ok(Some(value)) => return scope.charged(Cow::Owned(value)),
                    Ok(None) if compiled.is_function(scope) => "returned an unsupported result type.".to_owned(),
                    Ok(None) => "returned nothing (undefined).".to_owned(),
                    Err(why) => format!("threw an error during evaluation{why}"),
                };
                let cause = format!("The JSONata expression '{source}' specified for the field '{field}' {why}");
                Err(Trouble::evaluation(field, cause))
            }
        }
    }

    fn of_key(&self, field: &str, key: &str, scope: &Scope<'_>) -> Result<Value, Trouble> {
        let Self::Query(query) = self else { return self.inside(scope, || format!("{field}/{key}")) };
        if let Query::Path(path) = query
            && scope.find(path) == Err(Miss::PastTheEnd)
        {
            // Only here an index past the end is null.
            return Ok(Value::Null);
        }
        scope.charged(query.evaluate(&format!("{key}.$"), scope)?)
    }

    /// Names the field only when it is needed.
    fn inside(&self, scope: &Scope<'_>, field: impl Fn() -> String) -> Result<Value, Trouble> {
        match self {
            Self::Literal(value) => Ok(value.clone()),
            other => other.evaluate(&field(), scope),
        }
    }

    /// The failure of a value that is not what the field needs.
    pub(super) fn wrong(&self, field: &str, needs: &str, value: &Value) -> Trouble {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        match self {
            Self::Expression { source, .. } if kind != needs => Trouble::evaluation(
                field,
                format!(
                    "The JSONata expression '{source}' specified for the field '{field}' returned an unexpected result type. \
                     Expected '{needs}', but was '{kind}' for value: {value}"
                ),
            ),
            Self::Expression { source, .. } => Trouble::evaluation(
                field,
                format!(
                    "The JSONata expression '{source}' specified for the field '{field}' returned a value that is out of \
                     range: {value}"
                ),
            ),
            _ => Trouble::fatal(format!("The value for the field '{field}' must be a valid {needs}, but was: {value}")),
        }
    }
}

fn is_expression(text: &str) -> bool {
    text.starts_with("{%") || text.ends_with("%}")
}

/// Refuses values that are too large to be handed on, or nested so deep that the state of an execution could not be
/// read back (serde_json reads 128 levels). `what` is a state or a resource.
pub(super) fn bounded(what: &str, value: &Value) -> Result<(), Failure> {
    let cause = if size_at_most(value) > PAYLOAD_MAX_BYTES && size(value) > PAYLOAD_MAX_BYTES {
        format!(
            "The state/task '{what}' returned a result with a size exceeding the maximum number of bytes service limit."
        )
    } else if is_deeper(value, DEPTH_MAX) {
        format!("The state/task '{what}' returned a result that is nested deeper than {DEPTH_MAX} levels.")
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

/// About how much room a value takes; quick, and never far below its length as JSON text.
pub(super) fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 8,
        Value::Array(items) => 8 + items.iter().map(weight).sum::<usize>(),
        Value::Object(fields) => 8 + fields.iter().map(|(key, field)| key.len() + 8 + weight(field)).sum::<usize>(),
    }
}

/// What the JSON text is no longer than.
fn size_at_most(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 25,
        Value::String(text) => 6 * text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| size_at_most(item) + 1).sum::<usize>(),
        Value::Object(fields) => {
            2 + fields.iter().map(|(key, field)| 6 * key.len() + 4 + size_at_most(field)).sum::<usize>()
        }
    }
}

/// The length of a value as JSON text.
pub(super) fn size(value: &Value) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // A value is always JSON, and counting never fails.
    serde_json::to_writer(&mut count, value).map_or(usize::MAX, |()| count.0)
}
