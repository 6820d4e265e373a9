//! Workflows at work, as their callers see them.

pub mod explain;
pub mod mail;
pub mod model;
mod pb;
pub(crate) mod rpc;
pub mod start;
pub(crate) mod store;
pub(crate) mod template;
mod watch;

use std::sync::Arc;

use tenon_chassis::{Db, Mesh};

use crate::engine::Waker;
use start::Starter;

/// Starts, shows and stops runs.
pub struct Runs {
    mesh: Mesh,
    db: Db,
    starter: Starter,
    waker: Arc<Waker>,
}

impl Runs {
    /// `waker` tells the engine of runs.
    #[must_use]
    pub fn new(mesh: &Mesh, db: Db, starter: Starter, waker: Arc<Waker>) -> Self {
        Self { mesh: mesh.clone(), db, starter, waker }
    }
}
