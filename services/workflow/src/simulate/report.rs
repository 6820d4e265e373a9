//! What a simulation came to, as JSON.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use crate::asl::{Event, Outcome};

/// An execution that has ended, with its history.
#[derive(Debug)]
pub struct Report {
    pub outcome: Outcome,
    pub events: Vec<(DateTime<Utc>, Event)>,
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `details` of every type under this one name; what they hold are JSON values.
    Plain,
    /// As Step Functions' GetExecutionHistory answers: `taskScheduledEventDetails`, with JSON in strings.
    StepFunctions,
}

impl Report {
    #[must_use]
    pub fn has_succeeded(&self) -> bool {
        matches!(self.outcome, Outcome::Succeeded { .. })
    }

    /// `status`, `output`, `error`, `cause` and `events`; what it does not have is null. The error of a timeout is the one
    /// that its last event names.
    #[must_use]
    pub fn to_json(&self, form: Form) -> Value {
        let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
        let (status, output, error, cause) = match &self.outcome {
            Outcome::Succeeded { output } => ("SUCCEEDED", output.clone(), Value::Null, Value::Null),
            Outcome::Failed(failure) => ("FAILED", Value::Null, text(&failure.error), text(&failure.cause)),
            Outcome::TimedOut(failure) => ("TIMED_OUT", Value::Null, text(&failure.error), text(&failure.cause)),
            Outcome::Cancelled { cause } => ("ABORTED", Value::Null, Value::Null, text(cause)),
        };
        let events: Vec<Value> = self.events.iter().map(|(time, event)| shown(*time, event, form)).collect();
        json!({"status": status, "output": output, "error": error, "cause": cause, "events": events})
    }
}

fn shown(time: DateTime<Utc>, event: &Event, form: Form) -> Value {
    let mut details = event.details.clone();
    let kind = event.kind;
    let named = kind.ends_with("StateEntered") || kind.ends_with("StateExited");
    if named || kind.starts_with("MapIteration") || kind.starts_with("Compensation") {
        details["name"] = json!(event.state);
    } else if kind == "EvaluationFailed" {
        details["state"] = json!(event.state);
    }
    let mut shown = json!({
        "id": event.id,
        "previousEventId": event.previous,
        "type": kind,
        "timestamp": time.to_rfc3339_opts(SecondsFormat::Millis, true),
    });
    match form {
        Form::Plain => shown["details"] = details,
        Form::StepFunctions => {
            if let Some(key) = key(kind) {
                shown[key] = in_strings(details);
            }
        }
    }
    shown
}

/// Where Step Functions has the details of a type; some types have none.
fn key(kind: &str) -> Option<String> {
    if kind.ends_with("StateEntered") {
        return Some("stateEnteredEventDetails".to_owned());
    }
    if kind.ends_with("StateExited") {
        return Some("stateExitedEventDetails".to_owned());
    }
    let state = ["Started", "Succeeded", "Failed", "Aborted"].iter().any(|end| {
        let kind = kind.strip_suffix(end).unwrap_or_default();
        kind.ends_with("State")
    });
    let bare = matches!(kind, "LambdaFunctionStarted" | "MapRunSucceeded" | "MapRunAborted");
    if (state && kind != "MapStateStarted") || bare {
        return None;
    }
    let (first, rest) = kind.split_at(1);
    Some(format!("{}{rest}EventDetails", first.to_lowercase()))
}

/// Writes what is JSON of the execution as text, and says beside it that nothing was cut off.
fn in_strings(details: Value) -> Value {
    let Value::Object(fields) = details else { return details };
    let mut written = Map::new();
    for (name, value) in fields {
        let (value, is_cut) = match (name.as_str(), value) {
            ("input" | "output", value) => (json!(value.to_string()), true),
            ("parameters", value) => (json!(value.to_string()), false),
            ("assignedVariables", Value::Object(variables)) => {
                let each = variables.into_iter().map(|(name, value)| (name, json!(value.to_string())));
                (Value::Object(each.collect()), true)
            }
            (_, value) => (value, false),
        };
        if is_cut {
            written.insert(format!("{name}Details"), json!({"truncated": false}));
        }
        written.insert(name, value);
    }
    Value::Object(written)
}
