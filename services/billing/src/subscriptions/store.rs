//! billing.subscriptions

use sqlx::query;
use tenon_chassis::TenantTx;

use super::model::{Period, Subscription};
use crate::error::Error;

pub(crate) async fn get(tx: &mut TenantTx) -> Result<Option<Subscription>, Error> {
    let row = query!(
        "select id, plan_id, status, period_start, period_end, created_at from billing.subscriptions
         where tenant_id = $1",
        tx.tenant().uuid()
    );
    let row = row.fetch_optional(tx).await?;
    Ok(row.map(|row| Subscription {
        id: row.id.into(),
        plan_id: row.plan_id,
        status: row.status,
        period: Period { start: row.period_start, end: row.period_end },
        created_at: row.created_at,
    }))
}

/// Nothing when the tenant has one already.
pub(crate) async fn insert(tx: &mut TenantTx, subscription: &Subscription) -> Result<(), Error> {
    query!(
        "insert into billing.subscriptions (tenant_id, id, plan_id, status, period_start, period_end, created_at)
         values ($1, $2, $3, $4, $5, $6, $7) on conflict on constraint subscriptions_one do nothing",
        tx.tenant().uuid(),
        subscription.id.uuid(),
        subscription.plan_id,
        subscription.status,
        subscription.period.start,
        subscription.period.end,
        subscription.created_at
    )
    .execute(tx)
    .await?;
    Ok(())
}
