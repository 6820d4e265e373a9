//! The price list.

pub mod model;
mod rpc;
pub(crate) mod store;

use tenon_chassis::Db;

/// Shows the price list.
pub struct Plans {
    db: Db,
}

impl Plans {
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}
