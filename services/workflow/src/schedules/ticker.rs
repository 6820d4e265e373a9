//! Starts the runs of schedules when they are due. Each schedule is handled in a transaction of its tenant that holds it,
//! so that of any number of processes one starts the run, and a crash starts it again only when nothing was committed.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use tenon_chassis::{Caller, Db, Mesh, TenantId, TenantTx, fail, telemetry};
use tokio::sync::Notify;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    model::{self, Schedule},
    store,
};
use crate::{
    error::Error,
    hooks,
    runs::model::{Depth, Trigger},
    starts::{self, Start, Starts},
};

/// Schedules that are taken up at once.
const BATCH: i64 = 100;
/// How often is looked when nothing is due: what a schedule that another process made may be late at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The pause after an error.
const AGAIN: Duration = Duration::from_millis(500);
/// When a schedule of a tenant that may not work just now is looked at again.
const PARKED: TimeDelta = TimeDelta::seconds(60);
/// How often old deliveries are forgotten, and how many in one transaction.
const CHORES_EVERY: Duration = Duration::from_secs(60);
const FORGOTTEN_AT_ONCE: i64 = 5_000;

struct Ticker {
    mesh: Mesh,
    db: Db,
    starts: Arc<Starts>,
}

pub(super) async fn run(mesh: Mesh, db: Db, starts: Arc<Starts>, changed: Arc<Notify>) {
    let stop = mesh.stop.clone();
    let ticker = Ticker { mesh, db, starts };
    let mut chores = tokio::time::interval(CHORES_EVERY);
    while !stop.is_cancelled() {
        if chores.tick().now_or_never().is_some()
            && let Err(error) = ticker.chores().instrument(telemetry::quiet()).await
        {
            tracing::warn!(error = ?error, "old deliveries were not forgotten; it is tried again");
        }
        let pause = match ticker.tick().instrument(telemetry::quiet()).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(error = ?error, "schedules were not looked at; they are tried again");
                AGAIN
            }
        };
        let woken = async { drop(tokio::time::timeout(pause, changed.notified()).await) };
        let _ = stop.run_until_cancelled(woken).await;
    }
}

impl Ticker {
    /// Forgets what need not be remembered longer.
    async fn chores(&self) -> Result<(), Error> {
        loop {
            let mut tx = self.db.system().await?;
            let deleted = hooks::store::delete_deliveries(&mut tx, FORGOTTEN_AT_ONCE).await?;
            tx.commit().await?;
            if i64::try_from(deleted).is_ok_and(|deleted| deleted < FORGOTTEN_AT_ONCE) {
                return Ok(());
            }
        }
    }

    /// Handles what is due, and says how long there is nothing to do.
    async fn tick(&self) -> Result<Duration, Error> {
        let mut tx = self.db.system().await?;
        // As timers: machines whose clocks disagree, or jump, start nothing early, late or twice.
        let now = store::get_time(&mut tx).await? + self.db.clock().ahead();
        let (due, next) = store::list_due(&mut tx, now, BATCH).await?;
        tx.commit().await?;
        if due.is_empty() {
            let until = next.map_or(LOOK_EVERY, |next| (next - now).to_std().unwrap_or_default());
            return Ok(until.min(LOOK_EVERY));
        }
        let mut failed = false;
        for (tenant, schedule_id) in due {
            if let Err(error) = self.handle(tenant.into(), &schedule_id, now).await {
                // The others must not wait for one that is broken.
                failed = true;
                tracing::warn!(error = ?error, schedule.id = schedule_id, "a schedule was not handled; it is tried again");
            }
        }
        // What was handled has a next time by now.
        Ok(if failed { AGAIN } else { Duration::ZERO })
    }

    async fn handle(&self, tenant: TenantId, schedule_id: &str, now: DateTime<Utc>) -> Result<(), Error> {
        let method = self.mesh.contract.method(starts::CREATE_RUN).expect("the contract has CreateRun");
        let caller = Caller::service("workflow", method).acting_for(tenant)?;
        let mut tx = self.db.begin(&caller).await?;
        let Some(schedule) = store::claim(&mut tx, schedule_id, now).await? else { return Ok(()) };
        let standing = self.mesh.directory.by_id(tenant).await.and_then(|tenant| tenant.admit(false));
        if standing.is_err() {
            // Once the tenant is in good standing again, what lies within the catch-up time is made up for.
            store::update_due(&mut tx, schedule_id, now + PARKED).await?;
            return Ok(tx.commit().await?);
        }
        let busy = match schedule.last_run {
            Some(run) => store::is_at_work(&mut tx, run).await?,
            None => false,
        };
        let tick = schedule.tick(now, busy);
        let mut last = None;
        for at in &tick.start {
            last = self.start(&mut tx, &schedule, *at).await?.map(|run| (*at, run)).or(last);
        }
        store::update_tick(&mut tx, schedule_id, &tick, last).await?;
        fail::at("schedule.commit.before").await?;
        tx.commit().await?;
        fail::at("schedule.commit.after").await?;
        if last.is_some() {
            self.starts.wake();
        }
        Ok(())
    }

    /// Starts the run of a time. What its workflow refuses is left out and told: it would be refused again.
    async fn start(&self, tx: &mut TenantTx, schedule: &Schedule, at: DateTime<Utc>) -> Result<Option<Uuid>, Error> {
        let start = Start {
            workflow_id: schedule.workflow_id.clone(),
            input: model::input_at(&schedule.input, &schedule.schedule_id, at),
            created_by: schedule.created_by.clone(),
            roles: schedule.roles.clone(),
            trigger: Trigger::Cron,
            depth: Depth::default(),
        };
        match self.starts.start(tx, start).await {
            Ok(run) => Ok(Some(run.uuid())),
            Err(error @ (Error::Refused(_) | Error::WorkflowNotFound | Error::QuotaExhausted(..))) => {
                tracing::warn!(error = ?error, schedule.id = schedule.schedule_id, tenant.id = %tx.tenant(), "a scheduled run was refused");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
