//! What a step comes to in the database, and what has to be done once it is there.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde_json::json;
use tenon_chassis::{Clock, bus, id};
use uuid::Uuid;

use super::{
    active::{About, Active, Key, Opened, Rest, Taken, Work},
    births::Newborn,
    store::Row,
};
use crate::{
    asl::{Command, Event, Outcome},
    runs::{mail::Kept, model::State},
};

/// What a step makes of a run.
#[derive(Debug, Clone)]
pub(super) struct Update {
    pub(super) state: State,
    pub(super) output: Option<String>,
    pub(super) error: Option<String>,
    pub(super) cause: Option<String>,
    pub(super) execution: Option<String>,
    pub(super) rest: Rest,
    pub(super) hold: Option<String>,
    pub(super) mail: i32,
    pub(super) ended_at: Option<DateTime<Utc>>,
}

/// The events of one step.
#[derive(Debug, Clone)]
pub(super) struct Chapter {
    pub(super) first_id: i64,
    pub(super) last_id: i64,
    /// [[previous id, type, state, details], ...] as JSON text.
    pub(super) events: String,
    pub(super) time: DateTime<Utc>,
}

/// What one step of a run comes to: what to write, and what to do once it is written.
pub(super) struct Advanced {
    /// Absent when the step broke the engine's own code: the run is given up.
    pub(super) active: Option<Box<Active>>,
    pub(super) about: Arc<About>,
    pub(super) update: Update,
    pub(super) chapter: Option<Chapter>,
    pub(super) event: Option<bus::Event>,
    /// Set when this is the run's first step, and the run itself has to be added.
    pub(super) newborn: Option<Newborn>,
    pub(super) commands: Vec<Command>,
    pub(super) resumed: bool,
    pub(super) read: Vec<Uuid>,
    pub(super) keep: Vec<(Uuid, Kept)>,
    pub(super) opened: Vec<Opened>,
    pub(super) closed: Vec<u64>,
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

impl Active {
    /// Does the work; gives the run back as it was when it led to nothing.
    pub(super) fn step(
        mut self: Box<Self>,
        work: Vec<Work>,
        now: DateTime<Utc>,
        clock: &Clock,
    ) -> Result<Advanced, Box<Self>> {
        let about = self.about.clone();
        let Ok(taken) = catch_unwind(AssertUnwindSafe(|| self.take(work, now))) else {
            let closed = self.waits.keys().copied().collect();
            drop(self);
            let taken = Taken { closed, ..Taken::given_up("the engine failed at this step") };
            return Ok(Advanced::given_up(about, taken, now, clock));
        };
        if !taken.changed {
            return Err(self);
        }
        let update = match &taken.outcome {
            Some(outcome) => ended(outcome, now),
            None => self.at_work(now),
        };
        Ok(Advanced::new(about, update, taken, (now, clock)).with(self))
    }

    fn at_work(&self, now: DateTime<Utc>) -> Update {
        let execution = || serde_json::to_string(&self.execution).expect("plain data with string keys is JSON");
        Update {
            state: if self.queued { State::Queued } else { State::Running },
            output: None,
            error: None,
            cause: None,
            execution: (!self.fresh).then(execution),
            rest: self.rest(now),
            hold: self.hold.as_ref().map(|hold| hold.0.clone()),
            mail: self.mail,
            ended_at: None,
        }
    }
}

impl Advanced {
    fn new(about: Arc<About>, update: Update, taken: Taken, (now, clock): (DateTime<Utc>, &Clock)) -> Self {
        let event = update.ended_at.map(|_| about.event(update.state, update.error.as_deref(), clock));
        Self {
            active: None,
            update,
            chapter: chapter(taken.events, now),
            event,
            newborn: None,
            commands: taken.commands,
            resumed: taken.resumed,
            read: taken.read,
            keep: taken.keep.iter().map(|message| (id::uuid_v7(clock), Kept::from(message))).collect(),
            opened: taken.opened,
            closed: taken.closed,
            about,
        }
    }

    fn with(mut self, mut active: Box<Active>) -> Self {
        // Calls that nothing waits for any more.
        let live: Vec<u64> = active.execution.outstanding().iter().map(Command::token).collect();
        active.calls.retain(|token, call| {
            let kept = live.contains(token);
            if !kept {
                call.abort();
            }
            kept
        });
        self.active = Some(active);
        self
    }

    /// The end of a run that cannot go on.
    pub(super) fn given_up(about: Arc<About>, taken: Taken, now: DateTime<Utc>, clock: &Clock) -> Self {
        let outcome = taken.outcome.clone().unwrap_or(Outcome::Cancelled { cause: String::new() });
        tracing::error!(run.id = %about.key.run, tenant.id = %about.key.tenant, ?outcome, "run given up");
        Self::new(about, ended(&outcome, now), taken, (now, clock))
    }

    /// Whether this is the end of a run that could not go on.
    pub(super) fn is_given_up(&self) -> bool {
        self.active.is_none()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.update.ended_at.is_some()
    }
}

fn ended(outcome: &Outcome, now: DateTime<Utc>) -> Update {
    let printable = |text: &str| Some(text.replace('\0', ""));
    let (state, output, error, cause) = match outcome {
        Outcome::Succeeded { output } => (State::Succeeded, Some(output.to_string()), None, None),
        Outcome::Failed(failure) => (State::Failed, None, printable(&failure.error), printable(&failure.cause)),
        Outcome::TimedOut(failure) => (State::TimedOut, None, printable(&failure.error), printable(&failure.cause)),
        Outcome::Cancelled { cause } => (State::Cancelled, None, None, printable(cause)),
    };
    let (rest, hold, mail, execution, ended_at) = (Rest::Until(None), None, 0, None, Some(now));
    Update { state, output, error, cause, execution, rest, hold, mail, ended_at }
}

fn chapter(events: Vec<Event>, time: DateTime<Utc>) -> Option<Chapter> {
    let number = |id: u64| i64::try_from(id).unwrap_or(i64::MAX);
    let (first_id, last_id) = (number(events.first()?.id), number(events.last()?.id));
    let event = |event: Event| {
        // A name may hold what a text column does not.
        let state = event.state.replace('\0', "");
        json!([event.previous, event.kind, state, event.details])
    };
    let events = serde_json::Value::Array(events.into_iter().map(event).collect()).to_string();
    Some(Chapter { first_id, last_id, events, time })
}

impl About {
    /// Tells of a state that the run came to.
    pub(super) fn event(&self, state: State, error: Option<&str>, clock: &Clock) -> bus::Event {
        let subject = format!("runs/{}", self.key.run);
        let mut data = json!({
            "run": subject,
            "workflow": format!("workflows/{}", self.workflow_id),
            "version": self.version,
            "entityId": self.entity_id,
            "state": state.as_str(),
        });
        if let Some(error) = error {
            data["error"] = json!(error);
        }
        let mut event = bus::Event::new(clock, "workflow", self.key.tenant, (state.event(), subject), data);
        event.traceparent.clone_from(&self.traceparent);
        event
    }
}
