//! Deletes what the mesh keeps for repetitions once nothing repeats it any more: published events, what consumers have
//! seen, and answers under idempotency keys.

mod store;

use std::time::Duration;

use chrono::TimeDelta;
use tenon_chassis::{Db, fail, telemetry};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{config::Config, error::Error};

/// How often what is past its time is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The pause between two batches of what is much.
const BREATH: Duration = Duration::from_millis(100);
/// Rows of a table that one transaction deletes.
const BATCH: i64 = 2_000;
/// An event that a consumer has not come to is kept this many times as long as others.
const UNREAD_TIMES: i32 = 4;
/// Days that an event is remembered as seen after the last day on which it may come again.
const SEEN_LONGER_DAYS: i64 = 2;

/// Deletes until stopped.
pub(crate) async fn run(db: Db, config: Config, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let pause = match purge(&db, &config).instrument(telemetry::quiet()).await {
            Ok(true) => BREATH,
            Ok(false) => LOOK_EVERY,
            Err(error) => {
                tracing::warn!(%error, "what is past its use was not deleted; it is tried again");
                LOOK_EVERY
            }
        };
        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

/// One batch of each; true when there is more.
async fn purge(db: &Db, config: &Config) -> Result<bool, Error> {
    let now = db.clock().now();
    let ago = |days: i64| now - TimeDelta::days(days);
    let events_days = i64::from(config.events_days);
    let unread_days = events_days * i64::from(UNREAD_TIMES);
    let mut tx = db.system().await?;
    let events = store::delete_events(&mut tx, (ago(events_days), ago(unread_days)), BATCH).await?;
    let seen = store::delete_seen(&mut tx, ago(unread_days + SEEN_LONGER_DAYS), BATCH).await?;
    let answers = store::delete_answers(&mut tx, ago(config.idempotency_days.into()), BATCH).await?;
    fail::at("purges.commit.before").await?;
    tx.commit().await?;
    fail::at("purges.commit.after").await?;
    if events + seen + answers > 0 {
        tracing::info!(events, seen, answers, "what is past its use was deleted");
    }
    let full = u64::try_from(BATCH).unwrap_or(u64::MAX);
    Ok([events, seen, answers].contains(&full))
}
