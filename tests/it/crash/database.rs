//! A database that goes away: calls are told so with 503, and nothing that was acknowledged is lost.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _};

use reqwest::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{LEASE, kill_in_turn, load, load::Load};
use crate::harness::{Backends, Dev, Edge, Mesh, Ports, answer, eventually, port_flags, text};

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_from_its_database_it_goes_on_with_each_effect_once() {
    let mut mesh = Mesh::start_with(Backends::Embedded, &[LEASE]).await;
    let load = Load::start(&mesh, "cut-off", &load::ALL).await;
    kill_in_turn(&mut mesh, &load, &["connections"; 4], 5).await;
    load.comes_out_whole(&mesh).await;
}

/// Starts a run: its name, or `None` when the database is not there just now.
async fn start(edge: &Edge, token: &str) -> Option<String> {
    let request = edge.request(Method::POST, "/v1/runs").bearer_auth(token);
    let (status, run) = answer(request.json(&json!({ "workflow": "hello" }))).await;
    match status {
        StatusCode::OK => Some(text(&run["name"])),
        StatusCode::SERVICE_UNAVAILABLE => {
            assert_eq!(run["code"], 14, "{run}");
            None
        }
        _ => panic!("{status}: {run}"),
    }
}

/// `kill -9` of the server that a `tenon dev` has started.
fn kill_postgres(folder: &std::path::Path) {
    let file = fs::read_to_string(folder.join("postgres/postmaster.pid")).expect("Postgres says who it is");
    let pid = file.lines().next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw);
    kill_process(pid.expect("the first line is its process"), Signal::KILL).expect("it runs");
}

/// The runs, once the database can tell.
async fn runs(edge: &Edge, token: &str) -> Option<Vec<Value>> {
    let (status, page) = edge.get("/v1/runs?pageSize=1000", token).await;
    assert!(status == StatusCode::OK || status == StatusCode::SERVICE_UNAVAILABLE, "{page}");
    page["runs"].as_array().cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn when_postgres_is_killed_calls_are_told_so_and_what_was_acknowledged_is_kept() {
    let (folder, ports) = (tempfile::tempdir().expect("the temporary folder can be written"), Ports::take());
    // The account that Postgres runs as must come in.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let flags = port_flags(&ports);
    let dev = Dev::on(folder.path(), &flags).await;
    let tenant = dev.edge.onboard("killed").await;
    let task = json!({ "Type": "Task", "Resource": "grpc:tenon.billing.v1.UsageService/GetUsage", "End": true });
    let definition = json!({ "StartAt": "A", "States": { "A": task } });
    let body = json!({ "workflowId": "hello", "definition": definition });
    let (status, workflow) = dev.edge.post("/v1/workflows", &tenant.token, &body).await;
    assert_eq!(status, StatusCode::OK, "{workflow}");
    let mut acknowledged = BTreeSet::new();
    for _ in 0..20 {
        // While connections are still being made a call may be told to come back.
        acknowledged.insert(eventually("a run is acknowledged", || start(&dev.edge, &tenant.token)).await);
    }
    kill_postgres(folder.path());
    eventually("a start is refused", || async { start(&dev.edge, &tenant.token).await.is_none().then_some(()) }).await;
    dev.process.kill_9();
    let dev = Dev::on(folder.path(), &flags).await;
    let kept = eventually("every run ends", || async {
        let runs = runs(&dev.edge, &tenant.token).await?;
        runs.iter().all(|run| run["state"] == "SUCCEEDED").then_some(runs)
    });
    let kept: BTreeSet<String> = kept.await.iter().map(|run| text(&run["name"])).collect();
    assert!(kept.is_superset(&acknowledged), "acknowledged runs are lost: {:?}", acknowledged.difference(&kept));
    eventually("every run is counted", || async {
        let (_, usage) = dev.edge.get("/v1/usage", &tenant.token).await;
        let counted = usage["meters"][0]["quantity"].as_str()?.parse::<usize>().ok()?;
        assert!(counted <= kept.len(), "{counted} runs are counted of {}", kept.len());
        (counted == kept.len()).then_some(())
    })
    .await;
}
