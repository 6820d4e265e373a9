//! What every process is told: addresses, secrets, servers, limits. Flags > environment > file > defaults.

use std::net::{IpAddr, SocketAddr};

use clap::Args;

use crate::secret::{Key, Secret};

/// The settings that every process of the mesh takes.
#[derive(Debug, Clone, Args)]
#[group(skip)]
#[command(next_help_heading = "Mesh")]
pub struct Config {
    /// The address to listen on; 0.0.0.0 in a container
    #[arg(long, env = "TENON_BIND", default_value = "127.0.0.1")]
    pub bind: IpAddr,
    /// The domain that tenants' hosts are labels of: acme.localhost
    #[arg(long, env = "TENON_DOMAIN", default_value = "localhost")]
    pub domain: String,

    /// The port of the auth service
    #[arg(long, env = "TENON_AUTH_PORT", default_value_t = 9101)]
    pub auth_port: u16,
    /// The port of the tenant service
    #[arg(long, env = "TENON_TENANT_PORT", default_value_t = 9102)]
    pub tenant_port: u16,
    /// The port of the billing service
    #[arg(long, env = "TENON_BILLING_PORT", default_value_t = 9103)]
    pub billing_port: u16,
    /// The port of the workflow service
    #[arg(long, env = "TENON_WORKFLOW_PORT", default_value_t = 9104)]
    pub workflow_port: u16,
    /// The port of health (/healthz, /readyz) and metrics (/metrics), plaintext
    #[arg(long, env = "TENON_ADMIN_PORT", default_value_t = 9100)]
    pub admin_port: u16,

    /// Where others reach auth [default: http://127.0.0.1 and its port]
    #[arg(long, env = "TENON_AUTH_URL")]
    pub auth_url: Option<String>,
    /// Where others reach tenant [default: http://127.0.0.1 and its port]
    #[arg(long, env = "TENON_TENANT_URL")]
    pub tenant_url: Option<String>,
    /// Where others reach billing [default: http://127.0.0.1 and its port]
    #[arg(long, env = "TENON_BILLING_URL")]
    pub billing_url: Option<String>,
    /// Where others reach workflow [default: http://127.0.0.1 and its port]
    #[arg(long, env = "TENON_WORKFLOW_URL")]
    pub workflow_url: Option<String>,

    /// The key that services sign their own calls with: 32 bytes in base64, the same everywhere
    #[arg(long, env = "TENON_MESH_KEY", hide_env_values = true)]
    pub mesh_key: Key,
    /// The key that stored secrets are sealed under: 32 bytes in base64, the same everywhere
    #[arg(long, env = "TENON_MASTER_KEY", hide_env_values = true)]
    pub master_key: Key,
    /// The credential that opens OPERATOR methods, sent as x-operator-key
    #[arg(long, env = "TENON_OPERATOR_KEY", hide_env_values = true)]
    pub operator_key: Secret,

    /// The Postgres server and database, without a user: postgres://127.0.0.1:5432/tenon
    #[arg(long, env = "TENON_DATABASE_URL")]
    pub database_url: Option<String>,
    /// Connections of one service at most; 10 keep two cores of Postgres busy
    #[arg(long, env = "TENON_DATABASE_POOL", default_value_t = 10)]
    pub database_pool: u32,
    /// Redis, for rate limits and answers under keys shared by several edges; without it they are per process
    #[arg(long, env = "TENON_REDIS_URL")]
    pub redis_url: Option<String>,
    /// NATS with JetStream, for events; without it the outbox itself is the bus
    #[arg(long, env = "TENON_NATS_URL")]
    pub nats_url: Option<String>,

    /// Where traces go, OTLP over gRPC: http://127.0.0.1:4317; without it none are sent
    #[arg(long, env = "TENON_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// The share of new traces that are kept, 0 to 1
    #[arg(long, env = "TENON_TRACE_RATIO", default_value_t = 1.0)]
    pub trace_ratio: f64,
    /// What is logged, by tracing's filter syntax
    #[arg(long, env = "TENON_LOG", default_value = "info")]
    pub log: String,
    /// How it is logged: text or json
    #[arg(long, env = "TENON_LOG_FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub log_format: String,

    /// Seconds that one gRPC call may take when its caller sets no deadline
    #[arg(long, env = "TENON_CALL_TIMEOUT_S", default_value_t = 30)]
    pub call_timeout_s: u64,
    /// Seconds until a connection is asked to reconnect (GOAWAY), so that clients find new replicas
    #[arg(long, env = "TENON_CONNECTION_AGE_S", default_value_t = 300)]
    pub connection_age_s: u64,
    /// Seconds that calls in flight get to end when a process stops
    #[arg(long, env = "TENON_DRAIN_S", default_value_t = 10)]
    pub drain_s: u64,
    /// Connections that one port holds at most
    #[arg(long, env = "TENON_MAX_CONNECTIONS", default_value_t = 10_000)]
    pub max_connections: usize,
}

impl Config {
    /// The services, in the order in which they start.
    pub const SERVICES: [&'static str; 4] = ["auth", "tenant", "billing", "workflow"];

    /// Where a service listens.
    ///
    /// # Panics
    /// On a name that is not in `SERVICES`.
    #[must_use]
    pub fn listen(&self, service: &str) -> SocketAddr {
        SocketAddr::new(self.bind, self.service(service).0)
    }

    /// Where the others reach a service.
    ///
    /// # Panics
    /// On a name that is not in `SERVICES`.
    #[must_use]
    pub fn url(&self, service: &str) -> String {
        let (port, url) = self.service(service);
        url.clone().unwrap_or_else(|| format!("http://127.0.0.1:{port}"))
    }

    /// The service behind a proto package or gRPC path: `tenon.auth.v1...` or `/tenon.auth.v1...` is auth.
    #[must_use]
    pub fn service_of(path: &str) -> Option<&'static str> {
        let name = path.trim_start_matches('/').strip_prefix("tenon.")?.split('.').next()?;
        Self::SERVICES.into_iter().find(|service| *service == name)
    }

    fn service(&self, service: &str) -> (u16, &Option<String>) {
        match service {
            "auth" => (self.auth_port, &self.auth_url),
            "tenant" => (self.tenant_port, &self.tenant_url),
            "billing" => (self.billing_port, &self.billing_url),
            "workflow" => (self.workflow_port, &self.workflow_url),
            other => panic!("no service is named {other}"),
        }
    }
}
