//! How processes share limits: each tells Redis what it allowed, ten times a second, and learns what all allowed together.
//! No call waits for it.
//!
//! With E processes a key gets at most `burst + rate x T + (E - 1) x (burst + rate x D)` calls through in a span of T, where
//! D is the time between two rounds. What was allowed too much is paid back: all refuse until the rate has caught up.

use std::{sync::Arc, time::Duration};

use redis::{RedisError, Script, aio::ConnectionManager};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::Limiter;

/// The time between two rounds.
const EVERY: Duration = Duration::from_millis(100);
/// A round that takes longer is given up; what it told is lost to the others.
const ROUND_TIMEOUT: Duration = Duration::from_secs(1);
/// Keys of one script: Redis does nothing else meanwhile.
const CHUNK: usize = 256;

/// Moves each key's theoretical arrival time by what was allowed, on Redis' own clock, and tells how far ahead it is, in
/// microseconds.
const GCRA: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local all = {}
for at, key in ipairs(KEYS) do
  local ahead = math.max(tonumber(redis.call('GET', key) or now), now) + tonumber(ARGV[at]) - now
  redis.call('SET', key, string.format('%.0f', now + ahead), 'PX', math.ceil(ahead / 1000) + 1)
  all[at] = ahead
end
return all";

/// Shares a limiter's keys with other processes until stopped. While Redis is gone each decides alone.
pub(crate) async fn share(limiter: Arc<Limiter>, mut redis: ConnectionManager, stop: CancellationToken) {
    let script = Script::new(GCRA);
    let mut rounds = interval(EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_told = true;
    while !stop.is_cancelled() {
        // The last round is the one after the stop.
        let _ = stop.run_until_cancelled(rounds.tick()).await;
        let untold = limiter.untold();
        let mut all_told = true;
        for chunk in untold.chunks(CHUNK) {
            all_told = matches!(timeout(ROUND_TIMEOUT, round(&limiter, &script, &mut redis, chunk)).await, Ok(Ok(())));
            if !all_told {
                // The others would not be told in time either.
                break;
            }
        }
        if !all_told {
            metrics::counter!("tenon_limiter_fallbacks_total").increment(1);
        }
        match (is_told, all_told) {
            (true, false) => tracing::warn!("limits are not shared: Redis does not answer"),
            (false, true) if !untold.is_empty() => tracing::info!("limits are shared again"),
            _ => {}
        }
        is_told = if untold.is_empty() { is_told } else { all_told };
    }
}

async fn round(
    limiter: &Limiter,
    script: &Script,
    redis: &mut ConnectionManager,
    chunk: &[(String, i64)],
) -> Result<(), RedisError> {
    let mut call = script.prepare_invoke();
    for (key, spent) in chunk {
        call.key(format!("tenon:limit:{key}")).arg(spent);
    }
    let ahead: Vec<i64> = call.invoke_async(redis).await?;
    for ((key, _), ahead) in chunk.iter().zip(ahead) {
        limiter.learn(key, ahead);
    }
    Ok(())
}
