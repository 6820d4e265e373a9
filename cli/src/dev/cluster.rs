//! A private Postgres cluster made from the machine's binaries: created once, started, and never left behind.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::time::Instant;

use super::{account::Account, binaries::Binaries, folder::Folder, initdb, orphan, ports};

/// The role that owns the database and runs the migrations.
pub(crate) const OWNER: &str = "tenon";
/// The database of the mesh.
pub(crate) const DATABASE: &str = "tenon";

const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(25);
const PORT_TRIES: usize = 3;

/// A running Postgres. Dropping it ends the server, by the guard that it runs under.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) port: u16,
    guard: Child,
    /// Open as long as this process lives: the guard ends Postgres when it closes.
    lifeline: Option<ChildStdin>,
}

/// What a start needs to know.
struct Plan<'a> {
    binaries: Binaries,
    account: Option<Account>,
    /// The cluster's own folder.
    data: PathBuf,
    folder: &'a Folder,
    password: &'a str,
}

impl Cluster {
    /// Creates the cluster when it is missing, ends what an earlier start left, and starts it.
    pub(crate) async fn start(folder: &Folder, account: Option<Account>, password: &str) -> Result<Self> {
        let home = folder.for_postgres(account.as_ref())?;
        let data = home.join("postgres");
        let binaries = Binaries::find(initdb::version_of(&data)?)?;
        let plan = Plan { binaries, account, data, folder, password };
        if initdb::version_of(&plan.data)?.is_none() {
            initdb::create(&plan.binaries, plan.account.as_ref(), &plan.data, password, folder.is_ephemeral)?;
        }
        orphan::end(&plan.data).await?;
        let mut tried = Vec::new();
        while tried.len() < PORT_TRIES {
            let port = plan.choose_port(&tried)?;
            let mut cluster = plan.spawn(port)?;
            if cluster.answers(&plan).await? {
                fs::write(plan.port_file(), port.to_string())?;
                return Ok(cluster);
            }
            tried.push(port);
        }
        bail!("Postgres does not start; its log {} says:\n{}", plan.log().display(), tail(&plan.log()))
    }

    /// The address of the database, as its owner.
    pub(crate) fn owner_url(&self, password: &str) -> String {
        format!("postgres://{OWNER}:{password}@127.0.0.1:{}/{DATABASE}", self.port)
    }

    /// The address of the database without anyone's name.
    pub(crate) fn url(&self) -> String {
        format!("postgres://127.0.0.1:{}/{DATABASE}", self.port)
    }

    /// Ends Postgres with a fast shutdown and waits for it.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.lifeline.take();
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.guard.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!(
                    "Postgres did not stop in {} s; its guard is process {}",
                    STOP_TIMEOUT.as_secs(),
                    self.guard.id()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until Postgres takes connections; false when it ended instead, as it does when its port is taken.
    async fn answers(&mut self, plan: &Plan<'_>) -> Result<bool> {
        let url = format!("postgres://{OWNER}:{}@127.0.0.1:{}/postgres", plan.password, self.port);
        let (started, mut said) = (Instant::now(), 0);
        loop {
            let Err(why) = crate::migrate::store::connect(&url).await else { return Ok(true) };
            if self.guard.try_wait()?.is_some() {
                return Ok(false);
            }
            if crate::migrate::store::is_wrong_password(&why) {
                bail!(
                    "the database in {} does not take the password in {}: they belong to different starts. Restore the file, or remove both (this loses the data)",
                    plan.data.display(),
                    plan.folder.path("secrets.toml").display()
                );
            }
            let waited = started.elapsed();
            if waited > START_TIMEOUT {
                bail!("Postgres did not answer in {} s ({why}); its log is {}", waited.as_secs(), plan.log().display());
            }
            if waited.as_secs() / 5 > said {
                said = waited.as_secs() / 5;
                crate::say(&format!(
                    "waiting for Postgres ({} s); its log is {}",
                    waited.as_secs(),
                    plan.log().display()
                ));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
}

impl Drop for Cluster {
    /// A start that fails half-way must not hand the terminal back while Postgres still runs.
    fn drop(&mut self) {
        self.lifeline.take();
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(self.guard.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Plan<'_> {
    fn log(&self) -> PathBuf {
        self.folder.path("postgres.log")
    }

    fn port_file(&self) -> PathBuf {
        self.folder.path("postgres.port")
    }

    /// The port of the last time when it is free, so that a psql line in somebody's history keeps working.
    fn choose_port(&self, tried: &[u16]) -> Result<u16> {
        let last = fs::read_to_string(self.port_file()).ok().and_then(|text| text.trim().parse().ok());
        match last.filter(|port| !tried.contains(port) && ports::is_free(*port)) {
            Some(port) => Ok(port),
            None => ports::free(),
        }
    }

    fn spawn(&self, port: u16) -> Result<Cluster> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program's own file")?);
        command.args(["guard", "--interrupt", "--log"]).arg(self.log());
        if let Some(account) = &self.account {
            command.args(["--uid", &account.uid.to_string(), "--gid", &account.gid.to_string()]);
        }
        if self.folder.is_ephemeral {
            command.arg("--remove").arg(&self.folder.root);
        }
        command.arg("--").arg(self.binaries.program("postgres")).arg("-D").arg(&self.data);
        command.args(settings(port, self.folder.is_ephemeral).iter().flat_map(|setting| ["-c", setting]));
        // Its own group: a Ctrl-C in the terminal must not end the database before the mesh has drained.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guard = command.spawn().context("cannot start the guard of Postgres")?;
        let lifeline = guard.stdin.take();
        let mut pid = String::new();
        if let Some(output) = guard.stdout.take() {
            BufReader::new(output).read_line(&mut pid)?;
        }
        Ok(Cluster { port, guard, lifeline })
    }
}

/// Small, as fits a developer's machine; loopback only; durable unless the data is thrown away anyway.
fn settings(port: u16, is_ephemeral: bool) -> Vec<String> {
    let mut settings = vec![
        format!("port={port}"),
        "listen_addresses=127.0.0.1".into(),
        "unix_socket_directories=".into(),
        // What is thrown away may serve a test run on a machine of many cores: each mesh of it has some forty.
        format!("max_connections={}", if is_ephemeral { 1_000 } else { 100 }),
        "shared_buffers=32MB".into(),
        "huge_pages=off".into(),
        "wal_level=minimal".into(),
        "max_wal_senders=0".into(),
        "max_wal_size=256MB".into(),
        "jit=off".into(),
        "timezone=UTC".into(),
        "log_timezone=UTC".into(),
        "password_encryption=scram-sha-256".into(),
    ];
    if cfg!(target_os = "linux") {
        // After a crash one sync of the file system instead of one for each of some 2,000 files: seconds less.
        settings.push("recovery_init_sync_method=syncfs".into());
    }
    if is_ephemeral {
        settings.extend(["fsync=off".into(), "synchronous_commit=off".into(), "full_page_writes=off".into()]);
    }
    settings
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
