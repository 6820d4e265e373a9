//! `tenon serve`: one part of the mesh, or all of them, until told to stop. `tenon dev` serves by the same code.

use std::{future::Future, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};
use tenon_chassis::{
    Clock, Mesh,
    config::Config,
    secret::Secret,
    server::{Admin, Server},
    telemetry,
};
use tenon_gateway::{Gateway, Upstream};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{migrate, usage};

/// How long what the edge has counted may take to billing at the end.
const LAST_USAGE: Duration = Duration::from_secs(10);

/// What a process serves.
#[derive(Debug, Subcommand)]
pub(crate) enum Target {
    /// Identity: users, sessions, signing keys
    Auth(Box<One<tenon_auth::Config>>),
    /// Tenants: the registry, sign-up, the directory
    Tenant(Box<One<tenon_tenant::Config>>),
    /// Billing: plans, subscriptions, usage, previews of invoices
    Billing(Box<One<tenon_billing::Config>>),
    /// Workflows: templates and their runs
    Workflow(Box<One<tenon_workflow::Config>>),
    /// The edge: HTTP/JSON in, gRPC out
    Gateway(Box<One<tenon_gateway::Config>>),
    /// Every part in one process
    All(Box<All>),
}

/// The settings of a process that serves one part.
#[derive(Debug, Args)]
pub(crate) struct One<C: Args> {
    #[command(flatten)]
    mesh: Config,
    #[command(flatten)]
    own: C,
}

/// The settings of a process that serves every part.
#[derive(Debug, Clone, Args)]
pub(crate) struct All {
    #[command(flatten)]
    pub(crate) mesh: Config,
    #[command(flatten)]
    pub(crate) auth: tenon_auth::Config,
    #[command(flatten)]
    pub(crate) tenant: tenon_tenant::Config,
    #[command(flatten)]
    pub(crate) billing: tenon_billing::Config,
    #[command(flatten)]
    pub(crate) workflow: tenon_workflow::Config,
    #[command(flatten)]
    pub(crate) gateway: tenon_gateway::Config,
}

/// One part of the mesh, with its settings.
pub(crate) enum Part {
    Auth(tenon_auth::Config),
    Tenant(tenon_tenant::Config),
    Billing(tenon_billing::Config),
    Workflow(tenon_workflow::Config),
    Gateway(tenon_gateway::Config),
}

impl All {
    /// Every part; the edge last, since it calls the others.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let mut workflow = self.workflow.clone();
        if workflow.edge_url.is_none() && self.gateway.edge_tls_cert.is_none() {
            workflow.edge_url = Some(format!("http://127.0.0.1:{}", self.gateway.edge_port));
        }
        vec![
            Part::Auth(self.auth.clone()),
            Part::Tenant(self.tenant.clone()),
            Part::Billing(self.billing.clone()),
            Part::Workflow(workflow),
            Part::Gateway(self.gateway.clone()),
        ]
    }
}

impl Target {
    fn into_process(self) -> (&'static str, Config, Vec<Part>) {
        match self {
            Self::Auth(settings) => ("auth", settings.mesh, vec![Part::Auth(settings.own)]),
            Self::Tenant(settings) => ("tenant", settings.mesh, vec![Part::Tenant(settings.own)]),
            Self::Billing(settings) => ("billing", settings.mesh, vec![Part::Billing(settings.own)]),
            Self::Workflow(settings) => ("workflow", settings.mesh, vec![Part::Workflow(settings.own)]),
            Self::Gateway(settings) => ("gateway", settings.mesh, vec![Part::Gateway(settings.own)]),
            Self::All(settings) => ("tenon", settings.mesh.clone(), settings.parts()),
        }
    }
}

impl Part {
    /// The service whose roles this part uses, with their password; the edge has none.
    fn database(&self) -> Option<(&'static str, &Secret)> {
        match self {
            Self::Auth(config) => Some((tenon_auth::NAME, &config.auth_db_password)),
            Self::Tenant(config) => Some((tenon_tenant::NAME, &config.tenant_db_password)),
            Self::Billing(config) => Some((tenon_billing::NAME, &config.billing_db_password)),
            Self::Workflow(config) => Some((tenon_workflow::NAME, &config.workflow_db_password)),
            Self::Gateway(_) => None,
        }
    }

    async fn bind(&self, mesh: &Mesh) -> Result<Bound> {
        Ok(match self {
            Self::Auth(config) => Bound::Service(tenon_auth::bind(mesh, config).await?),
            Self::Tenant(config) => Bound::Service(tenon_tenant::bind(mesh, config).await?),
            Self::Billing(config) => Bound::Service(tenon_billing::bind(mesh, config).await?),
            Self::Workflow(config) => Bound::Service(tenon_workflow::bind(mesh, config).await?),
            Self::Gateway(config) => Bound::Edge(Box::new(edge(mesh, config.clone()).await?)),
        })
    }
}

/// A part that has its port.
enum Bound {
    Service(Server),
    Edge(Box<Gateway>),
}

/// The edge in front of every service of the mesh.
async fn edge(mesh: &Mesh, config: tenon_gateway::Config) -> Result<Gateway> {
    let upstream = |service: &str| {
        let refuse = |why| anyhow!("TENON_{}_URL: {why}", service.to_uppercase());
        Upstream::new(format!("tenon.{service}."), service, &mesh.config.url(service)).map_err(refuse)
    };
    let upstreams: Vec<_> = Config::SERVICES.into_iter().map(upstream).collect::<Result<_>>()?;
    Ok(Gateway::bind(config, mesh, mesh.contract.clone(), &upstreams).await?)
}

/// Serves until SIGTERM or Ctrl-C.
pub(crate) async fn run(target: Target) -> Result<()> {
    let (name, config, parts) = target.into_process();
    let stop = CancellationToken::new();
    on_signal(stop.clone())?;
    process(name, config, parts, stop, async || Ok(())).await
}

/// Serves some parts until stopped: `on_ready` runs once all of them take calls.
///
/// The end has an order: not ready, the edge drains, the services that it calls drain, background work ends, what is
/// left of the traces is sent.
pub(crate) async fn process<F: Future<Output = Result<()>>>(
    name: &'static str,
    config: Config,
    parts: Vec<Part>,
    stop: CancellationToken,
    on_ready: impl FnOnce() -> F,
) -> Result<()> {
    for (service, password) in parts.iter().filter_map(Part::database) {
        let checked = stop.run_until_cancelled(migrate::check(&config, service, password)).await;
        let Some(checked) = checked else { return Ok(()) };
        checked?;
    }
    let telemetry = telemetry::init(&config, name)?;
    let (ready, is_ready) = watch::channel(false);
    let admin = Admin::bind(&config, is_ready, Some(telemetry.metrics())).await?;
    let mesh = Mesh::join(config, Clock::default()).await?;
    let mut running = Running::default();
    // What streams for ever ends with it.
    running.ends[1] = mesh.draining.clone();
    running.last.spawn(admin.serve(running.ends[2].clone()));
    for part in &parts {
        running.start(part.bind(&mesh).await?, &mesh);
    }
    ready.send_replace(true);
    on_ready().await?;
    let died = tokio::select! {
        () = stop.cancelled() => None,
        died = running.any_ends() => Some(died),
    };
    ready.send_replace(false);
    running.end(&mesh.draining).await;
    mesh.leave().await;
    running.ends[2].cancel();
    running.last.join_all().await;
    telemetry.shutdown();
    match died {
        Some(what) => bail!("a part of the process ended by itself: {what}"),
        None => Ok(()),
    }
}

/// What runs, in the order in which it ends: the edge, the services, the admin port.
#[derive(Default)]
struct Running {
    ends: [CancellationToken; 3],
    edge: JoinSet<()>,
    services: JoinSet<()>,
    last: JoinSet<()>,
}

impl Running {
    fn start(&mut self, bound: Bound, mesh: &Mesh) {
        match bound {
            Bound::Service(server) => drop(self.services.spawn(server.serve(self.ends[1].clone()))),
            Bound::Edge(mut gateway) => {
                let shipped = gateway.usage().map(|used| tokio::spawn(usage::ship(mesh.clone(), used)));
                let serving = gateway.serve(self.ends[0].clone());
                self.edge.spawn(async move {
                    serving.await;
                    // Billing still serves: what was counted last gets there.
                    if let Some(shipped) = shipped {
                        let _late = timeout(LAST_USAGE, shipped).await;
                    }
                });
            }
        }
    }

    async fn any_ends(&mut self) -> String {
        let ended = tokio::select! {
            Some(ended) = self.edge.join_next() => ended,
            Some(ended) = self.services.join_next() => ended,
            Some(ended) = self.last.join_next() => ended,
            else => return "nothing was served".to_owned(),
        };
        ended.err().map_or_else(|| "without an error".to_owned(), |error| error.to_string())
    }

    /// `draining` ends the streams that would hold a service's connections open for ever.
    async fn end(&mut self, draining: &CancellationToken) {
        self.ends[0].cancel();
        while self.edge.join_next().await.is_some() {}
        draining.cancel();
        self.ends[1].cancel();
        while self.services.join_next().await.is_some() {}
    }
}

/// Cancels at the first SIGTERM or Ctrl-C; a second one ends the process at once.
pub(crate) fn on_signal(stop: CancellationToken) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    tokio::spawn(async move {
        for is_second in [false, true] {
            tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
            if is_second {
                std::process::exit(130);
            }
            stop.cancel();
        }
    });
    Ok(())
}
