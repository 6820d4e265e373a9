//! A run in memory, and what one step of it comes to.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use tenon_chassis::{Clock, TenantId, bus};
use tokio::task::AbortHandle;

use super::store::{NewEvent, Row, Update};
use crate::{
    asl::{Command, Event, Execution, Failure, Input, Machine, Outcome, Step},
    runs::model::{RunId, State},
};

/// A run that sleeps longer than this sleeps in the database.
const AWAKE: TimeDelta = TimeDelta::seconds(5);

/// What a run is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) tenant: TenantId,
    pub(super) run: RunId,
}

/// What stays the same while a run is in memory.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) key: Key,
    pub(super) partition: i16,
    pub(super) workflow_id: String,
    pub(super) version: i32,
    pub(super) entity_id: String,
    pub(super) roles: Vec<String>,
    pub(super) traceparent: Option<String>,
}

/// A run in memory.
pub(super) struct Active {
    pub(super) about: Arc<About>,
    pub(super) machine: Arc<Machine>,
    pub(super) execution: Execution,
    /// Calls in flight by token.
    pub(super) calls: HashMap<u64, AbortHandle>,
}

/// What one step of a run comes to: what to write, and what to do once it is written.
pub(super) struct Advanced {
    /// Absent when the step broke the engine's own code: the run is given up.
    pub(super) active: Option<Box<Active>>,
    pub(super) about: Arc<About>,
    pub(super) update: Update,
    pub(super) history: Vec<NewEvent>,
    pub(super) event: Option<bus::Event>,
    pub(super) commands: Vec<Command>,
}

impl Row {
    pub(super) fn key(&self) -> Key {
        Key { tenant: self.tenant_id.into(), run: self.id.into() }
    }

    pub(super) fn about(&self) -> Arc<About> {
        Arc::new(About {
            key: self.key(),
            partition: self.partition,
            workflow_id: self.workflow_id.clone(),
            version: self.version,
            entity_id: self.entity_id.clone(),
            roles: self.roles.clone(),
            traceparent: self.traceparent.clone(),
        })
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.calls.values().for_each(AbortHandle::abort);
    }
}

impl Active {
    /// Takes what came in; `None` when it led to nothing.
    pub(super) fn advance(
        mut self: Box<Self>,
        inputs: Vec<Input>,
        now: DateTime<Utc>,
        clock: &Clock,
    ) -> Result<Advanced, Box<Self>> {
        let about = self.about.clone();
        let stepped = catch_unwind(AssertUnwindSafe(|| {
            let mut all = Step::default();
            for input in inputs {
                let step = self.execution.advance(&self.machine, input, now);
                all.events.extend(step.events);
                all.commands.extend(step.commands);
                all.outcome = all.outcome.or(step.outcome);
            }
            all
        }));
        let Ok(step) = stepped else {
            drop(self);
            return Ok(Advanced::abandoned(about, "the engine failed at this step", now, clock));
        };
        if step.events.is_empty() && step.commands.is_empty() {
            return Err(self);
        }
        let history = step.events.into_iter().map(|event| about.history(event, now)).collect();
        let (update, event) = match &step.outcome {
            Some(outcome) => {
                let update = about.ended(outcome, now);
                let event = about.event(&update, clock);
                (update, Some(event))
            }
            None => (about.at_work(&self.execution, now), None),
        };
        Ok(Advanced { active: Some(self), about, update, history, event, commands: step.commands })
    }
}

impl Advanced {
    /// The end of a run that cannot go on.
    pub(super) fn abandoned(about: Arc<About>, cause: &str, now: DateTime<Utc>, clock: &Clock) -> Self {
        tracing::error!(run.id = %about.key.run, tenant.id = %about.key.tenant, cause, "run given up");
        let update = about.ended(&Outcome::Failed(Failure::new(Failure::RUNTIME, cause)), now);
        let event = Some(about.event(&update, clock));
        Self { active: None, about, update, history: Vec::new(), event, commands: Vec::new() }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.update.ended_at.is_some()
    }
}

impl About {
    /// The key of a step's call: the same for each repetition of an attempt.
    pub(super) fn idempotency_key(&self, token: u64) -> String {
        format!("{}/{token}", self.key.run)
    }

    fn history(&self, event: Event, time: DateTime<Utc>) -> NewEvent {
        let Event { id, previous, kind, state, details } = event;
        let number = |id: u64| i64::try_from(id).unwrap_or(i64::MAX);
        let (id, previous_id) = (number(id), number(previous));
        // A name may hold what a text column does not.
        let (state, details) = (state.replace('\0', ""), details.to_string());
        NewEvent { tenant: self.key.tenant, run: self.key.run, id, previous_id, kind, state, details, time }
    }

    fn at_work(&self, execution: &Execution, now: DateTime<Utc>) -> Update {
        let state = serde_json::to_string(execution).expect("plain data with string keys is JSON");
        let mut due_at: Option<DateTime<Utc>> = None;
        for command in execution.outstanding() {
            match command {
                Command::StartTimer { due, .. } if due > now + AWAKE => {
                    due_at = Some(due_at.map_or(due, |earliest| earliest.min(due)));
                }
                Command::StartTimer { .. } | Command::CallTask { .. } => {
                    due_at = None;
                    break;
                }
            }
        }
        let (tenant, run) = (self.key.tenant, self.key.run);
        let (output, error, cause, ended_at) = (None, None, None, None);
        let state_name = State::Running.as_str();
        Update { tenant, run, state: state_name, output, error, cause, execution: Some(state), due_at, ended_at }
    }

    fn ended(&self, outcome: &Outcome, now: DateTime<Utc>) -> Update {
        let printable = |text: &str| Some(text.replace('\0', ""));
        let (state, output, error, cause) = match outcome {
            Outcome::Succeeded { output } => (State::Succeeded, Some(output.to_string()), None, None),
            Outcome::Failed(failure) => (State::Failed, None, printable(&failure.error), printable(&failure.cause)),
            Outcome::TimedOut(failure) => (State::TimedOut, None, printable(&failure.error), printable(&failure.cause)),
            Outcome::Cancelled { cause } => (State::Cancelled, None, None, printable(cause)),
        };
        let (tenant, run, state) = (self.key.tenant, self.key.run, state.as_str());
        Update { tenant, run, state, output, error, cause, execution: None, due_at: None, ended_at: Some(now) }
    }

    fn event(&self, update: &Update, clock: &Clock) -> bus::Event {
        let state = State::from(update.state.to_owned());
        let subject = format!("runs/{}", self.key.run);
        let mut data = json!({
            "run": subject,
            "workflow": format!("workflows/{}", self.workflow_id),
            "version": self.version,
            "entityId": self.entity_id,
            "state": update.state,
        });
        if let Some(error) = &update.error {
            data["error"] = json!(error);
        }
        let mut event = bus::Event::new(clock, "workflow", self.key.tenant, (state.event(), subject), data);
        event.traceparent.clone_from(&self.traceparent);
        event
    }
}
