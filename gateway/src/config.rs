//! What the edge is told. Flags > environment > file > defaults.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use tenon_proto::options::v1::policy::Rate;

use crate::{limit::Quota, stack::Cidr};

/// The settings of the edge.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Edge")]
#[group(skip)]
pub struct Config {
    /// The port of the edge: HTTP/1.1 and HTTP/2, plain (h2c) or with --edge-tls-cert
    #[arg(long, env = "TENON_EDGE_PORT", default_value_t = 8080)]
    pub edge_port: u16,
    /// Web origins that may call from a browser, separated by commas: https://app.example.com; * is any, without credentials
    #[arg(long, env = "TENON_CORS_ORIGINS", value_delimiter = ',')]
    pub cors_origins: Vec<String>,
    /// Proxies in front whose x-forwarded-for is believed, as CIDRs separated by commas: 10.0.0.0/8
    #[arg(long, env = "TENON_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<Cidr>,
    /// The certificate chain of the edge's port, PEM: https and HTTP/2 by ALPN, no plain HTTP; read again when it changes
    #[arg(long, env = "TENON_EDGE_TLS_CERT", value_name = "FILE", requires = "edge_tls_key")]
    pub edge_tls_cert: Option<PathBuf>,
    /// The private key of the certificate, PEM
    #[arg(long, env = "TENON_EDGE_TLS_KEY", value_name = "FILE", requires = "edge_tls_cert")]
    pub edge_tls_key: Option<PathBuf>,
    /// A folder with the certificates of hosts: HOST.crt and HOST.key, HOST/tls.crt and tls.key, or HOST/fullchain.pem and
    /// privkey.pem; _wildcard.HOST is *.HOST; read again when it changes
    #[arg(long, env = "TENON_EDGE_TLS_CERTS", value_name = "DIR", requires = "edge_tls_cert")]
    pub edge_tls_certs: Option<PathBuf>,
    /// A second port, of plain HTTP, that sends everyone to https and answers ACME challenges
    #[arg(long, env = "TENON_EDGE_HTTP_PORT", value_name = "PORT", requires = "edge_tls_cert")]
    pub edge_http_port: Option<u16>,
    /// A folder with the tokens of ACME's HTTP-01 challenge, served at /.well-known/acme-challenge/
    #[arg(long, env = "TENON_EDGE_ACME_CHALLENGES", value_name = "DIR")]
    pub edge_acme_challenges: Option<PathBuf>,
    /// Clients reach the edge by https only, through a proxy that ends TLS: send Strict-Transport-Security
    #[arg(long, env = "TENON_PUBLIC_HTTPS")]
    pub public_https: bool,
    /// A TOML file with an [[upstream]] for each service of your own behind the edge; read again when it changes
    #[arg(long, env = "TENON_UPSTREAMS", value_name = "FILE")]
    pub upstreams: Option<PathBuf>,
    /// Serve /openapi.json and the reference page /docs
    #[arg(long, env = "TENON_EDGE_DOCS", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub edge_docs: bool,
    /// Seconds that a request may take; a client may ask for less with x-request-timeout
    #[arg(long, env = "TENON_EDGE_TIMEOUT_S", default_value_t = 30)]
    pub edge_timeout_s: u64,
    /// Seconds that a client may take to send a body
    #[arg(long, env = "TENON_EDGE_BODY_TIMEOUT_S", default_value_t = 15)]
    pub edge_body_timeout_s: u64,
    /// Seconds between saying that it is about to stop (/readyz, grpc.health) and closing the port: as long as load
    /// balancers need to notice
    #[arg(long, env = "TENON_EDGE_DRAIN_WAIT_S", default_value_t = 0)]
    pub edge_drain_wait_s: u64,
    /// Bytes from which an answer of JSON or text is compressed with gzip for clients that take it; 0 is never
    #[arg(long, env = "TENON_EDGE_GZIP_FROM", default_value_t = 1_024)]
    pub edge_gzip_from: usize,
    /// Threads that serve, each with connections of its own; one a core when it is not said
    #[arg(long, env = "TENON_EDGE_THREADS")]
    pub edge_threads: Option<usize>,
    /// Requests that the edge serves at one time; more are answered 503 with Retry-After
    #[arg(long, env = "TENON_EDGE_MAX_REQUESTS", default_value_t = 4_096)]
    pub edge_max_requests: usize,
    /// Seconds that a stream may be silent in both directions; 0 is no limit
    #[arg(long, env = "TENON_EDGE_STREAM_IDLE_S", default_value_t = 900)]
    pub edge_stream_idle_s: u64,
    /// Seconds between the comments that keep a silent event stream open
    #[arg(long, env = "TENON_EDGE_KEEP_ALIVE_S", default_value_t = 15)]
    pub edge_keep_alive_s: u64,
    /// Streams that one tenant, or one address without a token, may hold open at once
    #[arg(long, env = "TENON_EDGE_STREAMS", default_value_t = 1_000)]
    pub edge_streams: usize,
    /// Milliseconds that the answer of a metered call to a service of your own waits for billing to have it, at most; with 0
    /// an edge that is killed loses what it has not sent yet
    #[arg(long, env = "TENON_EDGE_USAGE_HOLD_MS", default_value_t = 250)]
    pub edge_usage_hold_ms: u64,
    #[command(flatten)]
    pub rates: Rates,
}

/// Calls a minute by rate class. A burst is what 10 seconds allow, and at least 20.
///
/// One address may be an office behind one NAT: reads and writes leave room for a hundred people, while LOGIN is what an
/// attacker hammers and costs 16 ms of a core each time. A tenant's numbers hold where its plan says nothing
/// (`rate.read`, `rate.write`, `rate.login`, `rate.ingest`). Calls without a token draw on the address alone: otherwise a
/// stranger could use up a tenant's share.
#[derive(Debug, Clone, Copy, Args)]
pub struct Rates {
    /// READ calls a minute from one address
    #[arg(long, env = "TENON_RATE_IP_READ", default_value_t = 6_000)]
    pub rate_ip_read: u32,
    /// WRITE calls a minute from one address
    #[arg(long, env = "TENON_RATE_IP_WRITE", default_value_t = 1_200)]
    pub rate_ip_write: u32,
    /// LOGIN calls a minute from one address
    #[arg(long, env = "TENON_RATE_IP_LOGIN", default_value_t = 60)]
    pub rate_ip_login: u32,
    /// INGEST calls a minute from one address
    #[arg(long, env = "TENON_RATE_IP_INGEST", default_value_t = 60_000)]
    pub rate_ip_ingest: u32,
    /// READ calls a minute of one tenant whose plan does not say
    #[arg(long, env = "TENON_RATE_TENANT_READ", default_value_t = 6_000)]
    pub rate_tenant_read: u32,
    /// WRITE calls a minute of one tenant whose plan does not say
    #[arg(long, env = "TENON_RATE_TENANT_WRITE", default_value_t = 1_200)]
    pub rate_tenant_write: u32,
    /// LOGIN calls a minute of one tenant whose plan does not say
    #[arg(long, env = "TENON_RATE_TENANT_LOGIN", default_value_t = 600)]
    pub rate_tenant_login: u32,
    /// INGEST calls a minute of one tenant whose plan does not say
    #[arg(long, env = "TENON_RATE_TENANT_INGEST", default_value_t = 60_000)]
    pub rate_tenant_ingest: u32,
    /// READ calls a minute of one user whose plan does not say (rate.user.read); without it as many as the tenant's
    #[arg(long, env = "TENON_RATE_USER_READ")]
    pub rate_user_read: Option<u32>,
    /// WRITE calls a minute of one user whose plan does not say (rate.user.write); without it as many as the tenant's
    #[arg(long, env = "TENON_RATE_USER_WRITE")]
    pub rate_user_write: Option<u32>,
    /// LOGIN calls a minute of one user whose plan does not say (rate.user.login); without it as many as the tenant's
    #[arg(long, env = "TENON_RATE_USER_LOGIN")]
    pub rate_user_login: Option<u32>,
    /// INGEST calls a minute of one user whose plan does not say (rate.user.ingest); without it as many as the tenant's
    #[arg(long, env = "TENON_RATE_USER_INGEST")]
    pub rate_user_ingest: Option<u32>,
}

impl Rates {
    /// What one address may do.
    #[must_use]
    pub fn ip(&self, class: Rate) -> Quota {
        quota(match class {
            Rate::Read | Rate::Unspecified => self.rate_ip_read,
            Rate::Write => self.rate_ip_write,
            Rate::Login => self.rate_ip_login,
            Rate::Ingest => self.rate_ip_ingest,
        })
    }

    /// What one tenant may do, unless `plan` says otherwise.
    #[must_use]
    pub fn tenant(&self, class: Rate, plan: Option<i64>) -> Quota {
        let planned = plan.and_then(|limit| u32::try_from(limit).ok());
        quota(planned.unwrap_or(match class {
            Rate::Read | Rate::Unspecified => self.rate_tenant_read,
            Rate::Write => self.rate_tenant_write,
            Rate::Login => self.rate_tenant_login,
            Rate::Ingest => self.rate_tenant_ingest,
        }))
    }

    /// What one user may do of what his tenant may, if that is bounded.
    #[must_use]
    pub fn user(&self, class: Rate, plan: Option<i64>) -> Option<Quota> {
        let planned = plan.and_then(|limit| u32::try_from(limit).ok());
        let own = match class {
            Rate::Read | Rate::Unspecified => self.rate_user_read,
            Rate::Write => self.rate_user_write,
            Rate::Login => self.rate_user_login,
            Rate::Ingest => self.rate_user_ingest,
        };
        planned.or(own).map(quota)
    }
}

fn quota(per_minute: u32) -> Quota {
    Quota { per_minute, burst: (per_minute / 6).max(20) }
}
