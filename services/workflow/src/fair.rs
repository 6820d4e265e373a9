//! Fair shares between tenants: deficit round robin over queues, and permits that are handed on by it, so that one tenant's
//! thousands wait behind each other and not before another tenant's one.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use tenon_chassis::TenantId;
use tokio::sync::oneshot;

/// What a tenant's plan names its share.
const WEIGHT: &str = "workflow.weight";
/// Shares at most.
const WEIGHT_MAX: i64 = 100;

/// The share of a tenant, from the limits of its plan; 1 when they do not say.
#[must_use]
pub fn weight(tenant: Option<&tenon_chassis::directory::Tenant>) -> u32 {
    let limit = tenant.and_then(|tenant| tenant.limits.get(WEIGHT)).copied().unwrap_or(1);
    u32::try_from(limit.clamp(1, WEIGHT_MAX)).unwrap_or(1)
}

/// What a plan names the runs of a tenant that are at work at once.
const ACTIVE_RUNS: &str = "workflow.active_runs";

/// Runs of a tenant in memory at most, from the limits of its plan; `default` when they do not say.
#[must_use]
pub fn active_runs(tenant: Option<&tenon_chassis::directory::Tenant>, default: u32) -> usize {
    let limit = tenant.and_then(|tenant| tenant.limits.get(ACTIVE_RUNS)).copied().unwrap_or(default.into());
    usize::try_from(limit.max(1)).unwrap_or(usize::MAX)
}

/// Things that wait, by tenant. Each costs the same, so that a deficit is a number of things.
#[derive(Debug)]
pub(crate) struct Fair<T> {
    lanes: HashMap<TenantId, Lane<T>>,
    /// Tenants with something in their lane, in turn.
    turns: VecDeque<TenantId>,
    length: usize,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<T>,
    weight: u32,
    /// What is left of this turn.
    credit: u32,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), turns: VecDeque::new(), length: 0 }
    }
}

impl<T> Fair<T> {
    pub(crate) fn push(&mut self, tenant: TenantId, weight: u32, thing: T) {
        let lane = self.lanes.entry(tenant).or_insert_with(|| {
            self.turns.push_back(tenant);
            Lane { waiting: VecDeque::new(), weight, credit: weight }
        });
        lane.weight = weight;
        lane.waiting.push_back(thing);
        self.length += 1;
    }

    /// The next thing: as many of a tenant's in a row as its weight, then the next tenant's.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let tenant = *self.turns.front()?;
        let lane = self.lanes.get_mut(&tenant)?;
        let thing = lane.waiting.pop_front()?;
        self.length -= 1;
        lane.credit = lane.credit.saturating_sub(1);
        if lane.waiting.is_empty() {
            self.lanes.remove(&tenant);
            self.turns.pop_front();
        } else if lane.credit == 0 {
            lane.credit = lane.weight;
            self.turns.rotate_left(1);
        }
        Some(thing)
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn len_of(&self, tenant: TenantId) -> usize {
        self.lanes.get(&tenant).map_or(0, |lane| lane.waiting.len())
    }
}

/// A bounded number of permits.
#[derive(Debug, Clone)]
pub struct Permits(Arc<Mutex<Desk>>);

#[derive(Debug)]
struct Desk {
    free: usize,
    waiting: Fair<oneshot::Sender<Permit>>,
}

/// A permit; it goes to the next when it is dropped.
#[derive(Debug)]
pub struct Permit(Option<Permits>);

impl Permits {
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(Desk { free: count, waiting: Fair::default() })))
    }

    /// Waits for a permit. Whoever is dropped while waiting gives up its place.
    pub async fn acquire(&self, tenant: TenantId, weight: u32) -> Permit {
        loop {
            let place = {
                let mut desk = self.0.lock().expect("no holder panics");
                if desk.free > 0 {
                    desk.free -= 1;
                    return Permit(Some(self.clone()));
                }
                let (sender, place) = oneshot::channel();
                desk.waiting.push(tenant, weight, sender);
                place
            };
            if let Ok(permit) = place.await {
                return permit;
            }
        }
    }

    fn release(&self) {
        let mut desk = self.0.lock().expect("no holder panics");
        while let Some(next) = desk.waiting.pop() {
            // One that has gone away hands its permit back here, and not through drop, which would wait for the lock.
            match next.send(Permit(Some(self.clone()))) {
                Ok(()) => return,
                Err(mut permit) => drop(permit.0.take()),
            }
        }
        desk.free += 1;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(permits) = self.0.take() {
            permits.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use tenon_chassis::Clock;

    use super::*;

    #[test]
    fn one_tenants_thousands_do_not_stand_before_anothers_one() {
        let [a, b, c] = [(); 3].map(|()| TenantId::new(&Clock::default()));
        let mut fair = Fair::default();
        for number in 0..1_000 {
            fair.push(a, 1, ("a", number));
        }
        fair.push(b, 1, ("b", 0));
        for number in 0..6 {
            fair.push(c, 2, ("c", number));
        }
        assert_eq!((fair.len(), fair.len_of(a), fair.len_of(b)), (1_007, 1_000, 1));
        let first: Vec<_> = std::iter::from_fn(|| fair.pop()).take(8).collect();
        let expected = [("a", 0), ("b", 0), ("c", 0), ("c", 1), ("a", 1), ("c", 2), ("c", 3), ("a", 2)];
        assert_eq!(first, expected);
        assert_eq!(std::iter::from_fn(|| fair.pop()).count(), 999);
        assert_eq!(fair.len(), 0);
    }

    #[tokio::test]
    async fn permits_are_handed_on_in_turns_and_never_lost() {
        let [a, b] = [(); 2].map(|()| TenantId::new(&Clock::default()));
        let permits = Permits::new(1);
        let held = permits.acquire(a, 1).await;
        let mut gone = Box::pin(permits.acquire(a, 1));
        assert!(futures_poll(&mut gone).await, "it waits");
        let mut second = Box::pin(permits.acquire(a, 1));
        assert!(futures_poll(&mut second).await, "it waits");
        let mut other = Box::pin(permits.acquire(b, 1));
        assert!(futures_poll(&mut other).await, "it waits");
        drop(gone);
        drop(held);
        let other = tokio::time::timeout(std::time::Duration::from_secs(5), other).await.expect("the other is next");
        drop(other);
        drop(second.await);
        drop(permits.acquire(b, 1).await);
    }

    /// Whether a future is not done yet.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> bool {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
        })
        .await
    }
}
