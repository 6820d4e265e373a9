//! billing.quotas

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{Executor, Postgres, query, types::Json};
use tenon_chassis::SystemTx;
use uuid::Uuid;

use super::model::{Change, Limited, Quota};
use crate::{error::Error, subscriptions::model::Period};

/// Those of some tenants whose plan limits a meter.
pub(crate) async fn list_limited<'c>(
    db: impl Executor<'c, Database = Postgres>,
    tenants: &[Uuid],
) -> Result<Vec<Limited>, Error> {
    let rows = query!(
        r#"select s.tenant_id, s.period_start, s.period_end, p.limits as "limits: Json<BTreeMap<String, i64>>"
           from billing.subscriptions s join billing.plans p on p.id = s.plan_id
           where s.tenant_id = any($1)
             and exists (select from jsonb_object_keys(p.limits) as name where starts_with(name, 'quota.'))"#,
        tenants
    );
    let rows = rows.fetch_all(db).await?.into_iter();
    Ok(rows
        .map(|row| Limited {
            tenant_id: row.tenant_id,
            period: Period { start: row.period_start, end: row.period_end },
            limits: row.limits.0,
        })
        .collect())
}

/// Adds to the use of a period, if it is being counted: how much it is, and whether others were told that it is all.
pub(crate) async fn update_used<'c>(
    db: impl Executor<'c, Database = Postgres>,
    (tenant, meter): (Uuid, &str),
    period: Period,
    more: i64,
) -> Result<Option<(i64, bool)>, Error> {
    let row = query!(
        "update billing.quotas set used = used + $4
         where tenant_id = $1 and meter = $2 and period_start = $3 returning used, exhausted",
        tenant,
        meter,
        period.start,
        more
    );
    Ok(row.fetch_optional(db).await?.map(|row| (row.used, row.exhausted)))
}

/// Begins to count a period with what was used of it, `more` included. Somebody who has begun meanwhile is added to.
pub(crate) async fn insert<'c>(
    db: impl Executor<'c, Database = Postgres>,
    (tenant, meter): (Uuid, &str),
    period: Period,
    more: i64,
) -> Result<(i64, bool), Error> {
    let row = query!(
        "insert into billing.quotas as q (tenant_id, meter, period_start, period_end, used)
         select $1, $2, $3, $4, coalesce(least(sum(quantity), 4611686018427387904)::bigint, 0) from billing.usage_events
         where tenant_id = $1 and meter = $2 and time >= $3 and time < $4
         on conflict (tenant_id, meter) do update
         set used = case when q.period_start = excluded.period_start then q.used + $5 else excluded.used end,
             period_start = excluded.period_start, period_end = excluded.period_end
         returning used, exhausted",
        tenant,
        meter,
        period.start,
        period.end,
        more
    );
    let row = row.fetch_one(db).await?;
    Ok((row.used, row.exhausted))
}

/// Remembers what others are told.
pub(crate) async fn update_exhausted<'c>(
    db: impl Executor<'c, Database = Postgres>,
    (tenant, meter): (Uuid, &str),
    exhausted: bool,
) -> Result<(), Error> {
    query!("update billing.quotas set exhausted = $3 where tenant_id = $1 and meter = $2", tenant, meter, exhausted)
        .execute(db)
        .await?;
    Ok(())
}

/// Some meters that others were told are used up and of which something is left: the period is over, or the plan allows
/// more. They are held until the transaction ends.
pub(crate) async fn claim_replenished(tx: &mut SystemTx, now: DateTime<Utc>, limit: i64) -> Result<Vec<Change>, Error> {
    let rows = query!(
        r#"select q.tenant_id, q.meter, q.used, q.period_end,
                  (select (p.limits ->> ('quota.' || q.meter))::bigint
                   from billing.subscriptions s join billing.plans p on p.id = s.plan_id
                   where s.tenant_id = q.tenant_id) as "limit?"
           from billing.quotas q
           where q.exhausted and (q.period_end <= $1 or coalesce(q.used < (
                     select (p.limits ->> ('quota.' || q.meter))::bigint
                     from billing.subscriptions s join billing.plans p on p.id = s.plan_id
                     where s.tenant_id = q.tenant_id), true))
           limit $2 for update of q skip locked"#,
        now,
        limit
    );
    let rows = rows.fetch_all(tx).await?.into_iter();
    Ok(rows
        .map(|row| Change {
            tenant: row.tenant_id.into(),
            quota: Quota { meter: row.meter, limit: row.limit, used: row.used, period_end: row.period_end },
            exhausted: false,
        })
        .collect())
}
