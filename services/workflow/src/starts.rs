//! Runs that no CreateRun asked for: those of schedules, hooks and events.

use std::sync::Arc;

use serde_json::{Map, Value};
use tenon_chassis::{TenantId, TenantTx, telemetry};

use crate::{
    engine::{Waker, births::NotBorn},
    error::Error,
    hooks,
    runs::{
        mail::{self, Message},
        model::{self, Depth, NewRun, Run, RunId, Trigger},
        start::{Started, Starter},
    },
};

pub(crate) use crate::engine::births::Delivery;

/// The method whose rights a start takes.
pub(crate) const CREATE_RUN: &str = "/tenon.workflow.v1.RunService/CreateRun";
/// The meter of runs, as the policy of CreateRun names it.
const METER: &str = "workflow_runs";

/// Runs that one signal reaches.
const SIGNALLED_MAX: i64 = 100;

/// Starts runs inside of transactions.
pub struct Starts {
    starter: Starter,
    waker: Arc<Waker>,
}

/// A run that is asked for.
#[derive(Debug)]
pub struct Start {
    pub workflow_id: String,
    pub input: Value,
    pub created_by: String,
    pub roles: Vec<String>,
    /// What asks.
    pub trigger: Trigger,
    pub depth: Depth,
}

impl From<Start> for NewRun {
    fn from(start: Start) -> Self {
        Self {
            workflow_id: start.workflow_id,
            entity_id: String::new(),
            input: start.input,
            created_by: start.created_by,
            roles: start.roles,
            traceparent: telemetry::traceparent(),
            trigger: start.trigger,
            attributes: Map::new(),
            concurrency: None,
            idempotency_key: None,
            parent: None,
            depth: start.depth,
        }
    }
}

impl Starts {
    #[must_use]
    pub fn new(starter: Starter, waker: Arc<Waker>) -> Self {
        Self { starter, waker }
    }

    /// Starts a run of the latest version with its event and its usage; call `wake` once the transaction is committed.
    ///
    /// # Errors
    /// `WorkflowNotFound`, or what the rules of the workflow say of the input.
    pub async fn start(&self, tx: &mut TenantTx, run: impl Into<NewRun>) -> Result<RunId, Error> {
        match self.starter.start(tx, run.into()).await? {
            Started::New(run) => {
                tx.meter(METER, 1);
                Ok(run.id)
            }
            Started::Same(run) => Ok(run.id),
        }
    }

    /// Starts a run in this process, in one transaction with its event, its usage and the delivery that it answers.
    pub(crate) async fn start_here(
        &self,
        tenant: (TenantId, u32),
        run: NewRun,
        delivery: Delivery,
    ) -> Result<Run, NotBorn> {
        self.waker.start(tenant, run, Some(METER.to_owned()), Some(delivery)).await
    }

    /// Signals a run, `runs/run_...`, or all that are about something and have not ended; how many.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn signal(&self, tx: &mut TenantTx, run: &str, signal: &str, payload: &Value) -> Result<i32, Error> {
        let runs = match model::id_of(run) {
            Some(run) => vec![run],
            None => hooks::store::list_runs_about(tx, run, SIGNALLED_MAX).await?.into_iter().map(RunId::from).collect(),
        };
        let message = Message::Signal { name: signal.to_owned(), payload: payload.clone() };
        let mut signalled = 0;
        for run in runs {
            signalled += i32::from(mail::send(tx, run, &message).await?);
        }
        Ok(signalled)
    }

    /// Tells the engine that there are runs.
    pub fn wake(&self) {
        self.waker.wake();
    }
}
