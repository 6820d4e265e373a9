//! What a simulation came to, as JSON.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::asl::{Event, Outcome};

/// An execution that has ended, with its history.
#[derive(Debug)]
pub struct Report {
    pub outcome: Outcome,
    pub events: Vec<(DateTime<Utc>, Event)>,
}

impl Report {
    #[must_use]
    pub fn has_succeeded(&self) -> bool {
        matches!(self.outcome, Outcome::Succeeded { .. })
    }

    /// `status`, `output`, `error`, `cause` and `events`; what it does not have is null. The error of a timeout is the one
    /// that its last event names.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
        let (status, output, error, cause) = match &self.outcome {
            Outcome::Succeeded { output } => ("SUCCEEDED", output.clone(), Value::Null, Value::Null),
            Outcome::Failed(failure) => ("FAILED", Value::Null, text(&failure.error), text(&failure.cause)),
            Outcome::TimedOut(failure) => ("TIMED_OUT", Value::Null, text(&failure.error), text(&failure.cause)),
            Outcome::Cancelled { cause } => ("ABORTED", Value::Null, Value::Null, text(cause)),
        };
        let events: Vec<Value> = self.events.iter().map(|(time, event)| shown(*time, event)).collect();
        json!({"status": status, "output": output, "error": error, "cause": cause, "events": events})
    }
}

fn shown(time: DateTime<Utc>, event: &Event) -> Value {
    let mut details = event.details.clone();
    let kind = event.kind;
    let named = kind.ends_with("StateEntered") || kind.ends_with("StateExited");
    if named || kind.starts_with("MapIteration") || kind.starts_with("Compensation") {
        details["name"] = json!(event.state);
    } else if kind == "EvaluationFailed" {
        details["state"] = json!(event.state);
    }
    json!({
        "id": event.id,
        "previousEventId": event.previous,
        "type": kind,
        "timestamp": time.to_rfc3339_opts(SecondsFormat::Millis, true),
        "details": details,
    })
}
