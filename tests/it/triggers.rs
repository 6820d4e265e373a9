//! What starts runs beside CreateRun: schedules, and webhooks from outside; and what an envelope says of inputs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::harness::{Backends, Mesh, Tenant, eventually, reason, text};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn echo() -> Value {
    json!({ "StartAt": "A", "States": { "A": { "Type": "Pass", "End": true } } })
}

/// Sleeps until it is cancelled.
fn nap() -> Value {
    json!({ "StartAt": "A", "States": { "A": { "Type": "Wait", "Seconds": 86_400, "End": true } } })
}

async fn publish(mesh: &Mesh, token: &str, id: &str, definition: &Value, envelope: &Value) -> Value {
    let body = json!({ "workflowId": id, "definition": definition, "envelope": envelope });
    let (status, workflow) = mesh.post("/v1/workflows", token, &body).await;
    assert_eq!(status, StatusCode::OK, "{id}: {workflow}");
    workflow
}

/// The runs of a workflow, once there are as many.
async fn runs(mesh: &Mesh, token: &str, workflow: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} runs of {workflow}"), || async {
        let (status, answer) = mesh.get(&format!("/v1/runs?workflow={workflow}"), token).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let runs = answer["runs"].as_array().cloned().unwrap_or_default();
        (runs.len() >= count).then_some(runs)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_starts_runs_until_it_is_paused() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("schedules").await;
    publish(&mesh, &token, "echo", &echo(), &json!({})).await;
    let body = json!({
        "scheduleId": "often", "workflow": "echo", "cron": "* * * * * *", "overlap": "ALLOW", "input": { "n": 1 },
    });
    let (status, schedule) = mesh.post("/v1/schedules", &token, &body).await;
    assert_eq!(status, StatusCode::OK, "{schedule}");
    let (status, again) = mesh.post("/v1/schedules", &token, &body).await;
    assert_eq!((status, reason(&again).as_str()), (StatusCode::CONFLICT, "SCHEDULE_EXISTS"), "{again}");
    let started = runs(&mesh, &token, "echo", 2).await;
    let times: std::collections::BTreeSet<String> =
        started.iter().map(|run| text(&run["input"]["schedule"]["time"])).collect();
    assert_eq!(times.len(), started.len(), "a time was run twice: {started:?}");
    assert_eq!(
        (&started[0]["input"]["n"], &started[0]["input"]["schedule"]["name"]),
        (&json!(1), &json!("schedules/often"))
    );
    let (status, paused) = mesh.post("/v1/schedules/often:pause", &token, &json!({})).await;
    assert_eq!(
        (status, &paused["paused"], &paused["nextTime"]),
        (StatusCode::OK, &json!(true), &Value::Null),
        "{paused}"
    );
    let span = json!({ "startTime": "2026-01-01T00:00:00Z", "endTime": "2026-01-01T00:00:04Z" });
    let (status, filled) = mesh.post("/v1/schedules/often:backfill", &token, &span).await;
    assert_eq!((status, filled["runs"].as_array().map(Vec::len)), (StatusCode::OK, Some(5)), "{filled}");
    let much = json!({ "startTime": "2025-01-01T00:00:00Z", "endTime": "2026-01-01T00:00:04Z" });
    let (status, refused) = mesh.post("/v1/schedules/often:backfill", &token, &much).await;
    assert_eq!((status, reason(&refused).as_str()), (StatusCode::BAD_REQUEST, "INVALID_FIELD"), "{refused}");
    let deleted = mesh.request(Method::DELETE, "/v1/schedules/often").bearer_auth(&token).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::OK);
    let (status, gone) = mesh.get("/v1/schedules/often", &token).await;
    assert_eq!((status, reason(&gone).as_str()), (StatusCode::NOT_FOUND, "SCHEDULE_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_waits_for_the_run_before() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("overlap").await;
    let cron = json!({ "cron": { "cron": "* * * * * *", "overlap": "BUFFER_ONE" } });
    publish(&mesh, &token, "nap", &nap(), &json!({ "triggers": [cron] })).await;
    let first = runs(&mesh, &token, "nap", 1).await;
    let schedule = "/v1/schedules/nap-cron-0";
    eventually("a second time has gone by", || async {
        let (_, now) = mesh.get(schedule, &token).await;
        (text(&now["nextTime"]) > text(&now["lastTime"])).then_some(())
    })
    .await;
    assert_eq!(runs(&mesh, &token, "nap", 1).await.len(), 1, "a run started beside the one before");
    let name = text(&first[0]["name"]);
    let (status, cancelled) = mesh.post(&format!("/v1/{name}:cancel"), &token, &json!({})).await;
    assert_eq!(status, StatusCode::OK, "{cancelled}");
    assert_eq!(runs(&mesh, &token, "nap", 2).await.len(), 2);
    // A new version without the trigger ends the schedule; it cannot be deleted beside its workflow.
    let deleted = mesh.request(Method::DELETE, schedule).bearer_auth(&token).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::BAD_REQUEST);
    publish(&mesh, &token, "nap", &nap(), &json!({})).await;
    assert_eq!(mesh.get(schedule, &token).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_is_validated_and_shown() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("envelopes").await;
    let bad = json!({
        "definition": { "StartAt": "A", "States": { "A": { "Type": "Pass", "Next": "B" } } },
        "envelope": {
            "triggers": [{ "cron": { "cron": "never" } }, { "webhook": { "hook": "nowhere" } }],
            "concurrency": { "key": "inptu.a", "limit": 1 },
        },
    });
    let (status, answer) = mesh.post("/v1/workflows:validate", &token, &bad).await;
    assert_eq!((status, &answer["valid"]), (StatusCode::OK, &json!(false)), "{answer}");
    let fields: Vec<String> = answer["faults"].as_array().unwrap().iter().map(|fault| text(&fault["field"])).collect();
    for field in [
        "definition/States/A/Next",
        "envelope/triggers/0/cron/cron",
        "envelope/triggers/1/webhook/hook",
        "envelope/concurrency/key",
    ] {
        assert!(fields.iter().any(|found| found == field), "{field} is not among {fields:?}");
    }
    let envelope = json!({
        "description": "Orders", "inputSchema": { "type": "object", "required": ["customer"] },
        "concurrency": { "key": "input.customer", "limit": 2 }, "searchAttributes": { "customer": "input.customer" },
        "runTimeout": "60s", "retentionDays": 7,
    });
    let first = publish(&mesh, &token, "orders", &echo(), &envelope).await;
    assert_eq!(first["envelope"]["concurrency"], envelope["concurrency"], "{first}");
    assert_eq!(publish(&mesh, &token, "orders", &echo(), &envelope).await["version"], 1);
    assert_eq!(publish(&mesh, &token, "orders", &echo(), &json!({})).await["version"], 2);
    let (_, old) = mesh.get("/v1/workflows/orders/versions/1", &token).await;
    assert_eq!((&old["version"], &old["envelope"]["runTimeout"]), (&json!(1), &json!("60s")), "{old}");
    let (_, versions) = mesh.get("/v1/workflows/orders/versions", &token).await;
    let numbers: Vec<_> = versions["workflows"].as_array().unwrap().iter().map(|row| row["version"].clone()).collect();
    assert_eq!(numbers, [json!(2), json!(1)]);
}

fn hex(body: &str) -> String {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Delivers as GitHub does.
async fn deliver(mesh: &Mesh, path: &str, id: &str, body: &str, signature: &str) -> (StatusCode, Value) {
    let request = mesh.request(Method::POST, path).header("content-type", "application/json").body(body.to_owned());
    let request = request.header("x-github-delivery", id).header("x-github-event", "push");
    let answer = request.header("x-hub-signature-256", format!("sha256={signature}")).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_starts_a_run_once() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, slug, .. } = mesh.onboard("hooks").await;
    publish(&mesh, &token, "echo", &echo(), &json!({})).await;
    let targets = json!([{ "start": { "workflow": "echo", "input": "{'ref': request.body.ref, 'event': request.headers['x-github-event']}" } }]);
    let hook = json!({ "hookId": "github", "scheme": "GITHUB", "secret": SECRET, "targets": targets });
    let (status, made) = mesh.post("/v1/hooks", &token, &hook).await;
    assert_eq!((status, &made["secret"]), (StatusCode::OK, &json!(SECRET)), "{made}");
    let (_, shown) = mesh.get("/v1/hooks/github", &token).await;
    assert_eq!(shown["secret"], "", "the secret is shown again");
    // A workflow may ask for the deliveries of a hook too.
    let trigger = json!({ "webhook": { "hook": "github", "filter": "request.body.ref == 'main'" } });
    publish(&mesh, &token, "on-main", &echo(), &json!({ "triggers": [trigger] })).await;
    let (path, body) = (text(&made["path"]), r#"{"ref":"main"}"#);
    let (status, answer) = deliver(&mesh, &path, "d1", body, &hex(body)).await;
    assert_eq!((status, answer["runs"].as_array().map(Vec::len)), (StatusCode::OK, Some(2)), "{answer}");
    let run = &runs(&mesh, &token, "echo", 1).await[0];
    assert_eq!(run["input"], json!({ "ref": "main", "event": "push" }));
    // Known by the tenant's slug too, and taken once.
    let (status, again) = deliver(&mesh, &format!("/hooks/{slug}/github"), "d1", body, &hex(body)).await;
    assert_eq!((status, &again["duplicate"], &again["runs"]), (StatusCode::OK, &json!(true), &json!([])), "{again}");
    let other = r#"{"ref":"next"}"#;
    let (status, answer) = deliver(&mesh, &path, "d2", other, &hex(body)).await;
    assert_eq!((status, reason(&answer).as_str()), (StatusCode::UNAUTHORIZED, "SIGNATURE_INVALID"), "{answer}");
    let broken = r#"{"no":"ref"}"#;
    let (status, answer) = deliver(&mesh, &path, "d3", broken, &hex(broken)).await;
    assert_eq!((status, reason(&answer).as_str()), (StatusCode::BAD_REQUEST, "HOOK_MAPPING_FAILED"), "{answer}");
    for nowhere in ["/hooks/nobody/github", &format!("/hooks/{slug}/gitlab")] {
        let (status, answer) = deliver(&mesh, nowhere, "d4", body, &hex(body)).await;
        assert_eq!((status, reason(&answer).as_str()), (StatusCode::NOT_FOUND, "HOOK_NOT_FOUND"), "{answer}");
    }
    assert_eq!(runs(&mesh, &token, "echo", 1).await.len(), 1, "a refused delivery started a run");
    let (status, usage) = mesh.get("/v1/usage", &token).await;
    assert_eq!(status, StatusCode::OK, "{usage}");
    let deleted = mesh.request(Method::DELETE, "/v1/hooks/github").bearer_auth(&token).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::BAD_REQUEST, "a hook that a trigger names was deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_before_verifies_for_a_while_and_meta_is_answered() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("rotation").await;
    publish(&mesh, &token, "echo", &echo(), &json!({})).await;
    let targets = json!([{ "start": { "workflow": "echo" } }]);
    let hook = json!({ "hookId": "meta", "scheme": "META", "secret": SECRET, "targets": targets });
    let (_, made) = mesh.post("/v1/hooks", &token, &hook).await;
    let path = text(&made["path"]);
    let ask = async |verify: &str| {
        let url = format!("{path}?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token={verify}");
        let answer = mesh.request(Method::GET, &url).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    assert_eq!(ask(SECRET).await, (StatusCode::OK, "1158201444".to_owned()));
    assert_eq!(ask("guess").await.0, StatusCode::NOT_FOUND);
    let (status, rotated) = mesh.post("/v1/hooks/meta:rotateSecret", &token, &json!({})).await;
    assert_eq!(status, StatusCode::OK, "{rotated}");
    assert_ne!(rotated["secret"], json!(SECRET));
    let body = r#"{"entry":[]}"#;
    let (status, answer) = deliver(&mesh, &path, "", body, &hex(body)).await;
    assert_eq!((status, &answer["duplicate"]), (StatusCode::OK, &json!(false)), "{answer}");
    let (_, rotated) = mesh.post("/v1/hooks/meta:rotateSecret", &token, &json!({ "overlap": "0s" })).await;
    assert!(text(&rotated["secret"]).len() >= 32);
    let (status, answer) = deliver(&mesh, &path, "", r#"{"entry":[1]}"#, &hex(r#"{"entry":[1]}"#)).await;
    assert_eq!((status, reason(&answer).as_str()), (StatusCode::UNAUTHORIZED, "SIGNATURE_INVALID"), "{answer}");
}

/// The headers and the body of a request.
type Sent = (HashMap<String, String>, String);

/// Takes requests, answers what it is told to, and keeps what came: (headers, body).
struct Receiver {
    url: String,
    seen: Arc<Mutex<Vec<Sent>>>,
}

impl Receiver {
    /// The first requests are answered with `statuses`, the others with 204.
    async fn start(statuses: &[u16]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/in", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (kept, statuses) = (seen.clone(), statuses.to_vec());
        tokio::spawn(async move {
            let mut statuses = statuses.into_iter();
            while let Ok((stream, _)) = listener.accept().await {
                let status = statuses.next().unwrap_or(204);
                let request = serve(stream, status).await;
                kept.lock().unwrap().extend(request);
            }
        });
        Self { url, seen }
    }

    async fn requests(&self, count: usize) -> Vec<Sent> {
        let enough = || async { Some(self.seen.lock().unwrap().clone()).filter(|seen| seen.len() >= count) };
        eventually(&format!("{count} requests"), enough).await
    }
}

/// Reads one request of HTTP/1.1 and closes.
async fn serve(stream: tokio::net::TcpStream, status: u16) -> Option<Sent> {
    let mut stream = BufReader::new(stream);
    let mut headers = HashMap::new();
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    stream.read_exact(&mut body).await.ok()?;
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
    stream.write_all(answer.as_bytes()).await.ok()?;
    Some((headers, String::from_utf8(body).ok()?))
}

/// Whether one of the signatures of a request is of this secret (Standard Webhooks).
fn is_signed(secret: &str, (headers, body): &Sent) -> bool {
    let key = BASE64_STANDARD.decode(secret.trim_start_matches("whsec_")).unwrap();
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&key).unwrap();
    mac.update(format!("{}.{}.{body}", headers["webhook-id"], headers["webhook-timestamp"]).as_bytes());
    let signature = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
    headers["webhook-signature"].split(' ').any(|given| given == signature)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_told_of_events_and_tried_again() {
    let mesh = Mesh::start_with(Backends::Embedded, &[("TENON_WORKFLOW_HTTP_ALLOW_CIDRS", "127.0.0.1/32")]).await;
    let Tenant { token, .. } = mesh.onboard("endpoints").await;
    let receiver = Receiver::start(&[500]).await;
    publish(&mesh, &token, "echo", &echo(), &json!({})).await;
    let types = json!(["tenon.workflow.run.succeeded.v1"]);
    let endpoint = json!({ "endpointId": "erp", "url": receiver.url, "eventTypes": types });
    let (status, made) = mesh.post("/v1/endpoints", &token, &endpoint).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let (_, run) = mesh.post("/v1/runs", &token, &json!({ "workflow": "echo" })).await;
    // The first answer is 500; five seconds later it is tried again, under the same id.
    let both = receiver.requests(2).await;
    let secret = text(&made["secret"]);
    assert!(both.iter().all(|request| is_signed(&secret, request)), "{both:?}");
    assert_eq!(both[0].0["webhook-id"], both[1].0["webhook-id"]);
    let body: Value = serde_json::from_str(&both[1].1).unwrap();
    assert_eq!((&body["type"], &body["data"]["run"]), (&types[0], &run["name"]), "{body}");
    let delivered = eventually("the delivery is kept", || async {
        let (_, log) = mesh.get("/v1/endpoints/erp/deliveries?state=DELIVERED", &token).await;
        log["deliveries"].as_array()?.first().cloned()
    })
    .await;
    let statuses: Vec<_> = delivered["attempts"].as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
    assert_eq!((statuses, &delivered["attempts"][0]["error"]), (vec![json!(500), json!(204)], &json!("no")));
    // Two secrets during a rotation; again on demand; and a test on demand.
    let (_, rotated) = mesh.post("/v1/endpoints/erp:rotateSecret", &token, &json!({})).await;
    let (status, again) = mesh.post(&format!("/v1/{}:redeliver", text(&delivered["name"])), &token, &json!({})).await;
    assert_eq!((status, &again["state"]), (StatusCode::OK, &json!("PENDING")), "{again}");
    let third = receiver.requests(3).await.remove(2);
    assert!(is_signed(&secret, &third) && is_signed(&text(&rotated["secret"]), &third), "{third:?}");
    let (status, _) = mesh.post("/v1/endpoints/erp:test", &token, &json!({})).await;
    assert_eq!(status, StatusCode::OK);
    assert!(receiver.requests(4).await[3].1.contains("tenon.webhook.test.v1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_is_switched_off_and_private_addresses_are_refused() {
    let mesh = Mesh::start_with(Backends::Embedded, &[("TENON_WORKFLOW_HTTP_ALLOW_CIDRS", "127.0.0.1/32")]).await;
    let Tenant { token, .. } = mesh.onboard("gone").await;
    for url in
        ["http://169.254.169.254/", "https://10.0.0.1/x", "https://[::1]/", "http://example.com/", "ftp://a.test"]
    {
        let endpoint = json!({ "endpointId": "bad", "url": url, "eventTypes": ["*"] });
        let (status, refused) = mesh.post("/v1/endpoints", &token, &endpoint).await;
        assert_eq!((status, reason(&refused).as_str()), (StatusCode::BAD_REQUEST, "INVALID_FIELD"), "{url}: {refused}");
    }
    let receiver = Receiver::start(&[410]).await;
    let endpoint = json!({ "endpointId": "old", "url": receiver.url, "eventTypes": ["shop.*"] });
    let (status, made) = mesh.post("/v1/endpoints", &token, &endpoint).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    mesh.post("/v1/endpoints/old:test", &token, &json!({})).await;
    eventually("the endpoint is switched off", || async {
        let (_, now) = mesh.get("/v1/endpoints/old", &token).await;
        (now["state"] == "FAILING").then_some(())
    })
    .await;
    let on = mesh.request(Method::PATCH, "/v1/endpoints/old").bearer_auth(&token).json(&json!({ "enabled": true }));
    let on: Value = on.send().await.unwrap().json().await.unwrap();
    assert_eq!((&on["state"], &on["failingSince"]), (&json!("ENABLED"), &Value::Null), "{on}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_starts_a_run_once() {
    for backends in [Backends::Embedded, Backends::Full] {
        let mesh = Mesh::start(backends).await;
        let Tenant { token, .. } = mesh.onboard("events").await;
        publish(&mesh, &token, "first", &echo(), &json!({})).await;
        let on = json!({ "event": {
            "type": "tenon.workflow.run.*", "filter": "event.data.workflow == 'workflows/first' && event.data.state == 'SUCCEEDED'",
            "input": "{'after': event.data.run}",
        } });
        publish(&mesh, &token, "second", &echo(), &json!({ "triggers": [on] })).await;
        let (_, first) = mesh.post("/v1/runs", &token, &json!({ "workflow": "first" })).await;
        let second = runs(&mesh, &token, "second", 1).await;
        assert_eq!(second[0]["input"]["after"], first["name"], "{second:?}");
        let (_, again) = mesh.post("/v1/runs", &token, &json!({ "workflow": "first" })).await;
        let second = runs(&mesh, &token, "second", 2).await;
        assert_eq!((second.len(), &second[0]["input"]["after"]), (2, &again["name"]), "{second:?}");
    }
}

/// Two workflows of which each tells what starts the other, by an event of their own or by their ends.
#[tokio::test(flavor = "multi_thread")]
async fn workflows_that_start_each_other_come_to_an_end() {
    for (backends, told_by_end) in [(Backends::Embedded, false), (Backends::Full, false), (Backends::Embedded, true)] {
        let mesh = Mesh::start_with(backends, &[("TENON_WORKFLOW_EVENT_CHAIN", "4")]).await;
        let Tenant { token, .. } = mesh.onboard("rings").await;
        for (own, other) in [("ping", "pong"), ("pong", "ping")] {
            let tell =
                json!({ "Type": "Task", "Resource": format!("event:shop.{own}.v1"), "Parameters": {}, "End": true });
            let definition = json!({ "StartAt": "Tell", "States": { "Tell": tell } });
            let definition = if told_by_end { echo() } else { definition };
            let (kind, filter) = if told_by_end {
                ("tenon.workflow.run.succeeded.v1".to_owned(), format!("event.data.workflow == 'workflows/{other}'"))
            } else {
                (format!("shop.{other}.v1"), String::new())
            };
            let on = json!({ "event": { "type": kind, "filter": filter } });
            publish(&mesh, &token, own, &definition, &json!({ "triggers": [on] })).await;
        }
        // What says that a ring has ended begins none.
        let on = json!({ "event": { "type": "tenon.workflow.trigger.*" } });
        publish(&mesh, &token, "eager", &echo(), &json!({ "triggers": [on] })).await;
        let (_, run) = mesh.post("/v1/runs", &token, &json!({ "workflow": "ping" })).await;
        let mut owner = mesh.database.owner().await;
        let stopped = "select data::text from mesh.outbox where type = 'tenon.workflow.trigger.stopped.v1'";
        let told: String = eventually("the ring ends", async || {
            sqlx::query_scalar(stopped).fetch_optional(&mut mesh.database.owner().await).await.expect("it can be read")
        })
        .await;
        assert!(told.contains("EVENT_CHAIN_TOO_LONG") && told.contains("workflows/pong"), "{run}: {told}");
        let sql = "select count(*) from workflow.runs";
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut owner).await.expect("it can be read");
        assert_eq!(count, 5, "one by hand and four by events");
        assert!(mesh.log("all").contains("EVENT_CHAIN_TOO_LONG"));
    }
}
