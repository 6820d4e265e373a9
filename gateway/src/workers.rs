//! The edge's own threads: a request begins and ends in the one that accepted its connection, and wakes no other.
//!
//! Each has a runtime of its own and its own connections to the services behind, so that nothing of a call crosses threads.

use std::{cell::Cell, num::NonZero, thread};

use tokio::{runtime::Builder, sync::oneshot};

thread_local! {
    static LANE: Cell<usize> = const { Cell::new(0) };
}

/// The number of this thread among those that serve, from 1; 0 is every other thread of the process.
pub(crate) fn lane() -> usize {
    LANE.get()
}

/// How many threads serve when nobody says: one a core.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Runs what `make` gives in each of `count` threads, and returns when all have ended.
pub(crate) async fn run<F>(count: usize, make: impl Fn() -> F)
where
    F: FnOnce() -> std::pin::Pin<Box<dyn Future<Output = ()>>> + Send + 'static,
{
    let mut ends = Vec::with_capacity(count);
    for lane in 1..=count {
        let (work, (ended, end)) = (make(), oneshot::channel::<()>());
        let thread = thread::Builder::new().name(format!("edge-{lane}"));
        let started = thread.spawn(move || {
            let _ended = ended;
            LANE.set(lane);
            match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(work()),
                Err(error) => tracing::error!(%error, "a thread of the edge has no runtime"),
            }
        });
        match started {
            Ok(_detached) => ends.push(end),
            Err(error) => tracing::error!(%error, "a thread of the edge cannot be started"),
        }
    }
    for end in ends {
        let _dropped = end.await;
    }
}
