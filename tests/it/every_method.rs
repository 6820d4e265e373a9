//! Every method of the contract: declared, commented, routed, and closed to everyone who must not call it, by the edge and
//! on the service's own port. A new method is covered without being named here.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{EnumDescriptor, FileDescriptor, Kind, MessageDescriptor};
use reqwest::Method as Verb;
use serde_json::{Value, json};
use tenon_proto::{
    options::v1::policy::Access,
    policy::{Contract, Effect},
};
use tonic::Code::{self, FailedPrecondition, PermissionDenied, Unauthenticated};

use crate::harness::{Answer, Backends, Endpoint, Forge, Headers, Mesh, Tenant, Wire, eventually, mesh_token};

#[test]
fn every_method_has_a_policy_and_a_route_unless_it_is_of_the_mesh() {
    let mut faults = Vec::new();
    for Endpoint { method, route, .. } in Endpoint::all() {
        let path = &method.path;
        let streams = method.descriptor.is_client_streaming() || method.descriptor.is_server_streaming();
        match (method.access, route) {
            (_, None) if streams => {}
            (Access::Mesh, Some(route)) => faults.push(format!("{path} is MESH and has the route {}", route.template)),
            (Access::Mesh, None) => {}
            (_, None) => {
                faults.push(format!("{path} has no option (google.api.http); only MESH methods and streams have none"));
            }
            (access, Some(route)) => {
                if method.effect == Effect::None && route.verb != Verb::GET && route.verb != Verb::POST {
                    faults.push(format!("{path} has no side effects: route it by get"));
                }
                if route.verb == Verb::GET && method.effect != Effect::None {
                    faults.push(format!("{path} is a GET: add option idempotency_level = NO_SIDE_EFFECTS"));
                }
                if access == Access::Tenant && method.permission.is_none() && !path.contains(".SessionService/") {
                    faults.push(format!("{path} asks for no permission: add one to its policy"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "in the .proto of each:\n  {}", faults.join("\n  "));
}

#[test]
fn everything_in_the_contract_is_commented() {
    let contract = Contract::embedded();
    let mut faults = Vec::new();
    let (mut messages, mut enums) = (Vec::new(), Vec::new());
    for method in contract.methods() {
        comment(&mut faults, &method.descriptor.parent_file(), method.descriptor.path(), &method.path);
        let service = method.descriptor.parent_service();
        comment(&mut faults, &service.parent_file(), service.path(), service.full_name());
        messages.extend([method.descriptor.input(), method.descriptor.output()]);
    }
    let mut seen = BTreeSet::new();
    while let Some(message) = messages.pop() {
        if !message.full_name().starts_with("tenon.") || !seen.insert(message.full_name().to_owned()) {
            continue;
        }
        fields(&mut faults, &message, &mut messages, &mut enums);
    }
    for values in enums {
        if seen.insert(values.full_name().to_owned()) && values.full_name().starts_with("tenon.") {
            comment(&mut faults, &values.parent_file(), values.path(), values.full_name());
            for value in values.values() {
                comment(&mut faults, &values.parent_file(), value.path(), value.full_name());
            }
        }
    }
    assert!(seen.len() > 40, "the walk found {} messages and enums only", seen.len());
    faults.sort();
    faults.dedup();
    assert!(faults.is_empty(), "write a comment above each, in its .proto:\n  {}", faults.join("\n  "));
}

fn fields(
    faults: &mut Vec<String>,
    message: &MessageDescriptor,
    messages: &mut Vec<MessageDescriptor>,
    enums: &mut Vec<EnumDescriptor>,
) {
    if !message.is_map_entry() {
        comment(faults, &message.parent_file(), message.path(), message.full_name());
    }
    for field in message.fields() {
        if !message.is_map_entry() {
            comment(faults, &message.parent_file(), field.path(), field.full_name());
        }
        match field.kind() {
            Kind::Message(inner) => messages.push(inner),
            Kind::Enum(values) => enums.push(values),
            _ => {}
        }
    }
}

/// Source info names things by their place in the descriptor.
fn comment(faults: &mut Vec<String>, file: &FileDescriptor, place: &[i32], name: &str) {
    let proto = file.file_descriptor_proto();
    let info = proto.source_code_info.as_ref().expect("the contract carries source info");
    let at = info.location.iter().find(|location| location.path == place);
    if at.and_then(|location| location.leading_comments.as_deref()).unwrap_or_default().trim().is_empty() {
        faults.push(format!("{}: {name}", file.name()));
    }
}

/// Someone who must be refused, and how: by methods of TENANT, OPERATOR, MESH. `None` is no refusal by identity.
struct Intruder {
    name: &'static str,
    headers: Headers,
    tenant: Expected,
    operator: Expected,
    mesh: Expected,
}

type Expected = Option<(Code, &'static str)>;

const REQUIRED: Expected = Some((Unauthenticated, "TOKEN_REQUIRED"));
const INVALID: Expected = Some((Unauthenticated, "INVALID_TOKEN"));
const EXPIRED: Expected = Some((Unauthenticated, "TOKEN_EXPIRED"));
const OPERATOR_ONLY: Expected = Some((PermissionDenied, "OPERATOR_ONLY"));
const MESH_ONLY: Expected = Some((PermissionDenied, "MESH_ONLY"));
const DENIED: Expected = Some((PermissionDenied, "PERMISSION_DENIED"));

fn bearer(token: &str) -> Headers {
    vec![("authorization", format!("Bearer {token}"))]
}

/// Tokens that nobody may believe.
fn bad_tokens(own: &Forge, other: &Forge) -> Vec<Intruder> {
    let iat = own.now();
    let all =
        |name, headers, expected| Intruder { name, headers, tenant: expected, operator: expected, mesh: expected };
    let nobody = "ten_0190000000007000800000000000ffff";
    let (good, none) = (own.sign(&json!({})), json!({}));
    let mut twice = bearer(&good);
    twice.extend(bearer(&good));
    vec![
        all("no token", Vec::new(), REQUIRED),
        all("garbage", bearer("garbage"), INVALID),
        all("an empty token", vec![("authorization", "Bearer ".to_owned())], INVALID),
        all("another scheme", vec![("authorization", "Basic YWRhOmFkYQ==".to_owned())], INVALID),
        all("two tokens", twice, INVALID),
        all("an expired token", bearer(&own.sign(&json!({ "iat": iat - 1000, "exp": iat - 100 }))), EXPIRED),
        all("a token of the future", bearer(&own.sign(&json!({ "iat": iat + 1000, "exp": iat + 1900 }))), INVALID),
        all("another audience", bearer(&own.sign(&json!({ "aud": "elsewhere" }))), INVALID),
        all("alg none", bearer(&own.unsigned()), INVALID),
        all("HS256 by the public key", bearer(&own.confused(&own.kid)), INVALID),
        all("HS256 as the mesh", bearer(&own.confused("mesh")), INVALID),
        all("another tenant's key", bearer(&other.sign(&json!({ "tid": own.claims["tid"] }))), INVALID),
        all("another tenant's key under our kid", bearer(&other.sign_as(&own.kid, &own.claims)), INVALID),
        all("changed claims", bearer(&own.tampered(&json!({ "tid": other.claims["tid"] }))), INVALID),
        all("a tenant that is not there", bearer(&own.sign(&json!({ "tid": nobody }))), INVALID),
        all("a tenant that is none", bearer(&own.sign(&json!({ "tid": "x" }))), INVALID),
        all("a truncated token", bearer(&good[..good.len() - 8]), INVALID),
        all("a mesh token of another audience", bearer(&mesh_token("elsewhere", None, iat)), INVALID),
        all("an unknown kid", bearer(&own.sign_as("key_0", &none)), INVALID),
    ]
}

/// Credentials that are good, and not for this. `audience` is who is called: a service, or the edge.
fn wrong_credentials(own: &Forge, operator_key: &str, audience: &str) -> Vec<Intruder> {
    let iat = own.now();
    let tid = own.claims["tid"].as_str();
    let key = |key: &str| vec![("x-operator-key", key.to_owned())];
    let wrong_key = Some((Unauthenticated, "INVALID_OPERATOR_KEY"));
    let no_tenant = Some((Unauthenticated, "TENANT_REQUIRED"));
    let (tenant, operator, mesh) = (None, OPERATOR_ONLY, MESH_ONLY);
    let expired = bearer(&mesh_token(audience, tid, iat - 1000));
    vec![
        Intruder { name: "the admin", headers: bearer(&own.sign(&json!({}))), tenant, operator, mesh },
        Intruder { name: "the operator", headers: key(operator_key), tenant: REQUIRED, operator: None, mesh: REQUIRED },
        Intruder { name: "a wrong key", headers: key("guess"), tenant: REQUIRED, operator: wrong_key, mesh: REQUIRED },
        Intruder { name: "an empty key", headers: key(""), tenant: REQUIRED, operator: wrong_key, mesh: REQUIRED },
        Intruder {
            name: "a service of no tenant",
            headers: bearer(&mesh_token(audience, None, iat)),
            tenant: no_tenant,
            operator,
            mesh: None,
        },
        Intruder { name: "a service of the past", headers: expired, tenant: EXPIRED, operator: EXPIRED, mesh: EXPIRED },
    ]
}

/// Users whose roles do not reach.
fn weak_users(own: &Forge, endpoint: &Endpoint) -> Vec<Intruder> {
    let Some(permission) = endpoint.method.permission.as_deref() else { return Vec::new() };
    let writes = endpoint.method.effect != Effect::None;
    let member = writes && !permission.starts_with("workflow.runs.");
    let roles = [("nobody", true), ("made-up", true), ("viewer", writes), ("member", member)];
    let weak = roles.into_iter().filter(|(_, is_weak)| *is_weak).map(|(role, _)| {
        let roles = if role == "nobody" { json!([]) } else { json!([role]) };
        let headers = bearer(&own.sign(&json!({ "roles": roles })));
        Intruder { name: role, headers, tenant: DENIED, operator: OPERATOR_ONLY, mesh: MESH_ONLY }
    });
    weak.collect()
}

/// Two customers; `bravo` has something of each kind that `alpha` must never see.
struct Stage {
    mesh: Mesh,
    wire: Wire,
    alpha: Forge,
    bravo: Tenant,
    bravos: Forge,
    /// By pattern of a path: what of bravo's it names.
    resources: BTreeMap<&'static str, String>,
}

/// Where a call goes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// The service's own, gRPC.
    Port,
    /// HTTP.
    Edge,
}

/// In every text of bravo's.
const SECRET: &str = "bravo";

impl Stage {
    async fn set() -> Self {
        let mesh = Mesh::start(Backends::Embedded).await;
        mesh.lift_limits().await;
        let (alpha, bravo) = (mesh.onboard("alpha").await, mesh.onboard(SECRET).await);
        let alpha = Forge::for_tenant(&mesh, &alpha, 0).await;
        let bravos = Forge::for_tenant(&mesh, &bravo, 1).await;
        let made = async |path: &str, body: Value| {
            let (status, answer) = mesh.post(path, &bravo.token, &body).await;
            assert!(status.is_success(), "{path}: {answer}");
            answer["name"].as_str().unwrap_or_default().to_owned()
        };
        let user = json!({ "email": "eve@bravo.test", "password": "correct horse battery", "roles": ["viewer"] });
        let user = made("/v1/users", user).await;
        let states = json!({ "Nap": { "Type": "Wait", "Seconds": 86_400, "End": true } });
        let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "Nap", "States": states });
        let workflow = made("/v1/workflows", json!({ "workflowId": "bravo-nap", "definition": definition })).await;
        let schedule =
            json!({ "scheduleId": "bravo-daily", "workflow": "bravo-nap", "cron": "0 0 1 1 *", "paused": true });
        let schedule = made("/v1/schedules", schedule).await;
        let targets = json!([{ "start": { "workflow": "bravo-nap" } }]);
        let hook = made("/v1/hooks", json!({ "hookId": "bravo-hook", "scheme": "GITHUB", "targets": targets })).await;
        let endpoint = json!({ "endpointId": "bravo-erp", "url": "https://bravo.test/in", "eventTypes": ["bravo.*"] });
        let endpoint = made("/v1/endpoints", endpoint).await;
        let delivery = made(&format!("/v1/{endpoint}:test"), json!({})).await;
        let run = json!({ "workflow": "bravo-nap", "entityId": "bravo-1", "input": { "for": "bravo" } });
        let run = made("/v1/runs", run).await;
        let pause = made("/v1/pauses", json!({ "workflow": "bravo-nap", "reason": "bravo rests" })).await;
        made("/v1/usage:ingest", json!({ "events": [{ "id": "bravo-1", "meter": "bravo_units" }] })).await;
        let ask = json!({ "Ask": { "Type": "Task", "Resource": "approval:", "Arguments": { "title": "bravo" }, "End": true } });
        let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "Ask", "States": ask });
        made("/v1/workflows", json!({ "workflowId": "bravo-ask", "definition": definition })).await;
        made("/v1/runs", json!({ "workflow": "bravo-ask" })).await;
        let approval = eventually("bravo is asked", || async {
            let (_, page) = mesh.get("/v1/approvals", &bravo.token).await;
            page["approvals"][0]["name"].as_str().map(str::to_owned)
        })
        .await;
        let secret = made("/v1/secrets", json!({ "secretId": "bravo", "value": "the value of bravo" })).await;
        let key = json!({ "displayName": "bravo", "roles": ["viewer"] });
        let key = made("/v1/api-keys", key).await;
        let domain = made("/v1/domains", json!({ "hostname": "shop.bravo.test" })).await;
        let resources = BTreeMap::from([
            ("domains/*", domain),
            ("api-keys/*", key),
            ("secrets/*", secret),
            ("approvals/*", approval),
            ("tenants/*", bravo.name.clone()),
            ("users/*", user),
            ("workflows/*", workflow),
            ("runs/*", run),
            ("pauses/*", pause),
            ("schedules/*", schedule),
            ("hooks/*", hook),
            ("endpoints/*", endpoint),
            ("endpoints/*/deliveries/*", delivery),
            // The tenant and the hook in the path of a delivery: nobody's.
            ("*", "nobody".to_owned()),
        ]);
        Self { wire: Wire::new(), mesh, alpha, bravo, bravos, resources }
    }

    /// The call by one door; `None` when the method is not served there.
    async fn call(&self, at: &Endpoint, door: Door, headers: &Headers) -> Option<Answer> {
        if door == Door::Port {
            return Some(self.wire.grpc(&self.mesh, at, headers, &at.request(&self.resources)).await);
        }
        let route = at.route.as_ref()?;
        let body: &[u8] = if route.takes_body { b"{}" } else { b"" };
        let path = at.path(&self.resources);
        Some(self.wire.http(&self.mesh, route.verb.clone(), &path, headers, body).await)
    }

    /// The faults of an answer to someone who must learn and change nothing.
    fn check(&self, at: &Endpoint, who: &str, (door, answer): (Door, &Answer), expected: Expected) -> Option<String> {
        let (path, reason) = (&at.method.path, &answer.reason);
        let got = format!("{path} by {who} on its {door:?}: {:?} {reason} {}", answer.code, answer.text());
        if answer.is_our_fault() {
            return Some(format!("{got}\n    an error of ours"));
        }
        let leaked = self.resources.values().map(String::as_str).chain([SECRET]).find(|text| answer.shows(text));
        if let Some(leaked) = leaked {
            return Some(format!("{got}\n    shows {leaked}"));
        }
        let (code, wanted) = expected?;
        let http = door == Door::Port || answer.http == status_of(code);
        let right = answer.code == code && answer.reason == wanted && http;
        (!right).then(|| format!("{got}\n    expected {code:?} {wanted}"))
    }

    async fn intruders(&self, at: &Endpoint, door: Door, faults: &mut Vec<String>) {
        let Some(everyone) = self.call(at, door, &Headers::new()).await else { return };
        let is_public = at.method.access == Access::Public;
        let mut intruders = bad_tokens(&self.alpha, &self.bravos);
        let audience = if door == Door::Port { at.service } else { "gateway" };
        intruders.extend(wrong_credentials(&self.alpha, &self.mesh.operator_key, audience));
        intruders.extend(weak_users(&self.alpha, at));
        for Intruder { name, headers, tenant, operator, mesh } in intruders {
            let expected = match at.method.access {
                Access::Tenant => tenant,
                Access::Operator => operator,
                Access::Mesh => mesh,
                // Headers that are no credentials at all are refused; with any other, whoever calls is anyone.
                _ if ["another scheme", "two tokens"].contains(&name) => INVALID,
                _ => None,
            };
            // HTTP/1 trims the empty token's header to no credentials at all, HTTP/2 does not.
            let by_door = is_public && name == "an empty token";
            if expected.is_none() && !is_public || by_door {
                continue;
            }
            let answer = self.call(at, door, &headers).await.expect("it is served by this door");
            faults.extend(self.check(at, name, (door, &answer), expected));
            if is_public && expected.is_none() && (answer.code, &answer.reason) != (everyone.code, &everyone.reason) {
                faults.push(format!("{} is PUBLIC and treats {name} as nobody else", at.method.path));
            }
        }
    }

    /// Alpha's admin, who may do everything, but not with what is bravo's.
    async fn stranger(&self, at: &Endpoint, door: Door, faults: &mut Vec<String>) {
        let method = &at.method;
        if method.access != Access::Tenant {
            return;
        }
        // A session of its own: one of the methods ends it.
        let token = self.alpha.sign(&json!({ "sid": "ses_0190000000007000800000000000aaaa" }));
        let Some(answer) = self.call(at, door, &bearer(&token)).await else { return };
        let unavailable = match (&method.feature, method.step_up) {
            (Some(_), _) => Some((FailedPrecondition, "FEATURE_NOT_IN_PLAN")),
            (None, true) => Some((PermissionDenied, "STEP_UP_REQUIRED")),
            (None, false) => None,
        };
        faults.extend(self.check(at, "another tenant's admin", (door, &answer), unavailable));
        if !at.variables().is_empty() && unavailable.is_none() && answer.code != Code::NotFound {
            let (path, code, reason) = (&method.path, answer.code, &answer.reason);
            faults.push(format!("{path} with another tenant's resource: {code:?} {reason}, expected NotFound"));
        }
    }

    /// x-tenant-id is believed by nobody: refused on the port, and what the edge lets out of it is nothing.
    async fn spoofer(&self, at: &Endpoint, faults: &mut Vec<String>) {
        let mut headers = match at.method.access {
            Access::Operator => vec![("x-operator-key", self.mesh.operator_key.clone())],
            Access::Mesh => {
                let iat = self.alpha.now();
                bearer(&mesh_token(at.service, self.alpha.claims["tid"].as_str(), iat))
            }
            _ => bearer(&self.alpha.sign(&json!({}))),
        };
        headers.push(("x-tenant-id", self.bravo.name.replace("tenants/", "")));
        // At the edge an operator's call would be carried out, as the header is not passed on.
        let answer = self.call(at, Door::Port, &headers).await.expect("every method is served on a port");
        let expected = Some((PermissionDenied, "TENANT_MISMATCH"));
        faults.extend(self.check(at, "a spoofer of x-tenant-id", (Door::Port, &answer), expected));
        if at.method.access == Access::Tenant && !at.method.path.ends_with("/Logout") {
            // Streams have no route.
            let Some(answer) = self.call(at, Door::Edge, &headers).await else { return };
            faults.extend(self.check(at, "a spoofer of x-tenant-id", (Door::Edge, &answer), None));
        }
    }

    /// Nothing of bravo's was touched by all of that.
    async fn is_untouched(&self) {
        for (path, expected) in [
            (self.resources["tenants/*"].clone(), json!({ "status": "ACTIVE" })),
            (self.resources["runs/*"].clone(), json!({ "state": "RUNNING" })),
            ("auth/whoami".to_owned(), json!({ "email": "ada@bravo.test" })),
        ] {
            let (status, answer) = self.mesh.get(&format!("/v1/{path}"), &self.bravo.token).await;
            assert!(status.is_success(), "{path}: {answer}");
            for (field, value) in expected.as_object().expect("an object") {
                assert_eq!(&answer[field], value, "{path}: {answer}");
            }
        }
    }
}

fn status_of(code: Code) -> u16 {
    match code {
        Unauthenticated => 401,
        PermissionDenied => 403,
        FailedPrecondition => 400,
        other => panic!("add the HTTP status of {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_refuses_who_must_not_call_it() {
    let stage = Stage::set().await;
    let (mut faults, mut called) = (Vec::new(), 0);
    for endpoint in Endpoint::all() {
        for door in [Door::Port, Door::Edge] {
            stage.intruders(&endpoint, door, &mut faults).await;
            stage.stranger(&endpoint, door, &mut faults).await;
        }
        stage.spoofer(&endpoint, &mut faults).await;
        called += 1;
    }
    assert!(called > 20, "the walk found {called} methods only");
    assert!(faults.is_empty(), "{} faults:\n  {}", faults.len(), faults.join("\n  "));
    stage.is_untouched().await;
    // By its gRPC path a method is guarded as by its route, and what only the mesh may call is not there at all.
    for endpoint in Endpoint::all() {
        let answer = stage.wire.http(&stage.mesh, Verb::POST, &endpoint.method.path, &Headers::new(), b"{}").await;
        let (path, http) = (&endpoint.method.path, answer.http.as_u16());
        match endpoint.method.access {
            Access::Mesh => assert_eq!(http, 404, "{path}"),
            Access::Tenant | Access::Operator => assert_eq!((http, &*answer.reason), (401, "TOKEN_REQUIRED"), "{path}"),
            Access::Public | Access::Unspecified => {
                assert!(!["TOKEN_REQUIRED", "METHOD_UNKNOWN"].contains(&&*answer.reason), "{path}");
            }
        }
    }
}
