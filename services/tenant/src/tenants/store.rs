//! tenant.tenants

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{query, query_as, query_scalar, types::Json};
use tenon_chassis::{SystemTx, TenantId, TenantTx, paging::Page};
use uuid::Uuid;

use super::model::{Choice, Status, Tenant};
use crate::error::Error;

/// The channel on which every tenant process hears of changes; the payload is the tenant's UUID.
pub(crate) const CHANGED: &str = "tenon_directory";

struct Row {
    tenant_id: Uuid,
    slug: String,
    display_name: String,
    region: String,
    status: String,
    plan: String,
    features: Vec<String>,
    limits: Json<BTreeMap<String, i64>>,
    version: i64,
    created_at: DateTime<Utc>,
}

impl TryFrom<Row> for Tenant {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let Row { tenant_id, slug, display_name, region, status, plan, features, limits, version, created_at } = row;
        let (id, status, limits) = (tenant_id.into(), Status::parse(&status)?, limits.0);
        Ok(Self { id, slug, display_name, region, status, plan, features, limits, version, created_at })
    }
}

pub(crate) async fn insert(tx: &mut TenantTx, choice: &Choice) -> Result<(), Error> {
    let now = tx.clock().now();
    let inserted = query!(
        "insert into tenant.tenants (tenant_id, slug, display_name, region, status, created_at)
         values ($1, $2, $3, $4, 'provisioning', $5) on conflict on constraint tenants_slug do nothing",
        tx.tenant().uuid(),
        choice.slug,
        choice.display_name,
        choice.region,
        now
    );
    let inserted = inserted.execute(tx).await?;
    if inserted.rows_affected() == 0 { Err(Error::SlugTaken) } else { Ok(()) }
}

pub(crate) async fn get(tx: &mut TenantTx) -> Result<Option<Tenant>, Error> {
    let row = query_as!(
        Row,
        r#"select tenant_id, slug, display_name, region, status, plan, features,
                  limits as "limits: Json<BTreeMap<String, i64>>", version, created_at
           from tenant.tenants where tenant_id = $1"#,
        tx.tenant().uuid()
    );
    row.fetch_optional(tx).await?.map(Tenant::try_from).transpose()
}

/// By id, by slug or by a host of its own, over all tenants: for the directory.
pub(crate) async fn find(
    tx: &mut SystemTx,
    id: Option<TenantId>,
    slug: Option<&str>,
    host: Option<&str>,
) -> Result<Option<Tenant>, Error> {
    let row = query_as!(
        Row,
        r#"select tenant_id, slug, display_name, region, status, plan, features,
                  limits as "limits: Json<BTreeMap<String, i64>>", version, created_at
           from tenant.tenants where tenant_id = $1 or slug = $2 or tenant_id =
               (select tenant_id from tenant.domains where hostname = $3 and verified_at is not null)"#,
        id.map(TenantId::uuid),
        slug,
        host
    );
    row.fetch_optional(tx).await?.map(Tenant::try_from).transpose()
}

/// The verified hosts of a tenant: as many as it may have domains.
pub(crate) async fn list_hosts(tx: &mut SystemTx, id: TenantId) -> Result<Vec<String>, Error> {
    let hosts = query_scalar!(
        "select hostname from tenant.domains where tenant_id = $1 and verified_at is not null order by hostname limit 1000",
        id.uuid()
    );
    Ok(hosts.fetch_all(tx).await?)
}

/// Something that the directory tells has changed beside the row.
pub(crate) async fn update_version(tx: &mut TenantTx) -> Result<(), Error> {
    query!("update tenant.tenants set version = version + 1 where tenant_id = $1", tx.tenant().uuid())
        .execute(&mut *tx)
        .await?;
    changed(tx).await.map(drop)
}

/// Newest first, over all tenants: for operators.
pub(crate) async fn list(tx: &mut SystemTx, page: &Page<Uuid>) -> Result<Vec<Tenant>, Error> {
    let rows = query_as!(
        Row,
        r#"select tenant_id, slug, display_name, region, status, plan, features,
                  limits as "limits: Json<BTreeMap<String, i64>>", version, created_at
           from tenant.tenants where $1::uuid is null or tenant_id < $1 order by tenant_id desc limit $2"#,
        page.after,
        page.fetch()
    );
    rows.fetch_all(tx).await?.into_iter().map(Tenant::try_from).collect()
}

pub(crate) async fn update_status(tx: &mut TenantTx, status: Status) -> Result<Tenant, Error> {
    query!(
        "update tenant.tenants set status = $2, version = version + 1 where tenant_id = $1",
        tx.tenant().uuid(),
        status.as_str()
    )
    .execute(&mut *tx)
    .await?;
    changed(tx).await
}

/// What billing sold, and with it the end of the sign-up.
pub(crate) async fn update_active(
    tx: &mut TenantTx,
    plan: &str,
    features: &[String],
    limits: &BTreeMap<String, i64>,
) -> Result<Tenant, Error> {
    query!(
        "update tenant.tenants set status = 'active', plan = $2, features = $3, limits = $4, version = version + 1
         where tenant_id = $1",
        tx.tenant().uuid(),
        plan,
        features,
        Json(limits) as _
    )
    .execute(&mut *tx)
    .await?;
    changed(tx).await
}

pub(crate) async fn delete(tx: &mut TenantTx) -> Result<(), Error> {
    query!("delete from tenant.tenants where tenant_id = $1", tx.tenant().uuid()).execute(tx).await?;
    Ok(())
}

/// Pushes the change, with the commit, to whoever follows the directory.
async fn changed(tx: &mut TenantTx) -> Result<Tenant, Error> {
    let payload = tx.tenant().uuid().to_string();
    query!("select pg_notify($1, $2)", CHANGED, payload).execute(&mut *tx).await?;
    get(tx).await?.ok_or(Error::TenantNotFound)
}
