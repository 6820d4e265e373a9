//! The statements on workflow.secrets.

use tenon_chassis::{TenantTx, db};

use super::model::Shown;
use crate::error::Error;

/// Secrets of one tenant at most.
const SECRETS_MAX: i64 = 1_000;

pub(crate) async fn insert(tx: &mut TenantTx, name: &str, sealed: &[u8], hosts: &[String]) -> Result<Shown, Error> {
    let tenant = tx.tenant().uuid();
    let row = sqlx::query_as!(
        Shown,
        "insert into workflow.secrets (tenant_id, name, sealed, hosts)
         select $1::uuid, $2::text, $3::bytea, $4::text[]
         where (select count(*) from workflow.secrets where tenant_id = $1) < $5
         returning name, hosts, created_at, updated_at",
        tenant,
        name,
        sealed,
        hosts,
        SECRETS_MAX
    );
    match row.fetch_optional(tx).await.map_err(db::Error::from) {
        Ok(row) => row.ok_or(Error::TooManySecrets),
        Err(error) if error.constraint() == Some("secrets_pkey") => Err(Error::SecretExists),
        Err(error) => Err(error.into()),
    }
}

/// By name, those after `after`.
pub(crate) async fn list(tx: &mut TenantTx, after: &str, limit: i64) -> Result<Vec<Shown>, Error> {
    let rows = sqlx::query_as!(
        Shown,
        "select name, hosts, created_at, updated_at from workflow.secrets
         where tenant_id = $1 and name > $2 order by name limit $3",
        tx.tenant().uuid(),
        after,
        limit
    );
    Ok(rows.fetch_all(tx).await?)
}

/// The sealed value, and the hosts that it is for.
pub(crate) async fn get_sealed(tx: &mut TenantTx, name: &str) -> Result<Option<(Vec<u8>, Vec<String>)>, Error> {
    let row = sqlx::query!(
        "select sealed, hosts from workflow.secrets where tenant_id = $1 and name = $2",
        tx.tenant().uuid(),
        name
    );
    Ok(row.fetch_optional(tx).await?.map(|row| (row.sealed, row.hosts)))
}

/// Replaces what is given.
pub(crate) async fn update(
    tx: &mut TenantTx,
    name: &str,
    sealed: Option<&[u8]>,
    hosts: Option<&[String]>,
) -> Result<Option<Shown>, Error> {
    let row = sqlx::query_as!(
        Shown,
        "update workflow.secrets
         set sealed = coalesce($3, sealed), hosts = coalesce($4, hosts), updated_at = now()
         where tenant_id = $1 and name = $2 returning name, hosts, created_at, updated_at",
        tx.tenant().uuid(),
        name,
        sealed,
        hosts
    );
    Ok(row.fetch_optional(tx).await?)
}

pub(crate) async fn delete(tx: &mut TenantTx, name: &str) -> Result<bool, Error> {
    let deleted =
        sqlx::query!("delete from workflow.secrets where tenant_id = $1 and name = $2", tx.tenant().uuid(), name);
    Ok(deleted.execute(tx).await?.rows_affected() > 0)
}
