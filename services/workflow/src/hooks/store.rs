//! The statements on workflow.hooks and workflow.hook_deliveries.

use chrono::{DateTime, Utc};
use tenon_chassis::{SystemTx, TenantTx};
use uuid::Uuid;

use super::model::Hook;
use crate::error::Error;

/// Adds a hook.
///
/// # Errors
/// `HookExists` when the id is taken.
pub(super) async fn insert(tx: &mut TenantTx, hook: &Hook) -> Result<Hook, Error> {
    let row = sqlx::query_as!(
        Hook,
        "insert into workflow.hooks (tenant_id, hook_id, scheme, secret, header, id_header, tolerance_s, targets, created_by,
                                     roles)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         returning hook_id, scheme, secret, previous_secret, previous_until, header, id_header, tolerance_s, targets,
                   created_by, roles, created_at",
        tx.tenant().uuid(),
        hook.hook_id,
        hook.scheme.as_str(),
        hook.secret,
        hook.header,
        hook.id_header,
        hook.tolerance_s,
        hook.targets,
        hook.created_by,
        &hook.roles
    );
    row.fetch_one(tx).await.map_err(|error| match error {
        sqlx::Error::Database(error) if error.constraint() == Some("hooks_pkey") => Error::HookExists,
        error => error.into(),
    })
}

pub(super) async fn get(tx: &mut TenantTx, hook_id: &str) -> Result<Option<Hook>, Error> {
    let row = sqlx::query_as!(
        Hook,
        "select hook_id, scheme, secret, previous_secret, previous_until, header, id_header, tolerance_s, targets,
                created_by, roles, created_at
         from workflow.hooks where tenant_id = $1 and hook_id = $2",
        tx.tenant().uuid(),
        hook_id
    );
    Ok(row.fetch_optional(tx).await?)
}

pub(super) async fn list(tx: &mut TenantTx, after: &str, limit: i64) -> Result<Vec<Hook>, Error> {
    let rows = sqlx::query_as!(
        Hook,
        "select hook_id, scheme, secret, previous_secret, previous_until, header, id_header, tolerance_s, targets,
                created_by, roles, created_at
         from workflow.hooks where tenant_id = $1 and hook_id > $2 order by hook_id limit $3",
        tx.tenant().uuid(),
        after,
        limit
    );
    Ok(rows.fetch_all(tx).await?)
}

/// Puts a new secret in the place of the one before, which verifies until then.
pub(super) async fn update_secret(
    tx: &mut TenantTx,
    hook_id: &str,
    secret: &[u8],
    previous_until: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.hooks set previous_secret = secret, previous_until = $4, secret = $3
         where tenant_id = $1 and hook_id = $2",
        tx.tenant().uuid(),
        hook_id,
        secret,
        previous_until
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Deletes a hook that no trigger names; false when one does.
pub(super) async fn delete(tx: &mut TenantTx, hook_id: &str) -> Result<bool, Error> {
    let deleted = sqlx::query!(
        "delete from workflow.hooks h where tenant_id = $1 and hook_id = $2
         and not exists (select from workflow.triggers t
                         where t.tenant_id = h.tenant_id and t.kind = 'webhook' and t.source = h.hook_id)",
        tx.tenant().uuid(),
        hook_id
    );
    Ok(deleted.execute(tx).await?.rows_affected() > 0)
}

/// Remembers a delivery; false when it was taken before.
pub(crate) async fn insert_delivery(tx: &mut TenantTx, hook_id: &str, delivery_id: &str) -> Result<bool, Error> {
    let inserted = sqlx::query!(
        "insert into workflow.hook_deliveries (tenant_id, hook_id, delivery_id) values ($1, $2, $3) on conflict do nothing",
        tx.tenant().uuid(),
        hook_id,
        delivery_id
    );
    Ok(inserted.execute(tx).await?.rows_affected() > 0)
}

/// A trigger that a workflow's envelope set.
pub(crate) struct Trigger {
    pub(crate) workflow_id: String,
    pub(crate) filter: String,
    pub(crate) input: String,
    pub(crate) created_by: String,
    pub(crate) roles: Vec<String>,
}

/// The triggers of workflows that name a hook.
pub(super) async fn list_triggers(tx: &mut TenantTx, hook_id: &str) -> Result<Vec<Trigger>, Error> {
    let rows = sqlx::query_as!(
        Trigger,
        "select workflow_id, filter, input, created_by, roles from workflow.triggers
         where tenant_id = $1 and kind = 'webhook' and source = $2 order by workflow_id, position limit 100",
        tx.tenant().uuid(),
        hook_id
    );
    Ok(rows.fetch_all(tx).await?)
}

/// The runs about something that have not ended.
pub(crate) async fn list_runs_about(tx: &mut TenantTx, entity_id: &str, limit: i64) -> Result<Vec<Uuid>, Error> {
    let rows = sqlx::query_scalar!(
        "select id from workflow.runs where tenant_id = $1 and entity_id = $2 and entity_id <> '' and ended_at is null
         order by id limit $3",
        tx.tenant().uuid(),
        entity_id,
        limit
    );
    Ok(rows.fetch_all(tx).await?)
}

/// Forgets deliveries that are a day old; how many.
pub(crate) async fn delete_deliveries(tx: &mut SystemTx, limit: i64) -> Result<u64, Error> {
    let deleted = sqlx::query!(
        "delete from workflow.hook_deliveries where ctid = any(array(
             select ctid from workflow.hook_deliveries where received_at < now() - interval '24 hours' limit $1))",
        limit
    );
    Ok(deleted.execute(tx).await?.rows_affected())
}
