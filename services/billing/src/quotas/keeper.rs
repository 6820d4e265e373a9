//! Tells that there is something left of a meter again: once its period is over, or its plan allows more.

use std::time::Duration;

use tenon_chassis::{Db, telemetry};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{events, store};
use crate::error::Error;

/// How often what is used up is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Meters that are looked at in one transaction at most.
const BATCH: i64 = 1_000;

/// Looks until stopped. Any number of replicas may; each change is told of once.
pub(crate) async fn run(db: Db, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = look(&db).instrument(telemetry::quiet()).await {
            tracing::warn!(%error, "quotas were not looked at; it is tried again");
        }
        stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await;
    }
}

async fn look(db: &Db) -> Result<(), Error> {
    let now = db.clock().now();
    let mut tx = db.system().await?;
    let changes = store::claim_replenished(&mut tx, now, BATCH).await?;
    for change in &changes {
        store::update_exhausted(&mut tx, (change.tenant.uuid(), &change.quota.meter), false).await?;
    }
    tx.emit(&events(&changes, db.clock())).await?;
    Ok(tx.commit().await?)
}
