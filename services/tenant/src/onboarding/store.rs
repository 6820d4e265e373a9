//! tenant.onboardings

use chrono::{DateTime, Utc};
use sqlx::{query, query_scalar, types::Json};
use tenon_chassis::{SystemTx, TenantId, TenantTx};

use super::model::{Entitlements, Standing, Step};
use crate::error::Error;

pub(super) async fn insert(tx: &mut TenantTx, key: Option<&str>, hash: &[u8], sealed: &[u8]) -> Result<(), Error> {
    let now = tx.clock().now();
    query!(
        "insert into tenant.onboardings (tenant_id, idempotency_key, request_hash, step, sealed_admin, updated_at)
         values ($1, $2, $3, 'admin', $4, $5)",
        tx.tenant().uuid(),
        key,
        hash,
        sealed,
        now
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The sign-up of the transaction's tenant. Held until the transaction ends.
pub(super) async fn get(tx: &mut TenantTx) -> Result<Option<Standing>, Error> {
    let row = query!(
        r#"select step, sealed_admin, coalesce(admin_user, '') as "admin_user!",
                  coalesce(subscription, '') as "subscription!", entitlements as "entitlements: Json<Entitlements>"
           from tenant.onboardings where tenant_id = $1 for update"#,
        tx.tenant().uuid()
    );
    let Some(row) = row.fetch_optional(tx).await? else { return Ok(None) };
    let entitlements = row.entitlements.map(|json| json.0).unwrap_or_default();
    let (step, sealed_admin) = (Step::parse(&row.step)?, row.sealed_admin);
    Ok(Some(Standing { step, sealed_admin, admin_user: row.admin_user, subscription: row.subscription, entitlements }))
}

pub(super) async fn get_by_key(tx: &mut SystemTx, key: &str) -> Result<Option<(TenantId, Vec<u8>)>, Error> {
    let row = query!("select tenant_id, request_hash from tenant.onboardings where idempotency_key = $1", key);
    Ok(row.fetch_optional(tx).await?.map(|row| (row.tenant_id.into(), row.request_hash)))
}

/// Sign-ups that are not done and that nobody has touched for a while, oldest first.
pub(super) async fn list_left(tx: &mut SystemTx, since: DateTime<Utc>, limit: i64) -> Result<Vec<TenantId>, Error> {
    let left = query_scalar!(
        "select tenant_id from tenant.onboardings where step <> 'done' and updated_at < $1 order by updated_at limit $2",
        since,
        limit
    );
    Ok(left.fetch_all(tx).await?.into_iter().map(TenantId::from).collect())
}

/// The first user is made: its password is not kept any longer.
pub(super) async fn update_admin(tx: &mut TenantTx, user: &str) -> Result<(), Error> {
    let now = tx.clock().now();
    query!(
        "update tenant.onboardings set step = 'subscription', admin_user = $2, sealed_admin = null, updated_at = $3
         where tenant_id = $1 and step = 'admin'",
        tx.tenant().uuid(),
        user,
        now
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn update_subscription(
    tx: &mut TenantTx,
    subscription: &str,
    entitlements: &Entitlements,
) -> Result<(), Error> {
    let now = tx.clock().now();
    query!(
        "update tenant.onboardings set step = 'activate', subscription = $2, entitlements = $3, updated_at = $4
         where tenant_id = $1 and step = 'subscription'",
        tx.tenant().uuid(),
        subscription,
        Json(entitlements) as _,
        now
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn update_step(tx: &mut TenantTx, step: Step) -> Result<(), Error> {
    let now = tx.clock().now();
    query!(
        "update tenant.onboardings set step = $2, updated_at = $3 where tenant_id = $1",
        tx.tenant().uuid(),
        step.as_str(),
        now
    )
    .execute(tx)
    .await?;
    Ok(())
}
