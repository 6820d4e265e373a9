//! What a client sees of the edge.

use std::{sync::atomic::Ordering, time::Duration};

use http::Request;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    house::{ACME, GLOBEX, House, OPERATOR},
    patience::{ends, until},
    protocols::left,
};

#[tokio::test]
async fn a_call_goes_through_and_comes_back_as_json() {
    let house = House::open(&[]).await;
    let answer = house.get("/v1/things/a%20b?int64=5&colour=RED").await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    assert_eq!(answer.json["text"], "things/a b");
    assert_eq!((&answer.json["int64"], &answer.json["colour"]), (&json!("5"), &json!("RED")));
    assert_eq!(answer.headers["content-type"], "application/json");
    for (name, value) in
        [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")]
    {
        assert_eq!(answer.headers[name], value);
    }
    assert!(!answer.headers.contains_key("strict-transport-security"));
    assert_eq!(answer.headers["x-request-id"].to_str().ok(), answer.seen("x-request-id").as_deref());
    let left = left(&answer.seen("grpc-timeout").unwrap());
    assert!(left > Duration::from_secs(10) && left < Duration::from_secs(30), "{left:?}");
    assert!(answer.seen("authorization").is_some_and(|token| token.starts_with("Bearer ")));

    let head = house.send(Request::head("/v1/things/a"), "").await;
    assert_eq!((head.status, head.json), (200, json!(null)));
    let uri = format!("http://localhost:{}/v1/things/a", house.address.port());
    assert_eq!(house.h2(Request::get(uri)).await.json["text"], "things/a");
}

#[tokio::test]
async fn refusals_are_a_status_with_a_reason() {
    let house = House::open(&[]).await;
    let cases = [
        (house.get("/v2").await, 404, 5, "ROUTE_NOT_FOUND"),
        (house.get("/v1/enter").await, 405, 12, "METHOD_NOT_ALLOWED"),
        (house.get("/v1/things/a?nope=1").await, 400, 3, "UNKNOWN_FIELD"),
        (house.post("/v1/things", &[], &json!({"int32": "x"})).await, 400, 3, "INVALID_FIELD"),
        (house.send(Request::post("/v1/things"), "{").await, 400, 3, "INVALID_JSON"),
        (
            house.send(Request::post("/v1/things").header("content-type", "text/plain"), "{}").await,
            415,
            3,
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (house.send(Request::get("/v1/things").header("accept", "text/html"), "").await, 406, 3, "NOT_ACCEPTABLE"),
        (house.send(Request::post("/v1/things"), vec![b' '; 5 << 20]).await, 413, 8, "MESSAGE_TOO_LARGE"),
        (house.get(&format!("/v1/things?text={}", "a".repeat(9000))).await, 414, 3, "URI_TOO_LONG"),
        (
            house.post("/v1/things", &[("idempotency-key", "two words")], &json!({})).await,
            400,
            3,
            "INVALID_IDEMPOTENCY_KEY",
        ),
        (house.post("/v1/things", &[("x-request-timeout", "soon")], &json!({})).await, 400, 3, "INVALID_TIMEOUT"),
        (house.get("/v1/things/missing").await, 404, 5, "THING_NOT_FOUND"),
        (house.get("/v1/things/crash").await, 500, 13, "INTERNAL"),
        (house.get("/v1/things/cancelled").await, 504, 4, "DEADLINE_EXCEEDED"),
    ];
    for (answer, http, code, reason) in cases {
        assert_eq!((answer.status, answer.reason()), (http, reason), "{}", answer.json);
        assert_eq!(answer.json["code"], code, "{reason}");
        assert!(!answer.json.to_string().contains("secret.rs"));
        assert!(answer.headers.contains_key("x-request-id") && answer.headers["x-content-type-options"] == "nosniff");
    }
    assert_eq!(house.get("/v1/enter").await.headers["allow"], "OPTIONS, POST");
    let options = house.send(Request::options("/v1/things"), "").await;
    assert_eq!((options.status, &options.headers["allow"]), (204, &"GET, HEAD, OPTIONS, POST".parse().unwrap()));
}

#[tokio::test]
async fn the_deadline_is_the_clients_and_the_call_is_cut() {
    let house = House::open(&[]).await;
    // The service would take longer than the patience of this test.
    let called = house.send(Request::get("/v1/things/slow").header("x-request-timeout", "0.2"), "");
    let answer = ends("the deadline", called).await;
    assert_eq!((answer.status, answer.reason()), (504, "DEADLINE_EXCEEDED"));
    let slow = || house.slow.load(Ordering::SeqCst);
    let cut = || house.cut.load(Ordering::SeqCst);
    until("the call behind is cut", async || cut() == slow()).await;

    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let (begun, before) = (slow(), cut());
        let mut gone = TcpStream::connect(house.address).await.unwrap();
        gone.write_all(format!("GET /v1/things/slow {version}\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        until("the call is under way", async || slow() > begun).await;
        assert_eq!(cut(), before);
        drop(gone);
        until("the call behind is cut", async || cut() > before).await;
    }
}

#[tokio::test]
async fn headers_are_bounded() {
    let house = House::open(&[]).await;
    let answer = house.raw(&format!("GET /v1/things/a HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(100_000))).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many: String = (0..200).map(|n| format!("x-{n}: a\r\n")).collect();
    let answer = house.raw(&format!("GET /v1/things/a HTTP/1.1\r\n{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let both = "POST /v1/things HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}";
    let answer = house.raw(both).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let hosts = "GET /v1/things/a HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n";
    let answer = house.raw(hosts).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("INVALID_HOST"), "{answer}");
}

#[tokio::test]
async fn tokens_permissions_and_operators_are_checked() {
    let house = House::open(&[]).await;
    let (admin, viewer) = (house.token(ACME, &["admin"]), house.token(ACME, &["nobody"]));
    let answer = house.post("/v1/mine", &[("authorization", &admin)], &json!({"text": "x"})).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    assert_eq!(answer.seen("authorization").as_deref(), Some(&*admin));
    assert_eq!(answer.seen("x-tenant-id").as_deref(), Some(ACME));
    assert_eq!(answer.headers["cache-control"], "no-store");

    let tampered = format!("{}x", &admin[..admin.len() - 3]);
    let suspended = house.token(GLOBEX, &["admin"]);
    let stranger = house.token("ten_01890000000070008000000000000003", &["admin"]);
    for (token, status, reason) in [
        ("", 401, "TOKEN_REQUIRED"),
        ("Basic eDp5", 401, "INVALID_TOKEN"),
        (&tampered, 401, "INVALID_TOKEN"),
        ("Bearer eyJhbGciOiJub25lIn0.e30.", 401, "INVALID_TOKEN"),
        (&viewer, 403, "PERMISSION_DENIED"),
        (&suspended, 403, "TENANT_SUSPENDED"),
        (&stranger, 401, "TENANT_UNKNOWN"),
    ] {
        let headers = if token.is_empty() { vec![] } else { vec![("authorization", token)] };
        let answer = house.post("/v1/mine", &headers, &json!({})).await;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{token}");
    }

    let answer = house.post("/v1/rule", &[("x-operator-key", OPERATOR)], &json!({})).await;
    assert_eq!(answer.seen("x-operator-key").as_deref(), Some(OPERATOR), "{}", answer.json);
    for (name, value, status) in
        [("x-operator-key", "wrong", 401), ("x_operator_key", OPERATOR, 401), ("authorization", &*admin, 403)]
    {
        assert_eq!(house.post("/v1/rule", &[(name, value)], &json!({})).await.status, status, "{name}");
    }
    // The credential goes nowhere but to OPERATOR methods.
    let answer = house.post("/v1/enter", &[("x-operator-key", OPERATOR)], &json!({})).await;
    assert_eq!(answer.seen("x-operator-key"), None);
}

#[tokio::test]
async fn the_hosts_tenant_and_the_tokens_must_agree() {
    let house = House::open(&[]).await;
    let admin = house.token(ACME, &["admin"]);
    let at = |host: &'static str| [("authorization", admin.as_str()), ("host", host)];
    assert_eq!(house.post("/v1/mine", &at("acme.localhost:8080"), &json!({})).await.status, 200);
    let other = house.post("/v1/mine", &at("globex.localhost"), &json!({})).await;
    assert_eq!((other.status, other.reason()), (403, "TENANT_HOST_MISMATCH"));
    let unknown = house.post("/v1/mine", &at("nobody.localhost"), &json!({})).await;
    assert_eq!((unknown.status, unknown.reason()), (401, "TENANT_UNKNOWN"));

    let public = house.post("/v1/enter", &[("host", "acme.localhost")], &json!({})).await;
    assert_eq!(public.seen("x-tenant-id").as_deref(), Some(ACME), "{}", public.json);
    let claims = public.seen("authorization").unwrap();
    let claims = jsonwebtoken::dangerous::insecure_decode::<serde_json::Value>(claims.trim_start_matches("Bearer "));
    let claims = claims.unwrap().claims;
    assert_eq!(
        (&claims["tid"], &claims["aud"], &claims["sub"]),
        (&json!(ACME), &json!("everything"), &json!("svc:gateway"))
    );
    let suspended = house.post("/v1/enter", &[("host", "globex.localhost")], &json!({})).await;
    assert_eq!((suspended.status, suspended.reason()), (403, "TENANT_SUSPENDED"));
}

#[tokio::test]
async fn internal_headers_from_outside_do_not_pass() {
    let house = House::open(&[]).await;
    let spoofed = [
        ("x-tenant-id", GLOBEX),
        ("X-Tenant-Id", GLOBEX),
        ("x_tenant_id", GLOBEX),
        ("x-tenant_id", GLOBEX),
        ("x-tenon-roles", "admin"),
        ("x-tenon-tenant", GLOBEX),
        ("x-forwarded-for", "6.6.6.6"),
        ("grpc-status", "0"),
        ("grpc-encoding", "gzip"),
        ("te", "gzip"),
        ("cookie", "a=b"),
        ("x-operator_key", OPERATOR),
    ];
    let admin = house.token(ACME, &["admin"]);
    for (name, value) in spoofed {
        let headers = [("authorization", admin.as_str()), (name, value), (name, value)];
        let answer = house.post("/v1/mine", &headers, &json!({})).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.json);
        assert_eq!(answer.seen("x-tenant-id").as_deref(), Some(ACME), "{name}");
        assert_eq!(answer.seen("x-forwarded-for").as_deref(), Some("127.0.0.1"), "{name}");
        for name in [
            "x_tenant_id",
            "x-tenant_id",
            "x-tenon-roles",
            "x-tenon-tenant",
            "cookie",
            "grpc-encoding",
            "x-operator_key",
        ] {
            assert_eq!(answer.seen(name), None, "{name}");
        }
    }
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = house.post("/v1/enter", &[("traceparent", trace), ("x-request-id", "mine-1")], &json!({})).await;
    assert!(answer.seen("traceparent").is_some_and(|parent| parent.starts_with(&trace[..35])));
    assert_eq!(answer.headers["x-request-id"], "mine-1");
    let answer = house.post("/v1/enter", &[("traceparent", "00-x"), ("x-request-id", "a b")], &json!({})).await;
    assert_eq!(answer.seen("traceparent"), None);
    assert_ne!(answer.headers["x-request-id"], "a b");
}

#[tokio::test]
async fn limits_hold_by_address_and_by_plan() {
    let house = House::open(&["--rate-ip-login", "1"]).await;
    for left in (0..20).rev() {
        let answer = house.post("/v1/enter", &[], &json!({})).await;
        assert_eq!(answer.status, 200);
        assert!(answer.headers["ratelimit"].to_str().unwrap().starts_with(&format!("\"ip-login\";r={left};t=")));
        assert_eq!(answer.headers["ratelimit-policy"], "\"ip-login\";q=1;w=60");
    }
    let refused = house.post("/v1/enter", &[], &json!({})).await;
    assert_eq!((refused.status, refused.reason(), &refused.json["code"]), (429, "RATE_LIMITED", &json!(8)));
    assert_eq!(refused.headers["retry-after"], "60");
    house.clock.advance(Duration::from_secs(61));
    assert_eq!(house.post("/v1/enter", &[], &json!({})).await.status, 200);

    let admin = house.token(ACME, &["admin"]);
    let answer = house.post("/v1/mine", &[("authorization", &admin)], &json!({})).await;
    let policy = answer.headers["ratelimit-policy"].to_str().unwrap();
    assert_eq!(policy, "\"ip-read\";q=6000;w=60, \"tenant-read\";q=120;w=60", "the plan says 120");
}

#[tokio::test]
async fn only_listed_origins_are_answered() {
    let house = House::open(&["--cors-origins", "https://app.example.com", "--public-https"]).await;
    let preflight = |origin: &'static str, verb: &'static str| {
        let request = Request::options("/v1/enter").header("origin", origin);
        house.send(request.header("access-control-request-method", verb), "")
    };
    let answer = preflight("https://app.example.com", "POST").await;
    assert_eq!((answer.status, &answer.headers["access-control-allow-methods"]), (204, &"POST".parse().unwrap()));
    assert_eq!(answer.headers["access-control-allow-origin"], "https://app.example.com");
    assert_eq!(answer.headers["vary"], "origin");
    assert!(answer.headers.contains_key("strict-transport-security"));
    assert!(!preflight("https://evil.example", "POST").await.headers.contains_key("access-control-allow-origin"));
    assert!(!preflight("https://app.example.com", "PUT").await.headers.contains_key("access-control-allow-methods"));
    let answer = house.post("/v1/enter", &[("origin", "https://app.example.com")], &json!({})).await;
    assert_eq!(answer.headers["access-control-allow-origin"], "https://app.example.com");
    assert_eq!(answer.headers["access-control-allow-credentials"], "true");
}

#[tokio::test]
async fn a_slow_body_is_cut_and_a_drain_lets_requests_end() {
    let house = House::open(&["--edge-body-timeout-s", "1"]).await;
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    stream.write_all(b"POST /v1/things HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("BODY_TIMEOUT"), "{answer}");

    let request = house.get("/v1/things/held");
    let stopped = async {
        until("the call is under way", async || house.slow.load(Ordering::SeqCst) == 1).await;
        house.stop.cancel();
        until("nobody is let in any more", async || TcpStream::connect(house.address).await.is_err()).await;
        house.gate.notify_one();
    };
    assert_eq!(tokio::join!(request, stopped).0.status, 200);
    ends("the edge", house.edge).await.unwrap();
}
