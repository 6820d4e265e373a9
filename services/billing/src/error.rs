//! What can go wrong in the billing service, and how it is told.

use tenon_chassis::{Fault, db};
use tonic::{Code, Status};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no such plan")]
    PlanNotFound,
    #[error("the tenant has no subscription")]
    SubscriptionNotFound,
    #[error("an amount is out of range")]
    Overflow,
    #[error("a stored plan cannot be read")]
    Corrupt,
    #[error(transparent)]
    Invalid(#[from] Fault),
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
            Error::PlanNotFound => (Code::NotFound, "PLAN_NOT_FOUND"),
            Error::SubscriptionNotFound => (Code::NotFound, "SUBSCRIPTION_NOT_FOUND"),
            Error::Overflow => (Code::OutOfRange, "AMOUNT_OUT_OF_RANGE"),
            Error::Corrupt => return Fault::internal(&Error::Corrupt).into(),
            Error::Invalid(fault) => return fault.into(),
            Error::Db(error) => return error.into(),
        };
        Fault::new(code, reason, message).into()
    }
}
