//! JSONata, kept behind a trait because the crate that evaluates it is young.

use std::{cell::OnceCell, fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
pub(super) use jlens_core::Bindings;
use jlens_core::Options;
use serde_json::Value;

/// The largest value that a state may hand on, as JSON text (the quota of Step Functions).
pub(super) const PAYLOAD_MAX_BYTES: usize = 256 * 1024;

const STEPS_MAX: u64 = 200_000;
const DEPTH_MAX: usize = 200;
const STRING_MAX_BYTES: usize = 1024 * 1024;
const ARRAY_MAX_ITEMS: usize = 100_000;
// Steps bound the work of an honest expression; time bounds the one that found a dear step.
const TIME_MAX: Duration = Duration::from_millis(500);

/// A compiled expression.
pub(super) trait Expression: fmt::Debug + Send + Sync {
    /// Its value; `None` is JSONata's undefined.
    fn evaluate(&self, scope: &Scope<'_>) -> Result<Option<Value>, String>;
}

/// What an expression sees: variables, gathered when the first expression asks, and a clock and a seed that make it
/// repeatable.
pub(super) struct Scope<'v> {
    gather: Box<dyn Fn() -> Bindings + 'v>,
    bindings: OnceCell<Bindings>,
    now: DateTime<Utc>,
    seed: u64,
}

impl<'v> Scope<'v> {
    pub(super) fn new(gather: impl Fn() -> Bindings + 'v, now: DateTime<Utc>, seed: u64) -> Self {
        Self { gather: Box::new(gather), bindings: OnceCell::new(), now, seed }
    }
}

/// Compiles the text between `{%` and `%}`.
pub(super) fn compile(source: &str) -> Result<Arc<dyn Expression>, String> {
    let expression = jlens_core::Expression::compile(source).map_err(|why| why.to_string())?;
    Ok(Arc::new(Jlens(expression)))
}

#[derive(Debug)]
struct Jlens(jlens_core::Expression);

impl Expression for Jlens {
    fn evaluate(&self, scope: &Scope<'_>) -> Result<Option<Value>, String> {
        let options = Options::new()
            .now(scope.now.timestamp_millis())
            .seed(scope.seed)
            .max_steps(STEPS_MAX)
            .max_depth(DEPTH_MAX)
            .max_string_length(STRING_MAX_BYTES)
            .max_array_length(ARRAY_MAX_ITEMS)
            .max_result_size(PAYLOAD_MAX_BYTES)
            .timeout(TIME_MAX);
        let bindings = scope.bindings.get_or_init(|| (scope.gather)());
        self.0.evaluate_with(None, bindings, &options).map_err(|why| why.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn evaluate(source: &str) -> Result<Option<Value>, String> {
        let gather = || Bindings::new().var("states", json!({"input": {"n": 3}}));
        let scope = Scope::new(gather, DateTime::UNIX_EPOCH, 7);
        compile(source).unwrap().evaluate(&scope)
    }

    #[test]
    fn clock_and_seed_are_fixed() {
        assert_eq!(evaluate("$millis()").unwrap(), Some(json!(0)));
        assert_eq!(evaluate("$random()").unwrap(), evaluate("$random()").unwrap());
        assert_eq!(evaluate("$states.input.n + 1").unwrap(), Some(json!(4)));
        assert_eq!(evaluate("$states.input.nothing").unwrap(), None);
    }

    #[test]
    fn hostile_expressions_are_capped() {
        assert!(evaluate("($f := function($n) { $f($n + 1) + 1 }; $f(0))").is_err());
        assert!(evaluate("($f := function($s) { $f($s & $s) }; $f('aaaaaaaaaaaaaaaa'))").is_err());
        assert!(evaluate("$sum([1..1000000])").is_err());
        assert!(evaluate("$pad('', 900000)").is_err());
    }
}
