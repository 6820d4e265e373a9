//! What a process writes down of a request: enough to find it again, and nothing that is nobody else's to read.

use reqwest::Method as Verb;
use serde_json::{Value, json};

use crate::harness::{Backends, Headers, Mesh, Wire, answer, eventually, text};

/// In a place where secrets stand; `name` says where.
fn secret(name: &str) -> String {
    format!("s3cret-{name}-0123456789")
}

/// The access log lines of a path.
fn lines(mesh: &Mesh, path: &str) -> Vec<Value> {
    let log = mesh.log("all");
    let parsed = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter(|line| line["fields"]["url.path"] == path || line["url.path"] == path).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_request_is_in_no_log() {
    let settings = [("TENON_LOG_FORMAT", "json"), ("TENON_LOG", "info")];
    let (mesh, wire) = (Mesh::start_with(Backends::Embedded, &settings).await, Wire::new());
    let acme = mesh.onboard("acme").await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let headers = |token: &str| -> Headers {
        vec![
            ("authorization", format!("Bearer {token}")),
            ("cookie", secret("cookie")),
            ("x-operator-key", secret("operator")),
            ("grpc-metadata-note", secret("metadata")),
            ("idempotency-key", secret("key")),
            ("traceparent", format!("00-{trace}-b7ad6b7169203331-01")),
            ("x-request-id", "find-me".to_owned()),
        ]
    };
    let (email, password) = (format!("{}@x.test", secret("mail")), secret("password"));
    let user = json!({ "email": email, "password": password, "roles": ["viewer"] }).to_string();
    let made = wire.http(&mesh, Verb::POST, "/v1/users", &headers(&acme.token), user.as_bytes()).await;
    assert_eq!(made.http, 200, "{}", made.text());
    let login = json!({ "tenant": "acme", "email": email, "password": secret("wrong") }).to_string();
    let refused = wire.http(&mesh, Verb::POST, "/v1/auth/login", &headers("x"), login.as_bytes()).await;
    assert_eq!(refused.http, 401, "{}", refused.text());
    let query = format!("/v1/users?pageToken={}", secret("query"));
    wire.http(&mesh, Verb::GET, &query, &headers(&acme.token), b"").await;
    wire.http(&mesh, Verb::POST, "/v1/users", &headers(&secret("token")), secret("body").as_bytes()).await;
    let key = shown_key(&mesh, &wire, &headers(&acme.token)).await;

    let seen = eventually("the requests are logged", || async {
        let found = lines(&mesh, "/v1/users");
        let asked = lines(&mesh, "/v1/auth/whoami").len();
        (found.len() >= 3 && asked >= 3 && !lines(&mesh, "/v1/auth/login").is_empty()).then_some(found)
    })
    .await;
    let log = mesh.log("all");
    let signature = acme.token.rsplit('.').next().expect("a JWT has three parts");
    assert!(!log.contains("s3cret-") && !log.contains(signature), "{}", leaked(&log));
    assert!(!log.contains("tnk_") && !log.contains(&key[4..]), "a key is in the log");
    let by_key = lines(&mesh, "/v1/auth/whoami");
    let principal = by_key[0].get("fields").unwrap_or(&by_key[0])["principal"].clone();
    assert!(principal.as_str().is_some_and(|principal| principal.starts_with("key:apk_")), "{principal}");
    // What is there instead.
    let line = seen[0].get("fields").unwrap_or(&seen[0]);
    for (field, expected) in [
        ("http.request.method", json!("POST")),
        ("http.route", json!("POST /v1/users")),
        ("network.protocol.name", json!("http")),
        ("http.response.status_code", json!(200)),
        ("rpc.grpc.status_code", json!(0)),
        ("http.request.body.size", json!(user.len())),
        ("http.response.body.size", json!(made.body.len())),
        ("upstream.name", json!("auth")),
        ("client.address", json!("127.0.0.1")),
        ("request.id", json!("find-me")),
        ("trace.id", json!(trace)),
    ] {
        assert_eq!(line[field], expected, "{field}: {line}");
    }
    assert!(line["duration_us"].is_u64() && line["tenant.id"].is_string() && line["principal"].is_string(), "{line}");
    let refused = lines(&mesh, "/v1/auth/login");
    let refused = refused.last().map(|line| line.get("fields").unwrap_or(line).clone()).expect("a line");
    assert_eq!(
        (&refused["rpc.grpc.status_code"], refused["error.reason"].is_string()),
        (&json!(16), true),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_a_webhook_is_shown_once_and_kept_sealed_only() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let acme = mesh.onboard("acme").await;
    let endpoint = json!({ "endpointId": "erp", "url": "https://erp.test/in", "eventTypes": ["x"] });
    let mut shown = Vec::new();
    for (path, body) in [
        ("/v1/hooks", json!({ "hookId": "in", "scheme": "META", "secret": secret("hook") })),
        ("/v1/hooks/in:rotateSecret", json!({})),
        ("/v1/endpoints", endpoint),
        ("/v1/endpoints/erp:rotateSecret", json!({})),
    ] {
        let send = async || {
            let request = mesh.request(Verb::POST, path).bearer_auth(&acme.token).header("idempotency-key", path);
            let (status, answer) = answer(request.json(&body)).await;
            assert!(status.is_success(), "{path}: {answer}");
            answer
        };
        let (first, again) = (send().await, send().await);
        shown.push(text(&first["secret"]));
        assert_eq!(first["name"], again["name"], "{path}");
        assert!(again["secret"].as_str().is_none_or(str::is_empty), "{path}: {again}");
    }
    let kept = "select string_agg(row, ' ') from (
                    select i::text as row from mesh.idempotency i union all select h::text from workflow.hooks h
                    union all select e::text from workflow.endpoints e union all select o::text from mesh.outbox o) as rows";
    let kept: String = sqlx::query_scalar(kept).fetch_one(&mut mesh.database.owner().await).await.expect("rows");
    for secret in shown {
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(secret.len() > 16 && !kept.contains(&secret) && !kept.contains(&hex), "{secret} is kept: {kept}");
    }
}

/// A key that has been shown to the edge, as have two that are none.
async fn shown_key(mesh: &Mesh, wire: &Wire, headers: &Headers) -> String {
    let key = json!({ "displayName": "ci", "roles": ["viewer"] }).to_string();
    let key = wire.http(mesh, Verb::POST, "/v1/api-keys", headers, key.as_bytes()).await;
    let key: Value = serde_json::from_slice(&key.body).expect("JSON");
    let key = key["secret"].as_str().expect("a key has a secret").to_owned();
    for shown in [key.clone(), format!("tnk_{}", secret("key")), secret("header")] {
        wire.http(mesh, Verb::GET, "/v1/auth/whoami", &vec![("x-api-key", shown)], b"").await;
    }
    key
}

/// The lines of a log that hold what they must not.
fn leaked(log: &str) -> String {
    log.lines().filter(|line| line.contains("s3cret-") || line.contains("eyJ")).take(5).collect::<Vec<_>>().join("\n")
}
