//! Malformed requests on every route: a clear refusal that names the field, nothing written, never an error of ours.

use std::collections::BTreeMap;

use prost_reflect::{Kind, MessageDescriptor};
use reqwest::Method as Verb;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};
use tenon_proto::options::v1::policy::Access;

use crate::harness::{Answer, Backends, Endpoint, Headers, Mesh, Tenant, Wire};

/// A mesh with one tenant, and how often each table has a row.
pub struct Ground {
    pub mesh: Mesh,
    pub wire: Wire,
    pub tenant: Tenant,
    before: BTreeMap<String, i64>,
}

/// What a request must be answered with: HTTP status, reason, and a field that is named (empty: none must be).
pub type Expected<'e> = (u16, &'e str, &'e str);

impl Ground {
    pub async fn lay() -> Self {
        let mesh = Mesh::start(Backends::Embedded).await;
        mesh.lift_limits().await;
        let tenant = mesh.onboard("acme").await;
        let before = counts(&mesh).await;
        assert!(before.len() > 8 && before["auth.users"] == 1, "the catalogue shows {before:?}");
        Self { mesh, wire: Wire::new(), tenant, before }
    }

    /// The headers of someone who may call.
    pub fn credentials(&self, access: Access) -> Headers {
        match access {
            Access::Operator => vec![("x-operator-key", self.mesh.operator_key.clone())],
            Access::Public => Headers::new(),
            _ => vec![("authorization", format!("Bearer {}", self.tenant.token))],
        }
    }

    /// Sends, and says what is wrong with the answer.
    pub async fn send(
        &self,
        access: Access,
        (verb, path): (&Verb, &str),
        more: &[(&'static str, String)],
        body: &[u8],
        expected: Expected<'_>,
    ) -> Option<String> {
        let headers = [self.credentials(access), more.to_vec()].concat();
        let answer = self.wire.http(&self.mesh, verb.clone(), path, &headers, body).await;
        let (status, reason, field) = expected;
        let named = field.is_empty() || answer.fields.iter().any(|named| named == field);
        let right = answer.http == status && answer.reason == reason && named && is_clear(&answer);
        let shown = String::from_utf8_lossy(&body[..body.len().min(160)]).into_owned();
        let got = answer.text();
        (!right).then(|| format!("{verb} {path} {shown}\n    expected {expected:?}, got {} {got}", answer.http))
    }

    /// Fails with the faults, or when a row came or went.
    pub async fn is_as_before(&self, faults: &[String]) {
        assert!(faults.is_empty(), "{} faults:\n  {}", faults.len(), faults.join("\n  "));
        assert_eq!(counts(&self.mesh).await, self.before, "refused requests wrote nothing");
    }
}

/// A Status says what to do about it.
fn is_clear(answer: &Answer) -> bool {
    let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    !answer.is_our_fault() && json["message"].as_str().is_some_and(|message| message.len() > 3)
}

/// Rows of every table that holds tenants' data, from the catalogue.
async fn counts(mesh: &Mesh) -> BTreeMap<String, i64> {
    let mut owner = mesh.database.owner().await;
    let tables = "select table_schema::text || '.' || table_name::text from information_schema.columns
                  where column_name = 'tenant_id' and table_schema not in ('pg_catalog', 'information_schema')";
    let rows = owner.fetch_all(tables).await.expect("the catalogue can be read");
    let mut counts = BTreeMap::new();
    for table in rows.into_iter().map(|row| row.get::<String, _>(0)) {
        let sql = AssertSqlSafe(format!("select count(*) from {table}"));
        let row = owner.fetch_one(sql).await.expect("the owner may count");
        counts.insert(table, row.get(0));
    }
    counts
}

/// A name of each kind that is well-formed and nobody's.
pub(crate) fn nobodys() -> BTreeMap<&'static str, String> {
    let digits = "0190000000007000800000000000ffff";
    BTreeMap::from([
        ("tenants/*", format!("tenants/ten_{digits}")),
        ("users/*", format!("users/usr_{digits}")),
        ("workflows/*", "workflows/nobodys".to_owned()),
        ("runs/*", format!("runs/run_{digits}")),
        ("pauses/*", "pauses/nobodys".to_owned()),
        ("schedules/*", "schedules/nobodys".to_owned()),
        ("hooks/*", "hooks/nobodys".to_owned()),
        ("endpoints/*", "endpoints/nobodys".to_owned()),
        ("endpoints/*/deliveries/*", format!("endpoints/nobodys/deliveries/del_{digits}")),
        ("secrets/*", "secrets/nobodys".to_owned()),
        ("domains/*", "domains/nobodys.test".to_owned()),
        ("api-keys/*", format!("api-keys/apk_{digits}")),
        ("approvals/*", format!("approvals/{digits}")),
        ("*", "nobody".to_owned()),
    ])
}

/// A JSON value that a field of this kind cannot have; `None` when it can have any.
fn misfit(kind: &Kind) -> Option<Value> {
    match kind {
        Kind::String | Kind::Bytes => Some(json!(7)),
        Kind::Bool => Some(json!("maybe")),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Value" => None,
            "google.protobuf.Timestamp" => Some(json!("yesterday")),
            _ => Some(json!([])),
        },
        Kind::Enum(_) => Some(json!("NO_SUCH_VALUE")),
        _ => Some(json!("many")),
    }
}

/// (path of a field, the smallest object with a misfit there) for every field of a message, and of messages in it.
fn misfits(message: &MessageDescriptor, within: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for field in message.fields() {
        let name = field.json_name();
        let (path, wrap): (String, fn(Value) -> Value) = match field.is_list() {
            true => (format!("{within}{name}[0]"), |value| json!([value])),
            false => (format!("{within}{name}"), |value| value),
        };
        if field.is_list() || field.is_map() {
            found.push((format!("{within}{name}"), json!({ name: "no such thing" })));
        }
        if let Some(value) = misfit(&field.kind()) {
            found.push((path.clone(), json!({ name: wrap(value) })));
        }
        if let Kind::Message(inner) = field.kind()
            && inner.full_name().starts_with("tenon.")
        {
            let deeper = misfits(&inner, &format!("{path}."));
            found.extend(deeper.into_iter().map(|(path, value)| (path, json!({ name: wrap(value) }))));
        }
    }
    found
}

/// (path of a field, a query value that it cannot have) for every field that may stand in a query.
fn query_misfits(message: &MessageDescriptor, bound: &[String]) -> Vec<(String, &'static str)> {
    let free = message.fields().filter(|field| !bound.iter().any(|name| name == field.name()));
    let typed = free.filter(|field| {
        let is_time = |inner: &MessageDescriptor| inner.full_name() == "google.protobuf.Timestamp";
        !matches!(field.kind(), Kind::String) && field.kind().as_message().is_none_or(is_time)
    });
    typed.map(|field| (field.json_name().to_owned(), "%22many%22")).collect()
}

/// What is wrong with the answers to bad bodies on one route.
async fn bad_bodies(ground: &Ground, at: &Endpoint, faults: &mut Vec<String>) {
    let (access, path) = (at.method.access, at.path(&nobodys()));
    let verb = &at.route.as_ref().expect("it has a route").verb;
    let text = |kind: &str| vec![("content-type", kind.to_owned())];
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let large = format!("{{\"x\":\"{}\"}}", "a".repeat(4 * 1024 * 1024));
    for (body, headers, expected) in [
        (&b"{\"a\":"[..], vec![], (400, "INVALID_JSON", "")),
        (b"{} {}", vec![], (400, "INVALID_JSON", "")),
        (b"\xff\xfe", vec![], (400, "INVALID_JSON", "")),
        (b"[]", vec![], (400, "INVALID_FIELD", "")),
        (b"7", vec![], (400, "INVALID_FIELD", "")),
        (b"{\"noSuchField\":1}", vec![], (400, "UNKNOWN_FIELD", "noSuchField")),
        (deep.as_bytes(), vec![], (400, "JSON_TOO_DEEP", "")),
        (large.as_bytes(), vec![], (413, "MESSAGE_TOO_LARGE", "")),
        (b"a=1", text("application/x-www-form-urlencoded"), (415, "UNSUPPORTED_MEDIA_TYPE", "content-type")),
        (b"{}", text("text/plain"), (415, "UNSUPPORTED_MEDIA_TYPE", "content-type")),
        (b"{}", text("application/json; charset=utf-16"), (415, "UNSUPPORTED_MEDIA_TYPE", "content-type")),
        (b"{}", vec![("content-encoding", "br".to_owned())], (415, "UNSUPPORTED_ENCODING", "content-encoding")),
        (b"{}", vec![("content-encoding", "gzip".to_owned())], (400, "INVALID_BODY", "")),
        (b"{}", vec![("accept", "text/html".to_owned())], (406, "NOT_ACCEPTABLE", "accept")),
        (b"{}", vec![("x-request-timeout", "soon".to_owned())], (400, "INVALID_TIMEOUT", "x-request-timeout")),
        (b"{}", vec![("idempotency-key", String::new())], (400, "INVALID_IDEMPOTENCY_KEY", "idempotency-key")),
        (b"{}", vec![("idempotency-key", "k".repeat(129))], (400, "INVALID_IDEMPOTENCY_KEY", "idempotency-key")),
        (b"{}", vec![("idempotency-key", "two words".to_owned())], (400, "INVALID_IDEMPOTENCY_KEY", "idempotency-key")),
    ] {
        faults.extend(ground.send(access, (verb, &path), &headers, body, expected).await);
    }
    let with_query = format!("{path}?noSuchKey=1");
    faults.extend(ground.send(access, (verb, &with_query), &[], b"{}", (400, "UNKNOWN_FIELD", "noSuchKey")).await);
    for (field, body) in misfits(&at.method.descriptor.input(), "") {
        let (body, expected) = (body.to_string(), (400, "INVALID_FIELD", &*field));
        faults.extend(ground.send(access, (verb, &path), &[], body.as_bytes(), expected).await);
    }
}

/// What is wrong with the answers to bad queries on one route without a body.
async fn bad_queries(ground: &Ground, at: &Endpoint, faults: &mut Vec<String>) {
    let (access, path) = (at.method.access, at.path(&nobodys()));
    let verb = &at.route.as_ref().expect("it has a route").verb;
    for (query, expected) in [
        ("noSuchKey=1".to_owned(), (400, "UNKNOWN_FIELD", "noSuchKey")),
        ("pageSize.more=1".to_owned(), (400, "UNKNOWN_FIELD", "pageSize.more")),
        ("a=%ff".to_owned(), (400, "INVALID_QUERY", "a=%ff")),
        (format!("a={}", "a".repeat(9_000)), (414, "URI_TOO_LONG", "")),
    ] {
        faults.extend(ground.send(access, (verb, &format!("{path}?{query}")), &[], b"", expected).await);
    }
    let bound: Vec<String> = at.variables().into_iter().map(|(field, _)| field).collect();
    for field in &bound {
        let with_query = format!("{path}?{field}=x");
        faults.extend(ground.send(access, (verb, &with_query), &[], b"", (400, "UNKNOWN_FIELD", field)).await);
    }
    for (field, value) in query_misfits(&at.method.descriptor.input(), &bound) {
        let with_query = format!("{path}?{field}={value}");
        faults.extend(ground.send(access, (verb, &with_query), &[], b"", (400, "INVALID_FIELD", &field)).await);
    }
    faults.extend(ground.send(access, (verb, &path), &[], b"{\"a\":1}", (400, "UNEXPECTED_BODY", "")).await);
}

/// Names that are none: there is no such thing, whatever else they are.
async fn bad_names(ground: &Ground, at: &Endpoint, faults: &mut Vec<String>) {
    let route = at.route.as_ref().expect("it has a route");
    let body: &[u8] = if route.takes_body { b"{}" } else { b"" };
    for (_, pattern) in at.variables() {
        let collection = pattern.trim_end_matches('*');
        for name in ["x", "%00", "..%2F..", "%F0%9F%92%A9", "run_x", "'", &"a".repeat(300)] {
            let named = BTreeMap::from([(pattern.as_str(), format!("{collection}{name}"))]);
            let headers = ground.credentials(at.method.access);
            let answer = ground.wire.http(&ground.mesh, route.verb.clone(), &at.path(&named), &headers, body).await;
            if answer.http != 404 && answer.http != 400 || !is_clear(&answer) {
                faults.push(format!("{}: {} {}", at.path(&named), answer.http, answer.text()));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_what_it_cannot_read() {
    let ground = Ground::lay().await;
    let (mut faults, mut routes) = (Vec::new(), 0);
    for endpoint in Endpoint::all() {
        let Some(route) = &endpoint.route else { continue };
        routes += 1;
        if route.takes_any_media {
            // What is in the body is the service's own to judge.
        } else if route.takes_body {
            bad_bodies(&ground, &endpoint, &mut faults).await;
        } else {
            bad_queries(&ground, &endpoint, &mut faults).await;
        }
        bad_names(&ground, &endpoint, &mut faults).await;
        let wrong_verb = (&Verb::PUT, &*endpoint.path(&nobodys()));
        faults.extend(ground.send(endpoint.method.access, wrong_verb, &[], b"", (405, "METHOD_NOT_ALLOWED", "")).await);
    }
    assert!(routes > 20, "the walk found {routes} routes only");
    ground.is_as_before(&faults).await;
}

/// Bytes that are no message, on the ports themselves: an answer of gRPC's, and the service serves on.
#[tokio::test(flavor = "multi_thread")]
async fn every_port_refuses_bytes_that_are_no_message() {
    let ground = Ground::lay().await;
    let mut faults = Vec::new();
    for endpoint in Endpoint::all().iter().filter(|endpoint| endpoint.route.is_some()) {
        let headers = ground.credentials(endpoint.method.access);
        let (port, path) = (ground.mesh.ports[endpoint.service], &endpoint.method.path);
        let answer = ground.wire.grpc_bytes(port, path, &headers, b"\xff\xff\xff\xff").await;
        if answer.code == tonic::Code::Ok || answer.reason.is_empty() && answer.text().is_empty() {
            faults.push(format!("{path}: {:?} {}", answer.code, answer.text()));
        }
        let unknown = ground.wire.grpc_bytes(port, &format!("{path}X"), &headers, b"").await;
        assert_eq!((unknown.code, &*unknown.reason), (tonic::Code::Unimplemented, "METHOD_UNKNOWN"), "{path}X");
    }
    ground.is_as_before(&faults).await;
}
