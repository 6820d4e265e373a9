//! A task as a handler sees it, and how it fails.

use std::time::SystemTime;

use prost_types::value::Kind;
use serde_json::{Map, Number, Value};
use tenon_proto::workflow::v1::ActivityTask;
use tokio_util::sync::CancellationToken;

/// A task to be done.
#[derive(Debug, Clone)]
pub struct Task {
    /// The queue that it came from.
    pub queue: String,
    /// The run that waits for it, `runs/run_...`.
    pub run: String,
    /// The Arguments of its state.
    pub input: Value,
    /// 1 for the first worker that got it.
    pub attempt: i32,
    /// When its state times out.
    pub deadline: Option<SystemTime>,
    /// The same for each attempt at this task.
    pub idempotency_key: String,
    /// The trace of the request that started the run (W3C Trace Context).
    pub traceparent: String,
    pub(crate) cancelled: CancellationToken,
}

impl Task {
    pub(crate) fn of(task: ActivityTask, cancelled: CancellationToken) -> Self {
        Self {
            queue: task.queue,
            run: task.run,
            input: task.input.map_or(Value::Null, from_pb),
            attempt: task.attempt,
            deadline: task.deadline.and_then(|at| SystemTime::try_from(at).ok()),
            idempotency_key: task.idempotency_key,
            traceparent: task.traceparent,
            cancelled,
        }
    }

    /// Returns when nobody waits for this attempt any more. The handler is dropped at its next await then; whoever works on
    /// a thread of its own looks here.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }
}

/// Why a task failed: what Retry and Catch of its state match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskError {
    /// The error's name.
    pub error: String,
    /// The error's text.
    pub cause: String,
}

impl TaskError {
    pub fn new(error: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { error: error.into(), cause: cause.into() }
    }
}

/// Any error fails the task as `States.TaskFailed`.
impl<E: std::error::Error> From<E> for TaskError {
    fn from(error: E) -> Self {
        Self::new("States.TaskFailed", error.to_string())
    }
}

fn from_pb(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(flag),
        Some(Kind::NumberValue(number)) => from_double(number),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(from_pb).collect()),
        Some(Kind::StructValue(fields)) => {
            Value::Object(fields.fields.into_iter().map(|(key, value)| (key, from_pb(value))).collect::<Map<_, _>>())
        }
    }
}

/// A whole number becomes an integer again: the wire knows doubles only.
fn from_double(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
        return Value::from(number as i64);
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

pub(crate) fn to_pb(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.into_iter().map(to_pb).collect() })
        }
        Value::Object(fields) => Kind::StructValue(prost_types::Struct {
            fields: fields.into_iter().map(|(key, value)| (key, to_pb(value))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}
