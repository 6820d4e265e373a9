//! Published templates, of which a version never changes.

pub mod model;
mod rpc;
pub(crate) mod store;

use std::sync::Arc;

use tenon_chassis::Db;
use tenon_proto::policy::Contract;

/// Publishes templates.
pub struct Workflows {
    db: Db,
    contract: Arc<Contract>,
}

impl Workflows {
    #[must_use]
    pub fn new(db: Db, contract: Arc<Contract>) -> Self {
        Self { db, contract }
    }
}
