//! What can go wrong in the workflow service, and how it leaves.

use tenon_chassis::{Fault, db};
use tonic::{Code, Status};

use crate::asl;

/// An error of the workflow service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no such workflow")]
    WorkflowNotFound,
    #[error("there is no such run")]
    RunNotFound,
    #[error("more runs wait to be started than this engine takes; try again in a moment")]
    EngineBusy,
    #[error("the definition has {} faults", .0.len())]
    InvalidDefinition(Vec<asl::Fault>),
    #[error("a field is not as it must be")]
    Refused(#[from] Fault),
    #[error("database error")]
    Db(#[from] db::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

/// Faults that one answer names at most.
const FAULTS_MAX: usize = 100;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::WorkflowNotFound => Fault::new(Code::NotFound, "WORKFLOW_NOT_FOUND", text).into(),
            Error::RunNotFound => Fault::new(Code::NotFound, "RUN_NOT_FOUND", text).into(),
            Error::EngineBusy => {
                let fault = Fault::new(Code::ResourceExhausted, "ENGINE_BUSY", text);
                fault.retry_after(std::time::Duration::from_secs(1)).into()
            }
            Error::InvalidDefinition(faults) => {
                let first = faults.first().map(|fault| format!(": {} {}", fault.pointer, fault.reason));
                let message = format!("the definition is not valid{}", first.unwrap_or_default());
                let fault = Fault::new(Code::InvalidArgument, "INVALID_DEFINITION", message);
                let faults = faults.into_iter().take(FAULTS_MAX);
                let named = faults.fold(fault, |fault, asl::Fault { pointer, reason }| {
                    fault.violation(format!("definition{pointer}"), reason)
                });
                named.into()
            }
            Error::Refused(fault) => fault.into(),
            Error::Db(error) => error.into(),
        }
    }
}
