//! Workers as people write them: with the crate, through a crash of the whole mesh, and in Python with plain grpcio.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::StatusCode;
use serde_json::json;
use tenon_sdk::{Task, TaskError, Worker};
use tokio::sync::Notify;

use crate::harness::{Backends, Mesh, Process, Tenant, eventually, text};

async fn publish(mesh: &Mesh, token: &str) {
    let task =
        json!({ "Type": "Task", "Resource": "activity:resize", "Arguments": "{% $states.input %}", "End": true });
    let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "A", "States": { "A": task } });
    let (status, workflow) =
        mesh.post("/v1/workflows", token, &json!({ "workflowId": "resize", "definition": definition })).await;
    assert_eq!(status, StatusCode::OK, "{workflow}");
}

async fn start(mesh: &Mesh, token: &str, input: serde_json::Value) -> String {
    let (status, run) = mesh.post("/v1/runs", token, &json!({ "workflow": "resize", "input": input })).await;
    assert_eq!(status, StatusCode::OK, "{run}");
    text(&run["name"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_the_crate_outlives_the_mesh_and_stops_when_told() {
    let mut mesh = Mesh::start(Backends::Embedded).await;
    mesh.lift_limits().await;
    let Tenant { token, .. } = mesh.onboard("crate").await;
    publish(&mesh, &token).await;
    let effects = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
    let (gate, stop) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (seen, waits, stopped, mine) = (effects.clone(), gate.clone(), stop.clone(), token.clone());
    let work = move |task: Task| {
        let (seen, waits) = (seen.clone(), waits.clone());
        async move {
            match task.input["do"].as_str() {
                Some("fail") => return Err(TaskError::new("Bad", "told")),
                Some("panic") => panic!("told"),
                Some("wait") => waits.notified().await,
                _ => {}
            }
            *seen.lock().unwrap().entry(task.idempotency_key.clone()).or_default() += 1;
            Ok(json!({ "n": task.input["n"], "attempt": task.attempt }))
        }
    };
    let url = format!("http://127.0.0.1:{}", mesh.ports["workflow"]);
    let worker = Worker::connect(&url, move || std::future::ready(Ok(mine.clone()))).expect("a URL");
    let worker = worker.named("test").concurrency(50).drain(Duration::from_secs(5)).queue("resize", work);
    let running = tokio::spawn(async move { worker.run_until(async move { stopped.notified().await }).await });

    let mut runs = Vec::new();
    for n in 0..100 {
        runs.push(start(&mesh, &token, json!({ "n": n })).await);
    }
    let failing = start(&mesh, &token, json!({ "do": "fail" })).await;
    let panicking = start(&mesh, &token, json!({ "do": "panic" })).await;
    let waiting = start(&mesh, &token, json!({ "do": "wait" })).await;
    eventually("most are done", || async { (effects.lock().unwrap().len() > 50).then_some(()) }).await;
    // The connection breaks under what is answered just now; the worker answers again on the next one.
    mesh.kill_9("all");
    mesh.restart("all").await;
    let end = async |name: &str| {
        eventually(&format!("{name} ends"), || async {
            let (_, run) = mesh.get(&format!("/v1/{name}"), &token).await;
            run["endTime"].is_string().then_some(run)
        })
        .await
    };
    for (n, run) in runs.iter().enumerate() {
        assert_eq!(end(run).await["output"]["n"], n, "{run}");
    }
    assert_eq!(end(&failing).await["error"], "Bad");
    assert_eq!(end(&panicking).await["error"], "Worker.Panicked");
    gate.notify_one();
    assert_eq!(end(&waiting).await["output"]["attempt"], 1, "a claim outlives the connection that it came by");
    assert_eq!(effects.lock().unwrap().values().max(), Some(&1), "something was done twice");
    stop.notify_one();
    running.await.expect("it does not panic").expect("it stops well");
}

/// `make python` sets the interpreter, which must have what examples/python-worker/requirements.txt names.
const PYTHON: &str = "TENON_WORKER_PYTHON";

fn python(mesh: &Mesh, token: &str, generated: &std::path::Path, interpreter: &std::ffi::OsStr) -> Process {
    let mut command = Command::new(interpreter);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/python-worker/worker.py"));
    command.args([format!("127.0.0.1:{}", mesh.ports["workflow"]), "resize".to_owned()]);
    command.env("TENON_TOKEN", token).env("TENON_GENERATED", generated);
    Process::start("python-worker", &command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_in_python_works_and_its_death_costs_nothing() {
    let Some(interpreter) = std::env::var_os(PYTHON) else { return };
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("python").await;
    publish(&mesh, &token).await;
    let generated = tempfile::tempdir().expect("a folder can be made");
    let first = python(&mesh, &token, generated.path(), &interpreter);
    let end = async |name: &str| {
        eventually(&format!("{name} ends"), || async {
            let (_, run) = mesh.get(&format!("/v1/{name}"), &token).await;
            run["endTime"].is_string().then_some(run)
        })
        .await
    };
    let mut runs = Vec::new();
    for n in 0..20 {
        runs.push(start(&mesh, &token, json!({ "width": n * 2 })).await);
    }
    for (n, run) in runs.iter().enumerate() {
        let output = end(run).await["output"].clone();
        assert_eq!((&output["width"], &output["by"]), (&json!(n), &json!("python")), "{output}\n{}", first.log());
    }
    let failing = start(&mesh, &token, json!({})).await;
    assert_eq!(end(&failing).await["error"], "KeyError");
    let long = start(&mesh, &token, json!({ "width": 2, "takesMs": 1_500 })).await;
    let mut owner = mesh.database.owner().await;
    eventually("it is claimed", async || {
        let sql = "select count(*) from workflow.tasks where state = 'CLAIMED'";
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut mesh.database.owner().await).await.ok()?;
        (count == 1).then_some(())
    })
    .await;
    first.kill_9();
    let _second = python(&mesh, &token, generated.path(), &interpreter);
    let over = "update workflow.tasks set lease_until = now() - interval '1 s' where state = 'CLAIMED'";
    sqlx::raw_sql(over).execute(&mut owner).await.expect("the owner may do anything");
    assert_eq!(end(&long).await["output"]["attempt"], 2);
}
