//! An engine that stands still past its lease: another takes its partitions over, and what it writes late is refused.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::json;

use super::{
    Eyes, LEASE, load,
    load::Load,
    program::{count, ended},
};
use crate::harness::{Backends, Edge, Mesh, answer, eventually, text};

/// Starts after an engine was stopped.
const TRIES: usize = 12;
const OWNERS: &str = "select count(distinct owner) from workflow.partitions";
const PARTITIONS: &str = "select count(*) from workflow.partitions";

/// The most partitions that one engine has.
const LARGEST: &str = "select max(count) from (select count(*) from workflow.partitions where owner is not null group by owner) as shares";

/// Everything that engines write, as one text.
async fn written(eyes: &Eyes) -> String {
    let sql = "select md5(string_agg(line, '|' order by line)) from (
                   select r::text as line from workflow.runs r union all select h::text from workflow.history h
                   union all select o::text from mesh.outbox o where o.source = 'workflow') as lines";
    eyes.text(sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_engine_is_replaced_and_its_late_writes_are_refused() {
    let mut mesh = Mesh::start_separately_with(Backends::Embedded, &[LEASE]).await;
    mesh.add("workflow-2", "workflow").await;
    let mut load = Load::start(&mesh, "stopped", &load::OUTSIDE).await;
    load.eyes().reaches(OWNERS, 2).await;
    load.is_acknowledged().await;
    load.has_done(10).await;
    mesh.signal("workflow", Signal::STOP);
    let all = load.eyes().count(PARTITIONS).await;
    load.eyes().reaches(LARGEST, all).await;
    let ended = "select count(*) from workflow.runs where state <> 'RUNNING'";
    let runs = load.eyes().count("select count(*) from workflow.runs").await;
    load.eyes().reaches(ended, runs).await;
    let before = written(load.eyes()).await;
    mesh.signal("workflow", Signal::CONT);
    // It has its share again, so it has noticed.
    load.eyes().reaches(OWNERS, 2).await;
    assert_eq!(written(load.eyes()).await, before, "the stopped engine has written late");
    load.comes_out_whole(&mesh).await;
}

/// Starts runs without a key one after the other, until TRIES more when it was told that it is enough; how many, and the
/// names of those that were acknowledged.
async fn started(edge: Edge, token: String, enough: Arc<AtomicBool>) -> (usize, BTreeSet<String>) {
    let (mut tries, mut left, mut names) = (0, TRIES, BTreeSet::new());
    while left > 0 {
        let request = edge.request(Method::POST, "/v1/runs").bearer_auth(&token);
        let (status, run) =
            answer(request.json(&json!({ "workflow": "counts", "input": { "meter": "counted" } }))).await;
        if status == StatusCode::OK {
            names.insert(text(&run["name"]));
        }
        tries += 1;
        left -= usize::from(enough.load(Ordering::Relaxed));
    }
    (tries, names)
}

/// Stopped where it is about to write new runs with their first steps, and woken when others own its partitions.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_stopped_among_new_runs_writes_none_of_them_late() {
    for place in ["births.begin", "births.commit.before"] {
        let mut mesh = Mesh::start_separately_with(Backends::Embedded, &[LEASE]).await;
        mesh.lift_limits().await;
        let (tenant, eyes) = (mesh.onboard("newborn").await, Eyes::open(&mesh).await);
        let states = json!({ "Only": ended(count()) });
        let definition = json!({ "StartAt": "Only", "QueryLanguage": "JSONata", "States": states });
        let published = json!({ "workflowId": "counts", "definition": definition });
        let (status, workflow) = mesh.post("/v1/workflows", &tenant.token, &published).await;
        assert_eq!(status, StatusCode::OK, "{workflow}");
        mesh.kill_9("workflow");
        mesh.start_failing("workflow", &format!("{place}=pause:3"));
        mesh.add("workflow-2", "workflow").await;
        eyes.reaches(OWNERS, 2).await;
        // The edge chooses between the two: as many as it takes.
        let enough = Arc::new(AtomicBool::new(false));
        let starting = tokio::spawn(started(mesh.edge.clone(), tenant.token.clone(), enough.clone()));
        eventually("it stands among new runs", || {
            std::future::ready(mesh.log("workflow").contains("as it was told to").then_some(()))
        })
        .await;
        mesh.signal("workflow", Signal::STOP);
        enough.store(true, Ordering::Relaxed);
        let all = eyes.count(PARTITIONS).await;
        eyes.reaches(LARGEST, all).await;
        mesh.signal("workflow", Signal::CONT);
        let (tries, names) = starting.await.expect("starts are answered");
        eyes.reaches(OWNERS, 2).await;
        assert!(mesh.log("workflow").contains("were taken over by another engine"), "{place}: it was refused nothing");
        let runs = eyes.count("select count(*) from workflow.runs").await;
        eyes.reaches("select count(*) from workflow.runs where ended_at is not null", runs).await;
        let there =
            "select coalesce(string_agg('runs/run_' || replace(id::text, '-', ''), ' '), '') from workflow.runs";
        let there = eyes.text(there).await;
        let there: BTreeSet<String> = there.split_whitespace().map(str::to_owned).collect();
        assert!(
            there.is_superset(&names),
            "{place}: acknowledged starts are not there: {:?}",
            names.difference(&there)
        );
        assert!(there.len() <= tries && names.len() >= tries - 1, "{place}: {} of {}", there.len(), names.len());
        let counted = "select count(*) from billing.usage_events where meter = 'counted'";
        assert_eq!(eyes.count(counted).await, runs, "{place}: counts");
        let used = "select coalesce(sum(quantity), 0)::bigint from billing.usage_events where meter = 'workflow_runs'";
        eyes.reaches(used, runs).await;
        assert_eq!(eyes.count(used).await, runs, "{place}: use");
    }
}
