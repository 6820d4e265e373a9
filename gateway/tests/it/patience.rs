//! How long a test waits for what is to happen: only one that fails waits that long, on however slow a machine.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What comes of something that is to end.
pub(crate) async fn ends<F: Future>(what: &str, ending: F) -> F::Output {
    let ended = tokio::time::timeout(PATIENCE, ending).await;
    ended.unwrap_or_else(|_| panic!("waited {} s in vain for: {what}", PATIENCE.as_secs()))
}

/// Looks again and again until something holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    ends(what, async {
        while !holds().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await;
}

/// Waits for a count, on whatever thread.
pub(crate) async fn reaches(what: &str, count: &AtomicUsize, enough: usize) {
    ends(what, async {
        while count.load(Ordering::SeqCst) < enough {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await;
}
