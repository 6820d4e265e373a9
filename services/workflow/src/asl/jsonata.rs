//! JSONata, kept behind a trait because the crate that evaluates it is young.

mod extras;

use std::{fmt, sync::Arc, time::Duration};

pub(super) use jlens_core::Bindings;
use jlens_core::{Error, Options};
use serde_json::Value;

use super::scope::Scope;

/// The largest value that a state may hand on, as JSON text (the quota of Step Functions).
pub(super) const PAYLOAD_MAX_BYTES: usize = 256 * 1024;

const STEPS_MAX: u64 = 200_000;
const DEPTH_MAX: usize = 200;
const STRING_MAX_BYTES: usize = 1024 * 1024;
const ARRAY_MAX_ITEMS: usize = 100_000;
/// An expression may make more than a state may hand on: that is judged, and named, where it is handed on.
const RESULT_MAX_BYTES: usize = 2 * PAYLOAD_MAX_BYTES;
// Steps bound the work of an honest expression; time bounds the one that found a dear step.
const TIME_MAX: Duration = Duration::from_millis(500);

/// A compiled expression.
pub(super) trait Expression: fmt::Debug + Send + Sync {
    /// Its value; `None` is JSONata's undefined.
    fn evaluate(&self, scope: &Scope<'_>) -> Result<Option<Value>, String>;

    /// Whether its value, which is none in JSON, is a function.
    fn is_function(&self, scope: &Scope<'_>) -> bool;
}

/// Compiles the text between `{%` and `%}`.
pub(super) fn compile(source: &str) -> Result<Arc<dyn Expression>, String> {
    let expression = jlens_core::Expression::compile(source).map_err(|why| why.message())?;
    let extras = extras::are_used(source);
    Ok(Arc::new(Jlens { expression, extras, context: reads_context(source) }))
}

#[derive(Debug)]
struct Jlens {
    expression: jlens_core::Expression,
    /// Whether it may call what Step Functions adds to JSONata.
    extras: bool,
    /// Whether it may read the context object, which is dear to make.
    context: bool,
}

/// Whether `$states` is followed by anything but one of its other fields.
fn reads_context(source: &str) -> bool {
    let is_other = |rest: &str| {
        let field = rest.trim_start().strip_prefix('.').map(str::trim_start).unwrap_or_default();
        let end = field.find(|char: char| !char.is_ascii_alphanumeric() && char != '_').unwrap_or(field.len());
        matches!(&field[..end], "input" | "result" | "errorOutput")
    };
    source.split("$states").skip(1).any(|rest| !is_other(rest))
}

impl Expression for Jlens {
    fn evaluate(&self, scope: &Scope<'_>) -> Result<Option<Value>, String> {
        let seed = scope.random();
        let options = options(scope, seed);
        let bindings = scope.bindings(self.context);
        let evaluated = if self.extras {
            let bindings = extras::add(bindings.clone(), seed);
            self.expression.evaluate_with(None, &bindings, &options)
        } else {
            self.expression.evaluate_with(None, bindings, &options)
        };
        evaluated.map_err(|why| describe(&why))
    }

    fn is_function(&self, scope: &Scope<'_>) -> bool {
        let source = format!("$type(({}))", self.expression.source());
        let Ok(asked) = jlens_core::Expression::compile(&source) else { return false };
        let bindings = extras::add(scope.bindings(true).clone(), 0);
        asked.evaluate_with(None, &bindings, &options(scope, 0)).is_ok_and(|kind| kind == Some("function".into()))
    }
}

fn options(scope: &Scope<'_>, seed: u64) -> Options {
    Options::new()
        .now(scope.now().timestamp_millis())
        .seed(seed)
        .max_steps(STEPS_MAX)
        .max_depth(DEPTH_MAX)
        .max_string_length(STRING_MAX_BYTES)
        .max_array_length(ARRAY_MAX_ITEMS)
        .max_result_size(RESULT_MAX_BYTES)
        .timeout(TIME_MAX)
}

/// What stands behind "threw an error during evaluation": a coded message is a sentence of its own; limits are told in the
/// words of Step Functions.
fn describe(why: &Error) -> String {
    match why.code() {
        "D1011" => ": Stack overflow error: Check for non-terminating recursive function. Consider rewriting as \
                    tail-recursive"
            .to_owned(),
        "D1012" | "U1006" => ": Expression evaluation timeout: Check for infinite loop".to_owned(),
        "U1001" => ": Expression evaluation memory limit exceeded: Check for excessive memory usage".to_owned(),
        code if code.starts_with(['D', 'S', 'T']) => format!(". {code}: {}", why.message()),
        _ => format!(": {}", why.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_reads_the_context_pays_for_it() {
        for source in ["1", "$states.input.a", "$states . result", "$x + $states.errorOutput.Error", "$states.input[0]"]
        {
            assert!(!reads_context(source), "{source}");
        }
        for source in
            ["$states", "$states.context", "$states.*", "$states.`context`", "$states.inputs", "$keys($states)"]
        {
            assert!(reads_context(source), "{source}");
        }
    }
}
