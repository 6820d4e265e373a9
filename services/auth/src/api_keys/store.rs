//! auth.api_keys

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{query, query_as};
use tenon_chassis::{ApiKeyId, TenantTx, paging::Page};
use uuid::Uuid;

use super::model::{Held, Row};
use crate::error::Error;

/// The channel on which every auth process hears of revocations; the payload is the key's UUID.
pub(super) const REVOKED: &str = "tenon_api_keys";
/// A key's last use is written at most this often.
const USED_EVERY: TimeDelta = TimeDelta::minutes(1);

pub(super) async fn insert(tx: &mut TenantTx, row: &Row, hash: &[u8], most: i64) -> Result<(), Error> {
    let inserted = query!(
        "insert into auth.api_keys (tenant_id, id, display_name, roles, hash, created_by, created_at, expires_at)
         select $1::uuid, $2::uuid, $3::text, $4::text[], $5::bytea, $6::uuid, $7::timestamptz, $8::timestamptz
         where (select count(*) from auth.api_keys where tenant_id = $1) < $9",
        tx.tenant().uuid(),
        row.id.uuid(),
        row.display_name,
        &row.roles,
        hash,
        row.created_by.uuid(),
        row.created_at,
        row.expires_at,
        most
    );
    let inserted = inserted.execute(tx).await?;
    if inserted.rows_affected() == 0 { Err(Error::TooManyApiKeys) } else { Ok(()) }
}

pub(super) async fn get(tx: &mut TenantTx, id: ApiKeyId) -> Result<Row, Error> {
    let row = query_as!(
        Row,
        "select id, display_name, roles, created_by, created_at, expires_at, last_used_at from auth.api_keys
         where tenant_id = $1 and id = $2",
        tx.tenant().uuid(),
        id.uuid()
    );
    row.fetch_optional(tx).await?.ok_or(Error::ApiKeyNotFound)
}

/// Newest first: ids grow with time.
pub(super) async fn list(tx: &mut TenantTx, page: &Page<Uuid>) -> Result<Vec<Row>, Error> {
    let rows = query_as!(
        Row,
        "select id, display_name, roles, created_by, created_at, expires_at, last_used_at from auth.api_keys
         where tenant_id = $1 and ($2::uuid is null or id < $2) order by id desc limit $3",
        tx.tenant().uuid(),
        page.after,
        page.fetch()
    );
    Ok(rows.fetch_all(tx).await?)
}

/// Forgets a key and pushes that, with the commit, to whoever follows.
pub(super) async fn delete(tx: &mut TenantTx, id: ApiKeyId) -> Result<(), Error> {
    let deleted = query!("delete from auth.api_keys where tenant_id = $1 and id = $2", tx.tenant().uuid(), id.uuid());
    if deleted.execute(&mut *tx).await?.rows_affected() == 0 {
        return Err(Error::ApiKeyNotFound);
    }
    query!("select pg_notify($1, $2)", REVOKED, id.uuid().to_string()).execute(tx).await?;
    Ok(())
}

/// A key that has not expired.
pub(super) async fn get_held(tx: &mut TenantTx, id: ApiKeyId, now: DateTime<Utc>) -> Result<Option<Held>, Error> {
    let held = query_as!(
        Held,
        "select hash, roles, expires_at from auth.api_keys where tenant_id = $1 and id = $2 and expires_at > $3",
        tx.tenant().uuid(),
        id.uuid(),
        now
    );
    Ok(held.fetch_optional(tx).await?)
}

pub(super) async fn update_used(tx: &mut TenantTx, id: ApiKeyId, now: DateTime<Utc>) -> Result<(), Error> {
    query!(
        "update auth.api_keys set last_used_at = $3
         where tenant_id = $1 and id = $2 and (last_used_at is null or last_used_at < $4)",
        tx.tenant().uuid(),
        id.uuid(),
        now,
        now - USED_EVERY
    )
    .execute(tx)
    .await?;
    Ok(())
}
