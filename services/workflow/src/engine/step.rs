//! One turn of the engine: runs advance, one transaction writes what they came to, and then their commands are done.

mod store;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::Duration,
};

use tenon_chassis::{SystemTx, TenantId, fail};
use tokio::time::Instant;
use tracing::Instrument;

use super::{
    Engine,
    active::{Key, Rest, Taken, Work},
    births::{self, Birth, Newborn, NotBorn},
    change::Advanced,
    store::lock_partitions,
};
use crate::{
    asl::{Command, Input},
    error::Error,
    tasks::{self, Call, Family},
};

/// The pauses between tries to write.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

impl Engine {
    pub(super) async fn step(&mut self, inputs: Vec<(Key, Work)>, births: Vec<Birth>) {
        let mut work: BTreeMap<Key, Vec<Work>> = BTreeMap::new();
        for (key, input) in inputs {
            work.entry(key).or_default().push(input);
        }
        let tenants: BTreeSet<TenantId> = work.keys().map(|key| key.tenant).collect();
        for tenant in tenants {
            if !self.may_work(tenant).await {
                // First of all: a step that has not begun is not taken.
                let of = work.iter_mut().filter(|(key, _)| key.tenant == tenant);
                of.for_each(|(_, work)| work.insert(0, Work::Park));
            }
        }
        let (tx, born) = if births.is_empty() { (None, Vec::new()) } else { self.conceive(births).await };
        let taken: Vec<_> = work.into_iter().filter_map(|(key, work)| Some((self.runs.remove(&key)?, work))).collect();
        let (began, count) = (Instant::now(), taken.len() + born.len());
        let (now, clock) = (self.time.now(), self.db.clock().clone());
        // Expressions may take their time: not on a thread that others wait for.
        let stepping = tokio::task::spawn_blocking(move || {
            let old = taken.into_iter().map(|(active, work)| active.step(work, now, &clock));
            let new = born.into_iter().map(|(active, newborn)| {
                let step = active.step(vec![Work::Look], now, &clock);
                step.map(|step| Advanced { newborn: Some(newborn), ..step })
            });
            old.chain(new).collect::<Vec<_>>()
        });
        let results = stepping.await.expect("a panic of a run is caught, and the work is not cancelled");
        let mut advanced = Vec::new();
        for result in results {
            match result {
                Ok(step) => advanced.push(step),
                Err(unchanged) => drop(self.runs.insert(unchanged.about.key, unchanged)),
            }
        }
        if !advanced.is_empty() {
            self.write(advanced, tx).await;
            self.pace.add(count, began.elapsed());
        }
    }

    /// Writes until it is written or the partitions are lost, then does what the steps ask for. `tx` is a transaction
    /// that has only read so far.
    pub(super) async fn write(&mut self, advanced: Vec<Advanced>, mut tx: Option<SystemTx>) {
        let mut batches = vec![advanced];
        let mut pause = PAUSE_MIN;
        while let Some(mut batch) = batches.pop() {
            // One transaction serves many runs; it shows in the trace of the first.
            let span = tracing::info_span!("advance", otel.name = "workflow advance", tenon.runs = batch.len());
            if let Some(parent) = batch.iter().find_map(|step| step.about.traceparent.as_deref()) {
                tenon_chassis::telemetry::set_parent(&span, parent);
            }
            match self.committed(&batch, tx.take()).instrument(span).await {
                Ok(lost) => self.written(batch, &lost),
                Err(error) if is_of_the_data(&error) && batch.len() > 1 => {
                    // What one run brings along must not hold up the others.
                    let rest = batch.split_off(batch.len() / 2);
                    batches.extend([rest, batch]);
                }
                Err(error) if is_of_the_data(&error) => {
                    tracing::error!(%error, "a step cannot be written");
                    batches.extend(self.unwritable(batch));
                }
                Err(error) => {
                    tracing::warn!(%error, runs = batch.len(), "steps were not written; they are tried again");
                    batches.push(batch);
                    self.turn_away(batches.iter_mut().flatten());
                    if self.stop.is_cancelled() {
                        // Nothing was acknowledged or called: whoever comes next does these steps again.
                        batches.into_iter().flatten().filter_map(|step| step.newborn).for_each(Newborn::refuse);
                        return;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// While nothing can be written nobody waits here: callers are told so, and new ones ask the database themselves.
    fn turn_away<'s>(&mut self, steps: impl Iterator<Item = &'s mut Advanced>) {
        self.waker.works.store(false, Ordering::Relaxed);
        steps.filter_map(|step| step.newborn.as_mut()).for_each(Newborn::give_up_waiting);
        while let Some(birth) = self.waiting.pop().or_else(|| self.births.try_recv().ok()) {
            let _ = birth.reply.send(Err(NotBorn::Elsewhere(Box::new(birth.new))));
        }
    }

    /// What is left of a step that the database does not take: a new run is refused, an old one ends.
    fn unwritable(&self, batch: Vec<Advanced>) -> Option<Vec<Advanced>> {
        let mut left = Vec::new();
        for step in batch {
            match step.newborn {
                Some(newborn) => newborn.refuse(),
                None if step.is_given_up() => {}
                None => {
                    let taken = Taken { closed: step.closed, ..Taken::given_up("its step cannot be written") };
                    left.push(Advanced::given_up(step.about, taken, self.time.now(), self.db.clock()));
                }
            }
        }
        (!left.is_empty()).then_some(left)
    }

    /// One transaction; answers with the partitions that are not owned any more, of which nothing was written.
    async fn committed(&self, advanced: &[Advanced], tx: Option<SystemTx>) -> Result<Vec<i16>, Error> {
        let mut partitions: Vec<i16> = advanced.iter().map(|step| step.about.partition).collect();
        partitions.sort_unstable();
        partitions.dedup();
        let (ids, epochs) = self.epochs(partitions.iter().copied());
        let mut tx = match tx {
            Some(tx) => tx,
            None => self.db.system().await?,
        };
        let held = lock_partitions(&mut tx, &ids, &epochs).await?;
        let kept: Vec<&Advanced> = advanced.iter().filter(|step| held.contains(&step.about.partition)).collect();
        let (new, old): (Vec<&Advanced>, Vec<&Advanced>) = kept.iter().partition(|step| step.newborn.is_some());
        if !kept.is_empty() {
            let added = births::insert_runs(&mut tx, &new).await?;
            births::insert_attributes(&mut tx, &new).await?;
            let mailed = store::update_runs(&mut tx, &old).await?;
            store::insert_history(&mut tx, &kept).await?;
            store::insert_tasks(&mut tx, &kept).await?;
            store::delete_tasks(&mut tx, &kept).await?;
            store::insert_messages(&mut tx, &kept).await?;
            store::delete_messages(&mut tx, &kept).await?;
            if !mailed.is_empty() {
                store::delete_mailboxes(&mut tx, &mailed).await?;
            }
            let mut events = Newborn::events(&new, &added, self.db.clock());
            events.extend(self.relate(&mut tx, &kept).await?);
            events.extend(kept.iter().filter_map(|step| step.event.clone()));
            tx.emit(&events).await?;
        }
        if !new.is_empty() {
            fail::at("births.commit.before").await?;
        }
        if !old.is_empty() {
            fail::at("step.commit.before").await?;
        }
        tx.commit().await?;
        if !new.is_empty() {
            fail::at("births.commit.after").await?;
        }
        if !old.is_empty() {
            fail::at("step.commit.after").await?;
        }
        Ok(partitions.into_iter().filter(|id| !held.contains(id)).collect())
    }

    fn written(&mut self, batch: Vec<Advanced>, lost: &[i16]) {
        self.lose(lost);
        if batch.iter().any(|step| !step.opened.is_empty()) {
            self.waker.opened();
        }
        if batch.iter().any(Advanced::touches_others) {
            self.waker.wake();
        }
        for mut step in batch {
            let newborn = step.newborn.take();
            if lost.contains(&step.about.partition) {
                newborn.into_iter().for_each(Newborn::send_elsewhere);
                continue;
            }
            newborn.into_iter().for_each(|newborn| newborn.announce(&step));
            self.done(step);
        }
    }

    fn done(&mut self, step: Advanced) {
        let ended = step.has_ended();
        self.waker.changed(step.about.key.tenant, step.about.key.run);
        let Some(active) = step.active else { return };
        if ended {
            metrics::counter!("tenon_workflow_runs_ended_total", "state" => step.update.state.as_str()).increment(1);
            return;
        }
        if let Rest::Until(due) = step.update.rest {
            // It sleeps in the database from here on.
            self.next_due = self.next_due.into_iter().chain(due).min();
            return;
        }
        let key = active.about.key;
        self.runs.insert(key, active);
        if step.resumed {
            return self.dispatch_outstanding(key);
        }
        for command in step.commands {
            self.dispatch(key, command);
        }
    }

    /// Asks again for everything that a run waits for, unless it is held back.
    pub(super) fn dispatch_outstanding(&mut self, key: Key) {
        let outstanding = self.runs.get(&key).filter(|active| !active.is_held() && !active.fresh);
        for command in outstanding.map(|active| active.execution.outstanding()).unwrap_or_default() {
            self.dispatch(key, command);
        }
    }

    fn dispatch(&mut self, key: Key, command: Command) {
        match command {
            Command::StartTimer { token, due } => self.timers.push(Reverse((due, key, token))),
            Command::CallTask { resource, .. } if tasks::family(&resource) != Family::Call => {}
            Command::CallTask { token, resource, arguments, timeout_seconds, .. } => {
                let Some(active) = self.runs.get_mut(&key).filter(|active| !active.calls.contains_key(&token)) else {
                    return;
                };
                let call = Call {
                    tenant: key.tenant,
                    roles: active.about.roles.clone(),
                    idempotency_key: active.about.idempotency_key(token),
                    traceparent: active.about.traceparent.clone(),
                    resource,
                    arguments,
                    timeout: tasks::timeout(timeout_seconds, self.config.workflow_task_timeout_s),
                };
                let (tasks, answers) = (self.tasks.clone(), self.answers.0.clone());
                let task = self.calls.spawn(async move {
                    let input = match tasks.call(call).await {
                        Ok(result) => Input::TaskDone { token, result },
                        Err(failure) => Input::TaskFailed { token, failure },
                    };
                    // The engine is gone when this fails: another one calls again.
                    let _ = answers.send((key, input)).await;
                });
                active.calls.insert(token, task.abort_handle());
            }
        }
    }
}

/// Whether a statement failed for what was to be written (SQLSTATE classes 22 and 23), and would fail again.
fn is_of_the_data(error: &Error) -> bool {
    let Error::Db(tenon_chassis::db::Error::Sql(error)) = error else { return false };
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}
