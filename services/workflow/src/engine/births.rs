//! Runs that start in this process, in a lane of their own: many callers' runs are added in one transaction, together with
//! their first steps.

mod store;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::Value;
use tenon_chassis::{Fault, SystemTx, TenantId, bus, directory::Directory, fail};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tonic::Code;
use uuid::Uuid;

use super::{
    BATCH, BIRTHS, BIRTHS_OF_ONE, Engine,
    active::{About, Active, Hold, Key, Rest, Work},
    change::Advanced,
    time::{Pace, TURN},
    writer::{Epochs, Writer, Written},
};
use crate::{
    asl::Execution,
    error::Error,
    fair::{self, Fair},
    runs::{
        model::{self, NewRun, Run, RunId, State},
        start::admitted,
        store as runs,
        template::Template,
    },
};
pub(super) use store::{claim_deliveries, insert_attributes, insert_runs};

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
    /// The delivery that it answers: another run of the same delivery is not started.
    pub(crate) delivery: Option<Delivery>,
    pub(crate) reply: oneshot::Sender<Result<Run, NotBorn>>,
}

/// What a sender calls one of its deliveries to a hook.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) hook_id: String,
    pub(crate) id: String,
}

/// Why a run did not start here.
#[derive(Debug)]
pub(crate) enum NotBorn {
    /// Its delivery was taken before.
    Delivered,
    /// It has to be added as due, for whichever engine has room.
    Elsewhere(Box<NewRun>),
    Refused(Error),
}

/// A run that is not in the database yet.
pub(super) struct Newborn {
    pub(super) new: NewRun,
    pub(super) created_at: DateTime<Utc>,
    meter: Option<String>,
    delivery: Option<Delivery>,
    /// Absent once the caller was told that nobody knows.
    reply: Option<oneshot::Sender<Result<Run, NotBorn>>>,
}

/// The version that a new run gets.
#[derive(Clone)]
pub(super) struct Latest {
    pub(super) version: i32,
    pub(super) hold: Option<String>,
}

/// What an engine lets its lane of births know.
#[derive(Debug, Clone, Default)]
pub(super) struct Ground {
    pub(super) owned: Arc<Epochs>,
    /// Runs that fit into memory yet.
    pub(super) room: usize,
}

/// What the lane of births is at, for those who give way to it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bustle {
    at_work: bool,
    /// When it had something to do last.
    last: Option<Instant>,
}

/// How long after a birth others are looked for in short turns.
const HURRY: Duration = Duration::from_millis(100);
/// How long claims wait for a birth at most.
const GIVE_WAY: Duration = Duration::from_millis(10);

/// Runs that were started and rest in memory.
pub(super) struct Born {
    /// What was awaited, whatever became of it.
    pub(super) keys: Vec<Key>,
    pub(super) steps: Vec<Advanced>,
    /// When the first that sleeps in the database is due.
    pub(super) next_due: Option<DateTime<Utc>>,
    /// The epochs under which they were written.
    pub(super) owned: Arc<Epochs>,
    pub(super) lost: Vec<i16>,
}

/// The lane in which runs start, beside the turns of the engine: who starts a run waits for others' starts at most, and
/// not for the runs that others have queued.
pub(super) struct Nursery {
    pub(super) writer: Writer,
    pub(super) births: mpsc::Receiver<Birth>,
    /// Births that wait for a turn.
    pub(super) waiting: Fair<Birth>,
    pub(super) ground: watch::Receiver<Ground>,
    pub(super) born: mpsc::Sender<Born>,
    pub(super) bustle: watch::Sender<Bustle>,
    /// Runs that the engine finds in the database a moment before it hears of them here.
    pub(super) awaited: Awaited,
    pub(super) directory: Arc<Directory>,
}

/// Keys of runs that are being written, and rest in memory then.
pub(super) type Awaited = Arc<Mutex<HashSet<Key>>>;

impl Nursery {
    /// Starts runs until stopped; those that wait then are sent elsewhere.
    pub(super) async fn run(mut self) {
        let stop = self.writer.stop.clone();
        let mut pace = Pace::new();
        while !stop.is_cancelled() {
            if self.waiting.len() == 0 {
                self.bustle.send_modify(|bustle| bustle.at_work = false);
                tokio::select! {
                    () = stop.cancelled() => break,
                    birth = self.births.recv() => match birth {
                        Some(birth) => queue(&mut self.waiting, birth),
                        None => break,
                    },
                }
            }
            while self.waiting.len() < BIRTHS
                && let Ok(birth) = self.births.try_recv()
            {
                queue(&mut self.waiting, birth);
            }
            let births: Vec<Birth> = std::iter::from_fn(|| self.waiting.pop()).take(pace.runs(TURN, BATCH)).collect();
            let (began, count) = (Instant::now(), births.len());
            self.bustle.send_replace(Bustle { at_work: true, last: Some(began) });
            self.deliver(births).await;
            pace.add(count, began.elapsed());
        }
        self.births.close();
        turn_away(&mut self.waiting, &mut self.births);
    }

    /// One turn: the runs get their first steps, and are written with them.
    async fn deliver(&mut self, births: Vec<Birth>) {
        let ground = self.ground.borrow().clone();
        let (tx, born) = self.conceive(births, &ground).await;
        if born.is_empty() {
            return;
        }
        let (now, clock) = (self.writer.time.now(), self.writer.db.clock().clone());
        // Expressions may take their time: not on a thread that others wait for.
        let stepping = tokio::task::spawn_blocking(move || {
            let first = born.into_iter().filter_map(|(active, newborn)| {
                let step = active.step(vec![Work::Look], now, &clock).ok()?;
                Some(Advanced { newborn: Some(newborn), ..step })
            });
            first.collect::<Vec<_>>()
        });
        let steps = stepping.await.expect("a panic of a run is caught, and the work is not cancelled");
        let keys: Vec<Key> = steps.iter().filter(|step| step.rests_in_memory()).map(|step| step.about.key).collect();
        self.awaited.lock().expect("no holder panics").extend(&keys);
        keys.iter().for_each(|key| self.writer.waker.crowd.grow(key.tenant));
        let (waiting, births) = (&mut self.waiting, &mut self.births);
        let written = self.writer.write(steps, tx, &ground.owned, || turn_away(waiting, births)).await;
        let born = announce(written, keys, ground.owned);
        if !born.keys.is_empty() || born.next_due.is_some() || !born.lost.is_empty() {
            // The engine stops when this fails, and others take its runs over.
            let _ = self.born.send(born).await;
        }
    }

    /// Gives each run an id, its version and its state in memory; those that cannot be are answered.
    async fn conceive(&self, births: Vec<Birth>, ground: &Ground) -> (Option<SystemTx>, Vec<(Box<Active>, Newborn)>) {
        let (mut here, mut born) = (Vec::new(), Vec::new());
        let mut more: HashMap<TenantId, usize> = HashMap::new();
        for birth in births {
            let more = more.entry(birth.tenant).or_default();
            let may = self.may_have_more(birth.tenant, *more).await;
            *more += 1;
            if may && here.len() < ground.room && !ground.owned.is_empty() {
                here.push(birth);
            } else {
                birth.send_elsewhere();
            }
        }
        let mut names: Vec<_> = here.iter().map(|birth| (birth.tenant.uuid(), birth.new.workflow_id.clone())).collect();
        names.sort_unstable();
        names.dedup();
        // Read inside of the transaction that adds the runs: whoever published a version before starting a run gets it.
        let read = async {
            fail::at("births.begin").await?;
            let mut tx = self.writer.db.system().await?;
            let latest = self.writer.latest(&mut tx, names).await?;
            Ok::<_, Error>((tx, latest))
        };
        let (tx, latest) = match read.await {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "runs were not started");
                here.into_iter().for_each(|birth| drop(birth.reply.send(Err(NotBorn::Refused(unavailable())))));
                return (None, Vec::new());
            }
        };
        for Birth { tenant, new, meter, delivery, reply, .. } in here {
            let latest = latest.get(&(tenant.uuid(), new.workflow_id.clone())).cloned();
            match self.embody(tenant, new, latest, &ground.owned) {
                Ok((active, new, created_at)) => {
                    born.push((active, Newborn { new, created_at, meter, delivery, reply: Some(reply) }));
                }
                Err(why) => drop(reply.send(Err(why))),
            }
        }
        (Some(tx), born)
    }

    /// Whether a tenant may have another run at work, beside those of this turn.
    async fn may_have_more(&self, tenant: TenantId, more: usize) -> bool {
        let known = self.directory.by_id(tenant).await.ok();
        let most = fair::active_runs(known.as_deref(), self.writer.config.workflow_tenant_active_runs);
        self.writer.waker.crowd.has_room(tenant, more, most)
    }

    fn embody(
        &self,
        tenant: TenantId,
        new: NewRun,
        latest: Option<Latest>,
        owned: &Epochs,
    ) -> Result<(Box<Active>, NewRun, DateTime<Utc>), NotBorn> {
        let refused = |error: Error| NotBorn::Refused(error);
        let latest = latest.ok_or_else(|| refused(Error::WorkflowNotFound))?;
        let template = self.writer.templates.get(tenant.uuid(), &new.workflow_id, latest.version);
        let template = template.ok_or_else(unavailable).map_err(refused)?;
        let new = admitted(new, &template).map_err(|fault| refused(fault.into()))?;
        // These are looked up and locked in a transaction of their own.
        if new.concurrency.is_some() || new.idempotency_key.is_some() {
            return Err(NotBorn::Elsewhere(Box::new(new)));
        }
        let (clock, partitions) = (self.writer.db.clock(), self.writer.config.workflow_partitions);
        let mut drawn = (0..DRAWS).map(|_| {
            let run = RunId::new(clock);
            (run, model::partition(tenant, run, partitions))
        });
        let Some((run, partition)) = drawn.find(|(_, partition)| owned.contains_key(partition)) else {
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
            retention_days: self.writer.retention_days(&template),
        };
        let now = self.writer.time.now();
        let execution = begin(&about, &template, new.input.clone(), now);
        Ok((Box::new(Active::fresh(about.into(), &template, execution, latest.hold.map(Hold))), new, now))
    }
}

/// Lets a birth wait for its turn, unless its tenant has more of them waiting than one may.
fn queue(waiting: &mut Fair<Birth>, birth: Birth) {
    if waiting.len_of(birth.tenant) >= BIRTHS_OF_ONE {
        let _ = birth.reply.send(Err(NotBorn::Refused(Error::EngineBusy)));
        return;
    }
    waiting.push(birth.tenant, birth.weight, birth);
}

fn turn_away(waiting: &mut Fair<Birth>, births: &mut mpsc::Receiver<Birth>) {
    while let Some(birth) = waiting.pop().or_else(|| births.try_recv().ok()) {
        birth.send_elsewhere();
    }
}

/// Answers everyone whose run was written or was not; what the engine has to know of it is left.
fn announce(written: Vec<Written>, keys: Vec<Key>, owned: Arc<Epochs>) -> Born {
    let mut born = Born { keys, steps: Vec::new(), next_due: None, owned, lost: Vec::new() };
    for Written { steps, but } in written {
        for mut step in steps {
            let Some(newborn) = step.newborn.take() else { continue };
            if but.lost.contains(&step.about.partition) {
                newborn.send_elsewhere();
            } else if but.twice.contains(&step.about.key) {
                newborn.was_delivered();
            } else {
                newborn.announce(&step);
                match step.update.rest {
                    Rest::Memory => born.steps.push(step),
                    Rest::Until(due) => born.next_due = born.next_due.into_iter().chain(due).min(),
                }
            }
        }
        born.lost.extend(but.lost);
    }
    born
}

impl Engine {
    /// Takes in what started beside the turns.
    pub(super) fn take_in(&mut self, born: Born) {
        let Born { keys, steps, next_due, owned, lost } = born;
        let mut awaited = self.awaited.lock().expect("no holder panics");
        for key in &keys {
            awaited.remove(key);
        }
        drop(awaited);
        // A partition that went and came back meanwhile has had its runs made due.
        let is_same = |id: &i16| self.owned.get(id).is_some_and(|epoch| owned.get(id) == Some(epoch));
        let lost: Vec<i16> = lost.into_iter().filter(is_same).collect();
        let steps: Vec<Advanced> = steps.into_iter().filter(|step| is_same(&step.about.partition)).collect();
        self.lose(&lost);
        self.next_due = self.next_due.into_iter().chain(next_due).min();
        steps.into_iter().for_each(|step| self.settle(step));
    }

    /// Lets the births at hand pass before the runs that wait already are claimed; answers whether more births are likely,
    /// so that they should not meet a long turn.
    pub(super) async fn give_way(&mut self) -> bool {
        // Not forever: when births never end, both go on beside each other.
        let _ = tokio::time::timeout(GIVE_WAY, self.bustle.wait_for(|bustle| !bustle.at_work)).await;
        self.bustle.borrow().last.is_some_and(|last| last.elapsed() < HURRY)
    }

    /// A run that is in the database and was started here just now is about to be told of.
    pub(super) async fn await_birth(&mut self, key: Key) {
        while self.awaited.lock().expect("no holder panics").contains(&key) {
            let Some(born) = self.born.recv().await else { return };
            self.take_in(born);
        }
    }
}

impl Writer {
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

    pub(super) fn retention_days(&self, template: &Template) -> u32 {
        let own = template.retention_days().and_then(|days| u32::try_from(days).ok());
        own.unwrap_or(self.config.workflow_retention_days)
    }
}

impl Birth {
    fn send_elsewhere(self) {
        let _ = self.reply.send(Err(NotBorn::Elsewhere(Box::new(self.new))));
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
    /// What the start of these runs tells: an event each, and one of usage for each tenant.
    pub(super) fn events<'s>(
        steps: impl Iterator<Item = &'s &'s Advanced>,
        clock: &tenon_chassis::Clock,
    ) -> Vec<bus::Event> {
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

    /// Tells the caller that its delivery was taken before.
    fn was_delivered(self) {
        if let Some(reply) = self.reply {
            let _ = reply.send(Err(NotBorn::Delivered));
        }
    }

    /// Tells the caller to add the run as due.
    fn send_elsewhere(self) {
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
