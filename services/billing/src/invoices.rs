//! What a period costs.

pub mod model;
mod rpc;

use tenon_chassis::Db;

/// Works out what a tenant owes.
pub struct Invoices {
    db: Db,
}

impl Invoices {
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}
