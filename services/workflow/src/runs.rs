//! Workflows at work, as their callers see them.

pub mod mail;
pub mod model;
pub(crate) mod rpc;
pub(crate) mod store;

use std::sync::Arc;

use tenon_chassis::Db;

use crate::engine::Waker;

/// Starts, shows and stops runs.
pub struct Runs {
    db: Db,
    partitions: i16,
    waker: Arc<Waker>,
}

impl Runs {
    /// New runs are spread over `partitions`; `waker` tells the engine of them.
    #[must_use]
    pub fn new(db: Db, partitions: i16, waker: Arc<Waker>) -> Self {
        Self { db, partitions, waker }
    }
}
