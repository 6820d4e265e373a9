//! Quotas: what a plan limits is refused or parked when it is used up, and goes on when there is something left again.

use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor};

use crate::harness::{Backends, Mesh, Outside, Tenant, eventually, reason, text};

async fn change(mesh: &Mesh, sql: &str) {
    mesh.database.owner().await.execute(AssertSqlSafe(sql)).await.expect("the owner may do anything");
}

/// Lets the plan that everybody is on have so many units of a meter.
async fn limit(mesh: &Mesh, meter: &str, units: i64) {
    change(mesh, &format!(r#"update billing.plans set limits = limits || '{{"quota.{meter}": {units}}}'"#)).await;
}

async fn publish(mesh: &Mesh, tenant: &Tenant, id: &str, states: Value) {
    let definition = json!({ "StartAt": "A", "QueryLanguage": "JSONata", "States": states });
    let body = json!({ "workflowId": id, "definition": definition });
    let (status, workflow) = mesh.post("/v1/workflows", &tenant.token, &body).await;
    assert_eq!(status, StatusCode::OK, "{workflow}");
}

async fn start(mesh: &Mesh, tenant: &Tenant, id: &str) -> (StatusCode, Value) {
    mesh.post("/v1/runs", &tenant.token, &json!({ "workflow": id })).await
}

/// Starts runs until one is parked: others may use a little more than there is, until everybody knows.
async fn parked(mesh: &Mesh, tenant: &Tenant, id: &str) -> (String, Value) {
    eventually("a run is parked", || async {
        let (status, run) = start(mesh, tenant, id).await;
        assert_eq!(status, StatusCode::OK, "{run}");
        let name = text(&run["name"]);
        let stands = eventually("it ends or is parked", || async {
            let (_, why) = mesh.get(&format!("/v1/{name}:explain"), &tenant.token).await;
            let reason = why["reasons"].get(0).cloned().unwrap_or_default();
            (why["state"] != "RUNNING" || reason["code"] == "QUOTA").then_some(reason)
        });
        let reason = stands.await;
        (reason["code"] == "QUOTA").then_some((name.clone(), reason))
    })
    .await
}

async fn succeeds(mesh: &Mesh, tenant: &Tenant, name: &str) {
    eventually(&format!("{name} succeeds"), || async {
        let (_, run) = mesh.get(&format!("/v1/{name}"), &tenant.token).await;
        (run["state"] == "SUCCEEDED").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_parked_before_the_call_that_there_is_no_quota_for() {
    for backends in [Backends::Embedded, Backends::Full] {
        let mesh = Mesh::start_with(backends, &[("TENON_WORKFLOW_HTTP_ALLOW_CIDRS", "127.0.0.1/32")]).await;
        mesh.lift_limits().await;
        limit(&mesh, "connector_calls", 2).await;
        let (tenant, other) = (mesh.onboard("used-up").await, mesh.onboard("other").await);
        let web = Outside::web().await;
        let url = format!("http://127.0.0.1:{}/echo", web.port);
        let call = json!({ "Type": "Task", "Resource": "http:invoke", "Arguments": { "method": "GET", "url": url }, "End": true });
        for of in [&tenant, &other] {
            publish(&mesh, of, "calls", json!({ "A": call })).await;
            publish(&mesh, of, "naps", json!({ "A": { "Type": "Wait", "Seconds": 1, "End": true } })).await;
        }
        let (name, reason) = parked(&mesh, &tenant, "calls").await;
        assert_eq!((&reason["subject"], reason["until"].is_string()), (&json!("connector_calls"), true), "{reason}");
        // It is no pause of its own that ResumeRun could end; other meters and tenants are not touched.
        let (_, resumed) = mesh.post(&format!("/v1/{name}:resume"), &tenant.token, &json!({})).await;
        assert_eq!(resumed["state"], "RUNNING", "{resumed}");
        let seen = web.seen().len();
        for (of, id) in [(&tenant, "naps"), (&other, "calls")] {
            let (_, run) = start(&mesh, of, id).await;
            succeeds(&mesh, of, &text(&run["name"])).await;
        }
        assert_eq!(web.seen().len(), seen + 1, "the parked run has called");
        // The plan allows more: the run goes on.
        limit(&mesh, "connector_calls", 1_000).await;
        succeeds(&mesh, &tenant, &name).await;
        // Used up again, until the period is over: a month passes for billing.
        limit(&mesh, "connector_calls", 1).await;
        let (name, _) = parked(&mesh, &tenant, "calls").await;
        let month = "interval '1 month'";
        for (table, columns) in [
            ("usage_events", ["time"].as_slice()),
            ("subscriptions", &["period_start", "period_end"]),
            ("quotas", &["period_start", "period_end"]),
        ] {
            let set: Vec<String> = columns.iter().map(|column| format!("{column} = {column} - {month}")).collect();
            change(&mesh, &format!("update billing.{table} set {}", set.join(", "))).await;
        }
        succeeds(&mesh, &tenant, &name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_beyond_the_quota_are_refused_by_every_way_to_start_one() {
    let mesh = Mesh::start(Backends::Embedded).await;
    mesh.lift_limits().await;
    let tenant = mesh.onboard("starts").await;
    let child = json!({ "Type": "Task", "Resource": "workflow:hello", "Arguments": {}, "End": true });
    let signal = json!({ "Type": "Task", "Resource": "signal:go", "Arguments": {}, "Next": "B" });
    publish(&mesh, &tenant, "hello", json!({ "A": { "Type": "Succeed" } })).await;
    publish(&mesh, &tenant, "parent", json!({ "A": signal, "B": child })).await;
    let keyed = json!({ "workflow": "hello", "idempotencyKey": "one" });
    let (status, known) = mesh.post("/v1/runs", &tenant.token, &keyed).await;
    assert_eq!(status, StatusCode::OK, "{known}");
    let (_, parent) = start(&mesh, &tenant, "parent").await;
    limit(&mesh, "workflow_runs", 3).await;
    let refused = eventually("a start is refused", || async {
        let (status, answer) = start(&mesh, &tenant, "hello").await;
        (status == StatusCode::TOO_MANY_REQUESTS).then_some(answer)
    })
    .await;
    assert_eq!(reason(&refused), "QUOTA_EXHAUSTED", "{refused}");
    let batch = json!({ "requests": [{ "workflow": "hello" }] });
    let another = json!({ "workflow": "hello", "idempotencyKey": "two" });
    for (path, body) in [("/v1/runs:batchCreate", batch), ("/v1/runs", another)] {
        let (status, refused) = mesh.post(path, &tenant.token, &body).await;
        assert_eq!(
            (status, reason(&refused).as_str()),
            (StatusCode::TOO_MANY_REQUESTS, "QUOTA_EXHAUSTED"),
            "{refused}"
        );
    }
    // What is there already is answered; a run at work learns that it cannot have a run of its own.
    let (status, same) = mesh.post("/v1/runs", &tenant.token, &keyed).await;
    assert_eq!((status, &same["name"]), (StatusCode::OK, &known["name"]), "{same}");
    let name = text(&parent["name"]);
    let (status, _) = mesh.post(&format!("/v1/{name}:signal"), &tenant.token, &json!({ "signal": "go" })).await;
    assert_eq!(status, StatusCode::OK);
    let failed = eventually("the parent fails", || async {
        let (_, run) = mesh.get(&format!("/v1/{name}"), &tenant.token).await;
        (run["state"] == "FAILED").then_some(run)
    })
    .await;
    assert_eq!(failed["error"], "QUOTA_EXHAUSTED", "{failed}");
    limit(&mesh, "workflow_runs", 1_000).await;
    eventually("a start is let in", || async {
        (start(&mesh, &tenant, "hello").await.0 == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_no_more_runs_at_work_than_its_plan_allows() {
    let mesh = Mesh::start_with(Backends::Embedded, &[("TENON_WORKFLOW_HTTP_ALLOW_CIDRS", "127.0.0.1/32")]).await;
    mesh.lift_limits().await;
    change(&mesh, r#"update billing.plans set limits = limits || '{"workflow.active_runs": 2}'"#).await;
    let (tenant, other) = (mesh.onboard("crowded").await, mesh.onboard("roomy").await);
    let web = Outside::web().await;
    let called = |path: &str| web.seen().iter().filter(|request| request.starts_with(&format!("GET {path} "))).count();
    for (of, path) in [(&tenant, "slow"), (&other, "echo")] {
        let url = format!("http://127.0.0.1:{}/{path}", web.port);
        let arguments = json!({ "method": "GET", "url": url });
        let call = json!({ "Type": "Task", "Resource": "http:invoke", "Arguments": arguments, "End": true });
        publish(&mesh, of, "calls", json!({ "A": call })).await;
    }
    let mut names = Vec::new();
    for number in 0..6 {
        // Those with a key are added as due, the others with their first step.
        let mut body = json!({ "workflow": "calls" });
        if number % 2 == 0 {
            body["idempotencyKey"] = json!(number.to_string());
        }
        let (status, run) = mesh.post("/v1/runs", &tenant.token, &body).await;
        assert_eq!(status, StatusCode::OK, "{run}");
        names.push(text(&run["name"]));
    }
    let codes = async |names: &[String]| {
        let mut codes = Vec::new();
        for name in names {
            let (_, why) = mesh.get(&format!("/v1/{name}:explain"), &tenant.token).await;
            codes.push(why["reasons"][0]["code"].as_str().unwrap_or_default().to_owned());
        }
        codes
    };
    let of = |codes: &[String], code: &str| codes.iter().filter(|found| *found == code).count();
    eventually("two are at work and the others told why not", || async {
        let codes = codes(&names).await;
        (of(&codes, "RUNNING_TASK") == 2 && of(&codes, "ACTIVE_LIMIT") == 4 && called("/slow") == 2).then_some(())
    })
    .await;
    let (_, run) = start(&mesh, &other, "calls").await;
    succeeds(&mesh, &other, &text(&run["name"])).await;
    // Each that ends makes room for another.
    for ended in 1..=4 {
        let codes = codes(&names).await;
        let at_work = codes.iter().position(|code| code == "RUNNING_TASK").expect("two are at work");
        let path = format!("/v1/{}:terminate", names.remove(at_work));
        let (status, run) = mesh.post(&path, &tenant.token, &json!({})).await;
        assert_eq!(status, StatusCode::OK, "{run}");
        eventually("the next one calls", || async { (called("/slow") == 2 + ended).then_some(()) }).await;
    }
}
