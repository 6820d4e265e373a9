//! The engine's statements on partitions and due runs. All are of the system role, over all tenants.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde_json::Value;
use tenon_chassis::SystemTx;
use uuid::Uuid;

use super::active::Key;
use crate::{
    error::Error,
    payloads::{self, Digest},
    runs::mail::{Kept, Letter},
};

/// Keys as the columns of an unnest.
pub(super) fn columns(keys: &[Key]) -> (Vec<Uuid>, Vec<Uuid>) {
    keys.iter().map(|key| (key.tenant.uuid(), key.run.uuid())).unzip()
}

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
         where partition = any($1) and due_at = 'infinity'",
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

/// The partitions that are this engine's, with their epochs.
pub(super) async fn list_owned(tx: &mut SystemTx, engine: Uuid) -> Result<BTreeMap<i16, i64>, Error> {
    let owned = sqlx::query!("select id, epoch from workflow.partitions where owner = $1", engine);
    Ok(owned.fetch_all(tx).await?.into_iter().map(|row| (row.id, row.epoch)).collect())
}

/// Leaves runs that were claimed in this transaction to a later one.
pub(super) async fn update_unclaimed(tx: &mut SystemTx, keys: &[Key], now: DateTime<Utc>) -> Result<(), Error> {
    let (tenants, runs) = columns(keys);
    sqlx::query!(
        "update workflow.runs r set due_at = $3 from unnest($1::uuid[], $2::uuid[]) as k (tenant_id, id)
         where r.tenant_id = k.tenant_id and r.id = k.id",
        &tenants,
        &runs,
        now
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Makes runs due that count as in memory and are not. The transaction must hold the partitions.
pub(super) async fn update_forgotten(tx: &mut SystemTx, partitions: &[i16], in_memory: &[Uuid]) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.runs set due_at = now()
         where partition = any($1) and due_at = 'infinity' and id <> all($2)",
        partitions,
        in_memory
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
               select due_at from workflow.runs r where r.partition = p.id and r.due_at < 'infinity'
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
    pub(super) state: String,
    pub(super) input: Value,
    pub(super) execution: Option<String>,
    pub(super) paused: Option<String>,
    pub(super) mail: i32,
    pub(super) crashes: i16,
    pub(super) created_by: String,
    pub(super) roles: Vec<String>,
    pub(super) traceparent: Option<String>,
    pub(super) concurrency_key: Option<String>,
    pub(super) parent_run: Option<Uuid>,
    pub(super) parent_token: Option<i64>,
    pub(super) depth: i16,
    pub(super) created_at: DateTime<Utc>,
}

/// A run that is due.
pub(super) struct Candidate {
    tenant_id: Uuid,
    id: Uuid,
    pub(super) partition: i16,
}

impl Candidate {
    pub(super) fn key(&self) -> Key {
        Key { tenant: self.tenant_id.into(), run: self.id.into() }
    }
}

/// The runs that are due the longest of tenants that are not `but`, `of_each` of a partition at most. However many are
/// due, it reads no more of them.
pub(super) async fn list_due_runs(
    tx: &mut SystemTx,
    (partitions, but): (&[i16], &[Uuid]),
    now: DateTime<Utc>,
    (limit, of_each): (i64, i64),
) -> Result<Vec<Candidate>, Error> {
    let due = sqlx::query_as!(
        Candidate,
        r#"select d.tenant_id as "tenant_id!", d.id as "id!", p.id as "partition!" from unnest($1::smallint[]) as p (id)
           cross join lateral (
               select r.tenant_id, r.id, r.due_at from workflow.runs r
               where r.partition = p.id and r.due_at <= $2 and r.tenant_id <> all($5)
               order by r.due_at limit $4) as d
           order by d.due_at limit $3"#,
        partitions,
        now,
        limit,
        of_each,
        but
    );
    Ok(due.fetch_all(tx).await?)
}

/// The next tenants behind one that have runs due or asleep, in the order of their ids.
pub(super) async fn list_due_tenants(tx: &mut SystemTx, after: Uuid, limit: i32) -> Result<Vec<Uuid>, Error> {
    let tenants = sqlx::query_scalar!(
        r#"with recursive tenants (id, hop) as (
               (select tenant_id, 1 from workflow.runs where tenant_id > $1 and due_at < 'infinity'
                order by tenant_id limit 1)
               union all
               select (select r.tenant_id from workflow.runs r where r.tenant_id > t.id and r.due_at < 'infinity'
                       order by r.tenant_id limit 1), t.hop + 1
               from tenants t where t.id is not null and t.hop < $2)
           select id as "id!" from tenants where id is not null"#,
        after,
        limit
    );
    Ok(tenants.fetch_all(tx).await?)
}

/// Due runs of these tenants, `of_each` at most.
pub(super) async fn list_due_runs_of(
    tx: &mut SystemTx,
    (partitions, tenants): (&[i16], &[Uuid]),
    now: DateTime<Utc>,
    of_each: i64,
) -> Result<Vec<Candidate>, Error> {
    let due = sqlx::query_as!(
        Candidate,
        r#"select d.tenant_id as "tenant_id!", d.id as "id!", d.partition as "partition!" from unnest($2::uuid[]) as t (id)
           cross join lateral (
               select r.tenant_id, r.id, r.partition from workflow.runs r
               where r.tenant_id = t.id and r.due_at <= $3 and r.due_at < 'infinity' and r.partition = any($1)
               order by r.due_at limit $4) as d"#,
        partitions,
        tenants,
        now,
        of_each
    );
    Ok(due.fetch_all(tx).await?)
}

/// Takes those of the runs into memory that are due. The transaction must hold the partitions.
pub(super) async fn claim_runs(
    tx: &mut SystemTx,
    partitions: &[i16],
    now: DateTime<Utc>,
    keys: &[Key],
) -> Result<Vec<Row>, Error> {
    let (tenants, runs) = columns(keys);
    let rows = sqlx::query_as!(
        Row,
        r#"with due as materialized (
               select r.tenant_id, r.id from unnest($2::uuid[], $3::uuid[]) as k (tenant_id, id)
               join workflow.runs r on r.tenant_id = k.tenant_id and r.id = k.id
               where r.due_at <= $4 and r.partition = any($1)
               for no key update of r skip locked)
           update workflow.runs r set due_at = 'infinity' from due where r.tenant_id = due.tenant_id and r.id = due.id
           returning r.tenant_id, r.id, r.partition, r.workflow_id, r.version, r.entity_id, r.state, r.input,
                     r.execution::text as execution, r.paused, r.mail, r.crashes, r.created_by, r.roles,
                     r.traceparent, r.concurrency_key, r.parent_run, r.parent_token, r.depth, r.created_at"#,
        partitions,
        &tenants,
        &runs,
        now
    );
    Ok(rows.fetch_all(tx).await?)
}

/// The large values that the snapshots of runs refer to, beside others of theirs.
pub(super) async fn list_payloads(
    tx: &mut SystemTx,
    rows: &[Row],
) -> Result<HashMap<Key, HashMap<Digest, Value>>, Error> {
    let is_folded = |row: &&Row| row.execution.as_deref().is_some_and(payloads::is_folded_snapshot);
    let keys: Vec<Key> = rows.iter().filter(is_folded).map(Row::key).collect();
    let mut found: HashMap<Key, HashMap<Digest, Value>> = HashMap::new();
    if keys.is_empty() {
        return Ok(found);
    }
    let (tenants, runs) = columns(&keys);
    let rows = sqlx::query!(
        "select p.tenant_id, p.run_id, p.digest, p.value
         from unnest($1::uuid[], $2::uuid[]) as k (tenant_id, run_id)
         join workflow.payloads p on p.tenant_id = k.tenant_id and p.run_id = k.run_id",
        &tenants,
        &runs
    );
    for row in rows.fetch_all(tx).await? {
        let key = Key { tenant: row.tenant_id.into(), run: row.run_id.into() };
        let Ok(digest) = Digest::try_from(row.digest) else { continue };
        found.entry(key).or_default().insert(digest, row.value);
    }
    Ok(found)
}

struct Message {
    tenant_id: Uuid,
    run_id: Uuid,
    id: Uuid,
    seq: i64,
    kind: String,
    token: Option<i64>,
    name: Option<String>,
    payload: Option<String>,
}

/// The messages of runs that were claimed in this transaction, which keeps others from sending more.
pub(super) async fn list_messages(tx: &mut SystemTx, keys: &[Key]) -> Result<Vec<(Key, Letter)>, Error> {
    let (tenants, runs) = columns(keys);
    let rows = sqlx::query_as!(
        Message,
        "select m.tenant_id, m.run_id, m.id, m.seq, m.kind, m.token, m.name, m.payload::text as payload
         from unnest($1::uuid[], $2::uuid[]) as k (tenant_id, run_id)
         join workflow.messages m on m.tenant_id = k.tenant_id and m.run_id = k.run_id order by m.seq",
        &tenants,
        &runs
    )
    .fetch_all(tx)
    .await?;
    let letter = |row: Message| {
        let Message { tenant_id, run_id, id, seq, kind, token, name, payload } = row;
        let key = Key { tenant: tenant_id.into(), run: run_id.into() };
        Some((key, Letter { id, seq, message: Kept { kind, token, name, payload }.read()? }))
    };
    Ok(rows.into_iter().filter_map(letter).collect())
}
