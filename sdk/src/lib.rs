//! Workers for Tenon: functions that do what `activity:QUEUE` states of workflows ask for.
//!
//! ```no_run
//! use serde_json::json;
//! use tenon_sdk::{Task, TaskError, Worker};
//!
//! # async fn example() -> Result<(), tenon_sdk::Error> {
//! Worker::connect("http://127.0.0.1:9104", || async { Ok(std::env::var("TENON_TOKEN")?) })?
//!     .queue("resize", |task: Task| async move {
//!         let width = task.input["width"].as_u64().ok_or_else(|| TaskError::new("BadInput", "width is missing"))?;
//!         Ok(json!({ "resized": width }))
//!     })
//!     .run_until(async { drop(tokio::signal::ctrl_c().await) })
//!     .await
//! # }
//! ```
//!
//! A task is another worker's once its lease runs out, so its handler may run more than once: hand `Task::idempotency_key` on
//! to whatever the task changes. The worker renews leases itself, reconnects by itself, and sends an answer again until it
//! is taken or refused.

mod session;
mod task;
mod worker;

pub use task::{Task, TaskError};
pub use worker::{BoxError, Error, TokenSource, Worker};
