//! tenant.domains

use chrono::{DateTime, Utc};
use sqlx::{query, query_as};
use tenon_chassis::{SystemTx, TenantId, TenantTx, db};

use super::model::Claim;
use crate::error::Error;

pub(super) async fn insert(tx: &mut TenantTx, claim: &Claim, most: i64) -> Result<(), Error> {
    let inserted = query!(
        "insert into tenant.domains (tenant_id, hostname, token, created_at)
         select $1::uuid, $2::text, $3::text, $4::timestamptz
         where (select count(*) from tenant.domains where tenant_id = $1) < $5",
        tx.tenant().uuid(),
        claim.hostname,
        claim.token,
        claim.created_at,
        most
    );
    match inserted.execute(tx).await.map_err(db::Error::from) {
        Ok(done) if done.rows_affected() == 0 => Err(Error::TooManyDomains),
        Ok(_) => Ok(()),
        Err(error) if error.constraint() == Some("domains_pkey") => Err(Error::DomainExists),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn get(tx: &mut TenantTx, hostname: &str) -> Result<Claim, Error> {
    let claim = query_as!(
        Claim,
        "select hostname, token, created_at, verified_at, checked_at, failing_since from tenant.domains
         where tenant_id = $1 and hostname = $2",
        tx.tenant().uuid(),
        hostname
    );
    claim.fetch_optional(tx).await?.ok_or(Error::DomainNotFound)
}

/// By name, those after `after`.
pub(super) async fn list(tx: &mut TenantTx, after: &str, limit: i64) -> Result<Vec<Claim>, Error> {
    let claims = query_as!(
        Claim,
        "select hostname, token, created_at, verified_at, checked_at, failing_since from tenant.domains
         where tenant_id = $1 and hostname > $2 order by hostname limit $3",
        tx.tenant().uuid(),
        after,
        limit
    );
    Ok(claims.fetch_all(tx).await?)
}

/// Whether it was verified.
pub(super) async fn delete(tx: &mut TenantTx, hostname: &str) -> Result<bool, Error> {
    let deleted = query!(
        "delete from tenant.domains where tenant_id = $1 and hostname = $2 returning verified_at",
        tx.tenant().uuid(),
        hostname
    );
    let deleted = deleted.fetch_optional(tx).await?.ok_or(Error::DomainNotFound)?;
    Ok(deleted.verified_at.is_some())
}

/// The proof was seen.
pub(super) async fn update_verified(tx: &mut TenantTx, hostname: &str, now: DateTime<Utc>) -> Result<Claim, Error> {
    let claim = query_as!(
        Claim,
        "update tenant.domains set verified_at = coalesce(verified_at, $3), checked_at = $3, failing_since = null
         where tenant_id = $1 and hostname = $2
         returning hostname, token, created_at, verified_at, checked_at, failing_since",
        tx.tenant().uuid(),
        hostname,
        now
    );
    match claim.fetch_optional(tx).await.map_err(db::Error::from) {
        Ok(claim) => claim.ok_or(Error::DomainNotFound),
        Err(error) if error.constraint() == Some("domains_verified") => Err(Error::DomainTaken),
        Err(error) => Err(error.into()),
    }
}

/// Whether it was verified until now.
pub(super) async fn update_lost(tx: &mut TenantTx, hostname: &str) -> Result<bool, Error> {
    let lost = query!(
        "update tenant.domains set verified_at = null, checked_at = null, failing_since = null
         where tenant_id = $1 and hostname = $2 and verified_at is not null",
        tx.tenant().uuid(),
        hostname
    );
    Ok(lost.execute(tx).await?.rows_affected() > 0)
}

pub(super) async fn update_failing(
    tx: &mut TenantTx,
    hostname: &str,
    since: Option<DateTime<Utc>>,
) -> Result<(), Error> {
    query!(
        "update tenant.domains set failing_since = $3
         where tenant_id = $1 and hostname = $2 and verified_at is not null",
        tx.tenant().uuid(),
        hostname,
        since
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether nobody else has begun to look meanwhile.
pub(super) async fn claim_check(tx: &mut TenantTx, claim: &Claim, now: DateTime<Utc>) -> Result<bool, Error> {
    let claimed = query!(
        "update tenant.domains set checked_at = $4 where tenant_id = $1 and hostname = $2 and checked_at = $3",
        tx.tenant().uuid(),
        claim.hostname,
        claim.checked_at,
        now
    );
    Ok(claimed.execute(tx).await?.rows_affected() > 0)
}

/// Who has a name, and what proves it, over all tenants.
pub(super) async fn find_holder(tx: &mut SystemTx, hostname: &str) -> Result<Option<(TenantId, String)>, Error> {
    let row =
        query!("select tenant_id, token from tenant.domains where hostname = $1 and verified_at is not null", hostname);
    Ok(row.fetch_optional(tx).await?.map(|row| (row.tenant_id.into(), row.token)))
}

/// Verified domains that were last looked at before a time, over all tenants; the longest ago first.
pub(super) async fn list_due(
    tx: &mut SystemTx,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<(TenantId, Claim)>, Error> {
    let rows = query!(
        "select tenant_id, hostname, token, created_at, verified_at, checked_at, failing_since from tenant.domains
         where verified_at is not null and checked_at < $1 order by checked_at limit $2",
        before,
        limit
    );
    let rows = rows.fetch_all(tx).await?.into_iter().map(|row| {
        let (hostname, token, created_at) = (row.hostname, row.token, row.created_at);
        let (verified_at, checked_at, failing_since) = (row.verified_at, row.checked_at, row.failing_since);
        (row.tenant_id.into(), Claim { hostname, token, created_at, verified_at, checked_at, failing_since })
    });
    Ok(rows.collect())
}
