//! Published versions in memory, ready to run: their machine and the rules of their envelope.

use std::sync::Arc;

use moka::sync::Cache;
use serde_json::Value;
use tenon_chassis::Fault;
use tonic::Code;
use uuid::Uuid;

use crate::{
    asl::{self, Machine},
    workflows::{envelope::Envelope, rules::Rules},
};

/// Versions in memory at most.
const TEMPLATES: u64 = 2_000;

/// A version, ready to run.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) machine: Arc<Machine>,
    pub(crate) rules: Rules,
}

/// Versions in memory. A version never changes, so that none is ever stale.
#[derive(Clone)]
pub struct Templates(Cache<(Uuid, String, i32), Arc<Template>>);

impl Default for Templates {
    fn default() -> Self {
        Self(Cache::new(TEMPLATES))
    }
}

impl Templates {
    pub(crate) fn get(&self, tenant: Uuid, workflow_id: &str, version: i32) -> Option<Arc<Template>> {
        self.0.get(&(tenant, workflow_id.to_owned(), version))
    }

    /// Reads a definition and its envelope, which were checked when they were published.
    ///
    /// # Errors
    /// INTERNAL when they do not pass any more.
    pub(crate) fn insert(
        &self,
        (tenant, workflow_id, version): (Uuid, &str, i32),
        (definition, envelope): (&Value, Value),
    ) -> Result<Arc<Template>, Fault> {
        let broken = |why: String| {
            tracing::error!(workflow.id = workflow_id, why, "a published workflow is not valid");
            Fault::new(Code::Internal, "INTERNAL", "the workflow cannot be run any more; publish it again")
        };
        // Resources were checked when it was published, and are again when they are called.
        let machine = asl::parse(definition, &|_, _| Vec::new()).map_err(|faults| broken(format!("{faults:?}")))?;
        let envelope: Envelope = serde_json::from_value(envelope).map_err(|why| broken(why.to_string()))?;
        let template = Arc::new(Template { machine: Arc::new(machine), rules: Rules::new(envelope)? });
        self.0.insert((tenant, workflow_id.to_owned(), version), template.clone());
        Ok(template)
    }
}

impl Template {
    /// How long a run may take, by the envelope.
    pub(crate) fn timeout_seconds(&self) -> Option<u32> {
        self.rules.envelope().run_timeout_s.and_then(|seconds| u32::try_from(seconds).ok())
    }

    /// How many events its history may have, by the envelope.
    pub(crate) fn history_events(&self) -> Option<u32> {
        u32::try_from(self.rules.envelope().limits.history_events).ok().filter(|events| *events > 0)
    }

    /// How many days a run is kept after its end, by the envelope.
    pub(crate) fn retention_days(&self) -> Option<i32> {
        Some(self.rules.envelope().retention_days).filter(|days| *days > 0)
    }
}
