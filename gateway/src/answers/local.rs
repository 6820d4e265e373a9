//! Answers in this process: bounded by number, bytes and age, the oldest forgotten first.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard},
};

use bytes::Bytes;
use tenon_chassis::Clock;

use super::{Hash, KEPT, Key, Known};

/// Answers that are kept at most.
const MAX_ANSWERS: usize = 10_000;
/// Bytes of all answers at most.
const MAX_BYTES: usize = 32 * 1024 * 1024;

pub(super) struct Local {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By key: the hash of the request, and the answer once there is one. What is in flight is bounded by how many
    /// requests the edge serves at a time.
    known: HashMap<Hash, (Hash, Option<Bytes>)>,
    /// The answers, oldest first, with the second that they are forgotten at.
    order: VecDeque<(i64, Hash)>,
    bytes: usize,
}

impl Local {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, state: Mutex::default() }
    }

    /// What is known under a key; if nothing is, it is taken.
    pub(super) fn claim(&self, key: Key) -> Known {
        let mut state = self.state();
        state.forget(self.clock.unix());
        match state.known.get(&key.id) {
            Some((request, _)) if *request != key.request => Known::Other,
            Some((_, Some(answer))) => Known::Answer(answer.clone()),
            Some((_, None)) => Known::InFlight,
            None => {
                state.known.insert(key.id, (key.request, None));
                Known::Nothing
            }
        }
    }

    pub(super) fn release(&self, key: Key) {
        self.state().known.remove(&key.id);
    }

    pub(super) fn keep(&self, key: Key, answer: Bytes) {
        let now = self.clock.unix();
        let until = now.saturating_add(i64::try_from(KEPT.as_secs()).unwrap_or(i64::MAX));
        let mut state = self.state();
        state.bytes += answer.len();
        state.known.insert(key.id, (key.request, Some(answer)));
        state.order.push_back((until, key.id));
        state.forget(now);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl State {
    fn forget(&mut self, now: i64) {
        while let Some((until, id)) = self.order.front().copied() {
            if until > now && self.order.len() <= MAX_ANSWERS && self.bytes <= MAX_BYTES {
                return;
            }
            self.order.pop_front();
            let gone = self.known.remove(&id).and_then(|(_, answer)| answer);
            self.bytes -= gone.map_or(0, |answer| answer.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(id: u8, request: u8) -> Key {
        Key { id: [id; 32], request: [request; 32] }
    }

    #[test]
    fn an_answer_is_known_for_a_day() {
        let clock = Clock::default();
        let local = Local::new(clock.clone());
        assert!(matches!(local.claim(key(1, 1)), Known::Nothing));
        assert!(matches!(local.claim(key(1, 1)), Known::InFlight));
        assert!(matches!(local.claim(key(1, 2)), Known::Other));
        local.release(key(1, 1));
        assert!(matches!(local.claim(key(1, 2)), Known::Nothing));
        local.keep(key(1, 2), Bytes::from_static(b"a"));
        assert!(matches!(local.claim(key(1, 2)), Known::Answer(answer) if answer == "a"));
        assert!(matches!(local.claim(key(1, 1)), Known::Other));
        clock.advance(Duration::from_secs(23 * 3_600));
        assert!(matches!(local.claim(key(1, 2)), Known::Answer(_)));
        clock.advance(Duration::from_secs(3_601));
        assert!(matches!(local.claim(key(1, 1)), Known::Nothing));
    }

    #[test]
    fn it_holds_no_more_than_it_may() {
        let local = Local::new(Clock::default());
        for id in 0..20 {
            assert!(matches!(local.claim(key(id, 0)), Known::Nothing));
            local.keep(key(id, 0), vec![0; 4 * 1024 * 1024].into());
        }
        let state = local.state();
        assert!(state.bytes <= MAX_BYTES && state.order.len() == 8 && state.known.len() == 8);
        assert!(state.known.contains_key(&[19; 32]));
    }
}
