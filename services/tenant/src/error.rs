//! What can go wrong in the tenant service, and how it is told.

use tenon_chassis::{Fault, db};
use tonic::{Code, Status};

use crate::tenants::model::Status as TenantStatus;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no such tenant")]
    TenantNotFound,
    #[error("the slug is taken; choose another")]
    SlugTaken,
    #[error("the Idempotency-Key was used with another request; send a new key")]
    KeyReused,
    #[error("the tenant is {}; this needs one that is active, pending_payment or suspended", .0.as_str())]
    WrongStatus(TenantStatus),
    #[error("a stored sign-up does not open under this master key")]
    Sealed(#[from] tenon_chassis::secret::Unsealable),
    #[error("a stored tenant cannot be read")]
    Corrupt(&'static str),
    #[error(transparent)]
    Invalid(#[from] Fault),
    /// A step of the sign-up was refused by the service that does it.
    #[error("{}", .0.message())]
    Step(Box<Status>),
    #[error(transparent)]
    Db(#[from] db::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let (code, reason) = match error {
            Error::TenantNotFound => (Code::NotFound, "TENANT_NOT_FOUND"),
            Error::SlugTaken => (Code::AlreadyExists, "SLUG_TAKEN"),
            Error::KeyReused => (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED"),
            Error::WrongStatus(_) => (Code::FailedPrecondition, "TENANT_STATUS"),
            error @ (Error::Sealed(_) | Error::Corrupt(_)) => return Fault::internal(&error).into(),
            Error::Invalid(fault) => return fault.into(),
            Error::Step(status) => return *status,
            Error::Db(error) => return error.into(),
        };
        Fault::new(code, reason, message).into()
    }
}
