//! The mesh under test: real processes of the real binary.

use std::{collections::BTreeMap, process::Command};

use rustix::process::Signal;
use tonic::transport::{Channel, Endpoint};

use super::{
    Cluster, Database, Edge, Ports, Process, eventually,
    postgres::ROLE_PASSWORD,
    servers::{self, Server},
    tenon,
};

/// What `x-operator-key` must carry.
const OPERATOR_KEY: &str = "test-operator-key";
/// Every part; each can be a process of its own.
pub const PARTS: [&str; 5] = ["auth", "tenant", "billing", "workflow", "gateway"];
/// 32 bytes in base64; the same for every mesh, as they share nothing.
pub const MESH_KEY: &str = "bWVzaC1rZXktb2YtdGhlLXRlc3RzLTMyLWJ5dGVzISE=";
const MASTER_KEY: &str = "bWFzdGVyLWtleS1vZi10aGUtdGVzdHMtMzItYnl0ZXM=";

/// What the mesh stands on besides Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backends {
    /// Nothing: limits per process, the outbox is the bus.
    Embedded,
    /// Redis and NATS JetStream.
    Full,
}

/// A mesh that runs.
#[derive(Debug)]
pub struct Mesh {
    pub edge: Edge,
    /// The gRPC port of each service.
    pub ports: BTreeMap<&'static str, u16>,
    pub database: Database,
    settings: Vec<(String, String)>,
    processes: BTreeMap<&'static str, Slot>,
    servers: Vec<Server>,
    cluster: Option<Cluster>,
    _ports: Vec<Ports>,
}

impl std::ops::Deref for Mesh {
    type Target = Edge;
    fn deref(&self) -> &Edge {
        &self.edge
    }
}

/// A process of the mesh, and how it is started (again).
#[derive(Debug)]
struct Slot {
    command: Command,
    admin_port: u16,
    process: Option<Process>,
}

impl Mesh {
    /// The whole mesh in one process, on a database of its own.
    pub async fn start(backends: Backends) -> Self {
        Self::launch(backends, &["all"], &[]).await
    }

    /// As `start`, with more settings: `[("TENON_ACCESS_TOKEN_S", "60")]`.
    pub async fn start_with(backends: Backends, settings: &[(&str, &str)]) -> Self {
        Self::launch(backends, &["all"], settings).await
    }

    /// Five processes.
    pub async fn start_separately(backends: Backends) -> Self {
        Self::launch(backends, &PARTS, &[]).await
    }

    /// As `start_separately`, with more settings.
    pub async fn start_separately_with(backends: Backends, settings: &[(&str, &str)]) -> Self {
        Self::launch(backends, &PARTS, settings).await
    }

    /// As `start_with`, on a Postgres of its own that `crash_postgres` may crash.
    pub async fn start_on_own_postgres(backends: Backends, settings: &[(&str, &str)]) -> Self {
        let ports = Ports::take();
        let cluster = Cluster::start(ports.next());
        let database = Database::on(cluster.port);
        let mut mesh = Self::launch_on(database, backends, &["all"], settings).await;
        mesh._ports.push(ports);
        mesh.cluster = Some(cluster);
        mesh
    }

    async fn launch(backends: Backends, targets: &[&'static str], more: &[(&str, &str)]) -> Self {
        Self::launch_on(Database::create().await, backends, targets, more).await
    }

    async fn launch_on(
        database: Database,
        backends: Backends,
        targets: &[&'static str],
        more: &[(&str, &str)],
    ) -> Self {
        let (own, admin) = (Ports::take(), Ports::take());
        let edge = own.next();
        let ports: BTreeMap<_, _> = PARTS[..4].iter().map(|service| (*service, own.next())).collect();
        let mut settings = base_settings(&database, edge, &ports);
        let mut servers = Vec::new();
        if backends == Backends::Full {
            let (redis, nats) = (servers::redis(&own), servers::nats(&own));
            settings.push(("TENON_REDIS_URL".to_owned(), redis.url.clone()));
            settings.push(("TENON_NATS_URL".to_owned(), nats.url.clone()));
            servers.extend([redis, nats]);
        }
        settings.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut mesh = Self {
            edge: Edge::new(&format!("http://127.0.0.1:{edge}"), OPERATOR_KEY),
            ports,
            database,
            settings,
            processes: BTreeMap::new(),
            servers,
            cluster: None,
            _ports: Vec::new(),
        };
        for target in targets {
            let (mut command, admin_port) = (tenon(), admin.next());
            command.args(["serve", target]).envs(mesh.settings.iter().cloned());
            command.env("TENON_ADMIN_PORT", admin_port.to_string());
            mesh.processes.insert(target, Slot { command, admin_port, process: None });
        }
        mesh._ports = vec![own, admin];
        for target in targets {
            mesh.restart(target).await;
        }
        mesh
    }

    /// Starts a process (again) and waits until it is ready.
    pub async fn restart(&mut self, target: &'static str) {
        let http = self.edge.http.clone();
        let slot = self.slot(target);
        let mut process = Process::start(target, &slot.command);
        let url = format!("http://127.0.0.1:{}/readyz", slot.admin_port);
        let what = format!("{target} is ready at {url}");
        let ready = eventually(&what, || {
            let ended = (!process.is_running()).then(|| process.log());
            let asked = http.get(&url).send();
            async move {
                match ended {
                    Some(log) => Some(Err(log)),
                    None => asked.await.is_ok_and(|answer| answer.status().is_success()).then_some(Ok(())),
                }
            }
        });
        if let Err(log) = ready.await {
            panic!("{target} ended instead of serving:\n{log}");
        }
        self.slot(target).process = Some(process);
    }

    /// Starts a process (again) that is to fail where `TENON_FAILPOINTS` says, and does not wait for it.
    pub fn start_failing(&mut self, target: &'static str, failpoints: &str) {
        let slot = self.slot(target);
        slot.command.env("TENON_FAILPOINTS", failpoints);
        slot.process = Some(Process::start(target, &slot.command));
        slot.command.env_remove("TENON_FAILPOINTS");
    }

    /// Whether a process has ended by itself.
    pub fn has_ended(&mut self, target: &'static str) -> bool {
        self.slot(target).process.as_mut().is_none_or(|process| !process.is_running())
    }

    /// Starts one more replica of a part, under a name and on a port of its own.
    pub async fn add(&mut self, name: &'static str, part: &str) {
        let own = Ports::take();
        let (mut command, admin_port) = (tenon(), own.next());
        command.args(["serve", part]).envs(self.settings.iter().cloned());
        command.env("TENON_ADMIN_PORT", admin_port.to_string());
        command.env(format!("TENON_{}_PORT", part.to_uppercase()), own.next().to_string());
        self.processes.insert(name, Slot { command, admin_port, process: None });
        self._ports.push(own);
        self.restart(name).await;
    }

    /// Stops a process where it stands (STOP), or lets it go on (CONT).
    pub fn signal(&mut self, target: &'static str, signal: Signal) {
        let process = self.slot(target).process.as_ref();
        process.unwrap_or_else(|| panic!("{target} does not run")).signal(signal);
    }

    /// Redis or NATS of this mesh, for tests that stop it.
    pub fn backend(&self, name: &str) -> &Process {
        let server = self.servers.iter().find(|server| server.url.starts_with(name));
        &server.unwrap_or_else(|| panic!("this mesh has no {name}")).process
    }

    /// Where Redis or NATS listens.
    pub fn backend_url(&self, name: &str) -> &str {
        let server = self.servers.iter().find(|server| server.url.starts_with(name));
        &server.unwrap_or_else(|| panic!("this mesh has no {name}")).url
    }

    /// `kill -9` of Redis or NATS, and a start on what it had written.
    pub fn restart_backend(&mut self, name: &str) {
        let server = self.servers.iter_mut().find(|server| server.url.starts_with(name));
        server.unwrap_or_else(|| panic!("this mesh has no {name}")).restart();
    }

    /// An immediate stop of the mesh's own Postgres, and a start that recovers.
    pub fn crash_postgres(&mut self) {
        self.cluster.as_mut().expect("this mesh has a Postgres of its own").crash();
    }

    /// `kill -9` of a process (`all` or a part); `restart` starts it again.
    pub fn kill_9(&mut self, target: &'static str) {
        self.slot(target).process.take().unwrap_or_else(|| panic!("{target} does not run")).kill_9();
    }

    /// Ends a process as a deployment does, and waits: the exit code.
    pub fn terminate(&mut self, target: &'static str) -> Option<i32> {
        let mut process = self.slot(target).process.take().unwrap_or_else(|| panic!("{target} does not run"));
        process.signal(Signal::TERM);
        process.wait()
    }

    /// The port of a process' health and metrics.
    pub fn admin_port(&self, target: &'static str) -> u16 {
        self.processes.get(target).unwrap_or_else(|| panic!("no process of this mesh serves {target}")).admin_port
    }

    /// What a process has printed.
    pub fn log(&self, target: &'static str) -> String {
        self.processes.get(target).and_then(|slot| slot.process.as_ref()).map(Process::log).unwrap_or_default()
    }

    fn slot(&mut self, target: &'static str) -> &mut Slot {
        self.processes.get_mut(target).unwrap_or_else(|| panic!("no process of this mesh serves {target}"))
    }

    /// A gRPC connection to a service's own port.
    pub fn grpc(&self, service: &str) -> Channel {
        let uri = format!("http://127.0.0.1:{}", self.ports[service]);
        Endpoint::try_from(uri).expect("an address of ours").connect_lazy()
    }

    /// A token of the mesh, as `tenon token` mints it.
    pub fn mesh_token(&self, service: &str, tenant: Option<&str>, roles: &[&str]) -> String {
        let mut command = tenon();
        command.args(["token", service]).env("TENON_MESH_KEY", MESH_KEY);
        command.args(tenant.iter().flat_map(|tenant| ["--tenant", tenant]));
        command.args(roles.iter().flat_map(|role| ["--role", role]));
        let output = command.output().expect("the binary can be started");
        assert!(output.status.success(), "tenon token failed: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a token is text").trim().to_owned()
    }
}

fn base_settings(database: &Database, edge: u16, ports: &BTreeMap<&'static str, u16>) -> Vec<(String, String)> {
    let mut settings = vec![
        ("TENON_DATABASE_URL".to_owned(), database.url()),
        ("TENON_DATABASE_POOL".to_owned(), "4".to_owned()),
        ("TENON_EDGE_PORT".to_owned(), edge.to_string()),
        ("TENON_MESH_KEY".to_owned(), MESH_KEY.to_owned()),
        ("TENON_MASTER_KEY".to_owned(), MASTER_KEY.to_owned()),
        ("TENON_OPERATOR_KEY".to_owned(), OPERATOR_KEY.to_owned()),
        ("TENON_LOG".to_owned(), "info".to_owned()),
    ];
    for (service, port) in ports {
        let name = service.to_uppercase();
        settings.push((format!("TENON_{name}_PORT"), port.to_string()));
        settings.push((format!("TENON_{name}_DB_PASSWORD"), ROLE_PASSWORD.to_owned()));
    }
    // Every test comes from one address: its limits must not be what is tested by accident.
    for class in ["READ", "WRITE", "LOGIN", "INGEST"] {
        settings.push((format!("TENON_RATE_IP_{class}"), "1000000".to_owned()));
    }
    settings
}
