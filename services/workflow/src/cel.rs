//! CEL (https://github.com/google/cel-spec): the small expressions of an envelope, a hook and a subscription, bounded so
//! that a hostile one costs no more than an honest one.

use std::{collections::HashMap, fmt, sync::Arc};

use cel::{
    Context, IdedExpr, Program, Value as Cel,
    common::ast::{EntryExpr, Expr},
    objects::{Key, Map},
};
use serde_json::Value;

/// Characters of an expression.
const SOURCE_MAX: usize = 512;
/// Brackets within brackets, and operators before an operand: the parser recurses.
const NESTING_MAX: usize = 24;
/// What a macro keeps its result in; only with it may a loop add.
const ACCUMULATOR: &str = "@result";
/// Names of types, which are values too.
const TYPES: [&str; 9] = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "uint"];

/// A compiled expression.
pub struct Expression {
    source: String,
    program: Program,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({})", self.source)
    }
}

/// Compiles an expression that sees the variables `names`.
///
/// # Errors
/// Says what is wrong with it.
pub fn compile(source: &str, names: &[&str]) -> Result<Expression, String> {
    if source.chars().count() > SOURCE_MAX {
        return Err(format!("must have at most {SOURCE_MAX} characters"));
    }
    if is_nested(source) {
        return Err(format!("is nested deeper than {NESTING_MAX} levels"));
    }
    let program = Program::compile(source).map_err(|why| one_line(&why.to_string()))?;
    bounded(program.expression(), &Scope { names: names.to_vec(), looping: false })?;
    Ok(Expression { source: source.to_owned(), program })
}

impl Expression {
    /// Its value as JSON.
    ///
    /// # Errors
    /// Says why it has none.
    pub fn evaluate(&self, variables: &[(&str, &Value)]) -> Result<Value, String> {
        let mut context = Context::default();
        for (name, value) in variables {
            context.add_variable_from_value(*name, value_of(value));
        }
        let failed =
            |why: &dyn fmt::Display| format!("the expression '{}' failed: {}", self.source, one_line(&why.to_string()));
        let value = self.program.execute(&context).map_err(|why| failed(&why))?;
        let json = value.json().map_err(|_| failed(&"its value is no JSON"))?;
        Ok(json)
    }

    /// Whether it is true.
    ///
    /// # Errors
    /// When it fails, or is no boolean.
    pub fn holds(&self, variables: &[(&str, &Value)]) -> Result<bool, String> {
        match self.evaluate(variables)? {
            Value::Bool(holds) => Ok(holds),
            _ => Err(format!("the expression '{}' must be true or false", self.source)),
        }
    }

    /// Its value as text: a number or a boolean is written out, null is none.
    ///
    /// # Errors
    /// When it fails, or is a list or a map.
    pub fn text(&self, variables: &[(&str, &Value)]) -> Result<Option<String>, String> {
        match self.evaluate(variables)? {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            scalar @ (Value::Bool(_) | Value::Number(_)) => Ok(Some(scalar.to_string())),
            _ => Err(format!("the expression '{}' must be a text", self.source)),
        }
    }
}

/// Integers as CEL's int, so that `input.n + 1` adds what it looks like.
fn value_of(json: &Value) -> Cel {
    match json {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Cel::Int(whole),
            (None, real) => Cel::Float(real.unwrap_or_default()),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(value_of).collect())),
        Value::Object(fields) => {
            let key = |key: &String| Key::String(Arc::new(key.clone()));
            let map: HashMap<Key, Cel> = fields.iter().map(|(name, value)| (key(name), value_of(value))).collect();
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}

/// Whether the parser would have to recurse deeply.
fn is_nested(source: &str) -> bool {
    let (mut depth, mut prefixes, mut quote) = (0_usize, 0_usize, None);
    for c in source.chars() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        // Each of them may hold the rest of the expression.
        prefixes += usize::from(quote.is_none() && matches!(c, '!' | '-' | '?' | '+' | '*' | '/' | '%'));
        if depth > NESTING_MAX || prefixes > NESTING_MAX * 4 {
            return true;
        }
    }
    false
}

/// What an expression may name at some place.
struct Scope<'n> {
    names: Vec<&'n str>,
    looping: bool,
}

/// Refuses unknown variables, and the two ways to make much of little: loops in loops, and adding texts up in a loop.
fn bounded<'n>(node: &'n IdedExpr, scope: &Scope<'n>) -> Result<(), String> {
    let each = |nodes: &'n [IdedExpr]| nodes.iter().try_for_each(|node| bounded(node, scope));
    let entries = |entries: &'n [cel::common::ast::IdedEntryExpr]| {
        entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::StructField(field) => bounded(&field.value, scope),
            EntryExpr::MapEntry(entry) => bounded(&entry.key, scope).and_then(|()| bounded(&entry.value, scope)),
        })
    };
    match &node.expr {
        Expr::Ident(name) if scope.names.contains(&name.as_str()) || TYPES.contains(&name.as_str()) => Ok(()),
        Expr::Ident(name) => Err(format!("there is no variable {name}; there are {}", scope.names.join(", "))),
        Expr::Comprehension(_) if scope.looping => Err("a macro inside of a macro is not allowed".to_owned()),
        Expr::Comprehension(looped) => {
            bounded(&looped.iter_range, scope)?;
            bounded(&looped.accu_init, scope)?;
            let mut names = scope.names.clone();
            names.extend([looped.iter_var.as_str(), looped.accu_var.as_str(), ACCUMULATOR]);
            let inside = Scope { names, looping: true };
            [&looped.loop_cond, &looped.loop_step, &looped.result]
                .into_iter()
                .try_for_each(|node| bounded(node, &inside))
        }
        Expr::Call(call) => {
            let first = call.args.first().map(|first| &first.expr);
            let accumulates = matches!(first, Some(Expr::Ident(name)) if name == ACCUMULATOR);
            if scope.looping && call.func_name == "_+_" && !accumulates {
                return Err("+ inside of a macro is not allowed".to_owned());
            }
            call.target.iter().try_for_each(|target| bounded(target, scope))?;
            each(&call.args)
        }
        Expr::List(list) => each(&list.elements),
        Expr::Map(map) => entries(&map.entries),
        Expr::Struct(made) => entries(&made.entries),
        Expr::Select(select) => bounded(&select.operand, scope),
        Expr::Unspecified | Expr::Literal(_) => Ok(()),
    }
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn evaluate(source: &str) -> Result<Value, String> {
        let input = json!({"n": 3, "text": "a", "items": [{"sku": "x", "n": 1}, {"sku": "y", "n": 2}], "none": null});
        compile(source, &["input"])?.evaluate(&[("input", &input)])
    }

    #[test]
    fn expressions_have_values() {
        for (source, value) in [
            ("input.n + 1", json!(4)),
            ("input.text + '-' + string(input.n)", json!("a-3")),
            ("input.items.filter(i, i.n > 1).map(i, i.sku)", json!(["y"])),
            ("input.items.exists(i, i.sku == 'x') && has(input.text)", json!(true)),
            (
                "{'order': input.text, 'all': input.items}",
                json!({"order": "a", "all": [{"sku": "x", "n": 1}, {"sku": "y", "n": 2}]}),
            ),
            ("has(input.gone) ? input.gone : 'none'", json!("none")),
            ("input.none", json!(null)),
        ] {
            assert_eq!(evaluate(source), Ok(value), "{source}");
        }
        let input = json!({"n": 3});
        let text = |source| compile(source, &["input"]).unwrap().text(&[("input", &input)]);
        assert_eq!((text("input.n"), text("null")), (Ok(Some("3".to_owned())), Ok(None)));
        assert!(text("input").is_err() && text("input.gone").is_err());
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (source, why) in [
            ("", ""),
            ("input.", ""),
            ("imput.n", "there is no variable imput"),
            ("input.items.map(a, input.items.map(b, b))", "a macro inside of a macro"),
            ("input.items.map(a, input.text + input.text)", "+ inside of a macro"),
        ] {
            let fault = evaluate(source).unwrap_err();
            assert!(fault.contains(why) && !fault.contains('\n'), "{source}: {fault}");
        }
    }

    #[test]
    fn hostile_sources_are_refused() {
        let deep = [("(", ")"), ("[", "]"), ("size(", ")")].map(|(open, close)| {
            let times = 60;
            format!("{}1{}", open.repeat(times), close.repeat(times))
        });
        for source in deep.iter().map(String::as_str).chain([
            &*"!".repeat(400),
            &*"-".repeat(400),
            &*"1+".repeat(200),
            &*"x".repeat(600),
        ]) {
            assert!(evaluate(source).is_err(), "{source}");
        }
        let chain = format!("true{}", " ? true : true".repeat(30));
        let _value = evaluate(&chain);
        let _value = evaluate(&format!("true{}", " && true".repeat(50)));
    }
}
