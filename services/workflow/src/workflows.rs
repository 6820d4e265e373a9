//! Published templates, of which a version never changes, and what surrounds them.

pub mod envelope;
pub mod model;
mod pb;
mod rpc;
pub mod rules;
pub(crate) mod store;

use std::sync::Arc;

use tenon_chassis::Db;
use tenon_proto::policy::Contract;

use crate::tasks::Foreign;

/// Publishes templates.
pub struct Workflows {
    db: Db,
    contract: Arc<Contract>,
    foreign: Foreign,
}

impl Workflows {
    #[must_use]
    pub fn new(db: Db, contract: Arc<Contract>, foreign: Foreign) -> Self {
        Self { db, contract, foreign }
    }
}

pub(crate) use pb::{overlap, overlap_of};
