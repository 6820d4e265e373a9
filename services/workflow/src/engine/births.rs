//! Runs that start in this process: many callers' runs are added in one transaction, together with their first steps.

mod store;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde_json::Value;
use tenon_chassis::{Fault, SystemTx, TenantId, bus, fail};
use tokio::sync::oneshot;
use tonic::Code;
use uuid::Uuid;

use super::{
    Engine,
    active::{About, Active, Hold, Key},
    change::Advanced,
};
use crate::{
    asl::Execution,
    error::Error,
    runs::{
        model::{self, NewRun, Run, RunId, State},
        start::admitted,
        store as runs,
        template::Template,
    },
};
pub(super) use store::{insert_attributes, insert_runs};

/// Draws of an id until one belongs to a partition that this engine owns.
const DRAWS: u32 = 1_000;

/// A run that is about to start here, and who waits for it.
pub(crate) struct Birth {
    pub(crate) tenant: TenantId,
    /// The tenant's share.
    pub(crate) weight: u32,
    pub(crate) new: NewRun,
    /// What its start is counted on.
    pub(crate) meter: Option<String>,
    pub(crate) reply: oneshot::Sender<Result<Run, NotBorn>>,
}

/// Why a run did not start here.
#[derive(Debug)]
pub(crate) enum NotBorn {
    /// It has to be added as due, for whichever engine has room.
    Elsewhere(Box<NewRun>),
    Refused(Error),
}

/// A run that is not in the database yet.
pub(super) struct Newborn {
    pub(super) new: NewRun,
    pub(super) created_at: DateTime<Utc>,
    meter: Option<String>,
    /// Absent once the caller was told that nobody knows.
    reply: Option<oneshot::Sender<Result<Run, NotBorn>>>,
}

/// The version that a new run gets.
#[derive(Clone)]
pub(super) struct Latest {
    pub(super) version: i32,
    pub(super) hold: Option<String>,
}

impl Engine {
    /// Gives each run an id, its version and its state in memory; those that cannot be are answered.
    pub(super) async fn conceive(&mut self, births: Vec<Birth>) -> (Option<SystemTx>, Vec<(Box<Active>, Newborn)>) {
        let room = self.config.workflow_active_runs.saturating_sub(self.runs.len());
        let (mut here, mut born) = (Vec::new(), Vec::new());
        for birth in births {
            if here.len() < room && !self.owned.is_empty() {
                here.push(birth);
            } else {
                let _ = birth.reply.send(Err(NotBorn::Elsewhere(Box::new(birth.new))));
            }
        }
        let mut names: Vec<_> = here.iter().map(|birth| (birth.tenant.uuid(), birth.new.workflow_id.clone())).collect();
        names.sort_unstable();
        names.dedup();
        // Read inside of the transaction that adds the runs: whoever published a version before starting a run gets it.
        let read = async {
            fail::at("births.begin").await?;
            let mut tx = self.db.system().await?;
            let latest = self.latest(&mut tx, names).await?;
            Ok::<_, Error>((tx, latest))
        };
        let (tx, latest) = match read.await {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "runs were not started");
                for birth in here {
                    let _ = birth.reply.send(Err(NotBorn::Refused(unavailable())));
                }
                return (None, Vec::new());
            }
        };
        for Birth { tenant, new, meter, reply, .. } in here {
            let latest = latest.get(&(tenant.uuid(), new.workflow_id.clone())).cloned();
            match self.embody(tenant, new, latest) {
                Ok((active, new, created_at)) => {
                    born.push((active, Newborn { new, created_at, meter, reply: Some(reply) }));
                }
                Err(why) => drop(reply.send(Err(why))),
            }
        }
        (Some(tx), born)
    }

    /// The latest versions of workflows; afterwards they are in memory.
    pub(super) async fn latest(
        &self,
        tx: &mut SystemTx,
        names: Vec<(Uuid, String)>,
    ) -> Result<HashMap<(Uuid, String), Latest>, Error> {
        let latest = store::list_latest(tx, &names).await?;
        for ((tenant, workflow_id), latest) in &latest {
            self.template(tx, (*tenant, workflow_id, latest.version)).await?;
        }
        Ok(latest)
    }

    /// A version, from memory or the database; `None` when it cannot be run any more.
    pub(super) async fn template(
        &self,
        tx: &mut SystemTx,
        (tenant, workflow_id, version): (Uuid, &str, i32),
    ) -> Result<Option<Arc<Template>>, Error> {
        if let Some(template) = self.templates.get(tenant, workflow_id, version) {
            return Ok(Some(template));
        }
        let (definition, envelope) = runs::get_template(&mut *tx, tenant, (workflow_id, version)).await?;
        Ok(self.templates.insert((tenant, workflow_id, version), (&definition, envelope)).ok())
    }

    fn embody(
        &self,
        tenant: TenantId,
        new: NewRun,
        latest: Option<Latest>,
    ) -> Result<(Box<Active>, NewRun, DateTime<Utc>), NotBorn> {
        let refused = |error: Error| NotBorn::Refused(error);
        let latest = latest.ok_or_else(|| refused(Error::WorkflowNotFound))?;
        let template = self.templates.get(tenant.uuid(), &new.workflow_id, latest.version);
        let template = template.ok_or_else(unavailable).map_err(refused)?;
        let new = admitted(new, &template).map_err(|fault| refused(fault.into()))?;
        // These are looked up and locked in a transaction of their own.
        if new.concurrency.is_some() || new.idempotency_key.is_some() {
            return Err(NotBorn::Elsewhere(Box::new(new)));
        }
        let clock = self.db.clock();
        let mut drawn = (0..DRAWS).map(|_| {
            let run = RunId::new(clock);
            (run, model::partition(tenant, run, self.config.workflow_partitions))
        });
        let Some((run, partition)) = drawn.find(|(_, partition)| self.owned.contains_key(partition)) else {
            return Err(NotBorn::Elsewhere(Box::new(new)));
        };
        let about = About {
            key: Key { tenant, run },
            partition,
            workflow_id: new.workflow_id.clone(),
            version: latest.version,
            entity_id: new.entity_id.clone(),
            created_by: new.created_by.clone(),
            roles: new.roles.clone(),
            traceparent: new.traceparent.clone(),
            concurrency_key: None,
            parent: None,
            depth: 0,
            retention_days: self.retention_days(&template),
        };
        let now = self.time.now();
        let execution = begin(&about, &template, new.input.clone(), now);
        Ok((Box::new(Active::fresh(about.into(), &template, execution, latest.hold.map(Hold))), new, now))
    }

    pub(super) fn retention_days(&self, template: &Template) -> u32 {
        let own = template.retention_days().and_then(|days| u32::try_from(days).ok());
        own.unwrap_or(self.config.workflow_retention_days)
    }
}

/// An execution that waits to be started.
pub(super) fn begin(about: &About, template: &Template, input: Value, created_at: DateTime<Utc>) -> Execution {
    let run = about.key.run;
    let (id, workflow) = (format!("runs/{run}"), format!("workflows/{}", about.workflow_id));
    let (_, seed) = run.uuid().as_u64_pair();
    let execution = Execution::new(&template.machine, &id, &workflow, input, seed, created_at);
    execution.within(template.timeout_seconds(), template.history_events())
}

impl Newborn {
    /// What the start of the runs that were `added` tells: an event each, and one of usage for each tenant.
    pub(super) fn events(steps: &[&Advanced], added: &HashSet<Uuid>, clock: &tenon_chassis::Clock) -> Vec<bus::Event> {
        let mut events = Vec::new();
        let mut used: BTreeMap<(TenantId, &str), i64> = BTreeMap::new();
        for step in steps {
            let Some(newborn) = step.newborn.as_ref().filter(|_| added.contains(&step.about.key.run.uuid())) else {
                continue;
            };
            if let Some(meter) = &newborn.meter {
                *used.entry((step.about.key.tenant, meter)).or_default() += 1;
            }
            events.push(step.about.event(State::Running, None, clock));
        }
        events.extend(used.into_iter().map(|((tenant, meter), quantity)| {
            let data = serde_json::json!({ "meter": meter, "quantity": quantity });
            bus::Event::new(clock, "workflow", tenant, (bus::USAGE_RECORDED, meter.to_owned()), data)
        }));
        events
    }

    /// Tells the caller that the run is there.
    pub(super) fn announce(self, step: &Advanced) {
        let Self { new, created_at, reply, .. } = self;
        let update = &step.update;
        let run = Run {
            id: step.about.key.run,
            workflow_id: new.workflow_id,
            version: step.about.version,
            entity_id: new.entity_id,
            state: update.state,
            input: new.input,
            output: update.output.as_deref().and_then(|output| serde_json::from_str(output).ok()),
            error: update.error.clone(),
            cause: update.cause.clone(),
            attributes: Value::Object(new.attributes),
            concurrency_key: None,
            parent_run: None,
            trigger: new.trigger.as_str().to_owned(),
            paused: update.hold.clone(),
            created_at,
            ended_at: update.ended_at,
        };
        // The caller has gone away when this fails; the run is there all the same.
        if let Some(reply) = reply {
            let _ = reply.send(Ok(run));
        }
    }

    /// Tells the caller that it has to be tried again.
    pub(super) fn refuse(mut self) {
        self.give_up_waiting();
    }

    /// Does not let the caller wait any longer: the run may be there or come to be.
    pub(super) fn give_up_waiting(&mut self) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Err(NotBorn::Refused(unavailable())));
        }
    }

    /// Tells the caller to add the run as due.
    pub(super) fn send_elsewhere(self) {
        if let Some(reply) = self.reply {
            let _ = reply.send(Err(NotBorn::Elsewhere(Box::new(self.new))));
        }
    }
}

/// For what is not known to have failed for good.
pub(super) fn unavailable() -> Error {
    let text = "the run could not be started just now; try again";
    Fault::new(Code::Unavailable, "DATABASE_UNAVAILABLE", text).retry_after(std::time::Duration::from_secs(1)).into()
}
