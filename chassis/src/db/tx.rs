//! Transactions: one tenant's, or the system's; every statement is a span, and one that is dropped is rolled back.

use bytes::Bytes;
use futures::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt},
};
use prost::Message;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Either, Execute, Executor, PgPool, Postgres, pool::PoolConnection};
use tonic::Response;
use tracing::{Instrument, Span};

use super::{Db, Error, store};
use crate::{
    Caller, Fault, TenantId,
    bus::{self, Event},
    fail, telemetry,
};

/// A connection inside a transaction. A handler may be dropped at any await (its client went away), so the connection
/// goes back to the pool only through COMMIT or ROLLBACK.
struct Open {
    conn: Option<PoolConnection<Postgres>>,
}

impl Open {
    /// Takes a connection and opens a transaction. That the server has ended a pooled connection is found out by its
    /// first use, when nothing is done yet: then the next is taken.
    async fn begin(pool: &PgPool, sql: impl AsRef<str>) -> Result<Self, Error> {
        let mut left = pool.options().get_max_connections();
        loop {
            let mut open = Self { conn: Some(pool.acquire().await?) };
            let statement = sqlx::raw_sql(AssertSqlSafe(sql.as_ref()));
            match open.conn().execute(statement).instrument(span("begin")).await {
                Err(error) if left > 0 && is_gone(&error) => left -= 1,
                // The lock of an idempotency key is all that is waited for here.
                Err(error) if super::code(&error) == Some("55P03".into()) => return Err(Fault::in_flight().into()),
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(open),
            }
        }
    }

    fn conn(&mut self) -> &mut PoolConnection<Postgres> {
        self.conn.as_mut().expect("the connection is taken only when the transaction ends")
    }

    /// Commits for somebody, and tells that there are events.
    async fn commit(mut self, (who, pulse): (&str, &crate::pulse::Pulse), emitted: bool) -> Result<(), Error> {
        fail::at_commit(who, "before").await?;
        self.conn().execute("commit").instrument(span("commit")).await?;
        // Only now: dropped before, the connection is rolled back, which after a commit does no harm.
        self.conn.take();
        if emitted {
            pulse.beat(bus::CHANNEL);
        }
        Ok(fail::at_commit(who, "after").await?)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                if conn.execute("rollback").await.is_err() {
                    // Whatever state it is in, nobody else shall have it.
                    drop(conn.detach());
                }
            })),
            Err(_) => drop(conn.detach()),
        }
    }
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Open")
    }
}

/// A transaction on one tenant's rows: row-level security shows and takes no other's.
#[derive(Debug)]
pub struct TenantTx {
    open: Open,
    service: &'static str,
    clock: crate::Clock,
    pulse: crate::pulse::Pulse,
    tenant: TenantId,
    caller: Caller,
    events: Vec<Event>,
}

impl TenantTx {
    pub(super) async fn begin(db: &Db, pool: &PgPool, caller: Caller) -> Result<Self, Error> {
        let tenant = caller.tenant_id()?;
        let mut sql = format!("begin; select set_config('app.tenant_id', '{}', true)", tenant.uuid());
        if let Some(asked) = &caller.idempotency {
            // A request that is sent again while it is served waits for a moment, in which the first commits as a rule and
            // leaves its answer: whoever lost the connection to it, as the edge may have, asks at once.
            let lock = lock_of(db.service, tenant, &asked.key);
            sql.push_str("; set local lock_timeout = '250ms'");
            sql.push_str(&format!("; select pg_advisory_xact_lock({lock}); set local lock_timeout to default"));
        }
        let open = Open::begin(pool, sql).await?;
        let (service, clock, pulse) = (db.service, db.clock.clone(), db.pulse.clone());
        let mut tx = Self { open, service, clock, pulse, tenant, caller, events: Vec::new() };
        tx.answered_before().await?;
        Ok(tx)
    }

    async fn answered_before(&mut self) -> Result<(), Error> {
        let Some(asked) = self.caller.idempotency.clone() else { return Ok(()) };
        let tenant = self.tenant.uuid();
        let Some((method, hash, answer)) = store::get_answer(&mut *self, tenant, &asked.key).await? else {
            return Ok(());
        };
        let same = method == self.caller.method.path && hash == asked.request_hash;
        Err(if same { Error::Replay(Bytes::from(answer)) } else { Error::KeyReused })
    }

    /// The tenant whose rows this transaction sees.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    #[must_use]
    pub fn clock(&self) -> &crate::Clock {
        &self.clock
    }

    /// Adds an event that is published if, and only if, this transaction commits.
    pub fn emit(&mut self, kind: &str, subject: impl Into<String>, data: serde_json::Value) {
        self.events.push(Event::new(&self.clock, self.service, self.tenant, (kind, subject.into()), data));
    }

    /// Counts use of a meter if, and only if, this transaction commits.
    pub fn meter(&mut self, meter: &str, quantity: i64) {
        self.emit(bus::USAGE_RECORDED, meter, json!({ "meter": meter, "quantity": quantity }));
    }

    /// Commits the change together with its events, its usage and, for a request with an idempotency key, its answer.
    ///
    /// # Errors
    /// When any of it cannot be written; then none of it is.
    pub async fn reply<M: Message>(mut self, message: M) -> Result<Response<M>, Error> {
        if let Some(meter) = self.caller.method.meter.clone() {
            self.meter(&meter, 1);
        }
        if let Some(asked) = self.caller.idempotency.take() {
            let (tenant, method, answer) = (self.tenant.uuid(), self.caller.method.clone(), message.encode_to_vec());
            let hashed = (asked.request_hash.as_slice(), answer.as_slice());
            store::insert_answer(&mut self, tenant, (&asked.key, &method.path), hashed).await?;
        }
        self.commit().await?;
        Ok(Response::new(message))
    }

    /// Commits the change and its events, for work that is no answer to a request.
    ///
    /// # Errors
    /// When any of it cannot be written; then none of it is.
    pub async fn commit(mut self) -> Result<(), Error> {
        let events = std::mem::take(&mut self.events);
        if !events.is_empty() {
            store::insert_events(&mut self, &events).await?;
        }
        self.open.commit((&self.caller.method.path, &self.pulse), !events.is_empty()).await
    }
}

/// The advisory lock of an idempotency key.
fn lock_of(service: &str, tenant: TenantId, key: &str) -> i64 {
    let hash = Sha256::digest(format!("{service}/{tenant}/{key}"));
    i64::from_be_bytes(hash[..8].try_into().expect("a SHA-256 has more than 8 bytes"))
}

/// A transaction over all tenants, as the service's system role.
#[derive(Debug)]
pub struct SystemTx {
    open: Open,
    service: &'static str,
    pulse: crate::pulse::Pulse,
    emitted: bool,
}

impl SystemTx {
    pub(super) async fn begin(db: &Db, pool: &PgPool) -> Result<Self, Error> {
        let open = Open::begin(pool, "begin").await?;
        Ok(Self { open, service: db.service, pulse: db.pulse.clone(), emitted: false })
    }

    /// Adds events of any tenants, published if this transaction commits.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn emit(&mut self, events: &[Event]) -> Result<(), Error> {
        if !events.is_empty() {
            store::insert_events(&mut *self, events).await?;
            self.emitted = true;
        }
        Ok(())
    }

    /// Tells every process that listens, when this transaction commits.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn notify(&mut self, channel: &str, payload: &str) -> Result<(), Error> {
        store::notify(&mut *self, channel, payload).await
    }

    /// # Errors
    /// When the commit fails; then nothing was written.
    pub async fn commit(self) -> Result<(), Error> {
        self.open.commit((self.service, &self.pulse), self.emitted).await
    }
}

/// Whether the connection has ended, and not only the statement failed.
fn is_gone(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_)) || matches!(super::code(error).as_deref(), Some("57P01" | "57P02" | "25P03"))
}

/// A span by the OpenTelemetry conventions for database clients, when somebody will see it.
fn span(sql: &str) -> Span {
    if !telemetry::is_sampled() {
        return Span::none();
    }
    let operation = sql.split_whitespace().next().unwrap_or_default();
    tracing::info_span!(target: "tenon::sql", "sql", otel.name = operation, otel.kind = "client",
        db.system.name = "postgresql", db.query.text = sql)
}

macro_rules! executor {
    ($tx:ty) => {
        impl<'c> Executor<'c> for &'c mut $tx {
            type Database = Postgres;

            fn fetch_many<'e, 'q: 'e, E>(
                self,
                mut query: E,
            ) -> BoxStream<'e, Result<Either<sqlx::postgres::PgQueryResult, sqlx::postgres::PgRow>, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + Execute<'q, Postgres>,
            {
                let arguments = match query.take_arguments() {
                    Ok(arguments) => arguments,
                    Err(error) => return stream::once(async { Err(sqlx::Error::Encode(error)) }).boxed(),
                };
                let sql = query.sql();
                let span = span(sql.as_str());
                let mut rows = self.open.conn().fetch_many((sql, arguments));
                stream::poll_fn(move |context| {
                    let _entered = span.enter();
                    rows.poll_next_unpin(context)
                })
                .boxed()
            }

            fn fetch_optional<'e, 'q: 'e, E>(
                self,
                mut query: E,
            ) -> BoxFuture<'e, Result<Option<sqlx::postgres::PgRow>, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + Execute<'q, Postgres>,
            {
                let arguments = match query.take_arguments() {
                    Ok(arguments) => arguments,
                    Err(error) => return Box::pin(async { Err(sqlx::Error::Encode(error)) }),
                };
                let sql = query.sql();
                let span = span(sql.as_str());
                Box::pin(self.open.conn().fetch_optional((sql, arguments)).instrument(span))
            }

            fn prepare_with<'e>(
                self,
                sql: sqlx::SqlStr,
                parameters: &'e [sqlx::postgres::PgTypeInfo],
            ) -> BoxFuture<'e, Result<sqlx::postgres::PgStatement, sqlx::Error>>
            where
                'c: 'e,
            {
                self.open.conn().prepare_with(sql, parameters)
            }

            fn describe<'e>(self, sql: sqlx::SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
            where
                'c: 'e,
            {
                self.open.conn().describe(sql)
            }
        }
    };
}

executor!(TenantTx);
executor!(SystemTx);
