//! The users of a tenant.

pub mod model;
mod rpc;
pub(crate) mod store;

use std::sync::Arc;

use tenon_chassis::Db;

use crate::{keys::Keys, password::Hasher};

/// Keeps the users of a tenant.
pub struct Users {
    db: Db,
    hasher: Arc<Hasher>,
    keys: Keys,
}

impl Users {
    #[must_use]
    pub fn new(db: Db, hasher: Arc<Hasher>, keys: Keys) -> Self {
        Self { db, hasher, keys }
    }
}
