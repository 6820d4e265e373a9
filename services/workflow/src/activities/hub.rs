//! Who waits for tasks, and who is woken: one look into the database for all workers of this process, when there may be
//! something.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tenon_chassis::{TenantId, id, pulse::Beat, telemetry};
use tokio::{
    sync::{Notify, broadcast},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Activities,
    presence::{Presence, Queue},
    store,
};
use crate::{engine::TASKS, error::Error};

/// How often leases are judged, and what a lost beat costs at most.
const TICK: Duration = Duration::from_secs(1);
/// Two looks are so far apart at least: what came meanwhile is found by one.
const APART: Duration = Duration::from_millis(2);
/// Streams of one tenant in this process.
const STREAMS_MAX: usize = 100;
/// How long a worker that calls counts as connected, and how many queues are remembered for calls.
const CALLED: Duration = Duration::from_secs(30);
const CALLED_MAX: usize = 10_000;

/// What streams of one tenant take tasks of, by their numbers.
type Streams = HashMap<u64, Arc<[String]>>;

/// Streams, and those of them that wait.
#[derive(Default)]
pub(super) struct Hub {
    streams: Mutex<HashMap<TenantId, Streams>>,
    /// Queues that were asked for by calls.
    called: Mutex<HashMap<Queue, Instant>>,
    /// A worker has come.
    arrived: Notify,
    waiting: Mutex<HashMap<u64, Waiting>>,
    next: AtomicU64,
    hungry: Notify,
}

struct Waiting {
    tenant: TenantId,
    queues: Arc<[String]>,
    credits: usize,
    seat: Arc<Seat>,
}

/// Where a stream is told which of its queues have something.
#[derive(Default)]
struct Seat {
    ready: Mutex<BTreeSet<String>>,
    woken: Notify,
}

/// A stream's place in the hub, until it is dropped.
pub(super) struct Place {
    activities: Activities,
    id: u64,
    tenant: TenantId,
    queues: Arc<[String]>,
    seat: Arc<Seat>,
}

impl Place {
    /// # Errors
    /// TOO_MANY_STREAMS.
    pub(super) fn take(activities: &Activities, tenant: TenantId, queues: Vec<String>) -> Result<Self, Error> {
        let hub = &activities.0.hub;
        let mut streams = hub.streams.lock().expect("no holder panics");
        let own = streams.entry(tenant).or_default();
        if own.len() >= STREAMS_MAX {
            return Err(Error::TooManyStreams);
        }
        let (id, queues) = (hub.next.fetch_add(1, Ordering::Relaxed), Arc::<[String]>::from(queues));
        own.insert(id, queues.clone());
        hub.arrived.notify_one();
        Ok(Self { activities: activities.clone(), id, tenant, queues, seat: Arc::default() })
    }

    /// Waits for tasks, with so many credits; `ready` tells.
    pub(super) fn wait(&self, credits: usize) {
        let (queues, seat) = (self.queues.clone(), self.seat.clone());
        let hub = &self.activities.0.hub;
        let waiting = Waiting { tenant: self.tenant, queues, credits, seat };
        hub.waiting.lock().expect("no holder panics").insert(self.id, waiting);
        hub.hungry.notify_one();
    }

    /// The queues that have something; the stream waits no more.
    pub(super) async fn ready(&self) -> BTreeSet<String> {
        loop {
            let ready = std::mem::take(&mut *self.seat.ready.lock().expect("no holder panics"));
            if !ready.is_empty() {
                return ready;
            }
            self.seat.woken.notified().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let hub = &self.activities.0.hub;
        hub.waiting.lock().expect("no holder panics").remove(&self.id);
        let mut streams = hub.streams.lock().expect("no holder panics");
        if let Some(own) = streams.get_mut(&self.tenant) {
            own.remove(&self.id);
            if own.is_empty() {
                streams.remove(&self.tenant);
            }
        }
    }
}

impl Hub {
    fn has_streams(&self) -> bool {
        !self.streams.lock().expect("no holder panics").is_empty()
    }

    /// Remembers that a call has asked for tasks of these queues.
    pub(super) fn called(&self, tenant: TenantId, queues: &[String]) {
        let mut called = self.called.lock().expect("no holder panics");
        for queue in queues {
            let is_new = !called.contains_key(&(tenant, queue.clone()));
            if is_new && called.len() >= CALLED_MAX {
                continue;
            }
            called.insert((tenant, queue.clone()), Instant::now());
            if is_new {
                self.arrived.notify_one();
            }
        }
    }

    /// The queues that have workers here: streams, or calls of the last half minute.
    fn here(&self, now: Instant) -> BTreeSet<Queue> {
        let mut called = self.called.lock().expect("no holder panics");
        called.retain(|_, at| now - *at < CALLED);
        let streams = self.streams.lock().expect("no holder panics");
        let own = streams.iter().flat_map(|(tenant, own)| own.values().map(move |queues| (tenant, queues)));
        let subscribed = own.flat_map(|(tenant, queues)| queues.iter().map(|queue| (*tenant, queue.clone())));
        subscribed.chain(called.keys().cloned()).collect()
    }

    /// The queues that somebody waits for.
    fn asked(&self) -> Vec<Queue> {
        let waiting = self.waiting.lock().expect("no holder panics");
        let pairs = waiting.values().flat_map(|one| one.queues.iter().map(|queue| (one.tenant, queue.clone())));
        pairs.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Wakes as many as the open tasks of a queue are work for.
    fn wake(&self, (tenant, queue): &(TenantId, String), open: i64) {
        let mut open = usize::try_from(open).unwrap_or_default();
        let mut waiting = self.waiting.lock().expect("no holder panics");
        let ids: Vec<u64> = waiting
            .iter()
            .filter(|(_, one)| one.tenant == *tenant && one.queues.contains(queue))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if open == 0 {
                return;
            }
            let Some(one) = waiting.remove(&id) else { continue };
            open = open.saturating_sub(one.credits);
            one.seat.ready.lock().expect("no holder panics").insert(queue.clone());
            one.seat.woken.notify_one();
        }
    }
}

impl Activities {
    /// Wakes workers and ends claims that ran out, until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut beats = self.0.db.pulse().subscribe();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut presence) = (Instant::now(), Presence::new(id::uuid_v7(self.0.db.clock())));
        while !stop.is_cancelled() {
            let (mut ticked, mut arrived) = (false, false);
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => ticked = true,
                () = self.0.hub.arrived.notified() => arrived = true,
                () = self.0.hub.hungry.notified() => {}
                () = self.0.waker.opening() => {}
                () = beaten(&mut beats) => {}
            }
            tokio::time::sleep_until(last + APART).await;
            last = Instant::now();
            if let Err(error) = self.look(ticked).instrument(telemetry::quiet()).await {
                tracing::warn!(%error, "workers were not woken; they are with the next look");
            }
            if ticked || arrived {
                let here = self.0.hub.here(last);
                if let Err(error) = presence.tell(&self.0.db, last, &here).instrument(telemetry::quiet()).await {
                    tracing::warn!(%error, "it was not told which queues have workers; it is with the next look");
                }
            }
        }
        // What this fails to take back ends with its lease.
        let _ = presence.tell(&self.0.db, last, &BTreeSet::new()).instrument(telemetry::quiet()).await;
    }

    async fn look(&self, judges: bool) -> Result<(), Error> {
        // Nobody takes what is not asked for: a process without workers leaves leases to others.
        if judges && self.0.hub.has_streams() {
            let mut tx = self.0.db.system().await?;
            let failed = store::delete_abandoned(&mut tx).await?;
            store::reopen(&mut tx).await?;
            tx.commit().await?;
            if failed > 0 {
                self.0.waker.wake();
            }
        }
        let asked = self.0.hub.asked();
        if asked.is_empty() {
            return Ok(());
        }
        let mut tx = self.0.db.system().await?;
        let ready = store::list_ready(&mut tx, &asked).await?;
        tx.commit().await?;
        for (queue, open) in ready {
            self.0.hub.wake(&queue, open);
        }
        Ok(())
    }
}

/// Returns when tasks were opened by another process, and when that may have been missed.
async fn beaten(beats: &mut broadcast::Receiver<Beat>) {
    loop {
        match beats.recv().await {
            Ok(Beat::Notified { channel, .. }) if channel != TASKS => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
