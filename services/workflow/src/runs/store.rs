//! The statements on workflow.runs and workflow.history in a caller's name.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Executor, Postgres};
use tenon_chassis::{TenantId, TenantTx};
use uuid::Uuid;

use super::{
    explain::Awaited,
    mail::Kept,
    model::{Filter, HistoryEvent, NewRun, Run, RunId, State, first_id},
};
use crate::{
    error::Error,
    payloads::{self, Digest},
};

/// Where a new run belongs.
pub(crate) struct Place {
    pub(crate) tenant: TenantId,
    pub(crate) id: RunId,
    pub(crate) partition: i16,
    pub(crate) version: i32,
    /// Who has paused its workflow.
    pub(crate) hold: Option<String>,
}

/// The latest version of a workflow, and who has paused it.
pub(crate) async fn get_latest(tx: &mut TenantTx, workflow_id: &str) -> Result<Option<(i32, Option<String>)>, Error> {
    let row = sqlx::query!(
        "select version, (select max(p.workflow_id) from workflow.pauses p
                          where p.tenant_id = $1 and p.workflow_id in ('', $2)) as paused
         from workflow.workflows where tenant_id = $1 and workflow_id = $2 order by version desc limit 1",
        tx.tenant().uuid(),
        workflow_id
    );
    Ok(row.fetch_optional(tx).await?.map(|row| (row.version, row.paused.as_deref().map(hold))))
}

/// How a pause of a workflow, or with '' of all, is kept in a run.
pub(crate) fn hold(workflow_id: &str) -> String {
    if workflow_id.is_empty() { "tenant" } else { "workflow" }.to_owned()
}

/// A version's definition and envelope.
pub(crate) async fn get_template<'c>(
    db: impl Executor<'c, Database = Postgres>,
    tenant: Uuid,
    (workflow_id, version): (&str, i32),
) -> Result<(Value, Value), Error> {
    let row = sqlx::query!(
        "select definition, envelope from workflow.workflows where tenant_id = $1 and workflow_id = $2 and version = $3",
        tenant,
        workflow_id,
        version
    );
    let row = row.fetch_one(db).await?;
    Ok((row.definition, row.envelope))
}

/// Takes a key for a run. `Some` when it was taken before: by which run, and whether with the same request.
pub(crate) async fn insert_key(
    tx: &mut TenantTx,
    key: &str,
    (hash, run): (&[u8], RunId),
    expires_at: DateTime<Utc>,
) -> Result<Option<(RunId, bool)>, Error> {
    let tenant = tx.tenant().uuid();
    // A key that has expired is taken over; the row is locked either way, so that the second of two waits for the first.
    let taken = sqlx::query!(
        "insert into workflow.run_keys as k (tenant_id, key, request_hash, run_id, expires_at) values ($1, $2, $3, $4, $5)
         on conflict (tenant_id, key) do update
         set request_hash = excluded.request_hash, run_id = excluded.run_id, expires_at = excluded.expires_at
         where k.expires_at <= now()",
        tenant,
        key,
        hash,
        run.uuid(),
        expires_at
    );
    if taken.execute(&mut *tx).await?.rows_affected() > 0 {
        return Ok(None);
    }
    let known = sqlx::query!(
        "select request_hash, run_id from workflow.run_keys where tenant_id = $1 and key = $2",
        tenant,
        key
    );
    let known = known.fetch_optional(tx).await?;
    Ok(known.map(|known| (known.run_id.into(), known.request_hash == hash)))
}

/// Makes everyone who wants a turn under this key wait for the end of the transaction.
pub(crate) async fn lock_turn<'c>(
    db: impl Executor<'c, Database = Postgres>,
    tenant: Uuid,
    (workflow_id, key): (&str, &str),
) -> Result<(), Error> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('workflow.turn' || $1::uuid::text || $2::text || ':' || $3::text, 0))",
        tenant,
        workflow_id,
        key
    )
    .execute(db)
    .await?;
    Ok(())
}

/// How many runs wait for a turn under a key, which is locked.
pub(crate) async fn count_queued<'c>(
    db: impl Executor<'c, Database = Postgres>,
    tenant: Uuid,
    (workflow_id, key): (&str, &str),
) -> Result<i64, Error> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from workflow.runs
           where tenant_id = $1 and workflow_id = $2 and concurrency_key = $3 and state = 'QUEUED'"#,
        tenant,
        workflow_id,
        key
    );
    Ok(count.fetch_one(db).await?)
}

/// Adds a run that is due for its first step, or queued behind others with its key. Its turn is locked.
pub(crate) async fn insert<'c>(
    db: impl Executor<'c, Database = Postgres>,
    place: &Place,
    run: &NewRun,
) -> Result<Run, Error> {
    let (key, limit) = run.concurrency.clone().unzip();
    let parent = run.parent.as_ref();
    let row = sqlx::query_as!(
        Run,
        r#"insert into workflow.runs as r (tenant_id, id, partition, workflow_id, version, entity_id, input, created_by,
               roles, traceparent, attributes, concurrency_key, concurrency_limit, trigger, parent_run, parent_token,
               parent_close, depth, paused, state, due_at)
           select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::text, $13::int, $14, $15, $16, $17, $18, $19,
                  case when busy then 'QUEUED' else 'RUNNING' end, case when busy then null else now() end
           from (select $12::text is not null and
                     (select count(*) from workflow.runs o
                      where o.tenant_id = $1 and o.workflow_id = $4 and o.concurrency_key = $12
                        and o.state in ('RUNNING', 'QUEUED')) >= $13::int as busy) as turn
           returning r.id, r.workflow_id, r.version, r.entity_id, r.state, r.input, r.output, r.error, r.cause,
                     r.attributes, r.concurrency_key, r.parent_run as "parent_run: RunId", r.trigger, r.paused, r.created_at,
                     r.ended_at"#,
        place.tenant.uuid(),
        place.id.uuid(),
        place.partition,
        run.workflow_id,
        place.version,
        run.entity_id,
        run.input,
        run.created_by,
        &run.roles,
        run.traceparent.as_deref(),
        Value::Object(run.attributes.clone()),
        key.as_deref(),
        limit,
        run.trigger.as_str(),
        parent.map(|parent| parent.run.uuid()),
        parent.and_then(|parent| parent.token),
        parent.map(|parent| parent.close),
        run.depth.0,
        place.hold.as_deref()
    );
    Ok(row.fetch_one(db).await?)
}

/// Adds runs that need no turn, all due for their first steps, in their order.
pub(crate) async fn insert_all(tx: &mut TenantTx, new: &[(Place, NewRun)]) -> Result<Vec<Run>, Error> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let tenant = tx.tenant().uuid();
    let ids: Vec<Uuid> = new.iter().map(|(place, _)| place.id.uuid()).collect();
    let partitions: Vec<i16> = new.iter().map(|(place, _)| place.partition).collect();
    let workflows: Vec<String> = new.iter().map(|(_, run)| run.workflow_id.clone()).collect();
    let versions: Vec<i32> = new.iter().map(|(place, _)| place.version).collect();
    let entities: Vec<String> = new.iter().map(|(_, run)| run.entity_id.clone()).collect();
    let inputs: Vec<String> = new.iter().map(|(_, run)| run.input.to_string()).collect();
    let attributes: Vec<Value> = new.iter().map(|(_, run)| Value::Object(run.attributes.clone())).collect();
    let triggers: Vec<String> = new.iter().map(|(_, run)| run.trigger.as_str().to_owned()).collect();
    let holds: Vec<Option<String>> = new.iter().map(|(place, _)| place.hold.clone()).collect();
    let (_, first) = &new[0];
    let rows = sqlx::query!(
        "insert into workflow.runs (tenant_id, id, partition, workflow_id, version, entity_id, input, attributes, trigger,
                                    paused, created_by, roles, traceparent)
         select $1, id, partition, workflow_id, version, entity_id, input::json, attributes, trigger, paused, $2, $3, $4
         from unnest($5::uuid[], $6::smallint[], $7::text[], $8::int[], $9::text[], $10::text[], $11::jsonb[], $12::text[],
                     $13::text[])
              as u (id, partition, workflow_id, version, entity_id, input, attributes, trigger, paused)
         returning created_at",
        tenant,
        first.created_by,
        &first.roles,
        first.traceparent.as_deref(),
        &ids,
        &partitions,
        &workflows,
        &versions,
        &entities,
        &inputs,
        &attributes,
        &triggers,
        &holds as &[Option<String>]
    );
    let added = rows.fetch_all(&mut *tx).await?;
    for (place, run) in new.iter().filter(|(_, run)| !run.attributes.is_empty()) {
        insert_attributes(&mut *tx, tenant, place.id, &super::start::texts(&run.attributes)).await?;
    }
    Ok(new.iter().zip(added).map(|((place, run), row)| added_run(place, run, row.created_at)).collect())
}

fn added_run(place: &Place, run: &NewRun, created_at: DateTime<Utc>) -> Run {
    Run {
        id: place.id,
        workflow_id: run.workflow_id.clone(),
        version: place.version,
        entity_id: run.entity_id.clone(),
        state: State::Running,
        input: run.input.clone(),
        output: None,
        error: None,
        cause: None,
        attributes: Value::Object(run.attributes.clone()),
        concurrency_key: None,
        parent_run: None,
        trigger: run.trigger.as_str().to_owned(),
        paused: place.hold.clone(),
        created_at,
        ended_at: None,
    }
}

/// Makes a run searchable by its attributes.
pub(crate) async fn insert_attributes<'c>(
    db: impl Executor<'c, Database = Postgres>,
    tenant: Uuid,
    run: RunId,
    attributes: &[(String, String)],
) -> Result<(), Error> {
    let (names, values): (Vec<String>, Vec<String>) = attributes.iter().cloned().unzip();
    sqlx::query!(
        "insert into workflow.attributes (tenant_id, name, value, run_id)
         select $1, n, v, $2 from unnest($3::text[], $4::text[]) as u (n, v) on conflict do nothing",
        tenant,
        run.uuid(),
        &names,
        &values
    )
    .execute(db)
    .await?;
    Ok(())
}

pub(crate) async fn get(tx: &mut TenantTx, id: RunId) -> Result<Option<Run>, Error> {
    let row = sqlx::query_as!(
        Run,
        r#"select id, workflow_id, version, entity_id, state, input, output, error, cause, attributes, concurrency_key,
                  parent_run as "parent_run: RunId", trigger, paused, created_at, ended_at
           from workflow.runs where tenant_id = $1 and id = $2"#,
        tx.tenant().uuid(),
        id.uuid()
    );
    Ok(row.fetch_optional(tx).await?)
}

/// The newest first, those before `before`.
pub(crate) async fn list(
    tx: &mut TenantTx,
    filter: &Filter,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Run>, Error> {
    let tenant = tx.tenant().uuid();
    // Each set of filters has the index that suits it; a plan for all of them would have none.
    sqlx::query!("set local plan_cache_mode = force_custom_plan").execute(&mut *tx).await?;
    let (names, values): (Vec<String>, Vec<String>) = filter.attributes.iter().cloned().unzip();
    let rows = sqlx::query_as!(
        Run,
        r#"select id, workflow_id, version, entity_id, state, input, output, error, cause, attributes, concurrency_key,
                  parent_run as "parent_run: RunId", trigger, paused, created_at, ended_at
           from workflow.runs r
           where tenant_id = $1 and ($2::uuid is null or id < $2) and ($3::text is null or workflow_id = $3)
             and ($4::text is null or entity_id = $4) and ($5::text is null or state = $5)
             and ($6::uuid is null or id >= $6) and ($7::uuid is null or id < $7)
             and ($8::uuid is null or parent_run = $8)
             and (cardinality($9::text[]) = 0
                  or not exists (select from unnest($9::text[], $10::text[]) as wanted (name, value)
                                 where not exists (select from workflow.attributes a
                                                   where a.tenant_id = $1 and a.name = wanted.name
                                                     and a.value = wanted.value and a.run_id = r.id)))
             and ($11::text is null or id in (select a.run_id from workflow.attributes a
                                              where a.tenant_id = $1 and a.name = $11 and a.value = $12
                                                and ($2::uuid is null or a.run_id < $2)))
           order by id desc limit $13"#,
        tenant,
        before,
        filter.workflow_id.as_deref(),
        filter.entity_id.as_deref(),
        filter.state.map(State::as_str),
        filter.created_from.map(first_id),
        filter.created_before.map(first_id),
        filter.parent.map(RunId::uuid),
        &names,
        &values,
        names.first().map(String::as_str),
        values.first().map(String::as_str),
        limit
    );
    Ok(rows.fetch_all(tx).await?)
}

/// Adds a message to a run that has not ended, and makes the run due. False when there is none.
pub(crate) async fn insert_message(tx: &mut TenantTx, id: RunId, message: &Kept) -> Result<bool, Error> {
    let message_id = tenon_chassis::id::uuid_v7(tx.clock());
    let added = sqlx::query!(
        "with run as (
             update workflow.runs set mail = mail + 1, due_at = now()
             where tenant_id = $1 and id = $2 and ended_at is null returning partition)
         insert into workflow.messages (tenant_id, run_id, id, partition, kind, token, name, payload)
         select $1, $2, $3, run.partition, $4, $5, $6, $7::text::json from run",
        tx.tenant().uuid(),
        id.uuid(),
        message_id,
        message.kind,
        message.token,
        message.name.as_deref(),
        message.payload.as_deref()
    );
    Ok(added.execute(tx).await?.rows_affected() > 0)
}

/// Signals that wait in the mailbox of a run.
pub(crate) async fn count_signals(tx: &mut TenantTx, id: RunId) -> Result<i64, Error> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from workflow.messages where tenant_id = $1 and run_id = $2 and kind = 'SIGNAL'"#,
        tx.tenant().uuid(),
        id.uuid()
    );
    Ok(count.fetch_one(tx).await?)
}

/// Lets a run that failed be at work again, or queued when others have its turn, which is locked. False when it has not
/// failed.
pub(crate) async fn update_failed(tx: &mut TenantTx, id: RunId) -> Result<bool, Error> {
    let updated = sqlx::query!(
        "update workflow.runs r
         set state = case when turn.busy then 'QUEUED' else 'RUNNING' end,
             ended_at = null, error = null, cause = null, purge_at = null, due_at = null
         from (select s.concurrency_key is not null and
                   (select count(*) from workflow.runs o
                    where o.tenant_id = $1 and o.workflow_id = s.workflow_id and o.concurrency_key = s.concurrency_key
                      and o.state in ('RUNNING', 'QUEUED')) >= s.concurrency_limit as busy
               from workflow.runs s where s.tenant_id = $1 and s.id = $2) as turn
         where r.tenant_id = $1 and r.id = $2 and r.state in ('FAILED', 'TIMED_OUT') and r.execution is not null",
        tx.tenant().uuid(),
        id.uuid()
    );
    Ok(updated.execute(tx).await?.rows_affected() > 0)
}

/// What ExplainRun needs to know of a run itself.
pub(crate) struct Stand {
    pub(crate) state: String,
    pub(crate) workflow_id: String,
    pub(crate) paused: Option<String>,
    pub(crate) crashes: i16,
    pub(crate) concurrency_key: Option<String>,
    pub(crate) execution: Option<String>,
    pub(crate) first: Option<RunId>,
    pub(crate) before: i64,
}

pub(crate) async fn get_stand(tx: &mut TenantTx, id: RunId) -> Result<Option<Stand>, Error> {
    let stand = sqlx::query_as!(
        Stand,
        r#"select r.state, r.workflow_id, r.paused, r.crashes, r.concurrency_key, r.execution::text as execution,
                  (select o.id from workflow.runs o
                   where o.tenant_id = $1 and o.workflow_id = r.workflow_id and o.concurrency_key = r.concurrency_key
                     and o.state = 'RUNNING' order by o.id limit 1) as "first: RunId",
                  (select count(*) from workflow.runs o
                   where o.tenant_id = $1 and o.workflow_id = r.workflow_id and o.concurrency_key = r.concurrency_key
                     and o.state = 'QUEUED' and o.id < r.id) as "before!"
           from workflow.runs r where r.tenant_id = $1 and r.id = $2"#,
        tx.tenant().uuid(),
        id.uuid()
    );
    Ok(stand.fetch_optional(tx).await?)
}

/// What a run waits for from outside.
pub(crate) async fn list_awaited(tx: &mut TenantTx, id: RunId) -> Result<Vec<Awaited>, Error> {
    let rows = sqlx::query_as!(
        Awaited,
        r#"select t.token, t.worker,
                  exists (select from workflow.workers w
                          where w.tenant_id = $1 and w.queue = t.name and w.lease_until > now()) as "served!",
                  (select c.id from workflow.runs c where c.tenant_id = $1 and c.parent_run = $2
                     and c.parent_token = t.token and c.ended_at is null limit 1) as "child: RunId"
           from workflow.tasks t where t.tenant_id = $1 and t.run_id = $2 order by t.token limit 1000"#,
        tx.tenant().uuid(),
        id.uuid()
    );
    Ok(rows.fetch_all(tx).await?)
}

/// The oldest first, those after `after`.
pub(crate) async fn list_history(
    tx: &mut TenantTx,
    id: RunId,
    after: i64,
    limit: i64,
) -> Result<Vec<HistoryEvent>, Error> {
    // A row of history is a step with all its events: so many rows have at least so many events.
    let rows = sqlx::query!(
        "select first_id, time, events from workflow.history
         where tenant_id = $1 and run_id = $2 and last_id > $3 order by first_id limit $4",
        tx.tenant().uuid(),
        id.uuid(),
        after,
        limit
    );
    let steps = rows.fetch_all(&mut *tx).await?;
    let mut told = Vec::new();
    steps.iter().filter(|step| payloads::is_folded_events(&step.events)).for_each(|step| {
        payloads::references(&step.events, &mut told);
    });
    let values = get_payloads(tx, id, told).await?;
    // Not in SQL: Postgres cannot take a JSON string apart that has a NUL in it.
    let mut events = Vec::new();
    for step in steps {
        // Gone is what a run had that is deleted just now.
        let whole = payloads::unfold_events(step.events, &values).map_err(|_| Error::RunNotFound)?;
        events.extend(HistoryEvent::of_step(step.first_id, step.time, whole));
    }
    Ok(events.into_iter().filter(|event| event.id > after).take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
}

/// Large values of a run, with those that they refer to in turn.
async fn get_payloads(tx: &mut TenantTx, id: RunId, mut wanted: Vec<Digest>) -> Result<HashMap<Digest, Value>, Error> {
    let mut found = HashMap::new();
    while !wanted.is_empty() {
        let digests: Vec<Vec<u8>> = wanted.drain(..).map(|digest| digest.to_vec()).collect();
        let rows = sqlx::query!(
            "select digest, value from workflow.payloads where tenant_id = $1 and run_id = $2 and digest = any($3)",
            tx.tenant().uuid(),
            id.uuid(),
            &digests
        );
        for row in rows.fetch_all(&mut *tx).await? {
            payloads::references(&row.value, &mut wanted);
            found.extend(row.digest.try_into().ok().map(|digest: Digest| (digest, row.value)));
        }
        wanted.retain(|digest| !found.contains_key(digest));
    }
    Ok(found)
}
