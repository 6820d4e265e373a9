//! Runs that are paused, signalled, retried, explained, started by others and made to take turns.

use std::cell::Cell;

use reqwest::StatusCode;
use serde_json::{Value, json};

use tenon_proto::workflow::v1::{WatchRunRequest, run::State, run_service_client::RunServiceClient};

use super::{ended, history, only, publish, reason, start};
use crate::harness::{Backends, Mesh, Tenant, eventually, text};

/// Waits for the signal `go`, then for `stop`.
fn listens() -> Value {
    json!({ "StartAt": "Go", "States": {
        "Go": { "Type": "Task", "Resource": "signal:go", "Next": "Stop" },
        "Stop": { "Type": "Task", "Resource": "signal:stop", "End": true },
    }})
}

async fn call(mesh: &Mesh, token: &str, name: &str, verb: &str, body: Value) -> Value {
    let (status, answer) = mesh.post(&format!("/v1/{name}:{verb}"), token, &body).await;
    assert_eq!(status, StatusCode::OK, "{verb} {name}: {answer}");
    answer
}

/// The codes of why a run is not further.
async fn why(mesh: &Mesh, token: &str, name: &str) -> Vec<String> {
    let (status, answer) = mesh.get(&format!("/v1/{name}:explain"), token).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["reasons"].as_array().into_iter().flatten().map(|reason| text(&reason["code"])).collect()
}

async fn becomes(mesh: &Mesh, token: &str, name: &str, code: &str) {
    eventually(&format!("{name} is {code}"), || async { (why(mesh, token, name).await == [code]).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_kept_in_order_until_a_state_waits_for_them() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("signals").await;
    publish(&mesh, &token, "listens", &listens()).await;
    let name = start(&mesh, &token, &json!({ "workflow": "listens" })).await;
    becomes(&mesh, &token, &name, "WAITING_SIGNAL").await;
    // Two of the second come before anything waits for them.
    for n in [1, 2] {
        call(&mesh, &token, &name, "signal", json!({ "signal": "stop", "payload": { "n": n } })).await;
    }
    let go = json!({ "signal": "go", "payload": "now", "signalId": "once" });
    call(&mesh, &token, &name, "signal", go.clone()).await;
    let run = ended(&mesh, &token, &name).await;
    assert_eq!((&run["state"], &run["output"]), (&json!("SUCCEEDED"), &json!({ "n": 1 })), "{run}");
    call(&mesh, &token, &name, "signal", go).await;
    let (status, answer) = mesh.post(&format!("/v1/{name}:signal"), &token, &json!({ "signal": "go" })).await;
    assert_eq!((status, reason(&answer)), (StatusCode::BAD_REQUEST, "RUN_ENDED"), "{answer}");
    let other = json!({ "signal": "go", "payload": "then", "signalId": "once" });
    let (status, answer) = mesh.post(&format!("/v1/{name}:signal"), &token, &other).await;
    assert_eq!((status, reason(&answer)), (StatusCode::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_is_bounded() {
    let mesh = Mesh::start(Backends::Embedded).await;
    // A hundred signals are more than the free plan lets through in a minute.
    mesh.lift_limits().await;
    let Tenant { token, .. } = mesh.onboard("mailbox").await;
    publish(&mesh, &token, "listens", &listens()).await;
    let name = start(&mesh, &token, &json!({ "workflow": "listens" })).await;
    for _ in 0..100 {
        call(&mesh, &token, &name, "signal", json!({ "signal": "unknown" })).await;
    }
    let (status, answer) = mesh.post(&format!("/v1/{name}:signal"), &token, &json!({ "signal": "unknown" })).await;
    assert_eq!((status, reason(&answer)), (StatusCode::TOO_MANY_REQUESTS, "MAILBOX_FULL"), "{answer}");
    let run = call(&mesh, &token, &name, "terminate", json!({ "reason": "enough" })).await;
    assert_eq!((&run["state"], &run["cause"]), (&json!("CANCELLED"), &json!("enough")), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_takes_no_step_and_loses_nothing() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("pauses").await;
    publish(&mesh, &token, "listens", &listens()).await;
    let name = start(&mesh, &token, &json!({ "workflow": "listens" })).await;
    let run = call(&mesh, &token, &name, "pause", json!({})).await;
    assert_eq!(run["paused"], true, "{run}");
    for signal in ["go", "stop"] {
        call(&mesh, &token, &name, "signal", json!({ "signal": signal })).await;
    }
    assert_eq!(why(&mesh, &token, &name).await, ["PAUSED"]);
    let run = call(&mesh, &token, &name, "resume", json!({})).await;
    assert_ne!(run["paused"], true, "{run}");
    assert_eq!(ended(&mesh, &token, &name).await["state"], "SUCCEEDED");
    // A timer that was due meanwhile fires.
    let seconds = Cell::new(1);
    let name = eventually("a run is paused before its timer is due", || async {
        let wait = json!({ "Type": "Wait", "Seconds": seconds.replace(seconds.get() * 2) });
        publish(&mesh, &token, "sleeps", &only(wait)).await;
        let name = start(&mesh, &token, &json!({ "workflow": "sleeps" })).await;
        let (status, _) = mesh.post(&format!("/v1/{name}:pause"), &token, &json!({})).await;
        status.is_success().then_some(name)
    })
    .await;
    call(&mesh, &token, &name, "resume", json!({})).await;
    assert_eq!(ended(&mesh, &token, &name).await["state"], "SUCCEEDED");
    let (status, answer) = mesh.post(&format!("/v1/{name}:pause"), &token, &json!({})).await;
    assert_eq!((status, reason(&answer)), (StatusCode::BAD_REQUEST, "RUN_ENDED"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_a_workflow_and_of_everything_holds_old_and_new_runs() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("holds").await;
    publish(&mesh, &token, "listens", &listens()).await;
    publish(&mesh, &token, "free", &only(json!({ "Type": "Pass" }))).await;
    let old = start(&mesh, &token, &json!({ "workflow": "listens" })).await;
    let (status, pause) = mesh.post("/v1/pauses", &token, &json!({ "workflow": "listens", "reason": "repairs" })).await;
    assert_eq!((status, &pause["name"]), (StatusCode::OK, &json!("pauses/listens")), "{pause}");
    let new = start(&mesh, &token, &json!({ "workflow": "listens" })).await;
    for name in [&old, &new] {
        for signal in ["go", "stop"] {
            call(&mesh, &token, name, "signal", json!({ "signal": signal })).await;
        }
        becomes(&mesh, &token, name, "WORKFLOW_PAUSED").await;
        // A run cannot end its workflow's pause.
        call(&mesh, &token, name, "resume", json!({})).await;
        becomes(&mesh, &token, name, "WORKFLOW_PAUSED").await;
    }
    let free = start(&mesh, &token, &json!({ "workflow": "free" })).await;
    assert_eq!(ended(&mesh, &token, &free).await["state"], "SUCCEEDED");
    let (_, everything) = mesh.post("/v1/pauses", &token, &json!({})).await;
    assert_eq!(everything["name"], "pauses/-", "{everything}");
    let held = start(&mesh, &token, &json!({ "workflow": "free" })).await;
    becomes(&mesh, &token, &held, "TENANT_PAUSED").await;
    let (_, page) = mesh.get("/v1/pauses", &token).await;
    assert_eq!(page["pauses"].as_array().map(Vec::len), Some(2), "{page}");
    for pause in ["pauses/-", "pauses/listens"] {
        let (status, answer) = mesh.delete(&format!("/v1/{pause}"), &token).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    for name in [&old, &new, &held] {
        assert_eq!(ended(&mesh, &token, name).await["state"], "SUCCEEDED");
    }
    let (status, answer) = mesh.delete("/v1/pauses/listens", &token).await;
    assert_eq!((status, reason(&answer)), (StatusCode::NOT_FOUND, "PAUSE_NOT_FOUND"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_goes_on_from_the_state_that_failed() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("retries").await;
    let call_child =
        json!({ "Type": "Task", "Resource": "workflow:later", "Arguments": { "input": { "n": 7 } }, "End": true });
    let parent =
        json!({ "StartAt": "First", "States": { "First": { "Type": "Pass", "Next": "Call" }, "Call": call_child } });
    publish(&mesh, &token, "parent", &parent).await;
    let name = start(&mesh, &token, &json!({ "workflow": "parent" })).await;
    let run = ended(&mesh, &token, &name).await;
    assert_eq!((&run["state"], &run["error"]), (&json!("FAILED"), &json!("WORKFLOW_NOT_FOUND")), "{run}");
    publish(&mesh, &token, "later", &only(json!({ "Type": "Pass" }))).await;
    let run = call(&mesh, &token, &name, "retry", json!({})).await;
    assert_eq!(run["state"], "RUNNING", "{run}");
    let run = ended(&mesh, &token, &name).await;
    assert_eq!((&run["state"], &run["output"]), (&json!("SUCCEEDED"), &json!({ "n": 7 })), "{run}");
    let kinds: Vec<String> = history(&mesh, &token, &name).await.iter().map(|event| text(&event["type"])).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "PassStateEntered").count(), 1, "{kinds:?}");
    assert!(kinds.contains(&"ExecutionRedriven".to_owned()), "{kinds:?}");
    let (status, answer) = mesh.post(&format!("/v1/{name}:retry"), &token, &json!({})).await;
    assert_eq!((status, reason(&answer)), (StatusCode::BAD_REQUEST, "RUN_NOT_FAILED"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_starts_runs_and_takes_them_along() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("families").await;
    publish(&mesh, &token, "listens", &listens()).await;
    let of = |workflow: &str, arguments: Value| {
        only(json!({ "Type": "Task", "Resource": format!("workflow:{workflow}"), "Arguments": arguments }))
    };
    publish(&mesh, &token, "waits", &of("listens", json!({}))).await;
    publish(&mesh, &token, "detaches", &of("listens", json!({ "mode": "detach" }))).await;
    publish(&mesh, &token, "endless", &of("endless", json!({}))).await;
    let children = async |name: &str| {
        let (status, page) = mesh.get(&format!("/v1/runs?parent={name}"), &token).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        page["runs"].as_array().cloned().unwrap_or_default()
    };
    let parent = start(&mesh, &token, &json!({ "workflow": "waits" })).await;
    becomes(&mesh, &token, &parent, "WAITING_CHILD").await;
    let child = children(&parent).await[0].clone();
    assert_eq!((&child["trigger"], &child["parent"]), (&json!("workflow"), &json!(parent)), "{child}");
    // The cancelled parent cancels the child.
    call(&mesh, &token, &parent, "cancel", json!({})).await;
    assert_eq!(ended(&mesh, &token, &text(&child["name"])).await["state"], "CANCELLED");
    let parent = start(&mesh, &token, &json!({ "workflow": "detaches" })).await;
    let run = ended(&mesh, &token, &parent).await;
    let child = children(&parent).await[0].clone();
    assert_eq!(run["output"]["run"], child["name"], "{run}");
    assert_eq!(child["state"], "RUNNING", "a detached run goes on: {child}");
    let parent = start(&mesh, &token, &json!({ "workflow": "endless" })).await;
    let run = ended(&mesh, &token, &parent).await;
    assert_eq!(run["error"], "SUB_RUNS_TOO_DEEP", "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_with_a_key_take_turns_in_order() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("turns").await;
    publish(&mesh, &token, "listens", &listens()).await;
    let body = json!({ "workflow": "listens", "concurrency": { "key": "customer-1", "limit": 2 } });
    let mut names = Vec::new();
    for _ in 0..4 {
        names.push(start(&mesh, &token, &body).await);
    }
    let other = json!({ "workflow": "listens", "concurrency": { "key": "customer-2", "limit": 2 } });
    let other = start(&mesh, &token, &other).await;
    for name in [&names[0], &names[1], &other] {
        becomes(&mesh, &token, name, "WAITING_SIGNAL").await;
    }
    for name in &names[2..] {
        becomes(&mesh, &token, name, "CONCURRENCY_LIMIT").await;
    }
    // One that ends lets the first of the queue in, and one that is cancelled in the queue lets nobody in.
    call(&mesh, &token, &names[0], "terminate", json!({})).await;
    becomes(&mesh, &token, &names[2], "WAITING_SIGNAL").await;
    assert_eq!(why(&mesh, &token, &names[3]).await, ["CONCURRENCY_LIMIT"]);
    let run = call(&mesh, &token, &names[3], "cancel", json!({})).await;
    assert_eq!(run["state"], "CANCELLED", "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_a_start_once_and_a_batch_is_whole_or_not_at_all() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("batches").await;
    publish(&mesh, &token, "hello", &only(json!({ "Type": "Pass" }))).await;
    let body = json!({ "workflow": "hello", "idempotencyKey": "order-1", "input": { "n": 1 } });
    let first = start(&mesh, &token, &body).await;
    assert_eq!(start(&mesh, &token, &body).await, first, "the same key is the same run");
    let other = json!({ "workflow": "hello", "idempotencyKey": "order-1", "input": { "n": 2 } });
    let (status, answer) = mesh.post("/v1/runs", &token, &other).await;
    assert_eq!((status, reason(&answer)), (StatusCode::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED"), "{answer}");

    let attributes = |n: usize| json!({ "number": n.to_string(), "batch": "one" });
    let requests: Vec<Value> = (0..50).map(|n| json!({ "workflow": "hello", "attributes": attributes(n) })).collect();
    let (status, answer) = mesh.post("/v1/runs:batchCreate", &token, &json!({ "requests": requests })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let names: Vec<String> = answer["runs"].as_array().expect("runs").iter().map(|run| text(&run["name"])).collect();
    assert_eq!(names.len(), 50);
    let faulty =
        json!({ "requests": [{ "workflow": "hello", "attributes": { "batch": "two" } }, { "workflow": "gone" }] });
    let (status, answer) = mesh.post("/v1/runs:batchCreate", &token, &faulty).await;
    assert_eq!((status, reason(&answer)), (StatusCode::NOT_FOUND, "WORKFLOW_NOT_FOUND"), "{answer}");
    assert!(text(&answer["message"]).starts_with("requests[1]"), "{answer}");
    for name in &names {
        assert_eq!(ended(&mesh, &token, name).await["state"], "SUCCEEDED");
    }
    let found = async |query: &str| {
        let (status, page) = mesh.get(&format!("/v1/runs?{query}"), &token).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        page["runs"].as_array().expect("a page has runs").iter().map(|run| text(&run["name"])).collect::<Vec<_>>()
    };
    assert_eq!(found("attributes=number%3D7").await, [names[7].clone()]);
    assert_eq!(found("attributes=batch%3Done&attributes=number%3D9").await, [names[9].clone()]);
    assert_eq!(found("attributes=batch%3Dtwo").await, Vec::<String>::new(), "a batch that failed left a run");
    assert_eq!(found("attributes=batch%3Done").await.len(), 50);
    assert_eq!(found("create_time_before=2020-01-01T00:00:00Z").await, Vec::<String>::new());
    assert_eq!(found("create_time_from=2020-01-01T00:00:00Z").await.len(), 50, "a page");
}

/// Runs of others that stand before one: so many that it would be seen if it waited for them.
const ENOUGH: i64 = 300;

/// How many runs of others had not ended when a run came, and when it ended.
async fn stood(mesh: &Mesh, name: &str) -> (i64, i64) {
    let id = name.trim_start_matches("runs/run_");
    let sql = format!(
        "select count(*) filter (where coalesce(other.ended_at, 'infinity') > own.created_at),
                count(*) filter (where coalesce(other.ended_at, 'infinity') > own.ended_at)
         from workflow.runs own join workflow.runs other on other.tenant_id <> own.tenant_id
         where replace(own.id::text, '-', '') = '{id}'"
    );
    let counts = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_one(&mut mesh.database.owner().await).await;
    counts.expect("the owner reads all")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_thousands_do_not_stand_before_anothers_one() {
    let mesh = Mesh::start(Backends::Embedded).await;
    mesh.lift_limits().await;
    let (many, one) = (mesh.onboard("many").await, mesh.onboard("one").await);
    let chain = json!({ "StartAt": "A", "States": {
        "A": { "Type": "Pass", "Next": "B" }, "B": { "Type": "Pass", "Next": "C" }, "C": { "Type": "Pass", "End": true } } });
    for tenant in [&many, &one] {
        publish(&mesh, &tenant.token, "chain", &chain).await;
    }
    let requests = json!({ "requests": vec![json!({ "workflow": "chain" }); 1_000] });
    // As many as are not through before the one comes, however fast the machine is.
    let turn = Cell::new(1);
    eventually("many stand before the one", || async {
        let turn = turn.replace(turn.get() + 1);
        for _ in 0..turn * 2 {
            let (status, answer) = mesh.post("/v1/runs:batchCreate", &many.token, &requests).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
        }
        // One that is taken up as those are, and one that starts where it is asked for.
        let keyed = json!({ "workflow": "chain", "idempotencyKey": format!("due-{turn}") });
        let mut most = 0;
        for body in [keyed, json!({ "workflow": "chain" })] {
            let name = start(&mesh, &one.token, &body).await;
            assert_eq!(ended(&mesh, &one.token, &name).await["state"], "SUCCEEDED");
            let (before, behind) = stood(&mesh, &name).await;
            assert!(before < ENOUGH || behind > 0, "the one waited for all of the {before} that stood before it");
            most = most.max(before);
        }
        (most >= ENOUGH).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_past_its_retention_is_gone_with_its_history() {
    let mut mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("retention").await;
    publish(&mesh, &token, "hello", &only(json!({ "Type": "Pass" }))).await;
    let body = json!({ "workflow": "hello", "attributes": { "colour": "red" } });
    let (old, new) = (start(&mesh, &token, &body).await, start(&mesh, &token, &body).await);
    // How long it is kept counts from its end.
    for run in [&old, &new] {
        ended(&mesh, &token, run).await;
    }
    let mut owner = mesh.database.owner().await;
    let kept = "select count(*) from workflow.runs where purge_at > now() + interval '89 days'";
    let kept: i64 = sqlx::query_scalar(kept).fetch_one(&mut owner).await.expect("the owner reads all");
    assert_eq!(kept, 2, "a run is kept for 90 days");
    let id = old.trim_start_matches("runs/run_");
    let pass = format!("update workflow.runs set purge_at = now() where id = '{id}'");
    sqlx::query(sqlx::AssertSqlSafe(pass)).execute(&mut owner).await.expect("the owner changes all");
    // An engine looks when it starts.
    mesh.kill_9("all");
    mesh.restart("all").await;
    eventually("the old run is gone", || async {
        (mesh.get(&format!("/v1/{old}"), &token).await.0 == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    assert_eq!(mesh.get(&format!("/v1/{new}"), &token).await.0, StatusCode::OK);
    for table in ["history", "attributes"] {
        let left = format!("select count(*) from workflow.{table} where run_id = '{id}'");
        let left: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(left)).fetch_one(&mut owner).await.expect("it reads all");
        assert_eq!(left, 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_everything_until_the_end() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("watches").await;
    publish(&mesh, &token, "listens", &listens()).await;
    let name = start(&mesh, &token, &json!({ "workflow": "listens" })).await;
    let mut client = RunServiceClient::new(mesh.grpc("workflow"));
    let mut request = tonic::Request::new(WatchRunRequest { name: name.clone(), after_event_id: 0 });
    let bearer = format!("Bearer {token}").parse().expect("a token is a header");
    request.metadata_mut().insert("authorization", bearer);
    let mut stream = client.watch_run(request).await.expect("the run is there").into_inner();
    let first = stream.message().await.expect("it streams").expect("it has not ended");
    assert_eq!(first.run.map(|run| run.name), Some(name.clone()));
    for signal in ["go", "stop"] {
        call(&mesh, &token, &name, "signal", json!({ "signal": signal })).await;
    }
    let (mut events, mut last) = (first.events, None);
    while let Some(seen) = stream.message().await.expect("it streams to the end") {
        events.extend(seen.events);
        last = seen.run;
    }
    assert_eq!(last.map(|run| run.state()), Some(State::Succeeded));
    let ids: Vec<i64> = events.iter().map(|event| event.id).collect();
    let all = history(&mesh, &token, &name).await;
    assert_eq!(ids, (1..=i64::try_from(all.len()).expect("a few")).collect::<Vec<_>>(), "each event once, in order");
}
