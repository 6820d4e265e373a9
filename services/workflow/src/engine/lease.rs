//! Who owns what: signs of life, and partitions that are taken, shared and given back.

use std::time::Duration;

use tenon_chassis::{Db, fail, telemetry};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::{Engine, store};
use crate::error::Error;

/// Shows signs of life until stopped.
pub(super) async fn heartbeat(db: Db, engine: Uuid, lease: Duration, stop: CancellationToken) {
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    let beat = async || {
        let mut tx = db.system().await?;
        store::update_lease(&mut tx, engine, lease_ms).await?;
        Ok::<_, Error>(tx.commit().await?)
    };
    while !stop.is_cancelled() {
        if let Err(error) = beat().instrument(telemetry::quiet()).await {
            tracing::warn!(%error, "the engine's lease was not renewed");
        }
        stop.run_until_cancelled(tokio::time::sleep(lease / 4)).await;
    }
}

impl Engine {
    /// Makes the partitions and asks the database for its time. False when it has to be tried again.
    pub(super) async fn prepared(&self) -> bool {
        let prepared = async {
            let mut tx = self.db.system().await?;
            store::insert_partitions(&mut tx, self.config.workflow_partitions).await?;
            let now = store::get_time(&mut tx).await?;
            tx.commit().await?;
            Ok::<_, Error>(now)
        };
        match prepared.instrument(telemetry::quiet()).await {
            Ok(now) => {
                self.time.begin(now);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the engine cannot start yet");
                false
            }
        }
    }

    /// Takes its share of the partitions, and gives back what is more. True when it took some: there may be runs.
    pub(super) async fn balance(&mut self) -> bool {
        match self.rebalanced().await {
            Ok(took) => took,
            Err(error) => {
                tracing::warn!(%error, "partitions were not balanced");
                false
            }
        }
    }

    async fn rebalanced(&mut self) -> Result<bool, Error> {
        let mut tx = self.db.system().await?;
        self.time.set(store::get_time(&mut tx).await?);
        // What others took while it stood still: as long as it believes to have its share it takes nothing.
        let mine = store::list_owned(&mut tx, self.id).await?;
        let lost: Vec<i16> =
            self.owned.iter().filter(|(id, epoch)| mine.get(id) != Some(epoch)).map(|(id, _)| *id).collect();
        self.lose(&lost);
        // What it took or gave back without hearing that this was committed.
        let forgotten = mine.into_iter().filter(|(id, _)| !self.owned.contains_key(id));
        let (ids, epochs): (Vec<i16>, Vec<i64>) = forgotten.unzip();
        if !ids.is_empty() {
            store::update_due(&mut tx, &ids, false).await?;
            store::release_partitions(&mut tx, &ids, &epochs).await?;
            tx.commit().await?;
            tracing::warn!(count = ids.len(), "partitions that the engine did not know to be its own are free");
            return Ok(false);
        }
        // An engine that shows no sign of life itself must not own anything.
        let census = store::get_census(&mut tx).await?;
        if census.engines == 0 {
            return Ok(false);
        }
        self.waker.crowd.share_among(usize::try_from(census.engines).unwrap_or(1));
        let share = usize::try_from((census.partitions + census.engines - 1) / census.engines).unwrap_or(usize::MAX);
        if self.owned.len() > share {
            let surplus: Vec<i16> = self.owned.keys().rev().take(self.owned.len() - share).copied().collect();
            let (ids, epochs) = self.epochs(surplus);
            self.runs.retain(|_, active| !ids.contains(&active.about.partition));
            self.owned.retain(|id, _| !ids.contains(id));
            let held = store::lock_partitions(&mut tx, &ids, &epochs).await?;
            store::update_due(&mut tx, &held, false).await?;
            store::release_partitions(&mut tx, &ids, &epochs).await?;
            tx.commit().await?;
            tracing::info!(count = ids.len(), "partitions given to another engine");
            return Ok(false);
        }
        if self.owned.len() == share {
            return Ok(false);
        }
        let want = i64::try_from(share - self.owned.len()).unwrap_or(i64::MAX);
        let taken = store::claim_partitions(&mut tx, self.id, want).await?;
        for crashed in [false, true] {
            let ids: Vec<i16> = taken.iter().filter(|taken| taken.crashed == crashed).map(|taken| taken.id).collect();
            if !ids.is_empty() {
                store::update_due(&mut tx, &ids, crashed).await?;
            }
        }
        fail::at("partitions.commit.before").await?;
        tx.commit().await?;
        fail::at("partitions.commit.after").await?;
        self.owned.extend(taken.iter().map(|taken| (taken.id, taken.epoch)));
        if !taken.is_empty() {
            tracing::info!(count = taken.len(), owned = self.owned.len(), "partitions taken");
        }
        Ok(!taken.is_empty())
    }

    /// Gives everything back, so that others need not wait for the lease to end.
    pub(super) async fn give_back(&mut self) {
        let (ids, epochs) = self.epochs(self.owned.keys().copied().collect::<Vec<_>>());
        let given = async {
            let mut tx = self.db.system().await?;
            let held = store::lock_partitions(&mut tx, &ids, &epochs).await?;
            store::update_due(&mut tx, &held, false).await?;
            store::release_partitions(&mut tx, &ids, &epochs).await?;
            Ok::<_, Error>(tx.commit().await?)
        };
        if let Err(error) = given.await {
            tracing::warn!(%error, "partitions were not given back; others take them when the lease ends");
        }
        self.owned.clear();
    }

    /// Takes the engine off the list.
    pub(super) async fn leave(&self) {
        let left = async {
            let mut tx = self.db.system().await?;
            store::delete_engines(&mut tx, self.id).await?;
            Ok::<_, Error>(tx.commit().await?)
        };
        if let Err(error) = left.await {
            tracing::warn!(%error, "the engine was not taken off the list");
        }
    }
}
