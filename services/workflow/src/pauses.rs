//! What a tenant holds back: a workflow, or everything.

pub mod model;
mod rpc;
pub(crate) mod store;

use std::sync::Arc;

use tenon_chassis::Db;

use crate::engine::Waker;

/// Pauses workflows and tenants.
pub struct Pauses {
    db: Db,
    waker: Arc<Waker>,
}

impl Pauses {
    #[must_use]
    pub fn new(db: Db, waker: Arc<Waker>) -> Self {
        Self { db, waker }
    }
}
