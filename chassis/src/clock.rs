//! The only source of time: one clock, moved by tests, moves the whole product.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use prost_types::Timestamp;

use crate::Fault;

/// The system's clock, plus what a test has moved it by. Clones move together.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    stands_at: Option<DateTime<Utc>>,
    ahead_ms: Arc<AtomicI64>,
}

impl Clock {
    /// One that stands still until it is moved: what a test sees does not depend on how long it takes.
    #[must_use]
    pub fn standing() -> Self {
        Self { stands_at: Some(Self::default().now()), ahead_ms: Arc::default() }
    }

    /// The time now, cut to microseconds as Postgres keeps it.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
    pub fn now(&self) -> DateTime<Utc> {
        let now =
            self.stands_at.unwrap_or_else(Utc::now) + TimeDelta::milliseconds(self.ahead_ms.load(Ordering::Relaxed));
        DateTime::from_timestamp_micros(now.timestamp_micros()).expect("the system's time is within chrono's range")
    }

    /// Seconds since 1970, as tokens carry it.
    #[must_use]
    pub fn unix(&self) -> i64 {
        self.now().timestamp()
    }

    /// How far it is ahead of the system's: nothing, but in tests.
    #[must_use]
    pub fn ahead(&self) -> TimeDelta {
        TimeDelta::milliseconds(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// Moves this clock and its clones ahead.
    pub fn advance(&self, by: Duration) {
        self.ahead_ms.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

/// A time as the contracts carry it.
#[must_use]
pub fn timestamp(at: DateTime<Utc>) -> Timestamp {
    let nanos = i32::try_from(at.timestamp_subsec_nanos()).unwrap_or_default();
    Timestamp { seconds: at.timestamp(), nanos }
}

/// # Errors
/// INVALID_FIELD when it is outside the range of google.protobuf.Timestamp.
pub fn time(field: &str, at: Timestamp) -> Result<DateTime<Utc>, Fault> {
    let nanos = u32::try_from(at.nanos).ok();
    let time = nanos.and_then(|nanos| DateTime::from_timestamp(at.seconds, nanos));
    time.ok_or_else(|| Fault::invalid(field, "must be a time between the years 1 and 9999"))
}
