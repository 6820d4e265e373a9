//! Events: published once with their change, as CloudEvents, and counted once by their consumers on either bus.

use async_nats::jetstream::{self, message::StreamMessage, stream::Stream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use crate::harness::{Backends, Mesh, Tenant, answer, eventually, text};

const CREATED: &str = "tenon.workflow.run.created.v1";
const USAGE: &str = "tenon.usage.recorded.v1";
/// Traces are made only when they have somewhere to go; that nobody listens there does no harm.
const TRACED: (&str, &str) = ("TENON_OTLP_ENDPOINT", "http://127.0.0.1:9");
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn tenant(mesh: &Mesh, slug: &str) -> Tenant {
    let tenant = mesh.onboard(slug).await;
    let definition = json!({ "StartAt": "A", "States": { "A": { "Type": "Pass", "End": true } } });
    let body = json!({ "workflowId": "hello", "definition": definition });
    let (status, workflow) = mesh.post("/v1/workflows", &tenant.token, &body).await;
    assert_eq!(status, StatusCode::OK, "{workflow}");
    tenant
}

/// Starts a run within a trace of ours; its name.
async fn start(mesh: &Mesh, tenant: &Tenant) -> String {
    let request = mesh.request(Method::POST, "/v1/runs").bearer_auth(&tenant.token);
    let request = request.header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    let (status, run) = answer(request.json(&json!({ "workflow": "hello", "entityId": "order-7" }))).await;
    assert_eq!(status, StatusCode::OK, "{run}");
    text(&run["name"])
}

/// Waits until billing shows so many runs.
async fn usage_is(mesh: &Mesh, tenant: &Tenant, runs: u32) {
    eventually(&format!("{runs} runs are counted"), || async {
        let (status, usage) = mesh.get("/v1/usage", &tenant.token).await;
        assert_eq!(status, StatusCode::OK, "{usage}");
        let mut meters = usage["meters"].as_array().into_iter().flatten();
        let row = meters.find(|row| row["meter"] == "workflow_runs")?;
        let counted: u32 = text(&row["quantity"]).parse().expect("an int64 is a text of digits");
        assert!(counted <= runs, "{counted} runs are counted of {runs}");
        (counted == runs).then_some(())
    })
    .await;
}

fn data_of(run: &str, state: &str) -> Value {
    json!({ "run": run, "workflow": "workflows/hello", "version": 1, "entityId": "order-7", "state": state })
}

/// The stream's message about a subject with this type.
async fn message(stream: &Stream, kind: &str, subject: &str) -> StreamMessage {
    eventually(&format!("{kind} of {subject} is on the stream"), || async {
        let last = stream.get_last_raw_message_by_subject(kind).await.ok()?;
        (last.headers.get("ce-subject")?.as_str() == subject).then_some(last)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_jetstream_a_run_is_told_as_a_cloud_event_and_counted_once() {
    let mesh = Mesh::start_with(Backends::Full, &[TRACED]).await;
    let tenant = tenant(&mesh, "jetstream").await;
    let run = start(&mesh, &tenant).await;
    let client = async_nats::connect(mesh.backend_url("nats")).await.expect("NATS answers");
    let context = jetstream::new(client);
    let stream = context.get_stream("TENON_EVENTS").await.expect("the mesh has made its stream");
    let created = message(&stream, CREATED, &run).await;
    let header = |name: &str| created.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
    assert_eq!(created.subject.as_str(), CREATED);
    let id = header("ce-id");
    assert!(id.starts_with("evt_"), "{id}");
    assert_eq!(header("Nats-Msg-Id"), id);
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-type", CREATED),
        ("ce-source", "workflow"),
        ("ce-tenantid", tenant.name.trim_start_matches("tenants/")),
        ("content-type", "application/json"),
    ] {
        assert_eq!(header(name), value, "{name}");
    }
    assert!(header("ce-time").starts_with("20") && header("ce-time").ends_with("+00:00"), "{}", header("ce-time"));
    assert!(header("traceparent").contains(TRACE), "{}", header("traceparent"));
    let data: Value = serde_json::from_slice(&created.payload).expect("the data is JSON");
    assert_eq!(data, data_of(&run, "RUNNING"));
    let ended = message(&stream, "tenon.workflow.run.succeeded.v1", &run).await;
    assert_eq!(serde_json::from_slice::<Value>(&ended.payload).expect("the data is JSON"), data_of(&run, "SUCCEEDED"));
    usage_is(&mesh, &tenant, 1).await;
    // The same event under another message id, as a relay sends it that was away for longer than JetStream remembers.
    let usage = message(&stream, USAGE, "workflow_runs").await;
    for again in 0..3 {
        let mut headers = usage.headers.clone();
        headers.insert("Nats-Msg-Id", format!("again-{again}"));
        let sent = context.publish_with_headers(USAGE, headers, usage.payload.clone()).await.expect("NATS takes it");
        assert!(!sent.await.expect("NATS keeps it").duplicate);
    }
    // What comes after it has been counted, and so the repetitions have been seen.
    start(&mesh, &tenant).await;
    usage_is(&mesh, &tenant, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_outbox_a_run_is_told_as_a_cloud_event_and_counted_once() {
    let mesh = Mesh::start_with(Backends::Embedded, &[TRACED]).await;
    let tenant = tenant(&mesh, "outbox").await;
    let run = start(&mesh, &tenant).await;
    usage_is(&mesh, &tenant, 1).await;
    let mut owner = mesh.database.owner().await;
    let told = format!(
        "select count(*), min(source), min(data::text)::jsonb, min(traceparent), min('ten_' || replace(tenant_id::text, '-', ''))
         from mesh.outbox where type = '{CREATED}' and subject = '{run}'"
    );
    let row = owner.fetch_one(AssertSqlSafe(told)).await.expect("the owner reads all");
    assert_eq!(row.get::<i64, _>(0), 1, "told once");
    assert_eq!(row.get::<String, _>(1), "workflow");
    assert_eq!(row.get::<Value, _>(2), data_of(&run, "RUNNING"));
    assert!(row.get::<String, _>(3).contains(TRACE));
    assert_eq!(row.get::<String, _>(4), tenant.name.trim_start_matches("tenants/"));
    // The same event once more, and all of them once more.
    let again = format!(
        "insert into mesh.outbox (tenant_id, id, type, source, subject, data, traceparent, time)
         select tenant_id, id, type, source, subject, data, traceparent, time from mesh.outbox where type = '{USAGE}'"
    );
    owner.execute(AssertSqlSafe(again)).await.expect("the owner writes all");
    owner.execute("update mesh.cursors set xid = 0, seq = 0").await.expect("the owner writes all");
    start(&mesh, &tenant).await;
    usage_is(&mesh, &tenant, 2).await;
    let counted = "select count(*) from billing.usage_events where meter = 'workflow_runs'";
    let row = owner.fetch_one(counted).await.expect("the owner reads all");
    assert_eq!(row.get::<i64, _>(0), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_start_tells_and_counts_nothing() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let tenant = tenant(&mesh, "nothing").await;
    let (status, _) = mesh.post("/v1/runs", &tenant.token, &json!({ "workflow": "gone" })).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let key = |request: reqwest::RequestBuilder| request.bearer_auth(&tenant.token).header("idempotency-key", "once");
    let hello = json!({ "workflow": "hello" });
    let (status, first) = answer(key(mesh.request(Method::POST, "/v1/runs")).json(&hello)).await;
    assert_eq!(status, StatusCode::OK, "{first}");
    let (status, second) = answer(key(mesh.request(Method::POST, "/v1/runs")).json(&hello)).await;
    assert_eq!((status, &second), (StatusCode::OK, &first), "a repetition is answered as the first was");
    let (status, other) = answer(key(mesh.request(Method::POST, "/v1/runs")).json(&json!({ "workflow": "x" }))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{other}");
    usage_is(&mesh, &tenant, 1).await;
    let mut owner = mesh.database.owner().await;
    for kind in [CREATED, USAGE] {
        let told = format!("select count(*) from mesh.outbox where type = '{kind}' and source = 'workflow'");
        let row = owner.fetch_one(AssertSqlSafe(told)).await.expect("the owner reads all");
        assert_eq!(row.get::<i64, _>(0), 1, "{kind}");
    }
}
