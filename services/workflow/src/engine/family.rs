//! Runs that start runs: children are added with the step that asks for them, and a parent hears of their end with it.

mod store;

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tenon_chassis::{Clock, SystemTx, bus};
use uuid::Uuid;

use super::{
    active::{About, Key, Opened},
    change::Advanced,
    writer::Writer,
};
use crate::{
    asl::{Failure, Outcome},
    error::Error,
    runs::{
        mail::{Kept, Message},
        model::{Depth, NewRun, Parent, RunId, State, Trigger, partition},
        start::{QUEUED_MAX, admitted, texts},
        store as runs,
    },
};

/// Runs above a run at most: a workflow cannot start itself without end.
const DEPTH_MAX: i16 = 10;
const _: () = assert!(DEPTH_MAX < Depth::EVENT, "runs are counted below the events");
/// What runs of runs are counted on, as the policy of CreateRun names it.
const METER: &str = "workflow_runs";

/// A run that a step asks for.
#[derive(Debug, Clone)]
pub(super) struct Child {
    id: RunId,
    token: u64,
    /// Why it cannot be, or what it is.
    new: Result<NewRun, Failure>,
    waits: bool,
}

/// A message that a step sends to another run, or to its own.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub(super) id: Uuid,
    pub(super) to: Key,
    pub(super) kept: Kept,
}

/// Children whose parent has no more use for them: all of a run's, or the one behind a wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Orphans {
    pub(super) parent: Key,
    pub(super) token: Option<u64>,
}

impl Child {
    /// The child that a wait on `workflow:ID` asks for. Arguments: {"input", "mode": "wait" or "detach",
    /// "parentClosePolicy": "CANCEL", "TERMINATE" or "ABANDON"}.
    pub(super) fn new(about: &About, opened: &Opened, clock: &Clock) -> Self {
        let arguments: Value = serde_json::from_str(&opened.arguments).unwrap_or_default();
        let (id, token) = (RunId::new(clock), opened.token);
        let waits = arguments["mode"] != "detach";
        let new = new_run(about, (&opened.wait.name, token), &arguments, waits);
        Self { id, token, new, waits }
    }
}

fn new_run(about: &About, (workflow, token): (&str, u64), arguments: &Value, waits: bool) -> Result<NewRun, Failure> {
    let refused = |why: &str| Failure::new("INVALID_ARGUMENTS", why);
    let known = ["input", "mode", "parentClosePolicy", "entityId"];
    let fields = arguments.as_object().ok_or_else(|| refused("Arguments must be an object"))?;
    if let Some(field) = fields.keys().find(|field| !known.contains(&field.as_str())) {
        return Err(refused(&format!("there is no field {field}: there are input, mode, parentClosePolicy, entityId")));
    }
    let text = |field: &str, default: &'static str| match fields.get(field) {
        None => Ok(default.to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(refused(&format!("{field} must be a text"))),
    };
    if !["wait", "detach"].contains(&text("mode", "wait")?.as_str()) {
        return Err(refused("mode must be wait or detach"));
    }
    let close = match text("parentClosePolicy", if waits { "CANCEL" } else { "ABANDON" })?.as_str() {
        "CANCEL" => "CANCEL",
        "TERMINATE" => "TERMINATE",
        "ABANDON" => "ABANDON",
        _ => return Err(refused("parentClosePolicy must be CANCEL, TERMINATE or ABANDON")),
    };
    let depth = Depth(about.depth);
    if depth.runs() >= DEPTH_MAX {
        let why = format!("there are {DEPTH_MAX} runs above this one already");
        return Err(Failure::new("SUB_RUNS_TOO_DEEP", why));
    }
    let entity_id = text("entityId", "")?;
    crate::runs::model::entity_id(&entity_id).map_err(|fault| Failure::new(fault.reason, fault.message))?;
    let token = waits.then_some(token.cast_signed());
    Ok(NewRun {
        workflow_id: crate::workflows::model::id_of(workflow).unwrap_or("-").to_owned(),
        entity_id,
        input: fields.get("input").cloned().unwrap_or_else(|| json!({})),
        created_by: about.created_by.clone(),
        roles: about.roles.clone(),
        traceparent: about.traceparent.clone(),
        trigger: Trigger::Workflow,
        attributes: Map::new(),
        concurrency: None,
        idempotency_key: None,
        parent: Some(Parent { run: about.key.run, token, close }),
        depth: depth.below(),
    })
}

impl About {
    /// Tells the parent how the run has ended.
    pub(super) fn note(&self, outcome: &Outcome, clock: &Clock) -> Option<Note> {
        let (run, token) = self.parent?;
        let token = u64::try_from(token?).ok()?;
        let failed = |failure: Failure| Message::TaskFailed { token, failure };
        let message = match outcome {
            Outcome::Succeeded { output } => Message::TaskDone { token, result: output.clone() },
            Outcome::Failed(failure) | Outcome::TimedOut(failure) => failed(failure.clone()),
            Outcome::Cancelled { cause } => failed(Failure::new("RUN_CANCELLED", cause)),
        };
        let id = tenon_chassis::id::uuid_v7(clock);
        Some(Note { id, to: Key { tenant: self.key.tenant, run }, kept: Kept::from(&message) })
    }
}

impl Writer {
    /// Writes what steps have to do with other runs; answers with the events of new ones. The rows of all runs that are
    /// written to are locked in one order first, so that engines do not wait for each other in a circle.
    pub(super) async fn relate(&self, tx: &mut SystemTx, steps: &[&Advanced]) -> Result<Vec<bus::Event>, Error> {
        let (mut events, mut notes) = (Vec::new(), Vec::new());
        for step in steps {
            for child in &step.children {
                let born = self.adopt(tx, step, child).await?;
                let message = match born {
                    Ok(run) => {
                        events.extend(run.events);
                        if child.waits {
                            continue;
                        }
                        Message::TaskDone { token: child.token, result: json!({ "run": format!("runs/{}", child.id) }) }
                    }
                    Err(failure) => Message::TaskFailed { token: child.token, failure },
                };
                // An id of its own that is the same when the step is written again.
                notes.push(Note { id: child.id.uuid(), to: step.about.key, kept: Kept::from(&message) });
            }
            notes.extend(step.note.clone());
        }
        if !notes.is_empty() {
            store::insert_notes(tx, &notes).await?;
        }
        let orphans: Vec<Orphans> = steps.iter().flat_map(|step| step.orphans.iter().copied()).collect();
        if !orphans.is_empty() {
            store::close_orphans(tx, &orphans).await?;
        }
        let mut turns: Vec<(Uuid, &str, &str)> = steps
            .iter()
            .filter(|step| step.has_ended())
            .filter_map(|step| {
                let about = &step.about;
                Some((about.key.tenant.uuid(), about.workflow_id.as_str(), about.concurrency_key.as_deref()?))
            })
            .collect();
        turns.sort_unstable();
        turns.dedup();
        for (tenant, workflow_id, key) in turns {
            runs::lock_turn(&mut *tx, tenant, (workflow_id, key)).await?;
            store::promote(tx, tenant, (workflow_id, key)).await?;
        }
        Ok(events)
    }

    async fn adopt(
        &self,
        tx: &mut SystemTx,
        step: &Advanced,
        child: &Child,
    ) -> Result<Result<Adopted, Failure>, Error> {
        let key = step.about.key;
        let new = match child.new.clone() {
            Ok(new) => new,
            Err(failure) => return Ok(Err(failure)),
        };
        if let Err(error) = self.waker.quotas.admit_run(key.tenant) {
            return Ok(Err(Failure::new("QUOTA_EXHAUSTED", error.to_string())));
        }
        let name = (key.tenant.uuid(), new.workflow_id.clone());
        let latest: HashMap<_, _> = self.latest(tx, vec![name.clone()]).await?;
        let Some(latest) = latest.get(&name) else {
            let why = format!("there is no workflow {}", new.workflow_id);
            return Ok(Err(Failure::new("WORKFLOW_NOT_FOUND", why)));
        };
        let template = self.templates.get(name.0, &name.1, latest.version);
        let Some(template) = template else {
            return Ok(Err(Failure::new(Failure::RUNTIME, "the workflow cannot be run any more")));
        };
        let new = match admitted(new, &template) {
            Ok(new) => new,
            Err(fault) => return Ok(Err(Failure::new(fault.reason, fault.message))),
        };
        if let Some((of, _)) = &new.concurrency {
            let turn = (new.workflow_id.as_str(), of.as_str());
            runs::lock_turn(&mut *tx, name.0, turn).await?;
            if runs::count_queued(&mut *tx, name.0, turn).await? >= QUEUED_MAX {
                return Ok(Err(Failure::new("QUEUE_FULL", Error::QueueFull.to_string())));
            }
        }
        let place = runs::Place {
            tenant: key.tenant,
            id: child.id,
            partition: partition(key.tenant, child.id, self.config.workflow_partitions),
            version: latest.version,
            hold: latest.hold.clone(),
        };
        // A step that is written again finds its child, which was told of then.
        if store::is_there(tx, key.tenant.uuid(), child.id).await? {
            return Ok(Ok(Adopted { events: Vec::new() }));
        }
        runs::insert(&mut *tx, &place, &new).await?;
        if !new.attributes.is_empty() {
            runs::insert_attributes(&mut *tx, name.0, child.id, &texts(&new.attributes)).await?;
        }
        Ok(Ok(Adopted { events: self.adopted(step, child, &new, latest.version) }))
    }

    fn adopted(&self, step: &Advanced, child: &Child, new: &NewRun, version: i32) -> Vec<bus::Event> {
        let about = About {
            key: Key { tenant: step.about.key.tenant, run: child.id },
            workflow_id: new.workflow_id.clone(),
            entity_id: new.entity_id.clone(),
            version,
            ..step.about.as_ref().clone()
        };
        let clock = self.db.clock();
        let data = json!({ "meter": METER, "quantity": 1 });
        let used = bus::Event::new(clock, "workflow", about.key.tenant, (bus::USAGE_RECORDED, METER.to_owned()), data);
        vec![about.event(State::Running, None, clock), used]
    }
}

/// A child that was added.
struct Adopted {
    events: Vec<bus::Event>,
}
