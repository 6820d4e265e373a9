//! What was used of services that don't count themselves: an event for each call that succeeds, for whoever bills.

use chrono::{DateTime, Utc};
use tenon_chassis::{Caller, Clock, TenantId, id};
use tokio::sync::mpsc;

/// Events that wait to be taken; beyond, they are dropped, counted and logged.
const QUEUE: usize = 65_536;

/// One call of a method with a `meter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    pub tenant: TenantId,
    /// Its own, so that sending it twice counts once. It is none of the client's making: who chooses his request ids could
    /// else be counted once for all his calls.
    pub id: String,
    pub meter: String,
    pub at: DateTime<Utc>,
}

/// Where events go.
#[derive(Clone)]
pub(crate) struct Meter {
    queue: mpsc::Sender<Used>,
    clock: Clock,
}

/// A call that counts if it succeeds.
pub(crate) struct UseOf {
    meter: Meter,
    tenant: TenantId,
    name: String,
}

impl Meter {
    pub(crate) fn new(clock: Clock) -> (Self, mpsc::Receiver<Used>) {
        let (queue, taken) = mpsc::channel(QUEUE);
        (Self { queue, clock }, taken)
    }

    /// What is to be counted of a call, if its method has a meter.
    pub(crate) fn of(&self, caller: &Caller) -> Option<UseOf> {
        let (name, tenant) = (caller.method.meter.clone()?, caller.tenant_id?);
        Some(UseOf { meter: self.clone(), tenant, name })
    }
}

impl UseOf {
    /// Counts it. Never waits.
    pub(crate) fn count(self) {
        let Meter { queue, clock } = self.meter;
        let id = format!("edge/{}", id::uuid_v7(&clock).simple());
        let used = Used { tenant: self.tenant, id, meter: self.name, at: clock.now() };
        if queue.try_send(used).is_err() {
            dropped(1, "queue_full");
        }
    }
}

/// Says that events are lost, for their number and their reason.
pub fn dropped(events: usize, reason: &'static str) {
    let counter = metrics::counter!("tenon_edge_usage_dropped_total", "reason" => reason);
    counter.increment(u64::try_from(events).unwrap_or(u64::MAX));
    tracing::error!(events, reason, "usage of upstreams is lost and will not be billed");
}
