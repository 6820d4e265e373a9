//! The statements on workflow.schedules.

use chrono::{DateTime, Utc};
use tenon_chassis::{SystemTx, TenantTx};
use uuid::Uuid;

use super::model::{Schedule, Tick};
use crate::{
    error::Error,
    workflows::{envelope::Cron, model::Publisher},
};

/// Adds a schedule; `None` when its workflow is not there.
///
/// # Errors
/// `ScheduleExists` when the id is taken.
pub(super) async fn insert(tx: &mut TenantTx, schedule: &Schedule) -> Result<Option<Schedule>, Error> {
    let row = sqlx::query_as!(
        Schedule,
        "insert into workflow.schedules (tenant_id, schedule_id, workflow_id, managed, cron, time_zone, overlap, jitter_s,
                                         input, paused, next_at, due_at, created_by, roles)
         select $1::uuid, $2::text, $3::text, $4::bool, $5::text, $6::text, $7::text, $8::integer, $9::json, $10::bool,
                $11::timestamptz, $12::timestamptz, $13::text, $14::text[]
         where exists (select from workflow.workflows w where w.tenant_id = $1 and w.workflow_id = $3)
         returning schedule_id, workflow_id, managed, cron, time_zone, overlap, jitter_s, input, paused, next_at, due_at,
                   buffered_at, last_at, last_run, created_by, roles, created_at",
        tx.tenant().uuid(),
        schedule.schedule_id,
        schedule.workflow_id,
        schedule.managed,
        schedule.cron,
        schedule.time_zone,
        schedule.overlap.as_str(),
        schedule.jitter_s,
        schedule.input,
        schedule.paused,
        schedule.next_at,
        schedule.due_at,
        schedule.created_by,
        &schedule.roles
    );
    row.fetch_optional(tx).await.map_err(|error| match error {
        sqlx::Error::Database(error) if error.constraint() == Some("schedules_pkey") => Error::ScheduleExists,
        error => error.into(),
    })
}

/// Puts the schedules of a workflow's triggers in the place of those before; one that stays the same goes on as it is.
pub(crate) async fn update_managed(
    tx: &mut TenantTx,
    workflow_id: &str,
    triggers: &[(String, &Cron)],
    publisher: &Publisher,
) -> Result<(), Error> {
    let ids: Vec<String> = triggers.iter().map(|(id, _)| id.clone()).collect();
    sqlx::query!(
        "delete from workflow.schedules
         where tenant_id = $1 and workflow_id = $2 and managed and schedule_id <> all($3)",
        tx.tenant().uuid(),
        workflow_id,
        &ids
    )
    .execute(&mut *tx)
    .await?;
    let now = tx.clock().now();
    for (schedule_id, Cron { timetable, input }) in triggers {
        let next_at = timetable.next(now);
        let due_at = next_at.map(|at| timetable.due(schedule_id, at));
        sqlx::query!(
            "insert into workflow.schedules as s (tenant_id, schedule_id, workflow_id, managed, cron, time_zone, overlap,
                                                  jitter_s, input, next_at, due_at, created_by, roles)
             values ($1, $2, $3, true, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             on conflict (tenant_id, schedule_id) do update
             set cron = excluded.cron, time_zone = excluded.time_zone, overlap = excluded.overlap,
                 jitter_s = excluded.jitter_s, input = excluded.input, created_by = excluded.created_by,
                 roles = excluded.roles,
                 next_at = case when s.paused then null else excluded.next_at end,
                 due_at = case when s.paused then null else excluded.due_at end
             where s.managed",
            tx.tenant().uuid(),
            schedule_id,
            workflow_id,
            timetable.cron,
            timetable.time_zone,
            timetable.overlap.as_str(),
            timetable.jitter_s,
            input,
            next_at,
            due_at,
            publisher.created_by,
            &publisher.roles
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

pub(super) async fn get(tx: &mut TenantTx, schedule_id: &str) -> Result<Option<Schedule>, Error> {
    let row = sqlx::query_as!(
        Schedule,
        "select schedule_id, workflow_id, managed, cron, time_zone, overlap, jitter_s, input, paused, next_at, due_at,
                buffered_at, last_at, last_run, created_by, roles, created_at
         from workflow.schedules where tenant_id = $1 and schedule_id = $2 for update",
        tx.tenant().uuid(),
        schedule_id
    );
    Ok(row.fetch_optional(tx).await?)
}

pub(super) async fn list(
    tx: &mut TenantTx,
    workflow_id: Option<&str>,
    after: &str,
    limit: i64,
) -> Result<Vec<Schedule>, Error> {
    let rows = sqlx::query_as!(
        Schedule,
        "select schedule_id, workflow_id, managed, cron, time_zone, overlap, jitter_s, input, paused, next_at, due_at,
                buffered_at, last_at, last_run, created_by, roles, created_at
         from workflow.schedules
         where tenant_id = $1 and schedule_id > $2 and ($3::text is null or workflow_id = $3)
         order by schedule_id limit $4",
        tx.tenant().uuid(),
        after,
        workflow_id,
        limit
    );
    Ok(rows.fetch_all(tx).await?)
}

/// Pauses a schedule, or lets it go on with the time that is next.
pub(super) async fn update_paused(tx: &mut TenantTx, schedule: &Schedule) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.schedules set paused = $3, next_at = $4, due_at = $5, buffered_at = null
         where tenant_id = $1 and schedule_id = $2",
        tx.tenant().uuid(),
        schedule.schedule_id,
        schedule.paused,
        schedule.next_at,
        schedule.due_at
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn delete(tx: &mut TenantTx, schedule_id: &str) -> Result<(), Error> {
    sqlx::query!(
        "delete from workflow.schedules where tenant_id = $1 and schedule_id = $2",
        tx.tenant().uuid(),
        schedule_id
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The clock of the database, which all processes share.
pub(super) async fn get_time(tx: &mut SystemTx) -> Result<DateTime<Utc>, Error> {
    Ok(sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(tx).await?)
}

/// Schedules that are due, of any tenant, and when the next one will be.
pub(super) async fn list_due(
    tx: &mut SystemTx,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<(Vec<(Uuid, String)>, Option<DateTime<Utc>>), Error> {
    let due = sqlx::query!(
        "select tenant_id, schedule_id from workflow.schedules where due_at <= $1 order by due_at limit $2",
        now,
        limit
    );
    let due = due.fetch_all(&mut *tx).await?;
    let next = sqlx::query_scalar!("select min(due_at) from workflow.schedules where due_at > $1", now);
    let next = next.fetch_one(tx).await?;
    Ok((due.into_iter().map(|row| (row.tenant_id, row.schedule_id)).collect(), next))
}

/// Holds a schedule that is due; `None` when another engine has it, or has been there.
pub(super) async fn claim(tx: &mut TenantTx, schedule_id: &str, now: DateTime<Utc>) -> Result<Option<Schedule>, Error> {
    let row = sqlx::query_as!(
        Schedule,
        "select schedule_id, workflow_id, managed, cron, time_zone, overlap, jitter_s, input, paused, next_at, due_at,
                buffered_at, last_at, last_run, created_by, roles, created_at
         from workflow.schedules where tenant_id = $1 and schedule_id = $2 and due_at <= $3
         for update skip locked",
        tx.tenant().uuid(),
        schedule_id,
        now
    );
    Ok(row.fetch_optional(tx).await?)
}

/// Keeps what a tick came to.
pub(super) async fn update_tick(
    tx: &mut TenantTx,
    schedule_id: &str,
    tick: &Tick,
    last: Option<(DateTime<Utc>, Uuid)>,
) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.schedules
         set next_at = $3, due_at = $4, buffered_at = $5, last_at = coalesce($6, last_at), last_run = coalesce($7, last_run)
         where tenant_id = $1 and schedule_id = $2",
        tx.tenant().uuid(),
        schedule_id,
        tick.next_at,
        tick.due_at,
        tick.buffered_at,
        last.map(|(at, _)| at),
        last.map(|(_, run)| run)
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Puts a schedule off that cannot start runs just now.
pub(super) async fn update_due(tx: &mut TenantTx, schedule_id: &str, due_at: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.schedules set due_at = $3 where tenant_id = $1 and schedule_id = $2",
        tx.tenant().uuid(),
        schedule_id,
        due_at
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether a run has not ended.
pub(super) async fn is_at_work(tx: &mut TenantTx, run: Uuid) -> Result<bool, Error> {
    let found = sqlx::query_scalar!(
        r#"select exists (select from workflow.runs where tenant_id = $1 and id = $2 and ended_at is null) as "found!""#,
        tx.tenant().uuid(),
        run
    );
    Ok(found.fetch_one(tx).await?)
}
