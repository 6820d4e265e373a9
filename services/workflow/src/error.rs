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
    #[error("there is no such secret")]
    SecretNotFound,
    #[error("there is a secret of this name already")]
    SecretExists,
    #[error("a tenant can have 1,000 secrets at most")]
    TooManySecrets,
    #[error("the task is not this attempt's any more: it was answered, timed out, was cancelled or taken over")]
    AttemptOver,
    #[error("the tenant has 100 streams of workers in this process already")]
    TooManyStreams,
    #[error("nothing waits for this decision, or no longer")]
    ApprovalNotFound,
    #[error("it is for others to decide this")]
    NotAnApprover,
    #[error("this link is not one of ours, is expired or was used")]
    ApprovalLinkInvalid,
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
            Error::SecretNotFound => Fault::new(Code::NotFound, "SECRET_NOT_FOUND", text).into(),
            Error::SecretExists => Fault::new(Code::AlreadyExists, "SECRET_EXISTS", text).into(),
            Error::TooManySecrets => Fault::new(Code::ResourceExhausted, "TOO_MANY_SECRETS", text).into(),
            Error::AttemptOver => Fault::new(Code::FailedPrecondition, "ATTEMPT_OVER", text).into(),
            Error::TooManyStreams => Fault::new(Code::ResourceExhausted, "TOO_MANY_STREAMS", text).into(),
            Error::ApprovalNotFound => Fault::new(Code::NotFound, "APPROVAL_NOT_FOUND", text).into(),
            Error::NotAnApprover => Fault::new(Code::PermissionDenied, "NOT_AN_APPROVER", text).into(),
            Error::ApprovalLinkInvalid => Fault::new(Code::NotFound, "APPROVAL_LINK_INVALID", text).into(),
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
