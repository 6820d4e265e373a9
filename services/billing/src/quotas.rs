//! Quotas: what a plan lets a tenant use of a meter in one period, and who is told when nothing is left.

pub(crate) mod keeper;
pub mod model;
pub(crate) mod store;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{Executor, Postgres};
use tenon_chassis::{Clock, TenantId, bus::Event};

use crate::{error::Error, usage::store::Counted};
use model::{Change, Quota};

/// Adds what was counted to the quotas that it belongs to; answers with the events of those that are used up now. One
/// who is over is told of once a period.
pub(crate) async fn count<T>(tx: &mut T, counted: &[Counted], now: DateTime<Utc>) -> Result<Vec<Change>, Error>
where
    T: Send,
    for<'t> &'t mut T: Executor<'t, Database = Postgres>,
{
    let mut tenants: Vec<_> = counted.iter().map(|counted| counted.tenant_id).collect();
    tenants.sort_unstable();
    tenants.dedup();
    let mut changes = Vec::new();
    for limited in store::list_limited(&mut *tx, &tenants).await? {
        let period = limited.period.at(now);
        let mut used: BTreeMap<&str, i64> = BTreeMap::new();
        for one in counted.iter().filter(|one| one.tenant_id == limited.tenant_id && period.has(one.time)) {
            let sum = used.entry(&one.meter).or_default();
            *sum = sum.saturating_add(one.quantity);
        }
        for (meter, more) in used {
            let Some(limit) = limited.limit_of(meter) else { continue };
            let of = (limited.tenant_id, meter);
            let (used, told) = match store::update_used(&mut *tx, of, period, more).await? {
                Some(standing) => standing,
                None => store::insert(&mut *tx, of, period, more).await?,
            };
            if used >= limit && !told {
                store::update_exhausted(&mut *tx, of, true).await?;
                let quota = Quota { meter: meter.to_owned(), limit: Some(limit), used, period_end: period.end };
                changes.push(Change { tenant: TenantId::from(limited.tenant_id), quota, exhausted: true });
            }
        }
    }
    Ok(changes)
}

/// The events that tell of changes.
pub(crate) fn events(changes: &[Change], clock: &Clock) -> Vec<Event> {
    changes
        .iter()
        .map(|change| Event::new(clock, crate::NAME, change.tenant, (change.kind(), change.subject()), change.data()))
        .collect()
}
