//! Runs that start in this process: many callers' runs are added in one transaction, together with their first steps.

mod store;

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use tenon_chassis::{Fault, SystemTx, TenantId, bus};
use tokio::sync::oneshot;
use tonic::Code;

use super::{
    Engine,
    active::{About, Active, Hold, Key},
    change::Advanced,
};
use crate::{
    asl::{self, Execution},
    error::Error,
    runs::model::{self, NewRun, Run, RunId, State},
};
pub(super) use store::insert_runs;

/// Draws of an id until one belongs to a partition that this engine owns.
const DRAWS: u32 = 1_000;

/// A run that is about to start here, and who waits for it.
pub(crate) struct Birth {
    pub(crate) tenant: TenantId,
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
    reply: oneshot::Sender<Result<Run, NotBorn>>,
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
        let (tx, latest) = match self.latest(&here).await {
            Ok((tx, latest)) => (tx, latest),
            Err(error) => {
                tracing::warn!(%error, "runs were not started");
                for birth in here {
                    let _ = birth.reply.send(Err(NotBorn::Refused(unavailable())));
                }
                return (None, Vec::new());
            }
        };
        for birth in here {
            let name = (birth.tenant.uuid(), birth.new.workflow_id.clone());
            match latest.get(&name).cloned().and_then(|latest| self.embody(&birth, latest)) {
                Some((active, created_at)) => {
                    let Birth { new, meter, reply, .. } = birth;
                    born.push((active, Newborn { new, created_at, meter, reply }));
                }
                None => drop(birth.reply.send(Err(NotBorn::Refused(Error::WorkflowNotFound)))),
            }
        }
        (Some(tx), born)
    }

    /// Reads which versions are the latest, inside the transaction that adds the runs: whoever published one before
    /// starting a run gets that one.
    async fn latest(&mut self, births: &[Birth]) -> Result<(SystemTx, HashMap<(uuid::Uuid, String), Latest>), Error> {
        let mut tx = self.db.system().await?;
        let mut names: Vec<_> =
            births.iter().map(|birth| (birth.tenant.uuid(), birth.new.workflow_id.clone())).collect();
        names.sort_unstable();
        names.dedup();
        let latest = store::list_latest(&mut tx, &names).await?;
        for ((tenant, workflow_id), latest) in &latest {
            let name = (*tenant, workflow_id.clone(), latest.version);
            if !self.machines.contains_key(&name) {
                let about = (workflow_id.as_str(), latest.version);
                let definition = super::store::get_definition(&mut tx, (*tenant).into(), about).await?;
                match asl::parse(&definition, &|_, _| Vec::new()) {
                    Ok(machine) => self.machines.insert(name, machine.into()),
                    Err(faults) => {
                        tracing::error!(workflow.id = workflow_id, ?faults, "a published definition is not valid");
                    }
                }
            }
        }
        Ok((tx, latest))
    }

    fn embody(&self, birth: &Birth, latest: Latest) -> Option<(Box<Active>, DateTime<Utc>)> {
        let new = &birth.new;
        let name = (birth.tenant.uuid(), new.workflow_id.clone(), latest.version);
        let machine = self.machines.get(&name)?;
        let clock = self.db.clock();
        let ids = std::iter::repeat_with(|| RunId::new(clock)).take(DRAWS as usize);
        let mut drawn = ids.map(|run| (run, model::partition(birth.tenant, run, self.config.workflow_partitions)));
        let (run, partition) = drawn.find(|(_, partition)| self.owned.contains_key(partition))?;
        let about = About {
            key: Key { tenant: birth.tenant, run },
            partition,
            workflow_id: new.workflow_id.clone(),
            version: latest.version,
            entity_id: new.entity_id.clone(),
            roles: new.roles.clone(),
            traceparent: new.traceparent.clone(),
        };
        let now = self.time.now();
        let (id, workflow) = (format!("runs/{run}"), format!("workflows/{}", new.workflow_id));
        let (_, seed) = run.uuid().as_u64_pair();
        let execution = Execution::new(&machine, &id, &workflow, new.input.clone(), seed, now);
        let active = Active {
            about: about.into(),
            machine,
            execution,
            calls: HashMap::new(),
            waits: BTreeMap::new(),
            letters: BTreeMap::new(),
            mail: 0,
            hold: latest.hold.map(Hold),
            queued: false,
            fresh: true,
        };
        Some((Box::new(active), now))
    }
}

impl Newborn {
    /// What the start of these runs tells: an event each, and one of usage for each tenant.
    pub(super) fn events(steps: &[&Advanced], clock: &tenon_chassis::Clock) -> Vec<bus::Event> {
        let mut events = Vec::new();
        let mut used: BTreeMap<(TenantId, &str), i64> = BTreeMap::new();
        for step in steps {
            let Some(newborn) = &step.newborn else { continue };
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
            created_at,
            ended_at: update.ended_at,
        };
        // The caller has gone away when this fails; the run is there all the same.
        let _ = reply.send(Ok(run));
    }

    /// Tells the caller that it has to be tried again.
    pub(super) fn refuse(self) {
        let _ = self.reply.send(Err(NotBorn::Refused(unavailable())));
    }

    /// Tells the caller to add the run as due.
    pub(super) fn send_elsewhere(self) {
        let _ = self.reply.send(Err(NotBorn::Elsewhere(Box::new(self.new))));
    }
}

/// For what is not known to have failed for good.
pub(super) fn unavailable() -> Error {
    let text = "the run could not be started just now; try again";
    Fault::new(Code::Unavailable, "DATABASE_UNAVAILABLE", text).retry_after(std::time::Duration::from_secs(1)).into()
}
