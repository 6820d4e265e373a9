//! API keys from their making to their end: shown once, no stronger than who makes them, the tenant's own, and refused within
//! a second of being revoked.

use std::{cell::Cell, time::Duration};

use reqwest::{Method as Verb, StatusCode};
use serde_json::{Value, json};
use tenon_proto::{
    auth::v1::{
        CreateApiKeyRequest, ListUsersRequest, api_key_service_client::ApiKeyServiceClient,
        user_service_client::UserServiceClient,
    },
    workflow::v1::{ListRunsRequest, WatchRunRequest, run_service_client::RunServiceClient},
};
use tonic::{Code, Request, metadata::MetadataValue, transport::Endpoint};
use tonic_types::StatusExt as _;

use crate::harness::{Backends, Mesh, PATIENCE, Second, Tenant, answer, eventually, reason, text};

async fn make(mesh: &Mesh, token: &str, body: &Value) -> (StatusCode, Value) {
    mesh.post("/v1/api-keys", token, body).await
}

async fn made(mesh: &Mesh, tenant: &Tenant, body: &Value) -> Value {
    let (status, key) = make(mesh, &tenant.token, body).await;
    assert_eq!(status, StatusCode::OK, "{key}");
    key
}

/// GET with an API key in its own header.
async fn get(mesh: &Mesh, path: &str, key: &str) -> (u16, Value) {
    let (status, answer) = answer(mesh.request(Verb::GET, path).header("x-api-key", key)).await;
    (status.as_u16(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_and_calls_in_its_tenants_name() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let (acme, globex) = (mesh.onboard("acme").await, mesh.onboard("globex").await);
    let key =
        made(&mesh, &acme, &json!({ "displayName": " ci ", "roles": ["viewer"], "permissions": ["workflow.runs.*"] }))
            .await;
    let secret = text(&key["secret"]);
    assert!(secret.starts_with("tnk_") && secret.len() == 95, "{secret}");
    for (field, expected) in [
        ("displayName", json!("ci")),
        ("roles", json!(["viewer"])),
        ("permissions", json!(["workflow.runs.*"])),
        ("lastUseTime", Value::Null),
    ] {
        assert_eq!(key[field], expected, "{field}: {key}");
    }
    assert!(key["createdBy"].as_str().is_some_and(|user| user.starts_with("users/usr_")), "{key}");

    // Who it is, by either header, on any host and on its tenant's.
    let (status, me) = get(&mesh, "/v1/auth/whoami", &secret).await;
    assert_eq!((status, &me["apiKey"], &me["tenant"]), (200, &key["name"], &json!(acme.name)), "{me}");
    assert_eq!((&me["roles"], &me["user"]), (&json!(["viewer", "workflow.runs.*"]), &json!("")));
    for (host, expected) in [("acme.localhost", (200, "")), ("globex.localhost", (403, "TENANT_HOST_MISMATCH"))] {
        let request = mesh.request(Verb::GET, "/v1/auth/whoami").header("host", host).bearer_auth(&secret);
        let (status, got) = answer(request).await;
        assert_eq!((status.as_u16(), &*reason(&got)), expected, "{host}: {got}");
    }
    what_it_may_do(&mesh, &acme, &key).await;
    its_tenants_own(&mesh, &acme, &globex, &key).await;
    only_the_edge_takes_it(&mesh, &secret).await;
}

/// A viewer who may handle runs, and nothing else; what it starts bears its name.
async fn what_it_may_do(mesh: &Mesh, acme: &Tenant, key: &Value) {
    let secret = text(&key["secret"]);
    let definition = json!({ "StartAt": "A", "States": { "A": { "Type": "Succeed" } } });
    let body = json!({ "workflowId": "hello", "definition": definition });
    let publish = mesh.request(Verb::POST, "/v1/workflows").header("x-api-key", &secret).json(&body);
    let (status, refused) = answer(publish).await;
    assert_eq!((status.as_u16(), &*reason(&refused)), (403, "PERMISSION_DENIED"), "{refused}");
    assert_eq!(mesh.post("/v1/workflows", &acme.token, &body).await.0, StatusCode::OK);
    // Under an idempotency key it is one run, as for a user.
    let start = || {
        let request = mesh.request(Verb::POST, "/v1/runs").header("x-api-key", &secret).header("idempotency-key", "k");
        answer(request.json(&json!({ "workflow": "hello" })))
    };
    let ((status, run), (_, again)) = (start().await, start().await);
    assert_eq!((status, &run["name"]), (StatusCode::OK, &again["name"]), "{run}");
    let by = format!("key:{}", text(&key["name"]).trim_start_matches("api-keys/"));
    let sql = "select created_by from workflow.runs";
    let starter: String = sqlx::query_scalar(sql).fetch_one(&mut mesh.database.owner().await).await.expect("one run");
    assert_eq!(starter, by);
    // Keys make no keys, whatever they may do.
    let all = made(mesh, acme, &json!({ "displayName": "all", "roles": ["admin"] })).await;
    let (status, refused) =
        make(mesh, &text(&all["secret"]), &json!({ "displayName": "x", "roles": ["viewer"] })).await;
    assert_eq!((status.as_u16(), &*reason(&refused)), (403, "USER_REQUIRED"), "{refused}");

    let channel = Endpoint::from_shared(mesh.url.clone()).expect("a URL").connect().await.expect("the edge takes it");
    let mut request = Request::new(ListRunsRequest::default());
    request.metadata_mut().insert("x-api-key", secret.parse().expect("a key is a header"));
    let runs = RunServiceClient::new(channel).list_runs(request).await.expect("it is let in").into_inner().runs;
    assert_eq!(runs.len(), 1);
    let used = eventually("its use is written down", || async {
        let (_, read) = mesh.get(&format!("/v1/{}", text(&key["name"])), &acme.token).await;
        read["lastUseTime"].is_string().then_some(read)
    })
    .await;
    assert_eq!(used["secret"], "", "{used}");
}

async fn its_tenants_own(mesh: &Mesh, acme: &Tenant, globex: &Tenant, key: &Value) {
    let name = text(&key["name"]);
    for (verb, token, expected) in [(Verb::GET, &globex.token, 404), (Verb::DELETE, &globex.token, 404)] {
        let (status, refused) = answer(mesh.request(verb.clone(), &format!("/v1/{name}")).bearer_auth(token)).await;
        assert_eq!((status.as_u16(), &*reason(&refused)), (expected, "API_KEY_NOT_FOUND"), "{verb}: {refused}");
    }
    let (_, list) = mesh.get("/v1/api-keys", &globex.token).await;
    assert_eq!(list["apiKeys"], json!([]));
    let (_, list) = mesh.get("/v1/api-keys?pageSize=1", &acme.token).await;
    assert_eq!(list["apiKeys"][0]["displayName"], "all", "newest first: {list}");
    let (_, list) = mesh.get(&format!("/v1/api-keys?pageToken={}", text(&list["nextPageToken"])), &acme.token).await;
    assert_eq!((&list["apiKeys"][0]["name"], &list["apiKeys"][0]["secret"]), (&key["name"], &json!("")), "{list}");
}

/// On a service's own port only tokens count, and the refusal says what to send.
async fn only_the_edge_takes_it(mesh: &Mesh, secret: &str) {
    for (name, value) in [("authorization", format!("Bearer {secret}")), ("x-api-key", secret.to_owned())] {
        let mut request = Request::new(ListUsersRequest::default());
        let value: MetadataValue<_> = value.parse().expect("a key is a header");
        request.metadata_mut().insert(name, value);
        let refused = UserServiceClient::new(mesh.grpc("auth")).list_users(request).await.expect_err("it is no token");
        let why = refused.get_details_error_info().map(|info| info.reason);
        assert_eq!((refused.code(), why.as_deref()), (Code::Unauthenticated, Some("API_KEY_AT_SERVICE")), "{name}");
        assert!(refused.message().contains("tenon token"), "{}", refused.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_no_stronger_than_who_makes_it() {
    let mesh = Mesh::start_with(Backends::Embedded, &[("TENON_API_KEYS", "3")]).await;
    let acme = mesh.onboard("acme").await;
    let body = json!({ "email": "eve@acme.test", "password": "correct horse battery", "roles": ["member"] });
    assert_eq!(mesh.post("/v1/users", &acme.token, &body).await.0, StatusCode::OK);
    let (_, session) = mesh.login("acme", "eve@acme.test", "correct horse battery").await;
    let eve = text(&session["accessToken"]);
    let (status, refused) = make(&mesh, &eve, &json!({ "displayName": "x", "roles": ["viewer"] })).await;
    assert_eq!((status.as_u16(), &*reason(&refused)), (403, "PERMISSION_DENIED"), "members make none: {refused}");
    // A service that acts for an admin gets none either: it is no user.
    let token = mesh.mesh_token("auth", Some(acme.name.trim_start_matches("tenants/")), &["admin"]);
    let asked =
        CreateApiKeyRequest { display_name: "x".to_owned(), roles: vec!["viewer".to_owned()], ..<_>::default() };
    let mut request = Request::new(asked);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a token is a header"));
    let refused = ApiKeyServiceClient::new(mesh.grpc("auth")).create_api_key(request).await.expect_err("it is nobody");
    assert_eq!(refused.get_details_error_info().map(|info| info.reason).as_deref(), Some("USER_REQUIRED"));

    for (at, roles) in [json!(["admin"]), json!(["member"]), json!(["viewer"])].into_iter().enumerate() {
        made(&mesh, &acme, &json!({ "displayName": format!("key {at}"), "roles": roles })).await;
    }
    let (status, refused) = make(&mesh, &acme.token, &json!({ "displayName": "x", "roles": ["viewer"] })).await;
    assert_eq!((status.as_u16(), &*reason(&refused)), (429, "TOO_MANY_API_KEYS"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_within_a_second_and_an_expired_one_in_time() {
    let mesh = Mesh::start_separately(Backends::Embedded).await;
    let acme = mesh.onboard("acme").await;
    let key = made(&mesh, &acme, &json!({ "displayName": "leaked", "roles": ["admin"] })).await;
    let (name, secret) = (text(&key["name"]), text(&key["secret"]));
    assert_eq!(get(&mesh, "/v1/auth/whoami", &secret).await.0, 200);
    let request = mesh.request(Verb::DELETE, &format!("/v1/{name}")).bearer_auth(&acme.token);
    assert_eq!(answer(request).await.0, StatusCode::OK);
    let second = Second::begins();
    let refused = eventually("it is refused", || async {
        let asked = second.ask();
        let (status, refused) = get(&mesh, "/v1/auth/whoami", &secret).await;
        if status != 200 {
            return Some((status, refused));
        }
        asked.may_be_old("the key is let in");
        None
    })
    .await;
    assert_eq!((refused.0, &*reason(&refused.1)), (401, "API_KEY_INVALID"));
    let (status, gone) = mesh.get(&format!("/v1/{name}"), &acme.token).await;
    assert_eq!((status.as_u16(), &*reason(&gone)), (404, "API_KEY_NOT_FOUND"));

    let (_, now) = mesh.get("/v1/auth/whoami", &acme.token).await;
    assert!(now["user"].is_string());
    let life_s = Cell::new(2);
    // As long a life as the machine needs to make use of it.
    let (brief, secret) = eventually("a brief key is let in", || async {
        let life_s = life_s.replace(life_s.get() * 2);
        let body = json!({ "displayName": "brief", "roles": ["admin"], "expireTime": soon(&mesh, life_s).await });
        let brief = made(&mesh, &acme, &body).await;
        let secret = text(&brief["secret"]);
        (get(&mesh, "/v1/auth/whoami", &secret).await.0 == 200).then_some((brief, secret))
    })
    .await;
    let expired = eventually("it has expired", || async {
        let (status, refused) = get(&mesh, "/v1/auth/whoami", &secret).await;
        (status != 200).then_some((status, refused))
    })
    .await;
    assert_eq!(expired, refused, "the same answer, whatever is wrong with a key");
    let (_, list) = mesh.get("/v1/api-keys", &acme.token).await;
    assert_eq!(list["apiKeys"][0]["name"], brief["name"], "it is listed until it is deleted: {list}");
}

/// A time that is some seconds away, by the clock of the database.
async fn soon(mesh: &Mesh, seconds: i32) -> String {
    let sql = "select to_char(now() at time zone 'utc' + interval '1 s' * $1, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')";
    let soon = sqlx::query_scalar(sql).bind(seconds).fetch_one(&mut mesh.database.owner().await).await;
    soon.expect("the database has a clock")
}

/// Streams that a key has open to the edge: over HTTP/JSON, and over gRPC. Resolves with how each has ended.
async fn watched(mesh: &Mesh, secret: &str, run: &str) -> impl Future<Output = (String, Code)> + use<> {
    let request = mesh.request(Verb::GET, &format!("/v1/{run}:watch")).header("x-api-key", secret);
    let mut lines = request.send().await.expect("the edge answers");
    assert!(lines.chunk().await.expect("a stream").is_some(), "it has begun");
    let channel = Endpoint::from_shared(mesh.url.clone()).expect("a URL").connect().await.expect("the edge takes it");
    let mut request = Request::new(WatchRunRequest { name: run.to_owned(), ..WatchRunRequest::default() });
    request.metadata_mut().insert("x-api-key", secret.parse().expect("a key is a header"));
    let frames = RunServiceClient::new(channel).watch_run(request).await.expect("it is let in");
    let mut frames = frames.into_inner();
    assert!(frames.message().await.expect("a stream").is_some(), "it has begun");
    async move {
        let mut last = String::new();
        while let Some(line) = lines.chunk().await.expect("it ends well") {
            last = String::from_utf8_lossy(&line).into_owned();
        }
        let code = loop {
            match frames.message().await {
                Ok(Some(_)) => {}
                Ok(None) => break Code::Ok,
                Err(status) => break status.code(),
            }
        };
        (last, code)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_end_when_their_key_is_revoked_or_their_tenant_is_suspended() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let (acme, globex) = (mesh.onboard("acme").await, mesh.onboard("globex").await);
    let states = json!({ "A": { "Type": "Wait", "Seconds": 3_600, "End": true } });
    let body = json!({ "workflowId": "waits", "definition": { "StartAt": "A", "States": states } });
    for (tenant, expected, code) in
        [(&acme, "API_KEY_INVALID", Code::Unauthenticated), (&globex, "TENANT_SUSPENDED", Code::PermissionDenied)]
    {
        assert_eq!(mesh.post("/v1/workflows", &tenant.token, &body).await.0, StatusCode::OK);
        let (_, run) = mesh.post("/v1/runs", &tenant.token, &json!({ "workflow": "waits" })).await;
        let run = text(&run["name"]);
        let key = made(&mesh, tenant, &json!({ "displayName": "watches", "roles": ["admin"] })).await;
        let other = made(&mesh, tenant, &json!({ "displayName": "stays", "roles": ["admin"] })).await;
        let ended = watched(&mesh, &text(&key["secret"]), &run).await;
        let stays = watched(&mesh, &text(&other["secret"]), &run).await;
        if expected == "API_KEY_INVALID" {
            let name = text(&key["name"]);
            let request = mesh.request(Verb::DELETE, &format!("/v1/{name}")).bearer_auth(&tenant.token);
            assert_eq!(answer(request).await.0, StatusCode::OK);
        } else {
            let (status, done) = mesh.operate(&format!("/v1/{}:suspend", tenant.name), &json!({})).await;
            assert_eq!(status, StatusCode::OK, "{done}");
        }
        // They would go on for an hour.
        let (line, ended) = tokio::time::timeout(PATIENCE, ended).await.expect("the streams end");
        assert!(line.contains(expected), "{line}");
        assert_eq!(ended, code);
        // Another key's streams go on, unless the tenant ends.
        if expected == "API_KEY_INVALID" {
            assert!(tokio::time::timeout(Duration::from_secs(1), stays).await.is_err(), "{expected}");
        } else {
            tokio::time::timeout(PATIENCE, stays).await.expect("the other key's streams end");
        }
    }
}
