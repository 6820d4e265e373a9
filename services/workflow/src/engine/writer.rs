//! Writes steps: one transaction for many runs, tried again until it is known what became of it.

mod store;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tenon_chassis::{Db, SystemTx, fail};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Waker,
    active::{Key, Taken},
    births::{self, Newborn},
    change::Advanced,
    store::lock_partitions,
    time::Time,
};
use crate::{config::Config, error::Error, runs::template::Templates};

/// The pauses between tries to write.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The epochs of partitions.
pub(super) type Epochs = BTreeMap<i16, i64>;

/// What every lane of an engine writes with.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) db: Db,
    pub(super) config: Config,
    pub(super) templates: Templates,
    pub(super) time: Time,
    pub(super) waker: Arc<Waker>,
    pub(super) stop: CancellationToken,
}

/// Steps that one transaction has written.
pub(super) struct Written {
    pub(super) steps: Vec<Advanced>,
    pub(super) but: Unwritten,
}

/// What a transaction did not write.
#[derive(Default)]
pub(super) struct Unwritten {
    /// Partitions that are not owned any more, of which nothing was written.
    pub(super) lost: Vec<i16>,
    /// New runs whose delivery had started another.
    pub(super) twice: Vec<Key>,
}

impl Unwritten {
    fn has(&self, step: &Advanced) -> bool {
        self.lost.contains(&step.about.partition) || self.twice.contains(&step.about.key)
    }
}

impl Writer {
    /// Writes until it is written, the partitions are lost, or the engine stops. `tx` is a transaction that has only read
    /// so far; `on_failure` runs after each failure of the database.
    pub(super) async fn write(
        &self,
        advanced: Vec<Advanced>,
        mut tx: Option<SystemTx>,
        owned: &Epochs,
        mut on_failure: impl FnMut() + Send,
    ) -> Vec<Written> {
        let (mut batches, mut written) = (vec![advanced], Vec::new());
        let mut pause = PAUSE_MIN;
        while let Some(mut batch) = batches.pop() {
            // One transaction serves many runs; it shows in the trace of the first.
            let span = tracing::info_span!("advance", otel.name = "workflow advance", tenon.runs = batch.len());
            if let Some(parent) = batch.iter().find_map(|step| step.about.traceparent.as_deref()) {
                tenon_chassis::telemetry::set_parent(&span, parent);
            }
            match self.committed(&batch, tx.take(), owned).instrument(span).await {
                Ok(but) => {
                    self.waker.takes_starts(true);
                    let written_now = Written { steps: batch, but };
                    self.tell(&written_now);
                    written.push(written_now);
                }
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
                    // Nobody waits here while nothing can be written: callers are told so, and new ones ask the database.
                    self.waker.takes_starts(false);
                    let waiting = batches.iter_mut().flatten().filter_map(|step| step.newborn.as_mut());
                    waiting.for_each(Newborn::give_up_waiting);
                    on_failure();
                    if self.stop.is_cancelled() {
                        // Nothing was acknowledged or called: whoever comes next does these steps again.
                        break;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
        written
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

    /// One transaction; answers with what it left out.
    async fn committed(&self, advanced: &[Advanced], tx: Option<SystemTx>, owned: &Epochs) -> Result<Unwritten, Error> {
        let mut partitions: Vec<i16> = advanced.iter().map(|step| step.about.partition).collect();
        partitions.sort_unstable();
        partitions.dedup();
        let (ids, epochs): (Vec<i16>, Vec<i64>) =
            partitions.iter().filter_map(|id| owned.get(id).map(|epoch| (*id, *epoch))).unzip();
        let mut tx = match tx {
            Some(tx) => tx,
            None => self.db.system().await?,
        };
        let held = lock_partitions(&mut tx, &ids, &epochs).await?;
        let lost = partitions.into_iter().filter(|id| !held.contains(id)).collect();
        let mut but = Unwritten { lost, twice: Vec::new() };
        but.twice = births::claim_deliveries(&mut tx, advanced.iter().filter(|step| !but.has(step))).await?;
        let kept: Vec<&Advanced> = advanced.iter().filter(|step| !but.has(step)).collect();
        let (new, old): (Vec<&Advanced>, Vec<&Advanced>) = kept.iter().partition(|step| step.newborn.is_some());
        if !kept.is_empty() {
            let inserted = births::insert_runs(&mut tx, &new).await?;
            births::insert_attributes(&mut tx, &new).await?;
            let mailed = store::update_runs(&mut tx, &old).await?;
            store::insert_payloads(&mut tx, &kept).await?;
            store::insert_history(&mut tx, &kept).await?;
            store::insert_tasks(&mut tx, &kept).await?;
            store::delete_tasks(&mut tx, &kept).await?;
            store::insert_messages(&mut tx, &kept).await?;
            store::delete_messages(&mut tx, &kept).await?;
            if !mailed.is_empty() {
                store::delete_mailboxes(&mut tx, &mailed).await?;
            }
            // Runs that were there already were told of and counted by the try whose answer was lost.
            let counted = new.iter().filter(|step| inserted.contains(&step.about.key.run.uuid()));
            let mut events = Newborn::events(counted, self.db.clock());
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
        Ok(but)
    }

    /// Tells those who wait for something like what was written.
    fn tell(&self, written: &Written) {
        let there = || written.steps.iter().filter(|step| !written.but.has(step));
        if there().any(|step| !step.opened.is_empty()) {
            self.waker.opened();
        }
        if there().any(Advanced::touches_others) {
            self.waker.wake();
        }
        for step in there() {
            self.waker.changed(step.about.key.tenant, step.about.key.run);
            if step.has_ended() && !step.is_given_up() {
                let state = step.update.state.as_str();
                metrics::counter!("tenon_workflow_runs_ended_total", "state" => state).increment(1);
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
