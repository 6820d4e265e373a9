//! Takes due runs into memory: new ones, those whose timer is due, those with mail, those of an engine before.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tenon_chassis::{SystemTx, fail};
use uuid::Uuid;

use super::{
    Engine,
    active::{Active, Hold, Key, Rest, Taken, Work, waits},
    births::begin,
    change::Advanced,
    store::{self, Row},
    time::{TURN, TURN_SHORT},
};
use crate::{
    asl::Execution,
    error::Error,
    fair,
    payloads::{self, Digest, Keeper},
    runs::{mail::Letter, model::State},
};

/// Runs that are taken into memory at once at most.
const CLAIM: usize = 500;
/// Runs of one partition that a claim takes at least, and by how much more than an even share it takes of one.
const OF_EACH: i64 = 8;
const SPREAD: i64 = 4;
/// Tenants whose turn it is in one claim.
const TENANTS: i32 = 64;
/// When to look again after a look that found runs, or failed.
const LOOK_AGAIN: TimeDelta = TimeDelta::milliseconds(250);
/// Engines that may die with a run in memory, without a step of it in between, before the run is given up.
const CRASHES_MAX: i16 = 10;

/// Runs that were taken, and their mail.
#[derive(Default)]
struct Claimed {
    rows: Vec<Row>,
    letters: HashMap<Key, Vec<Letter>>,
    payloads: HashMap<Key, HashMap<Digest, Value>>,
}

/// Why a run that is due cannot be worked on.
struct Unusable(String);

impl Engine {
    /// Adds what the runs that were taken into memory begin with.
    pub(super) async fn load(&mut self, inputs: &mut Vec<(Key, Work)>) {
        let turn = if self.behind && self.give_way().await { TURN_SHORT } else { TURN };
        let claimed = match self.claim(self.pace.runs(turn, CLAIM)).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(%error, "due runs were not loaded; they are tried again");
                (self.next_due, self.doubts) = (Some(self.time.now() + LOOK_AGAIN), true);
                return;
            }
        };
        let Claimed { rows, mut letters, mut payloads } = claimed;
        let mut given_up = Vec::new();
        for row in rows {
            let (key, about, mail) = (row.key(), row.about(self.config.workflow_retention_days), row.mail);
            let (queued, hold) = (row.state == State::Queued.as_str(), row.paused.clone().map(Hold));
            self.await_birth(key).await;
            let new = !self.runs.contains_key(&key);
            if new {
                match self.restore(row, payloads.remove(&key).unwrap_or_default()) {
                    Ok(active) => drop(self.runs.insert(key, Box::new(active))),
                    Err(Unusable(why)) => {
                        let (now, clock) = (self.time.now(), self.db.clock());
                        given_up.push(Advanced::given_up(about, Taken::given_up(&why), now, clock));
                        continue;
                    }
                }
                self.dispatch_outstanding(key);
            }
            if let Some(active) = self.runs.get_mut(&key) {
                let was_held = active.is_held();
                (active.mail, active.hold, active.queued) = (mail, hold, queued);
                let changed = active.is_held() != was_held;
                let rests = active.fresh || active.rest(self.time.now()) != Rest::Memory;
                if changed || new && rests {
                    inputs.push((key, Work::Look));
                }
                if changed {
                    self.dispatch_outstanding(key);
                }
            }
            let letters = letters.remove(&key).unwrap_or_default();
            inputs.extend(letters.into_iter().map(|letter| (key, Work::Letter(letter))));
        }
        if !given_up.is_empty() {
            self.write(given_up).await;
        }
    }

    async fn claim(&mut self, most: usize) -> Result<Claimed, Error> {
        let room = self.config.workflow_active_runs.saturating_sub(self.runs.len());
        if self.owned.is_empty() {
            return Ok(Claimed::default());
        }
        let now = self.time.now();
        let all: Vec<i16> = self.owned.keys().copied().collect();
        if self.doubts {
            self.recall(&all).await?;
        }
        let mut tx = self.db.system().await?;
        let awaited = store::list_due_partitions(&mut tx, &all).await?;
        self.next_due = awaited.iter().map(|due| due.at).filter(|at| *at > now).min();
        let due: Vec<i16> = awaited.iter().filter(|due| due.at <= now).map(|due| due.partition).collect();
        self.behind = false;
        if due.is_empty() {
            tx.commit().await?;
            return Ok(Claimed::default());
        }
        // Behind a run that is due another one may sleep, which only the next look shows.
        let again = now + LOOK_AGAIN;
        self.next_due = Some(self.next_due.map_or(again, |first| first.min(again)));
        let (ids, epochs) = self.epochs(due.iter().copied());
        let held = store::lock_partitions(&mut tx, &ids, &epochs).await?;
        // With no room left a run that is in memory already must still get its mail.
        let limit = i64::try_from(room.min(most)).unwrap_or(i64::MAX).max(1);
        let of_each = (limit * SPREAD / i64::try_from(held.len().max(1)).unwrap_or(1)).max(OF_EACH);
        // Of tenants that have as many at work as they may, only runs that are in memory come, for their mail.
        self.count_crowd();
        let crowded = self.waker.crowd.full();
        let but: Vec<Uuid> = crowded.iter().map(|tenant| tenant.uuid()).collect();
        let mut due_runs = store::list_due_runs(&mut tx, (&held, &but), now, (limit, of_each)).await?;
        let full = is_cut(&due_runs, (limit, of_each));
        self.behind = full;
        if full {
            // Behind those who have many due runs, others may have few: tenants take turns.
            let mut others = store::list_due_tenants(&mut tx, self.turn, TENANTS).await?;
            let round = usize::try_from(TENANTS).is_ok_and(|all| others.len() < all);
            self.turn = if round { Uuid::nil() } else { others.last().copied().unwrap_or_default() };
            let busy: HashSet<Uuid> = due_runs.iter().map(|run| run.key().tenant.uuid()).collect();
            others.retain(|tenant| !busy.contains(tenant) && !but.contains(tenant));
            due_runs.extend(store::list_due_runs_of(&mut tx, (&held, &others), now, OF_EACH).await?);
        }
        let mut keys: Vec<Key> = due_runs.iter().map(store::Candidate::key).collect();
        keys.extend(self.runs.keys().filter(|key| crowded.contains(&key.tenant)));
        let rows = store::claim_runs(&mut tx, &held, now, &keys).await?;
        let rows = self.let_in(&mut tx, rows, now).await?;
        let mailed: Vec<Key> = rows.iter().filter(|row| row.mail > 0).map(Row::key).collect();
        let mut letters: HashMap<Key, Vec<Letter>> = HashMap::new();
        if !mailed.is_empty() {
            for (key, letter) in store::list_messages(&mut tx, &mailed).await? {
                letters.entry(key).or_default().push(letter);
            }
        }
        let payloads = store::list_payloads(&mut tx, &rows).await?;
        for row in &rows {
            self.writer.template(&mut tx, (row.tenant_id, &row.workflow_id, row.version)).await?;
        }
        fail::at("claim.commit.before").await?;
        tx.commit().await?;
        fail::at("claim.commit.after").await?;
        if full && room > 0 {
            // There may be more.
            self.waker.here.notify_one();
        }
        let lost: Vec<i16> = due.into_iter().filter(|id| !held.contains(id)).collect();
        self.lose(&lost);
        Ok(Claimed { rows, letters, payloads })
    }

    /// Makes due what this engine may have claimed without hearing of it.
    async fn recall(&mut self, owned: &[i16]) -> Result<(), Error> {
        let mut tx = self.db.system().await?;
        let (ids, epochs) = self.epochs(owned.iter().copied());
        let held = store::lock_partitions(&mut tx, &ids, &epochs).await?;
        let mut in_memory: Vec<Uuid> = self.runs.keys().map(|key| key.run.uuid()).collect();
        in_memory.extend(self.awaited.lock().expect("no holder panics").iter().map(|key| key.run.uuid()));
        store::update_forgotten(&mut tx, &held, &in_memory).await?;
        tx.commit().await?;
        self.doubts = false;
        Ok(())
    }

    /// Leaves what is beyond the number of runs that a tenant may have at work to a later claim.
    async fn let_in(&self, tx: &mut SystemTx, rows: Vec<Row>, now: DateTime<Utc>) -> Result<Vec<Row>, Error> {
        let (mut let_in, mut left) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            let key = row.key();
            let known = self.directory.by_id(key.tenant).await.ok();
            let most = fair::active_runs(known.as_deref(), self.config.workflow_tenant_active_runs);
            if self.is_here(key) || self.waker.crowd.add(key.tenant, most) {
                let_in.push(row);
            } else {
                left.push(key);
            }
        }
        if !left.is_empty() {
            store::update_unclaimed(tx, &left, now).await?;
        }
        Ok(let_in)
    }

    /// Whether a run is in memory, or is about to be.
    fn is_here(&self, key: Key) -> bool {
        self.runs.contains_key(&key) || self.awaited.lock().expect("no holder panics").contains(&key)
    }

    /// Counts the runs of each tenant that are in memory, or are about to be.
    pub(super) fn count_crowd(&self) {
        let awaited = self.awaited.lock().expect("no holder panics");
        self.waker.crowd.count(self.runs.keys().chain(awaited.iter()).map(|key| key.tenant));
    }

    fn restore(&self, row: Row, payloads: HashMap<Digest, Value>) -> Result<Active, Unusable> {
        if row.crashes >= CRASHES_MAX {
            return Err(Unusable(format!("{} engines died while they had this run", row.crashes)));
        }
        let template = self.writer.templates.get(row.tenant_id, &row.workflow_id, row.version);
        let template = template.ok_or_else(|| Unusable("its definition is not valid any more".to_owned()))?;
        let about = row.about(self.writer.retention_days(&template));
        let (hold, queued) = (row.paused.map(Hold), row.state == State::Queued.as_str());
        let (execution, fresh) = match row.execution {
            None => (begin(&about, &template, row.input, row.created_at), true),
            Some(state) => {
                let unusable = |why: &dyn std::fmt::Display| Unusable(format!("its state cannot be read: {why}"));
                let state = payloads::unfold_snapshot(state, &payloads).map_err(|why| unusable(&why))?;
                (Execution::restore(&state, row.input).map_err(|why| unusable(&why))?, false)
            }
        };
        let waits = if fresh { BTreeMap::new() } else { waits(&execution).collect() };
        let mut active = Active::fresh(about, &template, execution, hold);
        (active.mail, active.queued, active.fresh) = (row.mail, queued, fresh);
        (active.waits, active.has_children) = (waits, !fresh);
        active.payloads = Keeper::of(payloads.into_keys());
        Ok(active)
    }
}

/// Whether a claim took as many as it may, so that there may be more.
fn is_cut(due: &[store::Candidate], (limit, of_each): (i64, i64)) -> bool {
    let mut partitions: BTreeMap<i16, i64> = BTreeMap::new();
    due.iter().for_each(|run| *partitions.entry(run.partition).or_default() += 1);
    partitions.values().sum::<i64>() >= limit || partitions.values().any(|count| *count >= of_each)
}
