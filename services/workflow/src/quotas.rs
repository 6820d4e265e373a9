//! Quotas: the meters of which a tenant has nothing left, as billing tells it. Starts are refused then, and runs are parked
//! before the call that would use more.

mod store;

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use tenon_chassis::{
    Db, SystemTx, TenantId,
    bus::{Consumer, Event, Handle},
    db, telemetry,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::error::Error;

/// The meter of runs, as the policy of CreateRun names it.
pub(crate) const RUNS: &str = "workflow_runs";
/// What a run that is parked for a meter is held by, before the meter.
pub(crate) const HELD: &str = "quota:";
const EXHAUSTED: &str = "tenon.billing.quota.exhausted.v1";
const REPLENISHED: &str = "tenon.billing.quota.replenished.v1";
/// How often the table is read: how long a process may let more be used than there is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is used up, by tenant and meter, until when.
type Known = HashMap<TenantId, HashMap<String, DateTime<Utc>>>;

/// Knows what is used up. Clones share it.
#[derive(Clone)]
pub struct Quotas {
    db: Db,
    known: Arc<RwLock<Known>>,
}

impl Quotas {
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db, known: Arc::default() }
    }

    /// When the period ends for which nothing is left of a meter; `None` while something is.
    #[must_use]
    pub fn used_up(&self, tenant: TenantId, meter: &str) -> Option<DateTime<Utc>> {
        self.known.read().expect("no holder panics").get(&tenant)?.get(meter).copied()
    }

    /// Lets runs start.
    ///
    /// # Errors
    /// QUOTA_EXHAUSTED when the plan has none left.
    pub fn admit_run(&self, tenant: TenantId) -> Result<(), Error> {
        self.used_up(tenant, RUNS).map_or(Ok(()), |until| Err(Error::QuotaExhausted(RUNS, until)))
    }

    /// Follows the table until stopped.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(error) = self.look().instrument(telemetry::quiet()).await {
                tracing::warn!(%error, "quotas were not read; it is tried again");
            }
            stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await;
        }
    }

    async fn look(&self) -> Result<(), Error> {
        let mut tx = self.db.system().await?;
        let rows = store::list_exhausted(&mut tx).await?;
        tx.commit().await?;
        let mut known = Known::new();
        for (tenant, meter, until) in rows {
            known.entry(tenant).or_default().insert(meter, until);
        }
        *self.known.write().expect("no holder panics") = known;
        Ok(())
    }

    /// Keeps what billing tells.
    #[must_use]
    pub fn consumer() -> Consumer {
        Consumer { name: "workflow.quotas", types: &[EXHAUSTED, REPLENISHED], handler: Arc::new(Keep) }
    }
}

struct Keep;

impl Handle for Keep {
    fn handle<'a>(&'a self, tx: &'a mut SystemTx, events: &'a [Event]) -> BoxFuture<'a, Result<(), db::Error>> {
        Box::pin(async move {
            for event in events {
                let until = event.data["periodEnd"].as_str().and_then(|end| DateTime::parse_from_rfc3339(end).ok());
                match (event.data["meter"].as_str(), until) {
                    (Some(meter), Some(until)) => {
                        let change = (event.kind == EXHAUSTED, until.to_utc(), event.time);
                        store::update(tx, (event.tenant, meter), change).await?;
                    }
                    _ => tracing::error!(event.id = %event.id, "quota event is malformed and is not kept"),
                }
            }
            Ok(())
        })
    }
}
