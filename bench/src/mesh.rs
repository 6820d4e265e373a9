//! The mesh under measurement: `tenon dev`, and an edge of its own process whose CPU can be told apart.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process::Started;

/// Limits that no round reaches: what is measured is the check, not the refusal.
const UNLIMITED: &str = "50000000";
/// Moves the ports out of the way of a mesh that someone is using.
const OFFSET: u16 = 2_000;
/// How long a mesh may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// `tenon dev` on a data folder.
pub(crate) struct Mesh {
    pub(crate) process: Started,
    pub(crate) ready: Ready,
    pub(crate) started_in: Duration,
}

/// What `tenon dev --ready-file` writes.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ready {
    pub(crate) edge: String,
    /// The workflow service's own port.
    pub(crate) workflow: String,
    pub(crate) data_dir: PathBuf,
}

#[derive(Deserialize)]
struct Secrets {
    mesh_key: String,
    master_key: String,
    database_password: String,
    workflow_db_password: String,
}

/// The release binary beside this one.
pub(crate) fn binary() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("tenon");
    if path.exists() { Ok(path) } else { bail!("{} is missing; build it: make bench", path.display()) }
}

impl Mesh {
    /// Starts on a folder, and waits until everything answers.
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let file = folder.join("ready.json");
        let _ = fs::remove_file(&file);
        let began = Instant::now();
        let mut command = Command::new(binary()?);
        command.args(["dev", "--port-offset", &OFFSET.to_string()]);
        command.arg("--data-dir").arg(folder.join("data")).arg("--ready-file").arg(&file);
        // Traces are sampled as a production mesh would; every span of every call would measure the exporter.
        command.env("TENON_TRACE_RATIO", "0.01").env("TENON_LOG", "warn");
        let child = limits(&mut command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut process = Started(child);
        while !file.exists() {
            if let Some(status) = process.0.try_wait()? {
                bail!("tenon dev ended with {status}; run it by hand to see why");
            }
            if began.elapsed() > PATIENCE {
                bail!("tenon dev was not ready after {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let started_in = began.elapsed();
        let ready = serde_json::from_str(&fs::read_to_string(&file)?)?;
        Ok(Self { process, ready, started_in })
    }

    fn secrets(&self) -> Result<Secrets> {
        let text = fs::read_to_string(self.ready.data_dir.join("secrets.toml"))?;
        Ok(toml::from_str(&text)?)
    }

    /// An edge in a process of its own, in front of the same services, or with another one as its workflow service.
    pub(crate) async fn edge(&self, workflow: Option<u16>) -> Result<(Started, String)> {
        let offset = 2 * OFFSET + u16::from(workflow.is_some());
        let (edge, mut command) = (8_080 + offset, self.serve("gateway", offset)?);
        command.env("TENON_EDGE_PORT", edge.to_string()).env("TENON_MAX_CONNECTIONS", "11000");
        if let Some(port) = workflow {
            command.env("TENON_WORKFLOW_URL", format!("http://127.0.0.1:{port}"));
        }
        let process = Started(command.spawn()?);
        answers(edge).await?;
        Ok((process, format!("http://127.0.0.1:{edge}")))
    }

    /// A workflow service in a process of its own, beside the mesh's.
    pub(crate) async fn engine(&self) -> Result<Started> {
        let port = 9_104 + 2 * OFFSET;
        let mut command = self.serve("workflow", 2 * OFFSET)?;
        let database = fs::read_to_string(self.ready.data_dir.join("postgres.port"))?;
        command.env("TENON_DATABASE_URL", format!("postgres://127.0.0.1:{}/tenon", database.trim()));
        command.env("TENON_WORKFLOW_DB_PASSWORD", self.secrets()?.workflow_db_password);
        command.env("TENON_WORKFLOW_PORT", port.to_string());
        let process = Started(command.spawn()?);
        answers(port).await?;
        Ok(process)
    }

    /// `tenon serve PART` with this mesh's keys and services.
    fn serve(&self, part: &str, offset: u16) -> Result<Command> {
        let secrets = self.secrets()?;
        let mut command = Command::new(binary()?);
        command.args(["serve", part]).env("TENON_LOG", "warn").env("TENON_TRACE_RATIO", "0.01");
        command.env("TENON_MESH_KEY", secrets.mesh_key).env("TENON_MASTER_KEY", secrets.master_key);
        command.env("TENON_OPERATOR_KEY", "bench").env("TENON_ADMIN_PORT", (9_100 + offset).to_string());
        for (name, port) in [("AUTH", 9_101), ("TENANT", 9_102), ("BILLING", 9_103), ("WORKFLOW", 9_104)] {
            command.env(format!("TENON_{name}_URL"), format!("http://127.0.0.1:{}", port + OFFSET));
        }
        limits(&mut command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }

    /// Gives the free plan limits that no round reaches, before the bench signs up.
    pub(crate) fn lift_plan_limits(&self) -> Result<()> {
        let lift = format!(
            "update billing.plans set limits = '{{\"rate.read\": {UNLIMITED}, \"rate.write\": {UNLIMITED}, \
             \"rate.login\": {UNLIMITED}, \"rate.ingest\": {UNLIMITED}}}'"
        );
        self.sql(&lift).map(drop)
    }

    /// What a statement of the database's owner prints.
    pub(crate) fn sql(&self, statement: &str) -> Result<String> {
        let output = Command::new("psql").args(["-qAt", "-d", &self.database("tenon")?, "-c", statement]).output();
        let output = output.context("psql is missing")?;
        if !output.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// The URL of a database of the mesh's own Postgres.
    pub(crate) fn database(&self, name: &str) -> Result<String> {
        let port = fs::read_to_string(self.ready.data_dir.join("postgres.port"))?;
        let password = self.secrets()?.database_password;
        Ok(format!("postgres://tenon:{password}@127.0.0.1:{}/{name}", port.trim()))
    }
}

fn limits(command: &mut Command) -> &mut Command {
    for of in ["IP", "TENANT"] {
        for class in ["READ", "WRITE", "LOGIN", "INGEST"] {
            command.env(format!("TENON_RATE_{of}_{class}"), UNLIMITED);
        }
    }
    command
}

/// Waits until a port is open.
pub(crate) async fn answers(port: u16) -> Result<()> {
    let began = Instant::now();
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if began.elapsed() > PATIENCE {
            bail!("nothing answers on port {port}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
