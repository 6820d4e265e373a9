//! The settings of the workflow service.

use clap::Args;
use tenon_chassis::secret::Secret;

use crate::tasks::{Authorities, Networks};

/// What the workflow service is told beside the settings of the mesh.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Workflow")]
#[group(skip)]
pub struct Config {
    /// The password of the database roles tenon_workflow and tenon_workflow_system
    #[arg(long, env = "TENON_WORKFLOW_DB_PASSWORD", hide_env_values = true)]
    pub workflow_db_password: Secret,
    /// Partitions that runs are spread over; engines share them. Raise it before there are more engines than partitions
    #[arg(long, env = "TENON_WORKFLOW_PARTITIONS", default_value_t = 64, value_parser = clap::value_parser!(i16).range(1..))]
    pub workflow_partitions: i16,
    /// Milliseconds after which the partitions of an engine that shows no sign of life go to another
    #[arg(long, env = "TENON_WORKFLOW_LEASE_MS", default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(200..))]
    pub workflow_lease_ms: u32,
    /// Runs in memory at most; more wait in the database
    #[arg(long, env = "TENON_WORKFLOW_ACTIVE_RUNS", default_value_t = 10_000)]
    pub workflow_active_runs: usize,
    /// Events in a row that may start runs, each told by a run that the one before started: a ring of workflows ends there
    #[arg(long, env = "TENON_WORKFLOW_EVENT_CHAIN", default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=200))]
    pub workflow_event_chain: u8,
    /// Calls of tasks at once at most; more wait
    #[arg(long, env = "TENON_WORKFLOW_CALLS", default_value_t = 256)]
    pub workflow_calls: usize,
    /// Seconds that the call of a task may take when its state has no TimeoutSeconds
    #[arg(long, env = "TENON_WORKFLOW_TASK_TIMEOUT_S", default_value_t = 60)]
    pub workflow_task_timeout_s: u32,
    /// Seconds that who is called may make a retry wait at most, by Retry-After or RetryInfo; a MaxDelaySeconds may say less
    #[arg(long, env = "TENON_WORKFLOW_RETRY_AFTER_MAX_S", default_value_t = 3_600)]
    pub workflow_retry_after_max_s: u32,
    /// Days that a run is kept after its end when the envelope of its workflow does not say
    #[arg(long, env = "TENON_WORKFLOW_RETENTION_DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub workflow_retention_days: u32,
    /// Days that the idempotency key of a start is remembered
    #[arg(long, env = "TENON_WORKFLOW_KEYS_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub workflow_keys_days: u32,
    /// Runs of one tenant in memory at most when its plan has no limit `workflow.active_runs`, of which each engine has an even share; more wait in the database
    #[arg(long, env = "TENON_WORKFLOW_TENANT_ACTIVE_RUNS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub workflow_tenant_active_runs: u32,
    /// Days that events are kept once every consumer has seen them; four times as long when one has not
    #[arg(long, env = "TENON_EVENTS_DAYS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=365))]
    pub events_days: u32,
    /// Days that the answer to a request with an Idempotency-Key is kept
    #[arg(long, env = "TENON_IDEMPOTENCY_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub idempotency_days: u32,
    /// Networks that http:invoke, llm:chat and webhooks may reach beside public addresses: 10.0.0.0/8,fd00::/8
    #[arg(long, env = "TENON_WORKFLOW_HTTP_ALLOW_CIDRS", default_value = "")]
    pub workflow_http_allow_cidrs: Networks,
    /// A file of certificates in PEM whose authorities http:invoke, llm:chat and webhooks trust beside the system's
    #[arg(long, env = "TENON_WORKFLOW_HTTP_CA", value_name = "FILE")]
    pub workflow_http_ca: Option<Authorities>,
    /// The edge's port inside of the mesh, plain HTTP/2: http://gateway:8080. Tasks reach services of one's own through it;
    /// without it they reach none. `tenon dev` and `tenon serve all` know it
    #[arg(long, env = "TENON_EDGE_URL", value_name = "URL", value_parser = plain_url)]
    pub edge_url: Option<String>,
    /// The mail server: smtps://user:password@host:465, smtp://host:587?tls=required; without it no mail is sent
    #[arg(long, env = "TENON_SMTP_URL", hide_env_values = true)]
    pub smtp_url: Option<Secret>,
    /// The address that mail comes from: Acme <no-reply@acme.test>
    #[arg(long, env = "TENON_SMTP_FROM")]
    pub smtp_from: Option<String>,
    /// Where people reach the edge, for links in mail: https://acme.example
    #[arg(long, env = "TENON_PUBLIC_URL", default_value = "http://localhost:8080")]
    pub public_url: String,
}

fn plain_url(text: &str) -> Result<String, String> {
    let plain = text.strip_prefix("http://").is_some_and(|host| !host.is_empty());
    match tenon_chassis::client::channel(text) {
        Ok(_) if plain => Ok(text.to_owned()),
        _ => Err("must be http://host:port".to_owned()),
    }
}
