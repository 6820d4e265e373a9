//! What can go wrong in the tenant service, and how it is told.

use std::time::Duration;

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
    #[error("there is no such domain")]
    DomainNotFound,
    #[error("the tenant has claimed this domain already")]
    DomainExists,
    #[error("the domain is another tenant's, whose record stands too; remove that one first")]
    DomainTaken,
    #[error("the tenant has as many domains as it may; delete one")]
    TooManyDomains,
    /// `seen` is how many other records the name has.
    #[error("{record} has no TXT record {value} ({seen} others); a new record may take minutes to be seen")]
    DomainNotProved { record: String, value: String, seen: usize },
    #[error("no DNS server answers just now")]
    DnsUnavailable,
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
            Error::DomainNotFound => (Code::NotFound, "DOMAIN_NOT_FOUND"),
            Error::DomainExists => (Code::AlreadyExists, "DOMAIN_EXISTS"),
            Error::DomainTaken => (Code::AlreadyExists, "DOMAIN_TAKEN"),
            Error::TooManyDomains => (Code::ResourceExhausted, "TOO_MANY_DOMAINS"),
            Error::DomainNotProved { record, value, .. } => {
                let fault = Fault::new(Code::FailedPrecondition, "DOMAIN_NOT_PROVED", message);
                return fault.with("record", record).with("value", value).into();
            }
            Error::DnsUnavailable => {
                let fault = Fault::new(Code::Unavailable, "DNS_UNAVAILABLE", message);
                return fault.retry_after(Duration::from_secs(5)).into();
            }
            error @ (Error::Sealed(_) | Error::Corrupt(_)) => return Fault::internal(&error).into(),
            Error::Invalid(fault) => return fault.into(),
            Error::Step(status) => return *status,
            Error::Db(error) => return error.into(),
        };
        Fault::new(code, reason, message).into()
    }
}
