//! Hooks: requests from outside that start runs or signal them.

pub mod model;
pub(crate) mod rpc;
pub mod signature;
pub(crate) mod store;

use std::sync::Arc;

use tenon_chassis::{Db, Mesh};

use crate::starts::Starts;

/// Keeps hooks and takes deliveries.
pub struct Hooks {
    mesh: Mesh,
    db: Db,
    starts: Arc<Starts>,
}

impl Hooks {
    #[must_use]
    pub fn new(mesh: Mesh, db: Db, starts: Arc<Starts>) -> Self {
        Self { mesh, db, starts }
    }
}
