//! The time of timers: the database's clock, carried on by this machine's monotonic one, so that neither a step of the
//! machine's clock nor engines on machines that disagree move a timer.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tenon_chassis::Clock;
use tokio::time::Instant;

/// How many runs one turn of the engine takes: few enough that whoever comes next waits for one short turn, however many
/// wait already.
#[derive(Debug)]
pub(super) struct Pace {
    each: Duration,
}

/// How long a turn may take, and how long when others are likely to come.
pub(super) const TURN: Duration = Duration::from_millis(15);
pub(super) const TURN_SHORT: Duration = Duration::from_millis(4);
const TURN_MIN: usize = 16;

impl Pace {
    pub(super) fn new() -> Self {
        Self { each: Duration::from_micros(150) }
    }

    /// Learns from a turn.
    pub(super) fn add(&mut self, runs: usize, took: Duration) {
        let each = took / u32::try_from(runs.max(1)).unwrap_or(u32::MAX);
        self.each = (self.each * 7 + each.min(TURN)) / 8;
    }

    /// Runs of the next turn, `most` at most.
    pub(super) fn runs(&self, turn: Duration, most: usize) -> usize {
        let runs = turn.as_micros() / self.each.as_micros().max(1);
        usize::try_from(runs).unwrap_or(most).clamp(TURN_MIN, most)
    }
}

/// The database's clock as of a moment ago; copies tell the same time.
#[derive(Debug, Clone)]
pub(super) struct Time {
    reading: Arc<Mutex<Reading>>,
    clock: Clock,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    database: DateTime<Utc>,
    at: Instant,
}

impl Time {
    pub(super) fn new(clock: Clock) -> Self {
        Self { reading: Arc::new(Mutex::new(Reading { database: clock.now(), at: Instant::now() })), clock }
    }

    /// Takes the first reading.
    pub(super) fn begin(&self, database: DateTime<Utc>) {
        *self.reading() = Reading { database, at: Instant::now() };
    }

    /// Takes a new reading. Time does not go back: behind what was told already it stands still for a while.
    pub(super) fn set(&self, database: DateTime<Utc>) {
        let told = self.carried();
        self.begin(database.max(told));
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
        let Reading { database, at } = *self.reading();
        let elapsed = TimeDelta::from_std(at.elapsed()).unwrap_or_default();
        // Postgres keeps microseconds.
        let now = database + elapsed;
        DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().expect("no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether two times are as good as one.
    fn is_about(one: DateTime<Utc>, other: DateTime<Utc>) -> bool {
        (one - other).abs() < TimeDelta::seconds(5)
    }

    #[test]
    fn a_machine_whose_clock_is_years_off_keeps_the_time_of_the_database() {
        let database: DateTime<Utc> = "2011-03-04T05:06:07Z".parse().unwrap();
        let time = Time::new(Clock::default());
        time.begin(database);
        assert!(is_about(time.now(), database), "{}", time.now());
        // The timer of a machine that believes to be in 2011 is due when the database says so.
        assert!(time.instant(database + TimeDelta::hours(1)) > Instant::now() + Duration::from_secs(3_590));
        assert!(time.instant(database - TimeDelta::hours(1)) <= Instant::now());
        // The database's own clock is set forwards: all follow with the next reading.
        let ahead = database + TimeDelta::days(1);
        time.set(ahead);
        assert!(is_about(time.now(), ahead), "{}", time.now());
        // It is set back: time stands still rather than that a timer is due twice.
        time.set(database);
        assert!(time.now() >= ahead);
    }

    #[test]
    fn slow_runs_make_short_turns() {
        let mut pace = Pace::new();
        assert_eq!(pace.runs(TURN, 500), 100);
        for _ in 0..100 {
            pace.add(10, Duration::from_secs(1));
        }
        assert_eq!(pace.runs(TURN, 500), TURN_MIN);
        for _ in 0..100 {
            pace.add(100, Duration::from_micros(100));
        }
        assert_eq!(pace.runs(TURN, 500), 500);
    }
}
