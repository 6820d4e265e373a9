//! `grpc:package.Service/Method`: a method of the mesh, checked against the contract when a template is published, and called as
//! the tenant with the roles of who started the run.

mod codec;

use std::{sync::Arc, time::Duration};

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions};
use serde_json::{Value, value::Serializer};
use tenon_chassis::{Mesh, caller::grants, config::Config, fault};
use tenon_proto::policy::{Contract, Method};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    Call, PARKED,
    foreign::{self, Foreign},
    is_of_tenants,
};
use crate::asl::{Failure, Fault, Pushback};

/// How long calls are repeated while the service cannot be reached, as it may be after a restart, or is too busy.
const UNAVAILABLE_MAX: Duration = Duration::from_secs(15);

/// Checks a Resource and those of its Arguments that are written out. `roles` are those of who publishes, when somebody does.
pub(super) fn check(
    contract: &Contract,
    roles: Option<&[String]>,
    resource: &str,
    arguments: Option<&Value>,
) -> Vec<Fault> {
    let method = match resolve(contract, resource) {
        Ok(method) => method,
        Err(reason) => return vec![Fault { pointer: "/Resource".to_owned(), reason }],
    };
    let mut faults = Vec::new();
    if let (Some(roles), Some(permission)) = (roles, &method.permission)
        && !grants(roles, permission)
    {
        let reason = format!("your roles do not grant {permission}, which this method needs");
        faults.push(Fault { pointer: "/Resource".to_owned(), reason });
    }
    if let Some(arguments) = arguments {
        fields(&method.descriptor.input(), arguments, "/Arguments".to_owned(), &mut faults);
    }
    faults
}

fn resolve<'c>(contract: &'c Contract, resource: &str) -> Result<&'c Method, String> {
    let Some(name) = resource.strip_prefix("grpc:") else {
        return Err("must be grpc:package.Service/Method".to_owned());
    };
    let method = contract.method(&format!("/{name}")).ok_or_else(|| format!("there is no gRPC method {name}"))?;
    let streams = method.descriptor.is_server_streaming() || method.descriptor.is_client_streaming();
    match is_of_tenants(method) {
        true if streams => Err(format!("{name} streams; a task calls unary methods")),
        true => Ok(method),
        false => Err(format!("{name} cannot be called in the name of a tenant")),
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
        // `name.$` is a path, in templates that are written in JSONPath.
        let (name, is_path) = key.strip_suffix(".$").map_or((key.as_str(), false), |name| (name, true));
        let found = message.fields().find(|field| field.json_name() == name || field.name() == name);
        let Some(found) = found else {
            faults.push(Fault { pointer, reason: format!("{} has no field {name}", message.full_name()) });
            continue;
        };
        if !is_path {
            inside(&found, value, &pointer, faults);
        }
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

/// Calls the method, again while its service cannot be reached.
pub(super) async fn call(mesh: &Mesh, foreign: &Foreign, call: &Call, deadline: Instant) -> Result<Value, Failure> {
    let unusable = |why: String| Failure::new(Failure::RUNTIME, why);
    let contract = contract_of(mesh, foreign, &call.resource, deadline).await?;
    let method = resolve(&contract, &call.resource).map_err(unusable)?;
    let peer = match Config::service_of(&method.path) {
        Some(service) => Some(mesh.peer("workflow", service)),
        None => foreign.peer(),
    };
    let peer = peer.ok_or_else(|| unusable(format!("no service serves {}", method.path)))?;
    let input = method.descriptor.input();
    let message = DynamicMessage::deserialize(input, &call.arguments);
    let message = message.map_err(|why| Failure::new("INVALID_ARGUMENTS", why.to_string()))?;
    let peer = peer.acting_for(call.tenant, &call.roles).with_idempotency_key(&call.idempotency_key);
    let (patience, mut pause) = (Instant::now() + UNAVAILABLE_MAX, Duration::from_millis(50));
    loop {
        match codec::unary(peer.clone(), method, message.clone(), deadline).await {
            Ok(response) => return json(&response),
            // The key makes the repetition harmless.
            Err(status)
                if is_passing(&status) && Instant::now() + pause.max(asked(&status)) < patience.min(deadline) =>
            {
                tokio::time::sleep(pause.max(asked(&status))).await;
                pause = (pause * 2).min(PARKED);
            }
            Err(status) => return Err(failure(&status).pushed_back(pushback(&call.resource, &status))),
        }
    }
}

/// The mesh's own contract, or that of a service behind the edge; asked again while the edge does not answer.
async fn contract_of(
    mesh: &Mesh,
    foreign: &Foreign,
    resource: &str,
    deadline: Instant,
) -> Result<Arc<Contract>, Failure> {
    let service = foreign::service_of(resource).filter(|name| Config::service_of(&format!("/{name}")).is_none());
    let Some(service) = service else { return Ok(mesh.contract.clone()) };
    let patience = (Instant::now() + UNAVAILABLE_MAX).min(deadline);
    loop {
        match foreign.contract(service).await {
            Ok(found) => return Ok(found.unwrap_or_else(|| mesh.contract.clone())),
            Err(_) if Instant::now() + PARKED < patience => tokio::time::sleep(PARKED).await,
            Err(status) => return Err(failure(&status)),
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
    // ABORTED: the same call, made before a crash, is being served still, or another change came first.
    status.code() == Code::Unavailable
        || matches!(status.code(), Code::ResourceExhausted | Code::Aborted) && come_again()
}

/// How long the service asks to be left alone.
fn asked(status: &Status) -> Duration {
    status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default()
}

/// What a refusal says of the next try. A service that limits calls says RESOURCE_EXHAUSTED, and either when to come again or
/// a reason like the RATE_LIMIT_EXCEEDED of google.api.ErrorReason; a quota that is used up says neither.
fn pushback(resource: &str, status: &Status) -> Option<Pushback> {
    let info = status.get_details_retry_info();
    let is_rate = info.is_some() || fault::reason(status).is_some_and(|reason| reason.starts_with("RATE_LIMIT"));
    let is_limited = status.code() == Code::ResourceExhausted && is_rate;
    let after_ms = u64::try_from(asked(status).as_millis()).unwrap_or(u64::MAX);
    let limited_by = is_limited.then(|| resource.to_owned());
    (is_limited || after_ms > 0).then_some(Pushback { after_ms, limited_by })
}

fn failure(status: &Status) -> Failure {
    let error = match (status.code(), fault::reason(status)) {
        (Code::DeadlineExceeded, _) => Failure::TIMEOUT.to_owned(),
        (_, Some(reason)) if !reason.is_empty() => reason,
        (code, _) => fault::code_name(code).to_owned(),
    };
    Failure::new(error, status.message())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(resource: &str, arguments: &Value) -> Vec<String> {
        let faults = check(&Contract::embedded(), None, resource, Some(arguments));
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
        let viewer = check(
            &Contract::embedded(),
            Some(&["viewer".to_owned()]),
            "grpc:tenon.billing.v1.UsageService/IngestUsage",
            None,
        );
        assert!(viewer[0].reason.contains("billing.usage.ingest"), "{viewer:?}");
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
        assert_eq!(faults(ingest, &json!({"events": [{"id.$": "$.id", "meter": "m"}]})), none);
        assert_eq!(faults(ingest, &json!({"events.$": "$.list"})), none);
        assert_eq!(
            faults(ingest, &json!({"events": [{"metre.$": "$.m"}]})),
            ["/Arguments/events/0/metre.$ tenon.billing.v1.UsageEvent has no field metre"]
        );
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

    #[test]
    fn a_limit_is_told_from_a_quota_and_from_a_service_that_is_away() {
        let exhausted = |reason| tenon_chassis::Fault::new(Code::ResourceExhausted, reason, "no");
        let told = |fault: tenon_chassis::Fault| pushback("grpc:a.B/C", &fault.into());
        let limit = |after_ms| Some(Pushback { after_ms, limited_by: Some("grpc:a.B/C".to_owned()) });
        assert_eq!(told(exhausted("RATE_LIMITED").retry_after(Duration::from_millis(1_500))), limit(1_500));
        assert_eq!(told(exhausted("RATE_LIMIT_EXCEEDED")), limit(0));
        assert_eq!(told(exhausted("QUOTA_EXHAUSTED")), None);
        let away = tenon_chassis::Fault::new(Code::Unavailable, "AWAY", "no").retry_after(Duration::from_secs(2));
        assert_eq!(told(away), Some(Pushback { after_ms: 2_000, limited_by: None }));
        assert_eq!(told(tenon_chassis::Fault::new(Code::Unavailable, "AWAY", "no")), None);
    }
}
