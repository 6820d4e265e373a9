//! When a schedule is due: cron expressions in a time zone, jitter, overlap.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tenon_chassis::Fault;
use uuid::Uuid;

/// The longest jitter, in seconds.
const JITTER_MAX_S: i32 = 3_600;
/// Characters of a cron expression.
const CRON_MAX: usize = 128;
/// Runs that one backfill starts at most.
pub const BACKFILL_MAX: usize = 1_000;
/// A time that was missed by more than this, while nothing ran, is left out.
pub const CATCH_UP: TimeDelta = TimeDelta::hours(1);

/// When runs start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timetable {
    pub cron: String,
    /// An IANA time zone.
    pub time_zone: String,
    pub overlap: Overlap,
    pub jitter_s: i32,
}

/// What happens to a start while the run of the one before is still at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Overlap {
    Skip,
    BufferOne,
    Allow,
}

impl Overlap {
    /// As the database keeps it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "SKIP",
            Self::BufferOne => "BUFFER_ONE",
            Self::Allow => "ALLOW",
        }
    }
}

impl From<String> for Overlap {
    fn from(text: String) -> Self {
        match text.as_str() {
            "BUFFER_ONE" => Self::BufferOne,
            "ALLOW" => Self::Allow,
            // The column's CHECK leaves nothing else.
            _ => Self::Skip,
        }
    }
}

/// A schedule as it is kept.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub schedule_id: String,
    pub workflow_id: String,
    pub managed: bool,
    pub cron: String,
    pub time_zone: String,
    pub overlap: Overlap,
    pub jitter_s: i32,
    pub input: Value,
    pub paused: bool,
    pub next_at: Option<DateTime<Utc>>,
    pub due_at: Option<DateTime<Utc>>,
    pub buffered_at: Option<DateTime<Utc>>,
    pub last_at: Option<DateTime<Utc>>,
    pub last_run: Option<Uuid>,
    pub created_by: String,
    pub roles: Vec<String>,
    pub created_at: DateTime<Utc>,
}

/// What a schedule that is due comes to.
#[derive(Debug, PartialEq, Eq)]
pub struct Tick {
    /// The times whose runs start now, oldest first.
    pub start: Vec<DateTime<Utc>>,
    pub buffered_at: Option<DateTime<Utc>>,
    pub next_at: Option<DateTime<Utc>>,
    pub due_at: Option<DateTime<Utc>>,
}

/// How often a schedule looks whether the run that it waits for has ended.
const BUFFERED_AGAIN: TimeDelta = TimeDelta::seconds(1);
/// Missed times that are made up for at once.
const MISSED_MAX: usize = 100;

impl Timetable {
    /// Everything that is wrong: the field as JSON spells it, and why.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if let Err(why) = pattern(&self.cron) {
            faults.push(("cron", why));
        }
        if zone(&self.time_zone).is_none() {
            faults.push(("timeZone", "is no IANA time zone, like Europe/Berlin".to_owned()));
        }
        if !(0..=JITTER_MAX_S).contains(&self.jitter_s) {
            faults.push(("jitterSeconds", format!("must be 0 to {JITTER_MAX_S}")));
        }
        faults
    }

    /// The first time after `after`; `None` when there never is one again.
    #[must_use]
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (cron, zone) = (pattern(&self.cron).ok()?, zone(&self.time_zone)?);
        let next = cron.find_next_occurrence(&after.with_timezone(&zone), false).ok()?;
        Some(next.with_timezone(&Utc))
    }

    /// When the run of a time starts: later by a part of the jitter that is the same whenever it is asked for.
    #[must_use]
    pub fn due(&self, schedule: &str, at: DateTime<Utc>) -> DateTime<Utc> {
        let jitter = u64::from(self.jitter_s.unsigned_abs()) * 1_000;
        if jitter == 0 {
            return at;
        }
        let mut mixed = schedule
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        mixed = (mixed ^ at.timestamp().unsigned_abs()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^= mixed >> 32;
        at + TimeDelta::milliseconds(i64::try_from(mixed % (jitter + 1)).unwrap_or_default())
    }

    /// The times from `from` up to and with `to`.
    ///
    /// # Errors
    /// When there are more than a backfill may start.
    pub fn between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Vec<DateTime<Utc>>, Fault> {
        let mut times = Vec::new();
        let mut after = from - TimeDelta::milliseconds(1);
        while let Some(next) = self.next(after).filter(|next| *next <= to) {
            if times.len() >= BACKFILL_MAX {
                let why = format!("more than {BACKFILL_MAX} times lie between; ask for less at once");
                return Err(Fault::invalid("end_time", why));
            }
            times.push(next);
            after = next;
        }
        Ok(times)
    }
}

impl Schedule {
    #[must_use]
    pub fn timetable(&self) -> Timetable {
        let (cron, time_zone) = (self.cron.clone(), self.time_zone.clone());
        Timetable { cron, time_zone, overlap: self.overlap, jitter_s: self.jitter_s }
    }

    /// Pauses it, or lets it go on with the next time.
    pub fn set_paused(&mut self, paused: bool, now: DateTime<Utc>) {
        self.paused = paused;
        self.next_at = if paused { None } else { self.timetable().next(now) };
        self.due_at = self.next_at.map(|at| self.timetable().due(&self.schedule_id, at));
    }

    /// What is to be done at `now`. `busy`: whether the run that was started last is still at work.
    #[must_use]
    pub fn tick(&self, now: DateTime<Utc>, busy: bool) -> Tick {
        let timetable = self.timetable();
        let mut due = Vec::new();
        let mut next_at = self.next_at;
        while let Some(at) = next_at.filter(|at| timetable.due(&self.schedule_id, *at) <= now) {
            if at > now - CATCH_UP && due.len() < MISSED_MAX {
                due.push(at);
            }
            // What was missed long ago is not walked through one by one.
            next_at = timetable.next(at.max(now - CATCH_UP));
        }
        let mut buffered_at = self.buffered_at;
        let start = match self.overlap {
            Overlap::Allow => due,
            // Of several that are due at once the first runs, and is still at work for the others.
            Overlap::Skip if busy => Vec::new(),
            Overlap::Skip => due.into_iter().take(1).collect(),
            Overlap::BufferOne => {
                let mut waiting = buffered_at.take().into_iter().chain(due);
                let first = if busy { None } else { waiting.next() };
                buffered_at = waiting.next();
                first.into_iter().collect()
            }
        };
        let next_due = next_at.map(|at| timetable.due(&self.schedule_id, at));
        let again = buffered_at.map(|_| now + BUFFERED_AGAIN);
        Tick { start, buffered_at, next_at, due_at: next_due.into_iter().chain(again).min() }
    }
}

/// The input of the run of a time: an object is given the schedule and the time beside what it has.
#[must_use]
pub fn input_at(input: &Value, schedule_id: &str, at: DateTime<Utc>) -> Value {
    let mut input = input.clone();
    if let Value::Object(fields) = &mut input {
        let schedule =
            json!({"name": format!("schedules/{schedule_id}"), "time": at.to_rfc3339_opts(SecondsFormat::Secs, true)});
        fields.entry("schedule").or_insert(schedule);
    }
    input
}

fn pattern(cron: &str) -> Result<Cron, String> {
    if cron.len() > CRON_MAX {
        return Err(format!("must have at most {CRON_MAX} characters"));
    }
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    parser.parse(cron).map_err(|why| format!("is no cron expression: {why}"))
}

fn zone(name: &str) -> Option<Tz> {
    if name.is_empty() { Some(Tz::UTC) } else { name.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(cron: &str, time_zone: &str) -> Timetable {
        let (cron, time_zone) = (cron.to_owned(), time_zone.to_owned());
        Timetable { cron, time_zone, overlap: Overlap::Skip, jitter_s: 0 }
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn next(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let table = table(cron, zone);
        let mut after = at(after);
        let step = || {
            after = table.next(after)?;
            Some(after.format("%m-%dT%H:%M").to_string())
        };
        std::iter::from_fn(step).take(count).collect()
    }

    #[test]
    fn times_follow_the_clocks_of_the_zone() {
        assert_eq!(next("30 9 * * 1-5", "Europe/Berlin", "2026-11-20T00:00:00Z", 2), ["11-20T08:30", "11-23T08:30"]);
        // 2026-03-29 has no 02:30 in Berlin: it is run once the clocks have gone on.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2), ["03-29T01:00", "03-30T00:30"]);
        // 2026-10-25 has two 02:30 in Berlin: it is run once.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2), ["10-25T00:30", "10-26T01:30"]);
        // Each hour stays each hour.
        let hourly = next("0 * * * *", "America/New_York", "2026-11-01T04:30:00Z", 3);
        assert_eq!(hourly, ["11-01T05:00", "11-01T06:00", "11-01T07:00"]);
        assert_eq!(next("0 12 L * *", "", "2026-02-01T00:00:00Z", 1), ["02-28T12:00"]);
        assert_eq!(next("0 0 30 2 *", "", "2026-02-01T00:00:00Z", 1), Vec::<String>::new());
    }

    #[test]
    fn jitter_is_the_same_each_time_and_bounded() {
        let spread = Timetable { jitter_s: 10, ..table("* * * * *", "") };
        let time = at("2026-01-01T00:00:00Z");
        assert_eq!(spread.due("a", time), spread.due("a", time));
        let others: std::collections::BTreeSet<_> = (0..50).map(|n| spread.due(&format!("s{n}"), time)).collect();
        assert!(others.len() > 10 && others.iter().all(|due| (time..=time + TimeDelta::seconds(10)).contains(due)));
    }

    fn schedule(overlap: Overlap) -> Schedule {
        let created_at = at("2026-01-01T00:00:00Z");
        Schedule {
            schedule_id: "s".to_owned(),
            workflow_id: "w".to_owned(),
            managed: false,
            cron: "* * * * *".to_owned(),
            time_zone: String::new(),
            overlap,
            jitter_s: 0,
            input: Value::Null,
            paused: false,
            next_at: Some(at("2026-01-01T00:01:00Z")),
            due_at: None,
            buffered_at: None,
            last_at: None,
            last_run: None,
            created_by: String::new(),
            roles: Vec::new(),
            created_at,
        }
    }

    #[test]
    fn overlap_skips_buffers_or_allows() {
        let now = at("2026-01-01T00:02:30Z");
        let minute = |n: u32| at(&format!("2026-01-01T00:0{n}:00Z"));
        let allow = schedule(Overlap::Allow).tick(now, true);
        assert_eq!((allow.start, allow.next_at), (vec![minute(1), minute(2)], Some(minute(3))));
        assert!(schedule(Overlap::Skip).tick(now, true).start.is_empty());
        assert_eq!(schedule(Overlap::Skip).tick(now, false).start, [minute(1)]);
        let waits = schedule(Overlap::BufferOne).tick(now, true);
        assert_eq!((waits.start, waits.buffered_at), (vec![], Some(minute(1))));
        assert_eq!(waits.due_at, Some(now + BUFFERED_AGAIN));
        let freed = Schedule { buffered_at: Some(minute(1)), next_at: Some(minute(3)), ..schedule(Overlap::BufferOne) };
        let freed = freed.tick(now, false);
        assert_eq!((freed.start, freed.buffered_at, freed.due_at), (vec![minute(1)], None, Some(minute(3))));
    }

    #[test]
    fn what_was_missed_long_ago_is_left_out() {
        let late = schedule(Overlap::Allow).tick(at("2026-01-02T00:00:30Z"), false);
        assert_eq!((late.start.len(), late.next_at), (60, Some(at("2026-01-02T00:01:00Z"))));
    }

    #[test]
    fn a_clock_that_jumps_starts_no_time_twice() {
        let ahead = schedule(Overlap::Allow).tick(at("2026-01-01T00:03:10Z"), false);
        assert_eq!(ahead.start.len(), 3);
        let then = Schedule { next_at: ahead.next_at, due_at: ahead.due_at, ..schedule(Overlap::Allow) };
        let back = then.tick(at("2026-01-01T00:01:30Z"), false);
        assert_eq!((back.start.len(), back.next_at), (0, ahead.next_at), "the clock went back");
        assert_eq!(then.tick(at("2026-01-01T00:04:00Z"), false).start, [at("2026-01-01T00:04:00Z")]);
    }

    #[test]
    fn a_backfill_is_bounded() {
        let table = table("0 * * * *", "");
        let times = table.between(at("2026-01-01T00:00:00Z"), at("2026-01-01T03:00:00Z")).unwrap();
        assert_eq!(times.len(), 4);
        assert!(table.between(at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z")).is_err());
    }
}
