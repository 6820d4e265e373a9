//! What is kept for repetitions goes once nothing repeats it any more, and not before.

use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};

use crate::harness::{Backends, Mesh, answer, eventually};

async fn count(owner: &mut PgConnection, sql: &str) -> i64 {
    owner.fetch_one(AssertSqlSafe(sql)).await.expect("the owner reads everything").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_answers_past_their_use_are_deleted() {
    let mut mesh = Mesh::start(Backends::Embedded).await;
    let tenant = mesh.onboard("purges").await;
    let definition = json!({ "StartAt": "A", "States": { "A": { "Type": "Succeed" } } });
    let body = json!({ "workflowId": "hello", "definition": definition });
    let (status, workflow) = mesh.post("/v1/workflows", &tenant.token, &body).await;
    assert_eq!(status, StatusCode::OK, "{workflow}");
    for key in ["old", "new"] {
        let run = mesh.request(Method::POST, "/v1/runs").bearer_auth(&tenant.token).header("idempotency-key", key);
        let (status, run) = answer(run.json(&json!({ "workflow": "hello" }))).await;
        assert_eq!(status, StatusCode::OK, "{run}");
    }
    let mut owner = mesh.database.owner().await;
    eventually("both runs are counted", || async {
        let sql = "select count(*) from billing.usage_events";
        (count(&mut mesh.database.owner().await, sql).await == 2).then_some(())
    })
    .await;
    mesh.kill_9("all");
    let oldest = "select tenant_id, seq from mesh.outbox order by xid, seq";
    for sql in [
        // Read by everybody and not long ago; read and long ago; so long ago that nobody is waited for.
        &format!(
            "update mesh.outbox o set time = now() - interval '9 days' from ({oldest} limit 2) as old where o.seq = old.seq"
        ),
        &format!(
            "update mesh.outbox o set time = now() - interval '33 days' from ({oldest} limit 1) as old where o.seq = old.seq"
        ),
        "update mesh.inbox set seen_at = now() - interval '40 days' where event_id = (select min(event_id::text)::uuid from mesh.inbox)",
        "update mesh.idempotency set created_at = now() - interval '31 days' where key = 'old'",
        "insert into mesh.cursors (consumer) values ('of.a.service.that.is.no.more')",
    ] {
        owner.execute(AssertSqlSafe(sql.to_owned())).await.expect("the owner changes everything");
    }
    let tables = ["mesh.outbox", "mesh.inbox", "mesh.idempotency"];
    let mut before = Vec::new();
    for table in tables {
        before.push(count(&mut owner, &format!("select count(*) from {table}")).await);
    }
    mesh.restart("all").await;
    let left = |table: &'static str, much: i64| {
        let database = mesh.database.clone();
        async move {
            let sql = format!("select count(*) from {table}");
            eventually(&format!("{much} rows are left in {table}"), || async {
                (count(&mut database.owner().await, &sql).await == much).then_some(())
            })
            .await;
        }
    };
    for (table, before) in tables.into_iter().zip(&before) {
        left(table, before - 1).await;
    }
    // Consumers that nothing is for say where they are once that is far, and what they have passed goes too.
    let many = "do $$ begin for i in 1..1200 loop perform pg_current_xact_id(); commit; end loop; end $$";
    owner.execute(many).await.expect("the owner may take transactions");
    let behind = "select count(*) from mesh.cursors where xid <= (select min(xid) from mesh.outbox)";
    eventually("only the consumer that is no more is behind", || async {
        (count(&mut mesh.database.owner().await, behind).await == 1).then_some(())
    })
    .await;
    mesh.kill_9("all");
    let gone = "delete from mesh.cursors where consumer = 'of.a.service.that.is.no.more'";
    owner.execute(gone).await.expect("the owner changes everything");
    mesh.restart("all").await;
    let sql = "select count(*) from mesh.outbox";
    eventually("the other old event goes", || async {
        (count(&mut mesh.database.owner().await, sql).await == before[0] - 2).then_some(())
    })
    .await;
}
