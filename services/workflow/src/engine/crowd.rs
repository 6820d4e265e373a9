//! How many runs of a tenant are in memory, so that none has more than its plan allows.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
};

use tenon_chassis::TenantId;

/// Clones share one count: the engine takes runs into memory, and so does its lane of births.
#[derive(Debug, Clone, Default)]
pub(crate) struct Crowd(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    of: HashMap<TenantId, usize>,
    /// Tenants that were refused more, and how many they may have.
    full: HashMap<TenantId, usize>,
    /// Engines besides this one, each of which has an even share of the runs.
    others: usize,
}

impl Crowd {
    /// Counts anew; who has fewer than it may is not full any more.
    pub(super) fn count(&self, tenants: impl Iterator<Item = TenantId>) {
        let mut of: HashMap<TenantId, usize> = HashMap::new();
        for tenant in tenants {
            *of.entry(tenant).or_default() += 1;
        }
        let mut counts = self.counts();
        counts.full.retain(|tenant, most| of.get(tenant).is_some_and(|count| count >= most));
        counts.of = of;
    }

    /// Says how many engines there are.
    pub(super) fn share_among(&self, engines: usize) {
        self.counts().others = engines.saturating_sub(1);
    }

    /// Adds a run; false when its tenant has this engine's share of `most` already.
    pub(super) fn add(&self, tenant: TenantId, most: usize) -> bool {
        let has_room = self.has_room(tenant, 0, most);
        if has_room {
            self.grow(tenant);
        }
        has_room
    }

    /// Whether beside `more` runs there is room for one more.
    pub(super) fn has_room(&self, tenant: TenantId, more: usize, most: usize) -> bool {
        let mut counts = self.counts();
        // Rounded up: no tenant is shut out of an engine.
        let most = most.div_ceil(counts.others + 1);
        let count = counts.of.get(&tenant).copied().unwrap_or_default();
        if count >= most {
            counts.full.insert(tenant, most);
        }
        count.saturating_add(more) < most
    }

    /// Adds a run that is there.
    pub(super) fn grow(&self, tenant: TenantId) {
        *self.counts().of.entry(tenant).or_default() += 1;
    }

    /// Tenants that have as many as they may.
    pub(super) fn full(&self) -> HashSet<TenantId> {
        self.counts().full.keys().copied().collect()
    }

    /// Whether a tenant has as many as it may.
    pub(crate) fn is_full(&self, tenant: TenantId) -> bool {
        self.counts().full.contains_key(&tenant)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect("no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use tenon_chassis::Clock;

    use super::*;

    #[test]
    fn a_tenant_that_is_full_gets_room_when_its_runs_leave() {
        let [a, b] = [(); 2].map(|()| TenantId::new(&Clock::default()));
        let crowd = Crowd::default();
        assert_eq!([crowd.add(a, 2), crowd.add(a, 2), crowd.add(a, 2), crowd.add(b, 2)], [true, true, false, true]);
        assert!(crowd.is_full(a) && !crowd.is_full(b) && !crowd.has_room(b, 1, 2));
        crowd.count([a, a, b].into_iter());
        assert_eq!(crowd.full(), [a].into());
        crowd.count([a, b].into_iter());
        assert!(!crowd.is_full(a) && crowd.has_room(a, 0, 2));
    }

    #[test]
    fn engines_share_what_a_tenant_may_have() {
        let tenant = TenantId::new(&Clock::default());
        let crowd = Crowd::default();
        crowd.share_among(2);
        assert_eq!([(); 4].map(|()| crowd.add(tenant, 5)), [true, true, true, false]);
        crowd.share_among(1);
        assert_eq!([(); 3].map(|()| crowd.add(tenant, 5)), [true, true, false]);
    }
}
