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
    #[error("more runs wait to be started than this engine takes; try again in a moment")]
    EngineBusy,
    #[error("more runs with this concurrency key wait for their turn than are kept; try again later")]
    QueueFull,
    #[error("nothing is left of {0} in the plan until {1}")]
    QuotaExhausted(&'static str, chrono::DateTime<chrono::Utc>),
    #[error("the idempotency key was used with another input")]
    KeyReused,
    #[error("the run has ended")]
    RunEnded,
    #[error("the run has not failed: only one that FAILED or TIMED_OUT can be retried")]
    RunNotFailed,
    #[error("the run has as many signals waiting as are kept; it must wait for them first")]
    MailboxFull,
    #[error("there is no such pause")]
    PauseNotFound,
    #[error("there is no such schedule")]
    ScheduleNotFound,
    #[error("there is a schedule with this id already")]
    ScheduleExists,
    #[error("the schedule belongs to a trigger of its workflow; publish a version with another one")]
    ScheduleManaged,
    #[error("there is no such hook")]
    HookNotFound,
    #[error("there is a hook with this id already")]
    HookExists,
    #[error("a trigger of a workflow names the hook; publish a version without it first")]
    HookInUse,
    #[error("there is no such endpoint")]
    EndpointNotFound,
    #[error("there is an endpoint with this id already")]
    EndpointExists,
    #[error("a tenant may have 100 endpoints")]
    EndpointLimit,
    #[error("there is no such delivery")]
    DeliveryNotFound,
    /// With pointers that begin at the request: `definition/States/A`.
    #[error("the workflow has {} faults", .0.len())]
    InvalidDefinition(Vec<asl::Fault>),
    #[error("a field is not as it must be")]
    Refused(#[from] Fault),
    #[error("database error")]
    Db(#[from] db::Error),
}

impl Error {
    /// The same error of one of several requests, whose place its text then begins with.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        let named = |mut fault: Fault| {
            fault.message = format!("{place}: {}", fault.message);
            Self::Refused(fault)
        };
        match self {
            Self::Refused(fault) => named(fault),
            Self::WorkflowNotFound => {
                named(Fault::new(Code::NotFound, "WORKFLOW_NOT_FOUND", Self::WorkflowNotFound.to_string()))
            }
            Self::KeyReused => {
                named(Fault::new(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED", Self::KeyReused.to_string()))
            }
            other => other,
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

/// Faults that one answer names at most.
pub const FAULTS_MAX: usize = 100;

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
            Error::EngineBusy => {
                let fault = Fault::new(Code::ResourceExhausted, "ENGINE_BUSY", text);
                fault.retry_after(std::time::Duration::from_secs(1)).into()
            }
            Error::QueueFull => {
                let fault = Fault::new(Code::ResourceExhausted, "QUEUE_FULL", text);
                fault.retry_after(std::time::Duration::from_secs(60)).into()
            }
            Error::QuotaExhausted(..) => Fault::new(Code::ResourceExhausted, "QUOTA_EXHAUSTED", text).into(),
            Error::KeyReused => Fault::new(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED", text).into(),
            Error::RunEnded => Fault::new(Code::FailedPrecondition, "RUN_ENDED", text).into(),
            Error::RunNotFailed => Fault::new(Code::FailedPrecondition, "RUN_NOT_FAILED", text).into(),
            Error::MailboxFull => Fault::new(Code::ResourceExhausted, "MAILBOX_FULL", text).into(),
            Error::PauseNotFound => Fault::new(Code::NotFound, "PAUSE_NOT_FOUND", text).into(),
            Error::ScheduleNotFound => Fault::new(Code::NotFound, "SCHEDULE_NOT_FOUND", text).into(),
            Error::ScheduleExists => Fault::new(Code::AlreadyExists, "SCHEDULE_EXISTS", text).into(),
            Error::ScheduleManaged => Fault::new(Code::FailedPrecondition, "SCHEDULE_MANAGED", text).into(),
            Error::HookNotFound => Fault::new(Code::NotFound, "HOOK_NOT_FOUND", text).into(),
            Error::HookExists => Fault::new(Code::AlreadyExists, "HOOK_EXISTS", text).into(),
            Error::HookInUse => Fault::new(Code::FailedPrecondition, "HOOK_IN_USE", text).into(),
            Error::EndpointNotFound => Fault::new(Code::NotFound, "ENDPOINT_NOT_FOUND", text).into(),
            Error::EndpointExists => Fault::new(Code::AlreadyExists, "ENDPOINT_EXISTS", text).into(),
            Error::EndpointLimit => Fault::new(Code::ResourceExhausted, "ENDPOINT_LIMIT", text).into(),
            Error::DeliveryNotFound => Fault::new(Code::NotFound, "DELIVERY_NOT_FOUND", text).into(),
            Error::InvalidDefinition(faults) => {
                let first = faults.first().map(|fault| format!(": {} {}", fault.pointer, fault.reason));
                let message = format!("the workflow is not valid{}", first.unwrap_or_default());
                let fault = Fault::new(Code::InvalidArgument, "INVALID_DEFINITION", message);
                let faults = faults.into_iter().take(FAULTS_MAX);
                let named =
                    faults.fold(fault, |fault, asl::Fault { pointer, reason }| fault.violation(pointer, reason));
                named.into()
            }
            Error::Refused(fault) => fault.into(),
            Error::Db(error) => error.into(),
        }
    }
}
