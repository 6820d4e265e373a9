//! What a quota is, and what others are told of it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tenon_chassis::TenantId;
use uuid::Uuid;

use crate::subscriptions::model::Period;

/// The type of the event that a meter is used up in this period.
pub const EXHAUSTED: &str = "tenon.billing.quota.exhausted.v1";
/// The type of the event that there is something left again: another period, another plan, another limit.
pub const REPLENISHED: &str = "tenon.billing.quota.replenished.v1";
/// What a plan's limits name units of a meter in one period, before the meter.
const LIMIT: &str = "quota.";

/// A tenant whose plan limits meters.
#[derive(Debug)]
pub(crate) struct Limited {
    pub(crate) tenant_id: Uuid,
    /// The first of its subscription.
    pub(crate) period: Period,
    pub(crate) limits: BTreeMap<String, i64>,
}

impl Limited {
    pub(crate) fn limit_of(&self, meter: &str) -> Option<i64> {
        self.limits.get(&format!("{LIMIT}{meter}")).copied()
    }
}

/// Where a meter stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) meter: String,
    /// Units of one period; `None` when the plan does not limit the meter.
    pub(crate) limit: Option<i64>,
    pub(crate) used: i64,
    pub(crate) period_end: DateTime<Utc>,
}

/// A meter that was used up, or is not any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) tenant: TenantId,
    pub(crate) quota: Quota,
    pub(crate) exhausted: bool,
}

impl Change {
    pub(crate) fn kind(&self) -> &'static str {
        if self.exhausted { EXHAUSTED } else { REPLENISHED }
    }

    pub(crate) fn subject(&self) -> String {
        format!("quotas/{}", self.quota.meter)
    }

    pub(crate) fn data(&self) -> Value {
        let Quota { meter, limit, used, period_end } = &self.quota;
        json!({ "meter": meter, "limit": limit, "used": used, "periodEnd": period_end.to_rfc3339() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_says_what_was_used_of_what() {
        let period_end = "2026-02-01T00:00:00Z".parse().unwrap();
        let quota = Quota { meter: "ai_tokens".to_owned(), limit: Some(10), used: 11, period_end };
        let change = Change { tenant: Uuid::nil().into(), quota, exhausted: true };
        assert_eq!((change.kind(), change.subject().as_str()), (EXHAUSTED, "quotas/ai_tokens"));
        assert_eq!((&change.data()["used"], &change.data()["limit"]), (&json!(11), &json!(10)));
        let limited = Limited {
            tenant_id: Uuid::nil(),
            period: Period::month_from(period_end),
            limits: [("quota.ai_tokens".to_owned(), 10), ("rate.read".to_owned(), 1)].into(),
        };
        assert_eq!((limited.limit_of("ai_tokens"), limited.limit_of("workflow_runs")), (Some(10), None));
    }
}
