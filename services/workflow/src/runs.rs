//! Workflows at work, as their callers see them.

pub mod model;
mod rpc;
pub(crate) mod store;

use std::sync::Arc;

use serde_json::{Value, json};
use tenon_chassis::Db;

use crate::engine::Waker;

/// Starts, shows and stops runs.
pub struct Runs {
    db: Db,
    partitions: i16,
    waker: Arc<Waker>,
}

impl Runs {
    /// New runs are spread over `partitions`; `waker` tells the engine of them.
    #[must_use]
    pub fn new(db: Db, partitions: i16, waker: Arc<Waker>) -> Self {
        Self { db, partitions, waker }
    }
}

/// What the event of a new run tells.
pub(crate) fn created(run: &model::Run) -> Value {
    json!({
        "run": format!("runs/{}", run.id),
        "workflow": format!("workflows/{}", run.workflow_id),
        "version": run.version,
        "entityId": run.entity_id,
        "state": run.state.as_str(),
    })
}
