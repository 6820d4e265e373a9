//! The statements of an engine's upkeep.

use chrono::{DateTime, Utc};
use tenon_chassis::{SystemTx, TenantId};
use uuid::Uuid;

use crate::error::Error;

/// Tenants with runs that are held back for their standing or their quota, and by which.
pub(super) async fn list_parked(tx: &mut SystemTx, partitions: &[i16]) -> Result<Vec<(TenantId, String)>, Error> {
    let parked = sqlx::query!(
        r#"select distinct tenant_id, paused as "paused!" from workflow.runs
           where (paused = 'standing' or starts_with(paused, 'quota:')) and partition = any($1) limit 1000"#,
        partitions
    );
    Ok(parked.fetch_all(tx).await?.into_iter().map(|row| (row.tenant_id.into(), row.paused)).collect())
}

/// Lets a tenant's runs go on, but those that a pause holds back as well.
pub(super) async fn release_parked(
    tx: &mut SystemTx,
    (tenant, by): (TenantId, &str),
    partitions: &[i16],
) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.runs r
         set paused = case when exists (select from workflow.pauses p where p.tenant_id = $1 and p.workflow_id = r.workflow_id)
                           then 'workflow'
                           when exists (select from workflow.pauses p where p.tenant_id = $1 and p.workflow_id = '')
                           then 'tenant' end,
             mail = mail + 1, due_at = case when state = 'RUNNING' then now() end
         where tenant_id = $1 and paused = $3 and partition = any($2) and ended_at is null",
        tenant.uuid(),
        partitions,
        by
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Deletes runs past their time, with all that belongs to them; how many.
pub(super) async fn delete_runs(
    tx: &mut SystemTx,
    partitions: &[i16],
    now: DateTime<Utc>,
    limit: i64,
) -> Result<u64, Error> {
    let gone = sqlx::query!(
        "delete from workflow.runs r using (
             select tenant_id, id from workflow.runs where purge_at <= $2 and partition = any($1) limit $3
             for update skip locked) as old
         where r.tenant_id = old.tenant_id and r.id = old.id returning r.tenant_id, r.id",
        partitions,
        now,
        limit
    );
    let gone = gone.fetch_all(&mut *tx).await?;
    if gone.is_empty() {
        return Ok(0);
    }
    let (tenants, runs): (Vec<Uuid>, Vec<Uuid>) = gone.iter().map(|run| (run.tenant_id, run.id)).unzip();
    sqlx::query!(
        "delete from workflow.history h using unnest($1::uuid[], $2::uuid[]) as k (tenant_id, run_id)
         where h.tenant_id = k.tenant_id and h.run_id = k.run_id",
        &tenants,
        &runs
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "delete from workflow.payloads p using unnest($1::uuid[], $2::uuid[]) as k (tenant_id, run_id)
         where p.tenant_id = k.tenant_id and p.run_id = k.run_id",
        &tenants,
        &runs
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "delete from workflow.attributes a using unnest($1::uuid[], $2::uuid[]) as k (tenant_id, run_id)
         where a.tenant_id = k.tenant_id and a.run_id = k.run_id",
        &tenants,
        &runs
    )
    .execute(tx)
    .await?;
    Ok(u64::try_from(gone.len()).unwrap_or(u64::MAX))
}

/// Forgets keys past their time; how many.
pub(super) async fn delete_keys(tx: &mut SystemTx, limit: i64) -> Result<u64, Error> {
    let deleted = sqlx::query!(
        "delete from workflow.run_keys k using (
             select tenant_id, key from workflow.run_keys where expires_at < now() limit $1) as old
         where k.tenant_id = old.tenant_id and k.key = old.key",
        limit
    );
    Ok(deleted.execute(tx).await?.rows_affected())
}

/// Makes the partitions of histories to come, and drops those of past weeks that are empty.
pub(super) async fn keep_history(tx: &mut SystemTx, weeks: i32) -> Result<(), Error> {
    sqlx::query!(r#"select workflow.keep_history($1) is null as "kept!""#, weeks).fetch_one(tx).await?;
    Ok(())
}
