//! The only doors to the database: `Db::begin` for one tenant's rows, `Db::system` for engines that batch over tenants.

pub(crate) mod store;
mod tx;

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tonic::{Code, Status, metadata::MetadataValue};

use crate::{Caller, Clock, Fault, config::Config, pulse::Pulse, secret::Secret};
pub use tx::{SystemTx, TenantTx};

/// How long a call waits for a connection before it is told to come back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Carries a stored answer from a transaction to the server's layer, never over the wire.
pub(crate) const REPLAY: &str = "tenon-replay-bin";

/// Why a transaction did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("database error")]
    Sql(#[from] sqlx::Error),
    /// The request was answered before: this is the stored answer.
    #[error("the request was answered before")]
    Replay(Bytes),
    /// The idempotency key was used with another request.
    #[error("the idempotency key was used with another request")]
    KeyReused,
    #[error(transparent)]
    Refused(#[from] Fault),
}

impl Error {
    /// The constraint that a statement would have violated.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => error.constraint(),
            _ => None,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Sql(error) => sql_fault(&error).into(),
            Error::Refused(fault) => fault.into(),
            Error::KeyReused => {
                let message = "the Idempotency-Key was used with another request; send a new key";
                Fault::new(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED", message).into()
            }
            Error::Replay(answer) => {
                let mut status = Status::aborted("answered before");
                status.metadata_mut().insert_bin(REPLAY, MetadataValue::from_bytes(&answer));
                status
            }
        }
    }
}

/// The SQLSTATE of an error of the database.
fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

fn sql_fault(error: &sqlx::Error) -> Fault {
    match (error, code(error).as_deref()) {
        // 57P01..03: the server stops or starts; 53300: it has no connection left; 25P03: the transaction stood still.
        (sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_), _)
        | (_, Some("57P01" | "57P02" | "57P03" | "53300" | "25P03")) => {
            tracing::warn!(%error, "database unavailable");
            Fault::new(Code::Unavailable, "DATABASE_UNAVAILABLE", "the database cannot be reached just now")
                .retry_after(Duration::from_secs(1))
        }
        (_, Some("40001" | "40P01" | "55P03")) => {
            Fault::new(Code::Aborted, "CONFLICT", "another change came first; try again")
        }
        // Postgres keeps NUL in no text (22021) and in no jsonb (22P05).
        (_, Some("22021" | "22P05")) => {
            Fault::new(Code::InvalidArgument, "INVALID_TEXT", "a text holds a NUL character, which cannot be kept")
        }
        _ => Fault::internal(error),
    }
}

/// A service's two doors: its app role, which sees one tenant, and its system role, which sees all.
#[derive(Clone)]
pub struct Db {
    /// The service, and the `source` of its events.
    pub(crate) service: &'static str,
    pub(crate) clock: Clock,
    app: PgPool,
    system: PgPool,
    pub(crate) pulse: Pulse,
}

impl Db {
    /// Opens both pools; connections are made when they are needed.
    ///
    /// # Errors
    /// When no database is configured or its URL is malformed.
    pub fn open(config: &Config, service: &'static str, password: &Secret, clock: Clock) -> Result<Self, OpenError> {
        let url = config.database_url.as_deref().ok_or(OpenError::NotConfigured)?;
        let options: PgConnectOptions = url.parse().map_err(OpenError::Url)?;
        let options = options.password(password.expose()).application_name(service).statement_cache_capacity(256);
        // A statement that outlives every deadline holds locks for nobody.
        let timeout = format!("{}s", config.call_timeout_s * 2);
        let options = options.options([
            ("statement_timeout", timeout.as_str()),
            ("lock_timeout", "10s"),
            // A process that stands still inside a transaction must not keep what others are to take over.
            ("idle_in_transaction_session_timeout", "10s"),
        ]);
        let pool = |options: PgConnectOptions| {
            PgPoolOptions::new()
                .max_connections(config.database_pool)
                .min_connections(0)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .test_before_acquire(false)
                .connect_lazy_with(options)
        };
        let app = pool(options.clone().username(&format!("tenon_{service}")));
        let system = pool(options.username(&format!("tenon_{service}_system")));
        let pulse = Pulse::new(system.clone());
        Ok(Self { service, clock, app, system, pulse })
    }

    /// Opens a transaction on the caller's tenant and no other.
    ///
    /// # Errors
    /// TENANT_REQUIRED for a caller without one; `Replay` when this request was answered before; IDEMPOTENCY_IN_FLIGHT
    /// while it is being served.
    pub async fn begin(&self, caller: &Caller) -> Result<TenantTx, Error> {
        TenantTx::begin(self, &self.app, caller.clone()).await
    }

    /// Opens a transaction over all tenants, as the system role. For engines, relays and the directory only.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn system(&self) -> Result<SystemTx, Error> {
        SystemTx::begin(self, &self.system).await
    }

    /// The wire between processes that share this database.
    #[must_use]
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether the database answers.
    pub async fn is_ready(&self) -> bool {
        store::ping(&self.app).await.is_ok()
    }

    /// Closes both pools, after what is in flight.
    pub async fn close(&self) {
        tokio::join!(self.app.close(), self.system.close());
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no database is configured: set TENON_DATABASE_URL, like postgres://127.0.0.1:5432/tenon")]
    NotConfigured,
    #[error("TENON_DATABASE_URL is not a Postgres URL: {0}")]
    Url(sqlx::Error),
}
