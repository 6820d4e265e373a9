//! `tenon doctor`: looks at this machine and this mesh; each finding says what is wrong and what to type.

use std::{net::IpAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Error, Result};
use chrono::TimeDelta;
use clap::Args;
use tenon_chassis::{Clock, secret::Secret};
use tenon_gateway::tls::{self, Certificate};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    dev::{binaries::Binaries, ports},
    health, migrate,
    settings::File,
};

const TIMEOUT: Duration = Duration::from_secs(2);
/// Who renews certificates does it a month before their end: what has less left is forgotten.
const SOON: TimeDelta = TimeDelta::days(14);

/// What to look at: whatever `tenon serve` would use.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Where the mesh listens
    #[arg(long, env = "TENON_BIND", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// The port of health and metrics
    #[arg(long, env = "TENON_ADMIN_PORT", default_value_t = 9100)]
    admin_port: u16,
    /// The Postgres server and database, without a user
    #[arg(long, env = "TENON_DATABASE_URL")]
    database_url: Option<String>,
    /// Redis
    #[arg(long, env = "TENON_REDIS_URL")]
    redis_url: Option<String>,
    /// NATS
    #[arg(long, env = "TENON_NATS_URL")]
    nats_url: Option<String>,
    /// The key of the mesh
    #[arg(long, env = "TENON_MESH_KEY", hide_env_values = true)]
    mesh_key: Option<String>,
    /// The master key
    #[arg(long, env = "TENON_MASTER_KEY", hide_env_values = true)]
    master_key: Option<String>,
    /// The certificate of the edge
    #[arg(long, env = "TENON_EDGE_TLS_CERT", requires = "edge_tls_key")]
    edge_tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "TENON_EDGE_TLS_KEY", requires = "edge_tls_cert")]
    edge_tls_key: Option<PathBuf>,
    /// The folder with the certificates of hosts
    #[arg(long, env = "TENON_EDGE_TLS_CERTS")]
    edge_tls_certs: Option<PathBuf>,
    /// The credential of operators
    #[arg(long, env = "TENON_OPERATOR_KEY", hide_env_values = true)]
    operator_key: Option<Secret>,
    /// The password of auth's roles
    #[arg(long, env = "TENON_AUTH_DB_PASSWORD", hide_env_values = true)]
    auth_db_password: Option<Secret>,
    /// The password of tenant's roles
    #[arg(long, env = "TENON_TENANT_DB_PASSWORD", hide_env_values = true)]
    tenant_db_password: Option<Secret>,
    /// The password of billing's roles
    #[arg(long, env = "TENON_BILLING_DB_PASSWORD", hide_env_values = true)]
    billing_db_password: Option<Secret>,
    /// The password of workflow's roles
    #[arg(long, env = "TENON_WORKFLOW_DB_PASSWORD", hide_env_values = true)]
    workflow_db_password: Option<Secret>,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    Good(String),
    /// Fine for `tenon dev`, missing for `tenon serve`.
    Absent(String),
    Bad {
        what: String,
        type_this: String,
    },
}

/// Prints every finding; fails when one is bad.
pub(crate) async fn run(settings: &Settings, file: &File) -> Result<ExitCode> {
    let mut findings = vec![settings_file(file), postgres_programs(), dev_ports(settings.bind)];
    findings.extend(secrets(settings));
    findings.extend(database(settings).await);
    findings.push(server("Redis", "TENON_REDIS_URL", settings.redis_url.as_deref(), 6379).await);
    findings.push(server("NATS", "TENON_NATS_URL", settings.nats_url.as_deref(), 4222).await);
    findings.extend(certificates(settings));
    findings.push(process(settings).await);
    for finding in &findings {
        match finding {
            Finding::Good(what) => println!("ok      {what}"),
            Finding::Absent(what) => println!("-       {what}"),
            Finding::Bad { what, type_this } => println!("WRONG   {what}\n        → {type_this}"),
        }
    }
    let bad = findings.iter().filter(|finding| matches!(finding, Finding::Bad { .. })).count();
    println!("\n{} checks, {bad} wrong", findings.len());
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bad(what: impl Into<String>, type_this: impl Into<String>) -> Finding {
    Finding::Bad { what: what.into(), type_this: type_this.into() }
}

fn settings_file(file: &File) -> Finding {
    match &file.path {
        Some(path) => {
            Finding::Good(format!("settings file {} has {} keys, all known", path.display(), file.values.len()))
        }
        None => Finding::Absent("no settings file; `tenon config print > tenon.toml` makes one".to_owned()),
    }
}

fn postgres_programs() -> Finding {
    match Binaries::find(None) {
        Ok(found) => Finding::Good(format!("Postgres {} for `tenon dev` in {}", found.major, found.folder.display())),
        Err(error) => bad("no Postgres server for `tenon dev`", error.to_string()),
    }
}

fn dev_ports(bind: IpAddr) -> Finding {
    let ports: Vec<_> = ports::NAMES.iter().map(|(_, flag, port)| (*flag, *port)).collect();
    match ports::check(bind, &ports) {
        Ok(()) => Finding::Good("the ports of `tenon dev` are free".to_owned()),
        Err(error) => Finding::Absent(format!("`tenon dev` runs already, or must move: {error}")),
    }
}

fn secrets(settings: &Settings) -> Vec<Finding> {
    let key = |name: &str, value: Option<&String>| match value.map(|text| text.parse::<tenon_chassis::secret::Key>()) {
        None => Finding::Absent(format!("{name} is not set; `tenon dev` makes its own, `tenon serve` needs it")),
        Some(Ok(_)) => Finding::Good(format!("{name} is a key of 32 bytes")),
        Some(Err(why)) => bad(format!("{name} {why}"), format!("export {name}=$(openssl rand -base64 32)")),
    };
    let operator = match &settings.operator_key {
        None => Finding::Absent("TENON_OPERATOR_KEY is not set; `tenon serve` needs it".to_owned()),
        Some(key) if key.expose().len() < 16 => {
            bad("TENON_OPERATOR_KEY is short enough to be guessed", "export TENON_OPERATOR_KEY=$(openssl rand -hex 24)")
        }
        Some(_) => Finding::Good("TENON_OPERATOR_KEY is set".to_owned()),
    };
    vec![
        key("TENON_MESH_KEY", settings.mesh_key.as_ref()),
        key("TENON_MASTER_KEY", settings.master_key.as_ref()),
        operator,
    ]
}

async fn database(settings: &Settings) -> Vec<Finding> {
    let Some(url) = &settings.database_url else {
        return vec![Finding::Absent("TENON_DATABASE_URL is not set; `tenon dev` starts its own Postgres".to_owned())];
    };
    let mut findings = Vec::new();
    for (service, password) in [
        ("auth", &settings.auth_db_password),
        ("tenant", &settings.tenant_db_password),
        ("billing", &settings.billing_db_password),
        ("workflow", &settings.workflow_db_password),
    ] {
        let name = format!("TENON_{}_DB_PASSWORD", service.to_uppercase());
        findings.push(match password {
            None => Finding::Absent(format!("{name} is not set; `tenon serve {service}` needs it")),
            Some(password) => match migrate::check_at(url, service, password, Duration::ZERO).await {
                Ok(()) => Finding::Good(format!("the database takes tenon_{service}, and its schema is current")),
                Err(error) => bad(format!("{error:#}"), advice(&error, url)),
            },
        });
    }
    findings
}

fn advice(error: &Error, url: &str) -> String {
    let text = format!("{error:#}");
    if text.contains("tenon migrate") {
        "tenon migrate".to_owned()
    } else {
        format!("pg_isready -d {url}    # is it started, and is this its address?")
    }
}

/// The certificates that the edge would show.
fn certificates(settings: &Settings) -> Vec<Finding> {
    let own = settings.edge_tls_cert.as_deref().zip(settings.edge_tls_key.as_deref());
    let now = Clock::default().now();
    let found = match tls::certificates(own, settings.edge_tls_certs.as_deref(), now) {
        Ok(found) => found,
        Err(why) => return vec![bad(why, "ls -l $TENON_EDGE_TLS_CERTS    # a folder that the edge may read?")],
    };
    let finding = |Certificate { host, file, held }: Certificate| {
        let whose = host.unwrap_or_else(|| "the edge".to_owned());
        match held {
            Ok(until) if until - now < SOON => bad(
                format!("the certificate of {whose} ends at {until}"),
                format!("openssl x509 -noout -dates -in {}    # is it renewed?", file.display()),
            ),
            Ok(until) => Finding::Good(format!("the certificate of {whose} holds until {until}")),
            Err(why) => bad(
                format!("the certificate of {whose} is refused: {why}"),
                format!("openssl x509 -noout -dates -ext subjectAltName -in {}", file.display()),
            ),
        }
    };
    found.into_iter().map(finding).collect()
}

async fn server(name: &str, setting: &str, url: Option<&str>, default_port: u16) -> Finding {
    let Some(url) = url else {
        return Finding::Absent(format!("{setting} is not set; the mesh does without {name}"));
    };
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:{default_port}") };
    match timeout(TIMEOUT, TcpStream::connect(&address)).await {
        Ok(Ok(_)) => Finding::Good(format!("{name} answers at {address}")),
        _ => bad(format!("{name} does not answer at {address}"), format!("start it, or change {setting}")),
    }
}

async fn process(settings: &Settings) -> Finding {
    let host = if settings.bind.is_unspecified() { "127.0.0.1".to_owned() } else { settings.bind.to_string() };
    match health::ready(&host, settings.admin_port).await {
        Ok((200, _)) => Finding::Good(format!("a process answers and is ready on port {}", settings.admin_port)),
        Ok((status, body)) => bad(
            format!("the process on port {} is not ready: {status} {}", settings.admin_port, body.trim()),
            "look at its log; it says what it waits for",
        ),
        Err(_) => {
            Finding::Absent(format!("no process answers on port {}; `tenon dev` starts one", settings.admin_port))
        }
    }
}
