//! The scenario of workers: runs whose only state is an activity, done by a worker of the crate over gRPC.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use tenon_sdk::{Task, Worker};

use crate::{
    engine::publish,
    load::{Connection, Round, drive},
    report::{Figure, Rounds},
    scenarios::{Ground, Plan, idle, post},
};

/// Runs in flight, and tasks that the worker takes at once.
const IN_FLIGHT: usize = 64;
const CONCURRENCY: usize = 500;

pub(crate) async fn run(plan: &Plan, ground: &Ground) -> Result<Figure> {
    let mut connection = Connection::open(&ground.mesh.ready.edge).await?;
    let task = json!({ "Type": "Task", "Resource": "activity:bench", "End": true });
    let definition = json!({ "StartAt": "A", "QueryLanguage": "JSONata", "States": { "A": task } });
    publish(&mut connection, &ground.token, "activity", &definition).await?;
    let token = ground.token.clone();
    let tokens = move || std::future::ready(Ok(token.clone()));
    let worker = Worker::connect(&ground.mesh.ready.workflow, tokens)?.concurrency(CONCURRENCY);
    let worker = tokio::spawn(worker.queue("bench", |task: Task| async move { Ok(task.input) }).run());
    let mut rounds = Rounds::default();
    for _ in 0..plan.rounds {
        let (before, began, token) = (ground.cpu(), Instant::now(), ground.token.clone());
        let ask = move |_| post("/v1/runs", &token, json!({ "workflow": "activity" }).to_string());
        let round = drive(&ground.mesh.ready.edge, IN_FLIGHT, plan.round, ask).await?;
        idle(&mut connection, &ground.token).await?;
        // What was started counts when it has ended.
        rounds.add(Round { took: began.elapsed(), ..round }, ground.cpu().saturating_sub(before));
    }
    worker.abort();
    let of = "mesh and Postgres; one worker over gRPC; latency is of the start";
    Ok(rounds.figure("worker: one activity", of, ground.rss()))
}
