//! Tasks: what a Resource means. Calls (`grpc:`, `http:`, `email:`, `llm:`, `event:`) are made by this process; waits
//! (`activity:`, `approval:`, `signal:`, `workflow:`) are answered from outside.

mod arguments;
mod egress;
mod email;
mod event;
mod foreign;
mod grpc;
mod http;
mod llm;
mod meter;
mod needs;
mod references;
mod waits;

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tenon_chassis::{Db, Mesh, TenantId, client::DEADLINE, directory::Status as TenantStatus, fail, telemetry};
use tenon_proto::{
    options::v1::policy::Access,
    policy::{Contract, Method},
};
use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tracing::Instrument;

use crate::{
    asl::{Failure, Fault},
    config::Config,
    fair::{self, Permits},
    secrets::Vault,
};
pub(crate) use egress::Egress;
pub use egress::{Authorities, Networks};
pub(crate) use email::{Mail, Mailer};
pub use foreign::Foreign;
pub(crate) use meter::events_above;
pub use needs::{Need, needs};

/// How often a parked call looks whether its tenant may go on.
const PARKED: Duration = Duration::from_secs(1);

/// One attempt of a task.
#[derive(Debug)]
pub struct Call {
    pub tenant: TenantId,
    pub roles: Vec<String>,
    /// The same for each repetition of this attempt, also after a crash: `run/token`.
    pub idempotency_key: String,
    /// The trace of the request that started the run.
    pub traceparent: Option<String>,
    pub resource: String,
    pub arguments: Value,
    /// Events that led to its run, one after the other.
    pub events_above: u8,
    pub timeout: Duration,
}

/// Calls tasks, a bounded number at once.
pub struct Tasks {
    mesh: Mesh,
    db: Db,
    permits: Permits,
    vault: Vault,
    egress: Egress,
    mailer: Arc<Mailer>,
    foreign: Foreign,
    retry_after_max_s: u32,
}

/// Checks a Resource and those of its Arguments that are written out. Faults have pointers below the state.
#[must_use]
pub fn check(contract: &Contract, resource: &str, arguments: Option<&Value>) -> Vec<Fault> {
    checked(contract, None, resource, arguments)
}

/// As `check`, for somebody with these roles, who publishes nothing that is beyond them.
#[must_use]
pub fn check_as(contract: &Contract, roles: &[String], resource: &str, arguments: Option<&Value>) -> Vec<Fault> {
    checked(contract, Some(roles), resource, arguments)
}

fn checked(contract: &Contract, roles: Option<&[String]>, resource: &str, arguments: Option<&Value>) -> Vec<Fault> {
    let (scheme, rest) = resource.split_once(':').unwrap_or((resource, ""));
    let only = |known: &str| {
        let reason = format!("must be {scheme}:{known}");
        if rest == known { Vec::new() } else { vec![Fault { pointer: "/Resource".to_owned(), reason }] }
    };
    let (mut faults, fields) = match scheme {
        "grpc" => return grpc::check(contract, roles, resource, arguments),
        "http" => (only("invoke"), http::FIELDS),
        "email" => (only("send"), email::FIELDS),
        "llm" => (only("chat"), llm::FIELDS),
        "event" => (event::check(rest), event::FIELDS),
        "activity" | "approval" | "signal" | "workflow" => return waits::check(scheme, rest, arguments),
        "https" => {
            let reason = "write http:invoke, and the address into Arguments.url".to_owned();
            return vec![Fault { pointer: "/Resource".to_owned(), reason }];
        }
        _ => {
            let kinds = "grpc, http, email, llm, event, activity, approval, signal or workflow";
            let reason = format!("must be a URI whose scheme is {kinds}");
            return vec![Fault { pointer: "/Resource".to_owned(), reason }];
        }
    };
    faults.extend(arguments::check(fields, arguments));
    faults
}

/// How a resource answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Family {
    /// By a call that this process makes.
    Call,
    /// From outside: a row in workflow.tasks waits for it, and a message to the run brings it.
    Wait { kind: &'static str, name: String },
}

/// The family of a resource, by its scheme.
#[must_use]
pub fn family(resource: &str) -> Family {
    let (scheme, rest) = resource.split_once(':').unwrap_or((resource, ""));
    let kind = match scheme {
        "activity" => "activity",
        "approval" => "approval",
        "signal" => "signal",
        "workflow" => "workflow",
        _ => return Family::Call,
    };
    Family::Wait { kind, name: rest.to_owned() }
}

/// Whether a method can be called in the name of a tenant.
fn is_of_tenants(method: &Method) -> bool {
    method.access == Access::Tenant
}

impl Tasks {
    #[must_use]
    pub fn new(mesh: Mesh, db: Db, config: &Config) -> Self {
        let vault = Vault::new(db.clone(), mesh.clone());
        let egress = Egress::of(config);
        let mailer = Arc::new(Mailer::new(config));
        let foreign = Foreign::new(&mesh, config.edge_url.as_deref());
        let (permits, retry_after_max_s) = (Permits::new(config.workflow_calls), config.workflow_retry_after_max_s);
        Self { mesh, db, permits, vault, egress, mailer, foreign, retry_after_max_s }
    }

    /// The meters that a call of a resource draws on.
    #[must_use]
    pub fn meters(&self, resource: &str) -> Vec<String> {
        match resource.split_once(':') {
            Some(("http" | "email", _)) => vec![meter::CONNECTOR_CALLS.to_owned()],
            Some(("llm", _)) => vec![meter::AI_TOKENS.to_owned(), meter::CONNECTOR_CALLS.to_owned()],
            Some(("grpc", method)) => {
                let method = self.mesh.contract.method(&format!("/{method}"));
                method.and_then(|method| method.meter.clone()).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Calls once the tenant is in good standing, and answers with the response as JSON.
    ///
    /// # Errors
    /// The failure as a state sees it: the reason of the status, a name of the connector's, or `States.Timeout`.
    pub async fn call(&self, call: Call) -> Result<Value, Failure> {
        self.admitted(call.tenant).await?;
        // Tenants take turns: one that has thousands of calls to make does not stand before another's one.
        let known = self.mesh.directory.by_id(call.tenant).await.ok();
        let _permit = self.permits.acquire(call.tenant, fair::weight(known.as_deref())).await;
        let span = tracing::info_span!(
            "task",
            otel.name = call.resource,
            otel.kind = "internal",
            tenon.step = call.idempotency_key
        );
        if let Some(parent) = &call.traceparent {
            telemetry::set_parent(&span, parent);
        }
        let deadline = Instant::now() + call.timeout;
        let attempt = async {
            let told = |fault: tenon_chassis::Fault| Failure::new(fault.reason, fault.message);
            fail::at("task.call.before").await.map_err(told)?;
            let answer = match timeout_at(deadline, self.attempt(&call, deadline)).await {
                Ok(answer) => answer,
                Err(_) => Err(Failure::new(Failure::TIMEOUT, "the task took longer than it may")),
            };
            fail::at("task.call.after").await.map_err(told)?;
            answer.map_err(|failure| self.bounded(failure))
        };
        DEADLINE.scope(deadline, attempt).instrument(span).await
    }

    /// Whoever is called may ask for patience, but not for as much as it likes.
    fn bounded(&self, mut failure: Failure) -> Failure {
        if let Some(pushback) = &mut failure.pushback {
            pushback.after_ms = pushback.after_ms.min(u64::from(self.retry_after_max_s) * 1_000);
        }
        failure
    }

    /// Waits while the tenant is suspended or owes money: the run is parked at this step.
    async fn admitted(&self, tenant: TenantId) -> Result<(), Failure> {
        loop {
            match self.mesh.directory.by_id(tenant).await {
                Ok(known) => match known.status {
                    TenantStatus::Active => return Ok(()),
                    TenantStatus::Deleted => return Err(Failure::new("TENANT_UNKNOWN", "there is no such tenant")),
                    TenantStatus::Suspended | TenantStatus::PendingPayment | TenantStatus::Provisioning => {}
                },
                Err(fault) if fault.code == Code::Unavailable => {}
                Err(fault) => return Err(Failure::new(fault.reason, fault.message)),
            }
            tokio::time::sleep(PARKED).await;
        }
    }

    async fn attempt(&self, call: &Call, deadline: Instant) -> Result<Value, Failure> {
        match call.resource.split_once(':') {
            Some(("http", "invoke")) => self.http(call).await,
            Some(("llm", "chat")) => self.llm(call).await,
            Some(("email", "send")) => self.email(call).await,
            Some(("event", kind)) => self.event(call, kind).await,
            // Anything else was refused when it was published; the rest says so again.
            _ => grpc::call(&self.mesh, &self.foreign, call, deadline).await,
        }
    }
}

/// The Arguments as a connector takes them.
fn parsed<T: serde::de::DeserializeOwned>(arguments: &Value) -> Result<T, Failure> {
    serde_json::from_value(arguments.clone()).map_err(|why| Failure::new("INVALID_ARGUMENTS", why.to_string()))
}

/// When a task that is scheduled now must have answered.
#[must_use]
pub fn timeout(seconds: Option<u32>, default_seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds.unwrap_or(default_seconds)))
}
