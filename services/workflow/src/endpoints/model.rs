//! Endpoints and deliveries as they are kept, and when a delivery is tried again.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tenon_chassis::{Fault, TenantId, bus};
use uuid::Uuid;

use crate::workflows::envelope::is_type;

tenon_chassis::id!(DeliveryId, "del", "An event on its way to an endpoint.");

/// The type of the event that TestEndpoint delivers.
pub const TEST: &str = "tenon.webhook.test.v1";
/// The type of the event that tells that an endpoint was switched off.
pub const SWITCHED_OFF: &str = "tenon.workflow.endpoint.disabled.v1";
/// Endpoints of one tenant.
pub const ENDPOINTS_MAX: i64 = 100;
/// Types of events that one endpoint is told of.
const TYPES_MAX: usize = 50;
const URL_MAX: usize = 2_000;
const DESCRIPTION_MAX: usize = 1_000;
/// Attempts that the log keeps.
const LOG_MAX: usize = 20;
/// The pauses before each further attempt, in seconds: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h (Standard Webhooks).
const PAUSES_S: [i64; 7] = [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000];
/// An endpoint that failed for this long is switched off.
const FAILING_MAX: TimeDelta = TimeDelta::days(5);
/// The HTTP status that asks to be switched off: 410 Gone.
const GONE: u16 = 410;

/// Whether an endpoint is told of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Enabled,
    Disabled,
    Failing,
}

impl State {
    /// As the database keeps it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "ENABLED",
            Self::Disabled => "DISABLED",
            Self::Failing => "FAILING",
        }
    }
}

impl From<String> for State {
    fn from(text: String) -> Self {
        match text.as_str() {
            "DISABLED" => Self::Disabled,
            "FAILING" => Self::Failing,
            // The column's CHECK leaves nothing else.
            _ => Self::Enabled,
        }
    }
}

/// An endpoint as it is kept.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub endpoint_id: String,
    pub url: String,
    pub event_types: Vec<String>,
    pub description: String,
    /// Sealed.
    pub secret: Vec<u8>,
    pub previous_secret: Option<Vec<u8>>,
    pub previous_until: Option<DateTime<Utc>>,
    pub state: State,
    pub failing_since: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

/// Where a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Pending,
    Delivered,
    Failed,
}

impl Progress {
    /// As the database keeps it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Delivered => "DELIVERED",
            Self::Failed => "FAILED",
        }
    }
}

impl From<String> for Progress {
    fn from(text: String) -> Self {
        match text.as_str() {
            "DELIVERED" => Self::Delivered,
            "FAILED" => Self::Failed,
            // The column's CHECK leaves nothing else.
            _ => Self::Pending,
        }
    }
}

/// A delivery as it is kept.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub id: DeliveryId,
    pub endpoint_id: String,
    pub event_id: Uuid,
    pub event_type: String,
    pub state: Progress,
    pub log: Value,
    pub next_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

/// One attempt, as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub at: DateTime<Utc>,
    /// 0 when there was no answer.
    pub status: u16,
    pub error: String,
    pub duration_ms: u32,
}

/// What an attempt makes of a delivery and its endpoint.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    pub state: Progress,
    pub next_at: Option<DateTime<Utc>>,
    pub failing_since: Option<DateTime<Utc>>,
    pub switch_off: bool,
}

impl Delivery {
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        // What is kept was written by this service.
        serde_json::from_value(self.log.clone()).unwrap_or_default()
    }
}

impl Endpoint {
    /// What is sealed is bound to the endpoint.
    #[must_use]
    pub fn purpose(tenant: TenantId, endpoint_id: &str) -> String {
        format!("workflow.endpoints/{tenant}/{endpoint_id}")
    }
}

/// Whether one of the types, a star at the end standing for anything, is the type of an event.
#[must_use]
pub fn asks_for(types: &[String], kind: &str) -> bool {
    types.iter().any(|wanted| match wanted.strip_suffix('*') {
        Some(beginning) => kind.starts_with(beginning),
        None => wanted == kind,
    })
}

/// Checks what a caller wants of an endpoint.
///
/// # Errors
/// INVALID_FIELD with the first field that is wrong.
pub fn check(url: &str, event_types: &[String], description: &str) -> Result<(), Fault> {
    if url.len() > URL_MAX {
        return Err(Fault::invalid("url", "must have at most 2,000 characters"));
    }
    if event_types.is_empty() || event_types.len() > TYPES_MAX {
        return Err(Fault::invalid("event_types", "must be 1 to 50"));
    }
    if let Some(index) = event_types.iter().position(|kind| !is_type(kind)) {
        let why = "must be the type of an event, with dots, and a star at the end at most";
        return Err(Fault::invalid(format!("event_types[{index}]"), why));
    }
    if description.chars().count() > DESCRIPTION_MAX || description.contains('\0') {
        return Err(Fault::invalid("description", "must have at most 1,000 characters and no NUL"));
    }
    Ok(())
}

/// The body that an event is delivered as (Standard Webhooks: type, timestamp, data).
#[must_use]
pub fn payload(event: &bus::Event) -> String {
    let time = event.time.to_rfc3339_opts(SecondsFormat::Millis, true);
    let tenant = event.tenant.to_string();
    json!({"type": event.kind, "timestamp": time, "tenant": tenant, "subject": event.subject, "data": event.data})
        .to_string()
}

/// Adds an attempt to a log.
#[must_use]
pub fn logged(mut log: Vec<Attempt>, attempt: Attempt) -> Value {
    log.push(attempt);
    let newest = log.split_off(log.len().saturating_sub(LOG_MAX));
    serde_json::to_value(newest).expect("attempts are plain data")
}

/// What follows from an attempt, the `attempts`-th. `random` is from 0 to 1.
#[must_use]
pub fn judge(attempt: &Attempt, attempts: i32, failing_since: Option<DateTime<Utc>>, random: f64) -> Verdict {
    if (200..300).contains(&attempt.status) {
        return Verdict { state: Progress::Delivered, next_at: None, failing_since: None, switch_off: false };
    }
    let since = failing_since.unwrap_or(attempt.at);
    let switch_off = attempt.status == GONE || attempt.at - since >= FAILING_MAX;
    let pause = usize::try_from(attempts - 1).ok().and_then(|done| PAUSES_S.get(done));
    let next_at = pause.filter(|_| !switch_off).map(|seconds| {
        #[expect(clippy::cast_possible_truncation, reason = "a tenth of ten hours is a small number of milliseconds")]
        let jitter = TimeDelta::milliseconds((TimeDelta::seconds(*seconds).as_seconds_f64() * 100.0 * random) as i64);
        attempt.at + TimeDelta::seconds(*seconds) + jitter
    });
    let state = if next_at.is_some() { Progress::Pending } else { Progress::Failed };
    Verdict { state, next_at, failing_since: Some(since), switch_off }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(status: u16, after: TimeDelta) -> Attempt {
        Attempt { at: DateTime::UNIX_EPOCH + after, status, error: String::new(), duration_ms: 1 }
    }

    #[test]
    fn attempts_are_spread_over_a_day_and_more() {
        let mut pauses = Vec::new();
        for done in 1..=8 {
            let verdict = judge(&attempt(500, TimeDelta::zero()), done, None, 0.0);
            pauses.push(verdict.next_at.map(|at| (at - DateTime::UNIX_EPOCH).num_seconds()));
        }
        let expected = [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000].map(Some);
        assert_eq!((&pauses[..7], pauses[7]), (&expected[..], None));
        let late = judge(&attempt(0, TimeDelta::zero()), 2, None, 1.0).next_at;
        assert_eq!(late, Some(DateTime::UNIX_EPOCH + TimeDelta::seconds(330)));
    }

    #[test]
    fn an_endpoint_is_switched_off_when_it_is_gone_or_failed_for_days() {
        let good = judge(&attempt(204, TimeDelta::zero()), 3, Some(DateTime::UNIX_EPOCH), 0.0);
        assert_eq!((good.state, good.failing_since), (Progress::Delivered, None));
        let gone = judge(&attempt(410, TimeDelta::zero()), 1, None, 0.0);
        assert_eq!((gone.state, gone.switch_off), (Progress::Failed, true));
        let days = |days| judge(&attempt(503, TimeDelta::days(days)), 1, Some(DateTime::UNIX_EPOCH), 0.0).switch_off;
        assert_eq!((days(4), days(5)), (false, true));
    }

    #[test]
    fn types_may_end_with_a_star() {
        let types = ["shop.order.paid".to_owned(), "tenon.workflow.*".to_owned()];
        assert!(asks_for(&types, "shop.order.paid") && asks_for(&types, "tenon.workflow.run.failed.v1"));
        assert!(!asks_for(&types, "shop.order.paid.v2") && !asks_for(&types, "tenon.workflo"));
        assert!(check("https://a.test", &types, "").is_ok());
        assert!(check("https://a.test", &[], "").is_err() && check("https://a.test", &["a b".to_owned()], "").is_err());
    }

    #[test]
    fn the_log_keeps_the_newest() {
        let mut log = Vec::new();
        for second in 0..25 {
            log = serde_json::from_value(logged(log, attempt(500, TimeDelta::seconds(second)))).unwrap();
        }
        assert_eq!((log.len(), log[0].at), (20, DateTime::UNIX_EPOCH + TimeDelta::seconds(5)));
    }
}
