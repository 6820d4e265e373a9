//! The state of an execution as data: its flows, what each waits for, and the undos that it has gathered.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    execution::{Command, Outcome},
    resource::Resource,
};

/// What stays the same over an execution's life, and its counters.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) workflow: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) role: String,
    #[serde(skip)]
    pub(super) input: Value,
    pub(super) started_at: DateTime<Utc>,
    pub(super) seed: u64,
    pub(super) last_event: u64,
    pub(super) last_token: u64,
    /// The longest history, when that is less than anyone's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) events_max: Option<u64>,
    /// What undoes the states that succeeded, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) undos: Vec<Undo>,
}

/// What undoes a state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Undo {
    pub(super) state: String,
    pub(super) resource: String,
    pub(super) arguments: Value,
}

/// The undos of an execution that has failed, at work.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Unwinding {
    pub(super) outcome: Outcome,
    /// The undo that runs; those before it wait in the head.
    pub(super) undo: Undo,
    pub(super) attempt: u32,
    /// The call, or nothing while a timer runs towards the next attempt.
    pub(super) token: Option<u64>,
    pub(super) timer: Option<Timer>,
    /// Who has refused the last try, for being called too often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) limited_by: Option<String>,
}

/// What has failed and is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried<'e> {
    pub state: &'e str,
    /// Who has refused the last try, for being called too often.
    pub limited_by: Option<&'e str>,
}

/// A timer that is running.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Timer {
    pub(super) token: u64,
    pub(super) due: DateTime<Utc>,
}

/// One thread of control: the root, a branch of a Parallel or an iteration of a Map.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Flow {
    pub(super) state: String,
    pub(super) input: Value,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(super) variables: Map<String, Value>,
    pub(super) entered_at: DateTime<Utc>,
    /// The event on entering the state.
    pub(super) entered: u64,
    /// What the flow's next event follows.
    pub(super) last_event: u64,
    /// As `last_event`, or an event beside it since.
    pub(super) tail_event: u64,
    /// Retries so far, per Retrier of the state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) attempts: Vec<u32>,
    /// Retries so far, in a state that can have some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retries: Option<u32>,
    /// The iteration that this flow is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) item: Option<Item>,
    /// An item of a distributed Map: its events are not those of the execution.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) quiet: bool,
    pub(super) waiting: Waiting,
}

/// An item of a Map.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) index: usize,
    pub(super) value: Value,
}

/// What a flow waits for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Waiting {
    /// Nothing: its state is about to be entered.
    Ready,
    Task(Call),
    Timer(Timer),
    Retry(Retry),
    /// For its turn: it has entered many states in a row.
    Pause(Timer),
    Parallel {
        branches: Vec<Flow>,
    },
    Map(Box<Iterations>),
    /// For the items of a Map that are read from elsewhere.
    Items(Call),
    Done {
        output: Value,
    },
}

/// The pause before a retry.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Retry {
    pub(super) token: u64,
    pub(super) due: DateTime<Utc>,
    /// Who has refused the try before it, for being called too often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) limited_by: Option<String>,
}

/// A task that was called.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) token: u64,
    pub(super) resource: String,
    pub(super) arguments: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) timeout_seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) heartbeat_seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) timeout: Option<Timer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) heartbeat: Option<Timer>,
    /// Whether the history tells that it started.
    pub(super) started: bool,
}

/// The iterations of a Map at work.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Iterations {
    /// Items, or batches of them; those before `next` have been taken.
    pub(super) items: Vec<Value>,
    pub(super) next: usize,
    pub(super) limit: usize,
    pub(super) running: BTreeMap<usize, Flow>,
    pub(super) results: BTreeMap<usize, Value>,
    pub(super) failed: usize,
    /// Failures that are one too many.
    pub(super) fails_at: usize,
    /// Whether the items are selected already: those of batches are.
    pub(super) selected: bool,
    /// The name of the run of a distributed Map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<String>,
}

impl Flow {
    pub(super) fn new(state: &str, input: Value, last_event: u64, now: DateTime<Utc>) -> Self {
        Self {
            state: state.to_owned(),
            input,
            variables: Map::new(),
            entered_at: now,
            entered: 0,
            last_event,
            tail_event: last_event,
            attempts: Vec::new(),
            retries: None,
            item: None,
            quiet: false,
            waiting: Waiting::Ready,
        }
    }

    /// The flows inside of this one.
    pub(super) fn inner_mut(&mut self) -> Vec<&mut Flow> {
        match &mut self.waiting {
            Waiting::Parallel { branches } => branches.iter_mut().collect(),
            Waiting::Map(at) => at.running.values_mut().collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn outstanding(&self, commands: &mut Vec<Command>) {
        match &self.waiting {
            Waiting::Ready | Waiting::Done { .. } => {}
            Waiting::Task(call) | Waiting::Items(call) => {
                commands.push(call.command(&self.state));
                let timers = call.timeout.iter().chain(&call.heartbeat);
                commands.extend(timers.map(|timer| timer.command()));
            }
            Waiting::Timer(timer) | Waiting::Pause(timer) => commands.push(timer.command()),
            Waiting::Retry(retry) => commands.push(Command::StartTimer { token: retry.token, due: retry.due }),
            Waiting::Parallel { branches } => branches.iter().for_each(|branch| branch.outstanding(commands)),
            Waiting::Map(at) => at.running.values().for_each(|flow| flow.outstanding(commands)),
        }
    }

    /// The pause before a retry that a timer is, if it is one.
    pub(super) fn retry(&self, token: u64) -> Option<Tried<'_>> {
        match &self.waiting {
            Waiting::Retry(retry) if retry.token == token => {
                Some(Tried { state: &self.state, limited_by: retry.limited_by.as_deref() })
            }
            Waiting::Parallel { branches } => branches.iter().find_map(|branch| branch.retry(token)),
            Waiting::Map(at) => at.running.values().find_map(|flow| flow.retry(token)),
            _ => None,
        }
    }
}

impl Call {
    pub(super) fn command(&self, state: &str) -> Command {
        Command::CallTask {
            token: self.token,
            state: state.to_owned(),
            resource: self.resource.clone(),
            arguments: self.arguments.clone(),
            timeout_seconds: self.timeout_seconds,
            heartbeat_seconds: self.heartbeat_seconds,
        }
    }

    pub(super) fn kind(&self) -> Resource<'_> {
        Resource::of(&self.resource)
    }
}

impl Timer {
    pub(super) fn command(self) -> Command {
        Command::StartTimer { token: self.token, due: self.due }
    }
}

impl Unwinding {
    pub(super) fn outstanding(&self, commands: &mut Vec<Command>) {
        if let Some(token) = self.token {
            commands.push(self.undo.command(token));
        }
        commands.extend(self.timer.map(Timer::command));
    }

    /// The pause before the next try, if the timer is that: while the undo is called it bounds the call.
    pub(super) fn retry(&self, token: u64) -> Option<Tried<'_>> {
        let pauses = self.token.is_none() && self.timer.is_some_and(|timer| timer.token == token);
        pauses.then(|| Tried { state: &self.undo.state, limited_by: self.limited_by.as_deref() })
    }
}

impl Undo {
    pub(super) fn command(&self, token: u64) -> Command {
        Command::CallTask {
            token,
            state: self.state.clone(),
            resource: self.resource.clone(),
            arguments: self.arguments.clone(),
            timeout_seconds: Some(super::compensation::TIMEOUT_SECONDS),
            heartbeat_seconds: None,
        }
    }
}
