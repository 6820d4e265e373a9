//! The SQL of `tenon migrate`: plain strings, for it runs before there is a schema to check queries against.

use std::collections::{BTreeMap, HashMap};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Error, Executor as _, PgConnection, Row as _,
    migrate::{MigrateDatabase as _, Migration},
    postgres::PgConnectOptions,
};

/// Any number, the same in every version of this program: whoever holds it migrates.
const LOCK: i64 = 0x7465_6e6f_6e00;
/// Roles belong to the whole cluster, so another database's migration may be at the same role.
const ROLE_TRIES: u32 = 20;

/// Opens one connection.
pub(crate) async fn connect(url: &str) -> Result<PgConnection, Error> {
    let options: PgConnectOptions = url.parse()?;
    options.application_name("tenon migrate").connect().await
}

/// Whether the server refused the role or its password, rather than the connection.
pub(crate) fn is_wrong_password(error: &Error) -> bool {
    matches!(code(error).as_deref(), Some("28P01" | "28000"))
}

/// Whether there is nothing yet of what a migration makes: the database, the schema or the table.
pub(crate) fn is_not_migrated(error: &Error) -> bool {
    matches!(code(error).as_deref(), Some("3D000" | "3F000" | "42P01"))
}

/// Whether nobody listens yet, or the server still starts (57P03).
pub(crate) fn is_away(error: &Error) -> bool {
    matches!(error, Error::Io(_)) || code(error).as_deref() == Some("57P03")
}

fn code(error: &Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Creates the database of the address when it is missing.
pub(crate) async fn create_database(url: &str) -> Result<(), Error> {
    match connect(url).await {
        Ok(connection) => return connection.close().await,
        Err(error) if code(&error).as_deref() == Some("3D000") => {}
        Err(error) => return Err(error),
    }
    match sqlx::Postgres::create_database(url).await {
        // Another migration made it in the meantime.
        Err(error) if matches!(code(&error).as_deref(), Some("42P04" | "23505")) => Ok(()),
        other => other,
    }
}

/// Waits until no other migration runs on this database; it is let go when the connection ends.
pub(crate) async fn lock(connection: &mut PgConnection, on_wait: impl FnOnce()) -> Result<(), Error> {
    let free: bool =
        sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut *connection).await?;
    if !free {
        on_wait();
        sqlx::query("select pg_advisory_lock($1)").bind(LOCK).execute(connection).await?;
    }
    Ok(())
}

/// Lets the next migration go on.
pub(crate) async fn unlock(connection: PgConnection) -> Result<(), Error> {
    connection.close().await
}

/// Makes a login role, or gives it this password; it is never an owner, a superuser or above row-level security.
pub(crate) async fn put_role(connection: &mut PgConnection, role: &str, password: &str) -> Result<(), Error> {
    let mut tries = 0;
    loop {
        let exists: bool = sqlx::query_scalar("select exists (select from pg_roles where rolname = $1)")
            .bind(role)
            .fetch_one(&mut *connection)
            .await?;
        let verb = if exists { "alter" } else { "create" };
        // Utility statements take no parameters: the server itself quotes the name and the password.
        let statement: String = sqlx::query_scalar("select format('%s role %I login password %L', $1, $2, $3)")
            .bind(verb)
            .bind(role)
            .bind(password)
            .fetch_one(&mut *connection)
            .await?;
        match connection.execute(AssertSqlSafe(statement)).await {
            // duplicate_object, unique_violation, "tuple concurrently updated".
            Err(error)
                if tries < ROLE_TRIES && matches!(code(&error).as_deref(), Some("42710" | "23505" | "XX000")) =>
            {
                tries += 1;
                tokio::time::sleep(std::time::Duration::from_millis(u64::from(10 * tries))).await;
            }
            other => return other.map(drop),
        }
    }
}

/// The record of what was applied; service roles may read it, to refuse a schema that is behind.
pub(crate) async fn create_ledger(connection: &mut PgConnection) -> Result<(), Error> {
    let statements = "
        create schema if not exists mesh;
        create table if not exists mesh.migrations (
            schema      text        not null,
            version     bigint      not null,
            description text        not null,
            checksum    bytea       not null,
            applied_at  timestamptz not null default now(),
            primary key (schema, version)
        );
        grant usage on schema mesh to tenon_auth, tenon_tenant, tenon_billing, tenon_workflow;
        grant select on mesh.migrations to tenon_auth, tenon_tenant, tenon_billing, tenon_workflow";
    connection.execute(statements).await.map(drop)
}

/// What was applied: the checksum by schema and version.
pub(crate) async fn applied(connection: &mut PgConnection) -> Result<HashMap<(String, i64), Vec<u8>>, Error> {
    let rows = sqlx::query("select schema, version, checksum from mesh.migrations").fetch_all(connection).await?;
    rows.iter().map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?))).collect()
}

/// Applies one migration and records it: both or neither.
pub(crate) async fn apply(connection: &mut PgConnection, schema: &str, migration: &Migration) -> Result<(), Error> {
    let mut tx = connection.begin().await?;
    tx.execute(migration.sql.clone()).await?;
    sqlx::query("insert into mesh.migrations (schema, version, description, checksum) values ($1, $2, $3, $4)")
        .bind(schema)
        .bind(migration.version)
        .bind(&*migration.description)
        .bind(&*migration.checksum)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// The newest version of each schema, as one of the service roles sees it.
pub(crate) async fn newest(url: &str, role: &str, password: &str) -> Result<BTreeMap<String, i64>, Error> {
    let options: PgConnectOptions = url.parse()?;
    let mut connection = options.username(role).password(password).connect().await?;
    let rows = sqlx::query("select schema, max(version) from mesh.migrations group by schema")
        .fetch_all(&mut connection)
        .await?;
    connection.close().await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
