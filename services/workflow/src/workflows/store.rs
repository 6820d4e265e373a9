//! The statements on workflow.workflows.

use tenon_chassis::TenantTx;

use super::model::Workflow;
use crate::error::Error;

/// Adds the next version, or returns the latest when its definition is the same.
pub(crate) async fn insert(
    tx: &mut TenantTx,
    workflow_id: &str,
    definition: &serde_json::Value,
) -> Result<Workflow, Error> {
    let tenant = tx.tenant().uuid();
    // One publisher at a time: two would take the same number.
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('workflow.workflows' || $1::uuid::text || $2::text, 0))",
        tenant,
        workflow_id
    )
    .execute(&mut *tx)
    .await?;
    let latest = get(tx, workflow_id).await?;
    if let Some(latest) = &latest
        && latest.definition == *definition
    {
        return Ok(latest.clone());
    }
    let version = latest.map_or(1, |latest| latest.version + 1);
    let row = sqlx::query_as!(
        Workflow,
        "insert into workflow.workflows (tenant_id, workflow_id, version, definition) values ($1, $2, $3, $4)
         returning workflow_id, version, definition, created_at",
        tenant,
        workflow_id,
        version,
        definition
    );
    Ok(row.fetch_one(tx).await?)
}

/// The latest version.
pub(crate) async fn get(tx: &mut TenantTx, workflow_id: &str) -> Result<Option<Workflow>, Error> {
    let row = sqlx::query_as!(
        Workflow,
        "select workflow_id, version, definition, created_at from workflow.workflows
         where tenant_id = $1 and workflow_id = $2 order by version desc limit 1",
        tx.tenant().uuid(),
        workflow_id
    );
    Ok(row.fetch_optional(tx).await?)
}

/// The latest version of each workflow, by id.
pub(crate) async fn list(tx: &mut TenantTx, after: &str, limit: i64) -> Result<Vec<Workflow>, Error> {
    let rows = sqlx::query_as!(
        Workflow,
        "select distinct on (workflow_id) workflow_id, version, definition, created_at from workflow.workflows
         where tenant_id = $1 and workflow_id > $2 order by workflow_id, version desc limit $3",
        tx.tenant().uuid(),
        after,
        limit
    );
    Ok(rows.fetch_all(tx).await?)
}
