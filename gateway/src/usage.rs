//! What was used of services that don't count themselves: an event for each call that succeeds, for whoever bills.
//!
//! The answer of such a call is held until its event is kept, so that an edge that is killed has acknowledged nothing that
//! is not billed. It is not held for ever: billing may be away.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tenon_chassis::{Caller, Clock, TenantId, id};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

/// Events that wait to be taken; beyond, they are dropped, counted and logged.
const QUEUE: usize = 65_536;

/// One call of a method with a `meter`. Its answer is held until this is dropped, or has been held long enough.
#[derive(Debug)]
pub struct Used {
    pub tenant: TenantId,
    /// Its own, so that sending it twice counts once. It is none of the client's making: who chooses his request ids could
    /// else be counted once for all his calls.
    pub id: String,
    pub meter: String,
    pub at: DateTime<Utc>,
    _answer: oneshot::Sender<()>,
}

/// Where events go.
#[derive(Clone)]
pub(crate) struct Meter {
    queue: mpsc::Sender<Used>,
    clock: Clock,
    /// How long an answer is held at most.
    hold: Duration,
}

/// A call that counts if it succeeds.
pub(crate) struct UseOf {
    meter: Meter,
    tenant: TenantId,
    name: String,
}

impl Meter {
    pub(crate) fn new(clock: Clock, hold: Duration) -> (Self, mpsc::Receiver<Used>) {
        let (queue, taken) = mpsc::channel(QUEUE);
        (Self { queue, clock, hold }, taken)
    }

    /// What is to be counted of a call, if its method has a meter.
    pub(crate) fn of(&self, caller: &Caller) -> Option<UseOf> {
        let (name, tenant) = (caller.method.meter.clone()?, caller.tenant_id?);
        Some(UseOf { meter: self.clone(), tenant, name })
    }
}

impl UseOf {
    /// Counts it at once. What comes back is ready when whoever bills has it, or when the answer cannot be held longer; of
    /// a call that has little time left, half of that is left to the answer.
    pub(crate) fn count(self, deadline: Option<Instant>) -> impl Future<Output = ()> + Send + 'static {
        let Meter { queue, clock, hold } = self.meter;
        let (held, released) = oneshot::channel();
        let id = format!("edge/{}", id::uuid_v7(&clock).simple());
        let used = Used { tenant: self.tenant, id, meter: self.name, at: clock.now(), _answer: held };
        if queue.try_send(used).is_err() {
            dropped(1, "queue_full");
        }
        let half = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()) / 2);
        let wait = half.map_or(hold, |half| hold.min(half));
        async move {
            if !wait.is_zero() && timeout(wait, released).await.is_err() {
                metrics::counter!("tenon_edge_usage_late_total").increment(1);
            }
        }
    }
}

/// Says that events are lost, for their number and their reason.
pub fn dropped(events: usize, reason: &'static str) {
    let counter = metrics::counter!("tenon_edge_usage_dropped_total", "reason" => reason);
    counter.increment(u64::try_from(events).unwrap_or(u64::MAX));
    tracing::error!(events, reason, "usage of upstreams is lost and will not be billed");
}
