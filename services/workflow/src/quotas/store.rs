//! workflow.quotas

use chrono::{DateTime, Utc};
use tenon_chassis::{SystemTx, TenantId, db};

/// Everything that is used up.
pub(super) async fn list_exhausted(tx: &mut SystemTx) -> Result<Vec<(TenantId, String, DateTime<Utc>)>, db::Error> {
    let rows = sqlx::query!("select tenant_id, meter, period_end from workflow.quotas where exhausted limit 100000");
    let rows = rows.fetch_all(tx).await?.into_iter();
    Ok(rows.map(|row| (row.tenant_id.into(), row.meter, row.period_end)).collect())
}

/// Keeps what was told of a meter, unless something newer was.
pub(super) async fn update(
    tx: &mut SystemTx,
    (tenant, meter): (TenantId, &str),
    (exhausted, period_end, told_at): (bool, DateTime<Utc>, DateTime<Utc>),
) -> Result<(), db::Error> {
    sqlx::query!(
        "insert into workflow.quotas as q (tenant_id, meter, exhausted, period_end, told_at)
         values ($1, $2, $3, $4, $5)
         on conflict (tenant_id, meter) do update
         set exhausted = excluded.exhausted, period_end = excluded.period_end, told_at = excluded.told_at
         where q.told_at <= excluded.told_at",
        tenant.uuid(),
        meter,
        exhausted,
        period_end,
        told_at
    )
    .execute(tx)
    .await?;
    Ok(())
}
