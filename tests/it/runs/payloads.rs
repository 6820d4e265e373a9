//! Large values of runs: written once, whatever the number of steps, shown whole, and gone with their run.

use std::fmt::Write as _;

use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{ended, history, publish, start};
use crate::harness::{Backends, Mesh, Tenant, eventually};

const STEPS: usize = 10;
/// Bytes of the value that the run carries along.
const DOC: usize = 100 * 1024;
/// What a step may add to the tables, with all that belongs to it: a message, a wait, events, pages.
const GROWTH_MAX: i64 = 48 * 1024;

/// A text that does not become smaller when it is packed.
fn dense() -> String {
    let mut text = String::new();
    for n in 0_u64.. {
        if text.len() >= DOC {
            break;
        }
        let hash = Sha256::digest(n.to_be_bytes());
        hash.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a text takes more"));
    }
    text
}

/// Waits for one signal after the other, and carries a document along, in its data and in a variable.
fn carries() -> Value {
    let state = |n: usize| {
        let output = json!({ "doc": "{% $states.input.doc %}", "n": n });
        let mut state = json!({ "Type": "Task", "Resource": format!("signal:s{n}"), "Output": output });
        if n == 0 {
            state["Assign"] = json!({ "kept": "{% $states.input.doc %}" });
        }
        if n + 1 == STEPS {
            state["End"] = json!(true);
        } else {
            state["Next"] = json!(format!("S{}", n + 1));
        }
        (format!("S{n}"), state)
    };
    let states: serde_json::Map<String, Value> = (0..STEPS).map(state).collect();
    json!({ "QueryLanguage": "JSONata", "StartAt": "S0", "States": states })
}

async fn number(mesh: &Mesh, sql: &str) -> i64 {
    let mut owner = mesh.database.owner().await;
    owner.fetch_one(AssertSqlSafe(sql.to_owned())).await.expect("the owner reads everything").get(0)
}

async fn waits(mesh: &Mesh, token: &str, name: &str, signal: usize) {
    eventually(&format!("it waits for s{signal}"), || async {
        let (_, why) = mesh.get(&format!("/v1/{name}:explain"), token).await;
        (why["reasons"][0]["subject"] == json!(format!("s{signal}"))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_is_written_once_however_many_steps_carry_it_along() {
    let mut mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("payloads").await;
    publish(&mesh, &token, "carries", &carries()).await;
    let doc = dense();
    let name = start(&mesh, &token, &json!({ "workflow": "carries", "input": { "doc": doc } })).await;
    waits(&mesh, &token, &name, 0).await;
    let wal = "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint";
    let sizes = "select sum(pg_total_relation_size(c.oid))::bigint from pg_class c
                 where c.relnamespace = 'workflow'::regnamespace and c.relkind = 'r'";
    // The log is the whole server's, on which others write too, and a page is logged whole when it changes for the first time
    // since a checkpoint: the figure is for people, and what the tables grow by is what is judged.
    let (mut written, mut least) = (Vec::new(), i64::MAX);
    let size_before = number(&mesh, sizes).await;
    for n in 0..STEPS - 1 {
        if n == STEPS / 2 {
            // Another engine reads what the one before has written, and goes on.
            mesh.kill_9("all");
            mesh.restart("all").await;
            waits(&mesh, &token, &name, n).await;
        }
        let before = number(&mesh, wal).await;
        let signal = json!({ "signal": format!("s{n}"), "payload": {} });
        let (status, answer) = mesh.post(&format!("/v1/{name}:signal"), &token, &signal).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        waits(&mesh, &token, &name, n + 1).await;
        let step = number(&mesh, wal).await - before;
        least = least.min(step);
        written.push(step);
    }
    let grown = (number(&mesh, sizes).await - size_before) / i64::try_from(STEPS - 1).expect("a few");
    let figures = format!("WAL of a step: least {least}, all {written:?}; tables grow by {grown} a step");
    assert!(grown < GROWTH_MAX, "{figures}");
    assert_eq!(number(&mesh, "select count(*) from workflow.payloads").await, 1, "the document, and nothing else");

    // What is kept apart is shown whole.
    let signal = json!({ "signal": format!("s{}", STEPS - 1), "payload": {} });
    mesh.post(&format!("/v1/{name}:signal"), &token, &signal).await;
    let run = ended(&mesh, &token, &name).await;
    assert_eq!((&run["state"], &run["output"]["doc"]), (&json!("SUCCEEDED"), &json!(doc)));
    let events = history(&mesh, &token, &name).await;
    let entered: Vec<&Value> = events.iter().filter(|event| event["type"] == "TaskStateEntered").collect();
    assert_eq!(entered.len(), STEPS);
    assert!(
        entered.iter().all(|event| event["details"]["input"]["doc"] == json!(doc)),
        "each event shows the document"
    );

    // It goes with its run.
    let past = "update workflow.runs set purge_at = now() - interval '1 day'";
    mesh.database.owner().await.execute(past).await.expect("the owner changes everything");
    mesh.kill_9("all");
    mesh.restart("all").await;
    eventually("it is deleted with its run", || async {
        (number(&mesh, "select count(*) from workflow.payloads").await == 0).then_some(())
    })
    .await;
}
