//! How many calls may be sent again: a part of what was sent lately, so that a failing service is not buried.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::dial::Retries;

/// Seconds that are looked back on.
const WINDOW_S: u64 = 10;

/// The retry budget of one upstream.
pub(super) struct Budget {
    retries: Retries,
    started: Instant,
    window: Mutex<[Second; WINDOW_S as usize]>,
}

#[derive(Clone, Copy, Default)]
struct Second {
    at: u64,
    calls: u64,
    repeats: u64,
}

impl Budget {
    pub(super) fn new(retries: Retries) -> Self {
        let window = [Second::default(); WINDOW_S as usize];
        Self { retries, started: Instant::now(), window: Mutex::new(window) }
    }

    /// Counts a call.
    pub(super) fn deposit(&self) {
        self.with(|now, _| now.calls += 1);
    }

    /// Whether one more call may be repeated; it is counted.
    pub(super) fn withdraw(&self) -> bool {
        self.with(|now, (calls, repeats)| {
            let floor = f64::from(self.retries.min_per_s) * WINDOW_S as f64;
            let allowed = (repeats as f64) < calls as f64 * self.retries.ratio + floor;
            now.repeats += u64::from(allowed);
            allowed
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Second, (u64, u64)) -> T) -> T {
        // One ahead, so that no second is 0: that is one that never was.
        let at = self.started.elapsed().as_secs() + 1;
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = usize::try_from(at % WINDOW_S).expect("less than ten");
        if window[slot].at != at {
            window[slot] = Second { at, calls: 0, repeats: 0 };
        }
        let recent = window.iter().filter(|second| second.at + WINDOW_S > at);
        let sums = recent.fold((0, 0), |(calls, repeats), second| (calls + second.calls, repeats + second.repeats));
        act(&mut window[slot], sums)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fifth_of_the_calls_and_ten_a_second_may_be_repeated() {
        let budget = Budget::new(Retries::default());
        let granted = || (0..10_000).filter(|_| budget.withdraw()).count();
        assert_eq!(granted(), 100);
        (0..1_000).for_each(|_| budget.deposit());
        assert_eq!(granted(), 200);
        tokio::time::advance(Duration::from_secs(WINDOW_S)).await;
        assert_eq!(granted(), 100, "what is long ago counts no more");
    }
}
