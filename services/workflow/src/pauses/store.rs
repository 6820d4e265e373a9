//! The statements on workflow.pauses, and on the runs that they hold back.

use tenon_chassis::TenantTx;

use super::model::Pause;
use crate::error::Error;

/// Adds a pause, or returns the one that is there.
pub(crate) async fn insert(
    tx: &mut TenantTx,
    workflow_id: &str,
    (paused_by, reason): (&str, &str),
) -> Result<Pause, Error> {
    let row = sqlx::query_as!(
        Pause,
        "insert into workflow.pauses as p (tenant_id, workflow_id, paused_by, reason) values ($1, $2, $3, $4)
         on conflict (tenant_id, workflow_id) do update set reason = p.reason
         returning workflow_id, reason, paused_by, created_at",
        tx.tenant().uuid(),
        workflow_id,
        paused_by,
        reason
    );
    Ok(row.fetch_one(tx).await?)
}

pub(crate) async fn list(tx: &mut TenantTx, after: Option<&str>, limit: i64) -> Result<Vec<Pause>, Error> {
    let rows = sqlx::query_as!(
        Pause,
        "select workflow_id, reason, paused_by, created_at from workflow.pauses
         where tenant_id = $1 and ($2::text is null or workflow_id > $2) order by workflow_id limit $3",
        tx.tenant().uuid(),
        after,
        limit
    );
    Ok(rows.fetch_all(tx).await?)
}

/// False when there was none.
pub(crate) async fn delete(tx: &mut TenantTx, workflow_id: &str) -> Result<bool, Error> {
    let deleted = sqlx::query!(
        "delete from workflow.pauses where tenant_id = $1 and workflow_id = $2",
        tx.tenant().uuid(),
        workflow_id
    );
    Ok(deleted.execute(tx).await?.rows_affected() > 0)
}

/// Holds back the runs at work. Those in memory become due: their engine sees it.
pub(crate) async fn hold_runs(tx: &mut TenantTx, workflow_id: &str) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.runs set paused = $3, mail = mail + 1, due_at = case when due_at = 'infinity' then now() else due_at end
         where tenant_id = $1 and ($2 = '' or workflow_id = $2) and state in ('RUNNING', 'QUEUED')
           and (paused is null or $2 = '' and paused = 'workflow')",
        tx.tenant().uuid(),
        workflow_id,
        crate::runs::store::hold(workflow_id)
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Lets runs go on that nothing else holds back: a workflow may be paused by itself beside its tenant.
pub(crate) async fn release_runs(tx: &mut TenantTx, workflow_id: &str) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.runs r
         set paused = case when exists (select from workflow.pauses p where p.tenant_id = $1 and p.workflow_id = r.workflow_id)
                           then 'workflow'
                           when exists (select from workflow.pauses p where p.tenant_id = $1 and p.workflow_id = '')
                           then 'tenant' end,
             mail = mail + 1, due_at = case when state = 'RUNNING' then now() end
         where tenant_id = $1 and ($2 = '' or workflow_id = $2) and state in ('RUNNING', 'QUEUED') and paused = $3",
        tx.tenant().uuid(),
        workflow_id,
        crate::runs::store::hold(workflow_id)
    )
    .execute(tx)
    .await?;
    Ok(())
}
