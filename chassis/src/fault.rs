//! How an error leaves a process: google.rpc.Status with ErrorInfo, always.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The `domain` of every ErrorInfo (AIP-193).
pub const DOMAIN: &str = "tenon.dev";

/// An error on its way out: a code, a stable reason, words for people, and the fields that are at fault.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub code: Code,
    /// Stable, UPPER_SNAKE_CASE; clients match on it (AIP-193).
    pub reason: &'static str,
    pub message: String,
    pub metadata: Vec<(&'static str, String)>,
    /// (field path, what is wrong with it).
    pub violations: Vec<(String, String)>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl Fault {
    #[must_use]
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, reason, message, metadata: Vec::new(), violations: Vec::new(), retry_after: None }
    }

    /// INVALID_ARGUMENT INVALID_FIELD, naming the field.
    #[must_use]
    pub fn invalid(field: impl Into<String>, why: impl Into<String>) -> Self {
        let (field, why) = (field.into(), why.into());
        Self::new(Code::InvalidArgument, "INVALID_FIELD", format!("{field}: {why}")).violation(field, why)
    }

    /// INTERNAL: logs the cause once, here, and keeps it from the caller.
    #[must_use]
    pub fn internal(cause: &dyn std::error::Error) -> Self {
        let mut text = cause.to_string();
        let mut source = cause.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        tracing::error!(error = text, "internal error");
        Self::new(Code::Internal, "INTERNAL", "internal error")
    }

    /// ABORTED IDEMPOTENCY_IN_FLIGHT: the request of the same key is being served.
    #[must_use]
    pub fn in_flight() -> Self {
        let why = "the request of this Idempotency-Key is being served; ask again after the time in Retry-After";
        Self::new(Code::Aborted, "IDEMPOTENCY_IN_FLIGHT", why).retry_after(Duration::from_secs(1))
    }

    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.metadata.push((key, value.into()));
        self
    }

    #[must_use]
    pub fn violation(mut self, field: impl Into<String>, why: impl Into<String>) -> Self {
        self.violations.push((field.into(), why.into()));
        self
    }

    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let metadata: HashMap<String, String> =
            fault.metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let mut details = ErrorDetails::with_error_info(fault.reason, DOMAIN, metadata);
        for (field, why) in fault.violations {
            details.add_bad_request_violation(field, why);
        }
        if let Some(delay) = fault.retry_after {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(fault.code, fault.message, details)
    }
}

/// The reason of a status that came from another process of the mesh.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// The name of a code as google/rpc/code.proto spells it.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
