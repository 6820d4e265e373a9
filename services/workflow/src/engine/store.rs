//! The engine's statements: the only ones that move runs on. All are of the system role, over all tenants.

use chrono::{DateTime, Utc};
use serde_json::Value;
use tenon_chassis::{SystemTx, TenantId};
use uuid::Uuid;

use crate::{error::Error, runs::model::RunId};

/// The clock of the database, which all engines share.
pub(super) async fn get_time(tx: &mut SystemTx) -> Result<DateTime<Utc>, Error> {
    Ok(sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(tx).await?)
}

/// Makes sure that partitions 0 to `count` are there.
pub(super) async fn insert_partitions(tx: &mut SystemTx, count: i16) -> Result<(), Error> {
    sqlx::query!(
        "insert into workflow.partitions (id) select generate_series(0, $1::smallint - 1) on conflict do nothing",
        count
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Shows a sign of life.
pub(super) async fn update_lease(tx: &mut SystemTx, engine: Uuid, lease_ms: i64) -> Result<(), Error> {
    sqlx::query!(
        "insert into workflow.engines (id, lease_until) values ($1, now() + $2::bigint * interval '1 millisecond')
         on conflict (id) do update set lease_until = excluded.lease_until",
        engine,
        lease_ms
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Forgets an engine that stops, and those that died long ago.
pub(super) async fn delete_engines(tx: &mut SystemTx, engine: Uuid) -> Result<(), Error> {
    sqlx::query!("delete from workflow.engines where id = $1 or lease_until < now() - interval '1 hour'", engine)
        .execute(tx)
        .await?;
    Ok(())
}

/// Partitions and living engines.
pub(super) struct Census {
    pub(super) partitions: i64,
    pub(super) engines: i64,
}

pub(super) async fn get_census(tx: &mut SystemTx) -> Result<Census, Error> {
    let census = sqlx::query_as!(
        Census,
        r#"select (select count(*) from workflow.partitions) as "partitions!",
                  (select count(*) from workflow.engines where lease_until > now()) as "engines!""#
    );
    Ok(census.fetch_one(tx).await?)
}

/// A partition that was taken.
pub(super) struct Taken {
    pub(super) id: i16,
    pub(super) epoch: i64,
    /// Whether its last owner died instead of giving it back.
    pub(super) crashed: bool,
}

/// Takes partitions that nobody living owns. One that an owner is writing to just now is left out.
pub(super) async fn claim_partitions(tx: &mut SystemTx, engine: Uuid, limit: i64) -> Result<Vec<Taken>, Error> {
    let taken = sqlx::query_as!(
        Taken,
        r#"with free as (
               select p.id, p.owner is not null as crashed from workflow.partitions p
               where p.owner is null
                  or not exists (select from workflow.engines e where e.id = p.owner and e.lease_until > now())
               order by p.id limit $2 for update skip locked)
           update workflow.partitions p set owner = $1, epoch = p.epoch + 1 from free
           where p.id = free.id returning p.id, p.epoch, free.crashed as "crashed!""#,
        engine,
        limit
    );
    Ok(taken.fetch_all(tx).await?)
}

/// Makes the runs that the last owner had in memory due. The transaction must hold the partitions.
pub(super) async fn update_due(tx: &mut SystemTx, partitions: &[i16], crashed: bool) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.runs set due_at = now(), crashes = crashes + $2::bool::int
         where partition = any($1) and state = 'RUNNING' and due_at = 'infinity'",
        partitions,
        crashed
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Gives partitions back, those that are still this engine's.
pub(super) async fn release_partitions(tx: &mut SystemTx, ids: &[i16], epochs: &[i64]) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.partitions p set owner = null from unnest($1::smallint[], $2::bigint[]) as mine (id, epoch)
         where p.id = mine.id and p.epoch = mine.epoch",
        ids,
        epochs
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Holds those of the partitions that are still this engine's until the transaction ends: whoever wants to take one
/// over waits for what is written meanwhile.
pub(super) async fn lock_partitions(tx: &mut SystemTx, ids: &[i16], epochs: &[i64]) -> Result<Vec<i16>, Error> {
    let held = sqlx::query_scalar!(
        "select p.id from workflow.partitions p
         join unnest($1::smallint[], $2::bigint[]) as mine (id, epoch) on p.id = mine.id and p.epoch = mine.epoch
         order by p.id for share of p",
        ids,
        epochs
    );
    Ok(held.fetch_all(tx).await?)
}

/// A partition and when the first of its runs is due.
pub(super) struct Due {
    pub(super) partition: i16,
    pub(super) at: DateTime<Utc>,
}

/// When each of the partitions has to be looked at; those in which every run is in memory or has ended are left out.
pub(super) async fn list_due_partitions(tx: &mut SystemTx, partitions: &[i16]) -> Result<Vec<Due>, Error> {
    let due = sqlx::query_as!(
        Due,
        r#"select p.id as "partition!", r.due_at as "at!" from unnest($1::smallint[]) as p (id)
           cross join lateral (
               select due_at from workflow.runs r where r.partition = p.id and r.state = 'RUNNING' and r.due_at < 'infinity'
               order by r.due_at limit 1) as r"#,
        partitions
    );
    Ok(due.fetch_all(tx).await?)
}

/// A run as the engine needs it.
pub(super) struct Row {
    pub(super) tenant_id: Uuid,
    pub(super) id: Uuid,
    pub(super) partition: i16,
    pub(super) workflow_id: String,
    pub(super) version: i32,
    pub(super) entity_id: String,
    pub(super) input: Value,
    pub(super) execution: Option<String>,
    pub(super) cancel_reason: Option<String>,
    pub(super) crashes: i16,
    pub(super) roles: Vec<String>,
    pub(super) traceparent: Option<String>,
    pub(super) created_at: DateTime<Utc>,
}

/// Takes due runs into memory. The transaction must hold the partitions.
pub(super) async fn claim_runs(
    tx: &mut SystemTx,
    partitions: &[i16],
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Row>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"with due as (
               select tenant_id, id from workflow.runs
               where partition = any($1) and state = 'RUNNING' and due_at <= $2 order by due_at limit $3
               for no key update skip locked)
           update workflow.runs r set due_at = 'infinity' from due where r.tenant_id = due.tenant_id and r.id = due.id
           returning r.tenant_id, r.id, r.partition, r.workflow_id, r.version, r.entity_id, r.input,
                     r.execution::text as execution, r.cancel_reason, r.crashes, r.roles, r.traceparent, r.created_at"#,
        partitions,
        now,
        limit
    );
    Ok(rows.fetch_all(tx).await?)
}

/// The definition of a version.
pub(super) async fn get_definition(
    tx: &mut SystemTx,
    tenant: TenantId,
    (workflow_id, version): (&str, i32),
) -> Result<Value, Error> {
    let definition = sqlx::query_scalar!(
        "select definition from workflow.workflows where tenant_id = $1 and workflow_id = $2 and version = $3",
        tenant.uuid(),
        workflow_id,
        version
    );
    Ok(definition.fetch_one(tx).await?)
}

/// What a step makes of a run.
#[derive(Debug, Clone)]
pub(super) struct Update {
    pub(super) tenant: TenantId,
    pub(super) run: RunId,
    pub(super) state: &'static str,
    pub(super) output: Option<String>,
    pub(super) error: Option<String>,
    pub(super) cause: Option<String>,
    pub(super) execution: Option<String>,
    /// When to look again; `None` while the run stays in memory.
    pub(super) due_at: Option<DateTime<Utc>>,
    pub(super) ended_at: Option<DateTime<Utc>>,
}

/// Writes steps. A request to cancel that came meanwhile stays due. Written twice it is as written once.
pub(super) async fn update_runs(tx: &mut SystemTx, updates: &[Update]) -> Result<(), Error> {
    let tenants: Vec<Uuid> = updates.iter().map(|update| update.tenant.uuid()).collect();
    let runs: Vec<Uuid> = updates.iter().map(|update| update.run.uuid()).collect();
    let states: Vec<String> = updates.iter().map(|update| update.state.to_owned()).collect();
    let outputs: Vec<Option<String>> = updates.iter().map(|update| update.output.clone()).collect();
    let errors: Vec<Option<String>> = updates.iter().map(|update| update.error.clone()).collect();
    let causes: Vec<Option<String>> = updates.iter().map(|update| update.cause.clone()).collect();
    let executions: Vec<Option<String>> = updates.iter().map(|update| update.execution.clone()).collect();
    let due: Vec<Option<DateTime<Utc>>> = updates.iter().map(|update| update.due_at).collect();
    let ended: Vec<Option<DateTime<Utc>>> = updates.iter().map(|update| update.ended_at).collect();
    sqlx::query!(
        "update workflow.runs r
         set state = u.state, output = u.output::json, error = u.error, cause = u.cause,
             execution = u.execution::json, crashes = 0, ended_at = u.ended_at,
             due_at = case when r.cancel_reason is not null then now() else coalesce(u.due_at, 'infinity') end
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                     $8::timestamptz[], $9::timestamptz[])
              as u (tenant_id, id, state, output, error, cause, execution, due_at, ended_at)
         where r.tenant_id = u.tenant_id and r.id = u.id and r.state = 'RUNNING'",
        &tenants,
        &runs,
        &states,
        &outputs as &[Option<String>],
        &errors as &[Option<String>],
        &causes as &[Option<String>],
        &executions as &[Option<String>],
        &due as &[Option<DateTime<Utc>>],
        &ended as &[Option<DateTime<Utc>>]
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// An event of a run's history.
#[derive(Debug, Clone)]
pub(super) struct NewEvent {
    pub(super) tenant: TenantId,
    pub(super) run: RunId,
    pub(super) id: i64,
    pub(super) previous_id: i64,
    pub(super) kind: &'static str,
    pub(super) state: String,
    pub(super) details: String,
    pub(super) time: DateTime<Utc>,
}

/// Adds to histories. Written twice it is as written once.
pub(super) async fn insert_history(tx: &mut SystemTx, events: &[NewEvent]) -> Result<(), Error> {
    let tenants: Vec<Uuid> = events.iter().map(|event| event.tenant.uuid()).collect();
    let runs: Vec<Uuid> = events.iter().map(|event| event.run.uuid()).collect();
    let ids: Vec<i64> = events.iter().map(|event| event.id).collect();
    let previous: Vec<i64> = events.iter().map(|event| event.previous_id).collect();
    let kinds: Vec<String> = events.iter().map(|event| event.kind.to_owned()).collect();
    let states: Vec<String> = events.iter().map(|event| event.state.clone()).collect();
    let details: Vec<String> = events.iter().map(|event| event.details.clone()).collect();
    let times: Vec<DateTime<Utc>> = events.iter().map(|event| event.time).collect();
    sqlx::query!(
        "insert into workflow.history (tenant_id, run_id, id, previous_id, type, state, details, time)
         select t, r, i, p, k, s, d::json, at
         from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[],
                     $8::timestamptz[]) as u (t, r, i, p, k, s, d, at)
         on conflict do nothing",
        &tenants,
        &runs,
        &ids,
        &previous,
        &kinds,
        &states,
        &details,
        &times
    )
    .execute(tx)
    .await?;
    Ok(())
}
