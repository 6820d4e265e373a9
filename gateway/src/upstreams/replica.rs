//! One address of an upstream: its connections, how fast it answers, and whether it is out for failing.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{connect::Connector, link::Sender, traced::Traced};
use crate::workers;

/// Time in which an old peak of latency loses two thirds of its weight.
const DECAY_S: f64 = 10.0;
/// Who failed lately weighs like an answer that takes this much longer: a fast refusal must not look like a fast service.
const FAILED_S: f64 = 1.0;
const LATELY: Duration = Duration::from_secs(10);
/// Consecutive failures that put a replica out.
pub(super) const FAILURES: u32 = 5;
/// The first time out; each next one in a row lasts as much longer.
const OUT: Duration = Duration::from_secs(10);
const MAX_OUT: Duration = Duration::from_secs(300);

pub(super) struct Replica {
    pub(super) address: SocketAddr,
    pub(super) connector: Arc<Connector>,
    /// Those of the first lane, then those of the next.
    slots: Box<[Slot]>,
    lanes: usize,
    next: AtomicUsize,
    in_flight: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    /// Seconds; 0 when nothing was measured yet.
    latency: f64,
    measured: Instant,
    /// Failures since the last success, and when the last one was.
    failures: u32,
    failed_at: Option<Instant>,
    /// Times out in a row.
    times_out: u32,
    out_until: Option<Instant>,
}

#[derive(Default)]
struct Slot {
    sender: Mutex<Option<Sender>>,
    /// Held while a connection is made, so that all who need it wait for the same one.
    connecting: tokio::sync::Mutex<()>,
    attempts: AtomicU64,
}

impl Replica {
    /// A replica to which the threads that serve have `connections` together, and every one of them one at least.
    pub(super) fn new(address: SocketAddr, connector: Arc<Connector>, connections: usize) -> Self {
        let state = State {
            latency: 0.0,
            measured: Instant::now(),
            failures: 0,
            failed_at: None,
            times_out: 0,
            out_until: None,
        };
        let lanes = connector.lanes();
        let each = connections.div_ceil((lanes - 1).max(1)).max(1);
        let slots = (0..each * lanes).map(|_| Slot::default()).collect();
        let (next, in_flight) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { address, connector, slots, lanes, next, in_flight, state: Mutex::new(state) }
    }

    /// A live connection of this thread's own, made if there is none.
    pub(super) async fn sender(&self) -> io::Result<Sender> {
        let (each, lane) = (self.slots.len() / self.lanes, workers::lane() % self.lanes);
        let turn = if each == 1 { 0 } else { self.next.fetch_add(1, Ordering::Relaxed) % each };
        let slot = &self.slots[lane * each + turn];
        if let Some(sender) = slot.open() {
            return Ok(sender);
        }
        let seen = slot.attempts.load(Ordering::Acquire);
        let _connecting = slot.connecting.lock().await;
        if let Some(sender) = slot.open() {
            return Ok(sender);
        }
        if slot.attempts.load(Ordering::Acquire) != seen {
            // Who waited for an attempt shares its failure: a crowd must not try one after the other.
            return Err(io::Error::from(io::ErrorKind::NotConnected));
        }
        // Rare and large: every call would carry the room for it.
        let made = Box::pin(self.connector.connect(self.address)).await;
        slot.attempts.fetch_add(1, Ordering::Release);
        let sender = made?;
        *slot.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        Ok(sender)
    }

    /// What a call would cost here: how long answers take, times how many wait for one.
    pub(super) fn cost(&self, now: Instant) -> f64 {
        let waiting = self.in_flight.load(Ordering::Relaxed);
        let state = self.state();
        let latency = state.decayed(now);
        // Calls are in flight and none has been answered yet: nobody knows, so others go first.
        let is_unknown = latency == 0.0 && waiting > 0;
        let has_failed = state.failed_at.is_some_and(|at| now.saturating_duration_since(at) < LATELY);
        let latency = if is_unknown || has_failed { latency + FAILED_S } else { latency };
        latency * (waiting + 1) as f64
    }

    pub(super) fn is_out(&self, now: Instant) -> bool {
        self.state().out_until.is_some_and(|until| now < until)
    }

    /// Counts a call until the guard is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> Flight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Flight { replica: self.clone(), started: Instant::now(), is_measured: false, traced: Traced::default() }
    }

    fn measure(&self, seconds: f64) {
        let now = Instant::now();
        let mut state = self.state();
        let decayed = state.decayed(now);
        let weight = (-now.duration_since(state.measured).as_secs_f64() / DECAY_S).exp();
        // A peak is believed at once; what is faster sinks in with time.
        state.latency = if seconds > decayed { seconds } else { decayed * weight + seconds * (1.0 - weight) };
        state.measured = now;
    }

    pub(super) fn succeeded(&self) {
        let mut state = self.state();
        (state.failures, state.failed_at) = (0, None);
        if state.out_until.take().is_some() {
            state.times_out = state.times_out.saturating_sub(1);
        }
    }

    /// The number of failures in a row, with this one.
    pub(super) fn failed(&self) -> u32 {
        let mut state = self.state();
        state.failures += 1;
        state.failed_at = Some(Instant::now());
        state.failures
    }

    /// Puts it out; how long for. When it is back one more failure is enough.
    pub(super) fn put_out(&self, now: Instant) -> Duration {
        let mut state = self.state();
        state.times_out += 1;
        state.failures = FAILURES - 1;
        let span = (OUT * state.times_out).min(MAX_OUT);
        state.out_until = Some(now + span);
        span
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn decayed(&self, now: Instant) -> f64 {
        self.latency * (-now.saturating_duration_since(self.measured).as_secs_f64() / DECAY_S).exp()
    }
}

impl Slot {
    fn open(&self) -> Option<Sender> {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if sender.as_mut()?.is_closed() {
            *sender = None;
        }
        sender.clone()
    }
}

/// A call in flight to a replica.
pub(super) struct Flight {
    pub(super) replica: Arc<Replica>,
    started: Instant,
    is_measured: bool,
    pub(super) traced: Traced,
}

impl Flight {
    /// The response has begun.
    pub(super) fn answered(&mut self) {
        self.is_measured = true;
        self.replica.measure(self.started.elapsed().as_secs_f64());
    }

    /// It failed, which says nothing of how fast it is.
    pub(super) fn failed(&mut self) {
        self.is_measured = true;
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
        // Given up on: it was at least this slow.
        if !self.is_measured {
            self.replica.measure(self.started.elapsed().as_secs_f64());
        }
    }
}
