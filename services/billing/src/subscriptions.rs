//! The plan that a tenant is on.

pub mod model;
mod rpc;
pub(crate) mod store;

use tenon_chassis::Db;

/// Keeps the one subscription of a tenant.
pub struct Subscriptions {
    db: Db,
}

impl Subscriptions {
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}
