//! Runs that no CreateRun asked for: those of schedules, hooks and events.

use std::sync::Arc;

use serde_json::{Map, Value};
use tenon_chassis::{TenantTx, telemetry};

use crate::{
    engine::Waker,
    error::Error,
    hooks,
    runs::{
        mail::{self, Message},
        model::{self, NewRun, RunId, Trigger},
        start::{Started, Starter},
    },
};

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
    pub async fn start(&self, tx: &mut TenantTx, start: Start) -> Result<RunId, Error> {
        let run = NewRun {
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
        };
        match self.starter.start(tx, run).await? {
            Started::New(run) => {
                tx.meter(METER, 1);
                Ok(run.id)
            }
            Started::Same(run) => Ok(run.id),
        }
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
