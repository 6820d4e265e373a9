//! billing.usage_events

use chrono::{DateTime, Utc};
use sqlx::{Executor, Postgres, query_as};
use tenon_chassis::{TenantId, TenantTx};
use uuid::Uuid;

use super::model::UsageEvent;
use crate::{error::Error, subscriptions::model::Period};

/// Use that was counted just now.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) tenant_id: Uuid,
    pub(crate) meter: String,
    pub(crate) quantity: i64,
    pub(crate) time: DateTime<Utc>,
}

/// Counts events, of any tenants when the transaction sees all; returns those that had not been counted before.
pub(crate) async fn insert<'c>(
    db: impl Executor<'c, Database = Postgres>,
    events: &[(TenantId, UsageEvent)],
) -> Result<Vec<Counted>, sqlx::Error> {
    let tenants: Vec<Uuid> = events.iter().map(|(tenant, _)| tenant.uuid()).collect();
    let ids: Vec<String> = events.iter().map(|(_, event)| event.id.clone()).collect();
    let meters: Vec<String> = events.iter().map(|(_, event)| event.meter.clone()).collect();
    let quantities: Vec<i64> = events.iter().map(|(_, event)| event.quantity).collect();
    let times: Vec<DateTime<Utc>> = events.iter().map(|(_, event)| event.time).collect();
    query_as!(
        Counted,
        "insert into billing.usage_events (tenant_id, id, meter, quantity, time)
         select * from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[])
         on conflict (tenant_id, id) do nothing returning tenant_id, meter, quantity, time",
        &tenants,
        &ids,
        &meters,
        &quantities,
        &times
    )
    .fetch_all(db)
    .await
}

/// (meter, units) of a period, by meter.
pub(crate) async fn list(tx: &mut TenantTx, period: Period) -> Result<Vec<(String, i64)>, Error> {
    let rows = sqlx::query!(
        r#"select meter, least(sum(quantity), 9223372036854775807)::bigint as "quantity!" from billing.usage_events
           where tenant_id = $1 and time >= $2 and time < $3 group by meter order by meter limit 1000"#,
        tx.tenant().uuid(),
        period.start,
        period.end
    );
    Ok(rows.fetch_all(tx).await?.into_iter().map(|row| (row.meter, row.quantity)).collect())
}
