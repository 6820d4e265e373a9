//! What a step comes to in the database, and what has to be done once it is there.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use tenon_chassis::{Clock, bus, id};
use uuid::Uuid;

use super::{
    active::{About, Active, Key, Opened, Rest, Taken, Work},
    births::Newborn,
    family::{Child, Note, Orphans},
    store::Row,
};
use crate::{
    asl::{Command, Event, Outcome},
    payloads::Payload,
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
    /// Whether `hold` is this step's doing; else what the database says stays.
    pub(super) rehold: bool,
    pub(super) mail: i32,
    pub(super) ended_at: Option<DateTime<Utc>>,
    pub(super) purge_at: Option<DateTime<Utc>>,
}

/// The events of one step.
#[derive(Debug, Clone)]
pub(super) struct Chapter {
    pub(super) first_id: i64,
    pub(super) last_id: i64,
    /// [[previous id, type, state, details], ...] as JSON text, large values apart.
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
    /// Large values that the update and the chapter refer to and that are not on disk yet.
    pub(super) payloads: Vec<Payload>,
    pub(super) event: Option<bus::Event>,
    /// Set when this is the run's first step, and the run itself has to be added.
    pub(super) newborn: Option<Newborn>,
    pub(super) commands: Vec<Command>,
    pub(super) resumed: bool,
    pub(super) read: Vec<Uuid>,
    pub(super) keep: Vec<(Uuid, Kept)>,
    pub(super) opened: Vec<Opened>,
    pub(super) closed: Vec<u64>,
    pub(super) children: Vec<Child>,
    pub(super) orphans: Vec<Orphans>,
    /// What the parent is told.
    pub(super) note: Option<Note>,
}

impl Row {
    pub(super) fn key(&self) -> Key {
        Key { tenant: self.tenant_id.into(), run: self.id.into() }
    }

    pub(super) fn about(&self, retention_days: u32) -> Arc<About> {
        Arc::new(About {
            key: self.key(),
            partition: self.partition,
            workflow_id: self.workflow_id.clone(),
            version: self.version,
            entity_id: self.entity_id.clone(),
            created_by: self.created_by.clone(),
            roles: self.roles.clone(),
            traceparent: self.traceparent.clone(),
            concurrency_key: self.concurrency_key.clone(),
            parent: self.parent_run.map(|run| (run.into(), self.parent_token)),
            depth: self.depth,
            retention_days,
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
            let (closed, has_children) = (self.waits.keys().copied().collect(), self.has_children);
            drop(self);
            let taken = Taken { closed, has_children, ..Taken::given_up("the engine failed at this step") };
            return Ok(Advanced::given_up(about, taken, now, clock));
        };
        if !taken.changed {
            return Err(self);
        }
        let update = match &taken.outcome {
            Some(outcome) => ended(&about, outcome, now, self.kept_to_retry(outcome, &taken)),
            None => self.at_work(now, taken.rehold),
        };
        Ok(Advanced::new(about, update, taken, (now, clock)).with(self))
    }

    /// The state that a retry goes on from; none when what went before was undone.
    fn kept_to_retry(&self, outcome: &Outcome, taken: &Taken) -> Option<String> {
        let unwound = taken.events.iter().any(|event| event.kind.starts_with("Compensation"));
        let failed = !unwound && matches!(outcome, Outcome::Failed(_) | Outcome::TimedOut(_));
        failed.then(|| serde_json::to_string(&self.execution).ok()).flatten()
    }

    fn at_work(&self, now: DateTime<Utc>, rehold: bool) -> Update {
        let execution = || serde_json::to_string(&self.execution).expect("plain data with string keys is JSON");
        Update {
            state: if self.queued { State::Queued } else { State::Running },
            output: None,
            error: None,
            cause: None,
            execution: (!self.fresh).then(execution),
            rest: self.rest(now),
            hold: self.hold.as_ref().map(|hold| hold.0.clone()),
            rehold,
            mail: self.mail,
            ended_at: None,
            purge_at: None,
        }
    }
}

impl Advanced {
    fn new(about: Arc<About>, update: Update, taken: Taken, (now, clock): (DateTime<Utc>, &Clock)) -> Self {
        let key = about.key;
        let note = taken.outcome.as_ref().and_then(|outcome| about.note(outcome, clock));
        let mut orphans: Vec<_> =
            taken.orphaned.iter().map(|token| Orphans { parent: key, token: Some(*token) }).collect();
        if update.ended_at.is_some() && taken.has_children {
            orphans = vec![Orphans { parent: key, token: None }];
        }
        let asked = taken.opened.iter().filter(|opened| opened.wait.kind == "workflow");
        let children = asked.map(|opened| Child::new(&about, opened, clock)).collect();
        let event = update.ended_at.map(|_| about.event(update.state, update.error.as_deref(), clock));
        Self {
            active: None,
            update,
            chapter: chapter(taken.events, now),
            payloads: Vec::new(),
            event,
            newborn: None,
            commands: taken.commands,
            resumed: taken.resumed,
            read: taken.read,
            keep: taken.keep.iter().map(|message| (id::uuid_v7(clock), Kept::from(message))).collect(),
            opened: taken.opened,
            closed: taken.closed,
            children,
            orphans,
            note,
            about,
        }
    }

    fn with(mut self, mut active: Box<Active>) -> Self {
        let keeper = &mut active.payloads;
        self.update.execution = self.update.execution.map(|text| keeper.fold_snapshot(text));
        if let Some(chapter) = &mut self.chapter {
            chapter.events = keeper.fold_events(std::mem::take(&mut chapter.events));
        }
        self.payloads = keeper.take_new();
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
        let update = ended(&about, &outcome, now, None);
        Self::new(about, update, taken, (now, clock))
    }

    /// Whether this is the end of a run that could not go on.
    pub(super) fn is_given_up(&self) -> bool {
        self.active.is_none()
    }

    /// Whether other runs may be due because of it.
    pub(super) fn touches_others(&self) -> bool {
        let turn = self.has_ended() && self.about.concurrency_key.is_some();
        turn || self.note.is_some() || !self.children.is_empty() || !self.orphans.is_empty()
    }

    /// Whether the run goes on in memory once the step is written.
    pub(super) fn rests_in_memory(&self) -> bool {
        self.active.is_some() && !self.has_ended() && self.update.rest == Rest::Memory
    }

    pub(super) fn has_ended(&self) -> bool {
        self.update.ended_at.is_some()
    }
}

fn ended(about: &About, outcome: &Outcome, now: DateTime<Utc>, execution: Option<String>) -> Update {
    let printable = |text: &str| Some(text.replace('\0', ""));
    let (state, output, error, cause) = match outcome {
        Outcome::Succeeded { output } => (State::Succeeded, Some(output.to_string()), None, None),
        Outcome::Failed(failure) => (State::Failed, None, printable(&failure.error), printable(&failure.cause)),
        Outcome::TimedOut(failure) => (State::TimedOut, None, printable(&failure.error), printable(&failure.cause)),
        Outcome::Cancelled { cause } => (State::Cancelled, None, None, printable(cause)),
    };
    let (rest, hold, rehold, mail) = (Rest::Until(None), None, true, 0);
    let purge_at = Some(now + TimeDelta::days(about.retention_days.into()));
    Update { state, output, error, cause, execution, rest, hold, rehold, mail, ended_at: Some(now), purge_at }
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
