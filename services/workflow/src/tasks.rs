//! Tasks: what a Resource means. `grpc:tenon.billing.v1.UsageService/GetUsage` is a method of the mesh, checked against
//! the contract when a template is published, and called as the tenant with the roles of who started the run.

mod codec;

use std::time::Duration;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions};
use serde_json::{Value, value::Serializer};
use tenon_chassis::{
    Mesh, TenantId, client::DEADLINE, config::Config, directory::Status as TenantStatus, fault, telemetry,
};
use tenon_proto::{
    options::v1::policy::Access,
    policy::{Contract, Method},
};
use tokio::{sync::Semaphore, time::Instant};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tracing::Instrument;

use crate::asl::{Failure, Fault};

/// How long calls are repeated while the service cannot be reached, as it may be after a restart, or is too busy.
const UNAVAILABLE_MAX: Duration = Duration::from_secs(15);
/// How often a parked call looks whether its tenant may go on.
const PARKED: Duration = Duration::from_secs(1);

/// One attempt of a task.
#[derive(Debug)]
pub struct Call {
    pub tenant: TenantId,
    pub roles: Vec<String>,
    /// The same for each repetition of this attempt, also after a crash.
    pub idempotency_key: String,
    /// The trace of the request that started the run.
    pub traceparent: Option<String>,
    pub resource: String,
    pub arguments: Value,
    pub timeout: Duration,
}

/// Calls tasks, a bounded number at once.
pub struct Tasks {
    mesh: Mesh,
    permits: Semaphore,
}

/// Checks a Resource and those of its Arguments that are written out. Faults have pointers below the state.
pub fn check(contract: &Contract, resource: &str, arguments: Option<&Value>) -> Vec<Fault> {
    let fault = |pointer: &str, reason: String| vec![Fault { pointer: pointer.to_owned(), reason }];
    let method = match resolve(contract, resource) {
        Ok(method) => method,
        Err(reason) => return fault("/Resource", reason),
    };
    let mut faults = Vec::new();
    if let Some(arguments) = arguments {
        fields(&method.descriptor.input(), arguments, "/Arguments".to_owned(), &mut faults);
    }
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

fn resolve<'c>(contract: &'c Contract, resource: &str) -> Result<&'c Method, String> {
    let Some(name) = resource.strip_prefix("grpc:") else {
        return Err("must be grpc:package.Service/Method; other kinds of resources arrive later".to_owned());
    };
    let method = contract.method(&format!("/{name}")).ok_or_else(|| format!("there is no gRPC method {name}"))?;
    let streams = method.descriptor.is_server_streaming() || method.descriptor.is_client_streaming();
    match method.access {
        Access::Tenant if streams => Err(format!("{name} streams; a task calls unary methods")),
        Access::Tenant => Ok(method),
        _ => Err(format!("{name} cannot be called in the name of a tenant")),
    }
}

fn fields(message: &MessageDescriptor, value: &Value, pointer: String, faults: &mut Vec<Fault>) {
    // What the well-known types look like in JSON is not what their fields say.
    if message.full_name().starts_with("google.protobuf.") {
        return;
    }
    let object = match value {
        Value::Object(object) => object,
        Value::String(text) if text.starts_with("{%") => return,
        _ => {
            faults.push(Fault { pointer, reason: format!("must be an object of the form {}", message.name()) });
            return;
        }
    };
    for (key, value) in object {
        let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
        let found = message.fields().find(|field| field.json_name() == key || field.name() == key);
        let Some(found) = found else {
            faults.push(Fault { pointer, reason: format!("{} has no field {key}", message.full_name()) });
            continue;
        };
        inside(&found, value, &pointer, faults);
    }
}

fn inside(field: &FieldDescriptor, value: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    let Kind::Message(message) = field.kind() else { return };
    match value {
        _ if field.is_map() => {}
        Value::Array(items) if field.is_list() => {
            for (index, item) in items.iter().enumerate() {
                fields(&message, item, format!("{pointer}/{index}"), faults);
            }
        }
        _ if field.is_list() => {}
        value => fields(&message, value, pointer.to_owned(), faults),
    }
}

impl Tasks {
    #[must_use]
    pub fn new(mesh: Mesh, at_once: usize) -> Self {
        Self { mesh, permits: Semaphore::new(at_once) }
    }

    /// Calls once the tenant is in good standing, and answers with the response as proto3 JSON.
    ///
    /// # Errors
    /// The failure as a state sees it: the reason of the status, or `States.Timeout`.
    pub async fn call(&self, call: Call) -> Result<Value, Failure> {
        self.admitted(call.tenant).await?;
        // Closed never: the semaphore lives as long as self.
        let _permit = self.permits.acquire().await;
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
        DEADLINE.scope(deadline, self.attempt(&call, deadline)).instrument(span).await
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
        let unusable = |why: String| Failure::new(Failure::RUNTIME, why);
        let method = resolve(&self.mesh.contract, &call.resource).map_err(unusable)?;
        let service = Config::service_of(&method.path);
        let service = service.ok_or_else(|| unusable(format!("no service serves {}", method.path)))?;
        let input = method.descriptor.input();
        let message = DynamicMessage::deserialize(input, &call.arguments);
        let message = message.map_err(|why| Failure::new("INVALID_ARGUMENTS", why.to_string()))?;
        let peer = self.mesh.peer("workflow", service);
        let peer = peer.acting_for(call.tenant, &call.roles).with_idempotency_key(&call.idempotency_key);
        let (patience, mut pause) = (Instant::now() + UNAVAILABLE_MAX, Duration::from_millis(50));
        loop {
            match codec::unary(peer.clone(), method, message.clone(), deadline).await {
                Ok(response) => return json(&response),
                // The key makes the repetition harmless.
                Err(status) if is_passing(&status) && Instant::now() + pause < patience.min(deadline) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PARKED);
                }
                Err(status) => return Err(failure(&status)),
            }
        }
    }
}

/// As the HTTP edge would answer, but with every field: an expression can rely on it.
fn json(message: &DynamicMessage) -> Result<Value, Failure> {
    let options = SerializeOptions::new().skip_default_fields(false);
    let json = message.serialize_with_options(Serializer, &options);
    json.map_err(|why| Failure::new(Failure::RUNTIME, format!("the response is not JSON: {why}")))
}

/// The service cannot be reached, or says when to come again.
fn is_passing(status: &Status) -> bool {
    let come_again = || status.get_details_retry_info().is_some();
    status.code() == Code::Unavailable || status.code() == Code::ResourceExhausted && come_again()
}

fn failure(status: &Status) -> Failure {
    let error = match (status.code(), fault::reason(status)) {
        (Code::DeadlineExceeded, _) => Failure::TIMEOUT.to_owned(),
        (_, Some(reason)) if !reason.is_empty() => reason,
        (code, _) => fault::code_name(code).to_owned(),
    };
    Failure::new(error, status.message())
}

/// When a task that is scheduled now must have answered.
#[must_use]
pub fn timeout(seconds: Option<u32>, default_seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds.unwrap_or(default_seconds)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(resource: &str, arguments: &Value) -> Vec<String> {
        let faults = check(&Contract::embedded(), resource, Some(arguments));
        faults.into_iter().map(|fault| format!("{} {}", fault.pointer, fault.reason)).collect()
    }

    #[test]
    fn a_resource_must_be_a_method_that_a_tenant_may_call() {
        let none: [&str; 0] = [];
        assert_eq!(faults("grpc:tenon.billing.v1.UsageService/GetUsage", &json!({})), none);
        assert_eq!(
            faults("grpc:tenon.billing.v1.UsageService/Gone", &json!({})),
            ["/Resource there is no gRPC method tenon.billing.v1.UsageService/Gone"]
        );
        let mesh_only = "grpc:tenon.tenant.v1.DirectoryService/LookupTenant";
        assert!(faults(mesh_only, &json!({}))[0].contains("cannot be called in the name of a tenant"));
        assert!(faults("arn:aws:lambda:x", &json!({}))[0].contains("arrive later"));
    }

    #[test]
    fn literal_arguments_must_name_fields() {
        let ingest = "grpc:tenon.billing.v1.UsageService/IngestUsage";
        let arguments = json!({"events": [{"id": "a", "time": "2026-01-01T00:00:00Z", "metre": "x"}], "more": 1});
        assert_eq!(
            faults(ingest, &arguments),
            [
                "/Arguments/events/0/metre tenon.billing.v1.UsageEvent has no field metre",
                "/Arguments/more tenon.billing.v1.IngestUsageRequest has no field more",
            ]
        );
        let none: [&str; 0] = [];
        assert_eq!(faults(ingest, &json!("{% $states.input %}")), none);
        assert_eq!(faults(ingest, &json!({"events": ["{% $event %}"]})), none);
        assert!(faults(ingest, &json!(1))[0].contains("must be an object"));
        let create = "grpc:tenon.workflow.v1.RunService/CreateRun";
        assert_eq!(faults(create, &json!({"workflow": "x", "entity_id": "y", "input": {"any": 1}})), none);
    }

    #[test]
    fn a_status_is_named_by_its_reason_or_its_code() {
        let with_reason = tenon_chassis::Fault::new(Code::NotFound, "RUN_NOT_FOUND", "no");
        assert_eq!(failure(&with_reason.into()), Failure::new("RUN_NOT_FOUND", "no"));
        assert_eq!(failure(&Status::unavailable("x")).error, "UNAVAILABLE");
        assert_eq!(failure(&Status::deadline_exceeded("x")).error, "States.Timeout");
    }
}
