//! Workers: tasks claimed by stream and by call, answered once, taken over when a worker dies, and seen by their tenant only.

use std::cell::Cell;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tenon_proto::workflow::v1::{
    ActivityTask, CompleteActivityRequest, FailActivityRequest, HeartbeatActivityRequest, PollActivitiesRequest,
    PollActivitiesResponse,
    activity_service_client::ActivityServiceClient,
    poll_activities_request::{Message as Say, Subscribe},
    poll_activities_response::{Message as Told, Outcome},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use crate::harness::{Backends, Forge, Mesh, Tenant, answer, eventually, reason, text};

/// A worker's end of a stream.
struct Worker {
    say: mpsc::Sender<PollActivitiesRequest>,
    told: Streaming<PollActivitiesResponse>,
}

impl Worker {
    async fn connect(mesh: &Mesh, token: &str, queues: &[&str]) -> Result<Self, Status> {
        let (say, said) = mpsc::channel(64);
        let queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
        let subscribe = Say::Subscribe(Subscribe { queues, worker: "w1".to_owned() });
        say.send(PollActivitiesRequest { message: Some(subscribe) }).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(said));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let told = ActivityServiceClient::new(mesh.grpc("workflow")).poll_activities(request).await?.into_inner();
        Ok(Self { say, told })
    }

    async fn say(&self, message: Say) {
        self.say.send(PollActivitiesRequest { message: Some(message) }).await.expect("the stream stands");
    }

    async fn complete(&self, task: &ActivityTask, output: &str) {
        let output = Some(prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(output.to_owned())) });
        self.say(Say::Complete(CompleteActivityRequest { task_token: task.task_token.clone(), output })).await;
    }

    async fn told(&mut self) -> Told {
        self.told.message().await.expect("the stream stands").expect("it does not end").message.expect("it is set")
    }

    async fn task(&mut self) -> ActivityTask {
        match self.told().await {
            Told::Task(task) => task,
            other => panic!("a task was expected, not {other:?}"),
        }
    }

    async fn outcome(&mut self) -> Outcome {
        match self.told().await {
            Told::Outcome(outcome) => outcome,
            other => panic!("an outcome was expected, not {other:?}"),
        }
    }
}

async fn publish(mesh: &Mesh, token: &str, queue: &str) {
    let retry = json!([{ "ErrorEquals": ["Again"], "IntervalSeconds": 1, "MaxAttempts": 1 }]);
    let task = json!({
        "Type": "Task", "Resource": format!("activity:{queue}"), "Arguments": { "n": "{% $states.input.n %}" },
        "Retry": retry, "End": true,
    });
    let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "Work", "States": { "Work": task } });
    let body = json!({ "workflowId": queue, "definition": definition });
    let (status, workflow) = mesh.post("/v1/workflows", token, &body).await;
    assert_eq!(status, StatusCode::OK, "{workflow}");
}

async fn start(mesh: &Mesh, token: &str, queue: &str, n: usize) -> String {
    let (status, run) = mesh.post("/v1/runs", token, &json!({ "workflow": queue, "input": { "n": n } })).await;
    assert_eq!(status, StatusCode::OK, "{run}");
    text(&run["name"])
}

async fn ended(mesh: &Mesh, token: &str, name: &str) -> Value {
    eventually(&format!("{name} ends"), || async {
        let (_, run) = mesh.get(&format!("/v1/{name}"), token).await;
        run["endTime"].is_string().then_some(run)
    })
    .await
}

fn sql(mesh: &Mesh) -> impl AsyncFn(&'static str) {
    async |statement| {
        sqlx::raw_sql(statement).execute(&mut mesh.database.owner().await).await.expect("the owner may do anything");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_works_and_answers_each_task_once() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("streams").await;
    publish(&mesh, &token, "resize").await;
    let mut worker = Worker::connect(&mesh, &token, &["resize", "other"]).await.expect("it is let in");
    let first = start(&mesh, &token, "resize", 1).await;
    let second = start(&mesh, &token, "resize", 2).await;
    worker.say(Say::Credits(1)).await;
    let task = worker.task().await;
    assert_eq!((task.queue.as_str(), task.attempt, task.lease_seconds), ("resize", 1, 30), "{task:?}");
    assert!(task.idempotency_key.starts_with(&task.run.replace("runs/", "")), "{task:?}");
    worker.complete(&task, "done").await;
    assert_eq!(worker.outcome().await.reason, "");
    // A second answer changes nothing, and says so; nor does nonsense end the stream.
    worker.complete(&task, "again").await;
    assert_eq!(worker.outcome().await.reason, "ATTEMPT_OVER");
    worker.say(Say::Heartbeat(HeartbeatActivityRequest { task_token: "nonsense".to_owned() })).await;
    assert_eq!(worker.outcome().await.reason, "INVALID_FIELD");
    assert!([&first, &second].contains(&&task.run));
    assert_eq!(ended(&mesh, &token, &task.run).await["output"], "done");

    // A failure is retried as the state says: another attempt of the state, another task.
    worker.say(Say::Credits(3)).await;
    let task = worker.task().await;
    let failure = |task: &ActivityTask, error: &str| {
        let task_token = task.task_token.clone();
        Say::Fail(FailActivityRequest { task_token, error: error.to_owned(), cause: "told".to_owned() })
    };
    worker.say(failure(&task, "States.Timeout")).await;
    assert_eq!(worker.outcome().await.reason, "INVALID_FIELD");
    worker.say(failure(&task, "Again")).await;
    assert_eq!(worker.outcome().await.reason, "");
    let task = worker.task().await;
    worker.say(failure(&task, "Bad")).await;
    assert_eq!(worker.outcome().await.reason, "");
    let run = ended(&mesh, &token, &task.run).await;
    assert_eq!((&run["state"], &run["error"], &run["cause"]), (&json!("FAILED"), &json!("Bad"), &json!("told")));

    // One credit is left: what is given back comes again.
    let third = start(&mesh, &token, "resize", 3).await;
    let task = worker.task().await;
    worker.say(Say::Release(task.task_token.clone())).await;
    assert_eq!(worker.outcome().await.reason, "");
    worker.say(Say::Credits(1)).await;
    let again = worker.task().await;
    assert_eq!((again.run.as_str(), again.attempt), (third.as_str(), 2));
    // What a cancelled run waited for is nobody's any more.
    let (status, _) = mesh.post(&format!("/v1/{third}:cancel"), &token, &json!({})).await;
    assert_eq!(status, StatusCode::OK);
    worker.complete(&again, "late").await;
    assert_eq!(worker.outcome().await.reason, "ATTEMPT_OVER");
    worker.say(Say::Credits(1_001)).await;
    assert_eq!(worker.told.message().await.expect_err("it ends").code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_says_whether_anybody_is_there_to_work() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let (Tenant { token, .. }, other) = (mesh.onboard("served").await, mesh.onboard("served-too").await);
    publish(&mesh, &token, "resize").await;
    let name = start(&mesh, &token, "resize", 1).await;
    let becomes = async |code: &str| {
        eventually(&format!("it is {code}"), || async {
            let (_, why) = mesh.get(&format!("/v1/{name}:explain"), &token).await;
            let reason = &why["reasons"][0];
            (reason["code"] == code && reason["subject"] == "resize").then_some(())
        })
        .await;
    };
    becomes("NO_WORKER").await;
    // Neither another tenant's worker nor another queue's is one of this queue.
    let _others = Worker::connect(&mesh, &other.token, &["resize"]).await.expect("it is let in");
    let _another = Worker::connect(&mesh, &token, &["scale"]).await.expect("it is let in");
    eventually("both are known", || async {
        let count: i64 = sqlx::query_scalar("select count(*) from workflow.workers")
            .fetch_one(&mut mesh.database.owner().await)
            .await
            .expect("the owner reads everything");
        (count == 2).then_some(())
    })
    .await;
    becomes("NO_WORKER").await;
    let worker = Worker::connect(&mesh, &token, &["resize"]).await.expect("it is let in");
    becomes("WAITING_FOR_WORKER").await;
    drop(worker);
    becomes("NO_WORKER").await;
    // One that calls is there for a while.
    let answer = mesh.post("/v1/activities:claim", &token, &json!({ "queues": ["resize"], "worker": "caller" })).await;
    assert_eq!(answer.0, StatusCode::OK, "{}", answer.1);
    let reason = eventually("it is at work", || async {
        let (_, why) = mesh.get(&format!("/v1/{name}:explain"), &token).await;
        (why["reasons"][0]["code"] == "WORKER_AT_WORK").then(|| why["reasons"][0].clone())
    })
    .await;
    assert_eq!(reason["subject"], "caller", "{reason}");
    let second = start(&mesh, &token, "resize", 2).await;
    eventually("a worker that calls counts", || async {
        let (_, why) = mesh.get(&format!("/v1/{second}:explain"), &token).await;
        (why["reasons"][0]["code"] == "WAITING_FOR_WORKER").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_workers_task_goes_to_another_and_the_zombie_is_refused() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("zombies").await;
    publish(&mesh, &token, "resize").await;
    let run = start(&mesh, &token, "resize", 1).await;
    let mut first = Worker::connect(&mesh, &token, &["resize"]).await.expect("it is let in");
    first.say(Say::Credits(1)).await;
    let stale = first.task().await;
    drop(first);
    // Its answer would still be taken: a stream that breaks loses nothing. But its lease runs out.
    let mut second = Worker::connect(&mesh, &token, &["resize"]).await.expect("it is let in");
    second.say(Say::Credits(1)).await;
    sql(&mesh)("update workflow.tasks set lease_until = now() - interval '1 s' where state = 'CLAIMED'").await;
    let task = second.task().await;
    assert_eq!((task.run.as_str(), task.attempt), (run.as_str(), 2));
    assert_eq!(task.idempotency_key, stale.idempotency_key);
    second.complete(&stale, "zombie").await;
    assert_eq!(second.outcome().await.reason, "ATTEMPT_OVER");
    for (path, body) in [
        ("complete", json!({ "taskToken": stale.task_token, "output": "zombie" })),
        ("fail", json!({ "taskToken": stale.task_token, "error": "Zombie" })),
        ("heartbeat", json!({ "taskToken": stale.task_token })),
    ] {
        let (status, refused) = mesh.post(&format!("/v1/activities:{path}"), &token, &body).await;
        assert_eq!((status, reason(&refused).as_str()), (StatusCode::BAD_REQUEST, "ATTEMPT_OVER"), "{path}: {refused}");
    }
    second.complete(&task, "alive").await;
    assert_eq!(second.outcome().await.reason, "");
    assert_eq!(ended(&mesh, &token, &run).await["output"], "alive");

    // A task that kills whoever takes it is given up.
    let deadly = start(&mesh, &token, "resize", 2).await;
    second.say(Say::Credits(1)).await;
    assert_eq!(second.task().await.run, deadly);
    sql(&mesh)("update workflow.tasks set lease_until = now() - interval '1 s', attempts = 20").await;
    assert_eq!(ended(&mesh, &token, &deadly).await["error"], "States.HeartbeatTimeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_do_what_streams_do_and_nobody_sees_anothers_tasks() {
    let mut mesh = Mesh::start(Backends::Embedded).await;
    let (alpha, bravo) = (mesh.onboard("calls-a").await, mesh.onboard("calls-b").await);
    publish(&mesh, &alpha.token, "resize").await;
    let run = start(&mesh, &alpha.token, "resize", 7).await;
    let claim = json!({ "queues": ["resize"], "worker": "w", "maxTasks": 10 });
    let task = eventually("the task is there", || async {
        let (status, page) = mesh.post("/v1/activities:claim", &bravo.token, &claim).await;
        assert_eq!((status, &page["tasks"]), (StatusCode::OK, &json!([])), "bravo sees {page}");
        let (_, page) = mesh.post("/v1/activities:claim", &alpha.token, &claim).await;
        page["tasks"].get(0).cloned()
    })
    .await;
    assert_eq!((&task["input"]["n"], &task["run"]), (&json!(7), &json!(run)), "{task}");
    let complete = json!({ "taskToken": task["taskToken"], "output": { "ok": true } });
    let (status, refused) = mesh.post("/v1/activities:complete", &bravo.token, &complete).await;
    assert_eq!((status, reason(&refused).as_str()), (StatusCode::BAD_REQUEST, "ATTEMPT_OVER"), "{refused}");
    let beat = json!({ "taskToken": task["taskToken"] });
    let (status, beat) = mesh.post("/v1/activities:heartbeat", &alpha.token, &beat).await;
    assert_eq!(status, StatusCode::OK, "{beat}");
    // Before the services read the tenant's keys again.
    let forge = Forge::for_tenant(&mesh, &alpha, 0).await;
    // The claim outlives the process that gave it.
    mesh.kill_9("all");
    mesh.restart("all").await;
    let send = || {
        let request = mesh.request(reqwest::Method::POST, "/v1/activities:complete").bearer_auth(&alpha.token);
        answer(request.header("idempotency-key", "once").json(&complete))
    };
    assert_eq!(send().await.0, StatusCode::OK);
    assert_eq!(send().await.0, StatusCode::OK, "the same key gives the same answer");
    assert_eq!(ended(&mesh, &alpha.token, &run).await["output"], json!({ "ok": true }));
    for (body, field) in [
        (json!({ "queues": [] }), "queues"),
        (json!({ "queues": ["a b"] }), "queues[0]"),
        (json!({ "queues": ["a"], "maxTasks": 101 }), "max_tasks"),
    ] {
        let (status, refused) = mesh.post("/v1/activities:claim", &alpha.token, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
        assert!(refused.to_string().contains(field), "{refused}");
    }

    // A token that ends ends its stream; one that may not work gets none.
    let life_s = Cell::new(2);
    let mut worker = eventually("a token that has not ended yet is let in", || async {
        let (now, life_s) = (forge.now(), life_s.replace(life_s.get() * 2));
        let short = forge.sign(&json!({ "iat": now - 600, "exp": now + life_s }));
        Worker::connect(&mesh, &short, &["resize"]).await.ok()
    })
    .await;
    let ended = worker.told.message().await.expect_err("the stream ends");
    assert_eq!((ended.code(), ended.message().contains("expired")), (Code::Unauthenticated, true), "{ended:?}");
    let viewer = forge.sign(&json!({ "roles": ["viewer"] }));
    let refused = Worker::connect(&mesh, &viewer, &["resize"]).await.err().expect("it is refused");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
}

/// HeartbeatSeconds: a worker that stops to beat loses its task to another, by the Retry of the state.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_to_beat_loses_its_task() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("beats").await;
    let retry = json!([{ "ErrorEquals": ["States.HeartbeatTimeout"], "IntervalSeconds": 1, "MaxAttempts": 20 }]);
    let task = json!({ "Type": "Task", "Resource": "activity:slow", "HeartbeatSeconds": 2, "TimeoutSeconds": 60,
                       "Retry": retry, "End": true });
    let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "Work", "States": { "Work": task } });
    let (status, answer) =
        mesh.post("/v1/workflows", &token, &json!({ "workflowId": "slow", "definition": definition })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (mut first, mut second) = (
        Worker::connect(&mesh, &token, &["slow"]).await.expect("it is let in"),
        Worker::connect(&mesh, &token, &["slow"]).await.expect("it is let in"),
    );
    first.say(Say::Credits(1)).await;
    let run = start(&mesh, &token, "slow", 1).await;
    let stale = first.task().await;
    assert_eq!((stale.run.as_str(), stale.lease_seconds), (run.as_str(), 2), "{stale:?}");
    // It is alive once, and works on without a sign.
    first.say(Say::Heartbeat(HeartbeatActivityRequest { task_token: stale.task_token.clone() })).await;
    loop {
        second.say(Say::Credits(1)).await;
        let task = second.task().await;
        // The lease may be over a moment before the state's own time: then it is the same attempt of the state that comes again.
        if task.idempotency_key == stale.idempotency_key {
            continue;
        }
        first.complete(&stale, "late").await;
        assert_eq!(first.outcome().await.reason, "ATTEMPT_OVER");
        let mut late = Request::new(CompleteActivityRequest { task_token: stale.task_token.clone(), output: None });
        late.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let refused = ActivityServiceClient::new(mesh.grpc("workflow")).complete_activity(late).await;
        let refused = refused.expect_err("it is late");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        second.complete(&task, "done").await;
        match second.outcome().await.reason.as_str() {
            "" => break,
            // On a machine on which all of that takes two seconds it is late as well.
            reason => assert_eq!(reason, "ATTEMPT_OVER"),
        }
    }
    let ended = ended(&mesh, &token, &run).await;
    assert_eq!((&ended["state"], &ended["output"]), (&json!("SUCCEEDED"), &json!("done")), "{ended}");
    let (_, history) = mesh.get(&format!("/v1/{run}/history"), &token).await;
    let timed_out: Vec<&Value> =
        history["events"].as_array().unwrap().iter().filter(|event| event["type"] == "ActivityTimedOut").collect();
    assert!(!timed_out.is_empty(), "{history}");
}
