//! The statements on workflow.runs and workflow.history in a caller's name.

use tenon_chassis::TenantTx;
use uuid::Uuid;

use super::{
    mail::Kept,
    model::{Filter, HistoryEvent, NewRun, Run, RunId, State},
};
use crate::error::Error;

/// Adds a run of the latest version, which waits for the engine; `None` when there is no such workflow.
pub(crate) async fn insert(
    tx: &mut TenantTx,
    (id, partition): (RunId, i16),
    run: &NewRun,
) -> Result<Option<Run>, Error> {
    let row = sqlx::query_as!(
        Run,
        "insert into workflow.runs (tenant_id, id, partition, workflow_id, version, entity_id, input, created_by, roles,
                                    traceparent)
         select w.tenant_id, $2::uuid, $3::smallint, w.workflow_id, w.version, $5::text, $6::json, $7::text, $8::text[],
                $9::text
         from workflow.workflows w where w.tenant_id = $1 and w.workflow_id = $4 order by w.version desc limit 1
         returning id, workflow_id, version, entity_id, state, input, output, error, cause, created_at, ended_at",
        tx.tenant().uuid(),
        id.uuid(),
        partition,
        run.workflow_id,
        run.entity_id,
        run.input,
        run.created_by,
        &run.roles,
        run.traceparent.as_deref()
    );
    Ok(row.fetch_optional(tx).await?)
}

pub(crate) async fn get(tx: &mut TenantTx, id: RunId) -> Result<Option<Run>, Error> {
    let row = sqlx::query_as!(
        Run,
        "select id, workflow_id, version, entity_id, state, input, output, error, cause, created_at, ended_at
         from workflow.runs where tenant_id = $1 and id = $2",
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
    let rows = sqlx::query_as!(
        Run,
        "select id, workflow_id, version, entity_id, state, input, output, error, cause, created_at, ended_at
         from workflow.runs
         where tenant_id = $1 and ($2::uuid is null or id < $2) and ($3::text is null or workflow_id = $3)
           and ($4::text is null or entity_id = $4) and ($5::text is null or state = $5)
         order by id desc limit $6",
        tx.tenant().uuid(),
        before,
        filter.workflow_id.as_deref(),
        filter.entity_id.as_deref(),
        filter.state.map(State::as_str),
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
    let steps = rows.fetch_all(tx).await?;
    // Not in SQL: Postgres cannot take a JSON string apart that has a NUL in it.
    let events = steps.into_iter().flat_map(|step| HistoryEvent::of_step(step.first_id, step.time, step.events));
    Ok(events.filter(|event| event.id > after).take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
}
