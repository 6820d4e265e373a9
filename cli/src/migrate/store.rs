//! The SQL of `tenon migrate`.

use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, migrate::MigrateDatabase as _, postgres::PgConnectOptions,
};

/// Opens one connection.
pub async fn connect(url: &str) -> Result<PgConnection, sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    options.application_name("tenon migrate").connect().await
}

/// Whether the server refused the password rather than the connection.
pub fn is_wrong_password(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "28P01")
}

/// Creates the database of the address when it is missing.
pub async fn create_database(url: &str) -> Result<(), sqlx::Error> {
    if connect(url).await.is_ok() {
        return Ok(());
    }
    match sqlx::Postgres::create_database(url).await {
        // Another migration made it in the meantime: 42P04 is duplicate_database, 23505 the same, later.
        Err(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("42P04" | "23505")) => Ok(()),
        other => other,
    }?;
    connect(url).await?.close().await
}
