//! billing.plans and billing.plan_meters

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use sqlx::{Executor, Postgres, query, types::Json};

use super::model::{MeterPrice, Plan};
use crate::error::Error;

/// Plans by price, then id, after a (price, id). The price list is no tenant's, so any transaction reads it.
pub(crate) async fn list<'c>(
    db: impl Executor<'c, Database = Postgres>,
    after: Option<(i64, String)>,
    limit: i64,
) -> Result<Vec<Plan>, Error> {
    let (after_price, after_id) = after.unzip();
    let rows = query!(
        r#"select p.id, p.display_name, p.currency, p.price_minor, p.features,
                  p.limits as "limits: Json<BTreeMap<String, i64>>",
                  coalesce(array_agg(m.meter order by m.meter) filter (where m.meter is not null), '{}')
                      as "meters!: Vec<String>",
                  coalesce(array_agg(m.included order by m.meter) filter (where m.meter is not null), '{}')
                      as "included!: Vec<i64>",
                  coalesce(array_agg(m.unit_price order by m.meter) filter (where m.meter is not null), '{}')
                      as "unit_prices!: Vec<Decimal>"
           from billing.plans p left join billing.plan_meters m on m.plan_id = p.id
           where $1::bigint is null or (p.price_minor, p.id) > ($1, $2)
           group by p.id order by p.price_minor, p.id limit $3"#,
        after_price,
        after_id,
        limit
    )
    .fetch_all(db)
    .await?;
    let plans = rows.into_iter().map(|row| {
        let prices = row.meters.into_iter().zip(row.included).zip(row.unit_prices);
        let meters = prices.map(|((meter, included), unit_price)| MeterPrice { meter, included, unit_price }).collect();
        Plan {
            id: row.id,
            display_name: row.display_name,
            currency: row.currency,
            price_minor: row.price_minor,
            features: row.features,
            limits: row.limits.0,
            meters,
        }
    });
    Ok(plans.collect())
}

pub(crate) async fn get<'c>(db: impl Executor<'c, Database = Postgres>, id: &str) -> Result<Plan, Error> {
    // The list is a handful of rows; one statement serves both.
    list(db, None, 1_000).await?.into_iter().find(|plan| plan.id == id).ok_or(Error::PlanNotFound)
}
