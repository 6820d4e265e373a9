//! The time of timers: the database's clock, carried on by this machine's monotonic one, so that neither a step of the
//! machine's clock nor engines on machines that disagree move a timer.

use chrono::{DateTime, TimeDelta, Utc};
use tenon_chassis::Clock;
use tokio::time::Instant;

/// The database's clock as of a moment ago.
#[derive(Debug)]
pub(super) struct Time {
    database: DateTime<Utc>,
    at: Instant,
    clock: Clock,
}

impl Time {
    pub(super) fn new(database: DateTime<Utc>, clock: Clock) -> Self {
        Self { database, at: Instant::now(), clock }
    }

    /// Takes a new reading. Time does not go back: behind what was told already it stands still for a while.
    pub(super) fn set(&mut self, database: DateTime<Utc>) {
        let told = self.carried();
        *self = Self { database: database.max(told), at: Instant::now(), clock: self.clock.clone() };
    }

    /// Now, and ahead by as much as a test has moved the clock.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.carried() + self.clock.ahead()
    }

    /// When it will be `due`.
    pub(super) fn instant(&self, due: DateTime<Utc>) -> Instant {
        Instant::now() + (due - self.now()).to_std().unwrap_or_default()
    }

    fn carried(&self) -> DateTime<Utc> {
        let elapsed = TimeDelta::from_std(self.at.elapsed()).unwrap_or_default();
        // Postgres keeps microseconds.
        let now = self.database + elapsed;
        DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
    }
}
