//! A worker: `TENON_TOKEN=... cargo run -p tenon-sdk --example resize -- http://127.0.0.1:9104`
use std::time::Duration;

use serde_json::json;
use tenon_sdk::{Task, TaskError, Worker};

#[tokio::main]
async fn main() -> Result<(), tenon_sdk::Error> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:9104".to_owned());
    // A real worker signs in again here when its token is about to end.
    let token = || async { Ok(std::env::var("TENON_TOKEN")?) };
    Worker::connect(&url, token)?
        .named("resize-example")
        .concurrency(64)
        .queue("resize", resize)
        .run_until(async { drop(tokio::signal::ctrl_c().await) })
        .await
}

async fn resize(task: Task) -> Result<serde_json::Value, TaskError> {
    let width = task.input["width"].as_u64().ok_or_else(|| TaskError::new("BadInput", "width is missing"))?;
    // A long one needs no heartbeats: the worker sends them.
    let pause = task.input["takesMs"].as_u64().unwrap_or_default();
    tokio::time::sleep(Duration::from_millis(pause)).await;
    Ok(json!({ "width": width / 2, "attempt": task.attempt }))
}
