//! What a subscription is, and which period it is in.

use chrono::{DateTime, Months, Utc};
use tenon_chassis::{Clock, id};

id!(SubscriptionId, "sub", "A tenant's subscription.");

/// A row of billing.subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub id: SubscriptionId,
    pub plan_id: String,
    pub status: String,
    pub period: Period,
    pub created_at: DateTime<Utc>,
}

/// A span of time: `start` belongs to it, `end` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
}

impl Period {
    /// The month that starts at `start`; the 31st ends on the last day of a shorter month.
    #[must_use]
    pub fn month_from(start: DateTime<Utc>) -> Self {
        Self { start, end: start.checked_add_months(Months::new(1)).unwrap_or(DateTime::<Utc>::MAX_UTC) }
    }

    /// Whether a time belongs to it.
    #[must_use]
    pub fn has(self, time: DateTime<Utc>) -> bool {
        (self.start..self.end).contains(&time)
    }

    /// The month, counted from this one's start, that `now` is in.
    #[must_use]
    pub fn at(self, now: DateTime<Utc>) -> Self {
        let mut months = 0_u32;
        let nth = |n: u32| self.start.checked_add_months(Months::new(n));
        // Counted from the first start: the 31st comes back after a shorter month.
        while nth(months + 1).is_some_and(|next| next <= now) {
            months += 1;
        }
        match (nth(months), nth(months + 1)) {
            (Some(start), Some(end)) => Self { start, end },
            _ => self,
        }
    }
}

impl Subscription {
    #[must_use]
    pub fn new(clock: &Clock, plan_id: String) -> Self {
        let now = clock.now();
        let (id, status) = (SubscriptionId::new(clock), "active".to_owned());
        Self { id, plan_id, status, period: Period::month_from(now), created_at: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_on_the_31st_ends_on_the_last_day_and_comes_back() {
        let day = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        let first = Period::month_from(day("2026-01-31T10:00:00Z"));
        assert_eq!(first.end, day("2026-02-28T10:00:00Z"));
        assert_eq!(first.at(day("2026-02-01T00:00:00Z")), first);
        let third = first.at(day("2026-03-30T00:00:00Z"));
        assert_eq!((third.start, third.end), (day("2026-02-28T10:00:00Z"), day("2026-03-31T10:00:00Z")));
    }
}
