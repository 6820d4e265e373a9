//! Runs that start at the times of cron expressions.

pub mod model;
mod rpc;
pub(crate) mod store;
mod ticker;

use std::sync::Arc;

use tenon_chassis::{Db, Mesh};
use tokio::sync::Notify;

use crate::starts::Starts;

/// Keeps schedules and starts their runs.
pub struct Schedules {
    db: Db,
    starts: Arc<Starts>,
    changed: Arc<Notify>,
}

impl Schedules {
    /// The service; `tick` is what starts the runs.
    #[must_use]
    pub fn new(db: Db, starts: Arc<Starts>) -> Self {
        Self { db, starts, changed: Arc::new(Notify::new()) }
    }

    /// Starts runs when they are due, until stopped. Any number of processes may: each time is one's.
    pub fn tick(&self, mesh: &Mesh) -> impl Future<Output = ()> + Send + 'static {
        ticker::run(mesh.clone(), self.db.clone(), self.starts.clone(), self.changed.clone())
    }
}
