//! What a tenant has used, counted exactly once: by call, and from the bus.

mod consumer;
pub mod model;
mod rpc;
pub(crate) mod store;

use tenon_chassis::Db;

pub(crate) use consumer::consumer;

/// Takes usage in and tells what was used.
pub struct Usage {
    db: Db,
}

impl Usage {
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}
