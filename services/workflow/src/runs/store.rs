//! The statements on workflow.runs and workflow.history in a caller's name.

use tenon_chassis::TenantTx;
use uuid::Uuid;

use super::model::{Filter, HistoryEvent, NewRun, Run, RunId, State};
use crate::error::Error;

/// Adds a run of the latest version, which waits for the engine; `None` when there is no such workflow.
pub(crate) async fn insert(tx: &mut TenantTx, run: &NewRun) -> Result<Option<Run>, Error> {
    let row = sqlx::query_as!(
        Run,
        "insert into workflow.runs (tenant_id, id, partition, workflow_id, version, entity_id, input, created_by, roles,
                                    traceparent)
         select w.tenant_id, $2::uuid, $3::smallint, w.workflow_id, w.version, $5::text, $6::json, $7::text, $8::text[],
                $9::text
         from workflow.workflows w where w.tenant_id = $1 and w.workflow_id = $4 order by w.version desc limit 1
         returning id, workflow_id, version, entity_id, state, input, output, error, cause, created_at, ended_at",
        tx.tenant().uuid(),
        run.id.uuid(),
        run.partition,
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

/// Asks the engine to cancel a run; one that has ended stays as it is.
pub(crate) async fn update_cancel_reason(tx: &mut TenantTx, id: RunId, reason: &str) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.runs set cancel_reason = $3, due_at = now()
         where tenant_id = $1 and id = $2 and state = 'RUNNING' and cancel_reason is null",
        tx.tenant().uuid(),
        id.uuid(),
        reason
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The oldest first, those after `after`.
pub(crate) async fn list_history(
    tx: &mut TenantTx,
    id: RunId,
    after: i64,
    limit: i64,
) -> Result<Vec<HistoryEvent>, Error> {
    let rows = sqlx::query_as!(
        HistoryEvent,
        "select id, previous_id, type as kind, state, details, time from workflow.history
         where tenant_id = $1 and run_id = $2 and id > $3 order by id limit $4",
        tx.tenant().uuid(),
        id.uuid(),
        after,
        limit
    );
    Ok(rows.fetch_all(tx).await?)
}
