//! Answers in Redis, where every edge finds them.

use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use redis::{Script, aio::ConnectionManager};
use tokio::time::timeout;

use super::{Hash, KEPT, Key, Known};

/// An answer that Redis does not give in this time is not waited for.
const CLAIM_TIMEOUT: Duration = Duration::from_millis(100);
/// Nobody but the client of this call waits for its answer to be stored.
const END_TIMEOUT: Duration = Duration::from_millis(500);
/// What a value begins with: a call that is being made, an answer.
const IN_FLIGHT: u8 = b'w';
const ANSWER: u8 = b'a';

/// Takes the key if nobody has it; else tells what is there.
const CLAIM: &str = r"
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return false end
return redis.call('GET', KEYS[1])";

/// Puts the answer in the place of the claim, or gives the key back; only if the claim is still there.
const END: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1";

pub(super) struct Shared {
    connection: ConnectionManager,
    claim: Script,
    end: Script,
    /// Of this process: a claim that ran out and was taken by another is not ended by us.
    me: [u8; 16],
}

impl Shared {
    pub(super) fn new(connection: ConnectionManager) -> Self {
        Self { connection, claim: Script::new(CLAIM), end: Script::new(END), me: rand::random() }
    }

    /// What is known under a key; if nothing is, it is taken. `None` when Redis does not answer.
    pub(super) async fn claim(&self, key: Key, lease: Duration) -> Option<Known> {
        let mut call = self.claim.key(name(&key.id));
        call.arg(self.claimed(key)).arg(millis(lease));
        let mut connection = self.connection.clone();
        let told = timeout(CLAIM_TIMEOUT, call.invoke_async::<Option<Vec<u8>>>(&mut connection)).await;
        let Ok(Ok(told)) = told else { return gone() };
        let Some(found) = told else { return Some(Known::Nothing) };
        let found = Bytes::from(found);
        Some(match (found.first(), found.get(1..33)) {
            (Some(_), Some(request)) if request != key.request => Known::Other,
            (Some(&ANSWER), Some(_)) => Known::Answer(found.slice(33..)),
            _ => Known::InFlight,
        })
    }

    /// Stores the answer, or gives the key back. Whether that was done.
    pub(super) async fn end(&self, key: Key, answer: Option<&Bytes>) -> bool {
        let mut call = self.end.key(name(&key.id));
        let value = answer.map(|answer| [&[ANSWER][..], &key.request, answer].concat()).unwrap_or_default();
        call.arg(self.claimed(key)).arg(value).arg(millis(KEPT));
        let mut connection = self.connection.clone();
        let done = timeout(END_TIMEOUT, call.invoke_async::<i64>(&mut connection)).await;
        matches!(done, Ok(Ok(1))) || gone().is_some()
    }

    fn claimed(&self, key: Key) -> Vec<u8> {
        [&[IN_FLIGHT][..], &key.request, &self.me].concat()
    }
}

fn gone() -> Option<Known> {
    metrics::counter!("tenon_edge_answers_unshared_total").increment(1);
    None
}

fn name(id: &Hash) -> String {
    let mut name = "tenon:answer:".to_owned();
    for byte in id {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1)
}
