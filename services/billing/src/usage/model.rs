//! What an event of use is, and what it may say.

use chrono::{DateTime, TimeDelta, Utc};
use tenon_chassis::{Fault, bus::Event};

/// Events of one call.
pub const MAX_EVENTS: usize = 1_000;
const MAX_ID: usize = 128;
const MAX_METER: usize = 64;
const MAX_QUANTITY: i64 = 1_000_000_000;
/// Clocks of senders may be ahead by this.
const MAX_AHEAD: TimeDelta = TimeDelta::minutes(5);
/// A period and some days: what is older belongs to an invoice that is closed.
const MAX_AGE: TimeDelta = TimeDelta::days(35);

/// A row of billing.usage_events, but for its tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageEvent {
    pub id: String,
    pub meter: String,
    pub quantity: i64,
    pub time: DateTime<Utc>,
}

impl UsageEvent {
    /// Checks an event that came by call; `at` is its path in the request.
    ///
    /// # Errors
    /// INVALID_FIELD for the field.
    pub fn check(mut self, at: &str, now: DateTime<Utc>) -> Result<Self, Fault> {
        if self.id.is_empty() || self.id.chars().count() > MAX_ID || self.id.contains('\0') {
            return Err(Fault::invalid(format!("{at}.id"), "must have 1 to 128 characters and no NUL"));
        }
        if !is_meter(&self.meter) {
            let why = "must be 1 to 64 lower-case letters, digits and underscores";
            return Err(Fault::invalid(format!("{at}.meter"), why));
        }
        self.quantity = if self.quantity == 0 { 1 } else { self.quantity };
        if !(1..=MAX_QUANTITY).contains(&self.quantity) {
            return Err(Fault::invalid(format!("{at}.quantity"), "must be 1 to 1,000,000,000"));
        }
        if self.time > now + MAX_AHEAD || self.time < now - MAX_AGE {
            return Err(Fault::invalid(format!("{at}.time"), "must be at most 5 minutes ahead and 35 days back"));
        }
        Ok(self)
    }

    /// Reads an event of the bus; `None` for one that is malformed, which no repetition would mend.
    #[must_use]
    pub fn from_bus(event: &Event) -> Option<Self> {
        let meter = event.data.get("meter")?.as_str().filter(|meter| is_meter(meter))?.to_owned();
        let quantity = event.data.get("quantity")?.as_i64().filter(|quantity| (1..=MAX_QUANTITY).contains(quantity))?;
        Some(Self { id: event.id.to_string(), meter, quantity, time: event.time })
    }
}

fn is_meter(meter: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    !meter.is_empty() && meter.len() <= MAX_METER && meter.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use tenon_chassis::Clock;

    use super::*;

    #[test]
    fn a_bad_event_is_refused_by_its_field() {
        let now = Clock::default().now();
        let good = UsageEvent { id: "1".to_owned(), meter: "ai_tokens".to_owned(), quantity: 0, time: now };
        assert_eq!(good.clone().check("events[0]", now).unwrap().quantity, 1);
        let field = |event: UsageEvent| event.check("events[0]", now).unwrap_err().violations[0].0.clone();
        assert_eq!(field(UsageEvent { id: String::new(), ..good.clone() }), "events[0].id");
        assert_eq!(field(UsageEvent { meter: "AI".to_owned(), ..good.clone() }), "events[0].meter");
        assert_eq!(field(UsageEvent { quantity: -1, ..good.clone() }), "events[0].quantity");
        assert_eq!(field(UsageEvent { time: now + TimeDelta::hours(1), ..good }), "events[0].time");
    }
}
