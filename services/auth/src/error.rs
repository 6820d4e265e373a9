//! What can go wrong in the auth service, and how it is told.

use std::time::Duration;

use tenon_chassis::{Fault, db};
use tonic::{Code, Status};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the e-mail or the password is wrong")]
    InvalidCredentials,
    #[error("the refresh token is not valid any more; log in again")]
    InvalidRefreshToken,
    #[error("the session has ended; log in again")]
    SessionEnded,
    #[error("a user with this e-mail exists")]
    EmailTaken,
    #[error("there is no such user")]
    UserNotFound,
    #[error("there is no such tenant")]
    TenantNotFound,
    #[error("the API key is not valid: it is unknown, has expired or was revoked")]
    ApiKeyInvalid,
    #[error("there is no such API key")]
    ApiKeyNotFound,
    #[error("the tenant has as many API keys as it may; delete some, those that have expired count too")]
    TooManyApiKeys,
    #[error("too many passwords are being checked; try again")]
    Busy,
    #[error("a signing key does not open under this master key")]
    KeySealed(#[from] tenon_chassis::secret::Unsealable),
    #[error("a stored credential cannot be read")]
    Corrupt(&'static str),
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
            Error::InvalidCredentials => (Code::Unauthenticated, "INVALID_CREDENTIALS"),
            Error::InvalidRefreshToken => (Code::Unauthenticated, "INVALID_REFRESH_TOKEN"),
            Error::SessionEnded => (Code::Unauthenticated, "SESSION_ENDED"),
            Error::EmailTaken => (Code::AlreadyExists, "EMAIL_TAKEN"),
            Error::UserNotFound => (Code::NotFound, "USER_NOT_FOUND"),
            Error::TenantNotFound => (Code::NotFound, "TENANT_NOT_FOUND"),
            Error::ApiKeyInvalid => (Code::Unauthenticated, "API_KEY_INVALID"),
            Error::ApiKeyNotFound => (Code::NotFound, "API_KEY_NOT_FOUND"),
            Error::TooManyApiKeys => (Code::ResourceExhausted, "TOO_MANY_API_KEYS"),
            Error::Busy => {
                let fault = Fault::new(Code::ResourceExhausted, "LOGIN_BUSY", message);
                return fault.retry_after(Duration::from_secs(1)).into();
            }
            error @ (Error::KeySealed(_) | Error::Corrupt(_)) => return Fault::internal(&error).into(),
            Error::Invalid(fault) => return fault.into(),
            Error::Db(error) => return error.into(),
        };
        Fault::new(code, reason, message).into()
    }
}
