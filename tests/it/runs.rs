//! Workflows and runs through the edge: what is published, what each kind of state does, and who may do what.

mod control;
mod payloads;
mod states;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Backends, Mesh, Tenant, answer, eventually, text};

const PASSWORD: &str = "correct horse battery";

/// One state and nothing else.
fn only(state: Value) -> Value {
    let mut state = state;
    state["End"] = json!(true);
    json!({ "StartAt": "A", "States": { "A": state } })
}

async fn publish(mesh: &Mesh, token: &str, id: &str, definition: &Value) -> Value {
    let body = json!({ "workflowId": id, "definition": definition });
    let (status, workflow) = mesh.post("/v1/workflows", token, &body).await;
    assert_eq!(status, StatusCode::OK, "{id}: {workflow}");
    workflow
}

/// The name of a run that was just started.
async fn start(mesh: &Mesh, token: &str, body: &Value) -> String {
    let (status, run) = mesh.post("/v1/runs", token, body).await;
    assert_eq!(status, StatusCode::OK, "{body}: {run}");
    text(&run["name"])
}

/// The run, once it has ended.
async fn ended(mesh: &Mesh, token: &str, name: &str) -> Value {
    eventually(&format!("{name} ends"), || async {
        let (status, run) = mesh.get(&format!("/v1/{name}"), token).await;
        assert_eq!(status, StatusCode::OK, "{run}");
        (run["state"] != "RUNNING").then_some(run)
    })
    .await
}

/// All of a run's history, two events a page.
async fn history(mesh: &Mesh, token: &str, name: &str) -> Vec<Value> {
    let (mut events, mut page) = (Vec::new(), String::new());
    loop {
        let (status, answer) = mesh.get(&format!("/v1/{name}/history?pageSize=2&pageToken={page}"), token).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let rows = answer["events"].as_array().expect("a page has events");
        assert!(rows.len() <= 2, "{answer}");
        events.extend(rows.iter().cloned());
        page = text(&answer["nextPageToken"]);
        if page.is_empty() {
            return events;
        }
    }
}

fn reason(body: &Value) -> &str {
    let mut details = body["details"].as_array().into_iter().flatten();
    details.find_map(|detail| detail["reason"].as_str()).unwrap_or_default()
}

/// The fields that a refusal names.
fn fields(body: &Value) -> Vec<&str> {
    let details = body["details"].as_array().into_iter().flatten();
    let violations = details.filter_map(|detail| detail["fieldViolations"].as_array()).flatten();
    violations.filter_map(|violation| violation["field"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_definition_is_refused_with_the_place_of_each_fault() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("faults").await;
    let definition = json!({
        "QueryLanguage": "JSONata",
        "StartAt": "A",
        "States": {
            "A": { "Type": "Task", "Resource": "grpc:tenon.billing.v1.UsageService/Gone", "Next": "Nowhere" },
            "B": { "Type": "Pass", "Output": "{% 1 + %}", "End": true },
            "C": { "Type": "Pass", "Parameters": {}, "End": true },
            "D": { "Type": "Task", "Resource": "grpc:tenon.billing.v1.UsageService/IngestUsage",
                   "Arguments": { "event": [] }, "End": true },
            "E": { "Type": "Teleport" },
        },
    });
    let body = json!({ "workflowId": "faulty", "definition": definition });
    let (status, answer) = mesh.post("/v1/workflows", &token, &body).await;
    assert_eq!((status, reason(&answer)), (StatusCode::BAD_REQUEST, "INVALID_DEFINITION"), "{answer}");
    let named = fields(&answer);
    for pointer in ["A/Resource", "B/Output", "C/Parameters", "D/Arguments/event", "E/Type"] {
        let pointer = format!("definition/States/{pointer}");
        assert!(named.contains(&pointer.as_str()), "{pointer} is not among {named:?}");
    }
    let (status, _) = mesh.get("/v1/workflows/faulty", &token).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "a faulty definition was kept");
    let nowhere = only(json!({ "Type": "Pass" }));
    let mut lost = nowhere.clone();
    lost["StartAt"] = json!("B");
    let (status, answer) = mesh.post("/v1/workflows", &token, &json!({ "workflowId": "x", "definition": lost })).await;
    assert_eq!((status, fields(&answer)[0]), (StatusCode::BAD_REQUEST, "definition/StartAt"), "{answer}");
    for (id, definition, field) in [
        ("Upper", nowhere.clone(), "workflow_id"),
        ("", nowhere.clone(), "workflow_id"),
        ("large", only(json!({ "Type": "Pass", "Comment": "x".repeat(256 * 1024) })), "definition"),
    ] {
        let body = json!({ "workflowId": id, "definition": definition });
        let (status, answer) = mesh.post("/v1/workflows", &token, &body).await;
        assert_eq!((status, fields(&answer)), (StatusCode::BAD_REQUEST, vec![field]), "{id}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_never_changes_and_a_run_keeps_its_own() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("versions").await;
    let say = |word: &str| only(json!({ "Type": "Pass", "Output": word }));
    let waits = json!({ "StartAt": "W", "States": {
        "W": { "Type": "Wait", "Seconds": 1, "Next": "S" }, "S": { "Type": "Succeed", "Output": "old" } } });
    assert_eq!(publish(&mesh, &token, "words", &waits).await["version"], 1);
    assert_eq!(publish(&mesh, &token, "words", &waits).await["version"], 1, "the same definition is the same version");
    let old = start(&mesh, &token, &json!({ "workflow": "workflows/words" })).await;
    assert_eq!(publish(&mesh, &token, "words", &say("new")).await["version"], 2);
    let new = start(&mesh, &token, &json!({ "workflow": "words" })).await;
    let (old, new) = (ended(&mesh, &token, &old).await, ended(&mesh, &token, &new).await);
    assert_eq!((&old["version"], &old["output"]), (&json!(1), &json!("old")), "{old}");
    assert_eq!((&new["version"], &new["output"]), (&json!(2), &json!("new")), "{new}");
    publish(&mesh, &token, "another", &say("hello")).await;
    let (status, page) = mesh.get("/v1/workflows?pageSize=1", &token).await;
    assert_eq!((status, &page["workflows"][0]["name"]), (StatusCode::OK, &json!("workflows/another")), "{page}");
    let next = format!("/v1/workflows?pageSize=1&pageToken={}", text(&page["nextPageToken"]));
    let (_, page) = mesh.get(&next, &token).await;
    assert_eq!(page["workflows"][0]["version"], 2, "{page}");
    assert_eq!(page["workflows"][0]["definition"], say("new"), "a definition comes back as it went in");
    assert_eq!(page["nextPageToken"], "", "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_listed_by_what_they_are() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("lists").await;
    publish(&mesh, &token, "good", &only(json!({ "Type": "Pass" }))).await;
    let bad = json!({ "StartAt": "F", "States": { "F": { "Type": "Fail", "Error": "Bad", "Cause": "told" } } });
    publish(&mesh, &token, "bad", &bad).await;
    let mut names = Vec::new();
    for (workflow, entity) in [("good", "one"), ("bad", "one"), ("good", "two"), ("good", "one"), ("good", "three")] {
        names.push(start(&mesh, &token, &json!({ "workflow": workflow, "entityId": entity })).await);
    }
    for name in &names {
        ended(&mesh, &token, name).await;
    }
    let listed = async |query: &str| {
        let (mut found, mut page) = (Vec::new(), String::new());
        loop {
            let (status, answer) = mesh.get(&format!("/v1/runs?pageSize=2&pageToken={page}{query}"), &token).await;
            assert_eq!(status, StatusCode::OK, "{query}: {answer}");
            let rows = answer["runs"].as_array().expect("a page has runs").iter().map(|run| text(&run["name"]));
            found.extend(
                rows.map(|name| names.iter().position(|known| *known == name).expect("a run that was started")),
            );
            page = text(&answer["nextPageToken"]);
            if page.is_empty() {
                return found;
            }
        }
    };
    assert_eq!(listed("").await, [4, 3, 2, 1, 0], "the newest first");
    assert_eq!(listed("&workflow=good").await, [4, 3, 2, 0]);
    assert_eq!(listed("&workflow=workflows/bad").await, [1]);
    assert_eq!(listed("&entityId=one").await, [3, 1, 0]);
    assert_eq!(listed("&state=FAILED").await, [1]);
    assert_eq!(listed("&state=SUCCEEDED&entityId=one&workflow=good").await, [3, 0]);
    assert_eq!(listed("&state=RUNNING").await, [0_usize; 0]);
    assert_eq!(listed("&workflow=nothing").await, [0_usize; 0]);
    for bad in ["pageToken=nonsense", "pageSize=-1", "state=ASLEEP", "nothing=1"] {
        let (status, answer) = mesh.get(&format!("/v1/runs?{bad}"), &token).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_refused_for_what_it_says() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let [Tenant { token, .. }, other] = [mesh.onboard("mine").await, mesh.onboard("theirs").await];
    publish(&mesh, &token, "hello", &only(json!({ "Type": "Pass" }))).await;
    let large = "x".repeat(256 * 1024);
    for (body, field) in [
        (json!({ "workflow": "hello", "input": large }), "input"),
        (json!({ "workflow": "hello", "entityId": "x".repeat(129) }), "entity_id"),
    ] {
        let (status, answer) = mesh.post("/v1/runs", &token, &body).await;
        assert_eq!((status, fields(&answer)), (StatusCode::BAD_REQUEST, vec![field]), "{answer}");
    }
    for (token, workflow) in [(&token, "gone"), (&token, "Not An Id"), (&other.token, "hello")] {
        let (status, answer) = mesh.post("/v1/runs", token, &json!({ "workflow": workflow })).await;
        assert_eq!((status, reason(&answer)), (StatusCode::NOT_FOUND, "WORKFLOW_NOT_FOUND"), "{answer}");
    }
    let name = start(&mesh, &token, &json!({ "workflow": "hello", "input": "x".repeat(256 * 1024 - 2) })).await;
    ended(&mesh, &token, &name).await;
    // Another tenant's run is not there, however it is asked for.
    for (method, path) in [
        (Method::GET, format!("/v1/{name}")),
        (Method::GET, format!("/v1/{name}/history")),
        (Method::POST, format!("/v1/{name}:cancel")),
        (Method::GET, "/v1/runs/run_00000000000000000000000000000000".to_owned()),
        (Method::GET, "/v1/runs/nonsense".to_owned()),
    ] {
        let request = mesh.request(method.clone(), &path).bearer_auth(&other.token);
        let request = if method == Method::POST { request.json(&json!({})) } else { request };
        let (status, answer) = answer(request).await;
        assert_eq!((status, reason(&answer)), (StatusCode::NOT_FOUND, "RUN_NOT_FOUND"), "{path}: {answer}");
    }
}

/// Adds a user with one role; its token.
async fn user(mesh: &Mesh, tenant: &Tenant, role: &str) -> String {
    let email = format!("{role}@{}.test", tenant.slug);
    let body = json!({ "email": email, "password": PASSWORD, "roles": [role] });
    let (status, answer) = mesh.post("/v1/users", &tenant.token, &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, session) = mesh.login(&tenant.slug, &email, PASSWORD).await;
    assert_eq!(status, StatusCode::OK, "{session}");
    text(&session["accessToken"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_may_do_what_its_starter_may() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let tenant = mesh.onboard("rights").await;
    let arguments = json!({ "events": [{ "id": "{% $states.context.Execution.Name %}", "meter": "runs_of" }] });
    let resource = "grpc:tenon.billing.v1.UsageService/IngestUsage";
    let ingests = only(json!({ "Type": "Task", "Resource": resource, "Arguments": arguments }));
    publish(&mesh, &tenant.token, "ingests", &ingests).await;
    let (member, viewer) = (user(&mesh, &tenant, "member").await, user(&mesh, &tenant, "viewer").await);
    let body = json!({ "workflow": "ingests" });
    let by_admin = start(&mesh, &tenant.token, &body).await;
    let by_member = start(&mesh, &member, &body).await;
    let (status, refusal) = mesh.post("/v1/runs", &viewer, &body).await;
    assert_eq!((status, reason(&refusal)), (StatusCode::FORBIDDEN, "PERMISSION_DENIED"), "{refusal}");
    let (by_admin, by_member) = (ended(&mesh, &tenant.token, &by_admin).await, ended(&mesh, &member, &by_member).await);
    assert_eq!(by_admin["state"], "SUCCEEDED", "{by_admin}");
    assert_eq!((&by_member["state"], &by_member["error"]), (&json!("FAILED"), &json!("PERMISSION_DENIED")));
    let mut owner = mesh.database.owner().await;
    let ingested = sqlx::query_scalar::<_, i64>("select count(*) from billing.usage_events where meter = 'runs_of'");
    assert_eq!(
        ingested.fetch_one(&mut owner).await.expect("the owner reads all"),
        1,
        "a run did what its starter may not"
    );
}
