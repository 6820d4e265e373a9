//! Endpoints outside that are told of events, and workflows that events start.

mod deliverer;
pub mod model;
mod rpc;
pub(crate) mod store;
mod subscribers;

use std::sync::Arc;

use tenon_chassis::{Db, Mesh, bus::Consumer};
use tokio::sync::Notify;

use crate::{config::Config, starts::Starts, tasks::Egress};

/// Keeps endpoints and delivers to them.
pub struct Endpoints {
    mesh: Mesh,
    db: Db,
    egress: Arc<Egress>,
    changed: Arc<Notify>,
    chain_max: u8,
}

impl Endpoints {
    #[must_use]
    pub fn new(mesh: Mesh, db: Db, config: &Config) -> Self {
        let egress = Arc::new(Egress::of(config));
        Self { mesh, db, egress, changed: Arc::new(Notify::new()), chain_max: config.workflow_event_chain }
    }

    /// Delivers what is due, until stopped. Any number of processes may: each attempt is one's.
    pub fn deliver(&self) -> impl Future<Output = ()> + Send + 'static {
        let (mesh, db) = (self.mesh.clone(), self.db.clone());
        deliverer::run(mesh, db, self.egress.clone(), self.changed.clone())
    }

    /// Puts events on their way to endpoints, and starts the runs that they trigger.
    #[must_use]
    pub fn consumer(&self, starts: Arc<Starts>) -> Consumer {
        subscribers::consumer((self.mesh.clone(), self.db.clone()), starts, self.changed.clone(), self.chain_max)
    }
}
