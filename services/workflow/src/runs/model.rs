//! A run as it is kept, and where it belongs.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use tenon_chassis::{Fault, TenantId};
use uuid::Uuid;

tenon_chassis::id!(RunId, "run", "A run of a workflow.");

/// Where a run is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Queued,
    Running,
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
}

impl State {
    /// As the database keeps it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::TimedOut => "TIMED_OUT",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Whether it is over.
    #[must_use]
    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// The type of the event that tells of it.
    #[must_use]
    pub fn event(self) -> &'static str {
        match self {
            Self::Queued | Self::Running => "tenon.workflow.run.created.v1",
            Self::Succeeded => "tenon.workflow.run.succeeded.v1",
            Self::Failed => "tenon.workflow.run.failed.v1",
            Self::TimedOut => "tenon.workflow.run.timed_out.v1",
            Self::Cancelled => "tenon.workflow.run.cancelled.v1",
        }
    }
}

impl From<String> for State {
    fn from(text: String) -> Self {
        match text.as_str() {
            "QUEUED" => Self::Queued,
            "SUCCEEDED" => Self::Succeeded,
            "FAILED" => Self::Failed,
            "TIMED_OUT" => Self::TimedOut,
            "CANCELLED" => Self::Cancelled,
            // The column's CHECK leaves nothing else.
            _ => Self::Running,
        }
    }
}

/// A run as its callers see it.
#[derive(Debug, Clone)]
pub struct Run {
    pub id: RunId,
    pub workflow_id: String,
    pub version: i32,
    pub entity_id: String,
    pub state: State,
    pub input: Value,
    pub output: Option<Value>,
    pub error: Option<String>,
    pub cause: Option<String>,
    /// What it is searched by, a JSON object.
    pub attributes: Value,
    pub concurrency_key: Option<String>,
    /// The run that started it.
    pub parent_run: Option<RunId>,
    pub trigger: String,
    /// Who paused it.
    pub paused: Option<String>,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// What starts runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Api,
    Cron,
    Event,
    Webhook,
    /// Another run.
    Workflow,
}

impl Trigger {
    /// As the database keeps it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Cron => "cron",
            Self::Event => "event",
            Self::Webhook => "webhook",
            Self::Workflow => "workflow",
        }
    }
}

/// The run, and its wait, that a run answers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    pub run: RunId,
    /// `None` when nothing waits for its end.
    pub token: Option<i64>,
    /// CANCEL, TERMINATE or ABANDON: what becomes of it when the parent ends.
    pub close: &'static str,
}

/// What stands above a run: runs that started one another count in ones, events that started runs in hundreds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth(pub i16);

impl Depth {
    pub const EVENT: i16 = 100;

    /// Runs above it since an event started one.
    #[must_use]
    pub fn runs(self) -> i16 {
        self.0 % Self::EVENT
    }

    /// Events above it.
    #[must_use]
    pub fn events(self) -> u8 {
        u8::try_from(self.0 / Self::EVENT).unwrap_or(u8::MAX)
    }

    /// That of a run which one at this depth starts.
    #[must_use]
    pub fn below(self) -> Self {
        Self(self.0 + 1)
    }

    /// That of a run which an event starts, with so many events above what it tells of.
    #[must_use]
    pub fn after(events: u8) -> Self {
        Self((i16::from(events) + 1).saturating_mul(Self::EVENT))
    }
}

/// A run that is about to be.
#[derive(Debug, Clone)]
pub struct NewRun {
    pub workflow_id: String,
    pub entity_id: String,
    pub input: Value,
    pub created_by: String,
    pub roles: Vec<String>,
    pub traceparent: Option<String>,
    pub trigger: Trigger,
    /// Texts, numbers and booleans that it is searched by.
    pub attributes: Map<String, Value>,
    /// With which runs it takes turns, and how many of them may be at work.
    pub concurrency: Option<(String, i32)>,
    /// The same key with the same request is the same run.
    pub idempotency_key: Option<String>,
    pub parent: Option<Parent>,
    pub depth: Depth,
}

/// Which runs a list shows; an absent filter shows all.
#[derive(Debug, Default)]
pub struct Filter {
    pub workflow_id: Option<String>,
    pub entity_id: Option<String>,
    pub state: Option<State>,
    /// All of these must be as they say.
    pub attributes: Vec<(String, String)>,
    pub created_from: Option<DateTime<Utc>>,
    pub created_before: Option<DateTime<Utc>>,
    pub parent: Option<RunId>,
}

/// Something that happened in a run.
#[derive(Debug)]
pub struct HistoryEvent {
    pub id: i64,
    pub previous_id: i64,
    pub kind: String,
    pub state: String,
    pub details: Value,
    pub time: DateTime<Utc>,
}

impl HistoryEvent {
    /// The events of a step: [[previous id, type, state, details], ...], whose ids count up from the first's.
    pub(crate) fn of_step(first_id: i64, time: DateTime<Utc>, events: Value) -> Vec<Self> {
        let events = match events {
            Value::Array(events) => events,
            _ => Vec::new(),
        };
        let event = |(mut event, id): (Value, i64)| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (previous_id, details) = (event[0].as_i64().unwrap_or_default(), event[3].take());
            Self { id, previous_id, kind: text(&event[1]), state: text(&event[2]), details, time }
        };
        events.into_iter().zip(first_id..).map(event).collect()
    }
}

/// The partition of a run, 0 up to `partitions`: even, and for ever the same.
#[must_use]
pub fn partition(tenant: TenantId, run: RunId, partitions: i16) -> i16 {
    let fold = |uuid: Uuid| {
        let (high, low) = uuid.as_u64_pair();
        high ^ low
    };
    // UUIDv7 begins with the time: multiplied, every bit has a say in the high ones that are taken.
    let mixed = (fold(tenant.uuid()) ^ fold(run.uuid())).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let count = u64::from(partitions.unsigned_abs().max(1));
    i16::try_from(mixed % count).expect("less than a count that is an i16")
}

/// The smallest id of a run that starts at a time: ids begin with it, in milliseconds.
#[must_use]
pub fn first_id(at: DateTime<Utc>) -> Uuid {
    let millis = u64::try_from(at.timestamp_millis()).unwrap_or_default();
    Uuid::from_u64_pair(millis << 16, 0)
}

/// The id in `runs/run_...`; what cannot be one is not found, whatever it is.
#[must_use]
pub fn id_of(name: &str) -> Option<RunId> {
    name.strip_prefix("runs/")?.parse().ok()
}

/// Checks a caller's own id of what a run is about.
///
/// # Errors
/// INVALID_FIELD when it is too long or holds what does not print.
pub fn entity_id(text: &str) -> Result<&str, Fault> {
    if text.chars().count() > 128 || text.chars().any(char::is_control) {
        return Err(Fault::invalid("entity_id", "must have at most 128 characters and none that control"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tenon_chassis::Clock;

    use super::*;

    #[test]
    fn runs_spread_over_all_partitions() {
        let clock = Clock::default();
        let tenant = TenantId::new(&clock);
        let mut counts = [0_u32; 64];
        for _ in 0..6_400 {
            counts[usize::try_from(partition(tenant, RunId::new(&clock), 64)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (40..190).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_step_of_history_reads_back() {
        let events = json!([[0, "ExecutionStarted", "", {"input": 1}], [1, "PassStateEntered", "A", {}]]);
        let events = HistoryEvent::of_step(5, DateTime::UNIX_EPOCH, events);
        let shown: Vec<_> = events.iter().map(|event| (event.id, event.previous_id, event.kind.as_str())).collect();
        assert_eq!(shown, [(5, 0, "ExecutionStarted"), (6, 1, "PassStateEntered")]);
        assert_eq!((events[0].details["input"].as_i64(), events[1].state.as_str()), (Some(1), "A"));
    }

    #[test]
    fn names_and_entities_are_checked() {
        let id = RunId::new(&Clock::default());
        assert_eq!(id_of(&format!("runs/{id}")), Some(id));
        assert_eq!(id_of(&id.to_string()), None);
        assert!(entity_id(&"é".repeat(128)).is_ok());
        assert!(entity_id("a\u{0}").is_err() && entity_id(&"x".repeat(129)).is_err());
    }
}
