//! Rate limits by GCRA (ITU-T I.371): decided in this process, at once; with Redis, several processes tell each other what
//! they allowed.

mod shared;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tenon_chassis::Clock;

pub(crate) use shared::share;

/// Locks are spread over this many shards.
const SHARDS: usize = 64;
/// Keys at most in one shard before spent ones are swept: about 20 MB over all shards.
const SHARD_KEYS: usize = 4_096;

/// How much is allowed: a sustained rate, and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub per_minute: u32,
    pub burst: u32,
}

/// What was decided about one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    /// Calls that would be allowed right now.
    pub(crate) remaining: u32,
    /// Until a refused call would be allowed; zero for an allowed one.
    pub(crate) retry_after: Duration,
    /// Until the whole burst is there again.
    pub(crate) reset_after: Duration,
}

/// Decides whether a key may go on.
pub(crate) struct Limiter {
    clock: Clock,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    is_shared: bool,
}

#[derive(Default)]
struct Shard {
    /// Theoretical arrival times, in microseconds.
    tats: HashMap<u64, i64>,
    /// What was allowed since others were told last: the key, and by how many microseconds its time moved.
    untold: HashMap<u64, (String, i64)>,
}

impl Limiter {
    /// One that is shared keeps what it allowed, for [`share`] to tell.
    #[must_use]
    pub(crate) fn new(clock: Clock, is_shared: bool) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { clock, hasher: RandomState::new(), shards, is_shared }
    }

    /// Takes one call of a key from its quota.
    pub(crate) fn check(&self, key: &str, quota: Quota) -> Decision {
        let hash = self.hasher.hash_one(key);
        let now = self.clock.now().timestamp_micros();
        let mut shard = self.shard(hash);
        if shard.tats.len() >= SHARD_KEYS {
            shard.tats.retain(|_, tat| *tat > now);
            if shard.tats.len() >= SHARD_KEYS {
                // A flood of keys: forgetting lets some calls through too many, remembering would take memory without bound.
                *shard = Shard::default();
            }
        }
        let tat = shard.tats.get(&hash).copied().unwrap_or(now).max(now);
        let (decision, next) = decide(tat, now, quota);
        if decision.allowed {
            shard.tats.insert(hash, next);
            if self.is_shared {
                shard.untold.entry(hash).or_insert_with(|| (key.to_owned(), 0)).1 += next - tat;
            }
        }
        decision
    }

    /// What was allowed since this was asked last.
    fn untold(&self) -> Vec<(String, i64)> {
        let drain = |shard: &Mutex<Shard>| std::mem::take(&mut lock(shard).untold).into_values();
        self.shards.iter().flat_map(drain).collect()
    }

    /// Takes over by how many microseconds all processes together are ahead of now.
    fn learn(&self, key: &str, ahead: i64) {
        let hash = self.hasher.hash_one(key);
        let now = self.clock.now().timestamp_micros();
        let mut shard = self.shard(hash);
        let untold = shard.untold.get(&hash).map_or(0, |(_, spent)| *spent);
        let all = now.saturating_add(ahead).saturating_add(untold);
        shard.tats.entry(hash).and_modify(|tat| *tat = all.max(*tat)).or_insert(all);
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or_default()])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().expect("no holder panics")
}

/// (microseconds between calls, microseconds that may be borrowed ahead). A million calls a second is the most.
fn micros(quota: Quota) -> (i64, i64) {
    let interval = (60_000_000 / i64::from(quota.per_minute.max(1))).max(1);
    (interval, interval * i64::from(quota.burst.max(1)))
}

/// `tat` is the theoretical arrival time, not before `now`; returns it as it is after an allowed call.
fn decide(tat: i64, now: i64, quota: Quota) -> (Decision, i64) {
    let (interval, tolerance) = micros(quota);
    let next = tat + interval;
    let allowed = next - now <= tolerance;
    let ahead = if allowed { next - now } else { tat - now };
    let span = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or_default());
    let remaining = u32::try_from((tolerance - ahead) / interval).unwrap_or_default();
    let retry_after = if allowed { Duration::ZERO } else { span(next - now - tolerance) };
    (Decision { allowed, remaining, retry_after, reset_after: span(ahead) }, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_spent_and_comes_back_at_the_rate() {
        let clock = Clock::standing();
        let limiter = Limiter::new(clock.clone(), false);
        let quota = Quota { per_minute: 60, burst: 3 };
        for left in [2, 1, 0] {
            let decision = limiter.check("a", quota);
            assert!(decision.allowed);
            assert_eq!(decision.remaining, left);
        }
        let refused = limiter.check("a", quota);
        assert_eq!((refused.allowed, refused.retry_after), (false, Duration::from_secs(1)));
        assert!(limiter.check("b", quota).allowed);
        clock.advance(Duration::from_millis(999));
        assert!(!limiter.check("a", quota).allowed);
        clock.advance(Duration::from_millis(1));
        assert!(limiter.check("a", quota).allowed);
        assert!(!limiter.check("a", quota).allowed);
    }

    #[test]
    fn any_numbers_are_a_quota() {
        let limiter = Limiter::new(Clock::default(), false);
        for number in [0, 1, u32::MAX] {
            let quota = Quota { per_minute: number, burst: number };
            assert!(limiter.check(&number.to_string(), quota).allowed);
        }
    }
    #[test]
    fn what_others_allowed_counts_and_is_paid_back() {
        let clock = Clock::standing();
        let [one, two] = [true, true].map(|shared| Limiter::new(clock.clone(), shared));
        let quota = Quota { per_minute: 60, burst: 3 };
        let spend = |limiter: &Limiter| (0..10).filter(|_| limiter.check("a", quota).allowed).count();
        // Each has a burst, since neither has told the other.
        assert_eq!((spend(&one), spend(&two)), (3, 3));
        let spent: i64 = [&one, &two].iter().flat_map(|limiter| limiter.untold()).map(|(_, spent)| spent).sum();
        assert_eq!(spent, 6_000_000);
        one.learn("a", spent);
        two.learn("a", spent);
        clock.advance(Duration::from_millis(3_900));
        assert_eq!((spend(&one), spend(&two)), (0, 0), "three too many are three seconds more");
        clock.advance(Duration::from_millis(200));
        assert_eq!((spend(&one), spend(&two)), (1, 1));
        // What is told late counts on top of what was allowed meanwhile.
        one.learn("a", 2_000_000);
        let refused = one.check("a", quota);
        assert!(!refused.allowed && refused.remaining == 0 && refused.retry_after >= Duration::from_secs(1));
    }
}
