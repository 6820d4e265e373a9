//! Errors of a state: their names, and which Retrier or Catcher they match.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// An error with its cause, as `$states.errorOutput` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The error's name, `States.TaskFailed`.
    pub error: String,
    /// The error's text.
    pub cause: String,
}

impl Failure {
    pub const TIMEOUT: &str = "States.Timeout";
    pub const TASK_FAILED: &str = "States.TaskFailed";
    pub const RUNTIME: &str = "States.Runtime";
    pub const DATA_LIMIT_EXCEEDED: &str = "States.DataLimitExceeded";
    pub(super) const ALL: &str = "States.ALL";
    pub(super) const HEARTBEAT_TIMEOUT: &str = "States.HeartbeatTimeout";
    pub(super) const NO_CHOICE_MATCHED: &str = "States.NoChoiceMatched";
    pub(super) const QUERY_EVALUATION_ERROR: &str = "States.QueryEvaluationError";

    pub fn new(error: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { error: error.into(), cause: cause.into() }
    }

    /// An expression that has no usable value.
    pub(super) fn query(field: &str, source: &str, why: &str) -> Self {
        Self::new(Self::QUERY_EVALUATION_ERROR, format!("{field}: the expression '{source}' failed: {why}"))
    }

    /// A field whose value is not what the field needs.
    pub(super) fn field(field: &str, needs: &str, value: &Value) -> Self {
        let mut shown = value.to_string();
        if shown.len() > 80 {
            shown = shown.chars().take(80).chain("...".chars()).collect();
        }
        Self::new(Self::QUERY_EVALUATION_ERROR, format!("{field} needs {needs}, not {shown}"))
    }

    /// Whether one of the names of an ErrorEquals is this error's. A wildcard never matches what no retry can mend
    /// (the Step Functions developer guide, "Handling errors").
    pub(super) fn matches(&self, error_equals: &[String]) -> bool {
        let terminal = self.error == Self::RUNTIME || self.error == Self::DATA_LIMIT_EXCEEDED;
        error_equals.iter().any(|name| match name.as_str() {
            Self::ALL => !terminal,
            Self::TASK_FAILED => !terminal && self.error != Self::TIMEOUT,
            Self::TIMEOUT => self.error == Self::TIMEOUT || self.error == Self::HEARTBEAT_TIMEOUT,
            name => name == self.error,
        })
    }

    /// The value of `$states.errorOutput`.
    pub(super) fn output(&self) -> Value {
        json!({"Error": self.error, "Cause": self.cause})
    }

    /// The details of an event.
    pub(super) fn details(&self) -> Value {
        json!({"error": self.error, "cause": self.cause})
    }
}
