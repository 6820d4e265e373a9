//! Errors of a state: their names, and which Retrier or Catcher they match.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// An error with its cause, as `$states.errorOutput` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The error's name, `States.TaskFailed`; empty when there is none.
    pub error: String,
    /// The error's text; empty when there is none.
    pub cause: String,
    /// That who failed asks to come again later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushback: Option<Box<Pushback>>,
}

/// Come again later, as Retry-After and RetryInfo say it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushback {
    /// Milliseconds from the refusal on; 0 when it was not said how many.
    #[serde(default)]
    pub after_ms: u64,
    /// Who it is that limits how often it is called; nothing when it cannot be called for another reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<String>,
}

impl Failure {
    pub const TIMEOUT: &str = "States.Timeout";
    pub const TASK_FAILED: &str = "States.TaskFailed";
    pub const RUNTIME: &str = "States.Runtime";
    pub const DATA_LIMIT_EXCEEDED: &str = "States.DataLimitExceeded";
    pub(super) const ALL: &str = "States.ALL";
    pub const HEARTBEAT_TIMEOUT: &str = "States.HeartbeatTimeout";
    pub(super) const QUERY_EVALUATION_ERROR: &str = "States.QueryEvaluationError";
    pub(super) const INTRINSIC_FAILURE: &str = "States.IntrinsicFailure";
    pub(super) const RESULT_PATH_MATCH_FAILURE: &str = "States.ResultPathMatchFailure";
    pub(super) const TOO_MANY_FAILED: &str = "States.ExceedToleratedFailureThreshold";
    pub(super) const ITEM_READER_FAILED: &str = "States.ItemReaderFailed";

    pub fn new(error: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { error: error.into(), cause: cause.into(), pushback: None }
    }

    /// With the wish that it be tried again later.
    #[must_use]
    pub fn pushed_back(mut self, pushback: Option<Pushback>) -> Self {
        self.pushback = pushback.map(Box::new);
        self
    }

    /// The value of `$states.errorOutput`; what is missing is an empty string.
    pub(super) fn output(&self) -> Value {
        json!({"Error": self.error, "Cause": self.cause})
    }

    /// The details of an event; what is missing is left out.
    pub(super) fn details(&self) -> Value {
        let mut details = Map::new();
        self.describe(&mut details);
        Value::Object(details)
    }

    pub(super) fn describe(&self, details: &mut Map<String, Value>) {
        for (key, text) in [("error", &self.error), ("cause", &self.cause)] {
            if !text.is_empty() {
                details.insert(key.to_owned(), Value::String(text.clone()));
            }
        }
    }
}

/// A failure on its way through the states, with what the interpreter must know of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trouble {
    pub(super) failure: Failure,
    pub(super) nature: Nature,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Nature {
    /// It was reported: by a task, by a Fail state, by a branch.
    Reported,
    /// A task let its heartbeat go: it has two names.
    Heartbeat,
    /// A JSONata expression failed, at this place of the state.
    Evaluation { location: String },
    /// A rule of the language was broken while the state ran.
    Broken,
    /// As `Broken`, and the execution fails whatever is caught.
    Fatal,
    /// A `Fatal` that its state has described.
    Over,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self { failure, nature: Nature::Reported }
    }
}

impl Trouble {
    /// An expression that has no usable value.
    pub(super) fn evaluation(location: impl Into<String>, cause: impl Into<String>) -> Self {
        let failure = Failure::new(Failure::QUERY_EVALUATION_ERROR, cause);
        Self { failure, nature: Nature::Evaluation { location: location.into() } }
    }

    /// What no Catch catches.
    pub(super) fn fatal(cause: impl Into<String>) -> Self {
        Self { failure: Failure::new(Failure::RUNTIME, cause), nature: Nature::Fatal }
    }

    pub(super) fn broken(error: &str, cause: impl Into<String>) -> Self {
        Self { failure: Failure::new(error, cause), nature: Nature::Broken }
    }

    pub(super) fn is_fatal(&self) -> bool {
        matches!(self.nature, Nature::Fatal | Nature::Over)
    }

    /// Names the state in the cause, once.
    pub(super) fn in_state(mut self, state: &str, entered: u64) -> Self {
        if matches!(self.nature, Nature::Evaluation { .. } | Nature::Broken | Nature::Fatal) {
            let why = &self.failure.cause;
            self.failure.cause = format!(
                "An error occurred while executing the state '{state}' (entered at the event id #{entered}). {why}"
            );
        }
        if self.nature == Nature::Fatal {
            self.nature = Nature::Over;
        }
        self
    }

    /// Whether one of the names of an ErrorEquals is this error's. A wildcard never matches what no retry can mend
    /// (the Step Functions developer guide, "Handling errors"). That `States.ALL` catches States.DataLimitExceeded is not
    /// what the States Language says, but what Step Functions does.
    pub(super) fn matches(&self, error_equals: &[String]) -> bool {
        let error = self.failure.error.as_str();
        !self.is_fatal()
            && error_equals.iter().any(|name| match name.as_str() {
                Failure::ALL => error != Failure::RUNTIME,
                Failure::TASK_FAILED => {
                    error != Failure::RUNTIME && error != Failure::TIMEOUT && error != Failure::DATA_LIMIT_EXCEEDED
                }
                Failure::TIMEOUT => error == Failure::TIMEOUT || error == Failure::HEARTBEAT_TIMEOUT,
                Failure::HEARTBEAT_TIMEOUT if self.nature == Nature::Heartbeat => true,
                name => name == error,
            })
    }
}
