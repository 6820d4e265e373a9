//! `tenon migrate`: brings roles and schemas up to date. Safe to run twice and at once; servers refuse what is behind.

pub(crate) mod store;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use sqlx::{
    PgConnection,
    migrate::{Migration, Migrator},
};
use tenon_chassis::{config::Config, secret::Secret};

/// Every schema in the order in which it is made; the first one keeps what was applied.
static SCHEMAS: [(&str, Migrator); 5] = [
    ("mesh", sqlx::migrate!("../migrations/mesh")),
    ("auth", sqlx::migrate!("../migrations/auth")),
    ("tenant", sqlx::migrate!("../migrations/tenant")),
    ("billing", sqlx::migrate!("../migrations/billing")),
    ("workflow", sqlx::migrate!("../migrations/workflow")),
];

/// How long a migration or a server that starts waits for its database.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a migration needs to know.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Database")]
pub(crate) struct Settings {
    /// The database as its owner: postgres://owner:password@127.0.0.1:5432/tenon
    #[arg(long, env = "TENON_ADMIN_DATABASE_URL", hide_env_values = true)]
    pub(crate) admin_database_url: Secret,
    /// The password that the roles tenon_auth and tenon_auth_system get
    #[arg(long, env = "TENON_AUTH_DB_PASSWORD", hide_env_values = true)]
    pub(crate) auth_db_password: Secret,
    /// The password that the roles tenon_tenant and tenon_tenant_system get
    #[arg(long, env = "TENON_TENANT_DB_PASSWORD", hide_env_values = true)]
    pub(crate) tenant_db_password: Secret,
    /// The password that the roles tenon_billing and tenon_billing_system get
    #[arg(long, env = "TENON_BILLING_DB_PASSWORD", hide_env_values = true)]
    pub(crate) billing_db_password: Secret,
    /// The password that the roles tenon_workflow and tenon_workflow_system get
    #[arg(long, env = "TENON_WORKFLOW_DB_PASSWORD", hide_env_values = true)]
    pub(crate) workflow_db_password: Secret,
}

/// Migrates; returns the names of what was applied.
pub(crate) async fn run(settings: &Settings) -> Result<Vec<String>> {
    let url = settings.admin_database_url.expose();
    create_database(url).await.context("the database at TENON_ADMIN_DATABASE_URL cannot be used")?;
    let mut connection = store::connect(url).await?;
    store::lock(&mut connection, || crate::say("waiting for another `tenon migrate` to end")).await?;
    let result = migrate(&mut connection, settings).await;
    store::unlock(connection).await?;
    result
}

/// As the store's, and waits for a server that starts beside it.
async fn create_database(url: &str) -> Result<(), sqlx::Error> {
    let started = tokio::time::Instant::now();
    let mut is_said = false;
    loop {
        match store::create_database(url).await {
            Err(error) if store::is_away(&error) && started.elapsed() < PATIENCE => {
                if !std::mem::replace(&mut is_said, true) {
                    crate::say(&format!("waiting {} s at most for the database ({error})", PATIENCE.as_secs()));
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            ended => return ended,
        }
    }
}

async fn migrate(connection: &mut PgConnection, settings: &Settings) -> Result<Vec<String>> {
    for (service, password) in [
        ("auth", &settings.auth_db_password),
        ("tenant", &settings.tenant_db_password),
        ("billing", &settings.billing_db_password),
        ("workflow", &settings.workflow_db_password),
    ] {
        for role in [format!("tenon_{service}"), format!("tenon_{service}_system")] {
            store::put_role(connection, &role, password.expose())
                .await
                .with_context(|| format!("role {role} cannot be made; the owner needs CREATEROLE"))?;
        }
    }
    store::create_ledger(connection).await?;
    let applied = store::applied(connection).await?;
    let mut done = Vec::new();
    for (schema, migrator) in &SCHEMAS {
        for migration in migrator.iter() {
            let name = name(schema, migration);
            match applied.get(&((*schema).to_owned(), migration.version)) {
                Some(checksum) if *checksum == *migration.checksum => {}
                Some(_) => bail!("migration {name} was changed after it was applied; restore it and add a new one"),
                None => {
                    store::apply(connection, schema, migration).await.with_context(|| format!("migration {name}"))?;
                    done.push(name);
                }
            }
        }
    }
    Ok(done)
}

fn name(schema: &str, migration: &Migration) -> String {
    format!("{schema}/{:04}_{}", migration.version, migration.description.replace(' ', "_"))
}

/// Refuses a database that is behind this binary. `service` logs in with its own role, as the server will.
pub(crate) async fn check(config: &Config, service: &str, password: &Secret) -> Result<()> {
    match &config.database_url {
        Some(url) => check_at(url, service, password, PATIENCE).await,
        None => bail!("no database is configured: set TENON_DATABASE_URL, like postgres://127.0.0.1:5432/tenon"),
    }
}

/// As `check`, with the time that the database has to answer.
pub(crate) async fn check_at(url: &str, service: &str, password: &Secret, patience: Duration) -> Result<()> {
    let started = tokio::time::Instant::now();
    let newest = loop {
        match store::newest(url, &format!("tenon_{service}"), password.expose()).await {
            Ok(newest) => break newest,
            Err(error) if store::is_not_migrated(&error) => break BTreeMap::new(),
            Err(error) if store::is_wrong_password(&error) => {
                let setting = format!("TENON_{}_DB_PASSWORD", service.to_uppercase());
                bail!(
                    "{url} does not take role tenon_{service} with {setting} ({error}); type `tenon migrate` with the same {setting}"
                )
            }
            Err(error) if started.elapsed() >= patience => {
                return Err(error)
                    .with_context(|| format!("the database at {url} does not answer (TENON_DATABASE_URL)"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    };
    match behind(service, &newest) {
        Some(what) => bail!("the database is behind this binary ({what}); type `tenon migrate`"),
        None => Ok(()),
    }
}

/// What of a service's own schema and the shared one is missing.
fn behind(service: &str, newest: &BTreeMap<String, i64>) -> Option<String> {
    let missing: Vec<String> = SCHEMAS
        .iter()
        .filter(|(schema, _)| *schema == "mesh" || *schema == service)
        .filter_map(|(schema, migrator)| {
            let needed = migrator.iter().map(|migration| migration.version).max()?;
            let have = newest.get(*schema).copied().unwrap_or_default();
            (have < needed).then(|| format!("schema {schema} is at {have}, {needed} is needed"))
        })
        .collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_schema_and_the_shared_one_must_be_current() {
        let newest = |pairs: &[(&str, i64)]| pairs.iter().map(|(schema, at)| ((*schema).to_owned(), *at)).collect();
        assert_eq!(behind("auth", &newest(&[("mesh", 99), ("auth", 99)])), None);
        let what = behind("auth", &newest(&[("mesh", 99)])).unwrap();
        assert!(what.starts_with("schema auth is at 0"), "{what}");
    }
}
