//! History events, named as Step Functions names them.

use serde_json::Value;

use super::model::Kind;

/// Something that happened in an execution.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// 1, 2, 3 ... within the execution.
    pub id: u64,
    /// The event that led to this one; 0 is none.
    pub previous: u64,
    /// The type, `PassStateEntered`.
    pub kind: &'static str,
    /// The state's name; empty on events of the execution itself.
    pub state: String,
    /// Input, output, error, cause ...
    pub details: Value,
}

/// The type of the event on entering a state.
pub(super) fn entered(kind: &Kind) -> &'static str {
    match kind {
        Kind::Pass { .. } => "PassStateEntered",
        Kind::Succeed => "SucceedStateEntered",
        Kind::Fail { .. } => "FailStateEntered",
        Kind::Wait(_) => "WaitStateEntered",
        Kind::Choice { .. } => "ChoiceStateEntered",
        Kind::Task(_) => "TaskStateEntered",
        Kind::Parallel { .. } => "ParallelStateEntered",
        Kind::Map(_) => "MapStateEntered",
    }
}

/// The type of the event on leaving a state.
pub(super) fn exited(kind: &Kind) -> &'static str {
    match kind {
        Kind::Pass { .. } => "PassStateExited",
        Kind::Succeed => "SucceedStateExited",
        Kind::Fail { .. } => "FailStateExited",
        Kind::Wait(_) => "WaitStateExited",
        Kind::Choice { .. } => "ChoiceStateExited",
        Kind::Task(_) => "TaskStateExited",
        Kind::Parallel { .. } => "ParallelStateExited",
        Kind::Map(_) => "MapStateExited",
    }
}

/// The type of the event on cutting a state short; most states end as they are entered.
pub(super) fn aborted(kind: &Kind) -> Option<&'static str> {
    match kind {
        Kind::Wait(_) => Some("WaitStateAborted"),
        Kind::Task(_) => Some("TaskStateAborted"),
        Kind::Parallel { .. } => Some("ParallelStateAborted"),
        Kind::Map(_) => Some("MapStateAborted"),
        Kind::Pass { .. } | Kind::Succeed | Kind::Fail { .. } | Kind::Choice { .. } => None,
    }
}
