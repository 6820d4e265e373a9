//! `tenon dev`: the whole mesh in one process on loopback, with a Postgres of its own.

mod account;
pub(crate) mod alone;
pub(crate) mod binaries;
mod cluster;
mod folder;
mod initdb;
mod orphan;
pub(crate) mod ports;
mod ready;
mod secrets;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{ArgMatches, Args};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    migrate,
    serve::{self, All},
    settings::Values,
    trace::TracePage,
};
use account::Account;
use cluster::Cluster;
use folder::Folder;
use ready::Ready;
use secrets::Secrets;

/// What opens OPERATOR methods in dev, unless TENON_OPERATOR_KEY says otherwise.
const OPERATOR_KEY: &str = "dev-operator";
/// How long the parts may take to answer once they are started.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// The flags of `tenon dev`; every setting of `tenon serve all` can be given too.
#[derive(Debug, Clone, Args)]
pub(crate) struct Flags {
    /// Where data is kept
    #[arg(long, env = "TENON_DATA_DIR", default_value = ".tenon")]
    data_dir: PathBuf,
    /// Keep nothing: a temporary folder that is removed at the end
    #[arg(long)]
    ephemeral: bool,
    /// Move every port by this much
    #[arg(long, env = "TENON_PORT_OFFSET", default_value_t = 0)]
    port_offset: u16,
    /// The port of the trace page
    #[arg(long, env = "TENON_TRACE_PORT", default_value_t = 16686)]
    trace_port: u16,
    /// Write where everything is to this file, as JSON, once everything answers
    #[arg(long, env = "TENON_READY_FILE")]
    ready_file: Option<PathBuf>,
}

/// What must be known before anything starts.
pub(crate) struct Plan {
    flags: Flags,
    bind: IpAddr,
    ports: Vec<(&'static str, u16)>,
    /// A database that is there already: then there is no private cluster.
    has_database: bool,
    has_otlp: bool,
    admin_database_url: Option<String>,
}

/// The ports as defaults below what the file says: the first thing that `tenon dev` makes up.
pub(crate) fn defaults(flags: &Flags) -> Result<Values> {
    let ports = ports::moved(flags.port_offset)?;
    Ok(ports.into_iter().map(|(flag, port)| (flag.replace('-', "_"), vec![port.to_string()])).collect())
}

impl Plan {
    /// Reads what counts from the command line, with the ports put in, and checks every port.
    pub(crate) fn new(flags: Flags, matches: &ArgMatches) -> Result<Self> {
        let port = |flag: &str| matches.get_one::<u16>(&flag.replace('-', "_")).copied();
        let ports: Vec<_> = ports::NAMES.iter().filter_map(|(_, flag, _)| Some((*flag, port(flag)?))).collect();
        let bind = *matches.get_one::<IpAddr>("bind").context("bind has a default")?;
        ports::check(bind, &ports)?;
        let is_set = |id| matches.get_one::<String>(id).is_some_and(|text| !text.is_empty());
        let admin_database_url = std::env::var("TENON_ADMIN_DATABASE_URL").ok();
        let (has_database, has_otlp) = (is_set("database_url"), is_set("otlp_endpoint"));
        if has_database && admin_database_url.is_none() {
            bail!(
                "TENON_DATABASE_URL is set, so no private Postgres is started: set TENON_ADMIN_DATABASE_URL too (its owner, who migrates), or unset it"
            );
        }
        Ok(Self { flags, bind, ports, has_database, has_otlp, admin_database_url })
    }

    fn url(&self, wanted: &str) -> String {
        let port = self.ports.iter().find(|(flag, _)| *flag == wanted).map_or(0, |(_, port)| *port);
        format!("http://{}:{port}", reachable(self.bind))
    }
}

/// What was started for the mesh, and how the mesh is told of it.
pub(crate) struct Ground {
    folder: Folder,
    cluster: Option<Cluster>,
    trace: TracePage,
    /// Settings below the environment and the file.
    pub(crate) values: Values,
}

/// Starts what the mesh stands on: the data folder, Postgres, the trace page.
pub(crate) async fn prepare(plan: &Plan) -> Result<Ground> {
    let account = Account::for_postgres()?;
    let folder = match plan.flags.ephemeral {
        true => Folder::temporary(account.as_ref())?,
        false => Folder::open(&plan.flags.data_dir)?,
    };
    let secrets = Secrets::load_or_create(&folder.path("secrets.toml"), &mut rand::rng())?;
    let trace_port = plan.ports.iter().find(|(flag, _)| *flag == "trace-port").context("a port of ours")?.1;
    let trace = TracePage::bind(plan.bind, trace_port).await?;
    let cluster = match plan.has_database {
        true => None,
        false => Some(Cluster::start(&folder, account, &secrets.database_password).await?),
    };
    let mut values: Values = [
        ("mesh_key", secrets.mesh_key.as_str()),
        ("master_key", &secrets.master_key),
        ("operator_key", OPERATOR_KEY),
        ("auth_db_password", &secrets.auth_db_password),
        ("tenant_db_password", &secrets.tenant_db_password),
        ("billing_db_password", &secrets.billing_db_password),
        ("workflow_db_password", &secrets.workflow_db_password),
    ]
    .map(|(key, value)| (key.to_owned(), vec![value.to_owned()]))
    .into();
    let admin = match &cluster {
        Some(cluster) => {
            values.insert("database_url".to_owned(), vec![cluster.url()]);
            cluster.owner_url(&secrets.database_password)
        }
        None => plan.admin_database_url.clone().context("checked with the ports")?,
    };
    values.insert("admin_database_url".to_owned(), vec![admin]);
    if !plan.has_otlp {
        values.insert("otlp_endpoint".to_owned(), vec![trace.otlp_endpoint()?]);
    }
    Ok(Ground { folder, cluster, trace, values })
}

/// Migrates and serves until stopped, then ends what was started.
pub(crate) async fn run(
    plan: Plan,
    ground: Ground,
    all: All,
    migration: migrate::Settings,
    started: Instant,
) -> Result<()> {
    let stop = CancellationToken::new();
    serve::on_signal(stop.clone())?;
    let Ground { folder, cluster, trace, .. } = ground;
    let (page_stop, page_ended) = (CancellationToken::new(), CancellationToken::new());
    let page = tokio::spawn({
        let (stop, ended) = (page_stop.clone(), page_ended.clone().drop_guard());
        async move {
            let _ended = ended;
            trace.serve(stop).await
        }
    });
    let mesh = async {
        let Some(applied) = stop.run_until_cancelled(migrate::run(&migration)).await else { return Ok(()) };
        let applied = applied?;
        if !applied.is_empty() {
            crate::say(&format!("applied {} migrations", applied.len()));
        }
        let ready = Ready {
            edge: plan.url("edge-port"),
            auth: plan.url("auth-port"),
            tenant: plan.url("tenant-port"),
            billing: plan.url("billing-port"),
            workflow: plan.url("workflow-port"),
            admin: plan.url("admin-port"),
            trace: plan.url("trace-port"),
            operator_key: all.mesh.operator_key.expose().to_owned(),
            data_dir: folder.root.display().to_string(),
        };
        let on_ready = async || announce(&plan, &ready, started).await;
        serve::process("tenon", all.mesh.clone(), all.parts(), stop.clone(), on_ready).await
    };
    let result = tokio::select! {
        result = mesh => result,
        () = page_ended.cancelled() => Err(anyhow::anyhow!("the trace page ended by itself")),
    };
    if let Some(file) = &plan.flags.ready_file {
        let _not_written = std::fs::remove_file(file);
    }
    page_stop.cancel();
    let page = page.await?;
    if let Some(cluster) = cluster {
        cluster.stop().await?;
    }
    if result.is_ok() {
        crate::say("everything is stopped");
    }
    result.and(page)
}

/// Says where everything is, once everything answers.
async fn announce(plan: &Plan, ready: &Ready, started: Instant) -> Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    for (flag, port) in &plan.ports {
        while tokio::net::TcpStream::connect((reachable(plan.bind), *port)).await.is_err() {
            if Instant::now() > deadline {
                bail!("nothing answers on port {port} ({flag}) after {} s", READY_TIMEOUT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    if let Some(file) = &plan.flags.ready_file {
        ready.write(file)?;
    }
    println!("{}", ready.banner(started.elapsed().as_millis(), plan.flags.ephemeral));
    Ok(())
}

/// Where a client on this machine finds what listens on an address.
fn reachable(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}
