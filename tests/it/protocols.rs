//! The mesh's own services through the edge's one port, in the protocols besides HTTP/JSON.

use std::sync::Arc;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenon_proto::workflow::v1::{ListRunsRequest, WatchRunRequest, run::State, run_service_client::RunServiceClient};
use tenon_sdk::{Task, TaskError, Worker};
use tokio::sync::Notify;
use tonic::{Code, transport::Endpoint};
use tonic_types::StatusExt;

use crate::harness::{Backends, Mesh, Tenant, eventually, text};

async fn publish(mesh: &Mesh, token: &str, id: &str, state: Value) {
    let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "A", "States": { "A": state } });
    let body = json!({ "workflowId": id, "definition": definition });
    let (status, workflow) = mesh.post("/v1/workflows", token, &body).await;
    assert_eq!(status, StatusCode::OK, "{workflow}");
}

async fn start(mesh: &Mesh, token: &str, workflow: &str) -> String {
    let (status, run) = mesh.post("/v1/runs", token, &json!({ "workflow": workflow })).await;
    assert_eq!(status, StatusCode::OK, "{run}");
    text(&run["name"])
}

/// The body of a watch that has come to its end.
async fn watched(mesh: &Mesh, token: &str, run: &str, headers: &[(&str, &str)]) -> String {
    let mut request = mesh.request(Method::GET, &format!("/v1/{run}:watch")).bearer_auth(token);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.expect("the edge answers");
    assert_eq!(answer.status(), StatusCode::OK);
    answer.text().await.expect("the stream comes to its end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_watched_as_events_and_as_lines() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("events").await;
    publish(&mesh, &token, "waits", json!({ "Type": "Task", "Resource": "signal:go", "End": true })).await;
    let run = start(&mesh, &token, "waits").await;
    let request = mesh.request(Method::GET, &format!("/v1/{run}:watch")).bearer_auth(&token);
    let mut answer = request.header("accept", "text/event-stream").send().await.expect("the edge answers");
    // It is seen as it is, and goes on when it is watched.
    let mut events = answer.chunk().await.expect("the stream stands").expect("it is shown as it is").to_vec();
    let (status, refused) = mesh.post(&format!("/v1/{run}:signal"), &token, &json!({ "signal": "go" })).await;
    assert_eq!(status, StatusCode::OK, "{refused}");
    while let Some(more) = answer.chunk().await.expect("the stream comes to its end") {
        events.extend(more);
    }
    let events = String::from_utf8(events).expect("it is text");
    let ids: Vec<i64> =
        events.lines().filter_map(|line| line.strip_prefix("id: ")).map(|id| id.parse().expect("a number")).collect();
    let last = events.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().expect("there is an end");
    let last: Value = serde_json::from_str(last).expect("it is JSON");
    assert_eq!(last["run"]["state"], "SUCCEEDED", "{events}");
    assert!(ids.is_sorted() && ids.len() > 1, "{ids:?}");

    let known = ids[0].to_string();
    let behind = watched(&mesh, &token, &run, &[("accept", "text/event-stream"), ("last-event-id", &known)]).await;
    assert!(!behind.contains(&format!("\"id\":\"{known}\"")), "it goes on behind what is known: {behind}");
    let lines = watched(&mesh, &token, &run, &[]).await;
    let whole: Value = serde_json::from_str(lines.lines().last().expect("one line")).expect("a line is JSON");
    assert_eq!((&whole["run"]["state"], &whole["eventId"]), (&json!("SUCCEEDED"), &last["eventId"]));
    let (status, refusal) = mesh.get("/v1/runs/run_01a1ff00000070008000000000000001:watch", &token).await;
    assert_eq!((status, refusal["code"].as_i64()), (StatusCode::NOT_FOUND, Some(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_client_and_a_worker_go_through_the_edge() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("grpc").await;
    let resource = json!({ "Type": "Task", "Resource": "activity:greet", "Arguments": {}, "End": true });
    publish(&mesh, &token, "greets", resource).await;
    let stop = Arc::new(Notify::new());
    let key = json!({ "displayName": "worker", "permissions": ["workflow.activities.work"] });
    let (status, key) = mesh.post("/v1/api-keys", &token, &key).await;
    assert_eq!(status, StatusCode::OK, "{key}");
    let (stopped, mine) = (stop.clone(), text(&key["secret"]));
    let worker = Worker::connect(&mesh.url, move || std::future::ready(Ok(mine.clone()))).expect("a URL");
    let worker = worker.queue("greet", |_: Task| async { Ok::<_, TaskError>(json!({ "said": "hello" })) });
    let running = tokio::spawn(async move { worker.run_until(async move { stopped.notified().await }).await });
    let run = start(&mesh, &token, "greets").await;
    eventually("the worker has answered", || async {
        let (_, run) = mesh.get(&format!("/v1/{run}"), &token).await;
        (run["output"]["said"] == "hello").then_some(())
    })
    .await;
    stop.notify_one();
    running.await.expect("the worker stops").expect("it was let in");

    let channel = Endpoint::from_shared(mesh.url.clone()).expect("a URL").connect().await.expect("the edge takes it");
    let mut client = RunServiceClient::new(channel);
    let refused = client.list_runs(ListRunsRequest::default()).await.expect_err("there is no token");
    assert_eq!(
        (refused.code(), refused.get_details_error_info().map(|info| info.reason).as_deref()),
        (Code::Unauthenticated, Some("TOKEN_REQUIRED"))
    );
    let bearer: tonic::metadata::MetadataValue<_> = format!("Bearer {token}").parse().expect("a token is a header");
    let mut request = tonic::Request::new(ListRunsRequest::default());
    request.metadata_mut().insert("authorization", bearer.clone());
    let runs = client.list_runs(request).await.expect("it is let in").into_inner().runs;
    assert_eq!(runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(), [run.as_str()]);
    let mut request = tonic::Request::new(WatchRunRequest { name: run, after_event_id: 0 });
    request.metadata_mut().insert("authorization", bearer);
    let mut watch = client.watch_run(request).await.expect("the run is there").into_inner();
    let seen = watch.message().await.expect("it streams").expect("it shows the run as it is");
    assert_eq!(seen.run.map(|run| run.state()), Some(State::Succeeded));
    assert_eq!(seen.event_id, seen.events.last().map_or(0, |event| event.id));
}
