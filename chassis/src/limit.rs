//! Rate limits by GCRA (ITU-T I.371): in this process, or shared by several through Redis.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Mutex,
    time::Duration,
};

use redis::{Script, aio::ConnectionManager};

use crate::Clock;

/// Locks are spread over this many shards.
const SHARDS: usize = 64;
/// Keys at most in one shard before spent ones are swept: about 20 MB over all shards.
const SHARD_KEYS: usize = 4_096;
/// A limit that Redis does not answer for in this time is decided here.
const REDIS_TIMEOUT: Duration = Duration::from_millis(25);

/// How much is allowed: a sustained rate, and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub per_minute: u32,
    pub burst: u32,
}

/// What was decided about one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// Calls that would be allowed right now.
    pub remaining: u32,
    /// Until a refused call would be allowed; zero for an allowed one.
    pub retry_after: Duration,
    /// Until the whole burst is there again.
    pub reset_after: Duration,
}

/// Decides whether a key may go on.
pub struct Limiter {
    clock: Clock,
    hasher: RandomState,
    shards: Vec<Mutex<HashMap<u64, i64>>>,
    redis: Option<(ConnectionManager, Script)>,
}

/// Why Redis cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("Redis at TENON_REDIS_URL cannot be used: {0}")]
pub struct ConnectError(#[from] redis::RedisError);

/// The same arithmetic as `decide`, on Redis' own clock. Returns the arrival time before and now, in microseconds.
const GCRA: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
if tat + interval - now <= tolerance then
  redis.call('SET', KEYS[1], string.format('%.0f', tat + interval), 'PX', math.ceil((tat + interval - now) / 1000) + 1)
end
return {string.format('%.0f', tat), string.format('%.0f', now)}";

impl Limiter {
    /// # Errors
    /// When Redis is configured and does not answer.
    pub async fn connect(redis_url: Option<&str>, clock: Clock) -> Result<Self, ConnectError> {
        let redis = match redis_url {
            Some(url) => Some((ConnectionManager::new(redis::Client::open(url)?).await?, Script::new(GCRA))),
            None => None,
        };
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Ok(Self { clock, hasher: RandomState::new(), shards, redis })
    }

    /// Takes one call of a key from its quota. Redis down or slow: this process decides alone, and no call fails.
    pub async fn check(&self, key: &str, quota: Quota) -> Decision {
        if let Some((connection, script)) = &self.redis {
            let (interval, tolerance) = micros(quota);
            let (mut connection, mut call) = (connection.clone(), script.key(format!("tenon:limit:{key}")));
            let call = call.arg(interval).arg(tolerance);
            let answer = tokio::time::timeout(REDIS_TIMEOUT, call.invoke_async::<(String, String)>(&mut connection));
            if let Ok(Ok((tat, now))) = answer.await
                && let (Ok(tat), Ok(now)) = (tat.parse(), now.parse())
            {
                return decide(tat, now, quota).0;
            }
            metrics::counter!("tenon_limiter_fallbacks_total").increment(1);
        }
        self.check_local(key, quota)
    }

    fn check_local(&self, key: &str, quota: Quota) -> Decision {
        let hash = self.hasher.hash_one(key);
        let now = self.clock.now().timestamp_micros();
        let shard = usize::try_from(hash % SHARDS as u64).unwrap_or_default();
        let mut shard = self.shards[shard].lock().expect("no holder panics");
        if shard.len() >= SHARD_KEYS {
            shard.retain(|_, tat| *tat > now);
            if shard.len() >= SHARD_KEYS {
                // A flood of keys: forgetting lets some calls through too many, remembering would take memory without bound.
                shard.clear();
            }
        }
        let tat = shard.get(&hash).copied().unwrap_or(now).max(now);
        let (decision, next) = decide(tat, now, quota);
        if decision.allowed {
            shard.insert(hash, next);
        }
        decision
    }
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

    #[tokio::test]
    async fn a_burst_is_spent_and_comes_back_at_the_rate() {
        let clock = Clock::default();
        let limiter = Limiter::connect(None, clock.clone()).await.unwrap();
        let quota = Quota { per_minute: 60, burst: 3 };
        for left in [2, 1, 0] {
            let decision = limiter.check("a", quota).await;
            assert!(decision.allowed);
            assert_eq!(decision.remaining, left);
        }
        let refused = limiter.check("a", quota).await;
        assert!(!refused.allowed && refused.retry_after > Duration::from_millis(900));
        assert!(limiter.check("b", quota).await.allowed);
        clock.advance(Duration::from_millis(1_000));
        assert!(limiter.check("a", quota).await.allowed);
        assert!(!limiter.check("a", quota).await.allowed);
    }

    #[tokio::test]
    async fn any_numbers_are_a_quota() {
        let limiter = Limiter::connect(None, Clock::default()).await.unwrap();
        for number in [0, 1, u32::MAX] {
            let quota = Quota { per_minute: number, burst: number };
            assert!(limiter.check(&number.to_string(), quota).await.allowed);
        }
    }
}
